//! An outside for tests: a store and a broker that a run can lose at any step, and that stay what they are when it is gone.
//!
//! A [`Life`] is one run's view of both. When its time has come every further step of it fails, as if its process had been
//! killed between two of them; a later life sees what was done before. A life that is not over may go on beside its successor.
#![allow(dead_code)] // each test file uses its part

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use highwater::checkpoint::store::{Fault, Faults, Operation, Store};
use highwater::connector::{Changes, Context, Publisher, Shard, ShardName, Sink, Stager, Staging};
use highwater::error::{Error, ErrorKind, Result};
use highwater::time::Epoch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What stays: topics, by table and shard.
#[derive(Default)]
pub struct Outside {
    shards: Mutex<BTreeMap<(String, String, usize), Topic>>,
    store: Mutex<Option<Store>>,
}

#[derive(Default)]
struct Topic {
    /// The number of the newest publisher: older ones are refused.
    newest: u64,
    published: Option<Epoch>,
    records: Vec<(Epoch, RecordBatch)>,
}

impl Outside {
    pub fn new() -> Arc<Self> {
        let outside = Outside::default();
        *outside.store.lock().unwrap() = Some(Store::in_memory("test"));
        Arc::new(outside)
    }

    /// The store, without faults.
    pub fn store(&self) -> Store {
        self.store.lock().unwrap().clone().expect("it was made with the outside")
    }

    /// Everything published, by a reader that sees whole transactions: batches of all shards of `table`.
    pub fn published(&self, table: &str) -> Vec<RecordBatch> {
        let shards = self.shards();
        let of_table = shards.iter().filter(|((name, ..), _)| name == table);
        of_table.flat_map(|(_, topic)| topic.records.iter().map(|(_, batch)| batch.clone())).collect()
    }

    /// The same with the checkpoint that each batch was published with.
    pub fn published_with_epochs(&self, table: &str) -> Vec<(Epoch, RecordBatch)> {
        let shards = self.shards();
        let of_table = shards.iter().filter(|((name, ..), _)| name == table);
        of_table.flat_map(|(_, topic)| topic.records.clone()).collect()
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<(String, String, usize), Topic>> {
        self.shards.lock().unwrap()
    }
}

/// One run's time.
pub struct Life {
    outside: Arc<Outside>,
    /// Steps that are left; below zero it is over.
    left: AtomicI64,
    /// Of how many steps one goes wrong without ending the life; 0 for none.
    trouble_every: i64,
}

impl Life {
    /// A life of `steps` steps.
    pub fn new(outside: &Arc<Outside>, steps: i64, trouble_every: i64) -> Arc<Self> {
        Arc::new(Life { outside: Arc::clone(outside), left: AtomicI64::new(steps), trouble_every })
    }

    /// The store as this life sees it.
    pub fn store(self: &Arc<Self>) -> Store {
        Store::faulty(self.outside.store(), Arc::clone(self) as Arc<dyn Faults>)
    }

    /// A sink that is written exactly once, as this life sees it.
    pub fn sink(self: &Arc<Self>) -> Arc<dyn Sink> {
        Arc::new(StagedSink(Arc::clone(self)))
    }

    /// True if its time has come.
    pub fn over(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    /// 0 at one of `trouble_every` steps, 1 at as many others; none if nothing goes wrong. Not by turns, or someone who tries again in
    /// that many steps would meet the same one for ever.
    fn trouble(&self, left: i64) -> Option<u64> {
        let mixed = (left as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        mixed.checked_rem(self.trouble_every as u64)
    }

    /// One step: half of the ends come before it is done, the others after.
    fn step<T>(&self, done: impl FnOnce() -> Result<T>) -> Result<T> {
        let crash = || Error::new(ErrorKind::Unavailable, "injected: crash");
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        match left {
            left if left < 0 => Err(crash()),
            0 => Err(crash()),
            1 => {
                self.left.store(-1, Ordering::SeqCst);
                done()?;
                Err(crash())
            }
            left if self.trouble(left) == Some(0) => {
                // in doubt: it is done, or not, and nobody says so
                if left % 2 == 0 {
                    done()?;
                }
                Err(Error::unavailable("injected: no answer"))
            }
            _ => done(),
        }
    }
}

impl Faults for Life {
    fn before(&self, operation: Operation, _: &str) -> Option<Fault> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        match left {
            left if left <= 0 => Some(Fault::Crash),
            left if self.trouble(left) == Some(0) => Some(match operation {
                Operation::Create if left % 2 == 0 => Fault::Conflict,
                _ => Fault::Unavailable,
            }),
            _ => None,
        }
    }

    fn after(&self, _: Operation, _: &str) -> Option<Fault> {
        let left = self.left.load(Ordering::SeqCst);
        let lost = self.trouble(left) == Some(1);
        match left {
            left if left <= 0 => Some(Fault::Crash),
            _ if lost => Some(Fault::Unavailable),
            _ => None,
        }
    }
}

/// Takes rows as they are.
pub struct StagedSink(pub Arc<Life>);

impl Sink for StagedSink {
    fn single(&self) -> bool {
        false
    }

    fn open(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Shard>> {
        Err(Error::internal("it is written exactly once"))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }

    fn staging(&self) -> Option<&dyn Staging> {
        Some(self)
    }
}

impl Staging for StagedSink {
    fn how(&self) -> &'static str {
        "a test"
    }

    fn records(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn stager(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Stager>> {
        Ok(Box::new(AsTheyAre))
    }

    fn publisher(&self, shard: &ShardName, _: &Context) -> Result<Box<dyn Publisher>> {
        let key = (shard.table.clone(), shard.incarnation.clone(), shard.shard);
        self.0.step(|| {
            let mut shards = self.0.outside.shards();
            let topic = shards.entry(key.clone()).or_default();
            topic.newest += 1;
            let (number, published) = (topic.newest, topic.published);
            Ok(Box::new(TopicPublisher { life: Arc::clone(&self.0), key, number, published }) as Box<dyn Publisher>)
        })
    }
}

struct AsTheyAre;

impl Stager for AsTheyAre {
    fn stage(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        Ok(rows)
    }
}

struct TopicPublisher {
    life: Arc<Life>,
    key: (String, String, usize),
    number: u64,
    published: Option<Epoch>,
}

impl Publisher for TopicPublisher {
    fn published(&self) -> Option<Epoch> {
        self.published
    }

    fn publish(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<RecordBatch>>) -> Result<()> {
        let records = records.collect::<Result<Vec<_>>>()?;
        self.life.step(|| {
            let mut shards = self.life.outside.shards();
            let topic = shards.get_mut(&self.key).expect("it was made with its publisher");
            if topic.newest != self.number {
                return Err(Error::new(ErrorKind::Fenced, "a newer publisher has begun"));
            }
            assert!(topic.published < Some(epoch), "checkpoint {epoch} is published after {:?}", topic.published);
            // as with a topic, a checkpoint without records leaves no trace
            if !records.is_empty() {
                topic.published = Some(epoch);
            }
            topic.records.extend(records.into_iter().map(|batch| (epoch, batch)));
            Ok(())
        })?;
        self.published = Some(epoch);
        Ok(())
    }
}
