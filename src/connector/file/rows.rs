//! A share of a file that has rows rather than lines: Parquet, Avro.

use super::handle::Handle;
use super::piece::END;
use super::place_of;
use crate::batch::Batch;
use crate::connector::{Polled, Split};
use crate::error::{Error, Result};
use crate::format::avro::AvroReader;
use crate::format::parquet::{Footer, ParquetReader};
use crate::format::{Missing, ReadAt, ReadRows};
use arrow::datatypes::SchemaRef;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Which part of a file is read.
#[derive(Debug, Clone)]
pub(super) enum Share {
    /// These row groups of Parquet.
    Groups(Range<usize>),
    /// The blocks of Avro that these bytes own.
    Bytes(Range<u64>),
}

/// What was read of the ends of files, by name: the shares of a file have it in common.
pub(super) type Footers = Rc<RefCell<HashMap<String, Footer>>>;

/// A share of a file, opened when it is polled for the first time.
pub(super) struct RowsSplit {
    pub path: String,
    pub file: Arc<Handle>,
    pub share: Share,
    pub schema: SchemaRef,
    pub missing: Missing,
    pub footers: Footers,
    pub state: State,
}

/// How far a share is read.
#[derive(Default)]
pub(super) struct State {
    reader: Option<Box<dyn ReadRows>>,
    /// What the reader gave and nobody has polled, and how many rows of the same batch were.
    rest: Option<Batch>,
    given: usize,
    /// Rows of the batch that were given before the last poll.
    base: usize,
    /// What a row of the batch takes in memory.
    row_bytes: usize,
    /// Rows of the share that were given, in this run and before.
    position: u64,
    ended: bool,
}

impl State {
    /// Rows up to `position` are not wanted.
    pub fn at(position: u64) -> State {
        State { position, ..State::default() }
    }
}

impl RowsSplit {
    fn open(&self) -> Result<Box<dyn ReadRows>> {
        let file: Arc<dyn ReadAt> = Arc::clone(&self.file) as _;
        Ok(match self.share.clone() {
            Share::Bytes(bytes) => Box::new(AvroReader::new(file, bytes, &self.schema, self.missing)?),
            Share::Groups(groups) => {
                let known = self.footers.borrow().get(&self.path).cloned();
                let footer = match known {
                    Some(footer) => footer,
                    None => Footer::read(&file)?,
                };
                self.footers.borrow_mut().insert(self.path.clone(), footer.clone());
                Box::new(ParquetReader::new(file, footer, groups, &self.schema, self.missing)?)
            }
        })
    }

    fn next(&mut self, rows_max: usize) -> Result<Polled> {
        let rows = match self.state.rest.take() {
            Some(rest) => rest,
            None => {
                let mut reader = match self.state.reader.take() {
                    Some(reader) => reader,
                    None => {
                        let mut reader = self.open()?;
                        reader.skip(self.state.position)?;
                        reader
                    }
                };
                let next = reader.next();
                self.state.reader = Some(reader);
                self.state.given = 0;
                match next? {
                    Some(rows) => {
                        self.state.row_bytes = rows.get_array_memory_size() / rows.num_rows().max(1);
                        rows
                    }
                    None => {
                        self.state.ended = true;
                        return Ok(Polled::Ended);
                    }
                }
            }
        };
        let length = rows.num_rows().min(rows_max.max(1));
        if length < rows.num_rows() {
            self.state.rest = Some(rows.slice(length, rows.num_rows() - length));
        }
        let rows = rows.slice(0, length);
        self.state.base = self.state.given;
        self.state.given += length;
        self.state.position += length as u64;
        Ok(Polled::Rows { rows, bytes: length * self.state.row_bytes.max(1) })
    }
}

impl Split for RowsSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        self.next(rows_max).map_err(|error: Error| error.within(place_of(&self.path)))
    }

    fn position(&self) -> u64 {
        if self.state.ended { END } else { self.state.position }
    }

    fn place(&self, row: usize) -> String {
        match &self.state.reader {
            Some(reader) => format!("{}, {}", place_of(&self.path), reader.place(self.state.base + row)),
            None => place_of(&self.path),
        }
    }
}
