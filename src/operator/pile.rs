//! Rows that wait for their window to close.

use crate::batch::{BATCH_ROWS, Batch, from_arrow};
use crate::error::Result;
use arrow::compute::concat_batches;

/// Batches of one schema, in the order in which they came. Small ones are put together, so that an hour of short epochs is not an hour
/// of batches and a few rows do not keep a large batch alive.
#[derive(Debug, Default)]
pub struct Pile {
    full: Vec<Batch>,
    small: Vec<Batch>,
    small_rows: usize,
    rows: usize,
}

impl Pile {
    /// Adds `batch`.
    pub fn push(&mut self, batch: Batch) -> Result<()> {
        self.rows += batch.num_rows();
        if batch.num_rows() >= BATCH_ROWS {
            self.full.push(batch);
            return Ok(());
        }
        self.small_rows += batch.num_rows();
        self.small.push(batch);
        if self.small_rows >= BATCH_ROWS { self.settle() } else { Ok(()) }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// All of them.
    pub fn into_batches(mut self) -> Result<Vec<Batch>> {
        self.settle()?;
        Ok(self.full)
    }

    fn settle(&mut self) -> Result<()> {
        if let Some(first) = self.small.first() {
            self.full.push(concat_batches(&first.schema(), &self.small).map_err(from_arrow)?);
            self.small.clear();
            self.small_rows = 0;
        }
        Ok(())
    }
}
