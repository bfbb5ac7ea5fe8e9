//! Reading on from where a checkpoint has ended.

use super::*;

/// The splits of `source` as a checkpoint would have them.
fn starts(source: &KafkaSource, position: Option<u64>) -> Vec<SplitStart> {
    let start = |name| SplitStart { name, position };
    source.splits(&context()).unwrap().into_iter().map(start).collect()
}

/// What is said of what may pass, or of what will not.
fn refusal(kind: ErrorKind, source: &KafkaSource, starts: Vec<SplitStart>) -> String {
    let error = source.resume(starts, false, &context()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    said(&error)
}

pub fn a_topic_that_was_recreated_is_not_read_on(bootstrap: &str) {
    let topic = create_topic(bootstrap, "recreated", 1);
    produce_texts(bootstrap, &topic, 0, &["a", "b", "c"]);
    let source = source(bootstrap, &topic, &[]);
    let starts = starts(&source, Some(2));
    assert_eq!(source.resume(starts.clone(), false, &context()).unwrap(), starts);
    assert_eq!(source.resume(Vec::new(), false, &context()).unwrap(), []);
    support::delete_topic(bootstrap, &topic);
    eventually("the topic is gone", || {
        source.resume(starts.clone(), false, &context()).is_err_and(|error| error.to_string().contains("is gone"))
    });
    let gone = refusal(ErrorKind::Unavailable, &source, starts.clone());
    assert!(gone.starts_with(&format!("topic \"{topic}\": it was read before, and is gone / restore it")), "{gone}");
    // the same offsets are there again, but not the same records
    support::create_topic_named(bootstrap, &topic, 1);
    produce_texts(bootstrap, &topic, 0, &["x", "y", "z"]);
    let other = refusal(ErrorKind::Invalid, &source, starts.clone());
    assert!(
        other.contains("it was deleted and created again") && other.contains("remove the pipeline's checkpoints"),
        "{other}"
    );
    assert!(source.resume(starts.clone(), true, &context()).is_err(), "that is more than a gap");
    let known: Vec<String> = starts.into_iter().map(|start| start.name).collect();
    let noticed = source.discover(&known, &context()).unwrap_err();
    assert!(noticed.to_string().contains("it was deleted and created again"), "{noticed}");
}

pub fn a_position_is_gone_on_from_or_refused(bootstrap: &str) {
    let topic = create_topic(bootstrap, "positions", 1);
    produce_texts(bootstrap, &topic, 0, &["a", "b", "c"]);
    let source = source(bootstrap, &topic, &[]);
    let resumed = source.resume(starts(&source, Some(1)), false, &context()).unwrap();
    let mut split = source.open(&resumed, &context()).unwrap().remove(0);
    assert_eq!(read(&mut split, |rows| rows.len() >= 2).unwrap(), ["b", "c"]);
    assert_eq!(source.resume(starts(&source, None), false, &context()).unwrap(), starts(&source, None));
    let beyond = refusal(ErrorKind::Unavailable, &source, starts(&source, Some(4)));
    assert!(beyond.contains("partition 0: the next record has offset 4, but the partition ends at 3"), "{beyond}");
    // what was read to its end needs nothing
    let bounded = super::source(bootstrap, &topic, &[TO_THE_END]);
    let done = starts(&bounded, Some(3));
    support::delete_topic(bootstrap, &topic);
    assert_eq!(bounded.resume(done.clone(), false, &context()).unwrap(), done);
}

/// A gap that `source` has in partition 0 between `from` and `low`, the first offset that there is.
fn a_gap(source: &KafkaSource, from: u64, low: u64) {
    let before = refusal(ErrorKind::Invalid, source, starts(source, Some(from)));
    let lost = low - from;
    assert!(
        before.contains(&format!("partition 0: {lost} records were deleted before they could be read")),
        "{before}"
    );
    assert!(before.contains(&format!("begins at {low} now")) && before.contains("--accept-gap"), "{before}");
    let accepted = source.resume(starts(source, Some(from)), true, &context()).unwrap();
    assert_eq!(accepted[0].position, Some(low));
    assert_eq!(source.resume(starts(source, Some(low)), false, &context()).unwrap()[0].position, Some(low));
}

pub fn deleted_records_are_a_gap(bootstrap: &str) {
    let topic = create_topic(bootstrap, "gap", 1);
    produce_texts(bootstrap, &topic, 0, &["a", "b", "c", "d", "e"]);
    let source = source(bootstrap, &topic, &[]);
    support::delete_records(bootstrap, &topic, 3);
    a_gap(&source, 1, 3);
}

#[test]
fn what_a_full_broker_has_dropped_is_a_gap() {
    let config = Config { listen: "127.0.0.1:0".into(), memory_limit: 1 << 20, ..Config::default() };
    let broker = Broker::start(config).unwrap();
    let topic = create_topic(&broker.address(), "gap", 1);
    let text = "x".repeat(10_000);
    let client = producer(&broker.address(), &[("batch.num.messages", "1")]);
    produce(&client, &topic, 0, (0..300).map(|_| (Some(text.as_bytes()), 0)));
    let source = source(&broker.address(), &topic, &[]);
    let name = &source.splits(&context()).unwrap()[0];
    let low: serde_json::Value = serde_json::from_str(name).unwrap();
    a_gap(&source, 1, low["start"].as_u64().filter(|low| *low > 1).unwrap());
}
