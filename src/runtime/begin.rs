//! How a run begins: what it goes on from is decided once, on worker 0, and told to all workers before they build their dataflow.
//!
//! ```text
//! read the log ─ match the plan ─ append Start ─ publish what was left ─ look after the sources ─▶ Beginning, to every worker
//! ```
//! The record `Start` is what makes this generation the newest: after it no older one can commit. So where to go on is read after it.

use super::keeping::Staged;
use super::lane::Offload;
use super::metronome::SplitNames;
use super::publisher::give;
use super::source::{Skip, Suspect};
use super::worker::Local;
use crate::checkpoint::decide::{Match, Verdict, match_steps};
use crate::checkpoint::log::{Committed, Log, Record};
use crate::checkpoint::manifest::{Manifest, SplitState};
use crate::checkpoint::object::{ObjectRef, SectionKind};
use crate::checkpoint::savepoint;
use crate::checkpoint::store::Store;
use crate::connector::{Context, Delivery, ShardName, SplitStart};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::plan::{Plan, SinkStep};
use crate::time::{Epoch, Watermark};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::worker::Worker;
use tracing::info;

/// How long what an earlier generation left to publish is tried for.
const RECOVERY_WAIT: Duration = Duration::from_secs(120);

/// How long to wait before it is tried again.
const BREATH: Duration = Duration::from_millis(200);

/// Where a run goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum From {
    /// At the newest checkpoint of its store; at the beginning if there is none.
    #[default]
    Latest,
    /// At a savepoint: its name in the store, or a directory or URL.
    Savepoint(String),
    /// At an earlier checkpoint, which a person has chosen.
    Checkpoint(Epoch),
}

/// What a person has said about the beginning.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Where to go on.
    pub from: From,
    /// State of operators that the plan does not have any more may be dropped.
    pub drop_state: bool,
    /// Input that is gone may be left out.
    pub accept_gap: bool,
    /// Read row by row, because earlier generations died after reading this.
    pub careful: Option<Suspect>,
}

/// What all workers know of how the run begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beginning {
    /// The number of this execution of the pipeline.
    pub generation: u64,
    /// See [`ShardName::incarnation`].
    pub incarnation: String,
    /// The first epoch: none that was ever committed comes again.
    pub first: Epoch,
    /// What it goes on from. Splits begin where it says; steps that are not kept are not in it.
    manifest: Option<Manifest>,
    /// The input had ended: nothing is left to do.
    pub finished: bool,
    /// Rows that are left out.
    pub skips: Vec<Skip>,
}

impl Beginning {
    /// Of a run that sees epochs again, the first of them behind `manifest`: it is no generation of the pipeline.
    pub fn again(manifest: Option<Manifest>, first: Epoch, skips: Vec<Skip>) -> Self {
        Beginning { generation: 0, incarnation: String::new(), first, manifest, finished: false, skips }
    }

    /// The objects that the state is made of.
    pub fn state(&self) -> Vec<ObjectRef> {
        self.manifest.as_ref().map(|manifest| manifest.state.clone()).unwrap_or_default()
    }

    /// The objects whose records are not all published.
    pub fn outputs(&self) -> Vec<ObjectRef> {
        self.manifest.as_ref().map(|manifest| manifest.outputs.clone()).unwrap_or_default()
    }

    /// How far the event time of `step` had come.
    pub fn mark_of(&self, step: &str) -> Watermark {
        let steps = self.manifest.iter().flat_map(|manifest| &manifest.steps);
        steps.clone().find(|state| state.name == step).map_or(Watermark::NONE, |state| state.watermark)
    }

    /// The last checkpoint that `shard` of sink step `step` had published, as far as was known.
    pub fn published(&self, step: &str, shard: usize) -> Option<Epoch> {
        let sinks = self.manifest.iter().flat_map(|manifest| &manifest.sinks);
        let sink = sinks.clone().find(|sink| sink.step == step)?;
        sink.shards.get(shard).copied().flatten()
    }

    /// True if the state of `step` is to be restored.
    pub fn keeps(&self, step: &str) -> bool {
        self.manifest.iter().flat_map(|manifest| &manifest.steps).any(|state| state.name == step)
    }

    /// Where the splits of `table` stood; none if the table was not read before.
    pub fn splits(&self, table: &str) -> Option<&[SplitState]> {
        let sources = self.manifest.iter().flat_map(|manifest| &manifest.sources);
        sources.clone().find(|source| source.table == table).map(|source| source.splits.as_slice())
    }

    /// How far the event time of `tables` had come together: the least of their splits that go on.
    pub fn mark_of_tables<'a>(&self, tables: impl Iterator<Item = &'a str>) -> Watermark {
        let of_table = |table| {
            let splits = || self.splits_of(table).iter().map(|split| split.watermark);
            let going_on = splits().filter(|mark| *mark != Watermark::END).min();
            going_on.or(splits().next()).unwrap_or(Watermark::NONE)
        };
        tables.map(of_table).min().unwrap_or(Watermark::NONE)
    }

    /// The same, or nothing.
    pub fn splits_of(&self, table: &str) -> &[SplitState] {
        self.splits(table).unwrap_or_default()
    }
}

/// What the workers of a process share about checkpoints.
pub struct Checkpoints {
    /// Where they are kept.
    pub store: Store,
    /// How the run began.
    pub beginning: Beginning,
    /// Where work beside the workers is done.
    pub offload: Offload,
    /// What the splits are called; on worker 0's process only.
    pub names: SplitNames,
    /// Set if a generation reads row by row, because earlier ones died: after what.
    pub careful: Option<Suspect>,
    /// When stored things are tidied.
    pub upkeep: Upkeep,
}

/// When stored things are tidied. The defaults are for real stores; simulations do it more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// Objects of deltas that are left as they are; above that they are folded once they are larger than their base.
    pub deltas_min: usize,
    /// Checkpoints between two sweeps of what is not needed any more; at least 1.
    pub sweep_every: u64,
    /// Objects younger than this are not swept: someone may be about to name them.
    pub sweep_age: Duration,
    /// Bytes of a sink's records in memory above which they are written as a part of their checkpoint before that is due.
    pub part_bytes: usize,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep { deltas_min: 8, sweep_every: 16, sweep_age: Duration::from_secs(10 * 60), part_bytes: 32 << 20 }
    }
}

/// The objects that concern the key groups `own`, each with those of them for which it counts: where a later base has a
/// group, earlier objects do not.
pub fn parts_of<'a>(objects: &'a [ObjectRef], own: &Range<usize>) -> Vec<(&'a ObjectRef, Vec<Range<usize>>)> {
    let mut sorted: Vec<&ObjectRef> = objects.iter().collect();
    sorted.sort_by_key(|object| (object.epoch, !object.base));
    let mut parts = Vec::new();
    for object in &sorted {
        let whole = own.start.max(object.groups.0)..own.end.min(object.groups.1);
        let mut left: Vec<Range<usize>> = std::iter::once(whole).collect();
        let hides = |base: &&&ObjectRef| {
            let later = base.epoch > object.epoch || (base.epoch == object.epoch && !object.base);
            base.base && later && base.path != object.path
        };
        for base in sorted.iter().filter(hides) {
            let (start, end) = base.groups;
            left = left
                .into_iter()
                .flat_map(|part| [part.start..part.end.min(start), part.start.max(end)..part.end])
                .collect();
        }
        left.retain(|part| part.start < part.end);
        if !left.is_empty() {
            parts.push((*object, left));
        }
    }
    parts
}

/// Finds out on worker 0 how the run begins, and on the others hears of it. None if the run fails.
pub fn agree(
    worker: &mut Worker,
    local: &Local,
    store: &Store,
    wishes: &Wishes,
    step: &impl Fn(&mut Worker),
) -> Option<Beginning> {
    let heard: Rc<RefCell<Option<String>>> = Rc::default();
    let (ear, speaker) = (Rc::clone(&heard), local.clone());
    let (store, wishes) = (store.clone(), wishes.clone());
    worker.dataflow::<Epoch, _, _>(|scope| {
        let mut builder = OperatorBuilder::new("begin".into(), scope);
        let (output, told) = builder.new_output::<Vec<(u64, String)>>();
        let mut output: OutputBuilder<Epoch, CapacityContainerBuilder<Vec<(u64, String)>>> =
            OutputBuilder::from(output);
        let (index, peers) = (scope.index(), scope.peers());
        builder.build(move |mut capabilities| {
            let mut capability = capabilities.pop().filter(|_| index == 0);
            move |_| {
                let Some(now) = capability.take() else { return };
                let begun = begin(&speaker, &store, peers, &wishes);
                let text = begun.and_then(|beginning| {
                    serde_json::to_string(&beginning).map_err(|error| Error::internal(error.to_string()))
                });
                match text {
                    Ok(text) => {
                        let copies = (0..peers as u64).map(|worker| (worker, text.clone()));
                        output.activate().session_with_builder(&now).give_iterator(copies);
                    }
                    Err(error) => speaker.fate.fail(error),
                }
            }
        });
        let told: Stream<'_, Epoch, Vec<(u64, String)>> = told.exchange(|(worker, _)| *worker);
        let mut builder = OperatorBuilder::new("hear".into(), scope);
        let mut told = builder.new_input(told, Pipeline);
        builder.build(move |_| {
            move |_| {
                told.for_each(|_, batch| {
                    *ear.borrow_mut() =
                        batch.drain(..).next().map(|(_, text)| text).or_else(|| ear.borrow_mut().take());
                });
            }
        });
    });
    while heard.borrow().is_none() && !local.fate.failed() {
        step(worker);
    }
    let text = heard.borrow_mut().take()?;
    match serde_json::from_str(&text) {
        Ok(beginning) => Some(beginning),
        Err(error) => {
            local
                .fate
                .fail(Error::internal(format!("worker 0 says how to begin in a way that cannot be read: {error}")));
            None
        }
    }
}

/// Decides how the run begins, and makes it the newest.
fn begin(local: &Local, store: &Store, workers: usize, wishes: &Wishes) -> Result<Beginning> {
    let (plan, context) = (local.plan.as_ref(), &local.context);
    refuse_forgetful(plan)?;
    let within = |error: Error| error.within(format!("checkpoint store {}", store.location()));
    let mut log = Log::read(store).map_err(within)?;
    let identities: Vec<(String, String)> = plan.identities().into_iter().map(|(_, identity)| identity).collect();
    // a plan that does not fit is refused before anything is changed
    if let Some(found) = find(store, &log, &wishes.from).map_err(within)? {
        fit(&found.manifest, plan, &identities, wishes)?;
        if found.ended {
            info!(epoch = found.manifest.epoch, "the input had ended: nothing is left to do");
            return end(local, store, &mut log, workers, found.manifest).map_err(within);
        }
    }
    let fingerprint = blake3::Hash::from_bytes(plan.fingerprint()).to_hex().to_string();
    let version = env!("CARGO_PKG_VERSION");
    let generation = match wishes.from {
        From::Checkpoint(epoch) => log.start_from(workers as u32, &fingerprint, version, Some(epoch)),
        _ => log.start(workers as u32, &fingerprint, version),
    };
    let generation = generation.map_err(within)?;
    fail::point("begin.started")?;
    let incarnation = incarnation(&log)?;
    let mut first = log.last_epoch().map_or(0, |epoch| epoch + 1);
    let mut manifest = None;
    if let Some(found) = find(store, &log, &wishes.from).map_err(within)? {
        let mut found = found.import(store, generation)?;
        first = first.max(found.epoch + 1);
        let matches = fit(&found, plan, &identities, wishes)?;
        let dropped = unpublished(&found, plan);
        found.outputs.iter_mut().for_each(|object| {
            object.sections.retain(|section| section.kind != SectionKind::Output || !dropped.contains(&section.step));
        });
        found.outputs.retain(|object| object.sections.iter().any(|section| section.kind == SectionKind::Output));
        if found.workers as usize != workers {
            publish_all(local, store, &incarnation, &mut found, false)?;
        }
        found.steps.retain(|state| {
            matches.iter().any(|matched| matched.step == state.name && matched.verdict == Verdict::Kept)
        });
        for (_, source) in plan.sources() {
            let Some(saved) = found.sources.iter_mut().find(|saved| saved.table == source.table) else { continue };
            let (open, ended): (Vec<SplitState>, Vec<SplitState>) =
                saved.splits.drain(..).partition(|split| split.watermark != Watermark::END);
            let starts: Vec<SplitStart> = open.iter().map(|split| split.start.clone()).collect();
            let starts = source
                .source
                .resume(starts, wishes.accept_gap, context)
                .map_err(|error| error.within(format!("table \"{}\"", source.table)))?;
            saved.splits = open.into_iter().zip(starts).map(|(split, start)| SplitState { start, ..split }).collect();
            saved.splits.extend(ended);
            saved.splits.sort_by_key(|split| split.number);
        }
        info!(generation, epoch = found.epoch, "goes on from a checkpoint");
        manifest = Some(found);
    }
    fail::point("begin.recovered")?;
    Ok(Beginning { generation, incarnation, first, manifest, finished: false, skips: skips(&log) })
}

/// Sees to it that everything is published of a pipeline whose input has ended.
fn end(local: &Local, store: &Store, log: &mut Log, workers: usize, mut manifest: Manifest) -> Result<Beginning> {
    if !matches!(log.records().last(), Some((_, Record::Stop { .. }))) {
        let generation = log.start(workers as u32, &manifest.fingerprint, env!("CARGO_PKG_VERSION"))?;
        publish_all(local, store, &incarnation(log)?, &mut manifest, true)?;
        log.append(generation, Record::Stop { generation, how: FINISHED.into() })?;
    }
    let (generation, incarnation) = (log.generation(), incarnation(log)?);
    let (first, manifest) = (manifest.epoch + 1, Some(manifest));
    Ok(Beginning { generation, incarnation, first, manifest, finished: true, skips: Vec::new() })
}

/// Notes in the log that a run has ended and that everything it committed is published.
pub fn note_end(checkpoints: &Checkpoints, ended: bool) -> Result<()> {
    let generation = checkpoints.beginning.generation;
    let how = if ended { FINISHED } else { "stopped" };
    Log::read(&checkpoints.store)?.append(generation, Record::Stop { generation, how: how.into() }).map(drop)
}

/// How a run ends whose input has.
const FINISHED: &str = "finished";

/// The rows that `log` says are left out.
pub fn skips(log: &Log) -> Vec<Skip> {
    let skip = |record: &Record| match record {
        Record::SkipRow { table, split, position, reason } => {
            Some(Skip { table: table.clone(), split: split.clone(), position: *position, reason: reason.clone() })
        }
        _ => None,
    };
    log.records().iter().filter_map(|(_, record)| skip(record)).collect()
}

/// An operator that cannot give up what it remembers would forget it.
fn refuse_forgetful(plan: &Plan) -> Result<()> {
    for step in &plan.steps {
        if let crate::plan::Action::Custom(custom) = &step.action
            && !custom.restores()
        {
            return Err(Error::invalid(format!("operator \"{}\" cannot be kept in checkpoints", custom.name()))
                .help("implement `delta` and `restore`, and let `restores` say so, or run without 'checkpoint_store'")
                .within(format!("step \"{}\"", step.name)));
        }
    }
    Ok(())
}

fn incarnation(log: &Log) -> Result<String> {
    let none = || Error::internal("the log has no record of a start");
    log.incarnation().map(str::to_owned).ok_or_else(none)
}

/// A checkpoint to go on from.
struct Found {
    manifest: Manifest,
    ended: bool,
    /// Set if its objects are elsewhere.
    elsewhere: Option<Store>,
}

impl Found {
    /// Its manifest, with all objects in `store`.
    fn import(self, store: &Store, generation: u64) -> Result<Manifest> {
        match self.elsewhere {
            None => Ok(self.manifest),
            Some(elsewhere) => {
                // how far its sinks had come is known by the names of the pipeline that it is of
                let manifest = Manifest { sinks: Vec::new(), ..self.manifest };
                savepoint::import(&elsewhere, manifest, store, generation)
            }
        }
    }
}

fn find(store: &Store, log: &Log, from: &From) -> Result<Option<Found>> {
    let of_record = |record: Committed<'_>| -> Result<Found> {
        let manifest = Manifest::read(store, &record.manifest_ref())?;
        Ok(Found { manifest, ended: record.ended, elsewhere: None })
    };
    match from {
        From::Latest => log.latest_checkpoint().map(of_record).transpose(),
        From::Checkpoint(epoch) => match log.checkpoint(*epoch) {
            Some(record) => of_record(record).map(Some),
            None => Err(Error::invalid(format!("there is no checkpoint {epoch}"))
                .help("`highwater state ls` lists those that are kept")),
        },
        From::Savepoint(name) => {
            let (elsewhere, manifest) = savepoint::open_savepoint(name, store)?;
            Ok(Some(Found { manifest, ended: false, elsewhere: Some(elsewhere) }))
        }
    }
}

/// What becomes of each operator's state.
///
/// # Errors
/// Some of it would be dropped, and nobody has said that it may.
fn fit(manifest: &Manifest, plan: &Plan, identities: &[(String, String)], wishes: &Wishes) -> Result<Vec<Match>> {
    let matches = match_steps(&manifest.steps, identities);
    let read = |table: &str| plan.sources().any(|(_, source)| source.table == table);
    let mut dropped: Vec<String> = Vec::new();
    let same = manifest.fingerprint == blake3::Hash::from_bytes(plan.fingerprint()).to_hex().to_string();
    for matched in &matches {
        let becomes = match matched.verdict {
            Verdict::Kept => "kept",
            Verdict::New => "new: it begins without state",
            Verdict::Dropped => "dropped: the pipeline has no such step any more",
            Verdict::Changed => "dropped: the step is another one now",
        };
        if !same {
            info!(step = matched.step, "state {becomes}");
        }
        if matches!(matched.verdict, Verdict::Dropped | Verdict::Changed) {
            dropped.push(format!("step \"{}\"", matched.step));
        }
    }
    dropped.extend(
        manifest
            .sources
            .iter()
            .filter(|source| !read(&source.table))
            .map(|source| format!("table \"{}\"", source.table)),
    );
    dropped
        .extend(unpublished(manifest, plan).into_iter().map(|step| format!("records to publish of step \"{step}\"")));
    match dropped.is_empty() || wishes.drop_state {
        true => Ok(matches),
        false => Err(Error::invalid(format!(
            "the pipeline is not the one that checkpoint {} is of: what is kept of {} would be dropped",
            manifest.epoch,
            dropped.join(", ")
        ))
        .help("change the definition back, or say --allow-dropped-state")),
    }
}

/// The sink steps of which `manifest` has records to publish, and that `plan` does not write exactly once any more.
fn unpublished(manifest: &Manifest, plan: &Plan) -> BTreeSet<String> {
    let publishes = |step: &str| {
        plan.sinks().any(|(id, sink)| plan.steps[id].name == step && sink.delivery == Delivery::ExactlyOnce)
    };
    let sections = manifest.outputs.iter().flat_map(|object| &object.sections);
    let outputs = sections.filter(|section| section.kind == SectionKind::Output);
    outputs.filter(|section| !publishes(&section.step)).map(|section| section.step.clone()).collect()
}

/// Publishes what an earlier generation has left: it had another number of workers, so that its shards are not dealt in the same way any
/// more, or its input had `ended`.
fn publish_all(local: &Local, store: &Store, incarnation: &str, manifest: &mut Manifest, ended: bool) -> Result<()> {
    let (plan, context) = (local.plan.as_ref(), &local.context);
    // the one shard of a single sink stays the same
    let due = |sink: &SinkStep| sink.delivery == Delivery::ExactlyOnce && (ended || !sink.sink.single());
    for (id, sink) in plan.sinks().filter(|(_, sink)| due(sink)) {
        let step = &plan.steps[id].name;
        let shards = if sink.sink.single() { 1 } else { manifest.workers as usize };
        for shard in 0..shards {
            let name = shard_name(plan, sink, incarnation, shard);
            let start = context.clock.monotonic();
            loop {
                match publish_shard(sink, step, &name, context, store, &manifest.outputs, ended) {
                    Ok(()) => break,
                    Err(error)
                        if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced)
                            && !local.fate.failed()
                            && context.clock.monotonic().saturating_sub(start) < RECOVERY_WAIT =>
                    {
                        tracing::warn!(table = sink.table, shard, %error, "cannot publish what was left; trying again");
                        context.clock.sleep(BREATH);
                    }
                    Err(error) => return Err(error.within(format!("table \"{}\"", sink.table))),
                }
            }
        }
        manifest.outputs.iter_mut().for_each(|object| {
            object.sections.retain(|section| section.kind != SectionKind::Output || section.step != *step);
        });
    }
    manifest.outputs.retain(|object| object.sections.iter().any(|section| section.kind == SectionKind::Output));
    Ok(())
}

fn publish_shard(
    sink: &SinkStep,
    step: &str,
    name: &ShardName,
    context: &Context,
    store: &Store,
    outputs: &[ObjectRef],
    ended: bool,
) -> Result<()> {
    let staging = sink.sink.staging().ok_or_else(|| Error::internal("a sink without staging has staged"))?;
    let mut publisher = staging.publisher(name, context)?;
    let of_shard = |object: &&ObjectRef| holds_output(object, step, name.shard);
    let outputs: Vec<ObjectRef> = outputs.iter().filter(of_shard).cloned().collect();
    for staged in Staged::of(&outputs) {
        give(publisher.as_mut(), store, step, name.shard, &staged)?;
    }
    publisher.finish(ended)
}

/// True if `object` keeps records of `shard` of sink step `step`.
pub fn holds_output(object: &ObjectRef, step: &str, shard: usize) -> bool {
    let shard = shard.to_string();
    let of_shard = |section: &crate::checkpoint::object::SectionInfo| {
        section.kind == SectionKind::Output && section.step == step && section.table == shard
    };
    object.sections.iter().any(of_shard)
}

/// What the shard of `sink` on one worker is called for ever.
pub fn shard_name(plan: &Plan, sink: &SinkStep, incarnation: &str, shard: usize) -> ShardName {
    ShardName {
        pipeline: plan.settings.name.clone(),
        incarnation: incarnation.to_owned(),
        table: sink.table.clone(),
        shard,
    }
}
