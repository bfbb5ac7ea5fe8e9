//! Processes that find, check and watch each other. Most tests run them as threads of this one.

use highwater::error::{Error, Result};
use highwater::runtime::mesh::{Deadlines, Guard, Identity, Membership, Peers, Rendezvous, Secret, join};
use highwater::time::{Clock, SystemClock};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use timely::WorkerConfig;
use timely::communication::allocator::AllocatorBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Exchange, Input, Inspect, Probe};
use timely::execute::execute_from;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn identity() -> Identity {
    let secret = Secret::parse(SECRET).unwrap();
    Identity { pipeline: "words".into(), generation: 7, fingerprint: [5; 32], secret }
}

fn quick() -> Deadlines {
    Deadlines {
        connect: Duration::from_secs(20),
        handshake: Duration::from_secs(5),
        heartbeat: Duration::from_millis(200),
        peer_timeout: Duration::from_secs(5),
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

fn member(process: usize, processes: usize, rendezvous: Rendezvous) -> Membership {
    Membership { process, processes, threads: 2, rendezvous }
}

/// Exchanges the numbers below `rounds` of each worker, one a round, and gives the sum that this process's workers saw.
fn sum(builders: Vec<AllocatorBuilder>, guard: Guard, peers: &Peers, rounds: u64) -> Result<u64> {
    let watch = peers.clone();
    let workers = execute_from(builders, Box::new(()), WorkerConfig::default(), move |worker| {
        watch.unpark_on_news(thread::current());
        let seen = Arc::new(AtomicU64::new(0));
        let sum = Arc::clone(&seen);
        let mut input = InputHandle::new();
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let numbers = scope.input_from(&mut input).container::<Vec<u64>>();
            numbers
                .exchange(|number: &u64| *number)
                .inspect(move |number| {
                    sum.fetch_add(*number, Ordering::Relaxed);
                })
                .probe()
                .0
        });
        for round in 0..rounds {
            input.send(round);
            input.advance_to(round + 1);
            while probe.less_than(input.time()) && watch.failure().is_none() {
                worker.step_or_park(Some(Duration::from_secs(1)));
            }
        }
        input.close();
        while worker.has_dataflows() && watch.failure().is_none() {
            worker.step_or_park(None);
        }
        worker.installed_dataflows().into_iter().for_each(|dataflow| worker.drop_dataflow(dataflow));
        seen.load(Ordering::Relaxed)
    });
    let sums = workers.unwrap().join().into_iter().map(|sum| sum.map_err(Error::internal));
    let sums = sums.collect::<Result<Vec<_>>>();
    guard.release()?;
    Ok(sums?.into_iter().sum())
}

/// Runs `work` on a thread and gives its answer, or fails the test after a minute.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = std::sync::mpsc::channel();
    thread::spawn(move || answer.send(work()));
    answered.recv_timeout(Duration::from_secs(60)).expect("the test ends within a minute")
}

fn start(process: usize, processes: usize, rendezvous: Rendezvous, rounds: u64) -> JoinHandle<Result<u64>> {
    thread::spawn(move || {
        let mesh = join(&identity(), member(process, processes, rendezvous), quick(), clock())?;
        let (builders, guard, peers) = mesh.into_parts();
        sum(builders, guard, &peers, rounds)
    })
}

fn start_all(processes: usize, rounds: u64) -> (SocketAddr, Vec<JoinHandle<Result<u64>>>) {
    let (coordinate, address) = Rendezvous::coordinate().unwrap();
    let others = (1..processes).map(|process| start(process, processes, Rendezvous::Dial(address), rounds));
    let others: Vec<_> = others.collect();
    (address, std::iter::once(start(0, processes, coordinate, rounds)).chain(others).collect())
}

fn finish(running: Vec<JoinHandle<Result<u64>>>) -> Result<u64> {
    running.into_iter().map(|process| process.join().unwrap()).sum()
}

#[test]
fn processes_on_one_machine_find_each_other_and_end_together() {
    within_a_minute(|| {
        for processes in [1, 2, 3] {
            let rounds = 1000;
            let (_, running) = start_all(processes, rounds);
            assert_eq!(finish(running).unwrap(), processes as u64 * 2 * (rounds * (rounds - 1) / 2));
        }
    });
}
