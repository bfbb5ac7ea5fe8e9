//! Rows that stand in the query: `VALUES`, and the one row of a SELECT without FROM.

use super::{Planner, Role, Stream, compile};
use crate::batch::{batch_of, from_arrow};
use crate::connector::values::Values;
use crate::error::{Error, Result};
use crate::expr::Expr;
use crate::plan::{Action, BadRecords, Emit, SourceStep, event_time_type};
use arrow::array::{Array, ArrayRef};
use arrow::compute::{cast, concat};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::Expr as Logical;
use std::sync::Arc;

impl Planner<'_> {
    /// Adds a source of `rows`, which are made now.
    ///
    /// Its moments are event time without a watermark: they end together, so nothing among them is late and windows close at the end.
    pub(super) fn values(&mut self, schema: SchemaRef, rows: &[Vec<Logical>]) -> Result<Stream> {
        let (nothing, no_columns) = (Arc::new(Schema::empty()), DFSchema::empty());
        let one_row = batch_of(Arc::clone(&nothing), Vec::new(), 1)?;
        let column = |index: usize| -> Result<ArrayRef> {
            let value = |row: &Vec<Logical>| -> Result<ArrayRef> {
                let value = compile(&row[index], &no_columns, &nothing)?.evaluate(&one_row);
                let value = value.map_err(|error| Error::invalid(error.to_string()))?;
                cast(&value, schema.field(index).data_type()).map_err(from_arrow)
            };
            let values = rows.iter().map(value).collect::<Result<Vec<_>>>()?;
            let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
            concat(&values).map_err(from_arrow)
        };
        let columns = (0..schema.fields().len()).map(column).collect::<Result<Vec<_>>>()?;
        let rows = batch_of(Arc::clone(&schema), columns, rows.len())?;
        let columns = schema.fields().iter().enumerate().map(|(index, field)| Expr::column(field.name(), index));
        let action = Action::Source(SourceStep {
            table: "values".into(),
            connector: "values".into(),
            source: Arc::new(Values::new(rows)?),
            columns: columns.collect(),
            place: false,
            key: Vec::new(),
            time: None,
            idle_timeout: self.settings.idle_timeout,
            when_all_idle: self.settings.when_all_idle,
            max_future: self.settings.max_future,
            bad: BadRecords::default(),
        });
        let base = self.step("source values".into(), action, Vec::new(), Arc::clone(&schema), Emit::Append);
        let mut stream = Stream::of_step(base, schema, Emit::Append);
        for (role, field) in stream.roles.iter_mut().zip(stream.rows.fields()) {
            if *field.data_type() == event_time_type() {
                *role = Role::Time;
            }
        }
        Ok(stream)
    }
}
