//! A [`Graph`] to a plan: every step is a view, every sink an INSERT.
//!
//! Steps are taken in an order in which each comes after what it reads. One that cannot be planned is a mistake of its own; what reads
//! it is left out, so that nothing is said twice.

use super::read::interval;
use super::shape::duration;
use super::{Graph, Keep, Op, Sink, Step, Values};
use crate::connector::Connectors;
use crate::error::{Error, Result, nearest};
use crate::plan::Plan;
use crate::sql::Text;
use crate::sql::phrase::{At, Phrase, Sentence};
use crate::sql::relations::{Columns, Relations, Table};
use std::collections::{BTreeMap, BTreeSet};

/// The columns that windows add.
const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// The plan of `graph`, or all that is wrong with it, `wrong` included.
pub(super) fn plan(
    graph: &Graph,
    text: Text,
    overrides: &[(String, String)],
    connectors: &dyn Connectors,
    wrong: Vec<Error>,
) -> Result<Plan, Vec<Error>> {
    relations(graph, text, connectors, wrong)?.plan(overrides).map_err(|error| vec![error])
}

/// What `graph` declares and inserts, or all that is wrong with it, `wrong` included.
pub(super) fn relations<'a>(
    graph: &'a Graph,
    text: Text<'a>,
    connectors: &'a dyn Connectors,
    wrong: Vec<Error>,
) -> Result<Relations<'a>, Vec<Error>> {
    let reads = graph.edges().fold(BTreeMap::new(), |mut reads: BTreeMap<String, usize>, name| {
        *reads.entry(called(text, name)).or_default() += 1;
        reads
    });
    let relations = Relations::new(text, reads, connectors);
    let mut lower = Lower { graph, text, relations, good: BTreeSet::new(), keys: BTreeMap::new(), wrong };
    lower.settings();
    lower.names();
    for source in &graph.sources {
        lower.keep(&source.name, |lower| lower.relations.table(source));
    }
    for step in lower.order() {
        lower.step(step);
    }
    // a sink may name another one for its late rows
    graph.sinks.iter().for_each(|sink| lower.sink_table(sink));
    graph.sinks.iter().for_each(|sink| lower.sink(sink));
    let Lower { relations, wrong, .. } = lower;
    if wrong.is_empty() { Ok(relations) } else { Err(wrong) }
}

/// What `name` is called in messages and when it is looked up.
fn called(text: Text, name: &Phrase) -> String {
    name.name(text).unwrap_or_else(|_| name.text().to_owned())
}

/// A column's name, whatever is in it.
fn quoted(name: &str, at: At) -> Phrase {
    Phrase::at(format!("\"{}\"", name.replace('"', "\"\"")), at)
}

impl Graph {
    /// Every name that is read, as often as it is.
    fn edges(&self) -> impl Iterator<Item = &Phrase> {
        self.steps.iter().flat_map(|step| &step.from).chain(self.sinks.iter().flat_map(|sink| &sink.from))
    }
}

/// Which row of a join's second input one of the first meets.
#[derive(Clone, Copy)]
enum Newest<'p> {
    /// The version at this time.
    AsOf(&'p Phrase),
    /// The newest one for which these times compare so.
    Match(&'p Phrase),
}

struct Lower<'a> {
    graph: &'a Graph,
    text: Text<'a>,
    relations: Relations<'a>,
    /// The sources and steps that can be read.
    good: BTreeSet<String>,
    /// The key that a step's rows carry on to the next aggregate.
    keys: BTreeMap<String, Vec<Phrase>>,
    wrong: Vec<Error>,
}

impl<'a> Lower<'a> {
    fn settings(&mut self) {
        for (name, value) in &self.graph.settings {
            let setting = if name.text() == "name" { "pipeline.name" } else { name.text() };
            if let Err(error) = self.relations.set(setting, name, value) {
                self.wrong.push(error);
            }
        }
    }

    fn say(&mut self, error: Error, about: &Phrase) {
        self.wrong.push(self.text.wrong(error, about));
    }

    /// Remembers `name` as good, or what is wrong with it.
    fn keep(&mut self, name: &Phrase, declare: impl FnOnce(&mut Self) -> Result<(), Vec<Error>>) {
        match declare(self) {
            Ok(()) => drop(self.good.insert(called(self.text, name))),
            Err(wrong) => self.wrong.extend(wrong),
        }
    }

    /// Refuses names that are there twice, that nobody has, and that nobody reads.
    fn names(&mut self) {
        let graph = self.graph;
        let mut known: BTreeMap<String, &str> = BTreeMap::new();
        let sources = graph.sources.iter().map(|source| (&source.name, "source"));
        let steps = graph.steps.iter().map(|step| (&step.name, "step"));
        let sinks = graph.sinks.iter().map(|sink| (&sink.table.name, "sink"));
        for (name, what) in sources.clone().chain(steps.clone()).chain(sinks) {
            let key = called(self.text, name);
            if let Some(other) = known.insert(key.clone(), what) {
                let error = Error::invalid(match other == what {
                    true => format!("two {what}s are called '{key}'"),
                    false => format!("'{key}' is there twice: as a {other} and as a {what}"),
                });
                self.say(error.help("sources, steps and sinks each have a name of their own"), name);
            }
        }
        let broken: BTreeSet<String> = graph.broken.iter().map(|name| called(self.text, name)).collect();
        let mut read = BTreeSet::new();
        for name in graph.edges() {
            let key = called(self.text, name);
            match known.get(&key) {
                Some(&"sink") => {
                    let error = Error::invalid(format!("'{key}' is a sink: its rows have left"));
                    self.say(error.help("read what the sink reads"), name);
                }
                None if !broken.contains(&key) => {
                    let error = Error::invalid(format!("there is no source or step '{key}'"));
                    let names = || known.iter().filter(|(_, what)| **what != "sink").map(|(name, _)| name.as_str());
                    let error = match nearest(&key, names()) {
                        Some(near) => error.help(format!("did you mean '{near}'?")),
                        None => error.help(format!("there are {}", names().collect::<Vec<_>>().join(", "))),
                    };
                    self.say(error, name);
                }
                _ => {}
            }
            read.insert(key);
        }
        // A part that cannot be read may be the one that reads it.
        if !broken.is_empty() {
            return;
        }
        for (name, what) in sources.chain(steps) {
            let key = called(self.text, name);
            if !read.contains(&key) {
                let error = Error::invalid(format!("nobody reads {what} '{key}'"));
                self.say(error.help("name it in a sink's or a step's 'from', or take it out"), name);
            }
        }
    }

    /// The steps, each after what it reads; those in a circle are left out and told.
    fn order(&mut self) -> Vec<&'a Step> {
        let graph = self.graph;
        let names: Vec<String> = graph.steps.iter().map(|step| called(self.text, &step.name)).collect();
        let place = |name: &Phrase| names.iter().position(|known| *known == called(self.text, name));
        let inputs: Vec<Vec<usize>> =
            graph.steps.iter().map(|step| step.from.iter().filter_map(place).collect()).collect();
        let mut order = Vec::new();
        let mut done = vec![false; names.len()];
        loop {
            let ready = |step: &usize| !done[*step] && inputs[*step].iter().all(|input| done[*input]);
            let Some(next) = (0..names.len()).find(ready) else { break };
            done[next] = true;
            order.push(&graph.steps[next]);
        }
        // Whoever walks from a step that is left to one that it waits for ends in a circle.
        while let Some(mut step) = done.iter().position(|done| !done) {
            let mut path = Vec::new();
            let circle = loop {
                if let Some(start) = path.iter().position(|seen| *seen == step) {
                    break path.split_off(start);
                }
                path.push(step);
                match inputs[step].iter().find(|input| !done[**input]) {
                    Some(input) => step = *input,
                    None => break Vec::new(),
                }
            };
            if let Some(&first) = circle.iter().min() {
                let turn = circle.iter().position(|step| *step == first).unwrap_or_default();
                let walk = circle.iter().cycle().skip(turn).take(circle.len() + 1).map(|step| names[*step].as_str());
                let walk = walk.collect::<Vec<_>>().join(" reads ");
                let error = Error::invalid(format!("these steps read each other in a circle: {walk}"));
                self.say(error.help("rows flow from sources to sinks"), &graph.steps[first].name);
            }
            path.into_iter().chain(circle).for_each(|step| done[step] = true);
        }
        order
    }

    /// True if all of `from` can be read; if not, that is told already.
    fn readable(&self, from: &[Phrase]) -> bool {
        from.iter().all(|name| self.good.contains(&called(self.text, name)))
    }

    fn step(&mut self, step: &'a Step) {
        if !self.readable(&step.from) {
            return;
        }
        if matches!(step.op, Op::Join { .. }) && step.from.len() != 2 {
            let error = Error::invalid(format!("a join reads two inputs, but here are {}", step.from.len()));
            return self.say(error.help("write from: [left, right]"), &step.from[0]);
        }
        if !matches!(step.op, Op::Union | Op::Join { .. }) && step.from.len() > 1 {
            let error = Error::invalid(format!("this step reads one input, but here are {}", step.from.len()));
            return self.say(error.help("put a step with op: union before it"), &step.from[1]);
        }
        let query = match self.query(step) {
            Ok(query) => query,
            Err(error) => return self.wrong.push(error),
        };
        self.keep(&step.name, |lower| lower.relations.view(&step.name, query));
        let key = match &step.op {
            Op::KeyBy { key } => Some(key.iter().map(|(name, _)| name.clone()).collect()),
            Op::Filter { .. } | Op::Window { .. } => self.keys.get(&called(self.text, &step.from[0])).cloned(),
            _ => None,
        };
        if let Some(key) = key {
            self.keys.insert(called(self.text, &step.name), key);
        }
    }

    /// The columns of something that can be read.
    fn columns(&self, name: &Phrase) -> Vec<String> {
        let schema = self.relations.columns(&called(self.text, name));
        schema.iter().flat_map(|schema| schema.fields()).map(|field| field.name().clone()).collect()
    }

    /// What a step says in SQL.
    fn query(&self, step: &Step) -> Result<Sentence<'a>> {
        let from = &step.from[0];
        let at = step.name.start();
        let sentence = || Sentence::new(self.text, at);
        Ok(match &step.op {
            Op::Filter { keep } => sentence().say("SELECT * FROM").name(from).say("WHERE").expression(keep),
            Op::Project { columns, keep } => {
                let kept = self.kept(from, keep, columns, at)?;
                values(sentence().say("SELECT"), &kept, columns).say("FROM").name(from)
            }
            Op::FlatMap { list, element, keep } => {
                let new = [(element.clone(), list.clone())];
                let kept = self.kept(from, keep, &new, at)?;
                let unnest = |s: Sentence<'a>, name: &Phrase| s.name(name);
                let sentence = sentence().say("SELECT").list(&kept, unnest);
                let sentence = if kept.is_empty() { sentence } else { sentence.say(",") };
                sentence.say("unnest(").expression(list).say(") AS").name(element).say("FROM").name(from)
            }
            Op::KeyBy { key } => {
                // Names alone are columns that are there; they stay where they are.
                key.iter()
                    .filter(|(name, value)| same(name, value))
                    .try_for_each(|(name, _)| self.column(from, name))?;
                let new: Values = key.iter().filter(|(name, value)| !same(name, value)).cloned().collect();
                let kept = self.kept(from, &Keep::All, &new, at)?;
                values(sentence().say("SELECT"), &kept, &new).say("FROM").name(from)
            }
            Op::Window { time, windows } => {
                self.column(from, time)?;
                let start = sentence().say("SELECT * FROM TABLE(").say(windows.function).say("(TABLE").name(from);
                let start = start.say(", DESCRIPTOR(").name(time).say(")");
                let lengths = windows.lengths.iter().map(|length| {
                    let micros = duration(length.text()).map_err(|error| self.text.wrong(error, length))?;
                    Ok(Phrase::at(interval(micros), length.start()))
                });
                let lengths = lengths.collect::<Result<Vec<_>>>()?;
                lengths.iter().fold(start, |s, length| s.say(",").expression(length)).say("))")
            }
            Op::Aggregate { key, calls } => self.aggregate(step, key.as_ref(), calls)?,
            Op::TopN { key, order, rows, rank } => {
                let key = self.key(step, key.as_ref())?;
                if key.is_empty() {
                    let error = Error::invalid("the first rows of what? These rows are in no windows and have no key");
                    return Err(self.text.wrong(error.help("put a step with op: window before it"), &step.name));
                }
                self.top_n(step, &key, order, rows, rank.as_ref())
            }
            Op::Join { kind, on, as_of, newest, columns } => {
                let time = match (as_of, newest) {
                    (Some(_), Some(newest)) => {
                        let error = Error::invalid("a join goes by as_of or by match, not by both");
                        return Err(self.text.wrong(error, newest));
                    }
                    (None, None) => None,
                    (Some(time), _) => Some(Newest::AsOf(time)),
                    (_, Some(times)) => Some(Newest::Match(times)),
                };
                self.join(step, kind, on, time, columns)?
            }
            Op::Operator { call, key } => {
                let key = self.plain_key(step, key.as_ref())?;
                self.relations.operator(call)?;
                let sentence = sentence().say("SELECT * FROM TABLE(").name(call).say("(TABLE").name(from);
                let sentence = match key.is_empty() {
                    true => sentence,
                    false => sentence.say("PARTITION BY").list(&key, |sentence, (name, _)| sentence.name(name)),
                };
                sentence.say("))")
            }
            Op::Union => self.union(step)?,
            Op::Distinct => sentence().say("SELECT DISTINCT * FROM").name(from),
        })
    }

    /// The columns of `from` that stay beside the `new` ones, which hide those of the same name.
    fn kept(&self, from: &Phrase, keep: &Keep, new: &[(Phrase, Phrase)], at: At) -> Result<Vec<Phrase>> {
        match keep {
            Keep::Columns(columns) => {
                columns.iter().try_for_each(|column| self.column(from, column))?;
                Ok(columns.clone())
            }
            Keep::All => {
                let hidden: BTreeSet<String> = new.iter().map(|(name, _)| called(self.text, name)).collect();
                let columns = self.columns(from).into_iter().filter(|column| !hidden.contains(column));
                Ok(columns.map(|column| quoted(&column, at)).collect())
            }
        }
    }

    /// Refuses a column that `from` does not have.
    fn column(&self, from: &Phrase, column: &Phrase) -> Result<()> {
        let (name, columns) = (column.name(self.text)?, self.columns(from));
        if columns.contains(&name) {
            return Ok(());
        }
        let error = Error::invalid(format!("'{}' has no column '{name}'", called(self.text, from)));
        let error = match nearest(&name, columns.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!("its columns are {}", columns.join(", "))),
        };
        Err(self.text.wrong(error, column))
    }

    /// The key of a step that goes by one: its own, else that of `key_by`.
    fn plain_key(&self, step: &Step, key: Option<&Values>) -> Result<Values> {
        let from = &step.from[0];
        let key: Values = match (key, self.keys.get(&called(self.text, from))) {
            (Some(key), _) => key.clone(),
            (None, Some(names)) => names.iter().map(|name| (name.clone(), name.clone())).collect(),
            (None, None) => Vec::new(),
        };
        key.iter().filter(|(name, value)| same(name, value)).try_for_each(|(name, _)| self.column(from, name))?;
        Ok(key)
    }

    /// The same, with the windows that its rows lie in.
    fn key(&self, step: &Step, key: Option<&Values>) -> Result<Values> {
        let (from, at) = (&step.from[0], step.name.start());
        let mut key = self.plain_key(step, key)?;
        let columns = self.columns(from);
        if WINDOW_COLUMNS[..2].iter().all(|bound| columns.iter().any(|column| column == bound)) {
            let named: BTreeSet<String> = key.iter().map(|(name, _)| called(self.text, name)).collect();
            let bounds = WINDOW_COLUMNS.into_iter().filter(|bound| columns.iter().any(|column| column == bound));
            let bounds = bounds.filter(|bound| !named.contains(*bound)).map(|bound| quoted(bound, at));
            let bounds: Values = bounds.map(|bound| (bound.clone(), bound)).collect();
            key.splice(0..0, bounds);
        }
        Ok(key)
    }

    fn aggregate(&self, step: &Step, key: Option<&Values>, calls: &Values) -> Result<Sentence<'a>> {
        let key = self.key(step, key)?;
        let all: Values = key.iter().chain(calls).cloned().collect();
        let sentence = values(Sentence::new(self.text, step.name.start()).say("SELECT"), &[], &all);
        let sentence = sentence.say("FROM").name(&step.from[0]);
        if key.is_empty() {
            return Ok(sentence);
        }
        Ok(sentence.say("GROUP BY").list(&key, |sentence, (_, value)| sentence.expression(value)))
    }

    /// Rows are numbered in a query below the one that keeps the first of them.
    fn top_n(&self, step: &Step, key: &Values, order: &Phrase, rows: &Phrase, rank: Option<&Phrase>) -> Sentence<'a> {
        let (from, at) = (&step.from[0], step.name.start());
        let number = rank.cloned().unwrap_or_else(|| quoted("row number", at));
        let mut columns: Vec<Phrase> = self.columns(from).iter().map(|column| quoted(column, at)).collect();
        let name = |sentence: Sentence<'a>, name: &Phrase| sentence.name(name);
        let inner = |sentence: Sentence<'a>, columns: &[Phrase]| {
            let sentence = sentence.say("SELECT").list(columns, name).say(", row_number() OVER (PARTITION BY");
            let sentence = sentence.list(key, |sentence, (_, value)| sentence.expression(value));
            sentence.say("ORDER BY").order(order).say(") AS").name(&number).say("FROM").name(from)
        };
        let kept = columns.clone();
        columns.extend(rank.cloned());
        let sentence = Sentence::new(self.text, at).say("SELECT").list(&columns, name).say("FROM (");
        inner(sentence, &kept).say(") WHERE").name(&number).say("<=").expression(rows)
    }

    /// Pairs are of one window where both inputs have windows: nobody has to say so. The window of a pair is that of the side whose rows
    /// all stay, or of the only side that has one.
    fn join(
        &self,
        step: &Step,
        kind: &str,
        on: &Phrase,
        newest: Option<Newest>,
        columns: &Values,
    ) -> Result<Sentence<'a>> {
        if let (Some(Newest::AsOf(time) | Newest::Match(time)), false) = (newest, matches!(kind, "inner" | "left")) {
            let error = Error::invalid(format!("a join as of a time is of kind 'inner' or 'left', not '{kind}'"));
            return Err(self.text.wrong(error, time));
        }
        let at = step.name.start();
        let [left, right] = step.from.as_slice() else { return Err(Error::internal("a join reads two inputs")) };
        let has_windows = |side: &Phrase| {
            let columns = self.columns(side);
            WINDOW_COLUMNS[..2].iter().all(|bound| columns.iter().any(|column| column == bound))
        };
        let windows = [has_windows(left), has_windows(right)];
        let equated = match windows {
            [true, true] if newest.is_none() => &WINDOW_COLUMNS[..2],
            _ => &[],
        };
        let same_window = |sentence: Sentence<'a>| {
            equated.iter().fold(sentence, |sentence, bound| {
                sentence.name(left).say(&format!(".{bound} =")).name(right).say(&format!(".{bound} AND"))
            })
        };
        let exists = match kind {
            "semi" => Some("WHERE EXISTS"),
            "anti" => Some("WHERE NOT EXISTS"),
            _ => None,
        };
        if columns.is_empty() && exists.is_none() {
            let error = Error::invalid("a join has no columns");
            let help = "name them: columns: { id: orders.id, … }; only kinds 'semi' and 'anti' have those of their first input";
            return Err(self.text.wrong(error.help(help), &step.name));
        }
        let whole = match (kind, windows) {
            ("right", [_, true]) | ("inner" | "left" | "full", [false, true]) => Some(right),
            (_, [true, _]) => Some(left),
            _ => None,
        };
        let named: BTreeSet<String> = columns.iter().map(|(name, _)| called(self.text, name)).collect();
        let bounds = WINDOW_COLUMNS[..2].iter().filter(|bound| !columns.is_empty() && !named.contains(**bound));
        let mut sentence = Sentence::new(self.text, at).say("SELECT");
        for bound in bounds {
            sentence = match (kind, whole) {
                ("full", _) if windows == [true, true] => sentence
                    .say("coalesce(")
                    .name(left)
                    .say(&format!(".{bound},"))
                    .name(right)
                    .say(&format!(".{bound}) AS {bound},")),
                (_, Some(whole)) => sentence.name(whole).say(&format!(".{bound},")),
                (_, None) => sentence,
            };
        }
        let sentence = match columns.is_empty() {
            true => sentence.say("*"),
            false => values(sentence, &[], columns),
        };
        let sentence = sentence.say("FROM").name(left);
        Ok(match exists {
            Some(exists) => {
                let sentence = sentence.say(exists).say("(SELECT 1 FROM").name(right).say("WHERE");
                same_window(sentence).say("(").expression(on).say("))")
            }
            None => {
                let sentence = match newest {
                    None => sentence.say(&format!("{kind} JOIN")).name(right),
                    Some(Newest::AsOf(time)) => {
                        let sentence = sentence.say(&format!("{kind} JOIN")).name(right);
                        sentence.say("FOR SYSTEM_TIME AS OF").expression(time)
                    }
                    Some(Newest::Match(times)) => {
                        let kind = if kind == "left" { "ASOF LEFT JOIN" } else { "ASOF JOIN" };
                        sentence.say(kind).name(right).say("MATCH_CONDITION (").expression(times).say(")")
                    }
                };
                let sentence = sentence.say("ON");
                same_window(sentence).say("(").expression(on).say(")")
            }
        })
    }

    /// The columns of the first input, which the others must have too.
    fn union(&self, step: &Step) -> Result<Sentence<'a>> {
        let at = step.name.start();
        let [first, others @ ..] = step.from.as_slice() else { return Err(Error::internal("a step reads something")) };
        if others.is_empty() {
            let error = Error::invalid("a union has two inputs or more, but here is one");
            return Err(self.text.wrong(error.help("write from: [a, b]"), first));
        }
        let columns = self.columns(first);
        for other in others {
            let theirs = self.columns(other);
            let missing = columns.iter().find(|column| !theirs.contains(column)).map(|column| (other, first, column));
            let extra = || theirs.iter().find(|column| !columns.contains(column)).map(|column| (first, other, column));
            if let Some((without, with, column)) = missing.or_else(extra) {
                let (without, with) = (called(self.text, without), called(self.text, with));
                let error = Error::invalid(format!("'{with}' has a column '{column}', but '{without}' has none"));
                let help = "inputs of a union have the same columns, in any order: put a project step before it";
                return Err(self.text.wrong(error.help(help), other));
            }
        }
        let select = |sentence: Sentence<'a>, from: &Phrase| {
            let names = columns.iter().map(|column| quoted(column, at));
            sentence.say("SELECT").list(names, |sentence, name| sentence.name(&name)).say("FROM").name(from)
        };
        let sentence = select(Sentence::new(self.text, at), first);
        Ok(others.iter().fold(sentence, |sentence, other| select(sentence.say("UNION ALL"), other)))
    }

    /// The columns of a sink: its own, or those of its input.
    fn sink_columns(&self, sink: &'a Sink) -> Columns {
        let schema = sink.from.first().and_then(|from| self.relations.columns(&called(self.text, from)));
        match (&sink.table.columns, schema) {
            (Columns::Like(_), Some(schema)) => Columns::Like(schema),
            (declared, _) => declared.clone(),
        }
    }

    fn sink_table(&mut self, sink: &'a Sink) {
        let Sink { from, table, .. } = sink;
        let key = called(self.text, &table.name);
        let into = |other: &Sink| other.ending.late.as_ref().is_some_and(|late| called(self.text, late) == key);
        if from.is_empty() && !self.graph.sinks.iter().any(into) {
            let error = Error::invalid(format!("nothing goes into sink '{key}'"));
            return self
                .say(error.help("say what it takes: from: NAME, or name it in another sink's late_into"), &table.name);
        }
        if from.is_empty() && matches!(table.columns, Columns::Like(_)) {
            let error = Error::invalid(format!("sink '{key}' takes late rows, but has no columns"));
            return self
                .say(error.help("name them: columns: { reason: STRING, watermark: TIMESTAMP, … }"), &table.name);
        }
        if self.readable(from) {
            let columns = self.sink_columns(sink);
            self.keep(&table.name, |lower| lower.relations.table(&Table { columns, ..table.clone() }));
        }
    }

    fn sink(&mut self, sink: &'a Sink) {
        let Sink { from, table, ending } = sink;
        if !self.readable(from) || !self.good.contains(&called(self.text, &table.name)) {
            return;
        }
        let names: Vec<Phrase> = match self.sink_columns(sink) {
            Columns::Declared(columns) => columns.iter().map(|(name, _)| name.clone()).collect(),
            Columns::Like(schema) => {
                schema.fields().iter().map(|field| quoted(field.name(), table.name.start())).collect()
            }
        };
        for from in from {
            let known = names.iter().try_for_each(|name| self.column(from, name));
            let written = known.map_err(|error| vec![error]).and_then(|()| {
                let query = Sentence::new(self.text, from.start()).say("SELECT");
                let query = query.list(&names, |query, name| query.name(name)).say("FROM").name(from);
                self.relations.insert(&table.name, &[], query, ending)
            });
            self.wrong.extend(written.err().into_iter().flatten());
        }
    }
}

/// True if the value of a new column is the column of its own name.
fn same(name: &Phrase, value: &Phrase) -> bool {
    name.text() == value.text()
}

/// Adds columns that stay and new ones: `a, b, value AS name`.
fn values<'a>(sentence: Sentence<'a>, kept: &[Phrase], new: &[(Phrase, Phrase)]) -> Sentence<'a> {
    let sentence = sentence.list(kept, |sentence, name| sentence.name(name));
    let sentence = if kept.is_empty() || new.is_empty() { sentence } else { sentence.say(",") };
    sentence.list(new, |sentence, (name, value)| sentence.expression(value).say("AS").name(name))
}
