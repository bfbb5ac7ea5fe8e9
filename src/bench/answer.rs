//! What came out, in a form that can be compared whatever the order and the process it came out in.

use crate::batch::{Batch, from_arrow};
use crate::error::Result;
use arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A bag of rows: their number and the sum of their hashes, which may wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// How many rows.
    pub rows: u64,
    /// The sum of their hashes.
    pub digest: u64,
}

impl Answer {
    /// The rows of all `batches`, which have the same types.
    pub fn of<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Result<Self> {
        let mut answer = Answer::default();
        for batch in batches {
            let fields = batch.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
            let converter = RowConverter::new(fields).map_err(from_arrow)?;
            let rows = converter.convert_columns(batch.columns()).map_err(from_arrow)?;
            let digest = rows.iter().fold(0, |sum: u64, row| sum.wrapping_add(xxh3_64(row.as_ref())));
            answer = answer.and(Answer { rows: batch.num_rows() as u64, digest });
        }
        Ok(answer)
    }

    /// Both bags in one.
    pub fn and(self, other: Answer) -> Answer {
        Answer { rows: self.rows + other.rows, digest: self.digest.wrapping_add(other.digest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    #[test]
    fn order_and_batches_do_not_matter_but_rows_do() {
        let batch = |numbers: &[i64]| {
            let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
            Batch::try_from_iter([("n", column)]).unwrap()
        };
        let answer = |batches: &[Batch]| Answer::of(batches).unwrap();
        assert_eq!(answer(&[batch(&[1, 2, 2])]), answer(&[batch(&[2]), batch(&[2, 1])]));
        assert_ne!(answer(&[batch(&[1, 2, 2])]), answer(&[batch(&[1, 2])]));
        assert_ne!(answer(&[batch(&[1, 2, 2])]), answer(&[batch(&[1, 1, 2])]));
    }
}
