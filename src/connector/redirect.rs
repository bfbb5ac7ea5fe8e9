//! A pipeline's tables, but what it writes goes elsewhere and what it reads comes no faster than it should: for `highwater verify`.
//!
//! The rows stay the same. Every sink writes them as JSON, with all columns in the value, into a topic or a directory that is this
//! trial's own; so they can be read again without knowing the pipeline.

use super::builtin::Builtin;
use super::{
    ConnectorSpec, Connectors, Context, Gives, OptionText, Options, Polled, Sink, SinkInput, Source, Split, SplitStart,
    Table,
};
use crate::connector::bad::{Origin, Refused};
use crate::error::{Error, Result};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::operator::CustomOperator;
use crate::time::{Clock, Watermark};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where what is written goes, and how fast what is read comes. The processes of a trial are told the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trial {
    /// What tells its topics from those of other trials.
    pub name: String,
    /// Where directories are.
    pub directory: PathBuf,
    /// A broker for all tables; without it those of topics stay on their own, and the others are directories.
    pub kafka: Option<String>,
    /// Rows a second of each source, in all.
    pub rows_per_second: Option<u64>,
}

/// The tables of a pipeline in a trial.
pub struct Redirected<'a> {
    inner: &'a dyn Connectors,
    trial: Trial,
}

impl<'a> Redirected<'a> {
    /// What `inner` knows, for `trial`.
    pub fn new(inner: &'a dyn Connectors, trial: Trial) -> Self {
        Redirected { inner, trial }
    }
}

impl Trial {
    /// The options of the table that stands in for `table`, and whether it is a topic.
    fn options(&self, table: &Table) -> (Vec<(String, OptionText)>, bool) {
        let mut options: Vec<(String, OptionText)> = vec![("format".into(), "json".into())];
        let own = table.options.text(&super::CONNECTOR) == Some("kafka");
        let topic = own || self.kafka.is_some();
        if topic {
            let properties = table.options.all().filter(|(name, _)| own && name.starts_with("properties."));
            options.extend(properties.map(|(name, value)| (name.to_owned(), value.clone())));
            if let Some(broker) = &self.kafka {
                options.retain(|(name, _)| name != "properties.bootstrap.servers");
                options.push(("properties.bootstrap.servers".into(), broker.as_str().into()));
            }
            options.push(("connector".into(), "kafka".into()));
            options.push(("topic".into(), self.topic(&table.name).as_str().into()));
        } else {
            let path = format!("{}/", self.directory.join(&table.name).display());
            options.push(("connector".into(), "file".into()));
            options.push(("path".into(), path.as_str().into()));
        }
        (options, topic)
    }

    fn topic(&self, table: &str) -> String {
        format!("highwater-verify-{}-{table}", self.name)
    }

    /// The records that have come into what stands in for `table`: one text column.
    pub fn written(&self, table: &Table) -> Result<Arc<dyn Source>> {
        let (mut options, topic) = self.options(table);
        options.retain(|(name, _)| name != "format");
        options.push(("format".into(), "raw".into()));
        if topic {
            options.push(("scan.bounded.mode".into(), "latest-offset".into()));
        }
        let schema = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, true)]));
        let options = Options::new(options);
        let read = Table {
            name: table.name.clone(),
            schema,
            metadata: Default::default(),
            primary_key: Vec::new(),
            key_trusted: false,
            options,
        };
        Builtin::default().source(&read, &[0])
    }
}

impl Connectors for Redirected<'_> {
    fn specs(&self) -> &[ConnectorSpec] {
        self.inner.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        let source = self.inner.source(table, columns)?;
        if !source.bounded() {
            return Err(Error::invalid(format!(
                "table \"{}\" does not end, so there is nothing to compare with",
                table.name
            ))
            .help("give it a bounded end, such as 'scan.bounded.mode' = 'latest-offset' or 'number-of-rows'"));
        }
        Ok(match self.trial.rows_per_second {
            Some(rows_per_second) => Arc::new(Paced { source, rows_per_second }),
            None => source,
        })
    }

    fn lookup(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn super::Lookup>> {
        self.inner.lookup(table, columns)
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>> {
        // the options are those of another connector: what it makes of them is found by the pipeline's own run
        self.inner.sink(table, input)?;
        let (mut options, topic) = self.trial.options(table);
        if topic {
            options.push(("topic.create".into(), "true".into()));
            options.push(("topic.partitions".into(), "4".into()));
        } else {
            options.push(("sink.rolling.interval".into(), "1 s".into()));
        }
        let stand_in = Table { options: Options::new(options), metadata: Default::default(), ..table.clone() };
        Builtin::default().sink(&stand_in, input)
    }

    fn functions(&self) -> &[ScalarFunction] {
        self.inner.functions()
    }

    fn aggregates(&self) -> &[AggregateFunction] {
        self.inner.aggregates()
    }

    fn folder(&self) -> Option<&std::path::Path> {
        self.inner.folder()
    }

    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        self.inner.operators()
    }
}

/// A source that gives no more than so many rows a second.
struct Paced {
    source: Arc<dyn Source>,
    rows_per_second: u64,
}

impl Source for Paced {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn bounded(&self) -> bool {
        self.source.bounded()
    }

    fn gives(&self) -> Gives {
        self.source.gives()
    }

    fn embedded(&self) -> bool {
        self.source.embedded()
    }

    fn digest(&self) -> Option<[u8; 32]> {
        self.source.digest()
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.source.splits(context)
    }

    fn resume(&self, splits: Vec<SplitStart>, accept_gap: bool, context: &Context) -> Result<Vec<SplitStart>> {
        self.source.resume(splits, accept_gap, context)
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        // splits are dealt evenly, so this worker has about its part of the pace
        let pace = self.rows_per_second as f64 / context.workers as f64 / splits.len().max(1) as f64;
        let paced = |split| -> Box<dyn Split> {
            Box::new(PacedSplit { split, clock: Arc::clone(&context.clock), pace, begun: None, given: 0 })
        };
        Ok(self.source.open(splits, context)?.into_iter().map(paced).collect())
    }
}

struct PacedSplit {
    split: Box<dyn Split>,
    clock: Arc<dyn Clock>,
    /// Rows a second.
    pace: f64,
    begun: Option<Duration>,
    given: u64,
}

impl Split for PacedSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let now = self.clock.monotonic();
        let elapsed = now.saturating_sub(*self.begun.get_or_insert(now));
        let due = (elapsed.as_secs_f64() * self.pace) as u64 + 1;
        let room = due.saturating_sub(self.given).min(rows_max as u64) as usize;
        if room == 0 {
            return Ok(Polled::Pending);
        }
        let polled = self.split.poll(room)?;
        if let Polled::Rows { rows, .. } = &polled {
            self.given += rows.num_rows() as u64;
        }
        Ok(polled)
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
        self.split.take_refused()
    }

    fn caught_up(&self) -> bool {
        // it is not silent, it is held back
        false
    }

    fn watermark(&self) -> Watermark {
        self.split.watermark()
    }

    fn lag_rows(&self) -> Option<u64> {
        self.split.lag_rows()
    }
}
