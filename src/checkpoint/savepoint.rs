//! A checkpoint with all that it needs in one folder, to keep or to carry away.
//!
//! `manifest.json` is written last: a folder without it is none. Paths in it are below the folder, so it can be moved.

use super::log::{Log, Record};
use super::manifest::Manifest;
use super::object::bytes_of;
use super::seal::seal;
use super::store::{Created, Store, check_name, is_name};
use crate::error::{Error, Result, nearest};
use crate::time::Epoch;

const MANIFEST: &str = "manifest.json";
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// Copies the checkpoint of `epoch` into the savepoint `name`, and gives the place by which it can be opened anywhere.
///
/// # Errors
/// `Invalid` if the name is no name or taken, or the checkpoint is not kept; `Corrupt` if it is damaged; `Fenced` as for
/// [`Log::append`].
pub fn save(store: &Store, log: &mut Log, generation: u64, epoch: Epoch, name: &str) -> Result<String> {
    check_name("savepoint", name)?;
    log.refresh()?;
    let taken = || Error::invalid(format!("there is a savepoint '{name}' already")).help("choose another name");
    if log.savepoints().any(|(_, known, ..)| known == name) {
        return Err(taken());
    }
    let committed = log.checkpoint(epoch).ok_or_else(|| Error::invalid(format!("checkpoint {epoch} is not kept")))?;
    let mut manifest = Manifest::read(store, &committed.manifest_ref())?;
    // who has stopped has published everything; otherwise whoever begins here publishes what may not be outside yet
    let after = log.records().iter().filter(|(number, _)| *number > committed.number);
    if after.clone().any(|(_, record)| matches!(record, Record::Stop { .. })) {
        manifest.outputs.clear();
    }
    let path = format!("savepoints/{name}");
    let folder = store.below(&path);
    let mut copied: Vec<String> = Vec::new();
    for object in manifest.state.iter_mut().chain(&mut manifest.outputs) {
        let bytes = bytes_of(store, object)?;
        object.path = format!("objects/{}", &object.blake3[..32]);
        // an object with state and records is in both lists
        if !copied.contains(&object.path) {
            folder.put(&object.path, bytes)?;
            copied.push(object.path.clone());
        }
    }
    // after a crash the same again is the same; another checkpoint is another savepoint
    if let Created::Existed(_) = folder.create(MANIFEST, seal(&manifest)?)? {
        return Err(taken());
    }
    log.append(generation, Record::Savepoint { name: name.to_owned(), epoch, path })?;
    Ok(folder.location().to_owned())
}

/// Removes the savepoint `name` of `store`. Once its record is there it is gone; what a crash leaves of it is swept later.
///
/// # Errors
/// `Invalid` if there is none of this name.
pub fn remove(store: &Store, log: &mut Log, name: &str) -> Result<()> {
    check_name("savepoint", name)?;
    log.refresh()?;
    if !log.savepoints().any(|(_, known, ..)| known == name) {
        let names: Vec<&str> = log.savepoints().map(|(_, known, ..)| known).collect();
        let error = Error::invalid(format!("there is no savepoint '{name}'"));
        return Err(match nearest(name, names.iter().copied()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None if names.is_empty() => error.help("there are no savepoints"),
            None => error.help(format!("the savepoints are {}", names.join(", "))),
        });
    }
    log.append(log.generation(), Record::RemoveSavepoint { name: name.to_owned() })?;
    let folder = format!("savepoints/{name}");
    // the manifest first: without it nobody takes the rest for a savepoint
    store.delete(&format!("{folder}/{MANIFEST}"))?;
    store.list(&folder)?.iter().try_for_each(|entry| store.delete(&entry.path))
}

/// Opens a savepoint: one of `store` by its name, or a folder anywhere by its path or URL.
///
/// # Errors
/// `Invalid` if there is none; `Corrupt` if it is damaged.
pub fn open_savepoint(place: &str, store: &Store) -> Result<(Store, Manifest)> {
    if is_name(place) {
        let folder = store.below(&format!("savepoints/{place}"));
        if let Some(manifest) = read(&folder)? {
            return Ok((folder, manifest));
        }
    }
    let none = |error: Error| {
        let names = store.folders("savepoints").unwrap_or_default();
        let near = nearest(place, names.iter().map(String::as_str)).filter(|_| is_name(place));
        match near {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("name a savepoint of the pipeline, or the directory or URL of one"),
        }
    };
    let missing = || none(Error::invalid(format!("there is no savepoint '{place}'")));
    if is_name(place) && !std::path::Path::new(place).is_dir() {
        return Err(missing());
    }
    savepoint_at(place).map_err(none)?.ok_or_else(missing)
}

/// The savepoint in the directory or at the URL `place`, if one is there.
///
/// # Errors
/// `Invalid` if there is no such place; `Corrupt` if the savepoint is damaged.
pub fn savepoint_at(place: &str) -> Result<Option<(Store, Manifest)>> {
    let folder = Store::at(place, false)?;
    Ok(read(&folder)?.map(|manifest| (folder, manifest)))
}

/// Copies what `manifest`, opened from the savepoint `folder`, names into `store`, for `generation` to go on from.
pub fn import(folder: &Store, mut manifest: Manifest, store: &Store, generation: u64) -> Result<Manifest> {
    for object in manifest.state.iter_mut().chain(&mut manifest.outputs) {
        let bytes = bytes_of(folder, object)?;
        object.path = format!("g{generation}/import/{}.hw", &object.blake3[..32]);
        // after a crash the same again is the same
        store.put(&object.path, bytes)?;
    }
    Ok(manifest)
}

/// The names of the savepoints that `store` has, complete or not.
pub fn names(store: &Store) -> Result<Vec<String>> {
    store.folders("savepoints")
}

fn read(folder: &Store) -> Result<Option<Manifest>> {
    let Some(bytes) = folder.get_within(MANIFEST, MANIFEST_BYTES_MAX)? else { return Ok(None) };
    Manifest::parse(&bytes).map(Some).map_err(|error| folder.about(MANIFEST, error))
}
