//! `highwater state`: what a checkpoint store holds.

use super::explain::{Definition, key_value};
use super::say;
use super::tables::table;
use crate::checkpoint::log::{Committed, Log, Record};
use crate::checkpoint::manifest::{Manifest, SourceState};
use crate::checkpoint::object::{ObjectRef, SectionKind};
use crate::checkpoint::savepoint::{self, open_savepoint, savepoint_at};
use crate::checkpoint::store::{Store, pipelines};
use crate::connector::Connectors;
use crate::error::{Error, Result, nearest};
use crate::time::{Epoch, format_micros};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `state`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the checkpoints, savepoints and generations of a pipeline
    Ls(LsArguments),
    /// Show what a checkpoint is made of: operators, positions of sources, watermarks, how far sinks have come
    Show(ShowArguments),
    /// Remove a savepoint
    Rm(RmArguments),
}

/// Which pipeline's state.
#[derive(Debug, Args)]
struct Place {
    /// A directory or URL with checkpoints, or a pipeline whose setting `checkpoint_store` names it
    #[arg(value_name = "STORE|FILE")]
    place: String,
    /// The pipeline, if the store has several
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Change a setting of FILE, as `SET 'KEY' = 'VALUE'` would
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct LsArguments {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct ShowArguments {
    #[command(flatten)]
    place: Place,
    /// Which checkpoint [default: the newest]
    #[arg(long, value_name = "EPOCH")]
    checkpoint: Option<Epoch>,
    /// A savepoint instead: its name, or the directory or URL to which it was moved
    #[arg(long, value_name = "NAME", conflicts_with = "checkpoint")]
    savepoint: Option<String>,
}

#[derive(Debug, Args)]
struct RmArguments {
    #[command(flatten)]
    place: Place,
    /// The savepoint's name
    #[arg(long, value_name = "NAME")]
    savepoint: String,
}

/// Does what `arguments` say.
pub fn run(arguments: &Arguments, connectors: &dyn Connectors) -> Result<()> {
    match &arguments.command {
        Command::Ls(arguments) => ls(&arguments.place, connectors),
        Command::Show(arguments) => show(arguments, connectors),
        Command::Rm(arguments) => rm(arguments, connectors),
    }
}

impl Place {
    /// The store of the pipeline.
    fn open(&self, connectors: &dyn Connectors) -> Result<Store> {
        let file = Path::new(&self.place);
        if self.place == "-" || file.is_file() {
            let plan = Definition { file: PathBuf::from(&self.place), set: self.set.clone() }.plan(connectors)?;
            let location = plan.settings.checkpoint_store.ok_or_else(|| {
                Error::invalid(format!("{}: the pipeline has no checkpoints", self.place))
                    .help("SET 'checkpoint_store' to a directory")
            })?;
            return self.store(&location, Some(&plan.settings.name));
        }
        if !self.set.is_empty() {
            return Err(Error::invalid(format!(
                "'{}' is not a pipeline, and --set changes settings of one",
                self.place
            )));
        }
        self.store(&self.place, None)
    }

    fn store(&self, location: &str, pipeline: Option<&str>) -> Result<Store> {
        let names = pipelines(location)?;
        let wanted = match (self.pipeline.as_deref().or(pipeline), names.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, []) => return Err(Error::invalid(format!("checkpoint store '{location}': it has no pipelines"))),
            (None, several) => {
                return Err(Error::invalid(format!("checkpoint store '{location}': it has several pipelines"))
                    .help(format!("--pipeline is one of {}", several.join(", "))));
            }
        };
        if names.iter().any(|name| name == wanted) {
            return Store::existing(location, wanted);
        }
        let error = Error::invalid(format!("checkpoint store '{location}': it has nothing of pipeline '{wanted}'"));
        Err(match nearest(wanted, names.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean --pipeline {near}?")),
            None if names.is_empty() => error,
            None => error.help(format!("--pipeline is one of {}", names.join(", "))),
        })
    }
}

/// What `ls` says of a checkpoint.
struct Line<'a> {
    committed: Committed<'a>,
    manifest: Result<Manifest>,
    newest: bool,
}

impl Line<'_> {
    fn remarks(&self) -> String {
        let mut remarks: Vec<String> = Vec::new();
        remarks.extend(self.newest.then(|| "restarts begin here".to_owned()));
        remarks.extend(self.committed.ended.then(|| "the input has ended".to_owned()));
        remarks.extend(self.committed.stopped.then(|| "stopped".to_owned()));
        remarks.extend(self.manifest.as_ref().err().map(|error| format!("damaged: {error}")));
        remarks.join(", ")
    }
}

fn ls(place: &Place, connectors: &dyn Connectors) -> Result<()> {
    let store = place.open(connectors)?;
    let log = Log::read(&store)?;
    let newest = log.latest_checkpoint().map(|committed| committed.number);
    let line = |committed: Committed<'_>| (committed.number, Manifest::read(&store, &committed.manifest_ref()));
    let mut manifests: BTreeMap<u64, Result<Manifest>> = log.checkpoints().map(line).collect();
    let lines: Vec<Line> = log
        .checkpoints()
        .filter_map(|committed| {
            let manifest = manifests.remove(&committed.number)?;
            Some(Line { committed, manifest, newest: newest == Some(committed.number) })
        })
        .collect();
    if place.json {
        return say(format!("{:#}", ls_json(&store, &log, &lines)));
    }
    let mut parts = vec![format!("{} · generation {}", store.location(), log.generation())];
    let mut generations = table(["generation", "workers", "began with", "program", "plan", "record"]);
    let mut savepoints = table(["savepoint", "epoch", "record"]);
    for (number, record) in log.records() {
        let Record::Start { generation, workers, fingerprint, restores, version, .. } = record else { continue };
        let began = restores.map_or("nothing".to_owned(), |epoch| format!("checkpoint {epoch}"));
        generations.add_row([
            &generation.to_string(),
            &workers.to_string(),
            &began,
            version,
            shortened(fingerprint),
            &number.to_string(),
        ]);
    }
    for (number, name, epoch, _) in log.savepoints() {
        savepoints.add_row([name, &epoch.to_string(), &number.to_string()]);
    }
    let mut checkpoints = table(["checkpoint", "taken", "generation", "objects", "state", "record", ""]);
    for line in &lines {
        let (taken, objects, bytes) = match &line.manifest {
            Ok(manifest) => {
                let bytes = size(state_bytes(manifest));
                (format_micros(manifest.created), manifest.state.len().to_string(), bytes)
            }
            Err(_) => ("?".into(), "?".into(), "?".into()),
        };
        let committed = line.committed;
        checkpoints.add_row([
            committed.epoch.to_string(),
            taken,
            committed.generation.to_string(),
            objects,
            bytes,
            committed.number.to_string(),
            line.remarks(),
        ]);
    }
    for table in [checkpoints, savepoints, generations].into_iter().filter(|table| table.row_count() > 0) {
        parts.push(table.trim_fmt());
    }
    if lines.is_empty() {
        parts.push("there are no checkpoints".to_owned());
    }
    say(parts.join("\n\n"))
}

fn ls_json(store: &Store, log: &Log, lines: &[Line]) -> Value {
    let checkpoint = |line: &Line| {
        let manifest = line.manifest.as_ref().ok();
        json!({
            "epoch": line.committed.epoch,
            "generation": line.committed.generation,
            "record": line.committed.number,
            "created_us": manifest.map(|manifest| manifest.created),
            "objects": manifest.map(|manifest| manifest.state.len()),
            "state_bytes": manifest.map(state_bytes),
            "ended": line.committed.ended,
            "stopped": line.committed.stopped,
            "newest": line.newest,
            "damage": line.manifest.as_ref().err().map(ToString::to_string),
        })
    };
    let mut generations = Vec::new();
    let savepoint = |(number, name, epoch, path)| json!({"name": name, "epoch": epoch, "path": path, "record": number});
    let savepoints: Vec<Value> = log.savepoints().map(savepoint).collect();
    for (number, record) in log.records() {
        let Record::Start { generation, workers, fingerprint, restores, version, .. } = record else { continue };
        generations.push(json!({
            "generation": generation,
            "workers": workers,
            "restores": restores,
            "version": version,
            "fingerprint": fingerprint,
            "record": number,
        }));
    }
    json!({
        "location": store.location(),
        "incarnation": log.incarnation(),
        "generation": log.generation(),
        "checkpoints": lines.iter().map(checkpoint).collect::<Vec<_>>(),
        "savepoints": savepoints,
        "generations": generations,
    })
}

fn rm(arguments: &RmArguments, connectors: &dyn Connectors) -> Result<()> {
    let store = arguments.place.open(connectors)?;
    let name = &arguments.savepoint;
    savepoint::remove(&store, &mut Log::read(&store)?, name)?;
    match arguments.place.json {
        true => say(json!({"removed": name})),
        false => say(format!("savepoint {name} is removed")),
    }
}

fn show(arguments: &ShowArguments, connectors: &dyn Connectors) -> Result<()> {
    let place = &arguments.place;
    // a savepoint that was carried away is a place, too
    let whole = arguments.checkpoint.is_none() && arguments.savepoint.is_none() && place.pipeline.is_none();
    let found = match whole && !Path::new(&place.place).is_file() && place.place != "-" {
        true => savepoint_at(&place.place)?,
        false => None,
    };
    let (store, manifest) = match found {
        Some(found) => found,
        None => {
            let store = place.open(connectors)?;
            match &arguments.savepoint {
                Some(name) => open_savepoint(name, &store)?,
                None => {
                    let manifest = checkpoint(&store, arguments.checkpoint)?;
                    (store, manifest)
                }
            }
        }
    };
    match place.json {
        true => say(format!("{:#}", show_json(&store, &manifest))),
        false => say(show_text(&store, &manifest)),
    }
}

fn checkpoint(store: &Store, epoch: Option<Epoch>) -> Result<Manifest> {
    let log = Log::read(store)?;
    let committed = match epoch {
        Some(epoch) => log.checkpoint(epoch),
        None => log.latest_checkpoint(),
    };
    let committed = committed.ok_or_else(|| {
        let known: Vec<String> = log.checkpoints().map(|committed| committed.epoch.to_string()).collect();
        let what = epoch.map_or("no checkpoint".to_owned(), |epoch| format!("no checkpoint {epoch}"));
        let error = Error::invalid(format!("{}: there is {what}", store.location()));
        match known.as_slice() {
            [] => error,
            known => error.help(format!("there are {}", known.join(", "))),
        }
    })?;
    Manifest::read(store, &committed.manifest_ref())
}

/// The sections of one table in all objects.
#[derive(Default)]
struct Sum {
    rows: u64,
    bytes: u64,
    objects: u64,
    groups: Vec<(usize, usize)>,
}

/// By step and table, in the order of the steps' names.
fn sums(objects: &[ObjectRef], kind: SectionKind) -> BTreeMap<(String, String), Sum> {
    let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
    for object in objects {
        for section in object.sections.iter().filter(|section| section.kind == kind) {
            let sum = sums.entry((section.step.clone(), section.table.clone())).or_default();
            sum.rows = sum.rows.saturating_add(section.rows);
            sum.bytes = sum.bytes.saturating_add(section.bytes);
            sum.objects += 1;
            sum.groups.push(object.groups);
        }
    }
    for sum in sums.values_mut() {
        sum.groups.sort_unstable();
        sum.groups.dedup();
    }
    sums
}

/// `0..2048, 2048..4096`.
fn ranges(groups: &[(usize, usize)]) -> String {
    groups.iter().map(|(start, end)| format!("{start}..{end}")).collect::<Vec<_>>().join(", ")
}

fn show_text(store: &Store, manifest: &Manifest) -> String {
    let mut parts = vec![format!(
        "{} · checkpoint {} · {} · generation {} · {} · plan {}",
        store.location(),
        manifest.epoch,
        format_micros(manifest.created),
        manifest.generation,
        match manifest.workers {
            1 => "1 worker".to_owned(),
            workers => format!("{workers} workers"),
        },
        shortened(&manifest.fingerprint),
    )];
    let mut steps = table(["step", "watermark", "table", "rows", "bytes", "objects", "key groups"]);
    let state = sums(&manifest.state, SectionKind::State);
    for step in &manifest.steps {
        let mut own = state.iter().filter(|((name, _), _)| *name == step.name).peekable();
        if own.peek().is_none() {
            steps.add_row([step.name.as_str(), &step.watermark.to_string()]);
        }
        for ((_, table), sum) in own {
            steps.add_row([
                &step.name,
                &step.watermark.to_string(),
                table,
                &sum.rows.to_string(),
                &size(sum.bytes),
                &sum.objects.to_string(),
                &ranges(&sum.groups),
            ]);
        }
    }
    let mut sources = table(["source", "split", "position", "watermark", ""]);
    for SourceState { table, splits } in &manifest.sources {
        for split in splits {
            sources.add_row([
                table,
                &split.start.name,
                &split.start.position.map_or("its start".to_owned(), |position| position.to_string()),
                &split.watermark.to_string(),
                &if split.idle { "idle".to_owned() } else { String::new() },
            ]);
        }
    }
    let mut sinks = table(["sink", "shard", "published up to", "records to publish", "bytes"]);
    let outputs = sums(&manifest.outputs, SectionKind::Output);
    for sink in &manifest.sinks {
        for (shard, published) in sink.shards.iter().enumerate() {
            let waiting = outputs.get(&(sink.step.clone(), shard.to_string()));
            sinks.add_row([
                &sink.table,
                &shard.to_string(),
                &published.map_or("nothing yet".to_owned(), |epoch| format!("checkpoint {epoch}")),
                &waiting.map_or(0, |sum| sum.rows).to_string(),
                &size(waiting.map_or(0, |sum| sum.bytes)),
            ]);
        }
    }
    for table in [steps, sources, sinks].into_iter().filter(|table| table.row_count() > 0) {
        parts.push(table.trim_fmt());
    }
    parts.join("\n\n")
}

fn show_json(store: &Store, manifest: &Manifest) -> Value {
    let groups = |groups: &[(usize, usize)]| groups.iter().map(|(start, end)| json!([start, end])).collect::<Vec<_>>();
    let state = sums(&manifest.state, SectionKind::State);
    let tables = |name: &str| {
        let own = state.iter().filter(|((step, _), _)| step == name);
        let table = |((_, table), sum): (&(String, String), &Sum)| {
            json!({
                "table": table,
                "rows": sum.rows,
                "bytes": sum.bytes,
                "objects": sum.objects,
                "key_groups": groups(&sum.groups),
            })
        };
        own.map(table).collect::<Vec<_>>()
    };
    let steps = manifest.steps.iter().map(|step| {
        json!({
            "step": step.name,
            "identity": step.identity,
            "watermark": step.watermark.to_string(),
            "tables": tables(&step.name),
        })
    });
    let sources = manifest.sources.iter().map(|source| {
        let splits = source.splits.iter().map(|split| {
            json!({
                "number": split.number,
                "split": split.start.name,
                "position": split.start.position,
                "watermark": split.watermark.to_string(),
                "idle": split.idle,
            })
        });
        json!({"table": source.table, "splits": splits.collect::<Vec<_>>()})
    });
    let outputs = sums(&manifest.outputs, SectionKind::Output);
    let sinks = manifest.sinks.iter().map(|sink| {
        let shards = sink.shards.iter().enumerate().map(|(shard, published)| {
            let waiting = outputs.get(&(sink.step.clone(), shard.to_string()));
            json!({
                "shard": shard,
                "published": published,
                "waiting_rows": waiting.map_or(0, |sum| sum.rows),
                "waiting_bytes": waiting.map_or(0, |sum| sum.bytes),
            })
        });
        json!({"table": sink.table, "step": sink.step, "shards": shards.collect::<Vec<_>>()})
    });
    json!({
        "location": store.location(),
        "epoch": manifest.epoch,
        "generation": manifest.generation,
        "workers": manifest.workers,
        "fingerprint": manifest.fingerprint,
        "created_us": manifest.created,
        "steps": steps.collect::<Vec<_>>(),
        "sources": sources.collect::<Vec<_>>(),
        "sinks": sinks.collect::<Vec<_>>(),
        "objects": manifest.state,
        "outputs": manifest.outputs,
    })
}

/// The size of all objects that a checkpoint restores.
fn state_bytes(manifest: &Manifest) -> u64 {
    manifest.state.iter().fold(0, |sum, object| sum.saturating_add(object.bytes))
}

/// The first digits of a fingerprint, which tell plans apart.
fn shortened(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// `17 B`, `3.2 MiB`.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        unit => format!("{amount:.1} {}", units[unit]),
    }
}
