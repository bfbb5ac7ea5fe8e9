//! What went wrong, where, and what the caller should do next.
//!
//! An [`Error`] is one sentence about the cause, the places it passed on its way up (outermost first when
//! printed), and a [`ErrorKind`] that says what to do. Text is lower case and has no full stop, so that places
//! and cause read as one line: `sink "counts": topic "counts", partition 3: message too large`. An error about a text has an
//! [`Excerpt`] of it, and may bring other mistakes along; [`report`] shows all of it.

mod report;

pub use report::report;

use std::fmt;
use std::sync::Arc;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do next. A kind is added only when a caller would act differently.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The definition or the call is wrong. Fix it; a retry fails the same way.
    Invalid,
    /// The input holds something that the definition does not allow. Fix the data or the definition.
    Data,
    /// An outside service, file or peer did not answer. Look at it, then start again.
    Unavailable,
    /// Stored bytes are not what was written. Stop, and overwrite nothing.
    Corrupt,
    /// A newer run owns this pipeline, or a peer is not who it should be. Leave.
    Fenced,
    /// A bug in Highwater.
    Internal,
}

/// A place in a text, and the line that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The name of the file.
    pub file: String,
    /// Which line, from 1.
    pub line: usize,
    /// Where in the line the place starts, in characters from 1.
    pub column: usize,
    /// How many characters it has, at least 1.
    pub length: usize,
    /// The line.
    pub text: String,
}

impl Excerpt {
    /// What stands between double quotes at the place, if it has them.
    pub fn quoted(&self) -> Option<String> {
        let place: String = self.text.chars().skip(self.column - 1).take(self.length).collect();
        Some(place.strip_prefix('"')?.strip_suffix('"')?.to_owned())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A cause with the places it happened in.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
    /// Innermost first: each room that the error crosses pushes one.
    places: Vec<String>,
    excerpt: Option<Box<Excerpt>>,
    help: Option<Box<str>>,
    /// Other mistakes in the same text.
    also: Box<[Error]>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into().into(),
            places: Vec::new(),
            excerpt: None,
            help: None,
            also: Box::default(),
            source: None,
        }
    }

    /// The definition or the call is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// The input holds something that the definition does not allow.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// An outside service, file or peer did not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Stored bytes are not what was written, or are gone.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A bug in Highwater: something that the code rules out has happened.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds the place that the error passes: `step "count"`, `topic "words", partition 2, offset 17`.
    pub fn within(mut self, place: impl Into<String>) -> Self {
        self.places.push(place.into());
        self
    }

    /// Puts what the message is about before it: `option 'rows'`.
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message).into();
        self
    }

    /// Adds the place in a text that the error is about.
    pub fn at(mut self, excerpt: Excerpt) -> Self {
        self.places.push(excerpt.to_string());
        self.excerpt.get_or_insert_with(|| Box::new(excerpt));
        self
    }

    /// Says what to do about it, on a line of its own.
    pub fn help(mut self, advice: impl Into<String>) -> Self {
        self.help = Some(advice.into().into());
        self
    }

    /// All of `errors` as one, in the order in which they stand in the text; each of them once. None if there are none.
    pub fn join(errors: Vec<Error>) -> Option<Self> {
        let apart = |mut error: Error| {
            let also = std::mem::take(&mut error.also);
            std::iter::once(error).chain(also)
        };
        let mut all: Vec<Error> = errors.into_iter().flat_map(apart).collect();
        all.sort_by_key(|error| error.excerpt().map_or((usize::MAX, 0), |place| (place.line, place.column)));
        all.dedup_by(|one, other| one.excerpt == other.excerpt && one.message == other.message);
        let mut all = all.into_iter();
        let mut first = all.next()?;
        first.also = all.collect();
        Some(first)
    }

    /// This mistake and the others in the same text.
    pub fn each(&self) -> impl Iterator<Item = &Error> {
        std::iter::once(self).chain(&self.also)
    }

    /// What is said beside the excerpt: the message and the places before it that the excerpt does not say.
    fn title(&self) -> String {
        let shown = self.excerpt().map(Excerpt::to_string);
        let mut title = String::new();
        for place in self.places.iter().rev().filter(|place| Some(*place) != shown.as_ref()) {
            title.push_str(&format!("{place}: "));
        }
        title + &self.message
    }

    /// True if `other` says the same, wherever it is.
    pub fn says_like(&self, other: &Error) -> bool {
        self.message == other.message
    }

    /// What it says, without the places.
    pub fn said(&self) -> &str {
        &self.message
    }

    /// Keeps the cause that another library gave.
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What the caller should do next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The outermost place that the error has passed, if any.
    pub fn place(&self) -> Option<&str> {
        self.places.last().map(String::as_str)
    }

    /// The same error, if the text that it is about is written down elsewhere: `place` takes the place of the excerpt's.
    pub fn moved_to(mut self, place: &str) -> Self {
        if let Some(excerpt) = &self.excerpt {
            let before = excerpt.to_string();
            self.places.iter_mut().filter(|known| **known == before).for_each(|known| *known = place.to_owned());
        }
        self
    }

    /// The place in a text that the error is about, if it is about one.
    pub fn excerpt(&self) -> Option<&Excerpt> {
        self.excerpt.as_deref()
    }

    /// The advice, if there is one.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.places.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The candidate that is most like `name`, for "did you mean"; none when nothing is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count().min(name.chars().count()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_printed_outermost_first() {
        let error = Error::data("not a number").within("line 3").within("file \"in.csv\"");
        assert_eq!(error.to_string(), "file \"in.csv\": line 3: not a number");
    }

    #[test]
    fn the_nearest_name_is_found_or_nothing_is_said() {
        assert_eq!(nearest("topc", ["topic", "format"]), Some("topic"));
        assert_eq!(nearest("zzz", ["topic", "format"]), None);
    }
}
