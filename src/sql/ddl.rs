//! `CREATE TABLE`: columns, computed columns, a watermark, a primary key, options.

use super::normal;
use super::place::Text;
use super::statements::{Failure, parse_dotted, parse_name, parse_option_value, parse_word};
use super::types::arrow_type;
use crate::connector::OptionText;
use crate::error::Error;
use arrow::datatypes::{DataType, TimeUnit};
use sqlparser::ast::{DataType as SqlType, Expr, Ident, TimezoneInfo};
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token};
use std::collections::BTreeMap;

/// The statement as it stands; names are not resolved yet.
#[derive(Debug)]
pub(super) struct CreateTable {
    pub name: Ident,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnText>,
    pub watermark: Option<WatermarkText>,
    pub primary_key: Vec<Ident>,
    /// Its key is `NOT ENFORCED`.
    pub key_trusted: bool,
    pub options: BTreeMap<String, OptionText>,
    /// What is wrong with it, as far as that does not keep the rest from being read.
    pub wrong: Vec<Error>,
}

/// A column of CREATE TABLE.
#[derive(Debug)]
pub(super) struct ColumnText {
    pub name: Ident,
    pub kind: ColumnKind,
}

/// Where a column's values come from.
#[derive(Debug)]
pub(super) enum ColumnKind {
    /// From outside.
    Physical { data_type: DataType, nullable: bool },
    /// From the connector: `METADATA FROM name`, at `at`.
    Metadata { data_type: DataType, nullable: bool, name: String, is_virtual: bool, at: Location },
    /// From the other columns of its row.
    Computed { value: Box<Expr>, at: Location },
}

/// `WATERMARK FOR column AS value`.
#[derive(Debug)]
pub(super) struct WatermarkText {
    pub column: Ident,
    pub value: Expr,
    pub at: Location,
}

/// Reads what follows `CREATE TABLE`.
pub(super) fn parse_create_table(text: Text, parser: &mut Parser) -> Result<CreateTable, Failure> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parse_name(text, parser)?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        key_trusted: false,
        options: BTreeMap::new(),
        wrong: Vec::new(),
    };
    parser.expect_token(&Token::LParen)?;
    loop {
        parse_element(text, parser, &mut table)?;
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen)?;
    if parser.parse_keyword(Keyword::COMMENT) {
        parser.parse_literal_string()?;
    }
    parse_partition(text, parser, &mut table)?;
    let found = parser.peek_token();
    if let Token::Word(word) = &found.token
        && matches!(word.keyword, Keyword::LIKE | Keyword::AS)
    {
        return refuse(
            text,
            found.span.start,
            format!("{} after a table's columns is not supported", word.value.to_uppercase()),
        );
    }
    if !parser.parse_keyword(Keyword::WITH) {
        let found = parser.peek_token();
        let error = match found.token {
            Token::EOF => Error::invalid("this table does not say where its rows are"),
            other => Error::invalid(format!("expected WITH, found {other}")),
        };
        let at = if found.span.start.line == 0 { table.name.span.start } else { found.span.start };
        let help = "add WITH ('connector' = '…', …) after the columns";
        return Err(Failure::Ours(text.error_at(error.help(help), at)));
    }
    parse_options(text, parser, &mut table.options, &mut table.wrong)?;
    Ok(table)
}

/// Reads what follows WITH: `('key' = 'value', …)`.
pub(super) fn parse_options(
    text: Text,
    parser: &mut Parser,
    options: &mut BTreeMap<String, OptionText>,
    wrong: &mut Vec<Error>,
) -> Result<(), Failure> {
    parser.expect_token(&Token::LParen)?;
    loop {
        let at = parser.peek_token().span.start;
        let key = parse_dotted(parser)?;
        let name = Span::new(at, parser.get_current_token().span.end);
        parser.expect_token(&Token::Eq)?;
        let option = parse_option_value(text, parser, name)?;
        if options.insert(key.clone(), option).is_some() {
            let error = Error::invalid(format!("option '{key}' is given twice"));
            wrong.push(text.error_over(error, name));
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen)?;
    Ok(())
}

/// `PARTITIONED BY (day, country)` is an option, which a connector understands or refuses.
fn parse_partition(text: Text, parser: &mut Parser, table: &mut CreateTable) -> Result<(), Failure> {
    let at = parser.peek_token().span.start;
    if !parser.parse_keywords(&[Keyword::PARTITIONED, Keyword::BY]) {
        return Ok(());
    }
    let name = Span::new(at, parser.get_current_token().span.end);
    parser.expect_token(&Token::LParen)?;
    let first = parser.peek_token().span.start;
    let columns = parser.parse_comma_separated(Parser::parse_identifier)?;
    let value = Span::new(first, parser.get_current_token().span.end);
    parser.expect_token(&Token::RParen)?;
    let columns: Vec<String> = columns.iter().map(normal).collect();
    let option = OptionText { text: columns.join(";"), places: Some((text.excerpt(name), text.excerpt(value))) };
    table.options.insert("partition.by".into(), option);
    Ok(())
}

/// Reads one column, the watermark or the key.
pub(super) fn parse_element(text: Text, parser: &mut Parser, table: &mut CreateTable) -> Result<(), Failure> {
    let at = parser.peek_token().span.start;
    let follows = parser.peek_nth_token(1).token;
    if matches!(follows, Token::Word(word) if word.keyword == Keyword::FOR) && parse_word(parser, "WATERMARK") {
        parser.expect_keyword_is(Keyword::FOR)?;
        let column = parser.parse_identifier()?;
        parser.expect_keyword_is(Keyword::AS)?;
        let watermark = WatermarkText { column, value: parser.parse_expr()?, at };
        if table.watermark.replace(watermark).is_some() {
            wrong(text, table, at, "a table has one watermark");
        }
        return Ok(());
    }
    if parser.parse_keyword(Keyword::CONSTRAINT) {
        parser.parse_identifier()?;
    }
    if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
        parser.expect_token(&Token::LParen)?;
        let columns = parser.parse_comma_separated(Parser::parse_identifier)?;
        parser.expect_token(&Token::RParen)?;
        table.key_trusted |= parse_not_enforced(parser);
        set_primary_key(text, table, columns, at);
        return Ok(());
    }
    let name = parser.parse_identifier()?;
    if table.columns.iter().any(|column| normal(&column.name) == normal(&name)) {
        wrong(text, table, at, format!("column '{}' is there twice", normal(&name)));
    }
    if parser.parse_keyword(Keyword::AS) {
        let value_at = parser.peek_token().span.start;
        let value = Box::new(parser.parse_expr()?);
        table.columns.push(ColumnText { name, kind: ColumnKind::Computed { value, at: value_at } });
        return Ok(());
    }
    let type_at = parser.peek_token().span.start;
    let data_type = parse_type(text, parser, &mut table.wrong)?;
    let mut nullable = true;
    let (mut computed, mut metadata) = (None, None);
    loop {
        let at = parser.peek_token().span.start;
        if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            nullable = false;
        } else if parser.parse_keyword(Keyword::NULL) {
        } else if parser.parse_keyword(Keyword::COMMENT) {
            parser.parse_literal_string()?;
        } else if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            table.key_trusted |= parse_not_enforced(parser);
            set_primary_key(text, table, vec![name.clone()], at);
        } else if parser.parse_keywords(&[Keyword::GENERATED, Keyword::ALWAYS, Keyword::AS]) {
            parser.expect_token(&Token::LParen)?;
            let value = parser.parse_expr()?;
            parser.expect_token(&Token::RParen)?;
            let _ = parser.parse_keyword(Keyword::STORED) || parser.parse_keyword(Keyword::VIRTUAL);
            // The declared type is what the value is cast to.
            computed = Some((value, type_at));
        } else if parse_word(parser, "METADATA") {
            metadata = Some(parse_metadata(parser, &name, at)?);
        } else if parser.parse_keyword(Keyword::DEFAULT) {
            return refuse(text, at, "DEFAULT is not supported: an INSERT gives every column or NULL");
        } else {
            break;
        }
    }
    let kind = match (computed, metadata) {
        (Some(_), Some((.., at))) => return refuse(text, at, "a computed column is not METADATA"),
        (None, Some((name, is_virtual, at))) => {
            ColumnKind::Metadata { data_type: data_type.1, nullable, name, is_virtual, at }
        }
        (Some((value, at)), None) => {
            let value = Expr::Cast {
                kind: sqlparser::ast::CastKind::Cast,
                expr: Box::new(value),
                data_type: data_type.0,
                array: false,
                format: None,
            };
            ColumnKind::Computed { value: Box::new(value), at }
        }
        (None, None) => ColumnKind::Physical { data_type: data_type.1, nullable },
    };
    table.columns.push(ColumnText { name, kind });
    Ok(())
}

/// Reads what follows `METADATA`: what it is called, if not as its column, whether it is VIRTUAL, and where it is said.
fn parse_metadata(parser: &mut Parser, column: &Ident, at: Location) -> Result<(String, bool, Location), Failure> {
    let (name, at) = match parser.parse_keyword(Keyword::FROM) {
        true => {
            let at = parser.peek_token().span.start;
            (parser.parse_literal_string()?, at)
        }
        false => (normal(column), at),
    };
    Ok((name, parser.parse_keyword(Keyword::VIRTUAL), at))
}

/// Reads a type; one that is not supported is noted in `wrong`.
pub(super) fn parse_type(
    text: Text,
    parser: &mut Parser,
    wrong: &mut Vec<Error>,
) -> Result<(SqlType, DataType), Failure> {
    let at = parser.peek_token().span.start;
    let mut sql = parser.parse_data_type()?;
    if let SqlType::Timestamp(precision, TimezoneInfo::None) = &sql
        && parser.parse_keywords(&[Keyword::WITH, Keyword::LOCAL, Keyword::TIME, Keyword::ZONE])
    {
        sql = SqlType::Timestamp(*precision, TimezoneInfo::WithTimeZone);
    }
    let data_type = arrow_type(&sql).unwrap_or_else(|error| {
        wrong.push(text.error_at(error, at));
        DataType::Null
    });
    Ok((sql, data_type))
}

fn parse_not_enforced(parser: &mut Parser) -> bool {
    parser.parse_keywords(&[Keyword::NOT, Keyword::ENFORCED])
}

fn set_primary_key(text: Text, table: &mut CreateTable, columns: Vec<Ident>, at: Location) {
    if !table.primary_key.is_empty() {
        wrong(text, table, at, "a table has one primary key");
    }
    table.primary_key = columns;
}

/// Notes a mistake that does not keep the rest of the statement from being read.
fn wrong(text: Text, table: &mut CreateTable, at: Location, reason: impl Into<String>) {
    table.wrong.push(text.error_at(Error::invalid(reason), at));
}

fn refuse<T>(text: Text, at: Location, reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Ours(text.error_at(Error::invalid(reason), at)))
}

/// True for what can be event time.
pub(super) fn is_event_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _))
}
