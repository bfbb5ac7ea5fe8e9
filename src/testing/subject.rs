//! The pipeline under test: its own definition, planned with its own connectors, which are then taken away.
//!
//! So what a connector refuses is refused here too; but nothing of the outside is opened, now or later. It is planned twice: once for
//! what its sinks refuse, and once with sinks that take every change, so that a test sees what is taken back whatever a format can say.

use super::play::Tables;
use crate::connector::memory::{MemorySink, MemorySource};
use crate::connector::{
    CONNECTOR, Changes, ConnectorSpec, Connectors, Context, Delivery, Shard, Sink, SinkInput, Source, Staging, Table,
};
use crate::error::{Error, Excerpt, Result, nearest};
use crate::expr::ScalarFunction;
use crate::graph;
use crate::operator::CustomOperator;
use crate::plan::{Action, Plan, SourceStep, StepId, Tick};
use crate::runtime::replay::written;
use crate::sql::scenario::{Act, Named, Pipeline, Scenario};
use crate::sql::{self, Relation, RelationKind, Text};
use arrow::datatypes::SchemaRef;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How much the clock moves to end an epoch.
pub const TICK: Duration = Duration::from_micros(1);

/// A pipeline and what is known of its tables.
pub struct Subject {
    /// The plan, whose sources and sinks are still its own.
    pub plan: Plan,
    /// The tables that it reads.
    pub sources: BTreeMap<String, Read>,
    /// The tables that it writes, and the views that are looked at.
    pub sinks: BTreeMap<String, Written>,
    /// Its text, if that is SQL: the name of its file and what it says.
    pub definition: Option<(String, String)>,
}

/// A table that is read.
pub struct Read {
    /// Its definition.
    pub table: Table,
    /// Its step.
    pub step: SourceStep,
    /// The columns of the step's rows.
    pub schema: SchemaRef,
}

/// A table that is written.
pub struct Written {
    /// Its columns.
    pub schema: SchemaRef,
    /// True if some rows take others back.
    pub updating: bool,
    /// The columns of its PRIMARY KEY, by index.
    pub key: Vec<usize>,
    /// Its step.
    pub step: StepId,
}

impl Subject {
    /// Plans what `scenario`, the tests in `text`, is about. Paths are seen from the folder of that file.
    ///
    /// # Errors
    /// Whatever is wrong with the definition; a file that cannot be read.
    pub fn of(scenario: &Scenario, text: Text, connectors: &dyn Connectors) -> Result<Subject> {
        let (name, mut definition) = match &scenario.pipeline {
            Pipeline::Here(definition) => (text.name.to_owned(), definition.clone()),
            Pipeline::File { path, place } => {
                let folder = Path::new(text.name).parent().unwrap_or(Path::new(""));
                let file = folder.join(path);
                let read = std::fs::read_to_string(&file);
                let unreadable = |error| Error::invalid(format!("{}: {error}", file.display())).at(place.clone());
                (file.display().to_string(), read.map_err(unreadable)?)
            }
        };
        let mut watched =
            Watched { inner: connectors, all: false, read: RefCell::default(), written: RefCell::default() };
        let graph = graph::is_graph(&name);
        let views = if graph { Vec::new() } else { views(scenario, Text { name: &name, sql: &definition }, &watched) };
        definition.truncate(definition.trim_end().len());
        let lines = definition.lines().count();
        for view in &views {
            definition.push_str(&format!("\n;SELECT * FROM \"{}\";", view.name.replace('"', "\"\"")));
        }
        let whole = Text { name: &name, sql: &definition };
        let plan = |connectors: &Watched| {
            let plan = match graph {
                true => graph::plan(whole, &scenario.settings, connectors)
                    .map_err(|wrong| Error::join(wrong).unwrap_or_else(|| Error::internal("a graph was refused"))),
                false => sql::plan(whole, &scenario.settings, connectors),
            };
            plan.and_then(|plan| plan.check().map(|()| plan)).map_err(|error| of_views(error, lines, &views))
        };
        plan(&watched)?;
        watched.all = true;
        let plan = plan(&watched)?;
        let definition = (!graph).then_some((name, definition));
        let (read, taken) = (watched.read.into_inner(), watched.written.into_inner());
        let source = |(id, step): (StepId, &SourceStep)| {
            let table = read.get(&step.table)?.clone();
            let schema = Arc::clone(&plan.steps[id].schema);
            Some((step.table.clone(), Read { table, step: step.clone(), schema }))
        };
        let sources = plan.sources().filter_map(source).collect();
        let sink = |found: crate::runtime::replay::Written| {
            let key = taken.get(&found.table).map(|table| table.primary_key.clone()).unwrap_or_default();
            let written = Written { schema: found.schema, updating: found.updating, key, step: found.step };
            (found.table, written)
        };
        let mut sinks: BTreeMap<String, Written> = written(&plan).into_iter().map(sink).collect();
        // a SELECT on its own is written to a table that is called by its number
        let printed = sinks.keys().filter(|table| *table == "print" || table.starts_with("print ")).count();
        for (number, view) in (printed - views.len()..).zip(&views) {
            let table = if number == 0 { "print".to_owned() } else { format!("print {}", number + 1) };
            sinks.remove(&table).into_iter().for_each(|written| drop(sinks.insert(view.name.clone(), written)));
        }
        Ok(Subject { plan, sources, sinks, definition })
    }

    /// The plan with `tables` in place of the outside, its epochs ended by nothing but the clock.
    pub fn with(&self, tables: &impl Tables) -> Result<Plan> {
        let mut plan = self.plan.clone();
        for (id, step) in plan.steps.iter_mut().enumerate() {
            match &mut step.action {
                Action::Source(source) => {
                    if let Some(given) = tables.source(&source.table, source)? {
                        source.source = given;
                    }
                }
                Action::Sink(sink) => {
                    let (table, _) = self
                        .sinks
                        .iter()
                        .find(|(_, written)| written.step == id)
                        .ok_or_else(|| Error::internal("a table is written that is not known"))?;
                    sink.sink = tables.sink(table, sink.sink.single());
                    sink.delivery = Delivery::AtLeastOnce;
                }
                _ => {}
            }
        }
        plan.settings.tick = Tick::Every(TICK);
        // an epoch holds what the test puts into it
        plan.settings.inflight_bytes = usize::MAX / 2;
        plan.settings.checkpoint_store = None;
        Ok(plan)
    }

    /// The table called `name` that is read.
    ///
    /// # Errors
    /// There is none.
    pub fn source(&self, name: &Named) -> Result<&Read> {
        self.sources.get(&name.name).ok_or_else(|| unknown(name, "read", self.sources.keys()))
    }

    /// The table called `name` that is written, or the view.
    ///
    /// # Errors
    /// There is none.
    pub fn sink(&self, name: &Named) -> Result<&Written> {
        self.sinks.get(&name.name).ok_or_else(|| unknown(name, "written", self.sinks.keys()))
    }
}

fn unknown<'a>(name: &Named, done: &str, known: impl Iterator<Item = &'a String> + Clone) -> Error {
    let error = Error::invalid(format!("the pipeline has no table '{}' that is {done}", name.name));
    let names = || known.clone().map(String::as_str);
    let error = match nearest(&name.name, names()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("these are {done}: {}", names().collect::<Vec<_>>().join(", "))),
    };
    error.at(name.place.clone())
}

/// The views of the definition that the tests look at, each once.
fn views<'a>(scenario: &'a Scenario, definition: Text, connectors: &dyn Connectors) -> Vec<&'a Named> {
    // what is wrong with the definition is said when it is planned
    let Ok(relations) = sql::relations(definition, connectors) else { return Vec::new() };
    let mut views: Vec<&Named> = Vec::new();
    for deed in scenario.cases.iter().flat_map(|case| &case.deeds) {
        let (Act::Changelog(written) | Act::Content(written)) = &deed.act else { continue };
        let table = &written.table;
        let view = |known: &Relation| matches!(known.kind, RelationKind::View | RelationKind::Served);
        let is_view = relations.iter().any(|known| known.name == table.name && view(known));
        if is_view && !views.iter().any(|view| view.name == table.name) {
            views.push(table);
        }
    }
    views
}

/// What is wrong with looking at a view is said where that is asked for.
fn of_views(error: Error, lines: usize, views: &[&Named]) -> Error {
    let place = |at: &Excerpt| at.line.checked_sub(lines + 1).and_then(|number| views.get(number));
    match error.excerpt().and_then(place) {
        Some(view) => {
            let moved = Error::invalid(format!("view '{}' cannot be looked at: {}", view.name, error.said()));
            moved.help("assert what is in a table that it is written to").at(view.place.clone())
        }
        None => error,
    }
}

/// The pipeline's connectors, and what they were asked for.
struct Watched<'a> {
    inner: &'a dyn Connectors,
    /// Tables that take rows back are given every change.
    all: bool,
    read: RefCell<BTreeMap<String, Table>>,
    written: RefCell<BTreeMap<String, Table>>,
}

/// True for a table whose rows a program would hand in.
fn in_memory(table: &Table) -> bool {
    table.options.text(&CONNECTOR) == Some("memory")
}

impl Connectors for Watched<'_> {
    fn specs(&self) -> &[ConnectorSpec] {
        self.inner.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        self.read.borrow_mut().insert(table.name.clone(), table.clone());
        match self.inner.source(table, columns) {
            Err(_) if in_memory(table) => {
                let schema = table.schema.project(columns).map_err(crate::batch::from_arrow)?;
                Ok(Arc::new(MemorySource::new(Arc::new(schema), Vec::new(), 1)))
            }
            answer => answer,
        }
    }

    fn lookup(&self, table: &Table, _: &[usize]) -> Result<Arc<dyn crate::connector::Lookup>> {
        let error = "a test asks no service, and what a table that is looked up answers cannot be given to it yet";
        Err(table
            .options
            .misvalued(&CONNECTOR, Error::invalid(error))
            .help("leave the INSERT that looks it up out of the tested definition"))
    }

    fn sink(&self, table: &Table, input: &SinkInput) -> Result<Arc<dyn Sink>> {
        self.written.borrow_mut().insert(table.name.clone(), table.clone());
        let sink = match self.inner.sink(table, input) {
            Err(_) if in_memory(table) => Arc::new(MemorySink::new()),
            answer => answer?,
        };
        Ok(if self.all && sink.changes() != Changes::AppendOnly { Arc::new(TakesAll(sink)) } else { sink })
    }

    fn functions(&self) -> &[ScalarFunction] {
        self.inner.functions()
    }

    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        self.inner.operators()
    }
}

/// A sink that takes every change.
struct TakesAll(Arc<dyn Sink>);

impl Sink for TakesAll {
    fn single(&self) -> bool {
        self.0.single()
    }

    fn open(&self, shard: usize, shards: usize, context: &Context) -> Result<Box<dyn Shard>> {
        self.0.open(shard, shards, context)
    }

    fn changes(&self) -> Changes {
        Changes::All
    }

    fn embedded(&self) -> bool {
        self.0.embedded()
    }

    fn staging(&self) -> Option<&dyn Staging> {
        self.0.staging()
    }
}
