//! Which topics a table is over: some by name, or all whose name fits a pattern, those to come included.

use super::client::Line;
use crate::connector::{Context, OptionSpec, Options, Preset, Takes};
use crate::error::{Error, Result};
use rdkafka::client::ClientContext;
use regex::Regex;
use std::time::Duration;

// not `Required`: a table that is read may have a pattern instead
pub(super) const TOPIC: OptionSpec = OptionSpec::both(
    "topic",
    Takes::Text,
    Preset::None(""),
    "which topic; to read, several with `;` between them; to write, it must exist, unless `topic.create` or the broker makes it",
);

pub(super) const PATTERN: OptionSpec = OptionSpec::reading(
    "topic-pattern",
    Takes::Form("a regular expression"),
    Preset::None(""),
    "instead of `topic`: every topic whose whole name fits this regular expression; internal ones, `__…`, only if it starts so",
);

pub(super) const DISCOVERY: OptionSpec = OptionSpec::reading(
    "scan.topic-partition-discovery.interval",
    Takes::DurationOrOff,
    Preset::Is("5 min"),
    "how often to look for new partitions and topics, which are read from their beginning; or `off`. A table with an end does not look",
);

/// The topics that are read.
#[derive(Debug, Clone)]
pub(super) enum Topics {
    /// These.
    Named(Vec<String>),
    /// Those whose name the pattern fits, from beginning to end, and whether it may be an internal one.
    Matching { pattern: Regex, text: String },
}

impl Topics {
    pub(super) fn read(options: &Options) -> Result<Self> {
        match (options.text(&TOPIC), options.text(&PATTERN)) {
            (Some(_), Some(_)) => Err(options.wrong(&PATTERN, "the topic is given, too").help("leave one of them out")),
            (None, None) => Err(options.required(&TOPIC).err().unwrap_or_else(|| Error::internal("no topic"))),
            (Some(names), None) => {
                let names: Vec<String> =
                    names.split(';').map(|name| topic_name(options, &TOPIC, name)).collect::<Result<_>>()?;
                match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
                    Some((_, name)) => Err(options.wrong(&TOPIC, format!("\"{name}\" is given twice"))),
                    None => Ok(Topics::Named(names)),
                }
            }
            (None, Some(text)) => match Regex::new(&format!("^(?:{text})$")) {
                Ok(pattern) => Ok(Topics::Matching { pattern, text: text.to_owned() }),
                Err(error) => {
                    let reason = error.to_string();
                    let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    Err(options.wrong(&PATTERN, format!("'{text}' is no regular expression: {last}")))
                }
            },
        }
    }

    /// The only topic, if it can be no other.
    pub(super) fn only(&self) -> Option<&str> {
        match self {
            Topics::Named(names) if names.len() == 1 => names.first().map(String::as_str),
            _ => None,
        }
    }

    /// The topics that there are now, in order.
    pub(super) fn now<C: ClientContext>(
        &self,
        line: &Line<C>,
        brokers: &str,
        context: &Context,
    ) -> Result<Vec<String>> {
        let (pattern, text) = match self {
            Topics::Named(names) => return Ok(names.clone()),
            Topics::Matching { pattern, text } => (pattern, text),
        };
        let metadata = line.answer(brokers, context, |wait| line.client.fetch_metadata(None, wait))?;
        let internal = text.starts_with("__");
        let fits = |name: &&str| pattern.is_match(name) && (internal || !name.starts_with("__"));
        let mut names: Vec<String> =
            metadata.topics().iter().map(|topic| topic.name()).filter(fits).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The error for a pattern that fits no topic, where none is waited for.
    pub(super) fn none(&self, brokers: &str) -> Error {
        let text = match self {
            Topics::Named(names) => names.join(";"),
            Topics::Matching { text, .. } => text.clone(),
        };
        Error::invalid(format!("no topic at {brokers} fits the pattern '{text}'"))
            .help("correct 'topic-pattern', which has to fit the whole name, or create a topic")
    }
}

/// How often to look for more, if `bounded` does not say that what is there is all.
pub(super) fn discovery_interval(options: &Options, bounded: bool) -> Result<Option<Duration>> {
    let interval = options.duration_or_off(&DISCOVERY)?;
    if interval.is_some_and(|interval| interval.is_zero()) {
        return Err(options.wrong(&DISCOVERY, "it cannot be zero").help("write 'off' not to look"));
    }
    Ok(interval.filter(|_| !bounded))
}

/// The name of a topic, which Kafka restricts.
pub(super) fn topic_name(options: &Options, option: &OptionSpec, text: &str) -> Result<String> {
    let name = text.trim();
    let fits =
        (1..=249).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match fits && name != "." && name != ".." {
        true => Ok(name.to_owned()),
        false => Err(options
            .wrong(option, format!("'{name}' is not a topic's name"))
            .help("letters, digits, '.', '_' and '-', at most 249")),
    }
}
