//! How arrangements hold rows: the bytes of all rows of a batch one behind the other, so that merging batches copies memory and frees
//! nothing, and a row costs its bytes and an offset.

use super::sorting::{Encoded, EpochBatcher};
use super::{Collected, Row};
use crate::time::Epoch;
use differential_dataflow::batcher::merge::MergeBatcher;
use differential_dataflow::batcher::merge::chunker::ContainerChunker;
use differential_dataflow::batcher::merge::vec::VecMerger;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::ord_neu::{OrdKeyBatch, OrdKeyBuilder, OrdValBatch, OrdValBuilder};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::implementations::{BatchContainer, OffsetList};
use std::ops::Deref;
use std::rc::Rc;
use timely::container::PushInto;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, ParallelizationContract, Pipeline};
use timely::progress::Timestamp;

/// A row in an arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice<'a>(pub &'a [u8]);

impl Deref for Slice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl PartialEq<&Row> for Slice<'_> {
    fn eq(&self, other: &&Row) -> bool {
        self.0 == other.as_ref()
    }
}

/// Rows, one behind the other.
pub struct Slab {
    /// Where each row ends.
    ends: OffsetList,
    bytes: Vec<u8>,
}

impl Slab {
    fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }
}

impl PushInto<Slice<'_>> for Slab {
    fn push_into(&mut self, row: Slice<'_>) {
        self.push(row.0);
    }
}

impl PushInto<Row> for Slab {
    fn push_into(&mut self, row: Row) {
        self.push(&row);
    }
}

impl BatchContainer for Slab {
    type Owned = Row;
    type ReadItem<'a> = Slice<'a>;

    fn into_owned(item: Slice<'_>) -> Row {
        item.0.into()
    }

    fn push_ref(&mut self, item: Slice<'_>) {
        self.push(item.0);
    }

    fn push_own(&mut self, item: &Row) {
        self.push(item);
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
    }

    fn with_capacity(size: usize) -> Self {
        Slab { ends: OffsetList::with_capacity(size), bytes: Vec::new() }
    }

    fn merge_capacity(one: &Self, other: &Self) -> Self {
        Slab {
            ends: OffsetList::with_capacity(one.ends.len() + other.ends.len()),
            bytes: Vec::with_capacity(one.bytes.len() + other.bytes.len()),
        }
    }

    fn reborrow<'b, 'a: 'b>(item: Slice<'a>) -> Slice<'b> {
        item
    }

    fn index(&self, index: usize) -> Slice<'_> {
        let start = if index == 0 { 0 } else { self.ends.index(index - 1) };
        Slice(&self.bytes[start..self.ends.index(index)])
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Of rows of keys.
pub type KeyedLayout<T> = (Slab, Slab, Vec<T>, Vec<i64>, OffsetList);
type Updates<D, T> = Vec<(D, T, i64)>;

/// Rows of keys in an interval of time.
pub type KeyedBatch<T> = Rc<OrdValBatch<KeyedLayout<T>>>;

/// Rows of keys at all times.
pub type KeyedSpine<T> = Spine<KeyedBatch<T>>;

/// Builds a batch of updates in order.
pub type KeyedBuilder<T> = OrdValBuilder<KeyedLayout<T>, Updates<(Row, Row), T>>;

type KeyedBatcher<T> =
    MergeBatcher<ContainerChunker<Updates<(Row, Row), T>>, VecMerger<(Row, Row), T, i64>, KeyedBuilder<T>>;

type LoneLayout<T> = (Slab, Vec<()>, Vec<T>, Vec<i64>, OffsetList);

/// Rows that are their own keys, at all times.
pub type LoneSpine<T> = Spine<Rc<OrdKeyBatch<LoneLayout<T>>>>;

/// Builds a batch of updates in order.
pub type LoneBuilder<T> = OrdKeyBuilder<LoneLayout<T>, Updates<(Row, ()), T>>;

type LoneBatcher<T> =
    MergeBatcher<ContainerChunker<Updates<(Row, ()), T>>, VecMerger<(Row, ()), T, i64>, LoneBuilder<T>>;

/// Rows by key: the key and the columns beside it.
pub type Indexed<'scope, T> = Arranged<'scope, TraceAgent<KeyedSpine<T>>>;

/// Rows by themselves.
pub type Lone<'scope, T> = Arranged<'scope, TraceAgent<LoneSpine<T>>>;

/// Arranges the rows of epochs by their keys, which are on their worker.
pub fn of_epochs<'scope>(rows: Stream<'scope, Epoch, Encoded>, name: &str) -> Indexed<'scope, Epoch> {
    arrange_core::<_, _, EpochBatcher, KeyedSpine<Epoch>>(rows, Pipeline, name, |_, _| EpochBatcher::default())
}

/// Arranges rows by their keys, which find their workers by `pact`.
pub fn by_key<'scope, T: Timestamp + Lattice + Ord>(
    rows: Collected<'scope, T, (Row, Row)>,
    pact: impl ParallelizationContract<T, Updates<(Row, Row), T>>,
    name: &str,
) -> Indexed<'scope, T> {
    arrange_core::<_, _, KeyedBatcher<T>, KeyedSpine<T>>(rows.inner, pact, name, KeyedBatcher::new)
}

/// Arranges rows by themselves, which find their workers by `pact`.
pub fn by_self<'scope, T: Timestamp + Lattice + Ord>(
    rows: Collected<'scope, T, Row>,
    pact: impl ParallelizationContract<T, Updates<(Row, ()), T>>,
    name: &str,
) -> Lone<'scope, T> {
    let rows = rows.map(|row| (row, ()));
    arrange_core::<_, _, LoneBatcher<T>, LoneSpine<T>>(rows.inner, pact, name, LoneBatcher::new)
}

/// A change of a row by its key.
type Update<V, T> = ((Row, V), T, i64);

/// Sends rows to a worker that follows from their keys' bytes.
pub fn spread<T: Timestamp, V: 'static>() -> Exchange<Update<V, T>, impl FnMut(&Update<V, T>) -> u64 + 'static> {
    Exchange::new(|update: &Update<V, T>| xxhash_rust::xxh3::xxh3_64(&update.0.0))
}

/// What a reduction has changed of the values of `key`, as batches are built of it.
pub fn refill<V, T>(updates: &mut Updates<(Row, V), T>, key: Slice<'_>, changes: &mut Vec<(V, T, i64)>) {
    updates.clear();
    updates.extend(changes.drain(..).map(|(value, time, weight)| ((key.0.into(), value), time, weight)));
}
