//! What a format costs by itself: cutting bytes into records, records into rows, rows into records. No pipeline around it.

use super::Case;
use super::data;
use super::meter::{Preparation, Spent};
use crate::batch::{BATCH_ROWS, Batch, from_arrow};
use crate::error::{Error, Result};
use crate::format::{Decode, Format, Records};
use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use std::hint::black_box;
use std::sync::Arc;

/// The formats that are measured.
const FORMATS: [&str; 3] = ["json", "csv", "raw"];

/// What is done with one.
const STEPS: [&str; 3] = ["cut", "decode", "encode"];

/// All that is measured: a format and a step.
pub fn variants() -> impl Iterator<Item = String> {
    FORMATS.iter().flat_map(|format| STEPS.iter().map(move |step| format!("{format} {step}")))
}

/// Does the case's step with its format.
pub fn run(case: &Case, preparation: Preparation) -> Result<Spent> {
    let unknown = || Error::internal(format!("{:?} is no format and step", case.variant));
    let (name, step) = case.variant.as_deref().and_then(|variant| variant.split_once(' ')).ok_or_else(unknown)?;
    let format = Format::named(name)?;
    let rows = rows(case, &format)?;
    let schema = rows[0].schema();
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    let mut encoder = format.encoder(&schema)?;
    match step {
        "encode" => {
            let meter = preparation.done()?;
            for batch in &rows {
                black_box(encoder.encode(batch)?);
            }
            meter.stop()
        }
        "decode" => {
            let records = rows.iter().map(|batch| encoder.encode(batch)).collect::<Result<Vec<_>>>()?;
            let mut decoder = format.decoder(&schema, &columns)?;
            let meter = preparation.done()?;
            for records in &records {
                black_box(decode(decoder.as_mut(), records)?);
            }
            meter.stop()
        }
        "cut" => {
            let mut texts = Vec::new();
            for batch in &rows {
                let mut text = Vec::new();
                for record in encoder.encode(batch)?.iter().flatten() {
                    text.extend_from_slice(record);
                    text.push(b'\n');
                }
                texts.push(text);
            }
            let framing = format.framing();
            let meter = preparation.done()?;
            for text in &texts {
                let mut records = Records::with_capacity(BATCH_ROWS, text.len());
                let mut rest = text.as_slice();
                while let Some(piece) = framing.first(rest, true) {
                    records.push(piece.record);
                    rest = &rest[piece.length..];
                }
                black_box(records.finish());
            }
            meter.stop()
        }
        _ => Err(unknown()),
    }
}

fn decode(decoder: &mut dyn Decode, records: &BinaryArray) -> Result<Batch> {
    decoder.decode(records).map_err(|bad| Error::internal(format!("record {}: {}", bad.index, bad.reason)))
}

/// Rows for `format`: six columns, or one with lines of about 160 bytes.
fn rows(case: &Case, format: &Format) -> Result<Vec<Batch>> {
    let records = data::json(case.rows, case.distinct, case.seed);
    if *format == Format::Raw {
        let schema = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, true)]));
        let line = |records: BinaryArray| {
            let lines: ArrayRef = Arc::new(StringArray::try_from_binary(records).map_err(from_arrow)?);
            Batch::try_new(Arc::clone(&schema), vec![lines]).map_err(from_arrow)
        };
        return records.into_iter().map(line).collect();
    }
    let schema = data::json_schema();
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    let mut decoder = Format::named("json")?.decoder(&schema, &columns)?;
    records.iter().map(|records| decode(decoder.as_mut(), records)).collect()
}
