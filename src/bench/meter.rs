//! What one process spent between two moments: time, processor time, memory.

use crate::error::Result;
use crate::runtime::usage;
use crate::time::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a process spent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spent {
    /// Seconds before the clock was started: data is made, the plan is planned, processes connect.
    pub prepare_seconds: f64,
    /// Seconds on the clock.
    pub wall_seconds: f64,
    /// Processor seconds of all threads, in user and system mode, on the clock.
    pub cpu_seconds: f64,
    /// Bytes in memory when the clock was started, most of them input that was made.
    pub memory_before_bytes: u64,
    /// The most bytes in memory while the clock ran, as far as the operating system tells.
    pub memory_peak_bytes: u64,
}

/// A running measurement.
pub struct Meter {
    clock: SystemClock,
    prepare: Duration,
    cpu: Duration,
    memory_before_bytes: u64,
}

/// Begins with the preparation, which is told apart.
pub struct Preparation(SystemClock);

impl Preparation {
    pub fn begin() -> Self {
        Preparation(SystemClock::default())
    }

    /// The preparation is done: the clock starts.
    pub fn done(self) -> Result<Meter> {
        // lets the kernel forget the peak so far; where it cannot, the peak includes the preparation
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Ok(Meter {
            prepare: self.0.monotonic(),
            memory_before_bytes: usage::memory(),
            cpu: usage::cpu()?,
            clock: SystemClock::default(),
        })
    }
}

impl Meter {
    /// Stops the clock.
    pub fn stop(self) -> Result<Spent> {
        let wall = self.clock.monotonic();
        Ok(Spent {
            prepare_seconds: self.prepare.as_secs_f64(),
            wall_seconds: wall.as_secs_f64(),
            cpu_seconds: usage::cpu()?.saturating_sub(self.cpu).as_secs_f64(),
            memory_before_bytes: self.memory_before_bytes,
            memory_peak_bytes: usage::memory_peak(),
        })
    }
}
