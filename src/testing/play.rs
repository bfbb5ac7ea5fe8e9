//! One run of a test: workers that move one at a time, a clock that the test moves, and perhaps deaths.
//!
//! ```text
//! release an epoch's rows ─▶ all read ─▶ the clock moves: the epoch closes ─▶ complete: its changes are taken out
//! ```
//! Epochs follow each other one by one, so what the sinks have taken belongs to the epoch that is open. A run that is killed goes on at its
//! newest checkpoint; changes behind that are forgotten and come again.

use super::feed::Feed;
use super::rows::{Row, rows_of};
use super::script::{Script, Stage};
use super::subject::{Subject, TICK};
use crate::batch::Batch;
use crate::checkpoint::log::Log;
use crate::checkpoint::store::Store;
use crate::connector::{Changes, Context, Shard, Sink, Source};
use crate::error::{Error, Result};
use crate::plan::{Action, Interval, Plan, SourceStep};
use crate::runtime::Surroundings;
use crate::runtime::lane::Offload;
use crate::runtime::simulate::Simulated;
use crate::time::{Clock, Micros};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Steps in which an epoch comes to its end; so many mean that it never does.
const STEPS_MAX: u64 = 400_000;

/// Within an epoch a run is killed after at most 2 to the power of this many steps, which is about as long as an epoch takes.
const DEATH_STEPS_LOG_MAX: u32 = 6;

/// What is special about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Decides who moves, and all that is left to chance.
    pub seed: u64,
    /// How many workers it begins with; each table has as many splits.
    pub workers: usize,
    /// The rows of each epoch come in another order.
    pub shuffled: bool,
    /// It is killed and goes on from a checkpoint.
    pub killed: bool,
}

/// What a run came to.
pub struct Played {
    /// The changes of each epoch that was completed, by table: rows and how often they are added, or taken back if that is below 0.
    pub epochs: Vec<BTreeMap<String, Vec<(Row, i64)>>>,
    /// The error that ended it, in the epoch after these.
    pub failed: Option<Error>,
    /// How often it was killed and went on from a checkpoint.
    pub restores: usize,
}

/// When a run is killed.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// When the epoch is complete, and this checkpoint is committed if there is one.
    Behind(Option<u64>),
    /// In the epoch, after so many steps.
    Within(u64),
}

/// What stands in for the outside.
pub trait Tables {
    /// For table `name`, which is read; none to leave it as it is.
    fn source(&self, name: &str, step: &SourceStep) -> Result<Option<Arc<dyn Source>>>;
    /// For table `name`, which is written, by one worker only if it is `single`.
    fn sink(&self, name: &str, single: bool) -> Arc<dyn Sink>;
}

/// Runs `script` on `subject`.
///
/// # Errors
/// Only for what keeps it from being run at all; what ends the pipeline is in [`Played::failed`].
pub fn play(subject: &Subject, script: &Script, variant: &Variant) -> Result<Played> {
    let mut rng = StdRng::seed_from_u64(variant.seed);
    let mut order = StdRng::seed_from_u64(rng.random());
    let feed = Feed::new(subject, script, variant.workers, variant.shuffled.then_some(&mut order))?;
    let collected = Collected::default();
    let mut plan = subject.with(&Outside { feed: &feed, collected: &collected })?;
    if script.wall.is_none() {
        forget_the_wall(&mut plan);
    }
    let clock = Arc::new(Hands { wall: script.wall.unwrap_or(0), passed: AtomicU64::new(0) });
    let store = variant.killed.then(|| Store::in_memory_by("test", Arc::clone(&clock) as Arc<dyn Clock>));
    let interval = rng.random_range(1..=2);
    plan.settings.checkpoint_interval = Some(Interval::Epochs(interval));
    let mut deaths = if variant.killed { deaths(script.epochs.len(), interval, &mut rng) } else { Vec::new() };
    let mut restores = 0;
    let mut epochs: Vec<BTreeMap<String, Vec<(Row, i64)>>> = Vec::new();
    let mut workers = variant.workers;
    while epochs.len() < script.epochs.len() {
        let surroundings = Surroundings {
            store: store.clone(),
            offload: Offload::Inline(Arc::new(|| 0)),
            ..Surroundings::new(Arc::clone(&clock) as Arc<dyn Clock>)
        };
        feed.begin(epochs.len());
        clock.set(script.epochs[..epochs.len()].iter().map(passes).sum());
        let mut life = Life { sim: Simulated::new(plan.clone(), workers, surroundings)?, rng: &mut rng, left: None };
        while epochs.len() < script.epochs.len() {
            let epoch = epochs.len();
            feed.release(epoch + 1);
            let death = deaths.iter().position(|(at, _)| *at == epoch).map(|index| deaths.swap_remove(index));
            life.left = match death {
                Some((_, Death::Within(steps))) => Some(steps),
                _ => None,
            };
            match life.complete(epoch as u64, &feed, || clock.pass(passes(&script.epochs[epoch]))) {
                Ok(true) => epochs.push(collected.take(subject)?),
                Ok(false) => break,
                Err(error) => return Ok(Played { epochs, failed: Some(error), restores }),
            }
            if let (Some((_, Death::Behind(checkpoint))), Some(store)) = (death, &store) {
                life.commit(store, checkpoint)?;
                break;
            }
        }
        drop(life);
        let Some(store) = store.as_ref().filter(|_| epochs.len() < script.epochs.len()) else { break };
        let kept = Log::read(store)?.latest_checkpoint().map_or(0, |committed| committed.epoch as usize + 1);
        if kept > epochs.len() {
            // it had come to that epoch's end, and nobody had seen it
            epochs.push(collected.take(subject)?);
        }
        epochs.truncate(kept);
        restores += usize::from(kept > 0);
        collected.lock().clear();
        workers = rng.random_range(1..=workers + 1);
    }
    Ok(Played { epochs, failed: None, restores })
}

/// How much time passes in an epoch.
fn passes(stage: &Stage) -> Duration {
    stage.time.max(TICK)
}

/// When a run of so many epochs is killed: once behind a checkpoint if there is one before its end, and wherever it is once or twice.
fn deaths(epochs: usize, interval: u64, rng: &mut StdRng) -> Vec<(usize, Death)> {
    let mut deaths = Vec::new();
    if epochs > 1 {
        let first = usize::try_from(interval - 1).unwrap_or(0).min(epochs - 2);
        let at = rng.random_range(first..epochs - 1);
        deaths.push((at, Death::Behind(((at as u64 + 1) / interval * interval).checked_sub(1))));
    }
    for _ in 0..rng.random_range(1..=2) {
        let steps = 2_u64.pow(rng.random_range(0..DEATH_STEPS_LOG_MAX)) + rng.random_range(0..8);
        deaths.push((rng.random_range(0..epochs.max(1)), Death::Within(steps)));
    }
    deaths
}

/// Runs `plan` to the end of its input, all in one epoch.
pub fn evaluate(mut plan: Plan) -> Result<()> {
    forget_the_wall(&mut plan);
    plan.settings.inflight_bytes = usize::MAX / 2;
    let clock = Arc::new(Hands { wall: 0, passed: AtomicU64::new(0) });
    let surroundings = Surroundings { offload: Offload::Inline(Arc::new(|| 0)), ..Surroundings::new(clock) };
    let mut sim = Simulated::new(plan, 1, surroundings)?;
    let mut steps = 0;
    while sim.step(0) {
        steps += 1;
        if steps > STEPS_MAX {
            return Err(Error::internal("a query over rows that end comes to no end"));
        }
    }
    sim.fate().error().map_or(Ok(()), Err)
}

/// No event time is too far ahead of a clock that nobody has set.
fn forget_the_wall(plan: &mut Plan) {
    for step in &mut plan.steps {
        if let Action::Source(source) = &mut step.action {
            source.max_future = Duration::MAX;
        }
    }
}

/// One generation.
struct Life<'a> {
    sim: Simulated,
    rng: &'a mut StdRng,
    /// Steps until it is killed.
    left: Option<u64>,
}

impl Life<'_> {
    /// Brings `epoch` to its end; `pass` moves the clock once all its rows are read. False if it was killed on the way.
    fn complete(&mut self, epoch: u64, feed: &Feed, pass: impl FnOnce()) -> Result<bool> {
        if !self.step_until(|_| feed.all_given())? {
            return Ok(false);
        }
        pass();
        self.step_until(|sim| sim.complete() > epoch)
    }

    /// Goes on until `checkpoint` is committed.
    fn commit(&mut self, store: &Store, checkpoint: Option<u64>) -> Result<()> {
        let Some(checkpoint) = checkpoint else { return Ok(()) };
        self.left = None;
        let committed = |_: &Simulated| {
            let log = Log::read(store).ok();
            log.is_some_and(|log| log.latest_checkpoint().is_some_and(|committed| committed.epoch >= checkpoint))
        };
        self.step_until(committed).map(drop)
    }

    fn step_until(&mut self, done: impl Fn(&Simulated) -> bool) -> Result<bool> {
        for _ in 0..STEPS_MAX {
            if let Some(error) = self.sim.fate().error() {
                return Err(error);
            }
            if done(&self.sim) || self.sim.finished() {
                return Ok(true);
            }
            if self.left == Some(0) {
                return Ok(false);
            }
            self.left = self.left.map(|left| left - 1);
            let worker = self.rng.random_range(0..self.sim.workers());
            self.sim.step(worker);
        }
        Err(Error::internal("an epoch of a test comes to no end"))
    }
}

/// A clock whose hands the test moves.
struct Hands {
    /// What it says at the beginning.
    wall: Micros,
    /// In microseconds.
    passed: AtomicU64,
}

impl Hands {
    fn pass(&self, time: Duration) {
        self.set(self.monotonic() + time);
    }

    /// Sets it to when `time` has passed since the beginning: whoever goes on at a checkpoint sees what came behind it again.
    fn set(&self, time: Duration) {
        self.passed.store(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn wall(&self) -> Micros {
        self.wall.saturating_add_unsigned(self.passed.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.passed.load(Ordering::SeqCst))
    }

    // nobody has to wait where time is made
    fn sleep(&self, _: Duration) {}
}

struct Outside<'a> {
    feed: &'a Feed,
    collected: &'a Collected,
}

impl Tables for Outside<'_> {
    fn source(&self, name: &str, _: &SourceStep) -> Result<Option<Arc<dyn Source>>> {
        Ok(self.feed.source(name))
    }

    fn sink(&self, name: &str, single: bool) -> Arc<dyn Sink> {
        Arc::new(Collector { table: name.to_owned(), single, into: self.collected.clone() })
    }
}

/// What the sinks have taken since it was taken out.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<(String, Batch)>>>);

impl Collected {
    fn lock(&self) -> MutexGuard<'_, Vec<(String, Batch)>> {
        // batches are as good after a panic as before
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, subject: &Subject) -> Result<BTreeMap<String, Vec<(Row, i64)>>> {
        let mut changes: BTreeMap<String, Vec<(Row, i64)>> = BTreeMap::new();
        for (table, batch) in std::mem::take(&mut *self.lock()) {
            let written = subject.sinks.get(&table);
            let written = written.ok_or_else(|| Error::internal("a table is written that is not known"))?;
            let columns: Vec<usize> = (0..written.schema.fields().len()).collect();
            let rows = rows_of(&batch, &columns)?;
            let weights: Vec<i64> = match written.updating {
                true => batch.column(columns.len()).as_primitive::<Int64Type>().values().to_vec(),
                false => vec![1; rows.len()],
            };
            changes.entry(table).or_default().extend(rows.into_iter().zip(weights));
        }
        Ok(changes)
    }
}

/// A sink that keeps every change.
struct Collector {
    table: String,
    single: bool,
    into: Collected,
}

impl Sink for Collector {
    fn single(&self) -> bool {
        self.single
    }

    fn open(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(Collecting { table: self.table.clone(), into: self.into.clone() }))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }
}

struct Collecting {
    table: String,
    into: Collected,
}

impl Shard for Collecting {
    fn write(&mut self, rows: Batch) -> Result<()> {
        self.into.lock().push((self.table.clone(), rows));
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        Ok(true)
    }
}
