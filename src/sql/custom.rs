//! Operators of a program's own in FROM: `TABLE(name(TABLE t PARTITION BY key, …))`.

use super::place::through;
use super::planner::{Planner, Stream};
use super::statements::PARTITION_BY;
use super::windows::{at, relation};
use crate::error::Error;
use crate::operator::CustomOperator;
use crate::plan::{Action, Emit, Input, Route};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::{Column, DFSchema, DFSchemaRef, Result, internal_err};
use datafusion_expr::logical_plan::{Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{Cast, Expr};
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, TableFactor};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// An operator over the rows of `input`.
#[derive(Clone)]
pub(super) struct CustomCall {
    pub input: Arc<LogicalPlan>,
    /// The columns by which rows find their worker; without any they all go to one.
    pub key: Vec<Column>,
    pub operator: Arc<dyn CustomOperator>,
    schema: DFSchemaRef,
}

impl CustomCall {
    fn new(input: LogicalPlan, key: Vec<Column>, operator: Arc<dyn CustomOperator>) -> Result<Self> {
        let columns: SchemaRef = Arc::new(input.schema().as_arrow().clone());
        let given = operator.schema(&columns).map_err(through)?;
        let schema = Arc::new(DFSchema::try_from(Schema::clone(&given))?);
        Ok(CustomCall { input: Arc::new(input), key, operator, schema })
    }

    fn parts(&self) -> (&LogicalPlan, &[Column], &str) {
        (&self.input, &self.key, self.operator.name())
    }
}

impl fmt::Debug for CustomCall {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} by {:?}", self.operator.name(), self.key)
    }
}

impl PartialEq for CustomCall {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for CustomCall {}

impl Hash for CustomCall {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialOrd for CustomCall {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input).filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for CustomCall {
    fn name(&self) -> &str {
        "CustomCall"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.key.iter().cloned().map(Expr::Column).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CustomCall: {self:?}")
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let key = exprs.into_iter().map(|expr| match expr {
            Expr::Column(column) => Ok(column),
            expr => internal_err!("an operator by {expr:?}"),
        });
        let key = key.collect::<Result<_>>()?;
        match inputs.pop() {
            Some(input) => CustomCall::new(input, key, Arc::clone(&self.operator)),
            None => internal_err!("an operator over nothing"),
        }
    }
}

/// Plans calls of operators by name.
pub(super) struct CustomFunctions(pub Vec<Arc<dyn CustomOperator>>);

impl fmt::Debug for CustomFunctions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|operator| operator.name())).finish()
    }
}

impl RelationPlanner for CustomFunctions {
    fn plan_relation(&self, table: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let name = match &table {
            TableFactor::Table { name, args: Some(_), .. } => name.to_string(),
            TableFactor::TableFunction { expr: ast::Expr::Function(function), .. } => function.name.to_string(),
            _ => return Ok(RelationPlanning::Original(Box::new(table))),
        };
        let name = name.trim_matches('"');
        let Some(operator) = self.0.iter().find(|operator| operator.name().eq_ignore_ascii_case(name)) else {
            return Ok(RelationPlanning::Original(Box::new(table)));
        };
        let (name, arguments, alias) = match table {
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, args.args, alias),
            TableFactor::TableFunction { expr: ast::Expr::Function(function), alias } => match function.args {
                FunctionArguments::List(list) => (function.name, list.args, alias),
                _ => (function.name, Vec::new(), alias),
            },
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let wrong = |reason: String| {
            let usage = format!(
                "write TABLE({name}(TABLE t PARTITION BY key)), or without PARTITION BY to have all rows on one worker"
            );
            at(&name, Error::invalid(format!("{name}: {reason}")).help(usage))
        };
        let mut values = arguments.into_iter().map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Ok(value),
            _ => Err(wrong("arguments have no names here".into())),
        });
        let data = values.next().ok_or_else(|| wrong("the rows are missing".into()))??;
        let input = plain(context.plan(relation(data).map_err(&wrong)?)?)?;
        let mut key = Vec::new();
        match values.next().transpose()? {
            None => {}
            Some(ast::Expr::Identifier(mark)) if mark.value == PARTITION_BY => {
                for value in values {
                    let value = value?;
                    match context.sql_to_expr(value.clone(), input.schema())? {
                        Expr::Column(column) => key.push(column),
                        _ => {
                            return Err(at(
                                &value,
                                Error::invalid("a key here is a column, not an expression")
                                    .help("compute it in a query that stands in the table's place"),
                            ));
                        }
                    }
                }
            }
            Some(other) => return Err(at(&other, Error::invalid(format!("{name} takes rows and nothing else")))),
        }
        let node = CustomCall::new(input, key, Arc::clone(operator)).map_err(|error| match error.find_root() {
            datafusion_common::DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
                Some(ours) => at(&name, ours.clone().about(operator.name())),
                None => error,
            },
            _ => error,
        })?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// The rows with texts and bytes in the one form that CREATE TABLE gives them: an operator need not know of others.
fn plain(input: LogicalPlan) -> Result<LogicalPlan> {
    let columns = input.schema().iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        let wanted = match field.data_type() {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
            _ => return column,
        };
        Expr::Cast(Cast::new(Box::new(column), wanted)).alias_qualified(qualifier.cloned(), field.name())
    });
    let columns: Vec<Expr> = columns.collect();
    match columns.iter().all(|column| matches!(column, Expr::Column(_))) {
        true => Ok(input),
        false => LogicalPlanBuilder::from(input).project(columns)?.build(),
    }
}

impl Planner<'_> {
    /// The step of an operator: its rows by key, with the columns that it was shown.
    pub(super) fn custom(&mut self, call: &CustomCall, last: bool) -> crate::error::Result<Stream> {
        let mut stream = self.lower(&call.input, last)?;
        let name = call.operator.name().to_owned();
        if stream.emit == Emit::Updating {
            return Err(Error::invalid(format!(
                "{name} over {} is not supported: an operator takes rows that stand",
                self.changing(stream.base)
            ))
            .help("give the GROUP BY before it a window, or end the INSERT with EMIT FINAL if the input ends"));
        }
        let schema = call.input.schema();
        self.exactly(&mut stream, schema.fields())?;
        self.materialise(&mut stream)?;
        let place = |column: &Column| {
            schema.maybe_index_of_column(column).ok_or_else(|| Error::internal(format!("no column {column}")))
        };
        let key = call.key.iter().map(place).collect::<crate::error::Result<Vec<_>>>()?;
        let rows = call.operator.schema(&stream.rows)?;
        let route = if key.is_empty() { Route::Single } else { Route::Key(key) };
        let called = match call.key.is_empty() {
            true => name,
            false => format!("{name} by {}", call.key.iter().map(Column::name).collect::<Vec<_>>().join(", ")),
        };
        let input = Input { from: stream.base, route };
        let action = Action::Custom(Arc::clone(&call.operator));
        let base = self.step(called, action, vec![input], Arc::clone(&rows), Emit::Append);
        Ok(Stream::of_step(base, rows, Emit::Append))
    }
}
