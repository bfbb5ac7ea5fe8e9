//! Change streams: tables whose rows are taken back, and what is left of changes before they are written.

use super::{Planner, Role, Stream, assign_windows};
use crate::connector::{self, Gives, Sink};
use crate::error::{Error, Result};
use crate::plan::{Action, Emit, Input, Route, Step, StepId, WindowBounds, settling};
use crate::sql::catalog::{ColumnDef, TableDef};
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::Arc;

/// The columns of `table` that are its PRIMARY KEY.
pub(super) fn key_columns(table: &TableDef, definition: &connector::Table) -> Vec<usize> {
    let place = |physical: &usize| {
        table.columns.iter().position(|column| matches!(column, ColumnDef::Physical(own) if own == physical))
    };
    definition.primary_key.iter().filter_map(place).collect()
}

impl Planner<'_> {
    /// Adds the source step of table `name`, whose rows have the columns of `schema`, and what makes changes of the newest rows of a key.
    /// Gives the source and how its reader emits: that is the last step.
    pub(super) fn source_step(
        &mut self,
        name: &str,
        action: Action,
        gives: Gives,
        schema: &SchemaRef,
    ) -> Result<(StepId, Emit)> {
        let Action::Source(source) = &action else { return Err(Error::internal("no source")) };
        let (emit, key) = match gives {
            Gives::Rows => (Emit::Append, Vec::new()),
            Gives::Changes | Gives::Upserts => (Emit::Updating, source.key.clone()),
        };
        if emit == Emit::Updating && source.place {
            return Err(Error::invalid(format!("table \"{name}\" is a stream of changes, whose rows are never late")));
        }
        if gives != Gives::Upserts {
            return Ok((self.step(format!("source {name}"), action, Vec::new(), Arc::clone(schema), emit), emit));
        }
        // where a key loses its row there are no values
        let field = |(column, field): (usize, &Arc<arrow::datatypes::Field>)| {
            field.as_ref().clone().with_nullable(field.is_nullable() || !key.contains(&column))
        };
        let loose = Arc::new(Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()));
        let base = self.step(format!("source {name}"), action, Vec::new(), loose, emit);
        let input = Input { from: base, route: Route::Key(key.clone()) };
        self.step(
            format!("newest rows of {name}"),
            Action::Upsert { key, every: false },
            vec![input],
            Arc::clone(schema),
            emit,
        );
        Ok((base, emit))
    }

    /// What step `id` gives, whose rows are taken back, for messages.
    pub(in crate::sql) fn changing(&self, id: StepId) -> String {
        match &self.steps[id] {
            Step { action: Action::Source(source), .. } => {
                format!("table '{}', which is a stream of changes,", source.table)
            }
            Step { action: Action::Transform(_) | Action::Upsert { .. }, inputs, .. } => match inputs.first() {
                Some(input) => self.changing(input.from),
                None => "results that change".into(),
            },
            _ => "results that change".into(),
        }
    }

    /// Makes rows that stand of `stream`, whose rows are taken back and have windows of event time: those that are there when their window
    /// closes.
    pub(super) fn closing(&mut self, stream: &mut Stream) -> Result<()> {
        assign_windows(self, stream)?;
        self.materialise(stream)?;
        let known = "windows have been assigned";
        let [start, end] = stream.bounds_of(self.windows);
        let windows = WindowBounds { start: start.expect(known), end: end.expect(known) };
        let input = Input { from: stream.base, route: Route::Key((0..stream.rows.fields().len()).collect()) };
        let name = "what stands in closed windows".to_owned();
        let rows = Arc::clone(&stream.rows);
        let base = self.step(name, Action::Closing(windows), vec![input], Arc::clone(&rows), Emit::Append);
        let of_windows =
            |role: &Role| if matches!(role, Role::Window(id, _) if *id == self.windows) { *role } else { Role::None };
        let roles = stream.roles.iter().map(of_windows).collect();
        let columns = std::mem::take(&mut stream.columns);
        *stream = Stream { roles, columns, ..Stream::of_step(base, rows, Emit::Append) };
        Ok(())
    }

    /// Adds what leaves only those changes of `stream` that `sink`, the writing side of `table`, has to be told; true if that is needed.
    pub(super) fn settle(&mut self, stream: &mut Stream, sink: &dyn Sink, table: &connector::Table) -> Result<bool> {
        let Some(settling) = settling(&self.steps, stream.base, sink, &table.primary_key) else { return Ok(false) };
        let input = Input { from: stream.base, route: Route::Key(settling.key.clone()) };
        let name = format!("changes for {}", table.name);
        stream.base = self.step(name, Action::Settle(settling), vec![input], Arc::clone(&stream.rows), stream.emit);
        Ok(true)
    }
}
