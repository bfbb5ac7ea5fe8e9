//! What a plan looks like to a person: a tree from each sink down to its sources, the same as JSON, and as a Mermaid diagram.

use super::grows;
use super::{
    Action, Aggregation, AsOf, Emit, Grouping, Input, Joining, Keeping, Lateness, LookupStep, Meeting, Plan, Ranking,
    Reducing, Reduction, Route, Says, Settling, SinkStep, SortColumn, Stage, Step, StepId, There, Tick, Transform, Ttl,
    describe_sessions, describe_windows,
};
use crate::connector::{Asking, Delivery, Gives};
use crate::time::Micros;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

impl Plan {
    /// The plan as a tree, drawn from the sinks and then the served views down. A step that several others read is drawn once.
    pub fn explain_text(&self) -> String {
        let tick = match self.settings.tick {
            Tick::Every(every) => humantime::format_duration(every).to_string(),
            Tick::Rows(rows) => format!("{rows} rows"),
        };
        let mut text = format!("pipeline {}, tick {tick}\n", self.settings.name);
        let mut drawn = vec![false; self.steps.len()];
        for id in self.sinks().map(|(id, _)| id).chain(self.views().map(|(id, _)| id)) {
            text.push('\n');
            self.draw(id, None, "", "", &mut drawn, &mut text);
        }
        text
    }

    /// Draws step `id`: its first line after `first`, the others and its inputs after `rest`.
    fn draw(&self, id: StepId, route: Option<&Input>, first: &str, rest: &str, drawn: &mut [bool], text: &mut String) {
        let step = &self.steps[id];
        let by = route.map(|input| format!("{}: ", self.route_text(input))).unwrap_or_default();
        let seen = std::mem::replace(&mut drawn[id], true);
        writeln!(text, "{first}{by}{}{}", step.name, if seen { " (see above)" } else { "" }).expect(INFALLIBLE);
        if seen {
            return;
        }
        let stem = if step.inputs.is_empty() { "   " } else { "│  " };
        for line in self.details(id) {
            writeln!(text, "{rest}{stem}  {line}").expect(INFALLIBLE);
        }
        for (position, input) in step.inputs.iter().enumerate() {
            let last = position + 1 == step.inputs.len();
            let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.draw(input.from, Some(input), &format!("{rest}{branch}"), &format!("{rest}{below}"), drawn, text);
        }
    }

    /// How many workers have a part in a step.
    fn runs_on(&self, id: StepId) -> RunsOn {
        let step = &self.steps[id];
        let on = |input: &Input| match input.route {
            Route::Single => RunsOn::OneWorker,
            Route::Key(_) => RunsOn::AllByKey,
            Route::Forward => self.runs_on(input.from),
        };
        match &step.action {
            Action::Source(_) => RunsOn::AllBySplit,
            // Forward edges of a union may come from anywhere.
            Action::Union if step.inputs.iter().any(|input| on(input) != RunsOn::OneWorker) => RunsOn::All,
            _ => match step.inputs.first().map(on) {
                Some(RunsOn::AllByKey) if step.inputs[0].route == Route::Forward => RunsOn::All,
                Some(RunsOn::AllBySplit) | None => RunsOn::All,
                Some(on) => on,
            },
        }
    }

    /// The columns by which rows come to their worker.
    fn key_names(&self, id: StepId) -> Vec<&str> {
        let key = self.steps[id].inputs.first().map(|input| (&input.route, &self.steps[input.from].schema));
        match key {
            Some((Route::Key(keys), schema)) => keys.iter().map(|key| schema.field(*key).name().as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// What is said of a step below its name.
    fn details(&self, id: StepId) -> Vec<String> {
        let step = &self.steps[id];
        let mut lines = self.does(id);
        if let Action::Sink(sink) = &step.action {
            let (promise, why) = self.delivery(sink);
            lines.push(format!("delivery {promise}: {why}"));
        }
        lines.push(format!("columns {}", columns_text(&step.schema)));
        let mut about = vec![format!("emits {}", emit_text(step.emit))];
        if let Some(watermark) = self.watermark_text(id) {
            about.push(watermark);
        }
        about.push(format!("state {}", self.state_text(id)));
        if self.runs_on(id) == RunsOn::OneWorker {
            about.push("on one worker".into());
        }
        lines.push(about.join(", "));
        lines
    }

    /// What a step does, one line a stage.
    fn does(&self, id: StepId) -> Vec<String> {
        let step = &self.steps[id];
        match &step.action {
            Action::Source(source) => {
                let bounded = if source.source.bounded() { ", bounded" } else { "" };
                let gives = match source.source.gives() {
                    Gives::Rows => "",
                    Gives::Changes => ", changes",
                    Gives::Upserts => ", newest rows",
                };
                let mut lines = vec![format!("connector {}{bounded}{gives}", source.connector)];
                let computed =
                    source.columns.iter().zip(step.schema.fields()).filter(|(value, _)| value.as_column().is_none());
                lines.extend(computed.map(|(value, field)| format!("computes {} = {value}", field.name())));
                lines
            }
            Action::Transform(stages) => {
                let inputs = step
                    .inputs
                    .iter()
                    .map(|input| &self.steps[input.from].schema)
                    .chain(stages.iter().map(|stage| &stage.schema));
                inputs.zip(stages).map(|(before, stage)| stage_text(before, stage)).collect()
            }
            Action::PreAggregate(aggregation) => aggregation_text(aggregation),
            Action::LateRows { lateness, .. } => lateness_text(lateness, &self.steps[step.inputs[0].from].schema),
            Action::Aggregate(_) | Action::Union | Action::Custom(_) | Action::DeadLetters => Vec::new(),
            Action::Rank(ranking) => ranking_text(ranking, &step.schema),
            Action::Top(top) => first_text(&top.keys, &top.order, top.skip, Some(top.limit), &step.schema),
            Action::Keep(keeping) => keeping_text(keeping, &step.schema),
            Action::Standing | Action::Consolidate => Vec::new(),
            Action::Closing(_) => vec!["rows that are there when their window closes".into()],
            Action::Round => vec!["the rows of the round before".into()],
            Action::Recurse { distinct: true, .. } => {
                vec!["each row once, round by round until there are no new ones".into()]
            }
            Action::Recurse { .. } => vec!["round by round until there are no new rows".into()],
            Action::Reduce(reducing) => reducing_text(reducing, &self.steps[step.inputs[0].from].schema),
            Action::Upsert { key, every } => {
                let rows = if *every { "every new row" } else { "newest row" };
                vec![format!("{rows} of each {}", names(&step.schema, key))]
            }
            Action::Settle(Settling { key, says }) => {
                let key = names(&step.schema, key);
                vec![match says {
                    Says::Changes => format!("changes of an epoch by {key}, without those that cancel out"),
                    Says::Newest => format!("what an epoch leaves of each {key}: its row, or that it has none"),
                }]
            }
            Action::Join(join) => {
                let schemas: Vec<&Schema> =
                    step.inputs.iter().map(|input| self.steps[input.from].schema.as_ref()).collect();
                joining_text(join, &schemas)
            }
            Action::Lookup(lookup) => lookup_text(lookup, &self.steps[step.inputs[0].from].schema),
            Action::Sink(sink) => vec![format!("connector {}", sink.connector)],
            Action::View(_) => vec!["served: SELECT and SUBSCRIBE see the rows of one epoch".into()],
        }
    }

    /// What a sink promises over restarts, and why that and nothing else.
    fn delivery(&self, sink: &SinkStep) -> (&'static str, &'static str) {
        match (sink.delivery, sink.sink.staging()) {
            (Delivery::ExactlyOnce, Some(staging)) => ("exactly once", staging.how()),
            // no plan has it: who plans asks for the staging first
            (Delivery::ExactlyOnce, None) => ("exactly once", "the connector does not say how"),
            (Delivery::AtLeastOnce, None) => ("at least once", "the connector writes rows as they come"),
            (Delivery::AtLeastOnce, Some(_)) if self.settings.checkpoint_store.is_none() => {
                ("at least once", "the pipeline has no checkpoint_store")
            }
            (Delivery::AtLeastOnce, Some(_)) => ("at least once", "the table's option delivery says so"),
        }
    }

    /// Whose watermark a step goes by.
    fn watermark_text(&self, id: StepId) -> Option<String> {
        let tables = self.watermark_tables(id);
        match &self.steps[id].action {
            Action::Source(source) => {
                let time = source.time.as_ref()?;
                Some(format!("watermark of {} is {}", self.steps[id].schema.field(time.column).name(), time.watermark))
            }
            _ if tables.is_empty() => None,
            _ => {
                let lateness = Duration::from_micros(self.steps[id].lateness.unsigned_abs());
                let behind = format!(" and {} behind", humantime::format_duration(lateness));
                let behind = if lateness.is_zero() { "" } else { &behind };
                Some(format!("watermark of {}{behind}", tables.join(", ")))
            }
        }
    }

    /// The tables with event time that a step depends on.
    fn watermark_tables(&self, id: StepId) -> Vec<String> {
        let tables = self.sources_of(id).into_iter().filter_map(|source| match &self.steps[source].action {
            Action::Source(source) if source.time.is_some() => Some(source.table.clone()),
            _ => None,
        });
        tables.collect()
    }

    /// What bounds the state of windows. Rows without a watermark are those of the definition itself.
    fn window_bound(&self, id: StepId) -> String {
        match self.watermark_tables(id).as_slice() {
            [] => "by windows until the input ends".into(),
            tables => format!("by watermark of {}", tables.join(", ")),
        }
    }

    /// What bounds a step's state.
    fn state_text(&self, id: StepId) -> String {
        match &self.steps[id].action {
            Action::Aggregate(aggregation) => match aggregation.grouping {
                Grouping::Windowed { .. } | Grouping::Attached { .. } | Grouping::Session { .. } => {
                    self.window_bound(id)
                }
                Grouping::Final => "by keys until the input ends".into(),
                Grouping::Updating => "by keys".into(),
            },
            Action::Custom(_) => "its own".into(),
            Action::Keep(keeping) => self.kept_text(id, keeping),
            Action::Reduce(_) => self.index_text(id),
            Action::Recurse { .. } => "indexes of its input and of all rows that it finds".into(),
            Action::Standing => "by rows of its input until the input ends".into(),
            Action::View(_) => self.held_text(id),
            Action::Closing(_) => self.window_bound(id),
            Action::Upsert { .. } => "by keys".into(),
            Action::Top(top) => match (top.keys.is_empty(), top.kept()) {
                (true, 1) => "1 row".into(),
                (true, kept) => format!("{kept} rows"),
                (false, 1) => "by keys, 1 row of each".into(),
                (false, kept) => format!("by keys, {kept} rows of each"),
            },
            Action::Join(join) => match join.meeting {
                Meeting::InWindows(_) => format!("by watermark of {}", self.watermark_tables(id).join(", ")),
                Meeting::AsOf(_) => {
                    let tables = self.watermark_tables(id).join(", ");
                    match join.sides[1].keys.is_empty() {
                        true => format!("by watermark of {tables}, and the newest row before it"),
                        false => format!("by watermark of {tables}, and of each key the newest row before it"),
                    }
                }
                Meeting::Always => self.index_text(id),
                Meeting::WithTable { table } => {
                    let tables = self.sources_of(self.steps[id].inputs[table].from).into_iter();
                    let tables = tables.filter_map(|source| match &self.steps[source].action {
                        Action::Source(source) => Some(source.table.as_str()),
                        _ => None,
                    });
                    let tables = tables.collect::<Vec<_>>().join(", ");
                    format!("by rows of {tables}, and those that wait for its end")
                }
            },
            Action::Rank(ranking) => {
                let by = self.window_bound(id);
                match ranking.limit {
                    Some(1) => format!("{by}, 1 row of a key in a window"),
                    Some(limit) => format!("{by}, {limit} rows of a key in a window"),
                    None => by,
                }
            }
            _ => "none".into(),
        }
    }

    /// What bounds the rows that enter collections.
    fn kept_text(&self, id: StepId, keeping: &Keeping) -> String {
        match keeping.ttl {
            Some(ttl) => {
                let keep = Duration::from_micros(ttl.keep.unsigned_abs());
                let tables = self.watermark_tables(id).join(", ");
                format!("rows of the last {} by watermark of {tables}", humantime::format_duration(keep))
            }
            None if grows(&self.steps, id).is_some() => "unbounded: all rows of its input".into(),
            None => "by rows of its input".into(),
        }
    }

    /// What bounds the rows of a served view.
    fn held_text(&self, id: StepId) -> String {
        let from = self.steps[id].inputs[0].from;
        let bound = match &self.steps[from].action {
            Action::Keep(Keeping { ttl: Some(ttl), .. }) => {
                let keep = Duration::from_micros(ttl.keep.unsigned_abs());
                format!("the rows of the last {} by event time", humantime::format_duration(keep))
            }
            _ if grows(&self.steps, from).is_some() => "unbounded: all rows of its query".into(),
            _ => "the rows of its query".into(),
        };
        format!("{bound}, in memory")
    }

    /// What an index over collections holds: no more than what enters them.
    fn index_text(&self, id: StepId) -> String {
        let key = |input: &Input| match &input.route {
            Route::Single => "without a key".to_owned(),
            Route::Key(keys) => format!("by {}", self.names(input.from, keys)),
            // who keeps them sent them here
            Route::Forward => match self.steps[input.from].inputs.first() {
                Some(Input { from, route: Route::Key(keys) }) => format!("by {}", self.names(*from, keys)),
                _ => "without a key".to_owned(),
            },
        };
        let inputs: Vec<String> = self.steps[id].inputs.iter().map(key).collect();
        format!("indexes of its input {}", inputs.join(" and "))
    }

    fn names(&self, id: StepId, columns: &[usize]) -> String {
        let names: Vec<&str> = columns.iter().map(|key| self.steps[id].schema.field(*key).name().as_str()).collect();
        names.join(", ")
    }

    fn route_text(&self, input: &Input) -> String {
        match &input.route {
            Route::Forward => "forward".into(),
            Route::Single => "single".into(),
            Route::Key(keys) => {
                let schema = &self.steps[input.from].schema;
                let names: Vec<&str> = keys.iter().map(|key| schema.field(*key).name().as_str()).collect();
                format!("by key {}", names.join(", "))
            }
        }
    }

    /// The plan as JSON: its settings' name and tick, its fingerprint and its steps with their inputs, columns and bounds.
    pub fn explain_json(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().enumerate().map(|(id, step)| self.step_json(id, step)).collect();
        let fingerprint = blake3::Hash::from_bytes(self.fingerprint()).to_hex().to_string();
        json!({ "pipeline": self.settings.name, "fingerprint": fingerprint, "steps": steps })
    }

    fn step_json(&self, id: StepId, step: &Step) -> Value {
        let inputs = step.inputs.iter().map(|input| match &input.route {
            Route::Forward => json!({ "from": input.from, "route": "forward" }),
            Route::Single => json!({ "from": input.from, "route": "single" }),
            Route::Key(keys) => {
                let schema = &self.steps[input.from].schema;
                let names: Vec<&String> = keys.iter().map(|key| schema.field(*key).name()).collect();
                json!({ "from": input.from, "route": "key", "key": names })
            }
        });
        let columns = step.schema.fields().iter().map(|field| {
            json!({ "name": field.name(), "type": type_name(field.data_type()), "nullable": field.is_nullable() })
        });
        let mut explained = json!({
            "id": id,
            "name": step.name,
            "kind": kind(&step.action),
            "does": self.does(id),
            "inputs": inputs.collect::<Vec<_>>(),
            "columns": columns.collect::<Vec<_>>(),
            "key": self.key_names(id),
            "parallelism": self.runs_on(id).text(),
            "emit": emit_text(step.emit),
            "watermark": self.watermark_tables(id),
            "state": self.state_text(id),
        });
        if let Action::Sink(sink) = &step.action {
            let (promise, why) = self.delivery(sink);
            explained["delivery"] = json!({ "promise": promise, "why": why });
        }
        explained
    }

    /// The plan as a Mermaid flowchart, rows flowing down.
    pub fn explain_mermaid(&self) -> String {
        let escape =
            |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
        let mut text = String::from("flowchart TD\n");
        for (id, step) in self.steps.iter().enumerate() {
            let (open, close) = match step.action {
                Action::Source(_) => ("([", "])"),
                Action::Sink(_) | Action::View(_) => ("[[", "]]"),
                _ => ("[", "]"),
            };
            // short lines: long ones are broken where it happens to be
            let mut lines = vec![format!("<b>{}</b>", escape(&step.name))];
            if !matches!(step.action, Action::Transform(_) | Action::Union) {
                lines.extend([emit_text(step.emit), self.runs_on(id).text()].map(escape));
                lines.extend(
                    Some(self.state_text(id))
                        .filter(|state| state != "none")
                        .map(|state| escape(&format!("state {state}"))),
                );
            }
            if let Action::Sink(sink) = &step.action {
                let (promise, why) = self.delivery(sink);
                lines.extend([format!("{promise}:"), why.to_owned()].iter().map(|line| escape(line)));
            }
            let label = lines.join("<br/>");
            writeln!(text, "    s{id}{open}\"{label}\"{close}").expect(INFALLIBLE);
        }
        for (id, step) in self.steps.iter().enumerate() {
            for input in &step.inputs {
                let label = match input.route {
                    Route::Forward => String::new(),
                    _ => format!("|\"{}\"|", escape(&self.route_text(input))),
                };
                writeln!(text, "    s{} -->{label} s{id}", input.from).expect(INFALLIBLE);
            }
        }
        text
    }
}

/// Which workers have a part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunsOn {
    /// All rows are on worker 0.
    OneWorker,
    /// Every worker has rows.
    All,
    /// Every worker reads its splits.
    AllBySplit,
    /// Every worker has its keys.
    AllByKey,
}

impl RunsOn {
    fn text(self) -> &'static str {
        match self {
            RunsOn::OneWorker => "one worker",
            RunsOn::All => "all workers",
            RunsOn::AllBySplit => "all workers, by split",
            RunsOn::AllByKey => "all workers, by key",
        }
    }
}

const INFALLIBLE: &str = "writing to a string does not fail";

fn kind(action: &Action) -> &'static str {
    match action {
        Action::Source(_) => "source",
        Action::Transform(_) => "transform",
        Action::PreAggregate(_) => "pre-aggregate",
        Action::Aggregate(_) => "aggregate",
        Action::Custom(_) => "operator",
        Action::Rank(_) => "rank",
        Action::Top(_) => "top",
        Action::Keep(_) => "keep",
        Action::Reduce(_) => "reduce",
        Action::Standing | Action::Closing(_) => "settle",
        Action::Consolidate => "consolidate",
        Action::Round => "round",
        Action::Recurse { .. } => "recurse",
        Action::Upsert { .. } => "upsert",
        Action::Settle(_) => "settle",
        Action::Join(_) => "join",
        Action::Lookup(_) => "lookup",
        Action::LateRows { .. } => "late rows",
        Action::Union => "union",
        Action::DeadLetters => "dead letters",
        Action::Sink(_) => "sink",
        Action::View(_) => "view",
    }
}

/// `a, b`
fn names(schema: &Schema, columns: &[usize]) -> String {
    columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", ")
}

fn emit_text(emit: Emit) -> &'static str {
    match emit {
        Emit::Append => "append",
        Emit::Final => "final",
        Emit::Updating => "updating",
    }
}

fn stage_text(before: &Schema, stage: &Stage) -> String {
    match &stage.transform {
        Transform::Filter(keep) => format!("filter {keep}"),
        Transform::Project(values) => {
            let values = values.iter().zip(stage.schema.fields()).map(|(value, field)| {
                let value = value.to_string();
                if value == *field.name() { value } else { format!("{value} AS {}", field.name()) }
            });
            format!("project {}", values.collect::<Vec<_>>().join(", "))
        }
        Transform::Unnest { column } => {
            let (list, element) = (before.field(*column).name(), stage.schema.field(*column).name());
            if list == element { format!("unnest {list}") } else { format!("unnest {list} AS {element}") }
        }
        Transform::AssignWindows { time, windows } => {
            format!(
                "assign to {} by {}",
                describe_windows(windows).trim_start_matches("in "),
                stage.schema.field(*time).name()
            )
        }
    }
}

fn aggregation_text(aggregation: &Aggregation) -> Vec<String> {
    let mut lines = Vec::new();
    if !aggregation.keys.is_empty() {
        let keys: Vec<String> = aggregation.keys.iter().map(|(key, _)| key.to_string()).collect();
        lines.push(format!("keys {}", keys.join(", ")));
    }
    if !aggregation.calls.is_empty() {
        let calls: Vec<String> = aggregation.calls.iter().map(ToString::to_string).collect();
        lines.push(format!("calls {}", calls.join(", ")));
    }
    match &aggregation.grouping {
        Grouping::Windowed { time, windows } => {
            lines.push(format!("{} by {}", describe_windows(windows), aggregation.input.field(*time).name()));
        }
        Grouping::Session { time, gap } => {
            lines.push(format!("{} by {}", describe_sessions(*gap), aggregation.input.field(*time).name()));
        }
        Grouping::Attached { start, end } => {
            let name = |column: &usize| aggregation.input.field(*column).name();
            lines.push(format!("in the windows of {}, {}", name(start), name(end)));
        }
        Grouping::Final | Grouping::Updating => {}
    }
    lines
}

fn sorts_text(order: &[SortColumn], schema: &Schema) -> String {
    let sorts = order.iter().map(|sort| {
        let nulls = match (sort.descending, sort.nulls_first) {
            (false, true) => " NULLS FIRST",
            (true, false) => " NULLS LAST",
            _ => "",
        };
        format!("{}{}{nulls}", schema.field(sort.column).name(), if sort.descending { " DESC" } else { "" })
    });
    sorts.collect::<Vec<_>>().join(", ")
}

fn keeping_text(keeping: &Keeping, schema: &Schema) -> Vec<String> {
    let Some(Ttl { time, keep, admit }) = keeping.ttl else { return Vec::new() };
    let span = |micros: Micros| humantime::format_duration(Duration::from_micros(micros.unsigned_abs())).to_string();
    let (of, keep) = (schema.field(time).name(), span(keep));
    let mut text = match keeping.there {
        There::Before | There::Through => format!("rows of the last {keep} by {of}"),
        There::Last => format!("rows whose {of} is {keep} behind"),
    };
    if keeping.ttl.is_some_and(|ttl| admit < ttl.keep) {
        text.push_str(&format!(", but for those that come {} late", span(admit)));
    }
    vec![text]
}

fn reducing_text(reducing: &Reducing, schema: &Schema) -> Vec<String> {
    let mut lines: Vec<String> = keys_text(&reducing.keys, schema).into_iter().collect();
    match &reducing.what {
        Reduction::Aggregate(spec) => {
            let calls: Vec<String> = spec.calls.iter().map(ToString::to_string).collect();
            lines.push(format!("calls {}, over all rows of a key", calls.join(", ")));
        }
        Reduction::First { order, skip, limit, .. } => {
            return first_text(&reducing.keys, order, *skip, *limit, schema);
        }
        Reduction::Over { calls, .. } => lines.extend(calls.iter().map(ToString::to_string)),
    }
    lines
}

fn keys_text(keys: &[usize], schema: &Schema) -> Option<String> {
    let names: Vec<&str> = keys.iter().map(|key| schema.field(*key).name().as_str()).collect();
    (!names.is_empty()).then(|| format!("keys {}", names.join(", ")))
}

fn first_text(keys: &[usize], order: &[SortColumn], skip: usize, limit: Option<usize>, schema: &Schema) -> Vec<String> {
    let skip = if skip > 0 { format!(" after {skip}") } else { String::new() };
    let many = match limit {
        Some(1) => format!("first row{skip}"),
        Some(limit) => format!("first {limit} rows{skip}"),
        None => format!("all rows{skip}, numbered"),
    };
    let sorts = (!order.is_empty()).then(|| format!("order by {}", sorts_text(order, schema)));
    keys_text(keys, schema).into_iter().chain(sorts).chain([many]).collect()
}

fn ranking_text(ranking: &Ranking, schema: &Schema) -> Vec<String> {
    let name = |column: usize| schema.field(column).name().as_str();
    let sorts = sorts_text(&ranking.order, schema);
    let mut lines = Vec::new();
    lines.extend(keys_text(&ranking.keys, schema));
    if !sorts.is_empty() {
        lines.push(format!("order by {sorts}"));
    }
    lines.push(format!("in the windows of {}, {}", name(ranking.start), name(ranking.end)));
    lines
}

fn joining_text(join: &Joining, schemas: &[&Schema]) -> Vec<String> {
    let name = |side: usize, column: usize| schemas[side].field(column).name().as_str();
    let [left, right] = &join.sides;
    let keys: Vec<String> = left
        .keys
        .iter()
        .zip(&right.keys)
        .map(|(left, right)| format!("{} = {}", name(0, *left), name(1, *right)))
        .collect();
    let mut lines = Vec::new();
    if !keys.is_empty() {
        lines.push(format!("on {}", keys.join(" AND ")));
    }
    lines.extend(join.condition.iter().map(|condition| format!("where {}", condition.holds)));
    if join.nulls_equal {
        lines.push("NULL equals NULL".into());
    }
    match join.meeting {
        Meeting::Always => {}
        Meeting::InWindows(bounds) => {
            let windows = |side: usize| format!("{}, {}", name(side, bounds[side].start), name(side, bounds[side].end));
            let (left, right) = (windows(0), windows(1));
            lines.push(format!("in the windows of {left}"));
            if left != right {
                lines.push(format!("which are those of {right}"));
            }
        }
        Meeting::AsOf(AsOf { times: [left, right], before, .. }) => {
            let relation = if before { "before" } else { "at" };
            lines.push(format!("the newest row by {} {relation} {}", name(1, right), name(0, left)));
        }
        Meeting::WithTable { table } => {
            let which = if table == 0 { "first" } else { "second" };
            lines.push(format!("after all rows of its {which} input"));
        }
    }
    lines
}

fn lookup_text(step: &LookupStep, input: &Schema) -> Vec<String> {
    let given = step.lookup.schema();
    let key = |(key, own): (&usize, &usize)| format!("{} = {}", input.field(*own).name(), given.field(*key).name());
    let keys: Vec<String> = step.lookup.key().iter().zip(&step.keys).map(key).collect();
    let mut lines =
        vec![format!("connector {}", step.connector), format!("{} on {}", step.kind.name(), keys.join(" AND "))];
    lines.extend(step.condition.iter().map(|condition| format!("where {}", condition.holds)));
    let Asking { parallelism, cache_rows, cache_ttl, .. } = step.lookup.asking();
    let ttl = match cache_ttl {
        Some(ttl) => format!(" for {}", humantime::format_duration(ttl)),
        None => String::new(),
    };
    let cache = if cache_rows == 0 { "remembers nothing".into() } else { format!("remembers {cache_rows} keys{ttl}") };
    lines.push(format!("asks {parallelism} at once, {cache}, on each worker"));
    lines
}

/// What makes a row of `input` late.
fn lateness_text(lateness: &Lateness, input: &Schema) -> Vec<String> {
    let (windows, time) = match lateness {
        Lateness::Windows { time, windows } => (describe_windows(windows), time),
        Lateness::Sessions { time, gap, .. } => (describe_sessions(*gap), time),
    };
    vec![format!("rows that come too late {windows} by {}", input.field(*time).name())]
}

fn columns_text(schema: &Schema) -> String {
    let column = |field: &arrow::datatypes::FieldRef| {
        let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", field.name(), type_name(field.data_type()))
    };
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

/// A type as SQL writes it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 => "TINYINT UNSIGNED".into(),
        DataType::UInt16 => "SMALLINT UNSIGNED".into(),
        DataType::UInt32 => "INT UNSIGNED".into(),
        DataType::UInt64 => "BIGINT UNSIGNED".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTES".into(),
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".into(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Timestamp(unit, zone) => {
            let name = if zone.is_some() { "TIMESTAMP_LTZ" } else { "TIMESTAMP" };
            match unit {
                TimeUnit::Second => format!("{name}(0)"),
                TimeUnit::Millisecond => format!("{name}(3)"),
                TimeUnit::Microsecond => name.into(),
                TimeUnit::Nanosecond => format!("{name}(9)"),
            }
        }
        DataType::List(element) => format!("ARRAY<{}>", type_name(element.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) if entry.len() == 2 => {
                format!("MAP<{}, {}>", type_name(entry[0].data_type()), type_name(entry[1].data_type()))
            }
            other => other.to_string(),
        },
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), type_name(f.data_type()))).collect();
            format!("ROW<{}>", fields.join(", "))
        }
        other => other.to_string().to_uppercase(),
    }
}
