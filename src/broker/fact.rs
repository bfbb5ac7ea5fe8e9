//! What the broker must still know after a restart, apart from records: facts, and what they add up to.
//!
//! [`Known`] changes only by [`Known::apply`], and every fact that is applied was written to the ledger before.
//! So the facts, applied again in their order, give the same `Known`; and [`Known::facts`] are a shorter way to it.

use super::topics::PARTITIONS_MAX;
use super::wire::{Hangup, Read, Reader, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// A partition by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
}

/// How far a consumer group has come in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub metadata: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Numbers below these may have been given away.
    Numbers {
        next_topic_id: i64,
        next_producer_id: i64,
    },
    /// A number that tells this broker's topics from those of any other: half of their ids.
    Instance {
        number: i64,
    },
    /// A topic was made, or got more partitions.
    Topic {
        name: String,
        id: i64,
        partitions: i32,
    },
    TopicDeleted {
        name: String,
    },
    /// A transactional producer began a new epoch.
    Producer {
        transactional_id: String,
        producer_id: i64,
        epoch: i16,
        timeout_ms: i32,
    },
    /// The open transaction includes these partitions.
    Touched {
        transactional_id: String,
        places: Vec<Place>,
    },
    /// The open transaction will commit offsets of this group.
    Joined {
        transactional_id: String,
        group: String,
    },
    /// Offsets that count when the open transaction commits.
    Pending {
        transactional_id: String,
        group: String,
        offsets: Vec<(Place, Committed)>,
    },
    /// The open transaction ended. Its markers may still be missing from the logs.
    Ended {
        transactional_id: String,
        epoch: i16,
        commit: bool,
    },
    Offsets {
        group: String,
        offsets: Vec<(Place, Committed)>,
    },
    GroupDeleted {
        group: String,
    },
}

/// A transactional producer and the transaction that it has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub producer_id: i64,
    pub epoch: i16,
    pub timeout_ms: i32,
    pub places: BTreeSet<Place>,
    pub groups: BTreeSet<String>,
    pub pending: BTreeMap<(String, Place), Committed>,
    /// Whether the last transaction of this epoch committed, if one has ended.
    pub last_commit: Option<bool>,
}

impl Transaction {
    pub fn is_open(&self) -> bool {
        !self.places.is_empty() || !self.groups.is_empty()
    }
}

/// What the facts add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// 0 before the first start.
    pub instance: i64,
    pub next_topic_id: i64,
    pub next_producer_id: i64,
    /// Id and number of partitions by name.
    pub topics: BTreeMap<String, (i64, i32)>,
    pub transactions: BTreeMap<String, Transaction>,
    pub offsets: BTreeMap<String, BTreeMap<Place, Committed>>,
}

impl Known {
    pub fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Numbers { next_topic_id, next_producer_id } => {
                self.next_topic_id = self.next_topic_id.max(next_topic_id);
                self.next_producer_id = self.next_producer_id.max(next_producer_id);
            }
            Fact::Instance { number } => self.instance = number,
            Fact::Topic { name, id, partitions } => {
                self.next_topic_id = self.next_topic_id.max(id + 1);
                self.topics.insert(name, (id, partitions));
            }
            Fact::TopicDeleted { name } => {
                self.topics.remove(&name);
                for transaction in self.transactions.values_mut() {
                    // Its places stay: a transaction is open until it ends, even when nothing is left of it.
                    transaction.pending.retain(|(_, place), _| place.topic != name);
                }
                for offsets in self.offsets.values_mut() {
                    offsets.retain(|place, _| place.topic != name);
                }
            }
            Fact::Producer { transactional_id, producer_id, epoch, timeout_ms } => {
                self.next_producer_id = self.next_producer_id.max(producer_id + 1);
                let (places, groups, pending) = Default::default();
                let begun = Transaction { producer_id, epoch, timeout_ms, places, groups, pending, last_commit: None };
                self.transactions.insert(transactional_id, begun);
            }
            Fact::Touched { transactional_id, places } => {
                self.with(&transactional_id, |transaction| transaction.places.extend(places));
            }
            Fact::Joined { transactional_id, group } => {
                self.with(&transactional_id, |transaction| transaction.groups.extend([group]));
            }
            Fact::Pending { transactional_id, group, offsets } => {
                let offsets = offsets.into_iter().map(|(place, committed)| ((group.clone(), place), committed));
                self.with(&transactional_id, |transaction| transaction.pending.extend(offsets));
            }
            Fact::Ended { transactional_id, epoch, commit } => self.end(&transactional_id, epoch, commit),
            Fact::Offsets { group, offsets } => self.offsets.entry(group).or_default().extend(offsets),
            Fact::GroupDeleted { group } => {
                self.offsets.remove(&group);
            }
        }
    }

    fn with(&mut self, transactional_id: &str, change: impl FnOnce(&mut Transaction)) {
        if let Some(transaction) = self.transactions.get_mut(transactional_id) {
            change(transaction);
        }
    }

    fn end(&mut self, transactional_id: &str, epoch: i16, commit: bool) {
        let Some(transaction) = self.transactions.get_mut(transactional_id) else { return };
        transaction.epoch = epoch;
        transaction.last_commit = Some(commit);
        transaction.places.clear();
        transaction.groups.clear();
        let pending = std::mem::take(&mut transaction.pending);
        if commit {
            for ((group, place), committed) in pending {
                self.offsets.entry(group).or_default().insert(place, committed);
            }
        }
    }

    /// Facts that give this `Known` when they are applied to an empty one.
    pub fn facts(&self) -> Vec<Fact> {
        let (next_topic_id, next_producer_id) = (self.next_topic_id, self.next_producer_id);
        let mut facts = vec![Fact::Numbers { next_topic_id, next_producer_id }];
        if self.instance != 0 {
            facts.push(Fact::Instance { number: self.instance });
        }
        for (name, (id, partitions)) in &self.topics {
            facts.push(Fact::Topic { name: name.clone(), id: *id, partitions: *partitions });
        }
        for (group, offsets) in &self.offsets {
            let offsets = offsets.iter().map(|(place, committed)| (place.clone(), committed.clone())).collect();
            facts.push(Fact::Offsets { group: group.clone(), offsets });
        }
        for (id, transaction) in &self.transactions {
            let transactional_id = || id.clone();
            let Transaction { producer_id, epoch, timeout_ms, .. } = *transaction;
            facts.push(Fact::Producer { transactional_id: transactional_id(), producer_id, epoch, timeout_ms });
            if let Some(commit) = transaction.last_commit {
                facts.push(Fact::Ended { transactional_id: transactional_id(), epoch, commit });
            }
            let places = transaction.places.iter().cloned().collect();
            facts.push(Fact::Touched { transactional_id: transactional_id(), places });
            for group in &transaction.groups {
                facts.push(Fact::Joined { transactional_id: transactional_id(), group: group.clone() });
            }
            for ((group, place), committed) in &transaction.pending {
                let (group, offsets) = (group.clone(), vec![(place.clone(), committed.clone())]);
                facts.push(Fact::Pending { transactional_id: transactional_id(), group, offsets });
            }
        }
        facts
    }
}

impl Fact {
    /// The bytes of the fact in the ledger: a number for its kind and its fields in order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let out = &mut writer;
        match self {
            Fact::Numbers { next_topic_id, next_producer_id } => {
                out.i8(0);
                out.i64(*next_topic_id);
                out.i64(*next_producer_id);
            }
            Fact::Topic { name, id, partitions } => {
                out.i8(1);
                out.text(name);
                out.i64(*id);
                out.i32(*partitions);
            }
            Fact::TopicDeleted { name } => {
                out.i8(2);
                out.text(name);
            }
            Fact::Producer { transactional_id, producer_id, epoch, timeout_ms } => {
                out.i8(3);
                out.text(transactional_id);
                out.i64(*producer_id);
                out.i16(*epoch);
                out.i32(*timeout_ms);
            }
            Fact::Touched { transactional_id, places } => {
                out.i8(4);
                out.text(transactional_id);
                out.list(places, write_place);
            }
            Fact::Joined { transactional_id, group } => {
                out.i8(5);
                out.text(transactional_id);
                out.text(group);
            }
            Fact::Pending { transactional_id, group, offsets } => {
                out.i8(6);
                out.text(transactional_id);
                out.text(group);
                out.list(offsets, write_offset);
            }
            Fact::Ended { transactional_id, epoch, commit } => {
                out.i8(7);
                out.text(transactional_id);
                out.i16(*epoch);
                out.bool(*commit);
            }
            Fact::Offsets { group, offsets } => {
                out.i8(8);
                out.text(group);
                out.list(offsets, write_offset);
            }
            Fact::GroupDeleted { group } => {
                out.i8(9);
                out.text(group);
            }
            Fact::Instance { number } => {
                out.i8(10);
                out.i64(*number);
            }
        }
        writer.into_bytes()
    }

    pub fn from_bytes(bytes: &[u8]) -> Read<Fact> {
        let input = &mut Reader::new(bytes);
        let fact = match input.i8()? {
            0 => Fact::Numbers { next_topic_id: read_id(input)?, next_producer_id: read_id(input)? },
            1 => Fact::Topic { name: input.text()?, id: read_id(input)?, partitions: read_partitions(input)? },
            2 => Fact::TopicDeleted { name: input.text()? },
            3 => Fact::Producer {
                transactional_id: input.text()?,
                producer_id: read_id(input)?,
                epoch: input.i16()?,
                timeout_ms: input.i32()?,
            },
            4 => Fact::Touched { transactional_id: input.text()?, places: input.list(read_place)? },
            5 => Fact::Joined { transactional_id: input.text()?, group: input.text()? },
            6 => Fact::Pending {
                transactional_id: input.text()?,
                group: input.text()?,
                offsets: input.list(read_offset)?,
            },
            7 => Fact::Ended { transactional_id: input.text()?, epoch: input.i16()?, commit: input.bool()? },
            8 => Fact::Offsets { group: input.text()?, offsets: input.list(read_offset)? },
            9 => Fact::GroupDeleted { group: input.text()? },
            10 => Fact::Instance { number: input.i64()? },
            _ => return Err(Hangup("unknown kind of fact")),
        };
        if input.is_empty() { Ok(fact) } else { Err(Hangup("fact is too long")) }
    }
}

/// A number that is counted up: none gets near to where counting ends.
fn read_id(input: &mut Reader) -> Read<i64> {
    let id = input.i64()?;
    if (0..i64::MAX / 2).contains(&id) { Ok(id) } else { Err(Hangup("no topic or producer has this number")) }
}

fn read_partitions(input: &mut Reader) -> Read<i32> {
    let partitions = input.i32()?;
    let possible = usize::try_from(partitions).is_ok_and(|partitions| partitions <= PARTITIONS_MAX);
    if possible { Ok(partitions) } else { Err(Hangup("no topic has so many partitions")) }
}

fn write_place(out: &mut Writer, place: &Place) {
    out.text(&place.topic);
    out.i32(place.partition);
}

fn read_place(input: &mut Reader) -> Read<Place> {
    Ok(Place { topic: input.text()?, partition: input.i32()? })
}

fn write_offset(out: &mut Writer, (place, committed): &(Place, Committed)) {
    write_place(out, place);
    out.i64(committed.offset);
    out.text(&committed.metadata);
}

fn read_offset(input: &mut Reader) -> Read<(Place, Committed)> {
    let place = read_place(input)?;
    Ok((place, Committed { offset: input.i64()?, metadata: input.text()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(topic: &str) -> Place {
        Place { topic: topic.into(), partition: 1 }
    }

    fn script() -> Vec<Fact> {
        let id = || "tx".to_owned();
        let offset = |offset| (place("in"), Committed { offset, metadata: "epoch=1".into() });
        vec![
            Fact::Instance { number: -7 },
            Fact::Topic { name: "in".into(), id: 4, partitions: 2 },
            Fact::Topic { name: "out".into(), id: 5, partitions: 2 },
            Fact::Producer { transactional_id: id(), producer_id: 9, epoch: 0, timeout_ms: 60_000 },
            Fact::Touched { transactional_id: id(), places: vec![place("out")] },
            Fact::Joined { transactional_id: id(), group: "g".into() },
            Fact::Pending { transactional_id: id(), group: "g".into(), offsets: vec![offset(7)] },
            Fact::Ended { transactional_id: id(), epoch: 0, commit: true },
            Fact::Joined { transactional_id: id(), group: "g".into() },
            Fact::Pending { transactional_id: id(), group: "g".into(), offsets: vec![offset(8)] },
            Fact::Offsets { group: "h".into(), offsets: vec![offset(3)] },
            Fact::GroupDeleted { group: "h".into() },
            Fact::TopicDeleted { name: "out".into() },
        ]
    }

    #[test]
    fn after_any_number_of_facts_the_summary_says_the_same() {
        let mut known = Known::default();
        for fact in script() {
            assert_eq!(Fact::from_bytes(&fact.to_bytes()), Ok(fact.clone()));
            known.apply(fact);
            let mut again = Known::default();
            known.facts().into_iter().for_each(|fact| again.apply(fact));
            assert_eq!(again, known);
        }
        assert_eq!(known.offsets["g"][&place("in")].offset, 7);
    }
}
