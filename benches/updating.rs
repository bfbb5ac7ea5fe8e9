//! What results that change cost: beside the batch engine over the same rows, and in memory.
//!
//! `cargo bench --bench updating` measures everything, `cargo bench --bench updating -- batch` one part of it: `batch`, `changes`,
//! `join`, `state`. Each figure is that of a process of its own, on one worker; rows are in memory before the clock starts.

#[path = "../tests/support/nexmark.rs"]
mod nexmark;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySource;
use highwater::runtime::{self, Workers};
use highwater::sql::{self, Text};
use highwater::time::SystemClock;
use nix::sys::resource::{UsageWho, getrusage};
use std::process::Command;
use std::sync::Arc;

/// Measured runs of each; medians are shown.
const RUNS: usize = 3;

/// Rows of a batch that is read.
const BATCH: usize = 8192;

/// The queries that both engines know.
const QUERIES: [&str; 10] = ["q3", "q4", "q6", "q9", "q15", "q16", "q17", "q18", "q19", "q20"];

/// A run: what it took, and how much memory it had at most above what was there before.
#[derive(Clone, Copy, Default)]
struct Spent {
    cpu: f64,
    peak: f64,
}

/// Tables by name.
type Tables = Vec<(&'static str, SchemaRef, Vec<RecordBatch>)>;

fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage");
    [usage.user_time(), usage.system_time()].iter().map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6).sum()
}

/// A line of /proc/self/status, in bytes.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().nth(1)?.parse::<f64>().ok());
    value.unwrap_or(f64::NAN) * 1024.0
}

fn measured(work: impl FnOnce()) -> Spent {
    // the peak so far is that of making the rows
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, from) = (memory("VmRSS"), cpu());
    work();
    Spent { cpu: cpu() - from, peak: memory("VmHWM") - before }
}

/// Runs `text`, whose tables of these names are `tables`.
fn highwater(text: &str, tables: &Tables) {
    let mut connectors = Builtin::default();
    let mut text = text.to_owned();
    for (name, schema, rows) in tables {
        let source = MemorySource::new(Arc::clone(schema), rows.clone(), 1);
        connectors = connectors.with_source(*name, Arc::new(source));
        if let Some(table) = text.find(&format!("CREATE TABLE {name} (")) {
            let from = table + text[table..].find("WITH (").expect("a table says what it is");
            let to = from + text[from..].find(");").expect("a statement ends");
            text.replace_range(from..to, &format!("WITH ('connector' = 'memory', 'name' = '{name}'"));
        }
    }
    let text = text.replace("'connector' = 'print'", "'connector' = 'blackhole'");
    let plan = sql::plan(Text { name: "bench.sql", sql: &text }, &[], &connectors).expect("the pipeline is right");
    let clock = Arc::new(SystemClock::default());
    let (_, result) = runtime::start(plan, Workers::Threads(1), None, clock).expect("it starts").wait();
    result.expect("it runs to its end");
}

/// Has DataFusion answer `query` over `tables`, on one thread.
fn datafusion(query: &str, tables: &Tables) {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    for (name, schema, rows) in tables {
        let table = MemTable::try_new(Arc::clone(schema), vec![rows.clone()]).expect("rows have these columns");
        context.register_table(*name, Arc::new(table)).expect("names differ");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    runtime.block_on(async {
        context.sql(query).await.expect("it is a query").collect().await.expect("it has an answer")
    });
}

/// Rows of whole numbers.
fn numbers(names: &[&'static str], rows: impl Iterator<Item = [i64; 2]>) -> (SchemaRef, Vec<RecordBatch>) {
    let rows: Vec<[i64; 2]> = rows.collect();
    let batches: Vec<RecordBatch> =
        rows.chunks(BATCH)
            .map(|rows| {
                let columns = names.iter().enumerate().map(|(n, name)| {
                    (*name, Arc::new(rows.iter().map(|row| row[n]).collect::<Int64Array>()) as ArrayRef)
                });
                RecordBatch::try_from_iter(columns).expect("columns are as long")
            })
            .collect();
    (batches[0].schema(), batches)
}

/// Keys in an order that is none: each of `keys` once, and again.
fn scattered(keys: i64, rows: i64) -> impl Iterator<Item = i64> {
    // a prime that divides no number of keys that is asked for
    (0..rows).map(move |n| n.wrapping_mul(7_919_999) % keys)
}

/// One run of `name`, of `rows` rows or events, with or without Highwater.
fn run(name: &str, rows: i64, ours: bool) -> Spent {
    let pipeline = |query: &str, tables: &[(&str, &str)]| {
        let create = tables
            .iter()
            .map(|(name, columns)| format!("CREATE TABLE {name} ({columns}) WITH ('connector' = 'print');\n"));
        format!("SET 'unbounded_state' = 'true';\n{}INSERT INTO results {query};", create.collect::<String>())
    };
    let (text, query, tables): (String, String, Tables) = match name {
        "changes" => {
            let (schema, rows) = numbers(&["k", "v"], scattered(rows / 10, rows * 3).map(|k| [k, 1]));
            let query = "SELECT k, count(*) AS c, sum(v) AS s FROM t GROUP BY k";
            let text = pipeline(query, &[("t", "k BIGINT, v BIGINT"), ("results", "k BIGINT, c BIGINT, s BIGINT")]);
            (text, query.into(), vec![("t", schema, rows)])
        }
        "changes of changes" => {
            let (schema, rows) = numbers(&["k", "v"], scattered(rows / 10, rows * 3).map(|k| [k, 1]));
            let query =
                "SELECT c, count(*) AS n, max(k) AS k FROM (SELECT k, count(*) AS c FROM t GROUP BY k) GROUP BY c";
            let text = pipeline(query, &[("t", "k BIGINT, v BIGINT"), ("results", "c BIGINT, n BIGINT, k BIGINT")]);
            (text, query.into(), vec![("t", schema, rows)])
        }
        "join" => {
            let side = |of: i64| numbers(&["k", "v"], scattered(rows, rows).map(move |k| [k, of + k]));
            let ((schema, left), (_, right)) = (side(0), side(1));
            let query = "SELECT a.k, a.v, b.v AS w FROM a JOIN b ON a.k = b.k";
            let columns = "k BIGINT, v BIGINT";
            let text = pipeline(query, &[("a", columns), ("b", columns), ("results", "k BIGINT, v BIGINT, w BIGINT")]);
            (text, query.into(), vec![("a", Arc::clone(&schema), left), ("b", schema, right)])
        }
        query => {
            let file = format!("{}/pipelines/nexmark/{query}.sql", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(file).expect("the query has a file");
            let (_, query) = text.split_once("INSERT INTO results").expect("it writes its results");
            let query = query.trim().trim_end_matches(';').to_owned();
            let kinds = ["person", "auction", "bid"].into_iter();
            let kinds = kinds.filter(|kind| text.contains(&format!("CREATE TABLE {kind} (")));
            let tables = kinds.map(|kind| {
                let (schema, rows) = nexmark::events(kind, rows as usize);
                (kind, schema, rows)
            });
            (text.clone(), query, tables.collect())
        }
    };
    measured(|| if ours { highwater(&text, &tables) } else { datafusion(&query, &tables) })
}

/// The same in a process of its own, of several runs the median.
fn apart(name: &str, rows: i64, ours: bool) -> Spent {
    let mut runs: Vec<Spent> = (0..RUNS)
        .map(|_| {
            let program = std::env::current_exe().expect("it is running");
            let output = Command::new(program).args(["--one", name, &rows.to_string(), &ours.to_string()]).output();
            let output = output.expect("it starts once more");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            Spent { cpu: numbers[0], peak: numbers[1] }
        })
        .collect();
    runs.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    runs[RUNS / 2]
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Highwater and the batch engine at the same work, of `rows` rows that are read.
fn beside(title: &str, name: &str, size: i64, rows: f64) {
    let (ours, theirs) = (apart(name, size, true), apart(name, size, false));
    let million = |spent: Spent| rows / spent.cpu / 1e6;
    println!(
        "| {title} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
        million(ours),
        million(theirs),
        million(ours) / million(theirs),
        ours.peak / MEBIBYTE,
        theirs.peak / MEBIBYTE
    );
}

fn head(what: &str) {
    println!(
        "\n{what}\n\n| | M rows/CPU s | batch, M rows/CPU s | of batch | peak MiB | batch, peak MiB |\n|---|---|---|---|---|---|"
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, name, rows, ours] = arguments.as_slice()
        && flag == "--one"
    {
        let spent = run(name, rows.parse().expect("a number of rows"), ours == "true");
        println!("{} {}", spent.cpu, spent.peak);
        return;
    }
    let asked = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    if asked("batch") {
        let events = 2_000_000;
        head("Nexmark, 2 M events, the last answer alone in the batch engine");
        QUERIES.iter().for_each(|query| beside(query, query, events, events as f64));
    }
    if asked("changes") {
        head("1 M keys, 30 M rows");
        let rows = 10_000_000;
        ["changes", "changes of changes"].iter().for_each(|name| beside(name, name, rows, 3.0 * rows as f64));
    }
    if asked("join") {
        head("A join of 5 M rows on each side");
        beside("join", "join", 5_000_000, 10_000_000.0);
    }
    if asked("state") {
        println!(
            "\nState, 4 M events against 1 M: what one more key costs\n\n| | keys | bytes of a key |\n|---|---|---|"
        );
        // of 50 events 1 is a person, 3 are auctions, 46 bids
        for (query, keys, of_50) in
            [("q4", "auctions", 3.0), ("q9", "auctions", 3.0), ("q18", "bids", 46.0), ("q20", "auctions", 3.0)]
        {
            let (few, many) = (apart(query, 1_000_000, true), apart(query, 4_000_000, true));
            println!("| {query} | {keys} | {:.0} |", (many.peak - few.peak) / (3e6 * of_50 / 50.0));
        }
    }
}
