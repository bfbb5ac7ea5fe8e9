//! Change streams: tables whose rows are taken back, from and to files and topics, and the operators that make and settle changes.

#[allow(dead_code)]
#[path = "support/kafka.rs"]
mod kafka;
#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use highwater::batch::keys::split_by_key;
use highwater::broker::{Broker, Config};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::operator::settle::Settle;
use highwater::operator::transform::with_weight;
use highwater::operator::upsert::Upsert;
use highwater::operator::{Operator, Output};
use highwater::plan::{Says, Settling};
use highwater::sql::{self, Text};
use highwater::state::{Delta, groups_of};
use highwater::time::Watermark;
use pipeline::{SHAPES, Shape, for_seeds, run_with, texts};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Rows of `out` after all its changes; a row that is taken back before it was there fails.
fn left(sink: &MemorySink) -> Vec<String> {
    let mut all: BTreeMap<String, i64> = BTreeMap::new();
    for batch in sink.batches() {
        let columns: Vec<usize> = (0..batch.num_columns() - 1).collect();
        let weights = batch.column(columns.len()).as_primitive::<Int64Type>();
        for (text, weight) in texts(&batch.project(&columns).unwrap()).into_iter().zip(weights.values()) {
            let count = all.entry(text.clone()).or_default();
            *count += weight;
            assert!(*count >= 0, "{text} is taken back, but was not there");
        }
    }
    all.into_iter().flat_map(|(text, count)| std::iter::repeat_n(text, count as usize)).collect()
}

fn run(text: &str, shape: Shape) -> MemorySink {
    let sink = MemorySink::new();
    let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
    let (_, result) = run_with(text, &connectors, shape);
    if let Err(error) = result {
        panic!("{error:?} on {shape:?}\n{text}");
    }
    sink
}

/// The lines of the files in `folder`, sorted.
fn lines(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let mut lines: Vec<String> = files
        .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.sort_unstable();
    lines
}

const HISTORY: &str = r#"{"before":null,"after":{"id":1,"name":"a","n":10},"op":"r"}
{"schema":{},"payload":{"before":null,"after":{"id":2,"name":"b","n":20},"op":"c","source":{"table":"t"}}}
{"before":{"id":1,"name":"a","n":10},"after":{"id":1,"name":"a","n":11},"op":"u"}
{"before":{"id":2,"name":"b","n":20},"after":null,"op":"d"}
{"before":null,"after":{"id":3,"name":"c","n":5},"op":"c"}
{"before":{"id":1,"name":"a","n":11},"after":{"id":1,"name":"z","n":1},"op":"u"}
{"before":{"id":3,"name":"c","n":5},"after":{"id":3,"name":"c","n":50},"op":"u"}
"#;

fn changes_table(path: &Path) -> String {
    format!(
        "CREATE TABLE t (id BIGINT, name STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) \
         WITH ('connector' = 'file', 'path' = '{}', 'format' = 'debezium-json');",
        path.display()
    )
}

#[test]
fn changes_of_files_are_followed_and_written_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, HISTORY).unwrap();
    for (number, shape) in SHAPES.into_iter().enumerate() {
        for tick in ["1 rows", "100 rows"] {
            let select = "SELECT id, upper(name) AS name, n FROM t WHERE n >= 10";
            let out = run(
                &format!(
                    "SET 'tick' = '{tick}'; {} CREATE TABLE out (id BIGINT, name STRING, n BIGINT) WITH ('connector' = 'memory');
                     INSERT INTO out {select};",
                    changes_table(&path)
                ),
                shape,
            );
            assert_eq!(left(&out), [r#"3 "C" 50"#]);
            let written = folder.path().join(format!("out-{number}-{tick}"));
            let text = format!(
                "SET 'tick' = '{tick}'; {} CREATE TABLE kept (id BIGINT, name STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) \
                 WITH ('connector' = 'file', 'path' = '{}/', 'format' = 'debezium-json');
                 INSERT INTO kept {select};",
                changes_table(&path),
                written.display()
            );
            run(&text, shape);
            let expected: &[&str] = match tick {
                // each record is an epoch of its own
                "1 rows" => &[
                    r#"{"before":null,"after":{"id":1,"name":"A","n":10},"op":"c"}"#,
                    r#"{"before":null,"after":{"id":2,"name":"B","n":20},"op":"c"}"#,
                    r#"{"before":null,"after":{"id":3,"name":"C","n":50},"op":"c"}"#,
                    r#"{"before":{"id":1,"name":"A","n":10},"after":{"id":1,"name":"A","n":11},"op":"u"}"#,
                    r#"{"before":{"id":1,"name":"A","n":11},"after":null,"op":"d"}"#,
                    r#"{"before":{"id":2,"name":"B","n":20},"after":null,"op":"d"}"#,
                ],
                _ => &[r#"{"before":null,"after":{"id":3,"name":"C","n":50},"op":"c"}"#],
            };
            assert_eq!(lines(&written), expected, "{shape:?} {tick}");
        }
    }
}

/// Random keys and what they get: a value, or none.
fn history(rng: &mut StdRng) -> Vec<(String, Option<String>)> {
    let keys = rng.random_range(1..12);
    let value = |rng: &mut StdRng| rng.random_bool(0.7).then(|| format!("v{}", rng.random_range(0..4)));
    (0..rng.random_range(0..200)).map(|_| (format!("k{}", rng.random_range(0..keys)), value(rng))).collect()
}

#[test]
fn a_topic_of_newest_rows_is_read_and_written_with_its_deletions() {
    let broker = Broker::start(Config { listen: "127.0.0.1:0".into(), ..Config::default() }).unwrap();
    newest_rows_go_through_topics(&broker.address());
    changes_go_out_once(&broker.address());
}

#[test]
fn a_real_broker_has_the_newest_rows_and_their_deletions() {
    let Some(kafka) = kafka::Kafka::start() else { return };
    newest_rows_go_through_topics(kafka.bootstrap());
    changes_go_out_once(kafka.bootstrap());
}

fn newest_rows_go_through_topics(bootstrap: &str) {
    let folder = tempfile::tempdir().unwrap();
    for_seeds(3, |rng| {
        let topic = format!("t{}", rng.random::<u32>());
        let (given, kept) = (format!("{topic}-given"), format!("{topic}-kept"));
        kafka::create_topic_named(bootstrap, &given, 3);
        kafka::create_topic_named(bootstrap, &kept, 2);
        let table = |name: &str, topic: &str, more: &str| {
            format!(
                "CREATE TABLE {name} (k STRING, v STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = '{topic}', \
                 'properties.bootstrap.servers' = '{}', 'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY'{more});",
                bootstrap
            )
        };
        let upserts = ", 'scan.changelog' = 'upsert', 'scan.bounded.mode' = 'latest-offset'";
        let history = history(rng);
        let path = folder.path().join(format!("{topic}.csv"));
        let line = |(k, v): &(String, Option<String>)| format!("{k},{}\n", v.as_deref().unwrap_or(""));
        fs::write(&path, history.iter().map(line).collect::<String>()).unwrap();
        run(
            &format!(
                "CREATE TABLE f (k STRING, v STRING) WITH ('connector' = 'file', 'path' = '{}', 'format' = 'csv'); {}
                 INSERT INTO given SELECT * FROM f;",
                path.display(),
                table("given", &given, "")
            ),
            Shape::Threads(1),
        );
        let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in &history {
            match value {
                Some(value) => drop(newest.insert(key, value)),
                None => drop(newest.remove(key.as_str())),
            }
        }
        let rows = |keep: &dyn Fn(&str) -> bool| -> Vec<String> {
            newest.iter().filter(|(_, v)| keep(v)).map(|(k, v)| format!("{k:?} {v:?}")).collect()
        };
        let out =
            "CREATE TABLE out (k STRING, v STRING) WITH ('connector' = 'memory'); INSERT INTO out SELECT k, v FROM";
        let tick = format!("SET 'tick' = '{} rows';", rng.random_range(1..40));
        for shape in SHAPES {
            let text = format!("{tick} {} {out} given;", table("given", &given, upserts));
            assert_eq!(left(&run(&text, shape)), rows(&|_| true), "{shape:?}");
        }
        run(
            &format!(
                "{tick} {} {} INSERT INTO kept SELECT k, v FROM given WHERE v <> 'v0';",
                table("given", &given, upserts),
                table("kept", &kept, "")
            ),
            SHAPES[rng.random_range(0..3)],
        );
        let text = format!("{} {out} kept;", table("kept", &kept, upserts));
        assert_eq!(left(&run(&text, Shape::Threads(2))), rows(&|v| v != "v0"));
    });
}

/// Runs the definition `text` by the program, in `folder`.
fn run_program(text: &str, folder: &Path) {
    let file = folder.join(format!("p{:x}.sql", rand::random::<u32>()));
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_highwater")).arg("run").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// Exactly once, with checkpoints.
fn changes_go_out_once(bootstrap: &str) {
    let topic = kafka::create_topic(bootstrap, "kept", 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, HISTORY).unwrap();
    let kept = format!(
        "CREATE TABLE kept (id BIGINT, name STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = '{topic}', \
         'properties.bootstrap.servers' = '{}', 'format' = 'json', 'scan.changelog' = 'upsert', 'scan.bounded.mode' = 'latest-offset');",
        bootstrap
    );
    let written = folder.path().join("out");
    let files = format!(
        "CREATE TABLE files (id BIGINT, name STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) \
         WITH ('connector' = 'file', 'path' = '{}/', 'format' = 'debezium-json');",
        written.display()
    );
    let text = format!(
        "SET 'tick' = '1 rows'; SET 'checkpoint_interval' = '2 epochs'; SET 'checkpoint_store' = '{}'; {} {kept} {files}
         INSERT INTO kept SELECT * FROM t WHERE n >= 10;
         INSERT INTO files SELECT * FROM t WHERE n >= 10;",
        folder.path().join("store").display(),
        changes_table(&path)
    );
    // the second run finds all done
    (0..2).for_each(|_| run_program(&text, folder.path()));
    let out = "CREATE TABLE out (id BIGINT, name STRING, n BIGINT) WITH ('connector' = 'memory'); INSERT INTO out SELECT * FROM kept;";
    assert_eq!(left(&run(&format!("{kept} {out}"), Shape::Threads(2))), [r#"3 "c" 50"#]);
    // each change is there once, in files that appeared whole: an insertion, a replacement and a deletion of 1, and so on
    let ops: Vec<String> =
        lines(&written).iter().map(|line| line.rsplit("\"op\":").next().unwrap().to_owned()).collect();
    let count = |op: &str| ops.iter().filter(|found| found.contains(op)).count();
    assert_eq!((count("\"c\""), count("\"u\""), count("\"d\"")), (3, 1, 2), "{ops:?}");
}

#[test]
fn change_streams_are_joined_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (path, names) = (folder.path().join("in.jsonl"), folder.path().join("names.jsonl"));
    fs::write(&path, HISTORY).unwrap();
    fs::write(&names, "{\"id\":1,\"says\":\"one\"}\n{\"id\":3,\"says\":\"three\"}\n").unwrap();
    let text = format!(
        "{} CREATE TABLE u (id BIGINT, says STRING) WITH ('connector' = 'file', 'path' = '{}', 'format' = 'json');
         CREATE TABLE out (says STRING, c BIGINT, n BIGINT) WITH ('connector' = 'memory');
         INSERT INTO out SELECT says, count(*), max(n) FROM t JOIN u ON t.id = u.id GROUP BY says;",
        changes_table(&path),
        names.display()
    );
    // what stands of the history at its end is what the table itself is left with
    let table = format!(
        "{} CREATE TABLE out (id BIGINT, n BIGINT) WITH ('connector' = 'memory'); INSERT INTO out SELECT id, n FROM t;",
        changes_table(&path)
    );
    for shape in [Shape::Threads(1), Shape::Threads(3)] {
        let rows = left(&run(&table, shape));
        let named = |id: &str, says: &str| {
            let row = rows.iter().find(|row| row.starts_with(&format!("{id} ")))?;
            Some(format!("{says:?} 1 {}", row.split(' ').nth(1)?))
        };
        let expected: Vec<String> = [named("1", "one"), named("3", "three")].into_iter().flatten().collect();
        assert!(!expected.is_empty(), "{rows:?}");
        assert_eq!(left(&run(&text, shape)), expected);
    }
}

/// The error of `text`, and its advice.
fn refused(text: &str) -> String {
    let connectors = Builtin::default().with_sink("out", Arc::new(MemorySink::new()));
    let error = sql::plan(Text { name: "test.sql", sql: text }, &[], &connectors).err().expect("it is refused");
    format!("{error} / {}", error.advice().unwrap_or_default())
}

#[test]
fn what_cannot_take_or_carry_changes_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, HISTORY).unwrap();
    let source = changes_table(&path);
    let file = |columns: &str, format: &str| {
        format!("CREATE TABLE w ({columns}) WITH ('connector' = 'file', 'path' = '/nowhere/', 'format' = '{format}');")
    };
    let check = |text: &str, expected: &[&str]| {
        let error = refused(text);
        for part in expected {
            assert!(error.contains(part), "{text}\n{error}\nlacks: {part}");
        }
    };
    let id = "id BIGINT, name STRING";
    check(
        &format!("{source} {} INSERT INTO w SELECT id, name FROM t WHERE n > 1;", file(id, "json")),
        &["table \"w\" takes rows that stand, but step \"source t\" updates its results", "'format' = 'debezium-json'"],
    );
    // a key that nothing proves has to be asked for, one that is wrong is refused
    let unkeyed = source.replace(", PRIMARY KEY (id) NOT ENFORCED", "");
    check(
        &format!(
            "{unkeyed} {} INSERT INTO w SELECT id, name FROM t;",
            file("id BIGINT, name STRING, PRIMARY KEY (id)", "debezium-json")
        ),
        &[
            "keeps one row of each (id), but step \"source t\" may give several",
            "declare PRIMARY KEY (id) NOT ENFORCED",
        ],
    );
    check(
        &format!(
            "{source} {} INSERT INTO w SELECT id, name FROM t;",
            file("id BIGINT, name STRING, PRIMARY KEY (name)", "debezium-json")
        ),
        &["told apart by the PRIMARY KEY of its source", "declare PRIMARY KEY (id) NOT ENFORCED"],
    );
    let trusted = format!(
        "{unkeyed} {} INSERT INTO w SELECT id, name FROM t;",
        file("id BIGINT, name STRING, PRIMARY KEY (id) NOT ENFORCED", "debezium-json")
    );
    let proven = format!(
        "{source} {} INSERT INTO w SELECT id, name FROM t WHERE n > 3;",
        file("id BIGINT, name STRING, PRIMARY KEY (id)", "debezium-json")
    );
    for text in [trusted, proven] {
        sql::plan(Text { name: "test.sql", sql: &text }, &[], &Builtin::default()).unwrap();
    }
    // what wants rows that stand
    let timed = source.replace("n BIGINT", "n BIGINT, ts TIMESTAMP(6), WATERMARK FOR ts AS ts");
    let out = "CREATE TABLE out (a BIGINT) WITH ('connector' = 'memory'); INSERT INTO out";
    check(
        &format!(
            "{timed} {out} SELECT count(*) FROM SESSION(t, ts, INTERVAL '1' SECOND) GROUP BY window_start, window_end;"
        ),
        &["sessions of table 't', which is a stream of changes, are not supported"],
    );
    // columns that are not of the row
    check(
        &format!(
            "CREATE TABLE k (id BIGINT, o BIGINT METADATA FROM 'offset' VIRTUAL) WITH ('connector' = 'kafka', 'topic' = 'k', \
             'properties.bootstrap.servers' = 'localhost:1', 'format' = 'debezium-json'); {out} SELECT id FROM k;"
        ),
        &["column \"o\" is metadata"],
    );
    check(
        &format!(
            "CREATE TABLE k (id BIGINT) WITH ('connector' = 'kafka', 'topic' = 'k', 'properties.bootstrap.servers' = 'localhost:1', \
             'format' = 'json', 'scan.changelog' = 'upsert'); {out} SELECT id FROM k;"
        ),
        &["the table has no PRIMARY KEY", "NOT ENFORCED"],
    );
    check(
        &format!("CREATE TABLE k (id BIGINT) WITH ('connector' = 'upsert-kafka'); {out} SELECT id FROM k;"),
        &["'upsert-kafka'", "'scan.changelog' = 'upsert'"],
    );
}

#[test]
fn an_explanation_says_what_is_done_with_changes() {
    let text = "
        CREATE TABLE t (id BIGINT, name STRING, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = 't',
          'properties.bootstrap.servers' = 'localhost:1', 'format' = 'json', 'scan.changelog' = 'upsert');
        CREATE TABLE w (id BIGINT, PRIMARY KEY (id)) WITH ('connector' = 'kafka', 'topic' = 'w',
          'properties.bootstrap.servers' = 'localhost:1', 'format' = 'json');
        INSERT INTO w SELECT id FROM t WHERE name <> 'x';";
    let plan = sql::plan(Text { name: "test.sql", sql: text }, &[], &Builtin::default()).unwrap();
    let explained = plan.explain_text();
    let said: Vec<&str> = explained.lines().map(str::trim).collect();
    for line in [
        "connector kafka, newest rows",
        "newest row of each id",
        "what an epoch leaves of each id: its row, or that it has none",
    ] {
        assert!(said.iter().any(|said| said.ends_with(line)), "{line}\n{explained}");
    }
    assert!(explained.contains("emits updating, state by keys"), "{explained}");
}

#[test]
fn a_bad_change_is_named_or_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(
        &path,
        HISTORY.replace(r#"{"before":null,"after":{"id":3"#, "{\"op\":\"t\"}\n{\"before\":null,\"after\":{\"id\":3"),
    )
    .unwrap();
    let out = "CREATE TABLE out (id BIGINT) WITH ('connector' = 'memory'); INSERT INTO out SELECT id FROM t;";
    let connectors = Builtin::default().with_sink("out", Arc::new(MemorySink::new()));
    let text = format!("{} {out}", changes_table(&path));
    let error = run_with(&text, &connectors, Shape::Threads(1)).1.unwrap_err().to_string();
    assert!(error.contains("line 5: the table was truncated (op \"t\")"), "{error}");
    let text = text.replace("'debezium-json'", "'debezium-json', 'on_error' = 'skip'");
    assert_eq!(left(&run(&text, Shape::Threads(1))), ["1", "3"]);
}

// The operators.

fn schema() -> SchemaRef {
    let field = |name, kind, nullable| Field::new(name, kind, nullable);
    Arc::new(Schema::new(vec![
        field("a", DataType::Int64, false),
        field("s", DataType::Utf8, true),
        field("b", DataType::Utf8, false),
    ]))
}

/// A key, and a value with its weight.
type Given = ((i64, String), Option<String>, i64);

fn batch(rows: &[Given]) -> RecordBatch {
    let loose = schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0.0)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| Some(row.0.1.clone())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(with_weight(&Schema::new(loose)), columns).unwrap()
}

fn given(rng: &mut StdRng, weights: &[i64]) -> Vec<Given> {
    let row = |rng: &mut StdRng| {
        let weight = weights[rng.random_range(0..weights.len())];
        let value =
            (rng.random_bool(0.8) && (weight > 0 || weights.len() > 2)).then(|| format!("v{}", rng.random_range(0..3)));
        ((rng.random_range(0..4), format!("b{}", rng.random_range(0..3))), value, weight)
    };
    (0..rng.random_range(0..30)).map(|_| row(rng)).collect()
}

/// What is said, as rows with their weights added up, sorted.
fn said(out: &mut Output) -> Vec<(String, i64)> {
    let mut all: BTreeMap<String, i64> = BTreeMap::new();
    for batch in out.drain() {
        assert_eq!(batch.schema(), with_weight(&schema()));
        let weights = batch.column(3).as_primitive::<Int64Type>().clone();
        for (text, weight) in texts(&batch.project(&[0, 1, 2]).unwrap()).into_iter().zip(weights.values()) {
            *all.entry(text).or_default() += weight;
        }
    }
    all.into_iter().filter(|(_, weight)| *weight != 0).collect()
}

fn text(key: &(i64, String), value: &Option<String>) -> String {
    let value = value.as_ref().map_or("NULL".to_owned(), |value| format!("{value:?}"));
    format!("{} {value} {:?}", key.0, key.1)
}

const KEY: [usize; 2] = [2, 0];

fn upsert() -> Upsert {
    let mut operator = Upsert::new(&KEY, false, batch(&[]).schema(), &schema()).unwrap();
    operator.track();
    operator
}

#[test]
fn newest_rows_become_the_changes_of_a_map_whatever_is_restored_in_between() {
    for_seeds(20, |rng| {
        let mut map: BTreeMap<(i64, String), Option<String>> = BTreeMap::new();
        let mut workers: Vec<Upsert> = (0..rng.random_range(1..4)).map(|_| upsert()).collect();
        let mut deltas: Vec<Delta> = Vec::new();
        for epoch in 0..30 {
            let rows = given(rng, &[1, -1]);
            let before = map.clone();
            for (key, value, weight) in &rows {
                match weight {
                    1 => drop(map.insert(key.clone(), value.clone())),
                    _ => drop(map.remove(key)),
                }
            }
            let mut expected: BTreeMap<String, i64> = BTreeMap::new();
            before.iter().for_each(|(key, value)| *expected.entry(text(key, value)).or_default() -= 1);
            map.iter().for_each(|(key, value)| *expected.entry(text(key, value)).or_default() += 1);
            let expected: Vec<(String, i64)> = expected.into_iter().filter(|(_, weight)| *weight != 0).collect();
            let (mut out, count) = (Output::default(), workers.len());
            let mut rest = rows.as_slice();
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(rng.random_range(1..=rest.len()));
                for (worker, rows) in split_by_key(&batch(piece), &KEY, count).unwrap() {
                    workers[worker].on_batch(rows, &mut out).unwrap();
                }
                rest = others;
            }
            workers.iter_mut().for_each(|worker| worker.on_epoch(epoch, Watermark::NONE, &mut out).unwrap());
            assert_eq!(said(&mut out), expected, "epoch {epoch}");
            if rng.random_bool(0.5) {
                deltas.extend(workers.iter_mut().map(|worker| worker.delta().unwrap()));
                assert!(workers.iter_mut().all(|worker| worker.delta().unwrap().is_empty()), "it is given twice");
                let restored = |workers: usize| -> Vec<Upsert> {
                    let made = |worker: usize| {
                        let mut operator = upsert();
                        for delta in &deltas {
                            let groups = groups_of(worker, workers);
                            operator
                                .restore(delta.iter().map(|table| table.share(&groups).unwrap()).collect())
                                .unwrap();
                        }
                        operator
                    };
                    (0..workers).map(made).collect()
                };
                let mut again = restored(rng.random_range(1..5));
                if rng.random_bool(0.3) {
                    deltas = again.iter_mut().map(|worker| worker.whole().unwrap()).collect();
                    let rows: usize = deltas.iter().flatten().map(|table| table.rows.num_rows()).sum();
                    assert_eq!(rows, map.len(), "what is kept");
                } else {
                    workers = again;
                }
            }
        }
    });
}

#[test]
fn what_an_epoch_leaves_does_not_depend_on_the_order_of_its_changes() {
    for_seeds(20, |rng| {
        for says in [Says::Changes, Says::Newest] {
            let spec = Settling { key: KEY.to_vec(), says };
            let mut operator = Settle::new(&spec, &schema()).unwrap();
            for epoch in 0..10 {
                let mut rows = given(rng, &[1, -1, 2, -2]);
                let mut sums: BTreeMap<((i64, String), Option<String>), i64> = BTreeMap::new();
                rows.iter().for_each(|row| *sums.entry((row.0.clone(), row.1.clone())).or_default() += row.2);
                sums.retain(|_, weight| *weight != 0);
                let mut told = Vec::new();
                for _ in 0..2 {
                    rows.shuffle(rng);
                    let mut out = Output::default();
                    let tight = batch(&rows);
                    let tight = RecordBatch::try_new(with_weight(&schema()), tight.columns().to_vec()).unwrap();
                    operator.on_batch(tight.slice(0, rows.len() / 2), &mut out).unwrap();
                    operator.on_batch(tight.slice(rows.len() / 2, rows.len() - rows.len() / 2), &mut out).unwrap();
                    operator.on_epoch(epoch, Watermark::NONE, &mut out).unwrap();
                    told.push(out.drain().flat_map(|batch| texts(&batch)).collect::<Vec<_>>());
                }
                assert_eq!(told[0], told[1], "the order of rows shows");
                let mut expected: Vec<String> = match says {
                    Says::Changes => {
                        sums.iter().map(|((key, value), weight)| format!("{} {weight}", text(key, value))).collect()
                    }
                    Says::Newest => {
                        // NULL is the least value; what is added counts before what is taken back
                        let mut newest: BTreeMap<(i64, String), (bool, Option<String>)> = BTreeMap::new();
                        for ((key, value), weight) in &sums {
                            let candidate = (*weight > 0, value.clone());
                            let best = newest.entry(key.clone()).or_insert_with(|| candidate.clone());
                            *best = best.clone().max(candidate);
                        }
                        let weight = |added: bool| if added { 1 } else { -1 };
                        newest
                            .iter()
                            .map(|(key, (added, value))| format!("{} {}", text(key, value), weight(*added)))
                            .collect()
                    }
                };
                expected.sort_unstable();
                let mut found = told.swap_remove(0);
                // those of a key follow each other, what is taken back first
                let signs: Vec<bool> = found.iter().map(|row| !row.contains(" -")).collect();
                let keys: Vec<String> = found
                    .iter()
                    .map(|row| {
                        row.split(' ').enumerate().filter(|(n, _)| [0, 2].contains(n)).map(|(_, part)| part).collect()
                    })
                    .collect();
                for row in 1..found.len() {
                    assert!(keys[row] != keys[row - 1] || signs[row - 1] <= signs[row], "{found:?}");
                    assert!(keys[row] == keys[row - 1] || !keys[..row - 1].contains(&keys[row]), "{found:?}");
                }
                found.sort_unstable();
                assert_eq!(found, expected);
            }
        }
    });
}
