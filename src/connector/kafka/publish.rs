//! Publishing the records of committed checkpoints, each once: transactions that end with a marker.
//!
//! ```text
//! open:    init_transactions ─▶ last marker ─▶ ids of both topics        the predecessor is fenced, what it left open is undone
//! publish: begin ─▶ records … marker ─▶ drained ─▶ commit  ─▶ …          one or more times for a checkpoint
//! ```
//! A marker says how many records of its checkpoint are out, so a checkpoint that was published in part goes on at the right one.
//! After any error, and after a commit that librdkafka may have sent twice (it was slow, or a connection was lost meanwhile), it is
//! not known how it went: a second one that is late would end the next transaction. The publisher does nothing more, and a new
//! one, with another epoch at the broker, finds out. Committing into a topic that is gone succeeds, so ids are asked for again and again.

use super::client::{Line, QUESTION_WAIT, refused};
use super::ids::{TopicId, topic_ids};
use super::progress::{self, Marker, Progress};
use super::sink::{Deliveries, KafkaSink};
use super::staged::Staged;
use crate::batch::Batch;
use crate::connector::{Context, OptionSpec, Preset, Publisher, ShardName, Takes};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::time::{Clock, Epoch};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::{debug, info, warn};

pub(super) const BYTES: OptionSpec = OptionSpec::writing(
    "sink.transaction.bytes",
    Takes::Bytes,
    Preset::Is("8 MiB"),
    "to write exactly once: what one transaction holds; what a checkpoint has beyond that becomes visible in further ones, in order",
);

/// How long a transaction stays open: the last record is taken after this time at the latest.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// After which time the broker ends a transaction of a publisher that is silent.
const TRANSACTION_TIMEOUT_MS: &str = "60000";

/// How long a new publisher asks for its transactional id: a coordinator may be loading, or finishing the predecessor's.
const INIT_WAIT: Duration = Duration::from_secs(60);

/// How long one try of it takes.
const INIT_TRY: Duration = Duration::from_secs(10);

/// How old what is known of the topics' ids may be.
const IDS_AGE: Duration = Duration::from_secs(3);

/// A topic is gone if it is unknown so often; one broker may know of a new topic before another does.
const MISSED: usize = 10;

/// How long to wait for room, answers, and before trying again.
const BREATH: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(50);

/// What this process has seen of its shards, so that a cluster which has forgotten something is caught.
pub(super) type Histories = Arc<Mutex<BTreeMap<String, History>>>;

/// How far a shard was published, and into what.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// Epoch and rows of it.
    reached: (Epoch, u64),
    written: TopicId,
    progress: TopicId,
}

/// Publishes one shard.
pub(super) struct TopicPublisher {
    topic: String,
    progress: String,
    /// Of the progress topic, where this shard's markers go.
    partition: i32,
    key: String,
    producer: BaseProducer<Deliveries>,
    written_id: TopicId,
    progress_id: TopicId,
    ids_asked: Duration,
    bytes_max: usize,
    /// A commit that took longer may still be on its way.
    commit_wait: Duration,
    /// The last marker that is committed.
    marker: Option<Marker>,
    /// The last checkpoint that is done, those without records included.
    published: Option<Epoch>,
    /// It is not known what became of something.
    spent: bool,
    histories: Histories,
    clock: Arc<dyn Clock>,
}

/// The transaction that is open.
struct Open {
    begun: Duration,
    bytes: usize,
    rows: u64,
}

impl TopicPublisher {
    /// Takes `shard` over from whoever had it.
    pub(super) fn new(sink: &KafkaSink, shard: &ShardName, context: &Context) -> Result<Self> {
        let ShardName { pipeline, incarnation, table, shard: number } = shard;
        let transactional_id = format!("highwater.{pipeline}.{incarnation}.{table}.{number}");
        let mut ours = vec![
            ("transactional.id", transactional_id.as_str()),
            ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
            ("retry.backoff.ms", "10"),
            // an end of a transaction is sent again, without a word, when a connection closes: only this tells of each close
            ("debug", "broker"),
            // between checkpoints nobody takes them
            ("statistics.interval.ms", "0"),
            // what watermarks are: of a producer librdkafka asks for nothing else with it
            ("isolation.level", "read_uncommitted"),
        ];
        // a broker that is gone without a word is noticed by this alone
        let socket_timeout = sink.connection.socket_timeout(TRANSACTION_TIMEOUT_MS);
        ours.extend(socket_timeout.as_deref().map(|millis| ("socket.timeout.ms", millis)));
        let (config, producer) = sink.producer(context, &ours)?;
        let serve = || (0..32).for_each(|_| producer.poll(Duration::ZERO));
        let line = Line { client: producer.client(), watch: &producer.context().watch, serve: &serve };
        let progress = sink.progress_topic.clone().unwrap_or_else(|| progress::default_name(shard));
        let in_progress = |error: Error| error.within(format!("progress topic \"{progress}\""));
        let markers = Progress { topic: &progress, connection: &sink.connection, context };
        let partitions = markers.prepare(&line, *number).map_err(in_progress)?;
        init(&producer, &transactional_id, &line, context)?;
        let key = progress::key(shard);
        let marker = markers.last_marker(&line, *number, partitions, &key).map_err(in_progress)?;
        let brokers = sink.connection.address(context);
        let ids = |topics: &[&str]| line.answer(&brokers, context, |wait| topic_ids(line.client, topics, wait));
        let place = |error: Error| error.within(format!("topic \"{}\"", sink.topic));
        if marker.is_none() {
            sink.partitions(&line, context).map_err(place)?;
        }
        let mut found = ids(&[&sink.topic, &progress])?;
        for _ in 1..MISSED {
            if found.iter().all(Option::is_some) {
                break;
            }
            std::thread::sleep(PAUSE);
            found = ids(&[&sink.topic, &progress])?;
        }
        let lost = |topic: &str, reason: String| lost(topic, &reason);
        let [Some(written_id), Some(progress_id)] = &found[..] else {
            let missing = if found[0].is_none() { &sink.topic } else { &progress };
            return Err(lost(missing, "it is gone".into()));
        };
        if let Some(marker) = marker.as_ref().filter(|marker| marker.topic_id != *written_id) {
            let reason = format!("it was deleted and created again since checkpoint {} was published", marker.epoch);
            return Err(lost(&sink.topic, reason));
        }
        let socket_timeout = config.get("socket.timeout.ms").and_then(|millis| millis.parse().ok()).unwrap_or(60_000);
        let histories = Arc::clone(&sink.histories);
        let reached = marker.as_ref().map_or((0, 0), |marker| (marker.epoch, marker.rows_done));
        let history = History { reached, written: written_id.clone(), progress: progress_id.clone() };
        if let Some(before) = histories.lock().expect("nothing panics while it holds this lock").get(&key) {
            before.check(&history, &sink.topic, &progress)?;
        }
        let published = marker.as_ref().and_then(Marker::published);
        info!(topic = sink.topic, shard = number, published, "kafka: publishes");
        let partition = i32::try_from(number % partitions).expect("a topic has fewer partitions");
        let publisher = TopicPublisher {
            topic: sink.topic.clone(),
            partition,
            key,
            written_id: written_id.clone(),
            progress_id: progress_id.clone(),
            ids_asked: context.clock.monotonic(),
            bytes_max: sink.transaction_bytes,
            commit_wait: Duration::from_millis(socket_timeout).mul_f64(0.8),
            marker,
            published,
            spent: false,
            histories,
            clock: Arc::clone(&context.clock),
            progress: progress.clone(),
            producer,
        };
        publisher.remember(history);
        Ok(publisher)
    }

    fn remember(&self, history: History) {
        self.histories.lock().expect("nothing panics while it holds this lock").insert(self.key.clone(), history);
    }

    fn records(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<Batch>>) -> Result<()> {
        let begun = self.marker.clone().filter(|marker| marker.epoch == epoch);
        if let Some(marker) = self.marker.as_ref().filter(|marker| !marker.last && marker.epoch < epoch) {
            warn!(
                topic = self.topic,
                epoch = marker.epoch,
                rows = marker.rows_done,
                "kafka: a checkpoint was published in part, and no more of it comes"
            );
        }
        let skip = begun.as_ref().map_or(0, |marker| marker.rows_done);
        let mut chunk = begun.map_or(0, |marker| marker.chunk + 1);
        let (mut seen, mut open) = (0, None::<Open>);
        for batch in records {
            let batch = batch?;
            let staged = Staged::of(&batch)?;
            let first = usize::try_from(skip.saturating_sub(seen)).unwrap_or(usize::MAX).min(staged.rows());
            seen += first as u64;
            for row in first..staged.rows() {
                // only when there is more to come, so that the last transaction has records
                if let Some(full) = open.take_if(|open| self.is_full(open)) {
                    self.commit(full, Marker { epoch, chunk, rows_done: seen, last: false, topic_id: String::new() })?;
                    chunk += 1;
                }
                let open = match &mut open {
                    Some(open) => open,
                    none => none.insert(self.begin()?),
                };
                self.send(&staged, row)?;
                (open.bytes, open.rows) = (open.bytes + staged.bytes(row), open.rows + 1);
                seen += 1;
            }
            if open.is_some() {
                fail::point("publish.mid")?;
            }
        }
        if seen < skip {
            return Err(Error::internal(format!(
                "checkpoint {epoch} has {seen} records for this shard, but {skip} of it are published"
            )));
        }
        if open.is_none() && skip > 0 {
            open = Some(self.begin()?);
        }
        match open {
            None => Ok(()),
            Some(open) => {
                self.commit(open, Marker { epoch, chunk, rows_done: seen, last: true, topic_id: String::new() })
            }
        }
    }

    fn is_full(&self, open: &Open) -> bool {
        // the clock is looked at from time to time only
        open.bytes >= self.bytes_max || open.rows % 256 == 255 && self.clock.monotonic() - open.begun >= OPEN_TIME
    }

    fn begin(&mut self) -> Result<Open> {
        self.producer.begin_transaction().map_err(|error| self.failure(error))?;
        fail::point("publish.begun")?;
        Ok(Open { begun: self.clock.monotonic(), bytes: 0, rows: 0 })
    }

    fn send(&self, staged: &Staged, row: usize) -> Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(staged.partition(row));
        record.payload = staged.value(row);
        record.key = staged.key(row);
        record.timestamp = staged.timestamp(row);
        record.headers = staged.headers(row);
        self.hand_over(record)
    }

    /// Gives librdkafka a record, as soon as it has room.
    fn hand_over(&self, mut record: BaseRecord<[u8], [u8]>) -> Result<()> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), refused)) => record = refused,
                Err((error, _)) => return Err(self.failure(error)),
            }
            self.breathe()?;
        }
    }

    /// Ends the open transaction with `marker`.
    fn commit(&mut self, open: Open, mut marker: Marker) -> Result<()> {
        marker.topic_id.clone_from(&self.written_id);
        let value = serde_json::to_vec(&marker).map_err(|error| Error::internal(error.to_string()))?;
        let record =
            BaseRecord::to(&self.progress).partition(self.partition).key(self.key.as_bytes()).payload(&value[..]);
        self.hand_over(record)?;
        // what is on its way makes commit_transaction wait for 100 ms at least
        while self.producer.flush(Duration::ZERO).is_err() {
            self.breathe()?;
        }
        self.hear()?;
        fail::point("publish.flushed")?;
        let (start, errors) = (self.clock.monotonic(), self.errors());
        self.producer.commit_transaction(self.commit_wait).map_err(|error| self.failure(error))?;
        let took = self.clock.monotonic() - start;
        if took > self.commit_wait || self.errors() > errors {
            let error = format!("a commit took {took:.1?} and may have been sent twice");
            return Err(Error::unavailable(error).within(self.place()));
        }
        fail::point("publish.committed")?;
        debug!(topic = self.topic, epoch = marker.epoch, rows = open.rows, took = ?took, "kafka: published");
        let reached = (marker.epoch, marker.rows_done);
        self.remember(History { reached, written: self.written_id.clone(), progress: self.progress_id.clone() });
        self.marker = Some(marker);
        self.look_after_topics()
    }

    /// Asks whether the topics are still those that they were, if that was not asked lately.
    fn look_after_topics(&mut self) -> Result<()> {
        if self.clock.monotonic() - self.ids_asked < IDS_AGE {
            return Ok(());
        }
        let topics = [self.topic.as_str(), self.progress.as_str()];
        for missed in 1.. {
            let found = match topic_ids(self.producer.client(), &topics, QUESTION_WAIT) {
                Ok(found) => found,
                Err(error) => {
                    debug!("kafka: the topics' ids are not told now: {error}");
                    return Ok(());
                }
            };
            let known = [&self.written_id, &self.progress_id];
            let other = topics.iter().zip(known).zip(&found).find(|((_, known), found)| found.as_ref() != Some(known));
            match other {
                None => break,
                Some(((topic, _), Some(_))) => return Err(lost(topic, "it was deleted and created again")),
                Some(((topic, _), None)) if missed >= MISSED => return Err(lost(topic, "it is gone")),
                Some(_) => std::thread::sleep(PAUSE),
            }
        }
        self.ids_asked = self.clock.monotonic();
        Ok(())
    }

    /// Gives librdkafka time, and takes in what it has to say. A poll of so short a time would be spent spinning.
    fn breathe(&self) -> Result<()> {
        std::thread::sleep(BREATH);
        self.serve();
        self.hear()
    }

    fn serve(&self) {
        (0..8).for_each(|_| self.producer.poll(Duration::ZERO));
    }

    /// How often something went wrong by now that may have made librdkafka ask again.
    fn errors(&self) -> u64 {
        self.serve();
        self.producer.context().watch.errors()
    }

    /// The first thing that went wrong with a record, if any did.
    fn hear(&self) -> Result<()> {
        let deliveries = self.producer.context();
        match deliveries.failed() {
            Some((code, _)) => Err(self.failure(KafkaError::MessageProduction(code))),
            None => deliveries.watch.check(),
        }
    }

    fn failure(&self, error: KafkaError) -> Error {
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let codes = [fatal, error.rdkafka_error_code()];
        let is_fenced = |code: &Code| matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch);
        let told = match codes.iter().flatten().find(|code| !matches!(code, Code::Fatal)).copied() {
            _ if codes.iter().flatten().any(is_fenced) => Error::new(
                ErrorKind::Fenced,
                "another publishes this shard, or the broker has ended a transaction that was open for too long",
            ),
            Some(code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => refused(code),
            Some(Code::MessageSizeTooLarge) => {
                Error::data("the broker refuses records that it would have taken before: they are too large")
                    .help("raise max.message.bytes of the topic, which was lowered, and start the pipeline again")
            }
            code => {
                let reason = self.producer.context().watch.reason().map(|reason| format!(": {reason}"));
                let what = code.map_or_else(|| error.to_string(), |code| code.to_string());
                Error::unavailable(format!("it is not known what is published: {what}{}", reason.unwrap_or_default()))
            }
        };
        told.caused_by(error).within(self.place())
    }

    fn place(&self) -> String {
        format!("topic \"{}\"", self.topic)
    }
}

impl Publisher for TopicPublisher {
    fn published(&self) -> Option<Epoch> {
        self.published
    }

    fn publish(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<Batch>>) -> Result<()> {
        if self.spent {
            return Err(Error::unavailable("this publisher has failed before").within(self.place()));
        }
        self.spent = true;
        // what waits to be heard is heard once for each checkpoint: a token that is to be renewed, a lost connection
        self.producer.poll(Duration::ZERO);
        self.look_after_topics()?;
        self.records(epoch, records)?;
        // a checkpoint without records leaves no marker, so whoever opens next is told of the one before
        if self.marker.as_ref().is_some_and(|marker| marker.epoch == epoch && marker.last) {
            self.published = Some(epoch);
        }
        self.spent = false;
        Ok(())
    }
}

impl History {
    /// Refuses what the cluster says `now` if it said more before.
    fn check(&self, now: &History, written: &str, progress: &str) -> Result<()> {
        if self.written != now.written {
            return Err(lost(written, "it was deleted and created again"));
        }
        if self.progress != now.progress {
            return Err(lost(progress, "it was deleted and created again"));
        }
        if self.reached > now.reached {
            let ((epoch, rows), (now, rows_now)) = (self.reached, now.reached);
            let reason = format!(
                "it says that checkpoint {now} is published up to record {rows_now}, and said {epoch}, record {rows}, before"
            );
            return Err(lost(progress, &reason));
        }
        Ok(())
    }
}

fn lost(topic: &str, reason: &str) -> Error {
    Error::invalid(format!("sink history lost: {reason}")).within(format!("topic \"{topic}\"")).help(
        "what was published cannot be told any more; to write everything anew, remove the pipeline's checkpoints or rename the pipeline",
    )
}

/// Claims the transactional id: whoever had it is fenced, and what it left open is finished.
fn init(
    producer: &BaseProducer<Deliveries>,
    transactional_id: &str,
    line: &Line<Deliveries>,
    context: &Context,
) -> Result<()> {
    let start = context.clock.monotonic();
    loop {
        let left = INIT_WAIT.saturating_sub(context.clock.monotonic() - start);
        let tried = producer.init_transactions(left.min(INIT_TRY));
        (line.serve)();
        line.watch.check()?;
        let Err(error) = tried else { return Ok(()) };
        let place = |error: Error| error.within(format!("transactional id \"{transactional_id}\""));
        let may_pass = match &error {
            KafkaError::Transaction(error) => error.is_retriable() && !error.is_fatal(),
            _ => false,
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let told = match code {
            Code::CoordinatorLoadInProgress | Code::ConcurrentTransactions | Code::OperationTimedOut
                if !left.is_zero() =>
            {
                std::thread::sleep(PAUSE);
                continue;
            }
            _ if may_pass && !left.is_zero() => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Code::TransactionalIdAuthorizationFailed => Error::invalid(format!("the broker refuses: {code}"))
                .help("let this user Describe and Write transactional ids with the prefix 'highwater.' (ACLs at the broker)"),
            Code::InvalidTransactionTimeout => {
                Error::invalid(format!("the broker refuses: {code}")).help(format!(
                    "raise transaction.max.timeout.ms of the brokers, or lower 'properties.transaction.timeout.ms' from {TRANSACTION_TIMEOUT_MS}"
                ))
            }
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
                Error::new(ErrorKind::Fenced, "another publisher of this shard came at the same time")
            }
            _ => {
                let reason = line.watch.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
                Error::unavailable(format!("the brokers do not give it{reason}"))
            }
        };
        return Err(place(told).caused_by(error));
    }
}
