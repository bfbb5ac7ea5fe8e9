//! Views that are served: their rows stay in memory for whoever asks.

use super::{Planner, Stream};
use crate::connector::Table;
use crate::error::{ErrorKind, Result};
use crate::plan::{Action, Emit, Input, Route, made_whole};

/// What can be done where a view would grow for ever.
const BOUNDS: &str = "let it have a row for each key: SELECT key, count(*) AS n FROM … GROUP BY key; or SET 'state_ttl' to how long rows \
                      count, by event time, which the view then selects; or allow it: SET 'unbounded_state' = 'true'";

impl Planner<'_> {
    /// Adds the step that serves `stream` as `view`. What collections make again after a restart it hears again; other rows are kept for it.
    pub(super) fn serve(&mut self, mut stream: Stream, view: &Table) -> Result<()> {
        if !made_whole(&self.steps, stream.base) {
            let all = Route::Key((0..stream.rows.fields().len()).collect());
            let kept = self.keeper(&stream, all, &format!("view '{}'", view.name), None);
            stream.base = kept.map_err(|error| match error.kind() {
                ErrorKind::Invalid => error.help(BOUNDS),
                _ => error,
            })?;
            stream.emit = self.steps[stream.base].emit;
        }
        let input = Input { from: stream.base, route: Route::Single };
        let name = format!("view {}", view.name);
        self.step(name, Action::View(view.name.clone()), vec![input], stream.rows, Emit::Updating);
        Ok(())
    }
}
