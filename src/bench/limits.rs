//! The limit of each problem: the loop that a person would write by hand for this input alone, on one thread.
//!
//! A loop sees the same Arrow buffers as the pipeline. It knows its query, so it converts nothing, moves nothing and
//! waits for nothing; what it answers is turned into rows for the comparison after the clock has stopped.

use super::answer::Answer;
use super::data;
use crate::batch::keys::split_by_key;
use crate::batch::{BATCH_ROWS, Batch, from_arrow, wire};
use crate::error::{Error, Result};
use crate::operator::panes::event_times;
use crate::plan::event_time_type;
use crate::time::Micros;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::ReaderBuilder;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

/// Words and how often they came: hashbrown's table and foldhash, words as slices of the input.
#[derive(Default)]
pub struct Tuned<'a> {
    counts: HashTable<(&'a [u8], i64)>,
    hasher: FixedState,
}

impl<'a> Tuned<'a> {
    fn add(&mut self, word: &'a [u8]) {
        let entry = self.counts.entry(
            self.hasher.hash_one(word),
            |(known, _)| *known == word,
            |(known, _)| self.hasher.hash_one(known),
        );
        match entry {
            Entry::Occupied(mut found) => found.get_mut().1 += 1,
            Entry::Vacant(free) => drop(free.insert((word, 1))),
        }
    }

    fn add_line(&mut self, line: &'a [u8]) {
        line.split(|byte| *byte == b' ').for_each(|word| self.add(word));
    }

    /// The words of all lines.
    pub fn of_lines(lines: &'a [Batch]) -> Self {
        let mut counts = Tuned::default();
        for batch in lines {
            let lines = batch.column(0).as_string::<i32>();
            (0..lines.len()).for_each(|row| counts.add_line(lines.value(row).as_bytes()));
        }
        counts
    }

    /// The words of a text.
    pub fn of_text(text: &'a [u8]) -> Self {
        let words = text.split(|byte| matches!(byte, b' ' | b'\n'));
        Self::of_words(words.filter(|word| !word.is_empty()))
    }

    /// These words.
    pub fn of_words(words: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut counts = Tuned::default();
        words.for_each(|word| counts.add(word));
        counts
    }

    /// `word, n`
    pub fn answer(&self) -> Result<Answer> {
        answer_of(self.counts.iter().map(|(word, n)| (*word, *n)))
    }
}

/// The obvious loop: the standard library's map with its own hash.
#[derive(Default)]
pub struct Obvious<'a>(HashMap<&'a str, i64>);

impl<'a> Obvious<'a> {
    /// The words of all lines.
    pub fn of_lines(lines: &'a [Batch]) -> Self {
        let mut counts = HashMap::new();
        for line in lines.iter().flat_map(|batch| batch.column(0).as_string::<i32>()).flatten() {
            line.split(' ').for_each(|word| *counts.entry(word).or_default() += 1);
        }
        Obvious(counts)
    }

    /// The words of a text.
    pub fn of_text(text: &'a str) -> Self {
        let mut counts = HashMap::new();
        for line in text.lines() {
            line.split(' ').for_each(|word| *counts.entry(word).or_default() += 1);
        }
        Obvious(counts)
    }

    /// `word, n`
    pub fn answer(&self) -> Result<Answer> {
        answer_of(self.0.iter().map(|(word, n)| (word.as_bytes(), *n)))
    }
}

/// The tuned loop in tumbling windows: a table for each, looked up again only when the time leaves the last one.
pub struct Windowed<'a>(BTreeMap<Micros, Tuned<'a>>);

impl<'a> Windowed<'a> {
    /// The words of all lines with their times, in windows of `size`.
    pub fn of_lines(lines: &'a [Batch], size: Micros) -> Result<Self> {
        let mut tables: BTreeMap<Micros, Tuned<'a>> = BTreeMap::new();
        for batch in lines {
            let lines = batch.column(0).as_string::<i32>();
            let times = event_times(batch.column(1))?;
            let mut row = 0;
            while row < lines.len() {
                let start = times[row].div_euclid(size) * size;
                let table = tables.entry(start + size).or_default();
                while row < lines.len() && (start..start + size).contains(&times[row]) {
                    table.add_line(lines.value(row).as_bytes());
                    row += 1;
                }
            }
        }
        Ok(Windowed(tables))
    }

    /// `word, n, window_end`
    pub fn answer(&self) -> Result<Answer> {
        let window =
            |(end, table): (&Micros, &Tuned)| counted(table.counts.iter().map(|(word, n)| (*word, *n)), &[*end]);
        let windows = self.0.iter().map(window).collect::<Result<Vec<_>>>()?;
        Answer::of(&windows)
    }
}

/// `word, n`
pub fn answer_of<'a>(counts: impl Iterator<Item = (&'a [u8], i64)>) -> Result<Answer> {
    Answer::of([&counted(counts, &[])?])
}

/// Words and counts as rows, with the end of their window if there is one.
fn counted<'a>(counts: impl Iterator<Item = (&'a [u8], i64)>, window_end: &[Micros]) -> Result<Batch> {
    let (words, counts): (Vec<&[u8]>, Vec<i64>) = counts.unzip();
    let words = StringArray::try_from_binary(BinaryArray::from_iter_values(words)).map_err(from_arrow)?;
    let rows = words.len();
    let mut fields = vec![Field::new("word", DataType::Utf8, false), Field::new("n", DataType::Int64, false)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(words), Arc::new(Int64Array::from(counts))];
    for end in window_end {
        fields.push(Field::new("window_end", event_time_type(), false));
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(*end, rows)));
    }
    Batch::try_new(Arc::new(Schema::new(fields)), columns).map_err(from_arrow)
}

/// Splits every batch for `workers` by its first column; if they are in other processes, encodes and decodes what leaves.
/// Rows that were seen again: all of them.
pub fn exchange(batches: &[Batch], workers: usize, processes: usize) -> Result<u64> {
    let schema = data::keyed_schema();
    let mut encoder = wire::Encoder::default();
    let mut rows = 0;
    for (number, batch) in batches.iter().enumerate() {
        for (worker, share) in split_by_key(batch, &[0], workers)? {
            let stays = processes == 1 || worker == number % workers;
            let arrived =
                if stays { share } else { wire::decode(Buffer::from(encoder.encode(&share)?), Arc::clone(&schema))? };
            rows += arrived.num_rows() as u64;
        }
    }
    Ok(rows)
}

/// Reads the records with Arrow's decoder, one by one.
pub fn json(records: &[BinaryArray]) -> Result<Vec<Batch>> {
    let wrong = |error| from_arrow(error).within("the benchmark's own JSON");
    let mut decoder =
        ReaderBuilder::new(data::json_schema()).with_batch_size(BATCH_ROWS).build_decoder().map_err(wrong)?;
    let mut batches = Vec::with_capacity(records.len());
    for array in records {
        for record in array.iter().flatten() {
            let read = decoder.decode(record).map_err(wrong)?;
            if read < record.len() {
                return Err(Error::internal("arrow's decoder left a part of a record"));
            }
        }
        batches.extend(decoder.flush().map_err(wrong)?);
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::super::data::{Lines, timed};
    use super::*;

    #[test]
    fn all_loops_count_the_same() {
        let (words, distinct, seed) = (20_000, 500, 7);
        let lines = Lines::new(words, distinct, seed).batches();
        let mut text = String::new();
        let mut again = Lines::new(words, distinct, seed);
        while again.next(&mut text) {
            text.push('\n');
        }
        let answer = Tuned::of_lines(&lines).answer().unwrap();
        assert_eq!(Tuned::of_text(text.as_bytes()).answer().unwrap(), answer);
        assert_eq!(Obvious::of_lines(&lines).answer().unwrap(), answer);
        assert_eq!(Obvious::of_text(&text).answer().unwrap(), answer);
        let timed = timed(lines);
        let windows = Windowed::of_lines(&timed, 1_000_000).unwrap();
        assert_eq!(windows.0.len(), 2, "2,000 lines at 1,000 a second");
        assert_eq!(windows.0.values().flat_map(|table| table.counts.iter()).map(|(_, n)| n).sum::<i64>(), words as i64);
    }
}
