//! The Nexmark queries of pipelines/nexmark/, and some of them by hand.
//!
//! The loops read the same generator, which makes the columns that their query needs in one split. They know that event time never
//! goes back, so a window is done when the next one begins.

use super::Case;
use super::answer::Answer;
use super::meter::{Preparation, Spent};
use crate::batch::{BATCH_ROWS, Batch, from_arrow};
use crate::connector::nexmark::Nexmark;
use crate::connector::{Context, OptionText, Options, Polled, Source, Split, SplitStart, Table};
use crate::error::{Error, Result, nearest};
use crate::operator::panes::event_times;
use crate::plan::event_time_type;
use crate::time::{Micros, SystemClock};
use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

/// The queries and their files. q10 writes files: it is left out, for it would measure a disk.
const QUERIES: [(&str, &str); 22] = [
    ("q0", include_str!("../../pipelines/nexmark/q0.sql")),
    ("q1", include_str!("../../pipelines/nexmark/q1.sql")),
    ("q2", include_str!("../../pipelines/nexmark/q2.sql")),
    ("q3", include_str!("../../pipelines/nexmark/q3.sql")),
    ("q4", include_str!("../../pipelines/nexmark/q4.sql")),
    ("q5", include_str!("../../pipelines/nexmark/q5.sql")),
    ("q6", include_str!("../../pipelines/nexmark/q6.sql")),
    ("q7", include_str!("../../pipelines/nexmark/q7.sql")),
    ("q8", include_str!("../../pipelines/nexmark/q8.sql")),
    ("q9", include_str!("../../pipelines/nexmark/q9.sql")),
    ("q11", include_str!("../../pipelines/nexmark/q11.sql")),
    ("q12", include_str!("../../pipelines/nexmark/q12.sql")),
    ("q13", include_str!("../../pipelines/nexmark/q13.sql")),
    ("q14", include_str!("../../pipelines/nexmark/q14.sql")),
    ("q15", include_str!("../../pipelines/nexmark/q15.sql")),
    ("q16", include_str!("../../pipelines/nexmark/q16.sql")),
    ("q17", include_str!("../../pipelines/nexmark/q17.sql")),
    ("q18", include_str!("../../pipelines/nexmark/q18.sql")),
    ("q19", include_str!("../../pipelines/nexmark/q19.sql")),
    ("q20", include_str!("../../pipelines/nexmark/q20.sql")),
    ("q21", include_str!("../../pipelines/nexmark/q21.sql")),
    ("q22", include_str!("../../pipelines/nexmark/q22.sql")),
];

const SECOND: Micros = 1_000_000;

/// All queries.
pub fn queries() -> impl Iterator<Item = &'static str> {
    QUERIES.iter().map(|(name, _)| *name)
}

/// The query that is called `name`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if there is none.
pub fn query(name: &str) -> Result<&'static str> {
    queries().find(|query| *query == name).ok_or_else(|| {
        let error = Error::invalid(format!("there is no query '{name}'"));
        match nearest(name, queries()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!("the queries are {}", queries().collect::<Vec<_>>().join(", "))),
        }
    })
}

/// The case's pipeline, with its number of events, a split for each worker, and results that go to `out`.
pub fn text(case: &Case, out: &str) -> Result<String> {
    let name = query(case.variant.as_deref().unwrap_or_default())?;
    let (_, text) = QUERIES.iter().find(|(query, _)| *query == name).expect("it was found before");
    let splits = case.workers * case.processes;
    let source = format!("'connector' = 'nexmark', 'splits' = '{splits}', 'seed' = '{}'", case.seed);
    let text = text.replace("'connector' = 'nexmark'", &source).replace("'connector' = 'print'", out);
    let mut parts = text.split("'events.num' = '");
    let mut changed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        changed.push_str(&format!("'events.num' = '{}{rest}", case.rows));
    }
    Ok(changed)
}

/// True if there is a loop for `query`.
pub fn is_by_hand(query: &str) -> bool {
    matches!(query, "q0" | "q5" | "q7" | "q8")
}

/// The loop for the case's query: what it took, and its answer.
pub fn by_hand(case: &Case, preparation: Preparation) -> Result<(Spent, Answer)> {
    let meter = preparation.done()?;
    match case.variant.as_deref() {
        Some("q0") => {
            pass_through(case)?;
            let spent = meter.stop()?;
            // the clock has stopped: the rows are made again to be counted
            let mut rows = Events::new(case, "bid", &PASSED)?;
            let mut answer = Answer::default();
            while let Some(batch) = rows.next()? {
                answer = answer.and(Answer::of([&batch])?);
            }
            Ok((spent, answer))
        }
        Some("q5") => {
            let rows = hot_items(case)?;
            let spent = meter.stop()?;
            let (auctions, counts): (Vec<i64>, Vec<i64>) = rows.into_iter().unzip();
            let columns: [ArrayRef; 2] = [Arc::new(Int64Array::from(auctions)), Arc::new(Int64Array::from(counts))];
            Ok((spent, answer(["auction", "num"], columns)?))
        }
        Some("q7") => {
            let rows = highest_bids(case)?;
            let spent = meter.stop()?;
            let numbers = |of: fn(&HighBid) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>()) as ArrayRef;
            let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|bid| bid.time));
            let extras = StringArray::from_iter_values(rows.iter().map(|bid| &bid.extra));
            let columns = [
                numbers(|bid| bid.auction),
                numbers(|bid| bid.price),
                numbers(|bid| bid.bidder),
                Arc::new(times),
                Arc::new(extras),
            ];
            Ok((spent, answer(["auction", "price", "bidder", "date_time", "extra"], columns)?))
        }
        Some("q8") => {
            let rows = new_sellers(case)?;
            let spent = meter.stop()?;
            let ids = Int64Array::from_iter_values(rows.iter().map(|(id, ..)| *id));
            let names = StringArray::from_iter_values(rows.iter().map(|(_, name, _)| name));
            let starts = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(.., start)| *start));
            let columns: [ArrayRef; 3] = [Arc::new(ids), Arc::new(names), Arc::new(starts)];
            Ok((spent, answer(["id", "name", "start_time"], columns)?))
        }
        other => Err(Error::internal(format!("no loop for {other:?}"))),
    }
}

fn answer<const N: usize>(names: [&str; N], columns: [ArrayRef; N]) -> Result<Answer> {
    Answer::of([&Batch::try_from_iter(names.into_iter().zip(columns)).map_err(from_arrow)?])
}

const PASSED: [(&str, DataType); 5] = [
    ("auction", DataType::Int64),
    ("bidder", DataType::Int64),
    ("price", DataType::Int64),
    ("dateTime", TIME),
    ("extra", DataType::Utf8),
];

const TIME: DataType = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);

/// The events of a table, in order.
struct Events(Box<dyn Split>);

impl Events {
    fn new(case: &Case, table: &str, columns: &[(&str, DataType)]) -> Result<Self> {
        debug_assert_eq!(TIME, event_time_type());
        let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        let option = |name: &str, text: String| (name.to_owned(), OptionText::from(text.as_str()));
        let options = [
            option("events.num", case.rows.to_string()),
            option("seed", case.seed.to_string()),
            option("splits", "1".into()),
        ];
        let table = Table {
            name: table.into(),
            schema: Arc::new(Schema::new(fields)),
            metadata: Default::default(),
            primary_key: Vec::new(),
            key_trusted: false,
            options: Options::new(options),
        };
        let source = Nexmark::new(&table, &(0..columns.len()).collect::<Vec<_>>())?;
        let context = Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 1 };
        let starts: Vec<SplitStart> = source.splits(&context)?.into_iter().map(SplitStart::whole).collect();
        let mut splits = source.open(&starts, &context)?;
        Ok(Events(splits.pop().expect("one split was asked for")))
    }

    fn next(&mut self) -> Result<Option<Batch>> {
        match self.0.poll(BATCH_ROWS)? {
            Polled::Rows { rows, .. } => Ok(Some(rows)),
            _ => Ok(None),
        }
    }
}

fn numbers(batch: &Batch, column: usize) -> &[i64] {
    batch.column(column).as_primitive::<Int64Type>().values()
}

/// q0: looks at every value of every bid.
fn pass_through(case: &Case) -> Result<()> {
    let mut bids = Events::new(case, "bid", &PASSED)?;
    while let Some(batch) = bids.next()? {
        let [auctions, bidders, prices] = [0, 1, 2].map(|column| numbers(&batch, column));
        let (times, extras) = (event_times(batch.column(3))?, batch.column(4).as_string::<i32>());
        for row in 0..batch.num_rows() {
            black_box((auctions[row], bidders[row], prices[row], times[row], extras.value(row)));
        }
    }
    Ok(())
}

type Counts = HashMap<i64, i64, RandomState>;

/// q5: the auctions with the most bids in 10 seconds, every 2 seconds, and how many bids those are.
fn hot_items(case: &Case) -> Result<Vec<(i64, i64)>> {
    const SLIDE: Micros = 2 * SECOND;
    const PANES: usize = 5;
    let mut bids = Events::new(case, "bid", &[("auction", DataType::Int64), ("dateTime", TIME)])?;
    let mut rows = Vec::new();
    // the panes of the window that ends with the last of them
    let mut panes: VecDeque<Counts> = VecDeque::from([Counts::default()]);
    let mut end = None;
    let next = |panes: &mut VecDeque<Counts>, rows: &mut Vec<(i64, i64)>| {
        let mut all = Counts::default();
        for (auction, bids) in panes.iter().flatten() {
            *all.entry(*auction).or_default() += bids;
        }
        let most = all.values().copied().max().unwrap_or_default();
        rows.extend(all.into_iter().filter(|(_, bids)| *bids == most));
        panes.push_back(Counts::default());
        if panes.len() > PANES {
            panes.pop_front();
        }
    };
    while let Some(batch) = bids.next()? {
        let (auctions, times) = (numbers(&batch, 0), event_times(batch.column(1))?);
        for (auction, time) in auctions.iter().zip(&times) {
            let end = end.get_or_insert(time.div_euclid(SLIDE) * SLIDE + SLIDE);
            while *time >= *end {
                next(&mut panes, &mut rows);
                *end += SLIDE;
            }
            let pane = panes.back_mut().expect("there is an open pane");
            *pane.entry(*auction).or_default() += 1;
        }
    }
    for _ in 0..PANES {
        next(&mut panes, &mut rows);
    }
    Ok(rows)
}

struct HighBid {
    auction: i64,
    price: i64,
    bidder: i64,
    time: Micros,
    extra: String,
}

/// q7: the bids with the highest price of each 10 seconds.
fn highest_bids(case: &Case) -> Result<Vec<HighBid>> {
    const SIZE: Micros = 10 * SECOND;
    let mut bids = Events::new(case, "bid", &PASSED)?;
    let mut rows: Vec<HighBid> = Vec::new();
    let (mut first, mut end, mut highest) = (0, Micros::MIN, i64::MIN);
    while let Some(batch) = bids.next()? {
        let [auctions, bidders, prices] = [0, 1, 2].map(|column| numbers(&batch, column));
        let (times, extras) = (event_times(batch.column(3))?, batch.column(4).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let (time, price) = (times[row], prices[row]);
            if time >= end {
                (first, end, highest) = (rows.len(), time.div_euclid(SIZE) * SIZE + SIZE, i64::MIN);
            }
            if price < highest {
                continue;
            }
            if price > highest {
                rows.truncate(first);
                highest = price;
            }
            let extra = extras.value(row).to_owned();
            rows.push(HighBid { auction: auctions[row], price, bidder: bidders[row], time, extra });
        }
    }
    Ok(rows)
}

/// q8: who came and put something up for sale in the same 10 seconds: id, name, start of the window.
fn new_sellers(case: &Case) -> Result<Vec<(i64, String, Micros)>> {
    const SIZE: Micros = 10 * SECOND;
    let columns = [("id", DataType::Int64), ("name", DataType::Utf8), ("dateTime", TIME)];
    let mut people = Events::new(case, "person", &columns)?;
    let mut auctions = Events::new(case, "auction", &[("seller", DataType::Int64), ("dateTime", TIME)])?;
    // a person comes once: who that is, when, and whether they have sold something since
    let mut came: HashMap<i64, (String, Micros, bool), RandomState> = HashMap::default();
    while let Some(batch) = people.next()? {
        let (ids, names, times) =
            (numbers(&batch, 0), batch.column(1).as_string::<i32>(), event_times(batch.column(2))?);
        for row in 0..batch.num_rows() {
            came.insert(ids[row], (names.value(row).to_owned(), times[row].div_euclid(SIZE) * SIZE, false));
        }
    }
    let mut rows = Vec::new();
    while let Some(batch) = auctions.next()? {
        let (sellers, times) = (numbers(&batch, 0), event_times(batch.column(1))?);
        for (seller, time) in sellers.iter().zip(&times) {
            if let Some((name, start, sold @ false)) = came.get_mut(seller)
                && (*start..*start + SIZE).contains(time)
            {
                *sold = true;
                rows.push((*seller, name.clone(), *start));
            }
        }
    }
    Ok(rows)
}
