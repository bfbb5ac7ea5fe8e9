//! Changes of rows as rows of their own: what a record of a change stream says.
//!
//! A batch of changes has two columns, `before` and `after`, each a struct of the row's columns that is NULL where there is no such row.
//! A change with `after` alone adds a row, with `before` alone takes it back, with both replaces it, with none is nothing.
//!
//! ```text
//! record ─ Decode ─▶ change ─ opened ─▶ rows with weights          rows with weights ─ closed ─▶ change ─ Encode ─▶ record
//! ```

use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StructArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use std::sync::Arc;

/// The columns of changes of rows with the columns of `row`.
pub fn schema(row: &Schema) -> SchemaRef {
    let side = |name| Field::new(name, DataType::Struct(row.fields().clone()), true);
    Arc::new(Schema::new(vec![side("before"), side("after")]))
}

/// The rows that `changes` take back and add, in order, with the columns of `weighted`: the row's, and the weight; and for each of
/// them the change that it comes from.
pub fn opened(changes: &Batch, weighted: &SchemaRef) -> Result<(Batch, Vec<usize>)> {
    let [before, after] = sides(changes)?;
    let (mut picks, mut weights, mut origins) = (Vec::new(), Vec::new(), Vec::new());
    for change in 0..changes.num_rows() {
        for (side, (rows, weight)) in [(before, -1), (after, 1)].into_iter().enumerate() {
            if rows.is_valid(change) {
                picks.push((side, change));
                weights.push(weight);
                origins.push(change);
            }
        }
    }
    let column = |column: usize| {
        let sides: [&dyn Array; 2] = [before.column(column).as_ref(), after.column(column).as_ref()];
        interleave(&sides, &picks).map_err(from_arrow)
    };
    let mut columns = (0..before.num_columns()).map(column).collect::<Result<Vec<_>>>()?;
    columns.push(Arc::new(Int64Array::from(weights)));
    Ok((batch_of(Arc::clone(weighted), columns, origins.len())?, origins))
}

fn sides(changes: &Batch) -> Result<[&StructArray; 2]> {
    match changes.columns() {
        [before, after] => before.as_struct_opt().zip(after.as_struct_opt()).map(|(before, after)| [before, after]),
        _ => None,
    }
    .ok_or_else(|| Error::internal(format!("these are no changes: {:?}", changes.schema())))
}

/// The changes that `rows` say, and for each of them one of the rows: the one that is added, if there is one. The rows have the columns
/// `fields`, and the weight last; without a weight all are added. A row that is taken back directly before one with the same `key`
/// columns is replaced by it; without a key no row replaces another.
pub fn closed(rows: &Batch, fields: &Fields, key: &[usize]) -> Result<(Batch, UInt32Array)> {
    let pairs = pairs(rows, fields.len(), key)?;
    let side = |of: fn(&Pair) -> Option<u32>| -> Result<ArrayRef> {
        let picks: UInt32Array = pairs.iter().map(of).collect();
        let columns = rows.columns()[..fields.len()].iter();
        let columns =
            columns.map(|column| take(column, &picks, None).map_err(from_arrow)).collect::<Result<Vec<_>>>()?;
        let valid = NullBuffer::from_iter(picks.iter().map(|pick| pick.is_some()));
        let nullable = fields.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Fields>();
        let side = StructArray::try_new_with_length(nullable, columns, Some(valid), pairs.len());
        Ok(Arc::new(side.map_err(from_arrow)?))
    };
    let (before, after) = (side(|pair| pair.before)?, side(|pair| pair.after)?);
    let field = |name, column: &ArrayRef| Field::new(name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field("before", &before), field("after", &after)]));
    let shown = pairs.iter().filter_map(|pair| pair.after.or(pair.before)).collect();
    Ok((batch_of(schema, vec![before, after], pairs.len())?, shown))
}

/// A change, by its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    before: Option<u32>,
    after: Option<u32>,
}

fn pairs(rows: &Batch, columns: usize, key: &[usize]) -> Result<Vec<Pair>> {
    let Some(weights) = rows.columns().get(columns) else {
        return Ok((0..rows.num_rows() as u32).map(|row| Pair { before: None, after: Some(row) }).collect());
    };
    let weights = weights.as_primitive_opt::<Int64Type>().ok_or_else(|| Error::internal("a weight is a number"))?;
    let keys = match key.is_empty() {
        true => None,
        false => {
            let fields = key.iter().map(|column| SortField::new(rows.column(*column).data_type().clone())).collect();
            let columns: Vec<ArrayRef> = key.iter().map(|column| Arc::clone(rows.column(*column))).collect();
            let converter = RowConverter::new(fields).map_err(from_arrow)?;
            Some(converter.convert_columns(&columns).map_err(from_arrow)?)
        }
    };
    let mut pairs: Vec<Pair> = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let weight = weights.value(row);
        let at = Some(row as u32);
        let replaces = weight == 1
            && row > 0
            && weights.value(row - 1) == -1
            && keys.as_ref().is_some_and(|keys| keys.row(row - 1) == keys.row(row));
        match pairs.last_mut() {
            Some(last) if replaces => last.after = at,
            _ => {
                let (before, after) = if weight < 0 { (at, None) } else { (None, at) };
                let times = usize::try_from(weight.unsigned_abs()).unwrap_or(usize::MAX);
                pairs.extend(std::iter::repeat_n(Pair { before, after }, times));
            }
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;

    fn rows(all: &[(&str, i64, i64)]) -> Batch {
        let names: ArrayRef = Arc::new(all.iter().map(|row| Some(row.0)).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(all.iter().map(|row| row.1).collect::<Int64Array>());
        let weights: ArrayRef = Arc::new(all.iter().map(|row| row.2).collect::<Int64Array>());
        let field = |name, kind| Field::new(name, kind, false);
        let schema = Schema::new(vec![
            field("name", DataType::Utf8),
            field("n", DataType::Int64),
            field("__weight", DataType::Int64),
        ]);
        Batch::try_new(Arc::new(schema), vec![names, numbers, weights]).unwrap()
    }

    /// What `all` become with `key`, each change as its rows.
    fn check(all: &[(&str, i64, i64)], key: &[usize], expected: &[(Option<u32>, Option<u32>)]) {
        let found = pairs(&rows(all), 2, key).unwrap();
        assert_eq!(found.iter().map(|pair| (pair.before, pair.after)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_row_replaces_the_one_of_its_key_that_is_taken_back_directly_before_it() {
        let all = [("a", 1, -1), ("a", 2, 1), ("b", 3, -1), ("c", 4, 1)];
        check(&all, &[0], &[(Some(0), Some(1)), (Some(2), None), (None, Some(3))]);
        check(&all, &[], &[(Some(0), None), (None, Some(1)), (Some(2), None), (None, Some(3))]);
        check(&[("a", 1, 2), ("a", 2, 1)], &[0], &[(None, Some(0)), (None, Some(0)), (None, Some(1))]);
    }

    #[test]
    fn changes_that_are_closed_and_opened_are_what_they_were() {
        let all = rows(&[("a", 1, -1), ("a", 2, 1), ("b", 3, -1), ("c", 4, 1), ("c", 5, 1)]);
        let fields = all.schema().fields()[..2].iter().cloned().collect::<Fields>();
        let (changes, shown) = closed(&all, &fields, &[0]).unwrap();
        assert_eq!(changes.num_rows(), 4);
        assert_eq!(shown.values(), &[1, 2, 3, 4]);
        let (again, origins) = opened(&changes, &all.schema()).unwrap();
        assert_eq!(again, all);
        assert_eq!(origins, [0, 0, 1, 2, 3]);
    }

    #[test]
    fn rows_without_weights_are_added() {
        let all = rows(&[("a", 1, 1), ("b", 2, 1)]).project(&[0, 1]).unwrap();
        let fields = all.schema().fields().clone();
        let (changes, _) = closed(&all, &fields, &[0]).unwrap();
        assert_eq!(changes.column(0).null_count(), 2);
        assert_eq!(changes.column(1).null_count(), 0);
    }
}
