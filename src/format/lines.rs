//! Records on their way into a file: each ends with a newline, and the file may be compressed as it grows.

use super::objects::WriteFile;
use super::{Encode, Format, change, csv};
use crate::batch::Batch;
use crate::error::{Error, Result};
use arrow::datatypes::{Fields, SchemaRef};
use flate2::write::GzEncoder;
use std::io::{self, Write};

/// How a whole file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// As `gzip` does.
    Gzip,
    /// As `zstd` does.
    Zstd,
}

impl Packing {
    /// What names of such files end with, the dot included.
    pub fn extension(self) -> &'static str {
        match self {
            Packing::None => "",
            Packing::Gzip => ".gz",
            Packing::Zstd => ".zst",
        }
    }

    /// What a file called `name` says of itself.
    pub fn of_name(name: &str) -> Packing {
        match name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
            Some("gz" | "gzip") => Packing::Gzip,
            Some("zst" | "zstd") => Packing::Zstd,
            _ => Packing::None,
        }
    }
}

/// Records on their way into a file of lines.
pub struct LinesWriter {
    encoder: Box<dyn Encode>,
    /// The columns of rows and their key, if records are changes of them.
    changes: Option<(Fields, Vec<usize>)>,
    packer: Packer,
    /// Bytes that were taken.
    taken: u64,
}

enum Packer {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl LinesWriter {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, format: &Format, packing: Packing) -> Result<LinesWriter> {
        let packer = match packing {
            Packing::None => Packer::None(Vec::new()),
            Packing::Gzip => Packer::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default())),
            Packing::Zstd => Packer::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 0).map_err(unpacked)?),
        };
        let changes = match format {
            Format::DebeziumJson(settings) => Some((schema.fields().clone(), settings.key.clone())),
            Format::Raw | Format::Json(_) | Format::Csv(_) | Format::Avro(_) | Format::Protobuf(_) => None,
        };
        let mut writer = LinesWriter { encoder: format.encoder(schema)?, changes, packer, taken: 0 };
        if let Format::Csv(settings) = format
            && settings.header
        {
            writer.packer.write_all(&csv::header(schema, settings)).map_err(unpacked)?;
        }
        Ok(writer)
    }
}

impl WriteFile for LinesWriter {
    fn write(&mut self, rows: &Batch) -> Result<()> {
        let records = match &self.changes {
            Some((fields, key)) => self.encoder.encode(&change::closed(rows, fields, key)?.0)?,
            None => self.encoder.encode(rows)?,
        };
        for record in &records {
            self.packer.write_all(record.unwrap_or_default()).map_err(unpacked)?;
            self.packer.write_all(b"\n").map_err(unpacked)?;
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<u8>> {
        let bytes = std::mem::take(self.packer.ready());
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }

    fn size(&self) -> u64 {
        let ready = match &self.packer {
            Packer::None(bytes) => bytes,
            Packer::Gzip(packer) => packer.get_ref(),
            Packer::Zstd(packer) => packer.get_ref(),
        };
        self.taken + ready.len() as u64
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        match self.packer {
            Packer::None(bytes) => Ok(bytes),
            Packer::Gzip(packer) => packer.finish().map_err(unpacked),
            Packer::Zstd(packer) => packer.finish().map_err(unpacked),
        }
    }
}

impl Packer {
    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Packer::None(bytes) => bytes,
            Packer::Gzip(packer) => packer.get_mut(),
            Packer::Zstd(packer) => packer.get_mut(),
        }
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Packer::None(all) => all.write(bytes),
            Packer::Gzip(packer) => packer.write(bytes),
            Packer::Zstd(packer) => packer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written to memory does not fail.
fn unpacked(error: io::Error) -> Error {
    Error::internal(format!("cannot compress: {error}"))
}
