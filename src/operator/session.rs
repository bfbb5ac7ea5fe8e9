//! GROUP BY in sessions: the windows of a key end when nothing came for so long.
//!
//! Two halves around the exchange, as for other windows. [`PreSessions`] makes the partial sessions of one epoch;
//! [`SessionAggregate`] joins them by key with the open ones, one that lies between two joins these, and lets a session's results go
//! in the epoch whose watermark reaches its end. Which spans are one session, and which are late, is the affair of [`open`].
//! State: for each open session its span, and in [`Segments`] its key and partial results. A delta is the sessions that changed since
//! the one before, as they are now. It does not say which are gone: see [`open`].

pub mod open;

use super::aggregate::{Bounds, Feed, output_columns, push_sliced, rows_in_partials};
use super::block::Drained;
use super::panes::{Span, event_times};
use super::segments::Segments;
use super::{Operator, Output};
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::error::{Error, Result};
use crate::expr::Accumulators;
use crate::plan::{Aggregation, Grouping};
use crate::state::{Delta, Table};
use crate::time::{Epoch, Micros, Watermark};
use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use open::{Item, Joined, OpenSessions};
use std::sync::Arc;

/// What the table of a delta is called.
pub(super) const TABLE: &str = "open";

/// The rows of an epoch, or its partial sessions, as far as they have come.
struct Gathered {
    spec: Arc<Aggregation>,
    feed: Feed,
    items: Vec<Item>,
    batches: Vec<Batch>,
    /// The key columns of each batch.
    keys: Vec<Vec<ArrayRef>>,
    numbers: Vec<usize>,
}

/// What an epoch's sessions have become, row by row.
struct Summed {
    /// For each row the place of its part in [`Joined::parts`].
    parts: Vec<usize>,
    keys: Vec<ArrayRef>,
    states: Vec<ArrayRef>,
}

impl Gathered {
    fn new(spec: Arc<Aggregation>, feed: Feed) -> Self {
        Gathered { spec, feed, items: Vec::new(), batches: Vec::new(), keys: Vec::new(), numbers: Vec::new() }
    }

    fn add(&mut self, batch: Batch, open: &mut OpenSessions) -> Result<()> {
        let Grouping::Session { time, gap } = self.spec.grouping else {
            return Err(Error::internal("a session without a gap"));
        };
        let first = self.items.len() as u32;
        let item = |row: usize, key: usize, span: Span| Item { key: key as u32, row: first + row as u32, span };
        let keys = match self.feed {
            Feed::Rows => self.spec.keys.iter().map(|(key, _)| key.evaluate(&batch)).collect::<Result<Vec<_>>>()?,
            Feed::Partials => batch.columns()[2..2 + self.spec.keys.len()].to_vec(),
        };
        open.number(&keys, batch.num_rows(), &mut self.numbers)?;
        let numbers = self.numbers.iter().enumerate();
        match self.feed {
            Feed::Rows => {
                let times = event_times(batch.column(time))?;
                self.items.extend(numbers.map(|(row, &key)| item(row, key, span_of(times[row], gap))));
            }
            Feed::Partials => {
                let (starts, ends) = (event_times(batch.column(0))?, event_times(batch.column(1))?);
                self.items
                    .extend(numbers.map(|(row, &key)| item(row, key, Span { start: starts[row], end: ends[row] })));
            }
        }
        self.keys.push(keys);
        self.batches.push(batch);
        Ok(())
    }

    /// Adds all rows to their sessions' partial results, which `before` gives for those from earlier epochs. Counts `late` rows.
    fn sum(
        &mut self,
        joined: &Joined,
        before: impl FnOnce(&mut dyn Iterator<Item = usize>) -> Result<Vec<ArrayRef>>,
        late: &mut u64,
    ) -> Result<Summed> {
        let mut accumulators = Accumulators::new(&self.spec.calls)?;
        // Accumulators take it that a group that is new in a call has a row in it: so groups are numbered as they come.
        let mut groups: Vec<Option<usize>> = vec![None; joined.parts.len()];
        let mut parts = Vec::new();
        if !joined.before.is_empty() {
            let mut numbers = Vec::with_capacity(joined.before.len());
            for (place, part) in joined.parts.iter().enumerate().filter(|(_, part)| !part.before.is_empty()) {
                groups[place] = Some(parts.len());
                numbers.resize(numbers.len() + part.before.len(), parts.len());
                parts.push(place);
            }
            let states = before(&mut joined.before.iter().map(|number| *number as usize))?;
            accumulators.merge(&states, &numbers, parts.len())?;
        }
        // For each group the row that its key is taken from.
        let mut witnesses: Vec<Option<(usize, usize)>> = vec![None; parts.len()];
        let mut part_of = joined.part_of.as_slice();
        let mut numbers = Vec::new();
        for (number, batch) in self.batches.drain(..).enumerate() {
            let (own, rest) = part_of.split_at(batch.num_rows());
            part_of = rest;
            numbers.clear();
            let mut late_rows = Vec::new();
            for (row, &part) in own.iter().enumerate() {
                let place = part as usize;
                if joined.parts[place].session.is_none() {
                    late_rows.push(row as u32);
                    continue;
                }
                let group = *groups[place].get_or_insert_with(|| {
                    parts.push(place);
                    witnesses.push(None);
                    parts.len() - 1
                });
                witnesses[group].get_or_insert((number, row));
                numbers.push(group);
            }
            let batch = match late_rows.is_empty() {
                true => batch,
                false => {
                    let timely = |row: &u32| joined.parts[own[*row as usize] as usize].session.is_some();
                    let timely = (0..own.len() as u32).filter(timely).collect();
                    *late += match self.feed {
                        Feed::Rows => late_rows.len() as u64,
                        Feed::Partials => rows_in_partials(&self.spec, &take_rows(&batch, late_rows)?)?,
                    };
                    take_rows(&batch, timely)?
                }
            };
            match self.feed {
                Feed::Rows => accumulators.update(&batch, &numbers, parts.len())?,
                Feed::Partials => {
                    let states = &batch.columns()[2 + self.spec.keys.len()..];
                    accumulators.merge(states, &numbers, parts.len())?;
                }
            }
        }
        let keys = std::mem::take(&mut self.keys);
        if parts.is_empty() {
            // all are late; of no groups some accumulators have no states
            return Ok(Summed { parts, keys: Vec::new(), states: Vec::new() });
        }
        let witnesses: Vec<(usize, usize)> = witnesses.into_iter().flatten().collect();
        let key = |column: usize| {
            let columns: Vec<&dyn Array> = keys.iter().map(|columns| columns[column].as_ref()).collect();
            interleave(&columns, &witnesses).map_err(from_arrow)
        };
        let keys = (0..self.spec.keys.len()).map(key).collect::<Result<Vec<_>>>()?;
        Ok(Summed { parts, keys, states: accumulators.states()? })
    }
}

/// What a row of `time` stands for.
pub(super) fn span_of(time: Micros, gap: Micros) -> Span {
    Span { start: time, end: time.saturating_add(gap) }
}

/// The half before the exchange: the partial sessions of one epoch.
pub struct PreSessions {
    schema: SchemaRef,
    open: OpenSessions,
    gathered: Gathered,
}

impl PreSessions {
    /// The operator of `spec`.
    pub fn new(spec: Arc<Aggregation>) -> Result<Self> {
        let open = OpenSessions::new(spec.key_schema())?;
        Ok(PreSessions { schema: spec.partial_schema()?, open, gathered: Gathered::new(spec, Feed::Rows) })
    }
}

impl Operator for PreSessions {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        self.gathered.add(batch, &mut self.open)
    }

    fn on_epoch(&mut self, _: Epoch, _: Watermark, out: &mut Output) -> Result<()> {
        if self.gathered.batches.is_empty() {
            return Ok(());
        }
        let joined = self.open.join(std::mem::take(&mut self.gathered.items));
        let none = |_: &mut dyn Iterator<Item = usize>| Err(Error::internal("an earlier epoch's session"));
        let Summed { parts, keys, states } = self.gathered.sum(&joined, none, &mut 0)?;
        if parts.is_empty() {
            return Ok(());
        }
        let spans: Vec<Span> = parts.iter().map(|part| joined.parts[*part].span).collect();
        let bounds = Bounds::Each(&spans);
        let columns = [bounds.starts(spans.len()), bounds.ends(spans.len())].into_iter().chain(keys).chain(states);
        push_sliced(batch_of(Arc::clone(&self.schema), columns.collect(), spans.len())?, out);
        Ok(())
    }
}

/// The half after the exchange: joins, waits for the watermark, lets results go.
pub struct SessionAggregate {
    spec: Arc<Aggregation>,
    schema: SchemaRef,
    open: OpenSessions,
    /// Keys and partial results, by the session's number.
    state: Segments,
    gathered: Gathered,
    late_rows: u64,
}

impl SessionAggregate {
    /// The operator of `spec`, whose results have the columns of `schema`.
    pub fn new(spec: Arc<Aggregation>, feed: Feed, schema: SchemaRef) -> Result<Self> {
        Ok(SessionAggregate {
            open: OpenSessions::new(spec.key_schema())?,
            state: Segments::default(),
            gathered: Gathered::new(Arc::clone(&spec), feed),
            spec,
            schema,
            late_rows: 0,
        })
    }

    fn take_in(&mut self) -> Result<()> {
        let joined = self.open.join(std::mem::take(&mut self.gathered.items));
        let keys = self.spec.keys.len();
        let before = |numbers: &mut dyn Iterator<Item = usize>| Ok(self.state.get(numbers)?.split_off(keys));
        let Summed { parts, keys, states } = self.gathered.sum(&joined, before, &mut self.late_rows)?;
        self.state.remove(joined.before.iter().map(|number| *number as usize))?;
        let session = |part: &usize| joined.parts[*part].session.expect("late rows are in no sum");
        self.state.put(parts.iter().map(session).collect(), keys.into_iter().chain(states).collect())
    }

    fn delta_of(&self, numbers: &[u32]) -> Result<Delta> {
        delta_of(numbers, &self.open, &self.state, &self.spec.partial_schema()?, self.spec.keys.len())
    }
}

/// The open sessions `numbers` as a delta: start, end, and what `state` has of them, of which the first columns are the `keys`.
pub(super) fn delta_of(
    numbers: &[u32],
    open: &OpenSessions,
    state: &Segments,
    schema: &SchemaRef,
    keys: usize,
) -> Result<Delta> {
    if numbers.is_empty() {
        return Ok(Delta::default());
    }
    let span = |number: &u32| open.span_of(*number).ok_or_else(|| Error::internal("a closed session has a state"));
    let spans = numbers.iter().map(span).collect::<Result<Vec<Span>>>()?;
    let bounds = Bounds::Each(&spans);
    let columns = [bounds.starts(spans.len()), bounds.ends(spans.len())];
    let columns = columns.into_iter().chain(state.get(numbers.iter().map(|number| *number as usize))?);
    let rows = batch_of(Arc::clone(schema), columns.collect(), spans.len())?;
    Ok(vec![Table::new(TABLE, rows, (2..2 + keys).collect())])
}

/// Takes the sessions of a delta back: opens them, and gives what they have, of which the first columns are the `keys`, to `state`.
pub(super) fn take_back(
    saved: Delta,
    open: &mut OpenSessions,
    state: &mut Segments,
    schema: &SchemaRef,
    keys: usize,
) -> Result<()> {
    for table in saved {
        let rows = table.into_rows(TABLE, schema)?;
        let (starts, ends) = (event_times(rows.column(0))?, event_times(rows.column(1))?);
        let columns = &rows.columns()[2..];
        let mut numbers = Vec::new();
        open.number(&columns[..keys], rows.num_rows(), &mut numbers)?;
        let items = numbers.iter().enumerate().map(|(row, &key)| Item {
            key: key as u32,
            row: row as u32,
            span: Span { start: starts[row], end: ends[row] },
        });
        let restored = open.restore(items.collect())?;
        state.remove(restored.gone.iter().map(|number| *number as usize))?;
        state.restore(restored.numbers, columns.to_vec())?;
    }
    Ok(())
}

/// Drops the sessions that `mark` has closed.
pub(super) fn drop_closed(mark: Watermark, open: &mut OpenSessions, state: &mut Segments) -> Result<()> {
    let closed = open.close(mark)?;
    state.remove(closed.iter().map(|(number, _)| *number as usize))
}

impl Operator for SessionAggregate {
    fn on_batch(&mut self, batch: Batch, _: &mut Output) -> Result<()> {
        self.gathered.add(batch, &mut self.open)
    }

    fn on_epoch(&mut self, _: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        if !self.gathered.batches.is_empty() {
            self.take_in()?;
        }
        let closed = self.open.close(mark)?;
        if closed.is_empty() {
            return Ok(());
        }
        let numbers = || closed.iter().map(|(number, _)| *number as usize);
        let mut keys = self.state.get(numbers())?;
        self.state.remove(numbers())?;
        let states = keys.split_off(self.spec.keys.len());
        let mut accumulators = Accumulators::new(&self.spec.calls)?;
        accumulators.merge(&states, &(0..closed.len()).collect::<Vec<_>>(), closed.len())?;
        let drained = Drained { rows: closed.len(), keys, values: accumulators.results()? };
        let spans: Vec<Span> = closed.iter().map(|(_, span)| *span).collect();
        let columns = output_columns(&self.spec, Bounds::Each(&spans), drained);
        push_sliced(batch_of(Arc::clone(&self.schema), columns, spans.len())?, out);
        Ok(())
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn track(&mut self) {
        self.state.track();
    }

    fn delta(&mut self) -> Result<Delta> {
        let changed = self.state.take_changes();
        self.delta_of(&changed)
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        take_back(saved, &mut self.open, &mut self.state, &self.spec.partial_schema()?, self.spec.keys.len())
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        drop_closed(mark, &mut self.open, &mut self.state)
    }

    fn whole(&mut self) -> Result<Delta> {
        self.delta_of(&self.state.all())
    }
}
