//! The columns of each kind of event, and how one is made: a loop for the column, nothing for those that nobody reads.

use super::events::{Choice, Kind, Run, Shape};
use super::random::{Stream, Words, below, below_by_upper, price};
use super::texts::{self, Dictionary};
use crate::batch::from_arrow;
use crate::error::{Error, Result};
use crate::plan::{event_time_type, type_name};
use arrow::array::{
    ArrayRef, Int32Array, Int64Array, StringArray, StructArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, FieldRef, Fields};
use std::hint::select_unpredictable;
use std::sync::Arc;

/// What a column holds. Its number tells its random words from those of the others, so a new one goes to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    EventType,
    Time,
    Person,
    Auction,
    Bid,
    PersonId,
    PersonName,
    Email,
    CreditCard,
    City,
    State,
    PersonExtra,
    AuctionId,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
    AuctionExtra,
    BidAuction,
    Bidder,
    Price,
    Channel,
    Url,
    BidExtra,
}

use Column as C;

const EVENT: [(&str, Column); 5] = [
    ("event_type", C::EventType),
    ("person", C::Person),
    ("auction", C::Auction),
    ("bid", C::Bid),
    ("dateTime", C::Time),
];
const PERSON: [(&str, Column); 8] = [
    ("id", C::PersonId),
    ("name", C::PersonName),
    ("emailAddress", C::Email),
    ("creditCard", C::CreditCard),
    ("city", C::City),
    ("state", C::State),
    ("dateTime", C::Time),
    ("extra", C::PersonExtra),
];
const AUCTION: [(&str, Column); 10] = [
    ("id", C::AuctionId),
    ("itemName", C::ItemName),
    ("description", C::Description),
    ("initialBid", C::InitialBid),
    ("reserve", C::Reserve),
    ("dateTime", C::Time),
    ("expires", C::Expires),
    ("seller", C::Seller),
    ("category", C::Category),
    ("extra", C::AuctionExtra),
];
const BID: [(&str, Column); 7] = [
    ("auction", C::BidAuction),
    ("bidder", C::Bidder),
    ("price", C::Price),
    ("channel", C::Channel),
    ("url", C::Url),
    ("dateTime", C::Time),
    ("extra", C::BidExtra),
];

/// The columns of a table with events of `kind`, or of all kinds.
pub fn columns_of(kind: Option<Kind>) -> &'static [(&'static str, Column)] {
    match kind {
        None => &EVENT,
        Some(Kind::Person) => &PERSON,
        Some(Kind::Auction) => &AUCTION,
        Some(Kind::Bid) => &BID,
    }
}

/// A column that is read: what it holds and what the table makes of it.
#[derive(Debug, Clone)]
pub struct Reading {
    column: Column,
    field: FieldRef,
    /// The fields that a whole event has in the table.
    parts: Vec<Reading>,
}

impl Reading {
    /// The reading of `field` in a table with events of `kind`.
    pub fn new(kind: Option<Kind>, field: &FieldRef) -> Result<Self> {
        let columns = columns_of(kind);
        let same = |name: &str| spelled(name) == spelled(field.name());
        let Some((name, column)) = columns.iter().find(|(name, _)| same(name)) else {
            let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
            let of = match kind {
                None => "events".to_owned(),
                Some(kind) => format!("{kind:?}s").to_lowercase(),
            };
            return Err(Error::invalid(format!("nexmark's {of} have no column \"{}\"", field.name()))
                .help(format!("they have {}; option 'type' says what the rows are", names.join(", "))));
        };
        let whole = match column {
            C::Person => Some(Kind::Person),
            C::Auction => Some(Kind::Auction),
            C::Bid => Some(Kind::Bid),
            _ => None,
        };
        let parts = match (whole, field.data_type()) {
            (None, data_type) if arrow::compute::can_cast_types(&column.data_type(), data_type) => Vec::new(),
            (Some(kind), DataType::Struct(fields)) => {
                fields.iter().map(|part| Reading::new(Some(kind), part)).collect::<Result<_>>()?
            }
            (whole, data_type) => {
                let wanted = whole.map_or_else(|| type_name(&column.data_type()), |_| "ROW<…>".to_owned());
                let text = format!(
                    "nexmark's {name} is {wanted}, but column \"{}\" is {}",
                    field.name(),
                    type_name(data_type)
                );
                return Err(Error::invalid(text));
            }
        };
        Ok(Reading { column: *column, field: Arc::clone(field), parts })
    }

    /// True if this column or a part of it is `column`.
    fn reads(&self, column: Column) -> bool {
        self.column == column || self.parts.iter().any(|part| part.reads(column))
    }
}

/// `emailAddress`, `email_address` and `EMAILADDRESS` are one name.
fn spelled(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

impl Column {
    fn data_type(self) -> DataType {
        match self {
            C::EventType => DataType::Int32,
            C::Time | C::Expires => event_time_type(),
            C::PersonId | C::AuctionId | C::InitialBid | C::Reserve | C::Seller | C::Category => DataType::Int64,
            C::BidAuction | C::Bidder | C::Price => DataType::Int64,
            _ => DataType::Utf8,
        }
    }
}

/// Makes columns of events.
#[derive(Debug)]
pub struct Generator {
    pub shape: Shape,
    pub seed: u64,
    /// How many bytes a row has on average, by kind; filler makes up for what is missing.
    pub sizes: [u64; 3],
    channels: Dictionary,
    urls: Dictionary,
    filler: Vec<u8>,
}

impl Generator {
    /// Prepares what `readings` need.
    pub fn new(shape: Shape, seed: u64, sizes: [u64; 3], readings: &[Reading]) -> Self {
        let reads =
            |columns: &[Column]| columns.iter().any(|column| readings.iter().any(|reading| reading.reads(*column)));
        let mut made = Generator {
            shape,
            seed,
            sizes,
            channels: Dictionary::default(),
            urls: Dictionary::default(),
            filler: Vec::new(),
        };
        if reads(&[C::Channel]) {
            made.channels = texts::channels();
        }
        if reads(&[C::Url]) {
            made.urls = texts::urls(made.stream(C::Url));
        }
        if reads(&[C::PersonExtra, C::AuctionExtra, C::BidExtra]) {
            // of no column's stream: all of them cut from it
            made.filler = texts::filler(made.stream(C::EventType));
        }
        made
    }

    /// The column `reading` of the events of `runs`, which are all of one kind unless it is for all kinds.
    pub fn column(&self, reading: &Reading, runs: &[Run]) -> Result<ArrayRef> {
        let values = match reading.column {
            C::EventType => {
                let kinds = runs.iter().flat_map(|run| std::iter::repeat_n(run.kind as i32, run.rows));
                Arc::new(kinds.collect::<Int32Array>()) as ArrayRef
            }
            C::Time => Arc::new(TimestampMicrosecondArray::from(self.shape.times(runs))),
            C::Person => return self.whole(reading, Kind::Person, runs),
            C::Auction => return self.whole(reading, Kind::Auction, runs),
            C::Bid => return self.whole(reading, Kind::Bid, runs),
            C::PersonId | C::AuctionId => self.numbers(runs, |run| {
                let (first, id) = (run.event, self.shape.first_id(run));
                move |event| id + (event - first) as i64
            }),
            column @ (C::InitialBid | C::Price) => {
                let prices = self.stream(column);
                self.numbers(runs, |_| move |event| price(prices.word(event)))
            }
            C::Reserve => {
                let (initial, more) = (self.stream(C::InitialBid), self.stream(C::Reserve));
                self.numbers(runs, |_| move |event| price(initial.word(event)) + price(more.word(event)))
            }
            C::Category => {
                const FIRST: i64 = 10;
                const COUNT: u64 = 5;
                let categories = self.stream(C::Category);
                self.numbers(runs, |_| move |event| FIRST + below(categories.word(event), COUNT) as i64)
            }
            C::Seller => self.choices(C::Seller, runs, self.shape.hot_sellers, |run| self.shape.people(run)),
            C::Bidder => self.choices(C::Bidder, runs, self.shape.hot_bidders, |run| self.shape.people(run)),
            C::BidAuction => self.choices(C::BidAuction, runs, self.shape.hot_auctions, |run| self.shape.auctions(run)),
            C::Expires => {
                let lengths = self.stream(C::Expires);
                let mut times = self.shape.times(runs);
                for (time, event) in times.iter_mut().zip(runs.iter().flat_map(Run::events)) {
                    let range = (2 * self.shape.auction_millis(event)).clamp(1, u64::from(u32::MAX));
                    *time += 1000 * (1 + below(lengths.word(event), range) as i64);
                }
                Arc::new(TimestampMicrosecondArray::from(times))
            }
            column @ C::PersonName => self.texts(column, runs, 14, texts::person_name),
            column @ C::Email => self.texts(column, runs, 16, texts::email),
            column @ C::CreditCard => self.texts(column, runs, 19, texts::credit_card),
            column @ C::City => self.texts(column, runs, 10, texts::city),
            column @ C::State => self.texts(column, runs, 2, texts::state),
            column @ C::ItemName => self.texts(column, runs, 12, item_name),
            column @ C::Description => self.texts(column, runs, 52, description),
            C::Channel => self.by_channel(runs, 10, &self.channels),
            C::Url => self.by_channel(runs, 70, &self.urls),
            C::PersonExtra => {
                let streams =
                    [C::PersonName, C::Email, C::CreditCard, C::City, C::State].map(|column| self.stream(column));
                let mut other = Vec::new();
                self.extras(C::PersonExtra, Kind::Person, runs, |event| {
                    other.clear();
                    let [name, email, card, city, state] = streams.map(|stream| stream.words(event));
                    texts::person_name(name, &mut other);
                    texts::email(email, &mut other);
                    texts::credit_card(card, &mut other);
                    texts::city(city, &mut other);
                    texts::state(state, &mut other);
                    8 + other.len() as u64
                })
            }
            C::AuctionExtra => {
                let (names, descriptions) = (self.stream(C::ItemName), self.stream(C::Description));
                let mut other = Vec::new();
                self.extras(C::AuctionExtra, Kind::Auction, runs, |event| {
                    other.clear();
                    item_name(names.words(event), &mut other);
                    description(descriptions.words(event), &mut other);
                    6 * 8 + other.len() as u64
                })
            }
            C::BidExtra => self.extras(C::BidExtra, Kind::Bid, runs, |_| 4 * 8),
        };
        let field = &reading.field;
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&values, field.data_type(), &options)
            .map_err(|error| Error::data(format!("column \"{}\": {error}", field.name())))
    }

    fn stream(&self, column: Column) -> Stream {
        Stream::new(self.seed, column as u64)
    }

    /// Events of `kind` as one column, NULL for those of other kinds.
    fn whole(&self, reading: &Reading, kind: Kind, runs: &[Run]) -> Result<ArrayRef> {
        let own: Vec<Run> = runs.iter().copied().filter(|run| run.kind == kind).collect();
        let rows = own.iter().map(|run| run.rows).sum();
        let parts = reading.parts.iter().map(|part| self.column(part, &own)).collect::<Result<Vec<_>>>()?;
        let fields: Fields = reading.parts.iter().map(|part| Arc::clone(&part.field)).collect();
        let dense = StructArray::try_new_with_length(fields, parts, None, rows).map_err(from_arrow)?;
        let mut next = 0..rows as u32;
        let places = runs.iter().flat_map(|run| std::iter::repeat_n(run.kind == kind, run.rows));
        let places: UInt32Array = places.map(|own| if own { next.next() } else { None }).collect();
        take(&dense, &places, None).map_err(from_arrow)
    }

    fn numbers<F: Fn(u64) -> i64>(&self, runs: &[Run], of: impl Fn(&Run) -> F) -> ArrayRef {
        let mut numbers = Vec::with_capacity(rows_of(runs));
        for run in runs {
            numbers.extend(run.events().map(of(run)));
        }
        Arc::new(Int64Array::from(numbers))
    }

    /// Ids of which one in `ratio` is any of its run's and the others are the hot one.
    fn choices(&self, column: Column, runs: &[Run], ratio: u64, of: impl Fn(&Run) -> Choice) -> ArrayRef {
        let stream = self.stream(column);
        self.numbers(runs, |run| {
            let Choice { hot, first, count } = of(run);
            move |event| {
                let word = stream.word(event);
                let any = first + below_by_upper(word, count) as i64;
                select_unpredictable(below(word, ratio) > 0, hot, any)
            }
        })
    }

    fn texts(&self, column: Column, runs: &[Run], length: usize, write: impl Fn(Words, &mut Vec<u8>)) -> ArrayRef {
        let stream = self.stream(column);
        text_column(runs, length, |event, text| write(stream.words(event), text))
    }

    fn by_channel(&self, runs: &[Run], length: usize, texts: &Dictionary) -> ArrayRef {
        let channels = self.stream(C::Channel);
        text_column(runs, length, |event, text| texts.append_to(text, texts::channel(channels.word(event))))
    }

    /// Filler, where `size` says how many bytes the rest of the row has.
    fn extras(&self, column: Column, kind: Kind, runs: &[Run], mut size: impl FnMut(u64) -> u64) -> ArrayRef {
        let (stream, average) = (self.stream(column), self.sizes[kind as usize]);
        text_column(runs, average as usize, |event, text| {
            texts::append(text, &self.filler, texts::filling(stream.word(event), size(event), average))
        })
    }
}

fn item_name(mut words: Words, text: &mut Vec<u8>) {
    texts::letters(&mut words, 20, b' ', text);
}

fn description(mut words: Words, text: &mut Vec<u8>) {
    texts::letters(&mut words, 100, b' ', text);
}

fn rows_of(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.rows).sum()
}

/// A column of ASCII text of about `length` bytes a row, one `write` a row.
fn text_column(runs: &[Run], length: usize, mut write: impl FnMut(u64, &mut Vec<u8>)) -> ArrayRef {
    let rows = rows_of(runs);
    let (mut bytes, mut ends) = (Vec::with_capacity(length * rows), Vec::with_capacity(rows + 1));
    ends.push(0);
    for event in runs.iter().flat_map(Run::events) {
        write(event, &mut bytes);
        ends.push(i32::try_from(bytes.len()).expect("sizes are limited so that a batch is far below 2 GiB"));
    }
    Arc::new(StringArray::new(OffsetBuffer::new(ends.into()), Buffer::from_vec(bytes), None))
}
