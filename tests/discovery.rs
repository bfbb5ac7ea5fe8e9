//! Splits that come while a pipeline runs.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::connector::{Context, Polled, Source, Split, SplitStart};
use highwater::error::{Error, Result};
use pipeline::{SECOND, SHAPES, assert_same, expected, run_with, sorted};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[path = "support/pipeline.rs"]
mod pipeline;

/// How many splits there are in the end.
const SPLITS: usize = 3;

/// Split 0 is there first, then reads far ahead; the others come later, with rows that only they can hold the watermark for.
#[derive(Default)]
struct Growing {
    /// Split 0 has to be found, too.
    empty: bool,
    fails: bool,
    opened: AtomicUsize,
    started: AtomicBool,
    ahead: AtomicBool,
    ended: AtomicUsize,
}

impl Source for Handle {
    fn schema(&self) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        Arc::new(Schema::new(vec![Field::new("ts", time, true), Field::new("n", DataType::Int64, true)]))
    }

    fn bounded(&self) -> bool {
        false
    }

    fn splits(&self, _: &Context) -> Result<Vec<String>> {
        Ok(if self.0.empty { Vec::new() } else { vec!["0".into()] })
    }

    // once all are read there is nothing more to look for, and the pipeline can end
    fn discovery_interval(&self) -> Option<Duration> {
        (self.0.opened.load(SeqCst) < SPLITS).then_some(Duration::from_millis(5))
    }

    fn discover(&self, known: &[String], _: &Context) -> Result<Vec<String>> {
        match known.len() {
            0 => Ok(vec!["0".into()]),
            1 if self.0.started.load(SeqCst) && self.0.fails => Err(Error::invalid("it may not be read")),
            1 if self.0.started.load(SeqCst) => Ok(vec!["1".into(), "2".into()]),
            _ => Ok(Vec::new()),
        }
    }

    fn open(&self, splits: &[SplitStart], _: &Context) -> Result<Vec<Box<dyn Split>>> {
        self.0.opened.fetch_add(splits.len(), SeqCst);
        let open = |SplitStart { name, .. }: &SplitStart| {
            let number = name.parse().unwrap();
            Box::new(GrowingSplit { shared: Arc::clone(&self.0), number, step: 0, since: None }) as Box<dyn Split>
        };
        Ok(splits.iter().map(open).collect())
    }
}

/// Shared by the source's processes.
#[derive(Clone)]
struct Handle(Arc<Growing>);

struct GrowingSplit {
    shared: Arc<Growing>,
    number: usize,
    step: u64,
    since: Option<Instant>,
}

/// One row for each of these seconds, with 1 to be summed up.
fn rows(schema: SchemaRef, seconds: impl IntoIterator<Item = i64>) -> Polled {
    let times: Vec<i64> = seconds.into_iter().map(|second| second * SECOND).collect();
    let ones: ArrayRef = Arc::new(Int64Array::from(vec![1; times.len()]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times));
    Polled::Rows { rows: RecordBatch::try_new(schema, vec![times, ones]).unwrap(), bytes: 100 }
}

impl Split for GrowingSplit {
    fn poll(&mut self, _: usize) -> Result<Polled> {
        let shared = &self.shared;
        let schema = Handle(Arc::clone(shared)).schema();
        let ready = match (self.number, self.step) {
            (0, 0) => true,
            (0, 1) => shared.opened.load(SeqCst) == SPLITS,
            (0, _) => shared.ended.load(SeqCst) == SPLITS - 1,
            // many epochs after split 0 has gone ahead
            (_, 0) if shared.ahead.load(SeqCst) => {
                self.since.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(200)
            }
            (_, 0) => false,
            _ => true,
        };
        if !ready {
            return Ok(Polled::Pending);
        }
        self.step += 1;
        Ok(match (self.number, self.step) {
            (0, 1) => {
                shared.started.store(true, SeqCst);
                rows(schema, 0..10)
            }
            (0, 2) => {
                shared.ahead.store(true, SeqCst);
                rows(schema, [1000])
            }
            (_, 1) => rows(schema, 10..20),
            (number, step) => {
                shared.ended.fetch_add(usize::from(number > 0 && step == 2), SeqCst);
                Polled::Ended
            }
        })
    }

    fn position(&self) -> u64 {
        self.step
    }

    fn place(&self, _: usize) -> String {
        format!("split {}", self.number)
    }
}

fn connectors(source: Growing) -> (Builtin, MemorySink) {
    let sink = MemorySink::new();
    let source = Handle(Arc::new(source));
    (Builtin::default().with_source("t", Arc::new(source)).with_sink("out", Arc::new(sink.clone())), sink)
}

const SQL: &str = "SET 'tick' = '10 ms';
    CREATE TABLE t (ts TIMESTAMP(6), n BIGINT, WATERMARK FOR ts AS ts) WITH ('connector' = 'memory');
    CREATE TABLE out (at BIGINT, n BIGINT) WITH ('connector' = 'memory');
    INSERT INTO out SELECT CAST(window_start AS BIGINT) / 1000000, sum(n) FROM tumble(t, ts, INTERVAL '10' SECOND) GROUP BY window_start;";

#[test]
fn splits_that_come_later_are_read_and_hold_the_watermark() {
    for empty in [false, true] {
        for shape in SHAPES {
            let (connectors, sink) = connectors(Growing { empty, ..Growing::default() });
            let (snapshot, result) = run_with(SQL, &connectors, shape);
            result.unwrap();
            let rows = expected(["0 10", "10 20", "1000 1"].map(str::to_owned));
            assert_same(&sorted(&sink), &rows, &format!("{shape:?}"));
            assert_eq!(snapshot.late_rows(), 0, "{shape:?}");
        }
    }
}

#[test]
fn what_no_waiting_will_mend_ends_the_run() {
    for shape in SHAPES {
        let (connectors, _) = connectors(Growing { fails: true, ..Growing::default() });
        let error = run_with(SQL, &connectors, shape).1.unwrap_err();
        assert!(error.to_string().contains("table \"t\": it may not be read"), "{error}");
    }
}
