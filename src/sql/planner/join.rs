//! `JOIN`, `IN` and `EXISTS` to a join in windows, or with a table that ends.

use super::collect::one_row;
use super::interval;
use super::rank::place_of;
use super::{Bound, Needs, Place, Planner, Role, Stream, assign_windows, collect_needs, compile};
use crate::error::{Error, Result};
use crate::expr::from_datafusion;
use crate::plan::{Action, Emit, Input, JoinCondition, JoinKind, JoinSide, Joining, Meeting, StepId, WindowBounds};
use crate::sql::multiset::{Multiset, Which};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion_common::{DFSchema, JoinConstraint, JoinType, NullEquality, ScalarValue, TableReference};
use datafusion_expr::Expr as Logical;
use datafusion_expr::logical_plan::{Join, LogicalPlan};
use std::collections::BTreeSet;
use std::sync::Arc;

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
            JoinType::LeftMark => (JoinKind::Mark, false),
            JoinType::RightMark => (JoinKind::Mark, true),
        };
        // what NULL does to NOT IN is said by conditions beside it
        self.join_as(join, kind, turned, last)
    }

    /// `INTERSECT ALL` and `EXCEPT ALL`.
    pub(super) fn multiset(&mut self, node: &Multiset, last: bool) -> Result<Stream> {
        let columns = [&node.left, &node.right].map(|side| side.schema().columns().into_iter().map(Logical::Column));
        let [left, right] = columns;
        let rows = Join::try_new(
            Arc::clone(&node.left),
            Arc::clone(&node.right),
            left.zip(right).collect(),
            None,
            JoinType::LeftSemi,
            JoinConstraint::On,
            NullEquality::NullEqualsNull,
            false,
        );
        let kind = match node.which {
            Which::Common => JoinKind::Common,
            Which::Excess => JoinKind::Excess,
        };
        self.join_as(&rows.map_err(from_datafusion)?, kind, false, last)
    }

    /// The rows that a join of `kind` leaves; `turned` if its first side is the second one of the plan.
    fn join_as(&mut self, join: &Join, kind: JoinKind, turned: bool, last: bool) -> Result<Stream> {
        let filter = join.filter.as_ref().filter(|filter| !is_true(filter));
        let nulls_equal = join.null_equality == NullEquality::NullEqualsNull;
        let mut plans: [&LogicalPlan; 2] = [&join.left, &join.right];
        let mut on: Vec<[&Logical; 2]> = join.on.iter().map(|(left, right)| [left, right]).collect();
        if turned {
            plans.reverse();
            on.iter_mut().for_each(|pair| pair.reverse());
        }
        // which side is a table that is read whole: the second one, if both may be
        let tables: Vec<usize> = [1, 0].into_iter().filter(|side| self.is_table(plans[*side], last)).collect();
        let table = tables.iter().find(|table| !leaves_rest(kind, **table)).or(tables.first()).copied();
        let mut streams = match table {
            // what is looked up speaks last, if what looks it up is not taken back
            Some(table) => {
                let looking = self.lower(plans[1 - table], last)?;
                let waits = looking.emit != Emit::Updating && self.speaks_last(plans[table]);
                let looked_up = self.lower(plans[table], last || waits)?;
                if table == 1 { [looking, looked_up] } else { [looked_up, looking] }
            }
            None => [self.lower(plans[0], last)?, self.lower(plans[1], last)?],
        };
        streams.iter_mut().try_for_each(|stream| assign_windows(self, stream))?;
        let stand = !nulls_equal && streams.iter().all(|stream| stream.emit != Emit::Updating);
        let windows = windows_of(&streams, &plans, &on).filter(|_| stand);
        let meets = match (windows, table) {
            (Some(windows), _) => Meets::InWindows(windows),
            (None, Some(table)) if stand && !leaves_rest(kind, table) => Meets::WithTable(table),
            (None, _) if !on.is_empty() || plans.iter().any(|plan| one_row(plan)) => Meets::Always,
            // whether there is a row at all
            (None, _) if !kind.gives_pairs() && filter.is_none() => Meets::Always,
            (None, _) => {
                let conditions = join.on.iter().map(|(left, _)| left).chain(filter);
                self.blame = conditions.into_iter().find_map(place_of);
                return Err(Error::invalid("a join needs a column of one side that equals one of the other")
                    .help("write JOIN … ON a.key = b.key AND …; other conditions may follow"));
            }
        };
        for (side, stream) in streams.iter_mut().enumerate() {
            stream.compact_but(&match meets {
                Meets::InWindows(ids) => stream.bounds_of(ids[side]).into_iter().flatten().collect(),
                Meets::WithTable(_) | Meets::Always => BTreeSet::new(),
            });
        }
        let mut keys = [Vec::new(), Vec::new()];
        for (side, keys) in keys.iter_mut().enumerate() {
            let values: Vec<&Logical> = on.iter().map(|pair| pair[side]).collect();
            *keys = streams[side].with_values(&values, plans[side].schema())?;
        }
        let of_windows = |pair: usize| match meets {
            Meets::InWindows(ids) => (0..2).all(|side| streams[side].window_of(keys[side][pair]) == Some(ids[side])),
            Meets::WithTable(_) | Meets::Always => false,
        };
        let different: Vec<usize> = (0..on.len()).filter(|pair| !of_windows(*pair)).collect();
        for &pair in &different {
            let [left, right] = [0, 1].map(|side| streams[side].rows.field(keys[side][pair]).data_type().clone());
            if left != right {
                return Err(Error::internal(format!("a join of {left} with {right}")));
            }
        }
        let mut sides = [0, 1].map(|side| {
            let keys = different.iter().map(|pair| keys[side][*pair]).collect();
            let output = if kind.gives_pairs() || side == 0 { streams[side].row_places() } else { Vec::new() };
            JoinSide { keys, output }
        });
        // pairs that are all that leaves are filtered where they have left
        let behind = matches!(meets, Meets::Always) && kind == JoinKind::Inner;
        let condition = match filter {
            Some(filter) if !behind => Some(condition(filter, &streams, &plans)?),
            _ => None,
        };
        for stream in &mut streams {
            self.materialise(stream)?;
        }
        Ok(match meets {
            Meets::Always => {
                let conditions = join.on.iter().map(|(left, _)| left).chain(filter);
                let place = conditions.into_iter().find_map(place_of);
                let joining = Joining { kind, meeting: Meeting::Always, sides, condition, nulls_equal };
                let apart = filter.filter(|_| stand && kind != JoinKind::Mark && !kind.counts());
                let joined = match apart.and_then(|filter| interval::between(filter, &streams, &plans)) {
                    Some(apart) => self.join_apart(&streams, joining, apart),
                    None => self.join_always(&mut streams, joining),
                };
                let mut stream = joined.inspect_err(|_| self.blame = place)?;
                if let Some(filter) = filter.filter(|_| behind) {
                    self.filter(&mut stream, filter, &join.schema)?;
                }
                stream
            }
            Meets::InWindows(ids) => {
                let meeting = Meeting::InWindows([0, 1].map(|side| {
                    let [start, end] = streams[side].bounds_of(ids[side]);
                    let known = "the join equates both bounds";
                    WindowBounds { start: start.expect(known), end: end.expect(known) }
                }));
                self.add_branches(&mut streams);
                self.windows += 1;
                let id = self.windows;
                self.join_step(
                    &streams,
                    Joining { kind, meeting, sides, condition, nulls_equal },
                    None,
                    |side, role| match role {
                        Role::Window(of, bound) if of == ids[side] => Role::Window(id, bound),
                        _ => Role::None,
                    },
                )
            }
            Meets::WithTable(table) => {
                let meeting = Meeting::WithTable { table };
                let looking = 1 - table;
                let place = streams[looking].place;
                sides[looking].output.extend(place);
                let place = place.map(|_| sides[..=looking].iter().map(|side| side.output.len()).sum::<usize>() - 1);
                let mut stream = self.join_step(
                    &streams,
                    Joining { kind, meeting, sides, condition, nulls_equal },
                    None,
                    |side, role| match side {
                        // the watermark is none until the table has ended, so what waited for that is not late
                        _ if side != table => role,
                        _ => Role::None,
                    },
                );
                stream.late = std::mem::take(&mut streams[looking].late);
                stream.place = place;
                stream.columns.retain(|column| Some(*column) != place.map(Place::Row));
                stream
            }
        })
    }

    /// Adds a step that joins all rows that there are.
    fn join_always(&mut self, streams: &mut [Stream; 2], joining: Joining) -> Result<Stream> {
        let what = match joining.kind {
            kind if kind.counts() => kind.name().to_uppercase(),
            JoinKind::Mark => "IN or EXISTS with a query".to_owned(),
            JoinKind::Anti => "an anti join without windows".to_owned(),
            kind => format!("a {} without windows", kind.name()),
        };
        let mut inputs = Vec::new();
        for (side, stream) in streams.iter_mut().enumerate() {
            let input = self.entering(stream, &joining.sides[side].keys, &what)?;
            stream.emit = self.steps[input.from].emit;
            inputs.push(input);
        }
        let updating = streams.iter().any(|stream| stream.emit == Emit::Updating);
        let taken_back = !matches!(joining.kind, JoinKind::Inner | JoinKind::Semi | JoinKind::Common);
        let emit = if updating || taken_back { Emit::Updating } else { Emit::Append };
        Ok(self.join_step(streams, joining, Some((inputs, emit)), |_, _| Role::None))
    }

    /// Adds the step, with `edges` of its own if it has some; `role` says what a column of an input is in the result.
    pub(super) fn join_step(
        &mut self,
        streams: &[Stream; 2],
        joining: Joining,
        edges: Option<(Vec<Input>, Emit)>,
        role: impl Fn(usize, Role) -> Role,
    ) -> Stream {
        let kind = joining.kind;
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut roles = Vec::new();
        for (side, of_side) in streams.iter().enumerate() {
            // rows without a partner on this side have NULL there
            let optional = kind.gives_pairs() && kind.gives_unmatched(1 - side);
            for &row in &joining.sides[side].output {
                let mut field = of_side.rows.fields()[row].as_ref().clone();
                if joining.meeting == Meeting::Always && fields.iter().any(|other| other.name() == field.name()) {
                    field = field.clone().with_name(format!("right.{}", field.name()));
                }
                let nullable = field.is_nullable() || optional;
                fields.push(Arc::new(field.with_nullable(nullable)));
                roles.push(if optional { Role::None } else { role(side, of_side.roles[row]) });
            }
        }
        if kind == JoinKind::Mark {
            fields.push(Arc::new(Field::new("mark", DataType::Boolean, false)));
            roles.push(Role::None);
        }
        let mut name = kind.name().to_owned();
        let keys: Vec<&str> =
            joining.sides[0].keys.iter().map(|key| streams[0].rows.field(*key).name().as_str()).collect();
        if !keys.is_empty() {
            name.push_str(&format!(" by {}", keys.join(", ")));
        }
        name.push_str(match joining.meeting {
            Meeting::InWindows(_) => " in windows of its inputs",
            Meeting::WithTable { .. } => " with a table",
            Meeting::AsOf(_) => " as of event time",
            Meeting::Always => "",
        });
        let (inputs, emit) = edges.unwrap_or_else(|| {
            let inputs = streams.iter().enumerate();
            let inputs = inputs.map(|(side, stream)| Input { from: stream.base, route: joining.route(side) });
            (inputs.collect(), Emit::Append)
        });
        let rows = Arc::new(Schema::new(fields));
        let base = self.step(name, Action::Join(Arc::new(joining)), inputs, Arc::clone(&rows), emit);
        let mut stream = Stream::of_step(base, rows, emit);
        stream.roles = roles;
        stream
    }

    /// True if the rows of `plan` end and have no event time: a join may wait for all of them.
    fn is_table(&self, plan: &LogicalPlan, last: bool) -> bool {
        if collects(plan) {
            return false;
        }
        let mut needs = Needs::new();
        collect_needs(plan, &mut needs);
        needs.into_keys().all(|name| {
            self.readers.get(&(name, last)).is_some_and(|reader| self.ends_without_time(reader.stream.base))
        })
    }

    fn ends_without_time(&self, id: StepId) -> bool {
        match &self.steps[id].action {
            Action::Source(source) => source.source.bounded() && source.time.is_none(),
            _ => self.steps[id].inputs.iter().all(|input| self.ends_without_time(input.from)),
        }
    }

    /// True if aggregates in `plan`, which ends, can wait for that.
    fn speaks_last(&self, plan: &LogicalPlan) -> bool {
        let mut needs = Needs::new();
        collect_needs(plan, &mut needs);
        needs.into_keys().all(|name| self.readers.contains_key(&(name, true)))
    }
}

/// True for a condition that says nothing.
fn is_true(expr: &Logical) -> bool {
    matches!(expr, Logical::Literal(ScalarValue::Boolean(Some(true)), _))
}

/// True if collections have a part in `plan`.
fn collects(plan: &LogicalPlan) -> bool {
    let itself = matches!(
        plan,
        LogicalPlan::Join(_) | LogicalPlan::Window(_) | LogicalPlan::Limit(_) | LogicalPlan::RecursiveQuery(_)
    );
    itself || Multiset::of(plan).is_some() || plan.inputs().into_iter().any(collects)
}

/// Which rows of two streams meet.
#[derive(Clone, Copy)]
enum Meets {
    /// Those in windows with these numbers.
    InWindows([usize; 2]),
    /// Those of one side with all of this one.
    WithTable(usize),
    /// All that there are.
    Always,
}

/// True if rows of side `table` leave that are in no pair: they would have to wait for the end of the other side.
fn leaves_rest(kind: JoinKind, table: usize) -> bool {
    kind.gives_unmatched(table) || (!kind.gives_pairs() && table == 0)
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
pub(super) fn condition(filter: &Logical, streams: &[Stream; 2], plans: &[&LogicalPlan; 2]) -> Result<JoinCondition> {
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
