//! Pipelines run from a test: random tables in, rows as text out, on threads and on processes.
//!
//! What a pipeline should say is computed by the test itself, from the rows and the binding of their epochs, which
//! [`Table::marks`] works out again from nothing but the splits.
#![allow(dead_code)] // each test file uses its part

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater::connector::Connectors;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::error::Result;
use highwater::plan::Plan;
use highwater::runtime::mesh::{self, Deadlines, Identity, Membership, Rendezvous, Secret};
use highwater::runtime::metrics::Snapshot;
use highwater::runtime::{self, Workers};
use highwater::sql::{self, Text};
use highwater::time::{Clock, SystemClock};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Where a pipeline is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Threads(usize),
    /// Processes that are threads of this one, and workers in each.
    Processes(usize, usize),
}

/// Where every pipeline must say the same.
pub const SHAPES: [Shape; 3] = [Shape::Threads(1), Shape::Threads(3), Shape::Processes(2, 2)];

/// Runs `check` for `runs` random seeds, or as many as HIGHWATER_RUNS says, or for the one in HIGHWATER_SEED; a failure says its seed.
pub fn for_seeds(runs: usize, check: impl Fn(&mut StdRng)) {
    let number = |name| {
        std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a seed and a number of runs are numbers"))
    };
    let given = number("HIGHWATER_SEED");
    let runs = if given.is_some() { 1 } else { number("HIGHWATER_RUNS").unwrap_or(runs as u64) };
    for _ in 0..runs {
        let seed = given.unwrap_or_else(|| rand::rng().random());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&mut StdRng::seed_from_u64(seed)))) {
            eprintln!("to see this again: HIGHWATER_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// Gives what `work` gives, or fails the test after `limit` instead of hanging.
pub fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = channel();
    let worker = thread::spawn(move || {
        let _ = answer.send(work());
    });
    match answered.recv_timeout(limit) {
        Ok(value) => value,
        Err(RecvTimeoutError::Disconnected) => {
            resume_unwind(worker.join().expect_err("a thread that sent nothing panicked"))
        }
        Err(RecvTimeoutError::Timeout) => panic!("no end after {limit:?}: {what}"),
    }
}

pub const MINUTE: Duration = Duration::from_secs(60);

/// Plans `text`.
pub fn plan(text: &str, connectors: &dyn Connectors) -> Plan {
    match sql::plan(Text { name: "test.sql", sql: text }, &[], connectors) {
        Ok(plan) => plan,
        Err(error) => panic!("{error:?}\n{text}"),
    }
}

/// Runs `text` to its end; of several processes, process 0's answer.
pub fn run_with(text: &str, connectors: &dyn Connectors, shape: Shape) -> (Snapshot, Result<()>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    run_by(text, connectors, shape, &|_| Arc::clone(&clock))
}

/// The same, by the clock that `clock_of` gives each process.
pub fn run_by(
    text: &str,
    connectors: &dyn Connectors,
    shape: Shape,
    clock_of: &dyn Fn(usize) -> Arc<dyn Clock>,
) -> (Snapshot, Result<()>) {
    match shape {
        Shape::Threads(threads) => {
            let clock = clock_of(0);
            let plan = plan(text, connectors);
            within(MINUTE, text, move || {
                runtime::start(plan, Workers::Threads(threads), None, clock).expect("it starts").wait()
            })
        }
        Shape::Processes(processes, threads) => {
            let (coordinate, address) = Rendezvous::coordinate().expect("a port is free");
            let mut coordinate = Some(coordinate);
            let secret = Secret::generate().expect("there is randomness");
            let start = |process: usize| {
                let plan = plan(text, connectors);
                let identity = Identity {
                    pipeline: "test".into(),
                    generation: 1,
                    fingerprint: plan.fingerprint(),
                    secret: secret.clone(),
                };
                let rendezvous = coordinate.take().unwrap_or(Rendezvous::Dial(address));
                let membership = Membership { process, processes, threads, rendezvous };
                let deadlines = Deadlines { heartbeat: Duration::from_millis(100), ..Deadlines::default() };
                let clock = clock_of(process);
                thread::spawn(move || {
                    let mesh = mesh::join(&identity, membership, deadlines, Arc::clone(&clock))
                        .expect("the processes connect");
                    runtime::start(plan, Workers::Mesh(mesh), None, clock).expect("it starts").wait()
                })
            };
            let running: Vec<_> = (0..processes).map(start).collect();
            let join =
                || running.into_iter().map(|process| process.join().expect("no process panics")).collect::<Vec<_>>();
            within(MINUTE, text, join).swap_remove(0)
        }
    }
}

/// Runs `text` with `table` as the memory source `t`, and gives what is in the sink `out`, sorted.
pub fn run(text: &str, table: &Table, shape: Shape) -> (Vec<String>, Snapshot) {
    let sink = MemorySink::new();
    let connectors = Builtin::default()
        .with_source("t", table.source())
        .with_source("newest", table.newest())
        .with_sink("out", Arc::new(sink.clone()));
    let (snapshot, result) = run_with(text, &connectors, shape);
    if let Err(error) = result {
        panic!("{error:?} on {shape:?}\n{text}");
    }
    (sorted(&sink), snapshot)
}

/// All rows of a sink as text, sorted.
pub fn sorted(sink: &MemorySink) -> Vec<String> {
    let mut rows: Vec<String> = sink.batches().iter().flat_map(texts).collect();
    rows.sort_unstable();
    rows
}

/// Each row as text: cells with a space between them, strings in quotes, time in microseconds.
pub fn texts(batch: &RecordBatch) -> Vec<String> {
    let columns: Vec<Vec<String>> = batch.columns().iter().map(cells).collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>().join(" "))
        .collect()
}

fn cells(column: &ArrayRef) -> Vec<String> {
    let cell = |row: usize| match column.data_type() {
        _ if column.is_null(row) => "NULL".to_owned(),
        DataType::Utf8 => format!("{:?}", column.as_string::<i32>().value(row)),
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        DataType::List(_) => format!("[{}]", cells(&column.as_list::<i32>().value(row)).join(",")),
        _ => ArrayFormatter::try_new(column, &FormatOptions::new())
            .expect("the type can be printed")
            .value(row)
            .to_string(),
    };
    (0..column.len()).map(cell).collect()
}

/// A row of the table that the tests read.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub word: Option<String>,
    pub n: Option<i64>,
    /// In hundredths.
    pub price: Option<i128>,
    /// A multiple of a quarter, so that sums do not depend on their order.
    pub ratio: Option<f64>,
    /// In microseconds.
    pub ts: i64,
    pub tags: Option<Vec<Option<String>>>,
}

/// The table: rows of each split, in order, and how many of each make an epoch.
#[derive(Debug, Clone)]
pub struct Table {
    pub splits: Vec<Vec<Row>>,
    pub tick: usize,
    /// How far the watermark stays behind, in microseconds.
    pub delay: i64,
}

const WORDS: [&str; 12] =
    ["to", "be", "or", "not", "", " ", "naïve", "水", "🦀🦀", "NULL", "a longer word than twelve bytes", "\"q\"\n"];

pub const SECOND: i64 = 1_000_000;

impl Table {
    /// A few hundred rows whose event time mostly advances, with stragglers.
    pub fn random(rng: &mut StdRng) -> Self {
        let start = 1_700_000_000 * SECOND + rng.random_range(0..100) * SECOND;
        let splits = rng.random_range(1..=5);
        // often at full seconds, where windows end
        let grain = *[1, SECOND / 4, SECOND].choose(rng).expect("there are grains");
        let split = |rng: &mut StdRng| {
            let rows = if rng.random_bool(0.1) { 0 } else { rng.random_range(1..250) };
            let pace = rng.random_range(1..400_000);
            let row = |row: i64| Row::random(rng, start + row * pace);
            (0..rows).map(row).map(|row| Row { ts: row.ts.div_euclid(grain) * grain, ..row }).collect()
        };
        Table {
            splits: (0..splits).map(|_| split(rng)).collect(),
            tick: rng.random_range(1..60),
            delay: rng.random_range(0..8) * SECOND / 2,
        }
    }

    /// The rows, whatever their split.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.splits.iter().flatten()
    }

    /// The same epochs, their rows in another order within each split.
    pub fn shuffled(&self, rng: &mut StdRng) -> Self {
        let mut table = self.clone();
        table.splits.iter_mut().flat_map(|split| split.chunks_mut(table.tick)).for_each(|chunk| chunk.shuffle(rng));
        table
    }

    /// How many epochs it takes to see the end of all splits.
    pub fn epochs(&self) -> usize {
        // a split that ends with a full epoch shows its end in the next one
        self.splits.iter().map(|split| split.len() / self.tick + 1).max().unwrap_or(1)
    }

    /// The rows of epoch `epoch`.
    pub fn epoch(&self, epoch: usize) -> impl Iterator<Item = &Row> {
        let range =
            move |split: &[Row]| (epoch * self.tick).min(split.len())..((epoch + 1) * self.tick).min(split.len());
        self.splits.iter().flat_map(move |split| &split[range(split)])
    }

    /// The watermark at the end of each epoch.
    pub fn marks(&self) -> Vec<i64> {
        let mut mark = i64::MIN;
        let at_end_of = |epoch: usize| {
            let seen = |split: &&Vec<Row>| split.len() >= (epoch + 1) * self.tick; // else it has ended
            let own = |split: &Vec<Row>| {
                split[..(epoch + 1) * self.tick].iter().map(|row| row.ts - self.delay).max().expect("a tick has rows")
            };
            mark = mark.max(self.splits.iter().filter(seen).map(own).min().unwrap_or(i64::MAX));
            mark
        };
        (0..self.epochs()).map(at_end_of).collect()
    }

    /// Each row with the starts of those of its windows of `size` every `slide` that are still open when it comes; it is late if there
    /// are none.
    pub fn windowed(&self, size: i64, slide: i64) -> Vec<(&Row, Vec<i64>)> {
        self.windowed_by(&self.marks(), size, slide)
    }

    /// The same where the watermark of each epoch is one of `marks`.
    pub fn windowed_by(&self, marks: &[i64], size: i64, slide: i64) -> Vec<(&Row, Vec<i64>)> {
        let mut found = Vec::new();
        for epoch in 0..self.epochs() {
            let before = if epoch == 0 { i64::MIN } else { marks[epoch - 1] };
            for row in self.epoch(epoch) {
                let open = windows(row.ts, size, slide).into_iter().filter(|start| start + size > before);
                found.push((row, open.collect()));
            }
        }
        found
    }

    /// The declaration of a memory table `t` that reads it.
    pub fn ddl(&self) -> String {
        format!(
            "SET 'tick' = '{} rows';
             CREATE TABLE t (word STRING, n BIGINT, price DECIMAL(12, 2), ratio DOUBLE, ts TIMESTAMP(6), tags ARRAY<STRING>,
               WATERMARK FOR ts AS ts - INTERVAL '{}' MILLISECOND) WITH ('connector' = 'memory');\n",
            self.tick,
            self.delay / 1000
        )
    }

    /// The definition of [`Table::newest`].
    pub fn newest_ddl(&self) -> String {
        format!(
            "CREATE TABLE newest (id BIGINT NOT NULL, word STRING, n BIGINT, ts TIMESTAMP(6), PRIMARY KEY (id) NOT ENFORCED,
               WATERMARK FOR ts AS ts - INTERVAL '{}' MILLISECOND) WITH ('connector' = 'memory');\n",
            self.delay / 1000
        )
    }

    /// A table `newest` of the newest rows of some keys, made of the same rows: a key loses its row now and then.
    pub fn newest(&self) -> Arc<MemorySource> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("word", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        ]));
        let mut loose: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        loose.push(Field::new(highwater::plan::WEIGHT, DataType::Int64, false));
        let loose = Arc::new(Schema::new(loose));
        let piece = |number: usize, rows: &[Row]| {
            // the rows of a key are in one split
            let id = |row: usize, of: &Row| number as i64 * 8 + (of.n.unwrap_or(row as i64)).rem_euclid(8);
            let there = |row: &Row| row.n.is_none_or(|n| n % 5 != 0);
            let columns: Vec<ArrayRef> = vec![
                Arc::new(rows.iter().enumerate().map(|(n, row)| Some(id(n, row))).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.word.clone().filter(|_| there(row))).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| row.n.filter(|_| there(row))).collect::<Int64Array>()),
                Arc::new(
                    rows.iter().map(|row| Some(row.ts).filter(|_| there(row))).collect::<TimestampMicrosecondArray>(),
                ),
                Arc::new(rows.iter().map(|row| Some(if there(row) { 1 } else { -1 })).collect::<Int64Array>()),
            ];
            RecordBatch::try_new(Arc::clone(&loose), columns).expect("columns are as long as there are rows")
        };
        let pieces: Vec<Vec<RecordBatch>> = self
            .splits
            .iter()
            .enumerate()
            .map(|(n, split)| split.chunks(29).map(|rows| piece(n, rows)).collect())
            .collect();
        let turns = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let of_turn = |turn: usize, split: &Vec<RecordBatch>| {
            split.get(turn).cloned().unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&loose)))
        };
        let of_turn = &of_turn;
        let batches = (0..turns).flat_map(|turn| pieces.iter().map(move |split| of_turn(turn, split))).collect();
        Arc::new(MemorySource::new(schema, batches, self.splits.len()).of_newest_rows())
    }

    pub fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("word", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new("price", DataType::Decimal128(12, 2), true),
            Field::new("ratio", DataType::Float64, true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
        ]))
    }

    /// The table for `Builtin::with_source`.
    pub fn source(&self) -> Arc<MemorySource> {
        // batches are dealt to the splits in turn; pieces of odd sizes, so that epochs and batches do not fall together
        let pieces = |split: &Vec<Row>| split.chunks(37).map(batch).collect::<Vec<_>>();
        let pieces: Vec<Vec<RecordBatch>> = self.splits.iter().map(pieces).collect();
        let turns = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let piece = |turn: usize, split: &Vec<RecordBatch>| {
            split.get(turn).cloned().unwrap_or_else(|| RecordBatch::new_empty(Self::schema()))
        };
        let batches = (0..turns).flat_map(|turn| pieces.iter().map(move |split| piece(turn, split))).collect();
        Arc::new(MemorySource::new(Self::schema(), batches, self.splits.len()))
    }
}

impl Row {
    fn random(rng: &mut StdRng, around: i64) -> Self {
        fn some<T>(rng: &mut StdRng, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
            if rng.random_bool(0.1) { None } else { Some(make(rng)) }
        }
        let word = |rng: &mut StdRng| (*WORDS.choose(rng).expect("there are words")).to_owned();
        let tags = |rng: &mut StdRng| (0..rng.random_range(0..4)).map(|_| some(rng, word)).collect();
        // some rows straggle far behind
        let behind = if rng.random_bool(0.05) { 30 * SECOND } else { 3 * SECOND };
        Row {
            word: some(rng, word),
            n: some(rng, |rng| rng.random_range(-1000..1000)),
            price: some(rng, |rng| rng.random_range(-99_999..99_999)),
            ratio: some(rng, |rng| f64::from(rng.random_range(-4000..4000)) / 4.0),
            ts: around - rng.random_range(0..behind),
            tags: some(rng, tags),
        }
    }
}

/// The starts of the windows that `time` lies in.
pub fn windows(time: i64, size: i64, slide: i64) -> Vec<i64> {
    let last = time.div_euclid(slide) * slide;
    (0..).map(|back| last - back * slide).take_while(|start| start + size > time).collect()
}

/// A session: its key, its start, its end and its rows.
pub type Session = (Option<String>, i64, i64, Vec<Row>);

/// What sessions by word say, worked out from all their rows again in each epoch.
pub struct Sessions {
    pub gap: i64,
    open: BTreeMap<Option<String>, Vec<Row>>,
    mark: i64,
}

impl Sessions {
    pub fn new(gap: i64) -> Self {
        Sessions { gap, open: BTreeMap::new(), mark: i64::MIN }
    }

    /// The sessions that close in an epoch of `rows` that ends with the watermark `mark`, and the rows that are late in it.
    pub fn epoch(&mut self, rows: impl IntoIterator<Item = Row>, mark: i64) -> (Vec<Session>, Vec<Row>) {
        let mut all: BTreeMap<Option<String>, Vec<(bool, Row)>> = BTreeMap::new();
        for (word, rows) in std::mem::take(&mut self.open) {
            all.entry(word).or_default().extend(rows.into_iter().map(|row| (false, row)));
        }
        rows.into_iter().for_each(|row| all.entry(row.word.clone()).or_default().push((true, row)));
        let (mut closed, mut late) = (Vec::new(), Vec::new());
        for (word, mut rows) in all {
            rows.sort_by_key(|(_, row)| row.ts);
            for session in rows.chunk_by(|(_, a), (_, b)| b.ts - a.ts < self.gap) {
                let (start, end) = (session[0].1.ts, session[session.len() - 1].1.ts + self.gap);
                let rows = session.iter().map(|(_, row)| row.clone());
                if session.iter().all(|(new, _)| *new) && end <= self.mark {
                    late.extend(rows);
                } else if end <= mark {
                    closed.push((word.clone(), start, end, rows.collect()));
                } else {
                    self.open.entry(word.clone()).or_default().extend(rows);
                }
            }
        }
        self.mark = mark;
        (closed, late)
    }
}

/// Rows of the schema.
pub fn batch(rows: &[Row]) -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in rows {
        match &row.tags {
            Some(list) => {
                list.iter().for_each(|tag| tags.values().append_option(tag.as_deref()));
                tags.append(true);
            }
            None => tags.append(false),
        }
    }
    let price: Decimal128Array = rows.iter().map(|row| row.price).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.word.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>()),
        Arc::new(price.with_precision_and_scale(12, 2).expect("12 digits are enough")),
        Arc::new(rows.iter().map(|row| row.ratio).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.ts)).collect::<TimestampMicrosecondArray>()),
        Arc::new(tags.finish()),
    ];
    RecordBatch::try_new(Table::schema(), columns).expect("the columns are those of the schema")
}

/// A value as [`texts`] writes it.
pub trait Cell {
    fn cell(&self) -> String;
}

impl Cell for String {
    fn cell(&self) -> String {
        format!("{self:?}")
    }
}

impl Cell for i64 {
    fn cell(&self) -> String {
        self.to_string()
    }
}

impl Cell for f64 {
    fn cell(&self) -> String {
        format!("{self:?}")
    }
}

/// Hundredths, as a decimal with two digits.
impl Cell for i128 {
    fn cell(&self) -> String {
        format!("{}{}.{:02}", if *self < 0 { "-" } else { "" }, self.abs() / 100, self.abs() % 100)
    }
}

impl<T: Cell> Cell for Vec<T> {
    fn cell(&self) -> String {
        format!("[{}]", self.iter().map(Cell::cell).collect::<Vec<_>>().join(","))
    }
}

impl<T: Cell> Cell for Option<T> {
    fn cell(&self) -> String {
        self.as_ref().map_or_else(|| "NULL".into(), Cell::cell)
    }
}

/// A row of cells as [`texts`] writes it.
#[macro_export]
macro_rules! row {
    ($($value:expr),+ $(,)?) => { [$($crate::pipeline::Cell::cell(&$value)),+].join(" ") };
}

/// Sorted, to be compared with [`run`].
pub fn expected(rows: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut rows: Vec<String> = rows.into_iter().collect();
    rows.sort_unstable();
    rows
}

/// Fails with the rows that are on one side only.
pub fn assert_same(found: &[String], expected: &[String], what: &str) {
    if found == expected {
        return;
    }
    let mut missing = expected.to_vec();
    let mut surplus = Vec::new();
    for row in found {
        match missing.iter().position(|other| other == row) {
            Some(place) => drop(missing.swap_remove(place)),
            None => surplus.push(row),
        }
    }
    missing.truncate(10);
    surplus.truncate(10);
    panic!("{what}\n{} rows instead of {}\nmissing: {missing:#?}\nsurplus: {surplus:#?}", found.len(), expected.len());
}
