//! Pipelines in a simulated world, where everything that can go wrong does at every place, and nothing depends on luck but a seed.
//!
//! A seed decides all: the table, the query, how many workers there are, who moves, what the store and the broker answer, when a generation
//! is killed, and when one is replaced while it goes on. `HIGHWATER_SEED=n` runs one seed and prints what happened, `HIGHWATER_RUNS=n`
//! so many; without them the test takes as many as fit into its time.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/contract.rs"]
mod contract;
#[path = "sim/contract.rs"]
mod held;
#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/queries.rs"]
mod queries;
#[path = "support/world.rs"]
mod world;

use broker::Broker;
use highwater::checkpoint::log::{Log, Record};
use highwater::checkpoint::manifest::Manifest;
use highwater::connector::Sink;
use highwater::connector::builtin::Builtin;
use highwater::error::{Error, ErrorKind};
use highwater::plan::{Action, Plan};
use highwater::runtime::lane::Offload;
use highwater::runtime::simulate::Simulated;
use highwater::runtime::{Surroundings, Upkeep};
use pipeline::{Shape, Table, plan, run};
use queries::{QUERIES, text};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use world::{Life, Swarm, World};

/// How long the test looks for trouble.
const BUDGET: Duration = Duration::from_secs(60);

/// Of so many seeds one is run twice.
const TWICE: u64 = 10;

/// Seeds that found something once.
const REGRESSIONS: &str = include_str!("sim/regressions.txt");

/// Steps within which a run comes to its end once nothing goes wrong any more.
const CALM_STEPS: u64 = 60_000;

/// How often the oracles look.
const LOOK_EVERY: u64 = 500;

/// Steps that those who were replaced are given when all is done.
const AFTERMATH: u64 = 2000;

/// Queries that say the same however rows fall into epochs.
const WHATEVER_EPOCHS: [usize; 3] = [0, 5, 6];

/// What a run came to.
struct Report {
    hash: u64,
    steps: u64,
    events: u64,
    lives: u32,
}

/// One generation.
struct Generation {
    sim: Simulated,
    life: Arc<Life>,
    /// By worker: of how many chances it takes one.
    pace: Vec<u32>,
    /// It stands still until this step; for ever until all is done, if that is the last one that there is.
    asleep_until: u64,
}

/// What a seed decides of the pipeline.
struct Definition {
    table: Table,
    query: usize,
    plan: Plan,
    single: bool,
    records_max: usize,
    upkeep: Upkeep,
    retain: usize,
}

impl Definition {
    fn random(rng: &mut StdRng, world: &Arc<World>, broker: &Arc<Broker>) -> Self {
        let table = Table::random(rng);
        let query = rng.random_range(0..QUERIES.len());
        let (interval, retain) = (rng.random_range(1..4), rng.random_range(1..4));
        let text = format!(
            "SET 'checkpoint_store' = 'memory'; SET 'checkpoint_interval' = '{interval} epochs'; SET 'checkpoint_retain' = '{retain}'; {}",
            text(&table, query)
        );
        // epochs that end by the clock are others each time
        let text = match WHATEVER_EPOCHS.contains(&query) && rng.random_bool(0.5) {
            true => text.replace(
                &format!("SET 'tick' = '{} rows'", table.tick),
                &format!(
                    "SET 'tick' = '{}ms'; SET 'inflight_bytes' = '{}'",
                    rng.random_range(1..100),
                    rng.random_range(1000..40_000)
                ),
            ),
            false => text,
        };
        let (single, records_max) = (rng.random_bool(0.2), rng.random_range(1..60));
        let nobody = Life::new(world, 0, 0);
        let sink = broker.sink(&nobody, single, records_max);
        let plan = plan(
            &text,
            &Builtin::default()
                .with_source("t", table.source())
                .with_source("newest", table.newest())
                .with_sink("out", sink),
        );
        let upkeep = Upkeep {
            deltas_min: rng.random_range(0..5),
            sweep_every: rng.random_range(1..4),
            // nothing takes so long that something is named that much later than it was written, as in real life
            sweep_age: Duration::from_secs(600),
            part_bytes: [1, 400, 4000, usize::MAX][rng.random_range(0..4)],
        };
        Definition { table, query, plan, single, records_max, upkeep, retain }
    }

    /// The plan, with `sink` to be written.
    fn with_sink(&self, sink: Arc<dyn Sink>) -> Plan {
        let mut plan = self.plan.clone();
        for step in &mut plan.steps {
            if let Action::Sink(definition) = &mut step.action {
                definition.sink = Arc::clone(&sink);
            }
        }
        plan
    }

    fn start(&self, broker: &Arc<Broker>, number: u32, workers: usize, rng: &mut StdRng) -> Generation {
        let world = &broker.world;
        let life = Life::new(world, number, rng.random());
        let (clock, lag, slow) = (Arc::clone(&world.clock), Arc::clone(&life), rng.random_range(1..8));
        let surroundings = Surroundings {
            store: Some(life.store()),
            offload: Offload::Inline(Arc::new(move || lag.below(slow) as usize)),
            upkeep: self.upkeep,
            ..Surroundings::new(clock)
        };
        let plan = self.with_sink(broker.sink(&life, self.single, self.records_max));
        let sim = Simulated::new(plan, workers, surroundings).expect("it can be simulated");
        let pace = |_| if world.swarm.uneven { rng.random_range(1..20) } else { 1 };
        world.note(format_args!("life {number} begins on {workers} workers"));
        Generation { sim, life, pace: (0..workers).map(pace).collect(), asleep_until: 0 }
    }
}

impl Generation {
    /// One of its workers makes a step.
    fn step(&mut self, rng: &mut StdRng) {
        let worker = rng.random_range(0..self.pace.len());
        let pace = if self.life.world.calm() { 1 } else { self.pace[worker] };
        if pace == 1 || rng.random_ratio(1, pace) {
            self.sim.step(worker);
        }
    }

    fn kill(mut self) {
        self.life.die();
        self.sim.kill();
    }

    /// How it ended, if it has.
    fn end(&self) -> Option<Result<(), Error>> {
        self.sim.finished().then(|| self.sim.fate().error().map_or(Ok(()), Err))
    }
}

impl Drop for Generation {
    /// Who waits for the broker would wait for ever: nobody moves it on any more.
    fn drop(&mut self) {
        self.life.die();
    }
}

/// What must be true at any time.
#[derive(Default)]
struct Oracles {
    /// The records of the log that were ever seen.
    log: BTreeMap<u64, Record>,
    incarnation: Option<String>,
}

impl Oracles {
    fn look(&mut self, world: &World, broker: &Broker, retain: usize) -> Result<(), String> {
        if let Some(broken) = broker.broken_marker() {
            return Err(format!("markers go back: {broken}"));
        }
        let log = Log::read(world.store()).map_err(|error| format!("the log is broken: {error:?}"))?;
        for (number, record) in log.records() {
            let before = self.log.entry(*number).or_insert_with(|| record.clone());
            if before != record {
                return Err(format!("record {number} of the log is {record:?} and was {before:?}"));
            }
        }
        if let Some(incarnation) = log.incarnation() {
            let before = self.incarnation.get_or_insert_with(|| incarnation.to_owned());
            if before != incarnation {
                return Err("the pipeline has another incarnation".into());
            }
        }
        let (mut epoch, mut generation) = (None, 0);
        for (number, record) in &self.log {
            match record {
                Record::Start { generation: next, .. } => {
                    if *next <= generation {
                        return Err(format!("record {number}: generation {next} starts after {generation}"));
                    }
                    generation = *next;
                }
                Record::Checkpoint { epoch: next, generation: of, .. } => {
                    if Some(*next) <= epoch || *of < generation {
                        return Err(format!(
                            "record {number}: checkpoint {next} of {of} after {epoch:?} of {generation}"
                        ));
                    }
                    epoch = Some(*next);
                }
                _ => {}
            }
        }
        let there: BTreeSet<String> =
            world.store().list("").expect("it has no faults").into_iter().map(|entry| entry.path).collect();
        for committed in log.checkpoints().rev().take(retain).chain(log.latest_checkpoint()) {
            let manifest = Manifest::read(world.store(), &committed.manifest_ref())
                .map_err(|error| format!("checkpoint {}: {error:?}", committed.epoch))?;
            for object in manifest.state.iter().chain(&manifest.outputs) {
                if !there.contains(&object.path) {
                    return Err(format!("checkpoint {} names {}, which is not there", committed.epoch, object.path));
                }
            }
        }
        Ok(())
    }
}

/// True if a generation may end like this in this world.
fn may_happen(error: &Error, replaced: bool) -> bool {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Fenced => true,
        // what it wants to read may have been swept by those who came after it
        ErrorKind::Corrupt => replaced,
        _ => false,
    }
}

/// Runs a pipeline that one stream of chance decides as another one says.
fn simulate(world: &Arc<World>, pipeline: &mut StdRng, rng: &mut StdRng) -> Result<Report, String> {
    let broker = Broker::new(world, pipeline.random_range(1..4));
    let definition = Definition::random(pipeline, world, &broker);
    let (expected, _) = run(&text(&definition.table, definition.query), &definition.table, Shape::Threads(1));
    world.note(format_args!(
        "{} splits, a tick of {}, {}, one shard: {}: {}",
        definition.table.splits.len(),
        definition.table.tick,
        definition.records_max,
        definition.single,
        QUERIES[definition.query]
    ));
    let swarm = world.swarm.clone();
    let mut oracles = Oracles::default();
    let mut lives = 1;
    let mut workers = rng.random_range(1..=swarm.workers_max);
    let mut current = definition.start(&broker, lives, workers, rng);
    let mut replaced: Vec<Generation> = Vec::new();
    let calm_at = rng.random_range(500..12_000);
    let mut asked_to_stop = false;
    let mut steps = 0;
    loop {
        steps += 1;
        if steps == calm_at {
            world.calm_down();
        }
        if steps > calm_at + CALM_STEPS {
            return Err("it comes to no end".into());
        }
        world.tick(rng);
        broker.tick(rng);
        match replaced.len() {
            0 => current.step(rng),
            _ if rng.random_bool(0.7) => current.step(rng),
            others => {
                let other = &mut replaced[rng.random_range(0..others)];
                if other.asleep_until <= steps {
                    other.step(rng);
                }
            }
        }
        if steps % LOOK_EVERY == 0 {
            oracles.look(world, &broker, definition.retain)?;
        }
        retire(&mut replaced)?;
        let mut next = false;
        match current.end() {
            Some(Ok(())) => {
                let log = Log::read(world.store()).map_err(|error| format!("the log is broken: {error:?}"))?;
                match log.latest_checkpoint() {
                    Some(last) if last.ended => break,
                    _ if asked_to_stop => next = true,
                    last => return Err(format!("life {lives} ends before its input: {last:?}")),
                }
            }
            Some(Err(error)) if may_happen(&error, false) => {
                world.note(format_args!("life {lives} ends: {error}"));
                next = true;
            }
            Some(Err(error)) => return Err(format!("life {lives} ends: {error:?}")),
            None => {}
        }
        if !world.calm() && rng.random_ratio(1, u32::try_from(swarm.deaths_every).unwrap_or(u32::MAX)) {
            // a stop ends an epoch early
            match WHATEVER_EPOCHS.contains(&definition.query) && rng.random_bool(0.2) {
                true => {
                    world.note(format_args!("life {lives} is asked to stop"));
                    current.sim.fate().stop();
                    asked_to_stop = true;
                }
                false => next = true,
            }
        }
        if next {
            lives += 1;
            asked_to_stop = false;
            if rng.random_bool(0.5) {
                workers = rng.random_range(1..=swarm.workers_max);
            }
            let successor = definition.start(&broker, lives, workers, rng);
            let mut before = std::mem::replace(&mut current, successor);
            if before.sim.finished() || !rng.random_bool(swarm.zombies) || replaced.len() >= 3 {
                world.note(format_args!("life {} is killed", before.life.number));
                before.kill();
            } else {
                before.asleep_until = match rng.random_range(0..4) {
                    0 => u64::MAX,
                    1 => steps + rng.random_range(0..3000),
                    _ => 0,
                };
                world.note(format_args!("life {} goes on from step {}", before.life.number, before.asleep_until));
                replaced.push(before);
            }
            if !world.calm() && rng.random_bool(0.2) {
                world.clock.advance(Duration::from_secs(rng.random_range(0..1500)));
            }
        }
    }
    world.note(format_args!("life {lives} has come to the end"));
    if rng.random_bool(0.3) {
        // the same command again
        lives += 1;
        replaced.push(definition.start(&broker, lives, workers, rng));
    }
    for _ in 0..AFTERMATH {
        if replaced.is_empty() {
            break;
        }
        world.tick(rng);
        broker.tick(rng);
        let other = rng.random_range(0..replaced.len());
        replaced[other].step(rng);
        retire(&mut replaced)?;
    }
    replaced.into_iter().for_each(Generation::kill);
    broker.settle();
    oracles.look(world, &broker, definition.retain)?;
    let mut found = broker.published();
    found.sort_unstable();
    if found != expected {
        return Err(differs(&found, &expected, QUERIES[definition.query]));
    }
    let (hash, events) = world.trace(|trace| (trace.hash(), trace.events));
    Ok(Report { hash, steps, events, lives })
}

/// Lets go of those that have ended; how may be wrong.
fn retire(replaced: &mut Vec<Generation>) -> Result<(), String> {
    for at in (0..replaced.len()).rev() {
        if let Some(end) = replaced[at].end() {
            let life = Arc::clone(&replaced.remove(at).life);
            match end {
                Ok(()) => life.note(format_args!("has come to the end")),
                Err(error) if may_happen(&error, true) => life.note(format_args!("ends: {error}")),
                Err(error) => return Err(format!("life {}, which was replaced, ends: {error:?}", life.number)),
            }
        }
    }
    Ok(())
}

fn differs(found: &[String], expected: &[String], query: &str) -> String {
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    found.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    expected.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    let some = |sign: i64| {
        let rows = counts.iter().filter(|(_, count)| count.signum() == sign);
        rows.take(5).map(|(row, count)| format!("{count:+} {row}")).collect::<Vec<_>>()
    };
    let (lost, extra) = (some(-1), some(1));
    format!("{} rows instead of {}; lost {lost:?}; too many {extra:?}: {query}", found.len(), expected.len())
}

/// The same with all that a failure has to say.
fn check(seed: u64) -> Report {
    // apart from each other, so that a new kind of trouble leaves a seed its pipeline
    let stream = |number: u64| StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let world = World::new(Swarm::random(&mut stream(1)));
    let outcome = catch_unwind(AssertUnwindSafe(|| simulate(&world, &mut stream(2), &mut stream(3))));
    let failure = match outcome {
        Ok(Ok(report)) => return report,
        Ok(Err(failure)) => failure,
        Err(panic) => format!("panic: {:?}", panic.downcast_ref::<String>()),
    };
    let events = world.trace(|trace| trace.text());
    panic!("{failure}\n{:#?}\n{events}to see this again: HIGHWATER_SEED={seed}\n{failure}", world.swarm);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a seed and a number of runs are numbers"))
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_nothing_comes_twice() {
    if let Some(seed) = number("HIGHWATER_SEED") {
        let Report { hash, steps, events, lives } = check(seed);
        println!("seed {seed}: {steps} steps, {events} events, {lives} lives, trace {hash:016x}");
        return;
    }
    let (start, runs) = (Instant::now(), number("HIGHWATER_RUNS"));
    let known: Vec<u64> = REGRESSIONS
        .lines()
        .filter_map(|line| line.split_whitespace().next().filter(|word| !word.starts_with('#')))
        .map(|word| word.parse().expect("a line begins with a seed"))
        .collect();
    let (next, totals) = (AtomicU64::new(0), [const { AtomicU64::new(0) }; 4]);
    let first: u64 = rand::rng().random_range(0..1 << 48);
    let goes_on = |number: u64| match runs {
        Some(runs) => number < runs,
        None => number < known.len() as u64 || start.elapsed() < BUDGET,
    };
    let look = || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if !goes_on(number) {
                return;
            }
            let seed = known.get(number as usize).copied().unwrap_or(first + number);
            let report = check(seed);
            if number % TWICE == 0 {
                assert_eq!(report.hash, check(seed).hash, "seed {seed} does not do the same again");
            }
            for (total, more) in totals.iter().zip([1, report.steps, report.events, u64::from(report.lives)]) {
                total.fetch_add(more, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        (0..threads).for_each(|_| drop(scope.spawn(look)));
    });
    let [seeds, steps, events, lives] = totals.map(|total| total.load(Ordering::SeqCst));
    println!("{seeds} seeds from {first}: {lives} lives, {steps} steps, {events} events in {:.0?}", start.elapsed());
    assert!(seeds > 0 && lives > seeds, "hardly anything went wrong");
}

#[test]
fn who_starts_while_another_comes_to_the_end_adds_nothing() {
    for query in [5, 6] {
        // after so many steps of the one that starts the other one runs from its beginning to its end
        for steps in (1..40).step_by(3) {
            let rng = &mut StdRng::seed_from_u64(7);
            let world = World::new(Swarm { passes: 1.0, ..Swarm::default() });
            let broker = Broker::new(&world, 1);
            let mut definition = Definition::random(rng, &world, &broker);
            let table = Table::random(rng);
            let of_query = text(&table, query);
            let sql = format!("SET 'checkpoint_store' = 'memory'; SET 'checkpoint_interval' = '2 epochs'; {of_query}");
            let sink = broker.sink(&Life::new(&world, 0, 0), false, 20);
            let connectors = Builtin::default()
                .with_source("t", table.source())
                .with_source("newest", table.newest())
                .with_sink("out", sink);
            (definition.plan, definition.single) = (plan(&sql, &connectors), false);
            let mut late = definition.start(&broker, 1, 1, rng);
            let mut to_the_end = |mut life: Generation, steps: u64| {
                for _ in 0..steps {
                    world.tick(rng);
                    broker.tick(rng);
                    life.step(rng);
                    if let Some(end) = life.end() {
                        return Err(end);
                    }
                }
                Ok(life)
            };
            late = to_the_end(late, steps).unwrap_or_else(|end| panic!("it ends after {steps} steps: {end:?}"));
            let first = definition.start(&broker, 2, 1, &mut StdRng::seed_from_u64(8));
            let end = to_the_end(first, CALM_STEPS).err().expect("it comes to its end");
            // if the other has started first, this one is the newer
            assert!(end.is_ok(), "{end:?}");
            let end = to_the_end(late, CALM_STEPS).err().expect("it comes to its end, too");
            assert!(end.as_ref().is_ok() || end.as_ref().is_err_and(|error| may_happen(error, true)), "{end:?}");
            broker.settle();
            let mut found = broker.published();
            found.sort_unstable();
            let (expected, _) = run(&of_query, &table, Shape::Threads(1));
            let differs = differs(&found, &expected, QUERIES[query]);
            assert!(found == expected, "after {steps} steps: {differs}\n{}", world.trace(|trace| trace.text()));
        }
    }
}
