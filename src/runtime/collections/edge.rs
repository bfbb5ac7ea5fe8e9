//! Where batches become rows of a collection, and rows batches.

use super::super::exchange::Packet;
use super::super::steps::{Rows, Site};
use super::sorting::{Encoded, EncodedBuilder, Packed, Sorted};
use super::{Coder, Collected, Nulls, Row, Split};
use crate::batch::changes::single;
use crate::batch::{Batch, batch_of};
use crate::error::Result;
use crate::operator::aggregate::RESULT_ROWS;
use crate::operator::transform::{insertions, with_weight};
use crate::plan::Emit;
use crate::time::Epoch;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use differential_dataflow::AsCollection;
use std::collections::BTreeMap;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator as _, OutputBuilder};

/// What an open epoch has changed so far.
type Open = (Capability<Epoch>, Vec<Encoded>);

/// Rows by key. A key with NULL in it begins with what `nulls` says, any other one with 0.
pub fn enter<'scope>(
    rows: Rows<'scope>,
    route: impl ParallelizationContract<Epoch, Packet>,
    site: Site,
    split: Split,
    nulls: Nulls,
) -> Stream<'scope, Epoch, Encoded> {
    let mut builder = OperatorBuilder::new(format!("enter {}", site.name()), rows.scope());
    let mut batches = builder.new_input(rows, route);
    builder.set_notify_for(0, timely::progress::operate::FrontierInterest::Never);
    let (output, stream) = builder.new_output();
    let mut output: OutputBuilder<Epoch, NoopBuilder<Encoded>> = OutputBuilder::from(output);
    builder.build(move |_| {
        move |_| {
            let _busy = site.busy();
            batches.for_each(|capability, packet| {
                let epoch = *capability.least().expect("a message that holds something has a time");
                let encoded = site.attempt(|| {
                    let batch = packet.take(&site.input)?;
                    site.cells.takes(batch.num_rows());
                    encode(&batch, epoch, &split, nulls)
                });
                if let Some(mut encoded) = encoded {
                    output.activate().session_with_builder(&capability).give_container(&mut encoded);
                }
            });
        }
    });
    stream
}

/// The same without keys, row by row.
pub fn enter_whole<'scope>(rows: Rows<'scope>, site: Site, columns: &Schema) -> Result<Collected<'scope, Epoch, Row>> {
    let split = Split::new(columns, &[])?;
    let stream = enter(rows, Pipeline, site, split, Nulls::Equal).unary(Pipeline, "rows", |_, _| {
        move |input, output| {
            input.for_each(|capability, encoded: &mut Encoded| {
                let rows = encoded.rest.iter().zip(&encoded.weights);
                let rows = rows.map(|(row, weight)| (Row::from(row), encoded.epoch, *weight));
                output.session(&capability).give_iterator(rows);
            });
        }
    });
    Ok(stream.as_collection())
}

fn encode(batch: &Batch, epoch: Epoch, split: &Split, nulls: Nulls) -> Result<Encoded> {
    let width = split.key.columns.len() + split.rest.columns.len();
    let weights = match batch.columns().get(width) {
        Some(weights) => weights.as_primitive::<Int64Type>().values().to_vec(),
        None => vec![1; batch.num_rows()],
    };
    Ok(Encoded { epoch, keys: keys_of(batch, split, nulls)?, rest: split.rest.pack(batch, &[])?, weights })
}

/// The keys of a batch's rows.
pub fn keys_of(batch: &Batch, split: &Split, nulls: Nulls) -> Result<Packed> {
    let mut marks = vec![0_u8; batch.num_rows()];
    if let Nulls::OfSide(mark) = nulls {
        for column in split.key.columns.iter().map(|column| batch.column(*column)).filter(|c| c.null_count() > 0) {
            (0..column.len()).filter(|row| column.is_null(*row)).for_each(|row| marks[row] = mark);
        }
    }
    split.key.pack(batch, &marks)
}

/// The rows' bytes, and where in them the columns of a step are.
pub struct Output {
    /// Of what the rows are.
    pub coder: Coder,
    /// For each column of the step: which of the coder's columns it is.
    pub places: Vec<usize>,
}

/// When rows leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When their epoch is complete: what it has changed.
    Complete,
    /// As soon as they are there, unless the step updates: none of them is taken back, whatever else comes.
    AtOnce,
}

/// Batches of what changes, with weights if the step updates.
pub fn leave<'scope>(rows: Stream<'scope, Epoch, Encoded>, output: Output, when: When, site: Site) -> Rows<'scope> {
    let step = &site.local.plan.steps[site.id];
    let (updating, schema) = (step.emit == Emit::Updating, Arc::clone(&step.schema));
    let mut builder = OperatorBuilder::new(format!("leave {}", site.name()), rows.scope());
    let mut updates = builder.new_input(rows, Pipeline);
    let (out, stream) = builder.new_output();
    let mut out: OutputBuilder<Epoch, NoopBuilder<Packet>> = OutputBuilder::from(out);
    builder.build(move |_| {
        let mut open: BTreeMap<Epoch, Open> = BTreeMap::new();
        move |frontiers| {
            let _busy = site.busy();
            let mut out = out.activate();
            let mut say = |capability: &Capability<Epoch>, rows: &[(&[u8], i64)]| {
                for rows in rows.chunks(RESULT_ROWS) {
                    let Some(batch) = site.attempt(|| decode(rows, &output, updating, &schema)) else { return };
                    site.cells.gives(batch.num_rows());
                    out.session_with_builder(capability).give_container(&mut Packet::Rows(batch));
                }
            };
            updates.for_each(|capability, rows: &mut Encoded| {
                let rows = std::mem::take(rows);
                let capability = capability.delayed(&rows.epoch, 0);
                if updating || when == When::Complete {
                    open.entry(rows.epoch).or_insert_with(|| (capability, Vec::new())).1.push(rows);
                } else {
                    say(&capability, &rows.rest.iter().zip(rows.weights.iter().copied()).collect::<Vec<_>>());
                }
            });
            if site.local.fate.failed() {
                open.clear();
            }
            let least = frontiers[0].frontier().first().copied();
            while let Some(entry) = open.first_entry().filter(|entry| least.is_none_or(|least| *entry.key() < least)) {
                let (capability, parts) = entry.remove();
                say(&capability, &Sorted::of(parts).rest().collect::<Vec<_>>());
            }
        }
    });
    stream
}

/// Rows of a collection, many at a time.
pub fn gathered<'scope>(rows: Collected<'scope, Epoch, Row>) -> Stream<'scope, Epoch, Encoded> {
    rows.inner.unary::<EncodedBuilder, _, _, _>(Pipeline, "gather", |_, _| {
        move |input, output| {
            input.for_each(|capability, updates: &mut Vec<(Row, Epoch, i64)>| {
                output.session_with_builder(&capability).give_iterator(updates.drain(..));
            });
        }
    })
}

fn decode(changes: &[(&[u8], i64)], output: &Output, updating: bool, schema: &SchemaRef) -> Result<Batch> {
    let decoded = output.coder.decode(changes.iter().map(|(row, _)| *row))?;
    let mut columns: Vec<ArrayRef> = output.places.iter().map(|place| Arc::clone(&decoded[*place])).collect();
    columns.push(Arc::new(changes.iter().map(|(_, weight)| *weight).collect::<Int64Array>()));
    let changes = single(batch_of(with_weight(schema), columns, changes.len())?)?;
    if updating {
        return Ok(changes);
    }
    // rows that stand are not taken back: here one has left that can meet no other any more
    insertions(&changes, schema)
}

/// What comes from the epoch `first` on: what collections said before it has left in an earlier run.
pub fn fresh(rows: Rows<'_>, first: Epoch) -> Rows<'_> {
    let mut builder = OperatorBuilder::new("fresh".into(), rows.scope());
    let mut batches = builder.new_input(rows, Pipeline);
    builder.set_notify_for(0, timely::progress::operate::FrontierInterest::Never);
    let (out, stream) = builder.new_output();
    let mut out: OutputBuilder<Epoch, NoopBuilder<Packet>> = OutputBuilder::from(out);
    builder.build(move |_| {
        move |_| {
            batches.for_each(|capability, packet| {
                if capability.least().is_some_and(|epoch| *epoch >= first) {
                    out.activate().session_with_builder(&capability).give_container(packet);
                }
            });
        }
    });
    stream
}
