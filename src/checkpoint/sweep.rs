//! Deletes what no kept checkpoint needs.
//!
//! The order makes a crash between any two steps harmless: first the boundary of the log says which records may be gone, then they go, then
//! manifests, then other objects. What is left over goes with the next sweep. Objects are listed before the log is read to its
//! end, and only those that are older than what a checkpoint takes are deleted: whatever a record may come to need is
//! younger, or was named by a kept one. Clocks may jump, so age alone is not trusted where it need not be: what the newest generation has
//! written for epochs behind its last checkpoint stays, and so does the newest base of each of its workers.

use super::log::{Boundary, Committed, Log, Record, number_of};
use super::manifest::Manifest;
use super::store::{Entry, Store};
use crate::error::Result;
use crate::fail;
use crate::time::Micros;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Manifests and other objects.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
    /// Records of the log.
    pub records: u64,
}

/// Keeps the last `retain` checkpoints, at least the one that a restart needs, and all savepoints; deletes everything else, but
/// objects that are younger than `age_min` at `now`, by the store's clock.
///
/// # Errors
/// `Corrupt` if a kept manifest is damaged: nothing is deleted. `Fenced` if someone else sweeps.
pub fn sweep(store: &Store, log: &mut Log, retain: usize, now: Micros, age_min: Duration) -> Result<Swept> {
    let objects = store.list("")?;
    log.refresh()?;
    let needed = mark(store, log, retain)?;
    let mut swept = Swept::default();
    fail::point("sweep.begin")?;
    if let Some(boundary) = boundary(log, needed.oldest) {
        log.advance(boundary)?;
    }
    fail::point("sweep.boundary")?;
    let boundary = log.boundary().clone();
    for entry in store.list("log")? {
        let gone = |number: u64| number <= boundary.number && !boundary.kept.iter().any(|(kept, _)| *kept == number);
        if number_of(&entry.path).is_some_and(gone) {
            store.delete(&entry.path)?;
            swept.records += 1;
        }
    }
    fail::point("sweep.log")?;
    for entry in store.list("gc")? {
        if number_of(&entry.path).is_some_and(|number| number < boundary.number) {
            store.delete(&entry.path)?;
        }
    }
    let old = |entry: &Entry| {
        let age = u64::try_from(now.saturating_sub(entry.modified)).unwrap_or(0);
        u128::from(age) > age_min.as_micros()
    };
    // a savepoint without a record is being written, or was left unfinished
    let savepoint = |entry: &Entry| {
        entry.path.strip_prefix("savepoints/").map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
    };
    let unfinished: BTreeSet<String> = objects.iter().filter(|entry| !old(entry)).filter_map(savepoint).collect();
    let unneeded = |entry: &&Entry| match savepoint(entry) {
        Some(name) => !needed.savepoints.contains(&name) && !unfinished.contains(&name),
        None => {
            !entry.path.starts_with("log/") && !entry.path.starts_with("gc/") && !needed.paths.contains(&entry.path)
        }
    };
    let under_way = under_way(log, &objects);
    let unneeded = |entry: &&Entry| unneeded(entry) && !under_way.contains(&entry.path);
    let is_manifest = |entry: &Entry| entry.path.rsplit('/').next().is_some_and(|name| name.starts_with("manifest"));
    let mut garbage: Vec<&Entry> = objects.iter().filter(|entry| old(entry)).filter(unneeded).collect();
    garbage.sort_by_key(|entry| !is_manifest(entry));
    fail::point("sweep.objects")?;
    for entry in garbage {
        store.delete(&entry.path)?;
        swept.objects += 1;
        swept.bytes += entry.bytes;
    }
    Ok(swept)
}

/// The paths of `objects` that a checkpoint may be about to name, whatever their age.
fn under_way(log: &Log, objects: &[Entry]) -> BTreeSet<String> {
    let (generation, committed) = (log.generation(), log.last_epoch());
    let mut paths = BTreeSet::new();
    let mut bases: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for path in objects.iter().map(|entry| entry.path.as_str()) {
        let parts: Vec<&str> = path.split('/').collect();
        let [of, epoch, name] = parts[..] else { continue };
        let number = |text: &str, letter| text.strip_prefix(letter).and_then(|digits| digits.parse::<u64>().ok());
        let (Some(of), Some(epoch)) = (number(of, 'g'), number(epoch, 'e')) else { continue };
        if of > generation || of == generation && Some(epoch) > committed {
            paths.insert(path.to_owned());
        } else if of == generation && name.starts_with("base-") {
            let newest = bases.entry(name).or_insert((epoch, path));
            *newest = (*newest).max((epoch, path));
        }
    }
    paths.extend(bases.into_values().map(|(_, path)| path.to_owned()));
    paths
}

/// What stays.
#[derive(Default)]
struct Needed {
    /// The number of the oldest record that stays with all behind it.
    oldest: Option<u64>,
    paths: BTreeSet<String>,
    savepoints: BTreeSet<String>,
}

fn mark(store: &Store, log: &Log, retain: usize) -> Result<Needed> {
    let mut kept: Vec<Committed> = log.checkpoints().rev().take(retain).collect();
    kept.extend(log.latest_checkpoint());
    let mut needed = Needed { oldest: kept.iter().map(|committed| committed.number).min(), ..Needed::default() };
    for committed in &kept {
        if needed.paths.insert(committed.manifest.to_owned()) {
            let manifest = Manifest::read(store, &committed.manifest_ref())?;
            needed.paths.extend(manifest.state.into_iter().chain(manifest.outputs).map(|object| object.path));
        }
    }
    needed.savepoints.extend(log.savepoints().map(|(_, name, ..)| name.to_owned()));
    Ok(needed)
}

/// The boundary before record `oldest`, if it is further than the one that there is.
fn boundary(log: &Log, oldest: Option<u64>) -> Option<Boundary> {
    let number = oldest?.checked_sub(1).filter(|number| *number > log.boundary().number)?;
    let newest_start = log
        .records()
        .iter()
        .rev()
        .find(|(_, record)| matches!(record, Record::Start { .. }))
        .map(|(number, _)| *number);
    let savepoints: BTreeSet<u64> = log.savepoints().map(|(number, ..)| number).collect();
    let stays = |number: u64, record: &Record| {
        matches!(record, Record::SkipRow { .. }) || savepoints.contains(&number) || Some(number) == newest_start
    };
    let kept = log.with_checksums().filter(|(known, record, _)| *known <= number && stays(*known, record));
    Some(Boundary { number, kept: kept.map(|(known, _, sum)| (known, sum.to_owned())).collect() })
}
