//! Reading around bad records: what can be read becomes rows, the rest is told record by record.
//!
//! Good input costs one decoding. After a bad record the next attempt is as long as the good stretch before it, and grows
//! while nothing is wrong, so that even if every second record is bad the work stays within a few decodings of all.

use super::{BadRecord, Decode};
use crate::batch::Batch;
use arrow::array::{Array, BinaryArray};
use arrow::compute::concat_batches;
use std::ops::Range;

/// The shortest attempt after a bad record.
const ATTEMPT_MIN: usize = 16;

/// What a table does with a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBad {
    /// The pipeline fails.
    #[default]
    Fail,
    /// It is left out.
    LeaveOut,
    /// What cannot be read of it is NULL.
    Null,
}

impl OnBad {
    /// True if bad records do not end the pipeline.
    pub fn bears(self) -> bool {
        self != OnBad::Fail
    }
}

/// Records, sifted.
#[derive(Debug)]
pub struct Sifted {
    /// What could be read, in order.
    pub rows: Batch,
    /// For each of the rows its record, if some record has no row.
    pub kept: Option<Vec<usize>>,
    /// The bad ones, in order.
    pub bad: Vec<BadRecord>,
}

/// Records that can be read part by part.
pub trait Readable {
    /// How many there are.
    fn records(&self) -> usize;
    /// One row for each record of `range`, or the first that cannot be read, counted from the range's start.
    fn read(&mut self, range: Range<usize>) -> Result<Batch, BadRecord>;
    /// The row of bad record `at`, with NULL for what cannot be read.
    fn read_leniently(&mut self, at: usize) -> Result<Batch, BadRecord>;
}

/// Reads `records` and does with bad ones what `on_bad` says.
///
/// # Errors
/// The first bad record, if the table takes none, or if it takes a row of NULL in its place and has a column that is NOT NULL.
pub fn sift(mut records: impl Readable, on_bad: OnBad) -> Result<Sifted, BadRecord> {
    let all = records.records();
    let mut failed = match records.read(0..all) {
        Ok(rows) => return Ok(Sifted { rows, kept: None, bad: Vec::new() }),
        Err(bad) if !on_bad.bears() => return Err(bad),
        Err(bad) => Some((all, bad)),
    };
    let (mut parts, mut kept, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    let (mut start, mut attempt) = (0, all);
    while start < all {
        let (end, tried) = match failed.take() {
            Some((end, first)) => (end, Err(first)),
            None => {
                let end = all.min(start + attempt);
                (end, records.read(start..end))
            }
        };
        match tried {
            Ok(rows) => {
                parts.push(rows);
                kept.extend(start..end);
                start = end;
                attempt *= 2;
            }
            Err(first) => {
                let (good, at) = (first.index, start + first.index);
                if good > 0 {
                    parts.push(records.read(start..at).map_err(|bad| BadRecord { index: start + bad.index, ..bad })?);
                    kept.extend(start..at);
                }
                if on_bad == OnBad::Null {
                    parts.push(records.read_leniently(at).map_err(|bad| BadRecord { index: at, ..bad })?);
                    kept.push(at);
                }
                bad.push(BadRecord { index: at, ..first });
                start = at + 1;
                attempt = ATTEMPT_MIN.max(good);
            }
        }
    }
    let rows = match parts.first() {
        Some(first) => concat_batches(&first.schema(), &parts).expect("the parts have one schema"),
        None => records.read(0..0)?,
    };
    Ok(Sifted { rows, kept: (on_bad == OnBad::LeaveOut).then_some(kept), bad })
}

/// Records and what reads them.
pub struct Decoding<'a> {
    /// What reads them.
    pub decoder: &'a mut dyn Decode,
    /// The records.
    pub records: &'a BinaryArray,
}

impl Readable for Decoding<'_> {
    fn records(&self) -> usize {
        self.records.len()
    }

    fn read(&mut self, range: Range<usize>) -> Result<Batch, BadRecord> {
        self.decoder.decode(&self.records.slice(range.start, range.len()))
    }

    fn read_leniently(&mut self, at: usize) -> Result<Batch, BadRecord> {
        if let Some(row) = self.decoder.decode_leniently(self.records.value(at)) {
            return Ok(row);
        }
        let nothing: Option<&[u8]> = None;
        self.decoder.decode(&BinaryArray::from_iter([nothing]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::sync::Arc;

    fn numbers(records: &[String], on_bad: OnBad) -> Result<Sifted, BadRecord> {
        let schema =
            Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]));
        let mut decoder = Format::named("json").unwrap().decoder(&schema, &[0, 1]).unwrap();
        let records = BinaryArray::from_iter_values(records.iter().map(String::as_bytes));
        sift(Decoding { decoder: decoder.as_mut(), records: &records }, on_bad)
    }

    #[test]
    fn bad_records_are_left_out_and_named_whatever_their_pattern() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for share in [0.0, 0.001, 0.1, 0.5, 1.0] {
            let records: Vec<(bool, String)> = (0..3000)
                .map(|n| match (random.random_bool(share), random.random_bool(0.5)) {
                    (false, _) => (true, format!("{{\"n\":{n}}}")),
                    (true, true) => (false, format!("{{\"n\":\"x{n}\"}}")),
                    (true, false) => (false, "{".to_owned()),
                })
                .collect();
            let texts: Vec<String> = records.iter().map(|(_, text)| text.clone()).collect();
            let sifted = numbers(&texts, OnBad::LeaveOut).unwrap();
            let expected: Vec<usize> = (0..records.len()).filter(|&n| records[n].0).collect();
            let read: Vec<i64> = sifted.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(read, expected.iter().map(|&n| n as i64).collect::<Vec<_>>());
            if let Some(kept) = sifted.kept {
                assert_eq!(kept, expected);
            }
            let bad: Vec<usize> = sifted.bad.iter().map(|bad| bad.index).collect();
            assert_eq!(bad, (0..records.len()).filter(|&n| !records[n].0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_can_be_read_of_a_bad_record_stays() {
        let records = ["{\"n\":1,\"s\":\"a\"}", "{\"n\":\"one\",\"s\":\"b\"}", "{", "{\"n\":4}"].map(str::to_owned);
        let sifted = numbers(&records, OnBad::Null).unwrap();
        assert_eq!(
            sifted.rows.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
            [Some(1), None, None, Some(4)]
        );
        let texts: &StringArray = sifted.rows.column(1).as_string();
        assert_eq!(texts.iter().collect::<Vec<_>>(), [Some("a"), Some("b"), None, None]);
        assert_eq!(sifted.bad.iter().map(|bad| bad.index).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_first_bad_record_fails_where_none_is_taken() {
        let records = ["{\"n\":1}", "{\"n\":true}", "{"].map(str::to_owned);
        assert_eq!(numbers(&records, OnBad::Fail).unwrap_err().index, 1);
    }
}
