//! `memory`: rows that a program hands in, and rows that it takes out again. For embedding and tests.
//!
//! The definition reaches them by name, `'connector' = 'memory', 'name' = 'words'`, through
//! [`Builtin`](super::builtin::Builtin).

use super::{Changes, Context, Gives, OptionSpec, Polled, Preset, Shard, Sink, Source, Split, SplitStart, Takes};
use crate::batch::Batch;
use crate::error::{Error, Result};
use arrow::datatypes::SchemaRef;
use std::sync::{Arc, Mutex, PoisonError};

/// What the program calls its rows.
pub(super) const NAME: OptionSpec = OptionSpec::both(
    "name",
    Takes::Text,
    Preset::None("the name of the table"),
    "what the program calls the rows that it hands in or takes out",
);

/// What this connector takes.
pub const OPTIONS: &[&OptionSpec] = &[&NAME];

/// Batches that are read as they are, without a copy.
///
/// ```
/// use arrow::array::{ArrayRef, StringArray};
/// use highwater::batch::Batch;
/// use highwater::connector::{Source, memory::MemorySource};
/// use std::sync::Arc;
///
/// let words: ArrayRef = Arc::new(StringArray::from(vec!["to", "be"]));
/// let batch = Batch::try_from_iter([("word", words)]).unwrap();
/// let source = MemorySource::new(batch.schema(), vec![batch], 1);
/// assert!(source.bounded());
/// ```
#[derive(Debug, Clone)]
pub struct MemorySource {
    schema: SchemaRef,
    batches: Arc<[Batch]>,
    splits: usize,
    gives: Gives,
}

impl MemorySource {
    /// These batches, dealt to `splits` splits in turn.
    pub fn new(schema: SchemaRef, batches: Vec<Batch>, splits: usize) -> Self {
        MemorySource { schema, batches: batches.into(), splits: splits.max(1), gives: Gives::Rows }
    }

    /// The same, whose rows are the newest of their key: the last column of each batch is a weight, as [`Gives::Upserts`] has it, and no
    /// column of the schema.
    pub fn of_newest_rows(self) -> Self {
        MemorySource { gives: Gives::Upserts, ..self }
    }
}

impl Source for MemorySource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        true
    }

    fn gives(&self) -> Gives {
        self.gives
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        Ok((0..self.splits).map(|split| split.to_string()).collect())
    }

    fn open(&self, splits: &[SplitStart], _context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |start: &SplitStart| {
            let (name, position) = (&start.name, start.position.unwrap_or(0));
            let split: usize =
                name.parse().map_err(|_| Error::internal(format!("'{name}' is no split of a memory source")))?;
            let batches: Vec<Batch> = self.batches.iter().skip(split).step_by(self.splits).cloned().collect();
            let (mut batch, mut row) = (0, position as usize);
            while batches.get(batch).is_some_and(|rows| rows.num_rows() <= row) {
                row -= batches[batch].num_rows();
                batch += 1;
            }
            Ok(Box::new(MemorySplit { split, batches, batch, row, position, polled: 0 }) as Box<dyn Split>)
        };
        splits.iter().map(open).collect()
    }
}

struct MemorySplit {
    split: usize,
    batches: Vec<Batch>,
    /// The next row: in this batch, at this place.
    batch: usize,
    row: usize,
    position: u64,
    /// Rows of the last poll.
    polled: usize,
}

impl Split for MemorySplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        while let Some(batch) = self.batches.get(self.batch) {
            let rows = (batch.num_rows() - self.row).min(rows_max.max(1));
            if rows == 0 {
                (self.batch, self.row) = (self.batch + 1, 0);
                continue;
            }
            let slice = batch.slice(self.row, rows);
            let bytes = batch.get_array_memory_size() * rows / batch.num_rows();
            (self.row, self.position, self.polled) = (self.row + rows, self.position + rows as u64, rows);
            return Ok(Polled::Rows { rows: slice, bytes });
        }
        Ok(Polled::Ended)
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn place(&self, row: usize) -> String {
        format!("split {}, row {}", self.split, self.position - self.polled as u64 + row as u64)
    }
}

/// Keeps what is written, for the program to read. Clones share their rows.
///
/// Of an updating query it holds every change, with its weight in the last column.
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    written: Arc<Mutex<Vec<Batch>>>,
}

impl MemorySink {
    /// A sink without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The batches that were written so far, in the order in which they came; shards write in turns.
    pub fn batches(&self) -> Vec<Batch> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of rows that were written so far.
    pub fn rows(&self) -> usize {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Batch::num_rows).sum()
    }
}

impl Sink for MemorySink {
    fn single(&self) -> bool {
        false
    }

    fn open(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(MemoryShard { written: Arc::clone(&self.written) }))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }
}

struct MemoryShard {
    written: Arc<Mutex<Vec<Batch>>>,
}

impl Shard for MemoryShard {
    fn write(&mut self, rows: Batch) -> Result<()> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        Ok(true)
    }
}
