//! `TUMBLE` and `HOP`: the table functions that say in which windows a row lies.
//!
//! They become a [`WindowAssign`] node, which adds `window_start`, `window_end` and `window_time`. Filters on other columns go
//! below it, and so does the choice of columns; what is left of it the planner merges into the aggregate above, where it can.

use super::place::through;
use crate::error::{Error, nearest};
use crate::plan::{Windows, event_time_type};
use arrow::datatypes::Field;
use datafusion_common::{
    Column, DFSchema, DFSchemaRef, Diagnostic, Result, ScalarValue, Span, TableReference, internal_err,
};
use datafusion_expr::Expr;
use datafusion_expr::logical_plan::{Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, ObjectNamePart, Spanned, TableFactor,
};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// The columns that a window function adds.
pub(super) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// A row is kept once for each window that it lies in.
const WINDOWS_OF_A_ROW_MAX: i64 = 10_000;

/// The rows of `input`, each once for every window that its `time` lies in. Windows that the rows already carry are hidden by the new
/// ones, which have their names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WindowAssign {
    pub input: Arc<LogicalPlan>,
    pub time: Column,
    pub windows: Windows,
    /// The columns of the input that are not hidden.
    pub kept: Vec<usize>,
    schema: DFSchemaRef,
}

impl WindowAssign {
    pub fn new(input: LogicalPlan, time: Column, windows: Windows) -> Result<Self> {
        let bound = |name: &str| (None, Arc::new(Field::new(name, event_time_type(), false)));
        let hidden = |index: &usize| WINDOW_COLUMNS.contains(&input.schema().field(*index).name().as_str());
        let kept: Vec<usize> = (0..input.schema().fields().len()).filter(|index| !hidden(index)).collect();
        let fields = kept.iter().map(|index| input.schema().qualified_field(*index));
        let fields = fields.map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
        let fields: Vec<(Option<TableReference>, _)> = fields.chain(WINDOW_COLUMNS.map(bound)).collect();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(WindowAssign { input: Arc::new(input), time, windows, kept, schema })
    }
}

impl PartialOrd for WindowAssign {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input).filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for WindowAssign {
    fn name(&self) -> &str {
        "WindowAssign"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        WINDOW_COLUMNS.map(str::to_owned).into()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WindowAssign: {} {:?}", self.time, self.windows)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (exprs.pop(), inputs.pop()) {
            (Some(Expr::Column(time)), Some(input)) => WindowAssign::new(input, time, self.windows),
            (expr, _) => internal_err!("a window over {expr:?}"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed: Vec<usize> = output_columns.iter().filter_map(|index| self.kept.get(*index).copied()).collect();
        needed.push(self.input.schema().maybe_index_of_column(&self.time)?);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Plans the window functions in FROM.
#[derive(Debug)]
pub(super) struct WindowFunctions;

impl RelationPlanner for WindowFunctions {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, arguments, alias) = match relation {
            TableFactor::Table { name, alias, args: Some(args), .. } => (name, args.args, alias),
            TableFactor::TableFunction { expr: ast::Expr::Function(function), alias } => match function.args {
                FunctionArguments::List(list) => (function.name, list.args, alias),
                _ => return Err(unknown(&function.name)),
            },
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let call = Call::new(&name, arguments)?;
        let input = context.plan(call.data)?;
        let time = context.sql_to_expr(call.time.clone(), input.schema())?;
        let Expr::Column(time) = time else {
            return Err(at(
                &call.time,
                Error::invalid(format!("{} goes by a column, not by an expression", call.function))
                    .help("compute it in a column of the table and declare a WATERMARK for that"),
            ));
        };
        let mut intervals = Vec::new();
        for (what, interval) in &call.intervals {
            intervals.push(micros(what, interval, context)?);
        }
        let windows = match intervals[..] {
            [size] => Windows { size, slide: size },
            [slide, size] if size / slide > WINDOWS_OF_A_ROW_MAX => {
                let error = Error::invalid(format!(
                    "each row would lie in {} windows; {WINDOWS_OF_A_ROW_MAX} are the most",
                    size / slide
                ));
                return Err(at(
                    &call.intervals[0].1,
                    error.help("the slide comes first: HOP(TABLE t, DESCRIPTOR(ts), slide, size)"),
                ));
            }
            [slide, size] if slide <= size => Windows { size, slide },
            _ => {
                return Err(at(
                    &call.intervals[0].1,
                    Error::invalid("HOP's slide is longer than its size, so rows between windows would vanish")
                        .help("the slide comes first: HOP(TABLE t, DESCRIPTOR(ts), slide, size)"),
                ));
            }
        };
        let node = WindowAssign::new(input, time, windows)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// A call of TUMBLE or HOP, its arguments in their places.
struct Call {
    function: &'static str,
    data: TableFactor,
    time: ast::Expr,
    /// TUMBLE: size. HOP: slide, size.
    intervals: Vec<(&'static str, ast::Expr)>,
}

impl Call {
    fn new(name: &ObjectName, arguments: Vec<FunctionArg>) -> Result<Self> {
        let spelled = name.to_string();
        let (function, names, usage): (_, &[&'static str], _) = match spelled.to_ascii_lowercase().as_str() {
            "tumble" => {
                ("TUMBLE", &["data", "timecol", "size"], "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)")
            }
            "hop" => ("HOP", &["data", "timecol", "slide", "size"], "HOP(TABLE t, DESCRIPTOR(ts), slide, size)"),
            window @ ("session" | "cumulate") => {
                let error = Error::invalid(format!("{} windows are not yet supported", window.to_uppercase()));
                return Err(at(name, error.help("TUMBLE and HOP are")));
            }
            _ => return Err(unknown(name)),
        };
        let wrong =
            |reason: String| at(name, Error::invalid(format!("{function}: {reason}")).help(format!("write {usage}")));
        let count = arguments.len();
        let mut values: Vec<Option<ast::Expr>> = vec![None; names.len()];
        for (position, argument) in arguments.into_iter().enumerate() {
            let (position, value) = match argument {
                FunctionArg::Unnamed(value) => (position, value),
                FunctionArg::Named { name: ident, arg, .. } => {
                    let place = names.iter().position(|name| ident.value.eq_ignore_ascii_case(name));
                    (place.ok_or_else(|| wrong(format!("there is no argument {ident}")))?, arg)
                }
                FunctionArg::ExprNamed { name: expr, .. } => return Err(wrong(format!("there is no argument {expr}"))),
            };
            let FunctionArgExpr::Expr(value) = value else { return Err(wrong("an argument is a * here".into())) };
            match values.get_mut(position) {
                Some(slot) => *slot = Some(value),
                None => return Err(wrong(format!("{count} arguments are given, but it takes {}", names.len()))),
            }
        }
        let missing = names.iter().zip(&values).find(|(_, value)| value.is_none());
        if let Some((missing, _)) = missing {
            return Err(wrong(format!("the argument {missing} is missing")));
        }
        let mut values = values.into_iter().flatten();
        let mut next = || values.next().expect("each argument is there, as checked above");
        let data = relation(next()).map_err(&wrong)?;
        let time = descriptor(next()).map_err(&wrong)?;
        let intervals = names[2..].iter().map(|name| (*name, next())).collect();
        Ok(Call { function, data, time, intervals })
    }
}

/// The argument that names the rows: a table or a query.
fn relation(value: ast::Expr) -> Result<TableFactor, String> {
    let name = match value {
        ast::Expr::Identifier(name) => vec![name],
        ast::Expr::CompoundIdentifier(names) => names,
        ast::Expr::Subquery(subquery) => {
            return Ok(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None });
        }
        other => return Err(format!("{other} is not a table")),
    };
    Ok(TableFactor::Table {
        name: ObjectName(name.into_iter().map(ObjectNamePart::Identifier).collect()),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    })
}

/// The argument that names the event-time column, with or without DESCRIPTOR around it.
fn descriptor(value: ast::Expr) -> Result<ast::Expr, String> {
    let ast::Expr::Function(function) = value else { return Ok(value) };
    if !function.name.to_string().eq_ignore_ascii_case("descriptor") {
        return Ok(ast::Expr::Function(function));
    }
    match function.args {
        FunctionArguments::List(mut list) if list.args.len() == 1 => match list.args.pop() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(column))) => Ok(column),
            _ => Err("DESCRIPTOR takes a column".into()),
        },
        _ => Err("DESCRIPTOR takes one column".into()),
    }
}

/// A constant interval above 0, in microseconds.
fn micros(what: &str, interval: &ast::Expr, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let wrong = |reason: &str| {
        at(interval, Error::invalid(format!("{what} {reason}")).help("write a constant such as INTERVAL '1' MINUTE"))
    };
    let value = match context.sql_to_expr(interval.clone(), &DFSchema::empty())? {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _) => value,
        _ => return Err(wrong("is not an interval")),
    };
    if value.months != 0 {
        return Err(wrong("counts months, which are not of one length"));
    }
    if value.nanoseconds % 1000 != 0 {
        return Err(wrong("is finer than a microsecond"));
    }
    match i64::from(value.days).checked_mul(86_400_000_000).and_then(|days| days.checked_add(value.nanoseconds / 1000))
    {
        Some(micros) if micros > 0 => Ok(micros),
        _ => Err(wrong("is not above 0")),
    }
}

fn unknown(name: &ObjectName) -> datafusion_common::DataFusionError {
    let error = Error::invalid(format!("unknown table function '{name}'"));
    at(
        name,
        match nearest(&name.to_string(), ["tumble", "hop"]) {
            Some(near) => error.help(format!("did you mean {near}?")),
            None => error.help("the table functions are TUMBLE and HOP; for lists there is SELECT unnest(…)"),
        },
    )
}

/// Our error with the place of a piece of syntax.
fn at(syntax: &impl Spanned, error: Error) -> datafusion_common::DataFusionError {
    let span = Span::try_from_sqlparser_span(syntax.span());
    through(error).with_diagnostic(Diagnostic::new_error("", span))
}
