//! `highwater bench` as a user calls it: what it says is JSON, complete, and checked against the hand-written counts.

use serde_json::Value;
use std::process::Command;

fn bench(arguments: &[&str]) -> Vec<Value> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_highwater")).arg("bench").args(arguments).arg("--json").output().unwrap();
    let (said, complained) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {complained}");
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {value}"))
}

#[test]
fn word_count_is_verified_and_measured_beside_its_limits() {
    let cases = bench(&["word-count", "--rows", "20000", "--distinct", "500", "--runs", "1"]);
    let place = |case: &Value| {
        (case["case"]["input"].is_string(), number(case, "/case/processes"), number(case, "/case/workers"))
    };
    let places: Vec<_> = cases.iter().map(place).collect();
    let expected =
        [(true, 1.0, 1.0), (true, 1.0, 2.0), (true, 2.0, 1.0), (false, 1.0, 1.0), (false, 1.0, 2.0), (false, 2.0, 1.0)];
    assert_eq!(places, expected);
    for case in &cases {
        assert_eq!(case["unit"], "words");
        assert!((300.0..=500.0).contains(&number(case, "/verified_rows")), "{case}");
        for side in ["/pipeline", "/limits/0", "/limits/1"] {
            for figure in
                ["rows_per_second/median", "rows_per_cpu_second/max", "runs/0/wall_seconds", "runs/0/cpu_seconds"]
            {
                assert!(number(case, &format!("{side}/{figure}")) > 0.0, "{side}/{figure} in {case}");
            }
        }
        assert!(number(case, "/pipeline/runs/0/epochs") > 0.0);
        assert_eq!(case["limits"][0]["name"], "tuned");
        assert_eq!(case["limits"][1]["name"], "std");
        assert!(number(case, "/limits/0/of_limit_by_cpu/median") > 0.0);
        assert!(number(case, "/limits/1/of_limit_by_clock/median") > 0.0);
    }
}

#[test]
fn every_other_workload_in_memory_is_verified_on_workers_and_processes() {
    let cases = bench(&["windowed", "exchange", "json", "--rows", "20000", "--distinct", "500", "--runs", "1"]);
    let names: Vec<_> = cases.iter().map(|case| case["case"]["workload"].as_str().unwrap()).collect();
    assert_eq!(names, ["windowed", "windowed", "windowed", "exchange", "exchange", "json"]);
    assert!(cases.iter().all(|case| number(case, "/verified_rows") > 0.0));
}

#[test]
fn latency_is_told_in_percentiles() {
    let cases = bench(&["latency", "--rows", "1000000", "--distinct", "500", "--runs", "1"]);
    let micros = cases[0].pointer("/pipeline/runs/0/epoch_micros").and_then(Value::as_array).expect("a pair");
    assert!(micros[0].as_u64() > Some(0) && micros[0].as_u64() <= micros[1].as_u64());
}

#[test]
fn a_topic_is_counted_into_another_one() {
    let cases = bench(&["kafka", "--rows", "2000", "--distinct", "100", "--runs", "1"]);
    assert_eq!(cases.len(), 2, "lines and JSON");
    assert!(cases.iter().all(|case| number(case, "/verified_rows") > 0.0 && case["limits"][0]["name"] == "librdkafka"));
}

#[test]
fn checkpoints_are_measured_beside_none() {
    let cases = bench(&["checkpoints", "--rows", "200000", "--distinct", "500", "--runs", "1"]);
    let workers: Vec<_> = cases.iter().map(|case| number(case, "/case/workers")).collect();
    assert_eq!(workers, [1.0, 2.0]);
    for case in &cases {
        assert!(number(case, "/verified_rows") > 0.0 && case["limits"][0]["name"] == "without", "{case}");
        assert!(number(case, "/limits/0/of_limit_by_cpu/median") > 0.0);
    }
}

#[test]
fn a_killed_run_is_timed_until_it_has_committed_again() {
    let cases = bench(&["recovery", "--rows", "2000", "--runs", "2"]);
    assert_eq!(cases.iter().map(|case| number(case, "/case/rows")).collect::<Vec<_>>(), [20.0, 200.0, 2000.0]);
    for case in &cases {
        assert!(number(case, "/verified_rows") > 0.0 && number(case, "/pipeline/runs/1/cpu_seconds") > 0.0, "{case}");
        let until = |which: &str| number(case, &format!("/pipeline/runs/0/epoch_micros/{which}"));
        assert!(0.0 < until("0") && until("0") <= until("1"), "{case}");
    }
}

#[test]
fn a_topic_is_copied_exactly_once_at_full_speed_and_while_it_is_written() {
    let cases = bench(&["exactly-once", "--rows", "20000", "--distinct", "500", "--runs", "1"]);
    assert_eq!(cases.len(), 2);
    assert_eq!(cases[0]["limits"][0]["name"], "at least once");
    assert_eq!(cases[1]["case"]["variant"], "latency");
    let micros = |which: &str| number(&cases[1], &format!("/pipeline/runs/0/epoch_micros/{which}"));
    assert!(0.0 < micros("0") && micros("0") <= micros("1"));
    assert!(cases.iter().all(|case| number(case, "/verified_rows") == 20000.0));
}

#[test]
fn nexmark_queries_are_those_of_the_loops() {
    let cases = bench(&["nexmark", "--queries", "q0,q2,q5,q7,q8", "--rows", "120000", "--runs", "1"]);
    let name = |case: &Value| (case["case"]["variant"].as_str().unwrap().to_owned(), number(case, "/case/workers"));
    let names: Vec<_> = cases.iter().map(name).collect();
    let expected = ["q0", "q2", "q5", "q7", "q8"].map(str::to_owned);
    assert_eq!(names, expected.into_iter().flat_map(|query| [(query.clone(), 1.0), (query, 2.0)]).collect::<Vec<_>>());
    for case in &cases {
        let by_hand = case["case"]["variant"] != "q2";
        assert_eq!(case["limits"][0]["name"] == "by hand", by_hand, "{case}");
        assert_eq!(case["verified_rows"].as_u64() > Some(0), by_hand, "{case}");
        assert!(case["unit"] == "events" && number(case, "/pipeline/rows_per_cpu_second/median") > 0.0);
    }
}

#[test]
fn each_step_of_each_format_is_measured() {
    let cases = bench(&["formats", "--rows", "10000", "--distinct", "500", "--runs", "1"]);
    let names: Vec<_> = cases.iter().map(|case| case["case"]["variant"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 13);
    assert!(
        ["json cut", "csv decode", "raw encode", "avro decode", "parquet encode"]
            .iter()
            .all(|name| names.contains(name)),
        "{names:?}"
    );
    assert!(cases.iter().all(|case| number(case, "/pipeline/rows_per_cpu_second/median") > 0.0));
}

#[test]
fn an_unknown_workload_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_highwater")).args(["bench", "word-cuont"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
