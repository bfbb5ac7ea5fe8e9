//! `json`: an object a record, columns found by name.
//!
//! Reading: a field that is missing or null is NULL, unknown fields are passed over, of a repeated field the last one counts.
//! A timestamp is RFC 3339 (`2024-05-01T12:00:00Z`), SQL text (`2024-05-01 12:00:00.5`) or a number since 1970 in the
//! column's own unit: microseconds for TIMESTAMP(6), milliseconds for TIMESTAMP(3). BYTES are hexadecimal digits. Numbers
//! may come as strings. A record holds exactly one object, nested at most [`DEPTH_MAX`] deep.
//!
//! Writing: one object a row, without a newline in it. NULL is written (`"a":null`) as Flink does, unless
//! `json.encode.nulls` says no. Timestamps are written as Flink does, `2024-05-01 12:00:00.5`, or with
//! `json.timestamp-format.standard` = `ISO-8601` as `2024-05-01T12:00:00.5`; with a time zone they end in its offset.

use super::{BadRecord, Decode, Encode, RECORD_BYTES_MAX, first_bad, in_batches, reason};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, BinaryArray, StructArray};
use arrow::datatypes::{Field, Fields, Schema, SchemaRef};
use arrow::json::reader::Decoder;
use arrow::json::writer::make_encoder;
use arrow::json::{EncoderOptions, ReaderBuilder};
use memchr::memchr2_iter;
use std::ops::Range;
use std::sync::Arc;

/// Arrays and objects in each other beyond this are refused: what reads and prints them is recursive.
pub const DEPTH_MAX: usize = 512;

/// How JSON is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// NULL is written rather than left out.
    pub nulls: bool,
    /// Timestamps have a `T` between date and time rather than a space.
    pub iso_timestamps: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { nulls: true, iso_timestamps: false }
    }
}

/// Reads objects into rows.
pub struct JsonDecoder {
    schema: SchemaRef,
    /// Empty between calls; takes [`BATCH_ROWS`] records.
    decoder: Decoder,
}

impl JsonDecoder {
    /// For the columns `columns` of `schema`.
    pub fn new(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        let schema = Arc::new(schema.project(columns).map_err(|error| Error::internal(reason(&error)))?);
        let decoder = build(&schema, BATCH_ROWS).map_err(|unfit| Error::invalid(format!("format 'json': {unfit}")))?;
        Ok(JsonDecoder { schema, decoder })
    }

    fn decode_range(&mut self, records: &BinaryArray, range: Range<usize>) -> Result<Batch, BadRecord> {
        let mut end = range.end;
        match feed(&mut self.decoder, &self.schema, records, range.clone()) {
            Ok(()) => {
                if let Ok(batch) = self.decoder.flush() {
                    return Ok(batch.expect("at least one record was fed"));
                }
            }
            // Those before it may still hold values of the wrong type, which only a flush finds.
            Err(bad) => end = bad.index + 1,
        }
        self.decoder = self.fresh(BATCH_ROWS);
        Err(first_bad(range.start..end, |part| {
            let mut decoder = self.fresh(part.len());
            feed(&mut decoder, &self.schema, records, part).map_err(|bad| bad.reason)?;
            decoder.flush().map(drop).map_err(|error| explain(&error))
        }))
    }

    fn fresh(&self, records: usize) -> Decoder {
        build(&self.schema, records).expect("the schema was accepted before")
    }
}

impl Decode for JsonDecoder {
    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord> {
        let schema = Arc::clone(&self.schema);
        in_batches(&schema, records.len(), |range| self.decode_range(records, range))
    }

    fn decode_leniently(&mut self, record: &[u8]) -> Option<Batch> {
        let builder = ReaderBuilder::new(Arc::clone(&self.schema)).with_batch_size(1).with_ignore_type_conflicts(true);
        let mut decoder = builder.build_decoder().ok()?;
        feed(&mut decoder, &self.schema, &BinaryArray::from_iter_values([record]), 0..1).ok()?;
        decoder.flush().ok()?
    }
}

fn build(schema: &SchemaRef, records: usize) -> Result<Decoder, String> {
    let builder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(records);
    builder.build_decoder().map_err(|error| reason(&error))
}

/// Gives these records to the decoder, which must take each as exactly one row.
fn feed(decoder: &mut Decoder, schema: &Schema, records: &BinaryArray, range: Range<usize>) -> Result<(), BadRecord> {
    for index in range {
        if records.is_null(index) {
            // A tombstone is a row without values.
            if let Some(field) = schema.fields().iter().find(|field| !field.is_nullable()) {
                return Err(BadRecord {
                    index,
                    reason: format!("no value, but column \"{}\" is NOT NULL", field.name()),
                });
            }
            decoder.decode(b"{}").expect("an empty object is JSON");
            continue;
        }
        let record = records.value(index);
        let bad = |reason: String| BadRecord { index, reason };
        check_size(record).map_err(bad)?;
        let before = decoder.len();
        let consumed = decoder.decode(record).map_err(|error| bad(explain(&error)))?;
        if consumed != record.len() || decoder.len() > before + 1 {
            return Err(bad("more than one value in the record".into()));
        }
        if decoder.len() == before {
            return Err(bad("the record is empty".into()));
        }
        if decoder.has_partial_record() {
            return Err(bad(match record.trim_ascii_start().first() {
                Some(b'{') => "the record ends in the middle of its object".into(),
                _ => "not an object".into(),
            }));
        }
    }
    Ok(())
}

fn check_size(record: &[u8]) -> Result<(), String> {
    if record.len() > RECORD_BYTES_MAX {
        return Err(format!("the record has {} bytes, more than {RECORD_BYTES_MAX}", record.len()));
    }
    // A short record cannot be too deep, nor one with few brackets: counting them is cheap, following strings is not.
    let opening = || record.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if record.len() > DEPTH_MAX && opening() > DEPTH_MAX && depth(record) > DEPTH_MAX {
        return Err(format!("arrays and objects are nested more than {DEPTH_MAX} deep"));
    }
    Ok(())
}

/// How deep arrays and objects lie in each other.
fn depth(record: &[u8]) -> usize {
    let (mut now, mut most, mut at) = (0_usize, 0, 0);
    while let Some(byte) = record.get(at) {
        match byte {
            b'{' | b'[' => now += 1,
            b'}' | b']' => now = now.saturating_sub(1),
            b'"' => at = end_of_string(record, at + 1),
            _ => {}
        }
        most = most.max(now);
        at += 1;
    }
    most
}

/// Where the string that starts at `from` has its closing quote, or the record its end.
fn end_of_string(record: &[u8], from: usize) -> usize {
    let mut escaped = None;
    for found in memchr2_iter(b'"', b'\\', &record[from..]).map(|found| from + found) {
        match record[found] {
            _ if escaped == Some(found) => {}
            b'\\' => escaped = Some(found + 1),
            _ => return found,
        }
    }
    record.len()
}

/// What arrow-json says, in terms of columns.
fn explain(error: &arrow::error::ArrowError) -> String {
    let mut text = reason(error);
    let mut path = Vec::new();
    while let Some((field, rest)) = text.strip_prefix("whilst decoding field '").and_then(|rest| rest.split_once("': "))
    {
        path.push(field.to_owned());
        text = rest.to_owned();
    }
    // `Encountered unmasked nulls in non-nullable StructArray child: Field { "n": Int64 }`
    if let Some((_, field)) = text.split_once("non-nullable StructArray child: Field { \"")
        && let Some((name, _)) = field.split_once("\": ")
    {
        path.push(name.to_owned());
        text = "NULL, but it is NOT NULL".into();
    }
    text = text
        .replacen("Parser error: ", "", 1)
        .replacen("Encountered", "found", 1)
        .replacen("whilst", "while", 1)
        .replacen(" got ", ", found ", 1);
    // A record may be long, a message not.
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    match path.is_empty() {
        true => text,
        false => format!("column \"{}\": {text}", path.join(".")),
    }
}

/// Writes rows as objects.
pub struct JsonEncoder {
    fields: Fields,
    options: EncoderOptions,
}

impl JsonEncoder {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, settings: &Settings) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let mut options = EncoderOptions::default().with_explicit_nulls(settings.nulls);
        if !settings.iso_timestamps {
            options = options
                .with_timestamp_format("%Y-%m-%d %H:%M:%S%.f".into())
                .with_timestamp_tz_format("%Y-%m-%d %H:%M:%S%.f%:z".into());
        }
        let encoder = JsonEncoder { fields, options };
        encoder.objects(
            &Batch::new_empty(Arc::new(Schema::new(encoder.fields.clone()))),
            &mut Vec::new(),
            &mut Vec::new(),
        )?;
        Ok(encoder)
    }

    fn objects(&self, rows: &Batch, bytes: &mut Vec<u8>, ends: &mut Vec<usize>) -> Result<()> {
        let unfit = |error| Error::invalid(format!("format 'json' cannot write these columns: {}", reason(&error)));
        let columns: Vec<ArrayRef> = rows.columns()[..self.fields.len()].to_vec();
        let objects =
            StructArray::try_new_with_length(self.fields.clone(), columns, None, rows.num_rows()).map_err(unfit)?;
        let root = Arc::new(Field::new("row", objects.data_type().clone(), false));
        let mut encoder = make_encoder(&root, &objects, &self.options).map_err(unfit)?;
        for row in 0..rows.num_rows() {
            encoder.encode(row, bytes);
            ends.push(bytes.len());
        }
        Ok(())
    }
}

impl Encode for JsonEncoder {
    fn encode(&mut self, rows: &Batch) -> Result<BinaryArray> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(rows.num_rows()));
        self.objects(rows, &mut bytes, &mut ends)?;
        super::records::array(bytes, &ends)
    }
}
