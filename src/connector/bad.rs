//! Bad records: what a table does with them, and what is told of each.

use super::{OptionSpec, Options, Preset, Takes};
use crate::batch::{Batch, batch_of};
use crate::error::{Error, Result, nearest};
use crate::format::sift::{Decoding, OnBad, sift};
use crate::format::{BadRecord, Decode};
use arrow::array::{Array, ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::{Arc, LazyLock};

/// What a table does with a record that cannot be read.
pub const ON_ERROR: OptionSpec = OptionSpec::reading(
    "on_error",
    Takes::Form("what to do with a bad record"),
    Preset::Is("fail"),
    "what happens to a record that cannot be read: `fail` ends the pipeline, `skip` leaves it out, `null` puts NULL for what cannot be read, `dead_letter(t)` leaves it out and writes it to table `t`",
);

/// How many bad records are too many.
pub const MAX_SHARE: OptionSpec = OptionSpec::reading(
    "on_error.max-share",
    Takes::Real,
    Preset::None("any share"),
    "the share of bad records, from 0 to 1, above which the pipeline fails; counted by each worker after its first 1000 records",
);

/// What a table does with bad records, by its options.
#[derive(Debug, Clone, PartialEq)]
pub struct OnError {
    /// With each one.
    pub on_bad: OnBad,
    /// The table that takes those that are left out.
    pub letters: Option<String>,
    /// See [`MAX_SHARE`].
    pub share_max: Option<f64>,
}

impl OnError {
    /// What `options` say.
    pub fn of(options: &Options) -> Result<OnError> {
        let text = options.required(&ON_ERROR)?.trim();
        let letters = text.strip_prefix("dead_letter(").and_then(|rest| rest.strip_suffix(')'));
        let letters = letters.map(|table| table.trim().trim_matches('\'').to_owned()).filter(|table| !table.is_empty());
        let on_bad = match text {
            "fail" => OnBad::Fail,
            "skip" => OnBad::LeaveOut,
            "null" => OnBad::Null,
            _ if letters.is_some() => OnBad::LeaveOut,
            _ => {
                let error = Error::invalid(format!("'{text}' is not a way to treat a bad record"));
                let ways = ["fail", "skip", "null", "dead_letter"];
                return Err(options.misvalued(
                    &ON_ERROR,
                    match nearest(text.split('(').next().unwrap_or(text), ways) {
                        Some("dead_letter") => error.help("write dead_letter(t), where t is a table"),
                        Some(near) => error.help(format!("did you mean '{near}'?")),
                        None => error.help("there are fail, skip, null and dead_letter(t)"),
                    },
                ));
            }
        };
        let share_max = options.if_given(&MAX_SHARE, Options::real)?;
        match share_max {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(options.wrong(&MAX_SHARE, format!("{share} is not from 0 to 1")))
            }
            _ => Ok(OnError { on_bad, letters, share_max }),
        }
    }
}

/// A record that gives no row, or not the row that it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its bytes, if they are still known.
    pub record: Option<Vec<u8>>,
    /// What is wrong with it.
    pub reason: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a record came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// In words: `topic "words", partition 2, offset 17`.
    pub place: String,
    /// The topic, if there is one.
    pub topic: Option<String>,
    /// The topic's partition.
    pub partition: Option<i32>,
    /// The offset in the partition.
    pub offset: Option<i64>,
}

/// The columns of a dead letter.
pub static DEAD_LETTER: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name, data_type, nullable| Field::new(name, data_type, nullable);
    Arc::new(Schema::new(vec![
        field("record", DataType::Binary, true),
        field("reason", DataType::Utf8, false),
        field("source", DataType::Utf8, false),
        field("place", DataType::Utf8, false),
        field("topic", DataType::Utf8, true),
        field("partition", DataType::Int32, true),
        field("offset", DataType::Int64, true),
    ]))
});

/// Records that table `source` refused, as rows of [`DEAD_LETTER`].
pub fn dead_letters(source: &str, refused: &[Refused]) -> Result<Batch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(refused.iter().map(|bad| bad.record.as_deref()).collect::<BinaryArray>()),
        Arc::new(StringArray::from_iter_values(refused.iter().map(|bad| &bad.reason))),
        Arc::new(StringArray::from_iter_values(refused.iter().map(|_| source))),
        Arc::new(StringArray::from_iter_values(refused.iter().map(|bad| &bad.origin.place))),
        Arc::new(refused.iter().map(|bad| bad.origin.topic.as_deref()).collect::<StringArray>()),
        Arc::new(refused.iter().map(|bad| bad.origin.partition).collect::<Int32Array>()),
        Arc::new(refused.iter().map(|bad| bad.origin.offset).collect::<Int64Array>()),
    ];
    batch_of(Arc::clone(&DEAD_LETTER), columns, refused.len())
}

/// A decoder that treats bad records as its table wants, and remembers what it was given last.
pub struct Sieve {
    decoder: Box<dyn Decode>,
    on_bad: OnBad,
    records: BinaryArray,
    /// For each row of the last batch its record; none: all, in order.
    kept: Option<Vec<usize>>,
    bad: Vec<BadRecord>,
}

impl Sieve {
    /// `decoder`, for a table that does `on_bad` with bad records.
    pub fn new(decoder: Box<dyn Decode>, on_bad: OnBad) -> Self {
        Sieve { decoder, on_bad, records: BinaryArray::new_null(0), kept: None, bad: Vec::new() }
    }

    /// The rows of `records`, perhaps fewer.
    ///
    /// # Errors
    /// The first bad record, if the table bears none.
    pub fn decode(&mut self, records: BinaryArray) -> Result<Batch, BadRecord> {
        let sifted = sift(Decoding { decoder: self.decoder.as_mut(), records: &records }, self.on_bad)?;
        (self.records, self.kept, self.bad) = (records, sifted.kept, sifted.bad);
        Ok(sifted.rows)
    }

    /// Which of the last records gave row `row`.
    pub fn record_of(&self, row: usize) -> usize {
        self.kept.as_ref().and_then(|kept| kept.get(row).copied()).unwrap_or(row)
    }

    /// The bytes of the record that gave row `row`.
    pub fn bytes_of(&self, row: usize) -> Option<Vec<u8>> {
        let record = self.record_of(row);
        (record < self.records.len() && self.records.is_valid(record)).then(|| self.records.value(record).to_vec())
    }

    /// The bad ones among the last records, once.
    pub fn take_bad(&mut self) -> Vec<Bad> {
        let known = |bad: BadRecord| {
            let valid = self.records.is_valid(bad.index);
            let record = valid.then(|| self.records.value(bad.index).to_vec());
            Bad { index: bad.index, record, reason: bad.reason }
        };
        std::mem::take(&mut self.bad).into_iter().map(known).collect()
    }
}

/// A bad record among its neighbours.
#[derive(Debug)]
pub struct Bad {
    /// Which one it is of the last records.
    pub index: usize,
    /// Its bytes, if it has some.
    pub record: Option<Vec<u8>>,
    /// What is wrong with it.
    pub reason: String,
}

impl Bad {
    /// The same with its origin, which `origin` says of the n-th record.
    pub fn from(self, origin: impl Fn(usize) -> Origin) -> Refused {
        Refused { origin: origin(self.index), record: self.record, reason: self.reason }
    }
}
