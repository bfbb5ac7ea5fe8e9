//! Rows with the version of their key that held at their time: the operator driven by hand through random epochs, and pipelines, against
//! answers that the test computes for itself with loops.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use highwater::batch::Batch;
use highwater::operator::as_of::VersionJoin;
use highwater::operator::{Confluence, Output};
use highwater::plan::{AsOf, JoinKind, JoinSide, Joining, Meeting, WEIGHT, event_time_type};
use highwater::state::{Delta, groups_of};
use highwater::time::Watermark;
use pipeline::{for_seeds, texts};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A row of either input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    key: Option<String>,
    time: i64,
    value: i64,
}

fn schema(changes: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("time", event_time_type(), true),
        Field::new("value", DataType::Int64, true),
    ];
    fields.extend(changes.then(|| Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

fn batch(rows: &[(At, i64)], changes: bool) -> Batch {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|(row, _)| row.key.clone()))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(row, _)| row.time))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(row, _)| row.value))),
    ];
    if changes {
        columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, weight)| *weight))));
    }
    Batch::try_new(schema(changes), columns).unwrap()
}

/// How rows are joined.
#[derive(Debug, Clone, Copy)]
struct How {
    kind: JoinKind,
    keyed: bool,
    before: bool,
    changes: bool,
}

fn operator(how: How) -> VersionJoin {
    let as_of = AsOf { times: [1, 1], before: how.before, changes: how.changes };
    let side = || JoinSide { keys: if how.keyed { vec![0] } else { Vec::new() }, output: vec![0, 1, 2] };
    let spec = Joining {
        kind: how.kind,
        meeting: Meeting::AsOf(as_of),
        sides: [side(), side()],
        condition: None,
        nulls_equal: false,
    };
    let fields = [schema(false), schema(false)].iter().flat_map(|schema| schema.fields().to_vec()).collect::<Vec<_>>();
    VersionJoin::new(Arc::new(spec), as_of, [schema(false), schema(how.changes)], Arc::new(Schema::new(fields)))
        .unwrap()
}

/// What `operators` say of an epoch, sorted. Where all rows have one key the version is told by its time alone: of those of one time the
/// greatest counts, with columns that the test knows nothing about.
fn said(how: How, operators: &mut [VersionJoin], out: &mut Output) -> Vec<String> {
    for operator in operators {
        while operator.say_more(out).unwrap() {}
    }
    let line = |line: String| match how.keyed {
        true => line.replace('"', ""),
        false => {
            let line = line.replace('"', "");
            let words: Vec<&str> = line.split(' ').collect();
            [0, 1, 2, 4].map(|word| words[word]).join(" ")
        }
    };
    let mut rows: Vec<String> = out.drain().flat_map(|rows| texts(&rows)).map(line).collect();
    rows.sort();
    rows
}

/// Rows in random pieces, each given to the operator that owns its keys.
fn feed(rng: &mut StdRng, operators: &mut [VersionJoin], port: usize, rows: &[(At, i64)], changes: bool) {
    let mut out = Output::default();
    let mut rest = rows;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rng.random_range(1..=rest.len()));
        for (owner, rows) in
            highwater::batch::keys::split_by_key(&batch(piece, changes), &[0], operators.len()).unwrap()
        {
            operators[owner].on_batch(port, rows, &mut out).unwrap();
        }
        rest = others;
    }
    assert_eq!(out.drain().count(), 0, "nothing is said before the epoch is complete");
}

/// The versions that there have been, and what each row meets.
#[derive(Default)]
struct Oracle {
    versions: BTreeMap<Option<String>, Vec<(i64, i64)>>,
    standing: BTreeMap<Option<String>, i64>,
    waiting: Vec<At>,
    mark: i64,
    late: u64,
}

impl Oracle {
    fn epoch(&mut self, how: How, left: &[At], right: &[(At, i64)], mark: i64) -> Vec<String> {
        self.late += left.iter().filter(|row| row.time < self.mark).count() as u64;
        self.waiting.extend(left.iter().filter(|row| row.time >= self.mark).cloned());
        let key = |row: &At| if how.keyed { row.key.clone() } else { Some(String::new()) };
        for (row, weight) in right.iter().filter(|(row, _)| key(row).is_some()) {
            *self.standing.entry(key(row)).or_default() += weight;
            if *weight > 0 {
                self.versions.entry(key(row)).or_default().push((row.time, row.value));
            }
        }
        let (leaving, waiting): (Vec<At>, Vec<At>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|row| row.time < mark);
        self.waiting = waiting;
        let text = |row: &At| format!("{} {} {}", row.key.as_deref().unwrap_or("NULL"), row.time, row.value);
        let mut said = Vec::new();
        for row in leaving {
            let versions = key(&row).and_then(|key| self.versions.get(&Some(key)));
            let holds = |time: i64| if how.before { time < row.time } else { time <= row.time };
            match versions.into_iter().flatten().filter(|(time, _)| holds(*time)).max() {
                Some((time, value)) => {
                    said.push((row.clone(), Some((*time, *value))));
                }
                None if how.kind == JoinKind::Left => said.push((row, None)),
                None => {}
            }
        }
        if how.changes {
            let standing = &self.standing;
            self.versions.retain(|key, _| standing[key] > 0);
        }
        self.mark = mark;
        let mut lines: Vec<String> = said
            .into_iter()
            .map(|(row, version)| match version {
                Some((time, value)) if how.keyed => {
                    format!("{} {} {time} {value}", text(&row), row.key.as_deref().unwrap_or("NULL"))
                }
                Some((time, _)) => format!("{} {time}", text(&row)),
                None if how.keyed => format!("{} NULL NULL NULL", text(&row)),
                None => format!("{} NULL", text(&row)),
            })
            .collect();
        lines.sort();
        lines
    }
}

/// A random history of a table with a key: for each epoch its changes. Of a key no two versions have one time.
fn changes(rng: &mut StdRng, epochs: usize) -> Vec<Vec<(At, i64)>> {
    let mut now: BTreeMap<String, At> = BTreeMap::new();
    let mut used: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut history = Vec::new();
    for _ in 0..epochs {
        let mut changes = Vec::new();
        for _ in 0..rng.random_range(0..8) {
            let key = format!("k{}", rng.random_range(0..4));
            if let Some(old) = now.remove(&key) {
                changes.push((old, -1));
                if rng.random_bool(0.4) {
                    continue;
                }
            }
            let times = used.entry(key.clone()).or_default();
            let time = (0..).map(|_| rng.random_range(0..200)).find(|time| !times.contains(time)).unwrap();
            times.push(time);
            let row = At { key: Some(key.clone()), time, value: rng.random_range(0..100) };
            changes.push((row.clone(), 1));
            now.insert(key, row);
        }
        history.push(changes);
    }
    history
}

fn rows(rng: &mut StdRng) -> Vec<At> {
    let row = |rng: &mut StdRng| At {
        key: rng.random_bool(0.9).then(|| format!("k{}", rng.random_range(0..4))),
        time: rng.random_range(0..200),
        value: rng.random_range(0..3),
    };
    (0..rng.random_range(0..20)).map(|_| row(rng)).collect()
}

#[test]
fn each_row_meets_the_version_of_its_time_whatever_the_epochs_and_wherever_a_run_ends() {
    for_seeds(150, |rng| {
        let keyed = rng.random_bool(0.8);
        let how = How {
            kind: if rng.random() { JoinKind::Inner } else { JoinKind::Left },
            keyed,
            before: rng.random(),
            changes: keyed && rng.random(),
        };
        let epochs = 14;
        let history = changes(rng, epochs);
        let owners = |rng: &mut StdRng| if how.keyed { rng.random_range(1..4) } else { 1 };
        let count = owners(rng);
        let mut operators: Vec<VersionJoin> = (0..count).map(|_| operator(how)).collect();
        operators.iter_mut().for_each(Confluence::track);
        let mut oracle = Oracle { mark: i64::MIN, ..Oracle::default() };
        let mut deltas: Vec<Delta> = Vec::new();
        let mut late = 0;
        for (epoch, mut right) in history.into_iter().enumerate() {
            if !how.changes {
                right = rows(rng).into_iter().map(|row| (row, 1)).collect();
            }
            let mut left: Vec<(At, i64)> = rows(rng).into_iter().map(|row| (row, 1)).collect();
            let mark = match epoch == epochs - 1 {
                true => i64::MAX,
                false => oracle.mark.max(if rng.random_bool(0.2) { i64::MIN } else { rng.random_range(-10..200) }),
            };
            let only: Vec<At> = left.iter().map(|(row, _)| row.clone()).collect();
            let expected = oracle.epoch(how, &only, &right, mark);
            left.shuffle(rng);
            right.shuffle(rng);
            let first = usize::from(rng.random_bool(0.5));
            for port in [first, 1 - first] {
                let (rows, changes) = if port == 0 { (&left, false) } else { (&right, how.changes) };
                feed(rng, &mut operators, port, rows, changes);
            }
            let mut out = Output::default();
            for operator in &mut operators {
                operator.on_epoch(epoch as u64, Watermark::at(mark), &mut out).unwrap();
                late += operator.take_late_rows();
            }
            let found = said(how, &mut operators, &mut out);
            assert_eq!(found, expected, "{how:?} epoch {epoch} mark {mark}");
            assert_eq!(late, oracle.late, "late rows");
            if rng.random_bool(0.4) {
                for operator in &mut operators {
                    deltas.push(operator.delta().unwrap());
                }
                if rng.random_bool(0.5) {
                    let count = owners(rng);
                    let restored = |deltas: &[Delta], worker: usize| {
                        let mut again = operator(how);
                        for delta in deltas {
                            let share = delta.iter().map(|table| table.share(&groups_of(worker, count)).unwrap());
                            again.restore(share.collect()).unwrap();
                        }
                        again.restored(Watermark::at(oracle.mark)).unwrap();
                        again
                    };
                    if rng.random_bool(0.3) {
                        // folded into a base
                        let whole: Vec<Delta> =
                            (0..count).map(|worker| restored(&deltas, worker).whole().unwrap()).collect();
                        deltas = whole;
                    }
                    operators = (0..count).map(|worker| restored(&deltas, worker)).collect();
                    operators.iter_mut().for_each(Confluence::track);
                }
            }
        }
    });
}

#[test]
fn a_row_that_is_updated_without_a_new_time_is_replaced_and_one_that_is_deleted_ends_with_its_epoch() {
    let how = How { kind: JoinKind::Left, keyed: true, before: false, changes: true };
    let mut operators = vec![operator(how)];
    let row = |time: i64, value: i64| At { key: Some("a".into()), time, value };
    let mut epoch = |left: &[i64], right: &[(At, i64)], mark: i64| {
        let left: Vec<(At, i64)> = left.iter().map(|time| (row(*time, 0), 1)).collect();
        let mut out = Output::default();
        operators[0].on_batch(0, batch(&left, false), &mut out).unwrap();
        operators[0].on_batch(1, batch(right, true), &mut out).unwrap();
        operators[0].on_epoch(0, Watermark::at(mark), &mut out).unwrap();
        said(how, &mut operators, &mut out).join(", ")
    };
    assert_eq!(epoch(&[5], &[(row(1, 9), 1)], 6), "a 5 0 a 1 9");
    // the smaller value stands
    assert_eq!(epoch(&[6], &[(row(1, 9), -1), (row(1, 2), 1)], 8), "a 6 0 a 1 2");
    // two versions in one epoch
    let both = [(row(1, 2), -1), (row(10, 3), 1), (row(10, 3), -1), (row(12, 4), 1)];
    assert_eq!(epoch(&[9, 10, 11, 12], &both, 20), "a 10 0 a 10 3, a 11 0 a 10 3, a 12 0 a 12 4, a 9 0 a 1 2");
    // the key has no row from the watermark of that epoch on
    assert_eq!(epoch(&[24, 25, 26], &[(row(12, 4), -1)], 25), "a 24 0 a 12 4");
    assert_eq!(epoch(&[], &[(row(28, 5), 1)], 30), "a 25 0 NULL NULL NULL, a 26 0 NULL NULL NULL");
    assert_eq!(epoch(&[30], &[], 40), "a 30 0 a 28 5");
}
