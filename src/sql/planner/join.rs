//! `JOIN`, `IN` and `EXISTS` to a join in windows.

use super::rank::place_of;
use super::{Bound, Place, Planner, Role, Stream, assign_windows, compile};
use crate::error::{Error, Result};
use crate::expr::from_datafusion;
use crate::plan::{Action, Emit, Input, JoinCondition, JoinKind, JoinSide, Joining, Route};
use arrow::datatypes::{FieldRef, Schema};
use datafusion_common::{DFSchema, JoinType, NullEquality, TableReference};
use datafusion_expr::Expr as Logical;
use datafusion_expr::logical_plan::{Join, LogicalPlan};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a join without windows is answered with, and IN or EXISTS without them.
const WINDOWS: &str = "join what windows hold: … FROM a JOIN b ON a.window_start = b.window_start AND a.window_end = b.window_end AND …, \
                       where a and b are TUMBLE(TABLE …), HOP(TABLE …) or the results of a GROUP BY with windows";
const WINDOWS_INSIDE: &str = "look into the same window: … FROM a WHERE x IN (SELECT y FROM b WHERE a.window_start = b.window_start AND \
                              a.window_end = b.window_end), where a and b are TUMBLE(TABLE …), HOP(TABLE …) or the results of a GROUP BY \
                              with windows";

impl Planner<'_> {
    pub(super) fn join(&mut self, join: &Join, last: bool) -> Result<Stream> {
        let (kind, turned) = match join.join_type {
            JoinType::Inner => (JoinKind::Inner, false),
            JoinType::Left => (JoinKind::Left, false),
            JoinType::Right => (JoinKind::Right, false),
            JoinType::Full => (JoinKind::Full, false),
            JoinType::LeftSemi => (JoinKind::Semi, false),
            JoinType::RightSemi => (JoinKind::Semi, true),
            JoinType::LeftAnti => (JoinKind::Anti, false),
            JoinType::RightAnti => (JoinKind::Anti, true),
            JoinType::LeftMark | JoinType::RightMark => {
                return Err(Error::invalid("IN or EXISTS with a query is not yet supported inside OR, CASE or NOT")
                    .help("make it a condition of WHERE on its own, perhaps in several INSERTs or with UNION ALL"));
            }
        };
        if join.null_aware || join.null_equality == NullEquality::NullEqualsNull {
            return Err(Error::invalid("NOT IN with a query is not yet supported")
                .help("NOT EXISTS (SELECT … WHERE a.key = b.key AND …) is"));
        }
        let mut plans: [&LogicalPlan; 2] = [&join.left, &join.right];
        let mut on: Vec<[&Logical; 2]> = join.on.iter().map(|(left, right)| [left, right]).collect();
        if turned {
            plans.reverse();
            on.iter_mut().for_each(|pair| pair.reverse());
        }
        let mut streams = [self.lower(plans[0], last)?, self.lower(plans[1], last)?];
        if streams.iter().any(|stream| stream.emit == Emit::Updating) {
            return Err(Error::invalid("a join of results that change is not yet supported").help(WINDOWS));
        }
        streams.iter_mut().try_for_each(|stream| assign_windows(self, stream))?;
        let Some(windows) = windows_of(&streams, &plans, &on) else {
            let conditions = join.on.iter().map(|(left, _)| left).chain(&join.filter);
            self.blame = conditions.into_iter().find_map(place_of);
            return Err(Error::invalid(
                "a join without windows is not yet supported: it would have to keep all rows of both sides",
            )
            .help(if kind.gives_pairs() { WINDOWS } else { WINDOWS_INSIDE }));
        };
        for (stream, id) in streams.iter_mut().zip(windows) {
            stream.compact_but(&stream.bounds_of(id).into_iter().flatten().collect());
        }
        let mut keys = [Vec::new(), Vec::new()];
        for (side, keys) in keys.iter_mut().enumerate() {
            let values: Vec<&Logical> = on.iter().map(|pair| pair[side]).collect();
            *keys = streams[side].with_values(&values, plans[side].schema())?;
        }
        let of_windows =
            |pair: usize| (0..2).all(|side| streams[side].window_of(keys[side][pair]) == Some(windows[side]));
        let different: Vec<usize> = (0..on.len()).filter(|pair| !of_windows(*pair)).collect();
        for &pair in &different {
            let [left, right] = [0, 1].map(|side| streams[side].rows.field(keys[side][pair]).data_type().clone());
            if left != right {
                return Err(Error::internal(format!("a join of {left} with {right}")));
            }
        }
        let sides = [0, 1].map(|side| {
            let [start, end] = streams[side].bounds_of(windows[side]).map(|bound| bound.expect("it was there above"));
            let keys = different.iter().map(|pair| keys[side][*pair]).collect();
            let output = if kind.gives_pairs() || side == 0 { streams[side].row_places() } else { Vec::new() };
            JoinSide { start, end, keys, output }
        });
        let condition = match &join.filter {
            Some(filter) => Some(condition(filter, &streams, &plans)?),
            None => None,
        };
        for stream in &mut streams {
            self.materialise(stream)?;
        }
        self.add_branches(&mut streams);
        Ok(self.join_step(&streams, Joining { kind, sides, condition }, windows))
    }

    fn join_step(&mut self, streams: &[Stream; 2], joining: Joining, windows: [usize; 2]) -> Stream {
        let kind = joining.kind;
        self.windows += 1;
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut roles = Vec::new();
        for side in 0..2 {
            // rows without a partner on this side have NULL there
            let optional = kind.gives_pairs() && kind.gives_unmatched(1 - side);
            for &row in &joining.sides[side].output {
                let field = streams[side].rows.fields()[row].as_ref().clone();
                let nullable = field.is_nullable() || optional;
                fields.push(Arc::new(field.with_nullable(nullable)));
                roles.push(match streams[side].roles[row] {
                    Role::Window(id, bound) if id == windows[side] && !optional => Role::Window(self.windows, bound),
                    _ => Role::None,
                });
            }
        }
        let mut name = kind.name().to_owned();
        let keys: Vec<&str> =
            joining.sides[0].keys.iter().map(|key| streams[0].rows.field(*key).name().as_str()).collect();
        if !keys.is_empty() {
            name.push_str(&format!(" by {}", keys.join(", ")));
        }
        name.push_str(" in windows of its inputs");
        let inputs = streams.iter().zip(&joining.sides);
        let inputs =
            inputs.map(|(stream, side)| Input { from: stream.base, route: Route::Key(side.route()) }).collect();
        let rows = Arc::new(Schema::new(fields));
        let base = self.step(name, Action::Join(Arc::new(joining)), inputs, Arc::clone(&rows), Emit::Append);
        let mut stream = Stream::of_step(base, rows, Emit::Append);
        stream.roles = roles;
        stream
    }
}

/// The windows of both sides that the join equates.
fn windows_of(streams: &[Stream; 2], plans: &[&LogicalPlan; 2], on: &[[&Logical; 2]]) -> Option<[usize; 2]> {
    let role = |side: usize, expr: &Logical| {
        let column = super::bare(expr).and_then(|column| plans[side].schema().maybe_index_of_column(column))?;
        match streams[side].columns[column] {
            Place::Row(row) => Some(streams[side].roles[row]),
            Place::Window(_) => None,
        }
    };
    let mut equal: BTreeSet<([usize; 2], bool)> = BTreeSet::new();
    for [left, right] in on {
        if let (Some(Role::Window(left, a)), Some(Role::Window(right, b))) = (role(0, left), role(1, right))
            && a == b
            && a != Bound::Time
        {
            equal.insert(([left, right], a == Bound::Start));
        }
    }
    let both = |ids: &[usize; 2]| equal.contains(&(*ids, true)) && equal.contains(&(*ids, false));
    equal.iter().map(|(ids, _)| *ids).find(both)
}

/// What pairs must meet beyond equal keys, over the columns of both inputs that it reads.
fn condition(filter: &Logical, streams: &[Stream; 2], plans: &[&LogicalPlan; 2]) -> Result<JoinCondition> {
    let mut reads = Vec::new();
    let mut fields: Vec<(Option<TableReference>, FieldRef)> = Vec::new();
    for side in 0..2 {
        for (index, (qualifier, field)) in plans[side].schema().iter().enumerate() {
            let column = datafusion_common::Column::from((qualifier, field));
            if let (true, Place::Row(row)) = (filter.column_refs().contains(&column), streams[side].columns[index]) {
                reads.push((side, row));
                fields.push((qualifier.cloned(), Arc::clone(field)));
            }
        }
    }
    let schema = DFSchema::new_with_metadata(fields, Default::default()).map_err(from_datafusion)?;
    let name = |(index, field): (usize, &FieldRef)| {
        let twice = schema.fields().iter().filter(|other| other.name() == field.name()).count() > 1;
        let side = if reads[index].0 == 0 { "left" } else { "right" };
        if twice {
            field.as_ref().clone().with_name(format!("{side}.{}", field.name()))
        } else {
            field.as_ref().clone()
        }
    };
    let rows = Arc::new(Schema::new(schema.fields().iter().enumerate().map(name).collect::<Vec<_>>()));
    Ok(JoinCondition { holds: compile(filter, &schema, &rows)?, reads, schema: rows })
}
