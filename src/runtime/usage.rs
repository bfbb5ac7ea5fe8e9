//! What a process has used of its machine, as the operating system tells it.

use crate::error::{Error, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::time::Duration;

/// What Linux tells of a process's time is in hundredths of a second, whatever its own clock does.
const MILLIS_PER_TICK: u64 = 10;

/// Processor time of all threads, in user and system mode, since the process began.
pub fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)
        .map_err(|error| Error::unavailable("processor time cannot be read").caused_by(error))?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

/// Bytes in memory now; 0 where the system does not say.
pub fn memory() -> u64 {
    status("self", "VmRSS:")
}

/// The most bytes in memory so far, since the process began or the kernel was told to forget; 0 where the system does not say.
pub fn memory_peak() -> u64 {
    status("self", "VmHWM:")
}

/// Processor time of another process so far, and the most bytes that it had in memory; nothing where the system does not say.
pub fn of_process(id: u32) -> (Duration, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // the name before it is in parentheses and may hold anything; user and system time are the 12th and 13th field behind it
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    (Duration::from_millis(ticks * MILLIS_PER_TICK), status(&id.to_string(), "VmHWM:"))
}

/// A figure of the status of `process`, in bytes.
fn status(process: &str, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
