//! `FOR SYSTEM_TIME AS OF` and `ASOF JOIN` to a join with the newest row at a time.
//!
//! The versions of a table are its rows by key and event time, whether they are taken back or not. A view that keeps the newest row of
//! each key, by row_number, has the versions of its input: it is not made at all, so that none is lost that is replaced in its own epoch.

use super::join::condition;
use super::rank::{bound, numbering, place_of};
use super::{Bound, Emit, Place, Planner, ProjectBuilder, Role, Stream, assign_windows, bare};
use crate::error::{Error, Result};
use crate::expr::{Expr, from_datafusion};
use crate::plan::{Action, AsOf, JoinKind, JoinSide, Joining, Meeting, StepId};
use crate::sql::catalog::TableRead;
use crate::sql::temporal::{Newest, TemporalJoin};
use arrow::datatypes::{DataType, Field};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::logical_plan::{Filter, LogicalPlan, LogicalPlanBuilder, Window};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{BinaryExpr, Expr as Logical, Operator};
use datafusion_physical_expr::expressions::lit;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Planner<'_> {
    /// A filter on such a join, or on columns of it: what it asks of the first input alone is asked there. None if it is on something else.
    pub(super) fn filtered_temporal(&mut self, filter: &Filter, last: bool) -> Result<Option<Stream>> {
        let (chosen, below) = match filter.input.as_ref() {
            LogicalPlan::Projection(chosen) if chosen.expr.iter().all(|expr| matches!(expr, Logical::Column(_))) => {
                (Some(chosen), chosen.input.as_ref())
            }
            other => (None, other),
        };
        let Some(join) = temporal(below) else { return Ok(None) };
        let of_left = |part: &&Logical| {
            let columns = part.column_refs();
            !part.is_volatile()
                && columns.iter().all(|column| join.left.schema().maybe_index_of_column(column).is_some())
        };
        let (left, rest): (Vec<&Logical>, Vec<&Logical>) =
            split_conjunction(&filter.predicate).into_iter().partition(of_left);
        let mut stream = self.temporal(join, conjunction(left.into_iter().cloned()), last)?;
        if let Some(chosen) = chosen {
            self.project(&mut stream, &chosen.expr, chosen.input.schema(), &chosen.schema)?;
        }
        if let Some(rest) = conjunction(rest.into_iter().cloned()) {
            self.filter(&mut stream, &rest, filter.input.schema())?;
        }
        Ok(Some(stream))
    }

    /// The rows of the first input that meet `keep`, each with the newest row of the second.
    pub(super) fn temporal(&mut self, join: &TemporalJoin, keep: Option<Logical>, last: bool) -> Result<Stream> {
        let (Newest::At(time) | Newest::Of(time)) = &join.newest else { return self.look_up(join, keep, last) };
        let (right, kept) = match join.newest {
            Newest::At(_) => unfiltered(&join.right).map_err(from_datafusion)?,
            _ => (join.right.as_ref().clone(), Vec::new()),
        };
        let plans: [&LogicalPlan; 2] = [&join.left, &right];
        let mut left = self.lower(&join.left, last)?;
        if let Some(keep) = &keep {
            self.filter(&mut left, keep, join.left.schema())?;
        }
        let mut streams = [left, self.versions(&right, last)?];
        streams.iter_mut().try_for_each(|stream| assign_windows(self, stream))?;
        let what = match join.newest {
            Newest::At(_) => "FOR SYSTEM_TIME AS OF",
            _ => "ASOF JOIN",
        };
        self.blame = place_of(time);
        if streams[0].emit == Emit::Updating {
            let changing = self.changing(streams[0].base);
            let changing = changing.trim_end_matches(',');
            return Err(Error::invalid(format!("{what} takes rows that stand before JOIN, not {changing}"))
                .help("join the rows before they are aggregated, or count in windows"));
        }
        let before = self.check_times(join, &streams)?;
        for (side, stream) in streams.iter_mut().enumerate() {
            let time = time_of(stream, (side == 0).then(|| left_time(join)).flatten().map(|time| (time, plans[0])));
            stream.compact_but(&time.into_iter().collect::<BTreeSet<_>>());
        }
        let (on, rest) = self.equalities(join)?;
        let mut keys = [Vec::new(), Vec::new()];
        for (side, keys) in keys.iter_mut().enumerate() {
            let values: Vec<&Logical> = on.iter().map(|pair| &pair[side]).collect();
            *keys = streams[side].with_values(&values, plans[side].schema())?;
        }
        for (&left, &right) in keys[0].iter().zip(&keys[1]) {
            let [left, right] = [(0, left), (1, right)].map(|(side, key)| streams[side].rows.field(key).data_type());
            if left != right {
                return Err(Error::internal(format!("a join of {left} with {right}")));
            }
        }
        let rest = conjunction(rest.into_iter().chain(kept));
        let condition = rest.as_ref().map(|rest| condition(rest, &streams, &plans)).transpose()?;
        let times = [0, 1].map(|side| {
            time_of(&streams[side], (side == 0).then(|| left_time(join)).flatten().map(|time| (time, plans[0])))
        });
        let [Some(left), Some(right)] = times else { return Err(Error::internal("event time is lost")) };
        let changes = streams[1].emit == Emit::Updating;
        if changes {
            self.tell_every(streams[1].base);
        }
        let place = streams[0].place;
        let mut sides = [0, 1].map(|side| JoinSide { keys: keys[side].clone(), output: streams[side].row_places() });
        sides[0].output.extend(place);
        let place = place.map(|_| sides[0].output.len() - 1);
        for stream in &mut streams {
            self.materialise(stream)?;
        }
        let kind = if join.outer { JoinKind::Left } else { JoinKind::Inner };
        let meeting = Meeting::AsOf(AsOf { times: [left, right], before, changes });
        let joining = Joining { kind, meeting, sides, condition, nulls_equal: false };
        // what waits for the watermark leaves when that has come to its own time, and no further
        let mut stream =
            self.join_step(&streams, joining, None, |side, role| if side == 0 { role } else { Role::None });
        stream.late = std::mem::take(&mut streams[0].late);
        stream.place = place;
        stream.columns.retain(|column| Some(*column) != place.map(Place::Row));
        // what the second input carries for the condition is no column of the query
        stream.columns.truncate(plans[0].schema().fields().len() + join.right.schema().fields().len());
        self.blame = None;
        Ok(stream)
    }

    /// Refuses times that are none; true if the newest row is to be before the other, not at its time.
    fn check_times(&mut self, join: &TemporalJoin, streams: &[Stream; 2]) -> Result<bool> {
        let plans: [&LogicalPlan; 2] = [&join.left, &join.right];
        let table = named(&join.right);
        let has_time = |side: usize, expr: &Logical| time_of(&streams[side], Some((expr, plans[side]))).is_some();
        let unpromised = |what: &str, name: &str| {
            Error::invalid(format!("{what} goes by event time, but column '{name}' has no watermark"))
                .help(format!("declare one in CREATE TABLE: WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND"))
        };
        match &join.newest {
            Newest::At(time) => {
                let Some(column) = bare(uncast(time)) else {
                    return Err(Error::invalid("FOR SYSTEM_TIME AS OF goes by a column, not by an expression")
                        .help("name the event-time column of the table before JOIN"));
                };
                if !has_time(0, time) {
                    return Err(match join.left.schema().maybe_index_of_column(column) {
                        Some(_) => unpromised("FOR SYSTEM_TIME AS OF", column.name()),
                        None => Error::invalid(format!(
                            "FOR SYSTEM_TIME AS OF goes by a time of the rows before JOIN, but '{}' is not theirs",
                            column.name()
                        ))
                        .help("name the event-time column of the table before JOIN"),
                    });
                }
                if time_of(&streams[1], None).is_none() {
                    return Err(Error::invalid(format!("the versions of {table} go by event time, but it has no watermark"))
                        .help("declare one in CREATE TABLE, WATERMARK FOR updated AS updated - INTERVAL '5' SECOND, and keep that column in views; \
                               a table that is aggregated has no versions"));
                }
                Ok(false)
            }
            Newest::Of(comparison) => {
                let wrong = || {
                    Err(Error::invalid("MATCH_CONDITION compares the event times of both tables")
                        .help("write MATCH_CONDITION (a.ts >= b.ts): the newest row of b at or before that of a; with > before it"))
                };
                let Logical::BinaryExpr(BinaryExpr { left, op, right }) = comparison else { return wrong() };
                let is_left = |expr: &Logical| {
                    bare(uncast(expr)).is_some_and(|column| join.left.schema().maybe_index_of_column(column).is_some())
                };
                let (later, earlier, op) = match is_left(left) {
                    true => (left, right, Some(*op)),
                    false => (right, left, op.swap()),
                };
                let (Some(of_left), Some(of_right)) = (bare(uncast(later)), bare(uncast(earlier))) else {
                    return wrong();
                };
                let before = match op {
                    Some(Operator::GtEq) => false,
                    Some(Operator::Gt) => true,
                    Some(Operator::LtEq | Operator::Lt) if is_left(later) => {
                        return Err(Error::invalid(
                            "ASOF JOIN with the next row of the other table is not yet supported",
                        )
                        .help("write MATCH_CONDITION (a.ts >= b.ts): the newest row of b at or before that of a"));
                    }
                    _ => return wrong(),
                };
                if !is_left(later) || join.right.schema().maybe_index_of_column(of_right).is_none() {
                    return wrong();
                }
                for (side, expr, column) in [(0, later, of_left), (1, earlier, of_right)] {
                    if !has_time(side, expr) {
                        return Err(unpromised("MATCH_CONDITION", column.name()));
                    }
                }
                if streams[1].emit == Emit::Updating {
                    return Err(Error::invalid(format!(
                        "ASOF JOIN takes rows that stand, but {table} is a stream of changes"
                    ))
                    .help("its versions are joined by FOR SYSTEM_TIME AS OF"));
                }
                Ok(before)
            }
            Newest::Answer => Err(Error::internal("what is asked for has no time")),
        }
    }

    /// The pairs of expressions that the condition equates and by which rows find each other, and what else it asks.
    fn equalities(&mut self, join: &TemporalJoin) -> Result<(Vec<[Logical; 2]>, Vec<Logical>)> {
        let (mut pairs, mut rest) = equal(join);
        let Newest::At(_) = join.newest else {
            return Ok((pairs.into_iter().map(|(pair, _)| pair).collect(), rest));
        };
        let table = named(&join.right);
        let Some(key) = key_of(&join.right) else {
            return Err(Error::invalid(format!("FOR SYSTEM_TIME AS OF needs a key of which {table} has versions, and none is known")).help(
                "declare PRIMARY KEY (column) NOT ENFORCED in CREATE TABLE; ASOF JOIN … MATCH_CONDITION (a.ts >= b.ts) needs none",
            ));
        };
        let mut on = Vec::new();
        for (name, place) in key {
            let is_key = |expr: &Logical| {
                let column = bare(uncast(expr)).and_then(|column| join.right.schema().maybe_index_of_column(column));
                column.is_some() && column == place
            };
            match pairs.iter().position(|([_, right], _)| is_key(right)) {
                Some(at) => on.push(pairs.remove(at).0),
                None => {
                    self.blame = join.condition.as_ref().and_then(place_of).or(self.blame);
                    return Err(Error::invalid(format!("the condition leaves '{name}' open, which is in the key of {table}: a row would meet several versions"))
                        .help(format!("write ON … = {name} for every column of its PRIMARY KEY; other conditions may follow")));
                }
            }
        }
        // the version is chosen by key; whatever else is equal is asked of the one that is chosen
        rest.extend(pairs.into_iter().map(|(_, part)| part));
        Ok((on, rest))
    }

    /// Lowers `plan`, but for a choice of the newest row of each key in it.
    fn versions(&mut self, plan: &LogicalPlan, last: bool) -> Result<Stream> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.versions(&alias.input, last),
            LogicalPlan::Projection(projection) if newest_rows(&projection.input).is_some() => {
                let mut stream = self.versions(&projection.input, last)?;
                self.project(&mut stream, &projection.expr, projection.input.schema(), plan.schema())?;
                Ok(stream)
            }
            LogicalPlan::Filter(filter) => match newest_rows(plan) {
                Some(_) => self.unranked(&filter.input, last),
                None => self.lower(plan, last),
            },
            _ => self.lower(plan, last),
        }
    }

    /// The rows below a ranking; all are the first.
    fn unranked(&mut self, plan: &LogicalPlan, last: bool) -> Result<Stream> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.unranked(&alias.input, last),
            LogicalPlan::Projection(projection) => {
                let mut stream = self.unranked(&projection.input, last)?;
                self.project(&mut stream, &projection.expr, projection.input.schema(), plan.schema())?;
                Ok(stream)
            }
            LogicalPlan::Window(window) => {
                let mut stream = self.lower(&window.input, last)?;
                assign_windows(self, &mut stream)?;
                // a row that is taken back would end its key, which may have others
                if stream.emit == Emit::Updating {
                    return Err(Error::invalid(
                        "a view of the newest rows of keys has versions only where rows are not taken back",
                    )
                    .help("join the table itself, by its PRIMARY KEY"));
                }
                let order = numbering(window).and_then(|call| Some(call.params.order_by.first()?.expr.clone()));
                if order.is_none_or(|order| time_of(&stream, Some((&order, &window.input))).is_none()) {
                    return Err(Error::invalid("a view whose versions are joined keeps the newest rows by event time")
                        .help("ORDER BY the column that has the WATERMARK, DESC"));
                }
                let mut builder = ProjectBuilder::default();
                for (row, field) in stream.rows.fields().iter().enumerate() {
                    builder.add(Expr::column(field.name(), row), Arc::clone(field), stream.roles[row]);
                }
                let first = Expr::new(lit(ScalarValue::UInt64(Some(1))));
                let number =
                    builder.add(first, Arc::new(Field::new("row_number", DataType::UInt64, false)), Role::None);
                builder.apply(&mut stream);
                stream.columns.push(Place::Row(number));
                Ok(stream)
            }
            other => Err(Error::internal(format!("no row numbers come from {}", other.display()))),
        }
    }

    /// Lets what makes changes of newest rows at or before step `id` tell every one, not only the last of an epoch.
    fn tell_every(&mut self, id: StepId) {
        match &mut self.steps[id].action {
            Action::Upsert { every, .. } => *every = true,
            Action::Transform(_) | Action::Union => {
                let inputs: Vec<StepId> = self.steps[id].inputs.iter().map(|input| input.from).collect();
                inputs.into_iter().for_each(|input| self.tell_every(input));
            }
            _ => {}
        }
    }
}

/// What the condition equates, the first input's expression first, each with the equality; and what else it asks.
pub(super) fn equal(join: &TemporalJoin) -> (Vec<([Logical; 2], Logical)>, Vec<Logical>) {
    let schemas = [join.left.schema(), join.right.schema()];
    let of = |side: usize, expr: &Logical| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| schemas[side].maybe_index_of_column(column).is_some())
    };
    let (mut pairs, mut rest) = (Vec::new(), Vec::new());
    for part in join.condition.iter().flat_map(split_conjunction) {
        match part {
            Logical::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if of(0, left) && of(1, right) => {
                pairs.push(([left.as_ref().clone(), right.as_ref().clone()], part.clone()));
            }
            Logical::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if of(1, left) && of(0, right) => {
                pairs.push(([right.as_ref().clone(), left.as_ref().clone()], part.clone()));
            }
            other => rest.push(other.clone()),
        }
    }
    (pairs, rest)
}

/// The join that `plan` is, if it is one.
pub(super) fn temporal(plan: &LogicalPlan) -> Option<&TemporalJoin> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<TemporalJoin>(),
        _ => None,
    }
}

/// `plan` without its filters, and what they ask: a version that a view leaves out is the one that holds at its time all the same, and
/// then the view has none. What they ask is computed in further columns, at the end, where those that they read are not chosen.
pub(super) fn unfiltered(plan: &LogicalPlan) -> datafusion_common::Result<(LogicalPlan, Vec<Logical>)> {
    match plan {
        LogicalPlan::Filter(filter) if newest_rows(plan).is_none() => {
            let (input, mut kept) = unfiltered(&filter.input)?;
            kept.extend(split_conjunction(&filter.predicate).into_iter().cloned());
            Ok((input, kept))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let (input, kept) = unfiltered(&alias.input)?;
            let inner = Arc::clone(input.schema());
            let plan = LogicalPlanBuilder::from(input).alias(alias.alias.clone())?.build()?;
            let outside = |part: Logical| match &part {
                Logical::Column(column) => {
                    let place = inner.index_of_column(column)?;
                    Ok(Transformed::yes(Logical::Column(Column::from(plan.schema().qualified_field(place)))))
                }
                _ => Ok(Transformed::no(part)),
            };
            let kept = kept.into_iter().map(|kept| kept.transform(outside).map(|kept| kept.data));
            let kept = kept.collect::<datafusion_common::Result<Vec<_>>>()?;
            Ok((plan, kept))
        }
        LogicalPlan::Projection(projection) => {
            let (input, kept) = unfiltered(&projection.input)?;
            if kept.is_empty() {
                return Ok((plan.clone(), kept));
            }
            let name = |number: usize| format!("kept {number}");
            let computed = kept.into_iter().enumerate().map(|(number, kept)| kept.alias(name(number)));
            let exprs: Vec<Logical> = projection.expr.iter().cloned().chain(computed).collect();
            let count = exprs.len() - projection.expr.len();
            let plan = LogicalPlanBuilder::from(input).project(exprs)?.build()?;
            Ok((plan, (0..count).map(|number| Logical::Column(Column::from_name(name(number)))).collect()))
        }
        _ => Ok((plan.clone(), Vec::new())),
    }
}

/// The time of the first input.
fn left_time(join: &TemporalJoin) -> Option<&Logical> {
    match &join.newest {
        Newest::At(time) => Some(time),
        Newest::Of(Logical::BinaryExpr(BinaryExpr { left, right, .. })) => {
            let of_left = |expr: &&Logical| {
                bare(uncast(expr)).is_some_and(|column| join.left.schema().maybe_index_of_column(column).is_some())
            };
            [left.as_ref(), right.as_ref()].into_iter().find(of_left)
        }
        _ => None,
    }
}

/// The row's column with event time: the one that an expression names, else the first.
fn time_of(stream: &Stream, named: Option<(&Logical, &LogicalPlan)>) -> Option<usize> {
    let is_time = |row: &usize| matches!(stream.roles[*row], Role::Time | Role::Window(_, Bound::Time));
    match named {
        Some((expr, plan)) => {
            let index = plan.schema().maybe_index_of_column(bare(uncast(expr))?)?;
            match stream.columns[index] {
                Place::Row(row) => Some(row).filter(is_time),
                Place::Window(_) => None,
            }
        }
        None => (0..stream.roles.len()).find(is_time),
    }
}

pub(super) fn uncast(expr: &Logical) -> &Logical {
    match expr {
        Logical::Cast(cast) => uncast(&cast.expr),
        other => other,
    }
}

/// What the text calls the rows of `plan`.
pub(super) fn named(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::TableScan(scan) => format!("'{}'", scan.table_name.table()),
        _ => match plan.inputs().as_slice() {
            [input] => named(input),
            _ => "the second input".into(),
        },
    }
}

/// The key of which the rows of `plan` are versions: for each column its name, and where it is if it is still there.
fn key_of(plan: &LogicalPlan) -> Option<Vec<(String, Option<usize>)>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = &scan.source.downcast_ref::<TableRead>()?.0;
            let place = |place: usize| match &scan.projection {
                Some(projection) => projection.iter().position(|column| *column == place),
                None => Some(place),
            };
            let key = table.primary_key.iter();
            let key: Vec<_> = key.map(|&column| (table.schema.field(column).name().clone(), place(column))).collect();
            (!key.is_empty()).then_some(key)
        }
        LogicalPlan::SubqueryAlias(alias) => key_of(&alias.input),
        LogicalPlan::Filter(filter) => match newest_rows(plan) {
            Some(key) => Some(key),
            None => key_of(&filter.input),
        },
        LogicalPlan::Projection(projection) => {
            let input = projection.input.schema();
            let copies = |column: usize| {
                let copy = |expr: &Logical| bare(expr).and_then(|of| input.maybe_index_of_column(of)) == Some(column);
                projection.expr.iter().position(copy)
            };
            let key = key_of(&projection.input)?;
            Some(key.into_iter().map(|(name, at)| (name, at.and_then(copies))).collect())
        }
        _ => None,
    }
}

/// The columns whose newest row by event time `plan` keeps, if it does nothing else: a filter `row_number = 1`, perhaps under a choice of
/// columns.
fn newest_rows(plan: &LogicalPlan) -> Option<Vec<(String, Option<usize>)>> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => newest_rows(&alias.input),
        LogicalPlan::Filter(filter) => match bound(&filter.predicate, &filter.input) {
            (Some(1), None) => ranked(&filter.input),
            _ => None,
        },
        _ => None,
    }
}

fn ranked(plan: &LogicalPlan) -> Option<Vec<(String, Option<usize>)>> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => ranked(&alias.input),
        LogicalPlan::Projection(projection) => {
            let input = projection.input.schema();
            let copies = |column: usize| {
                let copy = |expr: &Logical| bare(expr).and_then(|of| input.maybe_index_of_column(of)) == Some(column);
                projection.expr.iter().position(copy)
            };
            Some(ranked(&projection.input)?.into_iter().map(|(name, at)| (name, at.and_then(copies))).collect())
        }
        LogicalPlan::Window(window) => partition(window),
        _ => None,
    }
}

/// The columns of PARTITION BY, where the newest row comes first.
fn partition(window: &Window) -> Option<Vec<(String, Option<usize>)>> {
    let call = numbering(window)?;
    let [order] = call.params.order_by.as_slice() else { return None };
    let is_moment = |expr: &Logical| {
        let column = bare(expr).and_then(|column| window.input.schema().maybe_index_of_column(column));
        column.is_some_and(|column| matches!(window.input.schema().field(column).data_type(), DataType::Timestamp(..)))
    };
    if order.asc || !is_moment(&order.expr) || call.params.partition_by.is_empty() {
        return None;
    }
    let column = |expr: &Logical| {
        let column = bare(expr)?;
        Some((column.name().to_owned(), Some(window.input.schema().maybe_index_of_column(column)?)))
    };
    call.params.partition_by.iter().map(column).collect()
}
