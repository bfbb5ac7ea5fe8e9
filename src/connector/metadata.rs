//! What comes with a record besides its columns: a topic, an offset, a timestamp.
//!
//! A connector lists what it has, each with a type of its own. A table takes of it what it declares as METADATA columns, which
//! are columns of its schema like others, only that the connector fills them, or writes them, itself. Nothing is made of what
//! no query reads.

use super::Table;
use crate::error::{Error, Result, nearest};
use crate::format::BadRecord;
use arrow::array::ArrayRef;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Schema};
use std::sync::Arc;

/// One thing that a connector knows of each record.
#[derive(Debug, Clone, Copy)]
pub struct MetadataSpec {
    /// Its name, as `METADATA FROM '…'` has it.
    pub name: &'static str,
    /// Its type; a column may declare another one, to which its values are cast.
    pub data_type: fn() -> DataType,
    /// True if it can be written, too.
    pub writable: bool,
    /// What it is: a part of a sentence, in Markdown.
    pub about: &'static str,
}

/// A column that is metadata.
#[derive(Debug, Clone, Copy)]
pub struct MetadataColumn {
    /// Which.
    pub spec: &'static MetadataSpec,
    /// True if it is only read.
    pub is_virtual: bool,
}

/// The one of `specs`, those of `connector`, that is called `name`.
///
/// # Errors
/// If there is none, with the nearest.
pub fn find(specs: &'static [MetadataSpec], connector: &str, name: &str) -> Result<&'static MetadataSpec> {
    let same = |known: &str| known.chars().map(|c| if c == '-' { '_' } else { c }).eq(name.replace('-', "_").chars());
    if let Some(spec) = specs.iter().find(|spec| same(spec.name)) {
        return Ok(spec);
    }
    if specs.is_empty() {
        return Err(Error::invalid(format!("connector '{connector}' has no metadata")));
    }
    let names = || specs.iter().map(|spec| spec.name);
    let error = Error::invalid(format!("connector '{connector}' has no metadata '{name}'"));
    Err(match nearest(name, names()) {
        Some(near) => error.help(format!("did you mean METADATA FROM '{near}'?")),
        None => error.help(format!("it has {}", names().collect::<Vec<_>>().join(", "))),
    })
}

impl Table {
    /// The table as it is written: without its VIRTUAL columns.
    ///
    /// # Errors
    /// If another column is metadata that cannot be written.
    pub fn written(&self) -> Result<Table> {
        if self.metadata.is_empty() {
            return Ok(self.clone());
        }
        let mut kept = Vec::new();
        for (index, field) in self.schema.fields().iter().enumerate() {
            match self.metadata.get(&index) {
                Some(column) if column.is_virtual => {}
                Some(MetadataColumn { spec, .. }) if !spec.writable => {
                    let name = field.name();
                    let error = Error::invalid(format!("column '{name}' is metadata that cannot be written"));
                    return Err(error.help(format!("declare it as METADATA FROM '{}' VIRTUAL", spec.name)));
                }
                _ => kept.push(index),
            }
        }
        let place = |index: &usize| kept.iter().position(|kept| kept == index);
        let fields: Vec<_> = kept.iter().map(|index| Arc::clone(&self.schema.fields()[*index])).collect();
        Ok(Table {
            name: self.name.clone(),
            schema: Arc::new(Schema::new(fields)),
            metadata: self.metadata.iter().filter_map(|(index, column)| Some((place(index)?, *column))).collect(),
            primary_key: self.primary_key.iter().filter_map(place).collect(),
            key_trusted: self.key_trusted,
            options: self.options.clone(),
        })
    }
}

/// `values` as `to`, or the first of them that does not fit.
pub(super) fn convert(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, BadRecord> {
    if values.data_type() == to {
        return Ok(Arc::clone(values));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(values, to, &options).map_err(|_| {
        let one = |index: &usize| cast_with_options(&values.slice(*index, 1), to, &options).err();
        let bad = (0..values.len()).find_map(|index| Some((index, one(&index)?)));
        let (index, reason) = bad.map_or((0, "it does not fit its column".into()), |(i, e)| (i, e.to_string()));
        BadRecord { index, reason }
    })
}
