//! Functions of the tests' own: an aggregate in Rust, and guests in WebAssembly's text form.
#![allow(dead_code)] // each test file uses its part

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use highwater::connector::extensions::Extensions;
use highwater::error::Result;
use highwater::expr::wasm::{Declared, Limits};
use highwater::expr::{Accumulate, AggregateFunction};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The least and the greatest value of each group.
#[derive(Default)]
struct Spread(Vec<Option<(i64, i64)>>);

impl Spread {
    fn column(&self, value: impl Fn((i64, i64)) -> i64) -> ArrayRef {
        Arc::new(self.0.iter().map(|seen| seen.map(&value)).collect::<Int64Array>())
    }
}

impl Accumulate for Spread {
    fn accumulate(&mut self, arguments: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
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

/// `spread(n)`, which is `max(n) - min(n)`.
pub fn spread() -> AggregateFunction {
    let states = [DataType::Int64, DataType::Int64];
    AggregateFunction::new("spread", [DataType::Int64], states, DataType::Int64, || Box::new(Spread::default()))
}

/// A file of examples/wasm.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/wasm").join(name)
}

/// `squares(n)` of examples/wasm, which is `sum(n * n)`.
pub fn squares() -> AggregateFunction {
    let declared = Declared {
        name: "squares".into(),
        arguments: vec![("n".into(), DataType::Int64)],
        states: vec![DataType::Int64],
        returns: DataType::Int64,
        strict: true,
        file: "squares.wat".into(),
        code: wat::parse_file(example("squares.wat")).expect("it is WebAssembly"),
        limits: Limits { fuel: 1000, memory: 1 << 20 },
    };
    declared.aggregate().expect("it keeps to the protocol")
}

/// What there is, and the aggregates of this file.
pub fn extensions() -> Extensions {
    Extensions::new().aggregate(spread()).aggregate(squares())
}
