//! The connectors that come with Highwater, by name.

use super::blackhole::Blackhole;
use super::datagen::{self, Datagen};
use super::file::{self, FileSink, FileSource};
use super::http::{self, HttpLookup};
use super::kafka::{self, KafkaSink, KafkaSource};
use super::memory;
use super::nexmark::{self, Nexmark};
use super::print::{self, PrintSink};
use super::{CONNECTOR, ConnectorSpec, Connectors, Lookup, Sink, SinkInput, Source, Table, unknown_connector};
use crate::error::{Error, Result, nearest};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What there is.
pub const CONNECTORS: &[ConnectorSpec] = &[
    ConnectorSpec {
        name: "kafka",
        about: "Topics of Apache Kafka, or of the development broker",
        reads: true,
        writes: true,
        answers: false,
        metadata: kafka::METADATA,
        formats: &["", "value.", "key."],
        options: kafka::OPTIONS,
    },
    ConnectorSpec {
        name: "file",
        about: "Files, read once or written",
        reads: true,
        writes: true,
        answers: false,
        metadata: file::METADATA,
        formats: &[""],
        options: file::OPTIONS,
    },
    ConnectorSpec {
        name: "http",
        about: "A service on the web that is asked for the row of a key",
        reads: false,
        writes: false,
        answers: true,
        metadata: &[],
        formats: &[""],
        options: http::OPTIONS,
    },
    ConnectorSpec {
        name: "datagen",
        about: "Rows from a seed: the same on each run, however many workers there are",
        reads: true,
        writes: false,
        answers: false,
        metadata: &[],
        formats: &[],
        options: datagen::OPTIONS,
    },
    ConnectorSpec {
        name: "nexmark",
        about: "The events of an auction house, as the Nexmark benchmark has them",
        reads: true,
        writes: false,
        answers: false,
        metadata: &[],
        formats: &[],
        options: nexmark::OPTIONS,
    },
    ConnectorSpec {
        name: "print",
        about: "The terminal: rows on standard output",
        reads: false,
        writes: true,
        answers: false,
        metadata: &[],
        formats: &[],
        options: print::OPTIONS,
    },
    ConnectorSpec {
        name: "blackhole",
        about: "Counts rows and keeps nothing, to measure what comes before it",
        reads: false,
        writes: true,
        answers: false,
        metadata: &[],
        formats: &[],
        options: &[],
    },
    ConnectorSpec {
        name: "memory",
        about: "Rows that a program hands in or takes out",
        reads: true,
        writes: true,
        answers: false,
        metadata: &[],
        formats: &[],
        options: memory::OPTIONS,
    },
];

/// Chooses by option `connector`. Names of options are checked before, by the caller, with what [`Connectors::specs`] says.
#[derive(Clone, Default)]
pub struct Builtin {
    sources: BTreeMap<String, Arc<dyn Source>>,
    sinks: BTreeMap<String, Arc<dyn Sink>>,
}

impl Builtin {
    /// Makes `source` the one that `'connector' = 'memory', 'name' = name` reads. It need not be in memory.
    pub fn with_source(mut self, name: impl Into<String>, source: Arc<dyn Source>) -> Self {
        self.sources.insert(name.into(), source);
        self
    }

    /// Makes `sink` the one that `'connector' = 'memory', 'name' = name` writes.
    pub fn with_sink(mut self, name: impl Into<String>, sink: Arc<dyn Sink>) -> Self {
        self.sinks.insert(name.into(), sink);
        self
    }
}

impl Connectors for Builtin {
    fn specs(&self) -> &[ConnectorSpec] {
        CONNECTORS
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(match table.options.required(&CONNECTOR)? {
            "file" => Arc::new(FileSource::new(table, columns)?),
            "datagen" => Arc::new(Datagen::new(table, columns)?),
            "nexmark" => Arc::new(Nexmark::new(table, columns)?),
            "kafka" => Arc::new(KafkaSource::new(table, columns)?),
            "memory" => handed_in(table, &self.sources)?,
            name => return Err(unknown(table, name, "read", |spec| spec.reads)),
        })
    }

    fn lookup(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Lookup>> {
        Ok(match table.options.required(&CONNECTOR)? {
            "http" => Arc::new(HttpLookup::new(table, columns)?),
            name => return Err(unknown(table, name, "looked up in", |spec| spec.answers)),
        })
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>> {
        Ok(match table.options.required(&CONNECTOR)? {
            "file" => Arc::new(FileSink::new(table)?.of_rows(input.updating)),
            "kafka" => Arc::new(KafkaSink::new(table)?),
            "print" => Arc::new(PrintSink::new(table, input)?),
            "blackhole" => Arc::new(Blackhole::default()),
            "memory" => handed_in(table, &self.sinks)?,
            name => return Err(unknown(table, name, "written", |spec| spec.writes)),
        })
    }
}

/// What the program registered under the table's option `name`.
fn handed_in<T: ?Sized>(table: &Table, registered: &BTreeMap<String, Arc<T>>) -> Result<Arc<T>> {
    let name = table.options.text(&memory::NAME).unwrap_or(&table.name);
    registered.get(name).cloned().ok_or_else(|| {
        let error = table.options.wrong(&memory::NAME, format!("nothing in memory is called '{name}'"));
        match nearest(name, registered.keys().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("connector 'memory' is for programs, which hand their rows to Builtin"),
        }
    })
}

fn unknown(table: &Table, name: &str, verb: &str, fits: fn(&ConnectorSpec) -> bool) -> Error {
    let fit: Vec<&str> = CONNECTORS.iter().filter(|spec| fits(spec)).map(|spec| spec.name).collect();
    if CONNECTORS.iter().any(|spec| spec.name == name) {
        let help = format!("connectors that can be {verb} are {}", fit.join(", "));
        let error = Error::invalid(format!("connector '{name}' cannot be {verb}")).help(help);
        return table.options.at_value(&CONNECTOR, error);
    }
    unknown_connector(&table.options, name, &fit)
}
