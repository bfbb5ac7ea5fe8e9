//! How far a sink that is written exactly once has come, as the cluster knows it: markers in a topic beside the one that is written.
//!
//! Each transaction ends with a marker of its shard. So once a producer has taken over a shard's transactional id, nothing of
//! its predecessor is open, and the shard's last committed marker says what is published. Shard `s` has its markers in
//! partition `s` modulo their number; if the topic has got more since, those that were written before are found where they are.
//!
//! What is read ends at the *high watermark*, aborted and open records included: until the last stable offset has come so far,
//! another's open transaction may hide a marker that is committed.

use super::client::{Line, Watch, not_created, refused};
use super::config::Connection;
use super::consume::{PartitionQueue, Taken};
use super::create::Creation;
use super::ids::TopicId;
use super::settings::settings_of;
use super::topics::topic_name;
use crate::connector::{Context, OptionSpec, Options, Preset, ShardName, Takes};
use crate::error::{Error, Result};
use crate::time::Epoch;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

pub(super) const TOPIC: OptionSpec = OptionSpec::writing(
    "sink.progress-topic",
    Takes::Text,
    Preset::None("`highwater.PIPELINE.TABLE.progress`"),
    "to write exactly once: the topic that keeps how far that has come; compacted, created if it is missing",
);

/// The least number of partitions that a new topic has, so that more workers later have some of their own.
const PARTITIONS_MIN: usize = 8;

/// How long another's open transaction may hide markers: the broker ends it at the latest after `transaction.timeout.ms`, 60 s
/// for ours, and looks every 10 s.
const HIDDEN_WAIT: Duration = Duration::from_secs(90);

/// How long to wait before looking again for records.
const BREATH: Duration = Duration::from_millis(1);

/// What one transaction has made true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The checkpoint whose records were in it.
    pub(crate) epoch: Epoch,
    /// Which of that checkpoint's transactions it was, from 0.
    pub(crate) chunk: u64,
    /// How many of the checkpoint's records are published, with those of this transaction.
    pub(crate) rows_done: u64,
    /// True if those are all.
    pub(crate) last: bool,
    /// The id of the topic that they were written to.
    pub(crate) topic_id: TopicId,
}

impl Marker {
    /// The checkpoint that is published whole, as far as this marker knows.
    pub(crate) fn published(&self) -> Option<Epoch> {
        match self.last {
            true => Some(self.epoch),
            false => self.epoch.checked_sub(1),
        }
    }
}

/// The topic that `options` name for markers.
pub(super) fn named(options: &Options, written: &str) -> Result<Option<String>> {
    let Some(text) = options.text(&TOPIC) else { return Ok(None) };
    let name = topic_name(options, &TOPIC, text)?;
    match name == written {
        true => Err(options.wrong(&TOPIC, "it is the topic that is written").help("name another one, or none")),
        false => Ok(Some(name)),
    }
}

/// The topic for the markers of a table that names none. Where the table's name has characters that a topic's may not have,
/// what tells it from others is added.
pub(super) fn default_name(shard: &ShardName) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let mut table: String = shard.table.chars().map(allowed).take(120).collect();
    if table != shard.table {
        table = format!("{table}-{}", &blake3::hash(shard.table.as_bytes()).to_hex()[..8]);
    }
    format!("highwater.{}.{table}.progress", shard.pipeline)
}

/// The key of a shard's markers.
pub(super) fn key(shard: &ShardName) -> String {
    format!("{}/{}/{}", shard.incarnation, shard.table, shard.shard)
}

/// The topic of a sink's markers.
pub(super) struct Progress<'a> {
    pub(super) topic: &'a str,
    pub(super) connection: &'a Connection,
    pub(super) context: &'a Context,
}

impl Progress<'_> {
    /// Makes sure that the topic is there and keeps what it is told; gives the number of its partitions.
    pub(super) fn prepare<C: ClientContext>(&self, line: &Line<C>, shard: usize) -> Result<usize> {
        let partitions = PARTITIONS_MIN.max(self.context.workers).max(shard + 1);
        let creation = Creation::compacted(partitions);
        creation.create(self.topic, line, self.connection, self.context).map_err(|error| {
            error.help(format!(
                "create it with {partitions} partitions and cleanup.policy=compact, and let this user read, write and describe it"
            ))
        })?;
        let brokers = self.connection.address(self.context);
        let partitions = line.partitions(self.topic, true, &brokers, self.context)?;
        let Some(settings) = settings_of(self.topic, self.connection, self.context)? else {
            return Ok(partitions.len());
        };
        let setting = |name: &str| settings.get(name).map_or("", String::as_str);
        let forgets = setting("retention.ms") != "-1" || setting("retention.bytes") != "-1";
        if setting("cleanup.policy").split(',').any(|policy| policy.trim() == "delete") && forgets {
            return Err(Error::invalid(format!(
                "its cleanup.policy is '{}': it would forget what was published",
                setting("cleanup.policy")
            ))
            .help("set its cleanup.policy to compact"));
        }
        Ok(partitions.len())
    }

    /// The last committed marker with this key in the partition for `shard`, or else in another one. To be called when nothing that
    /// was begun under the key is open.
    pub(super) fn last_marker<C: ClientContext>(
        &self,
        line: &Line<C>,
        shard: usize,
        partitions: usize,
        key: &str,
    ) -> Result<Option<Marker>> {
        let own = shard % partitions;
        for partition in std::iter::once(own).chain((0..partitions).filter(|partition| *partition != own)) {
            let partition = i32::try_from(partition).expect("a topic has fewer partitions");
            let found = self.last_in(line, partition, key);
            if let Some(marker) = found.map_err(|error| error.within(format!("partition {partition}")))? {
                return Ok(Some(marker));
            }
        }
        Ok(None)
    }

    /// The last committed marker with this key in one partition. `line` is of a client that reads uncommitted records, too.
    fn last_in<C: ClientContext>(&self, line: &Line<C>, partition: i32, key: &str) -> Result<Option<Marker>> {
        let (topic, brokers) = (self.topic, self.connection.address(self.context));
        let ask = |wait| line.client.fetch_watermarks(topic, partition, wait);
        let (low, bound) = line.answer(&brokers, self.context, ask)?;
        if low >= bound {
            return Ok(None);
        }
        let consumer = Arc::new(self.consumer()?);
        let wrong = |reason: String| Error::internal(format!("librdkafka does not read it: {reason}"));
        let mut queue =
            PartitionQueue::new(&consumer, topic, partition).ok_or_else(|| wrong("no such partition".into()))?;
        let mut assignment = TopicPartitionList::with_capacity(1);
        let offset = assignment.add_partition_offset(topic, partition, Offset::Offset(low));
        offset.and_then(|()| consumer.assign(&assignment)).map_err(|error| wrong(error.to_string()))?;
        let (clock, mut position, mut last) = (&self.context.clock, low, None);
        let start = clock.monotonic();
        while position < bound {
            match queue.next() {
                Some(Taken::Record(record)) => {
                    position = record.offset() + 1;
                    if record.key() == Some(key.as_bytes()) {
                        let value = record.value().unwrap_or_default();
                        last = serde_json::from_slice(value).map_err(|error| {
                            let error = Error::invalid(format!("offset {}: this is no marker: {error}", position - 1));
                            error.help("let nobody else write to this topic")
                        })?;
                    }
                    continue;
                }
                Some(Taken::End { offset }) => {
                    position = position.max(offset);
                    continue;
                }
                Some(Taken::Trouble { code: code @ Code::TopicAuthorizationFailed, .. }) => return Err(refused(code)),
                Some(Taken::Trouble { code: Code::AutoOffsetReset | Code::OffsetOutOfRange, reason }) => {
                    return Err(Error::unavailable(format!("it changes while it is read: {reason}")));
                }
                Some(Taken::Trouble { .. }) => {}
                None => {
                    // a poll of so short a time would be spent spinning
                    std::thread::sleep(BREATH);
                    let _ = consumer.poll(Duration::ZERO);
                    consumer.context().check()?;
                    position = position.max(queue.position().unwrap_or(low));
                }
            }
            if clock.monotonic() - start > HIDDEN_WAIT {
                return Err(Error::unavailable(format!(
                    "it can be read up to offset {position} of {bound} only: a transaction has been open for {} s, or its broker is out of reach",
                    HIDDEN_WAIT.as_secs()
                ))
                .help("kafka-transactions.sh find-hanging shows who has it open"));
            }
        }
        Ok(last)
    }

    fn consumer(&self) -> Result<BaseConsumer<Watch>> {
        let config = self.connection.client(
            self.context,
            &[
                // `assign` wants a name, though nothing is ever committed under it
                ("group.id", "highwater"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
                ("isolation.level", "read_committed"),
                ("fetch.queue.backoff.ms", "10"),
                ("fetch.wait.max.ms", "50"),
            ],
        )?;
        config.create_with_context(self.connection.watch(self.context)).map_err(not_created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(table: &str) -> ShardName {
        ShardName { pipeline: "p".into(), incarnation: "00ff".into(), table: table.into(), shard: 3 }
    }

    #[test]
    fn names_are_topics_names_and_differ() {
        assert_eq!(default_name(&shard("counts")), "highwater.p.counts.progress");
        let names = ["größe", "grö_e", &"x".repeat(300), "a b"].map(|table| default_name(&shard(table)));
        for (at, name) in names.iter().enumerate() {
            assert!(name.len() <= 249 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
            assert!(!names[..at].contains(name));
        }
        assert_eq!(key(&shard("counts")), "00ff/counts/3");
    }

    #[test]
    fn half_a_checkpoint_is_not_published() {
        let marker = |epoch, last| Marker { epoch, chunk: 0, rows_done: 7, last, topic_id: "x".into() };
        assert_eq!(marker(5, true).published(), Some(5));
        assert_eq!(marker(5, false).published(), Some(4));
        assert_eq!(marker(0, false).published(), None);
    }
}
