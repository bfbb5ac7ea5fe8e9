//! GROUP BY without windows over append-only input: the changed keys leave at the end of each epoch.
//!
//! A key that changed leaves as what it said before with weight -1 and what it says now with weight +1; a key whose result is the
//! same says nothing. What leaves does not depend on the order of the epoch's rows.
//! State: the partial results of every key, as segments: one for each epoch, holding the keys that changed in it. The newest
//! place of a key counts. Segments of like size are merged, so there are about as many as the state has doublings.

use super::aggregate::{Feed, output_columns, push_sliced};
use super::block::{Block, Drained};
use super::transform::with_weight;
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::Result;
use crate::expr::{Accumulators, Groups};
use crate::plan::Aggregation;
use crate::time::{Epoch, Watermark};
use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array};
use arrow::compute::{concat, interleave, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use std::sync::Arc;

/// The operator.
pub struct UpdatingAggregate {
    spec: Arc<Aggregation>,
    feed: Feed,
    /// The result's columns and the weight.
    schema: SchemaRef,
    /// What the open epoch changes.
    changes: Block,
    keys: Groups,
    /// Where the state of each key is.
    places: Vec<Place>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u32,
    row: u32,
}

/// States of some keys. A row is live if its key's place is here.
struct Segment {
    keys: Vec<u32>,
    states: Vec<ArrayRef>,
}

impl UpdatingAggregate {
    /// The operator of `spec`, whose results have the columns of `schema`, and then the weight.
    pub fn new(spec: Arc<Aggregation>, feed: Feed, schema: &SchemaRef) -> Result<Self> {
        Ok(UpdatingAggregate {
            feed,
            schema: with_weight(schema),
            changes: Block::new(&spec)?,
            keys: Groups::new(spec.key_schema())?,
            places: Vec::new(),
            segments: Vec::new(),
            spec,
        })
    }

    /// The stored states at `places`.
    fn states_at(&self, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let indices: Vec<(usize, usize)> =
            places.iter().map(|place| (place.segment as usize, place.row as usize)).collect();
        let columns = self.segments.first().map_or(0, |segment| segment.states.len());
        let column = |column: usize| {
            let arrays: Vec<&dyn Array> = self.segments.iter().map(|segment| segment.states[column].as_ref()).collect();
            interleave(&arrays, &indices).map_err(from_arrow)
        };
        (0..columns).map(column).collect()
    }

    fn results_of(&self, states: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let mut accumulators = Accumulators::new(&self.spec.calls)?;
        accumulators.merge(states, &(0..rows).collect::<Vec<_>>(), rows)?;
        accumulators.results()
    }

    /// Puts the newest states on the stack of segments and merges neighbours of like size.
    fn store(&mut self, numbers: &[usize], states: Vec<ArrayRef>) -> Result<()> {
        self.places.resize(self.keys.len(), Place { segment: u32::MAX, row: 0 });
        self.push_segment(Segment { keys: numbers.iter().map(|&key| key as u32).collect(), states });
        while let [.., older, newer] = self.segments.as_slice() {
            if older.keys.len() > 2 * newer.keys.len() {
                break;
            }
            let top = self.segments.len() as u32 - 1;
            let live = |&(segment, row, key): &(u32, usize, u32)| {
                self.places[key as usize] == Place { segment, row: row as u32 }
            };
            let rows = |segment: u32, keys: &[u32]| {
                let rows = keys.iter().enumerate().map(move |(row, &key)| (segment, row, key));
                rows.filter(live)
                    .map(|(segment, row, key)| (Place { segment, row: row as u32 }, key))
                    .collect::<Vec<_>>()
            };
            let (places, keys): (Vec<Place>, Vec<u32>) =
                rows(top - 1, &older.keys).into_iter().chain(rows(top, &newer.keys)).unzip();
            let states = self.states_at(&places)?;
            self.segments.truncate(top as usize - 1);
            self.push_segment(Segment { keys, states });
        }
        Ok(())
    }

    fn push_segment(&mut self, segment: Segment) {
        let number = self.segments.len() as u32;
        for (row, &key) in segment.keys.iter().enumerate() {
            self.places[key as usize] = Place { segment: number, row: row as u32 };
        }
        self.segments.push(segment);
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
            (0..rows as u32).partition(|&row| numbers[row as usize] < self.places.len());
        let known = order.len();
        order.extend(new);
        let mut groups = vec![0; rows];
        order.iter().enumerate().for_each(|(group, &row)| groups[row as usize] = group);
        let numbers: Vec<usize> = order.iter().map(|&row| numbers[row as usize]).collect();
        let places: Vec<Place> = numbers[..known].iter().map(|&number| self.places[number]).collect();
        let before = self.states_at(&places)?;

        let mut accumulators = Accumulators::new(&self.spec.calls)?;
        if known > 0 {
            accumulators.merge(&before, &(0..known).collect::<Vec<_>>(), known)?;
        }
        accumulators.merge(&fresh, &groups, rows)?;
        let after = accumulators.states()?;
        let results = self.results_of(&after, rows)?;
        let old_results = if known == 0 { Vec::new() } else { self.results_of(&before, known)? };
        self.store(&numbers, after)?;

        let changes = Changes::between(&old_results, known, &results, rows)?;
        let shown = changes.groups.len();
        let pick = |column: &ArrayRef, rows: Vec<u32>| take(column, &UInt32Array::from(rows), None).map_err(from_arrow);
        let changed: Vec<u32> = changes.groups.iter().map(|&group| order[group as usize]).collect();
        let keys = keys.iter().map(|key| pick(key, changed.clone())).collect::<Result<Vec<_>>>()?;
        let values = results.iter().enumerate().map(|(n, now)| match old_results.get(n) {
            Some(then) => pick(&concat(&[then.as_ref(), now.as_ref()]).map_err(from_arrow)?, changes.versions.clone()),
            None => pick(now, changes.groups.clone()),
        });
        let drained = Drained { rows: shown, keys, values: values.collect::<Result<_>>()? };
        let mut columns = output_columns(&self.spec, None, drained);
        columns.push(Arc::new(Int64Array::from(changes.weights)));
        push_sliced(batch_of(Arc::clone(&self.schema), columns, shown)?, out);
        Ok(())
    }
}

/// What leaves: for each row the key's group, the result's row among the old and then the new ones, the weight.
struct Changes {
    groups: Vec<u32>,
    versions: Vec<u32>,
    weights: Vec<i64>,
}

impl Changes {
    /// The first `known` of `groups` had the `old` results before.
    fn between(old: &[ArrayRef], known: usize, new: &[ArrayRef], groups: usize) -> Result<Changes> {
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
        for group in 0..groups {
            if group < known {
                if encoded.as_ref().is_none_or(|(old, new)| old.row(group) == new.row(group)) {
                    continue;
                }
                push(group, group, -1);
            }
            push(group, known + group, 1);
        }
        Ok(changes)
    }
}
