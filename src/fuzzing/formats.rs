//! What sources read.

use super::{Target, rows, unsealed};
use crate::connector::file::handle::{Handle, OpenFiles};
use crate::connector::file::lines::Taken;
use crate::connector::file::stream::Stream;
use crate::format::sift::{Decoding, OnBad, sift};
use crate::format::{
    FileFormat, Format, Missing, Packing, ReadAt, ReadRows, Records, avro, csv, debezium, json, parquet,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::fs;
use std::io;
use std::sync::Arc;

/// A stream of bytes, cut into records and read as JSON.
pub const JSON: Target =
    Target { name: "json", seeds: || records(&json()), reseal: unsealed, run: |bytes| decode(&json(), bytes) };

/// The same as CSV.
pub const CSV: Target =
    Target { name: "csv", seeds: || records(&csv()), reseal: unsealed, run: |bytes| decode(&csv(), bytes) };

/// The same as plain lines.
pub const RAW: Target =
    Target { name: "raw", seeds: || records(&Format::Raw), reseal: unsealed, run: |bytes| decode(&Format::Raw, bytes) };

/// The same as changes.
pub const DEBEZIUM: Target = Target {
    name: "debezium",
    seeds: || records(&debezium()),
    reseal: unsealed,
    run: |bytes| decode(&debezium(), bytes),
};

/// Avro's object container files.
pub const AVRO: Target = Target { name: "avro", seeds: avro_files, reseal: unsealed, run: avro };

/// Parquet files.
pub const PARQUET: Target = Target { name: "parquet", seeds: parquet_files, reseal: unsealed, run: parquet };

/// Compressed streams of lines: the first byte says how.
pub const PACKED: Target = Target { name: "packed", seeds: packed_files, reseal: unsealed, run: packed };

fn json() -> Format {
    Format::Json(json::Settings::default())
}

fn csv() -> Format {
    Format::Csv(csv::Settings { delimiter: b';', ..csv::Settings::default() })
}

fn debezium() -> Format {
    Format::DebeziumJson(debezium::Settings::default())
}

/// The columns that `format` is asked for.
fn schema(format: &Format) -> SchemaRef {
    match format {
        Format::Raw => Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, true)])),
        Format::Csv(_) => Arc::new(rows::schema(false).project(&[0, 1, 2, 3, 4, 5, 6, 8]).expect("there are nine")),
        Format::Json(_) | Format::DebeziumJson(_) | Format::Avro(_) | Format::Protobuf(_) => {
            Arc::new(rows::schema(true).project(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).expect("there are more"))
        }
    }
}

fn written(format: &FileFormat, schema: &SchemaRef, packing: Packing) -> Vec<u8> {
    let mut writer = format.writer(schema, packing).expect("the format has these types");
    for salt in 0..2 {
        writer.write(&rows::batch(schema, 3, salt)).expect("memory takes everything");
    }
    let mut bytes = writer.take().expect("memory takes everything");
    bytes.extend(writer.finish().expect("memory takes everything"));
    bytes
}

fn records(format: &Format) -> Vec<Vec<u8>> {
    let mut all = vec![written(&FileFormat::Records(format.clone()), &schema(format), Packing::None)];
    if matches!(format, Format::Json(_)) {
        all.push(format!("{{\"n\":7,\"other\":{}{}}}\n", "[".repeat(500), "]".repeat(500)).into_bytes());
        all.push(
            b"{\"n\":\"1e3\",\"ts\":\"9999-12-31T23:59:59.999999999+23:59\",\"word\":\"\\ud83d\\ude00\"}\n".to_vec(),
        );
    }
    if format.changes() {
        let enveloped = r#"{"schema":{},"payload":{"before":{"n":1},"after":{"n":2},"op":"u"}}"#;
        all.push(format!("{enveloped}\n{{\"op\":\"d\",\"before\":{{\"word\":\"a\"}}}}\n").into_bytes());
    }
    all
}

fn decode(format: &Format, bytes: &[u8]) -> bool {
    let (schema, framing) = (schema(format), format.framing());
    let (mut rest, mut records) = (bytes, Records::default());
    for at_end in [false, true] {
        while let Some(piece) = framing.first(rest, at_end) {
            if !framing.skips(piece.record) {
                records.push(piece.record);
            }
            rest = &rest[piece.length..];
        }
    }
    let records = records.finish();
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let mut taken = true;
    for columns in [&all[..], &all[..1], &[]] {
        let mut decoder = format.decoder(&schema, columns).expect("the format has these types");
        let read = decoder.decode(&records);
        taken &= read.is_ok();
        for on_bad in [OnBad::LeaveOut, OnBad::Null] {
            let _ = sift(Decoding { decoder: decoder.as_mut(), records: &records }, on_bad);
        }
        // what was read can be written
        if let Ok(rows) = read
            && columns.len() == all.len()
        {
            let _ = format.encoder(&schema).and_then(|mut encoder| encoder.encode(&rows));
        }
    }
    taken
}

/// A file in memory.
struct InMemory(Vec<u8>);

impl ReadAt for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let there = start.and_then(|start| self.0.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// True if all could be read.
fn read(mut reader: impl ReadRows, skip: u64) -> bool {
    if skip > 0 && reader.skip(skip).is_err() {
        return false;
    }
    loop {
        match reader.next() {
            Ok(Some(rows)) => drop(reader.place(rows.num_rows() - 1)),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Some of a file's columns.
fn some(schema: &SchemaRef) -> SchemaRef {
    Arc::new(schema.project(&[1, 0]).expect("there are two"))
}

fn avro_files() -> Vec<Vec<u8>> {
    let codecs = [avro::Codec::Null, avro::Codec::Deflate, avro::Codec::Snappy, avro::Codec::Zstandard];
    codecs.map(|codec| written(&FileFormat::Avro(avro::Settings { codec }), &files(), Packing::None)).into()
}

/// The columns of files.
fn files() -> SchemaRef {
    schema(&json())
}

fn avro(bytes: &[u8]) -> bool {
    let file: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.to_vec()));
    let read = |table: &SchemaRef, share, skip| {
        avro::AvroReader::new(Arc::clone(&file), share, table, Missing::Null).is_ok_and(|reader| read(reader, skip))
    };
    let some = read(&some(&files()), 300..u64::MAX, 3);
    read(&files(), 0..file.size(), 0) || some
}

fn parquet_files() -> Vec<Vec<u8>> {
    use parquet::Compression::{Gzip, None, Snappy, Zstd};
    let file = |compression| {
        let settings = parquet::Settings { compression, group_bytes: 1 << 20 };
        written(&FileFormat::Parquet(settings), &files(), Packing::None)
    };
    [None, Snappy, Gzip, Zstd].map(file).into()
}

fn parquet(bytes: &[u8]) -> bool {
    let file: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.to_vec()));
    let Ok(footer) = parquet::Footer::read(&file) else { return false };
    let groups = footer.group_bytes().len();
    let read = |table: &SchemaRef, skip| {
        parquet::ParquetReader::new(Arc::clone(&file), footer.clone(), 0..groups, table, Missing::Null)
            .is_ok_and(|reader| read(reader, skip))
    };
    let some = read(&some(&files()), 3);
    read(&files(), 0) && some
}

fn packed_files() -> Vec<Vec<u8>> {
    let file = |kind: u8, packing| [vec![kind], written(&FileFormat::Records(json()), &files(), packing)].concat();
    vec![file(0, Packing::Gzip), file(1, Packing::Zstd)]
}

fn packed(bytes: &[u8]) -> bool {
    let Some((kind, packed)) = bytes.split_first() else { return false };
    let packing = if kind % 2 == 0 { Packing::Gzip } else { Packing::Zstd };
    let file = tempfile::NamedTempFile::new().expect("there is room for a file");
    fs::write(file.path(), packed).expect("there is room for some bytes");
    let path = file.path().to_str().expect("temporary files have plain names");
    let read = |position| {
        let handle = Handle::new(path, packed.len() as u64, &Arc::new(OpenFiles::default()));
        let mut stream = Stream::packed(handle, packing, position);
        let mut came = 0;
        loop {
            match stream.take() {
                Ok(Taken::Ended) => return true,
                Ok(Taken::Pending) => {}
                // what unpacks to very much is read for as long as it has lines; it takes no memory
                Ok(Taken::Bytes { length, .. }) if came + length > 8 << 20 => return true,
                Ok(Taken::Bytes { bytes, length, .. }) => {
                    came += length;
                    if stream.give_back(bytes, length).is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    };
    let behind = read(100);
    read(0) && behind
}
