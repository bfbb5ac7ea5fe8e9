//! A pipeline in Rust: the operators of a [graph], written as calls.
//!
//! ```
//! use highwater::builder::{Pipeline, Table, aggregate, flat_map};
//! use highwater::connector::extensions::Extensions;
//!
//! # fn main() -> highwater::error::Result<()> {
//! let plan = Pipeline::named("word_count")
//!     .source("lines", Table::of("file").column("line", "STRING").option("path", "*.md").option("format", "raw"))
//!     .step("words", "lines", flat_map("split_words(lower(line))", "word"))
//!     .step("by_word", "words", aggregate([("n", "count(*)")]).by(["word"]))
//!     .sink("counts", "by_word", Table::of("print").emit("final"))
//!     .plan(&Extensions::new())?;
//! assert_eq!(plan.settings.name, "word_count");
//! # Ok(())
//! # }
//! ```
//! Expressions are SQL. What is wrong with one is told when the plan is made, all of it at once, with the line of the program
//! that made the step.

use crate::connector::Connectors;
use crate::error::{Error, Result};
use crate::graph::{self, Graph, Keep, Op, Sink, Step, Values, Windows};
use crate::plan::Plan;
use crate::sql::Text;
use crate::sql::phrase::{At, Phrase};
use crate::sql::relations::{self, Column, Columns, EndingWords};
use arrow::datatypes::{Schema, SchemaRef};
use std::fmt;
use std::panic::Location;

/// A pipeline in the making.
#[derive(Debug, Clone)]
pub struct Pipeline {
    graph: Graph,
    listing: Listing,
}

/// Everything that the program has said, a line each, so that a mistake can be shown.
#[derive(Debug, Clone, Default)]
struct Listing {
    text: String,
    /// For each line: where the program says it.
    callers: Vec<String>,
}

impl Listing {
    /// Writes down `text`, which `caller` says about `what`.
    fn phrase(&mut self, caller: &Location, what: &str, text: &str) -> Phrase {
        let mut places = Vec::with_capacity(text.len() + 1);
        let mut at = At { line: self.callers.len() as u64 + 1, column: what.chars().count() as u64 + 3 };
        for char in text.chars() {
            places.push(at);
            at = match char {
                '\n' => At { line: at.line + 1, column: 1 },
                _ => At { column: at.column + 1, ..at },
            };
        }
        places.push(at);
        self.text.push_str(&format!("{what}: {text}\n"));
        let lines = text.matches('\n').count() + 1;
        self.callers.extend(std::iter::repeat_n(caller.to_string(), lines));
        Phrase::new(text, places)
    }

    fn values(&mut self, caller: &Location, what: &str, values: &[(String, String)]) -> Values {
        let value = |(name, value): &(String, String)| {
            (self.phrase(caller, what, name), self.phrase(caller, &format!("{what}, {name}"), value))
        };
        values.iter().map(value).collect()
    }

    fn names(&mut self, caller: &Location, what: &str, names: &[String]) -> Vec<Phrase> {
        names.iter().map(|name| self.phrase(caller, what, name)).collect()
    }
}

/// One name or several: `"orders"`, `["orders", "returns"]`.
#[derive(Debug, Clone)]
pub struct Names(Vec<String>);

impl From<&str> for Names {
    fn from(name: &str) -> Self {
        Names(vec![name.to_owned()])
    }
}

impl<const N: usize> From<[&str; N]> for Names {
    fn from(names: [&str; N]) -> Self {
        Names(names.into_iter().map(str::to_owned).collect())
    }
}

impl From<Vec<String>> for Names {
    fn from(names: Vec<String>) -> Self {
        Names(names)
    }
}

impl Pipeline {
    /// A pipeline without steps.
    #[track_caller]
    pub fn named(name: &str) -> Self {
        Pipeline { graph: Graph::default(), listing: Listing::default() }.setting("name", name)
    }

    /// Changes a setting, as `SET` does.
    #[track_caller]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        let caller = Location::caller();
        let name = self.listing.phrase(caller, "setting", name);
        let value = self.listing.phrase(caller, &format!("setting {}", name.text()), value);
        self.graph.settings.push((name, value));
        self
    }

    /// Reads `table` under the name `name`.
    #[track_caller]
    pub fn source(mut self, name: &str, table: Table) -> Self {
        let table = table.parts(&mut self.listing, Location::caller(), "source", name);
        self.graph.sources.push(table);
        self
    }

    /// Adds a step that takes the rows of `from`.
    #[track_caller]
    pub fn step(mut self, name: &str, from: impl Into<Names>, operation: Operation) -> Self {
        let caller = Location::caller();
        let what = format!("step {name}");
        let Names(from) = from.into();
        let step = Step {
            name: self.listing.phrase(caller, "step", name),
            from: self.listing.names(caller, &what, &from),
            op: operation.op(&mut self.listing, caller, &what),
        };
        self.graph.steps.push(step);
        self
    }

    /// Writes the rows of `from` into `table`, by the names of its columns; without any it has those of its input.
    #[track_caller]
    pub fn sink(mut self, name: &str, from: impl Into<Names>, table: Table) -> Self {
        let caller = Location::caller();
        let Names(from) = from.into();
        let what = format!("sink {name}");
        let mut ending =
            |words: &Option<String>| words.as_deref().map(|words| self.listing.phrase(caller, &what, words));
        let ending = EndingWords {
            emit: ending(&table.emit),
            lateness: ending(&table.lateness),
            late: ending(&table.late_into),
        };
        let from = self.listing.names(caller, &what, &from);
        let table = table.parts(&mut self.listing, caller, "sink", name);
        self.graph.sinks.push(Sink { from, table, ending });
        self
    }

    /// The plan, to be run with [`runtime::start`](crate::runtime::start).
    ///
    /// # Errors
    /// Everything that is wrong with the steps, one error with the [others](Error::each) beside it; or what a connector says.
    pub fn plan(&self, connectors: &dyn Connectors) -> Result<Plan> {
        let text = Text { name: "pipeline", sql: &self.listing.text };
        let moved = |error: Error| match error.excerpt().and_then(|excerpt| self.listing.callers.get(excerpt.line - 1))
        {
            Some(caller) => error.moved_to(caller),
            None => error,
        };
        let plan = graph::lower(&self.graph, text, connectors).map_err(|wrong| {
            let wrong = wrong.iter().flat_map(Error::each).cloned().map(moved).collect();
            Error::join(wrong).unwrap_or_else(|| Error::internal("a pipeline was refused without a reason"))
        })?;
        plan.check()?;
        Ok(plan)
    }
}

/// A table that is read or written.
#[derive(Debug, Clone)]
pub struct Table {
    connector: String,
    columns: Vec<(String, String, bool)>,
    watermark: Option<(String, String)>,
    primary_key: Vec<String>,
    options: Vec<(String, String)>,
    emit: Option<String>,
    lateness: Option<String>,
    late_into: Option<String>,
}

impl Table {
    /// A table of this connector, as `'connector' = '…'` has it.
    pub fn of(connector: &str) -> Self {
        Table {
            connector: connector.to_owned(),
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            options: Vec::new(),
            emit: None,
            lateness: None,
            late_into: None,
        }
    }

    /// Adds a column of a SQL type, such as `BIGINT NOT NULL`.
    pub fn column(mut self, name: &str, data_type: &str) -> Self {
        self.columns.push((name.to_owned(), data_type.to_owned(), false));
        self
    }

    /// Adds a column that is computed from the others.
    pub fn computed(mut self, name: &str, value: &str) -> Self {
        self.columns.push((name.to_owned(), value.to_owned(), true));
        self
    }

    /// Makes `column` event time, and `value` the watermark that a row stands for.
    pub fn watermark(mut self, column: &str, value: &str) -> Self {
        self.watermark = Some((column.to_owned(), value.to_owned()));
        self
    }

    /// The columns whose newest row counts.
    pub fn primary_key(mut self, columns: impl Into<Names>) -> Self {
        self.primary_key = columns.into().0;
        self
    }

    /// Sets an option.
    pub fn option(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.options.push((name.to_owned(), value.to_string()));
        self
    }

    /// When results leave into it: `final`, `changes` or `on_window_close`.
    pub fn emit(mut self, when: &str) -> Self {
        self.emit = Some(when.to_owned());
        self
    }

    /// How long windows stay open after the watermark has reached their end: a duration such as `10 min`.
    pub fn allowed_lateness(mut self, duration: &str) -> Self {
        self.lateness = Some(duration.to_owned());
        self
    }

    /// The sink, one that takes the rows of no step, for the rows that come too late for their windows.
    pub fn late_into(mut self, sink: &str) -> Self {
        self.late_into = Some(sink.to_owned());
        self
    }

    fn parts(self, listing: &mut Listing, caller: &Location, kind: &str, name: &str) -> relations::Table {
        let what = format!("{kind} {name}");
        let column = |listing: &mut Listing, (column, text, computed): &(String, String, bool)| {
            let value = listing.phrase(caller, &format!("{what}, {column}"), text);
            let value = if *computed { Column::Computed(value) } else { Column::Typed(value) };
            (listing.phrase(caller, &what, column), value)
        };
        let columns = match self.columns.is_empty() && kind == "sink" {
            true => Columns::Like(SchemaRef::new(Schema::empty())),
            false => Columns::Declared(self.columns.iter().map(|parts| column(listing, parts)).collect()),
        };
        let watermark = self.watermark.map(|(column, value)| {
            (listing.phrase(caller, &what, &column), listing.phrase(caller, &format!("{what}, watermark"), &value))
        });
        let connector = ("connector".to_owned(), self.connector);
        let options: Vec<(String, String)> = [connector].into_iter().chain(self.options).collect();
        relations::Table {
            name: listing.phrase(caller, kind, name),
            columns,
            watermark,
            primary_key: listing.names(caller, &what, &self.primary_key),
            options: listing.values(caller, &what, &options),
        }
    }
}

/// What a step does: made by the functions of this module.
#[derive(Debug, Clone)]
pub struct Operation {
    kind: Kind,
    key: Option<Vec<(String, String)>>,
    keep: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Filter(String),
    Project(Vec<(String, String)>),
    FlatMap {
        list: String,
        element: String,
    },
    KeyBy,
    Window {
        function: &'static str,
        time: String,
        lengths: Vec<String>,
    },
    Aggregate(Vec<(String, String)>),
    TopN {
        order: String,
        rows: usize,
        rank: Option<String>,
    },
    Join {
        kind: &'static str,
        on: String,
        as_of: Option<String>,
        newest: Option<String>,
        columns: Vec<(String, String)>,
    },
    Operator(String),
    Union,
    Distinct,
}

impl From<Kind> for Operation {
    fn from(kind: Kind) -> Self {
        Operation { kind, key: None, keep: None }
    }
}

fn pairs<const N: usize>(values: [(&str, &str); N]) -> Vec<(String, String)> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Keeps the rows for which a condition is true.
pub fn filter(condition: &str) -> Operation {
    Kind::Filter(condition.to_owned()).into()
}

/// Makes new columns, `[("name", "expression")]`; of the input's, those of [`Operation::keep`] stay.
pub fn project<const N: usize>(columns: [(&str, &str); N]) -> Operation {
    Kind::Project(pairs(columns)).into()
}

/// Makes a row of each element of a list, in column `element`; the other columns stay, or those of [`Operation::keep`].
pub fn flat_map(list: &str, element: &str) -> Operation {
    Kind::FlatMap { list: list.to_owned(), element: element.to_owned() }.into()
}

/// Says by which key the next aggregate goes.
pub fn key_by(key: impl Into<Names>) -> Operation {
    Operation::from(Kind::KeyBy).by(key)
}

fn window(function: &'static str, time: &str, lengths: &[&str]) -> Operation {
    let lengths = lengths.iter().map(|length| (*length).to_owned()).collect();
    Kind::Window { function, time: time.to_owned(), lengths }.into()
}

/// Windows of one size, one after the other, by the event-time column `time`. Lengths are durations such as `1 minute`.
pub fn tumble(time: &str, size: &str) -> Operation {
    window("TUMBLE", time, &[size])
}

/// Windows of one size, which start every `slide`.
pub fn hop(time: &str, slide: &str, size: &str) -> Operation {
    window("HOP", time, &[slide, size])
}

/// Windows that grow by a step until they have their size.
pub fn cumulate(time: &str, step: &str, size: &str) -> Operation {
    window("CUMULATE", time, &[step, size])
}

/// Windows of a key, which end when none of its rows came for `gap`.
pub fn session(time: &str, gap: &str) -> Operation {
    window("SESSION", time, &[gap])
}

/// One row for each key ([`Operation::by`]) and window, with the values `[("name", "count(*)")]`.
pub fn aggregate<const N: usize>(values: [(&str, &str); N]) -> Operation {
    Kind::Aggregate(pairs(values)).into()
}

/// The first `rows` rows of each window and key, in the order `order`, such as `total DESC`.
pub fn top_n(rows: usize, order: &str) -> Operation {
    Kind::TopN { order: order.to_owned(), rows, rank: None }.into()
}

/// The first row of each key in each window.
pub fn dedup(order: &str) -> Operation {
    top_n(1, order)
}

/// The pairs of rows of two inputs for which `on` is true: `orders.id = payments.order_id`. They are of the same window; an input
/// without windows is a table that ends, and is read whole first.
pub fn join<const N: usize>(kind: JoinKind, on: &str, columns: [(&str, &str); N]) -> Operation {
    let kind = match kind {
        JoinKind::Inner => "inner",
        JoinKind::Left => "left",
        JoinKind::Right => "right",
        JoinKind::Full => "full",
        JoinKind::Semi => "semi",
        JoinKind::Anti => "anti",
    };
    Kind::Join { kind, on: on.to_owned(), as_of: None, newest: None, columns: pairs(columns) }.into()
}

/// Each row of the first input with the version that the second one, a table with a key, had at its event time `time`, such as
/// `orders.ordered`. With `proctime()` a table outside is asked. Kinds are [`JoinKind::Inner`] and [`JoinKind::Left`].
pub fn join_as_of<const N: usize>(kind: JoinKind, time: &str, on: &str, columns: [(&str, &str); N]) -> Operation {
    let mut operation = join(kind, on, columns);
    if let Kind::Join { as_of, .. } = &mut operation.kind {
        *as_of = Some(time.to_owned());
    }
    operation
}

/// Each row of the first input with the newest row of the second one for which `times` holds, such as `trades.ts >= quotes.ts`. Kinds are
/// [`JoinKind::Inner`] and [`JoinKind::Left`].
pub fn join_newest<const N: usize>(kind: JoinKind, times: &str, on: &str, columns: [(&str, &str); N]) -> Operation {
    let mut operation = join(kind, on, columns);
    if let Kind::Join { newest, .. } = &mut operation.kind {
        *newest = Some(times.to_owned());
    }
    operation
}

/// Which rows of a join stay without a partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// None.
    Inner,
    /// Those of the first input.
    Left,
    /// Those of the second.
    Right,
    /// All.
    Full,
    /// None, and of the pairs only the first input's rows leave, each once. Without columns they are those of that input.
    Semi,
    /// Only rows of the first input leave, those that are in no pair. Without columns they are those of that input.
    Anti,
}

/// An operator of the program's own, by name; [`Operation::by`] says which rows come to the same worker.
pub fn operator(name: &str) -> Operation {
    Kind::Operator(name.to_owned()).into()
}

/// The rows of all inputs; columns are matched by name.
pub fn union() -> Operation {
    Kind::Union.into()
}

/// Each row once.
pub fn distinct() -> Operation {
    Kind::Distinct.into()
}

impl Operation {
    /// The columns of the key.
    pub fn by(mut self, key: impl Into<Names>) -> Self {
        self.key = Some(key.into().0.into_iter().map(|name| (name.clone(), name)).collect());
        self
    }

    /// The key, computed: `[("day", "date_trunc('day', ts)")]`.
    pub fn by_values<const N: usize>(mut self, key: [(&str, &str); N]) -> Self {
        self.key = Some(pairs(key));
        self
    }

    /// The columns of the input that stay.
    pub fn keep(mut self, columns: impl Into<Names>) -> Self {
        self.keep = Some(columns.into().0);
        self
    }

    /// The column for the numbers of [`top_n`].
    pub fn rank(mut self, column: &str) -> Self {
        if let Kind::TopN { rank, .. } = &mut self.kind {
            *rank = Some(column.to_owned());
        }
        self
    }

    fn op(self, listing: &mut Listing, caller: &Location, what: &str) -> Op {
        let key = self.key.map(|key| listing.values(caller, what, &key));
        let keep = self.keep.map(|keep| Keep::Columns(listing.names(caller, what, &keep)));
        match self.kind {
            Kind::Filter(condition) => Op::Filter { keep: listing.phrase(caller, what, &condition) },
            Kind::Project(columns) => Op::Project {
                columns: listing.values(caller, what, &columns),
                keep: keep.unwrap_or(Keep::Columns(Vec::new())),
            },
            Kind::FlatMap { list, element } => Op::FlatMap {
                list: listing.phrase(caller, what, &list),
                element: listing.phrase(caller, what, &element),
                keep: keep.unwrap_or(Keep::All),
            },
            Kind::KeyBy => Op::KeyBy { key: key.unwrap_or_default() },
            Kind::Window { function, time, lengths } => Op::Window {
                time: listing.phrase(caller, what, &time),
                windows: Windows { function, lengths: listing.names(caller, what, &lengths) },
            },
            Kind::Aggregate(calls) => Op::Aggregate { key, calls: listing.values(caller, what, &calls) },
            Kind::TopN { order, rows, rank } => Op::TopN {
                key,
                order: listing.phrase(caller, what, &order),
                rows: listing.phrase(caller, what, &rows.to_string()),
                rank: rank.map(|rank| listing.phrase(caller, what, &rank)),
            },
            Kind::Join { kind, on, as_of, newest, columns } => Op::Join {
                kind,
                on: listing.phrase(caller, what, &on),
                as_of: as_of.map(|time| listing.phrase(caller, what, &time)),
                newest: newest.map(|times| listing.phrase(caller, what, &times)),
                columns: listing.values(caller, what, &columns),
            },
            Kind::Operator(name) => Op::Operator { call: listing.phrase(caller, what, &name), key },
            Kind::Union => Op::Union,
            Kind::Distinct => Op::Distinct,
        }
    }
}
