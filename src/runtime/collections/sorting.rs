//! Rows on their way into an arrangement: encoded a batch at a time, and sorted once their epochs are complete.
//!
//! No row has memory of its own: a batch's rows lie one behind the other, and sorting moves numbers.

use super::layout::{KeyedLayout, Slab, Slice};
use crate::time::Epoch;
use differential_dataflow::batcher::{Batcher, Extract};
use differential_dataflow::trace::Builder;
use differential_dataflow::trace::implementations::ord_neu::{BuilderInput, OrdValBatch, OrdValBuilder};
use std::collections::BTreeMap;
use timely::Accountable;
use timely::container::DrainContainer;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

/// Rows, one behind the other.
#[derive(Clone, Default)]
pub struct Packed {
    bytes: Vec<u8>,
    /// Where each row ends.
    ends: Vec<usize>,
}

impl Packed {
    /// Adds a row that has these parts.
    pub fn push(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push(self.bytes.len());
    }

    /// Row `n`.
    pub fn row(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1] };
        &self.bytes[start..self.ends[n]]
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|n| self.row(n))
    }
}

/// Some rows of an epoch: keys, what is beside them, weights.
#[derive(Clone, Default)]
pub struct Encoded {
    /// When.
    pub epoch: Epoch,
    /// The keys.
    pub keys: Packed,
    /// What is beside each key.
    pub rest: Packed,
    /// How often each row is there.
    pub weights: Vec<i64>,
}

impl Accountable for Encoded {
    fn record_count(&self) -> i64 {
        self.weights.len() as i64
    }
}

/// Makes a batch of what has come for the epochs that are complete.
#[derive(Default)]
pub struct EpochBatcher {
    open: BTreeMap<Epoch, Vec<Encoded>>,
    least: Antichain<Epoch>,
}

impl Extract for EpochBatcher {
    type Time = Epoch;
    type Output = OrdValBatch<KeyedLayout<Epoch>>;

    fn extract<'a>(&'a mut self, upper: AntichainRef<'_, Epoch>) -> (Option<Self::Output>, AntichainRef<'a, Epoch>) {
        let mut parts = Vec::new();
        while let Some(entry) = self.open.first_entry().filter(|entry| !upper.less_equal(entry.key())) {
            parts.extend(entry.remove());
        }
        self.least = self.open.keys().next().copied().into_iter().collect();
        let mut builder = OrdValBuilder::<KeyedLayout<Epoch>, Sorted>::default();
        builder.push(&mut Sorted::of(parts));
        (builder.done(), self.least.borrow())
    }
}

impl Batcher<Encoded> for EpochBatcher {
    fn insert(&mut self, container: &mut Encoded) {
        let rows = std::mem::take(container);
        self.open.entry(rows.epoch).or_default().push(rows);
    }
}

/// Rows in order, each once for an epoch.
pub struct Sorted {
    parts: Vec<Encoded>,
    order: Vec<Place>,
}

/// Where a row is.
#[derive(Clone, Copy)]
struct Place {
    /// The first bytes of its key, as a number.
    prefix: u128,
    part: u32,
    row: u32,
    weight: i64,
}

impl Sorted {
    fn of(parts: Vec<Encoded>) -> Self {
        let mut order: Vec<Place> = Vec::with_capacity(parts.iter().map(|part| part.weights.len()).sum());
        for (number, part) in parts.iter().enumerate() {
            for (row, (key, weight)) in part.keys.iter().zip(&part.weights).enumerate() {
                let mut first = [0; 16];
                let known = key.len().min(16);
                first[..known].copy_from_slice(&key[..known]);
                order.push(Place {
                    prefix: u128::from_be_bytes(first),
                    part: number as u32,
                    row: row as u32,
                    weight: *weight,
                });
            }
        }
        let mut sorted = Sorted { parts, order: Vec::new() };
        order.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| sorted.row(*a).cmp(&sorted.row(*b))));
        order.dedup_by(|next, kept| {
            let same = next.prefix == kept.prefix && sorted.row(*next) == sorted.row(*kept);
            if same {
                kept.weight += next.weight;
            }
            same
        });
        order.retain(|place| place.weight != 0);
        sorted.order = order;
        sorted
    }

    /// Key, what is beside it, epoch.
    fn row(&self, place: Place) -> (Slice<'_>, Slice<'_>, Epoch) {
        let (part, row) = (&self.parts[place.part as usize], place.row as usize);
        (Slice(part.keys.row(row)), Slice(part.rest.row(row)), part.epoch)
    }
}

impl DrainContainer for Sorted {
    type Item<'a> = (Slice<'a>, Slice<'a>, Epoch, i64);
    type DrainIter<'a> = Rows<'a>;

    fn drain(&mut self) -> Rows<'_> {
        Rows { of: self, next: 0 }
    }
}

/// The rows of [`Sorted`], one after the other.
pub struct Rows<'a> {
    of: &'a Sorted,
    next: usize,
}

impl<'a> Iterator for Rows<'a> {
    type Item = (Slice<'a>, Slice<'a>, Epoch, i64);

    fn next(&mut self) -> Option<Self::Item> {
        let place = *self.of.order.get(self.next)?;
        self.next += 1;
        let (key, rest, epoch) = self.of.row(place);
        Some((key, rest, epoch, place.weight))
    }
}

impl BuilderInput<Slab, Slab> for Sorted {
    type Key<'a> = Slice<'a>;
    type Val<'a> = Slice<'a>;
    type Time = Epoch;
    type Diff = i64;

    fn into_parts<'a>(item: Self::Item<'a>) -> (Slice<'a>, Slice<'a>, Epoch, i64) {
        item
    }

    fn key_eq(this: &Slice<'_>, other: Slice<'_>) -> bool {
        this.0 == other.0
    }

    fn val_eq(this: &Slice<'_>, other: Slice<'_>) -> bool {
        this.0 == other.0
    }

    fn key_val_upd_counts(chain: &[Self]) -> (usize, usize, usize) {
        let rows = chain.iter().map(|sorted| sorted.order.len()).sum();
        (rows, rows, rows)
    }
}
