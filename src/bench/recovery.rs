//! A supervised run with large state is killed again and again: how long from the kill until its next generation has committed a
//! checkpoint, and until a row of that can be read.
//!
//! ```text
//! filled: each key once ──┐
//! slow: key by key, anew ─┼─ GROUP BY k: all keys are in the state
//!                         └─▶ topic, exactly once
//! ```
//! At the end the topic must hold the first keys of `slow`, each once and without a gap, and the state must have counted those
//! twice and all others once: so no state was lost, and no row lost or doubled.

use super::kafka::{Reader, Topics, progress_of};
use super::meter::Spent;
use super::{Case, Measured, Run, pipelines};
use crate::checkpoint::log::Log;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::object::{self, Section};
use crate::checkpoint::store::Store;
use crate::error::{Error, Result};
use crate::runtime::spawn::descendants;
use crate::runtime::usage;
use crate::time::{Clock, SystemClock, Watermark};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the pipeline is called.
const NAME: &str = "recovery";

/// How long filling may take.
const FILL_WAIT: Duration = Duration::from_secs(600);

/// How long a recovery may take.
const WAIT: Duration = Duration::from_secs(120);

/// How long the pipeline runs undisturbed before it is killed; some more, by chance, up to a checkpoint's interval.
const CALM: Duration = Duration::from_secs(4);

/// Between two looks at the log.
const LOOK: Duration = Duration::from_millis(10);

/// Letters of each key's payload: with the key and its count a row of state has about 100 bytes.
const LETTERS: usize = 84;

const PIPELINE: &str = "
SET 'pipeline.name' = '{name}';
SET 'checkpoint_store' = '{store}';
SET 'checkpoint_interval' = '{interval}';
CREATE TABLE filled (k BIGINT, payload STRING) WITH (
  'connector' = 'datagen', 'number-of-rows' = '{keys}', 'fields.k.kind' = 'sequence', 'fields.payload.length' = '{letters}');
CREATE TABLE slow (k BIGINT, payload STRING) WITH (
  'connector' = 'datagen', 'rows-per-second' = '200', 'splits' = '1', 'fields.k.kind' = 'sequence',
  'fields.payload.length' = '{letters}');
CREATE TABLE seen (k BIGINT) WITH (
  'connector' = 'kafka', 'properties.bootstrap.servers' = '{bootstrap}', 'topic' = '{topic}', 'format' = 'json',
  'sink.progress-topic' = '{progress}');
CREATE TABLE totals (k BIGINT, n BIGINT, greatest STRING) WITH ('connector' = 'blackhole');
INSERT INTO seen SELECT k FROM slow;
INSERT INTO totals
SELECT k, count(*) AS n, max(payload) AS greatest
FROM (SELECT k, payload FROM filled UNION ALL SELECT k, payload FROM slow)
GROUP BY k;
";

/// Fills the state of `case` and kills its pipeline `runs` times.
pub fn measure(case: &Case, topics: &mut Topics, runs: usize) -> Result<Measured> {
    let clock = SystemClock::default();
    let failed = |what: &str, error: std::io::Error| Error::unavailable(format!("{what}: {error}"));
    let folder = tempfile::tempdir().map_err(|error| failed("no temporary directory", error))?;
    let topic = topics.make_written_once("seen")?;
    let location = folder.path().join("checkpoints").display().to_string();
    let file = folder.path().join("recovery.sql");
    std::fs::write(&file, text(case, &location, topics.bootstrap(), &topic))
        .map_err(|error| failed("the pipeline cannot be written down", error))?;
    let store = Store::open(&location, NAME)?;
    let mut running = Supervised::start(&file, case.workers)?;
    let mut reader = Reader::new(topics.bootstrap(), &topic)?;
    let mut rows: Vec<Option<u64>> = Vec::new();
    running.until("the state is filled", FILL_WAIT, &clock, || Ok(filled(&store)?.then_some(())))?;
    let mut random = Pcg64Mcg::seed_from_u64(case.seed);
    let mut measured = Measured::new(case, Some(0));
    for _ in 0..runs {
        let calm = CALM + Duration::from_millis(random.random_range(0..1000));
        let since = clock.monotonic();
        while clock.monotonic().saturating_sub(since) < calm {
            reader.step(|record| rows.push(key_of(record)))?;
            std::thread::sleep(LOOK);
        }
        let before = committed(&store)?.unwrap_or_default();
        let victims = descendants(running.child.id());
        let begin = clock.monotonic();
        victims.iter().for_each(|id| signal(*id, Signal::SIGKILL));
        let taken = || clock.monotonic().saturating_sub(begin);
        running.until("it has recovered", WAIT, &clock, || {
            reader.step(|record| rows.push(key_of(record)))?;
            Ok(committed(&store)?.filter(|generation| *generation > before))
        })?;
        let until_committed = taken();
        let known = rows.len();
        running.until("a row is visible", WAIT, &clock, || {
            reader.step(|record| rows.push(key_of(record)))?;
            Ok((rows.len() > known).then_some(()))
        })?;
        let until_visible = taken();
        let used = descendants(running.child.id()).into_iter().map(usage::of_process);
        let (cpu, memory) = used.fold((Duration::ZERO, 0), |sum, process| (sum.0 + process.0, sum.1 + process.1));
        let spent = Spent {
            prepare_seconds: 0.0,
            wall_seconds: until_visible.as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
            memory_before_bytes: 0,
            memory_peak_bytes: memory,
        };
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let epoch_micros = Some((micros(until_committed), micros(until_visible)));
        measured.pipeline.push(Run { spent, epochs: 0, epoch_micros, answer: None });
        tracing::info!(keys = case.rows, ?until_committed, ?until_visible, cpu = ?cpu, state_bytes = state_bytes(&store)?, "recovered");
    }
    running.stop(&clock)?;
    while !reader.at_end()? {
        reader.step(|record| rows.push(key_of(record)))?;
    }
    let seen = verified(rows).map_err(|error| error.within(case.to_string()))?;
    verify_state(&store, case.rows, seen).map_err(|error| error.within(case.to_string()))?;
    measured.verified_rows = Some(seen);
    Ok(measured)
}

fn text(case: &Case, store: &str, bootstrap: &str, topic: &str) -> String {
    PIPELINE
        .replace("{name}", NAME)
        .replace("{store}", store)
        .replace("{interval}", pipelines::INTERVAL)
        .replace("{keys}", &case.rows.to_string())
        .replace("{letters}", &LETTERS.to_string())
        .replace("{bootstrap}", bootstrap)
        .replace("{topic}", topic)
        .replace("{progress}", &progress_of(topic))
}

/// The generation of the newest checkpoint.
fn committed(store: &Store) -> Result<Option<u64>> {
    Ok(manifest(store)?.map(|manifest| manifest.generation))
}

fn manifest(store: &Store) -> Result<Option<Manifest>> {
    let log = Log::read(store)?;
    log.latest_checkpoint().map(|record| Manifest::read(store, &record.manifest_ref())).transpose()
}

/// True once a checkpoint has all of `filled`.
fn filled(store: &Store) -> Result<bool> {
    let Some(manifest) = manifest(store)? else { return Ok(false) };
    let source = manifest.sources.iter().find(|source| source.table == "filled");
    Ok(source.is_some_and(|source| {
        !source.splits.is_empty() && source.splits.iter().all(|split| split.watermark == Watermark::END)
    }))
}

/// What a recovery reads, compressed.
fn state_bytes(store: &Store) -> Result<u64> {
    Ok(manifest(store)?.map_or(0, |manifest| manifest.state.iter().map(|object| object.bytes).sum()))
}

/// The key of a record of the topic; None if it is no row of ours.
fn key_of(record: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(record).ok()?["k"].as_u64()
}

/// How many keys came out, if they are the first of all, each once.
fn verified(rows: Vec<Option<u64>>) -> Result<u64> {
    let mut found: Vec<u64> = rows
        .into_iter()
        .map(|row| row.ok_or_else(|| Error::internal("the topic holds a record that is no row")))
        .collect::<Result<_>>()?;
    found.sort_unstable();
    match found.iter().zip(0..).find(|(key, wanted)| *key != wanted) {
        None if found.is_empty() => Err(Error::internal("no row came out")),
        None => Ok(found.len() as u64),
        Some((key, wanted)) => Err(Error::internal(format!("key {key} comes out where key {wanted} should"))),
    }
}

/// That the newest checkpoint has counted the first `keys` once, and the first `seen` once more.
fn verify_state(store: &Store, keys: u64, seen: u64) -> Result<()> {
    let mut manifest = manifest(store)?.ok_or_else(|| Error::internal("there is no checkpoint"))?;
    // of a key the newest row counts
    manifest.state.sort_by_key(|object| (object.epoch, !object.base));
    let mut counts = vec![0; keys.max(seen) as usize];
    for object in &manifest.state {
        for section in object::read(store, object)? {
            let Section::State { table, .. } = section else { continue };
            let numbers = |column: usize| {
                let column = table.rows.columns().get(column);
                let numbers = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
                numbers.ok_or_else(|| Error::internal("the state is not of keys and counts"))
            };
            for (key, count) in numbers(0)?.values().iter().zip(numbers(1)?.values()) {
                let place = usize::try_from(*key).ok().and_then(|key| counts.get_mut(key));
                *place.ok_or_else(|| Error::internal(format!("key {key} was never read")))? = *count;
            }
        }
    }
    let wanted = |key: usize| [keys, seen].iter().filter(|first| (key as u64) < **first).count() as i64;
    match counts.iter().enumerate().find(|(key, count)| **count != wanted(*key)) {
        None => Ok(()),
        Some((key, count)) => {
            Err(Error::internal(format!("the state has counted key {key} {count} times, not {}", wanted(key))))
        }
    }
}

/// `highwater run`, which starts its pipeline again when it dies; dropping ends all.
struct Supervised {
    child: Child,
    /// What it says.
    log: PathBuf,
}

impl Supervised {
    fn start(file: &Path, workers: usize) -> Result<Self> {
        let cannot = |error: std::io::Error| Error::unavailable(format!("the pipeline cannot be started: {error}"));
        let log = file.with_extension("log");
        let said = File::create(&log).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg("run").arg(file).args(["--no-progress", "--workers", &workers.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.spawn().map(|child| Supervised { child, log }).map_err(cannot)
    }

    /// Looks again and again until there is something.
    fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        clock: &SystemClock,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let since = clock.monotonic();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.ended(&format!("with {status} before {what}")));
            }
            if clock.monotonic().saturating_sub(since) > patience {
                return Err(Error::internal(format!("after {patience:?} it is not so that {what}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn ended(&self, how: &str) -> Error {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        Error::internal(format!("the pipeline ended {how}; it said last: {}", said.lines().last().unwrap_or("nothing")))
    }

    /// Ends it with a last checkpoint.
    fn stop(&mut self, clock: &SystemClock) -> Result<()> {
        signal(self.child.id(), Signal::SIGTERM);
        let since = clock.monotonic();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.ended(&format!("with {status}"))),
                _ if clock.monotonic().saturating_sub(since) > WAIT => {
                    return Err(Error::internal("the pipeline does not stop"));
                }
                _ => std::thread::sleep(LOOK),
            }
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let children = descendants(self.child.id());
            signal(self.child.id(), Signal::SIGKILL);
            let _ = self.child.wait();
            children.into_iter().for_each(|id| signal(id, Signal::SIGKILL));
        }
    }
}

fn signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        kill(Pid::from_raw(id), signal).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_a_double_are_noticed() {
        let rows = |rows: &[u64]| verified(rows.iter().copied().map(Some).collect());
        assert_eq!(rows(&[1, 0, 2]).unwrap(), 3);
        for wrong in [&[][..], &[0, 2], &[0, 0, 1], &[1]] {
            assert!(rows(wrong).is_err(), "{wrong:?}");
        }
        assert!(verified(vec![key_of(b"{\"n\":0}")]).is_err());
        assert_eq!(verified(vec![key_of(b"{\"k\":0}")]).unwrap(), 1);
    }
}
