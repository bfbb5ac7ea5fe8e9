//! Every decoder of stored or received bytes takes what no encoder has made: an error, and never a panic, a hang, or memory without
//! bound.
//!
//! Each target of [`highwater::fuzzing`] is fed changed copies of valid inputs for two seconds, in a process of its own whose memory
//! is limited. What is fed follows from the seed and the input's number. A failure says both and leaves the input in a file.
//!
//! `HIGHWATER_FUZZ_SECONDS` is how long each is fed, `HIGHWATER_FUZZ_SEED` repeats a run, and `HIGHWATER_FUZZ_INPUT` names a file to
//! feed instead.

use highwater::fuzzing::{TARGETS, Target, target};
use nix::sys::resource::{Resource, setrlimit};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

/// What an input may take beside what the process has before the first.
const MEMORY_BYTES: u64 = 512 << 20;
/// How long one input may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inputs do not grow beyond this.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// In the child: the target, the seed and the file for the input.
const CHILD: &str = "HIGHWATER_FUZZ_CHILD";

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is '{text}'")))
}

/// Feeds `name` in a process of its own.
fn fuzz(name: &str) {
    // of those on this machine at the same time
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let seed: u64 = variable("HIGHWATER_FUZZ_SEED").unwrap_or_else(|| StdRng::from_os_rng().random());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).expect("the target directory can be written");
    let file = folder.join(format!("{name}-{seed}"));
    let child = Command::new(env::current_exe().expect("this test has a file"))
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, format!("{name} {seed} {}", file.display()))
        .output()
        .expect("this test can be run again");
    let said = [child.stdout, child.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{name}: seed {seed}\n{said}");
    if child.status.success() {
        return;
    }
    let input = fs::read(&file).unwrap_or_default();
    let hex: String = input.iter().take(2048).map(|byte| format!("{byte:02x}")).collect();
    panic!(
        "target {name}, seed {seed}, {}: {said}\ninput of {} bytes, HIGHWATER_FUZZ_INPUT={} feeds it again:\n{hex}",
        child.status,
        input.len(),
        file.display()
    );
}

/// What a child does; nothing in the parent.
#[test]
fn child() {
    let Some(task) = variable::<String>(CHILD) else { return };
    let mut words = task.splitn(3, ' ');
    let (name, seed, file) = (words.next().unwrap(), words.next().unwrap().parse().unwrap(), words.next().unwrap());
    let target = target(name).unwrap_or_else(|| panic!("there is no target {name}"));
    Feeder::new(file.into()).feed(target, seed);
}

thread_local! {
    /// What the last panic of this thread said; those that a decoder catches are none.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Feeds inputs, each of which is in a file while it is fed.
struct Feeder {
    path: PathBuf,
    file: File,
    start: Instant,
}

/// When the input that is fed now was given, in milliseconds since the start and 1; 0: none is fed.
static SINCE: AtomicU64 = AtomicU64::new(0);

impl Feeder {
    fn new(path: PathBuf) -> Self {
        let file = File::create(&path).expect("the folder is there");
        let start = Instant::now();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(200));
                let since = SINCE.load(Ordering::Relaxed);
                if since > 0 && start.elapsed() > Duration::from_millis(since) + PATIENCE {
                    eprintln!("it hangs: not done after {PATIENCE:?}");
                    std::process::exit(3);
                }
            }
        });
        Feeder { path, file, start }
    }

    fn feed(&self, target: &Target, seed: u64) {
        let (own, seeds) = seeds(target);
        // a panic that a decoder catches is no news
        std::panic::set_hook(Box::new(|panic| SAID.set(panic.to_string())));
        limit_memory();
        if let Some(path) = variable::<String>("HIGHWATER_FUZZ_INPUT") {
            let taken = self.one(target, &fs::read(path).expect("the file of an input"));
            return println!("\n{taken}");
        }
        let taken: Vec<bool> = seeds.iter().map(|seed| self.one(target, seed)).collect();
        let valid = taken[..own].iter().filter(|taken| **taken).count();
        if valid * 3 <= own {
            eprintln!("only {valid} of {own} inputs to begin with are taken");
            std::process::exit(4);
        }
        let time = Duration::from_secs_f64(variable("HIGHWATER_FUZZ_SECONDS").unwrap_or(2.0));
        let (start, mut fed, mut taken) = (Instant::now(), 0_u64, 0_u64);
        while start.elapsed() < time {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(fed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let mut input = changed(&mut random, &seeds);
            if random.random() {
                (target.reseal)(&mut input);
            }
            taken += u64::from(self.one(target, &input));
            fed += 1;
        }
        println!("\n{taken} of {fed} inputs were taken");
        fs::remove_file(&self.path).expect("it is there");
    }

    fn one(&self, target: &Target, input: &[u8]) -> bool {
        self.file.set_len(0).and_then(|()| self.file.write_all_at(input, 0)).expect("the disk has room");
        SINCE.store(self.start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        let Ok(taken) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) else {
            eprintln!("{}", SAID.take());
            std::process::exit(2);
        };
        SINCE.store(0, Ordering::Relaxed);
        taken
    }
}

/// The target's own, and how many those are; for texts also those that the repository has, which are in part mistakes.
fn seeds(target: &Target) -> (usize, Vec<Vec<u8>>) {
    let mut seeds = (target.seeds)();
    let own = seeds.len();
    let ending = match target.name {
        "sql" => "sql",
        "graph" => "yaml",
        _ => return (own, seeds),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["pipelines", "tests/mistakes"] {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let named = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == ending);
        seeds.extend(paths.iter().filter(named).map(|path| fs::read(path).unwrap()));
    }
    (own, seeds)
}

/// Lets an allocation beyond the limit fail, which ends the process.
fn limit_memory() {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux says what a process has");
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let most = pages * 4096 + MEMORY_BYTES;
    setrlimit(Resource::RLIMIT_AS, most, most).expect("a process may limit itself");
}

/// A copy of one of `seeds` with some changes.
fn changed(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds.choose(random).expect("each target has seeds").clone();
    for _ in 0..1 << random.random_range(0..4) {
        let at = if bytes.is_empty() { 0 } else { random.random_range(0..bytes.len()) };
        let length = random.random_range(0..=32).min(bytes.len() - at);
        match random.random_range(0..11) {
            _ if bytes.is_empty() => bytes = (0..random.random_range(0..64)).map(|_| random.random()).collect(),
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let copy = bytes[at..at + length].to_vec();
                let to = random.random_range(0..=bytes.len());
                bytes.splice(to..to, copy);
            }
            // the rest of another
            5 => {
                let other = seeds.choose(random).expect("each target has seeds");
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // a number where one may be: a length, a count, an offset
            6 | 7 => {
                let number: u64 = match random.random_range(0..6) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => u64::MAX >> random.random_range(0..64),
                    3 => 1 << random.random_range(0..64),
                    4 => (bytes.len() as u64).wrapping_add_signed(random.random_range(-9..9)),
                    _ => random.random_range(0..300),
                };
                let number = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
                let width = *[1, 2, 4, 8].choose(random).expect("there are four");
                let number = if random.random() { &number[..width] } else { &number[8 - width..] };
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            8 => bytes[at..at + length].fill(random.random()),
            9 => {
                let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
                bytes.splice(at..at, noise);
            }
            // digits of a number in text
            _ => {
                let digit = |byte: &u8| byte.is_ascii_digit();
                if let Some(first) = bytes[at..].iter().position(digit).map(|first| at + first) {
                    let end = first + bytes[first..].iter().take_while(|byte| digit(byte)).count();
                    let numbers = [
                        "0",
                        "-1",
                        "18446744073709551615",
                        "9223372036854775807",
                        "-9223372036854775808",
                        "1e999",
                        "4294967296",
                        "256",
                    ];
                    let number = numbers.choose(random).expect("there are some");
                    bytes.splice(first..end, number.bytes());
                }
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { fuzz(stringify!($name)) })*
        const NAMED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    log manifest savepoint object staged marker splits ledger state exchange handshake control broker
    json csv raw debezium avro avro_messages protobuf parquet packed sql graph options
}

#[test]
fn every_target_is_fed_here_and_by_libfuzzer() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, NAMED);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for name in names {
        let file = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap_or_default();
        assert!(file.contains(&format!("highwater_fuzz::feed!(\"{name}\")")), "fuzz/fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is in fuzz/Cargo.toml");
    }
}
