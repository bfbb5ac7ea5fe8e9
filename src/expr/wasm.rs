//! Functions whose code is a WebAssembly file: CREATE FUNCTION loads them, docs/functions.md has the protocol.
//!
//! ```text
//! columns ─ buffers (or one Arrow IPC message) ─▶ the guest's memory ─ call ─▶ its answer ─ checked ─▶ a column
//! ```
//! A guest gets nothing from outside: a module with imports is refused. What it may use is bounded: instructions for a batch, memory. It
//! is called once a batch, never once a row. Whatever it does wrong is an error that names the function and its file. Numbers that are
//! not a number have one bit pattern, vector instructions one meaning, so its answers are the same on every machine.

#[cfg(feature = "wasm")]
mod buffers;
#[cfg(feature = "wasm")]
mod groups;
#[cfg(feature = "wasm")]
mod sandbox;

#[cfg(feature = "wasm")]
use super::Accumulate;
use super::{AggregateFunction, ScalarFunction};
use crate::error::{Error, Result};
#[cfg(feature = "wasm")]
use arrow::array::{Array, ArrayRef, make_array, new_empty_array};
#[cfg(feature = "wasm")]
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
#[cfg(feature = "wasm")]
use arrow::datatypes::Field;
#[cfg(feature = "wasm")]
use sandbox::{Entry, Guest};
#[cfg(feature = "wasm")]
use std::sync::Arc;

/// A function as it is declared, with its code.
#[derive(Debug, Clone)]
pub struct Declared {
    /// What SQL calls it, in small letters.
    pub name: String,
    /// The names and types of its arguments.
    pub arguments: Vec<(String, DataType)>,
    /// The types of an aggregate's state; empty for a function of rows.
    pub states: Vec<DataType>,
    /// The type of what it gives.
    pub returns: DataType,
    /// True if a NULL among the arguments gives NULL, or is left out by an aggregate, whatever the code does with it.
    pub strict: bool,
    /// The file, for messages.
    pub file: String,
    /// The file's content.
    pub code: Vec<u8>,
    /// What it may use.
    pub limits: Limits,
}

/// What a guest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Instructions for each row of a batch, on average; each batch has [`FUEL_OF_BATCH`] besides.
    pub fuel: u64,
    /// Bytes of memory of each instance.
    pub memory: u64,
}

/// Instructions that a batch may take however few rows it has.
pub const FUEL_OF_BATCH: u64 = 100_000_000;

impl Declared {
    /// Of what decides its answers: the same in every process that has the same file and declaration. The limits are left out: they
    /// decide whether there is an answer, and may be raised over kept states.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let types: Vec<&DataType> = self.arguments.iter().map(|(_, data_type)| data_type).collect();
        let declared = format!("{types:?} {:?} {:?} {}\n", self.states, self.returns, self.strict);
        hasher.update(declared.as_bytes());
        hasher.update(&self.code);
        *hasher.finalize().as_bytes()
    }

    /// The function of rows, ready to be called.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if the file is not a module, imports anything, does not export what the
    /// protocol asks for, or wants too much memory; and in a build without the feature `wasm`.
    #[cfg(feature = "wasm")]
    pub fn scalar(&self) -> Result<ScalarFunction> {
        let types: Vec<DataType> = self.arguments.iter().map(|(_, data_type)| data_type.clone()).collect();
        let plain = types.iter().chain([&self.returns]).all(buffers::is_plain);
        let entry = Guest::entry(self, plain)?;
        let guest = Guest::load(self, &[entry])?;
        let (strict, returns) = (self.strict, self.returns.clone());
        let names: Vec<String> = self.arguments.iter().map(|(name, _)| name.clone()).collect();
        let compute = move |arguments: &[ArrayRef]| {
            let rows = arguments.first().map_or(0, |column| column.len());
            if rows == 0 {
                return Ok(new_empty_array(&returns));
            }
            let values = match entry {
                Entry::CallRaw => guest.with(rows, |instance| {
                    let columns = instance.give(arguments)?;
                    let answer = instance.call(entry, &[columns.rows(rows)?, columns.address()])?;
                    instance.take(answer, &[(&returns, rows)])
                }),
                _ => guest.with(rows, |instance| {
                    let columns = names.iter().zip(arguments).map(|(name, column)| {
                        (Arc::new(Field::new(name, column.data_type().clone(), true)), Arc::clone(column))
                    });
                    instance.exchange(columns.collect()).map(|column| vec![column])
                }),
            };
            let values = values?.pop().ok_or_else(|| Error::internal("a call gave no column"))?;
            if !strict {
                return Ok(values);
            }
            let nulls = arguments
                .iter()
                .fold(values.nulls().cloned(), |nulls, column| NullBuffer::union(nulls.as_ref(), column.nulls()));
            let data = values.to_data().into_builder().nulls(nulls).build();
            data.map(make_array).map_err(|error| Error::internal(error.to_string()))
        };
        Ok(ScalarFunction::new(&self.name, types, self.returns.clone(), compute).with_digest(self.digest()))
    }

    /// The aggregate function, ready to be called.
    ///
    /// # Errors
    /// As [`scalar`](Self::scalar).
    #[cfg(feature = "wasm")]
    pub fn aggregate(&self) -> Result<AggregateFunction> {
        let types: Vec<DataType> = self.arguments.iter().map(|(_, data_type)| data_type.clone()).collect();
        if !types.iter().chain(&self.states).chain([&self.returns]).all(buffers::is_plain) {
            return Err(self
                .wrong("an aggregate function in WebAssembly takes, keeps and gives no ARRAY, MAP or ROW")
                .help("the types are numbers, DECIMAL, BOOLEAN, STRING, BYTES and those of time"));
        }
        let guest = Guest::load(self, &[Entry::Accumulate, Entry::Merge, Entry::Result])?;
        let shape = Arc::new(groups::Shape {
            guest,
            states: self.states.clone(),
            returns: self.returns.clone(),
            strict: self.strict,
        });
        let make = move || Box::new(groups::Groups::new(Arc::clone(&shape))) as Box<dyn Accumulate>;
        let function = AggregateFunction::new(&self.name, types, self.states.clone(), self.returns.clone(), make);
        Ok(function.with_digest(self.digest()))
    }

    /// In this build no function can be loaded.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "wasm"))]
    pub fn scalar(&self) -> Result<ScalarFunction> {
        Err(self.left_out())
    }

    /// In this build no function can be loaded.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "wasm"))]
    pub fn aggregate(&self) -> Result<AggregateFunction> {
        Err(self.left_out())
    }

    #[cfg(not(feature = "wasm"))]
    fn left_out(&self) -> Error {
        Error::invalid(format!("{}() is WebAssembly, which this build of highwater leaves out", self.name))
            .help("build it with the cargo feature 'wasm', which is on unless --no-default-features is given")
    }

    /// An error about the function and its file.
    #[cfg(feature = "wasm")]
    fn wrong(&self, reason: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}() of '{}': {reason}", self.name, self.file))
    }
}
