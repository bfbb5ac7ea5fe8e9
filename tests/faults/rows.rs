//! A row that ends the process each time it is read: the supervisor finds it, and leaves it out where that is allowed.

use crate::job::LIMIT;
use crate::kafka::within;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const ROWS: u64 = 1000;
const POISON: u64 = 777;

/// Runs numbers from a table with `options` into files, with a row that panics: exit code and what was said.
fn run(dir: &Path, options: &str, shape: &[&str]) -> (i32, String) {
    let text = format!(
        "SET 'pipeline.name' = 'poison'; SET 'checkpoint_store' = 'checkpoints';
SET 'tick' = '100 rows'; SET 'checkpoint_interval' = '1 epochs';
CREATE TABLE t (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '{ROWS}', 'splits' = '1',
  'fields.n.kind' = 'sequence'{options});
CREATE TABLE out (n BIGINT) WITH ('connector' = 'file', 'path' = 'out/', 'format' = 'csv', 'sink.rolling.bytes' = '1');
INSERT INTO out SELECT n FROM t;\n"
    );
    fs::write(dir.join("pipeline.sql"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(["run", "pipeline.sql", "--no-progress"]).args(shape).current_dir(dir).stdin(Stdio::null());
    command.env("HIGHWATER_FAIL", format!("row.{POISON}@1:panic")).env("RUST_BACKTRACE", "0");
    let output = within(LIMIT, "poison", move || command.output().unwrap());
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

/// The numbers in the files that have appeared.
fn numbers(dir: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join("out")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            found.extend(fs::read_to_string(entry).unwrap().lines().filter_map(|line| line.parse::<u64>().ok()));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn a_row_that_ends_the_process_each_time_is_left_out_by_the_supervisor() {
    for shape in [&[][..], &["--processes", "2"]] {
        let dir = tempfile::tempdir().unwrap();
        let (code, err) = run(dir.path(), ", 'on_error' = 'skip'", shape);
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("reads row by row") && err.contains("it is left out from now on"), "{err}");
        assert_eq!(numbers(dir.path()), (0..ROWS).filter(|number| *number != POISON).collect::<Vec<_>>(), "{err}");
    }
}

#[test]
fn a_row_that_ends_the_process_each_time_is_named_where_no_row_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (code, err) = run(dir.path(), "", &[]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("it died 3 times after checkpoint") && err.contains(&format!("row {POISON}")), "{err}");
    assert!(err.contains("set on_error of the table"), "{err}");
    assert_eq!(numbers(dir.path()), (0..POISON / 100 * 100).collect::<Vec<_>>(), "{err}");
    // who then sets it goes on
    let (code, err) = run(dir.path(), ", 'on_error' = 'skip'", &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(numbers(dir.path()), (0..ROWS).filter(|number| *number != POISON).collect::<Vec<_>>(), "{err}");
}
