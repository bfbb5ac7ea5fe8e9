//! `LATE INTO`: a branch beside what goes by windows, which gives the rows that come too late for them.
//!
//! It reads the same rows as the step that waits for the windows, and goes by the same sources, so it finds late what that one drops
//! and counts. A stream carries the branches of its windows until such a step takes it up.

use super::{Pending, PendingWindows, Place, Planner, Stream, compile};
use crate::error::{Error, Result};
use crate::expr::{Expr, from_datafusion};
use crate::plan::{Action, Emit, Input, Lateness, Meeting, Route, Stage, StepId, Transform, event_time_type};
use crate::sql::windows::{LateColumn, LateInto, WindowAssign};
use crate::time::Micros;
use arrow::datatypes::{Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::{Cast, Expr as Logical, lit};
use std::collections::BTreeSet;
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

/// A branch whose windows nothing has waited for yet.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    table: String,
    lateness: Arc<Lateness>,
    input: Input,
    /// The columns of the late rows.
    rows: SchemaRef,
    /// Those of the table, over `rows`.
    values: Vec<Expr>,
    schema: SchemaRef,
}

impl Planner<'_> {
    /// Gives `stream`, whose windows are pending, their branch.
    pub(super) fn branch_off(&mut self, stream: &mut Stream, assign: &WindowAssign, late: &LateInto) -> Result<()> {
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
        stream.late.push(Branch {
            table: late.table.clone(),
            lateness: Arc::new(lateness),
            input: Input { from: stream.base, route },
            rows,
            values: exprs,
            schema: Arc::clone(&late.schema),
        });
        Ok(())
    }

    /// Adds the branches of `streams`, which one step takes up that waits for their windows.
    pub(super) fn add_branches(&mut self, streams: &mut [Stream]) {
        let behind = streams.iter().map(|stream| self.steps[stream.base].lateness).max().unwrap_or(0);
        let sources: BTreeSet<StepId> = streams.iter().flat_map(|stream| self.sources_of(stream.base)).collect();
        for Branch { table, lateness, input, rows, values, schema } in
            streams.iter_mut().flat_map(|stream| std::mem::take(&mut stream.late))
        {
            let action = Action::LateRows { lateness, sources: sources.iter().copied().collect() };
            let base =
                self.step(format!("late rows for {table}"), action, vec![input], Arc::clone(&rows), Emit::Append);
            self.steps[base].lateness = self.steps[base].lateness.max(behind);
            let mut branch = Stream::of_step(base, Arc::clone(&schema), Emit::Append);
            branch.stages.push(Stage { transform: Transform::Project(values), schema });
            self.late.push(branch);
        }
    }

    pub(super) fn sources_of(&self, id: StepId) -> Vec<StepId> {
        match &self.steps[id].action {
            Action::Source(_) => vec![id],
            _ => self.steps[id].inputs.iter().flat_map(|input| self.sources_of(input.from)).collect(),
        }
    }

    /// The step, `id` or one that it reads, that waits for windows to close, or for the watermark to pass a row.
    pub(super) fn waits_for_windows(&self, id: StepId) -> Option<StepId> {
        let step = &self.steps[id];
        match &step.action {
            Action::Aggregate(aggregation) if aggregation.grouping.windowed() => Some(id),
            Action::Rank(_) | Action::Closing(_) => Some(id),
            Action::Join(join) if matches!(join.meeting, Meeting::InWindows(_) | Meeting::AsOf(_)) => Some(id),
            _ => step.inputs.iter().find_map(|input| self.waits_for_windows(input.from)),
        }
    }
}
