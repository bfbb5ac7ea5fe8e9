//! Recorded epochs, seen again: the same rows as the first time, for whoever asks, while the real sinks are left alone.
//!
//! ```text
//! log ─ Stretch ─▶ sources read what was bound ─▶ the same steps, restored from the checkpoint before ─▶ tap ─▶ Told, epoch by epoch
//! ```
//! Everything that a pipeline says is a function of its epochs, so it does not matter how many workers there were then or are now. The
//! store is only read: such a run is no generation, takes no checkpoint, and opens no sink.

use super::begin::{Beginning, Checkpoints, Upkeep, skips};
use super::lane::Offload;
use super::metrics::Snapshot;
use super::metronome::SplitNames;
use super::source::Skip;
use super::{Running, Surroundings, Workers, start_with};
use crate::batch::Batch;
use crate::checkpoint::decide::{Verdict, match_steps};
use crate::checkpoint::history::{Begin, Stretch};
use crate::checkpoint::log::Log;
use crate::checkpoint::manifest::SplitState;
use crate::checkpoint::store::Store;
use crate::connector::{Context, SplitStart};
use crate::error::{Error, Result};
use crate::plan::{Emit, Plan, Route, StepId};
use crate::time::{Clock, Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// Epochs that wait to be taken; the sources wait for them.
const WAITING: usize = 2;

/// How often the end of a run is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What the workers know of the epochs that they see again.
pub struct Replay {
    /// The epochs.
    pub(super) stretch: Stretch,
    /// Where the splits of each table stand before them.
    pub(super) splits: BTreeMap<String, Vec<SplitState>>,
    /// Where what is said goes.
    pub(super) told: Sender<Told>,
    /// Rows that were left out.
    skips: Vec<Skip>,
    store: Store,
}

impl Replay {
    /// What one worker restores.
    pub(super) fn checkpoints(&self) -> Checkpoints {
        let first = self.stretch.first();
        let beginning = Beginning::again(self.stretch.checkpoint.clone(), first, self.skips.clone());
        let (store, offload) = (self.store.clone(), Offload::default());
        Checkpoints {
            store,
            beginning,
            offload,
            names: SplitNames::default(),
            careful: None,
            upkeep: Upkeep::default(),
        }
    }
}

/// What the sinks would have been given of one epoch.
#[derive(Debug, Clone)]
pub struct Told {
    /// The epoch; it is complete.
    pub epoch: Epoch,
    /// Rows, each batch with the place of its table in [`Replaying::tables`].
    pub rows: Vec<(usize, Batch)>,
}

/// A table that the pipeline writes.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its name.
    pub table: String,
    /// Its step in the plan.
    pub step: StepId,
    /// The columns of its rows, without the weight.
    pub schema: SchemaRef,
    /// True if rows have a weight in one more column: some take others back.
    pub updating: bool,
    /// The columns by which rows replace each other, by index into `schema`; empty if there are none.
    pub key: Vec<usize>,
}

/// A run that sees epochs again.
pub struct Replaying {
    /// The tables that the pipeline writes.
    pub tables: Vec<Written>,
    running: Running,
    told: Receiver<Told>,
}

/// The tables that `plan` writes, in the order of its steps.
pub fn written(plan: &Plan) -> Vec<Written> {
    let written = |(step, sink): (StepId, &crate::plan::SinkStep)| {
        let input = &plan.steps[step].inputs[0];
        Written {
            table: sink.table.clone(),
            step,
            schema: Arc::clone(&plan.steps[step].schema),
            updating: plan.steps[input.from].emit == Emit::Updating,
            key: match &input.route {
                Route::Key(columns) => columns.clone(),
                Route::Forward | Route::Single => Vec::new(),
            },
        }
    };
    plan.sinks().map(written).collect()
}

/// Starts to see `stretch` of the pipeline in `store` again, on `workers` threads.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if `plan` cannot take the state; whatever a source says of input that is gone.
/// What else differs from the first time is what [`Replaying::finish`] answers.
pub fn start(
    plan: Plan,
    store: &Store,
    stretch: Stretch,
    workers: usize,
    embedded_broker: Option<String>,
    clock: Arc<dyn Clock>,
) -> Result<Replaying> {
    if plan.sinks().next().is_none() {
        return Err(Error::invalid("the pipeline writes no table, so there is nothing to see again")
            .help("`highwater run FILE --ask` asks its views"));
    }
    fit(&plan, &stretch)?;
    let context = Context { embedded_broker: embedded_broker.clone(), clock: Arc::clone(&clock), workers };
    let splits = splits(&plan, &stretch, &context)?;
    let (tell, told) = bounded(WAITING);
    let tables = written(&plan);
    let skips = skips(&Log::read(store)?);
    let replay = Replay { stretch, splits, told: tell, skips, store: store.clone() };
    let surroundings = Surroundings { embedded_broker, replay: Some(Arc::new(replay)), ..Surroundings::new(clock) };
    let running = start_with(plan, Workers::Threads(workers), surroundings)?;
    Ok(Replaying { tables, running, told })
}

/// A table and all its rows, each batch with its epoch.
pub struct Rows {
    /// The table.
    pub table: Written,
    /// Its rows, in the order of their epochs.
    pub rows: Vec<(Epoch, Batch)>,
}

/// What all recorded epochs of the pipeline in `store` say, on one worker: what its tables hold if every row came once.
///
/// # Errors
/// As [`Stretch::read`], [`start`] and [`Replaying::finish`].
pub fn whole(plan: Plan, store: &Store, embedded_broker: Option<String>, clock: Arc<dyn Clock>) -> Result<Vec<Rows>> {
    let stretch = Stretch::read(store, Begin::Start, None)?;
    let mut replaying = start(plan, store, stretch, 1, embedded_broker, clock)?;
    let mut tables: Vec<Rows> =
        replaying.tables.iter().map(|table| Rows { table: table.clone(), rows: Vec::new() }).collect();
    while let Some(Told { epoch, rows }) = replaying.hear() {
        rows.into_iter().for_each(|(table, batch)| tables[table].rows.push((epoch, batch)));
    }
    replaying.finish().1?;
    Ok(tables)
}

impl Replaying {
    /// Waits for the next epoch in which something is said; none at the end.
    pub fn hear(&mut self) -> Option<Told> {
        loop {
            match self.told.recv_timeout(LOOK) {
                Ok(told) => return Some(told),
                // what was said before the end is still there
                Err(RecvTimeoutError::Timeout) if self.running.finished() => return self.told.try_recv().ok(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Ends it, whether it has come to its end or not, and answers why it failed if it failed.
    pub fn finish(self) -> (Snapshot, Result<()>) {
        let Replaying { running, told, .. } = self;
        running.fate().stop();
        // nobody waits for room any more
        drop(told);
        running.wait()
    }
}

/// Refuses a plan that cannot take the state or does not read the tables; warns of one that may say something else.
fn fit(plan: &Plan, stretch: &Stretch) -> Result<()> {
    let advice = "see them again with the definition as it was";
    let identities: Vec<(String, String)> = plan.identities().into_iter().map(|(_, identity)| identity).collect();
    if let Some(manifest) = &stretch.checkpoint {
        let matches = match_steps(&manifest.steps, &identities);
        if let Some(other) = matches.iter().find(|matched| matched.verdict != Verdict::Kept) {
            return Err(Error::invalid(format!(
                "the pipeline is not the one that checkpoint {} is of: step \"{}\" is another",
                manifest.epoch, other.step
            ))
            .help(advice));
        }
    }
    let read = |table: &str| plan.sources().any(|(_, source)| source.table == table);
    let bound = stretch.bindings.iter().flat_map(|binding| &binding.sources);
    if let Some(gone) = bound.map(|bound| &bound.source).find(|table| !read(table)) {
        let error = Error::invalid(format!("the recorded epochs have rows of table \"{gone}\", which is not read"));
        return Err(error.help(advice));
    }
    let fingerprint = blake3::Hash::from_bytes(plan.fingerprint()).to_hex().to_string();
    if stretch.fingerprints.iter().any(|known| *known != fingerprint) {
        warn!("the definition or a setting is not what it was when these epochs were recorded: rows may differ");
    }
    Ok(())
}

/// Where the splits stand before the stretch, if what follows is still there.
fn splits(plan: &Plan, stretch: &Stretch, context: &Context) -> Result<BTreeMap<String, Vec<SplitState>>> {
    let mut splits = BTreeMap::new();
    for (_, source) in plan.sources() {
        let place = |error: Error| error.within(format!("table \"{}\"", source.table));
        let saved = stretch.checkpoint.iter().flat_map(|manifest| &manifest.sources);
        let before = saved.clone().find(|saved| saved.table == source.table);
        let before = before.map(|saved| saved.splits.clone()).unwrap_or_default();
        let (open, mut known): (Vec<SplitState>, Vec<SplitState>) =
            before.into_iter().partition(|split| split.watermark != Watermark::END);
        let starts: Vec<SplitStart> = open.iter().map(|split| split.start.clone()).collect();
        let starts = source.source.resume(starts, false, context).map_err(place)?;
        known.extend(open.into_iter().zip(starts).map(|(split, start)| SplitState { start, ..split }));
        // those that are read from their beginning
        let later = stretch.names.get(&source.table).into_iter().flat_map(BTreeMap::iter);
        let later = later.filter(|(number, _)| !known.iter().any(|split| split.number == **number));
        let whole = later.map(|(_, name)| SplitStart::whole(name.clone())).collect();
        source.source.resume(whole, false, context).map_err(place)?;
        known.sort_by_key(|split| split.number);
        splits.insert(source.table.clone(), known);
    }
    Ok(splits)
}
