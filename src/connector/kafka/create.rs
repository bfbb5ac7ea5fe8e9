//! Topics that are created because a table asks for it.

use super::client::{Line, refused};
use super::config::Connection;
use super::settings::{admin, patience};
use crate::connector::{Context, OptionSpec, Options, Preset, Secret, Takes};
use crate::error::{Error, Result};
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::info;

pub(super) const CREATE: OptionSpec =
    OptionSpec::writing("topic.create", Takes::Flag, Preset::Is("false"), "whether a missing topic is created");

pub(super) const PARTITIONS: OptionSpec = OptionSpec::writing(
    "topic.partitions",
    Takes::Whole(1, 100_000),
    Preset::None("the cluster's"),
    "with `topic.create`: how many partitions a new topic has",
);

pub(super) const REPLICATION: OptionSpec = OptionSpec::writing(
    "topic.replication-factor",
    Takes::Whole(1, i16::MAX as i128),
    Preset::None("the cluster's"),
    "with `topic.create`: how many brokers keep a copy of a new topic",
);

pub(super) const CONFIG: OptionSpec = OptionSpec::writing(
    "topic.config.*",
    Takes::Text,
    Preset::None("the cluster's"),
    "with `topic.create`: a new topic's settings, such as `topic.config.retention.ms` and `topic.config.cleanup.policy`",
);

/// What a new topic is like; -1 is the cluster's own choice.
pub(super) struct Creation {
    partitions: i32,
    replication: i32,
    config: Vec<(String, Secret)>,
}

impl Creation {
    /// What `options` say, if they ask for it.
    pub(super) fn read(options: &Options) -> Result<Option<Self>> {
        if !options.flag(&CREATE)? {
            return Ok(None);
        }
        let partitions = options.if_given(&PARTITIONS, Options::whole)?.unwrap_or(-1);
        let replication = options.if_given(&REPLICATION, Options::whole)?.unwrap_or(-1);
        let config = options.each(&CONFIG).map(|(name, option)| (name.to_owned(), Secret::new(&option.text))).collect();
        Ok(Some(Creation { partitions, replication, config }))
    }

    /// A topic that keeps the newest record of each key, with so many partitions.
    pub(super) fn compacted(partitions: usize) -> Self {
        let setting = |(name, value): (&str, &str)| (name.to_owned(), Secret::new(value));
        // small segments, since the one that is written is not compacted and a reader has to read all of it
        let config = [("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("segment.ms", "86400000")];
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        Creation { partitions, replication: -1, config: config.map(setting).into() }
    }

    /// Creates `topic` unless it is there; another worker may be quicker.
    pub(super) fn create<C: ClientContext>(
        &self,
        topic: &str,
        line: &Line<C>,
        connection: &Connection,
        context: &Context,
    ) -> Result<()> {
        // asking for one topic alone might create it, as the broker likes
        let brokers = connection.address(context);
        let metadata = line.answer(&brokers, context, |wait| line.client.fetch_metadata(None, wait))?;
        if metadata.topics().iter().any(|there| there.name() == topic) {
            return Ok(());
        }
        let admin = admin(connection, context)?;
        let new = NewTopic::new(topic, self.partitions, TopicReplication::Fixed(self.replication));
        let config: Vec<(&str, String)> =
            self.config.iter().map(|(name, value)| Ok((name.as_str(), value.reveal()?))).collect::<Result<_>>()?;
        let new = config.iter().fold(new, |new, (name, value)| new.set(name, value));
        let answer = futures_executor::block_on(admin.create_topics([&new], &patience()));
        let unanswered = |error| Error::unavailable(format!("{brokers} did not create the topic")).caused_by(error);
        match answer.map_err(unanswered)?.pop() {
            Some(Ok(_)) => info!(topic, "kafka: created"),
            None | Some(Err((_, Code::TopicAlreadyExists))) => {}
            Some(Err((_, code @ Code::TopicAuthorizationFailed))) => return Err(refused(code)),
            Some(Err((_, code))) => {
                return Err(Error::invalid(format!("it cannot be created: {code}"))
                    .help("check 'topic.partitions', 'topic.replication-factor' and 'topic.config.…'"));
            }
        }
        Ok(())
    }
}
