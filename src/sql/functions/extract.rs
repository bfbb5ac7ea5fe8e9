//! Functions that take a piece out of a text, named and counted as in Flink. What they look for is a constant, so that it is
//! prepared once a batch; NULL where there is no such piece.

use arrow::array::{ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use memchr::{memchr, memmem};
use regex::Regex;
use std::sync::Arc;

/// All of them.
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let signature = |arguments| Signature::exact(arguments, Volatility::Immutable);
    let (text, number) = (|| DataType::Utf8, || DataType::Int64);
    let split_index = SplitIndex { signature: signature(vec![text(), text(), number()]) };
    let regexp_extract = RegexpExtract { signature: signature(vec![text(), text(), number()]) };
    vec![Arc::new(ScalarUDF::from(split_index)), Arc::new(ScalarUDF::from(regexp_extract))]
}

/// `split_index(text, delimiter, index)`: the part between delimiters, counted from 0.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SplitIndex {
    signature: Signature,
}

impl ScalarUDFImpl for SplitIndex {
    fn name(&self) -> &str {
        "split_index"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (delimiter, index) = constants(self.name(), &call)?;
        let (Some(delimiter), Some(Ok(index))) = (delimiter, index.map(usize::try_from)) else {
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None)));
        };
        match delimiter.as_bytes() {
            [] => exec_err!("split_index: the delimiter is empty"),
            &[byte] => each_text(&call, |text| part(text, index, 1, |rest| memchr(byte, rest))),
            bytes => {
                let finder = memmem::Finder::new(bytes);
                each_text(&call, |text| part(text, index, bytes.len(), |rest| finder.find(rest)))
            }
        }
    }
}

/// Part `index` of `text`, where `find` says where the next delimiter is, of `length` bytes.
fn part(text: &str, index: usize, length: usize, find: impl Fn(&[u8]) -> Option<usize>) -> Option<&str> {
    let mut rest = text;
    for _ in 0..index {
        rest = &rest[find(rest.as_bytes())? + length..];
    }
    Some(find(rest.as_bytes()).map_or(rest, |end| &rest[..end]))
}

/// `regexp_extract(text, pattern, group)`: what the group matched where the pattern first matches; group 0 is all of it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RegexpExtract {
    signature: Signature,
}

impl ScalarUDFImpl for RegexpExtract {
    fn name(&self) -> &str {
        "regexp_extract"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(pattern), Some(group)) = constants(self.name(), &call)? else {
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None)));
        };
        let regex = match Regex::new(pattern) {
            Ok(regex) => regex,
            Err(error) => return exec_err!("regexp_extract: {error}"),
        };
        let Some(group) = usize::try_from(group).ok().filter(|group| *group < regex.captures_len()) else {
            return exec_err!("regexp_extract: '{pattern}' has no group {group}");
        };
        let mut places = regex.capture_locations();
        each_text(&call, |text| {
            regex.captures_read(&mut places, text)?;
            places.get(group).map(|(start, end)| &text[start..end])
        })
    }
}

/// The second argument, a text, and the third, a number.
fn constants<'a>(name: &str, call: &'a ScalarFunctionArgs) -> Result<(Option<&'a str>, Option<i64>)> {
    match &call.args[1..] {
        [ColumnarValue::Scalar(ScalarValue::Utf8(text)), ColumnarValue::Scalar(ScalarValue::Int64(number))] => {
            Ok((text.as_deref(), *number))
        }
        _ => plan_err!("{name}: what is looked for must be a constant"),
    }
}

/// The piece that `of` finds in each of the texts of the first argument.
fn each_text(call: &ScalarFunctionArgs, mut of: impl FnMut(&str) -> Option<&str>) -> Result<ColumnarValue> {
    match &call.args[0] {
        ColumnarValue::Scalar(text) => {
            let piece = text.try_as_str().flatten().and_then(of);
            Ok(ColumnarValue::Scalar(ScalarValue::Utf8(piece.map(str::to_owned))))
        }
        ColumnarValue::Array(texts) => {
            let texts: &StringArray = texts.as_string();
            let mut pieces = StringBuilder::with_capacity(call.number_rows, texts.value_data().len() / 4);
            texts.iter().for_each(|text| pieces.append_option(text.and_then(&mut of)));
            Ok(ColumnarValue::Array(Arc::new(pieces.finish()) as ArrayRef))
        }
    }
}
