//! Tests of pipelines: files of SQL that give rows, move time and say what must come out.
//!
//! ```text
//! text ─ sql::scenario ─▶ statements ─ script ─▶ epochs, assertions ─ play ─▶ changes by epoch ─ verdict ─▶ failures
//!                                      subject: the pipeline, its tables in memory
//! ```
//! A pipeline is a function of its epochs. So each test is run several times: as it is written, with the rows of each epoch in another
//! order, on several workers, killed and restored, and with all of that at once. Whatever is asserted must hold in all of these runs.

mod feed;
mod play;
mod rows;
mod script;
mod subject;
mod verdict;

pub use rows::Row;
pub use verdict::{Difference, Failure};

use crate::connector::Connectors;
use crate::error::{Error, Result};
use crate::plan::Action;
use crate::sql::Text;
use crate::sql::scenario::scenario;
use play::{Variant, play};
use script::Script;
use std::num::NonZeroUsize;
use std::time::Duration;
use subject::Subject;
use verdict::judge;

/// How tests are run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides what is left to chance.
    pub seed: u64,
    /// How many workers there are in the runs with several.
    pub workers: NonZeroUsize,
    /// False for the plain run alone.
    pub variants: bool,
}

/// What became of the tests of a file.
#[derive(Debug)]
pub struct Outcome {
    /// The tests, in order.
    pub cases: Vec<CaseOutcome>,
}

/// What became of a test.
#[derive(Debug)]
pub struct CaseOutcome {
    /// Its name; none for the only one of a file.
    pub name: Option<String>,
    /// How many assertions it has.
    pub assertions: usize,
    /// How often it was run.
    pub runs: usize,
    /// How often a run was killed and went on from a checkpoint.
    pub restores: usize,
    /// The assertions that do not hold, and in which run.
    pub failures: Vec<Failure>,
    /// Runs that could not be made.
    pub left_out: Vec<String>,
}

impl Outcome {
    /// True if everything that is asserted holds.
    pub fn holds(&self) -> bool {
        self.cases.iter().all(|case| case.failures.is_empty())
    }

    /// How many assertions there are.
    pub fn assertions(&self) -> usize {
        self.cases.iter().map(|case| case.assertions).sum()
    }
}

/// Runs the tests in `text`, whose name is the path of its file: that of the pipeline is seen from its folder.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for whatever is wrong with the tests or their pipeline.
pub fn run(text: Text, options: &Options, connectors: &dyn Connectors) -> Result<Outcome> {
    let scenario = scenario(text)?;
    let subject = Subject::of(&scenario, text, connectors)?;
    let scripts = scenario.cases.iter().map(|case| Script::of(case, &subject, text, connectors));
    let (scripts, wrong): (Vec<_>, Vec<_>) = scripts.partition(Result::is_ok);
    if let Some(error) = Error::join(wrong.into_iter().filter_map(Result::err).collect()) {
        return Err(error);
    }
    let mut cases = Vec::new();
    for (case, script) in scenario.cases.iter().zip(scripts.into_iter().flatten()) {
        let mut outcome = run_case(&subject, &script, options)?;
        outcome.name = case.name.clone();
        cases.push(outcome);
    }
    Ok(Outcome { cases })
}

fn run_case(subject: &Subject, script: &Script, options: &Options) -> Result<CaseOutcome> {
    let seed = options.seed;
    let plain = Variant { seed, workers: 1, shuffled: false, killed: false };
    let failures = judge(subject, script, &play(subject, script, &plain)?);
    let mut outcome = CaseOutcome {
        name: None,
        assertions: script.checks.len(),
        runs: 1,
        restores: 0,
        failures,
        left_out: Vec::new(),
    };
    if !options.variants || !outcome.failures.is_empty() {
        return Ok(outcome);
    }
    let workers = options.workers.get();
    let kept = keeps_all(subject, script);
    for (shuffled, workers, killed) in
        [(true, 1, false), (false, workers, false), (false, 1, true), (true, workers, true)]
    {
        let variant = Variant { seed, workers, shuffled, killed };
        if variant == plain {
            continue;
        }
        if let (true, Err(why)) = (killed, &kept) {
            outcome.left_out.push(format!("{}: {why}", variant.describe()));
            continue;
        }
        outcome.runs += 1;
        let played = play(subject, script, &variant)?;
        outcome.restores += played.restores;
        let failures = judge(subject, script, &played);
        let named = |failure| Failure { variant: Some(format!("{} (--seed {seed})", variant.describe())), ..failure };
        outcome.failures.extend(failures.into_iter().map(named));
    }
    Ok(outcome)
}

/// What of the run no checkpoint keeps, if there is something.
fn keeps_all(subject: &Subject, script: &Script) -> Result<(), String> {
    for step in &subject.plan.steps {
        match &step.action {
            Action::Custom(custom) if !custom.restores() => {
                return Err(format!("operator \"{}\" cannot be kept in checkpoints", custom.name()));
            }
            _ => {}
        }
    }
    let passes: Duration = script.epochs.iter().map(|stage| stage.time).sum();
    let silent = |read: &subject::Read| read.step.idle_timeout.is_some_and(|timeout| timeout <= passes);
    match subject.sources.iter().find(|(_, read)| silent(read)) {
        Some((table, _)) => Err(format!("for how long table \"{table}\" has been silent is not kept in checkpoints")),
        None => Ok(()),
    }
}

impl Variant {
    /// What tells it from the plain run.
    fn describe(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.shuffled.then(|| "with the rows of each epoch in another order".to_owned()));
        parts.extend((self.workers > 1).then(|| format!("on {} workers", self.workers)));
        parts.extend(self.killed.then(|| "after a crash and a restore".to_owned()));
        parts.join(", ")
    }
}
