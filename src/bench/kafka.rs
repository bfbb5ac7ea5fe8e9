//! Topics to read and write: filled outside of the clock, read by librdkafka alone as the limit, removed afterwards.
//!
//! The limit takes records from librdkafka in batches, as the connector does, and drops them: no pipeline can read faster.

pub mod paced;

pub use paced::{PACED, PACED_RECORDS};

use super::answer::Answer;
use super::data::{self, LINE_WORDS, Lines};
use super::limits::{self, Tuned};
use super::meter::{Meter, Preparation, Spent};
use super::task::{Limit, Part, Task};
use super::{Case, Input, Measured};
use crate::connector::kafka::client::Watch;
use crate::connector::kafka::consume::{PartitionQueue, Taken};
use crate::error::{Error, Result};
use arrow::array::AsArray;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How long a broker may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// The only partition of a topic that is made here.
const PARTITION: i32 = 0;

/// A broker and the topics on it that were made here; dropping removes them, and the broker if it was started here.
pub struct Topics {
    bootstrap: String,
    broker: Option<Child>,
    made: Vec<String>,
}

impl Topics {
    /// On the brokers `bootstrap`, or on a development broker in a process of its own.
    pub fn new(bootstrap: Option<&str>) -> Result<Self> {
        if let Some(bootstrap) = bootstrap {
            return Ok(Topics { bootstrap: bootstrap.to_owned(), broker: None, made: Vec::new() });
        }
        let failed =
            |error: std::io::Error| Error::unavailable(format!("the development broker cannot be started: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["broker", "--listen", "127.0.0.1:0", "--log", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut broker = command.spawn().map_err(failed)?;
        let mut address = String::new();
        if let Some(said) = broker.stdout.take() {
            BufReader::new(said).read_line(&mut address).map_err(failed)?;
        }
        match address.trim() {
            "" => Err(Error::unavailable("the development broker ended before it listened")),
            address => Ok(Topics { bootstrap: address.to_owned(), broker: Some(broker), made: Vec::new() }),
        }
    }

    /// Makes a topic that holds the records of `case`.
    pub fn fill(&mut self, case: &Case) -> Result<Input> {
        let topic = self.make("in")?;
        let producer: BaseProducer = client(&self.bootstrap, &[("linger.ms", "5")]).create().map_err(no_answer)?;
        let send = |record: &[u8]| loop {
            match producer.send(BaseRecord::<(), [u8]>::to(&topic).partition(PARTITION).payload(record)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(10))
                }
                Err((error, _)) => return Err(no_answer(error)),
            }
        };
        if case.json {
            let records = data::json(case.rows, case.distinct, case.seed);
            records.iter().flat_map(|array| array.iter().flatten()).take(case.rows as usize).try_for_each(send)?;
        } else {
            let mut lines = Lines::new(case.rows * LINE_WORDS, case.distinct, case.seed);
            let mut line = String::new();
            while lines.next(&mut line) {
                send(line.as_bytes())?;
                line.clear();
            }
        }
        producer.flush(ANSWER_WAIT).map_err(no_answer)?;
        Ok(Input::Topic { bootstrap: self.bootstrap.clone(), topic, answers: None })
    }

    /// Measures `case`, whose topic is filled; every run writes into a topic of its own.
    pub fn measure(&mut self, case: &Case, runs: usize) -> Result<Measured> {
        let Input::Topic { bootstrap, topic, .. } = &case.input else {
            return Err(Error::internal("a case of the workload 'kafka' reads no topic"));
        };
        let expected = expected(case)?;
        let mut measured = Measured::new(case, Some(expected.rows));
        for _ in 0..runs {
            let answers = self.make("out")?;
            let input =
                Input::Topic { bootstrap: bootstrap.clone(), topic: topic.clone(), answers: Some(answers.clone()) };
            let task = Task { case: Case { input, ..case.clone() }, part: Part::Pipeline { keep: false } };
            measured.pipeline.push(task.spawn()?);
            let answer = counts_in(bootstrap, &answers)?;
            if answer != expected {
                let error = format!("the topic of answers holds {answer:?}, counted by hand they are {expected:?}");
                return Err(Error::internal(error).within(case.to_string()));
            }
            let task = Task { case: case.clone(), part: Part::Limit(Limit::Librdkafka) };
            measured.limits[0].runs.push(task.spawn()?);
        }
        Ok(measured)
    }

    /// Measures copies of the topic of `case`, exactly once and beside that at least once; every run writes into a topic of its
    /// own. With the variant [`PACED`] it is written while it is read.
    pub fn copy(&mut self, case: &Case, runs: usize) -> Result<Measured> {
        let Input::Topic { bootstrap, topic, .. } = &case.input else {
            return Err(Error::internal("a case of the workload 'exactly-once' reads no topic"));
        };
        let paced = case.variant.is_some();
        let expected = lines_of(case);
        let mut measured = Measured::new(case, Some(case.rows));
        let parts: Vec<Part> = std::iter::once(Part::Pipeline { keep: false })
            .chain(case.limits().iter().copied().map(Part::Limit))
            .collect();
        for _ in 0..runs {
            let topic = if paced { self.make("in")? } else { topic.clone() };
            for part in &parts {
                let answers = self.make_written_once("out")?;
                let input =
                    Input::Topic { bootstrap: bootstrap.clone(), topic: topic.clone(), answers: Some(answers.clone()) };
                let run = Task { case: Case { input, ..case.clone() }, part: *part }.spawn()?;
                if !paced {
                    let found = records_in(bootstrap, &answers)?;
                    if found != expected {
                        let error = format!("the copy holds {found:?}, the original {expected:?}");
                        return Err(Error::internal(error).within(case.to_string()));
                    }
                }
                match part {
                    Part::Pipeline { .. } => measured.pipeline.push(run),
                    Part::Limit(_) => measured.limits[0].runs.push(run),
                }
            }
        }
        Ok(measured)
    }

    /// The brokers' address.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Makes an empty topic, and leaves no trace of it or of its progress topic afterwards.
    pub fn make_written_once(&mut self, what: &str) -> Result<String> {
        let name = self.make(what)?;
        self.made.push(progress_of(&name));
        Ok(name)
    }

    fn make(&mut self, what: &str) -> Result<String> {
        let name = format!("highwater-bench-{:08x}-{what}", StdRng::from_os_rng().random::<u32>());
        let topic = rdkafka::admin::NewTopic::new(&name, 1, rdkafka::admin::TopicReplication::Fixed(1));
        let made = futures_executor::block_on(self.admin()?.create_topics([&topic], &AdminOptions::new()))
            .map_err(no_answer)?;
        if let Some((_, code)) = made.into_iter().find_map(Result::err) {
            return Err(Error::unavailable(format!("topic \"{name}\" cannot be made: {code}")));
        }
        self.made.push(name.clone());
        Ok(name)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        client(&self.bootstrap, &[]).create().map_err(no_answer)
    }
}

impl Drop for Topics {
    fn drop(&mut self) {
        if let Some(broker) = &mut self.broker {
            // it keeps nothing, and it is ours until it has been waited for
            let _ = broker.kill();
            let _ = broker.wait();
        } else if let Ok(admin) = self.admin() {
            let names: Vec<&str> = self.made.iter().map(String::as_str).collect();
            let _ = futures_executor::block_on(admin.delete_topics(&names, &AdminOptions::new()));
        }
    }
}

fn client(bootstrap: &str, properties: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    config
}

fn no_answer(error: KafkaError) -> Error {
    Error::unavailable(format!("kafka: {error}")).help("see --bootstrap")
}

/// What the pipeline has to answer, counted by hand: `word, n` or `user, n`.
fn expected(case: &Case) -> Result<Answer> {
    if case.json {
        let records = data::json(case.rows, case.distinct, case.seed);
        let batches = limits::json(&records)?;
        let users =
            batches.iter().flat_map(|batch| batch.column(1).as_string::<i32>()).flatten().take(case.rows as usize);
        return Tuned::of_words(users.map(str::as_bytes)).answer();
    }
    let lines = Lines::new(case.rows * LINE_WORDS, case.distinct, case.seed).batches();
    Tuned::of_lines(&lines).answer()
}

/// The counts that a pipeline has written as JSON, its first column being a string and `n` the count.
fn counts_in(bootstrap: &str, topic: &str) -> Result<Answer> {
    let mut counts: Vec<(String, i64)> = Vec::new();
    let mut strange = None;
    read(bootstrap, topic, Preparation::begin(), |record| {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(record).unwrap_or_default();
        let key = fields.iter().find(|(name, _)| *name != "n").and_then(|(_, value)| value.as_str());
        match key.zip(fields.get("n").and_then(serde_json::Value::as_i64)) {
            Some((key, n)) => counts.push((key.to_owned(), n)),
            None => strange = Some(String::from_utf8_lossy(record).into_owned()),
        }
    })?;
    match strange {
        Some(record) => Err(Error::internal(format!("topic \"{topic}\" holds {record}, which is no count"))),
        None => limits::answer_of(counts.iter().map(|(key, n)| (key.as_bytes(), *n))),
    }
}

/// Reads `topic` from its beginning to what is now its end, and drops it.
pub fn consume(bootstrap: &str, topic: &str, preparation: Preparation) -> Result<Spent> {
    read(bootstrap, topic, preparation, |_| ())?.stop()
}

/// What the topic that keeps how far writing into `topic` has come is called.
pub fn progress_of(topic: &str) -> String {
    format!("{topic}-progress")
}

/// The records of a topic, as a bag.
fn records_in(bootstrap: &str, topic: &str) -> Result<Answer> {
    let mut answer = Answer::default();
    read(bootstrap, topic, Preparation::begin(), |record| answer = answer.and(of_record(record)))?;
    Ok(answer)
}

/// What [`Topics::fill`] has put into the topic of `case`.
fn lines_of(case: &Case) -> Answer {
    let mut lines = Lines::new(case.rows * LINE_WORDS, case.distinct, case.seed);
    let (mut line, mut answer) = (String::new(), Answer::default());
    while lines.next(&mut line) {
        answer = answer.and(of_record(line.as_bytes()));
        line.clear();
    }
    answer
}

fn of_record(record: &[u8]) -> Answer {
    Answer { rows: 1, digest: xxh3_64(record) }
}

fn read(bootstrap: &str, topic: &str, preparation: Preparation, mut on_record: impl FnMut(&[u8])) -> Result<Meter> {
    let meter = preparation.done()?;
    let mut reader = Reader::new(bootstrap, topic)?;
    let end = reader.end()?;
    while reader.position < end {
        reader.step(&mut on_record)?;
    }
    Ok(meter)
}

/// Reads a topic from its beginning, as it grows, and of transactions only what is committed.
pub struct Reader {
    topic: String,
    consumer: Arc<BaseConsumer<Watch>>,
    queue: PartitionQueue,
    position: i64,
}

impl Reader {
    /// Of `topic`, which exists.
    pub fn new(bootstrap: &str, topic: &str) -> Result<Self> {
        let properties = [
            ("group.id", "highwater-bench"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", "read_committed"),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.wait.max.ms", "10"),
            ("queued.max.messages.kbytes", "16384"),
            ("queued.min.messages", "100000"),
        ];
        let consumer: BaseConsumer<Watch> =
            client(bootstrap, &properties).create_with_context(Watch::default()).map_err(no_answer)?;
        let consumer = Arc::new(consumer);
        let unknown = || Error::internal(format!("librdkafka does not know topic \"{topic}\""));
        let queue = PartitionQueue::new(&consumer, topic, PARTITION).ok_or_else(unknown)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, PARTITION, Offset::Beginning).map_err(no_answer)?;
        consumer.assign(&assignment).map_err(no_answer)?;
        Ok(Reader { topic: topic.to_owned(), consumer, queue, position: 0 })
    }

    /// True if there is nothing that was not taken.
    pub fn at_end(&self) -> Result<bool> {
        Ok(self.position >= self.end()?)
    }

    fn end(&self) -> Result<i64> {
        let bounds = self.consumer.fetch_watermarks(&self.topic, PARTITION, ANSWER_WAIT);
        bounds.map(|(_, end)| end).map_err(no_answer)
    }

    /// Takes what is there; waits a moment if that is nothing.
    pub fn step(&mut self, mut on_record: impl FnMut(&[u8])) -> Result<()> {
        let mut any = false;
        loop {
            match self.queue.next() {
                Some(Taken::Record(record)) => {
                    self.position = record.offset() + 1;
                    on_record(record.value().unwrap_or_default());
                }
                Some(Taken::End { offset }) => self.position = offset,
                Some(Taken::Trouble { reason, .. }) => {
                    return Err(Error::unavailable(reason).within(format!("topic \"{}\"", self.topic)));
                }
                None if any => return Ok(()),
                None => {
                    drop(self.consumer.poll(Duration::from_millis(1)));
                    return Ok(());
                }
            }
            any = true;
        }
    }
}
