//! State by number: columns of values, of which the newest row of a number counts.
//!
//! Each call of [`Segments::put`] adds a segment. Segments of like size are merged, so there are about as many as the state has
//! doublings, and all are rewritten when more than half of their rows count no more. A row is read by its number at any time.
//! From [`Segments::track`] on they also know which numbers have got a row since they were last asked: a flag for each number, and a list.

use crate::batch::from_arrow;
use crate::error::Result;
use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;

/// Rows that may be kept for nothing, so that small states are not rewritten all the time.
const DEAD_ROWS_MIN: usize = 1024;

/// The rows.
#[derive(Debug, Default)]
pub struct Segments {
    /// Where the row of each number is.
    places: Vec<Place>,
    segments: Vec<Segment>,
    /// Rows in all segments, and those of them that count.
    rows: usize,
    live: usize,
    changes: Option<Changes>,
}

/// Numbers, each once, in the order in which they first came.
#[derive(Debug, Default)]
struct Changes {
    noted: Vec<bool>,
    numbers: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u32,
    row: u32,
}

const NOWHERE: Place = Place { segment: u32::MAX, row: 0 };

/// Rows of some numbers. One is live if its number's place is here.
#[derive(Debug)]
struct Segment {
    numbers: Vec<u32>,
    columns: Vec<ArrayRef>,
}

impl Segments {
    /// No number at or above this one has ever had a row.
    pub fn numbers(&self) -> usize {
        self.places.len()
    }

    /// The columns of the rows of `numbers`, all of which have one; none if there are no numbers.
    pub fn get(&self, numbers: impl Iterator<Item = usize>) -> Result<Vec<ArrayRef>> {
        self.at(&numbers.map(|number| self.places[number]).collect::<Vec<_>>())
    }

    /// The numbers that have a row.
    pub fn all(&self) -> Vec<u32> {
        (0..self.places.len() as u32).filter(|number| self.places[*number as usize] != NOWHERE).collect()
    }

    /// Begins to note which numbers get a row.
    pub fn track(&mut self) {
        self.changes.get_or_insert_default();
    }

    /// True if `number` has got a row since changes were last taken.
    pub fn noted(&self, number: u32) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.noted.get(number as usize) == Some(&true))
    }

    /// The numbers that have got a row since this was last asked and still have one, in the order in which they first got it.
    pub fn take_changes(&mut self) -> Vec<u32> {
        let Some(changes) = &mut self.changes else { return Vec::new() };
        let mut numbers = std::mem::take(&mut changes.numbers);
        numbers.iter().for_each(|number| changes.noted[*number as usize] = false);
        numbers.retain(|number| self.places[*number as usize] != NOWHERE);
        numbers
    }

    /// Gives each of `numbers`, which are all different, its row of `columns`, in order, instead of what it had.
    pub fn put(&mut self, numbers: Vec<u32>, columns: Vec<ArrayRef>) -> Result<()> {
        if let Some(changes) = &mut self.changes {
            changes.note(&numbers);
        }
        self.restore(numbers, columns)
    }

    /// As [`Segments::put`], but no change.
    pub fn restore(&mut self, numbers: Vec<u32>, columns: Vec<ArrayRef>) -> Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        let most = numbers.iter().max().map_or(0, |most| *most as usize + 1);
        self.places.resize(self.places.len().max(most), NOWHERE);
        self.live += numbers.iter().filter(|number| self.places[**number as usize] == NOWHERE).count();
        self.push(Segment { numbers, columns });
        while let [.., older, newer] = self.segments.as_slice()
            && older.numbers.len() <= 2 * newer.numbers.len()
        {
            self.merge(self.segments.len() - 2)?;
        }
        self.tidy()
    }

    /// Forgets the rows of `numbers`.
    pub fn remove(&mut self, numbers: impl Iterator<Item = usize>) -> Result<()> {
        for number in numbers {
            self.live -= usize::from(std::mem::replace(&mut self.places[number], NOWHERE) != NOWHERE);
        }
        self.tidy()
    }

    fn tidy(&mut self) -> Result<()> {
        match self.rows > 2 * self.live + DEAD_ROWS_MIN {
            true => self.merge(0),
            false => Ok(()),
        }
    }

    fn at(&self, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let indices: Vec<(usize, usize)> =
            places.iter().map(|place| (place.segment as usize, place.row as usize)).collect();
        let columns = self.segments.first().map_or(0, |segment| segment.columns.len());
        let column = |column: usize| {
            let arrays: Vec<&dyn Array> =
                self.segments.iter().map(|segment| segment.columns[column].as_ref()).collect();
            interleave(&arrays, &indices).map_err(from_arrow)
        };
        (0..columns).map(column).collect()
    }

    /// Makes one segment of the live rows of segment `first` and all after it.
    fn merge(&mut self, first: usize) -> Result<()> {
        let mut places = Vec::new();
        let mut numbers = Vec::new();
        for (segment, rows) in self.segments.iter().enumerate().skip(first) {
            for (row, &number) in rows.numbers.iter().enumerate() {
                let place = Place { segment: segment as u32, row: row as u32 };
                if self.places[number as usize] == place {
                    places.push(place);
                    numbers.push(number);
                }
            }
        }
        let columns = self.at(&places)?;
        for dropped in self.segments.drain(first..) {
            self.rows -= dropped.numbers.len();
        }
        if !numbers.is_empty() {
            self.push(Segment { numbers, columns });
        }
        Ok(())
    }

    fn push(&mut self, segment: Segment) {
        let number = self.segments.len() as u32;
        for (row, &of) in segment.numbers.iter().enumerate() {
            self.places[of as usize] = Place { segment: number, row: row as u32 };
        }
        self.rows += segment.numbers.len();
        self.segments.push(segment);
    }
}

impl Changes {
    fn note(&mut self, numbers: &[u32]) {
        for &number in numbers {
            let place = number as usize;
            if place >= self.noted.len() {
                self.noted.resize(place + 1, false);
            }
            if !std::mem::replace(&mut self.noted[place], true) {
                self.numbers.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    #[test]
    fn the_newest_row_of_a_number_counts_until_it_is_removed() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut segments, mut expected) = (Segments::default(), BTreeMap::new());
        let mut changed = BTreeSet::new();
        assert_eq!(segments.take_changes(), Vec::<u32>::new());
        segments.track();
        for round in 0..300_i64 {
            let width = if round < 50 { 2000 } else { 100 };
            let numbers: Vec<u32> = (0..width).filter(|_| rng.random_bool(0.3)).collect();
            let values: Vec<i64> = numbers.iter().map(|_| rng.random()).collect();
            expected.extend(numbers.iter().copied().zip(values.iter().copied()));
            changed.extend(numbers.iter().copied());
            segments.put(numbers, vec![Arc::new(Int64Array::from(values))]).unwrap();
            let gone: Vec<u32> = expected.keys().copied().filter(|_| rng.random_bool(0.2)).collect();
            expected.retain(|number, _| !gone.contains(number));
            segments.remove(gone.iter().map(|number| *number as usize)).unwrap();
            if rng.random_bool(0.2) {
                changed.retain(|number| expected.contains_key(number));
                assert_eq!(segments.take_changes().into_iter().collect::<BTreeSet<_>>(), changed, "round {round}");
                assert_eq!(segments.take_changes(), Vec::<u32>::new());
                changed.clear();
            }
            let found = segments.get(expected.keys().map(|number| *number as usize)).unwrap();
            let found: Vec<i64> =
                found.iter().flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec()).collect();
            assert_eq!(found, expected.values().copied().collect::<Vec<_>>(), "round {round}");
            assert!(segments.rows <= 2 * expected.len() + DEAD_ROWS_MIN, "{} rows are kept", segments.rows);
        }
    }
}
