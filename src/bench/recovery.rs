//! A supervised run with large state is killed again and again: how long from the kill until its next generation has committed a
//! checkpoint, and until a row of that can be read.
//!
//! ```text
//! filled: each key once ──┐
//!                         ├─ GROUP BY k, all keys in the state ─ WHERE n > 1 ─▶ topic, exactly once
//! slow: key by key, anew ─┘
//! ```
//! What is in the topic at the end must be the first keys of `slow` without a gap, each counted twice and written once: so no
//! state was lost, and no row lost or doubled.

use super::kafka::{Reader, Topics, progress_of};
use super::meter::Spent;
use super::{Case, Measured, Run, pipelines};
use crate::checkpoint::log::Log;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::store::Store;
use crate::error::{Error, Result};
use crate::runtime::spawn::descendants;
use crate::runtime::usage;
use crate::time::{Clock, SystemClock, Watermark};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fs::File;
use std::path::Path;
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
CREATE TABLE twice (k BIGINT, n BIGINT, greatest STRING, PRIMARY KEY (k) NOT ENFORCED) WITH (
  'connector' = 'kafka', 'properties.bootstrap.servers' = '{bootstrap}', 'topic' = '{topic}', 'format' = 'json',
  'sink.progress-topic' = '{progress}');
INSERT INTO twice
SELECT k, n, greatest
FROM (
  SELECT k, count(*) AS n, max(payload) AS greatest
  FROM (SELECT k, payload FROM filled UNION ALL SELECT k, payload FROM slow)
  GROUP BY k
)
WHERE n > 1;
";

/// Fills the state of `case` and kills its pipeline `runs` times.
pub fn measure(case: &Case, topics: &mut Topics, runs: usize) -> Result<Measured> {
    let clock = SystemClock::default();
    let failed = |what: &str, error: std::io::Error| Error::unavailable(format!("{what}: {error}"));
    let folder = tempfile::tempdir().map_err(|error| failed("no temporary directory", error))?;
    let topic = topics.make_written_once("twice")?;
    let location = folder.path().join("checkpoints").display().to_string();
    let file = folder.path().join("recovery.sql");
    std::fs::write(&file, text(case, &location, topics.bootstrap(), &topic))
        .map_err(|error| failed("the pipeline cannot be written down", error))?;
    let store = Store::open(&location, NAME)?;
    let mut running = Supervised::start(&file, case.workers)?;
    let mut reader = Reader::new(topics.bootstrap(), &topic)?;
    let mut rows: Vec<Row> = Vec::new();
    running.until("the state is filled", FILL_WAIT, &clock, || Ok(filled(&store)?.then_some(())))?;
    let mut random = Pcg64Mcg::seed_from_u64(case.seed);
    let mut measured = Measured::new(case, Some(0));
    for _ in 0..runs {
        let calm = CALM + Duration::from_millis(random.random_range(0..1000));
        let since = clock.monotonic();
        while clock.monotonic().saturating_sub(since) < calm {
            reader.step(|record| rows.push(Row::of(record)))?;
            std::thread::sleep(LOOK);
        }
        let before = committed(&store)?.unwrap_or_default();
        let victims = descendants(running.0.id());
        let begin = clock.monotonic();
        victims.iter().for_each(|id| signal(*id, Signal::SIGKILL));
        let taken = || clock.monotonic().saturating_sub(begin);
        running.until("it has recovered", WAIT, &clock, || {
            reader.step(|record| rows.push(Row::of(record)))?;
            Ok(committed(&store)?.filter(|generation| *generation > before))
        })?;
        let until_committed = taken();
        let known = rows.len();
        running.until("a row is visible", WAIT, &clock, || {
            reader.step(|record| rows.push(Row::of(record)))?;
            Ok((rows.len() > known).then_some(()))
        })?;
        let until_visible = taken();
        let used = descendants(running.0.id()).into_iter().map(usage::of_process);
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
        reader.step(|record| rows.push(Row::of(record)))?;
    }
    measured.verified_rows = Some(verified(rows, case.rows).map_err(|error| error.within(case.to_string()))?);
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

/// A row of the topic; None if it is none of ours.
struct Row(Option<(u64, u64)>);

impl Row {
    fn of(record: &[u8]) -> Self {
        let fields: serde_json::Value = serde_json::from_slice(record).unwrap_or_default();
        Row(fields["k"].as_u64().zip(fields["n"].as_u64()))
    }
}

/// How many rows there are, if they are what they should be.
fn verified(rows: Vec<Row>, keys: u64) -> Result<u64> {
    let mut found: Vec<(u64, u64)> = rows
        .into_iter()
        .map(|row| row.0.ok_or_else(|| Error::internal("the topic holds a record that is no row")))
        .collect::<Result<_>>()?;
    found.sort_unstable();
    let count = found.len() as u64;
    if count == 0 || count > keys {
        return Err(Error::internal(format!("{count} rows came out, and there are {keys} keys")));
    }
    match found.iter().zip(0..).find(|(row, key)| **row != (*key, 2)) {
        None => Ok(count),
        Some(((key, n), wanted)) => {
            Err(Error::internal(format!("key {key} comes with count {n} where key {wanted} with count 2 should")))
        }
    }
}

/// `highwater run`, which starts its pipeline again when it dies; dropping ends all.
struct Supervised(Child);

impl Supervised {
    fn start(file: &Path, workers: usize) -> Result<Self> {
        let cannot = |error: std::io::Error| Error::unavailable(format!("the pipeline cannot be started: {error}"));
        let said = File::create(file.with_extension("log")).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg("run").arg(file).args(["--no-progress", "--workers", &workers.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.spawn().map(Supervised).map_err(cannot)
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
            if let Ok(Some(status)) = self.0.try_wait() {
                return Err(Error::internal(format!("the pipeline ended with {status} before {what}")));
            }
            if clock.monotonic().saturating_sub(since) > patience {
                return Err(Error::internal(format!("after {patience:?} it is not so that {what}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends it with a last checkpoint.
    fn stop(&mut self, clock: &SystemClock) -> Result<()> {
        signal(self.0.id(), Signal::SIGTERM);
        let since = clock.monotonic();
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(Error::internal(format!("the pipeline ended with {status}"))),
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
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let children = descendants(self.0.id());
            signal(self.0.id(), Signal::SIGKILL);
            let _ = self.0.wait();
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
    fn a_gap_a_double_and_a_lost_state_are_noticed() {
        let rows = |rows: &[(u64, u64)]| verified(rows.iter().map(|row| Row(Some(*row))).collect(), 10);
        assert_eq!(rows(&[(1, 2), (0, 2), (2, 2)]).unwrap(), 3);
        for wrong in [&[][..], &[(0, 2), (2, 2)], &[(0, 2), (0, 2)], &[(0, 2), (1, 3)]] {
            assert!(rows(wrong).is_err(), "{wrong:?}");
        }
        assert!(verified(vec![Row::of(b"{\"k\":0}")], 10).is_err());
        assert_eq!(verified(vec![Row::of(b"{\"k\":0,\"n\":2,\"greatest\":\"a\"}")], 10).unwrap(), 1);
    }
}
