//! Sources whose rows a test gives: epoch by epoch, as far as it has come.
//!
//! A table has as many splits as the run wants. All of them promise the watermark that the table has at the end of each epoch, so it does
//! not matter which rows are whose. What a split gives follows from its position and from how many epochs are *released*; nothing else
//! is remembered, so it can be opened again wherever a checkpoint says.

use super::rows::rows_of;
use super::script::{Script, found, loose};
use super::subject::{Read, Subject};
use crate::batch::{Batch, batch_of, take_rows};
use crate::connector::{Context, Gives, Polled, Source, Split, SplitStart};
use crate::error::{Error, Result};
use crate::operator::transform::with_weight;
use crate::time::Watermark;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::SchemaRef;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// The rows of all tables.
pub struct Feed {
    tables: BTreeMap<String, Arc<Fed>>,
    released: Arc<AtomicUsize>,
}

/// The rows of a table.
struct Fed {
    schema: SchemaRef,
    bounded: bool,
    gives: Gives,
    /// By split, by epoch.
    splits: Vec<Vec<Portion>>,
    /// The watermark at the end of each epoch.
    marks: Vec<Watermark>,
    /// The epoch with which it ends.
    ends: Option<usize>,
    released: Arc<AtomicUsize>,
    given: Mutex<Vec<Given>>,
}

/// What a split gives in one epoch.
struct Portion {
    rows: Batch,
    /// Which rows of the table these are, from 1.
    numbers: Vec<u64>,
    /// How many rows the split has given at the end of the epoch.
    end: u64,
}

/// How far a split has come.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    rows: u64,
    /// It was asked for more than was released.
    asked: bool,
    ended: bool,
}

impl Feed {
    /// The rows of `script` for `subject`, each table's dealt to `splits` splits. With `chance` those of an epoch come in another order
    /// within each split; rows of a table with a PRIMARY KEY that have the same key stay together, and in their order.
    pub fn new(subject: &Subject, script: &Script, splits: usize, mut chance: Option<&mut StdRng>) -> Result<Feed> {
        let released = Arc::new(AtomicUsize::new(0));
        let mut tables = BTreeMap::new();
        for (name, read) in &subject.sources {
            let schema = read.step.source.schema();
            let mut fed = Fed {
                schema: Arc::clone(&schema),
                bounded: read.step.source.bounded(),
                gives: match read.step.source.gives() {
                    Gives::Rows => Gives::Rows,
                    Gives::Changes | Gives::Upserts => Gives::Upserts,
                },
                splits: (0..splits).map(|_| Vec::new()).collect(),
                marks: Vec::new(),
                ends: script.epochs.iter().position(|stage| stage.ends.contains(name)),
                released: Arc::clone(&released),
                given: Mutex::new(vec![Given::default(); splits]),
            };
            let mut before: u64 = 0;
            for stage in &script.epochs {
                fed.marks.push(stage.marks.get(name).copied().unwrap_or(Watermark::NONE));
                let records = stage.rows.get(name);
                let rows = records.map(|rows| found(rows, read)).transpose()?;
                let rows = rows.unwrap_or_else(|| Batch::new_empty(Arc::clone(&schema)));
                // whatever form its records have, a row of a table that changes is one that comes, or the newest of its key
                let rows = match fed.gives {
                    Gives::Rows => rows,
                    _ => weighed(&rows, &schema, stage.weights.get(name))?,
                };
                let keys = records.map(|rows| keys(rows, read)).transpose()?.unwrap_or_default();
                for (split, share) in deal(&keys, splits, chance.as_deref_mut()).into_iter().enumerate() {
                    let numbers = share.iter().map(|row| before + u64::from(*row) + 1).collect();
                    let end = fed.splits[split].last().map_or(0, |portion: &Portion| portion.end) + share.len() as u64;
                    fed.splits[split].push(Portion { rows: take_rows(&rows, share)?, numbers, end });
                }
                before += rows.num_rows() as u64;
            }
            tables.insert(name.clone(), Arc::new(fed));
        }
        Ok(Feed { tables, released })
    }

    /// What stands in for table `name`.
    pub fn source(&self, name: &str) -> Option<Arc<dyn Source>> {
        let fed = Arc::clone(self.tables.get(name)?);
        Some(Arc::new(FedTable(fed)))
    }

    /// A run begins; `complete` epochs are behind it.
    pub fn begin(&self, complete: usize) {
        self.released.store(complete, Ordering::SeqCst);
        for fed in self.tables.values() {
            // what has ended is not opened again
            let ended = fed.ends.is_some_and(|ends| ends < complete);
            fed.given().fill(Given { rows: if ended { u64::MAX } else { 0 }, asked: ended, ended });
        }
    }

    /// The rows of the next epoch may come: `epochs` in all.
    pub fn release(&self, epochs: usize) {
        self.released.store(epochs, Ordering::SeqCst);
        for fed in self.tables.values() {
            fed.given().iter_mut().for_each(|given| given.asked = given.ended);
        }
    }

    /// True if every split has given what is released and was asked for more.
    pub fn all_given(&self) -> bool {
        let released = self.released.load(Ordering::SeqCst);
        self.tables.values().all(|fed| {
            let ends = fed.ends.is_some_and(|ends| ends < released);
            fed.given().iter().all(|given| given.asked && (given.ended || !ends))
        })
    }
}

/// `rows` with their weights.
fn weighed(rows: &Batch, schema: &SchemaRef, weights: Option<&Vec<i64>>) -> Result<Batch> {
    let weights: ArrayRef = Arc::new(Int64Array::from(weights.cloned().unwrap_or_default()));
    let columns = rows.columns().iter().cloned().chain([weights]).collect();
    batch_of(loose(&with_weight(schema)), columns, rows.num_rows())
}

/// What must stay in order, of a table with a PRIMARY KEY.
#[derive(Debug, Clone, Copy)]
struct Key {
    /// The first row of the epoch that has it.
    first: u32,
    /// The same in every epoch.
    hash: u64,
}

/// The key of each row; none in tables without one.
fn keys(rows: &Batch, read: &Read) -> Result<Vec<Option<Key>>> {
    let key = &read.table.primary_key;
    if key.is_empty() {
        return Ok(vec![None; rows.num_rows()]);
    }
    let mut first = BTreeMap::new();
    let keys = rows_of(rows, key)?.into_iter().zip(0..).map(|(key, row)| {
        let hash = xxh3_64(key.0.join("\0").as_bytes());
        Some(Key { first: *first.entry(key).or_insert(row), hash })
    });
    Ok(keys.collect())
}

/// Deals rows to splits in turn; those with the same key always to the same one.
fn deal(keys: &[Option<Key>], splits: usize, chance: Option<&mut StdRng>) -> Vec<Vec<u32>> {
    let mut shares: Vec<Vec<u32>> = vec![Vec::new(); splits];
    for (row, key) in (0_u32..).zip(keys) {
        let turn = key.map_or(u64::from(row), |key| key.hash);
        shares[(turn % splits as u64) as usize].push(row);
    }
    if let Some(chance) = chance {
        for share in &mut shares {
            shuffle(share, keys, chance);
        }
    }
    shares
}

/// Brings `rows` into another order, in which those with the same key keep theirs.
fn shuffle(rows: &mut [u32], keys: &[Option<Key>], chance: &mut StdRng) {
    rows.shuffle(chance);
    let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        if let Some(key) = keys.get(*row as usize).copied().flatten() {
            places.entry(key.first).or_default().push(place);
        }
    }
    for places in places.into_values() {
        let mut own: Vec<u32> = places.iter().map(|place| rows[*place]).collect();
        own.sort_unstable();
        places.into_iter().zip(own).for_each(|(place, row)| rows[place] = row);
    }
}

impl Fed {
    fn given(&self) -> MutexGuard<'_, Vec<Given>> {
        // how far splits are is as good after a panic as before
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn released(&self) -> usize {
        self.released.load(Ordering::SeqCst)
    }
}

struct FedTable(Arc<Fed>);

impl Source for FedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn bounded(&self) -> bool {
        self.0.bounded
    }

    fn gives(&self) -> Gives {
        self.0.gives
    }

    fn splits(&self, _: &Context) -> Result<Vec<String>> {
        Ok((0..self.0.splits.len()).map(|split| split.to_string()).collect())
    }

    fn open(&self, splits: &[SplitStart], _: &Context) -> Result<Vec<Box<dyn Split>>> {
        let open = |start: &SplitStart| -> Result<Box<dyn Split>> {
            let split: Option<usize> = start.name.parse().ok().filter(|split| *split < self.0.splits.len());
            let split =
                split.ok_or_else(|| Error::internal(format!("'{}' is no split of a test's table", start.name)))?;
            let position = start.position.unwrap_or(0);
            self.0.given()[split].rows = position;
            Ok(Box::new(FedSplit { fed: Arc::clone(&self.0), split, position, polled: Vec::new() }))
        };
        splits.iter().map(open).collect()
    }
}

struct FedSplit {
    fed: Arc<Fed>,
    split: usize,
    position: u64,
    /// The numbers of the rows of the last poll.
    polled: Vec<u64>,
}

impl FedSplit {
    /// The epochs that are released and of which all rows are given.
    fn behind(&self) -> usize {
        let portions = self.fed.splits[self.split].iter().take(self.fed.released());
        portions.take_while(|portion| portion.end <= self.position).count()
    }
}

impl Split for FedSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let (epoch, released) = (self.behind(), self.fed.released());
        self.polled.clear();
        if epoch < released {
            let Portion { rows, numbers, end } = &self.fed.splits[self.split][epoch];
            let left = usize::try_from(end - self.position).unwrap_or(usize::MAX);
            let start = rows.num_rows().checked_sub(left);
            let start = start.ok_or_else(|| Error::internal("a split stands between two epochs"))?;
            let count = left.min(rows_max.max(1));
            self.position += count as u64;
            self.fed.given()[self.split].rows = self.position;
            self.polled.extend_from_slice(&numbers[start..start + count]);
            let rows = rows.slice(start, count);
            return Ok(Polled::Rows { bytes: rows.num_rows(), rows });
        }
        let ended = self.fed.ends.is_some_and(|ends| ends < released);
        let mut given = self.fed.given();
        given[self.split].asked = true;
        given[self.split].ended = ended;
        Ok(if ended { Polled::Ended } else { Polled::Pending })
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn place(&self, row: usize) -> String {
        self.polled.get(row).map(|number| format!("row {number}")).unwrap_or_default()
    }

    fn watermark(&self) -> Watermark {
        self.behind().checked_sub(1).and_then(|epoch| self.fed.marks.get(epoch)).copied().unwrap_or(Watermark::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn rows_with_a_key_stay_together_and_in_order() {
        let (splits, count) = (3, 60);
        let key = |row: u32| Some(Key { first: row % 7, hash: u64::from(row % 7) });
        let keys: Vec<_> = (0..count).map(|row| if row % 2 == 0 { key(row) } else { None }).collect();
        let mut orders = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let shares = deal(&keys, splits, Some(&mut StdRng::seed_from_u64(seed)));
            let mut all: Vec<u32> = shares.concat();
            orders.insert(all.clone());
            for (split, share) in shares.iter().enumerate() {
                let mut last: BTreeMap<u32, u32> = BTreeMap::new();
                for row in share {
                    let Some(key) = keys[*row as usize] else { continue };
                    assert_eq!(key.hash as usize % splits, split, "seed {seed}");
                    assert!(last.insert(key.first, *row).is_none_or(|before| before < *row), "seed {seed}: {share:?}");
                }
            }
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>(), "seed {seed}");
        }
        assert!(orders.len() > 15, "the order is chance");
    }
}
