//! Pipelines that are killed between any two steps and go on: what was published is what an undisturbed run says.

#[path = "support/clock.rs"]
mod clock;
#[path = "support/functions.rs"]
mod functions;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/queries.rs"]
mod queries;
#[path = "support/web.rs"]
mod web;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use clock::WildClock;
use highwater::checkpoint::log::{Log, Record};
use highwater::checkpoint::manifest::Manifest;
use highwater::checkpoint::store::Store;
use highwater::checkpoint::sweep::sweep;
use highwater::connector::builtin::Builtin;
use highwater::connector::extensions::Extensions;
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::error::Error;
use highwater::expr::ScalarFunction;
use highwater::runtime::lane::Offload;
use highwater::runtime::{Surroundings, Suspect, Upkeep, Wishes, Workers, start_with};
use highwater::sql::{self, Text};
use highwater::time::{Clock, SystemClock};
use outside::{Life, Outside, StagedSink};
use pipeline::{MINUTE, Shape, Table, for_seeds, plan, run, run_by, sorted, texts, within};
use queries::{QUERIES, text};
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use web::Web;

/// Runs the query in as many lives as it takes; each has its own number of workers and of steps.
fn run_in_lives(
    rng: &mut StdRng,
    table: &Table,
    text: &str,
    workers: &mut dyn FnMut(&mut StdRng) -> usize,
    clock: &dyn Fn(&mut StdRng) -> Arc<dyn Clock>,
) -> (Vec<String>, u32) {
    let outside = Outside::new();
    let text = format!(
        "SET 'checkpoint_store' = 'memory'; SET 'checkpoint_interval' = '{} epochs'; {}",
        rng.random_range(1..4),
        text
    );
    for lives in 1.. {
        // later lives last longer, so that an end is reached
        let steps = if lives > 25 { i64::MAX / 2 } else { rng.random_range(1..20 + 12 * i64::from(lives)) };
        let trouble = if rng.random_bool(0.3) { rng.random_range(5..20) } else { 0 };
        let life = Life::new(&outside, steps, trouble);
        let source = Arc::unwrap_or_clone(table.source());
        let newest = Arc::unwrap_or_clone(table.newest());
        let connectors = functions::extensions();
        let connectors = connectors.source("t", source).source("newest", newest);
        let connectors = connectors.sink("out", StagedSink(Arc::clone(&life)));
        let clock = clock(rng);
        let delay: u64 = rng.random();
        let offload = match rng.random_bool(0.5) {
            true => Offload::Threads,
            false => Offload::Inline(Arc::new(move || (delay % 7) as usize)),
        };
        // with few bytes most checkpoints have parts
        let part_bytes = [1, 300, 32 << 20][rng.random_range(0..3)];
        let upkeep = Upkeep { part_bytes, sweep_every: rng.random_range(1..17), ..Upkeep::default() };
        let surroundings = Surroundings { store: Some(life.store()), offload, upkeep, ..Surroundings::new(clock) };
        let (plan, workers) = (plan(&text, &connectors), workers(rng));
        let watched = Arc::clone(&life);
        let result = within(MINUTE, &text, move || {
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
            Ok(()) => {
                let mut rows: Vec<String> = outside.published("out").iter().flat_map(texts).collect();
                rows.sort_unstable();
                no_part_is_left_over(&outside.store());
                return (rows, lives);
            }
            Err(error) => assert!(life.over(), "{error:?}\n{text}"),
        }
    }
    unreachable!("the last life has no end")
}

/// Parts of checkpoints that never came to be go with the others that nobody needs.
fn no_part_is_left_over(store: &Store) {
    let mut log = Log::read(store).unwrap();
    sweep(store, &mut log, 1, i64::MAX, Duration::ZERO).unwrap();
    let newest = log.latest_checkpoint().map(|record| Manifest::read(store, &record.manifest_ref()).unwrap());
    let named: Vec<String> =
        newest.into_iter().flat_map(|manifest| manifest.outputs).map(|object| object.path).collect();
    let left: Vec<String> = store.list("").unwrap().into_iter().map(|entry| entry.path).collect();
    let over: Vec<&String> = left.iter().filter(|path| path.contains("/part-") && !named.contains(path)).collect();
    assert!(over.is_empty(), "{over:?}");
}

/// Runs `runs` random queries in lives, by `clock`.
fn many_lives(runs: usize, clock: &dyn Fn(&mut StdRng) -> Arc<dyn Clock>) {
    let counts = std::sync::Mutex::new((0, 0));
    for_seeds(runs, |rng| {
        let table = Table::random(rng);
        let query = std::env::var("HIGHWATER_QUERY")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| rng.random_range(0..QUERIES.len()));
        let (expected, _) = run(&text(&table, query), &table, Shape::Threads(1));
        let (found, took) = run_in_lives(rng, &table, &text(&table, query), &mut |rng| rng.random_range(1..4), clock);
        let extra: Vec<&String> = found.iter().filter(|row| !expected.contains(row)).collect();
        let lost: Vec<&String> = expected.iter().filter(|row| !found.contains(row)).collect();
        assert!(
            found == expected,
            "{} rows instead of {} after {took} lives; lost {lost:?}, wrong {extra:?}: {}",
            found.len(),
            expected.len(),
            QUERIES[query]
        );
        let mut counts = counts.lock().unwrap();
        *counts = (counts.0 + took, counts.1 + 1);
    });
    let (lives, runs) = counts.into_inner().unwrap();
    println!("{runs} runs in {lives} lives");
    assert!(runs == 1 || lives > 2 * runs, "hardly any life came to its end: {lives} in {runs} runs");
}

#[test]
fn aggregates_of_a_program_and_of_guests_live_on_like_built_in_ones() {
    const COLUMNS: &str = "word STRING, s BIGINT, q BIGINT";
    let query = |s: &str, q: &str| {
        let calls = format!("word, {s}, {q}");
        [
            format!(
                "SELECT {calls} FROM HOP(t, ts, INTERVAL '5' SECOND, INTERVAL '15' SECOND) GROUP BY window_start, window_end, word"
            ),
            format!("SELECT {calls} FROM t GROUP BY word"),
        ]
    };
    let (own, built_in) = (query("spread(n)", "squares(n)"), query("max(n) - min(n)", "sum(n * n)"));
    for_seeds(8, |rng| {
        let table = Table::random(rng);
        let kind = rng.random_range(0..own.len());
        let text = |query: &str| {
            format!(
                "{} CREATE TABLE out ({COLUMNS}) WITH ('connector' = 'memory'); INSERT INTO out {query};",
                table.ddl()
            )
        };
        let (expected, _) = run(&text(&built_in[kind]), &table, Shape::Threads(1));
        let (found, lives) = run_in_lives(rng, &table, &text(&own[kind]), &mut |rng| rng.random_range(1..4), &|_| {
            Arc::new(SystemClock::default())
        });
        assert!(found == expected, "after {lives} lives {found:?}\ninstead of {expected:?}");
    });
}

/// A service that says the same whenever it is asked.
#[test]
fn what_is_looked_up_over_many_lives_is_what_one_long_life_says() {
    let web = Web::start(|path| match path.len() % 4 {
        0 => (404, String::new()),
        length => (200, format!("{{\"size\": {length}}}")),
    });
    for_seeds(4, |rng| {
        let table = Table::random(rng);
        let joined = "SELECT t.word, t.ts, s.size FROM t LEFT JOIN sizes FOR SYSTEM_TIME AS OF PROCTIME() AS s ON s.word = t.word";
        let (columns, query) = match rng.random() {
            true => ("word STRING, ts TIMESTAMP(6), size BIGINT", joined.to_owned()),
            false => (
                "starts TIMESTAMP(6), word STRING, n BIGINT, size BIGINT",
                format!(
                    "SELECT window_start, word, count(*), sum(size) FROM TUMBLE(({joined}), DESCRIPTOR(ts), INTERVAL '10' SECOND) \
                     GROUP BY window_start, window_end, word"
                ),
            ),
        };
        let text = format!(
            "{} CREATE TABLE sizes (word STRING, size BIGINT) WITH ('connector' = 'http', 'url' = '{}/{{word}}', 'format' = 'json');
             CREATE TABLE out ({columns}) WITH ('connector' = 'memory'); INSERT INTO out {query};",
            table.ddl(),
            web.address
        );
        let (expected, _) = run(&text, &table, Shape::Threads(1));
        let (found, lives) =
            run_in_lives(rng, &table, &text, &mut |rng| rng.random_range(1..4), &|_| Arc::new(SystemClock::default()));
        assert!(found == expected, "after {lives} lives {found:?}\ninstead of {expected:?}");
    });
}

#[test]
fn what_is_published_over_many_lives_is_what_one_long_life_says() {
    many_lives(40, &|_| Arc::new(SystemClock::default()));
}

/// Also where the wall clock jumps by an hour and back while it runs: what is young is not swept for old.
#[test]
fn wall_clocks_that_jump_change_nothing() {
    many_lives(12, &|rng| WildClock::jumping(rng.random()));
}

#[test]
fn processes_whose_wall_clocks_differ_by_hours_say_the_same() {
    for_seeds(6, |rng| {
        let table = Table::random(rng);
        let query = rng.random_range(0..QUERIES.len());
        let (expected, _) = run(&text(&table, query), &table, Shape::Threads(1));
        let sink = MemorySink::new();
        let connectors = Builtin::default()
            .with_source("t", table.source())
            .with_source("newest", table.newest())
            .with_sink("out", Arc::new(sink.clone()));
        let clock = |process: usize| WildClock::wrong_by(3 * process as i64 - 2);
        let (_, result) = run_by(&text(&table, query), &connectors, Shape::Processes(2, 2), &clock);
        result.unwrap();
        assert_eq!(sorted(&sink), expected, "{}", QUERIES[query]);
    });
}

/// Passes numbers on, but dies of one.
fn deadly(number: i64) -> ScalarFunction {
    ScalarFunction::new("deadly", [DataType::Int64], DataType::Int64, move |columns| {
        let numbers = columns[0].as_primitive::<Int64Type>();
        assert!(numbers.iter().all(|found| found != Some(number)), "on purpose");
        Ok(Arc::clone(&columns[0]))
    })
}

#[test]
fn a_row_that_ends_the_process_is_found_and_left_out() {
    for_seeds(5, |rng| {
        let (rows, poison, workers) = (1000, rng.random_range(0..1000), rng.random_range(1..4));
        let outside = Outside::new();
        let text = "SET 'tick' = '100 rows'; SET 'checkpoint_interval' = '1 epochs';
            CREATE TABLE t (n BIGINT) WITH ('connector' = 'memory', 'on_error' = 'skip');
            CREATE TABLE out (n BIGINT) WITH ('connector' = 'memory', 'delivery' = 'exactly-once');
            INSERT INTO out SELECT deadly(n) FROM t;";
        let generation = |workers: usize, careful: Option<Suspect>| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
            let source = MemorySource::new(batch.schema(), vec![batch], 1);
            let life = Life::new(&outside, i64::MAX / 2, 0);
            let extensions =
                Extensions::new().function(deadly(poison)).source("t", source).sink("out", StagedSink(life));
            let stored = [("checkpoint_store".to_owned(), "memory".to_owned())];
            let plan = sql::plan(Text { name: "test.sql", sql: text }, &stored, &extensions).unwrap();
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
            let wishes = Wishes { careful, ..Wishes::default() };
            let surroundings = Surroundings { store: Some(outside.store()), wishes, ..Surroundings::new(clock) };
            within(MINUTE, text, move || {
                let running = start_with(plan, Workers::Threads(workers), surroundings).expect("it starts");
                let fate = running.fate();
                (running.wait().1, fate.suspected())
            })
        };
        let (died, suspect) = generation(workers, None);
        let error = died.unwrap_err().to_string();
        assert!(error.contains("panicked: on purpose"), "{error}");
        let suspect = suspect.expect("it says what it read");
        assert!(suspect.rows > 1 || poison == rows - 1, "{suspect:?}");
        let (died, found) = generation(1, Some(suspect));
        died.unwrap_err();
        let found = found.expect("it says what it read");
        assert_eq!((found.from, found.rows), (poison as u64, 1), "{found:?}");
        assert_eq!(found.place, format!("split 0, row {poison}"));
        let mut log = Log::read(&outside.store()).unwrap();
        let (table, split, position) = (found.table, found.split, found.from);
        let reason = "it ended the process".to_owned();
        log.append(log.generation(), Record::SkipRow { table, split, position, reason }).unwrap();
        generation(workers, None).0.unwrap();
        let mut numbers: Vec<i64> = Vec::new();
        for batch in outside.published("out") {
            numbers.extend(batch.column(0).as_primitive::<Int64Type>().values());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..rows).filter(|number| *number != poison).collect::<Vec<_>>());
    });
}
