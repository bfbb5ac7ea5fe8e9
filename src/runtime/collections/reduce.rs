//! What is made of all rows of each key: a function of the operators' room, under differential's reduce.

use super::super::steps::Site;
use super::{Coder, Collected, Indexed, Row, Split, refill};
use crate::batch::batch_of;
use crate::error::Result;
use crate::operator::group::GroupFunction;
use crate::plan::Reducing;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::trace::implementations::{ValBuilder, ValSpine};
use std::sync::Arc;
use timely::progress::Timestamp;

/// What `spec` makes of the rows of each key.
pub fn reduce<'scope, T: Timestamp + Lattice + Ord>(
    spec: &Reducing,
    input: &SchemaRef,
    output: &SchemaRef,
    rows: Indexed<'scope, T>,
    site: Site,
) -> Result<Collected<'scope, T, Row>> {
    let mut maker = Maker {
        split: Split::new(input, &spec.keys)?,
        input: Arc::clone(input),
        function: GroupFunction::new(spec, input, Arc::clone(output))?,
        coder: Coder::new(output, (0..output.fields().len()).collect())?,
    };
    let made = rows.reduce_abelian::<_, ValBuilder<Row, Row, T, i64>, ValSpine<Row, Row, T, i64>, _, _>(
        &site.name(),
        move |key, rows, made| {
            if let Some(rows) = site.attempt(|| maker.make(key, rows)) {
                made.extend(rows.into_iter().map(|row| (row, 1)));
            }
        },
        refill,
    );
    Ok(made.as_collection(|_, row| row.clone()))
}

struct Maker {
    split: Split,
    input: SchemaRef,
    function: GroupFunction,
    coder: Coder,
}

impl Maker {
    fn make(&mut self, key: &Row, rows: &[(&Row, i64)]) -> Result<Vec<Row>> {
        let copies = rows
            .iter()
            .flat_map(|(row, weight)| std::iter::repeat_n(row.as_ref(), usize::try_from(*weight).unwrap_or(0)));
        let copies: Vec<&[u8]> = copies.collect();
        if copies.is_empty() {
            return Ok(Vec::new());
        }
        let count = copies.len();
        let first = UInt32Array::from_value(0, count);
        let mut columns: Vec<ArrayRef> = Vec::new();
        for column in self.split.key.decode([&key[1..]])? {
            columns.push(take(&column, &first, None).map_err(crate::batch::from_arrow)?);
        }
        columns.extend(self.split.rest.decode(copies)?);
        let columns = self.split.places().into_iter().map(|place| Arc::clone(&columns[place])).collect();
        let made = self.function.of(&batch_of(Arc::clone(&self.input), columns, count)?)?;
        self.coder.encode(&made)
    }
}
