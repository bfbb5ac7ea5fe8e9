//! Bytes to batches and back. One file a format; a bad record is a value, not a surprise.
//!
//! Records are a [`BinaryArray`]: one value a record, null where there was none (a tombstone). A format sees many at a
//! time, because decoding one by one is what makes sources slow.

use crate::batch::Batch;
use crate::error::Result;
use arrow::array::BinaryArray;

/// Reads records into rows of a fixed schema.
pub trait Decode: Send {
    /// One row for each record, in order.
    ///
    /// # Errors
    /// The first record that cannot be read, and why. The decoder can be used again afterwards.
    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord>;
}

/// Writes rows of a fixed schema into records.
pub trait Encode: Send {
    /// One record for each row, in order.
    fn encode(&mut self, rows: &Batch) -> Result<BinaryArray>;
}

/// A record that a format cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Which one, in the records given.
    pub index: usize,
    /// What is wrong with it, without its place: `expected a number in column "price", found "cheap"`.
    pub reason: String,
}
