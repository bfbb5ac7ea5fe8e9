//! `IN` and `EXISTS` with a query, wherever a value may stand.
//!
//! A condition of WHERE that is one of them is left as it is: the optimiser makes a join of it. Inside of others, and in the columns of a
//! SELECT, each becomes a *mark*: a column that says of a row whether the query has a row for it. `x IN (query)` is NULL, not false, where
//! x or a row of the query is NULL, and so is NOT IN: where someone would see that, further marks say it.

use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::expr::{Exists, InSubquery};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::{Filter, LogicalPlan, LogicalPlanBuilder, Subquery};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, Operator, lit, when};
use datafusion_optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion_optimizer::{OptimizerConfig, OptimizerRule};
use std::sync::Arc;

/// `plan` with marks for the queries that the optimiser would leave or answer otherwise.
pub(super) fn with_marks(plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<LogicalPlan> {
    let marked = plan.transform_up_with_subqueries(|node| {
        if !node.expressions().iter().any(asks) {
            return Ok(Transformed::no(node));
        }
        match node {
            LogicalPlan::Filter(filter) => filtered(filter, config).map(Transformed::yes),
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => {
                valued(node, config).map(Transformed::yes)
            }
            LogicalPlan::Join(_) => {
                plan_err!("IN or EXISTS with a query is not yet supported in ON: make it a condition of WHERE, or of a query in FROM")
            }
            _ => plan_err!("IN or EXISTS with a query is not yet supported here: make it a column of a query in FROM"),
        }
    });
    marked.map(|marked| marked.data)
}

/// True if there is IN or EXISTS with a query in `expr`.
fn asks(expr: &Expr) -> bool {
    let mut found = false;
    let _ = expr.apply(|part| {
        found |= matches!(part, Expr::InSubquery(_) | Expr::Exists(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// WHERE.
fn filtered(filter: Filter, config: &dyn OptimizerConfig) -> Result<LogicalPlan> {
    let columns = filter.input.schema().columns();
    let mut marks = Marks { rows: Arc::unwrap_or_clone(filter.input), config };
    let mut all = Vec::new();
    for part in split_conjunction_owned(filter.predicate).into_iter().map(plain) {
        match part {
            Expr::InSubquery(asked) if asked.negated => {
                let (value, nulls) = (asked.expr.as_ref(), null_rows(&asked.subquery)?);
                all.extend(nulls.map(|nulls| exists(nulls, true)));
                if value.nullable(marks.rows.schema())? {
                    let any = marks.mark(exists(asked.subquery.clone(), false))?;
                    all.push(value.clone().is_not_null().or(!any));
                }
                all.push(Expr::InSubquery(asked));
            }
            Expr::InSubquery(_) | Expr::Exists(_) => all.push(part),
            part if asks(&part) => all.push(marks.value(part, true)?),
            part => all.push(part),
        }
    }
    let Some(all) = conjunction(all) else { return internal_err!("a condition without parts") };
    let wider = marks.rows.schema().fields().len() > columns.len();
    let rows = LogicalPlanBuilder::from(marks.rows).filter(all)?;
    match wider {
        true => rows.project(columns.into_iter().map(Expr::Column))?.build(),
        false => rows.build(),
    }
}

/// A node that computes values of its input's rows.
fn valued(node: LogicalPlan, config: &dyn OptimizerConfig) -> Result<LogicalPlan> {
    let names = NamePreserver::new(&node);
    let inputs = node.inputs();
    let [input] = inputs.as_slice() else { return internal_err!("values of several inputs") };
    let mut marks = Marks { rows: (*input).clone(), config };
    let exprs = node.expressions().into_iter().map(|expr| {
        let name = names.save(&expr);
        Ok(name.restore(marks.value(expr, false)?))
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    node.with_new_exprs(exprs, vec![marks.rows])?.recompute_schema()
}

/// `NOT EXISTS` and `NOT … IN` without the NOT around them.
fn plain(expr: Expr) -> Expr {
    match expr {
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(asked) => Expr::InSubquery(InSubquery { negated: !asked.negated, ..asked }),
            Expr::Exists(asked) => Expr::Exists(Exists { negated: !asked.negated, ..asked }),
            other => Expr::Not(Box::new(other)),
        },
        other => other,
    }
}

fn exists(subquery: Subquery, negated: bool) -> Expr {
    Expr::Exists(Exists { subquery, negated })
}

/// The rows of an IN's query that are NULL; None if there can be none.
fn null_rows(asked: &Subquery) -> Result<Option<Subquery>> {
    let schema = asked.subquery.schema();
    if schema.fields().first().is_none_or(|field| !field.is_nullable()) {
        return Ok(None);
    }
    let value = Expr::Column(Column::from(schema.qualified_field(0)));
    let rows = LogicalPlanBuilder::new_from_arc(Arc::clone(&asked.subquery)).filter(value.is_null())?.build()?;
    Ok(Some(asked.with_plan(Arc::new(rows))))
}

/// Rows that get marks.
struct Marks<'a> {
    rows: LogicalPlan,
    config: &'a dyn OptimizerConfig,
}

impl Marks<'_> {
    /// `expr` over marks. `loose` if nobody tells NULL from false there.
    fn value(&mut self, expr: Expr, loose: bool) -> Result<Expr> {
        match plain(expr) {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let (left, right) = (self.value(*left, loose)?, self.value(*right, loose)?);
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
            }
            Expr::Exists(asked) => {
                let mark = self.mark(exists(asked.subquery, false))?;
                Ok(if asked.negated { !mark } else { mark })
            }
            Expr::InSubquery(asked) => {
                let negated = asked.negated;
                let found = self.contains(InSubquery { negated: false, ..asked }, loose && !negated)?;
                Ok(if negated { !found } else { found })
            }
            other => Ok(other.map_children(|part| self.value(part, false).map(Transformed::yes))?.data),
        }
    }

    /// `x IN (query)`.
    fn contains(&mut self, asked: InSubquery, loose: bool) -> Result<Expr> {
        let found = self.mark(Expr::InSubquery(asked.clone()))?;
        if loose {
            return Ok(found);
        }
        let null = || Expr::Literal(ScalarValue::Boolean(None), None);
        let mut unknown = Vec::new();
        if asked.expr.nullable(self.rows.schema())? {
            let any = self.mark(exists(asked.subquery.clone(), false))?;
            unknown.push(asked.expr.as_ref().clone().is_null().and(any));
        }
        if let Some(nulls) = null_rows(&asked.subquery)? {
            unknown.push(self.mark(exists(nulls, false))?);
        }
        match unknown.into_iter().reduce(Expr::or) {
            None => Ok(found),
            Some(unknown) => when(found, lit(true)).when(unknown, null()).otherwise(lit(false)),
        }
    }

    /// The column that says whether the query of `asked`, which is not negated, has a row for each row.
    fn mark(&mut self, asked: Expr) -> Result<Expr> {
        let rows = std::mem::replace(&mut self.rows, LogicalPlanBuilder::empty(false).build()?);
        // the optimiser's rule makes a mark of what is inside of a condition
        let filter = LogicalPlan::Filter(Filter::try_new(asked.is_not_null(), Arc::new(rows))?);
        let made = DecorrelatePredicateSubquery::new().rewrite(filter, self.config)?.data;
        if let LogicalPlan::Projection(projection) = &made
            && let LogicalPlan::Filter(filter) = projection.input.as_ref()
            && let Expr::IsNotNull(mark) = &filter.predicate
            && matches!(mark.as_ref(), Expr::Column(_))
        {
            self.rows = filter.input.as_ref().clone();
            return Ok(mark.as_ref().clone());
        }
        plan_err!("this query in IN or EXISTS reads the rows around it in a way that is not yet supported")
    }
}
