//! The file of facts: written before a fact is acted on, read when the broker starts.
//!
//! ```text
//!   "hwbroker1"  then for each fact: its length (u32), its CRC-32C (u32), its bytes   (big endian)
//! ```
//!
//! A write that a kill cut short is cut off when the file is opened. A fact that is whole and says what cannot be is damage, or of
//! a newer version, and refused: cutting it off would forget all that comes after it. A file that is much longer than a summary of what
//! is known is replaced by that summary, so it grows with what there is to know and not with time.

use super::fact::{Fact, Known};
use super::sync_dir;
use super::wire::{Hangup, Read};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"hwbroker1";
const FILE: &str = "ledger";
/// Files below this are not worth replacing.
const REPLACE_BYTES_MIN: u64 = 1 << 20;
/// A file is replaced when it has grown to this multiple of its last summary.
const REPLACE_GROWTH: u64 = 4;

pub struct Ledger {
    path: PathBuf,
    file: File,
    bytes: u64,
    summary_bytes: u64,
    fsync: bool,
}

impl Ledger {
    /// Opens the ledger in `dir`, or begins one, and gives what is known from it.
    pub fn open(dir: &Path, fsync: bool) -> Result<(Ledger, Known)> {
        let path = dir.join(FILE);
        let place = format!("file {:?}", path.display());
        let failed = |error: io::Error| Error::unavailable(format!("cannot open: {error}")).within(place.clone());
        if !path.exists() {
            replace(&path, &Known::default()).map_err(failed)?;
        }
        let stored = fs::read(&path).map_err(failed)?;
        let Some(facts) = stored.strip_prefix(MAGIC) else {
            return Err(Error::data("this is not a development broker's ledger").within(place));
        };
        let mut known = Known::default();
        let mut rest = facts;
        while let Some((fact, after)) = split_first(rest) {
            known.apply(fact.map_err(|Hangup(why)| {
                let at = stored.len() - rest.len();
                Error::data(format!("the fact at byte {at} cannot be read: {why}"))
                    .help("start the development broker with another directory, or remove this one")
                    .within(place.clone())
            })?);
            rest = after;
        }
        let file = File::options().append(true).open(&path).map_err(failed)?;
        let bytes = (stored.len() - rest.len()) as u64;
        if !rest.is_empty() {
            tracing::warn!("{}: cut {} bytes of a write that was not finished", path.display(), rest.len());
            file.set_len(bytes).map_err(failed)?;
        }
        Ok((Ledger { path, file, bytes, summary_bytes: bytes, fsync }, known))
    }

    pub fn append(&mut self, fact: &Fact) -> io::Result<()> {
        let entry = entry(fact);
        let written =
            self.file.write_all(&entry).and_then(|()| if self.fsync { self.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => self.bytes += entry.len() as u64,
            // What did reach the file must not stand between this fact and the next.
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }

    /// Replaces the file by a summary of `known` if it has grown much longer than that.
    pub fn shorten(&mut self, known: &Known) -> io::Result<()> {
        if self.bytes < REPLACE_BYTES_MIN.max(REPLACE_GROWTH * self.summary_bytes) {
            return Ok(());
        }
        (self.file, self.bytes) = replace(&self.path, known)?;
        self.summary_bytes = self.bytes;
        Ok(())
    }
}

/// Writes a summary of `known` beside `path` and renames it: a kill leaves the old file or the new one, whole.
fn replace(path: &Path, known: &Known) -> io::Result<(File, u64)> {
    let fresh = path.with_extension("new");
    let mut bytes = MAGIC.to_vec();
    known.facts().iter().for_each(|fact| bytes.extend(entry(fact)));
    fs::write(&fresh, &bytes)?;
    let file = File::options().append(true).open(&fresh)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok((file, bytes.len() as u64))
}

fn entry(fact: &Fact) -> Vec<u8> {
    let bytes = fact.to_bytes();
    [&(bytes.len() as u32).to_be_bytes()[..], &crc32c::crc32c(&bytes).to_be_bytes(), &bytes].concat()
}

/// The first fact, if it is whole.
fn split_first(bytes: &[u8]) -> Option<(Read<Fact>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let (fact, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let is_whole = !fact.is_empty() && crc32c::crc32c(fact) == u32::from_be_bytes(*checksum);
    is_whole.then(|| (Fact::from_bytes(fact), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_fact_that_cannot_be_is_refused_and_not_cut_off() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        for partitions in [-1, i32::MAX] {
            let stored = [MAGIC, &entry(&Fact::Topic { name: "t".into(), id: 1, partitions })].concat();
            fs::write(&path, &stored).expect("writable");
            let error = Ledger::open(dir.path(), false).err().expect("it is refused").to_string();
            assert!(error.contains("the fact at byte 9 cannot be read: no topic has so many partitions"), "{error}");
            assert_eq!(fs::read(&path).expect("readable"), stored);
        }
    }

    #[test]
    fn a_torn_tail_is_cut_at_any_byte_and_the_file_stays_short() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        let topic = |id| Fact::Topic { name: format!("t{id}"), id, partitions: 1 };
        let (mut ledger, _) = Ledger::open(dir.path(), false).expect("a new ledger");
        ledger.append(&topic(1)).expect("written");
        let whole = fs::read(&path).expect("readable").len();
        ledger.append(&topic(2)).expect("written");
        let bytes = fs::read(&path).expect("readable");
        for length in whole..bytes.len() {
            fs::write(&path, &bytes[..length]).expect("writable");
            let (_, known) = Ledger::open(dir.path(), false).expect("the tail is cut");
            assert_eq!(known.topics.len(), 1);
            assert_eq!(fs::metadata(&path).expect("it is there").len(), whole as u64);
        }
        let (mut ledger, mut known) = Ledger::open(dir.path(), false).expect("it opens");
        for _ in 0..100_000 {
            ledger.append(&topic(1)).expect("written");
            known.apply(topic(1));
            ledger.shorten(&known).expect("replaced");
        }
        assert!(fs::metadata(&path).expect("it is there").len() <= REPLACE_BYTES_MIN);
        assert_eq!(Ledger::open(dir.path(), false).expect("it opens").1, known);
    }
}
