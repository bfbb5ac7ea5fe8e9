//! The rows of two inputs, joined window by window.
//!
//! A window's pairs leave in the epoch whose watermark, the least of both inputs', reaches its end; a row is late when its window closed
//! in an *earlier* epoch. A closed window is worked off in slices, because its pairs may be many more than its rows: one side is put
//! into a table by key, the other goes along it batch by batch. State: the rows of open windows; a delta is those that came since the one
//! before, for windows that are still open.

use super::panes::{Span, cut_by_span, event_times};
use super::pile::Pile;
use super::{Confluence, Output};
use crate::batch::keys::hash_keys;
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow};
use crate::error::Result;
use crate::expr::Groups;
use crate::plan::{JoinKind, Joining, Route, WindowBounds};
use crate::state::{self, Delta};
use crate::time::{Epoch, Watermark};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::SchemaRef;
use hashbrown::HashSet;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Slices that are worked off before what they gave must move on.
pub(super) const SLICES: usize = 16;

/// What the tables of a delta are called, one for each input.
const TABLES: [&str; 2] = ["left", "right"];

/// The operator.
pub struct Join {
    spec: Arc<Joining>,
    windows: [WindowBounds; 2],
    inputs: [SchemaRef; 2],
    schema: SchemaRef,
    open: BTreeMap<Span, [Pile; 2]>,
    /// What came for the open windows since the last delta; None if there are no deltas.
    fresh: Option<BTreeMap<Span, [Vec<Batch>; 2]>>,
    /// Windows that have closed and are not worked off.
    closed: VecDeque<[Pile; 2]>,
    working: Option<Matching>,
    /// The watermark of the last complete epoch: what ends at or before it has closed.
    mark: Watermark,
    late_rows: u64,
}

impl Join {
    /// The operator of `spec` over rows of `inputs` in their `windows`; what it gives has the columns of `schema`.
    pub fn new(spec: Arc<Joining>, windows: [WindowBounds; 2], inputs: [SchemaRef; 2], schema: SchemaRef) -> Self {
        Join {
            spec,
            windows,
            inputs,
            schema,
            open: BTreeMap::new(),
            fresh: None,
            closed: VecDeque::new(),
            working: None,
            mark: Watermark::NONE,
            late_rows: 0,
        }
    }

    /// The rows of input `port`, cut by window.
    fn cut(&self, port: usize, rows: &Batch) -> Result<Vec<(Span, Batch)>> {
        let WindowBounds { start, end } = self.windows[port];
        cut_by_span(rows, &event_times(rows.column(start))?, &event_times(rows.column(end))?)
    }

    /// Rows of each input as a delta.
    fn delta_of(&self, batches: [Vec<Batch>; 2]) -> Result<Delta> {
        let table = |port: usize| {
            let keys = match self.spec.route(port) {
                Route::Key(columns) => columns,
                Route::Forward | Route::Single => Vec::new(),
            };
            state::Table::of_batches(TABLES[port], &self.inputs[port], &batches[port], keys)
        };
        Ok([table(0)?, table(1)?].into_iter().flatten().collect())
    }
}

impl Confluence for Join {
    fn on_batch(&mut self, port: usize, batch: Batch, _: &mut Output) -> Result<()> {
        for (span, rows) in self.cut(port, &batch)? {
            if span.end <= self.mark.micros() {
                self.late_rows += rows.num_rows() as u64;
            } else {
                if let Some(fresh) = &mut self.fresh {
                    fresh.entry(span).or_default()[port].push(rows.clone());
                }
                self.open.entry(span).or_default()[port].push(rows)?;
            }
        }
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, _: &mut Output) -> Result<()> {
        self.mark = mark;
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.key().end <= mark.micros()) {
            self.closed.push_back(entry.remove());
        }
        if let Some(fresh) = &mut self.fresh {
            while let Some(entry) = fresh.first_entry().filter(|entry| entry.key().end <= mark.micros()) {
                entry.remove();
            }
        }
        Ok(())
    }

    fn say_more(&mut self, out: &mut Output) -> Result<bool> {
        for _ in 0..SLICES {
            if self.working.is_none() {
                let Some(window) = self.closed.pop_front() else { return Ok(false) };
                self.working = Matching::new(&self.spec, &self.inputs, &self.schema, window)?;
            }
            if let Some(matching) = &mut self.working
                && !matching.work(out)?
            {
                self.working = None;
            }
        }
        Ok(self.working.is_some() || !self.closed.is_empty())
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn track(&mut self) {
        self.fresh.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let mut batches = <[Vec<Batch>; 2]>::default();
        for [left, right] in self.fresh.as_mut().map(std::mem::take).unwrap_or_default().into_values() {
            batches[0].extend(left);
            batches[1].extend(right);
        }
        self.delta_of(batches)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            let port = usize::from(table.name != TABLES[0]);
            let rows = table.into_rows(TABLES[port], &self.inputs[port])?;
            for (span, rows) in self.cut(port, &rows)? {
                self.open.entry(span).or_default()[port].push(rows)?;
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
        let mut batches = <[Vec<Batch>; 2]>::default();
        for [left, right] in std::mem::take(&mut self.open).into_values() {
            batches[0].extend(left.into_batches()?);
            batches[1].extend(right.into_batches()?);
        }
        self.delta_of(batches)
    }
}

/// Rows that go along a table of others, on their way out: one closed window, or all that meets a table.
pub(super) struct Matching {
    spec: Arc<Joining>,
    inputs: [SchemaRef; 2],
    schema: SchemaRef,
    /// Which input is in the table; the other one goes along it.
    tabled: usize,
    table: Table,
    /// What is still to go along the table.
    probes: VecDeque<Batch>,
    probe: Option<Probe>,
    /// The next row of the table that may have found no partner.
    leftover: usize,
}

/// Rows by key.
struct Table {
    batches: Vec<Batch>,
    /// Of the keys.
    hashes: HashSet<u64, foldhash::fast::FixedState>,
    groups: Groups,
    /// The number of keys in the table: another one whose hash is among them gets a higher number.
    keys: usize,
    /// For each key, and for NULL as the last: where its rows start in `rows`.
    starts: Vec<usize>,
    /// Batch and row, by key.
    rows: Vec<(u32, u32)>,
    /// Whether each row, in the order of `rows`, is in a pair.
    paired: Vec<bool>,
}

/// A slice of the rows that go along the table.
struct Probe {
    rows: Batch,
    /// The key of each row; none for rows that can have no partner.
    keys: Vec<Option<usize>>,
    paired: Vec<bool>,
    /// The next row, and the next of its partners.
    at: (usize, usize),
}

/// Pairs: a row of the probe, and a place in the table's rows.
#[derive(Default)]
struct Pairs {
    probe: Vec<u32>,
    table: Vec<usize>,
}

impl Matching {
    /// A closed window; none if nothing can leave.
    fn new(
        spec: &Arc<Joining>,
        inputs: &[SchemaRef; 2],
        schema: &SchemaRef,
        window: [Pile; 2],
    ) -> Result<Option<Matching>> {
        let kind = spec.kind;
        let idle = |side: usize| window[side].rows() == 0 && !kind.gives_unmatched(1 - side);
        if idle(0) || idle(1) {
            return Ok(None);
        }
        // rows of the first input that leave once for all their partners go along a table of those
        let tabled = if kind.gives_pairs() && window[0].rows() < window[1].rows() { 0 } else { 1 };
        let [mut table, mut probes] = window;
        if tabled == 1 {
            std::mem::swap(&mut table, &mut probes);
        }
        let mut matching = Matching::with(spec, inputs, schema, tabled, table)?;
        matching.probes = probes.into_batches()?.into();
        Ok(Some(matching))
    }

    /// Input `tabled` is a table of `rows`; what goes along it is still to come.
    pub(super) fn with(
        spec: &Arc<Joining>,
        inputs: &[SchemaRef; 2],
        schema: &SchemaRef,
        tabled: usize,
        rows: Pile,
    ) -> Result<Matching> {
        Ok(Matching {
            table: Table::new(rows.into_batches()?, &inputs[tabled], &spec.sides[tabled].keys)?,
            probes: VecDeque::new(),
            spec: Arc::clone(spec),
            inputs: inputs.clone(),
            schema: Arc::clone(schema),
            tabled,
            probe: None,
            leftover: 0,
        })
    }

    /// The rows of the table, which is empty afterwards.
    pub(super) fn take_table(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.table.batches)
    }

    /// Lets `rows` go along the table after those that still do.
    pub(super) fn add(&mut self, rows: impl IntoIterator<Item = Batch>) {
        self.probes.extend(rows);
    }

    /// Works off at most one batch of pairs; false when all that was there is done.
    pub(super) fn work(&mut self, out: &mut Output) -> Result<bool> {
        let probing = 1 - self.tabled;
        if let Some(mut probe) = self.probe.take() {
            let pairs = self.next_pairs(&mut probe);
            if !pairs.probe.is_empty() {
                let pairs = self.that_hold(&probe, pairs)?;
                pairs.probe.iter().for_each(|&row| probe.paired[row as usize] = true);
                pairs.table.iter().for_each(|&place| self.table.paired[place] = true);
                if self.spec.kind.gives_pairs() {
                    let probed = Some((&probe.rows, pairs.probe.as_slice()));
                    self.push(probed, Some(&pairs.table), pairs.table.len(), None, out)?;
                }
                self.probe = Some(probe);
            } else if self.spec.kind == JoinKind::Mark {
                let rows: Vec<u32> = (0..probe.rows.num_rows() as u32).collect();
                self.push(Some((&probe.rows, &rows)), None, rows.len(), Some(probe.paired), out)?;
            } else {
                let kind = self.spec.kind;
                let leaves = |paired: bool| match kind {
                    JoinKind::Semi => paired,
                    _ => !paired && kind.gives_unmatched(probing),
                };
                let rows: Vec<u32> =
                    (0..probe.rows.num_rows() as u32).filter(|row| leaves(probe.paired[*row as usize])).collect();
                self.push(Some((&probe.rows, &rows)), None, rows.len(), None, out)?;
            }
            return Ok(true);
        }
        if let Some(batch) = self.probes.pop_front() {
            let rows = batch.slice(0, BATCH_ROWS.min(batch.num_rows()));
            if rows.num_rows() < batch.num_rows() {
                self.probes.push_front(batch.slice(rows.num_rows(), batch.num_rows() - rows.num_rows()));
            }
            self.probe = Some(self.table.probe(rows, &self.spec.sides[probing].keys)?);
            return Ok(true);
        }
        if !self.spec.kind.gives_pairs() || !self.spec.kind.gives_unmatched(self.tabled) {
            return Ok(false);
        }
        let end = self.table.rows.len().min(self.leftover + BATCH_ROWS);
        let alone: Vec<usize> = (self.leftover..end).filter(|place| !self.table.paired[*place]).collect();
        self.push(None, Some(&alone), alone.len(), None, out)?;
        self.leftover = end;
        Ok(end < self.table.rows.len())
    }

    /// The next pairs with equal keys, at most a batch of them.
    fn next_pairs(&self, probe: &mut Probe) -> Pairs {
        let once = !self.spec.kind.gives_pairs();
        let mut pairs = Pairs::default();
        while probe.at.0 < probe.keys.len() && pairs.probe.len() < BATCH_ROWS {
            let (row, partner) = probe.at;
            let partners = match probe.keys[row] {
                Some(key) if !(once && probe.paired[row]) => self.table.starts[key]..self.table.starts[key + 1],
                _ => 0..0,
            };
            let from = partners.start + partner;
            // one partner is enough, if there is nothing more that it must meet
            let wanted = if once && self.spec.condition.is_none() { 1 } else { BATCH_ROWS - pairs.probe.len() };
            let to = partners.end.min(from + wanted);
            pairs.table.extend(from..to);
            pairs.probe.resize(pairs.table.len(), row as u32);
            let done = to == partners.end || (once && self.spec.condition.is_none());
            probe.at = if done { (row + 1, 0) } else { (row, to - partners.start) };
        }
        pairs
    }

    /// Those of `pairs` that meet the condition.
    fn that_hold(&self, probe: &Probe, pairs: Pairs) -> Result<Pairs> {
        let Some(condition) = &self.spec.condition else { return Ok(pairs) };
        let rows = UInt32Array::from(pairs.probe);
        let read = |&(side, column): &(usize, usize)| match side == self.tabled {
            true => self.table.column(column, &pairs.table),
            false => take(probe.rows.column(column), &rows, None).map_err(from_arrow),
        };
        let columns = condition.reads.iter().map(read).collect::<Result<Vec<_>>>()?;
        let holds = condition.holds.evaluate(&batch_of(Arc::clone(&condition.schema), columns, rows.len())?)?;
        let holds = holds.as_boolean();
        let kept = (0..rows.len()).filter(|&pair| holds.is_valid(pair) && holds.value(pair));
        let (probe, table) = kept.map(|pair| (rows.value(pair), pairs.table[pair])).unzip();
        Ok(Pairs { probe, table })
    }

    /// Gives rows of the probe beside rows of the table; NULL stands for the side that is missing. `marks` are a column more.
    fn push(
        &self,
        probe: Option<(&Batch, &[u32])>,
        table: Option<&[usize]>,
        count: usize,
        marks: Option<Vec<bool>>,
        out: &mut Output,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let indices = probe.map(|(batch, rows)| (batch, UInt32Array::from_iter_values(rows.iter().copied())));
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (side, of_side) in self.spec.sides.iter().enumerate() {
            for &column in &of_side.output {
                columns.push(match (side == self.tabled, &indices, table) {
                    (true, _, Some(places)) => self.table.column(column, places)?,
                    (false, Some((batch, rows)), _) => take(batch.column(column), rows, None).map_err(from_arrow)?,
                    _ => new_null_array(self.inputs[side].field(column).data_type(), count),
                });
            }
        }
        columns.extend(marks.map(|marks| Arc::new(BooleanArray::from(marks)) as ArrayRef));
        out.push(batch_of(Arc::clone(&self.schema), columns, count)?);
        Ok(())
    }
}

impl Table {
    fn new(batches: Vec<Batch>, schema: &SchemaRef, keys: &[usize]) -> Result<Self> {
        let mut groups = Groups::new(Arc::new(schema.project(keys).map_err(from_arrow)?))?;
        let mut numbers: Vec<Vec<Option<usize>>> = Vec::with_capacity(batches.len());
        let mut hashes = HashSet::default();
        let mut of_batch = Vec::new();
        for batch in &batches {
            let columns = columns_of(batch, keys);
            numbers.push(numbers_of(&mut groups, &columns, batch.num_rows())?);
            hash_keys(&columns, batch.num_rows(), &mut of_batch)?;
            hashes.extend(of_batch.iter().copied());
        }
        let count = groups.len();
        // counting sort: how many rows each key has, where they start, then the rows
        let mut starts = vec![0; count + 2];
        let place = |number: &Option<usize>| number.unwrap_or(count);
        numbers.iter().flatten().for_each(|number| starts[place(number) + 1] += 1);
        (1..starts.len()).for_each(|key| starts[key] += starts[key - 1]);
        let mut next = starts.clone();
        let mut rows = vec![(0, 0); starts[count + 1]];
        for (batch, numbers) in numbers.iter().enumerate() {
            for (row, number) in numbers.iter().enumerate() {
                let next = &mut next[place(number)];
                rows[*next] = (batch as u32, row as u32);
                *next += 1;
            }
        }
        Ok(Table { paired: vec![false; rows.len()], batches, hashes, groups, keys: count, starts, rows })
    }

    fn probe(&mut self, rows: Batch, keys: &[usize]) -> Result<Probe> {
        let count = rows.num_rows();
        let columns = columns_of(&rows, keys);
        let mut hashes = Vec::new();
        hash_keys(&columns, count, &mut hashes)?;
        // many may have no partner: those are not compared, and do not become keys of the table
        let likely = (0..count as u32).filter(|row| self.hashes.contains(&hashes[*row as usize]));
        let likely = UInt32Array::from_iter_values(likely);
        let columns: Result<Vec<ArrayRef>> =
            columns.iter().map(|column| take(column, &likely, None).map_err(from_arrow)).collect();
        let numbers = numbers_of(&mut self.groups, &columns?, likely.len())?;
        let mut keys = vec![None; count];
        for (row, number) in likely.values().iter().zip(numbers) {
            keys[*row as usize] = number.filter(|number| *number < self.keys);
        }
        Ok(Probe { rows, keys, paired: vec![false; count], at: (0, 0) })
    }

    /// The values of `column` at some places of `rows`.
    fn column(&self, column: usize, places: &[usize]) -> Result<ArrayRef> {
        let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        let indices: Vec<(usize, usize)> = places
            .iter()
            .map(|&place| {
                let (batch, row) = self.rows[place];
                (batch as usize, row as usize)
            })
            .collect();
        interleave(&arrays, &indices).map_err(from_arrow)
    }
}

fn columns_of(batch: &Batch, places: &[usize]) -> Vec<ArrayRef> {
    places.iter().map(|&place| Arc::clone(batch.column(place))).collect()
}

/// The number of the key of each of `rows` rows; none if it has NULL in it.
fn numbers_of(groups: &mut Groups, columns: &[ArrayRef], rows: usize) -> Result<Vec<Option<usize>>> {
    let mut numbers = Vec::new();
    groups.intern(columns, rows, &mut numbers)?;
    let mut numbers: Vec<Option<usize>> = numbers.into_iter().map(Some).collect();
    for nulls in columns.iter().filter_map(|column| column.logical_nulls()) {
        (0..nulls.len()).filter(|&row| nulls.is_null(row)).for_each(|row| numbers[row] = None);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{JoinSide, Meeting, event_time_type};
    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    fn schema() -> SchemaRef {
        let bound = |name: &str| Field::new(name, event_time_type(), false);
        Arc::new(Schema::new(vec![bound("start"), bound("end"), Field::new("n", DataType::Int64, true)]))
    }

    fn rows(end: i64, values: std::ops::Range<i64>) -> Batch {
        let count = (values.end - values.start) as usize;
        let bound = |micros| Arc::new(TimestampMicrosecondArray::from_value(micros, count)) as ArrayRef;
        let columns = vec![bound(0), bound(end), Arc::new(Int64Array::from_iter_values(values)) as ArrayRef];
        Batch::try_new(schema(), columns).unwrap()
    }

    fn join(kind: JoinKind, keys: Vec<usize>) -> Join {
        let side = || JoinSide { keys: keys.clone(), output: vec![2] };
        let windows = [WindowBounds { start: 0, end: 1 }; 2];
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let output = Arc::new(Schema::new(vec![number("a"), number("b")]));
        let meeting = Meeting::InWindows(windows);
        let spec = Joining { kind, meeting, sides: [side(), side()], condition: None, nulls_equal: false };
        Join::new(Arc::new(spec), windows, [schema(), schema()], output)
    }

    #[test]
    fn many_pairs_leave_slice_by_slice() {
        let mut join = join(JoinKind::Inner, Vec::new());
        let mut out = Output::default();
        for part in 0..3 {
            join.on_batch(0, rows(10, part * 1000..(part + 1) * 1000), &mut out).unwrap();
        }
        join.on_batch(1, rows(10, 0..2000), &mut out).unwrap();
        join.on_epoch(0, Watermark::at(10), &mut out).unwrap();
        assert_eq!(out.drain().count(), 0, "a closed window is worked off later");
        let (mut pairs, mut sum) = (0, 0_i128);
        let mut more = true;
        while more {
            more = join.say_more(&mut out).unwrap();
            let mut said = 0;
            for batch in out.drain() {
                assert!(batch.num_rows() <= BATCH_ROWS);
                said += batch.num_rows();
                let values = |column: usize| batch.column(column).as_primitive::<Int64Type>().values().iter();
                sum += values(0).zip(values(1)).map(|(a, b)| i128::from(a * 10_000 + b)).sum::<i128>();
            }
            assert!(said <= SLICES * BATCH_ROWS, "{said} rows at once");
            pairs += said;
        }
        assert_eq!(pairs, 3000 * 2000);
        let numbers = |count: i128| count * (count - 1) / 2;
        assert_eq!(sum, numbers(3000) * 10_000 * 2000 + numbers(2000) * 3000);
    }

    #[test]
    fn a_row_is_late_when_its_window_closed_in_an_earlier_epoch() {
        let mut join = join(JoinKind::Full, vec![2]);
        let mut out = Output::default();
        join.on_batch(0, rows(10, 0..3), &mut out).unwrap();
        join.on_batch(1, rows(20, 0..2), &mut out).unwrap();
        join.on_epoch(0, Watermark::at(15), &mut out).unwrap();
        assert!(!join.say_more(&mut out).unwrap());
        assert_eq!(out.drain().map(|batch| batch.num_rows()).sum::<usize>(), 3);
        join.on_batch(1, rows(10, 0..4), &mut out).unwrap();
        join.on_batch(0, rows(20, 1..3), &mut out).unwrap();
        join.on_epoch(1, Watermark::END, &mut out).unwrap();
        assert_eq!(join.take_late_rows(), 4);
        while join.say_more(&mut out).unwrap() {}
        assert_eq!(out.drain().map(|batch| batch.num_rows()).sum::<usize>(), 3, "0, 1 with 1, 2");
    }
}
