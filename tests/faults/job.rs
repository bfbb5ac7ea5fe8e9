//! A pipeline under faults, topic to topics, and what it has to say: the rows are a function of their numbers, so the test counts them itself.

use crate::kafka::{create_topic, producer, unique};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const PARTITIONS: i32 = 4;

/// What nothing here takes, however busy the machine is.
pub const LIMIT: Duration = Duration::from_secs(300);

const WORDS: u64 = 7;

/// Of rows that follow each other in event time.
const STEP_MS: u64 = 100;

/// Rows of a window of ten seconds.
const WINDOW: u64 = 10_000 / STEP_MS;

/// A topic of rows 0, 1, 2 …, in order of event time within each partition, so that none is late.
#[derive(Clone)]
pub struct Input {
    pub bootstrap: String,
    pub topic: String,
}

impl Input {
    pub fn new(bootstrap: &str) -> Self {
        Input { bootstrap: bootstrap.to_owned(), topic: create_topic(bootstrap, "fault-in", PARTITIONS) }
    }

    /// With all of `rows`.
    pub fn with(bootstrap: &str, rows: u64) -> Self {
        let input = Input::new(bootstrap);
        input.send(0..rows, None);
        input
    }

    /// Sends `rows`, so many a second if a rate is given, and waits until they are there.
    pub fn send(&self, rows: Range<u64>, rate: Option<u64>) {
        let client = producer(&self.bootstrap, &[("enable.idempotence", "true"), ("message.timeout.ms", "120000")]);
        let (start, first) = (Instant::now(), rows.start);
        for row in rows {
            if let Some(rate) = rate {
                let due = Duration::from_millis((row - first) * 1000 / rate);
                while start.elapsed() < due {
                    client.poll(Duration::from_millis(5));
                }
            }
            let ts = row * STEP_MS;
            let (h, m, s) = (ts / 3_600_000, ts / 60_000 % 60, ts / 1000 % 60);
            let ts = format!("2026-01-01T{h:0>2}:{m:0>2}:{s:0>2}.{:0>3}", ts % 1000);
            let value = format!("{{\"n\":{row},\"word\":\"{}\",\"ts\":\"{ts}\"}}", word(row));
            let mut record = BaseRecord::<(), str>::to(&self.topic).partition((row % PARTITIONS as u64) as i32);
            record.payload = Some(&value);
            client.send(record).map_err(|(error, _)| error).unwrap();
        }
        client.flush(Duration::from_secs(120)).unwrap();
    }

    /// Sends a row of a later day to each partition: it closes all windows but its own.
    pub fn close(&self) {
        let client = producer(&self.bootstrap, &[]);
        for partition in 0..PARTITIONS {
            let value = "{\"n\":0,\"word\":\"end\",\"ts\":\"2026-01-02T12:00:00.000\"}";
            let record = BaseRecord::<(), str>::to(&self.topic).partition(partition).payload(value);
            client.send(record).map_err(|(error, _)| error).unwrap();
        }
        client.flush(Duration::from_secs(120)).unwrap();
    }
}

fn word(row: u64) -> String {
    format!("w{}", row * 7919 % 101 % WORDS)
}

/// What the pipeline has to say of the first `rows` rows, as JSON texts: all windows, sorted, and the totals.
pub fn expected(rows: u64) -> (Vec<String>, Vec<String>) {
    let mut windows: BTreeMap<(u64, String), (u64, u64)> = BTreeMap::new();
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in 0..rows {
        for (c, s) in [windows.entry((row / WINDOW, word(row))).or_default(), totals.entry(word(row)).or_default()] {
            (*c, *s) = (*c + 1, *s + row);
        }
    }
    let at = |window: u64| format!("{:0>2}:{:0>2}:{:0>2}", window / 360, window / 6 % 60, window % 6 * 10);
    let window = |((window, word), (c, s)): ((u64, String), (u64, u64))| {
        format!("{{\"at\":\"2026-01-01 {}\",\"word\":\"{word}\",\"c\":{c},\"s\":{s}}}", at(window))
    };
    let mut windows: Vec<String> = windows.into_iter().map(window).collect();
    windows.sort_unstable();
    let total = |(word, (c, s)): (String, (u64, u64))| format!("{{\"word\":\"{word}\",\"c\":{c},\"s\":{s}}}");
    (windows, totals.into_iter().map(total).collect())
}

/// A pipeline that counts an input's rows by window and word, and by word.
pub struct Job {
    pub dir: TempDir,
    pub input: Input,
    /// The broker for reading back, and for the pipeline unless it was told another.
    pub windows: String,
    pub totals: String,
    pub name: String,
}

/// How a job is told apart from the usual one: it ends with its input, and takes a checkpoint every 100 rows of a partition.
#[derive(Default, Clone)]
pub struct Special<'a> {
    /// It reads on for ever, with an epoch every 50 ms and a checkpoint every 100 ms.
    pub endless: bool,
    /// Further options of the sinks.
    pub sinks: &'a str,
    /// Further options of the source.
    pub source: &'a str,
    /// Where the pipeline finds the broker, if not where the test does.
    pub bootstrap: Option<&'a str>,
    /// Further settings.
    pub settings: &'a str,
}

impl Job {
    pub fn new(input: &Input) -> Self {
        Job::special(input, Special::default())
    }

    pub fn endless(input: &Input) -> Self {
        Job::special(input, Special { endless: true, ..Special::default() })
    }

    pub fn special(input: &Input, special: Special<'_>) -> Self {
        let topic = |prefix| create_topic(&input.bootstrap, prefix, PARTITIONS);
        let job = Job {
            dir: tempfile::tempdir().unwrap(),
            input: input.clone(),
            windows: topic("fault-windows"),
            totals: topic("fault-totals"),
            name: unique("faults"),
        };
        fs::write(job.path("pipeline.sql"), job.text(special)).unwrap();
        job
    }

    /// The definition.
    pub fn text(&self, special: Special<'_>) -> String {
        let (pace, bounded) = match special.endless {
            true => ("SET 'tick' = '50 ms'; SET 'checkpoint_interval' = '100 ms';", ""),
            false => (
                "SET 'tick' = '100 rows'; SET 'checkpoint_interval' = '1 epochs';",
                ", 'scan.bounded.mode' = 'latest-offset'",
            ),
        };
        let bootstrap = special.bootstrap.unwrap_or(&self.input.bootstrap);
        let topic = |name: &str| {
            format!(
                "'connector' = 'kafka', 'topic' = '{name}', 'properties.bootstrap.servers' = '{bootstrap}', 'format' = 'json'"
            )
        };
        let Special { sinks, source, settings, .. } = special;
        format!(
            "SET 'pipeline.name' = '{}'; SET 'checkpoint_store' = 'checkpoints'; {pace} {settings}
CREATE TABLE t (n BIGINT, word STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ({}{bounded}{source});
CREATE TABLE windows (at TIMESTAMP(3), word STRING, c BIGINT, s BIGINT) WITH ({}{sinks});
CREATE TABLE totals (word STRING, c BIGINT, s BIGINT, PRIMARY KEY (word) NOT ENFORCED) WITH ({}{sinks});
INSERT INTO windows SELECT window_start, word, count(*), sum(n)
FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, word;
INSERT INTO totals SELECT word, count(*), sum(n) FROM t GROUP BY word;\n",
            self.name,
            topic(&self.input.topic),
            topic(&self.windows),
            topic(&self.totals),
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where its checkpoints are.
    pub fn store(&self) -> PathBuf {
        self.path("checkpoints").join(&self.name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("RUST_BACKTRACE", "0").env_remove("HIGHWATER_FAIL");
        command
    }

    /// Starts it on `shape`, with variables in its environment.
    pub fn start(&self, shape: &[&str], environment: &[(&str, &str)]) -> Run {
        let mut command = self.command(&[&["run", "pipeline.sql", "--no-progress"], shape].concat());
        command.envs(environment.iter().copied());
        Run::of(command, self.path(&format!("{}.err", unique("run"))))
    }

    /// Runs it to its end.
    pub fn run(&self, shape: &[&str]) -> (i32, String) {
        self.start(shape, &[]).end()
    }

    /// Runs another command to its end: exit code, output, errors.
    pub fn tell(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// The last committed checkpoint.
    pub fn checkpoint(&self) -> Option<u64> {
        let (_, out, _) = self.tell(&["state", "ls", "pipeline.sql", "--json"]);
        let told: serde_json::Value = serde_json::from_str(&out).ok()?;
        told["checkpoints"].as_array()?.last()?["epoch"].as_u64()
    }

    /// What a read_committed reader sees: rows that are missing or wrong, and rows that are there more often than they should be.
    pub fn difference(&self, rows: u64) -> (Vec<String>, Vec<String>) {
        let (windows, totals) = expected(rows);
        let ended = |value: &String| !value.contains("\"end\"");
        let mut found: Vec<String> =
            committed(&self.input.bootstrap, &self.windows).into_iter().map(|seen| seen.1).collect();
        found.retain(ended);
        found.sort_unstable();
        let latest = self.latest();
        let (mut lost, mut doubled) = (minus(&windows, &found), minus(&found, &windows));
        lost.extend(minus(&totals, &latest));
        doubled.extend(minus(&latest, &totals));
        (lost, doubled)
    }

    /// The newest totals by word, but of the row that closes windows.
    fn latest(&self) -> Vec<String> {
        let all: BTreeMap<String, String> = committed(&self.input.bootstrap, &self.totals).into_iter().collect();
        all.into_values().filter(|value| !value.contains("\"end\"")).collect()
    }

    /// True if the totals are those of the first `rows` rows; windows may still be open.
    pub fn totals_are_those_of(&self, rows: u64) -> bool {
        self.latest() == expected(rows).1
    }

    /// How many rows are in the totals.
    pub fn rows_counted(&self) -> u64 {
        let count = |value: String| serde_json::from_str::<serde_json::Value>(&value).unwrap()["c"].as_u64().unwrap();
        self.latest().into_iter().map(count).sum()
    }

    /// True if all is there that has to be.
    pub fn complete(&self, rows: u64) -> bool {
        self.difference(rows).0.is_empty()
    }

    /// What it has written of `rows` rows is what it should have.
    pub fn check(&self, rows: u64, what: &str) {
        let (lost, doubled) = self.difference(rows);
        assert!(
            lost.is_empty() && doubled.is_empty(),
            "{what}: {} lost, {} doubled or wrong: lost {:?}, doubled {:?}",
            lost.len(),
            doubled.len(),
            &lost[..lost.len().min(5)],
            &doubled[..doubled.len().min(5)]
        );
    }
}

/// The texts of `all` without those of `known`, as multisets.
fn minus(all: &[String], known: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    known.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    let mut over = Vec::new();
    for text in all {
        let count = counts.entry(text).or_default();
        *count -= 1;
        if *count < 0 {
            over.push(text.clone());
        }
    }
    over
}

/// A reader of committed records that stands at the beginning of `topic`.
pub fn reader(bootstrap: &str, topic: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", "reader").set("enable.partition.eof", "true");
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut from = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&from).unwrap();
    consumer
}

/// Keys and values of all committed records, in order within each partition; no value reads as an empty one.
pub fn committed(bootstrap: &str, topic: &str) -> Vec<(String, String)> {
    let consumer = reader(bootstrap, topic);
    let (mut found, mut ended, start) = (Vec::new(), 0, Instant::now());
    while ended < PARTITIONS {
        assert!(start.elapsed() < LIMIT, "no end of \"{topic}\"");
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => found.push((text(record.key()), text(record.payload()))),
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => eprintln!("reader: {error}"),
            None => {}
        }
    }
    found
}

/// Waits for `done`.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "no {what} after {LIMIT:?}");
        sleep(Duration::from_millis(20));
    }
}

/// A run under way; all of its processes are ended with it.
pub struct Run {
    child: Child,
    err: PathBuf,
}

impl Run {
    pub fn of(mut command: Command, err: PathBuf) -> Self {
        let child = command.stdout(Stdio::null()).stderr(File::create(&err).unwrap()).spawn().unwrap();
        Run { child, err }
    }

    /// The process that was started: the supervisor, unless there is none.
    pub fn id(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// The process of worker 0, and then the others of the generation that runs under this supervisor.
    pub fn processes(&self) -> Vec<Pid> {
        let mut all = children(self.id());
        let others: Vec<Pid> = all.iter().flat_map(|process| children(*process)).collect();
        all.extend(others);
        all
    }

    /// Waits until so many processes of a generation run.
    pub fn wait_for_processes(&self, count: usize) -> Vec<Pid> {
        wait_for("generation", || self.processes().len() == count);
        self.processes()
    }

    /// Waits for `done` while it runs.
    pub fn wait_for(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(self.running() && start.elapsed() < LIMIT, "no {what}:\n{}", self.err());
            sleep(Duration::from_millis(20));
        }
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code and what it said.
    pub fn end(mut self) -> (i32, String) {
        let start = Instant::now();
        while self.running() {
            assert!(start.elapsed() < LIMIT, "it does not end:\n{}", self.err());
            sleep(Duration::from_millis(10));
        }
        let status = self.child.wait().unwrap();
        let err = self.err();
        assert!(!err.contains("panicked"), "{err}");
        (status.code().unwrap_or_else(|| -status.signal().unwrap()), err)
    }

    /// Ctrl-C.
    pub fn stop(self) -> (i32, String) {
        kill(self.id(), Signal::SIGINT).unwrap();
        self.end()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let all = self.processes();
            let _ = self.child.kill();
            let _ = self.child.wait();
            for process in all {
                let _ = kill(process, Signal::SIGKILL);
            }
        }
    }
}

pub fn children(process: Pid) -> Vec<Pid> {
    // a child is that of the thread which started it
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let ids: Vec<String> = tasks.flatten().map(of_task).collect();
    ids.iter().flat_map(|ids| ids.split_whitespace()).map(|id| Pid::from_raw(id.parse().unwrap())).collect()
}

pub fn lives(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// True if `process` was stopped by SIGSTOP.
pub fn stands_still(process: Pid) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default().contains(") T ")
}

/// A development broker in a process of its own, which keeps its data.
pub struct DevBroker {
    child: Child,
    dir: TempDir,
    pub address: String,
}

impl DevBroker {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, address) = DevBroker::spawn(&dir, "127.0.0.1:0");
        DevBroker { child, dir, address }
    }

    fn spawn(dir: &TempDir, listen: &str) -> (Child, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["broker", "--listen", listen, "--dir"]).arg(dir.path()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        (child, line.trim().to_owned())
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it where it was killed.
    pub fn restart(&mut self) {
        self.child = DevBroker::spawn(&self.dir, &self.address).0;
    }
}

impl Drop for DevBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
