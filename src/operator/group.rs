//! What is made of all rows of one key: aggregates, the first rows, window functions.
//!
//! A function of the set of rows of a key, which come in the order that is asked for; rows that are alike in it are told apart by all their
//! columns. Many keys are worked out at once, and nothing is remembered.

use super::aggregate::{Bounds, output_columns};
use super::block::Drained;
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::error::Result;
use crate::expr::{Accumulators, OverCall};
use crate::plan::{Aggregation, Reducing, Reduction};
use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// The function.
pub struct GroupFunction {
    what: What,
    output: SchemaRef,
}

enum What {
    Aggregate { spec: Arc<Aggregation>, accumulators: Accumulators },
    First { skip: usize, limit: usize, numbered: bool },
    Over(Vec<OverCall>),
}

impl GroupFunction {
    /// The function of `spec`; what it gives has the columns of `output`.
    pub fn new(spec: &Reducing, output: SchemaRef) -> Result<Self> {
        let what = match &spec.what {
            Reduction::Aggregate(spec) => {
                What::Aggregate { spec: Arc::clone(spec), accumulators: Accumulators::new(&spec.calls)? }
            }
            Reduction::First { skip, limit, numbered, .. } => {
                What::First { skip: *skip, limit: limit.unwrap_or(usize::MAX), numbered: *numbered }
            }
            Reduction::Over { calls, .. } => What::Over(calls.clone()),
        };
        Ok(GroupFunction { what, output })
    }

    /// What is made of `rows`, those of some keys one after the other, each key's in [their order](Reducing::order): those of
    /// the n-th end in front of `ends[n]`. With it where in the result what is made of each key ends.
    pub fn of(&mut self, rows: &Batch, ends: &[usize]) -> Result<(Batch, Vec<usize>)> {
        let output = Arc::clone(&self.output);
        if rows.num_rows() == 0 {
            return Ok((Batch::new_empty(output), vec![0; ends.len()]));
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let keys = starts.zip(ends.iter().copied());
        match &mut self.what {
            What::Aggregate { spec, accumulators } => {
                // a key without rows has no result, and takes no part
                let mut numbers = Vec::with_capacity(rows.num_rows());
                let (mut firsts, mut made) = (Vec::new(), Vec::with_capacity(ends.len()));
                for (start, end) in keys {
                    if end > start {
                        numbers.resize(end, firsts.len());
                        firsts.push(start as u32);
                    }
                    made.push(firsts.len());
                }
                let count = firsts.len();
                accumulators.update(rows, &numbers, count)?;
                let firsts = take_rows(rows, firsts)?;
                let keys = spec.keys.iter().map(|(key, _)| key.evaluate(&firsts)).collect::<Result<_>>()?;
                let drained = Drained { rows: count, keys, values: accumulators.results()? };
                Ok((batch_of(output, output_columns(spec, Bounds::None, drained), count)?, made))
            }
            What::First { skip, limit, numbered } => {
                let (mut chosen, mut numbers, mut made) = (Vec::new(), Vec::new(), Vec::with_capacity(ends.len()));
                for (start, end) in keys {
                    for (number, row) in (start..end).enumerate().skip(*skip).take(*limit) {
                        chosen.push(row as u32);
                        numbers.push(number as u64 + 1);
                    }
                    made.push(chosen.len());
                }
                let count = chosen.len();
                let mut columns = take_rows(rows, chosen)?.columns().to_vec();
                if *numbered {
                    columns.push(Arc::new(UInt64Array::from(numbers)));
                }
                Ok((batch_of(output, columns, count)?, made))
            }
            What::Over(calls) => {
                let mut results: Vec<Vec<ArrayRef>> = vec![Vec::new(); calls.len()];
                for (start, end) in keys.filter(|(start, end)| end > start) {
                    let of_key = rows.slice(start, end - start);
                    for (call, results) in calls.iter().zip(&mut results) {
                        results.push(call.evaluate(&of_key)?);
                    }
                }
                let mut columns = rows.columns().to_vec();
                for results in results {
                    let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
                    columns.push(concat(&results).map_err(from_arrow)?);
                }
                Ok((batch_of(output, columns, rows.num_rows())?, ends.to_vec()))
            }
        }
    }
}
