//! The pipelines that are measured. All but one are SQL, planned as a user's would be; an exchange and nothing else has no
//! SQL, so its plan is written out.

use super::data;
use super::{Case, Input, Workload, kafka, nexmark};
use crate::batch::{BATCH_ROWS, Batch};
use crate::connector::builtin::Builtin;
use crate::connector::memory::MemorySource;
use crate::connector::{Context, Delivery, Polled, Sink, Source, Split, SplitStart};
use crate::error::{Error, Result};
use crate::expr::Expr;
use crate::format::{Decode, Format, json};
use crate::plan::{Action, BadRecords, Emit, Plan, Route, Settings, SinkStep, SourceStep, Step, WhenAllIdle};
use crate::sql;
use crate::time::Clock;
use arrow::array::{Array, BinaryArray};
use arrow::datatypes::SchemaRef;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Windows of the windowed workloads, in seconds.
const WINDOW_SECONDS: u32 = 10;

/// The same where state is to be large: 20 M words are in each, which are most of a million different ones.
const LARGE_WINDOW_SECONDS: u32 = 2000;

/// Words that are made where more are read: they come again and again.
const MADE_WORDS: u64 = 20_000_000;

/// How far apart checkpoints are.
pub const INTERVAL: &str = "1 s";

/// Words a second that the latency workload reads on all workers together.
pub const PACE: u64 = 5_000_000;

const WORD_COUNT: &str = "
CREATE TABLE counts (word STRING, n BIGINT) WITH ({out});
CREATE TABLE lines (line STRING) WITH ({in});
INSERT INTO counts
SELECT word, count(*) AS n FROM (SELECT unnest(string_to_array(line, ' ')) AS word FROM lines)
GROUP BY word EMIT FINAL;";

const WINDOWED: &str = "
CREATE TABLE counts (word STRING, n BIGINT, window_end TIMESTAMP) WITH ({out});
CREATE TABLE lines (line STRING, ts TIMESTAMP, WATERMARK FOR ts AS ts) WITH ({in});
INSERT INTO counts
SELECT word, count(*) AS n, window_end
FROM (
  SELECT window_start, window_end, unnest(string_to_array(line, ' ')) AS word
  FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(ts), INTERVAL '{window}' SECOND))
)
GROUP BY window_start, window_end, word;";

const COPY: &str = "
CREATE TABLE copies (line STRING) WITH ({out});
CREATE TABLE lines (line STRING) WITH ({in});
INSERT INTO copies SELECT line FROM lines;";

const JSON: &str = "
CREATE TABLE copies (id BIGINT, \"user\" STRING, page STRING, price DOUBLE, paid BOOLEAN, ts TIMESTAMP) WITH ({out});
CREATE TABLE events (id BIGINT, \"user\" STRING, page STRING, price DOUBLE, paid BOOLEAN, ts TIMESTAMP) WITH ({in});
INSERT INTO copies SELECT id, \"user\", page, price, paid, ts FROM events;";

const JSON_COUNT: &str = "
CREATE TABLE counts (\"user\" STRING, n BIGINT) WITH ({out});
CREATE TABLE events (id BIGINT, \"user\" STRING, page STRING, price DOUBLE, paid BOOLEAN, ts TIMESTAMP) WITH ({in});
INSERT INTO counts SELECT \"user\", count(*) AS n FROM events GROUP BY \"user\" EMIT FINAL;";

/// How long the windows of `case` are, in seconds.
pub fn window_seconds(case: &Case) -> u32 {
    match case.workload {
        Workload::Checkpoints => LARGE_WINDOW_SECONDS,
        _ => WINDOW_SECONDS,
    }
}

/// Where `case` keeps its checkpoints, if it is about that.
pub fn store(case: &Case) -> Result<Option<TempDir>> {
    match case.workload {
        Workload::Checkpoints | Workload::ExactlyOnce => {
            let made = tempfile::tempdir();
            made.map(Some).map_err(|error| Error::unavailable("no temporary directory").caused_by(error))
        }
        _ => Ok(None),
    }
}

/// The plan of `case`, whose rows go to `sink` unless they go to a topic, with checkpoints in the directory `store`, if there
/// is one.
pub fn plan(case: &Case, sink: Arc<dyn Sink>, store: Option<&Path>) -> Result<Plan> {
    if case.workload == Workload::Exchange {
        return Ok(exchange(case, sink));
    }
    if case.workload == Workload::Nexmark {
        let text = nexmark::text(case, MEMORY)?;
        return planned(case, &text, &Builtin::default().with_sink("out", sink), store);
    }
    let (query, source) = match case.workload {
        Workload::Json => (JSON, source(case)),
        Workload::Windowed | Workload::Latency | Workload::Checkpoints => (WINDOWED, source(case)),
        Workload::ExactlyOnce => (COPY, None),
        Workload::Kafka if case.json => (JSON_COUNT, None),
        _ => (WORD_COUNT, source(case)),
    };
    let (reads, writes) = match &case.input {
        Input::Memory | Input::Generator => ("'connector' = 'memory', 'name' = 'in'".to_owned(), None),
        Input::File(file) => (format!("'connector' = 'file', 'path' = '{}', 'format' = 'raw'", file.display()), None),
        Input::Topic { bootstrap, topic, answers } => {
            let format = if case.json { "json" } else { "raw" };
            let bootstrap = format!("'connector' = 'kafka', 'properties.bootstrap.servers' = '{bootstrap}'");
            let end = if case.variant.is_some() { "unbounded" } else { "latest-offset" };
            let bounds = format!("'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = '{end}'");
            let written = match case.workload {
                Workload::ExactlyOnce => "'format' = 'raw'",
                _ => "'format' = 'json'",
            };
            let exactly = |answers: &String| match store {
                Some(_) => format!(", 'sink.progress-topic' = '{}'", kafka::progress_of(answers)),
                None => String::new(),
            };
            (
                format!("{bootstrap}, 'topic' = '{topic}', 'format' = '{format}', {bounds}"),
                answers
                    .as_ref()
                    .map(|answers| format!("{bootstrap}, 'topic' = '{answers}', {written}{}", exactly(answers))),
            )
        }
    };
    let writes = writes.unwrap_or_else(|| MEMORY.to_owned());
    let text =
        query.replace("{in}", &reads).replace("{out}", &writes).replace("{window}", &window_seconds(case).to_string());
    let mut connectors = Builtin::default().with_sink("out", sink);
    if let Some(source) = source {
        connectors = connectors.with_source("in", source);
    }
    planned(case, &text, &connectors, store)
}

/// The options of a table whose rows go to the sink called `out`.
const MEMORY: &str = "'connector' = 'memory', 'name' = 'out'";

fn planned(case: &Case, text: &str, connectors: &Builtin, store: Option<&Path>) -> Result<Plan> {
    let mut set: Vec<(String, String)> = Vec::new();
    set.extend(case.tick.iter().map(|tick| ("tick".to_owned(), tick.clone())));
    if let Some(store) = store {
        set.push(("checkpoint_store".to_owned(), store.display().to_string()));
        set.push(("checkpoint_interval".to_owned(), INTERVAL.to_owned()));
    }
    sql::plan(sql::Text { name: case.workload.name(), sql: text }, &set, connectors)
}

/// What is read from memory, made now.
fn source(case: &Case) -> Option<Arc<dyn Source>> {
    if case.input != Input::Memory {
        return None;
    }
    let splits = case.workers * case.processes;
    Some(match case.workload {
        Workload::WordCount | Workload::Kafka => Arc::new(MemorySource::new(data::lines_schema(), lines(case), splits)),
        Workload::Windowed | Workload::Checkpoints => {
            Arc::new(MemorySource::new(data::timed_lines_schema(), timed_lines(case), splits))
        }
        Workload::Latency => {
            let lines = MemorySource::new(data::timed_lines_schema(), timed_lines(case), splits);
            Arc::new(Paced { inner: lines, rows_per_second: PACE as f64 / data::LINE_WORDS as f64 / splits as f64 })
        }
        Workload::Json => Arc::new(Encoded { records: json_records(case).into(), splits }),
        Workload::Exchange => Arc::new(MemorySource::new(data::keyed_schema(), keyed_rows(case), splits)),
        Workload::Nexmark | Workload::Formats | Workload::Recovery | Workload::ExactlyOnce => return None,
    })
}

/// The lines of `case`.
pub fn lines(case: &Case) -> Vec<Batch> {
    data::Lines::new(case.rows, case.distinct, case.seed).batches()
}

/// The lines of `case` with their times. What lasts long repeats its words.
pub fn timed_lines(case: &Case) -> Vec<Batch> {
    let whole = data::LINE_WORDS * BATCH_ROWS as u64;
    let made = match case.workload {
        Workload::Latency => 16 * whole,
        Workload::Checkpoints => MADE_WORDS.min(case.rows).next_multiple_of(whole),
        _ => return data::timed(lines(case)),
    };
    let made = data::Lines::new(made, case.distinct, case.seed).batches();
    data::timed(data::repeated(&made, case.rows / data::LINE_WORDS))
}

/// The rows of `case` with their keys.
pub fn keyed_rows(case: &Case) -> Vec<Batch> {
    data::keyed(case.rows, case.distinct, case.seed)
}

/// The JSON of `case`.
pub fn json_records(case: &Case) -> Vec<BinaryArray> {
    data::json(case.rows, case.distinct, case.seed)
}

/// Rows go to the owner of their key, and end there.
fn exchange(case: &Case, sink: Arc<dyn Sink>) -> Plan {
    let schema = data::keyed_schema();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| Expr::column(field.name(), index)).collect();
    let settings = Settings { name: Workload::Exchange.name().into(), ..Settings::default() };
    let source = SourceStep {
        table: "rows".into(),
        connector: "memory".into(),
        source: source(case).expect("the exchange reads from memory"),
        columns,
        place: false,
        key: Vec::new(),
        time: None,
        idle_timeout: settings.idle_timeout,
        when_all_idle: WhenAllIdle::Hold,
        max_future: settings.max_future,
        bad: BadRecords::default(),
    };
    let step = |name: &str, action, inputs| Step {
        name: name.into(),
        action,
        inputs,
        schema: Arc::clone(&schema),
        emit: Emit::Append,
        lateness: 0,
    };
    let read = step("source rows", Action::Source(source), Vec::new());
    let input = crate::plan::Input { from: 0, route: Route::Key(vec![0]) };
    let sink = SinkStep {
        table: "moved".into(),
        connector: "memory".into(),
        sink,
        key_trusted: false,
        delivery: Delivery::AtLeastOnce,
    };
    Plan { settings, steps: vec![read, step("sink moved", Action::Sink(sink), vec![input])] }
}

/// JSON records in memory, which are decoded as they are read.
struct Encoded {
    records: Arc<[BinaryArray]>,
    splits: usize,
}

impl Source for Encoded {
    fn schema(&self) -> SchemaRef {
        data::json_schema()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, _: &Context) -> Result<Vec<String>> {
        Ok((0..self.splits).map(|split| split.to_string()).collect())
    }

    fn open(&self, splits: &[SplitStart], _: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |start: &SplitStart| {
            let name = &start.name;
            let first: usize = name.parse().map_err(|_| Error::internal(format!("'{name}' is no split")))?;
            let records: Vec<BinaryArray> = self.records.iter().skip(first).step_by(self.splits).cloned().collect();
            let schema = self.schema();
            let columns: Vec<usize> = (0..schema.fields().len()).collect();
            let decoder = Format::Json(json::Settings::default()).decoder(&schema, &columns)?;
            Ok(Box::new(EncodedSplit { records: records.into_iter(), decoder, position: 0 }) as Box<dyn Split>)
        };
        splits.iter().map(open).collect()
    }
}

struct EncodedSplit {
    records: std::vec::IntoIter<BinaryArray>,
    decoder: Box<dyn Decode>,
    position: u64,
}

impl Split for EncodedSplit {
    fn poll(&mut self, _: usize) -> Result<Polled> {
        let Some(records) = self.records.next() else { return Ok(Polled::Ended) };
        let rows =
            self.decoder.decode(&records).map_err(|bad| Error::data(bad.reason).within(self.place(bad.index)))?;
        self.position += records.len() as u64;
        Ok(Polled::Rows { rows, bytes: records.value_data().len() })
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn place(&self, row: usize) -> String {
        format!("record {} of its batch", row + 1)
    }
}

/// Rows that come no faster than so many a second in each split.
struct Paced {
    inner: MemorySource,
    rows_per_second: f64,
}

impl Source for Paced {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.inner.splits(context)
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let begin = context.clock.monotonic();
        let paced = |inner| -> Box<dyn Split> {
            Box::new(PacedSplit {
                inner,
                clock: Arc::clone(&context.clock),
                begin,
                rows_per_second: self.rows_per_second,
            })
        };
        Ok(self.inner.open(splits, context)?.into_iter().map(paced).collect())
    }
}

struct PacedSplit {
    inner: Box<dyn Split>,
    clock: Arc<dyn Clock>,
    begin: Duration,
    rows_per_second: f64,
}

impl Split for PacedSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let due = (self.clock.monotonic() - self.begin).as_secs_f64() * self.rows_per_second;
        match (due as u64).saturating_sub(self.inner.position()) {
            0 => Ok(Polled::Pending),
            rows => self.inner.poll(rows_max.min(rows as usize)),
        }
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn place(&self, row: usize) -> String {
        self.inner.place(row)
    }
}
