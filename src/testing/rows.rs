//! Rows as text: what is compared, and what is shown.

use crate::batch::Batch;
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// The cells of a row, as SQL would have them. Numbers with a floating point have twelve digits: the last ones of a sum go by the order
/// in which it was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row(pub Vec<String>);

/// The rows of `batch`, of its columns `columns`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a type that has no text.
pub fn rows_of(batch: &Batch, columns: &[usize]) -> Result<Vec<Row>> {
    let mut rows = vec![Row(Vec::with_capacity(columns.len())); batch.num_rows()];
    for column in columns {
        let cells = cells(batch.column(*column))?;
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.0.push(cell));
    }
    Ok(rows)
}

fn cells(column: &ArrayRef) -> Result<Vec<String>> {
    const OPTIONS: FormatOptions<'static> = FormatOptions::new()
        .with_null("NULL")
        .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
    let double = |value: Option<f64>| value.map_or_else(|| "NULL".into(), twelve_digits);
    Ok(match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().map(double).collect(),
        DataType::Float32 => {
            column.as_primitive::<Float32Type>().iter().map(|value| double(value.map(f64::from))).collect()
        }
        data_type => {
            let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let formatter = ArrayFormatter::try_new(column.as_ref(), &OPTIONS)
                .map_err(|error| Error::invalid(format!("a column cannot be shown: {error}")))?;
            let cell = |row: usize| match text && column.is_valid(row) {
                true => format!("'{}'", formatter.value(row).to_string().replace('\'', "''")),
                false => formatter.value(row).to_string(),
            };
            (0..column.len()).map(cell).collect()
        }
    })
}

fn twelve_digits(value: f64) -> String {
    match format!("{value:.11e}").parse::<f64>() {
        // there is one zero
        Ok(rounded) => format!("{}", if rounded == 0.0 { 0.0 } else { rounded }),
        Err(_) => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_in_another_order_are_the_same() {
        let one_way = [0.1, 0.2, 0.3].iter().sum::<f64>();
        let other_way = [0.3, 0.2, 0.1].iter().sum::<f64>();
        assert_ne!(one_way, other_way);
        assert_eq!(twelve_digits(one_way), twelve_digits(other_way));
        assert_eq!(twelve_digits(-0.0), "0");
        assert_ne!(twelve_digits(0.1), twelve_digits(0.100_000_001));
        assert_eq!(twelve_digits(f64::NAN), "NaN");
    }
}
