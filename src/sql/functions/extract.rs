//! Functions that take a piece out of a text, named and counted as in Flink. What they look for is a constant, so that it is
//! prepared once a batch; NULL where there is no such piece.

use super::{equal_bytes, offset, separator_bits};
use arrow::array::{ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use memchr::memmem;
use regex::{CaptureLocations, Regex};
use regex_syntax::hir::{HirKind, Literal};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
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
            &[byte] if byte.is_ascii() => each_text(&call, |text, bytes| part_at(bytes, text.len(), byte, index)),
            bytes => {
                let finder = memmem::Finder::new(bytes);
                each_text(&call, |text, _| part(text.as_bytes(), &finder, index))
            }
        }
    }
}

/// Where part `index` of the first `length` of `bytes` is, between bytes `delimiter`: gathered as bits, 64 bytes at a time.
fn part_at(bytes: &[u8], length: usize, delimiter: u8, index: usize) -> Option<Range<usize>> {
    let (mut left, mut start) = (index, 0);
    for block in (0..length).step_by(64) {
        let mut found = separator_bits(bytes, block, length.min(block + 64), |chunk| equal_bytes(chunk, delimiter));
        while found != 0 {
            let at = block + found.trailing_zeros() as usize;
            if left == 0 {
                return Some(start..at);
            }
            (left, start, found) = (left - 1, at + 1, found & (found - 1));
        }
    }
    (left == 0).then_some(start..length)
}

/// The same in all of `bytes` between longer delimiters.
fn part(bytes: &[u8], delimiter: &memmem::Finder, index: usize) -> Option<Range<usize>> {
    let next = |start: usize| delimiter.find(&bytes[start..]).map(|at| start + at);
    let mut start = 0;
    for _ in 0..index {
        start = next(start)? + delimiter.needle().len();
    }
    Some(start..next(start).unwrap_or(bytes.len()))
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
        let pattern = Pattern::compiled(pattern)?;
        let Some(group) = usize::try_from(group).ok().filter(|group| *group < pattern.regex.captures_len()) else {
            return exec_err!("regexp_extract: '{}' has no group {group}", pattern.regex);
        };
        let mut places = pattern.regex.capture_locations();
        each_text(&call, |text, _| {
            pattern.read(&mut places, text)?;
            places.get(group).map(|(start, end)| start..end)
        })
    }
}

/// A regular expression and what is looked for before it.
struct Pattern {
    regex: Regex,
    /// A text that each match has in it, and the most bytes that a match has before that.
    needle: Option<(memmem::Finder<'static>, usize)>,
}

thread_local! {
    /// What was compiled before: patterns are constants of queries, so they come again with each batch.
    static COMPILED: RefCell<HashMap<String, Rc<Pattern>>> = RefCell::default();
}

impl Pattern {
    fn compiled(pattern: &str) -> Result<Rc<Self>> {
        const KEPT: usize = 64;
        COMPILED.with_borrow_mut(|compiled| {
            if let Some(known) = compiled.get(pattern) {
                return Ok(Rc::clone(known));
            }
            let regex = match Regex::new(pattern) {
                Ok(regex) => regex,
                Err(error) => return exec_err!("regexp_extract: {error}"),
            };
            let needle = needle(pattern).map(|(needle, before)| (memmem::Finder::new(&needle).into_owned(), before));
            let new = Rc::new(Pattern { regex, needle });
            if compiled.len() == KEPT {
                compiled.clear();
            }
            compiled.insert(pattern.to_owned(), Rc::clone(&new));
            Ok(new)
        })
    }

    /// The first match in `text`. It cannot start long before the needle, so nothing before that is looked at.
    fn read(&self, places: &mut CaptureLocations, text: &str) -> Option<()> {
        let start = match &self.needle {
            Some((needle, before)) => text.floor_char_boundary(needle.find(text.as_bytes())?.saturating_sub(*before)),
            None => 0,
        };
        self.regex.captures_read_at(places, text, start).map(drop)
    }
}

/// The longest text in `pattern` that each match has, as far as the parts before it are of limited length, and their length.
fn needle(pattern: &str) -> Option<(Vec<u8>, usize)> {
    let hir = regex_syntax::parse(pattern).ok()?;
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(&hir),
    };
    let mut before = 0;
    let mut found: Option<(Vec<u8>, usize)> = None;
    for part in parts {
        if let HirKind::Literal(Literal(text)) = part.kind()
            && found.as_ref().is_none_or(|(longest, _)| longest.len() < text.len())
        {
            found = Some((text.to_vec(), before));
        }
        match part.properties().maximum_len() {
            Some(length) => before += length,
            None => break,
        }
    }
    found
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

/// The piece of each of the texts of the first argument. `of` is given a text, and its bytes with those that happen to follow, which
/// may be read in chunks; it says where in the text the piece is.
fn each_text(
    call: &ScalarFunctionArgs,
    mut of: impl FnMut(&str, &[u8]) -> Option<Range<usize>>,
) -> Result<ColumnarValue> {
    match &call.args[0] {
        ColumnarValue::Scalar(text) => {
            let text = text.try_as_str().flatten();
            let piece = text.and_then(|text| of(text, text.as_bytes()).map(|piece| text[piece].to_owned()));
            Ok(ColumnarValue::Scalar(ScalarValue::Utf8(piece)))
        }
        ColumnarValue::Array(texts) => {
            let texts: &StringArray = texts.as_string();
            let (bytes, starts) = (texts.value_data(), texts.value_offsets());
            let mut pieces = StringBuilder::with_capacity(call.number_rows, bytes.len() / 4);
            for (text, start) in texts.iter().zip(starts) {
                let piece = text.and_then(|text| of(text, &bytes[offset(*start)..]).map(|piece| &text[piece]));
                pieces.append_option(piece);
            }
            Ok(ColumnarValue::Array(Arc::new(pieces.finish()) as ArrayRef))
        }
    }
}
