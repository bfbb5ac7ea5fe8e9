//! A subscription: the changes of a view, epoch by epoch, beginning with the rows that are there.
//!
//! What it tells are batches of changes, seen through what the SELECT asks for: a choice of columns, expressions, a WHERE. Changes of an
//! epoch that come to nothing are not told; progress is.

use super::question::{Given, QUESTION, wait};
use super::shelf::{Behind, News, Recent};
use super::{Shelf, Views};
use crate::batch::changes::{consolidated, single};
use crate::batch::{Batch, batch_of, from_arrow};
use crate::error::{Error, Result};
use crate::expr::Expr;
use crate::operator::transform::{Transforms, with_weight};
use crate::operator::{Operator, Output};
use crate::plan::{Action, Plan, Stage, StepId};
use crate::runtime::fate::Fate;
use crate::sql::{self, Asked, Text};
use crate::time::{Epoch, Watermark};
use arrow::datatypes::{Schema, SchemaRef};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How often the end of a run is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What a subscription tells.
#[derive(Debug, Clone)]
pub enum Event {
    /// Rows that an epoch has added or taken back; first of all the rows that were there. Those of an epoch come in one event.
    Changes {
        /// The epoch.
        epoch: Epoch,
        /// The rows, and as the last column [`WEIGHT`](crate::plan::WEIGHT): 1 or -1. Rows that are taken back stand in no
        /// particular place among the others.
        rows: Batch,
    },
    /// All changes up to the end of this epoch are told.
    Progress {
        /// The epoch.
        epoch: Epoch,
        /// The view's watermark at its end.
        watermark: Watermark,
    },
}

/// See [`Views::subscribe`]. An iterator that waits for the next event; it ends when the pipeline has, after everything is told.
pub struct Subscription {
    shelf: Arc<Shelf>,
    fate: Arc<Fate>,
    view: usize,
    lens: Lens,
    /// All up to this epoch is told, or in `ready`.
    since: Epoch,
    ready: VecDeque<Event>,
    over: bool,
}

pub(super) fn subscribe(views: &Views, what: &str) -> Result<Subscription> {
    let (view, lens) = Lens::of(views, what)?;
    let snapshot = wait(views, |patience| views.shelf.listen(view, patience))?;
    let (shelf, fate) = (Arc::clone(&views.shelf), Arc::clone(&views.fate));
    let since = snapshot.epoch;
    // from here on it is counted as a listener, until it is dropped
    let mut subscription = Subscription { shelf, fate, view, lens, since, ready: VecDeque::new(), over: false };
    let (layers, mark) = &snapshot.views[view];
    subscription.tell(since, *mark, layers)?;
    Ok(subscription)
}

impl Subscription {
    /// The columns of its rows, the weight included.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.lens.output)
    }

    /// True if nothing more will come.
    pub fn ended(&self) -> bool {
        self.over && self.ready.is_empty()
    }

    /// The next event, waited for at most for `patience`.
    ///
    /// # Errors
    /// What the pipeline has failed with; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if it went on so much faster that
    /// changes are not there any more. The subscription has ended then.
    pub fn poll(&mut self, patience: Duration) -> Result<Option<Event>> {
        if self.ready.is_empty() && !self.over {
            let heard = self.shelf.news(self.view, self.since, patience);
            self.hear(heard).inspect_err(|_| self.over = true)?;
        }
        Ok(self.ready.pop_front())
    }

    fn hear(&mut self, heard: Result<Option<News>, Behind>) -> Result<()> {
        if let Some(error) = self.fate.error() {
            return Err(error);
        }
        let News { recent, epoch, mark, over } = match heard {
            Ok(Some(news)) => news,
            Ok(None) => return Ok(()),
            Err(Behind(since)) => {
                return Err(Error::unavailable(format!(
                    "the subscription is too slow: it has heard all up to epoch {since}, but not all later changes are kept any more"
                ))
                .help("subscribe again, which begins with the rows that are there then"));
            }
        };
        for Recent { epoch, mark, changes } in recent {
            self.tell(epoch, mark, &[changes])?;
        }
        if epoch > self.since {
            self.ready.push_back(Event::Progress { epoch, watermark: mark });
            self.since = epoch;
        }
        self.over = over;
        Ok(())
    }

    fn tell(&mut self, epoch: Epoch, watermark: Watermark, changes: &[Batch]) -> Result<()> {
        let rows = self.lens.see(changes)?;
        if rows.num_rows() > 0 {
            self.ready.push_back(Event::Changes { epoch, rows });
        }
        self.ready.push_back(Event::Progress { epoch, watermark });
        self.since = epoch;
        Ok(())
    }
}

impl Iterator for Subscription {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended() {
            match self.poll(LOOK) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shelf.leave(self.view);
    }
}

/// What is seen of a view's changes.
struct Lens {
    /// The columns of the view that are looked at, and the weight.
    looked_at: Vec<usize>,
    /// What the first step makes of them.
    read: Vec<Expr>,
    read_schema: SchemaRef,
    stages: Option<Transforms>,
    /// The columns that are told, and the weight.
    output: SchemaRef,
}

impl Lens {
    /// What `what` asks for: a view, and what is to be seen of it.
    fn of(views: &Views, what: &str) -> Result<(usize, Lens)> {
        let all;
        let text = match sql::view_name(what) {
            Some(name) => {
                views.place(&name)?;
                all = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
                all.as_str()
            }
            None => what,
        };
        let list = views.list();
        let given = Given::new(views, &list, None);
        let named: Vec<(String, SchemaRef)> =
            list.iter().map(|view| (view.name.clone(), Arc::clone(&view.schema))).collect();
        let asked = sql::ask(Text { name: QUESTION, sql: text }, &named, &given)?;
        if !asked.order.is_empty() || asked.skip > 0 || asked.limit.is_some() {
            return Err(Error::invalid("changes come as they happen: a subscription has no ORDER BY and no LIMIT")
                .help("leave it out, or subscribe to a materialized view that is SELECT … ORDER BY … LIMIT n"));
        }
        let read = given.read.borrow();
        let (Some(view), 1, Some(lens)) =
            (read.first(), read.len(), lens(&asked, &list[*read.first().unwrap_or(&0)].schema)?)
        else {
            return Err(Error::invalid(
                "a subscription sees the rows of one view: SELECT columns FROM view WHERE condition",
            )
            .help("make what it asks for a materialized view of the pipeline, and subscribe to that"));
        };
        Ok((*view, lens))
    }

    /// What `changes` of the view come to.
    fn see(&mut self, changes: &[Batch]) -> Result<Batch> {
        let mut out = Output::default();
        for changes in changes {
            let rows = changes.project(&self.looked_at).map_err(from_arrow)?;
            let mut columns = self.read.iter().map(|value| value.evaluate(&rows)).collect::<Result<Vec<_>>>()?;
            columns.extend(rows.columns().last().cloned());
            let rows = batch_of(Arc::clone(&self.read_schema), columns, rows.num_rows())?;
            match &mut self.stages {
                Some(stages) => stages.on_batch(rows, &mut out)?,
                None => out.push(rows),
            }
        }
        let seen: Vec<Batch> = out
            .drain()
            .map(|rows| batch_of(Arc::clone(&self.output), rows.columns().to_vec(), rows.num_rows()))
            .collect::<Result<_>>()?;
        single(consolidated(&seen, &self.output)?)
    }
}

/// What `asked` makes of the changes of a view with the columns of `schema`; None if that is more than to look at each row.
fn lens(asked: &Asked, schema: &Schema) -> Result<Option<Lens>> {
    let Some((source, stages)) = chain(&asked.plan) else { return Ok(None) };
    let Action::Source(read) = &asked.plan.steps[source].action else { return Ok(None) };
    let mut looked_at = Vec::new();
    for field in read.source.schema().fields() {
        looked_at.push(schema.index_of(field.name()).map_err(from_arrow)?);
    }
    looked_at.push(schema.fields().len());
    let read_schema = with_weight(&asked.plan.steps[source].schema);
    let last = stages.last().map_or(&asked.plan.steps[source].schema, |stage| &stage.schema);
    let named = last.fields().iter().zip(&asked.columns);
    let named: Vec<_> = named.map(|(field, name)| Arc::new(field.as_ref().clone().with_name(name))).collect();
    let output = with_weight(&Schema::new(named));
    let stages = (!stages.is_empty()).then(|| Transforms::new(&stages, true));
    Ok(Some(Lens { looked_at, read: read.columns.clone(), read_schema, stages, output }))
}

/// The source of a plan and all stages between it and the sink; None if there is anything else between them.
fn chain(plan: &Plan) -> Option<(StepId, Vec<Stage>)> {
    let (sink, _) = plan.sinks().next()?;
    let mut stages: Vec<Stage> = Vec::new();
    let mut id = plan.steps[sink].inputs.first()?.from;
    loop {
        match (&plan.steps[id].action, plan.steps[id].inputs.as_slice()) {
            (Action::Source(_), _) => return Some((id, stages)),
            (Action::Transform(here), [input]) => {
                stages.splice(0..0, here.iter().cloned());
                id = input.from;
            }
            _ => return None,
        }
    }
}
