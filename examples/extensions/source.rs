//! A source: tables with `'connector' = 'countdown'` have one BIGINT column, from `'from'` down to 1, dealt to two splits.

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, SchemaRef};
use highwater::batch::{Batch, batch_of};
use highwater::connector::{
    Connector, ConnectorSpec, Context, OptionSpec, Polled, Preset, Source, Split, SplitStart, Table, Takes,
};
use highwater::error::{Error, Result};
use std::sync::Arc;

const FROM: OptionSpec =
    OptionSpec::reading("from", Takes::Whole(1, 1 << 40), Preset::Is("10"), "the number to start from");

/// How many splits there are: so many workers can have a part.
const SPLITS: i64 = 2;

pub struct Countdown;

impl Connector for Countdown {
    fn spec(&self) -> ConnectorSpec {
        ConnectorSpec { reads: true, options: &[&FROM], ..ConnectorSpec::new("countdown", "Numbers, down to 1") }
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        let fields = table.schema.fields();
        if fields.len() != 1 || *fields[0].data_type() != DataType::Int64 {
            return Err(Error::invalid("a countdown has one column, of type BIGINT"));
        }
        let schema = table.schema.project(columns).map_err(|error| Error::internal(error.to_string()))?;
        Ok(Arc::new(Numbers { schema: Arc::new(schema), from: table.options.whole(&FROM)? }))
    }
}

/// A table that is read: the same in every process.
struct Numbers {
    /// The columns that are asked for: the one, or none where rows are only counted.
    schema: SchemaRef,
    from: i64,
}

impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        Ok((0..SPLITS).map(|split| split.to_string()).collect())
    }

    fn open(&self, splits: &[SplitStart], _context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |SplitStart { name, position }: &SplitStart| -> Result<Box<dyn Split>> {
            let read = position.unwrap_or(0);
            let split: i64 =
                name.parse().map_err(|_| Error::internal(format!("'{name}' is no split of a countdown")))?;
            Ok(Box::new(Count {
                schema: Arc::clone(&self.schema),
                next: self.from - split - read as i64 * SPLITS,
                read,
            }))
        };
        splits.iter().map(open).collect()
    }
}

/// A share of the numbers, on the worker that reads it.
struct Count {
    schema: SchemaRef,
    next: i64,
    read: u64,
}

impl Split for Count {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let numbers: Vec<i64> = (1..=self.next).rev().step_by(SPLITS as usize).take(rows_max).collect();
        let Some(last) = numbers.last() else { return Ok(Polled::Ended) };
        self.next = last - SPLITS;
        self.read += numbers.len() as u64;
        let rows = numbers.len();
        let columns: Vec<ArrayRef> =
            self.schema.fields().iter().map(|_| Arc::new(Int64Array::from(numbers.clone())) as ArrayRef).collect();
        let rows: Batch = batch_of(Arc::clone(&self.schema), columns, rows)?;
        Ok(Polled::Rows { bytes: rows.num_rows() * 8, rows })
    }

    fn position(&self) -> u64 {
        self.read
    }

    fn place(&self, row: usize) -> String {
        format!("row {row} before number {}", self.next)
    }
}
