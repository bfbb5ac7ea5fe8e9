//! Columns that are in no file: kept in the names of directories, `day=2026-01-01/country=DE/part-0-0.parquet`, or metadata.
//!
//! The names are Hive's, which others read: what could be mistaken in a path is `%` and two digits, NULL is
//! `__HIVE_DEFAULT_PARTITION__`. The columns are in the order of the directories. All of these have one value for all rows of a split.

use super::place_of;
use crate::batch::{Batch, batch_of, take_rows};
use crate::connector::bad::{Origin, Refused};
use crate::connector::metadata::convert;
use crate::connector::{MetadataColumn, MetadataSpec, Polled, Split};
use crate::error::{Error, Result, nearest};
use arrow::array::{Array, ArrayRef, AsArray, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{CastOptions, cast, cast_with_options, take};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// What a table over files may have, see `docs/connectors.md`.
pub const METADATA: &[MetadataSpec] = &[
    MetadataSpec {
        name: "path",
        data_type: || DataType::Utf8,
        writable: false,
        about: "the file's path as it was found; `-` for standard input",
    },
    MetadataSpec {
        name: "modified",
        data_type: modified_type,
        writable: false,
        about: "when the file was last changed, as it was when reading it began; NULL for what is no file",
    },
];

fn modified_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// The columns of a table that are in no file, by index; perhaps none.
#[derive(Debug, Clone, Default)]
pub(super) struct Partition {
    /// Those in directories, in the directories' order.
    directories: Vec<usize>,
    /// Those that are metadata, and which.
    metadata: BTreeMap<usize, &'static str>,
}

impl Partition {
    /// Finds the columns that `text` names, with `;` between them.
    pub fn parse(text: &str, schema: &Schema) -> Result<Partition> {
        let mut columns = Vec::new();
        for name in text.split(';').map(str::trim) {
            let Ok(index) = schema.index_of(name) else {
                let error = Error::invalid(format!("there is no column '{name}'"));
                let near = nearest(name, schema.fields().iter().map(|field| field.name().as_str()));
                return Err(near.map_or(error.clone(), |near| error.help(format!("did you mean '{near}'?"))));
            };
            let kind = schema.field(index).data_type();
            let plain = matches!(kind, DataType::Utf8 | DataType::Boolean | DataType::Date32 | DataType::Timestamp(..));
            if !plain && !kind.is_integer() {
                return Err(Error::invalid(format!("column '{name}' of type {kind} cannot name directories"))
                    .help("text, integers, booleans, dates and timestamps can"));
            }
            if columns.contains(&index) {
                return Err(Error::invalid(format!("column '{name}' is there twice")));
            }
            columns.push(index);
        }
        if columns.len() == schema.fields().len() {
            return Err(Error::invalid("no column would be left for the files"));
        }
        Ok(Partition { directories: columns, metadata: BTreeMap::new() })
    }

    /// Adds columns that are metadata.
    pub fn with_metadata(mut self, columns: &BTreeMap<usize, MetadataColumn>) -> Self {
        self.metadata = columns.iter().map(|(index, column)| (*index, column.spec.name)).collect();
        self
    }

    /// True if every column is in the files.
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.metadata.is_empty()
    }

    /// How many directories lie in each other.
    pub fn depth(&self) -> usize {
        self.directories.len()
    }

    /// True if column `index` of the table is in no file.
    pub fn has(&self, index: usize) -> bool {
        self.directories.contains(&index) || self.metadata.contains_key(&index)
    }

    /// The columns of `schema` that are in the files.
    pub fn rest(&self, schema: &SchemaRef) -> SchemaRef {
        let fields = schema.fields().iter().enumerate().filter(|(index, _)| !self.has(*index));
        Arc::new(Schema::new(fields.map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>()))
    }

    /// The rows of each directory, by index; none without partitions. `table` has the names of the columns.
    pub fn directories(&self, rows: &Batch, table: &Schema) -> Result<BTreeMap<String, Vec<u32>>> {
        if self.directories.is_empty() {
            return Ok(BTreeMap::new());
        }
        let texts = |index: &usize| Ok((table.field(*index).name(), cast(rows.column(*index), &DataType::Utf8)?));
        let texts: Vec<(&String, ArrayRef)> =
            self.directories.iter().map(texts).collect::<Result<_, _>>().map_err(crate::batch::from_arrow)?;
        let mut dealt: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut directory = String::new();
        for row in 0..rows.num_rows() {
            directory.clear();
            for (name, column) in &texts {
                let column = column.as_string::<i32>();
                escape(name, &mut directory);
                directory.push('=');
                match column.is_null(row) {
                    true => directory.push_str(NULL),
                    false => escape(column.value(row), &mut directory),
                }
                directory.push('/');
            }
            match dealt.get_mut(&directory) {
                Some(indices) => indices.push(row as u32),
                None => drop(dealt.insert(directory.clone(), vec![row as u32])),
            }
        }
        Ok(dealt)
    }

    /// The rows of each directory, without the columns that its name has.
    pub fn deal(&self, rows: &Batch, table: &Schema) -> Result<BTreeMap<String, Batch>> {
        if self.directories.is_empty() {
            return Ok([(String::new(), rows.clone())].into());
        }
        let dealt = self.directories(rows, table)?;
        let kept: Vec<usize> = (0..rows.num_columns()).filter(|index| !self.has(*index)).collect();
        let rows = rows.project(&kept).map_err(crate::batch::from_arrow)?;
        dealt.into_iter().map(|(directory, indices)| Ok((directory, take_rows(&rows, indices)?))).collect()
    }

    /// The value, in an array of one, of column `index` of `table` for a file.
    fn value(&self, index: usize, table: &Schema, path: &str) -> Result<ArrayRef> {
        let field = table.field(index);
        if let Some(name) = self.metadata.get(&index) {
            let value: ArrayRef = match *name {
                "path" => Arc::new(StringArray::from(vec![path])),
                _ => Arc::new(TimestampMicrosecondArray::from(vec![modified(path)]).with_data_type(modified_type())),
            };
            return convert(&value, field.data_type()).map_err(|bad| Error::data(bad.reason));
        }
        let mut name = String::new();
        escape(field.name(), &mut name);
        let (directories, _) = path.rsplit_once('/').unwrap_or(("", path));
        let found = directories.rsplit('/').find_map(|part| part.strip_prefix(&name)?.strip_prefix('='));
        let text = found.ok_or_else(|| {
            Error::data(format!("no directory in its path is called \"{name}=…\", after column \"{}\"", field.name()))
        })?;
        let text: ArrayRef = Arc::new(StringArray::from(vec![(text != NULL).then(|| unescape(text))]));
        cast_with_options(&text, field.data_type(), &CastOptions { safe: false, ..CastOptions::default() }).map_err(
            |_| {
                Error::data(format!(
                    "directory \"{name}={}\" is no {}",
                    text.as_string::<i32>().value(0),
                    field.data_type()
                ))
            },
        )
    }
}

/// When the file was last changed, in microseconds since 1970.
fn modified(path: &str) -> Option<i64> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
    Some(metadata.mtime().checked_mul(1_000_000)? + metadata.mtime_nsec() / 1000)
}

/// The rows of a file with the columns that are not in it.
pub(super) struct PartitionedSplit {
    split: Box<dyn Split>,
    schema: SchemaRef,
    /// For each column of `schema` its only value, or none if it is the next one of the file.
    values: Vec<Option<ArrayRef>>,
}

impl PartitionedSplit {
    /// Adds to what `split` reads of the file at `path` those of `columns` that are not in it.
    pub fn new(
        split: Box<dyn Split>,
        path: &str,
        partition: &Partition,
        table: &Schema,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<PartitionedSplit> {
        let value = |index: &usize| match partition.has(*index) {
            true => partition.value(*index, table, path).map(Some),
            false => Ok(None),
        };
        let values: Result<Vec<_>> = columns.iter().map(value).collect();
        let values = values.map_err(|error| error.within(place_of(path)))?;
        Ok(PartitionedSplit { split, schema: Arc::clone(schema), values })
    }
}

impl Split for PartitionedSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let (rows, bytes) = match self.split.poll(rows_max)? {
            Polled::Rows { rows, bytes } => (rows, bytes),
            other => return Ok(other),
        };
        let mut read = rows.columns().iter();
        let first = UInt32Array::from(vec![0; rows.num_rows()]);
        let column = |value: &Option<ArrayRef>| match value {
            Some(value) => take(value, &first, None).map_err(crate::batch::from_arrow),
            None => Ok(Arc::clone(read.next().expect("the file has the other columns"))),
        };
        let columns = self.values.iter().map(column).collect::<Result<_>>()?;
        Ok(Polled::Rows { rows: batch_of(Arc::clone(&self.schema), columns, rows.num_rows())?, bytes })
    }

    fn position(&self) -> u64 {
        self.split.position()
    }

    fn place(&self, row: usize) -> String {
        self.split.place(row)
    }

    fn origin(&self, row: usize) -> Origin {
        self.split.origin(row)
    }

    fn record(&self, row: usize) -> Option<Vec<u8>> {
        self.split.record(row)
    }

    fn take_refused(&mut self) -> Vec<Refused> {
        self.split.take_refused()
    }

    fn caught_up(&self) -> bool {
        self.split.caught_up()
    }

    fn skips(&self) -> bool {
        self.split.skips()
    }
}

/// Hive's way to write text as a part of a path.
fn escape(text: &str, path: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '[' | ']' | '^' => push_code(c, path),
            c if c.is_ascii_control() => push_code(c, path),
            c => path.push(c),
        }
    }
}

fn push_code(c: char, path: &mut String) {
    write!(path, "%{:02X}", c as u32).expect("text takes text");
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
