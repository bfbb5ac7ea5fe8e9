//! SQL from pieces: how a definition that is not SQL itself talks to the planner.
//!
//! A [`Phrase`] is text from the definition that knows where each of its characters stands there, so that an error inside an
//! expression is shown inside the YAML string that holds it. A [`Sentence`] is a query whose fixed words are the front end's and
//! whose names and expressions are phrases. Each of these is read on its own before it goes in: it cannot say more than it should.

use super::place::Text;
use super::statements::{DIALECT, rewrite};
use crate::error::{Error, Result};
use sqlparser::ast::{Ident, Query};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError, Word};

/// A place in a definition's text: a line and a column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl From<At> for Location {
    fn from(at: At) -> Self {
        Location::new(at.line, at.column)
    }
}

/// Text from a definition: a name, a type, an expression, the value of an option.
#[derive(Debug, Clone)]
pub struct Phrase {
    text: String,
    /// For each character its place, and one more for the end.
    places: Vec<At>,
}

impl Phrase {
    /// `text`, whose characters stand at `places`; one more place says where it ends.
    pub fn new(text: impl Into<String>, places: Vec<At>) -> Self {
        let text = text.into();
        debug_assert_eq!(text.chars().count() + 1, places.len(), "{text}");
        Phrase { text, places }
    }

    /// `text`, all of it at `at`: what the front end says on behalf of something there.
    pub fn at(text: impl Into<String>, at: At) -> Self {
        let text = text.into();
        let places = vec![at; text.chars().count() + 1];
        Phrase { text, places }
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it starts.
    pub fn start(&self) -> At {
        self.places[0]
    }

    /// For each character its place, and one more for the end.
    pub fn places(&self) -> &[At] {
        &self.places
    }

    /// All of it, in the definition.
    pub(super) fn span(&self) -> Span {
        Span::new(self.start().into(), self.end())
    }

    fn end(&self) -> Location {
        self.places[self.places.len() - 1].into()
    }

    /// Where `at`, a place in the phrase, is in the definition.
    fn outside(&self, at: Location) -> Location {
        let before: usize = self.text.lines().take((at.line.max(1) - 1) as usize).map(|l| l.chars().count() + 1).sum();
        let index = before + (at.column.max(1) - 1) as usize;
        self.places[index.min(self.places.len() - 1)].into()
    }

    /// The name that it is: letters, digits and underscores, or anything in double quotes.
    pub fn name(&self, text: Text) -> Result<String> {
        self.ident(text).map(|name| name.value)
    }

    pub(super) fn ident(&self, text: Text) -> Result<Ident> {
        let tokens = self.tokens(text)?;
        let [TokenWithSpan { token: Token::Word(word), span }] = tokens.as_slice() else {
            return Err(text.wrong(
                Error::invalid(format!("'{}' is not a name", self.text))
                    .help("a name has letters, digits and _, and starts with no digit; any other stands in double quotes inside the quotes: '\"…\"'"),
                self,
            ));
        };
        // Quoted, so that no name is taken for a keyword.
        let value = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
        Ok(Ident { value, quote_style: Some('"'), span: *span })
    }

    /// The name that it is, as a word of SQL.
    pub(super) fn word(&self, text: Text) -> Result<TokenWithSpan> {
        let Ident { value, quote_style, span } = self.ident(text)?;
        Ok(TokenWithSpan::new(Token::Word(Word { value, quote_style, keyword: Keyword::NoKeyword }), span))
    }

    /// The words in it, at their places in the definition.
    pub(super) fn tokens(&self, text: Text) -> Result<Vec<TokenWithSpan>> {
        let tokens = Tokenizer::new(&DIALECT, &self.text).tokenize_with_location().map_err(|error| {
            text.tokenizer_error(&TokenizerError { location: self.outside(error.location), ..error })
        })?;
        let own = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF));
        let moved = own.map(|token| {
            let span = Span::new(self.outside(token.span.start), self.outside(token.span.end));
            TokenWithSpan::new(token.token, span)
        });
        Ok(moved.collect())
    }

    /// The words of an expression, which must be all of it.
    pub(super) fn expression_words(&self, text: Text) -> Result<Vec<TokenWithSpan>> {
        self.words(text, |parser| parser.parse_expr().map(drop))
    }

    /// The words of what may stand after ORDER BY.
    fn order_words(&self, text: Text) -> Result<Vec<TokenWithSpan>> {
        self.words(text, |parser| parser.parse_comma_separated(Parser::parse_order_by_expr).map(drop))
    }

    /// The words in it, once `read` has read all of them.
    fn words(
        &self,
        text: Text,
        read: impl FnOnce(&mut Parser) -> Result<(), ParserError>,
    ) -> Result<Vec<TokenWithSpan>> {
        let tokens = rewrite(self.tokens(text)?);
        if tokens.is_empty() {
            return Err(text.error_at(Error::invalid("nothing stands here"), self.start().into()));
        }
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens.clone());
        read(&mut parser).map_err(|error| match error {
            // Its end is not that of a statement.
            ParserError::ParserError(said) if said.ends_with("found: EOF") => {
                text.parser_error(ParserError::ParserError(said.replace("found: EOF", "found: the end")), self.end())
            }
            error => text.parser_error(error, self.end()),
        })?;
        let rest = parser.peek_token();
        match rest.token {
            Token::EOF => Ok(tokens),
            other => {
                let error = Error::invalid(format!("expected the end of the expression, found {other}"));
                Err(text.error_at(error, rest.span.start))
            }
        }
    }
}

/// A query in the making.
pub struct Sentence<'a> {
    text: Text<'a>,
    /// Where its own words stand: at what the sentence is about.
    at: At,
    tokens: Vec<TokenWithSpan>,
    wrong: Vec<Error>,
}

impl<'a> Sentence<'a> {
    /// No words yet; those to come stand for what is at `at` in `text`.
    pub fn new(text: Text<'a>, at: At) -> Self {
        Sentence { text, at, tokens: Vec::new(), wrong: Vec::new() }
    }

    /// Adds words of SQL.
    pub fn say(mut self, words: &str) -> Self {
        match Phrase::at(words, self.at).tokens(self.text) {
            Ok(tokens) => self.tokens.extend(tokens),
            Err(error) => self.wrong.push(error),
        }
        self
    }

    /// Adds a name.
    pub fn name(mut self, name: &Phrase) -> Self {
        match name.word(self.text) {
            Ok(word) => self.tokens.push(word),
            Err(error) => self.wrong.push(error),
        }
        self
    }

    /// Adds an expression, which must be all of `expression`.
    pub fn expression(mut self, expression: &Phrase) -> Self {
        match expression.expression_words(self.text) {
            Ok(tokens) => self.tokens.extend(tokens),
            Err(error) => self.wrong.push(error),
        }
        self
    }

    /// Adds what may stand after ORDER BY.
    pub fn order(mut self, order: &Phrase) -> Self {
        match order.order_words(self.text) {
            Ok(tokens) => self.tokens.extend(tokens),
            Err(error) => self.wrong.push(error),
        }
        self
    }

    /// Adds something for each of `items`, with commas between them.
    pub fn list<T>(mut self, items: impl IntoIterator<Item = T>, mut add: impl FnMut(Self, T) -> Self) -> Self {
        for (position, item) in items.into_iter().enumerate() {
            if position > 0 {
                self = self.say(",");
            }
            self = add(self, item);
        }
        self
    }

    /// The query.
    ///
    /// # Errors
    /// All mistakes in the phrases, each at its place.
    pub(super) fn query(self) -> Result<Box<Query>, Vec<Error>> {
        let Sentence { text, at, tokens, mut wrong } = self;
        if wrong.is_empty() {
            let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(rewrite(tokens));
            let query = parser.parse_query().map_err(|error| text.parser_error(error, at.into()));
            let rest = parser.peek_token();
            match query {
                Ok(query) if rest.token == Token::EOF => return Ok(query),
                Ok(_) => wrong.push(text.error_at(
                    Error::invalid(format!("expected the end of the query, found {}", rest.token)),
                    rest.span.start,
                )),
                Err(error) => wrong.push(error),
            }
        }
        Err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Text = Text { name: "p.yaml", sql: "where: 'it''s > price'" };

    /// The text inside the quotes, with a doubled quote that is one character.
    fn phrase() -> Phrase {
        let at = |column| At { line: 1, column };
        Phrase::new("it's > price", [9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22].map(at).to_vec())
    }

    #[test]
    fn words_stand_where_the_definition_has_them() {
        let phrase = Phrase { text: "its  > price".into(), ..phrase() };
        let starts: Vec<u64> = phrase.tokens(TEXT).unwrap().iter().map(|token| token.span.start.column).collect();
        assert_eq!(starts, [9, 15, 17]);
    }

    #[test]
    fn an_expression_ends_where_its_phrase_ends() {
        let phrase = Phrase::at("a = 1 GROUP BY b", At { line: 1, column: 1 });
        let error = phrase.expression_words(TEXT).unwrap_err();
        assert_eq!(error.to_string(), "p.yaml:1:1: expected the end of the expression, found GROUP");
        assert!(phrase.name(TEXT).is_err());
        assert_eq!(Phrase::at("Order", At { line: 1, column: 1 }).name(TEXT).unwrap(), "order");
    }
}
