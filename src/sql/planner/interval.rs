//! Joins of rows that are only so far apart in event time: both sides are kept for as long as a partner may come.

use super::{Place, Role, Stream, bare};
use crate::plan::Ttl;
use crate::time::Micros;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::logical_plan::LogicalPlan;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{BinaryExpr, Expr as Logical, Operator};

/// How far event time of the first side may be ahead of that of the second, in microseconds; behind, below 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Apart {
    least: Micros,
    most: Micros,
    /// The event-time columns.
    times: [usize; 2],
}

impl Apart {
    /// For how long rows of each side are needed: until the watermark is past the last partner that they may have.
    pub fn kept(self) -> [Ttl; 2] {
        let after = |micros: Micros| micros.max(0).saturating_add(1);
        let [first, second] = self.times;
        [Ttl { time: first, keep: after(self.least.saturating_neg()) }, Ttl { time: second, keep: after(self.most) }]
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
        Logical::Cast(cast) if matches!(cast.field.data_type(), DataType::Timestamp(..)) => {
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
