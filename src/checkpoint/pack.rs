//! Columns in less room, for little work: what a delta holds is much alike.
//!
//! A column of one value is that value and the number of rows (run-end encoded, with one run); whole numbers take as many bytes as
//! the greatest of them needs; of views, which have 16 bytes whatever they show, the bytes are put one behind the other. Each packed
//! column says in its field's metadata what it was, so nothing else has to know.

use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RunArray, UInt32Array};
use arrow::compute::{cast, max, min, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, UInt64Type};
use std::sync::Arc;

/// The key in a field's metadata under which stands what its column was.
const WAS: &str = "highwater.was";
const CONSTANT: &str = "constant";

/// Rows that are not worth the trouble.
const ROWS_MIN: usize = 64;

/// The most rows for which one value is stored: a few bytes must not ask for any amount of memory.
const ROWS_MAX: usize = 1 << 27;

/// The rows of `batch`, packed. They take no more memory than they show, also where `batch` is a slice of something large.
pub fn pack(batch: &Batch) -> Result<Batch> {
    let schema = batch.schema();
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        match packed(column)? {
            Some((was, column)) => {
                let mut metadata = field.metadata().clone();
                metadata.insert(WAS.into(), was.into());
                let field = Field::new(field.name(), column.data_type().clone(), field.is_nullable());
                fields.push(Arc::new(field.with_metadata(metadata)));
                columns.push(column);
            }
            None => {
                fields.push(Arc::clone(field));
                columns.push(Arc::clone(column));
            }
        }
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    batch_of(Arc::new(schema), columns, batch.num_rows())
}

/// What `column` becomes, and what it was; none if it stays.
fn packed(column: &ArrayRef) -> Result<Option<(&'static str, ArrayRef)>> {
    let cast_to = |to: &DataType| cast(column, to).map_err(from_arrow);
    if (ROWS_MIN..=ROWS_MAX).contains(&column.len()) && is_constant(column) {
        let first = take(column, &UInt32Array::from(vec![0]), None).map_err(from_arrow)?;
        let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![column.len() as i32]), &first);
        return Ok(Some((CONSTANT, Arc::new(runs.map_err(from_arrow)?))));
    }
    Ok(match column.data_type() {
        DataType::Utf8View => Some(("Utf8View", cast_to(&DataType::Utf8)?)),
        DataType::BinaryView => Some(("BinaryView", cast_to(&DataType::Binary)?)),
        DataType::Int64 if column.len() >= ROWS_MIN => {
            let values = column.as_primitive::<Int64Type>();
            let narrow = match (min(values), max(values)) {
                (Some(least), Some(greatest)) if least >= 0 => narrowest(greatest as u64),
                _ => None,
            };
            narrow.map(|narrow| Ok(("Int64", cast_to(&narrow)?))).transpose()?
        }
        DataType::UInt64 if column.len() >= ROWS_MIN => {
            let narrow = max(column.as_primitive::<UInt64Type>()).and_then(narrowest);
            narrow.map(|narrow| Ok(("UInt64", cast_to(&narrow)?))).transpose()?
        }
        _ => None,
    })
}

fn narrowest(greatest: u64) -> Option<DataType> {
    match greatest {
        0..=0xff => Some(DataType::UInt8),
        0x100..=0xffff => Some(DataType::UInt16),
        0x1_0000..=0xffff_ffff => Some(DataType::UInt32),
        _ => None,
    }
}

/// True if all rows have the value of the first. Looked for where it is likely: the bounds of windows, and numbers.
fn is_constant(column: &ArrayRef) -> bool {
    let Some(width) = column.data_type().primitive_width().filter(|_| column.null_count() == 0) else { return false };
    let data = column.to_data();
    let bytes =
        data.buffers().first().and_then(|values| values.get(data.offset() * width..)?.get(..data.len() * width));
    bytes.is_some_and(|bytes| bytes[width..] == bytes[..bytes.len() - width])
}

/// What [`pack`] was given.
///
/// # Errors
/// `Corrupt` for columns that it has not made.
pub fn unpack(batch: &Batch) -> Result<Batch> {
    let schema = batch.schema();
    if schema.fields().iter().all(|field| !field.metadata().contains_key(WAS)) {
        return Ok(batch.clone());
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let mut metadata = field.metadata().clone();
        let Some(was) = metadata.remove(WAS) else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        };
        let column = unpacked(&was, column).ok_or_else(|| {
            Error::corrupt(format!("its column \"{}\" is not packed as it says: {was:?}", field.name()))
        })?;
        let field = Field::new(field.name(), column.data_type().clone(), field.is_nullable());
        fields.push(Arc::new(field.with_metadata(metadata)));
        columns.push(column);
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    batch_of(Arc::new(schema), columns, batch.num_rows())
        .map_err(|error| Error::corrupt("its columns do not fit").caused_by(error))
}

/// None if it cannot be so.
fn unpacked(was: &str, column: &ArrayRef) -> Option<ArrayRef> {
    let narrow = matches!(column.data_type(), DataType::UInt8 | DataType::UInt16 | DataType::UInt32);
    match (was, column.data_type()) {
        (CONSTANT, DataType::RunEndEncoded(..)) => {
            let runs = column.as_run_opt::<Int32Type>()?;
            let one = runs.values().len() == 1 && runs.offset() == 0 && column.len() <= ROWS_MAX;
            let rows = UInt32Array::from(vec![0; column.len()]);
            one.then(|| take(runs.values(), &rows, None).ok()).flatten()
        }
        ("Utf8View", DataType::Utf8) => cast(column, &DataType::Utf8View).ok(),
        ("BinaryView", DataType::Binary) => cast(column, &DataType::BinaryView).ok(),
        ("Int64", _) if narrow => cast(column, &DataType::Int64).ok(),
        ("UInt64", _) if narrow => cast(column, &DataType::UInt64).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryViewArray, Int64Array, StringViewArray, TimestampMicrosecondArray, UInt64Array};

    fn check(column: ArrayRef, packed: &DataType) {
        let field = Field::new("c", column.data_type().clone(), true)
            .with_metadata([("of".to_owned(), "the user's".to_owned())].into());
        let schema = Arc::new(Schema::new(vec![field]));
        let batch = Batch::try_new(schema, vec![column]).unwrap();
        let small = pack(&batch).unwrap();
        assert_eq!(small.column(0).data_type(), packed);
        assert_eq!(unpack(&small).unwrap(), batch);
    }

    #[test]
    fn columns_come_back_as_they_were() {
        let int = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let numbers = |greatest: i64| int((0..100).map(|n| (n % 7 > 0).then_some(n * greatest / 99)).collect());
        check(numbers(255), &DataType::UInt8);
        check(numbers(256), &DataType::UInt16);
        check(numbers(65_536), &DataType::UInt32);
        check(numbers(1 << 32), &DataType::Int64);
        check(numbers(-1), &DataType::Int64);
        check(int(vec![Some(1); 10]), &DataType::Int64);
        check(int(vec![None; 100]), &DataType::Int64);
        check(Arc::new(UInt64Array::from_iter_values((0..100).map(|n| n * 600))), &DataType::UInt16);
        check(Arc::new(UInt64Array::from_iter_values((0..100).map(|n| u64::MAX - n))), &DataType::UInt64);
        let words = || (0..100).map(|n| (n % 5 > 0).then(|| "word, a long one, ".repeat(n % 3)));
        check(Arc::new(StringViewArray::from_iter(words())), &DataType::Utf8);
        check(Arc::new(BinaryViewArray::from_iter(words())), &DataType::Binary);
    }

    #[test]
    fn a_column_of_one_value_is_that_value() {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_value(17, 1000).with_timezone("UTC"));
        let batch = Batch::try_from_iter([("t", Arc::clone(&times))]).unwrap();
        let small = pack(&batch).unwrap();
        assert!(matches!(small.column(0).data_type(), DataType::RunEndEncoded(..)));
        assert!(small.get_array_memory_size() < 1000, "{}", small.get_array_memory_size());
        assert_eq!(unpack(&small).unwrap(), batch);
        let slice = batch.slice(10, 500);
        assert_eq!(unpack(&pack(&slice).unwrap()).unwrap(), slice);
    }

    #[test]
    fn what_is_not_packed_as_it_says_is_corrupt() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        for was in [CONSTANT, "Utf8View", "BinaryView", "Int64", "UInt64", "something"] {
            let field =
                Field::new("c", DataType::Int64, false).with_metadata([(WAS.to_owned(), was.to_owned())].into());
            let batch = Batch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(&column)]).unwrap();
            assert_eq!(unpack(&batch).unwrap_err().kind(), crate::error::ErrorKind::Corrupt);
        }
    }
}
