//! Bad records: left out, made NULL, written as dead letters, or the end of the run; the same on every number of workers.

#[path = "support/pipeline.rs"]
mod pipeline;

use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::error::{Error, Result};
use highwater::runtime::metrics::Snapshot;
use highwater::sql::{self, Text};
use pipeline::{SHAPES, Shape, for_seeds, run_with, sorted};
use rand::Rng;
use rand::seq::IndexedRandom;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

const COLUMNS: &str = "id BIGINT, name STRING, price DOUBLE, at TIMESTAMP(3)";

/// What a run has written: rows, dead letters, counters, or the error.
struct Outcome {
    rows: Vec<String>,
    letters: Vec<String>,
    snapshot: Snapshot,
    result: Result<()>,
}

impl Outcome {
    fn error(&self) -> &Error {
        self.result.as_ref().expect_err("the run fails")
    }
}

/// Reads `content` as `format` with `columns` and these options more, on `shape`.
fn read_as(content: &[u8], format: &str, columns: &str, options: &str, shape: Shape) -> Outcome {
    let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
    file.write_all(content).expect("it can be written");
    let names = columns.split(", ").filter(|column| !column.starts_with("WATERMARK"));
    let names: Vec<&str> = names.map(|column| column.split(' ').next().expect("a column has a name")).collect();
    let text = format!(
        "SET 'tick' = '7 rows';
         CREATE TABLE letters (record BYTES, reason STRING, source STRING, place STRING) WITH ('connector' = 'memory');
         CREATE TABLE t ({columns}) WITH ('connector' = 'file', 'path' = '{}', 'split.bytes' = '256', 'format' = '{format}'{options});
         CREATE TABLE out ({}) WITH ('connector' = 'memory');
         INSERT INTO out SELECT {} FROM t;",
        file.path().display(),
        columns.split(", WATERMARK").next().expect("there are columns"),
        names.join(", "),
    );
    let (rows, letters) = (MemorySink::new(), MemorySink::new());
    let connectors =
        Builtin::default().with_sink("out", Arc::new(rows.clone())).with_sink("letters", Arc::new(letters.clone()));
    let (snapshot, result) = run_with(&text, &connectors, shape);
    let path = file.path().display().to_string();
    let letters = sorted(&letters).into_iter().map(|letter| letter.replace(&path, "FILE")).collect();
    Outcome { rows: sorted(&rows), letters, snapshot, result }
}

fn read(content: &[u8], options: &str) -> Outcome {
    read_as(content, "json", COLUMNS, options, Shape::Threads(1))
}

/// Records that cannot be read, each with a part of the reason.
fn bad_ones() -> Vec<(Vec<u8>, &'static str)> {
    let nested = |depth: usize| format!("{{\"name\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    vec![
        (b"{\"id\":1,".to_vec(), "ends in the middle"),
        (b"{]".to_vec(), ""),
        (b"[1,2]".to_vec(), ""),
        (b"nonsense".to_vec(), ""),
        (b"{\"id\":\"twelve\"}".to_vec(), "id"),
        (b"{\"id\":{\"n\":1}}".to_vec(), "id"),
        (b"{\"id\":99999999999999999999999999}".to_vec(), "id"),
        (b"{\"at\":\"yesterday\"}".to_vec(), "at"),
        (b"{\"name\":\"\xff\xfe\"}".to_vec(), ""),
        (b"{\"id\":1}{\"id\":2}".to_vec(), "more than one"),
        (nested(10_000), "nested"),
    ]
}

#[test]
fn each_kind_of_bad_record_is_named_and_the_others_are_read() {
    for (bad, part) in bad_ones() {
        let shown = String::from_utf8_lossy(&bad[..bad.len().min(60)]).into_owned();
        let content = [b"{\"id\":1}\n".as_slice(), &bad, b"\n{\"id\":3,\"new\":true}\n"].concat();
        let skipped = read(&content, ", 'on_error' = 'skip'");
        skipped.result.as_ref().unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(skipped.rows, ["1 NULL NULL NULL", "3 NULL NULL NULL"], "{shown}");
        assert_eq!(skipped.snapshot.bad_records(), 1, "{shown}");
        assert!(skipped.letters.is_empty());

        let failed = read(&content, "");
        let error = failed.error().to_string();
        assert!(error.contains("line 2") && error.contains(part), "{shown}: {error}");

        let letters = read(&content, ", 'on_error' = 'dead_letter(letters)'");
        assert_eq!(letters.rows, skipped.rows, "{shown}");
        let [letter] = letters.letters.as_slice() else { panic!("{shown}: {:?}", letters.letters) };
        let hex: String = bad.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes any text");
            hex
        });
        assert!(letter.starts_with(&hex), "the bytes of {shown}: {letter}");
        assert!(letter.contains("\"t\" \"file \\\"FILE\\\", line 2\""), "the place of {shown}: {letter}");
        assert!(letter.contains(part), "the reason of {shown}: {letter}");
    }
}

#[test]
fn what_is_odd_but_well_formed_is_no_bad_record() {
    let content = b"{}\n\n{\"id\":null,\"name\":\"\"}\n{\"at\":\"9999-12-31T23:59:59Z\",\"id\":-9223372036854775808}\n{\"price\":\"1.5\"}\n";
    let outcome = read(content, ", 'on_error' = 'skip'");
    assert_eq!(outcome.snapshot.bad_records(), 0);
    assert_eq!(
        outcome.rows,
        [
            "-9223372036854775808 NULL NULL 253402300799000000",
            "NULL \"\" NULL NULL",
            "NULL NULL 1.5 NULL",
            "NULL NULL NULL NULL",
        ]
    );
}

#[test]
fn what_can_be_read_of_a_bad_record_stays_beside_null() {
    let content = b"{\"id\":\"x\",\"name\":\"kept\",\"price\":2}\nnonsense\n";
    let outcome = read(content, ", 'on_error' = 'null'");
    assert_eq!(outcome.rows, ["NULL \"kept\" 2.0 NULL", "NULL NULL NULL NULL"]);
    assert_eq!(outcome.snapshot.bad_records(), 2);
    let columns = "id BIGINT NOT NULL, name STRING";
    let refused = read_as(content, "json", columns, ", 'on_error' = 'null'", Shape::Threads(1));
    assert!(refused.error().to_string().contains("NOT NULL"), "{}", refused.error());
}

#[test]
fn a_row_whose_event_time_is_wrong_is_a_bad_record() {
    let columns = "id BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at";
    let content =
        b"{\"id\":1,\"at\":\"2024-01-01 00:00:00\"}\n{\"id\":2}\n{\"id\":3,\"at\":\"9999-01-01 00:00:00\"}\n{\"id\":4,\"at\":\"2024-01-01 00:00:01\"}\n";
    let outcome = read_as(content, "json", columns, ", 'on_error' = 'dead_letter(letters)'", Shape::Threads(1));
    assert_eq!(outcome.rows, ["1 1704067200000000", "4 1704067201000000"]);
    assert_eq!(outcome.letters.len(), 2);
    assert!(outcome.letters.iter().any(|letter| letter.contains("NULL") && letter.contains("line 2")));
    assert!(
        outcome.letters.iter().any(|letter| letter.contains("ahead of the wall clock") && letter.contains("line 3"))
    );
}

#[test]
fn rows_and_dead_letters_are_the_same_on_every_number_of_workers() {
    for_seeds(3, |rng| {
        let bad = bad_ones();
        let (mut content, mut rows, mut count) = (Vec::new(), Vec::new(), 0);
        for id in 0..rng.random_range(1..400) {
            if rng.random_bool(0.2) {
                content.extend_from_slice(&bad[..bad.len() - 1].choose(rng).expect("there are some").0);
                count += 1;
            } else {
                content.extend_from_slice(format!("{{\"id\":{id}}}").as_bytes());
                rows.push(format!("{id} NULL NULL NULL"));
            }
            content.push(b'\n');
        }
        rows.sort_unstable();
        let mut letters: Option<Vec<String>> = None;
        for shape in SHAPES {
            let outcome = read_as(&content, "json", COLUMNS, ", 'on_error' = 'dead_letter(letters)'", shape);
            assert!(outcome.result.is_ok(), "{shape:?}: {:?}", outcome.result);
            assert_eq!(outcome.rows, rows, "{shape:?}");
            assert_eq!(outcome.letters.len(), count, "{shape:?}");
            assert_eq!(outcome.snapshot.bad_records(), count as u64, "{shape:?}");
            assert_eq!(&outcome.letters, letters.get_or_insert_with(|| outcome.letters.clone()), "{shape:?}");
        }
    });
}

#[test]
fn csv_and_raw_records_can_be_bad_too() {
    let csv = b"1,a\n2\nthree,c\n4,d\n";
    let outcome = read_as(csv, "csv", "id BIGINT, name STRING", ", 'on_error' = 'skip'", Shape::Threads(1));
    assert_eq!(outcome.rows, ["1 \"a\"", "4 \"d\""]);
    let outcome = read_as(csv, "csv", "id BIGINT, name STRING", ", 'on_error' = 'null'", Shape::Threads(1));
    assert_eq!(outcome.rows, ["1 \"a\"", "2 NULL", "4 \"d\"", "NULL \"c\""]);
    let raw = b"good\n\xff\xff\nalso good\n";
    let outcome = read_as(raw, "raw", "line STRING", ", 'on_error' = 'skip'", Shape::Threads(1));
    assert_eq!(outcome.rows, ["\"also good\"", "\"good\""]);
}

#[test]
fn too_many_bad_records_end_the_run() {
    let content: String =
        (0..5000).map(|id| if id % 10 == 0 { "{\n".into() } else { format!("{{\"id\":{id}}}\n") }).collect();
    let borne = read(content.as_bytes(), ", 'on_error' = 'skip', 'on_error.max-share' = '0.2'");
    assert!(borne.result.is_ok(), "{:?}", borne.result);
    let failed = read(content.as_bytes(), ", 'on_error' = 'skip', 'on_error.max-share' = '0.05'");
    let error = failed.error().to_string();
    assert!(error.contains("records are bad") && error.contains("file \""), "{error}");
    assert!(failed.error().advice().is_some_and(|advice| advice.contains("on_error.max-share")));
}

#[test]
fn a_wrong_policy_is_refused_where_it_stands() {
    let refused = |option: &str, letters: &str| {
        let text = format!(
            "CREATE TABLE bad (record BYTES{letters}) WITH ('connector' = 'blackhole');
CREATE TABLE t (id BIGINT) WITH ('connector' = 'file', 'path' = 'x', 'format' = 'json',
  {option});
SELECT id FROM t;"
        );
        let error =
            sql::plan(Text { name: "p.sql", sql: &text }, &[], &Builtin::default()).err().expect("it is refused");
        format!("{error} / {}", error.advice().unwrap_or_default())
    };
    let error = refused("'on_error' = 'skp'", "");
    assert!(error.contains("p.sql:3:") && error.contains("did you mean 'skip'?"), "{error}");
    let error = refused("'on_error' = 'dead_letter(badd)'", "");
    assert!(error.contains("unknown table 'badd'") && error.contains("did you mean 'bad'?"), "{error}");
    let error = refused("'on_error' = 'dead_letter(bad)'", ", reson STRING");
    assert!(error.contains("a dead letter has no 'reson'") && error.contains("did you mean 'reason'?"), "{error}");
    let error = refused("'on_error' = 'skip', 'on_error.max-share' = '7'", "");
    assert!(error.contains("7 is not from 0 to 1"), "{error}");
}
