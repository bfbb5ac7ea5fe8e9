//! Tables, views and inserts from a definition that is not SQL text: the planner's door for other front ends.
//!
//! Each call plans at once and leaves the others alone, so a front end can go on after a mistake and tell all of them. What comes out
//! is planned as the same statements in SQL are, so it is the same plan.

use super::ddl::{ColumnKind, ColumnText, CreateTable, parse_element};
use super::describe::{Facts, Relation, RelationKind, note_uses, view_relation};
use super::phrase::{Phrase, Sentence};
use super::place::Text;
use super::planner::Query;
use super::statements::{CreateView, DIALECT, EmitClause, Ending, Failure, Insert, rewrite};
use super::{Session, normal, settings};
use crate::connector::{Connectors, OptionText};
use crate::error::{Error, Result, nearest};
use crate::plan::Plan;
use crate::time::Micros;
use arrow::datatypes::SchemaRef;
use sqlparser::ast::Ident;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};
use std::collections::{BTreeMap, BTreeSet};

/// What [`Relations::insert`] may be told about when rows leave.
const EMITS: [(&str, EmitClause); 3] =
    [("final", EmitClause::Final), ("changes", EmitClause::Changes), ("on_window_close", EmitClause::OnWindowClose)];

/// The columns of a table.
#[derive(Debug, Clone)]
pub enum Columns {
    /// Declared ones, by name and in order.
    Declared(Vec<(Phrase, Column)>),
    /// Those of rows that are already there.
    Like(SchemaRef),
}

/// Where a column's values come from.
#[derive(Debug, Clone)]
pub enum Column {
    /// From outside: a type, perhaps with `NOT NULL` and the like behind it.
    Typed(Phrase),
    /// From the other columns of its row: an expression.
    Computed(Phrase),
}

/// A table in pieces.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: Phrase,
    /// Its columns.
    pub columns: Columns,
    /// The event-time column and the watermark that a row stands for.
    pub watermark: Option<(Phrase, Phrase)>,
    /// The columns of its key.
    pub primary_key: Vec<Phrase>,
    /// Its options, `connector` included.
    pub options: Vec<(Phrase, Phrase)>,
}

/// The relations of one pipeline, as far as they are declared.
pub struct Relations<'a> {
    session: Session<'a>,
    connectors: &'a dyn Connectors,
    queries: Vec<Query>,
    declared: Vec<Relation>,
    written: BTreeSet<String>,
}

impl<'a> Relations<'a> {
    /// None yet. `reads` says how many times each is going to be read: what is read twice is planned once for all.
    pub fn new(text: Text<'a>, reads: BTreeMap<String, usize>, connectors: &'a dyn Connectors) -> Self {
        Relations {
            session: Session::with_reads(text, reads, connectors),
            connectors,
            queries: Vec::new(),
            declared: Vec::new(),
            written: BTreeSet::new(),
        }
    }

    /// Changes setting `setting`, as `SET` does; `name` is what the definition calls it.
    pub fn set(&mut self, setting: &str, name: &Phrase, value: &Phrase) -> Result<()> {
        let option = option(self.session.text, name, value);
        settings::set(&mut self.session.settings, setting, option)
    }

    /// The columns of a table or view, if it is declared.
    pub fn columns(&self, name: &str) -> Option<SchemaRef> {
        let catalog = &self.session.catalog;
        let table = catalog.tables.get(name).map(|table| SchemaRef::clone(&table.schema));
        table.or_else(|| catalog.views.get(name).map(|view| SchemaRef::clone(&view.schema)))
    }

    /// Refuses an operator that the program has not brought along.
    pub fn operator(&self, call: &Phrase) -> Result<()> {
        let name = call.name(self.session.text)?;
        let names = || self.connectors.operators().iter().map(|operator| operator.name());
        if names().any(|known| known.eq_ignore_ascii_case(&name)) {
            return Ok(());
        }
        let error = Error::invalid(format!("unknown operator '{name}'"));
        let error = match nearest(&name, names()) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None if names().next().is_none() => error.help("operators come from the program: see docs/rust.md"),
            None => error.help(format!("the program's operators are {}", names().collect::<Vec<_>>().join(", "))),
        };
        Err(self.session.text.wrong(error, call))
    }

    /// Declares a table.
    ///
    /// # Errors
    /// All mistakes that can be told from one another.
    pub fn table(&mut self, parts: &Table) -> Result<(), Vec<Error>> {
        let text = self.session.text;
        let mut wrong = Vec::new();
        let mut table = CreateTable {
            name: Ident::new(""),
            if_not_exists: false,
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            // there is no other way to say it here
            key_trusted: true,
            options: BTreeMap::new(),
            wrong: Vec::new(),
        };
        let mut keep = |result: Result<()>| wrong.extend(result.err());
        keep(parts.name.ident(text).map(|name| table.name = name));
        match &parts.columns {
            Columns::Declared(columns) => {
                for (name, kind) in columns {
                    keep(element(text, column_words(text, name, kind), &mut table));
                }
            }
            Columns::Like(schema) => table.columns.extend(schema.fields().iter().map(|field| {
                let kind = ColumnKind::Physical { data_type: field.data_type().clone(), nullable: field.is_nullable() };
                ColumnText { name: Ident::with_quote('"', field.name()), kind }
            })),
        }
        if let Some((column, value)) = &parts.watermark {
            keep(element(text, watermark_words(text, column, value), &mut table));
        }
        for column in &parts.primary_key {
            keep(column.ident(text).map(|name| table.primary_key.push(name)));
        }
        for (name, value) in &parts.options {
            table.options.insert(name.text().to_owned(), option(text, name, value));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let facts = Facts::of(&table);
        self.session.create_table(table, self.connectors).map_err(|error| vec![error])?;
        self.declared.push(facts.relation(&self.session, text.place(parts.name.start().into())));
        Ok(())
    }

    /// Names a query.
    pub fn view(&mut self, name: &Phrase, query: Sentence) -> Result<(), Vec<Error>> {
        let query = query.query()?;
        let one = |error| vec![error];
        let view = CreateView {
            name: name.ident(self.session.text).map_err(one)?,
            materialized: false,
            columns: Vec::new(),
            query,
            if_not_exists: false,
        };
        let (called, start) = (normal(&view.name), name.start().into());
        self.session.create_view(view, start).map_err(one)?;
        let place = self.session.text.place(start);
        self.declared.push(view_relation(&self.session, called, RelationKind::Step, place));
        Ok(())
    }

    /// Lets `query`'s rows go into `columns` of `table`, all of them if there are none. `ending` says when: see docs/graph.md.
    pub fn insert(
        &mut self,
        table: &Phrase,
        columns: &[Phrase],
        query: Sentence,
        ending: &EndingWords,
    ) -> Result<(), Vec<Error>> {
        let text = self.session.text;
        let one = |error| vec![error];
        let query = query.query()?;
        let insert = Insert {
            start: table.start().into(),
            table: Some(table.ident(text).map_err(one)?),
            columns: columns.iter().map(|column| column.ident(text)).collect::<Result<_>>().map_err(one)?,
            query,
            ending: ending.read(text).map_err(one)?,
        };
        self.written.extend(insert.table.as_ref().map(normal));
        self.queries.push(self.session.insert(insert, 0).map_err(one)?);
        Ok(())
    }

    /// All that was declared, in order.
    pub fn list(mut self) -> Vec<Relation> {
        note_uses(&mut self.declared, &self.session, &self.written);
        self.declared
    }

    /// The plan of all inserts, with `overrides` as `--set key=value` gives them.
    pub fn plan(mut self, overrides: &[(String, String)]) -> Result<Plan> {
        settings::set_all(&mut self.session.settings, overrides)?;
        self.session.steps(self.queries, self.connectors)
    }
}

fn option(text: Text, name: &Phrase, value: &Phrase) -> OptionText {
    OptionText { text: value.text().to_owned(), places: Some((text.excerpt(name.span()), text.excerpt(value.span()))) }
}

/// Reads what stands between the commas of CREATE TABLE.
fn element(text: Text, words: Result<Vec<TokenWithSpan>>, table: &mut CreateTable) -> Result<()> {
    let words = words?;
    let end = words[words.len() - 1].span.end;
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(rewrite(words));
    parse_element(text, &mut parser, table).map_err(|failure| match failure {
        Failure::Parser(error) => text.parser_error(error, end),
        Failure::Ours(error) => error,
    })?;
    let rest = parser.peek_token();
    match rest.token {
        Token::EOF => Ok(()),
        other => Err(text.error_at(
            Error::invalid(format!("expected the end of the column's type, found {other}")),
            rest.span.start,
        )),
    }
}

fn column_words(text: Text, name: &Phrase, kind: &Column) -> Result<Vec<TokenWithSpan>> {
    let mut words = vec![name.word(text)?];
    match kind {
        Column::Typed(data_type) => words.extend(data_type.tokens(text)?),
        Column::Computed(value) => {
            words.extend(Phrase::at("AS", value.start()).tokens(text)?);
            words.extend(value.expression_words(text)?);
        }
    }
    Ok(words)
}

fn watermark_words(text: Text, column: &Phrase, value: &Phrase) -> Result<Vec<TokenWithSpan>> {
    let mut words = Phrase::at("WATERMARK FOR", column.start()).tokens(text)?;
    words.push(column.word(text)?);
    words.extend(Phrase::at("AS", value.start()).tokens(text)?);
    words.extend(value.expression_words(text)?);
    Ok(words)
}

/// What is said behind a query, in words.
#[derive(Debug, Clone, Default)]
pub struct EndingWords {
    /// When results leave.
    pub emit: Option<Phrase>,
    /// How long windows stay open, a duration such as `10 min`.
    pub lateness: Option<Phrase>,
    /// The table of late rows.
    pub late: Option<Phrase>,
}

impl EndingWords {
    fn read(&self, text: Text) -> Result<Ending> {
        let emit = self.emit.as_ref().map(|emit| Ok((emit_clause(text, emit)?, emit.start().into())));
        let lateness = self.lateness.as_ref().map(|words| {
            let micros = humantime::parse_duration(words.text()).ok().map(|time| time.as_micros());
            let micros = micros.and_then(|micros| Micros::try_from(micros).ok());
            let wrong = || Error::invalid(format!("'{}' is not a duration", words.text()));
            let micros =
                micros.ok_or_else(|| text.error_at(wrong().help("write one such as '5s'"), words.start().into()));
            Ok((micros?, words.start().into()))
        });
        let late = self.late.as_ref().map(|late| late.ident(text));
        Ok(Ending { emit: emit.transpose()?, lateness: lateness.transpose()?, late: late.transpose()? })
    }
}

fn emit_clause(text: Text, emit: &Phrase) -> Result<EmitClause> {
    let known = EMITS.iter().find(|(name, _)| *name == emit.text());
    known.map(|(_, clause)| *clause).ok_or_else(|| {
        let error =
            Error::invalid(format!("'{}' is not one of {}", emit.text(), EMITS.map(|(name, _)| name).join(", ")));
        let error = match nearest(emit.text(), EMITS.map(|(name, _)| name)) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error,
        };
        text.error_at(error, emit.start().into())
    })
}
