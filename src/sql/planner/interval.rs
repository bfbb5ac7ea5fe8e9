//! Joins of rows that are only so far apart in event time: both sides are kept for as long as a partner may come.
//!
//! A row that leaves without a partner does so in the last epoch of its time, for which it meets the rows of the other side once more: they
//! are kept for as long as they may have been its partners. What leaves stands. It may be as much older than its epoch's watermark as rows
//! are kept, so what goes by its event time stays so much behind.

use super::{Place, Planner, ProjectBuilder, Role, Stream, bare, compile, null_of};
use crate::error::Result;
use crate::plan::{Action, Emit, Input, JoinCondition, JoinKind, JoinSide, Joining, Keeping, Route, There, Ttl};
use crate::time::Micros;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, TimeUnit};
use datafusion_common::DFSchema;
use datafusion_common::ScalarValue;
use datafusion_expr::logical_plan::LogicalPlan;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{BinaryExpr, Expr as Logical, Operator};
use std::sync::Arc;

/// How far event time of the first side may be ahead of that of the second, in microseconds; behind, below 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Apart {
    least: Micros,
    most: Micros,
    /// The event-time columns.
    times: [usize; 2],
}

impl Apart {
    /// For how long a partner of a row of `side` may come.
    fn waits(self, side: usize) -> Micros {
        [self.least.saturating_neg(), self.most][side].max(0)
    }

    /// For how long rows of `side` are kept: until the watermark is past the last partner that they may have, and past the time at which
    /// the partners that they have had leave, if `kind` asks those whether they have had one.
    fn life(self, side: usize, kind: JoinKind) -> Ttl {
        let own = self.waits(side).saturating_add(1);
        let asked = kind.gives_unmatched(1 - side) || (kind == JoinKind::Semi && side == 1);
        let keep = if asked { own.saturating_add(self.waits(1 - side)) } else { own };
        // one that comes after a partner has left without it would be in no row
        let admit = if kind == JoinKind::Full { 1 } else { own };
        Ttl { time: self.times[side], keep, admit }
    }

    /// When rows of `side` that are in no pair leave.
    fn end(self, side: usize, kind: JoinKind) -> Ttl {
        Ttl { keep: self.waits(side).saturating_add(1), ..self.life(side, kind) }
    }
}

impl Planner<'_> {
    /// Adds the steps of a join of rows that stand and are `apart`.
    pub(super) fn join_apart(&mut self, streams: &[Stream; 2], joining: Joining, apart: Apart) -> Result<Stream> {
        let kind = joining.kind;
        let mut beside: Vec<_> = streams.iter().flat_map(|stream| self.sources_of(stream.base)).collect();
        beside.sort_unstable();
        beside.dedup();
        let behind = self.behind(streams[0].base).max(self.behind(streams[1].base));
        let keys = |side: usize| joining.sides[side].keys.as_slice();
        let mut enter = |side: usize, ttl: Ttl, there: There| {
            let keeping = Keeping { ttl: Some(ttl), there, beside: beside.clone() };
            // both sides go by one watermark
            self.entering_for(&streams[side], keys(side), "a join in intervals", Some((keeping, behind)))
        };
        let lives = [0, 1].map(|side| apart.life(side, kind));
        let kept = [enter(0, lives[0], There::Through)?, enter(1, lives[1], There::Through)?];
        let mut alone = [None, None];
        for side in (0..2).filter(|side| kind.gives_unmatched(*side)) {
            alone[side] = Some(enter(side, apart.end(side, kind), There::Last)?);
        }
        let mut parts = Vec::new();
        if kind != JoinKind::Anti {
            let of_pairs = if kind.gives_pairs() { JoinKind::Inner } else { kind };
            let pairs = Joining { kind: of_pairs, ..joining.clone() };
            parts.push(self.join_step(streams, pairs, Some((kept.to_vec(), Emit::Append)), |_, _| Role::None));
        }
        for (side, alone) in alone.into_iter().enumerate() {
            let Some(alone) = alone else { continue };
            parts.push(self.without_partner(side, streams, &joining, [alone, kept[1 - side].clone()])?);
        }
        let mut stream = match parts.len() {
            1 => parts.remove(0),
            _ => self.all_of(&parts),
        };
        // what is not always there is no event time
        let mut place = 0;
        for (side, output) in joining.sides.iter().map(|side| &side.output).enumerate() {
            let there = !kind.gives_pairs() || !kind.gives_unmatched(1 - side);
            for column in output {
                if there && *column == apart.times[side] {
                    stream.roles[place] = Role::Time;
                }
                place += 1;
            }
        }
        let late = lives.iter().map(|ttl| ttl.keep - 1).max().unwrap_or(0);
        self.steps[stream.base].lateness = behind.saturating_add(late);
        Ok(stream)
    }

    /// The rows of `side` that have come to their last epoch without a partner: `edges` give them, and the rows of the other side.
    fn without_partner(
        &mut self,
        side: usize,
        streams: &[Stream; 2],
        joining: &Joining,
        edges: [Input; 2],
    ) -> Result<Stream> {
        let of = [side, 1 - side];
        let condition = joining.condition.as_ref().map(|condition| JoinCondition {
            reads: condition.reads.iter().map(|(from, column)| (of[*from], *column)).collect(),
            ..condition.clone()
        });
        let sides =
            [joining.sides[side].clone(), JoinSide { keys: joining.sides[1 - side].keys.clone(), output: Vec::new() }];
        let alone = Joining { kind: JoinKind::Anti, sides, condition, ..joining.clone() };
        let turned = of.map(|side| streams[side].clone());
        let edges = Some((edges.to_vec(), Emit::Append));
        let mut stream = self.join_step(&turned, alone, edges, |_, _| Role::None);
        if joining.kind.gives_pairs() {
            let nothing = (DFSchema::empty(), Schema::empty());
            let mut builder = ProjectBuilder::default();
            for (from, of_side) in joining.sides.iter().enumerate() {
                for (place, column) in of_side.output.iter().enumerate() {
                    let field = streams[from].rows.field(*column);
                    if from == side {
                        builder.copy(&stream, place, field.name());
                        continue;
                    }
                    let null = compile(&null_of(field.data_type())?, &nothing.0, &nothing.1)?;
                    builder.add(null, Arc::new(field.clone().with_nullable(true)), Role::None);
                }
            }
            builder.apply(&mut stream);
            stream.columns = (0..stream.rows.fields().len()).map(Place::Row).collect();
            self.materialise(&mut stream)?;
        }
        Ok(stream)
    }

    /// The rows of all `parts`, which have the columns of the first.
    fn all_of(&mut self, parts: &[Stream]) -> Stream {
        let nullable = |(place, field): (usize, &FieldRef)| {
            let nullable = parts.iter().any(|part| part.rows.field(place).is_nullable());
            field.as_ref().clone().with_nullable(nullable)
        };
        let fields: Fields = parts[0].rows.fields().iter().enumerate().map(nullable).collect();
        let inputs = parts.iter().map(|part| Input { from: part.base, route: Route::Forward }).collect();
        let rows = Arc::new(Schema::new(fields));
        let base = self.step("union".into(), Action::Union, inputs, Arc::clone(&rows), Emit::Append);
        Stream::of_step(base, rows, Emit::Append)
    }
}

/// What `condition` says of the event times of both sides, if it bounds them on both ends.
pub(super) fn between(condition: &Logical, streams: &[Stream; 2], plans: &[&LogicalPlan; 2]) -> Option<Apart> {
    let (mut least, mut most, mut times) = (None::<Micros>, None::<Micros>, None);
    for part in split_conjunction(condition) {
        let Logical::BinaryExpr(BinaryExpr { left, op, right }) = part else { continue };
        let (Some(left), Some(right)) = (moment(left, streams, plans), moment(right, streams, plans)) else { continue };
        // left ≥ right, whichever way it is written
        let (greater, less) = match op {
            Operator::GtEq | Operator::Gt => (left, right),
            Operator::LtEq | Operator::Lt => (right, left),
            _ => continue,
        };
        let apart = less.offset.saturating_sub(greater.offset);
        let here = match (greater.side, less.side) {
            (0, 1) => {
                least = Some(least.map_or(apart, |least| least.max(apart)));
                [greater.row, less.row]
            }
            (1, 0) => {
                let apart = apart.saturating_neg();
                most = Some(most.map_or(apart, |most| most.min(apart)));
                [less.row, greater.row]
            }
            _ => continue,
        };
        if *times.get_or_insert(here) != here {
            return None;
        }
    }
    Some(Apart { least: least?, most: most?, times: times? })
}

/// An event time and so much.
struct Moment {
    side: usize,
    row: usize,
    offset: Micros,
}

fn moment(expr: &Logical, streams: &[Stream; 2], plans: &[&LogicalPlan; 2]) -> Option<Moment> {
    match expr {
        // any other one may round
        Logical::Cast(cast)
            if matches!(
                cast.field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, None)
            ) =>
        {
            moment(&cast.expr, streams, plans)
        }
        Logical::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => {
            let (of, by) = match micros(right) {
                Some(by) => (left, by),
                None => (right, micros(left)?),
            };
            let of = moment(of, streams, plans)?;
            Some(Moment { offset: of.offset.checked_add(by)?, ..of })
        }
        Logical::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            let of = moment(left, streams, plans)?;
            Some(Moment { offset: of.offset.checked_sub(micros(right)?)?, ..of })
        }
        _ => {
            let column = bare(expr)?;
            (0..2).find_map(|side| {
                let index = plans[side].schema().maybe_index_of_column(column)?;
                let Place::Row(row) = streams[side].columns[index] else { return None };
                (streams[side].roles[row] == Role::Time).then_some(Moment { side, row, offset: 0 })
            })
        }
    }
}

/// How long an interval is; months are of no one length.
fn micros(expr: &Logical) -> Option<Micros> {
    match expr {
        Logical::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
            let days = Micros::from(interval.days).checked_mul(86_400_000_000)?;
            days.checked_add(interval.nanoseconds / 1000)
        }
        Logical::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
            let days = Micros::from(interval.days).checked_mul(86_400_000_000)?;
            days.checked_add(Micros::from(interval.milliseconds) * 1000)
        }
        Logical::Literal(ScalarValue::DurationMicrosecond(Some(micros)), _) => Some(*micros),
        _ => None,
    }
}
