//! The shell's line: history, completion, statements of several lines.

use crate::connector::Connectors;
use crate::error::{Error, Result};
use crate::sql::{self, Relation};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};
use std::path::PathBuf;

const PROMPT: &str = "highwater> ";

/// How many statements the history keeps.
const HISTORY_MAX: usize = 10_000;

/// What a line with a backslash can be.
const COMMANDS: [&str; 7] =
    ["\\?", "\\q", "\\format", "\\format auto", "\\format table", "\\format changelog", "\\format json"];

/// The words that are offered wherever one is typed.
const KEYWORDS: &str = "AND ARRAY AS ASC BETWEEN BIGINT BOOLEAN BYTES BY CASE CAST CHANGES CLOSE CREATE DATE DAY DECIMAL DESC \
    DESCRIBE DESCRIPTOR DISTINCT DOUBLE DROP ELSE EMIT END ENFORCED EXISTS EXPLAIN FALSE FILTER FINAL FLOAT FOR FROM FULL \
    FUNCTIONS GROUP HAVING HOUR IF IN INNER INSERT INT INTERVAL INTO IS JOIN KEY LEFT LIKE LIMIT MAP MATERIALIZED MINUTE NOT NULL ON OR ORDER \
    OUTER OVER PARTITION PRIMARY RIGHT ROW SECOND SELECT SET SHOW SMALLINT STRING SUBSCRIBE TABLE TABLES THEN TIMESTAMP TIMESTAMP_LTZ \
    TINYINT TRUE UNION UNNEST VALUES VARCHAR VIEW VIEWS WATERMARK WHEN WHERE WINDOW WITH";

/// Text of which no trace is kept: it may hold a secret.
const SECRETS: [&str; 6] = ["password", "secret", "token", "jaas", "credential", "passphrase"];

/// An editor of lines.
pub struct Prompt {
    editor: Editor<Words, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    /// With the history of earlier shells, if there is one.
    pub fn new(connectors: &dyn Connectors) -> Result<Prompt> {
        let config = Config::builder().history_ignore_space(true).max_history_size(HISTORY_MAX).map_err(failed)?;
        let mut editor = Editor::with_config(config.build()).map_err(failed)?;
        let functions = sql::functions(connectors).into_iter().map(|function| format!("{}(", function.name)).collect();
        editor.set_helper(Some(Words { functions, relations: Vec::new(), quoted: quoted(connectors) }));
        let history = history_file();
        if let Some(file) = &history {
            // none yet, or one that cannot be read: it begins anew
            let _ = editor.load_history(file);
        }
        Ok(Prompt { editor, history })
    }

    /// Learns what can be named.
    pub fn know(&mut self, relations: &[Relation]) {
        if let Some(words) = self.editor.helper_mut() {
            let names = relations.iter().flat_map(|relation| {
                let columns = relation.columns.iter().map(|column| column.name.clone());
                std::iter::once(relation.name.clone()).chain(columns)
            });
            words.relations = names.collect();
        }
    }

    /// What is typed next, all its lines; none at the end. Ctrl-C drops what was begun.
    pub fn read(&mut self) -> Result<Option<String>> {
        loop {
            let styled = match super::super::colour() {
                true => format!("\x1b[1m{PROMPT}\x1b[0m"),
                false => PROMPT.to_owned(),
            };
            match self.editor.readline(&(PROMPT, styled)) {
                Ok(typed) => {
                    self.remember(&typed);
                    return Ok(Some(typed));
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Keeps a statement, unless it may hold a secret.
    fn remember(&mut self, typed: &str) {
        let small = typed.to_lowercase();
        let no_statement = typed.trim().is_empty() || typed.starts_with('\\');
        if no_statement || SECRETS.iter().any(|secret| small.contains(secret)) {
            return;
        }
        let added = self.editor.add_history_entry(typed.trim_end()).unwrap_or(false);
        if let Some(file) = self.history.as_ref().filter(|_| added) {
            let kept = file.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(ReadlineError::from);
            if let Err(error) = kept.and_then(|()| self.editor.append_history(file)) {
                tracing::debug!("the history is not kept: {error}");
                self.history = None;
            }
        }
    }
}

fn failed(error: ReadlineError) -> Error {
    Error::unavailable(format!("the terminal cannot be read: {error}")).caused_by(error)
}

/// `sql_history` in the user's folder for such things, by the XDG rules.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("highwater/sql_history"))
}

/// What may be typed.
struct Words {
    functions: Vec<String>,
    /// Tables, views and their columns.
    relations: Vec<String>,
    /// What stands in quotes: options, connectors, settings.
    quoted: Vec<String>,
}

/// Of an option's name with a part to choose, what stands before that.
fn quoted(connectors: &dyn Connectors) -> Vec<String> {
    let specs = connectors.specs().iter();
    let options = specs.flat_map(|spec| {
        std::iter::once(spec.name.to_owned()).chain(spec.declared().into_iter().map(|option| option.name.to_string()))
    });
    let mut quoted: Vec<String> = options.chain(sql::SETTINGS.iter().map(|setting| setting.name.to_owned())).collect();
    quoted.iter_mut().for_each(|name| name.truncate(name.find('*').unwrap_or(name.len())));
    quoted.sort_unstable();
    quoted.dedup();
    quoted
}

impl Words {
    /// Where the word begins that ends at `pos`, and what it may become.
    fn candidates(&self, line: &str, pos: usize) -> (usize, Vec<Pair>) {
        let before = &line[..pos];
        if before.trim_start().starts_with('\\') {
            let start = before.len() - before.trim_start().len();
            return (start, fitting(COMMANDS.into_iter(), &before[start..], false));
        }
        let in_quotes = before.matches('\'').count() % 2 == 1;
        if in_quotes {
            let start = before.rfind('\'').map_or(0, |quote| quote + 1);
            return (start, fitting(self.quoted.iter().map(String::as_str), &before[start..], false));
        }
        let start = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let word = &before[start..];
        if word.is_empty() {
            return (start, Vec::new());
        }
        let mut found = fitting(self.relations.iter().map(String::as_str), word, false);
        found.extend(fitting(KEYWORDS.split_whitespace(), word, !word.chars().any(char::is_uppercase)));
        found.extend(fitting(self.functions.iter().map(String::as_str), word, false));
        found.dedup_by(|a, b| a.replacement == b.replacement);
        (start, found)
    }
}

/// The `names` that begin with `word`, whatever its case; in small letters if asked for.
fn fitting<'a>(names: impl Iterator<Item = &'a str>, word: &str, small: bool) -> Vec<Pair> {
    let begins = |name: &&str| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let spell = |name: &str| if small { name.to_lowercase() } else { name.to_owned() };
    names.filter(begins).map(spell).map(|name| Pair { display: name.clone(), replacement: name }).collect()
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(self.candidates(line, pos))
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let typed = context.input().trim();
        let leaves = typed.eq_ignore_ascii_case("exit") || typed.eq_ignore_ascii_case("quit");
        let complete = typed.is_empty() || typed.starts_with('\\') || leaves || ends_with_a_statement(typed);
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// True if nothing is open after the last semicolon.
fn ends_with_a_statement(typed: &str) -> bool {
    let mut rest = typed;
    while let Some(end) = sql::statement_end(rest) {
        rest = rest[end..].trim_start();
        if rest.is_empty() {
            return true;
        }
    }
    matches!(sql::request(rest), Ok(sql::Request::Nothing)) && !rest.is_empty()
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_completed_by_where_it_stands() {
        let words = Words {
            functions: vec!["upper(".into(), "count(".into()],
            relations: vec!["counts".into(), "word".into()],
            quoted: vec!["connector".into(), "topic".into()],
        };
        let check = |line: &str, start: usize, expected: &[&str]| {
            let (at, found) = words.candidates(line, line.len());
            let found: Vec<&str> = found.iter().map(|pair| pair.replacement.as_str()).collect();
            assert_eq!((at, found.as_slice()), (start, expected), "{line}");
        };
        check("SEL", 0, &["SELECT"]);
        check("select wo", 7, &["word"]);
        check("SELECT up", 7, &["upper("]);
        check("SELECT a FROM cou", 14, &["counts", "count("]);
        check("wat", 0, &["watermark"]);
        check("WITH ('con", 7, &["connector"]);
        check("WITH ('connector' = 'x', 'to", 26, &["topic"]);
        check("\\f", 0, &["\\format", "\\format auto", "\\format table", "\\format changelog", "\\format json"]);
        check("SELECT ", 7, &[]);
        check("SELECT 'é' AS ü, up", 19, &["upper("]);
    }

    #[test]
    fn a_line_is_done_when_its_statements_are() {
        let check = |typed: &str, done: bool| assert_eq!(ends_with_a_statement(typed), done, "{typed}");
        check("SELECT 1", false);
        check("SELECT 1;", true);
        check("SELECT 1; SELECT", false);
        check("SELECT 1; -- one", true);
        check("SELECT ';", false);
    }
}
