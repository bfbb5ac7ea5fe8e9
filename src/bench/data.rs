//! What is read: words in lines, rows with a key, JSON objects. The same from the same seed, in every process.

use crate::batch::{BATCH_ROWS, Batch};
use crate::plan::event_time_type;
use crate::time::Micros;
use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Float64Array, Int64Array, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fmt::Write;
use std::sync::Arc;

/// Words in a line.
pub const LINE_WORDS: u64 = 10;

/// Event time moves this much from line to line: 1,000 lines a second.
const LINE_STEP: Micros = 1_000;

/// When event time begins: 2023-11-14, 22:13:20, which is a multiple of 10 seconds.
const START: Micros = 1_700_000_000_000_000;

/// Rows that are made for the exchange; it reads them over and over, because 10 million would not tell more.
const KEYED_ROWS: usize = 1 << 20;

/// JSON records that are made; they are read over and over.
const JSON_RECORDS: usize = 1 << 17;

/// Lines of [`LINE_WORDS`] words, `words` in all. The rank of a word is log-uniform from 1 to `distinct`, so that few words
/// are frequent and most are rare, as in a text.
pub struct Lines {
    random: Pcg64Mcg,
    log_distinct: f64,
    left: u64,
}

impl Lines {
    pub fn new(words: u64, distinct: u64, seed: u64) -> Self {
        Lines {
            random: Pcg64Mcg::seed_from_u64(seed),
            log_distinct: (distinct as f64).ln(),
            left: words.div_ceil(LINE_WORDS),
        }
    }

    /// Writes the next line to the end of `line`; false if there is none.
    pub fn next(&mut self, line: &mut String) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        for word in 0..LINE_WORDS {
            let rank = (self.random.random::<f64>() * self.log_distinct).exp() as u64;
            let space = if word > 0 { " " } else { "" };
            write!(line, "{space}w{:x}", rank.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40)
                .expect("a string takes any text");
        }
        true
    }

    /// All lines, in batches of one column.
    pub fn batches(mut self) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut line = String::new();
        loop {
            let mut lines = StringBuilder::with_capacity(BATCH_ROWS, 64 * BATCH_ROWS);
            for _ in 0..BATCH_ROWS {
                line.clear();
                if !self.next(&mut line) {
                    break;
                }
                lines.append_value(&line);
            }
            let lines = lines.finish();
            if lines.len() == 0 {
                return batches;
            }
            batches.push(of_columns(&lines_schema(), vec![Arc::new(lines)]));
        }
    }
}

/// `line STRING`.
pub fn lines_schema() -> SchemaRef {
    schema([("line", DataType::Utf8)])
}

/// `line STRING, ts TIMESTAMP`.
pub fn timed_lines_schema() -> SchemaRef {
    schema([("line", DataType::Utf8), ("ts", event_time_type())])
}

/// The same lines with an event time, in order.
pub fn timed(lines: Vec<Batch>) -> Vec<Batch> {
    let mut next = START;
    let with_time = |lines: Batch| {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(
            (0..lines.num_rows()).map(|row| next + row as Micros * LINE_STEP),
        ));
        next += lines.num_rows() as Micros * LINE_STEP;
        of_columns(&timed_lines_schema(), vec![lines.column(0).clone(), times])
    };
    lines.into_iter().map(with_time).collect()
}

/// `key STRING, number BIGINT, value DOUBLE, ts TIMESTAMP`.
pub fn keyed_schema() -> SchemaRef {
    schema([
        ("key", DataType::Utf8),
        ("number", DataType::Int64),
        ("value", DataType::Float64),
        ("ts", event_time_type()),
    ])
}

/// At least `rows` rows with keys of 8 bytes, `distinct` of them, each as likely as any other.
pub fn keyed(rows: u64, distinct: u64, seed: u64) -> Vec<Batch> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut batch = |rows: usize| {
        let numbers: Vec<i64> = (0..rows).map(|_| random.random_range(0..distinct as i64)).collect();
        let keys = StringArray::from_iter_values(
            numbers.iter().map(|number| format!("{:08x}", (*number as u32).wrapping_mul(0x9E37_79B1))),
        );
        let values = Float64Array::from_iter_values(numbers.iter().map(|number| *number as f64 / 7.0));
        let times = TimestampMicrosecondArray::from_iter_values(numbers.iter().map(|number| START + number));
        of_columns(
            &keyed_schema(),
            vec![Arc::new(keys), Arc::new(Int64Array::from(numbers)), Arc::new(values), Arc::new(times)],
        )
    };
    let made: Vec<Batch> = (0..KEYED_ROWS.min(rows as usize).div_ceil(BATCH_ROWS)).map(|_| batch(BATCH_ROWS)).collect();
    repeated(&made, rows)
}

/// The columns of [`json`]'s objects that are read: all but `agent`.
pub fn json_schema() -> SchemaRef {
    schema([
        ("id", DataType::Int64),
        ("user", DataType::Utf8),
        ("page", DataType::Utf8),
        ("price", DataType::Float64),
        ("paid", DataType::Boolean),
        ("ts", event_time_type()),
    ])
}

/// At least `records` objects with 7 fields, about 190 bytes each, in arrays of [`BATCH_ROWS`].
pub fn json(records: u64, distinct: u64, seed: u64) -> Vec<BinaryArray> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut array = || {
        let mut array = BinaryBuilder::with_capacity(BATCH_ROWS, 200 * BATCH_ROWS);
        for _ in 0..BATCH_ROWS {
            let (id, user) = (random.random::<u32>(), random.random_range(0..distinct));
            let (cents, second) = (random.random_range(100..100_000_u32), random.random_range(0..60_u32));
            array.append_value(format!(
                r#"{{"id":{id},"user":"user-{user:06x}","page":"/catalogue/section-{}/item-{}","price":{}.{:02},"paid":{},"ts":"2023-11-14 22:13:{second:02}.{:03}","agent":"Mozilla/5.0 (X11; Linux x86_64)"}}"#,
                id % 17, id % 1009, cents / 100, cents % 100, id % 3 == 0, id % 1000,
            ));
        }
        array.finish()
    };
    let made: Vec<BinaryArray> =
        (0..JSON_RECORDS.min(records as usize).div_ceil(BATCH_ROWS)).map(|_| array()).collect();
    repeated(&made, records)
}

/// Full batches over and over, until there are `rows` rows or a few more; nothing is copied.
pub fn repeated<T: Clone>(full: &[T], rows: u64) -> Vec<T> {
    full.iter().cycle().take((rows as usize).div_ceil(BATCH_ROWS)).cloned().collect()
}

fn schema<const N: usize>(fields: [(&str, DataType); N]) -> SchemaRef {
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

fn of_columns(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Batch {
    Batch::try_new(Arc::clone(schema), columns).expect("the columns were made for this schema")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_lines() {
        let text = |seed| {
            let (mut lines, mut text) = (Lines::new(25, 100, seed), String::new());
            while lines.next(&mut text) {
                text.push('\n');
            }
            text
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert_eq!(text(1).split_whitespace().count(), 30, "whole lines");
    }

    #[test]
    fn a_json_record_has_about_190_bytes() {
        let records = &json(10, 1000, 1)[0];
        let bytes = records.iter().flatten().map(<[u8]>::len).sum::<usize>() / records.len();
        assert!((170..210).contains(&bytes), "{bytes}");
    }
}
