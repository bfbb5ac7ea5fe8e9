//! The first rows of each key among all that have come, where none is taken back: what once is not among them never is.
//!
//! At the end of an epoch leaves what has changed of the first rows: those that others have pushed out with weight -1, new ones with
//! weight +1; of numbered rows those whose number is another, too. Rows that ORDER BY does not tell apart are told apart by all their
//! columns, so that the answer is a function of the set of rows. State: the first rows of each key, with those that are left out in
//! front of them. A delta is the rows that have become one of them since the one before: the first of all deltas' rows are the state.

use super::aggregate::push_sliced;
use super::transform::with_weight;
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::Result;
use crate::expr::Groups;
use crate::plan::{Topping, compared};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::array::{ArrayRef, Int64Array, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use std::cmp::Ordering;
use std::sync::Arc;

/// What the table of a delta is called.
const TABLE: &str = "rows";

/// The operator.
pub struct Top {
    spec: Arc<Topping>,
    coder: Coder,
    /// The result's columns and the weight.
    schema: SchemaRef,
    keys: Groups,
    /// By a key's number.
    held: Vec<Held>,
    /// The keys that the open epoch may have changed.
    touched: Vec<usize>,
    /// The keys with rows that are in no delta yet; None if there are no deltas.
    learnt: Option<Vec<usize>>,
}

/// A row as bytes that compare as the order says.
type Bytes = Arc<[u8]>;

/// The first rows of a key.
#[derive(Default)]
struct Held {
    /// In their order.
    first: Vec<Kept>,
    open: Option<Box<Open>>,
    /// True if some of them are in no delta.
    learnt: bool,
}

#[derive(Clone)]
struct Kept {
    row: Bytes,
    /// True if it is in no delta.
    fresh: bool,
}

/// What an epoch does to the first rows of a key.
struct Open {
    before: Vec<Kept>,
    /// What is not yet compared with all of them.
    coming: Vec<Kept>,
}

impl Top {
    /// The operator of `spec` over rows of `input`; its rows have the columns of `schema`, and then the weight.
    pub fn new(spec: Arc<Topping>, input: SchemaRef, schema: &SchemaRef) -> Result<Self> {
        Ok(Top {
            keys: Groups::new(Arc::new(input.project(&spec.keys).map_err(from_arrow)?))?,
            coder: Coder::new(&spec, input)?,
            schema: with_weight(schema),
            spec,
            held: Vec::new(),
            touched: Vec::new(),
            learnt: None,
        })
    }

    /// Takes `rows` in; `fresh` says that they are in no delta.
    fn add(&mut self, rows: &Batch, fresh: bool) -> Result<()> {
        let keys: Vec<ArrayRef> = self.spec.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
        let mut numbers = Vec::new();
        self.keys.intern(&keys, rows.num_rows(), &mut numbers)?;
        self.held.resize_with(self.keys.len(), Held::default);
        let encoded = self.coder.encode(rows)?;
        for (row, number) in encoded.iter().zip(numbers) {
            if self.held[number].take(row.as_ref(), self.spec.kept(), fresh) {
                self.touched.push(number);
            }
        }
        Ok(())
    }

    /// What the epoch has changed: rows, their numbers, their weights.
    fn changes(&mut self) -> (Vec<Bytes>, Vec<u64>, Vec<i64>) {
        let mut changes = (Vec::new(), Vec::new(), Vec::new());
        let (skip, numbered) = (self.spec.skip, self.spec.numbered);
        for number in std::mem::take(&mut self.touched) {
            let held = &mut self.held[number];
            let before = held.close(self.spec.kept());
            let mut push = |row: &Kept, place: usize, weight: i64| {
                changes.0.push(Bytes::clone(&row.row));
                changes.1.push(place as u64 + 1);
                changes.2.push(weight);
            };
            let (was, is) = (before.get(skip..).unwrap_or_default(), held.first.get(skip..).unwrap_or_default());
            let (mut then, mut now) = (0, 0);
            while then < was.len() || now < is.len() {
                let order = match (was.get(then), is.get(now)) {
                    (Some(old), Some(new)) if numbered && old.row != new.row => {
                        push(old, skip + then, -1);
                        push(new, skip + now, 1);
                        Ordering::Equal
                    }
                    (Some(old), Some(new)) => old.row.cmp(&new.row),
                    (Some(_), None) => Ordering::Less,
                    (None, _) => Ordering::Greater,
                };
                match order {
                    Ordering::Less => push(&was[then], skip + then, -1),
                    Ordering::Greater => push(&is[now], skip + now, 1),
                    Ordering::Equal => {}
                }
                then += usize::from(order != Ordering::Greater);
                now += usize::from(order != Ordering::Less);
            }
            if let Some(learnt) = self.learnt.as_mut().filter(|_| !held.learnt) {
                held.learnt = true;
                learnt.push(number);
            }
        }
        changes
    }

    fn delta_of(&self, rows: &[Bytes]) -> Result<Delta> {
        let columns = self.coder.decode(rows)?;
        let rows = batch_of(Arc::clone(&self.coder.input), columns, rows.len())?;
        Ok(Table::of_batches(TABLE, &self.coder.input, &[rows], self.spec.keys.clone())?.into_iter().collect())
    }
}

impl Held {
    /// Takes a row in unless `kept` others come before it; true if it is the first one to be taken in the epoch.
    fn take(&mut self, row: &[u8], kept: usize, fresh: bool) -> bool {
        let behind = |last: &Kept| row >= last.row.as_ref();
        if self.first.len() >= kept && self.first.last().is_none_or(behind) {
            return false;
        }
        let begins = self.open.is_none();
        let open = || Box::new(Open { before: self.first.clone(), coming: Vec::new() });
        let open = self.open.get_or_insert_with(open);
        open.coming.push(Kept { row: row.into(), fresh });
        if open.coming.len() >= kept {
            Held::merge(&mut self.first, &mut open.coming, kept);
        }
        begins
    }

    fn merge(first: &mut Vec<Kept>, coming: &mut Vec<Kept>, kept: usize) {
        first.append(coming);
        // rows that are in a delta stay in front of those that are alike and in none
        first.sort_by(|a, b| a.row.cmp(&b.row));
        first.truncate(kept);
    }

    /// Ends the epoch: what they were when it began.
    fn close(&mut self, kept: usize) -> Vec<Kept> {
        let Some(mut open) = self.open.take() else { return Vec::new() };
        Held::merge(&mut self.first, &mut open.coming, kept);
        open.before
    }
}

/// Encodes rows: the columns of the order first, those of the key last.
struct Coder {
    input: SchemaRef,
    /// The columns in the order in which they are encoded.
    columns: Vec<usize>,
    converter: RowConverter,
    parser: RowParser,
}

impl Coder {
    fn new(spec: &Topping, input: SchemaRef) -> Result<Self> {
        let mut columns = compared(&spec.order, input.fields().len(), &spec.keys);
        columns.extend(spec.keys.iter().map(|key| (*key, SortOptions::default())));
        let field = |(column, options): &(usize, SortOptions)| {
            SortField::new_with_options(input.field(*column).data_type().clone(), *options)
        };
        let converter = RowConverter::new(columns.iter().map(field).collect()).map_err(from_arrow)?;
        let columns = columns.into_iter().map(|(column, _)| column).collect();
        Ok(Coder { input, columns, parser: converter.parser(), converter })
    }

    fn encode(&self, rows: &Batch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        self.converter.convert_columns(&columns).map_err(from_arrow)
    }

    /// The columns of the input.
    fn decode(&self, rows: &[Bytes]) -> Result<Vec<ArrayRef>> {
        let rows = rows.iter().map(|row| self.parser.parse(row));
        let decoded = self.converter.convert_rows(rows).map_err(from_arrow)?;
        let place = |column| self.columns.iter().position(|of| *of == column).expect("every column is encoded");
        Ok((0..self.columns.len()).map(|column| Arc::clone(&decoded[place(column)])).collect())
    }
}

impl Operator for Top {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        self.add(&batch, true)
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        let (rows, numbers, weights) = self.changes();
        if rows.is_empty() {
            return Ok(());
        }
        let mut columns = self.coder.decode(&rows)?;
        if self.spec.numbered {
            columns.push(Arc::new(UInt64Array::from(numbers)));
        }
        columns.push(Arc::new(Int64Array::from(weights)));
        push_sliced(batch_of(Arc::clone(&self.schema), columns, rows.len())?, out);
        Ok(())
    }

    fn track(&mut self) {
        self.learnt.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let mut rows = Vec::new();
        for number in self.learnt.as_mut().map(std::mem::take).unwrap_or_default() {
            let held = &mut self.held[number];
            held.learnt = false;
            for kept in held.first.iter_mut().filter(|kept| kept.fresh) {
                kept.fresh = false;
                rows.push(Bytes::clone(&kept.row));
            }
        }
        self.delta_of(&rows)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            self.add(&table.into_rows(TABLE, &self.coder.input)?, false)?;
        }
        Ok(())
    }

    fn restored(&mut self, _: Watermark) -> Result<()> {
        for number in std::mem::take(&mut self.touched) {
            self.held[number].close(self.spec.kept());
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let rows = self.held.iter().flat_map(|held| held.first.iter().map(|kept| Bytes::clone(&kept.row)));
        self.delta_of(&rows.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::changes::weights;
    use crate::plan::SortColumn;
    use crate::state::groups_of;
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;

    fn schema(numbered: bool) -> SchemaRef {
        let mut fields: Vec<Field> =
            ["key", "score", "other"].map(|name| Field::new(name, DataType::Int64, false)).into();
        fields.extend(numbered.then(|| Field::new("number", DataType::UInt64, false)));
        Arc::new(Schema::new(fields))
    }

    fn top(spec: &Topping) -> Top {
        Top::new(Arc::new(spec.clone()), schema(false), &schema(spec.numbered)).unwrap()
    }

    fn batch(rows: &[[i64; 3]]) -> Batch {
        let columns = (0..3).map(|column| Arc::new(rows.iter().map(|row| row[column]).collect::<Int64Array>()) as _);
        batch_of(schema(false), columns.collect(), rows.len()).unwrap()
    }

    /// What stands: rows with their number, or 0.
    type Standing = BTreeMap<([i64; 3], u64), i64>;

    fn sum(standing: &mut Standing, spec: &Topping, out: &mut Output) {
        for changes in out.drain() {
            let column = |n: usize| changes.column(n).as_primitive::<Int64Type>();
            for (row, weight) in weights(&changes).iter().enumerate() {
                let number = if spec.numbered { changes.column(3).as_primitive::<UInt64Type>().value(row) } else { 0 };
                let place = ([0, 1, 2].map(|n| column(n).value(row)), number);
                let count = standing.entry(place).or_default();
                *count += weight;
                if *count == 0 {
                    standing.remove(&place);
                }
            }
        }
    }

    fn recomputed(all: &[[i64; 3]], spec: &Topping) -> Standing {
        let mut by_key: BTreeMap<i64, Vec<[i64; 3]>> = BTreeMap::new();
        all.iter().for_each(|row| by_key.entry(if spec.keys.is_empty() { 0 } else { row[0] }).or_default().push(*row));
        let mut standing = Standing::new();
        for rows in by_key.values_mut() {
            rows.sort_by_key(|[key, score, other]| (std::cmp::Reverse(*score), *key, *other));
            for (place, row) in rows.iter().enumerate().skip(spec.skip).take(spec.limit) {
                let number = if spec.numbered { place as u64 + 1 } else { 0 };
                *standing.entry((*row, number)).or_default() += 1;
            }
        }
        standing
    }

    #[test]
    fn at_every_epoch_the_first_rows_stand_and_deltas_make_the_operator_again() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let order = vec![SortColumn { column: 1, descending: true, nulls_first: false }];
        for _ in 0..100 {
            let spec = Topping {
                keys: if random.random() { vec![0] } else { Vec::new() },
                order: order.clone(),
                skip: random.random_range(0..3),
                limit: random.random_range(1..6),
                numbered: random.random(),
            };
            let (mut all, mut standing, mut deltas) = (Vec::new(), Standing::new(), Vec::new());
            let mut operator = top(&spec);
            operator.track();
            let mut out = Output::default();
            for epoch in 0..12 {
                for _ in 0..random.random_range(0..4) {
                    let rows: Vec<[i64; 3]> = (0..random.random_range(1..20))
                        .map(|_| [random.random_range(0..5), random.random_range(0..40), random.random_range(0..2)])
                        .collect();
                    operator.on_batch(batch(&rows), &mut out).unwrap();
                    all.extend(rows);
                }
                operator.on_epoch(epoch, Watermark::NONE, &mut out).unwrap();
                sum(&mut standing, &spec, &mut out);
                assert_eq!(standing, recomputed(&all, &spec), "{spec:?} at epoch {epoch}");
                if random.random_bool(0.3) {
                    deltas.push(operator.delta().unwrap());
                    operator = top(&spec);
                    operator.track();
                    deltas.iter().for_each(|delta| operator.restore(delta.clone()).unwrap());
                    operator.restored(Watermark::NONE).unwrap();
                    if random.random() {
                        let mut folded = top(&spec);
                        deltas.iter().for_each(|delta| folded.restore(delta.clone()).unwrap());
                        folded.restored(Watermark::NONE).unwrap();
                        deltas = vec![folded.whole().unwrap()];
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_among_the_first_is_not_held() {
        let order = vec![SortColumn { column: 1, descending: true, nulls_first: false }];
        let spec = Topping { keys: vec![0], order, skip: 0, limit: 2, numbered: false };
        let mut operator = top(&spec);
        operator.track();
        let mut out = Output::default();
        for epoch in 0..10 {
            let rows: Vec<[i64; 3]> = (0..1000).map(|n| [n % 7, n + 1000 * epoch, 0]).collect();
            operator.on_batch(batch(&rows), &mut out).unwrap();
            operator.on_epoch(epoch as Epoch, Watermark::NONE, &mut out).unwrap();
        }
        assert_eq!(operator.held.iter().map(|held| held.first.len()).sum::<usize>(), 14);
        let delta = operator.delta().unwrap();
        assert_eq!(delta[0].rows.num_rows(), 14);
        let shares = [0, 1].map(|worker| delta[0].share(&groups_of(worker, 2)).unwrap().rows.num_rows());
        assert_eq!(shares.iter().sum::<usize>(), 14);
        assert_eq!(operator.delta().unwrap().len(), 0, "there is nothing new");
    }
}
