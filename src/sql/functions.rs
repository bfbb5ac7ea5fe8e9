//! Scalar functions of our own: text to words here, text to a piece of it in [`extract`].
//!
//! Words are views into the text that they are cut from: no byte is copied but the twelve that a view holds itself. Separators are looked
//! for eight bytes at a time and gathered as bits, 64 bytes to a word of bits, so that the loop has hardly a branch that depends on the text.

mod extract;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StringViewArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

/// All of them; one with a name that DataFusion has takes its place.
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let split_words = SplitWords { signature: Signature::string(1, Volatility::Immutable) };
    let string_to_array = StringToArray { theirs: datafusion_functions_nested::string::string_to_array_udf() };
    let words = [Arc::new(ScalarUDF::from(split_words)), Arc::new(ScalarUDF::from(string_to_array))];
    words.into_iter().chain(extract::all()).collect()
}

/// `split_words(text) -> ARRAY<STRING>`: the maximal runs of bytes that are not ASCII white space.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SplitWords {
    signature: Signature,
}

impl ScalarUDFImpl for SplitWords {
    fn name(&self) -> &str {
        "split_words"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(element()))
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &call.args[0] {
            ColumnarValue::Array(texts) => Ok(ColumnarValue::Array(words_of(texts)?)),
            ColumnarValue::Scalar(text) => {
                let words = words_of(&text.to_array_of_size(1)?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&words, 0)?))
            }
        }
    }
}

fn words_of(texts: &ArrayRef) -> Result<ArrayRef> {
    let texts = arrow::compute::cast(texts, &DataType::Utf8)?;
    split_words(texts.as_string())
}

/// DataFusion's `string_to_array`, faster where the delimiter is a literal of one byte.
#[derive(Debug, PartialEq, Eq, Hash)]
struct StringToArray {
    theirs: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for StringToArray {
    fn name(&self) -> &str {
        self.theirs.name()
    }

    fn aliases(&self) -> &[String] {
        self.theirs.aliases()
    }

    fn signature(&self) -> &Signature {
        self.theirs.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let theirs = self.theirs.return_type(arguments)?;
        Ok(if matches!(&theirs, DataType::List(element) if *element.data_type() == DataType::Utf8) {
            DataType::List(element())
        } else {
            theirs
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.theirs.documentation()
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [ColumnarValue::Array(texts), ColumnarValue::Scalar(ScalarValue::Utf8(Some(delimiter)))] =
            call.args.as_slice()
            && let (&[delimiter], Some(texts)) = (delimiter.as_bytes(), texts.as_string_opt::<i32>())
        {
            return Ok(ColumnarValue::Array(split_at(texts, delimiter)?));
        }
        let views = Arc::clone(&call.return_field);
        let rows = call.number_rows;
        let theirs =
            Arc::new(Field::new(views.name(), self.theirs.return_type(&types_of(&call))?, views.is_nullable()));
        let lists =
            self.theirs.invoke_with_args(ScalarFunctionArgs { return_field: theirs, ..call })?.into_array(rows)?;
        Ok(ColumnarValue::Array(arrow::compute::cast(&lists, views.data_type())?))
    }
}

fn types_of(call: &ScalarFunctionArgs) -> Vec<DataType> {
    call.arg_fields.iter().map(|field| field.data_type().clone()).collect()
}

fn element() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Utf8View, true))
}

/// For each text the list of its words.
fn split_words(texts: &StringArray) -> Result<ArrayRef> {
    let white_space = |chunk| {
        [b' ', b'\t', b'\n', b'\x0c', b'\r'].into_iter().fold(0, |found, byte| found | equal_bytes(chunk, byte))
    };
    split(texts, white_space, Empty::Dropped)
}

/// For each text the list of its parts between delimiters; none for an empty text.
fn split_at(texts: &StringArray, delimiter: u8) -> Result<ArrayRef> {
    split(texts, |chunk| equal_bytes(chunk, delimiter), Empty::Kept)
}

/// What becomes of words without bytes.
#[derive(Clone, Copy, PartialEq)]
enum Empty {
    Kept,
    Dropped,
}

/// Cuts each text where `separators` sets the highest bit of a chunk's byte, which must be an ASCII one.
#[inline(always)]
fn split(texts: &StringArray, separators: impl Fn(u64) -> u64, empty: Empty) -> Result<ArrayRef> {
    let bytes = texts.value_data();
    let mut words = Words::new(texts);
    for (row, bounds) in texts.value_offsets().windows(2).enumerate() {
        let (from, to) = (offset(bounds[0]), offset(bounds[1]));
        if from < to && texts.is_valid(row) {
            let mut start = from;
            for block in (from..to).step_by(64) {
                let mut found = separator_bits(bytes, block, to.min(block + 64), &separators);
                while found != 0 {
                    let end = block + found.trailing_zeros() as usize;
                    words.push(bytes, start, end, empty);
                    start = end + 1;
                    found &= found - 1;
                }
            }
            words.push(bytes, start, to, empty);
        }
        words.end_row();
    }
    words.finish(texts)
}

/// A bit for each of the bytes from `from` to `to`, 64 at most: set where they separate.
#[inline(always)]
fn separator_bits(bytes: &[u8], from: usize, to: usize, separators: impl Fn(u64) -> u64) -> u64 {
    let mut bits = 0;
    for chunk in (from..to).step_by(8) {
        let found = separators(chunk_at(bytes, chunk));
        // The multiplication moves the eight bits next to each other, into the highest byte.
        bits |= ((found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (chunk - from);
    }
    bits & (u64::MAX >> (64 - (to - from)))
}

/// The eight bytes from `at` on, zeros after the last.
#[inline(always)]
fn chunk_at(bytes: &[u8], at: usize) -> u64 {
    let rest = &bytes[at..];
    match rest.first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => {
            let mut chunk = [0; 8];
            chunk[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(chunk)
        }
    }
}

/// The highest bit of each byte of `chunk` that equals `byte`.
#[inline(always)]
fn equal_bytes(chunk: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let different = chunk ^ u64::from_ne_bytes([byte; 8]);
    // No carry leaves a byte: its low bits are 7, and so are those of LOW.
    !(((different & LOW) + LOW) | different | LOW)
}

fn offset(offset: i32) -> usize {
    usize::try_from(offset).expect("offsets are not negative")
}

/// Lists of words in the making.
struct Words {
    /// A view of each word, as Arrow lays it out: length, then twelve bytes of the word, or four, buffer and offset.
    views: Vec<u128>,
    /// Where each row's list ends, after the first 0.
    rows: Vec<i32>,
}

/// The longest word that a view holds itself.
const INLINE_MAX: usize = 12;

/// For each length of a word that a view holds itself: which bits of the first four bytes and of the other eight are the word's.
const KEPT: [(u64, u64); INLINE_MAX + 1] = {
    let mut kept = [(0, 0); INLINE_MAX + 1];
    let mut length = 1;
    while length <= INLINE_MAX {
        kept[length] = if length <= 4 {
            (u64::MAX >> (64 - 8 * length), 0)
        } else {
            (u32::MAX as u64, u64::MAX >> (64 - 8 * (length - 4)))
        };
        length += 1;
    }
    kept
};

impl Words {
    fn new(texts: &StringArray) -> Self {
        const USUAL_BYTES_A_WORD: usize = 6;
        let offsets = texts.value_offsets();
        let bytes = offset(offsets[texts.len()]) - offset(offsets[0]);
        let mut rows = Vec::with_capacity(texts.len() + 1);
        rows.push(0);
        Words { views: Vec::with_capacity(bytes / USUAL_BYTES_A_WORD + texts.len()), rows }
    }

    /// Adds the word `bytes[start..end]`.
    #[inline(always)]
    fn push(&mut self, bytes: &[u8], start: usize, end: usize, empty: Empty) {
        let length = end - start;
        if length == 0 && empty == Empty::Dropped {
            return;
        }
        let head = match bytes[start..].first_chunk::<INLINE_MAX>() {
            Some(head) => *head,
            None => {
                let mut head = [0; INLINE_MAX];
                let rest = &bytes[start..];
                head[..rest.len()].copy_from_slice(rest);
                head
            }
        };
        let [a, b, c, d, rest @ ..] = head;
        let (first, rest) = (u64::from(u32::from_le_bytes([a, b, c, d])), u64::from_le_bytes(rest));
        // the buffer is number 0; offsets and lengths fit: those of the text have 31 bits
        let (low, high) = match KEPT.get(length) {
            Some(&(kept_first, kept_rest)) => (first & kept_first, rest & kept_rest),
            None => (first, (start as u64) << 32),
        };
        self.views.push(u128::from(high) << 64 | u128::from(low << 32 | length as u64));
    }

    fn end_row(&mut self) {
        self.rows.push(self.views.len() as i32);
    }

    fn finish(self, texts: &StringArray) -> Result<ArrayRef> {
        let words = views_into(texts, self.views);
        Ok(Arc::new(ListArray::try_new(element(), offsets(self.rows), Arc::new(words), texts.nulls().cloned())?))
    }
}

/// The words at `views`, which were made by [`Words::push`] from the bytes of `texts`, cut at ASCII bytes.
#[allow(unsafe_code)]
fn views_into(texts: &StringArray, views: Vec<u128>) -> StringViewArray {
    // Checking each word again would cost as much as finding it.
    // SAFETY: every view is a piece of the text's buffer, with its length, its first bytes and, if it is long, buffer 0 and its offset.
    // A piece of UTF-8 between two ASCII bytes, or between one and an end of the text, is UTF-8.
    unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(views), vec![texts.values().clone()], None) }
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion_common::config::ConfigOptions;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    /// `function` of `arguments`, by rows.
    fn call(function: &ScalarUDF, arguments: Vec<ColumnarValue>, rows: usize) -> ArrayRef {
        let types: Vec<DataType> = arguments.iter().map(ColumnarValue::data_type).collect();
        let field = |data_type: &DataType| Arc::new(Field::new("x", data_type.clone(), true));
        let result = function.invoke_with_args(ScalarFunctionArgs {
            arg_fields: types.iter().map(field).collect(),
            return_field: field(&function.return_type(&types).unwrap()),
            args: arguments,
            number_rows: rows,
            config_options: Arc::new(ConfigOptions::default()),
        });
        result.unwrap().into_array(rows).unwrap()
    }

    fn named(name: &str) -> Arc<ScalarUDF> {
        all().into_iter().find(|function| function.name() == name).unwrap()
    }

    /// What [`views_into`] does not check.
    fn check(lists: &ArrayRef) {
        lists.as_list::<i32>().values().to_data().validate_full().unwrap();
    }

    /// Texts over a small alphabet with separators, letters of several bytes, empty and missing rows; a slice of a longer array.
    fn random_texts(random: &mut StdRng) -> StringArray {
        const ALPHABET: [&str; 9] = [" ", " ", ",", "a", "b", "ß", "\t", "\n", "日本"];
        let rows = random.random_range(2..40);
        let texts = (0..rows).map(|_| {
            let length =
                if random.random_bool(0.1) { random.random_range(60..140) } else { random.random_range(0..12) };
            let text: String = (0..length).map(|_| ALPHABET[random.random_range(0..ALPHABET.len())]).collect();
            random.random_bool(0.9).then_some(text)
        });
        let texts: StringArray = texts.collect();
        let start = random.random_range(0..rows);
        texts.slice(start, random.random_range(0..=rows - start))
    }

    #[test]
    fn string_to_array_gives_what_datafusion_gives() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let theirs = datafusion_functions_nested::string::string_to_array_udf();
        for _ in 0..500 {
            let texts = random_texts(&mut random);
            for delimiter in [" ", ",", "", "ab", "\t"] {
                let arguments = || {
                    let texts: ArrayRef = Arc::new(texts.clone());
                    vec![ColumnarValue::Array(texts), ColumnarValue::Scalar(ScalarValue::from(delimiter))]
                };
                let (ours, rows) = (named("string_to_array"), texts.len());
                let ours = call(&ours, arguments(), rows);
                check(&ours);
                let theirs = call(&theirs, arguments(), rows);
                assert_eq!(
                    &arrow::compute::cast(&ours, theirs.data_type()).unwrap(),
                    &theirs,
                    "seed {seed}: {texts:?} at {delimiter:?}"
                );
            }
        }
    }

    #[test]
    fn pieces_are_those_that_the_standard_library_and_captures_give() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let texts = random_texts(&mut random);
            let call = |name: &str, what: &str, number: i64| {
                let array: ArrayRef = Arc::new(texts.clone());
                let constants = [ScalarValue::from(what), ScalarValue::from(number)].map(ColumnarValue::Scalar);
                call(&named(name), [ColumnarValue::Array(array)].into_iter().chain(constants).collect(), texts.len())
            };
            for (delimiter, index) in [(" ", 0), (" ", 7), (",", 2), ("ab", 1), ("ß", 1), (" ", -1)] {
                let at = |text: &str| text.split(delimiter).nth(usize::try_from(index).ok()?).map(str::to_owned);
                let expected: StringArray = texts.iter().map(|text| text.and_then(at)).collect();
                assert_eq!(
                    call("split_index", delimiter, index).as_string::<i32>(),
                    &expected,
                    "seed {seed}: {texts:?} at {delimiter:?}"
                );
            }
            for (pattern, group) in [
                ("a(b+)", 1),
                ("(^| )(a|ß)*", 2),
                ("[^ab ]+", 0),
                ("(ß|^)?a(,|b)*ab", 2),
                ("(日|本|,)ß(.*)", 2),
                ("b", 0),
            ] {
                let regex = regex::Regex::new(pattern).unwrap();
                let of = |text: &str| Some(regex.captures(text)?.get(group as usize)?.as_str().to_owned());
                let expected: StringArray = texts.iter().map(|text| text.and_then(of)).collect();
                assert_eq!(
                    call("regexp_extract", pattern, group).as_string::<i32>(),
                    &expected,
                    "seed {seed}: {texts:?} by {pattern:?}"
                );
            }
        }
    }

    #[test]
    fn split_words_gives_what_the_standard_library_gives() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..500 {
            let texts = random_texts(&mut random);
            let texts_array: ArrayRef = Arc::new(texts.clone());
            let lists = call(&named("split_words"), vec![ColumnarValue::Array(texts_array)], texts.len());
            check(&lists);
            for (row, list) in lists.as_list::<i32>().iter().enumerate() {
                let words =
                    list.map(|list| list.as_string_view().iter().flatten().map(str::to_owned).collect::<Vec<_>>());
                let text = texts.is_valid(row).then(|| texts.value(row));
                let expected = text.map(|text| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>());
                assert_eq!(words, expected, "seed {seed}: {text:?}");
            }
        }
    }
}
