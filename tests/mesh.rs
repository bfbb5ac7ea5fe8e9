//! Processes that find, check and watch each other. Most tests run them as threads of this one; those that kill, freeze
//! or cut off a process run this program again, as [`process`].

use highwater::error::{Error, Result};
use highwater::runtime::mesh::{Deadlines, Guard, Identity, Membership, Peers, Rendezvous, Secret, join};
use highwater::runtime::spawn::{Assignment, spawn_local};
use highwater::time::{Clock, SystemClock};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
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
/// Halfway it waits until a stop is requested, if there is to be a `pause`.
fn sum_with_pause(
    builders: Vec<AllocatorBuilder>,
    guard: Guard,
    peers: &Peers,
    rounds: u64,
    pause: bool,
) -> Result<u64> {
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
                // `inspect` asks for any container that can be gone through, of which there are too many for the compiler
                .inspect_core(move |event| {
                    if let Ok((_, numbers)) = event {
                        sum.fetch_add(<[u64]>::iter(numbers).sum(), Ordering::Relaxed);
                    }
                })
                .probe()
                .0
        });
        for round in (0..rounds).take_while(|_| watch.failure().is_none()) {
            while pause && round == rounds / 2 && !watch.stop_requested() && watch.failure().is_none() {
                worker.step_or_park(None);
            }
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

fn sum(builders: Vec<AllocatorBuilder>, guard: Guard, peers: &Peers, rounds: u64) -> Result<u64> {
    sum_with_pause(builders, guard, peers, rounds, false)
}

/// What all workers of `processes` see together.
fn expected(processes: u64, rounds: u64) -> u64 {
    processes * 2 * (rounds * (rounds - 1) / 2)
}

/// Runs `work` on a thread and gives its answer, or fails the test after a minute.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = mpsc::channel();
    let working = thread::spawn(move || answer.send(work()));
    match answered.recv_timeout(Duration::from_secs(60)) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Disconnected) => std::panic::resume_unwind(working.join().unwrap_err()),
        Err(RecvTimeoutError::Timeout) => panic!("the test takes longer than a minute"),
    }
}

/// Joins as process `process` and counts on a thread of its own.
fn start(process: usize, processes: usize, rendezvous: Rendezvous, rounds: u64) -> JoinHandle<Result<u64>> {
    thread::spawn(move || {
        let mesh = join(&identity(), member(process, processes, rendezvous), quick(), clock())?;
        let (builders, guard, peers) = mesh.into_parts()?;
        sum(builders, guard, &peers, rounds)
    })
}

/// Joins two processes that do nothing yet.
fn pair(deadlines: Deadlines) -> [highwater::runtime::mesh::Mesh; 2] {
    let (coordinate, address) = Rendezvous::coordinate().unwrap();
    let other = deadlines.clone();
    let other = thread::spawn(move || join(&identity(), member(1, 2, Rendezvous::Dial(address)), other, clock()));
    [join(&identity(), member(0, 2, coordinate), deadlines, clock()).unwrap(), other.join().unwrap().unwrap()]
}

fn finish(running: Vec<JoinHandle<Result<u64>>>) -> Result<u64> {
    running.into_iter().map(|process| process.join().unwrap()).sum()
}

/// Waits until `look` is true, at most for `patience`.
fn eventually(patience: Duration, look: impl Fn() -> bool) -> bool {
    let clock = SystemClock::default();
    while clock.monotonic() < patience {
        if look() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    look()
}

#[test]
fn processes_on_one_machine_find_each_other_and_end_together() {
    within_a_minute(|| {
        for processes in [1, 2, 3] {
            let (coordinate, address) = Rendezvous::coordinate().unwrap();
            let mut running = vec![start(0, processes, coordinate, 500)];
            running.extend((1..processes).map(|process| start(process, processes, Rendezvous::Dial(address), 500)));
            assert_eq!(finish(running).unwrap(), expected(processes as u64, 500));
        }
    });
}

#[test]
fn processes_with_known_addresses_find_each_other_in_any_order() {
    within_a_minute(|| {
        let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = free.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
        drop(free);
        let running = [2, 0, 1].map(|process| {
            thread::sleep(Duration::from_millis(100));
            let rendezvous = Rendezvous::Hosts { addresses: addresses.to_vec(), bind: None };
            start(process, 3, rendezvous, 500)
        });
        assert_eq!(finish(running.into()).unwrap(), expected(3, 500));
    });
}

#[test]
fn a_mesh_may_be_silent_for_longer_than_any_deadline() {
    within_a_minute(|| {
        let handshake = Duration::from_millis(700);
        let deadlines = Deadlines { handshake, peer_timeout: Duration::from_millis(900), ..quick() };
        let running = pair(deadlines).map(|mesh| {
            thread::spawn(move || {
                let (builders, guard, peers) = mesh.into_parts()?;
                thread::sleep(Duration::from_secs(2));
                sum(builders, guard, &peers, 10)
            })
        });
        assert_eq!(finish(running.into()).unwrap(), expected(2, 10));
    });
}

#[test]
fn counters_stop_requests_and_failures_reach_the_others() {
    within_a_minute(|| {
        let [zero, one] = pair(quick()).map(|mesh| (mesh.peers(), mesh));
        one.0.share(vec![1, 2, 3]);
        zero.0.share(vec![4]);
        assert!(eventually(quick().peer_timeout, || zero.0.shared() == [vec![4], vec![1, 2, 3]]));
        assert!(!zero.0.stop_requested());
        one.0.request_stop();
        assert!(eventually(quick().peer_timeout, || zero.0.stop_requested()));
        one.0.send_failure(&Error::data("not a number").within("line 3").help("mend it"));
        assert!(eventually(quick().peer_timeout, || zero.0.failure().is_some()));
        let failure = zero.0.failure().unwrap();
        assert!(failure.to_string().starts_with("process 1 (127.0.0.1:"), "{failure}");
        assert!(failure.to_string().ends_with(") stopped: line 3: not a number"), "{failure}");
        assert_eq!((failure.kind(), failure.advice()), (highwater::error::ErrorKind::Data, Some("mend it")));
        assert_eq!(zero.0.lost_peer(), None);
    });
}

#[test]
fn a_goodbye_is_no_failure_and_its_absence_is() {
    within_a_minute(|| {
        let handshake = Duration::from_millis(500);
        let [zero, one] = pair(Deadlines { handshake, ..quick() }).map(|mesh| (mesh.peers(), mesh));
        one.0.share(vec![1, 2, 3]);
        one.0.finish();
        assert_eq!(zero.0.shared()[1], [1, 2, 3]);
        drop(one);
        thread::sleep(Duration::from_millis(500));
        assert!(zero.0.failure().is_none());

        let [zero, one] = pair(quick()).map(|mesh| (mesh.peers(), mesh));
        drop(one);
        assert!(eventually(Duration::from_secs(1), || zero.0.failure().is_some()));
        assert!(zero.0.failure().unwrap().to_string().ends_with("closed the connection"));
        assert_eq!(zero.0.lost_peer(), Some(1));
    });
}

/// Connections that are no peer's: what they say, and whether they then go or stay silent.
fn strangers(address: SocketAddr, random: &mut StdRng) -> Vec<TcpStream> {
    let mut mebibyte = vec![0; 1 << 20];
    random.fill_bytes(&mut mebibyte);
    let bomb = [&b"HWMESH\0\x01\xff\xff"[..], &mebibyte[..70_000]].concat();
    let nonsense = b"HWMESH\0\x01\0\x02{}".to_vec();
    let half = b"HWMESH\0\x01\0\x80{".to_vec();
    let newer = b"HWMESH\0\x02\0\x02{}".to_vec();
    let said = [vec![], b"GET / HT".to_vec(), b"\0".to_vec(), mebibyte, bomb, nonsense, half, newer];
    let mut silent = Vec::new();
    for words in said {
        for stays in [false, true] {
            let mut stream = TcpStream::connect(address).unwrap();
            // the listener may close before all is said
            stream.write_all(&words).unwrap_or_default();
            if stays { silent.push(stream) } else { stream.shutdown(Shutdown::Both).unwrap_or_default() }
        }
    }
    silent
}

/// Tries to join with something wrong about it and gives the error's text.
fn intrude(address: SocketAddr, change: impl FnOnce(&mut Identity, &mut Membership)) -> String {
    let (mut identity, mut membership) = (identity(), member(1, 2, Rendezvous::Dial(address)));
    change(&mut identity, &mut membership);
    let error = join(&identity, membership, quick(), clock()).expect_err("it must not be let in");
    assert_eq!(error.kind(), highwater::error::ErrorKind::Fenced, "{error}");
    assert!(error.advice().is_some(), "{error}");
    let place = format!("process 0 ({address}): ");
    error.to_string().strip_prefix(&place).map(str::to_owned).unwrap_or_else(|| panic!("{error} is not from {place}"))
}

fn wrong_peers(address: SocketAddr) {
    let check = |change: fn(&mut Identity, &mut Membership), text: &str| assert_eq!(intrude(address, change), text);
    check(|it, _| it.secret = Secret::parse("another secret of 32 characters!").unwrap(), "it has another mesh secret");
    check(|it, _| it.pipeline = "lines".into(), r#"it runs pipeline "words", this process runs "lines""#);
    check(|it, _| it.generation = 6, "it runs generation 7, this process runs 6");
    check(
        |it, _| it.fingerprint = [6; 32],
        "it runs another plan: fingerprint 0505050505050505… there, 0606060606060606… here",
    );
    check(
        |_, member| member.threads = 3,
        "it counts 2 processes with 2 threads, this process 2 processes with 3 threads",
    );
    check(
        |_, member| (member.process, member.processes) = (2, 3),
        "it counts 2 processes with 2 threads, this process 3 processes with 2 threads",
    );
}

#[test]
fn strangers_and_wrong_peers_disturb_neither_the_start_nor_the_run() {
    within_a_minute(|| {
        let seed = 20_240_607;
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (coordinate, address) = Rendezvous::coordinate().unwrap();
        let run = |process, rendezvous| {
            let (joined, has_joined) = mpsc::channel();
            let running = thread::spawn(move || {
                let mesh = join(&identity(), member(process, 2, rendezvous), quick(), clock())?;
                joined.send(mesh.peers()).unwrap();
                let (builders, guard, peers) = mesh.into_parts()?;
                sum_with_pause(builders, guard, &peers, 100, true)
            });
            (running, has_joined)
        };
        let (zero, _zero_has_joined) = run(0, coordinate);
        let early = strangers(address, &mut random);
        wrong_peers(address);
        let (one, has_joined) = run(1, Rendezvous::Dial(address));
        let peers = has_joined.recv().unwrap();
        assert_eq!(intrude(address, |_, _| ()), "it is connected to a process 1 already");
        let late = strangers(address, &mut random);
        wrong_peers(address);
        assert!(!zero.is_finished() && !one.is_finished(), "they wait for the request to stop");
        peers.request_stop();
        assert_eq!(finish(vec![zero, one]).unwrap(), expected(2, 100));
        drop((early, late));
    });
}

#[test]
fn more_silent_strangers_than_are_heard_only_delay_the_start() {
    within_a_minute(|| {
        let (coordinate, address) = Rendezvous::coordinate().unwrap();
        let zero = start(0, 2, coordinate, 10);
        let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
        let one = start(1, 2, Rendezvous::Dial(address), 10);
        assert_eq!(finish(vec![zero, one]).unwrap(), expected(2, 10));
        drop(silent);
    });
}

#[test]
fn a_listener_that_only_claims_to_be_a_peer_is_not_believed() {
    within_a_minute(|| {
        let impostor = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = impostor.local_addr().unwrap();
        thread::spawn(move || {
            // says all that it hears back to the dialer, which proves the dialer's role only
            for mut stream in impostor.incoming().flatten() {
                let mut reflect = || -> std::io::Result<()> {
                    let mut preamble = [0; 8];
                    stream.read_exact(&mut preamble)?;
                    let hello = read_frame(&mut stream)?;
                    stream.write_all(&preamble)?;
                    write_frame(&mut stream, r#"{"nonce":"00"}"#)?;
                    let proof = read_frame(&mut stream)?;
                    write_frame(&mut stream, &format!(r#"{{"Known":{{"hello":{hello},"taken":false}}}}"#))?;
                    write_frame(&mut stream, &proof)
                };
                reflect().unwrap_or_default();
            }
        });
        let deadlines = Deadlines { connect: Duration::from_millis(500), ..quick() };
        let error = join(&identity(), member(1, 2, Rendezvous::Dial(address)), deadlines, clock()).unwrap_err();
        let text = "claimed to be a peer, but does not know the mesh secret";
        assert_eq!(error.to_string(), format!("not connected after 500ms: process 0 ({address}): {text}"));
    });
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut body)?;
    Ok(String::from_utf8(body).unwrap())
}

fn write_frame(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    stream.write_all(&u16::try_from(body.len()).unwrap().to_be_bytes())?;
    stream.write_all(body.as_bytes())
}

#[test]
fn a_missing_process_is_named_when_the_deadline_has_passed() {
    within_a_minute(|| {
        let deadlines = || Deadlines { connect: Duration::from_millis(500), ..quick() };
        let (coordinate, address) = Rendezvous::coordinate().unwrap();
        let intruder = thread::spawn(move || intrude(address, |it, _| it.fingerprint = [6; 32]));
        let error = join(&identity(), member(0, 3, coordinate), deadlines(), clock()).unwrap_err().to_string();
        intruder.join().unwrap();
        assert!(error.starts_with("not connected after 500ms: process 1: one from 127.0.0.1:"), "{error}");
        let text =
            "was refused: it runs another plan: fingerprint 0606060606060606… there, 0505050505050505… here, process 2";
        assert!(error.ends_with(text), "{error}");

        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = join(&identity(), member(1, 2, Rendezvous::Dial(address)), deadlines(), clock()).unwrap_err();
        let text = format!("not connected after 500ms: process 0 ({address}): Connection refused (os error 111)");
        assert_eq!(error.to_string(), text);

        let (coordinate, _) = Rendezvous::coordinate().unwrap();
        let coordinate = coordinate.unless(|| Some(Error::unavailable("process 1 ended with status 2")));
        let error = join(&identity(), member(0, 2, coordinate), quick(), clock()).unwrap_err();
        assert_eq!(error.to_string(), "process 1 ended with status 2");
    });
}

// ---- processes of their own ----

/// Says what [`process`] is: `local` with a child, `stubborn` with one that never ends, or `hosts INDEX ADDRESS ADDRESS`.
const ROLE: &str = "MESH_TEST_ROLE";
const ROUNDS: &str = "MESH_TEST_ROUNDS";
const ARGS: [&str; 3] = ["process", "--exact", "--nocapture"];

fn impatient() -> Deadlines {
    Deadlines { peer_timeout: Duration::from_secs(2), ..quick() }
}

/// Not a test: what the processes run that other tests start.
#[test]
fn process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let rounds = std::env::var(ROUNDS).unwrap().parse().unwrap();
    let words: Vec<&str> = role.split(' ').collect();
    let outcome = match words[..] {
        ["local" | "stubborn"] => match Assignment::from_env().unwrap() {
            None => parent(rounds),
            Some(assignment) => {
                assignment.end_with_parent().unwrap();
                let rendezvous = Rendezvous::Dial(assignment.coordinator);
                if words[0] == "stubborn" {
                    let _mesh = join(&identity(), member(1, 2, rendezvous), impatient(), clock()).unwrap();
                    loop {
                        thread::park();
                    }
                }
                count(member(assignment.process, assignment.processes, rendezvous), rounds)
            }
        },
        ["hosts", index, ref addresses @ ..] => {
            let addresses: Vec<String> = addresses.iter().map(|address| address.to_string()).collect();
            let rendezvous = Rendezvous::Hosts { addresses: addresses.clone(), bind: None };
            count(member(index.parse().unwrap(), addresses.len(), rendezvous), rounds)
        }
        _ => panic!("{role:?} is no role"),
    };
    match outcome {
        Ok(sum) => println!("sum {sum}"),
        Err(error) => println!("error {error}"),
    }
    std::process::exit(0);
}

fn count(member: Membership, rounds: u64) -> Result<u64> {
    let (builders, guard, peers) = join(&identity(), member, impatient(), clock())?.into_parts()?;
    println!("joined");
    sum(builders, guard, &peers, rounds)
}

fn parent(rounds: u64) -> Result<u64> {
    let (coordinate, address) = Rendezvous::coordinate()?;
    let children = spawn_local(2, address, &Secret::parse(SECRET)?, &ARGS.map(Into::into), &[])?;
    let watched = children.clone();
    let coordinate = coordinate.unless(move || watched.failure());
    let mesh = join(&identity(), member(0, 2, coordinate), impatient(), clock())?;
    let (builders, guard, peers) = mesh.into_parts()?;
    println!("child {}", children.ids()[0]);
    let seen = sum(builders, guard, &peers, rounds).map_err(|error| {
        println!("noticed {error}");
        children.explain(error, &peers)
    })?;
    children.wait(Duration::from_secs(5))?;
    Ok(seen)
}

/// Runs this program again as [`process`], after the words of `before`.
fn run(before: &[&str], role: &str, rounds: u64) -> Child {
    let program = std::env::current_exe().unwrap();
    let words: Vec<_> = before.iter().map(Into::into).chain([program.into_os_string()]).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(ARGS).env(ROLE, role).env(ROUNDS, rounds.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The rest of the line that has `word` in it; libtest may have begun that line.
fn line_with(lines: &mut impl BufRead, word: &str) -> String {
    let mut seen = String::new();
    while lines.read_line(&mut seen).unwrap() > 0 {
        if let Some((_, rest)) = seen.lines().last().unwrap().split_once(word) {
            return rest.to_owned();
        }
    }
    panic!("no {word:?} in {seen:?}")
}

/// Waits for the end of a process that must not have complained.
fn end_quietly(mut process: Child) {
    let mut complaints = String::new();
    process.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert_eq!(complaints, "");
    assert!(process.wait().unwrap().success());
}

fn send(signal: Signal, process: &str) {
    kill(Pid::from_raw(process.parse().unwrap()), signal).unwrap();
}

/// A zombie counts as ended.
fn ended(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_child_process_counts_with_its_parent() {
    within_a_minute(|| {
        let mut parent = run(&[], "local", 100);
        let mut lines = BufReader::new(parent.stdout.take().unwrap());
        line_with(&mut lines, "child ");
        // the child's own line may come first
        let sums: u64 = (0..2).map(|_| line_with(&mut lines, "sum ").parse::<u64>().unwrap()).sum();
        assert_eq!(sums, expected(2, 100));
        end_quietly(parent);
    });
}

#[test]
fn a_killed_child_and_a_frozen_one_are_noticed_and_named() {
    within_a_minute(|| {
        let cases = [
            (Signal::SIGKILL, Duration::ZERO, "closed the connection", "process 1 was killed by signal 9 (SIGKILL)"),
            (Signal::SIGSTOP, impatient().peer_timeout, "no heartbeat for 2s", "no heartbeat for 2s"),
        ];
        for (signal, patience, noticed, explained) in cases {
            let mut parent = run(&[], "local", u64::MAX);
            let mut lines = BufReader::new(parent.stdout.take().unwrap());
            let child = line_with(&mut lines, "child ");
            thread::sleep(Duration::from_millis(500));
            let clock = SystemClock::default();
            send(signal, &child);
            let error = line_with(&mut lines, "noticed ");
            let after = clock.monotonic();
            assert!(after < patience + Duration::from_secs(1), "{signal} was noticed after {after:?}");
            assert!(error.starts_with("process 1 (127.0.0.1:") && error.ends_with(noticed), "{error}");
            let error = line_with(&mut lines, "error ");
            assert!(error.ends_with(explained), "{error}");
            end_quietly(parent);
            assert!(ended(&child), "{signal} left the child behind");
        }
    });
}

#[test]
fn a_child_does_not_outlive_its_parent() {
    within_a_minute(|| {
        for role in ["local", "stubborn"] {
            let mut parent = run(&[], role, u64::MAX);
            let mut lines = BufReader::new(parent.stdout.take().unwrap());
            let child = line_with(&mut lines, "child ");
            thread::sleep(Duration::from_millis(200));
            parent.kill().unwrap();
            parent.wait().unwrap();
            assert!(eventually(Duration::from_secs(6), || ended(&child)), "{role}");
        }
    });
}

/// Two network namespaces with a cable between them, gone when dropped.
struct TwoMachines([String; 2]);

impl TwoMachines {
    const ADDRESSES: [&str; 2] = ["10.213.77.1", "10.213.77.2"];

    /// None if this user may not have them.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = [0, 1].map(|index| format!("hw-{id}-{index}"));
        let ends = [0, 1].map(|index| format!("hw{id}{}", ["a", "b"][index]));
        let machines = TwoMachines(names);
        let mut lines = machines.0.iter().map(|name| format!("netns add {name}")).collect::<Vec<_>>();
        let [a, b] = &machines.0;
        lines.push(format!("link add {} netns {a} type veth peer name {} netns {b}", ends[0], ends[1]));
        for ((name, end), address) in machines.0.iter().zip(&ends).zip(Self::ADDRESSES) {
            lines.push(format!("-n {name} addr add {address}/24 dev {end}"));
            lines.push(format!("-n {name} link set {end} up"));
        }
        lines.iter().all(|line| ip(line)).then_some(machines)
    }

    fn cut(&self) {
        assert!(ip(&format!("-n {} link set hw{}a down", self.0[0], std::process::id())));
    }

    /// Starts process `index` on its machine.
    fn run(&self, index: usize, rounds: u64) -> Child {
        let role = format!("hosts {index} {}:7000 {}:7000", Self::ADDRESSES[0], Self::ADDRESSES[1]);
        run(&["ip", "netns", "exec", &self.0[index]], &role, rounds)
    }
}

impl Drop for TwoMachines {
    fn drop(&mut self) {
        for name in &self.0 {
            ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn processes_on_two_machines_count_together_and_notice_a_cut_cable() {
    within_a_minute(|| {
        let Some(machines) = TwoMachines::new() else {
            return println!("SKIPPED: this user cannot make network namespaces with ip");
        };
        let counting = [0, 1].map(|index| machines.run(index, 200));
        let sums = counting.map(|mut process| {
            let mut lines = BufReader::new(process.stdout.take().unwrap());
            let sum: u64 = line_with(&mut lines, "sum ").parse().unwrap();
            end_quietly(process);
            sum
        });
        assert_eq!(sums.iter().sum::<u64>(), expected(2, 200));

        let running = [0, 1].map(|index| {
            let mut process = machines.run(index, u64::MAX);
            let lines = BufReader::new(process.stdout.take().unwrap());
            (process, lines)
        });
        let running = running.map(|(process, mut lines)| {
            line_with(&mut lines, "joined");
            (process, lines)
        });
        thread::sleep(Duration::from_millis(300));
        machines.cut();
        let clock = SystemClock::default();
        for (index, (process, mut lines)) in running.into_iter().enumerate() {
            let error = line_with(&mut lines, "error ");
            let other = 1 - index;
            let text = format!("process {other} ({}:7000): no heartbeat for 2s", TwoMachines::ADDRESSES[other]);
            assert_eq!(error, text);
            assert!(clock.monotonic() < Duration::from_secs(4));
            end_quietly(process);
        }
    });
}
