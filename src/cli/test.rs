//! `highwater test`: tests of pipelines, a line a file; of those that fail, the rows that differ.

use super::explain::read;
use super::{colour, complain, exit_code, say};
use crate::connector::Connectors;
use crate::error::{Error, ErrorKind, Result, report};
use crate::sql::Text;
use crate::testing::{self, CaseOutcome, Difference, Failure, Options, Outcome, Row};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Rows of a difference that are shown, of each kind.
const ROWS_MAX: usize = 20;

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files of tests, in SQL
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Decides the order of rows, who moves, and when a run is killed
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Workers of the runs with several
    #[arg(long, short, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Run each test once, as it is written: in the order of its rows, on one worker, without a crash
    #[arg(long)]
    no_variants: bool,
    /// How results are shown
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line a file, and what differs
    Text,
    /// For programs
    Json,
    /// As JUnit has it, for CI servers
    Junit,
}

/// A file and what became of its tests.
struct Tested {
    file: String,
    outcome: Result<Outcome>,
}

/// Runs the tests of all files: 0 if everything that is asserted holds, 1 if something does not, 2 if a file is wrong.
pub fn run(arguments: &Arguments, connectors: &dyn Connectors) -> ExitCode {
    let workers = NonZeroUsize::new(arguments.workers.into()).unwrap_or(NonZeroUsize::MIN);
    let options = Options { seed: arguments.seed, workers, variants: !arguments.no_variants };
    let mut tested = Vec::new();
    for path in &arguments.files {
        let file = path.display().to_string();
        let outcome = read(path).and_then(|sql| testing::run(Text { name: &file, sql: &sql }, &options, connectors));
        let one = Tested { file, outcome };
        if arguments.format == Format::Text
            && let Err(error) = show(&one)
        {
            complain(&error);
            return exit_code(&error);
        }
        tested.push(one);
    }
    let shown = match arguments.format {
        Format::Text => Ok(()),
        Format::Json => say(format!("{:#}", as_json(&tested, arguments.seed))),
        Format::Junit => say(as_junit(&tested)),
    };
    if let Err(error) = shown {
        complain(&error);
        return exit_code(&error);
    }
    let wrong = tested.iter().filter_map(|one| one.outcome.as_ref().err());
    // a bug is worse than a file that is wrong, which is worse than a test that fails
    match wrong.min_by_key(|error| error.kind() != ErrorKind::Internal) {
        Some(error) => exit_code(error),
        None if tested.iter().all(|one| one.outcome.as_ref().is_ok_and(Outcome::holds)) => ExitCode::SUCCESS,
        None => ExitCode::from(1),
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn show(one: &Tested) -> Result<()> {
    let outcome = match &one.outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            say(format!("{} {}", word("WRONG", Color::Red), one.file))?;
            complain(error);
            return Ok(());
        }
    };
    let cases = count(outcome.cases.len(), "test");
    let assertions = count(outcome.assertions(), "assertion");
    if outcome.holds() {
        let runs = count(outcome.cases.iter().map(|case| case.runs).sum(), "run");
        say(format!("{}     {}: {cases}, {assertions}, {runs}", word("ok", Color::Green), one.file))?;
    } else {
        let failed = outcome.cases.iter().filter(|case| !case.failures.is_empty()).count();
        say(format!("{} {}: {failed} of {cases} failed", word("FAILED", Color::Red), one.file))?;
    }
    for case in &outcome.cases {
        let of_case = |text: &str| match &case.name {
            Some(name) => format!("test '{name}': {text}"),
            None => text.to_owned(),
        };
        for failure in &case.failures {
            let failure = Failure { what: of_case(&failure.what), ..failure.clone() };
            say(format!("\n{}", report(&failure.error(), coloured()).trim_end()))?;
            if let Some(difference) = &failure.difference {
                say(table(difference))?;
            }
        }
        for left_out in &case.left_out {
            say(format!("       {}", of_case(&format!("not run {left_out}"))))?;
        }
    }
    Ok(())
}

/// True if standard output shows colours.
fn coloured() -> bool {
    // who does not want them on standard error does not want them here
    std::io::stdout().is_terminal() && colour()
}

fn word(text: &str, colour: Color) -> String {
    let code = match colour {
        Color::Green => 32,
        _ => 31,
    };
    if coloured() { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The rows that differ, each with what is wrong with it.
fn table(difference: &Difference) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([String::new()].into_iter().chain(difference.columns.iter().cloned()));
    let mut add = |rows: &[Row], mark: &str, colour: Color| {
        for row in rows.iter().take(ROWS_MAX) {
            let cells = [mark.to_owned()].into_iter().chain(row.0.iter().map(|cell| on_a_line(cell)));
            table.add_row(cells.map(|cell| if coloured() { Cell::new(cell).fg(colour) } else { Cell::new(cell) }));
        }
        if rows.len() > ROWS_MAX {
            table.add_row([format!("{mark} and {} more", rows.len() - ROWS_MAX)]);
        }
    };
    add(&difference.missing, "- expected", Color::Red);
    add(&difference.surplus, "+ found", Color::Green);
    let mut text = table.trim_fmt();
    if difference.same > 0 {
        text.push_str(&format!("\n  and {} as expected", count(difference.same, "row")));
    }
    text
}

/// A cell that stays on its line.
fn on_a_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn as_json(tested: &[Tested], seed: u64) -> Value {
    let rows = |rows: &[Row]| rows.iter().map(|row| json!(row.0)).collect::<Vec<_>>();
    let failure = |failure: &Failure| {
        let difference = failure.difference.as_ref().map(|difference| {
            json!({
                "columns": difference.columns,
                "expected": rows(&difference.missing),
                "found": rows(&difference.surplus),
                "same": difference.same,
            })
        });
        json!({
            "place": failure.place.to_string(),
            "message": failure.what,
            "run": failure.variant,
            "difference": difference,
        })
    };
    let case = |case: &CaseOutcome| {
        json!({
            "name": case.name,
            "assertions": case.assertions,
            "runs": case.runs,
            "restores": case.restores,
            "left_out": case.left_out,
            "failures": case.failures.iter().map(failure).collect::<Vec<_>>(),
        })
    };
    let file = |one: &Tested| match &one.outcome {
        Ok(outcome) => json!({
            "file": one.file,
            "outcome": if outcome.holds() { "ok" } else { "failed" },
            "tests": outcome.cases.iter().map(case).collect::<Vec<_>>(),
        }),
        Err(error) => json!({
            "file": one.file,
            "outcome": "wrong",
            "errors": error.each().map(Error::to_string).collect::<Vec<_>>(),
        }),
    };
    json!({ "seed": seed, "files": tested.iter().map(file).collect::<Vec<_>>() })
}

fn as_junit(tested: &[Tested]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for one in tested {
        let file = escaped(&one.file);
        match &one.outcome {
            Ok(outcome) => {
                let failed = outcome.cases.iter().filter(|case| !case.failures.is_empty()).count();
                let tests = outcome.cases.len();
                text.push_str(&format!(
                    "  <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\">\n"
                ));
                for case in &outcome.cases {
                    let name = escaped(case.name.as_deref().unwrap_or(&one.file));
                    text.push_str(&format!(
                        "    <testcase name=\"{name}\" classname=\"{file}\" assertions=\"{}\">\n",
                        case.assertions
                    ));
                    for failure in &case.failures {
                        let message = escaped(&failure.error().to_string());
                        let rows = failure.difference.as_ref().map(table).unwrap_or_default();
                        text.push_str(&format!("      <failure message=\"{message}\">{}</failure>\n", escaped(&rows)));
                    }
                    text.push_str("    </testcase>\n");
                }
            }
            Err(error) => {
                text.push_str(&format!("  <testsuite name=\"{file}\" tests=\"1\" failures=\"0\" errors=\"1\">\n"));
                let message = escaped(&error.to_string());
                let whole = escaped(report(error, false).trim_end());
                text.push_str(&format!("    <testcase name=\"{file}\" classname=\"{file}\">\n"));
                text.push_str(&format!("      <error message=\"{message}\">{whole}</error>\n    </testcase>\n"));
            }
        }
        text.push_str("  </testsuite>\n");
    }
    text + "</testsuites>"
}

/// Text as XML has it; what XML cannot have is left out.
fn escaped(text: &str) -> String {
    let piece = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => String::new(),
        c => c.to_string(),
    };
    text.chars().map(piece).collect()
}
