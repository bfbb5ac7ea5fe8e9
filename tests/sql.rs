//! SQL in, plans and errors out. No pipeline runs here, so the connectors are stand-ins that know only what planning asks.

use arrow::datatypes::{Schema, SchemaRef};
use highwater::connector::{Changes, Connectors, Context, Shard, Sink, SinkInput, Source, Split, Table};
use highwater::error::Result;
use highwater::sql::{self, Text};
use std::sync::Arc;

/// Connectors that read and write nothing: `bounded`, `single` and `changes` are options.
struct Stub;

struct StubSource {
    schema: SchemaRef,
    bounded: bool,
}

struct StubSink {
    single: bool,
    changes: Changes,
}

impl Connectors for Stub {
    fn source(&self, table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
        let options = &table.options;
        options.required("connector")?;
        let bounded = options.parsed("bounded", false, "true or false")?;
        let schema: Schema = table.schema.project(columns).expect("the planner asks for columns that are there");
        Ok(Arc::new(StubSource { schema: Arc::new(schema), bounded }))
    }

    fn sink(&self, table: &Table, _input: &SinkInput) -> Result<Arc<dyn Sink>> {
        let options = &table.options;
        let connector = options.required("connector")?;
        let single = options.parsed("single", connector == "print", "true or false")?;
        let changes = match options.choice("changes", &["all", "upsert", "append"])? {
            "upsert" => Changes::Upsert,
            "append" => Changes::AppendOnly,
            _ => Changes::All,
        };
        Ok(Arc::new(StubSink { single, changes }))
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

    fn open(&self, _splits: &[String], _context: &Context) -> Result<Vec<Box<dyn Split>>> {
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
    let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Stub).unwrap_or_else(|error| panic!("{name}: {error:?}"));
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
