//! Tests in SQL: statements that give a pipeline its rows, move its time and say what must come out.
//!
//! ```text
//! USE PIPELINE 'path' | CREATE …, INSERT INTO … SELECT …   the pipeline, in a file of its own or here
//! SET 'key' = 'value'
//! TEST 'name'                                              the pipeline begins anew
//!   INSERT INTO table [(columns)] VALUES …                 rows that arrive now
//!   DELETE FROM table [(columns)] VALUES …                 rows that are taken back now
//!   TICK                                                   the epoch ends
//!   ADVANCE WATERMARK [OF table] TO moment | BY interval   … with this watermark
//!   ADVANCE TIME TO moment | BY interval                   … at this time by the clock
//!   END [OF table]                                         … and nothing comes any more
//!   ASSERT CHANGELOG OF table [(columns)] IS rows | EMPTY  what has been written since the last time
//!   ASSERT TABLE table [(columns)] IS rows | EMPTY         what the table holds
//!   ASSERT ERROR [LIKE 'pattern']                          the pipeline has failed
//! ```
//! This file reads them and plans their rows; what they do is the business of [`testing`](crate::testing).

use super::place::Text;
use super::statements::{self, DIALECT, Failure, Kind, is_words, parse_column_names, parse_name, parse_word, rewrite};
use super::windows::interval_micros;
use super::{Reads, Session, columns_of, item_place, normal, project};
use crate::connector::builtin::Builtin;
use crate::connector::{self, CONNECTOR, Connectors, OptionText, Options};
use crate::error::{Error, Excerpt, Result, nearest};
use crate::plan::{Plan, event_time_type, type_name};
use crate::time::Micros;
use arrow::compute::can_cast_types;
use arrow::datatypes::SchemaRef;
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::{Cast, Expr};
use sqlparser::ast::{self, Ident, Visit};
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a file of tests says.
#[derive(Debug)]
pub struct Scenario {
    /// What is tested.
    pub pipeline: Pipeline,
    /// Settings of the tests that win over those of a pipeline in a file of its own.
    pub settings: Vec<(String, String)>,
    /// The tests, in order. Each of them has the pipeline for itself.
    pub cases: Vec<Case>,
}

/// What is tested.
#[derive(Debug)]
pub enum Pipeline {
    /// `USE PIPELINE 'path'`, seen from the file of the tests.
    File {
        /// The path.
        path: String,
        /// Where it stands.
        place: Excerpt,
    },
    /// The statements among those of the tests, which are blanks here: what is left stands where it stood.
    Here(String),
}

/// One test.
#[derive(Debug)]
pub struct Case {
    /// Its name; none where the file has one test without TEST.
    pub name: Option<String>,
    /// Its statements.
    pub deeds: Vec<Deed>,
}

/// A statement of a test.
#[derive(Debug)]
pub struct Deed {
    /// Where it stands.
    pub place: Excerpt,
    /// What it does.
    pub act: Act,
}

/// What a statement of a test does.
#[derive(Debug)]
pub enum Act {
    /// Rows arrive, in the order in which they stand there.
    Insert {
        /// The table that is read.
        table: Named,
        /// Its columns that are given; all that a record has if there are none.
        columns: Vec<Named>,
        /// The rows.
        rows: Rows,
        /// True if they are taken back.
        gone: bool,
    },
    /// The epoch ends.
    Tick,
    /// The epoch ends with a watermark.
    Watermark {
        /// The table; all that are read if there is none.
        table: Option<Named>,
        /// Which one.
        to: Moment,
    },
    /// The epoch ends at a time by the clock.
    Time(Moment),
    /// The epoch ends, and with it the input.
    End(Option<Named>),
    /// Says what has been written.
    Changelog(Written),
    /// Says what a table holds.
    Content(Written),
    /// Says that the pipeline has failed.
    Error(Option<String>),
}

/// A moment, or a time from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// In microseconds since 1970.
    At(Micros),
    /// So many microseconds later; above 0.
    After(Micros),
}

/// What must be in a table.
#[derive(Debug)]
pub struct Written {
    /// The table.
    pub table: Named,
    /// The columns that are looked at; all if there are none.
    pub columns: Vec<Named>,
    /// The rows; none if there must be none.
    pub rows: Option<Rows>,
}

/// A name and where it stands.
#[derive(Debug, Clone)]
pub struct Named {
    /// The name as it is looked up.
    pub name: String,
    /// Its place.
    pub place: Excerpt,
}

/// Rows that a query gives.
#[derive(Debug)]
pub struct Rows {
    query: Box<ast::Query>,
    start: Location,
}

impl Rows {
    /// Where they stand in `text`.
    pub fn place(&self, text: Text) -> Excerpt {
        text.excerpt(Span::new(self.start, self.start))
    }
}

/// Words that start a statement of a test.
const WORDS: [&str; 8] = ["USE", "TEST", "TICK", "ADVANCE", "END", "ASSERT", "INSERT", "DELETE"];

/// The tests in `text`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for all statements that cannot be read; those of a pipeline that stands
/// among them are not looked at here.
pub fn scenario(text: Text) -> Result<Scenario> {
    let mut tokens = Vec::new();
    let read = Tokenizer::new(&DIALECT, text.sql).tokenize_with_location_into_buf(&mut tokens);
    read.map_err(|error| text.tokenizer_error(&error))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    let mut found = Found { text, file: None, here: None, cases: Vec::new() };
    let mut definition: Vec<Vec<char>> = text.sql.lines().map(|line| line.chars().collect()).collect();
    let mut wrong = Vec::new();
    let mut in_set = false;
    for statement in tokens.split_inclusive(|token| token.token == Token::SemiColon) {
        let words = match statement {
            [all @ .., last] if last.token == Token::SemiColon => all,
            all => all,
        };
        let Some(first) = words.first() else { continue };
        in_set |= is_words(words, &["BEGIN"]) || is_words(words, &["EXECUTE", "STATEMENT"]);
        if in_set || !is_of_tests(words) {
            in_set &= !is_words(words, &["END"]);
            wrong.extend(found.definition(words, first.span).err());
            continue;
        }
        blank(&mut definition, first.span.start, statement[statement.len() - 1].span.end);
        wrong.extend(found.take(words).err());
    }
    let definition = definition.into_iter().map(String::from_iter).collect::<Vec<_>>().join("\n");
    let (file, cases) = (found.file, found.cases);
    let settings = match &file {
        Some(_) => settings(Text { name: text.name, sql: &definition }, &mut wrong),
        None => Vec::new(),
    };
    if let Some(error) = Error::join(wrong) {
        return Err(error);
    }
    if !cases.iter().any(|case| case.deeds.iter().any(|deed| deed.act.asserts())) {
        let error = Error::invalid("nothing is asserted").within(text.name);
        return Err(error.help("add ASSERT TABLE t IS VALUES …, ASSERT CHANGELOG OF t IS VALUES … or ASSERT ERROR"));
    }
    let pipeline = match file {
        Some((path, place)) => Pipeline::File { path, place },
        None => Pipeline::Here(definition),
    };
    Ok(Scenario { pipeline, settings, cases })
}

impl Act {
    /// True if it says what must be.
    pub fn asserts(&self) -> bool {
        matches!(self, Act::Changelog(_) | Act::Content(_) | Act::Error(_))
    }
}

/// True if a statement belongs to the tests and not to the pipeline: of INSERTs those whose rows stand in them.
fn is_of_tests(words: &[TokenWithSpan]) -> bool {
    match is_words(words, &["INSERT"]) {
        true => {
            let mut depth = 0_usize;
            let mut outside = words.iter().filter(|token| {
                depth += usize::from(token.token == Token::LParen);
                let outside = depth == 0;
                depth -= usize::from(token.token == Token::RParen);
                outside
            });
            let starts = |token: &TokenWithSpan, of: &[&str]| {
                of.iter().any(|word| is_words(std::slice::from_ref(token), &[word]))
            };
            outside
                .find(|token| starts(token, &["VALUES", "SELECT", "WITH"]))
                .is_some_and(|token| starts(token, &["VALUES"]))
        }
        false => WORDS.iter().any(|word| is_words(words, &[word])),
    }
}

/// Blanks what stands from `from` to `to`.
fn blank(lines: &mut [Vec<char>], from: Location, to: Location) {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let (first, last) = (number(from.line) - 1, number(to.line) - 1);
    for (number_of_line, line) in lines.iter_mut().enumerate().take(last + 1).skip(first) {
        let start = if number_of_line == first { number(from.column) - 1 } else { 0 };
        let end = if number_of_line == last { number(to.column) - 1 } else { line.len() };
        let end = end.min(line.len());
        line[start.min(end)..end].fill(' ');
    }
}

/// The settings in a text that has nothing else.
fn settings(text: Text, wrong: &mut Vec<Error>) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for statement in statements::parse(text) {
        match statement.kind {
            Kind::Set { key, value } => settings.push((key, value.text)),
            Kind::Wrong(error, _) => wrong.push(error),
            _ => {
                let error = Error::invalid("the pipeline is in a file of its own, so no part of it stands here");
                let error =
                    error.help("of its statements only SET may; or leave out USE PIPELINE and define it all here");
                wrong.push(text.error_at(error, statement.start));
            }
        }
    }
    settings
}

/// What has been read so far.
struct Found<'a> {
    text: Text<'a>,
    file: Option<(String, Excerpt)>,
    /// Where the pipeline's first statement stands.
    here: Option<Span>,
    cases: Vec<Case>,
}

impl Found<'_> {
    /// Takes note of a statement of the pipeline.
    fn definition(&mut self, words: &[TokenWithSpan], first: Span) -> Result<()> {
        self.here.get_or_insert(first);
        // what else stands beside a pipeline in a file of its own is told by `settings`
        if self.cases.is_empty() || (self.file.is_some() && !is_words(words, &["SET"])) {
            return Ok(());
        }
        let near = match &words[0].token {
            Token::Word(word) if word.keyword == Keyword::NoKeyword => nearest(&word.value, WORDS),
            _ => None,
        };
        let error = match near {
            Some(near) => Error::invalid("no statement starts like this").help(format!("did you mean {near}?")),
            None => Error::invalid("this belongs to the pipeline, which is complete before the first test")
                .help("define it above all rows and tests; rows for it come by INSERT INTO table VALUES …"),
        };
        Err(self.text.error_at(error, first.start))
    }

    /// Takes a statement of the tests.
    fn take(&mut self, words: &[TokenWithSpan]) -> Result<()> {
        let (start, end) = (words[0].span.start, words[words.len() - 1].span.end);
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(rewrite(words.to_vec()));
        let outcome = self.read(&mut parser, Span::new(start, end)).map_err(|error| match error {
            Failure::Parser(error) => self.text.parser_error(error, end),
            Failure::Ours(error) => error,
        });
        outcome?;
        let rest = parser.peek_token();
        match rest.token {
            Token::EOF => Ok(()),
            other => {
                let error = Error::invalid(format!("expected the end of the statement, found {other}"));
                Err(self.text.error_at(error, rest.span.start))
            }
        }
    }

    fn read(&mut self, parser: &mut Parser, span: Span) -> Result<(), Failure> {
        let text = self.text;
        let wrong = |error: Error, at: Location| Err(Failure::Ours(text.error_at(error, at)));
        if parse_word(parser, "USE") {
            expect(parser, "PIPELINE")?;
            let at = parser.peek_token().span;
            let path = parser.parse_literal_string()?;
            if !self.cases.is_empty() || self.file.is_some() {
                return wrong(Error::invalid("the pipeline is known already"), span.start);
            }
            self.file = Some((path, text.excerpt(at)));
            return Ok(());
        }
        if parse_word(parser, "TEST") {
            let name = parser.parse_literal_string()?;
            if self.cases.first().is_some_and(|case| case.name.is_none()) {
                let error = Error::invalid("statements before the first TEST would belong to none");
                return wrong(error.help("write TEST 'name'; above them"), span.start);
            }
            if self.cases.iter().any(|case| case.name.as_ref() == Some(&name)) {
                return wrong(Error::invalid(format!("there are two tests '{name}'")), span.start);
            }
            self.cases.push(Case { name: Some(name), deeds: Vec::new() });
            return Ok(());
        }
        let act = act(text, parser)?;
        if self.cases.is_empty() {
            self.cases.push(Case { name: None, deeds: Vec::new() });
        }
        let case = self.cases.last_mut().expect("one is there now");
        case.deeds.push(Deed { place: text.excerpt(span), act });
        Ok(())
    }
}

fn act(text: Text, parser: &mut Parser) -> Result<Act, Failure> {
    let gone = parse_word(parser, "DELETE");
    if gone || parse_word(parser, "INSERT") {
        parser.expect_keyword_is(if gone { Keyword::FROM } else { Keyword::INTO })?;
        let _ = parser.parse_keyword(Keyword::TABLE);
        let table = named(text, parse_name(text, parser)?);
        let columns = parse_column_names(parser)?.into_iter().map(|column| named(text, column)).collect();
        return Ok(Act::Insert { table, columns, rows: rows(parser)?, gone });
    }
    if parse_word(parser, "TICK") {
        return Ok(Act::Tick);
    }
    if parse_word(parser, "END") {
        return Ok(Act::End(of_table(text, parser)?));
    }
    if parse_word(parser, "ADVANCE") {
        if parse_word(parser, "WATERMARK") {
            let table = of_table(text, parser)?;
            return Ok(Act::Watermark { table, to: moment(text, parser)? });
        }
        if parse_word(parser, "TIME") {
            return Ok(Act::Time(moment(text, parser)?));
        }
        return Ok(parser.expected("WATERMARK or TIME", parser.peek_token())?);
    }
    expect(parser, "ASSERT")?;
    if parse_word(parser, "CHANGELOG") {
        expect(parser, "OF")?;
        return Ok(Act::Changelog(written(text, parser)?));
    }
    if parse_word(parser, "TABLE") || parse_word(parser, "VIEW") {
        return Ok(Act::Content(written(text, parser)?));
    }
    if parse_word(parser, "ERROR") {
        let like = parse_word(parser, "LIKE").then(|| parser.parse_literal_string());
        return Ok(Act::Error(like.transpose()?));
    }
    Ok(parser.expected("CHANGELOG OF, TABLE or ERROR", parser.peek_token())?)
}

fn expect(parser: &mut Parser, word: &str) -> Result<(), Failure> {
    match parse_word(parser, word) {
        true => Ok(()),
        false => Ok(parser.expected(word, parser.peek_token())?),
    }
}

fn named(text: Text, name: Ident) -> Named {
    Named { name: normal(&name), place: text.excerpt(name.span) }
}

/// `OF table`, if it is there.
fn of_table(text: Text, parser: &mut Parser) -> Result<Option<Named>, Failure> {
    let of = parse_word(parser, "OF").then(|| parse_name(text, parser));
    Ok(of.transpose()?.map(|name| named(text, name)))
}

fn rows(parser: &mut Parser) -> Result<Rows, Failure> {
    let start = parser.peek_token().span.start;
    Ok(Rows { query: parser.parse_query()?, start })
}

/// `table [(columns)] [IS] rows`.
fn written(text: Text, parser: &mut Parser) -> Result<Written, Failure> {
    let table = named(text, parse_name(text, parser)?);
    let columns = parse_column_names(parser)?.into_iter().map(|column| named(text, column)).collect();
    let _ = parse_word(parser, "IS") || parse_word(parser, "AS");
    let rows = match parse_word(parser, "EMPTY") {
        true => None,
        false => Some(rows(parser)?),
    };
    Ok(Written { table, columns, rows })
}

/// `TO TIMESTAMP '…'` or `BY INTERVAL '…'`.
fn moment(text: Text, parser: &mut Parser) -> Result<Moment, Failure> {
    let to = parse_word(parser, "TO");
    if !to {
        expect(parser, "BY")?;
    }
    let at = parser.peek_token().span.start;
    let value = parser.parse_expr()?;
    let wrong = |what: String, help: &str| Failure::Ours(text.error_at(Error::invalid(what).help(help), at));
    let connectors = Builtin::default();
    let session = Session::with_reads(text, BTreeMap::new(), &connectors);
    let value = session.value(&value, &DFSchema::empty(), at).map_err(Failure::Ours)?;
    if to {
        let moment = match &value {
            Expr::Literal(value, _) => value.cast_to(&event_time_type()).ok(),
            _ => None,
        };
        return match moment {
            Some(ScalarValue::TimestampMicrosecond(Some(micros), _)) => Ok(Moment::At(micros)),
            _ => Err(wrong("this is not a moment".into(), "write a constant such as TIMESTAMP '2026-01-01 12:00:00'")),
        };
    }
    let help = "write a constant such as INTERVAL '1' MINUTE";
    match interval_micros(&value) {
        Ok(micros) if micros > 0 => Ok(Moment::After(micros)),
        Ok(_) => Err(wrong("time does not go back".into(), help)),
        Err(reason) => Err(wrong(format!("this {reason}"), help)),
    }
}

/// The table that [`answer`] writes.
pub const ANSWER: &str = "answer";

/// The pipeline that gives `rows` the columns of `schema`, by position, and writes them to the table [`ANSWER`]. Its aggregates speak
/// once, at the end of the input.
///
/// The query may read tables and views of `definition`, whose rows are those that `connectors` give.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if they cannot have these columns, with the place.
pub fn answer(
    text: Text,
    rows: &Rows,
    schema: &SchemaRef,
    definition: Option<Text>,
    connectors: &dyn Connectors,
) -> Result<Plan> {
    let start = rows.start;
    let mut session = session(text, rows, definition, connectors)?;
    session.text = text;
    let plan = session.query(&rows.query, start)?;
    let given: Vec<_> = columns_of(&plan).zip(plan.schema().fields().iter().map(|f| f.data_type().clone())).collect();
    if given.len() != schema.fields().len() {
        let count = |n: usize| format!("{n} column{}", if n == 1 { "" } else { "s" });
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let error = Error::invalid(format!("these rows have {}, but {} are wanted", count(given.len()), names.len()));
        return Err(text.error_at(error.help(format!("they are {}", names.join(", "))), start));
    }
    let mut exprs = Vec::new();
    for (position, ((column, from), field)) in given.into_iter().zip(schema.fields()).enumerate() {
        let to = field.data_type();
        if !can_cast_types(&from, to) {
            let (from, to) = (type_name(&from), type_name(to));
            let error = Error::invalid(format!("column '{}' is {to}, and this is {from}", field.name()));
            return Err(text.error_at(error, item_place(&rows.query, position).unwrap_or(start)));
        }
        let expr = Expr::Column(column);
        let expr = if from == *to { expr } else { Expr::Cast(Cast::new(Box::new(expr), to.clone())) };
        exprs.push(expr.alias(field.name()));
    }
    let nowhere = |error| text.datafusion_error(error, Span::new(start, start));
    let plan = project(plan, exprs).and_then(|plan| session.optimise(plan)).map_err(nowhere)?;
    let table = connector::Table {
        name: ANSWER.into(),
        schema: SchemaRef::clone(schema),
        metadata: BTreeMap::new(),
        primary_key: Vec::new(),
        key_trusted: true,
        options: Options::new([(CONNECTOR.name.to_owned(), OptionText::from("memory"))]),
    };
    let query = super::Query {
        serves: false,
        plan,
        table: Rc::new(table),
        at: start,
        printed: false,
        last: true,
        on_close: false,
        as_changes: false,
        lateness: 0,
        late: None,
    };
    session.steps(vec![query], connectors)
}

/// A session that knows the tables and views of `definition`.
fn session<'a>(
    text: Text<'a>,
    rows: &Rows,
    definition: Option<Text<'a>>,
    connectors: &dyn Connectors,
) -> Result<Session<'a>> {
    let statements = definition.map(statements::parse).unwrap_or_default();
    let mut reads = Reads(BTreeMap::new());
    let _ = rows.query.visit(&mut reads);
    for statement in &statements {
        if let Kind::CreateView(view) = &statement.kind {
            let _ = view.query.visit(&mut reads);
        }
    }
    let mut session = Session::with_reads(definition.unwrap_or(text), reads.0, connectors);
    for statement in statements {
        match statement.kind {
            Kind::CreateTable(table) => session.create_table(*table, connectors)?,
            Kind::CreateView(view) => drop(session.create_view(view, statement.start)?),
            _ => {}
        }
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Result<Scenario> {
        scenario(Text { name: "t.sql", sql })
    }

    #[test]
    fn what_belongs_to_the_pipeline_stays_in_its_place() {
        let sql =
            "SET 'a' = 'b';\nINSERT INTO t SELECT 1;\nINSERT INTO s (x)\n  VALUES (1); TICK; ASSERT TABLE t EMPTY;";
        let found = read(sql).unwrap();
        let Pipeline::Here(rest) = found.pipeline else { panic!("it stands here") };
        assert_eq!(rest.trim_end(), "SET 'a' = 'b';\nINSERT INTO t SELECT 1;");
        assert_eq!(rest.lines().count(), sql.lines().count());
        assert_eq!(found.cases.len(), 1);
        assert_eq!(found.cases[0].deeds.iter().map(|deed| deed.place.line).collect::<Vec<_>>(), [3, 4, 4]);
    }

    #[test]
    fn moments_are_constants() {
        let found = read(
            "USE PIPELINE 'p.sql'; ADVANCE WATERMARK OF \"T\" TO TIMESTAMP '1970-01-01 00:00:01';
             ADVANCE TIME BY INTERVAL '2' MINUTES; END; ASSERT ERROR LIKE '%x';",
        );
        let deeds = &found.unwrap().cases[0].deeds;
        let Act::Watermark { table: Some(table), to: Moment::At(1_000_000) } = &deeds[0].act else {
            panic!("{deeds:?}")
        };
        assert_eq!(table.name, "T");
        assert!(matches!(deeds[1].act, Act::Time(Moment::After(120_000_000))), "{deeds:?}");
        for (wrong, said) in [
            ("ADVANCE TIME BY INTERVAL '1' MONTH", "this counts months, which are not of one length"),
            ("ADVANCE TIME BY INTERVAL '-1' SECOND", "time does not go back"),
            ("ADVANCE TIME TO 'noon'", "this is not a moment"),
            ("ADVANCE CLOCK", "expected WATERMARK or TIME, found CLOCK"),
            ("TICK 1", "expected the end of the statement, found 1"),
            ("TEST 'x'; USE PIPELINE 'q.sql'", "the pipeline is known already"),
            ("TICK; SET 'tick' = '1s'", "this belongs to the pipeline, which is complete before the first test"),
            ("TICK; CREATE VIEW v AS SELECT 1", "the pipeline is in a file of its own, so no part of it stands here"),
            ("TICK", "nothing is asserted"),
        ] {
            let error = read(&format!("USE PIPELINE 'p.sql';\n{wrong};")).unwrap_err().to_string();
            assert!(error.ends_with(said), "{wrong}: {error}");
        }
        let error = read("CREATE VIEW v AS SELECT 1; TICK; TIK;").unwrap_err();
        assert_eq!(error.advice(), Some("did you mean TICK?"), "{error}");
    }
}
