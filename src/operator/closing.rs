//! The rows of an updating stream that stand when their window closes.
//!
//! Changes are summed up by window. A window closes in the epoch whose watermark reaches its end: what its changes come to leaves then, and
//! stands. A change is late when its window closed in an *earlier* epoch: it is dropped and counted. State: the sums of open windows; a
//! delta is what came for them since the one before.

use super::aggregate::push_sliced;
use super::panes::{Span, cut_by_span, event_times};
use super::{Operator, Output};
use crate::batch::changes::{consolidated, standing};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::Result;
use crate::operator::transform::with_weight;
use crate::plan::WindowBounds;
use crate::state::{Delta, Table};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;

/// What the table of a delta is called.
const TABLE: &str = "changes";

/// The operator.
pub struct Closing {
    /// With the weight.
    schema: SchemaRef,
    windows: WindowBounds,
    /// By which columns rows find their worker.
    keys: Vec<usize>,
    open: BTreeMap<Span, Sum>,
    /// What came for the open windows since the last delta; None if there are no deltas.
    fresh: Option<BTreeMap<Span, Vec<Batch>>>,
    /// The watermark of the last complete epoch: what ends at or before it has closed.
    mark: Watermark,
    late_rows: u64,
}

/// The changes of a window.
#[derive(Default)]
struct Sum {
    changes: Vec<Batch>,
    /// Rows in `changes`, and how many there were when they were last summed up.
    rows: usize,
    summed: usize,
}

impl Sum {
    fn add(&mut self, changes: Batch, schema: &SchemaRef) -> Result<()> {
        self.rows += changes.num_rows();
        self.changes.push(changes);
        // summing up at each doubling costs little more than once, and bounds the memory by what stands
        if self.rows > 2 * self.summed + BATCH_ROWS {
            self.changes = vec![consolidated(&self.changes, schema)?];
            self.rows = self.changes[0].num_rows();
            self.summed = self.rows;
        }
        Ok(())
    }
}

impl Closing {
    /// For changes of rows with the columns of `schema`, in their `windows`, which come by `keys`.
    pub fn new(schema: &SchemaRef, windows: WindowBounds, keys: Vec<usize>) -> Self {
        Closing {
            schema: with_weight(schema),
            windows,
            keys,
            open: BTreeMap::new(),
            fresh: None,
            mark: Watermark::NONE,
            late_rows: 0,
        }
    }

    fn cut(&self, rows: &Batch) -> Result<Vec<(Span, Batch)>> {
        let WindowBounds { start, end } = self.windows;
        cut_by_span(rows, &event_times(rows.column(start))?, &event_times(rows.column(end))?)
    }

    fn table(&self, changes: &[Batch]) -> Result<Delta> {
        let sum = consolidated(changes, &self.schema)?;
        Ok(Table::of_batches(TABLE, &self.schema, &[sum], self.keys.clone())?.into_iter().collect())
    }
}

impl Operator for Closing {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        for (span, changes) in self.cut(&batch)? {
            if span.end <= self.mark.micros() {
                self.late_rows += changes.num_rows() as u64;
                continue;
            }
            if let Some(fresh) = &mut self.fresh {
                fresh.entry(span).or_default().push(changes.clone());
            }
            self.open.entry(span).or_default().add(changes, &self.schema)?;
        }
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        self.mark = mark;
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.key().end <= mark.micros()) {
            push_sliced(standing(&consolidated(&entry.remove().changes, &self.schema)?)?, out);
        }
        if let Some(fresh) = &mut self.fresh {
            fresh.retain(|span, _| span.end > mark.micros());
        }
        Ok(())
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn track(&mut self) {
        self.fresh.get_or_insert_default();
    }

    fn delta(&mut self) -> Result<Delta> {
        let fresh = self.fresh.as_mut().map(std::mem::take).unwrap_or_default();
        self.table(&fresh.into_values().flatten().collect::<Vec<_>>())
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            for (span, changes) in self.cut(&table.into_rows(TABLE, &self.schema)?)? {
                self.open.entry(span).or_default().add(changes, &self.schema)?;
            }
        }
        Ok(())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        self.mark = mark;
        self.open.retain(|span, _| span.end > mark.micros());
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let open = std::mem::take(&mut self.open);
        self.table(&open.into_values().flat_map(|sum| sum.changes).collect::<Vec<_>>())
    }
}
