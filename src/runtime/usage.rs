//! What this process has used of its machine, as the operating system tells it.

use crate::error::{Error, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::time::Duration;

/// Processor time of all threads, in user and system mode, since the process began.
pub fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)
        .map_err(|error| Error::unavailable("processor time cannot be read").caused_by(error))?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

/// Bytes in memory now; 0 where the system does not say.
pub fn memory() -> u64 {
    status("VmRSS:")
}

/// The most bytes in memory so far, since the process began or the kernel was told to forget; 0 where the system does not say.
pub fn memory_peak() -> u64 {
    status("VmHWM:")
}

/// A figure of /proc/self/status, in bytes.
fn status(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
