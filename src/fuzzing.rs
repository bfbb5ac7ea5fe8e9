//! The doors by which fuzzers reach every decoder of stored or received bytes.
//!
//! A [`Target`] takes any bytes and may do with them what it likes but panic, hang, or take memory without bound: all that is wrong
//! with bytes is an error. tests/fuzz.rs feeds each for some seconds; fuzz/ has the same targets for libFuzzer. Not for
//! users: it has no promises, and its items change as those behind the doors do.
//!
//! An input of several parts has before each its length, `u32` LE; a length that is too long means all that is left, so
//! mutated inputs still have parts.

mod formats;
mod messages;
mod operators;
mod received;
mod stored;
mod texts;

/// A decoder, or several that belong together.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called: letters, digits and `_`.
    pub name: &'static str,
    /// Inputs to begin with; most are valid, and where there are encoders they have made them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes the checksums of a changed input right again, so that what is behind them is reached.
    pub reseal: fn(&mut Vec<u8>),
    /// Decodes; true if it could.
    pub run: fn(&[u8]) -> bool,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    stored::LOG,
    stored::MANIFEST,
    stored::SAVEPOINT,
    stored::OBJECT,
    stored::STAGED,
    stored::MARKER,
    stored::SPLITS,
    stored::LEDGER,
    operators::STATE,
    received::EXCHANGE,
    received::HANDSHAKE,
    received::CONTROL,
    received::BROKER,
    formats::JSON,
    formats::CSV,
    formats::RAW,
    formats::DEBEZIUM,
    formats::AVRO,
    messages::AVRO,
    messages::PROTOBUF,
    formats::PARQUET,
    formats::PACKED,
    texts::SQL,
    texts::GRAPH,
    texts::OPTIONS,
];

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// For inputs without checksums.
fn unsealed(_: &mut Vec<u8>) {}

/// An input of these parts.
fn join<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        let part = part.as_ref();
        joined.extend_from_slice(&u32::try_from(part.len()).expect("inputs are small").to_le_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

/// The parts of an input.
fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (part, behind) = rest.split_at((u32::from_le_bytes(*length) as usize).min(rest.len()));
        parts.push(part);
        bytes = behind;
    }
    parts
}

/// Reseals each part.
fn reseal_parts(bytes: &mut Vec<u8>, reseal: fn(&mut Vec<u8>)) {
    let resealed: Vec<Vec<u8>> = parts(bytes)
        .into_iter()
        .map(|part| {
            let mut part = part.to_vec();
            reseal(&mut part);
            part
        })
        .collect();
    *bytes = join(resealed);
}

/// Columns for any purpose.
mod rows {
    use crate::batch::{Batch, batch_of};
    use arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder,
        StringArray, StringBuilder, StringViewArray, TimestampMicrosecondArray, UInt64Array, new_null_array,
    };
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
    use std::sync::Arc;

    /// Names and types of columns, of which every format knows those without lists and every batch all.
    pub fn schema(lists: bool) -> SchemaRef {
        let mut fields = vec![
            Field::new("word", DataType::Utf8, true),
            Field::new("n", DataType::Int64, false),
            Field::new("small", DataType::Int32, true),
            Field::new("ratio", DataType::Float64, true),
            Field::new("price", DataType::Decimal128(12, 2), true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("yes", DataType::Boolean, true),
            Field::new("bytes", DataType::Binary, true),
            Field::new("day", DataType::Date32, true),
        ];
        if lists {
            fields.push(Field::new(
                "tags",
                DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
                true,
            ));
            fields.push(Field::new("view", DataType::Utf8View, true));
        }
        Arc::new(Schema::new(fields))
    }

    /// So many rows of these columns; the same for the same `salt`.
    pub fn batch(schema: &SchemaRef, rows: usize, salt: i64) -> Batch {
        let columns = schema.fields().iter().map(|field| column(field, rows, salt)).collect();
        batch_of(Arc::clone(schema), columns, rows).expect("columns are made for their fields")
    }

    fn column(field: &Field, rows: usize, salt: i64) -> ArrayRef {
        let value = |row: usize| (row as i64 * 7 + salt * 13) % 10;
        let some = |row: usize| !field.is_nullable() || value(row) != 9;
        let numbers = || (0..rows).map(|row| some(row).then(|| value(row)));
        let words = || (0..rows).map(|row| some(row).then(|| format!("w{} of more than twelve", value(row) % 4)));
        match field.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from_iter(words())),
            DataType::Utf8View => Arc::new(StringViewArray::from_iter(words())),
            DataType::Binary => {
                Arc::new(words().collect::<Vec<_>>().iter().map(Option::as_ref).collect::<BinaryArray>())
            }
            DataType::Int64 => Arc::new(Int64Array::from_iter(numbers())),
            DataType::UInt64 => Arc::new(UInt64Array::from_iter(numbers().map(|n| n.map(i64::unsigned_abs)))),
            DataType::Int32 => Arc::new(Int32Array::from_iter(numbers().map(|n| n.map(|n| n as i32)))),
            DataType::Float64 => Arc::new(Float64Array::from_iter(numbers().map(|n| n.map(|n| n as f64 / 4.0)))),
            DataType::Boolean => Arc::new(BooleanArray::from_iter(numbers().map(|n| n.map(|n| n > 4)))),
            // never NULL, as event times are
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Arc::new(TimestampMicrosecondArray::from_iter_values((0..rows).map(|row| value(row) * 1_000_000)))
            }
            DataType::Decimal128(precision, scale) => Arc::new(
                Decimal128Array::from_iter(numbers().map(|n| n.map(i128::from)))
                    .with_precision_and_scale(*precision, *scale)
                    .expect("a digit has room"),
            ),
            DataType::List(item) if *item.data_type() == DataType::Utf8 => {
                let mut lists = ListBuilder::new(StringBuilder::new()).with_field(Arc::clone(item));
                words().for_each(|word| lists.append_option(word.map(|word| [Some(word), None])));
                Arc::new(lists.finish())
            }
            other => {
                let numbers: ArrayRef = Arc::new(Int32Array::from_iter(numbers().map(|n| n.map(|n| n as i32))));
                cast(&numbers, other).unwrap_or_else(|_| new_null_array(other, rows))
            }
        }
    }
}
