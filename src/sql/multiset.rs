//! `INTERSECT ALL` and `EXCEPT ALL`: rows as often as both sides have them, or as the first has them more often.

use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DFSchemaRef, JoinType, NullEquality, Result, internal_err};
use datafusion_expr::logical_plan::{Extension, Join, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore};
use datafusion_expr::{Cast, Expr, ExprSchemable};
use std::fmt;
use std::sync::Arc;

/// Which rows leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub(super) enum Which {
    /// INTERSECT ALL.
    Common,
    /// EXCEPT ALL.
    Excess,
}

/// Both sides have the same columns, in type and order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub(super) struct Multiset {
    pub which: Which,
    pub left: Arc<LogicalPlan>,
    pub right: Arc<LogicalPlan>,
}

impl UserDefinedLogicalNodeCore for Multiset {
    fn name(&self) -> &str {
        "Multiset"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.left.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Multiset: {:?}", self.which)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match <[LogicalPlan; 2]>::try_from(inputs) {
            Ok([left, right]) => Ok(Multiset { which: self.which, left: Arc::new(left), right: Arc::new(right) }),
            Err(_) => internal_err!("a set operation has two sides"),
        }
    }
}

impl Multiset {
    /// The node, if `plan` is one.
    pub fn of(plan: &LogicalPlan) -> Option<&Multiset> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

/// `plan`, which is as it was written but for its types, with nodes for `… ALL`: DataFusion joins both sides then as it does without ALL, but
/// leaves the rows of the first as they are.
pub(super) fn with_multisets(plan: LogicalPlan) -> Result<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_all(&join) => counted(join).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    });
    changed.map(|changed| changed.data)
}

/// A query cannot say by other means that NULL equals NULL in the keys of such a join before it is optimised.
fn is_all(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
}

fn counted(join: Join) -> Result<LogicalPlan> {
    let which = if join.join_type == JoinType::LeftSemi { Which::Common } else { Which::Excess };
    let side = |plan: &Arc<LogicalPlan>, of: fn(&(Expr, Expr)) -> &Expr| {
        let named = join.on.iter().enumerate().map(|(n, pair)| of(pair).clone().alias(format!("__c{n}")));
        LogicalPlanBuilder::new_from_arc(Arc::clone(plan)).project(named.collect::<Vec<_>>())?.build()
    };
    let (left, right) = (side(&join.left, |pair| &pair.0)?, side(&join.right, |pair| &pair.1)?);
    let node = Multiset { which, left: Arc::new(left), right: Arc::new(right) };
    let rows = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    // the names and types of the first side
    let named = join.schema.iter().enumerate().map(|(n, (qualifier, field))| {
        let column = Expr::Column(Column::from(rows.schema().qualified_field(n)));
        let value = match column.get_type(rows.schema())? == *field.data_type() {
            true => column,
            false => Expr::Cast(Cast::new(Box::new(column), field.data_type().clone())),
        };
        Ok(value.alias_qualified(qualifier.cloned(), field.name()))
    });
    let named = named.collect::<Result<Vec<_>>>()?;
    LogicalPlanBuilder::from(rows).project(named)?.build()
}
