//! `highwater bench`: rows a second on this machine, beside what a hand-written loop does.

use super::progress::short;
use crate::bench::{self, LimitRuns, Measured, Run, SEED, Spread, Suite, Workload};
use crate::error::{Error, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::json;

/// The argument that stands for every workload.
const ALL: &str = "all";

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What to measure
    #[arg(default_values = [ALL], value_parser = PossibleValuesParser::new(Workload::ALL.map(Workload::name).into_iter().chain([ALL])))]
    workloads: Vec<String>,
    /// Which queries of the nexmark workload [default: all]
    #[arg(long, value_name = "Q,…", value_delimiter = ',')]
    queries: Vec<String>,
    /// Numbers of workers in one process
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Vec<u16>,
    /// Numbers of processes with one worker each; what is above 1 is measured beside the workers
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(u16).range(1..=1024))]
    processes: Vec<u16>,
    /// Rows of each run: words, rows or records [default: what suits the workload]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// How many different words or keys there may be; without groups only the first number counts
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [10_000, 1_000_000], value_parser = clap::value_parser!(u64).range(2..=1 << 24))]
    distinct: Vec<u64>,
    /// Measured runs of each; medians are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// When an epoch ends, such as `100 ms` [default: the engine's; 10 ms for the latency]
    #[arg(long, value_name = "TICK")]
    tick: Option<String>,
    /// Kafka's brokers [default: a development broker in a process of its own]
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: Option<String>,
    /// Every single run, for programs: a JSON object on a line for each case
    #[arg(long)]
    json: bool,
    /// One measured run: how this program calls itself
    #[arg(long, hide = true, value_name = "JSON")]
    task: Option<String>,
}

/// Measures.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(task) = &arguments.task {
        return bench::perform(task);
    }
    let workloads = match arguments.workloads.iter().any(|name| name == ALL) {
        true => Workload::ALL.to_vec(),
        false => arguments.workloads.iter().map(|name| name.parse()).collect::<Result<_>>()?,
    };
    let queries = match arguments.queries.is_empty() {
        true => bench::queries().collect(),
        false => arguments.queries.iter().map(|name| bench::query(name)).collect::<Result<_>>()?,
    };
    let suite = Suite {
        workloads,
        queries,
        workers: arguments.workers.iter().copied().map(usize::from).collect(),
        processes: arguments.processes.iter().copied().map(usize::from).collect(),
        rows: arguments.rows,
        distinct: arguments.distinct.clone(),
        runs: arguments.runs.into(),
        tick: arguments.tick.clone(),
        bootstrap: arguments.bootstrap.clone(),
    };
    if cfg!(debug_assertions) {
        tracing::warn!("this is a debug build: what it measures says little");
    }
    if arguments.json {
        let failed = |error: serde_json::Error| Error::internal(error.to_string());
        return suite.run(|measured| match as_json(measured).map_err(failed) {
            Ok(line) => println!("{line}"),
            Err(error) => tracing::error!("{error}"),
        });
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(HEADER);
    let result = suite.run(|measured| {
        tracing::info!(
            "{}: {} {}/s",
            measured.case,
            short(measured.rows_per_second(&measured.pipeline).median),
            measured.unit
        );
        table.add_rows(rows(measured));
    });
    table.column_iter_mut().skip(4).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    println!("{table}");
    println!("{} runs each, medians; seed {SEED}; of limit: the median of the ratios of paired runs", arguments.runs);
    println!(
        "latency: 50 and 99 of 100 epochs, or of 100 records of a copy; of a recovery until it has committed, and until a row is visible"
    );
    result
}

const HEADER: [&str; 13] = [
    "workload",
    "from",
    "processes x workers",
    "distinct",
    "rows/s (min … max)",
    "CPU s/M rows",
    "rows/CPU s",
    "memory",
    "latency",
    "limit",
    "its rows/CPU s",
    "of limit, CPU",
    "of limit, clock",
];

/// A row of the table for each limit of a case, or one without.
fn rows(measured: &Measured) -> Vec<[String; 13]> {
    let case = &measured.case;
    let runs = &measured.pipeline;
    let speed = measured.rows_per_second(runs);
    let by_cpu = measured.rows_per_cpu_second(runs).median;
    let own = [
        case.name(),
        case.origin().to_owned(),
        format!("{} x {}", case.processes, case.workers),
        if case.workload == Workload::Nexmark { String::new() } else { short(case.distinct as f64) },
        format!("{} ({} … {})", short(speed.median), short(speed.min), short(speed.max)),
        format!("{:.3}", 1e6 / by_cpu.max(1e-9)),
        short(by_cpu),
        memory(runs),
        latency(runs),
    ];
    let with_limit = |limit: &LimitRuns| {
        [
            limit.name.to_owned(),
            short(measured.rows_per_cpu_second(&limit.runs).median),
            format!("{:.2}", measured.of_limit_by_cpu(limit).median),
            format!("{:.2}", measured.of_limit_by_clock(limit).median),
        ]
    };
    let mut limits: Vec<[String; 4]> = measured.limits.iter().map(with_limit).collect();
    if limits.is_empty() {
        limits.push(Default::default());
    }
    let row = |(number, limit): (usize, [String; 4])| {
        let own = if number == 0 { own.clone() } else { Default::default() };
        let mut cells = own.into_iter().chain(limit);
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    };
    limits.into_iter().enumerate().map(row).collect()
}

/// The peak, and what of it was there before the clock started.
fn memory(runs: &[Run]) -> String {
    let mib = |bytes: fn(&Run) -> u64| Spread::of(runs.iter().map(|run| bytes(run) as f64)).median / f64::from(1 << 20);
    format!(
        "{:.0} MiB ({:.0} before)",
        mib(|run| run.spent.memory_peak_bytes),
        mib(|run| run.spent.memory_before_bytes)
    )
}

fn latency(runs: &[Run]) -> String {
    let millis = |pick: fn((u32, u32)) -> u32| {
        Spread::of(runs.iter().filter_map(|run| run.epoch_micros).map(|pair| f64::from(pick(pair)) / 1e3)).median
    };
    match runs.iter().any(|run| run.epoch_micros.is_some()) {
        true => format!("{:.1} / {:.1} ms", millis(|pair| pair.0), millis(|pair| pair.1)),
        false => String::new(),
    }
}

/// The case with every run, and what the table would show.
fn as_json(measured: &Measured) -> Result<String, serde_json::Error> {
    let side = |runs: &[Run]| {
        json!({
            "rows_per_second": measured.rows_per_second(runs),
            "rows_per_cpu_second": measured.rows_per_cpu_second(runs),
            "runs": runs,
        })
    };
    let limit = |limit: &LimitRuns| {
        let mut shown = side(&limit.runs);
        shown["name"] = json!(limit.name);
        shown["of_limit_by_cpu"] = json!(measured.of_limit_by_cpu(limit));
        shown["of_limit_by_clock"] = json!(measured.of_limit_by_clock(limit));
        shown
    };
    serde_json::to_string(&json!({
        "case": measured.case,
        "unit": measured.unit,
        "verified_rows": measured.verified_rows,
        "pipeline": side(&measured.pipeline),
        "limits": measured.limits.iter().map(limit).collect::<Vec<_>>(),
    }))
}
