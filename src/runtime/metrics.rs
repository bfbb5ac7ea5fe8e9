//! What a run counts: one cell for each step, written by workers once a batch, read by whoever shows it.

use crate::plan::{Action, Plan};
use crate::time::{Micros, Watermark};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    /// One for each step of the plan, in its order.
    pub steps: Vec<StepMetrics>,
    /// The number of ticks given; on worker 0's process only.
    pub epochs_opened: AtomicU64,
    /// The number of epochs that every sink has finished.
    pub epochs_finished: AtomicU64,
    /// From a tick to the end of its epoch everywhere, the last few thousand, in microseconds; on worker 0's process only.
    pub epoch_micros: std::sync::Mutex<std::collections::VecDeque<u32>>,
}

/// The counters of one step.
#[derive(Debug)]
pub struct StepMetrics {
    /// The step's name.
    pub name: String,
    /// What kind of step it is, as far as a reader of counters cares.
    pub role: Role,
    /// Rows read by a source, given to a sink, or taken in by anything else.
    pub rows: AtomicU64,
    /// Bytes read, by sources.
    pub bytes: AtomicU64,
    /// Rows that came after their window had closed.
    pub late_rows: AtomicU64,
    /// The watermark of the last complete epoch.
    pub watermark: AtomicI64,
    /// Rows that are known to wait outside, by sources.
    pub lag_rows: AtomicU64,
}

/// A step's part in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads from outside.
    Source,
    /// Writes to the outside.
    Sink,
    /// Anything between.
    Inner,
}

/// How many epoch latencies are kept.
const LATENCIES: usize = 4096;

impl Metrics {
    /// Counters for `plan`, all zero.
    pub fn new(plan: &Plan) -> Self {
        let steps = plan.steps.iter().map(|step| StepMetrics {
            name: step.name.clone(),
            role: match step.action {
                Action::Source(_) => Role::Source,
                Action::Sink(_) => Role::Sink,
                _ => Role::Inner,
            },
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            late_rows: AtomicU64::new(0),
            watermark: AtomicI64::new(Micros::MIN),
            lag_rows: AtomicU64::new(0),
        });
        Metrics {
            steps: steps.collect(),
            epochs_opened: AtomicU64::new(0),
            epochs_finished: AtomicU64::new(0),
            epoch_micros: Default::default(),
        }
    }

    /// Notes that an epoch was finished everywhere, `micros` after its tick.
    pub(super) fn epoch_finished(&self, micros: u32) {
        let mut latencies = self.epoch_micros.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if latencies.len() == LATENCIES {
            latencies.pop_front();
        }
        latencies.push_back(micros);
    }

    /// The additive counters, in a fixed order, so that the processes of a run can be summed.
    pub(super) fn share(&self) -> Vec<u64> {
        self.steps.iter().flat_map(|step| step.additive().map(|cell| cell.load(Relaxed))).collect()
    }

    /// What is counted now, with the `shares` of other processes added.
    pub(super) fn snapshot(&self, shares: &[Vec<u64>]) -> Snapshot {
        let steps = self.steps.iter().enumerate().map(|(number, step)| {
            let sum = |n: usize, own: &AtomicU64| {
                own.load(Relaxed) + shares.iter().filter_map(|share| share.get(number * ADDITIVE + n)).sum::<u64>()
            };
            StepSnapshot {
                name: step.name.clone(),
                role: step.role,
                rows: sum(0, &step.rows),
                bytes: sum(1, &step.bytes),
                late_rows: sum(2, &step.late_rows),
                lag_rows: sum(3, &step.lag_rows),
                watermark: Watermark::at(step.watermark.load(Relaxed)),
            }
        });
        let latencies = self.epoch_micros.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut latencies: Vec<u32> = latencies.iter().copied().collect();
        latencies.sort_unstable();
        let at = |share: usize| {
            latencies.get((latencies.len() * share / 100).min(latencies.len().saturating_sub(1))).copied()
        };
        Snapshot {
            steps: steps.collect(),
            epochs_in_flight: self.epochs_opened.load(Relaxed).saturating_sub(self.epochs_finished.load(Relaxed)),
            epochs: self.epochs_finished.load(Relaxed),
            epoch_micros: at(50).zip(at(99)),
        }
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
    /// See [`StepMetrics::rows`].
    pub rows: u64,
    /// See [`StepMetrics::bytes`].
    pub bytes: u64,
    /// See [`StepMetrics::late_rows`].
    pub late_rows: u64,
    /// See [`StepMetrics::lag_rows`].
    pub lag_rows: u64,
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
}

/// How many counters of a step can be summed over processes.
const ADDITIVE: usize = 4;

impl StepMetrics {
    fn additive(&self) -> [&AtomicU64; ADDITIVE] {
        [&self.rows, &self.bytes, &self.late_rows, &self.lag_rows]
    }

    pub(super) fn read(&self, rows: usize, bytes: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn complete(&self, mark: Watermark, late_rows: u64) {
        self.watermark.store(mark.micros(), Relaxed);
        self.late_rows.fetch_add(late_rows, Relaxed);
    }
}
