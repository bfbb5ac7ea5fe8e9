//! The unit of work: an Arrow record batch.
//!
//! Nothing between a source's decoding and a sink's encoding handles single rows. On an updating stream the last column
//! is the row's weight (see [`crate::plan::WEIGHT`]).

/// Some rows of one schema; 8,192 by preference.
pub type Batch = arrow::record_batch::RecordBatch;

/// The rows that a batch has by preference.
pub const BATCH_ROWS: usize = 8192;
