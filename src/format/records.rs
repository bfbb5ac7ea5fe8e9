//! Records that are being gathered, and how a stream of bytes is cut into them.
//!
//! A record ends at a newline, which is not part of it, nor is a carriage return before it. In CSV a newline between
//! quotes is text. What the last record of a stream lacks is only its newline.

use crate::error::{Error, Result};
use arrow::array::BinaryArray;
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use memchr::{memchr, memchr2_iter};

/// A record longer than this is refused: most likely it is not one.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// Records one after the other in one buffer.
#[derive(Debug)]
pub struct Records {
    bytes: Vec<u8>,
    ends: Vec<i32>,
}

impl Default for Records {
    fn default() -> Self {
        Records::with_capacity(0, 0)
    }
}

impl Records {
    /// Room for so many records and bytes.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(records + 1);
        ends.push(0);
        Records { bytes: Vec::with_capacity(bytes), ends }
    }

    /// Appends a record. The caller keeps the sum below 2 GiB.
    pub fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(i32::try_from(self.bytes.len()).expect("a batch of records stays below 2 GiB"));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their bytes together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records as an array, without copying.
    pub fn finish(self) -> BinaryArray {
        let ends = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        BinaryArray::new(ends, Buffer::from_vec(self.bytes), None)
    }
}

/// The records that end at `ends` in `bytes`, one after the other.
pub(super) fn array(bytes: Vec<u8>, ends: &[usize]) -> Result<BinaryArray> {
    check_size(bytes.len())?;
    let ends = std::iter::once(0).chain(ends.iter().map(|end| *end as i32)).collect::<ScalarBuffer<i32>>();
    Ok(BinaryArray::new(OffsetBuffer::new(ends), Buffer::from_vec(bytes), None))
}

/// Refuses more bytes than the records of one batch can have.
pub(super) fn check_size(bytes: usize) -> Result<()> {
    match i32::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::data(format!("the rows of one batch take {bytes} bytes as records, more than 2 GiB"))),
    }
}

/// How a stream of bytes is cut into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// At every newline.
    Lines {
        /// True if an empty line is nothing rather than an empty record.
        skip_empty: bool,
    },
    /// At every newline outside quotes, as CSV has it; empty lines are skipped.
    Quoted {
        /// What stands between fields: a quote opens one only after it.
        delimiter: u8,
    },
}

/// One record of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The record, without its end of line.
    pub record: &'a [u8],
    /// The bytes up to the start of the next record.
    pub length: usize,
}

impl Framing {
    /// The first record of `bytes`, the start of a record; none if its end is not there. At the end of the stream the
    /// newline may be missing.
    pub fn first<'a>(&self, bytes: &'a [u8], at_end: bool) -> Option<Piece<'a>> {
        let newline = match self {
            Framing::Lines { .. } => memchr(b'\n', bytes),
            Framing::Quoted { delimiter } => newline_outside_quotes(bytes, *delimiter),
        };
        let (line, length) = match newline {
            Some(end) => (&bytes[..end], end + 1),
            None if at_end && !bytes.is_empty() => (bytes, bytes.len()),
            None => return None,
        };
        Some(Piece { record: line.strip_suffix(b"\r").unwrap_or(line), length })
    }

    /// True if `record` is only an empty line.
    pub fn skips(&self, record: &[u8]) -> bool {
        record.is_empty() && !matches!(self, Framing::Lines { skip_empty: false })
    }

    /// True if a newline always ends a record, so that a file can be cut anywhere and read from the next line on.
    pub fn can_start_anywhere(&self) -> bool {
        matches!(self, Framing::Lines { .. })
    }
}

/// The newline that ends the first record of `bytes`. As in the reader, a quote opens a quoted field only at the field's start.
fn newline_outside_quotes(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = None;
    for at in memchr2_iter(b'"', b'\n', bytes) {
        match (bytes[at], quoted) {
            (b'\n', false) => return Some(at),
            (b'"', false) => quoted = at == 0 || bytes[at - 1] == delimiter,
            (b'"', true) if escaped == Some(at) => {}
            (b'"', true) if bytes.get(at + 1) == Some(&b'"') => escaped = Some(at + 1),
            (b'"', true) => quoted = false,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(framing: Framing, text: &str, expected: &[&str]) {
        let (mut rest, mut found) = (text.as_bytes(), Vec::new());
        while let Some(piece) = framing.first(rest, true) {
            if !framing.skips(piece.record) {
                found.push(String::from_utf8_lossy(piece.record).into_owned());
            }
            rest = &rest[piece.length..];
        }
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn lines_end_at_newlines_with_or_without_a_carriage_return() {
        let raw = Framing::Lines { skip_empty: false };
        check(raw, "", &[]);
        check(raw, "a\nb", &["a", "b"]);
        check(raw, "a\r\n\r\n\nb\n", &["a", "", "", "b"]);
        check(Framing::Lines { skip_empty: true }, "a\r\n\r\n\nb\n", &["a", "b"]);
        assert_eq!(raw.first(b"no end", false), None);
    }

    #[test]
    fn a_newline_between_quotes_is_text() {
        let csv = Framing::Quoted { delimiter: b',' };
        check(csv, "a,\"b\nc\"\nd\n\n", &["a,\"b\nc\"", "d"]);
        check(csv, "\"a\"\"\n\"\"\",b\nc", &["\"a\"\"\n\"\"\",b", "c"]);
        check(csv, "\"\"\nb\n", &["\"\"", "b"]);
        // not at the start of a field: an inch mark
        check(csv, "5\" disk,b\nc\n", &["5\" disk,b", "c"]);
    }
}
