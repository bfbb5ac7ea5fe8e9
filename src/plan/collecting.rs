//! Steps over collections: rows that may be taken back again, held by key.
//!
//! What such a step says of an epoch is the change of its answer over exactly the rows up to then.

use super::{Action, Aggregation, SortColumn, Step, StepId};
use crate::expr::OverCall;
use crate::time::Micros;
use std::sync::Arc;

/// What enters collections: the rows of its input, which are kept in checkpoints. All that is made of them by collections is made
/// again from them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Keeping {
    /// How long a row stays, by event time. None: for ever.
    pub ttl: Option<Ttl>,
    /// Which epochs of its time a row is there.
    pub there: There,
    /// Sources whose watermark counts beside that of its input: partners of its rows come from them.
    pub beside: Vec<StepId>,
}

/// Which epochs of its time a row is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum There {
    /// Up to the one whose watermark ends it. What was made of the row is taken back.
    #[default]
    Before,
    /// That one, too: it meets all rows of that epoch. Nothing is taken back then: no partner of it can come any more.
    Through,
    /// Only that one: who asks then whether it has met a partner gets an answer that stands.
    Last,
}

/// Rows leave a collection when the watermark is so far ahead of their event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ttl {
    /// The event-time column.
    pub time: usize,
    /// For how long, in microseconds; above 0.
    pub keep: Micros,
    /// A row that is so much behind the watermark when it comes is late: it is left out. Above 0 and at most `keep`.
    pub admit: Micros,
}

/// What is made of all rows of each key.
#[derive(Debug, Clone)]
pub struct Reducing {
    /// The columns of the key: places in the input. Without any all rows are of one key.
    pub keys: Vec<usize>,
    /// What is made of them.
    pub what: Reduction,
}

impl Reducing {
    /// In what order it sees the rows of a key; those that are alike in it are told apart by all their columns.
    pub fn order(&self) -> &[SortColumn] {
        match &self.what {
            Reduction::Aggregate(_) => &[],
            Reduction::First { order, .. } | Reduction::Over { order, .. } => order,
        }
    }

    /// How many rows of a key it needs, the first in its order. None: all.
    pub fn needs(&self) -> Option<usize> {
        match &self.what {
            Reduction::First { skip, limit, .. } => limit.map(|limit| skip.saturating_add(limit)),
            Reduction::Aggregate(_) | Reduction::Over { .. } => None,
        }
    }
}

/// See [`Reducing`].
#[derive(Debug, Clone)]
pub enum Reduction {
    /// The results of aggregates, over the columns of the input; the keys of the aggregation are those of the step.
    Aggregate(Arc<Aggregation>),
    /// Its first rows in some order. Rows that are alike in `order` are told apart by all their columns.
    First {
        /// What comes first.
        order: Vec<SortColumn>,
        /// How many are left out.
        skip: usize,
        /// How many leave. None: all that are not left out.
        limit: Option<usize>,
        /// True if the rows get their number, from 1, as one column more.
        numbered: bool,
    },
    /// All of its rows, with the results of window functions as further columns.
    Over {
        /// In what order the functions see the rows; those that are alike are told apart by all their columns.
        order: Vec<SortColumn>,
        /// The functions.
        calls: Vec<OverCall>,
    },
}

/// True if step `id` gives what collections have made of their rows: it is made again, not kept.
pub fn collected(steps: &[Step], id: StepId) -> bool {
    let step = &steps[id];
    match &step.action {
        Action::Keep(_) | Action::Round => true,
        action if action.over_collections() => true,
        // rows that nobody makes again have to be kept where they and others go on
        Action::Transform(_) | Action::Union => step.inputs.iter().all(|input| collected(steps, input.from)),
        _ => false,
    }
}

/// True if collections make all rows of step `id` again, not only those that can still meet others.
pub fn made_whole(steps: &[Step], id: StepId) -> bool {
    let step = &steps[id];
    match &step.action {
        Action::Keep(keeping) => keeping.there == There::Before,
        Action::Round => true,
        _ => collected(steps, id) && step.inputs.iter().all(|input| made_whole(steps, input.from)),
    }
}

/// True if step `id` is part of a recursion: it depends on the rows of a round.
pub fn inside(steps: &[Step], id: StepId) -> bool {
    match steps[id].action {
        Action::Round => true,
        Action::Recurse { .. } => false,
        _ => steps[id].inputs.iter().any(|input| inside(steps, input.from)),
    }
}
