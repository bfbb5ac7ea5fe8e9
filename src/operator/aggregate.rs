//! GROUP BY in windows, or over a whole bounded input.
//!
//! Two halves around the exchange. [`PreAggregate`] makes partial results of one epoch; [`Aggregate`] merges them by key and
//! lets a window's results go in the epoch whose watermark reaches its end, windows in the order of their ends. A row is late
//! when every window that it belongs to closed in an *earlier* epoch: so what an epoch says does not depend on the order of its rows.
//! State: keys and accumulators of each open window, in [`Layers`]; a delta is the partial results of what came since the one before,
//! window by window. A GROUP BY without windows over a bounded input is one window that never ends.

use super::block::{Block, Drained};
use super::layers::Layers;
use super::panes::{Span, cut_by_pane, cut_by_span, event_times};
use super::{Operator, Output};
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow};
use crate::error::{Error, Result};
use crate::plan::{Aggregation, Grouping, OutputColumn};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Micros, Watermark};
use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Groups that a worker keeps before it sends them on early, so that memory stays bounded.
const GROUPS_MAX: usize = 1 << 20;

/// What the table of a delta is called.
const TABLE: &str = "partials";

/// Keys of one window that have a table of a delta to themselves: it is not worth copying them to have fewer tables.
const LARGE: usize = 1 << 15;

/// Results leave in batches of at most this many rows.
pub const RESULT_ROWS: usize = 4 * BATCH_ROWS;

/// The half before the exchange: partial results of one epoch, or of all if the results leave at the end. Says them on `on_epoch`,
/// and before that when there are too many.
pub struct PreAggregate {
    spec: Arc<Aggregation>,
    schema: SchemaRef,
    blocks: BTreeMap<Span, Block>,
    groups: usize,
}

impl PreAggregate {
    /// The operator of `spec`.
    pub fn new(spec: Arc<Aggregation>) -> Result<Self> {
        Ok(PreAggregate { schema: spec.partial_schema()?, spec, blocks: BTreeMap::new(), groups: 0 })
    }

    fn send(&mut self, out: &mut Output) -> Result<()> {
        self.groups = 0;
        for (span, mut block) in std::mem::take(&mut self.blocks) {
            push_sliced(partials_of(span, block.drain_states()?, self.spec.windowed(), &self.schema)?, out);
        }
        Ok(())
    }
}

/// Partial results with the columns of `schema`: behind the bounds of their window, if they are `windowed`.
fn partials_of(span: Span, drained: Drained, windowed: bool, schema: &SchemaRef) -> Result<Batch> {
    let Drained { rows, keys, values } = drained;
    let mut columns = Vec::with_capacity(schema.fields().len());
    if windowed {
        columns.extend([constant(span.start, rows), constant(span.end, rows)]);
    }
    columns.extend(keys.into_iter().chain(values));
    batch_of(Arc::clone(schema), columns, rows)
}

/// Cuts partial results by window; without windows they are one piece.
fn cut_partials(spec: &Aggregation, partials: Batch) -> Result<Vec<(Span, Batch)>> {
    match spec.windowed() {
        true => cut_by_span(&partials, &event_times(partials.column(0))?, &event_times(partials.column(1))?),
        false if partials.num_rows() == 0 => Ok(Vec::new()),
        false => Ok(vec![(Span::ALL, partials)]),
    }
}

impl Operator for PreAggregate {
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        for (span, rows) in cut_rows(&self.spec, &batch)? {
            let block = match self.blocks.entry(span) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Block::new(&self.spec)?),
            };
            let before = block.len();
            block.update(&rows)?;
            self.groups += block.len() - before;
        }
        if self.groups > GROUPS_MAX { self.send(out) } else { Ok(()) }
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        self.send(out)
    }
}

/// What an [`Aggregate`] is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// The input's rows, where nothing stands between.
    Rows,
    /// Partial results.
    Partials,
}

/// The half after the exchange: merges, waits for the watermark, lets results go.
pub struct Aggregate {
    spec: Arc<Aggregation>,
    feed: Feed,
    schema: SchemaRef,
    /// It answers for an input without rows, and has not yet.
    answers_nothing: bool,
    open: BTreeMap<Span, Layers>,
    /// The watermark of the last complete epoch: what ends at or before it has closed.
    mark: Watermark,
    late_rows: u64,
    tracked: bool,
}

impl Aggregate {
    /// The operator of `spec`, whose results have the columns of `schema`.
    pub fn new(spec: Arc<Aggregation>, feed: Feed, schema: SchemaRef) -> Self {
        Aggregate {
            spec,
            feed,
            schema,
            answers_nothing: false,
            open: BTreeMap::new(),
            mark: Watermark::NONE,
            late_rows: 0,
            tracked: false,
        }
    }

    /// The same, for one operator of all: without keys the end of an input without rows has an answer, too.
    pub fn answering_for_nothing(mut self) -> Self {
        self.answers_nothing = self.spec.grouping == Grouping::Final && self.spec.keys.is_empty();
        self
    }

    fn add(&mut self, span: Span, rows: &Batch) -> Result<()> {
        let spans: Vec<Span> = match self.spec.grouping {
            Grouping::Windowed { windows, .. } => windows.covering(span).collect(),
            _ => vec![span],
        };
        let mut taken = false;
        for span in spans {
            if span.end <= self.mark.micros() && self.spec.windowed() {
                continue;
            }
            taken = true;
            let layers = layers(&mut self.open, span, &self.spec, self.tracked)?;
            match self.feed {
                Feed::Rows => layers.update(rows)?,
                Feed::Partials => {
                    let first = if self.spec.windowed() { 2 } else { 0 };
                    let (keys, states) = rows.columns()[first..].split_at(self.spec.keys.len());
                    layers.merge(keys, states, rows.num_rows())?;
                }
            }
        }
        if !taken {
            self.late_rows += match self.feed {
                Feed::Rows => rows.num_rows() as u64,
                Feed::Partials => rows_in_partials(&self.spec, rows)?,
            };
        }
        Ok(())
    }

    /// What `of_window` gives for each open window, as a delta.
    fn delta_of(&mut self, of_window: impl Fn(&mut Layers) -> Result<Option<Drained>>) -> Result<Delta> {
        let (schema, windowed) = (self.spec.partial_schema()?, self.spec.windowed());
        let (mut delta, mut small, mut until) = (Vec::new(), Vec::new(), None);
        for (span, layers) in &mut self.open {
            let Some(partials) = of_window(layers)? else { continue };
            let rows = partials_of(*span, partials, windowed, &schema)?;
            let end = windowed.then_some(span.end);
            if rows.num_rows() < LARGE {
                small.push(rows);
                until = until.max(end);
            } else {
                delta.push(Table { until: end, ..Table::new(TABLE, rows, self.spec.partial_keys()) });
            }
        }
        let small = Table::of_batches(TABLE, &schema, &small, self.spec.partial_keys())?;
        delta.extend(small.map(|table| Table { until, ..table }));
        Ok(delta)
    }
}

impl Operator for Aggregate {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        let cut = match self.feed {
            Feed::Rows => cut_rows(&self.spec, &batch)?,
            Feed::Partials => cut_partials(&self.spec, batch)?,
        };
        cut.into_iter().try_for_each(|(span, rows)| self.add(span, &rows))
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        self.mark = mark;
        if self.answers_nothing && mark == Watermark::END {
            self.answers_nothing = false;
            if self.open.is_empty() {
                self.open.insert(Span::ALL, Layers::of(&self.spec, Block::of_nothing(&self.spec)?));
            }
        }
        while let Some(entry) = self.open.first_entry() {
            if entry.key().end > mark.micros() {
                break;
            }
            let (span, layers) = entry.remove_entry();
            let drained = layers.into_results()?;
            let rows = drained.rows;
            push_sliced(
                batch_of(Arc::clone(&self.schema), output_columns(&self.spec, Bounds::One(span), drained), rows)?,
                out,
            );
        }
        Ok(())
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn track(&mut self) {
        self.tracked = true;
    }

    fn delta(&mut self) -> Result<Delta> {
        if self.tracked { self.delta_of(Layers::freeze) } else { Ok(Delta::default()) }
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        let schema = self.spec.partial_schema()?;
        let first = if self.spec.windowed() { 2 } else { 0 };
        let places: Vec<usize> = (first..schema.fields().len()).collect();
        for table in saved {
            for (span, partials) in cut_partials(&self.spec, table.into_rows(TABLE, &schema)?)? {
                let partials = partials.project(&places).map_err(from_arrow)?;
                layers(&mut self.open, span, &self.spec, self.tracked)?.put(&partials);
            }
        }
        Ok(())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        self.mark = mark;
        self.open.retain(|span, _| span.end > mark.micros());
        // after the end all is said, also what nothing is answered with
        self.answers_nothing &= mark != Watermark::END;
        self.open.values_mut().try_for_each(Layers::settle)
    }

    fn whole(&mut self) -> Result<Delta> {
        self.delta_of(Layers::drain)
    }
}

/// The state of the window `span`, which is open now.
fn layers<'a>(
    open: &'a mut BTreeMap<Span, Layers>,
    span: Span,
    spec: &Arc<Aggregation>,
    tracked: bool,
) -> Result<&'a mut Layers> {
    let layers = match open.entry(span) {
        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Layers::new(spec, tracked)?),
    };
    if tracked {
        layers.track()?;
    }
    Ok(layers)
}

/// The windows of some results.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bounds<'a> {
    /// They have none.
    None,
    /// The same for all.
    One(Span),
    /// Each its own.
    Each(&'a [Span]),
}

impl Bounds<'_> {
    /// The column of the windows' starts.
    pub fn starts(self, rows: usize) -> ArrayRef {
        self.column(rows, |span| span.start)
    }

    /// The column of the windows' ends.
    pub fn ends(self, rows: usize) -> ArrayRef {
        self.column(rows, |span| span.end)
    }

    fn column(self, rows: usize, bound: impl Fn(Span) -> Micros) -> ArrayRef {
        match self {
            Bounds::None => constant(0, rows),
            Bounds::One(span) => constant(bound(span), rows),
            Bounds::Each(spans) => {
                Arc::new(TimestampMicrosecondArray::from_iter_values(spans.iter().map(|span| bound(*span))))
            }
        }
    }
}

/// The columns of the result, in the order in which the plan names them.
pub(super) fn output_columns(spec: &Aggregation, bounds: Bounds, drained: Drained) -> Vec<ArrayRef> {
    let Drained { rows, keys, values } = drained;
    let column = |column: &OutputColumn| match *column {
        OutputColumn::Key(n) => Arc::clone(&keys[n]),
        OutputColumn::Call(n) => Arc::clone(&values[n]),
        OutputColumn::WindowStart => bounds.starts(rows),
        OutputColumn::WindowEnd => bounds.ends(rows),
        OutputColumn::WindowTime => bounds.column(rows, |span| span.end - 1),
    };
    spec.output.iter().map(column).collect()
}

/// Cuts input rows by pane or window; without windows they are one piece.
fn cut_rows(spec: &Aggregation, rows: &Batch) -> Result<Vec<(Span, Batch)>> {
    match spec.grouping {
        Grouping::Windowed { time, windows } => cut_by_pane(rows, &event_times(rows.column(time))?, windows),
        Grouping::Attached { start, end } => {
            cut_by_span(rows, &event_times(rows.column(start))?, &event_times(rows.column(end))?)
        }
        Grouping::Session { .. } => Err(Error::internal("sessions are not cut by time")),
        Grouping::Final | Grouping::Updating => Ok(vec![(Span::ALL, rows.clone())]),
    }
}

/// How many input rows stand behind partial results; a windowed aggregation always counts them.
pub(super) fn rows_in_partials(spec: &Aggregation, partials: &Batch) -> Result<u64> {
    let mut column = if spec.windowed() { 2 } else { 0 } + spec.keys.len();
    for call in spec.calls.iter() {
        if call.counts_rows() {
            let counts = partials.column(column).as_primitive::<Int64Type>();
            return Ok(arrow::compute::sum(counts).unwrap_or(0) as u64);
        }
        column += call.state_fields()?.len();
    }
    Ok(partials.num_rows() as u64)
}

fn constant(micros: Micros, rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_value(micros, rows))
}

pub(super) fn push_sliced(batch: Batch, out: &mut Output) {
    for from in (0..batch.num_rows()).step_by(RESULT_ROWS) {
        out.push(batch.slice(from, RESULT_ROWS.min(batch.num_rows() - from)));
    }
}
