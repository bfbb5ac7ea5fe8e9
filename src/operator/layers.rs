//! A window's state in two layers: what earlier deltas have given away, and above it what is new.
//!
//! Both are accumulators over the same keys, whose table stays as it is. A key that is new since the last delta, or old and
//! changed, has a place in the upper layer; places are given in the order in which keys change. So a delta takes the upper layer's
//! states, without looking at the rest, and merging them into the lower layer hashes nothing. Until its first delta a window has no
//! lower layer: every key is new, and its place is its number. Where most keys change from delta to delta their places are their numbers,
//! too, and a bit says of each whether it has changed: that costs a delta a look at all keys, and a row nothing. A window of which no deltas are asked for is a block and nothing else.

use super::block::{Block, Drained};
use crate::batch::wire::compact;
use crate::batch::{Batch, from_arrow};
use crate::error::Result;
use crate::expr::{Accumulators, Groups};
use crate::plan::Aggregation;
use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{concat, interleave, take};
use arrow::datatypes::Schema;
use std::sync::Arc;

/// The place of a key that has not changed.
const UNCHANGED: u32 = u32::MAX;

/// The state of one window.
pub struct Layers {
    spec: Arc<Aggregation>,
    /// Partial results that were put here and not looked at yet, oldest first.
    put: Vec<Drained>,
    held: Held,
}

enum Held {
    Plain(Block),
    Tracked(Box<Tracked>),
}

/// The layers themselves.
struct Tracked {
    groups: Groups,
    keys: Keys,
    /// Nothing is in the lower layer: the place of a group is its number, and the rest is empty.
    fresh: bool,
    lower: Accumulators,
    upper: Accumulators,
    /// Most keys changed before the last delta: the place of a group is its number, and `touched` has a bit for each that has changed.
    dense: bool,
    /// That is possible with these accumulators.
    may_be_dense: bool,
    touched: Vec<u64>,
    /// By group: its place in the upper layer. Empty if they are dense.
    places: Vec<u32>,
    /// By place: the group.
    changed: Vec<usize>,
    numbers: Vec<usize>,
}

/// Keys in the order of their groups. They come in pieces, which are put together as their lengths meet, so that no key is copied
/// more often than the logarithm of their number.
#[derive(Default)]
struct Keys {
    /// Each with the number of its first group.
    chunks: Vec<(usize, Vec<ArrayRef>)>,
    /// The number of groups in them.
    rows: usize,
    /// What has come since the chunks were put together.
    new: Vec<Vec<ArrayRef>>,
    new_rows: usize,
}

impl Layers {
    /// No state; if it is `tracked`, [`Layers::freeze`] says what is new.
    pub fn new(spec: &Arc<Aggregation>, tracked: bool) -> Result<Self> {
        let held = match tracked {
            true => Held::Tracked(Box::new(Tracked::new(spec)?)),
            false => Held::Plain(Block::new(spec)?),
        };
        Ok(Layers { spec: Arc::clone(spec), put: Vec::new(), held })
    }

    /// The state that is `block`.
    pub fn of(spec: &Arc<Aggregation>, block: Block) -> Self {
        Layers { spec: Arc::clone(spec), put: Vec::new(), held: Held::Plain(block) }
    }

    /// From now on [`Layers::freeze`] says what is new; what there is already is not.
    pub fn track(&mut self) -> Result<()> {
        if let Held::Plain(block) = &mut self.held {
            if !block.is_empty() {
                self.put.insert(0, block.drain_states()?);
            }
            self.held = Held::Tracked(Box::new(Tracked::new(&self.spec)?));
        }
        Ok(())
    }

    /// Adds input rows.
    pub fn update(&mut self, rows: &Batch) -> Result<()> {
        self.settle()?;
        match &mut self.held {
            Held::Plain(block) => block.update(rows),
            Held::Tracked(tracked) => {
                let keys = self.spec.keys.iter().map(|(key, _)| key.evaluate(rows)).collect::<Result<Vec<_>>>()?;
                tracked.place(&keys, rows.num_rows())?;
                let places = tracked.places();
                tracked.upper.update(rows, &tracked.numbers, places)
            }
        }
    }

    /// Adds partial results: key columns and state columns.
    pub fn merge(&mut self, keys: &[ArrayRef], states: &[ArrayRef], rows: usize) -> Result<()> {
        self.settle()?;
        match &mut self.held {
            Held::Plain(block) => block.merge(keys, states, rows),
            Held::Tracked(tracked) => {
                tracked.place(keys, rows)?;
                let places = tracked.places();
                tracked.upper.merge(states, &tracked.numbers, places)
            }
        }
    }

    /// Puts the key and state columns of `rows` on top, as they are; they are no news. See [`Layers::settle`].
    pub fn put(&mut self, rows: &Batch) {
        let (keys, values) = rows.columns().split_at(self.spec.keys.len());
        self.put.push(Drained { rows: rows.num_rows(), keys: keys.to_vec(), values: values.to_vec() });
    }

    /// Takes in what was put.
    pub fn settle(&mut self) -> Result<()> {
        for Drained { rows, keys, values } in self.put.drain(..).filter(|put| put.rows > 0) {
            match &mut self.held {
                Held::Plain(block) => block.merge(&keys, &values, rows)?,
                Held::Tracked(tracked) => tracked.put(&keys, &values, rows)?,
            }
        }
        Ok(())
    }

    /// Gives what is new, which is no news any more; none if there is nothing.
    pub fn freeze(&mut self) -> Result<Option<Drained>> {
        match &mut self.held {
            Held::Plain(_) => Ok(None),
            Held::Tracked(tracked) => tracked.freeze(&self.spec.input),
        }
    }

    /// The results of all keys, in the order in which they came.
    pub fn into_results(mut self) -> Result<Drained> {
        self.settle()?;
        match self.held {
            Held::Plain(mut block) => block.drain_results(),
            Held::Tracked(mut tracked) => {
                let rows = tracked.groups.len();
                let values = match tracked.fresh {
                    true => tracked.upper.results()?,
                    false => {
                        tracked.sink()?;
                        tracked.lower.results()?
                    }
                };
                Ok(Drained { rows, keys: tracked.groups.drain()?, values })
            }
        }
    }

    /// The partial results of all keys; there are no keys afterwards.
    pub fn drain(&mut self) -> Result<Option<Drained>> {
        self.settle()?;
        let drained = match &mut self.held {
            Held::Plain(block) => block.drain_states()?,
            Held::Tracked(tracked) => {
                let rows = tracked.groups.len();
                let values = match tracked.fresh {
                    true => tracked.upper.states()?,
                    false => {
                        tracked.sink()?;
                        tracked.lower.states()?
                    }
                };
                tracked.changed.clear();
                (tracked.keys, tracked.places, tracked.fresh) = (Keys::default(), Vec::new(), true);
                (tracked.touched, tracked.dense) = (Vec::new(), false);
                Drained { rows, keys: tracked.groups.drain()?, values }
            }
        };
        Ok(Some(drained).filter(|drained| drained.rows > 0))
    }
}

impl Tracked {
    fn new(spec: &Arc<Aggregation>) -> Result<Self> {
        Ok(Tracked {
            groups: Groups::new(spec.key_schema())?,
            keys: Keys::default(),
            fresh: true,
            dense: false,
            may_be_dense: spec.calls.iter().all(|call| call.bears_gaps()),
            touched: Vec::new(),
            lower: Accumulators::new(&spec.calls)?,
            upper: Accumulators::new(&spec.calls)?,
            places: Vec::new(),
            changed: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// How many places the upper layer has.
    fn places(&self) -> usize {
        if self.fresh || self.dense { self.groups.len() } else { self.changed.len() }
    }

    /// The groups of `keys` into `numbers`.
    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        let known = self.groups.len();
        self.groups.intern(keys, rows, &mut self.numbers)?;
        if self.groups.len() == known {
            return Ok(());
        }
        // groups are numbered as they come
        let mut next = known;
        let mut firsts = Vec::with_capacity(self.groups.len() - known);
        for (row, number) in self.numbers.iter().enumerate() {
            if *number == next {
                firsts.push(row as u32);
                next += 1;
            }
        }
        self.keys.add(keys, firsts)?;
        match (self.fresh, self.dense) {
            (true, _) => {}
            (false, true) => self.touched.resize(self.groups.len().div_ceil(64), 0),
            (false, false) => self.places.resize(self.groups.len(), UNCHANGED),
        }
        Ok(())
    }

    /// The places of `keys` in the upper layer into `numbers`.
    fn place(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        self.intern(keys, rows)?;
        if self.fresh {
            return Ok(());
        }
        if self.dense {
            self.numbers.iter().for_each(|number| self.touched[number / 64] |= 1 << (number % 64));
            return Ok(());
        }
        for number in &mut self.numbers {
            let place = &mut self.places[*number];
            if *place == UNCHANGED {
                *place = self.changed.len() as u32;
                self.changed.push(*number);
            }
            *number = *place as usize;
        }
        Ok(())
    }

    /// There is a lower layer from now on. What is in the upper one stays there.
    fn settle_down(&mut self) {
        if std::mem::take(&mut self.fresh) {
            self.changed = (0..self.groups.len()).collect();
            self.places = (0..self.groups.len() as u32).collect();
        }
    }

    /// Merges partial results into the lower layer.
    fn put(&mut self, keys: &[ArrayRef], states: &[ArrayRef], rows: usize) -> Result<()> {
        self.settle_down();
        self.intern(keys, rows)?;
        self.lower.merge(states, &self.numbers, self.groups.len())
    }

    /// Merges the upper layer into the lower one, and gives its states, in the order of `changed`.
    fn sink(&mut self) -> Result<Vec<ArrayRef>> {
        self.settle_down();
        if self.dense {
            let bits = |(word, bits): (usize, &u64)| {
                let bits = *bits;
                (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| 64 * word + bit)
            };
            self.changed.extend(self.touched.iter().enumerate().flat_map(bits));
            self.touched.fill(0);
        }
        if self.changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut states = self.upper.states()?;
        if self.dense {
            let changed: UInt32Array = self.changed.iter().map(|group| *group as u32).collect();
            let of_changed = |states: &ArrayRef| take(states, &changed, None).map_err(from_arrow);
            states = states.iter().map(of_changed).collect::<Result<_>>()?;
        }
        self.lower.merge(&states, &self.changed, self.groups.len())?;
        Ok(states)
    }

    /// `input` are the columns of input rows.
    fn freeze(&mut self, input: &Schema) -> Result<Option<Drained>> {
        let in_order = self.fresh;
        let values = self.sink()?;
        if self.changed.is_empty() {
            return Ok(None);
        }
        self.keys.put_together()?;
        let keys = match in_order {
            true => self.keys.all()?,
            false => self.keys.of(&self.changed)?,
        };
        let rows = self.changed.len();
        let dense = self.may_be_dense && rows >= self.groups.len().div_ceil(2);
        if dense {
            self.changed.clear();
            self.places = Vec::new();
            self.touched.resize(self.groups.len().div_ceil(64), 0);
        } else if self.dense {
            self.changed.clear();
            self.touched = Vec::new();
            self.places.resize(self.groups.len(), UNCHANGED);
        } else {
            self.changed.drain(..).for_each(|group| self.places[group] = UNCHANGED);
        }
        self.dense = dense;
        if dense {
            // else an accumulator takes it, until it meets a NULL, that every group has had a value
            self.upper.update_with_nothing(input)?;
        }
        Ok(Some(Drained { rows, keys, values }))
    }
}

impl Keys {
    /// Adds the keys of rows `firsts` of `keys`.
    fn add(&mut self, keys: &[ArrayRef], firsts: Vec<u32>) -> Result<()> {
        self.new_rows += firsts.len();
        let firsts = UInt32Array::from(firsts);
        let keys = keys.iter().map(|key| take(key, &firsts, None).map_err(from_arrow)).collect::<Result<_>>()?;
        self.new.push(keys);
        Ok(())
    }

    /// Makes chunks of what is new.
    fn put_together(&mut self) -> Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let new = std::mem::take(&mut self.new);
        let (mut start, mut length) = (self.rows, std::mem::take(&mut self.new_rows));
        // what keys were read with may be let go
        let mut chunk: Vec<ArrayRef> = joined(&new)?.iter().map(compact).collect();
        self.rows += length;
        while let Some((before, keys)) = self.chunks.pop_if(|(before, _)| start - *before <= length) {
            chunk = joined(&[keys, chunk])?;
            (start, length) = (before, length + start - before);
        }
        self.chunks.push((start, chunk));
        Ok(())
    }

    /// All keys, which were put together.
    fn all(&self) -> Result<Vec<ArrayRef>> {
        match self.chunks.as_slice() {
            [(_, only)] => Ok(only.clone()),
            several => joined(&several.iter().map(|(_, keys)| keys.clone()).collect::<Vec<_>>()),
        }
    }

    /// The keys of `groups`, which were put together.
    fn of(&self, groups: &[usize]) -> Result<Vec<ArrayRef>> {
        if let [(_, only)] = self.chunks.as_slice() {
            let groups: UInt32Array = groups.iter().map(|group| *group as u32).collect();
            return only.iter().map(|key| take(key, &groups, None).map_err(from_arrow)).collect();
        }
        let place = |group: &usize| {
            let chunk = self.chunks.partition_point(|(start, _)| start <= group) - 1;
            (chunk, *group - self.chunks[chunk].0)
        };
        let places: Vec<(usize, usize)> = groups.iter().map(place).collect();
        let column = |column: usize| {
            let chunks: Vec<&dyn Array> = self.chunks.iter().map(|(_, keys)| keys[column].as_ref()).collect();
            interleave(&chunks, &places).map_err(from_arrow)
        };
        (0..self.chunks.first().map_or(0, |(_, keys)| keys.len())).map(column).collect()
    }
}

/// The columns of these pieces, one behind the other.
fn joined(pieces: &[Vec<ArrayRef>]) -> Result<Vec<ArrayRef>> {
    let column = |column: usize| {
        concat(&pieces.iter().map(|piece| piece[column].as_ref()).collect::<Vec<_>>()).map_err(from_arrow)
    };
    (0..pieces.first().map_or(0, Vec::len)).map(column).collect()
}
