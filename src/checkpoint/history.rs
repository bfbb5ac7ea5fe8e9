//! What the log still knows of the past: the epochs that can be read again, and the checkpoint from which.
//!
//! The records of a pipeline's log may branch, because a person can go back to an earlier checkpoint. A stretch follows one branch: from
//! its last record back, over the checkpoint that each generation began with, as far as records and manifests are kept.

use super::log::{Binding, Committed, Log, Record};
use super::manifest::Manifest;
use super::store::Store;
use crate::error::{Error, Result};
use crate::time::Epoch;
use std::collections::BTreeMap;

/// Where a stretch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// As early as can be.
    #[default]
    Oldest,
    /// With the pipeline's first epoch.
    Start,
    /// Behind this checkpoint.
    Checkpoint(Epoch),
}

/// Recorded epochs that follow each other.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The checkpoint before them; none before the pipeline's first epoch.
    pub checkpoint: Option<Manifest>,
    /// What was bound to each, in order; at least one.
    pub bindings: Vec<Binding>,
    /// The input had ended with the last of them.
    pub ended: bool,
    /// What splits are called, by table and number: those of the checkpoint, and those that came later.
    pub names: BTreeMap<String, BTreeMap<u32, String>>,
    /// The fingerprints of the plans that made them, each once.
    pub fingerprints: Vec<String>,
}

impl Stretch {
    /// The stretch of the pipeline in `store` from `begin` up to epoch `until`, or to the newest checkpoint. Only reads.
    ///
    /// # Errors
    /// `Invalid` if the log does not know these epochs (any more), which says what it knows; `Corrupt` for damaged objects.
    pub fn read(store: &Store, begin: Begin, until: Option<Epoch>) -> Result<Stretch> {
        let log = Log::read(store)?;
        let place = |error: Error| error.within(format!("checkpoint store '{}'", store.location()));
        let end = end(&log, until).map_err(place)?;
        let last = Manifest::read(store, &end.manifest_ref())?;
        let (chain, whole) = chain(store, &log, end);
        let (checkpoint, records) = match begin {
            Begin::Checkpoint(epoch) => {
                let at = chain.iter().position(|committed| committed.epoch == epoch);
                let at = at.ok_or_else(|| place(no_such(&log, &chain, epoch)))?;
                (Some(Manifest::read(store, &chain[at].manifest_ref())?), &chain[at + 1..])
            }
            Begin::Start | Begin::Oldest if whole => (None, &chain[..]),
            Begin::Start => return Err(place(swept(&chain))),
            Begin::Oldest => (Some(Manifest::read(store, &chain[0].manifest_ref())?), &chain[1..]),
        };
        let mut bindings: Vec<Binding> = records.iter().flat_map(|committed| committed.bindings).cloned().collect();
        let ended = end.ended && until.is_none_or(|until| until >= end.epoch);
        bindings.retain(|binding| until.is_none_or(|until| binding.epoch <= until));
        if bindings.windows(2).any(|two| two[0].epoch >= two[1].epoch) {
            return Err(place(Error::corrupt("the log binds epochs that do not follow each other")));
        }
        if bindings.is_empty() {
            let begins = checkpoint.as_ref().map_or(0, |manifest| manifest.epoch);
            let help = match oldest(&chain[..chain.len() - 1]) {
                Some(oldest) => format!("begin with an earlier checkpoint; the oldest that is kept is {oldest}"),
                None => "run the pipeline on: what comes after its next checkpoint can be seen again".to_owned(),
            };
            return Err(place(Error::invalid(format!("nothing is recorded after checkpoint {begins}")).help(help)));
        }
        let mut names: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
        // splits come and stay, and a later manifest may know them better
        for source in last.sources.into_iter().chain(checkpoint.iter().flat_map(|manifest| manifest.sources.clone())) {
            let known = names.entry(source.table).or_default();
            known.extend(source.splits.into_iter().map(|split| (split.number, split.start.name)));
        }
        let mut fingerprints = vec![last.fingerprint];
        fingerprints.extend(generations(&log, records));
        fingerprints.dedup();
        Ok(Stretch { checkpoint, bindings, ended, names, fingerprints })
    }

    /// Its first epoch.
    pub fn first(&self) -> Epoch {
        self.bindings.first().map_or(0, |binding| binding.epoch)
    }

    /// Its last epoch.
    pub fn last(&self) -> Epoch {
        self.bindings.last().map_or(0, |binding| binding.epoch)
    }
}

/// The record that has epoch `until`, or the newest.
fn end(log: &Log, until: Option<Epoch>) -> Result<Committed<'_>> {
    let newest = log.latest_checkpoint().ok_or_else(|| {
        Error::invalid("it has no checkpoint of the pipeline").help("epochs are recorded with the checkpoints of a run")
    })?;
    let Some(until) = until else { return Ok(newest) };
    let has = |committed: &Committed<'_>| committed.bindings.iter().any(|binding| binding.epoch == until);
    log.checkpoints().rev().find(has).ok_or_else(|| {
        let known = log.checkpoints().flat_map(|committed| committed.bindings);
        let known: Vec<Epoch> = known.map(|binding| binding.epoch).collect();
        let error = Error::invalid(format!("epoch {until} is not recorded"));
        match (known.iter().min(), known.iter().max()) {
            (Some(first), Some(last)) => error.help(format!("epochs {first} to {last} are")),
            _ => error,
        }
    })
}

/// The records that lead to `end`, in order, and whether the first of them has the pipeline's first epoch.
fn chain<'a>(store: &Store, log: &'a Log, end: Committed<'a>) -> (Vec<Committed<'a>>, bool) {
    let mut chain = vec![end];
    let whole = loop {
        match before(store, log, chain[chain.len() - 1]) {
            Before::Checkpoint(committed) => chain.push(committed),
            Before::Nothing => break true,
            Before::Unknown => break false,
        }
    };
    chain.reverse();
    (chain, whole)
}

/// True if `committed`, the first of its generation, has the state of a savepoint, which came from elsewhere.
fn imported(store: &Store, committed: Committed<'_>) -> bool {
    let folder = format!("g{}/import/", committed.generation);
    match Manifest::read(store, &committed.manifest_ref()) {
        Ok(manifest) => manifest.state.iter().any(|object| object.path.starts_with(&folder)),
        // nobody knows any more
        Err(_) => true,
    }
}

enum Before<'a> {
    Checkpoint(Committed<'a>),
    /// The pipeline's beginning.
    Nothing,
    /// Something that is not kept.
    Unknown,
}

/// What `committed` goes on from.
fn before<'a>(store: &Store, log: &'a Log, committed: Committed<'a>) -> Before<'a> {
    // whatever goes on from something has later ones
    if committed.bindings.first().is_some_and(|binding| binding.epoch == 0) {
        return Before::Nothing;
    }
    let of =
        |epoch: Epoch, number: u64| log.checkpoints().rev().find(|known| known.number < number && known.epoch == epoch);
    for (number, record) in log.records().iter().rev().filter(|(number, _)| *number < committed.number) {
        match record {
            Record::Checkpoint { generation, epoch, .. } if *generation == committed.generation => {
                return of(*epoch, number + 1).map_or(Before::Unknown, Before::Checkpoint);
            }
            Record::Start { generation, restores, .. } if *generation == committed.generation => {
                if imported(store, committed) {
                    return Before::Unknown;
                }
                return match restores {
                    None => Before::Nothing,
                    Some(epoch) => of(*epoch, *number).map_or(Before::Unknown, Before::Checkpoint),
                };
            }
            _ => {}
        }
    }
    Before::Unknown
}

/// The fingerprints of the generations of `records`, as far as their starts are kept.
fn generations(log: &Log, records: &[Committed<'_>]) -> Vec<String> {
    let ran = |generation: u64| records.iter().any(|committed| committed.generation == generation);
    let starts = log.records().iter().filter_map(|(_, record)| match record {
        Record::Start { generation, fingerprint, .. } if ran(*generation) => Some(fingerprint.clone()),
        _ => None,
    });
    starts.collect()
}

fn oldest(chain: &[Committed<'_>]) -> Option<Epoch> {
    chain.first().map(|committed| committed.epoch)
}

fn no_such(log: &Log, chain: &[Committed<'_>], epoch: Epoch) -> Error {
    let known: Vec<String> = chain.iter().map(|committed| committed.epoch.to_string()).collect();
    let error = match log.checkpoint(epoch) {
        Some(_) => Error::invalid(format!("checkpoint {epoch} does not lead to the last epoch that is asked for")),
        None => Error::invalid(format!("checkpoint {epoch} is not kept")),
    };
    error.help(format!("these are, and lead there: {}", known.join(", ")))
}

fn swept(chain: &[Committed<'_>]) -> Error {
    let error = Error::invalid("the log does not know the pipeline's first epochs any more");
    match oldest(chain) {
        Some(oldest) => {
            error.help(format!("the oldest checkpoint that is kept is {oldest}; 'checkpoint_retain' says how many are"))
        }
        None => error,
    }
}
