//! Rows that end the process: finding which one it is, and leaving it out.
//!
//! A worker notes what it reads before anything is done with it. When it dies of a panic, the note is what it died after. The next but one
//! generation is *careful*: it reads one row at a time and gives each the time to do its harm, so that the note names one row. What
//! the log says is to be left out is refused like a bad record, where it is read.

use crate::connector::bad::{Origin, Refused};
use crate::connector::{Context, Gives, Polled, Source, Split, SplitStart};
use crate::error::Result;
use crate::fail;
use crate::time::{Clock, Watermark};
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a row has to do its harm: in time, and in turns of the worker, which may be slow.
const PAUSE: Duration = Duration::from_millis(2);
const TURNS: u32 = 8;

/// What a worker had read last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The table.
    pub table: String,
    /// The split's name.
    pub split: String,
    /// Where its first row is, and where the one after its last.
    pub from: u64,
    /// See above.
    pub to: u64,
    /// How many rows it has.
    pub rows: u64,
    /// Where its first row came from, for people.
    pub place: String,
}

/// A row that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The table.
    pub table: String,
    /// The split's name.
    pub split: String,
    /// Where it is.
    pub position: u64,
    /// Why.
    pub reason: String,
}

/// The last note of a worker.
pub type LastRead = Arc<Mutex<Option<Suspect>>>;

/// A source whose rows are noted.
pub(super) struct Wary {
    pub table: String,
    pub source: Arc<dyn Source>,
    pub last: LastRead,
    pub skips: Vec<Skip>,
    /// In a careful generation: after what the one before died.
    pub careful: Option<Suspect>,
}

impl Source for Wary {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn bounded(&self) -> bool {
        self.source.bounded()
    }

    fn gives(&self) -> Gives {
        self.source.gives()
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.source.splits(context)
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.source.discovery_interval()
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let wary = |(split, start): (Box<dyn Split>, &SplitStart)| -> Box<dyn Split> {
            let of_split = |skip: &&Skip| skip.table == self.table && skip.split == start.name;
            let mut skips: Vec<Skip> = self.skips.iter().filter(of_split).cloned().collect();
            skips.sort_by_key(|skip| std::cmp::Reverse(skip.position));
            let suspect = |suspect: &&Suspect| suspect.table == self.table && suspect.split == start.name;
            let careful =
                self.careful.as_ref().map(|found| Some(found).filter(suspect).map(|found| found.from..=found.to));
            Box::new(WarySplit {
                split,
                table: self.table.clone(),
                name: start.name.clone(),
                last: Arc::clone(&self.last),
                skips,
                careful,
                clock: Arc::clone(&context.clock),
                resting: None,
                refused: Vec::new(),
            })
        };
        Ok(self.source.open(splits, context)?.into_iter().zip(splits).map(wary).collect())
    }
}

struct WarySplit {
    split: Box<dyn Split>,
    table: String,
    name: String,
    last: LastRead,
    /// The next one last.
    skips: Vec<Skip>,
    /// Set in a careful generation; with the rows among which the one is, if they are of this split.
    careful: Option<Option<std::ops::RangeInclusive<u64>>>,
    clock: Arc<dyn Clock>,
    /// Until when, and for how many turns, nothing is given, so that the last row can do its harm.
    resting: Option<(Duration, u32)>,
    /// What the last poll left out.
    refused: Vec<Refused>,
}

impl WarySplit {
    fn note(&self, from: u64, rows: usize) {
        let place = if rows > 0 { self.split.place(0) } else { String::new() };
        let (table, split) = (self.table.clone(), self.name.clone());
        let to = self.split.position();
        let note = Suspect { table, split, from, to, rows: rows as u64, place };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
    }
}

impl Split for WarySplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        self.refused.clear();
        let from = self.split.position();
        if let Some((until, turns)) = &mut self.resting {
            *turns = turns.saturating_sub(1);
            if *turns > 0 || self.clock.monotonic() < *until {
                return Ok(Polled::Pending);
            }
            self.resting = None;
        }
        while self.skips.last().is_some_and(|skip| skip.position < from) {
            self.skips.pop();
        }
        let one = self.careful.is_some() || !self.skips.is_empty();
        self.note(from, 0);
        let polled = self.split.poll(if one { 1 } else { rows_max })?;
        let Polled::Rows { rows, bytes } = polled else { return Ok(polled) };
        if let Some(skip) = self.skips.pop_if(|skip| skip.position == from) {
            let record = self.split.record(0);
            self.refused.push(Refused { record, reason: skip.reason, origin: self.split.origin(0) });
            return Ok(Polled::Rows { rows: rows.slice(0, 0), bytes });
        }
        self.note(from, rows.num_rows());
        fail::rows(from..self.split.position())?;
        if let Some(range) = &self.careful {
            let near = range.as_ref().is_none_or(|range| range.contains(&from));
            // elsewhere a turn without rows is enough
            self.resting = Some(if near { (self.clock.monotonic() + PAUSE, TURNS) } else { (Duration::ZERO, 2) });
        }
        Ok(Polled::Rows { rows, bytes })
    }

    fn position(&self) -> u64 {
        self.split.position()
    }

    fn place(&self, row: usize) -> String {
        self.split.place(row)
    }

    fn origin(&self, row: usize) -> Origin {
        self.split.origin(row)
    }

    fn record(&self, row: usize) -> Option<Vec<u8>> {
        self.split.record(row)
    }

    fn take_refused(&mut self) -> Vec<Refused> {
        let mut refused = self.split.take_refused();
        refused.append(&mut self.refused);
        refused
    }

    fn caught_up(&self) -> bool {
        self.resting.is_none() && self.split.caught_up()
    }

    fn watermark(&self) -> Watermark {
        self.split.watermark()
    }

    fn lag_rows(&self) -> Option<u64> {
        self.split.lag_rows()
    }
}
