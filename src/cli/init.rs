//! `highwater init`: a first pipeline, in a file with comments that say what to change.

use crate::error::{Error, Result};
use crate::graph;
use clap::Args;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The broker inside a run.
const EMBEDDED: &str = "embedded";

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What the pipeline is called, or the file to write: in SQL, or an operator graph if it ends in .yaml
    #[arg(default_value = "pipeline", value_name = "NAME|FILE")]
    name: PathBuf,
    /// Read a topic: of the broker at this address, or without one of a broker inside the run
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = EMBEDDED, conflicts_with = "file")]
    kafka: Option<String>,
    /// The topic to read
    #[arg(long, value_name = "TOPIC", default_value = "messages", requires = "kafka")]
    topic: String,
    /// Read the lines of this file
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
}

/// Writes the pipeline, if there is no such file yet.
pub fn run(arguments: &Arguments) -> Result<()> {
    let file = match arguments.name.extension() {
        Some(_) => arguments.name.clone(),
        None => arguments.name.with_extension("sql"),
    };
    let graph = graph::is_graph(&file.display().to_string());
    if !graph && file.extension().is_none_or(|extension| extension != "sql") {
        let error = Error::invalid(format!("{} is no name for a pipeline", file.display()));
        return Err(error.help("end it in .sql or .yaml, or leave the ending out"));
    }
    let (sql, yaml) = match (&arguments.kafka, &arguments.file) {
        (Some(broker), _) if broker == EMBEDDED => {
            (include_str!("init/embedded.sql"), include_str!("init/embedded.yaml"))
        }
        (Some(_), _) => (include_str!("init/kafka.sql"), include_str!("init/kafka.yaml")),
        (None, Some(_)) => (include_str!("init/file.sql"), include_str!("init/file.yaml")),
        (None, None) => (include_str!("init/generated.sql"), include_str!("init/generated.yaml")),
    };
    let template = if graph { yaml } else { sql };
    let text = template
        .replace("{file}", &shell_word(&file))
        .replace("{name}", &pipeline_name(&file))
        .replace("{topic}", &literal(&arguments.topic))
        .replace("{bootstrap}", &literal(arguments.kafka.as_deref().unwrap_or_default()))
        .replace("{path}", &literal(arguments.file.as_deref().unwrap_or_default()));
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Error::invalid(format!("{} is there already", file.display()))
            .help("give the pipeline another name, or move the file away; nothing is overwritten"),
        _ => Error::unavailable(format!("{}: {error}", file.display())).caused_by(error),
    };
    let mut written = OpenOptions::new().write(true).create_new(true).open(&file).map_err(cannot)?;
    written.write_all(text.as_bytes()).map_err(cannot)?;
    super::say(format!("{} is written. Run it:\n\n  highwater run {}", file.display(), shell_word(&file)))
}

/// The file's name without its ending, as a pipeline may be called.
fn pipeline_name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    stem.chars().map(fit).take(64).collect()
}

/// `text` as SQL and YAML write it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A path as a shell takes it; it stands in a comment, so it must stay on its line.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string().replace(char::is_control, "?");
    match text.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c)) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
