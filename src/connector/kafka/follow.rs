//! Committing to a consumer group how far checkpoints have read: for tools that show lag. Nothing is ever read from it.
//!
//! The group has no members. A group of the same name that has some, an application's, refuses the offsets, which is as it should be.

use super::client::{Watch, not_created};
use super::config::Connection;
use super::source::Share;
use crate::connector::{Context, Follower, OptionSpec, Preset, SplitStart, Takes};
use crate::error::{Error, Result};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

pub(super) const COMMIT: OptionSpec = OptionSpec::reading(
    "scan.commit-offsets",
    Takes::Flag,
    Preset::Is("true"),
    "whether checkpoints commit their offsets to a consumer group, `properties.group.id` or else `highwater.<pipeline>.<table>`, for tools that show lag; nothing is read from it",
);

/// Commits under one group.
pub(super) struct GroupFollower {
    pub(super) connection: Connection,
    pub(super) group: String,
    pub(super) consumer: Option<BaseConsumer<Watch>>,
}

impl GroupFollower {
    fn consumer(&mut self, context: &Context) -> Result<&BaseConsumer<Watch>> {
        if self.consumer.is_none() {
            let config = self.connection.client(
                context,
                &[
                    ("group.id", &self.group),
                    ("enable.auto.commit", "false"),
                    ("enable.auto.offset.store", "false"),
                    // how long a coordinator is waited for
                    ("session.timeout.ms", "6000"),
                    ("socket.timeout.ms", "6000"),
                    ("statistics.interval.ms", "0"),
                ],
            )?;
            self.consumer = Some(config.create_with_context(self.connection.watch(context)).map_err(not_created)?);
        }
        Ok(self.consumer.as_ref().expect("it was made if there was none"))
    }
}

impl Follower for GroupFollower {
    fn committed(&mut self, splits: &[SplitStart], context: &Context) -> Result<()> {
        let mut offsets = TopicPartitionList::with_capacity(splits.len());
        for split in splits {
            let (share, Some(position)) = (Share::named(&split.name)?, split.position) else { continue };
            let offset = i64::try_from(position).map_err(|_| Error::internal("an offset that Kafka cannot have"))?;
            let added = offsets.add_partition_offset(&share.topic, share.partition, Offset::Offset(offset));
            added.map_err(|error| Error::internal(error.to_string()).within(share.place()))?;
        }
        if offsets.count() == 0 {
            return Ok(());
        }
        let group = format!("consumer group \"{}\"", self.group);
        let brokers = self.connection.address(context);
        let consumer = self.consumer(context)?;
        // a token may be asked for before anything else
        (0..32).for_each(|_| drop(consumer.poll(Duration::ZERO)));
        let committed = consumer.commit(&offsets, CommitMode::Sync);
        (0..32).for_each(|_| drop(consumer.poll(Duration::ZERO)));
        let Err(error) = committed else { return Ok(()) };
        let told = Error::unavailable(format!("offsets are not committed: {error}")).within(brokers).within(group);
        Err(match error.rdkafka_error_code() {
            Some(Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed) => {
                told.help("let this user Read the group and the topic (ACLs at the broker), or say 'scan.commit-offsets' = 'false'")
            }
            Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress) => {
                told.help("the group has members; give another 'properties.group.id', or say 'scan.commit-offsets' = 'false'")
            }
            _ => told,
        }
        .caused_by(error))
    }
}
