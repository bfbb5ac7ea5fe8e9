//! Arrow's buffers in a guest's memory: the layout that `call_raw` and aggregates speak.
//!
//! A column is a record of three addresses, 32 bits each: validity (0 where every value is there), values, offsets (0 where values have
//! one width). The buffers are Arrow's, from row 0 on: bits from the lowest, numbers with the lowest byte first, offsets of 32 bits.

use crate::error::{Error, Result};
use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::{DataType, ToByteSlice};

/// Bytes of a column's record.
const RECORD: usize = 12;

/// Where buffers start: at multiples of this.
pub(super) const ALIGNMENT: usize = 16;

/// True for the types whose columns have no columns in them.
pub(super) fn is_plain(data_type: &DataType) -> bool {
    data_type.primitive_width().is_some() || matches!(data_type, DataType::Boolean | DataType::Utf8 | DataType::Binary)
}

fn has_offsets(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Binary)
}

/// Columns as they will lie in memory, at an address that is not known yet.
pub(super) struct Packed {
    /// For each column its validity, values and offsets.
    columns: Vec<[Option<Buffer>; 3]>,
}

impl Packed {
    pub fn new(columns: &[ArrayRef]) -> Result<Self> {
        columns.iter().map(parts).collect::<Result<_>>().map(|columns| Packed { columns })
    }

    /// How many bytes they take.
    pub fn size(&self) -> usize {
        let buffers = self.columns.iter().flatten().flatten();
        buffers.map(|buffer| aligned(buffer.len())).sum::<usize>() + aligned(self.columns.len() * RECORD)
    }

    /// Writes them to `memory`, which starts at `address` and has their size.
    pub fn write(&self, address: u32, memory: &mut [u8]) {
        let mut next = aligned(self.columns.len() * RECORD);
        for (number, column) in self.columns.iter().enumerate() {
            for (part, buffer) in column.iter().enumerate() {
                let at = match buffer {
                    None => 0,
                    Some(buffer) => {
                        memory[next..next + buffer.len()].copy_from_slice(buffer);
                        let at = next;
                        next += aligned(buffer.len());
                        address + u32::try_from(at).expect("a guest's memory has 32 bits of addresses")
                    }
                };
                let record = number * RECORD + part * 4;
                memory[record..record + 4].copy_from_slice(&at.to_le_bytes());
            }
        }
    }
}

fn aligned(bytes: usize) -> usize {
    // a column without bytes has an address that is not 0 and its own
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

/// The buffers of a column, from its first row to its last and no further.
fn parts(column: &ArrayRef) -> Result<[Option<Buffer>; 3]> {
    let data = column.to_data();
    let (start, rows) = (data.offset(), data.len());
    let validity = data.nulls().filter(|nulls| nulls.null_count() > 0).map(|nulls| nulls.inner().sliced());
    let buffers = data.buffers();
    let (values, offsets) = match data.data_type() {
        DataType::Boolean => (BooleanBuffer::new(buffers[0].clone(), start, rows).sliced(), None),
        DataType::Utf8 | DataType::Binary => {
            let offsets = &buffers[0].typed_data::<i32>()[start..=start + rows];
            let (first, last) = (offsets[0], offsets[rows]);
            let number = |n: i32| usize::try_from(n).expect("offsets are not negative");
            let values = buffers[1].slice_with_length(number(first), number(last - first));
            let moved: Vec<i32> = offsets.iter().map(|offset| offset - first).collect();
            (values, Some(Buffer::from(moved.to_byte_slice())))
        }
        other => {
            let width = other.primitive_width().ok_or_else(|| Error::internal(format!("a column of {other}")))?;
            (buffers[0].slice_with_length(start * width, rows * width), None)
        }
    };
    Ok([validity, Some(values), offsets])
}

/// The columns that the records at `address` describe, of these types and numbers of rows.
///
/// # Errors
/// What is wrong with them, in words that follow "it gave".
pub(super) fn read(memory: &[u8], address: u32, columns: &[(&DataType, usize)]) -> Result<Vec<ArrayRef>, String> {
    let column = |(number, (data_type, rows)): (usize, &(&DataType, usize))| {
        let record = bytes(memory, address as usize + number * RECORD, RECORD, "a record")?;
        let field = |part: usize| u32::from_le_bytes(record[part * 4..][..4].try_into().expect("it has four bytes"));
        let (validity, values, offsets) = (field(0), field(1) as usize, field(2) as usize);
        let mut column = ArrayData::builder((*data_type).clone()).len(*rows);
        if validity != 0 {
            let bits = bytes(memory, validity as usize, rows.div_ceil(8), "validity")?;
            column = column.null_bit_buffer(Some(Buffer::from(bits)));
        }
        let width = match data_type {
            DataType::Boolean => rows.div_ceil(8),
            data_type if has_offsets(data_type) => {
                let offsets = bytes(memory, offsets, (rows + 1) * 4, "offsets")?;
                let last = i32::from_le_bytes(offsets[rows * 4..].try_into().expect("it has four bytes"));
                column = column.add_buffer(Buffer::from(offsets));
                usize::try_from(last).map_err(|_| format!("an offset of {last}"))?
            }
            data_type => rows * data_type.primitive_width().ok_or_else(|| format!("a column of {data_type}"))?,
        };
        let column = column.add_buffer(Buffer::from(bytes(memory, values, width, "values")?));
        column.build().map(make_array).map_err(|error| format!("a column that is none: {error}"))
    };
    columns.iter().enumerate().map(column).collect()
}

/// `length` bytes of `memory` from `address` on.
pub(super) fn bytes<'m>(memory: &'m [u8], address: usize, length: usize, what: &str) -> Result<&'m [u8], String> {
    let end = address.checked_add(length);
    end.and_then(|end| memory.get(address..end)).ok_or_else(|| {
        let size = memory.len();
        format!("{what} of {length} bytes at {address}, which is outside of its memory of {size} bytes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int8Array, StringArray, TimestampMicrosecondArray,
    };
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::sync::Arc;

    /// Columns of all shapes, with NULLs or without.
    fn columns(random: &mut StdRng, rows: usize) -> Vec<ArrayRef> {
        let nulls = *[0.0, 0.3, 1.0].get(random.random_range(0..3)).expect("there are three");
        let mut numbers = || (0..rows).map(|_| (!random.random_bool(nulls)).then(|| random.random::<i64>())).collect();
        let mut some = || -> Vec<Option<i64>> { numbers() };
        let text = |n: i64| "ß水".repeat(n.rem_euclid(4) as usize);
        vec![
            Arc::new(some().into_iter().collect::<arrow::array::Int64Array>()),
            Arc::new(some().into_iter().map(|n| n.map(|n| n as i8)).collect::<Int8Array>()),
            Arc::new(some().into_iter().map(|n| n.map(|n| n > 0)).collect::<BooleanArray>()),
            Arc::new(some().into_iter().map(|n| n.map(|n| n as f64)).collect::<Float64Array>()),
            Arc::new(some().into_iter().map(|n| n.map(i128::from)).collect::<Decimal128Array>()),
            Arc::new(some().into_iter().map(|n| n.map(text)).collect::<StringArray>()),
            Arc::new(some().into_iter().map(|n| n.map(|n| n.to_le_bytes().to_vec())).collect::<BinaryArray>()),
            Arc::new(some().into_iter().collect::<TimestampMicrosecondArray>()),
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let rows = random.random_range(1..100);
            let (from, to) = (random.random_range(0..rows), random.random_range(0..=rows));
            let slice = |column: ArrayRef| column.slice(from.min(to), from.max(to) - from.min(to));
            let columns: Vec<ArrayRef> = columns(&mut random, rows).into_iter().map(slice).collect();
            let packed = Packed::new(&columns).unwrap();
            let start = 16 * random.random_range(1..100);
            // what lay there before must not matter
            let mut memory = vec![0xa5; start + packed.size()];
            packed.write(start as u32, &mut memory[start..]);
            let wanted: Vec<(&DataType, usize)> = columns.iter().map(|c| (c.data_type(), c.len())).collect();
            let found = read(&memory, start as u32, &wanted).unwrap();
            assert_eq!(found, columns, "seed {seed}");
        }
    }

    #[test]
    fn records_of_any_bytes_are_columns_or_errors() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let types: Vec<DataType> = columns(&mut random, 1).iter().map(|column| column.data_type().clone()).collect();
        let mut columns = 0;
        for _ in 0..2000 {
            let size = random.random_range(0..400);
            // small numbers, so that some are addresses
            let memory: Vec<u8> =
                (0..size).map(|at| if at % 4 < 1 || random.random_bool(0.01) { random.random() } else { 0 }).collect();
            let rows = random.random_range(0..20);
            for data_type in &types {
                match read(&memory, random.random_range(0..100), &[(data_type, rows)]) {
                    Ok(found) => {
                        found[0].to_data().validate_full().unwrap();
                        columns += 1;
                    }
                    Err(wrong) => assert!(!wrong.is_empty()),
                }
            }
        }
        assert!(columns > 100, "seed {seed}: only {columns} were columns");
    }
}
