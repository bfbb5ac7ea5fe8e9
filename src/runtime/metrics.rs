//! What a run counts: a row of cells for each step on each worker, written once a batch or once an activation, read by whoever shows it.
//!
//! The cells of a step on a worker are written by that worker alone, so writers never wait for each other; `exposition` gives all of
//! them to Prometheus, [`Snapshot`] to a person.

mod exposition;

use crate::plan::{Action, Plan};
use crate::time::{Clock, Micros, Watermark};
use prometheus_client::metrics::histogram::Histogram;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The counters of one process.
pub struct Metrics {
    /// The pipeline's name.
    pipeline: String,
    /// One for each step of the plan, in its order.
    steps: Vec<StepMetrics>,
    /// The number of the process's first worker.
    first: usize,
    clock: Arc<dyn Clock>,
    /// The number of ticks given; on worker 0's process only.
    pub(super) epochs_opened: AtomicU64,
    /// The number of epochs that every sink has finished; on worker 0's process only.
    pub(super) epochs_finished: AtomicU64,
    /// From a tick to the end of its epoch everywhere, in seconds; on worker 0's process only.
    epoch_seconds: Histogram,
    /// The same for the last few thousand, in microseconds.
    epoch_micros: Mutex<VecDeque<u32>>,
    /// Committed, and the last one's epoch; on worker 0's process only.
    checkpoints: AtomicU64,
    checkpoint_epoch: AtomicU64,
    /// From the end of a checkpoint's epoch until it is committed, in seconds; on worker 0's process only.
    checkpoint_seconds: Histogram,
}

/// The counters of one step.
struct StepMetrics {
    name: String,
    role: Role,
    /// One for each worker of this process; empty until the step is built there. A step that only joins edges never is.
    workers: Vec<OnceLock<Arc<StepCells>>>,
}

/// The counters of one step on one worker.
#[derive(Debug)]
pub struct StepCells {
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    batches_in: AtomicU64,
    batches_out: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    exchanged_bytes: AtomicU64,
    errors: AtomicU64,
    late_rows: AtomicU64,
    bad_records: AtomicU64,
    /// [`Micros::MIN`] for none.
    watermark: AtomicI64,
    /// [`UNKNOWN`] where the outside does not say.
    lag_rows: AtomicU64,
    busy_nanos: AtomicU64,
    /// Of a step that looks keys up: those that it knew and those that it did not; answers, and the time that they took; and how many it
    /// remembers, [`UNKNOWN`] for any other step.
    lookup_hits: AtomicU64,
    lookup_misses: AtomicU64,
    lookup_answers: AtomicU64,
    lookup_nanos: AtomicU64,
    lookup_keys: AtomicU64,
    /// Of served views.
    held_rows: AtomicU64,
    held_bytes: AtomicU64,
}

/// A lag that nobody knows.
const UNKNOWN: u64 = u64::MAX;

/// A step's part in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads from outside.
    Source,
    /// Writes to the outside.
    Sink,
    /// Asks the outside for the rows of keys.
    Lookup,
    /// Holds the rows of a view for whoever asks.
    View,
    /// Anything between.
    Inner,
}

/// How many epoch latencies are kept.
const LATENCIES: usize = 4096;

/// Bounds of the epochs' histogram, in seconds: a tick is 0.1 of them, or 0.01.
const EPOCH_SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl StepCells {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        StepCells {
            rows_in: zero(),
            rows_out: zero(),
            batches_in: zero(),
            batches_out: zero(),
            read_bytes: zero(),
            written_bytes: zero(),
            exchanged_bytes: zero(),
            errors: zero(),
            late_rows: zero(),
            bad_records: zero(),
            watermark: AtomicI64::new(Micros::MIN),
            lag_rows: AtomicU64::new(UNKNOWN),
            busy_nanos: zero(),
            lookup_hits: zero(),
            lookup_misses: zero(),
            lookup_answers: zero(),
            lookup_nanos: zero(),
            lookup_keys: AtomicU64::new(UNKNOWN),
            held_rows: zero(),
            held_bytes: zero(),
        }
    }

    /// A batch has come in.
    pub(super) fn takes(&self, rows: usize) {
        self.rows_in.fetch_add(rows as u64, Relaxed);
        self.batches_in.fetch_add(1, Relaxed);
    }

    /// A batch has left.
    pub(super) fn gives(&self, rows: usize) {
        self.rows_out.fetch_add(rows as u64, Relaxed);
        self.batches_out.fetch_add(1, Relaxed);
    }

    /// So much was read from outside, and so many of the records were bad.
    pub(super) fn read(&self, bytes: usize, bad_records: usize) {
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
        self.bad_records.fetch_add(bad_records as u64, Relaxed);
    }

    /// So much was written to the outside.
    pub(super) fn wrote(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Relaxed);
    }

    /// So much of the step's input was encoded for another process.
    pub(super) fn exchanged(&self, bytes: usize) {
        self.exchanged_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// The step failed, which ends the run.
    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// An epoch is complete.
    pub(super) fn complete(&self, mark: Watermark, late_rows: u64) {
        self.reached(mark);
        self.late_rows.fetch_add(late_rows, Relaxed);
    }

    /// The watermark is there now.
    pub(super) fn reached(&self, mark: Watermark) {
        self.watermark.store(mark.micros(), Relaxed);
    }

    /// So many rows wait outside, if it says so.
    pub(super) fn lags(&self, rows: Option<u64>) {
        self.lag_rows.store(rows.unwrap_or(UNKNOWN), Relaxed);
    }

    /// So many keys were known, and so many not.
    pub(super) fn looked_up(&self, hits: u64, misses: u64) {
        self.lookup_hits.fetch_add(hits, Relaxed);
        self.lookup_misses.fetch_add(misses, Relaxed);
    }

    /// A question was answered after `took`.
    pub(super) fn asked(&self, took: Duration) {
        self.lookup_answers.fetch_add(1, Relaxed);
        self.lookup_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// So many keys are remembered.
    pub(super) fn remembers(&self, keys: usize) {
        self.lookup_keys.store(keys as u64, Relaxed);
    }

    /// So much is in memory for whoever asks.
    pub(super) fn holds(&self, rows: usize, bytes: usize) {
        self.held_rows.store(rows as u64, Relaxed);
        self.held_bytes.store(bytes as u64, Relaxed);
    }

    /// Rows in memory for whoever asks.
    pub(super) fn held_rows(&self) -> u64 {
        self.held_rows.load(Relaxed)
    }

    /// Counts the time until what it gives is dropped as time in the step.
    pub(super) fn busy<'a>(&'a self, clock: &'a dyn Clock) -> Busy<'a> {
        Busy { cells: self, clock, since: clock.monotonic() }
    }

    fn remembered(&self) -> Option<u64> {
        Some(self.lookup_keys.load(Relaxed)).filter(|keys| *keys != UNKNOWN)
    }

    fn lag(&self) -> Option<u64> {
        Some(self.lag_rows.load(Relaxed)).filter(|rows| *rows != UNKNOWN)
    }

    fn mark(&self) -> Watermark {
        Watermark::at(self.watermark.load(Relaxed))
    }

    /// What can be summed over workers and processes.
    fn additive(&self, role: Role) -> [u64; ADDITIVE] {
        let rows = if role == Role::Source { &self.rows_out } else { &self.rows_in };
        let bytes = if role == Role::Sink { &self.written_bytes } else { &self.read_bytes };
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        [read(rows), read(bytes), read(&self.late_rows), self.lag().unwrap_or_default(), read(&self.bad_records)]
    }
}

/// An operator's turn.
pub(super) struct Busy<'a> {
    cells: &'a StepCells,
    clock: &'a dyn Clock,
    since: Duration,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let spent = self.clock.monotonic().saturating_sub(self.since);
        self.cells.busy_nanos.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Metrics {
    /// Counters for `plan` on a process with `workers` workers, the first of which has number `first`. All zero.
    pub(super) fn new(plan: &Plan, first: usize, workers: usize, clock: Arc<dyn Clock>) -> Self {
        let steps = plan.steps.iter().map(|step| StepMetrics {
            name: step.name.clone(),
            role: match step.action {
                Action::Source(_) => Role::Source,
                Action::Sink(_) => Role::Sink,
                Action::Lookup(_) => Role::Lookup,
                Action::View(_) => Role::View,
                _ => Role::Inner,
            },
            workers: (0..workers).map(|_| OnceLock::new()).collect(),
        });
        Metrics {
            pipeline: plan.settings.name.clone(),
            steps: steps.collect(),
            first,
            clock,
            epochs_opened: AtomicU64::new(0),
            epochs_finished: AtomicU64::new(0),
            epoch_seconds: Histogram::new(EPOCH_SECONDS),
            epoch_micros: Mutex::default(),
            checkpoints: AtomicU64::new(0),
            checkpoint_epoch: AtomicU64::new(0),
            checkpoint_seconds: Histogram::new(EPOCH_SECONDS),
        }
    }

    /// Notes that a checkpoint is committed, so long after the end of its epoch.
    pub(super) fn checkpoint_committed(&self, epoch: u64, took: Duration) {
        self.checkpoints.fetch_add(1, Relaxed);
        self.checkpoint_epoch.store(epoch, Relaxed);
        self.checkpoint_seconds.observe(took.as_secs_f64());
    }

    /// The cells of step `id` on worker `worker`, which is one of this process.
    pub(super) fn cells(&self, id: usize, worker: usize) -> Arc<StepCells> {
        Arc::clone(self.steps[id].workers[worker - self.first].get_or_init(|| Arc::new(StepCells::new())))
    }

    /// Notes that an epoch was finished everywhere, so long after its tick.
    pub(super) fn epoch_finished(&self, took: Duration) {
        self.epoch_seconds.observe(took.as_secs_f64());
        let mut latencies = self.epoch_micros.lock().unwrap_or_else(PoisonError::into_inner);
        if latencies.len() == LATENCIES {
            latencies.pop_front();
        }
        latencies.push_back(took.as_micros().try_into().unwrap_or(u32::MAX));
    }

    fn epochs_in_flight(&self) -> u64 {
        self.epochs_opened.load(Relaxed).saturating_sub(self.epochs_finished.load(Relaxed))
    }

    /// The additive counters, in a fixed order, so that the processes of a run can be summed.
    pub(super) fn share(&self) -> Vec<u64> {
        self.steps.iter().flat_map(StepMetrics::additive).collect()
    }

    /// What is counted now, with the `shares` of other processes added.
    pub(super) fn snapshot(&self, shares: &[Vec<u64>]) -> Snapshot {
        let steps = self.steps.iter().enumerate().map(|(number, step)| {
            let own = step.additive();
            let sum =
                |n: usize| own[n] + shares.iter().filter_map(|share| share.get(number * ADDITIVE + n)).sum::<u64>();
            let marks = step.cells().map(|(_, cells)| cells.mark()).filter(|mark| *mark != Watermark::NONE);
            StepSnapshot {
                name: step.name.clone(),
                role: step.role,
                rows: sum(0),
                bytes: sum(1),
                late_rows: sum(2),
                lag_rows: sum(3),
                bad_records: sum(4),
                watermark: marks.min().unwrap_or(Watermark::NONE),
            }
        });
        let latencies = self.epoch_micros.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latencies: Vec<u32> = latencies.iter().copied().collect();
        latencies.sort_unstable();
        let at = |share: usize| {
            latencies.get((latencies.len() * share / 100).min(latencies.len().saturating_sub(1))).copied()
        };
        Snapshot {
            steps: steps.collect(),
            epochs_in_flight: self.epochs_in_flight(),
            epochs: self.epochs_finished.load(Relaxed),
            epoch_micros: at(50).zip(at(99)),
        }
    }
}

/// How many counters of a step can be summed over processes.
const ADDITIVE: usize = 5;

impl StepMetrics {
    /// The cells of each worker that has built the step, by the worker's place in the process.
    fn cells(&self) -> impl Iterator<Item = (usize, &StepCells)> {
        self.workers.iter().enumerate().filter_map(|(place, cells)| Some((place, cells.get()?.as_ref())))
    }

    fn additive(&self) -> [u64; ADDITIVE] {
        self.cells().fold([0; ADDITIVE], |sums, (_, cells)| {
            let own = cells.additive(self.role);
            std::array::from_fn(|n| sums[n] + own[n])
        })
    }
}

/// The counters of all processes at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// One for each step of the plan, in its order.
    pub steps: Vec<StepSnapshot>,
    /// Epochs that have begun and that some sink has not finished.
    pub epochs_in_flight: u64,
    /// Epochs that every sink has finished.
    pub epochs: u64,
    /// From a tick to the end of its epoch everywhere, in microseconds: the median and the 99th percentile of the last few thousand.
    pub epoch_micros: Option<(u32, u32)>,
}

/// The counters of one step at one moment.
#[derive(Debug, Clone)]
pub struct StepSnapshot {
    /// The step's name.
    pub name: String,
    /// Its part in the pipeline.
    pub role: Role,
    /// Rows read by a source, given to a sink, or taken in by anything else.
    pub rows: u64,
    /// Bytes read by a source, or written by a sink that knows.
    pub bytes: u64,
    /// Rows that came after their window had closed.
    pub late_rows: u64,
    /// Rows that are known to wait outside, by sources.
    pub lag_rows: u64,
    /// Records that could not be read, by sources that bear them.
    pub bad_records: u64,
    /// The watermark as this process knows it.
    pub watermark: Watermark,
}

impl Snapshot {
    /// Rows of all steps of one role.
    pub fn rows(&self, role: Role) -> u64 {
        self.steps.iter().filter(|step| step.role == role).map(|step| step.rows).sum()
    }

    /// Rows that came after their window had closed.
    pub fn late_rows(&self) -> u64 {
        self.steps.iter().map(|step| step.late_rows).sum()
    }

    /// Records that could not be read, of sources that bear them.
    pub fn bad_records(&self) -> u64 {
        self.steps.iter().map(|step| step.bad_records).sum()
    }
}
