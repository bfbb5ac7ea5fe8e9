//! The Kafka connector against brokers: its sources and sinks driven by hand, without the runtime.

#[path = "support/contract.rs"]
mod contract;
#[path = "kafka/publish.rs"]
mod publish;
#[path = "kafka/records.rs"]
mod records;
#[path = "kafka/resume.rs"]
mod resume;
#[path = "kafka/security.rs"]
mod security;
#[path = "support/kafka.rs"]
mod support;
#[path = "kafka/topics.rs"]
mod topics;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use highwater::batch::Batch;
use highwater::broker::{Broker, Config};
use highwater::connector::builtin::CONNECTORS;
use highwater::connector::kafka::{KafkaSink, KafkaSource};
use highwater::connector::{
    Changes, Context, OptionText, Options, Polled, Shard, Sink, Source, Split, SplitStart, Table,
};
use highwater::error::{Error, ErrorKind, Result};
use highwater::time::SystemClock;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Kafka, create_topic, produce, produce_by_java, produce_texts, producer, read_back, unique, within};

/// How long any one case may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// How long something that must come may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_real_broker_passes_the_suite() {
    let Some(kafka) = Kafka::start() else { return };
    suite(kafka.bootstrap());
    run(
        kafka.bootstrap(),
        &[
            ("deleted records", deleted_records_are_counted),
            ("deleted topic", a_deleted_topic_is_named),
            ("created topic", a_sink_may_create_its_topic),
            ("settings", topics::a_created_topic_has_its_settings),
            ("kills", publish::five_kills_in_each_of_four_shards),
            ("limits", publish::a_topics_own_limit_is_kept),
            ("gap", resume::deleted_records_are_a_gap),
        ],
    );
}

#[test]
fn the_development_broker_passes_the_suite() {
    let broker = Broker::start(Config { listen: "127.0.0.1:0".into(), ..Config::default() }).unwrap();
    suite(&broker.address());
    run(
        &broker.address(),
        &[
            ("kills", publish::twenty_five_kills_in_each_of_four_shards),
            ("timeout", publish::a_transaction_that_outlives_its_timeout_is_published_again),
        ],
    );
}

type Case = (&'static str, fn(&str));

/// What any broker that Highwater runs on must do.
fn suite(bootstrap: &str) {
    run(
        bootstrap,
        &[
            ("bounded", a_bounded_read_gives_every_partition_once),
            ("start modes", reading_starts_where_it_is_told),
            ("unbounded", an_unbounded_read_goes_on_and_knows_when_it_has_caught_up),
            ("transactions", aborted_records_are_skipped_and_markers_do_not_hang_a_bounded_read),
            ("open transaction", an_open_transaction_blocks_and_is_not_idle),
            ("compressed", every_compression_is_read),
            ("bad record", a_bad_record_is_named_with_its_place),
            ("missing topic", a_missing_topic_is_refused_with_the_nearest_name),
            ("sink", what_is_written_is_acknowledged_and_there),
            ("keys", keys_go_where_the_java_client_sends_them),
            ("formats", keys_and_values_have_formats_of_their_own),
            ("metadata", records::metadata_is_read),
            ("written metadata", records::metadata_is_written),
            ("tombstones", records::keys_are_read_and_tombstones_keep_them),
            ("apart", records::keys_and_values_are_written_apart),
            ("pattern", topics::a_pattern_fits_topics_and_new_ones_are_found),
            ("new partitions", topics::new_partitions_are_found),
            ("on request", topics::a_topic_is_created_on_request),
            ("later topics", topics::a_pipeline_reads_topics_that_come_later),
            ("refusals", what_cannot_be_written_is_refused),
            ("published", publish::what_is_published_is_known_when_it_is_opened_again),
            ("staged", publish::rows_are_staged_as_they_will_be_published),
            ("failures", publish::a_failure_spends_a_publisher_and_the_next_one_goes_on),
            ("zombies", publish::a_publisher_that_wakes_beside_its_successor_adds_nothing),
            ("hidden markers", publish::an_open_transaction_of_another_hides_no_marker),
            ("killed pipeline", publish::a_pipeline_that_is_killed_writes_each_line_once),
            ("deleted output", publish::a_topic_that_is_deleted_is_noticed),
            ("recreated input", resume::a_topic_that_was_recreated_is_not_read_on),
            ("positions", resume::a_position_is_gone_on_from_or_refused),
            ("volume", two_hundred_thousand_rows_go_in_and_out),
        ],
    );
}

/// Runs each case within its limit, one after the other, and fails with all that failed. With `CASE=name` only that one.
fn run(bootstrap: &str, cases: &[Case]) {
    let (mut failed, only) = (Vec::new(), std::env::var("CASE").ok());
    for &(name, case) in cases.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let (start, bootstrap) = (Instant::now(), bootstrap.to_owned());
        let work = move || within(LIMIT, name, move || case(&bootstrap));
        let passed = std::panic::catch_unwind(work).is_ok();
        println!("{} {name} in {:.1?}", if passed { "ok    " } else { "FAILED" }, start.elapsed());
        failed.extend((!passed).then_some(name));
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

// What the cases drive.

fn context() -> Context {
    Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 1 }
}

/// A table with the column `line`, in format raw, and further options.
fn lines(bootstrap: &str, topic: &str, options: &[(&str, &str)]) -> Table {
    keyed_lines(bootstrap, topic, &[], options)
}

fn keyed_lines(bootstrap: &str, topic: &str, primary_key: &[usize], options: &[(&str, &str)]) -> Table {
    let ours = [("topic", topic), ("format", "raw"), (BOOTSTRAP, bootstrap)];
    table(&[("line", DataType::Utf8)], primary_key, &[ours.as_slice(), options].concat())
}

const BOOTSTRAP: &str = "properties.bootstrap.servers";

fn table(columns: &[(&str, DataType)], primary_key: &[usize], options: &[(&str, &str)]) -> Table {
    let fields: Vec<Field> =
        columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    // a later option wins over an earlier one of the same name
    let option = |&(name, text): &(&str, &str)| (name.to_owned(), OptionText::from(text));
    Table {
        name: "t".into(),
        schema: Arc::new(Schema::new(fields)),
        metadata: Default::default(),
        primary_key: primary_key.to_vec(),
        key_trusted: false,
        options: Options::new(options.iter().map(option)),
    }
}

fn source(bootstrap: &str, topic: &str, options: &[(&str, &str)]) -> KafkaSource {
    let table = lines(bootstrap, topic, options);
    let columns: Vec<usize> = (0..table.schema.fields().len()).collect();
    KafkaSource::new(&table, &columns).unwrap()
}

/// Opens all splits of `source` as one worker does.
fn open(source: &KafkaSource) -> Vec<Box<dyn Split>> {
    open_all(source, source.splits(&context()).unwrap())
}

fn open_all(source: &KafkaSource, names: Vec<String>) -> Vec<Box<dyn Split>> {
    source.open(&names.into_iter().map(SplitStart::whole).collect::<Vec<_>>(), &context()).unwrap()
}

/// Splits' names without the ids of their topics, which must be there.
fn without_ids(names: &[String]) -> Vec<String> {
    let without = |name: &String| {
        let (rest, id) = name.rsplit_once(",\"id\":").unwrap_or_else(|| panic!("{name} has no id"));
        assert_eq!(id.len(), 25, "22 characters in quotes, and the end");
        format!("{rest}}}")
    };
    names.iter().map(without).collect()
}

/// Rows of a split as text, until `enough` says so or the split ends.
fn read(split: &mut Box<dyn Split>, enough: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
    let (mut rows, start) = (Vec::new(), Instant::now());
    while !enough(&rows) {
        assert!(start.elapsed() < PATIENCE, "{} rows after {PATIENCE:?}, the last is {:?}", rows.len(), rows.last());
        match split.poll(8192)? {
            Polled::Rows { rows: batch, bytes } => {
                assert!(batch.num_rows() > 0 && batch.num_rows() <= 8192);
                let text = batch.column(0).as_string::<i32>();
                assert!(bytes >= text.iter().flatten().map(str::len).sum::<usize>());
                rows.extend(text.iter().map(|row| row.unwrap_or("NULL").to_owned()));
            }
            Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
            Polled::Ended => return Ok(rows),
        }
    }
    Ok(rows)
}

fn read_to_end(split: &mut Box<dyn Split>) -> Vec<String> {
    let rows = read(split, |_| false).unwrap();
    assert!(matches!(split.poll(1).unwrap(), Polled::Ended), "an ended split stays ended");
    rows
}

/// All rows of a bounded source, split by split.
fn read_all(source: &KafkaSource) -> Vec<Vec<String>> {
    assert!(source.bounded());
    open(source).iter_mut().map(read_to_end).collect()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const TO_THE_END: (&str, &str) = ("scan.bounded.mode", "latest-offset");

fn strings(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Batch {
    Batch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn flush(shard: &mut Box<dyn Shard>) {
    eventually("every row is acknowledged", || shard.flush().unwrap());
}

/// What `error` says, with its advice.
fn said(error: &Error) -> String {
    format!("{error}{}", error.advice().map(|advice| format!(" / {advice}")).unwrap_or_default())
}

// The suite.

fn a_bounded_read_gives_every_partition_once(bootstrap: &str) {
    let topic = create_topic(bootstrap, "bounded", 3);
    produce_texts(bootstrap, &topic, 0, &["a", "b", "c"]);
    produce(&producer(bootstrap, &[]), &topic, 2, [(Some(b"x".as_slice()), 0), (None, 0), (Some(b"".as_slice()), 0)]);
    let source = source(bootstrap, &topic, &[TO_THE_END]);
    let names = source.splits(&context()).unwrap();
    assert_eq!(without_ids(&names)[2], format!(r#"{{"topic":"{topic}","partition":2,"start":0,"end":3}}"#));
    // what comes after the end was looked up is not read
    produce_texts(bootstrap, &topic, 0, &["late"]);
    produce_texts(bootstrap, &topic, 1, &["late"]);
    let mut splits = open_all(&source, names);
    let rows: Vec<Vec<String>> = splits.iter_mut().map(read_to_end).collect();
    assert_eq!(rows, [vec!["a", "b", "c"], vec![], vec!["x", "NULL", ""]]);
    assert_eq!(splits.iter().map(|split| split.position()).collect::<Vec<_>>(), [3, 0, 3]);
    // two workers, each with its share; no column is needed to count rows
    let count = KafkaSource::new(&lines(bootstrap, &topic, &[TO_THE_END]), &[]).unwrap();
    let names = count.splits(&context()).unwrap();
    let mut rows = 0;
    for share in names.chunks(2) {
        for mut split in open_all(&count, share.to_vec()) {
            loop {
                match split.poll(2).unwrap() {
                    Polled::Rows { rows: batch, .. } => rows += batch.num_rows(),
                    Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
                    Polled::Ended => break,
                }
            }
        }
    }
    assert_eq!(rows, 8);
}

fn reading_starts_where_it_is_told(bootstrap: &str) {
    let topic = create_topic(bootstrap, "start", 2);
    let client = producer(bootstrap, &[]);
    let text = |text: &'static str, millis| (Some(text.as_bytes()), millis);
    for (partition, record) in [(0, text("a", 1000)), (0, text("b", 2000)), (0, text("c", 3000)), (1, text("x", 1500))]
    {
        produce(&client, &topic, partition, [record]);
    }
    let rows = |options: &[(&str, &str)]| read_all(&source(bootstrap, &topic, &[&[TO_THE_END], options].concat()));
    assert_eq!(rows(&[("scan.startup.mode", "latest-offset")]), [[""; 0], []]);
    let from = |millis| rows(&[("scan.startup.mode", "timestamp"), ("scan.startup.timestamp-millis", millis)]);
    assert_eq!(from("2000"), [vec!["b", "c"], vec![]]);
    assert_eq!(from("0"), [vec!["a", "b", "c"], vec!["x"]]);
    assert_eq!(from("99999"), [[""; 0], []]);
    let offsets = ("scan.startup.specific-offsets", "partition:0,offset:1;partition:1,offset:1");
    assert_eq!(rows(&[("scan.startup.mode", "specific-offsets"), offsets]), [vec!["b", "c"], vec![]]);
    let bounded = |options: &[(&str, &str)]| read_all(&source(bootstrap, &topic, options));
    let until = ("scan.bounded.timestamp-millis", "2500");
    assert_eq!(bounded(&[("scan.bounded.mode", "timestamp"), until]), [vec!["a", "b"], vec!["x"]]);
    let until = ("scan.bounded.specific-offsets", "partition:0,offset:1;partition:1,offset:0");
    assert_eq!(bounded(&[("scan.bounded.mode", "specific-offsets"), until]), [vec!["a"], vec![]]);

    let refused = |given| {
        let options = [("scan.startup.mode", "specific-offsets"), ("scan.startup.specific-offsets", given)];
        said(&source(bootstrap, &topic, &options).splits(&context()).unwrap_err())
    };
    assert!(
        refused("partition:0,offset:9;partition:1,offset:0")
            .contains("partition 0: offset 9 is not in the partition, which holds 0 up to 3")
    );
    assert!(refused("partition:0,offset:1").contains("says nothing of partition 1"));
    assert!(
        refused("partition:0,offset:1;partition:7,offset:1").contains("there is no partition 7; the last one is 1")
    );
}

fn an_unbounded_read_goes_on_and_knows_when_it_has_caught_up(bootstrap: &str) {
    let topic = create_topic(bootstrap, "unbounded", 1);
    produce_texts(bootstrap, &topic, 0, &["a", "b"]);
    let source = source(bootstrap, &topic, &[("scan.startup.mode", "latest-offset")]);
    assert!(!source.bounded());
    let mut split = open(&source).remove(0);
    assert_eq!(split.position(), 2);
    eventually("it has caught up", || {
        assert!(matches!(split.poll(10).unwrap(), Polled::Pending));
        split.caught_up() && split.lag_rows() == Some(0)
    });
    produce_texts(bootstrap, &topic, 0, &["c", "d"]);
    assert_eq!(read(&mut split, |rows| rows.len() >= 2).unwrap(), ["c", "d"]);
    assert_eq!(split.position(), 4);
    produce_texts(bootstrap, &topic, 0, &["e"]);
    eventually("one row at a time, with its place", || matches!(split.poll(1).unwrap(), Polled::Rows { .. }));
    assert_eq!(split.place(0), format!("topic \"{topic}\", partition 0, offset 4"));
}

fn transactional(bootstrap: &str) -> BaseProducer {
    let producer = producer(bootstrap, &[("transactional.id", &unique("txn")), ("transaction.timeout.ms", "60000")]);
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn aborted_records_are_skipped_and_markers_do_not_hang_a_bounded_read(bootstrap: &str) {
    let topic = create_topic(bootstrap, "transactions", 1);
    let writer = transactional(bootstrap);
    let send = |text: &'static str| produce(&writer, &topic, 0, [(Some(text.as_bytes()), 0)]);
    writer.begin_transaction().unwrap();
    send("kept");
    writer.commit_transaction(PATIENCE).unwrap();
    writer.begin_transaction().unwrap();
    send("dropped");
    writer.abort_transaction(PATIENCE).unwrap();
    // kept, marker, dropped, marker
    let committed = source(bootstrap, &topic, &[TO_THE_END]);
    let names = committed.splits(&context()).unwrap();
    assert!(without_ids(&names)[0].ends_with(r#""start":0,"end":4}"#), "{names:?}");
    let mut split = open_all(&committed, names).remove(0);
    assert_eq!(read_to_end(&mut split), ["kept"]);
    assert_eq!(split.position(), 4);
    let all = [TO_THE_END, ("properties.isolation.level", "read_uncommitted")];
    assert_eq!(read_all(&source(bootstrap, &topic, &all)), [["kept", "dropped"]]);
    // a read that begins and ends at markers
    let markers = [
        ("scan.startup.mode", "specific-offsets"),
        ("scan.startup.specific-offsets", "partition:0,offset:1"),
        ("scan.bounded.mode", "specific-offsets"),
        ("scan.bounded.specific-offsets", "partition:0,offset:2"),
    ];
    assert_eq!(read_all(&source(bootstrap, &topic, &markers)), [[""; 0]]);
}

fn an_open_transaction_blocks_and_is_not_idle(bootstrap: &str) {
    let topic = create_topic(bootstrap, "open", 1);
    produce_texts(bootstrap, &topic, 0, &["before"]);
    let mut split = open(&source(bootstrap, &topic, &[])).remove(0);
    assert_eq!(read(&mut split, |rows| !rows.is_empty()).unwrap(), ["before"]);
    eventually("it has caught up", || {
        assert!(matches!(split.poll(10).unwrap(), Polled::Pending));
        split.caught_up()
    });
    let writer = transactional(bootstrap);
    writer.begin_transaction().unwrap();
    produce(&writer, &topic, 0, [(Some(b"inside".as_slice()), 0)]);
    produce_texts(bootstrap, &topic, 0, &["after"]);
    eventually("it knows of rows that it may not have yet", || {
        assert!(matches!(split.poll(10).unwrap(), Polled::Pending));
        split.lag_rows() == Some(2) && !split.caught_up()
    });
    // what is stable now is the end of a bounded read
    assert_eq!(read_all(&source(bootstrap, &topic, &[TO_THE_END])), [["before"]]);
    writer.commit_transaction(PATIENCE).unwrap();
    assert_eq!(read(&mut split, |rows| rows.len() >= 2).unwrap(), ["inside", "after"]);
}

fn every_compression_is_read(bootstrap: &str) {
    let mut rows = 0;
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = create_topic(bootstrap, compression, 1);
        let sink = KafkaSink::new(&lines(bootstrap, &topic, &[("sink.compression", compression)])).unwrap();
        let mut shard = sink.open(0, 1, &context()).unwrap();
        shard.write(batch(vec![("line", strings((0..500).map(|row| format!("{compression} {row}"))))])).unwrap();
        flush(&mut shard);
        let read = read_all(&source(bootstrap, &topic, &[TO_THE_END])).remove(0);
        assert_eq!(read[499], format!("{compression} 499"));
        rows += read.len();
    }
    assert_eq!(rows, 2500);
}

fn a_bad_record_is_named_with_its_place(bootstrap: &str) {
    let topic = create_topic(bootstrap, "bad", 2);
    let client = producer(bootstrap, &[]);
    produce(
        &client,
        &topic,
        1,
        [(Some(b"good".as_slice()), 0), (Some(b"\xff\xfe".as_slice()), 0), (Some(b"good".as_slice()), 0)],
    );
    let mut split = open(&source(bootstrap, &topic, &[])).remove(1);
    let error = read(&mut split, |rows| rows.len() > 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().starts_with(&format!("topic \"{topic}\", partition 1, offset 1: ")), "{error}");

    let mut split = open(&source(bootstrap, &topic, &[("on_error", "skip")])).remove(1);
    let (mut rows, mut refused) = (0, Vec::new());
    eventually("two rows and what is wrong with the third record", || {
        if let Polled::Rows { rows: batch, .. } = split.poll(10).unwrap() {
            if batch.num_rows() == 2 {
                assert!(split.place(1).ends_with("offset 2"), "{}", split.place(1));
            }
            rows += batch.num_rows();
        }
        refused.extend(split.take_refused());
        rows == 2 && refused.len() == 1
    });
    let bad = &refused[0];
    assert_eq!(bad.record.as_deref(), Some(b"\xff\xfe".as_slice()));
    assert_eq!(
        (bad.origin.topic.as_deref(), bad.origin.partition, bad.origin.offset),
        (Some(&*topic), Some(1), Some(1))
    );
    assert!(bad.reason.contains("UTF-8"), "{}", bad.reason);
}

fn a_missing_topic_is_refused_with_the_nearest_name(bootstrap: &str) {
    let topic = create_topic(bootstrap, "lines", 1);
    let wrong = topic.replace("lines", "lnies");
    let start = Instant::now();
    let error = source(bootstrap, &wrong, &[]).splits(&context()).unwrap_err();
    assert_eq!(
        said(&error),
        format!("topic \"{wrong}\": there is no such topic at the brokers at {bootstrap} / did you mean \"{topic}\"?")
    );
    // a topic that may be created is waited for longer, and a broker that is silent says something else
    assert!(start.elapsed() < Duration::from_secs(30), "it says so at once, not after {:?}", start.elapsed());
}

fn what_is_written_is_acknowledged_and_there(bootstrap: &str) {
    let topic = create_topic(bootstrap, "written", 3);
    let sink = KafkaSink::new(&lines(bootstrap, &topic, &[("sink.partitioner", "round-robin")])).unwrap();
    let mut shard = sink.open(0, 1, &context()).unwrap();
    assert!(shard.flush().unwrap(), "nothing was written, so nothing is missing");
    shard.write(batch(vec![("line", strings((0..10).map(|row| format!("row {row}"))))])).unwrap();
    flush(&mut shard);
    shard.write(batch(vec![("line", strings(["last".to_owned()]))])).unwrap();
    shard.finish().unwrap();
    let want = [
        vec!["row 0", "row 3", "row 6", "row 9"],
        vec!["row 1", "row 4", "row 7", "last"],
        vec!["row 2", "row 5", "row 8"],
    ];
    assert_eq!(read_all(&source(bootstrap, &topic, &[TO_THE_END])), want);
    let Some(seen) = read_back(bootstrap, &topic) else { return };
    for (partition, want) in want.iter().enumerate() {
        let seen: Vec<&str> =
            seen.iter().filter(|seen| seen.partition == partition as i32).map(|seen| seen.value.as_str()).collect();
        assert_eq!(&seen, want, "partition {partition}");
    }
}

fn keys_go_where_the_java_client_sends_them(bootstrap: &str) {
    let (ours, javas) = (create_topic(bootstrap, "ours", 7), create_topic(bootstrap, "javas", 7));
    let keys: Vec<String> = (0..200).map(|key| format!("key-{}", "é".repeat(key % 5) + &key.to_string())).collect();
    if !produce_by_java(bootstrap, &javas, &keys.iter().map(|key| format!("{key}\t{key}\n")).collect::<String>()) {
        return;
    }
    let sink = KafkaSink::new(&lines(bootstrap, &ours, &[("key.fields", "line")])).unwrap();
    let mut shard = sink.open(0, 1, &context()).unwrap();
    shard.write(batch(vec![("line", strings(keys))])).unwrap();
    flush(&mut shard);
    let (ours, javas) = (read_back(bootstrap, &ours).unwrap(), read_back(bootstrap, &javas).unwrap());
    assert_eq!(ours.len(), 200);
    assert_eq!(ours, javas);
}

fn keys_and_values_have_formats_of_their_own(bootstrap: &str) {
    let topic = create_topic(bootstrap, "formats", 1);
    let columns = [("word", DataType::Utf8), ("n", DataType::Int64), ("note", DataType::Utf8)];
    let table = |primary_key: &[usize], more: &[(&str, &str)]| {
        let ours = [("topic", topic.as_str()), ("format", "json"), (BOOTSTRAP, bootstrap)];
        table(&columns, primary_key, &[ours.as_slice(), more].concat())
    };
    let rows = || {
        let notes: ArrayRef = Arc::new(StringArray::from(vec![None, Some("x")]));
        let words = strings(["a".to_owned(), "b".to_owned()]);
        batch(vec![("word", words), ("n", Arc::new(Int64Array::from(vec![1, 2]))), ("note", notes)])
    };
    let write = |primary_key: &[usize], more: &[(&str, &str)], changes: Changes| {
        let sink = KafkaSink::new(&table(primary_key, more)).unwrap();
        assert_eq!(sink.changes(), changes);
        let mut shard = sink.open(0, 1, &context()).unwrap();
        shard.write(rows()).unwrap();
        shard.finish().unwrap();
    };
    write(&[], &[], Changes::AppendOnly);
    write(&[0], &[], Changes::Keyed);
    write(&[0, 1], &[("json.encode.nulls", "false")], Changes::Keyed);
    write(&[1], &[("key.format", "csv"), ("key.fields", "n;word"), ("key.csv.delimiter", "|")], Changes::Keyed);
    let read = KafkaSource::new(&table(&[], &[TO_THE_END]), &[2, 0]).unwrap();
    let text: Vec<String> = open(&read).iter_mut().flat_map(read_to_end).collect();
    assert_eq!(text, ["NULL", "x"].repeat(4));
    let Some(seen) = read_back(bootstrap, &topic) else { return };
    let seen: Vec<String> = seen.into_iter().map(|seen| format!("{} {}", seen.key, seen.value)).collect();
    assert_eq!(
        seen,
        [
            r#" {"word":"a","n":1,"note":null}"#,
            r#" {"word":"b","n":2,"note":"x"}"#,
            r#"a {"word":"a","n":1,"note":null}"#,
            r#"b {"word":"b","n":2,"note":"x"}"#,
            r#"{"word":"a","n":1} {"word":"a","n":1}"#,
            r#"{"word":"b","n":2} {"word":"b","n":2,"note":"x"}"#,
            r#"1|a {"word":"a","n":1,"note":null}"#,
            r#"2|b {"word":"b","n":2,"note":"x"}"#,
        ]
    );
}

fn what_cannot_be_written_is_refused(bootstrap: &str) {
    let topic = create_topic(bootstrap, "refused", 1);
    let keyed = |options: &[(&str, &str)]| KafkaSink::new(&keyed_lines(bootstrap, &topic, &[0], options)).unwrap();
    let mut shard = keyed(&[]).open(0, 1, &context()).unwrap();
    let error = shard.write(batch(vec![("line", Arc::new(StringArray::from(vec![Some("a"), None])))])).unwrap_err();
    assert_eq!(
        said(&error),
        format!("topic \"{topic}\": a row's PRIMARY KEY is NULL / filter such rows out: WHERE … IS NOT NULL")
    );

    let mut shard = keyed(&[("properties.message.max.bytes", "2000")]).open(0, 1, &context()).unwrap();
    let error = shard.write(batch(vec![("line", strings(["x".repeat(3000)]))])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(
        error.to_string().contains("a record of 6000 bytes is too large: this client sends 2000 at most"),
        "{error}"
    );
    assert!(read_all(&source(bootstrap, &topic, &[TO_THE_END])).concat().is_empty());
}

fn two_hundred_thousand_rows_go_in_and_out(bootstrap: &str) {
    const ROWS: usize = 200_000;
    let topic = create_topic(bootstrap, "volume", 4);
    // a small queue, so that it is full at times and the shard keeps what it did not take
    let options = [("key.fields", "line"), ("properties.queue.buffering.max.messages", "20000")];
    let sink = KafkaSink::new(&lines(bootstrap, &topic, &options)).unwrap();
    let start = Instant::now();
    let mut shard = sink.open(0, 1, &context()).unwrap();
    for first in (0..ROWS).step_by(8000) {
        shard.write(batch(vec![("line", strings((first..first + 8000).map(|row| format!("row {row:06}"))))])).unwrap();
        shard.flush().unwrap();
    }
    flush(&mut shard);
    let (written, start) = (start.elapsed(), Instant::now());
    let mut splits = open(&source(bootstrap, &topic, &[TO_THE_END]));
    let mut rows: Vec<String> = Vec::new();
    for split in &mut splits {
        let read = read_to_end(split);
        assert!(read.is_sorted(), "a partition keeps the order in which its rows were written");
        rows.extend(read);
    }
    println!("       {ROWS} rows written in {written:.1?}, read in {:.1?}", start.elapsed());
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), ROWS, "each row is there once");
}

// What only a real broker can be put to.

fn deleted_records_are_counted(bootstrap: &str) {
    let topic = create_topic(bootstrap, "deleted", 1);
    let source = source(bootstrap, &topic, &[]);
    produce_texts(bootstrap, &topic, 0, &["a", "b", "c", "d", "e"]);
    let names = source.splits(&context()).unwrap();
    support::delete_records(bootstrap, &topic, 3);
    let mut split = open_all(&source, names).remove(0);
    let error = read(&mut split, |rows| !rows.is_empty()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "topic \"{topic}\", partition 0, offset 0: 3 records were deleted before they could be read: the partition begins at offset 3 now"
        )
    );
}

fn a_deleted_topic_is_named(bootstrap: &str) {
    let topic = create_topic(bootstrap, "gone", 1);
    produce_texts(bootstrap, &topic, 0, &["a"]);
    let mut split =
        open(&source(bootstrap, &topic, &[("properties.topic.metadata.propagation.max.ms", "1000")])).remove(0);
    assert_eq!(read(&mut split, |rows| !rows.is_empty()).unwrap(), ["a"]);
    support::delete_topic(bootstrap, &topic);
    let error = read(&mut split, |rows| rows.len() > 1).unwrap_err();
    assert_eq!(said(&error), format!("topic \"{topic}\": it is gone / a topic must not be deleted while it is read"));
}

fn a_sink_may_create_its_topic(bootstrap: &str) {
    let topic = unique("created");
    let mut shard = KafkaSink::new(&lines(bootstrap, &topic, &[])).unwrap().open(0, 1, &context()).unwrap();
    shard.write(batch(vec![("line", strings(["a".to_owned()]))])).unwrap();
    flush(&mut shard);
    assert_eq!(read_all(&source(bootstrap, &topic, &[TO_THE_END])), [["a"]]);
}

#[test]
fn a_broker_that_is_killed_is_waited_for_and_nothing_is_lost_or_doubled() {
    let Some(kafka) = Kafka::start_own(&["--auth", "all"]) else { return };
    within(LIMIT, "kill and restart", move || {
        let topic = create_topic(kafka.bootstrap(), "killed", 2);
        let sink = KafkaSink::new(&lines(kafka.bootstrap(), &topic, &[("sink.partitioner", "round-robin")])).unwrap();
        let mut shard = sink.open(0, 1, &context()).unwrap();
        // written in plain, read through TLS: both wait
        let ca = format!("${{file:{}}}", kafka.file("tls/ca.pem").display());
        let tls = [("properties.security.protocol", "SSL"), ("properties.ssl.ca.pem", ca.as_str())];
        let mut splits = open(&source(&kafka.listener("tls"), &topic, &tls));
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let (mut written, mut caught_up_while_down) = (0, false);
        let mut turn = |splits: &mut Vec<Box<dyn Split>>, down: bool| {
            for split in splits {
                if let Polled::Rows { rows, .. } = split.poll(8192).unwrap() {
                    rows.column(0)
                        .as_string::<i32>()
                        .iter()
                        .flatten()
                        .for_each(|row| *seen.entry(row.to_owned()).or_default() += 1);
                }
                caught_up_while_down |= down && split.caught_up();
            }
            seen.len()
        };
        let mut write = |shard: &mut Box<dyn Shard>| {
            shard
                .write(batch(vec![("line", strings((written..written + 500).map(|row| format!("row {row}"))))]))
                .unwrap();
            shard.flush().unwrap();
            written += 500;
            written
        };
        for _ in 0..20 {
            write(&mut shard);
            turn(&mut splits, false);
            std::thread::sleep(Duration::from_millis(5));
        }
        kafka.kill();
        // the client needs a moment to notice
        let noticed = Instant::now() + Duration::from_millis(500);
        while Instant::now() < noticed + Duration::from_secs(2) {
            write(&mut shard);
            turn(&mut splits, Instant::now() > noticed);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!shard.flush().unwrap(), "nobody acknowledged what was written while the broker was down");
        kafka.restart();
        let written = write(&mut shard);
        shard.finish().unwrap();
        eventually("every row is read", || turn(&mut splits, false) == written);
        eventually("the splits have caught up again", || {
            turn(&mut splits, false);
            splits.iter().all(|split| split.caught_up())
        });
        assert!(seen.values().all(|count| *count == 1), "each row was read once");
        assert!(!caught_up_while_down, "a split that is held back is not idle");
        let Some(back) = read_back(kafka.bootstrap(), &topic) else { return };
        assert_eq!(back.len(), written);
    });
}

// What needs no broker.

#[test]
fn a_broker_that_does_not_answer_is_an_error_with_the_last_reason() {
    // a port that was just given back
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    within(LIMIT, "no broker", move || {
        let start = Instant::now();
        let error = source(&address, "t", &[]).splits(&context()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.to_string().contains(&format!("the brokers at {address} gave no answer within 10 s: ")),
            "{error}"
        );
        assert!(error.to_string().contains("Connection refused"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(40), "not after {:?}", start.elapsed());
        let sink = KafkaSink::new(&lines(&address, "t", &[])).unwrap();
        let error = sink.open(0, 1, &context()).err().unwrap();
        assert!(error.to_string().contains("Connection refused"), "{error}");
    });
}

#[test]
fn a_definition_that_cannot_work_is_refused() {
    let refused = |options: &[(&str, &str)]| {
        let table = lines("localhost:1", "words", options);
        let made = KafkaSource::new(&table, &[0]).map(drop).and_then(|()| KafkaSink::new(&table).map(drop));
        let kafka = CONNECTORS.iter().find(|spec| spec.name == "kafka").expect("it is there");
        let unknown = |()| table.options.check(&kafka.declared()).into_iter().next().map_or(Ok(()), Err);
        said(&made.and_then(unknown).unwrap_err())
    };
    assert_eq!(
        refused(&[("scan.startup.mode", "group-offsets")]),
        "option 'scan.startup.mode': 'group-offsets' is not one of earliest-offset, latest-offset, timestamp, \
         specific-offsets / where to start; offsets are kept by the pipeline, not by a consumer group"
    );
    assert_eq!(
        refused(&[("scan.startup.mod", "x")]),
        "unknown option 'scan.startup.mod' / did you mean 'scan.startup.mode'?"
    );
    assert!(
        refused(&[("scan.startup.mode", "timestamp")]).starts_with("option 'scan.startup.timestamp-millis' is missing")
    );
    let offsets = |text| refused(&[("scan.bounded.mode", "specific-offsets"), ("scan.bounded.specific-offsets", text)]);
    assert!(offsets("0:1").contains("'0:1' does not read 'partition:0,offset:42'"));
    assert!(offsets("partition:0,offset:1;partition:0,offset:2").contains("partition 0 is given twice"));
    assert!(refused(&[("topic", "a;b; a")]).contains("\"a\" is given twice"));
    assert!(refused(&[("topic", "a topic")]).contains("'a topic' is not a topic's name"));
    assert!(refused(&[("key.fields", "lime")]).ends_with("there is no column \"lime\" / did you mean \"line\"?"));
    assert!(refused(&[("key.format", "raw")]).contains("there is no key"));
    assert!(refused(&[("value.fields-include", "EXCEPT_KEY")]).contains("there is no key"));
    assert!(
        refused(&[("key.fields", "line"), ("key.fields-prefix", "li")])
            .contains("'value.fields-include' = 'EXCEPT_KEY'")
    );
    let apart = ("value.fields-include", "EXCEPT_KEY");
    assert!(
        refused(&[("key.fields", "line"), ("key.fields-prefix", "k_"), apart])
            .contains("\"line\" of the key does not start")
    );
    assert!(refused(&[("topic-pattern", "w.*")]).contains("the topic is given, too"));
    assert!(refused(&[("scan.topic-partition-discovery.interval", "0s")]).contains("it cannot be zero"));
    let number = table(
        &[("n", DataType::Int64)],
        &[],
        &[("topic", "t"), ("format", "raw"), ("properties.bootstrap.servers", "x")],
    );
    assert!(KafkaSource::new(&number, &[0]).is_err(), "raw records are text or bytes");
}
