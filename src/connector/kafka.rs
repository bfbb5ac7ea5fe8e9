//! Kafka topics as tables, through librdkafka.
//!
//! Reading never joins a consumer group: worker 0 looks up every partition with the offsets at which to start and to end,
//! the runtime deals them out, and each worker assigns its share to one consumer. So a split is a pure function of its
//! name, and nothing rebalances. Writing chooses the partition of each record here and hands records over grouped by it.
//!
//! ```text
//! source: topics ─ config ─▶ shares {topic, partition, start, end} ─ consume ─▶ payloads ─ format ─▶ rows
//! sink:   rows ─ format ─▶ keys, values ─ partitioner ─▶ runs of one partition ─▶ librdkafka ─▶ delivery reports
//! ```
//! What a broker says goes one of two ways: what may pass (a connection, an election) is waited out and logged when it begins
//! and ends; what will not (a wrong password, a topic that is gone, records that were deleted) is an error with its place.

pub(crate) mod client;
mod config;
pub(crate) mod consume;
mod partitioner;
mod sink;
mod source;

pub use sink::KafkaSink;
pub use source::KafkaSource;

use crate::connector::{OptionSpec, Options, Preset, Takes};
use crate::error::Result;
use crate::format::Format;

const TOPIC: OptionSpec = OptionSpec::both(
    "topic",
    Takes::Text,
    Preset::Required,
    "which topic; to read, several with `;` between them; to write, it must exist, unless the broker creates topics on demand",
);

/// What this connector takes, beside its formats.
pub const OPTIONS: &[&OptionSpec] = &[
    &TOPIC,
    &config::BOOTSTRAP,
    &source::STARTUP_MODE,
    &source::STARTUP_TIMESTAMP,
    &source::STARTUP_OFFSETS,
    &source::BOUNDED_MODE,
    &source::BOUNDED_TIMESTAMP,
    &source::BOUNDED_OFFSETS,
    &sink::KEY_FIELDS,
    &sink::PARTITIONER,
    &sink::COMPRESSION,
    &config::PROPERTIES,
];

/// How values are written: `format`, or `value.format` where the key has one too.
fn value_format(options: &Options) -> Result<Format> {
    options.format(if options.has_format("value.") { "value." } else { "" })
}

/// The name of a topic, which Kafka restricts.
fn topic_name(options: &Options, text: &str) -> Result<String> {
    let name = text.trim();
    let fits =
        (1..=249).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match fits && name != "." && name != ".." {
        true => Ok(name.to_owned()),
        false => Err(options
            .wrong(&TOPIC, format!("'{name}' is not a topic's name"))
            .help("letters, digits, '.', '_' and '-', at most 249")),
    }
}
