//! An operator: `totals` takes a name and a number and gives, for each epoch and each name that came in it, the sum so far.
//!
//! Its rows come to the workers by name, and it keeps what it knows through a restart: see `delta` and `restore`.

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use highwater::batch::{Batch, batch_of};
use highwater::error::{Error, Result};
use highwater::operator::{CustomOperator, Operator, Output};
use highwater::state::{Delta, Table};
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

    // All that `Sums` knows from one epoch for the next is in its deltas.
    fn restores(&self) -> bool {
        true
    }

    fn operator(&self, input: &SchemaRef) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Sums {
            schema: self.schema(input)?,
            sums: BTreeMap::new(),
            changed: BTreeSet::new(),
            unsaved: None,
        }))
    }
}

/// One worker's share: the names that it owns.
struct Sums {
    schema: SchemaRef,
    sums: BTreeMap<Option<String>, i64>,
    /// The names of the open epoch.
    changed: BTreeSet<Option<String>>,
    /// The names that came since the last delta, if there are checkpoints.
    unsaved: Option<BTreeSet<Option<String>>>,
}

impl Sums {
    /// The sum of each of `names`, with the columns of the results.
    fn rows(&self, names: impl IntoIterator<Item = Option<String>>) -> Result<Batch> {
        let names: Vec<Option<String>> = names.into_iter().collect();
        let totals: Int64Array = names.iter().map(|name| self.sums[name]).collect();
        let rows = names.len();
        let names: StringArray = names.into_iter().collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(totals)];
        batch_of(Arc::clone(&self.schema), columns, rows)
    }
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
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.extend(changed.iter().cloned());
        }
        out.push(self.rows(changed)?);
        Ok(())
    }

    fn track(&mut self) {
        self.unsaved.get_or_insert_default();
    }

    // What a row means is up to the operator: here a name's newest sum, in place of older ones.
    fn delta(&mut self) -> Result<Delta> {
        let Some(unsaved) = self.unsaved.as_mut().map(std::mem::take).filter(|names| !names.is_empty()) else {
            return Ok(Delta::default());
        };
        // column 0 is the one that rows are dealt to workers by
        Ok(vec![Table::new("sums", self.rows(unsaved)?, vec![0])])
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        for table in saved {
            let rows = table.into_rows("sums", &self.schema)?;
            let names = rows.column(0).as_string::<i32>().iter().map(|name| name.map(str::to_owned));
            self.sums.extend(names.zip(rows.column(1).as_primitive::<Int64Type>().values().iter().copied()));
        }
        Ok(())
    }

    fn whole(&mut self) -> Result<Delta> {
        Ok(vec![Table::new("sums", self.rows(self.sums.keys().cloned())?, vec![0])])
    }
}
