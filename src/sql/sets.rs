//! GROUP BY of several sets as one GROUP BY: each row comes once for each set, with NULL for the keys that the set leaves out, and the
//! number of the set as one key more.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result, ScalarValue, plan_err};
use datafusion_expr::expr::GroupingSet;
use datafusion_expr::logical_plan::{Aggregate, LogicalPlan};
use datafusion_expr::utils::grouping_set_to_exprlist;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlanBuilder};
use std::sync::Arc;

/// How many keys CUBE may have: it has a set for each choice of them.
const CUBE_KEYS_MAX: usize = 12;

/// `plan` without GROUP BY of several sets.
pub(super) fn without_sets(plan: LogicalPlan) -> Result<LogicalPlan> {
    let expanded = plan.transform_up(|node| match node {
        LogicalPlan::Aggregate(aggregate) if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) => {
            expanded(&aggregate).map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    });
    expanded.map(|expanded| expanded.data)
}

fn sets_of(set: &GroupingSet) -> Result<Vec<Vec<Expr>>> {
    Ok(match set {
        GroupingSet::Rollup(keys) => (0..=keys.len()).map(|count| keys[..count].to_vec()).collect(),
        GroupingSet::GroupingSets(sets) => sets.clone(),
        GroupingSet::Cube(keys) if keys.len() > CUBE_KEYS_MAX => {
            return plan_err!("CUBE of {} columns has too many sets; {CUBE_KEYS_MAX} are the most", keys.len());
        }
        GroupingSet::Cube(keys) => (0..1_usize << keys.len())
            .map(|chosen| (0..keys.len()).filter(|key| chosen >> key & 1 == 1).map(|key| keys[key].clone()).collect())
            .collect(),
    })
}

fn expanded(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let [Expr::GroupingSet(set)] = aggregate.group_expr.as_slice() else {
        return plan_err!("a GROUP BY of sets has nothing beside them");
    };
    let keys: Vec<Expr> = grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
    let sets = sets_of(set)?;
    let input = &aggregate.input;
    let columns: Vec<Column> = input.schema().iter().map(Column::from).collect();
    let id_type = Aggregate::grouping_id_type(keys.len(), 0);
    let mut all: Option<LogicalPlanBuilder> = None;
    for (number, set) in sets.iter().enumerate() {
        if sets[..number].iter().any(|other| other.len() == set.len() && set.iter().all(|key| other.contains(key))) {
            return plan_err!("a GROUP BY has the same set twice");
        }
        let id = keys.iter().fold(0_u64, |id, key| id << 1 | u64::from(!set.contains(key)));
        let id = Expr::Literal(ScalarValue::UInt64(Some(id)).cast_to(&id_type)?, None);
        let mut exprs: Vec<Expr> = columns
            .iter()
            .enumerate()
            .map(|(n, column)| Expr::Column(column.clone()).alias(format!("__c{n}")))
            .collect();
        for (n, key) in keys.iter().enumerate() {
            let value = match set.contains(key) {
                true => key.clone(),
                false => Expr::Literal(ScalarValue::try_from(key.get_type(input.schema())?)?, None),
            };
            exprs.push(value.alias(format!("__k{n}")));
        }
        exprs.push(id.alias("__set"));
        let rows = LogicalPlanBuilder::new_from_arc(Arc::clone(input)).project(exprs)?;
        all = Some(match all {
            None => rows,
            Some(all) => all.union(rows.build()?)?,
        });
    }
    let Some(all) = all else { return plan_err!("a GROUP BY has no set") };
    let all = all.build()?;
    let column = |place: usize| Expr::Column(Column::from(all.schema().qualified_field(place)));
    let moved = |call: &Expr| {
        call.clone().transform(|part| match &part {
            Expr::Column(name) => match columns.iter().position(|column| column == name) {
                Some(place) => Ok(Transformed::yes(column(place))),
                None => plan_err!("no column {name}"),
            },
            _ => Ok(Transformed::no(part)),
        })
    };
    let calls = aggregate.aggr_expr.iter().map(|call| moved(call).map(|call| call.data)).collect::<Result<Vec<_>>>()?;
    let group: Vec<Expr> = (columns.len()..=columns.len() + keys.len()).map(column).collect();
    let grouped = LogicalPlanBuilder::from(all.clone()).aggregate(group, calls)?.build()?;
    let named = aggregate.schema.iter().zip(grouped.schema().iter().map(Column::from));
    let named: Vec<Expr> = named
        .map(|((qualifier, field), column)| Expr::Column(column).alias_qualified(qualifier.cloned(), field.name()))
        .collect();
    LogicalPlanBuilder::from(grouped).project(named)?.build()
}
