//! Whole files: formats that are more than one record after the other, and what is written into one file.
//!
//! ```text
//! batch ── WriteFile ──▶ bytes of one file          ReadAt ── ReadRows ──▶ batch
//! ```
//! Parquet and Avro's object container files have a schema of their own and are no stream of records, so a topic cannot
//! carry them.

use super::lines::{LinesWriter, Packing};
use super::{Format, avro, parquet};
use crate::batch::Batch;
use crate::error::{Error, Result};
use arrow::datatypes::SchemaRef;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFormat {
    /// Records, each ended by a newline.
    Records(Format),
    /// Columns in groups of rows.
    Parquet(parquet::Settings),
    /// An object container file: a schema, then blocks of rows.
    Avro(avro::Settings),
}

impl FileFormat {
    /// Writes files of rows with the columns of `schema`, which are found by position; `packing` is for records.
    pub fn writer(&self, schema: &SchemaRef, packing: Packing) -> Result<Box<dyn WriteFile>> {
        Ok(match self {
            FileFormat::Records(format) => Box::new(LinesWriter::new(schema, format, packing)?),
            FileFormat::Parquet(settings) => Box::new(parquet::ParquetWriter::new(schema, settings)?),
            FileFormat::Avro(settings) => Box::new(avro::AvroWriter::new(schema, settings)?),
        })
    }

    /// What names of files end with, without the dot.
    pub fn extension(&self) -> &'static str {
        match self {
            FileFormat::Records(format) => format.extension(),
            FileFormat::Parquet(_) => "parquet",
            FileFormat::Avro(_) => "avro",
        }
    }
}

/// A file, read anywhere.
pub trait ReadAt: Send + Sync {
    /// How many bytes it has.
    fn size(&self) -> u64;
    /// Fills `buffer` with what stands at `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// The rows of a share of one file, in order.
pub trait ReadRows {
    /// Passes over the first `rows` rows, before any is read.
    ///
    /// # Errors
    /// If there are fewer.
    fn skip(&mut self, rows: u64) -> Result<()>;
    /// The next rows, at least one; none at the end.
    ///
    /// # Errors
    /// What is wrong with the file or a row of it, and where in the file, without the file's name.
    fn next(&mut self) -> Result<Option<Batch>>;
    /// Where row `row` of the last batch stands in its file: `row group 3, row 17`.
    fn place(&self, row: usize) -> String;
}

/// Rows on their way into one file.
pub trait WriteFile: Send {
    /// Takes rows, whose columns are those of the table by position.
    fn write(&mut self, rows: &Batch) -> Result<()>;
    /// The bytes that are ready; they follow those of the last call.
    fn take(&mut self) -> Result<Vec<u8>>;
    /// About how many bytes the file has by now, those taken included.
    fn size(&self) -> u64;
    /// The last bytes of the file.
    fn finish(self: Box<Self>) -> Result<Vec<u8>>;
}

/// A file from an offset on.
pub struct FileStream {
    file: Arc<dyn ReadAt>,
    offset: u64,
}

impl FileStream {
    /// From its start.
    pub fn new(file: Arc<dyn ReadAt>) -> Self {
        FileStream::at(file, 0)
    }

    /// From `offset` on.
    pub fn at(file: Arc<dyn ReadAt>, offset: u64) -> Self {
        FileStream { file, offset }
    }
}

impl Read for FileStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.file.size().saturating_sub(self.offset);
        let length = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.file.read_exact_at(&mut buffer[..length], self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Calls the library, for which some corrupt files are a bug of its own.
pub(super) fn guarded<T, E: Into<Failure>>(call: impl FnOnce() -> Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into().0),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(Error::data(format!("it is corrupt: {}", said.unwrap_or("it cannot be read"))))
        }
    }
}

/// The error for a share of a file that has `there` rows and should be read on after `rows`.
pub(super) fn too_few(there: u64, rows: u64) -> Error {
    Error::unavailable(format!("{rows} rows of it were read before, and it has only {there} now"))
}

/// A library's error, as ours.
pub(super) struct Failure(pub Error);
