//! What an epoch's changes come to: rows that are added and taken back in it are not seen.
//!
//! Nothing is remembered from one epoch to the next.

use super::{Operator, Output};
use crate::batch::Batch;
use crate::batch::changes::{consolidated, single};
use crate::error::Result;
use crate::operator::aggregate::push_sliced;
use crate::operator::transform::with_weight;
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;

/// The operator.
pub struct Consolidate {
    /// With the weight.
    schema: SchemaRef,
    changes: Vec<Batch>,
}

impl Consolidate {
    /// For changes of rows with the columns of `schema`.
    pub fn new(schema: &SchemaRef) -> Self {
        Consolidate { schema: with_weight(schema), changes: Vec::new() }
    }
}

impl Operator for Consolidate {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        self.changes.push(batch);
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            push_sliced(single(consolidated(&changes, &self.schema)?)?, out);
        }
        Ok(())
    }
}
