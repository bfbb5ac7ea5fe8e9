//! An operator graph in YAML: sources, steps and sinks with names, SQL expressions inside.
//!
//! ```text
//! text ─ yaml ─▶ nodes ─ shape, spec ─▶ checked nodes ─ read ─▶ Graph ─ lower ─▶ sql::relations ─▶ Plan
//! ```
//! A step becomes a view and a sink an INSERT, so the graph is planned as the same pipeline in SQL is, and is the same plan. A file is
//! read to its end: every mistake that can be told from the others is told, each with its place, those in expressions inside of them.

mod lower;
mod read;
mod shape;
mod spec;
mod yaml;

use crate::connector::Connectors;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::sql::phrase::Phrase;
use crate::sql::relations::{EndingWords, Table};
use crate::sql::{Relation, Text};

/// A pipeline as a graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    /// Settings by name.
    pub settings: Vec<(Phrase, Phrase)>,
    /// What is read.
    pub sources: Vec<Table>,
    /// What is done, in any order.
    pub steps: Vec<Step>,
    /// What is written.
    pub sinks: Vec<Sink>,
    /// Names of sources, steps and sinks that could not be read: what reads them is not looked at.
    pub broken: Vec<Phrase>,
}

/// A node with rows.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub name: Phrase,
    /// Whose rows it takes.
    pub from: Vec<Phrase>,
    pub op: Op,
}

/// What a step does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Filter { keep: Phrase },
    Project { columns: Values, keep: Keep },
    FlatMap { list: Phrase, element: Phrase, keep: Keep },
    KeyBy { key: Values },
    Window { time: Phrase, windows: Windows },
    Aggregate { key: Option<Values>, calls: Values },
    TopN { key: Option<Values>, order: Phrase, rows: Phrase, rank: Option<Phrase> },
    Join { kind: &'static str, on: Phrase, as_of: Option<Phrase>, newest: Option<Phrase>, columns: Values },
    Operator { call: Phrase, key: Option<Values> },
    Union,
    Distinct,
}

/// Names and what stands for them, in order.
pub(crate) type Values = Vec<(Phrase, Phrase)>;

/// Columns of the input that stay.
#[derive(Debug, Clone)]
pub(crate) enum Keep {
    All,
    Columns(Vec<Phrase>),
}

/// Windows of event time: a function of SQL and its lengths, durations in words.
#[derive(Debug, Clone)]
pub(crate) struct Windows {
    pub function: &'static str,
    pub lengths: Vec<Phrase>,
}

/// A table that is written.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    /// Empty if only late rows go into it.
    pub from: Vec<Phrase>,
    /// Without columns of its own it has those of its input.
    pub table: Table,
    pub ending: EndingWords,
}

/// The pipeline that `text`, a YAML document, describes.
///
/// `overrides` are settings that win over the file's, as `--set key=value` gives them.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for every mistake, with its place and advice; whatever a connector says.
pub fn plan(text: Text, overrides: &[(String, String)], connectors: &dyn Connectors) -> Result<Plan, Vec<Error>> {
    let mut wrong = Vec::new();
    let graph = read::graph(text, &mut wrong);
    lower::plan(&graph, text, overrides, connectors, wrong)
}

/// What the definition in `text` has rows of: its sources, steps and sinks, each after what it reads.
///
/// # Errors
/// As [`plan`]; of the connectors' own checks only those of single options are made.
pub fn relations(text: Text, connectors: &dyn Connectors) -> Result<Vec<Relation>, Vec<Error>> {
    let mut wrong = Vec::new();
    let graph = read::graph(text, &mut wrong);
    Ok(lower::relations(&graph, text, connectors, wrong)?.list())
}

/// The plan of a graph that a program has made; `text` is what its phrases stand in.
pub(crate) fn lower(graph: &Graph, text: Text, connectors: &dyn Connectors) -> Result<Plan, Vec<Error>> {
    lower::plan(graph, text, &[], connectors, Vec::new())
}

/// The JSON Schema of such documents, for editors; docs/pipeline.schema.json is this.
pub fn schema() -> serde_json::Value {
    shape::schema("Highwater pipeline", &spec::DEFINITION)
}

/// `name` is a YAML file's, not one of SQL.
pub fn is_graph(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}
