//! Which events there are: their kinds, their order, their times, and who may be meant by an id.
//!
//! Events come in rounds: first all persons of a round, then its auctions, then its bids, 1 : 3 : 46 of them in the standard. So an
//! event's number alone says its kind, its own id and the newest ids of the others. What is *emitted* at a position is the event
//! of the same number, or, with out-of-order groups, another one of its group.

use std::ops::Range;

/// Ids start here, so that few events are enough for queries to find something.
const FIRST_PERSON: i64 = 1000;
const FIRST_AUCTION: i64 = 1000;

/// Ids of persons and auctions that do not exist yet may be named: so many ahead.
const LEAD: i64 = 10;

/// Every so-many-th id is the hot one of those after it.
const HOT_EVERY: i64 = 100;

/// The step with which an out-of-order group is gone through.
pub const GROUP_STEP: u64 = 953;

/// The most events: their times, in milliseconds times the rate, stay within 64 bits.
pub const EVENTS_MAX: u64 = 1 << 53;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody joins, who can sell and bid.
    Person,
    /// Something is put up for sale.
    Auction,
    /// Somebody offers a price for it.
    Bid,
}

impl Kind {
    /// In the order in which a round has them.
    pub const ALL: [Kind; 3] = [Kind::Person, Kind::Auction, Kind::Bid];
}

/// The numbers that the whole stream follows from.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many events of each kind a round has.
    pub proportions: [u64; 3],
    /// Events a second of event time.
    pub rate: u64,
    /// The event time of event 0, in microseconds.
    pub base: i64,
    /// So many events after each other are emitted in another order; 1: all in order.
    pub group: u64,
    /// Auctions that are bid for.
    pub auctions_in_flight: i64,
    /// Persons who sell and bid.
    pub people_active: i64,
    /// One of so many bids goes to any auction, the others to the hot one.
    pub hot_auctions: u64,
    /// One of so many bids is by anyone, the others by the hot bidder.
    pub hot_bidders: u64,
    /// One of so many auctions is by anyone, the others by the hot seller.
    pub hot_sellers: u64,
}

/// Events after each other, of one kind and one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub kind: Kind,
    pub round: u64,
    /// The first one's number.
    pub event: u64,
    pub rows: usize,
}

impl Run {
    pub fn events(&self) -> Range<u64> {
        self.event..self.event + self.rows as u64
    }
}

/// Ids one of which is drawn: the hot one, or any of a range.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    pub hot: i64,
    pub first: i64,
    pub count: u64,
}

impl Shape {
    /// The events of a round.
    pub fn round(&self) -> u64 {
        self.proportions.iter().sum()
    }

    /// Where in a round the events of `kind` are.
    pub fn places(&self, kind: Kind) -> Range<u64> {
        let start = self.proportions[..kind as usize].iter().sum();
        start..start + self.proportions[kind as usize]
    }

    fn kind_at(&self, place: u64) -> Kind {
        let [persons, auctions, _] = self.proportions;
        match place {
            _ if place < persons => Kind::Person,
            _ if place < persons + auctions => Kind::Auction,
            _ => Kind::Bid,
        }
    }

    /// The event that is emitted at `position`.
    pub fn event_at(&self, position: u64) -> u64 {
        let start = position - position % self.group;
        start + (u128::from(position) * u128::from(GROUP_STEP) % u128::from(self.group)) as u64
    }

    /// The id of the first person or auction of a run; the others follow it.
    pub fn first_id(&self, run: &Run) -> i64 {
        let of_kind = self.proportions[run.kind as usize];
        let place = run.event - run.round * self.round() - self.places(run.kind).start;
        FIRST_PERSON + (run.round * of_kind + place) as i64
    }

    /// The newest person, from 0 on, when an auction or a bid of this run comes.
    fn newest_person(&self, run: &Run) -> i64 {
        ((run.round + 1) * self.proportions[0]) as i64 - 1
    }

    /// Whom a seller or bidder is drawn from; the hot bidder is not the hot seller.
    pub fn people(&self, run: &Run) -> Choice {
        let newest = self.newest_person(run);
        let active = (newest + 1).min(self.people_active);
        Choice {
            hot: FIRST_PERSON + newest / HOT_EVERY * HOT_EVERY + i64::from(run.kind == Kind::Bid),
            first: FIRST_PERSON + newest + 1 - active,
            count: (active + LEAD) as u64,
        }
    }

    /// What a bid is for.
    pub fn auctions(&self, run: &Run) -> Choice {
        let newest = ((run.round + 1) * self.proportions[1]) as i64 - 1;
        let oldest = (newest - self.auctions_in_flight).max(0);
        Choice {
            hot: FIRST_AUCTION + newest / HOT_EVERY * HOT_EVERY,
            first: FIRST_AUCTION + oldest,
            count: (newest - oldest + 1 + LEAD) as u64,
        }
    }

    /// The milliseconds from event 0 to event `event`.
    pub fn millis(&self, event: u64) -> u64 {
        event * 1000 / self.rate
    }

    /// How long auctions of event `event` last on average, in milliseconds: until so many others are there as are in flight at once.
    pub fn auction_millis(&self, event: u64) -> u64 {
        let ahead = self.auctions_in_flight as u64 * self.round() / self.proportions[1].max(1);
        self.millis(event + ahead) - self.millis(event)
    }

    /// The event times of `runs`, in microseconds.
    pub fn times(&self, runs: &[Run]) -> Vec<i64> {
        let mut times = Vec::with_capacity(runs.iter().map(|run| run.rows).sum());
        for run in runs {
            // a division only where the millisecond changes
            let thousands = run.event * 1000;
            let (mut millis, mut rest) = (thousands / self.rate, thousands % self.rate);
            for _ in 0..run.rows {
                times.push(self.base + millis as i64 * 1000);
                rest += 1000;
                if rest >= self.rate {
                    millis += rest / self.rate;
                    rest %= self.rate;
                }
            }
        }
        times
    }
}

/// A split's way through the events: it has every so-many-th round of positions.
#[derive(Debug)]
pub struct Cursor {
    split: u64,
    splits: u64,
    /// Positions of this split that it has passed.
    passed: u64,
}

impl Cursor {
    pub fn new(split: u64, splits: u64, passed: u64) -> Self {
        Cursor { split, splits, passed }
    }

    /// Positions of this split that it has passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// The position in the whole stream that comes next.
    pub fn position(&self, shape: &Shape) -> u64 {
        let round = shape.round();
        (self.passed / round * self.splits + self.split) * round + self.passed % round
    }

    /// The next events, of `kind` if it is given, at most `rows_max` of them and all at positions before `end`.
    pub fn next(&mut self, shape: &Shape, kind: Option<Kind>, rows_max: usize, end: u64) -> Vec<Run> {
        let (round, mut left) = (shape.round(), rows_max as u64);
        let mut runs = Vec::with_capacity(rows_max / shape.proportions[2].max(1) as usize + 2);
        let wanted = |found: Kind| kind.is_none_or(|kind| kind == found);
        while left > 0 {
            let position = self.position(shape);
            if position >= end {
                break;
            }
            let place = position % round;
            let start = position - place;
            let places = place..round.min(end - start);
            if shape.group > 1 {
                for place in places {
                    self.passed += 1;
                    let event = shape.event_at(start + place);
                    let kind = shape.kind_at(event % round);
                    if wanted(kind) {
                        add(&mut runs, Run { kind, round: event / round, event, rows: 1 });
                        left -= 1;
                        if left == 0 {
                            break;
                        }
                    }
                }
                continue;
            }
            for kind in Kind::ALL.into_iter().filter(|kind| wanted(*kind)) {
                let of_kind = shape.places(kind);
                let (from, to) = (of_kind.start.max(places.start), of_kind.end.min(places.end));
                let rows = to.saturating_sub(from).min(left);
                if rows > 0 {
                    runs.push(Run { kind, round: start / round, event: start + from, rows: rows as usize });
                    left -= rows;
                    if left == 0 {
                        self.passed += from + rows - place;
                        return runs;
                    }
                }
            }
            self.passed += places.end - place;
        }
        runs
    }
}

/// Adds one event, to the last run if it follows that.
fn add(runs: &mut Vec<Run>, one: Run) {
    match runs.last_mut() {
        Some(run) if run.events().end == one.event && run.round == one.round && run.kind == one.kind => run.rows += 1,
        _ => runs.push(one),
    }
}
