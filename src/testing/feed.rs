//! Sources whose rows a test gives: epoch by epoch, as far as it has come.
//!
//! A table has as many splits as the run wants. All of them promise the watermark that the table has at the end of each epoch, so it does
//! not matter which rows are whose. What a split gives follows from its position and from how many epochs are *released*; nothing else
//! is remembered, so it can be opened again wherever a checkpoint says.

use super::script::{Script, found};
use super::subject::{Read, Subject};
use crate::batch::{Batch, take_rows};
use crate::connector::{Context, Polled, Source, Split, SplitStart};
use crate::error::{Error, Result};
use crate::time::Watermark;
use arrow::datatypes::SchemaRef;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The rows of all tables.
pub struct Feed {
    tables: BTreeMap<String, Arc<Fed>>,
    released: Arc<AtomicUsize>,
}

/// The rows of a table.
struct Fed {
    schema: SchemaRef,
    bounded: bool,
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

/// What must stay in order: for each row, the first one that has the same key; nothing of tables without a key.
fn keys(rows: &Batch, read: &Read) -> Result<Vec<Option<u32>>> {
    let key = &read.table.primary_key;
    if key.is_empty() {
        return Ok(vec![None; rows.num_rows()]);
    }
    let mut first = BTreeMap::new();
    let keys = super::rows::rows_of(rows, key)?.into_iter().zip(0..);
    Ok(keys.map(|(key, row)| Some(*first.entry(key).or_insert(row))).collect())
}

/// Deals rows to splits; those with the same key to the same one.
fn deal(keys: &[Option<u32>], splits: usize, chance: Option<&mut StdRng>) -> Vec<Vec<u32>> {
    let mut shares: Vec<Vec<u32>> = vec![Vec::new(); splits];
    for (row, key) in (0_u32..).zip(keys) {
        // where the key was in an earlier epoch does not matter: that is complete before this one begins
        shares[key.unwrap_or(row) as usize % splits].push(row);
    }
    if let Some(chance) = chance {
        for share in &mut shares {
            shuffle(share, keys, chance);
        }
    }
    shares
}

/// Brings `rows` into another order, in which those with the same key keep theirs.
fn shuffle(rows: &mut [u32], keys: &[Option<u32>], chance: &mut StdRng) {
    rows.shuffle(chance);
    let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        if let Some(key) = keys.get(*row as usize).copied().flatten() {
            places.entry(key).or_default().push(place);
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
