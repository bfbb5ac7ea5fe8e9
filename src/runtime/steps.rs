//! The operators' adapters: timely's capabilities, frontiers and stashes on one side, plain state machines on the other.
//!
//! Four ways to live. *Stateless*: every batch at once. *Of an epoch*: one operator for each open epoch, which says its last
//! when the epoch is complete. *Until the end*: one operator that says its last when the input has ended. *Staged*: one operator for ever; it sees epochs one after the other, each with all its rows and then
//! its watermark, and what comes early waits in a stash.

use super::exchange::Packet;
use super::keeping::{Deposit, Keeping};
use super::marks::Marks;
use super::metrics::{Busy, StepCells};
use super::source::Reports;
use super::worker::Local;
use crate::error::{Error, Result};
use crate::operator::{Confluence, Operator, Output};
use crate::plan::StepId;
use crate::time::{Epoch, Report, Watermark};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

/// The rows of a step.
pub type Rows<'scope> = Stream<'scope, Epoch, Packet>;

/// How long a step that is held back sleeps.
const NAP: Duration = Duration::from_millis(1);

type RowOutput = OutputBuilder<Epoch, NoopBuilder<Packet>>;

/// A step's place in this worker's dataflow.
#[derive(Clone)]
pub struct Site {
    /// The step.
    pub id: StepId,
    /// The columns of what comes in, weight included.
    pub input: SchemaRef,
    /// This worker's counters of it.
    pub cells: Arc<StepCells>,
    /// This worker's share of the run.
    pub local: Local,
}

impl Site {
    /// What the plan calls the step.
    pub(super) fn name(&self) -> String {
        self.local.plan.steps[self.id].name.clone()
    }

    /// Runs `work` unless the run has failed; what it fails with ends the run.
    pub(super) fn attempt<T>(&self, work: impl FnOnce() -> Result<T>) -> Option<T> {
        if self.local.fate.failed() {
            return None;
        }
        let fail = |error: Error| {
            self.cells.failed();
            self.local.fate.fail(error.within(format!("step \"{}\"", self.name())));
        };
        work().map_err(fail).ok()
    }

    /// Counts a turn of the operator, until what it gives is dropped.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.cells.busy(self.local.context.clock.as_ref())
    }
}

/// The epoch of a message.
fn epoch_of(capability: &InputCapability<Epoch>) -> Epoch {
    *capability.least().expect("a message that holds something has a time")
}

fn send(rows: &mut RowOutput, capability: &Capability<Epoch>, out: &mut Output, cells: &StepCells) {
    let mut output = rows.activate();
    let mut session = output.session_with_builder(capability);
    out.drain().for_each(|batch| {
        cells.gives(batch.num_rows());
        session.give_container(&mut Packet::Rows(batch));
    });
}

/// The least epoch that may still come on any input; None when all have ended.
fn least(frontiers: &[MutableAntichain<Epoch>]) -> Option<Epoch> {
    frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min()
}

/// An operator that forgets every batch at once.
pub fn stateless<'scope>(input: Rows<'scope>, site: Site, mut operator: impl Operator + 'static) -> Rows<'scope> {
    let mut builder = OperatorBuilder::new(site.name(), input.scope());
    let mut batches = builder.new_input(input, Pipeline);
    builder.set_notify_for(0, timely::progress::operate::FrontierInterest::Never);
    let (rows, stream) = builder.new_output();
    let mut rows: RowOutput = OutputBuilder::from(rows);
    builder.build(move |_| {
        let mut out = Output::default();
        move |_| {
            let _busy = site.busy();
            batches.for_each(|capability, packet| {
                let taken = site.attempt(|| {
                    let batch = packet.take(&site.input)?;
                    site.cells.takes(batch.num_rows());
                    operator.on_batch(batch, &mut out)
                });
                if taken.is_some() {
                    send(&mut rows, &capability.delayed(&epoch_of(&capability), 0), &mut out, &site.cells);
                }
            });
        }
    });
    stream
}

/// An operator for each open epoch, made by `make`.
pub fn of_an_epoch<'scope, O: Operator + 'static>(
    input: Rows<'scope>,
    site: Site,
    make: impl Fn() -> Result<O> + 'static,
) -> Rows<'scope> {
    let mut builder = OperatorBuilder::new(site.name(), input.scope());
    let mut batches = builder.new_input(input, Pipeline);
    let (rows, stream) = builder.new_output();
    let mut rows: RowOutput = OutputBuilder::from(rows);
    builder.build(move |_| {
        let mut open: BTreeMap<Epoch, (Capability<Epoch>, O)> = BTreeMap::new();
        let mut out = Output::default();
        move |frontiers| {
            let _busy = site.busy();
            batches.for_each(|capability, packet| {
                let taken = site.attempt(|| {
                    let batch = packet.take(&site.input)?;
                    site.cells.takes(batch.num_rows());
                    let epoch = epoch_of(&capability);
                    let (_, operator) = match open.entry(epoch) {
                        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert((capability.delayed(&epoch, 0), make()?))
                        }
                    };
                    operator.on_batch(batch, &mut out)
                });
                if taken.is_some() {
                    send(&mut rows, &open[&epoch_of(&capability)].0, &mut out, &site.cells);
                }
            });
            if site.local.fate.failed() {
                open.clear();
            }
            let least = least(frontiers);
            while let Some(entry) = open.first_entry().filter(|entry| least.is_none_or(|least| *entry.key() < least)) {
                let (epoch, (capability, mut operator)) = entry.remove_entry();
                if site.attempt(|| operator.on_epoch(epoch, Watermark::NONE, &mut out)).is_some() {
                    send(&mut rows, &capability, &mut out, &site.cells);
                }
            }
        }
    });
    stream
}

/// An operator whose rows are not waited for before the end of the input: it does not take part in the turn of epochs.
pub fn until_the_end<'scope>(input: Rows<'scope>, site: Site, mut operator: impl Operator + 'static) -> Rows<'scope> {
    let mut builder = OperatorBuilder::new(site.name(), input.scope());
    let mut batches = builder.new_input(input, Pipeline);
    let (rows, stream) = builder.new_output();
    let mut rows: RowOutput = OutputBuilder::from(rows);
    builder.build(move |mut capabilities| {
        // follows the input, so that no epoch waits for this operator but the last
        let mut held = capabilities.pop();
        let mut out = Output::default();
        move |frontiers| {
            let _busy = site.busy();
            let Some(capability) = held.as_mut() else { return };
            batches.for_each(|message, packet| {
                let taken = site.attempt(|| {
                    let batch = packet.take(&site.input)?;
                    site.cells.takes(batch.num_rows());
                    operator.on_batch(batch, &mut out)
                });
                if taken.is_some() {
                    send(&mut rows, &message.delayed(&epoch_of(&message), 0), &mut out, &site.cells);
                }
            });
            match least(frontiers) {
                Some(least) => capability.downgrade(&least),
                None => {
                    if site.attempt(|| operator.on_epoch(*capability.time(), Watermark::END, &mut out)).is_some() {
                        send(&mut rows, capability, &mut out, &site.cells);
                    }
                    held = None;
                }
            }
            if site.local.fate.failed() {
                held = None;
            }
        }
    });
    stream
}

/// What waits for its epoch.
#[derive(Default)]
struct Stashed {
    capability: Option<Capability<Epoch>>,
    /// The same for what the operator has learnt.
    deposits: Option<Capability<Epoch>>,
    /// With the input that each came from.
    packets: Vec<(usize, Packet)>,
    reports: Vec<Report>,
}

impl Stashed {
    fn hold(&mut self, capability: &InputCapability<Epoch>, deposits: bool) {
        self.capability.get_or_insert_with(|| capability.delayed(&epoch_of(capability), 0));
        if deposits {
            self.deposits.get_or_insert_with(|| capability.delayed(&epoch_of(capability), 1));
        }
    }
}

/// An edge into a staged step.
pub struct Inlet<'scope, P> {
    /// What comes.
    pub rows: Rows<'scope>,
    /// How it changes its worker.
    pub route: P,
    /// Its columns, weight included.
    pub schema: SchemaRef,
}

/// What comes out of a staged step.
pub struct Staged<'scope> {
    /// Its rows.
    pub rows: Rows<'scope>,
    /// What it has learnt, at the epochs of checkpoints; nothing where there are none.
    pub deposits: Stream<'scope, Epoch, Vec<Deposit>>,
}

/// An operator that sees complete epochs in order. `reports` are those of the sources that it depends on, sent to this worker. With
/// `keeping` what it learns is kept in checkpoints.
///
/// What it has to say of an epoch may be more than fits into memory: it is asked again for more after what it said has moved on.
pub fn staged<'scope>(
    inlets: Vec<Inlet<'scope, impl ParallelizationContract<Epoch, Packet>>>,
    reports: Stream<'scope, Epoch, Reports>,
    mut marks: Marks,
    site: Site,
    mut operator: Box<dyn Confluence>,
    mut keeping: Option<Keeping>,
) -> Staged<'scope> {
    let scope = reports.scope();
    let mut builder = OperatorBuilder::new(site.name(), scope);
    let mut inputs = Vec::new();
    for Inlet { rows, route, schema } in inlets {
        inputs.push((builder.new_input(rows, route), schema));
    }
    let mut reports = builder.new_input(reports, Pipeline);
    let (rows, stream) = builder.new_output();
    let (deposits, deposit_stream) = builder.new_output();
    let mut rows: RowOutput = OutputBuilder::from(rows);
    let mut deposits: OutputBuilder<Epoch, CapacityContainerBuilder<Vec<Deposit>>> = OutputBuilder::from(deposits);
    let activator = scope.activator_for(builder.operator_info().address);
    let first = site.local.first_epoch();
    builder.build(move |capabilities| {
        // what is said once more belongs to the time before the first epoch
        let mut before = first.checked_sub(1).and_then(|before| Some(capabilities.first()?.delayed(&before)));
        let mut stash: BTreeMap<Epoch, Stashed> = BTreeMap::new();
        let mut out = Output::default();
        // the first epoch of the stash is complete, and the operator is not through with it
        let mut speaking = false;
        let mut mark = Watermark::NONE;
        move |frontiers| {
            let _busy = site.busy();
            if let Some(capability) = before.take()
                && site.attempt(|| operator.again(&mut out)).is_some()
            {
                send(&mut rows, &capability, &mut out, &site.cells);
            }
            for (port, (batches, _)) in inputs.iter_mut().enumerate() {
                batches.for_each(|capability, packet| {
                    let stashed = stash.entry(epoch_of(&capability)).or_default();
                    stashed.hold(&capability, keeping.is_some());
                    stashed.packets.push((port, std::mem::take(packet)));
                });
            }
            reports.for_each(|capability, batch| {
                let stashed = stash.entry(epoch_of(&capability)).or_default();
                stashed.hold(&capability, keeping.is_some());
                stashed.reports.extend(batch.drain(..).map(|(_, report)| report));
            });
            if site.local.fate.failed() {
                stash.clear();
                return;
            }
            let least = least(frontiers);
            while let Some(mut entry) = stash.first_entry() {
                match site.attempt(|| keeping.as_ref().map_or(Ok(false), Keeping::holds_back)) {
                    Some(false) => {}
                    Some(true) => {
                        activator.activate_after(NAP);
                        break;
                    }
                    None => return,
                }
                let epoch = *entry.key();
                // later epochs wait until every earlier one is complete
                if least.is_some_and(|least| epoch > least) {
                    break;
                }
                let stashed = entry.get_mut();
                let complete = least.is_none_or(|least| epoch < least);
                let worked = site.attempt(|| {
                    for (port, mut packet) in stashed.packets.drain(..) {
                        let batch = packet.take(&inputs[port].1)?;
                        site.cells.takes(batch.num_rows());
                        operator.on_batch(port, batch, &mut out)?;
                        keeping.as_ref().map_or(Ok(()), |keeping| keeping.relieve(epoch, operator.as_mut()))?;
                    }
                    if complete && !speaking {
                        mark = marks.complete(stashed.reports.drain(..));
                        operator.on_epoch(epoch, mark, &mut out)?;
                        site.cells.complete(mark, operator.take_late_rows());
                    }
                    speaking = complete && operator.say_more(&mut out)?;
                    Ok(())
                });
                if worked.is_none() {
                    return;
                }
                let capability = stashed.capability.as_ref().expect("whatever made the entry brought a capability");
                send(&mut rows, capability, &mut out, &site.cells);
                if speaking {
                    activator.activate();
                }
                if speaking || !complete {
                    break;
                }
                if let (Some(keeping), Some(capability), true) = (&mut keeping, &stashed.deposits, marks.checkpoint()) {
                    let Some(deposit) = site.attempt(|| keeping.deposit(epoch, mark, operator.as_mut())) else {
                        return;
                    };
                    deposits.activate().session_with_builder(capability).give(deposit);
                }
                entry.remove();
            }
        }
    });
    Staged { rows: stream, deposits: deposit_stream }
}
