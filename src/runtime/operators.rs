//! The staged operators of a plan, made from it: for a worker that runs them, and for folding what they have kept.

use super::begin::{Checkpoints, parts_of};
use crate::checkpoint::object::{self, ObjectRef, Section};
use crate::error::{Error, Result};
use crate::operator::aggregate::{Aggregate, Feed};
use crate::operator::as_of::VersionJoin;
use crate::operator::closing::Closing;
use crate::operator::consolidate::Consolidate;
use crate::operator::distinct::DistinctKeys;
use crate::operator::expire::Expire;
use crate::operator::join::Join;
use crate::operator::keep::Keep;
use crate::operator::late::late_rows;
use crate::operator::lookup::Lookup;
use crate::operator::rank::Rank;
use crate::operator::session::SessionAggregate;
use crate::operator::settle::Settle;
use crate::operator::standing::Standing;
use crate::operator::top::Top;
use crate::operator::transform::with_weight;
use crate::operator::updating::UpdatingAggregate;
use crate::operator::upsert::Upsert;
use crate::operator::{Confluence, OneInput, Operator};
use crate::plan::{Action, Aggregation, Emit, Grouping, Keeping, Meeting, Plan, Route, Step, StepId, There};
use crate::state::{Delta, groups_of};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// An operator and the columns of what it is given, by input.
pub struct Made {
    /// The operator, without state.
    pub operator: Box<dyn Confluence>,
    /// The columns of each input, weights included.
    pub inputs: Vec<SchemaRef>,
}

/// The operator of staged step `id` on `worker` of `workers`; none for steps that remember nothing.
pub fn operator_of(plan: &Plan, id: StepId, worker: usize, workers: usize) -> Result<Option<Made>> {
    let step = &plan.steps[id];
    let input = |n: usize| carried(plan, step.inputs[n].from);
    let one = |operator: Box<dyn Operator>, input: SchemaRef| {
        Ok(Some(Made { operator: Box::new(OneInput(operator)), inputs: vec![input] }))
    };
    match &step.action {
        Action::Aggregate(spec) => {
            let direct = merges_rows_directly(plan, step.inputs[0].from, workers);
            let feed = if direct { Feed::Rows } else { Feed::Partials };
            let schema = if direct { Arc::clone(&spec.input) } else { spec.partial_schema()? };
            let spec = Arc::clone(spec);
            let operator: Box<dyn Operator> = match spec.grouping {
                Grouping::Updating if step.emit != Emit::Updating => {
                    Box::new(DistinctKeys::new(spec, feed, Arc::clone(&step.schema))?)
                }
                Grouping::Updating => Box::new(UpdatingAggregate::new(spec, feed, &step.schema)?),
                Grouping::Session { .. } => Box::new(SessionAggregate::new(spec, feed, Arc::clone(&step.schema))?),
                _ => {
                    let aggregate = Aggregate::new(spec, feed, Arc::clone(&step.schema));
                    // without keys all rows go to worker 0
                    Box::new(if worker == 0 { aggregate.answering_for_nothing() } else { aggregate })
                }
            };
            one(operator, schema)
        }
        Action::LateRows { lateness, .. } => {
            let schema = input(0);
            one(late_rows(lateness, &schema, Arc::clone(&step.schema))?, schema)
        }
        Action::Custom(custom) => {
            let schema = Arc::clone(&plan.steps[step.inputs[0].from].schema);
            one(custom.operator(&schema)?, schema)
        }
        Action::Rank(spec) => {
            let schema = input(0);
            let rank = Rank::new(Arc::clone(spec), Arc::clone(&schema), Arc::clone(&step.schema))?;
            one(Box::new(rank), schema)
        }
        Action::Top(spec) => {
            let schema = input(0);
            one(Box::new(Top::new(Arc::clone(spec), Arc::clone(&schema), &step.schema)?), schema)
        }
        Action::Join(spec) => {
            let inputs = [input(0), input(1)];
            let (spec, output, of_inputs) = (Arc::clone(spec), Arc::clone(&step.schema), inputs.clone());
            let operator: Box<dyn Confluence> = match spec.meeting {
                Meeting::InWindows(windows) => Box::new(Join::new(spec, windows, of_inputs, output)),
                Meeting::AsOf(as_of) => Box::new(VersionJoin::new(spec, as_of, of_inputs, output)?),
                Meeting::WithTable { table } => Box::new(Lookup::new(spec, table, of_inputs, output)),
                // a collection keeps nothing
                Meeting::Always => return Ok(None),
            };
            Ok(Some(Made { operator, inputs: inputs.to_vec() }))
        }
        Action::Keep(keeping) => {
            let from = &plan.steps[step.inputs[0].from];
            let (updating, by) = (from.emit == Emit::Updating, routed_by(step));
            let operator: Box<dyn Operator> = match keeping {
                Keeping { there: There::Last, ttl: Some(ttl), .. } => Box::new(Expire::new(&from.schema, by, *ttl)),
                keeping => Box::new(Keep::new(&from.schema, updating, by, keeping)),
            };
            one(operator, input(0))
        }
        Action::Consolidate => one(Box::new(Consolidate::new(&step.schema)), input(0)),
        Action::Closing(windows) => one(Box::new(Closing::new(&step.schema, *windows, routed_by(step))), input(0)),
        Action::Standing => one(Box::new(Standing::new(&step.schema, routed_by(step))), input(0)),
        Action::Upsert { key, every } => {
            let schema = input(0);
            one(Box::new(Upsert::new(key, *every, Arc::clone(&schema), &step.schema)?), schema)
        }
        Action::Settle(spec) => one(Box::new(Settle::new(spec, &step.schema)?), input(0)),
        Action::Source(_)
        | Action::DeadLetters
        | Action::Lookup(_)
        | Action::Reduce(_)
        | Action::Round
        | Action::Recurse { .. }
        | Action::Transform(_)
        | Action::Union
        | Action::PreAggregate(_)
        | Action::Sink(_)
        | Action::View(_) => Ok(None),
    }
}

/// The columns by which rows come into a step with one input; none if all go to one worker.
fn routed_by(step: &Step) -> Vec<usize> {
    match &step.inputs[0].route {
        Route::Key(keys) => keys.clone(),
        Route::Single | Route::Forward => Vec::new(),
    }
}

/// The columns that step `id` gives, weight included.
pub fn carried(plan: &Plan, id: StepId) -> SchemaRef {
    let step = &plan.steps[id];
    match step.emit {
        Emit::Updating => with_weight(&step.schema),
        Emit::Append | Emit::Final => Arc::clone(&step.schema),
    }
}

/// True if the pre-aggregating step `id` would only be in the way: on one worker nothing is exchanged, so rows go straight into the
/// aggregate, unless windows overlap and panes save work.
pub fn merges_rows_directly(plan: &Plan, id: StepId, workers: usize) -> bool {
    let overlapping =
        |spec: &Aggregation| matches!(spec.grouping, Grouping::Windowed { windows, .. } if windows.overlap());
    match &plan.steps[id].action {
        Action::PreAggregate(spec) => workers == 1 && !overlapping(spec),
        _ => false,
    }
}

/// What `objects` keep for the key groups `own`: by step, the deltas in their order. Each object is read once.
///
/// # Errors
/// [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) for an object that is not as it was written.
pub fn kept_in(
    plan: &Plan,
    checkpoints: &Checkpoints,
    objects: &[ObjectRef],
    own: &Range<usize>,
) -> Result<BTreeMap<String, Vec<Delta>>> {
    let mut kept: BTreeMap<String, Vec<Delta>> = BTreeMap::new();
    for (object, parts) in parts_of(objects, own) {
        let mut of_object: BTreeMap<String, Delta> = BTreeMap::new();
        for section in object::read(&checkpoints.store, object)? {
            let Section::State { step, mut table } = section else { continue };
            if goes_to_one(plan, &step) {
                table.keys.clear();
            }
            let delta = of_object.entry(step).or_default();
            // who wrote it had rows of these groups only
            let whole = object.groups.0..object.groups.1;
            if !table.keys.is_empty() && parts.iter().all(|part| *part == whole) {
                delta.push(table);
                continue;
            }
            for groups in &parts {
                let share = table.share(groups)?;
                if share.rows.num_rows() > 0 {
                    delta.push(share);
                }
            }
        }
        for (step, delta) in of_object {
            kept.entry(step).or_default().push(delta);
        }
    }
    Ok(kept)
}

/// True if all rows of `step` go to worker 0, whatever keys its operator knows.
fn goes_to_one(plan: &Plan, step: &str) -> bool {
    let single = |step: &Step| step.inputs.iter().all(|input| input.route == Route::Single);
    plan.steps.iter().any(|of| of.name == step && single(of))
}

/// Gives `operator` back what was kept of it up to `mark`.
pub fn restore(operator: &mut dyn Confluence, kept: Vec<Delta>, mark: Watermark) -> Result<()> {
    kept.into_iter().try_for_each(|delta| operator.restore(delta))?;
    operator.restored(mark)
}

/// Folds `objects`, all that is kept for the keys of `worker` up to checkpoint `epoch`, into one; none if nothing is left of them.
pub fn fold(
    plan: &Plan,
    checkpoints: &Checkpoints,
    worker: usize,
    workers: usize,
    objects: &[ObjectRef],
    marks: &[(StepId, Watermark)],
    epoch: Epoch,
) -> Result<Option<ObjectRef>> {
    let groups = groups_of(worker, workers);
    let mut kept = kept_in(plan, checkpoints, objects, &groups)?;
    let mut sections = Vec::new();
    for (id, step) in plan.steps.iter().enumerate() {
        let Some(deltas) = kept.remove(&step.name) else { continue };
        let Some(Made { mut operator, .. }) = operator_of(plan, id, worker, workers)? else { continue };
        let mark = marks.iter().find(|(of, _)| *of == id).map(|(_, mark)| *mark);
        let within = |error: Error| error.within(format!("step \"{}\"", step.name));
        restore(operator.as_mut(), deltas, mark.unwrap_or_else(|| checkpoints.beginning.mark_of(&step.name)))
            .map_err(within)?;
        let whole = operator.whole().map_err(within)?;
        let tables = whole.into_iter().filter(|table| table.rows.num_rows() > 0);
        sections.extend(tables.map(|table| Section::State { step: step.name.clone(), table }));
    }
    let path = format!("g{}/e{epoch}/base-w{worker}.hw", checkpoints.beginning.generation);
    let groups = (groups.start, groups.end);
    let generation = checkpoints.beginning.generation;
    object::write(&checkpoints.store, &path, &sections, epoch, generation, groups, true).map(Some)
}
