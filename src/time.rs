//! Event time, epochs, watermarks, and the only clock.
//!
//! An epoch is a set of input rows. What is *bound* to it — where each split ended, the watermarks, the wall
//! time — is decided once, by the sources, and carried in their [`Report`]; everything downstream is a function of that.
//! This file is the only one that asks the operating system what time it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Timely's only timestamp: a set of input rows, numbered in order, about one each tick.
pub type Epoch = u64;

/// A moment in event time or on the wall clock, in microseconds since 1970-01-01 UTC.
pub type Micros = i64;

/// A promise about event time: no row before this moment will come any more, but late ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Watermark(Micros);

impl Watermark {
    /// Nothing is promised yet.
    pub const NONE: Watermark = Watermark(Micros::MIN);
    /// The input has ended: every window closes.
    pub const END: Watermark = Watermark(Micros::MAX);

    /// The watermark at `micros`.
    pub fn at(micros: Micros) -> Self {
        Watermark(micros)
    }

    /// Microseconds since 1970; [`Micros::MIN`] for none, [`Micros::MAX`] for the end.
    pub fn micros(self) -> Micros {
        self.0
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Watermark::NONE => f.write_str("none"),
            Watermark::END => f.write_str("end"),
            Watermark(micros) => f.write_str(&format_micros(micros)),
        }
    }
}

/// `micros` as RFC 3339 in UTC, or the bare number where the calendar ends.
pub fn format_micros(micros: Micros) -> String {
    let moment = u64::try_from(micros).ok().and_then(|micros| UNIX_EPOCH.checked_add(Duration::from_micros(micros)));
    // humantime's calendar ends with the year 9999
    match moment.filter(|_| micros < 253_402_300_800_000_000) {
        Some(moment) => humantime::format_rfc3339_micros(moment).to_string(),
        None => format!("{micros}us"),
    }
}

/// Where one split stands at the end of an epoch: its part of the epoch's binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Which split of the source, in the order in which worker 0 listed them.
    pub split: u32,
    /// The next row to read: an offset in a topic, a byte or a row in a file.
    pub position: u64,
    /// How many records of it are in the epoch, bad ones included where the table leaves them out.
    pub rows: u64,
    /// The split's own promise about event time.
    pub watermark: Watermark,
    /// Left out of the source's minimum, because no data came for longer than the idle timeout.
    pub idle: bool,
}

/// What one worker's share of one source says of an epoch when it closes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The source's step in the plan.
    pub source: u32,
    /// The worker that speaks.
    pub worker: u32,
    /// Where each split that this worker reads stands.
    pub splits: Vec<SplitReport>,
    /// The watermark that holds when every split of the source is idle.
    pub when_all_idle: Watermark,
    /// What the clock said when the epoch began on this worker.
    pub wall: Micros,
    /// The epoch ends with a checkpoint. All reports of an epoch agree about it.
    pub checkpoint: bool,
    /// No further report will come: every split of this worker has ended.
    pub ended: bool,
    /// No further report will come in this run.
    pub last: bool,
}

/// Where wall time and waiting time come from. The engine asks nothing else, so a test can hold the hands.
pub trait Clock: Send + Sync {
    /// Wall-clock time in microseconds since 1970. May jump; nothing but bindings and guards use it.
    fn wall(&self) -> Micros;
    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;
    /// Waits for `time` to pass.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The operating system's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Micros {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros::try_from(since_1970.as_micros()).unwrap_or(Micros::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_prints_as_a_moment_or_in_words() {
        assert_eq!(Watermark::at(1_700_000_000_000_000).to_string(), "2023-11-14T22:13:20.000000Z");
        assert_eq!(Watermark::END.to_string(), "end");
        assert_eq!(Watermark::at(i64::MAX - 1).to_string(), "9223372036854775806us");
    }
}
