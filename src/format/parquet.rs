//! `parquet`: columns in groups of rows.
//!
//! Reading takes only the columns that are asked for, one row group at a time, so that workers can share a file. The types
//! are those of the file's own schema; a schema that another program left for Arrow is passed over.
//!
//! Writing makes a row group when one has `parquet.row-group.bytes`. Default is zstd at its first level: about a third
//! smaller than snappy, and every current reader knows it.

use super::fit::{Fit, Missing, refuse_types, renamed};
use super::objects::{Failure, FileStream, ReadAt, ReadRows, WriteFile, guarded, too_few};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result};
use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::arrow::arrow_writer::ArrowWriterOptions;
use ::parquet::arrow::{ArrowWriter, ProjectionMask};
use ::parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::reader::{ChunkReader, Length};
use arrow::datatypes::{DataType, IntervalUnit, SchemaRef};
use bytes::Bytes;
use std::io::{self, BufReader};
use std::ops::Range;
use std::sync::Arc;

/// What a stream of pages is read ahead.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Rows of a group at most, whatever they take: readers keep something for each.
const GROUP_ROWS_MAX: usize = 1 << 20;

/// How Parquet is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How pages are compressed.
    pub compression: Compression,
    /// The encoded size of a row group.
    pub group_bytes: u64,
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast and weak.
    Snappy,
    /// Slow, and known to everyone.
    Gzip,
    /// Fast and strong.
    Zstd,
}

/// What a Parquet file says of itself, at its end.
#[derive(Debug, Clone)]
pub struct Footer(ArrowReaderMetadata);

impl Footer {
    /// Reads it.
    pub fn read(file: &Arc<dyn ReadAt>) -> Result<Footer> {
        let options = || ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        guarded(|| ArrowReaderMetadata::load(&Chunks(Arc::clone(file)), options())).map(Footer)
    }

    /// The stored bytes of each row group.
    pub fn group_bytes(&self) -> Vec<u64> {
        let bytes = |group: &::parquet::file::metadata::RowGroupMetaData| group.compressed_size().max(0) as u64;
        self.0.metadata().row_groups().iter().map(bytes).collect()
    }
}

/// Some row groups of a file.
pub struct ParquetReader {
    file: Chunks,
    footer: Footer,
    fit: Fit,
    columns: ProjectionMask,
    groups: Range<usize>,
    /// The group that is being read.
    open: Option<ParquetRecordBatchReader>,
    group: usize,
    /// Rows of the group before the last batch, and with it.
    before: u64,
    read: u64,
}

impl ParquetReader {
    /// Reads the row groups `groups` as rows of `table`.
    pub fn new(
        file: Arc<dyn ReadAt>,
        footer: Footer,
        groups: Range<usize>,
        table: &SchemaRef,
        missing: Missing,
    ) -> Result<ParquetReader> {
        let there = footer.0.metadata().num_row_groups();
        if groups.end > there {
            return Err(Error::unavailable(format!("it has {there} row groups, fewer than when it was listed")));
        }
        let fit = Fit::new(footer.0.schema().fields(), table, missing)?;
        let columns = ProjectionMask::roots(footer.0.parquet_schema(), fit.reads().iter().copied());
        Ok(ParquetReader { file: Chunks(file), footer, fit, columns, groups, open: None, group: 0, before: 0, read: 0 })
    }

    fn rows_of(&self, group: usize) -> u64 {
        self.footer.0.metadata().row_group(group).num_rows().max(0) as u64
    }

    /// Opens the next group behind its first `skip` rows; false if there is none.
    fn open_next(&mut self, skip: u64) -> Result<bool> {
        let Some(group) = self.groups.next() else { return Ok(false) };
        (self.group, self.before, self.read) = (group, skip, skip);
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.footer.0.clone())
            .with_projection(self.columns.clone())
            .with_row_groups(vec![group])
            .with_batch_size(BATCH_ROWS);
        let builder = match skip {
            0 => builder,
            rows => builder.with_offset(rows as usize),
        };
        self.open = Some(guarded(|| builder.build()).map_err(|error| error.within(format!("row group {group}")))?);
        Ok(true)
    }
}

impl ReadRows for ParquetReader {
    fn skip(&mut self, rows: u64) -> Result<()> {
        let mut rest = rows;
        while rest > 0 {
            if self.groups.is_empty() {
                return Err(too_few(rows - rest, rows));
            }
            let there = self.rows_of(self.groups.start);
            if there > rest {
                self.open_next(rest)?;
                break;
            }
            self.groups.start += 1;
            rest -= there;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            let Some(open) = &mut self.open else {
                match self.open_next(0)? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            let group = format!("row group {}", self.group);
            let next = guarded(|| open.next().transpose().map_err(ParquetError::from));
            let Some(rows) = next.map_err(|error| error.within(group.clone()))? else {
                let promised = self.rows_of(self.group);
                if self.read != promised {
                    let wrong = format!("it ends after {} of {promised} rows", self.read);
                    return Err(Error::data(wrong).within(group));
                }
                self.open = None;
                continue;
            };
            self.before = self.read;
            self.read += rows.num_rows() as u64;
            if rows.num_rows() > 0 {
                let fitted = self.fit.apply(rows.columns(), rows.num_rows());
                return fitted.map(Some).map_err(|bad| Error::data(bad.reason).within(self.place(bad.index)));
            }
        }
    }

    fn place(&self, row: usize) -> String {
        format!("row group {}, row {}", self.group, self.before + row as u64 + 1)
    }
}

/// Rows on their way into a Parquet file.
pub struct ParquetWriter {
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetWriter {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, settings: &Settings) -> Result<ParquetWriter> {
        refuse_types("parquet", schema, |data_type| {
            matches!(data_type, DataType::Interval(IntervalUnit::MonthDayNano))
                .then_some("write a number of seconds or days")
        })?;
        let compression = match settings.compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Snappy => Codec::SNAPPY,
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        };
        let properties = WriterProperties::builder()
            .set_created_by(concat!("highwater ", env!("CARGO_PKG_VERSION")).into())
            .set_compression(compression)
            .set_max_row_group_bytes(Some(usize::try_from(settings.group_bytes).unwrap_or(usize::MAX)))
            .set_max_row_group_row_count(Some(GROUP_ROWS_MAX))
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(schema), options)
            .map_err(|error| Error::invalid(format!("format 'parquet': {}", reason(&error))))?;
        Ok(ParquetWriter { schema: Arc::clone(schema), writer })
    }
}

impl WriteFile for ParquetWriter {
    fn write(&mut self, rows: &Batch) -> Result<()> {
        self.writer.write(&renamed(rows, &self.schema)?).map_err(unwritten)
    }

    fn take(&mut self) -> Result<Vec<u8>> {
        self.writer.sync().map_err(|error| unwritten(error.into()))?;
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    fn size(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        self.writer.into_inner().map_err(unwritten)
    }
}

fn unwritten(error: ParquetError) -> Error {
    Error::internal(format!("format 'parquet': {}", reason(&error)))
}

/// A file as the library wants it.
#[derive(Clone)]
struct Chunks(Arc<dyn ReadAt>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.size()
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<FileStream>;

    fn get_read(&self, start: u64) -> ::parquet::errors::Result<Self::T> {
        Ok(BufReader::with_capacity(READ_AHEAD_BYTES, FileStream::at(Arc::clone(&self.0), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ::parquet::errors::Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.0.size()) {
            return Err(ParquetError::EOF(format!("it points to {length} bytes at {start}, beyond its end")));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

impl From<ParquetError> for Failure {
    fn from(error: ParquetError) -> Self {
        let text = reason(&error);
        Failure(match error {
            ParquetError::External(cause) if cause.is::<io::Error>() => {
                Error::unavailable(format!("cannot read it: {cause}"))
            }
            ParquetError::NYI(_) => Error::data(format!("it has what is not supported: {text}")),
            _ => Error::data(format!("it is corrupt, or no Parquet file: {text}")),
        })
    }
}

/// What the library says, without the name of its error's kind.
fn reason(error: &ParquetError) -> String {
    match error {
        ParquetError::General(text)
        | ParquetError::NYI(text)
        | ParquetError::EOF(text)
        | ParquetError::ArrowError(text) => text.trim_end_matches('.').to_owned(),
        other => other.to_string(),
    }
}
