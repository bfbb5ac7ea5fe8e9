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

    /// Rows that all sources of this process have read.
    pub fn rows_read(&self) -> u64 {
        self.steps.iter().filter(|step| step.role == Role::Source).map(|step| step.rows.load(Relaxed)).sum()
    }

    /// The additive counters, in a fixed order, so that the processes of a run can be summed.
    pub fn share(&self) -> Vec<u64> {
        self.steps
            .iter()
            .flat_map(|step| [&step.rows, &step.bytes, &step.late_rows, &step.lag_rows].map(|cell| cell.load(Relaxed)))
            .collect()
    }
}

impl StepMetrics {
    pub(super) fn read(&self, rows: usize, bytes: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn complete(&self, mark: Watermark, late_rows: u64) {
        self.watermark.store(mark.micros(), Relaxed);
        self.late_rows.fetch_add(late_rows, Relaxed);
    }
}
