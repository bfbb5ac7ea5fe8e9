//! A pipeline in Rust, run inside of the program: words of rows from memory, counted in windows.
//!
//! `cargo run --example builder`

use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use highwater::batch::Batch;
use highwater::builder::{Pipeline, Table, aggregate, filter, flat_map, tumble};
use highwater::connector::extensions::Extensions;
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::runtime::{self, Workers};
use highwater::time::SystemClock;
use std::error::Error;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let second = 1_000_000;
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["to be or not to be", "that is the question", "to be"]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 30 * second, 70 * second]));
    let rows = Batch::try_from_iter([("text", texts), ("sent", times)])?;
    let counts = MemorySink::new();
    let extensions = Extensions::new()
        .source("messages", MemorySource::new(rows.schema(), vec![rows], 1))
        .sink("counts", counts.clone());

    let messages = Table::of("memory")
        .column("text", "STRING")
        .column("sent", "TIMESTAMP")
        .watermark("sent", "sent - INTERVAL '5' SECOND");
    let plan = Pipeline::named("words")
        .source("messages", messages)
        .step("minutes", "messages", tumble("sent", "1 minute"))
        .step("words", "minutes", flat_map("split_words(text)", "word"))
        .step("short", "words", filter("length(word) < 4"))
        .step("by_word", "short", aggregate([("n", "count(*)")]).by(["word"]))
        .sink("counts", "by_word", Table::of("memory"))
        .plan(&extensions)?;

    let running = runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default()))?;
    running.wait().1?;

    println!("{}", pretty_format_batches(&counts.batches())?);
    Ok(())
}
