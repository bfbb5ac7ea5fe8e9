//! What a program brings along: connectors, functions and operators that SQL, graphs and the builder name like those that come with
//! Highwater.

use super::builtin::{Builtin, CONNECTORS};
use super::{CONNECTOR, Connector, ConnectorSpec, Connectors, Lookup, Sink, SinkInput, Source, Table};
use crate::error::{Error, Result};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::operator::CustomOperator;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All that a definition may name: what comes with Highwater, and what was added.
///
/// Something added takes the place of what has its name. Every process of a run must add the same: the plan's fingerprint has the
/// names, but not what a program does under them.
#[derive(Clone)]
pub struct Extensions {
    builtin: Builtin,
    own: Vec<Arc<dyn Connector>>,
    specs: Vec<ConnectorSpec>,
    functions: Vec<ScalarFunction>,
    aggregates: Vec<AggregateFunction>,
    operators: Vec<Arc<dyn CustomOperator>>,
    folder: Option<PathBuf>,
}

impl Default for Extensions {
    fn default() -> Self {
        Extensions {
            builtin: Builtin::default(),
            own: Vec::new(),
            specs: CONNECTORS.to_vec(),
            functions: Vec::new(),
            aggregates: Vec::new(),
            operators: Vec::new(),
            folder: None,
        }
    }
}

impl Extensions {
    /// What comes with Highwater.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector.
    pub fn connector(mut self, connector: impl Connector + 'static) -> Self {
        let spec = connector.spec();
        self.specs.retain(|known| known.name != spec.name);
        self.specs.push(spec);
        self.own.insert(0, Arc::new(connector));
        self
    }

    /// Adds a function.
    pub fn function(mut self, function: ScalarFunction) -> Self {
        self.functions.retain(|known| known.name() != function.name());
        self.functions.push(function);
        self
    }

    /// Adds an aggregate function.
    pub fn aggregate(mut self, function: AggregateFunction) -> Self {
        self.aggregates.retain(|known| known.name() != function.name());
        self.aggregates.push(function);
        self
    }

    /// Adds an operator.
    pub fn operator(mut self, operator: impl CustomOperator + 'static) -> Self {
        self.operators.retain(|known| known.name() != operator.name());
        self.operators.push(Arc::new(operator));
        self
    }

    /// Looks for the files of functions in `folder`, not beside the definition.
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Makes `source` what the table `name` with `'connector' = 'memory'` reads.
    pub fn source(mut self, name: impl Into<String>, source: impl Source + 'static) -> Self {
        self.builtin = self.builtin.with_source(name, Arc::new(source));
        self
    }

    /// Makes `sink` what the table `name` with `'connector' = 'memory'` writes.
    pub fn sink(mut self, name: impl Into<String>, sink: impl Sink + 'static) -> Self {
        self.builtin = self.builtin.with_sink(name, Arc::new(sink));
        self
    }

    fn own(&self, table: &Table) -> Result<Option<(&dyn Connector, ConnectorSpec)>> {
        let name = table.options.required(&CONNECTOR)?;
        let found = self.own.iter().map(|own| (own.as_ref(), own.spec())).find(|(_, spec)| spec.name == name);
        Ok(found)
    }
}

impl Connectors for Extensions {
    fn specs(&self) -> &[ConnectorSpec] {
        &self.specs
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        match self.own(table)? {
            None => self.builtin.source(table, columns),
            Some((connector, spec)) if spec.reads => connector.source(table, columns),
            Some((_, spec)) => Err(unfit(table, spec, "read")),
        }
    }

    fn lookup(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Lookup>> {
        match self.own(table)? {
            None => self.builtin.lookup(table, columns),
            Some((connector, spec)) if spec.answers => connector.lookup(table, columns),
            Some((_, spec)) => Err(unfit(table, spec, "looked up in")),
        }
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>> {
        match self.own(table)? {
            None => self.builtin.sink(table, input),
            Some((connector, spec)) if spec.writes => connector.sink(table, input),
            Some((_, spec)) => Err(unfit(table, spec, "written")),
        }
    }

    fn functions(&self) -> &[ScalarFunction] {
        &self.functions
    }

    fn aggregates(&self) -> &[AggregateFunction] {
        &self.aggregates
    }

    fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        &self.operators
    }
}

fn unfit(table: &Table, spec: ConnectorSpec, verb: &str) -> Error {
    table.options.wrong(&CONNECTOR, format!("'{}' cannot be {verb}", spec.name))
}
