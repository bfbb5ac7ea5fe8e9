//! Window functions over rows that have no windows, and the first rows of a query: steps over collections.

use super::{Place, Planner, Stream, compile};
use crate::error::{Error, Result};
use crate::expr::{OverCall, from_datafusion};
use crate::plan::{Reducing, Reduction, SortColumn};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion_common::DFSchema;
use datafusion_expr::expr::{NullTreatment, Sort, WindowFunction};
use datafusion_expr::logical_plan::{FetchType, Limit, LogicalPlan, SkipType, Window};
use datafusion_expr::{Expr as Logical, WindowFunctionDefinition};
use datafusion_physical_expr::PhysicalSortExpr;
use datafusion_physical_plan::windows::create_window_expr;
use std::sync::Arc;

impl Planner<'_> {
    /// All window functions of `window` over the rows of `stream`; if the only one numbers rows, `limit` of each partition may be enough.
    pub(super) fn over(&mut self, mut stream: Stream, window: &Window, limit: Option<usize>) -> Result<Stream> {
        let schema = window.input.schema();
        let calls: Vec<WindowFunction> = window.window_expr.iter().map(call_of).collect::<Result<_>>()?;
        let first = calls.first().ok_or_else(|| Error::internal("a window without functions"))?;
        let (partition, order) = (&first.params.partition_by, &first.params.order_by);
        stream.compact();
        let values: Vec<&Logical> = partition.iter().chain(order.iter().map(|sort| &sort.expr)).collect();
        let places = stream.with_values(&values, schema)?;
        let bound = stream.bind(schema)?;
        let (keys, sorts) = places.split_at(partition.len());
        let keys = keys.to_vec();
        let order = sort_columns(sorts, order);
        let numbered = calls.len() == 1 && first.fun.name() == "row_number" && first.params.filter.is_none();
        let compiled = match numbered {
            true => Vec::new(),
            false => calls.iter().map(|call| compile_over(call, &bound, &stream, &order)).collect::<Result<_>>()?,
        };
        self.materialise(&mut stream)?;
        let mut fields: Vec<FieldRef> = stream.rows.fields().to_vec();
        let name = match (numbered, limit) {
            (true, Some(1)) => "first row".to_owned(),
            (true, Some(limit)) => format!("first {limit} rows"),
            (true, None) => "row numbers".to_owned(),
            (false, _) => {
                let mut names: Vec<&str> = calls.iter().map(|call| call.fun.name()).collect();
                names.dedup();
                format!("{} over rows", names.join(", "))
            }
        };
        let name = named_by(name, &keys, &stream);
        let what = match numbered {
            true => {
                fields.push(Arc::new(Field::new("row_number", DataType::UInt64, false)));
                Reduction::First { order, skip: 0, limit, numbered: true }
            }
            false => {
                for (n, call) in compiled.iter().enumerate() {
                    fields.push(Arc::new(
                        call.field()?.as_ref().clone().with_name(format!("{}_{n}", calls[n].fun.name())),
                    ));
                }
                Reduction::Over { order, calls: compiled }
            }
        };
        let rows = Arc::new(Schema::new(fields));
        let width = stream.rows.fields().len();
        let mut made =
            self.reduce(&stream, Reducing { keys, what }, name, "a window function over rows without windows", &rows)?;
        made.keep_time(&stream);
        made.columns = stream.columns;
        made.columns.extend((width..rows.fields().len()).map(Place::Row));
        Ok(made)
    }

    /// `ORDER BY … LIMIT n OFFSET m`: the first rows of a query.
    pub(super) fn limit(&mut self, limit: &Limit, last: bool) -> Result<Stream> {
        let whole = |wrong| Error::invalid(format!("{wrong} is no whole number"));
        let skip = match limit.get_skip_type().map_err(from_datafusion)? {
            SkipType::Literal(skip) => skip,
            SkipType::UnsupportedExpr => return Err(whole("OFFSET")),
        };
        let fetch = match limit.get_fetch_type().map_err(from_datafusion)? {
            FetchType::Literal(fetch) => fetch,
            FetchType::UnsupportedExpr => return Err(whole("LIMIT")),
        };
        self.first_of(&limit.input, skip, fetch, last)
    }

    fn first_of(&mut self, plan: &LogicalPlan, skip: usize, limit: Option<usize>, last: bool) -> Result<Stream> {
        let sort = match plan {
            LogicalPlan::Projection(projection) => {
                let mut stream = self.first_of(&projection.input, skip, limit, last)?;
                self.project(&mut stream, &projection.expr, projection.input.schema(), plan.schema())?;
                return Ok(stream);
            }
            LogicalPlan::SubqueryAlias(alias) => return self.first_of(&alias.input, skip, limit, last),
            LogicalPlan::Sort(sort) => sort,
            _ => {
                return Err(Error::invalid("LIMIT without ORDER BY would leave open which rows")
                    .help("say which come first: ORDER BY … LIMIT n"));
            }
        };
        let mut stream = self.lower(&sort.input, last)?;
        super::assign_windows(self, &mut stream)?;
        stream.compact();
        let values: Vec<&Logical> = sort.expr.iter().map(|sort| &sort.expr).collect();
        let places = stream.with_values(&values, sort.input.schema())?;
        let order = sort_columns(&places, &sort.expr);
        self.materialise(&mut stream)?;
        let name = match (limit, skip) {
            (Some(limit), 0) => format!("first {limit} rows"),
            (Some(limit), skip) => format!("{limit} rows after the first {skip}"),
            (None, skip) => format!("rows after the first {skip}"),
        };
        let what = Reduction::First { order, skip, limit, numbered: false };
        let rows = Arc::clone(&stream.rows);
        let reducing = Reducing { keys: Vec::new(), what };
        let mut made = self.reduce(&stream, reducing, name, "ORDER BY … LIMIT", &rows)?;
        made.keep_time(&stream);
        made.columns = stream.columns;
        Ok(made)
    }
}

fn named_by(mut name: String, keys: &[usize], stream: &Stream) -> String {
    if !keys.is_empty() {
        let keys: Vec<&str> = keys.iter().map(|key| stream.rows.field(*key).name().as_str()).collect();
        name.push_str(&format!(" by {}", keys.join(", ")));
    }
    name
}

fn call_of(expr: &Logical) -> Result<WindowFunction> {
    match expr.clone().unalias() {
        Logical::WindowFunction(call) => Ok(*call),
        other => Err(Error::internal(format!("{other} is no window function"))),
    }
}

/// The columns `places`, in the order that `sorts` say.
pub(super) fn sort_columns(places: &[usize], sorts: &[Sort]) -> Vec<SortColumn> {
    let column = |(column, sort): (&usize, &Sort)| SortColumn {
        column: *column,
        descending: !sort.asc,
        nulls_first: sort.nulls_first,
    };
    places.iter().zip(sorts).map(column).collect()
}

/// A function over the rows of a partition, which stand in `order`.
fn compile_over(call: &WindowFunction, bound: &DFSchema, stream: &Stream, order: &[SortColumn]) -> Result<OverCall> {
    let params = &call.params;
    let rows = &stream.rows;
    let args = params.args.iter().map(|arg| compile(arg, bound, rows)).collect::<Result<Vec<_>>>()?;
    let filter = params.filter.as_ref().map(|filter| compile(filter, bound, rows)).transpose()?;
    let sorts: Vec<PhysicalSortExpr> = order
        .iter()
        .map(|sort| PhysicalSortExpr {
            expr: Arc::new(datafusion_physical_expr::expressions::Column::new(
                rows.field(sort.column).name(),
                sort.column,
            )),
            options: SortOptions { descending: sort.descending, nulls_first: sort.nulls_first },
        })
        .collect();
    let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    if let WindowFunctionDefinition::AggregateUDF(function) = &call.fun
        && matches!(function.name(), "array_agg" | "string_agg" | "any_value")
        && params.order_by.is_empty()
    {
        return Err(Error::invalid(format!("{} OVER needs an ORDER BY: a set has no order", function.name())));
    }
    let shown: Vec<String> = args.iter().map(ToString::to_string).collect();
    let sorted: Vec<String> = order
        .iter()
        .map(|sort| format!("{}{}", rows.field(sort.column).name(), if sort.descending { " DESC" } else { "" }))
        .collect();
    let distinct = if params.distinct { "DISTINCT " } else { "" };
    let filtered = filter.as_ref().map(|filter| format!(" FILTER (WHERE {filter})")).unwrap_or_default();
    let nulls = if ignore_nulls { " IGNORE NULLS" } else { "" };
    let ordered = if sorted.is_empty() { String::new() } else { format!("ORDER BY {} ", sorted.join(", ")) };
    let text = format!(
        "{}({distinct}{}){nulls}{filtered} OVER ({ordered}{})",
        call.fun.name(),
        shown.join(", "),
        params.window_frame
    );
    let function = create_window_expr(
        &call.fun,
        text.clone(),
        &args.iter().map(|arg| Arc::clone(arg.inner())).collect::<Vec<_>>(),
        &[],
        &sorts,
        Arc::new(params.window_frame.clone()),
        Arc::clone(rows),
        ignore_nulls,
        params.distinct,
        filter.map(|filter| Arc::clone(filter.inner())),
    )
    .map_err(from_datafusion)?;
    Ok(OverCall::new(function, &text))
}
