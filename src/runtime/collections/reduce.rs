//! What is made of all rows of each key: a function of the operators' room, under differential's reduce.
//!
//! Where time is epochs alone the keys that an epoch has changed are worked out together: their rows are read from the arrangement, made
//! columns of, and given to the function at once. A key's rows are arranged in the order that the function asks for, so one
//! that needs only the first of them reads no others. In a recursion, where time is rounds as well, differential says key by key when something may have changed.

use super::super::steps::Site;
use super::layout::{Indexed, KeyedBatch, KeyedBuilder, KeyedSpine, Slice, refill};
use super::{Coder, Collected, Row, Split};
use crate::batch::{BATCH_ROWS, batch_of, from_arrow};
use crate::error::Result;
use crate::operator::group::GroupFunction;
use crate::plan::Reducing;
use crate::time::Epoch;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::reduce::{ReduceTactic, reduce_with_tactic};
use differential_dataflow::trace::cursor::cursor_list;
use differential_dataflow::trace::{Builder, Cursor, Description, Span};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use timely::progress::{Antichain, Timestamp};

/// What `spec` makes of the rows of each key, which are arranged in [its order](Reducing::order).
pub fn reduce<'scope>(
    spec: &Reducing,
    input: &SchemaRef,
    output: &SchemaRef,
    rows: Indexed<'scope, Epoch>,
    site: Site,
) -> Result<Collected<'scope, Epoch, Row>> {
    let maker = Maker::new(spec, input, output)?;
    let name = site.name();
    let tactic = Together { maker, needs: spec.needs().unwrap_or(usize::MAX), site };
    let made = reduce_with_tactic::<_, KeyedSpine<Epoch>, _>(rows, &name, tactic);
    Ok(made.as_collection(|_, row| row.0.into()))
}

/// The same in a recursion.
pub fn reduce_in_rounds<'scope, T: Timestamp + Lattice + Ord>(
    spec: &Reducing,
    input: &SchemaRef,
    output: &SchemaRef,
    rows: Indexed<'scope, T>,
    site: Site,
) -> Result<Collected<'scope, T, Row>> {
    let mut maker = Maker::new(spec, input, output)?;
    let made = rows.reduce_abelian::<_, KeyedBuilder<T>, KeyedSpine<T>, _, _>(
        &site.name(),
        move |key, rows, made| {
            let mut keys = Keys::default();
            for (row, weight) in rows {
                keys.add(*row, *weight, usize::MAX);
            }
            keys.end(key);
            if let Some((rows, _)) = site.attempt(|| maker.make(&keys)) {
                made.extend(rows.into_iter().map(|row| (row, 1)));
            }
        },
        refill,
    );
    Ok(made.as_collection(|_, row| row.0.into()))
}

/// Some keys and their rows.
#[derive(Default)]
struct Keys<'a> {
    keys: Vec<Slice<'a>>,
    rows: Vec<Slice<'a>>,
    /// For each key: where its rows end.
    ends: Vec<usize>,
}

impl<'a> Keys<'a> {
    /// Adds a row of the next key as often as it is there; false if that makes `needs` rows of the key.
    fn add(&mut self, row: Slice<'a>, weight: i64, needs: usize) -> bool {
        let start = self.ends.last().copied().unwrap_or(0);
        let room = needs.saturating_sub(self.rows.len() - start);
        let copies = usize::try_from(weight).unwrap_or(0).min(room);
        self.rows.extend(std::iter::repeat_n(row, copies));
        copies < room
    }

    /// Ends the rows of `key`.
    fn end(&mut self, key: Slice<'a>) {
        self.keys.push(key);
        self.ends.push(self.rows.len());
    }
}

/// The function, from bytes to bytes.
struct Maker {
    split: Split,
    /// Where each column of the input is among those of the key and then the others.
    places: Vec<usize>,
    input: SchemaRef,
    function: GroupFunction,
    coder: Coder,
}

impl Maker {
    fn new(spec: &Reducing, input: &SchemaRef, output: &SchemaRef) -> Result<Self> {
        let split = Split::ordered(input, &spec.keys, spec.order())?;
        Ok(Maker {
            places: split.places(),
            split,
            input: Arc::clone(input),
            function: GroupFunction::new(spec, Arc::clone(output))?,
            coder: Coder::new(output, (0..output.fields().len()).collect())?,
        })
    }

    /// What is made of `keys`, and where in it what is made of each key ends.
    fn make(&mut self, keys: &Keys<'_>) -> Result<(Vec<Row>, Vec<usize>)> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut key_of = Vec::with_capacity(keys.rows.len());
        for (key, end) in keys.ends.iter().enumerate() {
            key_of.resize(*end, key as u32);
        }
        let key_of = UInt32Array::from(key_of);
        for column in self.split.key.decode(keys.keys.iter().map(|key| &key.0[1..]))? {
            columns.push(take(&column, &key_of, None).map_err(from_arrow)?);
        }
        columns.extend(self.split.rest.decode(keys.rows.iter().map(|row| row.0))?);
        let columns = self.places.iter().map(|place| Arc::clone(&columns[*place])).collect();
        let rows = batch_of(Arc::clone(&self.input), columns, keys.rows.len())?;
        let (made, ends) = self.function.of(&rows, &keys.ends)?;
        Ok((self.coder.encode(&made)?, ends))
    }
}

/// Works out together the keys that an epoch has changed.
struct Together {
    maker: Maker,
    /// How many rows of a key are read.
    needs: usize,
    site: Site,
}

/// A change of what is made of a key.
type Update = ((Row, Row), Epoch, i64);

impl ReduceTactic<Epoch, KeyedBatch<Epoch>, KeyedBatch<Epoch>> for Together {
    fn retire(
        &mut self,
        source: Vec<KeyedBatch<Epoch>>,
        output: Vec<KeyedBatch<Epoch>>,
        input: Vec<KeyedBatch<Epoch>>,
        lower: &Antichain<Epoch>,
        upper: &Antichain<Epoch>,
        held: &Antichain<Epoch>,
    ) -> (Option<Span<Epoch, KeyedBatch<Epoch>>>, Antichain<Epoch>) {
        if held.iter().all(|time| upper.less_equal(time)) {
            return (None, held.clone());
        }
        let site = self.site.clone();
        let mut updates = site.attempt(|| self.updates(source, output, input)).unwrap_or_default();
        updates.sort_unstable();
        let mut builder = KeyedBuilder::default();
        builder.push(&mut updates);
        let interval = Description::new(lower.clone(), upper.clone(), Antichain::from_elem(Epoch::minimum()));
        // epochs come one after the other, so nothing is left to do for a later one
        (Some(Span::new(interval, builder.done().map(Rc::new))), Antichain::new())
    }
}

impl Together {
    /// What `input` changes, given the rows of `source` before it and what was made of them, `output`.
    fn updates(
        &mut self,
        source: Vec<KeyedBatch<Epoch>>,
        output: Vec<KeyedBatch<Epoch>>,
        input: Vec<KeyedBatch<Epoch>>,
    ) -> Result<Vec<Update>> {
        let (mut fresh, fresh_rows) = cursor_list(input.clone());
        let mut changed: Vec<(Epoch, Slice<'_>)> = Vec::new();
        while let Some(key) = fresh.get_key(&fresh_rows) {
            let first = changed.len();
            while fresh.val_valid(&fresh_rows) {
                fresh.map_times(&fresh_rows, |time, _| {
                    if !changed[first..].iter().any(|(known, _)| known == time) {
                        changed.push((*time, key));
                    }
                });
                fresh.step_val(&fresh_rows);
            }
            fresh.step_key(&fresh_rows);
        }
        changed.sort_unstable();
        let (mut rows, all) = cursor_list(source.into_iter().chain(input).collect());
        let (mut said, said_rows) = cursor_list(output);
        let mut updates = Vec::new();
        // what earlier epochs of the interval have changed, if there are several
        let mut before: HashMap<Slice<'_>, Vec<(Row, i64)>> = HashMap::new();
        let mut epochs = changed.chunk_by(|a, b| a.0 == b.0).peekable();
        while let Some(of_epoch) = epochs.next() {
            let epoch = of_epoch[0].0;
            let last = epochs.peek().is_none();
            rows.rewind_keys(&all);
            said.rewind_keys(&said_rows);
            let mut keys = Keys::default();
            for (place, (_, key)) in of_epoch.iter().enumerate() {
                rows.seek_key(&all, *key);
                if rows.get_key(&all) == Some(*key) {
                    let mut more = true;
                    while let Some(row) = rows.get_val(&all).filter(|_| more) {
                        let mut weight = 0;
                        rows.map_times(&all, |time, diff| weight += if *time <= epoch { *diff } else { 0 });
                        more = keys.add(row, weight, self.needs);
                        rows.step_val(&all);
                    }
                }
                keys.end(*key);
                if keys.rows.len() < BATCH_ROWS && place + 1 < of_epoch.len() {
                    continue;
                }
                let Keys { keys: of, .. } = &keys;
                let (made, ends) = self.maker.make(&keys)?;
                let mut made = made.into_iter();
                let mut start = 0;
                for (key, end) in of.iter().zip(ends) {
                    let mut is: Vec<Row> = made.by_ref().take(end - start).collect();
                    start = end;
                    is.sort_unstable();
                    let mut was: Vec<(&[u8], i64)> = Vec::new();
                    said.seek_key(&said_rows, *key);
                    if said.get_key(&said_rows) == Some(*key) {
                        while let Some(row) = said.get_val(&said_rows) {
                            let mut weight = 0;
                            said.map_times(&said_rows, |_, diff| weight += diff);
                            was.push((row.0, weight));
                            said.step_val(&said_rows);
                        }
                    }
                    let earlier = before.get(key).into_iter().flatten();
                    was.extend(earlier.map(|(row, weight)| (row.as_ref(), *weight)));
                    let changes = differences(was, is);
                    updates.extend(changes.iter().map(|(row, weight)| ((key.0.into(), row.clone()), epoch, *weight)));
                    if !last {
                        before.entry(*key).or_default().extend(changes);
                    }
                }
                keys = Keys::default();
            }
        }
        Ok(updates)
    }
}

/// What turns the rows `was`, with their weights, into `is`, which are sorted.
fn differences(mut was: Vec<(&[u8], i64)>, is: Vec<Row>) -> Vec<(Row, i64)> {
    was.sort_unstable();
    let mut changes = Vec::new();
    let mut was =
        was.chunk_by(|a, b| a.0 == b.0).map(|same| (same[0].0, same.iter().map(|(_, w)| w).sum::<i64>())).peekable();
    let mut is = is.chunk_by(|a, b| a == b).map(|same| (&same[0], same.len() as i64)).peekable();
    loop {
        let order = match (was.peek(), is.peek()) {
            (Some((old, _)), Some((new, _))) => (*old).cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return changes,
        };
        let old = was.next_if(|_| order != Ordering::Greater);
        let new = is.next_if(|_| order != Ordering::Less);
        let weight = new.map_or(0, |(_, weight)| weight) - old.map_or(0, |(_, weight)| weight);
        if weight != 0 {
            let row = new.map(|(row, _)| row.clone()).or_else(|| old.map(|(row, _)| row.into()));
            changes.push((row.expect("one of them is there"), weight));
        }
    }
}
