//! Expressions and aggregates over batches: DataFusion's, behind names of our own.
//!
//! With `sql` this is the only room that names DataFusion. Everything here is vectorised and synchronous: one call
//! a batch, none a row. Columns are bound by index; the names in a batch do not matter.

mod aggregate;
mod function;
mod over;
pub mod wasm;

pub use aggregate::{Accumulate, AggregateFunction};
pub use function::ScalarFunction;
pub use over::OverCall;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::time::format_micros;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::{EmitTo, GroupsAccumulator, Operator};
use datafusion_physical_expr::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Literal};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion_physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion_physical_plan::aggregates::order::GroupOrdering;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A compiled expression: a batch in, one column of as many rows out.
#[derive(Debug, Clone)]
pub struct Expr(Arc<dyn PhysicalExpr>);

impl Expr {
    /// Wraps what the planner compiled.
    pub fn new(inner: Arc<dyn PhysicalExpr>) -> Self {
        Expr(inner)
    }

    /// What the planner compiled.
    pub fn inner(&self) -> &Arc<dyn PhysicalExpr> {
        &self.0
    }

    /// The expression that copies column `index`, called `name`.
    pub fn column(name: &str, index: usize) -> Self {
        Expr(Arc::new(datafusion_physical_expr::expressions::Column::new(name, index)))
    }

    /// The column that this expression merely copies, if it does no more than that.
    pub fn as_column(&self) -> Option<usize> {
        self.0.downcast_ref::<datafusion_physical_expr::expressions::Column>().map(|column| column.index())
    }

    /// The column that this expression copies, perhaps in another of the types that a text can have.
    pub fn as_same_text(&self) -> Option<usize> {
        let Some(cast) = self.0.downcast_ref::<datafusion_physical_expr::expressions::CastExpr>() else {
            return self.as_column();
        };
        let text = matches!(cast.cast_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
        if text { Expr(Arc::clone(cast.expr())).as_column() } else { None }
    }

    /// True if the value surely never falls where column `index` rises: it is the column, or the column less a constant.
    pub fn rises_with(&self, index: usize) -> bool {
        let Some(difference) = self.0.downcast_ref::<BinaryExpr>() else { return self.as_column() == Some(index) };
        *difference.op() == Operator::Minus
            && Expr(Arc::clone(difference.left())).as_column() == Some(index)
            && difference.right().is::<Literal>()
    }

    /// Adds the columns that it reads to `found`, in the order in which it reads them, each as often as it does.
    pub fn note_columns(&self, found: &mut Vec<usize>) {
        found.extend(self.as_column());
        self.0.children().into_iter().for_each(|part| Expr(Arc::clone(part)).note_columns(found));
    }

    /// Adds the functions in it whose code has a digest, in order.
    fn note_digests(&self, found: &mut Vec<(String, blake3::Hash)>) {
        let own = self.0.downcast_ref::<ScalarFunctionExpr>().map(|call| call.fun());
        let digest = own.and_then(|own| own.inner().downcast_ref::<ScalarFunction>()).and_then(ScalarFunction::digest);
        found.extend(own.zip(digest).map(|(own, digest)| (own.name().to_owned(), digest.into())));
        self.0.children().into_iter().for_each(|part| Expr(Arc::clone(part)).note_digests(found));
    }

    /// The same over rows from which column `n` is `value(n)`.
    pub fn over(&self, value: impl Fn(usize, &str) -> Expr) -> Result<Self> {
        let replaced = Arc::clone(&self.0).transform_up(|part| {
            match part.downcast_ref::<datafusion_physical_expr::expressions::Column>() {
                Some(column) => Ok(Transformed::yes(value(column.index(), column.name()).0)),
                None => Ok(Transformed::no(part)),
            }
        });
        replaced.map(|replaced| Expr(replaced.data)).map_err(from_datafusion)
    }

    /// The value of every row of `batch`.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::error::ErrorKind::Data) if a row has no value: a cast that fails, a division by zero.
    pub fn evaluate(&self, batch: &Batch) -> Result<ArrayRef> {
        let value = self.0.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        value.map_err(|error| from_datafusion(error).within(format!("expression {self}")))
    }

    /// As [`Expr::evaluate`], but a literal is spread over rows only when there are more than ever before; `kept` is its memory.
    fn evaluate_once(&self, batch: &Batch, kept: &mut Option<ArrayRef>) -> Result<ArrayRef> {
        if !self.0.is::<datafusion_physical_expr::expressions::Literal>() {
            return self.evaluate(batch);
        }
        let rows = batch.num_rows();
        if let Some(values) = kept.as_ref().filter(|values| values.len() >= rows) {
            return Ok(values.slice(0, rows));
        }
        let values = self.evaluate(batch)?;
        *kept = Some(Arc::clone(&values));
        Ok(values)
    }

    /// The type of the value for batches of `schema`.
    pub fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.0.data_type(schema).map_err(from_datafusion)
    }

    /// The rows of `batch` for which this expression, a boolean one, is true.
    pub fn filter(&self, batch: &Batch) -> Result<Batch> {
        let keep = self.evaluate(batch)?;
        filter_record_batch(batch, keep.as_boolean()).map_err(|error| Error::internal(error.to_string()))
    }
}

/// As SQL has it: `price > 5 AND name = 'x'`. With `{:#}` columns carry their index, literals their type, and functions whose code has a
/// digest are followed by it.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = f.alternate();
        // DataFusion prints the text of a literal without quotes. A column prints as its name, so one stands in for each literal.
        let quoted = Arc::clone(&self.0).transform_up(|part| {
            Ok(match part.downcast_ref::<Literal>() {
                Some(literal) if exact => Transformed::yes(named(&format!("{:?}", literal.value()))),
                Some(literal) => Transformed::yes(named(&literal_text(literal.value()))),
                None => Transformed::no(part),
            })
        });
        let shown = quoted.map_or_else(|_| Arc::clone(&self.0), |quoted| quoted.data);
        match exact {
            true => {
                write!(f, "{shown}")?;
                let mut digests = Vec::new();
                self.note_digests(&mut digests);
                digests.into_iter().try_for_each(|(name, digest)| write!(f, " [{name} {digest}]"))
            }
            false => shown.fmt_sql(f),
        }
    }
}

fn named(name: &str) -> Arc<dyn PhysicalExpr> {
    Arc::new(datafusion_physical_expr::expressions::Column::new(name, 0))
}

/// A literal as SQL has it.
fn literal_text(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        ScalarValue::TimestampMicrosecond(Some(micros), _) => format!("TIMESTAMP '{}'", format_micros(*micros)),
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            let days = Duration::from_secs(u64::from(interval.days.unsigned_abs()) * 86_400);
            let rest = Duration::from_nanos(interval.nanoseconds.unsigned_abs());
            match (interval.days < 0, interval.nanoseconds < 0) {
                (false, false) => format!("INTERVAL '{}'", humantime::format_duration(days + rest)),
                _ => value.to_string(),
            }
        }
        other => other.to_string(),
    }
}

/// Turns DataFusion's error into ours; what a row caused is [`ErrorKind::Data`](crate::error::ErrorKind::Data).
pub fn from_datafusion(error: DataFusionError) -> Error {
    let text = error.strip_backtrace();
    match error.find_root() {
        // what a function of ours says
        DataFusionError::External(inner) if inner.is::<Error>() => {
            inner.downcast_ref::<Error>().expect("it was asked just now").clone()
        }
        DataFusionError::Internal(_) => Error::internal(text),
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => Error::data(text),
        _ => Error::invalid(text),
    }
}

/// One aggregate of a GROUP BY: `sum(price) FILTER (WHERE sold)`.
#[derive(Debug, Clone)]
pub struct AggregateCall {
    function: Arc<AggregateFunctionExpr>,
    filter: Option<Expr>,
    /// Arguments, then the expressions of an ORDER BY inside the call.
    arguments: Vec<Expr>,
    /// What a person reads instead of the call.
    label: Option<Arc<str>>,
}

impl AggregateCall {
    /// Wraps what the planner compiled.
    pub fn new(function: Arc<AggregateFunctionExpr>, filter: Option<Expr>) -> Self {
        let order_by = function.order_bys().iter().map(|sort| Expr(Arc::clone(&sort.expr)));
        let arguments = function.expressions().into_iter().map(Expr).chain(order_by).collect();
        AggregateCall { function, filter, arguments, label: None }
    }

    /// The same call, which a person reads as `label`.
    pub fn labelled(self, label: &str) -> Self {
        AggregateCall { label: Some(label.into()), ..self }
    }

    /// The columns in which a partial result travels and is stored, in order. Names need not be unique.
    pub fn state_fields(&self) -> Result<Vec<FieldRef>> {
        let fields = self.function.state_fields().map_err(from_datafusion)?;
        // DataFusion's names repeat those of the query's tables: `sum(orders.price)[count]`.
        let named = |field: FieldRef| {
            let name = match field.name().rfind('[') {
                Some(part) => format!("{self}{}", &field.name()[part..]),
                None => field.name().split('@').next().unwrap_or_default().to_owned(),
            };
            Arc::new(field.as_ref().clone().with_name(name))
        };
        Ok(fields.into_iter().map(named).collect())
    }

    /// The column of the result.
    pub fn field(&self) -> FieldRef {
        self.function.field()
    }

    /// True if the state is one `BIGINT` that counts the input's rows, which is how late rows are counted.
    pub fn counts_rows(&self) -> bool {
        let literal = |e: &Expr| e.0.downcast_ref::<Literal>().is_some_and(|l| !l.value().is_null());
        self.function.fun().name() == "count"
            && !self.function.is_distinct()
            && self.filter.is_none()
            && self.arguments.iter().all(literal)
    }

    /// True if its accumulator gives states also where some groups have never had a row. Others take it that each has had one.
    pub fn bears_gaps(&self) -> bool {
        matches!(self.function.fun().name(), "count" | "sum")
            && !self.function.is_distinct()
            && self.function.groups_accumulator_supported()
    }

    fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        let function = Arc::clone(&self.function);
        if function.groups_accumulator_supported() {
            return function.create_groups_accumulator().map_err(from_datafusion);
        }
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }
}

impl fmt::Display for AggregateCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = f.alternate();
        if let Some(label) = self.label.as_ref().filter(|_| !exact) {
            return f.write_str(label);
        }
        let (first, ordered) = self.arguments.split_at(self.function.expressions().len());
        let list = |exprs: &[Expr]| {
            exprs.iter().map(|e| if exact { format!("{e:#}") } else { e.to_string() }).collect::<Vec<_>>()
        };
        let arguments = if self.counts_rows() && !exact { "*".to_owned() } else { list(first).join(", ") };
        write!(
            f,
            "{}({}{arguments}",
            self.function.fun().name(),
            if self.function.is_distinct() { "DISTINCT " } else { "" }
        )?;
        if !ordered.is_empty() {
            let sorts = self.function.order_bys().iter().zip(list(ordered));
            let sorts: Vec<String> = sorts
                .map(|(sort, expr)| format!("{expr}{}", if sort.options.descending { " DESC" } else { "" }))
                .collect();
            write!(f, " ORDER BY {}", sorts.join(", "))?;
        }
        f.write_str(")")?;
        let own = self.function.fun().inner().downcast_ref::<AggregateFunction>();
        if let Some(digest) = own.and_then(AggregateFunction::digest).filter(|_| exact) {
            write!(f, " [{}]", blake3::Hash::from(digest))?;
        }
        match &self.filter {
            Some(filter) if f.alternate() => write!(f, " FILTER (WHERE {filter:#})"),
            Some(filter) => write!(f, " FILTER (WHERE {filter})"),
            None => Ok(()),
        }
    }
}

/// Keys to group numbers: the n-th distinct key is group n.
pub struct Groups {
    schema: SchemaRef,
    values: Option<Box<dyn GroupValues>>,
    /// Without key columns there is one group, and it exists once a row has come.
    lone: usize,
}

impl Groups {
    /// No groups yet; keys have the columns of `schema`, which may have none.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let values = match schema.fields().is_empty() {
            true => None,
            false => Some(new_group_values(Arc::clone(&schema), &GroupOrdering::None).map_err(from_datafusion)?),
        };
        Ok(Groups { schema, values, lone: 0 })
    }

    /// Writes the group number of each of `rows` rows into `numbers`, adding groups for keys not seen before.
    pub fn intern(&mut self, keys: &[ArrayRef], rows: usize, numbers: &mut Vec<usize>) -> Result<()> {
        match &mut self.values {
            Some(values) => values.intern(keys, numbers).map_err(from_datafusion),
            None => {
                numbers.clear();
                numbers.resize(rows, 0);
                self.lone = self.lone.max(rows.min(1));
                Ok(())
            }
        }
    }

    /// How many distinct keys there are.
    pub fn len(&self) -> usize {
        self.values.as_ref().map_or(self.lone, |values| values.len())
    }

    /// True before the first row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held; may take a moment to find out.
    pub fn bytes(&self) -> usize {
        self.values.as_ref().map_or(0, |values| values.size())
    }

    /// All keys in group order; afterwards there are no groups.
    pub fn drain(&mut self) -> Result<Vec<ArrayRef>> {
        self.lone = 0;
        let Some(values) = &mut self.values else { return Ok(Vec::new()) };
        let count = values.len();
        let keys = values.emit(EmitTo::All).map_err(from_datafusion)?;
        // of keys with several columns the table of their hashes would stay
        values.clear_shrink(count);
        Ok(keys)
    }

    /// The columns of a key.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// One accumulator for each aggregate of a GROUP BY, over the same groups.
pub struct Accumulators {
    calls: Arc<[AggregateCall]>,
    inner: Vec<Accumulator>,
}

struct Accumulator {
    groups: Box<dyn GroupsAccumulator>,
    /// How many columns its state has.
    width: usize,
    /// The values of arguments that are the same for every row, as many as the longest batch so far had rows.
    constants: Vec<Option<ArrayRef>>,
}

impl Accumulators {
    /// Accumulators without a group yet.
    pub fn new(calls: &Arc<[AggregateCall]>) -> Result<Self> {
        let accumulator = |call: &AggregateCall| {
            let constants = vec![None; call.arguments.len()];
            Ok(Accumulator { groups: call.accumulator()?, width: call.state_fields()?.len(), constants })
        };
        let inner = calls.iter().map(accumulator).collect::<Result<_>>()?;
        Ok(Accumulators { calls: Arc::clone(calls), inner })
    }

    /// Adds input rows: row r of `batch` to group `numbers[r]`, of `groups` groups in all.
    pub fn update(&mut self, batch: &Batch, numbers: &[usize], groups: usize) -> Result<()> {
        for (call, accumulator) in self.calls.iter().zip(&mut self.inner) {
            let arguments = call.arguments.iter().zip(&mut accumulator.constants);
            let arguments = arguments
                .map(|(argument, constant)| argument.evaluate_once(batch, constant))
                .collect::<Result<Vec<_>>>()?;
            let filter = call.filter.as_ref().map(|filter| filter.evaluate(batch)).transpose()?;
            let filter: Option<&BooleanArray> = filter.as_ref().map(|filter| filter.as_boolean());
            accumulator
                .groups
                .update_batch(&arguments, numbers, filter, groups)
                .map_err(|error| from_datafusion(error).within(format!("aggregate {call}")))?;
        }
        Ok(())
    }

    /// Makes a first group that no row of `schema` belongs to.
    pub fn update_with_nothing(&mut self, schema: &Schema) -> Result<()> {
        for (call, accumulator) in self.calls.iter().zip(&mut self.inner) {
            let null = |argument: &Expr| Ok(new_null_array(&argument.data_type(schema)?, 1));
            let arguments = call.arguments.iter().map(null).collect::<Result<Vec<_>>>()?;
            // accumulators take it that a group has a row, so it gets one that is filtered out
            let filter = BooleanArray::from(vec![false]);
            accumulator.groups.update_batch(&arguments, &[0], Some(&filter), 1).map_err(from_datafusion)?;
        }
        Ok(())
    }

    /// Adds partial results: the state columns of all calls in order, row r to group `numbers[r]`.
    pub fn merge(&mut self, states: &[ArrayRef], numbers: &[usize], groups: usize) -> Result<()> {
        let mut rest = states;
        for accumulator in &mut self.inner {
            let (own, others) = rest.split_at(accumulator.width);
            accumulator.groups.merge_batch(own, numbers, groups).map_err(from_datafusion)?;
            rest = others;
        }
        Ok(())
    }

    /// The results of all groups in order, one column a call; afterwards there are no groups.
    pub fn results(&mut self) -> Result<Vec<ArrayRef>> {
        self.inner.iter_mut().map(|a| a.groups.evaluate(EmitTo::All).map_err(from_datafusion)).collect()
    }

    /// The partial results of all groups in order, as [`AggregateCall::state_fields`]; afterwards there are no groups.
    pub fn states(&mut self) -> Result<Vec<ArrayRef>> {
        let states = self.inner.iter_mut().map(|a| a.groups.state(EmitTo::All).map_err(from_datafusion));
        Ok(states.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.inner.iter().map(|accumulator| accumulator.groups.size()).sum()
    }
}
