//! A run that is driven step by step, for simulations: the same workers, but only one of them moves at a time, and who does is the
//! driver's choice.
//!
//! Each worker is a thread that waits for the *baton*, makes one step and hands it back. What a step does to the outside may hand it
//! back, too, by [`pass`]: so others, of other generations as well, come between any two things that a step does. With a clock that
//! stands still by itself and work done inline, what happens is a function of the driver's choices.

use super::fate::Fate;
use super::lane::Offload;
use super::metrics::Metrics;
use super::views::Shelf;
use super::{Crew, Surroundings, work};
use crate::connector::Context;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::time::Epoch;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use timely::communication::{WorkerGuards, initialize_from};
use timely::worker::Worker;
use timely::{CommunicationConfig, WorkerConfig};

/// A run whose workers stand still until they are told to move. When it is dropped they end where they are, as if killed.
pub struct Simulated {
    fate: Arc<Fate>,
    metrics: Arc<Metrics>,
    seats: Vec<Seat>,
    guards: Option<WorkerGuards<()>>,
}

/// The driver's side of a worker.
struct Seat {
    go: Option<Sender<()>>,
    back: Receiver<()>,
}

/// The worker's side.
struct Baton {
    go: Receiver<()>,
    back: Sender<()>,
    /// Nobody will ask this worker to move again.
    killed: bool,
}

thread_local! {
    static BATON: RefCell<Option<Baton>> = const { RefCell::new(None) };
}

/// Hands the baton back in the middle of a step and waits for it. False once the run was killed: whatever comes next must not
/// happen. On a thread that is no worker of a simulation nothing is waited for.
pub fn pass() -> bool {
    BATON.with_borrow_mut(|baton| {
        let Some(baton) = baton else { return true };
        if !baton.killed {
            baton.killed = baton.back.send(()).is_err() || baton.go.recv().is_err();
        }
        !baton.killed
    })
}

impl Simulated {
    /// Prepares `plan` on so many workers; nothing moves yet. The surroundings' work beside the workers must be done inline.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a plan that cannot run, or surroundings with threads.
    pub fn new(plan: Plan, workers: usize, surroundings: Surroundings) -> Result<Self> {
        plan.check()?;
        if workers == 0 || matches!(surroundings.offload, Offload::Threads) {
            return Err(Error::invalid("a simulation has workers, and no threads beside them"));
        }
        let fate = Arc::new(Fate::default());
        let clock = Arc::clone(&surroundings.clock);
        let metrics = Arc::new(Metrics::new(&plan, 0, workers, Arc::clone(&clock)));
        let context = Context { embedded_broker: surroundings.embedded_broker.clone(), clock, workers };
        let past = surroundings.past(&plan)?;
        let communication =
            if workers == 1 { CommunicationConfig::Thread } else { CommunicationConfig::Process(workers) };
        let (builders, others) = communication.try_build().map_err(Error::internal)?;
        let (mut seats, mut batons) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let ((go, told), (back, heard)) = (bounded(0), bounded(1));
            seats.push(Seat { go: Some(go), back: heard });
            batons.push(Some(Baton { go: told, back, killed: false }));
        }
        let batons = Mutex::new(batons);
        let crew = Crew {
            shelf: Arc::new(Shelf::of(&plan, true)),
            plan: Arc::new(plan),
            context,
            workers: 0..workers,
            fate: Arc::clone(&fate),
            metrics: Arc::clone(&metrics),
            past,
        };
        let guards = initialize_from(builders, others, move |allocator| {
            // without a clock of its own timely wakes who wants to be woken later at once
            let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
            let mut batons = batons.lock().unwrap_or_else(PoisonError::into_inner);
            let mut baton = batons[worker.index()].take().expect("each worker takes its own");
            drop(batons);
            baton.killed = baton.go.recv().is_err();
            BATON.set(Some(baton));
            let step = |worker: &mut Worker| {
                if pass() {
                    worker.step();
                }
            };
            work(&mut worker, &crew, &step);
            drop(worker);
            BATON.set(None);
        });
        Ok(Simulated { fate, metrics, seats, guards: Some(guards.map_err(Error::internal)?) })
    }

    /// How it ends; a driver may stop it by this, too.
    pub fn fate(&self) -> Arc<Fate> {
        Arc::clone(&self.fate)
    }

    /// The first epoch that is not complete: every sink has taken all rows of those before it.
    pub fn complete(&self) -> Epoch {
        self.metrics.epochs_finished.load(Relaxed)
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.seats.len()
    }

    /// True when no worker has anything left to do.
    pub fn finished(&self) -> bool {
        self.seats.iter().all(|seat| seat.go.is_none())
    }

    /// Moves `worker` to the end of its step, or to where it passes the baton. False if it has ended.
    pub fn step(&mut self, worker: usize) -> bool {
        let seat = &mut self.seats[worker];
        let moved = seat.go.as_ref().is_some_and(|go| go.send(()).is_ok()) && seat.back.recv().is_ok();
        if !moved {
            seat.go = None;
        }
        moved
    }

    /// Ends all workers where they are: nothing that they still do goes by [`pass`].
    pub fn kill(&mut self) {
        self.fate.fail(Error::internal("killed by the simulation"));
        for seat in &mut self.seats {
            // one after the other, so that what they drop is dropped in order
            seat.go = None;
            while seat.back.recv().is_ok() {}
        }
        if let Some(guards) = self.guards.take() {
            // a worker's panic is its run's error already
            drop(guards.join());
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.kill();
    }
}
