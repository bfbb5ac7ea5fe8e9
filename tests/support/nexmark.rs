//! The generator's rows, for what is not one of our pipelines.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use highwater::connector::builtin::Builtin;
use highwater::connector::{Connectors, Context, OptionText, Options, Polled, SplitStart, Table};
use highwater::time::SystemClock;
use std::sync::Arc;

/// The columns of the generator's tables.
pub fn columns(kind: &str) -> Vec<Field> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
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

/// The rows of `kind` among the first `events` events, in batches of one split.
pub fn events(kind: &str, events: usize) -> (SchemaRef, Vec<RecordBatch>) {
    let events = events.to_string();
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
    (source.schema(), batches)
}
