//! `LATE INTO`: a branch beside what goes by windows, which gives the rows that come too late for them.
//!
//! It reads the same rows and goes by the same watermark as the aggregate, which drops and counts them.

use super::{Pending, PendingWindows, Place, Planner, Stream, compile};
use crate::error::{Error, Result};
use crate::expr::from_datafusion;
use crate::plan::{Action, Emit, Input, Lateness, Route, Stage, StepId, Transform, event_time_type};
use crate::sql::windows::{LateColumn, LateInto, WindowAssign};
use crate::time::Micros;
use arrow::datatypes::{Field, FieldRef, Fields, Schema};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::{Cast, Expr as Logical, lit};
use std::sync::Arc;

/// The column of a table of late rows that says where a row was read.
pub(super) const PLACE: &str = "place";

/// What rows carry that in. No query knows it.
pub(super) const PLACE_COLUMN: &str = "__place";

/// What a query asks of its windows. Parts of queries are shared only if they ask for the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// How long they stay open after the watermark has reached their end.
    pub lateness: Micros,
    /// True if rows carry where they come from.
    pub places: bool,
}

impl Planner<'_> {
    /// Adds the branch of `stream`, whose windows are pending.
    pub(super) fn late_rows(&mut self, stream: &mut Stream, assign: &WindowAssign, late: &LateInto) -> Result<()> {
        stream.compact();
        self.materialise(stream)?;
        stream.own = false;
        let Some(PendingWindows { time, windows }) = stream.pending.clone() else {
            return Err(Error::internal("late rows without windows"));
        };
        let (lateness, route, reason) = match windows {
            Pending::Fixed(windows) => {
                (Lateness::Windows { time, windows }, Route::Forward, "all its windows have closed")
            }
            Pending::Sessions { gap, partition: Some(keys) } => {
                let route = Route::Key(keys.clone());
                (Lateness::Sessions { time, gap, keys }, route, "its session would have closed")
            }
            Pending::Sessions { partition: None, .. } => {
                return Err(Error::invalid("LATE INTO has to know whose the sessions are")
                    .help("write SESSION(TABLE t PARTITION BY key, DESCRIPTOR(ts), gap)"));
            }
        };
        let bound = |name: &str| Arc::new(Field::new(name, event_time_type(), false));
        let added = ["window_start", "window_end", "watermark"].map(bound);
        let fields: Fields = stream.rows.fields().iter().cloned().chain(added).collect();
        let width = stream.rows.fields().len();
        let rows = Arc::new(Schema::new(fields));
        let input = Input { from: stream.base, route };
        let name = format!("late rows for {}", late.table);
        let base = self.step(name, Action::LateRows(Arc::new(lateness)), vec![input], Arc::clone(&rows), Emit::Append);

        // Names are those of the rows, which need not differ: here they are their numbers.
        let numbered = |(number, field): (usize, &FieldRef)| field.as_ref().clone().with_name(number.to_string());
        let numbers: Vec<Field> = rows.fields().iter().enumerate().map(numbered).collect();
        let numbers = DFSchema::try_from(Schema::new(numbers)).map_err(from_datafusion)?;
        let mut exprs = Vec::new();
        for (column, field) in late.columns.iter().zip(late.schema.fields()) {
            let number = |row: usize| Logical::Column(datafusion_common::Column::from_name(row.to_string()));
            let value = match column {
                LateColumn::Row(column) => {
                    let index = assign.input.schema().maybe_index_of_column(column);
                    match index.map(|index| stream.columns[index]) {
                        Some(Place::Row(row)) => number(row),
                        _ => return Err(Error::internal(format!("late rows have no column {column}"))),
                    }
                }
                LateColumn::Reason => lit(reason),
                LateColumn::WindowStart => number(width),
                LateColumn::WindowEnd => number(width + 1),
                LateColumn::Watermark => number(width + 2),
                LateColumn::Place => stream.place.map_or(Logical::Literal(ScalarValue::Null, None), number),
                LateColumn::Nothing => Logical::Literal(ScalarValue::Null, None),
            };
            let value = Logical::Cast(Cast::new(Box::new(value), field.data_type().clone()));
            exprs.push(compile(&value, &numbers, &rows)?);
        }
        let mut branch = Stream::of_step(base, rows, Emit::Append);
        branch.stages.push(Stage { transform: Transform::Project(exprs), schema: Arc::clone(&late.schema) });
        branch.rows = Arc::clone(&late.schema);
        branch.roles = vec![super::Role::None; late.schema.fields().len()];
        branch.columns = (0..late.schema.fields().len()).map(Place::Row).collect();
        self.late.push(branch);
        Ok(())
    }

    /// True if step `id`, or one that it reads, waits for windows to close.
    pub(super) fn waits_for_windows(&self, id: StepId) -> bool {
        let step = &self.steps[id];
        match &step.action {
            Action::Aggregate(aggregation) if aggregation.grouping.windowed() => true,
            Action::Rank(_) | Action::Join(_) => true,
            _ => step.inputs.iter().any(|input| self.waits_for_windows(input.from)),
        }
    }
}
