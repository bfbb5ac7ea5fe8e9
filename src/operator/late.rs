//! The late rows of windows, where a query asks for them: beside the aggregate, which only counts them.
//!
//! Reads the rows that the aggregate is made of and gives those that are late, each with the start and the end of the last window
//! that it lies in, and with the watermark that it met. For windows with bounds of their own the watermark of the epoch before says
//! what is late; for sessions their spans are kept here again, without results. So nothing is late to one that is not to the other.
//! State: these sessions, given and taken back as the aggregate's are.

use super::aggregate::Bounds;
use super::panes::{Span, event_times};
use super::segments::Segments;
use super::session::open::{Item, Joined, OpenSessions};
use super::session::{delta_of, drop_closed, span_of, take_back};
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::error::Result;
use crate::plan::{Lateness, Windows, event_time_type};
use crate::state::Delta;
use crate::time::{Epoch, Watermark};
use arrow::array::Array;
use arrow::compute::interleave;
use arrow::datatypes::{Field, Schema, SchemaRef};
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

    fn restored(&mut self, mark: Watermark) -> Result<()> {
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
    /// The key of each open session, by its number, if there are deltas: a delta tells whose the sessions are.
    key_of: Segments,
    tracked: bool,
    /// The columns of a delta: start, end and key.
    saved: SchemaRef,
}

impl LateSessions {
    /// Goes by column `time` of rows with the columns of `input`, whose sessions are those of `keys`.
    pub fn new(time: usize, gap: i64, keys: Vec<usize>, input: &Schema, schema: SchemaRef) -> Result<Self> {
        let of_key: Vec<Field> = keys.iter().map(|key| input.field(*key).clone()).collect();
        let bound = |name: &str| Field::new(name, event_time_type(), false);
        let bounds = [bound("window_start"), bound("window_end")];
        let saved = Arc::new(Schema::new(bounds.into_iter().chain(of_key.iter().cloned()).collect::<Vec<_>>()));
        Ok(LateSessions {
            time,
            gap,
            keys,
            schema,
            open: OpenSessions::new(Arc::new(Schema::new(of_key)))?,
            items: Vec::new(),
            batches: Vec::new(),
            numbers: Vec::new(),
            mark: Watermark::NONE,
            key_of: Segments::default(),
            tracked: false,
            saved,
        })
    }

    /// Notes whose the sessions are that had rows in the epoch.
    fn note_keys(&mut self, joined: &Joined) -> Result<()> {
        let mut witnesses: Vec<Option<(usize, usize)>> = vec![None; joined.parts.len()];
        let mut part_of = joined.part_of.iter();
        for (number, batch) in self.batches.iter().enumerate() {
            for (row, part) in part_of.by_ref().take(batch.num_rows()).enumerate() {
                witnesses[*part as usize].get_or_insert((number, row));
            }
        }
        let open = joined.parts.iter().zip(witnesses).filter_map(|(part, witness)| part.session.zip(witness));
        let (sessions, rows): (Vec<u32>, Vec<(usize, usize)>) = open.unzip();
        if sessions.is_empty() {
            return Ok(());
        }
        let column = |key: &usize| {
            let columns: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(*key).as_ref()).collect();
            interleave(&columns, &rows).map_err(from_arrow)
        };
        let keys = self.keys.iter().map(column).collect::<Result<_>>()?;
        self.key_of.remove(joined.before.iter().map(|number| *number as usize))?;
        self.key_of.put(sessions, keys)
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
        if self.tracked {
            self.note_keys(&joined)?;
        }
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
        let closed = self.open.close(mark)?;
        if self.tracked {
            self.key_of.remove(closed.iter().map(|(number, _)| *number as usize))?;
        }
        Ok(())
    }

    fn track(&mut self) {
        self.tracked = true;
        self.key_of.track();
    }

    fn delta(&mut self) -> Result<Delta> {
        let changed = self.key_of.take_changes();
        delta_of(&changed, &self.open, &self.key_of, &self.saved, self.keys.len())
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        take_back(saved, &mut self.open, &mut self.key_of, &self.saved, self.keys.len())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        self.mark = mark;
        drop_closed(mark, &mut self.open, &mut self.key_of)
    }

    fn whole(&mut self) -> Result<Delta> {
        delta_of(&self.key_of.all(), &self.open, &self.key_of, &self.saved, self.keys.len())
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
