//! `min` and `max` of rows that may be taken back, as the first row in an order.
//!
//! An aggregate that is worked out from all rows of a key costs all of them for each change. The first row of a key in an order is
//! found where it is arranged, whoever is taken back. So each least and greatest value is a step of its own, joined to what weights
//! alone make of the other calls.

use super::Planner;
use super::Stream;
use super::collect::Linear;
use crate::error::Result;
use crate::expr::from_datafusion;
use crate::plan::inside;
use arrow::datatypes::DataType;
use datafusion_common::{Column, DFSchema, JoinType, NullEquality, Result as Planned};
use datafusion_expr::expr::{AggregateFunction, Sort, WindowFunction};
use datafusion_expr::logical_plan::{Aggregate, LogicalPlan};
use datafusion_expr::{
    Expr as Logical, ExprFunctionExt, ExprSchemable, LogicalPlanBuilder, WindowFunctionDefinition, lit,
};
use std::sync::Arc;

impl Planner<'_> {
    /// `aggregate` over `stream`, whose rows may be taken back, if some of its calls are least or greatest values and the others need weights alone.
    pub(super) fn over_extremes(&mut self, stream: &mut Stream, aggregate: &Aggregate) -> Result<Option<Stream>> {
        // values that leave by time leave what counts them, too; and a join needs a key
        if Planner::ttl(stream).is_some() || aggregate.group_expr.is_empty() {
            return Ok(None);
        }
        let schema = aggregate.input.schema();
        let mut parts = Vec::new();
        for call in &aggregate.aggr_expr {
            match Extreme::of(call, schema) {
                Some(extreme) => parts.push(Some(extreme)),
                None if Linear::of(call, schema)?.is_some() => parts.push(None),
                None => return Ok(None),
            }
        }
        if parts.iter().all(Option::is_none) || inside(&self.steps, stream.base) {
            return Ok(None);
        }
        let plan = split(aggregate, &parts).map_err(from_datafusion)?;
        self.lower_over(stream, &aggregate.input, &plan).map(Some)
    }
}

/// `min(value)` or `max(value)`, of some rows.
#[derive(PartialEq)]
pub(super) struct Extreme<'a> {
    value: &'a Logical,
    filter: Option<&'a Logical>,
    greatest: bool,
}

impl<'a> Extreme<'a> {
    /// What `call` is, or None.
    pub(super) fn of(call: &'a Logical, schema: &DFSchema) -> Option<Self> {
        let mut call = call;
        while let Logical::Alias(alias) = call {
            call = &alias.expr;
        }
        let Logical::AggregateFunction(AggregateFunction { func, params }) = call else { return None };
        let greatest = match func.name() {
            "max" => true,
            "min" => false,
            _ => return None,
        };
        let ([value], [], None) = (params.args.as_slice(), params.order_by.as_slice(), params.null_treatment) else {
            return None;
        };
        // in which rows compare as values do
        let simple = |data_type: DataType| !data_type.is_nested() && !matches!(data_type, DataType::Interval(_));
        value.get_type(schema).is_ok_and(simple).then_some(Extreme {
            value,
            filter: params.filter.as_deref(),
            greatest,
        })
    }

    /// Its row of each key: the keys, and the value.
    fn plan(&self, input: &Arc<LogicalPlan>, keys: &[Logical], part: usize) -> Planned<LogicalPlan> {
        let there = self.value.clone().is_not_null();
        let counts = self.filter.cloned().into_iter().chain([there]).reduce(Logical::and).expect("there is one");
        let mut columns: Vec<Logical> =
            keys.iter().enumerate().map(|(n, key)| key.clone().alias(format!("__e{part}k{n}"))).collect();
        columns.push(self.value.clone().alias(format!("__e{part}")));
        let rows = LogicalPlanBuilder::new_from_arc(Arc::clone(input)).filter(counts)?.project(columns)?;
        let columns: Vec<Logical> = rows.schema().iter().map(|field| Logical::Column(Column::from(field))).collect();
        let (value, keys) = columns.split_last().expect("there is the value");
        let row_number =
            WindowFunctionDefinition::WindowUDF(datafusion_functions_window::row_number::row_number_udwf());
        let place = Logical::from(WindowFunction::new(row_number, Vec::new()))
            .partition_by(keys.to_vec())
            .order_by(vec![Sort::new(value.clone(), !self.greatest, false)])
            .build()?;
        let rows = rows.window([place])?;
        let place = Logical::Column(Column::from(rows.schema().qualified_field(columns.len())));
        rows.filter(place.lt_eq(lit(1_u64)))?.project(columns)?.build()
    }
}

/// The same as a join of what weights make and a row for each extreme.
fn split(aggregate: &Aggregate, parts: &[Option<Extreme<'_>>]) -> Planned<LogicalPlan> {
    let keys = &aggregate.group_expr;
    let calls = aggregate.aggr_expr.iter().zip(parts).filter(|(_, part)| part.is_none());
    let calls = calls
        .map(|(call, _)| call.clone())
        .chain([datafusion_functions_aggregate::expr_fn::count(lit(1_i64)).alias("__rows")]);
    let mut all = LogicalPlanBuilder::new_from_arc(Arc::clone(&aggregate.input)).aggregate(keys.clone(), calls)?;
    let column = |plan: &LogicalPlanBuilder, place: usize| Column::from(plan.schema().qualified_field(place));
    let own: Vec<Column> = (0..keys.len()).map(|place| column(&all, place)).collect();
    let mut different: Vec<&Extreme<'_>> = Vec::new();
    for extreme in parts.iter().flatten() {
        if !different.contains(&extreme) {
            different.push(extreme);
        }
    }
    let mut at = Vec::new();
    for (part, extreme) in different.iter().enumerate() {
        let rows = extreme.plan(&aggregate.input, keys, part)?;
        let theirs: Vec<Column> =
            (0..keys.len()).map(|place| Column::from(rows.schema().qualified_field(place))).collect();
        at.push(all.schema().fields().len() + keys.len());
        let on = (own.clone(), theirs);
        all = all.join_detailed(rows, JoinType::Left, on, None, NullEquality::NullEqualsNull)?;
    }
    let mut columns = own;
    let mut linear = keys.len();
    for part in parts {
        columns.push(match part {
            Some(extreme) => {
                let part = different.iter().position(|known| *known == extreme).expect("each is known");
                column(&all, at[part])
            }
            None => {
                linear += 1;
                column(&all, linear - 1)
            }
        });
    }
    all.project(columns.into_iter().map(Logical::Column).collect::<Vec<_>>())?.build()
}
