//! An operator: `totals` takes a name and a number and gives, for each epoch and each name that came in it, the sum so far.

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use highwater::batch::{Batch, batch_of};
use highwater::error::{Error, Result};
use highwater::operator::{CustomOperator, Operator, Output};
use highwater::time::{Epoch, Watermark};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct Totals;

impl CustomOperator for Totals {
    fn name(&self) -> &str {
        "totals"
    }

    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef> {
        let types: Vec<&DataType> = input.fields().iter().map(|field| field.data_type()).collect();
        if types != [&DataType::Utf8, &DataType::Int64] {
            return Err(Error::invalid("it takes a STRING and a BIGINT").help("select these two, in this order"));
        }
        let total = Field::new("total", DataType::Int64, false);
        Ok(Arc::new(Schema::new(vec![input.field(0).clone(), total])))
    }

    fn operator(&self, input: &SchemaRef) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Sums { schema: self.schema(input)?, sums: BTreeMap::new(), changed: BTreeSet::new() }))
    }
}

/// One worker's share: the names that it owns.
struct Sums {
    schema: SchemaRef,
    sums: BTreeMap<Option<String>, i64>,
    /// The names of the open epoch.
    changed: BTreeSet<Option<String>>,
}

impl Operator for Sums {
    fn on_batch(&mut self, batch: Batch, _out: &mut Output) -> Result<()> {
        let names = batch.column(0).as_string::<i32>().iter().map(|name| name.map(str::to_owned));
        for (name, number) in names.zip(batch.column(1).as_primitive::<Int64Type>()) {
            *self.sums.entry(name.clone()).or_default() += number.unwrap_or(0);
            self.changed.insert(name);
        }
        Ok(())
    }

    // An epoch is a set of rows: what is said waits for its end, so that it does not depend on the order in which they came.
    fn on_epoch(&mut self, _epoch: Epoch, _mark: Watermark, out: &mut Output) -> Result<()> {
        let changed = std::mem::take(&mut self.changed);
        let totals: Int64Array = changed.iter().map(|name| self.sums[name]).collect();
        let rows = changed.len();
        let names: StringArray = changed.into_iter().collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(totals)];
        out.push(batch_of(Arc::clone(&self.schema), columns, rows)?);
        Ok(())
    }
}
