//! Aggregate functions that a program brings along.
//!
//! A function says of which types its state is; an [`Accumulate`] holds the states of many groups at once. The engine has one on each
//! side of the exchange: the first takes rows and gives states, the second merges states and gives results. States are columns, so they
//! travel, are kept in checkpoints and are summed over the panes of a window like those of `sum` and `count`.

use super::function::{becomes_all, checked};
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::format_state_name;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The states of many groups, numbered from 0.
///
/// What a group's state is must not depend on the order in which its rows came, nor on how they were split before states were merged:
/// rows come in any order, and from several workers.
pub trait Accumulate: Send + Sync {
    /// Adds rows, perhaps none: row `r` of the columns `arguments` to group `groups[r]`. There are `count` groups now; those that were
    /// not there before begin without a row. Rows that a FILTER leaves out are not shown, those with NULLs are.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::error::ErrorKind::Data) if a row has no sense.
    fn accumulate(&mut self, arguments: &[ArrayRef], groups: &[usize], count: usize) -> Result<()>;
    /// Adds states that another one gave: row `r` of the columns `states` to group `groups[r]`, of `count` groups.
    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()>;
    /// The states of all groups in order, as the columns that the function declares. Afterwards there are no groups.
    fn states(&mut self) -> Result<Vec<ArrayRef>>;
    /// The results of all groups in order. Afterwards there are no groups.
    fn results(&mut self) -> Result<ArrayRef>;
    /// Bytes held, roughly.
    fn bytes(&self) -> usize;
}

type Make = dyn Fn() -> Box<dyn Accumulate> + Send + Sync;

/// An aggregate function of SQL: one value for the rows of a group.
///
/// ```
/// use arrow::array::{ArrayRef, AsArray, Int64Array};
/// use arrow::datatypes::{DataType, Int64Type};
/// use highwater::connector::extensions::Extensions;
/// use highwater::error::Result;
/// use highwater::expr::{Accumulate, AggregateFunction};
/// use std::sync::Arc;
///
/// /// How far the values of each group lie apart; the state is the least and the greatest.
/// #[derive(Default)]
/// struct Spread(Vec<Option<(i64, i64)>>);
///
/// impl Spread {
///     fn take(&mut self, group: usize, low: i64, high: i64) {
///         let seen = self.0[group].unwrap_or((low, high));
///         self.0[group] = Some((seen.0.min(low), seen.1.max(high)));
///     }
///
///     fn column(&self, value: impl Fn((i64, i64)) -> i64) -> ArrayRef {
///         Arc::new(self.0.iter().map(|seen| seen.map(&value)).collect::<Int64Array>())
///     }
/// }
///
/// impl Accumulate for Spread {
///     fn accumulate(&mut self, arguments: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
///         // a row stands for itself as both ends
///         self.merge(&[Arc::clone(&arguments[0]), Arc::clone(&arguments[0])], groups, count)
///     }
///
///     fn merge(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
///         self.0.resize(count, None);
///         let (lows, highs) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<Int64Type>());
///         for ((low, high), group) in lows.iter().zip(highs).zip(groups) {
///             if let (Some(low), Some(high)) = (low, high) {
///                 self.take(*group, low, high);
///             }
///         }
///         Ok(())
///     }
///
///     fn states(&mut self) -> Result<Vec<ArrayRef>> {
///         let states = vec![self.column(|seen| seen.0), self.column(|seen| seen.1)];
///         self.0.clear();
///         Ok(states)
///     }
///
///     fn results(&mut self) -> Result<ArrayRef> {
///         let results = self.column(|seen| seen.1 - seen.0);
///         self.0.clear();
///         Ok(results)
///     }
///
///     fn bytes(&self) -> usize {
///         self.0.capacity() * size_of::<Option<(i64, i64)>>()
///     }
/// }
///
/// let spread = AggregateFunction::new(
///     "spread",
///     [DataType::Int64],
///     [DataType::Int64, DataType::Int64],
///     DataType::Int64,
///     || Box::new(Spread::default()),
/// );
/// let extensions = Extensions::new().aggregate(spread);
/// # let _ = extensions;
/// ```
#[derive(Clone)]
pub struct AggregateFunction {
    name: String,
    signature: Signature,
    arguments: Vec<DataType>,
    states: Vec<DataType>,
    returns: DataType,
    make: Arc<Make>,
    digest: Option<[u8; 32]>,
}

impl AggregateFunction {
    /// The function that SQL calls `name`, in small letters, of at least one argument. Arguments are cast to the types `arguments` where
    /// SQL does that by itself; a state has the columns `states`; `make` gives an accumulator without groups.
    pub fn new(
        name: impl Into<String>,
        arguments: impl IntoIterator<Item = DataType>,
        states: impl IntoIterator<Item = DataType>,
        returns: DataType,
        make: impl Fn() -> Box<dyn Accumulate> + Send + Sync + 'static,
    ) -> Self {
        AggregateFunction {
            name: name.into().to_lowercase(),
            signature: Signature::user_defined(Volatility::Immutable),
            arguments: arguments.into_iter().collect(),
            states: states.into_iter().collect(),
            returns,
            make: Arc::new(make),
            digest: None,
        }
    }

    /// The same, of which the plan's fingerprint has `digest`: that of the code which all processes must have.
    pub fn with_digest(mut self, digest: [u8; 32]) -> Self {
        self.digest = Some(digest);
        self
    }

    /// What SQL calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its arguments.
    pub fn arguments(&self) -> &[DataType] {
        &self.arguments
    }

    /// The type of what it gives.
    pub fn returns(&self) -> &DataType {
        &self.returns
    }

    /// The digest of its code, if it has one.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// The function as the planner takes it.
    pub(crate) fn planned(&self) -> AggregateUDF {
        AggregateUDF::from(self.clone())
    }

    fn groups(&self) -> Checked {
        Checked { function: self.clone(), inner: (self.make)(), count: 0 }
    }
}

impl fmt::Debug for AggregateFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?}) -> {}", self.name, self.arguments, self.returns)
    }
}

// A name has one meaning in a pipeline.
impl PartialEq for AggregateFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for AggregateFunction {}

impl Hash for AggregateFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl AggregateUDFImpl for AggregateFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(self.returns.clone())
    }

    fn coerce_types(&self, given: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        becomes_all(&self.name, given, &self.arguments)
    }

    fn state_fields(&self, call: StateFieldsArgs) -> datafusion_common::Result<Vec<FieldRef>> {
        let refused = |what: &str, help: &str| {
            let error = Error::invalid(format!("{what} in {}() is not supported", self.name)).help(help);
            Err(DataFusionError::External(Box::new(error)))
        };
        if call.is_distinct {
            return refused("DISTINCT", "select the distinct rows in a query in FROM, and aggregate those");
        }
        if !call.ordering_fields.is_empty() {
            return refused("ORDER BY", "its result does not depend on the order of rows: leave it out");
        }
        let field = |(number, data_type): (usize, &DataType)| {
            Arc::new(Field::new(format_state_name(call.name, &number.to_string()), data_type.clone(), true))
        };
        Ok(self.states.iter().enumerate().map(field).collect())
    }

    fn accumulator(&self, _call: AccumulatorArgs) -> datafusion_common::Result<Box<dyn Accumulator>> {
        Ok(Box::new(Lone(self.groups())))
    }

    fn groups_accumulator_supported(&self, _call: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        _call: AccumulatorArgs,
    ) -> datafusion_common::Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.groups()))
    }
}

/// An accumulator whose answers are looked at: a wrong one is the function's mistake, and is named before it does harm.
struct Checked {
    function: AggregateFunction,
    inner: Box<dyn Accumulate>,
    count: usize,
}

impl Checked {
    fn accumulate(&mut self, arguments: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.count = self.count.max(count);
        self.inner.accumulate(arguments, groups, self.count)
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.count = self.count.max(count);
        self.inner.merge(states, groups, self.count)
    }

    fn states(&mut self) -> Result<Vec<ArrayRef>> {
        let count = std::mem::take(&mut self.count);
        let states = self.inner.states()?;
        let wanted = &self.function.states;
        if states.len() != wanted.len() {
            let (name, found) = (&self.function.name, states.len());
            return Err(Error::invalid(format!("{name}() gave {found} columns of state, not {}", wanted.len())));
        }
        states.iter().zip(wanted).try_for_each(|(column, wanted)| {
            checked(&format!("the state of {}()", self.function.name), column, wanted, count, "groups")
        })?;
        Ok(states)
    }

    fn results(&mut self) -> Result<ArrayRef> {
        let count = std::mem::take(&mut self.count);
        let results = self.inner.results()?;
        checked(&format!("{}()", self.function.name), &results, &self.function.returns, count, "groups")?;
        Ok(results)
    }

    /// The states, which stay as they are.
    fn copied(&mut self) -> Result<Vec<ArrayRef>> {
        let count = self.count;
        let states = self.states()?;
        self.merge(&states, &(0..count).collect::<Vec<_>>(), count)?;
        Ok(states)
    }
}

/// Our error on its way through DataFusion.
fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn all_of(emit: EmitTo) -> Result<()> {
    match emit {
        EmitTo::All => Ok(()),
        EmitTo::First(_) => Err(Error::internal("groups leave all at once")),
    }
}

impl GroupsAccumulator for Checked {
    fn update_batch(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        chosen: Option<&BooleanArray>,
        count: usize,
    ) -> datafusion_common::Result<()> {
        let Some(chosen) = chosen else { return self.accumulate(arguments, groups, count).map_err(external) };
        let arguments = arguments.iter().map(|column| filter(column, chosen)).collect::<Result<Vec<_>, _>>()?;
        let counts = chosen.iter().map(|chosen| chosen == Some(true));
        let groups: Vec<usize> = groups.iter().zip(counts).filter(|(_, counts)| *counts).map(|(g, _)| *g).collect();
        self.accumulate(&arguments, &groups, count).map_err(external)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> datafusion_common::Result<()> {
        self.merge(states, groups, count).map_err(external)
    }

    fn evaluate(&mut self, emit: EmitTo) -> datafusion_common::Result<ArrayRef> {
        all_of(emit).and_then(|()| self.results()).map_err(external)
    }

    fn state(&mut self, emit: EmitTo) -> datafusion_common::Result<Vec<ArrayRef>> {
        all_of(emit).and_then(|()| self.states()).map_err(external)
    }

    fn convert_to_state(
        &self,
        arguments: &[ArrayRef],
        chosen: Option<&BooleanArray>,
    ) -> datafusion_common::Result<Vec<ArrayRef>> {
        let rows = arguments.first().map_or(0, |column| column.len());
        let mut each = self.function.groups();
        each.update_batch(arguments, &(0..rows).collect::<Vec<_>>(), chosen, rows)?;
        each.states().map_err(external)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.inner.bytes()
    }
}

/// One group, which may be asked again and again.
struct Lone(Checked);

impl fmt::Debug for Lone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one group of {:?}", self.0.function)
    }
}

impl Accumulator for Lone {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> datafusion_common::Result<()> {
        let rows = arguments.first().map_or(0, |column| column.len());
        self.0.accumulate(arguments, &vec![0; rows], 1).map_err(external)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion_common::Result<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge(states, &vec![0; rows], 1).map_err(external)
    }

    fn evaluate(&mut self) -> datafusion_common::Result<ScalarValue> {
        let states = self.state()?;
        let columns = states.iter().map(|state| state.to_array_of_size(1)).collect::<Result<Vec<_>, _>>()?;
        let mut once = self.0.function.groups();
        once.merge(&columns, &[0], 1).map_err(external)?;
        ScalarValue::try_from_array(&once.results().map_err(external)?, 0)
    }

    fn state(&mut self) -> datafusion_common::Result<Vec<ScalarValue>> {
        if self.0.count == 0 {
            // a group without rows is one, too
            let nothing: Vec<ArrayRef> = self.0.function.arguments.iter().map(arrow::array::new_empty_array).collect();
            self.0.accumulate(&nothing, &[], 1).map_err(external)?;
        }
        let states = self.0.copied().map_err(external)?;
        states.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.inner.bytes()
    }
}
