//! `datagen`: rows from a seed.
//!
//! Row `r` of split `s` is a function of (`seed`, `s`, `r`) alone: each column draws a fixed number of random words a row from
//! a generator of its own that can be moved to any row. So neither batch sizes nor workers change what is generated. The
//! exception is a time that follows the wall clock.
//!
//! | `fields.<f>.kind` | columns | what a row has |
//! |---|---|---|
//! | any | any that is not NOT NULL | NULL in a part `null-rate` of the rows |
//! | `random` | numbers | one between `min` and `max`, both possible, but for a float's `max`, by `distribution` |
//! | | STRING, BYTES | `length` letters, bytes |
//! | | BOOLEAN | |
//! | `sequence` | integers | split `s` of `n` has `start + s`, `start + s + n`, …; the table ends with `end` |
//! | `words` | STRING | `words` out of `vocabulary`, by `distribution` |
//! | `time` | TIMESTAMP | row `r` of each split has `start` + `r` × `step`, or the wall clock without `start`; up to `disorder` earlier |

mod draw;

use super::{Context, OptionSpec, Options, Polled, Preset, Source, Split, SplitStart, Table, Takes};
use crate::batch::{BATCH_ROWS, Batch};
use crate::error::{Error, Result, nearest};
use crate::time::{Clock, Micros};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options, nullif};
use arrow::datatypes::{DataType, Field, SchemaRef};
use draw::{RANKS_MAX, Ranks, Shape};
use rand::RngCore;
use rand_pcg::Pcg64Dxsm;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const ROWS: OptionSpec =
    OptionSpec::reading("number-of-rows", ANY, Preset::None("no end"), "after how many rows the table ends");
const RATE: OptionSpec = OptionSpec::reading(
    "rows-per-second",
    Takes::Whole(1, u64::MAX as i128),
    Preset::None("as many as are asked for"),
    "how many rows there are a second, in all splits together",
);
const SEED: OptionSpec = OptionSpec::reading("seed", ANY, Preset::Is("0"), "what the rows follow from");
const SPLITS: OptionSpec =
    OptionSpec::reading("splits", Takes::Whole(1, 1024), Preset::Is("4"), "how many shares the table has");
const KIND: OptionSpec = OptionSpec::reading(
    "fields.*.kind",
    Takes::Choice(&["random", "sequence", "words", "time"]),
    Preset::None("`time` for timestamps, else `random`"),
    "what column `*` holds",
);
const MIN: OptionSpec = OptionSpec::reading(
    "fields.*.min",
    Takes::Real,
    Preset::None("the least of an integer's type, else 0"),
    "the least of `random` numbers",
);
const MAX: OptionSpec = OptionSpec::reading(
    "fields.*.max",
    Takes::Real,
    Preset::None("the greatest of an integer's type, else 1"),
    "the greatest of `random` numbers",
);
// Lengths are limited so that a batch of values stays far below 2 GiB.
const LENGTH: OptionSpec = OptionSpec::reading(
    "fields.*.length",
    Takes::Whole(0, 1 << 16),
    Preset::Is("100"),
    "how many letters or bytes a `random` STRING or BYTES has",
);
const START: OptionSpec = OptionSpec::reading(
    "fields.*.start",
    Takes::Form("a number or a moment"),
    Preset::None("0 for numbers, the clock for timestamps"),
    "where a `sequence` or `time` starts: a number, or a moment such as `2026-01-01T00:00:00Z`",
);
const END: OptionSpec = OptionSpec::reading(
    "fields.*.end",
    Takes::Whole(i64::MIN as i128, i64::MAX as i128),
    Preset::None("no end"),
    "the last number of a `sequence`, with which the table ends",
);
const WORDS: OptionSpec = OptionSpec::reading(
    "fields.*.words",
    Takes::Whole(0, 1 << 13),
    Preset::Is("8"),
    "how many `words` there are in a row",
);
const VOCABULARY: OptionSpec = OptionSpec::reading(
    "fields.*.vocabulary",
    Takes::Whole(1, 1 << 24),
    Preset::Is("10000"),
    "out of how many different `words`",
);
const DISTRIBUTION: OptionSpec = OptionSpec::reading(
    "fields.*.distribution",
    Takes::Choice(&["uniform", "normal", "exponential", "zipf"]),
    Preset::None("`zipf` for `words`, else `uniform`"),
    "how likely each value is, of `random` numbers and of `words`; `exponential` is above `min`, `zipf` has integers from `min` on, 1 by default, the first the most likely",
);
const MEAN: OptionSpec = OptionSpec::reading(
    "fields.*.mean",
    Takes::Real,
    Preset::None("0, for `exponential` 1; of `words` the middle ones"),
    "the mean of a `normal` or `exponential` distribution",
);
const DEVIATION: OptionSpec = OptionSpec::reading(
    "fields.*.deviation",
    Takes::Real,
    Preset::None("1; of `words` an eighth"),
    "the standard deviation of a `normal` distribution",
);
const EXPONENT: OptionSpec =
    OptionSpec::reading("fields.*.exponent", Takes::Real, Preset::Is("1"), "the exponent of a `zipf` distribution");
const NULL_RATE: OptionSpec =
    OptionSpec::reading("fields.*.null-rate", Takes::Real, Preset::Is("0"), "the part of the rows that has NULL");
const STEP: OptionSpec = OptionSpec::reading(
    "fields.*.step",
    Takes::Duration,
    Preset::Is("1ms"),
    "how far apart the moments of two rows are, for `time` with a start",
);
const DISORDER: OptionSpec = OptionSpec::reading(
    "fields.*.disorder",
    Takes::Duration,
    Preset::Is("0s"),
    "up to how much too early a row of `time` is",
);

const ANY: Takes = Takes::Whole(0, u64::MAX as i128);

/// The options of a column.
const FIELD_OPTIONS: [&OptionSpec; 15] = [
    &KIND,
    &MIN,
    &MAX,
    &LENGTH,
    &START,
    &END,
    &WORDS,
    &VOCABULARY,
    &DISTRIBUTION,
    &MEAN,
    &DEVIATION,
    &EXPONENT,
    &NULL_RATE,
    &STEP,
    &DISORDER,
];

/// What this connector takes.
pub const OPTIONS: &[&OptionSpec] = &[
    &ROWS,
    &RATE,
    &SEED,
    &SPLITS,
    &KIND,
    &MIN,
    &MAX,
    &LENGTH,
    &START,
    &END,
    &WORDS,
    &VOCABULARY,
    &DISTRIBUTION,
    &STEP,
    &DISORDER,
];

/// Of a column's stream of random words: where it is decided what is NULL, far from the values.
const NULLS: u128 = 1 << 63;

/// A table of generated rows.
#[derive(Debug)]
pub struct Datagen {
    schema: SchemaRef,
    /// By column of `schema`: its place in the table and what it holds.
    columns: Arc<[Column]>,
    splits: u64,
    rows: Option<u64>,
    rows_per_second: Option<u64>,
    seed: u64,
}

/// A column and how it is made.
#[derive(Debug, Clone)]
struct Column {
    /// Its place in the table, which tells its random words from those of the others.
    place: u64,
    kind: Kind,
    null_rate: f64,
}

/// What a column holds.
#[derive(Debug, Clone)]
enum Kind {
    Integers {
        min: i64,
        max: i64,
    },
    Floats {
        min: f64,
        max: f64,
    },
    /// Numbers of a shape that has a formula, moved to the nearest bound where they are outside.
    Shaped {
        shape: Shape,
        start: f64,
        min: f64,
        max: f64,
        whole: bool,
    },
    /// Ranks counted from `first` on.
    Ranked {
        first: i64,
        ranks: Arc<Ranks>,
    },
    Booleans,
    Letters {
        length: usize,
    },
    Bytes {
        length: usize,
    },
    Sequence {
        start: i64,
    },
    Words {
        words: usize,
        vocabulary: Arc<Vocabulary>,
    },
    Time {
        start: Option<Micros>,
        step: Micros,
        disorder: Micros,
    },
}

impl Datagen {
    /// Checks the options.
    pub fn new(table: &Table, columns: &[usize]) -> Result<Self> {
        let options = &table.options;
        let mut rows = options.if_given(&ROWS, Options::whole)?;
        check_fields(table)?;
        let mut kinds = Vec::new();
        for field in table.schema.fields() {
            let (kind, ends_after) = Kind::new(field, options)?;
            rows = rows.into_iter().chain(ends_after).min();
            kinds.push((kind, null_rate(field, options)?));
        }
        Ok(Datagen {
            schema: Arc::new(table.schema.project(columns).map_err(|error| Error::internal(error.to_string()))?),
            columns: columns
                .iter()
                .map(|column| (*column as u64, kinds[*column].clone()))
                .map(|(place, (kind, null_rate))| Column { place, kind, null_rate })
                .collect(),
            splits: options.whole(&SPLITS)?,
            rows,
            rows_per_second: options.if_given(&RATE, Options::whole)?,
            seed: options.whole(&SEED)?,
        })
    }
}

/// Refuses options of columns that are not there.
fn check_fields(table: &Table) -> Result<()> {
    let columns = || table.schema.fields().iter().map(|field| field.name().as_str());
    let unknown = |spec: &&'static OptionSpec| {
        table.options.parts(spec).find(|name| columns().all(|column| column != *name)).map(|name| (*spec, name))
    };
    let Some((spec, name)) = FIELD_OPTIONS.iter().find_map(unknown) else { return Ok(()) };
    let error = Error::invalid(format!("unknown column '{name}'"));
    let error = match nearest(name, columns()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("the columns are {}", columns().collect::<Vec<_>>().join(", "))),
    };
    Err(table.options.misnamed(spec.of(name), error))
}

impl Source for Datagen {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        self.rows.is_some()
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        Ok((0..self.splits).map(|split| split.to_string()).collect())
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |start: &SplitStart| {
            let (name, row) = (&start.name, start.position.unwrap_or(0));
            let split: u64 =
                name.parse().map_err(|_| Error::internal(format!("'{name}' is no split of generated rows")))?;
            Ok(Box::new(DatagenSplit {
                schema: Arc::clone(&self.schema),
                columns: Arc::clone(&self.columns),
                split,
                splits: self.splits,
                rows: self.rows.map(|rows| rows / self.splits + u64::from(split < rows % self.splits)),
                rows_per_second: self.rows_per_second,
                seed: self.seed,
                clock: Arc::clone(&context.clock),
                started: None,
                first: row,
                row,
                polled: 0,
            }) as Box<dyn Split>)
        };
        splits.iter().map(open).collect()
    }
}

struct DatagenSplit {
    schema: SchemaRef,
    columns: Arc<[Column]>,
    split: u64,
    splits: u64,
    /// This split's share.
    rows: Option<u64>,
    /// Of all splits.
    rows_per_second: Option<u64>,
    seed: u64,
    clock: Arc<dyn Clock>,
    started: Option<Duration>,
    /// The row that it began with.
    first: u64,
    /// The next row, and the number of those before it that the last poll gave.
    row: u64,
    polled: u64,
}

impl fmt::Debug for DatagenSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "split {} at row {}", self.split, self.row)
    }
}

impl Split for DatagenSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let left = self.rows.map_or(u64::MAX, |rows| rows - self.row);
        if left == 0 {
            return Ok(Polled::Ended);
        }
        let rows = left.min(self.due()).min(rows_max.clamp(1, BATCH_ROWS) as u64);
        if rows == 0 {
            return Ok(Polled::Pending);
        }
        let batch = self.generate(rows as usize)?;
        (self.row, self.polled) = (self.row + rows, rows);
        let bytes = batch.get_array_memory_size();
        Ok(Polled::Rows { rows: batch, bytes })
    }

    fn position(&self) -> u64 {
        self.row
    }

    fn place(&self, row: usize) -> String {
        format!("split {}, row {}", self.split, self.row - self.polled + row as u64)
    }
}

impl DatagenSplit {
    /// Rows that the rate allows now.
    fn due(&mut self) -> u64 {
        let Some(rate) = self.rows_per_second else { return u64::MAX };
        let now = self.clock.monotonic();
        let elapsed = now.saturating_sub(*self.started.get_or_insert(now));
        let due = elapsed.as_nanos() * u128::from(rate) / u128::from(self.splits) / 1_000_000_000;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.row - self.first)
    }

    fn generate(&self, rows: usize) -> Result<Batch> {
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| {
            let stream = u128::from(self.split) << 64 | u128::from(column.place);
            let mut random = Pcg64Dxsm::new(u128::from(self.seed), stream);
            random.advance(u128::from(self.row) * u128::from(column.kind.draws()));
            let values = self.column(&column.kind, random, rows, field)?;
            if column.null_rate == 0.0 {
                return Ok(values);
            }
            let mut random = Pcg64Dxsm::new(u128::from(self.seed), stream | NULLS);
            random.advance(u128::from(self.row));
            let nulls = (0..rows).map(|_| Some(Shape::Uniform.number(&mut random) < column.null_rate));
            nullif(&values, &nulls.collect::<BooleanArray>()).map_err(|error| Error::internal(error.to_string()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Batch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| Error::internal(error.to_string()))
    }

    fn column(&self, kind: &Kind, mut random: Pcg64Dxsm, rows: usize, field: &Field) -> Result<ArrayRef> {
        let rows = 0..rows as u64;
        let values: ArrayRef = match kind {
            Kind::Integers { min, max } => {
                Arc::new(rows.map(|_| between(&mut random, *min, *max)).collect::<Int64Array>())
            }
            Kind::Floats { min, max } => {
                let mut part = || Shape::Uniform.number(&mut random);
                Arc::new(rows.map(|_| min + part() * (max - min)).collect::<Float64Array>())
            }
            Kind::Shaped { shape, start, min, max, whole } => {
                let number = |_| (start + shape.number(&mut random)).clamp(*min, *max);
                match whole {
                    true => Arc::new(rows.map(number).map(|number| number.round() as i64).collect::<Int64Array>()),
                    false => Arc::new(rows.map(number).collect::<Float64Array>()) as ArrayRef,
                }
            }
            Kind::Ranked { first, ranks } => {
                Arc::new(rows.map(|_| first + ranks.pick(random.next_u64()) as i64).collect::<Int64Array>())
            }
            Kind::Booleans => Arc::new(rows.map(|_| Some(random.next_u64() >> 63 == 1)).collect::<BooleanArray>()),
            Kind::Letters { length } => Arc::new(text(*length, rows.end, |text| {
                let end = text.len() + length;
                while text.len() < end {
                    let letters =
                        random.next_u64().to_le_bytes().map(|byte| b'a' + ((u16::from(byte) * 26) >> 8) as u8);
                    text.extend_from_slice(&letters[..letters.len().min(end - text.len())]);
                }
            })),
            Kind::Bytes { length } => {
                let mut bytes = vec![0; length * rows.end as usize];
                // whole words, so that a row's draws do not depend on its neighbours
                for row in bytes.chunks_exact_mut((*length).max(1)) {
                    for chunk in row.chunks_mut(8) {
                        chunk.copy_from_slice(&random.next_u64().to_le_bytes()[..chunk.len()]);
                    }
                }
                let offsets = OffsetBuffer::from_lengths(rows.map(|_| *length));
                Arc::new(BinaryArray::new(offsets, Buffer::from_vec(bytes), None))
            }
            Kind::Sequence { start } => {
                let at = |row: u64| {
                    start.wrapping_add_unsigned((self.row + row).wrapping_mul(self.splits).wrapping_add(self.split))
                };
                Arc::new(rows.map(at).collect::<Int64Array>())
            }
            Kind::Words { words, vocabulary } => Arc::new(text(words * 6, rows.end, |text| {
                for word in 0..*words {
                    if word > 0 {
                        text.push(b' ');
                    }
                    text.extend_from_slice(vocabulary.pick(random.next_u64()));
                }
            })),
            Kind::Time { start, step, disorder } => {
                let wall = self.clock.wall();
                let on_time = |row| match start {
                    Some(start) => start.saturating_add(step.saturating_mul((self.row + row) as i64)),
                    None => wall,
                };
                let times = rows.map(|row| on_time(row).saturating_sub(between(&mut random, 0, *disorder)));
                Arc::new(TimestampMicrosecondArray::from_iter_values(times))
            }
        };
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&values, field.data_type(), &options)
            .map_err(|error| Error::data(format!("column \"{}\": {error}", field.name())).within(self.place(0)))
    }
}

impl Kind {
    /// What the options say of a column, and after how many rows it ends.
    fn new(field: &Field, options: &Options) -> Result<(Kind, Option<u64>)> {
        let name = field.name();
        let unfit = |kinds: &str| {
            let text = format!("column \"{}\" of type {} can be {kinds}", field.name(), field.data_type());
            options.wrong(KIND.of(name), text)
        };
        let data_type = field.data_type();
        let kind = options.text(KIND.of(name));
        let kind = match (data_type, kind) {
            (DataType::Timestamp(..), None | Some("time")) => {
                let micros = |option: &OptionSpec| -> Result<Micros> {
                    let duration = options.duration(option.of(name))?;
                    Micros::try_from(duration.as_micros()).map_err(|_| options.wrong(option.of(name), "too long"))
                };
                let start = options.if_given(START.of(name), Options::time)?;
                // without a start the clock says how far apart they are
                let step = if start.is_some() { micros(&STEP)? } else { 0 };
                Kind::Time { start, step, disorder: micros(&DISORDER)? }
            }
            (DataType::Timestamp(..), Some(_)) => return Err(unfit("'time'")),
            (DataType::Utf8, Some("words")) => {
                let (words, size): (usize, usize) =
                    (options.whole(WORDS.of(name))?, options.whole(VOCABULARY.of(name))?);
                let middle = (size as f64 / 2.0, size as f64 / 8.0);
                let shape = shape(field, options, &["zipf", "uniform", "normal", "exponential"], middle)?;
                let ranks = ranks(size, shape).map_err(|text| options.wrong(DISTRIBUTION.of(name), text))?;
                Kind::Words { words, vocabulary: Arc::new(Vocabulary::new(ranks)) }
            }
            (DataType::Utf8, None | Some("random")) => Kind::Letters { length: options.whole(LENGTH.of(name))? },
            (DataType::Utf8, Some(_)) => return Err(unfit("'random' or 'words'")),
            (DataType::Binary, None | Some("random")) => Kind::Bytes { length: options.whole(LENGTH.of(name))? },
            (DataType::Boolean, None | Some("random")) => Kind::Booleans,
            (DataType::Float32 | DataType::Float64, None | Some("random")) => {
                let shape = shape(field, options, &["uniform", "normal", "exponential"], (0.0, 1.0))?;
                let (least, most) = match shape {
                    Shape::Normal { .. } => (f64::MIN, f64::MAX),
                    Shape::Exponential { .. } => (0.0, f64::MAX),
                    _ => (0.0, 1.0),
                };
                let min = options.if_given(MIN.of(name), Options::real)?.unwrap_or(least);
                let max = options.if_given(MAX.of(name), Options::real)?.unwrap_or(most);
                if min > max {
                    return Err(options.wrong(MAX.of(name), format!("it is below '{}'", MIN.of(name).name)));
                }
                let start = if matches!(shape, Shape::Exponential { .. }) { min } else { 0.0 };
                match shape {
                    Shape::Uniform => Kind::Floats { min, max },
                    shape => Kind::Shaped { shape, start, min, max, whole: false },
                }
            }
            (DataType::Binary | DataType::Boolean | DataType::Float32 | DataType::Float64, Some(_)) => {
                return Err(unfit("'random'"));
            }
            (integer, Some("sequence")) if integer.is_integer() => {
                let start: i64 = options.if_given(START.of(name), Options::whole)?.unwrap_or(0);
                let end: Option<i64> = options.if_given(END.of(name), Options::whole)?;
                let Some(end) = end else { return Ok((Kind::Sequence { start }, None)) };
                fits(data_type, start, end).map_err(|text| options.wrong(END.of(name), text))?;
                let rows = u64::try_from(i128::from(end) - i128::from(start) + 1).unwrap_or(0);
                return Ok((Kind::Sequence { start }, Some(rows)));
            }
            (number, None | Some("random")) if number.is_integer() || matches!(number, DataType::Decimal128(..)) => {
                let shape = shape(field, options, &["uniform", "normal", "exponential", "zipf"], (0.0, 1.0))?;
                let (least, most) = range(number);
                let least = match shape {
                    Shape::Exponential { .. } => 0,
                    Shape::Zipf { .. } => 1,
                    _ => least,
                };
                let min = options.if_given(MIN.of(name), Options::whole)?.unwrap_or(least);
                let max = options.if_given(MAX.of(name), Options::whole)?.unwrap_or(most);
                if min > max {
                    return Err(options.wrong(MAX.of(name), format!("it is below '{}'", MIN.of(name).name)));
                }
                fits(data_type, min, max).map_err(|text| options.wrong(MAX.of(name), text))?;
                match shape {
                    Shape::Uniform => Kind::Integers { min, max },
                    Shape::Zipf { .. } => {
                        let count = usize::try_from(i128::from(max) - i128::from(min) + 1).unwrap_or(usize::MAX);
                        let ranks = ranks(count, shape).map_err(|text| options.wrong(MAX.of(name), text))?;
                        Kind::Ranked { first: min, ranks: Arc::new(ranks) }
                    }
                    shape => {
                        let start = if matches!(shape, Shape::Exponential { .. }) { min as f64 } else { 0.0 };
                        Kind::Shaped { shape, start, min: min as f64, max: max as f64, whole: true }
                    }
                }
            }
            (integer, Some(_)) if integer.is_integer() => return Err(unfit("'random' or 'sequence'")),
            (other, _) => {
                let text = format!("connector 'datagen' has no values for column \"{}\" of type {other}", field.name());
                return Err(Error::invalid(text).help("cast a generated column of another type in the query"));
            }
        };
        Ok((kind, None))
    }

    /// Random words that a row takes, the same for each row.
    fn draws(&self) -> u64 {
        match self {
            Kind::Sequence { .. } => 0,
            Kind::Integers { .. } | Kind::Floats { .. } | Kind::Ranked { .. } | Kind::Booleans | Kind::Time { .. } => 1,
            Kind::Shaped { shape, .. } => shape.draws(),
            Kind::Letters { length } | Kind::Bytes { length } => length.div_ceil(8) as u64,
            Kind::Words { words, .. } => *words as u64,
        }
    }
}

/// The part of the rows that has NULL in this column.
fn null_rate(field: &Field, options: &Options) -> Result<f64> {
    let option = NULL_RATE.of(field.name());
    let rate = options.real(option.clone())?;
    match rate {
        0.0..=1.0 if rate == 0.0 || field.is_nullable() => Ok(rate),
        0.0..=1.0 => Err(options.wrong(option, format!("column \"{}\" is NOT NULL", field.name()))),
        _ => Err(options.wrong(option, "from 0 to 1 are possible")),
    }
}

/// The column's distribution, of those that `names` has; the first one by default. `normal` is the default mean and deviation.
fn shape(field: &Field, options: &Options, names: &[&'static str], normal: (f64, f64)) -> Result<Shape> {
    let name = field.name();
    let number = |spec: &OptionSpec, default| -> Result<f64> {
        Ok(options.if_given(spec.of(name), Options::real)?.unwrap_or(default))
    };
    let above_0 = |spec: &OptionSpec, default| match number(spec, default)? {
        value if value > 0.0 => Ok(value),
        _ => Err(options.wrong(spec.of(name), "it must be above 0")),
    };
    let given = options.if_given(DISTRIBUTION.of(name), Options::choice)?.unwrap_or(names[0]);
    if !names.contains(&given) {
        let text = format!("'{given}' is not one of {}, which this column can have", names.join(", "));
        return Err(options.wrong(DISTRIBUTION.of(name), text));
    }
    Ok(match given {
        "zipf" => Shape::Zipf { exponent: above_0(&EXPONENT, 1.0)? },
        "normal" => Shape::Normal { mean: number(&MEAN, normal.0)?, deviation: above_0(&DEVIATION, normal.1)? },
        "exponential" => Shape::Exponential { mean: above_0(&MEAN, normal.1)? },
        _ => Shape::Uniform,
    })
}

fn ranks(count: usize, shape: Shape) -> Result<Ranks, String> {
    if count > RANKS_MAX {
        return Err(format!(
            "{count} different values are too many for this distribution; at most {RANKS_MAX} are possible"
        ));
    }
    Ranks::new(count, shape).ok_or_else(|| "no value would be likely enough to come".to_owned())
}

/// The integers that a type holds, as far as an i64 does.
fn range(data_type: &DataType) -> (i64, i64) {
    match data_type {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, i64::MAX),
        DataType::Decimal128(precision, scale) => {
            let digits = (i32::from(*precision) - i32::from(*scale)).clamp(0, 18);
            (0, 10_i64.pow(digits as u32) - 1)
        }
        _ => (i64::MIN, i64::MAX),
    }
}

fn fits(data_type: &DataType, min: i64, max: i64) -> Result<(), String> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(&Int64Array::from(vec![min, max]), data_type, &options);
    cast.map(drop).map_err(|_| format!("{data_type} does not hold {min} to {max}"))
}

/// A number from `min` to `max`. One draw, whatever the range; what that costs in evenness is below 2^-32.
fn between(random: &mut Pcg64Dxsm, min: i64, max: i64) -> i64 {
    let span = (i128::from(max) - i128::from(min) + 1) as u128;
    let offset = (u128::from(random.next_u64()) * span) >> 64;
    min.wrapping_add_unsigned(offset as u64)
}

/// A column of ASCII text, `write` a row.
fn text(length: usize, rows: u64, mut write: impl FnMut(&mut Vec<u8>)) -> StringArray {
    let rows = rows as usize;
    let (mut bytes, mut ends) = (Vec::with_capacity(length * rows), Vec::with_capacity(rows + 1));
    ends.push(0);
    for _ in 0..rows {
        write(&mut bytes);
        ends.push(i32::try_from(bytes.len()).expect("lengths are limited so that a batch is below 2 GiB"));
    }
    StringArray::new(OffsetBuffer::new(ends.into()), Buffer::from_vec(bytes), None)
}

/// Distinct words and how likely each is.
#[derive(Debug)]
struct Vocabulary {
    text: Vec<u8>,
    /// Where each word starts in `text`, and where the last one ends.
    starts: Vec<u32>,
    ranks: Ranks,
}

impl Vocabulary {
    fn new(ranks: Ranks) -> Self {
        let (mut text, mut starts) = (Vec::new(), Vec::with_capacity(ranks.count() + 1));
        for rank in 0..ranks.count() {
            starts.push(text.len() as u32);
            spell(rank, &mut text);
        }
        starts.push(text.len() as u32);
        Vocabulary { text, starts, ranks }
    }

    fn pick(&self, draw: u64) -> &[u8] {
        let word = self.ranks.pick(draw);
        &self.text[self.starts[word] as usize..self.starts[word + 1] as usize]
    }
}

/// A word for a rank: its digits to the base of 70, each a syllable.
fn spell(rank: usize, text: &mut Vec<u8>) {
    const FIRST: &[u8; 14] = b"tnsrhldcmfpgwb";
    const SECOND: &[u8; 5] = b"eaoiu";
    let mut rest = rank;
    loop {
        let syllable = rest % (FIRST.len() * SECOND.len());
        text.extend_from_slice(&[FIRST[syllable / SECOND.len()], SECOND[syllable % SECOND.len()]]);
        rest /= FIRST.len() * SECOND.len();
        if rest == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::OptionText;
    use arrow::array::{Array, AsArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Schema, TimeUnit};
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock whose hands a test sets, in milliseconds.
    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn wall(&self) -> Micros {
            self.monotonic().as_micros() as Micros
        }
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    fn table(given: &[(&str, &str)]) -> Table {
        let fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("small", DataType::Int16, true),
            Field::new("part", DataType::Float64, false),
            Field::new("yes", DataType::Boolean, false),
            Field::new("name", DataType::Utf8, false),
            Field::new("blob", DataType::Binary, false),
            Field::new("line", DataType::Utf8, false),
            Field::new("price", DataType::Decimal128(9, 2), false),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        ];
        let fixed = [
            ("fields.id.kind", "sequence"),
            ("fields.line.kind", "words"),
            ("fields.name.length", "11"),
            ("fields.blob.length", "9"),
        ];
        let given = fixed.iter().chain(given).map(|(name, text)| ((*name).to_owned(), OptionText::from(*text)));
        let options = Options::new(given);
        Table {
            name: "t".into(),
            schema: Arc::new(Schema::new(fields)),
            metadata: Default::default(),
            primary_key: Vec::new(),
            key_trusted: false,
            options,
        }
    }

    fn context(clock: Arc<dyn Clock>) -> Context {
        Context { embedded_broker: None, clock, workers: 1 }
    }

    /// All rows of a split, polled by `rows_max`.
    fn rows(given: &[(&str, &str)], columns: &[usize], split: usize, rows_max: impl Fn() -> usize) -> Batch {
        let datagen = Datagen::new(&table(given), columns).unwrap();
        let context = context(Arc::new(Hands::default()));
        let names = datagen.splits(&context).unwrap();
        let mut split = datagen.open(&[SplitStart::whole(names[split].clone())], &context).unwrap().remove(0);
        let mut batches = Vec::new();
        while let Polled::Rows { rows, .. } = split.poll(rows_max()).unwrap() {
            batches.push(rows);
        }
        concat_batches(&datagen.schema(), &batches).unwrap()
    }

    const ALL: [usize; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn rows_do_not_depend_on_how_they_are_polled() {
        let seed: u64 = rand::random();
        let given = [
            ("seed", &*seed.to_string()),
            ("number-of-rows", "1000"),
            ("fields.at.start", "2024-05-01 00:00:00"),
            ("fields.at.disorder", "5s"),
            ("fields.part.distribution", "normal"),
            ("fields.small.null-rate", "0.2"),
        ];
        for split in 0..4 {
            let at_once = rows(&given, &ALL, split, || 10_000);
            assert_eq!(at_once.num_rows(), 250);
            let in_parts = rows(&given, &ALL, split, || rand::random_range(1..40));
            assert_eq!(at_once, in_parts, "seed {seed}, split {split}");
            // nor on which columns are asked for
            assert_eq!(
                rows(&given, &[6, 1], split, || 7),
                at_once.project(&[6, 1]).unwrap(),
                "seed {seed}, split {split}"
            );
        }
        assert_ne!(rows(&given, &[1], 0, || 250), rows(&given, &[1], 1, || 250), "seed {seed}");
    }

    #[test]
    fn a_sequence_has_each_number_once_and_ends_the_table() {
        let given = [("fields.id.start", "5"), ("fields.id.end", "105"), ("splits", "3")];
        let mut numbers: Vec<i64> = Vec::new();
        for split in 0..3 {
            numbers.extend(
                rows(&given, &[0], split, || 8).column(0).as_primitive::<arrow::datatypes::Int64Type>().values(),
            );
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (5..=105).collect::<Vec<i64>>());
    }

    #[test]
    fn words_follow_their_distribution() {
        let given = [
            ("number-of-rows", "8000"),
            ("splits", "1"),
            ("fields.line.vocabulary", "100"),
            ("fields.line.words", "5"),
        ];
        let lines = rows(&given, &[6], 0, || 8000);
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for line in lines.column(0).as_string::<i32>().iter().flatten() {
            assert_eq!(line.split(' ').count(), 5);
            line.split(' ').for_each(|word| *counts.entry(word).or_default() += 1);
        }
        assert_eq!(counts.len(), 100);
        let mut sorted: Vec<u32> = counts.into_values().collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        // 40000 words; the harmonic number of 100 is 5.187: 7711, 3856 and 77 are expected
        assert!(
            (7400..8000).contains(&sorted[0]) && (3600..4100).contains(&sorted[1]) && sorted[99] > 40,
            "{sorted:?}"
        );
    }

    /// The first column of so many rows of one split.
    fn column(given: &[(&str, &str)], column: usize, count: usize) -> ArrayRef {
        let many = count.to_string();
        let given: Vec<_> = given.iter().copied().chain([("number-of-rows", &*many), ("splits", "1")]).collect();
        Arc::clone(rows(&given, &[column], 0, || 1000).column(0))
    }

    #[test]
    fn numbers_follow_their_distribution() {
        const ROWS: usize = 20_000;
        let floats = |given: &[(&str, &str)]| {
            let mut values = column(given, 2, ROWS).as_primitive::<arrow::datatypes::Float64Type>().values().to_vec();
            values.sort_unstable_by(f64::total_cmp);
            let mean = values.iter().sum::<f64>() / ROWS as f64;
            let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / ROWS as f64).sqrt();
            (mean, deviation, values)
        };
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < expected.abs() * 0.03, "{found} for {expected}")
        };
        let (mean, deviation, values) = floats(&[
            ("fields.part.distribution", "normal"),
            ("fields.part.mean", "40"),
            ("fields.part.deviation", "8"),
        ]);
        near(mean, 40.0);
        near(deviation, 8.0);
        near(values[ROWS * 84134 / 100_000], 48.0);
        let (mean, deviation, values) = floats(&[
            ("fields.part.distribution", "exponential"),
            ("fields.part.mean", "3"),
            ("fields.part.min", "10"),
        ]);
        near(mean, 13.0);
        near(deviation, 3.0);
        near(values[ROWS / 2], 10.0 + 3.0 * 2_f64.ln());
        let (.., values) =
            floats(&[("fields.part.distribution", "normal"), ("fields.part.min", "-1"), ("fields.part.max", "2")]);
        assert_eq!((values[0], values[ROWS - 1]), (-1.0, 2.0), "bounds hold");

        let shorts = |given: &[(&str, &str)]| {
            let column = column(given, 1, ROWS);
            let mut counts: HashMap<i16, usize> = HashMap::new();
            for value in column.as_primitive::<arrow::datatypes::Int16Type>().values() {
                *counts.entry(*value).or_default() += 1;
            }
            counts
        };
        let counts = shorts(&[
            ("fields.small.distribution", "zipf"),
            ("fields.small.exponent", "2"),
            ("fields.small.min", "5"),
            ("fields.small.max", "1004"),
        ]);
        let all: f64 = (1..=1000).map(|rank| f64::from(rank).powi(-2)).sum();
        near(counts[&5] as f64, ROWS as f64 / all);
        near(counts[&6] as f64, ROWS as f64 / all / 4.0);
        assert!(counts.keys().all(|value| (5..=1004).contains(value)));
        let counts = shorts(&[("fields.small.distribution", "normal"), ("fields.small.mean", "-7")]);
        near(counts[&-7] as f64, ROWS as f64 * 0.38292);
        let words = column(
            &[("fields.line.words", "1"), ("fields.line.vocabulary", "64"), ("fields.line.distribution", "normal")],
            6,
            ROWS,
        );
        let rank_32 = {
            let mut text = Vec::new();
            spell(32, &mut text);
            String::from_utf8(text).unwrap()
        };
        let middle = words.as_string::<i32>().iter().flatten().filter(|word| *word == rank_32).count();
        assert!((880..1120).contains(&middle), "{middle}");
    }

    #[test]
    fn so_many_are_null_and_the_others_stay_as_they_are() {
        let without = column(&[], 1, 10_000);
        let with = column(&[("fields.small.null-rate", "0.3")], 1, 10_000);
        assert!((2850..3150).contains(&with.null_count()), "{}", with.null_count());
        let (with, without) =
            (with.as_primitive::<arrow::datatypes::Int16Type>(), without.as_primitive::<arrow::datatypes::Int16Type>());
        assert!((0..10_000).all(|row| with.is_null(row) || with.value(row) == without.value(row)));
    }

    #[test]
    fn the_rate_is_that_of_all_splits_by_the_clock() {
        let hands = Arc::new(Hands::default());
        let datagen = Datagen::new(&table(&[("rows-per-second", "1000"), ("splits", "2")]), &[0]).unwrap();
        assert!(!datagen.bounded());
        let context = context(hands.clone());
        let mut split = datagen.open(&[SplitStart::whole("1")], &context).unwrap().remove(0);
        let mut given = |millis| {
            hands.0.store(millis, Ordering::Relaxed);
            match split.poll(100).unwrap() {
                Polled::Rows { rows, .. } => rows.num_rows(),
                Polled::Pending => 0,
                Polled::Ended => panic!("it does not end"),
            }
        };
        assert_eq!(
            [given(1000), given(1001), given(1010), given(1010), given(3010), given(3010)],
            [0, 0, 5, 0, 100, 100]
        );
    }

    #[test]
    fn what_a_type_does_not_hold_is_refused() {
        let check = |given: &[(&str, &str)], expected: &str| {
            assert_eq!(Datagen::new(&table(given), &ALL).unwrap_err().to_string(), expected);
        };
        check(&[("fields.small.max", "70000")], "option 'fields.small.max': Int16 does not hold -32768 to 70000");
        check(
            &[("fields.small.min", "1"), ("fields.small.max", "0")],
            "option 'fields.small.max': it is below 'fields.small.min'",
        );
        check(
            &[("fields.yes.kind", "words")],
            "option 'fields.yes.kind': column \"yes\" of type Boolean can be 'random'",
        );
        check(&[("splits", "0")], "option 'splits': '0' is not from 1 to 1024");
        check(&[("fields.id.null-rate", "0.1")], "option 'fields.id.null-rate': column \"id\" is NOT NULL");
        check(&[("fields.small.null-rate", "1.1")], "option 'fields.small.null-rate': from 0 to 1 are possible");
        check(
            &[("fields.part.distribution", "zipf")],
            "option 'fields.part.distribution': 'zipf' is not one of uniform, normal, exponential, which this column can have",
        );
        check(
            &[("fields.line.distribution", "normal"), ("fields.line.mean", "1e9")],
            "option 'fields.line.distribution': no value would be likely enough to come",
        );
        check(
            &[("fields.part.distribution", "normal"), ("fields.part.deviation", "-1")],
            "option 'fields.part.deviation': it must be above 0",
        );
    }
}
