//! How a run ends: the first error, or a wish to stop. Shared by all threads of a process.

use super::source::Suspect;
use crate::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The first error wins; what fails afterwards is a consequence of it.
#[derive(Default)]
pub struct Fate {
    error: Mutex<Option<Error>>,
    failed: AtomicBool,
    stop: AtomicBool,
    drain: AtomicBool,
    generation: AtomicU64,
    suspect: Mutex<Option<Suspect>>,
}

impl Fate {
    /// Ends the run with `error`, unless it has failed already.
    pub fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        first.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// True once the run has failed: every worker leaves.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The error that ended the run.
    pub fn error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Asks for a clean stop: sources end their epoch, everything read is written, no window is closed early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Notes what a worker had read last when it died.
    pub fn suspect(&self, suspect: Suspect) {
        *self.suspect.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(suspect);
    }

    /// What a worker had read last when it died, if one did.
    pub fn suspected(&self) -> Option<Suspect> {
        self.suspect.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Notes which generation of the pipeline runs.
    pub fn began(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Which generation runs; 0 before that is known, or without checkpoints.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Asks for a stop as if the input had ended: every window closes.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Release);
        self.stop();
    }

    /// True once someone asked for that.
    pub fn draining(&self) -> bool {
        self.drain.load(Ordering::Acquire)
    }

    /// True once someone asked for a clean stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
