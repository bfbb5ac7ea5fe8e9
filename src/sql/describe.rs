//! What a text declares and which functions there are, for people who ask.

use super::ddl::{ColumnKind, CreateTable};
use super::statements::{self, Kind};
use super::{Catalog, Session, Text, normal, refuse};
use crate::connector::{CONNECTOR, Connectors};
use crate::error::Result;
use crate::plan::type_name;
use arrow::datatypes::DataType;
use datafusion_expr::Documentation;
use datafusion_expr::planner::ContextProvider;
use regex::Regex;
use sqlparser::ast::{Expr, Function, FunctionArgumentList, FunctionArguments, Ident, ObjectName};
use std::collections::BTreeSet;

/// A table or view of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// What declares it.
    pub kind: RelationKind,
    /// The connector of a table.
    pub connector: Option<String>,
    /// Its columns, in order.
    pub columns: Vec<ColumnInfo>,
    /// The event-time column and its watermark: `ts AS ts - INTERVAL '5' SECOND`.
    pub watermark: Option<String>,
    /// The columns of PRIMARY KEY.
    pub primary_key: Vec<String>,
    /// True if a query reads it.
    pub read: bool,
    /// True if an INSERT writes it.
    pub written: bool,
    /// `file:line:column` of its declaration.
    pub place: String,
}

/// What declares something that has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// CREATE TABLE; a source or a sink of a graph.
    Table,
    /// CREATE VIEW.
    View,
    /// CREATE MATERIALIZED VIEW: it can be asked while the pipeline runs.
    Served,
    /// A step of a graph.
    Step,
}

impl RelationKind {
    /// `table`, `view`, `materialized view` or `step`.
    pub fn name(self) -> &'static str {
        match self {
            RelationKind::Table => "table",
            RelationKind::View => "view",
            RelationKind::Served => "materialized view",
            RelationKind::Step => "step",
        }
    }
}

/// A column of a table or view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// Its type, as SQL writes it.
    pub data_type: String,
    /// True if it may be NULL.
    pub nullable: bool,
    /// The expression of a computed column.
    pub computed: Option<String>,
    /// What it is of a record's metadata, and that it is VIRTUAL: `offset`, `offset VIRTUAL`.
    pub metadata: Option<String>,
}

/// The tables and views of `text`, in the order of their declarations.
///
/// # Errors
/// As [`plan`](super::plan) for a text that cannot be understood; of the connectors' own checks only those of single options are made.
pub fn relations(text: Text, connectors: &dyn Connectors) -> Result<Vec<Relation>> {
    let statements = statements::parse(text);
    let mut session = Session::new(text, &statements, connectors);
    let mut relations: Vec<Relation> = Vec::new();
    let mut written = BTreeSet::new();
    let mut inserts = 0;
    for statement in statements {
        match statement.kind {
            Kind::Set { .. } | Kind::Explain(_) => {}
            Kind::Wrong(error, _) => return Err(error),
            Kind::CreateTable(table) => {
                let facts = Facts::of(&table);
                session.create_table(*table, connectors)?;
                if !relations.iter().any(|relation| relation.name == facts.name) {
                    relations.push(facts.relation(&session, text.place(statement.start)));
                }
            }
            Kind::CreateFunction(function) => session.create_function(*function, connectors)?,
            Kind::CreateView(view) => {
                let name = normal(&view.name);
                let kind = if view.materialized { RelationKind::Served } else { RelationKind::View };
                session.create_view(view, statement.start)?;
                // IF NOT EXISTS
                if !relations.iter().any(|relation| relation.name == name) {
                    relations.push(view_relation(&session, name, kind, text.place(statement.start)));
                }
            }
            Kind::Insert(insert) => {
                written.extend(insert.table.as_ref().map(normal));
                session.insert(insert, inserts)?;
                inserts += 1;
            }
        }
    }
    note_uses(&mut relations, &session, &written);
    Ok(relations)
}

/// Says of each whether it is read, and whether it is one of those `written`.
pub(super) fn note_uses(relations: &mut [Relation], session: &Session, written: &BTreeSet<String>) {
    for relation in relations {
        relation.read = session.reads.contains_key(&relation.name);
        relation.written = written.contains(&relation.name);
    }
}

/// What a table's declaration says beyond its columns' types.
pub(super) struct Facts {
    name: String,
    watermark: Option<String>,
    primary_key: Vec<String>,
    /// For each column what is computed, or what it is of the metadata.
    origins: Vec<(Option<String>, Option<String>)>,
}

impl Facts {
    pub fn of(table: &CreateTable) -> Self {
        Facts {
            name: normal(&table.name),
            watermark: table.watermark.as_ref().map(|mark| format!("{} AS {}", mark.column, mark.value)),
            primary_key: table.primary_key.iter().map(normal).collect(),
            origins: table.columns.iter().map(|c| (computed(&c.kind), metadata(&c.kind))).collect(),
        }
    }

    /// The table, which `session` has by now, declared at `place`.
    pub fn relation(self, session: &Session, place: String) -> Relation {
        let mut columns = columns(&session.catalog.tables[&self.name].schema);
        for (column, (computed, metadata)) in columns.iter_mut().zip(self.origins) {
            (column.computed, column.metadata) = (computed, metadata);
        }
        Relation {
            kind: RelationKind::Table,
            connector: session.definitions[&self.name].options.text(&CONNECTOR).map(str::to_owned),
            name: self.name,
            columns,
            watermark: self.watermark,
            primary_key: self.primary_key,
            read: false,
            written: false,
            place,
        }
    }
}

/// The view `name` of `session`, declared at `place`.
pub(super) fn view_relation(session: &Session, name: String, kind: RelationKind, place: String) -> Relation {
    Relation {
        kind,
        connector: None,
        columns: columns(&session.catalog.views[&name].schema),
        watermark: None,
        primary_key: Vec::new(),
        read: false,
        written: false,
        place,
        name,
    }
}

fn computed(kind: &ColumnKind) -> Option<String> {
    match kind {
        ColumnKind::Physical { .. } | ColumnKind::Metadata { .. } => None,
        ColumnKind::Computed { value, .. } => Some(value.to_string()),
    }
}

fn metadata(kind: &ColumnKind) -> Option<String> {
    match kind {
        ColumnKind::Metadata { name, is_virtual, .. } => {
            Some(format!("{name}{}", if *is_virtual { " VIRTUAL" } else { "" }))
        }
        _ => None,
    }
}

fn columns(schema: &arrow::datatypes::Schema) -> Vec<ColumnInfo> {
    let column = |field: &arrow::datatypes::FieldRef| ColumnInfo {
        name: field.name().clone(),
        data_type: type_name(field.data_type()),
        nullable: field.is_nullable(),
        computed: None,
        metadata: None,
    };
    schema.fields().iter().map(column).collect()
}

/// A function that SQL may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// Where it may stand.
    pub kind: FunctionKind,
    /// How it is called: `round(numeric_expression, decimal_places)`.
    pub signature: String,
    /// What it gives, in a sentence; empty where no one has written one.
    pub about: String,
    /// Its other names.
    pub aliases: Vec<String>,
}

/// Where a function may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionKind {
    /// In FROM: says in which windows rows lie.
    Window,
    /// One value for many rows.
    Aggregate,
    /// One value for each row.
    Scalar,
    /// Before OVER.
    Over,
    /// In FROM: an operator that the program brings along.
    Operator,
}

impl FunctionKind {
    /// `window`, `aggregate`, `scalar`, `over` or `operator`.
    pub fn name(self) -> &'static str {
        match self {
            FunctionKind::Window => "window",
            FunctionKind::Aggregate => "aggregate",
            FunctionKind::Scalar => "scalar",
            FunctionKind::Over => "over",
            FunctionKind::Operator => "operator",
        }
    }
}

/// Every function, by kind and name; of those that the program brings along, what it says.
pub fn functions(connectors: &dyn Connectors) -> Vec<FunctionInfo> {
    let catalog = Catalog::new();
    let own = |kind, name: &str, signature: String, about: &str| FunctionInfo {
        name: name.to_owned(),
        kind,
        signature,
        about: about.to_owned(),
        aliases: Vec::new(),
    };
    let mut functions: Vec<FunctionInfo> = Vec::new();
    for function in connectors.functions() {
        let call = called(function.name(), function.arguments(), function.returns());
        functions.push(own(FunctionKind::Scalar, function.name(), call, OF_THE_PROGRAM));
    }
    for function in connectors.aggregates() {
        let call = called(function.name(), function.arguments(), function.returns());
        functions.push(own(FunctionKind::Aggregate, function.name(), call, OF_THE_PROGRAM));
    }
    for operator in connectors.operators() {
        let name = operator.name();
        let call = format!("TABLE({name}(TABLE t [PARTITION BY key, …]))");
        functions.push(own(FunctionKind::Operator, name, call, OF_THE_PROGRAM));
    }
    let listed = TABLE_FUNCTIONS
        .iter()
        .chain(&OURS)
        .filter(|(_, name, ..)| functions.iter().all(|function| function.name != *name))
        .map(|(kind, name, signature, about)| FunctionInfo {
            name: (*name).to_owned(),
            kind: *kind,
            signature: (*signature).to_owned(),
            about: (*about).to_owned(),
            aliases: Vec::new(),
        })
        .collect::<Vec<_>>();
    functions.extend(listed);
    let mut add = |kind, name: &str, aliases: &[String], documentation: Option<&Documentation>| {
        if functions.iter().any(|known| known.name == name) || !callable(name, &catalog) {
            return;
        }
        functions.push(FunctionInfo {
            name: name.to_owned(),
            kind,
            signature: match documentation {
                Some(documentation) => documentation.syntax_example.trim().to_owned(),
                None => format!("{name}(…)"),
            },
            about: documentation.map(|documentation| first_sentence(&documentation.description)).unwrap_or_default(),
            aliases: aliases.to_vec(),
        });
    };
    for name in catalog.udaf_names() {
        let Some(function) = catalog.get_aggregate_meta(&name) else { continue };
        add(FunctionKind::Aggregate, function.name(), function.aliases(), function.documentation());
    }
    for name in catalog.udf_names() {
        let Some(function) = catalog.get_function_meta(&name) else { continue };
        add(FunctionKind::Scalar, function.name(), function.aliases(), function.documentation());
    }
    functions.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    functions
}

/// The functions that `text` declares, in order.
///
/// # Errors
/// As [`relations`], of the statements that declare something.
pub fn declared_functions(text: Text, connectors: &dyn Connectors) -> Result<Vec<FunctionInfo>> {
    let statements = statements::parse(text);
    let mut session = Session::new(text, &statements, connectors);
    for statement in statements {
        match statement.kind {
            Kind::CreateFunction(function) => session.create_function(*function, connectors)?,
            Kind::Wrong(error, _) => return Err(error),
            _ => {}
        }
    }
    let info = |function: super::guest::FunctionDef| FunctionInfo {
        name: function.name,
        kind: if function.aggregate { FunctionKind::Aggregate } else { FunctionKind::Scalar },
        signature: function.signature,
        about: function.about,
        aliases: Vec::new(),
    };
    Ok(session.functions.into_iter().map(info).collect())
}

/// `initials(STRING) STRING`.
fn called(name: &str, arguments: &[DataType], returns: &DataType) -> String {
    let arguments = arguments.iter().map(type_name).collect::<Vec<_>>().join(", ");
    format!("{name}({arguments}) {}", type_name(returns))
}

/// What is said of a function that nobody here has written.
const OF_THE_PROGRAM: &str = "A part of this program";

const TABLE_FUNCTIONS: [(FunctionKind, &str, &str, &str); 4] = [
    (
        FunctionKind::Window,
        "tumble",
        "TUMBLE(TABLE t, DESCRIPTOR(ts), size [, offset])",
        "Windows of one size that follow each other",
    ),
    (
        FunctionKind::Window,
        "hop",
        "HOP(TABLE t, DESCRIPTOR(ts), slide, size [, offset])",
        "Windows of one size, a new one after each slide",
    ),
    (
        FunctionKind::Window,
        "cumulate",
        "CUMULATE(TABLE t, DESCRIPTOR(ts), step, size [, offset])",
        "Windows that grow by a step up to their size",
    ),
    (
        FunctionKind::Window,
        "session",
        "SESSION(TABLE t PARTITION BY key, DESCRIPTOR(ts), gap)",
        "Windows of a key that end when no row came for a gap",
    ),
];

/// Functions that DataFusion does not have, or has another way.
const OURS: [(FunctionKind, &str, &str, &str); 5] = [
    (FunctionKind::Scalar, "split_words", "split_words(text)", "The words of a text: what stands between white space"),
    (
        FunctionKind::Scalar,
        "split_index",
        "split_index(text, delimiter, index)",
        "The part between delimiters, counted from 0; NULL if there is none",
    ),
    (
        FunctionKind::Scalar,
        "regexp_extract",
        "regexp_extract(text, pattern, group)",
        "What the group matched, 0 for all of the pattern; NULL without a match",
    ),
    (FunctionKind::Scalar, "unnest", "unnest(list)", "A row for each element of a list; in SELECT only"),
    (
        FunctionKind::Over,
        "row_number",
        "row_number() OVER (PARTITION BY window_start, window_end [, …] ORDER BY …)",
        "The row's number in its window; bound it in WHERE: n <= 10",
    ),
];

/// True if a query may call it: it is not refused.
fn callable(name: &str, catalog: &Catalog) -> bool {
    let call = Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::new(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    });
    refuse::refuse(&call, catalog, Text { name: "", sql: "" }).is_none()
}

/// The first sentence, on one line, without its full stop and without links.
fn first_sentence(text: &str) -> String {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("the pattern is a constant that parses");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = link.replace_all(&text, "$1");
    let end = text.match_indices(". ").map(|(at, _)| at).find(|at| {
        let before = &text[..*at];
        !["e.g", "i.e", "etc"].iter().any(|short| before.ends_with(short))
    });
    text[..end.unwrap_or(text.len())].trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::builtin::Builtin;

    #[test]
    fn tables_say_what_they_hold_and_what_is_done_with_them() {
        let sql = "
            CREATE TABLE t (a BIGINT NOT NULL, ms BIGINT, ts AS to_timestamp_millis(ms),
                WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'x', 'format' = 'json');
            CREATE VIEW v AS SELECT a + 1 AS b FROM t;
            CREATE TABLE o (b BIGINT, PRIMARY KEY (b) NOT ENFORCED) WITH ('connector' = 'print');
            INSERT INTO o SELECT b FROM v;";
        let found = relations(Text { name: "p.sql", sql }, &Builtin::default()).unwrap();
        let line = |relation: &Relation| {
            let columns = relation.columns.iter().map(|column| {
                let null = if column.nullable { "" } else { " NOT NULL" };
                let computed = column.computed.as_ref().map(|text| format!(" AS {text}")).unwrap_or_default();
                format!("{} {}{null}{computed}", column.name, column.data_type)
            });
            format!(
                "{} {:?} {:?} key {:?} read {} written {} at {}: {}",
                relation.name,
                relation.connector.as_deref().unwrap_or("view"),
                relation.watermark.as_deref().unwrap_or("no watermark"),
                relation.primary_key,
                relation.read,
                relation.written,
                relation.place,
                columns.collect::<Vec<_>>().join(", ")
            )
        };
        assert_eq!(
            found.iter().map(line).collect::<Vec<_>>(),
            [
                "t \"file\" \"ts AS ts - INTERVAL '5' SECOND\" key [] read true written false at p.sql:2:13: \
                 a BIGINT NOT NULL, ms BIGINT, ts TIMESTAMP AS to_timestamp_millis(ms)",
                "v \"view\" \"no watermark\" key [] read true written false at p.sql:4:13: b BIGINT NOT NULL",
                "o \"print\" \"no watermark\" key [\"b\"] read false written true at p.sql:5:13: b BIGINT",
            ]
        );
    }

    #[test]
    fn functions_are_those_that_can_be_called() {
        let functions = functions(&Builtin::default());
        let find = |name: &str| functions.iter().find(|function| function.name == name);
        let upper = find("upper").unwrap();
        assert_eq!((upper.kind, upper.signature.as_str()), (FunctionKind::Scalar, "upper(str)"));
        assert_eq!(upper.about, "Converts a string to upper-case");
        assert_eq!(find("count").unwrap().kind, FunctionKind::Aggregate);
        for window in super::super::windows::Function::ALL {
            let found = find(&window.to_string().to_lowercase()).map(|function| function.kind);
            assert_eq!(found, Some(FunctionKind::Window), "{window}");
        }
        for refused in ["now", "random", "uuid", "nth_value", "rank", "lag"] {
            assert_eq!(find(refused), None, "{refused}");
        }
        let mut names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), functions.len(), "each is there once");
        assert!(functions.iter().all(|function| !function.signature.is_empty() && !function.about.contains('\n')));
        assert!(functions.iter().all(|function| !function.about.is_empty()), "each says what it gives");
        assert!(functions.iter().all(|function| !function.about.contains("](")), "no links");
    }
}
