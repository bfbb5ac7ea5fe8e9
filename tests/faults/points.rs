//! Processes that are killed, or stand still, at a named step of the protocol, once: the same command goes on by itself.

use crate::job::{DevBroker, Input, Job, children, lives, stands_still, wait_for};
use crate::kafka::Kafka;
use nix::sys::signal::{Signal, kill};
use std::thread::sleep;
use std::time::{Duration, Instant};

const ROWS: u64 = 8000;

pub const ONE: &[&str] = &[];
pub const TWO_BY_ONE: &[&str] = &["--processes", "2", "--peer-timeout", "4s"];
pub const TWO_BY_TWO: &[&str] = &["--processes", "2", "--workers", "2", "--peer-timeout", "4s"];

/// A step, at which visit, in which process, on which workers.
type Kill = (&'static str, u64, usize, &'static [&'static str]);

const KILLS: &[Kill] = &[
    ("begin.started", 1, 0, TWO_BY_ONE),
    ("begin.recovered", 1, 0, ONE),
    ("checkpoint.write", 3, 0, ONE),
    ("checkpoint.write", 4, 1, TWO_BY_ONE),
    ("checkpoint.written", 5, 0, TWO_BY_ONE),
    ("checkpoint.written", 6, 1, TWO_BY_TWO),
    ("commit.begin", 1, 0, ONE),
    ("commit.begin", 4, 0, TWO_BY_TWO),
    ("commit.manifest", 1, 0, TWO_BY_ONE),
    ("commit.manifest", 7, 0, ONE),
    ("commit.recorded", 1, 0, TWO_BY_TWO),
    ("commit.recorded", 6, 0, ONE),
    ("publish.begun", 1, 1, TWO_BY_TWO),
    ("publish.begun", 3, 0, ONE),
    ("publish.mid", 2, 0, TWO_BY_ONE),
    ("publish.mid", 3, 1, TWO_BY_ONE),
    ("publish.flushed", 2, 0, TWO_BY_TWO),
    ("publish.flushed", 4, 1, TWO_BY_TWO),
    ("publish.committed", 1, 0, ONE),
    ("publish.committed", 3, 1, TWO_BY_ONE),
    ("sweep.begin", 1, 0, ONE),
    ("sweep.boundary", 1, 0, TWO_BY_ONE),
    ("sweep.log", 1, 0, ONE),
    ("sweep.objects", 1, 0, ONE),
];

fn killed_at_every_step<'a>(bootstrap: &str, kills: impl Iterator<Item = &'a Kill>) {
    let input = Input::with(bootstrap, ROWS);
    for &(place, visit, process, shape) in kills {
        let what = format!("{place}@{visit} in process {process} on {shape:?}");
        let (job, start) = (Job::new(&input), Instant::now());
        let (fail, once) = (format!("{place}@{visit}:kill:{process}"), job.path("failed"));
        let run = job.start(shape, &[("HIGHWATER_FAIL", &fail), ("HIGHWATER_FAIL_ONCE", once.to_str().unwrap())]);
        let (code, err) = run.end();
        assert_eq!(code, 0, "{what}: {err}");
        assert!(once.exists(), "{what}: it was never there");
        assert!(err.contains("a new generation starts"), "{what}: {err}");
        let took = start.elapsed();
        job.check(ROWS, &what);
        println!("       {what}: {took:.1?}");
    }
}

#[test]
fn a_process_that_is_killed_at_any_step_loses_and_doubles_nothing_on_a_real_broker() {
    let Some(kafka) = Kafka::start() else { return };
    killed_at_every_step(kafka.bootstrap(), KILLS.iter());
}

#[test]
fn a_process_that_is_killed_at_any_step_loses_and_doubles_nothing_on_the_development_broker() {
    killed_at_every_step(&DevBroker::start().address, KILLS.iter().step_by(5));
}

/// The whole pipeline stands still at a step, a second run takes its place and ends, and the first one wakes up: it finds that it was replaced.
#[test]
fn a_run_that_wakes_beside_its_successor_adds_nothing() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, ROWS);
    let steps =
        ["checkpoint.written", "commit.begin", "commit.manifest", "commit.recorded", "publish.mid", "publish.flushed"];
    for place in steps {
        let job = Job::new(&input);
        let fail = format!("{place}@5:pause");
        let zombie = job.start(&["--no-restart"], &[("HIGHWATER_FAIL", &fail)]);
        wait_for(place, || stands_still(zombie.id()));
        let (code, err) = job.run(&["--no-restart", "--workers", "2"]);
        assert_eq!(code, 0, "{place}: {err}");
        job.check(ROWS, place);
        kill(zombie.id(), Signal::SIGCONT).unwrap();
        let (code, err) = zombie.end();
        assert_eq!(code, 5, "{place}: {err}");
        assert!(err.contains("generation 2"), "{place}: {err}");
        job.check(ROWS, &format!("{place}, after the old run woke up"));
    }
}

/// A process that stands still for longer than the others wait is taken for dead, and a new generation goes on without it.
#[test]
fn a_process_that_stands_still_for_too_long_is_replaced() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, ROWS);
    for (place, shape) in [("checkpoint.write", TWO_BY_ONE), ("publish.flushed", TWO_BY_TWO)] {
        let job = Job::new(&input);
        let (fail, once) = (format!("{place}@4:pause:1"), job.path("failed"));
        let run = job.start(shape, &[("HIGHWATER_FAIL", &fail), ("HIGHWATER_FAIL_ONCE", once.to_str().unwrap())]);
        let (code, err) = run.end();
        assert_eq!(code, 0, "{place}: {err}");
        assert!(err.contains("no heartbeat for 4s") && err.contains("a new generation starts"), "{place}: {err}");
        job.check(ROWS, place);
    }
}

/// A process that stands still for less than the others wait only makes them wait.
#[test]
fn a_process_that_stands_still_for_a_while_is_waited_for() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, ROWS);
    let job = Job::new(&input);
    let shape = &["--processes", "2", "--peer-timeout", "20s"];
    let run = job.start(shape, &[("HIGHWATER_FAIL", "publish.flushed@3:pause:1")]);
    let still = || run.processes().into_iter().find(|process| stands_still(*process));
    wait_for("process that stands still", || still().is_some());
    sleep(Duration::from_secs(5));
    kill(still().unwrap(), Signal::SIGCONT).unwrap();
    let (code, err) = run.end();
    assert_eq!(code, 0, "{err}");
    assert!(!err.contains("a new generation"), "{err}");
    job.check(ROWS, "5 s");
}

/// Worker 0's process stands still: the others leave, and it finds out when it wakes up.
#[test]
fn process_0_that_wakes_up_alone_is_replaced() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, ROWS);
    let job = Job::new(&input);
    let once = job.path("failed");
    let environment =
        [("HIGHWATER_FAIL", "commit.manifest@5:pause:0"), ("HIGHWATER_FAIL_ONCE", once.to_str().unwrap())];
    let run = job.start(TWO_BY_ONE, &environment);
    wait_for("stop", || run.processes().first().is_some_and(|process| stands_still(*process)));
    let first = run.processes()[0];
    wait_for("end of the other", || !children(first).into_iter().any(lives));
    kill(first, Signal::SIGCONT).unwrap();
    let (code, err) = run.end();
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("a new generation starts"), "{err}");
    job.check(ROWS, "process 0 stood still");
}
