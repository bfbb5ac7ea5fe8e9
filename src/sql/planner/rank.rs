//! `ROW_NUMBER() OVER (…)` to a ranking, with the bound that a filter above it sets. Between the two DataFusion may leave a choice of
//! columns.

use super::over::sort_columns;
use super::{Place, Planner, Role, Stream, bare};
use crate::error::{Error, Result};
use crate::plan::{Action, Emit, Input, Ranking, Route};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::expr::{Sort, WindowFunction};
use datafusion_expr::logical_plan::{Filter, LogicalPlan, Window};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{BinaryExpr, Expr as Logical, Operator};
use sqlparser::tokenizer::Location;
use std::sync::Arc;

impl Planner<'_> {
    /// A filter that bounds the numbers of a ranking below it: only so many rows of a key are kept. None if it is none.
    pub(super) fn first_rows(&mut self, filter: &Filter, last: bool) -> Result<Option<Stream>> {
        let (Some(limit), rest) = bound(&filter.predicate, &filter.input) else { return Ok(None) };
        let mut stream = self.rank_below(&filter.input, limit, last)?;
        if let Some(rest) = rest {
            self.filter(&mut stream, &rest, filter.input.schema())?;
        }
        Ok(Some(stream))
    }

    /// Lowers what [`numbers`] looks through.
    fn rank_below(&mut self, plan: &LogicalPlan, limit: usize, last: bool) -> Result<Stream> {
        match plan {
            LogicalPlan::Window(window) => self.rank(window, Some(limit), last),
            LogicalPlan::SubqueryAlias(alias) => self.rank_below(&alias.input, limit, last),
            LogicalPlan::Projection(projection) => {
                let mut stream = self.rank_below(&projection.input, limit, last)?;
                self.project(&mut stream, &projection.expr, projection.input.schema(), plan.schema())?;
                Ok(stream)
            }
            other => Err(Error::internal(format!("no row numbers come from {}", other.display()))),
        }
    }

    /// Numbers the rows of each key in each window, of which `limit` are asked for.
    pub(super) fn rank(&mut self, window: &Window, limit: Option<usize>, last: bool) -> Result<Stream> {
        let mut stream = self.lower(&window.input, last)?;
        super::assign_windows(self, &mut stream)?;
        let (Some(call), Some(id)) = (numbering(window), windows_of_partition(&stream, window)) else {
            return self.over(stream, window, limit);
        };
        if stream.emit == Emit::Updating {
            return self.over(stream, window, limit);
        }
        stream.compact_but(&stream.bounds_of(id).into_iter().flatten().collect());
        let params = &call.params;
        let values: Vec<&Logical> =
            params.partition_by.iter().chain(params.order_by.iter().map(|sort| &sort.expr)).collect();
        let places = stream.with_values(&values, window.input.schema())?;
        let (partition, order) = places.split_at(params.partition_by.len());

        let [Some(start), Some(end)] = stream.bounds_of(id) else {
            return Err(Error::invalid(
                "row_number goes by one bound of windows whose other bound is not in its input",
            )
            .help("select window_start and window_end in the inner query"));
        };
        let of_window = |row: &usize| matches!(stream.roles[*row], Role::Window(other, _) if other == id);
        let (order_places, order_sorts): (Vec<usize>, Vec<Sort>) =
            order.iter().copied().zip(params.order_by.iter().cloned()).filter(|(row, _)| !of_window(row)).unzip();
        let ranking = Ranking {
            start,
            end,
            keys: partition.iter().copied().filter(|row| !of_window(row)).collect(),
            order: sort_columns(&order_places, &order_sorts),
            limit,
        };
        self.materialise(&mut stream)?;

        let mut name = match ranking.limit {
            Some(1) => "first row".to_owned(),
            Some(limit) => format!("first {limit} rows"),
            None => "row numbers".to_owned(),
        };
        if !ranking.keys.is_empty() {
            let keys: Vec<&str> = ranking.keys.iter().map(|key| stream.rows.field(*key).name().as_str()).collect();
            name.push_str(&format!(" by {}", keys.join(", ")));
        }
        name.push_str(" in windows of its input");
        let fields = stream.rows.fields().iter().cloned();
        let row_number = Arc::new(Field::new("row_number", DataType::UInt64, false));
        let rows = Arc::new(Schema::new(fields.chain([row_number]).collect::<Vec<_>>()));
        let input = Input { from: stream.base, route: Route::Key(ranking.route()) };
        self.add_branches(std::slice::from_mut(&mut stream));
        let action = Action::Rank(Arc::new(ranking));
        let base = self.step(name, action, vec![input], Arc::clone(&rows), Emit::Append);
        self.windows += 1;
        let mut ranked = Stream::of_step(base, rows, Emit::Append);
        // Only the windows have waited for their end: any other event time is behind the watermark now.
        for (role, before) in ranked.roles.iter_mut().zip(&stream.roles) {
            *role = match before {
                Role::Window(other, bound) if *other == id => Role::Window(self.windows, *bound),
                _ => Role::None,
            };
        }
        ranked.columns = stream.columns;
        ranked.columns.push(Place::Row(stream.rows.fields().len()));
        Ok(ranked)
    }
}

/// The only function of `window`, if it numbers rows.
pub(super) fn numbering(window: &Window) -> Option<Box<WindowFunction>> {
    let [expr] = window.window_expr.as_slice() else { return None };
    match expr.clone().unalias() {
        Logical::WindowFunction(call) if call.fun.name() == "row_number" && call.params.filter.is_none() => Some(call),
        _ => None,
    }
}

/// Which windows PARTITION BY names.
fn windows_of_partition(stream: &Stream, window: &Window) -> Option<usize> {
    let schema = window.input.schema();
    numbering(window)?.params.partition_by.iter().find_map(|expr| {
        match stream.columns[bare(expr).and_then(|column| schema.maybe_index_of_column(column))?] {
            Place::Row(row) => stream.window_of(row),
            Place::Window(_) => None,
        }
    })
}

/// Where in the text the first column of `expr` stands.
pub(super) fn place_of(expr: &Logical) -> Option<Location> {
    let spans = expr.column_refs().into_iter().filter_map(|column| column.spans.first());
    let first = spans.map(|span| span.start).min_by_key(|start| (start.line, start.column))?;
    Some(Location::new(first.line, first.column))
}

/// True if column `column` of `plan` is the number that a ranking gives to its rows.
fn numbers(plan: &LogicalPlan, column: usize) -> bool {
    match plan {
        LogicalPlan::Window(window) => numbering(window).is_some() && column == window.input.schema().fields().len(),
        LogicalPlan::SubqueryAlias(alias) => numbers(&alias.input, column),
        LogicalPlan::Projection(projection) => {
            let input = &projection.input;
            let copied = bare(&projection.expr[column]).and_then(|column| input.schema().maybe_index_of_column(column));
            copied.is_some_and(|column| numbers(input, column))
        }
        _ => false,
    }
}

/// The most that `keep` lets the row number of `plan` be, and what of `keep` must still be asked.
pub(super) fn bound(keep: &Logical, plan: &LogicalPlan) -> (Option<usize>, Option<Logical>) {
    let is_number = |expr: &Logical| {
        let mut expr = expr;
        while let Logical::Cast(cast) = expr {
            expr = &cast.expr;
        }
        let column = bare(expr).and_then(|column| plan.schema().maybe_index_of_column(column));
        column.is_some_and(|column| numbers(plan, column))
    };
    let mut limit: Option<usize> = None;
    let mut rest = Vec::new();
    for part in split_conjunction(keep) {
        let compared = match part {
            Logical::BinaryExpr(BinaryExpr { left, op, right }) if is_number(left) => whole(right).map(|n| (*op, n)),
            Logical::BinaryExpr(BinaryExpr { left, op, right }) if is_number(right) => op.swap().zip(whole(left)),
            _ => None,
        };
        let (most, exact) = match compared {
            Some((Operator::LtEq, n)) => (n, true),
            Some((Operator::Lt, n)) => (n.saturating_sub(1), true),
            Some((Operator::Eq, n)) => (n, n == 1),
            _ => {
                rest.push(part.clone());
                continue;
            }
        };
        let most = usize::try_from(most.max(0)).unwrap_or(usize::MAX);
        limit = Some(limit.map_or(most, |least| least.min(most)));
        if !exact {
            rest.push(part.clone());
        }
    }
    (limit, conjunction(rest))
}

/// The whole number that `expr` is.
fn whole(expr: &Logical) -> Option<i128> {
    let Logical::Literal(value, _) = expr else { return None };
    match value {
        ScalarValue::Decimal128(Some(value), _, 0) => Some(*value),
        ScalarValue::UInt64(Some(value)) => Some(i128::from(*value)),
        ScalarValue::Int64(Some(value)) => Some(i128::from(*value)),
        _ => None,
    }
}
