//! Queries over rows that are taken back again, against DataFusion: what has come out up to an epoch is the batch answer over exactly the
//! rows up to it, at every epoch, whatever the workers.
//!
//! Rows and queries are random. `ops` says what happens to the rows of a keyed table, deletions included; `facts` only grows. The same text
//! is the query of both engines, but where DataFusion would refuse it or answer it otherwise than SQL: there it is asked in other words.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use highwater::batch::Batch;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySource;
use highwater::connector::{Changes, Context, Shard, Sink};
use highwater::error::Result;
use highwater::plan::{Action, Emit};
use highwater::runtime::{self, Workers};
use highwater::time::SystemClock;
use pipeline::{MINUTE, for_seeds, plan, within};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What both engines call the rows that there are.
const VIEWS: [(&str, &str); 3] = [
    (
        "cur",
        "SELECT id, k, v, s FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY seq DESC) AS rn FROM ops) AS latest WHERE rn = 1 AND NOT gone",
    ),
    ("sums", "SELECT k, count(*) AS n, sum(v) AS total, max(v) AS top FROM cur GROUP BY k"),
    ("known", "SELECT DISTINCT k, w % 5 AS m FROM facts"),
];

struct Rows {
    ops: RecordBatch,
    facts: RecordBatch,
    tick: usize,
}

impl Rows {
    fn random(rng: &mut StdRng) -> Rows {
        let tick = rng.random_range(1..9);
        let rows = tick * rng.random_range(2..6);
        let small = |rng: &mut StdRng, end| rng.random_bool(0.85).then(|| rng.random_range(0..end));
        let words = ["red", "green", "blue"];
        let word = |rng: &mut StdRng| rng.random_bool(0.9).then(|| *words.choose(rng).unwrap());
        let ids: Vec<i32> = (0..rows).map(|_| rng.random_range(0..6)).collect();
        let keys: Vec<Option<i32>> = (0..rows).map(|_| small(rng, 4)).collect();
        let values: Vec<Option<i32>> = (0..rows).map(|_| small(rng, 20)).collect();
        let texts: Vec<Option<&str>> = (0..rows).map(|_| word(rng)).collect();
        let gone: Vec<bool> = (0..rows).map(|_| rng.random_bool(0.3)).collect();
        let ops = RecordBatch::try_from_iter([
            ("seq", Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef),
            ("at", moments(rows)),
            ("id", Arc::new(Int32Array::from(ids))),
            ("k", Arc::new(Int32Array::from(keys))),
            ("v", Arc::new(Int32Array::from(values))),
            ("s", Arc::new(StringArray::from(texts))),
            ("gone", Arc::new(BooleanArray::from(gone))),
        ]);
        let keys: Vec<Option<i32>> = (0..rows).map(|_| small(rng, 4)).collect();
        let weights: Vec<Option<i32>> = (0..rows).map(|_| small(rng, 10)).collect();
        let texts: Vec<Option<&str>> = (0..rows).map(|_| word(rng)).collect();
        let facts = RecordBatch::try_from_iter([
            ("at", moments(rows)),
            ("k", Arc::new(Int32Array::from(keys))),
            ("w", Arc::new(Int32Array::from(weights))),
            ("s", Arc::new(StringArray::from(texts))),
        ]);
        Rows { ops: ops.unwrap(), facts: facts.unwrap(), tick }
    }

    fn epochs(&self) -> usize {
        self.ops.num_rows() / self.tick
    }
}

/// Event time, so that no table is waited for because it ends.
fn moments(rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values((0..rows as i64).map(|row| row * 1_000_000)))
}

/// What DataFusion is asked to know whether a.{x} is in (SELECT {y} FROM {b}): true, false or NULL.
fn membership(a: &str, x: &str, b: &str, y: &str, columns: &str, rest: &str) -> String {
    format!(
        "SELECT {columns} FROM (SELECT a.*, CASE WHEN d.y IS NOT NULL THEN true WHEN t.nulls > 0 OR (a.{x} IS NULL AND t.total > 0) THEN NULL \
         ELSE false END AS inside, e.k IS NOT NULL AS there FROM {a} a LEFT JOIN (SELECT DISTINCT {y} AS y FROM {b} WHERE {y} IS NOT NULL) d \
         ON d.y = a.{x} LEFT JOIN (SELECT DISTINCT k FROM {b}) e ON e.k = a.k \
         CROSS JOIN (SELECT count(*) AS total, count(*) - count({y}) AS nulls FROM {b}) t) AS a {rest}"
    )
}

/// A query as Highwater and as DataFusion are asked.
fn query(rng: &mut StdRng) -> (String, String) {
    let relation = |rng: &mut StdRng| *["cur", "cur", "facts", "sums", "known"].choose(rng).unwrap();
    let (a, b) = (relation(rng), relation(rng));
    let (x, y) = (number(a), number(b));
    let set = format!("(SELECT {y} FROM {b})");
    let there = format!("EXISTS (SELECT 1 FROM {b} b WHERE b.k = a.k)");
    let both = |columns: &str, rest: &str, set: &str, there: &str| {
        let asked = format!("SELECT {columns} FROM {a} a {rest}");
        asked.replace("INSIDE", &format!("a.{x} IN {set}")).replace("THERE", there)
    };
    let pair = |columns: &str, rest: &str| {
        let theirs = |text: &str| text.replace("INSIDE", "a.inside").replace("THERE", "a.there");
        (both(columns, rest, &set, &there), membership(a, x, b, y, &theirs(columns), &theirs(rest)))
    };
    match rng.random_range(0..32) {
        21 => {
            let set = ["INTERSECT", "EXCEPT"].choose(rng).unwrap();
            let (columns, other) = if rng.random_bool(0.5) {
                ("k".to_owned(), "k".to_owned())
            } else {
                (format!("k, {x}"), format!("k, {y}"))
            };
            let numbered = |columns: &str, of: &str| {
                format!("SELECT {columns}, row_number() OVER (PARTITION BY {columns}) AS nth FROM {of}")
            };
            (
                format!("SELECT {columns} FROM {a} {set} ALL SELECT {other} FROM {b}"),
                format!("SELECT {columns} FROM ({} {set} {}) AS both", numbered(&columns, a), numbered(&other, b)),
            )
        }
        22 => pair("a.k, a.k AS again", "WHERE NOT INSIDE"),
        23 => (
            format!("SELECT k, {x} FROM {a} a WHERE {x} NOT IN (SELECT {y} FROM {b} b WHERE b.k = a.k)"),
            format!(
                "SELECT k, {x} FROM {a} a WHERE NOT EXISTS (SELECT 1 FROM {b} b WHERE b.k = a.k AND (b.{y} = a.{x} OR b.{y} IS NULL OR a.{x} IS NULL))"
            ),
        ),
        24 => pair(
            &format!("a.k, a.{x}"),
            &format!("WHERE a.{x} > 7 OR {}", ["INSIDE", "THERE", "NOT THERE", "NOT (INSIDE)"].choose(rng).unwrap()),
        ),
        25 => pair(&format!("a.k, a.{x}, INSIDE AS inside, THERE AS there"), ""),
        26 => pair(&format!("a.k, a.{x}"), "WHERE NOT (INSIDE AND a.k > 1)"),
        27 => {
            let not = ["", "NOT "].choose(rng).unwrap();
            let same = format!("SELECT k, {x} FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} WHERE {y} > 8)");
            (same.clone(), same)
        }
        28 => pair(
            "a.k, count(*) FILTER (WHERE INSIDE) AS inside, count(*) FILTER (WHERE NOT (INSIDE)) AS outside",
            "GROUP BY a.k",
        ),
        29 => pair("a.k", "WHERE (INSIDE) IS NULL OR (THERE AND a.k = 2)"),
        _ => {
            let same = shared(rng);
            (same.clone(), same)
        }
    }
}

/// What each relation has beside k.
fn number(of: &str) -> &'static str {
    match of {
        "cur" => "v",
        "facts" => "w",
        "sums" => "n",
        _ => "m",
    }
}

/// A query that both engines read alike.
fn shared(rng: &mut StdRng) -> String {
    let relation = |rng: &mut StdRng| *["cur", "cur", "facts", "sums", "known"].choose(rng).unwrap();
    let (a, b) = (relation(rng), relation(rng));
    let (x, y) = (number(a), number(b));
    match rng.random_range(0..21) {
        0 => format!("SELECT a.k, a.{x} AS x, b.{y} AS y FROM {a} a JOIN {b} b ON a.k = b.k"),
        1 => {
            let kind = ["LEFT", "RIGHT", "FULL"].choose(rng).unwrap();
            format!("SELECT a.k AS ak, a.{x} AS x, b.k AS bk, b.{y} AS y FROM {a} a {kind} JOIN {b} b ON a.k = b.k")
        }
        2 => {
            let kind = ["", "LEFT", "RIGHT", "FULL"].choose(rng).unwrap();
            format!("SELECT a.k AS ak, a.{x} AS x, b.{y} AS y FROM {a} a {kind} JOIN {b} b ON a.k = b.k AND a.{x} < b.{y}")
        }
        3 => format!("SELECT k, {x} FROM {a} a WHERE k IN (SELECT k FROM {b} WHERE {y} > 3)"),
        4 => {
            let not = ["", "NOT "].choose(rng).unwrap();
            format!("SELECT k, {x} FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE b.k = a.k AND b.{y} >= a.{x})")
        }
        5 => {
            let not = ["", "NOT "].choose(rng).unwrap();
            format!("SELECT k, {x} FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE b.k = a.k)")
        }
        6 if rng.random() => format!("SELECT k, count(*), count({x}), sum({x}), avg({x}) FROM {a} GROUP BY k"),
        6 => format!(
            "SELECT k, count(DISTINCT {x}), sum({x}), sum(DISTINCT {x}) FILTER (WHERE {x} > 4), count(DISTINCT k), \
             count(*) FILTER (WHERE {x} < 7), avg(DISTINCT {x}) FROM {a} GROUP BY k"
        ),
        7 => format!("SELECT k, min({x}), max({x}), count(DISTINCT {x}), sum({x}) FILTER (WHERE {x} > 4) FROM {a} GROUP BY k"),
        8 => format!("SELECT {x}, count(*), max(k) FROM {a} GROUP BY {x} HAVING count(*) > 1"),
        9 => format!("SELECT DISTINCT {x} FROM {a}"),
        10 => {
            let set = ["UNION", "UNION ALL", "INTERSECT", "EXCEPT"].choose(rng).unwrap();
            format!("SELECT k FROM {a} {set} SELECT k FROM {b}")
        }
        11 => format!("SELECT k, {x} FROM {a} ORDER BY {x} DESC NULLS LAST, k LIMIT 3 OFFSET {}", rng.random_range(0..2)),
        12 => format!(
            "SELECT k, {x}, rank() OVER (PARTITION BY k ORDER BY {x}) AS r, sum({x}) OVER (PARTITION BY k ORDER BY {x} \
             RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS s, count(*) OVER (PARTITION BY k) AS c FROM {a}"
        ),
        13 => "SELECT id, lag(v) OVER (ORDER BY id) AS before, first_value(v) OVER (PARTITION BY k ORDER BY id) AS first FROM cur".into(),
        14 => format!("SELECT k, {x} FROM {a} WHERE {x} > (SELECT avg({y}) FROM {b})"),
        15 => format!("SELECT k, {x}, (SELECT max({y}) FROM {b} b WHERE b.k = a.k) AS most FROM {a} a"),
        16 => format!("SELECT k, {x}, count(*) AS c FROM {a} GROUP BY ROLLUP(k, {x})"),
        17 => format!("SELECT a.k, sum(a.{x}) AS s, count(*) AS c FROM {a} a JOIN {b} b ON a.k = b.k GROUP BY a.k"),
        19 => {
            let (before, after) = (rng.random_range(0..4), rng.random_range(0..4));
            format!(
                "SELECT a.k, a.w, b.w AS other FROM facts a JOIN facts b ON a.k = b.k AND a.at BETWEEN b.at - INTERVAL '{before}' SECOND \
                 AND b.at + INTERVAL '{after}' SECOND"
            )
        }
        18 => format!(
            "SELECT a.k, b.n, c.{y} AS y FROM {a} a JOIN sums b ON a.k = b.k LEFT JOIN {b} c ON c.k = b.n"
        ),
        _ => "WITH RECURSIVE reach AS (SELECT id, v AS at FROM cur UNION SELECT reach.id, cur.v FROM reach JOIN cur ON \
              reach.at = cur.id) SELECT id, at FROM reach"
            .into(),
    }
}

/// What came in each epoch; one shard sees all of it.
#[derive(Debug, Clone, Default)]
struct Epochs(Arc<Mutex<Vec<Vec<Batch>>>>);

impl Sink for Epochs {
    fn single(&self) -> bool {
        true
    }

    fn open(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(EpochShard { epochs: self.clone(), open: Vec::new() }))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }
}

struct EpochShard {
    epochs: Epochs,
    open: Vec<Batch>,
}

impl Shard for EpochShard {
    fn write(&mut self, rows: Batch) -> Result<()> {
        self.open.push(rows);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        self.epochs.0.lock().unwrap().push(std::mem::take(&mut self.open));
        Ok(true)
    }
}

fn texts(batch: &Batch, columns: usize) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatters: Vec<_> =
        batch.columns()[..columns].iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    let row = |row| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" | ");
    (0..batch.num_rows()).map(row).collect()
}

/// The batch answer over the first `count` rows of each table.
fn answer(rows: &Rows, count: usize, query: &str) -> BTreeMap<String, i64> {
    let tables = [("ops", rows.ops.slice(0, count)), ("facts", rows.facts.slice(0, count))];
    batch_answer(&tables, &VIEWS, query)
}

fn batch_answer(tables: &[(&str, RecordBatch)], views: &[(&str, &str)], query: &str) -> BTreeMap<String, i64> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    for (name, table) in tables {
        context.register_batch(*name, table.clone()).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (name, text) in views {
            context.sql(&format!("CREATE VIEW {name} AS {text}")).await.unwrap();
        }
        let found =
            context.sql(query).await.unwrap_or_else(|error| panic!("{error}: {query}")).collect().await.unwrap();
        let mut all = BTreeMap::new();
        for batch in found {
            texts(&batch, batch.num_columns()).into_iter().for_each(|row| *all.entry(row).or_default() += 1);
        }
        all
    })
}

/// What comes out, summed up to each epoch.
fn changelog(rows: &Rows, query: &str, threads: usize) -> Vec<BTreeMap<String, i64>> {
    let source = |rows: &RecordBatch| Arc::new(MemorySource::new(rows.schema(), vec![rows.clone()], 1));
    let connectors = Builtin::default().with_source("ops", source(&rows.ops)).with_source("facts", source(&rows.facts));
    let views: String = VIEWS.iter().map(|(name, text)| format!("CREATE TEMPORARY VIEW {name} AS {text};\n")).collect();
    let text = format!(
        "SET 'tick' = '{} rows'; SET 'inflight_epochs' = '1';
         CREATE TABLE ops (seq BIGINT, at TIMESTAMP, id INT, k INT, v INT, s STRING, gone BOOLEAN, WATERMARK FOR at AS at) WITH ('connector' = 'memory');
         CREATE TABLE facts (at TIMESTAMP, k INT, w INT, s STRING, WATERMARK FOR at AS at) WITH ('connector' = 'memory');
         {views}{query};",
        rows.tick
    );
    told(&text, &connectors, threads)
}

/// The same of the pipeline `text`.
fn told(text: &str, connectors: &Builtin, threads: usize) -> Vec<BTreeMap<String, i64>> {
    let sink = Epochs::default();
    let mut plan = plan(text, connectors);
    for step in &mut plan.steps {
        if let Action::Sink(definition) = &mut step.action {
            definition.sink = Arc::new(sink.clone());
        }
    }
    let (clock, called) = (Arc::new(SystemClock::default()), text.to_owned());
    let run = move || runtime::start(plan, Workers::Threads(threads), None, clock).expect("it starts").wait();
    let (_, end) = within(MINUTE, &called, run);
    end.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let epochs = sink.0.lock().unwrap();
    let mut sum: BTreeMap<String, i64> = BTreeMap::new();
    let mut sums = Vec::new();
    for batches in epochs.iter() {
        for batch in batches {
            let weight = batch.schema().index_of(highwater::plan::WEIGHT).ok();
            let width = weight.unwrap_or(batch.num_columns());
            let weights: Vec<i64> = match weight {
                Some(column) => highwater::batch::changes::weights(batch)[..batch.column(column).len()].to_vec(),
                None => vec![1; batch.num_rows()],
            };
            for (row, weight) in texts(batch, width).into_iter().zip(weights) {
                assert!(weight.abs() == 1, "a change has weight {weight}");
                *sum.entry(row).or_default() += weight;
            }
        }
        sum.retain(|_, count| *count != 0);
        sums.push(sum.clone());
    }
    sums
}

#[test]
fn the_changelog_is_the_batch_answer_at_every_epoch() {
    for_seeds(40, |rng| {
        let rows = Rows::random(rng);
        let (query, asked) = query(rng);
        let threads = rng.random_range(1..4);
        let sums = changelog(&rows, &query, threads);
        assert!(sums.len() >= rows.epochs(), "{} epochs of {}: {query}", sums.len(), rows.epochs());
        for (epoch, found) in sums.iter().take(rows.epochs()).enumerate() {
            let mut expected = answer(&rows, (epoch + 1) * rows.tick, &asked);
            // an aggregate without keys says nothing before its first row
            if query.contains("ROLLUP") {
                expected.remove("NULL | NULL | 0");
            }
            assert_eq!(*found, expected, "epoch {epoch} of {query}\non {threads} workers, {} rows an epoch", rows.tick);
        }
    });
}

/// Windows over rows that are taken back hold what stands when they close: the batch answer over the rows up to the epoch that closes them.
#[test]
fn windows_over_changes_hold_what_stands_when_they_close() {
    for_seeds(15, |rng| {
        let rows = Rows::random(rng);
        let (size, slide) = *[(3, 3), (4, 2), (1, 1), (7, 7)].choose(rng).unwrap();
        let kept = *["", "WHERE v > 5", "WHERE k IS NOT NULL"].choose(rng).unwrap();
        let standing = "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY seq DESC) AS rn FROM ops) AS latest \
                        WHERE rn = 1 AND NOT gone";
        let calls = ["count(*) AS n, sum(v) AS total", "count(*) AS n, max(v) AS top, count(DISTINCT s) AS words"]
            .choose(rng)
            .unwrap();
        let query = format!(
            "SELECT window_start AS s, k, {calls} FROM TABLE(HOP(TABLE standing, DESCRIPTOR(at), INTERVAL '{slide}' SECOND, \
             INTERVAL '{size}' SECOND)) GROUP BY window_start, window_end, k"
        );
        let source = Arc::new(MemorySource::new(rows.ops.schema(), vec![rows.ops.clone()], 1));
        let connectors = Builtin::default().with_source("ops", source);
        let text = format!(
            "SET 'tick' = '{} rows'; SET 'inflight_epochs' = '1';
             CREATE TABLE ops (seq BIGINT, at TIMESTAMP, id INT, k INT, v INT, s STRING, gone BOOLEAN, WATERMARK FOR at AS at)
             WITH ('connector' = 'memory');
             CREATE VIEW standing AS SELECT at, k, v, s FROM ({standing}) AS rows {kept}; {query};",
            rows.tick
        );
        let of_sink = plan(&text, &connectors).steps.pop().unwrap();
        assert_eq!(of_sink.emit, Emit::Append, "{query}");
        let sums = told(&text, &connectors, rng.random_range(1..4));
        let count = rows.ops.num_rows() as i64;
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        let mut open: Vec<i64> = (-size..count).filter(|start| start % slide == 0).collect();
        for (epoch, found) in sums.iter().enumerate() {
            let known = ((epoch + 1) * rows.tick).min(count as usize);
            let ends = epoch + 1 == sums.len();
            if known == count as usize && !ends {
                continue;
            }
            let (closing, others) = open.iter().partition(|start| ends || *start + size < known as i64);
            open = others;
            let closing: Vec<i64> = closing;
            for start in closing {
                let time = "CAST(arrow_cast(at, 'Timestamp(Microsecond, None)') AS BIGINT)";
                let window = format!(
                    "SELECT arrow_cast({}, 'Timestamp(Microsecond, None)') AS s, k, {calls} FROM (SELECT * FROM ({standing}) AS rows {kept}) \
                     AS rows WHERE {time} >= {} AND {time} < {} GROUP BY k",
                    start * SECOND,
                    start * SECOND,
                    (start + size) * SECOND
                );
                for (row, times) in batch_answer(&[("ops", rows.ops.slice(0, known))], &[], &window) {
                    *expected.entry(row).or_default() += times;
                }
            }
            assert_eq!(*found, expected, "epoch {epoch} of {text}");
        }
    });
}

const SECOND: i64 = 1_000_000;

/// Rows whose event time goes on by `pace` seconds, in disorder by less than two, from 2026 on.
fn scattered(rng: &mut StdRng, rows: usize, pace: i64) -> RecordBatch {
    let start = 1_767_225_600 * SECOND;
    let times: Vec<i64> =
        (0..rows as i64).map(|row| start + row * pace * SECOND - rng.random_range(0..2000) * 1000).collect();
    let keys: Vec<Option<i32>> = (0..rows).map(|_| rng.random_bool(0.9).then(|| rng.random_range(0..3))).collect();
    let columns = [
        ("at", Arc::new(TimestampMicrosecondArray::from(times)) as ArrayRef),
        ("k", Arc::new(Int32Array::from(keys))),
        ("w", Arc::new(Int32Array::from_iter_values((0..rows).map(|_| rng.random_range(0..9))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The watermark when `count` rows have come.
fn mark(rows: &RecordBatch, count: usize) -> i64 {
    let times = rows.column(0).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    times.values()[..count].iter().max().unwrap() - 2 * SECOND
}

/// A join in an interval says a pair when its second row has come, and a row without a partner when the watermark of both tables says
/// that none can come any more; it takes nothing back. Event time goes on behind it: no row is late for windows over it.
#[test]
fn rows_leave_without_a_partner_when_none_can_come() {
    for_seeds(25, |rng| {
        let tick = rng.random_range(1..6);
        let count = tick * rng.random_range(3..8);
        let pace = rng.random_range(1..4);
        let (a, b) = (scattered(rng, count, 1), scattered(rng, count, pace));
        let (before, after) = (rng.random_range(-3..6_i64), rng.random_range(-3..6_i64));
        let (before, after) = if before + after < 0 { (-after, -before) } else { (before, after) };
        // how long a row of each side waits for a partner
        let waits = [after, before].map(|seconds| seconds.max(0) * SECOND + 1);
        let more = ["", " AND a.w < b.w"].choose(rng).unwrap();
        let near = format!(
            "a.k = b.k AND b.at BETWEEN a.at - INTERVAL '{before}' SECOND AND a.at + INTERVAL '{after}' SECOND{more}"
        );
        let kind = *["", "LEFT", "RIGHT", "FULL", "EXISTS", "NOT EXISTS"].choose(rng).unwrap();
        let pairs = "SELECT a.at AS aat, a.k AS ak, a.w AS aw, b.at AS bat, b.k AS bk, b.w AS bw FROM a";
        let query = match kind.ends_with("EXISTS") {
            true => {
                format!("SELECT a.at AS aat, a.k AS ak, a.w AS aw FROM a WHERE {kind} (SELECT 1 FROM b WHERE {near})")
            }
            false => format!("{pairs} {kind} JOIN b ON {near}"),
        };
        let table = |name: &str| {
            format!(
                "CREATE TABLE {name} (at TIMESTAMP NOT NULL, k INT, w INT, WATERMARK FOR at AS at - INTERVAL '2' SECOND)
                 WITH ('connector' = 'memory');"
            )
        };
        let settings =
            format!("SET 'tick' = '{tick} rows'; SET 'inflight_epochs' = '1'; {} {}", table("a"), table("b"));
        let source = |rows: &RecordBatch| Arc::new(MemorySource::new(rows.schema(), vec![rows.clone()], 1));
        let connectors = Builtin::default().with_source("a", source(&a)).with_source("b", source(&b));
        let threads = rng.random_range(1..4);
        let text = format!("{settings} {query};");
        let of_sink = plan(&text, &connectors).steps.pop().unwrap();
        assert_eq!(of_sink.emit, Emit::Append, "{query}");
        let sums = told(&text, &connectors, threads);
        let ends = |epoch: usize| epoch + 1 == sums.len();
        for (epoch, found) in sums.iter().enumerate() {
            let rows = ((epoch + 1) * tick).min(count);
            // which epoch after the last rows is that of the end is the source's business
            if rows == count && !ends(epoch) {
                continue;
            }
            let marked = mark(&a, rows).min(mark(&b, rows));
            let over = |time: &str, wait: i64| match ends(epoch) {
                true => "true".to_owned(),
                false => {
                    format!("CAST(arrow_cast({time}, 'Timestamp(Microsecond, None)') AS BIGINT) + {wait} <= {marked}")
                }
            };
            let (left, right) = (over("aat", waits[0]), over("bat", waits[1]));
            let stands = match kind {
                "EXISTS" => "true".to_owned(),
                "NOT EXISTS" => left,
                _ => format!(
                    "(aat IS NOT NULL AND bat IS NOT NULL) OR (bat IS NULL AND {left}) OR (aat IS NULL AND {right})"
                ),
            };
            let tables = [("a", a.slice(0, rows)), ("b", b.slice(0, rows))];
            let expected = batch_answer(&tables, &[], &format!("SELECT * FROM ({query}) AS met WHERE {stands}"));
            assert_eq!(*found, expected, "epoch {epoch} of {query}\non {threads} workers, {tick} rows an epoch");
        }
        if matches!(kind, "RIGHT" | "FULL") {
            return;
        }
        let text = format!(
            "{settings} CREATE VIEW met AS {query}; SELECT window_start AS s, count(*) AS n, sum(aw) AS w
             FROM TABLE(TUMBLE(TABLE met, DESCRIPTOR(aat), INTERVAL '4' SECOND)) GROUP BY window_start, window_end;"
        );
        let sums = told(&text, &connectors, threads);
        let bin = "date_bin(INTERVAL '4' SECOND, aat, TIMESTAMP '1970-01-01T00:00:00')";
        let windows = format!("SELECT {bin} AS s, count(*) AS n, sum(aw) AS w FROM ({query}) AS met GROUP BY {bin}");
        let expected = batch_answer(&[("a", a), ("b", b)], &[], &windows);
        assert_eq!(*sums.last().unwrap(), expected, "{text}\non {threads} workers");
    });
}

/// What a hint says of a relation wins over the option of its table, and that over the setting.
#[test]
fn rows_count_for_as_long_as_a_hint_or_their_table_says() {
    for_seeds(12, |rng| {
        let tick = rng.random_range(1..6);
        let count = tick * rng.random_range(3..8);
        let (a, b) = (scattered(rng, count, 1), scattered(rng, count, 2));
        let [setting, option, hint] = [0; 3].map(|_| rng.random_range(1..9_i64));
        let hinted = *["", "a", "b", "x"].choose(rng).unwrap();
        let text = |hints: &str| {
            format!(
                "SELECT {hints} x.at AS xat, y.at AS yat, x.w FROM a AS x LEFT JOIN b ON x.k = b.k JOIN b AS y ON y.k = x.k"
            )
        };
        let (query, lives) = match hinted {
            "x" => (text(&format!("/*+ STATE_TTL('x' = '{hint} s') */")), [hint, option, option]),
            "b" => (text(&format!("/*+ STATE_TTL('b' = '{hint} s', 'y' = 'off') */")), [setting, hint, 1_000_000]),
            _ => (text("/* no hint */"), [setting, option, option]),
        };
        let table = |name: &str, more: &str| {
            format!(
                "CREATE TABLE {name} (at TIMESTAMP NOT NULL, k INT, w INT, WATERMARK FOR at AS at - INTERVAL '2' SECOND)
                 WITH ('connector' = 'memory'{more});"
            )
        };
        let source = |rows: &RecordBatch| Arc::new(MemorySource::new(rows.schema(), vec![rows.clone()], 1));
        let connectors = Builtin::default().with_source("a", source(&a)).with_source("b", source(&b));
        let full = format!(
            "SET 'tick' = '{tick} rows'; SET 'inflight_epochs' = '1'; SET 'state_ttl' = '{setting} s'; {} {} {query};",
            table("a", ""),
            table("b", &format!(", 'state.ttl' = '{option} s'"))
        );
        let sums = told(&full, &connectors, rng.random_range(1..4));
        // the end of the input ends no row's time
        for (epoch, found) in sums.iter().enumerate().take(count / tick - 1) {
            let rows = (epoch + 1) * tick;
            let living = |of: &str, seconds: i64| {
                let marked = mark(if of == "a" { &a } else { &b }, rows);
                let time = "CAST(arrow_cast(at, 'Timestamp(Microsecond, None)') AS BIGINT)";
                format!("SELECT * FROM {of} WHERE {time} + {} > {marked}", seconds * SECOND)
            };
            let expected = format!(
                "WITH ax AS ({}), bx AS ({}), yx AS ({}) {}",
                living("a", lives[0]),
                living("b", lives[1]),
                living("b", lives[2]),
                query
                    .replace("FROM a AS x LEFT JOIN b", "FROM ax AS x LEFT JOIN bx AS b")
                    .replace("JOIN b AS y", "JOIN yx AS y")
            );
            let tables = [("a", a.slice(0, rows)), ("b", b.slice(0, rows))];
            assert_eq!(*found, batch_answer(&tables, &[], &expected), "epoch {epoch} of {full}");
        }
    });
}

#[test]
fn rows_that_are_only_so_far_apart_are_kept_for_so_long() {
    let text = "CREATE TABLE a (k INT, at TIMESTAMP, WATERMARK FOR at AS at) WITH ('connector' = 'nothing');
                CREATE TABLE b (k INT, at TIMESTAMP, WATERMARK FOR at AS at) WITH ('connector' = 'nothing');
                SELECT a.k FROM a JOIN b ON a.k = b.k AND a.at BETWEEN b.at - INTERVAL '5' SECOND AND b.at + INTERVAL '10' SECOND";
    let source = |of: &str| {
        let rows =
            RecordBatch::try_from_iter([("k", Arc::new(Int32Array::from(vec![1])) as ArrayRef), ("at", moments(1))]);
        Arc::new(MemorySource::new(rows.as_ref().unwrap().schema(), vec![rows.unwrap()], of.len()))
    };
    let connectors = Builtin::default().with_source("a", source("a")).with_source("b", source("b"));
    let plan = plan(&text.replace("nothing", "memory"), &connectors);
    let explained = plan.explain_text();
    assert!(explained.contains("rows of the last 5s 1us by watermark of a, b"), "{explained}");
    assert!(explained.contains("rows of the last 10s 1us by watermark of a, b"), "{explained}");
    assert!(
        plan.steps.iter().all(|step| step.emit == highwater::plan::Emit::Append || step.name.starts_with("keep")),
        "{explained}"
    );
}
