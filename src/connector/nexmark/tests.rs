//! The columns against a reference that makes one event at a time, as the published generators do: ids by division, no runs.

use super::random::{Stream, below, below_by_upper, price};
use super::*;
use crate::batch::Batch;
use crate::connector::{OptionText, Options};
use crate::plan::event_time_type;
use crate::time::Micros;
use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use columns::{Column, columns_of};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock whose hands a test sets, in milliseconds.
#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn wall(&self) -> Micros {
        0
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn type_of(name: &str) -> DataType {
    let fields = |kind| -> Fields {
        columns_of(Some(kind)).iter().map(|(name, _)| Field::new(*name, type_of(name), true)).collect()
    };
    match name {
        "event_type" => DataType::Int32,
        "dateTime" | "expires" => event_time_type(),
        "name" | "emailAddress" | "creditCard" | "city" | "state" | "extra" | "itemName" | "description"
        | "channel" | "url" => DataType::Utf8,
        "whole person" => DataType::Struct(fields(Kind::Person)),
        "whole auction" => DataType::Struct(fields(Kind::Auction)),
        "whole bid" => DataType::Struct(fields(Kind::Bid)),
        _ => DataType::Int64,
    }
}

fn table(name: &str, given: &[(&str, &str)]) -> Table {
    let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}").to_lowercase() == name);
    let field = |(name, column): &(&str, Column)| {
        let whole = matches!(column, Column::Person | Column::Auction | Column::Bid);
        Field::new(*name, type_of(&if whole { format!("whole {name}") } else { (*name).to_owned() }), true)
    };
    let schema = Arc::new(Schema::new(columns_of(kind).iter().map(field).collect::<Vec<_>>()));
    let given = given.iter().map(|(name, text)| ((*name).to_owned(), OptionText::from(*text)));
    Table {
        name: name.into(),
        schema,
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options: Options::new(given),
    }
}

fn all_columns(table: &Table) -> Vec<usize> {
    (0..table.schema.fields().len()).collect()
}

fn context() -> Context {
    Context { embedded_broker: None, clock: Arc::new(Hands::default()), workers: 1 }
}

/// The rows of each split, polled by `rows_max`.
fn rows(table: &Table, columns: &[usize], rows_max: impl Fn() -> usize) -> Vec<Batch> {
    let source = Nexmark::new(table, columns).unwrap();
    let context = context();
    let names = source.splits(&context).unwrap();
    let read = |mut split: Box<dyn Split>| {
        let mut batches = Vec::new();
        while let Polled::Rows { rows, .. } = split.poll(rows_max()).unwrap() {
            batches.push(rows);
        }
        concat_batches(&source.schema(), &batches).unwrap()
    };
    source
        .open(&names.into_iter().map(SplitStart::whole).collect::<Vec<_>>(), &context)
        .unwrap()
        .into_iter()
        .map(read)
        .collect()
}

fn longs<'a>(batch: &'a Batch, name: &str) -> &'a [i64] {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values()
}

fn times<'a>(batch: &'a Batch, name: &str) -> &'a [i64] {
    batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().values()
}

fn strings<'a>(batch: &'a Batch, name: &str) -> Vec<&'a str> {
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().flatten().collect()
}

/// The standard's numbers and its way: an event's number in, ids out. Rounds of 1 + 3 + 46.
struct Reference {
    seed: u64,
    rate: u64,
}

impl Reference {
    fn word(&self, column: Column, event: i64) -> u64 {
        Stream::new(self.seed, column as u64).word(event as u64)
    }
    fn last_person(event: i64) -> i64 {
        event / 50
    }
    fn last_auction(event: i64) -> i64 {
        match event % 50 {
            0 => (event / 50 - 1) * 3 + 2,
            place if place < 4 => event / 50 * 3 + place - 1,
            _ => event / 50 * 3 + 2,
        }
    }
    fn some_person(&self, column: Column, event: i64, hot: i64) -> i64 {
        let word = self.word(column, event);
        if below(word, 4) > 0 {
            return Self::last_person(event) / 100 * 100 + hot + 1000;
        }
        let people = Self::last_person(event) + 1;
        let active = people.min(1000);
        people - active + below_by_upper(word, active as u64 + 10) as i64 + 1000
    }
    fn bid(&self, event: i64) -> [i64; 3] {
        let word = self.word(Column::BidAuction, event);
        let last = Self::last_auction(event);
        let auction = match below(word, 2) > 0 {
            true => last / 100 * 100,
            false => {
                let least = (last - 100).max(0);
                least + below_by_upper(word, (last - least + 1 + 10) as u64) as i64
            }
        };
        [auction + 1000, self.some_person(Column::Bidder, event, 1), price(self.word(Column::Price, event))]
    }
    fn auction(&self, event: i64) -> [i64; 5] {
        let first = price(self.word(Column::InitialBid, event));
        let expires = {
            let horizon = self.millis(event + 100 * 50 / 3) - self.millis(event);
            self.millis(event) + 1 + below(self.word(Column::Expires, event), (2 * horizon).max(1) as u64) as i64
        };
        let reserve = first + price(self.word(Column::Reserve, event));
        [Self::last_auction(event) + 1000, self.some_person(Column::Seller, event, 0), first, reserve, expires]
    }
    fn millis(&self, event: i64) -> i64 {
        event * 1000 / self.rate as i64
    }
    fn micros(&self, millis: i64) -> i64 {
        1_436_918_400_000_000 + millis * 1000
    }
}

#[test]
fn columns_are_those_of_the_event_by_event_reference() {
    let seed: u64 = rand::random();
    for rate in [7, 10_000, 3_000_000] {
        let given = [
            ("seed", &*seed.to_string()),
            ("events.num", "70010"),
            ("splits", "1"),
            ("first-event.rate", &*rate.to_string()),
        ];
        let reference = Reference { seed, rate };
        let of = |name: &str| {
            let table = table(name, &given);
            rows(&table, &all_columns(&table), || 10_000).remove(0)
        };
        let (people, auctions, bids) = (of("person"), of("auction"), of("bid"));
        assert_eq!([people.num_rows(), auctions.num_rows(), bids.num_rows()], [1401, 4203, 64406]);
        let (mut person, mut auction, mut bid) = (0, 0, 0);
        for event in 0..70_010 {
            let time = reference.micros(reference.millis(event));
            let about = format!("seed {seed}, rate {rate}, event {event}");
            match event % 50 {
                0 => {
                    assert_eq!(longs(&people, "id")[person], event / 50 + 1000, "{about}");
                    assert_eq!(times(&people, "dateTime")[person], time, "{about}");
                    person += 1;
                }
                1..=3 => {
                    let row = ["id", "seller", "initialBid", "reserve"].map(|name| longs(&auctions, name)[auction]);
                    let [id, seller, first, reserve, expires] = reference.auction(event);
                    assert_eq!(row, [id, seller, first, reserve], "{about}");
                    assert_eq!(times(&auctions, "expires")[auction], reference.micros(expires), "{about}");
                    assert_eq!(times(&auctions, "dateTime")[auction], time, "{about}");
                    auction += 1;
                }
                _ => {
                    let row = ["auction", "bidder", "price"].map(|name| longs(&bids, name)[bid]);
                    assert_eq!(row, reference.bid(event), "{about}");
                    assert_eq!(times(&bids, "dateTime")[bid], time, "{about}");
                    bid += 1;
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_splits_polls_or_the_other_columns() {
    let seed = rand::random::<u64>().to_string();
    for name in ["person", "auction", "bid", "all"] {
        for group in ["1", "100"] {
            let given = |splits| {
                [
                    ("seed", seed.as_str()),
                    ("events.num", "30017"),
                    ("splits", splits),
                    ("out-of-order.group-size", group),
                ]
            };
            let whole = table(name, &given("1"));
            let columns = all_columns(&whole);
            let at_once = rows(&whole, &columns, || 10_000).remove(0);
            let in_parts = rows(&whole, &columns, || rand::random_range(1..300)).remove(0);
            assert_eq!(at_once, in_parts, "seed {seed}, {name}, group {group}");
            let last = [columns.len() - 1, 0];
            assert_eq!(rows(&whole, &last, || 999).remove(0), at_once.project(&last).unwrap(), "seed {seed}, {name}");
            // rounds are dealt in turn
            let mut dealt = rows(&table(name, &given("3")), &columns, || 777);
            if group == "1" {
                let in_round = at_once.num_rows() / 600;
                for round in (0..at_once.num_rows()).step_by(in_round) {
                    let part = &mut dealt[round / in_round % 3];
                    let rows = in_round.min(at_once.num_rows() - round);
                    assert_eq!(part.slice(0, rows), at_once.slice(round, rows), "seed {seed}, {name}, row {round}");
                    *part = part.slice(rows, part.num_rows() - rows);
                }
                assert!(dealt.iter().all(|part| part.num_rows() == 0), "seed {seed}, {name}");
            } else {
                let rows: usize = dealt.iter().map(Batch::num_rows).sum();
                assert_eq!(rows, at_once.num_rows(), "seed {seed}, {name}");
            }
        }
    }
}

#[test]
fn the_table_of_all_events_holds_those_of_the_three_others() {
    let given = [("events.num", "5000"), ("splits", "1")];
    let of = |name: &str| {
        let table = table(name, &given);
        rows(&table, &all_columns(&table), || 600).remove(0)
    };
    let all = of("all");
    assert_eq!(all.num_rows(), 5000);
    let kinds = all.column(0).as_primitive::<Int32Type>().values();
    for (kind, name) in ["person", "auction", "bid"].into_iter().enumerate() {
        let (whole, own) = (all.column_by_name(name).unwrap().as_struct(), of(name));
        let rows: Vec<u32> = (0..5000).filter(|row| kinds[*row as usize] == kind as i32).collect();
        assert!((0..5000).all(|row| whole.is_valid(row) == (kinds[row] == kind as i32)));
        let taken = arrow::compute::take(whole, &arrow::array::UInt32Array::from(rows), None).unwrap();
        assert_eq!(Batch::from(taken.as_struct()).columns(), own.columns(), "{name}");
        let all_times = times(&all, "dateTime").iter().zip(kinds).filter(|(_, k)| **k == kind as i32);
        assert!(all_times.map(|(time, _)| *time).eq(times(&own, "dateTime").iter().copied()), "{name}");
    }
}

#[test]
fn distributions_are_the_standards() {
    let given = [("events.num", "100000"), ("splits", "1")];
    let of = |name: &str| {
        let table = table(name, &given);
        rows(&table, &all_columns(&table), || 8192).remove(0)
    };
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let bids = of("bid");
    let n = bids.num_rows();
    assert_eq!(n, 92_000);
    // the hot auction of a bid: one half, and what is drawn of the others by chance
    let hot = longs(&bids, "auction").iter().filter(|id| (**id - 1000) % 100 == 0).count();
    assert!((0.50..0.52).contains(&share(hot, n)), "{}", share(hot, n));
    let hot = longs(&bids, "bidder").iter().filter(|id| (**id - 1000) % 100 == 1).count();
    assert!((0.75..0.77).contains(&share(hot, n)), "{}", share(hot, n));
    let mut prices = longs(&bids, "price").to_vec();
    prices.sort_unstable();
    assert!((90_000..110_000).contains(&prices[n / 2]), "the median is 10^3 dollars: {}", prices[n / 2]);
    assert!(prices[0] >= 100 && prices[n - 1] <= 100_000_000);
    let (channels, urls) = (strings(&bids, "channel"), strings(&bids, "url"));
    let hot = channels.iter().filter(|channel| ["Google", "Facebook", "Baidu", "Apple"].contains(*channel)).count();
    assert!((0.49..0.51).contains(&share(hot, n)), "{}", share(hot, n));
    let with_id = urls.iter().filter(|url| url.contains("&channel_id=")).count();
    assert!((0.44..0.46).contains(&share(with_id, n)), "{}", share(with_id, n));
    assert!(urls.iter().all(|url| url.starts_with("https://www.nexmark.com/") && url.split('/').count() == 7));
    let mut known: HashMap<&str, &str> = HashMap::new();
    assert!(channels.iter().zip(&urls).all(|(channel, url)| known.entry(channel).or_insert(url) == url));
    let mean =
        |name: &str, batch: &Batch| share(strings(batch, name).iter().map(|text| text.len()).sum(), batch.num_rows());
    assert!((67.0..68.0).contains(&mean("extra", &bids)), "{}", mean("extra", &bids));

    let people = of("person");
    let texts = ["name", "emailAddress", "creditCard", "city", "state", "extra"];
    let size = 8.0 + texts.iter().map(|name| mean(name, &people)).sum::<f64>();
    assert!((197.0..203.0).contains(&size), "{size}");
    assert!(strings(&people, "creditCard").iter().all(|card| card.len() == 19));
    let auctions = of("auction");
    let size = 48.0 + ["itemName", "description", "extra"].iter().map(|name| mean(name, &auctions)).sum::<f64>();
    assert!((495.0..505.0).contains(&size), "{size}");
    let hot = longs(&auctions, "seller").iter().filter(|id| (**id - 1000) % 100 == 0).count();
    assert!((0.74..0.77).contains(&share(hot, auctions.num_rows())));
    let categories: HashMap<i64, usize> = longs(&auctions, "category").iter().fold(HashMap::new(), |mut counts, id| {
        *counts.entry(*id).or_default() += 1;
        counts
    });
    assert!((10..15).all(|id| (1100..1300).contains(&categories[&id])), "{categories:?}");
    let special = strings(&auctions, "description").iter().map(|text| text.matches(' ').count()).sum::<usize>();
    let letters: usize = strings(&auctions, "description").iter().map(|text| text.len()).sum();
    assert!((0.068..0.078).contains(&share(special, letters)), "{}", share(special, letters));
}

#[test]
fn groups_are_out_of_order_and_nothing_is_lost() {
    let given = [("events.num", "100000"), ("splits", "1"), ("out-of-order.group-size", "1000")];
    let table = table("bid", &given);
    let bids = rows(&table, &[5], || 8192).remove(0);
    let mut emitted = times(&bids, "dateTime").to_vec();
    let ahead = emitted.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(ahead > 4000, "{ahead}");
    let mut newest = 0;
    // 1000 events are 100 ms
    assert!(emitted.iter().all(|time| {
        newest = newest.max(*time);
        newest - time < 100_000
    }));
    let in_order = rows(&super::tests::table("bid", &given[..2]), &[5], || 8192).remove(0);
    emitted.sort_unstable();
    assert_eq!(emitted, times(&in_order, "dateTime"));
}

#[test]
fn events_come_when_they_are_due() {
    let hands = Arc::new(Hands::default());
    let table = table("all", &[("rate.limited", "true"), ("first-event.rate", "1000"), ("splits", "2")]);
    let source = Nexmark::new(&table, &[0]).unwrap();
    assert!(!source.bounded());
    let context = Context { clock: hands.clone(), ..context() };
    let mut split = source.open(&[SplitStart::whole("1")], &context).unwrap().remove(0);
    let mut given = |millis| {
        hands.0.store(millis, Ordering::Relaxed);
        match split.poll(100).unwrap() {
            Polled::Rows { rows, .. } => rows.num_rows(),
            Polled::Pending => 0,
            Polled::Ended => panic!("it does not end"),
        }
    };
    // the second round of 50 events is this split's first
    assert_eq!([given(1000), given(1050), given(1060), given(1120), given(1300)], [0, 0, 10, 40, 100]);
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |table: &Table| Nexmark::new(table, &[0]).unwrap_err().to_string();
    let check = |name, given: &[(&str, &str)], expected: &str| assert_eq!(refused(&table(name, given)), expected);
    check("bid", &[("type", "bids")], "option 'type': 'bids' is not one of all, person, auction, bid");
    check("bid", &[("bid.proportion", "0")], "option 'bid.proportion': the table would have no rows");
    check("bid", &[("first-event.rate", "0")], "option 'first-event.rate': '0' is not from 1 to 1000000000");
    check(
        "bid",
        &[("out-of-order.group-size", "1906")],
        "option 'out-of-order.group-size': a group is gone through in steps of 953, so its size must not be a multiple of that",
    );
    check("bid", &[("type", "auction")], "nexmark's auctions have no column \"auction\"");
    let mut table = table("bid", &[]);
    table.schema = Arc::new(Schema::new(vec![Field::new("Date_Time", DataType::Boolean, true)]));
    assert_eq!(refused(&table), "nexmark's dateTime is TIMESTAMP, but column \"Date_Time\" is BOOLEAN");
}
