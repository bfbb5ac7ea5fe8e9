//! The files of one partition: its batches, one after another, as the log keeps them.
//!
//! A directory holds files named by the offset that they begin with. Only the newest is written; a file goes when
//! the log no longer keeps any of its batches. The newest always stays, even empty, because it says where the log ends.
//!
//! A write that a kill cut short leaves a torn batch at the end of the newest file; it was never acknowledged, and
//! opening cuts it off. Anything else that is not a batch with the expected offset is damage, and is refused.

use super::batch::{self, Header};
use super::sync_dir;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXTENSION: &str = "log";

pub struct Segments {
    dir: PathBuf,
    /// The offsets that the files begin with, in order; never empty.
    bases: VecDeque<i64>,
    newest_bytes: u64,
    /// Opened by the first write, so that an idle partition costs no file descriptor.
    newest: Option<File>,
    fsync: bool,
}

impl Segments {
    /// Opens `dir`, or makes it, and hands every batch to `on_batch` in order. Also gives the offset after the last.
    pub fn open(dir: PathBuf, fsync: bool, mut on_batch: impl FnMut(&Header, &[u8])) -> Result<(Segments, i64)> {
        let failed = |error: io::Error| {
            Error::unavailable(format!("cannot read: {error}")).within(format!("directory {:?}", dir.display()))
        };
        let mut bases = stored_bases(&dir).map_err(failed)?;
        if bases.is_empty() {
            bases.push_back(0);
            make(&dir, fsync).map_err(failed)?;
        }
        let (mut end, mut newest_bytes) = (bases[0], 0);
        for (index, base) in bases.iter().enumerate() {
            let path = path(&dir, *base);
            if *base != end {
                return Err(damaged(&path, 0));
            }
            let bytes = fs::read(&path).map_err(failed)?;
            let mut rest = &bytes[..];
            while let Ok((header, batch, after)) = batch::split_first(rest)
                && header.base_offset == end
            {
                on_batch(&header, batch);
                end += header.offsets;
                rest = after;
            }
            newest_bytes = (bytes.len() - rest.len()) as u64;
            if rest.is_empty() {
                continue;
            }
            if index + 1 < bases.len() {
                return Err(damaged(&path, newest_bytes));
            }
            tracing::warn!("{}: cut {} bytes of a write that was not finished", path.display(), rest.len());
            File::options().write(true).open(&path).and_then(|file| file.set_len(newest_bytes)).map_err(failed)?;
        }
        Ok((Segments { dir, bases, newest_bytes, newest: None, fsync }, end))
    }

    /// Writes a batch at the log's end. A file that holds `roll_bytes` is followed by a new one.
    pub fn append(&mut self, base_offset: i64, batch: &[u8], roll_bytes: u64) -> io::Result<()> {
        if self.newest_bytes >= roll_bytes && self.bases.back() != Some(&base_offset) {
            let file = File::options().append(true).create_new(true).open(path(&self.dir, base_offset))?;
            if self.fsync {
                sync_dir(&self.dir)?;
            }
            self.newest = Some(file);
            self.newest_bytes = 0;
            self.bases.push_back(base_offset);
        }
        let file = match &mut self.newest {
            Some(file) => file,
            closed => {
                let base = *self.bases.back().expect("the newest file always stays");
                closed.insert(File::options().append(true).open(path(&self.dir, base))?)
            }
        };
        let written = file.write_all(batch).and_then(|()| if self.fsync { file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => self.newest_bytes += batch.len() as u64,
            // What did reach the file must not stand between this batch and the next.
            Err(_) => file.set_len(self.newest_bytes)?,
        }
        written
    }

    /// Removes the files whose batches all lie before `start`.
    pub fn forget_before(&mut self, start: i64) {
        while self.bases.get(1).is_some_and(|next| *next <= start) {
            let base = self.bases.pop_front().expect("there are two");
            let path = path(&self.dir, base);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!("{}: cannot remove: {error}", path.display());
            }
        }
    }
}

fn path(dir: &Path, base: i64) -> PathBuf {
    dir.join(format!("{base:020}.{EXTENSION}"))
}

/// Makes the directory with an empty file for what begins at offset 0.
fn make(dir: &Path, fsync: bool) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    File::create(path(dir, 0))?;
    match dir.parent() {
        Some(parent) if fsync => sync_dir(dir).and_then(|()| sync_dir(parent)),
        _ => Ok(()),
    }
}

fn stored_bases(dir: &Path) -> io::Result<VecDeque<i64>> {
    if !dir.exists() {
        return Ok(VecDeque::new());
    }
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION)
            && let Some(base) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    Ok(bases.into())
}

fn damaged(path: &Path, at: u64) -> Error {
    Error::data(format!("no record batch at byte {at}, and this is not the end of the log"))
        .within(format!("file {:?}", path.display()))
        .help("the development broker cannot repair its files: start it with another directory, or remove this one")
}
