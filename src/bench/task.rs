//! One run, in a process of its own: the allocator is fresh, and memory and processor time are the run's alone.
//!
//! The task travels as JSON on the command line of this same program; each process of a run answers with one line of JSON on
//! the standard output that they share.

use super::answer::Answer;
use super::limits::{self, Obvious, Tuned, Windowed};
use super::meter::{Preparation, Spent};
use super::{Case, Input, Workload, formats, kafka, nexmark, pipelines};
use crate::connector::Sink;
use crate::connector::blackhole::Blackhole;
use crate::connector::memory::MemorySink;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::runtime::mesh::{self, Deadlines, Identity, Membership, Rendezvous, Secret};
use crate::runtime::spawn::{Assignment, Children, spawn_local};
use crate::runtime::{self, Workers};
use crate::time::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The argument of `bench` that carries a task.
const TASK_ARGUMENT: &str = "--task";

/// How long the other processes of a run may take to end after the first.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one run does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub case: Case,
    pub part: Part,
}

/// The pipeline, or one of the loops beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The pipeline; rows that are not kept are dropped as they come.
    Pipeline { keep: bool },
    /// A loop beside it.
    Limit(Limit),
}

/// A loop written by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// hashbrown and foldhash.
    Tuned,
    /// The standard library's map and hash.
    Std,
    /// Arrow's JSON decoder.
    ArrowJson,
    /// Hashes and takes; between processes also encodes and decodes.
    Split,
    /// librdkafka's consumer alone.
    Librdkafka,
    /// The query as a loop.
    ByHand,
    /// The same pipeline without checkpoints.
    Unkept,
    /// The same pipeline without checkpoints, whose rows go out as they come.
    AtLeastOnce,
}

impl Limit {
    /// What it is called in results.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Tuned => "tuned",
            Limit::Std => "std",
            Limit::ArrowJson => "arrow-json",
            Limit::Split => "split",
            Limit::Librdkafka => "librdkafka",
            Limit::ByHand => "by hand",
            Limit::Unkept => "without",
            Limit::AtLeastOnce => "at least once",
        }
    }
}

/// What one process says of its run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    pub spent: Spent,
    pub answer: Option<Answer>,
    pub epochs: u64,
    pub epoch_micros: Option<(u32, u32)>,
}

/// What all processes of a run spent, and what they answered together.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Times: those of the slowest process on the clock, the sum of all processors. Memory: the sum.
    #[serde(flatten)]
    pub spent: Spent,
    /// The number of epochs.
    pub epochs: u64,
    /// From a tick to the end of its epoch everywhere, or what the workload has as latency: median and 99th percentile, in
    /// microseconds.
    pub epoch_micros: Option<(u32, u32)>,
    /// What came out, if it was kept.
    #[serde(skip)]
    pub answer: Option<Answer>,
}

impl Task {
    /// Does it in a process of its own.
    pub fn spawn(&self) -> Result<Run> {
        let failed = |reason: String| {
            Error::unavailable(format!("a measured process failed: {reason}")).within(self.case.to_string())
        };
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let task = serde_json::to_string(self).map_err(|error| Error::internal(error.to_string()))?;
        let mut command = Command::new(program);
        command.args(["bench", TASK_ARGUMENT, &task]).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(format!("{}; its own message says why", output.status)));
        }
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let said = lines
            .map(serde_json::from_slice)
            .collect::<Result<Vec<Said>, _>>()
            .map_err(|error| failed(error.to_string()))?;
        said.into_iter().map(Run::from).reduce(Run::and).ok_or_else(|| failed("it said nothing".into()))
    }
}

/// Does the task that `text` describes in this process, and says on standard output what it took: what a child of a
/// [`Suite`](super::Suite) is started for.
///
/// # Errors
/// What the run fails with.
pub fn perform(text: &str) -> Result<()> {
    let task: Task = serde_json::from_str(text).map_err(|error| Error::invalid(format!("{TASK_ARGUMENT}: {error}")))?;
    let said = match task.part {
        Part::Pipeline { keep } => run_pipeline(&task.case, keep, true)?,
        Part::Limit(Limit::Unkept | Limit::AtLeastOnce) => run_pipeline(&task.case, false, false)?,
        Part::Limit(limit) => run_limit(&task.case, limit)?,
    };
    println!("{}", serde_json::to_string(&said).map_err(|error| Error::internal(error.to_string()))?);
    Ok(())
}

impl From<Said> for Run {
    fn from(said: Said) -> Self {
        Run { spent: said.spent, epochs: said.epochs, epoch_micros: said.epoch_micros, answer: said.answer }
    }
}

impl Run {
    fn and(self, other: Run) -> Run {
        let (a, b) = (self.spent, other.spent);
        Run {
            spent: Spent {
                prepare_seconds: a.prepare_seconds.max(b.prepare_seconds),
                wall_seconds: a.wall_seconds.max(b.wall_seconds),
                cpu_seconds: a.cpu_seconds + b.cpu_seconds,
                memory_before_bytes: a.memory_before_bytes + b.memory_before_bytes,
                memory_peak_bytes: a.memory_peak_bytes + b.memory_peak_bytes,
            },
            epochs: self.epochs.max(other.epochs),
            epoch_micros: self.epoch_micros.or(other.epoch_micros),
            answer: self.answer.zip(other.answer).map(|(a, b)| a.and(b)),
        }
    }
}

/// `keep`: its rows; `checkpoints`: its state, if the workload is about that.
fn run_pipeline(case: &Case, keep: bool, checkpoints: bool) -> Result<Said> {
    let preparation = Preparation::begin();
    if case.variant.as_deref() == Some(kafka::PACED) {
        return kafka::paced::run(case, preparation);
    }
    if case.workload == Workload::Formats {
        let spent = formats::run(case, preparation)?;
        return Ok(Said { spent, answer: None, epochs: 0, epoch_micros: None });
    }
    let kept = MemorySink::new();
    let sink: Arc<dyn Sink> = if keep { Arc::new(kept.clone()) } else { Arc::new(Blackhole::default()) };
    let store = checkpoints.then(|| pipelines::store(case)).transpose()?.flatten();
    let plan = pipelines::plan(case, sink, store.as_ref().map(TempDir::path))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (workers, children) = connect(case, &plan, &clock)?;
    let meter = preparation.done()?;
    let (counted, result) = runtime::start(plan, workers, None, clock)?.wait();
    result?;
    let spent = meter.stop()?;
    if let Some(children) = children {
        children.wait(PATIENCE)?;
    }
    let answer = if keep { Some(Answer::of(&kept.batches())?) } else { None };
    Ok(Said { spent, answer, epochs: counted.epochs, epoch_micros: counted.epoch_micros })
}

/// The case's workers: threads, or processes that find each other, of which the first starts the others.
fn connect(case: &Case, plan: &Plan, clock: &Arc<dyn Clock>) -> Result<(Workers, Option<Children>)> {
    if case.processes == 1 {
        return Ok((Workers::Threads(case.workers), None));
    }
    let join = |secret, process, rendezvous| {
        let identity =
            Identity { pipeline: plan.settings.name.clone(), generation: 1, fingerprint: plan.fingerprint(), secret };
        let membership = Membership { process, processes: case.processes, threads: case.workers, rendezvous };
        mesh::join(&identity, membership, Deadlines::default(), Arc::clone(clock)).map(Workers::Mesh)
    };
    if let Some(child) = Assignment::from_env()? {
        child.end_with_parent()?;
        let secret = Secret::load(None)?.ok_or_else(|| Error::invalid("the processes share no secret"))?;
        return Ok((join(secret, child.process, Rendezvous::Dial(child.coordinator))?, None));
    }
    let secret = Secret::generate()?;
    let (rendezvous, coordinator) = Rendezvous::coordinate()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let children = spawn_local(case.processes, coordinator, &secret, &arguments, &[])?;
    Ok((join(secret, 0, rendezvous)?, Some(children)))
}

fn run_limit(case: &Case, limit: Limit) -> Result<Said> {
    let preparation = Preparation::begin();
    let said = |spent, answer| Ok(Said { spent, answer: Some(answer), epochs: 0, epoch_micros: None });
    match (limit, &case.input) {
        (Limit::Librdkafka, Input::Topic { bootstrap, topic, .. }) => {
            let spent = kafka::consume(bootstrap, topic, preparation)?;
            Ok(Said { spent, answer: None, epochs: 0, epoch_micros: None })
        }
        (Limit::ByHand, _) => {
            let (spent, answer) = nexmark::by_hand(case, preparation)?;
            said(spent, answer)
        }
        (Limit::Tuned, Input::File(file)) => {
            let meter = preparation.done()?;
            let text = read(file)?;
            let counts = Tuned::of_text(text.as_bytes());
            said(meter.stop()?, counts.answer()?)
        }
        (_, Input::File(file)) => {
            let meter = preparation.done()?;
            let text = read(file)?;
            let counts = Obvious::of_text(&text);
            said(meter.stop()?, counts.answer()?)
        }
        (Limit::Tuned, _) if matches!(case.workload, Workload::Windowed | Workload::Checkpoints) => {
            let lines = pipelines::timed_lines(case);
            let meter = preparation.done()?;
            let counts = Windowed::of_lines(&lines, i64::from(pipelines::window_seconds(case)) * 1_000_000)?;
            said(meter.stop()?, counts.answer()?)
        }
        (Limit::Tuned, _) => {
            let lines = pipelines::lines(case);
            let meter = preparation.done()?;
            let counts = Tuned::of_lines(&lines);
            said(meter.stop()?, counts.answer()?)
        }
        (Limit::ArrowJson, _) => {
            let records = pipelines::json_records(case);
            let meter = preparation.done()?;
            let batches = limits::json(&records)?;
            said(meter.stop()?, Answer::of(&batches)?)
        }
        (Limit::Split, _) => {
            let rows = pipelines::keyed_rows(case);
            let meter = preparation.done()?;
            let seen = limits::exchange(&rows, case.workers * case.processes, case.processes)?;
            let spent = meter.stop()?;
            match seen == rows.iter().map(|batch| batch.num_rows() as u64).sum::<u64>() {
                true => said(spent, Answer::of(&rows)?),
                false => Err(Error::internal("the hand-written exchange lost rows")),
            }
        }
        (Limit::Std | Limit::Librdkafka | Limit::Unkept | Limit::AtLeastOnce, _) => {
            let lines = pipelines::lines(case);
            let meter = preparation.done()?;
            let counts = Obvious::of_lines(&lines);
            said(meter.stop()?, counts.answer()?)
        }
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| Error::unavailable(format!("file \"{}\": {error}", file.display())))
}
