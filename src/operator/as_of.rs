//! Rows of one input, each beside the version of its key that the other input had at its time.
//!
//! A version holds from its event time to that of the next version of its key. A row of the first input waits until the watermark, the
//! least of both inputs', has passed its time: then all versions that it may meet have come, but late ones, and it leaves with the newest
//! of them or alone. So what leaves does not depend on which input was read faster. A row of the first input is late when the watermark
//! had passed its time in an *earlier* epoch. A version that comes late holds from the watermark on, unless a newer one does.
//!
//! Where versions are taken back, one that is replaced in the same epoch ends where the new one begins. A key that has no row left at the
//! end of an epoch has no version any more for rows whose time the watermark has not passed by then. Of versions of one key and time the
//! one with the greatest columns counts, and one that was not taken back before one that was.
//!
//! State: the rows that wait; of each key the version that holds at the watermark and those after it. A delta is the rows that came since the one before and still wait, and all
//! versions of the keys that have changed.

use super::join::SLICES;
use super::panes::event_times;
use super::segments::Segments;
use super::{Confluence, Output};
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow, take_rows};
use crate::error::Result;
use crate::plan::{AsOf, JoinKind, Joining, Route};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Micros, Watermark};
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array, new_null_array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::{HashMap, HashSet};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What the tables of a delta are called: rows that wait, the versions of keys, and keys that have none.
const WAITING: &str = "waiting";
const VERSIONS: &str = "versions";
const GONE: &str = "gone";

/// A key's columns, in Arrow's row encoding; empty where there are none.
type Key = Arc<[u8]>;

/// The operator.
pub struct VersionJoin {
    spec: Arc<Joining>,
    as_of: AsOf,
    /// The columns of both inputs, without weights.
    inputs: [SchemaRef; 2],
    schema: SchemaRef,
    keys: KeyCoder,
    waiting: Waiting,
    /// What has come of the second input in the open epoch.
    pending: Vec<Batch>,
    versions: Versions,
    /// Keys that lose their versions when the rows of the epoch have left.
    ending: Vec<Key>,
    /// Rows whose time has come.
    leaving: VecDeque<Batch>,
    /// The watermark of the last complete epoch.
    mark: Watermark,
    /// What is said of that epoch is said, and what it makes superfluous is gone.
    settled: bool,
    /// What came since the last delta; None if there are no deltas.
    fresh: Option<Fresh>,
    late_rows: u64,
}

#[derive(Default)]
struct Fresh {
    rows: Vec<Batch>,
    keys: BTreeSet<Key>,
}

impl VersionJoin {
    /// The operator of `spec` over rows of `inputs`, the weight included where versions are taken back; what it gives has the columns of `schema`.
    pub fn new(spec: Arc<Joining>, as_of: AsOf, inputs: [SchemaRef; 2], schema: SchemaRef) -> Result<Self> {
        let [left, mut right] = inputs;
        if as_of.changes {
            let columns: Vec<usize> = (0..right.fields().len() - 1).collect();
            right = Arc::new(right.project(&columns).map_err(from_arrow)?);
        }
        Ok(VersionJoin {
            keys: KeyCoder::new(&right, &spec.sides[1].keys)?,
            versions: Versions::new(&right)?,
            inputs: [left, right],
            spec,
            as_of,
            schema,
            waiting: Waiting::default(),
            pending: Vec::new(),
            ending: Vec::new(),
            leaving: VecDeque::new(),
            mark: Watermark::NONE,
            settled: true,
            fresh: None,
            late_rows: 0,
        })
    }

    /// Takes up what the second input gave in the epoch.
    fn absorb(&mut self) -> Result<()> {
        let Some(first) = self.pending.first() else { return Ok(()) };
        let rows = concat_batches(&first.schema(), &std::mem::take(&mut self.pending)).map_err(from_arrow)?;
        let times = event_times(rows.column(self.as_of.times[1]))?;
        let keys = self.keys.of(&rows, &self.spec.sides[1].keys)?;
        let weights = self.as_of.changes.then(|| rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>());
        let weight = |row: u32| weights.map_or(1, |weights| weights.value(row as usize));
        let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).filter(|row| keys.get(*row).is_some()).collect();
        sorted.sort_unstable_by(|&a, &b| {
            keys.get(a).cmp(&keys.get(b)).then_with(|| times[a as usize].cmp(&times[b as usize]))
        });
        let columns = &rows.columns()[..self.inputs[1].fields().len()];
        let (mut picked, mut numbers) = (Vec::new(), Vec::new());
        for of_key in sorted.chunk_by(|&a, &b| keys.get(a) == keys.get(b)) {
            let key: Key = keys.get(of_key[0]).expect("rows without a key are left out").into();
            let had = i64::from(self.versions.of(&key).is_some());
            for same in of_key.chunk_by(|&a, &b| times[a as usize] == times[b as usize]) {
                let time = times[same[0] as usize];
                if let Some(row) = self.versions.newest_of(&key, time, same, weight, columns)? {
                    picked.push(row);
                    numbers.push(self.versions.number(&key, time));
                }
            }
            if had + of_key.iter().map(|row| weight(*row)).sum::<i64>() <= 0 {
                self.ending.push(Arc::clone(&key));
            }
            if let Some(fresh) = &mut self.fresh {
                fresh.keys.insert(key);
            }
        }
        let picked = take_rows(&rows, picked)?;
        self.versions.rows.put(numbers, picked.columns()[..self.inputs[1].fields().len()].to_vec())
    }

    /// What `rows` of the first input, whose time has come, leave as.
    fn meet(&self, rows: &Batch) -> Result<Batch> {
        let times = event_times(rows.column(self.as_of.times[0]))?;
        let keys = self.keys.of(rows, &self.spec.sides[0].keys)?;
        let (mut found, mut numbers) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() as u32 {
            let version = keys.get(row).and_then(|key| self.versions.at(key, times[row as usize], self.as_of.before));
            if let Some(number) = version {
                found.push(row);
                numbers.push(number as usize);
            }
        }
        let mut met = self.versions.rows.get(numbers.iter().copied())?;
        if let Some(condition) = self.spec.condition.as_ref().filter(|_| !found.is_empty()) {
            let picks = UInt32Array::from(found.clone());
            let read = |&(side, column): &(usize, usize)| match side {
                0 => take(rows.column(column), &picks, None).map_err(from_arrow),
                _ => Ok(Arc::clone(&met[column])),
            };
            let columns = condition.reads.iter().map(read).collect::<Result<Vec<_>>>()?;
            let holds = condition.holds.evaluate(&batch_of(Arc::clone(&condition.schema), columns, found.len())?)?;
            let holds = holds.as_boolean();
            let kept: Vec<u32> =
                (0..found.len() as u32).filter(|&n| holds.is_valid(n as usize) && holds.value(n as usize)).collect();
            if kept.len() < found.len() {
                found = kept.iter().map(|&n| found[n as usize]).collect();
                let kept = UInt32Array::from(kept);
                met = met.iter().map(|column| take(column, &kept, None).map_err(from_arrow)).collect::<Result<_>>()?;
            }
        }
        let alone = self.spec.kind == JoinKind::Left && found.len() < rows.num_rows();
        let count = if alone { rows.num_rows() } else { found.len() };
        let whole = found.len() == rows.num_rows();
        let picks = UInt32Array::from(found.clone());
        let mut places = vec![None; if alone { count } else { 0 }];
        if alone {
            found.iter().enumerate().for_each(|(n, &row)| places[row as usize] = Some(n as u32));
        }
        let places = UInt32Array::from(places);
        let [left, right] = &self.spec.sides;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for &column in &left.output {
            columns.push(match alone || whole {
                true => Arc::clone(rows.column(column)),
                false => take(rows.column(column), &picks, None).map_err(from_arrow)?,
            });
        }
        for &column in &right.output {
            columns.push(match met.get(column) {
                Some(met) if alone => take(met, &places, None).map_err(from_arrow)?,
                Some(met) => Arc::clone(met),
                // no row has met a version
                None => new_null_array(self.inputs[1].field(column).data_type(), count),
            });
        }
        batch_of(Arc::clone(&self.schema), columns, count)
    }

    /// Forgets what no row to come can meet.
    fn settle(&mut self) -> Result<()> {
        self.settled = true;
        for key in std::mem::take(&mut self.ending) {
            self.versions.remove(&key)?;
        }
        self.versions.forget(self.mark.micros(), self.as_of.before)
    }

    fn route(&self, side: usize) -> Vec<usize> {
        match self.spec.route(side) {
            Route::Key(columns) => columns,
            Route::Forward | Route::Single => Vec::new(),
        }
    }

    /// Rows that wait, the versions of `keys`, and those of them that have none, as a delta.
    fn delta_of<'a>(&self, waiting: &[Batch], keys: impl Iterator<Item = &'a Key>) -> Result<Delta> {
        let (mut gone, mut numbers) = (Vec::new(), Vec::new());
        for key in keys {
            match self.versions.of(key) {
                Some(versions) => numbers.extend(versions.iter().map(|version| version.number as usize)),
                None => gone.push(key),
            }
        }
        let mut delta = Delta::new();
        if !gone.is_empty() {
            let schema = Arc::new(self.inputs[1].project(&self.spec.sides[1].keys).map_err(from_arrow)?);
            let rows = batch_of(Arc::clone(&schema), self.keys.columns(&gone)?, gone.len())?;
            delta.push(Table::new(GONE, rows, (0..schema.fields().len()).collect()));
        }
        if !numbers.is_empty() {
            let columns = self.versions.rows.get(numbers.iter().copied())?;
            let rows = batch_of(Arc::clone(&self.inputs[1]), columns, numbers.len())?;
            delta.push(Table::new(VERSIONS, rows, self.route(1)));
        }
        delta.extend(Table::of_batches(WAITING, &self.inputs[0], waiting, self.route(0))?);
        Ok(delta)
    }
}

impl Confluence for VersionJoin {
    fn on_batch(&mut self, port: usize, batch: Batch, _: &mut Output) -> Result<()> {
        if port == 1 {
            self.pending.push(batch);
            return Ok(());
        }
        let late = |time: &Micros| *time < self.mark.micros();
        let times = event_times(batch.column(self.as_of.times[0]))?;
        let count = times.iter().filter(|time| late(time)).count();
        self.late_rows += count as u64;
        let batch = match count {
            0 => batch,
            _ => take_rows(&batch, (0..times.len() as u32).filter(|row| !late(&times[*row as usize])).collect())?,
        };
        if let Some(fresh) = &mut self.fresh {
            fresh.rows.push(batch.clone());
        }
        self.waiting.arrived.push(batch);
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, _: &mut Output) -> Result<()> {
        self.mark = mark;
        self.absorb()?;
        self.waiting.pass(mark.micros(), self.as_of.times[0], &mut self.leaving)?;
        if let Some(fresh) = &mut self.fresh {
            let rows: usize = fresh.rows.iter().map(Batch::num_rows).sum();
            if rows > 2 * self.waiting.rows() + BATCH_ROWS {
                fresh.rows = still_waiting(&fresh.rows, mark.micros(), self.as_of.times[0])?;
            }
        }
        self.settled = false;
        Ok(())
    }

    fn say_more(&mut self, out: &mut Output) -> Result<bool> {
        for _ in 0..SLICES {
            let Some(batch) = self.leaving.pop_front() else { break };
            let rows = batch.slice(0, BATCH_ROWS.min(batch.num_rows()));
            if rows.num_rows() < batch.num_rows() {
                self.leaving.push_front(batch.slice(rows.num_rows(), batch.num_rows() - rows.num_rows()));
            }
            out.push(self.meet(&rows)?);
        }
        if !self.leaving.is_empty() {
            return Ok(true);
        }
        if !self.settled {
            self.settle()?;
        }
        Ok(false)
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn track(&mut self) {
        self.fresh.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let fresh = self.fresh.as_mut().map(std::mem::take).unwrap_or_default();
        let waiting = still_waiting(&fresh.rows, self.mark.micros(), self.as_of.times[0])?;
        self.delta_of(&waiting, fresh.keys.iter())
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        let gone = Arc::new(self.inputs[1].project(&self.spec.sides[1].keys).map_err(from_arrow)?);
        let mut versions = Vec::new();
        for table in saved {
            match table.name.as_str() {
                GONE => {
                    let rows = table.into_rows(GONE, &gone)?;
                    let keys = self.keys.of(&rows, &(0..gone.fields().len()).collect::<Vec<_>>())?;
                    for row in 0..rows.num_rows() as u32 {
                        keys.get(row).map_or(Ok(()), |key| self.versions.remove(key))?;
                    }
                }
                VERSIONS => versions.push(table.into_rows(VERSIONS, &self.inputs[1])?),
                _ => self.waiting.arrived.push(table.into_rows(WAITING, &self.inputs[0])?),
            }
        }
        // what a delta has of a key is all that the key had
        let mut coded = Vec::with_capacity(versions.len());
        for rows in versions {
            let keys = self.keys.of(&rows, &self.spec.sides[1].keys)?;
            for row in 0..rows.num_rows() as u32 {
                keys.get(row).map_or(Ok(()), |key| self.versions.remove(key))?;
            }
            coded.push((rows, keys));
        }
        for (rows, keys) in coded {
            let times = event_times(rows.column(self.as_of.times[1]))?;
            let mut numbers = Vec::with_capacity(rows.num_rows());
            for (row, time) in (0..).zip(times.iter()) {
                let key: Key = keys.get(row).unwrap_or_default().into();
                numbers.push(self.versions.number(&key, *time));
            }
            self.versions.rows.put(numbers, rows.columns().to_vec())?;
        }
        Ok(())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        self.mark = mark;
        // what had come to its time has left
        self.waiting.pass(mark.micros(), self.as_of.times[0], &mut VecDeque::new())?;
        self.settle()
    }

    fn whole(&mut self) -> Result<Delta> {
        let waiting = std::mem::take(&mut self.waiting).into_batches();
        let keys: BTreeSet<Key> = self.versions.keys.keys().cloned().collect();
        self.delta_of(&waiting, keys.iter())
    }
}

/// The rows of `batches` whose time `mark` has not passed.
fn still_waiting(batches: &[Batch], mark: Micros, time: usize) -> Result<Vec<Batch>> {
    let mut waiting = Vec::new();
    for batch in batches {
        let times = event_times(batch.column(time))?;
        let rows: Vec<u32> = (0..times.len() as u32).filter(|row| times[*row as usize] >= mark).collect();
        if !rows.is_empty() {
            waiting.push(take_rows(batch, rows)?);
        }
    }
    Ok(waiting)
}

/// Rows of the first input, until the watermark has passed their time.
#[derive(Default)]
struct Waiting {
    /// What came in the open epoch.
    arrived: Vec<Batch>,
    /// Each sorted by time, and larger than the one after it.
    runs: Vec<Run>,
}

/// Rows in the order of their times.
struct Run {
    times: ScalarBuffer<Micros>,
    rows: Batch,
    /// How many rows there were when it was made.
    made: usize,
}

impl Waiting {
    fn rows(&self) -> usize {
        let arrived: usize = self.arrived.iter().map(Batch::num_rows).sum();
        arrived + self.runs.iter().map(|run| run.rows.num_rows()).sum::<usize>()
    }

    /// Moves all rows whose time, which is column `time`, `mark` has passed into `leaving`.
    fn pass(&mut self, mark: Micros, time: usize, leaving: &mut VecDeque<Batch>) -> Result<()> {
        let mut staying = Vec::new();
        for batch in std::mem::take(&mut self.arrived) {
            let times = event_times(batch.column(time))?;
            let (gone, stay): (Vec<u32>, Vec<u32>) =
                (0..times.len() as u32).partition(|row| times[*row as usize] < mark);
            match (gone.is_empty(), stay.is_empty()) {
                (_, true) => leaving.push_back(batch),
                (true, false) => staying.push(batch),
                (false, false) => {
                    leaving.push_back(take_rows(&batch, gone)?);
                    staying.push(take_rows(&batch, stay)?);
                }
            }
        }
        for run in &mut self.runs {
            let (gone, rows) = (run.times.partition_point(|time| *time < mark), run.rows.num_rows());
            if gone == 0 {
                continue;
            }
            leaving.push_back(run.rows.slice(0, gone));
            *run = Run { times: run.times.slice(gone, rows - gone), rows: run.rows.slice(gone, rows - gone), ..*run };
            // few rows do not keep the memory of many
            if rows - gone < run.made / 2 {
                *run =
                    Run::new(&[std::mem::replace(&mut run.rows, Batch::new_empty(Arc::new(Schema::empty())))], time)?;
            }
        }
        self.runs.retain(|run| run.rows.num_rows() > 0);
        if !staying.is_empty() {
            self.runs.push(Run::new(&staying, time)?);
        }
        while let [.., older, newer] = self.runs.as_slice()
            && older.rows.num_rows() < 2 * newer.rows.num_rows()
        {
            let merged = Run::new(&[older.rows.clone(), newer.rows.clone()], time)?;
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(merged);
        }
        Ok(())
    }

    fn into_batches(self) -> Vec<Batch> {
        self.arrived.into_iter().chain(self.runs.into_iter().map(|run| run.rows)).collect()
    }
}

impl Run {
    /// The rows of `batches`, of which there are some.
    fn new(batches: &[Batch], time: usize) -> Result<Run> {
        let rows = concat_batches(&batches[0].schema(), batches).map_err(from_arrow)?;
        let times = event_times(rows.column(time))?;
        let mut order: Vec<u32> = (0..times.len() as u32).collect();
        order.sort_by_key(|row| times[*row as usize]);
        let rows = take_rows(&rows, order)?;
        Ok(Run { times: event_times(rows.column(time))?, made: rows.num_rows(), rows })
    }
}

/// Keys as bytes.
struct KeyCoder(Option<RowConverter>);

/// The keys of some rows.
struct Keys {
    rows: Option<Rows>,
    nulls: Option<NullBuffer>,
}

impl KeyCoder {
    fn new(schema: &Schema, columns: &[usize]) -> Result<Self> {
        let field = |column: &usize| SortField::new(schema.field(*column).data_type().clone());
        let fields: Vec<SortField> = columns.iter().map(field).collect();
        // without columns there are no rows either, in Arrow's row encoding
        let coder = (!fields.is_empty()).then(|| RowConverter::new(fields).map_err(from_arrow));
        Ok(KeyCoder(coder.transpose()?))
    }

    fn of(&self, rows: &Batch, columns: &[usize]) -> Result<Keys> {
        let columns: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        let nulls = columns
            .iter()
            .fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref()));
        let rows = self.0.as_ref().map(|coder| coder.convert_columns(&columns).map_err(from_arrow));
        Ok(Keys { rows: rows.transpose()?, nulls })
    }

    fn columns(&self, keys: &[&Key]) -> Result<Vec<ArrayRef>> {
        let Some(coder) = &self.0 else { return Ok(Vec::new()) };
        let parser = coder.parser();
        coder.convert_rows(keys.iter().map(|key| parser.parse(key))).map_err(from_arrow)
    }
}

impl Keys {
    /// The key of `row`; none if there is NULL in it.
    fn get(&self, row: u32) -> Option<&[u8]> {
        match &self.nulls {
            Some(nulls) if nulls.is_null(row as usize) => None,
            _ => Some(self.rows.as_ref().map_or(&[], |rows| rows.row(row as usize).data())),
        }
    }
}

/// From `time` on.
#[derive(Clone, Copy)]
struct Version {
    time: Micros,
    number: u32,
}

/// The versions of each key.
struct Versions {
    /// In the order of their times, which are all different; none is empty.
    keys: HashMap<Key, Vec<Version>, foldhash::fast::FixedState>,
    rows: Segments,
    /// Of whole rows.
    values: RowConverter,
    /// Numbers that no version has, and the first one above all that were given.
    free: Vec<u32>,
    next: u32,
    /// When a version begins before which its key has another one.
    replaced: BTreeMap<Micros, HashSet<Key, foldhash::fast::FixedState>>,
}

impl Versions {
    fn new(schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        Ok(Versions {
            keys: HashMap::default(),
            rows: Segments::default(),
            values: RowConverter::new(fields.collect()).map_err(from_arrow)?,
            free: Vec::new(),
            next: 0,
            replaced: BTreeMap::new(),
        })
    }

    fn of(&self, key: &[u8]) -> Option<&[Version]> {
        self.keys.get(key).map(Vec::as_slice)
    }

    /// The number of the version of `key` that holds at `time`, or just before it.
    fn at(&self, key: &[u8], time: Micros, before: bool) -> Option<u32> {
        let versions = self.of(key)?;
        let count = versions.partition_point(|version| if before { version.time < time } else { version.time <= time });
        Some(versions[count.checked_sub(1)?].number)
    }

    /// Which of the rows `same`, which have `key` and `time`, is the version of that time; none if it is the one that there is, or there is
    /// none. Each row has a weight.
    fn newest_of(
        &self,
        key: &[u8],
        time: Micros,
        same: &[u32],
        weight: impl Fn(u32) -> i64,
        columns: &[ArrayRef],
    ) -> Result<Option<u32>> {
        let versions = self.of(key).unwrap_or_default();
        let there = versions.binary_search_by_key(&time, |version| version.time).ok().map(|at| versions[at].number);
        if let ([row], None) = (same, there) {
            return Ok((weight(*row) > 0).then_some(*row));
        }
        let picks = UInt32Array::from_iter_values(same.iter().copied());
        let columns = columns.iter().map(|column| take(column, &picks, None).map_err(from_arrow));
        let coded = self.values.convert_columns(&columns.collect::<Result<Vec<_>>>()?).map_err(from_arrow)?;
        let before = match there {
            Some(number) => {
                Some(self.values.convert_columns(&self.rows.get([number as usize].into_iter())?).map_err(from_arrow)?)
            }
            None => None,
        };
        // each different row with what its weights come to, and one of it that was added
        let mut rows: BTreeMap<&[u8], (i64, Option<u32>)> = BTreeMap::new();
        if let Some(before) = &before {
            rows.insert(before.row(0).data(), (1, None));
        }
        for (n, &row) in same.iter().enumerate() {
            let entry = rows.entry(coded.row(n).data()).or_default();
            entry.0 += weight(row);
            entry.1 = entry.1.or((weight(row) > 0).then_some(row));
        }
        let is_there = |bytes: &[u8]| before.as_ref().is_some_and(|before| before.row(0).data() == bytes);
        let stands = rows.iter().rev().find(|(_, (weight, _))| *weight > 0);
        let added = || rows.iter().rev().find(|(_, (_, added))| added.is_some());
        Ok(stands.or_else(added).filter(|(bytes, _)| !is_there(bytes)).and_then(|(_, (_, added))| *added))
    }

    /// The number of the version of `key` from `time` on, which gets one if there is none.
    fn number(&mut self, key: &Key, time: Micros) -> u32 {
        let versions = self.keys.entry(Arc::clone(key)).or_default();
        let at = match versions.binary_search_by_key(&time, |version| version.time) {
            Ok(at) => return versions[at].number,
            Err(at) => at,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        versions.insert(at, Version { time, number });
        // it replaces the one before it, and the one after it replaces it
        if at > 0 {
            self.replaced.entry(time).or_default().insert(Arc::clone(key));
        }
        if let Some(after) = versions.get(at + 1) {
            self.replaced.entry(after.time).or_default().insert(Arc::clone(key));
        }
        number
    }

    /// Takes all versions of `key` away.
    fn remove(&mut self, key: &[u8]) -> Result<()> {
        let Some(versions) = self.keys.remove(key) else { return Ok(()) };
        self.free.extend(versions.iter().map(|version| version.number));
        self.rows.remove(versions.iter().map(|version| version.number as usize))
    }

    /// Takes versions away that no row at or after `mark` can meet.
    fn forget(&mut self, mark: Micros, before: bool) -> Result<()> {
        let holds = |time: Micros| if before { time < mark } else { time <= mark };
        let mut gone = Vec::new();
        while let Some(entry) = self.replaced.first_entry().filter(|entry| holds(*entry.key())) {
            for key in entry.remove() {
                let Some(versions) = self.keys.get_mut(&key) else { continue };
                let count = versions.partition_point(|version| holds(version.time)).saturating_sub(1);
                gone.extend(versions.drain(..count).map(|version| version.number));
            }
        }
        self.free.extend(&gone);
        self.rows.remove(gone.into_iter().map(|number| number as usize))
    }
}
