//! The pipeline's log: numbered records, each created once, and what follows from their order.
//!
//! To append is to read to the end and to create the next number; who finds it taken reads what is there and tries the number behind it.
//! A record of an older generation behind a `Start` of a newer one does not come to be, so who was replaced cannot commit.
//!
//! Old records are deleted by [`sweep`](super::sweep). Which numbers may be missing is written down first, in the *boundary*: records
//! up to it count only if it names them. Whoever wakes up late and creates a deleted number again finds itself below the boundary: its
//! record counts for nothing.
//!
//! A record is sealed JSON (see [`seal`](super::seal)) with its number and a nonce, by which an own record is known again after an answer
//! was lost.

use super::manifest::ManifestRef;
use super::seal::{checksum, seal, unseal};
use super::store::{Created, Store, nonce};
use crate::error::{Error, ErrorKind, Result};
use crate::time::{Epoch, Micros, SplitReport, Watermark};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The largest record: 64 MiB, of which bindings take the most.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Something that has happened to the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A generation has begun; the ones before it have ended, whether they know or not.
    Start {
        /// 16 hex digits, made for the pipeline's first start: what tells it from another of the same name.
        incarnation: String,
        /// Its number: one more than the last.
        generation: u64,
        /// How many workers it has.
        workers: u32,
        /// The plan's fingerprint, in hex digits.
        fingerprint: String,
        /// The checkpoint that it begins with.
        restores: Option<Epoch>,
        /// The program's version.
        version: String,
    },
    /// A checkpoint is complete.
    Checkpoint {
        /// The generation that took it.
        generation: u64,
        /// The last epoch in it.
        epoch: Epoch,
        /// The path of its manifest.
        manifest: String,
        /// The manifest's checksum.
        blake3: String,
        /// The manifest's size.
        bytes: u64,
        /// The input has ended: nothing is left to do.
        ended: bool,
        /// The pipeline was stopped with it.
        stopped: bool,
        /// What was bound to the epochs since the last checkpoint.
        bindings: Vec<Binding>,
    },
    /// A checkpoint was copied to stay.
    Savepoint {
        /// Its name.
        name: String,
        /// The checkpoint.
        epoch: Epoch,
        /// Its folder below the pipeline.
        path: String,
    },
    /// A savepoint was removed; its name is free again.
    RemoveSavepoint {
        /// Its name.
        name: String,
    },
    /// A generation has ended by itself.
    Stop {
        /// The generation.
        generation: u64,
        /// Why, for people.
        how: String,
    },
    /// A person has decided that a row is left out.
    SkipRow {
        /// The table.
        table: String,
        /// The split.
        split: String,
        /// Its position in the split.
        position: u64,
        /// Why.
        reason: String,
    },
}

/// What was bound to an epoch: all that is needed to read the same rows again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The epoch.
    pub epoch: Epoch,
    /// What the clock said.
    pub wall: Micros,
    /// Where its sources ended.
    pub sources: Vec<SourceBinding>,
}

/// Where a source's splits ended in an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBinding {
    /// The source's table.
    pub source: String,
    /// The watermark that holds when all of its splits are idle.
    pub when_all_idle: Watermark,
    /// Those of its splits that stand elsewhere than at the end of the epoch before.
    pub splits: Vec<SplitReport>,
}

/// A record of the log that says that a checkpoint is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed<'a> {
    /// The record's number.
    pub number: u64,
    /// The generation that took it.
    pub generation: u64,
    /// The last epoch in it.
    pub epoch: Epoch,
    /// The path of its manifest.
    pub manifest: &'a str,
    /// The manifest's checksum.
    pub blake3: &'a str,
    /// The manifest's size.
    pub bytes: u64,
    /// The input has ended.
    pub ended: bool,
    /// The pipeline was stopped with it.
    pub stopped: bool,
    /// What was bound to the epochs since the checkpoint before.
    pub bindings: &'a [Binding],
}

impl Committed<'_> {
    /// The manifest, for [`Manifest::read`](super::manifest::Manifest::read).
    pub fn manifest_ref(&self) -> ManifestRef {
        ManifestRef { path: self.manifest.to_owned(), blake3: self.blake3.to_owned(), bytes: self.bytes }
    }
}

impl<'a> Committed<'a> {
    fn of((number, record): &'a (u64, Record)) -> Option<Self> {
        let Record::Checkpoint { generation, epoch, manifest, blake3, bytes, ended, stopped, bindings } = record else {
            return None;
        };
        Some(Committed {
            number: *number,
            generation: *generation,
            epoch: *epoch,
            manifest,
            blake3,
            bytes: *bytes,
            ended: *ended,
            stopped: *stopped,
            bindings,
        })
    }
}

/// A record as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    number: u64,
    nonce: String,
    record: Record,
}

/// Up to where records may be gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boundary {
    /// The last number that may be gone; 0: none.
    pub(super) number: u64,
    /// Those up to it that count, each with the checksum of its bytes.
    pub(super) kept: Vec<(u64, String)>,
}

/// An append whose answer did not come: it may be in the log.
#[derive(Debug)]
struct Unsure {
    nonce: String,
    record: Record,
}

/// The records of a pipeline, as far as they were read.
#[derive(Debug)]
pub struct Log {
    store: Store,
    records: Vec<(u64, Record)>,
    /// By record: its nonce and the checksum of its bytes.
    marks: Vec<(String, String)>,
    boundary: Boundary,
    next: u64,
    unsure: Option<Unsure>,
}

impl Log {
    /// Reads all records that are kept.
    ///
    /// # Errors
    /// `Corrupt` if one of them is missing or is not what was written.
    pub fn read(store: &Store) -> Result<Log> {
        let mut log = Log {
            store: store.clone(),
            records: Vec::new(),
            marks: Vec::new(),
            boundary: Boundary::default(),
            next: 1,
            unsure: None,
        };
        log.read_all()?;
        Ok(log)
    }

    /// The records that are kept, in order, with their numbers.
    pub fn records(&self) -> &[(u64, Record)] {
        &self.records
    }

    /// The last `Start`.
    pub fn newest_start(&self) -> Option<&Record> {
        self.records.iter().rev().map(|(_, record)| record).find(|record| matches!(record, Record::Start { .. }))
    }

    /// The generation that may append; 0 before the first.
    pub fn generation(&self) -> u64 {
        match self.newest_start() {
            Some(Record::Start { generation, .. }) => *generation,
            _ => 0,
        }
    }

    /// What tells the pipeline from another of its name, once it has been started.
    pub fn incarnation(&self) -> Option<&str> {
        match self.newest_start() {
            Some(Record::Start { incarnation, .. }) => Some(incarnation),
            _ => None,
        }
    }

    /// The checkpoints that are kept, in the order of the log.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = Committed<'_>> {
        self.records.iter().filter_map(Committed::of)
    }

    /// The savepoints that have not been removed: the numbers of their records, and what these say.
    pub fn savepoints(&self) -> impl Iterator<Item = (u64, &str, Epoch, &str)> {
        let removed = |number: u64, of: &str| {
            let later = self.records.iter().rev().take_while(move |(later, _)| *later > number);
            later.clone().any(|(_, record)| matches!(record, Record::RemoveSavepoint { name } if name == of))
        };
        self.records.iter().filter_map(move |(number, record)| match record {
            Record::Savepoint { name, epoch, path } if !removed(*number, name) => {
                Some((*number, name.as_str(), *epoch, path.as_str()))
            }
            _ => None,
        })
    }

    /// The checkpoint with which a generation would begin now: the last one of the newest generation, or the one that it began with.
    pub fn latest_checkpoint(&self) -> Option<Committed<'_>> {
        for (number, record) in self.records.iter().rev() {
            match record {
                Record::Checkpoint { epoch, .. } => return self.before(number + 1, *epoch),
                Record::Start { restores, .. } => return restores.and_then(|epoch| self.before(*number, epoch)),
                _ => {}
            }
        }
        None
    }

    /// The checkpoint of `epoch`, if it is kept.
    pub fn checkpoint(&self, epoch: Epoch) -> Option<Committed<'_>> {
        self.before(u64::MAX, epoch)
    }

    fn before(&self, number: u64, epoch: Epoch) -> Option<Committed<'_>> {
        self.checkpoints().rev().find(|committed| committed.number < number && committed.epoch == epoch)
    }

    /// The greatest epoch that a record speaks of: a new generation's epochs are greater. None if there is none.
    pub fn last_epoch(&self) -> Option<Epoch> {
        let epoch = |(_, record): &(u64, Record)| match record {
            Record::Checkpoint { epoch, .. } | Record::Savepoint { epoch, .. } => Some(*epoch),
            _ => None,
        };
        self.records.iter().filter_map(epoch).max()
    }

    /// Begins a new generation with the newest checkpoint, [`Log::latest_checkpoint`], and gives its number.
    pub fn start(&mut self, workers: u32, fingerprint: &str, version: &str) -> Result<u64> {
        self.begin(workers, fingerprint, version, |log| log.latest_checkpoint().map(|committed| committed.epoch))
    }

    /// Begins a new generation with the checkpoint that a person has chosen, or with none.
    ///
    /// # Errors
    /// `Invalid` if it is not kept.
    pub fn start_from(
        &mut self,
        workers: u32,
        fingerprint: &str,
        version: &str,
        restores: Option<Epoch>,
    ) -> Result<u64> {
        self.refresh()?;
        if let Some(epoch) = restores.filter(|epoch| self.checkpoint(*epoch).is_none()) {
            let kept: Vec<String> = self.checkpoints().map(|committed| committed.epoch.to_string()).collect();
            let help = match kept.as_slice() {
                [] => "there are no checkpoints".to_owned(),
                kept => format!("these are: {}", kept.join(", ")),
            };
            return Err(Error::invalid(format!("checkpoint {epoch} is not kept")).help(help));
        }
        self.begin(workers, fingerprint, version, |_| restores)
    }

    fn begin(
        &mut self,
        workers: u32,
        fingerprint: &str,
        version: &str,
        restores: impl Fn(&Log) -> Option<Epoch>,
    ) -> Result<u64> {
        let minted = nonce()?;
        let number = self.appending(|log| {
            Ok(Record::Start {
                incarnation: log.incarnation().unwrap_or(&minted).to_owned(),
                generation: log.generation().checked_add(1).ok_or_else(|| {
                    log.store.about("log", Error::corrupt("it has a generation after which there is none"))
                })?,
                workers,
                fingerprint: fingerprint.to_owned(),
                // all records before it were read, or its number would be taken
                restores: restores(log),
                version: version.to_owned(),
            })
        })?;
        match self.records.iter().find(|(known, _)| *known == number) {
            Some((_, Record::Start { generation, .. })) => Ok(*generation),
            _ => Err(Error::internal("the start that was appended is not in the log")),
        }
    }

    /// Appends a record of `generation` and gives its number.
    ///
    /// # Errors
    /// `Fenced` if a newer generation has begun. `Unavailable` if the store does not answer: the record may be there then; the same
    /// record appended again is appended once.
    pub fn append(&mut self, generation: u64, record: Record) -> Result<u64> {
        self.refresh()?;
        if let Some(number) = self.settled(&record) {
            self.unsure = None;
            return Ok(number);
        }
        self.appending(|log| match log.generation() {
            newest if newest > generation => Err(Error::new(
                ErrorKind::Fenced,
                format!("generation {newest} of the pipeline has begun; this is generation {generation}"),
            )),
            newest if newest < generation => {
                Err(Error::internal(format!("generation {generation} was never started; the newest is {newest}")))
            }
            _ => Ok(record.clone()),
        })
    }

    /// Reads what others have appended.
    pub fn refresh(&mut self) -> Result<()> {
        loop {
            while let Some(bytes) = self.store.get_within(&path(self.next), RECORD_BYTES_MAX)? {
                self.take(self.next, &bytes)?;
            }
            let boundary = read_boundary(&self.store)?;
            if boundary == self.boundary {
                return Ok(());
            }
            if boundary.number < self.next {
                // who swept may have known a newer start than we do, and let go the one that we know: read on
                self.prune(boundary);
                continue;
            }
            // we have slept, and records that we do not know are gone
            self.read_all()?;
        }
    }

    /// What the record at the next number is to be is asked for each number that is tried, with all records before it known.
    fn appending(&mut self, record: impl Fn(&Log) -> Result<Record>) -> Result<u64> {
        loop {
            self.refresh()?;
            let wanted = record(self)?;
            // the same nonce as before: should the lost request still arrive, it finds its own bytes
            let nonce = match self.unsure.take() {
                Some(unsure) if unsure.record == wanted => unsure.nonce,
                _ => nonce()?,
            };
            let number = self.next;
            let stored = Stored { number, nonce: nonce.clone(), record: wanted.clone() };
            let bytes = seal(&stored)?;
            if bytes.len() as u64 > RECORD_BYTES_MAX {
                return Err(Error::internal(format!("a record of the log would have {} bytes", bytes.len())));
            }
            self.unsure = Some(Unsure { nonce, record: wanted });
            if let Created::Existed(theirs) = self.store.create(&path(number), bytes.clone())? {
                self.take(number, &theirs)?;
                continue;
            }
            // a boundary before it is for the next refresh, which reads on behind it
            if read_boundary(&self.store)?.number < number {
                self.unsure = None;
                self.take(number, &bytes)?;
                return Ok(number);
            }
            // the number was used and deleted while we slept; what we have put there does not count
            self.unsure = None;
            self.read_all()?;
        }
    }

    /// The number of `record` if only the answer was lost when it was appended before.
    fn settled(&self, record: &Record) -> Option<u64> {
        let unsure = self.unsure.as_ref().filter(|unsure| unsure.record == *record)?;
        let at = self.marks.iter().rposition(|(nonce, _)| *nonce == unsure.nonce)?;
        Some(self.records[at].0)
    }

    /// Reads everything anew.
    fn read_all(&mut self) -> Result<()> {
        // each round is due to a sweep that went on meanwhile, and a sweep comes after checkpoints
        for _ in 0..100 {
            if self.try_read_all()? {
                return Ok(());
            }
        }
        Err(self.store.about("log", Error::unavailable("it is swept faster than it can be read")))
    }

    /// False if records were swept meanwhile.
    fn try_read_all(&mut self) -> Result<bool> {
        let boundary = read_boundary(&self.store)?;
        self.records.clear();
        self.marks.clear();
        let swept = |log: &Log| Ok::<_, Error>(read_boundary(&log.store)?.number > boundary.number);
        for (number, sum) in &boundary.kept {
            match self.store.get_within(&path(*number), RECORD_BYTES_MAX)? {
                Some(bytes) if checksum(&bytes) == *sum => self.take(*number, &bytes)?,
                Some(_) => return Err(self.wrong(*number, "it is not the record that was kept when the log was swept")),
                None if swept(self)? => return Ok(false),
                None => return Err(self.wrong(*number, "it is missing")),
            }
        }
        let last = self.store.list("log")?.iter().filter_map(|entry| number_of(&entry.path)).max().unwrap_or(0);
        self.next = boundary.number + 1;
        loop {
            let number = self.next;
            match self.store.get_within(&path(number), RECORD_BYTES_MAX)? {
                Some(bytes) => self.take(number, &bytes)?,
                // a boundary has records behind it
                None if number > last && number > boundary.number + u64::from(boundary.number > 0) => break,
                None if swept(self)? => return Ok(false),
                None => return Err(self.wrong(number, "it is missing")),
            }
        }
        self.boundary = boundary;
        Ok(true)
    }

    /// Takes the stored record `number`.
    fn take(&mut self, number: u64, bytes: &Bytes) -> Result<()> {
        let stored: Stored = unseal(bytes).map_err(|error| self.store.about(&path(number), error))?;
        if stored.number != number {
            return Err(self.wrong(number, &format!("it is record {} under another number", stored.number)));
        }
        self.records.push((number, stored.record));
        self.marks.push((stored.nonce, checksum(bytes)));
        self.next = number + 1;
        Ok(())
    }

    fn wrong(&self, number: u64, what: &str) -> Error {
        self.store.about(&path(number), Error::corrupt(what))
    }

    /// The boundary as it was last read.
    pub(super) fn boundary(&self) -> &Boundary {
        &self.boundary
    }

    /// The records with their checksums, in order.
    pub(super) fn with_checksums(&self) -> impl DoubleEndedIterator<Item = (u64, &Record, &str)> {
        self.records.iter().zip(&self.marks).map(|((number, record), (_, sum))| (*number, record, sum.as_str()))
    }

    /// Moves the boundary; the records that it lets go are known no more.
    ///
    /// # Errors
    /// `Fenced` if someone else has moved it further.
    pub(super) fn advance(&mut self, boundary: Boundary) -> Result<()> {
        let bytes = seal(&boundary)?;
        let rival = || Error::new(ErrorKind::Fenced, "the log is swept by someone else, too");
        if let Created::Existed(there) = self.store.create(&boundary_path(boundary.number), bytes)?
            && unseal::<Boundary>(&there)? != boundary
        {
            return Err(rival());
        }
        if read_boundary(&self.store)? != boundary {
            return Err(rival());
        }
        self.prune(boundary);
        Ok(())
    }

    /// Forgets the records that `boundary` lets go.
    fn prune(&mut self, boundary: Boundary) {
        if boundary == self.boundary {
            return;
        }
        let keep = |number: u64| number > boundary.number || boundary.kept.iter().any(|(kept, _)| *kept == number);
        let mut marks = std::mem::take(&mut self.marks).into_iter();
        self.records.retain(|(number, _)| {
            let mark = marks.next().expect("each record has a mark");
            let stays = keep(*number);
            if stays {
                self.marks.push(mark);
            }
            stays
        });
        self.boundary = boundary;
    }
}

/// The boundary that holds: the greatest.
fn read_boundary(store: &Store) -> Result<Boundary> {
    loop {
        let entries = store.list("gc")?;
        let Some(number) = entries.iter().filter_map(|entry| number_of(&entry.path)).max() else {
            return Ok(Boundary::default());
        };
        let path = boundary_path(number);
        // one that was deleted meanwhile has given way to a greater one
        let Some(bytes) = store.get_within(&path, RECORD_BYTES_MAX)? else { continue };
        let boundary: Boundary = unseal(&bytes).map_err(|error| store.about(&path, error))?;
        let ordered = boundary.kept.windows(2).all(|two| two[0].0 < two[1].0);
        if boundary.number != number || !ordered || boundary.kept.last().is_some_and(|(kept, _)| *kept > number) {
            return Err(store.about(&path, Error::corrupt("it is the boundary of another place")));
        }
        return Ok(boundary);
    }
}

/// Where record `number` is.
pub(super) fn path(number: u64) -> String {
    format!("log/{number:020}.json")
}

/// Where the boundary `number` is.
pub(super) fn boundary_path(number: u64) -> String {
    format!("gc/{number:020}.json")
}

/// The number in a path that [`path`] or [`boundary_path`] has made.
pub(super) fn number_of(path: &str) -> Option<u64> {
    let digits = path.rsplit('/').next()?.strip_suffix(".json")?;
    let number = digits.parse().ok().filter(|_| digits.len() == 20);
    // no log gets that far, and what follows a number is counted with
    number.filter(|number| (1..u64::MAX / 2).contains(number))
}
