//! What is read from a store, from progress topics and from the development broker's files.

use super::{Target, join, parts, reseal_parts, rows, unsealed};
use crate::broker::fact::{Committed, Fact, Place};
use crate::broker::{Config, batch, server::Server};
use crate::checkpoint::decide::{match_steps, superseded};
use crate::checkpoint::log::{Binding, Log, Record, SourceBinding};
use crate::checkpoint::manifest::{Manifest, ManifestRef, SinkState, SourceState, SplitState, StepState, VERSION};
use crate::checkpoint::object::{self, ObjectRef, Section};
use crate::checkpoint::savepoint::{import, open_savepoint};
use crate::checkpoint::seal::{checksum, seal};
use crate::checkpoint::store::Store;
use crate::checkpoint::sweep::sweep;
use crate::connector::SplitStart;
use crate::connector::file::piece::Piece;
use crate::connector::kafka::progress::Marker;
use crate::connector::kafka::source::Share;
use crate::connector::kafka::staged::{self, Staged};
use crate::runtime::begin::parts_of;
use crate::state::{Table, groups_of};
use crate::time::{SplitReport, Watermark};
use bytes::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Records of a log from number 1 on; the first part is a boundary, or empty.
pub const LOG: Target =
    Target { name: "log", seeds: logs, reseal: |bytes| reseal_parts(bytes, |part| reseal_json(part)), run: log };

/// A manifest.
pub const MANIFEST: Target =
    Target { name: "manifest", seeds: manifests, reseal: |bytes| reseal_json(bytes), run: manifest };

/// A savepoint: its manifest, and an object.
pub const SAVEPOINT: Target = Target {
    name: "savepoint",
    seeds: savepoints,
    reseal: |bytes| reseal_parts(bytes, |part| reseal_json(part)),
    run: savepoint,
};

/// An object of a checkpoint.
pub const OBJECT: Target = Target { name: "object", seeds: objects, reseal: reseal_object, run: object_ };

/// Final records in an object, as a publisher takes them.
pub const STAGED: Target = Target { name: "staged", seeds: staged_records, reseal: unsealed, run: staged };

/// Markers of a progress topic.
pub const MARKER: Target = Target { name: "marker", seeds: markers, reseal: unsealed, run: marker };

/// Names of splits.
pub const SPLITS: Target = Target { name: "splits", seeds: names, reseal: unsealed, run: splits };

/// The development broker's files: its ledger, and one partition.
pub const LEDGER: Target = Target { name: "ledger", seeds: ledgers, reseal: reseal_ledger, run: ledger };

/// Makes the checksum of sealed JSON right.
fn reseal_json(bytes: &mut [u8]) {
    const HEAD: &[u8] = b"{\"blake3\":\"";
    let start = HEAD.len() + 64 + 2;
    if bytes.len() < start {
        return;
    }
    let sum = checksum(&bytes[start..]);
    bytes[..HEAD.len()].copy_from_slice(HEAD);
    bytes[HEAD.len()..HEAD.len() + 64].copy_from_slice(sum.as_bytes());
    bytes[HEAD.len() + 64..start].copy_from_slice(b"\",");
}

fn reseal_object(bytes: &mut Vec<u8>) {
    let Some(sealed) = bytes.len().checked_sub(blake3::OUT_LEN) else { return };
    bytes.truncate(sealed);
    let sum = blake3::hash(bytes);
    bytes.extend_from_slice(sum.as_bytes());
}

fn sealed(value: &Value) -> Vec<u8> {
    seal(value).expect("it is an object with fields").to_vec()
}

fn some_records() -> Vec<Record> {
    let splits = vec![SplitReport { split: 1, position: 7, rows: 2, watermark: Watermark::at(5), idle: false }];
    let bindings = vec![Binding {
        epoch: 3,
        wall: 1_000_000,
        sources: vec![SourceBinding { source: "t".into(), when_all_idle: Watermark::NONE, splits }],
    }];
    let start = |generation, restores| Record::Start {
        incarnation: "0123456789abcdef".into(),
        generation,
        workers: 2,
        fingerprint: "ab".repeat(32),
        restores,
        version: "0.1.0".into(),
    };
    let checkpoint = Record::Checkpoint {
        generation: 1,
        epoch: 3,
        manifest: "g1/e3/manifest-0123456789abcdef.json".into(),
        blake3: "cd".repeat(32),
        bytes: 700,
        ended: false,
        stopped: true,
        bindings,
    };
    vec![
        start(1, None),
        checkpoint,
        Record::Savepoint { name: "s".into(), epoch: 3, path: "savepoints/s".into() },
        Record::RemoveSavepoint { name: "s".into() },
        Record::Stop { generation: 1, how: "told to".into() },
        Record::SkipRow { table: "t".into(), split: "x".into(), position: 9, reason: "poison".into() },
        start(2, Some(3)),
    ]
}

fn logs() -> Vec<Vec<u8>> {
    let stored: Vec<Vec<u8>> = some_records()
        .iter()
        .zip(1..)
        .map(|(record, number)| sealed(&json!({"number": number, "nonce": "00ff", "record": record})))
        .collect();
    let boundary = |kept: &[usize]| {
        let kept: Vec<_> = kept.iter().map(|kept| (kept, checksum(&stored[kept - 1]))).collect();
        sealed(&json!({"number": 4, "kept": kept}))
    };
    let with = |boundary: Vec<u8>| join(std::iter::once(boundary).chain(stored.iter().cloned()));
    vec![with(Vec::new()), with(boundary(&[])), with(boundary(&[1, 2]))]
}

fn log(bytes: &[u8]) -> bool {
    let store = Store::in_memory("p");
    let parts = parts(bytes);
    let Some((boundary, records)) = parts.split_first() else { return false };
    // under the number that it says, or else it is known for another's at once
    let number = serde_json::from_slice::<Value>(boundary).ok().and_then(|value| value["number"].as_u64()).unwrap_or(4);
    if !boundary.is_empty() {
        let _ = store.put(&format!("gc/{number:020}.json"), Bytes::copy_from_slice(boundary));
    }
    for (record, number) in records.iter().zip(1..) {
        let _ = store.put(&format!("log/{number:020}.json"), Bytes::copy_from_slice(record));
    }
    let Ok(mut log) = Log::read(&store) else { return false };
    let _ = (log.generation(), log.incarnation().map(str::len), log.last_epoch());
    if let Some(committed) = log.latest_checkpoint() {
        let _ = Manifest::read(&store, &committed.manifest_ref());
    }
    let Ok(generation) = log.start(1, "00", "0") else { return false };
    let _ = log.append(generation, Record::Stop { generation, how: "fuzzed".into() });
    let _ = sweep(&store, &mut log, 1, i64::MAX, Duration::ZERO);
    Log::read(&store).is_ok()
}

fn section() -> Vec<Section> {
    let rows = rows::batch(&rows::schema(true), 20, 1);
    let other = rows::batch(&rows::schema(false), 3, 2);
    vec![
        Section::State { step: "count".into(), table: Table::new("open", rows, vec![0, 1]) },
        Section::State { step: "count".into(), table: Table::new("none", other.slice(0, 0), vec![]) },
        Section::Output { step: "out".into(), shard: 1, records: vec![other.clone(), other] },
        Section::Output { step: "out".into(), shard: 2, records: vec![] },
    ]
}

fn reference(bytes: &[u8], base: bool, groups: (usize, usize)) -> ObjectRef {
    ObjectRef {
        path: format!("objects/{}", &checksum(bytes)[..32]),
        bytes: bytes.len() as u64,
        blake3: checksum(bytes),
        epoch: 3,
        generation: 1,
        groups,
        base,
        sections: Vec::new(),
    }
}

fn some_manifest(object: &[u8]) -> Manifest {
    Manifest {
        version: VERSION,
        generation: 1,
        epoch: 3,
        workers: 2,
        fingerprint: "ab".repeat(32),
        steps: vec![StepState { name: "count".into(), identity: "ef".repeat(32), watermark: Watermark::at(5) }],
        sources: vec![SourceState {
            table: "t".into(),
            splits: vec![SplitState {
                number: 1,
                start: SplitStart { name: "/in/x.jsonl:0-99/99 #5-7".into(), position: Some(44) },
                watermark: Watermark::at(5),
                idle: false,
            }],
        }],
        sinks: vec![SinkState { step: "out".into(), table: "out".into(), shards: vec![Some(3), None] }],
        state: vec![reference(object, true, (0, 64)), reference(object, false, (0, 256))],
        outputs: vec![reference(object, false, (0, 256))],
        created: 1_000_000,
    }
}

fn manifests() -> Vec<Vec<u8>> {
    vec![seal(&some_manifest(&[])).expect("it has fields").to_vec()]
}

fn manifest(bytes: &[u8]) -> bool {
    let store = Store::in_memory("p");
    let known = ManifestRef { path: "g1/e3/manifest.json".into(), blake3: checksum(bytes), bytes: bytes.len() as u64 };
    let _ = store.put(&known.path, Bytes::copy_from_slice(bytes));
    let Ok(manifest) = Manifest::read(&store, &known) else { return false };
    let _ = superseded(&manifest.state);
    let _ = match_steps(&manifest.steps, &[("count".into(), "ef".repeat(32)), ("new".into(), String::new())]);
    for own in [groups_of(0, 1), groups_of(1, 3)] {
        let _ = parts_of(&manifest.state, &own);
    }
    for split in manifest.sources.iter().flat_map(|source| &source.splits) {
        let _ = Piece::parse(&split.start.name);
    }
    manifest.write(&store).is_ok()
}

fn savepoints() -> Vec<Vec<u8>> {
    let object = object::encode(&section()).expect("sections have bytes");
    vec![join([seal(&some_manifest(&object)).expect("it has fields"), object])]
}

fn savepoint(bytes: &[u8]) -> bool {
    let store = Store::in_memory("p");
    let parts = parts(bytes);
    let [manifest, object, ..] = parts.as_slice() else { return false };
    let _ = store.put("savepoints/s/manifest.json", Bytes::copy_from_slice(manifest));
    let _ = store.put(&format!("savepoints/s/objects/{}", &checksum(object)[..32]), Bytes::copy_from_slice(object));
    let Ok((folder, manifest)) = open_savepoint("s", &store) else { return false };
    let Ok(imported) = import(&folder, manifest, &Store::in_memory("q"), 1) else { return false };
    !parts_of(&imported.state, &groups_of(0, 1)).is_empty()
}

fn objects() -> Vec<Vec<u8>> {
    let object = |sections: &[Section]| object::encode(sections).expect("sections have bytes").to_vec();
    let mut all: Vec<Vec<u8>> = section().chunks(1).map(object).collect();
    all.extend([object(&section()), object(&[])]);
    all
}

fn object_(bytes: &[u8]) -> bool {
    let Ok(sections) = object::decode(&Bytes::copy_from_slice(bytes)) else { return false };
    for section in &sections {
        if let Section::State { table, .. } = section {
            for workers in [1, 3] {
                let _ = table.share(&groups_of(workers - 1, workers));
            }
        }
    }
    object::encode(&sections).is_ok()
}

fn staged_records() -> Vec<Vec<u8>> {
    vec![super::operators::stream(&rows::batch(&staged::schema(), 9, 1))]
}

fn staged(bytes: &[u8]) -> bool {
    let Some(records) = super::operators::rows_of(bytes) else { return false };
    let Ok(staged) = Staged::of(&records) else { return false };
    for row in 0..staged.rows() {
        let _ = (staged.partition(row), staged.key(row), staged.value(row), staged.timestamp(row));
        let _ = (staged.headers(row), staged.bytes(row));
    }
    true
}

fn markers() -> Vec<Vec<u8>> {
    let marker = |last| Marker { epoch: 7, chunk: 1, rows_done: 500, last, topic_id: "AbCdEfGhIjKlMnOpQrStUv".into() };
    [true, false].map(|last| serde_json::to_vec(&marker(last)).expect("plain fields are JSON")).into()
}

fn marker(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Marker>(bytes).is_ok_and(|marker| marker.published().is_some())
}

fn names() -> Vec<Vec<u8>> {
    let share = json!({"topic": "in", "partition": 3, "start": 0, "end": 100, "id": "AbCdEf"});
    let files = [
        "/in/a.jsonl:0-99/99 #5-7",
        "a:b:blocks 0-99/99 #5-7",
        "a.parquet:groups 1-2/99 #5-7",
        "a.gz:gzip/99 #5-7",
        "a.zst:zstd/99 #5-7",
        "a.log:followed #5-7",
        "-:pipe",
    ];
    std::iter::once(share.to_string().into_bytes()).chain(files.iter().map(|name| name.as_bytes().to_vec())).collect()
}

fn splits(bytes: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(bytes) else { return false };
    let share = Share::named(name);
    if let Ok(share) = &share {
        let _ = (share.place(), share.passed(i64::MAX));
    }
    let piece = Piece::parse(name);
    if let Ok(piece) = &piece {
        assert_eq!(Piece::parse(&piece.name()).ok().as_ref(), Some(piece), "a name says what it is made of");
        for position in [None, Some(0), Some(7), Some(u64::MAX)] {
            for accept_gap in [false, true] {
                let _ = piece.clone().resume(position, accept_gap);
            }
        }
    }
    share.is_ok() || piece.is_ok()
}

fn ledgers() -> Vec<Vec<u8>> {
    let place = || Place { topic: "t".into(), partition: 0 };
    let committed = || (place(), Committed { offset: 1, metadata: "m".into() });
    let id = || "tx".to_owned();
    let facts = [
        Fact::Instance { number: -7 },
        Fact::Numbers { next_topic_id: 2, next_producer_id: 8 },
        Fact::Topic { name: "t".into(), id: 1, partitions: 1 },
        Fact::Producer { transactional_id: id(), producer_id: 7, epoch: 3, timeout_ms: 60_000 },
        Fact::Touched { transactional_id: id(), places: vec![place()] },
        Fact::Joined { transactional_id: id(), group: "g".into() },
        Fact::Pending { transactional_id: id(), group: "g".into(), offsets: vec![committed()] },
        Fact::Ended { transactional_id: id(), epoch: 3, commit: true },
        Fact::Offsets { group: "h".into(), offsets: vec![committed()] },
        Fact::GroupDeleted { group: "h".into() },
    ];
    let entry = |fact: &Fact| {
        let bytes = fact.to_bytes();
        [&(bytes.len() as u32).to_be_bytes()[..], &crc32c::crc32c(&bytes).to_be_bytes(), &bytes].concat()
    };
    let with = |facts: &[Fact]| {
        let ledger = [b"hwbroker1".to_vec(), facts.iter().flat_map(entry).collect()].concat();
        let batches: Vec<u8> = (0..3)
            .flat_map(|offset| batch::placed_at(&batch::marker(7, 3, offset == 1, 1_000), offset).into_vec())
            .collect();
        join([ledger, batches])
    };
    vec![with(&facts), with(&facts[..5]), with(&[])]
}

fn reseal_ledger(bytes: &mut Vec<u8>) {
    let parts: Vec<Vec<u8>> = parts(bytes).into_iter().map(<[u8]>::to_vec).collect();
    let [mut ledger, mut batches] = match <[_; 2]>::try_from(parts) {
        Ok(parts) => parts,
        Err(_) => return,
    };
    let mut at = b"hwbroker1".len();
    while let Some(length) = ledger.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().expect("four bytes were taken")) as usize;
        let Some(fact) = ledger.get(at + 8..(at + 8).saturating_add(length)) else { break };
        let sum = crc32c::crc32c(fact);
        ledger[at + 4..at + 8].copy_from_slice(&sum.to_be_bytes());
        at += 8 + length;
    }
    reseal_batches(&mut batches);
    *bytes = join([ledger, batches]);
}

/// Makes the checksums of record batches right, wherever the first begins.
pub(super) fn reseal_batches(bytes: &mut [u8]) {
    let mut at = 0;
    while at + batch::HEADER_BYTES <= bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().expect("four bytes were taken")) as usize;
        let end = at + 12 + length;
        if bytes[at + 16] != 2 || length < batch::HEADER_BYTES - 12 || end > bytes.len() {
            at += 1;
            continue;
        }
        let sum = crc32c::crc32c(&bytes[at + 21..end]);
        bytes[at + 17..at + 21].copy_from_slice(&sum.to_be_bytes());
        at = end;
    }
}

fn ledger(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let [ledger, batches, ..] = parts.as_slice() else { return false };
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let partition = dir.path().join("partitions").join("1-0");
    let written = fs::write(dir.path().join("ledger"), ledger)
        .and_then(|()| fs::create_dir_all(&partition))
        .and_then(|()| fs::write(partition.join(format!("{:020}.log", 0)), batches));
    written.expect("there is room for some bytes");
    let config = Config { dir: Some(dir.path().to_owned()), memory_limit: 4 << 20, ..Config::default() };
    Server::open(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 9092))).is_ok()
}
