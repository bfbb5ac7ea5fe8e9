//! What a file has, as the columns that a table declares.
//!
//! A file of Parquet or Avro brings its own columns. Those of the table are found in it by name, as they are written or
//! else without regard to case, and their values are cast where none can be lost: to a wider number, another unit of time,
//! another way to keep text. Integers may also become narrower; a value that does not fit is an error of its row, never NULL.

use super::BadRecord;
use crate::batch::{Batch, batch_of};
use crate::error::{Error, Result, nearest};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::array_value_to_string;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a column of the table is that a file does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// An error.
    Refused,
    /// NULL in each row.
    Null,
}

/// How the rows of one file become those of a table.
#[derive(Debug)]
pub struct Fit {
    schema: SchemaRef,
    /// The columns that are read, by index in the file, in its order.
    reads: Vec<usize>,
    /// For each column of the table, which of those that are read it is.
    places: Vec<Option<usize>>,
}

impl Fit {
    /// Finds the columns of `table` in those of `file`.
    pub fn new(file: &Fields, table: &SchemaRef, missing: Missing) -> Result<Fit> {
        let mut found = Vec::new();
        for column in table.fields() {
            let Some(index) = find(file, column.name()) else {
                found.push(None);
                let wrong = match missing {
                    Missing::Null if column.is_nullable() => continue,
                    Missing::Null => format!("it has no column \"{}\", which is NOT NULL", column.name()),
                    Missing::Refused => format!("it has no column \"{}\"", column.name()),
                };
                let names = || file.iter().map(|field| field.name().as_str());
                return Err(Error::data(wrong).help(match nearest(column.name(), names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("its columns are {}", names().collect::<Vec<_>>().join(", ")),
                }));
            };
            let (from, to) = (file[index].data_type(), column.data_type());
            if !fits(from, to) {
                let wrong = format!("column \"{}\" is {from} in the file and {to} in the table", column.name());
                return Err(
                    Error::data(wrong).help("declare the column as it is in the file, and CAST it in the query")
                );
            }
            found.push(Some(index));
        }
        let reads: Vec<usize> = found.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let place = |index: &Option<usize>| index.and_then(|index| reads.binary_search(&index).ok());
        Ok(Fit { schema: Arc::clone(table), places: found.iter().map(place).collect(), reads })
    }

    /// The file's columns that have to be read, by index and in order.
    pub fn reads(&self) -> &[usize] {
        &self.reads
    }

    /// Makes rows of the table from `rows` rows of the columns that were to be read.
    pub fn apply(&self, columns: &[ArrayRef], rows: usize) -> Result<Batch, BadRecord> {
        let mut fitted = Vec::with_capacity(self.places.len());
        for (place, field) in self.places.iter().zip(self.schema.fields()) {
            let column = match place {
                None => new_null_array(field.data_type(), rows),
                Some(place) => cast(&columns[*place], field.data_type())
                    .map_err(|reason| bad_row(&columns[*place], field, reason))?,
            };
            if !field.is_nullable() && column.null_count() > 0 {
                let index = (0..rows).find(|row| column.is_null(*row)).unwrap_or_default();
                return Err(BadRecord {
                    index,
                    reason: format!("column \"{}\": NULL, but it is NOT NULL", field.name()),
                });
            }
            fitted.push(column);
        }
        let wrong = |error: Error| BadRecord { index: 0, reason: error.to_string() };
        batch_of(Arc::clone(&self.schema), fitted, rows).map_err(wrong)
    }
}

/// The first row of `column` that cannot be cast, and why.
fn bad_row(column: &ArrayRef, field: &Field, reason: String) -> BadRecord {
    let alone = |row: u32| take(column, &UInt32Array::from(vec![row]), None).ok();
    let wrong = |row: u32| cast(&alone(row)?, field.data_type()).err().map(|reason| (row as usize, reason));
    let (index, reason) = (0..column.len() as u32).find_map(wrong).unwrap_or((0, reason));
    BadRecord { index, reason: format!("column \"{}\": {reason}", field.name()) }
}

fn find(fields: &Fields, name: &str) -> Option<usize> {
    let exact = fields.iter().position(|field| field.name() == name);
    let folded = || {
        let mut like =
            fields.iter().enumerate().filter(|(_, field)| field.name().to_lowercase() == name.to_lowercase());
        like.next().filter(|_| like.next().is_none()).map(|(index, _)| index)
    };
    exact.or_else(folded)
}

/// True if each value of `from` is one of `to`, or says by itself that it is not.
fn fits(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let text = |kind: &DataType| matches!(kind, T::Utf8 | T::LargeUtf8 | T::Utf8View);
    let bytes = |kind: &DataType| {
        matches!(kind, T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_)) || text(kind)
    };
    match (from, to) {
        _ if from == to => true,
        (T::Null, _) => true,
        (T::Dictionary(_, value), to) => fits(value, to),
        (from, T::Decimal128(..)) if from.is_integer() => true,
        (from, to) if from.is_integer() && to.is_integer() => true,
        (T::Int8 | T::Int16 | T::UInt8 | T::UInt16 | T::Float16, T::Float32) => true,
        (T::Int64 | T::UInt64, T::Float64) => false,
        (from, T::Float64) => from.is_integer() || matches!(from, T::Float16 | T::Float32),
        (
            T::Decimal32(_, from) | T::Decimal64(_, from) | T::Decimal128(_, from) | T::Decimal256(_, from),
            T::Decimal128(_, to),
        ) => from <= to,
        (from, T::Utf8 | T::Binary) => bytes(from),
        (T::Date64, T::Date32) => true,
        (T::Date32 | T::Date64, T::Timestamp(TimeUnit::Microsecond, None)) => true,
        (T::Timestamp(..), T::Timestamp(TimeUnit::Microsecond, _)) => true,
        (T::Time32(_) | T::Time64(_), T::Time64(TimeUnit::Microsecond)) => true,
        (T::List(from) | T::LargeList(from) | T::FixedSizeList(from, _), T::List(to)) => {
            fits(from.data_type(), to.data_type())
        }
        (T::Struct(from), T::Struct(to)) => to.iter().all(|field| {
            find(from, field.name()).is_some_and(|index| fits(from[index].data_type(), field.data_type()))
        }),
        (T::Map(from, _), T::Map(to, _)) => match (from.data_type(), to.data_type()) {
            (T::Struct(from), T::Struct(to)) if from.len() == 2 && to.len() == 2 => {
                fits(from[0].data_type(), to[0].data_type()) && fits(from[1].data_type(), to[1].data_type())
            }
            _ => false,
        },
        _ => false,
    }
}

/// Casts between types of which [`fits`] holds; an error has a value that is none of `to`.
fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    use DataType as T;
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    match (column.data_type(), to) {
        (T::Timestamp(..), T::Timestamp(_, zone)) => {
            // The moment stays, whatever zone it is labelled with.
            let micros = plain_cast(&without_zone(column), &T::Timestamp(TimeUnit::Microsecond, None))?;
            let micros = micros.as_primitive::<TimestampMicrosecondType>().clone();
            Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
        }
        (T::LargeList(item) | T::FixedSizeList(item, _), T::List(_)) => {
            cast(&plain_cast(column, &T::List(Arc::clone(item)))?, to)
        }
        (T::List(_), T::List(item)) => {
            let list = column.as_list::<i32>();
            let values = cast(list.values(), item.data_type())?;
            let list = ListArray::try_new(Arc::clone(item), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(list.map_err(|error| error.to_string())?))
        }
        (T::Struct(from), T::Struct(fields)) => {
            let parts = column.as_struct();
            let parts = parts_of(parts, from, fields)?;
            let made = StructArray::try_new_with_length(fields.clone(), parts, column.nulls().cloned(), column.len());
            Ok(Arc::new(made.map_err(|error| error.to_string())?))
        }
        (T::Map(..), T::Map(entries, ordered)) => {
            let map = column.as_map();
            let T::Struct(fields) = entries.data_type() else { return Err("it is no map".into()) };
            let (keys, values) = (cast(map.keys(), fields[0].data_type())?, cast(map.values(), fields[1].data_type())?);
            let pairs =
                StructArray::try_new(fields.clone(), vec![keys, values], None).map_err(|error| error.to_string())?;
            let made = MapArray::try_new(
                FieldRef::clone(entries),
                map.offsets().clone(),
                pairs,
                map.nulls().cloned(),
                *ordered,
            );
            Ok(Arc::new(made.map_err(|error| error.to_string())?))
        }
        _ => plain_cast(column, to),
    }
}

fn parts_of(parts: &StructArray, from: &Fields, to: &Fields) -> Result<Vec<ArrayRef>, String> {
    let part = |field: &FieldRef| {
        let index = find(from, field.name()).ok_or_else(|| format!("it has no field \"{}\"", field.name()))?;
        cast(parts.column(index), field.data_type()).map_err(|reason| format!("field \"{}\": {reason}", field.name()))
    };
    to.iter().map(part).collect()
}

fn plain_cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let made = cast_with_options(column, to, &CastOptions { safe: true, ..CastOptions::default() })
        .map_err(|error| error.to_string())?;
    let lost = |row: &usize| made.is_null(*row) && !column.is_null(*row);
    let logical = column.logical_null_count();
    match (made.null_count() > logical).then(|| (0..made.len()).find(lost)).flatten() {
        None => Ok(made),
        Some(row) => {
            let value = array_value_to_string(column, row).unwrap_or_else(|_| "a value".into());
            Err(format!("{value} does not fit {to}"))
        }
    }
}

fn without_zone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            Arc::new(column.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(None::<String>))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Arc::new(column.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(None::<String>))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<String>))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Arc::new(column.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(None::<String>))
        }
        _ => Arc::clone(column),
    }
}

/// Gives `rows` the names of `schema`, column by column; the types must be the same.
pub(super) fn renamed(rows: &Batch, schema: &SchemaRef) -> Result<Batch> {
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| {
        cast_with_options(column, field.data_type(), &CastOptions { safe: false, ..CastOptions::default() })
            .map_err(crate::batch::from_arrow)
    });
    batch_of(Arc::clone(schema), columns.collect::<Result<_>>()?, rows.num_rows())
}

/// The first column of `schema`, or part of one, whose type `refused` names as one that a format has not.
pub(super) fn refuse_types(
    format: &str,
    schema: &Schema,
    refused: fn(&DataType) -> Option<&'static str>,
) -> Result<()> {
    fn search(data_type: &DataType, refused: fn(&DataType) -> Option<&'static str>) -> Option<&'static str> {
        let inside = |fields: &Fields| fields.iter().find_map(|field| search(field.data_type(), refused));
        refused(data_type).or_else(|| match data_type {
            DataType::List(item) | DataType::Map(item, _) => search(item.data_type(), refused),
            DataType::Struct(fields) => inside(fields),
            _ => None,
        })
    }
    for field in schema.fields() {
        if let Some(help) = search(field.data_type(), refused) {
            let wrong =
                format!("format '{format}' cannot write column \"{}\" of type {}", field.name(), field.data_type());
            return Err(Error::invalid(wrong).help(help));
        }
    }
    Ok(())
}
