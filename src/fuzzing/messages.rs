//! Messages with schemas, and the schemas that a registry gives for them.

use super::{Target, join, parts, rows, unsealed};
use crate::error::Result;
use crate::format::schemas::{FRAME_BYTES, Language, Naming, Registered, Registry, Schemas, unframed};
use crate::format::sift::{Decoding, OnBad, sift};
use crate::format::{Format, avro_messages, json, protobuf};
use arrow::array::BinaryArray;
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::{Arc, Mutex};

/// Messages of Avro: the first part is the schema that all of them name, the others are messages.
pub const AVRO: Target =
    Target { name: "avro_messages", seeds: || messages(avro), reseal: unsealed, run: |bytes| decode(avro, bytes) };

/// The same of Protocol Buffers.
pub const PROTOBUF: Target =
    Target { name: "protobuf", seeds: || messages(proto), reseal: unsealed, run: |bytes| decode(proto, bytes) };

/// A registry with one schema.
struct One(Mutex<Option<Arc<Registered>>>);

impl Schemas for One {
    fn schema(&self, _: u32) -> Result<Option<Arc<Registered>>> {
        Ok(self.0.lock().ok().and_then(|schema| schema.clone()))
    }

    fn id_of(&self, _: &str, schema: &Registered) -> Result<u32> {
        if let Ok(mut own) = self.0.lock() {
            own.get_or_insert_with(|| Arc::new(schema.clone()));
        }
        Ok(1)
    }
}

fn avro(registry: Option<Registry>) -> (Format, Language) {
    (Format::Avro(avro_messages::Settings { registry, ..avro_messages::Settings::default() }), Language::Avro)
}

fn proto(registry: Option<Registry>) -> (Format, Language) {
    (Format::Protobuf(protobuf::Settings { message: None, registry }), Language::Protobuf)
}

/// A row with all columns.
const TEXT: &str = "{\"word\":\"ab\",\"n\":1,\"small\":2,\"ratio\":0.5,\"ts\":\"2026-01-02 03:04:05\",\"yes\":true,\"bytes\":\"00ff\",\"tags\":[\"x\"]}";

type Kind = fn(Option<Registry>) -> (Format, Language);

/// The columns of messages.
fn schema() -> SchemaRef {
    let all = rows::schema(true);
    // those that both have
    let columns = [0, 1, 2, 3, 5, 6, 7, 9].map(|column| {
        let field = all.field(column).clone();
        let list = field.data_type().is_nested();
        field.with_nullable(!list && column != 1)
    });
    Arc::new(Schema::new(columns.to_vec()))
}

fn with_registry(kind: Kind, text: Option<&str>) -> (Format, Arc<One>) {
    let (_, language) = kind(None);
    let known = text.map(|text| Arc::new(Registered { language, text: text.to_owned(), references: Vec::new() }));
    let one = Arc::new(One(Mutex::new(known)));
    let schemas: Arc<dyn Schemas> = Arc::clone(&one) as Arc<dyn Schemas>;
    let registry = Registry { schemas, naming: Naming::RecordName, subject: None, topic: ("t".into(), "value") };
    (kind(Some(registry)).0, one)
}

fn messages(kind: Kind) -> Vec<Vec<u8>> {
    let (format, one) = with_registry(kind, None);
    // made of JSON: a list without NULL in it is what both formats have
    let texts = ["{\"n\":7,\"tags\":[]}", TEXT, "{\"n\":-1,\"word\":\"\",\"tags\":[\"a\",\"\"]}", TEXT];
    let texts = BinaryArray::from_iter_values(texts.map(str::as_bytes));
    let all: Vec<usize> = (0..schema().fields().len()).collect();
    let json = Format::Json(json::Settings::default()).decoder(&schema(), &all);
    let given =
        json.map(|mut json| json.decode(&texts)).expect("JSON has all types").expect("it is JSON of these columns");
    let records = format
        .encoder(&schema())
        .and_then(|mut encoder| encoder.encode(&given))
        .expect("both formats have these types");
    let text = one.schema(1).ok().flatten().map(|schema| schema.text.clone()).unwrap_or_default();
    let all = [text.into_bytes()].into_iter().chain(records.iter().flatten().map(<[u8]>::to_vec));
    vec![join(all)]
}

fn decode(kind: Kind, bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let Some((text, messages)) = parts.split_first() else { return false };
    let mut taken = read(&with_registry(kind, Some(&String::from_utf8_lossy(text))).0, messages);
    // the same without what they open with, by the table's schema
    let bare: Vec<&[u8]> = messages.iter().filter_map(|message| unframed(message).ok()).map(|(_, rest)| rest).collect();
    debug_assert!(bare.iter().zip(messages).all(|(bare, _)| bare.len() + FRAME_BYTES <= bytes.len()));
    taken |= read(&kind(None).0, &bare);
    taken
}

fn read(format: &Format, messages: &[&[u8]]) -> bool {
    let schema = schema();
    let records = BinaryArray::from_iter(messages.iter().map(|message| Some(*message)).chain([None]));
    let records = records.slice(0, messages.len());
    let mut taken = true;
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    for columns in [&all[..], &all[..1], &[]] {
        let Ok(mut decoder) = format.decoder(&schema, columns) else { return false };
        if decoder.prepare(&records).is_err() {
            return false;
        }
        taken &= decoder.decode(&records).is_ok();
        let _ = sift(Decoding { decoder: decoder.as_mut(), records: &records }, OnBad::LeaveOut);
    }
    taken
}
