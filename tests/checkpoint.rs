//! The store, the log, objects, savepoints and sweeping, with everything going wrong that can.

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use highwater::batch::Batch;
use highwater::checkpoint::log::{Log, Record};
use highwater::checkpoint::manifest::{Manifest, SinkState, SourceState, SplitState, StepState, VERSION};
use highwater::checkpoint::object::{self, ObjectRef, Section};
use highwater::checkpoint::savepoint::{open_savepoint, remove, save};
use highwater::checkpoint::store::{Created, Fault, Faults, Operation, Store};
use highwater::checkpoint::sweep::sweep;
use highwater::connector::SplitStart;
use highwater::error::{Error, ErrorKind, Result};
use highwater::state::Table;
use highwater::time::{Clock, Micros, Watermark};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn seed() -> u64 {
    let seed = match std::env::var("HIGHWATER_SEED") {
        Ok(seed) => seed.parse().expect("HIGHWATER_SEED is a number"),
        Err(_) => StdRng::from_os_rng().random(),
    };
    println!("HIGHWATER_SEED={seed}");
    seed
}

fn skip(position: u64) -> Record {
    Record::SkipRow { table: "words".into(), split: "words-0".into(), position, reason: "a test".into() }
}

fn positions(log: &Log) -> Vec<u64> {
    let position = |(_, record): &(u64, Record)| match record {
        Record::SkipRow { position, .. } => Some(*position),
        _ => None,
    };
    log.records().iter().filter_map(position).collect()
}

fn numbers(log: &Log) -> Vec<u64> {
    log.records().iter().map(|(number, _)| *number).collect()
}

fn section(values: std::ops::Range<i64>) -> Section {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let rows = Batch::try_from_iter([("n", column)]).unwrap();
    Section::State { step: "count".into(), table: Table::new("groups", rows, vec![0]) }
}

/// What the only section of an object holds.
fn values(sections: &[Section]) -> Vec<i64> {
    let Section::State { table, .. } = &sections[0] else { panic!("it is state") };
    table.rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

fn manifest(generation: u64, epoch: u64, state: Vec<ObjectRef>) -> Manifest {
    Manifest {
        version: VERSION,
        generation,
        epoch,
        workers: 1,
        fingerprint: "aa".into(),
        steps: vec![StepState { name: "count".into(), identity: "bb".into(), watermark: Watermark::at(epoch as i64) }],
        sources: vec![SourceState {
            table: "words".into(),
            splits: vec![SplitState {
                number: 0,
                start: SplitStart { name: "words-0".into(), position: Some(epoch) },
                watermark: Watermark::END,
                idle: false,
            }],
        }],
        sinks: vec![SinkState { step: "out".into(), table: "counts".into(), shards: vec![None, Some(epoch)] }],
        state,
        outputs: Vec::new(),
        created: epoch as i64,
    }
}

/// Takes a checkpoint that has one new object beside those of `state`.
fn checkpoint(store: &Store, log: &mut Log, epoch: u64, state: &mut Vec<ObjectRef>) -> Result<u64> {
    let generation = log.generation();
    let path = format!("g{generation}/e{epoch}/0.delta");
    let at = epoch as i64 * 10;
    state.push(object::write(store, &path, &[section(at..at + 10)], epoch, generation, (0, 4096), false)?);
    let written = manifest(generation, epoch, state.clone()).write(store)?;
    let record = Record::Checkpoint {
        generation,
        epoch,
        manifest: written.path,
        blake3: written.blake3,
        bytes: written.bytes,
        ended: false,
        stopped: false,
        bindings: Vec::new(),
    };
    log.append(generation, record)
}

/// That every kept checkpoint and all that it needs can be read.
fn all_readable(store: &Store) -> Log {
    let log = Log::read(store).unwrap();
    for committed in log.checkpoints() {
        let manifest = Manifest::read(store, &committed.manifest_ref()).unwrap();
        for object in &manifest.state {
            let at = object.epoch as i64 * 10;
            assert_eq!(values(&object::read(store, object).unwrap()), (at..at + 10).collect::<Vec<_>>());
        }
    }
    log
}

/// Faults by chance.
struct Chance {
    random: Mutex<StdRng>,
    before: f64,
    after: f64,
}

impl Faults for Chance {
    fn before(&self, _: Operation, _: &str) -> Option<Fault> {
        let mut random = self.random.lock().unwrap();
        let fault = if random.random_bool(0.5) { Fault::Unavailable } else { Fault::Conflict };
        random.random_bool(self.before).then_some(fault)
    }

    fn after(&self, _: Operation, _: &str) -> Option<Fault> {
        self.random.lock().unwrap().random_bool(self.after).then_some(Fault::Unavailable)
    }
}

/// Faults by a rule.
struct Rule<B, A>(B, A);

impl<B, A> Faults for Rule<B, A>
where
    B: Fn(Operation, &str) -> Option<Fault> + Send + Sync,
    A: Fn(Operation, &str) -> Option<Fault> + Send + Sync,
{
    fn before(&self, operation: Operation, path: &str) -> Option<Fault> {
        (self.0)(operation, path)
    }

    fn after(&self, operation: Operation, path: &str) -> Option<Fault> {
        (self.1)(operation, path)
    }
}

/// A clock that stands still until it is moved.
#[derive(Default)]
struct Hands(AtomicI64);

impl Clock for Hands {
    fn wall(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst) as u64)
    }
}

fn stores() -> (tempfile::TempDir, [Store; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let local = Store::open(folder.path().to_str().unwrap(), "orders").unwrap();
    assert!(local.is_local());
    (folder, [local, Store::in_memory("orders")])
}

#[test]
fn an_object_is_created_once_read_listed_and_deleted() {
    let (_folder, stores) = stores();
    for store in stores {
        let bytes = Bytes::from_static(b"one");
        assert_eq!(store.get("a/b").unwrap(), None);
        assert_eq!(store.list("a").unwrap(), []);
        assert_eq!(store.create("a/b", bytes.clone()).unwrap(), Created::New);
        assert_eq!(store.create("a/b", bytes.clone()).unwrap(), Created::New);
        assert_eq!(store.create("a/b", Bytes::from_static(b"two")).unwrap(), Created::Existed(bytes.clone()));
        assert_eq!(store.put("a/b", Bytes::from_static(b"two")).unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(store.get("a/b").unwrap(), Some(bytes));
        store.put("a/c/d", Bytes::from_static(b"three")).unwrap();
        store.put("ab", Bytes::new()).unwrap();
        let listed = |prefix: &str| -> Vec<(String, u64)> {
            store.list(prefix).unwrap().into_iter().map(|entry| (entry.path, entry.bytes)).collect()
        };
        assert_eq!(listed("a"), [("a/b".into(), 3), ("a/c/d".into(), 5)]);
        assert_eq!(listed(""), [("a/b".into(), 3), ("a/c/d".into(), 5), ("ab".into(), 0)]);
        let error = store.get_within("a/c/d", 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        store.delete("a/b").unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.get("a/b").unwrap(), None);
        assert!(store.list("").unwrap().iter().all(|entry| entry.modified > 1_600_000_000_000_000));
    }
}

#[test]
fn of_many_that_create_one_path_one_wins_and_all_see_the_winner() {
    let (_folder, stores) = stores();
    for store in stores {
        let won = AtomicU64::new(0);
        let write = |number: u64| match store.create("one", Bytes::from(format!("{number}"))).unwrap() {
            Created::New => {
                won.fetch_add(1, Ordering::SeqCst);
                format!("{number}")
            }
            Created::Existed(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        };
        let seen: Vec<String> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|number| scope.spawn(move || write(number))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(won.load(Ordering::SeqCst), 1);
        assert!(seen.iter().all(|winner| *winner == seen[0]));
    }
}

fn appenders(store: &Store, appenders: u64, each: u64) {
    let append = |appender: u64| {
        let mut log = Log::read(store).unwrap();
        (0..each).map(|at| log.append(0, skip(appender * 1000 + at)).unwrap()).collect::<Vec<_>>()
    };
    let mut given: Vec<u64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..appenders).map(|appender| scope.spawn(move || append(appender))).collect();
        all.into_iter().flat_map(|appender| appender.join().unwrap()).collect()
    });
    given.sort_unstable();
    let total = appenders * each;
    assert_eq!(given, (1..=total).collect::<Vec<_>>());
    let log = Log::read(store).unwrap();
    assert_eq!(numbers(&log), given);
    let mut all = positions(&log);
    // each appender's records are in its order
    for appender in 0..appenders {
        let own: Vec<u64> = all.iter().copied().filter(|position| position / 1000 == appender).collect();
        assert!(own.is_sorted());
    }
    all.sort_unstable();
    let expected = (0..appenders).flat_map(|appender| (0..each).map(move |at| appender * 1000 + at));
    assert_eq!(all, expected.collect::<Vec<_>>());
}

#[test]
fn appenders_that_clash_lose_nothing_and_use_each_number_once() {
    let (_folder, stores) = stores();
    for store in stores {
        appenders(&store, 4, 12);
    }
}

#[test]
fn conflicts_refusals_and_lost_answers_change_nothing_of_that() {
    let seed = seed();
    let faults = Chance { random: Mutex::new(StdRng::seed_from_u64(seed)), before: 0.15, after: 0.15 };
    appenders(&Store::faulty(Store::in_memory("orders"), Arc::new(faults)), 4, 40);
}

#[test]
fn a_record_whose_answers_were_all_lost_is_appended_once() {
    for applied in [true, false] {
        let store = Store::in_memory("orders");
        let broken = Arc::new(AtomicU64::new(0));
        let fault = |applies: bool| {
            let broken = Arc::clone(&broken);
            move |operation: Operation, path: &str| {
                let meant = operation == Operation::Create && path.starts_with("log/") && applies;
                (meant && broken.load(Ordering::SeqCst) == 1).then_some(Fault::Unavailable)
            }
        };
        let faulty = Store::faulty(store.clone(), Arc::new(Rule(fault(!applied), fault(applied))));
        let mut log = Log::read(&faulty).unwrap();
        let generation = log.start(1, "aa", "0").unwrap();
        broken.store(1, Ordering::SeqCst);
        // the first request arrives, and all that follow it find it there without being answered
        let error = log.append(generation, skip(7)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("log/00000000000000000002.json"), "{error}");
        broken.store(0, Ordering::SeqCst);
        assert_eq!(log.append(generation, skip(7)).unwrap(), 2);
        assert_eq!(log.append(generation, skip(7)).unwrap(), 3, "the same once more is another record");
        assert_eq!(positions(&Log::read(&store).unwrap()), [7, 7]);
    }
}

#[test]
fn a_start_counts_on_keeps_the_incarnation_and_restores_the_last_checkpoint_before_it() {
    let store = Store::in_memory("orders");
    let mut log = Log::read(&store).unwrap();
    assert_eq!((log.generation(), log.latest_checkpoint()), (0, None));
    assert_eq!(log.start(2, "aa", "0.1").unwrap(), 1);
    let incarnation = log.incarnation().unwrap().to_owned();
    assert_eq!(incarnation.len(), 16);
    let mut state = Vec::new();
    checkpoint(&store, &mut log, 10, &mut state).unwrap();
    checkpoint(&store, &mut log, 20, &mut state).unwrap();
    let mut successor = Log::read(&store).unwrap();
    // one more comes between reading and starting
    checkpoint(&store, &mut log, 30, &mut state).unwrap();
    assert_eq!(successor.start(1, "aa", "0.1").unwrap(), 2);
    let Some(Record::Start { incarnation: copied, restores, .. }) = successor.newest_start() else { panic!() };
    assert_eq!((copied, restores), (&incarnation, &Some(30)));
    assert_eq!(successor.latest_checkpoint().unwrap().epoch, 30);
    assert_eq!(successor.last_epoch(), Some(30));
    // a person goes back to an older one: whoever starts after that goes on with it
    assert_eq!(successor.start_from(1, "aa", "0.1", Some(10)).unwrap(), 3);
    assert_eq!(successor.latest_checkpoint().unwrap().epoch, 10);
    assert_eq!(Log::read(&store).unwrap().start(1, "aa", "0.1").unwrap(), 4);
    assert_eq!(Log::read(&store).unwrap().latest_checkpoint().unwrap().epoch, 10);
    let error = successor.start_from(1, "aa", "0.1", Some(11)).unwrap_err();
    assert_eq!(error.advice(), Some("these are: 10, 20, 30"));
}

#[test]
fn who_was_replaced_cannot_append() {
    let store = Store::in_memory("orders");
    let mut zombie = Log::read(&store).unwrap();
    let old = zombie.start(1, "aa", "0").unwrap();
    zombie.append(old, skip(1)).unwrap();
    let mut log = Log::read(&store).unwrap();
    let new = log.start(1, "aa", "0").unwrap();
    let error = zombie.append(old, skip(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    log.append(new, skip(3)).unwrap();
    assert_eq!(zombie.append(old, skip(4)).unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(positions(&Log::read(&store).unwrap()), [1, 3]);
    assert_eq!(log.append(new + 1, skip(5)).unwrap_err().kind(), ErrorKind::Internal);
}

/// The zombie has looked, found itself alone, and is stopped just before it creates the next number. Meanwhile a successor starts, goes
/// on, and sweeps that number away: the zombie's record comes to be, and counts for nothing.
#[test]
fn who_creates_a_number_again_that_was_swept_is_below_the_boundary() {
    let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000)));
    let store = Store::in_memory_by("orders", clock.clone());
    let armed = Arc::new(AtomicU64::new(0));
    let meanwhile = {
        let (store, armed, clock) = (store.clone(), Arc::clone(&armed), Arc::clone(&clock));
        move |operation: Operation, path: &str| {
            if operation == Operation::Create && path.starts_with("log/") && armed.swap(0, Ordering::SeqCst) == 1 {
                let mut log = Log::read(&store).unwrap();
                // the first of two takes the zombie's number, and only the newest start is kept
                log.start(1, "aa", "0").unwrap();
                log.start(1, "aa", "0").unwrap();
                let mut state = Vec::new();
                for epoch in 100..105 {
                    checkpoint(&store, &mut log, epoch, &mut state).unwrap();
                }
                clock.0.fetch_add(7_200_000_000, Ordering::SeqCst);
                let swept = sweep(&store, &mut log, 2, clock.wall(), Duration::from_secs(3600)).unwrap();
                assert_eq!(swept.records, 6, "two starts and four checkpoints");
            }
            None
        }
    };
    let slow = Store::faulty(store.clone(), Arc::new(Rule(meanwhile, |_: Operation, _: &str| None)));
    let mut zombie = Log::read(&slow).unwrap();
    let old = zombie.start(1, "aa", "0").unwrap();
    zombie.append(old, skip(1)).unwrap();
    checkpoint(&slow, &mut zombie, 50, &mut Vec::new()).unwrap();
    armed.store(1, Ordering::SeqCst);
    let error = zombie.append(old, skip(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let there = store.list("log").unwrap().iter().any(|entry| entry.path.ends_with("00000000000000000004.json"));
    assert!(there, "it was created again");
    let mut log = all_readable(&store);
    assert_eq!(log.generation(), old + 2);
    assert_eq!(positions(&log), [1], "what a person decided stays, what the zombie wrote does not count");
    assert_eq!(log.latest_checkpoint().unwrap().epoch, 104);
    // the next sweep clears it away
    let swept = sweep(&store, &mut log, 2, clock.wall(), HOUR).unwrap();
    assert_eq!((swept.records, log.append(old + 2, skip(3)).unwrap()), (1, 11));
}

/// Everything below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn read_everything(store: &Store) -> Result<()> {
    let log = Log::read(store)?;
    for committed in log.checkpoints() {
        let manifest = Manifest::read(store, &committed.manifest_ref())?;
        for object in &manifest.state {
            object::read(store, object)?;
        }
    }
    Ok(())
}

#[test]
fn whatever_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap(), "orders").unwrap();
    let mut log = Log::read(&store).unwrap();
    log.start(1, "aa", "0").unwrap();
    let mut state = Vec::new();
    for epoch in 1..=3 {
        checkpoint(&store, &mut log, epoch, &mut state).unwrap();
    }
    log.append(1, skip(1)).unwrap();
    read_everything(&store).unwrap();
    let all = files(folder.path());
    assert_eq!(all.len(), 5 + 3 + 3);
    let last = all.iter().rfind(|path| path.to_str().unwrap().contains("/log/")).unwrap().clone();
    for path in &all {
        let bytes = fs::read(path).unwrap();
        let half = bytes.len() / 2;
        let mut flipped = bytes.clone();
        flipped[half] ^= 4;
        let damages: [(&str, Option<Vec<u8>>); 6] = [
            ("a flipped bit", Some(flipped)),
            ("half of it", Some(bytes[..half].to_vec())),
            ("nothing", Some(Vec::new())),
            ("garbage", Some(vec![0xc3; bytes.len()])),
            ("more", Some([bytes.as_slice(), b"more"].concat())),
            ("missing", None),
        ];
        for (what, damage) in damages {
            fs::remove_file(path).unwrap();
            let missing = damage.is_none();
            if let Some(damage) = damage {
                fs::write(path, damage).unwrap();
            }
            match read_everything(&store) {
                // a log that ends sooner is a log
                Ok(()) => assert!(missing && *path == last, "{} with {what}", path.display()),
                Err(error) => {
                    let name = path.strip_prefix(folder.path().join("orders")).unwrap().display().to_string();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} with {what}: {error}");
                    assert!(error.to_string().contains(&format!("\"{name}\"")), "{name} with {what}: {error}");
                }
            }
            fs::write(path, &bytes).unwrap();
        }
    }
    read_everything(&store).unwrap();
    // a record under another's number
    let records: Vec<&PathBuf> = all.iter().filter(|path| path.to_str().unwrap().contains("/log/")).collect();
    fs::copy(records[1], records[2]).unwrap();
    assert!(read_everything(&store).unwrap_err().to_string().contains("it is record 2 under another number"));
}

#[test]
fn a_manifest_cannot_lead_out_of_the_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().to_str().unwrap();
    let other = Store::open(location, "other").unwrap();
    let mut object = object::write(&other, "g1/e1/0", &[section(0..10)], 1, 1, (0, 4096), false).unwrap();
    assert_eq!(values(&object::read(&other, &object).unwrap()).len(), 10);
    let store = Store::open(location, "orders").unwrap();
    for path in ["../other/g1/e1/0", "g1/../../other/g1/e1/0", "/other/g1/e1/0", "..\\other"] {
        object.path = path.to_owned();
        assert_eq!(object::read(&store, &object).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// A pipeline with two generations, five checkpoints, a savepoint, and objects that were never committed.
fn lived(clock: &Arc<Hands>) -> Store {
    let store = Store::in_memory_by("orders", clock.clone());
    let mut log = Log::read(&store).unwrap();
    log.start(1, "aa", "0").unwrap();
    let mut state = Vec::new();
    for epoch in 1..=3 {
        checkpoint(&store, &mut log, epoch, &mut state).unwrap();
    }
    save(&store, &mut log, 1, 2, "before-the-change").unwrap();
    store.put("g1/e4/0.delta", Bytes::from_static(b"never committed")).unwrap();
    store.put("savepoints/unfinished/objects/1", Bytes::from_static(b"never finished")).unwrap();
    log.start(1, "aa", "0").unwrap();
    // a new base: the deltas before it are needed no more
    state.clear();
    for epoch in 5..=6 {
        checkpoint(&store, &mut log, epoch, &mut state).unwrap();
    }
    clock.0.fetch_add(7_200_000_000, Ordering::SeqCst);
    store.put("g2/e7/0.delta", Bytes::from_static(b"on its way")).unwrap();
    store
}

fn paths(store: &Store) -> Vec<String> {
    store.list("").unwrap().into_iter().map(|entry| entry.path).collect()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_sweep_keeps_what_is_needed_and_nothing_else() {
    let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000)));
    let store = lived(&clock);
    let mut log = Log::read(&store).unwrap();
    let swept = sweep(&store, &mut log, 2, clock.wall(), HOUR).unwrap();
    let left = all_readable(&store);
    assert_eq!(left.records(), log.records());
    assert_eq!(left.checkpoints().map(|committed| committed.epoch).collect::<Vec<_>>(), [5, 6]);
    // the first start, three checkpoints; three manifests and objects, two that were never committed
    assert_eq!((swept.records, swept.objects), (4, 8));
    let paths = paths(&store);
    assert!(paths.iter().any(|path| path == "g2/e7/0.delta"), "{paths:?}");
    assert!(
        !paths.iter().any(|path| path.starts_with("g1/") || path.starts_with("savepoints/unfinished/")),
        "{paths:?}"
    );
    let (_, manifest) = open_savepoint("before-the-change", &store).unwrap();
    assert_eq!(manifest.epoch, 2);
    assert_eq!(sweep(&store, &mut log, 2, clock.wall(), HOUR).unwrap(), Default::default());
    // appending goes on where it was
    assert_eq!(log.append(2, skip(1)).unwrap(), 9);
    all_readable(&store);
}

#[test]
fn a_sweep_that_ends_anywhere_harms_nothing_and_the_next_one_completes_it() {
    let expected = {
        let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000)));
        let store = lived(&clock);
        sweep(&store, &mut Log::read(&store).unwrap(), 2, clock.wall(), HOUR).unwrap();
        paths(&store)
    };
    let mut crashes = 0;
    for applied in [false, true] {
        for step in 0.. {
            let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000)));
            let store = lived(&clock);
            let count = |counts: bool| {
                let left = AtomicU64::new(step);
                move |operation: Operation, _: &str| {
                    let counted = counts && matches!(operation, Operation::Create | Operation::Delete);
                    (counted && left.fetch_sub(1, Ordering::SeqCst) == 0).then_some(Fault::Crash)
                }
            };
            let faulty = Store::faulty(store.clone(), Arc::new(Rule(count(!applied), count(applied))));
            let done = sweep(&faulty, &mut Log::read(&store).unwrap(), 2, clock.wall(), HOUR);
            let log = all_readable(&store);
            assert_eq!(log.latest_checkpoint().unwrap().epoch, 6);
            assert_eq!(log.generation(), 2);
            open_savepoint("before-the-change", &store).unwrap();
            if done.is_ok() {
                break;
            }
            crashes += 1;
            sweep(&store, &mut Log::read(&store).unwrap(), 2, clock.wall(), HOUR).unwrap();
            assert_eq!(paths(&store), expected, "after a crash at step {step}, applied: {applied}");
            all_readable(&store);
        }
    }
    assert!(crashes > 20, "{crashes} crashes");
}

#[test]
fn a_sweep_that_finds_a_kept_manifest_damaged_deletes_nothing() {
    let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000)));
    let store = lived(&clock);
    let mut log = Log::read(&store).unwrap();
    let manifest = log.checkpoint(5).unwrap().manifest.to_owned();
    store.delete(&manifest).unwrap();
    let before = paths(&store);
    let error = sweep(&store, &mut log, 2, clock.wall(), HOUR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&manifest));
    assert_eq!(paths(&store), before);
}

#[test]
fn a_savepoint_stands_alone_and_can_be_moved() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().join("store").display().to_string();
    let store = Store::open(&location, "orders").unwrap();
    let mut log = Log::read(&store).unwrap();
    let generation = log.start(1, "aa", "0").unwrap();
    let mut state = Vec::new();
    for epoch in 1..=3 {
        checkpoint(&store, &mut log, epoch, &mut state).unwrap();
    }
    let place = save(&store, &mut log, generation, 3, "weekly-1").unwrap();
    assert_eq!(save(&store, &mut log, generation, 2, "weekly-1").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(save(&store, &mut log, generation, 3, "../x").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(save(&store, &mut log, generation, 9, "other").unwrap_err().kind(), ErrorKind::Invalid);
    assert!(log.records().iter().any(|(_, record)| matches!(record, Record::Savepoint { epoch: 3, .. })));
    let error = open_savepoint("weekly-2", &store).unwrap_err();
    assert_eq!(error.advice(), Some("did you mean 'weekly-1'?"));

    let check = |place: &str, store: &Store| {
        let (folder, manifest) = open_savepoint(place, store).unwrap();
        let read = |object: &ObjectRef| values(&object::read(&folder, object).unwrap());
        let all: Vec<i64> = manifest.state.iter().flat_map(read).collect();
        assert_eq!(all, (10..40).collect::<Vec<_>>());
        assert_eq!(manifest.sources[0].splits[0].start.position, Some(3));
    };
    check("weekly-1", &store);
    check(&place, &store);
    // another of the same state is removed, and leaves nothing but its name, which is free again
    save(&store, &mut log, generation, 3, "weekly-9").unwrap();
    remove(&store, &mut log, "weekly-9").unwrap();
    assert_eq!(log.savepoints().map(|(_, name, ..)| name).collect::<Vec<_>>(), ["weekly-1"]);
    assert!(store.list("savepoints/weekly-9").unwrap().is_empty());
    assert!(open_savepoint("weekly-9", &store).is_err());
    let error = remove(&store, &mut log, "weekly-9").unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.advice()),
        ("there is no savepoint 'weekly-9'", Some("did you mean 'weekly-1'?"))
    );
    save(&store, &mut log, generation, 3, "weekly-9").unwrap();
    check("weekly-9", &store);
    remove(&store, &mut log, "weekly-9").unwrap();
    check("weekly-1", &store);
    let moved = folder.path().join("elsewhere");
    fs::rename(&place, &moved).unwrap();
    fs::remove_dir_all(&location).unwrap();
    let stranger = Store::open(&folder.path().join("new").display().to_string(), "payments").unwrap();
    check(moved.to_str().unwrap(), &stranger);
    check(&format!("file://{}", moved.display()), &stranger);
    let error = open_savepoint(folder.path().to_str().unwrap(), &stranger).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // damage is named there, too
    let object = files(&moved.join("objects")).remove(0);
    fs::write(&object, b"").unwrap();
    let (folder, manifest) = open_savepoint(moved.to_str().unwrap(), &stranger).unwrap();
    let errors: Vec<Error> = manifest.state.iter().filter_map(|known| object::read(&folder, known).err()).collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains(object.file_name().unwrap().to_str().unwrap()));
}

/// What the log should hold, recomputed plainly.
#[derive(Default)]
struct Model {
    /// All that were ever appended: record `n` is at `n - 1`.
    all: Vec<Record>,
    kept: Vec<u64>,
    /// Up to here the log was swept.
    boundary: u64,
}

impl Model {
    fn generation(&self) -> u64 {
        self.all.iter().filter(|record| matches!(record, Record::Start { .. })).count() as u64
    }

    fn push(&mut self, record: Record) -> u64 {
        self.all.push(record);
        self.kept.push(self.all.len() as u64);
        self.all.len() as u64
    }

    fn of(&self, number: u64) -> &Record {
        &self.all[number as usize - 1]
    }

    /// Keeps the last `retain` checkpoints with all behind them, the newest start, and what people did.
    fn sweep(&mut self, retain: usize) {
        let mut checkpoints: Vec<u64> = self.kept.clone();
        checkpoints.retain(|number| matches!(self.of(*number), Record::Checkpoint { .. }));
        let Some(oldest) = checkpoints.iter().rev().take(retain.max(1)).min().copied() else { return };
        // what was kept before it stays until it moves
        if oldest - 1 <= self.boundary {
            return;
        }
        self.boundary = oldest - 1;
        let start = self.kept.iter().copied().filter(|number| matches!(self.of(*number), Record::Start { .. })).max();
        let mut kept = self.kept.clone();
        kept.retain(|number| {
            *number >= oldest
                || Some(*number) == start
                || matches!(self.of(*number), Record::SkipRow { .. } | Record::Savepoint { .. })
        });
        self.kept = kept;
    }
}

#[test]
fn the_log_does_what_a_list_does() {
    let seed = seed();
    for round in 0..60 {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(round));
        let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000)));
        let sound = Store::in_memory_by("orders", clock.clone());
        let rate = if round % 2 == 0 { 0.0 } else { 0.15 };
        let faults = Chance { random: Mutex::new(StdRng::seed_from_u64(random.random())), before: rate, after: rate };
        let store = Store::faulty(sound.clone(), Arc::new(faults));
        let mut model = Model::default();
        // three processes, each with the generation that it thinks it is
        let mut actors: Vec<(Log, u64)> = (0..3).map(|_| (Log::read(&store).unwrap(), 0)).collect();
        let mut state = Vec::new();
        for step in 0..80_u64 {
            let actor = random.random_range(0..actors.len());
            let (log, own) = &mut actors[actor];
            let place = format!("round {round}, step {step}, actor {actor}");
            match random.random_range(0..10) {
                0 => {
                    *own = log.start(1, "aa", "0").unwrap();
                    model.push(log.newest_start().unwrap().clone());
                    assert_eq!(*own, model.generation(), "{place}");
                    state.clear();
                }
                1..=3 => {
                    let answer = log.append(*own, skip(step));
                    match *own == model.generation() {
                        true => assert_eq!(answer.unwrap(), model.push(skip(step)), "{place}"),
                        false => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Fenced, "{place}"),
                    }
                }
                4..=6 if *own > 0 && *own == model.generation() => {
                    log.refresh().unwrap();
                    let number = checkpoint(&store, log, step + 1, &mut state).unwrap();
                    let record = log.records().last().unwrap().1.clone();
                    assert_eq!(number, model.push(record), "{place}");
                }
                7 if *own > 0 && *own == model.generation() => {
                    let retain = random.random_range(0..4);
                    clock.0.fetch_add(10_000_000_000, Ordering::SeqCst);
                    sweep(&store, log, retain, clock.wall(), HOUR).unwrap();
                    model.sweep(retain);
                }
                8 => *log = Log::read(&store).unwrap(),
                _ => log.refresh().unwrap(),
            }
            if step % 8 == 0 {
                let log = all_readable(&sound);
                assert_eq!(numbers(&log), model.kept, "{place}");
                assert!(log.records().iter().all(|(number, record)| record == model.of(*number)), "{place}");
            }
        }
        // all see the same in the end
        let read = all_readable(&sound);
        for (log, _) in &mut actors {
            log.refresh().unwrap();
            assert_eq!(log.records(), read.records());
        }
    }
}

/// Exit code and both outputs of a call of the program.
fn call(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_highwater");
    let output = std::process::Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_lists_and_shows_what_a_store_holds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("state").to_str().unwrap(), "orders").unwrap();
    let mut log = Log::read(&store).unwrap();
    let generation = log.start(2, "aabbccddeeff0011", "0.1.0").unwrap();
    let mut state = Vec::new();
    for epoch in [7, 8] {
        checkpoint(&store, &mut log, epoch, &mut state).unwrap();
    }
    save(&store, &mut log, generation, 7, "weekly").unwrap();
    let good = |arguments: &[&str]| {
        let (code, out, err) = call(folder.path(), arguments);
        assert_eq!(code, 0, "{arguments:?}: {err}");
        out
    };
    let json = |arguments: &[&str]| serde_json::from_str::<serde_json::Value>(&good(arguments)).unwrap();

    let list = good(&["state", "ls", "state"]);
    for part in ["restarts begin here", "weekly", "aabbccddeeff", "1970-01-01T00:00:00.000008Z"] {
        assert!(list.contains(part), "{part} in\n{list}");
    }
    let list = json(&["state", "ls", "state", "--pipeline", "orders", "--json"]);
    assert_eq!(list["checkpoints"].as_array().unwrap().len(), 2);
    assert_eq!(list["checkpoints"][1]["newest"], true);
    assert_eq!(list["checkpoints"][1]["objects"], 2);
    assert_eq!(list["savepoints"][0]["name"], "weekly");

    let shown = good(&["state", "show", "state"]);
    for part in ["checkpoint 8", "0..4096", "words-0", "nothing yet", "groups"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    let shown = json(&["state", "show", "state", "--checkpoint", "7", "--json"]);
    assert_eq!(shown["steps"][0]["tables"][0]["rows"], 10);
    assert_eq!(shown["sources"][0]["splits"][0]["position"], 7);
    assert_eq!(shown["sinks"][0]["shards"][1]["published"], 7);
    assert_eq!(json(&["state", "show", "state", "--savepoint", "weekly", "--json"])["epoch"], 7);
    fs::rename(folder.path().join("state/orders/savepoints/weekly"), folder.path().join("moved")).unwrap();
    assert_eq!(json(&["state", "show", "moved", "--json"])["epoch"], 7);

    // a definition names the store and the pipeline
    let sql = "
        SET 'pipeline.name' = 'orders';
        SET 'checkpoint_store' = 'state';
        CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '1');
        CREATE TABLE nowhere (n BIGINT) WITH ('connector' = 'blackhole');
        INSERT INTO nowhere SELECT n FROM numbers;";
    fs::write(folder.path().join("p.sql"), sql).unwrap();
    assert_eq!(json(&["state", "show", "p.sql", "--json"])["epoch"], 8);

    let bad = |code: i32, arguments: &[&str], part: &str| {
        let (answered, out, err) = call(folder.path(), arguments);
        assert_eq!((answered, out.as_str()), (code, ""), "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    };
    bad(2, &["state", "ls", "stat"], "there is no such directory");
    bad(2, &["state", "ls", "state", "--pipeline", "order"], "did you mean --pipeline orders?");
    bad(2, &["state", "show", "state", "--checkpoint", "9"], "there are 7, 8");
    bad(2, &["state", "show", "p.sql", "--set", "checkpoint_store="], "the pipeline has no checkpoints");
    assert!(!folder.path().join("stat").exists(), "looking creates nothing");
    let record = folder.path().join("state/orders/log/00000000000000000001.json");
    fs::write(&record, b"{}").unwrap();
    bad(6, &["state", "ls", "state"], "log/00000000000000000001.json");
}

/// Against a server that speaks S3: tools/s3.sh starts one and calls this.
#[test]
#[ignore = "needs a server: tools/s3.sh"]
fn a_bucket_does_what_memory_does() {
    let location = std::env::var("HIGHWATER_S3").expect("HIGHWATER_S3 names a bucket, such as s3://bucket/prefix");
    let store = Store::open(&location, "orders").unwrap();
    assert_eq!(store.get("a/b").unwrap(), None);
    assert_eq!(store.create("a/b", Bytes::from_static(b"one")).unwrap(), Created::New);
    assert_eq!(store.create("a/b", Bytes::from_static(b"one")).unwrap(), Created::New);
    let theirs = Created::Existed(Bytes::from_static(b"one"));
    assert_eq!(store.create("a/b", Bytes::from_static(b"two")).unwrap(), theirs);
    store.delete("a/b").unwrap();
    store.delete("a/b").unwrap();
    assert_eq!(store.list("").unwrap(), []);

    let large = Bytes::from(vec![7; 20 << 20]);
    store.put("large", large.clone()).unwrap();
    assert_eq!(store.get("large").unwrap(), Some(large));
    assert_eq!(store.get_within("large", 1000).unwrap_err().kind(), ErrorKind::Corrupt);
    store.delete("large").unwrap();

    let mut log = Log::read(&store).unwrap();
    log.start(1, "aa", "0").unwrap();
    let mut state = Vec::new();
    for epoch in 1..=5 {
        checkpoint(&store, &mut log, epoch, &mut state).unwrap();
    }
    let place = save(&store, &mut log, 1, 5, "weekly").unwrap();
    let mut successor = Log::read(&store).unwrap();
    assert_eq!(successor.start(1, "aa", "0").unwrap(), 2);
    assert_eq!(log.append(1, skip(1)).unwrap_err().kind(), ErrorKind::Fenced);
    let swept = sweep(&store, &mut successor, 2, 4_000_000_000_000_000, HOUR).unwrap();
    assert_eq!((swept.records, swept.objects), (4, 3));
    all_readable(&store);
    let (_, manifest) = open_savepoint(&place, &Store::in_memory("orders")).unwrap();
    assert_eq!(manifest.epoch, 5);

    appenders(&Store::open(&location, "shared").unwrap(), 4, 10);
}
