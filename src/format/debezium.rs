//! `debezium-json`: a change a record, as Debezium writes them.
//!
//! ```json
//! {"before": {"id": 7, "name": "a"}, "after": {"id": 7, "name": "b"}, "op": "u"}
//! ```
//! Reading: `op` is `c` (inserted), `r` (read in a snapshot), `u` (replaced) or `d` (deleted); a truncated table, `t`, is a bad record,
//! for what was in it is not said. What Debezium adds beside them is passed over; so is the envelope `{"schema": …, "payload": …}` of
//! Kafka Connect, whether a record has it or not. Rows are read as [`json`] reads them. A record without a value says nothing.
//! A row that is taken back has to be the row that was added, so `before` has to be whole.
//!
//! Writing: `op` is `c`, `d`, and `u` for a row that replaces the one of its PRIMARY KEY.

use super::json::{self, JsonDecoder, JsonEncoder};
use super::{BadRecord, Decode, Encode, change};
use crate::batch::Batch;
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray, StructArray};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use std::sync::Arc;

/// How changes are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How rows are.
    pub json: json::Settings,
    /// The columns of the PRIMARY KEY: a row that is taken back directly before one of the same key is replaced by it.
    pub key: Vec<usize>,
}

/// Reads records into [changes](change).
pub struct DebeziumDecoder {
    inner: JsonDecoder,
    fields: Fields,
    schema: SchemaRef,
}

impl DebeziumDecoder {
    /// For the columns `columns` of `schema`.
    pub fn new(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        let row = schema.project(columns).map_err(|error| Error::internal(super::reason(&error)))?;
        let parts = parts(row.fields());
        let payload = Field::new("payload", DataType::Struct(parts.clone()), true);
        let envelope = Arc::new(Schema::new(parts.iter().cloned().chain([Arc::new(payload)]).collect::<Fields>()));
        let all: Vec<usize> = (0..envelope.fields().len()).collect();
        let inner = JsonDecoder::new(&envelope, &all)?;
        Ok(DebeziumDecoder { inner, fields: row.fields().clone(), schema: change::schema(&row) })
    }
}

/// What a change has that is read.
fn parts(row: &Fields) -> Fields {
    let side = |name| Field::new(name, DataType::Struct(row.clone()), true);
    Fields::from(vec![side("before"), side("after"), Field::new("op", DataType::Utf8, true)])
}

impl Decode for DebeziumDecoder {
    fn decode(&mut self, records: &BinaryArray) -> Result<Batch, BadRecord> {
        let envelopes = self.inner.decode(records)?;
        let payload: &StructArray = envelopes.column(3).as_struct();
        let column = |n: usize| -> ArrayRef {
            let outer = envelopes.column(n);
            match payload.null_count() == payload.len() {
                true => Arc::clone(outer),
                false => {
                    let picks: Vec<(usize, usize)> =
                        (0..payload.len()).map(|row| (usize::from(payload.is_valid(row)), row)).collect();
                    let sides: [&dyn Array; 2] = [outer.as_ref(), payload.column(n).as_ref()];
                    interleave(&sides, &picks).expect("both have the same type, and as many rows as there are records")
                }
            }
        };
        let (before, after, op) = (column(0), column(1), column(2));
        let op: &StringArray = op.as_string();
        let mut kept = [Vec::with_capacity(op.len()), Vec::with_capacity(op.len())];
        for index in 0..op.len() {
            let sides = (before.is_valid(index), after.is_valid(index));
            let name = op.is_valid(index).then(|| op.value(index));
            let change = match records.is_null(index) {
                true => Ok((false, false)),
                false => what(name, sides),
            };
            let (before, after) = change.map_err(|reason| BadRecord { index, reason })?;
            kept[0].push(before);
            kept[1].push(after);
        }
        let side = |side: &ArrayRef, kept: Vec<bool>| -> ArrayRef {
            let rows: &StructArray = side.as_struct();
            let columns = rows.columns().to_vec();
            let rows = StructArray::try_new_with_length(self.fields.clone(), columns, Some(kept.into()), op.len());
            Arc::new(rows.expect("a side that is kept is there, and its rows were checked when they were read"))
        };
        let [keeps_before, keeps_after] = kept;
        let columns = vec![side(&before, keeps_before), side(&after, keeps_after)];
        Ok(Batch::try_new(Arc::clone(&self.schema), columns).expect("the columns were made for this schema"))
    }
}

/// Whether a change with this `op` takes its row `before` back and adds its row `after`, of which those `given` are there.
fn what(op: Option<&str>, given: (bool, bool)) -> Result<(bool, bool), String> {
    let lacks = |side: &str| Err(format!("a change with op \"{}\" has no \"{side}\"", op.unwrap_or_default()));
    match (op, given) {
        (Some("c" | "r"), (_, true)) => Ok((false, true)),
        (Some("u"), (true, true)) => Ok((true, true)),
        (Some("d"), (true, _)) => Ok((true, false)),
        (Some("c" | "r" | "u"), (_, false)) => lacks("after"),
        (Some("u" | "d"), (false, _)) => {
            lacks("before").map_err(|text| format!("{text}: let the database write whole rows (REPLICA IDENTITY FULL)"))
        }
        (Some("t"), _) => Err("the table was truncated (op \"t\"), which does not say which rows were in it".into()),
        (Some(other), _) => Err(format!("unknown op \"{}\"", other.chars().take(20).collect::<String>())),
        (None, _) => Err("it has no \"op\": not a change as Debezium writes it".into()),
    }
}

/// A side of changes whose columns may be NULL.
fn loose(side: &ArrayRef) -> Result<ArrayRef> {
    let rows = side.as_struct_opt().ok_or_else(|| Error::internal("a change has rows"))?;
    let fields = rows.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let (columns, nulls) = (rows.columns().to_vec(), rows.nulls().cloned());
    let loose = StructArray::try_new_with_length(fields, columns, nulls, rows.len());
    Ok(Arc::new(loose.map_err(crate::batch::from_arrow)?))
}

/// Writes [changes](change) as records.
pub struct DebeziumEncoder {
    inner: JsonEncoder,
}

impl DebeziumEncoder {
    /// For changes of rows with these columns.
    pub fn new(row: &SchemaRef, settings: &Settings) -> Result<Self> {
        let nullable = row.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let inner = JsonEncoder::new(&Arc::new(Schema::new(parts(&nullable.collect()))), &settings.json)?;
        Ok(DebeziumEncoder { inner })
    }
}

impl Encode for DebeziumEncoder {
    fn encode(&mut self, changes: &Batch) -> Result<BinaryArray> {
        let [before, after] = changes.columns() else {
            return Err(Error::internal(format!("these are no changes: {:?}", changes.schema())));
        };
        let op = (0..changes.num_rows()).map(|row| match (before.is_valid(row), after.is_valid(row)) {
            (true, true) => "u",
            (true, false) => "d",
            (false, _) => "c",
        });
        let op: ArrayRef = Arc::new(StringArray::from_iter_values(op));
        let [before, after] = [loose(before)?, loose(after)?];
        let field = |name, column: &ArrayRef| Field::new(name, column.data_type().clone(), true);
        let schema = Schema::new(vec![field("before", &before), field("after", &after), field("op", &op)]);
        let columns = vec![before, after, op];
        self.inner.encode(&crate::batch::batch_of(Arc::new(schema), columns, changes.num_rows())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use arrow::array::RecordBatch;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
            Field::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), true),
        ]))
    }

    fn read(columns: &[usize], records: &[Option<&str>]) -> Result<Vec<String>, BadRecord> {
        let records: BinaryArray = records.iter().map(|record| record.map(str::as_bytes)).collect();
        let row = schema().project(columns).unwrap();
        let changes = DebeziumDecoder::new(&schema(), columns).unwrap().decode(&records)?;
        assert_eq!(changes.num_rows(), records.len());
        let weight = Field::new("w", DataType::Int64, false);
        let weighted = Schema::new(row.fields().iter().cloned().chain([Arc::new(weight)]).collect::<Vec<_>>());
        let (rows, origins) = change::opened(&changes, &Arc::new(weighted)).unwrap();
        Ok(texts(&rows).into_iter().zip(origins).map(|(text, origin)| format!("{origin}: {text}")).collect())
    }

    fn texts(rows: &RecordBatch) -> Vec<String> {
        let mut encoder = Format::named("csv").unwrap().encoder(&rows.schema()).unwrap();
        let lines = encoder.encode(rows).unwrap();
        lines.iter().map(|line| String::from_utf8(line.unwrap().to_vec()).unwrap()).collect()
    }

    #[test]
    fn changes_are_read_with_and_without_an_envelope() {
        let records = [
            Some(r#"{"before":null,"after":{"id":1,"name":"a","extra":[1]},"op":"c","source":{"db":"x"}}"#),
            Some(r#"{"schema":{"type":"struct"},"payload":{"op":"r","after":{"id":2,"name":null},"ts_ms":7}}"#),
            Some(r#"{"before":{"id":1,"name":"a"},"after":{"id":1,"name":"b"},"op":"u"}"#),
            None,
            Some(r#"{"payload":{"before":{"id":2},"after":null,"op":"d"}}"#),
        ];
        let expected = ["0: 1,a,1", "1: 2,,1", "2: 1,a,-1", "2: 1,b,1", "4: 2,,-1"];
        assert_eq!(read(&[0, 1], &records).unwrap(), expected);
        assert_eq!(read(&[], &records).unwrap(), ["0: 1", "1: 1", "2: -1", "2: 1", "4: -1"]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let refused = |record: &str, reason: &str| {
            let good = r#"{"after":{"id":1},"op":"c"}"#;
            let bad = read(&[0, 1], &[Some(good), None, Some(record)]).unwrap_err();
            assert_eq!(bad.index, 2);
            assert!(bad.reason.contains(reason), "{record}: {}", bad.reason);
        };
        refused(r#"{"op":"t","before":null,"after":null}"#, "truncated");
        refused(r#"{"op":"u","before":null,"after":{"id":1}}"#, "has no \"before\"");
        refused(r#"{"op":"d","before":null}"#, "has no \"before\"");
        refused(r#"{"op":"c"}"#, "has no \"after\"");
        refused(r#"{"op":"m"}"#, "unknown op \"m\"");
        refused(r#"{"id":1}"#, "no \"op\"");
        refused("{}", "no \"op\"");
        refused(r#"{"op":"d","before":{"name":"a"}}"#, "NULL, but it is NOT NULL");
        refused(r#"{"op":"c","after":{"id":"x"}}"#, "after");
        refused("7", "not an object");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let records = [
            Some(r#"{"before":null,"after":{"id":1,"name":"a","at":"2026-01-02 03:04:05.500"},"op":"c"}"#),
            Some(r#"{"before":{"id":1,"name":null,"at":null},"after":{"id":1,"name":"b","at":null},"op":"u"}"#),
            Some(r#"{"before":{"id":2,"name":null,"at":null},"after":null,"op":"d"}"#),
        ];
        let given: BinaryArray = records.iter().map(|record| record.map(str::as_bytes)).collect();
        let changes = DebeziumDecoder::new(&schema(), &[0, 1, 2]).unwrap().decode(&given).unwrap();
        let mut encoder = DebeziumEncoder::new(&schema(), &Settings::default()).unwrap();
        let written = encoder.encode(&changes).unwrap();
        let written: Vec<_> = written.iter().map(|record| record.map(|bytes| str::from_utf8(bytes).unwrap())).collect();
        assert_eq!(written, records);
    }
}
