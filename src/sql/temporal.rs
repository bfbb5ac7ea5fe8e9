//! `JOIN t FOR SYSTEM_TIME AS OF time ON …`, where the time may be `PROCTIME()`, and `ASOF JOIN t MATCH_CONDITION (…) ON …`, which DataFusion does not know.
//!
//! In the syntax tree such a join becomes a plain one whose condition says in a function with an odd name what it is; in the plan that DataFusion
//! makes of it the join becomes a [`TemporalJoin`] node, so that the optimiser moves nothing through it that chooses among versions.

use super::late::with_own_views;
use arrow::datatypes::DataType;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchemaRef, JoinType, Result, internal_err};
use datafusion_expr::logical_plan::builder::build_join_schema;
use datafusion_expr::logical_plan::{Extension, Join, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sqlparser::ast::{
    self, BinaryOperator, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    JoinConstraint, JoinOperator, ObjectName, Query, Select, Spanned, TableFactor, VisitMut, VisitorMut,
};
use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What marks the outer form in front of a MATCH_CONDITION.
pub(super) const ASOF_LEFT: &str = "ASOF LEFT";

/// The functions that say what a join is.
pub(super) const SYSTEM_TIME: &str = "FOR SYSTEM_TIME AS OF";
const MATCH: &str = "MATCH_CONDITION";
const NOW: &str = "FOR SYSTEM_TIME AS OF PROCTIME()";

/// Rows of `left`, each with the newest row of `right` at its time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TemporalJoin {
    pub left: Arc<LogicalPlan>,
    pub right: Arc<LogicalPlan>,
    /// True if rows without a partner leave, too.
    pub outer: bool,
    pub newest: Newest,
    /// What the newest row is asked for: equal keys among the rest.
    pub condition: Option<Expr>,
    schema: DFSchemaRef,
}

/// Which row is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Newest {
    /// The version at this time.
    At(Expr),
    /// The newest one of those that meet this comparison of times.
    Of(Expr),
    /// What a table outside says when it is asked.
    Answer,
}

impl TemporalJoin {
    fn new(
        left: LogicalPlan,
        right: LogicalPlan,
        outer: bool,
        newest: Newest,
        condition: Option<Expr>,
    ) -> Result<Self> {
        let kind = if outer { JoinType::Left } else { JoinType::Inner };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &kind)?);
        Ok(TemporalJoin { left: Arc::new(left), right: Arc::new(right), outer, newest, condition, schema })
    }
}

impl PartialOrd for TemporalJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let inputs = self.left.partial_cmp(&other.left)?.then(self.right.partial_cmp(&other.right)?);
        Some(inputs).filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for TemporalJoin {
    fn name(&self) -> &str {
        "TemporalJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let newest = match &self.newest {
            Newest::At(newest) | Newest::Of(newest) => Some(newest),
            Newest::Answer => None,
        };
        newest.into_iter().chain(&self.condition).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TemporalJoin: {:?} on {:?}", self.newest, self.condition)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        // the optimiser names what it has simplified as it was before
        let (mut exprs, mut inputs) = (exprs.into_iter().map(Expr::unalias), inputs.into_iter());
        let (Some(left), Some(right)) = (inputs.next(), inputs.next()) else {
            return internal_err!("a join without its inputs");
        };
        let newest = match self.newest {
            Newest::Answer => Some(Newest::Answer),
            Newest::At(_) => exprs.next().map(Newest::At),
            Newest::Of(_) => exprs.next().map(Newest::Of),
        };
        let Some(newest) = newest else { return internal_err!("a join without its time") };
        TemporalJoin::new(left, right, self.outer, newest, exprs.next())
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (mut left, right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|column| **column < width);
        let mut right: Vec<usize> = right.into_iter().map(|column| column - width).collect();
        // one of them is its event time, if it has one
        let timed = !matches!(self.newest, Newest::Answer);
        let moments = self.right.schema().fields().iter().enumerate();
        right.extend(
            moments
                .filter(|(_, field)| timed && matches!(field.data_type(), DataType::Timestamp(..)))
                .map(|(place, _)| place),
        );
        for expr in self.expressions() {
            for column in expr.column_refs() {
                left.extend(self.left.schema().maybe_index_of_column(column));
                right.extend(self.right.schema().maybe_index_of_column(column));
            }
        }
        for needed in [&mut left, &mut right] {
            needed.sort_unstable();
            needed.dedup();
        }
        Some(vec![left, right])
    }
}

/// `plan` with its marked joins as what they are.
pub(super) fn joined(plan: LogicalPlan) -> Result<LogicalPlan> {
    let joined = plan.transform_up_with_subqueries(|part| match part {
        LogicalPlan::Join(join) => match temporal(&join)? {
            Some(temporal) => Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(temporal) }))),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        _ => Ok(Transformed::no(part)),
    });
    joined.map(|joined| joined.data)
}

fn temporal(join: &Join) -> Result<Option<TemporalJoin>> {
    let mut newest = None;
    let mut rest: Vec<Expr> = join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).collect();
    for part in join.filter.iter().flat_map(split_conjunction) {
        match part {
            Expr::ScalarFunction(call) if newest.is_none() && call.name() == SYSTEM_TIME => {
                newest = call.args.first().cloned().map(Newest::At);
            }
            Expr::ScalarFunction(call) if newest.is_none() && call.name() == MATCH => {
                newest = call.args.first().cloned().map(Newest::Of);
            }
            Expr::ScalarFunction(call) if newest.is_none() && call.name() == NOW => newest = Some(Newest::Answer),
            other => rest.push(other.clone()),
        }
    }
    let Some(newest) = newest else { return Ok(None) };
    let (left, right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
    let right = match newest {
        // what a view chooses is asked of a version, so the view is not made for others, too
        Newest::At(_) | Newest::Answer => with_own_views(right)?,
        Newest::Of(_) => right,
    };
    let outer = join.join_type == JoinType::Left;
    TemporalJoin::new(left, right, outer, newest, conjunction(rest)).map(Some)
}

/// The function `name` that says what a join is, if it is one of those.
pub(super) fn mark(name: &str) -> Option<Arc<ScalarUDF>> {
    let name = [SYSTEM_TIME, MATCH, NOW].into_iter().find(|mark| *mark == name)?;
    Some(Arc::new(ScalarUDF::new_from_impl(Mark { name, signature: Signature::any(1, Volatility::Volatile) })))
}

/// True if `name` was written by [`rewrite`], not in the text.
pub(super) fn is_mark(name: &ObjectName) -> bool {
    let [part] = name.0.as_slice() else { return false };
    part.as_ident().is_some_and(|ident| [SYSTEM_TIME, MATCH, NOW].contains(&ident.value.as_str()))
}

/// It is never called: [`joined`] takes it away.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{} outside of a join", self.name)
    }
}

/// Rewrites every such join in `query`. Forms that cannot be planned stay, to be refused.
pub(super) fn rewrite(query: &mut Query) {
    let _ = query.visit(&mut Joins);
}

struct Joins;

impl VisitorMut for Joins {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for join in select.from.iter_mut().flat_map(|table| &mut table.joins) {
            match &mut join.join_operator {
                JoinOperator::Join(JoinConstraint::On(on))
                | JoinOperator::Inner(JoinConstraint::On(on))
                | JoinOperator::Left(JoinConstraint::On(on))
                | JoinOperator::LeftOuter(JoinConstraint::On(on)) => {
                    if let Some(time) = system_time(&join.relation).cloned()
                        && let TableFactor::Table { args, .. } = &mut join.relation
                    {
                        *args = None;
                        *on = also(
                            on.clone(),
                            if is_now(&time) { marked(NOW, true_at(&time)) } else { marked(SYSTEM_TIME, time) },
                        );
                    }
                }
                JoinOperator::AsOf { match_condition, constraint } => {
                    let (condition, outer) = match match_condition.clone() {
                        ast::Expr::BinaryOp { left, op: BinaryOperator::And, right } if is_asof_left(&left) => {
                            (*right, true)
                        }
                        condition => (condition, false),
                    };
                    let mark = marked(MATCH, condition);
                    let on = match constraint.clone() {
                        JoinConstraint::On(on) => also(on, mark),
                        JoinConstraint::None => mark,
                        JoinConstraint::Using(_) | JoinConstraint::Natural => continue,
                    };
                    let on = JoinConstraint::On(on);
                    join.join_operator = if outer { JoinOperator::Left(on) } else { JoinOperator::Inner(on) };
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// What FOR SYSTEM_TIME AS OF says behind `table`, which the statement's tokens have as its arguments.
pub(super) fn system_time(table: &TableFactor) -> Option<&ast::Expr> {
    let TableFactor::Table { args: Some(args), .. } = table else { return None };
    let values = args.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some(value),
        _ => None,
    });
    match values.collect::<Option<Vec<_>>>()?.as_slice() {
        [ast::Expr::Identifier(mark), time] if mark.value == SYSTEM_TIME => Some(time),
        _ => None,
    }
}

/// True for `PROCTIME()`.
fn is_now(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("proctime"))
}

fn true_at(place: &ast::Expr) -> ast::Expr {
    ast::Expr::Value(ast::Value::Boolean(true).with_span(place.span()))
}

fn is_asof_left(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(name) if name.value == ASOF_LEFT)
}

fn also(condition: ast::Expr, mark: ast::Expr) -> ast::Expr {
    let condition = Box::new(ast::Expr::Nested(Box::new(condition)));
    ast::Expr::BinaryOp { left: condition, op: BinaryOperator::And, right: Box::new(mark) }
}

fn marked(name: &str, value: ast::Expr) -> ast::Expr {
    let name = Ident { value: name.to_owned(), quote_style: Some('"'), span: value.span() };
    ast::Expr::Function(Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// True if `plan` has rows of such a join.
pub(super) fn is_temporal(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Extension(extension) if extension.node.as_any().is::<TemporalJoin>())
}
