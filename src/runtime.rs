//! The only room that names timely: workers, epochs on their way, exchange, the adapters of operators.
//!
//! ```text
//! metronome ─orders─▶ sources ─batches─▶ stateless ─▶ exchange by key ─▶ staged operators ─▶ sinks ─▶ probe
//!                        └─ reports of each epoch ─▶ every worker's staged operators
//! ```
//! Every worker of every process builds the same dataflow. No queue is bounded by itself; the sources bound the whole, by
//! the bytes in epochs that the probe has not passed. A run ends in one of three ways, which [`fate::Fate`] tells apart: its
//! input ended, someone asked it to stop, or something failed; the first failure ends all workers of all processes.

pub(crate) mod begin;
mod committer;
mod discovery;
pub(crate) mod exchange;
pub mod fate;
mod gather;
mod keeping;
pub mod lane;
mod marks;
pub mod mesh;
pub mod metrics;
mod metronome;
pub(crate) mod operators;
mod publisher;
mod sink;
mod source;
pub mod spawn;
mod staging;
mod steps;
pub mod usage;
mod worker;
mod writer;

pub use begin::{From, Wishes};

use crate::checkpoint::store::Store;
use crate::connector::Context;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::time::Clock;
use fate::Fate;
use lane::Offload;
use mesh::{Guard, Mesh, Peers};
use metrics::{Metrics, Snapshot};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use timely::communication::WorkerGuards;
use timely::dataflow::operators::probe::Handle;
use timely::{CommunicationConfig, WorkerConfig};
use worker::Local;

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
}

impl Surroundings {
    /// Nothing but the clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (wishes, offload) = (Wishes::default(), Offload::default());
        Surroundings { embedded_broker: None, clock, store: None, wishes, offload }
    }
}

/// Starts `plan` with all that surrounds it.
///
/// # Errors
/// As [`start`], and if the store of checkpoints cannot be opened.
pub fn start_with(plan: Plan, workers: Workers, surroundings: Surroundings) -> Result<Running> {
    plan.check()?;
    let Surroundings { embedded_broker, clock, store, wishes, offload } = surroundings;
    let store = match (store, &plan.settings.checkpoint_store) {
        (Some(store), _) => Some(store),
        (None, Some(location)) => Some(Store::open(location, &plan.settings.name)?),
        (None, None) => None,
    };
    let keeping = store.map(|store| (store, wishes, offload));
    let fate = Arc::new(Fate::default());
    let (first, count) = match &workers {
        Workers::Threads(threads) => (0, *threads),
        Workers::Mesh(mesh) => {
            let (process, _, threads) = mesh.place();
            (process * threads, threads)
        }
    };
    let metrics = Arc::new(Metrics::new(&plan, first, count, Arc::clone(&clock)));
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
    let context = Context { embedded_broker, clock, workers: all };
    let plan = Arc::new(plan);
    let (shared_fate, shared_metrics) = (Arc::clone(&fate), Arc::clone(&metrics));
    let work = move |worker: &mut timely::worker::Worker| {
        work(worker, &plan, &context, &local, &shared_fate, &shared_metrics, keeping.clone());
    };
    let workers = timely::execute::execute_from(builders, Box::new(()), WorkerConfig::default(), work)
        .map_err(Error::internal)?;
    Ok(Running { fate, metrics, workers, others })
}

fn work(
    worker: &mut timely::worker::Worker,
    plan: &Arc<Plan>,
    context: &Context,
    workers: &Range<usize>,
    fate: &Arc<Fate>,
    metrics: &Arc<Metrics>,
    keeping: Option<(Store, Wishes, Offload)>,
) {
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
        committed: Rc::default(),
        ended: Rc::default(),
    };
    // a panic is a bug; the other workers must hear of it instead of waiting for this one
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker::run(worker, local, keeping))) {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        fate.fail(Error::internal(format!("worker {} panicked: {text}", worker.index())));
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
        let Running { fate, metrics, workers, others } = self;
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
