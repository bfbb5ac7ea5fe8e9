//! The operator that publishes what a sink's shard staged, once its checkpoint is committed.
//!
//! It works beside the worker. After every error and every doubt it begins again with a new publisher, which finds out how far the outside has
//! come; it gives up only when the log says that a newer generation runs, or for an error that no repetition mends.

use super::begin::Checkpoints;
use super::committer::News;
use super::exchange::Packet;
use super::keeping::{SharedOutbox, Staged};
use super::lane::Lane;
use super::sink::Done;
use super::steps::Site;
use crate::batch::Batch;
use crate::checkpoint::log::Log;
use crate::checkpoint::object::{self, ObjectRef, Section};
use crate::checkpoint::store::Store;
use crate::connector::{Context, Publisher, ShardName, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Epoch;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use tracing::{info, warn};

/// How long to wait before asking again whether something is published.
const NAP: Duration = Duration::from_millis(1);

/// Between two attempts: doubled from the first to the last.
const BREATH: Duration = Duration::from_millis(100);
const BREATH_MAX: Duration = Duration::from_secs(5);

/// Builds the operator for a shard and what waits for it. On a worker that has none it does nothing, but it is there: all workers have
/// the same dataflow. Its output carries progress only.
pub fn publisher<'scope>(
    news: Stream<'scope, Epoch, News>,
    sink: &Arc<dyn Sink>,
    shard: Option<(ShardName, SharedOutbox)>,
    site: Site,
    checkpoints: &Arc<Checkpoints>,
) -> Result<Done<'scope>> {
    let scope = news.scope();
    let mut builder = OperatorBuilder::new(format!("publish {}", site.name()), scope);
    let mut news = builder.new_input(news, Pipeline);
    let (_, done) = builder.new_output::<Packet>();
    let Some((name, outbox)) = shard else {
        builder.build(move |_| move |_| news.for_each(|_, _| {}));
        return Ok(done);
    };
    let (table, shard) = (name.table.clone(), name.shard);
    let activator = scope.activator_for(builder.operator_info().address);
    let mut desk = Desk {
        sink: Arc::clone(sink),
        context: site.local.context.clone(),
        store: checkpoints.store.clone(),
        generation: checkpoints.beginning.generation,
        step: site.local.plan.steps[site.id].name.clone(),
        name,
        publisher: None,
        kept: VecDeque::new(),
        committed: checkpoints.beginning.first.checked_sub(1),
        reached: checkpoints.beginning.published(&site.local.plan.steps[site.id].name, shard),
    };
    let mut lane = Lane::start("publish", &checkpoints.offload, move |job: Job| desk.work(job))?;
    builder.build(move |mut capabilities| {
        let mut held = capabilities.pop();
        let mut breath = BREATH;
        // none while a job waits for another attempt
        let mut again: Option<(Job, Duration)> = None;
        let mut finishing = false;
        // the last checkpoint, and the last one that the publisher has heard of
        let (mut newest, mut told): (Option<Epoch>, Option<Epoch>) = (None, None);
        lane.give(Job::Begin);
        move |frontiers| {
            news.for_each(|_, batch| {
                for (_, epoch) in batch.drain(..) {
                    outbox.borrow_mut().committed(epoch);
                    newest = Some(epoch);
                }
            });
            if held.is_none() {
                return;
            }
            if site.local.fate.failed() {
                held = None;
                return;
            }
            let now = site.local.context.clock.monotonic();
            match lane.take() {
                Ok(None) => {}
                Ok(Some(Answer::Done { published, bytes })) => {
                    breath = BREATH;
                    let mut outbox = outbox.borrow_mut();
                    outbox.published = outbox.published.max(published);
                    outbox.let_go(bytes);
                    if finishing {
                        held = None;
                        return;
                    }
                }
                Ok(Some(Answer::Again { job, error })) => {
                    warn!(table, %error, "cannot publish now; trying again");
                    site.cells.failed();
                    again = Some((job, now + breath));
                    breath = (breath * 2).min(BREATH_MAX);
                }
                Ok(Some(Answer::Failed(error))) | Err(error) => {
                    site.local.fate.fail(error.within(format!("table \"{table}\"")));
                    held = None;
                    return;
                }
            }
            if lane.unanswered() == 0 {
                if let Some((_, at)) = &again {
                    if now >= *at
                        && let Some((job, _)) = again.take()
                    {
                        lane.give(job);
                    }
                } else if let Some(staged) = outbox.borrow_mut().next() {
                    told = told.max(Some(staged.epoch));
                    lane.give(Job::Publish(staged));
                } else if told < newest {
                    told = newest;
                    lane.give(Job::Nothing(newest.unwrap_or_default()));
                } else if frontiers[0].frontier().is_empty() && !finishing {
                    finishing = true;
                    lane.give(Job::Finish { ended: site.local.ended.get() });
                }
            }
            activator.activate_after(NAP);
        }
    });
    Ok(done)
}

/// What is to be done.
enum Job {
    /// Find out how far the outside is.
    Begin,
    /// The records of one checkpoint.
    Publish(Staged),
    /// A checkpoint without records: what was kept may be due.
    Nothing(Epoch),
    /// What was kept.
    Finish { ended: bool },
}

/// How it went.
enum Answer {
    Done { published: Option<Epoch>, bytes: usize },
    Again { job: Job, error: Error },
    Failed(Error),
}

/// What the lane does its jobs with.
struct Desk {
    sink: Arc<dyn Sink>,
    context: Context,
    store: Store,
    generation: u64,
    step: String,
    name: ShardName,
    publisher: Option<Box<dyn Publisher>>,
    /// What the publisher has taken and may not have published.
    kept: VecDeque<Staged>,
    /// The last checkpoint with records that was outside, whole, when somebody looked. The outside need not know of those without.
    reached: Option<Epoch>,
    /// The last checkpoint that the log has, as far as is known here.
    committed: Option<Epoch>,
}

impl Desk {
    fn work(&mut self, job: Job) -> Answer {
        let done = self.attempt(&job);
        let bytes = if let Job::Publish(staged) = &job { staged.bytes() } else { 0 };
        match done {
            Ok(published) => Answer::Done { published, bytes },
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced) => {
                self.publisher = None;
                match self.newer_generation() {
                    Some(newer) => Answer::Failed(newer),
                    None => Answer::Again { job, error },
                }
            }
            Err(error) => Answer::Failed(error),
        }
    }

    fn attempt(&mut self, job: &Job) -> Result<Option<Epoch>> {
        if self.publisher.is_none() {
            self.open()?;
        }
        let publisher = self.publisher.as_mut().expect("it was opened if there was none");
        if let Job::Publish(Staged { epoch, .. }) | Job::Nothing(epoch) = job {
            self.committed = self.committed.max(Some(*epoch));
        }
        match job {
            Job::Begin => {}
            Job::Publish(staged) => {
                if staged.object.is_none() && staged.records.as_ref().is_some_and(|records| !records.is_empty()) {
                    return Err(Error::internal("records are committed, but were never stored"));
                }
                give(publisher.as_mut(), &self.store, &self.step, self.name.shard, staged)?;
                self.kept.push_back(staged.kept());
            }
            Job::Nothing(epoch) => {
                if publisher.published().is_none_or(|published| published < *epoch) {
                    publisher.publish(*epoch, &mut std::iter::empty())?;
                }
            }
            Job::Finish { ended } => publisher.finish(*ended)?,
        }
        let published = publisher.published();
        while let Some(staged) =
            self.kept.pop_front_if(|staged| published.is_some_and(|published| staged.epoch <= published))
        {
            self.reached = self.reached.max(Some(staged.epoch));
        }
        Ok(self.reached)
    }

    /// A new publisher, with what the one before had taken.
    fn open(&mut self) -> Result<()> {
        let staging = self.sink.staging().ok_or_else(|| Error::internal("a sink without staging is to publish"))?;
        let mut publisher = staging.publisher(&self.name, &self.context)?;
        if publisher.published() < self.reached {
            let before = self.reached.unwrap_or_default();
            let now = publisher.published().map_or("of none".to_owned(), |epoch| format!("of {epoch}"));
            return Err(Error::invalid(format!(
                "the sink's history is lost: checkpoint {before} was published, and the outside knows {now}"
            ))
            .help("was a topic or a file deleted? what was published can not be told from what was not: begin in a store of its own, with what should be written again"));
        }
        if publisher.published() > self.committed {
            // a newer generation may have come so far
            if let Some(newer) = self.newer_generation() {
                return Err(newer);
            }
            self.committed = Log::read(&self.store)?.last_epoch();
        }
        let ahead = publisher.published().filter(|published| Some(*published) > self.committed);
        if let Some(ahead) = ahead {
            let last = self.committed.map_or("has none yet".to_owned(), |epoch| format!("ends with {epoch}"));
            return Err(Error::invalid(format!("checkpoint {ahead} is outside already, but the store's log {last}"))
                .help("was the store put back from a backup? what the pipeline says now would not be written: begin in a store of its own"));
        }
        if let Some(published) = publisher.published() {
            info!(table = self.name.table, shard = self.name.shard, published, "publishing goes on");
        }
        for staged in &self.kept {
            give(publisher.as_mut(), &self.store, &self.step, self.name.shard, staged)?;
        }
        self.publisher = Some(publisher);
        Ok(())
    }

    /// The error to end with, if this generation is not the newest any more.
    fn newer_generation(&self) -> Option<Error> {
        let newest = Log::read(&self.store).ok()?.generation();
        let newer = || {
            Error::new(
                ErrorKind::Fenced,
                format!("generation {newest} of the pipeline runs, this is {}", self.generation),
            )
            .help("nothing is to be done here: the other one goes on")
        };
        (newest > self.generation).then(newer)
    }
}

/// Gives the publisher the records of `staged` for `shard` of sink step `step`, unless they are outside already. What is kept is read
/// object by object, as the publisher takes it.
pub fn give(publisher: &mut dyn Publisher, store: &Store, step: &str, shard: usize, staged: &Staged) -> Result<()> {
    if publisher.published().is_some_and(|published| published >= staged.epoch) {
        return Ok(());
    }
    let read = |object: &ObjectRef| match stored(store, step, shard, object) {
        Ok(records) => records.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    let in_memory = staged.records.iter().flatten().cloned().map(Ok);
    publisher.publish(staged.epoch, &mut staged.objects().flat_map(read).chain(in_memory))
}

/// The records that `object` keeps for `shard` of sink step `step`.
fn stored(store: &Store, step: &str, shard: usize, object: &ObjectRef) -> Result<Vec<Batch>> {
    let of_shard = |section| match section {
        Section::Output { step: of, shard: number, records } if of == step && number as usize == shard => records,
        _ => Vec::new(),
    };
    Ok(object::read(store, object)?.into_iter().flat_map(of_shard).collect())
}
