//! Final records: what a sink that is written exactly once keeps with its checkpoints, and how rows become such.
//!
//! ```text
//! rows ─ layout ─▶ keys, values, headers ─ partitioner ─▶ partition, grouped by it ─▶ records
//! ```
//! The partition is chosen here, so that a record which is published again goes where it went. What the broker would refuse
//! is refused here, too: once a record is in a checkpoint it has to be published.

use super::metadata::headers_type;
use super::partitioner::{Spread, grouped};
use super::record::{RowWriter, headers_at};
use crate::batch::{Batch, from_arrow};
use crate::connector::Stager;
use crate::error::{Error, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, MapArray, UInt32Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use rdkafka::message::OwnedHeaders;
use std::sync::{Arc, LazyLock};

/// What a record may take on the wire beside key, value and headers, and each header beside its name and value; as librdkafka reckons.
const RECORD_BYTES: usize = 36;
const HEADER_BYTES: usize = 10;

/// What a batch of records has before them.
const BATCH_BYTES: usize = 61;

/// The columns of final records. A timestamp is in milliseconds; without one a record gets the moment of its publication.
pub(crate) fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("partition", DataType::Int32, false),
            Field::new("key", DataType::Binary, true),
            Field::new("value", DataType::Binary, true),
            Field::new("timestamp", DataType::Int64, true),
            Field::new("headers", headers_type(), true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

/// How large a record may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// What the client sends at most.
    pub(super) client: usize,
    /// What the topic takes at most, if it says so: the size of a batch, which has at least one record.
    pub(super) topic: Option<usize>,
}

impl Limits {
    /// Refuses a record of this size.
    fn check(self, bytes: usize) -> Result<()> {
        let refuse = |who: &str, most: usize| {
            let error = format!("a record of {bytes} bytes is too large: {who} {most} at most");
            Err(Error::data(error).help("raise 'properties.message.max.bytes' here and max.message.bytes of the topic"))
        };
        match self.topic {
            _ if bytes > self.client => refuse("this client sends", self.client),
            Some(most) if bytes + BATCH_BYTES > most => refuse("the topic takes", most.saturating_sub(BATCH_BYTES)),
            _ => Ok(()),
        }
    }
}

/// Makes records of the rows of one worker.
pub(super) struct TopicStager {
    pub(super) topic: String,
    pub(super) writer: RowWriter,
    pub(super) spread: Spread,
    pub(super) partitions: usize,
    pub(super) limits: Limits,
}

impl TopicStager {
    fn records(&mut self, rows: &Batch) -> Result<Batch> {
        let records = self.writer.records(rows)?;
        let partition_of_row = self.spread.partitions_of(records.count(), records.keys.as_ref());
        let order = UInt32Array::from(grouped(&partition_of_row, self.partitions));
        let rows = records.count();
        let partitions = Int32Array::from_iter_values(partition_of_row.into_iter().map(u32::cast_signed));
        let keys = records.keys.clone().unwrap_or_else(|| BinaryArray::new_null(rows));
        let timestamps: Int64Array = (0..rows).map(|row| records.timestamp(row)).collect();
        let headers = match records.headers {
            Some(headers) => Arc::new(headers) as ArrayRef,
            None => new_null_array(&headers_type(), rows),
        };
        let columns: [ArrayRef; 5] =
            [Arc::new(partitions), Arc::new(keys), Arc::new(records.values), Arc::new(timestamps), headers];
        let columns = columns.iter().map(|column| take(column, &order, None)).collect::<Result<_, _>>();
        Batch::try_new(schema(), columns.map_err(from_arrow)?).map_err(from_arrow)
    }
}

impl Stager for TopicStager {
    fn stage(&mut self, rows: Batch) -> Result<Batch> {
        let limits = self.limits;
        let checked = self.records(&rows).and_then(|batch| {
            let staged = Staged::of(&batch)?;
            (0..staged.rows()).try_for_each(|row| limits.check(staged.bytes(row)))?;
            Ok(batch)
        });
        checked.map_err(|error| error.within(format!("topic \"{}\"", self.topic)))
    }
}

/// Records by their parts.
pub(crate) struct Staged<'a> {
    partitions: &'a Int32Array,
    keys: &'a BinaryArray,
    values: &'a BinaryArray,
    timestamps: &'a Int64Array,
    headers: &'a MapArray,
}

impl<'a> Staged<'a> {
    /// Those of `batch`, which came from a [`TopicStager`], perhaps by way of a checkpoint.
    pub(crate) fn of(batch: &'a Batch) -> Result<Self> {
        let schema = schema();
        let fits = batch.num_columns() == schema.fields().len()
            && batch
                .columns()
                .iter()
                .zip(schema.fields())
                .all(|(column, field)| column.data_type() == field.data_type());
        if !fits {
            return Err(Error::internal(format!("these are no final records of a topic: {:?}", batch.schema())));
        }
        Ok(Staged {
            partitions: batch.column(0).as_primitive::<Int32Type>(),
            keys: batch.column(1).as_binary(),
            values: batch.column(2).as_binary(),
            timestamps: batch.column(3).as_primitive::<Int64Type>(),
            headers: batch.column(4).as_map(),
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.partitions.len()
    }

    pub(crate) fn partition(&self, row: usize) -> i32 {
        self.partitions.value(row)
    }

    pub(crate) fn key(&self, row: usize) -> Option<&'a [u8]> {
        self.keys.is_valid(row).then(|| self.keys.value(row))
    }

    pub(crate) fn value(&self, row: usize) -> Option<&'a [u8]> {
        self.values.is_valid(row).then(|| self.values.value(row))
    }

    /// Milliseconds since 1970.
    pub(crate) fn timestamp(&self, row: usize) -> Option<i64> {
        self.timestamps.is_valid(row).then(|| self.timestamps.value(row))
    }

    pub(crate) fn headers(&self, row: usize) -> Option<OwnedHeaders> {
        headers_at(self.headers, row)
    }

    /// What the record takes on the wire at most.
    pub(crate) fn bytes(&self, row: usize) -> usize {
        let parts = self.key(row).map_or(0, <[u8]>::len) + self.value(row).map_or(0, <[u8]>::len);
        RECORD_BYTES + parts + self.header_bytes(row)
    }

    fn header_bytes(&self, row: usize) -> usize {
        if self.headers.is_null(row) {
            return 0;
        }
        let (names, values) = (self.headers.keys().as_string::<i32>(), self.headers.values().as_binary::<i32>());
        let entries = self.headers.value_offsets();
        let (first, end) = (entries[row] as usize, entries[row + 1] as usize);
        let span = |offsets: &[i32]| (offsets[end] - offsets[first]) as usize;
        span(names.value_offsets()) + span(values.value_offsets()) + HEADER_BYTES * (end - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_refused_by_whom_it_is_too_large_for() {
        let limits = Limits { client: 1000, topic: Some(500) };
        assert!(limits.check(439).is_ok());
        assert!(limits.check(440).unwrap_err().to_string().ends_with("too large: the topic takes 439 at most"));
        assert!(limits.check(1001).unwrap_err().to_string().ends_with("too large: this client sends 1000 at most"));
        assert!(Limits { client: 1000, topic: None }.check(1000).is_ok());
    }

    #[test]
    fn what_are_no_records_is_refused() {
        let values: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let batch = Batch::try_from_iter([("partition", values)]).unwrap();
        assert!(Staged::of(&batch).is_err());
        let none = Batch::new_empty(schema());
        assert_eq!(Staged::of(&none).unwrap().rows(), 0);
    }
}
