//! Text to statements: sqlparser's, with the grammar of tables, SET, EMIT and statement sets around them.
//!
//! The text is cut into statements at its semicolons, so an error stays in its own. What sqlparser does not read (`TABLE t` inside a
//! window function's arguments, a trailing `EMIT`, `MAP<K, V>`, `ROW<…>`) is rewritten token by token before it sees them;
//! tokens keep their places.

use super::ddl::{CreateTable, parse_create_table};
use super::guest::{CreateFunction, called, parse_create_function};
use super::place::Text;
use super::temporal::{ASOF_LEFT, SYSTEM_TIME};
use crate::connector::OptionText;
use crate::error::{Error, Result, nearest};
use crate::time::Micros;
use sqlparser::ast::{Ident, ObjectName, Query};
use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Whitespace, Word};

/// The name of the argument that stands in front of SESSION's keys: no other can have it, not even in quotes.
pub(super) const PARTITION_BY: &str = "\0PARTITION BY";

/// The dialect of all of it.
pub(super) const DIALECT: GenericDialect = GenericDialect {};

/// A statement and where it starts.
#[derive(Debug)]
pub(super) struct Statement {
    /// The place of its first word.
    pub start: Location,
    /// What it says.
    pub kind: Kind,
}

/// What a statement says.
#[derive(Debug)]
pub(super) enum Kind {
    /// `CREATE TABLE`.
    CreateTable(Box<CreateTable>),
    /// `CREATE VIEW`.
    CreateView(CreateView),
    /// `CREATE FUNCTION`.
    CreateFunction(Box<CreateFunction>),
    /// `INSERT INTO`, or a SELECT on its own.
    Insert(Insert),
    /// `SET 'key' = 'value'`.
    Set { key: String, value: OptionText },
    /// `EXPLAIN` of an INSERT or a SELECT.
    Explain(Insert),
    /// One that cannot be read, and what it would have declared.
    Wrong(Error, Option<String>),
}

impl Kind {
    /// The table or view that the statement declares; of a function its name with `()`, for it is no table's.
    pub fn declares(&self) -> Option<String> {
        match self {
            Kind::CreateTable(table) => Some(super::normal(&table.name)),
            Kind::CreateView(view) => Some(super::normal(&view.name)),
            Kind::CreateFunction(function) => Some(called(&super::normal(&function.name))),
            Kind::Wrong(_, name) => name.clone(),
            Kind::Insert(_) | Kind::Set { .. } | Kind::Explain(_) => None,
        }
    }
}

/// `CREATE [MATERIALIZED] VIEW name [(columns)] AS query`.
#[derive(Debug)]
pub(super) struct CreateView {
    pub name: Ident,
    /// True for a view that is served.
    pub materialized: bool,
    pub columns: Vec<Ident>,
    pub query: Box<Query>,
    pub if_not_exists: bool,
}

/// `INSERT INTO table [(columns)] query [EMIT …] [ALLOWED LATENESS …] [LATE INTO …]`; a SELECT on its own has no table.
#[derive(Debug)]
pub(super) struct Insert {
    pub start: Location,
    pub table: Option<Ident>,
    pub columns: Vec<Ident>,
    pub query: Box<Query>,
    pub ending: Ending,
}

/// The clauses behind a query.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub emit: Option<(EmitClause, Location)>,
    /// `ALLOWED LATENESS INTERVAL '1' MINUTE`, in microseconds: how long windows stay open after the watermark has reached their end.
    pub lateness: Option<(Micros, Location)>,
    /// `LATE INTO table`: where rows go that come too late for their windows.
    pub late: Option<Ident>,
}

/// When a query speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmitClause {
    /// `EMIT FINAL`: once, when the input has ended.
    Final,
    /// `EMIT CHANGES`: as results change.
    Changes,
    /// `EMIT ON WINDOW CLOSE`: when their windows close.
    OnWindowClose,
}

/// All statements of `text`, in order; those that are wrong among them.
pub(super) fn parse(text: Text) -> Vec<Statement> {
    let mut tokens = Vec::new();
    let unreadable = Tokenizer::new(&DIALECT, text.sql).tokenize_with_location_into_buf(&mut tokens).err();
    let mut tokens = tokens.into_iter().filter(meant()).peekable();
    let mut statements = Vec::new();
    let mut open_set: Option<Location> = None;
    while tokens.peek().is_some() {
        let mut statement: Vec<_> = tokens.by_ref().take_while(|t| t.token != Token::SemiColon).collect();
        let Some(first) = statement.first() else { continue };
        let start = first.span.start;
        if is_words(&statement, &["BEGIN", "STATEMENT", "SET"]) && statement.len() == 3 {
            open_set = Some(start);
            continue;
        }
        if is_words(&statement, &["EXECUTE", "STATEMENT", "SET", "BEGIN"]) {
            open_set = Some(start);
            statement.drain(..4);
        }
        if open_set.is_some() && statement.len() == 1 && is_words(&statement, &["END"]) {
            open_set = None;
            continue;
        }
        if statement.is_empty() {
            continue;
        }
        let declares = declared_name(&statement);
        // what cannot be read is in the last one
        let cut = unreadable.as_ref().filter(|_| tokens.peek().is_none());
        let parsed = match cut {
            Some(error) => Err(text.tokenizer_error(error)),
            None => parse_statement(text, statement),
        };
        statements.push(match parsed {
            Ok(statement) => statement,
            Err(error) => Statement { start, kind: Kind::Wrong(error, declares) },
        });
    }
    let wrong = |error, start| Statement { start, kind: Kind::Wrong(error, None) };
    match (unreadable, open_set) {
        (Some(error), _) if !statements.iter().any(|statement| matches!(statement.kind, Kind::Wrong(..))) => {
            let at = error.location;
            statements.push(wrong(text.tokenizer_error(&error), at));
        }
        (None, Some(start)) => {
            let error = Error::invalid("this statement set is not closed").help("add END; after its last INSERT");
            statements.push(wrong(text.error_at(error, start), start));
        }
        _ => {}
    }
    statements
}

/// True for tokens that say something: no white space and no comments but the hints of a SELECT.
fn meant() -> impl FnMut(&TokenWithSpan) -> bool {
    let mut select = false;
    move |token| match &token.token {
        Token::Whitespace(Whitespace::MultiLineComment(text)) => select && text.starts_with('+'),
        Token::Whitespace(_) | Token::EOF => false,
        other => {
            select = matches!(other, Token::Word(word) if word.keyword == Keyword::SELECT);
            true
        }
    }
}

/// What a statement declares, as [`Kind::declares`] has it, as far as its first words say.
fn declared_name(tokens: &[TokenWithSpan]) -> Option<String> {
    let mut words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let mut next =
        || words.next().and_then(|token| if let Token::Word(word) = &token.token { Some(word) } else { None });
    if next()?.keyword != Keyword::CREATE {
        return None;
    }
    let skipped = [
        Keyword::TEMPORARY,
        Keyword::TEMP,
        Keyword::AGGREGATE,
        Keyword::FUNCTION,
        Keyword::MATERIALIZED,
        Keyword::TABLE,
        Keyword::VIEW,
        Keyword::IF,
        Keyword::NOT,
        Keyword::EXISTS,
    ];
    let mut function = false;
    let name = std::iter::from_fn(next).find(|word| {
        function |= word.keyword == Keyword::FUNCTION;
        !skipped.contains(&word.keyword)
    })?;
    let name = super::normal(&Ident { value: name.value.clone(), quote_style: name.quote_style, span: Span::empty() });
    Some(if function { called(&name) } else { name })
}

fn parse_statement(text: Text, tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    read_statement(text, tokens.clone()).map_err(|error| {
        let place = error.excerpt().map(|place| Location::new(place.line as u64, place.column as u64));
        // what starts a statement has advice of its own, which a near word makes better
        let first = place == Some(tokens[0].span.start);
        match place.filter(|_| first || error.advice().is_none()).and_then(|at| advice(&tokens, at)) {
            Some(advice) => error.help(advice),
            None => error,
        }
    })
}

fn read_statement(text: Text, mut tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let start = tokens[0].span.start;
    let end = tokens[tokens.len() - 1].span.end;
    let explain = is_words(&tokens, &["EXPLAIN"]);
    if explain {
        let skipped = if is_words(&tokens[1..], &["PLAN", "FOR"]) { 3 } else { 1 };
        tokens.drain(..skipped);
        if tokens.is_empty() {
            return Err(text.error_at(Error::invalid("EXPLAIN needs an INSERT or a SELECT after it"), start));
        }
    }
    let ending = cut_ending(text, &mut tokens)?;
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(rewrite(tokens));
    let kind = parse_kind(text, &mut parser, start, ending).map_err(|error| match error {
        Failure::Parser(error) => text.parser_error(error, end),
        Failure::Ours(error) => error,
    })?;
    let kind = match (explain, kind) {
        (false, kind) => kind,
        (true, Kind::Insert(insert)) => Kind::Explain(insert),
        (true, _) => return Err(text.error_at(Error::invalid("EXPLAIN takes an INSERT or a SELECT"), start)),
    };
    let rest = parser.peek_token();
    match rest.token {
        Token::EOF => Ok(Statement { start, kind }),
        other => {
            Err(text
                .error_at(Error::invalid(format!("expected the end of the statement, found {other}")), rest.span.start))
        }
    }
}

/// Either the parser's error or one of ours that has its place.
#[derive(Debug)]
pub(super) enum Failure {
    Parser(ParserError),
    Ours(Error),
}

impl From<ParserError> for Failure {
    fn from(error: ParserError) -> Self {
        Failure::Parser(error)
    }
}

fn parse_kind(text: Text, parser: &mut Parser, start: Location, ending: Ending) -> Result<Kind, Failure> {
    let emit = ending.emit.map(|(_, at)| ("EMIT", at));
    let lateness = ending.lateness.map(|(_, at)| ("ALLOWED LATENESS", at));
    let clause = emit.or(lateness).or(ending.late.as_ref().map(|table| ("LATE INTO", table.span.start)));
    let no_ending = |what: &str| match clause {
        Some((clause, at)) => {
            let help = match what.contains("MATERIALIZED") {
                true => "leave it out: who reads the view sees every change",
                false => "write it at the end of the INSERT",
            };
            let error = Error::invalid(format!("{clause} does not belong to {what}")).help(help);
            Err(Failure::Ours(text.error_at(error, at)))
        }
        None => Ok(()),
    };
    if parser.parse_keyword(Keyword::CREATE) {
        let _ = parser.parse_keyword(Keyword::TEMPORARY) || parser.parse_keyword(Keyword::TEMP);
        if parser.parse_keyword(Keyword::TABLE) {
            no_ending("CREATE TABLE")?;
            return Ok(Kind::CreateTable(Box::new(parse_create_table(text, parser)?)));
        }
        let materialized = parser.parse_keyword(Keyword::MATERIALIZED);
        if materialized {
            no_ending("CREATE MATERIALIZED VIEW")?;
            parser.expect_keyword_is(Keyword::VIEW)?;
        }
        if materialized || parser.parse_keyword(Keyword::VIEW) {
            no_ending("CREATE VIEW")?;
            let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
            let name = parse_name(text, parser)?;
            let columns = parse_column_names(parser)?;
            parser.expect_keyword_is(Keyword::AS)?;
            let query = parser.parse_query()?;
            return Ok(Kind::CreateView(CreateView { name, materialized, columns, query, if_not_exists }));
        }
        let aggregate = parser.parse_keyword(Keyword::AGGREGATE);
        if parser.parse_keyword(Keyword::FUNCTION) {
            no_ending("CREATE FUNCTION")?;
            return Ok(Kind::CreateFunction(Box::new(parse_create_function(text, parser, aggregate)?)));
        }
        let found = parser.peek_token();
        let error = Error::invalid(format!("CREATE {found} is not supported"))
            .help("CREATE TABLE, CREATE VIEW, CREATE MATERIALIZED VIEW and CREATE FUNCTION are");
        return Err(Failure::Ours(text.error_at(error, found.span.start)));
    }
    if parser.parse_keyword(Keyword::SET) {
        no_ending("SET")?;
        let at = parser.peek_token().span.start;
        let key = parse_dotted(parser)?;
        let name = Span::new(at, parser.get_current_token().span.end);
        if !parser.consume_token(&Token::Eq) {
            parser.expect_keyword_is(Keyword::TO)?;
        }
        return Ok(Kind::Set { key, value: parse_option_value(text, parser, name)? });
    }
    if parser.parse_keyword(Keyword::INSERT) {
        parser.expect_keyword_is(Keyword::INTO)?;
        let _ = parser.parse_keyword(Keyword::TABLE);
        let table = Some(parse_name(text, parser)?);
        let columns = parse_column_names(parser)?;
        let query = parser.parse_query()?;
        return Ok(Kind::Insert(Insert { start, table, columns, query, ending }));
    }
    let first = parser.peek_token();
    match &first.token {
        Token::Word(Word { keyword: Keyword::SELECT | Keyword::WITH | Keyword::VALUES, .. }) | Token::LParen => {
            let query = parser.parse_query()?;
            Ok(Kind::Insert(Insert { start, table: None, columns: Vec::new(), query, ending }))
        }
        other => {
            let error = Error::invalid(format!("a statement cannot start with {other}")).help(instead_of(other));
            Err(Failure::Ours(text.error_at(error, first.span.start)))
        }
    }
}

/// What to do instead of a statement that starts with `token`.
fn instead_of(token: &Token) -> &'static str {
    let Token::Word(word) = token else { return STATEMENTS };
    match word.keyword {
        Keyword::UPDATE | Keyword::DELETE | Keyword::MERGE | Keyword::TRUNCATE => {
            "rows that are written stay; into a table with a PRIMARY KEY an INSERT writes the newest row of each key"
        }
        Keyword::DROP | Keyword::ALTER => {
            "a definition creates nothing outside, so nothing is dropped or altered: change its CREATE TABLE"
        }
        Keyword::SHOW | Keyword::DESCRIBE | Keyword::DESC => {
            "`highwater tables FILE` shows tables, and so does the shell `highwater sql FILE`"
        }
        _ => STATEMENTS,
    }
}

const STATEMENTS: &str =
    "the statements are CREATE TABLE, CREATE VIEW, CREATE FUNCTION, INSERT INTO, SELECT, EXPLAIN and SET";

/// Words that a typo may have been meant for.
const WORDS: [&str; 25] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "INSERT",
    "INTO",
    "CREATE",
    "TABLE",
    "VIEW",
    "MATERIALIZED",
    "WITH",
    "WATERMARK",
    "PRIMARY",
    "INTERVAL",
    "UNION",
    "DISTINCT",
    "VALUES",
    "JOIN",
    "EMIT",
    "FINAL",
    "CHANGES",
    "LATE",
    "ALLOWED",
    "EXPLAIN",
];

/// Advice for an error of the parser at `at`: a word near it may be misspelt, or a semicolon is missing before it.
fn advice(tokens: &[TokenWithSpan], at: Location) -> Option<String> {
    let here = tokens.iter().position(|token| token.span.start >= at).unwrap_or(tokens.len());
    let near = |token: &TokenWithSpan| match &token.token {
        Token::Word(found) if found.quote_style.is_none() && found.keyword == Keyword::NoKeyword => {
            let meant = nearest(&found.value, WORDS).filter(|meant| !meant.eq_ignore_ascii_case(&found.value))?;
            Some(format!("did you mean {meant} instead of {}?", found.value))
        }
        _ => None,
    };
    let around = [here.checked_sub(1), Some(here), here.checked_sub(2), Some(here + 1)];
    let misspelt = around.into_iter().flatten().filter_map(|index| tokens.get(index)).find_map(near);
    let starts = |token: &TokenWithSpan| {
        let Token::Word(word) = &token.token else { return false };
        matches!(word.keyword, Keyword::SELECT | Keyword::INSERT | Keyword::CREATE | Keyword::SET | Keyword::EXPLAIN)
    };
    let semicolon = || {
        let new_line = here > 0 && tokens.get(here)?.span.start.line > tokens[here - 1].span.start.line;
        (new_line && starts(&tokens[here])).then(|| "end the statement before it with ;".to_owned())
    };
    misspelt.or_else(semicolon)
}

/// A name of one part.
pub(super) fn parse_name(text: Text, parser: &mut Parser) -> Result<Ident, Failure> {
    let at = parser.peek_token().span.start;
    let ObjectName(parts) = parser.parse_object_name(false)?;
    match <[_; 1]>::try_from(parts).ok().and_then(|[part]| part.as_ident().cloned()) {
        Some(name) => Ok(name),
        None => Err(Failure::Ours(
            text.error_at(Error::invalid("a name has one part here: there are no catalogs or schemas"), at),
        )),
    }
}

/// `(a, b)`, if it is there and is not the start of a query.
pub(super) fn parse_column_names(parser: &mut Parser) -> Result<Vec<Ident>, ParserError> {
    let query_follows = matches!(
        parser.peek_nth_token(1).token,
        Token::LParen | Token::Word(Word { keyword: Keyword::SELECT | Keyword::WITH | Keyword::VALUES, .. })
    );
    if query_follows || !parser.consume_token(&Token::LParen) {
        return Ok(Vec::new());
    }
    let names = parser.parse_comma_separated(Parser::parse_identifier)?;
    parser.expect_token(&Token::RParen)?;
    Ok(names)
}

/// `'a.b-c'`, or `a.b-c` without quotes.
pub(super) fn parse_dotted(parser: &mut Parser) -> Result<String, ParserError> {
    let mut name = match parser.next_token() {
        TokenWithSpan { token: Token::SingleQuotedString(text), .. } => return Ok(text),
        TokenWithSpan { token: Token::Word(word), .. } => word.value,
        found => return parser.expected("a name", found),
    };
    loop {
        let separator = match parser.peek_token().token {
            Token::Period => '.',
            Token::Minus => '-',
            _ => return Ok(name),
        };
        parser.next_token();
        name.push(separator);
        match parser.next_token() {
            TokenWithSpan { token: Token::Word(word), .. } => name.push_str(&word.value),
            found => return parser.expected("a name", found),
        }
    }
}

/// `'text'`, a number or a single word.
fn parse_plain_value(parser: &mut Parser) -> Result<String, ParserError> {
    match parser.next_token() {
        TokenWithSpan { token: Token::SingleQuotedString(text) | Token::DoubleQuotedString(text), .. } => Ok(text),
        TokenWithSpan { token: Token::Number(text, _), .. } => Ok(text),
        TokenWithSpan { token: Token::Word(word), .. } => Ok(word.value),
        found => parser.expected("a value such as 'text'", found),
    }
}

/// The value of an option whose name stands at `name`.
pub(super) fn parse_option_value(text: Text, parser: &mut Parser, name: Span) -> Result<OptionText, ParserError> {
    let value = parse_plain_value(parser)?;
    let places = Some((text.excerpt(name), text.excerpt(parser.get_current_token().span)));
    Ok(OptionText { text: value, places })
}

/// True if the parser's next word is `word`, which is then read. For words that sqlparser has no keyword for.
pub(super) fn parse_word(parser: &mut Parser, word: &str) -> bool {
    let found = matches!(&parser.peek_token().token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
    if found {
        parser.next_token();
    }
    found
}

fn word(token: &TokenWithSpan) -> Option<&str> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
        _ => None,
    }
}

/// True if `tokens` start with these words.
pub(super) fn is_words(tokens: &[TokenWithSpan], words: &[&str]) -> bool {
    tokens.len() >= words.len()
        && words
            .iter()
            .zip(tokens)
            .all(|(expected, token)| word(token).is_some_and(|w| w.eq_ignore_ascii_case(expected)))
}

/// Takes the clauses behind a query off the statement, in whatever order they come: sqlparser would read them as an alias.
fn cut_ending(text: Text, tokens: &mut Vec<TokenWithSpan>) -> Result<Ending> {
    let mut ending = Ending::default();
    loop {
        let length = tokens.len();
        if let Some(emit) = cut_emit(tokens) {
            ending.emit.get_or_insert(emit);
        }
        if let Some(table) = cut_late(tokens) {
            ending.late.get_or_insert(table);
        }
        if let Some(lateness) = cut_lateness(text, tokens)? {
            ending.lateness.get_or_insert(lateness);
        }
        if tokens.len() == length {
            return Ok(ending);
        }
    }
}

/// Takes a trailing `LATE INTO table` off the statement.
fn cut_late(tokens: &mut Vec<TokenWithSpan>) -> Option<Ident> {
    let start = tokens.len().checked_sub(3)?;
    let Token::Word(name) = &tokens[start + 2].token else { return None };
    let name = name.clone().into_ident(tokens[start + 2].span);
    is_words(&tokens[start..], &["LATE", "INTO"]).then(|| {
        tokens.truncate(start);
        name
    })
}

/// Takes a trailing `ALLOWED LATENESS INTERVAL '1' MINUTE` off the statement.
fn cut_lateness(text: Text, tokens: &mut Vec<TokenWithSpan>) -> Result<Option<(Micros, Location)>> {
    // the words are at most so far from the end
    let first = tokens.len().saturating_sub(6);
    let Some(start) = (first..tokens.len()).find(|start| is_words(&tokens[*start..], &["ALLOWED", "LATENESS"])) else {
        return Ok(None);
    };
    let at = tokens[start].span.start;
    let value = &tokens[start + 2..];
    let value = if is_words(value, &["INTERVAL"]) { &value[1..] } else { value };
    let words: Option<Vec<&str>> = value
        .iter()
        .map(|part| match &part.token {
            Token::SingleQuotedString(text) => Some(text.as_str()),
            Token::Word(word) => Some(word.value.as_str()),
            _ => None,
        })
        .collect();
    let duration = words.and_then(|words| humantime::parse_duration(&words.join(" ").to_lowercase()).ok());
    let micros = duration.and_then(|duration| Micros::try_from(duration.as_micros()).ok());
    let micros = micros.ok_or_else(|| {
        let error = Error::invalid("ALLOWED LATENESS takes a constant interval");
        text.error_at(error.help("write ALLOWED LATENESS INTERVAL '1' MINUTE at the end of the INSERT"), at)
    })?;
    tokens.truncate(start);
    Ok(Some((micros, at)))
}

/// Takes a trailing `EMIT …` off the statement.
fn cut_emit(tokens: &mut Vec<TokenWithSpan>) -> Option<(EmitClause, Location)> {
    let endings: [(&[&str], EmitClause); 3] = [
        (&["EMIT", "FINAL"], EmitClause::Final),
        (&["EMIT", "CHANGES"], EmitClause::Changes),
        (&["EMIT", "ON", "WINDOW", "CLOSE"], EmitClause::OnWindowClose),
    ];
    let (start, clause) = endings.into_iter().find_map(|(words, clause)| {
        let start = tokens.len().checked_sub(words.len())?;
        is_words(&tokens[start..], words).then_some((start, clause))
    })?;
    let at = tokens[start].span.start;
    tokens.truncate(start);
    Some((clause, at))
}

/// Spells for sqlparser what it does not read: drops `TABLE` before a name in a function's arguments, makes `MAP<K, V>` into `MAP(K, V)`,
/// `ROW<…>` into `STRUCT<…>` and the `PARTITION BY` behind a function's argument into an argument of its own.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // For each open angle bracket of a type: the token that closes it in sqlparser's spelling.
    let mut angles: Vec<Token> = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let mut asof_left = false;
    // How many parentheses are open in the condition of an ASOF LEFT JOIN.
    let mut closing: Option<usize> = None;
    while let Some(mut token) = tokens.next() {
        closing = match (&token.token, closing) {
            (Token::LParen, Some(open)) => Some(open + 1),
            (Token::RParen, Some(0)) => {
                out.push(TokenWithSpan::new(Token::RParen, token.span));
                None
            }
            (Token::RParen, Some(open)) => Some(open - 1),
            (_, open) => open,
        };
        let next = tokens.peek().map(|next| next.token.clone());
        let in_arguments = matches!(out.last().map(|t| &t.token), Some(Token::LParen | Token::Comma | Token::RArrow));
        match &token.token {
            Token::Word(word)
                if word.keyword == Keyword::TABLE && in_arguments && matches!(next, Some(Token::Word(_))) =>
            {
                continue;
            }
            Token::Word(word)
                if word.keyword == Keyword::PARTITION
                    && matches!(&next, Some(Token::Word(next)) if next.keyword == Keyword::BY)
                    && matches!(out.last().map(|t| &t.token), Some(Token::RParen | Token::Word(_))) =>
            {
                tokens.next();
                let mark = Token::make_word(PARTITION_BY, Some('"'));
                out.extend([Token::Comma, mark, Token::Comma].map(|part| TokenWithSpan::new(part, token.span)));
                continue;
            }
            // sqlparser knows no versions in this dialect: `t FOR SYSTEM_TIME AS OF time` becomes `t ("FOR SYSTEM_TIME AS OF", time)`
            Token::Word(word) if word.keyword == Keyword::FOR && is_system_time(&next) => {
                for _ in 0..3 {
                    tokens.next_if(|next| matches!(&next.token, Token::Word(_)));
                }
                let mark = [Token::LParen, Token::make_word(SYSTEM_TIME, Some('"')), Token::Comma];
                out.extend(mark.map(|part| TokenWithSpan::new(part, token.span)));
                let (mut depth, mut operand) = (0, false);
                while let Some(part) = tokens.next_if(|next| depth > 0 || !ends_time(&next.token, operand)) {
                    match part.token {
                        Token::LParen => depth += 1,
                        Token::RParen => depth -= 1,
                        _ => {}
                    }
                    operand = matches!(part.token, Token::Word(_) | Token::RParen);
                    out.push(part);
                }
                out.push(TokenWithSpan::new(Token::RParen, token.span));
                continue;
            }
            // nor ASOF LEFT JOIN: what it is called stands in its condition
            Token::Word(word) if word.keyword == Keyword::LEFT && follows(&out, Keyword::ASOF) => {
                tokens.next_if(|next| matches!(&next.token, Token::Word(word) if word.keyword == Keyword::OUTER));
                asof_left = true;
                continue;
            }
            Token::LParen if asof_left && follows(&out, Keyword::MATCH_CONDITION) => {
                asof_left = false;
                let mark = [Token::make_word(ASOF_LEFT, Some('"')), Token::make_keyword("AND"), Token::LParen];
                let span = token.span;
                out.push(token);
                out.extend(mark.map(|part| TokenWithSpan::new(part, span)));
                closing = Some(0);
                continue;
            }
            Token::Word(word) if next == Some(Token::Lt) && is_type_word(word) => {
                let map = word.keyword == Keyword::MAP;
                if word.keyword == Keyword::ROW {
                    token.token = Token::make_keyword("STRUCT");
                }
                out.push(token);
                let mut bracket = tokens.next().expect("peeked at `<` just now");
                if map {
                    bracket.token = Token::LParen;
                }
                out.push(bracket);
                angles.push(if map { Token::RParen } else { Token::Gt });
                continue;
            }
            Token::Gt if !angles.is_empty() => token.token = angles.pop().expect("not empty"),
            Token::ShiftRight if !angles.is_empty() => {
                let Span { start, end } = token.span;
                for span in [Span::new(start, start), Span::new(end, end)] {
                    out.push(TokenWithSpan::new(angles.pop().unwrap_or(Token::Gt), span));
                }
                continue;
            }
            _ => {}
        }
        out.push(token);
    }
    out
}

fn follows(tokens: &[TokenWithSpan], keyword: Keyword) -> bool {
    matches!(tokens.last().map(|last| &last.token), Some(Token::Word(word)) if word.keyword == keyword)
}

fn is_system_time(token: &Option<Token>) -> bool {
    matches!(token, Some(Token::Word(word)) if word.keyword == Keyword::SYSTEM_TIME)
}

/// True if `token` does not go on with the time of FOR SYSTEM_TIME AS OF, which has come to an `operand` or not.
fn ends_time(token: &Token, operand: bool) -> bool {
    match token {
        Token::Word(word) => operand || matches!(word.keyword, Keyword::AS | Keyword::ON | Keyword::USING),
        Token::Comma | Token::RParen => true,
        _ => false,
    }
}

fn is_type_word(word: &Word) -> bool {
    word.quote_style.is_none() && matches!(word.keyword, Keyword::MAP | Keyword::ROW | Keyword::ARRAY | Keyword::STRUCT)
}
