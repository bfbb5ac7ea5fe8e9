//! A batch as bytes between workers: one Arrow IPC record-batch message without the schema, which both sides know.
//!
//! ```text
//! u32 LE length of the message, padded │ u32 zero │ message (flatbuffer), padded to 8 │ body
//! ```
//! Decoding copies nothing where the bytes are aligned to 8.
//!
//! These bytes come from peers only: the data connections that carry them are made after both sides have proven the mesh's secret
//! (see [`runtime::mesh`](crate::runtime::mesh)), and a stranger is heard no further than that. Should they be wrong
//! all the same, decoding them is an error.

use super::{Batch, batch_of, from_arrow};
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, AsArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow::ipc::{MetadataVersion, root_as_message};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Encodes batches, reusing its buffers.
#[derive(Default)]
pub struct Encoder {
    context: IpcWriteContext,
    options: IpcWriteOptions,
}

impl Encoder {
    /// The wire form of `batch`. Slices are cut to their rows.
    ///
    /// # Errors
    /// Only dictionary columns cannot travel; no front end makes them.
    pub fn encode(&mut self, batch: &Batch) -> Result<Vec<u8>> {
        let batch = compact_views(batch)?;
        let mut tracker = DictionaryTracker::new(false);
        let (dictionaries, encoded) = IpcDataGenerator::default()
            .encode(&batch, &mut tracker, &self.options, &mut self.context)
            .map_err(from_arrow)?;
        if !dictionaries.is_empty() {
            return Err(Error::internal("a dictionary column cannot travel between workers"));
        }
        let length = encoded.ipc_message.len().next_multiple_of(8);
        let mut bytes = Vec::with_capacity(8 + length + encoded.arrow_data.len());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&encoded.ipc_message);
        bytes.resize(8 + length, 0);
        bytes.extend_from_slice(&encoded.arrow_data);
        Ok(bytes)
    }
}

/// IPC sends the buffers behind views whole, also for a slice that shows little of them: views are given buffers of their own.
pub fn compact_views(batch: &Batch) -> Result<Batch> {
    batch_of(batch.schema(), batch.columns().iter().map(compact).collect(), batch.num_rows())
}

/// The same column, which holds no bytes of views but those that it shows.
pub fn compact(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View if !column.as_string_view().data_buffers().is_empty() => {
            Arc::new(column.as_string_view().gc())
        }
        DataType::BinaryView if !column.as_binary_view().data_buffers().is_empty() => {
            Arc::new(column.as_binary_view().gc())
        }
        _ => Arc::clone(column),
    }
}

/// The batch of `schema` that `bytes` holds.
pub fn decode(bytes: Buffer, schema: SchemaRef) -> Result<Batch> {
    let damaged = |what: &str| Error::internal(format!("a batch from another worker cannot be read: {what}"));
    let length = bytes.get(..4).ok_or_else(|| damaged("it is too short"))?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken")) as usize;
    let message = bytes.get(8..8 + length).ok_or_else(|| damaged("it is cut off"))?;
    let message = root_as_message(message).map_err(|error| damaged(&error.to_string()))?;
    let header = message.header_as_record_batch().ok_or_else(|| damaged("it is no record batch"))?;
    let body = bytes.slice(8 + length);
    if usize::try_from(message.bodyLength()).is_ok_and(|length| length > body.len()) {
        return Err(damaged("it is cut off"));
    }
    // arrow's decoder looks at most that is wrong, and panics at the rest
    let read = || read_record_batch(&body, header, schema, &HashMap::new(), None, &MetadataVersion::V5);
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| damaged(&error.to_string())),
        Err(_) => Err(damaged("its buffers are not where it says")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray, StringViewArray};

    #[test]
    fn a_slice_travels_without_the_rest_of_its_batch() {
        let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..10_000).map(|n| format!("word {n}"))));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..10_000).map(|n| (n % 3 > 0).then_some(n))));
        let batch = Batch::try_from_iter([("word", words), ("n", numbers)]).unwrap();
        let slice = batch.slice(5000, 10);
        let bytes = Encoder::default().encode(&slice).unwrap();
        assert!(bytes.len() < 1500, "{} bytes", bytes.len());
        assert_eq!(decode(Buffer::from(bytes), batch.schema()).unwrap(), slice);
    }

    #[test]
    fn a_slice_of_views_travels_without_the_buffers_of_the_rest() {
        let words: ArrayRef =
            Arc::new(StringViewArray::from_iter_values((0..10_000).map(|n| format!("a rather long word {n}"))));
        let batch = Batch::try_from_iter([("word", words)]).unwrap();
        let slice = batch.slice(5000, 10);
        let bytes = Encoder::default().encode(&slice).unwrap();
        assert!(bytes.len() < 1500, "{} bytes", bytes.len());
        assert_eq!(decode(Buffer::from(bytes), batch.schema()).unwrap(), slice);
    }

    #[test]
    fn cut_off_bytes_are_an_error() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let batch = Batch::try_from_iter([("n", numbers)]).unwrap();
        let bytes = Encoder::default().encode(&batch).unwrap();
        for length in [0, 3, 8, 40, bytes.len() - 64] {
            assert!(decode(Buffer::from(bytes[..length].to_vec()), batch.schema()).is_err(), "{length} bytes");
        }
    }
}
