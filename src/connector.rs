//! The outside world: where rows come from and where they go.
//!
//! A [`Source`] or [`Sink`] is a table's definition, checked and immutable, the same in every process. What it opens is
//! local to one worker: a [`Split`] is a share of a source that is read in order, a [`Shard`] a share of a sink.
//!
//! ```text
//! Source ── splits(), later discover() on worker 0 ──▶ names, dealt to workers ── open() ──▶ Split ── poll() ──▶ batches
//! Sink   ── open() on each worker ─▶ Shard ── write() … flush() ──▶ epoch written
//! ```
//! No call blocks the worker for longer than a few milliseconds, but `splits`, `open` and `finish`.

pub mod blackhole;
pub mod builtin;
pub mod datagen;
pub mod file;
pub mod kafka;
pub mod memory;
pub mod nexmark;
pub mod print;
pub mod values;

use crate::batch::Batch;
use crate::error::{Error, Result, nearest};
use crate::format::Format;
use crate::time::Clock;
use arrow::datatypes::SchemaRef;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A table's reading side.
pub trait Source: Send + Sync {
    /// The columns that it reads from outside, before computed ones.
    fn schema(&self) -> SchemaRef;
    /// True if it ends by itself.
    fn bounded(&self) -> bool;
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
    /// Opens these shares, which one worker reads: those of the start, or new ones. Answers in their order.
    fn open(&self, splits: &[String], context: &Context) -> Result<Vec<Box<dyn Split>>>;
}

/// A share of a source, read in order by one worker.
pub trait Split {
    /// Reads at most `rows_max` rows; never waits for some to come.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::error::ErrorKind::Data) for a bad record, with its place (topic, partition and offset, or
    /// file and line) and the reason; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the source is gone for good.
    fn poll(&mut self, rows_max: usize) -> Result<Polled>;
    /// The place of the row that will be read next, as the next run would have to be told: an offset, a line.
    fn position(&self) -> u64;
    /// Where row `row` of the last polled batch came from, for messages: `topic "words", partition 2, offset 17`.
    fn place(&self, row: usize) -> String;
    /// True if nothing is known to wait: an idle split, not one that a slow broker or an open transaction holds back.
    fn caught_up(&self) -> bool {
        true
    }
    /// Rows that are known to wait, where the outside says so.
    fn lag_rows(&self) -> Option<u64> {
        None
    }
}

/// What a split has to give now.
#[derive(Debug)]
pub enum Polled {
    /// Rows of the source's schema, at least one. `bytes` is their size outside.
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
}

/// What a sink can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Rows that are never taken back. An updating query must not end here.
    AppendOnly,
    /// The newest row of each key: the sink is given insertions only, the newest wins.
    Upsert,
    /// Every change, with its weight in the last column: +1 for an insertion, -1 for what it replaces.
    All,
}

/// A share of a sink, written by one worker.
pub trait Shard {
    /// Takes rows; where they are kept until they are flushed is the shard's affair.
    fn write(&mut self, rows: Batch) -> Result<()>;
    /// Pushes on what was written and says whether all of it is acknowledged; asked again until it is. Never waits.
    fn flush(&mut self) -> Result<bool>;
    /// Completes the output after the last flush, at the end of the input or when the pipeline is stopped.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
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
    /// The physical columns, in order: those that are read or written, not computed ones.
    pub schema: SchemaRef,
    /// The columns of PRIMARY KEY, by index into `schema`; empty without one.
    pub primary_key: Vec<usize>,
    /// WITH (…), `connector` included.
    pub options: Options,
}

/// The connectors that a definition may name.
pub trait Connectors {
    /// Checks `table` as one that is read and gives its reading side.
    ///
    /// `columns` are those of `table.schema` that the pipeline needs, by index and in order, perhaps none. A source that can
    /// read less gives just these; what its [`Source::schema`] says is found again by name.
    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>>;
    /// Checks `table` as one that is written and gives its writing side.
    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>>;
}

/// What a sink will be given.
#[derive(Debug, Clone)]
pub struct SinkInput {
    /// The columns of its rows, without the weight: those of the table, by position.
    pub schema: SchemaRef,
    /// True if rows may be taken back later.
    pub updating: bool,
}

/// One option's text and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionText {
    /// The value.
    pub text: String,
    /// `file:line:column`, for messages; empty when it came from a program.
    pub place: String,
}

/// A table's options. Each one asked for is known from then on; [`Options::finish`] refuses the others.
#[derive(Debug, Clone, Default)]
pub struct Options {
    given: BTreeMap<String, OptionText>,
    known: RefCell<BTreeSet<String>>,
}

impl Options {
    /// The options as the definition gives them.
    pub fn new(given: impl IntoIterator<Item = (String, OptionText)>) -> Self {
        Options { given: given.into_iter().collect(), known: RefCell::default() }
    }

    /// The text of option `name`, if it is given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.known.borrow_mut().insert(name.to_owned());
        self.given.get(name).map(|option| option.text.as_str())
    }

    /// The text of option `name`, which must be given.
    pub fn required(&self, name: &str) -> Result<&str> {
        let missing =
            || Error::invalid(format!("option '{name}' is missing")).help(format!("add '{name}' = '…' to WITH"));
        self.text(name).ok_or_else(missing)
    }

    /// Option `name` as a number, a boolean or anything else that reads itself; `default` when it is not given.
    pub fn parsed<T: FromStr>(&self, name: &str, default: T, what: &str) -> Result<T> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| self.wrong(name, format!("'{text}' is not {what}"))),
        }
    }

    /// Option `name` as a duration like `100 ms`, `5s` or `1min`; `default` when it is not given.
    pub fn duration(&self, name: &str, default: Duration) -> Result<Duration> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => humantime::parse_duration(text).map_err(|error| {
                self.wrong(name, format!("'{text}' is not a duration such as '5s' or '100 ms': {error}"))
            }),
        }
    }

    /// Option `name` as a number of bytes like `4096`, `64 KiB` or `128MB` (units are powers of 1,024); `default` when it
    /// is not given.
    pub fn bytes(&self, name: &str, default: u64) -> Result<u64> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let power = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" | "bytes" => Some(0),
            "k" | "kb" | "kib" => Some(1),
            "m" | "mb" | "mib" => Some(2),
            "g" | "gb" | "gib" => Some(3),
            _ => None,
        };
        let bytes = power.and_then(|power| text[..digits].parse::<u64>().ok()?.checked_mul(1 << (10 * power)));
        bytes.ok_or_else(|| self.wrong(name, format!("'{text}' is not a number of bytes such as '4096' or '64 MiB'")))
    }

    /// Option `name` as one of `choices`; the first one when it is not given.
    pub fn choice<'a>(&self, name: &str, choices: &[&'a str]) -> Result<&'a str> {
        let Some(text) = self.text(name) else { return Ok(choices[0]) };
        choices.iter().find(|choice| **choice == text).copied().ok_or_else(|| {
            let error = self.wrong(name, format!("'{text}' is not one of {}", choices.join(", ")));
            match nearest(text, choices.iter().copied()) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None => error,
            }
        })
    }

    /// The format that option `{prefix}format` names, with its settings from `{prefix}json.…` and `{prefix}csv.…`; the
    /// prefix is empty, or `key.` or `value.` where a record has two parts.
    pub fn format(&self, prefix: &str) -> Result<Format> {
        let option = |name: &str| format!("{prefix}{name}");
        let name = self.required(&option("format"))?;
        let mut format = Format::named(name).map_err(|error| match self.given.get(&option("format")) {
            Some(given) if !given.place.is_empty() => error.within(given.place.clone()),
            _ => error,
        })?;
        match &mut format {
            Format::Raw => {}
            Format::Json(json) => {
                json.nulls = self.parsed(&option("json.encode.nulls"), json.nulls, "true or false")?;
                let standard = self.choice(&option("json.timestamp-format.standard"), &["SQL", "ISO-8601"])?;
                json.iso_timestamps = standard == "ISO-8601";
            }
            Format::Csv(csv) => {
                let delimiter = option("csv.delimiter");
                match self.text(&delimiter).map(str::as_bytes) {
                    None => {}
                    Some(br"\t") => csv.delimiter = b'\t',
                    Some([byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => csv.delimiter = *byte,
                    Some(_) => {
                        return Err(self.wrong(&delimiter, "not one ASCII character other than a quote or a newline"));
                    }
                }
                csv.null = self.text(&option("csv.null")).unwrap_or_default().to_owned();
            }
        }
        Ok(format)
    }

    /// The options that start with `prefix`, without it; all of them count as known.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a OptionText)> {
        self.given.iter().filter_map(move |(name, option)| {
            let rest = name.strip_prefix(prefix)?;
            self.known.borrow_mut().insert(name.clone());
            Some((rest, option))
        })
    }

    /// An error about the value of option `name`, with its place.
    pub fn wrong(&self, name: &str, reason: impl Into<String>) -> Error {
        let error = Error::invalid(format!("option '{name}': {}", reason.into()));
        match self.given.get(name).filter(|option| !option.place.is_empty()) {
            Some(option) => error.within(option.place.clone()),
            None => error,
        }
    }

    /// Refuses options that nobody asked for, with a near match.
    pub fn finish(&self) -> Result<()> {
        let known = self.known.borrow();
        let Some((name, option)) = self.given.iter().find(|(name, _)| !known.contains(*name)) else { return Ok(()) };
        let mut error = Error::invalid(format!("unknown option '{name}'"));
        error = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => {
                error.help(format!("the options here are {}", known.iter().cloned().collect::<Vec<_>>().join(", ")))
            }
        };
        Err(if option.place.is_empty() { error } else { error.within(option.place.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, &str)]) -> Options {
        let option = |text: &str| OptionText { text: text.into(), place: "p.sql:1:2".into() };
        Options::new(given.iter().map(|(name, text)| ((*name).to_owned(), option(text))))
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_known_one() {
        let options = options(&[("topc", "words")]);
        assert_eq!(options.text("topic"), None);
        let error = options.finish().unwrap_err();
        assert_eq!(error.to_string(), "p.sql:1:2: unknown option 'topc'");
        assert_eq!(error.advice(), Some("did you mean 'topic'?"));
    }

    #[test]
    fn a_value_that_does_not_parse_is_named_with_its_place() {
        let error = options(&[("rows", "many")]).parsed("rows", 1_u64, "a whole number").unwrap_err();
        assert_eq!(error.to_string(), "p.sql:1:2: option 'rows': 'many' is not a whole number");
    }
}
