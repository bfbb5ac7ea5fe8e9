//! Batches of messages whose schemas may differ: each schema's are decoded together, and their rows put in order again.

use super::BadRecord;
use super::schemas::Grouped;
use crate::batch::{Batch, batch_of};
use arrow::array::{Array, BinaryArray, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use std::ops::Range;
use std::sync::Arc;

/// The rows of `records` within `range`, with the columns of `schema`; a record without a value is a row of NULL. `decode` gives the rows
/// of some records, by their indexes, that have schema `id`; what it finds bad it counts among those.
pub(super) fn decode_grouped(
    records: &BinaryArray,
    range: Range<usize>,
    schema: &SchemaRef,
    framed: bool,
    mut decode: impl FnMut(u32, &[usize]) -> Result<Batch, BadRecord>,
) -> Result<Batch, BadRecord> {
    let Grouped { groups, empty, bad: mut first_bad } = Grouped::of(records, range.clone(), framed);
    let note = |bad: BadRecord, first: &mut Option<BadRecord>| {
        if first.as_ref().is_none_or(|first| bad.index < first.index) {
            *first = Some(bad);
        }
    };
    if let Some(field) = schema.fields().iter().find(|field| !field.is_nullable())
        && let Some(&index) = empty.first()
    {
        note(
            BadRecord { index, reason: format!("no value, but column \"{}\" is NOT NULL", field.name()) },
            &mut first_bad,
        );
    }
    let (mut batches, mut places) = (Vec::new(), vec![(usize::MAX, 0); range.len()]);
    for (id, members) in groups {
        match decode(id, &members) {
            Ok(batch) => {
                members.iter().enumerate().for_each(|(row, &index)| places[index - range.start] = (batches.len(), row));
                batches.push(batch);
            }
            Err(bad) => note(BadRecord { index: members[bad.index], ..bad }, &mut first_bad),
        }
    }
    if let Some(bad) = first_bad {
        return Err(bad);
    }
    if empty.is_empty() && batches.len() == 1 {
        return Ok(batches.swap_remove(0));
    }
    if !empty.is_empty() {
        let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        empty.iter().for_each(|&index| places[index - range.start] = (batches.len(), 0));
        batches
            .push(batch_of(Arc::clone(schema), nulls, 1).map_err(|e| BadRecord { index: 0, reason: e.to_string() })?);
    }
    let column = |column: usize| {
        let parts: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        interleave(&parts, &places)
    };
    let columns = (0..schema.fields().len()).map(column).collect::<Result<Vec<_>, _>>();
    let columns = columns.map_err(|error| BadRecord { index: range.start, reason: super::reason(&error) })?;
    batch_of(Arc::clone(schema), columns, range.len())
        .map_err(|error| BadRecord { index: range.start, reason: error.to_string() })
}
