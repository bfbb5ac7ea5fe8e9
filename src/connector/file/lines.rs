//! Records that end with a newline, and how a share of a file is cut into them.
//!
//! A piece `[start, end]` of a file owns the records that start after the first newline at or after `start` (for the first
//! piece: from 0 on), up to the one that starts at `end` or covers it; so each record has one owner, wherever the cuts are.
//!
//! A file is read in blocks at an offset, and nothing is kept between two polls but that offset. One that is followed has
//! no end but when it is gone: until then its last line waits for its newline.
//!
//! The offset of the next record is the split's position: in the file, or in the text that comes out of a compressed one. A
//! later piece of a file is read from a byte that may be within a record, and then from the first record on, which starts
//! behind it; so a position says which.

use super::handle::{Handle, Look};
use super::piece::END;
use super::place_of;
use super::stream::Stream;
use crate::connector::bad::{Origin, Refused, Sieve};
use crate::connector::{Polled, Split};
use crate::error::{Error, Result};
use crate::format::{Format, Framing, RECORD_BYTES_MAX, ReadAt, Records};
use crate::time::Clock;
use memchr::{memchr, memchr_iter};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What is read of a file at once, unless a record is longer.
pub(super) const BLOCK_BYTES: usize = 512 << 10;
/// How often a file that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
pub(super) const FOLLOW_HELP: &str = "append to a file that is followed, or give what comes a new name";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A share of a file of lines.
pub(super) struct LinesSplit {
    path: String,
    input: Input,
    framing: Framing,
    sieve: Sieve,
    /// Of the next record, once `aligned`.
    offset: u64,
    /// False until the first newline of a later piece is found.
    aligned: bool,
    /// Lines before `offset`; unknown in a later piece of a file, or of one that was read before.
    lines: Option<u64>,
    /// At the file's start a byte order mark and a header may be passed over.
    skip_mark: bool,
    skip_header: bool,
    /// Of each record of the last poll, its line, or where lines are unknown its offset.
    marks: Vec<u64>,
    ended: bool,
}

impl LinesSplit {
    /// The records of `input`, whose first byte is `start`, from `position` on.
    pub fn new(path: String, input: Input, (start, position): (u64, u64), format: &Format, sieve: Sieve) -> Self {
        LinesSplit {
            path,
            input,
            framing: format.framing(),
            sieve,
            offset: position,
            aligned: start == 0 || position > start,
            lines: (position == 0).then_some(0),
            skip_mark: position == 0 && *format != Format::Raw,
            skip_header: position == 0 && matches!(format, Format::Csv(csv) if csv.header),
            marks: Vec::new(),
            ended: false,
        }
    }
}

impl Split for LinesSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        self.sieve.forget();
        loop {
            let (bytes, length, at_end) =
                match self.input.take(self.offset).map_err(|e| e.within(place_of(&self.path)))? {
                    Taken::Bytes { bytes, length, at_end } => (bytes, length, at_end),
                    Taken::Pending => return Ok(Polled::Pending),
                    Taken::Ended => {
                        self.ended = true;
                        return Ok(Polled::Ended);
                    }
                };
            self.lines = self.lines.or_else(|| self.input.lines_passed());
            let cut = self.cut(&bytes[..length], at_end, rows_max.max(1));
            let (records, consumed) = cut.map_err(|e| e.within(self.place_of_record(0)))?;
            let full = records.len() >= rows_max;
            self.input.give_back(bytes, consumed, full).map_err(|e| e.within(self.place_of_record(0)))?;
            if records.is_empty() {
                continue;
            }
            let rows = self.sieve.decode(records.finish());
            let rows = rows.map_err(|bad| Error::data(bad.reason).within(self.place_of_record(bad.index)))?;
            return Ok(Polled::Rows { rows, bytes: consumed });
        }
    }

    fn position(&self) -> u64 {
        if self.ended { END } else { self.offset }
    }

    fn caught_up(&self) -> bool {
        !self.input.passes()
    }

    fn place(&self, row: usize) -> String {
        self.place_of_record(self.sieve.passed().record_of(row))
    }

    fn record(&self, row: usize) -> Option<Vec<u8>> {
        self.sieve.record(self.sieve.passed().record_of(row))
    }

    fn take_refused(&mut self) -> Vec<Refused> {
        let bad = self.sieve.take_bad();
        let origin = |record| Origin { place: self.place_of_record(record), ..Origin::default() };
        Refused::all(bad, |record| (self.sieve.record(record), origin(record)))
    }
}

impl LinesSplit {
    fn place_of_record(&self, record: usize) -> String {
        let (unit, next) = match self.lines {
            Some(lines) => ("line", lines + 1),
            None => ("byte", self.offset),
        };
        format!("{}, {unit} {}", place_of(&self.path), self.marks.get(record).copied().unwrap_or(next))
    }

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

/// Where a split's bytes come from.
pub(super) enum Input {
    /// A file, or a piece of one.
    File(Blocks),
    /// What is read once from its start.
    Stream(Stream),
}

/// What an input has at an offset.
pub(crate) enum Taken {
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
            Input::Stream(stream) => stream.take(),
        }
    }

    /// Takes the bytes of [`Input::take`] back, `consumed` of which are done with; `full` if a poll's rows came from less.
    fn give_back(&mut self, bytes: Vec<u8>, consumed: usize, full: bool) -> Result<()> {
        match self {
            Input::File(blocks) => blocks.give_back(bytes, consumed, full),
            Input::Stream(stream) => stream.give_back(bytes, consumed),
        }
    }

    /// True while it passes over what was read before.
    fn passes(&self) -> bool {
        matches!(self, Input::Stream(stream) if stream.passes())
    }

    /// The lines that it has passed over, if it knows.
    fn lines_passed(&self) -> Option<u64> {
        match self {
            Input::File(_) => None,
            Input::Stream(stream) => Some(stream.lines_passed()),
        }
    }

    /// A record belongs to this piece if it starts at most so many bytes behind `offset`.
    fn owned(&self, offset: u64) -> u64 {
        match self {
            Input::File(blocks) => blocks.end - offset,
            Input::Stream(_) => u64::MAX,
        }
    }
}

/// A file, read at offsets.
pub(super) struct Blocks {
    file: Handle,
    /// The last byte at which a record of this piece may start.
    end: u64,
    block_bytes: usize,
    follow: Option<Follow>,
    /// Lent from poll to poll to all splits of a worker.
    buffer: Rc<Cell<Vec<u8>>>,
}

/// What is known of a file that is followed.
struct Follow {
    clock: Arc<dyn Clock>,
    /// When it was looked at last.
    looked: Option<Duration>,
    /// Bytes behind the last whole record, up to the end that the file had.
    partial: u64,
    gone: bool,
}

impl Blocks {
    /// The piece of `file` that ends at `end`.
    pub fn new(file: Handle, end: u64, buffer: &Rc<Cell<Vec<u8>>>) -> Self {
        Blocks { file, end, block_bytes: BLOCK_BYTES, follow: None, buffer: Rc::clone(buffer) }
    }

    /// All of `file`, and what will be appended to it.
    pub fn followed(file: Handle, clock: &Arc<dyn Clock>, buffer: &Rc<Cell<Vec<u8>>>) -> Self {
        let follow = Follow { clock: Arc::clone(clock), looked: None, partial: 0, gone: false };
        Blocks { follow: Some(follow), ..Blocks::new(file, u64::MAX, buffer) }
    }

    fn take(&mut self, offset: u64) -> Result<Taken> {
        if let Some(follow) = self.follow.as_mut().filter(|follow| !follow.gone)
            && offset + follow.partial >= self.file.size()
        {
            let now = follow.clock.monotonic();
            if follow.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_EVERY) {
                return Ok(Taken::Pending);
            }
            follow.looked = Some(now);
            match self.file.look() {
                Ok(Look::Grown) => {}
                Ok(Look::Same) => return Ok(Taken::Pending),
                Ok(Look::Gone) => follow.gone = true,
                Err(error) => {
                    return Err(Error::unavailable(error.to_string()).help(FOLLOW_HELP));
                }
            }
        }
        if offset > self.end || offset >= self.file.size() {
            return Ok(Taken::Ended);
        }
        let rest = self.file.size() - offset;
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(self.block_bytes);
        let mut bytes = self.buffer.take();
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        self.file
            .read_exact_at(&mut bytes[..length], offset)
            .map_err(|error| Error::unavailable(format!("cannot read at byte {offset}: {error}")).caused_by(error))?;
        let grows = self.follow.as_ref().is_some_and(|follow| !follow.gone);
        if let Some(follow) = &mut self.follow {
            follow.partial = if length as u64 == rest { rest } else { 0 };
        }
        Ok(Taken::Bytes { bytes, length, at_end: length as u64 == rest && !grows })
    }

    fn give_back(&mut self, mut bytes: Vec<u8>, consumed: usize, full: bool) -> Result<()> {
        let waits = self.follow.as_ref().map_or(0, |follow| follow.partial);
        if let Some(follow) = self.follow.as_mut().filter(|_| consumed > 0) {
            follow.partial = 0;
        }
        self.block_bytes = match consumed {
            0 if waits > RECORD_BYTES_MAX as u64 => return Err(too_long()),
            0 if waits > 0 => self.block_bytes,
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

/// The error for what goes on without a newline.
pub(super) fn too_long() -> Error {
    Error::data(format!("a record is longer than {RECORD_BYTES_MAX} bytes")).help("is the format right?")
}
