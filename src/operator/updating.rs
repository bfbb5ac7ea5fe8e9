//! GROUP BY without windows: the changed keys leave at the end of each epoch.
//!
//! A key that changed leaves as what it said before with weight -1 and what it says now with weight +1; a key whose result is the
//! same says nothing. Where rows may be taken back the aggregates are sums of what weights make of them, one of them counts the rows of a
//! key, and a key without rows has no result. What leaves does not depend on the order of the epoch's rows.
//! State: the partial results of every key, in [`Segments`]: each epoch puts those of the keys that changed in it. A delta is the newest
//! partial results of each key that changed since the one before; a key's last ones count.

use super::aggregate::{Bounds, Feed, output_columns, push_sliced};
use super::block::{Block, Drained};
use super::segments::Segments;
use super::transform::with_weight;
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::Result;
use crate::expr::{Accumulators, Groups};
use crate::plan::{Aggregation, OutputColumn};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::{concat, concat_batches, take};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use std::sync::Arc;

/// What the table of a delta is called.
const TABLE: &str = "results";

/// The operator.
pub struct UpdatingAggregate {
    spec: Arc<Aggregation>,
    feed: Feed,
    /// The result's columns and the weight.
    schema: SchemaRef,
    /// What the open epoch changes.
    changes: Block,
    keys: Groups,
    /// By a key's number.
    states: Segments,
    /// The keys that changed since the last delta, in the order in which `states` notes their numbers; None if there are no deltas.
    changed: Option<Vec<Batch>>,
}

impl UpdatingAggregate {
    /// The operator of `spec`, whose results have the columns of `schema`, and then the weight.
    pub fn new(spec: Arc<Aggregation>, feed: Feed, schema: &SchemaRef) -> Result<Self> {
        Ok(UpdatingAggregate {
            feed,
            schema: with_weight(schema),
            changes: Block::new(&spec)?,
            keys: Groups::new(spec.key_schema())?,
            states: Segments::default(),
            changed: None,
            spec,
        })
    }

    /// Keeps those of `keys`, whose numbers get new states, that have not changed before since the last delta; `order` has a row for each.
    fn note_keys(&mut self, keys: &[ArrayRef], order: &[u32], numbers: &[usize]) -> Result<()> {
        let Some(changed) = &mut self.changed else { return Ok(()) };
        let fresh = order.iter().zip(numbers).filter(|(_, number)| !self.states.noted(**number as u32));
        let rows: UInt32Array = fresh.map(|(row, _)| *row).collect();
        if !rows.is_empty() {
            let keys = keys.iter().map(|key| take(key, &rows, None).map_err(from_arrow)).collect::<Result<_>>()?;
            changed.push(batch_of(Arc::clone(self.keys.schema()), keys, rows.len())?);
        }
        Ok(())
    }

    /// The table of some keys and the states of their `numbers`.
    fn table(&self, keys: &[ArrayRef], numbers: impl ExactSizeIterator<Item = usize>) -> Result<Delta> {
        let rows = numbers.len();
        if rows == 0 {
            return Ok(Delta::default());
        }
        let columns = keys.iter().cloned().chain(self.states.get(numbers)?).collect();
        let schema = self.spec.partial_schema()?;
        let states = batch_of(Arc::clone(&schema), columns, rows)?;
        Ok(Table::of_batches(TABLE, &schema, &[states], self.spec.partial_keys())?.into_iter().collect())
    }

    fn results_of(&self, states: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let mut accumulators = Accumulators::new(&self.spec.calls)?;
        accumulators.merge(states, &(0..rows).collect::<Vec<_>>(), rows)?;
        accumulators.results()
    }
}

impl Operator for UpdatingAggregate {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        match self.feed {
            Feed::Rows => self.changes.update(&batch),
            Feed::Partials => {
                let (keys, states) = batch.columns().split_at(self.spec.keys.len());
                self.changes.merge(keys, states, batch.num_rows())
            }
        }
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let Drained { rows, keys, values: fresh } = self.changes.drain_states()?;
        let mut numbers = Vec::new();
        self.keys.intern(&keys, rows, &mut numbers)?;
        // Keys that have results come first: accumulators take it that a group that is new in a call has a row in it.
        let (mut order, new): (Vec<u32>, Vec<u32>) =
            (0..rows as u32).partition(|&row| numbers[row as usize] < self.states.numbers());
        let known = order.len();
        order.extend(new);
        let mut groups = vec![0; rows];
        order.iter().enumerate().for_each(|(group, &row)| groups[row as usize] = group);
        let numbers: Vec<usize> = order.iter().map(|&row| numbers[row as usize]).collect();
        let before = self.states.get(numbers[..known].iter().copied())?;

        let mut accumulators = Accumulators::new(&self.spec.calls)?;
        if known > 0 {
            accumulators.merge(&before, &(0..known).collect::<Vec<_>>(), known)?;
        }
        accumulators.merge(&fresh, &groups, rows)?;
        let after = accumulators.states()?;
        let results = self.results_of(&after, rows)?;
        let old_results = if known == 0 { Vec::new() } else { self.results_of(&before, known)? };
        self.note_keys(&keys, &order, &numbers)?;
        self.states.put(numbers.iter().map(|&number| number as u32).collect(), after)?;

        let there = |results: &[ArrayRef], groups: usize| match self.spec.present {
            Some(call) if groups > 0 => results[call].as_primitive::<Int64Type>().iter().map(|n| n > Some(0)).collect(),
            _ => vec![true; groups],
        };
        let (was, is) = (there(&old_results, known), there(&results, rows));
        // what nobody is shown makes no difference
        let shown = |results: &[ArrayRef]| {
            let calls = results.iter().enumerate();
            let calls = calls.filter(|(call, _)| self.spec.output.contains(&OutputColumn::Call(*call)));
            calls.map(|(_, result)| Arc::clone(result)).collect::<Vec<_>>()
        };
        let changes = Changes::between((&shown(&old_results), &was), (&shown(&results), &is))?;
        let shown = changes.groups.len();
        let pick = |column: &ArrayRef, rows: Vec<u32>| take(column, &UInt32Array::from(rows), None).map_err(from_arrow);
        let changed: Vec<u32> = changes.groups.iter().map(|&group| order[group as usize]).collect();
        let keys = keys.iter().map(|key| pick(key, changed.clone())).collect::<Result<Vec<_>>>()?;
        let values = results.iter().enumerate().map(|(n, now)| match old_results.get(n) {
            Some(then) => pick(&concat(&[then.as_ref(), now.as_ref()]).map_err(from_arrow)?, changes.versions.clone()),
            None => pick(now, changes.groups.clone()),
        });
        let drained = Drained { rows: shown, keys, values: values.collect::<Result<_>>()? };
        let mut columns = output_columns(&self.spec, Bounds::None, drained);
        columns.push(Arc::new(Int64Array::from(changes.weights)));
        push_sliced(batch_of(Arc::clone(&self.schema), columns, shown)?, out);
        Ok(())
    }

    fn track(&mut self) {
        self.states.track();
        self.changed.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let keys = self.changed.as_mut().map(std::mem::take).unwrap_or_default();
        let numbers = self.states.take_changes();
        let keys = concat_batches(self.keys.schema(), &keys).map_err(from_arrow)?;
        self.table(keys.columns(), numbers.into_iter().map(|number| number as usize))
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        let schema = self.spec.partial_schema()?;
        for table in saved {
            let rows = table.into_rows(TABLE, &schema)?;
            let (keys, states) = rows.columns().split_at(self.spec.keys.len());
            let mut numbers = Vec::new();
            self.keys.intern(keys, rows.num_rows(), &mut numbers)?;
            self.states.restore(numbers.into_iter().map(|number| number as u32).collect(), states.to_vec())?;
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let rows = self.keys.len();
        let keys = self.keys.drain()?;
        self.table(&keys, 0..rows)
    }
}

/// What leaves: for each row the key's group, the result's row among the old and then the new ones, the weight.
struct Changes {
    groups: Vec<u32>,
    versions: Vec<u32>,
    weights: Vec<i64>,
}

impl Changes {
    /// Between the results of groups and whether they count, before and now; those that had some before come first.
    fn between((old, was): (&[ArrayRef], &[bool]), (new, is): (&[ArrayRef], &[bool])) -> Result<Changes> {
        let known = was.len();
        let fields = new.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(from_arrow)?;
        let comparable = known > 0 && !new.is_empty();
        let encode = |columns: &[ArrayRef]| converter.convert_columns(columns).map_err(from_arrow);
        let encoded = if comparable { Some((encode(old)?, encode(new)?)) } else { None };
        let mut changes = Changes { groups: Vec::new(), versions: Vec::new(), weights: Vec::new() };
        let mut push = |group: usize, version: usize, weight: i64| {
            changes.groups.push(group as u32);
            changes.versions.push(version as u32);
            changes.weights.push(weight);
        };
        for (group, now) in is.iter().enumerate() {
            let before = was.get(group).copied().unwrap_or(false);
            let same = || encoded.as_ref().is_none_or(|(old, new)| old.row(group) == new.row(group));
            if before && *now && same() {
                continue;
            }
            if before {
                push(group, group, -1);
            }
            if *now {
                push(group, known + group, 1);
            }
        }
        Ok(changes)
    }
}
