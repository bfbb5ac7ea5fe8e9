//! The operator that stands where sinks would be when epochs are seen again: it tells what they would have been given.
//!
//! All rows come to worker 0. An epoch is told when it is complete, and counts as written when it has been told.

use super::exchange::Router;
use super::replay::Told;
use super::sink::Done;
use super::steps::{Rows, Site};
use super::worker::Local;
use crate::batch::Batch;
use crate::time::Epoch;
use crossbeam_channel::{Sender, TrySendError};
use std::collections::BTreeMap;
use std::time::Duration;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::MutableAntichain;

/// How long to wait before an epoch is offered again.
const NAP: Duration = Duration::from_millis(1);

/// What waits for its epoch: rows with their table.
type Stashed = (Capability<Epoch>, Vec<(usize, Batch)>);

/// Builds the operator for the inputs of all sinks, in the order of their steps.
pub fn tap<'scope>(
    scope: Scope<'scope, Epoch>,
    sinks: Vec<(Rows<'scope>, Router, Site)>,
    told: Sender<Told>,
    local: &Local,
) -> Done<'scope> {
    let mut builder = OperatorBuilder::new("tap".into(), scope);
    let mut inputs = Vec::new();
    for (rows, router, site) in sinks {
        inputs.push((builder.new_input(rows, DistributorPact(|_| router)), site));
    }
    let (_, done) = builder.new_output();
    let activator = scope.activator_for(builder.operator_info().address);
    let fate = std::sync::Arc::clone(&local.fate);
    builder.build(move |_| {
        let mut told = Some(told);
        let mut stash: BTreeMap<Epoch, Stashed> = BTreeMap::new();
        move |frontiers: &[MutableAntichain<Epoch>]| {
            for (table, (batches, site)) in inputs.iter_mut().enumerate() {
                batches.for_each(|capability, packet| {
                    let epoch = *capability.least().expect("a message that holds something has a time");
                    let taken = packet.take(&site.input);
                    match taken {
                        Ok(rows) if rows.num_rows() == 0 || told.is_none() => {}
                        Ok(rows) => {
                            site.cells.takes(rows.num_rows());
                            let entry = stash.entry(epoch);
                            let (_, stashed) = entry.or_insert_with(|| (capability.delayed(&epoch, 0), Vec::new()));
                            stashed.push((table, rows));
                        }
                        Err(error) => fate.fail(error),
                    }
                });
            }
            let least = frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min();
            while let Some(entry) = stash.first_entry().filter(|entry| least.is_none_or(|least| *entry.key() < least)) {
                let Some(sender) = told.as_ref().filter(|_| !fate.failed()) else { break };
                let (epoch, (capability, rows)) = entry.remove_entry();
                match sender.try_send(Told { epoch, rows }) {
                    Ok(()) => {}
                    Err(TrySendError::Full(Told { epoch, rows })) => {
                        stash.insert(epoch, (capability, rows));
                        return activator.activate_after(NAP);
                    }
                    // who asked has seen enough
                    Err(TrySendError::Disconnected(_)) => {
                        told = None;
                        fate.stop();
                    }
                }
            }
            if told.is_none() || fate.failed() {
                stash.clear();
            }
        }
    });
    done
}
