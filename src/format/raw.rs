//! `raw`: one column, which is the whole record.
//!
//! A STRING column must be UTF-8, checked for many records at once; a BYTES column is taken as it is. NULL is no record.

use super::{BadRecord, Decode, Encode};
use crate::batch::Batch;
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use std::sync::Arc;

/// Reads records into one column, or counts them if the column is not asked for.
pub struct RawDecoder {
    schema: SchemaRef,
}

impl RawDecoder {
    /// For a table with one column, which is read if `columns` names it.
    pub fn new(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        check_one_column(schema)?;
        let fields = columns.iter().map(|column| Arc::clone(&schema.fields()[*column]));
        Ok(RawDecoder { schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())) })
    }
}

impl Decode for RawDecoder {
    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in self.schema.fields() {
            if let Some(nulls) = records.nulls().filter(|nulls| nulls.null_count() > 0 && !field.is_nullable()) {
                let index = nulls.iter().position(|valid| !valid).expect("a null is counted");
                return Err(BadRecord {
                    index,
                    reason: format!("no value, but column \"{}\" is NOT NULL", field.name()),
                });
            }
            columns.push(match field.data_type() {
                DataType::Utf8 => Arc::new(strings(records)?),
                _ => Arc::new(records.clone()),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        Ok(Batch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("the columns were made for this schema"))
    }
}

/// The records as text, sharing their bytes.
fn strings(records: &BinaryArray) -> Result<StringArray, BadRecord> {
    if let Ok(strings) =
        StringArray::try_new(records.offsets().clone(), records.values().clone(), records.nulls().cloned())
    {
        return Ok(strings);
    }
    // Either a record is bad, or what lies around the records in their buffer.
    for (index, record) in records.iter().enumerate() {
        if let Some(Err(error)) = record.map(std::str::from_utf8) {
            return Err(BadRecord {
                index,
                reason: format!("not UTF-8 at byte {} of the record", error.valid_up_to()),
            });
        }
    }
    Ok(records.iter().map(|record| record.map(|bytes| std::str::from_utf8(bytes).expect("just checked"))).collect())
}

/// Writes the only column as it is.
pub struct RawEncoder(());

impl RawEncoder {
    /// For rows with one column.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        check_one_column(schema)?;
        Ok(RawEncoder(()))
    }
}

impl Encode for RawEncoder {
    fn encode(&mut self, rows: &Batch) -> Result<BinaryArray> {
        let column = rows.column(0);
        match column.data_type() {
            DataType::Utf8 => Ok(BinaryArray::from(column.as_string::<i32>().clone())),
            DataType::Binary => Ok(column.as_binary::<i32>().clone()),
            other => Err(Error::internal(format!("format 'raw' was given a column of type {other}"))),
        }
    }
}

fn check_one_column(schema: &Schema) -> Result<()> {
    let help = "declare one column of type STRING or BYTES, or use format 'json' or 'csv'";
    match schema.fields().as_ref() {
        [field] if matches!(field.data_type(), DataType::Utf8 | DataType::Binary) => Ok(()),
        [field] => {
            let wrong = format!("format 'raw' cannot carry column \"{}\" of type {}", field.name(), field.data_type());
            Err(Error::invalid(wrong).help(help))
        }
        fields => {
            Err(Error::invalid(format!("format 'raw' has one column, the table has {}", fields.len())).help(help))
        }
    }
}
