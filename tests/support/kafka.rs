//! Brokers, topics and records for tests.
//!
//! [`Kafka`] is a real broker, started by `tools/kafka/kafka.sh` and gone when the test process is. Without Java and Maven
//! there is none: tests say so and pass, unless `HIGHWATER_REQUIRE_KAFKA=1` makes that a failure. What the connector wrote
//! is read back by a client that shares none of its code: kcat if it is installed, else Kafka's own console consumer.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A real broker.
pub struct Kafka {
    bootstrap: String,
    directory: PathBuf,
}

impl Kafka {
    /// The broker that all tests of this process share.
    pub fn start() -> Option<&'static Kafka> {
        static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
        SHARED.get_or_init(|| Kafka::start_own(&[])).as_ref()
    }

    /// A broker of the caller's own, to be killed, with further arguments for `kafka.sh start`.
    pub fn start_own(arguments: &[&str]) -> Option<Kafka> {
        let missing: Vec<&str> = ["java", "mvn"].into_iter().filter(|tool| !installed(tool)).collect();
        if !missing.is_empty() {
            let required = std::env::var("HIGHWATER_REQUIRE_KAFKA").is_ok_and(|value| value == "1");
            assert!(!required, "HIGHWATER_REQUIRE_KAFKA=1, but a real broker needs {}", missing.join(" and "));
            eprintln!("SKIPPED: no real Kafka without {}", missing.join(" and "));
            return None;
        }
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("kafka"));
        let pid = std::process::id().to_string();
        let start = ["start", "--watch-pid", &pid, "--purge", "--timeout", "120"];
        let bootstrap = kafka_sh(&directory, &[start.as_slice(), arguments].concat());
        Some(Kafka { bootstrap: bootstrap.trim().to_owned(), directory })
    }

    /// Where it listens.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where one of its other listeners is, if it was started with `--auth all`: `sasl`, `tls`, `sasl_tls`, `mutual`.
    pub fn listener(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(&format!("bootstrap.{name}"))).unwrap().trim().to_owned()
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Kills it, as a power cut would.
    pub fn kill(&self) {
        kafka_sh(&self.directory, &["stop", "--node", "1", "--kill"]);
    }

    /// Makes it stand still.
    pub fn pause(&self) {
        kafka_sh(&self.directory, &["pause", "--node", "1"]);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        kafka_sh(&self.directory, &["resume", "--node", "1"]);
    }

    /// Starts it again where it was killed.
    pub fn restart(&self) {
        kafka_sh(&self.directory, &["restart-node", "--node", "1", "--timeout", "120"]);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        kafka_sh(&self.directory, &["stop", "--kill", "--purge"]);
    }
}

/// Runs `tools/kafka/kafka.sh` over the cluster in `directory` and gives what it prints.
fn kafka_sh(directory: &Path, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/kafka/kafka.sh");
    let (command, rest) = arguments.split_first().expect("kafka.sh needs a command");
    let output =
        Command::new(script).arg(command).arg("--dir").arg(directory).args(rest).output().expect("bash runs kafka.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kafka.sh {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// True if `tool` is on the PATH.
pub fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// A name that no other test and no earlier run uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    format!("{prefix}-{since_1970:x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    config(bootstrap).create().unwrap()
}

fn patiently() -> AdminOptions {
    let wait = Some(Duration::from_secs(20));
    AdminOptions::new().operation_timeout(wait).request_timeout(wait)
}

/// Creates a topic with a unique name.
pub fn create_topic(bootstrap: &str, prefix: &str, partitions: i32) -> String {
    let name = unique(prefix);
    create_topic_named(bootstrap, &name, partitions);
    name
}

/// Creates a topic with this name, unless there is one.
pub fn create_topic_named(bootstrap: &str, name: &str, partitions: i32) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let made = futures_executor::block_on(admin(bootstrap).create_topics(&[topic], &patiently())).unwrap();
    match made.into_iter().next().unwrap() {
        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
        Err((_, code)) => panic!("topic \"{name}\": {code}"),
    }
}

/// Deletes a topic.
pub fn delete_topic(bootstrap: &str, topic: &str) {
    let gone = futures_executor::block_on(admin(bootstrap).delete_topics(&[topic], &patiently())).unwrap();
    gone.into_iter().next().unwrap().unwrap();
}

/// Gives a topic more partitions.
pub fn create_partitions(bootstrap: &str, topic: &str, partitions: usize) {
    let new = NewPartitions::new(topic, partitions);
    let made = futures_executor::block_on(admin(bootstrap).create_partitions(&[new], &patiently())).unwrap();
    made.into_iter().next().unwrap().unwrap();
}

/// A setting of a topic.
pub fn topic_setting(bootstrap: &str, topic: &str, name: &str) -> String {
    let asked = [ResourceSpecifier::Topic(topic)];
    let told = futures_executor::block_on(admin(bootstrap).describe_configs(&asked, &patiently())).unwrap();
    told.into_iter().next().unwrap().unwrap().get(name).unwrap().value.clone().unwrap()
}

/// Deletes the records of partition 0 before `offset`.
pub fn delete_records(bootstrap: &str, topic: &str, offset: i64) {
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    futures_executor::block_on(admin(bootstrap).delete_records(&before, &patiently())).unwrap();
}

/// A plain producer, with further properties.
pub fn producer(bootstrap: &str, properties: &[(&str, &str)]) -> BaseProducer {
    let mut config = config(bootstrap);
    for (name, value) in properties {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// Sends records with these values (none: a tombstone) and timestamps in milliseconds (0: now) to a partition, and waits.
pub fn produce<'a>(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    records: impl IntoIterator<Item = (Option<&'a [u8]>, i64)>,
) {
    for (value, millis) in records {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.payload = value;
        record.timestamp = (millis > 0).then_some(millis);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// Sends `texts` to a partition and waits.
pub fn produce_texts(bootstrap: &str, topic: &str, partition: i32, texts: &[&str]) {
    produce(&producer(bootstrap, &[]), topic, partition, texts.iter().map(|text| (Some(text.as_bytes()), 0)));
}

/// A record as another client sees it; no key reads as an empty one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub partition: i32,
    pub key: String,
    pub value: String,
}

/// Everything committed in `topic`, by partition in order, as an independent client reads it. None if there is no such
/// client here, which is said.
pub fn read_back(bootstrap: &str, topic: &str) -> Option<Vec<Seen>> {
    let (text, prefix) = if installed("kcat") {
        let format = ["-f", "%p\t%k\t%s\n"];
        let output = Command::new("kcat")
            .args(["-b", bootstrap, "-C", "-q", "-e", "-o", "beginning", "-t", topic])
            .args(format)
            .output();
        (String::from_utf8(output.unwrap().stdout).unwrap(), "")
    } else if installed("java") && installed("mvn") {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka-tools");
        let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
        let mut arguments = vec!["tool", "--bootstrap", bootstrap, class, "--bootstrap-server", "@B", "--topic", topic];
        arguments.extend(["--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "5000"]);
        for property in ["print.partition=true", "print.key=true", "null.literal="] {
            arguments.extend(["--formatter-property", property]);
        }
        (kafka_sh(&directory, &arguments), "Partition:")
    } else {
        eprintln!("SKIPPED: neither kcat nor Java is here to read \"{topic}\" back");
        return None;
    };
    let seen = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let partition = fields.next()?.strip_prefix(prefix)?.parse().ok()?;
        Some(Seen { partition, key: fields.next()?.to_owned(), value: fields.next()?.to_owned() })
    };
    // Java's client prints its log among the records
    let mut records: Vec<Seen> = text.lines().filter_map(seen).collect();
    records.sort_by_key(|record| record.partition);
    Some(records)
}

/// The committed records of a topic as kcat prints them in this format; none without kcat, which is said.
pub fn kcat(bootstrap: &str, topic: &str, format: &str) -> Option<String> {
    if !installed("kcat") {
        eprintln!("SKIPPED: no kcat is here to read \"{topic}\" back");
        return None;
    }
    let arguments = ["-b", bootstrap, "-C", "-q", "-e", "-o", "beginning", "-t", topic, "-f", format];
    let output = Command::new("kcat").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Sends `key<TAB>value` lines by Kafka's own console producer. False if there is no Java here, which is said.
pub fn produce_by_java(bootstrap: &str, topic: &str, lines: &str) -> bool {
    if !(installed("java") && installed("mvn")) {
        eprintln!("SKIPPED: no Java client without java and mvn");
        return false;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/kafka/kafka.sh");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka-tools");
    let mut child = Command::new(script)
        .args(["produce", "--bootstrap", bootstrap, "--keyed", topic, "--dir"])
        .arg(directory)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "the console producer failed");
    true
}

/// Runs `work` and fails if it takes longer than `limit`, rather than hang.
pub fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    let thread = std::thread::spawn(move || drop(done.send(work())));
    match wait.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("{what}: not done after {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the result is sent before the thread ends"),
        },
    }
}
