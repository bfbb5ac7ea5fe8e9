//! The connectors that come with Highwater, by name.

use super::blackhole::Blackhole;
use super::datagen::Datagen;
use super::file::{FileSink, FileSource};
use super::kafka::{KafkaSink, KafkaSource};
use super::nexmark::Nexmark;
use super::print::PrintSink;
use super::{Connectors, Sink, SinkInput, Source, Table};
use crate::error::{Error, Result, nearest};
use std::collections::BTreeMap;
use std::sync::Arc;

const READ: [&str; 5] = ["file", "kafka", "datagen", "nexmark", "memory"];
const WRITTEN: [&str; 5] = ["file", "kafka", "print", "blackhole", "memory"];

/// Chooses by option `connector`. Options that no one asked for are left to the caller's
/// [`Options::finish`](super::Options::finish), who may know of more.
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
    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(match table.options.required("connector")? {
            "file" => Arc::new(FileSource::new(table, columns)?),
            "datagen" => Arc::new(Datagen::new(table, columns)?),
            "nexmark" => Arc::new(Nexmark::new(table, columns)?),
            "kafka" => Arc::new(KafkaSource::new(table, columns)?),
            "memory" => handed_in(table, &self.sources)?,
            name => return Err(unknown(table, name, "read", &READ, &WRITTEN)),
        })
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>> {
        Ok(match table.options.required("connector")? {
            "file" => Arc::new(FileSink::new(table)?),
            "kafka" => Arc::new(KafkaSink::new(table)?),
            "print" => Arc::new(PrintSink::new(table, input)?),
            "blackhole" => Arc::new(Blackhole::default()),
            "memory" => handed_in(table, &self.sinks)?,
            name => return Err(unknown(table, name, "written", &WRITTEN, &READ)),
        })
    }
}

/// What the program registered under the table's option `name`.
fn handed_in<T: ?Sized>(table: &Table, registered: &BTreeMap<String, Arc<T>>) -> Result<Arc<T>> {
    let name = table.options.text("name").unwrap_or(&table.name);
    registered.get(name).cloned().ok_or_else(|| {
        let error = table.options.wrong("name", format!("nothing in memory is called '{name}'"));
        match nearest(name, registered.keys().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("connector 'memory' is for programs, which hand their rows to Builtin"),
        }
    })
}

fn unknown(table: &Table, name: &str, verb: &str, fit: &[&str], others: &[&str]) -> Error {
    let list = fit.join(", ");
    if others.contains(&name) {
        let help = format!("connectors that can be {verb} are {list}");
        return table.options.wrong("connector", format!("'{name}' cannot be {verb}")).help(help);
    }
    let error = table.options.wrong("connector", format!("there is no connector '{name}'"));
    match nearest(name, fit.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("connectors that can be {verb} are {list}")),
    }
}
