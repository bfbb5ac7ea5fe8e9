//! Stateless stages, fused: filter, project, unnest, assign windows.
//!
//! Stages never wait and remember nothing. On an updating stream the weight stays the last column through all of them.

use super::panes::{Span, event_times};
use super::{Operator, Output};
use crate::batch::{BATCH_ROWS, Batch, batch_of, from_arrow, take_rows};
use crate::error::{Error, Result};
use crate::plan::{Stage, Transform, WEIGHT, Windows};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// Rows that are taken at a time where each becomes several, so that what they become stays in the processor's cache.
const ROWS_TO_UNNEST: usize = BATCH_ROWS / 8;

/// The stages of one step.
pub struct Transforms {
    stages: Vec<Stage>,
    rows_at_a_time: usize,
}

impl Transforms {
    /// Runs `stages` in order. If the input is `updating`, its last column is the weight, and so is the output's.
    pub fn new(stages: &[Stage], updating: bool) -> Self {
        let weighted = |stage: &Stage| Stage { schema: with_weight(&stage.schema), ..stage.clone() };
        let grows =
            |stage: &Stage| matches!(stage.transform, Transform::Unnest { .. } | Transform::AssignWindows { .. });
        Transforms {
            stages: stages.iter().map(|stage| if updating { weighted(stage) } else { stage.clone() }).collect(),
            rows_at_a_time: if stages.iter().any(grows) { ROWS_TO_UNNEST } else { usize::MAX },
        }
    }

    fn pass(&self, mut rows: Batch, out: &mut Output) -> Result<()> {
        for stage in &self.stages {
            if rows.num_rows() == 0 {
                return Ok(());
            }
            rows = run(stage, rows)?;
        }
        out.push(rows);
        Ok(())
    }
}

/// Gives rows that stand a weight of 1; it has the columns of what comes out.
pub struct Weigh(pub SchemaRef);

impl Operator for Weigh {
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        out.push(crate::batch::changes::added(&batch, &self.0)?);
        Ok(())
    }
}

/// `schema` with the weight as its last column.
pub fn with_weight(schema: &Schema) -> SchemaRef {
    let weight = Arc::new(Field::new(WEIGHT, DataType::Int64, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([weight]).collect::<Vec<_>>()))
}

impl Operator for Transforms {
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        let count = batch.num_rows();
        (0..count)
            .step_by(self.rows_at_a_time)
            .try_for_each(|from| self.pass(batch.slice(from, self.rows_at_a_time.min(count - from)), out))
    }
}

fn run(stage: &Stage, rows: Batch) -> Result<Batch> {
    match &stage.transform {
        Transform::Filter(keep) => keep.filter(&rows),
        Transform::Project(columns) => {
            let mut values = columns.iter().map(|column| column.evaluate(&rows)).collect::<Result<Vec<_>>>()?;
            if values.len() < stage.schema.fields().len() {
                values.extend(rows.columns().last().cloned()); // the weight
            }
            batch_of(Arc::clone(&stage.schema), values, rows.num_rows())
        }
        Transform::Unnest { column } => unnest(stage, rows, *column),
        Transform::AssignWindows { time, windows } => assign_windows(stage, rows, *time, *windows),
    }
}

/// One row for each element of the list; the other columns are repeated.
fn unnest(stage: &Stage, rows: Batch, column: usize) -> Result<Batch> {
    let lists = rows.column(column).as_list_opt::<i32>();
    let lists = lists.ok_or_else(|| Error::internal(format!("UNNEST of a {}", rows.column(column).data_type())))?;
    let elements = elements(lists)?;
    let count = elements.len();
    let parents = (rows.num_columns() > 1).then(|| parents(lists, count));
    let columns = rows.columns().iter().enumerate().map(|(index, values)| match &parents {
        Some(parents) if index != column => take(values, parents, None).map_err(from_arrow),
        _ => Ok(Arc::clone(&elements)),
    });
    batch_of(Arc::clone(&stage.schema), columns.collect::<Result<Vec<_>>>()?, count)
}

/// The elements of all lists in order; what lies under a NULL list is left out.
fn elements(lists: &ListArray) -> Result<ArrayRef> {
    let offsets = lists.value_offsets();
    let (first, last) = (offsets[0] as usize, offsets[lists.len()] as usize);
    let hidden = (0..lists.len()).any(|row| lists.is_null(row) && offsets[row] != offsets[row + 1]);
    if !hidden {
        return Ok(lists.values().slice(first, last - first));
    }
    let shown = (0..lists.len())
        .filter(|&row| lists.is_valid(row))
        .flat_map(|row| offsets[row] as u32..offsets[row + 1] as u32);
    take(lists.values(), &UInt32Array::from_iter_values(shown), None).map_err(from_arrow)
}

/// For each element the row that its list stands in.
fn parents(lists: &ListArray, count: usize) -> UInt32Array {
    let mut parents = Vec::with_capacity(count);
    for row in (0..lists.len()).filter(|&row| lists.is_valid(row)) {
        parents.resize(parents.len() + lists.value_length(row) as usize, row as u32);
    }
    UInt32Array::from(parents)
}

/// Adds `window_start`, `window_end` and `window_time`; rows in several windows are repeated, the earliest window first.
fn assign_windows(stage: &Stage, rows: Batch, time: usize, windows: Windows) -> Result<Batch> {
    let times = event_times(rows.column(time))?;
    let mut spans: Vec<Span> = Vec::with_capacity(times.len());
    let mut indices = Vec::with_capacity(times.len());
    for (row, &time) in times.iter().enumerate() {
        spans.extend(windows.covering(windows.pane_of(time)));
        indices.resize(spans.len(), row as u32);
    }
    let rows = if windows.overlap() { take_rows(&rows, indices)? } else { rows };
    let bound = |of: fn(&Span) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(spans.iter().map(of)))
    };
    let mut columns = rows.columns().to_vec();
    let weight = columns.pop_if(|_| rows.schema_ref().fields().last().is_some_and(|field| field.name() == WEIGHT));
    columns.extend([bound(|span| span.start), bound(|span| span.end), bound(|span| span.end - 1)]);
    columns.extend(weight);
    batch_of(Arc::clone(&stage.schema), columns, spans.len())
}

/// The rows of an updating stream that are added, without their weight.
pub fn insertions(rows: &Batch, schema: &SchemaRef) -> Result<Batch> {
    let weights = rows.column(rows.num_columns() - 1).as_primitive::<arrow::datatypes::Int64Type>();
    let zero = Int64Array::new_scalar(0);
    let added = arrow::compute::kernels::cmp::gt(weights, &zero).map_err(from_arrow)?;
    let rows = arrow::compute::filter_record_batch(rows, &added).map_err(from_arrow)?;
    batch_of(Arc::clone(schema), rows.columns()[..rows.num_columns() - 1].to_vec(), rows.num_rows())
}
