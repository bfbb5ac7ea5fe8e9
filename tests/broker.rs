//! The development broker as its clients see it: librdkafka for what they do, bare sockets for what they never should.
//!
//! Each test has a broker of its own on a free port. Those that kill it, or look at its memory, run it in a child
//! process: this test binary again, with [`child_broker`] as its only test.

use futures_executor::block_on;
use highwater::broker::{Broker, Config};
use highwater::error::ErrorKind;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;
const ALL: &str = "read_uncommitted";
const COMMITTED: &str = "read_committed";

fn config() -> Config {
    Config { listen: "127.0.0.1:0".into(), ..Config::default() }
}

fn start(config: Config) -> Broker {
    Broker::start(config).expect("the broker starts")
}

fn client(address: &str, settings: &[(&str, &str)]) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address).set("retry.backoff.ms", "10").set("reconnect.backoff.max.ms", "100");
    client.extend(settings.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    client
}

fn producer(address: &str, settings: &[(&str, &str)]) -> BaseProducer {
    client(address, &[&[("linger.ms", "1"), ("enable.idempotence", "true")], settings].concat())
        .create()
        .expect("a producer")
}

fn transactional(address: &str, id: &str) -> BaseProducer {
    let producer = producer(address, &[("transactional.id", id)]);
    producer.init_transactions(SOON).expect("the producer is ready");
    producer
}

fn consumer(address: &str, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let common = [
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "earliest"),
        ("enable.partition.eof", "true"),
        ("fetch.queue.backoff.ms", "10"),
    ];
    client(address, &[&common, settings].concat()).create().expect("a consumer")
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, value: &str) {
    let mut record = BaseRecord::<str, str>::to(topic).partition(partition).payload(value);
    while let Err((error, back)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull));
        producer.poll(Duration::from_millis(5));
        record = back;
    }
}

/// `commit_transaction` flushes in steps of 100 ms, so this comes first.
fn drain(producer: &BaseProducer) {
    while producer.flush(Duration::ZERO).is_err() {
        producer.poll(Duration::from_millis(1));
    }
}

/// The values of one partition, from its first record to its end.
fn values(address: &str, topic: &str, partition: i32, isolation: &str) -> Vec<String> {
    let reader = consumer(address, "reader", &[("isolation.level", isolation)]);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    reader.assign(&assignment).expect("assigned");
    let (mut values, deadline) = (Vec::new(), Instant::now() + 2 * SOON);
    loop {
        assert!(Instant::now() < deadline, "no end of {topic} after {} records", values.len());
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                values.push(String::from_utf8(message.payload().unwrap_or_default().to_vec()).expect("UTF-8"));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return values,
            Some(Err(error)) => panic!("reading {topic}: {error}"),
            None => {}
        }
    }
}

fn offsets(topic: &str, offset: i64, metadata: &str) -> TopicPartitionList {
    let mut offsets = TopicPartitionList::new();
    let mut element = offsets.add_partition(topic, 0);
    element.set_offset(Offset::Offset(offset)).expect("an offset");
    element.set_metadata(metadata);
    offsets
}

/// What `group` has committed for partition 0.
fn committed(address: &str, group: &str, topic: &str, wait: Duration) -> Result<(Offset, String), KafkaError> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let found = consumer(address, group, &[]).committed_offsets(asked, wait)?;
    let element = &found.elements()[0];
    Ok((element.offset(), element.metadata().to_owned()))
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(cause) if cause.is_fatal())
}

/// A broker in a process of its own.
struct ChildBroker {
    child: Child,
    address: String,
}

impl ChildBroker {
    fn start(dir: &Path, listen: &str) -> ChildBroker {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child_broker", "--ignored", "--nocapture"])
            .env("BROKER_DIR", dir)
            .env("BROKER_LISTEN", listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("listens on ")?.1.to_owned()));
        ChildBroker { child, address: address.expect("the child says where it listens") }
    }

    fn kill(mut self) -> String {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        std::mem::take(&mut self.address)
    }

    /// Where the system tells: on Linux.
    fn memory_peak_mib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
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
    let listen = std::env::var("BROKER_LISTEN").expect("an address");
    let broker = start(Config { listen, dir: Some(dir.into()), memory_limit: 64 * MIB, ..config() });
    println!("\nlistens on {}", broker.address());
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn nothing_is_lost_doubled_or_reordered() {
    const RECORDS: usize = 100_000;
    let broker = start(config());
    broker.create_topic("t", 4).expect("a topic");
    let writer = producer(&broker.address(), &[("compression.type", "zstd")]);
    for number in 0..RECORDS {
        send(&writer, "t", (number % 4) as i32, &number.to_string());
    }
    writer.flush(SOON).expect("all sent");
    for partition in 0..4 {
        let expected: Vec<String> = (partition..RECORDS).step_by(4).map(|number| number.to_string()).collect();
        assert!(values(&broker.address(), "t", partition as i32, ALL) == expected, "partition {partition} differs");
    }
    let (low, high) = writer.client().fetch_watermarks("t", 0, SOON).expect("watermarks");
    assert_eq!((low, high), (0, RECORDS as i64 / 4));
}

#[test]
fn a_waiting_reader_gets_a_record_at_once() {
    let broker = start(config());
    broker.create_topic("t", 1).expect("a topic");
    let reader = consumer(&broker.address(), "g", &[("fetch.wait.max.ms", "5000")]);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset("t", 0, Offset::Beginning).expect("an offset");
    reader.assign(&assignment).expect("assigned");
    let next = || loop {
        match reader.poll(SOON) {
            Some(Ok(message)) => return message.offset(),
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            other => panic!("no record: {other:?}"),
        }
    };
    let writer = producer(&broker.address(), &[]);
    send(&writer, "t", 0, "first");
    drain(&writer);
    assert_eq!(next(), 0);
    std::thread::sleep(Duration::from_millis(300)); // now the reader's request waits at the broker
    let sent = Instant::now();
    send(&writer, "t", 0, "second");
    drain(&writer);
    assert_eq!(next(), 1);
    assert!(sent.elapsed() < Duration::from_millis(1500), "it took {:?}", sent.elapsed());
}

#[test]
fn transactions_show_when_they_commit_and_never_when_they_abort() {
    let broker = start(config());
    let address = broker.address();
    broker.create_topic("out", 2).expect("a topic");
    broker.create_topic("in", 1).expect("a topic");
    let writer = transactional(&address, "tx");
    let group = consumer(&address, "g", &[]).group_metadata().expect("a group");
    let step = |name: &str, offset: i64| {
        writer.begin_transaction().expect("begun");
        send(&writer, "out", 0, &format!("{name}0"));
        send(&writer, "out", 1, &format!("{name}1"));
        drain(&writer);
        let offsets = offsets("in", offset, &format!("after {name}"));
        writer.send_offsets_to_transaction(&offsets, &group, SOON).expect("offsets taken");
    };
    step("a", 10);
    writer.commit_transaction(SOON).expect("committed");
    assert_eq!(committed(&address, "g", "in", SOON), Ok((Offset::Offset(10), "after a".into())));

    step("b", 20);
    assert_eq!(values(&address, "out", 0, COMMITTED), ["a0"]);
    let while_open = committed(&address, "g", "in", Duration::from_millis(500));
    assert!(while_open.is_err(), "an open transaction may change the offset, so who asks waits: {while_open:?}");
    writer.abort_transaction(SOON).expect("aborted");
    assert_eq!(committed(&address, "g", "in", SOON), Ok((Offset::Offset(10), "after a".into())));

    step("c", 30);
    writer.commit_transaction(SOON).expect("committed");
    assert_eq!(values(&address, "out", 0, COMMITTED), ["a0", "c0"]);
    assert_eq!(values(&address, "out", 1, COMMITTED), ["a1", "c1"]);
    assert_eq!(values(&address, "out", 1, ALL), ["a1", "b1", "c1"]);
    assert_eq!(committed(&address, "g", "in", SOON), Ok((Offset::Offset(30), "after c".into())));

    writer.begin_transaction().expect("begun");
    let nowhere = offsets("no such topic", 1, "");
    assert!(writer.send_offsets_to_transaction(&nowhere, &group, Duration::from_secs(1)).is_err());
}

#[test]
fn a_transaction_outlives_a_topic_that_it_wrote_to() {
    let broker = start(config());
    broker.create_topic("kept", 1).expect("a topic");
    broker.create_topic("gone", 1).expect("a topic");
    let admin: AdminClient<DefaultClientContext> = client(&broker.address(), &[]).create().expect("a client");
    let writer = transactional(&broker.address(), "tx");
    for topics in [&["kept", "gone"][..], &["kept"]] {
        writer.begin_transaction().expect("begun");
        topics.iter().for_each(|topic| send(&writer, topic, 0, "x"));
        drain(&writer);
        block_on(admin.delete_topics(&["gone"], &AdminOptions::new())).expect("an answer");
        writer.commit_transaction(SOON).expect("committed");
    }
    assert_eq!(values(&broker.address(), "kept", 0, COMMITTED), ["x", "x"]);
}

#[test]
fn a_zombie_is_fenced_and_nothing_of_it_shows() {
    let broker = start(config());
    broker.create_topic("t", 1).expect("a topic");
    let old = transactional(&broker.address(), "tx");
    old.begin_transaction().expect("begun");
    send(&old, "t", 0, "zombie");
    drain(&old);
    let new = transactional(&broker.address(), "tx");
    new.begin_transaction().expect("begun");
    send(&new, "t", 0, "good");
    drain(&new);
    new.commit_transaction(SOON).expect("committed");
    let _ = old.send(BaseRecord::<str, str>::to("t").payload("zombie again"));
    let refused = old.commit_transaction(SOON).expect_err("the zombie is fenced");
    assert!(is_fatal(&refused), "{refused}");
    assert_eq!(values(&broker.address(), "t", 0, COMMITTED), ["good"]);
}

#[test]
fn a_transaction_that_outlives_its_timeout_is_aborted_and_fenced() {
    let broker = start(config());
    broker.create_topic("t", 1).expect("a topic");
    let slow = producer(&broker.address(), &[("transactional.id", "slow"), ("transaction.timeout.ms", "3000")]);
    slow.init_transactions(SOON).expect("the producer is ready");
    slow.begin_transaction().expect("begun");
    send(&slow, "t", 0, "late");
    drain(&slow);
    let other = producer(&broker.address(), &[]);
    send(&other, "t", 0, "other");
    drain(&other);
    assert!(values(&broker.address(), "t", 0, COMMITTED).is_empty(), "the open transaction holds back what follows");
    let deadline = Instant::now() + SOON;
    while values(&broker.address(), "t", 0, COMMITTED) != ["other"] {
        assert!(Instant::now() < deadline, "the transaction stays open");
    }
    let refused = slow.commit_transaction(SOON).expect_err("the slow producer is fenced");
    assert!(is_fatal(&refused), "{refused}");
    let again = transactional(&broker.address(), "slow");
    again.begin_transaction().expect("begun");
    send(&again, "t", 0, "in time");
    drain(&again);
    again.commit_transaction(SOON).expect("committed");
    assert_eq!(values(&broker.address(), "t", 0, COMMITTED), ["other", "in time"]);
}

#[test]
fn an_offset_needs_a_topic_and_short_metadata() {
    let broker = start(config());
    broker.create_topic("t", 1).expect("a topic");
    let member = consumer(&broker.address(), "g", &[]);
    member.commit(&offsets("t", 1, &"m".repeat(4096)), CommitMode::Sync).expect("as long as allowed");
    let code = |offsets| member.commit(&offsets, CommitMode::Sync).map_err(|error| error.rdkafka_error_code());
    assert_eq!(code(offsets("t", 2, &"m".repeat(4097))), Err(Some(RDKafkaErrorCode::OffsetMetadataTooLarge)));
    assert_eq!(code(offsets("nowhere", 2, "")), Err(Some(RDKafkaErrorCode::UnknownTopicOrPartition)));
}

#[test]
fn a_group_shares_partitions_when_a_second_member_comes() {
    let broker = start(config());
    let address = broker.address();
    broker.create_topic("t", 4).expect("a topic");
    let writer = producer(&address, &[]);
    let put = |numbers: std::ops::Range<i32>| {
        numbers.for_each(|number| send(&writer, "t", number % 4, &number.to_string()));
        drain(&writer);
    };
    let quick = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")];
    let (first, second) = (consumer(&address, "g", &quick), consumer(&address, "g", &quick));
    let seen = std::cell::RefCell::new(Vec::new());
    let take = |member: &BaseConsumer| match member.poll(Duration::from_millis(10)) {
        Some(Ok(message)) => seen.borrow_mut().push(message.payload().unwrap_or_default().to_vec()),
        Some(Err(KafkaError::PartitionEOF(_))) | None => {}
        Some(Err(error)) => panic!("{error}"),
    };
    let deadline = Instant::now() + 2 * SOON;
    put(0..100);
    first.subscribe(&["t"]).expect("subscribed");
    while seen.borrow().len() < 100 {
        assert!(Instant::now() < deadline, "alone: {} of 100", seen.borrow().len());
        take(&first);
    }
    first.commit_consumer_state(CommitMode::Sync).expect("committed");
    second.subscribe(&["t"]).expect("subscribed");
    let share = |member: &BaseConsumer| member.assignment().expect("an assignment").count();
    while (share(&first), share(&second)) != (2, 2) {
        assert!(Instant::now() < deadline, "shares: {} and {}", share(&first), share(&second));
        take(&first);
        take(&second);
    }
    put(100..200);
    while seen.borrow().len() < 200 {
        assert!(Instant::now() < deadline, "together: {} of 200", seen.borrow().len());
        take(&first);
        take(&second);
    }
    let distinct: BTreeSet<_> = seen.borrow().iter().cloned().collect();
    assert_eq!(distinct.len(), 200, "no record came twice");

    let groups = writer.client().fetch_group_list(Some("g"), SOON).expect("a description");
    let group = &groups.groups()[0];
    assert_eq!((group.name(), group.state(), group.members().len()), ("g", "Stable", 2));
    drop((first, second));
    let groups = writer.client().fetch_group_list(None, SOON).expect("a list");
    let group = groups.groups().iter().find(|group| group.name() == "g").expect("its offsets are still there");
    assert_eq!((group.state(), group.members().len()), ("Empty", 0));
}

#[test]
fn topics_and_groups_are_made_described_and_deleted() {
    let broker = start(Config { default_partitions: 3, ..config() });
    let address = broker.address();
    let admin: AdminClient<DefaultClientContext> = client(&address, &[]).create().expect("a client");
    let options = AdminOptions::new().request_timeout(Some(SOON));
    let topic = |name, partitions| NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let asked = [topic("a", 2), topic("bad name", 1), topic("none", 20_000)];
    let made = block_on(admin.create_topics(&asked, &options)).expect("an answer");
    let codes: Vec<_> = made.into_iter().map(|each| each.map_err(|(_, code)| code)).collect();
    use RDKafkaErrorCode::{InvalidPartitions, InvalidTopic, TopicAlreadyExists};
    assert_eq!(codes, [Ok("a".into()), Err(InvalidTopic), Err(InvalidPartitions)]);
    let again = block_on(admin.create_topics(&asked[..1], &options)).expect("an answer");
    assert!(matches!(&again[0], Err((_, TopicAlreadyExists))));
    assert_eq!(broker.create_topic("a", 1).map_err(|error| error.kind()), Err(ErrorKind::Invalid));

    let partitions = |topic: &str| {
        let metadata = admin.inner().fetch_metadata(None, SOON).expect("metadata");
        metadata.topics().iter().find(|each| each.name() == topic).map(|each| each.partitions().len())
    };
    assert_eq!(partitions("a"), Some(2));
    block_on(admin.create_partitions(&[NewPartitions::new("a", 5)], &options)).expect("an answer");
    assert_eq!(partitions("a"), Some(5));
    let fewer = block_on(admin.create_partitions(&[NewPartitions::new("a", 4)], &options)).expect("an answer");
    assert!(matches!(&fewer[0], Err((_, InvalidPartitions))));

    let asked = [ResourceSpecifier::Topic("a"), ResourceSpecifier::Broker(1), ResourceSpecifier::Topic("nowhere")];
    let mut settings = block_on(admin.describe_configs(&asked, &options)).expect("an answer").into_iter();
    let mut value = |key: &str| settings.next()?.ok()?.get(key)?.value.clone();
    assert_eq!(value("cleanup.policy").as_deref(), Some("delete"));
    assert_eq!(value("num.partitions").as_deref(), Some("3"));
    assert_eq!(value("cleanup.policy"), None);

    let writer = producer(&address, &[]);
    send(&writer, "a", 4, "x");
    send(&writer, "made by its first record", 0, "x");
    send(&writer, "made-by-its-first-record", 0, "x");
    let _ = writer.flush(Duration::from_secs(1)); // the one with blanks is refused
    assert_eq!(partitions("made-by-its-first-record"), Some(3));
    consumer(&address, "g", &[]).commit(&offsets("a", 1, ""), CommitMode::Sync).expect("committed");
    let deleted = block_on(admin.delete_groups(&["g", "nobody"], &options)).expect("an answer");
    assert!(matches!(&deleted[..], [Ok(_), Err((_, RDKafkaErrorCode::GroupIdNotFound))]), "{deleted:?}");
    assert_eq!(committed(&address, "g", "a", SOON).map(|found| found.0), Ok(Offset::Invalid));

    let deleted = block_on(admin.delete_topics(&["a", "nowhere"], &options)).expect("an answer");
    assert!(matches!(&deleted[..], [Ok(_), Err(_)]), "{deleted:?}");
    assert_eq!(partitions("a"), None);
    broker.create_topic("a", 5).expect("the name is free");
    assert!(values(&address, "a", 4, ALL).is_empty(), "what was deleted stays deleted");
}

#[test]
fn old_records_go_when_the_limit_is_reached_and_readers_are_told() {
    const LIMIT: usize = 4 * MIB;
    let dir = tempfile::tempdir().expect("a directory");
    let stored = || Config { dir: Some(dir.path().into()), memory_limit: LIMIT, ..config() };
    let broker = start(stored());
    let address = broker.address();
    broker.create_topic("large", 1).expect("a topic");
    broker.create_topic("small", 1).expect("a topic");
    let writer = producer(&address, &[("batch.size", "65536")]);
    let filler = "x".repeat(1000);
    for number in 0..20_000 {
        send(&writer, "large", 0, &format!("{number} {filler}"));
        if number % 100 == 0 {
            send(&writer, "small", 0, &number.to_string());
        }
    }
    writer.flush(SOON).expect("all sent");

    let (low, high) = writer.client().fetch_watermarks("large", 0, SOON).expect("watermarks");
    assert!(high == 20_000 && (16_000..19_000).contains(&low), "{low}..{high}");
    let left = values(&address, "large", 0, ALL);
    assert_eq!(left.len() as i64, high - low);
    assert!(left.iter().zip(low..).all(|(value, number)| value.starts_with(&format!("{number} "))));
    assert_eq!(values(&address, "small", 0, ALL).len(), 200, "small partitions keep theirs");
    let on_disk = disk_bytes(dir.path());
    assert!(on_disk < 2 * LIMIT as u64, "{on_disk} bytes on the disk");

    let reader = consumer(&address, "g", &[("auto.offset.reset", "error")]);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset("large", 0, Offset::Offset(5)).expect("an offset");
    reader.assign(&assignment).expect("assigned");
    let told = reader.poll(SOON).expect("news").expect_err("offset 5 is gone");
    assert_eq!(told.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset), "{told}");

    drop(broker);
    let broker = start(stored());
    let (low_again, high_again) =
        producer(&broker.address(), &[]).client().fetch_watermarks("large", 0, SOON).expect("watermarks");
    assert_eq!(high_again, high);
    assert!((low - 1_000..high).contains(&low_again), "{low_again} after {low}");
}

fn disk_bytes(dir: &Path) -> u64 {
    files(dir).iter().map(|file| fs::metadata(file).expect("it is there").len()).sum()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_directory_keeps_everything_and_a_torn_tail_is_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let stored = || Config { dir: Some(dir.path().into()), fsync: true, ..config() };
    let broker = start(stored());
    broker.create_topic("t", 2).expect("a topic");
    broker.create_topic("gone", 1).expect("a topic");
    let writer = transactional(&broker.address(), "tx");
    let group = consumer(&broker.address(), "g", &[]).group_metadata().expect("a group");
    for (name, commit) in [("a", true), ("b", false), ("c", true)] {
        writer.begin_transaction().expect("begun");
        send(&writer, "t", 0, name);
        drain(&writer);
        let offsets = offsets("t", 7, name);
        writer.send_offsets_to_transaction(&offsets, &group, SOON).expect("offsets taken");
        let ended = if commit { writer.commit_transaction(SOON) } else { writer.abort_transaction(SOON) };
        ended.expect("ended");
    }
    // This one is open when the broker goes.
    writer.begin_transaction().expect("begun");
    send(&writer, "t", 0, "open");
    drain(&writer);
    let other = Broker::start(stored()).map(|_| ()).expect_err("the directory is in use");
    assert_eq!(other.kind(), ErrorKind::Invalid);
    let admin: AdminClient<DefaultClientContext> = client(&broker.address(), &[]).create().expect("a client");
    block_on(admin.delete_topics(&["gone"], &AdminOptions::new())).expect("an answer")[0].as_ref().expect("deleted");
    drop(broker);

    for file in files(dir.path()) {
        let whole = fs::read(&file).expect("readable");
        let torn = &whole[..whole.len().min(40)];
        File::options().append(true).open(&file).expect("writable").write_all(torn).expect("written");
    }
    let broker = start(stored());
    let address = broker.address();
    assert_eq!(values(&address, "t", 0, COMMITTED), ["a", "c"]);
    assert_eq!(values(&address, "t", 0, ALL), ["a", "b", "c", "open"]);
    assert_eq!(committed(&address, "g", "t", SOON), Ok((Offset::Offset(7), "c".into())));
    let writer = transactional(&address, "tx");
    writer.begin_transaction().expect("begun");
    send(&writer, "t", 0, "d");
    drain(&writer);
    writer.commit_transaction(SOON).expect("committed");
    assert_eq!(values(&address, "t", 0, COMMITTED), ["a", "c", "d"]);
    assert!(broker.create_topic("gone", 1).is_ok(), "it was deleted");
}

/// What Metadata 10 says is the id of topic `name`; asking creates nothing.
fn topic_id(address: &str, name: &str) -> [u8; 16] {
    let mut request = [3i16, 10].map(i16::to_be_bytes).concat(); // Metadata
    request.extend([0, 0, 0, 7, 0xff, 0xff, 0]); // correlation, no client id, no tags
    request.push(2); // one topic
    request.extend([0; 16]);
    request.push(name.len() as u8 + 1);
    request.extend(name.as_bytes());
    request.extend([0, 0, 0, 0, 0]); // tags, nothing to create, no operations, tags
    let mut stream = TcpStream::connect(address).expect("the broker listens");
    stream.write_all(&(request.len() as u32).to_be_bytes()).expect("sent");
    stream.write_all(&request).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    let at = answer.windows(name.len()).position(|part| part == name.as_bytes()).expect("the topic is described");
    answer[at + name.len()..][..16].try_into().expect("sixteen bytes")
}

#[test]
fn a_topics_id_is_its_own_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let stored = || Config { dir: Some(dir.path().into()), ..config() };
    let broker = start(stored());
    let address = broker.address();
    broker.create_topic("first", 1).expect("a topic");
    broker.create_topic("second", 1).expect("a topic");
    let (first, second) = (topic_id(&address, "first"), topic_id(&address, "second"));
    assert!(first != [0; 16] && first != second);
    assert_eq!(topic_id(&address, "third"), [0; 16], "there is none");
    let admin: AdminClient<DefaultClientContext> = client(&address, &[]).create().expect("a client");
    let grown = block_on(admin.create_partitions(&[NewPartitions::new("first", 3)], &AdminOptions::new()));
    grown.expect("an answer")[0].as_ref().expect("grown");
    assert_eq!(topic_id(&address, "first"), first, "more partitions make no other topic of it");
    drop(broker);

    let broker = start(stored());
    let address = broker.address();
    assert_eq!([topic_id(&address, "first"), topic_id(&address, "second")], [first, second]);
    let admin: AdminClient<DefaultClientContext> = client(&address, &[]).create().expect("a client");
    block_on(admin.delete_topics(&["first"], &AdminOptions::new())).expect("an answer")[0].as_ref().expect("deleted");
    broker.create_topic("first", 1).expect("a topic");
    let again = topic_id(&address, "first");
    assert!(again != first && again != second);
    // another broker's first topic is another one, too
    let (other, another) = (start(config()), start(config()));
    for broker in [&other, &another] {
        broker.create_topic("first", 1).expect("a topic");
    }
    assert_ne!(topic_id(&other.address(), "first"), topic_id(&another.address(), "first"));
}

/// Under a producer that writes and one that commits, the broker is killed several times and comes back.
#[test]
fn kills_of_the_broker_lose_and_double_nothing() {
    const KILLS: usize = 4;
    let seed = seed();
    let dir = tempfile::tempdir().expect("a directory");
    let mut broker = ChildBroker::start(dir.path(), "127.0.0.1:0");
    let address = broker.address.clone();
    let done = &AtomicBool::new(false);
    let (_broker, sent, epochs) = std::thread::scope(|scope| {
        let plain = scope.spawn(|| {
            let writer = producer(&address, &[]);
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                send(&writer, "plain", 0, &sent.to_string());
                sent += 1;
                writer.poll(Duration::from_micros(200));
            }
            writer.flush(2 * SOON).expect("all sent");
            sent
        });
        let commits = scope.spawn(|| {
            let writer = transactional(&address, "tx");
            let group = consumer(&address, "g", &[]).group_metadata().expect("a group");
            let mut epochs = 0;
            while !done.load(Ordering::Relaxed) {
                writer.begin_transaction().expect("begun");
                for record in 0..3 {
                    send(&writer, "tx", 0, &format!("{epochs}.{record}"));
                }
                drain(&writer);
                let offsets = offsets("plain", epochs + 1, "");
                writer.send_offsets_to_transaction(&offsets, &group, 2 * SOON).expect("offsets taken");
                writer.commit_transaction(2 * SOON).expect("committed");
                epochs += 1;
            }
            epochs
        });
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..KILLS {
            std::thread::sleep(Duration::from_millis(random.random_range(300..900)));
            let address = broker.kill();
            broker = ChildBroker::start(dir.path(), &address);
        }
        std::thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Relaxed);
        let sent = plain.join().expect("the plain producer");
        (broker, sent, commits.join().expect("the transactional producer"))
    });
    println!("{sent} records and {epochs} transactions over {KILLS} kills");
    assert!(values(&address, "plain", 0, ALL) == (0..sent).map(|number| number.to_string()).collect::<Vec<_>>());
    let expected = (0..epochs).flat_map(|epoch| (0..3).map(move |record| format!("{epoch}.{record}")));
    assert!(values(&address, "tx", 0, COMMITTED) == expected.collect::<Vec<_>>());
    assert_eq!(committed(&address, "g", "plain", SOON).map(|found| found.0), Ok(Offset::Offset(epochs)));
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    seed
}

/// A frame of random fields behind a header that the broker knows, so that it gets past the first check.
fn random_frame(random: &mut StdRng) -> Vec<u8> {
    let keys = [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 22, 24, 25, 26, 28, 32, 37, 42, 77];
    let mut body: Vec<u8> = Vec::new();
    body.extend(i16::to_be_bytes(keys[random.random_range(0..keys.len())]));
    body.extend(i16::to_be_bytes(random.random_range(0..9)));
    body.extend(i32::to_be_bytes(1));
    body.extend([0, 1, b'c']);
    for _ in 0..random.random_range(0..12) {
        match random.random_range(0..6) {
            0 => body.extend(i16::to_be_bytes(random.random_range(-2..4))),
            1 => body.extend(i32::to_be_bytes(random.random_range(-2..4))),
            2 => body.extend(i64::to_be_bytes(random.random_range(-2..9))),
            3 => body.extend([0, 1, b't']),
            4 => body.extend(i32::to_be_bytes(random.random())),
            _ => body.extend((0..random.random_range(0..40)).map(|_| random.random::<u8>())),
        }
    }
    let mut frame = i32::to_be_bytes(body.len() as i32).to_vec();
    frame.extend(body);
    frame
}

#[test]
fn garbage_neither_kills_the_broker_nor_fills_its_memory() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let broker = ChildBroker::start(dir.path(), "127.0.0.1:0");
    let writer = producer(&broker.address, &[]);
    send(&writer, "kept", 0, "before"); // no random frame can name it
    drain(&writer);
    let connect = || {
        let stream = TcpStream::connect(&broker.address).expect("the broker listens");
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        stream
    };
    let mut stream = connect();
    for number in 0..3_000 {
        let frame = random_frame(&mut random);
        let length = if number % 3 == 0 { random.random_range(0..frame.len()) } else { frame.len() };
        // A connection that was closed, or that has a request cut short in it, is followed by a new one.
        let is_usable = stream.write_all(&frame[..length]).is_ok() && length == frame.len();
        if !is_usable || matches!(stream.read(&mut [0; 4096]), Ok(0)) {
            stream = connect();
        }
    }
    // Lengths that are not allowed are answered by closing; allowed ones reserve no memory before the bytes come.
    for length in [-1, 0, 7, i32::MAX, 17 << 20] {
        let mut stream = connect();
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(&i32::to_be_bytes(length)).expect("sent");
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)), "a length of {length} is refused");
    }
    let _waiting: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(&i32::to_be_bytes(16 << 20)).expect("sent");
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    if let Some(peak) = broker.memory_peak_mib() {
        assert!(peak < 200, "the broker took {peak} MiB");
    }
    send(&writer, "kept", 0, "after");
    drain(&writer);
    let values = values(&broker.address, "kept", 0, ALL);
    assert_eq!(
        (values.first().map(String::as_str), values.last().map(String::as_str)),
        (Some("before"), Some("after"))
    );
}

/// Whether the broker answers on this connection, and does not close it.
fn is_served(mut stream: &TcpStream) -> bool {
    let api_versions = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.write_all(&api_versions).is_ok() && matches!(stream.read(&mut [0; 1024]), Ok(1..))
}

#[test]
fn a_connection_too_many_is_closed_and_all_are_when_the_broker_goes() {
    let broker = start(Config { connections_max: 3, ..config() });
    let connect = || TcpStream::connect(broker.address()).expect("the broker listens");
    let mut open: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    assert!(open.iter().all(is_served));
    assert!(!is_served(&connect()));
    assert!(open.iter().all(is_served));
    open.pop();
    let deadline = Instant::now() + SOON;
    while !is_served(&connect()) {
        assert!(Instant::now() < deadline, "a closed connection makes room");
    }
    let address = broker.address();
    drop(broker);
    assert!(!open.iter().any(is_served));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    for listen in ["0.0.0.0:0", "192.0.2.1:9092", "[::]:0"] {
        let refused = Broker::start(Config { listen: listen.into(), ..config() }).map(|_| ()).expect_err(listen);
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.advice().is_some());
    }
    let no_partitions = Broker::start(Config { default_partitions: 0, ..config() }).map(|_| ()).expect_err("0");
    assert_eq!(no_partitions.kind(), ErrorKind::Invalid);
    let first = start(config());
    let taken =
        Broker::start(Config { listen: first.address(), ..config() }).map(|_| ()).expect_err("the port is taken");
    assert_eq!(taken.kind(), ErrorKind::Unavailable);
}
