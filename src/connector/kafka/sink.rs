//! Rows as records of a topic: written as they come, or kept as final [records](super::staged) that are
//! [published](super::publish) later and once.
//!
//! Written as they come, a row counts as written when all in-sync replicas acknowledged it; the producer is idempotent, so a lost answer doubles
//! nothing. Records that librdkafka's queue does not take stay here, in order, until it does.

use super::client::{Line, Watch, not_created, refused};
use super::config::{Connection, Side};
use super::create::Creation;
use super::partitioner::{Partitioner, Spread, grouped};
use super::progress;
use super::publish::{self, Histories, TopicPublisher};
use super::record::{Layout, Records, RowWriter};
use super::settings::settings_of;
use super::staged::{self, Limits, TopicStager};
use super::topics::{PATTERN, TOPIC, topic_name};
use crate::batch::Batch;
use crate::connector::{
    Changes, Context, OptionSpec, Preset, Publisher, Shard, ShardName, Sink, Stager, Staging, Table, Takes,
};
use crate::error::{Error, Result};
use crate::time::Clock;
use arrow::datatypes::SchemaRef;
use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the end of a pipeline waits for a broker that acknowledges nothing.
const FINISH_WAIT: Duration = Duration::from_secs(60);

pub(super) const PARTITIONER: OptionSpec = OptionSpec::writing(
    "sink.partitioner",
    Takes::Choice(&["default", "round-robin"]),
    Preset::Is("default"),
    "`default` is by key as Kafka's own clients do, without one batch by batch",
);

pub(super) const COMPRESSION: OptionSpec = OptionSpec::writing(
    "sink.compression",
    Takes::Choice(&["none", "lz4", "snappy", "zstd", "gzip"]),
    Preset::Is("none"),
    "how batches of records are compressed",
);

/// A table over a topic.
pub struct KafkaSink {
    pub(super) topic: String,
    pub(super) connection: Connection,
    partitioner: Partitioner,
    compression: &'static str,
    creation: Option<Creation>,
    layout: Layout,
    changes: Changes,
    /// Where the progress of exactly-once is kept, if the table says so.
    pub(super) progress_topic: Option<String>,
    pub(super) transaction_bytes: usize,
    pub(super) histories: Histories,
}

impl KafkaSink {
    /// The sink that `table` describes.
    ///
    /// Keys are spread over the partitions that the topic has when the pipeline starts.
    pub fn new(table: &Table) -> Result<Self> {
        let options = &table.options;
        let connection = Connection::read(options, Side::Sink)?;
        if options.text(&PATTERN).is_some() {
            let error = options.wrong(&PATTERN, "rows are written to one topic");
            return Err(error.help("give a table that is written a 'topic' instead"));
        }
        let topic = topic_name(options, &TOPIC, options.required(&TOPIC)?)?;
        let layout = Layout::read(table)?.for_topic(&topic);
        let creation = Creation::read(options)?;
        let partitioner = match options.choice(&PARTITIONER)? {
            "round-robin" => Partitioner::RoundRobin,
            _ => Partitioner::Default,
        };
        let compression = options.choice(&COMPRESSION)?;
        layout.writer()?;
        let changes = layout.carries();
        let progress_topic = progress::named(options, &topic)?;
        let transaction_bytes = usize::try_from(options.bytes(&publish::BYTES)?).unwrap_or(usize::MAX);
        let histories = Histories::default();
        Ok(KafkaSink {
            topic,
            connection,
            partitioner,
            compression,
            creation,
            layout,
            changes,
            progress_topic,
            transaction_bytes,
            histories,
        })
    }

    /// A producer with the properties of all and some more, and its configuration.
    pub(super) fn producer(
        &self,
        context: &Context,
        more: &[(&str, &str)],
    ) -> Result<(ClientConfig, BaseProducer<Deliveries>)> {
        let ours = [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("linger.ms", "5"),
            ("compression.type", self.compression),
            ("queue.buffering.max.messages", "500000"),
            ("queue.buffering.max.kbytes", "65536"),
        ];
        let mut config = self.connection.client(context, &[ours.as_slice(), more].concat())?;
        if config.get("debug").is_some() {
            config.set_log_level(RDKafkaLogLevel::Debug);
        }
        let deliveries = Deliveries::new(self.connection.watch(context));
        let producer = config.create_with_context(deliveries).map_err(not_created)?;
        Ok((config, producer))
    }

    /// The number of the topic's partitions; it is created first if it is missing and that is wanted.
    pub(super) fn partitions<C: ClientContext>(&self, line: &Line<C>, context: &Context) -> Result<usize> {
        if let Some(creation) = &self.creation {
            creation.create(&self.topic, line, &self.connection, context)?;
        }
        Ok(line.partitions(&self.topic, true, &self.connection.address(context), context)?.len())
    }
}

impl Sink for KafkaSink {
    fn single(&self) -> bool {
        false
    }

    fn changes(&self) -> Changes {
        self.changes
    }

    fn embedded(&self) -> bool {
        self.connection.embedded()
    }

    fn open(&self, shard: usize, _shards: usize, context: &Context) -> Result<Box<dyn Shard>> {
        let (config, producer) = self.producer(context, &[])?;
        let message_bytes_max = message_bytes_max(&config).to_string();
        let serve = || (0..32).for_each(|_| producer.poll(Duration::ZERO));
        let line = Line { client: producer.client(), watch: &producer.context().watch, serve: &serve };
        let partitions =
            self.partitions(&line, context).map_err(|error| error.within(format!("topic \"{}\"", self.topic)))?;
        Ok(Box::new(KafkaShard {
            topic: self.topic.clone(),
            message_bytes_max,
            producer,
            partitions,
            spread: Spread::new(self.partitioner, partitions, shard),
            writer: self.layout.writer()?,
            waiting: VecDeque::new(),
            written: 0,
            bytes: 0,
            clock: Arc::clone(&context.clock),
        }))
    }

    fn staging(&self) -> Option<&dyn Staging> {
        Some(self)
    }
}

impl Staging for KafkaSink {
    fn how(&self) -> &'static str {
        "transactions"
    }

    fn records(&self) -> SchemaRef {
        staged::schema()
    }

    fn stager(&self, shard: usize, _shards: usize, context: &Context) -> Result<Box<dyn Stager>> {
        let (config, producer) = self.producer(context, &[])?;
        let serve = || (0..32).for_each(|_| producer.poll(Duration::ZERO));
        let line = Line { client: producer.client(), watch: &producer.context().watch, serve: &serve };
        let partitions =
            self.partitions(&line, context).map_err(|error| error.within(format!("topic \"{}\"", self.topic)))?;
        let settings = settings_of(&self.topic, &self.connection, context)?;
        let topic = settings.and_then(|settings| settings.get("max.message.bytes")?.parse().ok());
        let batch_bytes = config.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(1_000_000);
        if let Some(most) = topic.filter(|most| *most < batch_bytes) {
            let error =
                format!("it takes batches of {most} bytes at most, and this client makes some of {batch_bytes}");
            let error = Error::invalid(error).within(format!("topic \"{}\"", self.topic));
            return Err(
                error.help(format!("add 'properties.batch.size' = '{most}', or raise the topic's max.message.bytes"))
            );
        }
        Ok(Box::new(TopicStager {
            topic: self.topic.clone(),
            writer: self.layout.writer()?,
            spread: Spread::new(self.partitioner, partitions, shard),
            partitions,
            limits: Limits { client: message_bytes_max(&config), topic },
        }))
    }

    fn publisher(&self, shard: &ShardName, context: &Context) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(TopicPublisher::new(self, shard, context)?))
    }
}

/// What a client with this configuration sends at most.
fn message_bytes_max(config: &ClientConfig) -> usize {
    config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(1_000_000)
}

/// A batch on its way into librdkafka.
struct Outgoing {
    records: Records,
    partition_of_row: Vec<u32>,
    /// The rows by partition, and how many of them librdkafka has taken.
    order: Vec<u32>,
    taken: usize,
}

/// A worker's producer.
struct KafkaShard {
    topic: String,
    message_bytes_max: String,
    producer: BaseProducer<Deliveries>,
    partitions: usize,
    spread: Spread,
    writer: RowWriter,
    /// What librdkafka's queue had no room for, in order.
    waiting: VecDeque<Outgoing>,
    written: u64,
    /// Keys and values that librdkafka has taken since someone asked.
    bytes: u64,
    clock: Arc<dyn Clock>,
}

impl KafkaShard {
    fn outgoing(&mut self, rows: &Batch) -> Result<Outgoing> {
        let records = self.writer.records(rows)?;
        let partition_of_row = self.spread.partitions_of(records.count(), records.keys.as_ref());
        let order = grouped(&partition_of_row, self.partitions);
        Ok(Outgoing { records, partition_of_row, order, taken: 0 })
    }

    /// Gives librdkafka as much as it takes.
    fn push_on(&mut self) -> Result<()> {
        while let Some(outgoing) = self.waiting.front_mut() {
            while let Some(&row) = outgoing.order.get(outgoing.taken) {
                let row = row as usize;
                let partition = outgoing.partition_of_row[row].cast_signed();
                let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(partition);
                record.payload = outgoing.records.value(row);
                record.key = outgoing.records.key(row);
                record.timestamp = outgoing.records.timestamp(row);
                record.headers = outgoing.records.headers(row);
                let bytes = record.payload.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
                match self.producer.send(record) {
                    Ok(()) => {
                        outgoing.taken += 1;
                        self.bytes += bytes as u64;
                    }
                    Err((KafkaError::MessageProduction(Code::QueueFull), _)) => return Ok(()),
                    Err((error, _)) => {
                        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                        return Err(self.failure(code, partition, Some(bytes)).caused_by(error));
                    }
                }
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Takes in the delivery reports that have come; one event holds those of one batch of one partition.
    fn hear(&self) -> Result<()> {
        loop {
            let in_flight = self.producer.in_flight_count();
            self.producer.poll(Duration::ZERO);
            if self.producer.in_flight_count() >= in_flight {
                break;
            }
        }
        let deliveries = self.producer.context();
        match deliveries.failed() {
            Some((code, partition)) => Err(self.failure(code, partition, None)),
            None => deliveries.watch.check(),
        }
    }

    /// Why a record for `partition` could not be written.
    fn failure(&self, code: Code, partition: i32, bytes: Option<usize>) -> Error {
        let error = match code {
            Code::MessageSizeTooLarge => {
                let size = bytes.map_or("a record".to_owned(), |bytes| format!("a record of {bytes} bytes"));
                Error::data(format!("{size} is too large: this client sends {} at most", self.message_bytes_max))
                    .help("raise 'properties.message.max.bytes' here and max.message.bytes of the topic")
            }
            Code::MessageTimedOut => {
                let reason = self.producer.context().watch.reason().unwrap_or_else(|| "no broker answered".to_owned());
                Error::unavailable(format!("not acknowledged in time: {reason}"))
            }
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => refused(code),
            Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => {
                Error::unavailable("it is gone").help("a topic must not be deleted while it is written")
            }
            _ => match self.producer.client().fatal_error() {
                Some((_, reason)) => Error::unavailable(format!("librdkafka gave up: {reason}")),
                None => Error::unavailable(format!("not written: {code}")),
            },
        };
        error.within(format!("topic \"{}\", partition {partition}", self.topic))
    }
}

impl Shard for KafkaShard {
    fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    fn write(&mut self, rows: Batch) -> Result<()> {
        self.hear()?;
        let outgoing = self.outgoing(&rows).map_err(|error| error.within(format!("topic \"{}\"", self.topic)))?;
        self.written += outgoing.records.count() as u64;
        self.waiting.push_back(outgoing);
        self.push_on()
    }

    fn flush(&mut self) -> Result<bool> {
        self.hear()?;
        self.push_on()?;
        Ok(self.waiting.is_empty() && self.producer.context().acknowledged.load(Ordering::Relaxed) == self.written)
    }

    fn finish(&mut self) -> Result<()> {
        let mut progress = (self.clock.monotonic(), 0);
        while !self.flush()? {
            self.producer.poll(Duration::from_millis(10));
            let acknowledged = self.producer.context().acknowledged.load(Ordering::Relaxed);
            let now = self.clock.monotonic();
            if acknowledged > progress.1 {
                progress = (now, acknowledged);
            } else if now - progress.0 > FINISH_WAIT {
                let reason =
                    self.producer.context().watch.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
                return Err(Error::unavailable(format!(
                    "{} rows were not acknowledged within {} s{reason}",
                    self.written - acknowledged,
                    FINISH_WAIT.as_secs()
                ))
                .within(format!("topic \"{}\"", self.topic)));
            }
        }
        Ok(())
    }
}

/// Counts what brokers acknowledge and keeps the first record that they did not take.
pub(super) struct Deliveries {
    pub(super) watch: Watch,
    acknowledged: AtomicU64,
    failure: Mutex<Option<(Code, i32)>>,
}

impl Deliveries {
    fn new(watch: Watch) -> Self {
        Deliveries { watch, acknowledged: AtomicU64::new(0), failure: Mutex::new(None) }
    }

    /// The first record that was not taken: why, and for which partition it was.
    pub(super) fn failed(&self) -> Option<(Code, i32)> {
        *self.failure.lock().expect("nothing panics while it holds this lock")
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
        self.watch.generate_oauth_token(config)
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.watch.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.watch.stats_raw(statistics);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        match delivery {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, record)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                let mut failure = self.failure.lock().expect("nothing panics while it holds this lock");
                failure.get_or_insert((code, record.partition()));
            }
        }
    }
}
