//! One worker: the same dataflow on each, built from the plan, stepped until it ends.

use super::asking::asking;
use super::begin::{Checkpoints, Upkeep, Wishes, agree, holds_output, note_end, shard_name};
use super::collections::Collections;
use super::collections::edge::fresh;
use super::collections::rounds::recurse;
use super::committer::committer;
use super::exchange::Router;
use super::fate::Fate;
use super::keeping::{Keeping, Outbox, SharedOutbox};
use super::lane::Offload;
use super::marks::Marks;
use super::metrics::{Metrics, StepCells};
use super::metronome::{Orders, SplitNames, metronome};
use super::operators::{Made, carried, kept_in, merges_rows_directly, operator_of, restore};
use super::publisher::publisher;
use super::replay::Replay;
use super::sink::{sink, takes_insertions_only};
use super::source::{LastRead, Reports, source};
use super::staging::Staging;
use super::steps::{Inlet, Rows, Site, Staged, of_an_epoch, staged, stateless, until_the_end};
use super::tap::tap;
use super::views::Shelf;
use super::views::serve::{Inlet as ViewInlet, serve};
use super::writer::{self, part_writer, writer};
use crate::checkpoint::store::Store;
use crate::connector::{Context, Delivery};
use crate::error::{Error, Result};
use crate::operator::Confluence;
use crate::operator::aggregate::PreAggregate;
use crate::operator::session::PreSessions;
use crate::operator::transform::{Transforms, Weigh, with_weight};
use crate::plan::{Action, Emit, Grouping, Interval, Plan, Route, SinkStep, StepId, Tick};
use crate::state::groups_of;
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::operators::{Concatenate, Exchange, Probe};
use timely::dataflow::{Scope, Stream};
use timely::worker::Worker;

/// The longest that a worker sleeps without looking whether the run has ended.
pub const SLEEP_MAX: Duration = Duration::from_millis(10);

/// What all operators of one worker share.
#[derive(Clone)]
pub struct Local {
    /// What is built.
    pub plan: Arc<Plan>,
    /// What connectors may ask.
    pub context: Context,
    /// How the run ends.
    pub fate: Arc<Fate>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Passes an epoch when every sink on every worker has finished it.
    pub probe: Handle<Epoch>,
    /// True while a source of this worker may read no further before an epoch ends.
    pub full: Rc<Cell<bool>>,
    /// The workers of this process.
    pub workers: Range<usize>,
    /// This one's number.
    pub worker: usize,
    /// Where and from where checkpoints are, if there are any.
    pub checkpoints: Option<Arc<Checkpoints>>,
    /// The epochs that are seen again, instead of reading on; nothing is kept of them, and no sink is written.
    pub replay: Option<Arc<Replay>>,
    /// Where the rows of views are read.
    pub shelf: Arc<Shelf>,
    /// The last checkpoint that is committed; on worker 0 only.
    pub committed: Rc<Cell<Option<Epoch>>>,
    /// What this worker has read last, if there are checkpoints.
    pub last_read: LastRead,
    /// True once all input has ended, as opposed to a stop.
    pub ended: Rc<Cell<bool>>,
}

impl Local {
    /// This worker's counters of step `id`.
    pub fn cells(&self, id: StepId) -> Arc<StepCells> {
        self.metrics.cells(id, self.worker)
    }

    /// The first epoch of the run.
    pub fn first_epoch(&self) -> Epoch {
        self.checkpoints.as_ref().map_or(0, |checkpoints| checkpoints.beginning.first)
    }

    /// True if checkpoints are taken.
    fn keeps(&self) -> bool {
        self.checkpoints.is_some() && self.replay.is_none()
    }

    /// How far apart checkpoints are; none if there are none.
    pub fn checkpoint_interval(&self) -> Option<Interval> {
        let checkpoints = self.checkpoints.as_ref()?;
        let preset = match (self.plan.settings.tick, checkpoints.store.is_local()) {
            (Tick::Rows(_), _) => INTERVAL_BY_ROWS,
            (Tick::Every(_), true) => INTERVAL_LOCAL,
            (Tick::Every(_), false) => INTERVAL_REMOTE,
        };
        Some(self.plan.settings.checkpoint_interval.unwrap_or(preset))
    }
}

/// How far apart checkpoints are, if nobody says: deltas make short intervals cheap, requests do not.
const INTERVAL_LOCAL: Interval = Interval::Every(Duration::from_secs(1));
const INTERVAL_REMOTE: Interval = Interval::Every(Duration::from_secs(10));
const INTERVAL_BY_ROWS: Interval = Interval::Epochs(10);

/// What a run with checkpoints is given.
#[derive(Clone)]
pub struct Kept {
    /// Where they are.
    pub store: Store,
    /// Where it goes on.
    pub wishes: Wishes,
    /// Where work beside the workers is done.
    pub offload: Offload,
    /// When stored things are tidied.
    pub upkeep: Upkeep,
}

/// Builds the plan's dataflow on `worker` and runs it to its end, or to the end of the run, each `step` a turn of all operators.
/// What is `kept` is where it goes on.
pub fn run(worker: &mut Worker, mut local: Local, kept: Option<Kept>, step: &impl Fn(&mut Worker)) {
    if let Some(Kept { store, wishes, offload, upkeep }) = kept {
        let Some(beginning) = agree(worker, &local, &store, &wishes, step) else { return drop_all(worker) };
        if beginning.finished {
            return drop_all(worker);
        }
        local.fate.began(beginning.generation);
        let (names, careful) = (SplitNames::default(), wishes.careful);
        local.checkpoints = Some(Arc::new(Checkpoints { store, beginning, offload, names, careful, upkeep }));
    }
    if let Some(replay) = &local.replay {
        local.checkpoints = Some(Arc::new(replay.checkpoints()));
    }
    worker.dataflow::<Epoch, _, _>(|scope| {
        if let Err(error) = build(scope, &local) {
            local.fate.fail(error);
        }
    });
    while worker.has_dataflows() && !local.fate.failed() {
        step(worker);
    }
    if let (Some(checkpoints), 0, false) = (&local.checkpoints, worker.index(), local.fate.failed())
        && local.keeps()
        && let Err(error) = note_end(checkpoints, local.ended.get())
    {
        local.fate.fail(error);
    }
    drop_all(worker);
}

/// Takes all dataflows down.
pub fn drop_all(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

fn build(scope: Scope<'_, Epoch>, local: &Local) -> Result<()> {
    let orders: Stream<'_, Epoch, Orders> = metronome(scope, local).exchange(|(worker, _)| *worker);
    let mut built: Vec<Option<Rows<'_>>> = Vec::new();
    let mut reports: BTreeMap<StepId, Stream<'_, Epoch, Reports>> = BTreeMap::new();
    let mut letters: BTreeMap<StepId, Rows<'_>> = BTreeMap::new();
    let mut done = Vec::new();
    let mut written = Vec::new();
    let mut deposits = Vec::new();
    let mut publishing = Vec::new();
    let mut tapped = Vec::new();
    let mut viewed = Vec::new();
    let mut collections = Collections::default();
    let mut kept = match &local.checkpoints {
        Some(checkpoints) => {
            let own = groups_of(scope.index(), scope.peers());
            kept_in(&local.plan, checkpoints, &checkpoints.beginning.state(), &own)?
        }
        None => BTreeMap::new(),
    };
    for id in 0..local.plan.steps.len() {
        let step = &local.plan.steps[id];
        let input = |n: usize| -> Rows<'_> {
            let from = step.inputs[n].from;
            let rows = built[from].clone().expect("only sinks have no rows, and no step reads a sink");
            // what collections make again at the time before the first epoch ends where they end
            match local.first_epoch() {
                first if first > 0 && local.plan.collected(from) && !local.plan.hears_again(id) => fresh(rows, first),
                _ => rows,
            }
        };
        let site = |input: SchemaRef| Site { id, input, cells: local.cells(id), local: local.clone() };
        let rows = match &step.action {
            // the step that ends the recursion builds it
            _ if local.plan.inside(id) => None,
            Action::Recurse { .. } => {
                let outer = local.plan.read_inside(id).into_iter();
                let outer = outer.map(|from| (from, built[from].clone().expect("what is outside has rows")));
                Some(recurse(scope, id, outer.collect(), local)?)
            }
            Action::Source(definition) => {
                let read = source(scope, id, definition, orders.clone(), local);
                reports.insert(id, read.reports.exchange(|(worker, _)| *worker));
                letters.insert(id, read.letters);
                Some(read.rows)
            }
            Action::DeadLetters => letters.remove(&step.inputs[0].from),
            Action::Transform(stages) => {
                let from = step.inputs[0].from;
                let updating = local.plan.steps[from].emit == Emit::Updating;
                Some(stateless(input(0), site(carried(&local.plan, from)), Transforms::new(stages, updating)))
            }
            Action::Union => {
                let rows = |n: usize| match local.plan.steps[step.inputs[n].from].emit {
                    Emit::Append | Emit::Final if step.emit == Emit::Updating => {
                        let weigh = Weigh(with_weight(&step.schema));
                        stateless(input(n), site(carried(&local.plan, step.inputs[n].from)), weigh)
                    }
                    _ => input(n),
                };
                Some(scope.concatenate((0..step.inputs.len()).map(rows)))
            }
            Action::PreAggregate(_) if merges_rows_directly(&local.plan, id, scope.peers()) => Some(input(0)),
            Action::PreAggregate(spec) => {
                let spec = Arc::clone(spec);
                let site = site(carried(&local.plan, step.inputs[0].from));
                Some(match spec.grouping {
                    // nothing leaves before the end, so partial results may gather for as long, if no checkpoint needs them
                    Grouping::Final if local.checkpoints.is_none() => {
                        until_the_end(input(0), site, PreAggregate::new(spec)?)
                    }
                    Grouping::Session { .. } => {
                        of_an_epoch(input(0), site, move || PreSessions::new(Arc::clone(&spec)))
                    }
                    _ => of_an_epoch(input(0), site, move || PreAggregate::new(Arc::clone(&spec))),
                })
            }
            Action::Lookup(definition) => {
                let from = site(carried(&local.plan, step.inputs[0].from));
                let rows = routed(input(0), &step.inputs[0].route, from, |input, pact, site| match pact {
                    Pact::Stay => asking(input, Pipeline, definition, &step.schema, site),
                    Pact::Move(router) => asking(input, DistributorPact(|_| *router), definition, &step.schema, site),
                });
                Some(rows?)
            }
            action if action.over_collections() => {
                let inputs = (0..step.inputs.len()).map(input).collect();
                Some(collections.step(id, inputs, local)?)
            }
            Action::Aggregate(_)
            | Action::LateRows { .. }
            | Action::Custom(_)
            | Action::Rank(_)
            | Action::Top(_)
            | Action::Join(_)
            | Action::Keep(_)
            | Action::Consolidate
            | Action::Reduce(_)
            | Action::Round
            | Action::Standing
            | Action::Closing(_)
            | Action::Upsert { .. }
            | Action::Settle(_) => {
                let Made { mut operator, inputs } = operator_of(&local.plan, id, scope.index(), scope.peers())?
                    .ok_or_else(|| Error::internal("a staged step has no operator"))?;
                let inputs = inputs.into_iter().enumerate().map(|(n, schema)| (input(n), schema)).collect();
                let mut mark = Watermark::NONE;
                if let Some(checkpoints) = &local.checkpoints {
                    if local.keeps() {
                        operator.track();
                    }
                    mark = checkpoints.beginning.mark_of(&step.name);
                    if checkpoints.beginning.keeps(&step.name) {
                        let deltas = kept.remove(&step.name).unwrap_or_default();
                        let place = |error: Error| error.within(format!("step \"{}\": restore", step.name));
                        restore(operator.as_mut(), deltas, mark).map_err(place)?;
                    }
                }
                let staged = staged_step(id, inputs, &reports, operator, mark, None, local);
                deposits.push(staged.deposits);
                Some(staged.rows)
            }
            Action::View(_) if local.replay.is_some() => None,
            Action::View(_) => {
                let site = site(carried(&local.plan, step.inputs[0].from));
                let router = router(&step.inputs[0].route, &site.input, &site);
                let followed: Vec<u32> = local.plan.heeds(id).iter().map(|source| *source as u32).collect();
                let mut marks = Marks::new(&followed, scope.peers(), 0);
                if let Some(checkpoints) = &local.checkpoints {
                    let heeded = local.plan.heeds(id);
                    let tables = local.plan.sources().filter(|(source, _)| heeded.contains(source));
                    let tables = tables.map(|(_, source)| source.table.as_str());
                    marks = marks.from(checkpoints.beginning.mark_of_tables(tables));
                }
                viewed.push(ViewInlet { rows: input(0), router, site, marks });
                None
            }
            Action::Sink(_) if local.replay.is_some() => {
                let site = site(carried(&local.plan, step.inputs[0].from));
                let router = router(&Route::Single, &site.input, &site);
                tapped.push((input(0), router, site));
                None
            }
            Action::Sink(definition) if definition.delivery == Delivery::ExactlyOnce => {
                let checkpoints = local.checkpoints.as_ref().ok_or_else(|| {
                    Error::invalid("it is to be written exactly once, which needs checkpoints")
                        .within(format!("table \"{}\"", definition.table))
                        .help("SET 'checkpoint_store' to a directory")
                })?;
                let from = step.inputs[0].from;
                let schema = carried(&local.plan, from);
                let (operator, outbox) = staging(id, definition, scope.index(), scope.peers(), local, checkpoints)?;
                let inputs = vec![(input(0), Arc::clone(&schema))];
                let keeps = outbox.clone();
                let staged = staged_step(id, inputs, &reports, operator, Watermark::NONE, keeps, local);
                deposits.push(staged.deposits);
                done.push(staged.rows);
                publishing.push((id, outbox, site(schema)));
                None
            }
            Action::Sink(definition) => {
                let from = step.inputs[0].from;
                let site = site(carried(&local.plan, from));
                written.push(routed(input(0), &step.inputs[0].route, site, |input, pact, site| match pact {
                    Pact::Stay => sink(input, Pipeline, definition, from, site),
                    Pact::Move(router) => sink(input, DistributorPact(|_| *router), definition, from, site),
                }));
                None
            }
        };
        built.push(rows);
    }
    if let Some(replay) = &local.replay {
        done.push(tap(scope, tapped, replay.told.clone(), local));
    }
    if !viewed.is_empty() {
        let reports = scope.concatenate(reports.values().cloned());
        done.push(serve(scope, viewed, reports, Arc::clone(&local.shelf), local));
    }
    let written = scope.concatenate(written);
    done.push(written.clone());
    scope.concatenate(done).probe_with(&local.probe);
    if let Some(checkpoints) = local.checkpoints.as_ref().filter(|_| local.keeps()) {
        let inputs = writer::Inputs {
            deposits: scope.concatenate(deposits),
            reports: scope.concatenate(reports.values().cloned()),
            done: written,
        };
        let all = inputs.reports.clone();
        let outboxes = publishing.iter().filter_map(|(id, outbox, _)| Some((*id, outbox.clone()?))).collect();
        let acks = writer(scope, inputs, outboxes, local, checkpoints)?;
        let news = committer(scope, acks, all, local, checkpoints)?;
        for (id, outbox, site) in publishing {
            let Action::Sink(definition) = &local.plan.steps[id].action else { continue };
            let incarnation = &checkpoints.beginning.incarnation;
            let named = |outbox: SharedOutbox| {
                let shard = outbox.borrow().shard as usize;
                (shard_name(&local.plan, definition, incarnation, shard), outbox)
            };
            publisher(news.clone(), &definition.sink, outbox.map(named), site, checkpoints)?;
        }
    }
    Ok(())
}

/// The operator that makes the records of an exactly-once sink, and where they wait; none on a worker without a shard.
fn staging(
    id: StepId,
    sink: &SinkStep,
    worker: usize,
    workers: usize,
    local: &Local,
    checkpoints: &Checkpoints,
) -> Result<(Box<dyn Confluence>, Option<SharedOutbox>)> {
    let step = &local.plan.steps[id];
    let from = step.inputs[0].from;
    let place = |error: Error| error.within(format!("table \"{}\"", sink.table));
    let (shard, shards) = if sink.sink.single() { (0, 1) } else { (worker, workers) };
    let only_insertions = takes_insertions_only(&local.plan, from, sink);
    let only_insertions = only_insertions.then(|| Arc::clone(&local.plan.steps[from].schema));
    let (mut stager, mut outbox) = (None, None);
    if !sink.sink.single() || worker == 0 {
        let staging = sink.sink.staging().ok_or_else(|| place(Error::internal("it cannot be written exactly once")))?;
        stager = Some(staging.stager(shard, shards, &local.context).map_err(place)?);
        let mut stored = checkpoints.beginning.outputs();
        stored.retain(|object| holds_output(object, &step.name, shard));
        let parts = part_writer(id, step.name.clone(), shard as u32, worker, workers, checkpoints)?;
        let outbox_of_shard = Outbox::new(shard as u32, &stored, parts, checkpoints.upkeep.part_bytes);
        outbox = Some(Rc::new(RefCell::new(outbox_of_shard)));
    }
    Ok((Box::new(Staging::new(stager, only_insertions, Arc::clone(&step.schema))), outbox))
}

/// Whether rows change their worker along an edge.
enum Pact {
    Stay,
    Move(Box<Router>),
}

/// A step that sees whole epochs: its inputs, with their columns, go where the plan says.
fn staged_step<'scope>(
    id: StepId,
    inputs: Vec<(Rows<'scope>, SchemaRef)>,
    reports: &BTreeMap<StepId, Stream<'scope, Epoch, Reports>>,
    operator: Box<dyn Confluence>,
    mark: Watermark,
    outbox: Option<SharedOutbox>,
    local: &Local,
) -> Staged<'scope> {
    let scope = inputs[0].0.scope();
    let sources = local.plan.heeds(id);
    let reports = scope.concatenate(sources.iter().map(|source| reports[source].clone()));
    let lateness = local.plan.steps[id].lateness;
    let followed: Vec<u32> = sources.iter().map(|&source| source as u32).collect();
    let marks = Marks::new(&followed, scope.peers(), lateness).from(mark);
    let name = local.plan.steps[id].name.clone();
    let keeping = local.keeps().then_some(Keeping { step: id, name, outbox });
    let site = Site { id, input: Arc::clone(&inputs[0].1), cells: local.cells(id), local: local.clone() };
    let routes = local.plan.steps[id].inputs.iter().map(|input| &input.route);
    if scope.peers() == 1 || routes.clone().all(|route| *route == Route::Forward) {
        let inlets = inputs.into_iter().map(|(rows, schema)| Inlet { rows, route: Pipeline, schema });
        return staged(inlets.collect(), reports, marks, site, operator, keeping);
    }
    let inlet = |((rows, schema), route): ((Rows<'scope>, SchemaRef), &Route)| {
        let router = router(route, &schema, &site);
        Inlet { rows, route: DistributorPact(|_| router), schema }
    };
    let inlets = inputs.into_iter().zip(routes).map(inlet).collect();
    staged(inlets, reports, marks, site, operator, keeping)
}

pub(super) fn router(route: &Route, schema: &SchemaRef, site: &Site) -> Router {
    let (local, name) = (&site.local, site.local.plan.steps[site.id].name.clone());
    let (fate, cells) = (Arc::clone(&local.fate), Arc::clone(&site.cells));
    Router::new(route.clone(), Arc::clone(schema), local.workers.clone(), fate, cells, name)
}

fn routed<'scope, T>(
    input: Rows<'scope>,
    route: &Route,
    site: Site,
    build: impl FnOnce(Rows<'scope>, Pact, Site) -> T,
) -> T {
    let alone = input.scope().peers() == 1;
    let pact = match route {
        _ if alone => Pact::Stay,
        Route::Forward => Pact::Stay,
        route => Pact::Move(Box::new(router(route, &site.input, &site))),
    };
    build(input, pact, site)
}
