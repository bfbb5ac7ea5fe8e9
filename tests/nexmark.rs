//! The Nexmark pipelines against an oracle: each query again, as a plain loop over the events that the generator makes for a table of all
//! columns, in one split. Every pipeline runs on 1 worker, 3 workers and 2 processes of 2 workers.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::connector::{Connectors, Context, OptionText, Options, Polled, SplitStart, Table};
use highwater::time::SystemClock;
use pipeline::{SHAPES, run_with, sorted};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// How many events a query is asked for here; few enough for a debug build, enough to see every branch.
const EVENTS: usize = 20_000;

/// The same where windows of 10 seconds have to close: event time passes at 10,000 events a second.
const WINDOWED_EVENTS: usize = 150_000;

/// The tables as Flink's version of the benchmark declares them: all events as one, and views of it.
const FLINKS_TABLES: &str = "
CREATE TABLE datagen (
    event_type int,
    person ROW<id BIGINT, name VARCHAR, emailAddress VARCHAR, creditCard VARCHAR, city VARCHAR, state VARCHAR,
               `dateTime` TIMESTAMP(3), extra VARCHAR>,
    auction ROW<id BIGINT, itemName VARCHAR, description VARCHAR, initialBid BIGINT, reserve BIGINT,
                `dateTime` TIMESTAMP(3), expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra VARCHAR>,
    bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, `dateTime` TIMESTAMP(3),
            extra VARCHAR>,
    `dateTime` AS
        CASE WHEN event_type = 0 THEN person.`dateTime` WHEN event_type = 1 THEN auction.`dateTime` ELSE bid.`dateTime` END,
    WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '20000');
CREATE VIEW bid AS
SELECT bid.auction, bid.bidder, bid.price, bid.channel, bid.url, `dateTime`, bid.extra FROM datagen WHERE event_type = 2;";

/// The pipeline `name` with so many events and its results in memory.
fn text(name: &str, events: usize) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/nexmark/{name}.sql"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (printed, option) = ("'connector' = 'print'", "'events.num' = '");
    assert!(text.contains(printed) && text.contains(option), "{name} has no results to keep or no number of events");
    let kept = text.replace(printed, "'connector' = 'memory', 'name' = 'out'");
    let mut parts = kept.split(option);
    let first = parts.next().expect("a text has a start").to_owned();
    parts.fold(first, |done, part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        format!("{done}{option}{events}{rest}")
    })
}

/// Runs pipeline `name` everywhere; its rows must be `expected`, in any order.
fn check(name: &str, expected: Vec<String>) {
    check_text(name, &text(name, EVENTS), expected);
}

fn check_windows(name: &str, expected: Vec<String>) {
    check_text(name, &text(name, WINDOWED_EVENTS), expected);
}

fn check_text(name: &str, text: &str, mut expected: Vec<String>) {
    assert!(!expected.is_empty(), "{name} would show nothing");
    expected.sort_unstable();
    for shape in SHAPES {
        let sink = MemorySink::new();
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let (snapshot, result) = run_with(text, &connectors, shape);
        result.unwrap_or_else(|error| panic!("{name} on {shape:?}: {error}"));
        let rows = sorted(&sink);
        for (row, (found, expected)) in rows.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{name} on {shape:?}, row {row} of {} and {}", rows.len(), expected.len());
        }
        assert_eq!(rows.len(), expected.len(), "{name} on {shape:?}");
        assert_eq!(snapshot.late_rows(), 0, "{name} on {shape:?}");
    }
}

/// All rows of the table of `kind` with these columns.
fn events(kind: &str, columns: &[(&str, DataType)], options: &[(&str, &str)]) -> RecordBatch {
    let events = EVENTS.to_string();
    let fixed = [("connector", "nexmark"), ("type", kind), ("events.num", &events), ("splits", "1")];
    let given = fixed.iter().filter(|(name, _)| options.iter().all(|(given, _)| given != name)).chain(options);
    let given = given.map(|(name, text)| ((*name).to_owned(), OptionText::from(*text)));
    let fields: Vec<Field> =
        columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    let table = Table {
        name: kind.into(),
        schema: Arc::new(Schema::new(fields)),
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options: Options::new(given),
    };
    let all: Vec<usize> = (0..columns.len()).collect();
    let source = Builtin::default().source(&table, &all).expect("the options are right");
    let context = Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 1 };
    let names = source.splits(&context).expect("it names its splits");
    let mut split = source
        .open(&names.into_iter().map(SplitStart::whole).collect::<Vec<_>>(), &context)
        .expect("it opens")
        .remove(0);
    let mut batches = Vec::new();
    while let Polled::Rows { rows, .. } = split.poll(8192).expect("it makes rows") {
        batches.push(rows);
    }
    concat_batches(&source.schema(), &batches).expect("batches have one schema")
}

const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

struct Bid {
    auction: i64,
    bidder: i64,
    price: i64,
    channel: String,
    url: String,
    /// In microseconds.
    time: i64,
    extra: String,
}

fn bids(options: &[(&str, &str)]) -> Vec<Bid> {
    let (number, text) = (DataType::Int64, DataType::Utf8);
    let columns = [
        ("auction", number.clone()),
        ("bidder", number.clone()),
        ("price", number),
        ("channel", text.clone()),
        ("url", text.clone()),
        ("dateTime", TIME),
        ("extra", text),
    ];
    let rows = events("bid", &columns, options);
    let number = |column: usize, row| rows.column(column).as_primitive::<Int64Type>().value(row);
    let text = |column: usize, row| rows.column(column).as_string::<i32>().value(row).to_owned();
    let bid = |row| Bid {
        auction: number(0, row),
        bidder: number(1, row),
        price: number(2, row),
        channel: text(3, row),
        url: text(4, row),
        time: rows.column(5).as_primitive::<TimestampMicrosecondType>().value(row),
        extra: text(6, row),
    };
    (0..rows.num_rows()).map(bid).collect()
}

/// Enough bids to close windows.
fn many_bids() -> Vec<Bid> {
    bids(&[("events.num", &WINDOWED_EVENTS.to_string())])
}

const SECOND: i64 = 1_000_000;

/// The start of the tumbling window of 10 seconds.
fn window(time: i64) -> i64 {
    time - time % (10 * SECOND)
}

/// 0.908 × `cents`, with three decimals.
fn euros(cents: i64) -> String {
    let thousandths = cents * 908;
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

#[test]
fn q0_passes_bids_through() {
    let row = |b: Bid| format!("{} {} {} {} {:?}", b.auction, b.bidder, b.price, b.time, b.extra);
    check("q0", bids(&[]).into_iter().map(row).collect());
}

#[test]
fn flinks_tables_are_read_as_they_are() {
    let insert = "CREATE TABLE results (auction BIGINT, url VARCHAR, `dateTime` TIMESTAMP(3)) \
                  WITH ('connector' = 'memory', 'name' = 'out'); \
                  INSERT INTO results SELECT auction, url, `dateTime` FROM bid;";
    let row = |b: Bid| format!("{} {:?} {}", b.auction, b.url, b.time);
    check_text("all events", &format!("{FLINKS_TABLES} {insert}"), bids(&[]).into_iter().map(row).collect());
}

#[test]
fn q1_converts_prices() {
    let row = |b: Bid| format!("{} {} {} {} {:?}", b.auction, b.bidder, euros(b.price), b.time, b.extra);
    check("q1", bids(&[]).into_iter().map(row).collect());
}

#[test]
fn q2_selects_auctions() {
    let chosen = bids(&[]).into_iter().filter(|b| b.auction % 123 == 0);
    check("q2", chosen.map(|b| format!("{} {}", b.auction, b.price)).collect());
}

/// The day and the minute of a moment of the generator's first day, which is that of its base time.
fn day_and_minute(time: i64) -> (String, String) {
    let day = chrono::DateTime::from_timestamp_micros(time).expect("a moment");
    (day.format("%Y-%m-%d").to_string(), day.format("%H:%M").to_string())
}

#[test]
fn q10_logs_bids_to_a_directory_for_each_minute() {
    let options = [("first-event.rate", "100")];
    let bids = bids(&options);
    let parts: BTreeSet<(String, String)> = bids.iter().map(|bid| day_and_minute(bid.time)).collect();
    assert!(parts.len() > 2, "bids of several minutes");
    let mut expected: Vec<String> = (bids.iter())
        .map(|b| {
            let (day, minute) = day_and_minute(b.time);
            format!("{} {} {} {} {:?} {day:?} {minute:?}", b.auction, b.bidder, b.price, b.time, b.extra)
        })
        .collect();
    expected.sort_unstable();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/nexmark/q10.sql");
    let text = std::fs::read_to_string(file).expect("the pipeline is in the repository");
    let start = text.find("CREATE TABLE results").expect("it writes a table");
    let end = start + text[start..].find(';').expect("a statement ends") + 1;
    for shape in SHAPES {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |text: &str| text.replace("'bids/'", &format!("'{}/'", directory.path().display()));
        let events = format!("'events.num' = '{EVENTS}', 'first-event.rate' = '100'");
        let (_, result) = run_with(&at(&text.replace("'events.num' = '500'", &events)), &Builtin::default(), shape);
        result.unwrap_or_else(|error| panic!("q10 on {shape:?}: {error}"));
        for (day, minute) in &parts {
            let part = directory.path().join(format!("dt={day}/hm={}", minute.replace(':', "%3A")));
            assert!(part.is_dir(), "{} on {shape:?}", part.display());
        }
        // what is there, read again
        let sink = MemorySink::new();
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let table = at(&text[start..end]).replace(",\n  'sink.rolling.interval' = '1 min'", "");
        let again = format!(
            "{table} CREATE TABLE found (auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP(3), extra STRING, dt STRING, \
             hm STRING) WITH ('connector' = 'memory', 'name' = 'out'); INSERT INTO found SELECT * FROM results;"
        );
        let (_, result) = run_with(&again, &connectors, shape);
        result.unwrap_or_else(|error| panic!("q10 on {shape:?}, read again: {error}"));
        assert!(sorted(&sink) == expected, "q10 on {shape:?}: {} rows of {}", sorted(&sink).len(), expected.len());
    }
}

#[test]
fn q13_looks_auctions_up() {
    let row = |b: Bid| format!("{} {} {} {} \"{}\"", b.auction, b.bidder, b.price, b.time, b.auction % 10_000);
    check("q13", bids(&[]).into_iter().map(row).collect());
}

#[test]
fn q14_calculates() {
    let bids = bids(&[("base-time", "2015-07-15T06:50:00Z"), ("first-event.rate", "1")]);
    // thousandths of a euro
    let middle = |b: &Bid| (1_000_000_001..50_000_000_000).contains(&(b.price * 908));
    let row = |b: Bid| {
        let kind = match b.time / 3_600_000_000 % 24 {
            8..=18 => "dayTime",
            0..=6 | 20..=23 => "nightTime",
            _ => "otherTime",
        };
        let letters = b.extra.bytes().filter(|byte| *byte == b'c').count();
        format!("{} {} {} {kind:?} {} {:?} {letters}", b.auction, b.bidder, euros(b.price), b.time, b.extra)
    };
    check("q14", bids.into_iter().filter(middle).map(row).collect());
}

#[test]
fn q21_finds_channel_ids() {
    let id = |b: &Bid| match b.channel.to_lowercase().as_str() {
        "apple" => Some("0".to_owned()),
        "google" => Some("1".to_owned()),
        "facebook" => Some("2".to_owned()),
        "baidu" => Some("3".to_owned()),
        _ => b.url.split('&').find_map(|part| part.strip_prefix("channel_id=")).map(str::to_owned),
    };
    let row = |b: Bid| Some(format!("{} {} {} {:?} {:?}", b.auction, b.bidder, b.price, b.channel, id(&b)?));
    check("q21", bids(&[]).into_iter().filter_map(row).collect());
}

#[test]
fn q22_splits_addresses() {
    let row = |b: Bid| {
        let parts: Vec<&str> = b.url.split('/').collect();
        format!("{} {} {} {:?} {:?} {:?} {:?}", b.auction, b.bidder, b.price, b.channel, parts[3], parts[4], parts[5])
    };
    check("q22", bids(&[]).into_iter().map(row).collect());
}

#[test]
fn q5_finds_hot_items() {
    let mut windows: BTreeMap<i64, HashMap<i64, i64>> = BTreeMap::new();
    for bid in many_bids() {
        let newest = bid.time - bid.time % (2 * SECOND);
        for back in 0..5 {
            *windows.entry(newest - back * 2 * SECOND).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    let rows = windows.values().flat_map(|counts| {
        let most = *counts.values().max().expect("a window has bids");
        counts.iter().filter(move |(_, count)| **count == most).map(|(auction, count)| format!("{auction} {count}"))
    });
    check_windows("q5", rows.collect());
}

#[test]
fn q7_finds_the_highest_bids() {
    let bids = many_bids();
    let mut highest: HashMap<i64, i64> = HashMap::new();
    for bid in &bids {
        let price = highest.entry(window(bid.time)).or_default();
        *price = bid.price.max(*price);
    }
    let rows = bids.iter().filter(|bid| bid.price == highest[&window(bid.time)]);
    let row = |bid: &Bid| format!("{} {} {} {} {:?}", bid.auction, bid.price, bid.bidder, bid.time, bid.extra);
    check_windows("q7", rows.map(row).collect());
}

#[test]
fn q8_finds_new_sellers() {
    let events_num = WINDOWED_EVENTS.to_string();
    let options = [("events.num", events_num.as_str())];
    let people = [("id", DataType::Int64), ("name", DataType::Utf8), ("dateTime", TIME)];
    let people = events("person", &people, &options);
    let auctions = events("auction", &[("seller", DataType::Int64), ("dateTime", TIME)], &options);
    let numbers =
        |batch: &RecordBatch, column: usize| batch.column(column).as_primitive::<Int64Type>().values().to_vec();
    let windows = |batch: &RecordBatch, column: usize| -> Vec<i64> {
        let times = batch.column(column).as_primitive::<TimestampMicrosecondType>();
        times.values().iter().map(|time| window(*time)).collect()
    };
    let sellers: BTreeSet<(i64, i64)> = numbers(&auctions, 0).into_iter().zip(windows(&auctions, 1)).collect();
    let came = numbers(&people, 0).into_iter().zip(windows(&people, 2)).zip(people.column(1).as_string::<i32>());
    let rows = came.filter(|(who, _)| sellers.contains(who));
    check_windows(
        "q8",
        rows.map(|((id, start), name)| format!("{id} {name:?} {start}", name = name.unwrap())).collect(),
    );
}

#[test]
fn q11_finds_sessions() {
    // by bidder: how many bids, the first one's time and the last one's
    let mut sessions: BTreeMap<i64, Vec<(i64, i64, i64)>> = BTreeMap::new();
    let options = [("events.num", &*WINDOWED_EVENTS.to_string()), ("first-event.rate", "1000")];
    for bid in bids(&options) {
        let own = sessions.entry(bid.bidder).or_default();
        match own.last_mut().filter(|(.., last)| bid.time < last + 10 * SECOND) {
            Some((count, _, last)) => (*count, *last) = (*count + 1, bid.time),
            None => own.push((1, bid.time, bid.time)),
        }
    }
    assert!(sessions.values().any(|own| own.len() > 1), "somebody comes back");
    let rows = sessions.iter().flat_map(|(bidder, own)| {
        own.iter().map(move |(count, start, last)| format!("{bidder} {count} {start} {}", last + 10 * SECOND))
    });
    check_windows("q11", rows.collect());
}

#[test]
fn q12_counts_the_bids_of_each_bidder() {
    let mut counts: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for bid in many_bids() {
        *counts.entry((bid.bidder, window(bid.time))).or_default() += 1;
    }
    let row = |((bidder, start), count)| format!("{bidder} {count} {start} {}", start + 10 * SECOND);
    check_windows("q12", counts.into_iter().map(row).collect());
}
