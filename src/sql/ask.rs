//! Questions about the views of a pipeline that runs: a SELECT over rows that are there.
//!
//! It is planned like every query, over views in place of tables, and speaks once. What a stream has no end for it may have: ORDER BY
//! puts the whole answer in order, and LIMIT without it takes the first rows in the order of their columns.

use super::catalog::{ColumnDef, TableDef};
use super::planner::Query;
use super::statements::{self, Kind};
use super::{Session, Text, columns_of, normal, printed, project, unnested};
use crate::connector::{self, CONNECTOR, Connectors, OptionText, Options};
use crate::error::{Error, Result};
use crate::plan::{Plan, SortColumn, Tick};
use arrow::datatypes::SchemaRef;
use datafusion_common::plan_err;
use datafusion_expr::Expr;
use datafusion_expr::expr::Sort;
use datafusion_expr::logical_plan::{FetchType, LogicalPlan, SkipType};
use sqlparser::ast::{self, Ident};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// The name that the connector of views has, to whoever makes sources of a question's tables.
const VIEWS: &str = "memory";

/// A question, planned.
pub struct Asked {
    /// Its steps; the only sink takes the rows of the answer, in no order, and behind their columns those that they are sorted by.
    pub plan: Plan,
    /// The names of the answer's columns.
    pub columns: Vec<String>,
    /// In what order its rows are; those that are alike in it are in the order of all columns.
    pub order: Vec<SortColumn>,
    /// How many rows in that order are left out.
    pub skip: usize,
    /// And how many there are then at most.
    pub limit: Option<usize>,
}

/// Plans the SELECT `text` over `views`, each by its name. `connectors` are asked for a source of each view that is read, and for the sink.
///
/// # Errors
/// As [`plan`](super::plan); what is no SELECT is refused.
pub fn ask(text: Text, views: &[(String, SchemaRef)], connectors: &dyn Connectors) -> Result<Asked> {
    let statements = statements::parse(text);
    let mut session = Session::new(text, &statements, connectors);
    session.settings.tick = Tick::Rows(u64::MAX);
    session.settings.inflight_bytes = usize::MAX / 2;
    for (name, schema) in views {
        session.knows(name, schema);
    }
    let mut statements = statements.into_iter();
    let (statement, more) = (statements.next(), statements.next());
    if let Some(more) = more {
        return Err(text.error_at(Error::invalid("one question at a time"), more.start));
    }
    let statement = statement.ok_or_else(|| Error::invalid("there is no question").help("write SELECT … FROM view"))?;
    let insert = match statement.kind {
        Kind::Wrong(error, _) => return Err(error),
        Kind::Insert(insert) if insert.table.is_none() => insert,
        _ => {
            let error = Error::invalid("a pipeline that runs can be asked, but not changed");
            return Err(text.error_at(error.help("write SELECT … FROM view, or SUBSCRIBE view"), statement.start));
        }
    };
    let emit = insert.ending.emit.map(|(_, at)| ("EMIT", at));
    let lateness = insert.ending.lateness.map(|(_, at)| ("ALLOWED LATENESS", at));
    let late = insert.ending.late.as_ref().map(|table| ("LATE INTO", table.span.start));
    if let Some((clause, at)) = emit.or(lateness).or(late) {
        let error = Error::invalid(format!("{clause} does not belong to a question: it sees the rows of one epoch"));
        return Err(text.error_at(error.help("leave it out"), at));
    }
    session.asked(&insert.query, statement.start, connectors)
}

/// What is to be done with the rows of a query when all are there.
#[derive(Default)]
struct Arrangement {
    sorted: Vec<Sort>,
    skip: usize,
    limit: Option<usize>,
}

impl Session<'_> {
    /// Lets questions name the view `name`.
    fn knows(&mut self, name: &str, schema: &SchemaRef) {
        let options = Options::new([(CONNECTOR.name.to_owned(), OptionText::from(VIEWS))]);
        let definition = connector::Table {
            name: name.to_owned(),
            schema: Arc::clone(schema),
            metadata: BTreeMap::new(),
            primary_key: Vec::new(),
            key_trusted: false,
            options,
        };
        self.definitions.insert(name.to_owned(), Rc::new(definition));
        let table = TableDef {
            name: name.to_owned(),
            schema: Arc::clone(schema),
            columns: (0..schema.fields().len()).map(ColumnDef::Physical).collect(),
            primary_key: Vec::new(),
            physical: Arc::clone(schema),
            time: None,
            whole: true,
            at: Location::empty(),
        };
        self.catalog.tables.insert(name.to_owned(), Arc::new(table));
    }

    /// The query that gives all rows of the view that was just declared as `name`, if there is one.
    pub(super) fn served(&self, name: Option<Ident>, start: Location) -> Result<Option<Query>> {
        let Some(name) = name else { return Ok(None) };
        let (place, name) = (name.span.start, normal(&name));
        let fields = self.catalog.views[&name].schema.fields();
        let twice = |n: &usize| fields[..*n].iter().any(|other| other.name() == fields[*n].name());
        if let Some(n) = (0..fields.len()).find(twice) {
            let error = Error::invalid(format!("'{name}' has two columns that are called '{}'", fields[n].name()));
            return Err(self.text.error_at(error.help("name them apart: SELECT … AS other_name"), place));
        }
        let text = format!("SELECT * FROM \"{}\"", name.replace('"', "\"\""));
        let parsed = Parser::new(&statements::DIALECT).try_with_sql(&text).and_then(|mut parser| parser.parse_query());
        let query = parsed.map_err(|error| Error::internal(error.to_string()))?;
        let plan = self.sql().sql_statement_to_plan(ast::Statement::Query(query)).and_then(|plan| self.optimise(plan));
        let plan = plan.map_err(|error| self.text.datafusion_error(error, Span::new(start, start)))?;
        let table = connector::Table { name, ..printed(&plan, 0) };
        Ok(Some(Query { serves: true, printed: false, last: false, ..self.speaking_last(plan, table, start) }))
    }

    fn speaking_last(&self, plan: LogicalPlan, table: connector::Table, at: Location) -> Query {
        Query {
            plan,
            table: Rc::new(table),
            serves: false,
            at,
            printed: true,
            last: true,
            on_close: false,
            as_changes: false,
            lateness: 0,
            late: None,
        }
    }

    fn asked(&self, query: &ast::Query, start: Location, connectors: &dyn Connectors) -> Result<Asked> {
        let mut query = query;
        while let ast::SetExpr::Query(inner) = query.body.as_ref()
            && query.with.is_none()
            && !ends(query)
        {
            query = inner; // parentheses around all of it
        }
        // all mistakes but those of its end
        let bare = ast::Query { order_by: None, limit_clause: None, fetch: None, ..query.clone() };
        let mut plan = self.query(&bare, start)?;
        let mut arrangement = Arrangement::default();
        if ends(query) {
            let query = unnested(query);
            let whole = self.sql().sql_statement_to_plan(ast::Statement::Query(query.clone()));
            let whole = whole.map_err(|error| self.located(error, &query, start))?;
            let apart = Arrangement::apart(whole).map_err(|error| self.located(error, &query, start))?;
            (plan, arrangement) = apart;
        }
        let width = plan.schema().fields().len() - arrangement.sorted.len();
        let columns = plan.schema().fields().iter().take(width).map(|field| field.name().clone()).collect();
        // what a sink is given has names that tell its columns apart
        let numbered = columns_of(&plan).enumerate().map(|(n, column)| Expr::Column(column).alias(format!("c{n}")));
        let numbered = numbered.collect();
        let plan = project(plan, numbered).and_then(|plan| self.optimise(plan));
        let plan = plan.map_err(|error| self.located(error, &unnested(query), start))?;
        let table = printed(&plan, 0);
        let plan = self.steps(vec![self.speaking_last(plan, table, start)], connectors)?;
        let Arrangement { sorted, skip, limit } = arrangement;
        let sorted = sorted.iter().enumerate().map(|(n, sort)| SortColumn {
            column: width + n,
            descending: !sort.asc,
            nulls_first: sort.nulls_first,
        });
        Ok(Asked { plan, columns, order: sorted.collect(), skip, limit })
    }
}

/// True if something is to be done with the rows of `query` when all are there.
fn ends(query: &ast::Query) -> bool {
    query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some()
}

impl Arrangement {
    /// Takes the end off a query: its plan is left without it, but has what it is sorted by as further columns.
    fn apart(plan: LogicalPlan) -> datafusion_common::Result<(LogicalPlan, Self)> {
        let mut found = Arrangement::default();
        let (mut plan, mut shown) = (plan, None);
        if let LogicalPlan::Limit(limit) = &plan {
            found.skip = match limit.get_skip_type()? {
                SkipType::Literal(skip) => skip,
                SkipType::UnsupportedExpr => return plan_err!("OFFSET takes a whole number"),
            };
            found.limit = match limit.get_fetch_type()? {
                FetchType::Literal(fetch) => fetch,
                FetchType::UnsupportedExpr => return plan_err!("LIMIT takes a whole number"),
            };
            plan = limit.input.as_ref().clone();
        }
        // columns that it is sorted by and does not show are hidden so
        if let LogicalPlan::Projection(projection) = &plan
            && matches!(projection.input.as_ref(), LogicalPlan::Sort(_))
        {
            shown = Some(projection.expr.clone());
            plan = projection.input.as_ref().clone();
        }
        let LogicalPlan::Sort(sort) = plan else { return Ok((plan, found)) };
        let plan = sort.input.as_ref().clone();
        let mut exprs = shown.unwrap_or_else(|| columns_of(&plan).map(Expr::Column).collect());
        exprs.extend(sort.expr.iter().enumerate().map(|(n, sort)| sort.expr.clone().alias(format!("order {n}"))));
        found.sorted = sort.expr;
        Ok((project(plan, exprs)?, found))
    }
}
