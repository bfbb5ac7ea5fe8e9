//! `CREATE FUNCTION`: functions whose code is in a WebAssembly file, which lies beside the definition.
//!
//! The file is read and checked when the definition is planned, by every process for itself; the plan's fingerprint has its digest.

use super::ddl::{parse_options, parse_type};
use super::place::Text;
use super::statements::{self, Failure, Kind, parse_name};
use super::{Session, normal};
use crate::connector::{Connectors, Named, OptionSpec, OptionText, Options, Preset, Takes};
use crate::error::{Error, Result, nearest};
use crate::expr::wasm::{Declared, Limits};
use crate::expr::{AggregateFunction, ScalarFunction};
use crate::plan::type_name;
use arrow::datatypes::DataType;
use sqlparser::ast::Ident;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token};
use std::collections::BTreeMap;
use std::path::Path;

const FUEL: OptionSpec = OptionSpec::both(
    "fuel",
    Takes::Whole(1, 1 << 40),
    Preset::Is("100000"),
    "instructions that the function may take for each row, on average over a batch",
);
const MEMORY: OptionSpec =
    OptionSpec::both("memory", Takes::Bytes, Preset::Is("64 MiB"), "memory that the function may have, on each worker");

/// What the options of a function are called and what they do.
const OPTIONS: [&OptionSpec; 2] = [&FUEL, &MEMORY];

/// The most that `memory` may be: what 32 bits address.
const MEMORY_MAX: u64 = 1 << 32;

/// The statement as it stands.
#[derive(Debug)]
pub(super) struct CreateFunction {
    pub name: Ident,
    if_not_exists: bool,
    aggregate: bool,
    arguments: Vec<(String, DataType)>,
    states: Vec<(String, DataType)>,
    returns: DataType,
    strict: bool,
    /// The file, and where its name stands.
    file: (String, Location),
    options: BTreeMap<String, OptionText>,
    wrong: Vec<Error>,
}

/// A function that a definition has declared, for people who ask.
#[derive(Debug, Clone)]
pub(super) struct FunctionDef {
    pub name: String,
    pub aggregate: bool,
    /// `score(price DOUBLE, n BIGINT) DOUBLE`.
    pub signature: String,
    /// `from score.wasm, 3f2a…`.
    pub about: String,
}

/// The functions that a definition has declared, to be called.
#[derive(Default)]
pub struct Loaded {
    /// Of rows.
    pub scalars: Vec<ScalarFunction>,
    /// Of groups of rows.
    pub aggregates: Vec<AggregateFunction>,
}

/// Loads the functions that `text` declares, for who calls them elsewhere.
///
/// # Errors
/// As [`plan`](super::plan), of their statements.
pub fn load(text: Text, connectors: &dyn Connectors) -> Result<Loaded> {
    let statements = statements::parse(text);
    let mut session = Session::new(text, &statements, connectors);
    for statement in statements {
        if let Kind::CreateFunction(function) = statement.kind {
            session.create_function(*function, connectors)?;
        }
    }
    Ok(session.loaded)
}

/// What a function is called where tables have their names, too.
pub(super) fn called(name: &str) -> String {
    format!("{name}()")
}

/// Reads what follows `CREATE [AGGREGATE] FUNCTION`.
pub(super) fn parse_create_function(
    text: Text,
    parser: &mut Parser,
    aggregate: bool,
) -> Result<CreateFunction, Failure> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parse_name(text, parser)?;
    let at = name.span.start;
    let wrong_at = |error: Error, at: Location| Err(Failure::Ours(text.error_at(error, at)));
    let mut wrong = Vec::new();
    let form = match aggregate {
        true => "CREATE AGGREGATE FUNCTION f(a BIGINT) RETURNS BIGINT STATE (sum BIGINT) LANGUAGE wasm AS 'f.wasm'",
        false => "CREATE FUNCTION f(a BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'f.wasm'",
    };
    let found = parser.peek_token();
    if found.token != Token::LParen {
        let error = Error::invalid("behind a function's name its arguments stand, in parentheses");
        return wrong_at(error.help(format!("write {form}")), at);
    }
    let arguments = parse_typed(text, parser, &mut wrong)?;
    let (mut returns, mut states, mut file, mut language, mut strict) = (None, None, None, false, false);
    let mut options = BTreeMap::new();
    loop {
        let clause = parser.peek_token();
        let Token::Word(word) = &clause.token else { break };
        let first = match word.keyword {
            Keyword::RETURNS => {
                parser.next_token();
                if parser.parse_keywords(&[Keyword::NULL, Keyword::ON, Keyword::NULL, Keyword::INPUT]) {
                    strict = true;
                    true
                } else {
                    returns.replace(parse_type(text, parser, &mut wrong)?.1).is_none()
                }
            }
            Keyword::CALLED => {
                parser.next_token();
                parser.expect_keywords(&[Keyword::ON, Keyword::NULL, Keyword::INPUT])?;
                true
            }
            Keyword::LANGUAGE => {
                parser.next_token();
                let name = parser.parse_identifier()?;
                if !name.value.eq_ignore_ascii_case("wasm") {
                    let error = Error::invalid(format!("functions in {} are not supported", name.value));
                    let help = match nearest(&name.value.to_lowercase(), ["wasm"]) {
                        Some(near) => format!("did you mean '{near}'?"),
                        None => "LANGUAGE wasm is: many languages compile to it; a program in Rust can bring along \
                                 functions of its own, too"
                            .to_owned(),
                    };
                    return wrong_at(error.help(help), name.span.start);
                }
                !std::mem::replace(&mut language, true)
            }
            Keyword::AS => {
                parser.next_token();
                let at = parser.peek_token().span.start;
                file.replace((parser.parse_literal_string()?, at)).is_none()
            }
            Keyword::WITH => {
                parser.next_token();
                parse_options(text, parser, &mut options, &mut wrong)?;
                true
            }
            _ if word.value.eq_ignore_ascii_case("STATE") => {
                parser.next_token();
                states.replace((parse_typed(text, parser, &mut wrong)?, clause.span.start)).is_none()
            }
            _ => break,
        };
        if !first {
            return wrong_at(Error::invalid(format!("{word} is said twice")), clause.span.start);
        }
    }
    let absent = |what: &str| {
        Failure::Ours(
            text.error_at(Error::invalid(format!("this function has no {what}")).help(format!("write {form}")), at),
        )
    };
    if !language && file.is_some() {
        return Err(absent("LANGUAGE"));
    }
    let found = parser.peek_token();
    if let Token::Word(word) = &found.token {
        let clauses = ["RETURNS", "LANGUAGE", "AS", "STATE", "WITH", "CALLED"];
        let near = nearest(&word.value.to_uppercase(), clauses).map(|near| format!("did you mean {near}?"));
        let error = Error::invalid(format!("expected a clause of CREATE FUNCTION, found {word}"));
        return wrong_at(error.help(near.unwrap_or_else(|| format!("write {form}"))), found.span.start);
    }
    if arguments.is_empty() {
        let error = Error::invalid("a function takes at least one argument");
        return wrong_at(error.help("a value that is always the same can stand in the query itself"), at);
    }
    let states = match (aggregate, states) {
        (true, Some((states, _))) if !states.is_empty() => states,
        (true, Some((_, at))) => return wrong_at(Error::invalid("a state has at least one column"), at),
        (true, None) => return Err(absent("STATE")),
        (false, None) => Vec::new(),
        (false, Some((_, at))) => {
            let error = Error::invalid("a function of rows has no STATE");
            return wrong_at(error.help("one value for many rows is given by CREATE AGGREGATE FUNCTION"), at);
        }
    };
    let returns = returns.ok_or_else(|| absent("RETURNS"))?;
    let file = file.ok_or_else(|| absent("file"))?;
    Ok(CreateFunction { name, if_not_exists, aggregate, arguments, states, returns, strict, file, options, wrong })
}

/// Reads `(name TYPE, …)`, perhaps without any.
fn parse_typed(text: Text, parser: &mut Parser, wrong: &mut Vec<Error>) -> Result<Vec<(String, DataType)>, Failure> {
    parser.expect_token(&Token::LParen)?;
    let mut columns: Vec<(String, DataType)> = Vec::new();
    while parser.peek_token().token != Token::RParen {
        let name = parser.parse_identifier()?;
        if matches!(parser.peek_token().token, Token::Comma | Token::RParen) {
            let error =
                Error::invalid(format!("'{name}' has no type, or no name")).help("write name TYPE: (price DOUBLE)");
            return Err(Failure::Ours(text.error_at(error, name.span.start)));
        }
        let (key, at) = (normal(&name), name.span.start);
        if columns.iter().any(|(other, _)| *other == key) {
            wrong.push(text.error_at(Error::invalid(format!("'{key}' is there twice")), at));
        }
        columns.push((key, parse_type(text, parser, wrong)?.1));
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen)?;
    Ok(columns)
}

impl Session<'_> {
    /// Loads a function, so that what follows can call it.
    pub(super) fn create_function(&mut self, mut function: CreateFunction, connectors: &dyn Connectors) -> Result<()> {
        let name = normal(&function.name);
        let at = function.name.span.start;
        let options = Options::new(std::mem::take(&mut function.options));
        let declared: Vec<Named> = OPTIONS.iter().map(|spec| Named::from(*spec)).collect();
        let mut wrong = std::mem::take(&mut function.wrong);
        let located = |error: Error| match error.excerpt() {
            Some(_) => error,
            None => self.text.error_at(error, at),
        };
        wrong.extend(options.check(&declared).into_iter().map(located));
        if let Some(error) = Error::join(wrong) {
            return Err(error);
        }
        if self.functions.iter().any(|known| known.name == name) {
            if function.if_not_exists {
                return Ok(());
            }
            let error = Error::invalid(format!("{name}() is declared twice"));
            return Err(self.text.error_at(error.help("give it another name, or write IF NOT EXISTS"), at));
        }
        if self.catalog.has_function(&name) || super::refuse::is_reserved(&name) {
            let error = Error::invalid(format!("{name}() is there already"));
            return Err(self
                .text
                .error_at(error.help("give it another name; `highwater functions` lists those that are taken"), at));
        }
        let memory = options.bytes(&MEMORY)?;
        if !(1 << 16..=MEMORY_MAX).contains(&memory) {
            return Err(located(options.wrong(&MEMORY, "a function has from 64 KiB to 4 GiB")));
        }
        let limits = Limits { fuel: options.whole(&FUEL)?, memory };
        let (file, file_at) = &function.file;
        let beside = Path::new(self.text.name).parent().unwrap_or(Path::new(""));
        let path = connectors.folder().unwrap_or(beside).join(file);
        let code = std::fs::read(&path).map_err(|error| {
            let error = Error::invalid(format!("'{}' cannot be read: {error}", path.display()));
            let help = "a function's file is named as it lies from the folder of the definition";
            self.text.error_at(error.help(help), *file_at)
        })?;
        let signature = {
            let arguments =
                function.arguments.iter().map(|(name, data_type)| format!("{name} {}", type_name(data_type)));
            let arguments = arguments.collect::<Vec<_>>().join(", ");
            format!("{name}({arguments}) {}", type_name(&function.returns))
        };
        let declared = Declared {
            name: name.clone(),
            arguments: function.arguments,
            states: function.states.into_iter().map(|(_, data_type)| data_type).collect(),
            returns: function.returns,
            strict: function.strict,
            file: file.clone(),
            code,
            limits,
        };
        let located = |error: Error| self.text.error_at(error, *file_at);
        match function.aggregate {
            true => {
                let loaded = declared.aggregate().map_err(located)?;
                self.catalog.add_aggregate(&loaded);
                self.loaded.aggregates.push(loaded);
            }
            false => {
                let loaded = declared.scalar().map_err(located)?;
                self.catalog.add_function(&loaded);
                self.loaded.scalars.push(loaded);
            }
        }
        let digest = blake3::Hash::from(declared.digest()).to_hex();
        let about = format!("WebAssembly of {file}, {}", &digest[..12]);
        self.functions.push(FunctionDef { name, aggregate: function.aggregate, signature, about });
        Ok(())
    }
}
