//! Topics written exactly once: what is published after every kind of death.
//!
//! A publisher that dies runs in a child process: this test binary again, with [`child`] as its only test, told by its environment
//! what to publish and where to die. What an epoch's records are is a function of a seed and the epoch.

use super::contract::{self, Shard};
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

    /// Publishes what is missing up to epoch `last` in a process of its own, which fails as `fail` says.
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
}

impl Shard for Job {
    fn publisher(&self) -> Result<Box<dyn Publisher>> {
        self.sink().staging().unwrap().publisher(&self.name(), &context())
    }

    fn publish(&self, publisher: &mut dyn Publisher, epoch: Epoch) -> Result<()> {
        publisher.publish(epoch, &mut self.records(epoch).into_iter().map(Ok))
    }

    fn rows(&self, epoch: Epoch) -> usize {
        self.values(epoch).iter().map(Vec::len).sum()
    }

    fn publish_or_die(&self, last: Epoch, random: &mut StdRng) -> bool {
        let place = PLACES[random.random_range(0..PLACES.len())];
        let fail = format!("{place}@{}:kill", random.random_range(1..5));
        let status = self.run(last, Some(&fail));
        let killed = status.signal() == Some(9);
        assert!(killed || status.success(), "SEED={}: {fail}: {status}", self.seed);
        killed
    }

    fn leave_open(&self) {
        let progress = format!("highwater.test.{}.progress", self.topic);
        let timeout = ("transaction.timeout.ms", "3000");
        let other = producer(&self.bootstrap, &[("transactional.id", &unique("other")), timeout]);
        other.init_transactions(PATIENCE).unwrap();
        other.begin_transaction().unwrap();
        produce(&other, &progress, 0, [(Some(b"x".as_slice()), 0)]);
    }

    fn seed(&self) -> u64 {
        self.seed
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
    contract::what_is_published_is_known_when_it_is_opened_again(&Job::new(bootstrap, 7));
}

pub fn five_kills_in_each_of_four_shards(bootstrap: &str) {
    kills(bootstrap, 5, seed());
}

pub fn twenty_five_kills_in_each_of_four_shards(bootstrap: &str) {
    kills(bootstrap, 25, seed());
}

/// Four shards of one topic; in each, publishers are killed at places and moments by chance, one after the other.
fn kills(bootstrap: &str, kills: usize, seed: u64) {
    let (job, start) = (Job::new(bootstrap, seed), Instant::now());
    let shard = |shard: usize| {
        let job = Job { shard, ..job.clone() };
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(shard as u64));
        std::thread::spawn(move || contract::deaths_lose_and_double_nothing(&job, kills, &mut random))
    };
    let shards: Vec<_> = (0..4).map(shard).collect();
    for thread in shards {
        thread.join().unwrap();
    }
    println!("       {} kills in {:.1?}", 4 * kills, start.elapsed());
}

pub fn a_publisher_that_wakes_beside_its_successor_adds_nothing(bootstrap: &str) {
    let job = Job::new(bootstrap, seed());
    let mut last = 0;
    for place in PLACES {
        last += 6;
        let mut zombie = job.spawn(last + 6, Some(&format!("{place}@2:pause")));
        let stat = format!("/proc/{}/stat", zombie.id());
        eventually("the publisher stands still", || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
        });
        // one takes over, wakes the other, and goes on beside it
        let mut successor = job.publisher().unwrap();
        let reached = successor.published().unwrap_or(0);
        kill(Pid::from_raw(zombie.id() as i32), Signal::SIGCONT).unwrap();
        for epoch in reached + 1..=last {
            job.publish(successor.as_mut(), epoch).unwrap();
        }
        let status = zombie.wait().unwrap();
        assert_eq!(status.code(), Some(FENCED), "SEED={}: woken at {place}: {status}", job.seed);
        job.check(last);
    }
}

pub fn an_open_transaction_of_another_hides_no_marker(bootstrap: &str) {
    contract::an_open_transaction_of_another_hides_no_marker(&Job { timeout_ms: 3000, ..Job::new(bootstrap, 7) });
}

pub fn a_transaction_that_outlives_its_timeout_is_published_again(bootstrap: &str) {
    let job = Job { timeout_ms: 1500, ..Job::new(bootstrap, 7) };
    let mut late = job.spawn(12, Some("publish.flushed@2:pause"));
    std::thread::sleep(Duration::from_secs(4));
    kill(Pid::from_raw(late.id() as i32), Signal::SIGCONT).unwrap();
    let status = late.wait().unwrap();
    assert!(matches!(status.code(), Some(FENCED | UNAVAILABLE)), "woken when its time was over: {status}");
    job.publish_to(12).unwrap();
    job.check(12);
}

pub fn a_failure_spends_a_publisher_and_the_next_one_goes_on(bootstrap: &str) {
    let job = Job::new(bootstrap, 7);
    for place in PLACES {
        assert_eq!(job.run(10, Some(&format!("{place}@2:error"))).code(), Some(UNAVAILABLE), "{place}");
    }
    job.publish_to(10).unwrap();
    job.check(10);
}

/// The help of an error that says that history is lost.
fn is_lost(result: Result<impl Sized>, topic: &str) -> bool {
    let error = result.err().expect("history is lost");
    let said = said(&error);
    assert!(
        error.kind() == ErrorKind::Invalid && said.contains("sink history lost") && said.contains("remove"),
        "{said}"
    );
    assert!(said.contains(&format!("topic \"{topic}\"")), "{said}");
    true
}

pub fn a_topic_that_is_deleted_is_noticed(bootstrap: &str) {
    let job = Job { timeout_ms: 10_000, ..Job::new(bootstrap, 7) };
    let sink = job.sink();
    let open = || sink.staging().unwrap().publisher(&job.name(), &context());
    let mut publisher = open().unwrap();
    for epoch in 1..=5 {
        job.publish(publisher.as_mut(), epoch).unwrap();
    }
    support::delete_topic(bootstrap, &job.topic);
    std::thread::sleep(Duration::from_millis(3500)); // ids are that old at most
    let deleted = (6..40).find_map(|epoch| job.publish(publisher.as_mut(), epoch).err());
    assert!(is_lost(deleted.map_or(Ok(()), Err), &job.topic));
    assert!(is_lost(open(), &job.topic), "and by whoever comes next");
    support::create_topic_named(bootstrap, &job.topic, PARTITIONS);
    eventually("the new topic is known", || open().err().is_some_and(|error| said(&error).contains("created again")));
    assert!(is_lost(job.publisher(), &job.topic), "and by another process");

    // without its markers, whoever published before knows that they are missing
    let job = Job::new(bootstrap, 7);
    let sink = job.sink();
    let open = || sink.staging().unwrap().publisher(&job.name(), &context());
    let mut publisher = open().unwrap();
    (1..=5).for_each(|epoch| job.publish(publisher.as_mut(), epoch).unwrap());
    let progress = format!("highwater.test.{}.progress", job.topic);
    support::delete_topic(bootstrap, &progress);
    eventually("the progress topic is gone for all", || {
        open().err().is_some_and(|error| said(&error).contains("sink history lost"))
    });
    assert!(is_lost(open(), &progress));
}

pub fn rows_are_staged_as_they_will_be_published(bootstrap: &str) {
    let topic = create_topic(bootstrap, "staged", PARTITIONS);
    let limit = ("properties.message.max.bytes", "2000");
    let options = [("key.fields", "name"), ("key.format", "raw"), ("format", "json"), limit];
    let ours = [("topic", &topic[..]), (BOOTSTRAP, bootstrap)];
    let columns = [("name", DataType::Utf8), ("n", DataType::Int64)];
    let sink = KafkaSink::new(&table(&columns, &[], &[ours.as_slice(), &options].concat())).unwrap();
    let staging = sink.staging().unwrap();
    assert_eq!(staging.how(), "transactions");
    let mut stager = staging.stager(0, 1, &context()).unwrap();
    let names = || (0..30).map(|n| format!("name-{}", n % 7));
    let rows = batch(vec![("name", strings(names())), ("n", Arc::new(Int64Array::from_iter_values(0..30)))]);
    let records = stager.stage(rows.clone()).unwrap();
    assert_eq!(records.schema(), staging.records());
    let partitions = records.column(0).as_primitive::<arrow::datatypes::Int32Type>().values();
    assert!(partitions.is_sorted() && partitions.iter().any(|partition| *partition > 0), "{partitions:?}");
    let shard = ShardName { pipeline: "p".into(), incarnation: "0".repeat(16), table: topic.clone(), shard: 0 };
    let mut publisher = staging.publisher(&shard, &context()).unwrap();
    publisher.publish(3, &mut std::iter::once(Ok(records))).unwrap();

    // the same rows as they are written at once, to another topic
    let plain = create_topic(bootstrap, "written", PARTITIONS);
    let ours = [("topic", &plain[..]), (BOOTSTRAP, bootstrap)];
    let plain_sink = KafkaSink::new(&table(&columns, &[], &[ours.as_slice(), &options].concat())).unwrap();
    let mut shard = plain_sink.open(0, 1, &context()).unwrap();
    shard.write(rows).unwrap();
    flush(&mut shard);
    for partition in 0..PARTITIONS {
        assert_eq!(committed(bootstrap, &topic, partition), committed(bootstrap, &plain, partition));
    }

    let long = batch(vec![("name", strings(["x".repeat(2000)])), ("n", Arc::new(Int64Array::from(vec![1])))]);
    let error = stager.stage(long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(said(&error).contains("is too large: this client sends 2000 at most"), "{}", said(&error));
}

pub fn a_topics_own_limit_is_kept(bootstrap: &str) {
    let topic = unique("limited");
    let create = |most| [("topic.create", "true"), ("topic.config.max.message.bytes", most)];
    let small = KafkaSink::new(&lines(bootstrap, &topic, &create("5000"))).unwrap();
    let refused = small.staging().unwrap().stager(0, 1, &context()).err().unwrap();
    assert!(said(&refused).contains("add 'properties.batch.size' = '5000'"), "{}", said(&refused));
    let options = [create("5000").as_slice(), &[("properties.batch.size", "5000")]].concat();
    let small = KafkaSink::new(&lines(bootstrap, &topic, &options)).unwrap();
    let staging = small.staging().unwrap();
    let mut stager = staging.stager(0, 1, &context()).unwrap();
    let line = |length: usize| batch(vec![("line", strings(["x".repeat(length)]))]);
    let error = stager.stage(line(5000)).unwrap_err();
    assert!(said(&error).contains("is too large: the topic takes 4939 at most"), "{}", said(&error));
    // the largest that is let through is one that the broker takes, and so are many small ones
    let largest = stager.stage(line(4939 - 36)).unwrap();
    let many = batch(vec![("line", strings((0..500).map(|n| format!("{n:0>100}"))))]);
    let many = stager.stage(many).unwrap();
    let shard = ShardName { pipeline: "p".into(), incarnation: "0".repeat(16), table: topic.clone(), shard: 0 };
    let mut publisher = staging.publisher(&shard, &context()).unwrap();
    publisher.publish(1, &mut [largest, many].into_iter().map(Ok)).unwrap();
    assert_eq!(committed(bootstrap, &topic, 0).len(), 501);
}

/// The whole program, killed while it publishes: topic to topic, each line once.
pub fn a_pipeline_that_is_killed_writes_each_line_once(bootstrap: &str) {
    const LINES: usize = 3000;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (input, output) = (create_topic(bootstrap, "lines-in", 2), create_topic(bootstrap, "lines-out", PARTITIONS));
    let lines: Vec<String> = (0..LINES).map(|n| format!("line {n:0>6}")).collect();
    let client = producer(bootstrap, &[]);
    for (partition, half) in lines.chunks(LINES / 2).enumerate() {
        produce(&client, &input, partition as i32, half.iter().map(|line| (Some(line.as_bytes()), 0)));
    }
    let dir = tempfile::tempdir().unwrap();
    let table = |name: &str, topic: &str, more: &str| {
        format!(
            "CREATE TABLE {name} (line STRING) WITH ('connector' = 'kafka', 'topic' = '{topic}', '{BOOTSTRAP}' = '{bootstrap}', 'format' = 'raw'{more});"
        )
    };
    let text = [
        format!(
            "SET 'pipeline.name' = '{}'; SET 'checkpoint_store' = 'checkpoints'; SET 'checkpoint_interval' = '1 epochs'; SET 'tick' = '200 rows';",
            unique("killed")
        ),
        table("lines", &input, ", 'scan.bounded.mode' = 'latest-offset'"),
        table("copies", &output, ", 'sink.transaction.bytes' = '2000'"),
        "INSERT INTO copies SELECT line FROM lines;".to_owned(),
    ];
    std::fs::write(dir.path().join("pipeline.sql"), text.join("\n")).unwrap();
    let run = |fail: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["run", "pipeline.sql", "--no-progress", "--workers", "2"]).current_dir(dir.path());
        command.env_remove("HIGHWATER_FAIL").envs(fail.map(|fail| ("HIGHWATER_FAIL", fail)));
        command.stdout(Stdio::null()).output().unwrap()
    };
    let mut killed = 0;
    let ended = loop {
        let place = PLACES[random.random_range(0..PLACES.len())];
        let fail = format!("{place}@{}:kill", random.random_range(1..9));
        let output = run(Some(&fail).filter(|_| killed < 12).map(String::as_str));
        match output.status.signal() {
            Some(9) => killed += 1,
            _ => break output,
        }
    };
    assert!(ended.status.success(), "SEED={seed}: {}", String::from_utf8_lossy(&ended.stderr));
    let mut seen: Vec<String> =
        (0..PARTITIONS).flat_map(|partition| committed(bootstrap, &output, partition)).collect();
    seen.sort_unstable();
    println!("       {killed} kills, {} lines", seen.len());
    assert!(seen == lines, "SEED={seed}: {} lines instead of {LINES} after {killed} kills", seen.len());
    assert!(killed > 2, "SEED={seed}: hardly anything was killed");
}

/// The development broker is killed, or stands still, while one publishes without end.
#[test]
fn a_broker_that_dies_or_stands_still_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ChildBroker::start(dir.path(), "127.0.0.1:0");
    let job = Job::new(&broker.address, seed());
    let mut random = StdRng::seed_from_u64(job.seed);
    let (stop, publishing) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), job.clone());
    let stopping = Arc::clone(&stop);
    let publisher = std::thread::spawn(move || publish_on(&publishing, &stopping));
    for round in 0..8 {
        std::thread::sleep(Duration::from_millis(random.random_range(200..700)));
        if round % 2 == 0 {
            broker = broker.kill_and_start(dir.path());
        } else {
            let pid = Pid::from_raw(broker.child.id() as i32);
            kill(pid, Signal::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_millis(random.random_range(100..1500)));
            kill(pid, Signal::SIGCONT).unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (last, publishers) = within(LIMIT, "the publisher ends", move || publisher.join().unwrap());
    println!("{last} epochs by {publishers} publishers");
    assert!(last > 10);
    job.check(last);
}

/// Publishes one epoch after the other until it is told to stop, with a new publisher after each error. Gives the last epoch and
/// the number of publishers.
fn publish_on(job: &Job, stop: &std::sync::atomic::AtomicBool) -> (Epoch, usize) {
    let sink = job.sink();
    let (mut done, mut publishers) = (0, 0);
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let mut publisher = match sink.staging().unwrap().publisher(&job.name(), &context()) {
            Ok(publisher) => publisher,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced),
                    "SEED={}: {error:?}",
                    job.seed
                );
                continue;
            }
        };
        publishers += 1;
        let mut epoch = publisher.published().unwrap_or(0);
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            epoch += 1;
            if let Err(error) = job.publish(publisher.as_mut(), epoch) {
                assert!(
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced),
                    "SEED={}: {error:?}",
                    job.seed
                );
                break;
            }
            done = done.max(epoch);
        }
    }
    // what the last error has left open
    job.publish_to(done).unwrap();
    let last = job.publisher().unwrap().published().unwrap_or(0).max(done);
    (last, publishers)
}

/// A real broker, killed once and standing still once.
#[test]
fn a_real_broker_that_dies_or_stands_still_loses_and_doubles_nothing() {
    let Some(kafka) = Kafka::start_own(&[]) else { return };
    let job = Job::new(kafka.bootstrap(), seed());
    let (stop, publishing) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), job.clone());
    let stopping = Arc::clone(&stop);
    let publisher = std::thread::spawn(move || publish_on(&publishing, &stopping));
    std::thread::sleep(Duration::from_secs(2));
    kafka.pause();
    std::thread::sleep(Duration::from_secs(4));
    kafka.resume();
    std::thread::sleep(Duration::from_secs(2));
    kafka.kill();
    kafka.restart();
    std::thread::sleep(Duration::from_secs(3));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (last, publishers) = within(LIMIT, "the publisher ends", move || publisher.join().unwrap());
    println!("{last} epochs by {publishers} publishers");
    assert!(last > 10);
    job.check(last);
}

/// A development broker in a process of its own, which keeps its data.
struct ChildBroker {
    child: Child,
    address: String,
}

impl ChildBroker {
    fn start(dir: &std::path::Path, listen: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "publish::child_broker", "--ignored", "--nocapture"]);
        command.env("BROKER_DIR", dir).env("BROKER_LISTEN", listen);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let address = lines.find_map(|line| line.unwrap().strip_prefix("listens on ").map(str::to_owned)).unwrap();
        // what else it says is nobody's business, but must not fill the pipe
        std::thread::spawn(move || lines.for_each(drop));
        ChildBroker { child, address }
    }

    fn kill_and_start(mut self, dir: &std::path::Path) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start(dir, &self.address)
    }
}

impl Drop for ChildBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`ChildBroker`] runs. It ends with its input, so that no child outlives its parent.
#[test]
#[ignore]
fn child_broker() {
    let Some(dir) = std::env::var_os("BROKER_DIR") else { return };
    let listen = std::env::var("BROKER_LISTEN").unwrap();
    let broker = Broker::start(Config { listen, dir: Some(dir.into()), ..Config::default() }).unwrap();
    println!("\nlistens on {}", broker.address());
    let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
}
