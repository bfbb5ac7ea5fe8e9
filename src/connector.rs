//! The outside world: where rows come from and where they go.
//!
//! A [`Source`] or [`Sink`] is a table's definition, checked and immutable, the same in every process. What it opens is
//! local to one worker: a [`Split`] is a share of a source that is read in order, a [`Shard`] a share of a sink.
//!
//! ```text
//! Source ── splits(), later discover() on worker 0 ──▶ names, dealt to workers ── open() ──▶ Split ── poll() ──▶ batches
//! Sink   ── open() on each worker ─▶ Shard ── write() … flush() ──▶ epoch written
//! ```
//! A [`Lookup`] is neither: it is asked for the rows of keys, on threads of its own.
//! No call blocks the worker for longer than a few milliseconds, but `splits`, `open` and `finish`.

pub mod bad;
pub mod blackhole;
pub mod builtin;
pub mod datagen;
pub mod extensions;
pub mod file;
pub mod http;
pub mod kafka;
pub mod memory;
pub mod nexmark;
pub mod print;
pub mod redirect;
pub mod values;

mod formats;
mod metadata;
mod options;
pub mod registry;
mod secret;

pub use formats::{FORMATS, FormatSpec};
pub use metadata::{MetadataColumn, MetadataSpec, find as find_metadata};
pub use options::{Named, OptionSpec, OptionText, Options, Preset, Side, Takes};
pub use secret::Secret;

use crate::batch::Batch;
use crate::error::{Error, Result, nearest};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::operator::CustomOperator;
use crate::time::{Clock, Epoch, Watermark};
use arrow::datatypes::SchemaRef;
use bad::{Origin, Refused};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A table's reading side.
pub trait Source: Send + Sync {
    /// The columns that it reads from outside, before computed ones.
    fn schema(&self) -> SchemaRef;
    /// True if it ends by itself.
    fn bounded(&self) -> bool;
    /// What its rows are, and so what its splits' batches look like.
    fn gives(&self) -> Gives {
        Gives::Rows
    }
    /// True if it is read from the broker called `embedded`, which the process has to start.
    fn embedded(&self) -> bool {
        false
    }
    /// What tells its rows from others with the same columns, if they stand in the definition: it is a part of the plan's identity.
    fn digest(&self) -> Option<[u8; 32]> {
        None
    }
    /// Names the shares that exist now, each with all that is needed to open it on another machine: for a topic, its
    /// partition with the offsets at which to start and to end. Called once, on worker 0; the order is the splits' order.
    fn splits(&self, context: &Context) -> Result<Vec<String>>;
    /// How long to wait before looking for new splits, again and again. None: those of [`Source::splits`] are all.
    fn discovery_interval(&self) -> Option<Duration> {
        None
    }
    /// Names the shares that have come since `known` were named, as [`Source::splits`] would. Called for worker 0 on a thread
    /// of its own, so it may wait for an answer; what it names is opened while the others are read.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) to be asked again later; any other ends the run.
    fn discover(&self, _known: &[String], _context: &Context) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Looks whether splits that were read before can be read on where that ended, and gives them back. Called on worker 0 before
    /// anything is opened.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if what should come next is gone, or if what is there is
    /// another thing under the same name, which no waiting mends; the error says how much is missing. With `accept_gap` reading goes on after the gap instead.
    fn resume(&self, splits: Vec<SplitStart>, _accept_gap: bool, _context: &Context) -> Result<Vec<SplitStart>> {
        Ok(splits)
    }
    /// Opens these shares, which one worker reads: those of the start, or new ones. Answers in their order.
    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>>;
    /// What tells the outside how far `pipeline` has read, for people and tools that look there; none if there is no such place, or
    /// if it is not wanted. Nothing is ever read back from it.
    fn follower(&self, _pipeline: &str) -> Option<Box<dyn Follower>> {
        None
    }
}

/// Tells the outside how far committed checkpoints have read. See [`Source::follower`].
pub trait Follower: Send {
    /// A checkpoint is committed: the next rows are read from where `splits` say, which are all that were ever read. Called on a
    /// thread that may wait for some seconds; what is missed is made good by the next call.
    ///
    /// # Errors
    /// They are logged, and end nothing.
    fn committed(&mut self, splits: &[SplitStart], context: &Context) -> Result<()>;
}

/// What a source's rows are. Whichever it is, a batch has one row for each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// Rows that stand. Batches have the columns of [`Source::schema`].
    Rows,
    /// Changes: batches have the columns of [`change::schema`](crate::format::change::schema) over those of [`Source::schema`].
    Changes,
    /// The newest row of each PRIMARY KEY. Batches have the columns of [`Source::schema`], the key's among them, and last a weight:
    /// +1 for the key's new row, -1 where the key has none from now on; then only its key counts. Records of one key are in one split.
    Upserts,
}

/// A share of a source, and where to begin with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitStart {
    /// Its name, as [`Source::splits`] or [`Source::discover`] gave it.
    pub name: String,
    /// What [`Split::position`] said after the last row that is not wanted again; none: where the name says.
    pub position: Option<u64>,
}

impl SplitStart {
    /// The whole share.
    pub fn whole(name: impl Into<String>) -> Self {
        SplitStart { name: name.into(), position: None }
    }
}

/// A share of a source, read in order by one worker.
pub trait Split {
    /// Reads at most `rows_max` rows; never waits for some to come.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::error::ErrorKind::Data) for a bad record, with its place (topic, partition and offset, or
    /// file and line) and the reason; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the source is gone for good.
    fn poll(&mut self, rows_max: usize) -> Result<Polled>;
    /// The place of the row that will be read next: an offset, a line. Opened there by [`SplitStart::position`], it gives the rows from that one on.
    fn position(&self) -> u64;
    /// Where row `row` of the last polled batch came from, for messages: `topic "words", partition 2, offset 17`.
    fn place(&self, row: usize) -> String;
    /// The same, in parts.
    fn origin(&self, row: usize) -> Origin {
        Origin { place: self.place(row), ..Origin::default() }
    }
    /// The record of row `row` of the last polled batch, if it is still known.
    fn record(&self, _row: usize) -> Option<Vec<u8>> {
        None
    }
    /// The bad records among those that the last call of [`Split::poll`] has passed. What a table does with them the
    /// connector finds in the table's options, by [`OnError`](bad::OnError).
    fn take_refused(&mut self) -> Vec<Refused> {
        Vec::new()
    }
    /// True if nothing is known to wait: an idle split, not one that a slow broker or an open transaction holds back.
    fn caught_up(&self) -> bool {
        true
    }
    /// What is promised about event time beside what the rows say: the split's watermark is the later of both. It never goes back, and
    /// outside of tests it follows from the position, so that recorded epochs can be seen again.
    fn watermark(&self) -> Watermark {
        Watermark::NONE
    }
    /// True if the outside leaves out places, so that the next row may lie further on than [`Split::position`] says: offsets of
    /// records that are not shown.
    fn skips(&self) -> bool {
        false
    }
    /// Rows that are known to wait, where the outside says so.
    fn lag_rows(&self) -> Option<u64> {
        None
    }
}

/// What a split has to give now.
#[derive(Debug)]
pub enum Polled {
    /// Rows of the source's schema; none only where all records were bad. `bytes` is the size of the records outside.
    Rows {
        /// The rows, in order.
        rows: Batch,
        /// Their size as they were read.
        bytes: usize,
    },
    /// Nothing at the moment.
    Pending,
    /// Nothing will ever come again.
    Ended,
}

/// A table's writing side.
pub trait Sink: Send + Sync {
    /// True if one worker must write everything: a terminal, a single file.
    fn single(&self) -> bool;
    /// Opens share `shard` of `shards`; a single sink is opened as share 0 of 1, on one worker.
    fn open(&self, shard: usize, shards: usize, context: &Context) -> Result<Box<dyn Shard>>;
    /// Which rows this sink takes of an updating input.
    fn changes(&self) -> Changes;
    /// True if it writes to the broker called `embedded`, which the process has to start.
    fn embedded(&self) -> bool {
        false
    }
    /// How it is written exactly once; none if it cannot be.
    fn staging(&self) -> Option<&dyn Staging> {
        None
    }
}

/// How a sink is written exactly once: its rows become final *records*, which are kept with the checkpoint of their epoch; once that is
/// committed they are published, and what was published is known to the outside, so that a successor goes on behind it.
///
/// ```text
/// rows ── Stager::stage ─▶ records ── checkpoint committed ─▶ Publisher::publish ─▶ outside, with a marker
/// ```
pub trait Staging: Send + Sync {
    /// How that is done, for people: `transactions`, `files that appear whole`.
    fn how(&self) -> &'static str;
    /// The columns of its records, which hold all that the outside is told.
    fn records(&self) -> SchemaRef;
    /// What makes records of rows on worker `shard` of `shards`. What the outside would refuse is an error here.
    fn stager(&self, shard: usize, shards: usize, context: &Context) -> Result<Box<dyn Stager>>;
    /// What publishes the records of one shard. Afterwards whoever published for that shard before can do it no more, and what they left
    /// unfinished is undone. Called on a thread that may wait.
    fn publisher(&self, shard: &ShardName, context: &Context) -> Result<Box<dyn Publisher>>;
}

/// A share of a sink, by names that stay the same in every run of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShardName {
    /// The pipeline, `[A-Za-z0-9_-]{1,64}`.
    pub pipeline: String,
    /// What tells it from another pipeline that was called the same before it: 16 hex digits, made with its first checkpoint.
    pub incarnation: String,
    /// The table.
    pub table: String,
    /// The share: the number of the worker whose rows they are.
    pub shard: usize,
}

/// Makes records of rows.
pub trait Stager: Send {
    /// The records of `rows`, in the order in which they are to be published.
    fn stage(&mut self, rows: Batch) -> Result<Batch>;
}

/// Publishes the records of committed checkpoints, in their order, each once.
pub trait Publisher: Send {
    /// The last checkpoint whose records are all outside, as the outside knows it; none before the first.
    fn published(&self) -> Option<Epoch>;
    /// Takes all records of checkpoint `epoch`, perhaps none, which is later than [`Publisher::published`] and than any that was given
    /// before. May wait for an answer, and may keep records until more have come.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) or [`ErrorKind::Fenced`](crate::error::ErrorKind::Fenced) if
    /// it is not known how it went, or if someone else publishes: a new publisher finds out. Any other ends the run.
    fn publish(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<Batch>>) -> Result<()>;
    /// Publishes what was kept. `ended` is true if nothing will ever come again.
    fn finish(&mut self, _ended: bool) -> Result<()> {
        Ok(())
    }
}

/// What a sink promises over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Rows are written as they come; after a restart those since the last checkpoint are written again.
    AtLeastOnce,
    /// Rows are written when their checkpoint is committed, and once.
    ExactlyOnce,
}

/// What a sink can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Rows that are never taken back. An updating query must not end here.
    AppendOnly,
    /// The newest row of each key: the sink is given insertions only, the newest wins.
    Upsert,
    /// The newest row of each PRIMARY KEY, and that a key has none any more. Of an updating input it is given insertions only, which
    /// replace each other, or where a key may lose its row one change of each key and epoch with its weight in the last column: +1
    /// for the new row, -1 for the old one where no new one has come.
    Keyed,
    /// Every change, with its weight in the last column: +1 for an insertion, -1 for what it replaces.
    All,
    /// The same, settled: the changes of an epoch cancel out each other, and a row that replaces another of its PRIMARY KEY follows it in
    /// the same batch.
    Paired,
}

/// A share of a sink, written by one worker.
pub trait Shard {
    /// Takes rows; where they are kept until they are flushed is the shard's affair.
    fn write(&mut self, rows: Batch) -> Result<()>;
    /// Pushes on what was written and says whether all of it is acknowledged; asked again until it is, and at the end of each
    /// epoch even if nothing was written. Never waits.
    fn flush(&mut self) -> Result<bool>;
    /// Completes the output after the last flush, at the end of the input or when the pipeline is stopped.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
    /// Bytes that went out since the last call, as they are outside; always 0 where nobody knows.
    fn take_bytes(&mut self) -> u64 {
        0
    }
}

/// A table that is not read, but asked for the rows of keys while a pipeline runs. What it answers may be another thing each time.
///
/// ```text
/// keys of a batch ── those that the cache does not know ─▶ Asker::ask, on threads that may wait ─▶ rows, and into the cache
/// ```
pub trait Lookup: Send + Sync {
    /// The columns of its rows.
    fn schema(&self) -> SchemaRef;
    /// Those of them by which it is asked, in order: a question has a value for each.
    fn key(&self) -> &[usize];
    /// How it is asked.
    fn asking(&self) -> Asking;
    /// What asks, for one of the threads that do.
    fn open(&self, context: &Context) -> Result<Box<dyn Asker>>;
}

/// How a [`Lookup`] is asked, by each worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    /// Questions that may be under way at once.
    pub parallelism: usize,
    /// Keys that one question may have.
    pub keys_max: usize,
    /// Keys whose rows are remembered, those without rows among them.
    pub cache_rows: usize,
    /// How long they are. None: until there is no room.
    pub cache_ttl: Option<Duration>,
}

/// Asks for the rows of keys.
pub trait Asker {
    /// The rows of each of `keys`, a batch for each in their order; one without rows where there are none. Waits, and asks again where
    /// that may help.
    ///
    /// # Errors
    /// They end the run: [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if nobody answers in the end,
    /// [`ErrorKind::Data`](crate::error::ErrorKind::Data) if an answer cannot be read, with the key in both.
    fn ask(&mut self, keys: &Batch) -> Result<Vec<Batch>>;
}

/// What a running process lends to its connectors.
#[derive(Clone)]
pub struct Context {
    /// The address of the development broker that stands in for `embedded`, if the pipeline has one.
    pub embedded_broker: Option<String>,
    /// The only clock.
    pub clock: Arc<dyn Clock>,
    /// The number of workers in all processes.
    pub workers: usize,
}

/// A table as the definition has it, for a connector to make sense of.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name in the definition.
    pub name: String,
    /// The columns that are read or written, in order: physical ones and metadata, not computed ones.
    pub schema: SchemaRef,
    /// Those that are metadata, by index into `schema`.
    pub metadata: BTreeMap<usize, MetadataColumn>,
    /// The columns of PRIMARY KEY, by index into `schema`; empty without one.
    pub primary_key: Vec<usize>,
    /// True if the definition says that the key tells rows apart, whatever can be proven: `NOT ENFORCED`.
    pub key_trusted: bool,
    /// WITH (…), `connector` included.
    pub options: Options,
}

/// What a connector says of itself.
#[derive(Debug, Clone, Copy)]
pub struct ConnectorSpec {
    /// Its name, as `'connector' = '…'` has it.
    pub name: &'static str,
    /// What it is, in a sentence without its full stop.
    pub about: &'static str,
    /// True if its tables can be read.
    pub reads: bool,
    /// True if its tables can be written.
    pub writes: bool,
    /// True if its tables can be looked up in.
    pub answers: bool,
    /// What its tables may have as METADATA columns.
    pub metadata: &'static [MetadataSpec],
    /// What may stand before `format` and the formats' own options; none for a connector without formats.
    pub formats: &'static [&'static str],
    /// Its own options.
    pub options: &'static [&'static OptionSpec],
}

/// Which connector has the table.
pub const CONNECTOR: OptionSpec =
    OptionSpec::both("connector", Takes::Text, Preset::Required, "where the rows of the table are");

/// How long a split may be silent.
pub const IDLE_TIMEOUT: OptionSpec = OptionSpec::reading(
    "scan.watermark.idle-timeout",
    Takes::DurationOrOff,
    Preset::None("the setting `idle_timeout`"),
    "after how long without data a split is left out of the watermark",
);

/// What the watermark does without data.
pub const WHEN_ALL_IDLE: OptionSpec = OptionSpec::reading(
    "scan.watermark.when-all-idle",
    Takes::Choice(&["hold", "wall_clock"]),
    Preset::None("the setting `when_all_idle`"),
    "what the watermark does when every split is silent",
);

/// How far ahead rows may be.
pub const MAX_FUTURE: OptionSpec = OptionSpec::reading(
    "scan.watermark.max-future",
    Takes::Duration,
    Preset::None("the setting `max_future`"),
    "how far ahead of the clock event time may be",
);

/// How long rows stay.
pub const STATE_TTL: OptionSpec = OptionSpec::reading(
    "state.ttl",
    Takes::DurationOrOff,
    Preset::None("the setting `state_ttl`"),
    "how long rows count in joins, rankings and aggregates without windows, by event time",
);

/// What a sink promises.
pub const DELIVERY: OptionSpec = OptionSpec::writing(
    "delivery",
    Takes::Choice(&["at-least-once", "exactly-once"]),
    Preset::None("`exactly-once` where the pipeline has a `checkpoint_store` and the connector can"),
    "whether rows leave as they come, or when their checkpoint is committed and then once",
);

/// The options that every table has, whatever its connector.
pub const TABLE_OPTIONS: &[&OptionSpec] =
    &[&CONNECTOR, &IDLE_TIMEOUT, &WHEN_ALL_IDLE, &MAX_FUTURE, &STATE_TTL, &bad::ON_ERROR, &bad::MAX_SHARE, &DELIVERY];

impl ConnectorSpec {
    /// A connector that can do nothing yet and has no options: for the rest of one with `..`.
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        ConnectorSpec {
            name,
            about,
            reads: false,
            writes: false,
            answers: false,
            formats: &[],
            options: &[],
            metadata: &[],
        }
    }

    /// Every option that a table of this connector may have: its own, its formats', and those of all tables.
    pub fn declared(&self) -> Vec<Named<'static>> {
        let formats = self.formats.iter().flat_map(|prefix| formats::declared(prefix));
        self.options
            .iter()
            .map(|spec| Named::from(*spec))
            .chain(formats)
            .chain(TABLE_OPTIONS.iter().map(|spec| Named::from(*spec)))
            .collect()
    }
}

/// The error for a connector that is not there.
pub fn unknown_connector(options: &Options, name: &str, known: &[&str]) -> Error {
    let error = Error::invalid(format!("unknown connector '{name}'"));
    if name == "upsert-kafka" {
        let help = "write 'connector' = 'kafka' with a PRIMARY KEY; to read it so, add 'scan.changelog' = 'upsert'";
        return options.at_value(&CONNECTOR, error.help(help));
    }
    let error = match nearest(name, known.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("the connectors are {}", known.join(", "))),
    };
    options.at_value(&CONNECTOR, error)
}

/// The connectors that a definition may name.
pub trait Connectors {
    /// What there is, for messages and for checking a table's options before it is used.
    fn specs(&self) -> &[ConnectorSpec];
    /// Checks `table` as one that is read and gives its reading side.
    ///
    /// `columns` are those of `table.schema` that the pipeline needs, by index and in order, perhaps none. A source that can
    /// read less gives just these; what its [`Source::schema`] says is found again by name.
    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>>;
    /// Checks `table` as one that is written and gives its writing side.
    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>>;
    /// Checks `table` as one that is looked up in. `columns` are those of `table.schema` that the pipeline needs, by index and in order;
    /// what its [`Lookup::schema`] says, the columns of its key among them, is found again by name.
    fn lookup(&self, table: &Table, _columns: &[usize]) -> Result<Arc<dyn Lookup>> {
        Err(table.options.wrong(&CONNECTOR, "nothing can be looked up there"))
    }
    /// What else a definition may name: functions of the program's own.
    fn functions(&self) -> &[ScalarFunction] {
        &[]
    }
    /// And aggregate functions of its own.
    fn aggregates(&self) -> &[AggregateFunction] {
        &[]
    }
    /// And operators of its own.
    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        &[]
    }
    /// Where the files of functions are looked for, if not beside the definition.
    fn folder(&self) -> Option<&Path> {
        None
    }
}

/// A connector that a program brings along, for [`Extensions`](extensions::Extensions).
pub trait Connector: Send + Sync {
    /// What it is called and which options its tables have: others are refused, and so are values that an option does not take.
    fn spec(&self) -> ConnectorSpec;
    /// Makes sense of a table that is read, as [`Connectors::source`] does. Asked only if the spec says that it reads.
    fn source(&self, table: &Table, _columns: &[usize]) -> Result<Arc<dyn Source>> {
        Err(Error::internal(format!("connector of table \"{}\" says that it reads, but does not", table.name)))
    }
    /// Makes sense of a table that is looked up in, as [`Connectors::lookup`] does. Asked only if the spec says that it answers.
    fn lookup(&self, table: &Table, _columns: &[usize]) -> Result<Arc<dyn Lookup>> {
        Err(Error::internal(format!("connector of table \"{}\" says that it answers, but does not", table.name)))
    }
    /// Makes sense of a table that is written. Asked only if the spec says that it writes.
    fn sink(&self, table: &Table, _input: &SinkInput) -> Result<Arc<dyn Sink>> {
        Err(Error::internal(format!("connector of table \"{}\" says that it writes, but does not", table.name)))
    }
}

/// What a sink will be given.
#[derive(Debug, Clone)]
pub struct SinkInput {
    /// The columns of its rows, without the weight: those of the table, by position.
    pub schema: SchemaRef,
    /// True if rows may be taken back later.
    pub updating: bool,
}
