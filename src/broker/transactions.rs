//! Transactions: a producer writes to several partitions and commits offsets, and all of it counts or none.
//!
//! ```text
//!   InitProducerId ─▶ AddPartitionsToTxn, AddOffsetsToTxn ─▶ Produce, TxnOffsetCommit ─▶ EndTxn
//!   a new epoch       the transaction is open                                           markers in every partition
//! ```
//!
//! The fact [`Fact::Ended`] decides: once it is in the ledger, markers that a kill kept from their logs are written at
//! the next start. A new producer with the same transactional id gets a higher epoch and aborts what the old one left
//! open; so does the clock when a transaction outlives `transaction.timeout.ms`. Who comes with an older epoch is fenced.

use super::connection::Request;
use super::coordinator::Coordinator;
use super::fact::{Fact, Place, Transaction};
use super::offsets::read_offsets;
use super::protocol::{Answer, ErrorCode, code};
use super::server::Server;
use super::topics::Topics;
use super::unpoisoned;
use super::wire::{Read, Reader, Writer};
use crate::time::{Clock, SystemClock};
use std::time::{Duration, Instant};

/// Kafka's default for `transaction.max.timeout.ms`.
pub const TIMEOUT_MS_MAX: i32 = 15 * 60 * 1000;
/// From here on a producer gets a new id instead of a higher epoch; one more is left for a timeout.
const EPOCH_MAX: i16 = i16::MAX - 1;

impl Server {
    pub fn on_init_producer_id(&self, _: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let transactional_id = input.text_or_null()?;
        let timeout_ms = input.i32()?;
        let mut coordinator = self.coordinator();
        let given = match transactional_id {
            Some(id) => begin_epoch(&mut coordinator, &self.topics, id, timeout_ms),
            None => new_producer_id(&mut coordinator).map(|producer_id| (producer_id, 0)),
        };
        drop(coordinator);
        self.announce_coordinator();
        out.i32(0);
        out.i16(code(&given));
        let (producer_id, epoch) = given.unwrap_or((-1, -1));
        out.i64(producer_id);
        out.i16(epoch);
        Ok(())
    }

    pub fn on_add_partitions_to_txn(&self, _: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (id, producer_id, epoch) = (input.text()?, input.i64()?, input.i16()?);
        let topics = input.list(|input| Ok((input.text()?, input.list(Reader::i32)?)))?;
        let mut coordinator = self.coordinator();
        let place = |topic: &String, partition: &i32| Place { topic: topic.clone(), partition: *partition };
        let places =
            topics.iter().flat_map(|(topic, asked)| asked.iter().map(move |each| place(topic, each))).collect();
        let checked = check(&coordinator, &id, producer_id, epoch).map(|_| ());
        let added = checked.and_then(|()| add_partitions(&mut coordinator, &self.topics, &id, places));
        out.i32(0);
        out.list(&topics, |out, (topic, partitions)| {
            out.text(topic);
            out.list(partitions, |out, partition| {
                // All or none: next to an unknown partition the others are told that nothing was tried.
                let answer = match added {
                    Err(ErrorCode::UnknownTopicOrPartition) => {
                        self.topics.partition(topic, *partition).and(Err(ErrorCode::OperationNotAttempted))
                    }
                    answer => answer,
                };
                out.i32(*partition);
                out.i16(code(&answer));
            });
        });
        Ok(())
    }

    pub fn on_add_offsets_to_txn(&self, _: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (id, producer_id, epoch, group) = (input.text()?, input.i64()?, input.i16()?, input.text()?);
        let mut coordinator = self.coordinator();
        let answer = check(&coordinator, &id, producer_id, epoch).map(|_| ()).and_then(|()| {
            coordinator.note(Fact::Joined { transactional_id: id.clone(), group })?;
            start_clock(&mut coordinator, &id);
            Ok(())
        });
        out.i32(0);
        out.i16(code(&answer));
        Ok(())
    }

    pub fn on_txn_offset_commit(&self, request: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (id, group, producer_id, epoch) = (input.text()?, input.text()?, input.i64()?, input.i16()?);
        let offsets = read_offsets(input, request.version >= 2)?;
        let mut coordinator = self.coordinator();
        let checked = match check(&coordinator, &id, producer_id, epoch) {
            Ok(transaction) if !transaction.groups.contains(&group) => Err(ErrorCode::InvalidTransactionState),
            checked => checked.map(|_| ()),
        };
        let answers = coordinator.take_offsets(&offsets, checked, |offsets| {
            let (transactional_id, group) = (id.clone(), group.clone());
            Fact::Pending { transactional_id, group, offsets }
        });
        out.i32(0);
        offsets.write_answers(out, &answers);
        Ok(())
    }

    pub fn on_end_txn(&self, _: &Request, input: &mut Reader, out: &mut Writer) -> Read<()> {
        let (id, producer_id, epoch, commit) = (input.text()?, input.i64()?, input.i16()?, input.bool()?);
        let mut coordinator = self.coordinator();
        let state = check(&coordinator, &id, producer_id, epoch).map(|known| (known.is_open(), known.last_commit));
        let answer = match state {
            Err(refused) => Err(refused),
            Ok((true, _)) => end(&mut coordinator, &self.topics, &id, epoch, commit),
            // The request came again, because its answer was lost or a marker could not be stored.
            Ok((false, Some(last))) if last == commit => write_markers(&self.topics, producer_id, epoch, commit),
            Ok((false, _)) => Err(ErrorCode::InvalidTransactionState),
        };
        drop(coordinator);
        self.announce_coordinator();
        out.i32(0);
        out.i16(code(&answer));
        Ok(())
    }
}

/// The transactional producer, if this is its current epoch.
fn check<'a>(coordinator: &'a Coordinator, id: &str, producer_id: i64, epoch: i16) -> Answer<&'a Transaction> {
    let known = coordinator.known().transactions.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
    if known.producer_id != producer_id {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    if known.epoch == epoch { Ok(known) } else { Err(ErrorCode::InvalidProducerEpoch) }
}

fn new_producer_id(coordinator: &mut Coordinator) -> Answer<i64> {
    let (next_topic_id, producer_id) = (coordinator.known().next_topic_id, coordinator.known().next_producer_id);
    coordinator.note(Fact::Numbers { next_topic_id, next_producer_id: producer_id + 1 })?;
    Ok(producer_id)
}

/// Gives the producer id and epoch of a transactional producer that starts; the one before it is fenced.
fn begin_epoch(coordinator: &mut Coordinator, topics: &Topics, id: String, timeout_ms: i32) -> Answer<(i64, i16)> {
    if !(1..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
        return Err(ErrorCode::InvalidTransactionTimeout);
    }
    let before = coordinator.known().transactions.get(&id).map(|known| (known.producer_id, known.epoch));
    let (producer_id, epoch) = match before {
        Some((producer_id, epoch)) => {
            let next = epoch.saturating_add(1);
            abort(coordinator, topics, &id, next)?;
            if next <= EPOCH_MAX { (producer_id, next) } else { (new_producer_id(coordinator)?, 0) }
        }
        None => (new_producer_id(coordinator)?, 0),
    };
    coordinator.note(Fact::Producer { transactional_id: id, producer_id, epoch, timeout_ms })?;
    Ok((producer_id, epoch))
}

fn add_partitions(coordinator: &mut Coordinator, topics: &Topics, id: &str, places: Vec<Place>) -> Answer<()> {
    let logs: Vec<_> =
        places.iter().map(|place| topics.partition(&place.topic, place.partition)).collect::<Answer<_>>()?;
    let Some(known) = coordinator.known().transactions.get(id) else { return Ok(()) };
    let (producer_id, epoch) = (known.producer_id, known.epoch);
    coordinator.note(Fact::Touched { transactional_id: id.to_owned(), places })?;
    for log in logs {
        unpoisoned(log.lock()).admit(producer_id, epoch);
    }
    start_clock(coordinator, id);
    Ok(())
}

/// The transaction's time runs from its first partition or group.
fn start_clock(coordinator: &mut Coordinator, id: &str) {
    let Some(timeout_ms) = coordinator.known().transactions.get(id).map(|known| known.timeout_ms) else { return };
    let until = Instant::now() + Duration::from_millis(timeout_ms.max(0) as u64);
    coordinator.open_until.entry(id.to_owned()).or_insert(until);
}

/// Aborts the transaction if one is open; only `epoch` and later ones are heard then.
fn abort(coordinator: &mut Coordinator, topics: &Topics, id: &str, epoch: i16) -> Answer<()> {
    let is_open = coordinator.known().transactions.get(id).is_some_and(Transaction::is_open);
    if is_open { end(coordinator, topics, id, epoch, false) } else { Ok(()) }
}

fn end(coordinator: &mut Coordinator, topics: &Topics, id: &str, epoch: i16, commit: bool) -> Answer<()> {
    let Some(known) = coordinator.known().transactions.get(id) else { return Ok(()) };
    let (producer_id, places) = (known.producer_id, known.places.clone());
    coordinator.note(Fact::Ended { transactional_id: id.to_owned(), epoch, commit })?;
    coordinator.open_until.remove(id);
    let at_ms = now_ms();
    let mut answer = Ok(());
    for place in places {
        // A topic that is deleted meanwhile needs no marker.
        if let Ok(log) = topics.partition(&place.topic, place.partition) {
            answer = answer.and(topics.end_transaction(&log, producer_id, epoch, commit, at_ms));
        }
    }
    topics.settle();
    answer
}

/// Writes the markers that are still missing from logs.
fn write_markers(topics: &Topics, producer_id: i64, epoch: i16, commit: bool) -> Answer<()> {
    for (_, _, log) in topics.partitions() {
        let is_open = unpoisoned(log.lock()).open_producers().any(|open| open == producer_id);
        if is_open {
            topics.end_transaction(&log, producer_id, epoch, commit, now_ms())?;
        }
    }
    topics.settle();
    Ok(())
}

/// After a start: lets the open transactions go on, with their time from the beginning, and finishes those that ended.
pub fn resume(coordinator: &mut Coordinator, topics: &Topics) -> Answer<()> {
    let known = coordinator.known();
    for (topic, partition, log) in topics.partitions() {
        let place = Place { topic, partition };
        for transaction in known.transactions.values().filter(|transaction| transaction.places.contains(&place)) {
            unpoisoned(log.lock()).admit(transaction.producer_id, transaction.epoch);
        }
        let open: Vec<i64> = unpoisoned(log.lock()).open_producers().collect();
        for producer_id in open {
            let owner = known.transactions.values().find(|transaction| transaction.producer_id == producer_id);
            if !owner.is_some_and(|transaction| transaction.places.contains(&place)) {
                let epoch = owner.map_or(0, |transaction| transaction.epoch);
                let commit = owner.and_then(|transaction| transaction.last_commit).unwrap_or(false);
                topics.end_transaction(&log, producer_id, epoch, commit, now_ms())?;
            }
        }
    }
    let open = known.transactions.iter().filter(|(_, transaction)| transaction.is_open());
    let ids: Vec<String> = open.map(|(id, _)| id.clone()).collect();
    ids.iter().for_each(|id| start_clock(coordinator, id));
    Ok(())
}

/// Aborts the transactions whose time is up and fences their producers.
pub fn abort_overdue(coordinator: &mut Coordinator, topics: &Topics, now: Instant) {
    let overdue = coordinator.open_until.iter().filter(|(_, until)| **until <= now);
    let ids: Vec<String> = overdue.map(|(id, _)| id.clone()).collect();
    for id in ids {
        let Some(epoch) = coordinator.known().transactions.get(&id).map(|known| known.epoch) else { continue };
        tracing::info!("transaction {id:?} is open for longer than its transaction.timeout.ms: aborted");
        if let Err(code) = abort(coordinator, topics, &id, epoch.saturating_add(1)) {
            tracing::warn!("transaction {id:?}: cannot abort: {code:?}");
        }
    }
}

/// The system's time, as records carry it.
pub fn now_ms() -> i64 {
    SystemClock::default().wall() / 1_000
}
