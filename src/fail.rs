//! Deaths on purpose, for tests: a process that is told to ends, stops or fails at a named place.
//!
//! `HIGHWATER_FAIL=publish.mid@3:kill` kills the process when it comes to the place `publish.mid` for the third time; `:pause` stops
//! it there until it is woken (SIGSTOP), `:error` makes the place fail as if an outside service did not answer, `:panic` is a bug. With `:kill:1` only
//! process 1 of the run does so. Each process does it once; of all that share a file `HIGHWATER_FAIL_ONCE=FILE`, and that come after each
//! other, only the one that creates it.

use crate::error::{Error, Result};
use nix::sys::signal::{Signal, raise};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Which process of its run this is.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// What is to happen, and where.
#[derive(Debug)]
struct Plan {
    name: String,
    /// At the how manyeth visit, from 1.
    visit: u64,
    action: Action,
    /// In this process only.
    process: Option<usize>,
    visits: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Pause,
    Error,
    Panic,
}

impl Plan {
    /// Reads `<name>@<n>:kill|pause|error|panic[:<process>]`.
    fn read(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('@')?;
        let (visit, action) = rest.split_once(':')?;
        let (action, process) = match action.split_once(':') {
            Some((action, process)) => (action, Some(process.parse().ok()?)),
            None => (action, None),
        };
        let action = match action {
            "kill" => Action::Kill,
            "pause" => Action::Pause,
            "error" => Action::Error,
            "panic" => Action::Panic,
            _ => return None,
        };
        Some(Plan { name: name.to_owned(), visit: visit.parse().ok()?, action, process, visits: AtomicU64::new(0) })
    }

    /// What happens at this visit of `name` in `process`.
    fn visit(&self, name: &str, process: usize) -> Option<Action> {
        let here = self.name == name && self.process.is_none_or(|only| only == process);
        let is_it = here && self.visits.fetch_add(1, Ordering::Relaxed) + 1 == self.visit;
        is_it.then_some(self.action)
    }
}

/// Says which process of its run this is.
pub fn process_is(process: usize) {
    PROCESS.store(process, Ordering::Relaxed);
}

/// What is to happen, if anything.
fn plan() -> &'static Option<Result<Plan>> {
    static PLAN: OnceLock<Option<Result<Plan>>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var("HIGHWATER_FAIL").ok()?;
        let wrong =
            || Error::invalid(format!("HIGHWATER_FAIL is '{text}', not 'NAME@VISIT:kill|pause|error|panic[:PROCESS]'"));
        Some(Plan::read(&text).ok_or_else(wrong))
    })
}

/// Rows at `positions` of a split were read and go on: the places `row.<position>`.
///
/// # Errors
/// As [`point`].
pub fn rows(positions: Range<u64>) -> Result<()> {
    let Some(Ok(plan)) = plan() else { return Ok(()) };
    match plan.name.strip_prefix("row.").and_then(|position| position.parse().ok()) {
        Some(position) if positions.contains(&position) => point(&plan.name),
        _ => Ok(()),
    }
}

/// The place `name` is passed.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) where `HIGHWATER_FAIL` asks for it;
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if that cannot be read.
pub fn point(name: &str) -> Result<()> {
    let Some(plan) = plan() else { return Ok(()) };
    let action = plan.as_ref().map_err(Error::clone)?.visit(name, PROCESS.load(Ordering::Relaxed));
    let action = action.filter(|_| first());
    let signal = match action {
        None => return Ok(()),
        Some(Action::Error) => return Err(Error::unavailable(format!("HIGHWATER_FAIL says so at {name}"))),
        Some(Action::Panic) => panic!("HIGHWATER_FAIL says so at {name}"),
        Some(Action::Kill) => Signal::SIGKILL,
        Some(Action::Pause) => Signal::SIGSTOP,
    };
    raise(signal).map_err(|error| Error::internal(format!("{signal} cannot be raised: {error}")))
}

/// False if another process has done it already.
fn first() -> bool {
    let Some(file) = std::env::var_os("HIGHWATER_FAIL_ONCE") else { return true };
    std::fs::File::create_new(file).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_happens_once_at_its_visit() {
        let plan = Plan::read("publish.mid@2:error").unwrap();
        let seen: Vec<_> =
            ["publish.mid", "other", "publish.mid", "publish.mid"].map(|name| plan.visit(name, 0)).into();
        assert_eq!(seen, [None, None, Some(Action::Error), None]);
        assert_eq!(Plan::read("x@1:kill").unwrap().action, Action::Kill);
        let elsewhere = Plan::read("x@1:kill:1").unwrap();
        assert_eq!([0, 1].map(|process| elsewhere.visit("x", process)), [None, Some(Action::Kill)]);
        assert!(["x", "x@1", "x@1:kill:a", "x@one:kill", "x@1:burn"].iter().all(|text| Plan::read(text).is_none()));
    }
}
