//! Hints: `SELECT /*+ STATE_TTL('orders' = '1 day', 'c' = 'off') */ … FROM orders JOIN customers AS c …` says for how long rows of a
//! relation of this SELECT count in what keeps them.
//!
//! A relation that is named becomes the argument of a function that no text can call, and so a node around its plan.

use super::place::{Text, through};
use super::settings;
use super::statements::DIALECT;
use super::windows::{at, relation};
use super::{normal, planner::Stay};
use crate::error::{Error, Result, nearest};
use datafusion_common::{DFSchemaRef, internal_err};
use datafusion_expr::Expr;
use datafusion_expr::logical_plan::{Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use sqlparser::ast::{
    self, BinaryOperator, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, Query, Select, TableAlias, TableFactor, Value, VisitMut, VisitorMut,
};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What the function is called.
const FUNCTION: &str = "\0STATE_TTL";

/// The hint that there is.
const STATE_TTL: &str = "STATE_TTL";

/// The rows of `input` count for so long.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub(super) struct StateTtl {
    pub input: Arc<LogicalPlan>,
    pub stay: Stay,
}

impl UserDefinedLogicalNodeCore for StateTtl {
    fn name(&self) -> &str {
        "StateTtl"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn prevent_predicate_push_down_columns(&self) -> std::collections::HashSet<String> {
        Default::default()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StateTtl: {:?}", self.stay)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> datafusion_common::Result<Self> {
        match <[LogicalPlan; 1]>::try_from(inputs) {
            Ok([input]) => Ok(StateTtl { input: Arc::new(input), stay: self.stay }),
            Err(_) => internal_err!("a hint is about one relation"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// Puts what the hints in `query` say around the relations that they name.
///
/// # Errors
/// A hint that there is not, or that names what this SELECT does not read, at its SELECT.
pub(super) fn rewrite(query: &mut Query, text: Text) -> Result<()> {
    match query.visit(&mut Hints { text }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Hints<'a> {
    text: Text<'a>,
}

impl VisitorMut for Hints<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        let start = select.select_token.0.span.start;
        let hints = std::mem::take(&mut select.optimizer_hints);
        for hint in hints.iter().filter(|hint| hint.prefix.is_empty()) {
            for (name, stay) in self.read(&hint.text, start)? {
                let relations = select.from.iter_mut().flat_map(|table| {
                    std::iter::once(&mut table.relation).chain(table.joins.iter_mut().map(|join| &mut join.relation))
                });
                let mut others = Vec::new();
                let mut found = false;
                for relation in relations {
                    match called(relation) {
                        Some(own) if own == name => {
                            wrap(relation, &stay);
                            found = true;
                        }
                        own => others.extend(own),
                    }
                }
                if !found {
                    let error =
                        Error::invalid(format!("the hint {STATE_TTL} names '{name}', which this SELECT does not read"));
                    let error = match nearest(&name, others.iter().map(String::as_str)) {
                        Some(near) => error.help(format!("did you mean '{near}'?")),
                        None => error.help(format!("it reads {}", others.join(", "))),
                    };
                    return ControlFlow::Break(self.text.error_at(error, start));
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Hints<'_> {
    /// The relations that a hint names, and how long their rows stay.
    fn read(&self, hint: &str, start: Location) -> ControlFlow<Error, Vec<(String, String)>> {
        let wrong = |error: Error| ControlFlow::Break(self.text.error_at(error, start));
        let unread = || {
            Error::invalid(format!("this hint cannot be read: {}", hint.trim()))
                .help(format!("write /*+ {STATE_TTL}('table' = '1 day', 'other' = 'off') */"))
        };
        let Ok(mut parser) = Parser::new(&DIALECT).try_with_sql(hint) else { return wrong(unread()) };
        let mut named = Vec::new();
        while parser.peek_token().token != Token::EOF {
            let Ok(ast::Expr::Function(Function { name, args: FunctionArguments::List(list), .. })) =
                parser.parse_expr()
            else {
                return wrong(unread());
            };
            let name = name.to_string();
            if !name.eq_ignore_ascii_case(STATE_TTL) {
                let error = Error::invalid(format!("unknown hint '{name}'"));
                return wrong(match nearest(&name.to_uppercase(), [STATE_TTL]) {
                    Some(near) => error.help(format!("did you mean {near}?")),
                    None => error.help(format!("the hint is {STATE_TTL}('table' = '1 day')")),
                });
            }
            for argument in list.args {
                let FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::BinaryOp {
                    left,
                    op: BinaryOperator::Eq,
                    right,
                })) = argument
                else {
                    return wrong(unread());
                };
                let (Some(relation), Some(stay)) = (quoted(&left), quoted(&right)) else { return wrong(unread()) };
                if settings::stay(&stay).is_err() {
                    let error = Error::invalid(format!("the hint {STATE_TTL}: '{stay}' is not a duration"));
                    return wrong(error.help("write one such as '1 day', or 'off'"));
                }
                named.push((relation, stay));
            }
            let _ = parser.consume_token(&Token::Comma);
        }
        ControlFlow::Continue(named)
    }
}

fn quoted(expr: &ast::Expr) -> Option<String> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        ast::Expr::Identifier(name) => Some(normal(name)),
        _ => None,
    }
}

/// What a SELECT calls one of its relations.
fn called(relation: &TableFactor) -> Option<String> {
    match relation {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::TableFunction { alias: Some(alias), .. } => Some(normal(&alias.name)),
        TableFactor::Table { name, .. } => name.0.last().and_then(|part| part.as_ident()).map(normal),
        _ => None,
    }
}

/// Makes `relation` the argument of the function.
fn wrap(relation: &mut TableFactor, stay: &str) {
    let alias = match relation {
        TableFactor::Table { alias, name, .. } => alias.take().or_else(|| {
            let name = name.0.last()?.as_ident()?.clone();
            Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None })
        }),
        TableFactor::Derived { alias, .. } | TableFactor::TableFunction { alias, .. } => alias.take(),
        _ => None,
    };
    let Some(alias) = alias else { return };
    let data = ast::Expr::Subquery(Box::new(all_of(relation.clone())));
    let stay = ast::Expr::Value(Value::SingleQuotedString(stay.to_owned()).into());
    let args = [data, stay].map(|value| FunctionArg::Unnamed(FunctionArgExpr::Expr(value))).to_vec();
    let name = Ident::with_span(alias.name.span, FUNCTION);
    let function = Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    };
    *relation = TableFactor::TableFunction { expr: ast::Expr::Function(function), alias: Some(alias) };
}

/// `SELECT * FROM relation`.
fn all_of(relation: TableFactor) -> Query {
    let mut query = Parser::new(&DIALECT)
        .try_with_sql("SELECT * FROM t")
        .and_then(|mut parser| parser.parse_query())
        .expect("it is a query");
    if let ast::SetExpr::Select(select) = query.body.as_mut() {
        select.from[0].relation = relation;
    }
    *query
}

/// Plans the function.
#[derive(Debug)]
pub(super) struct HintFunction;

impl RelationPlanner for HintFunction {
    fn plan_relation(
        &self,
        table: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> datafusion_common::Result<RelationPlanning> {
        let TableFactor::TableFunction { expr: ast::Expr::Function(function), alias } = table else {
            return Ok(RelationPlanning::Original(Box::new(table)));
        };
        let hinted = function.name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| name.value == FUNCTION);
        let FunctionArguments::List(list) = function.args.clone() else { return internal_err!("a hint without rows") };
        if !hinted {
            let expr = ast::Expr::Function(function);
            return Ok(RelationPlanning::Original(Box::new(TableFactor::TableFunction { expr, alias })));
        }
        let mut values = list.args.into_iter().filter_map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some(value),
            _ => None,
        });
        let (Some(data), Some(stay)) = (values.next(), values.next()) else {
            return internal_err!("a hint without rows");
        };
        let stay = quoted(&stay).unwrap_or_default();
        let stay = settings::stay(&stay).map_err(through)?;
        let data = relation(data).map_err(|reason| at(&function.name, Error::invalid(reason)))?;
        let input = Arc::new(context.plan(data)?);
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(StateTtl { input, stay }) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}
