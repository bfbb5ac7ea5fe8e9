//! What names mean: tables, views, functions, types. DataFusion's planner asks here.

use super::custom::CustomFunctions;
use super::functions;
use super::hints::HintFunction;
use super::place::through;
use super::temporal;
use super::types::Types;
use super::windows::WindowFunctions;
use crate::error::{Error, nearest};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::operator::CustomOperator;
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DFSchema, Result, TableReference, plan_err};
use datafusion_expr::logical_plan::LogicalPlan;
use datafusion_expr::planner::{
    ContextProvider, ExprPlanner, PlannerResult, RawFieldAccessExpr, RelationPlanner, TypePlanner,
};
use datafusion_expr::{AggregateUDF, Expr, GetFieldAccess, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use sqlparser::tokenizer::Location;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that a statement can name.
pub(super) struct Catalog {
    pub tables: BTreeMap<String, Arc<TableDef>>,
    pub views: BTreeMap<String, Arc<ViewDef>>,
    scalars: BTreeMap<String, Arc<ScalarUDF>>,
    aggregates: BTreeMap<String, Arc<AggregateUDF>>,
    windows: BTreeMap<String, Arc<WindowUDF>>,
    higher_order: BTreeMap<String, Arc<HigherOrderUDF>>,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    options: ConfigOptions,
}

/// A table as CREATE TABLE has it, names resolved.
#[derive(Debug)]
pub(super) struct TableDef {
    pub name: String,
    /// All columns, in order.
    pub schema: SchemaRef,
    /// For each column: where it comes from.
    pub columns: Vec<ColumnDef>,
    /// Those of the PRIMARY KEY, by index into `schema`.
    pub primary_key: Vec<usize>,
    /// The columns that come from outside, in order.
    pub physical: SchemaRef,
    /// The event-time column, by index into `schema`, and the watermark that a row stands for, over `schema`.
    pub time: Option<(usize, Expr)>,
    /// True if all its moments are event time: its rows are there, so none of them is late.
    pub whole: bool,
    /// Where its name stands in its statement.
    pub at: Location,
}

/// Where a column's values come from.
#[derive(Debug, Clone)]
pub(super) enum ColumnDef {
    /// The physical column of this index.
    Physical(usize),
    /// This expression over the physical columns.
    Computed(Expr),
}

/// A view and how it is used.
#[derive(Debug)]
pub(super) struct ViewDef {
    pub plan: LogicalPlan,
    pub schema: SchemaRef,
    /// True if it is planned once for all its readers, not into each of them.
    pub shared: bool,
    /// Where its statement starts.
    pub start: Location,
}

/// `array_agg(…)[n]` is an element of a list. DataFusion would make it `nth_value`, which needs its rows sorted before they come.
#[derive(Debug)]
struct ElementOfAggregate;

impl ExprPlanner for ElementOfAggregate {
    fn plan_field_access(&self, access: RawFieldAccessExpr, _: &DFSchema) -> Result<PlannerResult<RawFieldAccessExpr>> {
        Ok(match access {
            RawFieldAccessExpr {
                field_access: GetFieldAccess::ListIndex { key },
                expr: expr @ Expr::AggregateFunction(_),
            } => PlannerResult::Planned(datafusion_functions_nested::expr_fn::array_element(expr, *key)),
            other => PlannerResult::Original(other),
        })
    }
}

/// `bid.price` of a ROW `bid` is called `price`, not `t.bid[price]`.
#[derive(Debug)]
struct FieldOfRow(CoreFunctionPlanner);

impl ExprPlanner for FieldOfRow {
    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested_names: &[String],
    ) -> Result<PlannerResult<Vec<Expr>>> {
        let planned = self.0.plan_compound_identifier(field, qualifier, nested_names)?;
        Ok(match (planned, nested_names.last()) {
            (PlannerResult::Planned(value), Some(name)) => PlannerResult::Planned(value.alias(name)),
            (planned, _) => planned,
        })
    }
}

/// A table, as DataFusion's planner sees it.
pub(super) struct TableRead(pub Arc<TableDef>);

impl TableSource for TableRead {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }
}

/// A view, as DataFusion's planner sees it.
pub(super) struct ViewRead(pub Arc<ViewDef>);

/// What a recursive query has found in the round before.
#[derive(Debug)]
pub(super) struct WorkTable(SchemaRef);

impl TableSource for WorkTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }
}

impl TableSource for ViewRead {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        (!self.0.shared).then_some(Cow::Borrowed(&self.0.plan))
    }
}

impl Catalog {
    /// All functions, no tables.
    pub fn new() -> Self {
        let mut options = ConfigOptions::default();
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.collect_spans = true;
        // a query as a value becomes a join
        options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        options.execution.time_zone = Some("+00:00".into());
        let mut catalog = Catalog {
            tables: BTreeMap::new(),
            views: BTreeMap::new(),
            scalars: BTreeMap::new(),
            aggregates: BTreeMap::new(),
            windows: BTreeMap::new(),
            higher_order: BTreeMap::new(),
            expr_planners: vec![
                Arc::new(FieldOfRow(CoreFunctionPlanner::default())),
                Arc::new(CoreFunctionPlanner::default()),
                Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
                Arc::new(ElementOfAggregate),
                Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
                Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
                Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
                Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
                Arc::new(datafusion_functions_window::planner::WindowFunctionPlanner),
            ],
            relation_planners: vec![Arc::new(HintFunction), Arc::new(WindowFunctions)],
            options,
        };
        let scalars = datafusion_functions::all_default_functions()
            .into_iter()
            .chain(datafusion_functions_nested::all_default_nested_functions())
            .chain(functions::all());
        for function in scalars {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                catalog.scalars.insert(name.to_owned(), Arc::clone(&function));
            }
        }
        for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                catalog.aggregates.insert(name.to_owned(), Arc::clone(&function));
            }
        }
        for function in datafusion_functions_window::all_default_window_functions() {
            catalog.windows.insert(function.name().to_owned(), function);
        }
        for function in datafusion_functions_nested::all_default_higher_order_functions() {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                catalog.higher_order.insert(name.to_owned(), Arc::clone(&function));
            }
        }
        catalog
    }

    /// Adds what the program brings along; a function takes the place of one with its name.
    pub fn extend(
        &mut self,
        functions: &[ScalarFunction],
        aggregates: &[AggregateFunction],
        operators: &[Arc<dyn CustomOperator>],
    ) {
        functions.iter().for_each(|function| self.add_function(function));
        aggregates.iter().for_each(|function| self.add_aggregate(function));
        if !operators.is_empty() {
            self.relation_planners.insert(0, Arc::new(CustomFunctions(operators.to_vec())));
        }
    }

    /// Adds a function of rows, in the place of any with its name.
    pub fn add_function(&mut self, function: &ScalarFunction) {
        self.aggregates.remove(function.name());
        self.higher_order.remove(function.name());
        self.scalars.insert(function.name().to_owned(), Arc::new(function.planned()));
    }

    /// Adds an aggregate function, in the place of any with its name.
    pub fn add_aggregate(&mut self, function: &AggregateFunction) {
        self.scalars.remove(function.name());
        self.higher_order.remove(function.name());
        self.aggregates.insert(function.name().to_owned(), Arc::new(function.planned()));
    }

    /// True if `name` is a function of any kind.
    pub fn has_function(&self, name: &str) -> bool {
        self.scalars.contains_key(name)
            || self.aggregates.contains_key(name)
            || self.windows.contains_key(name)
            || self.higher_order.contains_key(name)
    }

    /// True if `name` is a function that OVER may follow.
    pub fn has_window_function(&self, name: &str) -> bool {
        self.windows.contains_key(name) || self.aggregates.contains_key(name)
    }

    /// All names of functions that are most like `name`.
    pub fn nearest_function(&self, name: &str) -> Option<&str> {
        let names = self
            .scalars
            .keys()
            .chain(self.aggregates.keys())
            .chain(self.higher_order.keys())
            .chain(self.windows.keys());
        nearest(name, names.map(String::as_str))
    }

    /// The error for a table that is not there.
    pub fn unknown_table(&self, name: &str) -> Error {
        let names = || self.tables.keys().chain(self.views.keys()).map(String::as_str);
        let error = Error::invalid(format!("unknown table '{name}'"));
        match nearest(name, names()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None if ["from", "group", "order", "select", "table", "where"].contains(&name) => {
                error.help(format!("a keyword as a name stands in double quotes: \"{name}\""))
            }
            None if names().next().is_none() => error.help("declare it with CREATE TABLE first"),
            None => error.help(format!("the tables and views are {}", names().collect::<Vec<_>>().join(", "))),
        }
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        if let Some(table) = self.tables.get(name.table()) {
            return Ok(Arc::new(TableRead(Arc::clone(table))));
        }
        match self.views.get(name.table()) {
            Some(view) => Ok(Arc::new(ViewRead(Arc::clone(view)))),
            None => Err(through(self.unknown_table(name.table()))),
        }
    }

    fn create_cte_work_table(&self, _: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(Arc::new(WorkTable(schema)))
    }

    fn get_table_function_source(&self, name: &str, _args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        plan_err!("unknown table function '{name}'")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned().or_else(|| temporal::mark(name))
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.windows.get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalars.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.windows.keys().cloned().collect()
    }
}
