//! What Kafka knows of a record besides key and value, gathered into columns.

use super::consume::{Record, TimestampType};
use crate::connector::MetadataSpec;
use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Builder, MapBuilder, MapFieldNames, StringArray, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use std::sync::Arc;

/// What a table over topics may have, see `docs/connectors.md`.
pub const METADATA: &[MetadataSpec] = &[
    MetadataSpec { name: "topic", data_type: || DataType::Utf8, writable: false, about: "the record's topic" },
    MetadataSpec { name: "partition", data_type: || DataType::Int32, writable: false, about: "its partition" },
    MetadataSpec { name: "offset", data_type: || DataType::Int64, writable: false, about: "its offset" },
    MetadataSpec {
        name: "timestamp",
        data_type: timestamp_type,
        writable: true,
        about: "its timestamp, in milliseconds; NULL for none, and written as NULL it is the moment of writing",
    },
    MetadataSpec {
        name: "timestamp-type",
        data_type: || DataType::Utf8,
        writable: false,
        about: "`CreateTime`, `LogAppendTime` or `NoTimestampType`",
    },
    MetadataSpec {
        name: "key",
        data_type: || DataType::Binary,
        writable: true,
        about: "its key as it is, NULL for none; written by tables without `key.fields` and `PRIMARY KEY`",
    },
    MetadataSpec {
        name: "headers",
        data_type: headers_type,
        writable: true,
        about: "its headers in order; a name may be there more than once",
    },
];

fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

pub(super) fn headers_type() -> DataType {
    let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)];
    let entries = Field::new("entries", DataType::Struct(Fields::from(entry)), false);
    DataType::Map(Arc::new(entries), false)
}

/// One kind of metadata on its way from records into a column.
pub(super) enum Column {
    Topic(String),
    Partition(i32),
    Offset(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampType(StringBuilder),
    Key(BinaryBuilder),
    Headers(Box<MapBuilder<StringBuilder, BinaryBuilder>>),
}

impl Column {
    /// An empty column for records of one partition; `name` is one of [`METADATA`].
    pub(super) fn new(name: &str, topic: &str, partition: i32) -> Self {
        match name {
            "topic" => Column::Topic(topic.to_owned()),
            "partition" => Column::Partition(partition),
            "offset" => Column::Offset(Int64Builder::new()),
            "timestamp" => Column::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(timestamp_type())),
            "timestamp-type" => Column::TimestampType(StringBuilder::new()),
            "key" => Column::Key(BinaryBuilder::new()),
            _ => {
                let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
                Column::Headers(Box::new(MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new())))
            }
        }
    }

    pub(super) fn push(&mut self, record: &Record) {
        match self {
            Column::Topic(_) | Column::Partition(_) => {}
            Column::Offset(column) => column.append_value(record.offset()),
            Column::Timestamp(column) => {
                column.append_option(record.timestamp().0.map(|millis| millis.saturating_mul(1000)));
            }
            Column::TimestampType(column) => column.append_value(match record.timestamp().1 {
                TimestampType::Create => "CreateTime",
                TimestampType::LogAppend => "LogAppendTime",
                TimestampType::None => "NoTimestampType",
            }),
            Column::Key(column) => column.append_option(record.key()),
            Column::Headers(column) => {
                for (name, value) in record.headers() {
                    column.keys().append_value(name.to_string_lossy());
                    column.values().append_option(value);
                }
                column.append(true).expect("each header has a key and a value");
            }
        }
    }

    /// The column of the `rows` records that were pushed.
    pub(super) fn finish(self, rows: usize) -> ArrayRef {
        match self {
            Column::Topic(topic) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(topic, rows))),
            Column::Partition(partition) => Arc::new(Int32Array::from_value(partition, rows)),
            Column::Offset(mut column) => Arc::new(column.finish()),
            Column::Timestamp(mut column) => Arc::new(column.finish()),
            Column::TimestampType(mut column) => Arc::new(column.finish()),
            Column::Key(mut column) => Arc::new(column.finish()),
            Column::Headers(mut column) => Arc::new(column.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_column_of_its_type() {
        for spec in METADATA {
            let column = Column::new(spec.name, "t", 0).finish(0);
            assert_eq!(*column.data_type(), (spec.data_type)(), "{}", spec.name);
        }
    }
}
