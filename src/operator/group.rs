//! What is made of all rows of one key: aggregates, the first rows, window functions.
//!
//! A function of the set of rows: the order in which they come does not matter, and where an order is asked for rows that are alike in it
//! are told apart by all their columns. Nothing is remembered from one key to the next.

use super::aggregate::{Bounds, output_columns};
use super::block::Drained;
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::error::Result;
use crate::expr::{Accumulators, OverCall};
use crate::plan::{Aggregation, Reducing, Reduction, SortColumn};
use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use std::sync::Arc;

/// The function.
pub struct GroupFunction {
    what: What,
    output: SchemaRef,
}

enum What {
    Aggregate { spec: Arc<Aggregation>, accumulators: Accumulators },
    First { order: Order, skip: usize, limit: usize, numbered: bool },
    Over { order: Order, calls: Vec<OverCall> },
}

impl GroupFunction {
    /// The function of `spec` over rows with the columns of `input`; what it gives has those of `output`.
    pub fn new(spec: &Reducing, input: &SchemaRef, output: SchemaRef) -> Result<Self> {
        let what = match &spec.what {
            Reduction::Aggregate(spec) => {
                What::Aggregate { spec: Arc::clone(spec), accumulators: Accumulators::new(&spec.calls)? }
            }
            Reduction::First { order, skip, limit, numbered } => What::First {
                order: Order::new(order, input)?,
                skip: *skip,
                limit: limit.unwrap_or(usize::MAX),
                numbered: *numbered,
            },
            Reduction::Over { order, calls } => What::Over { order: Order::new(order, input)?, calls: calls.clone() },
        };
        Ok(GroupFunction { what, output })
    }

    /// What is made of `rows`, all those of one key; there is at least one.
    pub fn of(&mut self, rows: &Batch) -> Result<Batch> {
        let output = Arc::clone(&self.output);
        match &mut self.what {
            What::Aggregate { spec, accumulators } => {
                accumulators.update(rows, &vec![0; rows.num_rows()], 1)?;
                let first = rows.slice(0, 1);
                let keys = spec.keys.iter().map(|(key, _)| key.evaluate(&first)).collect::<Result<_>>()?;
                let drained = Drained { rows: 1, keys, values: accumulators.results()? };
                batch_of(output, output_columns(spec, Bounds::None, drained), 1)
            }
            What::First { order, skip, limit, numbered } => {
                let sorted = order.of(rows)?;
                let chosen: Vec<u32> = sorted.into_iter().skip(*skip).take(*limit).collect();
                let count = chosen.len();
                let mut columns = take_rows(rows, chosen)?.columns().to_vec();
                if *numbered {
                    let first = *skip as u64 + 1;
                    columns.push(Arc::new(UInt64Array::from_iter_values(first..first + count as u64)));
                }
                batch_of(output, columns, count)
            }
            What::Over { order, calls } => {
                let sorted = take_rows(rows, order.of(rows)?)?;
                let mut columns = sorted.columns().to_vec();
                for call in calls {
                    columns.push(call.evaluate(&sorted)?);
                }
                batch_of(output, columns, sorted.num_rows())
            }
        }
    }
}

/// An order of rows in which no two different ones are alike.
struct Order {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl Order {
    /// By the columns `asked`, and then by all others.
    fn new(asked: &[SortColumn], input: &SchemaRef) -> Result<Self> {
        let options = |sort: &SortColumn| SortOptions { descending: sort.descending, nulls_first: sort.nulls_first };
        let others = (0..input.fields().len()).filter(|column| asked.iter().all(|sort| sort.column != *column));
        let all: Vec<(usize, SortOptions)> = asked
            .iter()
            .map(|sort| (sort.column, options(sort)))
            .chain(others.map(|column| (column, SortOptions::default())))
            .collect();
        let field = |(column, options): &(usize, SortOptions)| {
            SortField::new_with_options(input.field(*column).data_type().clone(), *options)
        };
        let converter = RowConverter::new(all.iter().map(field).collect()).map_err(from_arrow)?;
        Ok(Order { columns: all.into_iter().map(|(column, _)| column).collect(), converter })
    }

    fn of(&self, rows: &Batch) -> Result<Vec<u32>> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        if order.len() > 1 && !columns.is_empty() {
            let encoded = self.converter.convert_columns(&columns).map_err(from_arrow)?;
            order.sort_unstable_by(|a, b| encoded.row(*a as usize).cmp(&encoded.row(*b as usize)));
        }
        Ok(order)
    }
}
