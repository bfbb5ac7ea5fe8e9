//! Bytes to batches and back. One file a format; a bad record is a value, not a surprise.
//!
//! Records are a [`BinaryArray`]: one value a record, null where there was none (a tombstone). A format sees many at a
//! time, because decoding one by one is what makes sources slow.
//!
//! ```text
//! byte stream ── Framing::cut ──▶ records ── Decode ──▶ batch          batch ── Encode ──▶ records
//! ```
//! A [`Format`] is checked settings; what it makes is bound to a schema and belongs to one worker.

pub mod avro;
pub mod avro_messages;
pub mod change;
pub mod csv;
pub mod debezium;
mod fit;
pub mod json;
mod lines;
mod messages;
mod objects;
pub mod parquet;
pub mod raw;

pub mod protobuf;
mod records;
pub mod schemas;
pub mod sift;

pub use fit::Missing;
pub use lines::Packing;
pub use objects::{FileFormat, FileStream, ReadAt, ReadRows, WriteFile};
pub use records::{Framing, RECORD_BYTES_MAX, Records};

use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result, nearest};
use arrow::array::BinaryArray;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use std::ops::Range;
use std::sync::Arc;

/// Reads records into rows of a fixed schema.
pub trait Decode: Send {
    /// Finds out what has to be known to read `records`, which are decoded next. May wait for an answer from outside.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if nobody answers. What is wrong with a record is left to [`Decode::decode`].
    fn prepare(&mut self, _records: &BinaryArray) -> Result<()> {
        Ok(())
    }
    /// One row for each record, in order.
    ///
    /// # Errors
    /// The first record that cannot be read, and why. The decoder can be used again afterwards.
    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord>;
    /// The row of a record that cannot be read whole, with NULL where a value does not fit its column; none if nothing can be read.
    fn decode_leniently(&mut self, _record: &[u8]) -> Option<Batch> {
        None
    }
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

/// The names that [`Format::named`] knows, the usual spelling first.
const NAMES: [&str; 7] = ["json", "csv", "raw", "text", "debezium-json", "avro", "protobuf"];

/// How records are written, with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// One column, which is the whole record.
    Raw,
    /// A JSON object a record.
    Json(json::Settings),
    /// Fields between delimiters.
    Csv(csv::Settings),
    /// A change of a row a record, in JSON.
    DebeziumJson(debezium::Settings),
    /// A value of Avro a record.
    Avro(avro_messages::Settings),
    /// A message of Protocol Buffers a record.
    Protobuf(protobuf::Settings),
}

impl Format {
    /// The format that is called `name`, with its default settings; `text` is `raw`.
    pub fn named(name: &str) -> Result<Format> {
        match name {
            "json" => Ok(Format::Json(json::Settings::default())),
            "csv" => Ok(Format::Csv(csv::Settings::default())),
            "raw" | "text" => Ok(Format::Raw),
            "protobuf" => Ok(Format::Protobuf(protobuf::Settings::default())),
            "avro" => Ok(Format::Avro(avro_messages::Settings::default())),
            "debezium-json" => Ok(Format::DebeziumJson(debezium::Settings::default())),
            _ => Err(Error::invalid(format!("unknown format '{name}'")).help(match nearest(name, NAMES) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("the formats are {}", NAMES.join(", ")),
            })),
        }
    }

    /// True if its records are [changes](change) of rows.
    pub fn changes(&self) -> bool {
        matches!(self, Format::DebeziumJson(_))
    }

    /// The same, for rows whose PRIMARY KEY is in the columns `key`.
    pub fn with_key(self, key: &[usize]) -> Format {
        match self {
            Format::DebeziumJson(settings) => {
                Format::DebeziumJson(debezium::Settings { key: key.to_vec(), ..settings })
            }
            other => other,
        }
    }

    /// The same, for the `part` of the records of a topic: `key` or `value`.
    pub fn with_topic(mut self, topic: &str, part: &'static str) -> Format {
        if let Format::Avro(avro_messages::Settings { registry: Some(registry), .. })
        | Format::Protobuf(protobuf::Settings { registry: Some(registry), .. }) = &mut self
        {
            registry.topic = (topic.to_owned(), part);
        }
        self
    }

    /// Reads the columns `columns` (by index, in order, perhaps none) of records that have those of `schema`: into these columns, or where
    /// records are changes into those of [`change::schema`].
    pub fn decoder(&self, schema: &SchemaRef, columns: &[usize]) -> Result<Box<dyn Decode>> {
        Ok(match self {
            Format::Raw => Box::new(raw::RawDecoder::new(schema, columns)?),
            Format::Json(_) => Box::new(json::JsonDecoder::new(schema, columns)?),
            Format::Csv(settings) => Box::new(csv::CsvDecoder::new(schema, columns, settings)?),
            Format::DebeziumJson(_) => Box::new(debezium::DebeziumDecoder::new(schema, columns)?),
            Format::Avro(settings) => Box::new(avro_messages::AvroDecoder::new(schema, columns, settings)?),
            Format::Protobuf(settings) => Box::new(protobuf::ProtobufDecoder::new(schema, columns, settings)?),
        })
    }

    /// Writes rows with the columns of `schema`, or changes of such rows; those of a batch are found by position, their names do not matter.
    pub fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn Encode>> {
        Ok(match self {
            Format::Raw => Box::new(raw::RawEncoder::new(schema)?),
            Format::Json(settings) => Box::new(json::JsonEncoder::new(schema, settings)?),
            Format::Csv(settings) => Box::new(csv::CsvEncoder::new(schema, settings)?),
            Format::DebeziumJson(settings) => Box::new(debezium::DebeziumEncoder::new(schema, settings)?),
            Format::Avro(settings) => Box::new(avro_messages::AvroEncoder::new(schema, settings)?),
            Format::Protobuf(settings) => Box::new(protobuf::ProtobufEncoder::new(schema, settings)?),
        })
    }

    /// How a stream of bytes is cut into records.
    pub fn framing(&self) -> Framing {
        match self {
            Format::Raw => Framing::Lines { skip_empty: false },
            Format::Json(_) | Format::DebeziumJson(_) => Framing::Lines { skip_empty: true },
            Format::Csv(settings) => Framing::Quoted { delimiter: settings.delimiter },
            // files have containers of their own
            Format::Avro(_) | Format::Protobuf(_) => Framing::Lines { skip_empty: false },
        }
    }

    /// What names of files end with, without the dot.
    pub fn extension(&self) -> &'static str {
        match self {
            Format::Raw => "txt",
            Format::Json(_) | Format::DebeziumJson(_) => "jsonl",
            Format::Csv(_) => "csv",
            Format::Avro(_) => "avro",
            Format::Protobuf(_) => "pb",
        }
    }
}

/// Decodes so many records by [`BATCH_ROWS`], what a decoder has room for.
fn in_batches(
    schema: &SchemaRef,
    records: usize,
    mut decode: impl FnMut(Range<usize>) -> Result<Batch, BadRecord>,
) -> Result<Batch, BadRecord> {
    match records {
        0 => Ok(Batch::new_empty(Arc::clone(schema))),
        1..=BATCH_ROWS => decode(0..records),
        _ => {
            let starts = (0..records).step_by(BATCH_ROWS);
            let parts =
                starts.map(|start| decode(start..(start + BATCH_ROWS).min(records))).collect::<Result<Vec<_>, _>>()?;
            Ok(concat_batches(schema, &parts).expect("the parts have one schema"))
        }
    }
}

/// Looks for the first bad record among `range`, of which it is known that there is one, with about two decodings of all.
fn first_bad(range: Range<usize>, mut decode: impl FnMut(Range<usize>) -> Result<(), String>) -> BadRecord {
    let Range { mut start, mut end } = range;
    while end - start > 1 {
        let middle = start + (end - start) / 2;
        match decode(start..middle) {
            Ok(()) => start = middle,
            Err(_) => end = middle,
        }
    }
    let reason = decode(start..end).err().unwrap_or_else(|| "the record cannot be read among its neighbours".into());
    BadRecord { index: start, reason }
}

/// What Arrow says, without the name of its error's kind.
fn reason(error: &ArrowError) -> String {
    match error {
        ArrowError::JsonError(text) | ArrowError::CsvError(text) | ArrowError::ParseError(text) => text.clone(),
        ArrowError::InvalidArgumentError(text) => text.clone(),
        other => other.to_string(),
    }
}
