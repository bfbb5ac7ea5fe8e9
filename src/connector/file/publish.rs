//! Files that appear once, whole, and only with rows of committed checkpoints.
//!
//! Beside the files is a hidden directory, `.highwater/` in a directory sink, `.<name>.highwater/` next to a single file:
//!
//! ```text
//! <incarnation>-<shard>-<epoch>      marker: what appears with it; the newest one says what is published
//! <incarnation>-<shard>.<token>/     desk: what one publisher writes, and nobody else
//! ```
//! Rows go into temporaries on the desk. To publish them, they are made durable, then a marker that lists them is moved from the
//! desk to its place, then they get their names. The move of the marker is the only moment that counts: before it nothing was
//! published, and after it whoever comes next finishes what it lists, as often as it takes.
//!
//! A publisher begins by moving all other desks of its shard onto its own. Who stood there can move nothing any more, neither a
//! marker nor a file: each name that it knows has gone. What lay on those desks is published if the newest marker lists it, and
//! else removed, for its rows are in the checkpoints.
//!
//! Rows of one epoch never appear in two steps, so a part holds whole epochs and is named after the last one. A part is complete
//! at the first checkpoint at which it has `sink.rolling.bytes` or is `sink.rolling.interval` old; all open ones are published
//! together then.

use super::handle::Identity;
use super::sink::{FileSink, directory, find_parts, make_durable, place, unwritable};
use crate::batch::{Batch, batch_of};
use crate::connector::{Publisher, ShardName, Stager};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Encode, FileFormat, Format, WriteFile};
use crate::time::{Clock, Epoch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is handed to the operating system at once.
const BUFFER_BYTES: usize = 1 << 20;
/// No directory or file has a longer name on the usual file systems.
const NAME_BYTES_MAX: usize = 255;

/// Rows as they will be written, after the checks that writing them makes.
pub(super) struct FileStager {
    sink: FileSink,
    /// Of records, the columns whose values are not all writable, and what would write them.
    encoder: Option<(Vec<usize>, Box<dyn Encode>)>,
}

impl FileStager {
    pub fn new(sink: &FileSink) -> Result<FileStager> {
        let always = |kind: &DataType| {
            kind.is_integer()
                || kind.is_floating()
                || matches!(kind, DataType::Utf8 | DataType::Boolean | DataType::Binary)
        };
        let fields = sink.table.fields().iter().enumerate();
        let columns: Vec<usize> = fields
            .filter(|(index, field)| !sink.partition.has(*index) && !always(field.data_type()))
            .map(|(index, _)| index)
            .collect();
        let encoder = match &sink.format {
            FileFormat::Records(format) if !columns.is_empty() => {
                let schema = Arc::new(sink.table.project(&columns).map_err(crate::batch::from_arrow)?);
                // of a change its rows
                let format = match format {
                    Format::DebeziumJson(settings) => Format::Json(settings.json.clone()),
                    other => other.clone(),
                };
                Some((columns, format.encoder(&schema)?))
            }
            _ => None,
        };
        Ok(FileStager { sink: sink.clone(), encoder })
    }
}

impl Stager for FileStager {
    fn stage(&mut self, rows: Batch) -> Result<Batch> {
        let casting = CastOptions { safe: false, ..CastOptions::default() };
        let columns = rows.columns().iter().zip(self.sink.table.fields());
        let columns = columns.map(|(column, field)| cast_with_options(column, field.data_type(), &casting));
        let columns = columns.collect::<Result<_, _>>().map_err(crate::batch::from_arrow)?;
        let rows = batch_of(Arc::clone(&self.sink.table), columns, rows.num_rows())?;
        if let Some((columns, encoder)) = &mut self.encoder {
            encoder.encode(&rows.project(columns).map_err(crate::batch::from_arrow)?)?;
        }
        for path in self.sink.partition.directories(&rows, &self.sink.table)?.keys() {
            if let Some(long) = path.split('/').find(|name| name.len() > NAME_BYTES_MAX) {
                let start: String = long.chars().take(40).collect();
                let wrong =
                    format!("directory \"{start}…\" has a name of {} bytes, more than {NAME_BYTES_MAX}", long.len());
                return Err(Error::data(wrong).within(place(&self.sink.path)));
            }
        }
        Ok(rows)
    }
}

/// What appears with a marker.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Marker {
    pipeline: String,
    table: String,
    /// Temporaries by name, and the files that they become.
    files: Vec<(String, String)>,
    /// Files of earlier runs that go, each with which file it was.
    remove: Vec<(String, u64, u128)>,
}

/// Publishes the rows of one shard.
pub(super) struct FilePublisher {
    sink: FileSink,
    clock: Arc<dyn Clock>,
    shard: ShardName,
    workers: usize,
    /// Where files appear, and what hidden directory goes with them.
    root: PathBuf,
    ledger: PathBuf,
    desk: PathBuf,
    /// Open temporaries by their directory below the root, and complete ones: name and directory.
    drafts: HashMap<String, Draft>,
    complete: Vec<(String, String)>,
    made: usize,
    writes: u64,
    /// When the first row that is not published came.
    since: Option<Duration>,
    published: Option<Epoch>,
    /// The last epoch whose records were taken.
    taken: Option<Epoch>,
    /// One of the temporaries has its size.
    full: bool,
    /// True while the desk has what a marker lists, or may have.
    owing: bool,
    /// True once something went wrong in the middle.
    broken: bool,
}

/// A temporary that is being written.
struct Draft {
    name: String,
    file: File,
    writer: Box<dyn WriteFile>,
    /// Bytes of the writer that the operating system has not got.
    buffer: Vec<u8>,
    /// The number of its last write.
    written: u64,
}

impl FilePublisher {
    /// Takes over shard `shard` and finishes what was begun for it.
    pub fn new(sink: &FileSink, shard: &ShardName, clock: Arc<dyn Clock>, workers: usize) -> Result<FilePublisher> {
        let (root, ledger) = match sink.rolling {
            Some(_) => (sink.path.clone(), sink.path.join(".highwater")),
            None => {
                let name = sink.path.file_name();
                let name = name.ok_or_else(|| Error::invalid("it has no name").within(place(&sink.path)))?;
                let folder = directory(&sink.path).to_owned();
                let ledger = folder.join(format!(".{}.highwater", name.to_string_lossy()));
                (folder, ledger)
            }
        };
        let new = !root.exists();
        fs::create_dir_all(&ledger).map_err(|error| unwritable(&ledger, error))?;
        if new {
            sync(directory(&root))?;
        }
        let desk = tempfile::Builder::new()
            .prefix(&format!("{}-{}.", shard.incarnation, shard.shard))
            .rand_bytes(12)
            .tempdir_in(&ledger)
            .map_err(|error| unwritable(&ledger, error))?
            .keep();
        // By the name that everyone else knows it by, where the path is not from the root.
        let desk = ledger.join(desk.file_name().unwrap_or_default());
        make_durable(&ledger, &root)?;
        let mut publisher = FilePublisher {
            sink: sink.clone(),
            clock,
            shard: shard.clone(),
            workers,
            root,
            ledger,
            desk,
            drafts: HashMap::new(),
            complete: Vec::new(),
            made: 0,
            writes: 0,
            since: None,
            published: None,
            taken: None,
            full: false,
            owing: true,
            broken: false,
        };
        match publisher.take_over().map_err(|error| publisher.explained(error)) {
            Ok(()) => Ok(publisher),
            Err(error) => {
                let ledger = publisher.ledger.clone();
                drop(publisher);
                // Unless it has something: who is refused leaves nothing.
                let _ = fs::remove_dir(ledger);
                Err(error)
            }
        }
    }

    fn take_over(&mut self) -> Result<()> {
        let mut taken = 0;
        for (path, name) in self.hidden()? {
            if path == self.desk || !is_desk(&name, self.shard.shard) {
                continue;
            }
            step(&path)?;
            match fs::rename(&path, self.desk.join(format!("taken-{taken}"))) {
                // Someone else has taken it, or is who takes over.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|error| unwritable(&path, error))?,
            }
            taken += 1;
        }
        let markers = self.markers()?;
        let own = |marker: &&MarkerName| marker.incarnation == self.shard.incarnation;
        let newest = markers.iter().filter(own).filter(|marker| marker.shard == self.shard.shard);
        let newest = newest.max_by_key(|marker| marker.epoch);
        // What no marker lists is owed to nobody.
        self.owing = newest.is_some();
        match newest {
            Some(newest) => {
                let marker = read_marker(&newest.path)?;
                if (&marker.pipeline, &marker.table) != (&self.shard.pipeline, &self.shard.table) {
                    let wrong =
                        format!("table \"{}\" of pipeline \"{}\" is written there, too", marker.table, marker.pipeline);
                    return Err(Error::invalid(wrong)
                        .within(place(&self.sink.path))
                        .help("give each table a path of its own"));
                }
                let mut temporaries = HashMap::new();
                find_temporaries(&self.desk, &mut temporaries)?;
                self.settle(&marker, &temporaries)?;
                self.published = Some(newest.epoch);
                self.forget_before(newest.epoch)?;
            }
            None if markers.iter().any(|marker| own(&marker)) => {}
            None if self.sink.rolling.is_none() => {
                if self.sink.path.exists() {
                    self.sink.refuse(&self.sink.path)?;
                }
            }
            None => {
                let there = find_parts(&self.root, self.sink.partition.depth())?;
                if let Some(old) = there.iter().map(|found| &found.path).min() {
                    self.sink.refuse(old)?;
                }
            }
        }
        self.owing = false;
        self.clear_desk()
    }

    /// Gives the files that `marker` lists their names, those of them that have not got them, and removes what they replace.
    fn settle(&self, marker: &Marker, temporaries: &HashMap<String, PathBuf>) -> Result<()> {
        let mut folders = HashSet::new();
        for (temporary, name) in &marker.files {
            let Some(temporary) = temporaries.get(temporary) else { continue };
            let path = self.root.join(name);
            let folder = directory(&path);
            fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
            step(&path)?;
            fs::rename(temporary, &path).map_err(|error| unwritable(&path, error))?;
            folders.insert(folder.to_owned());
        }
        for (number, (name, inode, born)) in marker.remove.iter().enumerate() {
            let path = self.root.join(name);
            let same = fs::metadata(&path).is_ok_and(|now| Identity::of(&now) == Identity(*inode, *born));
            if same && !marker.files.iter().any(|(_, new)| new == name) {
                step(&path)?;
                // By way of the desk, which is gone if somebody else has taken over.
                let gone = self.desk.join(format!("gone-{number}"));
                fs::rename(&path, &gone).map_err(|error| unwritable(&path, error))?;
                fs::remove_file(&gone).map_err(|error| unwritable(&path, error))?;
                folders.insert(directory(&path).to_owned());
            }
        }
        folders.iter().try_for_each(|folder| make_durable(folder, &self.root))
    }

    fn write(&mut self, directory: &str, rows: &Batch) -> Result<()> {
        if !self.drafts.contains_key(directory) {
            let most = self.sink.rolling.as_ref().map_or(1, |rolling| rolling.open_max);
            if self.drafts.len() >= most {
                let oldest = self.drafts.iter().min_by_key(|(_, draft)| draft.written);
                let oldest = oldest.map(|(directory, _)| directory.clone());
                oldest.map_or(Ok(()), |directory| self.close(&directory))?;
            }
            self.begin(directory)?;
        }
        self.writes += 1;
        let draft = self.drafts.get_mut(directory).expect("it was begun if it was not open");
        draft.written = self.writes;
        draft.writer.write(rows).map_err(|error| error.within(place(&self.sink.path)))?;
        self.full |= self.sink.rolling.as_ref().is_some_and(|rolling| draft.writer.size() >= rolling.bytes);
        draft.buffer.append(&mut draft.writer.take()?);
        if draft.buffer.len() >= BUFFER_BYTES {
            draft.file.write_all(&draft.buffer).map_err(|error| unwritable(&self.sink.path, error))?;
            draft.buffer.clear();
        }
        Ok(())
    }

    fn begin(&mut self, directory: &str) -> Result<()> {
        // The desk's name makes it the only one that is called so.
        let token = self.desk.extension().map(|token| token.to_string_lossy().into_owned()).unwrap_or_default();
        let name = format!("{}-{token}", self.made);
        self.made += 1;
        let path = self.desk.join(&name);
        step(&path)?;
        let file = File::create_new(&path).map_err(|error| unwritable(&path, error))?;
        let writer = self.sink.format.writer(&self.sink.schema, self.sink.packing)?;
        self.drafts.insert(directory.to_owned(), Draft { name, file, writer, buffer: Vec::new(), written: 0 });
        Ok(())
    }

    /// Writes the end of the open temporary of `directory` and makes it durable.
    fn close(&mut self, directory: &str) -> Result<()> {
        let Some(mut draft) = self.drafts.remove(directory) else { return Ok(()) };
        let failed = |error| unwritable(&self.sink.path, error);
        draft.file.write_all(&draft.buffer).map_err(failed)?;
        let end = draft.writer.finish().map_err(|error| error.within(place(&self.sink.path)))?;
        draft.file.write_all(&end).map_err(failed)?;
        draft.file.sync_all().map_err(failed)?;
        self.complete.push((draft.name, directory.to_owned()));
        Ok(())
    }

    /// Publishes all that was taken up to `epoch`; what earlier runs have left goes with the first time.
    fn commit(&mut self, epoch: Epoch) -> Result<()> {
        let mut open: Vec<String> = self.drafts.keys().cloned().collect();
        open.sort();
        open.iter().try_for_each(|directory| self.close(directory))?;
        // What is there after the first marker is not of earlier runs.
        let replace = self.sink.overwrite && self.published.is_none();
        let marker = Marker {
            pipeline: self.shard.pipeline.clone(),
            table: self.shard.table.clone(),
            files: self.names(epoch),
            remove: if replace { self.left_by_others()? } else { Vec::new() },
        };
        if !self.sink.overwrite {
            for (_, name) in &marker.files {
                let path = self.root.join(name);
                if path.exists() {
                    self.sink.refuse(&path)?;
                }
            }
        }
        let name = format!("{}-{}-{epoch}", self.shard.incarnation, self.shard.shard);
        let (drawn, path) = (self.desk.join("marker"), self.ledger.join(name));
        let text =
            serde_json::to_vec(&marker).map_err(|error| Error::internal(format!("a marker is no JSON: {error}")))?;
        step(&drawn)?;
        let written = File::create(&drawn).and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(|error| unwritable(&drawn, error))?;
        sync(&self.desk)?;
        step(&path)?;
        self.owing = true;
        fs::rename(&drawn, &path).map_err(|error| unwritable(&path, error))?;
        step(&path)?;
        sync(&self.ledger)?;
        let temporaries = self.complete.drain(..).map(|(name, _)| (name.clone(), self.desk.join(name))).collect();
        self.settle(&marker, &temporaries)?;
        self.owing = false;
        (self.published, self.since, self.full) = (Some(epoch), None, false);
        self.forget_before(epoch)
    }

    /// Removes the markers of this shard that are older than that of `epoch`.
    fn forget_before(&self, epoch: Epoch) -> Result<()> {
        for old in self.markers()? {
            let own = old.incarnation == self.shard.incarnation && old.shard == self.shard.shard;
            if own && old.epoch < epoch {
                step(&old.path)?;
                match fs::remove_file(&old.path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other.map_err(|error| unwritable(&old.path, error))?,
                }
            }
        }
        Ok(())
    }

    /// The complete temporaries, and what they will be called.
    fn names(&self, epoch: Epoch) -> Vec<(String, String)> {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let extension = format!("{}{}", self.sink.format.extension(), self.sink.packing.extension());
        let mut names = Vec::with_capacity(self.complete.len());
        for (temporary, directory) in &self.complete {
            let number = numbers.entry(directory).or_default();
            let part = format!("{directory}part-{}-{epoch}", self.shard.shard);
            let name = match (&self.sink.rolling, *number) {
                (None, _) => self.sink.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                (Some(_), 0) => format!("{part}.{extension}"),
                (Some(_), number) => format!("{part}-{number}.{extension}"),
            };
            *number += 1;
            names.push((temporary.clone(), name));
        }
        names
    }

    /// Files and markers of other incarnations, of this shard or of one that is no more, by their names below the root.
    fn left_by_others(&self) -> Result<Vec<(String, u64, u128)>> {
        let mut paths: Vec<PathBuf> = Vec::new();
        let markers = self.markers()?;
        let others = markers.iter().filter(|marker| marker.incarnation != self.shard.incarnation);
        if self.sink.rolling.is_some() {
            let own: HashSet<usize> = markers
                .iter()
                .filter(|marker| marker.incarnation == self.shard.incarnation)
                .map(|marker| marker.shard)
                .collect();
            let goes = |shard: usize| {
                let gone = self.shard.shard == 0 && shard >= self.workers;
                shard == self.shard.shard || (gone && !own.contains(&shard))
            };
            paths.extend(others.filter(|marker| goes(marker.shard)).map(|marker| marker.path.clone()));
            let there = find_parts(&self.root, self.sink.partition.depth())?;
            paths.extend(there.into_iter().filter(|found| goes(found.shard)).map(|found| found.path));
        } else {
            paths.extend(others.map(|marker| marker.path.clone()));
        }
        let mut left = Vec::with_capacity(paths.len());
        for path in paths {
            let metadata = fs::metadata(&path).map_err(|error| unwritable(&path, error))?;
            let Identity(inode, born) = Identity::of(&metadata);
            let name = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
            left.extend(name.map(|name| (name.to_owned(), inode, born)));
        }
        left.sort();
        Ok(left)
    }

    /// What is in the hidden directory: paths and names.
    fn hidden(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.ledger).map_err(|error| unwritable(&self.ledger, error))? {
            let path = entry.map_err(|error| unwritable(&self.ledger, error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            found.extend(name.map(|name| (path, name)));
        }
        found.sort();
        Ok(found)
    }

    fn markers(&self) -> Result<Vec<MarkerName>> {
        Ok(self.hidden()?.into_iter().filter_map(|(path, name)| MarkerName::parse(path, &name)).collect())
    }

    /// Removes all that lies on the desk.
    fn clear_desk(&self) -> Result<()> {
        for entry in fs::read_dir(&self.desk).map_err(|error| unwritable(&self.desk, error))? {
            let path = entry.map_err(|error| unwritable(&self.desk, error))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| unwritable(&path, error))?;
        }
        Ok(())
    }

    /// `error`, or that somebody else has taken over, which is its cause then.
    fn explained(&self, error: Error) -> Error {
        match self.desk.exists() {
            true => error,
            false => Error::new(ErrorKind::Fenced, "another run of the pipeline writes it now")
                .within(place(&self.sink.path)),
        }
    }

    /// Does `work`, after which nothing more can be done if it fails.
    fn whole(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.broken {
            return Err(Error::internal("a publisher of files is used after it has failed"));
        }
        self.broken = true;
        work(self).map_err(|error| self.explained(error))?;
        self.broken = false;
        Ok(())
    }

    fn is_full(&self) -> bool {
        let Some(rolling) = &self.sink.rolling else { return false };
        let old = rolling.interval.zip(self.since);
        self.full || old.is_some_and(|(interval, since)| self.clock.monotonic().saturating_sub(since) >= interval)
    }

    fn is_empty(&self) -> bool {
        self.drafts.is_empty() && self.complete.is_empty()
    }
}

impl Publisher for FilePublisher {
    fn published(&self) -> Option<Epoch> {
        self.published
    }

    fn publish(&mut self, epoch: Epoch, records: &mut dyn Iterator<Item = Result<Batch>>) -> Result<()> {
        if self.taken.max(self.published).is_some_and(|last| epoch <= last) {
            return Err(Error::internal(format!("the records of checkpoint {epoch} come a second time")));
        }
        self.whole(|publisher| {
            for rows in records {
                let rows = rows?;
                if rows.num_rows() == 0 {
                    continue;
                }
                if publisher.sink.rolling.is_none() && publisher.published.is_some() {
                    return Err(
                        Error::internal("rows come after the file was complete").within(place(&publisher.sink.path))
                    );
                }
                publisher.since.get_or_insert(publisher.clock.monotonic());
                for (directory, rows) in publisher.sink.partition.deal(&rows, &publisher.sink.table)? {
                    publisher.write(&directory, &rows)?;
                }
            }
            publisher.taken = Some(epoch);
            match !publisher.is_empty() && publisher.is_full() {
                true => publisher.commit(epoch),
                false => Ok(()),
            }
        })
    }

    fn finish(&mut self, ended: bool) -> Result<()> {
        let epoch = self.taken.or(self.published).unwrap_or(0);
        self.whole(|publisher| match publisher.sink.rolling {
            Some(_) if !publisher.is_empty() => publisher.commit(epoch),
            Some(_) if ended && publisher.sink.overwrite && publisher.published.is_none() => publisher.commit(epoch),
            None if ended && publisher.published.is_none() => {
                if publisher.is_empty() {
                    // Even of no rows there will be a file.
                    publisher.begin("")?;
                }
                publisher.commit(epoch)
            }
            _ => Ok(()),
        })
    }
}

impl Drop for FilePublisher {
    /// What is not published goes: it is in the checkpoints. What a marker lists stays for whoever comes next.
    fn drop(&mut self) {
        if !self.owing {
            let _ = fs::remove_dir_all(&self.desk);
        }
    }
}

/// A marker's name, parsed.
struct MarkerName {
    path: PathBuf,
    incarnation: String,
    shard: usize,
    epoch: Epoch,
}

impl MarkerName {
    fn parse(path: PathBuf, name: &str) -> Option<MarkerName> {
        let mut parts = name.rsplitn(3, '-');
        let (epoch, shard) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(MarkerName { incarnation: parts.next()?.to_owned(), shard, epoch, path })
    }
}

/// True if `name` is a desk of `shard`, whatever the incarnation.
fn is_desk(name: &str, shard: usize) -> bool {
    let owner = name.split_once('.').and_then(|(owner, _)| owner.rsplit_once('-'));
    owner.is_some_and(|(_, number)| number.parse() == Ok(shard))
}

fn read_marker(path: &Path) -> Result<Marker> {
    let text = fs::read(path).map_err(|error| unwritable(path, error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::unavailable(format!("it is no marker: {error}"))
            .within(place(path))
            .help("it says what was published, so nothing can be written until it is as it was")
    })
}

/// The temporaries on a desk and on those that were moved onto it, by name.
fn find_temporaries(folder: &Path, found: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| unwritable(folder, error))? {
        let path = entry.map_err(|error| unwritable(folder, error))?.path();
        match path.is_dir() {
            true => find_temporaries(&path, found)?,
            false => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                found.extend(name.map(|name| (name, path)));
            }
        }
    }
    Ok(())
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unwritable(folder, error))
}

/// Stands before each change that others can see; a test makes one of them the last.
#[cfg(not(test))]
fn step(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests;
