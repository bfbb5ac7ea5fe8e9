//! Where checkpoints are: a directory, a bucket, or memory.
//!
//! Objects never change: a path is created once, or not at all. An answer that was lost is told from a rival by reading back what
//! is there. All calls block; what may pass by itself is tried again for about half a minute.

mod faults;
mod memory;
mod objects;

pub use faults::{Fault, Faults, Operation};

use crate::error::{Error, Result, nearest};
use crate::time::{Clock, Micros, SystemClock};
use bytes::Bytes;
use rand::rngs::{OsRng, StdRng};
use rand::{Rng, SeedableRng, TryRngCore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The largest object that is read: 4 GiB.
pub const OBJECT_BYTES_MAX: u64 = 4 << 30;

/// A place for objects, below `<location>/<pipeline>/`. Clones are the same place.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    /// Before each path, with a slash at its end; empty for the backend's own root.
    root: String,
    location: Arc<str>,
    patience: Patience,
}

/// How [`Store::create`] went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The bytes are there now, and they are ours.
    New,
    /// Someone else's bytes were there before.
    Existed(Bytes),
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the pipeline.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Micros,
}

/// How often something is tried that may pass by itself.
#[derive(Debug, Clone, Copy)]
struct Patience {
    tries: u32,
    first: Duration,
    longest: Duration,
}

impl Patience {
    /// About half a minute.
    const REMOTE: Patience =
        Patience { tries: 12, first: Duration::from_millis(50), longest: Duration::from_millis(5000) };
    /// What a file system refuses it refuses a moment later, too.
    const LOCAL: Patience =
        Patience { tries: 3, first: Duration::from_millis(20), longest: Duration::from_millis(100) };
    /// Nothing to wait for.
    const MEMORY: Patience = Patience { tries: 30, first: Duration::ZERO, longest: Duration::ZERO };

    /// Waits after try number `tried`, for a random part of twice as long as the last time.
    fn pause(&self, tried: u32) {
        if !self.first.is_zero() {
            let wait = (self.first * 2_u32.pow(tried.min(16))).min(self.longest);
            std::thread::sleep(wait.mul_f64(StdRng::from_os_rng().random_range(0.5..1.0)));
        }
    }
}

/// The four things that a store can do. Paths are whole and were checked.
trait Backend: Send + Sync {
    /// Creates `path`, or says [`Trouble::Exists`].
    fn create(&self, path: &str, bytes: Bytes) -> Result<(), Trouble>;
    /// Reads at most `bytes_max`.
    fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, Trouble>;
    /// What is below the folder `path`, in any order.
    fn list(&self, path: &str) -> Result<Vec<Entry>, Trouble>;
    /// Deletes; missing is fine.
    fn delete(&self, path: &str) -> Result<(), Trouble>;
    /// The names of the folders in the folder `path`.
    fn folders(&self, path: &str) -> Result<Vec<String>, Trouble>;
    /// True for a directory of this machine.
    fn is_local(&self) -> bool {
        false
    }
}

/// Why a backend did not do it.
#[derive(Debug)]
enum Trouble {
    /// Something is there already; or the store could not decide between two who tried at once.
    Exists,
    /// It may go better in a moment, and it may have been done.
    Passing(Error),
    /// It will go wrong again.
    Lasting(Error),
}

const SCHEMES: [&str; 4] = ["file", "s3", "gs", "az"];

impl Store {
    /// The store of `pipeline` at `location`: a directory, which is created, or a URL that begins with `file://`, `s3://`, `gs://`
    /// or `az://`. Credentials come from the environment: `AWS_…`, `GOOGLE_…`, `AZURE_…`.
    ///
    /// # Errors
    /// `Invalid` for a location that is none, or a name outside `[A-Za-z0-9_-]{1,64}`; `Unavailable` if the directory cannot be created.
    pub fn open(location: &str, pipeline: &str) -> Result<Store> {
        check_name("pipeline", pipeline)?;
        Ok(Store::at(location, true)?.below(pipeline))
    }

    /// The same, of what is there: no directory is created.
    ///
    /// # Errors
    /// As [`Store::open`]; `Invalid` if the directory does not exist.
    pub fn existing(location: &str, pipeline: &str) -> Result<Store> {
        check_name("pipeline", pipeline)?;
        Ok(Store::at(location, false)?.below(pipeline))
    }

    /// A store in memory.
    pub fn in_memory(pipeline: &str) -> Store {
        Store::in_memory_by(pipeline, Arc::new(SystemClock::default()))
    }

    /// A store in memory whose objects are written when `clock` says.
    pub fn in_memory_by(pipeline: &str, clock: Arc<dyn Clock>) -> Store {
        let backend = Arc::new(memory::Memory::new(clock));
        let all = Store { backend, root: String::new(), location: "memory".into(), patience: Patience::MEMORY };
        all.below(pipeline)
    }

    /// `inner`, but each operation may go wrong as `faults` says.
    pub fn faulty(inner: Store, faults: Arc<dyn Faults>) -> Store {
        let backend = Arc::new(faults::Faulty { inner: Arc::clone(&inner.backend), faults, root: inner.root.clone() });
        Store { backend, ..inner }
    }

    /// Whatever is at `location`; a directory that is not there is created or refused.
    pub(super) fn at(location: &str, create: bool) -> Result<Store> {
        let place = || format!("checkpoint store '{location}'");
        let (backend, patience): (Arc<dyn Backend>, _) = match parse(location).map_err(|e| e.within(place()))? {
            Location::Directory(path) => {
                (Arc::new(objects::local(&path, create).map_err(|e| e.within(place()))?), Patience::LOCAL)
            }
            Location::Bucket { scheme, bucket, prefix } => {
                (Arc::new(objects::bucket(scheme, bucket, prefix).map_err(|e| e.within(place()))?), Patience::REMOTE)
            }
        };
        Ok(Store { backend, root: String::new(), location: location.trim_end_matches('/').into(), patience })
    }

    /// What is in the folder `folder` of it, as a store of its own.
    pub(super) fn below(&self, folder: &str) -> Store {
        Store {
            root: format!("{}{folder}/", self.root),
            location: format!("{}/{folder}", self.location).into(),
            ..self.clone()
        }
    }

    /// True for a directory of this machine.
    pub fn is_local(&self) -> bool {
        self.backend.is_local()
    }

    /// Where it is, for people: the pipeline's folder included.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Creates `path` with `bytes`, or gives what someone else has put there.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer: whether the object is there is not known then.
    pub fn create(&self, path: &str, bytes: Bytes) -> Result<Created> {
        self.patiently("create", path, |whole| match self.backend.create(whole, bytes.clone()) {
            Ok(()) => Ok(Created::New),
            Err(Trouble::Exists) => match self.backend.get(whole, OBJECT_BYTES_MAX)? {
                Some(there) if there == bytes => Ok(Created::New),
                Some(there) => Ok(Created::Existed(there)),
                // the store could not decide, or it was deleted at once
                None => {
                    Err(Trouble::Passing(Error::unavailable("the store says that it is there, and that it is not")))
                }
            },
            Err(other) => Err(other),
        })
    }

    /// Creates an object whose name is ours alone.
    ///
    /// # Errors
    /// `Internal` if something else is there; otherwise as [`Store::create`].
    pub fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        match self.create(path, bytes)? {
            Created::New => Ok(()),
            Created::Existed(_) => Err(self.about(path, Error::internal("something else has this name already"))),
        }
    }

    /// The bytes of `path`, or none if it is not there.
    pub fn get(&self, path: &str) -> Result<Option<Bytes>> {
        self.get_within(path, OBJECT_BYTES_MAX)
    }

    /// The same for what has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// `Corrupt` if it has more.
    pub fn get_within(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>> {
        self.patiently("read", path, |whole| self.backend.get(whole, bytes_max))
    }

    /// What is in the folder `prefix` and those in it, by path; of the whole pipeline if it is empty.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let folder = prefix.trim_end_matches('/');
        let mut entries = if folder.is_empty() {
            let root = self.root.trim_end_matches('/');
            self.trying("list", "", || self.backend.list(root))?
        } else {
            self.patiently("list", folder, |whole| self.backend.list(whole))?
        };
        for entry in &mut entries {
            entry.path = entry.path.strip_prefix(&self.root).unwrap_or(&entry.path).to_owned();
        }
        // what we would never write is not ours to see
        entries.retain(|entry| check_path(&entry.path).is_ok());
        entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// Deletes `path`; missing is fine.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.patiently("delete", path, |whole| self.backend.delete(whole))
    }

    /// The names of the folders in the folder `path`, sorted.
    pub(super) fn folders(&self, path: &str) -> Result<Vec<String>> {
        let whole = format!("{}{path}", self.root);
        let mut names = self.trying("list", path, || self.backend.folders(whole.trim_end_matches('/')))?;
        names.sort_unstable();
        Ok(names)
    }

    fn patiently<T>(&self, what: &str, path: &str, call: impl Fn(&str) -> Result<T, Trouble>) -> Result<T> {
        check_path(path).map_err(|error| self.about(path, error))?;
        let whole = format!("{}{path}", self.root);
        self.trying(what, path, || call(&whole))
    }

    fn trying<T>(&self, what: &str, path: &str, call: impl Fn() -> Result<T, Trouble>) -> Result<T> {
        let mut tried = 0;
        loop {
            let error = match call() {
                Ok(done) => return Ok(done),
                Err(Trouble::Passing(error)) => error,
                Err(Trouble::Lasting(error)) => return Err(self.about(path, error)),
                Err(Trouble::Exists) => Error::internal(format!("to {what} answered that something exists")),
            };
            tried += 1;
            if tried >= self.patience.tries {
                return Err(self.about(path, error));
            }
            self.patience.pause(tried - 1);
        }
    }

    /// `error` with the object and the store as its place.
    pub(super) fn about(&self, path: &str, error: Error) -> Error {
        let place = match path {
            "" => format!("checkpoint store '{}'", self.location),
            path => format!("checkpoint store '{}', \"{path}\"", self.location),
        };
        error.within(place)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.location).finish()
    }
}

/// The pipelines that have something at `location`.
pub fn pipelines(location: &str) -> Result<Vec<String>> {
    Store::at(location, false)?.folders("")
}

enum Location<'a> {
    Directory(PathBuf),
    Bucket { scheme: &'static str, bucket: &'a str, prefix: &'a str },
}

fn parse(location: &str) -> Result<Location<'_>> {
    if location.is_empty() {
        return Err(Error::invalid("it is empty").help("name a directory, or a URL such as s3://bucket/prefix"));
    }
    let Some((scheme, rest)) = location.split_once("://") else {
        // `s3:/bucket` would become a directory of that name
        let slip = location.split_once(':').and_then(|(scheme, rest)| Some((scheme, rest.strip_prefix('/')?)));
        return match slip.filter(|(scheme, _)| SCHEMES.contains(scheme)) {
            Some((scheme, rest)) => Err(Error::invalid("this is neither a directory nor a URL")
                .help(format!("did you mean '{scheme}://{}'?", rest.trim_start_matches('/')))),
            None => Ok(Location::Directory(Path::new(location).to_owned())),
        };
    };
    let scheme = match scheme {
        "file" if rest.starts_with('/') => return Ok(Location::Directory(Path::new(rest).to_owned())),
        "file" => {
            return Err(Error::invalid("a file URL names no host")
                .help(format!("for a directory of this machine write 'file:///{rest}' or its path")));
        }
        "s3" | "s3a" => "s3",
        "gs" => "gs",
        "az" | "azure" | "abfs" | "abfss" => "az",
        other => {
            let error = Error::invalid(format!("'{other}://' is not known"));
            return Err(match nearest(other, SCHEMES) {
                Some(near) => error.help(format!("did you mean '{near}://{rest}'?")),
                None => error.help("name a directory, or a URL that begins with file://, s3://, gs:// or az://"),
            });
        }
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    if bucket.is_empty() {
        return Err(Error::invalid("it names no bucket").help(format!("write {scheme}://bucket/prefix")));
    }
    if let Some(text) = bucket
        .contains(['?', '#', '@'])
        .then_some(bucket)
        .or_else(|| prefix.split('/').find(|part| !part.is_empty() && !good_segment(part)))
    {
        return Err(Error::invalid(format!("'{text}' cannot stand in it"))
            .help("use letters, digits, '-', '_', '.' and '=' only; credentials come from the environment"));
    }
    Ok(Location::Bucket { scheme, bucket, prefix })
}

fn good_segment(segment: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '=' | '-');
    !matches!(segment, "" | "." | "..") && segment.len() <= 200 && segment.chars().all(good)
}

/// That `path` leads below the pipeline: segments of `[A-Za-z0-9_.=-]`, none of them `.` or `..`.
pub(super) fn check_path(path: &str) -> Result<()> {
    match path.len() <= 1000 && path.split('/').all(good_segment) {
        true => Ok(()),
        false => Err(Error::corrupt("this is not a path in a checkpoint store")),
    }
}

/// That `name` is one of `[A-Za-z0-9_-]{1,64}`.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    match is_name(name) {
        true => Ok(()),
        false => Err(Error::invalid(format!("'{name}' is not a name for a {what}"))
            .help("a name has up to 64 letters, digits, '-' and '_'")),
    }
}

/// True for `[A-Za-z0-9_-]{1,64}`.
pub(super) fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(good)
}

/// 16 hex digits that nobody had before.
pub(super) fn nonce() -> Result<String> {
    let mut bytes = [0; 8];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| Error::unavailable(format!("no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(location: &str) -> String {
        let error = Store::open(location, "orders").expect_err(location);
        format!("{error} ({})", error.advice().unwrap_or_default())
    }

    #[test]
    fn a_wrong_location_is_told_what_is_meant() {
        assert!(refused("s4://bucket/here").contains("did you mean 's3://bucket/here'?"));
        assert!(refused("s3:/bucket/here").contains("did you mean 's3://bucket/here'?"));
        assert!(refused("file://host/here").contains("'file:///host/here'"));
        assert!(refused("hdfs://name/here").contains("s3://, gs:// or az://"));
        assert!(refused("s3:///here").contains("names no bucket"));
        assert!(refused("s3://key:secret@bucket/here").contains("credentials come from the environment"));
        assert!(refused("gs://bucket/../here").contains("'..' cannot stand in it"));
        assert!(refused("").contains("it is empty"));
    }

    #[test]
    fn a_bucket_is_opened_without_asking_it() {
        let store = Store::open("s3://bucket/some/prefix", "orders").unwrap();
        assert_eq!(store.location(), "s3://bucket/some/prefix/orders");
        assert!(!store.is_local());
    }

    #[test]
    fn only_paths_below_the_pipeline_are_taken() {
        let store = Store::in_memory("orders");
        for path in ["../other/log", "/etc/passwd", "a//b", "", "a/./b", "a b", "a/\u{e9}", "a\\b", "a/b/"] {
            assert_eq!(store.get(path).expect_err(path).kind(), crate::error::ErrorKind::Corrupt);
        }
        assert!(store.get("g1/e2/worker-0.a=b").unwrap().is_none());
        assert!(Store::open("/nowhere", "a/b").is_err());
    }
}
