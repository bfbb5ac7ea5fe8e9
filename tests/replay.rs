//! Epochs that are seen again say what was published when they were new, whatever happened in between.

#[path = "support/outside.rs"]
mod outside;
#[path = "support/pipeline.rs"]
mod pipeline;

use highwater::checkpoint::history::{Begin, Stretch};
use highwater::checkpoint::log::Log;
use highwater::checkpoint::store::Store;
use highwater::connector::builtin::Builtin;
use highwater::connector::{Context, Polled, Source, Split, SplitStart};
use highwater::error::{Error, ErrorKind, Result};
use highwater::runtime::replay::{self, Told};
use highwater::runtime::{From, Surroundings, Wishes, Workers, start_with};
use highwater::time::{Clock, Epoch, SystemClock};
use outside::{Life, Outside};
use pipeline::{MINUTE, Table, for_seeds, plan, texts, within};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LATE: &str =
    "CREATE TABLE late (word STRING, n BIGINT, ts TIMESTAMP(6), watermark TIMESTAMP(6)) WITH ('connector' = 'memory');";

/// Queries, each with the columns that it gives.
const QUERIES: &[(&str, &str)] = &[
    ("word STRING, n BIGINT, ts TIMESTAMP(6)", "SELECT word, n, ts FROM t WHERE n > 0"),
    (
        "window_start TIMESTAMP(6), word STRING, c BIGINT, s BIGINT",
        "SELECT window_start, word, count(*) AS c, sum(n) AS s FROM TUMBLE(t, ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end, word LATE INTO late",
    ),
    (
        "window_start TIMESTAMP(6), window_end TIMESTAMP(6), word STRING, c BIGINT",
        "SELECT window_start, window_end, word, count(*) AS c FROM SESSION(t PARTITION BY word, ts, INTERVAL '3' SECOND) GROUP BY window_start, window_end, word LATE INTO late",
    ),
    ("word STRING, c BIGINT, s BIGINT", "SELECT word, count(*) AS c, sum(n) AS s FROM t GROUP BY word"),
    ("word STRING, c BIGINT, s BIGINT", "SELECT word, count(*) AS c, sum(n) AS s FROM t GROUP BY word EMIT FINAL"),
    (
        "window_start TIMESTAMP(6), word STRING, n BIGINT, r BIGINT",
        "SELECT window_start, word, n, r FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, word ORDER BY n DESC) AS r FROM TUMBLE(t, ts, INTERVAL '10' SECOND)) WHERE r <= 2",
    ),
    (
        "window_start TIMESTAMP(6), word STRING, c BIGINT, n BIGINT",
        "SELECT a.window_start, a.word, a.c, b.n FROM (SELECT window_start, window_end, word, count(*) AS c FROM TUMBLE(t, ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end, word) a JOIN (SELECT window_start, window_end, word, n FROM TUMBLE(t, ts, INTERVAL '10' SECOND)) b ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.word = b.word",
    ),
];

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

/// A source whose rows come a few at a time, and sometimes not at once: no two runs have the same epochs.
struct Drip {
    inner: Arc<dyn Source>,
    seed: AtomicU64,
}

struct DripSplit {
    inner: Box<dyn Split>,
    state: u64,
    silent: u64,
}

impl Source for Drip {
    fn schema(&self) -> arrow::datatypes::SchemaRef {
        self.inner.schema()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.inner.splits(context)
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let opened = self.inner.open(splits, context)?;
        let drip = |inner| {
            let state = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            Box::new(DripSplit { inner, state, silent: 0 }) as Box<dyn Split>
        };
        Ok(opened.into_iter().map(drip).collect())
    }
}

impl Split for DripSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let dice = self.state >> 33;
        if self.silent > 0 {
            self.silent -= 1;
            return Ok(Polled::Pending);
        }
        if dice.is_multiple_of(2) {
            self.silent = (dice >> 4) % 6;
        }
        self.inner.poll(rows_max.min(1 + (dice % 9) as usize))
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn place(&self, row: usize) -> String {
        self.inner.place(row)
    }
}

/// Runs `text` in as many lives as it takes, each with its own number of workers.
fn run_in_lives(rng: &mut StdRng, text: &str, connectors: &dyn Fn(&Arc<Life>) -> Builtin) -> Arc<Outside> {
    let outside = Outside::new();
    for lives in 1.. {
        // later lives last longer, so that an end is reached
        let steps = if lives > 8 { i64::MAX / 2 } else { rng.random_range(1..30 + 20 * lives) };
        let life = Life::new(&outside, steps, 0);
        let surroundings = Surroundings { store: Some(life.store()), ..Surroundings::new(clock()) };
        let (plan, workers) = (plan(text, &connectors(&life)), rng.random_range(1..4));
        let watched = Arc::clone(&life);
        let result = within(MINUTE, text, move || {
            let running = start_with(plan, Workers::Threads(workers), surroundings).expect("it starts");
            let fate = running.fate();
            while !running.finished() {
                if watched.over() {
                    fate.fail(Error::internal("injected: killed"));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            running.wait().1
        });
        match result {
            Ok(()) => return outside,
            Err(error) => assert!(life.over(), "{error:?}\n{text}"),
        }
    }
    unreachable!("the last life has no end")
}

/// What is in the log of checkpoints: their epochs, in order.
fn checkpoints(store: &Store) -> Vec<Epoch> {
    Log::read(store).expect("it was written").checkpoints().map(|committed| committed.epoch).collect()
}

/// Rows as text, sorted, by table and by the checkpoint that ends their part of the history.
type Said = BTreeMap<(String, Epoch), Vec<String>>;

fn sorted(mut said: Said) -> Said {
    said.retain(|_, rows| !rows.is_empty());
    said.values_mut().for_each(|rows| rows.sort_unstable());
    said
}

fn published(outside: &Outside, tables: &[&str], after: Option<Epoch>, until: Epoch) -> Said {
    let mut said = Said::new();
    for table in tables {
        for (epoch, batch) in outside.published_with_epochs(table) {
            if after.is_none_or(|after| epoch > after) && epoch <= until {
                said.entry(((*table).to_owned(), epoch)).or_default().extend(texts(&batch));
            }
        }
    }
    sorted(said)
}

/// Sees `stretch` again; the epochs in which something is said are complete and in order.
fn again(text: &str, connectors: &Builtin, store: &Store, stretch: Stretch, workers: usize) -> (Said, Result<()>) {
    let ends = checkpoints(store);
    let (first, last) = (stretch.first(), stretch.last());
    let plan = plan(text, connectors);
    let store = store.clone();
    let replaying = replay::start(plan, &store, stretch, workers, None, clock());
    let mut replaying = match replaying {
        Ok(replaying) => replaying,
        Err(error) => return (Said::new(), Err(error)),
    };
    within(MINUTE, text, move || {
        let (mut said, mut before) = (Said::new(), None);
        while let Some(Told { epoch, rows }) = replaying.hear() {
            assert!(before < Some(epoch) && (first..=last).contains(&epoch), "{epoch} after {before:?}");
            before = Some(epoch);
            let end = *ends.iter().find(|end| **end >= epoch).expect("each epoch has its checkpoint");
            for (table, batch) in rows {
                let table = replaying.tables[table].table.clone();
                said.entry((table, end)).or_default().extend(texts(&batch));
            }
        }
        (sorted(said), replaying.finish().1)
    })
}

/// Sees everything again, and from each checkpoint, and compares with what was published.
fn check_all(rng: &mut StdRng, text: &str, connectors: &Builtin, outside: &Outside, tables: &[&str]) {
    let store = outside.store();
    let before = objects(&store);
    let ends = checkpoints(&store);
    let newest = *ends.last().expect("a run to the end has a checkpoint");
    let starts = [None].into_iter().chain(ends.iter().rev().skip(1).take(6).copied().map(Some));
    for start in starts {
        let workers = rng.random_range(1..4);
        // sometimes only up to an earlier checkpoint
        let later: Vec<Epoch> = ends.iter().copied().filter(|end| start.is_none_or(|start| *end > start)).collect();
        let until = if rng.random_bool(0.5) { newest } else { *later.choose(rng).expect("the last one is later") };
        let begin = start.map_or(Begin::Start, Begin::Checkpoint);
        let stretch = Stretch::read(&store, begin, Some(until)).expect("all of it is kept");
        let (said, result) = again(text, connectors, &store, stretch, workers);
        result.unwrap_or_else(|error| panic!("{error:?}: from {start:?} until {until} on {workers}\n{text}"));
        let expected = published(outside, tables, start, until);
        assert!(
            said == expected,
            "from {start:?} until {until} on {workers} workers: {said:#?}\ninstead of {expected:#?}\n{text}"
        );
    }
    assert_eq!(objects(&store), before, "the store is only read");
}

fn objects(store: &Store) -> Vec<String> {
    let listed = store.list("").expect("it can be listed").into_iter().map(|entry| entry.path);
    // a life that has ended may still fold what it knew into a base
    listed.filter(|path| !path.contains("/base-")).collect()
}

#[test]
fn what_is_seen_again_is_what_was_published() {
    for_seeds(16, |rng| {
        let table = Table::random(rng);
        let (columns, query) = *QUERIES.choose(rng).expect("there are queries");
        let in_time = rng.random_bool(0.5);
        let mut ddl = table.ddl();
        if in_time {
            ddl = ddl.replace(&format!("'{} rows'", table.tick), "'1 ms'");
            let idle = *["off", "1 ms", "3 ms"].choose(rng).expect("there are some");
            let when = if rng.random_bool(0.2) { "wall_clock" } else { "hold" };
            write!(ddl, "SET 'idle_timeout' = '{idle}'; SET 'when_all_idle' = '{when}';").expect("a string takes text");
        }
        let text = format!(
            "SET 'checkpoint_store' = 'memory'; SET 'checkpoint_retain' = '10000'; SET 'checkpoint_interval' = '{} epochs'; {ddl} {LATE}
             CREATE TABLE out ({columns}) WITH ('connector' = 'memory'); INSERT INTO out {query};",
            rng.random_range(1..5),
        );
        let seed = rng.random();
        let source: Arc<dyn Source> = match in_time {
            true => Arc::new(Drip { inner: table.source(), seed: AtomicU64::new(seed) }),
            false => table.source(),
        };
        let connectors = |life: &Arc<Life>| {
            Builtin::default()
                .with_source("t", Arc::clone(&source))
                .with_sink("out", life.sink())
                .with_sink("late", life.sink())
        };
        let outside = run_in_lives(rng, &text, &connectors);
        let nobody = Life::new(&outside, 0, 0);
        check_all(rng, &text, &connectors(&nobody), &outside, &["out", "late"]);

        let whole = replay::whole(plan(&text, &connectors(&nobody)), &outside.store(), None, clock());
        for rows in whole.expect("everything is kept") {
            let mut said: Vec<String> = rows.rows.iter().flat_map(|(_, batch)| texts(batch)).collect();
            let mut expected: Vec<String> = outside.published(&rows.table.table).iter().flat_map(texts).collect();
            said.sort_unstable();
            expected.sort_unstable();
            assert_eq!(said, expected, "{}", rows.table.table);
        }
    });
}

/// Lines of JSON, some of which are none, and some empty.
fn lines(rng: &mut StdRng) -> String {
    let mut lines = String::new();
    for n in 0..rng.random_range(1..400) {
        match rng.random_range(0..12) {
            0 => lines.push_str("{\"n\": nonsense\n"),
            1 => lines.push_str("\n\n"),
            _ => writeln!(lines, "{{\"n\": {n}, \"at\": \"2026-01-01 00:{:02}:{:02}\"}}", n / 60, n % 60)
                .expect("a string takes text"),
        }
    }
    lines
}

fn over_files(folder: &std::path::Path, interval: u64, tick: &str) -> String {
    format!(
        "SET 'checkpoint_store' = 'memory'; SET 'checkpoint_retain' = '10000'; SET 'tick' = '{tick}'; SET 'checkpoint_interval' = '{interval} epochs';
         CREATE TABLE letters (record BYTES, reason STRING) WITH ('connector' = 'memory');
         CREATE TABLE t (n BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at - INTERVAL '2' SECOND) WITH ('connector' = 'file', 'path' = '{}/*.json',
           'split.bytes' = '700', 'format' = 'json', 'on_error' = 'dead_letter(letters)', 'on_error.max-share' = '1');
         CREATE TABLE out (window_start TIMESTAMP(6), c BIGINT, s BIGINT) WITH ('connector' = 'memory');
         INSERT INTO out SELECT window_start, count(*), sum(n) FROM TUMBLE(t, at, INTERVAL '10' SECOND) GROUP BY window_start, window_end;",
        folder.display()
    )
}

#[test]
fn files_are_read_again_with_their_bad_records() {
    for_seeds(10, |rng| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for file in 0..rng.random_range(1..4) {
            std::fs::write(folder.path().join(format!("{file}.json")), lines(rng)).expect("it can be written");
        }
        let tick = *["3 rows", "20 rows", "1 ms"].choose(rng).expect("there are some");
        let text = over_files(folder.path(), rng.random_range(1..4), tick);
        let connectors =
            |life: &Arc<Life>| Builtin::default().with_sink("out", life.sink()).with_sink("letters", life.sink());
        let outside = run_in_lives(rng, &text, &connectors);
        let nobody = Life::new(&outside, 0, 0);
        check_all(rng, &text, &connectors(&nobody), &outside, &["out", "letters"]);
    });
}

/// A history of `text` without trouble.
fn history(text: &str, connectors: &dyn Fn(&Arc<Life>) -> Builtin) -> Arc<Outside> {
    let outside = Outside::new();
    go_on(&outside, text, connectors, Wishes::default());
    outside
}

fn go_on(outside: &Arc<Outside>, text: &str, connectors: &dyn Fn(&Arc<Life>) -> Builtin, wishes: Wishes) {
    let life = Life::new(outside, i64::MAX / 2, 0);
    let surroundings = Surroundings { store: Some(life.store()), wishes, ..Surroundings::new(clock()) };
    let plan = plan(text, &connectors(&life));
    let run = move || start_with(plan, Workers::Threads(2), surroundings).expect("it starts").wait().1;
    within(MINUTE, text, run).expect("it runs");
}

#[test]
fn input_that_is_not_what_it_was_is_refused() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("a.json");
    let line = |n: u32, second: u32| format!("{{\"n\": {n:03}, \"at\": \"2026-01-01 00:00:{second:02}\"}}\n");
    let content: String = (0..60).map(|n| line(100 + n, n)).collect();
    std::fs::write(&file, &content).expect("it can be written");
    let text = over_files(folder.path(), 2, "5 rows");
    let connectors =
        |life: &Arc<Life>| Builtin::default().with_sink("out", life.sink()).with_sink("letters", life.sink());
    let outside = history(&text, &connectors);
    let store = outside.store();
    let see = |begin| {
        let stretch = Stretch::read(&store, begin, None).expect("it is kept");
        again(&text, &connectors(&Life::new(&outside, 0, 0)), &store, stretch, 2)
    };
    let refused = |changed: &str, part: &str| {
        // in place: another file under its name is refused as one
        std::fs::write(&file, changed).expect("it can be written");
        for begin in [Begin::Start, Begin::Checkpoint(checkpoints(&store)[0])] {
            let (_, result) = see(begin);
            let error = result.expect_err(part);
            let said = format!("{error} {error:?}");
            // what the source itself refuses before it is read is wrong for good
            let expected = if part == "it had" { ErrorKind::Invalid } else { ErrorKind::Unavailable };
            assert_eq!(error.kind(), expected, "{said}");
            assert!(said.contains(part) && said.contains("a.json"), "{said}");
            assert!(said.contains("table \"t\"") || said.contains("source t"), "{said}");
        }
        std::fs::write(&file, &content).expect("it can be written");
        see(Begin::Start).1.expect("it is what it was again");
    };
    // a line that is longer, so that others follow at other places
    let longer = content.replacen("\"n\": 142", "\"n\": 1421", 1);
    refused(&longer, "the input is not what it was");
    let shorter = content.replacen("\"n\": 142", "\"n\":142", 1);
    refused(&shorter, "it had");
    refused(&shorter.replace("159", "1590"), "the input is not what it was");
    // of the same length, in a part that is read after the checkpoint, too
    refused(&content.replace("00:00:48", "00:01:48"), "its watermark was");
    refused(&content.replace("00:00:48\"}\n", "00:00:48\"} "), "the input is not what it was");
}

#[test]
fn a_stretch_follows_the_branch_that_was_gone_on_with() {
    for_seeds(1, |rng| {
        let mut table = Table { tick: 5, ..Table::random(rng) };
        while table.splits.iter().all(|split| split.len() < 100) {
            table = Table { tick: 5, ..Table::random(rng) };
        }
        let text = format!(
            "SET 'checkpoint_store' = 'memory'; SET 'checkpoint_retain' = '10000'; SET 'checkpoint_interval' = '2 epochs'; {}
             CREATE TABLE out (word STRING, c BIGINT) WITH ('connector' = 'memory'); INSERT INTO out SELECT word, count(*) FROM t GROUP BY word;",
            table.ddl()
        );
        let source = table.source();
        let connectors =
            |life: &Arc<Life>| Builtin::default().with_source("t", source.clone()).with_sink("out", life.sink());
        let outside = history(&text, &connectors);
        let store = outside.store();
        let first = checkpoints(&store);
        let back = Wishes { from: From::Checkpoint(first[2]), ..Wishes::default() };
        go_on(&outside, &text, &connectors, back);
        let second: Vec<Epoch> = checkpoints(&store).split_off(first.len());
        assert!(second.len() > 2, "{second:?}");
        let seen = |begin, until| {
            let stretch = Stretch::read(&store, begin, until).expect("it is kept");
            let epochs: Vec<Epoch> = stretch.bindings.iter().map(|binding| binding.epoch).collect();
            let (said, result) = again(&text, &connectors(&Life::new(&outside, 0, 0)), &store, stretch, 2);
            result.expect("it is what it was");
            (said, epochs)
        };
        let rows = |said: Said| said.into_values().map(|rows| rows.len()).sum::<usize>();
        let (said, epochs) = seen(Begin::Start, None);
        // not those that were left behind
        assert!(epochs.iter().all(|epoch| *epoch <= first[2] || *epoch > first[first.len() - 1]), "{epochs:?}");
        let (before, epochs) = seen(Begin::Start, first.last().copied());
        assert_eq!(epochs.last(), first.last());
        assert_eq!(rows(said), rows(before), "both have read everything");
        let error = Stretch::read(&store, Begin::Checkpoint(first[3]), None).expect_err("it was left behind");
        assert!(error.to_string().contains("does not lead to the last epoch"), "{error}");
        let error = Stretch::read(&store, Begin::Checkpoint(1_000_000), None).expect_err("it never was");
        assert!(error.to_string().contains("checkpoint 1000000 is not kept"), "{error}");
        let error = Stretch::read(&store, Begin::Start, Some(1_000_000)).expect_err("it never was");
        assert!(error.to_string().contains("epoch 1000000 is not recorded"), "{error}");
    });
}

/// Exit code, standard output and standard error of a call in `folder`.
fn call(folder: &std::path::Path, arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(arguments)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn good(folder: &std::path::Path, arguments: &[&str]) -> String {
    let (code, out, err) = call(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

/// All files below `folder`, with their bytes.
fn files(folder: &std::path::Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn the_program_shows_recorded_epochs_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let orders: String = (0..40)
        .map(|n| {
            // every tenth comes too late
            let second = if n % 10 == 9 { n - 9 } else { n };
            format!(
                "{{\"id\": {n}, \"item\": \"{}\", \"at\": \"2026-01-01 00:00:{second:02}\"}}\n",
                ["tea", "jam"][n % 2]
            )
        })
        .collect();
    std::fs::write(folder.path().join("orders.json"), orders).unwrap();
    let definition = "
SET 'checkpoint_store' = 'checkpoints';
SET 'checkpoint_interval' = '2 epochs';
SET 'checkpoint_retain' = '100';
SET 'tick' = '5 rows';
CREATE TABLE orders (id BIGINT, item STRING, at TIMESTAMP(3), WATERMARK FOR at AS at)
  WITH ('connector' = 'file', 'path' = 'orders.json', 'format' = 'json');
CREATE TABLE counts (start TIMESTAMP(3), item STRING, n BIGINT) WITH ('connector' = 'file', 'path' = 'FOLDER/counts', 'format' = 'json', 'delivery' = 'at-least-once');
CREATE TABLE late (id BIGINT, watermark TIMESTAMP(3)) WITH ('connector' = 'file', 'path' = 'FOLDER/late', 'format' = 'json', 'delivery' = 'at-least-once');
INSERT INTO counts SELECT window_start, item, count(*) FROM TUMBLE(orders, at, INTERVAL '8' SECOND)
  GROUP BY window_start, window_end, item LATE INTO late;
";
    let definition = definition.replace("FOLDER", &folder.path().display().to_string());
    std::fs::write(folder.path().join("p.sql"), definition).unwrap();
    good(folder.path(), &["run", "p.sql", "--workers", "2"]);
    let before = files(folder.path());
    let written = |table: &str| {
        let parts = before.iter().filter(|(path, _)| path.starts_with(folder.path().join(table)));
        let texts = parts.map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap()).collect::<String>();
        let mut lines: Vec<String> = texts.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let (counts, late) = (written("counts"), written("late"));
    assert!(counts.len() > 6 && late.len() == 2, "{counts:?} {late:?}");

    let shown = |arguments: &[&str]| {
        let mut lines: Vec<String> =
            good(folder.path(), &[&["replay", "p.sql"], arguments].concat()).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let epoch = |line: &String| -> u64 {
        let (_, rest) = line.split_once("\"epoch\":").unwrap();
        rest.split(',').next().unwrap().parse().unwrap()
    };
    let rest = |line: &String| format!("{{{}", line.split_once(',').unwrap().1);
    for workers in ["1", "3"] {
        let all = shown(&["--format", "json", "--table", "counts", "--workers", workers]);
        let mut rows: Vec<String> = all.iter().map(rest).collect();
        rows.sort_unstable();
        assert_eq!(rows, counts);
        let all_late = shown(&["--format", "json", "--table", "late", "--workers", workers]);
        let mut rows: Vec<String> = all_late.iter().map(rest).collect();
        rows.sort_unstable();
        assert_eq!(rows, late);
        // from a checkpoint, up to an epoch
        let part =
            shown(&["--format", "json", "--table", "counts", "--from", "3", "--until", "5", "--workers", workers]);
        let expected: Vec<String> = all.iter().filter(|line| (4..=5).contains(&epoch(line))).cloned().collect();
        assert!(!expected.is_empty() && part == expected, "{part:?} {expected:?}");
        // up to a row
        let (code, out, err) = call(
            folder.path(),
            &[
                "replay",
                "p.sql",
                "--format",
                "json",
                "--table",
                "late",
                "--until",
                "id > 10 AND watermark IS NOT NULL",
                "--workers",
                workers,
            ],
        );
        assert_eq!(code, 0, "{err}");
        assert!(out.lines().last().unwrap().contains("\"id\":29,"), "{out}");
        assert!(err.contains("a row of this epoch is as asked for epoch=5"), "{err}");
    }
    let both = good(folder.path(), &["replay", "p.sql", "--from", "start"]);
    assert!(both.contains("epoch | table  | start") && both.contains("epoch | table | id | watermark"), "{both}");
    let (_, _, err) = call(folder.path(), &["replay", "p.sql", "--table", "late", "--until", "id > 1000"]);
    assert!(err.contains("no row of these epochs"), "{err}");
    assert_eq!(files(folder.path()), before, "sinks and store are left alone");

    let refused = |arguments: &[&str], part: &str| {
        let (code, out, err) = call(folder.path(), &[&["replay", "p.sql"], arguments].concat());
        assert!(code == 2 && out.is_empty() && err.contains(part), "{code} {out} {err}");
    };
    refused(&["--table", "count"], "did you mean --table counts?");
    refused(&["--until", "id > 5"], "--table is one of counts, late");
    refused(&["--table", "late", "--until", "ide > 5"], "ide");
    refused(&["--table", "late", "--until", "id + 5"], "a condition is true or false, but this is BIGINT");
    refused(&["--table", "late", "--until", "id > "], "");
    refused(&["--from", "2"], "checkpoint 2 is not kept");
    refused(&["--until", "900"], "epoch 900 is not recorded");
    refused(&["--set", "checkpoint_store=nowhere"], "");
}
