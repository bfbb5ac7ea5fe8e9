//! What is done with the rows of a window once it has closed: rankings and joins, against answers that the test computes for itself
//! with loops. Random rows, shuffled within their epochs, on one worker, on three, and on two processes of two.

#[path = "support/pipeline.rs"]
mod pipeline;

use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use pipeline::{Row, SECOND, SHAPES, Table, assert_same, expected, for_seeds, run, run_with, sorted, windows};
use rand::Rng;
use rand::rngs::StdRng;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Runs `insert` over the tables `t` and `u` into `out`, which has `columns`, everywhere, and expects `rows` and so many `late` ones.
fn check(rng: &mut StdRng, tables: &[&Table], columns: &str, insert: &str, rows: Vec<String>, late: usize) {
    let rows = expected(rows);
    let names = ["t", "u"];
    let ddl = |(table, name): (&&Table, &str)| table.ddl().replace("CREATE TABLE t ", &format!("CREATE TABLE {name} "));
    let text = format!(
        "{} CREATE TABLE out ({columns}) WITH ('connector' = 'memory');\nINSERT INTO out {insert};",
        tables.iter().zip(names).map(ddl).collect::<String>()
    );
    for shape in SHAPES {
        let sink = MemorySink::new();
        let mut connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        for (table, name) in tables.iter().zip(names) {
            connectors = connectors.with_source(name, table.shuffled(rng).source());
        }
        let (snapshot, result) = run_with(&text, &connectors, shape);
        result.unwrap_or_else(|error| panic!("{error:?} on {shape:?}\n{text}"));
        assert_same(&sorted(&sink), &rows, &format!("{shape:?}: {text}"));
        assert_eq!(snapshot.late_rows(), late as u64, "late rows on {shape:?}: {text}");
    }
}

/// The same where late rows go into `late`, and are `too_late`, in any order.
fn check_late(rng: &mut StdRng, tables: &[&Table], insert: &str, rows: Vec<String>, too_late: Vec<String>) {
    let (rows, too_late) = (expected(rows), expected(too_late));
    let names = ["t", "u"];
    let ddl = |(table, name): (&&Table, &str)| table.ddl().replace("CREATE TABLE t ", &format!("CREATE TABLE {name} "));
    let text = format!(
        "{} CREATE TABLE out (word STRING, a TIMESTAMP(6), b TIMESTAMP(6)) WITH ('connector' = 'memory');
         CREATE TABLE late (word STRING, ts TIMESTAMP(6), window_end TIMESTAMP(6)) WITH ('connector' = 'memory');
         INSERT INTO out {insert} LATE INTO late;",
        tables.iter().zip(names).map(ddl).collect::<String>()
    );
    for shape in SHAPES {
        let (sink, late) = (MemorySink::new(), MemorySink::new());
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let mut connectors = connectors.with_sink("late", Arc::new(late.clone()));
        for (table, name) in tables.iter().zip(names) {
            connectors = connectors.with_source(name, table.shuffled(rng).source());
        }
        let (snapshot, result) = run_with(&text, &connectors, shape);
        result.unwrap_or_else(|error| panic!("{error:?} on {shape:?}\n{text}"));
        assert_same(&sorted(&sink), &rows, &format!("{shape:?}: {text}"));
        assert_same(&sorted(&late), &too_late, &format!("late rows on {shape:?}: {text}"));
        assert_eq!(snapshot.late_rows(), too_late.len() as u64, "late rows on {shape:?}: {text}");
    }
}

fn group<K: Ord, T>(items: impl IntoIterator<Item = (K, T)>) -> BTreeMap<K, Vec<T>> {
    let mut groups: BTreeMap<K, Vec<T>> = BTreeMap::new();
    items.into_iter().for_each(|(key, item)| groups.entry(key).or_default().push(item));
    groups
}

/// A row with the start of each window of `size` every `slide` that is open when it comes, and how many such pairs are late.
fn pieces<'a>(table: &'a Table, marks: &[i64], size: i64, slide: i64) -> (Vec<(i64, &'a Row)>, usize) {
    let windowed = table.windowed_by(marks, size, slide);
    let all: usize = windowed.iter().map(|(row, _)| windows(row.ts, size, slide).len()).sum();
    let open: Vec<(i64, &Row)> =
        windowed.into_iter().flat_map(|(row, open)| open.into_iter().map(move |start| (start, row))).collect();
    let late = all - open.len();
    (open, late)
}

/// A condition on the row number, and what it says.
fn condition(rng: &mut StdRng) -> (String, Box<dyn Fn(usize) -> bool>) {
    let most = rng.random_range(0..6);
    match rng.random_range(0..7) {
        0 => (format!("number <= {most}"), Box::new(move |n| n <= most)),
        1 => (format!("number < {most}"), Box::new(move |n| n < most)),
        2 => (format!("number = {most}"), Box::new(move |n| n == most)),
        3 => (format!("{most} >= number"), Box::new(move |n| n <= most)),
        4 => (format!("number BETWEEN 2 AND {most}"), Box::new(move |n| (2..=most).contains(&n))),
        5 => (format!("number <= {most} AND number % 2 = 1"), Box::new(move |n| n <= most && n % 2 == 1)),
        _ => ("number > 1".into(), Box::new(|n| n > 1)),
    }
}

#[test]
fn the_first_rows_of_each_key_in_each_window() {
    for_seeds(5, |rng| {
        let table = Table::random(rng);
        let slide = rng.random_range(1..8) * SECOND;
        let size = if rng.random() { slide } else { slide + rng.random_range(0..6) * SECOND };
        let (open, late) = pieces(&table, &table.marks(), size, slide);
        let over = format!("hop(t, ts, INTERVAL '{}' SECOND, INTERVAL '{}' SECOND)", slide / SECOND, size / SECOND);
        let columns = "a TIMESTAMP(6), word STRING, n BIGINT, price DECIMAL(12, 2), ts TIMESTAMP(6), number BIGINT";

        // few different values of n, so that the other columns decide often
        let (text, kept) = condition(rng);
        let keyed = group(open.iter().map(|(start, row)| ((*start, row.word.clone()), *row)));
        let rows = keyed.into_iter().flat_map(|((start, word), mut rows)| {
            rows.sort_by_key(|row| (row.n.is_none(), Reverse(row.n.map(|n| n % 3)), row.n, row.price, row.ts));
            let numbered = rows.into_iter().enumerate().filter(|(place, _)| kept(place + 1));
            numbered
                .map(|(place, row)| row!(start, word, row.n, row.price, row.ts, place as i64 + 1))
                .collect::<Vec<_>>()
        });
        let insert = format!(
            "SELECT window_start, word, n, price, ts, number FROM (SELECT *, \
               row_number() OVER (PARTITION BY window_start, window_end, word ORDER BY n % 3 DESC NULLS LAST) AS number FROM {over}) \
             WHERE {text}"
        );
        check(rng, &[&table], columns, &insert, rows.collect(), late);

        // windows as the only key, and nothing but the columns to tell rows apart
        let rows = group(open.iter().copied()).into_iter().flat_map(|(start, mut rows)| {
            rows.sort_by_key(|row| (&row.word, row.n));
            rows.into_iter().take(2).map(|row| row!(start + size, row.word, row.n)).collect::<Vec<_>>()
        });
        let insert = format!(
            "SELECT window_end, word, n FROM {over} QUALIFY row_number() OVER (PARTITION BY window_end, window_start) <= 2"
        );
        check(rng, &[&table], "a TIMESTAMP(6), word STRING, n BIGINT", &insert, rows.collect(), late);
    });
}

#[test]
fn the_first_and_the_last_row_of_a_key() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let size = rng.random_range(1..8) * SECOND;
        let (open, late) = pieces(&table, &table.marks(), size, size);
        for (sort, last) in [("ASC", false), ("DESC", true)] {
            let keyed = group(open.iter().map(|(start, row)| ((*start, row.n.map(|n| n % 5)), *row)));
            let rows = keyed.into_iter().filter_map(|((_, key), rows)| {
                let first =
                    rows.into_iter().min_by_key(|row| (if last { -row.ts } else { row.ts }, &row.word, row.n))?;
                Some(row!(key, first.word, first.ts))
            });
            let insert = format!(
                "SELECT k, word, ts FROM (SELECT word, n % 5 AS k, ts, row_number() OVER \
                   (PARTITION BY window_start, window_end, n % 5 ORDER BY ts {sort}) AS number \
                   FROM tumble(t, ts, INTERVAL '{}' SECOND)) WHERE number = 1",
                size / SECOND
            );
            check(rng, &[&table], "k BIGINT, word STRING, ts TIMESTAMP(6)", &insert, rows.collect(), late);
        }
    });
}

#[test]
fn the_first_results_of_windows_have_windows_in_their_turn() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let size = rng.random_range(1..6) * SECOND;
        let windowed = table.windowed(size, size);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let (open, _) = pieces(&table, &table.marks(), size, size);
        let counts = group(open.iter().map(|(start, row)| ((*start, row.word.clone()), *row)));
        let by_window = group(counts.iter().map(|((start, word), rows)| (*start, (rows.len() as i64, word))));
        let first = by_window.into_iter().map(|(start, mut counts)| {
            counts.sort_by_key(|(count, word)| (Reverse(*count), *word));
            counts.truncate(3);
            (start, counts)
        });
        let first: Vec<_> = first.collect();
        let ranked = format!(
            "(SELECT window_start, window_end, window_time, word, c FROM (SELECT window_start, window_end, window_time, word, count(*) AS c, \
               row_number() OVER (PARTITION BY window_start, window_end ORDER BY count(*) DESC) AS place \
               FROM tumble(t, ts, INTERVAL '{}' SECOND) GROUP BY window_start, window_end, window_time, word) WHERE place <= 3)",
            size / SECOND
        );
        let rows =
            first.iter().flat_map(|(start, counts)| counts.iter().map(|(c, word)| row!(*start, (*word).clone(), *c)));
        let insert = format!("SELECT window_start, word, c FROM {ranked}");
        check(rng, &[&table], "a TIMESTAMP(6), word STRING, c BIGINT", &insert, rows.collect(), late);

        let rows = first.iter().map(|(start, counts)| row!(*start, counts.iter().map(|(c, _)| c).sum::<i64>()));
        let insert = format!("SELECT window_start, sum(c) FROM {ranked} GROUP BY window_start, window_end");
        check(rng, &[&table], "a TIMESTAMP(6), c BIGINT", &insert, rows.collect(), late);

        let outer =
            group(first.iter().map(|(start, counts)| (windows(start + size - 1, 10 * SECOND, 10 * SECOND)[0], counts)));
        let rows =
            outer.into_iter().map(|(start, counts)| row!(start, counts.iter().map(|c| c.len() as i64).sum::<i64>()));
        let insert = format!(
            "SELECT window_start, count(*) FROM TABLE(TUMBLE((SELECT window_time AS at, c FROM {ranked}), DESCRIPTOR(at), INTERVAL '10' SECOND)) \
             GROUP BY window_start"
        );
        check(rng, &[&table], "a TIMESTAMP(6), c BIGINT", &insert, rows.collect(), late);
    });
}

/// Two tables and the watermark of both at the end of each epoch.
fn two_tables(rng: &mut StdRng) -> (Table, Table, Vec<i64>) {
    let (left, mut right) = (Table::random(rng), Table::random(rng));
    (right.tick, right.delay) = (left.tick, left.delay);
    let at = |marks: &[i64], epoch: usize| marks.get(epoch).copied().unwrap_or(i64::MAX);
    let (of_left, of_right) = (left.marks(), right.marks());
    let epochs = left.epochs().max(right.epochs());
    let marks = (0..epochs).map(|epoch| at(&of_left, epoch).min(at(&of_right, epoch))).collect();
    (left, right, marks)
}

/// What SQL says of equality: NULL equals nothing.
fn equal<T: PartialEq>(left: &Option<T>, right: &Option<T>) -> bool {
    left.is_some() && left == right
}

type OnRows = fn(&Row, &Row) -> bool;

/// Conditions on a row of each table, which hold for few pairs.
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

const SAME_WINDOW: &str = "a.window_start = b.window_start AND a.window_end = b.window_end";

#[test]
fn a_join_pairs_the_rows_of_each_window() {
    for_seeds(4, |rng| {
        let (t, u, marks) = two_tables(rng);
        let slide = rng.random_range(1..4) * SECOND;
        let size = if rng.random() { slide } else { slide + rng.random_range(0..3) * SECOND };
        let (of_left, late_left) = pieces(&t, &marks, size, slide);
        let (of_right, late_right) = pieces(&u, &marks, size, slide);
        let late = late_left + late_right;
        let over = |table: &str| {
            format!("hop({table}, ts, INTERVAL '{}' SECOND, INTERVAL '{}' SECOND)", slide / SECOND, size / SECOND)
        };
        let (a, b) = (over("t"), over("u"));
        let (left, right) = (group(of_left), group(of_right));
        let none = Vec::new();
        let starts: BTreeSet<i64> = left.keys().chain(right.keys()).copied().collect();
        let windows: Vec<_> = starts
            .into_iter()
            .map(|start| (start, left.get(&start).unwrap_or(&none), right.get(&start).unwrap_or(&none)))
            .collect();

        let (text, on) = CONDITIONS[rng.random_range(0..CONDITIONS.len())];
        let kinds = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        let kind = kinds[rng.random_range(0..kinds.len())];
        let mut rows = Vec::new();
        for (start, left, right) in &windows {
            let cells = |row: Option<&&Row>| {
                let start = row.map(|_| *start);
                row!(start, row.and_then(|row| row.word.clone()), row.and_then(|row| row.n), row.map(|row| row.ts))
            };
            let mut pair = |a: Option<&&Row>, b: Option<&&Row>| rows.push(format!("{} {}", cells(a), cells(b)));
            for a in *left {
                right.iter().filter(|b| on(a, b)).for_each(|b| pair(Some(a), Some(b)));
                if kind != "JOIN" && kind != "RIGHT JOIN" && !right.iter().any(|b| on(a, b)) {
                    pair(Some(a), None);
                }
            }
            let outer = kind != "JOIN" && kind != "LEFT JOIN";
            right.iter().filter(|b| outer && !left.iter().any(|a| on(a, b))).for_each(|b| pair(None, Some(b)));
        }
        let columns =
            "a TIMESTAMP(6), b STRING, c BIGINT, d TIMESTAMP(6), e TIMESTAMP(6), f STRING, g BIGINT, h TIMESTAMP(6)";
        let insert = format!(
            "SELECT a.window_start, a.word, a.n, a.ts, b.window_start, b.word, b.n, b.ts \
             FROM {a} AS a {kind} {b} AS b ON {SAME_WINDOW} AND {text}"
        );
        check(rng, &[&t, &u], columns, &insert, rows, late);

        for (exists, wanted) in [("EXISTS", true), ("NOT EXISTS", false)] {
            let rows = windows.iter().flat_map(|(start, left, right)| {
                let left = left.iter().filter(|a| right.iter().any(|b| on(a, b)) == wanted);
                left.map(|row| row!(*start, row.word, row.ts)).collect::<Vec<_>>()
            });
            let insert = format!(
                "SELECT window_start, word, ts FROM {a} AS a WHERE {exists} (SELECT 1 FROM {b} AS b WHERE {SAME_WINDOW} AND {text})"
            );
            let columns = "a TIMESTAMP(6), b STRING, c TIMESTAMP(6)";
            check(rng, &[&t, &u], columns, &insert, rows.collect(), late);
        }
    });
}

#[test]
fn a_join_by_nothing_but_the_window() {
    for_seeds(3, |rng| {
        let (t, u, marks) = two_tables(rng);
        let size = SECOND;
        let (of_left, late_left) = pieces(&t, &marks, size, size);
        let (of_right, late_right) = pieces(&u, &marks, size, size);
        let (left, right) = (group(of_left), group(of_right));
        let [a, b] = ["t", "u"].map(|table| format!("tumble({table}, ts, INTERVAL '1' SECOND)"));

        let rows = left.iter().filter_map(|(start, left)| {
            let right = right.get(start)?;
            let sum = |rows: &[&Row]| rows.iter().filter_map(|row| row.n).sum::<i64>();
            let known = |rows: &[&Row]| rows.iter().any(|row| row.n.is_some());
            let total = known(left).then(|| sum(left) * right.len() as i64);
            Some(row!(*start, (left.len() * right.len()) as i64, total))
        });
        let insert = format!(
            "SELECT window_start, count(*), sum(n) FROM (SELECT a.window_start, a.window_end, a.n, b.word FROM {a} AS a JOIN {b} AS b ON {SAME_WINDOW}) \
             GROUP BY window_start, window_end"
        );
        check(rng, &[&t, &u], "a TIMESTAMP(6), n BIGINT, s BIGINT", &insert, rows.collect(), late_left + late_right);

        // rows of one table with the results of the other, whose windows close by its own watermark
        let (closed, late_closed) = pieces(&u, &u.marks(), size, size);
        let closed = group(closed);
        let rows = left.iter().flat_map(|(start, left)| {
            let most = closed.get(start).and_then(|right| right.iter().filter_map(|row| row.n).max());
            left.iter()
                .filter(move |row| row.n > most && most.is_some())
                .map(move |row| row!(start + size, row.n, most))
        });
        let insert = format!(
            "SELECT a.window_end, n, most FROM {a} AS a, \
               (SELECT window_start, window_end, max(n) AS most FROM {b} GROUP BY window_start, window_end) AS b \
             WHERE {SAME_WINDOW} AND n > most"
        );
        check(rng, &[&t, &u], "a TIMESTAMP(6), n BIGINT, m BIGINT", &insert, rows.collect(), late_left + late_closed);

        let rows = left.iter().flat_map(|(start, left)| {
            let words: Vec<&String> =
                right.get(start).into_iter().flatten().filter_map(|row| row.word.as_ref()).collect();
            let known = left.iter().filter(move |row| row.word.as_ref().is_some_and(|word| words.contains(&word)));
            known.map(|row| row!(*start, row.word, row.n)).collect::<Vec<_>>()
        });
        let insert = format!(
            "SELECT window_start, word, n FROM {a} AS a WHERE word IN (SELECT word FROM {b} AS b WHERE {SAME_WINDOW})"
        );
        check(rng, &[&t, &u], "a TIMESTAMP(6), w STRING, n BIGINT", &insert, rows.collect(), late_left + late_right);
    });
}

#[test]
fn distinct_rows_of_a_window() {
    for_seeds(2, |rng| {
        let table = Table::random(rng);
        let size = 3 * SECOND;
        let windowed = table.windowed(size, size);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let (open, _) = pieces(&table, &table.marks(), size, size);
        let rows: BTreeSet<_> = open.iter().map(|(start, row)| (*start, &row.word)).collect();
        let rows = rows.into_iter().map(|(start, word)| row!(start, start + size, *word)).collect();
        let insert = "SELECT DISTINCT window_start, window_end, word FROM tumble(t, ts, INTERVAL '3' SECOND)";
        check(rng, &[&table], "a TIMESTAMP(6), b TIMESTAMP(6), word STRING", insert, rows, late);
    });
}

fn sorted_by<'a, K: Ord>(rows: &[&'a Row], sort: impl Fn(&'a Row) -> K) -> Vec<&'a Row> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| sort(row));
    rows
}

#[test]
fn ordered_aggregates_do_not_depend_on_who_came_first() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let size = 5 * SECOND;
        let windowed = table.windowed(size, size);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let (open, _) = pieces(&table, &table.marks(), size, size);
        let rows = group(open).into_iter().map(|(start, rows)| {
            let nulls_last = |value: &Option<i64>| (value.is_none(), *value);
            let all: Vec<Option<i64>> = sorted_by(&rows, |row| nulls_last(&row.n.map(|n| n % 4)))
                .iter()
                .map(|row| row.n.map(|n| n % 4))
                .collect();
            let by_second = |row: &Row| row.ts.div_euclid(SECOND);
            let pairs = sorted_by(&rows, |row| (Reverse(by_second(row)), nulls_last(&row.n)));
            let pairs: Vec<Option<i64>> = pairs.iter().map(|row| row.n).collect();
            let words: Vec<&str> =
                sorted_by(&rows, |row| &row.word).iter().filter_map(|row| row.word.as_deref()).collect();
            let text = (!words.is_empty()).then(|| words.join("|"));
            let first = sorted_by(&rows, |row| (by_second(row), row.word.is_none(), &row.word));
            let last = sorted_by(&rows, |row| (by_second(row), nulls_last(&row.n)));
            row!(start, all, pairs, text, first[0].word, last[last.len() - 1].n)
        });
        let columns = "a TIMESTAMP(6), b ARRAY<BIGINT>, c ARRAY<BIGINT>, d STRING, e STRING, f BIGINT";
        let insert = "SELECT window_start, array_agg(n % 4), array_agg(n ORDER BY date_trunc('second', ts) DESC), string_agg(word, '|'), \
                      first_value(word ORDER BY date_trunc('second', ts)), last_value(n ORDER BY date_trunc('second', ts)) \
                      FROM tumble(t, ts, INTERVAL '5' SECOND) GROUP BY window_start";
        check(rng, &[&table], columns, insert, rows.collect(), late);
    });
}

#[test]
fn sessions_are_ranked_and_joined_like_other_windows() {
    for_seeds(2, |rng| {
        let table = Table::random(rng);
        let sessions = "(SELECT window_start, window_end, word, count(*) AS c FROM \
             SESSION(TABLE t PARTITION BY word, DESCRIPTOR(ts), INTERVAL '2' SECOND) GROUP BY window_start, window_end, word)";
        let ddl = "CREATE TABLE out (a TIMESTAMP(6), w STRING, c BIGINT) WITH ('connector' = 'memory');";
        let run = |insert: &str| {
            let text = format!("{} {ddl} INSERT INTO out {insert};", table.ddl());
            run(&text, &table, SHAPES[1]).0
        };
        let plain = run(&format!("SELECT window_start, word, c FROM {sessions} WHERE word IS NOT NULL"));
        let ranked = run(&format!(
            "SELECT window_start, word, c FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, word ORDER BY c) AS n \
               FROM {sessions}) WHERE n = 1 AND word IS NOT NULL"
        ));
        assert_same(&ranked, &plain, "a session of a word is the only one with its bounds");
        let joined = run(&format!(
            "SELECT a.window_start, a.word, b.c FROM {sessions} AS a JOIN {sessions} AS b ON {SAME_WINDOW} AND a.word = b.word"
        ));
        assert_same(&joined, &plain, "and so it is joined with itself");
    });
}

/// Rows by the start of the window of `size` that is open when they come, and what a table of late rows has of the others.
fn in_time<'a>(table: &'a Table, marks: &[i64], size: i64) -> (BTreeMap<i64, Vec<&'a Row>>, Vec<String>) {
    let (mut open, mut late) = (Vec::new(), Vec::new());
    for (row, starts) in table.windowed_by(marks, size, size) {
        match starts.first() {
            Some(start) => open.push((*start, row)),
            None => late.push(row!(row.word, row.ts, row.ts - row.ts.rem_euclid(size) + size)),
        }
    }
    (group(open), late)
}

#[test]
fn late_rows_of_both_sides_of_a_join_go_into_a_table() {
    for_seeds(3, |rng| {
        let (t, u, marks) = two_tables(rng);
        let size = rng.random_range(1..4) * SECOND;
        // windows that stay open for longer see an earlier watermark
        let lateness = rng.random_range(0..3) * SECOND;
        let later: Vec<i64> = marks
            .iter()
            .map(|mark| if matches!(*mark, i64::MIN | i64::MAX) { *mark } else { mark - lateness })
            .collect();
        let (left, mut late) = in_time(&t, &later, size);
        let (right, late_right) = in_time(&u, &later, size);
        late.extend(late_right);
        let rows = left.iter().flat_map(|(start, left)| {
            let right = right.get(start).into_iter().flatten();
            right.flat_map(|b| left.iter().filter(|a| equal(&a.word, &b.word)).map(|a| row!(a.word, a.ts, b.ts)))
        });
        let over = |table: &str| format!("tumble({table}, ts, INTERVAL '{}' SECOND)", size / SECOND);
        let insert = format!(
            "SELECT a.word, a.ts, b.ts FROM {} AS a JOIN {} AS b ON {SAME_WINDOW} AND a.word = b.word \
             ALLOWED LATENESS INTERVAL '{}' SECONDS",
            over("t"),
            over("u"),
            lateness / SECOND
        );
        check_late(rng, &[&t, &u], &insert, rows.collect(), late);

        // of a join of one table with itself each side has its own
        let (own, late) = in_time(&t, &t.marks(), size);
        let rows = own.values().flat_map(|rows| {
            rows.iter().flat_map(move |a| rows.iter().filter(|b| equal(&a.n, &b.n)).map(|b| row!(a.word, a.ts, b.ts)))
        });
        let insert = format!(
            "SELECT a.word, a.ts, b.ts FROM {} AS a JOIN {} AS b ON {SAME_WINDOW} AND a.n = b.n",
            over("t"),
            over("t")
        );
        check_late(rng, &[&t], &insert, rows.collect(), [late.clone(), late].concat());
    });
}

#[test]
fn late_rows_of_a_ranking_go_into_a_table() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let size = rng.random_range(1..4) * SECOND;
        let (open, late) = in_time(&table, &table.marks(), size);
        let mut rows = Vec::new();
        for (start, all) in &open {
            for of_word in group(all.iter().map(|row| (row.word.clone(), *row))).into_values() {
                // two rows of the same moment are the same to the answer
                let sorted = sorted_by(&of_word, |row| row.ts);
                rows.extend(sorted.iter().take(2).map(|row| row!(row.word, row.ts, start + size)));
            }
        }
        let insert = format!(
            "SELECT word, ts, window_end FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, word ORDER BY ts) AS number \
             FROM tumble(t, ts, INTERVAL '{}' SECOND)) WHERE number <= 2",
            size / SECOND
        );
        check_late(rng, &[&table], &insert, rows, late);
    });
}

#[test]
fn each_row_with_the_newest_row_of_its_key_at_its_time() {
    for_seeds(6, |rng| {
        let (t, u, marks) = two_tables(rng);
        let (before, outer, versions) = (rng.random::<bool>(), rng.random::<bool>(), rng.random::<bool>());
        let epoch_of = |row: &Row, came: usize| (came..marks.len()).find(|epoch| marks[*epoch] > row.ts);
        let came = |table: &Table| -> Vec<(usize, Row)> {
            (0..table.epochs()).flat_map(|epoch| table.epoch(epoch).map(move |row| (epoch, row.clone()))).collect()
        };
        let (left, right) = (came(&t), came(&u));
        let late = left.iter().filter(|(epoch, row)| *epoch > 0 && row.ts < marks[epoch - 1]).count();
        let mut rows = Vec::new();
        for (epoch, row) in left.iter().filter(|(epoch, row)| *epoch == 0 || row.ts >= marks[epoch - 1]) {
            let leaves = epoch_of(row, *epoch).expect("all rows leave at the end");
            let holds = |of: &Row| if before && !versions { of.ts < row.ts } else { of.ts <= row.ts };
            let found = right
                .iter()
                .filter(|(epoch, of)| *epoch <= leaves && of.word.is_some() && of.word == row.word && holds(of));
            match found.map(|(_, of)| (of.ts, of.n)).max() {
                Some((ts, n)) => rows.push(row!(row.word, row.n, row.ts, n, ts)),
                None if outer => rows.push(row!(row.word, row.n, row.ts, None::<i64>, None::<i64>)),
                None => {}
            }
        }
        let columns = "word STRING, n BIGINT, ts TIMESTAMP(6), m BIGINT, since TIMESTAMP(6)";
        let from = match versions {
            true => format!(
                "t {} JOIN v FOR SYSTEM_TIME AS OF t.ts AS v ON t.word = v.word",
                if outer { "LEFT" } else { "INNER" }
            ),
            false => format!(
                "t ASOF {} JOIN u AS v MATCH_CONDITION (t.ts {} v.ts) ON t.word = v.word",
                if outer { "LEFT" } else { "" },
                if before { ">" } else { ">=" }
            ),
        };
        let insert = format!(
            "WITH v AS (SELECT word, n, ts FROM u QUALIFY row_number() OVER (PARTITION BY word ORDER BY ts DESC) = 1) \
             SELECT t.word, t.n, t.ts, v.n, v.ts FROM {from}"
        );
        check(rng, &[&t, &u], columns, &insert, rows, late);
    });
}
