//! Operators thrown away and made again from their deltas: from then on they say what one says that was left alone.

#[path = "support/functions.rs"]
mod functions;
#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use highwater::batch::keys::split_by_key;
use highwater::batch::wire;
use highwater::connector::memory::MemorySink;
use highwater::operator::aggregate::{Aggregate, Feed, PreAggregate};
use highwater::operator::distinct::DistinctKeys;
use highwater::operator::join::Join;
use highwater::operator::late::late_rows;
use highwater::operator::rank::Rank;
use highwater::operator::session::{PreSessions, SessionAggregate};
use highwater::operator::transform::Transforms;
use highwater::operator::updating::UpdatingAggregate;
use highwater::operator::{Confluence, OneInput, Operator, Output};
use highwater::plan::{
    Action, Aggregation, Grouping, JoinKind, JoinSide, Joining, Lateness, Meeting, Ranking, Route, SortColumn, Stage,
    WindowBounds, Windows, event_time_type,
};
use highwater::state::{Delta, Table as Saved, groups_of};
use highwater::time::Watermark;
use pipeline::{Row, SECOND, Table, batch, for_seeds, plan, texts};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::sync::Arc;

/// The length of the windows that rows carry.
const WINDOW: i64 = 20 * SECOND;

/// The place of a window's start in rows that carry one; its end is the next.
const START: usize = 6;

/// Aggregates whose answer is the same in whichever order rows are added up.
const EXACT: [&str; 23] = [
    "sum(n)",
    "sum(price)",
    "avg(price)",
    "min(word)",
    "max(ts)",
    "max(word) FILTER (WHERE n > 0)",
    "count(n, word)",
    "count(DISTINCT word)",
    "sum(DISTINCT n)",
    "bool_and(n > -900)",
    "bit_xor(n)",
    "median(n)",
    "approx_distinct(n)",
    "first_value(word ORDER BY ts, n, word)",
    "last_value(n ORDER BY ts, n, word)",
    "array_agg(n ORDER BY ts, n, word)",
    "array_agg(DISTINCT word ORDER BY word)",
    "array_agg(price)",
    "string_agg(word, ',' ORDER BY word)",
    "min(tags)",
    "spread(n)",
    "squares(n)",
    "squares(n) FILTER (WHERE word <> 'to')",
];

/// Those whose last digits go by that order.
const NEARLY: [&str; 8] = [
    "stddev(n)",
    "var_pop(ratio)",
    "corr(n, ratio)",
    "covar_samp(n, ratio)",
    "regr_slope(n, ratio)",
    "avg(ratio)",
    "median(ratio)",
    "percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio)",
];

/// A kind of operator.
struct Kind {
    name: String,
    make: Box<dyn Fn(Feed, usize) -> Box<dyn Confluence>>,
    /// The columns of its input's rows, before the stages.
    input: SchemaRef,
    /// What is done with rows before they come.
    stages: Vec<Stage>,
    /// True if the rows are given the window that they lie in after that.
    carried: bool,
    /// The columns by which rows are dealt to workers.
    routes: [Route; 2],
    /// What it adds up, if workers may send it partial results.
    partial: Option<Arc<Aggregation>>,
    ports: usize,
}

/// An aggregate, the columns that it gives, how rows come to it, and what is done with them before.
#[derive(Clone)]
struct Planned {
    spec: Arc<Aggregation>,
    schema: SchemaRef,
    route: Route,
    input: SchemaRef,
    stages: Vec<Stage>,
}

/// What `query` is planned to.
fn planned(query: &str, outputs: usize) -> Planned {
    let table = Table { splits: vec![Vec::new()], tick: 1, delay: 0 };
    let source = Arc::unwrap_or_clone(table.source());
    let connectors = functions::extensions().source("t", source).sink("out", MemorySink::new());
    let columns: Vec<String> = (0..outputs).map(|column| format!("c{column} STRING")).collect();
    let text = format!(
        "{}CREATE TABLE out ({}) WITH ('connector' = 'memory'); INSERT INTO out {query};",
        table.ddl(),
        columns.join(", ")
    );
    let plan = plan(&text, &connectors);
    let aggregate = plan.steps.iter().find(|step| matches!(step.action, Action::Aggregate(_)));
    let step = aggregate.expect("the query aggregates");
    let Action::Aggregate(spec) = &step.action else { unreachable!("it was looked for") };
    let partial = &plan.steps[step.inputs[0].from];
    let before = &plan.steps[partial.inputs[0].from];
    let (stages, input) = match &before.action {
        Action::Transform(stages) => (stages.clone(), &plan.steps[before.inputs[0].from].schema),
        _ => (Vec::new(), &before.schema),
    };
    Planned {
        spec: Arc::clone(spec),
        schema: Arc::clone(&step.schema),
        route: step.inputs[0].route.clone(),
        input: Arc::clone(input),
        stages,
    }
}

impl Kind {
    /// The aggregate of `keys` and `calls` over `from`, whose results leave at `end`.
    fn aggregate(name: &str, keys: &[&str], calls: &[&str], from: &str, end: &str) -> Self {
        let select: Vec<String> = keys.iter().chain(calls).map(|column| format!("CAST({column} AS STRING)")).collect();
        let group = if keys.is_empty() { String::new() } else { format!("GROUP BY {}", keys.join(", ")) };
        let query = format!("SELECT {} FROM {from} {group} {end}", select.join(", "));
        Kind::of_aggregation(format!("{name} {calls:?}"), planned(&query, select.len()), false)
    }

    fn of_aggregation(name: String, planned: Planned, carried: bool) -> Self {
        let Planned { spec, schema, route, input, stages } = planned;
        let of = Arc::clone(&spec);
        let operator = move |feed, worker| -> Box<dyn Operator> {
            let (spec, schema) = (Arc::clone(&of), Arc::clone(&schema));
            match spec.grouping {
                Grouping::Updating if spec.calls.is_empty() => Box::new(DistinctKeys::new(spec, feed, schema).unwrap()),
                Grouping::Updating => Box::new(UpdatingAggregate::new(spec, feed, &schema).unwrap()),
                Grouping::Session { .. } => Box::new(SessionAggregate::new(spec, feed, schema).unwrap()),
                _ if worker == 0 => Box::new(Aggregate::new(spec, feed, schema).answering_for_nothing()),
                _ => Box::new(Aggregate::new(spec, feed, schema)),
            }
        };
        Kind {
            name,
            make: Box::new(move |feed, worker| Box::new(OneInput(operator(feed, worker)))),
            input,
            stages,
            carried,
            routes: [route.clone(), route],
            partial: Some(spec),
            ports: 1,
        }
    }

    /// The same by window over rows that carry theirs.
    fn attached(keys: &[&str], calls: &[&str], from: &str) -> Self {
        let select: Vec<String> = keys.iter().chain(calls).map(|column| format!("CAST({column} AS STRING)")).collect();
        let query = format!("SELECT {} FROM {from} GROUP BY {}", select.join(", "), keys.join(", "));
        let mut planned = planned(&query, select.len());
        let start = planned.spec.input.fields().len();
        let wide = wide_schema();
        let fields = planned.spec.input.fields().iter().chain(&wide.fields()[START..]).cloned();
        let input = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let grouping = Grouping::Attached { start, end: start + 1 };
        planned.spec = Arc::new(Aggregation { input, grouping, ..planned.spec.as_ref().clone() });
        Kind::of_aggregation(format!("windows of their own {calls:?}"), planned, true)
    }

    fn rank(keys: Vec<usize>, limit: Option<usize>) -> Self {
        let order = vec![SortColumn { column: 1, descending: true, nulls_first: false }];
        let spec = Arc::new(Ranking { start: START, end: START + 1, keys, order, limit });
        let route = Route::Key(spec.route());
        let number = Arc::new(Field::new("row_number", DataType::UInt64, false));
        let schema = Arc::new(Schema::new(wide_schema().fields().iter().cloned().chain([number]).collect::<Vec<_>>()));
        Kind {
            name: format!("{spec:?}"),
            make: Box::new(move |_, _| {
                let rank = Rank::new(Arc::clone(&spec), wide_schema(), Arc::clone(&schema));
                Box::new(OneInput(Box::new(rank.unwrap())))
            }),
            input: wide_schema(),
            stages: Vec::new(),
            carried: false,
            routes: [route.clone(), route],
            partial: None,
            ports: 1,
        }
    }

    fn join(kind: JoinKind, keys: Vec<usize>) -> Self {
        let side = |output: Vec<usize>| JoinSide { keys: keys.clone(), output };
        let sides = [side(vec![0, 1, START]), side(if kind.gives_pairs() { vec![1, 4] } else { Vec::new() })];
        let windows = [WindowBounds { start: START, end: START + 1 }; 2];
        let spec = Arc::new(Joining {
            kind,
            meeting: Meeting::InWindows(windows),
            sides,
            condition: None,
            nulls_equal: false,
        });
        let routes = [0, 1].map(|side| spec.route(side));
        let schema = wide_schema();
        let fields = spec.sides.iter().flat_map(|side| &side.output);
        let fields: Vec<Field> = fields.map(|&n| schema.field(n).clone().with_nullable(true)).collect();
        let output = Arc::new(Schema::new(fields));
        Kind {
            name: format!("{kind:?} join by {keys:?}"),
            make: Box::new(move |_, _| {
                Box::new(Join::new(Arc::clone(&spec), windows, [wide_schema(), wide_schema()], Arc::clone(&output)))
            }),
            input: wide_schema(),
            stages: Vec::new(),
            carried: false,
            routes,
            partial: None,
            ports: 2,
        }
    }

    fn late(lateness: Lateness, route: Route) -> Self {
        let bound = |name: &str| Arc::new(Field::new(name, event_time_type(), false));
        let added = ["a", "b", "watermark"].map(bound);
        let output = Arc::new(Schema::new(wide_schema().fields().iter().cloned().chain(added).collect::<Vec<_>>()));
        Kind {
            name: format!("late rows of {lateness:?}"),
            make: Box::new(move |_, _| {
                Box::new(OneInput(late_rows(&lateness, &wide_schema(), Arc::clone(&output)).unwrap()))
            }),
            input: wide_schema(),
            stages: Vec::new(),
            carried: false,
            routes: [route.clone(), route],
            partial: None,
            ports: 1,
        }
    }

    /// All kinds, with random windows and aggregates.
    fn all(rng: &mut StdRng) -> Vec<Kind> {
        let mut calls = |count: usize, of: &[&'static str]| -> Vec<&'static str> {
            ["count(*)"].into_iter().chain(of.choose_multiple(rng, count).copied()).collect()
        };
        let any: Vec<&str> = EXACT.into_iter().chain(NEARLY).collect();
        // without windows these are made of distinct rows
        let split = |call: &&str| ["count(DISTINCT", "sum(DISTINCT"].iter().any(|start| call.starts_with(start));
        let changing: Vec<&str> = EXACT.into_iter().filter(|call| !split(call)).collect();
        let (a, b, c, d, e, f) =
            (calls(14, &any), calls(6, &any), calls(10, &any), calls(3, &any), calls(8, &changing), calls(8, &any));
        let slide = rng.random_range(4..20) * SECOND;
        let size = if rng.random() { slide } else { slide + rng.random_range(0..30) * SECOND };
        let gap = rng.random_range(1..40) * SECOND;
        let hop = format!("hop(t, ts, INTERVAL '{}' SECOND, INTERVAL '{}' SECOND)", slide / SECOND, size / SECOND);
        let session = format!("session(t PARTITION BY word, ts, INTERVAL '{}' SECOND)", gap / SECOND);
        let by_window = Kind::aggregate("windows", &["window_start", "word"], &a, &hop, "");
        let attached = Kind::attached(&["window_start", "word"], &b, &hop);
        let order = |kinds: &[JoinKind], rng: &mut StdRng| *kinds.choose(rng).expect("there are kinds");
        let join = order(&[JoinKind::Inner, JoinKind::Left, JoinKind::Full, JoinKind::Semi, JoinKind::Anti], rng);
        let limit = Some(rng.random_range(1..4));
        vec![
            by_window,
            attached,
            Kind::aggregate("windows without keys", &["window_start"], &b, &hop, ""),
            Kind::aggregate("all", &["word", "n % 7"], &c, "t", "EMIT FINAL"),
            Kind::aggregate("all without keys", &[], &d, "t", "EMIT FINAL"),
            Kind::aggregate("changes", &["n % 50", "word"], &e, "t", ""),
            Kind::aggregate("changes without keys", &[], &e, "t", ""),
            Kind::aggregate("distinct", &["word"], &[], "t", ""),
            Kind::aggregate("sessions", &["window_start", "window_end", "word"], &f, &session, ""),
            Kind::rank(vec![0], limit),
            Kind::rank(vec![0, 2], None),
            Kind::rank(Vec::new(), limit),
            Kind::join(join, vec![0]),
            Kind::join(JoinKind::Full, vec![1, 0]),
            Kind::join(JoinKind::Inner, Vec::new()),
            Kind::late(Lateness::Sessions { time: 4, gap, keys: vec![0] }, Route::Key(vec![0])),
            Kind::late(Lateness::Windows { time: 4, windows: Windows::hop(slide, size, 0) }, Route::Single),
        ]
    }

    fn tracked(&self, feed: Feed, worker: usize) -> Box<dyn Confluence> {
        let mut operator = (self.make)(feed, worker);
        operator.track();
        operator
    }
}

/// The columns of rows that carry the window that they lie in.
fn wide_schema() -> SchemaRef {
    let bound = |name: &str| Arc::new(Field::new(name, event_time_type(), false));
    let own = Table::schema();
    let fields = own.fields().iter().cloned().chain([bound("window_start"), bound("window_end")]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows as they come to operators of `kind`.
fn input(kind: &Kind, rows: &[Row]) -> RecordBatch {
    let starts: Vec<i64> = rows.iter().map(|row| row.ts.div_euclid(WINDOW) * WINDOW).collect();
    let bound = |add: i64| {
        Arc::new(TimestampMicrosecondArray::from_iter_values(starts.iter().map(|start| start + add))) as ArrayRef
    };
    let columns = batch(rows).columns().iter().cloned().chain([bound(0), bound(WINDOW)]).collect();
    let wide = RecordBatch::try_new(wide_schema(), columns).expect("the columns are those of the schema");
    let place = |field: &Arc<Field>| wide_schema().index_of(field.name()).expect("a column of the rows");
    let rows = wide.project(&kind.input.fields().iter().map(place).collect::<Vec<_>>()).expect("they are there");
    let mut out = Output::default();
    Transforms::new(&kind.stages, false).on_batch(rows, &mut out).unwrap();
    let rows = out.drain().next().expect("no stage drops rows");
    if !kind.carried {
        return rows;
    }
    let spec = kind.partial.as_ref().expect("it is an aggregate");
    let columns = rows.columns().iter().cloned().chain(wide.columns()[START..].to_vec()).collect();
    RecordBatch::try_new(Arc::clone(&spec.input), columns).expect("the stages keep all rows")
}

/// Workers that have one operator each.
struct Fleet {
    feed: Feed,
    operators: Vec<Box<dyn Confluence>>,
}

impl Fleet {
    fn new(rng: &mut StdRng, kind: &Kind, workers: usize, make: impl Fn(Feed, usize) -> Box<dyn Confluence>) -> Self {
        let feed = match &kind.partial {
            Some(_) if workers > 1 || rng.random() => Feed::Partials,
            _ => Feed::Rows,
        };
        Fleet { feed, operators: (0..workers).map(|worker| make(feed, worker)).collect() }
    }

    /// Workers made from `deltas`, taken back to where `mark` was reached.
    fn restored(rng: &mut StdRng, kind: &Kind, workers: usize, deltas: &[Delta], mark: i64) -> Self {
        let mut fleet = Fleet::new(rng, kind, workers, |feed, worker| (kind.make)(feed, worker));
        let tracked_first = rng.random();
        for (worker, operator) in fleet.operators.iter_mut().enumerate() {
            if tracked_first {
                operator.track();
            }
            for delta in deltas {
                let groups = groups_of(worker, workers);
                operator.restore(delta.iter().map(|table| table.share(&groups).unwrap()).collect()).unwrap();
            }
            operator.restored(Watermark::at(mark)).unwrap();
            if !tracked_first {
                operator.track();
            }
        }
        fleet
    }

    /// What is said of an epoch, and how many rows are late in it.
    fn epoch(&mut self, rng: &mut StdRng, kind: &Kind, rows: &[(usize, Row)], epoch: u64, mark: i64) -> (Said, u64) {
        let mut out = Output::default();
        for port in 0..kind.ports {
            let mut rows: Vec<Row> =
                rows.iter().filter(|(of, _)| of % kind.ports == port).map(|(_, row)| row.clone()).collect();
            rows.shuffle(rng);
            let mut batches = Vec::new();
            let mut rest = rows.as_slice();
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(rng.random_range(1..=rest.len()));
                batches.push(input(kind, piece));
                rest = others;
            }
            if let (Feed::Partials, Some(spec)) = (self.feed, &kind.partial) {
                batches = partials(rng, spec, batches);
            }
            for rows in batches {
                let workers = self.operators.len();
                let shares = match &kind.routes[port] {
                    Route::Key(keys) if workers > 1 => split_by_key(&rows, keys, workers).unwrap(),
                    _ => vec![(0, rows)],
                };
                for (worker, rows) in shares {
                    self.operators[worker].on_batch(port, rows, &mut out).unwrap();
                }
            }
        }
        let mut late = 0;
        for operator in &mut self.operators {
            operator.on_epoch(epoch, Watermark::at(mark), &mut out).unwrap();
            while operator.say_more(&mut out).unwrap() {}
            late += operator.take_late_rows();
        }
        (Said::of(&mut out), late)
    }

    /// The deltas of all workers, as they are after they were bytes.
    fn deltas(&mut self) -> Vec<Delta> {
        let deltas: Vec<Delta> = self.operators.iter_mut().map(|operator| operator.delta().unwrap()).collect();
        deltas.iter().flatten().for_each(|table| assert!(table.rows.num_rows() > 0, "{} is empty", table.name));
        self.operators
            .iter_mut()
            .for_each(|operator| assert!(operator.delta().unwrap().is_empty(), "it is given twice"));
        deltas.into_iter().map(stored).filter(|delta| !delta.is_empty()).collect()
    }
}

fn stored(delta: Delta) -> Delta {
    let through_bytes = |table: Saved| {
        let bytes = wire::Encoder::default().encode(&table.rows).unwrap();
        let rows = wire::decode(Buffer::from(bytes), table.rows.schema()).unwrap();
        Saved { rows, ..table }
    };
    delta.into_iter().map(through_bytes).collect()
}

/// The partial results of an epoch, made by random hands.
fn partials(rng: &mut StdRng, spec: &Arc<Aggregation>, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let hand = || match spec.grouping {
        Grouping::Session { .. } => Box::new(PreSessions::new(Arc::clone(spec)).unwrap()) as Box<dyn Operator>,
        _ => Box::new(PreAggregate::new(Arc::clone(spec)).unwrap()),
    };
    let mut hands: Vec<Box<dyn Operator>> = (0..rng.random_range(1..4)).map(|_| hand()).collect();
    let mut out = Output::default();
    for rows in batches {
        let hand = rng.random_range(0..hands.len());
        hands[hand].on_batch(rows, &mut out).unwrap();
    }
    hands.iter_mut().for_each(|hand| hand.on_epoch(0, Watermark::NONE, &mut out).unwrap());
    let mut partials: Vec<RecordBatch> = out.drain().collect();
    partials.shuffle(rng);
    partials
}

/// Rows, sorted: what is exact as text, and numbers whose last digits may differ.
#[derive(Debug)]
struct Said(Vec<(String, Vec<f64>)>);

impl Said {
    fn of(out: &mut Output) -> Self {
        let mut all = Vec::new();
        for rows in out.drain() {
            let (floats, exact): (Vec<usize>, Vec<usize>) =
                (0..rows.num_columns()).partition(|&n| *rows.column(n).data_type() == DataType::Float64);
            let texts = texts(&rows.project(&exact).unwrap());
            for (row, text) in texts.into_iter().enumerate() {
                let number = |&n: &usize| match rows.column(n).is_valid(row) {
                    true => rows.column(n).as_primitive::<Float64Type>().value(row),
                    false => f64::NAN,
                };
                all.push((text, floats.iter().map(number).collect::<Vec<f64>>()));
            }
        }
        let numbers = |a: &[f64], b: &[f64]| a.iter().map(|a| a.to_bits()).cmp(b.iter().map(|b| b.to_bits()));
        all.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| numbers(&a.1, &b.1)));
        Said(all)
    }

    #[track_caller]
    fn check(&self, expected: &Said, what: &str) {
        let near = |a: &f64, b: &f64| (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * (1.0 + b.abs());
        let mut pairs = self.0.iter().zip(&expected.0);
        let differ = pairs.find(|(a, b)| a.0 != b.0 || !a.1.iter().zip(&b.1).all(|(a, b)| near(a, b)));
        if let Some((found, expected)) = differ {
            panic!("{what}\nfound:    {found:?}\nexpected: {expected:?}");
        }
        assert_eq!(self.0.len(), expected.0.len(), "{what}");
    }
}

/// Rows of an epoch, each for one of two inputs.
fn rows(rng: &mut StdRng, table: &Table, around: i64) -> Vec<(usize, Row)> {
    let all: Vec<&Row> = table.rows().collect();
    let row = |rng: &mut StdRng| {
        let row = all.choose(rng)?;
        Some((rng.random_range(0..2), Row { ts: around + rng.random_range(0..100) * SECOND, ..(*row).clone() }))
    };
    (0..rng.random_range(0..60)).filter_map(|_| row(rng)).collect()
}

#[test]
fn an_operator_that_is_made_from_deltas_says_what_one_says_that_was_left_alone() {
    for_seeds(2, |rng| {
        for kind in Kind::all(rng) {
            let table = Table::random(rng);
            let mut alone = Fleet { feed: Feed::Rows, operators: vec![(kind.make)(Feed::Rows, 0)] };
            let workers = rng.random_range(1..5);
            let mut fleet = Fleet::new(rng, &kind, workers, |feed, worker| kind.tracked(feed, worker));
            let mut deltas: Vec<Delta> = Vec::new();
            let mut mark = i64::MIN;
            let nothing = rng.random_bool(0.1);
            for epoch in 0..24 {
                let around = epoch * 8 * SECOND;
                let rows = if nothing { Vec::new() } else { rows(rng, &table, around) };
                mark = if epoch >= 22 { i64::MAX } else { mark.max(around + rng.random_range(-40..40) * SECOND) };
                let (expected, expected_late) = alone.epoch(rng, &kind, &rows, epoch as u64, mark);
                let (found, late) = fleet.epoch(rng, &kind, &rows, epoch as u64, mark);
                let what = format!("{}, epoch {epoch}, {} workers", kind.name, fleet.operators.len());
                found.check(&expected, &what);
                assert_eq!(late, expected_late, "late rows of {what}");
                if rng.random_bool(0.5) {
                    continue;
                }
                deltas.extend(fleet.deltas());
                if rng.random_bool(0.2) {
                    let workers = rng.random_range(1..4);
                    let mut compact = Fleet::restored(rng, &kind, workers, &deltas, mark);
                    let whole = compact.operators.iter_mut().map(|operator| stored(operator.whole().unwrap()));
                    deltas = whole.filter(|delta| !delta.is_empty()).collect();
                }
                if rng.random_bool(0.5) {
                    let workers = rng.random_range(1..5);
                    fleet = Fleet::restored(rng, &kind, workers, &deltas, mark);
                    assert!(fleet.deltas().is_empty(), "what was restored is new to {what}");
                }
            }
            if kind.name.starts_with("windows") || kind.name.starts_with("sessions") {
                let left = Fleet::restored(rng, &kind, 1, &deltas, i64::MAX).operators[0].whole().unwrap();
                assert!(left.is_empty(), "{} keeps what has closed", kind.name);
            }
        }
    });
}

#[test]
fn a_delta_has_what_is_new_and_nothing_without_track() {
    for_seeds(2, |rng| {
        for kind in Kind::all(rng) {
            let table = Table { splits: vec![(0..2000).map(|n| row_of(rng, n)).collect()], tick: 1, delay: 0 };
            let many: Vec<(usize, Row)> = table.rows().map(|row| (0, row.clone())).collect();
            let few: Vec<(usize, Row)> = many.choose_multiple(rng, 3).cloned().collect();
            let remembers = !matches!(kind.routes[0], Route::Single) || kind.partial.is_some();
            for tracked in [false, true] {
                let make = |feed, worker| if tracked { kind.tracked(feed, worker) } else { (kind.make)(feed, worker) };
                let mut fleet = Fleet::new(rng, &kind, 1, make);
                fleet.epoch(rng, &kind, &many, 0, i64::MIN);
                let first: usize = fleet.deltas().iter().flatten().map(|table| table.rows.num_rows()).sum();
                fleet.epoch(rng, &kind, &few, 1, i64::MIN);
                let second: usize = fleet.deltas().iter().flatten().map(|table| table.rows.num_rows()).sum();
                // keys that are known are nothing new
                if !kind.name.starts_with("distinct") {
                    assert_eq!(second > 0, tracked && remembers, "{}", kind.name);
                }
                assert_eq!(first > 0, tracked && remembers, "{}", kind.name);
                // a row lies in at most 50 of the windows that overlap
                assert!(second <= 3 * 50, "{}: {second} rows for 3 new ones, {first} before", kind.name);
                fleet.epoch(rng, &kind, &few, 2, i64::MAX);
                let waits = kind.partial.as_ref().is_none_or(|spec| spec.grouping != Grouping::Updating);
                assert!(!waits || fleet.deltas().is_empty(), "{} gives what has closed", kind.name);
            }
        }
    });
}

/// One of many words, all in one window of most kinds.
fn row_of(rng: &mut StdRng, number: i64) -> Row {
    Row {
        word: Some(format!("word {number}")),
        n: Some(number),
        price: Some(rng.random_range(0..1000).into()),
        ratio: Some(0.25),
        ts: 1_700_000_000 * SECOND,
        tags: None,
    }
}
