//! What every front end makes and every worker builds: operators, typed edges, schemas, a fingerprint.
//!
//! A plan is a list of steps in an order in which each step's inputs come before it. It holds no closure over machine
//! state and no secret: every process makes it from the same text, and they compare [`Plan::fingerprint`] before a row moves.

mod collecting;
mod explain;
mod fingerprint;
mod joining;
mod keys;
mod ranking;

pub use collecting::{Keeping, Reducing, Reduction, There, Ttl, collected, inside, made_whole};
pub use explain::type_name;
pub use joining::{AsOf, JoinCondition, JoinKind, JoinSide, Joining, LookupStep, Meeting, WindowBounds};
pub use keys::{keeps_keys, settling, updates};
pub use ranking::{Ranking, SortColumn, Topping, compared};

use crate::connector::{Changes, Delivery, Sink, Source};
use crate::error::{Error, Result};
use crate::expr::{AggregateCall, Expr};
use crate::format::sift::OnBad;
use crate::operator::CustomOperator;
use crate::time::Micros;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;
use std::time::Duration;

/// A step's place in [`Plan::steps`].
pub type StepId = usize;

/// The column that says of a row of an updating stream whether it is added (+1) or taken back (-1). Always the last.
pub const WEIGHT: &str = "__weight";

/// The type of event-time columns and window bounds.
pub fn event_time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// A pipeline, ready to be built by every worker.
#[derive(Clone)]
pub struct Plan {
    /// How it runs.
    pub settings: Settings,
    /// The steps; inputs come before what reads them.
    pub steps: Vec<Step>,
}

/// How a pipeline runs: what `SET` and `--set` can change.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The pipeline's name, in messages and ids: `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// When an epoch ends.
    pub tick: Tick,
    /// Bytes that one worker's sources may have emitted in epochs that the sinks have not finished.
    pub inflight_bytes: usize,
    /// Ticks that may be open at once: the next one waits until the sinks have finished the oldest.
    pub inflight_epochs: usize,
    /// Without data for this long a split is left out of its source's watermark. None: never.
    pub idle_timeout: Option<Duration>,
    /// What the watermark does when every split of a source is idle.
    pub when_all_idle: WhenAllIdle,
    /// A timestamp further ahead of the wall clock than this is a bad record.
    pub max_future: Duration,
    /// Where checkpoints are kept: a directory or a URL. None: there are none.
    pub checkpoint_store: Option<String>,
    /// How far apart they are. None: as suits the store.
    pub checkpoint_interval: Option<Interval>,
    /// How many are kept, besides savepoints.
    pub checkpoint_retain: usize,
    /// How long rows stay in collections, by event time. None: for ever.
    pub state_ttl: Option<Duration>,
    /// True if collections may keep all rows of a table that does not end.
    pub unbounded_state: bool,
}

/// How far apart checkpoints are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// This much time, kept by worker 0.
    Every(Duration),
    /// This many epochs.
    Epochs(u64),
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name: "pipeline".into(),
            tick: Tick::Every(Duration::from_millis(100)),
            inflight_bytes: 64 << 20,
            inflight_epochs: 4,
            idle_timeout: Some(Duration::from_secs(60)),
            when_all_idle: WhenAllIdle::Hold,
            max_future: Duration::from_secs(24 * 60 * 60),
            checkpoint_store: None,
            checkpoint_interval: None,
            checkpoint_retain: 3,
            state_ttl: None,
            unbounded_state: false,
        }
    }
}

/// What ends an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// This much time, kept by worker 0.
    Every(Duration),
    /// This many rows of each split, so that a bounded run binds the same way every time.
    Rows(u64),
}

/// What a source's watermark does when every split is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAllIdle {
    /// Stays where it is.
    Hold,
    /// Follows the wall clock, the idle timeout behind.
    FollowWallClock,
}

/// One step: a node of the operator graph.
#[derive(Clone)]
pub struct Step {
    /// What a person calls it: `source lines`, `count by word`. Unique in the plan.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// The columns of its rows, without [`WEIGHT`].
    pub schema: SchemaRef,
    /// Whether what it says stands.
    pub emit: Emit,
    /// How long windows stay open after the watermark has reached their end, in microseconds: by so much the step's event time is
    /// behind its sources'.
    pub lateness: Micros,
}

/// Whether a step takes back what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// Rows are never taken back.
    Append,
    /// Rows come once, at the end of the input.
    Final,
    /// Rows carry [`WEIGHT`] and later ones may take earlier ones back.
    Updating,
}

/// An edge into a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The step that is read.
    pub from: StepId,
    /// How its rows reach a worker.
    pub route: Route,
}

/// How rows travel along an edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    /// They stay on their worker.
    Forward,
    /// To the worker that owns the key group of these columns.
    Key(Vec<usize>),
    /// All to worker 0.
    Single,
}

/// What a step does.
#[derive(Clone)]
pub enum Action {
    /// Reads a table.
    Source(SourceStep),
    /// Stateless stages, fused.
    Transform(Vec<Stage>),
    /// Partial results of an aggregate, made before the exchange; flushed at the end of each epoch.
    PreAggregate(Arc<Aggregation>),
    /// An aggregate over partial results, which come by key.
    Aggregate(Arc<Aggregation>),
    /// The first rows of each key in each window, which come by key.
    Rank(Arc<Ranking>),
    /// The first rows of each key among all that have come, which come by key and are not taken back.
    Top(Arc<Topping>),
    /// The rows of two inputs, which come by key.
    Join(Arc<Joining>),
    /// The rows of its input, each beside what a table outside answers for its key.
    Lookup(LookupStep),
    /// Rows that enter collections.
    Keep(Keeping),
    /// What is made of all rows of each key, which come by key.
    Reduce(Arc<Reducing>),
    /// Inside a recursion: the rows of the round before. It reads the step that the recursion begins with.
    Round,
    /// All that a recursion comes to: the rows of its first input, and what its second one makes of them round by round.
    Recurse {
        /// The step inside that gives the rows of the round before.
        round: StepId,
        /// True if a row counts once, however often it is found.
        distinct: bool,
    },
    /// What the changes of each epoch come to.
    Consolidate,
    /// The rows of an updating stream that are there when the input has ended.
    Standing,
    /// The rows of an updating stream that are there when their window closes.
    Closing(WindowBounds),
    /// The rows that come too late for their windows, with three more columns: `window_start` and `window_end` of the last window
    /// that a row lies in, and the `watermark` that it met.
    LateRows {
        /// What makes them late.
        lateness: Arc<Lateness>,
        /// The sources of the step that waits for the windows: its watermark counts.
        sources: Vec<StepId>,
    },
    /// An operator that the program brings along.
    Custom(Arc<dyn CustomOperator>),
    /// The changes that the newest rows of each key make: its input, a source, [`Gives::Upserts`](crate::connector::Gives::Upserts), which
    /// come by key.
    Upsert {
        /// The columns of the key.
        key: Vec<usize>,
        /// True if every row of a key in an epoch makes a change, not only the last.
        every: bool,
    },
    /// The changes of each epoch, as far as they do not cancel out each other, which come by key.
    Settle(Settling),
    /// The rows of all inputs.
    Union,
    /// The records that its input, a source, leaves out: rows of [`DEAD_LETTER`](crate::connector::bad::DEAD_LETTER).
    DeadLetters,
    /// Writes a table.
    Sink(SinkStep),
    /// Holds the rows of a view in memory, for whoever asks while the pipeline runs. The name of the view.
    View(String),
}

impl Action {
    /// True for what a collection makes of collections.
    pub fn over_collections(&self) -> bool {
        match self {
            Action::Join(join) => join.meeting == Meeting::Always,
            Action::Reduce(_) | Action::Recurse { .. } => true,
            _ => false,
        }
    }
}

/// A table that is read.
#[derive(Clone)]
pub struct SourceStep {
    /// The table's name.
    pub table: String,
    /// What kind of connector it is, for people.
    pub connector: String,
    /// The checked definition.
    pub source: Arc<dyn Source>,
    /// The step's columns from the source's: copied and computed ones.
    pub columns: Vec<Expr>,
    /// True if the last of the step's columns is the place that each row comes from, as a text.
    pub place: bool,
    /// The step's columns of the PRIMARY KEY, where no two rows have the same at any time; empty if that is not known.
    pub key: Vec<usize>,
    /// The event-time column and the promise about it. None: rows without event time, whose watermark is none until they end.
    pub time: Option<TimeAttribute>,
    /// This table's own choices, else the settings'.
    pub idle_timeout: Option<Duration>,
    /// See [`Settings::when_all_idle`].
    pub when_all_idle: WhenAllIdle,
    /// See [`Settings::max_future`].
    pub max_future: Duration,
    /// What it does with records that give no row.
    pub bad: BadRecords,
}

/// What a source does with bad records.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BadRecords {
    /// With each one.
    pub on_bad: OnBad,
    /// True if an [`Action::DeadLetters`] reads what is left out.
    pub letters: bool,
    /// The share of bad records above which the pipeline fails. None: any share is borne.
    pub share_max: Option<f64>,
}

/// `WATERMARK FOR column AS expression`.
#[derive(Debug, Clone)]
pub struct TimeAttribute {
    /// The column, by index into the step's schema; of [`event_time_type`] (a time zone may be attached).
    pub column: usize,
    /// The watermark that a row stands for, over the step's schema.
    pub watermark: Expr,
}

/// One stateless stage and the columns of what it gives.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What it does with a batch.
    pub transform: Transform,
    /// The columns of its rows.
    pub schema: SchemaRef,
}

/// A batch in, a batch out, no memory.
#[derive(Debug, Clone)]
pub enum Transform {
    /// Keeps the rows for which the expression is true.
    Filter(Expr),
    /// New columns from the old ones.
    Project(Vec<Expr>),
    /// One row for each element of the list in column `column`, which becomes the element; rows with an empty or no list vanish.
    Unnest {
        /// The list's column.
        column: usize,
    },
    /// Adds `window_start`, `window_end` and `window_time` (the last microsecond in it); a row that lies in several windows is repeated.
    AssignWindows {
        /// The event-time column.
        time: usize,
        /// Which windows.
        windows: Windows,
    },
}

/// Windows whose bounds do not depend on the rows. Aligned to 1970-01-01 and `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Windows {
    /// How they follow each other.
    pub shape: WindowShape,
    /// How long the longest window is, in microseconds; above 0.
    pub size: Micros,
    /// How far apart windows start, or end if they cumulate, in microseconds; above 0 and at most `size`.
    pub slide: Micros,
    /// How far they are moved on, in microseconds; not below 0, and less than that after which they repeat themselves.
    pub offset: Micros,
}

/// What makes a row late: all its windows have closed in an earlier epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lateness {
    /// For windows with bounds of their own.
    Windows {
        /// The event-time column.
        time: usize,
        /// Which windows.
        windows: Windows,
    },
    /// For sessions; the rows come by key.
    Sessions {
        /// The event-time column.
        time: usize,
        /// As in [`Grouping::Session`].
        gap: Micros,
        /// The columns whose sessions they are.
        keys: Vec<usize>,
    },
}

/// How windows follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowShape {
    /// All of one size, one starts every `slide`: tumbling ones when that is the size.
    Hop,
    /// One starts every `size`, and others with it that end each `slide` later than the one before. The size is a multiple of the slide.
    Cumulate,
}

impl Windows {
    /// Windows that start every `slide`.
    pub fn hop(slide: Micros, size: Micros, offset: Micros) -> Self {
        Windows { shape: WindowShape::Hop, size, slide, offset: offset.rem_euclid(slide) }
    }

    /// Windows that grow by `step` up to `size`, a multiple of it.
    pub fn cumulate(step: Micros, size: Micros, offset: Micros) -> Self {
        Windows { shape: WindowShape::Cumulate, size, slide: step, offset: offset.rem_euclid(size) }
    }

    /// True if a row may lie in several of them.
    pub fn overlap(&self) -> bool {
        self.size != self.slide
    }
}

/// A GROUP BY, in two halves: partial results before the exchange, results after it.
#[derive(Debug, Clone)]
pub struct Aggregation {
    /// The columns of the rows that come in, before the partial half.
    pub input: SchemaRef,
    /// The keys without window columns, over the input, and what they are called.
    pub keys: Vec<(Expr, Arc<Field>)>,
    /// The aggregates, over the input.
    pub calls: Arc<[AggregateCall]>,
    /// When results leave.
    pub grouping: Grouping,
    /// The columns of the result, in order.
    pub output: Vec<OutputColumn>,
    /// The call that counts the rows of a key that are there, where rows may be taken back: a key without any has no result. None: a key
    /// that has come has one.
    pub present: Option<usize>,
}

/// When the results of a GROUP BY leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// By windows of the event-time column `time`, each when the watermark reaches its end.
    Windowed {
        /// The event-time column of the input.
        time: usize,
        /// Which windows.
        windows: Windows,
    },
    /// By windows that the rows already carry, each when the watermark reaches its end.
    Attached {
        /// The column with the start.
        start: usize,
        /// The column with the end.
        end: usize,
    },
    /// By sessions of the keys, each when the watermark reaches its end: from a row to `gap` after the last row that came less than
    /// `gap` after the one before it.
    Session {
        /// The event-time column of the input.
        time: usize,
        /// For how long nothing comes, in microseconds; above 0.
        gap: Micros,
    },
    /// Once, when the input has ended.
    Final,
    /// The changed keys, at the end of each epoch.
    Updating,
}

impl Grouping {
    /// True if results belong to windows.
    pub fn windowed(&self) -> bool {
        match self {
            Grouping::Windowed { .. } | Grouping::Attached { .. } | Grouping::Session { .. } => true,
            Grouping::Final | Grouping::Updating => false,
        }
    }
}

/// A column of a GROUP BY's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputColumn {
    /// The n-th key.
    Key(usize),
    /// The n-th aggregate.
    Call(usize),
    /// The window's start.
    WindowStart,
    /// The window's end.
    WindowEnd,
    /// The window's last microsecond: the event time of its result.
    WindowTime,
}

/// What is left of an epoch's changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settling {
    /// The columns of the key.
    pub key: Vec<usize>,
    /// What leaves of each key.
    pub says: Says,
}

/// What leaves of the changes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// All that is left: what is taken back, and directly behind it what replaces it.
    Changes,
    /// One of them: the row that is added, or if none is the row that is taken back.
    Newest,
}

/// A table that is written.
#[derive(Clone)]
pub struct SinkStep {
    /// The table's name.
    pub table: String,
    /// What kind of connector it is, for people.
    pub connector: String,
    /// The checked definition.
    pub sink: Arc<dyn Sink>,
    /// See [`Table::key_trusted`](crate::connector::Table::key_trusted).
    pub key_trusted: bool,
    /// What it promises.
    pub delivery: Delivery,
}

impl Aggregation {
    /// True if results belong to windows.
    pub fn windowed(&self) -> bool {
        self.grouping.windowed()
    }

    /// The columns of a key.
    pub fn key_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.keys.iter().map(|(_, field)| Arc::clone(field)).collect::<Fields>()))
    }

    /// The columns of partial results: the window's or pane's start and end if there are windows, the keys, the states.
    pub fn partial_schema(&self) -> Result<SchemaRef> {
        let bound = |name| Arc::new(Field::new(name, event_time_type(), false));
        let mut fields = match self.windowed() {
            true => vec![bound("window_start"), bound("window_end")],
            false => Vec::new(),
        };
        fields.extend(self.keys.iter().map(|(_, field)| Arc::clone(field)));
        for call in self.calls.iter() {
            fields.extend(call.state_fields()?);
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Where the keys are in a partial result: what the exchange goes by.
    pub fn partial_keys(&self) -> Vec<usize> {
        let first = if self.windowed() { 2 } else { 0 };
        (first..first + self.keys.len()).collect()
    }
}

impl Plan {
    /// The steps that write.
    pub fn sinks(&self) -> impl Iterator<Item = (StepId, &SinkStep)> {
        self.steps.iter().enumerate().filter_map(|(id, step)| match &step.action {
            Action::Sink(sink) => Some((id, sink)),
            _ => None,
        })
    }

    /// The views that are served, by their steps.
    pub fn views(&self) -> impl Iterator<Item = (StepId, &str)> {
        self.steps.iter().enumerate().filter_map(|(id, step)| match &step.action {
            Action::View(name) => Some((id, name.as_str())),
            _ => None,
        })
    }

    /// The steps that read from outside.
    pub fn sources(&self) -> impl Iterator<Item = (StepId, &SourceStep)> {
        self.steps.iter().enumerate().filter_map(|(id, step)| match &step.action {
            Action::Source(source) => Some((id, source)),
            _ => None,
        })
    }

    /// True if some table lives on the broker called `embedded`.
    pub fn needs_embedded_broker(&self) -> bool {
        self.sources().any(|(_, source)| source.source.embedded()) || self.sinks().any(|(_, sink)| sink.sink.embedded())
    }

    /// See [`collected`].
    pub fn collected(&self, id: StepId) -> bool {
        collected(&self.steps, id)
    }

    /// True if step `id` is told again, after a restart, what collections say of the time before: it goes on from that and from nothing
    /// else. What keeps rows has its own.
    pub fn hears_again(&self, id: StepId) -> bool {
        match self.steps[id].action {
            Action::View(_) => true,
            Action::Keep(_) => false,
            _ => self.collected(id),
        }
    }

    /// See [`inside`].
    pub fn inside(&self, id: StepId) -> bool {
        inside(&self.steps, id)
    }

    /// The steps outside that the recursion `id` reads, whether it begins with them or reads them in each round.
    pub fn read_inside(&self, id: StepId) -> Vec<StepId> {
        let mut outside = Vec::new();
        let mut open: Vec<StepId> = self.steps[id].inputs.iter().map(|input| input.from).collect();
        while let Some(from) = open.pop() {
            match self.inside(from) {
                true if matches!(self.steps[from].action, Action::Round) => {}
                true => open.extend(self.steps[from].inputs.iter().map(|input| input.from)),
                false => outside.push(from),
            }
        }
        outside.sort_unstable();
        outside.dedup();
        outside
    }

    /// The sources that step `id` depends on: its watermark is the least of theirs.
    pub fn sources_of(&self, id: StepId) -> Vec<StepId> {
        let mut found: Vec<StepId> = match self.steps[id].action {
            Action::Source(_) => vec![id],
            Action::LateRows { ref sources, .. } => sources.clone(),
            _ => self.steps[id].inputs.iter().flat_map(|input| self.sources_of(input.from)).collect(),
        };
        if let Action::Keep(keeping) = &self.steps[id].action {
            found.extend(&keeping.beside);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The sources whose reports step `id` goes by: those that it depends on, but for a join with a table only the table's.
    pub fn heeds(&self, id: StepId) -> Vec<StepId> {
        match &self.steps[id].action {
            Action::Join(join) if let Meeting::WithTable { table } = join.meeting => {
                self.sources_of(self.steps[id].inputs[table].from)
            }
            _ => self.sources_of(id),
        }
    }

    /// Refuses a plan that cannot run: a dangling edge, a sink that cannot carry its input's changes, a tick in rows over
    /// a source that does not end.
    pub fn check(&self) -> Result<()> {
        if self.sinks().next().is_none() && self.views().next().is_none() {
            return Err(Error::invalid("the pipeline writes nothing")
                .help("add an INSERT INTO … SELECT …, or a CREATE MATERIALIZED VIEW that can be asked"));
        }
        if let (Tick::Rows(_), Some(Interval::Every(_))) = (self.settings.tick, self.settings.checkpoint_interval) {
            return Err(Error::invalid("where epochs end by rows, checkpoints are so many epochs apart")
                .help("SET 'checkpoint_interval' to a number such as '10 epochs'"));
        }
        (0..self.steps.len()).try_for_each(|id| self.check_step(id))
    }

    /// Refuses step `id` if it cannot run.
    pub fn check_step(&self, id: StepId) -> Result<()> {
        let step = &self.steps[id];
        if step.inputs.iter().any(|input| input.from >= id) {
            return Err(Error::internal(format!("step \"{}\" reads a step that does not come before it", step.name)));
        }
        match &step.action {
            Action::Source(source) if matches!(self.settings.tick, Tick::Rows(_)) && !source.source.bounded() => {
                return Err(Error::invalid(format!(
                    "table \"{}\" does not end, so a tick cannot be given in rows",
                    source.table
                ))
                .help("SET 'tick' to a duration such as '100 ms', or give the table a bounded end"));
            }
            Action::Sink(sink) if sink.sink.changes() == Changes::AppendOnly => {
                if let Some(updating) = step.inputs.iter().find(|input| self.steps[input.from].emit == Emit::Updating) {
                    let updating = &self.steps[updates(&self.steps, updating.from)];
                    return Err(Error::invalid(format!(
                        "table \"{}\" takes rows that stand, but step \"{}\" updates its results",
                        sink.table, updating.name
                    ))
                    .help("end the INSERT with EMIT FINAL if the input ends, count in windows, or write changes: to a topic with a PRIMARY KEY, or in 'format' = 'debezium-json'"));
                }
            }
            Action::Sink(sink) => self.check_key(step, sink)?,
            _ => {}
        }
        Ok(())
    }
}

/// A source that does not end and of which the rows that step `id` gives become ever more, if there is one. Results by key are as many as there
/// are keys.
pub fn grows(steps: &[Step], id: StepId) -> Option<StepId> {
    let any = || steps[id].inputs.iter().find_map(|input| grows(steps, input.from));
    match &steps[id].action {
        Action::Source(source) => (!source.source.bounded()).then_some(id),
        Action::Aggregate(spec) if spec.grouping == Grouping::Updating => None,
        Action::Upsert { .. } | Action::Top(_) => None,
        Action::Reduce(reducing) => match reducing.what {
            Reduction::Aggregate(_) | Reduction::First { limit: Some(_), .. } => None,
            _ => any(),
        },
        _ => any(),
    }
}

/// `in sessions with gaps of 10s`.
pub fn describe_sessions(gap: Micros) -> String {
    let gap = humantime::format_duration(Duration::from_micros(gap.unsigned_abs()));
    format!("in sessions with gaps of {gap}")
}

/// `in windows of 1m`, `in windows of 1m every 10s`, `in windows that grow by 10s to 1m, offset 5s`.
pub fn describe_windows(windows: &Windows) -> String {
    let time = |micros: Micros| humantime::format_duration(Duration::from_micros(micros.unsigned_abs())).to_string();
    let mut text = match windows.shape {
        WindowShape::Hop if !windows.overlap() => format!("in windows of {}", time(windows.size)),
        WindowShape::Hop => format!("in windows of {} every {}", time(windows.size), time(windows.slide)),
        WindowShape::Cumulate => format!("in windows that grow by {} to {}", time(windows.slide), time(windows.size)),
    };
    if windows.offset != 0 {
        text.push_str(&format!(", offset {}", time(windows.offset)));
    }
    text
}
