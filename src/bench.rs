//! Measures pipelines, each beside the limit of its problem: the loop that a person would write by hand for this input alone.
//!
//! Every run is a process of its own. Input is made, plans are planned and processes are connected before the clock
//! starts; it stops when the last row is out. A pipeline and its limits run in turns, so that a noisy machine is noisy to
//! both; ratios are taken run by run, and what is shown is the median. Processor time is the measure that a noisy machine
//! disturbs least. Before all that the pipeline runs once with its rows kept, and they must be those of the limit.

mod answer;
mod data;
mod formats;
mod kafka;
mod limits;
mod meter;
mod nexmark;
mod pipelines;
mod recovery;
mod task;

pub use meter::Spent;
pub use nexmark::{queries, query};
use pipelines::PACE;
pub use task::{Run, perform};

use crate::batch::BATCH_ROWS;
use crate::error::{Error, Result, nearest};
use data::{LINE_WORDS, Lines};
use kafka::Topics;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use task::{Limit, Part, Task};

/// What generated input begins from.
pub const SEED: u64 = 42;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Words are counted, over all of a bounded input.
    WordCount,
    /// Words are counted in windows of event time.
    Windowed,
    /// Rows go to the owner of their key.
    Exchange,
    /// JSON is decoded.
    Json,
    /// A topic is read, its rows are counted, the counts go to another topic.
    Kafka,
    /// Words are counted in windows, at a steady pace: how long after its tick an epoch is complete everywhere.
    Latency,
    /// A query of the Nexmark benchmark runs, over events that are made as they are read.
    Nexmark,
    /// Bytes are cut into records, records become rows, rows become records; there is no pipeline.
    Formats,
    /// Words are counted in windows that hold every word, with a checkpoint each second.
    Checkpoints,
    /// A supervised run whose state is large is killed: how long until its next generation has committed.
    Recovery,
    /// A topic is copied exactly once.
    ExactlyOnce,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 11] = [
        Workload::WordCount,
        Workload::Windowed,
        Workload::Exchange,
        Workload::Json,
        Workload::Kafka,
        Workload::Latency,
        Workload::Nexmark,
        Workload::Formats,
        Workload::Checkpoints,
        Workload::Recovery,
        Workload::ExactlyOnce,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Workload::WordCount => "word-count",
            Workload::Windowed => "windowed",
            Workload::Exchange => "exchange",
            Workload::Json => "json",
            Workload::Kafka => "kafka",
            Workload::Latency => "latency",
            Workload::Nexmark => "nexmark",
            Workload::Formats => "formats",
            Workload::Checkpoints => "checkpoints",
            Workload::Recovery => "recovery",
            Workload::ExactlyOnce => "exactly-once",
        }
    }

    /// What its rows are.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::WordCount | Workload::Windowed | Workload::Latency | Workload::Checkpoints => "words",
            Workload::Exchange => "rows",
            Workload::Json | Workload::Kafka | Workload::Formats | Workload::ExactlyOnce => "records",
            Workload::Recovery => "keys",
            Workload::Nexmark => "events",
        }
    }

    fn limits(self) -> &'static [Limit] {
        match self {
            Workload::WordCount => &[Limit::Tuned, Limit::Std],
            Workload::Windowed => &[Limit::Tuned],
            Workload::Exchange => &[Limit::Split],
            Workload::Json => &[Limit::ArrowJson],
            Workload::Kafka => &[Limit::Librdkafka],
            Workload::Nexmark => &[Limit::ByHand],
            Workload::Checkpoints => &[Limit::Unkept],
            Workload::ExactlyOnce => &[Limit::AtLeastOnce],
            Workload::Latency | Workload::Formats | Workload::Recovery => &[],
        }
    }

    fn default_rows(self) -> u64 {
        match self {
            Workload::WordCount | Workload::Windowed | Workload::Exchange => 10_000_000,
            Workload::Json | Workload::Kafka | Workload::Formats => 1_000_000,
            Workload::Nexmark => 2_000_000,
            Workload::Latency => 10 * PACE,
            Workload::Checkpoints => 200_000_000,
            Workload::Recovery => 10_000_000,
            Workload::ExactlyOnce => 2_000_000,
        }
    }

    /// Input is made in whole lines or batches.
    fn whole(self, rows: u64) -> u64 {
        rows.max(1).next_multiple_of(match self {
            Workload::WordCount | Workload::Windowed => LINE_WORDS,
            Workload::Exchange | Workload::Json | Workload::Formats => BATCH_ROWS as u64,
            Workload::Latency | Workload::Checkpoints => LINE_WORDS * BATCH_ROWS as u64,
            Workload::Kafka | Workload::Nexmark | Workload::Recovery | Workload::ExactlyOnce => 1,
        })
    }
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = Workload::ALL.map(Workload::name);
        Workload::ALL.into_iter().find(|workload| workload.name() == text).ok_or_else(|| {
            let error = Error::invalid(format!("there is no workload '{text}'"));
            match nearest(text, names) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None => error.help(format!("the workloads are {}", names.join(", "))),
            }
        })
    }
}

/// Where a case's rows come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Arrow batches in memory, the same in every process.
    Memory,
    /// A generator, which makes rows as they are read.
    Generator,
    /// A file of lines.
    File(PathBuf),
    /// A topic.
    Topic {
        /// The brokers.
        bootstrap: String,
        /// What is read.
        topic: String,
        /// Where counts go; chosen for each run.
        answers: Option<String>,
    },
}

/// One configuration of a workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// What is measured.
    pub workload: Workload,
    /// What of it, if there are several: a query, a format and what is done with it.
    pub variant: Option<String>,
    /// Where its rows come from.
    pub input: Input,
    /// Records are JSON rather than lines; topics only.
    pub json: bool,
    /// Processes.
    pub processes: usize,
    /// Workers in each.
    pub workers: usize,
    /// How many rows: words, rows or records, see [`Workload::unit`].
    pub rows: u64,
    /// How many different words or keys there may be.
    pub distinct: u64,
    /// When an epoch ends, if not by default.
    pub tick: Option<String>,
    /// What generated input begins from.
    pub seed: u64,
}

impl Case {
    /// What is measured: the workload, and what of it.
    pub fn name(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{} {variant}", self.workload.name()),
            None => self.workload.name().to_owned(),
        }
    }

    fn limits(&self) -> &'static [Limit] {
        match (self.workload, self.variant.as_deref()) {
            (Workload::Nexmark, query) if !query.is_some_and(nexmark::is_by_hand) => &[],
            (Workload::ExactlyOnce, Some(kafka::PACED)) => &[],
            (workload, _) => workload.limits(),
        }
    }

    /// Where the rows come from, in one word.
    pub fn origin(&self) -> &'static str {
        match (&self.input, self.json) {
            (Input::Memory, _) => "memory",
            (Input::Generator, _) => "generator",
            (Input::File(_), _) => "file",
            (Input::Topic { .. }, false) => "topic (raw)",
            (Input::Topic { .. }, true) => "topic (json)",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { processes, workers, distinct, .. } = self;
        write!(f, "{} from {}, {processes}x{workers} workers", self.name(), self.origin())?;
        match self.workload {
            Workload::Nexmark | Workload::Recovery | Workload::ExactlyOnce => Ok(()),
            _ => write!(f, ", {distinct} distinct"),
        }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Which workloads.
    pub workloads: Vec<Workload>,
    /// Which Nexmark queries.
    pub queries: Vec<&'static str>,
    /// Numbers of workers in one process.
    pub workers: Vec<usize>,
    /// Numbers of processes with one worker each; 1 says nothing that `workers` does not.
    pub processes: Vec<usize>,
    /// Rows of each run; None: what suits the workload.
    pub rows: Option<u64>,
    /// How many different words or keys there may be.
    pub distinct: Vec<u64>,
    /// Measured runs of each case.
    pub runs: usize,
    /// When an epoch ends; None: the engine's default, 10 ms for the latency.
    pub tick: Option<String>,
    /// Kafka's brokers; None: a development broker in a process of its own.
    pub bootstrap: Option<String>,
}

impl Suite {
    /// Measures all cases in order and shows each when it is done.
    ///
    /// # Errors
    /// What a run fails with, or an answer that is not that of the limit.
    pub fn run(&self, mut show: impl FnMut(&Measured)) -> Result<()> {
        let folder =
            tempfile::tempdir().map_err(|error| Error::unavailable("no temporary directory").caused_by(error))?;
        for &workload in &self.workloads {
            match workload {
                Workload::Kafka => self.run_kafka(&mut show)?,
                Workload::ExactlyOnce => self.run_exactly_once(&mut show)?,
                Workload::Recovery => self.run_recovery(&mut show)?,
                _ => self
                    .cases(workload, folder.path())?
                    .iter()
                    .try_for_each(|case| measure(case, self.runs).map(|measured| show(&measured)))?,
            }
        }
        Ok(())
    }

    fn cases(&self, workload: Workload, folder: &Path) -> Result<Vec<Case>> {
        let threads = self.workers.iter().map(|&workers| (1, workers));
        let processes = self.processes.iter().filter(|&&processes| processes > 1).map(|&processes| (processes, 1));
        let mut places: Vec<(usize, usize)> = threads.chain(processes).collect();
        match workload {
            Workload::Exchange => places.retain(|(processes, workers)| processes * workers > 1),
            Workload::Json | Workload::Formats => places.truncate(1),
            Workload::Nexmark | Workload::Checkpoints => places.retain(|(processes, _)| *processes == 1),
            Workload::Latency if places.iter().any(|(processes, _)| *processes > 1) => {
                places.retain(|(processes, _)| *processes > 1)
            }
            _ => {}
        }
        // what the key has to do with it is little where rows are not grouped
        let distinct = match workload {
            Workload::Exchange | Workload::Json | Workload::Latency | Workload::Nexmark | Workload::Formats => {
                &self.distinct[..self.distinct.len().min(1)]
            }
            // what is kept is large, or it would cost nothing
            Workload::Checkpoints => &self.distinct[self.distinct.len().saturating_sub(1)..],
            _ => &self.distinct,
        };
        let variants: Vec<Option<String>> = match workload {
            Workload::Nexmark => self.queries.iter().map(|query| Some((*query).to_owned())).collect(),
            Workload::Formats => formats::variants().map(Some).collect(),
            _ => vec![None],
        };
        let mut cases = Vec::new();
        for &distinct in distinct {
            let mut inputs = vec![if workload == Workload::Nexmark { Input::Generator } else { Input::Memory }];
            if workload == Workload::WordCount {
                inputs.push(Input::File(folder.join(format!("lines-{distinct}.txt"))));
            }
            for input in inputs {
                let case = |&(processes, workers): &(usize, usize)| {
                    self.case(workload, input.clone(), processes, workers, distinct)
                };
                if let Input::File(file) = &input {
                    write_lines(file, &self.case(workload, Input::Memory, 1, 1, distinct))?;
                }
                for variant in &variants {
                    cases.extend(places.iter().map(case).map(|case| Case { variant: variant.clone(), ..case }));
                }
            }
        }
        Ok(cases)
    }

    fn case(&self, workload: Workload, input: Input, processes: usize, workers: usize, distinct: u64) -> Case {
        let tick = self.tick.clone().or((workload == Workload::Latency).then(|| "10 ms".to_owned()));
        let rows = workload.whole(self.rows.unwrap_or(workload.default_rows()));
        Case { workload, variant: None, input, json: false, processes, workers, rows, distinct, tick, seed: SEED }
    }

    fn run_kafka(&self, show: &mut impl FnMut(&Measured)) -> Result<()> {
        let mut topics = Topics::new(self.bootstrap.as_deref())?;
        for json in [false, true] {
            for &distinct in &self.distinct {
                let mut case = self.case(Workload::Kafka, Input::Memory, 1, 1, distinct);
                case.json = json;
                case.input = topics.fill(&case)?;
                show(&topics.measure(&case, self.runs)?);
            }
        }
        Ok(())
    }

    fn run_exactly_once(&self, show: &mut impl FnMut(&Measured)) -> Result<()> {
        let mut topics = Topics::new(self.bootstrap.as_deref())?;
        let distinct = self.distinct.first().copied().unwrap_or_default();
        let mut case = self.case(Workload::ExactlyOnce, Input::Memory, 1, 1, distinct);
        case.input = topics.fill(&case)?;
        show(&topics.copy(&case, self.runs)?);
        let mut case = Case { variant: Some(kafka::PACED.to_owned()), ..case };
        case.rows = self.rows.unwrap_or(kafka::PACED_RECORDS);
        show(&topics.copy(&case, self.runs)?);
        Ok(())
    }

    fn run_recovery(&self, show: &mut impl FnMut(&Measured)) -> Result<()> {
        let most = self.rows.unwrap_or(Workload::Recovery.default_rows());
        for rows in [most / 100, most / 10, most].into_iter().filter(|rows| *rows > 0) {
            let mut topics = Topics::new(self.bootstrap.as_deref())?;
            let workers = self.workers.last().copied().unwrap_or(1);
            let case = Case { rows, ..self.case(Workload::Recovery, Input::Generator, 1, workers, rows) };
            show(&recovery::measure(&case, &mut topics, self.runs)?);
        }
        Ok(())
    }
}

fn write_lines(file: &Path, case: &Case) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::unavailable(format!("file \"{}\" cannot be written: {error}", file.display()));
    let mut out = BufWriter::new(std::fs::File::create(file).map_err(failed)?);
    let mut lines = Lines::new(case.rows, case.distinct, case.seed);
    let mut line = String::new();
    while lines.next(&mut line) {
        line.push('\n');
        out.write_all(line.as_bytes()).map_err(failed)?;
        line.clear();
    }
    out.flush().map_err(failed)
}

/// A case and all its runs.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What was measured.
    pub case: Case,
    /// What a row is.
    pub unit: &'static str,
    /// The rows that came out, which are those of the limits; None if there is nothing to compare.
    pub verified_rows: Option<u64>,
    /// The pipeline's runs.
    pub pipeline: Vec<Run>,
    /// The limits', in the same turns.
    pub limits: Vec<LimitRuns>,
}

/// The runs of one limit.
#[derive(Debug, Clone, Serialize)]
pub struct LimitRuns {
    /// What it is called.
    pub name: &'static str,
    /// One for each of the pipeline's.
    pub runs: Vec<Run>,
}

fn measure(case: &Case, runs: usize) -> Result<Measured> {
    let run = |part| Task { case: case.clone(), part }.spawn();
    let limits = case.limits();
    let answer = match limits {
        [] => None,
        _ => run(Part::Pipeline { keep: true })?.answer,
    };
    if limits.contains(&Limit::Unkept) {
        let by_hand = run(Part::Limit(Limit::Tuned))?.answer;
        if by_hand != answer {
            let error = format!("the pipeline answers {answer:?}, a loop by hand answers {by_hand:?}");
            return Err(Error::internal(error).within(case.to_string()));
        }
    }
    let mut measured = Measured::new(case, answer.map(|answer| answer.rows));
    for _ in 0..runs {
        measured.pipeline.push(run(Part::Pipeline { keep: false })?);
        for (limit, done) in limits.iter().zip(&mut measured.limits) {
            let run = run(Part::Limit(*limit))?;
            // the pipeline itself, with less to do, has answered already
            if *limit != Limit::Unkept && run.answer != answer {
                let error = format!("the pipeline answers {answer:?}, '{}' answers {:?}", done.name, run.answer);
                return Err(Error::internal(error).within(case.to_string()));
            }
            done.runs.push(run);
        }
    }
    Ok(measured)
}

/// The least, the middle and the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; all 0 if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        Spread { min: at(0), median: (at(low) + at(high)) / 2.0, max: at(values.len().saturating_sub(1)) }
    }
}

impl Measured {
    fn new(case: &Case, verified_rows: Option<u64>) -> Self {
        let limits = case.limits().iter().map(|limit| LimitRuns { name: limit.name(), runs: Vec::new() });
        Measured {
            case: case.clone(),
            unit: case.workload.unit(),
            verified_rows,
            pipeline: Vec::new(),
            limits: limits.collect(),
        }
    }

    /// Rows a second on the clock, of the pipeline's or a limit's `runs`.
    pub fn rows_per_second(&self, runs: &[Run]) -> Spread {
        Spread::of(runs.iter().map(|run| self.case.rows as f64 / run.spent.wall_seconds.max(1e-9)))
    }

    /// Rows a second of processor time.
    pub fn rows_per_cpu_second(&self, runs: &[Run]) -> Spread {
        Spread::of(runs.iter().map(|run| self.case.rows as f64 / run.spent.cpu_seconds.max(1e-9)))
    }

    /// How many times the rows of `limit` the pipeline does in the same processor time.
    pub fn of_limit_by_cpu(&self, limit: &LimitRuns) -> Spread {
        self.of_limit(limit, |spent| spent.cpu_seconds)
    }

    /// How many times the rows of `limit`, on its one thread, the pipeline does in the same time on all its workers.
    pub fn of_limit_by_clock(&self, limit: &LimitRuns) -> Spread {
        self.of_limit(limit, |spent| spent.wall_seconds)
    }

    fn of_limit(&self, limit: &LimitRuns, seconds: fn(&Spent) -> f64) -> Spread {
        let pairs = self.pipeline.iter().zip(&limit.runs);
        Spread::of(pairs.map(|(own, other)| seconds(&other.spent) / seconds(&own.spent).max(1e-9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of([]).median, 0.0);
    }

    #[test]
    fn a_workload_is_found_by_its_name_or_a_near_one_is_offered() {
        assert_eq!("word-count".parse::<Workload>().unwrap(), Workload::WordCount);
        assert_eq!("word-cuont".parse::<Workload>().unwrap_err().advice(), Some("did you mean 'word-count'?"));
    }
}
