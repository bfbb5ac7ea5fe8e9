//! Where in the text something stands: every error of this room names it and shows the line.

use super::phrase::{At, Phrase};
use super::say::{lower_first, say};
use crate::error::{Error, Excerpt};
use datafusion_common::DataFusionError;
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::{Location, Span, TokenizerError};

/// The text of a pipeline and the name that its places carry.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The file's name, as places show it.
    pub name: &'a str,
    /// What it says.
    pub sql: &'a str,
}

impl Text<'_> {
    /// `file:line:column`.
    pub(super) fn place(&self, at: Location) -> String {
        format!("{}:{}:{}", self.name, at.line, at.column)
    }

    /// The place of `span`, with its line; what goes on in another line is left out. A place without length is that of the word there.
    pub(super) fn excerpt(&self, span: Span) -> Excerpt {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let Span { start, end } = span;
        let line = self.sql.lines().nth(number(start.line).saturating_sub(1)).unwrap_or_default();
        let rest = (line.chars().count() + 1).saturating_sub(number(start.column));
        let length = match end {
            _ if end == start => word_length(line, number(start.column).saturating_sub(1)),
            end if end.line == start.line => number(end.column.saturating_sub(start.column)).min(rest),
            _ => line.trim_end().chars().count().saturating_sub(number(start.column).saturating_sub(1)),
        };
        Excerpt {
            file: self.name.to_owned(),
            line: number(start.line),
            column: number(start.column),
            length: length.max(1),
            text: line.to_owned(),
        }
    }

    /// `error` at `at`, for a front end whose text is not SQL.
    pub fn wrong_at(&self, error: Error, at: At) -> Error {
        self.error_at(error, at.into())
    }

    /// `error` about `phrase`, for a front end whose text is not SQL.
    pub fn wrong(&self, error: Error, phrase: &Phrase) -> Error {
        error.at(self.excerpt(phrase.span()))
    }

    /// `error` at the word at `at`.
    pub(super) fn error_at(&self, error: Error, at: Location) -> Error {
        self.error_over(error, Span::new(at, at))
    }

    /// `error` at `span`.
    pub(super) fn error_over(&self, error: Error, span: Span) -> Error {
        match span.start.line {
            0 => error.within(self.name),
            _ => error.at(self.excerpt(span)),
        }
    }

    /// The last `word` before `at`, for clauses of which the parser keeps only what follows their first word.
    pub(super) fn word_before(&self, word: &str, at: Location) -> Location {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let lines: Vec<&str> = self.sql.lines().take(number(at.line)).collect();
        for (index, line) in lines.iter().enumerate().rev() {
            let mut text: Vec<char> = line.chars().map(|c| c.to_ascii_uppercase()).collect();
            if index + 1 == number(at.line) {
                text.truncate(number(at.column).saturating_sub(1));
            }
            let word: Vec<char> = word.chars().collect();
            let inside = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || *c == '_');
            let whole = |start: &usize| {
                text[*start..].starts_with(&word)
                    && !inside(start.checked_sub(1).and_then(|before| text.get(before)))
                    && !inside(text.get(*start + word.len()))
            };
            if let Some(start) = (0..text.len()).rev().find(whole) {
                return Location::new(index as u64 + 1, start as u64 + 1);
            }
        }
        at
    }

    /// What the parser says, at its place or at `end`, where the statement ends.
    pub(super) fn parser_error(&self, error: ParserError, end: Location) -> Error {
        let text = match error {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".into(),
        };
        let (text, at) = match text.rsplit_once(" at Line: ") {
            Some((text, place)) => (text.to_owned(), parse_location(place)),
            None => (text, None),
        };
        let expected = text.strip_prefix("Expected: ").and_then(|rest| rest.split_once(", found: "));
        let text =
            match expected.map(|(expected, found)| (if expected == ")" { "',' or ')'" } else { expected }, found)) {
                Some((expected, "EOF")) => format!("expected {expected}, but the statement ends here"),
                Some((expected, found)) => format!("expected {expected}, found {found}"),
                None => lower_first(&text),
            };
        self.error_at(Error::invalid(text), at.unwrap_or(end))
    }

    /// What the tokenizer says, at its place.
    pub(super) fn tokenizer_error(&self, error: &TokenizerError) -> Error {
        let ours = match error.message.as_str() {
            "Unterminated string literal" => Error::invalid("this text has no end")
                .help("add the ' that ends it; a ' inside of a text is written twice"),
            "Unexpected EOF while in a multi-line comment" => {
                Error::invalid("a comment is not closed").help("add */ at its end")
            }
            message => Error::invalid(lower_first(message)),
        };
        self.error_at(ours, error.location)
    }

    /// What DataFusion says of a statement: at the place that it knows, else `otherwise`.
    pub(super) fn datafusion_error(&self, error: DataFusionError, otherwise: Span) -> Error {
        let span = known_span(&error).unwrap_or(otherwise);
        let ours = find_ours(&error).unwrap_or_else(|| {
            let (text, help) = say(&error);
            let quoted = self.excerpt(Span::new(span.start, span.start)).quoted();
            let help = match (quoted, help) {
                (Some(text), Some(help)) if !help.starts_with("did you mean") => {
                    Some(format!("text stands in single quotes: '{text}'; in double quotes there is a name"))
                }
                (_, help) => help,
            };
            match help {
                Some(help) => Error::invalid(text).help(help),
                None => Error::invalid(text),
            }
        });
        self.error_over(ours, span)
    }
}

/// The place that DataFusion knows.
pub(super) fn known_span(error: &DataFusionError) -> Option<Span> {
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span)?;
    let location = |place: datafusion_common::Location| Location::new(place.line, place.column);
    Some(Span::new(location(span.start), location(span.end))).filter(|span| span.start.line > 0)
}

/// How many characters the word, the quoted text or the sign at character `start` of `line` has.
fn word_length(line: &str, start: usize) -> usize {
    let mut rest = line.chars().skip(start);
    let inside = |c: &char| c.is_alphanumeric() || *c == '_';
    match rest.next() {
        Some(quote @ ('\'' | '"')) => {
            let inner = rest.clone().take_while(|c| *c != quote).count();
            // without its end it goes on in another line
            if rest.nth(inner).is_some() { inner + 2 } else { 1 }
        }
        Some(first) if inside(&first) => 1 + rest.take_while(inside).count(),
        _ => 1,
    }
}

/// Our own error, sent through a DataFusion hook.
pub(super) fn through(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn find_ours(error: &DataFusionError) -> Option<Error> {
    match error.find_root() {
        DataFusionError::External(inner) => inner.downcast_ref::<Error>().cloned(),
        _ => None,
    }
}

/// The `3, Column: 7` of a parser's message.
fn parse_location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?))
}
