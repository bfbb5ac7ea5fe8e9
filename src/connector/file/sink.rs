//! Files that are written: never seen under their name before they are complete.
//!
//! A `path` that ends with `/` is a directory, in which shard `s` writes `part-<s>-<n>.<ext>` for n from 0 on, or with
//! `partition.by` in a directory for each value of the columns, each with numbers of its own. A part is complete when it has
//! `sink.rolling.bytes`, or is `sink.rolling.interval` old, or when more are open than `sink.open-files.max` and it was
//! written longest ago. Any other path is one file.
//!
//! Rows go to a hidden temporary file beside the final one, which is made durable and renamed when the part is complete or the
//! pipeline ends; one that does not end well leaves nothing. Files that are there already are refused, or with
//! `sink.overwrite` replaced: each when its successor is complete, and parts without a successor at the end. In `raw` NULL is
//! an empty line.

use super::partition::Partition;
use super::publish::{FilePublisher, FileStager};
use super::{PATH, format_of, partition_of, place_of, whole_rows};
use crate::batch::Batch;
use crate::connector::{
    Changes, Context, OptionSpec, Preset, Publisher, Shard, ShardName, Sink, Stager, Staging, Table, Takes,
};
use crate::error::{Error, Result};
use crate::format::{FileFormat, Packing, WriteFile};
use crate::operator::transform::with_weight;
use crate::time::Clock;
use arrow::datatypes::SchemaRef;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::NamedTempFile;

/// What is handed to the operating system at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Full parts that may wait to become durable before the sink makes its input wait.
const COMPLETING_MAX: usize = 2;
/// And before it waits itself.
const COMPLETING_LIMIT: usize = 16;

pub(super) const ROLLING_BYTES: OptionSpec = OptionSpec::writing(
    "sink.rolling.bytes",
    Takes::Bytes,
    Preset::Is("128 MiB"),
    "the size of the parts of a directory",
);

pub(super) const ROLLING_INTERVAL: OptionSpec = OptionSpec::writing(
    "sink.rolling.interval",
    Takes::DurationOrOff,
    Preset::Is("off"),
    "how long a part of a directory grows at most before it is complete",
);

pub(super) const OPEN_MAX: OptionSpec = OptionSpec::writing(
    "sink.open-files.max",
    Takes::Whole(1, 10_000),
    Preset::Is("64"),
    "how many partitions a worker writes at once; beyond it the file written longest ago is completed",
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
    pub(super) path: PathBuf,
    pub(super) format: FileFormat,
    pub(super) packing: Packing,
    /// The columns of rows, their weight included if they have one.
    pub(super) table: SchemaRef,
    pub(super) partition: Partition,
    /// The columns that files have.
    pub(super) schema: SchemaRef,
    /// Set for a directory.
    pub(super) rolling: Option<Rolling>,
    pub(super) overwrite: bool,
    changes: Changes,
}

/// When a part is complete.
#[derive(Debug, Clone)]
pub(super) struct Rolling {
    pub bytes: u64,
    pub interval: Option<Duration>,
    pub open_max: usize,
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
        let partition = partition_of(table)?;
        let rolling = match path.ends_with('/') {
            true => Some(Rolling {
                bytes: options.bytes(&ROLLING_BYTES)?,
                interval: options.duration_or_off(&ROLLING_INTERVAL)?,
                open_max: if partition.depth() > 0 { options.whole(&OPEN_MAX)? } else { 1 },
            }),
            false if partition.depth() > 0 => {
                let wrong = options.wrong(&PATH, "partitions are directories, and this is a file");
                return Err(wrong.help(format!("write '{path}/'")));
            }
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
        let format = match format {
            FileFormat::Records(format) => FileFormat::Records(format.with_key(&table.primary_key)),
            other => other,
        };
        let changes = match &format {
            FileFormat::Records(format) if format.changes() => {
                whole_rows(&partition, table)?;
                if table.primary_key.is_empty() { Changes::All } else { Changes::Paired }
            }
            _ => Changes::AppendOnly,
        };
        let schema = partition.rest(&table.schema);
        format.writer(&schema, packing)?;
        Ok(FileSink {
            path: PathBuf::from(path),
            format,
            packing,
            table: Arc::clone(&table.schema),
            partition,
            schema,
            rolling,
            overwrite: options.flag(&OVERWRITE)?,
            changes,
        })
    }

    /// The same, for rows with weights if they are `updating`.
    pub fn of_rows(self, updating: bool) -> Self {
        match updating && self.changes != Changes::AppendOnly {
            true => FileSink { table: with_weight(&self.table), ..self },
            false => self,
        }
    }

    /// Refuses what is there already, unless it may be replaced.
    pub(super) fn refuse(&self, existing: &Path) -> Result<()> {
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
        self.rolling.is_none()
    }

    fn open(&self, shard: usize, shards: usize, context: &Context) -> Result<Box<dyn Shard>> {
        let mut opened = FileShard {
            sink: self.clone(),
            clock: Arc::clone(&context.clock),
            shard,
            shards,
            begun: HashMap::new(),
            open: HashMap::new(),
            writes: 0,
            completing: VecDeque::new(),
            bytes: Arc::default(),
        };
        match self.single() {
            true => {
                if self.path.exists() {
                    self.refuse(&self.path)?;
                }
                // Even of no rows there will be a file.
                opened.begin("")?;
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
        self.changes
    }

    fn staging(&self) -> Option<&dyn Staging> {
        Some(self)
    }
}

impl Staging for FileSink {
    fn how(&self) -> &'static str {
        "files that appear whole"
    }

    fn records(&self) -> SchemaRef {
        Arc::clone(&self.table)
    }

    fn stager(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Stager>> {
        Ok(Box::new(FileStager::new(self)?))
    }

    fn publisher(&self, shard: &ShardName, context: &Context) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(FilePublisher::new(self, shard, Arc::clone(&context.clock), context.workers)?))
    }
}

struct FileShard {
    sink: FileSink,
    clock: Arc<dyn Clock>,
    shard: usize,
    shards: usize,
    /// How many parts were begun in each directory below the path; without partitions there is one, called "".
    begun: HashMap<String, usize>,
    /// The open part of each directory.
    open: HashMap<String, Part>,
    /// Counts writes, to know which part was written longest ago.
    writes: u64,
    /// Full parts on their way to be durable, the oldest first.
    completing: VecDeque<JoinHandle<Result<()>>>,
    /// What its parts have handed to the operating system since someone asked.
    bytes: Arc<AtomicU64>,
}

impl FileShard {
    /// Begins the next part of `directory`.
    fn begin(&mut self, directory: &str) -> Result<()> {
        let number = self.begun.entry(directory.to_owned()).or_default();
        let path = match self.sink.single() {
            true => self.sink.path.clone(),
            false => {
                let folder = self.sink.path.join(directory);
                fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, error))?;
                let extension = (self.sink.format.extension(), self.sink.packing.extension());
                folder.join(format!("part-{}-{number}.{}{}", self.shard, extension.0, extension.1))
            }
        };
        *number += 1;
        let writer = self.sink.format.writer(&self.sink.schema, self.sink.packing)?;
        let bytes = Arc::clone(&self.bytes);
        let part = Part::create(path, &self.sink, writer, self.clock.monotonic(), bytes)?;
        self.open.insert(directory.to_owned(), part);
        Ok(())
    }

    fn write_part(&mut self, directory: &str, rows: &Batch) -> Result<()> {
        if !self.open.contains_key(directory) {
            let most = self.sink.rolling.as_ref().map_or(1, |rolling| rolling.open_max);
            if self.open.len() >= most {
                let oldest = self.open.iter().min_by_key(|(_, part)| part.written);
                let oldest = oldest.map(|(directory, _)| directory.clone());
                oldest.map_or(Ok(()), |directory| self.retire(&directory))?;
            }
            self.begin(directory)?;
        }
        let part = self.open.get_mut(directory).expect("it was begun if it was not open");
        self.writes += 1;
        part.written = self.writes;
        part.write(rows)?;
        match self.sink.rolling.as_ref().is_some_and(|rolling| part.writer.size() >= rolling.bytes) {
            true => self.retire(directory),
            false => Ok(()),
        }
    }

    /// Completes the open part of `directory` on a thread: that may take long.
    fn retire(&mut self, directory: &str) -> Result<()> {
        let Some(part) = self.open.remove(directory) else { return Ok(()) };
        if self.completing.len() >= COMPLETING_LIMIT
            && let Some(oldest) = self.completing.pop_front()
        {
            completed(oldest)?;
        }
        let thread = std::thread::Builder::new().name("complete file".into()).spawn(move || part.complete());
        let thread = thread.map_err(|error| Error::unavailable(format!("cannot start a thread: {error}")))?;
        self.completing.push_back(thread);
        Ok(())
    }

    /// Completes the parts that are old enough.
    fn retire_by_age(&mut self) -> Result<()> {
        let Some(interval) = self.sink.rolling.as_ref().and_then(|rolling| rolling.interval) else { return Ok(()) };
        let now = self.clock.monotonic();
        let old = self.open.iter().filter(|(_, part)| now.saturating_sub(part.since) >= interval);
        let old: Vec<String> = old.map(|(directory, _)| directory.clone()).collect();
        old.iter().try_for_each(|directory| self.retire(directory))
    }

    /// The files that an earlier run left under names of this shard, or of a shard that is no more, and that this run has
    /// not replaced.
    fn old_parts(&self) -> Result<Vec<PathBuf>> {
        let old = |found: &Found| {
            let gone = self.shard == 0 && found.shard >= self.shards;
            let begun = self.begun.get(&found.directory).copied().unwrap_or_default();
            gone || (found.shard == self.shard && found.number.is_none_or(|number| number >= begun))
        };
        let there = find_parts(&self.sink.path, self.sink.partition.depth())?;
        let mut found: Vec<PathBuf> = there.into_iter().filter(old).map(|found| found.path).collect();
        found.sort();
        Ok(found)
    }

    /// Looks after full parts; waits for them if `all`.
    fn settle(&mut self, all: bool) -> Result<()> {
        while let Some(oldest) = self.completing.pop_front_if(|oldest| all || oldest.is_finished()) {
            completed(oldest)?;
        }
        Ok(())
    }
}

fn completed(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| Error::internal("a thread that completes a file panicked"))?
}

impl Shard for FileShard {
    fn take_bytes(&mut self) -> u64 {
        self.bytes.swap(0, Relaxed)
    }

    fn write(&mut self, rows: Batch) -> Result<()> {
        let dealt = self.sink.partition.deal(&rows, &self.sink.table)?;
        dealt.iter().try_for_each(|(directory, rows)| self.write_part(directory, rows))
    }

    fn flush(&mut self) -> Result<bool> {
        self.retire_by_age()?;
        self.settle(false)?;
        Ok(self.completing.len() <= COMPLETING_MAX)
    }

    fn finish(&mut self) -> Result<()> {
        let open: Vec<String> = self.open.keys().cloned().collect();
        open.iter().try_for_each(|directory| self.retire(directory))?;
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
    /// The sink's path: the directories below it may be new.
    root: PathBuf,
    overwrite: bool,
    /// When it was begun, and the number of its last write.
    since: Duration,
    written: u64,
    /// Vanishes if it is dropped.
    file: NamedTempFile,
    writer: Box<dyn WriteFile>,
    /// Bytes of the writer that the operating system has not got.
    buffer: Vec<u8>,
    /// The shard's count of those that it has.
    bytes: Arc<AtomicU64>,
}

impl Part {
    fn create(
        path: PathBuf,
        sink: &FileSink,
        writer: Box<dyn WriteFile>,
        since: Duration,
        bytes: Arc<AtomicU64>,
    ) -> Result<Part> {
        let name = path.file_name().ok_or_else(|| Error::invalid("it has no name").within(place(&path)))?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".tmp")
            // what the umask leaves of it, like any new file
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(directory(&path))
            .map_err(|error| unwritable(&path, error))?;
        let root = sink.path.clone();
        Ok(Part { path, root, overwrite: sink.overwrite, since, written: 0, file, writer, buffer: Vec::new(), bytes })
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
        self.bytes.fetch_add(self.buffer.len() as u64, Relaxed);
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end, makes the file durable and gives it its name.
    fn complete(mut self) -> Result<()> {
        self.hand_over()?;
        let end = self.writer.finish().map_err(|error| error.within(place(&self.path)))?;
        self.file.write_all(&end).map_err(|error| unwritable(&self.path, error))?;
        self.bytes.fetch_add(end.len() as u64, Relaxed);
        self.file.as_file().sync_all().map_err(|error| unwritable(&self.path, error))?;
        let named = match self.overwrite {
            true => self.file.persist(&self.path),
            false => self.file.persist_noclobber(&self.path),
        };
        named.map_err(|error| unwritable(&self.path, error.error))?;
        make_durable(directory(&self.path), &self.root)
    }
}

/// Makes what is in `folder` durable, and that it is there, up to `root`.
pub(super) fn make_durable(mut folder: &Path, root: &Path) -> Result<()> {
    loop {
        let opened = File::open(folder).map_err(|error| unwritable(folder, error))?;
        opened.sync_all().map_err(|error| unwritable(folder, error))?;
        match folder.parent().filter(|_| folder.starts_with(root) && folder != root) {
            Some(parent) => folder = parent,
            None => return Ok(()),
        }
    }
}

/// A part that is there.
pub(super) struct Found {
    /// The directory below the sink's path, with the slash at its end.
    directory: String,
    pub path: PathBuf,
    pub shard: usize,
    /// None for one of several that a checkpoint has published into a directory.
    number: Option<usize>,
}

/// The parts in `root` and in the directories of partitions below it.
pub(super) fn find_parts(root: &Path, depth: usize) -> Result<Vec<Found>> {
    fn search(root: &Path, directory: &str, depth: usize, found: &mut Vec<Found>) -> Result<()> {
        let folder = root.join(directory);
        for entry in fs::read_dir(&folder).map_err(|error| unwritable(&folder, error))? {
            let path = entry.map_err(|error| unwritable(&folder, error))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if depth > 0 {
                if name.contains('=') && path.is_dir() {
                    search(root, &format!("{directory}{name}/"), depth - 1, found)?;
                }
            } else if let Some((shard, number)) = part_numbers(name) {
                found.push(Found { directory: directory.to_owned(), path, shard, number });
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    search(root, "", depth, &mut found)?;
    Ok(found)
}

/// Shard and number of `part-<shard>-<n>.<ext>`; the number is none in `part-<shard>-<epoch>-<n>.<ext>`.
fn part_numbers(name: &str) -> Option<(usize, Option<usize>)> {
    let (numbers, _) = name.strip_prefix("part-")?.split_once('.')?;
    let (shard, part) = numbers.split_once('-')?;
    let shard = shard.parse().ok()?;
    match part.split_once('-') {
        None => Some((shard, Some(part.parse().ok()?))),
        Some((epoch, number)) => {
            let _: (usize, usize) = (epoch.parse().ok()?, number.parse().ok()?);
            Some((shard, None))
        }
    }
}

pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn unwritable(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("cannot write it: {error}")).within(place(path)).caused_by(error)
}

pub(super) fn place(path: &Path) -> String {
    place_of(&path.to_string_lossy())
}
