//! The only room that names timely: workers, epochs on their way, exchange, the adapters of operators.
//!
//! ```text
//! metronome ─orders─▶ sources ─batches─▶ stateless ─▶ exchange by key ─▶ staged operators ─▶ sinks ─▶ probe
//!                        └─ reports of each epoch ─▶ every worker's staged operators
//! ```
//! Every worker of every process builds the same dataflow. No queue is bounded by itself; the sources bound the whole, by
//! the bytes in epochs that the probe has not passed.

mod exchange;
pub mod fate;
mod marks;
pub mod metrics;
mod metronome;
mod sink;
mod source;
mod steps;
mod worker;

use crate::connector::Context;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::time::SystemClock;
use fate::Fate;
use metrics::Metrics;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use timely::CommunicationConfig;
use timely::WorkerConfig;
use timely::communication::{AllocatorBuilder, WorkerGuards};
use timely::dataflow::operators::probe::Handle;
use worker::Local;

/// Where a plan runs.
#[derive(Debug, Clone)]
pub struct Workers {
    /// Worker threads in this process; at least 1.
    pub threads: usize,
}

/// A pipeline that runs in this process.
pub struct Running {
    fate: Arc<Fate>,
    metrics: Arc<Metrics>,
    guards: WorkerGuards<()>,
}

/// Starts `plan` on threads of this process. `embedded_broker` is the address that stands in for `embedded`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a plan that cannot run.
pub fn start(plan: Plan, workers: &Workers, embedded_broker: Option<String>) -> Result<Running> {
    plan.check()?;
    if workers.threads == 0 {
        return Err(Error::invalid("a pipeline needs at least one worker"));
    }
    let communication = match workers.threads {
        1 => CommunicationConfig::Thread,
        threads => CommunicationConfig::Process(threads),
    };
    let (builders, others) = communication.try_build().map_err(Error::internal)?;
    let context = Context { embedded_broker, clock: Arc::new(SystemClock::default()), workers: workers.threads };
    launch(plan, context, 0..workers.threads, builders, others)
}

fn launch(
    plan: Plan,
    context: Context,
    workers: std::ops::Range<usize>,
    builders: Vec<AllocatorBuilder>,
    others: Box<dyn std::any::Any + Send>,
) -> Result<Running> {
    let fate = Arc::new(Fate::default());
    let metrics = Arc::new(Metrics::new(&plan));
    let plan = Arc::new(plan);
    let shared = (Arc::clone(&fate), Arc::clone(&metrics));
    let guards = timely::execute::execute_from(builders, others, WorkerConfig::default(), move |worker| {
        let (fate, metrics) = shared.clone();
        let local = Local {
            plan: Arc::clone(&plan),
            context: context.clone(),
            fate: Arc::clone(&fate),
            metrics,
            probe: Handle::new(),
            workers: workers.clone(),
        };
        // a panic is a bug; the other workers must hear of it instead of waiting for this one
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker::run(worker, local))) {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            fate.fail(Error::internal(format!("worker {} panicked: {text}", worker.index())));
        }
    });
    Ok(Running { fate, metrics, guards: guards.map_err(Error::internal)? })
}

impl Running {
    /// What is counted while it runs.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// A handle by which another thread can stop it.
    pub fn fate(&self) -> Arc<Fate> {
        Arc::clone(&self.fate)
    }

    /// Waits for the end: of the input, by [`Fate::stop`], or by the first error.
    pub fn wait(self) -> Result<()> {
        for result in self.guards.join() {
            if let Err(text) = result {
                self.fate.fail(Error::internal(text));
            }
        }
        match self.fate.error() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
