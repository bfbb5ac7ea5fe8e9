//! What people write: definitions and their options.

use super::{Target, unsealed};
use crate::connector::builtin::{Builtin, CONNECTORS};
use crate::graph;
use crate::plan::Plan;
use crate::sql::{self, Text};

/// SQL.
pub const SQL: Target = Target { name: "sql", seeds: || texts(SCRIPTS), reseal: unsealed, run: sql };

/// YAML graphs.
pub const GRAPH: Target = Target { name: "graph", seeds: || texts(GRAPHS), reseal: unsealed, run: graph };

/// Options of a table: the connector in the first line, then a name and a value in turn, a line each.
pub const OPTIONS: Target = Target { name: "options", seeds: tables, reseal: unsealed, run: options };

const SCRIPTS: &[&str] = &[
    "SET 'tick' = '50 ms'; SET 'checkpoint_interval' = '1s';
     CREATE TABLE t (id BIGINT NOT NULL, word STRING, price DECIMAL(10, 2), ts TIMESTAMP(3), tags ARRAY<STRING>, r ROW<a INT, b MAP<STRING, DOUBLE>>,
       later AS ts + INTERVAL '1' HOUR, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND, PRIMARY KEY (id) NOT ENFORCED)
     WITH ('connector' = 'file', 'path' = 'x.jsonl', 'format' = 'json');
     CREATE VIEW v AS SELECT *, upper(word) AS u FROM t WHERE price BETWEEN 1 AND 2.5e3 OR word LIKE 'a%' -- why
     ;
     SELECT window_start, u, count(*) FILTER (WHERE id > 3) AS c, sum(price) FROM HOP(v, ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE)
       GROUP BY window_start, window_end, u HAVING count(*) > 1;",
    "CREATE TABLE a (k STRING, n INT, ts TIMESTAMP(6), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen', 'number-of-rows' = '10');
     EXPLAIN SELECT k, n, r FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, k ORDER BY n DESC) AS r
       FROM TUMBLE(a, ts, INTERVAL '10' SECOND)) WHERE r <= 2;
     SELECT x.k, y.n FROM TUMBLE(a, ts, INTERVAL '1' SECOND) x LEFT JOIN TUMBLE(a, ts, INTERVAL '1' SECOND) y
       ON x.k = y.k AND x.window_start = y.window_start AND x.window_end = y.window_end EMIT FINAL;",
    "SELECT CASE WHEN 1 + 2 * 3 - -4 / 5 % 6 > 0 THEN CAST('7' AS INT) ELSE NULL END, extract(year FROM TIMESTAMP '2024-05-01 12:00:00'), 'it''s', 0x1f, 1e9
       FROM (VALUES (1, 'a'), (2, NULL)) AS t (x, y);",
];

const GRAPHS: &[&str] = &[
    "pipeline:
  name: p
  tick: 50 rows
sources:
  - name: lines
    connector: datagen
    columns: {text: STRING, n: BIGINT NOT NULL, ts: TIMESTAMP(6)}
    watermark: {column: ts, delay: 5s}
    options: {number-of-rows: 10, seed: 1}
steps:
  - name: words
    op: flat_map
    from: lines
    unnest: split_words(lower(text))
    as: word
  - name: counts
    op: aggregate
    from: words
    key: [word]
    aggregates: {n: count(*)}
sinks:
  - name: out
    from: counts
    connector: print
",
    "pipeline: &a {name: 'x', b: *a, \"c\": !!str |
  text
}
--- # another
- [1, 0x2, ~, null, .inf, {? k : v}]
",
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn sql(bytes: &[u8]) -> bool {
    let Ok(sql) = std::str::from_utf8(bytes) else { return false };
    let text = Text { name: "fuzz.sql", sql };
    let planned = sql::script(text, &[], &Builtin::default());
    match &planned {
        Ok(script) => script.plan.iter().chain(&script.explains).for_each(explain),
        Err(error) => drop(error.to_string()),
    }
    planned.is_ok()
}

fn explain(plan: &Plan) {
    let _ = (plan.fingerprint(), plan.explain_text());
}

fn graph(bytes: &[u8]) -> bool {
    let Ok(sql) = std::str::from_utf8(bytes) else { return false };
    let text = Text { name: "fuzz.yaml", sql };
    let planned = graph::plan(text, &[], &Builtin::default());
    match &planned {
        Ok(plan) => explain(plan),
        Err(errors) => errors.iter().for_each(|error| drop(error.to_string())),
    }
    planned.is_ok()
}

fn tables() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for connector in CONNECTORS {
        let options: String = connector.options.iter().map(|option| format!("{}\n5s\n", option.name)).collect();
        all.push(format!("{}\n{options}", connector.name).into_bytes());
    }
    all.extend(texts(&[
        "datagen\nnumber-of-rows\n10\nrows-per-second\n1_000\nfields.n.kind\nsequence\nfields.n.start\n-9223372036854775808\nfields.n.end\n9223372036854775807",
        "datagen\nfields.n.kind\nrandom\nfields.n.min\n-9223372036854775808\nfields.n.max\n9223372036854775807\nfields.word.length\n3",
        "file\npath\n**/*.csv\nformat\ncsv\ncsv.header\ntrue\nsplit.bytes\n64 MiB",
        "kafka\ntopic\na\nproperties.bootstrap.servers\nlocalhost:9092\nscan.startup.mode\nspecific-offsets\nscan.startup.specific-offsets\npartition:0,offset:42;partition:1,offset:300\nvalue.format\njson",
        "kafka\ntopic-pattern\na.*\nproperties.bootstrap.servers\nx\nscan.startup.mode\ntimestamp\nscan.startup.timestamp-millis\n1667232000000\nformat\njson",
        "nexmark\nfirst-event.rate\n10000\nevents.num\n1000",
    ]));
    all
}

fn options(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut lines = text.lines();
    let Some(connector) = lines.next() else { return false };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut with = format!("'connector' = {}", quoted(connector));
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        with.push_str(&format!(", {} = {}", quoted(name), quoted(value)));
        for option in CONNECTORS.iter().flat_map(|connector| connector.options) {
            let _ = option.takes.check(value);
        }
    }
    let used = |statement: &str| {
        let columns = "n BIGINT, word STRING, ts TIMESTAMP(6)";
        sql(format!("CREATE TABLE t ({columns}) WITH ({with}); {statement};").as_bytes())
    };
    let read = used("SELECT n FROM t");
    used("INSERT INTO t SELECT 1, 'a', TIMESTAMP '2024-05-01 12:00:00' FROM (VALUES (1)) AS x (y)") || read
}
