//! Kafka topics as tables, through librdkafka.
//!
//! Reading never joins a consumer group, though checkpoints may commit to one for people to see: worker 0 looks up every partition with the offsets at which to start and to end,
//! the runtime deals them out, and each worker assigns its share to one consumer. So a split is a pure function of its
//! name, and nothing rebalances. Writing chooses the partition of each record here and hands records over grouped by it.
//!
//! ```text
//! source: topics ─ config ─▶ shares {topic, partition, start, end} ─ consume ─▶ records ─ formats ─▶ rows
//! sink:   rows ─ formats ─▶ keys, values, headers ─ partitioner ─▶ runs of one partition ─▶ librdkafka ─▶ delivery reports
//! ```
//! What a broker says goes one of two ways: what may pass (a connection, an election) is waited out and logged when it begins
//! and ends; what will not (a wrong password, a topic that is gone, records that were deleted) is an error with its place.

pub(crate) mod client;
mod config;
pub(crate) mod consume;
mod create;
mod follow;
mod ids;
mod metadata;
mod oauth;
mod partitioner;
pub(crate) mod progress;
mod publish;
mod record;
mod resume;
mod settings;
mod sink;
pub(crate) mod source;
pub(crate) mod staged;
mod topics;

pub use metadata::METADATA;
pub use sink::KafkaSink;
pub use source::KafkaSource;

use crate::connector::OptionSpec;

/// What this connector takes, beside its formats.
pub const OPTIONS: &[&OptionSpec] = &[
    &topics::TOPIC,
    &topics::PATTERN,
    &topics::DISCOVERY,
    &config::BOOTSTRAP,
    &source::STARTUP_MODE,
    &source::STARTUP_TIMESTAMP,
    &source::STARTUP_OFFSETS,
    &source::BOUNDED_MODE,
    &source::BOUNDED_TIMESTAMP,
    &source::BOUNDED_OFFSETS,
    &follow::COMMIT,
    &record::KEY_FIELDS,
    &record::KEY_PREFIX,
    &record::VALUE_INCLUDE,
    &record::CHANGELOG,
    &sink::PARTITIONER,
    &sink::COMPRESSION,
    &progress::TOPIC,
    &publish::BYTES,
    &create::CREATE,
    &create::PARTITIONS,
    &create::REPLICATION,
    &create::CONFIG,
    &config::PROPERTIES,
];
