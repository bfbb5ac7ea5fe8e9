//! Joins of collections.
//!
//! Pairs come from differential's join of two arrangements. Whatever speaks of rows without a partner is made of them by algebra: the rows
//! with a partner are the rows whose key the other side has (or, with a condition beyond the keys, the distinct rows in pairs), those
//! without are the rest. So each change costs its partners, and an answer is exact at every epoch.

use super::super::steps::Site;
use super::edge::Output;
use super::layout::{Indexed, Lone, LoneBuilder, LoneSpine, Slice, by_self, refill, spread};
use super::sorting::{Encoded, EncodedBuilder};
use super::{Coder, Collected, Row, Split};
use crate::batch::batch_of;
use crate::error::Result;
use crate::expr::Expr;
use crate::plan::{JoinKind, Joining};
use crate::time::Epoch;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use differential_dataflow::AsCollection;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::join::join_traces;
use std::sync::Arc;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Timestamp;

/// What a join does, and how its rows are made of bytes: the first input's key and other columns, then the second's.
pub struct Shape {
    kind: JoinKind,
    condition: Option<Condition>,
    splits: [Split; 2],
    schemas: [SchemaRef; 2],
    /// The columns that leave, by side.
    outputs: [Vec<usize>; 2],
    /// By side: a row of NULLs.
    nulls: [Row; 2],
    /// The columns that follow a mark join's rows: one that says that a row is in a pair, one that says that it is not.
    marks: [Row; 2],
    site: Site,
}

struct Condition {
    holds: Expr,
    schema: SchemaRef,
    /// For each column that it reads: the side and the place in that side's rows.
    reads: Vec<(usize, usize)>,
    coders: [Coder; 2],
}

impl Shape {
    /// Of `spec`, over inputs with the columns of `schemas`.
    pub fn new(spec: &Joining, schemas: &[SchemaRef; 2], site: Site) -> Result<Self> {
        let split = |side: usize| Split::new(&schemas[side], &spec.sides[side].keys);
        let splits = [split(0)?, split(1)?];
        let condition = match &spec.condition {
            None => None,
            Some(condition) => {
                let places = [splits[0].places(), splits[1].places()];
                Some(Condition {
                    holds: condition.holds.clone(),
                    schema: Arc::clone(&condition.schema),
                    reads: condition.reads.iter().map(|(side, column)| (*side, places[*side][*column])).collect(),
                    coders: [whole(&schemas[0], &splits[0])?, whole(&schemas[1], &splits[1])?],
                })
            }
        };
        let nulls =
            [whole(&schemas[0], &splits[0])?.nulls(&schemas[0])?, whole(&schemas[1], &splits[1])?.nulls(&schemas[1])?];
        let outputs = [spec.sides[0].output.clone(), spec.sides[1].output.clone()];
        let mark = Coder::new(&Schema::new(vec![mark()]), vec![0])?;
        let both: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        let both = mark.encode(&batch_of(Arc::new(Schema::new(vec![self::mark()])), vec![both], 2)?)?;
        let [yes, no] = <[Row; 2]>::try_from(both).expect("two rows have been encoded");
        Ok(Shape {
            kind: spec.kind,
            condition,
            splits,
            schemas: schemas.clone(),
            outputs,
            nulls,
            marks: [yes, no],
            site,
        })
    }

    /// True if the join's rows are all pairs of rows with the same key.
    pub fn gives_all_pairs(&self) -> bool {
        self.kind == JoinKind::Inner && self.condition.is_none()
    }

    /// How the rows that [`join`] gives become columns.
    pub fn output(&self) -> Result<Output> {
        let mut types = Vec::new();
        let mut places = Vec::new();
        let sides = if self.kind.gives_pairs() { 2 } else { 1 };
        for side in 0..sides {
            let (split, first) = (&self.splits[side], types.len());
            // rows that are told by how often they are there are all key
            let rest: &[usize] = if self.kind.counts() { &[] } else { &split.rest.columns };
            let columns = split.key.columns.iter().chain(rest);
            types.extend(columns.map(|column| Arc::clone(&self.schemas[side].fields()[*column])));
            let of_side = split.places();
            places.extend(self.outputs[side].iter().map(|column| first + of_side[*column]));
        }
        if self.kind == JoinKind::Mark {
            places.push(types.len());
            types.push(Arc::new(mark()));
        }
        let all = (0..types.len()).collect();
        Ok(Output { coder: Coder::new(&Schema::new(types), all)?, places })
    }
}

/// The column of a mark join.
fn mark() -> Field {
    Field::new("mark", DataType::Boolean, false)
}

/// All columns of a side, the key first.
fn whole(schema: &SchemaRef, split: &Split) -> Result<Coder> {
    Coder::new(schema, split.key.columns.iter().chain(&split.rest.columns).copied().collect())
}

/// A key as it stands in the arrangement begins with a mark, which no row has.
fn unmarked(key: Slice<'_>) -> &[u8] {
    &key.0[1..]
}

fn row(parts: &[&[u8]]) -> Row {
    parts.concat().into_boxed_slice()
}

/// All pairs of rows with the same key: the rows of a join that [gives all](Shape::gives_all_pairs).
pub fn pairs<'scope>(left: Indexed<'scope, Epoch>, right: Indexed<'scope, Epoch>) -> Stream<'scope, Epoch, Encoded> {
    join_traces::<_, _, _, _, EncodedBuilder>(left, right, "pairs", |key, l, r, epoch, a, b, pairs| {
        let key = unmarked(key);
        pairs.push(&[key, &l, key, &r], epoch, a * b);
    })
}

/// The rows of a join. Rows of one key are on one worker.
pub fn join<'scope, T: Timestamp + Lattice + Ord>(
    shape: Shape,
    left: Indexed<'scope, T>,
    right: Indexed<'scope, T>,
) -> Collected<'scope, T, Row> {
    let Shape { kind, condition, nulls: [left_nulls, right_nulls], marks: [yes, no], site, .. } = shape;
    if kind.counts() {
        return counted(kind, left, right);
    }
    if kind == JoinKind::Inner && condition.is_none() {
        return left.join_core(right, |key, l, r| {
            let key = unmarked(key);
            Some(row(&[key, &l, key, &r]))
        });
    }
    let whole = |indexed: &Indexed<'scope, T>| indexed.clone().as_collection(|key, rest| row(&[unmarked(key), &rest]));
    let conditional = condition.is_some();
    // none if nobody asks for them one by one
    let pairs = (kind.gives_pairs() || condition.is_some()).then(|| {
        let pairs = left.clone().join_core(right.clone(), |key, l, r| {
            let key = unmarked(key);
            Some((row(&[key, &l]), row(&[key, &r])))
        });
        match condition {
            Some(condition) => filter(pairs, condition, site),
            None => pairs,
        }
    });
    let matched = |side: usize| -> Collected<'scope, T, Row> {
        let (own, other) = if side == 0 { (&left, &right) } else { (&right, &left) };
        match &pairs {
            Some(pairs) if conditional => {
                let rows = pairs.clone().map(move |(l, r)| if side == 0 { l } else { r });
                let in_pairs = distinct(by_self(rows, Pipeline, "rows in pairs"));
                by_self(whole(own), Pipeline, "rows").join_core(in_pairs, |row, _, _| Some(Row::from(row.0)))
            }
            _ => {
                let keys = keys_of(other.clone());
                own.clone().join_core(keys, |key, rest, _| Some(row(&[unmarked(key), &rest])))
            }
        }
    };
    let unmatched = |side: usize| {
        let own = if side == 0 { &left } else { &right };
        whole(own).concat(matched(side).negate())
    };
    match kind {
        JoinKind::Semi => matched(0),
        JoinKind::Anti => unmatched(0),
        JoinKind::Mark => {
            let others = unmatched(0).map(move |l| row(&[&l, &no]));
            matched(0).map(move |l| row(&[&l, &yes])).concat(others)
        }
        JoinKind::Common | JoinKind::Excess => unreachable!("they are counted"),
        JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full => {
            let mut all = pairs.clone().expect("they were asked for").map(|(l, r)| row(&[&l, &r]));
            if kind.gives_unmatched(0) {
                let nulls = right_nulls;
                all = all.concat(unmatched(0).map(move |l| row(&[&l, &nulls])));
            }
            if kind.gives_unmatched(1) {
                let nulls = left_nulls;
                all = all.concat(unmatched(1).map(move |r| row(&[&nulls, &r])));
            }
            all
        }
    }
}

/// Rows as often as both inputs have them, or as the first has them more often.
fn counted<'scope, T: Timestamp + Lattice + Ord>(
    kind: JoinKind,
    left: Indexed<'scope, T>,
    right: Indexed<'scope, T>,
) -> Collected<'scope, T, Row> {
    let rows = |indexed: Indexed<'scope, T>| indexed.as_collection(|key, _| row(&[unmarked(key)]));
    let left = rows(left);
    let more = by_self(left.clone().concat(rows(right).negate()), Pipeline, "difference");
    let more = more.reduce_abelian::<_, LoneBuilder<T>, LoneSpine<T>, _, _>(
        "excess",
        |_, input, output| {
            if input[0].1 > 0 {
                output.push(((), input[0].1));
            }
        },
        refill,
    );
    let more = more.as_collection(|row, ()| row.0.into());
    if kind == JoinKind::Common { left.concat(more.negate()) } else { more }
}

/// Each row that there is, once.
fn distinct<'scope, T: Timestamp + Lattice + Ord>(rows: Lone<'scope, T>) -> Lone<'scope, T> {
    rows.reduce_abelian::<_, LoneBuilder<T>, LoneSpine<T>, _, _>(
        "distinct",
        |_, input, output| {
            if input[0].1 > 0 {
                output.push(((), 1));
            }
        },
        refill,
    )
}

/// Each row that there is, once, of rows that may be on any worker.
pub fn distinct_everywhere<'scope, T: Timestamp + Lattice + Ord>(
    rows: Collected<'scope, T, Row>,
) -> Collected<'scope, T, Row> {
    distinct(by_self(rows, spread(), "rows")).as_collection(|row, ()| row.0.into())
}

/// Each key that there is, once.
fn keys_of<'scope, T: Timestamp + Lattice + Ord>(rows: Indexed<'scope, T>) -> Lone<'scope, T> {
    rows.reduce_abelian::<_, LoneBuilder<T>, LoneSpine<T>, _, _>(
        "keys",
        |_, input, output| {
            if input.iter().any(|(_, weight)| *weight > 0) {
                output.push(((), 1));
            }
        },
        refill,
    )
}

/// The pairs that meet the condition.
fn filter<'scope, T: Timestamp + Lattice + Ord>(
    pairs: Collected<'scope, T, (Row, Row)>,
    condition: Condition,
    site: Site,
) -> Collected<'scope, T, (Row, Row)> {
    let stream = pairs.inner.unary(Pipeline, "condition", move |_, _| {
        move |input, output| {
            input.for_each(|capability, updates: &mut Vec<((Row, Row), T, i64)>| {
                if let Some(keep) = site.attempt(|| condition.keep(updates.iter().map(|(pair, _, _)| pair))) {
                    let kept = updates.drain(..).zip(keep).filter(|(_, keep)| *keep);
                    output.session(&capability).give_iterator(kept.map(|(update, _)| update));
                }
            });
        }
    });
    stream.as_collection()
}

impl Condition {
    fn keep<'a>(&self, pairs: impl ExactSizeIterator<Item = &'a (Row, Row)> + Clone) -> Result<Vec<bool>> {
        let rows = pairs.len();
        let left = self.coders[0].decode(pairs.clone().map(|(row, _)| row.as_ref()))?;
        let right = self.coders[1].decode(pairs.map(|(_, row)| row.as_ref()))?;
        let column = |(side, place): &(usize, usize)| Arc::clone(&[&left, &right][*side][*place]);
        let columns: Vec<ArrayRef> = self.reads.iter().map(column).collect();
        let holds = self.holds.evaluate(&batch_of(Arc::clone(&self.schema), columns, rows)?)?;
        let holds = holds.as_boolean();
        Ok((0..rows).map(|row| holds.is_valid(row) && holds.value(row)).collect())
    }
}
