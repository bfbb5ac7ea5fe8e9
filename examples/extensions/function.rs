//! A function: `initials('Ada Lovelace')` is `AL`.

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use highwater::expr::ScalarFunction;
use std::sync::Arc;

pub fn initials() -> ScalarFunction {
    ScalarFunction::new("initials", [DataType::Utf8], DataType::Utf8, |arguments| {
        // A column at a time; a row without a name has no initials.
        let initials = |name: &str| name.split_whitespace().filter_map(|word| word.chars().next()).collect::<String>();
        let names = arguments[0].as_string::<i32>();
        let values: StringArray = names.iter().map(|name| name.map(initials)).collect();
        Ok(Arc::new(values) as ArrayRef)
    })
}
