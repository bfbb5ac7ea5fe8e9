//! Scalar functions of our own: text to words.
//!
//! Both functions write the words of a whole batch into one buffer, byte by byte and without a branch on what the byte is:
//! a byte that separates is overwritten by the next one. No word is ever a string of its own.

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::sync::Arc;

/// All of them; one with a name that DataFusion has takes its place.
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let split_words = SplitWords { signature: Signature::string(1, Volatility::Immutable) };
    let string_to_array = StringToArray { theirs: datafusion_functions_nested::string::string_to_array_udf() };
    vec![Arc::new(ScalarUDF::from(split_words)), Arc::new(ScalarUDF::from(string_to_array))]
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
        self.theirs.return_type(arguments)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.theirs.documentation()
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [ColumnarValue::Array(texts), ColumnarValue::Scalar(ScalarValue::Utf8(Some(delimiter)))] = call.args.as_slice()
            && let (&[delimiter], Some(texts)) = (delimiter.as_bytes(), texts.as_string_opt::<i32>())
        {
            return Ok(ColumnarValue::Array(split_at(texts, delimiter)?));
        }
        self.theirs.invoke_with_args(call)
    }
}

fn element() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Utf8, true))
}

/// For each text the list of its words.
fn split_words(texts: &StringArray) -> Result<ArrayRef> {
    let separators = bytes_of(texts).iter().filter(|byte| byte.is_ascii_whitespace()).count();
    let mut words = Words::new(texts, separators + texts.len());
    for row in 0..texts.len() {
        if texts.is_valid(row) {
            // Before a word, white space ends nothing; the end of the text ends a word like white space does.
            let mut inside = false;
            for byte in texts.value(row).bytes() {
                let separates = byte.is_ascii_whitespace();
                words.put(byte, !separates, separates & inside);
                inside = !separates;
            }
            words.end_if(inside);
        }
        words.end_row();
    }
    words.finish(texts)
}

/// For each text the list of its parts between delimiters; none for an empty text.
fn split_at(texts: &StringArray, delimiter: u8) -> Result<ArrayRef> {
    let delimiters = memchr::memchr_iter(delimiter, bytes_of(texts)).count();
    let mut words = Words::new(texts, delimiters + texts.len());
    for row in 0..texts.len() {
        if texts.is_valid(row) {
            let text = texts.value(row);
            for byte in text.bytes() {
                let separates = byte == delimiter;
                words.put(byte, !separates, separates);
            }
            words.end_if(!text.is_empty());
        }
        words.end_row();
    }
    words.finish(texts)
}

/// The bytes of all rows.
fn bytes_of(texts: &StringArray) -> &[u8] {
    let offsets = texts.value_offsets();
    let bound = |offset: i32| usize::try_from(offset).expect("offsets are not negative");
    &texts.value_data()[bound(offsets[0])..bound(offsets[texts.len()])]
}

/// Lists of words in the making.
struct Words {
    /// The words' bytes, `filled` of them, and room for one byte that does not stay.
    bytes: Vec<u8>,
    filled: usize,
    /// Where each word ends, `count` of them after the first 0, and room for an end that does not stay.
    ends: Vec<i32>,
    count: usize,
    /// Where each row's list ends, after the first 0.
    rows: Vec<i32>,
}

impl Words {
    /// Room for the bytes of `texts` and `words_max` words.
    fn new(texts: &StringArray, words_max: usize) -> Self {
        let mut rows = Vec::with_capacity(texts.len() + 1);
        rows.push(0);
        Words { bytes: vec![0; bytes_of(texts).len() + 1], filled: 0, ends: vec![0; words_max + 2], count: 0, rows }
    }

    /// Adds `byte` to the open word if it `stays`, and ends that word if it `ends`.
    #[inline(always)]
    fn put(&mut self, byte: u8, stays: bool, ends: bool) {
        self.bytes[self.filled] = byte;
        self.filled += usize::from(stays);
        self.end_if(ends);
    }

    /// Ends the open word if it `ends`.
    #[inline(always)]
    fn end_if(&mut self, ends: bool) {
        // Less than the bytes of an array whose offsets are 32 bits.
        self.ends[self.count + 1] = self.filled as i32;
        self.count += usize::from(ends);
    }

    fn end_row(&mut self) {
        self.rows.push(self.count as i32);
    }

    fn finish(mut self, texts: &StringArray) -> Result<ArrayRef> {
        self.bytes.truncate(self.filled);
        self.ends.truncate(self.count + 1);
        let words = StringArray::try_new(offsets(self.ends), Buffer::from_vec(self.bytes), None)?;
        Ok(Arc::new(ListArray::try_new(element(), offsets(self.rows), Arc::new(words), texts.nulls().cloned())?))
    }
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

    /// Texts over a small alphabet with separators, letters of several bytes, empty and missing rows; a slice of a longer array.
    fn random_texts(random: &mut StdRng) -> StringArray {
        const ALPHABET: [&str; 9] = [" ", " ", ",", "a", "b", "ß", "\t", "\n", "日本"];
        let rows = random.random_range(2..40);
        let texts = (0..rows).map(|_| {
            let length = random.random_range(0..12);
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
                assert_eq!(&call(&ours, arguments(), rows), &call(&theirs, arguments(), rows), "seed {seed}: {texts:?} at {delimiter:?}");
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
            for (row, list) in lists.as_list::<i32>().iter().enumerate() {
                let words = list.map(|list| list.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>());
                let text = texts.is_valid(row).then(|| texts.value(row));
                let expected = text.map(|text| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>());
                assert_eq!(words, expected, "seed {seed}: {text:?}");
            }
        }
    }
}
