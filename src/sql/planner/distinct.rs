//! `count(DISTINCT x)` beside other aggregates, as aggregates over distinct rows.
//!
//! What a key has seen of `x` would be one state of the key, which each change has to carry as a whole. Instead each distinct row
//! (key, x) is a key of its own, in a step that says when it comes and goes; its rows and those of the input, which are the same
//! but for their number and columns that are NULL in one of them, go into one aggregate without DISTINCT.

use super::collect::Linear;
use super::extremes::Extreme;
use super::{Planner, Stream, compile};
use crate::error::Result;
use crate::expr::from_datafusion;
use crate::plan::{Emit, inside};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result as Planned, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion_expr::logical_plan::{Aggregate, LogicalPlan, Union};
use datafusion_expr::{Cast, Expr as Logical, LogicalPlanBuilder, lit};
use std::sync::Arc;

/// The column that says which set a row is of: 0 for the rows of the input.
const SET: &str = "set";

impl Planner<'_> {
    /// `aggregate` over `stream`, without windows, if some of its calls are over distinct values.
    pub(super) fn over_distinct(&mut self, stream: &mut Stream, aggregate: &Aggregate) -> Result<Option<Stream>> {
        let calls: Vec<Call> = aggregate.aggr_expr.iter().filter_map(Call::of).collect();
        let whole = calls.len() == aggregate.aggr_expr.len();
        // what has to see all rows of a key anyway sees the distinct ones, too
        let alone = |call: &Call<'_>| call.splits() || stream.emit != Emit::Updating || call.passes(aggregate);
        let splits = whole && calls.iter().any(Call::splits) && calls.iter().all(alone);
        // rows that leave by time have to be seen together
        let leave = stream.emit == Emit::Updating && Planner::ttl(stream).is_some();
        if !splits || leave || inside(&self.steps, stream.base) {
            return Ok(None);
        }
        let schema = aggregate.input.schema();
        let bound = stream.bind(schema)?;
        let text =
            |expr: &Logical| compile(expr, &bound, &stream.rows).map_or_else(|_| expr.to_string(), |e| e.to_string());
        let (prepared, plan) = split(aggregate, &calls, &text).map_err(from_datafusion)?;
        let mut prepared_stream = self.lower_over(stream, &aggregate.input, &prepared)?;
        self.lower_over(&mut prepared_stream, &prepared, &plan).map(Some)
    }

    /// Lowers `plan`, all of whose parts that read `input` read the rows of `stream`.
    pub(super) fn lower_over(
        &mut self,
        stream: &mut Stream,
        input: &LogicalPlan,
        plan: &LogicalPlan,
    ) -> Result<Stream> {
        self.materialise(stream)?;
        stream.own = false;
        let known = (input.clone(), false, self.asked);
        let before = self.lowered.insert(known.clone(), stream.clone());
        let lowered = self.lower(plan, false);
        match before {
            Some(before) => self.lowered.insert(known, before),
            None => self.lowered.remove(&known),
        };
        lowered
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
            // the mean of whole numbers casts them, each to another
            [Logical::Cast(cast)]
                if self.averages() && *distinct && order_by.is_empty() && null_treatment.is_none() =>
            {
                Some(&cast.expr)
            }
            [value] if *distinct && order_by.is_empty() && null_treatment.is_none() => Some(value),
            _ => None,
        }
    }

    fn averages(&self) -> bool {
        self.0.func.name() == "avg"
    }

    /// What it makes of the distinct values in `column`.
    fn argument(&self, column: Logical) -> Logical {
        match self.0.params.args.as_slice() {
            [Logical::Cast(cast)] if self.averages() => {
                Logical::Cast(Cast { expr: Box::new(column), field: Arc::clone(&cast.field) })
            }
            _ => column,
        }
    }

    /// The same, and in which rows.
    fn distinct_where(&self) -> Option<(&'a Logical, Option<&'a Logical>)> {
        Some((self.distinct()?, self.0.params.filter.as_deref()))
    }

    /// True if it is better made of distinct rows.
    fn splits(&self) -> bool {
        self.distinct().is_some() && matches!(self.0.func.name(), "count" | "sum" | "avg")
    }

    /// True if it does not need all rows of a key where rows may be taken back.
    fn passes(&self, aggregate: &Aggregate) -> bool {
        let (call, schema) = (Logical::AggregateFunction(self.0.clone()), aggregate.input.schema());
        Extreme::of(&call, schema).is_some() || Linear::of(&call, schema).is_ok_and(|linear| linear.is_some())
    }

    /// True if a row in which all columns are NULL makes no difference.
    fn passes_over_nulls(&self) -> bool {
        let known = matches!(self.0.func.name(), "count" | "sum" | "avg" | "min" | "max");
        known && matches!(self.0.params.args.as_slice(), [Logical::Column(_)])
    }
}

/// The same without DISTINCT, in two parts: the columns that all branches need, of the input; and the aggregate over the rows of the
/// input and the distinct rows of each value, of that.
fn split(
    aggregate: &Aggregate,
    calls: &[Call<'_>],
    text: &dyn Fn(&Logical) -> String,
) -> Planned<(LogicalPlan, LogicalPlan)> {
    let mut columns = Columns { known: Vec::new(), text };
    let keys: Vec<Column> = aggregate.group_expr.iter().map(|key| columns.place(key)).collect();
    // what the other calls read
    let mut read: Vec<Column> = Vec::new();
    for call in calls.iter().filter(|call| !call.splits()) {
        let call = Logical::AggregateFunction(call.0.clone());
        let mut names: Vec<&Column> = call.column_refs().into_iter().collect();
        // in the order of the input, not of a set
        names.sort_by_key(|name| aggregate.input.schema().maybe_index_of_column(name));
        for name in names {
            let column = columns.place(&Logical::Column(name.clone()));
            if !read.contains(&column) && !keys.contains(&column) {
                read.push(column);
            }
        }
    }
    // each value with the condition that it counts under, once
    let mut sets: Vec<Set> = Vec::new();
    for call in calls.iter().filter(|call| call.splits()) {
        let (value, filter) = call.distinct_where().expect("it splits");
        let (of, under) = (columns.place(value), filter.map(|filter| columns.place(filter)));
        let known = sets.iter().position(|set| (&set.of, &set.under) == (&of, &under));
        let number = known.unwrap_or_else(|| {
            let summed = Column::from_name(format!("{} of set {}", of.name, sets.len() + 1));
            sets.push(Set { of, under, summed, sums: false });
            sets.len() - 1
        });
        sets[number].sums |= call.0.func.name() != "count";
    }
    let prepared = LogicalPlanBuilder::new_from_arc(Arc::clone(&aggregate.input)).project(columns.exprs())?.build()?;

    let schema = prepared.schema();
    let null = |column: &Column| -> Planned<Logical> {
        let field = schema.field_with_unqualified_name(&column.name)?;
        Ok(Logical::Literal(ScalarValue::try_from(field.data_type())?, None))
    };
    let column = |column: &Column| Logical::Column(column.clone());
    // the rows of the input, number 0, or those of a set
    let branch = |number: usize| -> Planned<Vec<Logical>> {
        let mut exprs: Vec<Logical> = keys.iter().map(column).collect();
        for name in &read {
            exprs.push(if number == 0 { column(name) } else { null(name)?.alias(&name.name) });
        }
        for (n, set) in sets.iter().enumerate().filter(|(_, set)| set.sums) {
            exprs.push(if number == n + 1 { column(&set.of) } else { null(&set.of)? }.alias(&set.summed.name));
        }
        exprs.push(lit(number as i32).alias(SET));
        Ok(exprs)
    };
    let mut branches = vec![Arc::new(LogicalPlanBuilder::from(prepared.clone()).project(branch(0)?)?.build()?)];
    for (n, set) in sets.iter().enumerate() {
        let nullable = schema.field_with_unqualified_name(&set.of.name)?.is_nullable();
        let there = nullable.then(|| column(&set.of).is_not_null());
        let mut rows = LogicalPlanBuilder::from(prepared.clone());
        if let Some(filter) = set.under.iter().map(column).chain(there).reduce(Logical::and) {
            rows = rows.filter(filter)?;
        }
        // the value may be a key, which is not there twice
        let own = (!keys.contains(&set.of)).then_some(&set.of);
        let rows = rows.aggregate(keys.iter().chain(own).map(column), Vec::<Logical>::new())?;
        branches.push(Arc::new(rows.project(branch(n + 1)?)?.build()?));
    }
    let all = LogicalPlan::Union(Union::try_new_with_loose_types(branches)?);

    let of_set = |number: usize| Logical::Column(Column::from_name(SET)).eq(lit(number as i32));
    let mut made = Vec::new();
    for call in calls {
        let mut of_all = call.0.clone();
        if let Some((value, filter)) = call.distinct_where().filter(|_| call.splits()) {
            let (of, under) = (columns.known(value), filter.map(|filter| columns.known(filter)));
            let number = sets.iter().position(|set| (&set.of, &set.under) == (&of, &under)).expect("it is a set");
            let counts = of_all.func.name() == "count";
            of_all.params.args = vec![if counts { lit(1_i64) } else { call.argument(column(&sets[number].summed)) }];
            of_all.params.filter = counts.then(|| Box::new(of_set(number + 1)));
            of_all.params.distinct = false;
        } else {
            let moved = Logical::AggregateFunction(of_all).transform(|part| match &part {
                Logical::Column(_) => Ok(Transformed::yes(Logical::Column(columns.known(&part)))),
                _ => Ok(Transformed::no(part)),
            })?;
            let Logical::AggregateFunction(moved) = moved.data else {
                return datafusion_common::internal_err!("a call is a call");
            };
            of_all = moved;
            // keys are there in the rows of sets, too
            let of_key = of_all.params.args.iter().any(|value| keys.iter().any(|key| column(key) == *value));
            if of_key || !Call(&of_all).passes_over_nulls() {
                let filter = of_all.params.filter.take().map(|filter| *filter);
                of_all.params.filter = Some(Box::new(filter.into_iter().fold(of_set(0), Logical::and)));
            }
        }
        made.push(Logical::AggregateFunction(of_all));
    }
    let plan = LogicalPlanBuilder::from(all).aggregate(keys.iter().map(column), made)?.build()?;
    Ok((prepared, plan))
}

/// The distinct values of an expression, of rows that meet a condition.
struct Set {
    of: Column,
    under: Option<Column>,
    /// The column of the values, if someone sums them.
    summed: Column,
    sums: bool,
}

/// Columns that are computed once, each with a name of its own.
struct Columns<'a> {
    known: Vec<(Logical, String)>,
    /// What a person reads for an expression.
    text: &'a dyn Fn(&Logical) -> String,
}

impl Columns<'_> {
    /// The column of `expr`.
    fn place(&mut self, expr: &Logical) -> Column {
        let expr = unaliased(expr);
        if !self.known.iter().any(|(known, _)| known == expr) {
            let text = (self.text)(expr);
            let taken = |name: &str| name == SET || self.known.iter().any(|(_, known)| known == name);
            let mut numbered = (2..).map(|n| format!("{text} #{n}"));
            let name =
                if taken(&text) { numbered.find(|name| !taken(name)).expect("numbers do not end") } else { text };
            self.known.push((expr.clone(), name));
        }
        self.known(expr)
    }

    /// The same, of one that is there.
    fn known(&self, expr: &Logical) -> Column {
        let (_, name) = self.known.iter().find(|(known, _)| known == unaliased(expr)).expect("it has a column");
        Column::from_name(name)
    }

    fn exprs(&self) -> Vec<Logical> {
        self.known.iter().map(|(expr, name)| expr.clone().alias(name)).collect()
    }
}

fn unaliased(mut expr: &Logical) -> &Logical {
    while let Logical::Alias(alias) = expr {
        expr = &alias.expr;
    }
    expr
}
