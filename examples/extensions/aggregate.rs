//! An aggregate function: `spread(n)` is how far the values of a group lie apart.

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use highwater::error::Result;
use highwater::expr::{Accumulate, AggregateFunction};
use std::sync::Arc;

pub fn spread() -> AggregateFunction {
    let states = [DataType::Int64, DataType::Int64];
    AggregateFunction::new("spread", [DataType::Int64], states, DataType::Int64, || Box::new(Spread::default()))
}

/// The least and the greatest value of each group, if it has any.
#[derive(Default)]
struct Spread(Vec<Option<(i64, i64)>>);

impl Spread {
    fn column(&self, value: impl Fn((i64, i64)) -> i64) -> ArrayRef {
        Arc::new(self.0.iter().map(|seen| seen.map(&value)).collect::<Int64Array>())
    }
}

impl Accumulate for Spread {
    fn accumulate(&mut self, arguments: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        // A row is a state of its own: its value is the least and the greatest.
        self.merge(&[Arc::clone(&arguments[0]), Arc::clone(&arguments[0])], groups, count)
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.0.resize(count, None);
        let (lows, highs) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<Int64Type>());
        for ((low, high), group) in lows.iter().zip(highs).zip(groups) {
            if let (Some(low), Some(high)) = (low, high) {
                let seen = self.0[*group].unwrap_or((low, high));
                self.0[*group] = Some((seen.0.min(low), seen.1.max(high)));
            }
        }
        Ok(())
    }

    fn states(&mut self) -> Result<Vec<ArrayRef>> {
        let states = vec![self.column(|seen| seen.0), self.column(|seen| seen.1)];
        self.0.clear();
        Ok(states)
    }

    fn results(&mut self) -> Result<ArrayRef> {
        let results = self.column(|seen| seen.1 - seen.0);
        self.0.clear();
        Ok(results)
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Option<(i64, i64)>>()
    }
}
