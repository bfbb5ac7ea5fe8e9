//! A question: a SELECT over the rows of one epoch, planned and run like a pipeline, on a worker of its own.

use super::super::{Workers, start};
use super::shelf::Snapshot;
use super::{ViewInfo, Views};
use crate::batch::changes::{consolidated, standing};
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::connector::memory::{MemorySink, MemorySource};
use crate::connector::{ConnectorSpec, Connectors, Sink, SinkInput, Source, Table};
use crate::error::{Error, Result};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::operator::CustomOperator;
use crate::operator::transform::with_weight;
use crate::sql::{self, Asked, Text};
use crate::time::{Epoch, Watermark};
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What errors call the text of a question.
pub const QUESTION: &str = "question";

/// How often the end of a run is looked for while an epoch is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// The answer to a question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The epoch as of whose end it holds: exactly the rows up to then are in it.
    pub epoch: Epoch,
    /// The watermark of the views that were read, the least of them; none if none was read.
    pub watermark: Watermark,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows, in the order that ORDER BY says, and where that leaves it open in the order of the columns. Empty if there are none.
    pub batches: Vec<Batch>,
}

impl Answer {
    /// All rows in one batch.
    ///
    /// # Errors
    /// None that a caller could bring about.
    pub fn whole(&self) -> Result<Batch> {
        concat_batches(&self.schema, &self.batches).map_err(from_arrow)
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(Batch::num_rows).sum()
    }
}

pub(super) fn answer(views: &Views, sql: &str) -> Result<Answer> {
    let snapshot = wait(views, |patience| views.shelf.snapshot(patience))?;
    let list = views.list();
    let given = Given::new(views, &list, Some(&snapshot));
    let named: Vec<(String, SchemaRef)> =
        list.iter().map(|view| (view.name.clone(), Arc::clone(&view.schema))).collect();
    let asked = sql::ask(Text { name: QUESTION, sql }, &named, &given)?;
    let read = given.read.borrow().clone();
    let watermark = read.iter().map(|view| snapshot.views[*view].1).min().unwrap_or(Watermark::NONE);
    let sink = asked.plan.sinks().next().map(|(id, _)| id).ok_or_else(|| Error::internal("an answer goes nowhere"))?;
    let schema = Arc::clone(&asked.plan.steps[sink].schema);
    let running = start(asked.plan.clone(), Workers::Threads(1), None, Arc::clone(&views.clock))?;
    running.wait().1?;
    let rows = arranged(&asked, &given.answer.batches(), &schema)?;
    let schema = rows.schema();
    let batches = if rows.num_rows() == 0 { Vec::new() } else { vec![rows] };
    Ok(Answer { epoch: snapshot.epoch, watermark, schema, batches })
}

/// What `take` gives once there is an epoch.
pub(super) fn wait(views: &Views, mut take: impl FnMut(Duration) -> (Option<Snapshot>, bool)) -> Result<Snapshot> {
    if !views.shelf.here() {
        return Err(Error::unavailable("the rows of the views are in process 0").help("ask there"));
    }
    loop {
        if let Some(error) = views.fate.error() {
            return Err(error);
        }
        match take(LOOK) {
            (Some(snapshot), _) => return Ok(snapshot),
            (None, true) => {
                return Err(Error::unavailable("the pipeline ended before an epoch was complete").help(
                    "a pipeline whose input had ended in an earlier run has nothing left to do, and makes no views again",
                ));
            }
            (None, false) => {}
        }
    }
}

/// The rows of the answer in their order, with the names of its columns.
fn arranged(asked: &Asked, rows: &[Batch], schema: &SchemaRef) -> Result<Batch> {
    let rows = concat_batches(schema, rows).map_err(from_arrow)?;
    let width = asked.columns.len();
    let named = schema.fields().iter().take(width).zip(&asked.columns);
    let named: Vec<_> = named.map(|(field, name)| Arc::new(field.as_ref().clone().with_name(name))).collect();
    let named = Arc::new(Schema::new(named));
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    if width > 0 && !order.is_empty() {
        let said = asked
            .order
            .iter()
            .map(|sort| (sort.column, SortOptions { descending: sort.descending, nulls_first: sort.nulls_first }));
        let (columns, fields): (Vec<_>, Vec<_>) = said
            .chain((0..width).map(|column| (column, SortOptions::default())))
            .map(|(column, options)| {
                let field = SortField::new_with_options(schema.field(column).data_type().clone(), options);
                (Arc::clone(rows.column(column)), field)
            })
            .unzip();
        let converter = RowConverter::new(fields).map_err(from_arrow)?;
        let keys = converter.convert_columns(&columns).map_err(from_arrow)?;
        order.sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
    }
    let picked: Vec<u32> = order.into_iter().skip(asked.skip).take(asked.limit.unwrap_or(usize::MAX)).collect();
    let count = picked.len();
    let shown = take_rows(&rows, picked)?.columns()[..width].to_vec();
    batch_of(named, shown, count)
}

/// What a question is planned with: the program's functions, the views as tables, and a sink for the answer.
pub(super) struct Given<'a> {
    known: &'a dyn Connectors,
    views: &'a [ViewInfo],
    /// None if only the plan is wanted.
    snapshot: Option<&'a Snapshot>,
    answer: MemorySink,
    /// Which views were asked for.
    pub read: RefCell<BTreeSet<usize>>,
}

impl<'a> Given<'a> {
    /// For questions about `list`, those of `views`.
    pub fn new(views: &'a Views, list: &'a [ViewInfo], snapshot: Option<&'a Snapshot>) -> Self {
        Given {
            known: views.known.as_ref(),
            views: list,
            snapshot,
            answer: MemorySink::new(),
            read: RefCell::default(),
        }
    }
}

impl Connectors for Given<'_> {
    fn specs(&self) -> &[ConnectorSpec] {
        self.known.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        let place = self.views.iter().position(|view| view.name == table.name);
        let place = place.ok_or_else(|| Error::internal(format!("'{}' is no view", table.name)))?;
        self.read.borrow_mut().insert(place);
        let schema = Arc::new(self.views[place].schema.project(columns).map_err(from_arrow)?);
        let rows = match self.snapshot {
            Some(snapshot) => {
                let all = rows_of(&snapshot.views[place].0, &self.views[place].schema)?;
                vec![all.project(columns).map_err(from_arrow)?]
            }
            None => Vec::new(),
        };
        Ok(Arc::new(MemorySource::new(schema, rows, 1)))
    }

    fn sink(&self, _: &Table, _: &SinkInput) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(self.answer.clone()))
    }

    fn functions(&self) -> &[ScalarFunction] {
        self.known.functions()
    }

    fn aggregates(&self) -> &[AggregateFunction] {
        self.known.aggregates()
    }

    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        self.known.operators()
    }

    fn folder(&self) -> Option<&Path> {
        self.known.folder()
    }
}

/// The rows that layers of changes come to.
fn rows_of(layers: &[Batch], schema: &SchemaRef) -> Result<Batch> {
    match layers {
        [one] => standing(one),
        layers => standing(&consolidated(layers, &with_weight(schema))?),
    }
}
