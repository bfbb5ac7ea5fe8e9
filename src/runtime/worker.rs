//! One worker: the same dataflow on each, built from the plan, stepped until it ends.

use super::exchange::Router;
use super::fate::Fate;
use super::marks::Marks;
use super::metrics::{Metrics, StepCells};
use super::metronome::{Orders, metronome};
use super::sink::sink;
use super::source::{Reports, source};
use super::steps::{Inlet, Rows, Site, of_an_epoch, staged, stateless, until_the_end};
use crate::connector::Context;
use crate::error::Result;
use crate::operator::aggregate::{Aggregate, Feed, PreAggregate};
use crate::operator::join::Join;
use crate::operator::late::late_rows;
use crate::operator::lookup::Lookup;
use crate::operator::rank::Rank;
use crate::operator::session::{PreSessions, SessionAggregate};
use crate::operator::transform::{Transforms, with_weight};
use crate::operator::updating::UpdatingAggregate;
use crate::operator::{Confluence, OneInput, Operator};
use crate::plan::{Action, Aggregation, Emit, Grouping, Meeting, Plan, Route, StepId};
use crate::time::Epoch;
use arrow::datatypes::SchemaRef;
use std::cell::Cell;
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
const SLEEP_MAX: Duration = Duration::from_millis(10);

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
}

impl Local {
    /// This worker's counters of step `id`.
    pub fn cells(&self, id: StepId) -> Arc<StepCells> {
        self.metrics.cells(id, self.worker)
    }
}

/// Builds the plan's dataflow on `worker` and runs it to its end, or to the end of the run.
pub fn run(worker: &mut Worker, local: Local) {
    worker.dataflow::<Epoch, _, _>(|scope| {
        if let Err(error) = build(scope, &local) {
            local.fate.fail(error);
        }
    });
    while worker.has_dataflows() && !local.fate.failed() {
        worker.step_or_park(Some(SLEEP_MAX));
    }
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
    for id in 0..local.plan.steps.len() {
        let step = &local.plan.steps[id];
        let input = |n: usize| -> Rows<'_> {
            built[step.inputs[n].from].clone().expect("only sinks have no rows, and no step reads a sink")
        };
        let site = |input: SchemaRef| Site { id, input, cells: local.cells(id), local: local.clone() };
        let rows = match &step.action {
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
            Action::Union => Some(scope.concatenate((0..step.inputs.len()).map(input))),
            Action::PreAggregate(_) if merges_rows_directly(&local.plan, id, scope.peers()) => Some(input(0)),
            Action::PreAggregate(spec) => {
                let spec = Arc::clone(spec);
                let site = site(carried(&local.plan, step.inputs[0].from));
                Some(match spec.grouping {
                    // nothing leaves before the end, so partial results may gather for as long
                    Grouping::Final => until_the_end(input(0), site, PreAggregate::new(spec)?),
                    Grouping::Session { .. } => {
                        of_an_epoch(input(0), site, move || PreSessions::new(Arc::clone(&spec)))
                    }
                    _ => of_an_epoch(input(0), site, move || PreAggregate::new(Arc::clone(&spec))),
                })
            }
            Action::Aggregate(spec) => {
                let direct = merges_rows_directly(&local.plan, step.inputs[0].from, scope.peers());
                let feed = if direct { Feed::Rows } else { Feed::Partials };
                let schema = if direct { Arc::clone(&spec.input) } else { spec.partial_schema()? };
                let spec = Arc::clone(spec);
                let operator: Box<dyn Operator> = match spec.grouping {
                    Grouping::Updating => Box::new(UpdatingAggregate::new(spec, feed, &step.schema)?),
                    Grouping::Session { .. } => Box::new(SessionAggregate::new(spec, feed, Arc::clone(&step.schema))?),
                    _ => {
                        let aggregate = Aggregate::new(spec, feed, Arc::clone(&step.schema));
                        // without keys all rows go to worker 0
                        Box::new(if scope.index() == 0 { aggregate.answering_for_nothing() } else { aggregate })
                    }
                };
                Some(staged_step(id, vec![(input(0), schema)], &reports, Box::new(OneInput(operator)), local))
            }
            Action::LateRows { lateness, .. } => {
                let schema = carried(&local.plan, step.inputs[0].from);
                let operator = late_rows(lateness, &schema, Arc::clone(&step.schema))?;
                Some(staged_step(id, vec![(input(0), schema)], &reports, Box::new(OneInput(operator)), local))
            }
            Action::Custom(custom) => {
                let schema = Arc::clone(&local.plan.steps[step.inputs[0].from].schema);
                let operator = OneInput(custom.operator(&schema)?);
                Some(staged_step(id, vec![(input(0), schema)], &reports, Box::new(operator), local))
            }
            Action::Rank(spec) => {
                let schema = carried(&local.plan, step.inputs[0].from);
                let operator = Rank::new(Arc::clone(spec), Arc::clone(&schema), Arc::clone(&step.schema))?;
                let operator = OneInput(Box::new(operator));
                Some(staged_step(id, vec![(input(0), schema)], &reports, Box::new(operator), local))
            }
            Action::Join(spec) => {
                let schemas = [0, 1].map(|n| carried(&local.plan, step.inputs[n].from));
                let (spec, output, inputs) = (Arc::clone(spec), Arc::clone(&step.schema), schemas.clone());
                let operator: Box<dyn Confluence> = match spec.meeting {
                    Meeting::InWindows(windows) => Box::new(Join::new(spec, windows, inputs, output)),
                    Meeting::WithTable { table } => Box::new(Lookup::new(spec, table, inputs, output)),
                };
                let inputs = schemas.into_iter().enumerate().map(|(n, schema)| (input(n), schema)).collect();
                Some(staged_step(id, inputs, &reports, operator, local))
            }
            Action::Sink(definition) => {
                let from = step.inputs[0].from;
                let site = site(carried(&local.plan, from));
                done.push(routed(input(0), &step.inputs[0].route, site, |input, pact, site| match pact {
                    Pact::Stay => sink(input, Pipeline, definition, from, site),
                    Pact::Move(router) => sink(input, DistributorPact(|_| *router), definition, from, site),
                }));
                None
            }
        };
        built.push(rows);
    }
    scope.concatenate(done).probe_with(&local.probe);
    Ok(())
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
    local: &Local,
) -> Rows<'scope> {
    let scope = inputs[0].0.scope();
    let sources = local.plan.heeds(id);
    let reports = scope.concatenate(sources.iter().map(|source| reports[source].clone()));
    let lateness = local.plan.steps[id].lateness;
    let marks = Marks::new(&sources.iter().map(|&source| source as u32).collect::<Vec<_>>(), scope.peers(), lateness);
    let site = Site { id, input: Arc::clone(&inputs[0].1), cells: local.cells(id), local: local.clone() };
    let routes = local.plan.steps[id].inputs.iter().map(|input| &input.route);
    if scope.peers() == 1 || routes.clone().all(|route| *route == Route::Forward) {
        let inlets = inputs.into_iter().map(|(rows, schema)| Inlet { rows, route: Pipeline, schema });
        return staged(inlets.collect(), reports, marks, site, operator);
    }
    let inlet = |((rows, schema), route): ((Rows<'scope>, SchemaRef), &Route)| {
        let router = router(route, &schema, &site);
        Inlet { rows, route: DistributorPact(|_| router), schema }
    };
    let inlets = inputs.into_iter().zip(routes).map(inlet).collect();
    staged(inlets, reports, marks, site, operator)
}

fn router(route: &Route, schema: &SchemaRef, site: &Site) -> Router {
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

/// The columns that step `id` gives, weight included.
fn carried(plan: &Plan, id: StepId) -> SchemaRef {
    let step = &plan.steps[id];
    match step.emit {
        Emit::Updating => with_weight(&step.schema),
        Emit::Append | Emit::Final => Arc::clone(&step.schema),
    }
}

/// True if the pre-aggregating step `id` would only be in the way: on one worker nothing is exchanged, so rows go straight into the
/// aggregate, unless windows overlap and panes save work.
fn merges_rows_directly(plan: &Plan, id: StepId, workers: usize) -> bool {
    let overlapping =
        |spec: &Aggregation| matches!(spec.grouping, Grouping::Windowed { windows, .. } if windows.overlap());
    match &plan.steps[id].action {
        Action::PreAggregate(spec) => workers == 1 && !overlapping(spec),
        _ => false,
    }
}
