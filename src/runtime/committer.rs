//! The operator, awake on worker 0 only, that commits checkpoints.
//!
//! When every worker's acknowledgement of a checkpoint is there, the manifest is written and a record appended to the pipeline's log: from
//! then on the checkpoint has happened. The news goes to all workers at the checkpoint's time.

use super::begin::{Checkpoints, Upkeep};
use super::follow::{Followers, Positions};
use super::gather::{Gather, Gathered};
use super::lane::Lane;
use super::marks::Marks;
use super::metronome::SplitNames;
use super::source::Reports;
use super::worker::Local;
use super::writer::{Ack, Acks};
use crate::checkpoint::decide::{expired, superseded};
use crate::checkpoint::log::{Binding, Log, Record, SourceBinding};
use crate::checkpoint::manifest::{Manifest, ManifestRef, SinkState, SourceState, SplitState, StepState, VERSION};
use crate::checkpoint::object::{ObjectRef, SectionKind};
use crate::checkpoint::store::Store;
use crate::checkpoint::sweep::sweep;
use crate::connector::SplitStart;
use crate::error::Result;
use crate::fail;
use crate::plan::{Plan, StepId};
use crate::time::{Clock, Epoch, Report, Watermark};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Exchange};
use timely::dataflow::{Scope, Stream};
use tracing::{debug, warn};

/// How long to wait before asking again for a record that is being appended.
const NAP: Duration = Duration::from_millis(1);

/// The first checkpoint of a generation after which it sweeps: early, so that generations which do not live long do not leave more
/// and more behind, but not before anything was published.
const SWEEP_FIRST: u64 = 2;

/// Checkpoints that are committed, with the worker that they are for.
pub type News = Vec<(u64, Epoch)>;

/// Builds the operator.
pub fn committer<'scope>(
    scope: Scope<'scope, Epoch>,
    acks: Stream<'scope, Epoch, Acks>,
    reports: Stream<'scope, Epoch, Reports>,
    local: &Local,
    checkpoints: &Arc<Checkpoints>,
) -> Result<Stream<'scope, Epoch, News>> {
    let mut builder = OperatorBuilder::new("commit".into(), scope);
    let mut acks = builder.new_input(acks.exchange(|(worker, _)| *worker), Pipeline);
    let mut reports = builder.new_input(reports, Pipeline);
    let (output, news) = builder.new_output();
    let mut output: OutputBuilder<Epoch, CapacityContainerBuilder<News>> = OutputBuilder::from(output);
    let activator = scope.activator_for(builder.operator_info().address);
    let (index, peers) = (scope.index(), scope.peers());
    let mut tail = None;
    if index == 0 {
        let keeper = Keeper {
            store: checkpoints.store.clone(),
            log: None,
            generation: checkpoints.beginning.generation,
            retain: local.plan.settings.checkpoint_retain,
            clock: Arc::clone(&local.context.clock),
            commits: 0,
            upkeep: checkpoints.upkeep,
        };
        tail = Some((
            Book::new(&local.plan, peers, checkpoints),
            Lane::start("commit", &checkpoints.offload, keeper.work())?,
        ));
    }
    let followers = Followers::start(&local.plan, local, checkpoints, index == 0)?;
    let local = local.clone();
    builder.build(move |_| {
        let mut stash: Gather<Ack> = Gather::new();
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let mut followers = followers;
        // kept after the last checkpoint until the followers have told of it
        let mut last: Option<Capability<Epoch>> = None;
        move |frontiers| {
            let Some((book, lane)) = tail.as_mut() else {
                acks.for_each(|_, _| {});
                reports.for_each(|_, _| {});
                return;
            };
            acks.for_each(|message, batch| stash.of(&message).things.extend(batch.drain(..).map(|(_, ack)| ack)));
            reports.for_each(|message, batch| {
                stash.of(&message).reports.extend(batch.drain(..).map(|(_, report)| report));
            });
            if local.fate.failed() {
                stash.clear();
                pending.clear();
                last = None;
                return;
            }
            while let Some((epoch, Gathered { capability, reports, things: acks })) = stash.complete(frontiers) {
                if let Some(job) = book.complete(epoch, reports, acks, local.context.clock.wall()) {
                    let positions = followers.positions(&job.manifest);
                    let last = job.ended || job.stopped;
                    lane.give(job);
                    let since = local.context.clock.monotonic();
                    pending.push_back(Pending { epoch, capability, since, positions, last });
                }
            }
            loop {
                match lane.take().and_then(Option::transpose) {
                    Ok(None) => break,
                    Ok(Some(())) => {
                        let Pending { epoch, capability, since, positions, last: is_last } =
                            pending.pop_front().expect("each job was given with a pending checkpoint");
                        debug!(epoch, "checkpoint committed");
                        local.committed.set(Some(epoch));
                        local
                            .metrics
                            .checkpoint_committed(epoch, local.context.clock.monotonic().saturating_sub(since));
                        let news = (0..peers as u64).map(|worker| (worker, epoch));
                        output.activate().session_with_builder(&capability).give_iterator(news);
                        followers.tell(positions);
                        last = Some(capability).filter(|_| is_last);
                    }
                    Err(error) => {
                        local.fate.fail(error.within("checkpoint"));
                        pending.clear();
                        return;
                    }
                }
            }
            if !followers.go_on() {
                last = None;
            }
            if !pending.is_empty() || last.is_some() {
                activator.activate_after(NAP);
            }
        }
    });
    Ok(news.exchange(|(worker, _)| *worker))
}

/// A checkpoint that is being committed.
struct Pending {
    epoch: Epoch,
    capability: Capability<Epoch>,
    since: Duration,
    positions: Positions,
    last: bool,
}

/// What has to be written to commit a checkpoint.
struct Job {
    manifest: Manifest,
    ended: bool,
    stopped: bool,
    bindings: Vec<Binding>,
}

/// Writes manifests and records, and sweeps.
struct Keeper {
    store: Store,
    log: Option<Log>,
    generation: u64,
    retain: usize,
    clock: Arc<dyn Clock>,
    commits: u64,
    upkeep: Upkeep,
}

impl Keeper {
    fn work(mut self) -> impl FnMut(Job) -> Result<()> + Send {
        move |job| self.commit(job)
    }

    fn commit(&mut self, job: Job) -> Result<()> {
        let epoch = job.manifest.epoch;
        fail::point("commit.begin")?;
        let ManifestRef { path, blake3, bytes } = job.manifest.write(&self.store)?;
        fail::point("commit.manifest")?;
        let record = Record::Checkpoint {
            generation: self.generation,
            epoch,
            manifest: path,
            blake3,
            bytes,
            ended: job.ended,
            stopped: job.stopped,
            bindings: job.bindings,
        };
        let log = match &mut self.log {
            Some(log) => log,
            None => self.log.insert(Log::read(&self.store)?),
        };
        log.append(self.generation, record)?;
        fail::point("commit.recorded")?;
        self.commits += 1;
        let (every, first) = (self.upkeep.sweep_every, SWEEP_FIRST.min(self.upkeep.sweep_every));
        if self.commits % every == first % every {
            // ages are by the store's clock, whose time is that of what was just written
            let written = self.store.list(&format!("g{}/e{epoch}", self.generation))?;
            let now = written.iter().map(|entry| entry.modified).max();
            let now = now.map_or(self.clock.wall(), |now| now.min(self.clock.wall()));
            // what is left over costs room, not answers
            match sweep(&self.store, log, self.retain, now, self.upkeep.sweep_age) {
                Ok(swept) => debug!(?swept, "swept"),
                Err(error) => warn!(%error, "old checkpoints cannot be removed now"),
            }
        }
        Ok(())
    }
}

/// What worker 0 knows of the run: where splits stand, what objects there are, who has published what.
struct Book {
    generation: u64,
    fingerprint: String,
    steps: Vec<(StepId, StepState)>,
    sources: BTreeMap<u32, (String, BTreeMap<u32, SplitState>)>,
    names: SplitNames,
    sinks: BTreeMap<(StepId, u32), Option<Epoch>>,
    sink_names: BTreeMap<StepId, (String, String)>,
    state: Vec<ObjectRef>,
    outputs: Vec<ObjectRef>,
    marks: Marks,
    bindings: Vec<Binding>,
    workers: u32,
}

impl Book {
    fn new(plan: &Plan, workers: usize, checkpoints: &Arc<Checkpoints>) -> Self {
        let beginning = &checkpoints.beginning;
        let sources: Vec<u32> = plan.sources().map(|(id, _)| id as u32).collect();
        let identities = plan.identities();
        let kept = |(step, (name, identity)): (StepId, (String, String))| {
            let watermark = beginning.mark_of(&name);
            (step, StepState { name, identity, watermark })
        };
        let mut book = Book {
            generation: beginning.generation,
            fingerprint: blake3::Hash::from_bytes(plan.fingerprint()).to_hex().to_string(),
            steps: identities.into_iter().map(kept).collect(),
            sources: plan.sources().map(|(id, source)| (id as u32, (source.table.clone(), BTreeMap::new()))).collect(),
            names: checkpoints.names.clone(),
            sinks: BTreeMap::new(),
            sink_names: plan
                .sinks()
                .map(|(id, sink)| (id, (plan.steps[id].name.clone(), sink.table.clone())))
                .collect(),
            state: beginning.state(),
            outputs: beginning.outputs(),
            marks: Marks::new(&sources, workers, 0),
            bindings: Vec::new(),
            workers: workers as u32,
        };
        for (table, splits) in book.sources.values_mut() {
            splits.extend(beginning.splits_of(table).iter().map(|split| (split.number, split.clone())));
        }
        book
    }

    /// Takes all that there is of a complete epoch; gives what is to be committed, if it ends with a checkpoint.
    fn complete(&mut self, epoch: Epoch, reports: Vec<Report>, acks: Vec<Ack>, wall: i64) -> Option<Job> {
        self.bind(epoch, &reports);
        self.marks.complete(reports);
        for ack in acks {
            for object in ack.objects {
                let holds = |kind| object.sections.iter().any(|section| section.kind == kind);
                if holds(SectionKind::Output) {
                    self.outputs.push(object.clone());
                }
                if holds(SectionKind::State) || object.base {
                    self.state.push(object);
                }
            }
            for (step, mark) in ack.marks {
                if let Some((_, state)) = self.steps.iter_mut().find(|(id, _)| *id == step) {
                    state.watermark = mark;
                }
            }
            self.sinks.extend(ack.published.into_iter().map(|(step, shard, epoch)| ((step, shard), epoch)));
        }
        if !self.marks.checkpoint() {
            return None;
        }
        self.tidy();
        let over = self.marks.over();
        let ended = over && self.marks.reports().all(|report| report.ended);
        Some(Job {
            manifest: self.manifest(epoch, wall),
            ended,
            stopped: over && !ended,
            bindings: std::mem::take(&mut self.bindings),
        })
    }

    /// Notes where every split stands at the end of `epoch`.
    fn bind(&mut self, epoch: Epoch, reports: &[Report]) {
        let mut bound: BTreeMap<u32, SourceBinding> = BTreeMap::new();
        for report in reports {
            let Some((table, splits)) = self.sources.get_mut(&report.source) else { continue };
            let binding = bound.entry(report.source).or_insert_with(|| SourceBinding {
                source: table.clone(),
                when_all_idle: Watermark::NONE,
                splits: Vec::new(),
            });
            binding.when_all_idle = binding.when_all_idle.max(report.when_all_idle);
            for split in &report.splits {
                let known = splits.entry(split.split).or_insert_with(|| SplitState {
                    number: split.split,
                    start: SplitStart::whole(self.names.name(report.source, split.split)),
                    watermark: Watermark::NONE,
                    idle: false,
                });
                let same = known.start.position == Some(split.position)
                    && known.watermark == split.watermark
                    && known.idle == split.idle;
                if same && split.rows == 0 {
                    continue;
                }
                known.start.position = Some(split.position);
                (known.watermark, known.idle) = (split.watermark, split.idle);
                binding.splits.push(split.clone());
            }
        }
        let wall = reports.iter().map(|report| report.wall).max().unwrap_or_default();
        self.bindings.push(Binding { epoch, wall, sources: bound.into_values().collect() });
    }

    /// Forgets objects that nothing needs.
    fn tidy(&mut self) {
        self.state.sort_by_key(|object| (object.epoch, !object.base));
        let gone = superseded(&self.state);
        let mut gone = gone.into_iter();
        self.state.retain(|_| !gone.next().unwrap_or(false));
        let steps = &self.steps;
        let mark_of = |name: &str| steps.iter().find(|(_, step)| step.name == name).map(|(_, step)| step.watermark);
        self.state.retain(|object| !expired(object, mark_of));
        let (names, sinks) = (&self.sink_names, &self.sinks);
        let step_of = |name: &str| names.iter().find(|(_, (step, _))| step == name).map(|(id, _)| *id);
        let wanted = |object: &ObjectRef| {
            object.sections.iter().filter(|section| section.kind == SectionKind::Output).any(|section| {
                let shard: Option<u32> = section.table.parse().ok();
                let published = step_of(&section.step).zip(shard).and_then(|key| sinks.get(&key).copied().flatten());
                published.is_none_or(|published| object.epoch > published)
            })
        };
        self.outputs.retain(wanted);
    }

    fn manifest(&self, epoch: Epoch, wall: i64) -> Manifest {
        let mut sinks: BTreeMap<StepId, SinkState> = BTreeMap::new();
        for (&(step, shard), published) in &self.sinks {
            let Some((name, table)) = self.sink_names.get(&step) else { continue };
            let state = sinks.entry(step).or_insert_with(|| SinkState {
                step: name.clone(),
                table: table.clone(),
                shards: Vec::new(),
            });
            state.shards.resize(state.shards.len().max(shard as usize + 1), None);
            state.shards[shard as usize] = *published;
        }
        let sources = self
            .sources
            .values()
            .map(|(table, splits)| SourceState { table: table.clone(), splits: splits.values().cloned().collect() });
        Manifest {
            version: VERSION,
            generation: self.generation,
            epoch,
            workers: self.workers,
            fingerprint: self.fingerprint.clone(),
            steps: self.steps.iter().map(|(_, state)| state.clone()).collect(),
            sources: sources.collect(),
            sinks: sinks.into_values().collect(),
            state: self.state.clone(),
            outputs: self.outputs.clone(),
            created: wall,
        }
    }
}
