//! The unit of work: an Arrow record batch.
//!
//! Nothing between a source's decoding and a sink's encoding handles single rows. On an updating stream the last column
//! is the row's weight (see [`crate::plan::WEIGHT`]).

pub mod changes;
pub mod keys;
pub mod wire;

use crate::error::{Error, Result};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatchOptions;

/// Some rows of one schema; [`BATCH_ROWS`] by preference.
pub type Batch = arrow::record_batch::RecordBatch;

/// The rows that a batch has by preference.
pub const BATCH_ROWS: usize = 8192;

/// A batch of `columns` and `rows` rows: the columns may be none, as in `count(*)`.
///
/// # Errors
/// [`ErrorKind::Data`](crate::error::ErrorKind::Data) for a NULL in a NOT NULL column, which input can cause.
pub fn batch_of(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<Batch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Batch::try_new_with_options(schema, columns, &options).map_err(from_arrow)
}

/// The rows of `batch` at `indices`, in that order.
pub fn take_rows(batch: &Batch, indices: Vec<u32>) -> Result<Batch> {
    if batch.num_columns() == 0 {
        return batch_of(batch.schema(), Vec::new(), indices.len());
    }
    take_record_batch(batch, &UInt32Array::from(indices)).map_err(from_arrow)
}

/// Turns Arrow's error into ours: what values cause is the input's fault, anything else a bug.
pub fn from_arrow(error: ArrowError) -> Error {
    match error {
        ArrowError::InvalidArgumentError(text) if text.contains("non-nullable") => Error::data(text),
        ArrowError::CastError(text) | ArrowError::ParseError(text) | ArrowError::ArithmeticOverflow(text) => {
            Error::data(text)
        }
        ArrowError::DivideByZero => Error::data("division by zero"),
        other => Error::internal(other.to_string()),
    }
}
