//! Each key once: at the end of the epoch in which it first came.
//!
//! Keys are never taken back, so what is there stays there. State: all keys. A delta is those that have come since the one before.

use super::aggregate::{Feed, push_sliced};
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::Result;
use crate::expr::Groups;
use crate::plan::{Aggregation, OutputColumn};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// What the table of a delta is called.
const TABLE: &str = "keys";

/// The operator.
pub struct DistinctKeys {
    spec: Arc<Aggregation>,
    feed: Feed,
    schema: SchemaRef,
    keys: Groups,
    numbers: Vec<usize>,
    /// The keys that are new in the open epoch.
    fresh: Vec<Batch>,
    /// Those that are new since the last delta; None if there are no deltas.
    learnt: Option<Vec<Batch>>,
}

impl DistinctKeys {
    /// Of the keys of `spec`, which has no calls; what leaves has the columns of `schema`.
    pub fn new(spec: Arc<Aggregation>, feed: Feed, schema: SchemaRef) -> Result<Self> {
        let keys = Groups::new(spec.key_schema())?;
        Ok(DistinctKeys { spec, feed, schema, keys, numbers: Vec::new(), fresh: Vec::new(), learnt: None })
    }

    /// Takes keys in: those that are new.
    fn add(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Batch> {
        let known = self.keys.len();
        self.keys.intern(keys, rows, &mut self.numbers)?;
        let mut first = vec![None; self.keys.len() - known];
        for (row, number) in self.numbers.iter().enumerate().filter(|(_, number)| **number >= known) {
            first[number - known].get_or_insert(row as u32);
        }
        let first: UInt32Array = first.into_iter().flatten().collect();
        let fresh = keys.iter().map(|key| take(key, &first, None).map_err(from_arrow)).collect::<Result<_>>()?;
        batch_of(Arc::clone(self.keys.schema()), fresh, first.len())
    }

    fn table(&self, keys: &[Batch]) -> Result<Delta> {
        let routed = (0..self.spec.keys.len()).collect();
        Ok(Table::of_batches(TABLE, self.keys.schema(), keys, routed)?.into_iter().collect())
    }
}

impl Operator for DistinctKeys {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        let keys = match self.feed {
            Feed::Rows => self.spec.keys.iter().map(|(key, _)| key.evaluate(&batch)).collect::<Result<Vec<_>>>()?,
            Feed::Partials => batch.columns().to_vec(),
        };
        let fresh = self.add(&keys, batch.num_rows())?;
        if fresh.num_rows() > 0 {
            self.fresh.push(fresh);
        }
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        for keys in std::mem::take(&mut self.fresh) {
            let column = |output: &OutputColumn| match output {
                OutputColumn::Key(key) => Ok(Arc::clone(keys.column(*key))),
                _ => Err(crate::error::Error::internal("distinct keys have nothing beside them")),
            };
            let columns = self.spec.output.iter().map(column).collect::<Result<_>>()?;
            push_sliced(batch_of(Arc::clone(&self.schema), columns, keys.num_rows())?, out);
            self.learnt.iter_mut().for_each(|learnt| learnt.push(keys.clone()));
        }
        Ok(())
    }

    fn track(&mut self) {
        self.learnt.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let keys = self.learnt.as_mut().map(std::mem::take).unwrap_or_default();
        self.table(&keys)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            let rows = table.into_rows(TABLE, self.keys.schema())?;
            self.add(rows.columns(), rows.num_rows())?;
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let (rows, schema) = (self.keys.len(), Arc::clone(self.keys.schema()));
        let keys = self.keys.drain()?;
        self.table(&[batch_of(schema, keys, rows)?])
    }
}
