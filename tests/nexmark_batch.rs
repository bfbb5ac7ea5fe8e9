//! The Nexmark pipelines whose results are taken back, against DataFusion: what their changes sum to is the batch answer over the same
//! events, on 1 worker, 3 workers and 2 processes of 2 workers.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::connector::{Connectors, Context, OptionText, Options, Polled, SplitStart, Table};
use highwater::plan::WEIGHT;
use highwater::time::SystemClock;
use pipeline::{SHAPES, run_with};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Few enough for a debug build.
const EVENTS: usize = 12_000;

/// The columns of the generator's tables.
fn columns(kind: &str) -> Vec<Field> {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let field = |name: &str| {
        let data_type = match name {
            "id" | "initial_bid" | "reserve" | "seller" | "category" | "auction" | "bidder" | "price" => {
                DataType::Int64
            }
            "date_time" | "expires" => time.clone(),
            _ => DataType::Utf8,
        };
        Field::new(name, data_type, true)
    };
    let names: &[&str] = match kind {
        "person" => &["id", "name", "email_address", "credit_card", "city", "state", "date_time", "extra"],
        "auction" => &[
            "id",
            "item_name",
            "description",
            "initial_bid",
            "reserve",
            "date_time",
            "expires",
            "seller",
            "category",
            "extra",
        ],
        _ => &["auction", "bidder", "price", "channel", "url", "date_time", "extra"],
    };
    names.iter().map(|name| field(name)).collect()
}

/// All events of `kind`, in one split.
fn events(kind: &str) -> RecordBatch {
    let events = EVENTS.to_string();
    let given = [("connector", "nexmark"), ("type", kind), ("events.num", &events), ("splits", "1")];
    let given = given.iter().map(|(name, text)| ((*name).to_owned(), OptionText::from(*text)));
    let table = Table {
        name: kind.into(),
        schema: Arc::new(Schema::new(columns(kind))),
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: true,
        options: Options::new(given),
    };
    let all: Vec<usize> = (0..table.schema.fields().len()).collect();
    let source = Builtin::default().source(&table, &all).expect("the options are right");
    let context = Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 1 };
    let splits = source.splits(&context).expect("it names its splits");
    let starts: Vec<SplitStart> = splits.into_iter().map(SplitStart::whole).collect();
    let mut split = source.open(&starts, &context).expect("it opens").remove(0);
    let mut batches = Vec::new();
    while let Polled::Rows { rows, .. } = split.poll(8192).expect("it makes rows") {
        batches.push(rows);
    }
    concat_batches(&source.schema(), &batches).expect("batches have one schema")
}

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
        context.register_batch(kind, events(kind)).unwrap();
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
