//! Where the rows of a shell's SELECT go: to the terminal, as many as are wanted.

use crate::batch::Batch;
use crate::connector::extensions::Extensions;
use crate::connector::print::FORMAT;
use crate::connector::{
    CONNECTOR, Changes, ConnectorSpec, Connectors, Context, OptionText, Options, Shard, Sink, SinkInput, Source, Table,
};
use crate::error::{Error, Result};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::operator::CustomOperator;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The connectors of a SELECT: the program's own, but that what it prints is counted.
pub struct Sample {
    /// The program's own.
    pub connectors: Extensions,
    /// `table`, `changelog` or `json`; what suits the query if it is none.
    pub style: Option<&'static str>,
    /// After this many rows the query is stopped.
    pub limit: Option<u64>,
    /// How many rows were shown.
    pub shown: Arc<AtomicU64>,
}

impl Connectors for Sample {
    fn specs(&self) -> &[ConnectorSpec] {
        self.connectors.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        Connectors::source(&self.connectors, table, columns)
    }

    fn lookup(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn crate::connector::Lookup>> {
        Connectors::lookup(&self.connectors, table, columns)
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>> {
        let style = self.style.map(|style| (FORMAT.name, style));
        let given = [(CONNECTOR.name, "print")].into_iter().chain(style);
        let options = Options::new(given.map(|(name, text)| (name.to_owned(), OptionText::from(text))));
        let inner = Connectors::sink(&self.connectors, &Table { options, ..table.clone() }, input)?;
        Ok(Arc::new(SampleSink { inner, limit: self.limit, shown: Arc::clone(&self.shown) }))
    }

    fn functions(&self) -> &[ScalarFunction] {
        self.connectors.functions()
    }

    fn aggregates(&self) -> &[AggregateFunction] {
        self.connectors.aggregates()
    }

    fn folder(&self) -> Option<&std::path::Path> {
        self.connectors.folder()
    }

    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        self.connectors.operators()
    }
}

struct SampleSink {
    inner: Arc<dyn Sink>,
    limit: Option<u64>,
    shown: Arc<AtomicU64>,
}

impl Sink for SampleSink {
    fn single(&self) -> bool {
        true // one that counts
    }

    fn open(&self, shard: usize, shards: usize, context: &Context) -> Result<Box<dyn Shard>> {
        let inner = self.inner.open(shard, shards, context)?;
        Ok(Box::new(SampleShard { inner, limit: self.limit, shown: Arc::clone(&self.shown) }))
    }

    fn changes(&self) -> Changes {
        self.inner.changes()
    }
}

struct SampleShard {
    inner: Box<dyn Shard>,
    limit: Option<u64>,
    shown: Arc<AtomicU64>,
}

impl SampleShard {
    fn left(&self) -> u64 {
        self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.shown.load(Relaxed)))
    }
}

impl Shard for SampleShard {
    fn take_bytes(&mut self) -> u64 {
        self.inner.take_bytes()
    }

    fn write(&mut self, rows: Batch) -> Result<()> {
        let taken = rows.num_rows().min(usize::try_from(self.left()).unwrap_or(usize::MAX));
        if taken > 0 {
            self.inner.write(rows.slice(0, taken))?;
            self.shown.fetch_add(taken as u64, Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        match self.inner.flush()? {
            // a reader that has seen enough: the run is asked to stop
            true if self.left() == 0 => {
                Err(Error::unavailable("enough rows").caused_by(io::Error::from(io::ErrorKind::BrokenPipe)))
            }
            flushed => Ok(flushed),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }
}
