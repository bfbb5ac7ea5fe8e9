//! Topics that are deleted, made again, or emptied while nobody looks: what cannot be told any more stops the pipeline.

use crate::deaths::Feed;
use crate::job::{DevBroker, Input, Job, PARTITIONS, Special, wait_for};
use crate::kafka::{Kafka, create_topic_named, delete_records, delete_topic, unique};
use crate::points::{ONE, TWO_BY_ONE};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::thread::sleep;
use std::time::Duration;

/// A pipeline that has read all of its 1000 rows and was stopped.
fn stopped(input: &Input) -> Job {
    input.send(0..1000, None);
    let job = Job::endless(input);
    let run = job.start(ONE, &[]);
    wait_for("checkpoint of all rows", || {
        sleep(Duration::from_millis(100));
        job.totals_are_those_of(1000)
    });
    let (code, err) = run.stop();
    assert_eq!(code, 0, "{err}");
    job
}

#[test]
fn an_input_topic_that_was_made_again_is_not_read_on() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let job = stopped(&input);
    delete_topic(&input.bootstrap, &input.topic);
    create_topic_named(&input.bootstrap, &input.topic, PARTITIONS);
    let (code, err) = job.run(ONE);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains(&input.topic) && err.contains("created again"), "{err}");
}

/// What `group` has committed, in order of the partitions.
fn committed_by(group: &str, input: &Input) -> Vec<Offset> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &input.bootstrap).set("group.id", group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut asked = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        asked.add_partition(&input.topic, partition);
    }
    let found = consumer.committed_offsets(asked, Duration::from_secs(30)).unwrap();
    found.elements().iter().map(|element| element.offset()).collect()
}

/// Tools that show lag see how far committed checkpoints have read, unless somebody does not want it.
fn offsets_are_shown(bootstrap: &str) {
    let input = Input::with(bootstrap, 1000);
    let all = vec![Offset::Offset(1000 / i64::from(PARTITIONS)); PARTITIONS as usize];
    let none = vec![Offset::Invalid; PARTITIONS as usize];
    let job = Job::new(&input);
    let own = format!("highwater.{}.t", job.name);
    assert_eq!(job.run(ONE).0, 0);
    assert_eq!(committed_by(&own, &input), all);
    let named = unique("group");
    let source = format!(", 'properties.group.id' = '{named}'");
    let job = Job::special(&input, Special { source: &source, ..Special::default() });
    assert_eq!(job.run(TWO_BY_ONE).0, 0);
    assert_eq!(committed_by(&named, &input), all);
    let silent = Job::special(&input, Special { source: ", 'scan.commit-offsets' = 'false'", ..Special::default() });
    assert_eq!(silent.run(ONE).0, 0);
    assert_eq!(committed_by(&format!("highwater.{}.t", silent.name), &input), none);
    // nothing is read from it: what somebody else has committed there changes nothing
    let other = format!(", 'properties.group.id' = '{named}'");
    let job = Job::special(&input, Special { source: &other, ..Special::default() });
    assert_eq!(job.run(ONE).0, 0);
    job.check(1000, "a group that had come to the end");
}

#[test]
fn offsets_of_checkpoints_are_shown_by_a_real_broker() {
    let Some(kafka) = Kafka::start() else { return };
    offsets_are_shown(kafka.bootstrap());
}

#[test]
fn offsets_of_checkpoints_are_shown_by_the_development_broker() {
    offsets_are_shown(&DevBroker::start().address);
}

/// The size of the gap is told, and who accepts it goes on behind it.
#[test]
fn rows_that_retention_has_taken_stop_it_until_a_person_accepts_the_gap() {
    let Some(kafka) = Kafka::start() else { return };
    let input = Input::new(kafka.bootstrap());
    let job = stopped(&input);
    // of partition 0, which has every fourth row, those of 1000 to 1400 go
    input.send(1000..1800, None);
    delete_records(&input.bootstrap, &input.topic, 350);
    let (code, err) = job.run(ONE);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("100 ") && err.contains("--accept-gap"), "{err}");
    let run = job.start(&["--accept-gap"], &[]);
    input.close();
    wait_for("rows behind the gap", || {
        sleep(Duration::from_millis(200));
        job.rows_counted() == 1700
    });
    assert_eq!(run.stop().0, 0);
}

/// To commit into a topic that is gone succeeds, so its id is asked for.
#[test]
fn an_output_topic_that_is_deleted_stops_it() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, 1000);
    let job = Job::endless(&input);
    let run = job.start(ONE, &[]);
    wait_for("checkpoint", || job.checkpoint().is_some());
    sleep(Duration::from_secs(1));
    delete_topic(&input.bootstrap, &job.windows);
    create_topic_named(&input.bootstrap, &job.windows, PARTITIONS);
    let feed = Feed::start(&input, 1000);
    let (code, err) = run.end();
    feed.end();
    assert_eq!(code, 2, "{err}");
    assert!(err.contains(&job.windows) && err.contains("history lost"), "{err}");
}
