//! What is not supported is refused before planning, by name, with its place and a reason.

use super::catalog::Catalog;
use super::place::Text;
use super::temporal;
use crate::error::Error;
use sqlparser::ast::{
    Distinct, Expr, Function, FunctionArguments, GroupByExpr, Join, JoinConstraint, JoinOperator, Query, Select,
    SelectFlavor, SetExpr, SetOperator, SetQuantifier, Spanned, TableFactor, Value, Visit, Visitor,
};
use sqlparser::tokenizer::{Location, Span};
use std::ops::ControlFlow;

/// The first thing in a query or an expression that cannot be planned.
pub(super) fn refuse(query: &impl Visit, catalog: &Catalog, text: Text) -> Option<(Error, Span)> {
    match query.visit(&mut Refusal { catalog, text, tables: Vec::new() }) {
        ControlFlow::Break(found) => Some(found),
        ControlFlow::Continue(()) => None,
    }
}

struct Refusal<'a> {
    catalog: &'a Catalog,
    text: Text<'a>,
    /// Where the table functions stand that are written as TABLE(function(…)): whoever plans FROM knows them.
    tables: Vec<Location>,
}

/// How to say what ORDER BY … LIMIT says elsewhere.
const FIRST_ROWS: &str = "for the first rows of each window, number them: SELECT … FROM (SELECT *, row_number() OVER \
                          (PARTITION BY window_start, window_end ORDER BY x DESC) AS n FROM …) WHERE n <= 10";

type Found = ControlFlow<(Error, Span)>;

fn no(syntax: &impl Spanned, what: &str, help: &str) -> Found {
    no_at(syntax.span(), what, help)
}

fn no_at(span: Span, what: &str, help: &str) -> Found {
    let error = Error::invalid(format!("{what} not yet supported"));
    ControlFlow::Break((if help.is_empty() { error } else { error.help(help) }, span))
}

impl Visitor for Refusal<'_> {
    type Break = (Error, Span);

    fn pre_visit_query(&mut self, query: &Query) -> Found {
        let distinct_on =
            |body: &SetExpr| matches!(body, SetExpr::Select(s) if matches!(s.distinct, Some(Distinct::On(_))));
        let bounded = query.limit_clause.is_some() || query.fetch.is_some() || distinct_on(&query.body);
        if let Some(order_by) = query.order_by.as_ref().filter(|_| !bounded) {
            return no_at(
                self.clause("ORDER", order_by),
                "ORDER BY without LIMIT is",
                &format!("a stream has no end to sort at; for its first rows add LIMIT n; {FIRST_ROWS}"),
            );
        }
        let why = "say which rows come first: ORDER BY … LIMIT n";
        if let Some(limit) = query.limit_clause.as_ref().filter(|_| query.order_by.is_none()) {
            return no_at(self.clause("LIMIT", limit), "LIMIT without ORDER BY is", why);
        }
        if let Some(fetch) = query.fetch.as_ref().filter(|_| query.order_by.is_none()) {
            return no_at(self.clause("FETCH", fetch), "FETCH without ORDER BY is", why);
        }
        if !query.locks.is_empty() || query.for_clause.is_some() {
            return no(query, "FOR after a query is", "");
        }
        if !query.pipe_operators.is_empty() {
            return no(query, "|> is", "");
        }
        self.set_expr(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Found {
        // DataFusion gives the left side's column, which is NULL for rows of the right side alone
        for join in select.from.iter().flat_map(|table| &table.joins) {
            if let JoinOperator::Right(by) | JoinOperator::RightOuter(by) | JoinOperator::FullOuter(by) =
                &join.join_operator
                && matches!(by, JoinConstraint::Using(_) | JoinConstraint::Natural)
            {
                let help = "write ON a.key = b.key, and coalesce(a.key, b.key) for the column of both";
                return no(&join.relation, "USING or NATURAL in a RIGHT or FULL JOIN is", help);
            }
        }
        let asof = |join: &&Join| matches!(join.join_operator, JoinOperator::AsOf { .. });
        if let Some(join) = select.from.iter().flat_map(|table| &table.joins).find(asof) {
            return no(&join.relation, "USING or NATURAL in an ASOF JOIN is", "write ON a.key = b.key");
        }
        let tables = select
            .from
            .iter()
            .flat_map(|table| std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation)));
        if let Some(list) = tables.clone().skip(1).find(|table| matches!(table, TableFactor::UNNEST { .. })) {
            return no(list, "this form of UNNEST is", "write SELECT unnest(list) AS element FROM …");
        }
        if let Some(view) = select.lateral_views.first() {
            return no(view, "LATERAL VIEW is", "write SELECT unnest(list) AS element FROM …");
        }
        if let Some(window) = select.named_window.first() {
            return no(window, "WINDOW is", "");
        }
        if let GroupByExpr::All(_) = &select.group_by {
            return no(select, "GROUP BY ALL is", "name the columns");
        }
        if matches!(&select.group_by, GroupByExpr::Expressions(_, modifiers) if !modifiers.is_empty()) {
            return no(&select.group_by, "GROUP BY … WITH is", "");
        }
        let odd = !select.connect_by.is_empty()
            || select.top.is_some()
            || select.into.is_some()
            || select.prewhere.is_some()
            || !(select.cluster_by.is_empty() && select.distribute_by.is_empty() && select.sort_by.is_empty())
            || select.flavor != SelectFlavor::Standard;
        match odd {
            true => no(select, "this form of SELECT is", "the clauses are SELECT, FROM, WHERE, GROUP BY and HAVING"),
            false => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> Found {
        match table {
            TableFactor::Table { sample: Some(_), .. } => no(table, "TABLESAMPLE is", ""),
            table if temporal::system_time(table).is_some() => no(
                table,
                "this form of FOR SYSTEM_TIME AS OF is",
                "it follows the second table of a JOIN or LEFT JOIN: a JOIN b FOR SYSTEM_TIME AS OF a.ts ON a.key = b.key",
            ),
            TableFactor::Table { .. } => ControlFlow::Continue(()),
            TableFactor::TableFunction {
                expr: Expr::Function(Function { name, args: FunctionArguments::List(_), .. }),
                ..
            } => {
                self.tables.push(name.span().start);
                ControlFlow::Continue(())
            }
            TableFactor::TableFunction { .. } => ControlFlow::Continue(()),
            TableFactor::Derived { lateral: false, .. } => ControlFlow::Continue(()),
            TableFactor::Derived { .. } => no(table, "LATERAL is", ""),
            TableFactor::UNNEST { .. } => {
                no(table, "UNNEST of a constant is", "write SELECT unnest(list) AS element FROM …")
            }
            TableFactor::MatchRecognize { .. } => no(table, "MATCH_RECOGNIZE is", ""),
            _ => no(table, "this form of FROM is", ""),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Found {
        match expr {
            Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => no(left.as_ref(), "ANY and ALL are", ""),
            Expr::Function(function) => self.function(function),
            Expr::Interval(interval) if interval.leading_field.is_none() && has_no_unit(&interval.value) => {
                let error = Error::invalid("this interval has no unit").help("write one such as INTERVAL '5' SECOND");
                ControlFlow::Break((error, expr.span()))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// True for the names of functions that have a meaning, or are refused, whatever is declared.
pub(super) fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 19] = [
        "now",
        "current_timestamp",
        "current_date",
        "current_time",
        "today",
        "localtimestamp",
        "random",
        "rand",
        "uuid",
        "gen_random_uuid",
        "descriptor",
        "unnest",
        "unnest_outer",
        "grouping",
        "nth_value",
        "tumble",
        "hop",
        "cumulate",
        "session",
    ];
    NAMES.contains(&name)
}

/// True for the text of an INTERVAL that is only a number.
fn has_no_unit(value: &Expr) -> bool {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.trim().parse::<f64>().is_ok(),
            Value::Number(..) => true,
            _ => false,
        },
        _ => false,
    }
}

impl Refusal<'_> {
    /// A clause with its first word, of which the parser keeps only what follows.
    fn clause(&self, word: &str, rest: &impl Spanned) -> Span {
        let rest = rest.span();
        Span::new(self.text.word_before(word, rest.start), rest.end)
    }

    fn set_expr(&self, body: &SetExpr) -> Found {
        match body {
            SetExpr::SetOperation { op, set_quantifier, left, right } => {
                self.set_expr(left)?;
                self.set_expr(right)?;
                match (op, set_quantifier) {
                    (SetOperator::Union, _) => ControlFlow::Continue(()),
                    (
                        SetOperator::Intersect | SetOperator::Except,
                        SetQuantifier::None | SetQuantifier::Distinct | SetQuantifier::All,
                    ) => ControlFlow::Continue(()),
                    (op, quantifier) => no(right.as_ref(), &format!("{op} {quantifier} is"), ""),
                }
            }
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
            other => no(other, "this form of query is", ""),
        }
    }

    fn function(&self, function: &Function) -> Found {
        if temporal::is_mark(&function.name) {
            return ControlFlow::Continue(());
        }
        let name = function.name.to_string().to_lowercase();
        if function.over.is_some() && self.catalog.has_window_function(&name) {
            return ControlFlow::Continue(());
        }
        if self.tables.contains(&function.name.span().start) {
            return ControlFlow::Continue(());
        }
        let reason = match name.as_str() {
            "now" | "current_timestamp" | "current_date" | "current_time" | "today" | "localtimestamp" => {
                "it gives the time of the run, not of the row, so a replay would give another answer"
            }
            "random" | "rand" | "uuid" | "gen_random_uuid" => {
                "it gives another value each time, so a replay would give another answer"
            }
            "descriptor" | "unnest" | "grouping" => return ControlFlow::Continue(()),
            // DataFusion's needs its rows sorted before they come
            "nth_value" => return no(&function.name, "nth_value is", "array_agg(x ORDER BY y)[n] is the n-th"),
            "unnest_outer" => return no(&function.name, "unnest_outer is", "unnest drops rows without elements"),
            name if self.catalog.has_function(name) => return ControlFlow::Continue(()),
            name => {
                let error = Error::invalid(format!("unknown function '{name}'"));
                let error = match self.catalog.nearest_function(name) {
                    Some(near) => error.help(format!("did you mean '{near}'?")),
                    None => error.help("`highwater functions` lists those that there are"),
                };
                return ControlFlow::Break((error, function.name.span()));
            }
        };
        let error = Error::invalid(format!("{name}() is refused: it is not a function of the rows"));
        ControlFlow::Break((error.help(reason), function.name.span()))
    }
}
