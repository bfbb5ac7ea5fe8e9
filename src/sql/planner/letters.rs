//! Bad records as rows: from the source that leaves them out to the table that takes them.

use super::{Planner, Stream, compile};
use crate::connector;
use crate::connector::bad::DEAD_LETTER;
use crate::error::{Error, Result, nearest};
use crate::expr::from_datafusion;
use crate::plan::{Action, Emit, Input, Route, Stage, StepId, Transform, type_name};
use arrow::datatypes::{FieldRef, Fields, Schema};
use datafusion_common::{Column, DFSchema};
use datafusion_expr::{Expr as Logical, TryCast};
use std::sync::Arc;

/// Where the bad records of a source go.
pub(in crate::sql) struct Letters {
    /// The source's step.
    pub from: StepId,
    /// The table's name.
    pub into: String,
}

impl Planner<'_> {
    /// The records that source step `from` leaves out, in the columns of `table`.
    pub fn dead_letters(&mut self, from: StepId, table: &connector::Table) -> Result<Stream> {
        let letter = DFSchema::try_from(Arc::clone(&DEAD_LETTER)).map_err(from_datafusion)?;
        let column = |field: &FieldRef| {
            let name = field.name();
            let Ok(index) = DEAD_LETTER.index_of(name) else {
                let names: Vec<&str> = DEAD_LETTER.fields().iter().map(|field| field.name().as_str()).collect();
                let error = Error::invalid(format!("table \"{}\": a dead letter has no '{name}'", table.name));
                return Err(match nearest(name, names.iter().copied()) {
                    Some(near) => error.help(format!("did you mean '{near}'?")),
                    None => error.help(format!("a dead letter has {}", names.join(", "))),
                });
            };
            let (have, want) = (DEAD_LETTER.field(index).data_type(), field.data_type());
            if !arrow::compute::can_cast_types(have, want) {
                let (have, want) = (type_name(have), type_name(want));
                return Err(Error::invalid(format!(
                    "table \"{}\": '{name}' of a dead letter is {have}, not {want}",
                    table.name
                )));
            }
            // a record that is no text is NULL as one
            let value =
                Logical::TryCast(TryCast::new(Box::new(Logical::Column(Column::from_name(name))), want.clone()));
            compile(&value, &letter, &DEAD_LETTER)
        };
        let columns = table.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let source = self.steps[from].name.replacen("source ", "", 1);
        let forward = |from| vec![Input { from, route: Route::Forward }];
        let name = format!("dead letters of {source}");
        let letters =
            self.step(name.clone(), Action::DeadLetters, forward(from), Arc::clone(&DEAD_LETTER), Emit::Append);
        let nullable = table.schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
        let schema = Arc::new(Schema::new(nullable.collect::<Fields>()));
        let stage = Stage { transform: Transform::Project(columns), schema: Arc::clone(&schema) };
        let base = self.step(
            format!("{name} for {}", table.name),
            Action::Transform(vec![stage]),
            forward(letters),
            Arc::clone(&schema),
            Emit::Append,
        );
        Ok(Stream::of_step(base, schema, Emit::Append))
    }
}
