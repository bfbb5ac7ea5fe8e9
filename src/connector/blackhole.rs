//! `blackhole`: counts rows and drops them, to measure what comes before it.

use super::{Changes, Context, Shard, Sink};
use crate::batch::Batch;
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A sink that keeps nothing but the number of its rows. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Blackhole {
    rows: Arc<AtomicU64>,
}

impl Blackhole {
    /// The rows that were dropped so far, by all shards of this process.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Sink for Blackhole {
    fn single(&self) -> bool {
        false
    }

    fn open(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Shard>> {
        Ok(Box::new(self.clone()))
    }

    fn changes(&self) -> Changes {
        Changes::All
    }
}

impl Shard for Blackhole {
    fn write(&mut self, rows: Batch) -> Result<()> {
        self.rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        Ok(true)
    }
}
