//! Where in the text something stands: every error of this room names it and shows the line.

use super::phrase::{At, Phrase};
use crate::error::{Error, Excerpt};
use datafusion_common::DataFusionError;
use datafusion_common::SchemaError;
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

    /// The place that `span` starts at, with its line; what goes on in another line is left out.
    pub(super) fn excerpt(&self, span: Span) -> Excerpt {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let Span { start, end } = span;
        let line = self.sql.lines().nth(number(start.line).saturating_sub(1)).unwrap_or_default();
        let rest = (line.chars().count() + 1).saturating_sub(number(start.column));
        let length = match end.line == start.line {
            true => number(end.column.saturating_sub(start.column)).min(rest),
            false => rest,
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

    /// `error` at `at`.
    pub(super) fn error_at(&self, error: Error, at: Location) -> Error {
        match at.line {
            0 => error.within(self.name),
            _ => error.at(self.excerpt(Span::new(at, at))),
        }
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
        let text = match text.strip_prefix("Expected: ").and_then(|rest| rest.split_once(", found: ")) {
            Some((expected, "EOF")) => format!("expected {expected}, but the statement ends here"),
            Some((expected, found)) => format!("expected {expected}, found {found}"),
            None => lower_first(&text),
        };
        self.error_at(Error::invalid(text), at.unwrap_or(end))
    }

    /// What the tokenizer says, at its place.
    pub(super) fn tokenizer_error(&self, error: TokenizerError) -> Error {
        self.error_at(Error::invalid(lower_first(&error.message)), error.location)
    }

    /// What DataFusion says of a statement: at the place that it knows, else at `start`, where the statement starts.
    pub(super) fn datafusion_error(&self, error: DataFusionError, start: Location) -> Error {
        if let Some(ours) = find_ours(&error) {
            return match error.diagnostic().and_then(|d| d.span) {
                Some(span) => self.error_at(ours, Location::new(span.start.line, span.start.column)),
                None => self.error_at(ours, start),
            };
        }
        let at = error.diagnostic().and_then(|d| d.span).map(|span| Location::new(span.start.line, span.start.column));
        let (text, help) = say(&error);
        let ours = match help {
            Some(help) => Error::invalid(text).help(help),
            None => Error::invalid(text),
        };
        self.error_at(ours, at.unwrap_or(start))
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

/// DataFusion's sentence in our manner, with advice if it has some.
fn say(error: &DataFusionError) -> (String, Option<String>) {
    match error.find_root() {
        DataFusionError::SchemaError(schema_error, _) => match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let names: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
                let help = match crate::error::nearest(field.name(), names.iter().copied()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None if names.is_empty() => "no columns are in reach here".into(),
                    None => format!("the columns here are {}", names.join(", ")),
                };
                (format!("unknown column '{}'", field.flat_name()), Some(help))
            }
            SchemaError::AmbiguousReference { field } => (
                format!("column '{}' is ambiguous", field.name()),
                Some("put the table's name or alias before it".into()),
            ),
            other => (lower_first(&other.to_string()), None),
        },
        root => {
            let text = root.strip_backtrace();
            let text =
                text.split_once(": ").filter(|(kind, _)| kind.contains("rror")).map_or(text.as_str(), |(_, rest)| rest);
            let text = text.trim().trim_end_matches('.');
            // Some messages list every candidate below the first line.
            let (first, rest) = text.split_once('\n').map_or((text, ""), |(first, rest)| (first.trim(), rest.trim()));
            let text = lower_first(first.trim_end_matches('.'));
            (text, (!rest.is_empty()).then(|| rest.to_owned()))
        }
    }
}

/// `text` with a small first letter, unless its first word is an acronym or a name.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// The `3, Column: 7` of a parser's message.
fn parse_location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?))
}
