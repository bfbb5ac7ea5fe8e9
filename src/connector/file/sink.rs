//! Files that are written: never seen under their name before they are complete.
//!
//! A `path` that ends with `/` is a directory, in which shard `s` writes `part-<s>-<n>.<ext>` for n from 0 on, a new part when
//! one has `sink.rolling.bytes`; any other path is one file. Rows go to a hidden temporary file beside the final one, which
//! is made durable and renamed when the part is full or the pipeline ends; one that does not end well leaves nothing.
//! Files that are there already are refused, or with `sink.overwrite` replaced: each when its successor is complete, and
//! parts without a successor at the end. In `raw` NULL is an empty line.

use super::{PATH, format_of, place_of};
use crate::batch::Batch;
use crate::connector::{Changes, Context, OptionSpec, Preset, Shard, Sink, Table, Takes};
use crate::error::{Error, Result};
use crate::format::{FileFormat, Packing, WriteFile};
use arrow::datatypes::SchemaRef;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tempfile::NamedTempFile;

/// What is handed to the operating system at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Full parts that may wait to become durable before the sink makes its input wait.
const COMPLETING_MAX: usize = 2;

pub(super) const ROLLING_BYTES: OptionSpec = OptionSpec::writing(
    "sink.rolling.bytes",
    Takes::Bytes,
    Preset::Is("128 MiB"),
    "the size of the parts of a directory",
);

pub(super) const OVERWRITE: OptionSpec = OptionSpec::writing(
    "sink.overwrite",
    Takes::Flag,
    Preset::Is("false"),
    "whether what is there is replaced; otherwise that is an error",
);

pub(super) const COMPRESSION: OptionSpec = OptionSpec::writing(
    "sink.compression",
    Takes::Choice(&["none", "gzip", "zstd"]),
    Preset::Is("none"),
    "how files of records are compressed; Parquet and Avro do it themselves",
);

/// One file or a directory of parts.
#[derive(Debug, Clone)]
pub struct FileSink {
    path: PathBuf,
    format: FileFormat,
    packing: Packing,
    schema: SchemaRef,
    /// Set for a directory.
    rolling_bytes: Option<u64>,
    overwrite: bool,
}

impl FileSink {
    /// Checks the options.
    pub fn new(table: &Table) -> Result<Self> {
        let options = &table.options;
        let format = format_of(options)?;
        let path = options.required(&PATH)?;
        if path == "-" {
            return Err(options.wrong(&PATH, "standard output is no file").help("use connector 'print'"));
        }
        let rolling_bytes = match path.ends_with('/') {
            true => Some(options.bytes(&ROLLING_BYTES)?),
            false => None,
        };
        let packing = match &format {
            FileFormat::Records(_) => match options.choice(&COMPRESSION)? {
                "gzip" => Packing::Gzip,
                "zstd" => Packing::Zstd,
                _ => Packing::None,
            },
            FileFormat::Parquet(_) | FileFormat::Avro(_) => Packing::None,
        };
        format.writer(&table.schema, packing)?;
        Ok(FileSink {
            path: PathBuf::from(path),
            format,
            packing,
            schema: Arc::clone(&table.schema),
            rolling_bytes,
            overwrite: options.flag(&OVERWRITE)?,
        })
    }

    fn refuse(&self, existing: &Path) -> Result<()> {
        let error = Error::invalid("it exists already").within(place(existing));
        if existing.is_dir() {
            return Err(error.help("end 'path' with '/' to write parts into a directory"));
        }
        match self.overwrite {
            true => Ok(()),
            false => Err(error.help("choose another 'path', or set 'sink.overwrite' = 'true'")),
        }
    }
}

impl Sink for FileSink {
    fn single(&self) -> bool {
        self.rolling_bytes.is_none()
    }

    fn open(&self, shard: usize, shards: usize, _context: &Context) -> Result<Box<dyn Shard>> {
        let mut opened = FileShard { sink: self.clone(), shard, shards, parts: 0, part: None, completing: Vec::new() };
        match self.single() {
            true => {
                if self.path.exists() {
                    self.refuse(&self.path)?;
                }
                // Even of no rows there will be a file.
                opened.part()?;
            }
            false => {
                fs::create_dir_all(&self.path).map_err(|error| unwritable(&self.path, error))?;
                if let Some(old) = opened.old_parts()?.first() {
                    self.refuse(old)?;
                }
            }
        }
        Ok(Box::new(opened))
    }

    fn changes(&self) -> Changes {
        Changes::AppendOnly
    }
}

struct FileShard {
    sink: FileSink,
    shard: usize,
    shards: usize,
    /// Parts that were begun.
    parts: usize,
    part: Option<Part>,
    /// Full parts on their way to be durable.
    completing: Vec<JoinHandle<Result<()>>>,
}

impl FileShard {
    /// The open part; a new one if there is none.
    fn part(&mut self) -> Result<&mut Part> {
        if self.part.is_none() {
            let path = match self.sink.single() {
                true => self.sink.path.clone(),
                false => {
                    let extension = (self.sink.format.extension(), self.sink.packing.extension());
                    self.sink.path.join(format!("part-{}-{}.{}{}", self.shard, self.parts, extension.0, extension.1))
                }
            };
            let writer = self.sink.format.writer(&self.sink.schema, self.sink.packing)?;
            let part = Part::create(path, self.sink.overwrite, writer)?;
            self.parts += 1;
            self.part = Some(part);
        }
        Ok(self.part.as_mut().expect("just put there"))
    }

    /// The files that an earlier run left under names of this shard, or of a shard that is no more.
    fn old_parts(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.sink.path).map_err(|error| unwritable(&self.sink.path, error))? {
            let path = entry.map_err(|error| unwritable(&self.sink.path, error))?.path();
            let numbers = path.file_name().and_then(|name| name.to_str()).and_then(part_numbers);
            let Some((shard, part)) = numbers else { continue };
            let gone = self.shard == 0 && shard >= self.shards;
            if gone || (shard == self.shard && part >= self.parts) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Looks after full parts; waits for them if `all`.
    fn settle(&mut self, all: bool) -> Result<()> {
        let (done, rest) = self.completing.drain(..).partition(|thread| all || thread.is_finished());
        self.completing = rest;
        let done: Vec<JoinHandle<Result<()>>> = done;
        for thread in done {
            thread.join().map_err(|_| Error::internal("a thread that completes a file panicked"))??;
        }
        Ok(())
    }
}

impl Shard for FileShard {
    fn write(&mut self, rows: Batch) -> Result<()> {
        let part = self.part()?;
        part.write(&rows)?;
        let bytes = part.writer.size();
        if self.sink.rolling_bytes.is_some_and(|most| bytes >= most) {
            let part = self.part.take().expect("rows were just written to it");
            // Making it durable may take long.
            let thread = std::thread::Builder::new().name("complete file".into()).spawn(move || part.complete());
            self.completing
                .push(thread.map_err(|error| Error::unavailable(format!("cannot start a thread: {error}")))?);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        self.settle(false)?;
        Ok(self.completing.len() <= COMPLETING_MAX)
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(part) = self.part.take() {
            part.complete()?;
        }
        self.settle(true)?;
        if !self.sink.single() && self.sink.overwrite {
            for old in self.old_parts()? {
                fs::remove_file(&old).map_err(|error| unwritable(&old, error))?;
            }
        }
        Ok(())
    }
}

/// A file that is being written.
struct Part {
    path: PathBuf,
    overwrite: bool,
    /// Vanishes if it is dropped.
    file: NamedTempFile,
    writer: Box<dyn WriteFile>,
    /// Bytes of the writer that the operating system has not got.
    buffer: Vec<u8>,
}

impl Part {
    fn create(path: PathBuf, overwrite: bool, writer: Box<dyn WriteFile>) -> Result<Part> {
        let name = path.file_name().ok_or_else(|| Error::invalid("it has no name").within(place(&path)))?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".tmp")
            // what the umask leaves of it, like any new file
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(directory(&path))
            .map_err(|error| unwritable(&path, error))?;
        Ok(Part { path, overwrite, file, writer, buffer: Vec::new() })
    }

    fn write(&mut self, rows: &Batch) -> Result<()> {
        self.writer.write(rows).map_err(|error| error.within(place(&self.path)))?;
        self.buffer.append(&mut self.writer.take()?);
        if self.buffer.len() >= BUFFER_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer).map_err(|error| unwritable(&self.path, error))?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end, makes the file durable and gives it its name.
    fn complete(mut self) -> Result<()> {
        self.hand_over()?;
        let end = self.writer.finish().map_err(|error| error.within(place(&self.path)))?;
        self.file.write_all(&end).map_err(|error| unwritable(&self.path, error))?;
        self.file.as_file().sync_all().map_err(|error| unwritable(&self.path, error))?;
        let named = match self.overwrite {
            true => self.file.persist(&self.path),
            false => self.file.persist_noclobber(&self.path),
        };
        named.map_err(|error| unwritable(&self.path, error.error))?;
        let directory = File::open(directory(&self.path)).map_err(|error| unwritable(&self.path, error))?;
        directory.sync_all().map_err(|error| unwritable(&self.path, error))
    }
}

/// Shard and number of `part-<shard>-<n>.<ext>`.
fn part_numbers(name: &str) -> Option<(usize, usize)> {
    let (numbers, _) = name.strip_prefix("part-")?.split_once('.')?;
    let (shard, part) = numbers.split_once('-')?;
    Some((shard.parse().ok()?, part.parse().ok()?))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("cannot write it: {error}")).within(place(path)).caused_by(error)
}

fn place(path: &Path) -> String {
    place_of(&path.to_string_lossy())
}
