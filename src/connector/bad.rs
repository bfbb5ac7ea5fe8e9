//! Bad records: what a table does with them, and what is told of each.

use super::{OptionSpec, Options, Preset, Takes};
use crate::batch::{Batch, batch_of};
use crate::error::{Error, Result, nearest};
use crate::format::sift::{Decoding, OnBad, Sifted, sift};
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

impl Refused {
    /// The `bad` ones among the last records; `known` gives the bytes and the origin of the n-th.
    pub fn all(bad: Vec<BadRecord>, known: impl Fn(usize) -> (Option<Vec<u8>>, Origin)) -> Vec<Refused> {
        let refused = |bad: BadRecord| {
            let (record, origin) = known(bad.index);
            Refused { record, reason: bad.reason, origin }
        };
        bad.into_iter().map(refused).collect()
    }
}

/// What became of the records of a poll.
#[derive(Debug, Default)]
pub struct Passed {
    /// For each of the rows its record; none: all, in order.
    kept: Option<Vec<usize>>,
    bad: Vec<BadRecord>,
}

impl Passed {
    /// The rows, and what else is to know of `sifted`.
    pub fn of(sifted: Sifted) -> (Batch, Passed) {
        (sifted.rows, Passed { kept: sifted.kept, bad: sifted.bad })
    }

    /// Which of the records gave row `row`.
    pub fn record_of(&self, row: usize) -> usize {
        self.kept.as_ref().and_then(|kept| kept.get(row).copied()).unwrap_or(row)
    }

    /// The bad ones, once.
    pub fn take_bad(&mut self) -> Vec<BadRecord> {
        std::mem::take(&mut self.bad)
    }
}

/// A decoder that treats bad records as its table wants. Where the table bears them it remembers what it was given last, until
/// it is told to forget: a worker holds thousands of these.
pub struct Sieve {
    decoder: Box<dyn Decode>,
    on_bad: OnBad,
    records: Option<BinaryArray>,
    passed: Passed,
}

impl Sieve {
    /// `decoder`, for a table that does `on_bad` with bad records.
    pub fn new(decoder: Box<dyn Decode>, on_bad: OnBad) -> Self {
        Sieve { decoder, on_bad, records: None, passed: Passed::default() }
    }

    /// The rows of `records`, perhaps fewer.
    ///
    /// # Errors
    /// The first bad record, if the table bears none.
    pub fn decode(&mut self, records: BinaryArray) -> Result<Batch, BadRecord> {
        let sifted = sift(Decoding { decoder: self.decoder.as_mut(), records: &records }, self.on_bad)?;
        let (rows, passed) = Passed::of(sifted);
        self.passed = passed;
        self.records = self.on_bad.bears().then_some(records);
        Ok(rows)
    }

    /// Lets the last records go.
    pub fn forget(&mut self) {
        (self.records, self.passed) = (None, Passed::default());
    }

    /// What became of the last records.
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// The bytes of record `at`, if it is remembered and has some.
    pub fn record(&self, at: usize) -> Option<Vec<u8>> {
        let records = self.records.as_ref().filter(|records| at < records.len() && records.is_valid(at))?;
        Some(records.value(at).to_vec())
    }

    /// The bad ones among the last records, once.
    pub fn take_bad(&mut self) -> Vec<BadRecord> {
        self.passed.take_bad()
    }
}
