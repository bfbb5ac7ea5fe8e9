//! `avro` in records: one value of Avro a record, bare or in Confluent's wire format.
//!
//! Reading: what a message was written with is the schema that it names, or else that of the table: `avro.schema`, or the one that follows
//! from its columns. Its fields become columns as those of [files](super::avro) do: by name, with values cast where nothing is lost; a
//! field that a message's schema does not have is NULL. A message must end where its value does.
//!
//! Writing: by `avro.schema`, or the schema that follows from the columns.

use super::avro::{check_types, forget_uuids, names_a_type, reason};
use super::fit::{Fit, Missing, renamed};
use super::messages::decode_grouped;
use super::objects::{Failure, guarded};
use super::schemas::{FRAME_BYTES, Known, Language, Registered, Registry, frame, unwritable};
use super::{BadRecord, Decode, Encode, in_batches};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{
    AVRO_NAME_METADATA_KEY, AVRO_NAMESPACE_METADATA_KEY, AvroSchema, Fingerprint, FingerprintAlgorithm,
    FingerprintStrategy, SCHEMA_METADATA_KEY, SchemaStore,
};
use arrow_avro::writer::format::{AvroBinaryFormat, AvroSoeFormat};
use arrow_avro::writer::{Encoder, WriterBuilder};
use serde_json::Value;
use std::sync::Arc;

/// How messages are read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The schema, if it does not follow from the columns.
    pub schema: Option<String>,
    /// What the record of a schema that follows from the columns is called, namespace included.
    pub record: String,
    /// Where schemas are kept, if messages name theirs.
    pub registry: Option<Registry>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { schema: None, record: "record".into(), registry: None }
    }
}

/// Decodes messages of one schema.
struct Reader {
    id: u32,
    written: Value,
    asked: Option<Value>,
    decoder: Decoder,
    fit: Fit,
    /// True if it decodes all fields, of which those of `fit` are taken.
    all: bool,
}

impl Reader {
    /// For messages of `schema`, read as rows of `table`.
    fn new(id: u32, schema: &str, table: &SchemaRef) -> Result<Self, String> {
        let mut written: Value = serde_json::from_str(schema).map_err(|error| format!("not JSON: {error}"))?;
        if written["type"] != "record" {
            return Err("it describes no record".into());
        }
        forget_uuids(&mut written);
        let said = |error: Error| match error.advice() {
            Some(advice) => format!("{error} ({advice})"),
            None => error.to_string(),
        };
        let whole = decoder(id, &written, None).map_err(said)?;
        let fit = Fit::new(whole.schema().fields(), table, Missing::Null).map_err(said)?;
        // no columns are no bytes, and a name may stand for a type that a column left out declares
        let all = fit.reads().is_empty() || names_a_type(&written["fields"]);
        let asked = (!all).then(|| {
            let fields: Vec<Value> = fit.reads().iter().map(|&index| written["fields"][index].clone()).collect();
            let mut asked = written.clone();
            asked["fields"] = fields.into();
            asked
        });
        let decoder = match &asked {
            Some(asked) => decoder(id, &written, Some(asked)).map_err(said)?,
            None => whole,
        };
        Ok(Reader { id, written, asked, decoder, fit, all })
    }

    /// The columns of those of `records`.
    fn read(&mut self, records: &BinaryArray, members: &[usize], framed: bool) -> Result<Vec<ArrayRef>, BadRecord> {
        let mut bare = frame(self.id).to_vec();
        let mut at = 0;
        let made = guarded(|| -> Result<Batch, Failure> {
            let failure = |text: String| Failure(Error::data(text));
            for (row, &index) in members.iter().enumerate() {
                at = row;
                let message = match framed {
                    true => records.value(index),
                    false => {
                        bare.truncate(FRAME_BYTES);
                        bare.extend_from_slice(records.value(index));
                        &bare
                    }
                };
                let before = self.decoder.capacity();
                let consumed = self.decoder.decode(message).map_err(|error| failure(reason(&error)))?;
                match before - self.decoder.capacity() {
                    0 => return Err(failure("it is cut off".into())),
                    1 if consumed == message.len() => {}
                    _ => return Err(failure("there is more behind its value".into())),
                }
            }
            let rows = self.decoder.flush().map_err(|error| failure(reason(&error)))?;
            rows.ok_or_else(|| Failure(Error::internal("messages were decoded into nothing")))
        });
        match made {
            Ok(rows) if self.all => Ok(self.fit.reads().iter().map(|&index| Arc::clone(rows.column(index))).collect()),
            Ok(rows) => Ok(rows.columns().to_vec()),
            Err(error) => {
                // what it has gathered is not to be trusted
                let fresh = decoder(self.id, &self.written, self.asked.as_ref());
                self.decoder = fresh.expect("it was made of the same schemas before");
                Err(BadRecord { index: at, reason: error.to_string() })
            }
        }
    }

    /// The rows of those of `records`.
    fn rows(&mut self, records: &BinaryArray, members: &[usize], framed: bool) -> Result<Batch, BadRecord> {
        // a bad record may stand before the one that is found first
        let (mut end, mut found) = (members.len(), None);
        while end > 0 {
            let read = self.read(records, &members[..end], framed);
            let bad = match read.and_then(|columns| self.fit.apply(&columns, end)) {
                Ok(rows) => return found.map_or(Ok(rows), Err),
                Err(bad) => bad,
            };
            end = bad.index.min(end - 1);
            found = Some(BadRecord { index: end, ..bad });
        }
        Err(found.unwrap_or_else(|| BadRecord { index: 0, reason: "there is nothing to read".into() }))
    }
}

/// Decodes messages that were written as `written`, with number `id`, into the fields of `asked`.
fn decoder(id: u32, written: &Value, asked: Option<&Value>) -> Result<Decoder> {
    guarded(|| {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(id), AvroSchema::new(written.to_string()))?;
        let builder = ReaderBuilder::new().with_batch_size(BATCH_ROWS).with_writer_schema_store(store);
        let mut builder = builder.with_active_fingerprint(Fingerprint::Id(id));
        if let Some(asked) = asked {
            builder = builder.with_reader_schema(AvroSchema::new(asked.to_string()));
        }
        builder.build_decoder()
    })
}

/// Reads messages into rows.
pub struct AvroDecoder {
    registry: Option<Registry>,
    schema: SchemaRef,
    readers: Known<Reader>,
}

impl AvroDecoder {
    /// For the columns `columns` of `schema`.
    pub fn new(schema: &SchemaRef, columns: &[usize], settings: &Settings) -> Result<Self> {
        let asked = Arc::new(schema.project(columns).map_err(crate::batch::from_arrow)?);
        let mut readers = Known::default();
        if settings.registry.is_none() {
            let (_, written) = written(schema, settings)?;
            let reader = Reader::new(0, &written, &asked).map_err(|reason| unwritable("avro", reason))?;
            readers.set(0, reader);
        }
        Ok(AvroDecoder { registry: settings.registry.clone(), schema: asked, readers })
    }
}

impl Decode for AvroDecoder {
    fn prepare(&mut self, records: &BinaryArray) -> Result<()> {
        let Some(registry) = &self.registry else { return Ok(()) };
        let schema = &self.schema;
        self.readers.learn(records, registry, Language::Avro, |id, found| Reader::new(id, &found.text, schema))
    }

    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord> {
        let (schema, framed) = (Arc::clone(&self.schema), self.registry.is_some());
        in_batches(&schema, records.len(), |range| {
            decode_grouped(records, range, &schema, framed, |id, members| match self.readers.get(id) {
                Ok(reader) => reader.rows(records, members, framed),
                Err(reason) => Err(BadRecord { index: 0, reason }),
            })
        })
    }
}

/// What the record of rows with the columns of `schema` is called, and its schema.
fn written(schema: &SchemaRef, settings: &Settings) -> Result<(String, String)> {
    let text = match &settings.schema {
        Some(text) => text.clone(),
        None => {
            check_types(schema)?;
            let (namespace, name) = settings.record.rsplit_once('.').unwrap_or(("", &settings.record));
            let mut metadata = std::collections::HashMap::new();
            metadata.insert(AVRO_NAME_METADATA_KEY.to_owned(), name.to_owned());
            if !namespace.is_empty() {
                metadata.insert(AVRO_NAMESPACE_METADATA_KEY.to_owned(), namespace.to_owned());
            }
            let named = Schema::new_with_metadata(schema.fields().clone(), metadata);
            let schema = AvroSchema::try_from(&named).map_err(|error| unwritable("avro", super::reason(&error)))?;
            schema.json_string
        }
    };
    let parsed: Value =
        serde_json::from_str(&text).map_err(|error| unwritable("avro", format!("the schema is no JSON: {error}")))?;
    let name = parsed["name"].as_str().unwrap_or_default();
    if parsed["type"] != "record" || name.is_empty() {
        return Err(unwritable("avro", "the schema describes no record with a name"));
    }
    let full = match parsed["namespace"].as_str().filter(|space| !space.is_empty() && !name.contains('.')) {
        Some(namespace) => format!("{namespace}.{name}"),
        None => name.to_owned(),
    };
    Ok((full, text))
}

/// Writes rows as messages.
pub struct AvroEncoder {
    schema: SchemaRef,
    registry: Option<Registry>,
    record: String,
    text: String,
    /// None until the number of its schema is known.
    encoder: Option<Encoder>,
}

impl AvroEncoder {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, settings: &Settings) -> Result<Self> {
        let (record, text) = written(schema, settings)?;
        let mut encoder = AvroEncoder {
            schema: Arc::clone(schema),
            registry: settings.registry.clone(),
            record,
            text,
            encoder: None,
        };
        let checked = encoder.make(0)?;
        if encoder.registry.is_none() {
            encoder.encoder = Some(checked);
        }
        Ok(encoder)
    }

    fn make(&self, id: u32) -> Result<Encoder> {
        let metadata = [(SCHEMA_METADATA_KEY.to_owned(), self.text.clone())].into();
        let builder = WriterBuilder::new(Schema::new_with_metadata(self.schema.fields().clone(), metadata));
        let made = match &self.registry {
            Some(_) => builder.with_fingerprint_strategy(FingerprintStrategy::Id(id)).build_encoder::<AvroSoeFormat>(),
            None => builder.build_encoder::<AvroBinaryFormat>(),
        };
        made.map_err(|error| unwritable("avro", reason(&error)))
    }
}

impl Encode for AvroEncoder {
    fn encode(&mut self, rows: &Batch) -> Result<BinaryArray> {
        if let (None, Some(registry)) = (&self.encoder, &self.registry) {
            let schema = Registered { language: Language::Avro, text: self.text.clone(), references: Vec::new() };
            let id = registry.id_of(&self.record, &schema)?;
            self.encoder = Some(self.make(id)?);
        }
        let encoder = self.encoder.as_mut().ok_or_else(|| Error::internal("an encoder without a schema"))?;
        encoder
            .encode(&renamed(rows, &self.schema)?)
            .map_err(|error| Error::data(format!("format 'avro': {}", reason(&error))))?;
        let rows = encoder.flush();
        let ends: Vec<usize> = rows.offsets()[1..].to_vec();
        super::records::array(rows.bytes().to_vec(), &ends)
    }
}
