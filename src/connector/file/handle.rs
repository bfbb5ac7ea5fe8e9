//! Files that are open for reading, a bounded number of them whatever the number of splits.
//!
//! A [`Handle`] is a file by name. It is opened when bytes are asked for and stays open until too many others were, and when
//! it is opened again it must be the same file: one that was replaced meanwhile is no longer what is being read.

use crate::format::ReadAt;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::UNIX_EPOCH;

/// Open files of one worker and one source; the usual limit of a process is 1024.
const OPEN_MAX: usize = 128;

/// What is wrong with a file that is followed and is another one.
pub(crate) const REPLACED: &str = "another file was put in its place while it was followed";

/// The files that are open, the one used last at the end.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Mutex<VecDeque<(PathBuf, Arc<File>)>>);

impl OpenFiles {
    fn get(&self, path: &Path, opened: &OnceLock<Identity>) -> io::Result<Arc<File>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.iter().rposition(|(name, _)| name == path) {
            let found = open.remove(place).expect("the place was just found");
            let file = Arc::clone(&found.1);
            open.push_back(found);
            return Ok(file);
        }
        let file = Arc::new(File::open(path)?);
        let identity = Identity::of(&file.metadata()?);
        if *opened.get_or_init(|| identity) != identity {
            return Err(io::Error::other("it was replaced while it was read"));
        }
        if open.len() == OPEN_MAX {
            open.pop_front();
        }
        open.push_back((path.to_owned(), Arc::clone(&file)));
        Ok(file)
    }
}

/// What makes a file the same under its name: its number, and because numbers are used again, when it was made, in
/// nanoseconds since 1970, or 0 where that is not known. Not the device: it may have another number when it is mounted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(pub u64, pub u128);

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Identity(metadata.ino(), born.unwrap_or_default().as_nanos())
    }
}

/// A file that had `size` bytes when it was listed.
#[derive(Debug)]
pub(crate) struct Handle {
    path: PathBuf,
    size: u64,
    /// Which file it was when it was opened first.
    opened: OnceLock<Identity>,
    files: Arc<OpenFiles>,
}

impl Handle {
    pub fn new(path: &str, size: u64, files: &Arc<OpenFiles>) -> Self {
        Handle { path: path.into(), size, opened: OnceLock::new(), files: Arc::clone(files) }
    }

    /// The file that was `identity` when it was listed, to be followed from byte `position` on.
    pub fn followed(path: &str, identity: Identity, position: u64, files: &Arc<OpenFiles>) -> Self {
        Handle { opened: OnceLock::from(identity), ..Handle::new(path, position, files) }
    }
}

/// What has become of a file that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is as it was.
    Same,
    /// It has more bytes.
    Grown,
    /// There is none under its name.
    Gone,
}

impl Handle {
    /// Looks how long the file is now.
    ///
    /// # Errors
    /// If it is another file, or has lost bytes: what they were nobody knows.
    pub fn look(&mut self) -> io::Result<Look> {
        let metadata = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Gone),
            other => other?,
        };
        let identity = Identity::of(&metadata);
        if *self.opened.get_or_init(|| identity) != identity {
            return Err(io::Error::other(REPLACED));
        }
        let before = std::mem::replace(&mut self.size, metadata.len());
        match metadata.len().cmp(&before) {
            Ordering::Equal => Ok(Look::Same),
            Ordering::Greater => Ok(Look::Grown),
            Ordering::Less => {
                Err(io::Error::other(format!("it was followed for {before} bytes and has only {} now", metadata.len())))
            }
        }
    }
}

impl ReadAt for Handle {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.files.get(&self.path, &self.opened)?;
        file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::other(format!("it had {} bytes when reading began and has fewer now", self.size))
            }
            _ => error,
        })
    }
}
