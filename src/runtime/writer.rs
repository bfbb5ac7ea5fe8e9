//! The operator that makes a worker's part of a checkpoint durable.
//!
//! When an epoch that ends with a checkpoint is complete, everything that the steps of this worker have deposited goes into one
//! object, off the worker's thread; its acknowledgement, at the checkpoint's time, is held back until the object is durable. Objects of deltas are folded
//! into a base now and then, beside the worker, by operators of the same kind.

use super::begin::Checkpoints;
use super::exchange::Packet;
use super::gather::{Gather, Gathered};
use super::keeping::{Deposit, Parts, SharedOutbox};
use super::lane::Lane;
use super::marks::Marks;
use super::operators::fold;
use super::source::Reports;
use super::worker::Local;
use crate::batch::Batch;
use crate::checkpoint::decide::expired;
use crate::checkpoint::object::{self, ObjectRef, Section, SectionKind};
use crate::checkpoint::store::Store;
use crate::error::Result;
use crate::fail;
use crate::plan::StepId;
use crate::state::groups_of;
use crate::time::{Epoch, Watermark};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};

/// How long to wait before asking again for an object that is being written.
const NAP: Duration = Duration::from_millis(1);

/// What a worker says of a checkpoint: all of its part is durable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ack {
    /// The worker.
    pub worker: u32,
    /// What it wrote: deltas, and perhaps a base that takes the place of earlier ones.
    pub objects: Vec<ObjectRef>,
    /// How far the event time of its steps had come.
    pub marks: Vec<(StepId, Watermark)>,
    /// The last checkpoint of which each of its shards has published everything.
    pub published: Vec<(StepId, u32, Option<Epoch>)>,
}

/// Acknowledgements with the worker that they are for.
pub type Acks = Vec<(u64, Ack)>;

/// What goes into the operator.
pub struct Inputs<'scope> {
    /// What the steps deposit.
    pub deposits: Stream<'scope, Epoch, Vec<Deposit>>,
    /// The reports of all sources.
    pub reports: Stream<'scope, Epoch, Reports>,
    /// The progress of sinks that write rows as they come.
    pub done: Stream<'scope, Epoch, Packet>,
}

/// A checkpoint on its way to be durable.
struct Pending {
    epoch: Epoch,
    capability: Capability<Epoch>,
    marks: Vec<(StepId, Watermark)>,
    /// True once `object` is known: what was written, if there was anything.
    written: bool,
    object: Option<ObjectRef>,
}

/// Builds the operator.
pub fn writer<'scope>(
    scope: Scope<'scope, Epoch>,
    inputs: Inputs<'scope>,
    outboxes: Vec<(StepId, SharedOutbox)>,
    local: &Local,
    checkpoints: &Arc<Checkpoints>,
) -> Result<Stream<'scope, Epoch, Acks>> {
    let mut builder = OperatorBuilder::new("checkpoint".into(), scope);
    let mut deposits = builder.new_input(inputs.deposits, Pipeline);
    let mut reports = builder.new_input(inputs.reports, Pipeline);
    let mut done = builder.new_input(inputs.done, Pipeline);
    let (output, acks) = builder.new_output();
    let mut output: OutputBuilder<Epoch, CapacityContainerBuilder<Acks>> = OutputBuilder::from(output);
    let activator = scope.activator_for(builder.operator_info().address);
    let sources: Vec<u32> = local.plan.sources().map(|(id, _)| id as u32).collect();
    let mut marks = Marks::new(&sources, scope.peers(), 0);
    let worker = scope.index();
    let groups = groups_of(worker, scope.peers());
    let mut chain =
        Chain::new(&checkpoints.beginning.state(), (groups.start, groups.end), checkpoints.upkeep.deltas_min);
    let (store, generation) = (checkpoints.store.clone(), checkpoints.beginning.generation);
    let mut lane = Lane::start("checkpoint", &checkpoints.offload, move |(epoch, sections): (Epoch, Vec<Section>)| {
        write(&store, generation, epoch, worker, (groups.start, groups.end), &sections)
    })?;
    let (plan, peers, folding) = (Arc::clone(&local.plan), scope.peers(), Arc::clone(checkpoints));
    let folded_plan = Arc::clone(&plan);
    let mut folder = Lane::start("fold", &checkpoints.offload, move |fold_job: FoldJob| {
        fold(&folded_plan, &folding, worker, peers, &fold_job.objects, &fold_job.marks, fold_job.epoch)
    })?;
    let local = local.clone();
    builder.build(move |_| {
        let mut stash: Gather<Deposit> = Gather::new();
        let mut gathered: Vec<Section> = Vec::new();
        let mut known: BTreeMap<StepId, Watermark> = BTreeMap::new();
        let mut pending: VecDeque<Pending> = VecDeque::new();
        move |frontiers| {
            reports.for_each(|message, batch| {
                stash.of(&message).reports.extend(batch.drain(..).map(|(_, report)| report));
            });
            deposits.for_each(|message, batch| stash.of(&message).things.append(batch));
            done.for_each(|_, _| {});
            if local.fate.failed() {
                stash.clear();
                pending.clear();
                return;
            }
            while let Some((epoch, Gathered { capability, reports, things: deposited })) = stash.complete(frontiers) {
                marks.complete(reports);
                if marks.over() {
                    local.ended.set(marks.reports().all(|report| report.ended));
                }
                for deposit in deposited {
                    known.insert(deposit.step, deposit.mark);
                    gathered.extend(deposit.sections);
                }
                if marks.checkpoint() {
                    lane.give((epoch, std::mem::take(&mut gathered)));
                    let marks = known.iter().map(|(step, mark)| (*step, *mark)).collect();
                    pending.push_back(Pending { epoch, capability, marks, written: false, object: None });
                }
            }
            let mut collect = || -> Result<()> {
                if let Some(folded) = folder.take()? {
                    chain.folded(folded?);
                }
                while let Some(written) = lane.take()? {
                    let checkpoint = pending.iter_mut().find(|checkpoint| !checkpoint.written);
                    let checkpoint = checkpoint.expect("each job was given with a pending checkpoint");
                    (checkpoint.written, checkpoint.object) = (true, written?);
                    if let Some(object) = &checkpoint.object {
                        outboxes.iter().for_each(|(_, outbox)| outbox.borrow_mut().stored(object));
                    }
                }
                outboxes.iter().try_for_each(|(_, outbox)| outbox.borrow_mut().collect())?;
                while let Some(checkpoint) = pending.front().filter(|checkpoint| checkpoint.written) {
                    let epoch = checkpoint.epoch;
                    let parts = outboxes.iter().map(|(_, outbox)| outbox.borrow().parts_of(epoch));
                    let Some(parts) = parts.collect::<Option<Vec<_>>>() else { break };
                    let Pending { capability, marks, object, .. } =
                        pending.pop_front().expect("it was there a moment ago");
                    let mut objects: Vec<ObjectRef> = parts.into_iter().flatten().collect();
                    objects.extend(chain.add(object));
                    chain.forget_expired(|name| {
                        marks.iter().find(|(id, _)| plan.steps[*id].name == name).map(|(_, mark)| *mark)
                    });
                    let of_shard = |(step, outbox): &(StepId, SharedOutbox)| {
                        let outbox = outbox.borrow();
                        (*step, outbox.shard, outbox.published)
                    };
                    let published = outboxes.iter().map(of_shard).collect();
                    if let Some(objects) = chain.to_fold(folder.unanswered()) {
                        folder.give(FoldJob { objects, marks: marks.clone(), epoch });
                    }
                    let ack = Ack { worker: worker as u32, objects, marks, published };
                    output.activate().session_with_builder(&capability).give((0, ack));
                }
                Ok(())
            };
            if let Err(error) = collect() {
                local.fate.fail(error.within("checkpoint"));
                pending.clear();
                return;
            }
            if !pending.is_empty() || folder.unanswered() > 0 {
                activator.activate_after(NAP);
            }
        }
    });
    Ok(acks)
}

/// Writes the object of one worker and checkpoint; none if there is nothing to keep.
fn write(
    store: &Store,
    generation: u64,
    epoch: Epoch,
    worker: usize,
    groups: (usize, usize),
    sections: &[Section],
) -> Result<Option<ObjectRef>> {
    if sections.is_empty() {
        return Ok(None);
    }
    let path = format!("g{generation}/e{epoch}/w{worker}.hw");
    fail::point("checkpoint.write")?;
    let written = object::write(store, &path, sections, epoch, generation, groups, false)?;
    fail::point("checkpoint.written")?;
    Ok(Some(written))
}

/// What writes records of sink step `step`, which is number `id`, as parts of a checkpoint that is still to come.
pub fn part_writer(
    id: StepId,
    step: String,
    shard: u32,
    worker: usize,
    workers: usize,
    checkpoints: &Checkpoints,
) -> Result<Parts> {
    let (store, generation) = (checkpoints.store.clone(), checkpoints.beginning.generation);
    let groups = groups_of(worker, workers);
    let mut number = 0_u64;
    Lane::start("parts", &checkpoints.offload, move |(epoch, records): (Epoch, Vec<Batch>)| {
        let section = Section::Output { step: step.clone(), shard, records };
        let path = format!("g{generation}/e{epoch}/part-s{id}-w{worker}-{number}.hw");
        number += 1;
        fail::point("part.write")?;
        // the epoch is set when it is known
        let part = object::write(&store, &path, &[section], 0, generation, (groups.start, groups.end), false)?;
        fail::point("part.written")?;
        Ok(part)
    })
}

/// What is to be folded: objects up to a checkpoint, and how far its steps had come.
struct FoldJob {
    objects: Vec<ObjectRef>,
    marks: Vec<(StepId, Watermark)>,
    epoch: Epoch,
}

/// The objects that the state of this worker's keys is made of.
struct Chain {
    groups: (usize, usize),
    objects: Vec<ObjectRef>,
    /// Bases that no checkpoint has named yet.
    fresh: Vec<ObjectRef>,
    /// See [`Upkeep`](super::begin::Upkeep).
    deltas_min: usize,
}

impl Chain {
    fn new(state: &[ObjectRef], groups: (usize, usize), deltas_min: usize) -> Self {
        let touches = |object: &&ObjectRef| object.groups.0 < groups.1 && groups.0 < object.groups.1;
        Chain { groups, objects: state.iter().filter(touches).cloned().collect(), fresh: Vec::new(), deltas_min }
    }

    /// Takes a written object; gives what the next checkpoint has to name.
    fn add(&mut self, written: Option<ObjectRef>) -> Vec<ObjectRef> {
        self.objects.extend(written.iter().filter(|object| holds_state(object)).cloned());
        std::mem::take(&mut self.fresh).into_iter().chain(written).collect()
    }

    /// Forgets deltas that say nothing any more.
    fn forget_expired(&mut self, mark_of: impl Fn(&str) -> Option<Watermark>) {
        self.objects.retain(|object| !expired(object, &mark_of));
    }

    /// Takes the place of all objects up to its epoch.
    fn folded(&mut self, base: Option<ObjectRef>) {
        let Some(base) = base else { return };
        let mut objects = vec![base.clone()];
        objects.extend(self.objects.drain(..).filter(|object| object.epoch > base.epoch));
        self.objects = objects;
        self.fresh.push(base);
    }

    /// The objects to fold now, if that is worth it.
    fn to_fold(&self, under_way: usize) -> Option<Vec<ObjectRef>> {
        let own_base = |object: &&ObjectRef| object.base && object.groups == self.groups;
        let base: u64 = self.objects.iter().filter(own_base).map(|object| object.bytes).sum();
        let deltas = self.objects.iter().filter(|object| !own_base(object));
        let (count, bytes) = deltas.fold((0, 0), |(count, bytes), object| (count + 1, bytes + object.bytes));
        (under_way == 0 && count > self.deltas_min && bytes > base).then(|| self.objects.clone())
    }
}

fn holds_state(object: &ObjectRef) -> bool {
    object.sections.iter().any(|section| section.kind == SectionKind::State)
}
