//! Changes: rows whose last column is a weight, +1 for one that is added and -1 for one that is taken back.

use super::{Batch, batch_of, from_arrow, take_rows};
use crate::error::Result;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use std::sync::Arc;

/// What encodes whole rows so that they are compared and kept as bytes.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a type that cannot be compared.
pub fn row_converter(columns: &[ArrayRef]) -> Result<RowConverter> {
    RowConverter::new(columns.iter().map(|column| SortField::new(column.data_type().clone())).collect())
        .map_err(from_arrow)
}

/// The weights of changes.
pub fn weights(changes: &Batch) -> &[i64] {
    changes.column(changes.num_columns() - 1).as_primitive::<Int64Type>().values()
}

/// `rows` with a weight of 1 each; `schema` has the weight.
pub fn added(rows: &Batch, schema: &SchemaRef) -> Result<Batch> {
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(1, rows.num_rows())));
    batch_of(Arc::clone(schema), columns, rows.num_rows())
}

/// The rows that consolidated changes leave standing, without weights: each as often as its weight says.
pub fn standing(changes: &Batch) -> Result<Batch> {
    let copies = weights(changes).iter().enumerate();
    let copies =
        copies.flat_map(|(row, weight)| std::iter::repeat_n(row as u32, usize::try_from(*weight).unwrap_or(0)));
    let rows = take_rows(changes, copies.collect())?;
    rows.project(&(0..rows.num_columns() - 1).collect::<Vec<_>>()).map_err(from_arrow)
}

/// The same changes with weights of 1 and -1 only.
pub fn single(changes: Batch) -> Result<Batch> {
    let before = weights(&changes);
    if before.iter().all(|weight| weight.abs() == 1) {
        return Ok(changes);
    }
    let copies = before.iter().enumerate();
    let copies: Vec<u32> =
        copies.flat_map(|(row, weight)| std::iter::repeat_n(row as u32, weight.unsigned_abs() as usize)).collect();
    let signs: Int64Array = copies.iter().map(|row| before[*row as usize].signum()).collect();
    let rows = take_rows(&changes, copies)?;
    let mut columns = rows.columns().to_vec();
    *columns.last_mut().expect("changes have a weight") = Arc::new(signs);
    batch_of(changes.schema(), columns, rows.num_rows())
}

/// `changes` with the opposite weights.
pub fn negated(changes: &Batch) -> Result<Batch> {
    let mut columns = changes.columns().to_vec();
    let opposite: Int64Array = weights(changes).iter().map(|weight| -weight).collect();
    *columns.last_mut().expect("changes have a weight") = Arc::new(opposite);
    batch_of(changes.schema(), columns, changes.num_rows())
}

/// What `changes` sum to: equal rows once, with the sum of their weights, which is never 0, in the order of their bytes.
pub fn consolidated(changes: &[Batch], schema: &SchemaRef) -> Result<Batch> {
    let all = concat_batches(schema, changes).map_err(from_arrow)?;
    let rows = all.num_rows();
    let values = &all.columns()[..all.num_columns() - 1];
    let weights = weights(&all);
    let mut order: Vec<u32> = (0..rows as u32).collect();
    let mut picked: Vec<u32> = Vec::with_capacity(rows);
    let mut sums: Vec<i64> = Vec::with_capacity(rows);
    if values.is_empty() {
        let sum: i64 = weights.iter().sum();
        if sum != 0 {
            picked.push(0);
            sums.push(sum);
        }
    } else {
        let encoded = row_converter(values)?.convert_columns(values).map_err(from_arrow)?;
        order.sort_unstable_by(|a, b| encoded.row(*a as usize).cmp(&encoded.row(*b as usize)));
        for run in order.chunk_by(|a, b| encoded.row(*a as usize) == encoded.row(*b as usize)) {
            let sum: i64 = run.iter().map(|row| weights[*row as usize]).sum();
            if sum != 0 {
                picked.push(run[0]);
                sums.push(sum);
            }
        }
    }
    let count = picked.len();
    let mut columns = take_rows(&all, picked)?.columns().to_vec();
    *columns.last_mut().expect("changes have a weight") = Arc::new(Int64Array::from(sums));
    batch_of(Arc::clone(schema), columns, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;
    use arrow::datatypes::{DataType, Field, Schema};

    fn schema() -> SchemaRef {
        let fields = vec![Field::new("name", DataType::Utf8, false), Field::new("weight", DataType::Int64, false)];
        Arc::new(Schema::new(fields))
    }

    fn changes(rows: &[(&str, i64)]) -> Batch {
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(name, _)| name)));
        let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, weight)| *weight)));
        batch_of(schema(), vec![names, weights], rows.len()).unwrap()
    }

    #[test]
    fn equal_rows_are_one_with_the_sum_of_their_weights() {
        let some = [changes(&[("b", 1), ("a", 1), ("c", -1)]), changes(&[("b", -1), ("a", 2), ("c", -1)])];
        let sum = consolidated(&some, &schema()).unwrap();
        assert_eq!(sum, changes(&[("a", 3), ("c", -2)]));
        let nothing = consolidated(&[sum.clone(), negated(&sum).unwrap()], &schema()).unwrap();
        assert_eq!(nothing.num_rows(), 0);
    }
}
