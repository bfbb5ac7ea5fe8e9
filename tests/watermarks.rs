//! Event time under a clock that the test holds: idle splits, the future guard, rows without event time, a clean stop.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::connector::{Changes, Context, Polled, Shard, Sink, Source, Split, SplitStart};
use highwater::error::{Error, ErrorKind, Result};
use highwater::runtime::fate::Fate;
use highwater::runtime::metrics::{Role, Snapshot};
use highwater::runtime::{self, Running, Workers};
use highwater::time::{Clock, Micros};
use pipeline::{MINUTE, SECOND, expected, plan, sorted, within};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

#[path = "support/pipeline.rs"]
mod pipeline;

/// Where the clock stands at first.
const START: Micros = 1_700_000_000 * SECOND;
const TICK: Duration = Duration::from_millis(10);

/// A clock that moves when it is told to.
#[derive(Default)]
struct Hands(Mutex<Duration>);

impl Clock for Hands {
    fn wall(&self) -> Micros {
        START + self.monotonic().as_micros() as Micros
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// What a split will give, and whether it has been asked since it had nothing more.
#[derive(Default)]
struct Line {
    steps: VecDeque<Option<RecordBatch>>,
    asked_in_vain: bool,
}

/// A source whose splits give what the test pushes; `None` is a split's end.
#[derive(Clone)]
struct Scripted(Vec<Arc<Mutex<Line>>>);

struct ScriptedSplit {
    number: usize,
    line: Arc<Mutex<Line>>,
    position: u64,
    polled: u64,
}

impl Source for Scripted {
    fn schema(&self) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        Arc::new(Schema::new(vec![Field::new("ts", time, true), Field::new("n", DataType::Int64, true)]))
    }

    fn bounded(&self) -> bool {
        false
    }

    fn splits(&self, _: &Context) -> Result<Vec<String>> {
        Ok((0..self.0.len()).map(|number| number.to_string()).collect())
    }

    fn open(&self, splits: &[SplitStart], _: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |SplitStart { name, .. }: &SplitStart| {
            let number: usize = name.parse().unwrap();
            Box::new(ScriptedSplit { number, line: Arc::clone(&self.0[number]), position: 0, polled: 0 })
                as Box<dyn Split>
        };
        Ok(splits.iter().map(open).collect())
    }
}

impl Split for ScriptedSplit {
    fn poll(&mut self, _: usize) -> Result<Polled> {
        let mut line = self.line.lock().unwrap();
        Ok(match line.steps.pop_front() {
            Some(Some(rows)) => {
                line.asked_in_vain = false;
                self.polled = rows.num_rows() as u64;
                self.position += self.polled;
                Polled::Rows { bytes: rows.num_rows() * 1000, rows }
            }
            Some(None) => Polled::Ended,
            None => {
                line.asked_in_vain = true;
                Polled::Pending
            }
        })
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn place(&self, row: usize) -> String {
        format!("split {}, offset {}", self.number, self.position - self.polled + row as u64)
    }
}

/// A sink that acknowledges nothing until it is open.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Sink for Gate {
    fn single(&self) -> bool {
        false
    }

    fn open(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(self.clone()))
    }

    fn changes(&self) -> Changes {
        Changes::AppendOnly
    }
}

impl Shard for Gate {
    fn write(&mut self, _: RecordBatch) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        Ok(self.0.load(Ordering::Acquire))
    }
}

/// A pipeline that counts in windows of ten seconds, its clock and its source.
struct Rig {
    clock: Arc<Hands>,
    source: Scripted,
    sink: MemorySink,
    gate: Gate,
    /// Before `running`, whose drop waits for the end.
    _ends: Ends,
    running: Running,
}

/// Stops the pipeline of a test that has failed.
struct Ends(Arc<Fate>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fail(Error::internal("the test has failed"));
    }
}

impl Rig {
    fn start(splits: usize, workers: usize, settings: &str, further: &str) -> Rig {
        let clock = Arc::new(Hands::default());
        let (source, sink, gate) =
            (Scripted((0..splits).map(|_| Arc::default()).collect()), MemorySink::new(), Gate::default());
        let text = format!(
            "SET 'tick' = '10 ms'; {settings}
             CREATE TABLE t (ts TIMESTAMP(6), n BIGINT, WATERMARK FOR ts AS ts) WITH ('connector' = 'memory');
             CREATE TABLE counts (a BIGINT, n BIGINT) WITH ('connector' = 'memory');
             CREATE TABLE gate (n BIGINT) WITH ('connector' = 'memory');
             INSERT INTO counts SELECT CAST(window_start AS BIGINT), count(*) FROM tumble(t, ts, INTERVAL '10' SECOND) GROUP BY window_start;
             {further}"
        );
        let connectors = Builtin::default()
            .with_source("t", Arc::new(source.clone()))
            .with_sink("counts", Arc::new(sink.clone()))
            .with_sink("gate", Arc::new(gate.clone()));
        let running = runtime::start(
            plan(&text, &connectors),
            Workers::Threads(workers),
            None,
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        let running = running.unwrap();
        let rig = Rig { clock, source, sink, gate, _ends: Ends(running.fate()), running };
        rig.settle();
        rig
    }

    /// Gives `split` rows at these seconds after the start.
    fn push(&self, split: usize, seconds: &[i64]) {
        let times = seconds.iter().map(|second| Some(START + second * SECOND));
        self.push_times(split, times.collect());
    }

    fn push_times(&self, split: usize, times: Vec<Option<Micros>>) {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..times.len() as i64));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times));
        let rows = RecordBatch::try_new(self.source.schema(), vec![times, numbers]).unwrap();
        self.source.0[split].lock().unwrap().steps.push_back(Some(rows));
    }

    /// Waits until `done`, or fails the test.
    fn wait(&self, what: &str, done: impl Fn(&Rig) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            sleep(Duration::from_millis(2));
        }
        panic!("no {what} after 20 seconds; {:?}", self.running.snapshot());
    }

    /// Waits until every split was asked in vain.
    fn settle(&self) {
        let settled = |line: &Arc<Mutex<Line>>| {
            let line = line.lock().unwrap();
            line.steps.is_empty() && line.asked_in_vain
        };
        self.source.0.iter().for_each(|line| line.lock().unwrap().asked_in_vain = false);
        self.wait("quiet", |rig| rig.source.0.iter().all(settled));
    }

    /// Lets the clock go on, which ends an epoch, and waits for the end of that everywhere.
    fn pass(&self, time: Duration) {
        let before = self.running.snapshot().epochs;
        *self.clock.0.lock().unwrap() += time;
        self.wait("end of the epoch", |rig| rig.running.snapshot().epochs > before);
    }

    /// Ends an epoch after all that was pushed.
    fn tick(&self) {
        self.settle();
        self.pass(TICK);
    }

    /// The windows that have closed, by the second in which they start, with their counts.
    fn closed(&self) -> Vec<String> {
        let second = |row: String| {
            let (start, count) = row.split_once(' ').unwrap();
            format!("{}: {count}", (start.parse::<i64>().unwrap() - START) / SECOND)
        };
        sorted(&self.sink).into_iter().map(second).collect()
    }

    fn expect(&self, closed: &[&str]) {
        assert_eq!(expected(self.closed()), expected(closed.iter().map(|window| (*window).to_owned())));
    }

    /// Stops it, and answers what was counted.
    fn stop(self) -> Snapshot {
        self.running.fate().stop();
        let (snapshot, result) = self.running.wait();
        result.unwrap();
        snapshot
    }
}

fn test(check: impl FnOnce() + Send + 'static) {
    within(MINUTE, "the pipeline", check);
}

#[test]
fn the_slowest_split_holds_the_windows() {
    test(|| {
        for workers in [1, 2, 3] {
            let rig = Rig::start(2, workers, "", "");
            rig.push(0, &[1, 12, 31]);
            rig.tick();
            rig.expect(&[]);
            rig.push(1, &[2, 10]);
            rig.tick();
            rig.expect(&["0: 2"]);
            rig.push(1, &[3, 40]); // 3 is late
            rig.tick();
            rig.expect(&["0: 2", "10: 2"]);
            // a split that has ended holds nothing
            rig.source.0[1].lock().unwrap().steps.push_back(None);
            rig.push(0, &[50]);
            rig.wait("end of the split", |rig| rig.source.0.iter().all(|line| line.lock().unwrap().steps.is_empty()));
            rig.pass(TICK);
            rig.pass(TICK);
            rig.expect(&["0: 2", "10: 2", "30: 1", "40: 1"]);
            assert_eq!(rig.stop().late_rows(), 1);
        }
    });
}

#[test]
fn an_idle_split_holds_nothing_and_its_rows_are_late_when_it_wakes() {
    test(|| {
        for workers in [1, 2] {
            let rig = Rig::start(2, workers, "SET 'idle_timeout' = '1s';", "");
            rig.push(0, &[1]);
            rig.push(1, &[2, 25]);
            rig.tick();
            rig.pass(Duration::from_millis(600));
            rig.push(1, &[26]);
            rig.tick();
            rig.expect(&[]);
            rig.pass(Duration::from_millis(600)); // 1.2 s since split 0 spoke, 0.6 since split 1 did
            rig.expect(&["0: 2"]);
            rig.push(0, &[3, 27]); // 3 is late, 27 is not; split 0 counts again
            rig.push(1, &[45]);
            rig.tick();
            rig.expect(&["0: 2"]);
            rig.push(0, &[31]);
            rig.tick();
            rig.expect(&["0: 2", "20: 3"]);
            assert_eq!(rig.stop().late_rows(), 1);
        }
    });
}

#[test]
fn without_an_idle_timeout_a_silent_split_holds_for_ever() {
    test(|| {
        let rig = Rig::start(2, 2, "SET 'idle_timeout' = 'off';", "");
        rig.push(1, &[2, 25]);
        rig.tick();
        rig.pass(Duration::from_secs(1_000_000));
        rig.expect(&[]);
        rig.stop();
    });
}

#[test]
fn when_all_are_idle_the_watermark_holds_or_follows_the_wall_clock() {
    test(|| {
        for workers in [1, 3] {
            let rig = Rig::start(2, workers, "SET 'idle_timeout' = '1s';", "");
            rig.push(0, &[1]);
            rig.push(1, &[2, 25]);
            rig.tick();
            rig.pass(Duration::from_secs(3600));
            rig.expect(&[]);
            rig.stop();

            let rig = Rig::start(2, workers, "SET 'idle_timeout' = '1s'; SET 'when_all_idle' = 'wall_clock';", "");
            rig.push(0, &[1]);
            rig.push(1, &[2, 25]);
            rig.tick();
            rig.pass(Duration::from_millis(10_990)); // the clock is at 11.0, a timeout before that at 10.0
            rig.expect(&["0: 2"]);
            rig.pass(Duration::from_secs(30));
            rig.expect(&["0: 2", "20: 1"]);
            rig.push(1, &[35, 45]);
            rig.tick();
            rig.expect(&["0: 2", "20: 1"]);
            assert_eq!(rig.stop().late_rows(), 1);
        }
    });
}

#[test]
fn a_split_that_waits_for_the_sinks_is_not_idle() {
    test(|| {
        let settings = "SET 'idle_timeout' = '1s'; SET 'inflight_bytes' = '2500'; SET 'inflight_epochs' = '8';";
        let rig = Rig::start(2, 2, settings, "INSERT INTO gate SELECT n FROM t WHERE n >= 0;");
        let in_flight =
            |rig: &Rig, epochs: u64| rig.wait("tick", |rig| rig.running.snapshot().epochs_in_flight >= epochs);
        let pass = |rig: &Rig, time: Duration| {
            let before = rig.running.snapshot().epochs_in_flight;
            *rig.clock.0.lock().unwrap() += time;
            in_flight(rig, before + 1);
            sleep(Duration::from_millis(50));
        };
        rig.push(0, &[1, 1, 1]); // its worker's budget is spent
        rig.push(1, &[1]);
        rig.settle_but(0);
        rig.push(0, &[2]);
        pass(&rig, TICK);
        pass(&rig, Duration::from_secs(5));
        rig.push(1, &[25]);
        rig.settle_but(0);
        pass(&rig, TICK);
        pass(&rig, TICK);
        rig.expect(&[]);
        rig.gate.0.store(true, Ordering::Release);
        rig.push(0, &[30]);
        rig.tick();
        rig.tick();
        rig.expect(&["0: 5"]);
        assert_eq!(rig.stop().late_rows(), 0);
    });
}

impl Rig {
    /// Waits until every split but one was asked in vain, and that one for a while.
    fn settle_but(&self, split: usize) {
        let others = |rig: &Rig| {
            rig.source
                .0
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != split)
                .all(|(_, line)| line.lock().unwrap().asked_in_vain)
        };
        self.source.0.iter().for_each(|line| line.lock().unwrap().asked_in_vain = false);
        self.wait("quiet", others);
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_row_from_too_far_ahead_is_a_bad_record() {
    test(|| {
        let rig = Rig::start(2, 2, "SET 'max_future' = '1h';", "");
        rig.push(1, &[1, 3600]);
        rig.tick();
        rig.push(1, &[2, 3601, 3]);
        let (_, result) = rig.running.wait();
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        let text = error.to_string();
        assert!(text.contains("split 1, offset 3") && text.contains("1h ahead of the wall clock"), "{text}");
        assert!(error.advice().unwrap().contains("max_future"));
    });
}

#[test]
fn a_row_without_event_time_is_a_bad_record() {
    test(|| {
        let rig = Rig::start(1, 2, "", "");
        rig.push(0, &[1]);
        rig.push_times(0, vec![Some(START), None]);
        let (_, result) = rig.running.wait();
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().contains("split 0, offset 2: the event time \"ts\" is NULL")),
            (ErrorKind::Data, true),
            "{error}"
        );
    });
}

#[test]
fn a_stop_writes_what_was_read_and_closes_no_window() {
    test(|| {
        for workers in [1, 2] {
            let rig = Rig::start(2, workers, "", "INSERT INTO counts SELECT n, -n FROM t WHERE n > 0;");
            rig.push(0, &[1, 12, 13]);
            rig.push(1, &[1]);
            rig.settle();
            let (source, sink) = (rig.source.clone(), rig.sink.clone());
            let snapshot = rig.stop();
            assert_eq!(snapshot.rows(Role::Source), 4);
            assert_eq!(sorted(&sink), ["1 -1", "2 -2"]);
            assert!(source.0.iter().all(|line| line.lock().unwrap().steps.is_empty()));
        }
    });
}

#[test]
fn a_slow_sink_stops_the_sources_within_their_budget() {
    test(|| {
        for workers in [1, 2] {
            let settings = "SET 'inflight_bytes' = '100_000'; SET 'inflight_epochs' = '1000';";
            let rig = Rig::start(4, workers, settings, "INSERT INTO gate SELECT n FROM t WHERE n >= 0;");
            let push = |rows: usize| (0..4).for_each(|split| (0..rows).for_each(|_| rig.push(split, &[1; 10])));
            let read = |rig: &Rig| rig.running.snapshot().rows(Role::Source);
            push(50); // 2000 rows, which count as 1000 bytes each
            rig.wait("full budget", |rig| read(rig) >= 100 * workers as u64);
            for _ in 0..20 {
                *rig.clock.0.lock().unwrap() += TICK;
                sleep(Duration::from_millis(5));
            }
            assert_eq!(read(&rig), 100 * workers as u64, "on {workers} workers: epochs do not widen the budget");
            rig.gate.0.store(true, Ordering::Release);
            rig.wait("end of all rows", |rig| {
                *rig.clock.0.lock().unwrap() += TICK;
                read(rig) == 2000
            });
            rig.stop();
        }
    });
}
