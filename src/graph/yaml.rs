//! YAML text to nodes whose every character knows its place.
//!
//! The parser's events are put together here, not by a library's loader, because a definition's expressions are shown with a caret
//! inside their strings, and because a key that is there twice is one mistake among others.

use crate::error::{Error, Result};
use crate::sql::Text;
use crate::sql::phrase::{At, Phrase};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// How deep a definition may be nested: far deeper than any has a reason to be.
const DEPTH_MAX: usize = 32;

/// How many nodes aliases may repeat, so that a few lines do not become a billion.
const REPEATED_MAX: usize = 10_000;

/// A value and where it starts.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Phrase, Kind),
    List(Vec<Node>),
    /// In the order of the text; each key once.
    Map(Vec<(Phrase, Node)>),
}

/// What YAML takes a scalar for: text, unless it stands without quotes and reads as something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Boolean,
    Null,
}

impl Node {
    /// What it is, for a sentence.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Scalar(_, Kind::Null) => "nothing".into(),
            Value::Scalar(phrase, Kind::Text) => format!("'{}'", phrase.text()),
            Value::Scalar(phrase, Kind::Number) => format!("the number {}", phrase.text()),
            Value::Scalar(phrase, Kind::Boolean) => format!("the truth value {}", phrase.text()),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar(..) => 1,
            Value::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| node.size()).sum::<usize>(),
        }
    }
}

/// The document in `text`; what is wrong with it goes to `wrong`. None if nothing can be made of it.
pub(super) fn load(text: Text, wrong: &mut Vec<Error>) -> Option<Node> {
    let source = Source::new(text);
    let mut loader = Loader { source: &source, open: Vec::new(), anchors: HashMap::new(), repeated: 0, document: None };
    for event in Parser::new_from_str(text.sql) {
        let read = event.map_err(|error| source.scan_error(&error));
        match read.and_then(|(event, span)| loader.event(event, span.start, wrong)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                wrong.push(error);
                return None;
            }
        }
    }
    if loader.document.is_none() {
        wrong.push(
            Error::invalid("the definition is empty")
                .help("a definition has sources, steps and sinks")
                .within(text.name),
        );
    }
    loader.document
}

/// A collection that is not closed.
struct Open {
    node: Node,
    /// The key that waits for its value.
    key: Option<Phrase>,
    anchor: usize,
}

struct Loader<'a> {
    source: &'a Source<'a>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    repeated: usize,
    document: Option<Node>,
}

impl Loader<'_> {
    /// Takes an event; false when the document is complete.
    fn event(&mut self, event: Event, start: Marker, wrong: &mut Vec<Error>) -> Result<bool> {
        let at = self.source.at(start.index());
        match event {
            Event::SequenceStart(anchor, tag) => self.start(Value::List(Vec::new()), at, anchor, tag)?,
            Event::MappingStart(anchor, tag) => self.start(Value::Map(Vec::new()), at, anchor, tag)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { node, anchor, .. }) = self.open.pop() {
                    self.put(node, anchor, wrong);
                }
            }
            Event::Scalar(value, style, anchor, tag) => {
                let text = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                if !text {
                    self.refuse_tag(at, tag)?;
                }
                let kind = if style == ScalarStyle::Plain && !text { kind(&value) } else { Kind::Text };
                let phrase = self.source.phrase(start.index(), &value, style);
                self.put(Node { at, value: Value::Scalar(phrase, kind) }, anchor, wrong);
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.source.wrong(Error::invalid("an alias inside of what it stands for"), at));
                };
                self.repeated += node.size();
                if self.repeated > REPEATED_MAX {
                    return Err(self.source.wrong(Error::invalid("aliases repeat too much"), at));
                }
                self.put(node, 0, wrong);
            }
            Event::DocumentStart(_) if self.document.is_some() => {
                let error = Error::invalid("a second document starts here").help("a file holds one pipeline");
                return Err(self.source.wrong(error, at));
            }
            Event::StreamEnd => return Ok(false),
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::Nothing => {}
        }
        Ok(true)
    }

    fn start(&mut self, value: Value, at: At, anchor: usize, tag: Option<Cow<Tag>>) -> Result<()> {
        self.refuse_tag(at, tag)?;
        if self.open.len() == DEPTH_MAX {
            return Err(self.source.wrong(too_deep(), at));
        }
        self.open.push(Open { node: Node { at, value }, key: None, anchor });
        Ok(())
    }

    fn refuse_tag(&self, at: At, tag: Option<Cow<Tag>>) -> Result<()> {
        match tag {
            Some(tag) => {
                let error = Error::invalid(format!("tags such as {tag} have no meaning here"));
                Err(self.source.wrong(error.help("put a text that starts with ! into quotes"), at))
            }
            None => Ok(()),
        }
    }

    /// Puts a value where it belongs: into the innermost open collection.
    fn put(&mut self, node: Node, anchor: usize, wrong: &mut Vec<Error>) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(Open { node: Node { value, .. }, key, .. }) = self.open.last_mut() else {
            self.document = Some(node);
            return;
        };
        match value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match (key.take(), node.value) {
                (None, Value::Scalar(phrase, _)) => *key = Some(phrase),
                (None, _) => {
                    wrong.push(self.source.wrong(Error::invalid("a key is a word, not a list or a mapping"), node.at));
                    // Whatever follows is its value.
                    *key = Some(Phrase::at("?", node.at));
                }
                (Some(key), _) if entries.iter().any(|(known, _)| known.text() == key.text()) => {
                    let error = Error::invalid(format!("'{}' is there twice", key.text()));
                    wrong.push(self.source.text.wrong(error, &key));
                }
                (Some(key), value) => entries.push((key, Node { at: node.at, value })),
            },
            Value::Scalar(..) => {}
        }
    }
}

fn too_deep() -> Error {
    Error::invalid(format!("it is nested more than {DEPTH_MAX} deep"))
}

/// What YAML's core schema takes a plain scalar for.
fn kind(plain: &str) -> Kind {
    let number = || {
        let digits = plain.trim_start_matches(['+', '-']);
        let based = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0o"));
        let special = matches!(digits.to_ascii_lowercase().as_str(), ".inf" | ".nan");
        let plain_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && plain.parse::<f64>().is_ok();
        plain_number || special || based.is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))
    };
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Boolean,
        _ if number() => Kind::Number,
        _ => Kind::Text,
    }
}

/// The text, by character.
struct Source<'a> {
    text: Text<'a>,
    chars: Vec<char>,
    /// For each character its place, and one more for the end.
    places: Vec<At>,
}

impl<'a> Source<'a> {
    fn new(text: Text<'a>) -> Self {
        let chars: Vec<char> = text.sql.chars().collect();
        let mut places = Vec::with_capacity(chars.len() + 1);
        let mut at = At { line: 1, column: 1 };
        for char in &chars {
            places.push(at);
            at = match char {
                '\n' => At { line: at.line + 1, column: 1 },
                _ => At { column: at.column + 1, ..at },
            };
        }
        places.push(at);
        Source { text, chars, places }
    }

    fn at(&self, index: usize) -> At {
        self.places[index.min(self.chars.len())]
    }

    fn wrong(&self, error: Error, at: At) -> Error {
        self.text.wrong_at(error, at)
    }

    /// What the scanner says, with what is most often the reason.
    fn scan_error(&self, error: &ScanError) -> Error {
        let at = self.at(error.marker().index());
        let line = self.text.sql.lines().nth(at.line as usize - 1).unwrap_or_default();
        let indent = line.chars().take_while(|c| c.is_whitespace()).collect::<String>();
        if let Some(tab) = indent.find('\t') {
            let error = Error::invalid("a tab cannot indent YAML").help("put spaces in its place");
            return self.wrong(error, At { column: tab as u64 + 1, ..at });
        }
        let said = error.info();
        if said.contains("recursion limit") {
            return self.wrong(too_deep(), at);
        }
        let help = match said {
            said if said.contains("mapping values are not allowed") => {
                "a text with ': ' in it stands in quotes; if this is a key, is it indented as its neighbours are?"
            }
            said if said.contains("unknown anchor") || said.contains("alias") => {
                "a text that starts with * stands in quotes"
            }
            said if said.contains("anchor") => "a text that starts with & stands in quotes",
            said if said.contains("cannot start any token") => {
                "a text that starts with @, %, ` or a tab stands in quotes"
            }
            said if said.contains("quoted scalar") => {
                "is a quote missing? A quote inside single quotes is written twice"
            }
            _ => {
                "is it indented as its neighbours are? A text that starts with a quote or a bracket stands in quotes as a whole"
            }
        };
        self.wrong(Error::invalid(format!("this is not YAML: {said}")).help(help), at)
    }

    /// The scalar that starts at `start` and reads as `value`, each character with the place that it comes from.
    fn phrase(&self, start: usize, value: &str, style: ScalarStyle) -> Phrase {
        let char = |index: usize| self.chars.get(index).copied();
        let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        let mut next = start;
        // How far the lines of a block are indented: as far as its first one.
        let mut indent = 0;
        if block {
            // The parser may give the place of the header, `|` or `>`, or that of the content.
            if matches!(char(start), Some('|' | '>')) {
                next = (start..self.chars.len()).find(|&index| self.chars[index] == '\n').unwrap_or(self.chars.len());
            }
            let content = (next..self.chars.len()).find(|&index| !self.chars[index].is_whitespace());
            indent = content.map_or(0, |index| self.at(index).column as usize - 1);
        }
        if char(next)
            .is_some_and(|c| matches!((style, c), (ScalarStyle::SingleQuoted, '\'') | (ScalarStyle::DoubleQuoted, '"')))
        {
            next += 1;
        }
        let mut places = Vec::with_capacity(value.len() + 1);
        for wanted in value.chars() {
            // White space that folding dropped.
            while let Some(found) = char(next)
                && found != wanted
                && (found.is_whitespace() && !wanted.is_whitespace()
                    || style == ScalarStyle::DoubleQuoted && found == '\\' && char(next + 1) == Some('\n'))
            {
                next += 1;
            }
            places.push(self.at(next));
            let ends_line = char(next) == Some('\n');
            next += match char(next) {
                Some('\\') if style == ScalarStyle::DoubleQuoted => match char(next + 1) {
                    Some('x') => 4,
                    Some('u') => 6,
                    Some('U') => 10,
                    _ => 2,
                },
                Some('\'') if style == ScalarStyle::SingleQuoted => 2,
                Some(found) if found == wanted || found.is_whitespace() => 1,
                _ => 0,
            };
            if block && ends_line {
                next += (0..indent).take_while(|ahead| char(next + ahead) == Some(' ')).count();
            }
        }
        places.push(self.at(next));
        Phrase::new(value, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each of `words` in the first value of `yaml`: where it is found again, as `line:column`.
    fn find(yaml: &str, words: &[&str]) -> String {
        let mut wrong = Vec::new();
        let Some(Node { value: Value::Map(entries), .. }) = load(Text { name: "p.yaml", sql: yaml }, &mut wrong) else {
            panic!("{wrong:?}")
        };
        let Value::Scalar(phrase, _) = &entries[0].1.value else { panic!("no scalar") };
        let place = |word: &&str| {
            let at = phrase.text().find(word).unwrap_or_else(|| panic!("{word} is not in {:?}", phrase.text()));
            let places = phrase.places();
            let At { line, column } = places[phrase.text()[..at].chars().count()];
            format!("{line}:{column}")
        };
        words.iter().map(place).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn characters_of_every_style_know_their_places() {
        assert_eq!(find("a: b > c", &["b", ">", "c"]), "1:4 1:6 1:8");
        assert_eq!(find("a:   'it''s > c'", &["it", "'", "s >", "c"]), "1:7 1:9 1:11 1:15");
        assert_eq!(find(r#"a: "\"b\" \u00e9 > c""#, &["\"b", "b", "é", "c"]), "1:5 1:7 1:11 1:20");
        assert_eq!(find("a: b\n   AND\n\n   c", &["b", "AND", "c"]), "1:4 2:4 4:4");
        assert_eq!(find("a: |\n  b\n    c\n  d", &["b", "  c", "c", "d"]), "2:3 3:3 3:5 4:3");
        assert_eq!(find("a: >-\n  b\n  c\n\n  d", &["b", "c", "d"]), "2:3 3:3 5:3");
        assert_eq!(find("a: \"b\n  c \\\n  d\"", &["b", "c", "d"]), "1:5 2:3 3:3");
    }

    #[test]
    fn a_plain_word_is_text_unless_it_reads_as_something_else() {
        for (plain, expected) in [
            ("yes", Kind::Text),
            ("true", Kind::Boolean),
            ("", Kind::Null),
            ("1.5e3", Kind::Number),
            ("-0x1F", Kind::Number),
            (".5", Kind::Number),
            ("1 minute", Kind::Text),
            ("infinity", Kind::Text),
            ("e5", Kind::Text),
        ] {
            assert_eq!(kind(plain), expected, "{plain}");
        }
    }

    #[test]
    fn a_file_that_nests_or_repeats_without_end_is_refused() {
        let check = |yaml: &str, expected: &str| {
            let mut wrong = Vec::new();
            assert!(load(Text { name: "p.yaml", sql: yaml }, &mut wrong).is_none());
            assert!(wrong[0].to_string().contains(expected), "{wrong:?}");
        };
        check(&format!("{}{}", "[".repeat(40), "]".repeat(40)), "nested more than 32 deep");
        check(&"[".repeat(10_000), "nested more than 32 deep");
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{below}x]\n"));
        }
        check(&bomb, "aliases repeat too much");
        check("a: 1\n---\nb: 2\n", "a second document");
    }
}
