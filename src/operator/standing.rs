//! What is left of an updating stream when its input has ended: rows that stand.
//!
//! State: the sum of all changes so far. A delta is the changes since the one before.

use super::{Operator, Output};
use crate::batch::changes::{consolidated, standing};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::Result;
use crate::operator::aggregate::push_sliced;
use crate::operator::transform::with_weight;
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;

/// What the table of a delta is called.
const TABLE: &str = "changes";

/// The operator.
pub struct Standing {
    /// With the weight.
    schema: SchemaRef,
    /// By which columns rows find their worker.
    keys: Vec<usize>,
    sum: Vec<Batch>,
    /// Rows in `sum`, and how many there were when it was last worked out.
    rows: usize,
    summed: usize,
    /// What has come since the last delta; None if there are no deltas.
    changes: Option<Vec<Batch>>,
}

impl Standing {
    /// For changes of rows with the columns of `schema`, which come by `keys`.
    pub fn new(schema: &SchemaRef, keys: Vec<usize>) -> Self {
        Standing { schema: with_weight(schema), keys, sum: Vec::new(), rows: 0, summed: 0, changes: None }
    }

    fn add(&mut self, changes: Batch) -> Result<()> {
        self.rows += changes.num_rows();
        self.sum.push(changes);
        // working it out at each doubling costs little more than once, and bounds the memory by what stands
        if self.rows > 2 * self.summed + 8 * BATCH_ROWS {
            self.work_out()?;
        }
        Ok(())
    }

    fn work_out(&mut self) -> Result<()> {
        self.sum = vec![consolidated(&std::mem::take(&mut self.sum), &self.schema)?];
        self.rows = self.sum[0].num_rows();
        self.summed = self.rows;
        Ok(())
    }

    fn table(&self, changes: &[Batch]) -> Result<Delta> {
        let sum = consolidated(changes, &self.schema)?;
        Ok(Table::of_batches(TABLE, &self.schema, &[sum], self.keys.clone())?.into_iter().collect())
    }
}

impl Operator for Standing {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        if let Some(changes) = &mut self.changes {
            changes.push(batch.clone());
        }
        self.add(batch)
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        if mark == Watermark::END {
            self.work_out()?;
            for sum in std::mem::take(&mut self.sum) {
                push_sliced(standing(&sum)?, out);
            }
        }
        Ok(())
    }

    fn track(&mut self) {
        self.changes.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        self.table(&changes)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        saved.into_iter().try_for_each(|table| self.add(table.into_rows(TABLE, &self.schema)?))
    }

    fn whole(&mut self) -> Result<Delta> {
        let sum = std::mem::take(&mut self.sum);
        self.table(&sum)
    }
}
