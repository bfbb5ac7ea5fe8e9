//! A network that is slow, half-open or cut: between the pipeline and its broker by a proxy, between two machines by network namespaces.

use crate::deaths::{Feed, see_through};
use crate::job::{DevBroker, Input, Job, Run, Special, lives, wait_for};
use crate::kafka::Kafka;
use crate::points::{ONE, TWO_BY_ONE};
use nix::sys::signal::{Signal, kill};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

/// What the proxy does to what passes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Clear,
    /// Each answer comes later.
    Delay(Duration),
    /// Answers are lost, and nobody is told.
    HalfOpen,
    /// Nothing passes until it is clear again.
    Blocked,
    /// A connection is cut after so many more bytes of answers.
    CutAfter(usize),
    /// The client's connection is cut as it ends a transaction, and its request comes to the broker later, by another one. Every second
    /// request is let through, so that the client's next try succeeds meanwhile.
    LateEnds(Duration),
    /// Whether a transaction has ended is told later.
    LateAnswers(Duration),
}

const END_TXN: i16 = 26;

/// Answers in which addresses of brokers are.
const WITH_ADDRESSES: [i16; 2] = [3, 10];

/// Stands between the pipeline and a broker, and speaks as much of Kafka's protocol as it has to.
struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    broker: String,
    port: u16,
    mode: Mutex<Mode>,
    /// Ends of transactions that came late.
    late: AtomicU64,
    /// Ends of transactions that were seen while they were to come late.
    ends: AtomicU64,
    cut: AtomicU64,
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    fn wait_while_blocked(&self) {
        while self.mode() == Mode::Blocked {
            sleep(Duration::from_millis(20));
        }
    }
}

/// What a connection has been asked, by number.
type Asked = Arc<Mutex<HashMap<[u8; 4], i16>>>;

impl Proxy {
    fn start(broker: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            broker: broker.to_owned(),
            port: address.port(),
            mode: Mutex::new(Mode::Clear),
            late: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // a broker that is down refuses
                let Ok(broker) = TcpStream::connect(&accepting.broker) else { continue };
                let asked = Asked::default();
                let pair = || (client.try_clone().unwrap(), broker.try_clone().unwrap());
                let (shared, (from, to), known) = (Arc::clone(&accepting), pair(), Arc::clone(&asked));
                thread::spawn(move || {
                    requests(&shared, &from, &to, &known);
                    [from, to].iter().for_each(|end| end.shutdown(Shutdown::Both).unwrap_or_default());
                });
                let (shared, (to, from)) = (Arc::clone(&accepting), pair());
                thread::spawn(move || {
                    answers(&shared, &from, &to, &asked);
                    [from, to].iter().for_each(|end| end.shutdown(Shutdown::Both).unwrap_or_default());
                });
            }
        });
        Proxy { address: address.to_string(), shared }
    }

    fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }
}

fn frame(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; 4 + u32::from_be_bytes(length) as usize];
    bytes[..4].copy_from_slice(&length);
    stream.read_exact(&mut bytes[4..]).ok()?;
    Some(bytes)
}

fn requests(shared: &Arc<Shared>, from: &TcpStream, mut to: &TcpStream, asked: &Asked) {
    while let Some(request) = frame(from) {
        let api = i16::from_be_bytes([request[4], request[5]]);
        asked.lock().unwrap().insert(request[8..12].try_into().unwrap(), api);
        if let Mode::LateEnds(wait) = shared.mode()
            && api == END_TXN
            && shared.ends.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
        {
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                sleep(wait);
                let Ok(mut broker) = TcpStream::connect(&shared.broker) else { return };
                if broker.write_all(&request).is_ok() && frame(&broker).is_some() {
                    shared.late.fetch_add(1, Ordering::Relaxed);
                }
            });
            return;
        }
        shared.wait_while_blocked();
        if to.write_all(&request).is_err() {
            return;
        }
    }
}

fn answers(shared: &Shared, from: &TcpStream, mut to: &TcpStream, asked: &Asked) {
    let mut left: Option<usize> = None;
    let mut lost = false;
    while let Some(mut answer) = frame(from) {
        let api = asked.lock().unwrap().remove(&answer[4..8]).unwrap_or(-1);
        if WITH_ADDRESSES.contains(&api) {
            redirect(&mut answer, &shared.broker, shared.port);
        }
        shared.wait_while_blocked();
        match shared.mode() {
            Mode::HalfOpen => lost = true,
            // what was lost is never found again: such a connection is of no use
            _ if lost => return,
            Mode::Delay(wait) => sleep(wait),
            Mode::LateAnswers(wait) if api == END_TXN => sleep(wait),
            Mode::CutAfter(bytes) => {
                let some = left.get_or_insert(bytes);
                if *some < answer.len() {
                    let _ = to.write_all(&answer[..*some]);
                    shared.cut.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                *some -= answer.len();
            }
            _ => left = None,
        }
        if !lost && to.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Puts the proxy's port in the place of the broker's, where its address is told.
fn redirect(answer: &mut [u8], broker: &str, port: u16) {
    let (host, old) = broker.split_once(':').unwrap();
    let old: u16 = old.parse().unwrap();
    let address = [host.as_bytes(), &u32::from(old).to_be_bytes()].concat();
    let places: Vec<usize> =
        answer.windows(address.len()).enumerate().filter(|(_, at)| *at == address).map(|(at, _)| at).collect();
    for place in places {
        answer[place + host.len()..place + address.len()].copy_from_slice(&u32::from(port).to_be_bytes());
    }
}

/// A pipeline whose broker is behind a proxy. It takes a partition that has nothing to say for 8 s for idle.
fn behind(proxy: &Proxy, input: &Input) -> Job {
    let special = Special {
        endless: true,
        bootstrap: Some(&proxy.address),
        sinks: ", 'properties.socket.timeout.ms' = '4000'",
        source: ", 'properties.socket.timeout.ms' = '12000'",
        settings: "SET 'idle_timeout' = '8 s';",
    };
    Job::special(input, special)
}

fn a_bad_network(bootstrap: &str) {
    let seed = std::env::var("HIGHWATER_SEED").map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    println!("       HIGHWATER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (proxy, input) = (Proxy::start(bootstrap), Input::new(bootstrap));
    let job = behind(&proxy, &input);
    let (feed, run) = (Feed::start(&input, 0), job.start(TWO_BY_ONE, &[]));
    wait_for("checkpoint", || job.checkpoint().is_some());
    for _ in 0..12 {
        let millis = |random: &mut StdRng, most| Duration::from_millis(random.random_range(1..most));
        let mode = match random.random_range(0..6) {
            0 => Mode::Delay(millis(&mut random, 300)),
            1 => Mode::HalfOpen,
            2 => Mode::Blocked,
            3 => Mode::CutAfter(random.random_range(0..20_000)),
            4 => Mode::LateEnds(millis(&mut random, 2000)),
            _ => Mode::LateAnswers(millis(&mut random, 5000)),
        };
        proxy.set(mode);
        sleep(millis(&mut random, 1500));
        proxy.set(Mode::Clear);
        sleep(millis(&mut random, 500));
    }
    let rows = feed.end();
    see_through(&job, run, rows, &format!("HIGHWATER_SEED={seed}"));
}

#[test]
fn a_bad_network_to_the_broker_loses_and_doubles_nothing() {
    match Kafka::start() {
        Some(kafka) => a_bad_network(kafka.bootstrap()),
        None => a_bad_network(&DevBroker::start().address),
    }
}

/// The end of a transaction comes to the broker after its connection was lost, perhaps when the next one is open: nothing is torn.
#[test]
fn an_end_of_a_transaction_that_comes_late_tears_nothing() {
    let (kafka, broker) = (Kafka::start(), DevBroker::start());
    let addresses = kafka.iter().map(|kafka| kafka.bootstrap()).chain([broker.address.as_str()]);
    for bootstrap in addresses {
        let (proxy, input) = (Proxy::start(bootstrap), Input::new(bootstrap));
        let job = behind(&proxy, &input);
        let (feed, run) = (Feed::start(&input, 0), job.start(ONE, &[]));
        wait_for("checkpoint", || job.checkpoint().is_some());
        for wait in [10, 50, 100, 150, 200, 300, 1000] {
            proxy.set(Mode::LateEnds(Duration::from_millis(wait)));
            sleep(Duration::from_millis(700));
            proxy.set(Mode::Clear);
            sleep(Duration::from_millis(300));
        }
        let rows = feed.end();
        wait_for("late end of a transaction", || proxy.shared.late.load(Ordering::Relaxed) > 2);
        assert!(!run.err().contains("a new generation"), "{}", run.err());
        let doubts = run.err().matches("may have been sent twice").count();
        println!("       {} late ends, {doubts} doubts", proxy.shared.late.load(Ordering::Relaxed));
        assert!(doubts > 0, "{}", run.err());
        see_through(&job, run, rows, "late ends");
    }
}

/// A broker that is out of reach, or that does not answer, makes the pipeline wait; it is no reason to begin again, and no reason to
/// take a partition for idle: then its rows would come late.
#[test]
fn a_broker_out_of_reach_is_waited_for() {
    let broker = DevBroker::start();
    let (proxy, input) = (Proxy::start(&broker.address), Input::new(&broker.address));
    let job = behind(&proxy, &input);
    let (feed, run) = (Feed::start(&input, 0), job.start(TWO_BY_ONE, &[]));
    wait_for("checkpoint", || job.checkpoint().is_some());
    for (mode, seconds) in [(Mode::HalfOpen, 10), (Mode::Blocked, 10), (Mode::Delay(Duration::from_millis(200)), 4)] {
        proxy.set(mode);
        sleep(Duration::from_secs(seconds));
        proxy.set(Mode::Clear);
        sleep(Duration::from_secs(1));
    }
    let rows = feed.end();
    assert!(!run.err().contains("a new generation"), "{}", run.err());
    see_through(&job, run, rows, "out of reach");
}

// ---- two machines ----

/// Two network namespaces with a cable between them, each with a way to the broker, gone when dropped.
struct TwoMachines {
    names: [String; 2],
    relays: Vec<Child>,
}

const ADDRESSES: [&str; 2] = ["10.213.78.1", "10.213.78.2"];

/// How a child of this test learns of the address to take connections at, and the socket to pass them to.
const RELAY: &str = "FAULTS_RELAY";

impl TwoMachines {
    /// None if this user may not have them.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = [0, 1].map(|index| format!("hwf-{id}-{index}"));
        let machines = TwoMachines { names, relays: Vec::new() };
        let mut lines = machines.names.iter().map(|name| format!("netns add {name}")).collect::<Vec<_>>();
        let [a, b] = &machines.names;
        lines.push(format!("link add hf{id}a netns {a} type veth peer name hf{id}b netns {b}"));
        for ((name, end), address) in machines.names.iter().zip(["a", "b"]).zip(ADDRESSES) {
            lines.push(format!("-n {name} addr add {address}/24 dev hf{id}{end}"));
            lines.push(format!("-n {name} link set hf{id}{end} up"));
            lines.push(format!("-n {name} link set lo up"));
        }
        lines.iter().all(|line| ip(line)).then_some(machines)
    }

    /// Both reach the broker at its own address, whatever happens to the cable.
    fn connect(&mut self, broker: &str, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let address = broker.to_owned();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&address) else { continue };
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                pass(near, far, |far| far.shutdown(Shutdown::Write));
                pass(far_too, near_too, |near| near.shutdown(Shutdown::Write));
            }
        });
        for name in &self.names {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name]).arg(std::env::current_exe().unwrap());
            command.args(["networks::relay", "--exact", "--ignored"]);
            command.env(RELAY, format!("{broker} {}", socket.display()));
            self.relays.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        }
    }

    fn link(&self, state: &str) {
        let id = std::process::id();
        assert!(ip(&format!("-n {} link set hf{id}a {state}", self.names[0])));
    }

    fn run(&self, job: &Job, process: usize) -> Run {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[process], env!("CARGO_BIN_EXE_highwater")]);
        command.args(["run", "pipeline.sql", "--no-progress", "--hosts", "hosts", "--process", &process.to_string()]);
        command.args(["--peer-timeout", "5s", "--connect-timeout", "60s"]).current_dir(job.dir.path());
        command.env("HIGHWATER_MESH_SECRET", "5a".repeat(32)).stdin(Stdio::null());
        Run::of(command, job.path(&format!("{}.err", crate::kafka::unique("host"))))
    }
}

impl Drop for TwoMachines {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            let _ = relay.kill();
            let _ = relay.wait();
        }
        for name in &self.names {
            ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn pass<R: Read + Send + 'static, W: Write + Send + 'static>(
    mut from: R,
    mut to: W,
    end: fn(&W) -> std::io::Result<()>,
) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = end(&to);
    });
}

/// Not a test: what passes connections out of a namespace.
#[test]
#[ignore]
fn relay() {
    let Ok(what) = std::env::var(RELAY) else { return };
    let (address, socket) = what.split_once(' ').unwrap();
    for near in TcpListener::bind(address).unwrap().incoming().flatten() {
        let Ok(far) = UnixStream::connect(socket) else { continue };
        let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        pass(near, far, |far| far.shutdown(Shutdown::Write));
        pass(far_too, near_too, |near| near.shutdown(Shutdown::Write));
    }
}

/// The cable is cut for longer than the processes wait for each other: both end, and once it is there again the same commands go on.
#[test]
fn two_machines_whose_cable_is_cut_go_on_in_a_new_generation() {
    let Some(mut machines) = TwoMachines::new() else {
        return println!("SKIPPED: this user cannot make network namespaces with ip");
    };
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let job = Job::endless(&input);
    machines.connect(&broker.address, &job.path("relay.socket"));
    std::fs::write(job.path("hosts"), ADDRESSES.map(|address| format!("{address}:7000\n")).concat()).unwrap();
    let feed = Feed::start(&input, 0);
    for round in 0..2 {
        let before = job.checkpoint();
        let mut running = [0, 1].map(|process| machines.run(&job, process));
        running[0].wait_for("checkpoint", |_| job.checkpoint() > before);
        machines.link("down");
        for (process, run) in running.into_iter().enumerate() {
            let (code, err) = run.end();
            assert_eq!(code, 4, "round {round}, process {process}: {err}");
            assert!(err.contains("no heartbeat for 5s"), "round {round}, process {process}: {err}");
        }
        machines.link("up");
    }
    let rows = feed.end();
    input.close();
    let mut running = [0, 1].map(|process| machines.run(&job, process));
    running[0].wait_for("rest", |_| job.complete(rows));
    // under `ip` is the program itself
    let [first, second] = running;
    assert!(lives(first.id()));
    kill(first.id(), Signal::SIGINT).unwrap();
    let ((code, err), (code_of_second, err_of_second)) = (first.end(), second.end());
    assert_eq!((code, code_of_second), (0, 0), "{err}{err_of_second}");
    job.check(rows, "a cable that was cut");
}
