//! A run that has checkpoints goes on by itself: this process starts the pipeline as a child, and a new generation whenever one dies.
//!
//! What a person has to mend ends it: a wrong definition, bad input, a damaged checkpoint, a newer generation elsewhere. What may
//! pass, a death or an outside that does not answer, is tried again, at once and then after longer and longer waits.

use super::run::{BROKER_ENV, ECHO, LOOK};
use crate::checkpoint::log::{Log, Record};
use crate::checkpoint::store::Store;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Plan;
use crate::runtime::Suspect;
use crate::time::{Clock, Epoch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use rand::Rng;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// By this a child knows that it is one, and whose.
const SUPERVISOR_ENV: &str = "HIGHWATER_SUPERVISOR";

/// Where a child writes what it had read when it died, and what such a note asks of the next one.
const SUSPECT_ENV: &str = "HIGHWATER_SUSPECT";
const CAREFUL_ENV: &str = "HIGHWATER_CAREFUL";

/// Between two looks whether the supervisor is still there.
const PARENT_LOOK: Duration = Duration::from_millis(200);

/// The wait before the second restart; the first comes at once. It doubles.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A generation that lived this long was well: the next wait is short again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Deaths by its own fault, without a checkpoint between them, after which it would only die again.
const DEATHS_MAX: u32 = 3;

/// The exit code of the first signal's second.
const AT_ONCE: i32 = 130;

/// The exit code for an outside that did not answer, and for a bug of ours.
const UNAVAILABLE: i32 = 4;
const INTERNAL: i32 = 1;

/// Arguments that say where a run begins: they count once, for later generations go on from checkpoints of their own.
const ONCE: [&str; 2] = ["--from-savepoint", "--fall-back-to"];
/// The same for those without a value.
const ONCE_ALONE: [&str; 2] = ["--accept-gap", "--allow-dropped-state"];

/// True if this process is a supervisor's child; it then ends when that has.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if there is no thread to look after it.
pub fn supervised() -> Result<bool> {
    let Some(parent) = std::env::var(SUPERVISOR_ENV).ok().and_then(|text| text.parse().ok()) else { return Ok(false) };
    let look = move || {
        while getppid() == Pid::from_raw(parent) {
            thread::sleep(PARENT_LOOK);
        }
        // without a supervisor nobody would know of this run; what is committed is safe
        std::process::exit(UNAVAILABLE);
    };
    let spawned = thread::Builder::new().name("supervisor".into()).spawn(look);
    spawned.map(|_| true).map_err(|error| Error::unavailable("no thread is left").caused_by(error))
}

/// What earlier generations died after, if this one is to be careful with it.
pub fn careful() -> Option<Suspect> {
    serde_json::from_str(&std::env::var(CAREFUL_ENV).ok()?).ok()
}

/// Leaves the supervisor a note of what this process had read when it died.
pub fn tell_suspect(suspect: &Suspect) {
    let (Some(path), Ok(text)) = (std::env::var_os(SUSPECT_ENV), serde_json::to_string(suspect)) else { return };
    if let Err(error) = std::fs::write(path, text) {
        tracing::warn!(%error, "what was read last cannot be noted");
    }
}

/// How a child ended.
enum End {
    /// As it should.
    Well,
    /// In a way that repeats itself; it has said why.
    ForGood(i32),
    /// It may go better next time.
    Died { how: String, own_fault: bool },
}

/// Runs `plan` in generations until it ends.
pub fn supervise(plan: &Plan, broker: Option<&str>, clock: &Arc<dyn Clock>) -> Result<()> {
    let location = plan.settings.checkpoint_store.as_deref();
    let location = location.ok_or_else(|| Error::internal("there is nothing to go on from without checkpoints"))?;
    let store = Store::open(location, &plan.settings.name)?;
    let child = Arc::new(AtomicU32::new(0));
    let stopping = Arc::new(AtomicBool::new(false));
    let signals = forward(&child, &stopping, clock)?;
    let notes = tempfile::tempdir().map_err(|error| Error::unavailable(format!("no temporary directory: {error}")))?;
    let note = notes.path().join("suspect.json");
    let mut careful: Option<Suspect> = None;
    let (mut wait, mut deaths) = (Duration::ZERO, 0);
    let begun = newest(&store);
    let mut before = begun;
    loop {
        let since = clock.monotonic();
        let first = newest(&store) == begun;
        let end = generation(&Start { first, broker, note: &note, careful: careful.as_ref() }, &child)?;
        let (how, own_fault) = match end {
            End::Well => break,
            End::ForGood(code) => {
                signals.close();
                std::process::exit(code);
            }
            End::Died { how, .. } if stopping.load(Ordering::SeqCst) => {
                signals.close();
                return Err(Error::unavailable(format!("while it was to stop {how}"))
                    .help("what is committed is safe: run it again, and it goes on from the last checkpoint"));
            }
            End::Died { how, own_fault } => (how, own_fault),
        };
        let now = newest(&store);
        deaths = if now == before && own_fault { deaths + 1 } else { u32::from(own_fault) };
        // who commits is well
        let advanced = now > before;
        before = now;
        let read: Option<Suspect> = std::fs::read(&note).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let _ = std::fs::remove_file(&note);
        if deaths >= DEATHS_MAX {
            let found = read.filter(|suspect| careful.is_some() && suspect.rows == 1);
            match found {
                Some(found) if bears(plan, &found.table) => leave_out(&store, &found)?,
                found => {
                    signals.close();
                    return Err(stuck(&how, now, found.as_ref()));
                }
            }
            (deaths, careful) = (0, None);
        } else if deaths == DEATHS_MAX - 1 {
            careful = read;
        }
        if advanced || clock.monotonic().saturating_sub(since) >= HEALTHY {
            wait = Duration::ZERO;
        }
        let jitter = rand::rng().random_range(0.75..1.25);
        tracing::warn!("{how}; a new generation starts in {}", humantime::format_duration(whole(wait)));
        thread::sleep(wait.mul_f64(jitter));
        wait = (wait * 2).clamp(WAIT, WAIT_MAX);
    }
    signals.close();
    Ok(())
}

/// True if rows of `table` may be left out.
fn bears(plan: &Plan, table: &str) -> bool {
    plan.sources().any(|(_, source)| source.table == table && source.bad.on_bad.bears())
}

/// Notes in the log that the row is left out from now on.
fn leave_out(store: &Store, found: &Suspect) -> Result<()> {
    let mut log = Log::read(store)?;
    tracing::error!(
        table = found.table,
        "the row at {} ends the process each time: it is left out from now on",
        found.place
    );
    let reason = format!("it ended the process {DEATHS_MAX} times");
    let (table, split, position) = (found.table.clone(), found.split.clone(), found.from);
    log.append(log.generation(), Record::SkipRow { table, split, position, reason }).map(drop)
}

fn stuck(how: &str, checkpoint: Option<Epoch>, found: Option<&Suspect>) -> Error {
    let after =
        checkpoint.map_or("before its first checkpoint".to_owned(), |epoch| format!("after checkpoint {epoch}"));
    let error = Error::new(ErrorKind::Internal, format!("it died {DEATHS_MAX} times {after}, the last time so: {how}"));
    match found {
        Some(found) => error.within(found.place.clone()).within(format!("table \"{}\"", found.table)).help(
            "this row ends the process each time: set on_error of the table to 'skip' or a dead letter, and it is left out when the pipeline goes on",
        ),
        None => error.help("its messages say why; what is committed is safe, and the pipeline goes on from there when it is run again"),
    }
}

/// The last checkpoint that is committed, if it is known.
fn newest(store: &Store) -> Option<Epoch> {
    Log::read(store).ok()?.last_epoch()
}

/// What a generation is started with.
struct Start<'a> {
    /// It is the first one of this supervisor.
    first: bool,
    broker: Option<&'a str>,
    /// Where it notes what it dies after.
    note: &'a Path,
    careful: Option<&'a Suspect>,
}

/// One generation, from its start to its end.
fn generation(start: &Start, child: &AtomicU32) -> Result<End> {
    let cannot = |error: std::io::Error| {
        Error::unavailable(format!("cannot start a process: {error}")).help("see the limits on processes and memory")
    };
    let program = std::env::current_exe().map_err(cannot)?;
    let mut command = Command::new(program);
    command.args(arguments(start.first)).env(SUPERVISOR_ENV, std::process::id().to_string());
    command.env(SUSPECT_ENV, start.note);
    if let Some(address) = start.broker {
        command.env(BROKER_ENV, address);
    }
    if let Some(suspect) = start.careful {
        let text = serde_json::to_string(suspect).map_err(|error| Error::internal(error.to_string()))?;
        command.env(CAREFUL_ENV, text);
        tracing::warn!(table = suspect.table, "the next generation reads row by row, on one worker");
    }
    // a Ctrl-C comes to this process alone, which hands it on once
    let mut running = command.process_group(0).spawn().map_err(cannot)?;
    child.store(running.id(), Ordering::SeqCst);
    let status = loop {
        if let Some(status) = running.try_wait().map_err(cannot)? {
            break status;
        }
        thread::sleep(LOOK);
    };
    child.store(0, Ordering::SeqCst);
    Ok(end_of(status))
}

/// The arguments of this process, for a child: those that count once only if it is the `first`.
fn arguments(first: bool) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        let text = argument.to_string_lossy().into_owned();
        let once = ONCE.iter().find(|once| text == **once || text.starts_with(&format!("{once}=")));
        match once {
            Some(once) if !first => drop((text == **once).then(|| given.next())),
            None if !first && ONCE_ALONE.contains(&text.as_str()) => {}
            _ => kept.push(argument),
        }
    }
    kept
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(0), _) => End::Well,
        (Some(UNAVAILABLE), _) => End::Died { how: "it could not go on".into(), own_fault: false },
        (Some(INTERNAL), _) => End::Died { how: "it failed".into(), own_fault: true },
        (Some(code), _) => End::ForGood(code),
        (None, signal) => {
            let number = signal.unwrap_or_default();
            let name = Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.to_string());
            // who is killed has not done it; the others are what a program does to itself
            let own_fault = !matches!(Signal::try_from(number), Ok(Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT));
            End::Died { how: format!("it was killed by {name}"), own_fault }
        }
    }
}

/// Hands signals on to the child.
fn forward(
    child: &Arc<AtomicU32>,
    stopping: &Arc<AtomicBool>,
    clock: &Arc<dyn Clock>,
) -> Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Error::unavailable(format!("signals cannot be handled: {error}")))?;
    let (handle, child, clock) = (signals.handle(), Arc::clone(child), Arc::clone(clock));
    let stopping = Arc::clone(stopping);
    thread::spawn(move || {
        let mut asked: Option<Duration> = None;
        for signal in signals.forever() {
            if asked.is_some_and(|since| clock.monotonic().saturating_sub(since) < ECHO) {
                continue;
            }
            stopping.store(true, Ordering::SeqCst);
            let id = child.load(Ordering::SeqCst);
            match (i32::try_from(id), Signal::try_from(signal)) {
                // it has not been waited for, so the id is still its own
                (Ok(id), Ok(signal)) if id > 0 => kill(Pid::from_raw(id), signal).unwrap_or_default(),
                _ => std::process::exit(AT_ONCE),
            }
            if asked.replace(clock.monotonic()).is_some() {
                std::process::exit(AT_ONCE);
            }
        }
    });
    Ok(handle)
}

fn whole(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs())
}
