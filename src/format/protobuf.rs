//! `protobuf`: a message a record, bare or in Confluent's wire format.
//!
//! Which message is said by a `.proto` file or a set of descriptors, or follows from the columns; or by the schema that a record names,
//! with the message's place in its file. Fields become columns by name, with values cast where nothing is lost. A field without a value is
//! NULL where it can be told that it has none (`optional`, messages, `oneof`), else it has the value that stands for none: 0, `''`, false.
//! `google.protobuf.Timestamp` is a TIMESTAMP, those of its wrappers what they wrap, an enumeration its name.
//!
//! Messages are decoded one by one: the library that knows them by their descriptors gives values, which are gathered into columns here.

use super::fit::{Fit, Missing};
use super::messages::decode_grouped;
use super::schemas::{Known, Language, Registered, Registry, frame, unframed, unwritable};
use super::{BadRecord, Decode, Encode, in_batches};
use crate::batch::Batch;
use crate::error::{Error, Result, nearest};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    MapArray, StringArray, StructArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Float32Type, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use prost_reflect::prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Messages in each other beyond this are refused: a message may contain itself.
const DEPTH_MAX: usize = 32;

/// What a file that is made or fetched is called.
const FILE: &str = "message.proto";

/// How messages are read and written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The message, if it does not follow from the columns.
    pub message: Option<Declared>,
    /// Where schemas are kept, if messages name theirs.
    pub registry: Option<Registry>,
}

/// A message that is declared somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    descriptor: MessageDescriptor,
    /// The `.proto` file that declares it, if it was one.
    source: Option<String>,
}

impl Declared {
    /// Message `name`, or the only one, of what is in file `path`: a `.proto` file, whose imports are looked for beside it, or a set of
    /// descriptors as `protoc --descriptor_set_out` writes it.
    pub fn read(path: &Path, name: Option<&str>) -> Result<Self> {
        let at = |error: Error| error.within(format!("file \"{}\"", path.display()));
        let bytes = std::fs::read(path).map_err(|error| at(Error::invalid(format!("cannot read it: {error}"))))?;
        if path.extension().is_none_or(|extension| extension != "proto") {
            let pool = DescriptorPool::decode(bytes.as_slice())
                .map_err(|error| at(Error::invalid(format!("it is no set of descriptors: {error}"))))?;
            return Ok(Declared { descriptor: message(pool.all_messages(), name).map_err(at)?, source: None });
        }
        let source = String::from_utf8(bytes).map_err(|_| at(Error::invalid("it is no text")))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts(vec![(FILE.to_owned(), source.clone())]));
        resolver.add(protox::file::IncludeFileResolver::new(folder.to_owned()));
        resolver.add(GoogleFileResolver::new());
        let pool = compiled(resolver).map_err(at)?;
        let file =
            pool.get_file_by_name(FILE).ok_or_else(|| Error::internal("a file that was compiled is not there"))?;
        let all: Vec<MessageDescriptor> = file.messages().flat_map(|message| with_children(&message)).collect();
        Ok(Declared { descriptor: message(all.into_iter(), name).map_err(at)?, source: Some(source) })
    }
}

/// `message` and those that are declared in it, the outer ones first.
fn with_children(message: &MessageDescriptor) -> Vec<MessageDescriptor> {
    let inner = message.child_messages().filter(|inner| !inner.is_map_entry());
    [message.clone()].into_iter().chain(inner.flat_map(|inner| with_children(&inner))).collect()
}

/// The message called `name` among `all`, or the only one that there is.
fn message(all: impl Iterator<Item = MessageDescriptor>, name: Option<&str>) -> Result<MessageDescriptor> {
    let all: Vec<MessageDescriptor> = all.filter(|message| !message.is_map_entry()).collect();
    let names = || all.iter().map(MessageDescriptor::full_name);
    let listed = || names().take(20).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => all.iter().find(|message| message.full_name() == name).cloned().ok_or_else(|| {
            let error = Error::invalid(format!("it has no message '{name}'"));
            error.help(match nearest(name, names()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("its messages are {}", listed()),
            })
        }),
        None => match all.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Error::invalid("it has no message")),
            _ => Err(Error::invalid("it has several messages")
                .help(format!("add 'protobuf.message' with one of {}", listed()))),
        },
    }
}

/// Files by their names.
struct Texts(Vec<(String, String)>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(own, _)| own == name) {
            Some((_, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// All that [`FILE`] declares and imports.
fn compiled(resolver: ChainFileResolver) -> Result<DescriptorPool> {
    let mut compiler = Compiler::with_file_resolver(resolver);
    let compiler = compiler.include_imports(true);
    compiler.open_file(FILE).map_err(|error| Error::invalid(format!("it cannot be compiled: {error}")))?;
    Ok(compiler.descriptor_pool())
}

/// What `schema` declares.
fn compiled_text(schema: &Registered) -> Result<DescriptorPool> {
    let mut resolver = ChainFileResolver::new();
    let own = [(FILE.to_owned(), schema.text.clone())].into_iter();
    resolver.add(Texts(own.chain(schema.references.iter().cloned()).collect()));
    resolver.add(GoogleFileResolver::new());
    compiled(resolver)
}

// From messages to columns.

/// What a field is as a column; `wanted` is the type of the table's column, of whose parts no others are looked at.
fn column_type(field: &FieldDescriptor, wanted: Option<&DataType>, depth: usize) -> Result<DataType, String> {
    if depth > DEPTH_MAX {
        return Err(format!("message \"{}\" is in itself", field.full_name()));
    }
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let inner = match wanted {
            Some(DataType::Map(entries, _)) => match entries.data_type() {
                DataType::Struct(fields) => fields.get(1).map(|field| field.data_type()),
                _ => None,
            },
            _ => None,
        };
        let key = Field::new("key", column_type(&key, None, depth + 1)?, false);
        let value = Field::new("value", column_type(&value, inner, depth + 1)?, true);
        let entries = Field::new("entries", DataType::Struct(Fields::from(vec![key, value])), false);
        return Ok(DataType::Map(Arc::new(entries), false));
    }
    if field.is_list() {
        let inner = match wanted {
            Some(DataType::List(item)) => Some(item.data_type()),
            _ => None,
        };
        let item = one_type(&field.kind(), inner, depth + 1)?;
        return Ok(DataType::List(Arc::new(Field::new_list_field(item, true))));
    }
    one_type(&field.kind(), wanted, depth)
}

/// What one value of this kind is as a column.
fn one_type(kind: &Kind, wanted: Option<&DataType>, depth: usize) -> Result<DataType, String> {
    Ok(match kind {
        Kind::Double => DataType::Float64,
        Kind::Float => DataType::Float32,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => DataType::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => DataType::Int64,
        Kind::Uint32 | Kind::Fixed32 => DataType::UInt32,
        Kind::Uint64 | Kind::Fixed64 => DataType::UInt64,
        Kind::Bool => DataType::Boolean,
        Kind::String | Kind::Enum(_) => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Message(message) if message.full_name() == TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Kind::Message(message) => match wrapped(message) {
            Some(inner) => one_type(&inner.kind(), wanted, depth)?,
            None => DataType::Struct(row_type(message, wanted, depth + 1)?),
        },
    })
}

const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// The one field of what stands for a value that may be missing.
fn wrapped(message: &MessageDescriptor) -> Option<FieldDescriptor> {
    let names = ["Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"];
    let name = message.full_name().strip_prefix("google.protobuf.")?.strip_suffix("Value")?;
    names.contains(&name).then(|| message.get_field(1)).flatten()
}

/// The fields of `message` that `wanted`, a row, has, or all.
fn row_type(message: &MessageDescriptor, wanted: Option<&DataType>, depth: usize) -> Result<Fields, String> {
    let named = |field: &FieldDescriptor| match wanted {
        Some(DataType::Struct(fields)) => {
            fields.iter().find(|wanted| wanted.name().eq_ignore_ascii_case(field.name())).cloned().map(Some)
        }
        _ => Some(None),
    };
    let column = |field: FieldDescriptor| -> Option<Result<Field, String>> {
        let wanted = named(&field)?;
        let kind = column_type(&field, wanted.as_ref().map(|field: &FieldRef| field.data_type()), depth);
        Some(kind.map(|kind| Field::new(field.name(), kind, true)))
    };
    message.fields().filter_map(column).collect::<Result<Vec<_>, _>>().map(Fields::from)
}

/// The column of a field of some messages, where there are messages.
fn column_of(
    messages: &[Option<&DynamicMessage>],
    field: &FieldDescriptor,
    kind: &DataType,
) -> Result<ArrayRef, String> {
    let given = |message: &&DynamicMessage| !field.supports_presence() || message.has_field(field);
    let values: Vec<Option<Value>> = messages
        .iter()
        .map(|message| message.filter(given).map(|message| message.get_field(field).into_owned()))
        .collect();
    let values: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
    array_of(&values, &field.kind(), kind)
}

/// Values that a column of type `to` holds; those of a list or a map are of kind `kind`.
fn array_of(values: &[Option<&Value>], kind: &Kind, to: &DataType) -> Result<ArrayRef, String> {
    macro_rules! plain {
        ($array:ty, $get:ident) => {
            Arc::new(values.iter().map(|value| value.and_then(|value| value.$get())).collect::<$array>())
        };
    }
    Ok(match to {
        DataType::Map(entries, _) => {
            let (Kind::Message(entry), DataType::Struct(fields)) = (kind, entries.data_type()) else {
                return Err("a map without entries".into());
            };
            let mut sorted: Vec<(Value, &Value)> = Vec::new();
            let mut ends = vec![0_usize];
            for value in values {
                let mut own: Vec<(&MapKey, &Value)> =
                    value.and_then(|value| value.as_map()).into_iter().flatten().collect();
                own.sort_by_key(|(key, _)| *key);
                sorted.extend(own.into_iter().map(|(key, value)| (Value::from(key.clone()), value)));
                ends.push(sorted.len());
            }
            let keys: Vec<Option<&Value>> = sorted.iter().map(|(key, _)| Some(key)).collect();
            let inner: Vec<Option<&Value>> = sorted.iter().map(|(_, value)| Some(*value)).collect();
            let keys = array_of(&keys, &entry.map_entry_key_field().kind(), fields[0].data_type())?;
            let inner = array_of(&inner, &entry.map_entry_value_field().kind(), fields[1].data_type())?;
            let rows =
                StructArray::try_new(fields.clone(), vec![keys, inner], None).map_err(|error| error.to_string())?;
            let nulls = NullBuffer::from_iter(values.iter().map(Option::is_some));
            let offsets = OffsetBuffer::from_lengths(ends.windows(2).map(|pair| pair[1] - pair[0]));
            Arc::new(
                MapArray::try_new(Arc::clone(entries), offsets, rows, Some(nulls), false).map_err(|e| e.to_string())?,
            )
        }
        DataType::List(item) => {
            let lists = values.iter().map(|value| value.and_then(|value| value.as_list()).unwrap_or_default());
            let offsets = OffsetBuffer::from_lengths(lists.clone().map(<[Value]>::len));
            let inner: Vec<Option<&Value>> = lists.flatten().map(Some).collect();
            let inner = array_of(&inner, kind, item.data_type())?;
            let nulls = NullBuffer::from_iter(values.iter().map(Option::is_some));
            Arc::new(ListArray::try_new(Arc::clone(item), offsets, inner, Some(nulls)).map_err(|e| e.to_string())?)
        }
        DataType::Timestamp(..) => {
            let micros = |value: &Value| -> Result<i64, String> {
                let part = |number| value.as_message().and_then(|message| message.get_field_by_number(number));
                let seconds = part(1).and_then(|value| value.as_i64()).unwrap_or_default();
                let nanos = part(2).and_then(|value| value.as_i32()).unwrap_or_default();
                let micros =
                    seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(i64::from(nanos / 1000)));
                micros.ok_or_else(|| format!("{seconds} seconds are no time"))
            };
            let all = values
                .iter()
                .map(|value| value.map(micros).transpose())
                .collect::<Result<TimestampMicrosecondArray, _>>();
            Arc::new(all?)
        }
        to => match kind {
            Kind::Message(message) if wrapped(message).is_some() => {
                let inner: Vec<Option<Value>> = values
                    .iter()
                    .map(|value| {
                        value
                            .and_then(|value| value.as_message()?.get_field_by_number(1))
                            .map(|value| value.into_owned())
                    })
                    .collect();
                let inner: Vec<Option<&Value>> = inner.iter().map(Option::as_ref).collect();
                let of = wrapped(message).map_or(kind.clone(), |field| field.kind());
                array_of(&inner, &of, to)?
            }
            Kind::Message(message) => {
                let DataType::Struct(fields) = to else { return Err("a message is no row".into()) };
                let rows: Vec<Option<&DynamicMessage>> =
                    values.iter().map(|value| value.and_then(|value| value.as_message())).collect();
                let column = |field: &FieldRef| {
                    let own = message
                        .get_field_by_name(field.name())
                        .ok_or_else(|| format!("there is no {}", field.name()))?;
                    column_of(&rows, &own, field.data_type())
                };
                let columns = fields.iter().map(column).collect::<Result<Vec<_>, _>>()?;
                let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
                let rows = StructArray::try_new_with_length(fields.clone(), columns, Some(nulls), values.len());
                Arc::new(rows.map_err(|error| error.to_string())?)
            }
            Kind::Enum(all) => {
                let name = |number: i32| match all.get_value(number) {
                    Some(value) => value.name().to_owned(),
                    None => number.to_string(),
                };
                let names = values.iter().map(|value| value.and_then(|value| value.as_enum_number()).map(name));
                Arc::new(names.collect::<StringArray>())
            }
            Kind::Double => plain!(Float64Array, as_f64),
            Kind::Float => plain!(Float32Array, as_f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => plain!(Int32Array, as_i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => plain!(Int64Array, as_i64),
            Kind::Uint32 | Kind::Fixed32 => plain!(UInt32Array, as_u32),
            Kind::Uint64 | Kind::Fixed64 => plain!(UInt64Array, as_u64),
            Kind::Bool => plain!(BooleanArray, as_bool),
            Kind::String => plain!(StringArray, as_str),
            Kind::Bytes => {
                Arc::new(values.iter().map(|value| value.and_then(|value| value.as_bytes())).collect::<BinaryArray>())
            }
        },
    })
}

/// Decodes messages of one kind.
struct Reader {
    message: MessageDescriptor,
    /// The fields that are read, each with what it is as a column.
    fields: Vec<(FieldDescriptor, DataType)>,
    fit: Fit,
}

impl Reader {
    fn new(message: MessageDescriptor, table: &SchemaRef) -> Result<Self, String> {
        let said = |error: Error| match error.advice() {
            Some(advice) => format!("{error} ({advice})"),
            None => error.to_string(),
        };
        // of each field that the table does not name nothing is known but the name
        let exact = |field: &FieldDescriptor| table.fields().iter().find(|column| column.name() == field.name());
        let folded = |field: &FieldDescriptor| {
            table.fields().iter().find(|column| column.name().eq_ignore_ascii_case(field.name()))
        };
        let all: Vec<(FieldDescriptor, DataType)> = message
            .fields()
            .map(|field| {
                let kind = match exact(&field).or_else(|| folded(&field)) {
                    Some(column) => column_type(&field, Some(column.data_type()), 0)?,
                    None => DataType::Null,
                };
                Ok((field, kind))
            })
            .collect::<Result<_, String>>()?;
        let given: Fields = all.iter().map(|(field, kind)| Field::new(field.name(), kind.clone(), true)).collect();
        let fit = Fit::new(&given, table, Missing::Null).map_err(said)?;
        let fields = fit.reads().iter().map(|&index| all[index].clone()).collect();
        Ok(Reader { message, fields, fit })
    }

    /// The rows of those of `records`, whose messages begin where `body` says.
    fn rows<'a>(
        &self,
        records: &'a BinaryArray,
        members: &[usize],
        body: impl Fn(&'a [u8]) -> Result<&'a [u8], String>,
    ) -> Result<Batch, BadRecord> {
        let (mut messages, mut found) = (Vec::with_capacity(members.len()), None);
        for (row, &index) in members.iter().enumerate() {
            let read = body(records.value(index)).and_then(|body| {
                DynamicMessage::decode(self.message.clone(), body)
                    .map_err(|error| format!("it is cut off or corrupt: {error}"))
            });
            match read {
                Ok(message) => messages.push(message),
                Err(reason) => {
                    found = Some(BadRecord { index: row, reason });
                    break;
                }
            }
        }
        // a bad record may stand before the one that is found first
        let mut end = messages.len();
        loop {
            let messages: Vec<Option<&DynamicMessage>> = messages[..end].iter().map(Some).collect();
            let bad = match self.columns(&messages).and_then(|columns| self.fit.apply(&columns, end)) {
                Ok(rows) => return found.map_or(Ok(rows), Err),
                Err(bad) => bad,
            };
            if end == 0 {
                return Err(found.unwrap_or(bad));
            }
            end = bad.index.min(end - 1);
            found = Some(BadRecord { index: end, ..bad });
        }
    }

    fn columns(&self, messages: &[Option<&DynamicMessage>]) -> Result<Vec<ArrayRef>, BadRecord> {
        let columns = |messages: &[Option<&DynamicMessage>]| -> Result<Vec<ArrayRef>, String> {
            self.fields.iter().map(|(field, kind)| column_of(messages, field, kind)).collect()
        };
        columns(messages).map_err(|reason| {
            let bad = (0..messages.len()).find(|&row| columns(&messages[row..=row]).is_err());
            BadRecord { index: bad.unwrap_or_default(), reason }
        })
    }
}

/// The messages of one schema, by their places in its file.
struct Declarations {
    pool: DescriptorPool,
    readers: HashMap<Vec<usize>, Result<Reader, String>>,
}

impl Declarations {
    fn reader(&mut self, path: &[usize], table: &SchemaRef) -> Result<&Reader, String> {
        if !self.readers.contains_key(path) {
            let reader = self.message(path).and_then(|message| Reader::new(message, table));
            self.readers.insert(path.to_vec(), reader);
        }
        self.readers[path].as_ref().map_err(Clone::clone)
    }

    fn message(&self, path: &[usize]) -> Result<MessageDescriptor, String> {
        let none = || format!("its schema has no message at {path:?}");
        let file = self.pool.get_file_by_name(FILE).ok_or_else(none)?;
        let (first, rest) = path.split_first().ok_or_else(none)?;
        let first = file.messages().nth(*first).ok_or_else(none)?;
        rest.iter().try_fold(first, |message, &index| message.child_messages().nth(index)).ok_or_else(none)
    }
}

/// Reads messages into rows.
pub struct ProtobufDecoder {
    registry: Option<Registry>,
    schema: SchemaRef,
    /// Where no registry is asked.
    plain: Option<Reader>,
    files: Known<Declarations>,
}

impl ProtobufDecoder {
    /// For the columns `columns` of `schema`.
    pub fn new(schema: &SchemaRef, columns: &[usize], settings: &Settings) -> Result<Self> {
        let asked = Arc::new(schema.project(columns).map_err(crate::batch::from_arrow)?);
        let plain = match settings.registry {
            Some(_) => None,
            None => {
                let Declared { descriptor, .. } = declared(schema, settings)?;
                Some(Reader::new(descriptor, &asked).map_err(|reason| unwritable("protobuf", reason))?)
            }
        };
        Ok(ProtobufDecoder { registry: settings.registry.clone(), schema: asked, plain, files: Known::default() })
    }
}

impl Decode for ProtobufDecoder {
    fn prepare(&mut self, records: &BinaryArray) -> Result<()> {
        let Some(registry) = &self.registry else { return Ok(()) };
        self.files.learn(records, registry, Language::Protobuf, |_, found| {
            let pool = compiled_text(found).map_err(|error| error.to_string())?;
            Ok(Declarations { pool, readers: HashMap::new() })
        })
    }

    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord> {
        let schema = Arc::clone(&self.schema);
        let (plain, files) = (&self.plain, &mut self.files);
        in_batches(&schema, records.len(), |range| {
            decode_grouped(records, range, &schema, plain.is_none(), |id, members| {
                if let Some(reader) = plain {
                    return reader.rows(records, members, Ok);
                }
                let whole = |reason| BadRecord { index: 0, reason };
                let file = files.get(id).map_err(whole)?;
                let first = records.value(members[0]);
                let (path, _) = unframed(first).and_then(|(_, rest)| place_of(rest)).map_err(whole)?;
                let reader = file.reader(&path, &schema).map_err(whole)?;
                reader.rows(records, members, |record| {
                    let (own, body) = unframed(record).and_then(|(_, rest)| place_of(rest))?;
                    match own == path {
                        true => Ok(body),
                        false => Err(format!("it is message {own:?} of its schema, those before it {path:?}")),
                    }
                })
            })
        })
    }
}

/// The place of a message in its schema's file, and what stands behind it: how many numbers it has, and these; none is the first message.
fn place_of(mut bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), String> {
    let mut number = || -> Option<usize> {
        let mut found = 0_u64;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = bytes.split_first()?;
            bytes = rest;
            found |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // zigzag, and never below 0
                return (found & 1 == 0).then_some((found >> 1) as usize);
            }
        }
        None
    };
    let wrong = || "the place of its message in the schema is cut off or corrupt".to_owned();
    let count = number().ok_or_else(wrong)?;
    if count > DEPTH_MAX {
        return Err(wrong());
    }
    let path = (0..count).map(|_| number()).collect::<Option<Vec<usize>>>().ok_or_else(wrong)?;
    Ok((if path.is_empty() { vec![0] } else { path }, bytes))
}

// From columns to messages.

/// The message of rows with the columns of `schema`.
fn declared(schema: &SchemaRef, settings: &Settings) -> Result<Declared> {
    if let Some(message) = &settings.message {
        return Ok(message.clone());
    }
    let source = proto_of(schema)?;
    let registered = Registered { language: Language::Protobuf, text: source.clone(), references: Vec::new() };
    let pool = compiled_text(&registered).map_err(|error| Error::internal(format!("{error}:\n{source}")))?;
    let descriptor =
        pool.get_message_by_name("Row").ok_or_else(|| Error::internal("a message that was compiled is not there"))?;
    Ok(Declared { descriptor, source: Some(source) })
}

/// A `.proto` file with message `Row`, whose fields are the columns of `schema` from 1 on.
fn proto_of(schema: &Schema) -> Result<String> {
    let mut text =
        String::from("syntax = \"proto3\";\n\nimport \"google/protobuf/timestamp.proto\";\n\nmessage Row {\n");
    fields_text(schema.fields(), 1, &mut text)?;
    text.push_str("}\n");
    Ok(text)
}

fn fields_text(fields: &Fields, depth: usize, text: &mut String) -> Result<()> {
    let indent = "  ".repeat(depth);
    for (number, field) in fields.iter().enumerate() {
        let name = field.name();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(unwritable("protobuf", format!("a field cannot be called \"{name}\""))
                .help("its names are letters, digits and underscores, and start with no digit"));
        }
        let one = |kind: &DataType, text: &mut String| -> Result<String> {
            Ok(match kind {
                DataType::Boolean => "bool".into(),
                DataType::Int8 | DataType::Int16 | DataType::Int32 => "int32".into(),
                DataType::Int64 => "int64".into(),
                DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => "uint32".into(),
                DataType::UInt64 => "uint64".into(),
                DataType::Float32 => "float".into(),
                DataType::Float64 => "double".into(),
                DataType::Utf8 => "string".into(),
                DataType::Binary => "bytes".into(),
                DataType::Timestamp(..) => TIMESTAMP.into(),
                DataType::Struct(inner) => {
                    let own = format!("Row{depth}_{}", number + 1);
                    let _ = writeln!(text, "{indent}message {own} {{");
                    fields_text(inner, depth + 1, text)?;
                    let _ = writeln!(text, "{indent}}}");
                    own
                }
                other => {
                    return Err(unwritable(
                        "protobuf",
                        format!("column \"{name}\" is {other}, for which it has no type"),
                    )
                    .help("CAST it, to STRING or BIGINT, or say which message it is with 'protobuf.descriptor'"));
                }
            })
        };
        let kind = match field.data_type() {
            DataType::List(item) => format!("repeated {}", one(item.data_type(), text)?),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(parts) => {
                    format!("map<{}, {}>", one(parts[0].data_type(), text)?, one(parts[1].data_type(), text)?)
                }
                _ => return Err(Error::internal("a map without entries")),
            },
            kind => {
                let kind = one(kind, text)?;
                if field.is_nullable() { format!("optional {kind}") } else { kind }
            }
        };
        let _ = writeln!(text, "{indent}{kind} {name} = {};", number + 1);
    }
    Ok(())
}

/// Writes rows as messages.
pub struct ProtobufEncoder {
    message: MessageDescriptor,
    source: Option<String>,
    registry: Option<Registry>,
    /// For each column its field, and what that is as a column.
    fields: Vec<(FieldDescriptor, DataType)>,
    /// What each message opens with, once that is known.
    head: Option<Vec<u8>>,
}

impl ProtobufEncoder {
    /// For rows with these columns.
    pub fn new(schema: &SchemaRef, settings: &Settings) -> Result<Self> {
        let Declared { descriptor, source } = declared(schema, settings)?;
        let field = |column: &FieldRef| {
            let exact = descriptor.get_field_by_name(column.name());
            let folded = || descriptor.fields().find(|field| field.name().eq_ignore_ascii_case(column.name()));
            let field = exact.or_else(folded).ok_or_else(|| {
                let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
                let error = unwritable(
                    "protobuf",
                    format!("message \"{}\" has no field \"{}\"", descriptor.full_name(), column.name()),
                );
                error.help(match nearest(column.name(), names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("its fields are {}", names.join(", ")),
                })
            })?;
            let kind =
                column_type(&field, Some(column.data_type()), 0).map_err(|reason| unwritable("protobuf", reason))?;
            if !arrow::compute::can_cast_types(column.data_type(), &kind) {
                return Err(unwritable(
                    "protobuf",
                    format!("column \"{}\" is {}, and its field {kind}", column.name(), column.data_type()),
                )
                .help("CAST it in the query"));
            }
            Ok((field, kind))
        };
        let fields: Vec<(FieldDescriptor, DataType)> = schema.fields().iter().map(field).collect::<Result<_>>()?;
        if let Some(lacking) = descriptor
            .fields()
            .find(|field| field.cardinality() == Cardinality::Required && !fields.iter().any(|(own, _)| own == field))
        {
            return Err(unwritable(
                "protobuf",
                format!("field \"{}\" is required, and no column has that name", lacking.name()),
            ));
        }
        if settings.registry.is_some() {
            let Some(_) = &source else {
                return Err(unwritable(
                    "protobuf",
                    "a registry keeps the text of a .proto file, and this is a set of descriptors",
                )
                .help("give 'protobuf.descriptor' a .proto file"));
            };
            let foreign =
                descriptor.parent_file().dependencies().find(|file| !file.name().starts_with("google/protobuf/"));
            if let Some(foreign) = foreign {
                return Err(unwritable(
                    "protobuf",
                    format!("the .proto file imports \"{}\", which cannot be registered with it", foreign.name()),
                )
                .help("put its messages into the file itself"));
            }
        }
        let head = if settings.registry.is_some() { None } else { Some(Vec::new()) };
        Ok(ProtobufEncoder { message: descriptor, source, registry: settings.registry.clone(), fields, head })
    }

    /// What messages open with: the number of the schema, and the message's place in it.
    fn head(&self) -> Result<Vec<u8>> {
        let (Some(registry), Some(text)) = (&self.registry, &self.source) else { return Ok(Vec::new()) };
        let schema = Registered { language: Language::Protobuf, text: text.clone(), references: Vec::new() };
        let mut head = frame(registry.id_of(self.message.full_name(), &schema)?).to_vec();
        // of the numbers of a path every other one is an index
        let path: Vec<i32> = self.message.path().iter().skip(1).step_by(2).copied().collect();
        match path.as_slice() {
            [0] => head.push(0),
            path => [path.len() as i32].iter().chain(path).for_each(|number| {
                let mut rest = (*number as u32) << 1;
                while rest >= 0x80 {
                    head.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                head.push(rest as u8);
            }),
        }
        Ok(head)
    }
}

impl Encode for ProtobufEncoder {
    fn encode(&mut self, rows: &Batch) -> Result<BinaryArray> {
        let head = match &self.head {
            Some(head) => head,
            None => {
                let head = self.head()?;
                self.head.insert(head)
            }
        };
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let columns = self.fields.iter().zip(rows.columns()).map(|((field, kind), column)| {
            let within = |error| Error::data(super::reason(&error)).within(format!("column \"{}\"", field.name()));
            cast_with_options(column, kind, &options).map_err(within)
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(rows.num_rows()));
        for row in 0..rows.num_rows() {
            let message = message_of(&self.message, &columns, self.fields.iter().map(|(field, _)| field), row)?;
            bytes.extend_from_slice(head);
            message.encode(&mut bytes).map_err(|error| Error::data(format!("format 'protobuf': {error}")))?;
            ends.push(bytes.len());
        }
        super::records::array(bytes, &ends)
    }
}

/// Row `row` of `columns`, which are the values of `fields`, as a message.
fn message_of<'a>(
    message: &MessageDescriptor,
    columns: &[ArrayRef],
    fields: impl Iterator<Item = &'a FieldDescriptor>,
    row: usize,
) -> Result<DynamicMessage> {
    let mut made = DynamicMessage::new(message.clone());
    for (field, column) in fields.zip(columns) {
        if let Some(value) = value_at(column, row, field)? {
            made.set_field(field, value);
        }
    }
    Ok(made)
}

/// The value of `field` in row `row` of its column; none if it is NULL.
fn value_at(column: &ArrayRef, row: usize, field: &FieldDescriptor) -> Result<Option<Value>> {
    if column.is_null(row) {
        return Ok(None);
    }
    let lost = || Error::data(format!("format 'protobuf': NULL in a list or map \"{}\"", field.name()));
    match column.data_type() {
        DataType::Map(..) => {
            let (Kind::Message(entry), rows) = (field.kind(), column.as_map().value(row)) else { return Ok(None) };
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let mut all = HashMap::with_capacity(rows.len());
            for at in 0..rows.len() {
                let key = value_at(rows.column(0), at, &key)?.and_then(Value::into_map_key).ok_or_else(lost)?;
                all.insert(key, value_at(rows.column(1), at, &value)?.ok_or_else(lost)?);
            }
            Ok(Some(Value::Map(all)))
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            let item = |at| one_at(&items, at, &field.kind())?.ok_or_else(lost);
            Ok(Some(Value::List((0..items.len()).map(item).collect::<Result<_>>()?)))
        }
        _ => one_at(column, row, &field.kind()),
    }
}

/// One value of this kind.
fn one_at(column: &ArrayRef, row: usize, kind: &Kind) -> Result<Option<Value>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match kind {
        Kind::Double => Value::F64(column.as_primitive::<Float64Type>().value(row)),
        Kind::Float => Value::F32(column.as_primitive::<Float32Type>().value(row)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(column.as_primitive::<Int32Type>().value(row)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(column.as_primitive::<Int64Type>().value(row)),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(column.as_primitive::<UInt32Type>().value(row)),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(column.as_primitive::<UInt64Type>().value(row)),
        Kind::Bool => Value::Bool(column.as_boolean().value(row)),
        Kind::String => Value::String(column.as_string::<i32>().value(row).to_owned()),
        Kind::Bytes => Value::Bytes(bytes::Bytes::copy_from_slice(column.as_binary::<i32>().value(row))),
        Kind::Enum(all) => {
            let name = column.as_string::<i32>().value(row);
            let number = all.get_value_by_name(name).map(|value| value.number()).or_else(|| name.parse().ok());
            Value::EnumNumber(number.ok_or_else(|| {
                let error =
                    Error::data(format!("format 'protobuf': '{name}' is not in enumeration {}", all.full_name()));
                let names: Vec<String> = all.values().map(|value| value.name().to_owned()).collect();
                error.help(format!("there are {}", names.join(", ")))
            })?)
        }
        Kind::Message(message) if message.full_name() == TIMESTAMP => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let mut made = DynamicMessage::new(message.clone());
            made.set_field_by_number(1, Value::I64(micros.div_euclid(1_000_000)));
            made.set_field_by_number(2, Value::I32((micros.rem_euclid(1_000_000) * 1000) as i32));
            Value::Message(made)
        }
        Kind::Message(message) => match wrapped(message) {
            Some(inner) => {
                let mut made = DynamicMessage::new(message.clone());
                if let Some(value) = one_at(column, row, &inner.kind())? {
                    made.set_field(&inner, value);
                }
                Value::Message(made)
            }
            None => {
                let rows = column.as_struct();
                let fields: Vec<FieldDescriptor> =
                    rows.fields().iter().filter_map(|field| message.get_field_by_name(field.name())).collect();
                Value::Message(message_of(message, rows.columns(), fields.iter(), row)?)
            }
        },
    }))
}
