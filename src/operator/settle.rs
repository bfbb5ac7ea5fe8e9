//! What an epoch's changes leave of each key.
//!
//! Changes that cancel out each other are gone; of the others those of a key leave together, in one batch: what is taken back, then what is
//! added, each in the order of its columns. So what leaves does not depend on the order of the epoch's rows.
//! State: none from one epoch for the next.

use super::transform::with_weight;
use super::{Operator, Output};
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow};
use crate::error::Result;
use crate::plan::{Says, Settling};
use crate::time::{Epoch, Watermark};
use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use std::sync::Arc;

/// The operator.
pub struct Settle {
    says: Says,
    /// The row's columns and the weight.
    schema: SchemaRef,
    /// The row's columns, those of the key first.
    order: Vec<usize>,
    /// Of the key's columns and of the others.
    converters: [RowConverter; 2],
    keys: usize,
    rows: Vec<Batch>,
}

/// Rows that are left of an epoch.
#[derive(Default)]
struct Left {
    /// Each with its weight, by key: those of a key follow each other.
    rows: Vec<(u32, i64)>,
    /// Where each key begins.
    starts: Vec<usize>,
}

impl Settle {
    /// The operator of `spec`, over rows with the columns of `schema` and then the weight.
    pub fn new(spec: &Settling, schema: &Schema) -> Result<Self> {
        let others = (0..schema.fields().len()).filter(|column| !spec.key.contains(column));
        let order: Vec<usize> = spec.key.iter().copied().chain(others).collect();
        let (key, rest) = order.split_at(spec.key.len());
        let converter = |columns: &[usize]| {
            let field = |column: &usize| SortField::new(schema.field(*column).data_type().clone());
            RowConverter::new(columns.iter().map(field).collect()).map_err(from_arrow)
        };
        Ok(Settle {
            says: spec.says,
            schema: with_weight(schema),
            converters: [converter(key)?, converter(rest)?],
            keys: spec.key.len(),
            order,
            rows: Vec::new(),
        })
    }

    /// What is left of `rows`.
    fn left(&self, rows: &Batch) -> Result<Left> {
        let weights = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>();
        let (key, rest) = self.order.split_at(self.keys);
        let encode = |converter: &RowConverter, columns: &[usize]| {
            let columns: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(rows.column(*column))).collect();
            converter.convert_columns(&columns).map_err(from_arrow)
        };
        let keys = encode(&self.converters[0], key)?;
        let rests = if rest.is_empty() { None } else { Some(encode(&self.converters[1], rest)?) };
        let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).collect();
        let rest_of = |row: u32| rests.as_ref().map(|rests| rests.row(row as usize));
        sorted.sort_unstable_by(|&a, &b| {
            keys.row(a as usize).cmp(&keys.row(b as usize)).then_with(|| rest_of(a).cmp(&rest_of(b)))
        });
        let Left { rows: mut left, mut starts } = Left::default();
        for of_key in sorted.chunk_by(|&a, &b| keys.row(a as usize) == keys.row(b as usize)) {
            let start = left.len();
            for same in of_key.chunk_by(|&a, &b| rest_of(a) == rest_of(b)) {
                let weight: i64 = same.iter().map(|&row| weights.value(row as usize)).sum();
                if weight != 0 {
                    left.push((same[0], weight));
                }
            }
            left[start..].sort_by_key(|(_, weight)| *weight > 0);
            if self.says == Says::Newest && left.len() > start {
                // the last one is added, if one is
                let last = left.pop().map(|(row, weight)| (row, weight.signum()));
                left.truncate(start);
                left.extend(last);
            }
            if left.len() > start {
                starts.push(start);
            }
        }
        Ok(Left { rows: left, starts })
    }
}

impl Operator for Settle {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        self.rows.push(batch);
        Ok(())
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = concat_batches(&self.schema, &std::mem::take(&mut self.rows)).map_err(from_arrow)?;
        let Left { rows: left, starts } = self.left(&rows)?;
        let mut from = 0;
        while from < left.len() {
            // a key's changes are not torn apart
            let end = starts.iter().copied().find(|start| *start >= from + BATCH_ROWS).unwrap_or(left.len());
            let picks: UInt32Array = left[from..end].iter().map(|(row, _)| *row).collect();
            let weights: Int64Array = left[from..end].iter().map(|(_, weight)| *weight).collect();
            let columns = rows.columns()[..rows.num_columns() - 1].iter();
            let mut columns =
                columns.map(|column| take(column, &picks, None).map_err(from_arrow)).collect::<Result<Vec<_>>>()?;
            columns.push(Arc::new(weights));
            out.push(batch_of(Arc::clone(&self.schema), columns, end - from)?);
            from = end;
        }
        Ok(())
    }
}
