//! Tests of pipelines, as SQL: those of the repository's own pipelines hold, the statements do what docs/testing.md says of them, what
//! is wrong is told, and the runs in other orders, on other workers and after crashes find what they are for.

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use highwater::batch::{Batch, batch_of};
use highwater::connector::extensions::Extensions;
use highwater::error::Result;
use highwater::operator::{CustomOperator, Operator, Output};
use highwater::sql::Text;
use highwater::testing::{self, Options, Outcome};
use highwater::time::{Epoch, Watermark};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const SEEDS: u64 = 3;

fn run(file: &Path, sql: &str, seed: u64, workers: usize, extensions: &Extensions) -> Result<Outcome> {
    let workers = NonZeroUsize::new(workers).expect("there is one");
    let name = file.display().to_string();
    testing::run(Text { name: &name, sql }, &Options { seed, workers, variants: true }, extensions)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("the folder is in the repository");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    files
}

#[track_caller]
fn check(folder: &str) {
    let mut wrong = Vec::new();
    for file in files(folder) {
        let sql = fs::read_to_string(&file).expect("it can be read");
        for seed in 0..SEEDS {
            let place = format!("{} (seed {seed})", file.display());
            match run(&file, &sql, seed, 2 + seed as usize, &Extensions::new()) {
                Err(error) => wrong.push(format!("{place}: {error:?}")),
                Ok(outcome) => {
                    for case in &outcome.cases {
                        wrong.extend(case.failures.iter().map(|failure| format!("{place}: {failure:#?}")));
                        // how long a table was silent is not kept in checkpoints
                        let left_out = if file.ends_with("time.sql") { 2 } else { 0 };
                        let complete = case.runs + left_out >= 5 && case.left_out.len() <= left_out;
                        assert!(complete || !case.failures.is_empty(), "{place}: {case:?}");
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pipelines_of_the_repository_do_what_their_tests_say() {
    check("pipelines/tests");
}

#[test]
fn statements_do_what_they_should() {
    check("tests/scenarios");
}

#[test]
fn a_run_that_is_killed_goes_on_from_a_checkpoint() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/changes.sql");
    let sql = fs::read_to_string(&file).expect("it can be read");
    for seed in 0..10 {
        let outcome = run(&file, &sql, seed, 3, &Extensions::new()).expect("it can be run");
        assert!(outcome.cases[0].restores >= 2, "seed {seed}: {:?}", outcome.cases);
    }
}

/// What is wrong with an operator.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It says of each row how many came before it.
    GoesByOrder,
    /// It says how many rows its worker has.
    GoesByWorkers,
    /// It says how many rows there were, and keeps that from nobody's checkpoint.
    Forgets,
}

impl CustomOperator for Fault {
    fn name(&self) -> &str {
        "wrong"
    }

    fn schema(&self, _: &SchemaRef) -> Result<SchemaRef> {
        let n = |name| Field::new(name, DataType::Int64, true);
        Ok(Arc::new(Schema::new(match self {
            Fault::GoesByOrder => vec![n("n"), n("before")],
            _ => vec![n("before")],
        })))
    }

    fn restores(&self) -> bool {
        true
    }

    fn operator(&self, input: &SchemaRef) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Wrong { fault: *self, schema: self.schema(input)?, rows: 0 }))
    }
}

struct Wrong {
    fault: Fault,
    schema: SchemaRef,
    rows: i64,
}

impl Operator for Wrong {
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        let rows = batch.num_rows() as i64;
        if self.fault == Fault::GoesByOrder {
            let before: ArrayRef = Arc::new(Int64Array::from_iter_values(self.rows..self.rows + rows));
            out.push(batch_of(Arc::clone(&self.schema), vec![Arc::clone(batch.column(0)), before], rows as usize)?);
        }
        self.rows += rows;
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        match self.fault {
            // of one epoch
            Fault::GoesByOrder => self.rows = 0,
            fault => {
                if self.rows > 0 {
                    let rows: ArrayRef = Arc::new(Int64Array::from(vec![self.rows]));
                    out.push(batch_of(Arc::clone(&self.schema), vec![rows], 1)?);
                }
                if fault == Fault::GoesByWorkers {
                    self.rows = 0;
                }
            }
        }
        Ok(())
    }
}

/// What the runs say of a pipeline with an operator that is wrong.
fn runs_with(fault: Fault, columns: &str, sql: &str) -> Vec<String> {
    let sql = format!(
        "CREATE TABLE t (n BIGINT{columns}) WITH ('connector' = 'memory');
         CREATE TABLE out (a BIGINT{}) WITH ('connector' = 'memory');
         {sql}",
        if fault == Fault::GoesByOrder { ", b BIGINT" } else { "" }
    );
    let outcome = run(Path::new("wrong.sql"), &sql, 1, 3, &Extensions::new().operator(fault)).expect("it can be run");
    outcome.cases[0].failures.iter().map(|failure| failure.variant.clone().unwrap_or_else(|| "plain".into())).collect()
}

#[test]
fn other_orders_find_what_goes_by_the_order_of_rows() {
    let sql = "INSERT INTO out SELECT * FROM TABLE(wrong(TABLE t));
               INSERT INTO t VALUES (0), (1), (2), (3), (4), (5), (6), (7);
               ASSERT TABLE out IS VALUES (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7);";
    let found = runs_with(Fault::GoesByOrder, "", sql);
    assert!(found.contains(&"with the rows of each epoch in another order (--seed 1)".into()), "{found:?}");
    assert!(!found.contains(&"after a crash and a restore (--seed 1)".into()), "{found:?}");
}

#[test]
fn rows_with_the_same_key_of_a_table_with_one_keep_their_order() {
    let sql = "INSERT INTO out SELECT * FROM TABLE(wrong((SELECT n FROM t)));
               INSERT INTO t VALUES (0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1);
               ASSERT TABLE out IS VALUES (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7);";
    assert_eq!(runs_with(Fault::GoesByOrder, ", k BIGINT, PRIMARY KEY (k) NOT ENFORCED", sql), Vec::<String>::new());
}

#[test]
fn several_workers_find_what_goes_by_their_number() {
    let sql = "INSERT INTO out SELECT * FROM TABLE(wrong(TABLE t PARTITION BY n));
               INSERT INTO t VALUES (0), (1), (2), (3), (4), (5), (6), (7);
               ASSERT TABLE out IS VALUES (8);";
    let found = runs_with(Fault::GoesByWorkers, "", sql);
    assert!(found.contains(&"on 3 workers (--seed 1)".into()), "{found:?}");
    assert!(!found.contains(&"with the rows of each epoch in another order (--seed 1)".into()), "{found:?}");
}

#[test]
fn crashes_find_what_is_forgotten() {
    let sql = "INSERT INTO out SELECT * FROM TABLE(wrong(TABLE t));
               INSERT INTO t VALUES (0); TICK; INSERT INTO t VALUES (0); TICK; INSERT INTO t VALUES (0); TICK;
               INSERT INTO t VALUES (0);
               ASSERT TABLE out IS VALUES (1), (2), (3), (4);";
    let found = runs_with(Fault::Forgets, "", sql);
    assert!(found.contains(&"after a crash and a restore (--seed 1)".into()), "{found:?}");
    assert!(!found.contains(&"on 3 workers (--seed 1)".into()), "{found:?}");
}

/// Exit code and what `highwater test FILE ARGUMENTS` prints, for files in a folder of their own.
fn highwater(files: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("it can be written");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .arg("test")
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .expect("the program can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const PIPELINE: &str = "\
CREATE TABLE t (k STRING, n BIGINT) WITH ('connector' = 'memory');
CREATE TABLE sums (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'memory');
INSERT INTO sums SELECT k, sum(n) FROM t GROUP BY k;
";

#[test]
fn a_test_that_fails_shows_the_rows_that_differ() {
    let good = "USE PIPELINE 'p.sql';\nINSERT INTO t VALUES ('a', 1);\nASSERT TABLE sums IS VALUES ('a', 1);\n";
    let bad = "USE PIPELINE 'p.sql';\nTEST 'sums';\nINSERT INTO t VALUES ('a', 1), ('b', 2), (NULL, 3);\n\
               ASSERT CHANGELOG OF sums IS VALUES\n  (+1, 'a', 1), (+1, 'b', 3), (-1, NULL, 3);\n";
    let files = [("p.sql", PIPELINE), ("good.sql", good), ("bad.sql", bad)];
    let (code, shown, said) = highwater(&files, &["good.sql", "bad.sql"]);
    let expected = "\
ok     good.sql: 1 test, 1 assertion, 5 runs
FAILED bad.sql: 1 of 1 test failed

error: test 'sums': table 'sums' has other changes than asserted
 --> bad.sql:4:1
  |
4 | ASSERT CHANGELOG OF sums IS VALUES
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
             change  k     n
 - expected  +1      'b'   3
 - expected  -1      NULL  3
 + found     +1      'b'   2
 + found     +1      NULL  3
  and 1 row as expected
";
    assert_eq!((code, shown.as_str(), said.as_str()), (Some(1), expected, ""));

    let (code, shown, _) =
        highwater(&files, &["good.sql", "bad.sql", "--format", "json", "--seed", "7", "--no-variants"]);
    let json: serde_json::Value = serde_json::from_str(&shown).expect("it is JSON");
    assert_eq!((code, &json["seed"]), (Some(1), &7.into()));
    assert_eq!((&json["files"][0]["outcome"], &json["files"][0]["tests"][0]["runs"]), (&"ok".into(), &1.into()));
    let failure = &json["files"][1]["tests"][0]["failures"][0];
    assert_eq!((&failure["place"], &failure["difference"]["same"]), (&"bad.sql:4:1".into(), &1.into()));

    let (code, shown, _) = highwater(&files, &["bad.sql", "--format", "junit"]);
    assert_eq!(code, Some(1));
    assert!(shown.contains("<testsuite name=\"bad.sql\" tests=\"1\" failures=\"1\" errors=\"0\">"), "{shown}");
    assert!(
        shown.contains("<failure message=\"bad.sql:4:1: table 'sums' has other changes than asserted\">"),
        "{shown}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() {
    for (sql, place, said) in [
        (
            "INSERT INTO tt VALUES ('a', 1);\nASSERT TABLE sums EMPTY;",
            "1:13",
            "the pipeline has no table 'tt' that is read",
        ),
        ("INSERT INTO t (kk) VALUES ('a');\nASSERT TABLE sums EMPTY;", "1:16", "unknown column 'kk'"),
        ("INSERT INTO t VALUES ('a');\nASSERT TABLE sums EMPTY;", "1:15", "these rows have 1 column, but 2 are wanted"),
        (
            "INSERT INTO t VALUES ('a', 'b');\nASSERT TABLE sums EMPTY;",
            "1:15",
            "cannot cast string 'b' to value of Int64 type",
        ),
        ("ASSERT TABLE sum EMPTY;", "1:14", "the pipeline has no table 'sum' that is written"),
        ("ASSERT TABLE sums IS VALUES (1);", "1:22", "these rows have 1 column, but 2 are wanted"),
        ("ASSERT CHANGELOG OF sums IS VALUES ('a', 1);", "1:29", "these rows have 2 columns, but 3 are wanted"),
        ("ASSERT CHANGELOG OF sums IS VALUES ('I', 'a', 1);", "1:1", "I is no kind of change"),
        (
            "ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:00:00';\nASSERT TABLE sums EMPTY;",
            "1:1",
            "no table that is read and has not ended has event time",
        ),
        ("END OF t;\nINSERT INTO t VALUES ('a', 1);\nASSERT TABLE sums EMPTY;", "2:13", "table 't' has ended"),
        ("ASSERT TABLE sums IS SELECT k, no FROM t;", "1:32", "unknown column"),
        ("ASSERT TABLE sums;", "1:18", "but the statement ends here"),
        ("TICK;", "", "nothing is asserted"),
    ] {
        let test = format!("USE PIPELINE 'p.sql'; {sql}");
        let (code, shown, complaint) = highwater(&[("p.sql", PIPELINE), ("t.sql", &test)], &["t.sql"]);
        assert_eq!((code, shown.as_str()), (Some(2), "WRONG t.sql\n"), "{sql}: {complaint}");
        assert!(complaint.contains(said), "{sql}: {complaint}");
        if let Some((line, column)) = place.split_once(':') {
            let column: usize = column.parse().expect("it is a number");
            let column = if line == "1" { column + "USE PIPELINE 'p.sql'; ".len() } else { column };
            assert!(complaint.contains(&format!("--> t.sql:{line}:{column}\n")), "{sql}: {complaint}");
        }
    }
    let own = "CREATE TABLE t (a BIGINT NOT NULL, b BIGINT) WITH ('connector' = 'memory');
CREATE TABLE o (a BIGINT) WITH ('connector' = 'memory');
INSERT INTO o SELECT a FROM t;
INSERT INTO t (b) VALUES (1);
ASSERT ERROR;";
    let (code, _, complaint) = highwater(&[("t.sql", own)], &["t.sql"]);
    let said = "error: column 'a' of 't' is NOT NULL, but a row has NULL in it\n --> t.sql:4:1\n";
    assert!(code == Some(2) && complaint.contains(said), "{complaint}");
    let own = "CREATE TABLE t (a BIGINT) WITH ('connector' = 'memory'); TICK; ASSERT ERROR;\nINSERT INTO nowhere SELECT a FROM t;";
    let (code, _, complaint) = highwater(&[("t.sql", own)], &["t.sql"]);
    assert!(code == Some(2) && complaint.contains("--> t.sql:2:1\n"), "{complaint}");
    let (code, _, complaint) = highwater(&[("t.sql", "USE PIPELINE 'q.sql'; ASSERT ERROR;")], &["t.sql"]);
    assert!(code == Some(2) && complaint.contains("--> t.sql:1:14\n"), "{complaint}");
}
