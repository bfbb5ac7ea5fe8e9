//! State tables as operators take them back.

use super::{Target, join, parts, rows, unsealed};
use crate::batch::Batch;
use crate::connector::builtin::Builtin;
use crate::connector::memory::MemorySource;
use crate::operator::{Confluence, Output};
use crate::plan::Plan;
use crate::runtime::operators::{Made, operator_of, restore};
use crate::sql::{self, Text};
use crate::state::{Delta, Table};
use crate::time::Watermark;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// A delta for one of the operators of [`QUERIES`]: the first part is the operator's number, then come names and rows of tables in turn.
pub const STATE: Target = Target { name: "state", seeds, reseal: unsealed, run };

/// What operators are made of; each writes strings.
const QUERIES: &[&str] = &[
    "SELECT word, count(*), sum(n), avg(ratio), min(ts) FROM t GROUP BY word",
    "SELECT word, count(DISTINCT n), max(price), stddev(ratio), array_agg(word) FROM t GROUP BY word EMIT FINAL",
    "SELECT word, string_agg(word, ','), median(n), bool_and(yes), first_value(n ORDER BY ts) FROM t GROUP BY word EMIT FINAL",
    "SELECT window_start, word, count(*), sum(price), approx_distinct(n) FROM TUMBLE(t, ts, INTERVAL '5' SECOND) GROUP BY window_start, window_end, word",
    "SELECT window_end, count(*), sum(n), avg(n), min(word) FROM HOP(t, ts, INTERVAL '2' SECOND, INTERVAL '6' SECOND) GROUP BY window_start, window_end",
    "SELECT window_start, window_end, word, count(*), sum(n) FROM SESSION(t, ts, INTERVAL '2' SECOND) GROUP BY window_start, window_end, word",
    "SELECT window_start, word, n, ts, r FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, word ORDER BY n DESC) AS r FROM TUMBLE(t, ts, INTERVAL '5' SECOND)) WHERE r <= 2",
    "SELECT a.window_start, a.word, a.c, b.n, b.ts FROM (SELECT window_start, window_end, word, count(*) AS c FROM TUMBLE(t, ts, INTERVAL '5' SECOND) GROUP BY window_start, window_end, word) a JOIN (SELECT window_start, window_end, word, n, ts FROM TUMBLE(t, ts, INTERVAL '5' SECOND)) b ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.word = b.word",
    "SELECT word, n, ts FROM u",
];

/// The staged operators of a query's plan.
struct Staged {
    plan: Plan,
    step: usize,
}

impl Staged {
    fn all() -> Vec<Staged> {
        let mut all = Vec::new();
        for query in QUERIES {
            let plan = planned(query);
            let staged = |step: &usize| matches!(operator_of(&plan, *step, 0, 1), Ok(Some(_)));
            let steps: Vec<usize> = (0..plan.steps.len()).filter(staged).collect();
            all.extend(steps.into_iter().map(|step| Staged { plan: plan.clone(), step }));
        }
        all
    }

    fn make(&self) -> Made {
        operator_of(&self.plan, self.step, 0, 1).ok().flatten().expect("it was made before")
    }
}

fn planned(query: &str) -> Plan {
    let source = MemorySource::new(rows::schema(false), Vec::new(), 1);
    let connectors = Builtin::default().with_source("t", Arc::new(source));
    let sql = format!(
        "CREATE TABLE t (word STRING, n BIGINT NOT NULL, small INT, ratio DOUBLE, price DECIMAL(12, 2), ts TIMESTAMP(6), yes BOOLEAN,
           bytes BYTES, day DATE, WATERMARK FOR ts AS ts) WITH ('connector' = 'memory');
         CREATE TABLE u (word STRING, n BIGINT NOT NULL, ts TIMESTAMP(6), PRIMARY KEY (word, n) NOT ENFORCED)
           WITH ('connector' = 'kafka', 'topic' = 'u', 'properties.bootstrap.servers' = 'localhost:1', 'format' = 'json',
             'scan.changelog' = 'upsert');
         {query};"
    );
    sql::plan(Text { name: "state.sql", sql: &sql }, &[], &connectors).expect("the queries are right")
}

/// The rows as an Arrow IPC stream, which is what a section of an object is before it is compressed.
pub(super) fn stream(rows: &Batch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).expect("memory takes everything");
    writer.write(rows).and_then(|()| writer.into_inner()).expect("memory takes everything")
}

/// The rows of such a stream's first batch, if arrow takes it; that it panics at some is known where objects are read.
pub(super) fn rows_of(bytes: &[u8]) -> Option<Batch> {
    let decode = || StreamDecoder::new().decode(&mut Buffer::from(bytes));
    catch_unwind(AssertUnwindSafe(decode)).ok()?.ok()?
}

thread_local! {
    static ALL: Vec<Staged> = Staged::all();
}

fn seeds() -> Vec<Vec<u8>> {
    ALL.with(|all| all.iter().enumerate().flat_map(|(number, staged)| seeds_of(number, staged)).collect())
}

/// What an operator has to keep after some rows; if none, what it would keep.
fn seeds_of(number: usize, staged: &Staged) -> Vec<Vec<u8>> {
    let Made { mut operator, inputs } = staged.make();
    operator.track();
    let mut seeds = Vec::new();
    for epoch in 0..3 {
        feed(operator.as_mut(), &inputs, epoch as i64).expect("the rows are right");
        drain(operator.as_mut(), epoch, Watermark::at(1_000_000)).expect("the rows are right");
        seeds.push(operator.delta().expect("it can say what it has learnt"));
    }
    seeds.push(operator.whole().expect("it can say what it knows"));
    let input = |delta: Delta| {
        let tables = delta.iter().flat_map(|table| [table.name.clone().into_bytes(), stream(&table.rows)]);
        join(std::iter::once(vec![number as u8]).chain(tables))
    };
    seeds.into_iter().map(input).collect()
}

fn feed(operator: &mut dyn Confluence, inputs: &[SchemaRef], salt: i64) -> crate::error::Result<()> {
    let mut out = Output::default();
    for (port, schema) in inputs.iter().enumerate() {
        operator.on_batch(port, rows::batch(schema, 12, salt), &mut out)?;
    }
    Ok(())
}

/// Completes an epoch.
fn drain(operator: &mut dyn Confluence, epoch: u64, mark: Watermark) -> crate::error::Result<()> {
    let mut out = Output::default();
    operator.on_epoch(epoch, mark, &mut out)?;
    while operator.say_more(&mut out)? {
        out.drain();
    }
    Ok(())
}

fn run(bytes: &[u8]) -> bool {
    match catch_unwind(AssertUnwindSafe(|| take_back(bytes))) {
        Ok(taken) => taken,
        // DataFusion adds saved counts without a look, which wraps around where overflow is not checked: numbers that are wrong, no more
        Err(panic) if panic.downcast_ref::<&str>().is_some_and(|text| text.ends_with("with overflow")) => false,
        Err(panic) => resume_unwind(panic),
    }
}

fn take_back(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let Some((number, tables)) = parts.split_first() else { return false };
    let mut delta = Delta::new();
    for table in tables.chunks_exact(2) {
        let (Ok(name), Some(rows)) = (std::str::from_utf8(table[0]), rows_of(table[1])) else { return false };
        delta.push(Table::new(name, rows, Vec::new()));
    }
    ALL.with(|all| {
        let staged = &all[usize::from(number.first().copied().unwrap_or(0)) % all.len()];
        let Made { mut operator, .. } = staged.make();
        if restore(operator.as_mut(), vec![delta.clone()], Watermark::at(1_000_000)).is_ok() {
            let _ = operator.whole();
        }
        let Made { mut operator, inputs } = staged.make();
        operator.track();
        let taken = restore(operator.as_mut(), vec![delta], Watermark::at(1_000_000));
        taken
            .and_then(|()| feed(operator.as_mut(), &inputs, 1))
            .and_then(|()| drain(operator.as_mut(), 7, Watermark::at(3_000_000)))
            .and_then(|()| operator.delta().map(drop))
            .and_then(|()| drain(operator.as_mut(), 8, Watermark::END))
            .is_ok()
    })
}
