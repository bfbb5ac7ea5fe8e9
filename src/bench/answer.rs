//! What came out, in a form that can be compared whatever the order and the process it came out in.

use crate::batch::changes::weights;
use crate::batch::{Batch, from_arrow};
use crate::error::Result;
use crate::plan::WEIGHT;
use arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A bag of rows: their number and the sum of their hashes, which may wrap. Of changes it is the bag that they leave.
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
            let changes = batch.schema().fields().last().is_some_and(|field| field.name() == WEIGHT);
            let columns = &batch.columns()[..batch.num_columns() - usize::from(changes)];
            let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
            let converter = RowConverter::new(fields).map_err(from_arrow)?;
            let rows = converter.convert_columns(columns).map_err(from_arrow)?;
            let weight = |row: usize| if changes { weights(batch)[row] } else { 1 };
            let mut of_batch = Answer::default();
            for (number, row) in rows.iter().enumerate() {
                let weight = weight(number).cast_unsigned();
                let digest = xxh3_64(row.as_ref()).wrapping_mul(weight);
                of_batch = of_batch.and(Answer { rows: weight, digest });
            }
            answer = answer.and(of_batch);
        }
        Ok(answer)
    }

    /// Both bags in one.
    pub fn and(self, other: Answer) -> Answer {
        Answer { rows: self.rows.wrapping_add(other.rows), digest: self.digest.wrapping_add(other.digest) }
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

    #[test]
    fn changes_are_what_they_leave() {
        let batch = |rows: &[(i64, i64)]| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(number, _)| *number)));
            let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, weight)| *weight)));
            Batch::try_from_iter([("n", numbers), (WEIGHT, weights)]).unwrap()
        };
        let answer = |batches: &[Batch]| Answer::of(batches).unwrap();
        let changes = [batch(&[(1, 1), (2, 1)]), batch(&[(1, -1), (3, 1)])];
        assert_eq!(answer(&changes), answer(&[batch(&[(2, 1), (3, 1)])]));
        assert_eq!(answer(&changes).rows, 2);
    }
}
