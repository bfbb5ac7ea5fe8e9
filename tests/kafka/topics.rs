//! Patterns, new partitions and topics, topics that are created.

use super::*;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::runtime::{self, Workers};
use highwater::sql::{self, Text};

fn pattern(bootstrap: &str, pattern: &str, options: &[(&str, &str)]) -> KafkaSource {
    let ours = [("topic-pattern", pattern), ("format", "raw"), (BOOTSTRAP, bootstrap)];
    KafkaSource::new(&table(&[("line", DataType::Utf8)], &[], &[ours.as_slice(), options].concat()), &[0]).unwrap()
}

fn share(topic: &str, partition: i32, start: i64) -> String {
    format!(r#"{{"topic":"{topic}","partition":{partition},"start":{start},"end":null}}"#)
}

pub fn a_pattern_fits_topics_and_new_ones_are_found(bootstrap: &str) {
    let (prefix, latest) = (unique("pattern"), ("scan.startup.mode", "latest-offset"));
    let source = pattern(bootstrap, &format!("{prefix}-[ab].*"), &[latest]);
    assert_eq!(source.splits(&context()).unwrap(), [""; 0], "it waits for a topic");
    assert_eq!(source.discovery_interval(), Some(Duration::from_secs(300)));

    let first = create_topic(bootstrap, &format!("{prefix}-b"), 2);
    create_topic(bootstrap, &format!("{prefix}-c"), 1);
    create_topic(bootstrap, &format!("not-{prefix}-a"), 1);
    produce_texts(bootstrap, &first, 0, &["old"]);
    let known = source.splits(&context()).unwrap();
    assert_eq!(without_ids(&known), [share(&first, 0, 1), share(&first, 1, 0)]);
    assert_eq!(source.discover(&known, &context()).unwrap(), [""; 0]);
    let second = create_topic(bootstrap, &format!("{prefix}-a"), 1);
    produce_texts(bootstrap, &second, 0, &["first", "second"]);
    let found = source.discover(&known, &context()).unwrap();
    assert_eq!(without_ids(&found), [share(&second, 0, 0)], "what is new is read from its beginning");
    let mut split = open_all(&source, found).remove(0);
    assert_eq!(read(&mut split, |rows| rows.len() >= 2).unwrap(), ["first", "second"]);

    let bounded = pattern(bootstrap, &format!("{prefix}-[ab].*"), &[TO_THE_END]);
    assert_eq!(bounded.discovery_interval(), None, "what is there is all");
    assert_eq!(read_all(&bounded), [vec!["first", "second"], vec!["old"], vec![]]);
    let none = pattern(bootstrap, &format!("{prefix}-[xy]"), &[TO_THE_END]);
    let error = none.splits(&context()).unwrap_err();
    assert!(error.to_string().contains(&format!("fits the pattern '{prefix}-[xy]'")), "{error}");
}

pub fn new_partitions_are_found(bootstrap: &str) {
    let topic = create_topic(bootstrap, "grows", 1);
    let source = source(bootstrap, &topic, &[("scan.startup.mode", "latest-offset")]);
    let known = source.splits(&context()).unwrap();
    support::create_partitions(bootstrap, &topic, 3);
    eventually("the new partitions are found", || {
        let found = source.discover(&known, &context()).unwrap();
        without_ids(&found) == [share(&topic, 1, 0), share(&topic, 2, 0)]
    });
}

pub fn a_topic_is_created_on_request(bootstrap: &str) {
    let topic = unique("on-request");
    let ask = |topic: &str, more: &[(&str, &str)]| {
        let options = [[("topic.create", "true"), ("topic.partitions", "3")].as_slice(), more].concat();
        KafkaSink::new(&lines(bootstrap, topic, &options)).unwrap()
    };
    for _ in 0..2 {
        let mut shard = ask(&topic, &[("topic.config.retention.ms", "3600000")]).open(0, 1, &context()).unwrap();
        shard.write(batch(vec![("line", strings(["a".to_owned()]))])).unwrap();
        flush(&mut shard);
    }
    let rows = read_all(&source(bootstrap, &topic, &[TO_THE_END]));
    assert_eq!((rows.len(), rows.concat()), (3, vec!["a".to_owned(); 2]));
}

/// Only a real broker has settings of topics, and refuses some.
pub fn a_created_topic_has_its_settings(bootstrap: &str) {
    let topic = unique("settings");
    let ask = |more: &[(&str, &str)]| {
        let options = [[("topic.create", "true")].as_slice(), more].concat();
        KafkaSink::new(&lines(bootstrap, &topic, &options)).unwrap().open(0, 1, &context())
    };
    let refused = |more: &[(&str, &str)]| said(&ask(more).err().unwrap());
    let message = refused(&[("topic.replication-factor", "3")]);
    assert!(message.starts_with(&format!("topic \"{topic}\": it cannot be created: ")), "{message}");
    let message = refused(&[("topic.config.retention.ms", "soon")]);
    assert!(message.contains("it cannot be created") && message.contains("topic.config"), "{message}");
    ask(&[("topic.config.retention.ms", "3600000"), ("topic.config.cleanup.policy", "compact")]).unwrap();
    assert_eq!(support::topic_setting(bootstrap, &topic, "retention.ms"), "3600000");
    assert_eq!(support::topic_setting(bootstrap, &topic, "cleanup.policy"), "compact");
}

/// A whole pipeline, whose second topic comes while it runs.
pub fn a_pipeline_reads_topics_that_come_later(bootstrap: &str) {
    for workers in [1, 3] {
        let prefix = unique("later");
        let text = format!(
            "CREATE TABLE t (
               line STRING, topic STRING METADATA VIRTUAL, at BIGINT METADATA FROM 'offset' VIRTUAL,
               kind STRING METADATA FROM 'timestamp_type' VIRTUAL, ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'
             ) WITH ('connector' = 'kafka', 'topic-pattern' = '{prefix}-.*', 'format' = 'raw',
               'scan.topic-partition-discovery.interval' = '50 ms', '{BOOTSTRAP}' = '{bootstrap}');
             CREATE TABLE out (text STRING) WITH ('connector' = 'memory');
             INSERT INTO out SELECT topic || ' ' || CAST(at AS STRING) || ' ' || line FROM t WHERE kind = 'CreateTime';"
        );
        let sink = MemorySink::new();
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &connectors).unwrap();
        let running = runtime::start(plan, Workers::Threads(workers), None, Arc::new(SystemClock::default())).unwrap();
        let seen = |rows: &[String]| {
            let mut seen: Vec<String> = sink
                .batches()
                .iter()
                .flat_map(|batch| {
                    batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
                })
                .collect();
            seen.sort_unstable();
            seen == rows
        };
        let mut expected = Vec::new();
        for name in ["a", "b"] {
            let topic = create_topic(bootstrap, &format!("{prefix}-{name}"), 2);
            produce_texts(bootstrap, &topic, 0, &["x", "y"]);
            produce_texts(bootstrap, &topic, 1, &["z"]);
            expected.extend(["0 x", "0 z", "1 y"].map(|row| format!("{topic} {row}")));
            eventually("the rows of the new topic are there", || seen(&expected));
        }
        running.fate().stop();
        running.wait().1.unwrap();
    }
}
