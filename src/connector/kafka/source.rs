//! A topic, or several, as rows.
//!
//! A split is one partition between two offsets, both of them numbers that were looked up once; it gives each record in
//! between once, in order, and none outside. It ends when the end offset is *passed*, not when the record before it was
//! seen: that one may be a transaction's marker, an aborted record, or compacted away.

use super::client::{Line, QUESTION_WAIT, Watch, not_created, refused};
use super::config::{Connection, Side};
use super::consume::{PartitionQueue, Taken};
use super::follow::{COMMIT, GroupFollower};
use super::ids::{TopicId, topic_ids};
use super::record::{Layout, Parts, Reading, RowReader};
use super::resume::{recreated, resumed};
use super::topics::{Topics, discovery_interval};
use crate::connector::bad::{OnError, Origin, Passed, Refused};
use crate::connector::{
    Context, Follower, Gives, OptionSpec, Options, Polled, Preset, Source, Split, SplitStart, Table, Takes,
};
use crate::error::{Error, Result};
use crate::format::sift::{OnBad, sift};
use arrow::datatypes::SchemaRef;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};

/// Payload bytes after which a batch is full, however few its rows are.
const BATCH_BYTES: usize = 1 << 20;

/// What librdkafka may fetch ahead, for each partition and for all partitions of one worker. One answer of the broker (1 MiB
/// a partition) may come on top.
const AHEAD_KIB: usize = 16 << 10;
const AHEAD_KIB_TOTAL: usize = 64 << 10;

/// Records fetched ahead, likewise: a small record costs librdkafka some 200 bytes more than its own.
const AHEAD_RECORDS: usize = 100_000;
const AHEAD_RECORDS_TOTAL: usize = 400_000;

pub(super) const STARTUP_MODE: OptionSpec = OptionSpec::reading(
    "scan.startup.mode",
    Takes::Choice(&["earliest-offset", "latest-offset", "timestamp", "specific-offsets"]),
    Preset::Is("earliest-offset"),
    "where to start; offsets are kept by the pipeline, not by a consumer group",
);

pub(super) const STARTUP_TIMESTAMP: OptionSpec = OptionSpec::reading(
    "scan.startup.timestamp-millis",
    MILLIS,
    Preset::None(""),
    "where to start in mode `timestamp`: the first record at or after this time, in milliseconds since 1970",
);

pub(super) const STARTUP_OFFSETS: OptionSpec = OptionSpec::reading(
    "scan.startup.specific-offsets",
    OFFSETS,
    Preset::None(""),
    "where to start in mode `specific-offsets`: `partition:0,offset:42;partition:1,offset:300`, for every partition",
);

pub(super) const BOUNDED_MODE: OptionSpec = OptionSpec::reading(
    "scan.bounded.mode",
    Takes::Choice(&["unbounded", "latest-offset", "timestamp", "specific-offsets"]),
    Preset::Is("unbounded"),
    "where to end; `latest-offset` is what is there when it starts",
);

pub(super) const BOUNDED_TIMESTAMP: OptionSpec = OptionSpec::reading(
    "scan.bounded.timestamp-millis",
    MILLIS,
    Preset::None(""),
    "where to end in mode `timestamp`: before the first record at or after this time, in milliseconds since 1970",
);

pub(super) const BOUNDED_OFFSETS: OptionSpec = OptionSpec::reading(
    "scan.bounded.specific-offsets",
    OFFSETS,
    Preset::None(""),
    "where to end in mode `specific-offsets`: the first offsets that are not read, as above",
);

const MILLIS: Takes = Takes::Whole(0, i64::MAX as i128);
const OFFSETS: Takes = Takes::Form("offsets");

/// A table over topics.
pub struct KafkaSource {
    topics: Topics,
    connection: Connection,
    start: Start,
    bound: Bound,
    discovery_interval: Option<Duration>,
    /// What the records hold, and the columns of it that are read.
    layout: Layout,
    columns: Vec<usize>,
    schema: SchemaRef,
    on_bad: OnBad,
    /// The table's name, and whether checkpoints commit its offsets to a group.
    table: String,
    commits: bool,
}

/// Offsets that are given one by one: partition to offset.
type Offsets = BTreeMap<i32, i64>;

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    Timestamp(i64),
    Offsets(Offsets),
}

/// Where to end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bound {
    Never,
    Latest,
    Timestamp(i64),
    Offsets(Offsets),
}

/// One partition and what to read of it: a split's name, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) start: i64,
    /// The first offset that is not read; none: all that will ever come.
    pub(super) end: Option<i64>,
    /// What tells the topic from one of the same name that comes after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<TopicId>,
}

impl KafkaSource {
    /// The source that `table` describes, reading `columns` of it.
    pub fn new(table: &Table, columns: &[usize]) -> Result<Self> {
        let options = &table.options;
        let connection = Connection::read(options, Side::Source)?;
        let topics = Topics::read(options)?;
        let start = match options.choice(&STARTUP_MODE)? {
            "latest-offset" => Start::Latest,
            "timestamp" => Start::Timestamp(options.whole(&STARTUP_TIMESTAMP)?),
            "specific-offsets" => Start::Offsets(specific(options, &STARTUP_OFFSETS, &topics)?),
            _ => Start::Earliest,
        };
        let bound = match options.choice(&BOUNDED_MODE)? {
            "latest-offset" => Bound::Latest,
            "timestamp" => Bound::Timestamp(options.whole(&BOUNDED_TIMESTAMP)?),
            "specific-offsets" => Bound::Offsets(specific(options, &BOUNDED_OFFSETS, &topics)?),
            _ => Bound::Never,
        };
        let discovery_interval = discovery_interval(options, bound != Bound::Never)?;
        let layout = Layout::read_from(table)?;
        let schema = Arc::clone(layout.reader(columns)?.schema());
        Ok(KafkaSource {
            topics,
            connection,
            start,
            bound,
            discovery_interval,
            layout,
            columns: columns.to_vec(),
            schema,
            on_bad: OnError::of(options)?.on_bad,
            table: table.name.clone(),
            commits: options.flag(&COMMIT)?,
        })
    }

    /// A consumer for `partitions` partitions.
    fn consumer(&self, partitions: usize, context: &Context) -> Result<BaseConsumer<Watch>> {
        let ahead_kib = AHEAD_KIB.min(AHEAD_KIB_TOTAL / partitions.max(1)).max(64).to_string();
        let ahead_records = AHEAD_RECORDS.min(AHEAD_RECORDS_TOTAL / partitions.max(1)).max(1000).to_string();
        let config = self.connection.client(
            context,
            &[
                // `assign` wants a name, though nothing is ever committed by this client
                ("group.id", "highwater"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
                ("isolation.level", "read_committed"),
                // `splits` has seen the topics, so one that is unknown for this long is gone
                ("topic.metadata.propagation.max.ms", "10000"),
                ("fetch.queue.backoff.ms", "10"),
                // a broker that is gone without a word is noticed by this alone
                ("socket.timeout.ms", "20000"),
                ("queued.max.messages.kbytes", &ahead_kib),
                ("queued.min.messages", &ahead_records),
            ],
        )?;
        config.create_with_context(self.connection.watch(context)).map_err(not_created)
    }

    /// The topics that there are, and what `shares` makes of each.
    fn each_topic<T>(
        &self,
        context: &Context,
        shares: impl Fn(&str, &Asking) -> Result<Vec<T>>,
    ) -> Result<Vec<(String, Vec<T>)>> {
        self.ask(context, |asking| {
            let topics = self.topics.now(&asking.line, &asking.brokers, context)?;
            if topics.is_empty() {
                match self.discovery_interval {
                    None => return Err(self.topics.none(&asking.brokers)),
                    Some(_) => debug!("kafka: no topic fits the pattern yet"),
                }
            }
            let of_topic = |topic: String| {
                let shares = shares(&topic, asking).map_err(|error| error.within(format!("topic \"{topic}\"")))?;
                Ok((topic, shares))
            };
            topics.into_iter().map(of_topic).collect()
        })
    }

    /// Asks the cluster.
    pub(super) fn ask<T>(&self, context: &Context, questions: impl FnOnce(&Asking) -> Result<T>) -> Result<T> {
        let consumer = self.consumer(1, context)?;
        // the call gives at most one event, and says nothing if it was a log line
        let serve = || (0..32).for_each(|_| drop(consumer.poll(Duration::ZERO)));
        let line = Line { client: consumer.client(), watch: consumer.context(), serve: &serve };
        questions(&Asking { consumer: &consumer, line, brokers: self.connection.address(context), context })
    }

    /// The share of each partition of `topic`.
    fn shares(&self, topic: &str, asking: &Asking) -> Result<Vec<Share>> {
        let partitions = asking.line.partitions(topic, false, &asking.brokers, asking.context)?;
        let id = asking.id(topic)?;
        let look_up = |moment| asking.look_up(topic, &partitions, moment);
        let (low, high) = (look_up(Offset::Beginning)?, look_up(Offset::End)?);
        let (low, high) = (known_offsets(&low)?, known_offsets(&high)?);
        let at = |millis| -> Result<Vec<i64>> {
            let found = look_up(Offset::Offset(millis))?;
            Ok(found.iter().zip(&high).map(|(found, high)| found.unwrap_or(*high)).collect())
        };
        let given = |offsets: &Offsets, option: &str| -> Result<Vec<i64>> {
            if let Some(partition) = offsets.keys().find(|partition| !partitions.contains(partition)) {
                let last = partitions.len() - 1;
                return Err(Error::invalid(format!(
                    "option '{option}': there is no partition {partition}; the last one is {last}"
                )));
            }
            let offset_of = |partition| {
                let missing = || Error::invalid(format!("option '{option}' says nothing of partition {partition}"));
                offsets.get(partition).copied().ok_or_else(missing)
            };
            partitions.iter().map(offset_of).collect()
        };
        let starts = match &self.start {
            Start::Earliest => low.clone(),
            Start::Latest => high.clone(),
            Start::Timestamp(millis) => at(*millis)?,
            Start::Offsets(offsets) => given(offsets, "scan.startup.specific-offsets")?,
        };
        let ends = match &self.bound {
            Bound::Never => None,
            Bound::Latest => Some(high.clone()),
            Bound::Timestamp(millis) => Some(at(*millis)?),
            Bound::Offsets(offsets) => Some(given(offsets, "scan.bounded.specific-offsets")?),
        };
        let share = |index: usize| {
            let (partition, start, end) = (partitions[index], starts[index], ends.as_ref().map(|ends| ends[index]));
            if start < low[index] || start > high[index] {
                let (low, high) = (low[index], high[index]);
                return Err(Error::invalid(format!(
                    "offset {start} is not in the partition, which holds {low} up to {high}"
                ))
                .help("correct 'scan.startup.specific-offsets', or start at 'earliest-offset'")
                .within(format!("partition {partition}")));
            }
            Ok(Share { topic: topic.to_owned(), partition, start, end, id: id.clone() })
        };
        (0..partitions.len()).map(share).collect()
    }
}

/// A consumer that is asked about topics.
pub(super) struct Asking<'a> {
    consumer: &'a BaseConsumer<Watch>,
    pub(super) line: Line<'a, Watch>,
    pub(super) brokers: String,
    pub(super) context: &'a Context,
}

impl Asking<'_> {
    /// The id of `topic`; none if it is gone.
    pub(super) fn id(&self, topic: &str) -> Result<Option<TopicId>> {
        let ask = |wait| topic_ids(self.line.client, &[topic], wait);
        Ok(self.line.answer(&self.brokers, self.context, ask)?.pop().flatten())
    }

    /// See [`look_up`].
    pub(super) fn look_up(&self, topic: &str, partitions: &[i32], moment: Offset) -> Result<Vec<Option<i64>>> {
        let ask = |wait| look_up(self.consumer, topic, partitions, moment, wait);
        self.line.answer(&self.brokers, self.context, ask)
    }
}

impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        self.bound != Bound::Never
    }

    fn gives(&self) -> Gives {
        self.layout.gives()
    }

    fn embedded(&self) -> bool {
        self.connection.embedded()
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        let shares = self.each_topic(context, |topic, asking| self.shares(topic, asking))?;
        names(shares)
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.discovery_interval
    }

    fn discover(&self, known: &[String], context: &Context) -> Result<Vec<String>> {
        let known: BTreeMap<(String, i32), Option<TopicId>> = known
            .iter()
            .map(|name| Share::named(name).map(|share| ((share.topic, share.partition), share.id)))
            .collect::<Result<_>>()?;
        let new = |topic: &str, asking: &Asking| -> Result<Vec<Share>> {
            let mut partitions = asking.line.partitions(topic, false, &asking.brokers, context)?;
            let id = asking.id(topic)?;
            let of_topic = known.iter().find(|((known, _), _)| known == topic).and_then(|(_, known)| known.as_ref());
            if let (Some(known), Some(id)) = (of_topic, &id)
                && known != id
            {
                return Err(recreated());
            }
            partitions.retain(|partition| !known.contains_key(&(topic.to_owned(), *partition)));
            if partitions.is_empty() {
                return Ok(Vec::new());
            }
            let starts = known_offsets(&asking.look_up(topic, &partitions, Offset::Beginning)?)?;
            let share =
                |(partition, start)| Share { topic: topic.to_owned(), partition, start, end: None, id: id.clone() };
            Ok(partitions.into_iter().zip(starts).map(share).collect())
        };
        names(self.each_topic(context, new)?)
    }

    fn resume(&self, splits: Vec<SplitStart>, accept_gap: bool, context: &Context) -> Result<Vec<SplitStart>> {
        match splits.is_empty() {
            true => Ok(splits),
            false => self.ask(context, |asking| resumed(splits, accept_gap, asking)),
        }
    }

    fn follower(&self, pipeline: &str) -> Option<Box<dyn Follower>> {
        let default = || format!("highwater.{pipeline}.{}", self.table);
        self.commits.then(|| {
            let group = self.connection.group().unwrap_or_else(default);
            Box::new(GroupFollower { connection: self.connection.clone(), group, consumer: None }) as Box<dyn Follower>
        })
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        if splits.is_empty() {
            return Ok(Vec::new());
        }
        let consumer = Arc::new(self.consumer(splits.len(), context)?);
        let mut opened: Vec<Box<dyn Split>> = Vec::with_capacity(splits.len());
        let mut assignment = TopicPartitionList::with_capacity(splits.len());
        for start in splits {
            let mut share = Share::named(&start.name)?;
            if let Some(position) = start.position {
                share.start =
                    i64::try_from(position).map_err(|_| Error::internal("an offset that Kafka cannot have"))?;
            }
            let wrong = |reason: String| Error::invalid(reason).within(share.place());
            let queue = PartitionQueue::new(&consumer, &share.topic, share.partition)
                .ok_or_else(|| wrong("librdkafka knows no such partition".into()))?;
            if !share.passed(share.start) {
                assignment
                    .add_partition_offset(&share.topic, share.partition, Offset::Offset(share.start))
                    .map_err(|error| wrong(error.to_string()))?;
            }
            opened.push(Box::new(KafkaSplit {
                consumer: Arc::clone(&consumer),
                queue,
                reader: self.layout.reader(&self.columns)?,
                on_bad: self.on_bad,
                parts: None,
                passed: Passed::default(),
                position: share.start,
                share,
                offsets: Vec::new(),
                batch_bytes: 0,
                trouble: None,
                failed: None,
            }));
        }
        consumer
            .assign(&assignment)
            .map_err(|error| Error::internal(format!("librdkafka does not take its partitions: {error}")))?;
        Ok(opened)
    }
}

/// The names of these shares of topics.
fn names(topics: Vec<(String, Vec<Share>)>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (topic, shares) in topics.iter().filter(|(_, shares)| !shares.is_empty()) {
        info!(topic, partitions = shares.len(), "kafka: reads");
        for share in shares {
            let name = serde_json::to_string(share).map_err(|error| Error::internal(error.to_string()))?;
            debug!(split = name, "kafka: reads");
            names.push(name);
        }
    }
    Ok(names)
}

impl Share {
    /// The share that a split's name stands for.
    pub(crate) fn named(name: &str) -> Result<Self> {
        serde_json::from_str(name)
            .map_err(|error| Error::internal(format!("split {name:?} is not one of a topic: {error}")))
    }

    pub(crate) fn place(&self) -> String {
        format!("topic \"{}\", partition {}", self.topic, self.partition)
    }

    /// True if all was read when the next record has at least offset `position`.
    pub(crate) fn passed(&self, position: i64) -> bool {
        self.end.is_some_and(|end| position >= end)
    }
}

/// A partition that is being read.
struct KafkaSplit {
    consumer: Arc<BaseConsumer<Watch>>,
    queue: PartitionQueue,
    reader: RowReader,
    on_bad: OnBad,
    /// The records of the last poll, if the table bears bad ones.
    parts: Option<Parts>,
    /// What became of them.
    passed: Passed,
    share: Share,
    /// No record before this offset is still to come.
    position: i64,
    /// The offsets of the last batch's rows.
    offsets: Vec<i64>,
    /// The size of the last batch, as a guess at the next one's.
    batch_bytes: usize,
    /// What keeps the partition from being read at the moment.
    trouble: Option<Code>,
    /// What will be said after the rows that came before it.
    failed: Option<Error>,
}

impl KafkaSplit {
    /// Lets librdkafka deliver what it has to say, and stops if there is no hope.
    fn listen(&self) -> Result<()> {
        match self.consumer.poll(Duration::ZERO) {
            Some(Ok(_)) => Err(Error::internal("a record came outside its partition's queue")),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                let reason =
                    self.consumer.client().fatal_error().map_or_else(|| code.to_string(), |(_, reason)| reason);
                Err(Error::unavailable(format!("librdkafka gave up: {reason}")))
            }
            // the watch has heard the others, too
            _ => {
                let watch = self.consumer.context();
                watch.check()?;
                if watch.suspicion() { self.look_after_topics() } else { Ok(()) }
            }
        }
    }

    /// Asks whether the topics of this worker are still there; nothing is wrong if nobody answers.
    fn look_after_topics(&self) -> Result<()> {
        let Ok(assignment) = self.consumer.assignment() else { return Ok(()) };
        let topics: BTreeSet<String> = assignment.elements().iter().map(|element| element.topic().to_owned()).collect();
        for topic in topics {
            let Ok(metadata) = self.consumer.fetch_metadata(Some(&topic), QUESTION_WAIT) else { continue };
            let code = metadata.topics().iter().find_map(|described| described.error()).map(Code::from);
            let error = match code {
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => gone(),
                Some(code @ Code::TopicAuthorizationFailed) => refused(code),
                _ => continue,
            };
            return Err(error.within(format!("topic \"{topic}\"")));
        }
        Ok(())
    }

    /// Says what a partition's error means: nothing if it may pass.
    fn consider(&mut self, code: Code, reason: String) -> Option<Error> {
        let error = match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => self.out_of_range(),
            Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => gone(),
            Code::TopicAuthorizationFailed => refused(code),
            Code::BadMessage | Code::InvalidMessage | Code::BadCompression | Code::NotImplemented => {
                Error::data(format!("the broker sent records that cannot be read: {reason}"))
            }
            Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
                Error::invalid(format!("the next record does not fit: {reason}"))
                    .help("raise 'properties.fetch.message.max.bytes' and 'properties.receive.message.max.bytes'")
            }
            _ => {
                if self.trouble != Some(code) {
                    warn!(
                        topic = self.share.topic,
                        partition = self.share.partition,
                        reason,
                        "kafka: cannot be read now; waiting"
                    );
                }
                self.trouble = Some(code);
                return None;
            }
        };
        Some(error.within(format!("{}, offset {}", self.share.place(), self.position)))
    }

    /// The error for a position that the partition does not have any more.
    fn out_of_range(&self) -> Error {
        let (topic, partition) = (&self.share.topic, self.share.partition);
        match self.consumer.fetch_watermarks(topic, partition, QUESTION_WAIT) {
            Ok((low, _)) if low > self.position => Error::unavailable(format!(
                "{} records were deleted before they could be read: the partition begins at offset {low} now",
                low - self.position
            ))
            .help("let the topic keep its records for longer, or start again at 'earliest-offset'"),
            Ok((_, high)) => Error::unavailable(format!("the partition ends at offset {high}, before the next record"))
                .help("was the topic deleted and created again, or did a broker lose records?"),
            Err(error) => Error::unavailable("the partition does not have this offset").caused_by(error),
        }
    }
}

impl KafkaSplit {
    /// Where the n-th of the last records came from.
    fn origin_of(&self, record: usize) -> Origin {
        let offset = self.offsets.get(record).copied();
        let place = match offset {
            Some(offset) => format!("{}, offset {offset}", self.share.place()),
            None => self.share.place(),
        };
        Origin { place, topic: Some(self.share.topic.clone()), partition: Some(self.share.partition), offset }
    }
}

impl Split for KafkaSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        self.offsets.clear();
        (self.parts, self.passed) = (None, Passed::default());
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.share.passed(self.position) {
            return Ok(Polled::Ended);
        }
        self.listen()?;
        // made when there is something to put in: an idle split is asked often
        let mut gathered = None;
        let mut bytes = 0;
        while self.offsets.len() < rows_max && bytes < BATCH_BYTES {
            let trouble = match self.queue.next() {
                None => break,
                Some(Taken::Record(record)) if self.share.passed(record.offset()) => {
                    self.position = record.offset();
                    break;
                }
                Some(Taken::Record(record)) => {
                    bytes += record.value().map_or(0, <[u8]>::len);
                    let room =
                        || self.reader.gather(&self.share.topic, self.share.partition, rows_max, self.batch_bytes);
                    gathered.get_or_insert_with(room).push(&record);
                    self.offsets.push(record.offset());
                    self.position = record.offset() + 1;
                    self.trouble = None;
                    continue;
                }
                Some(Taken::End { offset }) => {
                    self.position = self.position.max(offset);
                    self.trouble = None;
                    continue;
                }
                Some(Taken::Trouble { code, reason }) => (code, reason),
            };
            self.failed = self.consider(trouble.0, trouble.1);
            if self.failed.is_some() {
                break;
            }
        }
        if let Some(gathered) = gathered {
            self.batch_bytes = bytes;
            let parts = gathered.finish();
            self.reader.prepare(&parts).map_err(|error| error.within(self.origin_of(0).place))?;
            let sifted = sift(Reading { reader: &mut self.reader, parts: &parts }, self.on_bad);
            let sifted = sifted.map_err(|bad| Error::data(bad.reason).within(self.origin_of(bad.index).place))?;
            let (rows, passed) = Passed::of(sifted);
            (self.parts, self.passed) = (self.on_bad.bears().then_some(parts), passed);
            return Ok(Polled::Rows { rows, bytes });
        }
        if self.share.end.is_some() {
            // Where aborted records never stop, neither a record nor the end is ever reported, but the position moves.
            self.position = self.position.max(self.queue.position().unwrap_or(0));
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None if self.share.passed(self.position) => Ok(Polled::Ended),
            None => Ok(Polled::Pending),
        }
    }

    fn position(&self) -> u64 {
        u64::try_from(self.position).unwrap_or(0)
    }

    fn place(&self, row: usize) -> String {
        self.origin(row).place
    }

    fn origin(&self, row: usize) -> Origin {
        self.origin_of(self.passed.record_of(row))
    }

    fn record(&self, row: usize) -> Option<Vec<u8>> {
        self.parts.as_ref()?.value(self.passed.record_of(row))
    }

    fn take_refused(&mut self) -> Vec<Refused> {
        let bad = self.passed.take_bad();
        let record = |at| self.parts.as_ref().and_then(|parts| parts.value(at));
        Refused::all(bad, |at| (record(at), self.origin_of(at)))
    }

    fn caught_up(&self) -> bool {
        // Under read_committed the position stays below the high watermark while a transaction is open.
        let reached = self.queue.watermarks().is_some_and(|(_, high)| self.position >= high);
        let watch = self.consumer.context();
        reached && self.trouble.is_none() && !watch.trouble() && !watch.silent()
    }

    fn skips(&self) -> bool {
        true
    }

    fn lag_rows(&self) -> Option<u64> {
        let (_, high) = self.queue.watermarks()?;
        let end = self.share.end.map_or(high, |end| end.min(high));
        Some(u64::try_from(end - self.position).unwrap_or(0))
    }
}

fn gone() -> Error {
    Error::unavailable("it is gone").help("a topic must not be deleted while it is read")
}

/// For each partition the offset at `moment`: the first, the next to come, or the first record at that time in milliseconds,
/// none if there is none so late.
fn look_up(
    consumer: &BaseConsumer<Watch>,
    topic: &str,
    partitions: &[i32],
    moment: Offset,
    wait: Duration,
) -> KafkaResult<Vec<Option<i64>>> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        asked.add_partition_offset(topic, partition, moment)?;
    }
    let answer = consumer.offsets_for_times(asked, wait)?;
    let offset = |&partition: &i32| {
        let found = answer.find_partition(topic, partition).ok_or(KafkaError::MetadataFetch(Code::UnknownPartition))?;
        found.error()?;
        Ok(match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    };
    partitions.iter().map(offset).collect()
}

pub(super) fn known_offsets(offsets: &[Option<i64>]) -> Result<Vec<i64>> {
    let unknown = || Error::unavailable("the broker does not say which offsets the topic has");
    offsets.iter().map(|offset| offset.ok_or_else(unknown)).collect()
}

/// What `option` says: `partition:0,offset:42;partition:1,offset:300`.
fn specific(options: &Options, option: &OptionSpec, topics: &Topics) -> Result<Offsets> {
    let text = options.required(option)?;
    if topics.only().is_none() {
        return Err(options.wrong(option, "which topic's partitions? it works with one topic only"));
    }
    let mut offsets = Offsets::new();
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let numbers = part.split_once(',').and_then(|(partition, offset)| {
            let partition: i32 = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
            let offset: i64 = offset.trim().strip_prefix("offset:")?.trim().parse().ok()?;
            (partition >= 0 && offset >= 0).then_some((partition, offset))
        });
        let Some((partition, offset)) = numbers else {
            return Err(options.wrong(option, format!("'{part}' does not read 'partition:0,offset:42'")));
        };
        if offsets.insert(partition, offset).is_some() {
            return Err(options.wrong(option, format!("partition {partition} is given twice")));
        }
    }
    Ok(offsets)
}
