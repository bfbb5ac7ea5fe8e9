//! What enters collections: rows are passed on as they come, and remembered.
//!
//! What collections make of rows is not kept in checkpoints, but made again from the rows that are: this operator's state is the sum of
//! all that it has passed on. In memory it holds only what has changed since the last delta, and with a time to live the rows whose time
//! is not over. A delta is the changes since the one before.

use super::panes::event_times;
use super::{Operator, Output};
use crate::batch::changes::{added, consolidated, negated, standing};
use crate::batch::{Batch, take_rows};
use crate::error::Result;
use crate::operator::transform::with_weight;
use crate::plan::{Keeping, There, Ttl};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Micros, Watermark};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;

/// What the table of a delta is called.
const TABLE: &str = "changes";

/// Into how many parts the rows of a time to live are sorted by time.
const PARTS: Micros = 16;

/// The operator.
pub struct Keep {
    /// With the weight.
    schema: SchemaRef,
    /// True if what comes has weights.
    updating: bool,
    /// By which columns rows find their worker.
    keys: Vec<usize>,
    mortal: Option<Mortal>,
    /// True if rows leave in the epoch after the one that ends their time, so that they meet all rows of that one.
    silent: bool,
    /// What was passed on since the last delta; None if there are no deltas.
    changes: Option<Vec<Batch>>,
    /// What was taken back, until it is said again.
    restored: Vec<Batch>,
}

/// Rows whose time will be over.
pub(super) struct Mortal {
    ttl: Ttl,
    pub mark: Watermark,
    /// By when their time is over, in parts.
    held: BTreeMap<Micros, Vec<Batch>>,
    late_rows: u64,
}

impl Keep {
    /// For rows with the columns of `schema`, and a weight if they are `updating`, that come by `keys`.
    pub fn new(schema: &SchemaRef, updating: bool, keys: Vec<usize>, keeping: &Keeping) -> Self {
        let mortal = keeping.ttl.map(Mortal::new);
        Keep {
            schema: with_weight(schema),
            updating,
            keys,
            mortal,
            silent: keeping.there == There::Through,
            changes: None,
            restored: Vec::new(),
        }
    }

    fn pass(&mut self, changes: Batch, out: &mut Output) {
        if let Some(kept) = self.changes.as_mut().filter(|_| changes.num_rows() > 0) {
            kept.push(changes.clone());
        }
        out.push(changes);
    }

    fn table(&self, changes: &[Batch]) -> Result<Delta> {
        let sum = consolidated(changes, &self.schema)?;
        Ok(Table::of_batches(TABLE, &self.schema, &[sum], self.keys.clone())?.into_iter().collect())
    }
}

impl Mortal {
    /// No rows yet.
    pub fn new(ttl: Ttl) -> Self {
        Mortal { ttl, mark: Watermark::NONE, held: BTreeMap::new(), late_rows: 0 }
    }

    /// True for a row of which the time is over at the watermark; event time is a row's in microseconds.
    fn over(&self, time: Micros) -> bool {
        self.mark.micros() >= time.saturating_add(self.ttl.keep)
    }

    /// The rows of `changes` that do not come too late, which are held.
    pub fn admitted(&mut self, changes: Batch) -> Result<Batch> {
        let times = event_times(changes.column(self.ttl.time))?.to_vec();
        let in_time = |row: &u32| self.mark.micros() < times[*row as usize].saturating_add(self.ttl.admit);
        let in_time: Vec<u32> = (0..times.len() as u32).filter(in_time).collect();
        self.late_rows += (times.len() - in_time.len()) as u64;
        let changes = if in_time.len() == times.len() { changes } else { take_rows(&changes, in_time)? };
        self.hold(&changes)?;
        Ok(changes)
    }

    /// Takes rows of an earlier run back, which were known up to the watermark; gives those whose time is over.
    pub fn restored(&mut self, rows: &Batch) -> Result<Batch> {
        let times = event_times(rows.column(self.ttl.time))?.to_vec();
        let (over, living) = (0..times.len() as u32).partition(|row| self.over(times[*row as usize]));
        self.hold(&take_rows(rows, living)?)?;
        take_rows(rows, over)
    }

    /// How many rows came too late, since the last call.
    pub fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn hold(&mut self, changes: &Batch) -> Result<()> {
        let times = event_times(changes.column(self.ttl.time))?;
        let size = (self.ttl.keep / PARTS).max(1);
        let mut parts: BTreeMap<Micros, Vec<u32>> = BTreeMap::new();
        for (row, time) in times.iter().enumerate() {
            parts.entry(time.div_euclid(size)).or_default().push(row as u32);
        }
        for (part, rows) in parts {
            self.held.entry(part).or_default().push(take_rows(changes, rows)?);
        }
        Ok(())
    }

    /// The rows whose time is over, which are not held any more.
    pub fn dead(&mut self, schema: &SchemaRef) -> Result<Vec<Batch>> {
        let size = (self.ttl.keep / PARTS).max(1);
        let mut dead = Vec::new();
        while let Some(entry) = self.held.first_entry() {
            let start = entry.key().saturating_mul(size);
            if self.mark.micros() < start.saturating_add(self.ttl.keep) {
                break;
            }
            let part = *entry.key();
            let rows = consolidated(&entry.remove(), schema)?;
            let times = event_times(rows.column(self.ttl.time))?;
            let (over, living): (Vec<u32>, Vec<u32>) =
                (0..rows.num_rows() as u32).partition(|row| self.over(times[*row as usize]));
            let living = take_rows(&rows, living)?;
            dead.push(take_rows(&rows, over)?);
            if living.num_rows() > 0 {
                self.held.insert(part, vec![living]);
                break;
            }
        }
        Ok(dead)
    }
}

impl Operator for Keep {
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        let changes = match self.updating {
            true => batch.clone(),
            // nobody needs the weights of rows that only come
            false if self.mortal.is_none() && self.changes.is_none() => {
                out.push(batch);
                return Ok(());
            }
            false => added(&batch, &self.schema)?,
        };
        match &mut self.mortal {
            Some(mortal) => {
                let changes = mortal.admitted(changes)?;
                self.pass(changes, out);
            }
            None if self.updating => self.pass(changes, out),
            None => {
                out.push(batch);
                self.changes.as_mut().expect("there are deltas").push(changes);
            }
        }
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        let Some(mortal) = &mut self.mortal else { return Ok(()) };
        // the end of the input ends no row's time
        let mark = if mark == Watermark::END { mortal.mark } else { mark };
        if !self.silent {
            mortal.mark = mark;
        }
        let dead = mortal.dead(&self.schema)?;
        mortal.mark = mark;
        dead.iter().try_for_each(|dead| negated(dead).map(|dead| self.pass(dead, out)))
    }

    fn take_late_rows(&mut self) -> u64 {
        self.mortal.as_mut().map_or(0, Mortal::take_late_rows)
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
        self.restored = vec![consolidated(&std::mem::take(&mut self.restored), &self.schema)?];
        if let Some(mortal) = &mut self.mortal {
            mortal.mark = mark;
            for rows in &self.restored {
                // those whose time is over leave with the next epoch
                mortal.hold(rows)?;
            }
        }
        Ok(())
    }

    fn again(&mut self, out: &mut Output) -> Result<()> {
        for rows in std::mem::take(&mut self.restored) {
            if self.updating || self.mortal.is_some() {
                out.push(rows);
                continue;
            }
            out.push(standing(&rows)?);
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        let restored = std::mem::take(&mut self.restored);
        self.table(&restored)
    }
}
