//! Pipelines in Rust, and a program with a source, a sink, an operator and a function of its own.

use highwater::builder::{
    JoinKind, Pipeline, Table, aggregate, cumulate, dedup, distinct, filter, flat_map, hop, join, key_by, project,
    session, top_n, tumble, union,
};
use highwater::connector::extensions::Extensions;
use highwater::graph;
use highwater::plan::Plan;
use highwater::sql::{self, Text};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn check_same(plan: Plan, other: Plan) {
    assert_eq!(plan.explain_text(), other.explain_text());
    assert_eq!(plan.fingerprint(), other.fingerprint());
}

/// The pipeline in SQL of this name.
fn in_sql(name: &str) -> Plan {
    let text = std::fs::read_to_string(root().join("pipelines").join(name)).unwrap();
    sql::plan(Text { name, sql: &text }, &[], &Extensions::new()).unwrap()
}

fn in_yaml(yaml: &str) -> Plan {
    graph::plan(Text { name: "p.yaml", sql: yaml }, &[], &Extensions::new())
        .unwrap_or_else(|wrong| panic!("{wrong:#?}"))
}

#[test]
fn pipelines_in_rust_are_those_in_sql() {
    let word_count = Pipeline::named("word_count")
        .source("lines", Table::of("file").column("line", "STRING").option("path", "*.md").option("format", "raw"))
        .step("words", "lines", flat_map("split_words(lower(line))", "word"))
        .step("by_word", "words", aggregate([("n", "count(*)")]).by(["word"]))
        .sink("counts", "by_word", Table::of("print").column("word", "STRING").column("n", "BIGINT").emit("final"));
    check_same(word_count.plan(&Extensions::new()).unwrap(), in_sql("word_count.sql"));

    let messages = Table::of("datagen")
        .column("text", "STRING")
        .column("sent", "TIMESTAMP(3)")
        .watermark("sent", "sent - INTERVAL '30' SECOND")
        .option("number-of-rows", 20000)
        .option("seed", 7)
        .option("fields.text.kind", "words")
        .option("fields.text.vocabulary", 12)
        .option("fields.text.words", 8)
        .option("fields.sent.kind", "time")
        .option("fields.sent.start", "2026-01-01T00:00:00Z")
        .option("fields.sent.step", "50 ms")
        .option("fields.sent.disorder", "20 s");
    let counts =
        Table::of("print").column("window_start", "TIMESTAMP(3)").column("word", "STRING").column("n", "BIGINT");
    let windowed = Pipeline::named("windowed_word_count")
        .source("messages", messages)
        .step("by_minute", "messages", tumble("sent", "1 minute"))
        .step("words", "by_minute", flat_map("split_words(text)", "word"))
        .step("per_minute", "words", aggregate([("n", "count(*)")]).by(["word"]))
        .sink("counts", "per_minute", counts);
    check_same(windowed.plan(&Extensions::new()).unwrap(), in_sql("windowed_word_count.sql"));

    let orders = Table::of("datagen")
        .column("id", "BIGINT NOT NULL")
        .column("customer", "STRING")
        .column("price", "DECIMAL(10, 2)")
        .option("number-of-rows", 40)
        .option("seed", 1)
        .option("fields.id.kind", "sequence")
        .option("fields.id.start", 1)
        .option("fields.customer.kind", "random")
        .option("fields.customer.length", 5)
        .option("fields.price.kind", "random")
        .option("fields.price.min", 1)
        .option("fields.price.max", 200);
    let large =
        Table::of("print").column("id", "BIGINT").column("customer", "STRING").column("with_tax", "DECIMAL(12, 2)");
    let stateless = Pipeline::named("filter_project")
        .source("orders", orders)
        .step("large", "orders", filter("price >= 150"))
        .step(
            "with_tax",
            "large",
            project([("customer", "upper(customer)"), ("with_tax", "price * 1.19")]).keep(["id"]),
        )
        .sink("large_orders", "with_tax", large);
    check_same(stateless.plan(&Extensions::new()).unwrap(), in_sql("filter_project.sql"));
}

/// Two tables with event time.
fn two_tables(name: &str) -> Pipeline {
    let table = |prefix: &str| {
        Table::of("file")
            .column("id", "BIGINT")
            .column("who", "STRING")
            .column("ms", "BIGINT")
            .computed("ts", "to_timestamp_millis(ms)")
            .watermark("ts", "ts - INTERVAL '5' SECOND")
            .option("path", format!("{prefix}.jsonl"))
            .option("format", "json")
    };
    Pipeline::named(name).source("orders", table("orders")).source("payments", table("payments"))
}

const TWO_TABLES: &str = "
sources:
  - &table
    name: orders
    connector: file
    columns: { id: BIGINT, who: STRING, ms: BIGINT, ts: { as: to_timestamp_millis(ms) } }
    watermark: { column: ts, as: ts - INTERVAL '5' SECOND }
    options: { path: orders.jsonl, format: json }
  - name: payments
    connector: file
    columns: { id: BIGINT, who: STRING, ms: BIGINT, ts: { as: to_timestamp_millis(ms) } }
    watermark: { column: ts, delay: 5s }
    options: { path: payments.jsonl, format: json }
";

#[test]
fn every_operator_in_rust_is_that_of_a_graph() {
    let pipeline = two_tables("all")
        .step("both", ["orders", "payments"], union())
        .step("hours", "both", hop("ts", "10 minutes", "1 hour"))
        .step("by_who", "hours", key_by("who"))
        .step("counts", "by_who", aggregate([("n", "count(*)")]))
        .step("best", "counts", top_n(3, "n DESC").rank("place"))
        .sink("best_out", "best", Table::of("print"))
        .step("days", "orders", cumulate("ts", "1h", "1 day"))
        .step("once", "days", dedup("ts").by(["id"]))
        .sink("once_out", "once", Table::of("print").column("id", "BIGINT"))
        .step("visits", "payments", session("ts", "30 minutes"))
        .step("visit_counts", "visits", aggregate([("n", "count(*)")]).by_values([("name", "upper(who)")]))
        .step("each", "visit_counts", distinct_of(["name", "n"]))
        .step("once_each", "each", distinct())
        .sink("visits_out", "once_each", Table::of("print"))
        .step("left_side", "orders", tumble("ts", "1 minute"))
        .step("right_side", "payments", tumble("ts", "1 minute"))
        .step(
            "pairs",
            ["left_side", "right_side"],
            join(JoinKind::Left, "left_side.id = right_side.id", [("id", "left_side.id"), ("payer", "right_side.who")]),
        )
        .sink("pairs_out", "pairs", Table::of("print"))
        .step("unpaid", ["left_side", "right_side"], join(JoinKind::Anti, "left_side.id = right_side.id", []))
        .sink("unpaid_out", "unpaid", Table::of("print"));
    let yaml = format!(
        "pipeline: {{ name: all }}{TWO_TABLES}
steps:
  - {{ name: both, op: union, from: [orders, payments] }}
  - {{ name: hours, op: window, from: both, time: ts, hop: {{ size: 1 hour, slide: 10 minutes }} }}
  - {{ name: by_who, op: key_by, from: hours, key: who }}
  - {{ name: counts, op: aggregate, from: by_who, aggregates: {{ n: count(*) }} }}
  - {{ name: best, op: top_n, from: counts, order_by: n DESC, rows: 3, rank: place }}
  - {{ name: days, op: window, from: orders, time: ts, cumulate: {{ step: 1h, size: 1 day }} }}
  - {{ name: once, op: dedup, from: days, key: [id], order_by: ts }}
  - {{ name: visits, op: window, from: payments, time: ts, session: 30 minutes }}
  - {{ name: visit_counts, op: aggregate, from: visits, key: {{ name: upper(who) }}, aggregates: {{ n: count(*) }} }}
  - {{ name: each, op: project, from: visit_counts, columns: [name, n] }}
  - {{ name: once_each, op: distinct, from: each }}
  - {{ name: left_side, op: window, from: orders, time: ts, tumble: 1 minute }}
  - {{ name: right_side, op: window, from: payments, time: ts, tumble: 1 minute }}
  - name: pairs
    op: join
    from: [left_side, right_side]
    kind: left
    on: left_side.id = right_side.id
    columns: {{ id: left_side.id, payer: right_side.who }}
  - {{ name: unpaid, op: join, from: [left_side, right_side], kind: anti, on: left_side.id = right_side.id }}
sinks:
  - {{ name: best_out, from: best, connector: print }}
  - {{ name: once_out, from: once, connector: print, columns: {{ id: BIGINT }} }}
  - {{ name: visits_out, from: once_each, connector: print }}
  - {{ name: pairs_out, from: pairs, connector: print }}
  - {{ name: unpaid_out, from: unpaid, connector: print }}
"
    );
    let plan = pipeline.plan(&Extensions::new()).unwrap();
    let explained = plan.explain_text();
    check_same(plan, in_yaml(&yaml));
    for expected in ["union", "first 3 rows", "windows that grow", "sessions", "left join", "anti join", "distinct"] {
        assert!(explained.contains(expected), "no {expected} in\n{explained}");
    }
}

fn distinct_of<const N: usize>(columns: [&'static str; N]) -> highwater::builder::Operation {
    project(columns.map(|column| (column, column)))
}

#[test]
fn mistakes_in_rust_are_told_at_once_each_with_the_line_of_the_program() {
    let line = line!();
    let wrong = two_tables("wrong")
        .step("a", "orders", filter("idd > 3"))
        .step("b", "payment", filter("id > 3"))
        .step("c", "payments", tumble("ts", "soon"))
        .sink("out", ["a", "b", "c"], Table::of("print"))
        .plan(&Extensions::new())
        .err()
        .unwrap();
    let found: Vec<String> =
        wrong.each().map(|error| format!("{error} ({})", error.advice().unwrap_or_default())).collect();
    let at = |below: u32, column: u32| format!("tests/extensions.rs:{}:{column}", line + below);
    assert_eq!(
        found,
        [
            format!("{}: unknown column 'idd' (did you mean 'id'?)", at(2, 10)),
            format!("{}: there is no source or step 'payment' (did you mean 'payments'?)", at(3, 10)),
            format!(
                "{}: 'soon' is not a duration: expected number at 0 (write one such as '5s', '1 minute' or '1h 30min')",
                at(4, 10)
            ),
        ]
    );
    assert_eq!(
        wrong.each().next().unwrap().excerpt().map(|excerpt| (excerpt.text.as_str(), excerpt.column)),
        Some(("step a: idd > 3", 9))
    );
}

/// The program of examples/extensions.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--example", "extensions"])
            .current_dir(root())
            .status();
        assert!(built.expect("cargo is there").success());
        let tests = std::env::current_exe().expect("a test is a program");
        let target = tests.parent().and_then(Path::parent).expect("tests are built into target/debug/deps");
        target.join("examples/extensions")
    })
}

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program()).args(arguments).current_dir(root()).env("NO_COLOR", "1").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_program_with_parts_of_its_own_has_the_whole_command_line() {
    for file in ["examples/extensions/totals.sql", "examples/extensions/totals.yaml"] {
        for shape in [&["--workers", "1"][..], &["--workers", "3"], &["--workers", "2", "--processes", "2"]] {
            let (code, out, err) = run(&[&["run", file, "--no-progress"], shape].concat());
            assert_eq!(
                (code, out.as_str()),
                (Some(0), "> EN 80\n> ON 75\n> EN 110\n> ON 100\n"),
                "{file} {shape:?}\n{err}"
            );
        }
    }
    let explain = |file: &str| run(&["explain", file]).1;
    let plan = explain("examples/extensions/totals.sql");
    assert_eq!(plan, explain("examples/extensions/totals.yaml"));
    assert!(
        plan.contains("totals by who") && plan.contains("initials(") && plan.contains("connector countdown"),
        "{plan}"
    );
}

#[test]
fn a_program_lists_and_tries_its_own_parts() {
    let (code, out, err) = run(&["functions", "initials"]);
    assert!(code == Some(0) && out.contains("initials(STRING) STRING"), "{out}{err}");
    let (code, out, err) = run(&["functions", "spread"]);
    assert!(code == Some(0) && out.contains("aggregate  spread(BIGINT) BIGINT"), "{out}{err}");
    let (code, out, err) = run(&["run", "examples/extensions/spreads.sql", "--workers", "3", "--no-progress"]);
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines.as_slice()), (Some(0), &["> others 19", "> threes 15"][..]), "{err}");
    let (code, out, err) = run(&["functions", "totals", "--format", "json"]);
    assert!(code == Some(0) && out.contains("\"kind\": \"operator\""), "{out}{err}");
    let (code, out, err) = run(&["tables", "examples/extensions/totals.yaml"]);
    let headlines: Vec<&str> = out.lines().filter(|line| line.contains(" · ")).collect();
    assert_eq!(
        headlines,
        [
            "numbers · table, countdown · read · examples/extensions/totals.yaml:5:11",
            "named · step · read · examples/extensions/totals.yaml:11:11",
            "summed · step · read · examples/extensions/totals.yaml:18:11",
            "sums · table, log · written · examples/extensions/totals.yaml:25:11",
        ],
        "{code:?}{err}"
    );
    let sql = "CREATE TABLE n (n BIGINT) WITH ('connector' = 'countdown', 'from' = '3'); SHOW FUNCTIONS LIKE 'initials'; \
               SELECT initials('Ada Lovelace'), n FROM n;";
    let (code, out, err) = run(&["sql", "--format", "json", "-c", sql]);
    assert!(code == Some(0) && out.contains("initials(STRING)") && out.contains("\"AL\""), "{out}{err}");
}

#[test]
fn mistakes_about_parts_of_a_program_are_answered_as_others_are() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read_to_string(root().join("examples/extensions/totals.yaml")).unwrap();
    for (from, to, expected) in [
        ("from: 20", "fro: 20", "p.yaml:8:16|unknown option 'fro'|help: did you mean 'from'?"),
        ("from: 20", "from: x", "p.yaml:8:22|option 'from': 'x' is not"),
        ("initials(", "initial(", "p.yaml:15:12|unknown function 'initial'|help: did you mean 'initials'?"),
        ("initials(CASE", "initials('x', CASE", "initials() takes 1 argument, not 2"),
        (
            "initials(CASE WHEN n % 2 = 0 THEN 'Even Numbers' ELSE 'Odd Numbers' END)",
            "initials(n)",
            "argument 1 of initials() is",
        ),
        ("call: totals", "call: total", "p.yaml:21:11|unknown operator 'total'|help: did you mean 'totals'?"),
        ("      n: n\n", "      n: who\n      who: initials('x')\n", "p.yaml:16:10|unknown column 'who'"),
        (
            "      n: n\n",
            "      n: CAST(n AS STRING)\n",
            "totals: it takes a STRING and a BIGINT|help: select these two",
        ),
        ("connector: countdown", "connector: countdwn", "unknown connector 'countdwn'|help: did you mean 'countdown'?"),
    ] {
        let file = folder.path().join("p.yaml");
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let (code, _, err) = run(&["check", &file.display().to_string()]);
        assert!(
            code == Some(2) && expected.split('|').all(|part| err.contains(part)),
            "{to}: {expected:?} is not in\n{err}"
        );
    }
}
