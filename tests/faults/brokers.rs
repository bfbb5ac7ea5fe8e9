//! A broker that is killed, stopped, started again, or stands still under a pipeline.

use crate::deaths::{Feed, see_through};
use crate::job::{DevBroker, Input, Job, Special, stands_still, wait_for};
use crate::kafka::Kafka;
use crate::points::{ONE, TWO_BY_ONE};
use nix::sys::signal::{Signal, kill};
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_real_broker_that_dies_or_stands_still_loses_and_doubles_nothing() {
    let Some(kafka) = Kafka::start_own(&[]) else { return };
    let input = Input::new(kafka.bootstrap());
    let job = Job::endless(&input);
    let (feed, run) = (Feed::start(&input, 0), job.start(TWO_BY_ONE, &[]));
    wait_for("checkpoint", || job.checkpoint().is_some());
    for seconds in [1, 4, 9] {
        kafka.pause();
        sleep(Duration::from_secs(seconds));
        kafka.resume();
        sleep(Duration::from_secs(1));
    }
    kafka.kill();
    sleep(Duration::from_secs(2));
    kafka.restart();
    sleep(Duration::from_secs(1));
    let rows = feed.end();
    // it has stayed up all the time
    assert!(!run.err().contains("a new generation"), "{}", run.err());
    see_through(&job, run, rows, "a real broker");
}

/// The pipeline stands in the middle of a transaction while the broker dies and comes back.
#[test]
fn a_broker_that_is_killed_at_any_step_of_publishing_loses_and_doubles_nothing() {
    let mut broker = DevBroker::start();
    let input = Input::with(&broker.address, 3000);
    for place in ["publish.begun", "publish.mid", "publish.flushed", "publish.committed"] {
        let job = Job::new(&input);
        let run = job.start(&["--no-restart"], &[("HIGHWATER_FAIL", &format!("{place}@3:pause"))]);
        wait_for(place, || stands_still(run.id()));
        broker.kill();
        kill(run.id(), Signal::SIGCONT).unwrap();
        sleep(Duration::from_secs(1));
        broker.restart();
        let (code, err) = run.end();
        assert_eq!(code, 0, "{place}: {err}");
        job.check(3000, place);
    }
}

/// The broker ends a transaction of a pipeline that stands still: it is published again, and the pipeline stays up.
#[test]
fn a_transaction_that_outlives_its_timeout_is_published_again() {
    let (kafka, broker) = (Kafka::start(), DevBroker::start());
    let addresses = kafka.iter().map(|kafka| kafka.bootstrap()).chain([broker.address.as_str()]);
    for bootstrap in addresses {
        let input = Input::with(bootstrap, 3000);
        for place in ["publish.mid", "publish.flushed"] {
            let sinks = ", 'properties.transaction.timeout.ms' = '1000'";
            let job = Job::special(&input, Special { sinks, ..Special::default() });
            let run = job.start(&["--no-restart"], &[("HIGHWATER_FAIL", &format!("{place}@3:pause"))]);
            wait_for(place, || stands_still(run.id()));
            // a real broker looks every 10 seconds
            sleep(Duration::from_secs(if bootstrap == broker.address { 3 } else { 12 }));
            kill(run.id(), Signal::SIGCONT).unwrap();
            let (code, err) = run.end();
            assert_eq!(code, 0, "{place}: {err}");
            job.check(3000, place);
        }
    }
}

/// The pipeline, its supervisor and the broker die; they come back in either order.
#[test]
fn when_all_have_died_the_order_in_which_they_come_back_does_not_matter() {
    let mut broker = DevBroker::start();
    for broker_first in [true, false] {
        let input = Input::with(&broker.address, 2000);
        let job = Job::endless(&input);
        let run = job.start(TWO_BY_ONE, &[]);
        wait_for("checkpoint", || job.checkpoint().is_some());
        let all = [run.processes(), vec![run.id()]].concat();
        all.into_iter().for_each(|process| kill(process, Signal::SIGKILL).unwrap());
        broker.kill();
        drop(run);
        if broker_first {
            broker.restart();
        }
        let run = job.start(ONE, &[]);
        sleep(Duration::from_secs(2));
        if !broker_first {
            broker.restart();
        }
        input.send(2000..3000, None);
        see_through(&job, run, 3000, if broker_first { "broker first" } else { "pipeline first" });
    }
}
