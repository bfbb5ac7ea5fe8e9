//! `values`: the rows that a query itself holds, `VALUES (…), (…)`. One split, which ends with them.

use super::memory::MemorySource;
use super::{Context, Source, Split, SplitStart};
use crate::batch::{Batch, wire};
use crate::error::Result;
use arrow::datatypes::SchemaRef;

/// Rows of a query's text.
#[derive(Debug, Clone)]
pub struct Values {
    rows: MemorySource,
    digest: [u8; 32],
}

impl Values {
    /// These rows.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::error::ErrorKind::Internal) for types that cannot travel between workers.
    pub fn new(rows: Batch) -> Result<Self> {
        let digest = *blake3::hash(&wire::Encoder::default().encode(&rows)?).as_bytes();
        Ok(Values { rows: MemorySource::new(rows.schema(), vec![rows], 1), digest })
    }
}

impl Source for Values {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(self.digest)
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.rows.splits(context)
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        self.rows.open(splits, context)
    }
}
