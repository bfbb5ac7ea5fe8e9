//! The operator that writes: one worker's shard of one sink.
//!
//! Its output carries no rows, only progress: an epoch leaves it when everything written of it is acknowledged. That is what
//! the probe sees, what the sources' budget counts, and what "written" means.
//!
//! A reader that has seen enough (`highwater run … | head`) is no failure but a wish to stop: what else is written is completed.

use super::exchange::Packet;
use super::steps::{Rows, Site};
use crate::batch::Batch;
use crate::connector::{Changes, Shard};
use crate::error::{Error, Result};
use crate::operator::transform::insertions;
use crate::plan::{Action, Emit, Plan, SinkStep, StepId};
use crate::time::Epoch;
use arrow::datatypes::Schema;
use std::sync::Arc;
use std::time::Duration;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::ParallelizationContract;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// How long an epoch that is not acknowledged waits to be asked again.
const NAP: Duration = Duration::from_millis(1);

/// Progress without rows.
pub type Done<'scope> = Stream<'scope, Epoch, Packet>;

/// Builds the operator for a sink step that reads step `from`.
pub fn sink<'scope>(
    input: Rows<'scope>,
    route: impl ParallelizationContract<Epoch, Packet>,
    step: &SinkStep,
    from: StepId,
    site: Site,
) -> Done<'scope> {
    let scope = input.scope();
    let plan = &site.local.plan;
    let name = plan.steps[site.id].name.clone();
    let writes = !step.sink.single() || scope.index() == 0;
    let (number, count) = if step.sink.single() { (0, 1) } else { (scope.index(), scope.peers()) };
    let mut shard: Option<Box<dyn Shard>> = None;
    if writes {
        match step.sink.open(number, count, &site.local.context) {
            Ok(opened) => shard = Some(opened),
            Err(error) => site.local.fate.fail(error.within(format!("table \"{}\"", step.table))),
        }
    }
    let only_insertions = takes_insertions_only(plan, from, step);
    let schema = Arc::clone(&plan.steps[site.id].schema);
    let given = Arc::clone(&plan.steps[from].schema);
    let table = step.table.clone();
    let mut builder = OperatorBuilder::new(name, scope);
    let mut batches = builder.new_input(input, route);
    let (_, done) = builder.new_output::<Packet>();
    let activator = scope.activator_for(builder.operator_info().address);
    builder.build(move |capabilities| {
        // held at the first epoch whose rows are not all acknowledged
        let mut held = capabilities.into_iter().next();
        move |frontiers| {
            let Some(capability) = held.as_mut() else { return };
            let _busy = site.busy();
            let fail = |error: Error| match closed_by_reader(&error) {
                true => site.local.fate.stop(),
                false => {
                    site.cells.failed();
                    site.local.fate.fail(error.within(format!("table \"{table}\"")));
                }
            };
            batches.for_each(|_, packet| {
                if site.local.fate.failed() {
                    return;
                }
                let mut write = || -> Result<()> {
                    let mut rows = packet.take(&site.input)?;
                    let Some(shard) = shard.as_mut() else { return Ok(()) };
                    if only_insertions {
                        rows = insertions(&rows, &given)?;
                    }
                    refuse_null(&rows, &schema)?;
                    site.cells.takes(rows.num_rows());
                    shard.write(rows)?;
                    site.cells.wrote(shard.take_bytes());
                    Ok(())
                };
                if let Err(error) = write() {
                    shard = None;
                    fail(error);
                }
            });
            if site.local.fate.failed() {
                held = None;
                return;
            }
            let next = frontiers[0].frontier().first().copied();
            if next.is_some_and(|next| next <= *capability.time()) {
                return;
            }
            // without new rows, too: something may be due by its age
            let flushed = shard.as_mut().map_or(Ok(true), |shard| {
                let flushed = shard.flush();
                site.cells.wrote(shard.take_bytes());
                flushed
            });
            match flushed {
                Ok(true) => {}
                Ok(false) => return activator.activate_after(NAP),
                Err(error) => {
                    shard = None;
                    fail(error);
                    if site.local.fate.failed() {
                        held = None;
                        return;
                    }
                }
            }
            match next {
                Some(next) => capability.downgrade(&next),
                None => {
                    if let Err(error) = finish(shard.take(), &site) {
                        fail(error);
                    }
                    held = None;
                }
            }
        }
    });
    done
}

/// True if `sink` takes only the insertions among the rows of step `from`, without their weights.
pub(super) fn takes_insertions_only(plan: &Plan, from: StepId, sink: &SinkStep) -> bool {
    let settled = matches!(plan.steps[from].action, Action::Settle(_));
    plan.steps[from].emit == Emit::Updating
        && match sink.sink.changes() {
            Changes::Upsert => true,
            Changes::Keyed => !settled,
            Changes::AppendOnly | Changes::All | Changes::Paired => false,
        }
}

/// Completes the output of `shard`.
fn finish(shard: Option<Box<dyn Shard>>, site: &Site) -> Result<()> {
    let Some(mut shard) = shard else { return Ok(()) };
    let finished = shard.finish();
    site.cells.wrote(shard.take_bytes());
    finished
}

/// True if the output's reader has gone.
fn closed_by_reader(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A table's NOT NULL is a promise to its readers, which the rows must keep whatever the plan knew of them.
pub(super) fn refuse_null(rows: &Batch, schema: &Schema) -> Result<()> {
    let broken = schema
        .fields()
        .iter()
        .zip(rows.columns())
        .find(|(field, column)| !field.is_nullable() && column.null_count() > 0);
    match broken {
        Some((field, _)) => Err(Error::data(format!("column \"{}\" is NOT NULL, but a row has NULL in it", field.name()))
            .help("give the column a value with coalesce(…), leave such rows out with WHERE … IS NOT NULL, or drop NOT NULL from the table")),
        None => Ok(()),
    }
}
