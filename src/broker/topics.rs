//! The topics and the memory that their logs may take.
//!
//! Each partition has a lock of its own. The memory limit is shared: a request that brings the logs over it stays
//! until the largest of them are brought down to one level, so the limit is passed by no more than the requests that
//! are under way. Readers that wait for records wait here, too.

use super::batch::Header;
use super::log::Log;
use super::protocol::{Answer, ErrorCode};
use super::unpoisoned;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Instant;

/// All partitions of all topics.
pub const PARTITIONS_MAX: usize = 10_000;

const TOPIC_NAME_BYTES_MAX: usize = 249;
/// A file of a partition is followed by the next when it is this large: fewer bytes are kept on the disk after
/// memory has dropped them, but more files.
const ROLL_BYTES_MIN: usize = 64 << 10;
const ROLL_BYTES_MAX: usize = 16 << 20;
/// Trimming goes below the limit by this share of it, so that it does not happen for every request.
const TRIM_SHARE: usize = 16;

/// Where logs are kept beside memory.
#[derive(Clone)]
pub struct Storage {
    /// Holds a directory for each partition, named by the topic's number, which no other topic ever has.
    pub dir: PathBuf,
    pub fsync: bool,
}

impl Storage {
    fn partition_dir(&self, topic_id: i64, index: usize) -> PathBuf {
        self.dir.join(format!("{topic_id}-{index}"))
    }
}

pub struct Topic {
    pub id: i64,
    pub partitions: Vec<Arc<Mutex<Log>>>,
}

pub struct Topics {
    by_name: RwLock<BTreeMap<String, Arc<Topic>>>,
    storage: Option<Storage>,
    memory_limit: usize,
    memory_used: AtomicUsize,
    partition_count: AtomicUsize,
    /// Held by the one thread that makes room.
    trimming: Mutex<()>,
    has_trimmed: AtomicBool,
    pub arrivals: Arrivals,
}

impl Topics {
    pub fn new(storage: Option<Storage>, memory_limit: usize) -> Self {
        Topics {
            by_name: RwLock::default(),
            storage,
            memory_limit,
            memory_used: AtomicUsize::new(0),
            partition_count: AtomicUsize::new(0),
            trimming: Mutex::default(),
            has_trimmed: AtomicBool::new(false),
            arrivals: Arrivals::default(),
        }
    }

    /// Makes a topic, or gives the one of this name more partitions. Logs that are stored come back with their records.
    pub fn extend(&self, name: &str, id: i64, partitions: usize) -> Result<()> {
        let mut by_name = unpoisoned(self.by_name.write());
        let mut logs = by_name.get(name).map_or_else(Vec::new, |topic| topic.partitions.clone());
        for index in logs.len()..partitions {
            let log = match &self.storage {
                Some(storage) => Log::open(storage.partition_dir(id, index), storage.fsync)
                    .map_err(|error| error.within(format!("topic {name:?}, partition {index}")))?,
                None => Log::default(),
            };
            self.partition_count.fetch_add(1, Ordering::Relaxed);
            self.memory_used.fetch_add(log.weight(), Ordering::Relaxed);
            logs.push(Arc::new(Mutex::new(log)));
        }
        by_name.insert(name.to_owned(), Arc::new(Topic { id, partitions: logs }));
        drop(by_name);
        self.make_room();
        Ok(())
    }

    /// Forgets a topic and removes its files.
    pub fn remove(&self, name: &str) {
        let Some(topic) = unpoisoned(self.by_name.write()).remove(name) else { return };
        self.partition_count.fetch_sub(topic.partitions.len(), Ordering::Relaxed);
        for (index, log) in topic.partitions.iter().enumerate() {
            let weight = unpoisoned(log.lock()).close();
            self.memory_used.fetch_sub(weight, Ordering::Relaxed);
            if let Some(storage) = &self.storage {
                remove_dir(storage.partition_dir(topic.id, index));
            }
        }
        self.arrivals.announce();
    }

    /// Removes the directories of topics that are gone, which a kill may have left behind.
    pub fn remove_strays(&self) -> Result<()> {
        let Some(storage) = &self.storage else { return Ok(()) };
        let mut known = HashSet::new();
        for topic in unpoisoned(self.by_name.read()).values() {
            known.extend((0..topic.partitions.len()).map(|index| storage.partition_dir(topic.id, index)));
        }
        let entries =
            fs::read_dir(&storage.dir).map_err(|error| Error::unavailable(format!("cannot read: {error}")))?;
        // Only what the broker itself can have made: the directory was chosen by a person.
        let is_numbers = |name: &str| name.split('-').all(|part| part.parse::<u64>().is_ok());
        let is_ours = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_numbers);
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_ours(path) && !known.contains(path))
            .for_each(remove_dir);
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        unpoisoned(self.by_name.read()).get(name).cloned()
    }

    pub fn names(&self) -> Vec<String> {
        unpoisoned(self.by_name.read()).keys().cloned().collect()
    }

    pub fn partition_count(&self) -> usize {
        self.partition_count.load(Ordering::Relaxed)
    }

    pub fn partition(&self, name: &str, index: i32) -> Answer<Arc<Mutex<Log>>> {
        let topic = self.get(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let index = usize::try_from(index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
        topic.partitions.get(index).cloned().ok_or(ErrorCode::UnknownTopicOrPartition)
    }

    /// Every partition, by topic.
    pub fn partitions(&self) -> Vec<(String, i32, Arc<Mutex<Log>>)> {
        let by_name = unpoisoned(self.by_name.read());
        let of_topic = |(name, topic): (&String, &Arc<Topic>)| {
            let logs = topic.partitions.iter().enumerate();
            logs.map(|(index, log)| (name.clone(), index as i32, log.clone())).collect::<Vec<_>>()
        };
        by_name.iter().flat_map(of_topic).collect()
    }

    /// Appends a batch; [`Topics::settle`] must follow once no log is locked.
    pub fn append(&self, log: &Mutex<Log>, header: &Header, batch: &[u8]) -> Answer<i64> {
        self.change(log, |log, roll_bytes| log.append(header, batch, roll_bytes))
    }

    /// Ends a transaction in one partition; [`Topics::settle`] must follow.
    pub fn end_transaction(
        &self,
        log: &Mutex<Log>,
        producer_id: i64,
        epoch: i16,
        commit: bool,
        at_ms: i64,
    ) -> Answer<()> {
        self.change(log, |log, roll_bytes| log.end_transaction(producer_id, epoch, commit, at_ms, roll_bytes))
    }

    fn change<T>(&self, log: &Mutex<Log>, change: impl FnOnce(&mut Log, u64) -> T) -> T {
        let share = self.memory_limit / (8 * self.partition_count().max(1));
        let mut log = unpoisoned(log.lock());
        let before = log.weight();
        let done = change(&mut log, share.clamp(ROLL_BYTES_MIN, ROLL_BYTES_MAX) as u64);
        // Under the log's lock, so that a topic's removal takes away exactly what was added.
        self.memory_used.fetch_add(log.weight() - before, Ordering::Relaxed);
        done
    }

    /// Wakes the readers that wait, and makes room when the logs have become too large.
    pub fn settle(&self) {
        self.arrivals.announce();
        self.make_room();
    }

    fn make_room(&self) {
        let is_over = || self.memory_used.load(Ordering::Relaxed) > self.memory_limit;
        if !is_over() {
            return;
        }
        let _alone = unpoisoned(self.trimming.lock());
        if !is_over() {
            return;
        }
        if !self.has_trimmed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the development broker holds {} MiB of records, its limit: from now on the oldest records of the \
                 largest partitions are dropped",
                self.memory_limit >> 20
            );
        }
        let logs: Vec<_> = self.partitions().into_iter().map(|(_, _, log)| log).collect();
        let weights = logs.iter().map(|log| unpoisoned(log.lock()).weight()).collect();
        let level = level_for(weights, self.memory_limit - self.memory_limit / TRIM_SHARE);
        for log in logs {
            let mut log = unpoisoned(log.lock());
            let trimmed = log.trim_to(level);
            self.memory_used.fetch_sub(trimmed, Ordering::Relaxed);
        }
    }
}

/// The highest level such that the weights, each cut to it, sum to at most `total`.
fn level_for(mut weights: Vec<usize>, total: usize) -> usize {
    weights.sort_unstable();
    let mut left = total;
    for (index, weight) in weights.iter().enumerate() {
        let level = left / (weights.len() - index);
        if *weight > level {
            return level;
        }
        left -= weight;
    }
    usize::MAX
}

fn remove_dir(path: PathBuf) {
    if let Err(error) = fs::remove_dir_all(&path) {
        tracing::warn!("{}: cannot remove: {error}", path.display());
    }
}

/// Whether Kafka allows a topic of this name; the broker allows no other.
pub fn is_valid_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(is_allowed)
}

/// Tells readers that something changed, at no cost when nobody waits.
#[derive(Default)]
pub struct Arrivals {
    announced: Mutex<u64>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl Arrivals {
    pub fn announce(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            *unpoisoned(self.announced.lock()) += 1;
            self.changed.notify_all();
        }
    }

    /// Waits until `is_ready`, which is asked now and after each announcement, but not longer than to `deadline`.
    pub fn wait_until(&self, deadline: Instant, mut is_ready: impl FnMut() -> bool) {
        // Counted before the question is asked: who changes something later sees the count and announces it.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        loop {
            let before = *unpoisoned(self.announced.lock());
            if is_ready() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let unchanged = |announced: &mut u64| *announced == before;
            let announced = unpoisoned(self.announced.lock());
            let (announced, waited) = unpoisoned(self.changed.wait_timeout_while(announced, left, unchanged));
            drop(announced);
            if waited.timed_out() {
                break;
            }
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_cut_to_one_level() {
        assert_eq!(level_for(vec![10, 50, 100], 1000), usize::MAX);
        assert_eq!(level_for(vec![10, 50, 100], 110), 50);
        assert_eq!(level_for(vec![10, 50, 100], 70), 30);
        assert_eq!(level_for(vec![10, 50, 100], 0), 0);
        assert_eq!(level_for(vec![], 0), usize::MAX);
    }

    #[test]
    fn topic_names_cannot_leave_the_directory() {
        assert!(is_valid_name("words.v1_x-y"));
        for name in ["", ".", "..", "a/b", "ä", &"x".repeat(250)] {
            assert!(!is_valid_name(name), "{name:?}");
        }
    }
}
