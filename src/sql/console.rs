//! What is typed at a shell: where a statement ends, and the few statements that no pipeline has.

use super::normal;
use super::statements::DIALECT;
use crate::error::{Error, Result, nearest};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use std::ops::Range;

/// What a statement asks of a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Nothing: there are only comments and white space.
    Nothing,
    /// `CREATE TABLE`, `CREATE VIEW`, `CREATE FUNCTION` or `SET`: it stays in force. The name of what it declares, if that can be read.
    Declare(Option<String>),
    /// `INSERT INTO`, or several of them in a statement set.
    Insert,
    /// A query whose rows are to be shown, and its `LIMIT`.
    Select(Option<Limit>),
    /// `EXPLAIN`.
    Explain,
    /// `DESCRIBE name`.
    Describe(String),
    /// `SUBSCRIBE view` or `SUBSCRIBE (SELECT …)`, and where in the statement that begins.
    Subscribe(usize),
    /// `SHOW TABLES`.
    ShowTables,
    /// `SHOW VIEWS`.
    ShowViews,
    /// `SHOW FUNCTIONS [LIKE 'pattern']`.
    ShowFunctions(Option<String>),
    /// `DROP TABLE name` or `DROP VIEW name`.
    Drop(String),
    /// `QUIT` or `EXIT`.
    Leave,
}

/// A trailing `LIMIT rows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// How many rows are wanted.
    pub rows: u64,
    /// The bytes of the clause in the statement.
    pub at: Range<usize>,
}

/// The bytes of the first statement of `text`, its semicolon included; a statement set goes on to its END. None if it is not complete.
pub fn statement_end(text: &str) -> Option<usize> {
    let tokens = tokens(text);
    let mut first = 0;
    let mut open_set = false;
    for (number, token) in tokens.iter().enumerate().filter(|(_, token)| token.token == Token::SemiColon) {
        let words: Vec<String> = tokens[first..number].iter().map_while(word).collect();
        let starts =
            |expected: &[&str]| words.len() >= expected.len() && words.iter().zip(expected).all(|(a, b)| a == b);
        open_set |= starts(&["BEGIN", "STATEMENT", "SET"]) || starts(&["EXECUTE", "STATEMENT", "SET", "BEGIN"]);
        if !open_set || (starts(&["END"]) && number == first + 1) {
            return Some(offset(text, token.span.start) + 1);
        }
        first = number + 1;
    }
    None
}

/// The view that `text` names, if it is a name and nothing else.
pub fn view_name(text: &str) -> Option<String> {
    match tokens(text).as_slice() {
        [one] | [one, TokenWithSpan { token: Token::SemiColon, .. }] => name(one),
        _ => None,
    }
}

/// The bytes of the word MATERIALIZED in the declaration of a view.
pub fn materialized(statement: &str) -> Option<Range<usize>> {
    const WORD: &str = "MATERIALIZED";
    let tokens = tokens(statement);
    let is = |place: usize, expected: &str| tokens.get(place).and_then(word).as_deref() == Some(expected);
    let place = (1..=2).find(|place| is(*place, WORD)).filter(|place| is(0, "CREATE") && is(place + 1, "VIEW"))?;
    let start = offset(statement, tokens[place].span.start);
    Some(start..start + WORD.len())
}

/// What `statement` asks for.
///
/// # Errors
/// `Invalid` for a statement that only a shell could have, but this one has not.
pub fn request(statement: &str) -> Result<Request> {
    let tokens = tokens(statement);
    let tokens = match tokens.as_slice() {
        [all @ .., last] if last.token == Token::SemiColon => all,
        all => all,
    };
    let words: Vec<String> = tokens.iter().map_while(word).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        _ if tokens.is_empty() => Request::Nothing,
        ["QUIT" | "EXIT"] => Request::Leave,
        ["SET", ..] => Request::Declare(None),
        ["CREATE", "FUNCTION" | "AGGREGATE", ..] => Request::Declare(None),
        ["CREATE", ..] => Request::Declare(relation_name(tokens)),
        ["INSERT" | "BEGIN" | "EXECUTE", ..] => Request::Insert,
        ["EXPLAIN", ..] => Request::Explain,
        ["DROP", "TABLE" | "VIEW", ..] => Request::Drop(named(relation_name(tokens), "DROP TABLE t")?),
        ["DESCRIBE" | "DESC", ..] => {
            let skipped = if words.get(1) == Some(&"TABLE") { 2 } else { 1 };
            Request::Describe(named(tokens.get(skipped).and_then(name), "DESCRIBE t")?)
        }
        ["SUBSCRIBE", ..] => match tokens.get(1) {
            Some(_) => {
                let skipped = if words.get(1) == Some(&"TO") { 2 } else { 1 };
                let what =
                    tokens.get(skipped).ok_or_else(|| named(None, "SUBSCRIBE v").expect_err("there is no name"))?;
                Request::Subscribe(offset(statement, what.span.start))
            }
            None => {
                return Err(Error::invalid("the view is missing")
                    .help("write SUBSCRIBE v, or SUBSCRIBE (SELECT … FROM v WHERE …)"));
            }
        },
        ["SHOW", "TABLES"] => Request::ShowTables,
        ["SHOW", "VIEWS"] => Request::ShowViews,
        ["SHOW", "FUNCTIONS"] if tokens.len() == 2 => Request::ShowFunctions(None),
        ["SHOW", "FUNCTIONS", "LIKE"] => match tokens[3..] {
            [TokenWithSpan { token: Token::SingleQuotedString(ref pattern), .. }] => {
                Request::ShowFunctions(Some(pattern.replace('%', "*")))
            }
            _ => return Err(Error::invalid("LIKE takes a pattern").help("write SHOW FUNCTIONS LIKE 'array%'")),
        },
        ["SHOW", rest @ ..] => {
            let what = rest.first().copied().unwrap_or_default();
            let error = Error::invalid(format!("SHOW {what} is not known"));
            return Err(match nearest(what, ["TABLES", "VIEWS", "FUNCTIONS"]) {
                Some(near) => error.help(format!("did you mean SHOW {near}?")),
                None => {
                    error.help("SHOW TABLES, SHOW VIEWS and SHOW FUNCTIONS are; DESCRIBE t shows a table's columns")
                }
            });
        }
        _ => Request::Select(limit(statement, tokens)),
    })
}

fn named(name: Option<String>, usage: &str) -> Result<String> {
    name.ok_or_else(|| Error::invalid("the name is missing").help(format!("write {usage}")))
}

/// What follows TABLE or VIEW and IF [NOT] EXISTS.
fn relation_name(tokens: &[TokenWithSpan]) -> Option<String> {
    let is = |token: &TokenWithSpan, words: &[&str]| word(token).is_some_and(|word| words.contains(&word.as_str()));
    let start = tokens.iter().position(|token| is(token, &["TABLE", "VIEW"]))? + 1;
    name(tokens[start..].iter().find(|token| !is(token, &["IF", "NOT", "EXISTS"]))?)
}

/// `LIMIT n` at the end or before EMIT.
fn limit(statement: &str, tokens: &[TokenWithSpan]) -> Option<Limit> {
    let ends = |rest: &[TokenWithSpan]| rest.first().is_none_or(|token| word(token).as_deref() == Some("EMIT"));
    let start = (0..tokens.len().saturating_sub(1))
        .rev()
        .find(|&start| word(&tokens[start]).as_deref() == Some("LIMIT") && ends(&tokens[start + 2..]))?;
    let Token::Number(rows, _) = &tokens[start + 1].token else { return None };
    let from = offset(statement, tokens[start].span.start);
    let to = offset(statement, tokens[start + 1].span.start) + rows.len();
    Some(Limit { rows: rows.parse().ok()?, at: from..to })
}

/// The tokens of `text` without white space, as far as it has any.
fn tokens(text: &str) -> Vec<TokenWithSpan> {
    let mut tokens = Vec::new();
    // a text that breaks off, within a string for one, has all tokens before that
    let _ = Tokenizer::new(&DIALECT, text).tokenize_with_location_into_buf(&mut tokens);
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    tokens
}

/// The word in capitals, if it is one without quotes.
fn word(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

fn name(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Word(word) => Some(normal(&word.to_ident(token.span))),
        _ => None,
    }
}

/// The byte that stands at `at`.
fn offset(text: &str, at: Location) -> usize {
    let number = |n: u64| usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(number(at.line)).map(str::len).sum();
    let line = &text[start..];
    start + line.char_indices().nth(number(at.column)).map_or(line.len(), |(byte, _)| byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_its_semicolon() {
        let check = |text: &str, first: Option<&str>| assert_eq!(statement_end(text).map(|end| &text[..end]), first);
        check("SELECT 1; SELECT 2;", Some("SELECT 1;"));
        check("-- no; comment\nSELECT 'ä;', \"b;\"\n;rest", Some("-- no; comment\nSELECT 'ä;', \"b;\"\n;"));
        check("SELECT 1", None);
        check("SELECT 'open;\n", None);
        check("SELECT 1; SELECT 'open", Some("SELECT 1;"));
        let set = "BEGIN STATEMENT SET; INSERT INTO a SELECT 1; INSERT INTO b SELECT 2; END;";
        check(&format!("{set} SELECT 1;"), Some(set));
        check("BEGIN STATEMENT SET; INSERT INTO a SELECT 1;", None);
    }

    #[test]
    fn a_statement_is_told_by_its_first_words() {
        let check = |text: &str, expected: Request| assert_eq!(request(text).unwrap(), expected, "{text}");
        check(" -- nothing\n;", Request::Nothing);
        check("create temporary table if not exists \"T\" (a INT);", Request::Declare(Some("T".into())));
        check("CREATE VIEW v AS SELECT 1", Request::Declare(Some("v".into())));
        check("DROP TABLE IF EXISTS Old;", Request::Drop("old".into()));
        check("describe T", Request::Describe("t".into()));
        check("DESC TABLE t;", Request::Describe("t".into()));
        check("SHOW VIEWS;", Request::ShowViews);
        check("CREATE MATERIALIZED VIEW \"V\" AS SELECT 1;", Request::Declare(Some("V".into())));
        let subscription = "subscribe ( SELECT a FROM t );";
        let Request::Subscribe(from) = request(subscription).unwrap() else { panic!("it is a subscription") };
        assert_eq!(&subscription[from..], "( SELECT a FROM t );");
        check("SUBSCRIBE TO v", Request::Subscribe(13));
        check("SHOW FUNCTIONS LIKE 'array%';", Request::ShowFunctions(Some("array*".into())));
        check("SELECT a FROM t WHERE b LIMIT c", Request::Select(None));
        let limited = "SELECT 'ä' FROM t LIMIT 10 EMIT FINAL;";
        let Request::Select(Some(limit)) = request(limited).unwrap() else { panic!("there is a limit") };
        assert_eq!((limit.rows, &limited[limit.at]), (10, "LIMIT 10"));
        check("SELECT * FROM (SELECT a FROM t LIMIT 3) AS x", Request::Select(None));
        assert_eq!(request("SHOW TABLE").unwrap_err().advice(), Some("did you mean SHOW TABLES?"));
    }
}
