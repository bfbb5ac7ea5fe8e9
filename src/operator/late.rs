//! The late rows of windows, where a query asks for them: beside the aggregate, which only counts them.
//!
//! Reads the rows that the aggregate is made of and gives those that are late, each with the start and the end of the last window
//! that it lies in, and with the watermark that it met. For windows with bounds of their own the watermark of the epoch before says
//! what is late; for sessions their spans are kept here again, without results. So nothing is late to one that is not to the other.

use super::aggregate::Bounds;
use super::panes::{Span, event_times};
use super::session::open::{Item, OpenSessions};
use super::session::span_of;
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, take_rows};
use crate::error::Result;
use crate::plan::{Lateness, Windows};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::Arc;

/// The operator for windows with bounds of their own.
pub struct LateRows {
    time: usize,
    windows: Windows,
    schema: SchemaRef,
    mark: Watermark,
}

impl LateRows {
    /// Goes by column `time`; what it gives has the columns of `schema`.
    pub fn new(time: usize, windows: Windows, schema: SchemaRef) -> Self {
        LateRows { time, windows, schema, mark: Watermark::NONE }
    }
}

impl Operator for LateRows {
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        let times = event_times(batch.column(self.time))?;
        let mut late = Vec::new();
        let mut spans = Vec::new();
        // a window ends after its rows, so most need no closer look
        for (row, &time) in times.iter().enumerate().filter(|(_, time)| **time < self.mark.micros()) {
            let span = self.windows.last_of(time);
            if span.end <= self.mark.micros() {
                late.push(row as u32);
                spans.push(span);
            }
        }
        give(&batch, late, &spans, self.mark, &self.schema, out)
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, _: &mut Output) -> Result<()> {
        self.mark = mark;
        Ok(())
    }
}

/// The operator for sessions.
pub struct LateSessions {
    time: usize,
    gap: i64,
    keys: Vec<usize>,
    schema: SchemaRef,
    open: OpenSessions,
    items: Vec<Item>,
    batches: Vec<Batch>,
    numbers: Vec<usize>,
    mark: Watermark,
}

impl LateSessions {
    /// Goes by column `time` of rows with the columns of `input`, whose sessions are those of `keys`.
    pub fn new(time: usize, gap: i64, keys: Vec<usize>, input: &Schema, schema: SchemaRef) -> Result<Self> {
        let of_key: Vec<_> = keys.iter().map(|key| input.field(*key).clone()).collect();
        let open = OpenSessions::new(Arc::new(Schema::new(of_key)))?;
        let (items, batches, numbers) = (Vec::new(), Vec::new(), Vec::new());
        Ok(LateSessions { time, gap, keys, schema, open, items, batches, numbers, mark: Watermark::NONE })
    }
}

impl Operator for LateSessions {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        let times = event_times(batch.column(self.time))?;
        let keys: Vec<_> = self.keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
        self.open.number(&keys, batch.num_rows(), &mut self.numbers)?;
        let first = self.items.len();
        self.items.extend(self.numbers.iter().enumerate().map(|(row, &key)| Item {
            key: key as u32,
            row: (first + row) as u32,
            span: span_of(times[row], self.gap),
        }));
        self.batches.push(batch);
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        let joined = self.open.join(std::mem::take(&mut self.items));
        let mut part_of = joined.part_of.as_slice();
        for batch in self.batches.drain(..) {
            let (own, rest) = part_of.split_at(batch.num_rows());
            part_of = rest;
            let late = |row: &u32| joined.parts[own[*row as usize] as usize].session.is_none();
            let late: Vec<u32> = (0..own.len() as u32).filter(late).collect();
            let spans: Vec<Span> = late.iter().map(|row| joined.parts[own[*row as usize] as usize].span).collect();
            give(&batch, late, &spans, self.mark, &self.schema, out)?;
        }
        self.mark = mark;
        self.open.close(mark)?;
        Ok(())
    }
}

/// Gives the `late` rows of `batch`, each with its window and the watermark.
fn give(
    batch: &Batch,
    late: Vec<u32>,
    spans: &[Span],
    mark: Watermark,
    schema: &SchemaRef,
    out: &mut Output,
) -> Result<()> {
    if late.is_empty() {
        return Ok(());
    }
    let rows = late.len();
    let mut columns = take_rows(batch, late)?.columns().to_vec();
    let (window, watermark) = (Bounds::Each(spans), Bounds::One(Span { start: mark.micros(), end: mark.micros() }));
    columns.extend([window.starts(rows), window.ends(rows), watermark.ends(rows)]);
    out.push(batch_of(Arc::clone(schema), columns, rows)?);
    Ok(())
}

/// The operator that finds what `lateness` says, in rows with the columns of `input`; it gives the columns of `schema`.
pub fn late_rows(lateness: &Lateness, input: &Schema, schema: SchemaRef) -> Result<Box<dyn Operator>> {
    Ok(match lateness {
        Lateness::Windows { time, windows } => Box::new(LateRows::new(*time, *windows, schema)),
        Lateness::Sessions { time, gap, keys } => {
            Box::new(LateSessions::new(*time, *gap, keys.clone(), input, schema)?)
        }
    })
}
