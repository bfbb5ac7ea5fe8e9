//! Topics written exactly once: what is published after every kind of death.
//!
//! A publisher that dies runs in a child process: this test binary again, with [`child`] as its only test, told by its environment
//! what to publish and where to die. What an epoch's records are is a function of a seed and the epoch.

use super::*;
use arrow::array::{BinaryArray, Int32Array, new_null_array};
use highwater::connector::{Publisher, ShardName};
use highwater::time::Epoch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Partitions of the topic that is written.
const PARTITIONS: i32 = 3;

/// The places where a publisher can die.
const PLACES: [&str; 4] = ["publish.begun", "publish.mid", "publish.flushed", "publish.committed"];

/// How a child says what went wrong.
const FENCED: i32 = 40;
const UNAVAILABLE: i32 = 41;

/// One shard that is written by several publishers, one after the other or at once.
#[derive(Clone)]
struct Job {
    bootstrap: String,
    topic: String,
    seed: u64,
    shard: usize,
    /// Bytes of a transaction.
    bytes: usize,
    timeout_ms: u64,
}

impl Job {
    fn new(bootstrap: &str, seed: u64) -> Self {
        let topic = create_topic(bootstrap, "exactly-once", PARTITIONS);
        Job { bootstrap: bootstrap.to_owned(), topic, seed, shard: 0, bytes: 2000, timeout_ms: 60_000 }
    }

    fn sink(&self) -> KafkaSink {
        let (bytes, timeout) = (self.bytes.to_string(), self.timeout_ms.to_string());
        let options = [("sink.transaction.bytes", &bytes[..]), ("properties.transaction.timeout.ms", &timeout)];
        KafkaSink::new(&lines(&self.bootstrap, &self.topic, &options)).unwrap()
    }

    fn name(&self) -> ShardName {
        // the topic's name is unique, so its progress topic is, too
        let table = self.topic.clone();
        ShardName { pipeline: "test".into(), incarnation: "0123456789abcdef".into(), table, shard: self.shard }
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>> {
        self.sink().staging().unwrap().publisher(&self.name(), &context())
    }

    /// The records of an epoch, as values by partition: none of some epochs, and enough for several transactions of others.
    fn values(&self, epoch: Epoch) -> Vec<Vec<(i32, String)>> {
        let mut random = StdRng::seed_from_u64(self.seed ^ epoch.wrapping_mul(0x9e37_79b9) ^ (self.shard as u64) << 32);
        let batches = random.random_range(0..4);
        let mut number = 0;
        let mut batch = || {
            let mut rows: Vec<(i32, String)> = (0..random.random_range(1..40))
                .map(|_| {
                    number += 1;
                    (random.random_range(0..PARTITIONS), format!("{}/{epoch}/{number}", self.shard))
                })
                .collect();
            rows.sort_by_key(|row| row.0);
            rows
        };
        (0..batches).map(|_| batch()).collect()
    }

    fn records(&self, epoch: Epoch) -> Vec<Batch> {
        let schema = self.sink().staging().unwrap().records();
        let batch = |rows: Vec<(i32, String)>| {
            let partitions = Int32Array::from_iter_values(rows.iter().map(|row| row.0));
            let values = BinaryArray::from_iter_values(rows.iter().map(|row| row.1.as_bytes()));
            let null = |column: usize| new_null_array(schema.field(column).data_type(), rows.len());
            let columns: Vec<ArrayRef> = vec![Arc::new(partitions), null(1), Arc::new(values), null(3), null(4)];
            Batch::try_new(Arc::clone(&schema), columns).unwrap()
        };
        self.values(epoch).into_iter().map(batch).collect()
    }

    fn publish(&self, publisher: &mut Box<dyn Publisher>, epoch: Epoch) -> Result<()> {
        publisher.publish(epoch, &mut self.records(epoch).into_iter().map(Ok))
    }

    /// Publishes what is missing up to epoch `last`.
    fn publish_to(&self, last: Epoch) -> Result<()> {
        let mut publisher = self.publisher()?;
        for epoch in publisher.published().unwrap_or(0) + 1..=last {
            self.publish(&mut publisher, epoch)?;
        }
        Ok(())
    }

    /// The same in a process of its own, which fails as `fail` says.
    fn spawn(&self, last: Epoch, fail: Option<&str>) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "publish::child", "--ignored", "--nocapture"]).stdout(Stdio::null());
        command.env("CHILD_BOOTSTRAP", &self.bootstrap).env("CHILD_TOPIC", &self.topic);
        for (name, value) in [
            ("CHILD_SEED", self.seed),
            ("CHILD_SHARD", self.shard as u64),
            ("CHILD_BYTES", self.bytes as u64),
            ("CHILD_TIMEOUT", self.timeout_ms),
            ("CHILD_LAST", last),
        ] {
            command.env(name, value.to_string());
        }
        command.env_remove("HIGHWATER_FAIL").envs(fail.map(|fail| ("HIGHWATER_FAIL", fail)));
        command.spawn().unwrap()
    }

    fn run(&self, last: Epoch, fail: Option<&str>) -> ExitStatus {
        self.spawn(last, fail).wait().unwrap()
    }

    /// Every record up to epoch `last` is there once, in order in its partition.
    fn check(&self, last: Epoch) {
        let rows: Vec<(i32, String)> = (1..=last).flat_map(|epoch| self.values(epoch)).flatten().collect();
        for partition in 0..PARTITIONS {
            let expected: Vec<&String> = rows.iter().filter(|row| row.0 == partition).map(|row| &row.1).collect();
            let mine = format!("{}/", self.shard);
            let mut seen = committed(&self.bootstrap, &self.topic, partition);
            seen.retain(|value| value.starts_with(&mine));
            let differs = expected.iter().zip(&seen).position(|(expected, seen)| *expected != seen);
            assert!(
                differs.is_none() && expected.len() == seen.len(),
                "SEED={}: partition {partition}: {} records instead of {}, another first at {differs:?}",
                self.seed,
                seen.len(),
                expected.len()
            );
        }
    }
}

/// Not a test: what [`Job::spawn`] runs.
#[test]
#[ignore]
fn child() {
    let Ok(bootstrap) = std::env::var("CHILD_BOOTSTRAP") else { return };
    let text = |name: &str| std::env::var(name).unwrap();
    let number = |name: &str| text(name).parse::<u64>().unwrap();
    let job = Job {
        bootstrap,
        topic: text("CHILD_TOPIC"),
        seed: number("CHILD_SEED"),
        shard: number("CHILD_SHARD") as usize,
        bytes: number("CHILD_BYTES") as usize,
        timeout_ms: number("CHILD_TIMEOUT"),
    };
    if let Err(error) = job.publish_to(number("CHILD_LAST")) {
        eprintln!("child: {error:?}");
        std::process::exit(match error.kind() {
            ErrorKind::Fenced => FENCED,
            ErrorKind::Unavailable => UNAVAILABLE,
            _ => 1,
        });
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    seed
}

/// The committed values of a partition, as they are when nothing is open.
fn committed(bootstrap: &str, topic: &str, partition: i32) -> Vec<String> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", "reader").set("enable.partition.eof", "true");
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let (mut values, start) = (Vec::new(), Instant::now());
    loop {
        match consumer.poll(PATIENCE) {
            Some(Ok(record)) => values.push(String::from_utf8(record.payload().unwrap().to_vec()).unwrap()),
            Some(Err(KafkaError::PartitionEOF(_))) => return values,
            Some(Err(error)) if start.elapsed() < PATIENCE => eprintln!("reader: {error}"),
            other => panic!("no end of partition {partition}: {other:?}"),
        }
    }
}

// The cases.

pub fn what_is_published_is_known_when_it_is_opened_again(bootstrap: &str) {
    let job = Job::new(bootstrap, 7);
    let mut publisher = job.publisher().unwrap();
    assert_eq!(publisher.published(), None);
    for epoch in 1..=20 {
        job.publish(&mut publisher, epoch).unwrap();
        assert_eq!(publisher.published(), Some(epoch));
    }
    publisher.finish(true).unwrap();
    job.check(20);
    let last = (1..=20).rfind(|epoch| !job.values(*epoch).is_empty());
    assert_eq!(job.publisher().unwrap().published(), last);
    // the one before is fenced, and does nothing more after that
    let busy = (21..).find(|epoch| !job.values(*epoch).is_empty()).unwrap();
    let error = job.publish(&mut publisher, busy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(job.publish(&mut publisher, busy).unwrap_err().kind(), ErrorKind::Unavailable);
    job.publish_to(30).unwrap();
    job.check(30);
}

pub fn ten_kills(bootstrap: &str) {
    kills(bootstrap, 10, seed());
}

/// Kills publishers of one shard at places and moments by chance, one after the other.
fn kills(bootstrap: &str, kills: usize, seed: u64) {
    let (job, mut random) = (Job::new(bootstrap, seed), StdRng::seed_from_u64(seed));
    let (mut killed, mut finished, mut last) = (0, 0, 0);
    while killed < kills {
        last += random.random_range(0..4);
        let place = PLACES[random.random_range(0..PLACES.len())];
        let fail = format!("{place}@{}:kill", random.random_range(1..6));
        let status = job.run(last, Some(&fail));
        match status.signal() {
            Some(9) => killed += 1,
            _ => {
                assert!(status.success(), "SEED={seed}: {fail}: {status}");
                finished += 1;
                assert!(finished < 10 * kills + 20, "SEED={seed}: nothing is killed");
            }
        }
    }
    assert!(job.run(last, None).success());
    println!("{killed} kills and {finished} whole runs over {last} epochs");
    job.check(last);
}
