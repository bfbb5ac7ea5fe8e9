//! How a table's columns lie in records: in the key, in the value, beside them.
//!
//! ```text
//! key.fields, or the PRIMARY KEY ─▶ key ─ key.format ─┐
//! all columns, or all but those  ─▶ value ─ format ───┼─ record
//! METADATA columns               ─▶ timestamp, headers, offset …
//! ```
//! A column that is in both parts is read from the value. A record without a value, a tombstone, is a row whose columns are
//! NULL but for those of the key; keys are looked at only where a query needs them. Written, a row's value is NULL only where
//! format `raw` writes a column that is.

use super::consume::Record;
use super::metadata;
use crate::batch::{BATCH_ROWS, Batch, from_arrow};
use crate::connector::formats::FORMAT;
use crate::connector::metadata::convert;
use crate::connector::{Changes, Gives, OptionSpec, Options, Preset, Table, Takes};
use crate::error::{Error, Result, nearest};
use crate::format::change::closed;
use crate::format::sift::Readable;
use crate::format::{BadRecord, Decode, Encode, Format};
use crate::plan::WEIGHT;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Int64Array, MapArray, RecordBatchOptions,
    TimestampMicrosecondArray,
};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{nullif, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use rdkafka::message::{Header, OwnedHeaders};
use std::ops::Range;
use std::sync::Arc;

pub(super) const KEY_FIELDS: OptionSpec = OptionSpec::both(
    "key.fields",
    Takes::Form("columns"),
    Preset::None("the `PRIMARY KEY`"),
    "the columns of the record's key, with `;` between them",
);

pub(super) const KEY_PREFIX: OptionSpec = OptionSpec::both(
    "key.fields-prefix",
    Takes::Text,
    Preset::None(""),
    "with `EXCEPT_KEY`: what the names of key columns start with in the table, but not in the record",
);

pub(super) const VALUE_INCLUDE: OptionSpec = OptionSpec::both(
    "value.fields-include",
    Takes::Choice(&["ALL", "EXCEPT_KEY"]),
    Preset::Is("ALL"),
    "whether the columns of the key are in the value, too",
);

pub(super) const CHANGELOG: OptionSpec = OptionSpec::reading(
    "scan.changelog",
    Takes::Choice(&["append", "upsert"]),
    Preset::Is("append"),
    "what records are: `append` is a row each, `upsert` the newest row of its `PRIMARY KEY`, which a record without a value takes away",
);

/// Where each column of a table is in a record.
pub(super) struct Layout {
    table: SchemaRef,
    key: Option<Part>,
    value: Part,
    /// Columns that are metadata, and which.
    metadata: Vec<(usize, &'static str)>,
    /// The columns of the PRIMARY KEY: a row must have a key, and the newest row of each key stands.
    primary: Vec<usize>,
    /// Records are read as the newest rows of their keys.
    upserts: bool,
}

/// The key or the value.
struct Part {
    format: Format,
    /// Its columns, by index into the table's.
    columns: Vec<usize>,
    /// The same, as the record calls them.
    schema: SchemaRef,
}

impl Part {
    fn place(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|own| *own == column)
    }
}

impl Layout {
    /// What the options of `table` say about its records.
    pub(super) fn read(table: &Table) -> Result<Self> {
        let (options, schema) = (&table.options, &table.schema);
        let is_metadata = |column: &usize| table.metadata.contains_key(column);
        let format = options.format(if options.has_format("value.") { "value." } else { "" })?;
        let key_columns: Vec<usize> = match options.text(&KEY_FIELDS) {
            None => table.primary_key.clone(),
            Some(text) => text.split(';').map(|name| column(table, name.trim())).collect::<Result<_>>()?,
        };
        let named = options.has_format("key.").then(|| options.format("key.")).transpose()?;
        if let Some(unique) = table.primary_key.iter().find(|unique| !key_columns.contains(unique)) {
            let name = schema.field(*unique).name();
            return Err(options.wrong(&KEY_FIELDS, format!("column \"{name}\" of the PRIMARY KEY is missing")));
        }
        let apart = options.choice(&VALUE_INCLUDE)? == "EXCEPT_KEY";
        let no_key = |option| {
            let error = options.wrong(option, "there is no key");
            Err(error.help("give 'key.fields' or a PRIMARY KEY"))
        };
        let key = match (key_columns.is_empty(), named) {
            (true, Some(_)) => {
                let error = options.wrong(FORMAT.under("key."), "there is no key for 'key.format'");
                return Err(error.help("give 'key.fields' or a PRIMARY KEY"));
            }
            (true, None) if apart => return no_key(&VALUE_INCLUDE),
            (true, None) if options.is_given(&KEY_PREFIX) => return no_key(&KEY_PREFIX),
            (true, None) => None,
            (false, named) => {
                let text = key_columns.len() == 1 && *schema.field(key_columns[0]).data_type() == DataType::Utf8;
                let format = match named {
                    Some(format) => format,
                    None => Format::named(if text { "raw" } else { "json" })?,
                };
                let schema = key_schema(options, schema, &key_columns, apart)?;
                Some(Part { format, columns: key_columns, schema })
            }
        };
        let in_value = |column: &usize| {
            let in_key = apart && key.as_ref().is_some_and(|key| key.columns.contains(column));
            !is_metadata(column) && !in_key
        };
        let columns: Vec<usize> = (0..schema.fields().len()).filter(in_value).collect();
        // of a tombstone a key's columns are those of the key
        let fields = columns.iter().map(|column| {
            let field = schema.field(*column).clone();
            let nullable = field.is_nullable() || key.as_ref().is_some_and(|key| key.columns.contains(column));
            field.with_nullable(nullable)
        });
        let value = Part { format, schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns };
        let metadata: Vec<(usize, &str)> =
            table.metadata.iter().map(|(column, metadata)| (*column, metadata.spec.name)).collect();
        let value = Part { format: value.format.with_key(&table.primary_key), ..value };
        let primary = table.primary_key.clone();
        let layout = Layout { table: Arc::clone(schema), key, value, metadata, primary, upserts: false };
        match layout.value.format.changes() {
            true if apart => {
                let error = options.wrong(&VALUE_INCLUDE, "a change has its whole rows in the value");
                Err(error.help("leave the option out"))
            }
            _ if layout.key.as_ref().is_some_and(|key| key.format.changes()) => {
                let error = options.wrong(FORMAT.under("key."), "a key is no change of a row");
                Err(error.help("keys can be json, csv or raw"))
            }
            _ => Ok(layout),
        }
    }

    /// What the options of `table`, which is read, say about its records.
    pub(super) fn read_from(table: &Table) -> Result<Self> {
        let (layout, options) = (Layout::read(table)?, &table.options);
        let upserts = options.choice(&CHANGELOG)? == "upsert";
        if layout.value.format.changes() {
            if let Some(column) = table.metadata.keys().next() {
                let error = format!(
                    "column \"{}\" is metadata, which a row that is taken back does not have",
                    table.schema.field(*column).name()
                );
                return Err(options
                    .wrong(FORMAT.under(""), error)
                    .help("leave the column out: it is of the record, not of the row"));
            }
            if upserts {
                let error = options.wrong(&CHANGELOG, "records of this format are changes already");
                return Err(error.help("leave the option out"));
            }
        }
        if upserts && layout.primary.is_empty() {
            let error = options.wrong(&CHANGELOG, "the newest row of what? the table has no PRIMARY KEY");
            return Err(error.help("declare PRIMARY KEY (…) NOT ENFORCED with the columns of the record's key"));
        }
        Ok(Layout { upserts, ..layout })
    }

    /// The same, for the records of `topic`.
    pub(super) fn for_topic(self, topic: &str) -> Self {
        let of = |part: Part, name| Part { format: part.format.with_topic(topic, name), ..part };
        Layout { key: self.key.map(|key| of(key, "key")), value: of(self.value, "value"), ..self }
    }

    /// What records are read as.
    pub(super) fn gives(&self) -> Gives {
        match self.upserts {
            true => Gives::Upserts,
            false if self.value.format.changes() => Gives::Changes,
            false => Gives::Rows,
        }
    }

    /// What a topic of these records can carry.
    pub(super) fn carries(&self) -> Changes {
        match (self.value.format.changes(), self.primary.is_empty()) {
            (true, true) => Changes::All,
            (true, false) => Changes::Paired,
            (false, true) => Changes::AppendOnly,
            (false, false) => Changes::Keyed,
        }
    }

    /// What reads `columns` of the table.
    pub(super) fn reader(&self, columns: &[usize]) -> Result<RowReader> {
        let schema = self.table.project(columns).map_err(from_arrow)?;
        let (mut in_value, mut in_key, mut kinds, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let add = |list: &mut Vec<usize>, place: usize| {
            list.push(place);
            list.len() - 1
        };
        for &column in columns {
            if let Some((_, kind)) = self.metadata.iter().find(|(own, _)| *own == column) {
                kinds.push(*kind);
                places.push(Place::Metadata(kinds.len() - 1));
                continue;
            }
            let key = self.key.as_ref().filter(|_| self.gives() != Gives::Changes);
            let key = key.and_then(|key| key.place(column)).map(|place| add(&mut in_key, place));
            let value = self.value.place(column).map(|place| add(&mut in_value, place));
            places.push(match (value, key) {
                (Some(value), None) => Place::Value(value),
                (Some(value), Some(key)) => Place::ValueOrKey(value, key),
                (None, Some(key)) => Place::Key(key),
                (None, None) => return Err(Error::internal("a column is in no part of a record")),
            });
        }
        let whole_key = places.iter().any(|place| matches!(place, Place::Key(_)));
        let key = match &self.key {
            Some(key) if !in_key.is_empty() => {
                // the keys of other records are not looked at, which makes them NULL
                let nullable =
                    |field: &Arc<Field>| field.as_ref().clone().with_nullable(!whole_key || field.is_nullable());
                let schema = Schema::new(key.schema.fields().iter().map(nullable).collect::<Vec<_>>());
                let decoder = key.format.decoder(&Arc::new(schema), &in_key);
                Some(decoder.map_err(|error| error.within("the key"))?)
            }
            _ => None,
        };
        let value = self.value.format.decoder(&self.value.schema, &in_value)?;
        let primary = self.primary.iter().filter_map(|key| columns.iter().position(|column| column == key)).collect();
        let gives = self.gives();
        Ok(RowReader { schema: Arc::new(schema), places, kinds, key, whole_key, value, gives, primary })
    }

    /// What writes rows with the columns of the table.
    pub(super) fn writer(&self) -> Result<RowWriter> {
        let find = |kind| self.metadata.iter().find(|(_, own)| *own == kind).map(|(column, _)| *column);
        let raw_key = find("key");
        let key = match &self.key {
            Some(_) if raw_key.is_some() => {
                return Err(Error::invalid("the key is written twice: from METADATA 'key' and from its columns")
                    .help("declare the METADATA column VIRTUAL, or leave 'key.fields' and the PRIMARY KEY out"));
            }
            Some(key) => {
                let encoder = key.format.encoder(&key.schema).map_err(|error| error.within("the key"))?;
                Some((key.columns.clone(), encoder))
            }
            None => None,
        };
        let value = (self.value.columns.clone(), self.value.format.encoder(&self.value.schema)?);
        let (timestamp, headers) = (find("timestamp"), find("headers"));
        let changes = self.value.format.changes();
        Ok(RowWriter {
            key,
            value,
            raw_key,
            timestamp,
            headers,
            table: Arc::clone(&self.table),
            primary: self.primary.clone(),
            changes,
        })
    }
}

/// The column called `name`, which must be one of the record's own.
fn column(table: &Table, name: &str) -> Result<usize> {
    let (options, schema) = (&table.options, &table.schema);
    match schema.index_of(name) {
        Ok(index) if table.metadata.contains_key(&index) => {
            Err(options.wrong(&KEY_FIELDS, format!("column \"{name}\" is metadata, which is beside the key")))
        }
        Ok(index) => Ok(index),
        Err(_) => {
            let error = options.wrong(&KEY_FIELDS, format!("there is no column \"{name}\""));
            Err(match nearest(name, schema.fields().iter().map(|field| field.name().as_str())) {
                Some(near) => error.help(format!("did you mean \"{near}\"?")),
                None => error,
            })
        }
    }
}

/// The key's columns as the record calls them.
fn key_schema(options: &Options, table: &Schema, columns: &[usize], apart: bool) -> Result<SchemaRef> {
    let prefix = options.text(&KEY_PREFIX).unwrap_or_default();
    if !prefix.is_empty() && !apart {
        return Err(options
            .wrong(&KEY_PREFIX, "the columns of the key are in the value, too")
            .help("add 'value.fields-include' = 'EXCEPT_KEY'"));
    }
    let field = |column: &usize| {
        let field = table.field(*column);
        let name = field.name().strip_prefix(prefix).filter(|name| !name.is_empty()).ok_or_else(|| {
            options.wrong(&KEY_PREFIX, format!("column \"{}\" of the key does not start with it", field.name()))
        })?;
        Ok(field.clone().with_name(name))
    };
    Ok(Arc::new(Schema::new(columns.iter().map(field).collect::<Result<Vec<_>>>()?)))
}

/// Where a column comes from, by its place in what was decoded.
#[derive(Debug, Clone, Copy)]
enum Place {
    Value(usize),
    Key(usize),
    /// From the value; of a tombstone from the key.
    ValueOrKey(usize, usize),
    Metadata(usize),
}

/// Records to rows.
pub(super) struct RowReader {
    schema: SchemaRef,
    places: Vec<Place>,
    kinds: Vec<&'static str>,
    key: Option<Box<dyn Decode>>,
    /// Keys are read of every record, not of tombstones alone.
    whole_key: bool,
    value: Box<dyn Decode>,
    gives: Gives,
    /// Where the columns of the PRIMARY KEY are among those that it gives.
    primary: Vec<usize>,
}

/// Records of one partition, as far as they are needed.
pub(super) struct Gathered {
    values: BinaryBuilder,
    keys: Option<BinaryBuilder>,
    whole_key: bool,
    metadata: Vec<metadata::Column>,
}

impl Gathered {
    pub(super) fn push(&mut self, record: &Record) {
        let value = record.value();
        self.values.append_option(value);
        if let Some(keys) = &mut self.keys {
            keys.append_option(record.key().filter(|_| self.whole_key || value.is_none()));
        }
        self.metadata.iter_mut().for_each(|column| column.push(record));
    }
}

/// Records of one partition, by their parts.
pub(super) struct Parts {
    values: BinaryArray,
    keys: Option<BinaryArray>,
    metadata: Vec<ArrayRef>,
}

impl Gathered {
    /// What was gathered.
    pub(super) fn finish(self) -> Parts {
        let Gathered { mut values, keys, metadata, .. } = self;
        let values = values.finish();
        let metadata = metadata.into_iter().map(|column| column.finish(values.len())).collect();
        Parts { keys: keys.map(|mut keys| keys.finish()), metadata, values }
    }
}

impl Parts {
    /// The value of record `at`; none of a tombstone.
    pub(super) fn value(&self, at: usize) -> Option<Vec<u8>> {
        (at < self.values.len() && self.values.is_valid(at)).then(|| self.values.value(at).to_vec())
    }
}

/// Records and what reads them.
pub(super) struct Reading<'a> {
    pub reader: &'a mut RowReader,
    pub parts: &'a Parts,
}

impl Readable for Reading<'_> {
    fn records(&self) -> usize {
        self.parts.values.len()
    }

    fn read(&mut self, range: Range<usize>) -> Result<Batch, BadRecord> {
        self.reader.rows(self.parts, range)
    }

    fn read_leniently(&mut self, at: usize) -> Result<Batch, BadRecord> {
        self.reader.row_leniently(self.parts, at)
    }
}

impl RowReader {
    /// The columns that it gives.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Room for `rows` records of one partition, about `bytes` in size.
    pub(super) fn gather(&self, topic: &str, partition: i32, rows: usize, bytes: usize) -> Gathered {
        let rows = rows.min(BATCH_ROWS);
        Gathered {
            values: BinaryBuilder::with_capacity(rows, bytes),
            keys: self.key.is_some().then(|| BinaryBuilder::with_capacity(rows, 0)),
            whole_key: self.whole_key,
            metadata: self.kinds.iter().map(|kind| metadata::Column::new(kind, topic, partition)).collect(),
        }
    }

    /// Finds out what has to be known to read `parts`; may wait.
    pub(super) fn prepare(&mut self, parts: &Parts) -> Result<()> {
        if let (Some(decoder), Some(keys)) = (&mut self.key, &parts.keys) {
            decoder.prepare(keys).map_err(|error| error.within("the key"))?;
        }
        self.value.prepare(&parts.values)
    }

    /// One row for each record of `range`, in order; or the first that cannot be read.
    fn rows(&mut self, parts: &Parts, range: Range<usize>) -> Result<Batch, BadRecord> {
        let decoded = self.value.decode(&parts.values.slice(range.start, range.len()))?;
        self.beside(decoded, parts, range)
    }

    /// The row of record `at`, with NULL for what cannot be read of its value.
    fn row_leniently(&mut self, parts: &Parts, at: usize) -> Result<Batch, BadRecord> {
        let value = parts.values.is_valid(at).then(|| parts.values.value(at));
        let decoded = match value.and_then(|value| self.value.decode_leniently(value)) {
            Some(decoded) => decoded,
            None => self.value.decode(&BinaryArray::from_iter([None::<&[u8]>]))?,
        };
        self.beside(decoded, parts, at..at + 1)
    }

    /// The rows of `range`, whose values are decoded, with what comes from the keys and from beside the record.
    fn beside(&mut self, decoded: Batch, parts: &Parts, range: Range<usize>) -> Result<Batch, BadRecord> {
        if self.gives == Gives::Changes {
            return Ok(decoded);
        }
        let upserts = self.gives == Gives::Upserts;
        let values = parts.values.slice(range.start, range.len());
        let tombstones = values.null_count();
        let keys = match (&mut self.key, &parts.keys) {
            (Some(decoder), Some(keys)) if self.whole_key || tombstones > 0 => {
                let in_key = |bad: BadRecord| BadRecord { reason: format!("the key: {}", bad.reason), ..bad };
                Some(decoder.decode(&keys.slice(range.start, range.len())).map_err(in_key)?)
            }
            _ => None,
        };
        let metadata: Vec<ArrayRef> =
            parts.metadata.iter().map(|column| column.slice(range.start, range.len())).collect();
        let is_tombstone =
            values.nulls().filter(|_| tombstones > 0).map(|nulls| BooleanArray::new(!nulls.inner(), None));
        let mut columns = Vec::with_capacity(self.places.len());
        for (at, (place, field)) in self.places.iter().zip(self.schema.fields()).enumerate() {
            let column = match (*place, &keys, &is_tombstone) {
                (Place::Metadata(place), ..) => convert(&metadata[place], field.data_type())?,
                (Place::Key(place), Some(keys), _) => Arc::clone(keys.column(place)),
                (Place::ValueOrKey(value, key), Some(keys), Some(is_tombstone)) => {
                    zip(is_tombstone, keys.column(key), decoded.column(value)).expect("both have the column's type")
                }
                (Place::Value(place) | Place::ValueOrKey(place, _), ..) => Arc::clone(decoded.column(place)),
                (Place::Key(_), None, _) => unreachable!("keys are decoded when a column is nowhere else"),
            };
            let of_key = upserts && self.primary.contains(&at);
            let nulls = column.logical_nulls().filter(|_| of_key || !field.is_nullable());
            // a key that loses its row has no values
            let spared = |row: usize| upserts && !of_key && values.is_null(row);
            if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0)
                && let Some(index) = (0..nulls.len()).find(|row| nulls.is_null(*row) && !spared(*row))
            {
                let why = if of_key { "of the PRIMARY KEY is NULL" } else { "is NOT NULL" };
                return Err(BadRecord { index, reason: format!("column \"{}\" {why}", field.name()) });
            }
            columns.push(column);
        }
        let mut schema = Arc::clone(&self.schema);
        if upserts {
            let weights = (0..values.len()).map(|row| if values.is_valid(row) { 1 } else { -1 });
            columns.push(Arc::new(Int64Array::from_iter_values(weights)));
            let loose = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
            let weight = Field::new(WEIGHT, DataType::Int64, false);
            schema = Arc::new(Schema::new(loose.chain([weight]).collect::<Vec<_>>()));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(range.len()));
        Ok(Batch::try_new_with_options(schema, columns, &options).expect("the columns were made for this schema"))
    }
}

/// Rows to records.
pub(super) struct RowWriter {
    key: Option<(Vec<usize>, Box<dyn Encode>)>,
    value: (Vec<usize>, Box<dyn Encode>),
    raw_key: Option<usize>,
    timestamp: Option<usize>,
    headers: Option<usize>,
    table: SchemaRef,
    primary: Vec<usize>,
    /// The value is a change of a row.
    changes: bool,
}

/// The parts of some records.
pub(super) struct Records {
    pub(super) values: BinaryArray,
    pub(super) keys: Option<BinaryArray>,
    /// Microseconds.
    timestamps: Option<TimestampMicrosecondArray>,
    pub(super) headers: Option<MapArray>,
}

impl RowWriter {
    /// One record for each row, in order; or where the value is a change one for each change of the rows. Rows may have their weight
    /// behind the table's columns: those of weight -1 are gone.
    pub(super) fn records(&mut self, rows: &Batch) -> Result<Records> {
        let shown;
        let (rows, values) = match self.changes {
            true => {
                let width = self.table.fields().len();
                let columns: Vec<usize> = self.value.0.iter().copied().chain(width..rows.num_columns()).collect();
                let key: Vec<usize> =
                    self.primary.iter().filter_map(|key| self.value.0.iter().position(|c| c == key)).collect();
                let fields = self.value.0.iter().map(|column| Arc::clone(&self.table.fields()[*column])).collect();
                let (changes, of) = closed(&rows.project(&columns).map_err(from_arrow)?, &fields, &key)?;
                shown = take_record_batch(rows, &of).map_err(from_arrow)?;
                (&shown, self.value.1.encode(&changes)?)
            }
            false => {
                let values = self.value.1.encode(&rows.project(&self.value.0).map_err(from_arrow)?)?;
                (rows, self.without_gone(values, rows)?)
            }
        };
        let part = |columns: &[usize]| rows.project(columns).map_err(from_arrow);
        let as_metadata = |column: usize, name: &str| {
            let spec = metadata::METADATA.iter().find(|spec| spec.name == name).expect("it is on the list");
            convert(rows.column(column), &(spec.data_type)())
                .map_err(|bad| Error::data(bad.reason).within(format!("metadata '{name}'")))
        };
        let keys = match (&mut self.key, self.raw_key) {
            (Some((columns, encoder)), _) => Some(encoder.encode(&part(columns)?)?),
            (None, Some(column)) => Some(as_metadata(column, "key")?.as_binary::<i32>().clone()),
            (None, None) => None,
        };
        if !self.primary.is_empty() && keys.as_ref().is_some_and(|keys| keys.null_count() > 0) {
            return Err(Error::data("a row's PRIMARY KEY is NULL").help("filter such rows out: WHERE … IS NOT NULL"));
        }
        let timestamps = match self.timestamp {
            None => None,
            Some(column) => {
                let times = as_metadata(column, "timestamp")?.as_primitive::<TimestampMicrosecondType>().clone();
                // librdkafka takes 0 for "now"
                if let Some(early) = times.iter().flatten().find(|micros| *micros < 1000) {
                    let error = format!("a record's timestamp is {}", crate::time::format_micros(early));
                    return Err(Error::data(error).help("write one after 1970, or NULL for the moment of writing"));
                }
                Some(times)
            }
        };
        let headers = match self.headers {
            None => None,
            Some(column) => Some(as_metadata(column, "headers")?.as_map().clone()),
        };
        Ok(Records { values, keys, timestamps, headers })
    }

    /// `values` without those of rows that are gone.
    fn without_gone(&self, values: BinaryArray, rows: &Batch) -> Result<BinaryArray> {
        let Some(weights) = rows.columns().get(self.table.fields().len()) else { return Ok(values) };
        let weights = weights.as_primitive::<Int64Type>();
        if weights.values().iter().all(|weight| *weight > 0) {
            return Ok(values);
        }
        let gone: BooleanArray = weights.values().iter().map(|weight| Some(*weight < 0)).collect();
        Ok(nullif(&values, &gone).map_err(from_arrow)?.as_binary::<i32>().clone())
    }
}

impl Records {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.values.len()
    }
}

impl Records {
    pub(super) fn value(&self, row: usize) -> Option<&[u8]> {
        self.values.is_valid(row).then(|| self.values.value(row))
    }

    pub(super) fn key(&self, row: usize) -> Option<&[u8]> {
        self.keys.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row))
    }

    /// Milliseconds since 1970.
    pub(super) fn timestamp(&self, row: usize) -> Option<i64> {
        self.timestamps.as_ref().filter(|times| times.is_valid(row)).map(|times| times.value(row).div_euclid(1000))
    }

    /// The headers of `row`, in order.
    pub(super) fn headers(&self, row: usize) -> Option<OwnedHeaders> {
        headers_at(self.headers.as_ref()?, row)
    }
}

/// The headers in `row` of a column of them, in order.
pub(super) fn headers_at(headers: &MapArray, row: usize) -> Option<OwnedHeaders> {
    if headers.is_null(row) {
        return None;
    }
    let (names, values) = (headers.keys().as_string::<i32>(), headers.values().as_binary::<i32>());
    let offsets = headers.value_offsets();
    let range = offsets[row] as usize..offsets[row + 1] as usize;
    let room = OwnedHeaders::new_with_capacity(range.len());
    Some(range.fold(room, |all, at| {
        let value = values.is_valid(at).then(|| values.value(at));
        all.insert(Header { key: names.value(at), value })
    }))
}
