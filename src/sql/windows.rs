//! `TUMBLE`, `HOP`, `CUMULATE` and `SESSION`: the table functions that say in which windows a row lies.
//!
//! They become a [`WindowAssign`] node, which adds `window_start`, `window_end` and `window_time`. Filters on other columns go
//! below it, and so does the choice of columns; what is left of it the planner merges into the aggregate above, where it can.
//! A session depends on all rows of its key, so only filters on the key go below it.

use super::place::through;
use super::statements::PARTITION_BY;
use crate::error::{Error, nearest};
use crate::plan::{Windows, event_time_type};
use crate::time::Micros;
use arrow::datatypes::{Field, SchemaRef};
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
    pub windows: Assigned,
    /// The columns of the input that are not hidden.
    pub kept: Vec<usize>,
    /// Where late rows go, if the query asks for them.
    pub late: Option<LateInto>,
    schema: DFSchemaRef,
}

/// `LATE INTO table`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LateInto {
    pub table: String,
    /// The columns that are written.
    pub schema: SchemaRef,
    /// For each column of the table: what goes into it.
    pub columns: Vec<LateColumn>,
}

/// What goes into a column of a table of late rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LateColumn {
    /// This column of the window's input.
    Row(Column),
    /// Why it is late.
    Reason,
    /// The watermark that it met.
    Watermark,
    /// The start of the last window that it lies in.
    WindowStart,
    /// The end of that.
    WindowEnd,
    /// Where it was read.
    Place,
    /// NULL.
    Nothing,
}

impl LateInto {
    /// The columns of the window's input that it takes.
    fn rows(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter_map(|column| match column {
            LateColumn::Row(column) => Some(column),
            _ => None,
        })
    }
}

/// Which windows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Assigned {
    /// Those of TUMBLE, HOP and CUMULATE.
    Fixed(Windows),
    /// Sessions; of the whole rest of the GROUP BY if no `partition` is given.
    Sessions { gap: Micros, partition: Option<Vec<Column>> },
}

impl Assigned {
    /// The columns of PARTITION BY.
    pub fn partition(&self) -> &[Column] {
        match self {
            Assigned::Sessions { partition: Some(columns), .. } => columns,
            _ => &[],
        }
    }
}

impl WindowAssign {
    pub fn new(input: LogicalPlan, time: Column, windows: Assigned) -> Result<Self> {
        let bound = |name: &str| (None, Arc::new(Field::new(name, event_time_type(), false)));
        let hidden = |index: &usize| WINDOW_COLUMNS.contains(&input.schema().field(*index).name().as_str());
        let kept: Vec<usize> = (0..input.schema().fields().len()).filter(|index| !hidden(index)).collect();
        let fields = kept.iter().map(|index| input.schema().qualified_field(*index));
        let fields = fields.map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
        let fields: Vec<(Option<TableReference>, _)> = fields.chain(WINDOW_COLUMNS.map(bound)).collect();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(WindowAssign { input: Arc::new(input), time, windows, kept, late: None, schema })
    }

    /// The columns of the input that it reads itself: the time, the keys, and what it takes of late rows.
    fn reads(&self) -> impl Iterator<Item = &Column> {
        let late = self.late.iter().flat_map(LateInto::rows);
        [&self.time].into_iter().chain(self.windows.partition()).chain(late)
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
        self.reads().cloned().map(Expr::Column).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        match &self.windows {
            Assigned::Fixed(_) => WINDOW_COLUMNS.map(str::to_owned).into(),
            Assigned::Sessions { .. } => {
                let free = |name: &str| self.windows.partition().iter().any(|column| column.name == name);
                let names = self.schema.fields().iter().map(|field| field.name().clone());
                names.filter(|name| !free(name)).collect()
            }
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WindowAssign: {} {:?}", self.time, self.windows)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let columns = exprs.drain(..).map(|expr| match expr {
            Expr::Column(column) => Ok(column),
            expr => internal_err!("a window over {expr:?}"),
        });
        let mut columns = columns.collect::<Result<Vec<_>>>()?.into_iter();
        let (Some(input), Some(time)) = (inputs.pop(), columns.next()) else {
            return internal_err!("a window over nothing");
        };
        let windows = match &self.windows {
            Assigned::Sessions { gap, partition: Some(keys) } => {
                let partition = columns.by_ref().take(keys.len()).collect();
                Assigned::Sessions { gap: *gap, partition: Some(partition) }
            }
            windows => windows.clone(),
        };
        let mut late = self.late.clone();
        for column in late.iter_mut().flat_map(|late| &mut late.columns) {
            if let LateColumn::Row(before) = column {
                columns.next().into_iter().for_each(|now| *before = now);
            }
        }
        Ok(WindowAssign { late, ..WindowAssign::new(input, time, windows)? })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed: Vec<usize> = output_columns.iter().filter_map(|index| self.kept.get(*index).copied()).collect();
        for column in self.reads() {
            needed.push(self.input.schema().maybe_index_of_column(column)?);
        }
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
        let input = context.plan(call.data.clone())?;
        let mut column = |expr: &ast::Expr| match context.sql_to_expr(expr.clone(), input.schema())? {
            Expr::Column(column) => Ok(column),
            _ => Err(at(
                expr,
                Error::invalid(format!("{} goes by columns, not by an expression", call.function))
                    .help("compute it in a column of the table, or in a query that stands in the table's place"),
            )),
        };
        let time = column(&call.time)?;
        let partition = call.partition.as_ref().map(|keys| keys.iter().map(&mut column).collect::<Result<Vec<_>>>());
        let windows = windows(&call, partition.transpose()?, context)?;
        let node = WindowAssign::new(input, time, windows)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// The windows that `call` asks for.
fn windows(call: &Call, partition: Option<Vec<Column>>, context: &mut dyn RelationPlannerContext) -> Result<Assigned> {
    let Call { function, intervals, .. } = call;
    let mut lengths = Vec::new();
    for (what, interval) in intervals {
        let micros = micros(what, interval, context)?;
        if micros <= 0 && *what != OFFSET {
            return Err(at(
                interval,
                Error::invalid(format!("{what} is not above 0")).help("write a constant such as INTERVAL '1' MINUTE"),
            ));
        }
        lengths.push(micros);
    }
    let offset = match intervals.last() {
        Some((OFFSET, _)) => lengths.pop().unwrap_or_default(),
        _ => 0,
    };
    let (slide, size) = match lengths[..] {
        [gap] if *function == Function::Session => return Ok(Assigned::Sessions { gap, partition }),
        [size] => return Ok(Assigned::Fixed(Windows::hop(size, size, offset))),
        [slide, size] => (slide, size),
        _ => return internal_err!("{function} takes one or two lengths"),
    };
    let help = format!("write {}", function.usage());
    let wrong = |reason: String| Err(at(&intervals[0].1, Error::invalid(reason).help(help.clone())));
    if size / slide > WINDOWS_OF_A_ROW_MAX {
        return wrong(format!("each row would lie in {} windows; {WINDOWS_OF_A_ROW_MAX} are the most", size / slide));
    }
    match function {
        Function::Cumulate if size % slide != 0 => wrong("CUMULATE's size is not a multiple of its step".into()),
        Function::Cumulate => Ok(Assigned::Fixed(Windows::cumulate(slide, size, offset))),
        _ if slide > size => wrong("HOP's slide is longer than its size, so rows between windows would vanish".into()),
        _ => Ok(Assigned::Fixed(Windows::hop(slide, size, offset))),
    }
}

/// The argument that windows are moved on by.
const OFFSET: &str = "offset";

/// The functions that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

impl Function {
    pub const ALL: [Function; 4] = [Function::Tumble, Function::Hop, Function::Cumulate, Function::Session];

    /// Its arguments, the optional one last.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Function::Tumble => &["data", "timecol", "size", OFFSET],
            Function::Hop => &["data", "timecol", "slide", "size", OFFSET],
            Function::Cumulate => &["data", "timecol", "step", "size", OFFSET],
            Function::Session => &["data", "timecol", "gap"],
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Function::Tumble => "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
            Function::Hop => "HOP(TABLE t, DESCRIPTOR(ts), slide, size): the slide comes first",
            Function::Cumulate => "CUMULATE(TABLE t, DESCRIPTOR(ts), step, size): the step comes first",
            Function::Session => "SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Function::Tumble => "TUMBLE",
            Function::Hop => "HOP",
            Function::Cumulate => "CUMULATE",
            Function::Session => "SESSION",
        })
    }
}

/// A call of a window function, its arguments in their places.
struct Call {
    function: Function,
    data: TableFactor,
    time: ast::Expr,
    partition: Option<Vec<ast::Expr>>,
    /// Each with its name.
    intervals: Vec<(&'static str, ast::Expr)>,
}

impl Call {
    fn new(name: &ObjectName, mut arguments: Vec<FunctionArg>) -> Result<Self> {
        let spelled = name.to_string();
        let function = Function::ALL.into_iter().find(|f| f.to_string().eq_ignore_ascii_case(&spelled));
        let function = function.ok_or_else(|| unknown(name))?;
        let names = function.arguments();
        let wrong = |reason: String| {
            at(name, Error::invalid(format!("{function}: {reason}")).help(format!("write {}", function.usage())))
        };
        let partition = cut_partition(&mut arguments);
        match &partition {
            Some(_) if function != Function::Session => {
                return Err(wrong("PARTITION BY belongs to SESSION: other windows are the same for all keys".into()));
            }
            Some(keys) if keys.is_empty() => return Err(wrong("PARTITION BY names no column".into())),
            _ => {}
        }
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
                None => {
                    return Err(wrong(format!("{count} arguments are given, but it takes at most {}", names.len())));
                }
            }
        }
        let missing = names.iter().zip(&values).find(|(name, value)| value.is_none() && **name != OFFSET);
        if let Some((missing, _)) = missing {
            return Err(wrong(format!("the argument {missing} is missing")));
        }
        let mut given = names.iter().zip(values).filter_map(|(name, value)| Some((*name, value?)));
        let mut next = || given.next().expect("each argument but the last is there, as checked above").1;
        let data = relation(next()).map_err(&wrong)?;
        let time = descriptor(next()).map_err(&wrong)?;
        Ok(Call { function, data, time, partition, intervals: given.collect() })
    }
}

/// Takes `PARTITION BY key, …` out of the arguments, where [`PARTITION_BY`] stands in front of it.
fn cut_partition(arguments: &mut Vec<FunctionArg>) -> Option<Vec<ast::Expr>> {
    let unnamed = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some(value.clone()),
        _ => None,
    };
    let marks = |argument| matches!(unnamed(argument), Some(ast::Expr::Identifier(name)) if name.value == PARTITION_BY);
    let first = arguments.iter().position(marks)?;
    let descriptor = |value: &ast::Expr| match value {
        ast::Expr::Function(function) => function.name.to_string().eq_ignore_ascii_case("descriptor"),
        _ => false,
    };
    // The keys end where DESCRIPTOR or a name says so, else before the last two arguments.
    let rest = &arguments[first + 1..];
    let stop = rest.iter().position(|argument| unnamed(argument).is_none_or(|value| descriptor(&value)));
    let count = stop.unwrap_or(rest.len().saturating_sub(2));
    Some(arguments.drain(first..=first + count).skip(1).filter_map(|argument| unnamed(&argument)).collect())
}

/// The argument that names the rows: a table or a query.
pub(super) fn relation(value: ast::Expr) -> Result<TableFactor, String> {
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

/// A constant interval, in microseconds.
fn micros(what: &str, interval: &ast::Expr, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let wrong = |reason: &str| {
        at(interval, Error::invalid(format!("{what} {reason}")).help("write a constant such as INTERVAL '1' MINUTE"))
    };
    let (value, sign) = match context.sql_to_expr(interval.clone(), &DFSchema::empty())? {
        Expr::Negative(value) => (*value, -1),
        value => (value, 1),
    };
    interval_micros(&value).map_err(wrong)?.checked_mul(sign).ok_or_else(|| wrong("is longer than all of time"))
}

/// The microseconds of a literal interval, or what keeps it from being so many.
pub(super) fn interval_micros(value: &Expr) -> std::result::Result<i64, &'static str> {
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _) = value else {
        return Err("is not an interval");
    };
    if value.months != 0 {
        return Err("counts months, which are not of one length");
    }
    if value.nanoseconds % 1000 != 0 {
        return Err("is finer than a microsecond");
    }
    let micros = i64::from(value.days).checked_mul(86_400_000_000);
    micros.and_then(|days| days.checked_add(value.nanoseconds / 1000)).ok_or("is longer than all of time")
}

fn unknown(name: &ObjectName) -> datafusion_common::DataFusionError {
    let error = Error::invalid(format!("unknown table function '{name}'"));
    at(
        name,
        match nearest(&name.to_string().to_lowercase(), ["tumble", "hop", "cumulate", "session"]) {
            Some(near) => error.help(format!("did you mean {near}?")),
            None => error
                .help("the table functions are TUMBLE, HOP, CUMULATE and SESSION; for lists there is SELECT unnest(…)"),
        },
    )
}

/// Our error with the place of a piece of syntax.
pub(super) fn at(syntax: &impl Spanned, error: Error) -> datafusion_common::DataFusionError {
    let span = Span::try_from_sqlparser_span(syntax.span());
    through(error).with_diagnostic(Diagnostic::new_error("", span))
}
