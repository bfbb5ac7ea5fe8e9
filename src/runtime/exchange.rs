//! Batches between workers: in one process as they are, to another one as bytes that are encoded once.
//!
//! Timely counts the rows of every message, so the row count travels beside the bytes and no one has to decode to know it.

use super::fate::Fate;
use super::metrics::StepCells;
use crate::batch::keys::split_by_key;
use crate::batch::{Batch, wire};
use crate::error::Result;
use crate::plan::Route;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use std::io::Write;
use std::sync::Arc;
use timely::Accountable;
use timely::communication::Push;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::progress::Stamp;

/// What flows along an edge.
#[derive(Clone, Default)]
pub enum Packet {
    /// What is left when a packet has been taken.
    #[default]
    Empty,
    /// Rows of this process.
    Rows(Batch),
    /// Rows from or for another process: `i64` row count, then the wire form of the batch, padded to 8.
    Wire(Bytes),
}

impl Packet {
    /// The rows; `schema` is that of the edge.
    pub fn take(&mut self, schema: &SchemaRef) -> Result<Batch> {
        match std::mem::take(self) {
            Packet::Rows(rows) => Ok(rows),
            Packet::Wire(bytes) => wire::decode(Buffer::from(bytes.slice(bytes.len().min(8)..)), Arc::clone(schema)),
            Packet::Empty => Ok(Batch::new_empty(Arc::clone(schema))),
        }
    }

    fn encode(rows: &Batch, encoder: &mut wire::Encoder) -> Result<Packet> {
        let body = encoder.encode(rows)?;
        let mut bytes = Vec::with_capacity(8 + body.len().next_multiple_of(8));
        bytes.extend_from_slice(&(rows.num_rows() as i64).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        Ok(Packet::Wire(Bytes::from(bytes)))
    }
}

impl Accountable for Packet {
    fn record_count(&self) -> i64 {
        match self {
            Packet::Empty => 0,
            Packet::Rows(rows) => rows.num_rows() as i64,
            Packet::Wire(bytes) => {
                bytes.get(..8).map_or(0, |count| i64::from_le_bytes(count.try_into().expect("eight bytes were taken")))
            }
        }
    }
}

/// Timely's bytes, kept alive by the arrays that point into them.
struct Held(timely::bytes::arc::Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl ContainerBytes for Packet {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        Packet::Wire(Bytes::from_owner(Held(bytes)))
    }

    fn length_in_bytes(&self) -> usize {
        match self {
            Packet::Wire(bytes) => bytes.len(),
            // The distributor encodes what leaves the process, so only an empty packet can come here.
            Packet::Rows(_) | Packet::Empty => 8,
        }
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let bytes: &[u8] = if let Packet::Wire(bytes) = self { bytes } else { &[0; 8] };
        writer.write_all(bytes).expect("timely writes into memory that it has measured with length_in_bytes");
    }
}

/// Sends each row where the edge's route says.
pub struct Router {
    route: Route,
    schema: SchemaRef,
    /// The workers of this process.
    local: std::ops::Range<usize>,
    encoder: wire::Encoder,
    fate: Arc<Fate>,
    cells: Arc<StepCells>,
    step: String,
}

impl Router {
    /// The router of an edge into step `step`, on one of the `local` workers.
    pub fn new(
        route: Route,
        schema: SchemaRef,
        local: std::ops::Range<usize>,
        fate: Arc<Fate>,
        cells: Arc<StepCells>,
        step: String,
    ) -> Self {
        Router { route, schema, local, encoder: wire::Encoder::default(), fate, cells, step }
    }

    fn shares(&mut self, packet: &mut Packet, workers: usize) -> Result<Vec<(usize, Packet)>> {
        let rows = packet.take(&self.schema)?;
        let shares = match &self.route {
            Route::Key(columns) => split_by_key(&rows, columns, workers)?,
            Route::Single | Route::Forward => vec![(0, rows)],
        };
        let packet = |(worker, rows): (usize, Batch)| match self.local.contains(&worker) {
            true => Ok((worker, Packet::Rows(rows))),
            false => {
                let packet = Packet::encode(&rows, &mut self.encoder)?;
                self.cells.exchanged(packet.length_in_bytes());
                Ok((worker, packet))
            }
        };
        shares.into_iter().map(packet).collect()
    }
}

impl Distributor<Packet> for Router {
    fn partition<T: Clone, P: Push<Message<T, Packet>>>(
        &mut self,
        packet: &mut Packet,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        match self.shares(packet, pushers.len()) {
            Ok(shares) => shares
                .into_iter()
                .for_each(|(worker, mut packet)| Message::push_at(&mut packet, stamp.clone(), &mut pushers[worker])),
            Err(error) => self.fate.fail(error.within(format!("edge into step \"{}\"", self.step))),
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Packet>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}
