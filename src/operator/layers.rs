//! A window's state in layers: frozen partial results under a block that takes what is new.
//!
//! What is new can so be given away without looking at the rest: the block's states become one more frozen layer, which shares its memory
//! with what was given. Layers of like size are merged, so there are about as many as the state has doublings. A window that
//! never froze is its block and nothing else.

use super::block::{Block, Drained};
use crate::batch::Batch;
use crate::error::Result;
use crate::plan::Aggregation;
use std::sync::Arc;

/// The layers.
#[derive(Default)]
pub struct Layers {
    /// Oldest first.
    frozen: Vec<Drained>,
    fresh: Option<Block>,
}

impl Layers {
    /// The layers of a window whose only one is `block`.
    pub fn of(block: Block) -> Self {
        Layers { frozen: Vec::new(), fresh: Some(block) }
    }

    /// The block for what is new.
    pub fn fresh(&mut self, spec: &Arc<Aggregation>) -> Result<&mut Block> {
        if self.fresh.is_none() {
            self.fresh = Some(Block::new(spec)?);
        }
        Ok(self.fresh.as_mut().expect("it was just made"))
    }

    /// Puts the key and state columns of `rows` on top, as they are; see [`Layers::settle`].
    pub fn put(&mut self, keys: usize, rows: &Batch) {
        let (keys, values) = rows.columns().split_at(keys);
        self.frozen.push(Drained { rows: rows.num_rows(), keys: keys.to_vec(), values: values.to_vec() });
    }

    /// Freezes what is new, and gives it; none if there is nothing new.
    pub fn freeze(&mut self, spec: &Arc<Aggregation>) -> Result<Option<Drained>> {
        let Some(mut block) = self.fresh.take().filter(|block| !block.is_empty()) else { return Ok(None) };
        let new = block.drain_states()?;
        self.frozen.push(new.clone());
        while let [.., older, newer] = self.frozen.as_slice()
            && older.rows <= 2 * newer.rows
        {
            self.merge(self.frozen.len() - 2, spec)?;
        }
        Ok(Some(new))
    }

    /// Makes one frozen layer of all, and gives it; none if they are empty.
    pub fn settle(&mut self, spec: &Arc<Aggregation>) -> Result<Option<Drained>> {
        self.freeze(spec)?;
        if self.frozen.len() > 1 {
            self.merge(0, spec)?;
        }
        Ok(self.frozen.first().cloned())
    }

    /// One block of all. Older layers come first, as their rows did.
    pub fn into_block(mut self, spec: &Arc<Aggregation>) -> Result<Block> {
        match self.fresh.take() {
            Some(block) if self.frozen.is_empty() => Ok(block),
            fresh => {
                if let Some(mut block) = fresh {
                    self.frozen.push(block.drain_states()?);
                }
                merged(self.frozen, spec)
            }
        }
    }

    fn merge(&mut self, first: usize, spec: &Arc<Aggregation>) -> Result<()> {
        let merged = merged(self.frozen.drain(first..), spec)?.drain_states()?;
        self.frozen.push(merged);
        Ok(())
    }
}

fn merged(layers: impl IntoIterator<Item = Drained>, spec: &Arc<Aggregation>) -> Result<Block> {
    let mut block = Block::new(spec)?;
    for Drained { rows, keys, values } in layers.into_iter().filter(|layer| layer.rows > 0) {
        block.merge(&keys, &values, rows)?;
    }
    Ok(block)
}
