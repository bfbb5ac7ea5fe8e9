//! What a worker writes at a checkpoint: sections of rows, checksummed.
//!
//! ```text
//! "HWOBJECT" │ u32 LE version │ u32 zero │ sections, each an Arrow IPC stream with its schema, in zstd or as it is │ index, JSON
//!            │ u32 LE length of the index │ BLAKE3 of all before, 32 bytes
//! ```
//! The columns of states are packed (`checkpoint/pack.rs`), which costs little. What goes over a network is compressed, too; on a disk of this
//! machine that would cost more than it saves.
//!
//! An object explains itself: what its sections are is in its index, what their columns are in the sections. A section without rows and
//! batches has no bytes.

use super::pack::{pack, unpack};
use super::seal::checksum;
use super::store::{OBJECT_BYTES_MAX, Store};
use crate::batch::wire::compact_views;
use crate::batch::{Batch, from_arrow};
use crate::error::{Error, Result};
use crate::state::Table;
use crate::time::{Epoch, Micros};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

const MAGIC: &[u8; 8] = b"HWOBJECT";
/// What is written; 1 has neither packed columns nor sections that are not compressed.
const VERSION: u32 = 2;
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=VERSION;
const HEAD: usize = 16;
const TAIL: usize = 4 + blake3::OUT_LEN;
/// What a section may have when it is not compressed.
const SECTION_BYTES_MAX: u64 = OBJECT_BYTES_MAX;
/// A section that is larger is compressed wherever it goes.
const RAW_BYTES_MAX: usize = 256 << 20;
/// The greatest window that a compressed section may ask for, as a power of two: what level 1 takes, and some more.
const WINDOW_LOG_MAX: u32 = 27;

/// An object, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its path below the pipeline, or below the savepoint that it is in.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its checksum, in 64 hex digits.
    pub blake3: String,
    /// The checkpoint for which it was written.
    pub epoch: Epoch,
    /// The generation that wrote it.
    pub generation: u64,
    /// The key groups of its state: the first, and the one behind the last.
    pub groups: (usize, usize),
    /// True if its state needs no older object of the same key groups.
    pub base: bool,
    /// What is in it, in order.
    pub sections: Vec<SectionInfo>,
}

/// A section, without its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionInfo {
    /// The step that it belongs to.
    pub step: String,
    /// What it is.
    pub kind: SectionKind,
    /// The operator's table; of records for a sink the shard's number.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
    /// How many bytes it takes in the object.
    pub bytes: u64,
    /// See [`Table::until`]. Never left out where it is none: workers tell it each other in a form that has no names.
    #[serde(default)]
    pub until: Option<Micros>,
}

/// What a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SectionKind {
    /// What an operator has learnt.
    State,
    /// Records that a sink is to publish.
    Output,
}

/// A part of an object.
#[derive(Debug, Clone)]
pub enum Section {
    /// What an operator has learnt.
    State {
        /// Its step.
        step: String,
        /// The rows.
        table: Table,
    },
    /// Records that a sink is to publish, in their order.
    Output {
        /// The sink's step.
        step: String,
        /// The sink's share.
        shard: u32,
        /// The records.
        records: Vec<Batch>,
    },
}

impl Section {
    fn batches(&self) -> &[Batch] {
        match self {
            Section::State { table, .. } => std::slice::from_ref(&table.rows),
            Section::Output { records, .. } => records,
        }
    }

    /// Its batches in little room, with the same columns in all of them.
    fn small(&self) -> Result<Vec<Batch>> {
        match self {
            Section::State { table, .. } => Ok(vec![pack(&table.rows)?]),
            Section::Output { records, .. } => records.iter().map(compact_views).collect(),
        }
    }

    /// What it is, with the size that it has when it is not stored yet: 0.
    fn info(&self) -> SectionInfo {
        let rows = self.batches().iter().map(|batch| batch.num_rows() as u64).sum();
        let (step, kind, table, until) = match self {
            Section::State { step, table } => (step, SectionKind::State, table.name.clone(), table.until),
            Section::Output { step, shard, .. } => (step, SectionKind::Output, shard.to_string(), None),
        };
        SectionInfo { step: step.clone(), kind, table, rows, bytes: 0, until }
    }
}

/// An entry of the index: the sections' bytes follow one another.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    info: SectionInfo,
    /// The columns by which rows find their worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<usize>,
    /// The size before compression.
    plain: u64,
    /// It is not compressed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    raw: bool,
}

/// The bytes of an object of `sections`, compressed.
pub fn encode(sections: &[Section]) -> Result<Bytes> {
    Ok(write_sections(sections, false)?.bytes)
}

/// An object as it is written.
struct Written {
    bytes: Bytes,
    checksum: String,
    sections: Vec<SectionInfo>,
}

fn write_sections(sections: &[Section], raw: bool) -> Result<Written> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let mut index = Vec::with_capacity(sections.len());
    let mut packed = Vec::new();
    for section in sections {
        let batches = section.small()?;
        let size = batches.iter().map(|batch| batch.get_array_memory_size()).sum::<usize>();
        let raw = raw && size <= RAW_BYTES_MAX;
        let start = bytes.len();
        let plain = if raw {
            bytes.reserve(size + size / 8 + 4096);
            write_ipc(&batches, &mut bytes)?;
            bytes.len() - start
        } else {
            packed.clear();
            write_ipc(&batches, &mut packed)?;
            if !packed.is_empty() {
                zstd::stream::copy_encode(packed.as_slice(), &mut bytes, 1)
                    .map_err(|error| Error::internal(format!("a section cannot be compressed: {error}")))?;
            }
            packed.len()
        };
        let keys = match section {
            Section::State { table, .. } => table.keys.clone(),
            Section::Output { .. } => Vec::new(),
        };
        let info = SectionInfo { bytes: (bytes.len() - start) as u64, ..section.info() };
        index.push(Stored { info, keys, plain: plain as u64, raw });
    }
    let text = serde_json::to_vec(&index).map_err(|error| Error::internal(format!("an index: {error}")))?;
    let length = u32::try_from(text.len()).map_err(|_| Error::internal("an object has too many sections"))?;
    bytes.extend_from_slice(&text);
    bytes.extend_from_slice(&length.to_le_bytes());
    // one reading gives both checksums: that within, and that of all
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let sum = hasher.finalize();
    bytes.extend_from_slice(sum.as_bytes());
    hasher.update(sum.as_bytes());
    if bytes.len() as u64 > OBJECT_BYTES_MAX {
        return Err(Error::unavailable(
            "what a worker has learnt since the last checkpoint is too large for one object",
        )
        .help("take checkpoints more often, or use more workers"));
    }
    Ok(Written {
        bytes: bytes.into(),
        checksum: hasher.finalize().to_hex().to_string(),
        sections: index.into_iter().map(|stored| stored.info).collect(),
    })
}

/// Appends `batches` to `bytes`.
fn write_ipc(batches: &[Batch], bytes: &mut Vec<u8>) -> Result<()> {
    let Some(first) = batches.first() else { return Ok(()) };
    let mut writer = StreamWriter::try_new(bytes, &first.schema()).map_err(from_arrow)?;
    batches.iter().try_for_each(|batch| writer.write(batch)).map_err(from_arrow)?;
    writer.finish().map_err(from_arrow)
}

/// The sections of an object, in their order.
///
/// # Errors
/// `Corrupt` for bytes that [`encode`] has not made.
pub fn decode(bytes: &Bytes) -> Result<Vec<Section>> {
    let damaged = |what: &str| Error::corrupt(format!("it cannot be read: {what}"));
    if bytes.len() < HEAD + TAIL || !bytes.starts_with(MAGIC) {
        return Err(damaged("it is not an object of a checkpoint, or cut off"));
    }
    let (sealed, sum) = bytes.split_at(bytes.len() - blake3::OUT_LEN);
    if blake3::hash(sealed).as_bytes() != sum {
        return Err(Error::corrupt("its bytes are not those that were written: the checksum differs"));
    }
    decode_known(bytes)
}

/// The same for bytes that are known to be those that were written.
fn decode_known(bytes: &Bytes) -> Result<Vec<Section>> {
    let damaged = |what: &str| Error::corrupt(format!("it cannot be read: {what}"));
    if bytes.len() < HEAD + TAIL || !bytes.starts_with(MAGIC) {
        return Err(damaged("it is not an object of a checkpoint, or cut off"));
    }
    let sealed = &bytes[..bytes.len() - blake3::OUT_LEN];
    let number = |at: usize| {
        u32::from_le_bytes(sealed[at..at + 4].try_into().expect("the length was checked, and four bytes are taken"))
    };
    if !VERSIONS.contains(&number(8)) {
        return Err(damaged(&format!("it has version {}, and this program knows {VERSION}", number(8))));
    }
    let end = sealed.len() - 4;
    let start = end.checked_sub(number(end) as usize).filter(|start| *start >= HEAD);
    let start = start.ok_or_else(|| damaged("its index is longer than itself"))?;
    let index: Vec<Stored> =
        serde_json::from_slice(&sealed[start..end]).map_err(|error| damaged(&format!("its index: {error}")))?;
    let mut rest = &sealed[HEAD..start];
    let mut sections = Vec::with_capacity(index.len());
    for stored in index {
        let parts = usize::try_from(stored.info.bytes).ok().and_then(|length| rest.split_at_checked(length));
        let (packed, behind) = parts.ok_or_else(|| damaged("a section is cut off"))?;
        rest = behind;
        let place = format!("section \"{}\" of step \"{}\"", stored.info.table, stored.info.step);
        sections.push(section(stored, packed).map_err(|error| error.within(place))?);
    }
    match rest {
        [] => Ok(sections),
        _ => Err(damaged("it has more bytes than sections")),
    }
}

fn section(stored: Stored, packed: &[u8]) -> Result<Section> {
    let batches = batches(packed, &stored)?;
    let rows = batches.iter().fold(0_u64, |rows, batch| rows.saturating_add(batch.num_rows() as u64));
    if rows != stored.info.rows {
        return Err(Error::corrupt(format!("it has {rows} rows and should have {}", stored.info.rows)));
    }
    let SectionInfo { step, kind, table, until, .. } = stored.info;
    match kind {
        SectionKind::State => {
            let first = batches.first().ok_or_else(|| Error::corrupt("it has no rows, not even none"))?;
            let rows = match batches.as_slice() {
                [only] => only.clone(),
                several => concat_batches(&first.schema(), several).map_err(corrupt)?,
            };
            if stored.keys.iter().any(|key| *key >= rows.num_columns()) {
                return Err(Error::corrupt("a key is none of its columns"));
            }
            Ok(Section::State { step, table: Table { name: table, rows, keys: stored.keys, until } })
        }
        SectionKind::Output => {
            let shard = table.parse().map_err(|_| Error::corrupt("the shard is no number"))?;
            Ok(Section::Output { step, shard, records: batches })
        }
    }
}

fn batches(stored: &[u8], about: &Stored) -> Result<Vec<Batch>> {
    if stored.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = if about.raw {
        if about.plain != stored.len() as u64 {
            return Err(Error::corrupt(format!("it has {} bytes and should have {}", stored.len(), about.plain)));
        }
        // a copy of its own: a section that stays must not hold the whole object
        Buffer::from(stored)
    } else {
        unpacked(stored, about.plain)?.into()
    };
    // arrow's decoder looks at most that is wrong, and panics at the rest
    match catch_unwind(AssertUnwindSafe(|| read_ipc(bytes))) {
        Ok(read) => read.map_err(corrupt)?.iter().map(unpack).collect(),
        Err(_) => Err(Error::corrupt("its rows cannot be read")),
    }
}

fn unpacked(packed: &[u8], plain: u64) -> Result<Vec<u8>> {
    if plain > SECTION_BYTES_MAX {
        return Err(Error::corrupt(format!("it would have {plain} bytes, more than any section")));
    }
    let damaged = |error: std::io::Error| Error::corrupt(format!("it is not compressed as it should be: {error}"));
    let mut decoder = zstd::stream::Decoder::with_buffer(packed).map_err(damaged)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
    let mut bytes = Vec::new();
    // memory is taken as bytes come, not as the index promises
    decoder.take(plain + 1).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 != plain {
        return Err(Error::corrupt(format!("it has {} bytes or more and should have {plain}", bytes.len())));
    }
    Ok(bytes)
}

fn read_ipc(mut bytes: Buffer) -> Result<Vec<Batch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while let Some(batch) = decoder.decode(&mut bytes)? {
        batches.push(batch);
    }
    decoder.finish()?;
    Ok(batches)
}

fn corrupt(error: ArrowError) -> Error {
    Error::corrupt(format!("its rows cannot be read: {error}"))
}

/// Writes `sections` as the object `path`, which is ours alone.
pub fn write(
    store: &Store,
    path: &str,
    sections: &[Section],
    epoch: Epoch,
    generation: u64,
    groups: (usize, usize),
    base: bool,
) -> Result<ObjectRef> {
    let Written { bytes, checksum, sections } = write_sections(sections, store.is_local())?;
    let written = ObjectRef {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        blake3: checksum,
        epoch,
        generation,
        groups,
        base,
        sections,
    };
    store.put(path, bytes)?;
    Ok(written)
}

/// The sections of the object `known`.
///
/// # Errors
/// `Corrupt` if it is missing or not what was written.
pub fn read(store: &Store, known: &ObjectRef) -> Result<Vec<Section>> {
    decode_known(&bytes_of(store, known)?).map_err(|error| store.about(&known.path, error))
}

/// The bytes of the object `known`, checked.
pub(super) fn bytes_of(store: &Store, known: &ObjectRef) -> Result<Bytes> {
    checked(store, &known.path, known.bytes, &known.blake3)
}

/// The object `path`, which must have these bytes.
pub(super) fn checked(store: &Store, path: &str, size: u64, blake3: &str) -> Result<Bytes> {
    let bytes = store.get_within(path, OBJECT_BYTES_MAX)?;
    let bytes = bytes.ok_or_else(|| store.about(path, Error::corrupt("it is missing")))?;
    let wrong = if bytes.len() as u64 != size {
        format!("it has {} bytes and should have {size}", bytes.len())
    } else if checksum(&bytes) != blake3 {
        "its bytes are not those that were written: the checksum differs".to_owned()
    } else {
        return Ok(bytes);
    };
    Err(store.about(path, Error::corrupt(wrong)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::batch_of;
    use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, ListArray, StringArray, StringViewArray};
    use arrow::datatypes::{Int64Type, Schema};
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::sync::Arc;

    fn rows(from: i64) -> Batch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((from..from + 100).map(|n| (n % 7 > 0).then_some(n))));
        let words = (0..100).map(|n| format!("a word that is not short {n}"));
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(words.clone()));
        let bytes: ArrayRef = Arc::new(BinaryViewArray::from_iter_values(words.clone()));
        let words: ArrayRef = Arc::new(StringArray::from_iter_values(words));
        let list = (0..100).map(|n| Some((0..n % 3).map(Some).collect::<Vec<_>>()));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(list));
        let columns = [("n", numbers), ("v", views), ("b", bytes), ("w", words), ("l", lists)];
        Batch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    fn stored() -> Stored {
        Stored { info: sections()[0].info(), keys: Vec::new(), plain: 0, raw: false }
    }

    fn sections() -> Vec<Section> {
        let nothing = batch_of(Arc::new(Schema::empty()), Vec::new(), 3).unwrap();
        vec![
            Section::State { step: "count".into(), table: Table::new("groups", rows(0), vec![0, 3]) },
            Section::State { step: "count".into(), table: Table::new("none", rows(0).slice(0, 0), vec![]) },
            Section::State { step: "rows".into(), table: Table::new("three", nothing, vec![]) },
            Section::Output { step: "out".into(), shard: 3, records: vec![rows(1), rows(2).slice(10, 5)] },
            Section::Output { step: "out".into(), shard: 4, records: vec![] },
        ]
    }

    #[test]
    fn sections_come_back_in_order_with_their_schemas() {
        let back = decode(&encode(&sections()).unwrap()).unwrap();
        assert_eq!(back.len(), 5);
        for (one, other) in sections().iter().zip(&back) {
            assert_eq!(one.info(), other.info());
            assert_eq!(one.batches(), other.batches());
            if let (Section::State { table: one, .. }, Section::State { table: other, .. }) = (one, other) {
                assert_eq!(one.keys, other.keys);
            }
        }
    }

    #[test]
    fn a_slice_is_stored_without_the_rest() {
        let section = |rows: Batch| [Section::State { step: "s".into(), table: Table::new("t", rows, vec![]) }];
        let slice = encode(&section(rows(0).slice(0, 1))).unwrap().len();
        assert!(slice < 1500, "{slice} bytes");
    }

    /// Everything that a changed byte can hit is an error, also where the checksum was made to fit.
    #[test]
    fn hostile_bytes_are_an_error_and_never_a_panic() {
        let seed = StdRng::from_os_rng().random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let bytes = encode(&sections()).unwrap();
        let mut refused = 0;
        for round in 0..4000 {
            let mut changed = bytes[..bytes.len() - blake3::OUT_LEN].to_vec();
            match round % 3 {
                0 => changed.truncate(random.random_range(0..changed.len())),
                1 => {
                    let at = random.random_range(0..changed.len());
                    changed[at] = random.random();
                }
                _ => {
                    let at = random.random_range(0..changed.len());
                    let fill = random.random_range(0..64).min(changed.len() - at);
                    changed[at..at + fill].fill(random.random());
                }
            }
            let sum = blake3::hash(&changed);
            changed.extend_from_slice(sum.as_bytes());
            refused += usize::from(decode(&changed.into()).is_err());
        }
        assert!(refused > 2000, "{refused} of 4000 were refused");
        // and the rows themselves, before they are compressed
        let mut plain = Vec::new();
        write_ipc(&[pack(&rows(0)).unwrap()], &mut plain).unwrap();
        for _ in 0..4000 {
            let mut changed = plain.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..changed.len());
                changed[at] = random.random();
            }
            let packed = zstd::encode_all(changed.as_slice(), 1).unwrap();
            let plain = changed.len() as u64;
            let _ = batches(&packed, &Stored { plain, ..stored() });
            let _ = batches(&changed, &Stored { plain, raw: true, ..stored() });
        }
    }

    #[test]
    fn a_section_that_unpacks_to_more_than_it_says_is_refused() {
        let packed = zstd::encode_all([0; 1 << 20].as_slice(), 1).unwrap();
        for plain in [1000, u64::MAX] {
            assert!(batches(&packed, &Stored { plain, ..stored() }).is_err());
            assert!(batches(&packed, &Stored { plain, raw: true, ..stored() }).is_err());
        }
    }
}
