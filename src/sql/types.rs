//! SQL's types and Arrow's: strings are `Utf8`, event time is in microseconds.

use super::place::through;
use crate::error::{Error, nearest};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};
use datafusion_common::Result;
use datafusion_expr::planner::TypePlanner;
use sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use std::sync::Arc;

/// The time zone of `TIMESTAMP_LTZ`: moments, printed in UTC.
const UTC: &str = "+00:00";

/// Gives DataFusion our meaning of type names, in casts as in CREATE TABLE.
#[derive(Debug)]
pub(super) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let data_type = arrow_type(sql_type).map_err(through)?;
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}

/// The Arrow type of a column of type `sql`, or why there is none.
pub(super) fn arrow_type(sql: &SqlType) -> Result<DataType, Error> {
    use SqlType as S;
    Ok(match sql {
        S::Boolean | S::Bool => DataType::Boolean,
        S::TinyInt(_) => DataType::Int8,
        S::SmallInt(_) | S::Int2(_) => DataType::Int16,
        S::Int(_) | S::Integer(_) | S::Int4(_) => DataType::Int32,
        S::BigInt(_) | S::Int8(_) | S::Int64 => DataType::Int64,
        S::TinyIntUnsigned(_) => DataType::UInt8,
        S::SmallIntUnsigned(_) | S::Int2Unsigned(_) => DataType::UInt16,
        S::IntUnsigned(_) | S::IntegerUnsigned(_) | S::Int4Unsigned(_) => DataType::UInt32,
        S::BigIntUnsigned(_) | S::Int8Unsigned(_) => DataType::UInt64,
        S::Float(_) | S::Real | S::Float4 => DataType::Float32,
        S::Double(_) | S::DoublePrecision | S::Float8 | S::Float64 => DataType::Float64,
        S::Char(_)
        | S::Character(_)
        | S::CharVarying(_)
        | S::CharacterVarying(_)
        | S::Varchar(_)
        | S::Nvarchar(_)
        | S::Text
        | S::String(_) => DataType::Utf8,
        S::Bytes(_) | S::Bytea | S::Binary(_) | S::Varbinary(_) | S::Blob(_) => DataType::Binary,
        S::Date => DataType::Date32,
        S::Time(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            micros(precision)?;
            DataType::Time64(TimeUnit::Microsecond)
        }
        S::Timestamp(precision, zone) => {
            micros(precision)?;
            let zoned = matches!(zone, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone);
            DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| UTC.into()))
        }
        S::Datetime(precision) | S::TimestampNtz(precision) => {
            micros(precision)?;
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        S::Interval { .. } => DataType::Interval(IntervalUnit::MonthDayNano),
        S::Numeric(number) | S::Decimal(number) | S::Dec(number) => decimal(number)?,
        S::Array(ArrayElemTypeDef::AngleBracket(element) | ArrayElemTypeDef::SquareBracket(element, None)) => {
            DataType::new_list(arrow_type(element)?, true)
        }
        S::Map(key, value) => {
            let entry = Fields::from(vec![
                Field::new("key", arrow_type(key)?, false),
                Field::new("value", arrow_type(value)?, true),
            ]);
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
        }
        S::Struct(fields, _) => {
            let fields = fields.iter().enumerate().map(|(position, field)| {
                let name = field.field_name.as_ref().map_or_else(|| format!("f{position}"), super::normal);
                Ok(Field::new(name, arrow_type(&field.field_type)?, true))
            });
            DataType::Struct(fields.collect::<Result<_, Error>>()?)
        }
        S::Custom(name, modifiers) if is_ltz(&name.to_string()) => {
            let precision = match modifiers.first() {
                Some(text) => Some(text.parse().map_err(|_| Error::invalid(format!("'{text}' is not a precision")))?),
                None => None,
            };
            micros(&precision)?;
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        other => return Err(unknown_type(other)),
    })
}

/// The names of types, for near matches.
const NAMES: [&str; 19] = [
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "STRING",
    "VARCHAR",
    "BYTES",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMP_LTZ",
    "ARRAY",
    "MAP",
    "ROW",
];

fn unknown_type(sql: &SqlType) -> Error {
    let name = sql.to_string();
    let error = Error::invalid(format!("type {name} is not supported"));
    match nearest(&name, NAMES).filter(|near| *near != name) {
        Some(near) => error.help(format!("did you mean {near}?")),
        None => error.help(format!("the types are {}", NAMES.join(", "))),
    }
}

fn is_ltz(name: &str) -> bool {
    name.eq_ignore_ascii_case("TIMESTAMP_LTZ") || name.eq_ignore_ascii_case("TIMESTAMPTZ")
}

/// Time is kept in microseconds: any precision up to that will do.
fn micros(precision: &Option<u64>) -> Result<(), Error> {
    match precision {
        Some(digits) if *digits > 6 => Err(Error::invalid(format!("a precision of {digits} is not supported"))
            .help("time is kept in microseconds, so 6 is the most")),
        _ => Ok(()),
    }
}

fn decimal(number: &ExactNumberInfo) -> Result<DataType, Error> {
    let (precision, scale) = match *number {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && s.unsigned_abs() <= p => Ok(DataType::Decimal128(p, s)),
        _ => Err(Error::invalid(format!("DECIMAL({precision}, {scale}) is not supported"))
            .help("the precision is 1 to 38, the scale 0 to the precision")),
    }
}
