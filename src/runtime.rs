//! The only room that names timely: workers, epochs on their way, exchange, the adapters of operators.
//!
//! ```text
//! metronome ─orders─▶ sources ─batches─▶ stateless ─▶ exchange by key ─▶ staged operators ─▶ sinks ─▶ probe
//!                        └─ reports of each epoch ─▶ every worker's staged operators
//! ```
//! Every worker of every process builds the same dataflow. No queue is bounded by itself; the sources bound the whole, by
//! the bytes in epochs that the probe has not passed. A run ends in one of three ways, which [`fate::Fate`] tells apart: its
//! input ended, someone asked it to stop, or something failed; the first failure ends all workers of all processes.

mod asking;
pub(crate) mod begin;
mod collections;
mod committer;
mod discovery;
pub(crate) mod exchange;
pub mod fate;
mod follow;
mod gather;
mod keeping;
pub mod lane;
mod marks;
pub mod mesh;
pub mod metrics;
mod metronome;
pub(crate) mod operators;
mod publisher;
pub mod replay;
pub mod simulate;
mod sink;
mod source;
pub mod spawn;
mod staging;
mod steps;
mod tap;
pub mod usage;
pub mod views;
mod worker;
mod writer;

pub use begin::{From, Upkeep, Wishes};
pub use source::Suspect;

use crate::checkpoint::store::Store;
use crate::connector::Context;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::time::Clock;
use fate::Fate;
use lane::Offload;
use mesh::{Guard, Mesh, Peers};
use metrics::{Metrics, Snapshot};
use replay::Replay;
use source::LastRead;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use timely::communication::WorkerGuards;
use timely::dataflow::operators::probe::Handle;
use timely::{CommunicationConfig, WorkerConfig};
use views::{Shelf, Views};
use worker::{Kept, Local, SLEEP_MAX};

/// How often the news of other processes is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Where a plan runs.
pub enum Workers {
    /// On threads of this process.
    Threads(usize),
    /// On threads of this process and of others, which are connected already.
    Mesh(Mesh),
}

/// A pipeline that runs; what is seen here is this process's part in it.
pub struct Running {
    fate: Arc<Fate>,
    metrics: Arc<Metrics>,
    shelf: Arc<Shelf>,
    clock: Arc<dyn Clock>,
    workers: WorkerGuards<()>,
    others: Option<Others>,
}

/// The other processes of a run.
struct Others {
    process: usize,
    peers: Peers,
    guard: Guard,
    watching: Arc<AtomicBool>,
    watcher: JoinHandle<()>,
}

/// Starts `plan`. `embedded_broker` is the address that stands in for the broker called `embedded`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a plan that cannot run. What fails later is what
/// [`Running::wait`] answers.
pub fn start(plan: Plan, workers: Workers, embedded_broker: Option<String>, clock: Arc<dyn Clock>) -> Result<Running> {
    start_with(plan, workers, Surroundings { embedded_broker, ..Surroundings::new(clock) })
}

/// What a run is given besides its plan.
pub struct Surroundings {
    /// The address that stands in for the broker called `embedded`.
    pub embedded_broker: Option<String>,
    /// The only clock.
    pub clock: Arc<dyn Clock>,
    /// Where checkpoints are kept, instead of where the plan says.
    pub store: Option<Store>,
    /// Where it goes on.
    pub wishes: Wishes,
    /// Where work beside the workers is done.
    pub offload: Offload,
    /// The epochs that are seen again, instead of reading on: see [`replay::start`].
    pub replay: Option<Arc<Replay>>,
    /// When stored things are tidied.
    pub upkeep: Upkeep,
}

impl Surroundings {
    /// Nothing but the clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (wishes, offload, upkeep) = (Wishes::default(), Offload::default(), Upkeep::default());
        Surroundings { embedded_broker: None, clock, store: None, wishes, offload, replay: None, upkeep }
    }

    /// What was before a run of `plan`.
    fn past(self, plan: &Plan) -> Result<Past> {
        let Surroundings { store, wishes, offload, upkeep, replay, .. } = self;
        let store = match (store, &plan.settings.checkpoint_store) {
            _ if replay.is_some() => None,
            (Some(store), _) => Some(store),
            (None, Some(location)) => Some(Store::open(location, &plan.settings.name)?),
            (None, None) => None,
        };
        Ok(Past { kept: store.map(|store| Kept { store, wishes, offload, upkeep }), replay })
    }
}

/// Starts `plan` with all that surrounds it.
///
/// # Errors
/// As [`start`], and if the store of checkpoints cannot be opened.
pub fn start_with(plan: Plan, workers: Workers, surroundings: Surroundings) -> Result<Running> {
    plan.check()?;
    let (embedded_broker, clock) = (surroundings.embedded_broker.clone(), Arc::clone(&surroundings.clock));
    let past = surroundings.past(&plan)?;
    let fate = Arc::new(Fate::default());
    let (first, count) = match &workers {
        Workers::Threads(threads) => (0, *threads),
        Workers::Mesh(mesh) => {
            let (process, _, threads) = mesh.place();
            (process * threads, threads)
        }
    };
    let metrics = Arc::new(Metrics::new(&plan, first, count, Arc::clone(&clock)));
    let shelf = Arc::new(Shelf::of(&plan, first == 0));
    let (builders, local, all, others) = match workers {
        Workers::Threads(0) => return Err(Error::invalid("a pipeline needs at least one worker")),
        Workers::Threads(threads) => {
            let communication =
                if threads == 1 { CommunicationConfig::Thread } else { CommunicationConfig::Process(threads) };
            let (builders, _) = communication.try_build().map_err(Error::internal)?;
            (builders, 0..threads, threads, None)
        }
        Workers::Mesh(mesh) => {
            let (process, processes, threads) = mesh.place();
            let (builders, guard, peers) = mesh.into_parts()?;
            let others = Others::watch(process, peers, guard, &fate, &metrics)?;
            (builders, process * threads..(process + 1) * threads, processes * threads, Some(others))
        }
    };
    let context = Context { embedded_broker, clock: Arc::clone(&clock), workers: all };
    let (plan, fate_of_all, metrics_of_all) = (Arc::new(plan), Arc::clone(&fate), Arc::clone(&metrics));
    let shelf_of_all = Arc::clone(&shelf);
    let crew =
        Crew { plan, context, workers: local, fate: fate_of_all, metrics: metrics_of_all, shelf: shelf_of_all, past };
    let work = move |worker: &mut timely::worker::Worker| {
        let step = |worker: &mut timely::worker::Worker| {
            worker.step_or_park(Some(SLEEP_MAX));
        };
        work(worker, &crew, &step);
    };
    let workers = timely::execute::execute_from(builders, Box::new(()), WorkerConfig::default(), work)
        .map_err(Error::internal)?;
    Ok(Running { fate, metrics, shelf, clock, workers, others })
}

/// What was before the run.
#[derive(Clone)]
struct Past {
    /// Checkpoints, which it goes on from and adds to.
    kept: Option<Kept>,
    /// Epochs that it sees again.
    replay: Option<Arc<Replay>>,
}

/// What all workers of a process are given.
struct Crew {
    plan: Arc<Plan>,
    context: Context,
    /// Which workers they are.
    workers: Range<usize>,
    fate: Arc<Fate>,
    metrics: Arc<Metrics>,
    shelf: Arc<Shelf>,
    past: Past,
}

/// What a worker does, each `step` a turn of all its operators.
fn work(worker: &mut timely::worker::Worker, crew: &Crew, step: &impl Fn(&mut timely::worker::Worker)) {
    let Crew { plan, context, workers, fate, metrics, shelf, past: Past { kept, replay } } = crew;
    let last_read = LastRead::default();
    let local = Local {
        plan: Arc::clone(plan),
        context: context.clone(),
        fate: Arc::clone(fate),
        metrics: Arc::clone(metrics),
        probe: Handle::new(),
        full: Rc::default(),
        workers: workers.clone(),
        worker: worker.index(),
        checkpoints: None,
        replay: replay.clone(),
        shelf: Arc::clone(shelf),
        committed: Rc::default(),
        last_read: Arc::clone(&last_read),
        ended: Rc::default(),
    };
    // a panic is a bug; the other workers must hear of it instead of waiting for this one
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker::run(worker, local, kept.clone(), step))) {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let suspect = last_read.lock().unwrap_or_else(PoisonError::into_inner).take();
        let after = match suspect.as_ref().map(|suspect| suspect.place.as_str()) {
            None | Some("") => String::new(),
            Some(place) => format!(", after it had read {place} and what follows"),
        };
        fate.fail(Error::internal(format!("worker {} panicked: {text}{after}", worker.index())));
        if let Some(suspect) = suspect {
            fate.suspect(suspect);
        }
        // timely steps what is left until it ends by itself, which it would not
        if catch_unwind(AssertUnwindSafe(|| worker::drop_all(worker))).is_err() {
            tracing::debug!("a dataflow that had panicked could not be dropped");
        }
    }
    if worker.index() == 0 {
        shelf.end();
    }
}

impl Others {
    /// Carries news both ways: their failures and wishes to stop to our workers, ours to them, counters to all.
    fn watch(process: usize, peers: Peers, guard: Guard, fate: &Arc<Fate>, metrics: &Arc<Metrics>) -> Result<Self> {
        let watching = Arc::new(AtomicBool::new(true));
        let (on, fate, metrics, news) = (Arc::clone(&watching), Arc::clone(fate), Arc::clone(metrics), peers.clone());
        let watch = move || {
            news.unpark_on_news(std::thread::current());
            let mut asked = false;
            while on.load(Ordering::Acquire) {
                news.share(metrics.share());
                if let Some(failure) = news.failure() {
                    fate.fail(failure);
                } else if let Some(error) = fate.error() {
                    news.send_failure(&error);
                }
                if news.stop_requested() {
                    fate.stop();
                } else if fate.stopping() && !asked {
                    asked = true;
                    news.request_stop();
                }
                std::thread::park_timeout(LOOK);
            }
        };
        let watcher = std::thread::Builder::new().name("peers".into()).spawn(watch);
        let watcher = watcher
            .map_err(|error| Error::unavailable("no thread is left to watch the other processes").caused_by(error))?;
        Ok(Others { process, peers, guard, watching, watcher })
    }
}

impl Running {
    /// What is counted so far, in all processes.
    pub fn snapshot(&self) -> Snapshot {
        let mut shares = self.others.as_ref().map(|others| others.peers.shared()).unwrap_or_default();
        if let Some(others) = &self.others {
            shares[others.process].clear(); // its own counters are newer than what it told
        }
        self.metrics.snapshot(&shares)
    }

    /// What this process counts, for whoever shows it.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// A handle by which another thread can stop it.
    pub fn fate(&self) -> Arc<Fate> {
        Arc::clone(&self.fate)
    }

    /// The views that can be asked, now and after the end. On a process without worker 0 they cannot be.
    pub fn views(&self) -> Views {
        Views::new(Arc::clone(&self.shelf), Arc::clone(&self.fate), Arc::clone(&self.clock))
    }

    /// The watch over the other processes, if there are any.
    pub fn peers(&self) -> Option<Peers> {
        self.others.as_ref().map(|others| others.peers.clone())
    }

    /// True when no worker of this process has anything left to do.
    pub fn finished(&self) -> bool {
        self.workers.guards().iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end, and answers what was counted, and why it failed if it failed.
    ///
    /// # Errors
    /// The first error, on whichever process it happened.
    pub fn wait(self) -> (Snapshot, Result<()>) {
        let Running { fate, metrics, workers, others, .. } = self;
        for text in workers.join().into_iter().filter_map(Result::err) {
            fate.fail(Error::internal(text));
        }
        let mut shares = Vec::new();
        if let Some(others) = others {
            others.watching.store(false, Ordering::Release);
            others.watcher.thread().unpark();
            if others.watcher.join().is_err() {
                fate.fail(Error::internal("the thread that watches the other processes panicked"));
            }
            others.peers.share(metrics.share());
            if let Some(error) = fate.error() {
                others.peers.send_failure(&error);
            }
            if let Err(error) = others.guard.release() {
                fate.fail(error);
            }
            shares = others.peers.shared();
            shares[others.process].clear();
        }
        (metrics.snapshot(&shares), fate.error().map_or(Ok(()), Err))
    }
}
