//! The outside of a simulated run: a clock that moves when it is told to, a store and a broker, and what goes wrong with them.
//!
//! All of it is driven by one seed. Each generation of the run has a [`Life`]: its view of the world, with its own luck. Whatever a
//! life does to the outside may hand over to the driver before and after, so that it can be killed there, or others come between.
#![allow(dead_code)] // each test file uses its part

use highwater::checkpoint::store::{Fault, Faults, Operation, Store};
use highwater::error::{Error, Result};
use highwater::runtime::simulate::pass;
use highwater::time::{Clock, Micros};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Events that a failure is told with.
const EVENTS_KEPT: usize = 120;

/// What may go wrong in a run: of everything that can, a random part does.
#[derive(Debug, Clone, Default)]
pub struct Swarm {
    /// The store does not answer, or loses its answer; it cannot decide.
    pub store: f64,
    pub conflicts: f64,
    /// Requests to the broker, or its answers, are lost.
    pub broker: f64,
    /// Requests that were given up arrive later; answers come twice.
    pub late: f64,
    /// The store or the broker is gone for a while.
    pub outages: f64,
    /// How often a step of the outside lets others come between.
    pub passes: f64,
    /// Generations are killed, or replaced while they go on; about every so many steps.
    pub deaths_every: u64,
    pub zombies: f64,
    /// Now and then much time passes at once.
    pub jumps: f64,
    /// Some workers are slow.
    pub uneven: bool,
    pub workers_max: usize,
}

impl Swarm {
    pub fn random(rng: &mut StdRng) -> Self {
        fn some(rng: &mut StdRng, most: f64) -> f64 {
            if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 }
        }
        Swarm {
            store: some(rng, 0.1),
            conflicts: some(rng, 0.1),
            broker: some(rng, 0.15),
            late: some(rng, 0.15),
            outages: some(rng, 0.002),
            passes: if rng.random_bool(0.7) { rng.random_range(0.1..0.9) } else { 0.0 },
            deaths_every: if rng.random_bool(0.85) { rng.random_range(40..1500) } else { u64::MAX },
            zombies: if rng.random_bool(0.6) { rng.random_range(0.2..1.0) } else { 0.0 },
            jumps: some(rng, 0.01),
            uneven: rng.random_bool(0.3),
            workers_max: rng.random_range(1..=4),
        }
    }
}

/// A clock that moves when the driver says so.
pub struct ManualClock(AtomicU64);

/// Where it begins.
const EPOCH_BEGIN: Micros = 1_700_000_000_000_000;

impl ManualClock {
    pub fn new() -> Arc<Self> {
        Arc::new(ManualClock(AtomicU64::new(0)))
    }

    pub fn advance(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Micros {
        EPOCH_BEGIN + self.0.load(Ordering::SeqCst) as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, time: Duration) {
        let until = self.monotonic() + time;
        while self.monotonic() < until {
            let before = self.monotonic();
            if !pass() {
                return;
            }
            if self.monotonic() == before {
                // nobody drives
                self.advance(until - before);
            }
        }
    }
}

/// What has happened: all of it as a number, the end of it as text.
pub struct Trace {
    hash: DefaultHasher,
    pub events: u64,
    last: VecDeque<String>,
}

impl Trace {
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub fn text(&self) -> String {
        self.last.iter().map(|event| format!("  {event}\n")).collect()
    }
}

/// Store, clock, and what goes wrong.
pub struct World {
    pub clock: Arc<ManualClock>,
    store: Store,
    pub swarm: Swarm,
    trace: Mutex<Trace>,
    /// Nothing goes wrong any more.
    calm: AtomicBool,
    /// Until when the store and the broker are out of reach, in microseconds of the clock.
    store_back: AtomicU64,
    broker_back: AtomicU64,
}

impl World {
    pub fn new(swarm: Swarm) -> Arc<Self> {
        let clock = ManualClock::new();
        let store = Store::in_memory_by("test", Arc::clone(&clock) as Arc<dyn Clock>);
        let trace = Trace { hash: DefaultHasher::new(), events: 0, last: VecDeque::new() };
        let (calm, store_back, broker_back) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(World { clock, store, swarm, trace: Mutex::new(trace), calm, store_back, broker_back })
    }

    /// The store, without faults.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn note(&self, event: fmt::Arguments) {
        let now = self.clock.monotonic().as_micros();
        let mut trace = self.trace.lock().unwrap();
        trace.events += 1;
        let event = format!("{now} {event}");
        trace.hash.write(event.as_bytes());
        if trace.last.len() == EVENTS_KEPT {
            trace.last.pop_front();
        }
        trace.last.push_back(event);
    }

    pub fn trace<T>(&self, see: impl FnOnce(&Trace) -> T) -> T {
        see(&self.trace.lock().unwrap())
    }

    /// From now on nothing goes wrong.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
        self.note(format_args!("from here on nothing goes wrong"));
    }

    pub fn calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// A little time passes.
    pub fn tick(&self, rng: &mut StdRng) {
        let micros = match rng.random_range(0..100) {
            0..70 => rng.random_range(1..1000),
            70..95 => rng.random_range(1000..50_000),
            _ => rng.random_range(50_000..1_000_000),
        };
        self.clock.advance(Duration::from_micros(micros));
        if self.calm() {
            return;
        }
        if rng.random_bool(self.swarm.jumps) {
            self.clock.advance(Duration::from_secs(rng.random_range(1..30)));
            self.note(format_args!("much time passes"));
        }
        if rng.random_bool(self.swarm.outages) {
            let (store, seconds) = (rng.random_bool(0.5), rng.random_range(1..90));
            let until = self.clock.monotonic() + Duration::from_secs(seconds);
            let which = if store { &self.store_back } else { &self.broker_back };
            which.store(until.as_micros() as u64, Ordering::SeqCst);
            self.note(format_args!("the {} is gone for {seconds} s", if store { "store" } else { "broker" }));
        }
    }

    fn is_back(&self, which: &AtomicU64) -> bool {
        self.calm() || which.load(Ordering::SeqCst) <= self.clock.monotonic().as_micros() as u64
    }

    pub fn broker_is_back(&self) -> bool {
        self.is_back(&self.broker_back)
    }
}

/// One generation's view of the world.
pub struct Life {
    pub number: u32,
    pub world: Arc<World>,
    rng: Mutex<StdRng>,
    dead: AtomicBool,
    /// After so many steps of the outside it is dead.
    left: AtomicU64,
}

impl Life {
    pub fn new(world: &Arc<World>, number: u32, seed: u64) -> Arc<Self> {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(Life { number, world: Arc::clone(world), rng, dead: AtomicBool::new(false), left: u64::MAX.into() })
    }

    /// Nothing that it does happens any more.
    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// It dies by itself after so many steps of the outside.
    pub fn dies_after(&self, steps: u64) {
        self.left.store(steps, Ordering::SeqCst);
    }

    pub fn dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// A place where others may come between. False if it does not come back.
    pub fn between(&self) -> bool {
        if self.dead() {
            return false;
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 1 {
            self.die();
        }
        let passes = self.world.swarm.passes;
        if passes > 0.0 && self.luck(passes) {
            pass();
        }
        !self.dead()
    }

    /// True with the probability `of`.
    pub fn luck(&self, of: f64) -> bool {
        self.rng.lock().unwrap().random_bool(of)
    }

    /// True with the probability `of`, until nothing goes wrong any more.
    pub fn bad_luck(&self, of: f64) -> bool {
        !self.world.calm() && of > 0.0 && self.luck(of)
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.rng.lock().unwrap().random_range(0..bound)
    }

    /// The store as it sees it.
    pub fn store(self: &Arc<Self>) -> Store {
        Store::faulty(self.world.store.clone(), Arc::clone(self) as Arc<dyn Faults>)
    }

    pub fn note(&self, event: fmt::Arguments) {
        self.world.note(format_args!("life {}: {event}", self.number));
    }

    /// The error of whatever a dead life tries.
    pub fn gone() -> Error {
        Error::unavailable("killed by the simulation")
    }

    /// `Err` if it is dead.
    pub fn live(&self) -> Result<()> {
        if self.between() { Ok(()) } else { Err(Life::gone()) }
    }
}

impl Faults for Life {
    fn before(&self, operation: Operation, path: &str) -> Option<Fault> {
        if !self.between() {
            return Some(Fault::Crash);
        }
        let swarm = &self.world.swarm;
        let fault = if !self.world.is_back(&self.world.store_back) || self.bad_luck(swarm.store) {
            Some(Fault::Unavailable)
        } else if operation == Operation::Create && self.bad_luck(swarm.conflicts) {
            Some(Fault::Conflict)
        } else {
            None
        };
        match fault {
            None => self.note(format_args!("{operation:?} {path}")),
            Some(fault) => self.note(format_args!("{operation:?} {path}: {fault:?}")),
        }
        fault
    }

    fn after(&self, operation: Operation, path: &str) -> Option<Fault> {
        if !self.between() {
            return Some(Fault::Crash);
        }
        if self.bad_luck(self.world.swarm.store) {
            self.note(format_args!("{operation:?} {path}: done, but the answer is lost"));
            return Some(Fault::Unavailable);
        }
        None
    }
}
