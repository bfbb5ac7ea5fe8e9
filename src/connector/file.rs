//! `file`: the records of files, once, from their start to the end that they had when reading began.
//!
//! `path` is a file, a glob or `-` for standard input. A file is one split, or several of `split.bytes` if a newline always
//! ends a record, so that workers share it. A piece `[start, end]` of a file owns the records that start after the first
//! newline at or after `start` (for the first piece: from 0 on), up to the one that starts at `end` or covers it; so each
//! record has one owner, wherever the cuts are.
//!
//! Files are read in blocks at an offset and keep nothing between two polls but that offset, so that a worker can hold
//! thousands of splits. What cannot be read at an offset (standard input, a pipe) is read ahead by a thread of its own.

mod sink;

pub use sink::FileSink;

use super::{Context, OptionSpec, Polled, Preset, Source, Split, Table, Takes};
use crate::error::{Error, Result};
use crate::format::{Decode, Format, Framing, RECORD_BYTES_MAX, Records};
use arrow::datatypes::{Schema, SchemaRef};
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use memchr::{memchr, memchr_iter};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What is read of a file at once, unless a record is longer.
const BLOCK_BYTES: usize = 512 << 10;
/// What a pipe's thread hands over at once, and how many of these may wait.
const PIPE_BLOCK_BYTES: usize = 64 << 10;
const PIPE_BLOCKS_MAX: usize = 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const PATH: OptionSpec = OptionSpec::both(
    "path",
    Takes::Text,
    Preset::Required,
    "to read: a file, a glob such as `logs/**/*.txt`, or `-` for standard input; to write: a file, or a directory if it ends with `/`",
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
    Preset::Is("64 MiB"),
    "how much of a file one split has, where a newline always ends a record",
);

/// What this connector takes, beside its format.
pub const OPTIONS: &[&OptionSpec] = &[&PATH, &CSV_HEADER, &SPLIT_BYTES, &sink::ROLLING_BYTES, &sink::OVERWRITE];

/// Files that are read.
#[derive(Debug)]
pub struct FileSource {
    path: String,
    format: Format,
    /// The table's columns, and the indexes of those that are read.
    table: SchemaRef,
    columns: Vec<usize>,
    schema: SchemaRef,
    split_bytes: u64,
}

impl FileSource {
    /// Checks the options.
    pub fn new(table: &Table, columns: &[usize]) -> Result<Self> {
        let options = &table.options;
        let mut format = options.format("")?;
        if let Format::Csv(csv) = &mut format {
            csv.header = options.flag(&CSV_HEADER)?;
        }
        let split_bytes = options.bytes(&SPLIT_BYTES)?;
        if split_bytes == 0 {
            return Err(options.wrong(&SPLIT_BYTES, "a split has at least one byte"));
        }
        format.decoder(&table.schema, columns)?;
        let fields = columns.iter().map(|column| Arc::clone(&table.schema.fields()[*column]));
        Ok(FileSource {
            path: options.required(&PATH)?.to_owned(),
            format,
            table: Arc::clone(&table.schema),
            columns: columns.to_vec(),
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            split_bytes,
        })
    }

    /// The files that `path` names, sorted.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let literal = Path::new(&self.path);
        if literal.exists() || !self.path.contains(['*', '?', '[']) {
            return Ok(vec![literal.to_path_buf()]);
        }
        let glob = glob::glob(&self.path)
            .map_err(|error| Error::invalid(format!("option 'path': '{}' is not a glob: {}", self.path, error.msg)))?;
        let mut files = Vec::new();
        for entry in glob {
            let path = entry.map_err(|error| unreadable(error.path(), error.error()))?;
            if !path.is_dir() {
                files.push(path);
            }
        }
        if files.is_empty() {
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
        if !metadata.is_file() {
            // Not opened here: a pipe's writer would take the first end of its reader for the last.
            return Ok(vec![Piece { path: name.into(), range: None }]);
        }
        File::open(path).map_err(|error| unreadable(path, &error))?;
        let size = metadata.len();
        let step = if self.format.framing().can_start_anywhere() { self.split_bytes } else { u64::MAX };
        let mut pieces = Vec::new();
        let mut start = 0_u64;
        loop {
            let end = start.saturating_add(step).min(size);
            pieces.push(Piece { path: name.into(), range: Some(Range { start, end, size }) });
            if end == size {
                return Ok(pieces);
            }
            start = end;
        }
    }
}

impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        if self.path == "-" {
            return Ok(vec![Piece { path: "-".into(), range: None }.name()]);
        }
        let mut names = Vec::new();
        for path in self.files()? {
            names.extend(self.pieces(&path)?.iter().map(Piece::name));
        }
        Ok(names)
    }

    fn open(&self, splits: &[String], _context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let mut files: HashMap<String, Rc<File>> = HashMap::new();
        let buffer = Rc::new(Cell::new(Vec::new()));
        let mut opened: Vec<Box<dyn Split>> = Vec::with_capacity(splits.len());
        for name in splits {
            let piece = Piece::parse(name)?;
            let start = piece.range.map_or(0, |range| range.start);
            let input = match piece.range {
                None => Input::Pipe(Pipe::start(&piece.path)?),
                Some(Range { end, size, .. }) => {
                    let file = match files.get(&piece.path) {
                        Some(file) => Rc::clone(file),
                        None => Rc::new(
                            File::open(&piece.path).map_err(|error| unreadable(Path::new(&piece.path), &error))?,
                        ),
                    };
                    files.insert(piece.path.clone(), Rc::clone(&file));
                    Input::File(Blocks { file, end, size, block_bytes: BLOCK_BYTES, buffer: Rc::clone(&buffer) })
                }
            };
            opened.push(Box::new(FileSplit {
                path: piece.path,
                input,
                framing: self.format.framing(),
                decoder: self.format.decoder(&self.table, &self.columns)?,
                offset: start,
                aligned: start == 0,
                lines: (start == 0).then_some(0),
                skip_mark: start == 0 && self.format != Format::Raw,
                skip_header: matches!(&self.format, Format::Csv(csv) if csv.header),
                marks: Vec::new(),
            }));
        }
        Ok(opened)
    }
}

/// A split's name, parsed: `path:start-end/size`, or `path:pipe` for what has no size.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    path: String,
    range: Option<Range>,
}

/// Bytes of a file that had `size` bytes when it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    size: u64,
}

impl Piece {
    fn name(&self) -> String {
        match self.range {
            None => format!("{}:pipe", self.path),
            Some(Range { start, end, size }) => format!("{}:{start}-{end}/{size}", self.path),
        }
    }

    fn parse(name: &str) -> Result<Piece> {
        let parsed = name.rsplit_once(':').and_then(|(path, range)| {
            if range == "pipe" {
                return Some(Piece { path: path.into(), range: None });
            }
            let (bytes, size) = range.split_once('/')?;
            let (start, end) = bytes.split_once('-')?;
            let range = Range { start: start.parse().ok()?, end: end.parse().ok()?, size: size.parse().ok()? };
            Some(Piece { path: path.into(), range: Some(range) })
        });
        parsed.ok_or_else(|| Error::internal(format!("'{name}' is no split of a file")))
    }
}

struct FileSplit {
    path: String,
    input: Input,
    framing: Framing,
    decoder: Box<dyn Decode>,
    /// Of the next record, once `aligned`.
    offset: u64,
    /// False until the first newline of a later piece is found.
    aligned: bool,
    /// Lines before `offset`; unknown in a later piece of a file.
    lines: Option<u64>,
    /// At the file's start a byte order mark and a header may be passed over.
    skip_mark: bool,
    skip_header: bool,
    /// Of each record of the last poll, its line, or where lines are unknown its offset.
    marks: Vec<u64>,
}

impl Split for FileSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        loop {
            let (bytes, length, at_end) =
                match self.input.take(self.offset).map_err(|e| e.within(place_of(&self.path)))? {
                    Taken::Bytes { bytes, length, at_end } => (bytes, length, at_end),
                    Taken::Pending => return Ok(Polled::Pending),
                    Taken::Ended => return Ok(Polled::Ended),
                };
            let cut = self.cut(&bytes[..length], at_end, rows_max.max(1));
            let (records, consumed) = cut.map_err(|e| e.within(self.place(0)))?;
            let full = records.len() >= rows_max;
            self.input.give_back(bytes, consumed, full).map_err(|e| e.within(self.place(0)))?;
            if records.is_empty() {
                continue;
            }
            let rows = self.decoder.decode(&records.finish());
            let rows = rows.map_err(|bad| Error::data(bad.reason).within(self.place(bad.index)))?;
            return Ok(Polled::Rows { rows, bytes: consumed });
        }
    }

    fn position(&self) -> u64 {
        self.offset
    }

    fn place(&self, row: usize) -> String {
        let (unit, next) = match self.lines {
            Some(lines) => ("line", lines + 1),
            None => ("byte", self.offset),
        };
        format!("{}, {unit} {}", place_of(&self.path), self.marks.get(row).copied().unwrap_or(next))
    }
}

impl FileSplit {
    /// Cuts at most `rows_max` records off `bytes`, which stand at `offset`, and moves on behind them.
    fn cut(&mut self, bytes: &[u8], at_end: bool, rows_max: usize) -> Result<(Records, usize)> {
        self.marks.clear();
        let mut at = 0;
        if !self.aligned {
            let newline = memchr(b'\n', bytes);
            self.aligned = newline.is_some();
            at = newline.map_or(bytes.len(), |newline| newline + 1);
            self.offset += at as u64;
            return Ok((Records::default(), at));
        }
        if self.skip_mark && bytes.starts_with(BYTE_ORDER_MARK) {
            at = BYTE_ORDER_MARK.len();
        }
        let mut records = Records::with_capacity(rows_max.min(bytes.len()), bytes.len());
        let owned = self.input.owned(self.offset);
        let mut consumed = 0;
        while records.len() < rows_max && at as u64 <= owned {
            let Some(piece) = self.framing.first(&bytes[at..], at_end) else {
                consumed = if at_end { bytes.len() } else { consumed };
                break;
            };
            let mark = self.lines.map_or(self.offset + at as u64, |lines| lines + 1);
            if piece.record.len() > RECORD_BYTES_MAX {
                self.marks = vec![mark];
                return Err(too_long());
            }
            if self.skip_header {
                self.skip_header = false;
            } else if !self.framing.skips(piece.record) {
                self.marks.push(mark);
                records.push(piece.record);
            }
            if let Some(lines) = &mut self.lines {
                *lines += match self.framing {
                    Framing::Lines { .. } => 1,
                    Framing::Quoted { .. } => memchr_iter(b'\n', &bytes[at..at + piece.length]).count() as u64,
                };
            }
            at += piece.length;
            consumed = at;
            self.skip_mark = false;
        }
        self.offset += consumed as u64;
        Ok((records, consumed))
    }
}

enum Input {
    File(Blocks),
    Pipe(Pipe),
}

/// What an input has at an offset.
enum Taken {
    /// `bytes[..length]`, whose last byte is the input's last if `at_end`.
    Bytes {
        bytes: Vec<u8>,
        length: usize,
        at_end: bool,
    },
    Pending,
    Ended,
}

impl Input {
    fn take(&mut self, offset: u64) -> Result<Taken> {
        match self {
            Input::File(blocks) => blocks.take(offset),
            Input::Pipe(pipe) => pipe.take(),
        }
    }

    /// Takes the bytes of [`Input::take`] back, `consumed` of which are done with; `full` if a poll's rows came from less.
    fn give_back(&mut self, bytes: Vec<u8>, consumed: usize, full: bool) -> Result<()> {
        match self {
            Input::File(blocks) => blocks.give_back(bytes, consumed, full),
            Input::Pipe(pipe) => pipe.give_back(bytes, consumed),
        }
    }

    /// A record belongs to this piece if it starts at most so many bytes behind `offset`.
    fn owned(&self, offset: u64) -> u64 {
        match self {
            Input::File(blocks) => blocks.end - offset,
            Input::Pipe(_) => u64::MAX,
        }
    }
}

/// A file, read at offsets.
struct Blocks {
    file: Rc<File>,
    /// The last byte at which a record of this piece may start.
    end: u64,
    size: u64,
    block_bytes: usize,
    /// Lent from poll to poll to all splits of a worker.
    buffer: Rc<Cell<Vec<u8>>>,
}

impl Blocks {
    fn take(&mut self, offset: u64) -> Result<Taken> {
        if offset > self.end || offset >= self.size {
            return Ok(Taken::Ended);
        }
        let rest = self.size - offset;
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(self.block_bytes);
        let mut bytes = self.buffer.take();
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        self.file.read_exact_at(&mut bytes[..length], offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::unavailable(format!("it had {} bytes when reading began and has fewer now", self.size))
            }
            _ => Error::unavailable(format!("cannot read at byte {offset}: {error}")).caused_by(error),
        })?;
        Ok(Taken::Bytes { bytes, length, at_end: length as u64 == rest })
    }

    fn give_back(&mut self, mut bytes: Vec<u8>, consumed: usize, full: bool) -> Result<()> {
        self.block_bytes = match consumed {
            0 if self.block_bytes > RECORD_BYTES_MAX => return Err(too_long()),
            0 => self.block_bytes * 2,
            // Rows are short: what is read beyond them is read again.
            _ if full => (consumed + consumed / 4).clamp(BLOCK_BYTES / 32, BLOCK_BYTES),
            _ => BLOCK_BYTES,
        };
        bytes.truncate(self.block_bytes.max(BLOCK_BYTES));
        bytes.shrink_to(2 * BLOCK_BYTES);
        self.buffer.set(bytes);
        Ok(())
    }
}

/// Standard input or a named pipe, read ahead by a thread.
struct Pipe {
    blocks: Receiver<io::Result<Vec<u8>>>,
    /// What was received and not consumed.
    rest: Vec<u8>,
    /// So many bytes of `rest` are known to hold no whole record.
    searched: usize,
    ended: bool,
}

impl Pipe {
    fn start(path: &str) -> Result<Pipe> {
        let mut reader: Box<dyn Read + Send> = match path {
            "-" => Box::new(io::stdin()),
            path => {
                let path = PathBuf::from(path);
                // Opening a pipe waits for its writer: the thread's business.
                Box::new(OpenLater { path, file: None })
            }
        };
        let (sender, blocks) = bounded(PIPE_BLOCKS_MAX);
        let read = move || loop {
            let mut block = vec![0; PIPE_BLOCK_BYTES];
            let outcome = match reader.read(&mut block) {
                Ok(0) => return,
                Ok(length) => {
                    block.truncate(length);
                    Ok(block)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = outcome.is_err();
            if sender.send(outcome).is_err() || failed {
                return;
            }
        };
        std::thread::Builder::new()
            .name(format!("read {path}"))
            .spawn(read)
            .map_err(|error| Error::unavailable(format!("cannot start a thread to read \"{path}\": {error}")))?;
        Ok(Pipe { blocks, rest: Vec::new(), searched: 0, ended: false })
    }

    fn take(&mut self) -> Result<Taken> {
        while !self.ended && self.rest.len() < self.searched + BLOCK_BYTES {
            match self.blocks.try_recv() {
                Ok(Ok(block)) => self.rest.extend_from_slice(&block),
                Ok(Err(error)) => return Err(Error::unavailable(format!("cannot read: {error}")).caused_by(error)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.ended = true,
            }
        }
        if self.ended && self.rest.is_empty() {
            return Ok(Taken::Ended);
        }
        // Only a newline can complete a record.
        if !self.ended && memchr(b'\n', &self.rest[self.searched..]).is_none() {
            self.searched = self.rest.len();
            return if self.searched > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(Taken::Pending) };
        }
        let bytes = std::mem::take(&mut self.rest);
        Ok(Taken::Bytes { length: bytes.len(), bytes, at_end: self.ended })
    }

    fn give_back(&mut self, mut bytes: Vec<u8>, consumed: usize) -> Result<()> {
        bytes.drain(..consumed);
        self.searched = if consumed == 0 { bytes.len() } else { 0 };
        self.rest = bytes;
        if self.searched > RECORD_BYTES_MAX { Err(too_long()) } else { Ok(()) }
    }
}

/// A file that is opened by the first read.
struct OpenLater {
    path: PathBuf,
    file: Option<File>,
}

impl Read for OpenLater {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.read(buffer),
            None => self.file.insert(File::open(&self.path)?).read(buffer),
        }
    }
}

fn too_long() -> Error {
    Error::data(format!("a record is longer than {RECORD_BYTES_MAX} bytes")).help("is the format right?")
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
