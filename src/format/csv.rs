//! `csv`: fields between delimiters, columns found by position (RFC 4180: `"` quotes, `""` is a quote in quotes).
//!
//! An empty field is NULL, in text columns too, or what `csv.null` says is. Timestamps are read as RFC 3339 or SQL text and
//! written as SQL text, `2024-05-01 12:00:00.5`. There are no arrays or rows in CSV, and no BYTES.

use super::{BadRecord, Decode, Encode, RECORD_BYTES_MAX, first_bad, in_batches, reason, records};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result};
use arrow::array::{Array, BinaryArray, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::csv::reader::Decoder;
use arrow::csv::{ReaderBuilder, WriterBuilder};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use regex::Regex;
use std::ops::Range;
use std::sync::Arc;

/// How CSV is read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What stands between fields.
    pub delimiter: u8,
    /// What NULL is, read and written.
    pub null: String,
    /// A file's first record names the columns: passed over when read, written when written.
    pub header: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { delimiter: b',', null: String::new(), header: false }
    }
}

/// Reads records into rows.
pub struct CsvDecoder {
    table: SchemaRef,
    /// Indexes into `table` of the columns that are asked for.
    columns: Vec<usize>,
    schema: SchemaRef,
    delimiter: u8,
    null: Option<Regex>,
    /// Empty between calls; takes [`BATCH_ROWS`] records.
    decoder: Decoder,
}

impl CsvDecoder {
    /// For the columns `columns` of `schema`; records have all of them.
    pub fn new(schema: &SchemaRef, columns: &[usize], settings: &Settings) -> Result<Self> {
        check_types(schema)?;
        let null = match settings.null.as_str() {
            "" => None,
            text => Some(Regex::new(&format!("^{}$", regex::escape(text))).expect("an escaped text is a pattern")),
        };
        // NOT NULL is checked here, for a better message than Arrow's
        let nullable = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let mut decoder = CsvDecoder {
            table: Arc::new(Schema::new(nullable.collect::<Vec<_>>())),
            columns: columns.to_vec(),
            schema: Arc::new(schema.project(columns).map_err(|error| Error::internal(reason(&error)))?),
            delimiter: settings.delimiter,
            null,
            decoder: ReaderBuilder::new(Arc::clone(schema)).build_decoder(),
        };
        decoder.decoder = decoder.fresh(BATCH_ROWS);
        Ok(decoder)
    }

    fn fresh(&self, records: usize) -> Decoder {
        let mut builder = ReaderBuilder::new(Arc::clone(&self.table))
            .with_delimiter(self.delimiter)
            .with_projection(self.columns.clone())
            // room for one more shows a record that is two
            .with_batch_size(records + 1);
        if let Some(null) = &self.null {
            builder = builder.with_null_regex(null.clone());
        }
        builder.build_decoder()
    }

    fn decode_range(&mut self, records: &BinaryArray, range: Range<usize>) -> Result<Batch, BadRecord> {
        let mut end = range.end;
        match feed(&mut self.decoder, records, range.clone()) {
            Ok(()) => {
                if let Ok(batch) = self.flush() {
                    return Ok(batch);
                }
            }
            // Those before it may still hold values of the wrong type, which only a flush finds.
            Err(bad) => end = bad.index + 1,
        }
        let bad = first_bad(range.start..end, |part| {
            self.decoder = self.fresh(part.len());
            feed(&mut self.decoder, records, part).map_err(|bad| bad.reason).and_then(|()| self.flush()).map(drop)
        });
        // only now: room for a whole batch takes much longer to make than a record to read
        self.decoder = self.fresh(BATCH_ROWS);
        Err(bad)
    }

    fn flush(&mut self) -> Result<Batch, String> {
        let rows =
            self.decoder.flush().map_err(|error| self.explain(&reason(&error)))?.expect("at least one record was fed");
        for (field, column) in self.schema.fields().iter().zip(rows.columns()) {
            if !field.is_nullable() && column.null_count() > 0 {
                return Err(format!("column \"{}\": NULL, but it is NOT NULL", field.name()));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns().to_vec();
        Batch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|error| reason(&error))
    }

    /// What arrow-csv says, with the column's name instead of its number and without its count of lines.
    fn explain(&self, text: &str) -> String {
        let named =
            |number: &str| number.trim().parse::<usize>().ok().and_then(|column| self.table.fields().get(column));
        if let Some((what, rest)) = text.split_once(" for column ")
            && let Some((number, _)) = rest.split_once(" at line ")
            && let Some(field) = named(number)
        {
            return format!("column \"{}\": {}", field.name(), what.replacen("Error while parsing", "cannot read", 1));
        }
        if let Some(rest) = text.strip_prefix("Error parsing column ")
            && let Some((number, what)) = rest.split_once(" at line ")
            && let Some(field) = named(number)
        {
            let what = what.split_once(": ").map_or(what, |(_, what)| what).trim_start_matches("Parser error: ");
            let what = what.replacen("Error parsing", "cannot read", 1);
            return format!("column \"{}\": {what}", field.name());
        }
        if let Some((_, number)) =
            text.split_once("invalid UTF-8 data for line ").and_then(|(_, rest)| rest.split_once(" and field "))
            && let Some(field) =
                number.parse::<usize>().ok().and_then(|field| self.table.fields().get(field.checked_sub(1)?))
        {
            return format!("column \"{}\": not UTF-8", field.name());
        }
        text.to_owned()
    }
}

impl Decode for CsvDecoder {
    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord> {
        let schema = Arc::clone(&self.schema);
        in_batches(&schema, records.len(), |range| self.decode_range(records, range))
    }

    fn decode_leniently(&mut self, record: &[u8]) -> Option<Batch> {
        if self.schema.fields().iter().any(|field| !field.is_nullable()) {
            return None;
        }
        let text = |field: &FieldRef| Field::new(field.name(), DataType::Utf8, true);
        let texts: SchemaRef = Arc::new(Schema::new(self.table.fields().iter().map(text).collect::<Vec<_>>()));
        let mut builder = ReaderBuilder::new(texts)
            .with_delimiter(self.delimiter)
            .with_projection(self.columns.clone())
            .with_batch_size(2)
            .with_truncated_rows(true);
        if let Some(null) = &self.null {
            builder = builder.with_null_regex(null.clone());
        }
        let mut decoder = builder.build_decoder();
        let fed = feed(&mut decoder, &BinaryArray::from_iter_values([record]), 0..1);
        let read = fed.ok().and_then(|()| decoder.flush().ok()?);
        let columns = self.schema.fields().iter().enumerate().map(|(index, field)| {
            let text = read.as_ref().map(|row| row.column(index));
            let value = text.and_then(|text| cast(text, field.data_type()).ok());
            value.unwrap_or_else(|| new_null_array(field.data_type(), 1))
        });
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        Batch::try_new_with_options(Arc::clone(&self.schema), columns.collect(), &options).ok()
    }
}

/// Gives these records to the decoder, which must take each as exactly one row.
fn feed(decoder: &mut Decoder, records: &BinaryArray, range: Range<usize>) -> Result<(), BadRecord> {
    for index in range {
        let bad = |reason: String| BadRecord { index, reason };
        if records.is_null(index) {
            return Err(bad("no value".into()));
        }
        let record = records.value(index);
        if record.len() > RECORD_BYTES_MAX {
            return Err(bad(format!("the record has {} bytes, more than {RECORD_BYTES_MAX}", record.len())));
        }
        let before = decoder.capacity();
        let mut consumed = 0;
        // The decoder keeps a record open until it has seen its newline.
        for part in [record, b"\n"] {
            consumed += decoder.decode(part).map_err(|error| bad(fields_text(&reason(&error))))?;
        }
        match before - decoder.capacity() {
            1 if consumed == record.len() + 1 => {}
            0 if record.is_empty() => return Err(bad("the record is empty".into())),
            0 => return Err(bad("a quote is not closed".into())),
            _ => return Err(bad("more than one line in the record".into())),
        }
    }
    Ok(())
}

/// `incorrect number of fields for line 1, expected 3 got 2` without its count of lines.
fn fields_text(text: &str) -> String {
    match text.split_once(", expected ").and_then(|(_, rest)| rest.split_once(" got ")) {
        Some((expected, found)) => format!("expected {expected} fields, found {found}"),
        None => text.to_owned(),
    }
}

/// Writes rows as records.
pub struct CsvEncoder {
    settings: Settings,
}

impl CsvEncoder {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, settings: &Settings) -> Result<Self> {
        check_types(schema)?;
        Ok(CsvEncoder { settings: settings.clone() })
    }
}

impl Encode for CsvEncoder {
    fn encode(&mut self, rows: &Batch) -> Result<BinaryArray> {
        let mut lines = Vec::new();
        let mut writer = WriterBuilder::new()
            .with_header(false)
            .with_delimiter(self.settings.delimiter)
            .with_null(self.settings.null.clone())
            .with_timestamp_format("%Y-%m-%d %H:%M:%S%.f".into())
            .with_timestamp_tz_format("%Y-%m-%d %H:%M:%S%.f%:z".into())
            .build(&mut lines);
        writer
            .write(rows)
            .map_err(|error| Error::invalid(format!("format 'csv' cannot write a row: {}", reason(&error))))?;
        drop(writer);
        records::check_size(lines.len())?;
        let framing = super::Framing::Quoted { delimiter: self.settings.delimiter };
        let mut records = records::Records::with_capacity(rows.num_rows(), lines.len());
        let mut rest = lines.as_slice();
        while let Some(piece) = framing.first(rest, true) {
            records.push(piece.record);
            rest = &rest[piece.length..];
        }
        Ok(records.finish())
    }
}

/// The line that names the columns.
pub fn header(schema: &Schema, settings: &Settings) -> Vec<u8> {
    let mut line = Vec::new();
    let mut writer = WriterBuilder::new().with_delimiter(settings.delimiter).build(&mut line);
    writer.write(&Batch::new_empty(Arc::new(schema.clone()))).expect("a header can be written to memory");
    drop(writer);
    line
}

fn check_types(schema: &Schema) -> Result<()> {
    let unfit = |data_type: &DataType| data_type.is_nested() || matches!(data_type, DataType::Binary);
    match schema.fields().iter().find(|field| unfit(field.data_type())) {
        Some(field) => {
            let what = format!("format 'csv' cannot carry column \"{}\" of type {}", field.name(), field.data_type());
            Err(Error::invalid(what).help("use format 'json'"))
        }
        None => Ok(()),
    }
}
