//! Topics that are deleted, made again, or emptied while nobody looks: what cannot be told any more stops the pipeline.

use crate::deaths::Feed;
use crate::job::{DevBroker, Input, Job, PARTITIONS, wait_for};
use crate::kafka::{Kafka, create_topic_named, delete_records, delete_topic};
use crate::points::ONE;
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
