//! `nexmark`: the events of an auction house, by the algorithm and the numbers of Apache Beam's and Flink's generators.
//!
//! Of each 50 events 1 is a person, 3 are auctions and 46 are bids. Event `n` is a function of (`seed`, `n`) alone, whatever columns,
//! splits, workers and batches there are, so tables of the three kinds fit together although each makes only its own rows and
//! only the columns that are read.
//!
//! | table | columns |
//! |---|---|
//! | `person` | `id`, `name`, `emailAddress`, `creditCard`, `city`, `state`, `dateTime`, `extra` |
//! | `auction` | `id`, `itemName`, `description`, `initialBid`, `reserve`, `dateTime`, `expires`, `seller`, `category`, `extra` |
//! | `bid` | `auction`, `bidder`, `price`, `channel`, `url`, `dateTime`, `extra` |
//! | `all` | `event_type` (0, 1, 2), `person`, `auction`, `bid` (each a ROW of the columns above, NULL for other kinds), `dateTime` |
//!
//! Names are compared without case and underscores. The random numbers are our own, so rows are not those of another implementation, but
//! their distributions are.

mod columns;
mod events;
mod random;
mod texts;

use super::{Context, Polled, Source, Split, Table};
use crate::batch::{BATCH_ROWS, batch_of};
use crate::error::{Error, Result};
use crate::time::Clock;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::SchemaRef;
use columns::{Generator, Reading};
use events::{Cursor, EVENTS_MAX, GROUP_STEP, Kind, Run, Shape};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// When event time begins, as in Beam.
const BASE_TIME: &str = "2015-07-15T00:00:00Z";

/// A table of generated events.
#[derive(Debug)]
pub struct Nexmark {
    schema: SchemaRef,
    readings: Arc<[Reading]>,
    generator: Arc<Generator>,
    /// Which events its rows are; None: all.
    kind: Option<Kind>,
    /// Of all kinds.
    events: Option<u64>,
    /// Events come when they are due, not as fast as they are asked for.
    paced: bool,
    splits: u64,
}

impl Nexmark {
    /// Checks the options.
    pub fn new(table: &Table, columns: &[usize]) -> Result<Self> {
        let options = &table.options;
        let number = |name: &str, default: u64, least: u64, most: u64| -> Result<u64> {
            let number = options.parsed(name, default, "a whole number")?;
            match (least..=most).contains(&number) {
                true => Ok(number),
                false => Err(options.wrong(name, format!("from {least} to {most} are possible"))),
            }
        };
        let kind = match options.text("type").unwrap_or(&table.name) {
            "person" => Some(Kind::Person),
            "auction" => Some(Kind::Auction),
            "bid" => Some(Kind::Bid),
            _ => options.choice("type", &["all", "person", "auction", "bid"]).map(|_| None)?,
        };
        let base = options.text("base-time").unwrap_or(BASE_TIME);
        let base = string_to_timestamp_nanos(base).map_err(|error| options.wrong("base-time", error.to_string()))?;
        let shape = Shape {
            proportions: [
                number("person.proportion", 1, 0, 1 << 20)?,
                number("auction.proportion", 3, 0, 1 << 20)?,
                number("bid.proportion", 46, 0, 1 << 20)?,
            ],
            rate: number("first-event.rate", 10_000, 1, 1_000_000_000)?,
            base: base.div_euclid(1000),
            group: number("out-of-order.group-size", 1, 1, 1 << 20)?,
            auctions_in_flight: number("auction.in-flight", 100, 0, 1 << 20)? as i64,
            people_active: number("person.active", 1000, 0, 1 << 20)? as i64,
            hot_auctions: number("bid.hot-ratio.auctions", 2, 1, 1 << 20)?,
            hot_bidders: number("bid.hot-ratio.bidders", 4, 1, 1 << 20)?,
            hot_sellers: number("auction.hot-ratio.sellers", 4, 1, 1 << 20)?,
        };
        if shape.group > 1 && shape.group.is_multiple_of(GROUP_STEP) {
            let text =
                format!("a group is gone through in steps of {GROUP_STEP}, so its size must not be a multiple of that");
            return Err(options.wrong("out-of-order.group-size", text));
        }
        let rows = kind.map_or(shape.round(), |kind| shape.proportions[kind as usize]);
        if rows == 0 {
            let name = kind.map_or("bid.proportion".to_owned(), |kind| format!("{kind:?}.proportion").to_lowercase());
            return Err(options.wrong(&name, "the table would have no rows"));
        }
        let size = |name: &str, default: u64| match options.bytes(name, default)? {
            size if size <= texts::SIZE_MAX => Ok(size),
            _ => Err(options.wrong(name, format!("at most {} bytes are possible", texts::SIZE_MAX))),
        };
        let sizes = [size("person.avg-size", 200)?, size("auction.avg-size", 500)?, size("bid.avg-size", 100)?];
        let seed = options.parsed("seed", 0, "a number")?;
        let events = match options.text("events.num") {
            Some(_) => Some(number("events.num", 0, 0, EVENTS_MAX)?),
            None => None,
        };
        let paced = options.parsed("rate.limited", false, "true or false")?;
        let splits = number("splits", 4, 1, 1024)?;
        let readings =
            table.schema.fields().iter().map(|field| Reading::new(kind, field)).collect::<Result<Vec<_>>>()?;
        let readings: Arc<[Reading]> = columns.iter().map(|column| readings[*column].clone()).collect();
        Ok(Nexmark {
            schema: Arc::new(table.schema.project(columns).map_err(|error| Error::internal(error.to_string()))?),
            generator: Arc::new(Generator::new(shape, seed, sizes, &readings)),
            readings,
            kind,
            events,
            paced,
            splits,
        })
    }
}

impl Source for Nexmark {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        self.events.is_some()
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        Ok((0..self.splits).map(|split| split.to_string()).collect())
    }

    fn open(&self, splits: &[String], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |name: &String| {
            let split =
                name.parse().map_err(|_| Error::internal(format!("'{name}' is no split of generated events")))?;
            Ok(Box::new(NexmarkSplit {
                schema: Arc::clone(&self.schema),
                readings: Arc::clone(&self.readings),
                generator: Arc::clone(&self.generator),
                kind: self.kind,
                end: self.events.unwrap_or(u64::MAX),
                pace: self.paced.then(|| Pace { clock: Arc::clone(&context.clock), started: None }),
                cursor: Cursor::new(split, self.splits),
                polled: Vec::new(),
            }) as Box<dyn Split>)
        };
        splits.iter().map(open).collect()
    }
}

/// Every so-many-th round of events.
struct NexmarkSplit {
    schema: SchemaRef,
    readings: Arc<[Reading]>,
    generator: Arc<Generator>,
    kind: Option<Kind>,
    /// The position of the whole stream that is not emitted any more.
    end: u64,
    pace: Option<Pace>,
    cursor: Cursor,
    /// What the last poll gave.
    polled: Vec<Run>,
}

/// Events that are due by the clock.
struct Pace {
    clock: Arc<dyn Clock>,
    started: Option<Duration>,
}

impl Pace {
    /// The position of the first event that is not due yet.
    fn due(&mut self, rate: u64) -> u64 {
        let now = self.clock.monotonic();
        let elapsed = now.saturating_sub(*self.started.get_or_insert(now));
        u64::try_from(elapsed.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for NexmarkSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.cursor)
    }
}

impl Split for NexmarkSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let shape = &self.generator.shape;
        let due = self.pace.as_mut().map_or(u64::MAX, |pace| pace.due(shape.rate));
        self.polled = self.cursor.next(shape, self.kind, rows_max.clamp(1, BATCH_ROWS), self.end.min(due));
        if self.polled.is_empty() {
            return Ok(if self.cursor.position(shape) >= self.end { Polled::Ended } else { Polled::Pending });
        }
        let columns = self.readings.iter().map(|reading| self.generator.column(reading, &self.polled));
        let columns = columns.collect::<Result<Vec<_>>>().map_err(|error| error.within(self.place(0)))?;
        let rows = self.polled.iter().map(|run| run.rows).sum();
        let rows = batch_of(Arc::clone(&self.schema), columns, rows).map_err(|error| error.within(self.place(0)))?;
        let bytes = rows.get_array_memory_size();
        Ok(Polled::Rows { rows, bytes })
    }

    fn position(&self) -> u64 {
        self.cursor.passed()
    }

    fn place(&self, row: usize) -> String {
        let event = self.polled.iter().flat_map(Run::events).nth(row).unwrap_or_default();
        format!("event {event}")
    }
}

#[cfg(test)]
mod tests;
