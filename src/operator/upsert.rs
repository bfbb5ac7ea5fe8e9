//! The newest row of each key, as changes: the row that a key had with weight -1, the one that it has now with weight +1.
//!
//! Of the rows of a key in an epoch the last one counts, in the order in which they come: they are records of one split, and no edge
//! overtakes itself, so that is the order of their records whatever else is in the epoch. A row of weight -1 says that its key has none any
//! more; a row that is what the key had before says nothing. Where every row counts, those before the last one are added and taken back.
//! State: the row of each key. A delta is the keys that have lost their row since the one before, and the new rows of the others that have changed.

use super::aggregate::push_sliced;
use super::segments::Segments;
use super::transform::with_weight;
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::error::{Error, Result};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::{concat, concat_batches, take};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What the tables of a delta are called.
const GONE: &str = "gone";
const ROWS: &str = "rows";

/// A key's columns, in Arrow's row encoding.
type Key = Box<[u8]>;

/// The operator.
pub struct Upsert {
    key: Vec<usize>,
    every: bool,
    /// The columns of the input, the weight included; values may be missing there.
    input: SchemaRef,
    /// The row's columns.
    schema: SchemaRef,
    keys: RowConverter,
    values: RowConverter,
    /// The number of each key that has a row, and numbers that no key has.
    numbers: HashMap<Key, u32>,
    free: Vec<u32>,
    rows: Segments,
    /// The open epoch's.
    pending: Vec<Batch>,
    /// The keys that changed since the last delta; None if there are no deltas.
    changed: Option<BTreeSet<Key>>,
}

/// What becomes of a key in an epoch.
struct Change {
    key: Key,
    /// Where the row that it had is among the old ones.
    before: Option<u32>,
    /// Rows of the epoch that it had for a while, if they count.
    between: Vec<u32>,
    /// Its new row in the epoch's.
    after: Option<u32>,
}

impl Upsert {
    /// The operator for rows of `input`, the weight included, told apart by the columns `key`, of which `every` one counts or the last of
    /// an epoch; what it gives has the columns of `schema`, and then the weight.
    pub fn new(key: &[usize], every: bool, input: SchemaRef, schema: &SchemaRef) -> Result<Self> {
        let converter = |columns: &mut dyn Iterator<Item = usize>| {
            let field = |column: usize| SortField::new(schema.field(column).data_type().clone());
            RowConverter::new(columns.map(field).collect()).map_err(from_arrow)
        };
        Ok(Upsert {
            keys: converter(&mut key.iter().copied())?,
            values: converter(&mut (0..schema.fields().len()))?,
            key: key.to_vec(),
            every,
            input,
            schema: Arc::clone(schema),
            numbers: HashMap::new(),
            free: Vec::new(),
            rows: Segments::default(),
            pending: Vec::new(),
            changed: None,
        })
    }

    fn keys_of(&self, rows: &Batch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.key.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        self.keys.convert_columns(&columns).map_err(from_arrow)
    }

    /// The number of `key`, which gets one if it has none.
    fn number(&mut self, key: Key) -> u32 {
        let (free, next) = (&mut self.free, self.numbers.len() as u32);
        // numbers in use and free ones together are all below their count
        let fresh = |free: &mut Vec<u32>| free.pop().unwrap_or(next);
        *self.numbers.entry(key).or_insert_with(|| fresh(free))
    }

    /// Takes the rows of `keys` away.
    fn remove(&mut self, keys: impl Iterator<Item = Key>) -> Result<()> {
        let numbers: Vec<u32> = keys.filter_map(|key| self.numbers.remove(&key)).collect();
        self.rows.remove(numbers.iter().map(|number| *number as usize))?;
        self.free.extend(numbers);
        Ok(())
    }

    /// The columns of a key.
    fn key_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.schema.project(&self.key).map_err(from_arrow)?))
    }

    /// The rows of `numbers`, as a table of a delta.
    fn table(&self, numbers: &[u32]) -> Result<Option<Table>> {
        let columns = self.rows.get(numbers.iter().map(|number| *number as usize))?;
        if numbers.is_empty() {
            return Ok(None);
        }
        let rows = batch_of(Arc::clone(&self.schema), columns, numbers.len())?;
        Table::of_batches(ROWS, &self.schema, &[rows], self.key.clone())
    }

    /// The table of `keys` that have no row.
    fn gone(&self, keys: &[&Key]) -> Result<Option<Table>> {
        let parser = self.keys.parser();
        let columns = self.keys.convert_rows(keys.iter().map(|key| parser.parse(key))).map_err(from_arrow)?;
        let schema = self.key_schema()?;
        let rows = batch_of(Arc::clone(&schema), columns, keys.len())?;
        Table::of_batches(GONE, &schema, &[rows], (0..self.key.len()).collect())
    }

    /// What becomes of each key of `rows`, and the rows that they had.
    fn changes(&self, rows: &Batch) -> Result<(Vec<Change>, Vec<ArrayRef>)> {
        let weights = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>();
        let keys = self.keys_of(rows)?;
        let mut last: HashMap<&[u8], u32> = HashMap::with_capacity(rows.num_rows());
        let mut between: HashMap<u32, Vec<u32>> = HashMap::new();
        for row in 0..rows.num_rows() {
            let replaced = last.insert(keys.row(row).data(), row as u32);
            if let Some(replaced) = replaced.filter(|_| self.every) {
                let mut rows = between.remove(&replaced).unwrap_or_default();
                rows.extend((weights.value(replaced as usize) > 0).then_some(replaced));
                between.insert(row as u32, rows);
            }
        }
        let mut newest: Vec<u32> = last.into_values().collect();
        newest.sort_unstable();
        let old: Vec<Option<u32>> =
            newest.iter().map(|&row| self.numbers.get(keys.row(row as usize).data()).copied()).collect();
        let before = self.rows.get(old.iter().flatten().map(|number| *number as usize))?;
        let encode = |columns: &[ArrayRef]| self.values.convert_columns(columns).map_err(from_arrow);
        let had = if before.is_empty() { None } else { Some(encode(&before)?) };
        let picks = UInt32Array::from(newest.clone());
        let has = rows.columns()[..rows.num_columns() - 1].iter();
        let has = has.map(|column| take(column, &picks, None).map_err(from_arrow)).collect::<Result<Vec<_>>>()?;
        let has = encode(&has)?;
        let mut changes = Vec::new();
        let mut places = 0..;
        for (at, (&row, old)) in newest.iter().zip(&old).enumerate() {
            let before = old.and_then(|_| places.next());
            let stays = weights.value(row as usize) > 0;
            let same = match (&had, before) {
                (Some(had), Some(before)) => stays && had.row(before as usize) == has.row(at),
                _ => !stays,
            };
            let between = between.remove(&row).unwrap_or_default();
            if !same || !between.is_empty() {
                let key = keys.row(row as usize).data().into();
                changes.push(Change { key, before, between, after: stays.then_some(row) });
            }
        }
        Ok((changes, before))
    }

    /// The `changes` as rows with weights, of those before and those of the epoch.
    fn told(&self, changes: &[Change], before: &[ArrayRef], rows: &Batch) -> Result<Batch> {
        let olds = before.first().map_or(0, |column| column.len()) as u32;
        let (mut picks, mut weights) = (Vec::new(), Vec::new());
        for change in changes {
            picks.extend(change.before);
            weights.extend(change.before.map(|_| -1));
            for row in &change.between {
                picks.extend([olds + row; 2]);
                weights.extend([1, -1]);
            }
            picks.extend(change.after.map(|row| olds + row));
            weights.extend(change.after.map(|_| 1));
        }
        let (count, picks) = (picks.len(), UInt32Array::from(picks));
        let column = |(n, now): (usize, &ArrayRef)| match before.get(n) {
            Some(then) => {
                take(&concat(&[then.as_ref(), now.as_ref()]).map_err(from_arrow)?, &picks, None).map_err(from_arrow)
            }
            None => take(now, &picks, None).map_err(from_arrow),
        };
        let mut columns =
            rows.columns()[..rows.num_columns() - 1].iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
        columns.push(Arc::new(Int64Array::from(weights)));
        batch_of(with_weight(&self.schema), columns, count)
    }
}

impl Operator for Upsert {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        self.pending.push(batch);
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let rows = concat_batches(&self.input, &std::mem::take(&mut self.pending)).map_err(from_arrow)?;
        let (changes, before) = self.changes(&rows)?;
        if changes.is_empty() {
            return Ok(());
        }
        push_sliced(self.told(&changes, &before, &rows)?, out);
        if let Some(changed) = &mut self.changed {
            changed.extend(changes.iter().map(|change| change.key.clone()));
        }
        let (mut gone, mut kept, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            match change.after {
                None => gone.push(change.key),
                Some(row) => {
                    kept.push(row);
                    numbers.push(self.number(change.key));
                }
            }
        }
        let kept = take_rows(&rows, kept)?;
        self.rows.put(numbers, kept.columns()[..kept.num_columns() - 1].to_vec())?;
        self.remove(gone.into_iter())
    }

    fn track(&mut self) {
        self.changed.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let changed = self.changed.as_mut().map(std::mem::take).unwrap_or_default();
        let (mut gone, mut numbers) = (Vec::new(), Vec::new());
        for key in &changed {
            match self.numbers.get(key) {
                Some(number) => numbers.push(*number),
                None => gone.push(key),
            }
        }
        Ok(self.gone(&gone)?.into_iter().chain(self.table(&numbers)?).collect())
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            if table.name == GONE {
                let keys = table.into_rows(GONE, &self.key_schema()?)?;
                let keys = self.keys.convert_columns(keys.columns()).map_err(from_arrow)?;
                let keys: Vec<Key> = keys.iter().map(|key| key.data().into()).collect();
                self.remove(keys.into_iter())?;
                continue;
            }
            let rows = table.into_rows(ROWS, &self.schema)?;
            let keys = self.keys_of(&rows)?;
            let numbers: Vec<u32> = keys.iter().map(|key| self.number(key.data().into())).collect();
            if numbers.iter().collect::<BTreeSet<_>>().len() < numbers.len() {
                return Err(Error::corrupt("a key has two rows in the saved state"));
            }
            self.rows.restore(numbers, rows.columns().to_vec())?;
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let mut numbers: Vec<u32> = self.numbers.values().copied().collect();
        numbers.sort_unstable();
        Ok(self.table(&numbers)?.into_iter().collect())
    }
}
