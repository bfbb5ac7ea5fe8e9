//! `FROM t CROSS JOIN UNNEST(t.list) AS u (element)`, which DataFusion plans only for constants, as the query that it stands for:
//! `FROM (SELECT *, unnest(t.list) AS element FROM t) AS t`.

use super::normal;
use super::statements::DIALECT;
use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinOperator, Query, Select, SelectItem, SetExpr,
    Statement, TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use sqlparser::parser::Parser;
use std::ops::ControlFlow;

/// Rewrites every such join in `query`. Other joins stay, to be refused.
pub(super) fn rewrite(query: &mut Query) {
    let _ = query.visit(&mut Joins);
}

struct Joins;

impl VisitorMut for Joins {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let joined = select.from.iter().skip(1).map(|table| &table.relation).chain(joins(&select.from));
        if select.from.is_empty() || !joined.clone().all(is_unnest) || !only_cross(&select.from) {
            return ControlFlow::Continue(());
        }
        let lists: Vec<TableFactor> = joined.cloned().collect();
        select.from.truncate(1);
        let table = &mut select.from[0];
        table.joins.clear();
        for list in lists {
            let TableFactor::UNNEST { alias, mut array_exprs, .. } = list else { continue };
            let Some(value) = array_exprs.pop() else { continue };
            let (table_name, element) = match alias {
                Some(TableAlias { name, columns, .. }) => match columns.into_iter().next() {
                    Some(column) => (Some(name), column.name),
                    None => (None, name),
                },
                None => (None, Ident::new("unnest")),
            };
            nest(table, value, &element);
            if let Some(table_name) = table_name {
                let _ = select.projection.visit(&mut Rename { table: normal(&table_name), element: element.clone() });
                let _ = select.selection.visit(&mut Rename { table: normal(&table_name), element: element.clone() });
                let _ = select.group_by.visit(&mut Rename { table: normal(&table_name), element: element.clone() });
                let _ = select.having.visit(&mut Rename { table: normal(&table_name), element });
            }
        }
        ControlFlow::Continue(())
    }
}

fn joins(from: &[TableWithJoins]) -> impl Iterator<Item = &TableFactor> + Clone {
    from.iter().flat_map(|table| table.joins.iter().map(|join| &join.relation))
}

/// True if the tables are joined by commas and CROSS JOIN, those with commas last.
fn only_cross(from: &[TableWithJoins]) -> bool {
    let cross = |table: &TableWithJoins| {
        table.joins.iter().all(|join| matches!(join.join_operator, JoinOperator::CrossJoin(_)))
    };
    from.iter().all(cross) && from.iter().skip(1).all(|table| table.joins.is_empty())
}

fn is_unnest(relation: &TableFactor) -> bool {
    matches!(relation, TableFactor::UNNEST { array_exprs, with_offset: false, with_ordinality: false, alias, .. }
        if array_exprs.len() == 1 && alias.as_ref().is_none_or(|alias| alias.columns.len() <= 1))
}

/// Makes `table` into `(SELECT *, unnest(value) AS element FROM table) AS table`.
fn nest(table: &mut TableWithJoins, value: Expr, element: &Ident) {
    let name = match &table.relation {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::TableFunction { alias: Some(alias), .. } => Some(alias.name.clone()),
        TableFactor::Table { name, args: None, .. } => name.0.last().and_then(|part| part.as_ident().cloned()),
        _ => None,
    };
    let template =
        Parser::parse_sql(&DIALECT, "SELECT *, unnest(x) AS y FROM z").map(|mut statements| statements.pop());
    let Ok(Some(Statement::Query(mut query))) = template else { unreachable!("the template is a query") };
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(SelectItem::ExprWithAlias { expr: Expr::Function(function), alias }) = select.projection.last_mut()
    {
        *alias = element.clone();
        if let FunctionArguments::List(list) = &mut function.args {
            list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))];
        }
        select.from = vec![table.clone()];
    }
    let alias = name.map(|name| TableAlias { explicit: true, name, columns: Vec::new(), at: None });
    table.relation = TableFactor::Derived { lateral: false, subquery: query, alias, sample: None };
}

/// Takes the table's name off the element's: `u.element` is a column of the query now.
struct Rename {
    table: String,
    element: Ident,
}

impl VisitorMut for Rename {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(names) = expr
            && let [table, column] = names.as_slice()
            && normal(table) == self.table
            && normal(column) == normal(&self.element)
        {
            *expr = Expr::Identifier(column.clone());
        }
        ControlFlow::Continue(())
    }
}
