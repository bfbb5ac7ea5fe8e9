//! Views that are served: whoever asks sees all of them as they are at the end of one epoch, while the pipeline goes on.
//!
//! ```text
//! rows of each view ─▶ serve, on worker 0 ─ an epoch's changes, once it is complete ─▶ Shelf ◀─ Views: query, subscribe
//! ```
//! One operator takes the rows of all views, so that an epoch is complete for all of them at once and what is on the shelf is always one
//! epoch of the pipeline. What is there is never changed: a newer epoch takes its place, and who has begun to read goes on with what
//! it has. The pipeline waits for no reader but for the moment in which one takes what is there.
//!
//! A program asks through [`Running::views`](super::Running::views):
//!
//! ```
//! use arrow::array::AsArray;
//! use arrow::datatypes::Int64Type;
//! use highwater::connector::builtin::Builtin;
//! use highwater::runtime::views::Event;
//! use highwater::runtime::{self, Workers};
//! use highwater::sql::{self, Text};
//! use highwater::time::SystemClock;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sql = "
//!     CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.end' = '999');
//!     CREATE MATERIALIZED VIEW digits AS SELECT n % 10 AS digit, count(*) AS times FROM numbers GROUP BY n % 10;
//! ";
//! let plan = sql::plan(Text { name: "digits", sql }, &[], &Builtin::default())?;
//! let running = runtime::start(plan, Workers::Threads(1), None, Arc::new(SystemClock::default()))?;
//! let views = running.views();
//! let mut changes = views.subscribe("SELECT times FROM digits WHERE digit = 7")?;
//! running.wait().1?;
//!
//! let answer = views.query("SELECT count(*) AS n, sum(times) AS times FROM digits")?;
//! assert_eq!(answer.batches[0].column(1).as_primitive::<Int64Type>().value(0), 1000);
//! println!("as of epoch {}, watermark {}", answer.epoch, answer.watermark);
//!
//! // what was there when it began, then what each epoch has changed; it ends with the pipeline
//! let events = changes.collect::<Result<Vec<Event>, _>>()?;
//! assert!(matches!(events.last(), Some(Event::Progress { .. })));
//! # Ok(())
//! # }
//! ```

mod question;
pub(super) mod serve;
mod shelf;
mod subscription;

pub use question::Answer;
pub use shelf::ViewInfo;
pub use subscription::{Event, Subscription};

pub(super) use shelf::Shelf;

use super::fate::Fate;
use crate::connector::Connectors;
use crate::error::{Error, Result, nearest};
use crate::time::Clock;
use std::sync::Arc;

/// What the program's functions are found in.
type Known = Arc<dyn Connectors + Send + Sync>;

/// The served views of a pipeline, for who asks. Clones are the same; they outlive the run, whose last epoch they then show.
#[derive(Clone)]
pub struct Views {
    shelf: Arc<Shelf>,
    fate: Arc<Fate>,
    clock: Arc<dyn Clock>,
    known: Known,
}

impl Views {
    /// Those on `shelf`, of the run that `fate` tells of.
    pub(super) fn new(shelf: Arc<Shelf>, fate: Arc<Fate>, clock: Arc<dyn Clock>) -> Self {
        Views { shelf, fate, clock, known: Arc::new(crate::connector::builtin::Builtin::default()) }
    }

    /// The same, where questions may call the functions of `known`, too.
    pub fn knowing(self, known: Known) -> Self {
        Views { known, ..self }
    }

    /// What there is to ask, in the order of the definition.
    pub fn list(&self) -> Vec<ViewInfo> {
        self.shelf.list()
    }

    /// True once no epoch will come any more: what is there is the end.
    pub fn ended(&self) -> bool {
        self.shelf.ended() || self.fate.failed()
    }

    /// Answers a SELECT over the views, all of them as of the last epoch that is complete.
    ///
    /// It is the SQL of pipelines, and means the same; that rows are there and end, so ORDER BY and LIMIT need not come together. Waits
    /// until the first epoch of the run is complete.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a question that is wrong, with its place; what the pipeline has failed with;
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) on a process without worker 0.
    pub fn query(&self, sql: &str) -> Result<Answer> {
        question::answer(self, sql)
    }

    /// Tells what changes in a view from now on, beginning with the rows that are there: `what` is its name, or a SELECT of its
    /// columns with a WHERE.
    ///
    /// # Errors
    /// As [`Views::query`].
    pub fn subscribe(&self, what: &str) -> Result<Subscription> {
        subscription::subscribe(self, what)
    }

    /// The place of view `name`.
    fn place(&self, name: &str) -> Result<usize> {
        let views = self.list();
        let names = || views.iter().map(|view| view.name.as_str());
        names().position(|known| known == name).ok_or_else(|| {
            let error = Error::invalid(format!("unknown view '{name}'"));
            match nearest(name, names()) {
                Some(near) => error.help(format!("did you mean '{near}'?")),
                None if views.is_empty() => {
                    error.help("the pipeline serves none: CREATE MATERIALIZED VIEW name AS SELECT …")
                }
                None => error.help(format!("the views are {}", names().collect::<Vec<_>>().join(", "))),
            }
        })
    }
}
