//! Collections: the part of a dataflow whose rows may be taken back, on differential dataflow.
//!
//! A row is bytes that compare as its values do. Rows enter from batches, by the key of the step that reads them, and are *arranged*:
//! indexed by key and shared by all steps that read the same rows by the same key. What a step says leaves as batches when its epoch is
//! complete, consolidated, so that an epoch's output is the change of the answer over exactly the rows up to it.
//!
//! Collections keep nothing in checkpoints. When a run goes on, the steps that guard their entrance (`Action::Keep`) say all rows once
//! more at the time before the first epoch; everything is made of them again, and what comes out at that time is left out where it leaves
//! collections for good ([`edge::fresh`]).

pub mod edge;
mod join;
mod layout;
mod reduce;
pub mod rounds;
mod sorting;

use super::exchange::Router;
use super::operators::carried;
use super::steps::{Rows, Site};
use super::worker::{Local, router};
use crate::batch::{Batch, from_arrow};
use crate::error::{Error, Result};
use crate::plan::{Action, Emit, Joining, Reducing, Route, SortColumn, StepId, compared};
use crate::time::Epoch;
use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, RowParser, SortField};
use edge::When;
use layout::Indexed;
use sorting::Packed;
use std::collections::HashMap;
use std::sync::Arc;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};

/// A row, or a part of one.
pub type Row = Box<[u8]>;

/// Rows with their weights.
pub type Collected<'scope, T, D> = differential_dataflow::VecCollection<'scope, T, D, i64>;

/// Encodes some columns of a batch as rows, and back.
pub struct Coder {
    columns: Vec<usize>,
    converter: RowConverter,
    parser: RowParser,
}

impl Coder {
    /// For the `columns` of batches with the columns of `schema`.
    pub fn new(schema: &Schema, columns: Vec<usize>) -> Result<Self> {
        Coder::ordered(schema, columns.into_iter().map(|column| (column, SortOptions::default())).collect())
    }

    /// The same, each column in an order of its own.
    fn ordered(schema: &Schema, columns: Vec<(usize, SortOptions)>) -> Result<Self> {
        let field = |(column, options): &(usize, SortOptions)| {
            SortField::new_with_options(schema.field(*column).data_type().clone(), *options)
        };
        let converter = RowConverter::new(columns.iter().map(field).collect()).map_err(from_arrow)?;
        let columns = columns.into_iter().map(|(column, _)| column).collect();
        Ok(Coder { columns, parser: converter.parser(), converter })
    }

    /// The rows of `batch`.
    pub fn encode(&self, batch: &Batch) -> Result<Vec<Row>> {
        if self.columns.is_empty() {
            return Ok(vec![Row::default(); batch.num_rows()]);
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
        let rows = self.converter.convert_columns(&columns).map_err(from_arrow)?;
        Ok(rows.iter().map(|row| row.as_ref().into()).collect())
    }

    /// The same without memory of their own, each behind its mark if there are some.
    fn pack(&self, batch: &Batch, marks: &[u8]) -> Result<Packed> {
        let mut packed = Packed::default();
        let mark = |row: usize| marks.get(row..row + 1).unwrap_or_default();
        if self.columns.is_empty() {
            (0..batch.num_rows()).for_each(|row| packed.push(&[mark(row)]));
            return Ok(packed);
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
        let rows = self.converter.convert_columns(&columns).map_err(from_arrow)?;
        rows.iter().enumerate().for_each(|(n, row)| packed.push(&[mark(n), row.as_ref()]));
        Ok(packed)
    }

    /// The columns of `rows`, in the order of the coder's columns.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        self.converter.convert_rows(rows.into_iter().map(|row| self.parser.parse(row))).map_err(from_arrow)
    }

    /// A row of NULLs.
    pub fn nulls(&self, schema: &Schema) -> Result<Row> {
        let nulls =
            self.columns.iter().map(|column| arrow::array::new_null_array(schema.field(*column).data_type(), 1));
        let columns: Vec<ArrayRef> = nulls.collect();
        if columns.is_empty() {
            return Ok(Row::default());
        }
        let rows = self.converter.convert_columns(&columns).map_err(from_arrow)?;
        Ok(rows.row(0).as_ref().into())
    }
}

/// How a key says that NULL in it equals nothing, not even the NULL of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nulls {
    /// They are values like others.
    Equal,
    /// A key with NULL is not that of any row of another side.
    OfSide(u8),
}

/// The columns of a step's rows: those of a key, and the others.
pub struct Split {
    pub key: Coder,
    pub rest: Coder,
}

impl Split {
    /// Splits the columns of `schema` by `keys`.
    pub fn new(schema: &Schema, keys: &[usize]) -> Result<Self> {
        Split::ordered(schema, keys, &[])
    }

    /// The same, where the others compare as `order` says and then as all of them.
    pub fn ordered(schema: &Schema, keys: &[usize], order: &[SortColumn]) -> Result<Self> {
        let rest = compared(order, schema.fields().len(), keys);
        Ok(Split { key: Coder::new(schema, keys.to_vec())?, rest: Coder::ordered(schema, rest)? })
    }

    /// Where each column of the rows is among those of the key and then the others.
    pub fn places(&self) -> Vec<usize> {
        let mut places = vec![0; self.key.columns.len() + self.rest.columns.len()];
        let there = self.key.columns.iter().chain(&self.rest.columns).enumerate();
        there.for_each(|(place, column)| places[*column] = place);
        places
    }
}

/// What the steps of one dataflow share.
#[derive(Default)]
pub struct Collections<'scope> {
    arranged: HashMap<(StepId, Route, Nulls, Vec<SortColumn>), Indexed<'scope, Epoch>>,
}

impl<'scope> Collections<'scope> {
    /// The rows that step `id`, an [`Action::Join`] of collections or an [`Action::Reduce`], makes of its `inputs`.
    pub fn step(&mut self, id: StepId, inputs: Vec<Rows<'scope>>, local: &Local) -> Result<Rows<'scope>> {
        match &local.plan.steps[id].action {
            Action::Join(spec) => self.join(id, spec, inputs, local),
            Action::Reduce(spec) => self.reduce(id, spec, inputs, local),
            _ => Err(Error::internal("no step over collections")),
        }
    }

    /// Input `n` of step `id` by key; what is beside the key compares as `order` says.
    fn indexed(
        &mut self,
        id: StepId,
        n: usize,
        (keys, order): (&[usize], &[SortColumn]),
        nulls: Nulls,
        rows: Rows<'scope>,
        local: &Local,
    ) -> Result<Indexed<'scope, Epoch>> {
        let input = &local.plan.steps[id].inputs[n];
        let schema = carried(&local.plan, input.from);
        let values = &local.plan.steps[input.from].schema;
        let nullable = keys.iter().any(|key| values.field(*key).is_nullable());
        let nulls = if nullable { nulls } else { Nulls::Equal };
        let by = if keys.is_empty() { Route::Single } else { Route::Key(keys.to_vec()) };
        let known = (input.from, by, nulls, order.to_vec());
        if let Some(arranged) = self.arranged.get(&known) {
            return Ok(arranged.clone());
        }
        let site = Site { id, input: schema, cells: local.cells(id), local: local.clone() };
        let split = Split::ordered(values, keys, order)?;
        let encoded = if rows.scope().peers() == 1 || input.route == Route::Forward {
            edge::enter(rows, Pipeline, site, split, nulls)
        } else {
            let router: Router = router(&input.route, &site.input, &site);
            edge::enter(rows, DistributorPact(|_| router), site, split, nulls)
        };
        let name = format!("arrange {}", local.plan.steps[input.from].name);
        let arranged = layout::of_epochs(encoded, &name);
        self.arranged.insert(known, arranged.clone());
        Ok(arranged)
    }

    fn join(&mut self, id: StepId, spec: &Joining, inputs: Vec<Rows<'scope>>, local: &Local) -> Result<Rows<'scope>> {
        let step = &local.plan.steps[id];
        let schemas = [0, 1].map(|side| Arc::clone(&local.plan.steps[step.inputs[side].from].schema));
        let mut indexed = Vec::new();
        for (side, rows) in inputs.into_iter().enumerate() {
            let nulls = if spec.nulls_equal { Nulls::Equal } else { Nulls::OfSide(side as u8 + 1) };
            indexed.push(self.indexed(id, side, (&spec.sides[side].keys, &[]), nulls, rows, local)?);
        }
        let (Some(right), Some(left)) = (indexed.pop(), indexed.pop()) else {
            return Err(Error::internal("a join has two inputs"));
        };
        let site = Site { id, input: Arc::clone(&step.schema), cells: local.cells(id), local: local.clone() };
        let shape = join::Shape::new(spec, &schemas, site.clone())?;
        let output = shape.output()?;
        // a row that leaves may cancel out a pair of the same epoch
        let stand = step.inputs.iter().all(|input| local.plan.steps[input.from].emit != Emit::Updating);
        let when = if stand { When::AtOnce } else { When::Complete };
        Ok(match shape.gives_all_pairs() {
            true => edge::leave(join::pairs(left, right), output, when, site),
            false => edge::leave(edge::gathered(join::join(shape, left, right)), output, When::Complete, site),
        })
    }

    fn reduce(
        &mut self,
        id: StepId,
        spec: &Reducing,
        inputs: Vec<Rows<'scope>>,
        local: &Local,
    ) -> Result<Rows<'scope>> {
        let step = &local.plan.steps[id];
        let rows = inputs.into_iter().next().ok_or_else(|| Error::internal("a reduction has an input"))?;
        let indexed = self.indexed(id, 0, (&spec.keys, spec.order()), Nulls::Equal, rows, local)?;
        let input = Arc::clone(&local.plan.steps[step.inputs[0].from].schema);
        let site = Site { id, input: Arc::clone(&step.schema), cells: local.cells(id), local: local.clone() };
        let coder = Coder::new(&step.schema, (0..step.schema.fields().len()).collect())?;
        let places = (0..step.schema.fields().len()).collect();
        let rows = reduce::reduce(spec, &input, &step.schema, indexed, site.clone())?;
        Ok(edge::leave(edge::gathered(rows), edge::Output { coder, places }, When::Complete, site))
    }
}
