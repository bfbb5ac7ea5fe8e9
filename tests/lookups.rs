//! Joins of a stream with a table that ends, against loops. Random rows, shuffled within their epochs, on one worker, on three, and on
//! two processes of two; the table takes fewer epochs than the stream, or more.

#[path = "support/pipeline.rs"]
mod pipeline;

use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use pipeline::{Row, SECOND, SHAPES, Table, assert_same, expected, for_seeds, run_with, sorted};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs `text` over the stream `t` and the table `u` into `out`, everywhere, and expects `rows` and so many `late` ones.
fn check(rng: &mut StdRng, t: &Table, u: &Table, text: &str, rows: Vec<String>, late: usize) {
    check_late(rng, t, u, text, rows, late, Vec::new());
}

/// The same, with what goes into `late`.
fn check_late(
    rng: &mut StdRng,
    t: &Table,
    u: &Table,
    text: &str,
    rows: Vec<String>,
    late: usize,
    too_late: Vec<String>,
) {
    let (rows, too_late) = (expected(rows), expected(too_late));
    let table = t.ddl().replace("CREATE TABLE t ", "CREATE TABLE u ").replace("WATERMARK FOR ts AS ts", "x AS ts");
    let text = format!("{}{table}{text}", t.ddl());
    for shape in SHAPES {
        let sink = MemorySink::new();
        let late_sink = MemorySink::new();
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let connectors = connectors.with_sink("late", Arc::new(late_sink.clone()));
        let connectors = connectors.with_source("t", t.shuffled(rng).source());
        let connectors = connectors.with_source("u", u.shuffled(rng).source());
        let (snapshot, result) = run_with(&text, &connectors, shape);
        result.unwrap_or_else(|error| panic!("{error:?} on {shape:?}\n{text}"));
        assert_same(&sorted(&sink), &rows, &format!("{shape:?}: {text}"));
        assert_same(&sorted(&late_sink), &too_late, &format!("late rows on {shape:?}: {text}"));
        assert_eq!(snapshot.late_rows(), late as u64, "late rows on {shape:?}: {text}");
    }
}

/// A stream, and a table that is read in as many rows an epoch.
fn stream_and_table(rng: &mut StdRng) -> (Table, Table) {
    let (stream, mut table) = (Table::random(rng), Table::random(rng));
    table.tick = stream.tick;
    if rng.random() {
        // one that is there at once, or not at all
        table.splits.truncate(1);
        table.splits.iter_mut().for_each(|split| split.truncate(rng.random_range(0..stream.tick)));
    }
    (stream, table)
}

/// What SQL says of equality: NULL equals nothing.
fn equal<T: PartialEq>(left: &Option<T>, right: &Option<T>) -> bool {
    left.is_some() && left == right
}

type OnRows = fn(&Row, &Row) -> bool;

const CONDITIONS: [(&str, OnRows); 4] = [
    ("a.word = b.word AND a.n % 7 = b.n % 7", |a, b| {
        equal(&a.word, &b.word) && equal(&a.n.map(|n| n % 7), &b.n.map(|n| n % 7))
    }),
    ("a.price = b.price", |a, b| equal(&a.price, &b.price)),
    ("a.word = b.word AND a.n % 5 = b.n % 5 AND a.price < b.price", |a, b| {
        let less = a.price.zip(b.price).is_some_and(|(a, b)| a < b);
        equal(&a.word, &b.word) && equal(&a.n.map(|n| n % 5), &b.n.map(|n| n % 5)) && less
    }),
    ("abs(a.n - b.n) < 3", |a, b| a.n.zip(b.n).is_some_and(|(a, b)| (a - b).abs() < 3)),
];

#[test]
fn each_row_meets_all_of_the_table() {
    for_seeds(4, |rng| {
        let (t, u) = stream_and_table(rng);
        let (text, on) = CONDITIONS[rng.random_range(0..CONDITIONS.len())];
        let cells = |row: Option<&Row>| {
            row!(row.and_then(|row| row.word.clone()), row.and_then(|row| row.n), row.map(|row| row.ts))
        };
        let out = "CREATE TABLE out (a STRING, b BIGINT, c TIMESTAMP(6), d STRING, e BIGINT, f TIMESTAMP(6)) \
                   WITH ('connector' = 'memory');";
        let columns = "a.word, a.n, a.ts, b.word, b.n, b.ts";
        let pairs = || t.rows().flat_map(|a| u.rows().filter(move |b| on(a, b)).map(move |b| (a, Some(b))));
        let alone = || t.rows().filter(|a| !u.rows().any(|b| on(a, b))).map(|a| (a, None));
        let said = |(a, b): (&Row, Option<&Row>)| format!("{} {}", cells(Some(a)), cells(b));
        for (from, left) in [
            ("t AS a JOIN u AS b", false),
            ("u AS b JOIN t AS a", false),
            ("t AS a LEFT JOIN u AS b", true),
            ("u AS b RIGHT JOIN t AS a", true),
        ] {
            let rows = pairs().chain(alone().filter(|_| left)).map(said).collect();
            check(rng, &t, &u, &format!("{out} INSERT INTO out SELECT {columns} FROM {from} ON {text};"), rows, 0);
        }
        let out = "CREATE TABLE out (a STRING, b BIGINT, c TIMESTAMP(6)) WITH ('connector' = 'memory');";
        for (exists, wanted) in [("EXISTS", true), ("NOT EXISTS", false)] {
            let rows = t.rows().filter(|a| u.rows().any(|b| on(a, b)) == wanted);
            let rows = rows.map(|a| cells(Some(a))).collect();
            let insert = format!(
                "INSERT INTO out SELECT word, n, ts FROM t AS a WHERE {exists} (SELECT 1 FROM u AS b WHERE {text});"
            );
            check(rng, &t, &u, &format!("{out} {insert}"), rows, 0);
        }
    });
}

#[test]
fn a_table_may_be_the_result_of_a_query_that_ends() {
    for_seeds(2, |rng| {
        let (t, u) = stream_and_table(rng);
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        u.rows().filter_map(|row| row.word.as_deref()).for_each(|word| *counts.entry(word).or_default() += 1);
        let known = t.rows().filter_map(|row| Some((row, counts.get(row.word.as_deref()?)?)));
        let rows = known.map(|(row, count)| row!(row.word, row.n, *count)).collect();
        let text = "CREATE TABLE out (a STRING, b BIGINT, c BIGINT) WITH ('connector' = 'memory'); \
                    INSERT INTO out SELECT a.word, a.n, c FROM t AS a, \
                      (SELECT word, count(*) AS c FROM u GROUP BY word) AS b WHERE a.word = b.word;";
        check(rng, &t, &u, text, rows, 0);

        let rows = t.rows().filter(|row| matches!(row.word.as_deref(), Some("be" | "not")));
        let rows =
            rows.map(|row| row!(row.word, row.n, if row.word.as_deref() == Some("be") { 1_i64 } else { 2 })).collect();
        let text = "CREATE TABLE out (a STRING, b BIGINT, c BIGINT) WITH ('connector' = 'memory'); \
                    INSERT INTO out SELECT word, n, k FROM t JOIN (VALUES ('be', 1), ('not', 2)) AS v (w, k) ON word = w;";
        check(rng, &t, &u, text, rows, 0);
    });
}

#[test]
fn windows_behind_a_lookup_do_not_close_before_the_table_has_ended() {
    for_seeds(4, |rng| {
        let (t, u) = stream_and_table(rng);
        let size = rng.random_range(1..4) * SECOND;
        let end_of_table = u.epochs() - 1;
        let epochs = t.epochs().max(u.epochs());
        let of_stream = t.marks();
        let mark = |epoch: usize| match epoch < end_of_table {
            true => i64::MIN,
            false => of_stream.get(epoch).copied().unwrap_or(i64::MAX),
        };
        let (mut counts, mut late) = (BTreeMap::<(i64, &str), i64>::new(), 0);
        let (mut late_rows, mut late_pairs) = (Vec::new(), Vec::new());
        for epoch in 0..epochs {
            let before = if epoch == 0 { i64::MIN } else { mark(epoch - 1) };
            for row in t.epoch(epoch) {
                let start = row.ts - row.ts.rem_euclid(size);
                if start + size <= before {
                    late_rows.push(row!(row.word, row.ts));
                }
                for partner in u.rows().filter(|partner| equal(&partner.word, &row.word)) {
                    match start + size > before {
                        true => *counts.entry((start, partner.word.as_deref().expect("it is equal"))).or_default() += 1,
                        false => {
                            late += 1;
                            late_pairs.push(row!(partner.word, row.ts));
                        }
                    }
                }
            }
        }
        let rows: Vec<String> =
            counts.into_iter().map(|((start, word), count)| row!(start, word.to_owned(), count)).collect();
        let tables = "CREATE TABLE out (a TIMESTAMP(6), b STRING, c BIGINT) WITH ('connector' = 'memory'); \
                      CREATE TABLE late (word STRING, ts TIMESTAMP(6)) WITH ('connector' = 'memory');";
        let count = "INSERT INTO out SELECT window_start, b.word, count(*)";
        let by = "GROUP BY window_start, window_end, b.word";
        let size = size / SECOND;
        let behind = format!("tumble(joined, ts, INTERVAL '{size}' SECOND) AS b");
        let view = "CREATE VIEW joined AS SELECT a.ts, b.word FROM t AS a JOIN u AS b ON a.word = b.word;";
        check(rng, &t, &u, &format!("{tables} {view} {count} FROM {behind} {by};"), rows.clone(), late);
        let text = format!("{tables} {view} {count} FROM {behind} {by} LATE INTO late;");
        check_late(rng, &t, &u, &text, rows.clone(), late, late_pairs);

        // the windows of the stream's own rows go on behind the join
        let before = format!("tumble(t, ts, INTERVAL '{size}' SECOND) AS a JOIN u AS b ON a.word = b.word");
        let text = format!("{tables} {count} FROM {before} {by} LATE INTO late;");
        check_late(rng, &t, &u, &text, rows, late, late_rows);
    });
}
