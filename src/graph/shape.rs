//! What may stand where in a definition: one description, from which come the check of a file and its JSON Schema.

use super::yaml::{Kind, Node, Value};
use crate::error::{Error, nearest};
use crate::sql::Text;
use crate::sql::phrase::Phrase;
use serde_json::{Map, Value as Json, json};

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A name: letters, digits and underscores, or anything in double quotes.
    Name,
    /// One name or a list of them.
    Names,
    /// A SQL expression.
    Expression,
    /// A SQL type, perhaps with NOT NULL behind it.
    Type,
    /// A time such as `5s` or `1 minute`.
    Duration,
    /// A whole number above 0.
    Count,
    /// Any text, number or truth value.
    Scalar,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// As many as there are.
    List(&'static Shape),
    /// Names, each with a value.
    Map(&'static Shape),
    /// Words of any kind, dots included, each with a scalar.
    Options,
    /// Known fields.
    Object(&'static Object),
    /// The first of two that fits, by what kind of node it is.
    Either(&'static Shape, &'static Shape),
    /// An object whose field `op` says which of these it is.
    Step(&'static [Object]),
}

/// Fields that belong together.
#[derive(Debug)]
pub(super) struct Object {
    /// What it is called: for a step the word of `op`, else with its article.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    pub fields: &'static [Field],
    /// Of these fields exactly one is there; empty if there is no such choice.
    pub one_of: &'static [&'static str],
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// What it says, in a line.
    pub about: &'static str,
}

/// What every step has.
pub(super) const STEP_FIELDS: [Field; 3] = [
    Field { name: "name", shape: Shape::Name, required: true, about: "what others call it in their `from`" },
    Field { name: "op", shape: Shape::Scalar, required: true, about: "what it does" },
    Field { name: "from", shape: Shape::Names, required: true, about: "the sources and steps whose rows it takes" },
];

/// Checks nodes against their shapes and gathers what is wrong.
pub(super) struct Check<'a> {
    pub text: Text<'a>,
    pub wrong: Vec<Error>,
}

impl Check<'_> {
    /// Checks that `node`, which is called `what`, has the shape.
    pub fn node(&mut self, what: &str, node: &Node, shape: &Shape) {
        match (shape, &node.value) {
            (Shape::Name, Value::Scalar(name, Kind::Text)) => {
                if !is_name(name.text()) {
                    let error = Error::invalid(format!("'{}' is not a name", name.text()));
                    self.say(error.help("a name has letters, digits and _, and starts with no digit; in SQL's double quotes, '\"…\"', it may be anything"), node);
                }
            }
            (Shape::Names, Value::List(names)) => {
                if names.is_empty() {
                    self.say(Error::invalid(format!("'{what}' is empty")), node);
                }
                names.iter().for_each(|name| self.node(what, name, &Shape::Name));
            }
            (Shape::Names, Value::Scalar(..)) => self.node(what, node, &Shape::Name),
            (Shape::Expression, Value::Scalar(text, kind)) if *kind != Kind::Null && !text.text().trim().is_empty() => {
            }
            (Shape::Type, Value::Scalar(_, Kind::Text)) => {}
            (Shape::Duration, Value::Scalar(text, Kind::Text | Kind::Number)) => {
                if let Err(error) = duration(text.text()) {
                    self.say(error, node);
                }
            }
            (Shape::Count, Value::Scalar(text, Kind::Number)) if text.text().parse::<u32>().is_ok_and(|n| n > 0) => {}
            (Shape::Scalar, Value::Scalar(_, kind)) if *kind != Kind::Null => {}
            (Shape::Choice(words), Value::Scalar(word, Kind::Text)) => {
                if !words.contains(&word.text()) {
                    let error =
                        Error::invalid(format!("'{what}' is one of {}, not '{}'", words.join(", "), word.text()));
                    let near = nearest(word.text(), words.iter().copied());
                    self.say(
                        match near {
                            Some(near) => error.help(format!("did you mean '{near}'?")),
                            None => error,
                        },
                        node,
                    );
                }
            }
            (Shape::List(item), Value::List(nodes)) => {
                nodes.iter().for_each(|node| self.node(what, node, item));
            }
            (Shape::Map(value), Value::Map(entries)) => {
                for (key, node) in entries {
                    if is_name(key.text()) {
                        self.node(key.text(), node, value);
                        continue;
                    }
                    let error = Error::invalid(format!("'{}' is not a name", key.text()));
                    self.wrong.push(self.text.wrong(
                        match key.text().contains(')') {
                            true => {
                                error.help(
                                    "between { and } a comma ends a value: put one with a comma in it into quotes",
                                )
                            }
                            false => error,
                        },
                        key,
                    ));
                }
            }
            (Shape::Options, Value::Map(entries)) => {
                entries.iter().for_each(|(key, node)| self.node(key.text(), node, &Shape::Scalar));
            }
            (Shape::Object(object), Value::Map(entries)) => self.fields(object, &[], entries, node),
            (Shape::Either(first, _), value) if first.takes(value) => self.node(what, node, first),
            (Shape::Either(_, second), value) if second.takes(value) => self.node(what, node, second),
            (Shape::Step(kinds), Value::Map(entries)) => self.step(kinds, entries, node),
            _ => self.mismatch(what, node, shape),
        }
    }

    fn say(&mut self, error: Error, node: &Node) {
        self.wrong.push(match &node.value {
            Value::Scalar(phrase, kind) if *kind != Kind::Null => self.text.wrong(error, phrase),
            _ => self.text.wrong_at(error, node.at),
        });
    }

    fn mismatch(&mut self, what: &str, node: &Node, shape: &Shape) {
        let error = Error::invalid(format!("'{what}' is {}, not {}", shape.describe(), node.describe()));
        let error = match (shape, &node.value) {
            (Shape::Name | Shape::Type, Value::Scalar(_, Kind::Number | Kind::Boolean)) => {
                error.help("put it into quotes")
            }
            (Shape::List(_), Value::Map(_)) => error.help("put a hyphen before each of its items"),
            (Shape::Map(_) | Shape::Options, Value::List(_)) => error.help("write NAME: VALUE, without a hyphen"),
            _ => error,
        };
        self.say(error, node);
    }

    fn step(&mut self, kinds: &'static [Object], entries: &[(Phrase, Node)], node: &Node) {
        let names = || kinds.iter().map(|kind| kind.name);
        let Some((_, op)) = entries.iter().find(|(key, _)| key.text() == "op") else {
            let error = Error::invalid("this step has no 'op', which says what it does");
            return self.say(error.help(format!("it is one of {}", names().collect::<Vec<_>>().join(", "))), node);
        };
        let Value::Scalar(word, _) = &op.value else { return self.mismatch("op", op, &Shape::Name) };
        match kinds.iter().find(|kind| kind.name == word.text()) {
            Some(kind) => self.fields(kind, &STEP_FIELDS, entries, node),
            None => {
                let error = Error::invalid(format!("unknown op '{}'", word.text()));
                let error = match nearest(word.text(), names()) {
                    Some(near) => error.help(format!("did you mean '{near}'?")),
                    None => error.help(format!("it is one of {}", names().collect::<Vec<_>>().join(", "))),
                };
                self.say(error, op);
            }
        }
    }

    fn fields(&mut self, object: &Object, common: &'static [Field], entries: &[(Phrase, Node)], node: &Node) {
        let known = || common.iter().chain(object.fields);
        for (key, value) in entries {
            match known().find(|field| field.name == key.text()) {
                Some(field) => self.node(field.name, value, &field.shape),
                None => {
                    let error = Error::invalid(format!("unknown field '{}' of {}", key.text(), object.called()));
                    let error = match nearest(key.text(), known().map(|field| field.name)) {
                        Some(near) => error.help(format!("did you mean '{near}'?")),
                        None => error.help(format!(
                            "its fields are {}",
                            known().map(|field| field.name).collect::<Vec<_>>().join(", ")
                        )),
                    };
                    self.wrong.push(self.text.wrong(error, key));
                }
            }
        }
        let has = |name: &str| entries.iter().any(|(key, _)| key.text() == name);
        // A misspelt field is not missing too.
        let near = |field: &Field| {
            let strange = entries.iter().filter(|(key, _)| !known().any(|field| field.name == key.text()));
            strange
                .filter_map(|(key, _)| nearest(key.text(), known().map(|field| field.name)))
                .any(|name| name == field.name)
        };
        for field in known().filter(|field| field.required && !has(field.name) && !near(field)) {
            let error = Error::invalid(format!("{} has no '{}'", object.called(), field.name));
            self.say(error.help(format!("'{}' is {}: {}", field.name, field.shape.describe(), field.about)), node);
        }
        let given: Vec<&str> = object.one_of.iter().copied().filter(|name| has(name)).collect();
        if !object.one_of.is_empty() && given.len() != 1 {
            let found = if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") };
            let error = Error::invalid(format!(
                "{} has one of {}, but here is {found}",
                object.called(),
                object.one_of.join(", ")
            ));
            self.say(error, node);
        }
    }
}

/// A time in words.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, Error> {
    humantime::parse_duration(text).map_err(|error| {
        Error::invalid(format!("'{text}' is not a duration: {error}"))
            .help("write one such as '5s', '1 minute' or '1h 30min'")
    })
}

/// True for what [`Phrase::name`] takes.
fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let plain = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphabetic() || c.is_ascii_digit() || c == '_');
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    plain || quoted.is_some_and(|inner| !inner.is_empty() && !inner.contains('"'))
}

impl Object {
    /// What a sentence calls it.
    fn called(&self) -> String {
        if self.name.starts_with("a ") || self.name.starts_with("the ") {
            return self.name.to_owned();
        }
        format!("op '{}'", self.name)
    }

    fn schema(&self, common: &[Field]) -> Json {
        let mut properties = Map::new();
        for field in common.iter().chain(self.fields) {
            let mut schema = match field.name {
                "op" => json!({ "const": self.name }),
                _ => field.shape.schema(),
            };
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".into(), field.about.into());
            }
            properties.insert(field.name.into(), schema);
        }
        let required: Vec<&str> =
            common.iter().chain(self.fields).filter(|field| field.required).map(|field| field.name).collect();
        let mut schema = json!({
            "type": "object",
            "description": self.about,
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        if !self.one_of.is_empty() {
            schema["oneOf"] = self.one_of.iter().map(|name| json!({ "required": [name] })).collect();
        }
        schema
    }
}

impl Shape {
    /// True if a node of this kind may have the shape.
    fn takes(&self, value: &Value) -> bool {
        match (self, value) {
            (Shape::List(_) | Shape::Names, Value::List(_)) => true,
            (Shape::Map(_) | Shape::Options | Shape::Object(_) | Shape::Step(_), Value::Map(_)) => true,
            (Shape::List(_) | Shape::Map(_) | Shape::Options | Shape::Object(_) | Shape::Step(_), _) => false,
            (Shape::Either(first, second), value) => first.takes(value) || second.takes(value),
            (_, value) => matches!(value, Value::Scalar(..)),
        }
    }

    /// What a sentence calls a value of it.
    fn describe(&self) -> String {
        match self {
            Shape::Name => "a name".into(),
            Shape::Names => "a name or a list of names".into(),
            Shape::Expression => "an expression".into(),
            Shape::Type => "a type".into(),
            Shape::Duration => "a duration".into(),
            Shape::Count => "a whole number above 0".into(),
            Shape::Scalar => "a text, a number or true or false".into(),
            Shape::Choice(words) => format!("one of {}", words.join(", ")),
            Shape::List(Shape::Object(object)) => format!("a list, each item {}", object.called()),
            Shape::List(_) => "a list".into(),
            Shape::Map(Shape::Expression) => "a mapping of names to expressions".into(),
            Shape::Map(_) => "a mapping of names".into(),
            Shape::Options => "a mapping of options to their values".into(),
            Shape::Object(_) | Shape::Step(_) => "a mapping".into(),
            Shape::Either(first, second) => format!("{} or {}", first.describe(), second.describe()),
        }
    }

    /// The same for editors and other programs.
    pub fn schema(&self) -> Json {
        let scalar = || json!(["string", "number", "boolean"]);
        match self {
            Shape::Name => json!({ "$ref": "#/definitions/name" }),
            Shape::Names => json!({ "$ref": "#/definitions/names" }),
            Shape::Expression => json!({ "type": scalar(), "pattern": "\\S" }),
            Shape::Type => json!({ "type": "string" }),
            Shape::Duration => {
                json!({ "type": "string", "pattern": "^\\s*[0-9]+\\s*[A-Za-zµ]+(\\s*[0-9]+\\s*[A-Za-zµ]+)*\\s*$" })
            }
            Shape::Count => json!({ "type": "integer", "minimum": 1 }),
            Shape::Scalar => json!({ "type": scalar() }),
            Shape::Choice(words) => json!({ "enum": words }),
            Shape::List(item) => json!({ "type": "array", "items": item.schema() }),
            Shape::Map(value) => json!({
                "type": "object",
                "propertyNames": { "$ref": "#/definitions/name" },
                "additionalProperties": value.schema(),
            }),
            Shape::Options => json!({ "type": "object", "additionalProperties": { "type": scalar() } }),
            Shape::Object(object) => object.schema(&[]),
            Shape::Either(first, second) => json!({ "anyOf": [first.schema(), second.schema()] }),
            Shape::Step(kinds) => {
                let is = |kind: &Object| json!({ "properties": { "op": { "const": kind.name } }, "required": ["op"] });
                let cases = kinds.iter().map(|kind| json!({ "if": is(kind), "then": kind.schema(&STEP_FIELDS) }));
                json!({
                    "type": "object",
                    "required": ["op"],
                    "properties": { "op": { "enum": kinds.iter().map(|kind| kind.name).collect::<Vec<_>>() } },
                    "allOf": cases.collect::<Vec<_>>(),
                })
            }
        }
    }
}

/// The JSON Schema of files of this shape.
pub(super) fn schema(title: &str, shape: &Object) -> Json {
    let mut schema = shape.schema(&[]);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!(title);
    schema["definitions"] = json!({
        "name": { "type": "string", "pattern": "^([\\p{L}_][\\p{L}0-9_]*|\"[^\"]+\")$" },
        "names": {
            "anyOf": [
                { "$ref": "#/definitions/name" },
                { "type": "array", "items": { "$ref": "#/definitions/name" }, "minItems": 1 },
            ],
        },
    });
    schema
}
