//! A sink that is written exactly once, as the operator that makes records of its rows: what it has learnt is what is to be published.

use super::sink::refuse_null;
use crate::batch::Batch;
use crate::connector::Stager;
use crate::error::Result;
use crate::operator::transform::insertions;
use crate::operator::{Confluence, Output};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::SchemaRef;

/// The operator.
pub struct Staging {
    /// None on a worker that has no shard.
    stager: Option<Box<dyn Stager>>,
    /// The columns of the rows without their weight, if only insertions are taken of rows with weights.
    only_insertions: Option<SchemaRef>,
    /// The table's columns.
    table: SchemaRef,
    staged: Vec<Batch>,
    staged_bytes: usize,
}

impl Staging {
    /// Makes records by `stager`.
    pub fn new(stager: Option<Box<dyn Stager>>, only_insertions: Option<SchemaRef>, table: SchemaRef) -> Self {
        Staging { stager, only_insertions, table, staged: Vec::new(), staged_bytes: 0 }
    }
}

impl Confluence for Staging {
    fn on_batch(&mut self, _: usize, rows: Batch, _: &mut Output) -> Result<()> {
        let Some(stager) = &mut self.stager else { return Ok(()) };
        let rows = match &self.only_insertions {
            Some(schema) => insertions(&rows, schema)?,
            None => rows,
        };
        refuse_null(&rows, &self.table)?;
        let records = stager.stage(rows)?;
        if records.num_rows() > 0 {
            let bytes = |column: &ArrayRef| {
                // of what cannot be told what is shown counts all that is held
                column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
            };
            self.staged_bytes += records.columns().iter().map(bytes).sum::<usize>();
            self.staged.push(records);
        }
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, _: &mut Output) -> Result<()> {
        Ok(())
    }

    fn take_late_rows(&mut self) -> u64 {
        0
    }

    fn track(&mut self) {}

    fn waiting_bytes(&self) -> usize {
        self.staged_bytes
    }

    fn delta(&mut self) -> Result<Delta> {
        self.staged_bytes = 0;
        Ok(self.staged.drain(..).map(|records| Table::new("records", records, Vec::new())).collect())
    }

    fn restore(&mut self, _: Delta) -> Result<()> {
        Ok(())
    }

    fn restored(&mut self, _: Watermark) -> Result<()> {
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        Ok(Delta::default())
    }
}
