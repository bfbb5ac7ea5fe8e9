//! A test as data: the rows and the time of each epoch, and what is asserted after which of them.
//!
//! The table's watermark of each epoch is worked out here, over all its rows, and not from the splits: so it is the same however many
//! splits the rows are dealt to, and whatever their order in the epoch.

use super::play::evaluate;
use super::rows::{Row, rows_of};
use super::subject::{Read, Subject};
use crate::batch::{Batch, batch_of, from_arrow, take_rows};
use crate::connector::memory::{MemorySink, MemorySource};
use crate::connector::{ConnectorSpec, Connectors, Gives, Sink, SinkInput, Source, Table};
use crate::error::{Error, ErrorKind, Excerpt, Result, nearest};
use crate::expr::ScalarFunction;
use crate::operator::CustomOperator;
use crate::operator::panes::event_times;
use crate::sql::Text;
use crate::sql::scenario::{self, Act, Case, Deed, Moment, Named, Rows};
use crate::time::{Micros, Watermark, format_micros};
use arrow::array::{Array, new_null_array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A test, worked out.
pub struct Script {
    /// The epochs, in order.
    pub epochs: Vec<Stage>,
    /// What is asserted, in order.
    pub checks: Vec<Check>,
    /// What the clock says at the beginning; none if the test never says what time it is.
    pub wall: Option<Micros>,
}

/// What happens in one epoch.
#[derive(Default)]
pub struct Stage {
    /// The rows that come, by table, with the columns of its records.
    pub rows: BTreeMap<String, Batch>,
    /// Of each of these rows, in their order: whether it comes or is taken back.
    pub weights: BTreeMap<String, Vec<i64>>,
    /// The watermarks at its end, by table; of those with event time.
    pub marks: BTreeMap<String, Watermark>,
    /// The tables that end with it.
    pub ends: BTreeSet<String>,
    /// How much time passes before its end.
    pub time: Duration,
    /// The statement that ends it.
    pub place: Option<Excerpt>,
}

/// Something that must be.
pub struct Check {
    /// How many epochs are complete.
    pub after: usize,
    /// Where it stands.
    pub place: Excerpt,
    /// What it is.
    pub claim: Claim,
}

/// What must be.
pub enum Claim {
    /// These changes have come since `since` epochs were complete.
    Changelog {
        /// What is looked at.
        view: View,
        /// How many epochs were complete when the table's changes were asserted the last time.
        since: usize,
        /// How changes are told apart.
        kinds: Kinds,
        /// The rows, a change's kind first if there are any.
        expected: Vec<Row>,
    },
    /// These rows are there.
    Content {
        /// What is looked at.
        view: View,
        /// The rows.
        expected: Vec<Row>,
    },
    /// The pipeline has failed, with words like these.
    Failed(Option<String>),
}

/// Columns of a table that is written.
pub struct View {
    /// The table.
    pub table: String,
    /// The columns, by index.
    pub columns: Vec<usize>,
    /// What they are called.
    pub names: Vec<String>,
}

/// How changes are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Nothing is taken back.
    None,
    /// `+1` and `-1`.
    Weights,
    /// `+I`, `-U`, `+U` and `-D`, by the table's key.
    Letters,
}

/// What has been read of the test so far.
struct Reading<'a> {
    subject: &'a Subject,
    text: Text<'a>,
    connectors: &'a dyn Connectors,
    script: Script,
    open: Stage,
    /// The last statement that has done something in the open epoch.
    last: Option<Excerpt>,
    /// All rows of each table so far, by epoch and within it.
    given: BTreeMap<String, Vec<Batch>>,
    marks: BTreeMap<String, Watermark>,
    ended: BTreeSet<String>,
    /// How many epochs were complete when the changes of each table were asserted the last time.
    asserted: BTreeMap<String, usize>,
    /// What the clock says in the open epoch, if the test says what time it is.
    now: Option<Micros>,
}

impl Script {
    /// What `case`, a test in `text`, does with `subject`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for every statement that does not fit the pipeline.
    pub fn of(case: &Case, subject: &Subject, text: Text, connectors: &dyn Connectors) -> Result<Script> {
        let wall = wall(case);
        let timed = |(name, read): (&String, &Read)| read.step.time.as_ref().map(|_| (name.clone(), Watermark::NONE));
        let mut reading = Reading {
            subject,
            text,
            connectors,
            script: Script { epochs: Vec::new(), checks: Vec::new(), wall },
            open: Stage::default(),
            last: None,
            given: BTreeMap::new(),
            marks: subject.sources.iter().filter_map(timed).collect(),
            ended: BTreeSet::new(),
            asserted: BTreeMap::new(),
            now: wall,
        };
        let mut told = false;
        let mut wrong = Vec::new();
        for deed in &case.deeds {
            wrong.extend(reading.take(deed, &mut told).err());
        }
        reading.settle();
        match Error::join(wrong) {
            Some(error) => Err(error),
            None => Ok(reading.script),
        }
    }
}

/// What the clock says when the test begins: the first moment that it is told, less what has passed until then.
fn wall(case: &Case) -> Option<Micros> {
    let mut passed: Micros = 0;
    for deed in &case.deeds {
        match deed.act {
            Act::Time(Moment::At(moment)) => return Some(moment.saturating_sub(passed)),
            Act::Time(Moment::After(time)) => passed = passed.saturating_add(time),
            _ => {}
        }
    }
    None
}

impl Reading<'_> {
    /// Takes one statement. `told` is true once the test has said what time it is.
    fn take(&mut self, deed: &Deed, told: &mut bool) -> Result<()> {
        match &deed.act {
            Act::Insert { table, columns, rows, gone } => self.insert(table, columns, rows, *gone, &deed.place),
            Act::Tick => {
                self.close(&deed.place);
                Ok(())
            }
            Act::Watermark { table, to } => self.advance(table.as_ref(), *to, &deed.place),
            Act::Time(Moment::After(time)) => {
                self.pass(*time, &deed.place);
                Ok(())
            }
            Act::Time(Moment::At(moment)) => {
                let passes = match (std::mem::replace(told, true), self.now) {
                    (true, Some(now)) => moment.saturating_sub(now),
                    _ => 0,
                };
                if passes < 0 {
                    let now = self.now.map(format_micros).unwrap_or_default();
                    return Err(Error::invalid(format!("it is {now} already")).at(deed.place.clone()));
                }
                self.pass(passes, &deed.place);
                Ok(())
            }
            Act::End(table) => self.end(table.as_ref(), &deed.place),
            Act::Changelog(written) => {
                self.settle();
                let (since, after) = (self.asserted.get(&written.table.name).copied(), self.script.epochs.len());
                let sink = self.subject.sink(&written.table)?;
                let (view, mut fields) = view(&written.table, &written.columns, &sink.schema)?;
                if sink.updating {
                    fields.insert(0, Arc::new(Field::new("change", DataType::Utf8, true)));
                }
                let mut expected = self.expected(written.rows.as_ref(), fields)?;
                let kinds = match sink.updating {
                    true => kinds(&mut expected, !sink.key.is_empty(), &written.table, &deed.place)?,
                    false => Kinds::None,
                };
                self.asserted.insert(written.table.name.clone(), after);
                let claim = Claim::Changelog { view, since: since.unwrap_or(0), kinds, expected };
                self.check(claim, &deed.place);
                Ok(())
            }
            Act::Content(written) => {
                self.settle();
                let sink = self.subject.sink(&written.table)?;
                let (view, fields) = view(&written.table, &written.columns, &sink.schema)?;
                let expected = self.expected(written.rows.as_ref(), fields)?;
                self.check(Claim::Content { view, expected }, &deed.place);
                Ok(())
            }
            Act::Error(like) => {
                self.settle();
                self.check(Claim::Failed(like.clone()), &deed.place);
                Ok(())
            }
        }
    }

    fn check(&mut self, claim: Claim, place: &Excerpt) {
        let after = self.script.epochs.len();
        self.script.checks.push(Check { after, place: place.clone(), claim });
    }

    /// Ends the open epoch if something has happened in it.
    fn settle(&mut self) {
        if let Some(last) = self.last.take() {
            self.close(&last);
        }
    }

    fn close(&mut self, place: &Excerpt) {
        let mut stage = std::mem::take(&mut self.open);
        stage.marks = self.marks.clone();
        stage.place = Some(place.clone());
        self.script.epochs.push(stage);
        self.last = None;
    }

    fn pass(&mut self, time: Micros, place: &Excerpt) {
        self.open.time = Duration::from_micros(time.unsigned_abs());
        self.now = self.now.map(|now| now.saturating_add(time));
        self.close(place);
    }

    fn end(&mut self, table: Option<&Named>, place: &Excerpt) -> Result<()> {
        match table {
            Some(table) => {
                self.subject.source(table)?;
                if !self.ended.insert(table.name.clone()) {
                    return Err(
                        Error::invalid(format!("table '{}' has ended before", table.name)).at(table.place.clone())
                    );
                }
                self.open.ends.insert(table.name.clone());
            }
            None => {
                let left: Vec<String> =
                    self.subject.sources.keys().filter(|name| !self.ended.contains(*name)).cloned().collect();
                self.ended.extend(left.iter().cloned());
                self.open.ends.extend(left);
            }
        }
        self.close(place);
        Ok(())
    }

    fn advance(&mut self, table: Option<&Named>, to: Moment, place: &Excerpt) -> Result<()> {
        let tables: Vec<String> = match table {
            Some(table) => {
                let read = self.subject.source(table)?;
                if read.step.time.is_none() {
                    let error = Error::invalid(format!("table '{}' has no event time", table.name));
                    return Err(error.help("declare a WATERMARK FOR one of its columns").at(table.place.clone()));
                }
                vec![table.name.clone()]
            }
            None => self.marks.keys().filter(|name| !self.ended.contains(*name)).cloned().collect(),
        };
        if tables.is_empty() {
            let error = Error::invalid("no table that is read and has not ended has event time");
            return Err(error.help("declare a WATERMARK FOR a column").at(place.clone()));
        }
        let before = |name: &String| self.marks.get(name).copied().unwrap_or(Watermark::NONE);
        if let Moment::At(micros) = to
            && let Some(first) = tables.iter().min_by_key(|name| before(name))
            && before(first) > Watermark::at(micros)
        {
            let error = Error::invalid(format!("the watermark of '{first}' is at {} already", before(first)));
            return Err(error.help("it never goes back, and rows make it, too").at(place.clone()));
        }
        for name in tables {
            let before = self.marks.get(&name).copied().unwrap_or(Watermark::NONE);
            let mark = match to {
                Moment::At(micros) => Watermark::at(micros),
                Moment::After(_) if before == Watermark::NONE => {
                    let error = Error::invalid(format!("table '{name}' has no watermark yet"));
                    return Err(error.help("say ADVANCE WATERMARK TO TIMESTAMP '…' first").at(place.clone()));
                }
                Moment::After(micros) => Watermark::at(before.micros().saturating_add(micros)),
            };
            self.marks.insert(name, before.max(mark));
        }
        self.close(place);
        Ok(())
    }

    fn insert(&mut self, table: &Named, columns: &[Named], rows: &Rows, gone: bool, place: &Excerpt) -> Result<()> {
        let read = self.subject.source(table)?;
        let gives = read.step.source.gives();
        if gone && gives == Gives::Rows {
            let error = Error::invalid(format!("rows of table '{}' are not taken back", table.name));
            return Err(error.help("those of a stream of changes are: one in 'format' = 'debezium-json', or with 'scan.changelog' = 'upsert'").at(table.place.clone()));
        }
        if self.ended.contains(&table.name) {
            return Err(Error::invalid(format!("table '{}' has ended", table.name)).at(table.place.clone()));
        }
        let schema = &read.table.schema;
        let given: Vec<usize> = match columns {
            [] => {
                let is_virtual = |index: &usize| read.table.metadata.get(index).is_some_and(|column| column.is_virtual);
                (0..schema.fields().len()).filter(|index| !is_virtual(index)).collect()
            }
            named => columns_of(named, schema)?,
        };
        let fields: Vec<FieldRef> = given.iter().map(|index| Arc::clone(&schema.fields()[*index])).collect();
        let batch = self.rows(rows, fields, None)?;
        let column = |index: usize| match given.iter().position(|known| *known == index) {
            Some(position) => Arc::clone(batch.column(position)),
            None => new_null_array(schema.field(index).data_type(), batch.num_rows()),
        };
        let all: Vec<_> = (0..schema.fields().len()).map(column).collect();
        let mut columns = schema.fields().iter().zip(&all);
        // what takes the newest row of a key back says its key and no more
        let whole = !(gone && gives == Gives::Upserts);
        if let Some((field, _)) =
            columns.find(|(field, column)| whole && !field.is_nullable() && column.null_count() > 0)
        {
            let error = format!("column '{}' of '{}' is NOT NULL, but a row has NULL in it", field.name(), table.name);
            return Err(Error::invalid(error).at(place.clone()));
        }
        let schema = if whole { Arc::clone(schema) } else { loose(schema) };
        let batch = batch_of(Arc::clone(&schema), all, batch.num_rows())?;
        if let Some(mark) = mark(read, &batch, self.now)? {
            let before = self.marks.entry(table.name.clone()).or_insert(Watermark::NONE);
            *before = mark.max(*before);
        }
        let given = self.given.entry(table.name.clone()).or_default();
        hold(given, &batch, read, gone).map_err(|error| error.at(place.clone()))?;
        let weight = if gone { -1 } else { 1 };
        self.open.weights.entry(table.name.clone()).or_default().extend(std::iter::repeat_n(weight, batch.num_rows()));
        let whole = match self.open.rows.remove(&table.name) {
            Some(before) => concat_batches(&loose(&schema), [&before, &batch]).map_err(from_arrow)?,
            None => batch,
        };
        self.open.rows.insert(table.name.clone(), whole);
        self.last = Some(place.clone());
        Ok(())
    }

    fn expected(&self, rows: Option<&Rows>, fields: Vec<FieldRef>) -> Result<Vec<Row>> {
        let Some(rows) = rows else { return Ok(Vec::new()) };
        let definition = self.subject.definition.as_ref().map(|(name, sql)| Text { name, sql });
        let batch = self.rows(rows, fields, definition)?;
        let all: Vec<usize> = (0..batch.num_columns()).collect();
        rows_of(&batch, &all)
    }

    /// What `rows` says, with columns like `fields`.
    fn rows(&self, rows: &Rows, fields: Vec<FieldRef>, definition: Option<Text>) -> Result<Batch> {
        let nullable = |field: FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.into_iter().map(nullable).collect::<Vec<_>>()));
        let answer = MemorySink::new();
        let given = Given { inner: self.connectors, rows: &self.given, answer: answer.clone() };
        let plan = scenario::answer(self.text, rows, &schema, definition, &given)?;
        evaluate(plan).map_err(|error| match error.kind() {
            // a value that cannot be what it should be
            ErrorKind::Data => Error::invalid(plain(error.said())).at(rows.place(self.text)),
            _ => error,
        })?;
        let batches: Vec<Batch> = answer.batches();
        let same = |batch: &Batch| batch_of(Arc::clone(&schema), batch.columns().to_vec(), batch.num_rows());
        let batches = batches.iter().map(same).collect::<Result<Vec<_>>>()?;
        concat_batches(&schema, &batches).map_err(from_arrow)
    }
}

/// The columns of `schema`, any of which may be NULL.
pub(super) fn loose(schema: &Schema) -> SchemaRef {
    let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(schema.fields().iter().map(nullable).collect::<Vec<_>>()))
}

/// What table `read` holds when the rows of `batch` have come or are `gone`: all that came to a table whose rows stand; the newest row of
/// each key; or what is left of those that came.
fn hold(given: &mut Vec<Batch>, batch: &Batch, read: &Read, gone: bool) -> Result<()> {
    let all: Vec<usize> = (0..batch.num_columns()).collect();
    let columns = match read.step.source.gives() {
        Gives::Rows => Vec::new(),
        Gives::Upserts => read.table.primary_key.clone(),
        Gives::Changes => all,
    };
    for (row, values) in rows_of(batch, &columns)?.into_iter().enumerate() {
        if !columns.is_empty() && (gone || read.step.source.gives() == Gives::Upserts) {
            let mut found = None;
            for (place, other) in given.iter().enumerate() {
                if let Some(at) = rows_of(other, &columns)?.iter().position(|known| *known == values) {
                    found = Some((place, at));
                }
            }
            match found {
                Some((place, at)) => {
                    let others = (0..given[place].num_rows() as u32).filter(|row| *row as usize != at);
                    given[place] = take_rows(&given[place], others.collect::<Vec<_>>())?;
                }
                None if gone && read.step.source.gives() == Gives::Changes => {
                    let error = format!("table '{}' holds no row ({})", read.table.name, values.0.join(", "));
                    return Err(Error::invalid(error).help("a row that is taken back is told by all of its columns"));
                }
                None => {}
            }
        }
        if !gone {
            given.push(batch.slice(row, 1));
        }
    }
    Ok(())
}

/// What Arrow says, without who says it.
fn plain(text: &str) -> String {
    let text = text.strip_prefix("Arrow error: ").unwrap_or(text);
    let text = ["Parser error: ", "Cast error: "].iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// The watermark that the rows of `batch`, records of the table, stand for when the clock says `now`. Those that are bad count for
/// nothing.
fn mark(read: &Read, batch: &Batch, now: Option<Micros>) -> Result<Option<Watermark>> {
    let Some(time) = &read.step.time else { return Ok(None) };
    let of = |batch: &Batch| -> Result<Option<Watermark>> {
        let columns = read.step.columns.iter().map(|column| column.evaluate(&found(batch, read)?));
        let mut columns = columns.collect::<Result<Vec<_>>>()?;
        if read.step.place {
            columns.push(new_null_array(&DataType::Utf8, batch.num_rows()));
        }
        let fields = read.schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
        let rows = batch_of(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns, batch.num_rows())?;
        let at = event_times(rows.column(time.column))?;
        let marks = event_times(&time.watermark.evaluate(&rows)?)?;
        let limit =
            now.map(|now| now.saturating_add(Micros::try_from(read.step.max_future.as_micros()).unwrap_or(i64::MAX)));
        let good = at.iter().zip(marks.iter()).filter(|(at, _)| limit.is_none_or(|limit| **at <= limit));
        Ok(good.map(|(_, mark)| Watermark::at(*mark)).max())
    };
    if let Ok(mark) = of(batch) {
        return Ok(mark);
    }
    Ok((0..batch.num_rows()).filter_map(|row| of(&batch.slice(row, 1)).ok().flatten()).max())
}

/// The records of `batch` as the table's source gives them.
pub fn found(batch: &Batch, read: &Read) -> Result<Batch> {
    let wanted = read.step.source.schema();
    let column = |field: &FieldRef| {
        let column = batch.column_by_name(field.name()).ok_or_else(|| {
            Error::internal(format!(
                "table \"{}\" is read with a column \"{}\" that it has not",
                read.table.name,
                field.name()
            ))
        })?;
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()).map_err(from_arrow),
        }
    };
    let columns = wanted.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    // where a key loses its row there are no values
    let wanted = if read.step.source.gives() == Gives::Upserts { loose(&wanted) } else { wanted };
    batch_of(wanted, columns, batch.num_rows())
}

/// The columns called `names`, by index.
fn columns_of(names: &[Named], schema: &Schema) -> Result<Vec<usize>> {
    let mut found: Vec<usize> = Vec::new();
    for name in names {
        match schema.index_of(&name.name) {
            Ok(index) if found.contains(&index) => {
                return Err(Error::invalid(format!("column '{}' is named twice", name.name)).at(name.place.clone()));
            }
            Ok(index) => found.push(index),
            Err(_) => {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                let error = Error::invalid(format!("unknown column '{}'", name.name));
                let error = match nearest(&name.name, known.iter().copied()) {
                    Some(near) => error.help(format!("did you mean '{near}'?")),
                    None => error.help(format!("the columns are {}", known.join(", "))),
                };
                return Err(error.at(name.place.clone()));
            }
        }
    }
    Ok(found)
}

fn view(table: &Named, columns: &[Named], schema: &Schema) -> Result<(View, Vec<FieldRef>)> {
    let columns = match columns {
        [] => (0..schema.fields().len()).collect(),
        named => columns_of(named, schema)?,
    };
    let fields: Vec<FieldRef> = columns.iter().map(|index| Arc::clone(&schema.fields()[*index])).collect();
    let names = fields.iter().map(|field| field.name().clone()).collect();
    Ok((View { table: table.name.clone(), columns, names }, fields))
}

/// How the changes of `rows` are told apart; what they are called becomes the same everywhere.
fn kinds(rows: &mut [Row], keyed: bool, table: &Named, place: &Excerpt) -> Result<Kinds> {
    let mut kinds = Kinds::Weights;
    for row in rows.iter_mut() {
        let kind = row.0.first_mut().ok_or_else(|| Error::internal("a change without its kind"))?;
        *kind = match kind.trim_matches('\'') {
            "1" | "+1" | "+" => "+1".into(),
            "-1" | "-" => "-1".into(),
            letters @ ("+I" | "-U" | "+U" | "-D") => {
                kinds = Kinds::Letters;
                letters.into()
            }
            other => {
                let error = Error::invalid(format!("{other} is no kind of change")).at(place.clone());
                return Err(error.help(format!(
                    "rows of '{}' are taken back: each change begins with +1 or -1, or with '+I', '-U', '+U' or '-D'",
                    table.name
                )));
            }
        };
    }
    if kinds == Kinds::Letters && !keyed {
        let error =
            Error::invalid(format!("table '{}' has no PRIMARY KEY, so none of its rows replaces another", table.name));
        return Err(error.help("write +1 and -1").at(place.clone()));
    }
    let mixed = |row: &Row| row.0.first().is_some_and(|kind| kind.ends_with('1'));
    if kinds == Kinds::Letters && rows.iter().any(mixed) {
        let error =
            Error::invalid("changes have either numbers or letters").help("write '+I', '-U', '+U' and '-D' only");
        return Err(error.at(place.clone()));
    }
    Ok(kinds)
}

/// Connectors of what is asked of the rows that were given so far.
struct Given<'a> {
    inner: &'a dyn Connectors,
    rows: &'a BTreeMap<String, Vec<Batch>>,
    answer: MemorySink,
}

impl Connectors for Given<'_> {
    fn specs(&self) -> &[ConnectorSpec] {
        self.inner.specs()
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        // so that its options are asked for; whether it can be read was seen before
        drop(self.inner.source(table, columns));
        let schema: SchemaRef = Arc::new(table.schema.project(columns).map_err(from_arrow)?);
        let part = |batch: &Batch| batch.project(columns).map_err(from_arrow);
        let batches = self.rows.get(&table.name).into_iter().flatten().map(part).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(MemorySource::new(schema, batches, 1)))
    }

    fn sink(&self, _: &Table, _: &SinkInput) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(self.answer.clone()))
    }

    fn functions(&self) -> &[ScalarFunction] {
        self.inner.functions()
    }

    fn operators(&self) -> &[Arc<dyn CustomOperator>] {
        self.inner.operators()
    }
}
