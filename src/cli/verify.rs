//! `highwater verify`: kills a pipeline's processes again and again, and compares what it wrote with what it should have.
//!
//! ```text
//! highwater run, supervised ── processes killed and frozen at seeded moments ──▶ topics or files of the trial's own
//! the log's bindings ── replayed on one worker, undisturbed ─────────────────▶ what should be in them
//! ```
//! The replay is the measure: it reads the same epochs, so that late rows, too, are the same. Sinks of the pipeline are not touched.

use super::explain::Definition;
use super::run::LOOK;
use super::say;
use super::tables::table;
use crate::batch::Batch;
use crate::checkpoint::log::{Log, Record};
use crate::checkpoint::store::Store;
use crate::connector::redirect::{Redirected, Trial};
use crate::connector::{Changes, Connectors, Context, Polled, SinkInput, SplitStart, Table};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Format, json};
use crate::operator::transform::insertions;
use crate::plan::Plan;
use crate::runtime::replay;
use crate::runtime::spawn::descendants;
use crate::time::{Clock, SystemClock};
use arrow::array::AsArray;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

/// By this the processes of a trial know that they are in one.
const TRIAL_ENV: &str = "HIGHWATER_TRIAL";

/// Between two faults.
const PAUSE_MS: std::ops::Range<u64> = 300..1800;

/// How long a process is frozen: others ride out a short while, and give it up after a long one.
const SHORT_FREEZE_MS: std::ops::Range<u64> = 100..1500;
const LONG_FREEZE: Duration = Duration::from_secs(4);

/// After so long without a sign of life a process counts as lost, in a trial.
const PEER_TIMEOUT: &str = "2s";

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    definition: Definition,
    /// How many times a process is killed or frozen
    #[arg(long, default_value_t = 10, value_name = "N")]
    kills: u32,
    /// Which moments and processes: the same for the same seed [default: a random one, which is shown]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Processes of each generation
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    processes: u16,
    /// Worker threads in each process
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Write into topics of this broker, instead of directories, where the pipeline does not write topics anyway
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// How fast each source is read [default: as long as the faults take]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_second: Option<u64>,
    /// How long the run may take after the last fault
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Where checkpoints and files of the trial go; it is kept then [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The trial that this process is a part of, if it is.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if the environment makes no sense.
pub fn trial() -> Result<Option<Trial>> {
    let Ok(text) = std::env::var(TRIAL_ENV) else { return Ok(None) };
    let trial = serde_json::from_str(&text);
    trial.map(Some).map_err(|_| Error::invalid(format!("{TRIAL_ENV} cannot be read")).help("unset it"))
}

/// What becomes of a process.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Freeze(Duration),
    /// The supervisor is killed, and the same command started again.
    KillAll,
}

/// Runs the trial and says how it went.
pub fn run(arguments: &Arguments, connectors: &dyn Connectors) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    let mut random = StdRng::seed_from_u64(seed);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let scratch =
        tempfile::tempdir().map_err(|error| Error::unavailable(format!("no temporary directory: {error}")))?;
    let directory = arguments.dir.clone().unwrap_or_else(|| scratch.path().to_owned());
    let mut trial = Trial {
        name: format!("{seed:x}-{:x}", clock.wall()),
        directory: directory.clone(),
        kafka: arguments.kafka.clone(),
        rows_per_second: None,
    };
    let set = settings(arguments, &directory);
    let definition = Definition { file: arguments.definition.file.clone(), set: set.clone() };
    let declared = Declared::default();
    let plan =
        definition.plan(&Listening { inner: &Redirected::new(connectors, trial.clone()), declared: &declared })?;
    plan.check()?;
    if plan.needs_embedded_broker() {
        return Err(Error::invalid("the broker 'embedded' dies with the pipeline, so nothing could be compared")
            .help("start one with `highwater broker` and name it in 'properties.bootstrap.servers'"));
    }
    trial.rows_per_second = Some(match arguments.rows_per_second {
        Some(rows) => rows,
        None => pace(&plan, arguments.kills, &clock)?,
    });
    say(format!(
        "verify {}: {} faults on {} processes, seed {seed}, {} rows a second of each source",
        definition.file.display(),
        arguments.kills,
        arguments.processes,
        trial.rows_per_second.unwrap_or_default(),
    ))?;
    let chaos = Chaos { arguments, set: &set, trial: &trial, clock: &clock };
    let faults = chaos.run(&mut random)?;
    let location = directory.join("checkpoints").display().to_string();
    let store = Store::existing(&location, &plan.settings.name)?;
    let log = Log::read(&store)?;
    let committed = log.checkpoints().count();
    say(format!(
        "{faults} of {} faults, {} generations, {committed} checkpoints, {}",
        arguments.kills,
        log.generation(),
        humantime::format_duration(Duration::from_millis(clock.monotonic().as_millis() as u64)),
    ))?;
    if faults < arguments.kills {
        say("the input had ended before the last fault: give a smaller --rows-per-second for more")?;
    }
    if !log.records().iter().any(|(_, record)| matches!(record, Record::Stop { .. })) {
        return Err(Error::internal("the run ended, but its log does not say so"));
    }
    let context = Context { embedded_broker: None, clock: Arc::clone(&clock), workers: 1 };
    let expected = expected(plan, &store, &clock)?;
    let mut shown = table(["table", "expected", "found", "lost", "doubled", "wrong"]);
    let mut bad = 0;
    for (name, lines) in &expected {
        let found = found(name, &trial, &declared.0.borrow(), &context)?;
        let verdict = Verdict::of(lines, &found);
        bad += verdict.lost + verdict.doubled + verdict.wrong;
        let Verdict { expected, found, lost, doubled, wrong } = verdict;
        shown.add_row([
            name.clone(),
            expected.to_string(),
            found.to_string(),
            lost.to_string(),
            doubled.to_string(),
            wrong.to_string(),
        ]);
    }
    say(shown.trim_fmt())?;
    match bad {
        0 => say("none lost, none doubled, none wrong"),
        bad => {
            let kept = scratch.keep();
            Err(Error::internal(format!("{bad} rows are lost, doubled or wrong"))
                .help(format!("--seed {seed} repeats the faults; files of the trial are in {}", kept.display())))
        }
    }
}

/// The pipeline's settings in a trial, for all of its processes.
fn settings(arguments: &Arguments, directory: &Path) -> Vec<(String, String)> {
    let mut set = arguments.definition.set.clone();
    set.push(("checkpoint_store".into(), directory.join("checkpoints").display().to_string()));
    // every binding is needed to see all epochs again
    set.push(("checkpoint_retain".into(), "10000".into()));
    set
}

/// How many rows a second make the input last as long as the faults.
fn pace(plan: &Plan, kills: u32, clock: &Arc<dyn Clock>) -> Result<u64> {
    let context = Context { embedded_broker: None, clock: Arc::clone(clock), workers: 1 };
    let mut most = 0;
    for (_, source) in plan.sources() {
        let mut rows = 0;
        let within = |error: Error| error.within(format!("table \"{}\"", source.table));
        let starts: Vec<SplitStart> =
            source.source.splits(&context).map_err(within)?.into_iter().map(SplitStart::whole).collect();
        for mut split in source.source.open(&starts, &context).map_err(within)? {
            loop {
                match split.poll(crate::batch::BATCH_ROWS).map_err(within)? {
                    Polled::Rows { rows: batch, .. } => rows += batch.num_rows() as u64,
                    Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
                    Polled::Ended => break,
                }
            }
        }
        most = most.max(rows);
    }
    let seconds = u64::from(kills) * (PAUSE_MS.start + PAUSE_MS.end) / 2 / 1000 + 2;
    Ok((most / seconds).max(1))
}

/// What a trial is run with.
struct Chaos<'a> {
    arguments: &'a Arguments,
    set: &'a [(String, String)],
    trial: &'a Trial,
    clock: &'a Arc<dyn Clock>,
}

impl Chaos<'_> {
    /// Runs the pipeline to its end and disturbs it; answers how often.
    fn run(&self, random: &mut StdRng) -> Result<u32> {
        let mut running = Running(self.start()?);
        let mut done = 0;
        while done < self.arguments.kills {
            let (pause, fault, which) = (random.random_range(PAUSE_MS), self.fault(random), random.random::<u32>());
            if running.ends_within(Duration::from_millis(pause), self.clock)? {
                return Ok(done);
            }
            done += 1;
            let victims = descendants(running.0.id());
            match (fault, victims.is_empty()) {
                (Fault::KillAll, _) | (_, true) => {
                    signal(running.0.id(), Signal::SIGKILL);
                    running.0.wait().map_err(broken)?;
                    running = Running(self.start()?);
                }
                (Fault::Kill, false) => signal(victims[which as usize % victims.len()], Signal::SIGKILL),
                (Fault::Freeze(time), false) => {
                    let victim = victims[which as usize % victims.len()];
                    signal(victim, Signal::SIGSTOP);
                    std::thread::sleep(time);
                    // it may be gone by now, and then nothing else has its number so soon
                    if descendants(running.0.id()).contains(&victim) || alive(victim) {
                        signal(victim, Signal::SIGCONT);
                    }
                }
            }
        }
        match running.ends_within(self.arguments.timeout, self.clock)? {
            true => Ok(done),
            false => Err(Error::unavailable(format!(
                "the run has not ended within {} after the last fault",
                humantime::format_duration(self.arguments.timeout)
            ))
            .help("give it more time with --timeout, or a larger --rows-per-second")),
        }
    }

    fn fault(&self, random: &mut StdRng) -> Fault {
        match random.random_range(0..20) {
            0..14 => Fault::Kill,
            14..17 => Fault::Freeze(Duration::from_millis(random.random_range(SHORT_FREEZE_MS))),
            17 => Fault::Freeze(LONG_FREEZE),
            _ => Fault::KillAll,
        }
    }

    fn start(&self) -> Result<Child> {
        let program = std::env::current_exe().map_err(broken)?;
        let trial = serde_json::to_string(self.trial).map_err(|error| Error::internal(error.to_string()))?;
        let mut arguments: Vec<OsString> = vec!["run".into(), self.arguments.definition.file.clone().into()];
        for (name, value) in self.set {
            arguments.extend(["--set".into(), format!("{name}={value}").into()]);
        }
        let numbers =
            [("--processes", self.arguments.processes.to_string()), ("--workers", self.arguments.workers.to_string())];
        arguments.extend(numbers.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
        arguments.extend(["--peer-timeout".into(), PEER_TIMEOUT.into(), "--no-progress".into()]);
        if std::env::var_os("HIGHWATER_LOG").is_none() {
            arguments.extend(["--log".into(), "error".into()]);
        }
        Command::new(program).args(arguments).env(TRIAL_ENV, trial).spawn().map_err(broken)
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot run the pipeline: {error}"))
}

/// The run that is disturbed; it ends with the trial.
struct Running(Child);

impl Running {
    /// True if it has ended within `time`, well.
    fn ends_within(&mut self, time: Duration, clock: &Arc<dyn Clock>) -> Result<bool> {
        let start = clock.monotonic();
        loop {
            if let Some(status) = self.0.try_wait().map_err(broken)? {
                return match status.success() {
                    true => Ok(true),
                    false => Err(Error::new(ErrorKind::Internal, format!("the run ended with {status}"))
                        .help("its own messages say why; HIGHWATER_LOG=info shows more")),
                };
            }
            if clock.monotonic().saturating_sub(start) >= time {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let all = descendants(self.0.id());
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            signal(self.0.id(), Signal::SIGKILL);
            let _ = self.0.wait();
            all.into_iter().filter(|id| alive(*id)).for_each(|id| signal(id, Signal::SIGKILL));
        }
    }
}

fn signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        kill(Pid::from_raw(id), signal).unwrap_or_default();
    }
}

fn alive(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

/// For each table the lines that should have been written: a line, and how often.
fn expected(plan: Plan, store: &Store, clock: &Arc<dyn Clock>) -> Result<BTreeMap<String, BTreeMap<String, usize>>> {
    let upserts: Vec<bool> =
        plan.sinks().map(|(_, sink)| matches!(sink.sink.changes(), Changes::Upsert | Changes::Keyed)).collect();
    let tables = replay::whole(plan, store, None, Arc::clone(clock))?;
    let mut expected = BTreeMap::new();
    for (rows, upsert) in tables.into_iter().zip(upserts) {
        let schema = &rows.table.schema;
        let mut encoder = Format::Json(json::Settings::default()).encoder(schema)?;
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        for (_, batch) in rows.rows {
            let batch: Batch = match rows.table.updating && upsert {
                true => insertions(&batch, schema)?,
                false => batch,
            };
            let records = encoder.encode(&batch)?;
            for record in records.iter().flatten() {
                *lines.entry(String::from_utf8_lossy(record).into_owned()).or_default() += 1;
            }
        }
        expected.insert(rows.table.table, lines);
    }
    Ok(expected)
}

/// The lines that were written for table `name`.
fn found(name: &str, trial: &Trial, tables: &[Table], context: &Context) -> Result<BTreeMap<String, usize>> {
    let table = tables.iter().find(|table| table.name == name);
    let table = table.ok_or_else(|| Error::internal(format!("table \"{name}\" was not written")))?;
    let source = trial.written(table)?;
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    let splits = match source.splits(context) {
        Ok(splits) => splits,
        // a directory without files has had no rows
        Err(error) if trial.kafka.is_none() && error.kind() == ErrorKind::Unavailable => Vec::new(),
        Err(error) => return Err(error),
    };
    let starts: Vec<SplitStart> = splits.into_iter().map(SplitStart::whole).collect();
    for mut split in source.open(&starts, context)? {
        loop {
            match split.poll(crate::batch::BATCH_ROWS)? {
                Polled::Rows { rows, .. } => {
                    let texts = arrow::compute::cast(rows.column(0), &arrow::datatypes::DataType::Utf8);
                    let texts = texts.map_err(crate::batch::from_arrow)?;
                    for text in texts.as_string::<i32>().iter().flatten() {
                        *lines.entry(text.to_owned()).or_default() += 1;
                    }
                }
                Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
                Polled::Ended => break,
            }
        }
    }
    Ok(lines)
}

/// The tables that a plan writes, as they are declared.
#[derive(Default)]
struct Declared(std::cell::RefCell<Vec<Table>>);

/// Notes the tables that are written.
struct Listening<'a> {
    inner: &'a Redirected<'a>,
    declared: &'a Declared,
}

impl Connectors for Listening<'_> {
    fn specs(&self) -> &[crate::connector::ConnectorSpec] {
        self.inner.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn crate::connector::Source>> {
        self.inner.source(table, columns)
    }

    fn lookup(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn crate::connector::Lookup>> {
        self.inner.lookup(table, columns)
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn crate::connector::Sink>> {
        self.declared.0.borrow_mut().push(table.clone());
        self.inner.sink(table, input)
    }

    fn functions(&self) -> &[crate::expr::ScalarFunction] {
        self.inner.functions()
    }

    fn aggregates(&self) -> &[crate::expr::AggregateFunction] {
        self.inner.aggregates()
    }

    fn folder(&self) -> Option<&std::path::Path> {
        self.inner.folder()
    }

    fn operators(&self) -> &[Arc<dyn crate::operator::CustomOperator>] {
        self.inner.operators()
    }
}

/// How what was found compares with what should be there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    expected: usize,
    found: usize,
    lost: usize,
    doubled: usize,
    wrong: usize,
}

impl Verdict {
    fn of(expected: &BTreeMap<String, usize>, found: &BTreeMap<String, usize>) -> Self {
        let mut verdict =
            Verdict { expected: expected.values().sum(), found: found.values().sum(), ..Verdict::default() };
        for (line, wanted) in expected {
            let there = found.get(line).copied().unwrap_or_default();
            verdict.lost += wanted.saturating_sub(there);
            verdict.doubled += there.saturating_sub(*wanted);
        }
        let unknown = found.iter().filter(|(line, _)| !expected.contains_key(*line));
        verdict.wrong = unknown.map(|(_, times)| times).sum();
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lost_doubled_or_wrong() {
        let lines = |of: &[(&str, usize)]| of.iter().map(|(line, times)| ((*line).to_owned(), *times)).collect();
        let verdict = Verdict::of(&lines(&[("a", 2), ("b", 1), ("c", 1)]), &lines(&[("a", 1), ("b", 3), ("d", 2)]));
        assert_eq!(verdict, Verdict { expected: 4, found: 6, lost: 2, doubled: 2, wrong: 2 });
        assert_eq!(
            Verdict::of(&lines(&[("a", 2)]), &lines(&[("a", 2)])),
            Verdict { expected: 2, found: 2, ..Verdict::default() }
        );
    }

    #[test]
    fn a_process_knows_what_it_has_started() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        signal(child.id(), Signal::SIGKILL);
        child.wait().unwrap();
        assert!(!descendants(std::process::id()).contains(&child.id()));
    }
}
