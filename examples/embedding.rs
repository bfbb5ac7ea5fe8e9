//! A pipeline inside a program: rows from the program's memory, SQL in between, rows back into memory.
//!
//! `cargo run --example embedding`

use arrow::array::{ArrayRef, StringArray};
use arrow::util::pretty::pretty_format_batches;
use highwater::batch::Batch;
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::runtime::{self, Workers};
use highwater::sql::{self, Text};
use highwater::time::SystemClock;
use std::error::Error;
use std::sync::Arc;

const PIPELINE: &str = "
    CREATE TABLE lines (line STRING) WITH ('connector' = 'memory');
    CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'memory');

    INSERT INTO counts
    SELECT word, count(*) AS n FROM (SELECT unnest(split_words(line)) AS word FROM lines)
    GROUP BY word EMIT FINAL;
";

fn main() -> Result<(), Box<dyn Error>> {
    let lines: ArrayRef = Arc::new(StringArray::from(vec!["to be or not to be", "that is the question"]));
    let rows = Batch::try_from_iter([("line", lines)])?;
    let source = MemorySource::new(rows.schema(), vec![rows], 1);
    let counts = MemorySink::new();

    // a table finds what has its name
    let connectors =
        Builtin::default().with_source("lines", Arc::new(source)).with_sink("counts", Arc::new(counts.clone()));
    let plan = sql::plan(Text { name: "embedding", sql: PIPELINE }, &[], &connectors)?;
    let running = runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default()))?;
    let (_, result) = running.wait();
    result?;

    println!("{}", pretty_format_batches(&counts.batches())?);
    Ok(())
}
