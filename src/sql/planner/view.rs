//! Views that are served: their rows stay in memory for whoever asks.

use super::{Planner, Stream};
use crate::connector::Table;
use crate::error::{Error, Result};
use crate::plan::{Action, Emit, Input, Route, collected};
use std::collections::BTreeSet;

impl Planner<'_> {
    /// Adds the step that serves `stream` as `view`. What collections make again after a restart it hears again; other rows are kept for it.
    pub(super) fn serve(&mut self, mut stream: Stream, view: &Table) -> Result<()> {
        let mut seen = BTreeSet::new();
        for field in stream.rows.fields() {
            if !seen.insert(field.name()) {
                let error = Error::invalid(format!("view '{}' has two columns '{}'", view.name, field.name()));
                return Err(error.help("name them apart: SELECT … AS other_name"));
            }
        }
        // of rows that stand a collection makes again only those that may still meet others
        if !collected(&self.steps, stream.base) || stream.emit != Emit::Updating {
            let all = Route::Key((0..stream.rows.fields().len()).collect());
            stream.base = self.keeper(&stream, all, &format!("view '{}'", view.name), None)?;
            stream.emit = self.steps[stream.base].emit;
        }
        let input = Input { from: stream.base, route: Route::Single };
        let name = format!("view {}", view.name);
        self.step(name, Action::View(view.name.clone()), vec![input], stream.rows, Emit::Updating);
        Ok(())
    }
}
