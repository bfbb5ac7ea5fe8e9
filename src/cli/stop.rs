//! `highwater stop` and `highwater savepoint`: what a person asks of a pipeline that runs, by way of its checkpoint store.
//!
//! A request is an object that the running generation looks for; that it has ended is a record in its log. So it works from any machine that
//! reaches the store, and needs no open port.

use super::explain::Definition;
use super::say;
use crate::checkpoint::log::{Log, Record};
use crate::checkpoint::savepoint;
use crate::checkpoint::store::Store;
use crate::connector::Connectors;
use crate::error::{Error, Result};
use crate::runtime::fate::Fate;
use crate::time::{Clock, SystemClock};
use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks for a request, or for its answer.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    #[command(flatten)]
    definition: Definition,
    /// Close all windows first, as if the input had ended; the pipeline is then finished
    #[arg(long)]
    drain: bool,
    /// Keep the last checkpoint as a savepoint of this name
    #[arg(long, value_name = "NAME")]
    savepoint: Option<String>,
    /// How long to wait until it has stopped
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Arguments of `savepoint`.
#[derive(Debug, Args)]
pub struct SavepointArguments {
    #[command(flatten)]
    definition: Definition,
    /// What it is to be called: letters, digits, `-` and `_`
    #[arg(value_name = "NAME")]
    name: String,
}

/// What is asked of a generation.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    drain: bool,
}

fn path(generation: u64) -> String {
    format!("control/stop-g{generation}.json")
}

/// The store of the pipeline that `definition` is.
fn store_of(definition: &Definition, connectors: &dyn Connectors) -> Result<Store> {
    let plan = definition.plan(connectors)?;
    let none = || {
        Error::invalid(format!("{}: the pipeline has no checkpoints", definition.file.display()))
            .help("SET 'checkpoint_store' to a directory")
    };
    let location = plan.settings.checkpoint_store.as_deref().ok_or_else(none)?;
    Store::existing(location, &plan.settings.name)
}

/// Stops the pipeline wherever it runs, with a last checkpoint.
pub fn stop(arguments: &StopArguments, connectors: &dyn Connectors) -> Result<()> {
    let store = store_of(&arguments.definition, connectors)?;
    let mut log = Log::read(&store)?;
    let generation = log.generation();
    let within = |error: Error| error.within(format!("checkpoint store {}", store.location()));
    if let Some((_, Record::Stop { how, .. })) = log.records().last() {
        return Err(within(Error::invalid(format!("the pipeline does not run: generation {generation} has {how}"))));
    }
    if generation == 0 {
        return Err(within(Error::invalid("the pipeline has never run")));
    }
    let request = serde_json::to_vec(&Request { drain: arguments.drain });
    let request = request.map_err(|error| Error::internal(error.to_string()))?;
    store.create(&path(generation), Bytes::from(request))?;
    let clock = SystemClock::default();
    let stopped = loop {
        log.refresh()?;
        let end = log.records().iter().find_map(|(_, record)| match record {
            Record::Stop { generation: of, how } if *of == generation => Some(how.clone()),
            _ => None,
        });
        if let Some(how) = end {
            break how;
        }
        if log.generation() > generation {
            return Err(within(Error::unavailable("a new generation has begun meanwhile").help("stop that one")));
        }
        if clock.monotonic() >= arguments.timeout {
            let waited = humantime::format_duration(arguments.timeout);
            return Err(within(Error::unavailable(format!("generation {generation} has not stopped within {waited}")))
                .help("does it run? what a run that has died leaves behind is its last checkpoint: nothing has to be stopped"));
        }
        std::thread::sleep(LOOK);
    };
    match log.last_epoch() {
        Some(epoch) => say(format!("generation {generation} has {stopped} with checkpoint {epoch}"))?,
        None => say(format!("generation {generation} has {stopped} without a checkpoint"))?,
    }
    match &arguments.savepoint {
        Some(name) => keep(&store, &mut log, name),
        None => Ok(()),
    }
}

/// Keeps the newest checkpoint as a savepoint.
pub fn save(arguments: &SavepointArguments, connectors: &dyn Connectors) -> Result<()> {
    let store = store_of(&arguments.definition, connectors)?;
    let mut log = Log::read(&store)?;
    keep(&store, &mut log, &arguments.name)
}

fn keep(store: &Store, log: &mut Log, name: &str) -> Result<()> {
    let newest = log.latest_checkpoint().map(|committed| committed.epoch);
    let epoch = newest.ok_or_else(|| Error::invalid("the pipeline has no checkpoint yet"))?;
    let place = savepoint::save(store, log, log.generation(), epoch, name)?;
    say(format!("savepoint {name}: checkpoint {epoch}, in {place}"))
}

/// Listens for requests until `fate` has its end; called on a thread of its own.
pub fn listen(store: &Store, fate: &Arc<Fate>, over: &dyn Fn() -> bool) {
    while !over() {
        std::thread::sleep(LOOK);
        let generation = fate.generation();
        // what the store does not tell now it tells the next time
        let Some(Ok(Some(bytes))) = (generation > 0).then(|| store.get(&path(generation))) else { continue };
        match serde_json::from_slice::<Request>(&bytes) {
            Ok(Request { drain: true }) => fate.drain(),
            _ => fate.stop(),
        }
        tracing::info!("stopping, because `highwater stop` asks for it");
        return;
    }
}
