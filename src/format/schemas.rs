//! Schemas of messages, and the frame by which a message names its own.
//!
//! In Confluent's wire format a message is a zero, the number of its schema as `u32` BE, and what the schema describes. A registry
//! keeps the schemas by these numbers; it is asked before records are decoded, so that decoding itself asks nobody.

use crate::error::{Error, Result};
use arrow::array::{Array, BinaryArray};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What the frame opens with.
const MAGIC: u8 = 0;

/// The bytes of the frame.
pub const FRAME_BYTES: usize = 5;

/// What a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Avro's JSON.
    Avro,
    /// A `.proto` file.
    Protobuf,
    /// Anything else.
    Other,
}

/// A schema as a registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// What it is written in.
    pub language: Language,
    /// The text.
    pub text: String,
    /// The texts that it refers to, by the names by which it does; those that they refer to are among them.
    pub references: Vec<(String, String)>,
}

/// Where schemas are kept by their numbers.
pub trait Schemas: Send + Sync {
    /// The schema with number `id`; none if there is none. May wait for an answer.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if nobody answers.
    fn schema(&self, id: u32) -> Result<Option<Arc<Registered>>>;
    /// The number of `schema` under `subject`. May wait for an answer.
    ///
    /// # Errors
    /// If it is not there and may not be added, or does not go with those that are there.
    fn id_of(&self, subject: &str, schema: &Registered) -> Result<u32>;
}

/// What a subject is called after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The topic, and which part of its records: `orders-value`.
    TopicName,
    /// The record: `com.example.Order`.
    RecordName,
    /// Both: `orders-com.example.Order`.
    TopicRecordName,
}

/// Where messages have their schemas from.
#[derive(Clone)]
pub struct Registry {
    /// Where they are kept.
    pub schemas: Arc<dyn Schemas>,
    /// What subjects are called.
    pub naming: Naming,
    /// The subject, if it is given by name.
    pub subject: Option<String>,
    /// The topic, and the part of its records: `key` or `value`.
    pub topic: (String, &'static str),
}

impl Registry {
    /// The subject of messages of type `record`.
    pub fn subject_of(&self, record: &str) -> String {
        let (topic, part) = &self.topic;
        match (&self.subject, self.naming) {
            (Some(subject), _) => subject.clone(),
            (None, Naming::TopicName) => format!("{topic}-{part}"),
            (None, Naming::RecordName) => record.to_owned(),
            (None, Naming::TopicRecordName) => format!("{topic}-{record}"),
        }
    }

    /// The number of `schema`, which is that of messages of type `record`.
    pub fn id_of(&self, record: &str, schema: &Registered) -> Result<u32> {
        let subject = self.subject_of(record);
        self.schemas.id_of(&subject, schema).map_err(|error| error.within(format!("subject \"{subject}\"")))
    }
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.schemas, &other.schemas)
            && (self.naming, &self.subject, &self.topic) == (other.naming, &other.subject, &other.topic)
    }
}

impl Eq for Registry {}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("naming", &self.naming).field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// The schema's number and the rest of a framed message.
pub fn unframed(message: &[u8]) -> Result<(u32, &[u8]), String> {
    match message.split_first_chunk::<FRAME_BYTES>() {
        Some(([MAGIC, id @ ..], rest)) => Ok((u32::from_be_bytes(*id), rest)),
        Some(_) => Err("it does not open with the number of its schema (a 0 and 4 bytes)".into()),
        None => Err(format!("{} bytes are too few for the number of its schema", message.len())),
    }
}

/// The frame of a message whose schema has this number.
pub fn frame(id: u32) -> [u8; FRAME_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [MAGIC, a, b, c, d]
}

/// What is known of the schemas by their numbers.
pub(super) struct Known<T>(HashMap<u32, Result<T, String>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Known(HashMap::new())
    }
}

impl<T> Known<T> {
    /// Asks `registry` for the schemas of those of `records` whose numbers are new, which must be in `language`, and makes a T of each.
    pub(super) fn learn(
        &mut self,
        records: &BinaryArray,
        registry: &Registry,
        language: Language,
        make: impl Fn(u32, &Registered) -> Result<T, String>,
    ) -> Result<()> {
        let mut last = None;
        for record in records.iter().flatten() {
            let Ok((id, _)) = unframed(record) else { continue };
            if last == Some(id) || self.0.contains_key(&id) {
                last = Some(id);
                continue;
            }
            let found = registry.schemas.schema(id).map_err(|error| error.within(format!("schema {id}")))?;
            let made = match found {
                None => Err(format!("the registry has no schema {id}")),
                Some(schema) if schema.language != language => Err(format!("schema {id} is not in {language:?}")),
                Some(schema) => make(id, &schema).map_err(|reason| format!("schema {id}: {reason}")),
            };
            self.0.insert(id, made);
        }
        Ok(())
    }

    /// What was made of schema `id`.
    pub(super) fn get(&mut self, id: u32) -> Result<&mut T, String> {
        match self.0.get_mut(&id) {
            Some(Ok(made)) => Ok(made),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("schema {id} is not known")),
        }
    }

    /// What it makes itself of a message without a number.
    pub(super) fn set(&mut self, id: u32, made: T) {
        self.0.insert(id, Ok(made));
    }
}

/// The records of a batch by the number of their schema, 0 if they have none; and which have no value. Or the first that has no number.
pub(super) struct Grouped {
    /// Number and records.
    pub groups: Vec<(u32, Vec<usize>)>,
    /// Those without a value.
    pub empty: Vec<usize>,
    /// The first that is bad.
    pub bad: Option<super::BadRecord>,
}

impl Grouped {
    /// Those of `records` from `start` on up to `end`, by their index.
    pub(super) fn of(records: &BinaryArray, range: std::ops::Range<usize>, framed: bool) -> Grouped {
        let mut found = Grouped { groups: Vec::new(), empty: Vec::new(), bad: None };
        for index in range {
            if records.is_null(index) {
                found.empty.push(index);
                continue;
            }
            let id = match framed {
                false => 0,
                true => match unframed(records.value(index)) {
                    Ok((id, _)) => id,
                    Err(reason) => {
                        found.bad = Some(super::BadRecord { index, reason });
                        break;
                    }
                },
            };
            match found.groups.iter_mut().find(|(own, _)| *own == id) {
                Some((_, records)) => records.push(index),
                None => found.groups.push((id, vec![index])),
            }
        }
        found
    }
}

/// The error for a schema that should be written, but cannot be.
pub(super) fn unwritable(format: &str, reason: impl fmt::Display) -> Error {
    Error::invalid(format!("format '{format}': {reason}"))
}
