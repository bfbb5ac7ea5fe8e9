//! `avro`: an object container file, a schema and then blocks of rows.
//!
//! A block stands between two marks of 16 random bytes, so a file can be cut anywhere: a share `start..end` of its bytes owns
//! the blocks whose mark before them starts in it. Blocks carry no checksum but with snappy; what cannot be decoded to the
//! last byte of its block is refused.
//!
//! The library decodes a block as one value, the list of its rows, and makes only the columns that are asked for. So the end
//! of the rows and the end of the block must be the same, which its own reader of files does not check.

use super::BadRecord;
use super::fit::{Fit, Missing, refuse_types, renamed};
use super::objects::{Failure, FileStream, ReadAt, ReadRows, WriteFile, guarded, too_few};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result};
use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_avro::compression::CompressionCodec;
use arrow_avro::errors::AvroError;
use arrow_avro::reader::{Decoder, ReaderBuilder, read_header_info};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use arrow_avro::writer::format::AvroOcfFormat;
use arrow_avro::writer::{Writer, WriterBuilder};
use memchr::memmem;
use serde_json::{Value, json};
use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A block larger than this is refused: most likely it is not one.
pub const BLOCK_BYTES_MAX: u64 = 1 << 30;
/// The bytes of the mark between blocks.
const MARK_BYTES: u64 = 16;
/// Two numbers of ten bytes at most open a block.
const BLOCK_HEAD_BYTES: u64 = 20;
/// What is searched for a mark at once.
const SEARCH_BYTES: u64 = 1 << 20;
/// Rows are gathered up to so many bytes in memory before they become a block.
const GATHERED_BYTES: usize = 1 << 20;
/// What opens a value for the library: the number of its schema, which is 0.
const VALUE_HEAD: [u8; 5] = [0; 5];

/// How Avro is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How blocks are compressed.
    pub codec: Codec,
}

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Null,
    /// Slow, and known to everyone.
    Deflate,
    /// Fast, with a checksum.
    Snappy,
    /// Fast and strong.
    Zstandard,
}

/// The blocks of a share of a file.
pub struct AvroReader {
    file: Arc<dyn ReadAt>,
    codec: Option<CompressionCodec>,
    mark: [u8; 16],
    /// Of the next block.
    at: u64,
    /// The mark before a block of this share starts before this.
    end: u64,
    /// None where no column is asked for: then the blocks' counts are all.
    decoder: Option<Decoder>,
    /// True if it decodes all columns, of which those of `fit` are taken.
    all: bool,
    fit: Fit,
    /// Where the last block stands.
    block: u64,
    /// Rows of the last block that were passed over, and rows of the next one that will be.
    skipped: usize,
    skip_next: usize,
}

/// What stands before a block's rows.
struct Head {
    rows: usize,
    /// Where the stored bytes are.
    start: u64,
    length: u64,
}

impl AvroReader {
    /// Reads the blocks of the bytes `share` as rows of `table`.
    pub fn new(file: Arc<dyn ReadAt>, share: Range<u64>, table: &SchemaRef, missing: Missing) -> Result<AvroReader> {
        let header = guarded(|| read_header_info(BufReader::new(FileStream::new(Arc::clone(&file)))))?;
        let codec = guarded(|| header.compression())?;
        if let Some(CompressionCodec::Bzip2 | CompressionCodec::Xz) = codec {
            return Err(Error::data("its blocks are compressed with bzip2 or xz, which is not supported")
                .help("the codecs are null, deflate, snappy and zstandard"));
        }
        let written = guarded(|| header.writer_schema())?;
        let mut written: Value = serde_json::from_str(&written.json_string)
            .map_err(|error| Error::data(format!("it is corrupt: its schema is not JSON: {error}")))?;
        if written["type"] != "record" {
            return Err(Error::data("what it holds are no records"));
        }
        forget_uuids(&mut written);
        let whole = decoder(&written, None)?;
        let fit = Fit::new(&fields_of(&whole)?, table, missing)?;
        // A name may stand for a type that a column left out declares.
        let all = names_a_type(&written["fields"]);
        let decoder = match fit.reads() {
            [] => None,
            _ if all => Some(whole),
            reads => {
                let columns: Vec<Value> = reads.iter().map(|&index| written["fields"][index].clone()).collect();
                let mut asked = written.clone();
                asked["fields"] = columns.into();
                Some(decoder(&written, Some(&asked))?)
            }
        };
        let mut reader = AvroReader {
            file,
            codec,
            mark: header.sync(),
            at: header.header_len(),
            end: share.end,
            decoder,
            all,
            fit,
            block: 0,
            skipped: 0,
            skip_next: 0,
        };
        let first_mark = reader.at.saturating_sub(MARK_BYTES);
        if share.start > first_mark {
            reader.at = reader.find_mark(share.start)?.map_or(reader.file.size(), |mark| mark + MARK_BYTES);
        }
        Ok(reader)
    }

    /// The first mark at or after `from`.
    fn find_mark(&self, mut from: u64) -> Result<Option<u64>> {
        let finder = memmem::Finder::new(&self.mark);
        while from < self.file.size() {
            let bytes = self.bytes(from, SEARCH_BYTES.min(self.file.size() - from))?;
            if let Some(found) = finder.find(&bytes) {
                return Ok(Some(from + found as u64));
            }
            if from + (bytes.len() as u64) == self.file.size() {
                break;
            }
            from += bytes.len() as u64 - (MARK_BYTES - 1);
        }
        Ok(None)
    }

    fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| Error::unavailable(format!("cannot read it: {error}")).caused_by(error))?;
        Ok(bytes)
    }

    /// What the next block says of itself.
    fn next_head(&mut self) -> Result<Option<Head>> {
        let size = self.file.size();
        if self.at >= size || self.at.saturating_sub(MARK_BYTES) >= self.end {
            return Ok(None);
        }
        self.block = self.at;
        let head = self.bytes(self.at, BLOCK_HEAD_BYTES.min(size - self.at))?;
        let mut rest = head.as_slice();
        let (rows, length) = (number(&mut rest), number(&mut rest));
        let start = self.at + (head.len() - rest.len()) as u64;
        let fitting = |length: &u64| {
            start.checked_add(*length).and_then(|end| end.checked_add(MARK_BYTES)).is_some_and(|end| end <= size)
        };
        let rows = rows.and_then(|rows| usize::try_from(rows).ok()).ok_or_else(|| wrong("no number of rows"))?;
        let length = length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| wrong("no length"))?;
        if !fitting(&length) {
            return Err(wrong(&format!("it should have {length} bytes, but the file ends before")));
        }
        if length > BLOCK_BYTES_MAX {
            return Err(wrong(&format!("it has {length} bytes, more than {BLOCK_BYTES_MAX}")));
        }
        Ok(Some(Head { rows, start, length }))
    }

    /// The next block's number of rows and its stored bytes.
    fn next_block(&mut self) -> Result<Option<(usize, Vec<u8>)>> {
        let Some(head) = self.next_head()? else { return Ok(None) };
        let mut bytes = self.bytes(head.start, head.length + MARK_BYTES)?;
        self.pass(&head, &bytes[head.length as usize..])?;
        bytes.truncate(head.length as usize);
        Ok(Some((head.rows, bytes)))
    }

    /// Moves on behind the block of `head`, at whose end `mark` stands.
    fn pass(&mut self, head: &Head, mark: &[u8]) -> Result<()> {
        if mark != self.mark {
            return Err(wrong("no mark at its end"));
        }
        self.at = head.start + head.length + MARK_BYTES;
        Ok(())
    }

    /// Passes over as many whole blocks as have at most `rows` rows together; says how many rows are left to pass over, and
    /// whether there is a block that has them.
    fn skip_blocks(&mut self, mut rows: u64) -> Result<(u64, bool)> {
        while rows > 0 {
            let Some(head) = self.next_head()? else { return Ok((rows, false)) };
            if head.rows as u64 > rows {
                break;
            }
            let mark = self.bytes(head.start + head.length, MARK_BYTES)?;
            self.pass(&head, &mark)?;
            rows -= head.rows as u64;
        }
        Ok((rows, true))
    }

    fn rows_of(&mut self, rows: usize, stored: Vec<u8>) -> Result<Batch> {
        let Some(decoder) = &mut self.decoder else {
            return self.fit.apply(&[], rows).map_err(misfit);
        };
        // A row takes a byte, unless it has no column that takes any.
        let bytes = decompress(self.codec, stored)?;
        let mut value = Vec::with_capacity(bytes.len() + 16);
        value.extend_from_slice(&VALUE_HEAD);
        write_number(&mut value, rows as u64);
        value.extend_from_slice(&bytes);
        value.push(0);
        let made = guarded(|| match decoder.decode(&value)? {
            decoded if decoded == value.len() => decoder.flush(),
            _ => Err(AvroError::ParseError("its rows and its bytes do not end together".into())),
        })?;
        let made = made.ok_or_else(|| Error::internal("a block of rows was decoded into nothing"))?;
        let list = made.column(0).as_list::<i32>();
        let made = list.values().as_struct();
        if made.len() != rows {
            return Err(Error::data(format!("it is corrupt: it has {} rows and says {rows}", made.len())));
        }
        let columns: Vec<_> = match self.all {
            true => self.fit.reads().iter().map(|&index| Arc::clone(made.column(index))).collect(),
            false => made.columns().to_vec(),
        };
        self.fit.apply(&columns, rows).map_err(misfit)
    }
}

fn wrong(what: &str) -> Error {
    Error::data(format!("it is corrupt or cut off: {what}"))
}

fn misfit(bad: BadRecord) -> Error {
    Error::data(bad.reason).within(format!("row {}", bad.index + 1))
}

impl ReadRows for AvroReader {
    fn skip(&mut self, rows: u64) -> Result<()> {
        let skipped = self.skip_blocks(rows);
        match skipped.map_err(|error| error.within(format!("block at byte {}", self.block)))? {
            (rest, true) => {
                self.skip_next = rest as usize;
                Ok(())
            }
            (rest, false) => Err(too_few(rows - rest, rows)),
        }
    }

    fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            let next = self.next_block().and_then(|block| match block {
                None => Ok(None),
                Some((0, _)) => Ok(Some(None)),
                Some((rows, bytes)) => self.rows_of(rows, bytes).map(|rows| Some(Some(rows))),
            });
            match next.map_err(|error| error.within(format!("block at byte {}", self.block)))? {
                None => return Ok(None),
                Some(None) => {}
                Some(Some(rows)) => {
                    // Fewer than the block has, or it would have been passed over whole.
                    self.skipped = std::mem::take(&mut self.skip_next).min(rows.num_rows() - 1);
                    return Ok(Some(rows.slice(self.skipped, rows.num_rows() - self.skipped)));
                }
            }
        }
    }

    fn place(&self, row: usize) -> String {
        format!("block at byte {}, row {}", self.block, self.skipped + row + 1)
    }
}

/// Decodes blocks of records that were written as `written` into those of `asked`.
fn decoder(written: &Value, asked: Option<&Value>) -> Result<Decoder> {
    let list = |record: &Value| {
        let rows = json!({ "name": "rows", "type": { "type": "array", "items": record } });
        AvroSchema::new(json!({ "type": "record", "name": "__block", "fields": [rows] }).to_string())
    };
    guarded(|| {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(0), list(written))?;
        let mut builder = ReaderBuilder::new().with_batch_size(1).with_writer_schema_store(store);
        if let Some(asked) = asked {
            builder = builder.with_reader_schema(list(asked));
        }
        builder.build_decoder()
    })
}

/// The columns that a decoder of whole blocks makes.
fn fields_of(decoder: &Decoder) -> Result<Fields> {
    match decoder.schema().field(0).data_type() {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) => Ok(fields.clone()),
            other => Err(Error::internal(format!("records of Avro became {other}"))),
        },
        other => Err(Error::internal(format!("a list of Avro became {other}"))),
    }
}

/// A UUID in a string is that string.
pub(super) fn forget_uuids(schema: &mut Value) {
    match schema {
        Value::Object(parts) => {
            if parts.get("type").is_some_and(|kind| kind == "string")
                && parts.get("logicalType").is_some_and(|kind| kind == "uuid")
            {
                parts.remove("logicalType");
            }
            parts.values_mut().for_each(forget_uuids);
        }
        Value::Array(parts) => parts.iter_mut().for_each(forget_uuids),
        _ => {}
    }
}

/// True if a type in `fields` is given by the name of one that is declared elsewhere.
pub(super) fn names_a_type(fields: &Value) -> bool {
    const OWN: [&str; 13] = [
        "null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "enum", "array", "map",
        "fixed",
    ];
    fn named(kind: &Value) -> bool {
        match kind {
            Value::String(name) => !OWN.contains(&name.as_str()),
            Value::Array(branches) => branches.iter().any(named),
            Value::Object(parts) => {
                ["type", "items", "values"].iter().filter_map(|part| parts.get(*part)).any(named)
                    || parts.get("fields").is_some_and(names_a_type)
            }
            _ => false,
        }
    }
    fields.as_array().is_some_and(|fields| fields.iter().any(|field| named(&field["type"])))
}

fn decompress(codec: Option<CompressionCodec>, stored: Vec<u8>) -> Result<Vec<u8>> {
    let limited = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reader.take(BLOCK_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > BLOCK_BYTES_MAX {
            true => Err(io::Error::other(format!("it has more than {BLOCK_BYTES_MAX} bytes"))),
            false => Ok(bytes),
        }
    };
    let bytes = match codec {
        None => Ok(stored),
        Some(CompressionCodec::Deflate) => limited(&mut flate2::read::DeflateDecoder::new(stored.as_slice())),
        Some(CompressionCodec::Snappy) => unsnap(&stored),
        Some(CompressionCodec::ZStandard) => {
            zstd::Decoder::with_buffer(stored.as_slice()).and_then(|mut reader| limited(&mut reader))
        }
        Some(other) => Err(io::Error::other(format!("{other:?} is not supported"))),
    };
    bytes.map_err(|error| Error::data(format!("it is corrupt: it cannot be decompressed: {error}")))
}

/// A checksum of what it is to be stands behind it.
fn unsnap(stored: &[u8]) -> io::Result<Vec<u8>> {
    let Some((packed, sum)) = stored.split_last_chunk::<4>() else {
        return Err(io::Error::other("it has no checksum"));
    };
    if snap::raw::decompress_len(packed).map_err(io::Error::other)? as u64 > BLOCK_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {BLOCK_BYTES_MAX} bytes")));
    }
    let bytes = snap::raw::Decoder::new().decompress_vec(packed).map_err(io::Error::other)?;
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    match crc.sum() == u32::from_be_bytes(*sum) {
        true => Ok(bytes),
        false => Err(io::Error::other("its checksum is wrong")),
    }
}

/// Takes a number off the front, in Avro's form: zigzag, seven bits a byte.
fn number(bytes: &mut &[u8]) -> Option<i64> {
    let mut found = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        found |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((found >> 1) as i64 ^ -((found & 1) as i64));
        }
    }
    None
}

fn write_number(bytes: &mut Vec<u8>, number: u64) {
    let mut rest = number << 1;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// Rows on their way into an object container file.
pub struct AvroWriter {
    schema: SchemaRef,
    writer: Writer<Taken, AvroOcfFormat>,
    /// What the writer has written and nobody has taken.
    ready: Taken,
    taken: u64,
    /// Rows that are not enough for a block yet.
    gathered: Vec<Batch>,
    gathered_rows: usize,
    gathered_bytes: usize,
}

impl AvroWriter {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, settings: &Settings) -> Result<AvroWriter> {
        check_types(schema)?;
        let codec = match settings.codec {
            Codec::Null => None,
            Codec::Deflate => Some(CompressionCodec::Deflate),
            Codec::Snappy => Some(CompressionCodec::Snappy),
            Codec::Zstandard => Some(CompressionCodec::ZStandard),
        };
        let ready = Taken::default();
        let builder = WriterBuilder::new(Schema::clone(schema)).with_compression(codec);
        let writer = builder
            .build(ready.clone())
            .map_err(|error| Error::invalid(format!("format 'avro': {}", reason(&error))))?;
        Ok(AvroWriter {
            schema: Arc::clone(schema),
            writer,
            ready,
            taken: 0,
            gathered: Vec::new(),
            gathered_rows: 0,
            gathered_bytes: 0,
        })
    }

    fn write_block(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let rows = concat_batches(&self.schema, &self.gathered).map_err(crate::batch::from_arrow)?;
        self.gathered.clear();
        (self.gathered_rows, self.gathered_bytes) = (0, 0);
        self.writer.write(&rows).map_err(|error| Error::data(format!("format 'avro': {}", reason(&error))))
    }
}

impl WriteFile for AvroWriter {
    fn write(&mut self, rows: &Batch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = renamed(rows, &self.schema)?;
        self.gathered_rows += rows.num_rows();
        self.gathered_bytes += rows.get_array_memory_size();
        self.gathered.push(rows);
        match self.gathered_rows >= BATCH_ROWS || self.gathered_bytes >= GATHERED_BYTES {
            true => self.write_block(),
            false => Ok(()),
        }
    }

    fn take(&mut self) -> Result<Vec<u8>> {
        let bytes = self.ready.take();
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }

    fn size(&self) -> u64 {
        self.taken + self.ready.len() + self.gathered_bytes as u64
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<u8>> {
        self.write_block()?;
        self.take()
    }
}

/// Where the library writes, and we take from.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<u8>>>);

impl Taken {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn len(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

impl Write for Taken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses columns that Avro has no type or name for.
pub(super) fn check_types(schema: &Schema) -> Result<()> {
    check_names(schema.fields())?;
    refuse_types("avro", schema, |data_type| match data_type {
        DataType::Interval(_) => Some("write a number of seconds or days"),
        DataType::UInt64 => Some("Avro has no number that large: declare BIGINT or DECIMAL(20, 0)"),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if *fields[0].data_type() == DataType::Utf8 => None,
            _ => Some("the keys of Avro's maps are strings"),
        },
        _ => None,
    })
}

/// Avro's names are letters, digits and underscores.
fn check_names(fields: &Fields) -> Result<()> {
    for field in fields {
        let name = field.name();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.chars().all(plain) || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Error::invalid(format!("format 'avro' cannot write a column called \"{name}\""))
                .help("its names are letters, digits and underscores, and start with no digit"));
        }
        let mut inner = field.data_type();
        while let DataType::List(item) | DataType::Map(item, _) = inner {
            inner = item.data_type();
        }
        if let DataType::Struct(fields) = inner {
            check_names(fields)?;
        }
    }
    Ok(())
}

impl From<AvroError> for Failure {
    fn from(error: AvroError) -> Self {
        let text = reason(&error);
        Failure(match error {
            AvroError::IoError(_, cause) => Error::unavailable(format!("cannot read it: {cause}")),
            AvroError::NYI(_) => Error::data(format!("it has what is not supported: {text}")),
            _ => Error::data(format!("it is corrupt, or no Avro file: {text}")),
        })
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Failure(Error::data(format!("it is corrupt, or no Avro file: {}", super::reason(&error))))
    }
}

/// What the library says, without the name of its error's kind.
pub(super) fn reason(error: &AvroError) -> String {
    match error {
        AvroError::General(text) | AvroError::NYI(text) | AvroError::EOF(text) => text.clone(),
        AvroError::InvalidArgument(text) | AvroError::ParseError(text) | AvroError::SchemaError(text) => text.clone(),
        AvroError::ArrowError(error) => super::reason(error),
        other => other.to_string(),
    }
}
