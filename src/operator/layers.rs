//! A window's state in two layers: what earlier deltas have given away, and above it what is new.
//!
//! Both are accumulators over the same keys, whose table stays as it is. A key that is new since the last delta, or old and
//! changed, has a place in the upper layer; places are given in the order in which keys change. So a delta takes the upper layer's
//! states, without looking at the rest, and merging them into the lower layer hashes nothing. A window of which no deltas are
//! asked for is a block and nothing else.

use super::block::{Block, Drained};
use crate::batch::{Batch, from_arrow};
use crate::error::Result;
use crate::expr::{Accumulators, Groups};
use crate::plan::Aggregation;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat, take};
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
    /// The keys in the order of their groups, and those that have come since.
    keys: Vec<ArrayRef>,
    new_keys: Vec<Vec<ArrayRef>>,
    lower: Accumulators,
    upper: Accumulators,
    /// By group: its place in the upper layer.
    places: Vec<u32>,
    /// By place: the group.
    changed: Vec<usize>,
    numbers: Vec<usize>,
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
                tracked.upper.update(rows, &tracked.numbers, tracked.changed.len())
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
                tracked.upper.merge(states, &tracked.numbers, tracked.changed.len())
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
            Held::Tracked(tracked) => tracked.freeze(),
        }
    }

    /// The results of all keys, in the order in which they came.
    pub fn into_results(mut self) -> Result<Drained> {
        self.settle()?;
        match self.held {
            Held::Plain(mut block) => block.drain_results(),
            Held::Tracked(mut tracked) => {
                tracked.sink()?;
                let rows = tracked.groups.len();
                Ok(Drained { rows, keys: tracked.groups.drain()?, values: tracked.lower.results()? })
            }
        }
    }

    /// The partial results of all keys; there are no keys afterwards.
    pub fn drain(&mut self) -> Result<Option<Drained>> {
        self.settle()?;
        let drained = match &mut self.held {
            Held::Plain(block) => block.drain_states()?,
            Held::Tracked(tracked) => {
                tracked.sink()?;
                let rows = tracked.groups.len();
                (tracked.keys, tracked.new_keys, tracked.places) = Default::default();
                Drained { rows, keys: tracked.groups.drain()?, values: tracked.lower.states()? }
            }
        };
        Ok(Some(drained).filter(|drained| drained.rows > 0))
    }
}

impl Tracked {
    fn new(spec: &Arc<Aggregation>) -> Result<Self> {
        Ok(Tracked {
            groups: Groups::new(spec.key_schema())?,
            keys: Vec::new(),
            new_keys: Vec::new(),
            lower: Accumulators::new(&spec.calls)?,
            upper: Accumulators::new(&spec.calls)?,
            places: Vec::new(),
            changed: Vec::new(),
            numbers: Vec::new(),
        })
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
        let firsts = UInt32Array::from(firsts);
        let firsts = keys.iter().map(|key| take(key, &firsts, None).map_err(from_arrow)).collect::<Result<_>>()?;
        self.new_keys.push(firsts);
        self.places.resize(self.groups.len(), UNCHANGED);
        Ok(())
    }

    /// The places of `keys` in the upper layer into `numbers`.
    fn place(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        self.intern(keys, rows)?;
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

    /// Merges partial results into the lower layer.
    fn put(&mut self, keys: &[ArrayRef], states: &[ArrayRef], rows: usize) -> Result<()> {
        self.intern(keys, rows)?;
        self.lower.merge(states, &self.numbers, self.groups.len())
    }

    /// Merges the upper layer into the lower one, and gives its states, by place.
    fn sink(&mut self) -> Result<Vec<ArrayRef>> {
        if self.changed.is_empty() {
            return Ok(Vec::new());
        }
        let states = self.upper.states()?;
        self.lower.merge(&states, &self.changed, self.groups.len())?;
        Ok(states)
    }

    fn freeze(&mut self) -> Result<Option<Drained>> {
        if self.changed.is_empty() {
            return Ok(None);
        }
        let values = self.sink()?;
        let new_keys = std::mem::take(&mut self.new_keys);
        if !new_keys.is_empty() {
            let columns = new_keys[0].len();
            let whole = |column: usize| {
                let parts = self.keys.get(column).into_iter().chain(new_keys.iter().map(|keys| &keys[column]));
                concat(&parts.map(AsRef::as_ref).collect::<Vec<_>>()).map_err(from_arrow)
            };
            self.keys = (0..columns).map(whole).collect::<Result<_>>()?;
        }
        let changed: UInt32Array = self.changed.iter().map(|group| *group as u32).collect();
        let keys = self.keys.iter().map(|key| take(key, &changed, None).map_err(from_arrow)).collect::<Result<_>>()?;
        let rows = self.changed.len();
        self.changed.drain(..).for_each(|group| self.places[group] = UNCHANGED);
        Ok(Some(Drained { rows, keys, values }))
    }
}
