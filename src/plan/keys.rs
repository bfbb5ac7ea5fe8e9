//! Which columns tell the rows of a step apart, and whether a sink that goes by its PRIMARY KEY can go by them.

use super::{
    Action, Emit, Input, JoinKind, Joining, Meeting, OutputColumn, Plan, Reduction, Route, Says, Settling, SinkStep,
    Stage, Step, StepId, Transform,
};
use crate::connector::{Changes, Sink};
use crate::error::{Error, Result};

/// What has to be done with the rows of step `id`, which are taken back, before `sink` can take them, which has this PRIMARY KEY.
pub fn settling(steps: &[Step], id: StepId, sink: &dyn Sink, primary: &[usize]) -> Option<Settling> {
    let replaced = || {
        let key = unique_key(steps, id).and_then(|key| key.into_iter().collect::<Option<Vec<usize>>>());
        key.is_some_and(|key| same(&key, primary)) && drops_keys(steps, id).is_none()
    };
    let says = match sink.changes() {
        _ if steps[id].emit != Emit::Updating || primary.is_empty() => None,
        Changes::Paired => Some(Says::Changes),
        // where each key keeps a row the new one is all that there is to say
        Changes::Keyed if !replaced() => Some(Says::Newest),
        _ => None,
    };
    says.map(|says| Settling { key: primary.to_vec(), says })
}

fn same(key: &[usize], primary: &[usize]) -> bool {
    key.len() == primary.len() && covers(primary, key)
}

/// True if rows that are told apart by `key` are told apart by the columns `primary`.
fn covers(primary: &[usize], key: &[usize]) -> bool {
    key.iter().all(|column| primary.contains(column))
}

/// For each column of a key that tells the rows of step `id` apart at any time: where it is, if it is still there. None if no key is known.
fn unique_key(steps: &[Step], id: StepId) -> Option<Vec<Option<usize>>> {
    let step = &steps[id];
    let of_input = || unique_key(steps, step.inputs.first()?.from);
    match &step.action {
        Action::Aggregate(spec) if step.emit == Emit::Updating => {
            let place = |key| spec.output.iter().position(|column| *column == OutputColumn::Key(key));
            Some((0..spec.keys.len()).map(place).collect())
        }
        Action::Source(source) if step.emit == Emit::Updating && !source.key.is_empty() => {
            Some(source.key.iter().copied().map(Some).collect())
        }
        Action::Upsert { key, .. } => Some(key.iter().copied().map(Some).collect()),
        Action::Settle(_) | Action::Keep(_) | Action::Consolidate | Action::Standing => of_input(),
        // a row may lie in several windows
        Action::Closing(_) => None,
        Action::Reduce(reducing) => match reducing.what {
            Reduction::Aggregate(_) => Some((0..reducing.keys.len()).map(Some).collect()),
            Reduction::First { limit: Some(1), skip: 0, .. } => Some(reducing.keys.iter().copied().map(Some).collect()),
            Reduction::First { numbered, .. } => of_input().or_else(|| numbered_key(step, &reducing.keys, numbered)),
            Reduction::Over { .. } => of_input(),
        },
        Action::Top(top) if top.limit == 1 => Some(top.keys.iter().copied().map(Some).collect()),
        Action::Top(top) => numbered_key(step, &top.keys, top.numbered).or_else(of_input),
        Action::Join(join) if join.meeting == Meeting::Always => joined_key(steps, step, join),
        Action::Transform(stages) => {
            let mut key = of_input()?;
            for stage in stages {
                match &stage.transform {
                    Transform::Filter(_) => {}
                    Transform::Project(columns) => {
                        let place = |from: usize| columns.iter().position(|column| column.as_same_text() == Some(from));
                        key = key.into_iter().map(|column| column.and_then(place)).collect();
                    }
                    // one row becomes several
                    Transform::Unnest { .. } | Transform::AssignWindows { .. } => return None,
                }
            }
            Some(key)
        }
        _ => None,
    }
}

/// The key of rows that are numbered in each key: it and the number, the last column.
fn numbered_key(step: &Step, keys: &[usize], numbered: bool) -> Option<Vec<Option<usize>>> {
    let number = step.schema.fields().len().checked_sub(1).filter(|_| numbered)?;
    Some(keys.iter().copied().chain([number]).map(Some).collect())
}

/// The key of a join's rows: that of one side where the other has one row at most for each, else those of both.
fn joined_key(steps: &[Step], step: &Step, join: &Joining) -> Option<Vec<Option<usize>>> {
    let key = |side: usize| {
        let known = unique_key(steps, step.inputs[side].from)?.into_iter().collect::<Option<Vec<usize>>>()?;
        // one row of this side at most meets a row of the other
        let single = covers(&join.sides[side].keys, &known);
        let before = if side == 0 { 0 } else { join.sides[0].output.len() };
        let place = |column: usize| join.sides[side].output.iter().position(|of| *of == column).map(|n| before + n);
        Some((known.into_iter().map(place).collect::<Vec<_>>(), single))
    };
    let single = |side: usize| key(side).is_some_and(|(_, single)| single);
    let of = |side: usize| key(side).map(|(key, _)| key);
    match join.kind {
        JoinKind::Semi | JoinKind::Anti | JoinKind::Mark | JoinKind::Common | JoinKind::Excess => of(0),
        JoinKind::Inner | JoinKind::Left if single(1) => of(0),
        JoinKind::Inner | JoinKind::Right if single(0) => of(1),
        JoinKind::Inner => Some([of(0)?, of(1)?].concat()),
        JoinKind::Left | JoinKind::Right | JoinKind::Full => None,
    }
}

/// True if the rows of step `id` still have all columns of the GROUP BY that they come from.
pub fn keeps_keys(steps: &[Step], id: StepId) -> bool {
    match &steps[id].action {
        Action::Aggregate(_) => true,
        Action::Transform(_) => {
            let whole = unique_key(steps, id).is_some_and(|key| key.iter().all(Option::is_some));
            whole && steps[id].inputs.iter().all(|input| keeps_keys(steps, input.from))
        }
        _ => false,
    }
}

/// The step at or before `id`, after the one whose keys all keep a row, that may drop a row whose key was given before.
fn drops_keys(steps: &[Step], id: StepId) -> Option<StepId> {
    let Step { action, inputs, emit: Emit::Updating, .. } = &steps[id] else { return None };
    let drops = |stage: &Stage| matches!(stage.transform, Transform::Filter(_) | Transform::Unnest { .. });
    match action {
        Action::Transform(stages) if stages.iter().any(drops) => Some(id),
        Action::Transform(_) | Action::Union | Action::Settle(_) | Action::Consolidate => {
            inputs.iter().find_map(|input| drops_keys(steps, input.from))
        }
        Action::Source(_) | Action::Upsert { .. } | Action::Reduce(_) | Action::Join(_) | Action::Recurse { .. } => {
            Some(id)
        }
        // of first rows each key, and each number in it, has one from its first row on
        Action::Top(top) if top.limit > 1 && !top.numbered => Some(id),
        // a group that loses its last row has no result
        Action::Aggregate(spec) if spec.present.is_some() => Some(id),
        _ => None,
    }
}

/// The step at or before `id`, whose rows are taken back, that begins to take back.
pub fn updates(steps: &[Step], id: StepId) -> StepId {
    let step = &steps[id];
    match step.action {
        Action::Transform(_)
        | Action::Union
        | Action::Settle(_)
        | Action::Upsert { .. }
        | Action::Consolidate
        | Action::Keep(_) => {
            let input = step.inputs.iter().find(|input| steps[input.from].emit == Emit::Updating);
            input.map_or(id, |input| updates(steps, input.from))
        }
        _ => id,
    }
}

impl Plan {
    /// Refuses a sink that goes by its PRIMARY KEY, and cannot go by that of its input.
    pub(super) fn check_key(&self, step: &Step, sink: &SinkStep) -> Result<()> {
        let keyed = match sink.sink.changes() {
            Changes::AppendOnly | Changes::All => return Ok(()),
            Changes::Keyed | Changes::Paired => true,
            Changes::Upsert => false,
        };
        if let Some(id) = step.inputs.iter().find_map(|input| drops_keys(&self.steps, input.from)).filter(|_| !keyed) {
            return Err(Error::invalid(format!(
                "table \"{}\" keeps the newest row of each key, but step \"{}\" may leave a key without a row",
                sink.table, self.steps[id].name
            ))
            .help(
                "filter where the table is read, count in windows, or end the INSERT with EMIT FINAL if the input ends",
            ));
        }
        let [input] = step.inputs.as_slice() else { return Ok(()) };
        // what an epoch's changes come to goes the same way
        let Input { from, route } = match self.steps[input.from].action {
            Action::Consolidate => &self.steps[input.from].inputs[0],
            _ => input,
        };
        let primary = match (&self.steps[*from].action, route) {
            (Action::Settle(Settling { key, .. }), _) | (_, Route::Key(key)) => key,
            _ => return Ok(()),
        };
        if self.steps[*from].emit != Emit::Updating {
            return Ok(());
        }
        let name = |column: &usize| step.schema.field(*column).name().as_str();
        let names = |columns: &[usize]| columns.iter().map(name).collect::<Vec<_>>().join(", ");
        let Some(key) = unique_key(&self.steps, *from) else {
            if sink.key_trusted || !keyed {
                return Ok(());
            }
            return Err(Error::invalid(format!(
                "table \"{}\" keeps one row of each ({}), but step \"{}\" may give several",
                sink.table,
                names(primary),
                self.steps[updates(&self.steps, *from)].name
            ))
            .help(format!(
                "if that cannot be, declare PRIMARY KEY ({}) NOT ENFORCED; else GROUP BY these columns",
                names(primary)
            )));
        };
        let key: Option<Vec<usize>> = key.into_iter().collect();
        if key.as_ref().is_some_and(|key| if keyed { covers(primary, key) } else { same(key, primary) }) {
            return Ok(());
        }
        let of_groups = self.sources_of_groups(*from);
        let advice = match &key {
            Some(key) => format!("declare PRIMARY KEY ({}) NOT ENFORCED", names(key)),
            None if of_groups => {
                "write every column of the GROUP BY as it is, and make these columns the PRIMARY KEY".into()
            }
            None => {
                "write every column of the source's PRIMARY KEY as it is, and make these columns the PRIMARY KEY".into()
            }
        };
        let told = if of_groups { "the columns of its GROUP BY" } else { "the PRIMARY KEY of its source" };
        Err(Error::invalid(format!(
            "table \"{}\" keeps the newest row of each ({}), but the query's results are told apart by {told}",
            sink.table,
            names(primary)
        ))
        .help(advice))
    }

    /// True if the key of step `id` is that of a GROUP BY.
    fn sources_of_groups(&self, id: StepId) -> bool {
        match &self.steps[id] {
            Step { action: Action::Aggregate(_), .. } => true,
            Step { action: Action::Reduce(reducing), .. } => matches!(reducing.what, Reduction::Aggregate(_)),
            Step { action: Action::Transform(_) | Action::Settle(_) | Action::Consolidate, inputs, .. } => {
                inputs.iter().any(|input| self.sources_of_groups(input.from))
            }
            _ => false,
        }
    }
}
