//! A GROUP BY's state: groups and their accumulators, filled with rows or with partial results.
//!
//! A block is drained whole: its results when they leave for good, its states when they go on to be merged. Rows come out
//! in the order in which their keys first came.

use crate::batch::Batch;
use crate::error::Result;
use crate::expr::{Accumulators, Groups};
use crate::plan::Aggregation;
use arrow::array::ArrayRef;
use std::sync::Arc;

/// Groups and accumulators of one window, or of one epoch.
pub struct Block {
    spec: Arc<Aggregation>,
    groups: Groups,
    accumulators: Accumulators,
    numbers: Vec<usize>,
}

impl Block {
    /// An empty block.
    pub fn new(spec: &Arc<Aggregation>) -> Result<Self> {
        Ok(Block {
            groups: Groups::new(spec.key_schema())?,
            accumulators: Accumulators::new(&spec.calls)?,
            spec: Arc::clone(spec),
            numbers: Vec::new(),
        })
    }

    /// A block of no rows that has the group of a GROUP BY without keys: its results are what SQL says of nothing, `count(*)` 0.
    pub fn of_nothing(spec: &Arc<Aggregation>) -> Result<Self> {
        let mut block = Block::new(spec)?;
        block.groups.intern(&[], 1, &mut block.numbers)?;
        block.accumulators.update_with_nothing(&spec.input)?;
        Ok(block)
    }

    /// Adds input rows.
    pub fn update(&mut self, rows: &Batch) -> Result<()> {
        let keys = self.spec.keys.iter().map(|(key, _)| key.evaluate(rows)).collect::<Result<Vec<_>>>()?;
        self.groups.intern(&keys, rows.num_rows(), &mut self.numbers)?;
        self.accumulators.update(rows, &self.numbers, self.groups.len())
    }

    /// Adds partial results: key columns and state columns.
    pub fn merge(&mut self, keys: &[ArrayRef], states: &[ArrayRef], rows: usize) -> Result<()> {
        self.groups.intern(keys, rows, &mut self.numbers)?;
        self.accumulators.merge(states, &self.numbers, self.groups.len())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True before the first row.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.groups.bytes() + self.accumulators.bytes()
    }

    /// Keys and results; the block is empty afterwards.
    pub fn drain_results(&mut self) -> Result<Drained> {
        let rows = self.len();
        Ok(Drained { rows, keys: self.groups.drain()?, values: self.accumulators.results()? })
    }

    /// Keys and states; the block is empty afterwards.
    pub fn drain_states(&mut self) -> Result<Drained> {
        let rows = self.len();
        Ok(Drained { rows, keys: self.groups.drain()?, values: self.accumulators.states()? })
    }
}

/// What a block held.
#[derive(Clone)]
pub struct Drained {
    /// How many groups.
    pub rows: usize,
    /// The key columns.
    pub keys: Vec<ArrayRef>,
    /// The results or the states.
    pub values: Vec<ArrayRef>,
}
