//! `highwater sql`: a shell. Statements in, rows out.
//!
//! What was typed is one text. A declaration stays in it, everything else is blanked out once it is done, so that the next statement
//! is planned as the end of a definition, and an error's line is the line as it was typed or stands in the file.

pub(super) mod prompt;
mod sample;

use super::explain::read_sql;
use super::progress::{Progress, REFRESH, count, duration};
use super::say;
use super::tables::{describe, fitting, function_table, table};
use crate::broker::{self, Broker};
use crate::connector::extensions::Extensions;
use crate::error::{Error, Result, nearest};
use crate::plan::Plan;
use crate::runtime::{self, Workers};
use crate::sql::{self, Relation, Request, Text};
use crate::time::{Clock, SystemClock};
use clap::Args;
use prompt::Prompt;
use sample::Sample;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::io::IsTerminal;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often the end of a query is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// Arguments of `sql`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A pipeline whose tables, views and settings are there from the start; what it writes is not run
    file: Option<PathBuf>,
    /// Run this instead of reading statements from the terminal or standard input; may be given several times
    #[arg(long, short, value_name = "SQL")]
    command: Vec<String>,
    /// How the rows of a SELECT are shown
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// Worker threads of a query
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
}

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table, or a changelog if rows are taken back
    Auto,
    /// Aligned columns
    Table,
    /// A change a line: +I[…] added, -U[…] and +U[…] replaced, -D[…] taken back
    Changelog,
    /// An object a line
    Json,
}

impl Format {
    const ALL: [Format; 4] = [Format::Auto, Format::Table, Format::Changelog, Format::Json];

    fn name(self) -> &'static str {
        match self {
            Format::Auto => "auto",
            Format::Table => "table",
            Format::Changelog => "changelog",
            Format::Json => "json",
        }
    }

    /// The value of `print.format`.
    fn style(self) -> Option<&'static str> {
        (self != Format::Auto).then(|| self.name())
    }
}

const HELP: &str = "\
Statements end with a semicolon and may have several lines.

  CREATE TABLE …, CREATE VIEW …, SET …    stay in force; DROP TABLE t takes one back
  SELECT …                                shows rows as they come, until Ctrl-C
  SELECT … LIMIT 10                       stops after 10 rows
  INSERT INTO t SELECT …                  runs until its input ends, or Ctrl-C
  EXPLAIN SELECT …                        shows the plan
  SHOW TABLES    DESCRIBE t               what there is
  SHOW FUNCTIONS LIKE 'array%'            what can be called

  \\format [auto|table|changelog|json]     how rows are shown
  \\?                                      this
  \\q                                      leave (or Ctrl-D)";

/// Reads statements and does what they say. The exit code is that of the first mistake, if nobody sat there to see it.
pub fn run(arguments: &Arguments, extensions: &Extensions) -> ExitCode {
    match converse(arguments, extensions) {
        Ok(code) => code,
        Err(error) => {
            super::complain(&error);
            super::exit_code(&error)
        }
    }
}

fn converse(arguments: &Arguments, extensions: &Extensions) -> Result<ExitCode> {
    let interactive = arguments.command.is_empty() && std::io::stdin().is_terminal();
    let name = match arguments.command.is_empty() {
        false => "command",
        true if interactive => "shell",
        true => "stdin",
    };
    let mut shell = Shell::new(name, interactive, arguments, extensions)?;
    if let Some(file) = &arguments.file {
        shell.load(file)?;
    }
    if interactive {
        shell.prompt()?;
        return Ok(ExitCode::SUCCESS);
    }
    for command in &arguments.command {
        shell.feed(command);
        shell.finish();
        if shell.failed.is_some() {
            break;
        }
    }
    if arguments.command.is_empty() {
        let mut line = String::new();
        let unreadable = |error: std::io::Error| Error::unavailable(format!("standard input: {error}"));
        while !shell.left && std::io::stdin().read_line(&mut line).map_err(unreadable)? > 0 {
            shell.feed(&line);
            line.clear();
        }
        shell.finish();
    }
    Ok(shell.failed.unwrap_or(ExitCode::SUCCESS))
}

/// Something that stays in force.
struct Declared {
    /// Of a table or view.
    name: Option<String>,
    /// Where it stands in the text.
    at: Range<usize>,
}

struct Shell {
    /// What errors call the text.
    name: &'static str,
    interactive: bool,
    /// All that was typed; what is done is blank.
    text: String,
    /// Where the statement starts that is not done.
    pending: usize,
    declared: Vec<Declared>,
    connectors: Extensions,
    format: Format,
    workers: usize,
    /// The broker that `embedded` stands for, once a table has asked for it; its topics live as long as the shell.
    broker: Option<Broker>,
    clock: Arc<dyn Clock>,
    /// Set by Ctrl-C.
    interrupted: Arc<AtomicBool>,
    /// While this is true, Ctrl-C ends the process, as everywhere.
    idle: Arc<AtomicBool>,
    /// True once the conversation is over.
    left: bool,
    /// The exit code of the first mistake.
    failed: Option<ExitCode>,
}

impl Shell {
    fn new(name: &'static str, interactive: bool, arguments: &Arguments, extensions: &Extensions) -> Result<Shell> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let idle = Arc::new(AtomicBool::new(true));
        flag::register_conditional_default(SIGINT, Arc::clone(&idle))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&interrupted)))
            .map_err(|error| Error::unavailable(format!("signals cannot be handled: {error}")))?;
        Ok(Shell {
            name,
            interactive,
            text: String::new(),
            pending: 0,
            declared: Vec::new(),
            connectors: extensions.clone(),
            format: arguments.format,
            workers: arguments.workers.into(),
            broker: None,
            clock: Arc::new(SystemClock::default()),
            interrupted,
            idle,
            left: false,
            failed: None,
        })
    }

    /// Takes the declarations of a file.
    fn load(&mut self, file: &std::path::Path) -> Result<()> {
        let text = read_sql(file)?;
        self.connectors = self.connectors.clone().in_folder(file.parent().unwrap_or(std::path::Path::new("")));
        // mistakes are told with their places in the file
        sql::relations(Text { name: &file.display().to_string(), sql: &text }, &self.connectors)?;
        self.text = text;
        while self.pending < self.text.len() {
            let at = self.pending..self.statement_end().unwrap_or(self.text.len());
            match sql::request(&self.text[at.clone()])? {
                Request::Declare(name) => {
                    self.unserve(&at);
                    self.declared.push(Declared { name, at: at.clone() });
                }
                _ => self.blank(at.clone()),
            }
            self.pending = at.end;
        }
        self.end_line();
        Ok(())
    }

    /// Reads from the terminal until it is over.
    fn prompt(&mut self) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        say(format!("Highwater {version}. Statements end with a semicolon; \\? helps, \\q leaves."))?;
        let mut prompt = Prompt::new(&self.connectors)?;
        while !self.left {
            prompt.know(&self.relations(self.pending)?);
            let Some(typed) = prompt.read()? else { break };
            self.feed(&typed);
        }
        Ok(())
    }

    /// Takes what was typed, and does what is complete.
    fn feed(&mut self, typed: &str) {
        if self.text[self.pending..].trim().is_empty() && typed.trim_start().starts_with('\\') {
            if let Err(error) = self.command(typed.trim()) {
                self.complain(&error);
            }
            self.text.push('\n');
            self.pending = self.text.len();
            return;
        }
        self.text.push_str(typed);
        self.end_line();
        while let Some(end) = self.statement_end().filter(|_| !self.left) {
            self.statement(end);
        }
        let bare = self.text[self.pending..].trim();
        if bare.eq_ignore_ascii_case("exit") || bare.eq_ignore_ascii_case("quit") {
            self.left = true;
        }
    }

    /// Does what is left when nothing more comes: a last statement may do without its semicolon.
    fn finish(&mut self) {
        if !self.left && !self.text[self.pending..].trim().is_empty() {
            self.statement(self.text.len());
        }
    }

    fn end_line(&mut self) {
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// Where the pending statement ends, if it does.
    fn statement_end(&self) -> Option<usize> {
        Some(self.pending + sql::statement_end(&self.text[self.pending..])?)
    }

    /// Does the pending statement, which ends at `end`.
    fn statement(&mut self, end: usize) {
        let at = self.pending..end;
        self.pending = end;
        if self.unserve(&at) {
            eprintln!("a view like any other here; `highwater run FILE --ask` serves it while its pipeline runs");
        }
        let declaration = match sql::request(&self.text[at.clone()]) {
            Ok(Request::Declare(name)) => Some(name),
            _ => None,
        };
        let done = sql::request(&self.text[at.clone()]).and_then(|request| self.answer(request, at.clone()));
        match (done, declaration) {
            (Ok(()), Some(name)) => self.declared.push(Declared { name, at }),
            (Ok(()), None) => self.blank(at),
            (Err(error), _) => {
                self.complain(&error);
                self.blank(at);
            }
        }
    }

    /// Takes the word MATERIALIZED off the declaration of a view: no pipeline runs here that could serve it. False if it is not there.
    fn unserve(&mut self, at: &Range<usize>) -> bool {
        let Some(word) = sql::materialized(&self.text[at.clone()]) else { return false };
        self.blank(at.start + word.start..at.start + word.end);
        true
    }

    fn complain(&mut self, error: &Error) {
        super::complain(error);
        self.failed.get_or_insert(super::exit_code(error));
    }

    /// Makes white space of what is done, so that all else stays where it is.
    fn blank(&mut self, at: Range<usize>) {
        let blank: String = self.text[at.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        self.text.replace_range(at, &blank);
    }

    /// Does what the statement at `at` asks for.
    fn answer(&mut self, request: Request, at: Range<usize>) -> Result<()> {
        match request {
            Request::Nothing => {}
            Request::Leave => self.left = true,
            Request::Declare(_) => {
                sql::script(self.up_to(at.end), &[], &self.connectors)?;
            }
            Request::Insert => {
                let plan = sql::plan(self.up_to(at.end), &[], &self.connectors)?;
                let printed = plan.sinks().any(|(_, sink)| sink.connector == "print");
                let live = self.interactive && !printed && std::io::stderr().is_terminal();
                self.run(plan, Some(Progress::new(live)))?;
            }
            Request::Select(limit) => {
                let mut text = self.text[..at.end].to_owned();
                if let Some(limit) = &limit {
                    let clause = at.start + limit.at.start..at.start + limit.at.end;
                    text.replace_range(clause.clone(), &" ".repeat(clause.len()));
                }
                self.select(&text, limit.map(|limit| limit.rows))?;
            }
            Request::Explain => {
                for plan in sql::script(self.up_to(at.end), &[], &self.connectors)?.explains {
                    say(plan.explain_text().trim_end())?;
                }
            }
            Request::Describe(name) => {
                let relation = self.relation(&name, at.start)?;
                say(describe(&relation))?;
            }
            Request::Subscribe(_) => {
                return Err(Error::invalid("SUBSCRIBE is for the views of a pipeline that runs")
                    .help("`highwater run FILE --ask` runs one and reads such statements; here a SELECT shows rows as they come"));
            }
            Request::ShowTables | Request::ShowViews => {
                let relations = self.relations(at.start)?;
                let mut list = table(["name", "kind", "connector", "columns"]);
                for relation in &relations {
                    let columns: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
                    let kind = relation.kind.name();
                    let connector = relation.connector.as_deref().unwrap_or_default();
                    list.add_row([&relation.name, kind, connector, &columns.join(", ")]);
                }
                match relations.is_empty() {
                    true => say("no tables yet")?,
                    false => say(list.trim_fmt())?,
                }
            }
            Request::ShowFunctions(pattern) => {
                let declared = sql::declared_functions(self.up_to(at.start), &self.connectors)?;
                say(function_table(&fitting(pattern.as_deref(), declared, &self.connectors)?))?;
            }
            Request::Drop(name) => self.drop_relation(&name, at.start)?,
        }
        Ok(())
    }

    /// Does what a line with a backslash says.
    fn command(&mut self, line: &str) -> Result<()> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["\\q"] => self.left = true,
            ["\\?"] => say(HELP)?,
            ["\\format"] => say(self.format.name())?,
            ["\\format", name] => match Format::ALL.into_iter().find(|format| format.name() == *name) {
                Some(format) => self.format = format,
                None => {
                    let names = Format::ALL.map(Format::name);
                    let error = Error::invalid(format!("there is no format '{name}'"));
                    return Err(match nearest(name, names) {
                        Some(near) => error.help(format!("did you mean '{near}'?")),
                        None => error.help(format!("the formats are {}", names.join(", "))),
                    });
                }
            },
            other => {
                let word = other.first().copied().unwrap_or_default();
                return Err(Error::invalid(format!("there is no command {word}")).help("\\? lists what there is"));
            }
        }
        Ok(())
    }

    fn up_to(&self, end: usize) -> Text<'_> {
        Text { name: self.name, sql: &self.text[..end] }
    }

    /// The tables and views that are declared before `end`.
    fn relations(&self, end: usize) -> Result<Vec<Relation>> {
        sql::relations(self.up_to(end), &self.connectors)
    }

    fn relation(&self, name: &str, end: usize) -> Result<Relation> {
        let relations = self.relations(end)?;
        let known = || relations.iter().map(|relation| relation.name.as_str());
        relations.iter().find(|relation| relation.name == name).cloned().ok_or_else(|| {
            let error = Error::invalid(format!("unknown table '{name}'"));
            match nearest(name, known()) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None => error.help("SHOW TABLES lists what there is"),
            }
        })
    }

    /// Takes a declaration back that stands before `end`.
    fn drop_relation(&mut self, name: &str, end: usize) -> Result<()> {
        self.relation(name, end)?;
        let place = self.declared.iter().rposition(|declared| declared.name.as_deref() == Some(name));
        let place = place.ok_or_else(|| Error::internal(format!("'{name}' is there, but was not declared")))?;
        let before = self.text.clone();
        self.blank(self.declared[place].at.clone());
        // what is left must make sense without it
        if let Err(error) = self.relations(end) {
            self.text = before;
            return Err(error.within(format!("'{name}' cannot be dropped")).help("drop what reads it first"));
        }
        self.declared.remove(place);
        Ok(())
    }

    /// Shows the rows of the query at the end of `text`.
    fn select(&mut self, text: &str, limit: Option<u64>) -> Result<()> {
        if limit == Some(0) {
            return Ok(());
        }
        let shown = Arc::new(AtomicU64::new(0));
        let sample = Sample {
            connectors: self.connectors.clone(),
            style: self.format.style(),
            limit,
            shown: Arc::clone(&shown),
        };
        let plan = sql::plan(Text { name: self.name, sql: text }, &[], &sample)?;
        if self.interactive && limit.is_none() && plan.sources().any(|(_, source)| !source.source.bounded()) {
            eprintln!("this query does not end by itself; Ctrl-C stops it");
        }
        let start = self.clock.monotonic();
        self.run(plan, None)?;
        if self.interactive {
            let took = duration(self.clock.monotonic().saturating_sub(start));
            let rows = shown.load(Relaxed);
            eprintln!("{} row{} in {took}", count(rows), if rows == 1 { "" } else { "s" });
        }
        Ok(())
    }

    /// Runs `plan` to its end or to Ctrl-C, which stops it cleanly; a second one ends it at once.
    fn run(&mut self, plan: Plan, mut progress: Option<Progress>) -> Result<()> {
        plan.check()?;
        if plan.needs_embedded_broker() && self.broker.is_none() {
            let config = broker::Config { listen: "127.0.0.1:0".into(), ..broker::Config::default() };
            self.broker = Some(Broker::start(config)?);
        }
        let address = self.broker.as_ref().map(Broker::address);
        let start = self.clock.monotonic();
        let clock = Arc::clone(&self.clock);
        let elapsed = || clock.monotonic().saturating_sub(start);
        self.interrupted.store(false, Relaxed);
        self.idle.store(false, Relaxed);
        let running = runtime::start(plan, Workers::Threads(self.workers), address, Arc::clone(&self.clock));
        let running = running.inspect_err(|_| self.idle.store(true, Relaxed))?;
        let fate = running.fate();
        let (mut shown, mut stopped) = (Duration::ZERO, false);
        while !running.finished() {
            std::thread::sleep(LOOK);
            if self.interrupted.swap(false, Relaxed) {
                match stopped {
                    true => fate.fail(Error::unavailable("interrupted")),
                    false => fate.stop(),
                }
                stopped = true;
            }
            if let Some(progress) = progress.as_mut().filter(|_| elapsed().saturating_sub(shown) >= REFRESH) {
                shown = elapsed();
                progress.show(shown, running.snapshot());
            }
        }
        let (last, result) = running.wait();
        self.idle.store(true, Relaxed);
        // whoever interrupts a script means the script
        self.left |= stopped && !self.interactive;
        if let Some(progress) = progress {
            let how = match &result {
                Err(_) => "failed",
                Ok(()) if stopped => "stopped",
                Ok(()) => "finished",
            };
            progress.finish(elapsed(), &last, how);
        }
        result
    }
}
