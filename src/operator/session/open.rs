//! Which rows lie in one session: spans of a key, joined where they overlap.
//!
//! A row stands for `[time, time + gap)`, a partial session for the union of its rows' spans. Two of one key that have a moment in
//! common are one session; so a row that comes `gap` or more after the last one begins another. A session closes in the epoch whose
//! watermark reaches its end. What an epoch's spans and the open sessions become together is late, whole, if no open session is in
//! it and the watermark of an *earlier* epoch has reached its end. All of this depends on the set of the spans only.
//!
//! A delta has the sessions that changed, and does not say which are gone. There is no need to: open sessions of a key have no moment in
//! common, so a session of an earlier delta that has one in common with a newer session went into it, or had closed when that began;
//! and one that closed with nothing in its place ends at or before the watermark.

use crate::error::{Error, Result};
use crate::expr::Groups;
use crate::operator::panes::Span;
use crate::time::{Micros, Watermark};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

/// No session, no key.
const NONE: u32 = u32::MAX;

/// Keys that may be kept without a session, so that few keys are not numbered again all the time.
const IDLE_KEYS_MIN: usize = 1024;

/// A span of the open epoch.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// Its key's number.
    pub key: u32,
    /// Its place among the epoch's spans.
    pub row: u32,
    /// The span.
    pub span: Span,
}

/// What became of an epoch's spans.
#[derive(Debug, Default)]
pub struct Joined {
    /// What they are part of.
    pub parts: Vec<Part>,
    /// For each span the part that it is in.
    pub part_of: Vec<u32>,
    /// The numbers of sessions from earlier epochs, by [`Part::before`].
    pub before: Vec<u32>,
}

/// A session that has had rows in this epoch.
#[derive(Debug)]
pub struct Part {
    /// From its first row to the gap after its last.
    pub span: Span,
    /// Its number, which it keeps while it is open; None if it is late.
    pub session: Option<u32>,
    /// Where the numbers of the sessions stand that were open before and are in it; the first one's is its own.
    pub before: Range<usize>,
}

/// The open sessions of all keys.
pub struct OpenSessions {
    keys: Groups,
    /// The first open session of each key.
    heads: Vec<u32>,
    /// How many keys have one.
    busy_keys: usize,
    sessions: Vec<Session>,
    /// Numbers that can be given again.
    free: Vec<u32>,
    /// For each session a moment at which to see whether it has ended: it may have grown meanwhile.
    timers: BinaryHeap<Reverse<(Micros, u32)>>,
    mark: Watermark,
}

/// Where restored sessions are.
#[derive(Debug, Default)]
pub struct Restored {
    /// Their numbers, by [`Item::row`].
    pub numbers: Vec<u32>,
    /// The numbers of sessions whose place they took, but those that they have themselves.
    pub gone: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    span: Span,
    /// [`NONE`] if it went into another one or has closed.
    key: u32,
    /// The key's next open session in time.
    next: u32,
}

impl OpenSessions {
    /// No sessions; keys have the columns of `schema`.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        Ok(OpenSessions {
            keys: Groups::new(schema)?,
            heads: Vec::new(),
            busy_keys: 0,
            sessions: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            mark: Watermark::NONE,
        })
    }

    /// Writes the numbers of `keys`, one for each of `rows` rows, into `numbers`. They hold until the epoch is complete.
    pub fn number(&mut self, keys: &[ArrayRef], rows: usize, numbers: &mut Vec<usize>) -> Result<()> {
        self.keys.intern(keys, rows, numbers)
    }

    /// Joins all spans of an epoch with each other and with the open sessions.
    pub fn join(&mut self, mut items: Vec<Item>) -> Joined {
        self.heads.resize(self.keys.len(), NONE);
        let mut joined = Joined { part_of: vec![NONE; items.len()], ..Joined::default() };
        let mut chain = Vec::new();
        items.sort_unstable_by_key(|item| (item.key, item.span.start));
        for items in items.chunk_by(|a, b| a.key == b.key) {
            let key = items[0].key;
            self.join_key(items, &mut joined, &mut chain);
            self.link(key, &mut chain);
        }
        joined
    }

    /// Makes the open sessions of `key` those of `chain`, in order, which is empty then.
    fn link(&mut self, key: u32, chain: &mut Vec<u32>) {
        self.busy_keys += usize::from(self.heads[key as usize] == NONE && !chain.is_empty());
        let first = chain.drain(..).rev().fold(NONE, |next, session| {
            self.sessions[session as usize].next = next;
            session
        });
        self.heads[key as usize] = first;
    }

    /// Opens the sessions of one delta as they are, instead of those with which they have a moment in common.
    ///
    /// # Errors
    /// `Corrupt` if two of one key have a moment in common, or one has none: they were not open together.
    pub fn restore(&mut self, mut items: Vec<Item>) -> Result<Restored> {
        self.heads.resize(self.keys.len(), NONE);
        let mut restored = Restored { numbers: vec![NONE; items.len()], gone: Vec::new() };
        let mut chain = Vec::new();
        items.sort_unstable_by_key(|item| (item.key, item.span.start));
        let empty = |item: &Item| item.span.end <= item.span.start;
        let meet = |two: &[Item]| two[0].key == two[1].key && two[1].span.start < two[0].span.end;
        if items.iter().any(empty) || items.windows(2).any(meet) {
            return Err(Error::corrupt("the saved state has sessions that cannot be open together"));
        }
        for items in items.chunk_by(|a, b| a.key == b.key) {
            let key = items[0].key;
            let mut open = self.heads[key as usize];
            for &Item { row, span, .. } in items {
                let mut own = None;
                while open != NONE && self.sessions[open as usize].span.start < span.end {
                    let session = &mut self.sessions[open as usize];
                    if session.span.end <= span.start {
                        chain.push(open);
                    } else if own.is_none() {
                        own = Some(open);
                        session.span = span;
                    } else {
                        session.key = NONE;
                        restored.gone.push(open);
                    }
                    open = session.next;
                }
                let number = own.unwrap_or_else(|| self.begin(key, span));
                restored.numbers[row as usize] = number;
                chain.push(number);
            }
            while open != NONE {
                chain.push(open);
                open = self.sessions[open as usize].next;
            }
            self.link(key, &mut chain);
        }
        Ok(restored)
    }

    /// The span of session `number`; None if it is not open.
    pub fn span_of(&self, number: u32) -> Option<Span> {
        self.sessions.get(number as usize).filter(|session| session.key != NONE).map(|session| session.span)
    }

    /// Joins the spans of one key, in the order of their starts. `chain` is given its open sessions, in order.
    fn join_key(&mut self, items: &[Item], joined: &mut Joined, chain: &mut Vec<u32>) {
        let key = items[0].key;
        let mut open = self.heads[key as usize];
        let mut at = 0;
        while open != NONE || at < items.len() {
            let (items_before, first) = (at, joined.before.len());
            let mut whole: Option<Span> = None;
            loop {
                let stored = (open != NONE).then(|| self.sessions[open as usize].span);
                let item = items.get(at).map(|item| item.span);
                let stored_first = stored.is_some_and(|stored| item.is_none_or(|item| stored.start <= item.start));
                let Some(next) = stored.filter(|_| stored_first).or(item) else { break };
                whole = match whole {
                    None => Some(next),
                    Some(whole) if next.start < whole.end => Some(Span { end: whole.end.max(next.end), ..whole }),
                    Some(_) => break,
                };
                if stored_first {
                    joined.before.push(open);
                    open = self.sessions[open as usize].next;
                } else {
                    joined.part_of[items[at].row as usize] = joined.parts.len() as u32;
                    at += 1;
                }
            }
            let span = whole.expect("the loop began with a span");
            if at == items_before {
                // an open session that has no part in the epoch
                chain.extend(joined.before.drain(first..));
                continue;
            }
            let before = first..joined.before.len();
            for other in joined.before[before.clone()].iter().skip(1) {
                self.sessions[*other as usize].key = NONE;
            }
            let session = match joined.before.get(first) {
                Some(&session) => {
                    self.sessions[session as usize].span = span;
                    Some(session)
                }
                None if span.end <= self.mark.micros() => None,
                None => Some(self.begin(key, span)),
            };
            chain.extend(session);
            joined.parts.push(Part { span, session, before });
        }
    }

    fn begin(&mut self, key: u32, span: Span) -> u32 {
        let session = Session { span, key, next: NONE };
        let number = match self.free.pop() {
            Some(number) => {
                self.sessions[number as usize] = session;
                number
            }
            None => {
                self.sessions.push(session);
                self.sessions.len() as u32 - 1
            }
        };
        self.timers.push(Reverse((span.end, number)));
        number
    }

    /// Ends the epoch: the sessions that close with it, in the order of their ends. Their numbers may be given again in the next epoch.
    pub fn close(&mut self, mark: Watermark) -> Result<Vec<(u32, Span)>> {
        self.mark = mark;
        let mut closed = Vec::new();
        while let Some(&Reverse((at, number))) = self.timers.peek()
            && at <= mark.micros()
        {
            self.timers.pop();
            let Session { span, key, .. } = self.sessions[number as usize];
            match key {
                NONE => self.free.push(number),
                _ if span.end > mark.micros() => self.timers.push(Reverse((span.end, number))),
                _ => closed.push((number, span)),
            }
        }
        closed.sort_unstable_by_key(|(number, span)| (*span, *number));
        for &(number, _) in &closed {
            let Session { key, next, .. } = self.sessions[number as usize];
            debug_assert_eq!(self.heads[key as usize], number, "a key's sessions close in order");
            self.heads[key as usize] = next;
            self.busy_keys -= usize::from(next == NONE);
            self.sessions[number as usize].key = NONE;
            self.free.push(number);
        }
        if self.keys.len() > 2 * self.busy_keys + IDLE_KEYS_MIN {
            self.forget_idle_keys()?;
        }
        Ok(closed)
    }

    /// Numbers the keys that have a session again, and no others.
    fn forget_idle_keys(&mut self) -> Result<()> {
        let busy: Vec<u32> = (0..self.heads.len() as u32).filter(|key| self.heads[*key as usize] != NONE).collect();
        let rows = UInt32Array::from(busy.clone());
        let keys = self.keys.drain()?;
        let keys = keys.iter().map(|column| take(column, &rows, None).map_err(crate::batch::from_arrow));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        self.keys = Groups::new(Arc::clone(self.keys.schema()))?;
        let mut numbers = Vec::new();
        self.keys.intern(&keys, busy.len(), &mut numbers)?;
        let mut heads = vec![NONE; busy.len()];
        for (old, new) in busy.into_iter().zip(numbers) {
            heads[new] = self.heads[old as usize];
            let mut session = heads[new];
            while session != NONE {
                self.sessions[session as usize].key = new as u32;
                session = self.sessions[session as usize].next;
            }
        }
        self.heads = heads;
        Ok(())
    }
}
