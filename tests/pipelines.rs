//! Pipelines in SQL against answers that the test computes for itself: random rows, shuffled within their epochs, on one worker,
//! on three, and on two processes of two. All must say the same, late rows included.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::connector::{Changes, Context, Polled, Shard, Sink, Source, Split, SplitStart};
use highwater::error::Result;
use highwater::sql::{self, Text};
use pipeline::{
    Row, SECOND, SHAPES, Session, Sessions, Shape, Table, assert_same, expected, for_seeds, run, run_with, sorted,
    texts, windows,
};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Runs `insert` into `out`, which has `columns`, everywhere, and expects `rows` and so many `late` ones.
fn check(rng: &mut StdRng, table: &Table, columns: &str, insert: &str, rows: Vec<String>, late: usize) {
    let text = format!(
        "{}CREATE TABLE out ({columns}) WITH ('connector' = 'memory');\nINSERT INTO out {insert};",
        table.ddl()
    );
    let rows = expected(rows);
    for shape in SHAPES {
        let (found, snapshot) = run(&text, &table.shuffled(rng), shape);
        assert_same(&found, &rows, &format!("{shape:?}, {} splits, delay {}: {text}", table.splits.len(), table.delay));
        assert_eq!(snapshot.late_rows(), late as u64, "late rows on {shape:?}, {} splits: {text}", table.splits.len());
    }
}

fn group<'a, K: Ord, T>(items: impl IntoIterator<Item = (K, &'a T)>) -> BTreeMap<K, Vec<&'a T>> {
    let mut groups: BTreeMap<K, Vec<&T>> = BTreeMap::new();
    items.into_iter().for_each(|(key, item)| groups.entry(key).or_default().push(item));
    groups
}

fn by_word<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<Option<String>, Vec<&'a Row>> {
    group(rows.map(|row| (row.word.clone(), row)))
}

/// The sum of what is not NULL; NULL if there is nothing.
fn sum<T: std::iter::Sum>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    let values: Vec<T> = values.flatten().collect();
    if values.is_empty() { None } else { Some(values.into_iter().sum()) }
}

#[test]
fn words_are_counted_once_the_input_has_ended() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let rows = by_word(table.rows()).into_iter().map(|(word, rows)| row!(word, rows.len() as i64)).collect();
        check(rng, &table, "word STRING, n BIGINT", "SELECT word, count(*) FROM t GROUP BY word EMIT FINAL", rows, 0);
        let words: BTreeSet<_> = table.rows().map(|row| row.word.clone()).collect();
        let rows = words.iter().map(|word| row!(*word)).collect();
        check(rng, &table, "word STRING", "SELECT DISTINCT word FROM t EMIT FINAL", rows, 0);
    });
}

#[test]
fn aggregates_are_those_of_their_rows() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let all = |rows: &[&Row]| {
            let n = || rows.iter().filter_map(|row| row.n);
            let mut sorted: Vec<Option<i64>> = rows.iter().map(|row| row.n).collect();
            sorted.sort_by_key(|n| (n.is_none(), *n)); // NULLs last
            let sorted = (!sorted.is_empty()).then_some(sorted);
            let mean = (n().count() > 0).then(|| n().sum::<i64>() as f64 / n().count() as f64);
            row!(
                rows.len() as i64,
                n().count() as i64,
                sum(rows.iter().map(|row| row.n)),
                n().min(),
                n().max(),
                mean,
                sum(rows.iter().map(|row| row.ratio)),
                sum(rows.iter().map(|row| row.price)),
                rows.iter().filter_map(|row| row.tags.as_ref().map(|_| row.ts)).max(),
                rows.iter().filter_map(|row| row.word.clone()).min(),
                rows.iter().filter_map(|row| row.price).collect::<BTreeSet<_>>().len() as i64,
                sorted,
                n().filter(|n| n % 2 == 0).count() as i64
            )
        };
        let calls = "count(*), count(n), sum(n), min(n), max(n), avg(n), sum(ratio), sum(price), max(ts) FILTER (WHERE tags IS NOT NULL), \
                     min(word), count(DISTINCT price), array_agg(n ORDER BY n), count(*) FILTER (WHERE n % 2 = 0)";
        let columns = "a BIGINT, b BIGINT, c BIGINT, d BIGINT, e BIGINT, f DOUBLE, g DOUBLE, h DECIMAL(22, 2), i TIMESTAMP(6), j STRING, \
                       k BIGINT, l ARRAY<BIGINT>, m BIGINT";
        let rows = group(table.rows().map(|row| (row.n.map(|n| n % 7), row))).into_iter();
        let rows = rows.map(|(key, rows)| format!("{} {}", row!(key), all(&rows))).collect();
        let keyed = format!("SELECT n % 7, {calls} FROM t GROUP BY n % 7 EMIT FINAL");
        check(rng, &table, &format!("key BIGINT, {columns}"), &keyed, rows, 0);

        let rows: Vec<&Row> = table.rows().collect();
        let whole = format!("SELECT {calls} FROM t EMIT FINAL");
        check(rng, &table, columns, &whole, vec![all(&rows)], 0);
        let empty = Table { splits: vec![Vec::new(); table.splits.len()], ..table };
        check(rng, &empty, columns, &whole, vec![all(&[])], 0);
    });
}

#[test]
fn anything_can_be_a_key() {
    for_seeds(2, |rng| {
        let table = Table::random(rng);
        let keys =
            table.rows().map(|row| (row!(row.price, row.ratio, row.tags, row.n.map(|n| n > 0).map(i64::from)), row));
        let rows = group(keys).into_iter().map(|(key, rows)| format!("{key} {}", rows.len())).collect();
        let columns = "a DECIMAL(12, 2), b DOUBLE, c ARRAY<STRING>, d BIGINT, e BIGINT";
        let insert = "SELECT price, ratio, tags, CAST(positive AS BIGINT), count(*) FROM (SELECT *, n > 0 AS positive FROM t) \
                      GROUP BY price, ratio, tags, positive EMIT FINAL";
        check(rng, &table, columns, insert, rows, 0);
    });
}

#[test]
fn tumbling_windows_hold_the_rows_that_were_not_late() {
    for_seeds(4, |rng| {
        let table = Table::random(rng);
        let size = rng.random_range(1..8) * SECOND;
        let windowed = table.windowed(size, size);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let pieces = || windowed.iter().flat_map(|(row, open)| open.iter().map(move |start| (*start, *row)));
        let over = format!("TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '{}' SECOND))", size / SECOND);

        let keyed = group(pieces().map(|(start, row)| ((start, row.word.clone()), row)));
        let rows = keyed.iter().map(|((start, word), rows)| {
            row!(
                *start,
                start + size,
                start + size - 1,
                *word,
                rows.len() as i64,
                sum(rows.iter().map(|row| row.price))
            )
        });
        let columns = "a TIMESTAMP(6), b TIMESTAMP(6), c TIMESTAMP(6), word STRING, n BIGINT, price DECIMAL(22, 2)";
        let insert = format!(
            "SELECT window_start, window_end, window_time, word, count(*), sum(price) FROM {over} \
             GROUP BY window_start, window_end, window_time, word"
        );
        check(rng, &table, columns, &insert, rows.collect(), late);

        let rows =
            group(pieces()).into_iter().map(|(start, rows)| row!(start, sum(rows.iter().map(|row| row.n)))).collect();
        let insert = format!("SELECT window_start, sum(n) FROM {over} GROUP BY window_start");
        check(rng, &table, "a TIMESTAMP(6), n BIGINT", &insert, rows, late);

        let rows = keyed
            .iter()
            .filter(|(_, rows)| rows.len() > 1)
            .map(|((start, word), _)| row!(start + size, *word))
            .collect();
        let insert = format!("SELECT window_end, word FROM {over} GROUP BY window_end, word HAVING count(*) > 1");
        check(rng, &table, "a TIMESTAMP(6), word STRING", &insert, rows, late);
    });
}

#[test]
fn overlapping_windows_repeat_their_rows() {
    for_seeds(4, |rng| {
        let table = Table::random(rng);
        let slide = rng.random_range(1..6) * SECOND;
        let size = slide + rng.random_range(0..10) * SECOND;
        let windowed = table.windowed(size, slide);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let keyed =
            group(windowed.iter().flat_map(|(row, open)| open.iter().map(|start| ((*start, row.word.clone()), *row))));
        let rows = keyed.into_iter().map(|((start, word), rows)| {
            let different: BTreeSet<_> = rows.iter().filter_map(|row| row.n).collect();
            row!(
                start,
                word,
                rows.len() as i64,
                different.len() as i64,
                rows.iter().filter_map(|row| row.ratio.map(|r| r as i64)).max()
            )
        });
        let insert = format!(
            "SELECT window_start, word, count(*), count(DISTINCT n), CAST(max(trunc(ratio)) AS BIGINT) FROM \
             TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '{}' SECOND, INTERVAL '{}' SECOND)) GROUP BY window_start, window_end, word",
            slide / SECOND,
            size / SECOND
        );
        check(rng, &table, "a TIMESTAMP(6), word STRING, n BIGINT, d BIGINT, r BIGINT", &insert, rows.collect(), late);
    });
}

#[test]
fn windows_that_grow_or_are_moved_on_hold_their_rows() {
    for_seeds(4, |rng| {
        let table = Table::random(rng);
        let marks = table.marks();
        let step = rng.random_range(1..5) * SECOND;
        let size = step * rng.random_range(1..6);
        let offset = rng.random_range(-40..40) * SECOND;
        let seconds = |time: i64| format!("INTERVAL '{}' SECOND", time / SECOND);
        let starts = |time: i64, every: i64| (time - offset).div_euclid(every) * every + offset;
        let grown = |time: i64| {
            let start = starts(time, size);
            (1..=size / step).map(|n| (start, start + n * step)).filter(|(_, end)| *end > time).collect::<Vec<_>>()
        };
        let moved = |time: i64| {
            let last = starts(time, step);
            let starts = (0..).map(|back| last - back * step).take_while(|start| start + size > time);
            starts.map(|start| (start, start + size)).collect::<Vec<_>>()
        };
        for function in ["cumulate", "hop"] {
            let windows = |time: i64| if function == "hop" { moved(time) } else { grown(time) };
            let (mut pieces, mut late) = (Vec::new(), 0);
            for epoch in 0..table.epochs() {
                let before = if epoch == 0 { i64::MIN } else { marks[epoch - 1] };
                for row in table.epoch(epoch) {
                    let open: Vec<_> = windows(row.ts).into_iter().filter(|(_, end)| *end > before).collect();
                    late += usize::from(open.is_empty());
                    pieces.extend(open.into_iter().map(|window| ((window, row.word.clone()), row)));
                }
            }
            let rows = group(pieces).into_iter().map(|(((start, end), word), rows)| {
                row!(start, end, word, rows.len() as i64, sum(rows.iter().map(|row| row.n)))
            });
            let over = format!("{function}(t, ts, {}, {}, {})", seconds(step), seconds(size), seconds(offset));
            let columns = "a TIMESTAMP(6), b TIMESTAMP(6), word STRING, n BIGINT, s BIGINT";
            let insert = format!(
                "SELECT window_start, window_end, word, count(*), sum(n) FROM {over} GROUP BY window_start, window_end, word"
            );
            check(rng, &table, columns, &insert, rows.collect(), late);
            let rows = table.rows().flat_map(|row| {
                windows(row.ts).into_iter().map(|(start, end)| row!(row.word, start, end)).collect::<Vec<_>>()
            });
            let insert = format!("SELECT word, window_start, window_end FROM {over}");
            check(rng, &table, "word STRING, a TIMESTAMP(6), b TIMESTAMP(6)", &insert, rows.collect(), 0);
        }
    });
}

#[test]
fn sessions_hold_the_rows_of_their_key() {
    for_seeds(6, |rng| {
        let table = Table::random(rng);
        let gap = rng.random_range(1..6) * SECOND;
        let marks = table.marks();
        // `of` gives the rows of the sessions, their key in place of the word
        let all = |of: &dyn Fn(&Row) -> Option<Row>| {
            let mut oracle = Sessions::new(gap);
            let (mut closed, mut late) = (Vec::new(), 0);
            for (epoch, mark) in marks.iter().enumerate() {
                let (sessions, late_rows) = oracle.epoch(table.epoch(epoch).filter_map(of), *mark);
                closed.extend(sessions);
                late += late_rows.len();
            }
            (closed, late)
        };
        let gap_text = format!("INTERVAL '{}' SECOND", gap / SECOND);

        let (closed, late) = all(&|row| Some(row.clone()));
        let rows = closed.iter().map(|(word, start, end, rows)| {
            row!(*start, *end, end - 1, *word, rows.len() as i64, sum(rows.iter().map(|row| row.price)))
        });
        let rows: Vec<String> = rows.collect();
        let columns = "a TIMESTAMP(6), b TIMESTAMP(6), c TIMESTAMP(6), word STRING, n BIGINT, price DECIMAL(22, 2)";
        let select = "SELECT window_start, window_end, window_time, word, count(*), sum(price) FROM";
        let insert = format!(
            "{select} TABLE(SESSION(TABLE t PARTITION BY word, DESCRIPTOR(ts), {gap_text})) \
             GROUP BY window_start, window_end, window_time, word"
        );
        check(rng, &table, columns, &insert, rows.clone(), late);
        // without PARTITION BY the keys of the GROUP BY are those of the sessions
        let insert =
            format!("{select} session(t, ts, {gap_text}) GROUP BY word, window_time, window_start, window_end");
        check(rng, &table, columns, &insert, rows, late);

        // without any key
        let (closed, late) = all(&|row| Some(Row { word: None, ..row.clone() }));
        let rows = closed.iter().map(|(_, start, _, rows)| row!(*start, rows.len() as i64));
        let insert = format!("SELECT window_start, count(*) FROM session(t, ts, {gap_text}) GROUP BY window_start");
        check(rng, &table, "a TIMESTAMP(6), n BIGINT", &insert, rows.collect(), late);

        // rows that are filtered before, a computed key, and windows over the sessions
        let (closed, late) = all(&|row| row.n.map(|n| Row { word: Some((n % 2).to_string()), ..row.clone() }));
        let bucket = |(_, _, end, _): &Session| (end - 1).div_euclid(20 * SECOND) * 20 * SECOND;
        let rows =
            group(closed.iter().map(|session| (bucket(session), session))).into_iter().map(|(start, sessions)| {
                row!(start, sessions.len() as i64, sessions.iter().map(|(_, _, _, rows)| rows.len() as i64).max())
            });
        let sessions =
            format!("session((SELECT n % 2 AS rest, ts FROM t WHERE n IS NOT NULL) PARTITION BY rest, ts, {gap_text})");
        let insert = format!(
            "SELECT window_start, count(*), max(c) FROM TUMBLE((SELECT window_time AS at, rest, count(*) AS c FROM {sessions} \
             GROUP BY window_start, window_end, window_time, rest), DESCRIPTOR(at), INTERVAL '20' SECOND) GROUP BY window_start"
        );
        check(rng, &table, "a TIMESTAMP(6), n BIGINT, c BIGINT", &insert, rows.collect(), late);

        // the sessions that are the same for all, by the bounds that they carry
        let bounds = group(closed.iter().map(|session| ((session.1, session.2), session)));
        let rows = bounds.into_iter().map(|((start, end), sessions)| row!(start, end, sessions.len() as i64));
        let insert = format!(
            "SELECT window_start, window_end, count(*) FROM (SELECT window_start, window_end, rest FROM {sessions} \
             GROUP BY window_start, window_end, rest) GROUP BY window_start, window_end"
        );
        check(rng, &table, "a TIMESTAMP(6), b TIMESTAMP(6), n BIGINT", &insert, rows.collect(), late);
    });
}

/// Runs a query over the windows `over` everywhere and expects its results in `out` and its late rows in `late`: each a word, a number,
/// the bounds of its last window, the watermark that it met and whether it says where it comes from.
fn check_late(rng: &mut StdRng, table: &Table, over: &str, ending: &str, rows: Vec<String>, late: Vec<String>) {
    let text = format!(
        "{}CREATE TABLE out (a TIMESTAMP(6), word STRING, n BIGINT) WITH ('connector' = 'memory');
         CREATE TABLE late (watermark TIMESTAMP(6), word STRING, n BIGINT, window_end TIMESTAMP(6), window_start TIMESTAMP(6), \
           other INT, reason STRING, place STRING) WITH ('connector' = 'memory');
         CREATE VIEW odd AS SELECT *, 7 AS seven FROM t WHERE n IS NULL OR n % 3 <> 0;
         INSERT INTO out SELECT window_end, word, count(*) FROM {over} GROUP BY word, window_start, window_end {ending} LATE INTO late;",
        table.ddl()
    );
    let (rows, late) = (expected(rows), expected(late));
    for shape in SHAPES {
        let (results, late_rows) = (MemorySink::new(), MemorySink::new());
        let connectors = Builtin::default()
            .with_source("t", table.shuffled(rng).source())
            .with_sink("out", Arc::new(results.clone()))
            .with_sink("late", Arc::new(late_rows.clone()));
        let (snapshot, result) = run_with(&text, &connectors, shape);
        result.unwrap();
        assert_same(&sorted(&results), &rows, &format!("{shape:?}: {text}"));
        let strip = |row: String| {
            let (known, place) = row.rsplit_once(" NULL \"").expect("`other` is NULL");
            assert!(place.contains(" closed\" \"split "), "{row}");
            known.to_owned()
        };
        assert_same(
            &expected(sorted(&late_rows).into_iter().map(strip)),
            &late,
            &format!("late rows on {shape:?}: {text}"),
        );
        assert_eq!(snapshot.late_rows(), late.len() as u64, "{shape:?}");
    }
}

#[test]
fn late_rows_go_where_the_query_says() {
    for_seeds(4, |rng| {
        let table = Table::random(rng);
        let step = rng.random_range(1..4) * SECOND;
        let size = step * rng.random_range(1..4);
        // how long the windows stay open after the watermark has reached their end
        let lateness = if rng.random() { rng.random_range(1..10) * SECOND } else { 0 };
        let ending = match lateness {
            0 => "EMIT ON WINDOW CLOSE".to_owned(),
            _ => format!("ALLOWED LATENESS INTERVAL '{}' SECONDS", lateness / SECOND),
        };
        let behind = |mark: i64| if mark == i64::MAX { mark } else { mark.saturating_sub(lateness) };
        let marks: Vec<i64> = table.marks().into_iter().map(behind).collect();
        let kept = |row: &&Row| row.n.is_none_or(|n| n % 3 != 0);
        let starts = |time: i64, every: i64| time.div_euclid(every) * every;
        let seconds = |time: i64| format!("INTERVAL '{}' SECOND", time / SECOND);
        for function in ["hop", "cumulate"] {
            let windows = |time: i64| -> Vec<(i64, i64)> {
                match function {
                    "hop" => windows(time, size, step).into_iter().map(|start| (start, start + size)).collect(),
                    _ => {
                        let start = starts(time, size);
                        let grown = (1..=size / step).map(|n| (start, start + n * step));
                        grown.filter(|(_, end)| *end > time).collect()
                    }
                }
            };
            let (mut pieces, mut late) = (Vec::new(), Vec::new());
            for epoch in 0..table.epochs() {
                let before = if epoch == 0 { i64::MIN } else { marks[epoch - 1] };
                for row in table.epoch(epoch).filter(kept) {
                    let all = windows(row.ts);
                    let (start, end) = *all.iter().max_by_key(|(_, end)| *end).expect("there is one");
                    if end <= before {
                        late.push(row!(before, row.word, row.n, end, start));
                    }
                    pieces
                        .extend(all.into_iter().filter(|(_, end)| *end > before).map(|w| ((w, row.word.clone()), row)));
                }
            }
            let rows = group(pieces).into_iter().map(|(((_, end), word), rows)| row!(end, word, rows.len() as i64));
            let over = format!("{function}(odd, ts, {}, {})", seconds(step), seconds(size));
            check_late(rng, &table, &over, &ending, rows.collect(), late);
        }

        let mut oracle = Sessions::new(step);
        let (mut rows, mut late) = (Vec::new(), Vec::new());
        let mut before = i64::MIN;
        for (epoch, mark) in marks.iter().enumerate() {
            let (closed, late_rows) = oracle.epoch(table.epoch(epoch).filter(kept).cloned(), *mark);
            rows.extend(closed.into_iter().map(|(word, _, end, rows)| row!(end, word, rows.len() as i64)));
            // a late session is made of late rows only
            for (_, of_word) in by_word(late_rows.iter()) {
                let mut of_word = of_word;
                of_word.sort_by_key(|row| row.ts);
                for session in of_word.chunk_by(|a, b| b.ts - a.ts < step) {
                    let (start, end) = (session[0].ts, session[session.len() - 1].ts + step);
                    late.extend(session.iter().map(|row| row!(before, row.word, row.n, end, start)));
                }
            }
            before = *mark;
        }
        let over = format!("session(odd PARTITION BY word, ts, {})", seconds(step));
        check_late(rng, &table, &over, &ending, rows, late);
    });
}

#[test]
fn results_of_windows_are_windowed_again() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let (inner, outer) = (SECOND, rng.random_range(1..10) * SECOND);
        let windowed = table.windowed(inner, inner);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let first =
            group(windowed.iter().flat_map(|(row, open)| open.iter().map(|start| ((*start, row.word.clone()), *row))));
        let second = group(first.iter().map(|((start, _), rows)| (windows(start + inner - 1, outer, outer)[0], rows)));
        let rows = second
            .into_iter()
            .map(|(start, groups)| row!(start, groups.len() as i64, groups.iter().map(|rows| rows.len() as i64).max()));
        let insert = format!(
            "SELECT window_start, count(*), max(c) FROM TABLE(TUMBLE(\
               (SELECT window_time AS at, word, count(*) AS c FROM tumble(t, ts, INTERVAL '1' SECOND) GROUP BY window_time, word), \
               DESCRIPTOR(at), INTERVAL '{}' SECOND)) GROUP BY window_start",
            outer / SECOND
        );
        check(rng, &table, "a TIMESTAMP(6), n BIGINT, c BIGINT", &insert, rows.collect(), late);

        // the results of each window again, by the windows that they already carry
        let second = group(first.iter().map(|((start, _), rows)| ((*start, rows.len() as i64), rows)));
        let rows = second.into_iter().map(|((start, c), groups)| row!(start, c, groups.len() as i64)).collect();
        let insert = "SELECT window_start, c, count(*) FROM (SELECT window_start, window_end, word, count(*) AS c \
                      FROM tumble(t, ts, INTERVAL '1' SECOND) GROUP BY window_start, window_end, word) \
                      GROUP BY window_start, window_end, c";
        check(rng, &table, "a TIMESTAMP(6), c BIGINT, n BIGINT", insert, rows, late);
    });
}

#[test]
fn windows_can_be_read_without_a_group_by_and_by_their_bounds() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let (slide, size) = (2 * SECOND, 5 * SECOND);
        let hop = "hop(t, ts, INTERVAL '2' SECOND, INTERVAL '5' SECOND)";
        // a row by itself is in all its windows, and none is late
        let rows = table
            .rows()
            .flat_map(|row| windows(row.ts, size, slide).into_iter().map(|start| row!(row.word, start + size)));
        check(
            rng,
            &table,
            "word STRING, a TIMESTAMP(6)",
            &format!("SELECT word, window_end FROM {hop}"),
            rows.collect(),
            0,
        );

        let pieces = table.rows().flat_map(|row| {
            windows(row.ts, size, slide).into_iter().map(move |start| (start.div_euclid(4 * SECOND), row))
        });
        let rows = group(pieces).into_iter().map(|(part, rows)| row!(part, rows.len() as i64)).collect();
        let insert = format!(
            "SELECT part, count(*) FROM (SELECT CAST(window_start AS BIGINT) / 4000000 AS part FROM {hop}) GROUP BY part EMIT FINAL"
        );
        check(rng, &table, "p BIGINT, n BIGINT", &insert, rows, 0);

        // here a row is late in each window by itself
        let least = table.rows().map(|row| row.ts).min().unwrap_or(0) + 6 * SECOND;
        let windowed = table.windowed(size, slide);
        let kept = |row: &Row, start: &i64| start % (3 * SECOND) == 0 && start + size > least && row.n.is_some();
        let late = windowed.iter().map(|(row, open)| {
            windows(row.ts, size, slide).iter().filter(|start| kept(row, start) && !open.contains(start)).count()
        });
        let pieces = windowed
            .iter()
            .flat_map(|(row, open)| open.iter().filter(|start| kept(row, start)).map(|start| (*start, *row)));
        let rows =
            group(pieces).into_iter().map(|(start, rows)| row!(start, sum(rows.iter().map(|row| row.n)))).collect();
        let insert = format!(
            "SELECT window_start, sum(n) FROM {hop} WHERE CAST(window_start AS BIGINT) % 3000000 = 0 AND n IS NOT NULL \
             AND CAST(window_end AS BIGINT) > {least} GROUP BY window_start, window_end"
        );
        check(rng, &table, "a TIMESTAMP(6), n BIGINT", &insert, rows, late.sum());

        // windows of two sizes in one GROUP BY
        let both = [table.windowed(2 * SECOND, 2 * SECOND), table.windowed(3 * SECOND, 3 * SECOND)];
        let late = both.iter().flatten().filter(|(_, open)| open.is_empty()).count();
        let sized = both.iter().zip([2 * SECOND, 3 * SECOND]);
        let pieces = sized.flat_map(|(windowed, size)| {
            windowed.iter().flat_map(move |(row, open)| open.iter().map(move |start| ((*start, start + size), *row)))
        });
        let rows = group(pieces).into_iter().map(|((start, end), rows)| row!(start, end, rows.len() as i64)).collect();
        let insert = "SELECT window_start, window_end, count(*) FROM \
                      (SELECT window_start, window_end, word FROM tumble(t, ts, INTERVAL '2' SECOND) UNION ALL \
                       SELECT window_start, window_end, word FROM tumble(t, ts, INTERVAL '3' SECOND)) GROUP BY window_start, window_end";
        check(rng, &table, "a TIMESTAMP(6), b TIMESTAMP(6), n BIGINT", insert, rows, late);
    });
}

#[test]
fn lists_become_rows() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let elements = |row: &Row| row.tags.clone().unwrap_or_default();
        let rows = table
            .rows()
            .flat_map(|row| elements(row).into_iter().map(|tag| row!(row.word, tag, row.ts)).collect::<Vec<_>>());
        check(
            rng,
            &table,
            "w STRING, tag STRING, a TIMESTAMP(6)",
            "SELECT word, unnest(tags), ts FROM t",
            rows.collect(),
            0,
        );

        let size = 4 * SECOND;
        let windowed = table.windowed(size, size);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).map(|(row, _)| elements(row).len()).sum();
        let tags = windowed.iter().flat_map(|(row, open)| {
            open.iter().flat_map(|start| elements(row).into_iter().map(|tag| ((*start, tag), *row))).collect::<Vec<_>>()
        });
        let rows = group(tags).into_iter().map(|((start, tag), rows)| row!(start, tag, rows.len() as i64)).collect();
        let insert = "SELECT window_start, tag, count(*) FROM (SELECT window_start, unnest(tags) AS tag FROM \
                      TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '4' SECOND))) GROUP BY window_start, tag";
        check(rng, &table, "a TIMESTAMP(6), tag STRING, n BIGINT", insert, rows, late);
    });
}

#[test]
fn rows_are_chosen_computed_and_put_together() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let sign = |n: Option<i64>| match n.map(i64::signum) {
            Some(1) => "above",
            Some(-1) => "below",
            _ => "neither",
        };
        let first = table.rows().filter(|row| row.word.as_deref() != Some("be") && row.word.is_some());
        let first = first.map(|row| {
            row!(row.word.as_ref().map(|w| w.to_uppercase()), sign(row.n).to_owned(), row.n.map(|n| n.to_string()))
        });
        let second = table.rows().filter(|row| row.n.is_none() || row.price.is_some_and(|price| price > 0));
        let second = second
            .map(|row| row!(row.word.clone().unwrap_or_else(|| "none".into()), "x".to_owned(), row.ts.to_string()));
        let insert = "SELECT upper(word), CASE WHEN n > 0 THEN 'above' WHEN n < 0 THEN 'below' ELSE 'neither' END, CAST(n AS STRING) \
                      FROM t WHERE word <> 'be' UNION ALL \
                      SELECT coalesce(word, 'none'), 'x', CAST(CAST(ts AS BIGINT) AS STRING) FROM t WHERE n IS NULL OR price > 0";
        check(rng, &table, "a STRING, b STRING, c STRING", insert, first.chain(second).collect(), 0);
    });
}

#[test]
fn a_union_waits_for_the_slower_table() {
    for_seeds(3, |rng| {
        let (left, mut right) = (Table::random(rng), Table::random(rng));
        (right.tick, right.delay) = (left.tick, left.delay);
        // an epoch's mark is the least of both; it never goes back
        let (of_left, of_right) = (left.marks(), right.marks());
        let at = |marks: &[i64], epoch: usize| marks.get(epoch).copied().unwrap_or(i64::MAX);
        let marks: Vec<i64> =
            (0..left.epochs().max(right.epochs())).map(|epoch| at(&of_left, epoch).min(at(&of_right, epoch))).collect();
        let size = 3 * SECOND;
        let mut windowed = left.windowed_by(&marks, size, size);
        windowed.extend(right.windowed_by(&marks, size, size));
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let pieces = windowed.iter().flat_map(|(row, open)| open.iter().map(move |start| (*start, *row)));
        let rows = expected(group(pieces).into_iter().map(|(start, rows)| row!(start, rows.len() as i64)));
        let other = left.ddl().replace("CREATE TABLE t ", "CREATE TABLE u ");
        let text = format!(
            "{}{other} CREATE TABLE out (a TIMESTAMP(6), n BIGINT) WITH ('connector' = 'memory');
             CREATE VIEW both AS SELECT ts, word FROM t UNION ALL SELECT ts, word FROM u;
             INSERT INTO out SELECT window_start, count(*) FROM tumble(both, ts, INTERVAL '3' SECOND) GROUP BY window_start;",
            left.ddl()
        );
        for shape in SHAPES {
            let sink = MemorySink::new();
            let connectors = Builtin::default()
                .with_source("t", left.shuffled(rng).source())
                .with_source("u", right.shuffled(rng).source())
                .with_sink("out", Arc::new(sink.clone()));
            let (snapshot, result) = run_with(&text, &connectors, shape);
            result.unwrap();
            assert_same(&sorted(&sink), &rows, &format!("{shape:?}: {text}"));
            assert_eq!(snapshot.late_rows(), late as u64, "{shape:?}");
        }

        // windows of each table that are counted together: what is late is so by both tables' watermark
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).map(|(row, _)| row!(row.word, row.n));
        let late = expected(late);
        let text = format!(
            "{}{other} CREATE TABLE out (a TIMESTAMP(6), n BIGINT) WITH ('connector' = 'memory');
             CREATE TABLE late (word STRING, n BIGINT) WITH ('connector' = 'memory');
             INSERT INTO out SELECT window_start, count(*) FROM
               (SELECT window_start, window_end, n FROM tumble(t, ts, INTERVAL '3' SECOND) UNION ALL
                SELECT window_start, window_end, n FROM tumble(u, ts, INTERVAL '3' SECOND)) GROUP BY window_start, window_end
             LATE INTO late;",
            left.ddl()
        );
        for shape in SHAPES {
            let (sink, late_rows) = (MemorySink::new(), MemorySink::new());
            let connectors = Builtin::default()
                .with_source("t", left.shuffled(rng).source())
                .with_source("u", right.shuffled(rng).source())
                .with_sink("out", Arc::new(sink.clone()))
                .with_sink("late", Arc::new(late_rows.clone()));
            run_with(&text, &connectors, shape).1.unwrap();
            assert_same(&sorted(&sink), &rows, &format!("{shape:?}: {text}"));
            assert_same(&sorted(&late_rows), &late, &format!("late rows on {shape:?}: {text}"));
        }
    });
}

#[test]
fn inserts_share_a_view() {
    for_seeds(2, |rng| {
        let table = Table::random(rng);
        let windowed = table.windowed(2 * SECOND, 2 * SECOND);
        let late = windowed.iter().filter(|(_, open)| open.is_empty()).count();
        let counts =
            group(windowed.iter().flat_map(|(row, open)| open.iter().map(|start| ((*start, row.word.clone()), *row))));
        let often = expected(
            counts
                .iter()
                .filter(|(_, rows)| rows.len() > 2)
                .map(|((start, word), rows)| row!(*start, *word, rows.len() as i64)),
        );
        let totals = group(counts.iter().map(|((_, word), rows)| (word.clone(), rows)));
        let totals = totals.into_iter().map(|(word, windows)| {
            row!(word, windows.len() as i64, windows.iter().map(|w| w.len() as i64).sum::<i64>())
        });
        let totals =
            expected(totals.chain(table.rows().filter(|row| row.n == Some(7)).map(|row| row!(row.word, 0_i64, 7_i64))));
        let text = format!(
            "{}CREATE TABLE often (a TIMESTAMP(6), word STRING, n BIGINT) WITH ('connector' = 'memory');
             CREATE TABLE totals (word STRING, windows BIGINT, n BIGINT) WITH ('connector' = 'memory');
             CREATE VIEW counts AS SELECT window_start, word, count(*) AS n FROM tumble(t, ts, INTERVAL '2' SECOND) GROUP BY window_start, word;
             INSERT INTO often SELECT window_start, word, n FROM counts WHERE n > 2;
             INSERT INTO totals SELECT word, count(*), sum(n) FROM counts GROUP BY word EMIT FINAL;
             INSERT INTO totals SELECT word, 0, n FROM t WHERE n = 7;",
            table.ddl()
        );
        for shape in SHAPES {
            let (first, second) = (MemorySink::new(), MemorySink::new());
            let connectors = Builtin::default()
                .with_source("t", table.shuffled(rng).source())
                .with_sink("often", Arc::new(first.clone()))
                .with_sink("totals", Arc::new(second.clone()));
            let (snapshot, result) = run_with(&text, &connectors, shape);
            result.unwrap();
            assert_same(&sorted(&first), &often, &format!("{shape:?}: {text}"));
            assert_same(&sorted(&second), &totals, &format!("{shape:?}: {text}"));
            assert_eq!(snapshot.late_rows(), late as u64, "the view is computed once, on {shape:?}");
        }
    });
}

#[test]
fn a_bounded_run_ends_whatever_its_budget() {
    for_seeds(2, |rng| {
        let table = Table::random(rng);
        let rows = expected(by_word(table.rows()).into_iter().map(|(word, rows)| row!(word, rows.len() as i64)));
        for (shape, budget) in [(Shape::Threads(2), 1), (Shape::Threads(3), 1000), (Shape::Processes(2, 1), 1)] {
            let epochs = rng.random_range(1..3);
            let text = format!(
                "{} SET 'inflight_bytes' = '{budget}'; SET 'inflight_epochs' = '{epochs}';
                 CREATE TABLE out (word STRING, n BIGINT) WITH ('connector' = 'memory');
                 INSERT INTO out SELECT word, count(*) FROM t GROUP BY word EMIT FINAL;",
                table.ddl()
            );
            assert_same(&run(&text, &table, shape).0, &rows, &text);
            let by_time = text.replace(&format!("'{} rows'", table.tick), "'2 ms'");
            assert_same(&run(&by_time, &table, shape).0, &rows, &by_time);
        }
    });
}

/// What happened while an updating pipeline ran, in the order in which it happened, on all workers.
type Log = Arc<Mutex<Vec<Happened>>>;

enum Happened {
    /// A split gave rows of this epoch.
    Read(usize),
    /// A shard was given these rows, their weight last.
    Wrote(RecordBatch),
}

/// A source that logs when it is read.
struct Watched {
    source: Arc<MemorySource>,
    tick: usize,
    log: Log,
}

struct WatchedSplit {
    split: Box<dyn Split>,
    tick: usize,
    log: Log,
}

impl Source for Watched {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.source.splits(context)
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let watched =
            |split| Box::new(WatchedSplit { split, tick: self.tick, log: Arc::clone(&self.log) }) as Box<dyn Split>;
        Ok(self.source.open(splits, context)?.into_iter().map(watched).collect())
    }
}

impl Split for WatchedSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let epoch = self.split.position() as usize / self.tick;
        let polled = self.split.poll(rows_max)?;
        if let Polled::Rows { .. } = polled {
            self.log.lock().unwrap().push(Happened::Read(epoch));
        }
        Ok(polled)
    }

    fn position(&self) -> u64 {
        self.split.position()
    }

    fn place(&self, row: usize) -> String {
        self.split.place(row)
    }
}

/// A sink that logs what it is given.
#[derive(Clone)]
struct Logged(Log, Changes);

impl Sink for Logged {
    fn single(&self) -> bool {
        false
    }

    fn open(&self, _: usize, _: usize, _: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(self.clone()))
    }

    fn changes(&self) -> Changes {
        self.1
    }
}

impl Shard for Logged {
    fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.0.lock().unwrap().push(Happened::Wrote(rows));
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        Ok(true)
    }
}

/// Runs `insert` with one epoch in flight, so that the log tells the epochs apart: what is written before a row of an epoch is
/// read belongs to the epochs before it.
fn logged(table: &Table, columns: &str, insert: &str, changes: Changes, shape: Shape) -> Vec<Happened> {
    let log = Log::default();
    let watched = Watched { source: table.source(), tick: table.tick, log: Arc::clone(&log) };
    let connectors = Builtin::default()
        .with_source("t", Arc::new(watched))
        .with_sink("out", Arc::new(Logged(Arc::clone(&log), changes)));
    let text = format!(
        "{}SET 'inflight_epochs' = '1'; CREATE TABLE out ({columns}) WITH ('connector' = 'memory');\nINSERT INTO out {insert};",
        table.ddl()
    );
    let (_, result) = run_with(&text, &connectors, shape);
    result.unwrap_or_else(|error| panic!("{error:?}: {text}"));
    std::mem::take(&mut *log.lock().unwrap())
}

/// Expects that after every epoch the changes so far sum to the `answer` over the rows so far.
fn check_updating(
    rng: &mut StdRng,
    table: &Table,
    columns: &str,
    insert: &str,
    answer: impl Fn(&[&Row]) -> Vec<String>,
) {
    for shape in SHAPES {
        let what = format!("{shape:?}, {} splits, tick {}: {insert}", table.splits.len(), table.tick);
        let mut live: BTreeMap<String, i64> = BTreeMap::new();
        let mut epoch = 0;
        let rows_up_to = |epoch: usize| (0..=epoch).flat_map(|epoch| table.epoch(epoch)).collect::<Vec<_>>();
        let table_of = |live: &BTreeMap<String, i64>| {
            live.iter().flat_map(|(row, count)| vec![row.clone(); *count as usize]).collect::<Vec<_>>()
        };
        for happened in logged(&table.shuffled(rng), columns, insert, Changes::All, shape) {
            match happened {
                Happened::Read(now) if now > epoch => {
                    // an epoch without rows may lie between, but none that changes anything
                    assert_same(
                        &table_of(&live),
                        &expected(answer(&rows_up_to(now - 1))),
                        &format!("after epoch {epoch}, {what}"),
                    );
                    epoch = now;
                }
                Happened::Read(_) => {}
                Happened::Wrote(rows) => {
                    for row in texts(&rows) {
                        let (row, weight) = row.rsplit_once(' ').expect("the weight is the last column");
                        let weight: i64 = weight.parse().expect("a weight is a number");
                        assert!(weight == 1 || weight == -1, "{what}: weight {weight}");
                        let count = live.entry(row.to_owned()).or_default();
                        *count += weight;
                        assert!(*count >= 0, "{what}: {row} is taken back, but was not said");
                        live.retain(|_, count| *count > 0);
                    }
                }
            }
        }
        assert_same(
            &table_of(&live),
            &expected(answer(&table.rows().collect::<Vec<_>>())),
            &format!("at the end, {what}"),
        );
    }
}

#[test]
fn changes_sum_to_the_answer_after_every_epoch() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let groups = |rows: &[&Row]| {
            by_word(rows.iter().copied())
                .into_iter()
                .map(|(w, rows)| (w, rows.into_iter().cloned().collect()))
                .collect::<Vec<(_, Vec<Row>)>>()
        };
        let columns = "word STRING, c BIGINT, s BIGINT, least DECIMAL(12, 2), most STRING, d BIGINT, mean DOUBLE";
        let insert = "SELECT word, count(*), sum(n), min(price), max(again), count(DISTINCT n), avg(ratio) \
                      FROM (SELECT *, word AS again FROM t) GROUP BY word";
        check_updating(rng, &table, columns, insert, |rows| {
            let row = |(word, rows): (Option<String>, Vec<Row>)| {
                let ratios: Vec<f64> = rows.iter().filter_map(|row| row.ratio).collect();
                row!(
                    word,
                    rows.len() as i64,
                    sum(rows.iter().map(|row| row.n)),
                    rows.iter().filter_map(|row| row.price).min(),
                    word,
                    rows.iter().filter_map(|row| row.n).collect::<BTreeSet<_>>().len() as i64,
                    (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratios.len() as f64)
                )
            };
            groups(rows).into_iter().map(row).collect()
        });
        // results that often stay the same, and groups that come and go
        let insert = "SELECT word, count(*) / 4 FROM t GROUP BY word HAVING count(*) % 3 <> 0";
        check_updating(rng, &table, "word STRING, c BIGINT", insert, |rows| {
            let kept = groups(rows).into_iter().filter(|(_, rows)| rows.len() % 3 != 0);
            kept.map(|(word, rows)| row!(word, rows.len() as i64 / 4)).collect()
        });
        let insert = "SELECT count(*), array_agg(n ORDER BY n) FROM t UNION ALL SELECT max(n), array_agg(DISTINCT n % 2 ORDER BY n % 2) FROM t";
        check_updating(rng, &table, "c BIGINT, a ARRAY<BIGINT>", insert, |rows| {
            let mut all: Vec<Option<i64>> = rows.iter().map(|row| row.n).collect();
            all.sort_by_key(|n| (n.is_none(), *n));
            let mut halves: Vec<Option<i64>> = rows.iter().map(|row| row.n.map(|n| n % 2)).collect();
            halves.sort_by_key(|n| (n.is_none(), *n));
            halves.dedup();
            let most = rows.iter().filter_map(|row| row.n).max();
            if rows.is_empty() { Vec::new() } else { vec![row!(rows.len() as i64, all), row!(most, halves)] }
        });
    });
}

#[test]
fn an_upsert_sink_ends_with_the_answer() {
    for_seeds(2, |rng| {
        let table = Table::random(rng);
        let columns = "word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED";
        for shape in SHAPES {
            let mut newest = BTreeMap::new();
            let insert = "SELECT word, count(*) FROM t WHERE word IS NOT NULL GROUP BY word";
            for happened in logged(&table.shuffled(rng), columns, insert, Changes::Upsert, shape) {
                if let Happened::Wrote(rows) = happened {
                    assert_eq!(rows.num_columns(), 2, "an upsert has no weight");
                    newest.extend(texts(&rows).into_iter().map(|row| (row[..row.rfind(' ').unwrap()].to_owned(), row)));
                }
            }
            let counts = by_word(table.rows().filter(|row| row.word.is_some()));
            let counts = expected(counts.into_iter().map(|(word, rows)| row!(word, rows.len() as i64)));
            assert_same(&expected(newest.into_values()), &counts, &format!("{shape:?}"));
        }
    });
}

#[test]
fn an_upsert_sink_is_not_given_what_would_leave_stale_keys() {
    let table = Table { splits: vec![Vec::new()], tick: 1, delay: 0 };
    let connectors = Builtin::default()
        .with_source("t", table.source())
        .with_sink("out", Arc::new(Logged(Log::default(), Changes::Upsert)));
    let attempt = |insert: &str| {
        let ddl =
            "CREATE TABLE out (word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED) WITH ('connector' = 'memory');";
        let text = format!("{} {ddl} INSERT INTO out {insert};", table.ddl());
        sql::plan(Text { name: "test.sql", sql: &text }, &[], &connectors).map(drop).map_err(|error| error.to_string())
    };
    let having = "SELECT word, count(*) FROM t GROUP BY word HAVING count(*) < 3";
    let refusal = attempt(having).unwrap_err();
    assert!(
        refusal.starts_with("test.sql:4:107: table \"out\" keeps the newest row of each key, but step \"filter"),
        "{refusal}"
    );
    assert_eq!(attempt(&format!("{having} EMIT FINAL")), Ok(()));
    assert_eq!(
        attempt("SELECT word, count(*) FROM t GROUP BY word HAVING word <> 'be'"),
        Ok(()),
        "a filter of keys comes before"
    );
}

#[test]
fn a_slide_that_is_far_too_short_is_refused() {
    let table = Table { splits: vec![Vec::new()], tick: 1, delay: 0 };
    let connectors = Builtin::default().with_source("t", table.source());
    let insert = "SELECT window_start, count(*) FROM hop(t, ts, INTERVAL '0.00001' SECOND, INTERVAL '1' DAY) GROUP BY window_start";
    let text = format!(
        "{}CREATE TABLE out (a TIMESTAMP(6), n BIGINT) WITH ('connector' = 'blackhole'); INSERT INTO out {insert};",
        table.ddl()
    );
    let error = sql::plan(Text { name: "test.sql", sql: &text }, &[], &connectors).map(drop).unwrap_err();
    assert!(error.to_string().contains("each row would lie in 8640000000 windows"), "{error}");
}

/// Aggregates whose answer is left to DataFusion; floating ones are rounded, because sums of them depend on their order.
const CALLS: [&str; 26] = [
    "bool_and(n > -900)",
    "bool_or(n > 900)",
    "bit_and(n)",
    "bit_or(n)",
    "bit_xor(n)",
    "median(n)",
    "approx_distinct(n)",
    "round(stddev(n), 6)",
    "round(var_pop(ratio) / 3.7, 2)",
    "round(corr(n, ratio), 6)",
    "round(covar_samp(n, ratio) / 3.7, 2)",
    "round(regr_slope(n, ratio), 6)",
    "first_value(word ORDER BY ts, n, word)",
    "last_value(n ORDER BY ts, n, word)",
    "array_agg(n ORDER BY ts, n, word)[2]",
    "string_agg(word, ',' ORDER BY word)",
    "array_agg(DISTINCT word ORDER BY word)",
    "array_agg(ratio ORDER BY ratio DESC)",
    "min(tags)",
    "max(price)",
    "min(ts)",
    "sum(DISTINCT n)",
    "avg(price)",
    "count(n, word)",
    "max(word) FILTER (WHERE n > 0)",
    "percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio)",
];

#[test]
fn every_aggregate_says_the_same_whole_in_parts_and_as_changes() {
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        for calls in CALLS.chunks(9) {
            let select: String = calls.iter().map(|call| format!(", CAST({call} AS STRING)")).collect();
            let columns: String = (0..calls.len()).map(|number| format!(", c{number} STRING")).collect();
            let text = format!(
                "{}CREATE TABLE out (word STRING{columns}) WITH ('connector' = 'memory');\nINSERT INTO out SELECT word{select} FROM t GROUP BY word",
                table.ddl()
            );
            let mut whole = None;
            for shape in SHAPES {
                let (found, _) = run(&format!("{text} EMIT FINAL;"), &table.shuffled(rng), shape);
                assert_same(&found, whole.get_or_insert_with(|| found.clone()), &format!("{shape:?}: {text}"));
                let mut live: BTreeMap<String, i64> = BTreeMap::new();
                for change in run(&format!("{text};"), &table.shuffled(rng), shape).0 {
                    let (row, weight) = change.rsplit_once(' ').expect("the weight is the last column");
                    *live.entry(row.to_owned()).or_default() += weight.parse::<i64>().expect("a weight is a number");
                }
                live.retain(|_, weight| *weight != 0);
                assert!(live.values().all(|weight| *weight == 1), "{shape:?}: {live:?}");
                assert_same(&live.into_keys().collect::<Vec<_>>(), &found, &format!("changes on {shape:?}: {text}"));
            }
        }
    });
}

#[test]
fn rows_of_the_text_come_once_and_have_windows() {
    let text = "
        SET 'tick' = '2 rows';
        CREATE TABLE out (word STRING, at TIMESTAMP(6), n BIGINT) WITH ('connector' = 'memory');
        CREATE VIEW said AS SELECT * FROM (VALUES
            (TIMESTAMP '2026-01-01 00:00:01', 'to'), (TIMESTAMP '2026-01-01 00:00:09', 'be'), (TIMESTAMP '2026-01-01 00:00:02', 'to')
        ) AS v (at, word);
        INSERT INTO out SELECT word, window_end, count(*) FROM TUMBLE(TABLE said, DESCRIPTOR(at), INTERVAL '5' SECOND)
            GROUP BY window_start, window_end, word;
        INSERT INTO out VALUES ('or', NULL, 1), (NULL, TIMESTAMP '1970-01-01 00:00:01', 1 + 1);
        INSERT INTO out (n) SELECT 6 * 7;";
    let rows =
        ["\"be\" 1767225610000000 1", "\"or\" NULL 1", "\"to\" 1767225605000000 2", "NULL 1000000 2", "NULL NULL 42"];
    for shape in SHAPES {
        let sink = MemorySink::new();
        let (snapshot, result) = run_with(text, &Builtin::default().with_sink("out", Arc::new(sink.clone())), shape);
        result.unwrap();
        assert_eq!(sorted(&sink), rows, "{shape:?}");
        assert_eq!(snapshot.late_rows(), 0);
    }
}
