//! What a checkpoint is made of: objects, positions, watermarks, and how far sinks have come.

use super::object::{ObjectRef, checked};
use super::seal::{checksum, seal, unseal};
use super::store::Store;
use crate::connector::SplitStart;
use crate::error::{Error, Result};
use crate::time::{Epoch, Micros, Watermark};
use serde::{Deserialize, Serialize};

/// The version that this program writes and reads.
pub const VERSION: u32 = 1;

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of its form: [`VERSION`].
    pub version: u32,
    /// The generation that took it.
    pub generation: u64,
    /// The last epoch whose rows are in it.
    pub epoch: Epoch,
    /// How many workers that generation had.
    pub workers: u32,
    /// The plan's fingerprint, in hex digits.
    pub fingerprint: String,
    /// The steps that have a state or a watermark.
    pub steps: Vec<StepState>,
    /// Where the sources stood.
    pub sources: Vec<SourceState>,
    /// How far the sinks that publish had come, as far as was known.
    pub sinks: Vec<SinkState>,
    /// The state, in the order in which it is to be restored.
    pub state: Vec<ObjectRef>,
    /// The objects whose records are not all published; some may be in `state`, too.
    pub outputs: Vec<ObjectRef>,
    /// When it was taken, by the wall clock.
    pub created: Micros,
}

/// A step with something to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// Its name in the plan.
    pub name: String,
    /// What decides whether another plan's step of this name can take its state, in hex digits.
    pub identity: String,
    /// How far event time had come.
    pub watermark: Watermark,
}

/// A source that had been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Its table.
    pub table: String,
    /// Its splits, by number.
    pub splits: Vec<SplitState>,
}

/// A split that had been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitState {
    /// Its place in the order of its source's splits.
    pub number: u32,
    /// Where to go on with it.
    pub start: SplitStart,
    /// Its promise about event time.
    pub watermark: Watermark,
    /// Whether it was left out of the source's watermark.
    pub idle: bool,
}

/// A sink that publishes what checkpoints have committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkState {
    /// Its step.
    pub step: String,
    /// Its table.
    pub table: String,
    /// By shard: the last checkpoint with records of it that was published, whole.
    pub shards: Vec<Option<Epoch>>,
}

/// Where a manifest is and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRef {
    /// Its path below the pipeline.
    pub path: String,
    /// Its checksum, in 64 hex digits.
    pub blake3: String,
    /// Its size.
    pub bytes: u64,
}

impl Manifest {
    /// Writes it for a record of the log to name.
    pub fn write(&self, store: &Store) -> Result<ManifestRef> {
        let bytes = seal(self)?;
        let blake3 = checksum(&bytes);
        // one whose record could not be appended may be written again and say something else
        let path = format!("g{}/e{}/manifest-{}.json", self.generation, self.epoch, &blake3[..16]);
        let written = ManifestRef { path, blake3, bytes: bytes.len() as u64 };
        store.put(&written.path, bytes)?;
        Ok(written)
    }

    /// Reads the one that a record of the log names.
    ///
    /// # Errors
    /// `Corrupt` if it is missing or not what was written.
    pub fn read(store: &Store, known: &ManifestRef) -> Result<Manifest> {
        let bytes = checked(store, &known.path, known.bytes, &known.blake3)?;
        Manifest::parse(&bytes).map_err(|error| store.about(&known.path, error))
    }

    /// The manifest that `bytes` hold.
    pub(super) fn parse(bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = unseal(bytes)?;
        match manifest.version {
            VERSION => Ok(manifest),
            other => Err(Error::corrupt(format!("it has version {other}, and this program knows {VERSION}"))),
        }
    }
}
