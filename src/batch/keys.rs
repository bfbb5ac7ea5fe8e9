//! Which worker a row belongs to.
//!
//! Row → hash of its key columns → key group `hash % 4096` → worker, by contiguous ranges of groups. The hash is XXH3
//! with 64 bits over the key's bytes: the first column is hashed with seed 0, each further one with the hash so far as
//! its seed. A value's bytes are its UTF-8 or binary content, or its little-endian memory; -0.0 counts as 0.0 and every NaN as one;
//! NULL adds one to the hash so far. Other types are hashed in Arrow's row encoding. Never change this: stored state finds its owner by it.

use super::{Batch, from_arrow, take_rows};
use crate::error::Result;
use arrow::array::{Array, ArrayRef, AsArray, downcast_primitive_array};
use arrow::datatypes::{DataType, Float32Type, Float64Type, ToByteSlice};
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The unit in which keys change their owner.
pub const KEY_GROUPS: usize = 4096;

/// The hash of each of `rows` rows over the key `columns`, into `hashes`. Without columns every row is 0.
pub fn hash_keys(columns: &[ArrayRef], rows: usize, hashes: &mut Vec<u64>) -> Result<()> {
    hashes.clear();
    hashes.resize(rows, 0);
    columns.iter().try_for_each(|column| mix_column(column, hashes))
}

/// The worker of `workers` that owns the keys of `hash`.
pub fn owner(hash: u64, workers: usize) -> usize {
    let group = (hash % KEY_GROUPS as u64) as usize;
    group * workers / KEY_GROUPS
}

/// Splits `batch` by the owner of its key `columns`: worker and rows, each in input order, none empty.
pub fn split_by_key(batch: &Batch, columns: &[usize], workers: usize) -> Result<Vec<(usize, Batch)>> {
    if workers == 1 {
        return Ok(vec![(0, batch.clone())]);
    }
    let keys: Vec<ArrayRef> = columns.iter().map(|&column| batch.column(column).clone()).collect();
    let mut hashes = Vec::new();
    hash_keys(&keys, batch.num_rows(), &mut hashes)?;
    let owners: Vec<u32> = hashes.iter().map(|&hash| owner(hash, workers) as u32).collect();
    // one `take` in the order of owners, then slices that copy nothing
    let mut ends = vec![0_usize; workers];
    owners.iter().for_each(|&worker| ends[worker as usize] += 1);
    let mut starts = Vec::with_capacity(workers);
    let mut total = 0;
    for end in &mut ends {
        starts.push(total);
        total += *end;
        *end = total;
    }
    if let Some(all) = (0..workers).find(|&worker| ends[worker] - starts[worker] == total) {
        return Ok(if total == 0 { Vec::new() } else { vec![(all, batch.clone())] });
    }
    let mut next = starts.clone();
    let mut indices = vec![0_u32; total];
    for (row, &worker) in owners.iter().enumerate() {
        indices[next[worker as usize]] = row as u32;
        next[worker as usize] += 1;
    }
    let sorted = take_rows(batch, indices)?;
    let share = |worker: usize| (worker, sorted.slice(starts[worker], ends[worker] - starts[worker]));
    Ok((0..workers).filter(|&worker| ends[worker] > starts[worker]).map(share).collect())
}

fn mix_column(column: &ArrayRef, hashes: &mut [u64]) -> Result<()> {
    macro_rules! mix {
        ($array:expr, $value:ident => $bytes:expr) => {{
            let array = $array;
            for (row, hash) in hashes.iter_mut().enumerate() {
                if array.is_null(row) {
                    *hash = hash.wrapping_add(1);
                } else {
                    let $value = array.value(row);
                    *hash = xxh3_64_with_seed($bytes, *hash);
                }
            }
        }};
    }
    match column.data_type() {
        DataType::Utf8 => mix!(column.as_string::<i32>(), value => value.as_bytes()),
        DataType::LargeUtf8 => mix!(column.as_string::<i64>(), value => value.as_bytes()),
        DataType::Utf8View => mix!(column.as_string_view(), value => value.as_bytes()),
        DataType::Binary => mix!(column.as_binary::<i32>(), value => value),
        DataType::Boolean => mix!(column.as_boolean(), value => &[u8::from(value)]),
        DataType::Float32 => {
            mix!(column.as_primitive::<Float32Type>(), value => (one_zero_one_nan(value.into()) as f32).to_byte_slice())
        }
        DataType::Float64 => {
            mix!(column.as_primitive::<Float64Type>(), value => one_zero_one_nan(value).to_byte_slice())
        }
        other => downcast_primitive_array!(
            column => mix!(column, value => value.to_byte_slice()),
            _ => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())]).map_err(from_arrow)?;
                let rows = converter.convert_columns(std::slice::from_ref(column)).map_err(from_arrow)?;
                hashes.iter_mut().zip(rows.iter()).for_each(|(hash, row)| *hash = xxh3_64_with_seed(row.as_ref(), *hash));
            }
        ),
    }
    Ok(())
}

/// Numbers that SQL groups together are one number to the hash.
fn one_zero_one_nan(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, ListArray, StringArray, StringViewArray};
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
        let mut hashes = Vec::new();
        hash_keys(columns, columns[0].len(), &mut hashes).unwrap();
        hashes
    }

    #[test]
    fn the_hash_is_the_documented_one_for_ever() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("water"), Some(""), None]));
        assert_eq!(hashes(&[words]), [14_270_394_014_325_247_290, 0x2d06800538d394c2, 1]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        assert_eq!(hashes(&[numbers]), [xxh3_64_with_seed(&7_i64.to_le_bytes(), 0)]);
    }

    #[test]
    fn equal_keys_have_equal_hashes_whatever_their_representation() {
        let plain: ArrayRef = Arc::new(StringArray::from(vec!["a", "a longer string than twelve bytes"]));
        let views: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "a longer string than twelve bytes"]));
        assert_eq!(hashes(&[plain]), hashes(&[views]));
        let zeros: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0]));
        let zeros = hashes(&[zeros]);
        assert_eq!(zeros[0], zeros[1]);
        let lists: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), Some(vec![Some(1)])]));
        let lists = hashes(&[lists]);
        assert_eq!(lists[0], lists[1]);
    }

    #[test]
    fn a_split_keeps_every_row_once_and_in_order() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = Batch::try_from_iter([("n", numbers)]).unwrap();
        for workers in [1, 2, 3, 7] {
            let mut seen = Vec::new();
            for (worker, share) in split_by_key(&batch, &[0], workers).unwrap() {
                let values = share.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
                assert!(values.is_sorted());
                let mut hashes = Vec::new();
                hash_keys(&[share.column(0).clone()], values.len(), &mut hashes).unwrap();
                assert!(hashes.iter().all(|&hash| owner(hash, workers) == worker));
                seen.extend(values);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        }
    }
}
