//! YAML in, plans and errors out; and the JSON Schema, which says the same as the parser.

use highwater::connector::builtin::Builtin;
use highwater::error::{Error, ErrorKind};
use highwater::graph;
use highwater::plan::Plan;
use highwater::sql::{self, Text};
use rand::{Rng, SeedableRng, rngs::StdRng};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn from_yaml(yaml: &str) -> Result<Plan, Vec<Error>> {
    graph::plan(Text { name: "p.yaml", sql: yaml }, &[], &Builtin::default())
}

/// Both must give the same plan, whose text is answered.
#[track_caller]
fn check_twins(sql: &str, yaml: &str) -> String {
    let first = sql::plan(Text { name: "p.sql", sql }, &[], &Builtin::default());
    let first = first.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let second = from_yaml(yaml).unwrap_or_else(|wrong| panic!("{wrong:#?}\n{yaml}"));
    assert_eq!(second.explain_text(), first.explain_text(), "{yaml}");
    assert_eq!(second.fingerprint(), first.fingerprint(), "{yaml}");
    first.explain_text()
}

#[test]
fn pipelines_that_are_there_twice_are_the_same_pipeline() {
    let mut twins = 0;
    for entry in fs::read_dir(root().join("pipelines")).expect("the folder is in the repository") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            check_twins(&read(&path.with_extension("sql")), &read(&path));
            twins += 1;
        }
    }
    assert!(twins >= 4);
}

const SQL_TABLES: &str = "
CREATE TABLE bids (auction BIGINT NOT NULL, bidder STRING, price DECIMAL(10, 2), ms BIGINT, tags ARRAY<STRING>,
  ts AS to_timestamp_millis(ms), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'file', 'path' = 'bids.jsonl', 'format' = 'json');
CREATE TABLE lines (line STRING) WITH ('connector' = 'file', 'path' = 'x', 'format' = 'raw');
CREATE TABLE out (name STRING) WITH ('connector' = 'print');
";

const BIDS: &str = "
  - name: bids
    connector: file
    columns:
      auction: BIGINT NOT NULL
      bidder: STRING
      price: DECIMAL(10, 2)
      ms: BIGINT
      tags: ARRAY<STRING>
      ts: { as: to_timestamp_millis(ms) }
    watermark: { column: ts, delay: 5s }
    options: { path: bids.jsonl, format: json }";

const LINES: &str = "
  - name: lines
    connector: file
    columns: { line: STRING }
    options: { path: x, format: raw }";

#[test]
fn a_union_of_a_source_and_a_step() {
    let plan = check_twins(
        &format!(
            "{SQL_TABLES} CREATE VIEW names AS SELECT bidder AS name FROM bids;
             CREATE VIEW others AS SELECT line AS name FROM lines;
             CREATE VIEW named AS SELECT name FROM names UNION ALL SELECT name FROM others;
             INSERT INTO out SELECT DISTINCT upper(name) AS name FROM named;"
        ),
        &format!(
            "sources:{BIDS}{LINES}
steps:
  - {{ name: upper_case, op: project, from: named, columns: {{ name: upper(name) }} }}
  - {{ name: each_once, op: distinct, from: upper_case }}
  - {{ name: named, op: union, from: [names, others] }}
  - {{ name: names, op: project, from: bids, columns: {{ name: bidder }} }}
  - {{ name: others, op: project, from: lines, columns: {{ name: line }} }}
sinks:
  - {{ name: out, from: each_once, connector: print, columns: {{ name: STRING }} }}
"
        ),
    );
    assert!(plan.contains("union"), "{plan}");
}

#[test]
fn windows_of_every_kind_by_a_key_that_is_computed() {
    for (function, window) in [
        ("TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '10' MINUTES)", "tumble: 10 minutes"),
        (
            "TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' DAY, INTERVAL '6' HOURS)",
            "tumble: { size: 1 day, offset: 6h }",
        ),
        (
            "HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES)",
            "hop: { size: 5min, slide: 1min }",
        ),
        (
            "CUMULATE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '1' DAY)",
            "cumulate: { size: 1 day, step: 1h }",
        ),
    ] {
        let sql = format!(
            "{SQL_TABLES} CREATE TABLE busy (at TIMESTAMP, who STRING, n BIGINT) WITH ('connector' = 'print');
             INSERT INTO busy
             SELECT window_end, who, count(*)
             FROM (SELECT *, upper(bidder) AS who FROM TABLE({function}) WHERE price > 5)
             GROUP BY window_start, window_end, who;"
        );
        let yaml = format!(
            "sources:{BIDS}
steps:
  - {{ name: windows, op: window, from: bids, time: ts, {window} }}
  - {{ name: dear, op: filter, from: windows, where: price > 5 }}
  - {{ name: by_bidder, op: key_by, from: dear, key: {{ who: upper(bidder) }} }}
  - {{ name: counts, op: aggregate, from: by_bidder, aggregates: {{ n: count(*) }} }}
  - {{ name: named, op: project, from: counts, columns: {{ at: window_end }}, keep: [who, n] }}
sinks:
  - {{ name: busy, from: named, connector: print, columns: {{ at: TIMESTAMP, who: STRING, n: BIGINT }} }}
"
        );
        check_twins(&sql, &yaml);
    }
}

#[test]
fn the_first_rows_of_windows() {
    let plan = check_twins(
        &format!(
            "{SQL_TABLES} CREATE TABLE best (place BIGINT, bidder STRING, total DECIMAL(30, 2)) WITH ('connector' = 'print');
             CREATE VIEW totals AS SELECT window_start, window_end, window_time, bidder, sum(price) AS total
             FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' HOUR))
             GROUP BY window_start, window_end, window_time, bidder;
             INSERT INTO best SELECT place, bidder, total FROM (
               SELECT *, row_number() OVER (PARTITION BY window_start, window_end, window_time ORDER BY total DESC, bidder) AS place
               FROM totals)
             WHERE place <= 3;"
        ),
        &format!(
            "sources:{BIDS}
steps:
  - {{ name: hours, op: window, from: bids, time: ts, tumble: 1 hour }}
  - {{ name: totals, op: aggregate, from: hours, key: bidder, aggregates: {{ total: sum(price) }} }}
  - {{ name: top, op: top_n, from: totals, order_by: 'total DESC, bidder', rows: 3, rank: place }}
sinks:
  - {{ name: best, from: top, connector: print, columns: {{ place: BIGINT, bidder: STRING, total: 'DECIMAL(30, 2)' }} }}
"
        ),
    );
    assert!(plan.contains("place"), "{plan}");
    let deduplicated = from_yaml(&format!(
        "sources:{BIDS}
steps:
  - {{ name: minutes, op: window, from: bids, time: ts, tumble: 10min }}
  - {{ name: each_once, op: dedup, from: minutes, key: [bidder, auction], order_by: ts }}
sinks:
  - {{ name: o, from: each_once, connector: print, columns: {{ bidder: STRING }} }}
"
    ));
    let deduplicated = deduplicated.unwrap().explain_text();
    assert!(deduplicated.contains("by key bidder, auction"), "{deduplicated}");
}

#[test]
fn joins_with_versions_and_with_tables_outside() {
    const TABLES: &str = "CREATE TABLE sales (id BIGINT, currency STRING, sold TIMESTAMP(3), WATERMARK FOR sold AS sold) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');
        CREATE TABLE rates (currency STRING, rate BIGINT, updated TIMESTAMP(3), WATERMARK FOR updated AS updated, PRIMARY KEY (currency) NOT ENFORCED) WITH ('connector' = 'file', 'path' = 'rates.csv', 'format' = 'csv');
        CREATE TABLE names (currency STRING, name STRING) WITH ('connector' = 'http', 'url' = 'http://127.0.0.1/{currency}', 'format' = 'json');
        CREATE TABLE o (id BIGINT, rate BIGINT) WITH ('connector' = 'print');
        CREATE TABLE p (id BIGINT, name STRING) WITH ('connector' = 'print');";
    const SOURCES: &str = "
sources:
  - { name: sales, connector: file, options: { path: sales.csv, format: csv }, columns: { id: BIGINT, currency: STRING, sold: TIMESTAMP(3) }, watermark: { column: sold, as: sold } }
  - { name: rates, connector: file, options: { path: rates.csv, format: csv }, columns: { currency: STRING, rate: BIGINT, updated: TIMESTAMP(3) }, watermark: { column: updated, as: updated }, primary_key: [currency] }
  - { name: names, connector: http, options: { url: 'http://127.0.0.1/{currency}', format: json }, columns: { currency: STRING, name: STRING } }";
    let on = "sales.currency = rates.currency";
    for (join, field) in [
        (format!("JOIN rates FOR SYSTEM_TIME AS OF sales.sold ON ({on})"), "kind: inner, as_of: sales.sold"),
        (
            format!("ASOF LEFT JOIN rates MATCH_CONDITION (sales.sold > rates.updated) ON ({on})"),
            "kind: left, match: sales.sold > rates.updated",
        ),
    ] {
        check_twins(
            &format!(
                "{TABLES} INSERT INTO o SELECT sales.id, rates.rate FROM sales {join};
                 INSERT INTO p SELECT sales.id, names.name FROM sales LEFT JOIN names FOR SYSTEM_TIME AS OF PROCTIME() ON (names.currency = sales.currency);"
            ),
            &format!(
                "{SOURCES}
steps:
  - {{ name: c, op: join, from: [sales, rates], {field}, on: {on}, columns: {{ id: sales.id, rate: rates.rate }} }}
  - {{ name: d, op: join, from: [sales, names], kind: left, as_of: proctime(), on: names.currency = sales.currency, columns: {{ id: sales.id, name: names.name }} }}
sinks:
  - {{ name: o, from: c, connector: print, columns: {{ id: BIGINT, rate: BIGINT }} }}
  - {{ name: p, from: d, connector: print, columns: {{ id: BIGINT, name: STRING }} }}
"
            ),
        );
    }
}

#[test]
fn joins_in_windows_and_with_a_table() {
    let same_window = "a.window_start = b.window_start AND a.window_end = b.window_end";
    let over = "TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' HOUR))";
    for (kind, exists) in [("semi", "EXISTS"), ("anti", "NOT EXISTS")] {
        let plan = check_twins(
            &format!(
                "{SQL_TABLES} CREATE TABLE o (at TIMESTAMP, who STRING) WITH ('connector' = 'print');
                 CREATE VIEW a AS SELECT * FROM {over};
                 CREATE VIEW b AS SELECT * FROM a WHERE price > 5;
                 INSERT INTO o SELECT window_end, bidder FROM a
                 WHERE {exists} (SELECT 1 FROM b WHERE {same_window} AND a.auction = b.auction);"
            ),
            &format!(
                "sources:{BIDS}
steps:
  - {{ name: a, op: window, from: bids, time: ts, tumble: 1 hour }}
  - {{ name: b, op: filter, from: a, where: price > 5 }}
  - {{ name: c, op: join, kind: {kind}, from: [a, b], on: a.auction = b.auction }}
  - {{ name: d, op: project, from: c, columns: {{ at: window_end, who: bidder }} }}
sinks:
  - {{ name: o, from: d, connector: print, columns: {{ at: TIMESTAMP, who: STRING }} }}
"
            ),
        );
        assert!(plan.contains(&format!("{kind} join by auction in windows")), "{plan}");
    }
    // the windows of the stream go on beside the table's columns
    let plan = check_twins(
        &format!(
            "{SQL_TABLES} CREATE TABLE o (window_start TIMESTAMP, line STRING, n BIGINT) WITH ('connector' = 'print');
             CREATE VIEW a AS SELECT * FROM {over};
             CREATE VIEW c AS SELECT a.window_start, a.window_end, line FROM a LEFT JOIN lines ON a.bidder = lines.line;
             INSERT INTO o SELECT window_start, line, count(*) FROM c GROUP BY window_start, window_end, line;"
        ),
        &format!(
            "sources:{BIDS}{LINES}
steps:
  - {{ name: a, op: window, from: bids, time: ts, tumble: 1 hour }}
  - {{ name: c, op: join, kind: left, from: [a, lines], on: a.bidder = lines.line, columns: {{ line: lines.line }} }}
  - {{ name: n, op: aggregate, from: c, key: line, aggregates: {{ n: count(*) }} }}
sinks:
  - {{ name: o, from: n, connector: print, columns: {{ window_start: TIMESTAMP, line: STRING, n: BIGINT }} }}
"
        ),
    );
    assert!(plan.contains("left join by bidder with a table"), "{plan}");
}

#[test]
fn a_step_that_two_read_is_planned_once() {
    let plan = from_yaml(&format!(
        "sources:{LINES}
steps:
  - {{ name: words, op: flat_map, from: lines, unnest: split_words(line), as: word, keep: [line] }}
  - {{ name: counts, op: aggregate, from: words, key: word, aggregates: {{ n: count(*) }} }}
  - {{ name: long, op: filter, from: counts, where: n > 3 }}
sinks:
  - {{ name: all_counts, from: counts, connector: print, emit: final }}
  - {{ name: long_counts, from: [long, counts], connector: print, emit: final }}
"
    ))
    .unwrap();
    assert_eq!(
        plan.steps.iter().filter(|step| step.name.starts_with("count by word")).count(),
        2,
        "{}",
        plan.explain_text()
    );
    let columns = &plan.steps.iter().find(|step| step.name == "sink all_counts").unwrap().schema;
    assert_eq!(columns.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["word", "n"]);
}

/// Every mistake in `yaml`, in order, as `line:column: what (advice)`; advice may be cut off at its end.
#[track_caller]
fn check_wrong(yaml: &str, expected: &[&str]) {
    let wrong = from_yaml(yaml).err().unwrap_or_else(|| panic!("it is accepted:\n{yaml}"));
    let found: Vec<String> = wrong
        .iter()
        .flat_map(Error::each)
        .map(|error| {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
            let text = error.to_string();
            let text = text.strip_prefix("p.yaml:").unwrap_or_else(|| panic!("no place in {text}"));
            match error.advice() {
                Some(advice) => format!("{text} ({advice})"),
                None => text.to_owned(),
            }
        })
        .collect();
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(f, e)| f == e || e.strip_suffix('…').is_some_and(|e| f.starts_with(e)));
    assert!(same, "found\n{found:#?}\ninstead of\n{expected:#?}");
}

#[test]
fn all_mistakes_are_told_at_once_each_at_its_place() {
    check_wrong(
        "pipeline: { nam: x, tick: 5 }
sources:
  - name: lines
    connector: file
    columns: { line: STRNG }
    options: { path: x, format: raw }
  - name: texts
    connector: file
    columns: { text: STRING }
    options: { path: x, format: raw }
steps:
  - { name: a, op: filtr, from: texts, where: x }
  - { name: b, op: filter, from: textz, where: x }
  - { name: c, op: filter, from: texts, where: 'length(txt) = 3' }
  - { name: d, op: aggregate, from: texts, key: [txet], aggregates: { n: count(*) } }
  - { name: e, op: filter, from: f, where: text = 'x' }
  - { name: f, op: filter, from: e, where: text = 'x' }
sinks:
  - { name: out, from: [a, b, c, d, e, lines], connector: print, emit: finl }
",
        &[
            "1:13: unknown field 'nam' of the pipeline (did you mean 'name'?)",
            "12:20: unknown op 'filtr' (did you mean 'filter'?)",
            "19:72: 'emit' is one of final, changes, on_window_close, not 'finl' (did you mean 'final'?)",
            "1:27: setting 'tick': '5' is not a tick (write a duration…",
            "13:34: there is no source or step 'textz' (did you mean 'texts'?)",
            "5:22: type STRNG is not supported (did you mean STRING?)",
            "16:13: these steps read each other in a circle: e reads f reads e (rows flow from sources to sinks)",
            "14:56: unknown column 'txt' (did you mean 'text'?)",
            "15:50: 'texts' has no column 'txet' (did you mean 'text'?)",
        ],
    );
}

/// A definition with `step` in it, whose mistakes are those of the step.
fn with_step(step: &str) -> String {
    format!(
        "sources:{BIDS}{LINES}\nsteps:\n  - name: s\n    {}\nsinks:
  - {{ name: o, from: s, connector: print }}
  - {{ name: p, from: bids, connector: print }}
  - {{ name: q, from: lines, connector: print }}
",
        step.trim().replace('\n', "\n    ")
    )
}

#[test]
fn mistakes_in_expressions_are_shown_inside_of_their_strings() {
    // The step's op is on line 19.
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: \"price > 'a' AND bider = 'x'\""),
        &[
            "21:13: 'a' is not a value of type DECIMAL(38, 10)",
            "21:29: unknown column 'bider' (did you mean 'bidder'?)",
        ],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: >-\n  price > 3\n  AND length(biddr) > 3"),
        &["23:18: unknown column 'biddr' (did you mean 'bidder'?)"],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: |\n  price > 3\n    OR lenght(bidder) > 3\n"),
        &["23:12: unknown function 'lenght' (did you mean 'length'?)"],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: bidder = 'it''s' +"),
        &["21:30: expected an expression, found the end"],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: price > 3 GROUP BY price"),
        &["21:22: expected the end of the expression, found GROUP"],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: 'bidder = ''x'"),
        &["21:22: this text has no end (add the ' that ends it; a ' inside of a text is written twice)"],
    );
    check_wrong(
        &with_step("op: project\nfrom: bids\ncolumns: { a: price +, b: bidder || 1 +, c: bidder }"),
        &["21:26: expected an expression, found the end", "21:44: expected an expression, found the end"],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: now() > ts"),
        &["21:12: now() is refused: it is not a function of the rows (it gives…"],
    );
    check_wrong(&with_step("op: filter\nfrom: bids\nwhere: ''"), &["21:13: 'where' is an expression, not ''"]);
}

#[test]
fn mistakes_in_the_graph() {
    check_wrong(
        &with_step("op: window\nfrom: lines\ntime: line\ntumble: 1 minute"),
        &["21:11: a window goes by event time, but column 'line' has no watermark (…"],
    );
    check_wrong(
        &with_step("op: window\nfrom: bids\ntime: ts\ntumble: 1\nhop: { size: 5min }"),
        &[
            "22:13: '1' is not a duration: time unit needed, for example 1sec or 1ms (write one such as '5s', '1 minute' or '1h 30min')",
            "23:10: a hop has no 'slide' ('slide' is a duration: how far apart windows start)",
            "18:5: op 'window' has one of tumble, hop, cumulate, session, but here is tumble and hop",
        ],
    );
    check_wrong(
        &with_step("op: filter\nfrom: [bids, lines]\nwhere: true"),
        &["20:18: this step reads one input, but here are 2 (put a step with op: union before it)"],
    );
    check_wrong(
        &with_step("op: union\nfrom: [bids, lines]"),
        &["20:18: 'bids' has a column 'auction', but 'lines' has none (inputs of a union…"],
    );
    check_wrong(
        &with_step("op: join\nfrom: [bids, lines]\non: bidder = line"),
        &["18:11: a join has no columns (name them: columns: { id: orders.id, … }; only kinds 'semi' and 'anti' have…"],
    );
    check_wrong(
        &with_step("op: union\nfrom: lines"),
        &["20:11: a union has two inputs or more, but here is one (write from: [a, b])"],
    );
    check_wrong(
        &with_step("op: distinct\nfrom: o"),
        &["20:11: 'o' is a sink: its rows have left (read what the sink reads)"],
    );
    check_wrong(
        &with_step("op: project\nfrom: bids\ncolumns: [auction]\nkeep: [bider]"),
        &["22:12: 'bids' has no column 'bider' (did you mean 'bidder'?)"],
    );
    check_wrong(
        "sources: []\nsinks:\n  - { name: s, connector: print }\n",
        &["3:13: nothing goes into sink 's' (say what it takes: from: NAME, or name it in another sink's late_into)"],
    );
    check_wrong(
        &with_step("op: filter\nfrom: bids\nwhere: true").replace("from: s,", "from: s, late_into: p,"),
        &["23:36: LATE INTO needs windows: nothing here can come too late (…"],
    );
    check_wrong(
        "sinks: []",
        &["1:1: a definition has no 'sources' ('sources' is a list, each item a source: the tables that are read)"],
    );
    check_wrong("sources: []\nsinks: []", &[" the pipeline writes nothing (a…"]);
}

#[test]
fn mistakes_in_the_yaml() {
    check_wrong("", &[" the definition is empty (a definition has sources, steps and sinks)"]);
    check_wrong("sources:\n\t- name: x", &["2:1: a tab cannot indent YAML (put spaces in its place)"]);
    check_wrong("sources: [", &["1:11: this is not YAML: …"]);
    check_wrong(
        "a: b: c",
        &[
            "1:5: this is not YAML: mapping values are not allowed in this context (a text with ': ' in it stands in quotes…",
        ],
    );
    check_wrong("a: 'x' = y", &["1:8: this is not YAML: …"]);
    check_wrong(
        "a: *b",
        &[
            "1:4: this is not YAML: while parsing node, found unknown anchor (a text that starts with * stands in quotes)",
        ],
    );
    check_wrong("a: !x y", &["1:4: tags such as !x have no meaning here (put a text that starts with ! into quotes)"]);
    check_wrong("sources: []\nsinks: []\nsinks: []", &["3:1: 'sinks' is there twice"]);
    check_wrong("just text", &["1:1: 'the definition' is a mapping, not 'just text'"]);
    check_wrong(
        "sources: {}\nsinks: []",
        &["1:10: 'sources' is a list, each item a source, not a mapping (put a hyphen before each of its items)"],
    );
}

// --- the schema

fn schema_path() -> PathBuf {
    root().join("docs/pipeline.schema.json")
}

/// The document as JSON, as another YAML library reads it.
fn to_json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(entries) => {
            let entry = |(key, value): (&Yaml, &Yaml)| (key.as_str().unwrap_or_default().to_owned(), to_json(value));
            Value::Object(entries.iter().map(entry).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// True if the JSON Schema takes the document.
fn is_valid(yaml: &str) -> bool {
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema_path()).unwrap()).unwrap();
    let config =
        jsonschema_valid::Config::from_schema(&schema, Some(jsonschema_valid::schemas::Draft::Draft7)).unwrap();
    config.validate_schema().map_err(|errors| errors.map(|error| error.to_string()).collect::<Vec<_>>()).unwrap();
    let documents = Yaml::load_from_str(yaml).unwrap();
    config.validate(&to_json(&documents[0])).is_ok()
}

#[test]
fn the_schema_in_the_documents_is_that_of_the_parser() {
    let text = format!("{:#}\n", graph::schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(schema_path(), &text).unwrap();
    }
    assert!(
        fs::read_to_string(schema_path()).unwrap_or_default() == text,
        "UPDATE_SCHEMA=1 writes docs/pipeline.schema.json"
    );
}

#[test]
fn the_schema_takes_every_definition_in_the_repository() {
    let mut folders = vec![root().join("pipelines"), root().join("tests")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mistake = path.starts_with(root().join("tests/mistakes"));
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") && !mistake {
                assert!(is_valid(&fs::read_to_string(&path).unwrap()), "{path:?}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 3);
}

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    let good = with_step("op: filter\nfrom: bids\nwhere: price > 3");
    assert!(is_valid(&good) && from_yaml(&good).is_ok());
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let broken = [
        replaced("op: filter", "op: filtr"),
        replaced("op: filter\n", "\n"),
        replaced("where: price > 3", "were: price > 3"),
        replaced("where: price > 3", ""),
        replaced("where: price > 3", "where:"),
        replaced("where: price > 3", "where: [price]"),
        replaced("from: bids", "from: []"),
        replaced("from: bids", "from: { a: b }"),
        replaced("from: bids", "from: 3"),
        replaced("name: s\n", "name: 1s\n"),
        replaced("name: s\n", "name: a b\n"),
        replaced("connector: file", "connector: [file]"),
        replaced("connector: file", "conector: file"),
        replaced("columns: { line: STRING }", "columns: [line]"),
        replaced("columns: { line: STRING }", "columns: { line: 3 }"),
        replaced("ts: { as: to_timestamp_millis(ms) }", "ts: { is: to_timestamp_millis(ms) }"),
        replaced("delay: 5s", "delay: 5"),
        replaced("delay: 5s", "delay: soon"),
        replaced("delay: 5s", "delay: 5s, as: ts"),
        replaced(", delay: 5s", ""),
        replaced("path: x", "path: { x: y }"),
        replaced("path: x", "path:"),
        replaced("sinks:", "sink:"),
        replaced("steps:", "step:"),
        replaced("connector: print", "connector: print, emit: never"),
        replaced("connector: print", "connector: print, columns: [a]"),
        replaced("sources:", "pipeline: { when_all_idle: wait }\nsources:"),
        replaced("sources:", "pipeline: x\nsources:"),
        replaced("op: filter\n    from: bids\n    where: price > 3", "op: window\n    from: bids\n    time: ts"),
        replaced(
            "op: filter\n    from: bids\n    where: price > 3",
            "op: window\n    from: bids\n    time: ts\n    hop: 5s",
        ),
        replaced(
            "op: filter\n    from: bids\n    where: price > 3",
            "op: aggregate\n    from: bids\n    aggregates: [count]",
        ),
    ];
    for yaml in &broken {
        assert!(!is_valid(yaml), "the schema takes\n{yaml}");
        assert!(from_yaml(yaml).is_err(), "the parser takes\n{yaml}");
    }
}

/// Texts with a word missing, doubled or in another's place are planned or refused, with a place; nothing panics or hangs.
#[test]
fn broken_texts_are_refused_and_never_panic() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let text = with_step(
        "op: aggregate\nfrom: bids\nkey: { who: upper( bidder ) }\naggregates:\n  n: count( * )\n  total: \"sum( price ) \"",
    );
    for _ in 0..400 {
        let mut words: Vec<&str> = text.split_inclusive(' ').collect();
        for _ in 0..random.random_range(1..4) {
            let (at, other) = (random.random_range(0..words.len()), random.random_range(0..words.len()));
            match random.random_range(0..4) {
                0 => drop(words.remove(at)),
                1 => words.insert(at, words[other]),
                2 => words.swap(at, other),
                _ => words.truncate(at.max(1)),
            }
            if words.is_empty() {
                words.push("x");
            }
        }
        for error in from_yaml(&words.concat()).err().into_iter().flatten() {
            assert!(error.to_string().starts_with("p.yaml"), "seed {seed}: no place in {error}\n{}", words.concat());
            assert_ne!(error.kind(), ErrorKind::Internal, "seed {seed}: {error}\n{}", words.concat());
        }
    }
}
