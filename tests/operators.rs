//! Operators driven by hand, without a runtime: random epochs in, against an answer that the test computes for itself.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::RecordBatch;
use highwater::batch::keys::split_by_key;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::operator::aggregate::{Aggregate, Feed, PreAggregate};
use highwater::operator::session::{PreSessions, SessionAggregate};
use highwater::operator::updating::UpdatingAggregate;
use highwater::operator::{Operator, Output};
use highwater::plan::{Action, Aggregation, Grouping, Step};
use highwater::time::Watermark;
use pipeline::{Row, SECOND, Session, Sessions, Table, batch, expected, for_seeds, plan, texts, windows};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The aggregate that `query` is planned to, and its step.
fn aggregate(columns: &str, query: &str) -> (Arc<Aggregation>, Step) {
    let table = Table { splits: vec![Vec::new()], tick: 1, delay: 0 };
    let connectors = Builtin::default().with_source("t", table.source()).with_sink("out", Arc::new(MemorySink::new()));
    let text =
        format!("{}CREATE TABLE out ({columns}) WITH ('connector' = 'memory'); INSERT INTO out {query};", table.ddl());
    let plan = plan(&text, &connectors);
    let found = plan.steps.iter().find_map(|step| match &step.action {
        Action::Aggregate(spec) => Some((Arc::clone(spec), step.clone())),
        _ => None,
    });
    found.expect("the query aggregates")
}

/// The rows with the columns that `spec` reads.
fn input(spec: &Aggregation, rows: &[Row]) -> RecordBatch {
    let rows = batch(rows);
    let columns =
        spec.input.fields().iter().map(|field| rows.schema().index_of(field.name()).expect("a column of the table"));
    rows.project(&columns.collect::<Vec<_>>()).expect("they are there")
}

/// What `operators` are given for one epoch: `rows` cut into random pieces, made partial by random hands if they are fed that, each
/// piece given to the operator that owns its keys.
fn feed(
    rng: &mut StdRng,
    spec: &Arc<Aggregation>,
    feed: Feed,
    rows: &[Row],
    operators: &mut [Box<dyn Operator>],
    out: &mut Output,
) {
    let mut rows = rows.to_vec();
    rows.shuffle(rng);
    let mut batches = Vec::new();
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rng.random_range(1..=rest.len()));
        batches.push(input(spec, piece));
        rest = others;
    }
    if feed == Feed::Partials {
        let hand = || match spec.grouping {
            Grouping::Session { .. } => Box::new(PreSessions::new(Arc::clone(spec)).unwrap()) as Box<dyn Operator>,
            _ => Box::new(PreAggregate::new(Arc::clone(spec)).unwrap()),
        };
        let mut hands: Vec<Box<dyn Operator>> = (0..rng.random_range(1..4)).map(|_| hand()).collect();
        let mut partials = Output::default();
        for rows in batches.drain(..) {
            let hand = rng.random_range(0..hands.len());
            hands[hand].on_batch(rows, &mut partials).unwrap();
        }
        hands.iter_mut().for_each(|hand| hand.on_epoch(0, Watermark::NONE, &mut partials).unwrap());
        batches = partials.drain().collect();
        batches.shuffle(rng);
    }
    for rows in batches {
        let shares = match operators.len() {
            1 => vec![(0, rows)],
            owners => split_by_key(&rows, &spec.partial_keys(), owners).unwrap(),
        };
        shares.into_iter().for_each(|(owner, rows)| operators[owner].on_batch(rows, out).unwrap());
    }
}

fn said(out: &mut Output) -> Vec<String> {
    out.drain().flat_map(|rows| texts(&rows)).collect()
}

/// Rows of an epoch somewhere in `0..200` seconds.
fn rows(rng: &mut StdRng, table: &Table) -> Vec<Row> {
    let all: Vec<&Row> = table.rows().collect();
    let row = |rng: &mut StdRng| {
        all.get(rng.random_range(0..all.len().max(1)))
            .map(|row| Row { ts: rng.random_range(0..200) * SECOND, ..(*row).clone() })
    };
    (0..rng.random_range(0..60)).filter_map(|_| row(rng)).collect()
}

#[test]
fn a_window_closes_in_the_epoch_whose_watermark_reaches_its_end() {
    for_seeds(12, |rng| {
        let slide = rng.random_range(1..20) * SECOND;
        let size = if rng.random() { slide } else { slide + rng.random_range(0..30) * SECOND };
        let (spec, step) = aggregate(
            "a TIMESTAMP(6), word STRING, c BIGINT, s BIGINT, d BIGINT",
            &format!(
                "SELECT window_start, word, count(*), sum(n), count(DISTINCT price) FROM \
                 hop(t, ts, INTERVAL '{}' SECOND, INTERVAL '{}' SECOND) GROUP BY window_start, word",
                slide / SECOND,
                size / SECOND
            ),
        );
        let table = Table::random(rng);
        let (mode, owners) = if rng.random() { (Feed::Partials, rng.random_range(1..4)) } else { (Feed::Rows, 1) };
        let operator =
            || Box::new(Aggregate::new(Arc::clone(&spec), mode, Arc::clone(&step.schema))) as Box<dyn Operator>;
        let mut operators: Vec<Box<dyn Operator>> = (0..owners).map(|_| operator()).collect();
        let mut open: BTreeMap<(i64, Option<String>), Vec<Row>> = BTreeMap::new();
        let (mut mark, mut late) = (i64::MIN, 0);
        for epoch in 0..20 {
            let rows = rows(rng, &table);
            for row in &rows {
                let hit: Vec<i64> =
                    windows(row.ts, size, slide).into_iter().filter(|start| start + size > mark).collect();
                late += u64::from(hit.is_empty());
                hit.into_iter().for_each(|start| open.entry((start, row.word.clone())).or_default().push(row.clone()));
            }
            let mut out = Output::default();
            feed(rng, &spec, mode, &rows, &mut operators, &mut out);
            assert_eq!(said(&mut out), Vec::<String>::new(), "nothing is said before the epoch is complete");
            mark = if epoch == 19 { i64::MAX } else { mark.max(rng.random_range(-10..200) * SECOND) };
            let mut found = Vec::new();
            for operator in &mut operators {
                operator.on_epoch(epoch, Watermark::at(mark), &mut out).unwrap();
                let rows = said(&mut out);
                let starts = rows.iter().map(|row| row.split(' ').next().unwrap().parse::<i64>().unwrap());
                assert!(starts.is_sorted(), "windows leave in the order of their ends");
                found.extend(rows);
            }
            let closed: Vec<_> = open.extract_if(.., |(start, _), _| start + size <= mark).collect();
            let row = |((start, word), rows): ((i64, Option<String>), Vec<Row>)| {
                let n: Vec<i64> = rows.iter().filter_map(|row| row.n).collect();
                let prices: BTreeSet<_> = rows.iter().filter_map(|row| row.price).collect();
                row!(
                    start,
                    word,
                    rows.len() as i64,
                    (!n.is_empty()).then(|| n.iter().sum::<i64>()),
                    prices.len() as i64
                )
            };
            assert_eq!(
                expected(found),
                expected(closed.into_iter().map(row)),
                "epoch {epoch}, {mode:?}, {owners} owners"
            );
        }
        assert_eq!(
            operators.iter_mut().map(|operator| operator.take_late_rows()).sum::<u64>(),
            late,
            "late rows, {mode:?}, {owners} owners"
        );
    });
}

#[test]
fn a_session_grows_and_joins_others_until_the_watermark_reaches_its_end() {
    for_seeds(6, |rng| {
        let gap = rng.random_range(1..40) * SECOND;
        let (spec, step) = aggregate(
            "a TIMESTAMP(6), b TIMESTAMP(6), word STRING, c BIGINT, s BIGINT, d BIGINT, l ARRAY<BIGINT>",
            &format!(
                "SELECT window_start, window_end, word, count(*), sum(n), count(DISTINCT price), array_agg(n ORDER BY n) FROM \
                 session(t PARTITION BY word, ts, INTERVAL '{}' SECOND) GROUP BY word, window_start, window_end",
                gap / SECOND
            ),
        );
        let table = Table::random(rng);
        let (mode, owners) = if rng.random() { (Feed::Partials, rng.random_range(1..4)) } else { (Feed::Rows, 1) };
        let operator = || {
            let schema = Arc::clone(&step.schema);
            Box::new(SessionAggregate::new(Arc::clone(&spec), mode, schema).unwrap()) as Box<dyn Operator>
        };
        let mut operators: Vec<Box<dyn Operator>> = (0..owners).map(|_| operator()).collect();
        let mut oracle = Sessions::new(gap);
        let (mut mark, mut late) = (-100 * SECOND, 0);
        // many keys that come once let the operator forget keys
        let keys = if rng.random_bool(0.3) { 100_000 } else { 12 };
        for epoch in 0..40 {
            let mut rows = rows(rng, &table);
            for row in &mut rows {
                row.ts += epoch * 10 * SECOND;
                if keys > 12 {
                    row.word = Some(rng.random_range(0..keys).to_string());
                }
            }
            if keys > 12 {
                rows = (0..8).flat_map(|_| rows.clone()).collect();
                rows.iter_mut().for_each(|row| row.word = Some(rng.random_range(0..keys).to_string()));
            }
            let mut out = Output::default();
            feed(rng, &spec, mode, &rows, &mut operators, &mut out);
            assert_eq!(said(&mut out), Vec::<String>::new(), "nothing is said before the epoch is complete");
            mark = if epoch == 39 { i64::MAX } else { mark + rng.random_range(0..20) * SECOND };
            let mut found = Vec::new();
            for operator in &mut operators {
                operator.on_epoch(epoch as u64, Watermark::at(mark), &mut out).unwrap();
                let rows = said(&mut out);
                let ends = rows.iter().map(|row| row.split(' ').nth(1).unwrap().parse::<i64>().unwrap());
                assert!(ends.is_sorted(), "sessions leave in the order of their ends");
                found.extend(rows);
            }
            let (closed, late_rows) = oracle.epoch(rows, mark);
            late += late_rows.len() as u64;
            let row = |(word, start, end, rows): Session| {
                let n: Vec<i64> = rows.iter().filter_map(|row| row.n).collect();
                let prices: BTreeSet<_> = rows.iter().filter_map(|row| row.price).collect();
                let mut all: Vec<Option<i64>> = rows.iter().map(|row| row.n).collect();
                all.sort_by_key(|n| (n.is_none(), *n));
                let sum = (!n.is_empty()).then(|| n.iter().sum::<i64>());
                row!(start, end, word, rows.len() as i64, sum, prices.len() as i64, all)
            };
            assert_eq!(
                expected(found),
                expected(closed.into_iter().map(row)),
                "epoch {epoch}, {mode:?}, {owners} owners, gap {gap}"
            );
        }
        assert_eq!(
            operators.iter_mut().map(|operator| operator.take_late_rows()).sum::<u64>(),
            late,
            "late rows, {mode:?}, {owners} owners"
        );
    });
}

#[test]
fn an_update_takes_back_what_it_said_and_says_nothing_twice() {
    for_seeds(6, |rng| {
        let (spec, step) = aggregate(
            "k BIGINT, c BIGINT, least STRING, d BIGINT, s DECIMAL(22, 2)",
            "SELECT n % 300, count(*) / 2, min(word), count(word), sum(price) FROM t GROUP BY n % 300",
        );
        let table = Table::random(rng);
        let (mode, owners) = if rng.random() { (Feed::Partials, rng.random_range(1..4)) } else { (Feed::Rows, 1) };
        let operator =
            || Box::new(UpdatingAggregate::new(Arc::clone(&spec), mode, &step.schema).unwrap()) as Box<dyn Operator>;
        let mut operators: Vec<Box<dyn Operator>> = (0..owners).map(|_| operator()).collect();
        let mut all: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
        let mut shown: BTreeMap<Option<i64>, String> = BTreeMap::new();
        for epoch in 0..60 {
            let rows = rows(rng, &table);
            let mut out = Output::default();
            feed(rng, &spec, mode, &rows, &mut operators, &mut out);
            assert_eq!(said(&mut out), Vec::<String>::new(), "nothing is said before the epoch is complete");
            operators.iter_mut().for_each(|operator| operator.on_epoch(epoch, Watermark::NONE, &mut out).unwrap());
            let found = said(&mut out);

            let mut changes = Vec::new();
            let keys: BTreeSet<Option<i64>> = rows.iter().map(|row| row.n.map(|n| n % 300)).collect();
            rows.into_iter().for_each(|row| all.entry(row.n.map(|n| n % 300)).or_default().push(row));
            for key in keys {
                let words: BTreeSet<&String> = all[&key].iter().filter_map(|row| row.word.as_ref()).collect();
                let prices: Vec<i128> = all[&key].iter().filter_map(|row| row.price).collect();
                let price = (!prices.is_empty()).then(|| prices.iter().sum::<i128>());
                // what the aggregate says; the division comes after it
                let now = row!(
                    key,
                    all[&key].len() as i64,
                    words.first().map(|word| (*word).clone()),
                    all[&key].iter().filter(|row| row.word.is_some()).count() as i64,
                    price
                );
                match shown.insert(key, now.clone()) {
                    Some(before) if before == now => {}
                    before => {
                        changes.extend(before.map(|before| format!("{before} -1")));
                        changes.push(format!("{now} 1"));
                    }
                }
            }
            assert_eq!(expected(found), expected(changes), "epoch {epoch}, {mode:?}, {owners} owners");
        }
    });
}

#[test]
fn times_at_the_ends_of_the_calendar_do_no_harm() {
    let (spec, step) = aggregate(
        "a TIMESTAMP(6), c BIGINT",
        "SELECT window_start, count(*) FROM hop(t, ts, INTERVAL '7' SECOND, INTERVAL '1' MINUTE) GROUP BY window_start",
    );
    for_seeds(2, |rng| {
        for mode in [Feed::Rows, Feed::Partials] {
            let mut operators: Vec<Box<dyn Operator>> =
                vec![Box::new(Aggregate::new(Arc::clone(&spec), mode, Arc::clone(&step.schema)))];
            let row = |ts| Row { word: None, n: None, price: None, ratio: None, ts, tags: None };
            let times =
                [i64::MIN, i64::MIN + 1, i64::MIN + 90 * SECOND, -1, 0, i64::MAX - 90 * SECOND, i64::MAX - 1, i64::MAX];
            let mut out = Output::default();
            feed(rng, &spec, mode, &times.map(row), &mut operators, &mut out);
            operators[0].on_epoch(0, Watermark::END, &mut out).unwrap();
            assert!(said(&mut out).len() > 20);
        }
    });
}
