//! `highwater tables` and `highwater functions`: what there is to name in a query.

use super::explain::{Definition, all, read};
use super::say;
use crate::connector::Connectors;
use crate::error::{Error, Result, nearest};
use crate::graph;
use crate::sql::{self, FunctionInfo, Relation, Text};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::Path;

/// Arguments of `tables`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    definition: Definition,
    /// How they are listed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Arguments of `functions`.
#[derive(Debug, Args)]
pub struct FunctionArguments {
    /// Part of a name, or a whole one with `*` for anything: `date`, `array_*`. A word that is in no name is looked for in the
    /// descriptions. The name of a file that ends in `.sql`: those that it declares
    #[arg(value_name = "PATTERN|FILE")]
    pattern: Option<String>,
    /// How they are listed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A table
    Text,
    /// For programs
    Json,
}

/// Lists the tables and views of a definition, or a graph's sources, steps and sinks.
pub fn tables(arguments: &Arguments, connectors: &dyn Connectors) -> Result<()> {
    let name = arguments.definition.file.display().to_string();
    let text = read(&arguments.definition.file)?;
    let text = Text { name: &name, sql: &text };
    let relations = match graph::is_graph(&name) {
        true => graph::relations(text, connectors).map_err(all)?,
        false => sql::relations(text, connectors)?,
    };
    match arguments.format {
        Format::Json => say(format!("{:#}", Value::from_iter(relations.iter().map(relation_json)))),
        Format::Text if relations.is_empty() => say(format!("{name} declares no tables")),
        Format::Text => say(relations.iter().map(describe).collect::<Vec<_>>().join("\n\n")),
    }
}

/// A table or view and its columns.
pub fn describe(relation: &Relation) -> String {
    let mut columns = table(["column", "type", ""]);
    for column in &relation.columns {
        let mut remarks: Vec<String> = Vec::new();
        remarks.extend((!column.nullable).then(|| "NOT NULL".to_owned()));
        remarks.extend(column.computed.as_ref().map(|value| format!("AS {value}")));
        remarks.extend(column.metadata.as_ref().map(|name| format!("METADATA {name}")));
        columns.add_row([&column.name, &column.data_type, &remarks.join(", ")]);
    }
    format!("{}\n{}", headline(relation), columns.trim_fmt())
}

/// `readings · table, kafka · read · PRIMARY KEY (id) · p.sql:3:1`.
fn headline(relation: &Relation) -> String {
    let mut parts = vec![match &relation.connector {
        Some(connector) => format!("{} · table, {connector}", relation.name),
        None => format!("{} · {}", relation.name, relation.kind.name()),
    }];
    parts.extend(match (relation.read, relation.written) {
        (true, true) => Some("read and written".to_owned()),
        (true, false) => Some("read".to_owned()),
        (false, true) => Some("written".to_owned()),
        (false, false) => None,
    });
    if !relation.primary_key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", relation.primary_key.join(", ")));
    }
    parts.extend(relation.watermark.as_ref().map(|watermark| format!("WATERMARK FOR {watermark}")));
    parts.push(relation.place.clone());
    parts.join(" · ")
}

fn relation_json(relation: &Relation) -> Value {
    let columns = relation.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.data_type,
            "nullable": column.nullable,
            "computed": column.computed,
            "metadata": column.metadata,
        })
    });
    json!({
        "name": relation.name,
        "kind": relation.kind.name(),
        "connector": relation.connector,
        "columns": columns.collect::<Vec<_>>(),
        "primary_key": relation.primary_key,
        "watermark": relation.watermark,
        "read": relation.read,
        "written": relation.written,
        "declared": relation.place,
    })
}

/// Lists the functions whose name fits.
pub fn functions(arguments: &FunctionArguments, connectors: &dyn Connectors) -> Result<()> {
    let file = arguments.pattern.as_deref().filter(|pattern| pattern.to_lowercase().ends_with(".sql"));
    let found = match file {
        Some(name) => {
            let text = read(Path::new(name))?;
            let declared = sql::declared_functions(Text { name, sql: &text }, connectors)?;
            if declared.is_empty() && matches!(arguments.format, Format::Text) {
                return say(format!("{name} declares no functions"));
            }
            declared
        }
        None => fitting(arguments.pattern.as_deref(), Vec::new(), connectors)?,
    };
    match arguments.format {
        Format::Json => {
            let function = |function: &FunctionInfo| {
                json!({
                    "name": function.name,
                    "kind": function.kind.name(),
                    "signature": function.signature,
                    "about": function.about,
                    "aliases": function.aliases,
                })
            };
            say(format!("{:#}", Value::from_iter(found.iter().map(function))))
        }
        Format::Text => say(function_table(&found)),
    }
}

/// The functions whose name fits `pattern`, or else whose description has it in it; those that are `declared` before the others.
///
/// # Errors
/// `Invalid` if there is none.
pub fn fitting(
    pattern: Option<&str>,
    declared: Vec<FunctionInfo>,
    connectors: &dyn Connectors,
) -> Result<Vec<FunctionInfo>> {
    let all: Vec<FunctionInfo> = declared.into_iter().chain(sql::functions(connectors)).collect();
    let Some(pattern) = pattern else { return Ok(all) };
    let small = pattern.to_lowercase();
    let whole = small.contains('*').then(|| glob::Pattern::new(&small));
    let whole = whole.transpose().map_err(|error| Error::invalid(format!("'{pattern}' is not a pattern: {error}")))?;
    let fits = |name: &str| whole.as_ref().map_or_else(|| name.contains(&small), |whole| whole.matches(name));
    let named = |function: &&FunctionInfo| fits(&function.name) || function.aliases.iter().any(|alias| fits(alias));
    let mut found: Vec<FunctionInfo> = all.iter().filter(named).cloned().collect();
    if found.is_empty() {
        found.extend(all.iter().filter(|function| function.about.to_lowercase().contains(&small)).cloned());
    }
    if found.is_empty() {
        let error = Error::invalid(format!("no function is like '{pattern}'"));
        return Err(match nearest(&small, all.iter().map(|function| function.name.as_str())) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("`highwater functions` lists all of them"),
        });
    }
    Ok(found)
}

/// Functions, one a line or more.
pub fn function_table(functions: &[FunctionInfo]) -> String {
    let mut table = table(["function", "kind", "call", "what it gives"]);
    for function in functions {
        let name = match function.aliases.as_slice() {
            [] => function.name.clone(),
            aliases => format!("{} ({})", function.name, aliases.join(", ")),
        };
        table.add_row([&name, function.kind.name(), &function.signature, &function.about]);
    }
    table.trim_fmt()
}

/// A table as wide as the terminal; as wide as it likes where nobody looks.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}
