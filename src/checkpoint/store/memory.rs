//! Objects in memory, for tests and simulation.

use super::{Backend, Entry, Trouble};
use crate::error::Error;
use crate::time::{Clock, Micros};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A map of paths.
pub struct Memory {
    objects: Mutex<BTreeMap<String, (Bytes, Micros)>>,
    clock: Arc<dyn Clock>,
}

impl Memory {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Memory { objects: Mutex::default(), clock }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, Micros)>> {
        // no call leaves the map half changed
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is behind `folder` in `path`, if `path` is in it.
fn inside<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    match folder {
        "" => Some(path),
        folder => path.strip_prefix(folder)?.strip_prefix('/'),
    }
}

impl Backend for Memory {
    fn create(&self, path: &str, bytes: Bytes) -> Result<(), Trouble> {
        let mut objects = self.objects();
        if objects.contains_key(path) {
            return Err(Trouble::Exists);
        }
        objects.insert(path.to_owned(), (bytes, self.clock.wall()));
        Ok(())
    }

    fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, Trouble> {
        match self.objects().get(path) {
            Some((bytes, _)) if bytes.len() as u64 > bytes_max => Err(too_large(bytes.len() as u64, bytes_max)),
            found => Ok(found.map(|(bytes, _)| bytes.clone())),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, Trouble> {
        let objects = self.objects();
        let found = objects.iter().filter(|(name, _)| inside(name, path).is_some());
        let entry = |(name, (bytes, modified)): (&String, &(Bytes, Micros))| Entry {
            path: name.clone(),
            bytes: bytes.len() as u64,
            modified: *modified,
        };
        Ok(found.map(entry).collect())
    }

    fn delete(&self, path: &str) -> Result<(), Trouble> {
        self.objects().remove(path);
        Ok(())
    }

    fn folders(&self, path: &str) -> Result<Vec<String>, Trouble> {
        let objects = self.objects();
        let names = objects.keys().filter_map(|name| Some(inside(name, path)?.split_once('/')?.0));
        Ok(names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect())
    }
}

/// That an object has more bytes than anything of its kind.
pub fn too_large(bytes: u64, bytes_max: u64) -> Trouble {
    Trouble::Lasting(Error::corrupt(format!("it has {bytes} bytes; nothing of its kind has more than {bytes_max}")))
}
