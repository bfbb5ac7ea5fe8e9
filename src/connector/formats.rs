//! How a definition chooses a format and sets it: the options that start with its name.

use super::options::{Named, OptionSpec, Options, Preset, Takes};
use super::registry;
use crate::error::{Error, Result};
use crate::format::{FileFormat, Format, avro, avro_messages, json, parquet, protobuf};
use std::path::Path;

/// What a format says of itself.
#[derive(Debug, Clone, Copy)]
pub struct FormatSpec {
    /// Its name, as `'format' = '…'` has it.
    pub name: &'static str,
    /// What a record is, in a sentence without its full stop.
    pub about: &'static str,
    /// Its own options.
    pub options: &'static [&'static OptionSpec],
}

/// The formats that come with Highwater.
pub const FORMATS: &[FormatSpec] = &[
    FormatSpec {
        name: "raw",
        about: "The record is the value of the one column, STRING or BYTES; also called `text`",
        options: &[],
    },
    FormatSpec {
        name: "json",
        about: "An object a record, columns by name",
        options: &[&JSON_NULLS, &JSON_TIMESTAMPS],
    },
    FormatSpec {
        name: "debezium-json",
        about: "A change of a row a record, as Debezium writes them: `before`, `after` and `op`; a table of this format is an updating stream",
        options: &[&DEBEZIUM_TIMESTAMPS],
    },
    FormatSpec { name: "csv", about: "Fields by position", options: &[&CSV_DELIMITER, &CSV_NULL] },
    FormatSpec {
        name: "parquet",
        about: "Files of columns in groups of rows, found by name; for connector `file`",
        options: &[&PARQUET_COMPRESSION, &PARQUET_GROUP_BYTES],
    },
    FormatSpec {
        name: "avro",
        about: "Values of Avro, columns by name: in topics one a record, bare or with a schema registry; in files object containers",
        options: &[&AVRO_CODEC, &AVRO_SCHEMA, &AVRO_RECORD],
    },
    FormatSpec {
        name: "protobuf",
        about: "A message of Protocol Buffers a record, columns by name, bare or with a schema registry; for topics",
        options: &[&PROTOBUF_DESCRIPTOR, &PROTOBUF_MESSAGE],
    },
];

// not `Required`: where records have two parts, each part's own option will do
pub(in crate::connector) const FORMAT: OptionSpec = OptionSpec::both(
    "format",
    Takes::Name("format", &["json", "csv", "raw", "text", "debezium-json", "parquet", "avro", "protobuf"]),
    Preset::None(""),
    "how records are written",
);

const JSON_NULLS: OptionSpec = OptionSpec::writing(
    "json.encode.nulls",
    Takes::Flag,
    Preset::Is("true"),
    "whether NULL is written, rather than left out",
);

const JSON_TIMESTAMPS: OptionSpec = OptionSpec::writing(
    "json.timestamp-format.standard",
    Takes::Choice(&["SQL", "ISO-8601"]),
    Preset::Is("SQL"),
    "how timestamps are written: with a space or a `T` in the middle",
);

const DEBEZIUM_TIMESTAMPS: OptionSpec = OptionSpec::writing(
    "debezium-json.timestamp-format.standard",
    Takes::Choice(&["SQL", "ISO-8601"]),
    Preset::Is("SQL"),
    "how timestamps are written: with a space or a `T` in the middle",
);

const CSV_DELIMITER: OptionSpec = OptionSpec::both(
    "csv.delimiter",
    Takes::Form("a character"),
    Preset::Is(","),
    "what stands between fields; `\\t` is a tab",
);

const CSV_NULL: OptionSpec = OptionSpec::both("csv.null", Takes::Text, Preset::Is(""), "the text that stands for NULL");

const PARQUET_COMPRESSION: OptionSpec = OptionSpec::writing(
    "parquet.compression",
    Takes::Choice(&["zstd", "snappy", "gzip", "none"]),
    Preset::Is("zstd"),
    "how pages are compressed",
);

const PARQUET_GROUP_BYTES: OptionSpec = OptionSpec::writing(
    "parquet.row-group.bytes",
    Takes::Bytes,
    Preset::Is("64 MiB"),
    "the size of a row group, which each file that is being written keeps in memory",
);

const AVRO_CODEC: OptionSpec = OptionSpec::writing(
    "avro.codec",
    Takes::Choice(&["snappy", "deflate", "zstandard", "null"]),
    Preset::Is("snappy"),
    "in files: how blocks are compressed; only `snappy` has a checksum",
);

const AVRO_SCHEMA: OptionSpec = OptionSpec::both(
    "avro.schema",
    Takes::Text,
    Preset::None("the one that follows from the columns"),
    "in topics: the schema by which records are written, and read where they name none",
);

const AVRO_RECORD: OptionSpec = OptionSpec::both(
    "avro.record-name",
    Takes::Text,
    Preset::Is("record"),
    "in topics: what the record of a schema that follows from the columns is called, such as `com.example.Order`",
);

const PROTOBUF_DESCRIPTOR: OptionSpec = OptionSpec::both(
    "protobuf.descriptor",
    Takes::Text,
    Preset::None("a message that follows from the columns"),
    "a file that declares the message: a `.proto` file, or a set of descriptors as `protoc --descriptor_set_out` writes it",
);

const PROTOBUF_MESSAGE: OptionSpec = OptionSpec::both(
    "protobuf.message",
    Takes::Text,
    Preset::None("the only one in the file"),
    "the message's full name, such as `com.example.Order`",
);

/// The options that choose and set a format where its names start with `prefix`.
pub(super) fn declared(prefix: &str) -> impl Iterator<Item = Named<'static>> {
    // the parts of a record need a format each only if its connector says so
    let own = FORMATS.iter().flat_map(|format| format.options).copied();
    [&FORMAT].into_iter().chain(own).chain(registry::OPTIONS.iter().copied()).map(move |spec| spec.under(prefix))
}

impl Options {
    /// True if the format that option `{prefix}format` names is given.
    pub fn has_format(&self, prefix: &str) -> bool {
        self.is_given(FORMAT.under(prefix))
    }

    /// The format of records that option `{prefix}format` names, with its settings from `{prefix}json.…` and
    /// `{prefix}csv.…`; the prefix is empty, or `key.` or `value.` where a record has two parts.
    pub fn format(&self, prefix: &str) -> Result<Format> {
        if self.text(FORMAT.under(prefix)) == Some("avro") {
            let schema = self.text(AVRO_SCHEMA.under(prefix)).map(str::to_owned);
            let record = match schema {
                Some(_) => "record".to_owned(),
                None => self.required(AVRO_RECORD.under(prefix))?.to_owned(),
            };
            let registry = registry::named(self, prefix)?;
            return Ok(Format::Avro(avro_messages::Settings { schema, record, registry }));
        }
        if self.text(FORMAT.under(prefix)) == Some("protobuf") {
            let registry = registry::named(self, prefix)?;
            let message = match self.text(PROTOBUF_DESCRIPTOR.under(prefix)) {
                Some(path) => {
                    let name = self.text(PROTOBUF_MESSAGE.under(prefix));
                    let declared = protobuf::Declared::read(Path::new(path), name);
                    Some(declared.map_err(|error| self.misvalued(PROTOBUF_DESCRIPTOR.under(prefix), error))?)
                }
                None => None,
            };
            return Ok(Format::Protobuf(protobuf::Settings { message, registry }));
        }
        match self.file_format(prefix)? {
            FileFormat::Records(format) => Ok(format),
            FileFormat::Parquet(_) | FileFormat::Avro(_) => {
                let option = FORMAT.under(prefix);
                let name = self.text(option.clone()).unwrap_or_default();
                let wrong = format!("format '{name}' is one of files, and here are records");
                Err(self.misvalued(option, Error::invalid(wrong)).help(
                    "use it with connector 'file'; records can be json, csv, raw, debezium-json, avro or protobuf",
                ))
            }
        }
    }

    /// The format of files that option `{prefix}format` names, with its settings.
    pub fn file_format(&self, prefix: &str) -> Result<FileFormat> {
        let name = self.required(FORMAT.under(prefix))?;
        FORMAT.takes.check(name).map_err(|error| self.misvalued(FORMAT.under(prefix), error))?;
        match name {
            "parquet" => {
                let group_bytes = self.bytes(PARQUET_GROUP_BYTES.under(prefix))?;
                if group_bytes == 0 {
                    return Err(self.wrong(PARQUET_GROUP_BYTES.under(prefix), "a row group has at least one byte"));
                }
                let compression = match self.choice(PARQUET_COMPRESSION.under(prefix))? {
                    "none" => parquet::Compression::None,
                    "snappy" => parquet::Compression::Snappy,
                    "gzip" => parquet::Compression::Gzip,
                    _ => parquet::Compression::Zstd,
                };
                return Ok(FileFormat::Parquet(parquet::Settings { compression, group_bytes }));
            }
            "avro" => {
                let codec = match self.choice(AVRO_CODEC.under(prefix))? {
                    "null" => avro::Codec::Null,
                    "deflate" => avro::Codec::Deflate,
                    "zstandard" => avro::Codec::Zstandard,
                    _ => avro::Codec::Snappy,
                };
                return Ok(FileFormat::Avro(avro::Settings { codec }));
            }
            _ => {}
        }
        if name == "protobuf" {
            let wrong = "format 'protobuf' is one of records in topics, and a file is no such";
            return Err(self
                .misvalued(FORMAT.under(prefix), Error::invalid(wrong))
                .help("files can be json, csv, raw, parquet or avro"));
        }
        let mut format = Format::named(name)?;
        match &mut format {
            Format::Raw | Format::Avro(_) | Format::Protobuf(_) => {}
            Format::Json(json) => {
                json.nulls = self.flag(JSON_NULLS.under(prefix))?;
                json.iso_timestamps = self.choice(JSON_TIMESTAMPS.under(prefix))? == "ISO-8601";
            }
            Format::DebeziumJson(debezium) => {
                let iso_timestamps = self.choice(DEBEZIUM_TIMESTAMPS.under(prefix))? == "ISO-8601";
                debezium.json = json::Settings { nulls: true, iso_timestamps };
            }
            Format::Csv(csv) => {
                csv.delimiter = match self.required(CSV_DELIMITER.under(prefix))?.as_bytes() {
                    br"\t" => b'\t',
                    [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
                    _ => {
                        let reason = "not one ASCII character other than a quote or a newline";
                        return Err(self.wrong(CSV_DELIMITER.under(prefix), reason));
                    }
                };
                csv.null = self.required(CSV_NULL.under(prefix))?.to_owned();
            }
        }
        Ok(FileFormat::Records(format))
    }
}
