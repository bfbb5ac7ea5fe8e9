//! The Nexmark pipelines whose results are taken back, against DataFusion: what their changes sum to is the batch answer over the same
//! events, on 1 worker, 3 workers and 2 processes of 2 workers.

#[path = "support/nexmark.rs"]
mod nexmark;
#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::plan::WEIGHT;
use pipeline::{SHAPES, run_with};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Few enough for a debug build.
const EVENTS: usize = 12_000;

fn count(sum: &mut BTreeMap<String, i64>, batch: &RecordBatch) {
    let options = FormatOptions::default().with_null("NULL");
    let weight = batch.schema().index_of(WEIGHT).ok();
    let width = weight.unwrap_or(batch.num_columns());
    let columns = batch.columns()[..width].iter();
    let formatters: Vec<_> = columns.map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    for row in 0..batch.num_rows() {
        let text = formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" | ");
        let weight = weight.map_or(1, |_| highwater::batch::changes::weights(batch)[row]);
        *sum.entry(text).or_default() += weight;
    }
}

/// What DataFusion says of the pipeline's query.
fn answer(query: &str) -> BTreeMap<String, i64> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    for kind in ["person", "auction", "bid"] {
        let (schema, rows) = nexmark::events(kind, EVENTS);
        context.register_batch(kind, concat_batches(&schema, &rows).unwrap()).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let found = runtime.block_on(async { context.sql(query).await.unwrap().collect().await.unwrap() });
    let mut all = BTreeMap::new();
    found.iter().for_each(|batch| count(&mut all, batch));
    all
}

fn check(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/nexmark/{name}.sql"));
    let text = std::fs::read_to_string(file).unwrap();
    let (_, query) = text.split_once("INSERT INTO results").expect("it writes its results");
    let expected = answer(query.trim().trim_end_matches(';'));
    assert!(!expected.is_empty(), "{name} would show nothing");
    let text = text
        .replace("'connector' = 'print'", "'connector' = 'memory', 'name' = 'out'")
        .replace("'events.num' = '300000'", &format!("'events.num' = '{EVENTS}'"));
    for shape in SHAPES {
        let sink = MemorySink::new();
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let (_, result) = run_with(&text, &connectors, shape);
        result.unwrap_or_else(|error| panic!("{name} on {shape:?}: {error:?}"));
        let mut found = BTreeMap::new();
        sink.batches().iter().for_each(|batch| count(&mut found, batch));
        found.retain(|_, count| *count != 0);
        for ((found, expected), row) in found.iter().zip(&expected).zip(0..) {
            assert_eq!(found, expected, "{name} on {shape:?}, row {row}");
        }
        assert_eq!(found.len(), expected.len(), "{name} on {shape:?}");
    }
}

#[test]
fn joins() {
    ["q3", "q20"].into_iter().for_each(check);
}

#[test]
fn aggregates_of_joins() {
    check("q4");
}

#[test]
fn winners_of_auctions() {
    ["q6", "q9"].into_iter().for_each(check);
}

#[test]
fn statistics() {
    ["q15", "q16", "q17"].into_iter().for_each(check);
}

#[test]
fn first_rows_of_keys() {
    ["q18", "q19"].into_iter().for_each(check);
}
