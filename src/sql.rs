//! SQL: text to [`Plan`].
//!
//! ```text
//! text ─ statements ─▶ sqlparser's trees ─ refuse ─▶ DataFusion's planner ─ analyser, optimiser ─▶ logical plan ─ planner ─▶ steps
//!             └ ddl ─▶ tables, views in the catalog ──────▲
//! ```
//! Planning is a function of the text, the overrides and the connectors' answers: every process does it for itself and comes to
//! the same plan. Every error says where in the text it is, in `file:line:column`.

mod ask;
mod blame;
mod catalog;
mod console;
mod custom;
mod ddl;
mod describe;
mod functions;
mod guest;
mod hints;
mod late;
mod multiset;
pub mod phrase;
mod place;
mod planner;
mod refuse;
pub mod relations;
mod say;
pub mod scenario;
mod sets;
mod settings;
mod statements;
mod subqueries;
mod temporal;
mod types;
mod unnest;
mod windows;

pub use ask::{Asked, ask};
pub use console::{Limit, Request, materialized, request, statement_end, view_name};
pub use describe::{
    ColumnInfo, FunctionInfo, FunctionKind, Relation, RelationKind, declared_functions, functions, relations,
};
pub use guest::{Loaded, load};
pub use place::Text;
pub use settings::SETTINGS;

use crate::connector::bad::ON_ERROR;
use crate::connector::{
    self, CONNECTOR, ConnectorSpec, Connectors, MetadataColumn, OptionText, Options, find_metadata, unknown_connector,
};
use crate::error::{Error, Result, nearest};
use crate::expr::from_datafusion;
use crate::plan::{Action, Plan, Settings, type_name};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use catalog::{Catalog, ColumnDef, TableDef, ViewDef};
use chrono::{DateTime, Utc};
use datafusion_common::alias::AliasGenerator;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, DFSchema, DataFusionError, SchemaError};
use datafusion_expr::logical_plan::{LogicalPlan, LogicalPlanBuilder};
use datafusion_expr::planner::ContextProvider;
use datafusion_expr::registry::{FunctionRegistry, MemoryFunctionRegistry};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Cast, Expr, ExprSchemable};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerConfig, OptimizerContext, OptimizerRule};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use ddl::{ColumnKind, CreateTable, is_event_time};
use planner::{Letters, Needs, Planner, Query, Target, collect_needs};
use sqlparser::ast::{self, Ident, ObjectName, SelectItem, SetExpr, Spanned, Visit, Visitor};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token};
use statements::{CreateView, EmitClause, Ending, Insert, Kind, Statement};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

/// What a text asks for.
pub struct Script {
    /// All its INSERTs and materialized views, as one pipeline. None if it has none.
    pub plan: Option<Plan>,
    /// For each EXPLAIN, in order: the plan of its statement alone.
    pub explains: Vec<Plan>,
}

/// The pipeline that `text` describes.
///
/// `overrides` are settings that win over SET, as `--set key=value` gives them.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for all mistakes that can be told apart, each with its place and advice; whatever a connector says.
pub fn plan(text: Text, overrides: &[(String, String)], connectors: &dyn Connectors) -> Result<Plan> {
    let script = script(text, overrides, connectors)?;
    script.plan.ok_or_else(|| nothing_written(text))
}

fn nothing_written(text: Text) -> Error {
    let help = "add an INSERT INTO … SELECT …, or a CREATE MATERIALIZED VIEW that can be asked";
    Error::invalid("the pipeline writes nothing").help(help).within(text.name)
}

/// The pipeline that `text` describes, if it has one, and what it wants explained.
///
/// # Errors
/// As [`plan`], but a text without an INSERT is fine.
pub fn script(text: Text, overrides: &[(String, String)], connectors: &dyn Connectors) -> Result<Script> {
    let statements = statements::parse(text);
    let mut session = Session::new(text, &statements, connectors);
    let mut wrong = Vec::new();
    for statement in &statements {
        if let Kind::Set { key, value } = &statement.kind {
            wrong.extend(settings::set(&mut session.settings, key, value.clone()).err());
        }
    }
    wrong.extend(settings::set_all(&mut session.settings, overrides).err());
    let mut inserts = Vec::new();
    let mut explains = Vec::new();
    // SELECTs on their own are told apart by their number.
    let mut printed = 0;
    for statement in statements {
        let start = statement.start;
        if session.reads_broken(&statement.kind) {
            // what keeps it from being planned is said already
            session.broken.extend(statement.kind.declares());
            wrong.extend(match statement.kind {
                Kind::Wrong(error, _) => Some(error),
                _ => None,
            });
            continue;
        }
        let declares = statement.kind.declares();
        let outcome = match statement.kind {
            Kind::Set { .. } => Ok(()),
            Kind::CreateTable(table) => session.create_table(*table, connectors),
            Kind::CreateView(view) => {
                let served = session.create_view(view, start).and_then(|served| session.served(served, start));
                served.map(|query| inserts.extend(query))
            }
            Kind::CreateFunction(function) => session.create_function(*function, connectors),
            Kind::Insert(insert) => session.insert(insert, printed).map(|query| {
                printed += usize::from(query.printed);
                inserts.push(query);
            }),
            Kind::Explain(insert) => session
                .insert(insert, 0)
                .and_then(|query| session.steps(vec![query], connectors))
                .map(|plan| explains.push(plan)),
            Kind::Wrong(error, _) => Err(error),
        };
        if let Err(error) = outcome {
            // one that is declared twice keeps its first meaning
            session.broken.extend(declares.filter(|name| !session.is_declared(name)));
            wrong.push(error);
        }
    }
    let plan = match inserts.is_empty() {
        true => None,
        false => session.steps(inserts, connectors).map_err(|error| wrong.push(error)).ok(),
    };
    match Error::join(wrong) {
        Some(error) => Err(error),
        None => Ok(Script { plan, explains }),
    }
}

/// The condition `text` over rows with the columns of `schema`, by their names: true, false or NULL for each row.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if it is none, with its place.
pub fn condition(text: Text, schema: &Schema, connectors: &dyn Connectors) -> Result<crate::expr::Expr> {
    let end = Location::empty();
    let parsed = Parser::new(&statements::DIALECT).try_with_sql(text.sql).and_then(|mut parser| {
        let parsed = parser.parse_expr()?;
        parser.expect_token(&Token::EOF)?;
        Ok(parsed)
    });
    let parsed = parsed.map_err(|error| text.parser_error(error, end))?;
    let session = Session::with_reads(text, BTreeMap::new(), connectors);
    let row = DFSchema::try_from(schema.clone()).map_err(from_datafusion)?;
    let at = parsed.span().start;
    let value = session.value(&parsed, &row, at)?;
    let data_type = value.get_type(&row).map_err(|error| text.datafusion_error(error, Span::new(at, at)))?;
    match data_type {
        DataType::Boolean => planner::compile(&value, &row, schema),
        other => Err(text
            .error_at(Error::invalid(format!("a condition is true or false, but this is {}", type_name(&other))), at)),
    }
}

/// A name as it is looked up: small letters, unless it is quoted.
fn normal(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

/// The text so far: what is declared and set.
struct Session<'a> {
    text: Text<'a>,
    catalog: Catalog,
    settings: Settings,
    /// What connectors are told of each table. Which of a table's options are known is found out in reading and in writing it, so there
    /// is one definition for both.
    definitions: BTreeMap<String, Rc<connector::Table>>,
    /// The views, in the order in which they are declared.
    views: Vec<String>,
    /// The functions that are declared, in order.
    functions: Vec<guest::FunctionDef>,
    /// The same, to be called.
    loaded: Loaded,
    /// How often each name is read, in all queries.
    reads: BTreeMap<String, usize>,
    /// Tables, views and functions whose statements are wrong, by what [`Kind::declares`] calls them.
    broken: BTreeSet<String>,
}

/// How many mistakes of one query are looked for.
const MISTAKES_MAX: usize = 10;

/// A mistake in a query.
struct Mistake {
    error: Error,
    place: Option<Span>,
    /// True if it may be said only because NULL stands where something else was wrong.
    follows: bool,
}

/// True if what DataFusion says may come from a NULL that the text does not have.
fn follows_from_null(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            // a query in FROM may have lost this name; a word that is like another one is misspelt
            SchemaError::FieldNotFound { field, valid_fields } => {
                let nameless = |other: &&Column| other.name() == "NULL";
                let mut nameless = valid_fields.iter().filter(nameless);
                match &field.relation {
                    Some(_) => nameless.any(|other| other.relation == field.relation),
                    None => {
                        let known = valid_fields.iter().map(|other| other.name()).filter(|name| *name != "NULL");
                        nameless.next().is_some() && nearest(field.name(), known).is_none()
                    }
                }
            }
            _ => false,
        },
        other => {
            let text = other.to_string();
            ["must appear in the GROUP BY", "NULL", "Null"].iter().any(|words| text.contains(words))
        }
    }
}

/// A table's columns, where each comes from, and its event time: which column, and the watermark that a row stands for.
type Columns = (SchemaRef, Vec<ColumnDef>, Option<(usize, Expr)>);

/// Counts the names in FROM, and those of functions with `()`.
struct Reads(BTreeMap<String, usize>);

impl Visitor for Reads {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if let Some(name) = relation.0.last().and_then(|part| part.as_ident()) {
            *self.0.entry(normal(name)).or_default() += 1;
        }
        ControlFlow::Continue(())
    }

    // A window function's argument is a name that looks like a column.
    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::Identifier(name) = expr {
            *self.0.entry(normal(name)).or_default() += 1;
        }
        if let ast::Expr::Function(function) = expr
            && let Some(name) = function.name.0.last().and_then(|part| part.as_ident())
        {
            *self.0.entry(guest::called(&normal(name))).or_default() += 1;
        }
        ControlFlow::Continue(())
    }
}

impl<'a> Session<'a> {
    fn new(text: Text<'a>, statements: &[Statement], connectors: &dyn Connectors) -> Self {
        let mut reads = Reads(BTreeMap::new());
        for statement in statements {
            let query = match &statement.kind {
                Kind::CreateView(view) => {
                    // who serves it reads it
                    *reads.0.entry(normal(&view.name)).or_default() += usize::from(view.materialized);
                    &view.query
                }
                Kind::Insert(insert) => &insert.query,
                _ => continue,
            };
            let _ = query.visit(&mut reads);
        }
        Self::with_reads(text, reads.0, connectors)
    }

    fn with_reads(text: Text<'a>, reads: BTreeMap<String, usize>, connectors: &dyn Connectors) -> Self {
        let mut catalog = Catalog::new();
        catalog.extend(connectors.functions(), connectors.aggregates(), connectors.operators());
        Session {
            text,
            catalog,
            settings: Settings::default(),
            definitions: BTreeMap::new(),
            views: Vec::new(),
            functions: Vec::new(),
            loaded: Loaded::default(),
            reads,
            broken: BTreeSet::new(),
        }
    }

    fn is_declared(&self, name: &str) -> bool {
        self.catalog.tables.contains_key(name)
            || self.catalog.views.contains_key(name)
            || self.functions.iter().any(|function| guest::called(&function.name) == name)
    }

    /// True if the statement needs a table, a view or a function whose own statement is wrong.
    fn reads_broken(&self, statement: &Kind) -> bool {
        let mut names = Reads(BTreeMap::new());
        let query = match statement {
            Kind::CreateView(view) => &view.query,
            Kind::Insert(insert) | Kind::Explain(insert) => {
                let mut written = insert.table.iter().chain(&insert.ending.late);
                if written.any(|table| self.broken.contains(&normal(table))) {
                    return true;
                }
                &insert.query
            }
            _ => return false,
        };
        let _ = query.visit(&mut names);
        names.0.keys().any(|name| self.broken.contains(name))
    }

    fn sql(&self) -> SqlToRel<'_, Catalog> {
        SqlToRel::new_with_options(&self.catalog, ParserOptions::from(&self.catalog.options().sql_parser))
    }

    fn refuse_taken(&self, name: &Ident, start: Location, if_not_exists: bool) -> Result<bool> {
        let key = normal(name);
        match self.is_declared(&key) {
            false => Ok(false),
            true if if_not_exists => Ok(true),
            true => {
                let error = Error::invalid(format!("'{key}' is declared twice"));
                Err(self.text.error_at(error.help("give it another name, or write IF NOT EXISTS"), start))
            }
        }
    }

    fn create_table(&mut self, mut table: CreateTable, connectors: &dyn Connectors) -> Result<()> {
        if self.refuse_taken(&table.name, table.name.span.start, table.if_not_exists)? {
            return Ok(());
        }
        let mut wrong = std::mem::take(&mut table.wrong);
        let options = Options::new(std::mem::take(&mut table.options));
        // an unknown one is told below
        let connector = options.text(&CONNECTOR);
        let connector = connectors.specs().iter().find(|spec| Some(spec.name) == connector);
        let mut physical: Vec<FieldRef> = Vec::new();
        let mut metadata = BTreeMap::new();
        for column in &table.columns {
            let (data_type, nullable) = match &column.kind {
                ColumnKind::Computed { .. } => continue,
                ColumnKind::Physical { data_type, nullable } => (data_type, *nullable),
                ColumnKind::Metadata { data_type, nullable, name, is_virtual, at } => {
                    let found = connector.map(|spec| self.metadata(spec, name, data_type, *is_virtual, *at));
                    match found.transpose() {
                        Ok(column) => drop(column.map(|column| metadata.insert(physical.len(), column))),
                        Err(error) => wrong.push(error),
                    }
                    (data_type, *nullable)
                }
            };
            physical.push(Arc::new(Field::new(normal(&column.name), data_type.clone(), nullable)));
        }
        let physical = Arc::new(Schema::new(physical));
        // a column that is wrong would make what is computed from it wrong too
        let columns = match wrong.is_empty() {
            true => self.columns(&table, &physical).map_err(|error| wrong.push(error)).ok(),
            false => None,
        };
        let mut primary_key = Vec::new();
        for column in &table.primary_key {
            match physical.index_of(&normal(column)) {
                Ok(index) if metadata.contains_key(&index) => {
                    let error = Error::invalid(format!("column '{column}' is metadata: it cannot be a key"));
                    wrong.push(self.text.error_at(error, column.span.start));
                }
                Ok(index) => primary_key.push(index),
                Err(_) => {
                    wrong.push(self.text.error_at(unknown_column(&normal(column), &physical), column.span.start));
                }
            }
        }
        let located = |error: Error| match error.excerpt() {
            Some(_) => error,
            None => self.text.error_at(error, table.name.span.start),
        };
        wrong.extend(check_options(&options, connectors).into_iter().map(located));
        if let Some(error) = Error::join(wrong) {
            return Err(error);
        }
        let (schema, columns, time) = columns.ok_or_else(|| Error::internal("a table without columns"))?;
        let name = normal(&table.name);
        let at = table.name.span.start;
        let schema_of_records = Arc::clone(&physical);
        let key_trusted = table.key_trusted;
        let place = |key: &usize| columns.iter().position(|c| matches!(c, ColumnDef::Physical(of) if of == key));
        let key = primary_key.iter().filter_map(place).collect();
        let definition = connector::Table {
            name: name.clone(),
            schema: schema_of_records,
            metadata,
            primary_key,
            key_trusted,
            options,
        };
        self.definitions.insert(name.clone(), Rc::new(definition));
        let table =
            TableDef { name: name.clone(), schema, columns, primary_key: key, physical, time, whole: false, at };
        self.catalog.tables.insert(name, Arc::new(table));
        Ok(())
    }

    /// All columns of a table and its event time.
    fn columns(&self, table: &CreateTable, physical: &Schema) -> Result<Columns> {
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut columns = Vec::new();
        let mut seen = physical.fields().to_vec();
        let mut computed: BTreeMap<String, Expr> = BTreeMap::new();
        for column in &table.columns {
            let name = normal(&column.name);
            match &column.kind {
                ColumnKind::Physical { .. } | ColumnKind::Metadata { .. } => {
                    let index = physical.index_of(&name).map_err(|error| Error::internal(error.to_string()))?;
                    fields.push(Arc::clone(&physical.fields()[index]));
                    columns.push(ColumnDef::Physical(index));
                }
                ColumnKind::Computed { value, at } => {
                    let (value, field) = self.computed(value, &name, &seen, *at)?;
                    let value = value.transform(|part| match &part {
                        Expr::Column(column) => match computed.get(column.name()) {
                            Some(inner) => Ok(Transformed::yes(inner.clone())),
                            None => Ok(Transformed::no(part)),
                        },
                        _ => Ok(Transformed::no(part)),
                    });
                    let value = value.map_err(from_datafusion)?.data;
                    computed.insert(name, value.clone());
                    seen.push(Arc::clone(&field));
                    fields.push(field);
                    columns.push(ColumnDef::Computed(value));
                }
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let time = match &table.watermark {
            Some(watermark) => Some(self.watermark(watermark, &schema)?),
            None => None,
        };
        Ok((schema, columns, time))
    }

    /// The metadata called `name`, for a column of type `data_type`.
    fn metadata(
        &self,
        connector: &ConnectorSpec,
        name: &str,
        data_type: &DataType,
        is_virtual: bool,
        at: Location,
    ) -> Result<MetadataColumn> {
        let find = || {
            let spec = find_metadata(connector.metadata, connector.name, name)?;
            let own = (spec.data_type)();
            let fits = assignable(&own, data_type) && (is_virtual || !spec.writable || assignable(data_type, &own));
            match fits {
                true => Ok(MetadataColumn { spec, is_virtual }),
                false => {
                    let (own, declared) = (type_name(&own), type_name(data_type));
                    let error =
                        format!("metadata '{}' is {own}, which a column of type {declared} cannot hold", spec.name);
                    Err(Error::invalid(error).help(format!("declare the column {own}")))
                }
            }
        };
        find().map_err(|error| self.text.error_at(error, at))
    }

    /// The value of a computed column over `fields`, and its column.
    fn computed(&self, value: &ast::Expr, name: &str, fields: &[FieldRef], at: Location) -> Result<(Expr, FieldRef)> {
        let schema =
            DFSchema::from_unqualified_fields(fields.to_vec().into(), Default::default()).map_err(from_datafusion)?;
        let value = self.value(value, &schema, at)?;
        let data_type =
            value.get_type(&schema).map_err(|error| self.text.datafusion_error(error, Span::new(at, at)))?;
        let value = match data_type {
            // Time is kept in microseconds.
            DataType::Timestamp(unit, zone) if unit != TimeUnit::Microsecond => {
                Expr::Cast(Cast::new(Box::new(value), DataType::Timestamp(TimeUnit::Microsecond, zone)))
            }
            _ => value,
        };
        let (_, field) =
            value.to_field(&schema).map_err(|error| self.text.datafusion_error(error, Span::new(at, at)))?;
        Ok((value, Arc::new(field.as_ref().clone().with_name(name))))
    }

    /// An expression of CREATE TABLE over `schema`, with its types settled.
    fn value(&self, value: &ast::Expr, schema: &DFSchema, at: Location) -> Result<Expr> {
        if let Some((error, span)) = refuse::refuse(value, &self.catalog, self.text) {
            return Err(self.text.error_over(error, span));
        }
        let plan = || {
            let value = self.sql().sql_to_expr(value.clone(), schema, &mut PlannerContext::new())?;
            let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
            let simplifier = ExprSimplifier::new(context);
            simplifier.simplify(simplifier.coerce(value, schema)?)
        };
        plan().map_err(|error| self.text.datafusion_error(error, Span::new(at, at)))
    }

    fn watermark(&self, watermark: &ddl::WatermarkText, schema: &Schema) -> Result<(usize, Expr)> {
        let at = watermark.column.span.start;
        let name = normal(&watermark.column);
        let Ok(index) = schema.index_of(&name) else {
            return Err(self.text.error_at(unknown_column(&name, schema), at));
        };
        let data_type = schema.field(index).data_type();
        if !is_event_time(data_type) {
            let error = Error::invalid(format!("column '{name}' cannot be event time: it is {}", type_name(data_type)))
                .help("event time is a TIMESTAMP or TIMESTAMP_LTZ; a computed column can make one: ts AS to_timestamp_millis(ms)");
            return Err(self.text.error_at(error, at));
        }
        let row = DFSchema::try_from(schema.clone()).map_err(from_datafusion)?;
        let value = self.value(&watermark.value, &row, watermark.at)?;
        let given = value
            .get_type(&row)
            .map_err(|error| self.text.datafusion_error(error, Span::new(watermark.at, watermark.at)))?;
        match given {
            DataType::Timestamp(..) if given == *data_type => Ok((index, value)),
            DataType::Timestamp(..) => Ok((index, Expr::Cast(Cast::new(Box::new(value), data_type.clone())))),
            other => {
                let error = Error::invalid(format!("a watermark is a moment, but this is {}", type_name(&other)))
                    .help(format!("write {name} - INTERVAL '5' SECOND, for rows that come at most 5 seconds late"));
                Err(self.text.error_at(error, watermark.at))
            }
        }
    }

    /// Declares a view. Gives its name if it is to be served.
    fn create_view(&mut self, view: CreateView, start: Location) -> Result<Option<Ident>> {
        if self.refuse_taken(&view.name, view.name.span.start, view.if_not_exists)? {
            return Ok(None);
        }
        let mut plan = self.query(&view.query, start)?;
        if !view.columns.is_empty() {
            let width = plan.schema().fields().len();
            if width != view.columns.len() {
                let error =
                    Error::invalid(format!("the view names {} columns, but its query has {width}", view.columns.len()));
                return Err(self.text.error_at(error, view.columns[0].span.start));
            }
            let renamed: Vec<Expr> = columns_of(&plan)
                .zip(&view.columns)
                .map(|(column, name)| Expr::Column(column).alias(normal(name)))
                .collect();
            plan =
                project(plan, renamed).map_err(|error| self.text.datafusion_error(error, Span::new(start, start)))?;
        }
        let schema = Arc::new(plan.schema().as_arrow().clone());
        let name = normal(&view.name);
        let shared = self.reads.get(&name).is_some_and(|reads| *reads > 1) && !has_open_windows(&plan);
        self.catalog.views.insert(name.clone(), Arc::new(ViewDef { plan, schema, shared, start }));
        self.views.push(name);
        Ok(view.materialized.then_some(view.name))
    }

    /// A query's logical plan, as it is written.
    ///
    /// # Errors
    /// Every mistake that does not follow from another one, as far as they can be told apart.
    fn query(&self, query: &ast::Query, start: Location) -> Result<LogicalPlan> {
        let mut query = *unnested(query);
        hints::rewrite(&mut query, self.text)?;
        let mut mistake = match self.planned(&query, start) {
            Ok(plan) => return Ok(plan),
            Err(mistake) => mistake,
        };
        let mut found: Vec<Error> = Vec::new();
        let mut forgotten: Vec<Span> = Vec::new();
        // the query is planned again without the expression that is wrong
        for _ in 0..MISTAKES_MAX {
            let Mistake { error, place, follows } = *mistake;
            let around = place.and_then(|place| blame::around(&query, place, &forgotten));
            let follows = || {
                follows
                    || around.is_none_or(|(_, around)| forgotten.iter().any(|gone| blame::holds(around, *gone)))
                    || found.iter().any(|other| other.excerpt() == error.excerpt() || other.says_like(&error))
            };
            if found.is_empty() || !follows() {
                found.push(error);
            }
            let Some((part, place)) = around else { break };
            blame::forget(&mut query, part);
            forgotten.push(place);
            mistake = match self.planned(&query, start) {
                Ok(_) => break,
                Err(mistake) => mistake,
            };
        }
        Err(Error::join(found).expect("the first mistake is among them"))
    }

    /// The plan of `query`, or a mistake in it.
    fn planned(&self, query: &ast::Query, start: Location) -> Result<LogicalPlan, Box<Mistake>> {
        if let Some((error, span)) = refuse::refuse(query, &self.catalog, self.text) {
            let error = self.text.error_over(error, span);
            return Err(Box::new(Mistake { error, place: Some(span), follows: false }));
        }
        let plan = self.logical(query);
        // types are settled here, so that what is wrong with them is said of this query and not of one that reads it
        let plan = plan.and_then(|plan| self.optimise(plan.clone()).map(|_| plan));
        plan.map_err(|error| {
            let place = self.place_of(&error, query);
            let follows = follows_from_null(&error);
            let error = self.text.datafusion_error(error, place.unwrap_or(Span::new(start, start)));
            Box::new(Mistake { error, place, follows })
        })
    }

    /// What DataFusion makes of `query`, and of joins that it does not know.
    fn logical(&self, query: &ast::Query) -> datafusion_common::Result<LogicalPlan> {
        let plan = self.sql().sql_statement_to_plan(ast::Statement::Query(Box::new(query.clone())))?;
        temporal::joined(plan)
    }

    /// What DataFusion says of `query`, at the place that it knows, else at the expression that is to blame, else at `start`.
    fn located(&self, error: DataFusionError, query: &ast::Query, start: Location) -> Error {
        let place = self.place_of(&error, query);
        self.text.datafusion_error(error, place.unwrap_or(Span::new(start, start)))
    }

    /// The place that DataFusion knows of an error in `query`, else that of the expression that is to blame.
    fn place_of(&self, error: &DataFusionError, query: &ast::Query) -> Option<Span> {
        let fails = |query: &ast::Query| {
            let plan = self.logical(query).and_then(|plan| self.optimise(plan));
            plan.is_err_and(|other| other.to_string() == error.to_string())
        };
        place::known_span(error).or_else(|| blame::culprit(query, fails))
    }

    /// The query of an INSERT, its columns those of the table; `number` tells printed SELECTs apart.
    fn insert(&self, insert: Insert, number: usize) -> Result<Query> {
        let start = insert.start;
        let plan = self.query(&insert.query, start);
        let table = insert.table.as_ref().map(|name| self.written_table(name).map(drop)).transpose();
        let plan = match (plan, table) {
            (Ok(plan), Ok(_)) => plan,
            (plan, table) => {
                let wrong = plan.err().into_iter().chain(table.err()).collect();
                return Err(Error::join(wrong).expect("one of them is wrong"));
            }
        };
        let (plan, table) = match &insert.table {
            Some(name) => self.cast_to_table(plan, name, &insert)?,
            None => {
                let table = Rc::new(printed(&plan, number));
                (plan, table)
            }
        };
        let plan = self.with_lateness(plan, &insert.ending, start)?;
        let plan = self.optimise(plan).map_err(|error| self.located(error, &unnested(&insert.query), start))?;
        let emit = insert.ending.emit.map(|(clause, _)| clause);
        Ok(Query {
            lateness: insert.ending.lateness.map_or(0, |(lateness, _)| lateness),
            late: insert.ending.late.as_ref().map(|table| self.written_table(table).map(Rc::new)).transpose()?,
            plan,
            table,
            serves: false,
            at: start,
            printed: insert.table.is_none(),
            last: emit == Some(EmitClause::Final),
            on_close: emit == Some(EmitClause::OnWindowClose),
            as_changes: emit == Some(EmitClause::Changes),
        })
    }

    /// The plan of a query with what its ending says about late rows.
    fn with_lateness(&self, plan: LogicalPlan, ending: &Ending, start: Location) -> Result<LogicalPlan> {
        let late = ending.late.as_ref().map(|table| ("LATE INTO", table.span.start));
        let Some((clause, at)) = ending.lateness.map(|(_, at)| ("ALLOWED LATENESS", at)).or(late) else {
            return Ok(plan);
        };
        let plan =
            late::with_own_views(plan).map_err(|error| self.text.datafusion_error(error, Span::new(start, start)))?;
        if !late::has_windows(&plan) {
            let error = Error::invalid(format!("{clause} needs windows: nothing here can come too late"));
            return Err(self
                .text
                .error_at(error.help("GROUP BY window_start, window_end over TUMBLE or another window function"), at));
        }
        let Some(name) = &ending.late else { return Ok(plan) };
        let table = self.written_table(name)?;
        late::with_late_rows(plan, &table).map_err(|error| self.text.error_at(error, name.span.start))
    }

    /// The table that `name` says is written, as it is written.
    fn written_table(&self, name: &Ident) -> Result<connector::Table> {
        let key = normal(name);
        let written = match self.definitions.get(&key) {
            Some(table) => table.written(),
            None if self.catalog.views.contains_key(&key) => {
                Err(Error::invalid(format!("'{key}' is a view: it cannot be written")))
            }
            None => Err(self.catalog.unknown_table(&key)),
        };
        written.map_err(|error| self.text.error_at(error, name.span.start))
    }

    /// Casts a query's columns to those of the table that it goes into.
    fn cast_to_table(
        &self,
        plan: LogicalPlan,
        name: &Ident,
        insert: &Insert,
    ) -> Result<(LogicalPlan, Rc<connector::Table>)> {
        let key = normal(name);
        let written = self.written_table(name)?;
        let target = &written.schema;
        let mut targets: Vec<usize> = (0..target.fields().len()).collect();
        if !insert.columns.is_empty() {
            targets.clear();
            for column in &insert.columns {
                let refuse = |error| Err(self.text.error_at(error, column.span.start));
                match target.index_of(&normal(column)) {
                    Ok(index) if targets.contains(&index) => {
                        return refuse(Error::invalid(format!("column '{column}' is named twice")));
                    }
                    Ok(index) => targets.push(index),
                    Err(_) => return refuse(unknown_column(&normal(column), target)),
                }
            }
        }
        let given: Vec<(Column, DataType)> =
            columns_of(&plan).zip(plan.schema().fields().iter().map(|f| f.data_type().clone())).collect();
        if given.len() != targets.len() {
            let error = Error::invalid(format!(
                "the query gives {} column{}, but {} of '{key}' are written",
                given.len(),
                if given.len() == 1 { "" } else { "s" },
                targets.len()
            ));
            let names: Vec<&str> = targets.iter().map(|index| target.field(*index).name().as_str()).collect();
            return Err(self.text.error_at(error.help(format!("the columns are {}", names.join(", "))), insert.start));
        }
        let mut exprs = Vec::new();
        for (index, field) in target.fields().iter().enumerate() {
            let expr = match targets.iter().position(|target| *target == index) {
                Some(position) => {
                    let (column, data_type) = &given[position];
                    if !assignable(data_type, field.data_type()) {
                        let (have, want) = (type_name(data_type), type_name(field.data_type()));
                        let error = Error::invalid(format!(
                            "column '{}' of '{key}' is {want}, but the query gives {have}",
                            field.name()
                        ))
                        .help(match data_type.is_nested() {
                            true => "take a part of it: list[1], row['field']".to_owned(),
                            false => format!("write CAST(… AS {want})"),
                        });
                        return Err(self
                            .text
                            .error_at(error, item_place(&insert.query, position).unwrap_or(insert.start)));
                    }
                    match data_type == field.data_type() {
                        true => Expr::Column(column.clone()),
                        false => {
                            Expr::Cast(Cast::new(Box::new(Expr::Column(column.clone())), field.data_type().clone()))
                        }
                    }
                }
                None if field.is_nullable() => planner::null_of(field.data_type())?,
                None => {
                    let error = Error::invalid(format!(
                        "column '{}' of '{key}' is NOT NULL, but the INSERT leaves it out",
                        field.name()
                    ));
                    return Err(self.text.error_at(error, insert.start));
                }
            };
            exprs.push(expr.alias(field.name()));
        }
        let plan = project(plan, exprs)
            .map_err(|error| self.text.datafusion_error(error, Span::new(insert.start, insert.start)))?;
        Ok((plan, Rc::new(written)))
    }

    fn optimise(&self, plan: LogicalPlan) -> datafusion_common::Result<LogicalPlan> {
        let options: &ConfigOptions = self.catalog.options();
        let plan = Analyzer::new().execute_and_check(plan, options, |_, _| {})?;
        let choices = Choices::new(options);
        let plan = subqueries::with_marks(multiset::with_multisets(plan)?, &choices)?;
        let plan = Optimizer::with_rules(rules()).optimize(plan, &choices, |_, _| {})?;
        sets::without_sets(plan)
    }

    /// The plan of `queries`: sources and shared views first, then each query.
    fn steps(&self, queries: Vec<Query>, connectors: &dyn Connectors) -> Result<Plan> {
        if queries.is_empty() {
            return Err(nothing_written(self.text));
        }
        let mut needs = Needs::new();
        // For each view: whether its readers want its aggregates to speak last.
        let mut modes: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
        let mut note = |plan: &LogicalPlan, lasts: &BTreeSet<bool>, needs: &mut Needs| {
            let mut own = Needs::new();
            collect_needs(plan, &mut own);
            for (name, columns) in own {
                modes.entry(name.clone()).or_default().extend(lasts);
                needs.entry(name).or_default().extend(columns);
            }
            modes.clone()
        };
        let mut known = BTreeMap::new();
        for query in &queries {
            known = note(&query.plan, &BTreeSet::from([query.last]), &mut needs);
        }
        // A view reads only what is declared before it.
        let mut views = Vec::new();
        for name in self.views.iter().rev() {
            let (view, Some(needed)) = (&self.catalog.views[name], needs.get(name).cloned()) else { continue };
            if !view.shared {
                continue;
            }
            let columns: Vec<Column> = columns_of(&view.plan).collect();
            let wanted = needed.iter().map(|index| Expr::Column(columns[*index].clone())).collect();
            let plan =
                project(view.plan.clone(), wanted).and_then(|plan| self.optimise(plan)).map_err(from_datafusion)?;
            let lasts = known.get(name).cloned().unwrap_or_default();
            known = note(&plan, &lasts, &mut needs);
            views.push((name, plan, needed, columns.len(), lasts));
        }
        let mut planner = Planner::new(&self.settings, connectors);
        for query in &queries {
            planner.announce(&query.plan);
        }
        for (_, plan, ..) in &views {
            planner.announce(plan);
        }
        let mut wrong = Vec::new();
        // What reads a table that is wrong is not planned, so that it is said once.
        let mut broken = BTreeSet::new();
        let mut letters = Vec::new();
        for table in self.catalog.tables.values() {
            let Some(needed) = needs.get(&table.name) else { continue };
            let definition = &self.definitions[&table.name];
            let places = queries.iter().filter(|query| query.asks_places()).any(|query| query.reads(&table.name));
            let connector = definition.options.text(&CONNECTOR);
            let spec = connectors.specs().iter().find(|spec| Some(spec.name) == connector);
            if spec.is_some_and(|spec| spec.answers && !spec.reads) {
                if let Err(error) = planner.lookup_table(table, definition, needed) {
                    wrong.push(self.within_table(error, table));
                    broken.insert(table.name.clone());
                }
                continue;
            }
            let read = planner.read_table(table, definition, needed, places).and_then(|read| {
                let Some(Letters { from, into }) = read.filter(|letters| !self.broken.contains(&letters.into)) else {
                    return Ok(());
                };
                let unknown = || definition.options.misvalued(&ON_ERROR, self.catalog.unknown_table(&into));
                let taker = self.definitions.get(&into).ok_or_else(unknown)?;
                let taker = Rc::new(taker.written()?);
                letters.push((Rc::clone(&taker), planner.dead_letters(from, &taker)?));
                Ok(())
            });
            if let Err(error) = read {
                wrong.push(self.within_table(error, table));
                broken.insert(table.name.clone());
            }
        }
        let reads_broken = |plan: &LogicalPlan, broken: &BTreeSet<String>| {
            let mut needs = Needs::new();
            collect_needs(plan, &mut needs);
            needs.keys().any(|name| broken.contains(name))
        };
        for (name, plan, needed, width, lasts) in views.iter().rev() {
            let start = self.catalog.views[*name].start;
            let locate = |error, at: Option<Location>| self.text.error_at(error, at.unwrap_or(start));
            let planned = match reads_broken(plan, &broken) {
                true => None,
                false => Some(planner.read_view(name, plan, needed, *width, lasts, &locate)),
            };
            if !matches!(planned, Some(Ok(()))) {
                broken.insert((*name).clone());
                wrong.extend(planned.and_then(Result::err));
            }
        }
        // Tables that lack a query of those that write them.
        let mut incomplete = BTreeSet::new();
        let mut targets: Vec<Target> = Vec::new();
        let mut target = |table: &Rc<connector::Table>, at: Location, serves: bool| {
            let known = targets.iter().position(|target| target.table.name == table.name);
            known.unwrap_or_else(|| {
                targets.push(Target { table: Rc::clone(table), serves, streams: Vec::new(), at });
                targets.len() - 1
            })
        };
        let places: Vec<usize> = queries.iter().map(|query| target(&query.table, query.at, query.serves)).collect();
        let late: Vec<Option<usize>> =
            queries.iter().map(|query| query.late.as_ref().map(|table| target(table, query.at, false))).collect();
        let letters: Vec<(usize, _)> = letters
            .into_iter()
            .map(|(table, stream)| (target(&table, self.catalog.tables[&table.name].at, false), stream))
            .collect();
        letters.into_iter().for_each(|(place, stream)| targets[place].streams.push(stream));
        for ((query, place), late) in queries.iter().zip(places).zip(late) {
            let locate = |error, at: Option<Location>| self.text.error_at(error, at.unwrap_or(query.at));
            let planned = match reads_broken(&query.plan, &broken) {
                true => None,
                false => planner.insert(query, &locate).map_err(|error| wrong.push(error)).ok(),
            };
            let Some((stream, late_rows)) = planned else {
                incomplete.insert(query.table.name.clone());
                incomplete.extend(query.late.as_ref().map(|table| table.name.clone()));
                continue;
            };
            targets[place].streams.push(stream);
            late.into_iter().for_each(|late| targets[late].streams.extend(late_rows.clone()));
        }
        let read: BTreeSet<String> = needs.into_keys().collect();
        let mut written = BTreeMap::new();
        for target in targets {
            let name = target.table.name.clone();
            written.insert(name.clone(), target.at);
            if incomplete.contains(&name) {
                continue;
            }
            let at = target.at;
            if let Err(error) = planner.write(target) {
                wrong.push(match (self.catalog.tables.get(&name), error.excerpt()) {
                    (Some(table), None) => self.within_table(error, table),
                    (None, None) => self.text.error_at(error, at),
                    _ => error,
                });
            }
        }
        let plan = planner.finish();
        if wrong.is_empty() {
            for table in self.catalog.tables.values() {
                let options = &self.definitions[&table.name].options;
                let (read, written) = (read.contains(&table.name), written.contains_key(&table.name));
                let name = options.text(&CONNECTOR).unwrap_or_default();
                let Some(spec) = connectors.specs().iter().find(|spec| spec.name == name) else { continue };
                let unused = options.unused(&spec.declared(), read, written);
                wrong.extend(unused.into_iter().map(|error| self.within_table(error, table)));
            }
            for (id, step) in plan.steps.iter().enumerate() {
                let Err(error) = plan.check_step(id) else { continue };
                let place = match &step.action {
                    Action::Sink(sink) => written.get(&sink.table).copied(),
                    Action::Source(source) => self.catalog.tables.get(&source.table).map(|table| table.at),
                    _ => None,
                };
                wrong.push(match place {
                    Some(at) => self.text.error_at(error, at),
                    None => error.within(self.text.name),
                });
            }
        }
        match Error::join(wrong) {
            Some(error) => Err(error),
            None => Ok(plan),
        }
    }

    /// An error about a table says where the table is declared, unless it has a place already.
    fn within_table(&self, error: Error, table: &TableDef) -> Error {
        match error.excerpt() {
            Some(_) => error,
            None => self.text.error_at(error.within(format!("table \"{}\"", table.name)), table.at),
        }
    }
}

/// Options that the table's connector does not have, and values that they do not take.
fn check_options(options: &Options, connectors: &dyn Connectors) -> Vec<Error> {
    let name = match options.required(&CONNECTOR) {
        Ok(name) => name,
        Err(error) => return vec![error],
    };
    let specs = connectors.specs();
    match specs.iter().find(|spec| spec.name == name) {
        Some(spec) => options.check(&spec.declared()),
        None => {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
            vec![unknown_connector(options, name, &names)]
        }
    }
}

/// `query` with its UNNESTs, and its joins with versions, as DataFusion reads them.
fn unnested(query: &ast::Query) -> Box<ast::Query> {
    let mut query = Box::new(query.clone());
    unnest::rewrite(&mut query);
    temporal::rewrite(&mut query);
    query
}

fn unknown_column(name: &str, schema: &Schema) -> Error {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    let error = Error::invalid(format!("unknown column '{name}'"));
    match nearest(name, names()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("the columns are {}", names().collect::<Vec<_>>().join(", "))),
    }
}

fn columns_of(plan: &LogicalPlan) -> impl Iterator<Item = Column> {
    plan.schema().iter().map(Column::from)
}

fn project(plan: LogicalPlan, exprs: Vec<Expr>) -> datafusion_common::Result<LogicalPlan> {
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// True if rows with windows, or with numbers that a reader may bound, leave the plan without an aggregate or a join that takes them
/// up: its reader may, if it is planned into it.
fn has_open_windows(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) | LogicalPlan::Join(_) => false,
        plan if temporal::is_temporal(plan) => false,
        plan if multiset::Multiset::of(plan).is_some() => false,
        LogicalPlan::Extension(_) | LogicalPlan::Window(_) => true,
        other => other.inputs().into_iter().any(has_open_windows),
    }
}

/// The table that a SELECT on its own goes into: the terminal.
fn printed(plan: &LogicalPlan, number: usize) -> connector::Table {
    let name = if number == 0 { "print".to_owned() } else { format!("print {}", number + 1) };
    connector::Table {
        name,
        schema: Arc::new(Schema::new(plan.schema().fields().clone())),
        metadata: BTreeMap::new(),
        primary_key: Vec::new(),
        key_trusted: false,
        options: Options::new([(CONNECTOR.name.to_owned(), OptionText::from("print"))]),
    }
}

/// True if a column of type `to` takes values of type `from` without a cast that the query would have to ask for.
fn assignable(from: &DataType, to: &DataType) -> bool {
    let time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let nested = |t: &DataType| t.is_nested();
    from == to
        || from.is_null()
        || (from.is_numeric() && to.is_numeric())
        || (time(from) && time(to))
        || (text(to) && !nested(from) && !bytes(from))
        || (bytes(to) && (bytes(from) || text(from)))
        || (nested(from) && nested(to) && arrow::compute::can_cast_types(from, to))
        || (matches!(
            (from, to),
            (DataType::Time32(_) | DataType::Time64(_), DataType::Time32(_) | DataType::Time64(_))
        ))
        || (matches!((from, to), (DataType::Interval(_), DataType::Interval(_))))
}

/// Where the query's column `position` is written.
fn item_place(query: &ast::Query, position: usize) -> Option<Location> {
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => select,
        SetExpr::Values(values) => return Some(values.rows.first()?.content.get(position)?.span().start),
        _ => return None,
    };
    let wild = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    match select.projection.iter().any(wild) {
        true => None,
        false => select.projection.get(position).map(|item| item.span().start),
    }
}

/// What the optimiser may know.
#[derive(Debug)]
struct Choices {
    inner: OptimizerContext,
    /// The functions that its rules make use of: DISTINCT ON becomes an aggregate.
    functions: MemoryFunctionRegistry,
}

impl Choices {
    fn new(options: &ConfigOptions) -> Self {
        let mut functions = MemoryFunctionRegistry::new();
        functions
            .register_udaf(datafusion_functions_aggregate::first_last::first_value_udaf())
            .expect("a registry takes every function");
        let inner = OptimizerContext::new_with_config_options(Arc::new(options.clone()));
        Choices { inner: inner.without_query_execution_start_time(), functions }
    }
}

impl OptimizerConfig for Choices {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        self.inner.query_execution_start_time()
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        self.inner.alias_generator()
    }

    fn options(&self) -> Arc<ConfigOptions> {
        self.inner.options()
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        Some(&self.functions)
    }
}

/// The optimiser's rules that keep a stream's meaning: none that pushes limits, none that nests aggregates.
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    use datafusion_optimizer as o;
    vec![
        Arc::new(o::rewrite_set_comparison::RewriteSetComparison::new()),
        Arc::new(o::optimize_unions::OptimizeUnions::new()),
        Arc::new(o::simplify_expressions::SimplifyExpressions::new()),
        Arc::new(o::replace_distinct_aggregate::ReplaceDistinctWithAggregate::new()),
        Arc::new(o::eliminate_join::EliminateJoin::new()),
        Arc::new(o::decorrelate_predicate_subquery::DecorrelatePredicateSubquery::new()),
        Arc::new(o::scalar_subquery_to_join::ScalarSubqueryToJoin::new()),
        Arc::new(o::decorrelate_lateral_join::DecorrelateLateralJoin::new()),
        Arc::new(o::extract_equijoin_predicate::ExtractEquijoinPredicate::new()),
        Arc::new(o::eliminate_duplicated_expr::EliminateDuplicatedExpr::new()),
        Arc::new(o::eliminate_filter::EliminateFilter::new()),
        Arc::new(o::eliminate_cross_join::EliminateCrossJoin::new()),
        Arc::new(o::propagate_empty_relation::PropagateEmptyRelation::new()),
        Arc::new(o::eliminate_outer_join::EliminateOuterJoin::new()),
        Arc::new(o::push_down_filter::PushDownFilter::new()),
        Arc::new(o::eliminate_group_by_constant::EliminateGroupByConstant::new()),
        Arc::new(o::common_subexpr_eliminate::CommonSubexprEliminate::new()),
        Arc::new(o::extract_leaf_expressions::ExtractLeafExpressions::new()),
        Arc::new(o::extract_leaf_expressions::PushDownLeafProjections::new()),
        Arc::new(o::optimize_projections::OptimizeProjections::new()),
    ]
}
