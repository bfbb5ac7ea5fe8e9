//! A plan's identity: equal in every process that planned the same text, and nothing else in it.

use super::{Action, Aggregation, Meeting, Plan, Reduction, Stage, Step, StepId, Transform};
use crate::connector::Gives;
use std::fmt::{self, Write};

impl Plan {
    /// The hash of all that decides what the pipeline does and what its state looks like, as 32 bytes.
    ///
    /// Options of connectors are left out: they may hold secrets, and processes may reach a service by different addresses.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = Hasher(blake3::Hasher::new());
        describe(self, &mut hasher).expect("hashing does not fail, and aggregates that were planned know their states");
        *hasher.0.finalize().as_bytes()
    }
}

impl Plan {
    /// The steps that remember something, each with its name and what tells its state from that of another step: what it does, and
    /// the columns of what it reads and gives. Two plans can share the state of a step if both are the same in them.
    pub fn identities(&self) -> Vec<(StepId, (String, String))> {
        let remembers = |action: &Action| match action {
            Action::Join(join) => join.meeting != Meeting::Always,
            Action::Aggregate(_)
            | Action::LateRows { .. }
            | Action::Custom(_)
            | Action::Rank(_)
            | Action::Top(_)
            | Action::Keep(_)
            | Action::Upsert { .. }
            | Action::Standing
            | Action::Closing(_) => true,
            _ => false,
        };
        let identity = |(id, step): (StepId, &Step)| {
            let mut hasher = Hasher(blake3::Hasher::new());
            let described = match &step.action {
                // what other steps there are, or what they want to hear, makes no other state
                Action::Keep(keeping) => writeln!(hasher, "  keep {:?} {:?}", keeping.ttl, keeping.there),
                Action::Upsert { key, .. } => writeln!(hasher, "  upsert {key:?}"),
                _ => action(step, &mut hasher),
            };
            let described = described.and_then(|()| fields(&step.schema, &mut hasher));
            described.expect("hashing does not fail, and aggregates that were planned know their states");
            for input in &step.inputs {
                fields(&self.steps[input.from].schema, &mut hasher).expect("hashing does not fail");
            }
            (id, (step.name.clone(), hasher.0.finalize().to_hex().to_string()))
        };
        self.steps.iter().enumerate().filter(|(_, step)| remembers(&step.action)).map(identity).collect()
    }
}

struct Hasher(blake3::Hasher);

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// The canonical text.
fn describe(plan: &Plan, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "highwater plan 1")?;
    writeln!(out, "{:?}", plan.settings)?;
    for (id, step) in plan.steps.iter().enumerate() {
        writeln!(out, "step {id} {:?} {:?} lateness {}", step.name, step.emit, step.lateness)?;
        for input in &step.inputs {
            writeln!(out, "  from {} {:?}", input.from, input.route)?;
        }
        action(step, out)?;
        fields(&step.schema, out)?;
    }
    Ok(())
}

fn fields(schema: &arrow::datatypes::Schema, out: &mut impl Write) -> fmt::Result {
    schema
        .fields()
        .iter()
        .try_for_each(|f| writeln!(out, "  column {:?} {} {}", f.name(), f.data_type(), f.is_nullable()))
}

fn action(step: &Step, out: &mut impl Write) -> fmt::Result {
    match &step.action {
        Action::Source(source) => {
            writeln!(out, "  source {:?} {:?} bounded {}", source.table, source.connector, source.source.bounded())?;
            fields(&source.source.schema(), out)?;
            if source.source.gives() != Gives::Rows {
                writeln!(out, "  gives {:?} {:?}", source.source.gives(), source.key)?;
            }
            if let Some(digest) = source.source.digest() {
                writeln!(out, "  rows {}", blake3::Hash::from_bytes(digest).to_hex())?;
            }
            source.columns.iter().try_for_each(|column| writeln!(out, "  value {column:#}"))?;
            writeln!(out, "  place {}", source.place)?;
            if let Some(time) = &source.time {
                writeln!(out, "  watermark {} {:#}", time.column, time.watermark)?;
            }
            writeln!(out, "  idle {:?} {:?} {:?}", source.idle_timeout, source.when_all_idle, source.max_future)
        }
        Action::Transform(stages) => stages.iter().try_for_each(|part| stage(part, out)),
        Action::PreAggregate(spec) => aggregation("partial results", spec, out),
        Action::Aggregate(spec) => aggregation("results", spec, out),
        Action::Keep(keeping) => writeln!(out, "  {keeping:?}"),
        Action::Standing => writeln!(out, "  standing"),
        Action::Closing(windows) => writeln!(out, "  closing {windows:?}"),
        Action::Consolidate => writeln!(out, "  consolidate"),
        Action::Round => writeln!(out, "  round"),
        Action::Recurse { round, distinct } => writeln!(out, "  recurse {round} distinct {distinct}"),
        Action::Reduce(reducing) => {
            writeln!(out, "  reduce by {:?}", reducing.keys)?;
            match &reducing.what {
                Reduction::Aggregate(spec) => aggregation("results", spec, out),
                Reduction::First { order, skip, limit, numbered } => {
                    writeln!(out, "  first {order:?} {skip} {limit:?} {numbered}")
                }
                Reduction::Over { order, calls } => {
                    writeln!(out, "  over {order:?}")?;
                    calls.iter().try_for_each(|call| writeln!(out, "  call {call}"))
                }
            }
        }
        Action::Custom(operator) => writeln!(out, "  operator {:?}", operator.name()),
        Action::Rank(ranking) => writeln!(out, "  {ranking:?}"),
        Action::Top(top) => writeln!(out, "  {top:?}"),
        Action::Join(join) => {
            writeln!(out, "  {:?} {:?} {:?} {}", join.kind, join.meeting, join.sides, join.nulls_equal)?;
            join.condition
                .iter()
                .try_for_each(|condition| writeln!(out, "  on {:?} {:#}", condition.reads, condition.holds))
        }
        Action::Lookup(step) => {
            writeln!(
                out,
                "  look up in {:?} {:?} {:?} {:?} {:?}",
                step.table, step.connector, step.kind, step.keys, step.output
            )?;
            writeln!(out, "  by {:?}", step.lookup.key())?;
            fields(&step.lookup.schema(), out)?;
            step.condition
                .iter()
                .try_for_each(|condition| writeln!(out, "  on {:?} {:#}", condition.reads, condition.holds))
        }
        Action::LateRows { lateness, sources } => writeln!(out, "  late rows {lateness:?} of {sources:?}"),
        Action::Upsert { key, every } => writeln!(out, "  upsert {key:?} every {every}"),
        Action::Settle(settling) => writeln!(out, "  {settling:?}"),
        Action::Union => writeln!(out, "  union"),
        Action::View(name) => writeln!(out, "  view {name:?}"),
        Action::DeadLetters => writeln!(out, "  dead letters"),
        Action::Sink(sink) => {
            writeln!(
                out,
                "  sink {:?} {:?} {:?} single {}",
                sink.table,
                sink.connector,
                sink.sink.changes(),
                sink.sink.single()
            )
        }
    }
}

fn stage(stage: &Stage, out: &mut impl Write) -> fmt::Result {
    match &stage.transform {
        Transform::Filter(keep) => writeln!(out, "  filter {keep:#}")?,
        Transform::Project(columns) => columns.iter().try_for_each(|column| writeln!(out, "  project {column:#}"))?,
        Transform::Unnest { column } => writeln!(out, "  unnest {column}")?,
        Transform::AssignWindows { time, windows } => writeln!(out, "  windows {time} {windows:?}")?,
    }
    fields(&stage.schema, out)
}

fn aggregation(half: &str, spec: &Aggregation, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "  {half} {:?} {:?} {:?}", spec.grouping, spec.output, spec.present)?;
    spec.keys.iter().try_for_each(|(key, field)| writeln!(out, "  key {key:#} {}", field.data_type()))?;
    for call in spec.calls.iter() {
        writeln!(out, "  call {call:#} {}", call.field().data_type())?;
        for state in call.state_fields().map_err(|_| fmt::Error)? {
            writeln!(out, "    state {}", state.data_type())?;
        }
    }
    Ok(())
}
