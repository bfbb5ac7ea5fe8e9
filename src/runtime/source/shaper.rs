//! From what a split gives to the rows of the step: changes as rows with weights, computed columns, event time, and what is wrong with
//! some of them.
//!
//! Good rows cost one evaluation of all. Where some are bad and the table bears that, halves are tried until the bad ones stand alone.

use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::connector::bad::Refused;
use crate::connector::{Gives, Split};
use crate::error::{Error, Result};
use crate::format::change::opened;
use crate::operator::panes::{event_times, moments};
use crate::operator::transform::with_weight;
use crate::plan::SourceStep;
use crate::time::{Micros, Watermark, format_micros};
use arrow::array::{Array, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::compute::{concat_batches, filter_record_batch, max};
use arrow::datatypes::{Int64Type, SchemaRef};
use std::ops::Range;
use std::sync::Arc;

/// A share of bad records means nothing before there are so many records.
const SHARE_RECORDS_MIN: u64 = 1000;

/// Makes the rows of one source step.
pub struct Shaper {
    step: SourceStep,
    /// The step's columns, and the weight if the source gives no rows that stand.
    schema: SchemaRef,
    gives: Gives,
}

impl Shaper {
    /// For the rows of `step`, which have the columns of `schema`.
    pub fn new(step: &SourceStep, schema: &SchemaRef) -> Self {
        let gives = step.source.gives();
        let schema = if gives == Gives::Rows { Arc::clone(schema) } else { with_weight(schema) };
        Shaper { step: step.clone(), schema, gives }
    }

    /// The rows that `polled`, the last batch of `split`, gives in an epoch that began at `wall` by the clock. What is wrong with the others is added to `refused`.
    ///
    /// # Errors
    /// The first bad row, if the table bears none.
    pub fn rows(&self, polled: Batch, split: &dyn Split, wall: Micros, refused: &mut Vec<Refused>) -> Result<Batch> {
        let mut bad: Vec<(usize, Error)> = Vec::new();
        let (polled, origins) = match self.gives {
            Gives::Changes => {
                let (rows, origins) = opened(&polled, &with_weight(&self.step.source.schema()))?;
                (rows, Some(origins))
            }
            Gives::Rows | Gives::Upserts => (polled, None),
        };
        let record_of = |row: usize| origins.as_ref().map_or(row, |origins| origins[row]);
        let (rows, kept) = match self.shape(&polled, 0..polled.num_rows(), split) {
            Ok(rows) => (rows, None),
            Err(_) => {
                let (mut parts, mut kept) = (vec![Batch::new_empty(Arc::clone(&self.schema))], Vec::new());
                self.shape_around(&polled, 0..polled.num_rows(), split, &mut parts, &mut kept, &mut bad);
                (concat_batches(&self.schema, &parts).map_err(from_arrow)?, Some(kept))
            }
        };
        let wrong_time = self.wrong_time(&rows, wall)?;
        let rows = match wrong_time.is_empty() {
            true => rows,
            false => {
                let mut good = vec![true; rows.num_rows()];
                wrong_time.iter().for_each(|(row, _)| good[*row] = false);
                take_rows(&rows, (0..rows.num_rows()).filter(|row| good[*row]).map(|row| row as u32).collect())?
            }
        };
        bad.extend(wrong_time.into_iter().map(|(row, error)| (kept.as_ref().map_or(row, |kept| kept[row]), error)));
        bad.sort_by_key(|(row, _)| *row);
        for (row, error) in bad {
            let row = record_of(row);
            if !self.step.bad.on_bad.bears() {
                return Err(error.within(split.place(row)));
            }
            refused.push(Refused { record: split.record(row), reason: error.to_string(), origin: split.origin(row) });
        }
        Ok(rows)
    }

    /// The watermark that `rows` stand for; none without rows or event time.
    pub fn watermark(&self, rows: &Batch) -> Result<Option<Watermark>> {
        let Some(time) = &self.step.time else { return Ok(None) };
        let timed;
        let rows = match self.weights(rows) {
            Some(weights) => {
                let kept: BooleanArray = weights.values().iter().map(|weight| Some(*weight > 0)).collect();
                timed = filter_record_batch(rows, &kept).map_err(from_arrow)?;
                &timed
            }
            None => rows,
        };
        // most watermarks stay so much behind: then the latest row says it for all
        let latest = match time.watermark.rises_with(time.column) {
            true => {
                let times = event_times(rows.column(time.column))?;
                let latest = times.iter().max().and_then(|latest| times.iter().position(|time| time == latest));
                latest.map(|row| rows.slice(row, 1))
            }
            false => None,
        };
        let marks = event_times(&time.watermark.evaluate(latest.as_ref().unwrap_or(rows))?)?;
        Ok(marks.iter().max().map(|&latest| Watermark::at(latest)))
    }

    /// The weights of `rows`, where some of them may be keys without values.
    fn weights<'a>(&self, rows: &'a Batch) -> Option<&'a Int64Array> {
        let last = rows.columns().last().filter(|_| self.gives == Gives::Upserts);
        last.map(|weights| weights.as_primitive::<Int64Type>())
    }

    /// The step's columns of the rows of `range`.
    fn shape(&self, polled: &Batch, range: Range<usize>, split: &dyn Split) -> Result<Batch> {
        let rows = polled.slice(range.start, range.len());
        let mut columns = self.step.columns.iter().map(|column| column.evaluate(&rows)).collect::<Result<Vec<_>>>()?;
        if self.gives != Gives::Rows {
            columns.extend(rows.columns().last().cloned()); // the weight
        }
        if self.step.place {
            columns.push(Arc::new(StringArray::from_iter_values(range.clone().map(|row| split.place(row)))));
        }
        batch_of(Arc::clone(&self.schema), columns, range.len())
    }

    /// Shapes what can be shaped of `range`, of which it is known that not all can be.
    fn shape_around(
        &self,
        polled: &Batch,
        range: Range<usize>,
        split: &dyn Split,
        parts: &mut Vec<Batch>,
        kept: &mut Vec<usize>,
        bad: &mut Vec<(usize, Error)>,
    ) {
        let middle = range.start + range.len() / 2;
        let halves = if range.len() > 1 { vec![range.start..middle, middle..range.end] } else { vec![range] };
        for half in halves {
            match self.shape(polled, half.clone(), split) {
                Ok(rows) => {
                    parts.push(rows);
                    kept.extend(half);
                }
                Err(error) if half.len() == 1 => bad.push((half.start, error)),
                Err(_) => self.shape_around(polled, half, split, parts, kept, bad),
            }
        }
    }

    /// The rows without event time or from too far ahead, with what is wrong with them.
    fn wrong_time(&self, rows: &Batch, wall: Micros) -> Result<Vec<(usize, Error)>> {
        let Some(time) = &self.step.time else { return Ok(Vec::new()) };
        let times = moments(rows.column(time.column))?;
        let micros = self.step.max_future.as_micros().try_into().unwrap_or(i64::MAX);
        let limit = wall.saturating_add(micros);
        let none = || {
            let name = self.schema.field(time.column).name();
            Error::data(format!("the event time \"{name}\" is NULL"))
        };
        let ahead = |at: i64| {
            let far = humantime::format_duration(self.step.max_future);
            Error::data(format!("the event time {} is more than {far} ahead of the wall clock", format_micros(at)))
                .help("correct the record, or raise 'max_future'")
        };
        // a key that has lost its row has no event time
        let weights = self.weights(rows);
        let timeless = |row: usize| weights.is_some_and(|weights| weights.value(row) < 0);
        if times.null_count() == 0 && max(&times).is_none_or(|latest| latest <= limit) {
            return Ok(Vec::new());
        }
        let wrong = |(row, at): (usize, Option<Micros>)| match at {
            None if timeless(row) => None,
            None => Some((row, none())),
            Some(at) if at > limit => Some((row, ahead(at))),
            Some(_) => None,
        };
        Ok(times.iter().enumerate().filter_map(wrong).collect())
    }
}

/// How many records were bad so far, of how many.
#[derive(Default)]
pub struct Tally {
    records: u64,
    bad: u64,
}

impl Tally {
    /// Counts records, of which some were `refused`.
    ///
    /// # Errors
    /// More are bad than the table bears.
    pub fn count(&mut self, step: &SourceStep, records: usize, refused: &[Refused]) -> Result<()> {
        self.records += records as u64;
        let Some(last) = refused.last() else { return Ok(()) };
        self.bad += refused.len() as u64;
        let (records, bad) = (self.records, self.bad);
        match step.bad.share_max {
            Some(most) if records >= SHARE_RECORDS_MIN && bad as f64 > most * records as f64 => {
                let error = Error::data(format!(
                    "{bad} of {records} records are bad, more than the share {most} that the table bears; the last one: {}",
                    last.reason
                ));
                Err(error.within(last.origin.place.clone()).help("look at the records, or raise 'on_error.max-share'"))
            }
            _ => Ok(()),
        }
    }
}
