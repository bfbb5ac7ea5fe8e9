//! `highwater explain` and `highwater check`: the plan without a run.

use super::say;
use crate::connector::Connectors;
use crate::connector::extensions::Extensions;
use crate::error::{Error, Result};
use crate::graph;
use crate::plan::Plan;
use crate::sql;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    definition: Definition,
    /// How the plan is shown
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    definition: Definition,
}

/// Which pipeline.
#[derive(Debug, Clone, Args)]
pub struct Definition {
    /// The pipeline: a SQL file, or an operator graph if it ends in .yaml; `-` reads SQL from standard input
    pub file: PathBuf,
    /// Change a setting of the file, as `SET 'KEY' = 'VALUE'` would
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A tree from the sinks down
    Text,
    /// For programs
    Json,
    /// A flowchart for documents
    Mermaid,
}

/// The parser of `--set`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Definition {
    /// The functions of `extensions`, and those that the definition declares.
    pub fn with_functions(&self, extensions: &Extensions) -> Result<Extensions> {
        let name = self.file.display().to_string();
        let loaded = sql::load(sql::Text { name: &name, sql: &read(&self.file)? }, extensions)?;
        let known = loaded.scalars.into_iter().fold(extensions.clone(), Extensions::function);
        Ok(loaded.aggregates.into_iter().fold(known, Extensions::aggregate))
    }

    /// Reads and plans the definition.
    pub fn plan(&self, connectors: &dyn Connectors) -> Result<Plan> {
        let name = self.file.display().to_string();
        let text = read(&self.file)?;
        let text = sql::Text { name: &name, sql: &text };
        match graph::is_graph(&name) {
            true => graph::plan(text, &self.set, connectors).map_err(all),
            false => sql::plan(text, &self.set, connectors),
        }
    }
}

/// All that is wrong with a graph.
pub fn all(wrong: Vec<Error>) -> Error {
    Error::join(wrong).unwrap_or_else(|| Error::internal("a graph was refused without a reason"))
}

/// The text of a definition.
pub fn read(file: &Path) -> Result<String> {
    let unreadable = |error: std::io::Error| Error::invalid(format!("{}: {error}", file.display()));
    if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).map_err(unreadable)
    } else {
        std::fs::read_to_string(file).map_err(unreadable)
    }
}

/// The text of a definition in SQL.
pub fn read_sql(file: &Path) -> Result<String> {
    match graph::is_graph(&file.display().to_string()) {
        true => Err(Error::invalid(format!("{} is an operator graph, and the shell speaks SQL", file.display()))
            .help("highwater tables lists its sources, steps and sinks, highwater explain shows its plan")),
        false => read(file),
    }
}

/// Shows the plan.
pub fn explain(arguments: &Arguments, connectors: &dyn Connectors) -> Result<()> {
    let plan = arguments.definition.plan(connectors)?;
    plan.check()?;
    match arguments.format {
        Format::Text => say(plan.explain_text().trim_end()),
        Format::Json => say(format!("{:#}", plan.explain_json())),
        Format::Mermaid => say(plan.explain_mermaid().trim_end()),
    }
}

/// Says that the definition is fine, or what is wrong with it.
pub fn check(arguments: &CheckArguments, connectors: &dyn Connectors) -> Result<()> {
    let plan = arguments.definition.plan(connectors)?;
    plan.check()?;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut counts = vec![count(plan.sources().count(), "source"), count(plan.sinks().count(), "sink")];
    counts.extend(Some(plan.views().count()).filter(|views| *views > 0).map(|views| count(views, "served view")));
    counts.push(count(plan.steps.len(), "step"));
    say(format!("{}: {}", arguments.definition.file.display(), counts.join(", ")))
}
