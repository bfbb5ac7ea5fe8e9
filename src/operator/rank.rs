//! The first rows of each key in each window, numbered.
//!
//! A window's rows leave in the epoch whose watermark reaches its end; a row is late when its window closed in an *earlier* epoch. Rows
//! that ORDER BY does not tell apart are told apart by all their columns, so what leaves does not depend on the order in which rows
//! came. State: of each open window the first rows of each key, and as many again, or a batch, that are not yet compared with them. A
//! delta is, of each open window, the first of the rows that came since the one before; until it is given they are kept a second time.

use super::aggregate::push_sliced;
use super::panes::{Span, cut_by_span, event_times};
use super::pile::Pile;
use super::{Operator, Output};
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow, take_rows};
use crate::error::Result;
use crate::expr::Groups;
use crate::plan::{Ranking, compared};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the table of a delta is called.
const TABLE: &str = "rows";

/// The operator.
pub struct Rank {
    spec: Arc<Ranking>,
    /// The columns of the input.
    input: SchemaRef,
    /// The same and the row's number.
    schema: SchemaRef,
    keys: SchemaRef,
    /// The columns of `converter`: those of ORDER BY, then the others.
    compared: Vec<usize>,
    converter: RowConverter,
    open: BTreeMap<Span, Window>,
    /// The watermark of the last complete epoch: what ends at or before it has closed.
    mark: Watermark,
    late_rows: u64,
    tracked: bool,
}

/// An open window.
#[derive(Default)]
struct Window {
    all: Candidates,
    /// Of the rows since the last delta, if there are deltas.
    fresh: Candidates,
}

/// The rows of a window that may be among the first.
#[derive(Default)]
struct Candidates {
    pile: Pile,
    /// As many were left when rows were last dropped.
    kept: usize,
}

impl Rank {
    /// The operator of `spec` over rows of `input`; its rows have the columns of `schema`.
    pub fn new(spec: Arc<Ranking>, input: SchemaRef, schema: SchemaRef) -> Result<Self> {
        let of_the_group: Vec<usize> = [spec.start, spec.end].into_iter().chain(spec.keys.iter().copied()).collect();
        let (compared, fields) = compared(&spec.order, input.fields().len(), &of_the_group)
            .into_iter()
            .map(|(column, options)| {
                (column, SortField::new_with_options(input.field(column).data_type().clone(), options))
            })
            .unzip::<_, _, Vec<usize>, Vec<SortField>>();
        Ok(Rank {
            keys: Arc::new(input.project(&spec.keys).map_err(from_arrow)?),
            converter: RowConverter::new(fields).map_err(from_arrow)?,
            compared,
            spec,
            input,
            schema,
            open: BTreeMap::new(),
            mark: Watermark::NONE,
            late_rows: 0,
            tracked: false,
        })
    }

    /// Adds `rows`, and drops those that cannot be among the first any more once there are many.
    fn add(&self, candidates: &mut Candidates, rows: Batch) -> Result<()> {
        candidates.pile.push(rows)?;
        if candidates.pile.rows() >= candidates.kept + candidates.kept.max(BATCH_ROWS) {
            self.prune(candidates)?;
        }
        Ok(())
    }

    fn prune(&self, candidates: &mut Candidates) -> Result<()> {
        if self.spec.limit.is_some() && candidates.pile.rows() > candidates.kept {
            let (first, _) = self.first(std::mem::take(candidates))?;
            candidates.kept = first.num_rows();
            candidates.pile.push(first)?;
        }
        Ok(())
    }

    /// A delta of rows.
    fn delta_of(&self, batches: &[Batch]) -> Result<Delta> {
        Ok(Table::of_batches(TABLE, &self.input, batches, self.spec.route())?.into_iter().collect())
    }

    /// The first rows of each key, and the number of each.
    fn first(&self, candidates: Candidates) -> Result<(Batch, Vec<u64>)> {
        let rows = concat_batches(&self.input, &candidates.pile.into_batches()?).map_err(from_arrow)?;
        let columns = |places: &[usize]| places.iter().map(|&n| Arc::clone(rows.column(n))).collect::<Vec<ArrayRef>>();
        let mut groups = Vec::new();
        Groups::new(Arc::clone(&self.keys))?.intern(&columns(&self.spec.keys), rows.num_rows(), &mut groups)?;
        let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).collect();
        if self.compared.is_empty() {
            sorted.sort_by_key(|&row| groups[row as usize]);
        } else {
            let compared = self.converter.convert_columns(&columns(&self.compared)).map_err(from_arrow)?;
            sorted.sort_unstable_by(|&a, &b| {
                let (a, b) = (a as usize, b as usize);
                groups[a].cmp(&groups[b]).then_with(|| compared.row(a).cmp(&compared.row(b)))
            });
        }
        let limit = self.spec.limit.map_or(u64::MAX, |limit| limit as u64);
        let mut numbers = Vec::new();
        let (mut group, mut number) = (usize::MAX, 0);
        sorted.retain(|&row| {
            let own = groups[row as usize];
            number = if own == group { number + 1 } else { 1 };
            group = own;
            let kept = number <= limit;
            if kept {
                numbers.push(number);
            }
            kept
        });
        Ok((take_rows(&rows, sorted)?, numbers))
    }
}

impl Operator for Rank {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        let starts = event_times(batch.column(self.spec.start))?;
        let ends = event_times(batch.column(self.spec.end))?;
        for (span, rows) in cut_by_span(&batch, &starts, &ends)? {
            if span.end <= self.mark.micros() {
                self.late_rows += rows.num_rows() as u64;
                continue;
            }
            let mut window = self.open.remove(&span).unwrap_or_default();
            if self.tracked {
                self.add(&mut window.fresh, rows.clone())?;
            }
            self.add(&mut window.all, rows)?;
            self.open.insert(span, window);
        }
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        self.mark = mark;
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.key().end <= mark.micros()) {
            let window = entry.remove();
            let (rows, numbers) = self.first(window.all)?;
            let count = rows.num_rows();
            let numbers: ArrayRef = Arc::new(UInt64Array::from(numbers));
            let columns = rows.columns().iter().cloned().chain([numbers]).collect();
            push_sliced(batch_of(Arc::clone(&self.schema), columns, count)?, out);
        }
        Ok(())
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn track(&mut self) {
        self.tracked = true;
    }

    fn delta(&mut self) -> Result<Delta> {
        if !self.tracked {
            return Ok(Delta::default());
        }
        let mut batches = Vec::new();
        for mut fresh in self.open.values_mut().map(|window| std::mem::take(&mut window.fresh)).collect::<Vec<_>>() {
            self.prune(&mut fresh)?;
            batches.extend(fresh.pile.into_batches()?);
        }
        self.delta_of(&batches)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            let rows = table.into_rows(TABLE, &self.input)?;
            let (starts, ends) = (event_times(rows.column(self.spec.start))?, event_times(rows.column(self.spec.end))?);
            for (span, rows) in cut_by_span(&rows, &starts, &ends)? {
                let mut window = self.open.remove(&span).unwrap_or_default();
                self.add(&mut window.all, rows)?;
                self.open.insert(span, window);
            }
        }
        Ok(())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        self.mark = mark;
        self.open.retain(|span, _| span.end > mark.micros());
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let mut batches = Vec::new();
        for mut window in std::mem::take(&mut self.open).into_values() {
            self.prune(&mut window.all)?;
            batches.extend(window.all.pile.into_batches()?);
        }
        self.delta_of(&batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{SortColumn, event_time_type};
    use arrow::array::{AsArray, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn rows(keys: Vec<i64>, values: Vec<i64>) -> Batch {
        let bound = |micros| Arc::new(TimestampMicrosecondArray::from_value(micros, keys.len())) as ArrayRef;
        let (start, end) = (bound(0), bound(10));
        let columns =
            vec![start, end, Arc::new(Int64Array::from(keys)) as ArrayRef, Arc::new(Int64Array::from(values))];
        Batch::try_new(schema(&[]), columns).unwrap()
    }

    fn schema(more: &[Field]) -> SchemaRef {
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let bound = |name: &str| Field::new(name, event_time_type(), false);
        let own = [bound("window_start"), bound("window_end"), number("key"), number("value")];
        Arc::new(Schema::new(own.iter().chain(more).cloned().collect::<Vec<_>>()))
    }

    #[test]
    fn an_open_window_keeps_the_first_rows_of_each_key_and_little_more() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let order = vec![SortColumn { column: 3, descending: true, nulls_first: false }];
        let spec = Ranking { start: 0, end: 1, keys: vec![2], order, limit: Some(3) };
        let output = schema(&[Field::new("number", DataType::UInt64, false)]);
        let mut rank = Rank::new(Arc::new(spec), schema(&[]), output).unwrap();
        let mut all: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut out = Output::default();
        for _ in 0..60 {
            let (keys, values): (Vec<i64>, Vec<i64>) =
                (0..1000).map(|_| (random.random_range(0..500), random.random_range(0..100_000))).unzip();
            keys.iter().zip(&values).for_each(|(key, value)| all.entry(*key).or_default().push(*value));
            rank.on_batch(rows(keys, values), &mut out).unwrap();
            let held: usize = rank.open.values().map(|window| window.all.pile.rows()).sum();
            assert!(held <= 1500 + BATCH_ROWS, "{held} rows are held for 500 keys");
        }
        rank.on_epoch(0, Watermark::at(9), &mut out).unwrap();
        assert_eq!(out.drain().count(), 0, "the window is open");
        rank.on_epoch(1, Watermark::at(10), &mut out).unwrap();
        let mut found = Vec::new();
        for batch in out.drain() {
            let (keys, values) =
                (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<Int64Type>());
            let numbers = batch.column(4).as_primitive::<UInt64Type>();
            found.extend((0..batch.num_rows()).map(|row| (keys.value(row), numbers.value(row), values.value(row))));
        }
        found.sort_unstable();
        let expected: Vec<(i64, u64, i64)> = all
            .into_iter()
            .flat_map(|(key, mut values)| {
                values.sort_unstable_by(|a, b| b.cmp(a));
                (1..=3).zip(values).map(move |(number, value)| (key, number, value))
            })
            .collect();
        assert_eq!(found, expected);
        rank.on_batch(rows(vec![1, 2], vec![1, 2]), &mut out).unwrap();
        assert_eq!(rank.take_late_rows(), 2);
    }
}
