//! What a format costs by itself: bytes into records, records into rows, rows into records. No pipeline around it, and no disk.

use super::Case;
use super::data;
use super::meter::{Preparation, Spent};
use crate::batch::{BATCH_ROWS, Batch, from_arrow};
use crate::error::{Error, Result};
use crate::format::{Decode, FileFormat, Format, Missing, Packing, ReadAt, ReadRows, Records, avro, parquet};
use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use std::hint::black_box;
use std::io;
use std::sync::Arc;

/// All that is measured: a format and a step. Files of rows are not cut into records.
const VARIANTS: [&str; 13] = [
    "json cut",
    "json decode",
    "json encode",
    "csv cut",
    "csv decode",
    "csv encode",
    "raw cut",
    "raw decode",
    "raw encode",
    "avro decode",
    "avro encode",
    "parquet decode",
    "parquet encode",
];

/// All that is measured.
pub fn variants() -> impl Iterator<Item = String> {
    VARIANTS.into_iter().map(str::to_owned)
}

/// Does the case's step with its format.
pub fn run(case: &Case, preparation: Preparation) -> Result<Spent> {
    let unknown = || Error::internal(format!("{:?} is no format and step", case.variant));
    let (name, step) = case.variant.as_deref().and_then(|variant| variant.split_once(' ')).ok_or_else(unknown)?;
    let format = match name {
        "avro" => {
            return file(case, &FileFormat::Avro(avro::Settings { codec: avro::Codec::Snappy }), step, preparation);
        }
        "parquet" => {
            let settings = parquet::Settings { compression: parquet::Compression::Zstd, group_bytes: 64 << 20 };
            return file(case, &FileFormat::Parquet(settings), step, preparation);
        }
        name => Format::named(name)?,
    };
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

/// The same for a file of rows, which is kept in memory.
fn file(case: &Case, format: &FileFormat, step: &str, preparation: Preparation) -> Result<Spent> {
    let rows = rows(case, &Format::named("json")?)?;
    let schema = rows[0].schema();
    let write = || -> Result<Vec<u8>> {
        let mut writer = format.writer(&schema, Packing::None)?;
        let mut bytes = Vec::new();
        for batch in &rows {
            writer.write(batch)?;
            bytes.append(&mut writer.take()?);
        }
        bytes.append(&mut writer.finish()?);
        Ok(bytes)
    };
    if step == "encode" {
        let meter = preparation.done()?;
        black_box(write()?);
        return meter.stop();
    }
    let bytes: Arc<dyn ReadAt> = Arc::new(InMemory(write()?));
    let meter = preparation.done()?;
    let size = bytes.size();
    let mut reader: Box<dyn ReadRows> = match format {
        FileFormat::Avro(_) => Box::new(avro::AvroReader::new(bytes, 0..size, &schema, Missing::Refused)?),
        _ => {
            let footer = parquet::Footer::read(&bytes)?;
            let groups = 0..footer.group_bytes().len();
            Box::new(parquet::ParquetReader::new(bytes, footer, groups, &schema, Missing::Refused)?)
        }
    };
    let mut read = 0;
    while let Some(batch) = reader.next()? {
        read += black_box(batch).num_rows();
    }
    match read == rows.iter().map(Batch::num_rows).sum::<usize>() {
        true => meter.stop(),
        false => Err(Error::internal(format!("of the rows that were written, {read} were read"))),
    }
}

/// A file without a disk.
struct InMemory(Vec<u8>);

impl ReadAt for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        buffer.copy_from_slice(rest.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
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
