//! Logical plan to steps.
//!
//! A query is lowered from its sources up. What is not yet a step is a [`Stream`]: a step, the stateless stages to put on top of
//! it, and where each column of the query is in the rows that come out. So choosing and renaming columns costs nothing, neighbouring
//! stages end up in one step, and windows are only assigned to rows when something other than a GROUP BY asks for them.

mod changes;
mod collect;
mod distinct;
mod extremes;
mod interval;
mod join;
mod late;
mod letters;
mod lookup;
mod ordered;
mod over;
mod rank;
mod temporal;
mod values;
mod view;

use late::{Asked, Branch};
pub(super) use letters::Letters;

use super::catalog::{ColumnDef, TableDef, TableRead, ViewRead, WorkTable};
use super::custom::CustomCall;
use super::hints::StateTtl;
use super::multiset::Multiset;
use super::settings;
use super::windows::{Assigned, WindowAssign};
use crate::connector::bad::OnError;
use crate::connector::{
    self, CONNECTOR, Changes, Connectors, DELIVERY, Delivery, Gives, IDLE_TIMEOUT, MAX_FUTURE, Options, STATE_TTL,
    Sink, SinkInput, WHEN_ALL_IDLE,
};
use crate::error::{Error, Result};
use crate::expr::{AggregateCall, Expr, from_datafusion};
use crate::plan::{
    Action, Aggregation, BadRecords, Emit, Grouping, Input, Keeping, OutputColumn, Plan, Route, Settings, SinkStep,
    SourceStep, Stage, Step, StepId, TimeAttribute, Transform, Windows, event_time_type, type_name, updates,
};
use crate::time::Micros;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::logical_plan::{Aggregate, Distinct, EmptyRelation, LogicalPlan, TableScan, Union, Unnest};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Expr as Logical, ExprSchemable, lit};
use datafusion_physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion_physical_expr::create_physical_expr;
use datafusion_physical_expr::expressions as physical;
use sqlparser::tokenizer::Location;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How DataFusion's names for lists that are unnested start.
const UNNEST_PLACEHOLDER: &str = "__unnest_placeholder";

/// One query that ends in a table.
pub(super) struct Query {
    /// The optimised plan; its columns are those of the table, in type and order.
    pub plan: LogicalPlan,
    /// Where its rows go.
    pub table: Rc<connector::Table>,
    /// True if that is a view that is served.
    pub serves: bool,
    /// Where the INSERT starts.
    pub at: Location,
    /// True for a SELECT on its own.
    pub printed: bool,
    /// True if its aggregates without windows speak once, at the end of the input.
    pub last: bool,
    /// True if its results must leave when windows close, and stand.
    pub on_close: bool,
    /// True if its results must not wait for windows to close.
    pub as_changes: bool,
    /// How long its windows stay open after the watermark has reached their end.
    pub lateness: Micros,
    /// Where rows go that come too late for its windows.
    pub late: Option<Rc<connector::Table>>,
}

impl Query {
    /// True if its late rows say where they come from.
    pub fn asks_places(&self) -> bool {
        self.late.as_ref().is_some_and(|table| table.schema.index_of(late::PLACE).is_ok())
    }

    /// True if it reads table `name`.
    pub fn reads(&self, name: &str) -> bool {
        let mut needs = Needs::new();
        collect_needs(&self.plan, &mut needs);
        needs.contains_key(name)
    }
}

/// A table that is written, and all that goes into it.
pub(super) struct Target {
    pub table: Rc<connector::Table>,
    /// True if it is a view that is served.
    pub serves: bool,
    pub streams: Vec<Stream>,
    /// Where the first INSERT into it starts.
    pub at: Location,
}

/// The columns of each table and shared view that some query reads.
pub(super) type Needs = BTreeMap<String, BTreeSet<usize>>;

/// Adds what `plan` reads to `needs`.
pub(super) fn collect_needs(plan: &LogicalPlan, needs: &mut Needs) {
    if let LogicalPlan::TableScan(scan) = plan
        && !scan.source.is::<WorkTable>()
    {
        let all = || (0..scan.source.schema().fields().len()).collect();
        needs
            .entry(scan.table_name.table().to_owned())
            .or_default()
            .extend(scan.projection.clone().unwrap_or_else(all));
    }
    for input in plan.inputs() {
        collect_needs(input, needs);
    }
}

/// Adds, for each distinct part of `plan`, how many others read it.
fn count_uses(plan: &LogicalPlan, uses: &mut HashMap<LogicalPlan, usize>) {
    let count = uses.entry(plan.clone()).or_default();
    *count += 1;
    if *count == 1 {
        for input in plan.inputs() {
            count_uses(input, uses);
        }
    }
}

/// Turns queries into a plan's steps.
pub(super) struct Planner<'a> {
    settings: &'a Settings,
    connectors: &'a dyn Connectors,
    steps: Vec<Step>,
    /// For each table and shared view: what its reading side gives and, for each of its columns, where that is.
    readers: BTreeMap<(String, bool), Reader>,
    /// Tables that are asked, not read.
    outside: BTreeMap<String, lookup::Outside>,
    /// How many parts read each part of the queries.
    uses: HashMap<LogicalPlan, usize>,
    /// What is lowered already, by whether it speaks last.
    lowered: HashMap<(LogicalPlan, bool, Asked), Stream>,
    /// For each step whose rows enter collections, how, and how far its event time is behind: the step that keeps them.
    keepers: HashMap<(StepId, Keeping, Micros), StepId>,
    /// The recursions that are being lowered, by the name of their rows: the step that gives those of the round before.
    rounds: Vec<(String, Stream)>,
    /// What the query that is being lowered asks of its windows.
    asked: Asked,
    /// Its late rows, so far.
    late: Vec<Stream>,
    /// How many windows have been told apart.
    windows: usize,
    /// Where in the text the last error comes from, if something closer than its statement is known.
    blame: Option<Location>,
}

/// A table or shared view that can be read.
#[derive(Clone)]
struct Reader {
    stream: Stream,
    /// For each column of the table: its place in the stream's rows, if some query needs it.
    columns: Vec<Option<usize>>,
}

/// Rows on their way: a step, stages to come on top of it, and where the columns of the query are.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub base: StepId,
    stages: Vec<Stage>,
    /// The rows' columns.
    pub rows: SchemaRef,
    /// What the planner knows about each of the rows' columns.
    roles: Vec<Role>,
    /// For each column of the query: where it is.
    columns: Vec<Place>,
    /// Windows that are not assigned yet.
    pending: Option<PendingWindows>,
    /// Where the rows' column with their places is, if they carry them. No query knows it.
    place: Option<usize>,
    /// The late rows of windows that no step has waited for yet.
    late: Vec<Branch>,
    pub emit: Emit,
    /// How long its rows stay in collections, if they have event time: as a hint, their table or a setting says. It is a column of the rows
    /// then, whether a query reads it or not.
    stay: Option<Stay>,
    /// True if no other stream reads the base step.
    own: bool,
}

/// How long rows stay in collections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub(super) enum Stay {
    /// For ever.
    Ever,
    /// By event time.
    For(Micros),
}

impl From<Option<Duration>> for Stay {
    fn from(ttl: Option<Duration>) -> Self {
        ttl.map_or(Stay::Ever, |ttl| Stay::For(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Where a column of a query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A column of the rows.
    Row(usize),
    /// A bound of the pending windows.
    Window(Bound),
}

/// A column that a window function adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Start,
    End,
    Time,
}

impl Bound {
    const ALL: [Bound; 3] = [Bound::Start, Bound::End, Bound::Time];

    fn output(self) -> OutputColumn {
        match self {
            Bound::Start => OutputColumn::WindowStart,
            Bound::End => OutputColumn::WindowEnd,
            Bound::Time => OutputColumn::WindowTime,
        }
    }
}

/// Windows by a column of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingWindows {
    time: usize,
    windows: Pending,
}

/// Which windows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    Fixed(Windows),
    /// Sessions, of these columns of the rows if they are given.
    Sessions {
        gap: Micros,
        partition: Option<Vec<usize>>,
    },
}

impl PendingWindows {
    /// The columns of the rows that it needs.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let partition = match &self.windows {
            Pending::Sessions { partition: Some(partition), .. } => partition.as_slice(),
            _ => &[],
        };
        [self.time].into_iter().chain(partition.iter().copied())
    }

    /// The same where the rows' columns are elsewhere.
    fn moved(&self, mut to: impl FnMut(usize) -> usize) -> Self {
        let time = to(self.time);
        let windows = match &self.windows {
            Pending::Sessions { gap, partition } => {
                let partition = partition.as_ref().map(|rows| rows.iter().map(|row| to(*row)).collect());
                Pending::Sessions { gap: *gap, partition }
            }
            fixed => fixed.clone(),
        };
        PendingWindows { time, windows }
    }

    fn sessions(&self) -> bool {
        matches!(self.windows, Pending::Sessions { .. })
    }
}

/// What a column means to event time. Only bare columns keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    None,
    /// Event time, about which a watermark makes a promise.
    Time,
    /// A bound of the windows with this number.
    Window(usize, Bound),
}

impl<'a> Planner<'a> {
    /// No steps yet.
    pub fn new(settings: &'a Settings, connectors: &'a dyn Connectors) -> Self {
        Planner {
            settings,
            connectors,
            steps: Vec::new(),
            readers: BTreeMap::new(),
            outside: BTreeMap::new(),
            uses: HashMap::new(),
            lowered: HashMap::new(),
            keepers: HashMap::new(),
            rounds: Vec::new(),
            asked: Asked::default(),
            late: Vec::new(),
            windows: 0,
            blame: None,
        }
    }

    /// Counts what `plan` shares with the other queries. All are counted before the first is lowered.
    pub fn announce(&mut self, plan: &LogicalPlan) {
        count_uses(plan, &mut self.uses);
    }

    /// Adds the source of `table`, of which `needed` columns are read, and where its rows come from if `places_too`.
    pub fn read_table(
        &mut self,
        table: &TableDef,
        definition: &connector::Table,
        needed: &BTreeSet<usize>,
        places_too: bool,
    ) -> Result<Option<Letters>> {
        let mut needed = needed.clone();
        if let Some((time, watermark)) = &table.time {
            needed.insert(*time);
            for column in watermark.column_refs() {
                needed.insert(table.schema.index_of(column.name()).map_err(|e| Error::internal(e.to_string()))?);
            }
        }
        let mut physical = BTreeSet::new();
        for column in &needed {
            match &table.columns[*column] {
                ColumnDef::Physical(index) => drop(physical.insert(*index)),
                ColumnDef::Computed(value) => {
                    for column in value.column_refs() {
                        physical.insert(
                            table.physical.index_of(column.name()).map_err(|e| Error::internal(e.to_string()))?,
                        );
                    }
                }
            }
        }
        let mut physical: Vec<usize> = physical.into_iter().collect();
        let options = &definition.options;
        let idle_timeout = options.if_given(&IDLE_TIMEOUT, Options::duration_or_off)?;
        let idle_timeout = idle_timeout.unwrap_or(self.settings.idle_timeout);
        let when_all_idle = options.if_given(&WHEN_ALL_IDLE, Options::choice)?;
        let when_all_idle = when_all_idle.map_or(self.settings.when_all_idle, settings::when_all_idle);
        let max_future = options.if_given(&MAX_FUTURE, Options::duration)?.unwrap_or(self.settings.max_future);
        let stay = options.if_given(&STATE_TTL, Options::duration_or_off)?.map(Stay::from);
        if stay.is_some() && table.time.is_none() {
            let wrong = options.wrong(&STATE_TTL, "rows count by event time, and this table has none");
            return Err(wrong.help("declare a WATERMARK, or leave the option out"));
        }
        let OnError { on_bad, letters, share_max } = OnError::of(options)?;
        let bad = BadRecords { on_bad, letters: letters.is_some(), share_max };
        let mut source = self.connectors.source(definition, &physical)?;
        let gives = source.gives();
        let key = changes::key_columns(table, definition);
        if gives == Gives::Upserts && !key.iter().all(|column| needed.contains(column)) {
            needed.extend(&key);
            physical.extend(&definition.primary_key);
            physical.sort_unstable();
            physical.dedup();
            source = self.connectors.source(definition, &physical)?;
        }
        let given = source.schema();
        let given_df = DFSchema::try_from(Arc::clone(&given)).map_err(from_datafusion)?;

        let mut columns = Vec::new();
        let mut places = vec![None; table.columns.len()];
        for &column in &needed {
            places[column] = Some(columns.len());
            let field = table.schema.field(column);
            columns.push(match &table.columns[column] {
                ColumnDef::Physical(_) => {
                    let index = given.index_of(field.name()).map_err(|e| Error::internal(e.to_string()))?;
                    Expr::column(field.name(), index)
                }
                ColumnDef::Computed(value) => compile(value, &given_df, &given)?,
            });
        }
        let fields: Fields =
            places.iter().zip(table.schema.fields()).filter_map(|(p, field)| p.map(|_| Arc::clone(field))).collect();
        let place = places_too.then(|| Arc::new(Field::new(late::PLACE_COLUMN, DataType::Utf8, false)));
        let schema = Arc::new(Schema::new(fields.iter().cloned().chain(place).collect::<Fields>()));
        let mut roles = vec![Role::None; schema.fields().len()];
        if table.whole {
            let moment = |field: &FieldRef| *field.data_type() == event_time_type();
            let moments = roles.iter_mut().zip(schema.fields()).filter(|(_, field)| moment(field));
            moments.for_each(|(role, _)| *role = Role::Time);
        }
        let time = match &table.time {
            Some((time, watermark)) => {
                let column = places[*time].expect("the event-time column is always read");
                roles[column] = Role::Time;
                let row = DFSchema::try_from(Arc::clone(&schema)).map_err(from_datafusion)?;
                Some(TimeAttribute { column, watermark: compile(watermark, &row, &schema)? })
            }
            None => None,
        };
        let action = Action::Source(SourceStep {
            table: table.name.clone(),
            connector: connector_name(definition).to_owned(),
            source,
            columns,
            place: places_too,
            key: key.iter().map(|column| places[*column]).collect::<Option<_>>().unwrap_or_default(),
            time,
            idle_timeout,
            when_all_idle,
            max_future,
            bad,
        });
        let (base, emit) = self.source_step(&table.name, action, gives, &schema)?;
        let mut stream = Stream::of_step(self.steps.len() - 1, schema, emit);
        stream.roles = roles;
        stream.place = places_too.then(|| stream.rows.fields().len() - 1);
        stream.stay = table.time.as_ref().map(|_| stay.unwrap_or(Stay::from(self.settings.state_ttl)));
        stream.own = false;
        let reader = Reader { stream, columns: places };
        for last in [false, true] {
            self.readers.insert((table.name.clone(), last), reader.clone());
        }
        Ok(letters.map(|into| Letters { from: base, into }))
    }

    /// Adds the shared view `name`, whose `plan` gives the `needed` ones of its `width` columns. `lasts` says for its readers
    /// whether its aggregates without windows speak last.
    pub fn read_view(
        &mut self,
        name: &str,
        plan: &LogicalPlan,
        needed: &BTreeSet<usize>,
        width: usize,
        lasts: &BTreeSet<bool>,
        locate: &dyn Fn(Error, Option<Location>) -> Error,
    ) -> Result<()> {
        self.blame = None;
        for last in lasts {
            let mut stream = self.lower(plan, *last).map_err(|error| locate(error, self.blame))?;
            assign_windows(self, &mut stream).map_err(|error| locate(error, self.blame))?;
            self.materialise(&mut stream)?;
            let mut columns = vec![None; width];
            for (column, row) in needed.iter().zip(stream.row_places()) {
                columns[*column] = Some(row);
            }
            let stands = stream.emit == Emit::Append;
            stream.own = false;
            let reader = Reader { stream, columns };
            self.readers.insert((name.to_owned(), *last), reader.clone());
            if stands {
                // Nothing in it speaks last: one is good for all.
                self.readers.insert((name.to_owned(), true), reader);
                break;
            }
        }
        Ok(())
    }

    /// Adds the sink of a table, and all that goes into it.
    pub fn write(&mut self, target: Target) -> Result<()> {
        let Target { table, serves, mut streams, .. } = target;
        let mut stream = match streams.len() {
            1 => streams.remove(0),
            _ => self.union(streams, Arc::clone(&table.schema))?,
        };
        self.materialise(&mut stream)?;
        if serves {
            return self.serve(stream, &table);
        }
        let updating = stream.emit == Emit::Updating;
        let input = SinkInput { schema: Arc::clone(&stream.rows), updating };
        let sink = self.connectors.sink(&table, &input)?;
        let keyed = updating || matches!(sink.changes(), Changes::Upsert | Changes::Keyed);
        let settled = self.settle(&mut stream, sink.as_ref(), &table)?;
        let route = match sink.single() {
            true => Route::Single,
            false if settled => Route::Forward,
            false if keyed && !table.primary_key.is_empty() => Route::Key(table.primary_key.clone()),
            false => Route::Forward,
        };
        let route = self.consolidate(&mut stream, route);
        let connector = connector_name(&table).to_owned();
        let delivery = self.delivery(&table, sink.as_ref())?;
        let action = Action::Sink(SinkStep {
            table: table.name.clone(),
            connector,
            sink,
            key_trusted: table.key_trusted,
            delivery,
        });
        let written = stream.rows.fields().iter().zip(table.schema.fields());
        let written = written.map(|(row, column)| Arc::new(row.as_ref().clone().with_nullable(column.is_nullable())));
        let written = Arc::new(Schema::new(written.collect::<Fields>()));
        self.step(
            format!("sink {}", table.name),
            action,
            vec![Input { from: stream.base, route }],
            written,
            stream.emit,
        );
        Ok(())
    }

    /// Where the changes of an epoch may take each other back, because columns that tell them apart are gone, what they come to is worked
    /// out before they leave by `route`. Gives the route that they go then.
    fn consolidate(&mut self, stream: &mut Stream, route: Route) -> Route {
        if stream.emit != Emit::Updating || !self.may_cancel(stream.base) {
            return route;
        }
        let by = match route {
            Route::Forward => Route::Key((0..stream.rows.fields().len()).collect()),
            given => given,
        };
        let input = Input { from: stream.base, route: by };
        let rows = Arc::clone(&stream.rows);
        stream.base = self.step("consolidate".into(), Action::Consolidate, vec![input], rows, stream.emit);
        Route::Forward
    }

    /// True if step `id` may add a row and take it back in one epoch.
    fn may_cancel(&self, id: StepId) -> bool {
        let step = &self.steps[id];
        match &step.action {
            Action::Union => true,
            // the key of a group, and what its results are told apart by, are still there
            Action::Transform(_) if crate::plan::keeps_keys(&self.steps, id) => false,
            Action::Transform(_) => true,
            _ => false,
        }
    }

    /// What `sink`, the writing side of `table`, promises.
    fn delivery(&self, table: &connector::Table, sink: &dyn Sink) -> Result<Delivery> {
        let options = &table.options;
        let stored = self.settings.checkpoint_store.is_some();
        match options.if_given(&DELIVERY, Options::choice)? {
            Some("exactly-once") if sink.staging().is_none() => {
                let wrong = options.wrong(&DELIVERY, "this connector writes rows as they come");
                Err(wrong.help("write to a topic or to files, or leave the option out"))
            }
            Some("exactly-once") if !stored => {
                let wrong = options.wrong(&DELIVERY, "that needs checkpoints, and the pipeline has none");
                Err(wrong.help("SET 'checkpoint_store' to a directory"))
            }
            Some("exactly-once") => Ok(Delivery::ExactlyOnce),
            None if stored && sink.staging().is_some() => Ok(Delivery::ExactlyOnce),
            _ => Ok(Delivery::AtLeastOnce),
        }
    }

    /// Adds the steps of a query: its rows, and those that come too late for its windows if it asks for them, with the columns of
    /// their tables. `locate` puts an error at a place in the text.
    pub fn insert(
        &mut self,
        query: &Query,
        locate: &dyn Fn(Error, Option<Location>) -> Error,
    ) -> Result<(Stream, Vec<Stream>)> {
        self.blame = None;
        self.late.clear();
        self.asked = Asked { lateness: query.lateness, places: query.asks_places() };
        let stream = self.query(query).map_err(|error| locate(error, self.blame))?;
        self.asked = Asked::default();
        Ok((stream, std::mem::take(&mut self.late)))
    }

    fn query(&mut self, query: &Query) -> Result<Stream> {
        let mut stream = self.lower(&query.plan, query.last)?;
        if query.last {
            self.check_bounded(&stream)?;
            self.standing(&mut stream)?;
        }
        if (query.late.is_some() || query.lateness > 0) && self.waits_for_windows(stream.base).is_none() {
            return Err(Error::invalid(
                "nothing here waits for a window to close, so no row can come too late for one",
            )
            .help("GROUP BY window_start, window_end, or leave LATE INTO and ALLOWED LATENESS out"));
        }
        self.check_emit(query, &stream)?;
        self.exactly(&mut stream, query.plan.schema().fields())?;
        Ok(stream)
    }

    /// Refuses a query whose plan speaks at other times than it asks for.
    fn check_emit(&self, query: &Query, stream: &Stream) -> Result<()> {
        let updating = stream.emit == Emit::Updating;
        let name = |id: StepId| &self.steps[id].name;
        let waiting = self.waits_for_windows(stream.base);
        match waiting {
            _ if query.on_close && updating => {
                let step = name(updates(&self.steps, stream.base));
                let error =
                    format!("EMIT ON WINDOW CLOSE needs results that stand, but step \"{step}\" updates its results");
                Err(Error::invalid(error).help(
                    "GROUP BY window_start, window_end over TUMBLE or another window function, or end the INSERT with EMIT FINAL",
                ))
            }
            None if query.on_close => {
                Err(Error::invalid("EMIT ON WINDOW CLOSE needs windows, and nothing here waits for one to close")
                    .help("GROUP BY window_start, window_end over TUMBLE or another window function, or leave it out"))
            }
            Some(step) if query.as_changes && !updating => {
                let step = name(step);
                let error = format!(
                    "EMIT CHANGES needs results that change, but those of step \"{step}\" leave when their window closes"
                );
                Err(Error::invalid(error).help("leave EMIT CHANGES out, or GROUP BY something else than a window's bounds, such as date_trunc('minute', ts)"))
            }
            _ => Ok(()),
        }
    }

    /// The plan, which is still to be checked.
    pub fn finish(self) -> Plan {
        Plan { settings: self.settings.clone(), steps: self.steps }
    }

    pub(super) fn step(
        &mut self,
        name: String,
        action: Action,
        inputs: Vec<Input>,
        schema: SchemaRef,
        emit: Emit,
    ) -> StepId {
        let taken = |name: &str| self.steps.iter().any(|step| step.name == name);
        let name = match taken(&name) {
            false => name,
            true => {
                let numbered = (2..).map(|number| format!("{name} #{number}")).find(|name| !taken(name));
                numbered.expect("there are fewer steps than numbers")
            }
        };
        let lateness = inputs.iter().map(|input| self.behind(input.from)).fold(self.asked.lateness, Micros::max);
        self.steps.push(Step { name, action, inputs, schema, emit, lateness });
        self.steps.len() - 1
    }

    /// How far event time of what reads step `id` is behind its sources': by so much its rows may be older than their epoch's watermark.
    fn behind(&self, id: StepId) -> Micros {
        self.steps[id].lateness.max(self.asked.lateness)
    }

    /// Makes a step of the stages that the stream still has to go through.
    pub(super) fn materialise(&mut self, stream: &mut Stream) -> Result<()> {
        let mut stages = std::mem::take(&mut stream.stages);
        if stages.is_empty() {
            return Ok(());
        }
        merge_projects(&mut stages)?;
        if stream.own {
            self.narrow(stream.base, &mut stages)?;
        }
        let mut words: Vec<&str> = stages.iter().map(stage_word).collect();
        words.dedup();
        let name = words.join(", ");
        let input = Input { from: stream.base, route: Route::Forward };
        stream.base = self.step(name, Action::Transform(stages), vec![input], Arc::clone(&stream.rows), stream.emit);
        stream.own = true;
        Ok(())
    }

    /// Lowers `plan`; a part that several others read becomes one step.
    pub(super) fn lower(&mut self, plan: &LogicalPlan, last: bool) -> Result<Stream> {
        let known = (plan.clone(), last, self.asked);
        if let Some(stream) = self.lowered.get(&known) {
            return Ok(stream.clone());
        }
        let shared = self.uses.get(plan).is_some_and(|uses| *uses > 1);
        let mut stream = self.lower_node(plan, last)?;
        if shared {
            self.materialise(&mut stream)?;
            stream.own = false;
            self.lowered.insert(known, stream.clone());
        }
        Ok(stream)
    }

    fn lower_node(&mut self, plan: &LogicalPlan, last: bool) -> Result<Stream> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, last),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input, last),
            LogicalPlan::Join(join) => self.join(join, last),
            LogicalPlan::Window(window) => self.rank(window, None, last),
            LogicalPlan::Filter(filter) => {
                if let Some(stream) = self.first_rows(filter, last)? {
                    return Ok(stream);
                }
                if let Some(stream) = self.filtered_temporal(filter, last)? {
                    return Ok(stream);
                }
                let mut stream = self.lower(&filter.input, last)?;
                self.filter(&mut stream, &filter.predicate, filter.input.schema())?;
                Ok(stream)
            }
            LogicalPlan::Projection(projection) => {
                let mut stream = self.lower(&projection.input, last)?;
                self.project(&mut stream, &projection.expr, projection.input.schema(), plan.schema())?;
                Ok(stream)
            }
            LogicalPlan::Unnest(unnest) => {
                let stream = self.lower(&unnest.input, last)?;
                self.unnest(stream, unnest)
            }
            LogicalPlan::Aggregate(aggregate) => {
                let stream = self.lower(&aggregate.input, last)?;
                self.aggregate(stream, aggregate, last)
            }
            LogicalPlan::Union(Union { inputs, schema }) => {
                let streams = inputs.iter().map(|input| self.lower(input, last)).collect::<Result<_>>()?;
                self.union(streams, Arc::new(schema.as_arrow().clone()))
            }
            LogicalPlan::Extension(extension) => {
                if let Some(join) = temporal::temporal(plan) {
                    return self.temporal(join, None, last);
                }
                let node = extension.node.as_any();
                match (node.downcast_ref::<WindowAssign>(), node.downcast_ref::<CustomCall>()) {
                    (Some(assign), _) => self.assign(assign, last),
                    (_, Some(call)) => self.custom(call, last),
                    _ if let Some(hint) = node.downcast_ref::<StateTtl>() => self.hinted(hint, last),
                    _ if let Some(node) = Multiset::of(plan) => self.multiset(node, last),
                    _ => Err(Error::internal(format!("no step for {}", extension.node.name()))),
                }
            }
            LogicalPlan::RecursiveQuery(query) => self.recurse(query, last),
            LogicalPlan::Limit(limit) => self.limit(limit, last),
            // what is asked for in order elsewhere is refused; here DISTINCT ON has left it, whose aggregates know it
            LogicalPlan::Sort(sort) => self.lower(&sort.input, last),
            LogicalPlan::Distinct(Distinct::All(_)) => Err(Error::internal("DISTINCT is left by the optimiser")),
            LogicalPlan::Values(values) => self.values(Arc::new(values.schema.as_arrow().clone()), &values.values),
            LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, schema }) => {
                self.values(Arc::new(schema.as_arrow().clone()), &[Vec::new()])
            }
            LogicalPlan::EmptyRelation(_) => {
                Err(Error::invalid("a query without rows: its WHERE is never true").help("leave it out"))
            }
            other => Err(Error::invalid(format!("not yet supported: {}", other.display()))),
        }
    }

    fn scan(&mut self, scan: &TableScan, last: bool) -> Result<Stream> {
        let name = scan.table_name.table().to_owned();
        if scan.source.is::<WorkTable>() {
            return self.scan_round(&name, scan);
        }
        self.refuse_outside(&name)?;
        let known = scan.source.is::<TableRead>() || scan.source.is::<ViewRead>();
        let reader = self.readers.get(&(name, last)).filter(|_| known);
        let reader = reader.ok_or_else(|| Error::internal(format!("table {} is not planned", scan.table_name)))?;
        let mut stream = reader.stream.clone();
        stream.place = stream.place.filter(|_| self.asked.places);
        let all = || (0..reader.columns.len()).collect();
        let columns = scan.projection.clone().unwrap_or_else(all).into_iter().map(|column| {
            let place = reader.columns[column].map(Place::Row);
            place.ok_or_else(|| Error::internal(format!("column {column} of {} is not read", scan.table_name)))
        });
        stream.columns = columns.collect::<Result<_>>()?;
        for filter in &scan.filters {
            self.filter(&mut stream, filter, &scan.projected_schema)?;
        }
        Ok(stream)
    }

    fn filter(&mut self, stream: &mut Stream, predicate: &Logical, schema: &DFSchema) -> Result<()> {
        if stream.reads_windows(predicate, schema) {
            assign_windows(self, stream)?;
        }
        if stream.pending.as_ref().is_some_and(PendingWindows::sessions) {
            let column = predicate.column_refs().into_iter().find_map(|column| column.spans.first());
            self.blame = column.map(|span| Location::new(span.start.line, span.start.column));
            return Err(Error::invalid("a session is made of all rows of its key, so they cannot be filtered behind SESSION")
                .help("filter inside: SESSION((SELECT … WHERE …) PARTITION BY …, DESCRIPTOR(ts), gap); only the columns of PARTITION BY can be filtered by behind it"));
        }
        stream.compact();
        let bound = stream.bind(schema)?;
        let keep = compile(predicate, &bound, &stream.rows)?;
        let rows = Arc::clone(&stream.rows);
        stream.stages.push(Stage { transform: Transform::Filter(keep), schema: rows });
        Ok(())
    }

    fn project(&mut self, stream: &mut Stream, exprs: &[Logical], schema: &DFSchema, output: &DFSchema) -> Result<()> {
        let computed = |expr: &&Logical| bare(expr).is_none();
        if exprs.iter().filter(computed).any(|expr| stream.reads_windows(expr, schema)) {
            assign_windows(self, stream)?;
        }
        let place = |expr: &Logical, stream: &Stream| {
            bare(expr).and_then(|c| schema.maybe_index_of_column(c)).map(|i| stream.columns[i])
        };
        let places: Vec<Option<Place>> = exprs.iter().map(|expr| place(expr, stream)).collect();
        if let Some(places) = places.iter().copied().collect::<Option<Vec<_>>>() {
            stream.columns = places;
            stream.rename(output.fields());
            return Ok(());
        }
        let bound = stream.bind(schema)?;
        // Binding may have moved the columns.
        let mut builder = ProjectBuilder::default();
        let mut columns = Vec::with_capacity(exprs.len());
        for (expr, field) in exprs.iter().zip(output.fields()) {
            columns.push(match place(expr, stream) {
                Some(Place::Row(row)) => Place::Row(builder.copy(stream, row, field.name())),
                Some(window) => window,
                None => Place::Row(builder.add(compile(expr, &bound, &stream.rows)?, Arc::clone(field), Role::None)),
            });
        }
        if let Some(pending) = &stream.pending {
            let pending = pending.moved(|row| builder.copy(stream, row, stream.rows.field(row).name()));
            stream.pending = Some(pending);
        }
        stream.place = stream.place.map(|row| builder.copy(stream, row, late::PLACE_COLUMN));
        if let Some(time) = stream.mortal() {
            builder.copy(stream, time, stream.rows.field(time).name());
        }
        builder.apply(stream);
        stream.columns = columns;
        Ok(())
    }

    fn unnest(&mut self, mut stream: Stream, unnest: &Unnest) -> Result<Stream> {
        let [(column, list)] = unnest.list_type_columns.as_slice() else {
            return Err(match unnest.struct_type_columns.is_empty() {
                false => {
                    Error::invalid("unnest of a ROW is not yet supported").help("select its fields: value['name']")
                }
                true => Error::invalid("two unnests in one SELECT are not yet supported")
                    .help("put one of them into a query in FROM"),
            });
        };
        if !unnest.struct_type_columns.is_empty() || unnest.options.preserve_nulls() {
            return Err(
                Error::invalid("this form of unnest is not yet supported").help("unnest one list in each SELECT")
            );
        }
        if stream.pending.as_ref().is_some_and(PendingWindows::sessions) {
            return Err(Error::invalid("a session is made of all rows of its key, so their lists cannot become rows behind SESSION")
                .help("unnest inside: SESSION((SELECT …, unnest(list) AS element FROM …) PARTITION BY …, DESCRIPTOR(ts), gap)"));
        }
        stream.compact();
        let Place::Row(row) = stream.columns[*column] else {
            return Err(Error::internal("a window's bound is not a list"));
        };
        // DataFusion's name for the list repeats the whole expression.
        let called = |name: &str| Arc::new(stream.rows.field(row).clone().with_name(name));
        if let Some(stage) = stream.stages.last_mut()
            && stream.rows.field(row).name().starts_with(UNNEST_PLACEHOLDER)
        {
            let mut fields: Vec<FieldRef> = stream.rows.fields().to_vec();
            fields[row] = called("list");
            stream.rows = Arc::new(Schema::new(fields));
            stage.schema = Arc::clone(&stream.rows);
        }
        for _ in 0..list.depth {
            let element = match stream.rows.field(row).data_type() {
                DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
                    element.data_type().clone()
                }
                other => return Err(Error::invalid(format!("unnest takes a list, not {}", type_name(other)))),
            };
            let mut fields: Vec<FieldRef> = stream.rows.fields().to_vec();
            fields[row] = Arc::new(Field::new("element", element, true));
            stream.roles[row] = Role::None;
            stream.rows = Arc::new(Schema::new(fields));
            let schema = Arc::clone(&stream.rows);
            stream.stages.push(Stage { transform: Transform::Unnest { column: row }, schema });
        }
        stream.columns = unnest.dependency_indices.iter().map(|index| stream.columns[*index]).collect();
        Ok(stream)
    }

    fn assign(&mut self, assign: &WindowAssign, last: bool) -> Result<Stream> {
        let mut stream = self.lower(&assign.input, last)?;
        let column = assign.input.schema().maybe_index_of_column(&assign.time);
        let column = column.ok_or_else(|| Error::internal(format!("no column {}", assign.time)))?;
        let updating = stream.emit == Emit::Updating;
        let unable = match &assign.windows {
            Assigned::Sessions { .. } if updating => Some("sessions of"),
            Assigned::Fixed(_) if updating && assign.late.is_some() => Some("LATE INTO for windows over"),
            _ => None,
        };
        if let Some(what) = unable {
            return Err(Error::invalid(format!("{what} {} are not supported", self.changing(stream.base)))
                .help("TUMBLE, HOP and CUMULATE go over what stands when a window closes; what comes later is dropped and counted"));
        }
        if stream.pending.is_some() {
            assign_windows(self, &mut stream)?;
        }
        let time = match stream.columns[column] {
            Place::Row(row) if matches!(stream.roles[row], Role::Time | Role::Window(_, Bound::Time | Bound::End)) => {
                row
            }
            _ => {
                let name = &assign.time.name;
                self.blame = assign.time.spans.first().map(|span| Location::new(span.start.line, span.start.column));
                return Err(Error::invalid(format!(
                    "a window goes by event time, but column '{name}' has no watermark"
                ))
                .help(match updating {
                    true => "results that change have the event time of a table only behind filters, projections and row_number(); \
                             window the rows before they are joined or aggregated"
                        .to_owned(),
                    false => format!(
                        "declare one in CREATE TABLE: WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND; \
                         over the results of a window, go by its window_time"
                    ),
                }));
            }
        };
        let windows = match &assign.windows {
            Assigned::Fixed(windows) => Pending::Fixed(*windows),
            Assigned::Sessions { gap, partition: None } => Pending::Sessions { gap: *gap, partition: None },
            Assigned::Sessions { gap, partition: Some(columns) } => {
                let row = |column: &Column| match assign.input.schema().maybe_index_of_column(column) {
                    Some(index) => match stream.columns[index] {
                        Place::Row(row) => Ok(row),
                        Place::Window(_) => Err(Error::internal("a bound of windows that are assigned already")),
                    },
                    None => Err(Error::internal(format!("no column {column}"))),
                };
                let partition = columns.iter().map(row).collect::<Result<_>>()?;
                Pending::Sessions { gap: *gap, partition: Some(partition) }
            }
        };
        stream.pending = Some(PendingWindows { time, windows });
        if let Some(late) = &assign.late {
            self.branch_off(&mut stream, assign, late)?;
        }
        stream.columns = assign.kept.iter().map(|index| stream.columns[*index]).collect();
        stream.columns.extend(Bound::ALL.map(Place::Window));
        if updating {
            self.closing(&mut stream)?;
        }
        Ok(stream)
    }

    fn aggregate(&mut self, mut stream: Stream, aggregate: &Aggregate, last: bool) -> Result<Stream> {
        let schema = aggregate.input.schema();
        if stream.emit == Emit::Updating {
            return self.updating_aggregate(stream, aggregate);
        }
        let place = |expr: &Logical, stream: &Stream| {
            bare(expr).and_then(|c| schema.maybe_index_of_column(c)).map(|i| stream.columns[i])
        };
        let by_window = aggregate.group_expr.iter().any(|expr| matches!(place(expr, &stream), Some(Place::Window(_))));
        let computes_with_windows = (aggregate.group_expr.iter().filter(|expr| bare(expr).is_none()))
            .chain(&aggregate.aggr_expr)
            .any(|expr| stream.reads_windows(expr, schema));
        if stream.pending.is_some() && (!by_window || computes_with_windows) {
            assign_windows(self, &mut stream)?;
        }
        if let Some(PendingWindows { windows: Pending::Sessions { partition: Some(partition), .. }, .. }) =
            &stream.pending
        {
            let keys = aggregate.group_expr.iter().map(|expr| place(expr, &stream));
            let keys: BTreeSet<Option<usize>> = keys
                .filter_map(|place| match place {
                    Some(Place::Window(_)) => None,
                    Some(Place::Row(row)) => Some(Some(row)),
                    None => Some(None),
                })
                .collect();
            if keys != partition.iter().map(|row| Some(*row)).collect() {
                return Err(Error::invalid("this GROUP BY has other keys than the PARTITION BY of its SESSION")
                    .help("GROUP BY window_start, window_end and the columns of PARTITION BY"));
            }
        }
        let by_windows = by_window
            || aggregate.group_expr.iter().any(|expr| match place(expr, &stream) {
                Some(Place::Row(row)) => matches!(stream.roles[row], Role::Window(..)),
                _ => false,
            });
        if !by_windows
            && !last
            && let Some(split) = self.over_distinct(&mut stream, aggregate)?
        {
            return Ok(split);
        }
        let bound = stream.bind(schema)?;

        let mut keys = Vec::new();
        let mut output = Vec::new();
        let mut attached: Option<usize> = None;
        for (expr, (_, field)) in aggregate.group_expr.iter().zip(aggregate.schema.iter()) {
            let window = match place(expr, &stream) {
                Some(Place::Window(window)) => Some(window),
                Some(Place::Row(row)) => match stream.roles[row] {
                    Role::Window(id, window) if attached.is_none_or(|other| other == id) => {
                        attached = Some(id);
                        Some(window)
                    }
                    _ => None,
                },
                None => None,
            };
            output.push(match window {
                Some(window) => window.output(),
                None => {
                    let value = compile(expr, &bound, &stream.rows)?;
                    let field = called(&value, field);
                    keys.push((value, field));
                    OutputColumn::Key(keys.len() - 1)
                }
            });
        }
        let mut calls = Vec::new();
        for expr in &aggregate.aggr_expr {
            output.push(OutputColumn::Call(calls.len()));
            calls.push(compile_call(&self.ordered(expr, schema)?, &bound)?);
        }
        let grouping = match (stream.pending.take(), attached) {
            (Some(PendingWindows { time, windows: Pending::Fixed(windows) }), _) => {
                Grouping::Windowed { time, windows }
            }
            (Some(PendingWindows { time, windows: Pending::Sessions { gap, .. } }), _) => {
                Grouping::Session { time, gap }
            }
            (None, Some(id)) => match stream.bounds_of(id) {
                [Some(start), Some(end)] => Grouping::Attached { start, end },
                _ => {
                    return Err(Error::invalid(
                        "this GROUP BY goes by one bound of windows whose other bound is not in its input",
                    )
                    .help("GROUP BY window_start, window_end in the inner query and select both"));
                }
            },
            (None, None) if last => Grouping::Final,
            (None, None) => Grouping::Updating,
        };
        let windowed = grouping.windowed();
        // Late rows are counted by what counts rows: if nobody asked for it, there is one that no column shows.
        if windowed && !calls.iter().any(AggregateCall::counts_rows) {
            calls.push(compile_call(&datafusion_functions_aggregate::expr_fn::count(lit(1_i64)), &bound)?);
        }
        self.materialise(&mut stream)?;

        if windowed {
            self.add_branches(std::slice::from_mut(&mut stream));
        }
        let name = aggregate_name(aggregate, &keys, &grouping);
        let aggregation = Arc::new(Aggregation {
            input: Arc::clone(&stream.rows),
            keys,
            calls: calls.into(),
            grouping,
            output: output.clone(),
            present: None,
        });
        let emit = match grouping {
            Grouping::Final => Emit::Final,
            // a key that is there stays there
            Grouping::Updating if aggregation.calls.is_empty() => Emit::Append,
            Grouping::Updating => Emit::Updating,
            Grouping::Windowed { .. } | Grouping::Attached { .. } | Grouping::Session { .. } => Emit::Append,
        };
        let fields = aggregate.schema.fields().iter().zip(&output).map(|(field, column)| match column {
            OutputColumn::Key(key) => Arc::clone(&aggregation.keys[*key].1),
            OutputColumn::Call(call) => {
                Arc::new(field.as_ref().clone().with_name(aggregation.calls[*call].to_string()))
            }
            _ => Arc::clone(field),
        });
        let rows = Arc::new(Schema::new(fields.collect::<Fields>()));
        let base = self.two_halves(&name, &aggregation, stream.base, Arc::clone(&rows), emit)?;
        let mut stream = Stream::of_step(base, rows, emit);
        if windowed {
            self.windows += 1;
            for (role, column) in stream.roles.iter_mut().zip(&output) {
                let bound = Bound::ALL.into_iter().find(|bound| bound.output() == *column);
                *role = bound.map_or(Role::None, |bound| Role::Window(self.windows, bound));
            }
        }
        Ok(stream)
    }

    fn union(&mut self, mut streams: Vec<Stream>, schema: SchemaRef) -> Result<Stream> {
        for stream in &mut streams {
            self.exactly(stream, schema.fields())?;
            self.materialise(stream)?;
        }
        self.keep_beside(&mut streams)?;
        let emit = match streams.iter().any(|stream| stream.emit == Emit::Updating) {
            true => Emit::Updating,
            false if streams.iter().all(|stream| stream.emit == Emit::Final) => Emit::Final,
            false => Emit::Append,
        };
        let inputs = streams.iter().map(|stream| Input { from: stream.base, route: Route::Forward }).collect();
        // Event time stays event time if it is that in every input; so do windows, which then are windows of the union.
        let mut ids: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut roles = Vec::new();
        for column in 0..schema.fields().len() {
            let here: Vec<Role> = streams.iter().map(|stream| stream.roles[column]).collect();
            let same: Option<(Bound, Vec<usize>)> =
                here.iter().try_fold((Bound::Start, Vec::new()), |(first, mut all), role| match role {
                    Role::Window(id, bound) if all.is_empty() || *bound == first => {
                        all.push(*id);
                        Some((*bound, all))
                    }
                    _ => None,
                });
            roles.push(match same {
                _ if here.iter().all(|role| *role == Role::Time) => Role::Time,
                Some((bound, all)) => {
                    let fresh = self.windows + 1;
                    let id = *ids.entry(all).or_insert(fresh);
                    self.windows = self.windows.max(id);
                    Role::Window(id, bound)
                }
                None => Role::None,
            });
        }
        let late = streams.iter_mut().flat_map(|stream| std::mem::take(&mut stream.late)).collect();
        let stay = streams[0].stay.filter(|stay| streams.iter().all(|stream| stream.stay == Some(*stay)));
        let base = self.step("union".into(), Action::Union, inputs, Arc::clone(&schema), emit);
        let mut stream = Stream::of_step(base, schema, emit);
        stream.roles = roles;
        stream.late = late;
        stream.stay = stay;
        Ok(stream)
    }

    /// Makes the rows' columns those of the query, in order and by name.
    pub(super) fn exactly(&mut self, stream: &mut Stream, fields: &Fields) -> Result<()> {
        assign_windows(self, stream)?;
        let rows: Vec<usize> = stream.row_places();
        let named = |(row, field): (&usize, &FieldRef)| stream.rows.field(*row).name() == field.name();
        if rows.iter().copied().eq(0..stream.rows.fields().len()) && rows.iter().zip(fields).all(named) {
            return Ok(());
        }
        if self.fold(stream, &rows, fields) {
            return Ok(());
        }
        let mut builder = ProjectBuilder::default();
        for (row, field) in rows.iter().zip(fields) {
            builder.add(
                Expr::column(stream.rows.field(*row).name(), *row),
                Arc::new(stream.rows.field(*row).clone().with_name(field.name())),
                stream.roles[*row],
            );
        }
        builder.apply(stream);
        stream.columns = (0..fields.len()).map(Place::Row).collect();
        Ok(())
    }

    /// An aggregate that only `stages` read gives what they read and nothing else, in the order in which they do.
    fn narrow(&mut self, base: StepId, stages: &mut [Stage]) -> Result<()> {
        let project = stages.iter().position(|stage| !matches!(stage.transform, Transform::Filter(_)));
        let (Some(project), Action::Aggregate(aggregation)) = (project, &self.steps[base].action) else {
            return Ok(());
        };
        let mut used = Vec::new();
        for stage in &stages[..=project] {
            match &stage.transform {
                Transform::Filter(keep) => keep.note_columns(&mut used),
                Transform::Project(columns) => columns.iter().for_each(|column| column.note_columns(&mut used)),
                _ => return Ok(()),
            }
        }
        let mut seen = BTreeSet::new();
        used.retain(|column| seen.insert(*column));
        if used.is_empty() || used.iter().copied().eq(0..aggregation.output.len()) {
            return Ok(());
        }
        let schema = Arc::new(self.steps[base].schema.project(&used).map_err(|e| Error::internal(e.to_string()))?);
        let place = |column: usize, name: &str| {
            Expr::column(name, used.iter().position(|other| *other == column).expect("every column was noted"))
        };
        for stage in &mut stages[..=project] {
            match &mut stage.transform {
                Transform::Filter(keep) => (*keep, stage.schema) = (keep.over(place)?, Arc::clone(&schema)),
                Transform::Project(columns) => {
                    *columns = columns.iter().map(|column| column.over(place)).collect::<Result<_>>()?;
                }
                _ => {}
            }
        }
        let output = used.iter().map(|column| aggregation.output[*column]).collect();
        let aggregation = Arc::new(Aggregation { output, ..aggregation.as_ref().clone() });
        self.steps[base].schema = schema;
        // The partial half is the step before it, and both hold the same definition.
        self.steps[base - 1].action = Action::PreAggregate(Arc::clone(&aggregation));
        self.steps[base].action = Action::Aggregate(aggregation);
        Ok(())
    }

    /// Where the rows come straight from an aggregate, its results can be put in order and named there.
    fn fold(&mut self, stream: &mut Stream, rows: &[usize], fields: &Fields) -> bool {
        let last = self.steps.len() - 1;
        if !stream.own || !stream.stages.is_empty() || stream.base != last {
            return false;
        }
        let Action::Aggregate(aggregation) = &self.steps[last].action else { return false };
        let output = rows.iter().map(|row| aggregation.output[*row]).collect();
        let aggregation = Arc::new(Aggregation { output, ..aggregation.as_ref().clone() });
        let named = rows.iter().zip(fields).map(|(row, field)| stream.rows.field(*row).clone().with_name(field.name()));
        stream.rows = Arc::new(Schema::new(named.collect::<Vec<_>>()));
        stream.roles = rows.iter().map(|row| stream.roles[*row]).collect();
        stream.columns = (0..rows.len()).map(Place::Row).collect();
        self.steps[last].schema = Arc::clone(&stream.rows);
        // The partial half is the step before it, and both hold the same definition.
        self.steps[last - 1].action = Action::PreAggregate(Arc::clone(&aggregation));
        self.steps[last].action = Action::Aggregate(aggregation);
        true
    }

    /// Makes rows that may be taken back those that are there when the input has ended.
    fn standing(&mut self, stream: &mut Stream) -> Result<()> {
        if stream.emit != Emit::Updating {
            return Ok(());
        }
        self.materialise(stream)?;
        let all: Vec<usize> = (0..stream.rows.fields().len()).collect();
        let input = Input { from: stream.base, route: Route::Key(all) };
        let columns = std::mem::take(&mut stream.columns);
        let base = self.step(
            "what stands at the end".into(),
            Action::Standing,
            vec![input],
            Arc::clone(&stream.rows),
            Emit::Final,
        );
        *stream = Stream::of_step(base, Arc::clone(&stream.rows), Emit::Final);
        stream.columns = columns;
        Ok(())
    }

    /// `EMIT FINAL` waits for the end of the input, so there must be one.
    fn check_bounded(&self, stream: &Stream) -> Result<()> {
        let mut open = vec![stream.base];
        while let Some(id) = open.pop() {
            match &self.steps[id].action {
                Action::Source(source) if !source.source.bounded() => {
                    return Err(Error::invalid(format!("EMIT FINAL waits for the end of the input, but table '{}' does not end", source.table))
                        .help("give the table a bounded end, count in windows, or leave EMIT FINAL out and write to a table with a PRIMARY KEY"));
                }
                _ => open.extend(self.steps[id].inputs.iter().map(|input| input.from)),
            }
        }
        Ok(())
    }
}

impl Stream {
    /// All columns of a step.
    pub fn of_step(base: StepId, rows: SchemaRef, emit: Emit) -> Self {
        let width = rows.fields().len();
        let columns = (0..width).map(Place::Row).collect();
        Stream {
            base,
            stages: Vec::new(),
            rows,
            roles: vec![Role::None; width],
            columns,
            pending: None,
            place: None,
            late: Vec::new(),
            emit,
            stay: None,
            own: true,
        }
    }

    /// The event-time column, if rows stay in collections for a while only.
    fn mortal(&self) -> Option<usize> {
        match self.stay {
            Some(Stay::For(_)) => self.roles.iter().position(|role| *role == Role::Time),
            _ => None,
        }
    }

    /// Takes the event time of `before`, whose columns come first among its own: each of its rows was one of those.
    fn keep_time(&mut self, before: &Stream) {
        for (role, of_before) in self.roles.iter_mut().zip(&before.roles) {
            if *of_before == Role::Time {
                *role = Role::Time;
            }
        }
    }

    /// True if `expr` reads a bound of windows that are not assigned yet.
    fn reads_windows(&self, expr: &Logical, schema: &DFSchema) -> bool {
        let places = expr.column_refs().into_iter().filter_map(|column| schema.maybe_index_of_column(column));
        self.pending.is_some() && places.into_iter().any(|index| matches!(self.columns[index], Place::Window(_)))
    }

    /// The windows of which column `row` is the start or the end.
    fn window_of(&self, row: usize) -> Option<usize> {
        match self.roles[row] {
            Role::Window(id, Bound::Start | Bound::End) => Some(id),
            _ => None,
        }
    }

    /// Where the start and the end of windows `id` are.
    fn bounds_of(&self, id: usize) -> [Option<usize>; 2] {
        [Bound::Start, Bound::End].map(|bound| self.roles.iter().position(|role| *role == Role::Window(id, bound)))
    }

    /// The places of the query's columns in the rows, for columns that are there.
    fn row_places(&self) -> Vec<usize> {
        let row = |place: &Place| match place {
            Place::Row(row) => Some(*row),
            Place::Window(_) => None,
        };
        self.columns.iter().filter_map(row).collect()
    }

    /// Calls the rows' columns what the query calls them, if the last stage is still open.
    fn rename(&mut self, names: &Fields) {
        let Some(stage) = self.stages.last_mut() else { return };
        let mut fields: Vec<FieldRef> = self.rows.fields().to_vec();
        for (place, name) in self.columns.iter().zip(names) {
            if let Place::Row(row) = *place {
                fields[row] = Arc::new(fields[row].as_ref().clone().with_name(name.name()));
            }
        }
        // A filter and an assignment of windows pass columns on: renaming them there would be a lie about what they read.
        if matches!(stage.transform, Transform::Project(_) | Transform::Unnest { .. }) {
            self.rows = Arc::new(Schema::new(fields));
            stage.schema = Arc::clone(&self.rows);
        }
    }

    /// Drops columns of the rows that nobody reads, where the rows are about to be copied.
    fn compact(&mut self) {
        self.compact_but(&BTreeSet::new());
    }

    /// The same, but the `others` stay, too.
    fn compact_but(&mut self, others: &BTreeSet<usize>) {
        let mut builder = ProjectBuilder::default();
        let pending = self.pending.iter().flat_map(PendingWindows::rows);
        let needed: BTreeSet<usize> = self
            .row_places()
            .into_iter()
            .chain(pending)
            .chain(self.place)
            .chain(self.mortal())
            .chain(others.iter().copied())
            .collect();
        if needed.len() == self.rows.fields().len() {
            return;
        }
        for row in &needed {
            builder.copy(self, *row, self.rows.field(*row).name());
        }
        let moved = |row: usize| needed.iter().position(|other| *other == row).expect("every place is needed");
        let columns = self.columns.iter().map(|place| match place {
            Place::Row(row) => Place::Row(moved(*row)),
            window => *window,
        });
        self.columns = columns.collect();
        self.pending = self.pending.as_ref().map(|pending| pending.moved(moved));
        self.place = self.place.map(moved);
        builder.apply(self);
    }

    /// Adds columns for those of `values` that are no columns yet, and gives the place of each in the rows. No windows may be pending.
    fn with_values(&mut self, values: &[&Logical], schema: &DFSchema) -> Result<Vec<usize>> {
        let bound = self.bind(schema)?;
        let mut builder = ProjectBuilder::default();
        for (row, field) in self.rows.fields().iter().enumerate() {
            builder.add(Expr::column(field.name(), row), Arc::clone(field), self.roles[row]);
        }
        let place = |value: &Logical| match self.columns[bare(value).and_then(|c| schema.maybe_index_of_column(c))?] {
            Place::Row(row) => Some(row),
            Place::Window(_) => None,
        };
        let mut places = Vec::with_capacity(values.len());
        for value in values {
            places.push(match place(value) {
                Some(row) => row,
                None => {
                    let (_, field) = value.to_field(schema).map_err(from_datafusion)?;
                    let value = compile(value, &bound, &self.rows)?;
                    let field = called(&value, &field);
                    builder.add(value, field, Role::None)
                }
            });
        }
        if builder.fields.len() > self.rows.fields().len() {
            builder.apply(self);
        }
        Ok(places)
    }

    /// The rows' columns under the names that the query's expressions use.
    fn bind(&mut self, schema: &DFSchema) -> Result<DFSchema> {
        let unread =
            |row: usize| (None, Arc::new(self.rows.field(row).clone().with_name(format!("unread column {row}"))));
        let mut fields: Vec<(Option<TableReference>, FieldRef)> = (0..self.rows.fields().len()).map(unread).collect();
        let mut named = vec![false; fields.len()];
        for (place, (qualifier, field)) in self.columns.iter().zip(schema.iter()) {
            let Place::Row(row) = *place else { continue };
            if std::mem::replace(&mut named[row], true) {
                // Two columns of the query are one of the rows: it gets a copy for each.
                self.widen(schema);
                return self.bind(schema);
            }
            fields[row] = (qualifier.cloned(), Arc::clone(field));
        }
        DFSchema::new_with_metadata(fields, schema.metadata().clone()).map_err(from_datafusion)
    }

    /// Gives every column of the query a column of the rows of its own. Bounds of windows stay, whoever reads them.
    fn widen(&mut self, schema: &DFSchema) {
        let mut builder = ProjectBuilder::default();
        let mut columns = Vec::with_capacity(self.columns.len());
        for (place, field) in self.columns.iter().zip(schema.fields()) {
            columns.push(match *place {
                Place::Row(row) => {
                    let copy = Arc::new(self.rows.field(row).clone().with_name(field.name()));
                    Place::Row(builder.add(Expr::column(self.rows.field(row).name(), row), copy, self.roles[row]))
                }
                window => window,
            });
        }
        if let Some(pending) = &self.pending {
            self.pending = Some(pending.moved(|row| builder.copy(self, row, self.rows.field(row).name())));
        }
        self.place = self.place.map(|row| builder.copy(self, row, late::PLACE_COLUMN));
        if let Some(time) = self.mortal() {
            builder.copy(self, time, self.rows.field(time).name());
        }
        for row in (0..self.roles.len()).filter(|row| self.window_of(*row).is_some()) {
            builder.copy(self, row, self.rows.field(row).name());
        }
        builder.apply(self);
        self.columns = columns;
    }
}

/// A Project stage in the making.
#[derive(Default)]
struct ProjectBuilder {
    exprs: Vec<Expr>,
    fields: Vec<FieldRef>,
    roles: Vec<Role>,
}

impl ProjectBuilder {
    fn add(&mut self, expr: Expr, field: FieldRef, role: Role) -> usize {
        self.exprs.push(expr);
        self.fields.push(field);
        self.roles.push(role);
        self.exprs.len() - 1
    }

    /// Copies a column of the rows, once.
    fn copy(&mut self, stream: &Stream, row: usize, name: &str) -> usize {
        if let Some(there) = self.exprs.iter().position(|expr| expr.as_column() == Some(row)) {
            return there;
        }
        let field = Arc::new(stream.rows.field(row).clone().with_name(name));
        self.add(Expr::column(stream.rows.field(row).name(), row), field, stream.roles[row])
    }

    fn apply(self, stream: &mut Stream) {
        let schema = Arc::new(Schema::new(self.fields));
        stream.stages.push(Stage { transform: Transform::Project(self.exprs), schema: Arc::clone(&schema) });
        stream.rows = schema;
        stream.roles = self.roles;
    }
}

/// Assigns pending windows to the rows, because something reads their bounds.
fn assign_windows(planner: &mut Planner, stream: &mut Stream) -> Result<()> {
    if stream.pending.is_some() {
        stream.compact();
    }
    let (time, windows) = match stream.pending.take() {
        None => return Ok(()),
        Some(PendingWindows { time, windows: Pending::Fixed(windows) }) => (time, windows),
        Some(PendingWindows { windows: Pending::Sessions { .. }, .. }) => {
            return Err(Error::invalid("a session's bounds are known only when it has closed, so its rows cannot be read one by one")
                .help("GROUP BY window_start, window_end and the columns of PARTITION BY; compute with the bounds around that"));
        }
    };
    let width = stream.rows.fields().len();
    let bound = |name: &str| Arc::new(Field::new(name, event_time_type(), false));
    let fields: Vec<FieldRef> =
        stream.rows.fields().iter().cloned().chain(super::windows::WINDOW_COLUMNS.map(bound)).collect();
    stream.rows = Arc::new(Schema::new(fields));
    let schema = Arc::clone(&stream.rows);
    stream.stages.push(Stage { transform: Transform::AssignWindows { time, windows }, schema });
    planner.windows += 1;
    stream.roles.extend(Bound::ALL.map(|bound| Role::Window(planner.windows, bound)));
    for place in &mut stream.columns {
        if let Place::Window(bound) = *place {
            let offset = Bound::ALL.iter().position(|other| *other == bound).expect("all bounds are there");
            *place = Place::Row(width + offset);
        }
    }
    Ok(())
}

/// Makes one stage of two that follow each other and compute columns, where nothing is computed twice by that.
fn merge_projects(stages: &mut Vec<Stage>) -> Result<()> {
    let mut at = 1;
    while at < stages.len() {
        let (Transform::Project(first), Transform::Project(second)) =
            (&stages[at - 1].transform, &stages[at].transform)
        else {
            at += 1;
            continue;
        };
        let mut reads = Vec::new();
        second.iter().for_each(|column| column.note_columns(&mut reads));
        let once = |(place, value): (usize, &Expr)| {
            value.as_column().is_some() || reads.iter().filter(|read| **read == place).count() <= 1
        };
        if !first.iter().enumerate().all(once) {
            at += 1;
            continue;
        }
        let merged = second.iter().map(|column| column.over(|place, _| first[place].clone())).collect::<Result<_>>()?;
        stages[at].transform = Transform::Project(merged);
        stages.remove(at - 1);
    }
    Ok(())
}

/// The column of `value` under a name that does not depend on what the tables and views of the query are called.
fn called(value: &Expr, field: &FieldRef) -> FieldRef {
    match value.as_column() {
        Some(_) => Arc::clone(field),
        None => Arc::new(field.as_ref().clone().with_name(value.to_string())),
    }
}

/// The column that `expr` merely names.
fn bare(expr: &Logical) -> Option<&Column> {
    match expr {
        Logical::Column(column) => Some(column),
        Logical::Alias(alias) => bare(&alias.expr),
        _ => None,
    }
}

/// Compiles `expr` over rows that `schema` describes by the query's names and `rows` by their own, which is what the result calls them.
pub(super) fn compile(expr: &Logical, schema: &DFSchema, rows: &Schema) -> Result<Expr> {
    let compiled = create_physical_expr(expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default());
    let renamed = compiled.and_then(|compiled| {
        compiled.transform_up(|part| match part.downcast_ref::<physical::Column>().map(physical::Column::index) {
            Some(index) => Ok(Transformed::yes(Arc::new(physical::Column::new(rows.field(index).name(), index)))),
            None => Ok(Transformed::no(part)),
        })
    });
    renamed.map(|renamed| Expr::new(renamed.data)).map_err(from_datafusion)
}

fn compile_call(expr: &Logical, schema: &DFSchema) -> Result<AggregateCall> {
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let lowered = LoweredAggregateBuilder::new(expr, schema, schema.as_arrow(), &props, &context)
        .build()
        .map_err(from_datafusion)?;
    Ok(AggregateCall::new(lowered.aggregate, lowered.filter.map(Expr::new)))
}

fn connector_name(table: &connector::Table) -> &str {
    table.options.text(&CONNECTOR).unwrap_or_default()
}

fn stage_word(stage: &Stage) -> &'static str {
    match stage.transform {
        Transform::Filter(_) => "filter",
        Transform::Project(_) => "project",
        Transform::Unnest { .. } => "unnest",
        Transform::AssignWindows { .. } => "assign windows",
    }
}

/// What a person calls the aggregate: `count, sum by word in windows of 1m`.
fn aggregate_name(aggregate: &Aggregate, keys: &[(Expr, FieldRef)], grouping: &Grouping) -> String {
    let mut functions: Vec<String> = Vec::new();
    for expr in &aggregate.aggr_expr {
        let mut expr = expr;
        while let Logical::Alias(alias) = expr {
            expr = &alias.expr;
        }
        if let Logical::AggregateFunction(call) = expr
            && !functions.iter().any(|name| name == call.func.name())
        {
            functions.push(call.func.name().to_owned());
        }
    }
    let mut name = match functions.is_empty() {
        true => "distinct".to_owned(),
        false => functions.join(", "),
    };
    if !keys.is_empty() {
        let keys: Vec<&str> = keys.iter().map(|(_, field)| field.name().as_str()).collect();
        name.push_str(&format!(" by {}", keys.join(", ")));
    }
    match grouping {
        Grouping::Windowed { windows, .. } => name.push_str(&format!(" {}", crate::plan::describe_windows(windows))),
        Grouping::Session { gap, .. } => name.push_str(&format!(" {}", crate::plan::describe_sessions(*gap))),
        Grouping::Attached { .. } => name.push_str(" in windows of its input"),
        Grouping::Final | Grouping::Updating => {}
    }
    name
}

/// NULL, for a column that an INSERT leaves out.
pub(super) fn null_of(data_type: &DataType) -> Result<Logical> {
    ScalarValue::try_from(data_type).map(|null| Logical::Literal(null, None)).map_err(from_datafusion)
}
