//! SQL in, plans and errors out. No pipeline runs here, so the connectors are stand-ins that know only what planning asks.

use arrow::datatypes::{Schema, SchemaRef};
use highwater::connector::kafka::METADATA;
use highwater::connector::{
    CONNECTOR, Changes, ConnectorSpec, Connectors, Context, OptionSpec, Options, Preset, Publisher, Shard, ShardName,
    Sink, SinkInput, Source, Split, SplitStart, Stager, Staging, Table, Takes,
};
use highwater::error::{ErrorKind, Result};
use highwater::plan::Tick;
use highwater::sql::{self, Text};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::Arc;

/// Connectors that read and write nothing: `bounded`, `single` and `changes` are options.
struct Stub;

const BOUNDED: OptionSpec = OptionSpec::reading("bounded", Takes::Flag, Preset::Is("false"), "whether it ends");
const SINGLE: OptionSpec = OptionSpec::writing("single", Takes::Flag, Preset::None(""), "whether one worker writes");
const CHANGES: OptionSpec =
    OptionSpec::writing("changes", Takes::Choice(&["all", "upsert", "append"]), Preset::Is("all"), "what it carries");

const fn spec(name: &'static str) -> ConnectorSpec {
    let options = &[&BOUNDED, &SINGLE, &CHANGES];
    ConnectorSpec {
        name,
        about: "",
        reads: true,
        writes: true,
        answers: false,
        metadata: METADATA,
        formats: &[],
        options,
    }
}

struct StubSource {
    schema: SchemaRef,
    bounded: bool,
}

struct StubSink {
    single: bool,
    changes: Changes,
    staging: Option<StubStaging>,
}

struct StubStaging;

impl Connectors for Stub {
    fn specs(&self) -> &[ConnectorSpec] {
        const { &[spec("file"), spec("kafka"), spec("print")] }
    }

    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        let bounded = table.options.flag(&BOUNDED)?;
        let schema: Schema = table.schema.project(columns).expect("the planner asks for columns that are there");
        Ok(Arc::new(StubSource { schema: Arc::new(schema), bounded }))
    }

    fn sink(&self, table: &Table, _input: &SinkInput) -> Result<Arc<dyn Sink>> {
        let options = &table.options;
        let print = options.required(&CONNECTOR)? == "print";
        let single = options.if_given(&SINGLE, Options::flag)?.unwrap_or(print);
        let changes = match options.choice(&CHANGES)? {
            "upsert" => Changes::Upsert,
            "append" => Changes::AppendOnly,
            _ => Changes::All,
        };
        Ok(Arc::new(StubSink { single, changes, staging: if print { None } else { Some(StubStaging) } }))
    }
}

impl Source for StubSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn bounded(&self) -> bool {
        self.bounded
    }

    fn splits(&self, _context: &Context) -> Result<Vec<String>> {
        unreachable!("plans are not run here")
    }

    fn open(&self, _splits: &[SplitStart], _context: &Context) -> Result<Vec<Box<dyn Split>>> {
        unreachable!("plans are not run here")
    }
}

impl Sink for StubSink {
    fn single(&self) -> bool {
        self.single
    }

    fn open(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Shard>> {
        unreachable!("plans are not run here")
    }

    fn changes(&self) -> Changes {
        self.changes
    }

    fn staging(&self) -> Option<&dyn Staging> {
        self.staging.as_ref().map(|staging| staging as &dyn Staging)
    }
}

impl Staging for StubStaging {
    fn how(&self) -> &'static str {
        "transactions"
    }

    fn records(&self) -> SchemaRef {
        unreachable!("plans are not run here")
    }

    fn stager(&self, _shard: usize, _shards: usize, _context: &Context) -> Result<Box<dyn Stager>> {
        unreachable!("plans are not run here")
    }

    fn publisher(&self, _shard: &ShardName, _context: &Context) -> Result<Box<dyn Publisher>> {
        unreachable!("plans are not run here")
    }
}

/// The tables that most tests use.
const TABLES: &str = "
CREATE TABLE lines (line STRING) WITH ('connector' = 'file', 'bounded' = 'true');
CREATE TABLE bids (
    auction BIGINT NOT NULL, bidder STRING, price DECIMAL(10, 2), ts TIMESTAMP(3), tags ARRAY<STRING>,
    WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kafka');
CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'print');
CREATE TABLE latest (word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED) WITH ('connector' = 'kafka', 'changes' = 'upsert');
CREATE TABLE by_window (window_end TIMESTAMP, auction BIGINT, n BIGINT) WITH ('connector' = 'kafka', 'changes' = 'append');
";

/// Compares the plan of `sql`, after [`TABLES`], with tests/plans/`name`.txt. `UPDATE_PLANS=1` writes it instead.
fn check_plan(name: &str, sql: &str) {
    let text = format!("{TABLES}{sql}");
    let plan =
        sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let path = format!("{}/tests/plans/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let found = format!("{}\n\n{}", sql.trim(), plan.explain_text());
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::write(&path, &found).expect("the plan can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "plan {name} is not as in {path} (UPDATE_PLANS=1 writes it); it is\n{found}");
    for _ in 0..3 {
        let again = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap();
        assert_eq!(again.fingerprint(), plan.fingerprint(), "{name} is planned in two ways");
    }
}

#[test]
fn word_count() {
    check_plan(
        "word_count",
        "INSERT INTO counts
SELECT word, count(*) FROM (SELECT unnest(string_to_array(line, ' ')) AS word FROM lines)
WHERE word <> '' GROUP BY word EMIT FINAL;",
    );
}

#[test]
fn a_view_that_is_served_is_a_step_and_read_by_others() {
    check_plan(
        "materialized_view",
        "CREATE MATERIALIZED VIEW spent AS SELECT bidder, sum(price) AS spent FROM bids GROUP BY bidder;
CREATE MATERIALIZED VIEW most AS SELECT bidder, spent FROM spent ORDER BY spent DESC LIMIT 3;
INSERT INTO counts SELECT bidder, count(*) FROM spent GROUP BY bidder;",
    );
    let sql =
        format!("{TABLES}SET 'state_ttl' = '1 day'; CREATE MATERIALIZED VIEW recent AS SELECT bidder, ts FROM bids;");
    let plan = sql::plan(Text { name: "p.sql", sql: &sql }, &[], &Stub).unwrap();
    plan.check().unwrap();
    let text = plan.explain_text();
    assert!(text.contains("state the rows of the last 1day by event time, in memory"), "{text}");
    let sql = sql.replace("'state_ttl' = '1 day'", "'unbounded_state' = 'true'");
    let text = sql::plan(Text { name: "p.sql", sql: &sql }, &[], &Stub).unwrap().explain_text();
    assert!(text.contains("state unbounded: all rows of its query, in memory"), "{text}");
}

#[test]
fn word_count_that_updates_by_key() {
    check_plan(
        "word_count_updating",
        "INSERT INTO latest (n, word) SELECT count(*) AS n, word FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines) GROUP BY word;",
    );
}

#[test]
fn filters_and_projections_are_one_step() {
    check_plan(
        "stateless",
        "INSERT INTO by_window
SELECT ts, auction * 2, CASE WHEN price > 10 THEN 1 ELSE 0 END FROM bids WHERE bidder LIKE 'a%' AND price IS NOT NULL;",
    );
}

#[test]
fn a_join_with_versions_keeps_one_of_each_key() {
    check_plan(
        "temporal",
        "CREATE VIEW newest AS SELECT auction, price, ts FROM (
  SELECT *, row_number() OVER (PARTITION BY auction ORDER BY ts DESC) AS n FROM bids) WHERE n = 1;
INSERT INTO by_window
SELECT b.ts, b.auction, CAST(n.price AS BIGINT) FROM bids AS b
LEFT JOIN newest FOR SYSTEM_TIME AS OF b.ts AS n ON b.auction = n.auction AND n.price < b.price WHERE b.bidder <> 'me';
INSERT INTO by_window
SELECT b.ts, b.auction, c.auction FROM bids AS b ASOF JOIN bids AS c MATCH_CONDITION (b.ts > c.ts) ON b.bidder = c.bidder;",
    );
}

#[test]
fn a_service_is_asked_by_a_step_of_its_own() {
    let sql = "CREATE TABLE sales (id BIGINT, customer STRING, sold TIMESTAMP(3), WATERMARK FOR sold AS sold) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');
CREATE TABLE customers (name STRING, country STRING, since INT) WITH ('connector' = 'http', 'url' = 'http://127.0.0.1:8080/customers/{name}', 'format' = 'json');
SELECT s.id, c.country FROM sales AS s LEFT JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c
ON c.name = s.customer AND c.since < s.id WHERE s.id > 1;";
    let plan = sql::plan(Text { name: "p.sql", sql }, &[], &highwater::connector::builtin::Builtin::default()).unwrap();
    let found = plan.explain_text();
    for part in [
        "filter id > 1",
        "by key customer: project, filter",
        "look up customers by customer",
        "connector http",
        "left join on customer = name",
        "where CAST(since AS Int64) < id",
        "asks 8 at once, remembers 10000 keys for 1m, on each worker",
        "emits append, watermark of sales, state none",
    ] {
        assert!(found.contains(part), "{part} is not in\n{found}");
    }
}

#[test]
fn tumbling_windows_are_merged_into_their_aggregate() {
    check_plan(
        "tumble",
        "INSERT INTO by_window
SELECT window_end, auction, count(*) FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '10' MINUTES))
WHERE price > 5 GROUP BY window_start, window_end, auction HAVING count(*) > 1;",
    );
}

#[test]
fn hopping_windows_by_name_and_without_a_count() {
    check_plan(
        "hop",
        "INSERT INTO by_window (window_end, n)
SELECT window_end, max(auction) FROM TABLE(HOP(DATA => TABLE bids, TIMECOL => DESCRIPTOR(ts), SLIDE => INTERVAL '1' MINUTE, SIZE => INTERVAL '5' MINUTE)) AS w
GROUP BY window_end EMIT ON WINDOW CLOSE;",
    );
}

#[test]
fn windows_that_grow_share_their_panes() {
    check_plan(
        "cumulate",
        "INSERT INTO by_window
SELECT window_end, auction, count(*) FROM TABLE(CUMULATE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '1' DAY, INTERVAL '-2' HOURS))
GROUP BY window_start, window_end, auction;",
    );
}

#[test]
fn sessions_of_keys() {
    check_plan(
        "session",
        "INSERT INTO by_window
SELECT window_end, auction, count(*) AS n
FROM TABLE(SESSION(TABLE bids PARTITION BY auction, DESCRIPTOR(ts), INTERVAL '10' MINUTES))
WHERE auction > 7 GROUP BY window_start, window_end, auction HAVING count(*) > 1;",
    );
    let sessions = |from: &str| {
        let text =
            format!("{TABLES}SELECT window_start, auction, bidder FROM {from} GROUP BY window_start, bidder, auction;");
        sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub)
            .unwrap_or_else(|error| panic!("{from}: {error:?}"))
            .fingerprint()
    };
    let full = sessions("TABLE(SESSION(TABLE bids PARTITION BY auction, bidder, DESCRIPTOR(ts), INTERVAL '1' MINUTE))");
    for from in [
        "session(bids PARTITION BY bidder, auction, ts, INTERVAL '1' MINUTE)",
        "session(DATA => TABLE bids PARTITION BY auction, bidder, TIMECOL => DESCRIPTOR(ts), GAP => INTERVAL '1' MINUTE)",
        "session((SELECT * FROM bids) PARTITION BY auction, bidder, ts, INTERVAL '1' MINUTE)",
        "session(bids, ts, INTERVAL '1' MINUTE)",
    ] {
        assert_eq!(sessions(from), full, "{from}");
    }
}

#[test]
fn late_rows_and_lateness() {
    check_plan(
        "late_rows",
        "CREATE TABLE late (bidder STRING, auction STRING, ts TIMESTAMP, reason STRING, place STRING, watermark TIMESTAMP, else INT) WITH ('connector' = 'kafka');
CREATE VIEW cheap AS SELECT * FROM bids WHERE price < 5;
INSERT INTO by_window
SELECT window_end, auction, count(*) FROM TABLE(TUMBLE(TABLE cheap, DESCRIPTOR(ts), INTERVAL '10' MINUTES))
GROUP BY window_start, window_end, auction
ALLOWED LATENESS INTERVAL '1' HOUR LATE INTO late EMIT ON WINDOW CLOSE;
INSERT INTO late (bidder) SELECT bidder FROM cheap WHERE auction = 3;",
    );
}

#[test]
fn late_rows_need_windows_and_a_table_that_takes_them() {
    let windows = "FROM tumble(bids, ts, INTERVAL '1' MINUTE) GROUP BY window_end";
    check_error(
        "SELECT line FROM lines LATE INTO counts",
        "1:34",
        "LATE INTO needs windows: nothing here can come too late",
        "TUMBLE",
    );
    check_error(
        "SELECT line FROM lines ALLOWED LATENESS INTERVAL '1' MINUTE",
        "1:24",
        "ALLOWED LATENESS needs windows: nothing here can come too late",
        "TUMBLE",
    );
    check_error(
        &format!("SELECT window_end {windows} ALLOWED LATENESS INTERVAL ts MINUTE"),
        "1:82",
        "ALLOWED LATENESS takes a constant interval",
        "INTERVAL '1' MINUTE",
    );
    check_error(
        &format!("SELECT window_end {windows} LATE INTO cuonts"),
        "1:92",
        "unknown table 'cuonts'",
        "did you mean 'counts'?",
    );
    check_error(
        &format!(
            "CREATE TABLE l (bidder BIGINT) WITH ('connector' = 'kafka');\nSELECT window_end {windows} LATE INTO l"
        ),
        "2:92",
        "column 'bidder' of 'l' is BIGINT, but that of late rows is STRING",
        "declare it as STRING",
    );
    check_error(
        &format!(
            "CREATE TABLE l (what STRING NOT NULL) WITH ('connector' = 'kafka');\nSELECT window_end {windows} LATE INTO l"
        ),
        "2:92",
        "column 'what' of 'l' is NOT NULL, but late rows may have none",
        "watermark",
    );
    check_error(
        "SELECT window_end, bidder FROM tumble(bids, ts, INTERVAL '1' MINUTE) LATE INTO counts",
        "1:1",
        "nothing here waits for a window to close, so no row can come too late for one",
        "GROUP BY window_start",
    );
    check_error(
        "CREATE VIEW v AS SELECT line FROM lines LATE INTO counts",
        "1:51",
        "LATE INTO does not belong to CREATE VIEW",
        "INSERT",
    );
    check_error(
        "SELECT window_end FROM session(bids, ts, INTERVAL '1' MINUTE) GROUP BY window_end, bidder LATE INTO counts",
        "1:1",
        "LATE INTO has to know whose the sessions are",
        "PARTITION BY key",
    );
}

#[test]
fn an_offset_moves_windows_within_their_slide() {
    let described = |windows: &str| {
        let text = format!("{TABLES}SELECT window_end, count(*) FROM {windows} GROUP BY window_end;");
        let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap();
        let line = plan.explain_text().lines().find_map(|line| Some(line.split_once("│    in windows ")?.1.to_owned()));
        line.expect("the aggregate says its windows")
    };
    assert_eq!(described("tumble(bids, ts, INTERVAL '1' DAY, INTERVAL '30' HOURS)"), "of 1day, offset 6h by ts");
    assert_eq!(
        described("tumble(bids, ts, INTERVAL '1' DAY, offset => - INTERVAL '90' MINUTES)"),
        "of 1day, offset 22h 30m by ts"
    );
    assert_eq!(
        described("hop(bids, ts, INTERVAL '10' MINUTES, INTERVAL '1' HOUR, INTERVAL '65' MINUTES)"),
        "of 1h every 10m, offset 5m by ts"
    );
}

#[test]
fn windows_that_are_read_row_by_row_are_assigned() {
    check_plan(
        "assign",
        "INSERT INTO by_window SELECT window_end, auction, extract(minute FROM window_start)
FROM tumble(bids, ts, INTERVAL '1 minute') WHERE window_start > TIMESTAMP '2026-01-01 00:00:00';",
    );
}

#[test]
fn words_in_windows() {
    check_plan(
        "windowed_words",
        "SELECT window_start, tag, count(*) AS n
FROM (SELECT window_start, unnest(tags) AS tag FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE)))
GROUP BY window_start, tag;",
    );
}

#[test]
fn windows_of_windows() {
    check_plan(
        "windows_of_windows",
        "CREATE VIEW per_minute AS
SELECT window_start, window_end, window_time, auction, sum(price) AS total
FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time, auction;
INSERT INTO by_window SELECT window_end, auction, count(*)
FROM TABLE(TUMBLE(TABLE per_minute, DESCRIPTOR(window_time), INTERVAL '1' HOUR)) GROUP BY window_start, window_end, auction;
SELECT window_end, max(total) AS best FROM per_minute GROUP BY window_start, window_end;",
    );
}

#[test]
fn statements_share_sources_and_views() {
    check_plan(
        "shared",
        "SET 'pipeline.name' = 'shared'; SET 'tick' = '1s';
EXECUTE STATEMENT SET BEGIN
INSERT INTO by_window SELECT ts, auction, 1 FROM bids WHERE auction > 7;
INSERT INTO by_window SELECT ts, 0, price FROM bids;
INSERT INTO counts SELECT bidder, count(*) FROM bids GROUP BY bidder;
END;",
    );
}

#[test]
fn union_distinct_and_cte() {
    check_plan(
        "union",
        "WITH names AS (SELECT bidder AS name FROM bids UNION ALL SELECT line FROM lines)
SELECT DISTINCT upper(name) AS name FROM names;",
    );
}

#[test]
fn computed_columns_and_their_watermark() {
    check_plan(
        "computed",
        "CREATE TABLE clicks (ms BIGINT NOT NULL, page ROW<url STRING, tags MAP<STRING, ARRAY<INT>>>, unused STRING,
  at AS to_timestamp_millis(ms), url AS page['url'], long AS char_length(url) > 20, WATERMARK FOR at AS at - INTERVAL '1' SECOND
) WITH (connector = 'kafka', scan.watermark.idle-timeout = 'off');
SELECT at, url, long FROM clicks;",
    );
}

#[test]
fn aggregates_of_many_kinds() {
    check_plan(
        "aggregates",
        "SELECT window_start, bidder, count(DISTINCT auction) AS auctions, avg(price) FILTER (WHERE price > 1) AS average,
  first_value(auction ORDER BY ts) AS first, array_agg(auction) AS all_of_them
FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' DAY)) GROUP BY window_start, bidder;",
    );
}

#[test]
fn rows_of_the_text() {
    check_plan(
        "values",
        "INSERT INTO counts VALUES ('to', 1), ('be', 1 + 1), (NULL, 3);
CREATE VIEW visits AS SELECT * FROM (VALUES (TIMESTAMP '2026-01-01 00:00:07', 7)) AS v (at, id);
INSERT INTO by_window
SELECT window_end, max(id), count(*) FROM TUMBLE(TABLE visits, DESCRIPTOR(at), INTERVAL '5' SECOND)
GROUP BY window_start, window_end;
SELECT 'one' AS row;",
    );
    let fingerprint = |sql| sql::plan(Text { name: "p.sql", sql }, &[], &Stub).unwrap().fingerprint();
    assert_ne!(fingerprint("SELECT 1 AS a"), fingerprint("SELECT 2 AS a"));
    assert_ne!(fingerprint("VALUES (1), (2)"), fingerprint("VALUES (1), (3)"));
    assert_eq!(fingerprint("VALUES (1), (2)"), fingerprint("VALUES (1), (2)"));
}

#[test]
fn unnest_as_a_join() {
    check_plan(
        "cross_join_unnest",
        "SELECT b.bidder, u.tag FROM bids AS b CROSS JOIN UNNEST(b.tags) AS u (tag) WHERE u.tag <> 'x' AND b.price > 3;",
    );
}

#[test]
fn first_rows_of_windows() {
    check_plan(
        "top_n",
        "INSERT INTO by_window
SELECT window_end, auction, bids FROM (
  SELECT window_start, window_end, auction, count(*) AS bids,
    row_number() OVER (PARTITION BY window_start, window_end ORDER BY count(*) DESC) AS place
  FROM TABLE(HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
  GROUP BY window_start, window_end, auction)
WHERE place <= 3 AND auction > 7;",
    );
}

#[test]
fn the_first_row_of_each_key() {
    check_plan(
        "dedup",
        "SELECT window_end, bidder, auction
FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
QUALIFY row_number() OVER (PARTITION BY window_start, window_end, upper(bidder) ORDER BY ts, price NULLS FIRST) = 1;",
    );
}

#[test]
fn results_of_a_ranking_have_windows() {
    check_plan(
        "rank_of_ranks",
        "CREATE VIEW ranked AS SELECT *, row_number() OVER (PARTITION BY window_start, window_end, bidder ORDER BY price DESC) AS n
FROM TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE);
INSERT INTO by_window SELECT window_end, max(auction), count(*) FROM ranked WHERE n < 3 GROUP BY window_start, window_end;
INSERT INTO by_window SELECT window_end, auction, n FROM ranked WHERE n = 2;",
    );
}

#[test]
fn rows_are_joined_in_windows() {
    check_plan(
        "join",
        "SELECT a.window_end, a.auction, a.price, b.line
FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) AS a
LEFT JOIN (SELECT window_start, window_end, bidder AS line, max(price) AS most
  FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, bidder) AS b
ON a.window_start = b.window_start AND a.window_end = b.window_end AND upper(a.bidder) = b.line AND a.price < b.most;",
    );
}

#[test]
fn joins_without_other_keys() {
    check_plan(
        "join_by_window",
        "CREATE VIEW per_minute AS SELECT window_start, window_end, auction, count(*) AS n
FROM TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE) GROUP BY window_start, window_end, auction;
INSERT INTO by_window SELECT a.window_end, a.auction, n
FROM per_minute AS a JOIN (SELECT window_start, window_end, max(n) AS most FROM per_minute GROUP BY window_start, window_end) AS b
USING (window_start, window_end) WHERE n >= most;",
    );
}

#[test]
fn exists_and_not_exists() {
    check_plan(
        "semi_joins",
        "SELECT window_end, auction FROM TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE) AS a
WHERE bidder IN (SELECT upper(bidder) FROM TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE) AS b
    WHERE a.window_start = b.window_start AND a.window_end = b.window_end)
  AND NOT EXISTS (SELECT 1 FROM TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE) AS c
    WHERE a.window_start = c.window_start AND a.window_end = c.window_end AND c.price > a.price);",
    );
}

#[test]
fn rows_are_looked_up_in_a_table_that_ends() {
    check_plan(
        "lookup",
        "CREATE VIEW named AS SELECT b.ts, b.auction, c.n FROM bids AS b
LEFT JOIN (SELECT line, count(*) AS n FROM lines GROUP BY line) AS c ON b.bidder = c.line AND b.price > c.n;
INSERT INTO by_window SELECT window_end, auction, sum(n) FROM TUMBLE(TABLE named, DESCRIPTOR(ts), INTERVAL '1' MINUTE)
WHERE auction IN (SELECT k FROM (VALUES (1), (2)) AS v (k)) GROUP BY window_start, window_end, auction;",
    );
}

#[test]
fn json_and_mermaid() {
    let text = format!("{TABLES}INSERT INTO counts SELECT line, count(*) FROM lines GROUP BY line EMIT FINAL;");
    let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap();
    let json = plan.explain_json();
    assert_eq!(json["steps"][2]["state"], "by keys until the input ends");
    assert_eq!(json["steps"][2]["inputs"][0]["route"], "key");
    assert_eq!(json["steps"][2]["key"], serde_json::json!(["line"]));
    assert_eq!(json["steps"][2]["parallelism"], "all workers, by key");
    assert_eq!(json["steps"][3]["parallelism"], "one worker");
    let delivery = serde_json::json!({ "promise": "at least once", "why": "the connector writes rows as they come" });
    assert_eq!(json["steps"][3]["delivery"], delivery);
    let mermaid = "flowchart TD
    s0([\"<b>source lines</b><br/>append<br/>all workers, by split\"])
    s1[\"<b>count by line, partial</b><br/>append<br/>all workers\"]
    s2[\"<b>count by line</b><br/>final<br/>all workers, by key<br/>state by keys until the input ends\"]
    s3[[\"<b>sink counts</b><br/>final<br/>one worker<br/>at least once:<br/>the connector writes rows as they come\"]]
    s0 --> s1
    s1 -->|\"by key line\"| s2
    s2 -->|\"single\"| s3
";
    assert_eq!(plan.explain_mermaid(), mermaid);
}

#[test]
fn a_sink_says_what_it_promises_and_why() {
    let check = |store: &str, table: &str, options: &str, delivery: &str| {
        let text = format!(
            "SET 'checkpoint_store' = '{store}'; CREATE TABLE lines (line STRING) WITH ('connector' = 'file');
            CREATE TABLE out (line STRING) WITH ('connector' = '{table}'{options}); INSERT INTO out SELECT line FROM lines;"
        );
        let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap();
        let explained = plan.explain_text();
        let line = explained.lines().find_map(|line| Some(line.split_once("│    delivery ")?.1));
        assert_eq!(line, Some(delivery), "{explained}");
        let json = &plan.explain_json()["steps"][1]["delivery"];
        let parts = [&json["promise"], &json["why"]].map(|part| part.as_str().unwrap_or_default());
        assert_eq!(parts.join(": "), delivery);
        assert!(plan.explain_mermaid().contains(&parts.join(":<br/>")), "{}", plan.explain_mermaid());
    };
    check("", "print", "", "at least once: the connector writes rows as they come");
    check("store", "print", "", "at least once: the connector writes rows as they come");
    check("", "kafka", "", "at least once: the pipeline has no checkpoint_store");
    check("", "kafka", ", 'delivery' = 'at-least-once'", "at least once: the pipeline has no checkpoint_store");
    check("store", "kafka", ", 'delivery' = 'at-least-once'", "at least once: the table's option delivery says so");
    check("store", "kafka", "", "exactly once: transactions");
    check("store", "kafka", ", 'delivery' = 'exactly-once'", "exactly once: transactions");
}

#[test]
fn settings_come_from_set_and_from_the_command_line() {
    let text = format!(
        "SET 'tick' = '500 rows'; SET inflight_epochs = 9; SET 'idle_timeout' = 'off'; {TABLES} SELECT line FROM lines;"
    );
    let set = [("inflight_epochs".to_owned(), "3".to_owned())];
    let plan = sql::plan(Text { name: "p.sql", sql: &text }, &set, &Stub).unwrap();
    let settings = &plan.settings;
    assert_eq!((settings.tick, settings.inflight_epochs, settings.idle_timeout), (Tick::Rows(500), 3, None));
}

#[test]
fn explain_gives_plans_and_no_pipeline() {
    let text = format!(
        "{TABLES} EXPLAIN SELECT line FROM lines; EXPLAIN PLAN FOR INSERT INTO counts SELECT line, 1 FROM lines;"
    );
    let script = sql::script(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap();
    assert!(script.plan.is_none());
    assert_eq!(script.explains.len(), 2);
}

/// `sql`, after [`TABLES`] on line 1, must be refused at `place` (line:column) with `error` and advice that has `advice` in it.
#[track_caller]
fn check_error(sql: &str, place: &str, error: &str, advice: &str) {
    let text = format!("{}{sql}", TABLES.replace('\n', " "));
    // Columns count from the start of `sql` on its first line.
    let shift = TABLES.len();
    let found = match sql::script(Text { name: "p.sql", sql: &text }, &[], &Stub) {
        Ok(_) => panic!("it is accepted: {sql}"),
        Err(found) => found,
    };
    let (line, column) = place.split_once(':').expect("a line and a column");
    let column: usize = column.parse().expect("a number");
    let place = if line == "1" { format!("1:{}", column + shift) } else { place.to_owned() };
    assert_eq!(found.to_string(), format!("p.sql:{place}: {error}"), "{sql}");
    let help = found.advice().unwrap_or_default();
    assert!(help.contains(advice), "{sql}\nadvice is {help}");
    assert!(found.excerpt().is_some(), "{sql}\nno line is shown");
}

#[test]
fn unknown_names_are_refused_with_near_ones() {
    check_error("SELECT lin FROM lines", "1:8", "unknown column 'lin'", "did you mean 'line'?");
    check_error("SELECT line\nFROM liness", "2:6", "unknown table 'liness'", "did you mean 'lines'?");
    check_error("SELECT lenght(line) FROM lines", "1:8", "unknown function 'lenght'", "did you mean 'length'?");
    check_error(
        "INSERT INTO count SELECT line, 1 FROM lines",
        "1:13",
        "unknown table 'count'",
        "did you mean 'counts'?",
    );
    check_error(
        "INSERT INTO counts (wrd, n) SELECT line, 1 FROM lines",
        "1:21",
        "unknown column 'wrd'",
        "did you mean 'word'?",
    );
    check_error("SET 'tik' = '1s'", "1:5", "unknown setting 'tik'", "did you mean 'tick'?");
    check_error(
        "SELECT * FROM TABLE(TUMBEL(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
        "1:21",
        "unknown table function 'TUMBEL'",
        "did you mean tumble?",
    );
    check_error(
        "CREATE TABLE t (a INT, PRIMARY KEY (zebra)) WITH ('connector' = 'x')",
        "1:37",
        "unknown column 'zebra'",
        "the columns are a",
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let keeps = |what: &str| format!("{what} has to keep all rows of table 'bids', which does not end");
    let joins =
        |sql: &str, place: &str, what: &str| check_error(sql, place, &keeps(what), "SET 'unbounded_state' = 'true'");
    joins("SELECT 1 FROM bids JOIN latest ON bidder = word", "1:35", "a join without windows");
    joins("SELECT 1 FROM lines LEFT JOIN bids ON line = bidder", "1:39", "a left join without windows");
    joins(
        "SELECT 1 FROM tumble(bids, ts, INTERVAL '1' MINUTE) AS a
JOIN tumble(bids, ts, INTERVAL '1' MINUTE) AS b ON a.bidder = b.bidder AND a.window_end = b.window_end",
        "2:52",
        "a join without windows",
    );
    joins("SELECT line FROM lines WHERE line IN (SELECT bidder FROM bids)", "1:30", "a semi join without windows");
    joins("SELECT line FROM lines WHERE line NOT IN (SELECT bidder FROM bids)", "1:1", "IN or EXISTS with a query");
    joins("SELECT line, line IN (SELECT bidder FROM bids) FROM lines", "1:14", "IN or EXISTS with a query");
    joins("SELECT line FROM lines EXCEPT ALL SELECT bidder FROM bids", "1:1", "EXCEPT ALL");
    joins(
        "SELECT row_number() OVER (PARTITION BY bidder) FROM bids",
        "1:1",
        "a window function over rows without windows",
    );
    joins(
        "SELECT sum(price) OVER (PARTITION BY bidder) FROM bids",
        "1:1",
        "a window function over rows without windows",
    );
    joins("SELECT price FROM bids ORDER BY price OFFSET 3", "1:1", "ORDER BY … LIMIT");
    let equal = "a join needs a column of one side that equals one of the other";
    check_error("SELECT 1 FROM bids, latest", "1:1", equal, "ON a.key = b.key");
    check_error(
        "SELECT 1 FROM bids WHERE price > 1 OR EXISTS (SELECT 1 FROM latest WHERE n > price)",
        "1:1",
        equal,
        "ON a.key = b.key",
    );
    check_error(
        "SELECT 1 FROM bids JOIN UNNEST(tags) AS t (tag) ON tag = bidder",
        "1:32",
        "this form of UNNEST is not yet supported",
        "unnest(list)",
    );
    check_error(
        "SELECT line FROM lines ORDER BY line",
        "1:24",
        "ORDER BY without LIMIT is not yet supported",
        "a stream has no end",
    );
    check_error(
        "SELECT line FROM lines LIMIT 3",
        "1:24",
        "LIMIT without ORDER BY is not yet supported",
        "ORDER BY … LIMIT n",
    );
    check_error(
        "SELECT bidder, last_value(auction) FROM bids GROUP BY bidder",
        "1:27",
        "last_value is refused: its result depends on which row comes first",
        "last_value(auction ORDER BY …)",
    );
    check_error(
        "SELECT any_value(bidder) FROM bids",
        "1:18",
        "any_value is refused: its result depends on which row comes first",
        "min(bidder)",
    );
    check_error(
        "SELECT array_agg(map([bidder], tags)) FROM bids",
        "1:23",
        "array_agg of a MAP is refused: no MAP is before another",
        "map_entries",
    );
    check_error(
        "SELECT 1 FROM bids AS a FULL JOIN bids AS b USING (ts)",
        "1:35",
        "USING or NATURAL in a RIGHT or FULL JOIN is not yet supported",
        "coalesce(a.key, b.key)",
    );
    check_error("SELECT now() FROM lines", "1:8", "now() is refused: it is not a function of the rows", "replay");
    check_error("SELECT random() FROM lines", "1:8", "random() is refused: it is not a function of the rows", "replay");
    check_error(
        "SELECT 1 FROM bids WHERE price > 1 AND false",
        "1:1",
        "a query without rows: its WHERE is never true",
        "",
    );
}

#[test]
fn metadata_columns_are_what_the_connector_has() {
    let create = |column: &str| format!("CREATE TABLE t (a INT, {column}) WITH ('connector' = 'kafka')");
    let check = |column: &str, place: &str, message: &str, help: &str| {
        check_error(&create(column), place, message, help);
    };
    check(
        "k STRING METADATA FROM 'ofset'",
        "1:47",
        "connector 'kafka' has no metadata 'ofset'",
        "did you mean METADATA FROM 'offset'?",
    );
    check("zebra BIGINT METADATA", "1:37", "connector 'kafka' has no metadata 'zebra'", "it has topic, partition");
    check(
        "key STRING METADATA",
        "1:35",
        "metadata 'key' is BYTES, which a column of type STRING cannot hold",
        "declare the column BYTES",
    );
    check(
        "topic STRING METADATA PRIMARY KEY NOT ENFORCED",
        "1:24",
        "column 'topic' is metadata: it cannot be a key",
        "",
    );
    check("topic STRING METADATA GENERATED ALWAYS AS (a)", "1:37", "a computed column is not METADATA", "");
    let create = "CREATE TABLE t (a INT, at BIGINT METADATA FROM 'offset') WITH ('connector' = 'kafka');\n";
    check_error(
        &format!("{create}INSERT INTO t SELECT 1, 2"),
        "2:13",
        "column 'at' is metadata that cannot be written",
        "declare it as METADATA FROM 'offset' VIRTUAL",
    );
    let text = create.replace("'offset')", "'offset' VIRTUAL, ts TIMESTAMP_LTZ(3) NOT NULL METADATA FROM 'timestamp')");
    check_error(&format!("{text}INSERT INTO t (a, at) SELECT 1, 2"), "2:19", "unknown column 'at'", "");
    let text = format!("{text}INSERT INTO t SELECT a, ts FROM t WHERE at > 5");
    let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap();
    let written = plan.steps.last().expect("it writes").schema.clone();
    assert_eq!(written.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["a", "ts"]);
}

#[test]
fn mistakes_have_a_place_and_advice() {
    check_error("SELECT line FROM", "1:17", "expected identifier, but the statement ends here", "");
    check_error("SELEC line FROM lines", "1:1", "a statement cannot start with SELEC", "did you mean SELECT");
    check_error("SELECT 'a FROM lines", "1:8", "this text has no end", "add the '");
    check_error(
        "INSERT INTO counts SELECT line FROM lines",
        "1:1",
        "the query gives 1 column, but 2 of 'counts' are written",
        "word, n",
    );
    check_error("INSERT INTO counts VALUES ('a', 1), ('b', 'c')", "1:43", "'c' is not a value of type BIGINT", "");
    check_error(
        "INSERT INTO counts VALUES ('a', 'b')",
        "1:33",
        "column 'n' of 'counts' is BIGINT, but the query gives STRING",
        "CAST(… AS BIGINT)",
    );
    check_error(
        "INSERT INTO counts SELECT 1, line FROM lines",
        "1:30",
        "column 'n' of 'counts' is BIGINT, but the query gives STRING",
        "CAST(… AS BIGINT)",
    );
    check_error(
        "INSERT INTO counts SELECT bidder, count(*) FROM bids GROUP BY bidder EMIT FINAL",
        "1:1",
        "EMIT FINAL waits for the end of the input, but table 'bids' does not end",
        "bounded",
    );
    check_error(
        "SELECT bidder, count(*) FROM bids GROUP BY bidder EMIT ON WINDOW CLOSE",
        "1:1",
        "EMIT ON WINDOW CLOSE needs results that stand, but step \"count by bidder\" updates its results",
        "TUMBLE",
    );
    check_error(
        "SELECT bidder FROM bids EMIT ON WINDOW CLOSE",
        "1:1",
        "EMIT ON WINDOW CLOSE needs windows, and nothing here waits for one to close",
        "leave it out",
    );
    check_error(
        "SELECT window_start, count(*) FROM tumble(bids, ts, INTERVAL '1' MINUTE) GROUP BY window_start EMIT CHANGES",
        "1:1",
        "EMIT CHANGES needs results that change, but those of step \"count in windows of 1m\" leave when their window closes",
        "leave EMIT CHANGES out",
    );
    check_error(
        "CREATE TABLE t (a TIMESTAMP(9)) WITH ('connector' = 'x')",
        "1:19",
        "a precision of 9 is not supported",
        "time is kept in microseconds, so 6 is the most",
    );
    check_error(
        "CREATE TABLE t (a INT, WATERMARK FOR a AS a) WITH ('connector' = 'x')",
        "1:38",
        "column 'a' cannot be event time: it is INT",
        "TIMESTAMP",
    );
    check_error("CREATE TABLE t (a INT, A STRING) WITH ('connector' = 'x')", "1:24", "column 'a' is there twice", "");
    check_error("CREATE TABLE lines (a INT) WITH ('connector' = 'x')", "1:14", "'lines' is declared twice", "");
    check_error(
        "SELECT window_end, count(*) FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(line), INTERVAL '1' MINUTE)) GROUP BY window_end",
        "1:71",
        "a window goes by event time, but column 'line' has no watermark",
        "WATERMARK FOR line AS line - INTERVAL '5' SECOND",
    );
    check_error(
        "SELECT 1 FROM TABLE(HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '1' MINUTE))",
        "1:62",
        "HOP's slide is longer than its size, so rows between windows would vanish",
        "the slide comes first",
    );
    check_error(
        "SELECT 1 FROM TABLE(CUMULATE(TABLE bids, DESCRIPTOR(ts), INTERVAL '7' MINUTE, INTERVAL '1' HOUR))",
        "1:67",
        "CUMULATE's size is not a multiple of its step",
        "the step comes first",
    );
    check_error(
        "SELECT 1 FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '-1' HOUR, INTERVAL '-1' HOUR))",
        "1:65",
        "size is not above 0",
        "INTERVAL '1' MINUTE",
    );
    check_error(
        "SELECT window_end, auction FROM session(bids PARTITION BY auction, ts, INTERVAL '1' MINUTE) WHERE price > 5 GROUP BY window_end, auction",
        "1:1",
        "a session is made of all rows of its key, so they cannot be filtered behind SESSION",
        "filter inside",
    );
    check_error(
        "SELECT window_end, bidder FROM session(bids PARTITION BY auction, ts, INTERVAL '1' MINUTE) GROUP BY window_end, bidder",
        "1:1",
        "this GROUP BY has other keys than the PARTITION BY of its SESSION",
        "the columns of PARTITION BY",
    );
    check_error(
        "SELECT window_end, auction FROM session(bids PARTITION BY auction, ts, INTERVAL '1' MINUTE)",
        "1:1",
        "a session's bounds are known only when it has closed, so its rows cannot be read one by one",
        "GROUP BY window_start",
    );
    check_error(
        "SELECT window_end FROM tumble(bids PARTITION BY auction, ts, INTERVAL '1' MINUTE) GROUP BY window_end",
        "1:24",
        "TUMBLE: PARTITION BY belongs to SESSION: other windows are the same for all keys",
        "TUMBLE(TABLE t",
    );
    check_error(
        "SELECT 1 FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts)))",
        "1:21",
        "TUMBLE: the argument size is missing",
        "INTERVAL '1' MINUTE",
    );
    check_error(
        "CREATE VIEW v AS SELECT line FROM lines EMIT FINAL",
        "1:41",
        "EMIT does not belong to CREATE VIEW",
        "INSERT",
    );
    check_error("BEGIN STATEMENT SET; SELECT line FROM lines", "1:1", "this statement set is not closed", "END");
}

/// Texts with a word missing, doubled or in another's place are planned or refused, with a place; nothing panics.
#[test]
fn broken_texts_are_refused_and_never_panic() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let texts = [
        "INSERT INTO counts SELECT word, count(*) FROM (SELECT unnest(string_to_array(line, ' ')) AS word FROM lines) WHERE word <> '' GROUP BY word EMIT FINAL ;",
        "INSERT INTO by_window SELECT window_end , auction , count(*) FROM TABLE( TUMBLE( TABLE bids , DESCRIPTOR( ts ) , INTERVAL '10' MINUTES ) ) WHERE price > 5 GROUP BY window_start , window_end , auction ;",
        "SELECT w.window_end , max( auction ) FROM TABLE( HOP( DATA => TABLE bids , TIMECOL => DESCRIPTOR( ts ) , SLIDE => INTERVAL '1' MINUTE , SIZE => INTERVAL '5' MINUTE ) ) AS w GROUP BY window_end EMIT ON WINDOW CLOSE ;",
        "CREATE TABLE clicks ( ms BIGINT NOT NULL , page ROW< url STRING , tags MAP< STRING , ARRAY< INT >>> , at AS to_timestamp_millis( ms ) , WATERMARK FOR at AS at - INTERVAL '1' SECOND , PRIMARY KEY ( ms ) NOT ENFORCED ) WITH ( connector = 'kafka' ) ; SELECT page['url'] , at FROM clicks ;",
        "CREATE VIEW v ( a , b ) AS SELECT bidder , tag FROM bids CROSS JOIN UNNEST( tags ) AS u ( tag ) ; SELECT DISTINCT a FROM v UNION ALL SELECT upper( b ) FROM v ;",
        "SELECT window_end , count(*) FROM TABLE( CUMULATE( DATA => TABLE bids , TIMECOL => DESCRIPTOR( ts ) , STEP => INTERVAL '1' MINUTE , SIZE => INTERVAL '5' MINUTE , INTERVAL '1' HOUR ) ) GROUP BY window_end ;",
        "SELECT window_end , auction , count(*) FROM TABLE( SESSION( TABLE bids PARTITION BY auction , DESCRIPTOR( ts ) , INTERVAL '1' MINUTE ) ) GROUP BY window_start , window_end , auction ;",
        "INSERT INTO counts SELECT bidder , count(*) FROM tumble( bids , ts , INTERVAL '1' MINUTE ) GROUP BY window_end , bidder EMIT ON WINDOW CLOSE ALLOWED LATENESS INTERVAL '1' MINUTE LATE INTO counts ;",
        "SET 'tick' = '10 rows' ; EXECUTE STATEMENT SET BEGIN INSERT INTO latest SELECT line , 1 FROM lines ; END ;",
    ];
    for round in 0..400 {
        let mut words: Vec<&str> = texts[round % texts.len()].split(' ').collect();
        for _ in 0..random.random_range(1..4) {
            let (at, other) = (random.random_range(0..words.len()), random.random_range(0..words.len()));
            match random.random_range(0..4) {
                0 => drop(words.remove(at)),
                1 => words.insert(at, words[other]),
                2 => words.swap(at, other),
                _ => words.truncate(at.max(1)),
            }
            if words.is_empty() {
                words.push(";");
            }
        }
        let text = format!("{TABLES}{}", words.join(" "));
        if let Err(error) = sql::script(Text { name: "p.sql", sql: &text }, &[], &Stub) {
            assert!(error.to_string().starts_with("p.sql"), "seed {seed}: no place in {error}\n{}", words.join(" "));
            assert_ne!(error.kind(), ErrorKind::Internal, "seed {seed}: {error}\n{}", words.join(" "));
        }
    }
}

#[test]
fn an_upsert_key_must_be_the_key_of_the_results() {
    let check = |sql: &str| {
        let text = format!("{TABLES}{sql}");
        sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub)
    };
    let words = "FROM (SELECT unnest(split_words(line)) AS word FROM lines) GROUP BY word";
    check(&format!("INSERT INTO latest SELECT word, count(*) {words};")).unwrap();
    let error = check(&format!("INSERT INTO latest SELECT upper(word), count(*) {words};")).err().unwrap();
    assert_eq!(
        error.to_string(),
        "p.sql:10:1: table \"latest\" keeps the newest row of each (word), but the query's results are told apart by the columns of its GROUP BY"
    );
    let error = check(
        "CREATE TABLE odd (word STRING, n BIGINT, PRIMARY KEY (n) NOT ENFORCED) WITH ('connector' = 'kafka', 'changes' = 'upsert');
         INSERT INTO odd SELECT line, count(*) FROM lines GROUP BY line;",
    )
    .err()
    .unwrap();
    assert_eq!(error.advice(), Some("declare PRIMARY KEY (word) NOT ENFORCED"));
}
