//! Aggregates of guests. The guest remembers nothing: states lie here, as columns, and those that a batch touches travel with it.
//!
//! A state that has changed is appended; `places` says where that of each group lies. What is no longer pointed to goes when it is
//! as much as the rest.

use super::sandbox::{Entry, Failure, Guest, Instance};
use crate::error::{Error, Result};
use crate::expr::Accumulate;
use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{concat, filter, interleave};
use arrow::datatypes::DataType;
use std::sync::Arc;

/// How many groups a guest is asked at once for their results.
const GROUPS_AT_ONCE: usize = 8192;

/// How many appended pieces there may be: finding a state goes through all of them.
const PIECES_MAX: usize = 64;

/// What the accumulators of a function have in common.
pub(super) struct Shape {
    pub guest: Guest,
    pub states: Vec<DataType>,
    pub returns: DataType,
    /// True if rows with a NULL are left out.
    pub strict: bool,
}

/// The states of groups.
pub(super) struct Groups {
    shape: Arc<Shape>,
    /// Which piece has a group's state, and at which row of it. A new group's is row 0 of piece 0: NULLs over zeros.
    places: Vec<(usize, usize)>,
    pieces: Vec<Vec<ArrayRef>>,
    /// How many rows the pieces have.
    rows: usize,
}

impl Groups {
    pub fn new(shape: Arc<Shape>) -> Self {
        let nothing = shape.states.iter().map(|data_type| new_null_array(data_type, 1)).collect();
        Groups { shape, places: Vec::new(), pieces: vec![nothing], rows: 1 }
    }

    /// The states at `places`.
    fn gather(&self, places: &[(usize, usize)]) -> Result<Vec<ArrayRef>> {
        let column = |number: usize| {
            let pieces: Vec<&dyn Array> = self.pieces.iter().map(|piece| piece[number].as_ref()).collect();
            interleave(&pieces, places).map_err(internal)
        };
        (0..self.shape.states.len()).map(column).collect()
    }

    /// Lets the guest add `columns`, row r to group `numbers[r]`, and keeps the states that it gives.
    fn add(&mut self, entry: Entry, columns: &[ArrayRef], numbers: &[usize], count: usize) -> Result<()> {
        self.places.resize(count.max(self.places.len()), (0, 0));
        if numbers.is_empty() {
            return Ok(());
        }
        // the groups of this batch are numbered anew, in the order in which they come
        let mut touched = Vec::new();
        let mut local = hashbrown::HashMap::with_capacity(numbers.len());
        let numbers = numbers.iter().map(|number| {
            *local.entry(*number).or_insert_with(|| {
                touched.push(*number);
                u32::try_from(touched.len() - 1).expect("a batch has fewer rows than 2^32")
            })
        });
        let numbers: ArrayRef = Arc::new(numbers.collect::<UInt32Array>());
        let rows = numbers.len();
        let places: Vec<(usize, usize)> = touched.iter().map(|number| self.places[*number]).collect();
        let mut given = self.gather(&places)?;
        given.push(numbers);
        given.extend(columns.iter().cloned());
        let states: Vec<(&DataType, usize)> =
            self.shape.states.iter().map(|data_type| (data_type, touched.len())).collect();
        let states = self.shape.guest.with(rows, |instance| {
            let given = instance.give(&given)?;
            let answer = instance.call(entry, &[given.rows(touched.len())?, given.rows(rows)?, given.address()])?;
            instance.take(answer, &states)
        })?;
        let piece = self.pieces.len();
        self.pieces.push(states);
        self.rows += touched.len();
        touched.iter().enumerate().for_each(|(row, number)| self.places[*number] = (piece, row));
        if self.pieces.len() > PIECES_MAX || self.rows > 2 * self.places.len() + GROUPS_AT_ONCE {
            let states = self.gather(&self.places)?;
            self.pieces.truncate(1);
            self.pieces.push(states);
            self.rows = 1 + self.places.len();
            self.places.iter_mut().enumerate().for_each(|(row, place)| *place = (1, row));
        }
        Ok(())
    }

    /// As [`add`](Self::add), of those rows that are `chosen`.
    fn add_some(
        &mut self,
        entry: Entry,
        columns: &[ArrayRef],
        chosen: &BooleanBuffer,
        numbers: &[usize],
        count: usize,
    ) -> Result<()> {
        let mask = BooleanArray::new(chosen.clone(), None);
        let columns = columns.iter().map(|column| filter(column, &mask).map_err(internal));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let numbers: Vec<usize> = chosen.set_indices().map(|row| numbers[row]).collect();
        self.add(entry, &columns, &numbers, count)
    }

    fn results_of(&self, instance: &mut Instance, places: &[(usize, usize)]) -> Result<ArrayRef, Failure> {
        let given = instance.give(&self.gather(places)?)?;
        let answer = instance.call(Entry::Result, &[given.rows(places.len())?, given.address()])?;
        let mut results = instance.take(answer, &[(&self.shape.returns, places.len())])?;
        results.pop().ok_or_else(|| Error::internal("a call gave no column").into())
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::internal(error.to_string())
}

impl Accumulate for Groups {
    fn accumulate(&mut self, arguments: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        let nulls = match self.shape.strict {
            true => arguments.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.nulls())),
            false => None,
        };
        match nulls {
            None => self.add(Entry::Accumulate, arguments, groups, count),
            Some(nulls) => self.add_some(Entry::Accumulate, arguments, nulls.inner(), groups, count),
        }
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        // a state that is all NULL is that of a group without rows: it adds nothing
        let mut seen: Option<BooleanBuffer> = None;
        for column in states {
            let Some(nulls) = column.nulls() else { return self.add(Entry::Merge, states, groups, count) };
            seen = Some(seen.map_or_else(|| nulls.inner().clone(), |seen| &seen | nulls.inner()));
        }
        match seen {
            None => self.add(Entry::Merge, states, groups, count),
            Some(seen) => self.add_some(Entry::Merge, states, &seen, groups, count),
        }
    }

    fn states(&mut self) -> Result<Vec<ArrayRef>> {
        let states = self.gather(&self.places)?;
        *self = Groups::new(Arc::clone(&self.shape));
        Ok(states)
    }

    fn results(&mut self) -> Result<ArrayRef> {
        let results = self
            .places
            .chunks(GROUPS_AT_ONCE)
            .map(|places| self.shape.guest.with(places.len(), |instance| self.results_of(instance, places)));
        let results = results.collect::<Result<Vec<_>>>()?;
        let results = match results.as_slice() {
            [] => arrow::array::new_empty_array(&self.shape.returns),
            [one] => Arc::clone(one),
            many => concat(&many.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map_err(internal)?,
        };
        *self = Groups::new(Arc::clone(&self.shape));
        Ok(results)
    }

    fn bytes(&self) -> usize {
        let pieces = self.pieces.iter().flatten().map(|column| column.get_array_memory_size());
        pieces.sum::<usize>() + self.places.capacity() * size_of::<(usize, usize)>()
    }
}
