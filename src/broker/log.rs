//! The log of one partition: batches in order of their offsets, and what Kafka remembers beside them.
//!
//! ```text
//!   dropped │ start ......... last stable offset ......... end
//!           │ every reader    │ read_uncommitted only     │ the next batch goes here
//! ```
//!
//! `start` moves when memory is short. The last stable offset is where the first open transaction began, or `end`.
//! Beside the batches a log keeps the last sequence numbers of each producer, so that a batch sent twice is stored
//! once; the transactions that are open; and those that were aborted, which readers must be told of.
//! All of it can be found again from the batches, and is when the broker starts.

use super::batch::{self, Header};
use super::protocol::{Answer, ErrorCode};
use super::segments::Segments;
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

/// Kafka's producers have at most five requests on their way, so these batches can come again.
const BATCHES_REMEMBERED: usize = 5;

struct Batch {
    base: i64,
    end: i64,
    max_timestamp: i64,
    bytes: Box<[u8]>,
}

impl Batch {
    /// What the batch takes of the memory limit.
    fn weight(&self) -> usize {
        self.bytes.len() + size_of::<Batch>()
    }
}

/// What a log remembers of one idempotent producer.
#[derive(Default)]
struct Producer {
    epoch: i16,
    recent: VecDeque<Sent>,
    /// The offset after its newest batch; once that batch is dropped, the producer is forgotten.
    seen_until: i64,
}

struct Sent {
    first_sequence: i32,
    last_sequence: i32,
    base: i64,
}

struct Aborted {
    producer_id: i64,
    first: i64,
}

#[derive(Default)]
pub struct Log {
    batches: VecDeque<Batch>,
    start: i64,
    end: i64,
    weight: usize,
    producers: HashMap<i64, Producer>,
    /// The transactional producers that may write now, with their epochs: their open transaction includes this
    /// partition. Kept here, and not with the coordinator, so that no batch can slip in behind a marker.
    admitted: HashMap<i64, i16>,
    /// Where each open transaction began, by producer.
    open: HashMap<i64, i64>,
    /// By the offset of the abort's marker.
    aborted: BTreeMap<i64, Aborted>,
    files: Option<Segments>,
    /// Its topic is deleted; only requests that were under way still hold the log.
    closed: bool,
}

/// What a reader gets from a log.
pub struct Slice<'a> {
    pub batches: Vec<&'a [u8]>,
    /// The offset after the last batch.
    pub end: i64,
}

impl Log {
    /// A log in `dir`, with the batches that are there.
    pub fn open(dir: PathBuf, fsync: bool) -> Result<Log> {
        let mut log: Option<Log> = None;
        let (files, end) = Segments::open(dir, fsync, |header, batch| {
            let start = || Log { start: header.base_offset, end: header.base_offset, ..Log::default() };
            log.get_or_insert_with(start).restore(header, batch);
        })?;
        let log = log.unwrap_or_else(|| Log { start: end, end, ..Log::default() });
        Ok(Log { files: Some(files), ..log })
    }

    pub fn start(&self) -> i64 {
        self.start
    }

    pub fn end(&self) -> i64 {
        self.end
    }

    /// What the log takes of the memory limit, in bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Where a reader of `read_committed` stops.
    pub fn last_stable_offset(&self) -> i64 {
        self.open.values().copied().min().map_or(self.end, |first| first.max(self.start))
    }

    /// Appends a producer's batch and gives its offset; one that was sent before keeps the offset it has.
    pub fn append(&mut self, header: &Header, batch: &[u8], roll_bytes: u64) -> Answer<i64> {
        if header.producer_id >= 0
            && let Some(producer) = self.producers.get(&header.producer_id)
        {
            if header.producer_epoch < producer.epoch {
                return Err(ErrorCode::InvalidProducerEpoch);
            }
            if header.producer_epoch == producer.epoch {
                let last = header.last_sequence();
                let is_same = |sent: &&Sent| sent.first_sequence == header.base_sequence && sent.last_sequence == last;
                if let Some(sent) = producer.recent.iter().find(is_same) {
                    return Ok(sent.base);
                }
                let follows = |sent: &Sent| header.base_sequence == sent.last_sequence.wrapping_add(1) & i32::MAX;
                if !producer.recent.back().is_none_or(follows) {
                    return Err(ErrorCode::OutOfOrderSequence);
                }
            }
        }
        if header.is_transactional() && self.admitted.get(&header.producer_id) != Some(&header.producer_epoch) {
            return Err(ErrorCode::InvalidTransactionState);
        }
        self.store(header, batch, roll_bytes)
    }

    /// Lets a transactional producer write here until its transaction ends.
    pub fn admit(&mut self, producer_id: i64, epoch: i16) {
        self.admitted.insert(producer_id, epoch);
    }

    /// Ends the producer's transaction here; from now on only `epoch` and later ones are heard.
    /// Nothing is written when the transaction wrote nothing here, so it can be repeated.
    pub fn end_transaction(
        &mut self,
        producer_id: i64,
        epoch: i16,
        commit: bool,
        timestamp: i64,
        roll_bytes: u64,
    ) -> Answer<()> {
        self.admitted.remove(&producer_id);
        if self.open.contains_key(&producer_id) {
            let marker = batch::marker(producer_id, epoch, commit, timestamp);
            let (header, batch, _) = batch::split_first(&marker)?;
            self.store(&header, batch, roll_bytes)?;
        } else if self.producers.get(&producer_id).is_none_or(|producer| producer.epoch < epoch) {
            let producer = Producer { epoch, recent: VecDeque::new(), seen_until: self.end };
            self.producers.insert(producer_id, producer);
        }
        Ok(())
    }

    /// The producers with an open transaction here.
    pub fn open_producers(&self) -> impl Iterator<Item = i64> {
        self.open.keys().copied()
    }

    /// Empties the log for good; gives the weight that went.
    pub fn close(&mut self) -> usize {
        let weight = self.weight;
        *self = Log { closed: true, ..Log::default() };
        weight
    }

    fn store(&mut self, header: &Header, batch: &[u8], roll_bytes: u64) -> Answer<i64> {
        if self.closed {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        let base = self.end;
        let placed = batch::placed_at(batch, base);
        if let Some(files) = &mut self.files
            && let Err(error) = files.append(base, &placed, roll_bytes)
        {
            tracing::warn!("cannot store records: {error}");
            return Err(ErrorCode::StorageError);
        }
        self.remember(header, placed);
        Ok(base)
    }

    fn restore(&mut self, header: &Header, batch: &[u8]) {
        self.remember(header, batch.into());
    }

    /// Takes a batch that belongs at the end.
    fn remember(&mut self, header: &Header, batch: Box<[u8]>) {
        let base = self.end;
        self.end += header.offsets;
        if header.producer_id >= 0 {
            self.remember_producer(header, base);
        }
        if header.is_control() {
            if let Some(first) = self.open.remove(&header.producer_id)
                && batch::is_abort(&batch)
            {
                self.aborted.insert(base, Aborted { producer_id: header.producer_id, first });
            }
        } else if header.is_transactional() {
            self.open.entry(header.producer_id).or_insert(base);
        }
        let batch = Batch { base, end: self.end, max_timestamp: header.max_timestamp, bytes: batch };
        self.weight += batch.weight();
        self.batches.push_back(batch);
    }

    fn remember_producer(&mut self, header: &Header, base: i64) {
        let producer = self.producers.entry(header.producer_id).or_default();
        if header.producer_epoch > producer.epoch {
            *producer = Producer { epoch: header.producer_epoch, ..Producer::default() };
        }
        producer.seen_until = base + header.offsets;
        if header.is_control() {
            return;
        }
        if producer.recent.len() == BATCHES_REMEMBERED {
            producer.recent.pop_front();
        }
        let (first_sequence, last_sequence) = (header.base_sequence, header.last_sequence());
        producer.recent.push_back(Sent { first_sequence, last_sequence, base });
    }

    /// How many bytes a reader at `from` could get now, up to `limit`; counting stops at `enough`.
    pub fn available(&self, from: i64, limit: i64, enough: usize) -> usize {
        let mut bytes = 0;
        for batch in self.batches.range(self.index_of(from)..) {
            if batch.base >= limit || bytes >= enough {
                break;
            }
            bytes += batch.bytes.len();
        }
        bytes
    }

    /// The batches from the one with offset `from` up to `limit`: at most `bytes_max` bytes, but at least one batch.
    pub fn read(&self, from: i64, limit: i64, bytes_max: usize) -> Slice<'_> {
        let mut slice = Slice { batches: Vec::new(), end: from };
        let mut left = bytes_max;
        for batch in self.batches.range(self.index_of(from)..) {
            if batch.base >= limit || (!slice.batches.is_empty() && batch.bytes.len() > left) {
                break;
            }
            slice.batches.push(&batch.bytes);
            slice.end = batch.end;
            left = left.saturating_sub(batch.bytes.len());
        }
        slice
    }

    fn index_of(&self, offset: i64) -> usize {
        self.batches.partition_point(|batch| batch.end <= offset)
    }

    /// The aborted transactions that touch `[from, until)`, as producer and first offset: a reader of
    /// `read_committed` drops these producers' records, from that offset to their next marker.
    pub fn aborted_in(&self, from: i64, until: i64) -> Vec<(i64, i64)> {
        let touching = self.aborted.range(from..).map(|(_, aborted)| aborted).filter(|aborted| aborted.first < until);
        touching.map(|aborted| (aborted.producer_id, aborted.first)).collect()
    }

    /// The first batch with a record not older than `timestamp`, as its offset and newest timestamp. To the batch:
    /// the wanted record may come a little later.
    pub fn find_time(&self, timestamp: i64) -> Option<(i64, i64)> {
        let found = self.batches.iter().find(|batch| batch.max_timestamp >= timestamp)?;
        Some((found.base, found.max_timestamp))
    }

    /// Drops the oldest batches until the log weighs at most `weight`; gives the weight that went.
    pub fn trim_to(&mut self, weight: usize) -> usize {
        let before = self.weight;
        while self.weight > weight
            && let Some(oldest) = self.batches.pop_front()
        {
            self.weight -= oldest.weight();
            self.start = oldest.end;
        }
        if self.weight < before {
            let start = self.start;
            self.aborted = self.aborted.split_off(&start);
            self.producers.retain(|_, producer| producer.seen_until > start);
            if let Some(files) = &mut self.files {
                files.forget_before(start);
            }
        }
        before - self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLL_BYTES: u64 = 1 << 20;

    /// A batch of one record's offsets, with no records in it: a log does not look inside.
    fn batch(producer_id: i64, epoch: i16, sequence: i32, transactional: bool) -> Vec<u8> {
        let mut bytes = batch::marker(producer_id, epoch, true, 0);
        bytes[21..23].copy_from_slice(&(if transactional { 0x10i16 } else { 0 }).to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        let checksum = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn append(log: &mut Log, bytes: &[u8]) -> Answer<i64> {
        let (header, batch, _) = batch::split_first(bytes).expect("a whole batch");
        log.append(&header, batch, ROLL_BYTES)
    }

    #[test]
    fn a_batch_sent_twice_is_stored_once_and_a_gap_is_refused() {
        let mut log = Log::default();
        assert_eq!(append(&mut log, &batch(1, 0, 0, false)), Ok(0));
        assert_eq!(append(&mut log, &batch(1, 0, 1, false)), Ok(1));
        assert_eq!(append(&mut log, &batch(1, 0, 0, false)), Ok(0));
        assert_eq!(append(&mut log, &batch(1, 0, 3, false)), Err(ErrorCode::OutOfOrderSequence));
        assert_eq!(append(&mut log, &batch(1, 1, 0, false)), Ok(2));
        assert_eq!(append(&mut log, &batch(1, 0, 2, false)), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(log.end(), 3);
    }

    #[test]
    fn a_transaction_holds_back_readers_until_its_marker_and_nothing_comes_after() {
        let mut log = Log::default();
        assert_eq!(append(&mut log, &batch(1, 0, 0, true)), Err(ErrorCode::InvalidTransactionState));
        log.admit(1, 0);
        assert_eq!(append(&mut log, &batch(1, 0, 0, true)), Ok(0));
        assert_eq!(append(&mut log, &batch(2, 0, 0, false)), Ok(1));
        assert_eq!((log.last_stable_offset(), log.end()), (0, 2));
        log.end_transaction(1, 0, false, 0, ROLL_BYTES).expect("the marker is stored");
        assert_eq!((log.last_stable_offset(), log.end()), (3, 3));
        assert_eq!(log.aborted_in(0, 3), [(1, 0)]);
        assert_eq!(append(&mut log, &batch(1, 0, 1, true)), Err(ErrorCode::InvalidTransactionState));
    }

    #[test]
    fn what_is_trimmed_can_no_longer_be_read_and_the_end_stays() {
        let mut log = Log::default();
        for sequence in 0..10 {
            append(&mut log, &batch(1, 0, sequence, false)).expect("in order");
        }
        let (all, each) = (log.weight(), log.weight() / 10);
        assert_eq!(log.trim_to(all - each), each);
        assert_eq!((log.start(), log.end()), (1, 10));
        assert_eq!(log.read(1, 10, usize::MAX).batches.len(), 9);
        assert_eq!(log.trim_to(0), all - each);
        assert_eq!((log.start(), log.end()), (10, 10));
    }
}
