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

use crate::connector::Options;
use crate::error::Result;
use crate::format::Format;

/// What a definition may say for the sake of its other side: one that is both read and written has options for both.
const OPTIONS: [&str; 10] = [
    "scan.startup.mode",
    "scan.startup.timestamp-millis",
    "scan.startup.specific-offsets",
    "scan.bounded.mode",
    "scan.bounded.timestamp-millis",
    "scan.bounded.specific-offsets",
    "key.fields",
    "key.format",
    "sink.partitioner",
    "sink.compression",
];

/// Lets the other side's options stand.
fn know_both_sides(options: &Options) -> Result<()> {
    for name in OPTIONS {
        options.text(name);
    }
    if options.text("key.format").is_some() {
        options.format("key.")?;
    }
    Ok(())
}

/// How values are written: `format`, or `value.format` where the key has one too.
fn value_format(options: &Options) -> Result<Format> {
    options.format(if options.text("value.format").is_some() { "value." } else { "" })
}

/// The name of a topic, which Kafka restricts.
fn topic_name(options: &Options, text: &str) -> Result<String> {
    let name = text.trim();
    let fits =
        (1..=249).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match fits && name != "." && name != ".." {
        true => Ok(name.to_owned()),
        false => Err(options
            .wrong("topic", format!("'{name}' is not a topic's name"))
            .help("letters, digits, '.', '_' and '-', at most 249")),
    }
}
