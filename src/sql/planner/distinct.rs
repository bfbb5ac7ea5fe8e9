//! `count(DISTINCT x)` beside other aggregates, as aggregates over distinct rows.
//!
//! What a key has seen of `x` would be one state of the key, which each change has to carry as a whole. Instead each distinct row
//! (key, x) is a key of its own, in a step that says when it comes and goes; its rows and those of the input, which are the same
//! but for columns that are NULL in one of them, go into one aggregate without DISTINCT.

use super::collect::Linear;
use super::{Planner, Stream};
use crate::error::Result;
use crate::expr::from_datafusion;
use crate::plan::{Emit, inside};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result as Planned, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion_expr::logical_plan::{Aggregate, LogicalPlan};
use datafusion_expr::{Expr as Logical, ExprSchemable, LogicalPlanBuilder, lit};
use std::sync::Arc;

/// The column that is true in the rows of the input.
const ROW: &str = "__row";

impl Planner<'_> {
    /// `aggregate` over `stream`, without windows, if some of its calls are over distinct values.
    pub(super) fn over_distinct(&mut self, stream: &mut Stream, aggregate: &Aggregate) -> Result<Option<Stream>> {
        let calls: Vec<Call> = aggregate.aggr_expr.iter().filter_map(Call::of).collect();
        let whole = calls.len() == aggregate.aggr_expr.len();
        // what has to see all rows of a key anyway sees the distinct ones, too
        let alone = |call: &Call<'_>| call.splits() || stream.emit != Emit::Updating || call.linear(aggregate);
        let splits = whole && calls.iter().any(Call::splits) && calls.iter().all(alone);
        if !splits || inside(&self.steps, stream.base) {
            return Ok(None);
        }
        let plan = split(aggregate, &calls).map_err(from_datafusion)?;
        // all parts read the same step
        self.materialise(stream)?;
        stream.own = false;
        let known = (aggregate.input.as_ref().clone(), false, self.asked);
        let before = self.lowered.insert(known.clone(), stream.clone());
        let split = self.lower(&plan, false);
        match before {
            Some(before) => self.lowered.insert(known, before),
            None => self.lowered.remove(&known),
        };
        split.map(Some)
    }
}

/// A call of an aggregate function.
struct Call<'a>(&'a AggregateFunction);

impl<'a> Call<'a> {
    fn of(expr: &'a Logical) -> Option<Self> {
        match expr {
            Logical::Alias(alias) => Call::of(&alias.expr),
            Logical::AggregateFunction(call) => Some(Call(call)),
            _ => None,
        }
    }

    /// The value of which it sees each once, if what it makes of that needs no order.
    fn distinct(&self) -> Option<&'a Logical> {
        let AggregateFunctionParams { args, distinct, order_by, null_treatment, .. } = &self.0.params;
        match args.as_slice() {
            [value] if *distinct && order_by.is_empty() && null_treatment.is_none() => Some(value),
            _ => None,
        }
    }

    /// True if it is better made of distinct rows.
    fn splits(&self) -> bool {
        self.distinct().is_some() && matches!(self.0.func.name(), "count" | "sum" | "avg")
    }

    /// True if weights are all that it needs of rows that may be taken back.
    fn linear(&self, aggregate: &Aggregate) -> bool {
        let call = Logical::AggregateFunction(self.0.clone());
        Linear::of(&call, aggregate.input.schema()).is_ok_and(|linear| linear.is_some())
    }

    /// True if a row in which all columns are NULL makes no difference.
    fn passes_over_nulls(&self) -> bool {
        let known = matches!(self.0.func.name(), "count" | "sum" | "avg" | "min" | "max");
        known && matches!(self.0.params.args.as_slice(), [Logical::Column(_)])
    }
}

/// The same without DISTINCT, over the rows of the input and the distinct rows of each value.
fn split(aggregate: &Aggregate, calls: &[Call<'_>]) -> Planned<LogicalPlan> {
    let input = &aggregate.input;
    let schema = input.schema();
    let keys = &aggregate.group_expr;
    let null = |expr: &Logical| -> Planned<Logical> {
        Ok(Logical::Literal(ScalarValue::try_from(expr.get_type(schema)?)?, None))
    };
    let key_name = |n: usize| format!("__k{n}");
    // what the other calls read
    let mut read: Vec<Column> = Vec::new();
    let others = calls.iter().filter(|call| !call.splits());
    for column in others.flat_map(|call| {
        Logical::AggregateFunction(call.0.clone()).column_refs().into_iter().cloned().collect::<Vec<_>>()
    }) {
        if !read.contains(&column) {
            read.push(column);
        }
    }
    // in the order of the input, not of a set
    read.sort_by_key(|column| schema.maybe_index_of_column(column));
    // each value and which rows it counts in, once
    let mut values: Vec<(&Logical, Option<&Logical>)> = Vec::new();
    for call in calls.iter().filter(|call| call.splits()) {
        let value = (call.distinct().expect("it splits"), call.0.params.filter.as_deref());
        if !values.contains(&value) {
            values.push(value);
        }
    }

    let rows_of = |of: Option<usize>| -> Planned<Vec<Logical>> {
        let mut exprs: Vec<Logical> = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            exprs.push(key.clone().alias(key_name(n)));
        }
        for (n, column) in read.iter().enumerate() {
            let column = Logical::Column(column.clone());
            exprs.push(if of.is_none() { column } else { null(&column)? }.alias(format!("__c{n}")));
        }
        for (n, (value, _)) in values.iter().enumerate() {
            exprs.push(if of == Some(n) { (*value).clone() } else { null(value)? }.alias(format!("__d{n}")));
        }
        exprs.push(lit(of.is_none()).alias(ROW));
        Ok(exprs)
    };
    let mut all = LogicalPlanBuilder::new_from_arc(Arc::clone(input)).project(rows_of(None)?)?;
    for (n, (value, filter)) in values.iter().enumerate() {
        let mut distinct = LogicalPlanBuilder::new_from_arc(Arc::clone(input));
        let there = value.nullable(schema)?.then(|| (*value).clone().is_not_null());
        if let Some(filter) = filter.cloned().into_iter().chain(there).reduce(Logical::and) {
            distinct = distinct.filter(filter)?;
        }
        // the value may be a key, which is not there twice
        let place = keys.iter().position(|key| key == *value).unwrap_or(keys.len());
        let groups: Vec<Logical> = keys.iter().chain((place == keys.len()).then_some(*value)).cloned().collect();
        let distinct = distinct.aggregate(groups, Vec::<Logical>::new())?;
        // the distinct rows have their columns in the order in which they are asked for
        let found: Vec<Column> = distinct.schema().iter().map(Column::from).collect();
        let mut exprs = rows_of(Some(n))?;
        for (at, expr) in exprs.iter_mut().enumerate() {
            let column = match at {
                key if key < keys.len() => Some(key),
                value if value == keys.len() + read.len() + n => Some(place),
                _ => None,
            };
            if let (Some(column), Logical::Alias(alias)) = (column, expr) {
                *alias.expr = Logical::Column(found[column].clone());
            }
        }
        all = all.union(distinct.project(exprs)?.build()?)?;
    }
    let all = all.build()?;
    let column = |place: usize| Logical::Column(Column::from(all.schema().qualified_field(place)));
    let row = column(all.schema().fields().len() - 1);
    let mut made = Vec::new();
    for call in calls {
        let mut call = call.0.clone();
        if Call(&call).splits() {
            let value = (Call(&call).distinct().expect("it splits"), call.params.filter.as_deref());
            let n = values.iter().position(|known| *known == value).expect("each value is known");
            call.params.args = vec![column(keys.len() + read.len() + n)];
            call.params.distinct = false;
            call.params.filter = None;
        } else {
            let moved = Logical::AggregateFunction(call).transform(|part| match &part {
                Logical::Column(name) => match read.iter().position(|column| column == name) {
                    Some(place) => Ok(Transformed::yes(column(keys.len() + place))),
                    None => Ok(Transformed::no(part)),
                },
                _ => Ok(Transformed::no(part)),
            })?;
            let Logical::AggregateFunction(moved) = moved.data else {
                return datafusion_common::internal_err!("a call is a call");
            };
            call = moved;
            if !Call(&call).passes_over_nulls() {
                let filter = call.params.filter.take().map(|filter| *filter);
                call.params.filter = Some(Box::new(filter.into_iter().fold(row.clone(), Logical::and)));
            }
        }
        made.push(Logical::AggregateFunction(call));
    }
    let keys: Vec<Logical> = (0..keys.len()).map(column).collect();
    LogicalPlanBuilder::from(all).aggregate(keys, made)?.build()
}
