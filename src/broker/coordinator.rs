//! What the broker knows and agrees on apart from records: topics, transactions, offsets and groups.
//!
//! It has one lock. Who needs a log's lock as well takes it second, so the two cannot wait for each other.

use super::fact::{Committed, Fact, Known, Place};
use super::group::Group;
use super::ledger::Ledger;
use super::protocol::{Answer, ErrorCode};
use super::topics::{self, Topics};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// Kafka's default for the metadata of a committed offset.
const METADATA_BYTES_MAX: usize = 4096;

pub struct Coordinator {
    known: Known,
    /// None when the broker keeps everything in memory.
    ledger: Option<Ledger>,
    /// The groups that have members. Not durable: after a restart members find that they are unknown, and join again.
    pub groups: BTreeMap<String, Group>,
    /// When the open transactions are aborted, by transactional id.
    pub open_until: HashMap<String, Instant>,
    /// Counts the members that ever joined, for their ids.
    pub members_joined: u64,
}

impl Coordinator {
    pub fn new(known: Known, ledger: Option<Ledger>) -> Self {
        let (groups, open_until) = Default::default();
        Coordinator { known, ledger, groups, open_until, members_joined: 0 }
    }

    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Makes `fact` true: first in the ledger, then here.
    pub fn note(&mut self, fact: Fact) -> Answer<()> {
        let Some(ledger) = &mut self.ledger else {
            self.known.apply(fact);
            return Ok(());
        };
        let written = ledger.append(&fact);
        if written.is_ok() {
            self.known.apply(fact);
        }
        // A summary that cannot be written is no reason to refuse what the ledger has taken.
        let shortened = if written.is_ok() { ledger.shorten(&self.known) } else { Ok(()) };
        if let Err(error) = written.as_ref().and(shortened.as_ref()) {
            tracing::warn!("cannot write the ledger: {error}");
        }
        written.map_err(|_| ErrorCode::StorageError)
    }

    /// Makes sure that this broker has a number of its own.
    pub fn number(&mut self) -> Answer<()> {
        match self.known.instance {
            0 => self.note(Fact::Instance { number: StdRng::from_os_rng().random_range(1..=i64::MAX) }),
            _ => Ok(()),
        }
    }

    /// What Kafka calls the topic's id: no other topic of any broker ever has it.
    pub fn topic_uuid(&self, name: &str) -> Option<[u8; 16]> {
        let (id, _) = self.known.topics.get(name)?;
        let halves = u128::from(self.known.instance.cast_unsigned()) << 64 | u128::from(id.cast_unsigned());
        Some(halves.to_be_bytes())
    }

    pub fn create_topic(&mut self, topics: &Topics, name: &str, partitions: i32) -> Answer<()> {
        self.check_new_topic(topics, name, partitions)?;
        let id = self.known.next_topic_id;
        self.note(Fact::Topic { name: name.to_owned(), id, partitions })?;
        self.open_topic(topics, name, id, partitions)
    }

    pub fn check_new_topic(&self, topics: &Topics, name: &str, partitions: i32) -> Answer<()> {
        if !topics::is_valid_name(name) {
            return Err(ErrorCode::InvalidTopic);
        }
        if self.known.topics.contains_key(name) {
            return Err(ErrorCode::TopicAlreadyExists);
        }
        check_partitions(topics, 0, partitions)
    }

    pub fn create_partitions(&mut self, topics: &Topics, name: &str, partitions: i32) -> Answer<()> {
        let id = self.check_new_partitions(topics, name, partitions)?;
        self.note(Fact::Topic { name: name.to_owned(), id, partitions })?;
        self.open_topic(topics, name, id, partitions)
    }

    /// Checks that a topic can grow to `partitions`; gives its id.
    pub fn check_new_partitions(&self, topics: &Topics, name: &str, partitions: i32) -> Answer<i64> {
        let (id, now) = *self.known.topics.get(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        check_partitions(topics, now, partitions)?;
        Ok(id)
    }

    fn open_topic(&self, topics: &Topics, name: &str, id: i64, partitions: i32) -> Answer<()> {
        topics.extend(name, id, partitions as usize).map_err(|error| {
            tracing::warn!("{error}");
            ErrorCode::StorageError
        })
    }

    pub fn delete_topic(&mut self, topics: &Topics, name: &str) -> Answer<()> {
        if !self.known.topics.contains_key(name) {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        self.note(Fact::TopicDeleted { name: name.to_owned() })?;
        topics.remove(name);
        Ok(())
    }

    /// Whether an offset can be committed for this place.
    pub fn check_offset(&self, place: &Place, committed: &Committed) -> Answer<()> {
        if !self.known.topics.get(&place.topic).is_some_and(|(_, count)| (0..*count).contains(&place.partition)) {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        if committed.metadata.len() > METADATA_BYTES_MAX {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        Ok(())
    }

    /// Whether an open transaction may yet change the group's offset here.
    pub fn is_unstable(&self, group: &str, place: &Place) -> bool {
        let key = (group.to_owned(), place.clone());
        self.known.transactions.values().any(|transaction| transaction.pending.contains_key(&key))
    }
}

fn check_partitions(topics: &Topics, now: i32, wanted: i32) -> Answer<()> {
    let is_more = wanted > now && (wanted - now) as usize + topics.partition_count() <= topics::PARTITIONS_MAX;
    if is_more { Ok(()) } else { Err(ErrorCode::InvalidPartitions) }
}
