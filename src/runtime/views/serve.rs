//! The operator that puts the rows of views where they can be read.
//!
//! All rows come to worker 0. An epoch counts as written when it is on the shelf, so the views keep up with the sources or hold them back.
//! What collections say again after a restart belongs to the epoch before the first one: that of the checkpoint.

use super::super::exchange::Router;
use super::super::gather::Gather;
use super::super::marks::Marks;
use super::super::sink::Done;
use super::super::source::Reports;
use super::super::steps::{Rows, Site};
use super::super::worker::Local;
use super::shelf::{Layers, Shelf};
use crate::batch::Batch;
use crate::batch::changes::added;
use crate::error::Result;
use crate::operator::transform::with_weight;
use crate::time::Epoch;
use std::sync::Arc;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::frontier::MutableAntichain;

/// A view on its way to the shelf.
pub struct Inlet<'scope> {
    /// Its rows.
    pub rows: Rows<'scope>,
    /// To worker 0.
    pub router: Router,
    /// Its step.
    pub site: Site,
    /// Follows the sources that it depends on.
    pub marks: Marks,
}

/// Builds the operator for all views of the plan, in their order; `reports` are those of all sources, on each worker.
pub fn serve<'scope>(
    scope: Scope<'scope, Epoch>,
    views: Vec<Inlet<'scope>>,
    reports: Stream<'scope, Epoch, Reports>,
    shelf: Arc<Shelf>,
    local: &Local,
) -> Done<'scope> {
    let mut builder = OperatorBuilder::new("serve".into(), scope);
    let mut inputs = Vec::new();
    let mut held = Vec::new();
    for Inlet { rows, router, site, marks } in views {
        let schema = with_weight(&site.local.plan.steps[site.id].schema);
        held.push((Layers::new(Arc::clone(&schema)), marks));
        inputs.push((builder.new_input(rows, DistributorPact(|_| router)), site, schema));
    }
    let mut reports = builder.new_input(reports, Pipeline);
    let (_, done) = builder.new_output();
    let (fate, first, here) = (Arc::clone(&local.fate), local.first_epoch(), scope.index() == 0);
    builder.build(move |_| {
        let mut stash: Gather<(usize, Batch)> = Gather::new();
        move |frontiers: &[MutableAntichain<Epoch>]| {
            for (view, (batches, site, schema)) in inputs.iter_mut().enumerate() {
                let _busy = site.busy();
                batches.for_each(|message, packet| {
                    let changes = site.attempt(|| {
                        let rows = packet.take(&site.input)?;
                        site.cells.takes(rows.num_rows());
                        if rows.num_columns() == schema.fields().len() { Ok(rows) } else { added(&rows, schema) }
                    });
                    if let Some(changes) = changes.filter(|changes| here && changes.num_rows() > 0) {
                        stash.of(&message).things.push((view, changes));
                    }
                });
            }
            reports.for_each(|message, batch| {
                if here {
                    stash.of(&message).reports.extend(batch.drain(..).map(|(_, report)| report));
                }
            });
            if fate.failed() {
                stash.clear();
                return;
            }
            if !here {
                return;
            }
            while let Some((epoch, mut gathered)) = stash.complete(frontiers) {
                let mut told = Vec::with_capacity(held.len());
                for (view, (layers, marks)) in held.iter_mut().enumerate() {
                    let site = &inputs[view].1;
                    let _busy = site.busy();
                    let changes: Vec<Batch> =
                        gathered.things.extract_if(.., |(of, _)| *of == view).map(|(_, changes)| changes).collect();
                    let mark = marks.complete(gathered.reports.iter().cloned());
                    let Some(one) = site.attempt(|| -> Result<_> { layers.add(&changes, mark, &site.cells) }) else {
                        return;
                    };
                    site.cells.complete(mark, 0);
                    told.push(one);
                }
                shelf.put(epoch, told);
            }
            match frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min() {
                // what is before the checkpoint that the run goes on from has no rows here
                Some(least) => least.checked_sub(1).filter(|_| least >= first).into_iter().for_each(|e| shelf.reach(e)),
                None => shelf.end(),
            }
        }
    });
    done
}
