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

use super::{Context, OptionSpec, Options, Polled, Preset, Source, Split, SplitStart, Table, Takes};
use crate::batch::{BATCH_ROWS, batch_of};
use crate::error::{Error, Result};
use crate::time::Clock;
use arrow::datatypes::SchemaRef;
use columns::{Generator, Reading};
use events::{Cursor, EVENTS_MAX, GROUP_STEP, Kind, Run, Shape};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const SHARE: Takes = Takes::Whole(0, 1 << 20);
const COUNT: Takes = Takes::Whole(1, 1 << 20);

const TYPE: OptionSpec = OptionSpec::reading(
    "type",
    Takes::Choice(&["all", "person", "auction", "bid"]),
    Preset::None("the table's name, else `all`"),
    "which events the rows are",
);
const EVENTS: OptionSpec = OptionSpec::reading(
    "events.num",
    Takes::Whole(0, EVENTS_MAX as i128),
    Preset::None("no end"),
    "how many events there are, of all kinds: a table of bids has 46 of 50",
);
const RATE: OptionSpec = OptionSpec::reading(
    "first-event.rate",
    Takes::Whole(1, 1_000_000_000),
    Preset::Is("10000"),
    "how many events there are in a second of event time",
);
const PACED: OptionSpec = OptionSpec::reading(
    "rate.limited",
    Takes::Flag,
    Preset::Is("false"),
    "whether events come when they are due, not as fast as they are asked for",
);
const BASE_TIME: OptionSpec =
    OptionSpec::reading("base-time", Takes::Time, Preset::Is("2015-07-15T00:00:00Z"), "the time of the first event");
const GROUP: OptionSpec = OptionSpec::reading(
    "out-of-order.group-size",
    COUNT,
    Preset::Is("1"),
    "how many events after each other come in another order",
);
const SEED: OptionSpec =
    OptionSpec::reading("seed", Takes::Whole(0, u64::MAX as i128), Preset::Is("0"), "what the events follow from");
const SPLITS: OptionSpec =
    OptionSpec::reading("splits", Takes::Whole(1, 1024), Preset::Is("4"), "how many shares the table has");
const PERSONS: OptionSpec =
    OptionSpec::reading("person.proportion", SHARE, Preset::Is("1"), "how many of each round of events are persons");
const AUCTIONS: OptionSpec =
    OptionSpec::reading("auction.proportion", SHARE, Preset::Is("3"), "how many of each round of events are auctions");
const BIDS: OptionSpec =
    OptionSpec::reading("bid.proportion", SHARE, Preset::Is("46"), "how many of each round of events are bids");
const PERSON_SIZE: OptionSpec = OptionSpec::reading(
    "person.avg-size",
    Takes::Bytes,
    Preset::Is("200"),
    "the size of a person, which `extra` fills up",
);
const AUCTION_SIZE: OptionSpec = OptionSpec::reading(
    "auction.avg-size",
    Takes::Bytes,
    Preset::Is("500"),
    "the size of an auction, which `extra` fills up",
);
const BID_SIZE: OptionSpec =
    OptionSpec::reading("bid.avg-size", Takes::Bytes, Preset::Is("100"), "the size of a bid, which `extra` fills up");
const AUCTIONS_IN_FLIGHT: OptionSpec = OptionSpec::reading(
    "auction.in-flight",
    SHARE,
    Preset::Is("100"),
    "how many of the newest auctions are drawn from",
);
const PEOPLE_ACTIVE: OptionSpec =
    OptionSpec::reading("person.active", SHARE, Preset::Is("1000"), "how many of the newest persons are drawn from");
const HOT_AUCTIONS: OptionSpec = OptionSpec::reading(
    "bid.hot-ratio.auctions",
    COUNT,
    Preset::Is("2"),
    "one bid of so many is for any auction, the others for the hot one",
);
const HOT_BIDDERS: OptionSpec = OptionSpec::reading(
    "bid.hot-ratio.bidders",
    COUNT,
    Preset::Is("4"),
    "one bid of so many is by any person, the others by the hot one",
);
const HOT_SELLERS: OptionSpec = OptionSpec::reading(
    "auction.hot-ratio.sellers",
    COUNT,
    Preset::Is("4"),
    "one auction of so many is by any person, the others by the hot one",
);

/// What this connector takes.
pub const OPTIONS: &[&OptionSpec] = &[
    &TYPE,
    &EVENTS,
    &RATE,
    &PACED,
    &BASE_TIME,
    &GROUP,
    &SEED,
    &SPLITS,
    &PERSONS,
    &AUCTIONS,
    &BIDS,
    &PERSON_SIZE,
    &AUCTION_SIZE,
    &BID_SIZE,
    &AUCTIONS_IN_FLIGHT,
    &PEOPLE_ACTIVE,
    &HOT_AUCTIONS,
    &HOT_BIDDERS,
    &HOT_SELLERS,
];

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
        let number = |spec: &OptionSpec| options.whole::<u64>(spec);
        let kind = match options.text(&TYPE).unwrap_or(&table.name) {
            "person" => Some(Kind::Person),
            "auction" => Some(Kind::Auction),
            "bid" => Some(Kind::Bid),
            _ => options.if_given(&TYPE, Options::choice).map(|_| None)?,
        };
        let shape = Shape {
            proportions: [number(&PERSONS)?, number(&AUCTIONS)?, number(&BIDS)?],
            rate: number(&RATE)?,
            base: options.time(&BASE_TIME)?,
            group: number(&GROUP)?,
            auctions_in_flight: options.whole(&AUCTIONS_IN_FLIGHT)?,
            people_active: options.whole(&PEOPLE_ACTIVE)?,
            hot_auctions: number(&HOT_AUCTIONS)?,
            hot_bidders: number(&HOT_BIDDERS)?,
            hot_sellers: number(&HOT_SELLERS)?,
        };
        if shape.group > 1 && shape.group.is_multiple_of(GROUP_STEP) {
            let text =
                format!("a group is gone through in steps of {GROUP_STEP}, so its size must not be a multiple of that");
            return Err(options.wrong(&GROUP, text));
        }
        let rows = kind.map_or(shape.round(), |kind| shape.proportions[kind as usize]);
        if rows == 0 {
            let share = kind.map_or(&BIDS, |kind| [&PERSONS, &AUCTIONS, &BIDS][kind as usize]);
            return Err(options.wrong(share, "the table would have no rows"));
        }
        let size = |spec: &OptionSpec| match options.bytes(spec)? {
            size if size <= texts::SIZE_MAX => Ok(size),
            _ => Err(options.wrong(spec, format!("at most {} bytes are possible", texts::SIZE_MAX))),
        };
        let sizes = [size(&PERSON_SIZE)?, size(&AUCTION_SIZE)?, size(&BID_SIZE)?];
        let seed = number(&SEED)?;
        let events = options.if_given(&EVENTS, Options::whole)?;
        let paced = options.flag(&PACED)?;
        let splits = number(&SPLITS)?;
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

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |start: &SplitStart| {
            let name = &start.name;
            let split =
                name.parse().map_err(|_| Error::internal(format!("'{name}' is no split of generated events")))?;
            Ok(Box::new(NexmarkSplit {
                schema: Arc::clone(&self.schema),
                readings: Arc::clone(&self.readings),
                generator: Arc::clone(&self.generator),
                kind: self.kind,
                end: self.events.unwrap_or(u64::MAX),
                pace: self.paced.then(|| Pace { clock: Arc::clone(&context.clock), begun: None }),
                cursor: Cursor::new(split, self.splits, start.position.unwrap_or(0)),
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
    /// When it was asked first, and the position of the stream that was next then.
    begun: Option<(Duration, u64)>,
}

impl Pace {
    /// The position of the first event that is not due yet; `next` is the one that comes next.
    fn due(&mut self, rate: u64, next: u64) -> u64 {
        let now = self.clock.monotonic();
        let (began, from) = *self.begun.get_or_insert((now, next));
        let due = now.saturating_sub(began).as_nanos() * u128::from(rate) / 1_000_000_000;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_add(from)
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
        // of the whole stream, not of this split: one that begins anew begins with the stream
        let next = if self.cursor.passed() == 0 { 0 } else { self.cursor.position(shape) };
        let due = self.pace.as_mut().map_or(u64::MAX, |pace| pace.due(shape.rate, next));
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
