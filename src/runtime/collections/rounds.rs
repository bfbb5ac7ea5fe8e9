//! Recursive queries: a part of the plan that reads what it said the round before, until it says nothing new.
//!
//! Inside, every step is a collection of whole rows whose time is an epoch and a round. A change of the input is worked out in as many
//! rounds as its consequences need, whether rows come or are taken back.

use super::super::steps::{Rows, Site};
use super::super::worker::Local;
use super::edge::{self, Output, When};
use super::join::{Shape, distinct_everywhere, join};
use super::layout::{self, Indexed};
use super::reduce::reduce_in_rounds;
use super::{Coder, Collected, Nulls, Row, Split};
use crate::batch::{Batch, batch_of};
use crate::error::{Error, Result};
use crate::operator::transform::{Transforms, with_weight};
use crate::operator::{Operator, Output as Said};
use crate::plan::{Action, StepId};
use crate::time::Epoch;
use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{Int64Type, SchemaRef};
use differential_dataflow::AsCollection;
use differential_dataflow::operators::iterate::Variable;
use std::collections::BTreeMap;
use std::sync::Arc;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator as _;
use timely::order::Product;

/// After so many rounds a query is taken for one that comes to no end.
const ROUNDS_MAX: u64 = 10_000;

/// An epoch and a round.
type Round = Product<Epoch, u64>;

type Whole<'scope> = Collected<'scope, Round, Row>;

/// The rows of the recursive step `id`: `outer` are those of the steps outside that those inside read, `seed` among them.
pub fn recurse<'scope>(
    scope: Scope<'scope, Epoch>,
    id: StepId,
    outer: BTreeMap<StepId, Rows<'scope>>,
    local: &Local,
) -> Result<Rows<'scope>> {
    let step = &local.plan.steps[id];
    let Action::Recurse { round, distinct } = step.action else { return Err(Error::internal("no recursive step")) };
    let site = |id: StepId, input: SchemaRef| Site { id, input, cells: local.cells(id), local: local.clone() };
    let mut entered = BTreeMap::new();
    for (from, rows) in outer {
        let outside = site(id, super::carried(&local.plan, from));
        // wherever they are
        entered.insert(from, edge::enter_whole(rows, outside, &local.plan.steps[from].schema)?);
    }
    let rows = scope.scoped::<Round, _, _>(&step.name, |inner| {
        let summary = Product::new(Default::default(), 1);
        let (variable, before) = Variable::new(inner, summary);
        let mut built: BTreeMap<StepId, Whole<'_>> =
            entered.into_iter().map(|(from, rows)| (from, rows.enter(inner))).collect();
        built.insert(round, bounded(before, site(id, Arc::clone(&step.schema))));
        let [seed, body] = [0, 1].map(|n| step.inputs[n].from);
        build(body, &mut built, local)?;
        let all = built[&seed].clone().concat(built[&body].clone());
        let all = if distinct { distinct_everywhere(all) } else { all.consolidate() };
        variable.set(all.clone());
        Ok::<_, Error>(all.leave(scope))
    })?;
    let width = step.schema.fields().len();
    let output = Output { coder: Coder::new(&step.schema, (0..width).collect())?, places: (0..width).collect() };
    // rows are where their bytes are, not where their key is
    Ok(edge::leave(edge::gathered(rows), output, When::Complete, site(id, Arc::clone(&step.schema))))
}

/// Ends the run if there are too many rounds.
fn bounded<'scope>(rows: Whole<'scope>, site: Site) -> Whole<'scope> {
    rows.inspect(move |(_, time, _)| {
        if time.inner > ROUNDS_MAX {
            site.attempt(|| {
                Err::<(), _>(Error::data(format!("the recursion has come to no end in {ROUNDS_MAX} rounds")).help(
                    "write UNION instead of UNION ALL, so that a row that is known already is not followed again, or bound its depth",
                ))
            });
        }
    })
}

/// Builds step `id` and those that it reads, unless they are.
fn build<'scope>(id: StepId, built: &mut BTreeMap<StepId, Whole<'scope>>, local: &Local) -> Result<()> {
    if built.contains_key(&id) {
        return Ok(());
    }
    let step = &local.plan.steps[id];
    step.inputs.iter().try_for_each(|input| build(input.from, built, local))?;
    let input = |n: usize| built[&step.inputs[n].from].clone();
    let schema = |n: usize| Arc::clone(&local.plan.steps[step.inputs[n].from].schema);
    let site = || Site { id, input: Arc::clone(&step.schema), cells: local.cells(id), local: local.clone() };
    let rows = match &step.action {
        Action::Transform(stages) => {
            transform(input(0), Transforms::new(stages, true), &schema(0), &step.schema, site())?
        }
        Action::Union => (1..step.inputs.len()).fold(input(0), |all, n| all.concat(input(n))),
        Action::Join(spec) if step.action.over_collections() => {
            let side = |side: usize| {
                let nulls = if spec.nulls_equal { Nulls::Equal } else { Nulls::OfSide(side as u8 + 1) };
                let split = Split::new(&schema(side), &spec.sides[side].keys)?;
                by_key(input(side), &schema(side), split, nulls, site())
            };
            let shape = Shape::new(spec, &[schema(0), schema(1)], site())?;
            let output = shape.output()?;
            let coder = Coder::new(&step.schema, (0..step.schema.fields().len()).collect())?;
            let (left, right, rows, schema) = (side(0)?, side(1)?, site(), Arc::clone(&step.schema));
            map(join(shape, left, right), rows, move |rows| {
                let decoded = output.coder.decode(rows.iter().map(AsRef::as_ref))?;
                let columns = output.places.iter().map(|place| Arc::clone(&decoded[*place])).collect();
                coder.encode(&batch_of(Arc::clone(&schema), columns, rows.len())?)
            })
        }
        Action::Reduce(spec) => {
            let split = Split::ordered(&schema(0), &spec.keys, spec.order())?;
            let rows = by_key(input(0), &schema(0), split, Nulls::Equal, site())?;
            reduce_in_rounds(spec, &schema(0), &step.schema, rows, site())?
        }
        _ => {
            let error = Error::invalid(format!("step \"{}\" cannot be part of a recursion", step.name));
            return Err(error.help("filters, projections, joins without windows, UNION and aggregates can"));
        }
    };
    built.insert(id, rows);
    Ok(())
}

/// Decodes rows of `schema`.
fn decoded(coder: &Coder, schema: &SchemaRef, rows: &[Row]) -> Result<Batch> {
    let columns = coder.decode(rows.iter().map(AsRef::as_ref))?;
    batch_of(Arc::clone(schema), columns, rows.len())
}

/// Rows by key, on the worker of the key.
fn by_key<'scope>(
    rows: Whole<'scope>,
    schema: &SchemaRef,
    split: Split,
    nulls: Nulls,
    site: Site,
) -> Result<Indexed<'scope, Round>> {
    let whole = Coder::new(schema, (0..schema.fields().len()).collect())?;
    let schema = Arc::clone(schema);
    let keyed = map(rows, site, move |rows| {
        let batch = decoded(&whole, &schema, rows)?;
        let keys = edge::keys_of(&batch, &split, nulls)?;
        Ok(keys.iter().map(Row::from).zip(split.rest.encode(&batch)?).collect())
    });
    Ok(layout::by_key(keyed, layout::spread(), "rows by key"))
}

/// One row for each row, many at a time.
fn map<'scope, D: Clone + 'static>(
    rows: Whole<'scope>,
    site: Site,
    mut of: impl FnMut(&[Row]) -> Result<Vec<D>> + 'static,
) -> Collected<'scope, Round, D> {
    let stream = rows.inner.unary(Pipeline, "map", move |_, _| {
        move |input, output| {
            input.for_each(|capability, updates: &mut Vec<(Row, Round, i64)>| {
                let (rows, rest): (Vec<Row>, Vec<(Round, i64)>) =
                    updates.drain(..).map(|(row, time, weight)| (row, (time, weight))).unzip();
                if let Some(made) = site.attempt(|| of(&rows)) {
                    let made = made.into_iter().zip(rest).map(|(row, (time, weight))| (row, time, weight));
                    output.session(&capability).give_iterator(made);
                }
            });
        }
    });
    stream.as_collection()
}

/// Stateless stages: where the weight would be they carry which row of the input each row comes from.
fn transform<'scope>(
    rows: Whole<'scope>,
    mut stages: Transforms,
    input: &SchemaRef,
    output: &SchemaRef,
    site: Site,
) -> Result<Whole<'scope>> {
    let from = Coder::new(input, (0..input.fields().len()).collect())?;
    let to = Coder::new(output, (0..output.fields().len()).collect())?;
    let (input, width) = (with_weight(input), output.fields().len());
    let stream = rows.inner.unary(Pipeline, "transform", move |_, _| {
        move |incoming, outgoing| {
            incoming.for_each(|capability, updates: &mut Vec<(Row, Round, i64)>| {
                let made = site.attempt(|| {
                    let mut columns = from.decode(updates.iter().map(|(row, _, _)| row.as_ref()))?;
                    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..updates.len() as i64));
                    columns.push(numbers);
                    let mut said = Said::default();
                    stages.on_batch(batch_of(Arc::clone(&input), columns, updates.len())?, &mut said)?;
                    let mut made = Vec::new();
                    for batch in said.drain() {
                        let numbers = batch.column(width).as_primitive::<Int64Type>().values().to_vec();
                        made.extend(to.encode(&batch)?.into_iter().zip(numbers));
                    }
                    Ok(made)
                });
                let made = made.unwrap_or_default().into_iter().map(|(row, number)| {
                    let (_, time, weight) = &updates[number as usize];
                    (row, *time, *weight)
                });
                outgoing.session(&capability).give_iterator(made);
            });
        }
    });
    Ok(stream.as_collection())
}
