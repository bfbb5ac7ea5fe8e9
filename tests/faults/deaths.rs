//! Processes that are killed at any moment: one, another, the supervisor, all; people who press Ctrl-C; other numbers of workers.

use crate::job::{DevBroker, Input, Job, LIMIT, Run, lives, reader, stands_still, wait_for};
use crate::kafka::Kafka;
use crate::points::{ONE, TWO_BY_ONE, TWO_BY_TWO};
use nix::sys::signal::{Signal, kill};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::Producer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Rows a second.
pub const RATE: u64 = 500;

/// Someone who sends rows until told otherwise.
pub struct Feed {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Feed {
    /// From row `first` on.
    pub fn start(input: &Input, first: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (input, stop) = (input.clone(), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let mut next = first;
            while !stop.load(Ordering::Relaxed) {
                input.send(next..next + RATE / 5, Some(RATE));
                next += RATE / 5;
            }
            next
        });
        Feed { over, thread }
    }

    /// The number of rows that there are.
    pub fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What a run has to come to after its last fault: everything is there, and it stops when it is asked to.
pub fn see_through(job: &Job, run: Run, rows: u64, what: &str) {
    job.input.close();
    let start = Instant::now();
    while !job.complete(rows) {
        let said = || format!("{what}: {:?} are missing:\n{}", job.difference(rows).0.len(), run.err());
        assert!(start.elapsed() < LIMIT, "{}", said());
        sleep(Duration::from_millis(200));
    }
    let (code, err) = run.stop();
    assert_eq!(code, 0, "{what}: {err}");
    job.check(rows, what);
}

/// Looks at what is committed, all the time.
struct Watch {
    /// When a committed row was last seen, in milliseconds since the beginning; and how many there were.
    last: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
    start: Instant,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    fn start(job: &Job) -> Self {
        let (last, count, over) =
            (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let start = Instant::now();
        let watch = |topic: &String| {
            let consumer: BaseConsumer = reader(&job.input.bootstrap, topic);
            let (last, count, over) = (Arc::clone(&last), Arc::clone(&count), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Some(Ok(_)) = consumer.poll(Duration::from_millis(20)) {
                        last.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = [&job.windows, &job.totals].map(watch).into();
        Watch { last, count, start, over, threads }
    }

    fn wait_for_rows(&self) {
        let before = self.count.load(Ordering::Relaxed);
        wait_for("committed row", || self.count.load(Ordering::Relaxed) > before);
    }

    /// How long it takes from `killed` until a row is committed. What was on its way to the reader then does not count.
    fn recovery(&self, killed: Instant) -> Duration {
        sleep(Duration::from_millis(300).saturating_sub(killed.elapsed()));
        let (before, since) = (self.count.load(Ordering::Relaxed), (killed - self.start).as_millis() as u64);
        wait_for("row after a kill", || self.count.load(Ordering::Relaxed) > before);
        Duration::from_millis(self.last.load(Ordering::Relaxed).saturating_sub(since))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    First,
    Other,
    Generation,
    Supervisor,
    All,
}

fn shoot(run: &Run, victim: Victim) {
    let processes = run.processes();
    let targets = match victim {
        Victim::First => processes[..1].to_vec(),
        Victim::Other => processes[processes.len() - 1..].to_vec(),
        Victim::Generation => processes,
        Victim::Supervisor => vec![run.id()],
        Victim::All => [vec![run.id()], processes].concat(),
    };
    // one that dies with another is gone already
    targets.into_iter().for_each(|target| kill(target, Signal::SIGKILL).unwrap_or_default());
}

/// Kills at random, restarts what nobody else restarts, and counts what is lost and doubled.
fn kills(bootstrap: &str, kills: usize, seed: u64) {
    println!("       HIGHWATER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let input = Input::new(bootstrap);
    let job = Job::endless(&input);
    let shapes = [ONE, TWO_BY_ONE, TWO_BY_TWO];
    let (start, feed, watch) = (Instant::now(), Feed::start(&input, 0), Watch::start(&job));
    let mut recoveries: Vec<(Duration, Victim, usize)> = Vec::new();
    let mut shape = random.random_range(0..3);
    let mut run = job.start(shapes[shape], &[]);
    // a supervisor waits longer and longer
    let mut deaths = 0;
    watch.wait_for_rows();
    for _ in 0..kills {
        sleep(Duration::from_millis(random.random_range(0..1500)));
        let all = [Victim::First, Victim::Other, Victim::Generation, Victim::Supervisor, Victim::All];
        let victim = all[random.random_range(if deaths < 2 { 0 } else { 3 }..5)];
        let count = [1, 2, 2][shape];
        run.wait_for_processes(count);
        let (processes, killed) = (run.processes(), Instant::now());
        shoot(&run, victim);
        deaths += 1;
        let now = shape;
        if matches!(victim, Victim::Supervisor | Victim::All) {
            deaths = 0;
            // nothing waits for those that the supervisor leaves behind: the next ones fence them
            shape = random.random_range(0..3);
            run = job.start(shapes[shape], &[]);
        }
        recoveries.push((watch.recovery(killed), victim, now));
        wait_for("end of those left behind", || !processes.iter().any(|process| lives(*process)));
    }
    let rows = feed.end();
    let took = start.elapsed();
    input.close();
    wait_for("rest", || {
        sleep(Duration::from_millis(500));
        job.complete(rows)
    });
    let (code, err) = run.stop();
    assert_eq!(code, 0, "{err}");
    drop(watch);
    let (lost, doubled) = job.difference(rows);
    recoveries.sort_by_key(|(took, ..)| *took);
    let at = |percent: usize| recoveries[(recoveries.len() - 1) * percent / 100];
    println!(
        "       {kills} kills in {took:.0?} over {rows} rows: {} lost, {} doubled; from a kill to the next committed row: median {:?}, 99 % {:?}, most {:?}",
        lost.len(),
        doubled.len(),
        at(50).0,
        at(99),
        at(100),
    );
    assert!(lost.is_empty() && doubled.is_empty(), "HIGHWATER_SEED={seed}: lost {lost:?}, doubled {doubled:?}");
}

/// So many as HIGHWATER_KILLS says; 15 otherwise.
#[test]
fn kills_at_any_moment_lose_and_double_nothing() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let seed = number("HIGHWATER_SEED").unwrap_or_else(|| rand::rng().random());
    let count = number("HIGHWATER_KILLS").map(|count| count as usize);
    match Kafka::start() {
        Some(kafka) => kills(kafka.bootstrap(), count.unwrap_or(15), seed),
        None => kills(&DevBroker::start().address, count.unwrap_or(15), seed),
    }
}

/// What a supervisor leaves behind ends by itself, and the same command goes on, whichever of them comes first.
#[test]
fn children_end_when_their_supervisor_was_killed() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let job = Job::endless(&input);
    let feed = Feed::start(&input, 0);
    let run = job.start(TWO_BY_ONE, &[]);
    wait_for("checkpoint", || job.checkpoint().is_some());
    let processes = run.wait_for_processes(2);
    shoot(&run, Victim::Supervisor);
    wait_for("end of the children", || !processes.iter().any(|process| lives(*process)));
    let again = job.start(TWO_BY_ONE, &[]);
    sleep(Duration::from_secs(1));
    see_through(&job, again, feed.end(), "supervisor killed");
}

#[test]
fn ctrl_c_ends_it_with_a_checkpoint_and_the_same_command_goes_on() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let job = Job::endless(&input);
    let feed = Feed::start(&input, 0);
    for shape in [TWO_BY_ONE, ONE] {
        let before = job.checkpoint();
        let run = job.start(shape, &[]);
        wait_for("checkpoint", || job.checkpoint() > before);
        let (code, err) = run.stop();
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("stopped after"), "{err}");
    }
    // one that does not end when it is asked to: a second Ctrl-C does not wait for it
    let run = job.start(ONE, &[("HIGHWATER_FAIL", "publish.flushed@10:pause")]);
    wait_for("stop", || run.processes().first().is_some_and(|process| stands_still(*process)));
    let left = run.processes();
    kill(run.id(), Signal::SIGINT).unwrap();
    sleep(Duration::from_millis(800));
    let start = Instant::now();
    let (code, err) = run.stop();
    assert_eq!(code, 130, "{err}");
    // it would wait for ever
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    kill(left[0], Signal::SIGCONT).unwrap();
    wait_for("end of the child", || !lives(left[0]));
    let rows = feed.end();
    see_through(&job, job.start(ONE, &[]), rows, "Ctrl-C");
}

/// 1 → 4 → 2 → 3 workers, in one process and in several, with a kill in each stretch.
#[test]
fn other_numbers_of_workers_with_a_kill_in_each_stretch_say_the_same() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let job = Job::endless(&input);
    let feed = Feed::start(&input, 0);
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let stretches: [&[&str]; 4] = [&[], &["--workers", "4"], &["--processes", "2"], &["--processes", "3"]];
    for shape in stretches {
        let before = job.checkpoint();
        let run = job.start(shape, &[]);
        wait_for("checkpoint", || job.checkpoint() > before);
        sleep(Duration::from_millis(random.random_range(0..1000)));
        shoot(&run, [Victim::First, Victim::Other][random.random_range(0..2)]);
        let before = job.checkpoint();
        wait_for("checkpoint after the kill", || job.checkpoint() > before);
        let (code, err) = run.stop();
        assert_eq!(code, 0, "{shape:?}: {err}");
        assert!(err.contains("a new generation starts"), "{shape:?}: {err}");
    }
    see_through(&job, job.start(&["--workers", "3"], &[]), feed.end(), "rescaled");
    let (code, out, _) = job.tell(&["state", "ls", "pipeline.sql", "--json"]);
    assert_eq!(code, 0, "{out}");
}

/// Many restarts leave nothing behind that grows: each generation sweeps, even if it does not live long. So many as
/// HIGHWATER_RESTARTS says; 12 otherwise.
#[test]
fn many_restarts_leave_nothing_behind() {
    let broker = DevBroker::start();
    let input = Input::with(&broker.address, 100);
    let job = Job::endless(&input);
    let rounds = std::env::var("HIGHWATER_RESTARTS").map_or(12, |text| text.parse().unwrap());
    let (mut records, mut committed) = (0, 0);
    let topics = || {
        let client = crate::kafka::producer(&broker.address, &[]);
        let metadata = client.client().fetch_metadata(None, LIMIT).unwrap();
        metadata.topics().iter().map(|topic| topic.partitions().len()).sum::<usize>()
    };
    let mut partitions = None;
    for round in 0..rounds {
        let rows = 100 * (round + 1);
        let mut run = job.start(&["--no-restart"], &[]);
        for _ in 0..2 {
            let before = job.checkpoint();
            run.wait_for("checkpoint", |_| job.checkpoint() > before);
            committed += 1;
        }
        shoot(&run, Victim::Supervisor);
        drop(run);
        input.send(rows..rows + 100, None);
        records = std::fs::read_dir(job.store().join("log")).unwrap().count();
        assert!(records < 60, "{records} records of the log after {committed} checkpoints and more");
        // transactional ids are those of the markers: one a shard
        assert_eq!(topics(), *partitions.get_or_insert_with(&topics), "partitions of all topics");
    }
    assert!(records < 30, "{records} records of the log after {committed} checkpoints and more");
    see_through(&job, job.start(ONE, &[]), 100 * (rounds + 1), "many restarts");
}
