//! Checked nodes to a [`Graph`].

use super::shape::{Check, Shape, duration};
use super::spec::{DEFINITION, JOINS, PIPELINE, SINK, SOURCE, STEPS};
use super::yaml::{self, Node, Value};
use super::{Graph, Keep, Op, Sink, Step, Values, Windows};
use crate::error::Error;
use crate::sql::Text;
use crate::sql::phrase::Phrase;
use crate::sql::relations::{Column, Columns, EndingWords, Table};
use std::time::Duration;

/// The graph in `text`, without the parts that have mistakes; these go to `wrong`.
pub(super) fn graph(text: Text, wrong: &mut Vec<Error>) -> Graph {
    let mut graph = Graph::default();
    let Some(document) = yaml::load(text, wrong) else { return graph };
    let mut check = Check { text, wrong: Vec::new() };
    check.node("the definition", &document, &Shape::Object(&DEFINITION));
    wrong.append(&mut check.wrong);
    let document = Fields(&document);
    if let Some(pipeline) = document.get("pipeline") {
        let known = |name: &Phrase| PIPELINE.fields.iter().any(|field| field.name == name.text());
        graph.settings = pairs(entries(pipeline)).into_iter().filter(|(name, _)| known(name)).collect();
    }
    let mut each = |list: &str, shape: Shape, read: &mut dyn FnMut(Fields)| {
        for node in document.get(list).map_or(&[][..], items) {
            let mut check = Check { text, wrong: Vec::new() };
            check.node(list, node, &shape);
            match check.wrong.is_empty() {
                true => read(Fields(node)),
                false => graph.broken.extend(Fields(node).get("name").and_then(scalar).cloned()),
            }
        }
    };
    each("sources", Shape::Object(&SOURCE), &mut |fields| graph.sources.push(source(fields)));
    each("steps", Shape::Step(STEPS), &mut |fields| graph.steps.push(step(fields)));
    each("sinks", Shape::Object(&SINK), &mut |fields| graph.sinks.push(sink(fields)));
    graph
}

/// The fields of a mapping that has been checked.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a Node);

impl<'a> Fields<'a> {
    fn get(self, name: &str) -> Option<&'a Node> {
        entries(self.0).iter().find(|(key, _)| key.text() == name).map(|(_, node)| node)
    }

    fn phrase(self, name: &str) -> Option<Phrase> {
        self.get(name).and_then(scalar).cloned()
    }

    fn must(self, name: &str) -> Phrase {
        self.phrase(name).unwrap_or_else(|| Phrase::at("", self.0.at))
    }

    fn names(self, name: &str) -> Vec<Phrase> {
        self.get(name).map(names).unwrap_or_default()
    }

    fn values(self, name: &str) -> Option<Values> {
        self.get(name).map(|node| match &node.value {
            Value::Map(entries) => pairs(entries),
            _ => names(node).into_iter().map(|name| (name.clone(), name)).collect(),
        })
    }

    fn keep(self, default: Keep) -> Keep {
        match self.get("keep") {
            None => default,
            Some(node) if scalar(node).is_some_and(|word| word.text() == "all") => Keep::All,
            Some(node) => Keep::Columns(names(node)),
        }
    }
}

fn entries(node: &Node) -> &[(Phrase, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn scalar(node: &Node) -> Option<&Phrase> {
    match &node.value {
        Value::Scalar(phrase, _) => Some(phrase),
        _ => None,
    }
}

fn names(node: &Node) -> Vec<Phrase> {
    scalar(node).into_iter().chain(items(node).iter().filter_map(scalar)).cloned().collect()
}

fn pairs(entries: &[(Phrase, Node)]) -> Values {
    entries.iter().filter_map(|(key, node)| Some((key.clone(), scalar(node)?.clone()))).collect()
}

/// What sources and sinks have in common.
fn table(fields: Fields, columns: Columns) -> Table {
    let connector =
        fields.get("connector").and_then(scalar).map(|value| (Phrase::at("connector", value.start()), value.clone()));
    let options = fields.get("options").map(|node| pairs(entries(node))).unwrap_or_default();
    Table {
        name: fields.must("name"),
        columns,
        watermark: None,
        primary_key: fields.names("primary_key"),
        options: connector.into_iter().chain(options).collect(),
    }
}

fn source(fields: Fields) -> Table {
    let column = |(name, node): &(Phrase, Node)| {
        let column = match scalar(node) {
            Some(data_type) => Column::Typed(data_type.clone()),
            None => Column::Computed(Fields(node).must("as")),
        };
        (name.clone(), column)
    };
    let columns = fields.get("columns").map(entries).unwrap_or_default().iter().map(column).collect();
    let watermark = fields.get("watermark").map(|node| {
        let (column, delay) = (Fields(node).must("column"), Fields(node).phrase("delay"));
        let value = match delay {
            Some(delay) => {
                let value = format!("{} - {}", column.text(), interval(duration(delay.text()).unwrap_or_default()));
                Phrase::at(value, delay.start())
            }
            None => Fields(node).must("as"),
        };
        (column, value)
    });
    Table { watermark, ..table(fields, Columns::Declared(columns)) }
}

/// A duration as SQL has it.
pub(super) fn interval(duration: Duration) -> String {
    format!("INTERVAL '{} microseconds'", duration.as_micros())
}

fn step(fields: Fields) -> Step {
    let op = match fields.must("op").text() {
        "filter" => Op::Filter { keep: fields.must("where") },
        "project" => Op::Project {
            columns: fields.values("columns").unwrap_or_default(),
            keep: fields.keep(Keep::Columns(Vec::new())),
        },
        "flat_map" => {
            Op::FlatMap { list: fields.must("unnest"), element: fields.must("as"), keep: fields.keep(Keep::All) }
        }
        "key_by" => Op::KeyBy { key: fields.values("key").unwrap_or_default() },
        "window" => Op::Window { time: fields.must("time"), windows: windows(fields) },
        "aggregate" => {
            Op::Aggregate { key: fields.values("key"), calls: fields.values("aggregates").unwrap_or_default() }
        }
        "top_n" => Op::TopN {
            key: fields.values("key"),
            order: fields.must("order_by"),
            rows: fields.must("rows"),
            rank: fields.phrase("rank"),
        },
        "dedup" => Op::TopN {
            key: fields.values("key"),
            order: fields.must("order_by"),
            rows: Phrase::at("1", fields.0.at),
            rank: None,
        },
        "join" => Op::Join {
            kind: fields
                .phrase("kind")
                .and_then(|kind| JOINS.into_iter().find(|known| *known == kind.text()))
                .unwrap_or(JOINS[0]),
            on: fields.must("on"),
            as_of: fields.phrase("as_of"),
            newest: fields.phrase("match"),
            columns: fields.values("columns").unwrap_or_default(),
        },
        "operator" => Op::Operator { call: fields.must("call"), key: fields.values("key") },
        "union" => Op::Union,
        _ => Op::Distinct,
    };
    Step { name: fields.must("name"), from: fields.names("from"), op }
}

/// The window function, and its lengths in the order of its arguments.
fn windows(fields: Fields) -> Windows {
    let functions: [(&str, &str, &[&str]); 4] = [
        ("tumble", "TUMBLE", &["size", "offset"]),
        ("hop", "HOP", &["slide", "size", "offset"]),
        ("cumulate", "CUMULATE", &["step", "size", "offset"]),
        ("session", "SESSION", &[]),
    ];
    let given =
        functions.into_iter().find_map(|(name, function, lengths)| Some((function, lengths, fields.get(name)?)));
    let (function, lengths, node) = given.unwrap_or(("TUMBLE", &[], fields.0));
    let lengths = match scalar(node) {
        Some(size) => vec![size.clone()],
        None => lengths.iter().filter_map(|name| Fields(node).phrase(name)).collect(),
    };
    Windows { function, lengths }
}

fn sink(fields: Fields) -> Sink {
    let typed = |(name, data_type)| (name, Column::Typed(data_type));
    let columns = fields.get("columns").map(|node| pairs(entries(node)).into_iter().map(typed).collect());
    let like_input = || Columns::Like(arrow::datatypes::SchemaRef::new(arrow::datatypes::Schema::empty()));
    let columns = columns.map_or_else(like_input, Columns::Declared);
    let ending = EndingWords {
        emit: fields.phrase("emit"),
        lateness: fields.phrase("allowed_lateness"),
        late: fields.phrase("late_into"),
    };
    Sink { from: fields.names("from"), table: table(fields, columns), ending }
}
