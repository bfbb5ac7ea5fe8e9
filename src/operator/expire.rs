//! Rows in the last epoch of their time.
//!
//! A row is held until the watermark is so far ahead of it that no partner can come any more. It is given in the epoch that ends its time
//! and taken back in the next one, so that who joins it then finds out whether it has met one. The end of the input ends all rows' time.
//! State: the rows that are held, and those that were given and are not taken back; which they are, the watermark says.

use super::keep::Mortal;
use super::{Operator, Output};
use crate::batch::Batch;
use crate::batch::changes::{added, consolidated, negated};
use crate::error::Result;
use crate::operator::transform::with_weight;
use crate::plan::Ttl;
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;

/// What the table of a delta is called.
const TABLE: &str = "changes";

/// The operator.
pub struct Expire {
    /// With the weight.
    schema: SchemaRef,
    /// By which columns rows find their worker.
    keys: Vec<usize>,
    mortal: Mortal,
    /// What was given in the last epoch.
    given: Vec<Batch>,
    /// What has come and was taken back since the last delta; None if there are no deltas.
    changes: Option<Vec<Batch>>,
    restored: Vec<Batch>,
}

impl Expire {
    /// For rows with the columns of `schema`, which come by `keys`.
    pub fn new(schema: &SchemaRef, keys: Vec<usize>, ttl: Ttl) -> Self {
        Expire {
            schema: with_weight(schema),
            keys,
            mortal: Mortal::new(ttl),
            given: Vec::new(),
            changes: None,
            restored: Vec::new(),
        }
    }

    fn note(&mut self, changes: &Batch) {
        if let Some(kept) = self.changes.as_mut().filter(|_| changes.num_rows() > 0) {
            kept.push(changes.clone());
        }
    }

    fn table(&self, changes: &[Batch]) -> Result<Delta> {
        let sum = consolidated(changes, &self.schema)?;
        Ok(Table::of_batches(TABLE, &self.schema, &[sum], self.keys.clone())?.into_iter().collect())
    }
}

impl Operator for Expire {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        let rows = self.mortal.admitted(added(&batch, &self.schema)?)?;
        self.note(&rows);
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        for rows in std::mem::take(&mut self.given) {
            let back = negated(&rows)?;
            self.note(&back);
            out.push(back);
        }
        self.mortal.mark = mark;
        self.given = self.mortal.dead(&self.schema)?;
        self.given.iter().for_each(|rows| out.push(rows.clone()));
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
        for table in saved {
            self.restored.push(table.into_rows(TABLE, &self.schema)?);
        }
        Ok(())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        let rows = consolidated(&std::mem::take(&mut self.restored), &self.schema)?;
        self.mortal.mark = mark;
        self.given = vec![self.mortal.restored(&rows)?];
        self.restored = vec![rows];
        Ok(())
    }

    fn again(&mut self, out: &mut Output) -> Result<()> {
        self.restored.clear();
        self.given.iter().for_each(|rows| out.push(rows.clone()));
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let restored = std::mem::take(&mut self.restored);
        self.table(&restored)
    }
}
