//! `file`: the rows of files, once, from their start to the end that they had when reading began.
//!
//! `path` is a file, a glob or `-` for standard input. A file is one split, or several of `split.bytes` where it can be cut:
//! at newlines if they always end a record, between the row groups of Parquet, between the blocks of Avro. What cannot be
//! read at an offset (standard input, a pipe, a compressed file) is one split.
//!
//! With `scan.follow` a file of lines is one split that does not end, and files that come later are splits of their own.
//!
//! ```text
//! FileSource ── splits: files, cut ──▶ names (Piece) ── open ──▶ LinesSplit (records)  or  RowsSplit (Parquet, Avro)
//! FileSink ── FileShard ──▶ Part: hidden until it is complete
//!          └─ FileStager ──▶ rows in checkpoints ──▶ FilePublisher: files of whole checkpoints, once
//! ```

pub(crate) mod handle;
pub(crate) mod lines;
mod partition;
pub(crate) mod piece;
mod publish;
mod rows;
mod sink;
pub(crate) mod stream;

pub use partition::METADATA;
pub use sink::FileSink;

use super::bad::{OnError, Sieve};
use super::formats::FORMAT;
use super::{Context, Gives, OptionSpec, Options, Polled, Preset, Source, Split, SplitStart, Table, Takes};
use crate::error::{Error, Result};
use crate::format::parquet::Footer;
use crate::format::sift::OnBad;
use crate::format::{FileFormat, Format, Missing, Packing, ReadAt};
use arrow::datatypes::{Schema, SchemaRef};
use handle::{Handle, Identity, OpenFiles};
use lines::{Blocks, Input, LinesSplit};
use partition::{Partition, PartitionedSplit};
use piece::{END, Part, Piece};
use rows::{Footers, RowsSplit, Share};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;

const PATH: OptionSpec = OptionSpec::both(
    "path",
    Takes::Text,
    Preset::Required,
    "to read: a file, a glob such as `logs/**/*.txt`, a directory with all that is below it if it ends with `/`, or `-` for standard input; to write: a file, or a directory if it ends with `/`",
);

const CSV_HEADER: OptionSpec = OptionSpec::both(
    "csv.header",
    Takes::Flag,
    Preset::Is("false"),
    "whether the first line of each file has the names of the columns",
);

const SPLIT_BYTES: OptionSpec = OptionSpec::reading(
    "split.bytes",
    Takes::Bytes,
    Preset::None("a 16th of the file, from 4 to 64 MiB"),
    "how much of a file one split has, where it can be cut: at newlines that always end a record, between row groups or blocks",
);

/// Without `split.bytes`: enough splits to share, none so small that it is not worth it, none so large that one is left over.
const SPLITS_A_FILE: u64 = 16;
const SPLIT_BYTES_MIN: u64 = 4 << 20;
const SPLIT_BYTES_MAX: u64 = 64 << 20;

const MISSING_COLUMNS: OptionSpec = OptionSpec::reading(
    "scan.missing-columns",
    Takes::Choice(&["fail", "null"]),
    Preset::Is("fail"),
    "what a column is that a file of Parquet or Avro does not have: an error, or NULL",
);

const COMPRESSION: OptionSpec = OptionSpec::reading(
    "compression",
    Takes::Choice(&["auto", "none", "gzip", "zstd"]),
    Preset::Is("auto"),
    "how files of records are compressed; `auto` goes by their names: `.gz`, `.zst`",
);

const FOLLOW: OptionSpec = OptionSpec::reading(
    "scan.follow",
    Takes::Flag,
    Preset::Is("false"),
    "whether what is appended to a file of lines, and files that come later, are read as they come",
);

const FOLLOW_INTERVAL: OptionSpec = OptionSpec::reading(
    "scan.follow.interval",
    Takes::Duration,
    Preset::Is("1 s"),
    "how often `scan.follow` looks for new files",
);

/// PARTITIONED BY in the declaration says the same.
const PARTITION: OptionSpec = OptionSpec::both(
    "partition.by",
    Takes::Form("columns"),
    Preset::None(""),
    "the columns, with `;` between them, that are in the names of directories rather than in the files; `PARTITIONED BY (…)` after the columns says the same",
);

/// What this connector takes, beside its format.
pub const OPTIONS: &[&OptionSpec] = &[
    &PATH,
    &CSV_HEADER,
    &SPLIT_BYTES,
    &COMPRESSION,
    &MISSING_COLUMNS,
    &FOLLOW,
    &FOLLOW_INTERVAL,
    &PARTITION,
    &sink::OVERWRITE,
    &sink::ROLLING_BYTES,
    &sink::ROLLING_INTERVAL,
    &sink::OPEN_MAX,
    &sink::COMPRESSION,
];

/// The format of the files, with what holds for files only.
fn format_of(options: &Options) -> Result<FileFormat> {
    let mut format = options.file_format("")?;
    if let FileFormat::Records(Format::Csv(csv)) = &mut format {
        csv.header = options.flag(&CSV_HEADER)?;
    }
    Ok(format)
}

/// The columns that are in no file.
fn partition_of(table: &Table) -> Result<Partition> {
    let directories = match table.options.text(&PARTITION) {
        None => Ok(Partition::default()),
        Some(text) => Partition::parse(text, &table.schema).map_err(|error| table.options.misvalued(&PARTITION, error)),
    };
    Ok(directories?.with_metadata(&table.metadata))
}

/// Refuses columns that are not in the files, where those hold changes: of a row that is taken back nothing else is known.
fn whole_rows(partition: &Partition, table: &Table) -> Result<()> {
    match partition.is_empty() {
        true => Ok(()),
        false => {
            let wrong = "files of changes have all columns of their rows";
            let option = if table.options.is_given(&PARTITION) { &PARTITION } else { &FORMAT };
            Err(table.options.wrong(option, wrong).help("leave PARTITIONED BY and columns of METADATA out"))
        }
    }
}

/// Files that are read.
#[derive(Debug)]
pub struct FileSource {
    path: String,
    format: FileFormat,
    /// None: by the files' names.
    packing: Option<Packing>,
    /// The table's columns, and the indexes of those that are read.
    table: SchemaRef,
    columns: Vec<usize>,
    schema: SchemaRef,
    partition: Partition,
    /// The columns that files have, and which of them are read.
    inner: SchemaRef,
    inner_columns: Vec<usize>,
    inner_schema: SchemaRef,
    /// None: by the file's size.
    split_bytes: Option<u64>,
    missing: Missing,
    follow: bool,
    /// Set where new files may come.
    look_every: Option<Duration>,
    on_bad: OnBad,
}

impl FileSource {
    /// Checks the options.
    pub fn new(table: &Table, columns: &[usize]) -> Result<Self> {
        let options = &table.options;
        let format = format_of(options)?;
        let split_bytes = options.if_given(&SPLIT_BYTES, Options::bytes)?;
        if split_bytes == Some(0) {
            return Err(options.wrong(&SPLIT_BYTES, "a split has at least one byte"));
        }
        let path = options.required(&PATH)?;
        let partition = partition_of(table)?;
        let inner = partition.rest(&table.schema);
        let kept: Vec<usize> = (0..table.schema.fields().len()).filter(|index| !partition.has(*index)).collect();
        let inner_columns: Vec<usize> = columns.iter().filter_map(|column| kept.binary_search(column).ok()).collect();
        let project = |schema: &SchemaRef, columns: &[usize]| {
            let fields = columns.iter().map(|column| Arc::clone(&schema.fields()[*column]));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        let mut missing = Missing::Refused;
        let mut packing = None;
        match &format {
            FileFormat::Records(format) => {
                if format.changes() {
                    whole_rows(&partition, table)?;
                }
                format.decoder(&inner, &inner_columns)?;
                packing = match options.choice(&COMPRESSION)? {
                    "auto" => None,
                    "gzip" => Some(Packing::Gzip),
                    "zstd" => Some(Packing::Zstd),
                    _ => Some(Packing::None),
                };
            }
            _ if path == "-" => {
                let help = "read a file, or a format of lines";
                return Err(options.wrong(&PATH, "files of rows are not read from standard input").help(help));
            }
            _ if options.choice(&MISSING_COLUMNS)? == "null" => missing = Missing::Null,
            _ => {}
        }
        let follow = options.flag(&FOLLOW)?;
        let many = path.ends_with('/') || path.contains(['*', '?', '[']);
        let help = "follow a directory or a glob, or a file of lines";
        if follow && path == "-" {
            return Err(options.wrong(&FOLLOW, "standard input is read to its end in any case").help(help));
        }
        let grows = match &format {
            FileFormat::Records(_) => packing.unwrap_or_else(|| Packing::of_name(path)) == Packing::None,
            FileFormat::Parquet(_) | FileFormat::Avro(_) => false,
        };
        if follow && !many && !grows {
            return Err(options.wrong(&FOLLOW, "a file of this kind does not grow").help(help));
        }
        let look_every = if follow && many { Some(options.duration(&FOLLOW_INTERVAL)?) } else { None };
        Ok(FileSource {
            path: path.to_owned(),
            format,
            packing,
            table: Arc::clone(&table.schema),
            columns: columns.to_vec(),
            schema: project(&table.schema, columns),
            partition,
            inner_schema: project(&inner, &inner_columns),
            inner,
            inner_columns,
            split_bytes,
            missing,
            follow,
            look_every,
            on_bad: OnError::of(options)?.on_bad,
        })
    }

    /// How much of a file of `size` bytes one split has. It depends on nothing else, so that a run on more workers reads the same splits.
    fn step(&self, size: u64) -> u64 {
        self.split_bytes.unwrap_or_else(|| (size / SPLITS_A_FILE).clamp(SPLIT_BYTES_MIN, SPLIT_BYTES_MAX))
    }

    /// The files that `path` names, sorted.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let literal = Path::new(&self.path);
        let below = self.path.ends_with('/') && literal.is_dir();
        if !below && (literal.exists() || !self.path.contains(['*', '?', '['])) {
            return Ok(vec![literal.to_path_buf()]);
        }
        let pattern = match below {
            true => format!("{}**/*", glob::Pattern::escape(&self.path)),
            false => self.path.clone(),
        };
        // What is being written beside its final name is hidden.
        let visible = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
        let glob = glob::glob_with(&pattern, visible)
            .map_err(|error| Error::invalid(format!("option 'path': '{}' is not a glob: {}", self.path, error.msg)))?;
        let mut files = Vec::new();
        for entry in glob {
            let path = entry.map_err(|error| unreadable(error.path(), error.error()))?;
            if !path.is_dir() {
                files.push(path);
            }
        }
        if files.is_empty() && self.look_every.is_none() {
            return Err(Error::unavailable(format!("no file matches '{}'", self.path)));
        }
        files.sort();
        Ok(files)
    }

    fn pieces(&self, path: &Path) -> Result<Vec<Piece>> {
        let name = path.to_str().ok_or_else(|| Error::invalid(format!("the name of file {path:?} is not UTF-8")))?;
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if metadata.is_dir() {
            let what = Error::invalid("it is a directory").within(place_of(name));
            return Err(what.help(format!("to read the files in it, set 'path' = '{}/*'", name.trim_end_matches('/'))));
        }
        let records = match &self.format {
            FileFormat::Records(format) => Some(format),
            FileFormat::Parquet(_) | FileFormat::Avro(_) => None,
        };
        if !metadata.is_file() {
            // Not opened here: a pipe's writer would take the first end of its reader for the last.
            return match records {
                Some(_) => Ok(vec![Piece::stream(name)]),
                None => {
                    Err(Error::invalid("it is no regular file, which a format of rows needs").within(place_of(name)))
                }
            };
        }
        File::open(path).map_err(|error| unreadable(path, &error))?;
        let size = metadata.len();
        let identity = Some(Identity::of(&metadata));
        let piece = |part| Piece { path: name.into(), part, identity };
        let packing = self.packing.unwrap_or_else(|| Packing::of_name(name));
        if records.is_some() && packing != Packing::None {
            return Ok(vec![piece(Part::Packed { packing, size })]);
        }
        if self.follow && records.is_some() {
            return Ok(vec![piece(Part::Followed)]);
        }
        if let FileFormat::Parquet(_) = self.format {
            let file: Arc<dyn ReadAt> = Arc::new(Handle::new(name, size, &Arc::default()));
            let groups = Footer::read(&file).map_err(|error| error.within(place_of(name)))?.group_bytes();
            return Ok(runs(&groups, self.step(size))
                .map(|(start, end)| piece(Part::Groups { start, end, size }))
                .collect());
        }
        let whole = records.is_some_and(|format| !format.framing().can_start_anywhere());
        let step = if whole { u64::MAX } else { self.step(size) };
        let mut pieces = Vec::new();
        let mut start = 0_u64;
        loop {
            let end = start.saturating_add(step).min(size);
            pieces.push(piece(match records {
                Some(_) => Part::Bytes { start, end, size },
                None => Part::Blocks { start, end, size },
            }));
            if end == size {
                return Ok(pieces);
            }
            start = end;
        }
    }
}

/// Cuts row groups of these sizes into runs of about `bytes`, each given by its first group and the one after its last.
fn runs(groups: &[u64], bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = start;
        let mut sum = 0_u64;
        while start < groups.len() && (sum == 0 || sum.saturating_add(groups[start]) <= bytes) {
            sum = sum.saturating_add(groups[start]).max(1);
            start += 1;
        }
        (start > first).then_some((first as u64, start as u64))
    })
}

impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        !self.follow
    }

    fn gives(&self) -> Gives {
        match &self.format {
            FileFormat::Records(format) if format.changes() => Gives::Changes,
            _ => Gives::Rows,
        }
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.look_every
    }

    fn discover(&self, known: &[String], _context: &Context) -> Result<Vec<String>> {
        let known = known.iter().map(|name| Piece::parse(name).map(|piece| (piece.path, (piece.part, piece.identity))));
        let known = known.collect::<Result<HashMap<_, _>>>()?;
        let mut names = Vec::new();
        for path in self.files()? {
            match path.to_str().and_then(|path| known.get(path)) {
                None => names.extend(self.pieces(&path)?.iter().map(Piece::name)),
                Some((Part::Followed, identity)) => {
                    // It may be gone by now, which its split will see.
                    let now = fs::metadata(&path).map(|metadata| Identity::of(&metadata));
                    if now.is_ok_and(|now| Some(now) != *identity) {
                        return Err(Error::invalid(handle::REPLACED)
                            .within(place_of(&path.to_string_lossy()))
                            .help(lines::FOLLOW_HELP));
                    }
                }
                Some(_) => {}
            }
        }
        Ok(names)
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        if self.path == "-" {
            return Ok(vec![Piece::stream("-").name()]);
        }
        let mut names = Vec::new();
        for path in self.files()? {
            names.extend(self.pieces(&path)?.iter().map(Piece::name));
        }
        Ok(names)
    }

    fn resume(&self, splits: Vec<SplitStart>, accept_gap: bool, _context: &Context) -> Result<Vec<SplitStart>> {
        let resume = |split: SplitStart| Piece::parse(&split.name)?.resume(split.position, accept_gap);
        splits.into_iter().map(resume).collect()
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let files = Arc::new(OpenFiles::default());
        let footers = Footers::default();
        let buffer = Rc::new(Cell::new(Vec::new()));
        let mut opened: Vec<Box<dyn Split>> = Vec::with_capacity(splits.len());
        for SplitStart { name, position } in splits {
            let piece = Piece::parse(name)?;
            if position.is_some_and(|position| piece.ended_at(position)) {
                opened.push(Box::new(Ended { path: piece.path }));
                continue;
            }
            let Piece { path, part, identity } = piece;
            let handle = |size| Handle::new(&path, size, &files);
            let split: Box<dyn Split> = match &self.format {
                FileFormat::Records(format) => {
                    let begin = position.unwrap_or(0);
                    let (start, input) = match part {
                        Part::Stream if begin > 0 => {
                            return Err(Error::internal(format!("'{name}' cannot be read on")));
                        }
                        Part::Stream => {
                            (0, Input::Stream(Stream::start(&path, self.packing.unwrap_or(Packing::None))?))
                        }
                        Part::Packed { packing, size } => {
                            (0, Input::Stream(Stream::packed(handle(size), packing, begin)))
                        }
                        Part::Followed => {
                            let identity = identity.expect("the name of a file that is followed has its identity");
                            let file = Handle::followed(&path, identity, begin, &files);
                            (0, Input::File(Blocks::followed(file, &context.clock, &buffer)))
                        }
                        Part::Bytes { start, end, size } => {
                            (start, Input::File(Blocks::new(handle(size), end, &buffer)))
                        }
                        Part::Blocks { .. } | Part::Groups { .. } => {
                            return Err(Error::internal(format!("'{name}' has no lines")));
                        }
                    };
                    let sieve = Sieve::new(format.decoder(&self.inner, &self.inner_columns)?, self.on_bad);
                    let bounds = (start, position.unwrap_or(start));
                    Box::new(LinesSplit::new(path.clone(), input, bounds, format, sieve))
                }
                FileFormat::Parquet(_) | FileFormat::Avro(_) => {
                    let (share, size) = match part {
                        Part::Blocks { start, end, size } => (Share::Bytes(start..end), size),
                        Part::Groups { start, end, size } => (Share::Groups(start as usize..end as usize), size),
                        _ => {
                            return Err(Error::internal(format!("'{name}' has no rows")));
                        }
                    };
                    Box::new(RowsSplit {
                        file: Arc::new(handle(size)),
                        path: path.clone(),
                        share,
                        schema: Arc::clone(&self.inner_schema),
                        missing: self.missing,
                        footers: Rc::clone(&footers),
                        state: rows::State::at(position.unwrap_or(0)),
                    })
                }
            };
            opened.push(match self.partition.is_empty() {
                true => split,
                false => Box::new(PartitionedSplit::new(
                    split,
                    &path,
                    &self.partition,
                    &self.table,
                    &self.columns,
                    &self.schema,
                )?),
            });
        }
        Ok(opened)
    }
}

/// A split that was read to its end before.
struct Ended {
    path: String,
}

impl Split for Ended {
    fn poll(&mut self, _rows_max: usize) -> Result<Polled> {
        Ok(Polled::Ended)
    }

    fn position(&self) -> u64 {
        END
    }

    fn place(&self, _row: usize) -> String {
        place_of(&self.path)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::unavailable(format!("cannot read it: {error}")).within(place_of(&path.to_string_lossy()))
}

fn place_of(path: &str) -> String {
    match path {
        "-" => "standard input".into(),
        path => format!("file \"{path}\""),
    }
}
