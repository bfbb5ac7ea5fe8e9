//! Messages of Avro and Protocol Buffers in topics: bare, and with a schema registry that is a stub here and a real one where there is Java.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use highwater::broker::{Broker, Config};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::error::Error;
use highwater::format::schemas::{Naming, Registered, Registry, Schemas};
use highwater::format::sift::{Decoding, OnBad, sift};
use highwater::format::{Format, avro_messages, protobuf};
use pipeline::{Shape, for_seeds, run_with, sorted, texts};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

// Formats, without topics.

/// A registry in memory.
#[derive(Default)]
struct Shelf(Mutex<Vec<(String, Registered)>>);

impl Schemas for Shelf {
    fn schema(&self, id: u32) -> highwater::error::Result<Option<Arc<Registered>>> {
        match id {
            1000.. => Err(Error::unavailable("gone for lunch")),
            _ => Ok(self.0.lock().unwrap().get(id as usize).map(|(_, schema)| Arc::new(schema.clone()))),
        }
    }

    fn id_of(&self, subject: &str, schema: &Registered) -> highwater::error::Result<u32> {
        let mut all = self.0.lock().unwrap();
        let own = (subject.to_owned(), schema.clone());
        let id = all.iter().position(|known| *known == own).unwrap_or_else(|| {
            all.push(own);
            all.len() - 1
        });
        Ok(id as u32)
    }
}

fn registry(shelf: &Arc<Shelf>) -> Option<Registry> {
    let schemas: Arc<dyn Schemas> = Arc::clone(shelf) as _;
    Some(Registry { schemas, naming: Naming::TopicName, subject: None, topic: ("t".into(), "value") })
}

/// Both formats, bare and framed.
fn formats(shelf: &Arc<Shelf>) -> Vec<Format> {
    let mut all = Vec::new();
    for registry in [None, registry(shelf)] {
        all.push(Format::Avro(avro_messages::Settings { registry: registry.clone(), ..Default::default() }));
        all.push(Format::Protobuf(protobuf::Settings { registry, ..Default::default() }));
    }
    all
}

/// Columns of types that both have, by what a message of Protocol Buffers can tell apart.
fn schema() -> SchemaRef {
    let text = Field::new_list_field(DataType::Utf8, true);
    let row =
        DataType::Struct(vec![Field::new("x", DataType::Float64, true), Field::new("y", DataType::Utf8, true)].into());
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("flag", DataType::Boolean, true),
        Field::new("small", DataType::Int32, true),
        Field::new("ratio", DataType::Float32, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None), true),
        Field::new("tags", DataType::List(Arc::new(text)), false),
        Field::new("place", row, true),
    ]))
}

/// JSON is what rows are made of here.
fn rows(rng: &mut StdRng, count: usize) -> RecordBatch {
    let record = |rng: &mut StdRng| {
        let mut row = json!({ "id": rng.random_range(-5..5_i64), "tags": [] });
        let mut may = |name: &str, value: Value| {
            if rng.random_bool(0.7) {
                row[name] = value;
            }
        };
        may("name", json!("ä b"));
        may("flag", json!(true));
        may("small", json!(-7));
        may("ratio", json!(0.5));
        may("raw", json!("00ff"));
        may("at", json!("2026-01-02 03:04:05.678901"));
        may("tags", json!(["a", ""]));
        may("place", json!({ "x": 1.5, "y": null }));
        row.to_string()
    };
    let records: Vec<String> = (0..count).map(|_| record(rng)).collect();
    let mut decoder = Format::named("json").unwrap().decoder(&schema(), &(0..9).collect::<Vec<_>>()).unwrap();
    decoder.decode(&BinaryArray::from_iter_values(records.iter().map(String::as_bytes))).unwrap()
}

#[test]
fn what_is_written_is_read_again() {
    for_seeds(5, |rng| {
        let shelf = Arc::new(Shelf::default());
        for format in formats(&shelf) {
            let count = rng.random_range(0..40);
            let given = rows(rng, count);
            let records = format.encoder(&schema()).unwrap().encode(&given).unwrap();
            assert_eq!(records.len(), count);
            for columns in [vec![0, 1, 2, 3, 4, 5, 6, 7, 8], vec![8, 1], vec![6], vec![]] {
                let mut decoder = format.decoder(&schema(), &columns).unwrap();
                decoder.prepare(&records).unwrap();
                let read = decoder.decode(&records).unwrap();
                assert_eq!(texts(&read), texts(&given.project(&columns).unwrap()), "{format:?} {columns:?}");
                assert_eq!(read.num_rows(), count);
            }
        }
    });
}

#[test]
fn records_that_are_cut_or_changed_are_bad_and_no_others() {
    for_seeds(5, |rng| {
        let shelf = Arc::new(Shelf::default());
        for format in formats(&shelf) {
            let given = rows(rng, 60);
            let records = format.encoder(&schema()).unwrap().encode(&given).unwrap();
            let framed = records.value(0)[0] == 0
                && !shelf.0.lock().unwrap().is_empty()
                && format!("{format:?}").contains("Registry");
            // in a bare message of Protocol Buffers most cuts cannot be told from a shorter message
            let proto = matches!(format, Format::Protobuf(_));
            let mut bad = Vec::new();
            let mut all: Vec<Option<Vec<u8>>> = Vec::new();
            for (index, record) in records.iter().flatten().enumerate() {
                let mut record = record.to_vec();
                match rng.random_range(0..6) {
                    0 if !proto => record.truncate(rng.random_range(0..record.len())),
                    1 if !proto => record.push(0),
                    2 if framed => record[0] = 7,
                    3 if framed => record[4] = 99,
                    4 if proto => record.extend([0x0a, 0xff]),
                    _ => {
                        all.push(Some(record));
                        continue;
                    }
                }
                bad.push(index);
                all.push(Some(record));
            }
            let damaged: BinaryArray = all.into_iter().collect();
            let mut decoder = format.decoder(&schema(), &[0, 1, 7]).unwrap();
            decoder.prepare(&damaged).unwrap();
            let sifted = sift(Decoding { decoder: decoder.as_mut(), records: &damaged }, OnBad::LeaveOut).unwrap();
            let found: Vec<usize> = sifted.bad.iter().map(|bad| bad.index).collect();
            assert_eq!(found, bad, "{format:?} {:?}", sifted.bad.first());
            let kept: Vec<u32> = (0..60).filter(|index| !bad.contains(&(*index as usize))).collect();
            let kept = arrow::compute::take_record_batch(
                &given.project(&[0, 1, 7]).unwrap(),
                &arrow::array::UInt32Array::from(kept),
            )
            .unwrap();
            assert_eq!(texts(&sifted.rows), texts(&kept));
        }
    });
}

#[test]
fn a_tombstone_is_a_row_of_null_and_an_unknown_schema_is_bad_but_nobody_who_answers_is_not() {
    let shelf = Arc::new(Shelf::default());
    let table = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true)]));
    for format in formats(&shelf) {
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let records =
            format.encoder(&table).unwrap().encode(&RecordBatch::try_from_iter([("name", names)]).unwrap()).unwrap();
        let records = BinaryArray::from_iter([Some(records.value(0)), None, Some(records.value(1))]);
        let mut decoder = format.decoder(&table, &[0]).unwrap();
        decoder.prepare(&records).unwrap();
        assert_eq!(texts(&decoder.decode(&records).unwrap()), ["\"a\"", "NULL", "\"b\""]);
        if format!("{format:?}").contains("Some(Registry") {
            let unknown = BinaryArray::from_iter_values([[0, 0, 0, 0, 77, 0]]);
            decoder.prepare(&unknown).unwrap();
            assert!(decoder.decode(&unknown).unwrap_err().reason.contains("no schema 77"));
            let away = BinaryArray::from_iter_values([[0, 0, 0, 255, 77, 0]]);
            let error = decoder.prepare(&away).unwrap_err();
            assert_eq!(error.kind(), highwater::error::ErrorKind::Unavailable);
        }
    }
}

#[test]
fn messages_of_older_and_newer_schemas_become_rows_of_the_table() {
    let shelf = Arc::new(Shelf::default());
    let field = |name, kind| Field::new(name, kind, true);
    let old = Arc::new(Schema::new(vec![field("id", DataType::Int32), field("gone", DataType::Utf8)]));
    let new = Arc::new(Schema::new(vec![field("more", DataType::Utf8), field("id", DataType::Int64)]));
    for format in formats(&shelf).split_off(2) {
        let texts_of = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let ids: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1]));
        let first =
            RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("gone", texts_of("x"), true)]).unwrap();
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1_i64 << 40]));
        let second =
            RecordBatch::try_from_iter_with_nullable([("more", texts_of("y"), true), ("id", ids, true)]).unwrap();
        let first = format.encoder(&old).unwrap().encode(&first).unwrap();
        let second = format.encoder(&new).unwrap().encode(&second).unwrap();
        assert_ne!(first.value(0)[..5], second.value(0)[..5], "each has a number of its own");
        let mixed = BinaryArray::from_iter_values([first.value(0), second.value(0), first.value(0)]);
        let mut decoder = format.decoder(&new, &[1, 0]).unwrap();
        decoder.prepare(&mixed).unwrap();
        let read = decoder.decode(&mixed).unwrap();
        assert_eq!(texts(&read), ["1 NULL", "1099511627776 \"y\"", "1 NULL"]);
    }
}

#[test]
fn a_message_is_found_in_what_declares_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kinds.proto"), "syntax = \"proto3\"; enum Kind { NONE = 0; CAT = 1; }").unwrap();
    let path = folder.path().join("animals.proto");
    fs::write(
        &path,
        r#"syntax = "proto3"; package zoo; import "kinds.proto"; import "google/protobuf/wrappers.proto";
           message Animal { string name = 1; Kind kind = 3; google.protobuf.Int64Value age = 4; map<string, int32> meals = 5;
             message Cage { int32 number = 1; } repeated Cage cages = 6; }
           message Other { Other other = 1; }"#,
    )
    .unwrap();
    let declared = |name: &str| protobuf::Declared::read(&path, Some(name));
    assert!(
        protobuf::Declared::read(&path, None)
            .unwrap_err()
            .advice()
            .unwrap()
            .contains("zoo.Animal, zoo.Animal.Cage, zoo.Other")
    );
    assert_eq!(declared("zoo.Anmal").unwrap_err().advice(), Some("did you mean 'zoo.Animal'?"));
    let format =
        Format::Protobuf(protobuf::Settings { message: Some(declared("zoo.Animal").unwrap()), registry: None });
    let item = DataType::Struct(vec![Field::new("number", DataType::Int64, true)].into());
    let entry = DataType::Struct(
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)].into(),
    );
    let table: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("kind", DataType::Utf8, true),
        Field::new("age", DataType::Int64, true),
        Field::new("meals", DataType::Map(Arc::new(Field::new("entries", entry, false)), false), true),
        Field::new("cages", DataType::List(Arc::new(Field::new_list_field(item, true))), true),
    ]));
    let text = r#"{"name":"Tom","kind":"CAT","age":9,"meals":{"fish":2},"cages":[{"number":1},{"number":2}]}"#;
    let all: Vec<usize> = (0..5).collect();
    let given = BinaryArray::from_iter_values([text.as_bytes(), b"{}"]);
    let rows = Format::named("json").unwrap().decoder(&table, &all).unwrap().decode(&given).unwrap();
    let records = format.encoder(&table).unwrap().encode(&rows).unwrap();
    let mut decoder = format.decoder(&table, &all).unwrap();
    let read = decoder.decode(&records).unwrap();
    let mut encoder = Format::named("json").unwrap().encoder(&table).unwrap();
    let written = encoder.encode(&read).unwrap();
    assert_eq!(str::from_utf8(written.value(0)).unwrap(), text);
    assert_eq!(
        str::from_utf8(written.value(1)).unwrap(),
        r#"{"name":"","kind":"NONE","age":null,"meals":{},"cages":[]}"#
    );
    let other = Format::Protobuf(protobuf::Settings { message: Some(declared("zoo.Other").unwrap()), registry: None });
    let error = other.encoder(&table).err().unwrap();
    assert!(error.to_string().contains("message \"zoo.Other\" has no field \"name\""), "{error}");
}

// Topics, with a registry over HTTP.

/// Four endpoints of a registry, on loopback.
struct Stub {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    fn start() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            let mut schemas: Vec<(String, Value)> = Vec::new();
            for stream in listener.incoming() {
                Stub::answer(stream.unwrap(), &mut schemas, &noted);
            }
        });
        Stub { url, asked }
    }

    fn answer(stream: TcpStream, schemas: &mut Vec<(String, Value)>, asked: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream);
        let (mut head, mut length, mut known) = (String::new(), 0, false);
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                // user:pass
                "authorization" => known = value == "Basic dXNlcjpwYXNz",
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let words: Vec<&str> = head.split(' ').collect();
        let path: Vec<&str> = words[1].strip_prefix("/api/").unwrap_or("").split('/').collect();
        asked.lock().unwrap().push(format!("{} {}", words[0], path.join("/")));
        let of = |subject: &str, schemas: &[(String, Value)]| {
            schemas.iter().position(|(own, schema)| own == subject && schema["schema"] == body["schema"])
        };
        let (status, answer) = match (words[0], path.as_slice()) {
            _ if !known => (401, json!({ "error_code": 401, "message": "who?" })),
            ("GET", ["schemas", "ids", id]) => match schemas.get(id.parse::<usize>().unwrap()) {
                Some((_, schema)) => (200, schema.clone()),
                None => (404, json!({ "error_code": 40403, "message": "no schema" })),
            },
            ("GET", ["subjects"]) => (200, schemas.iter().map(|(subject, _)| subject.as_str()).collect()),
            ("POST", ["subjects", subject]) => match of(subject, schemas) {
                Some(id) => (200, json!({ "id": id })),
                None => (404, json!({ "error_code": 40401, "message": "no subject" })),
            },
            ("POST", ["subjects", subject, "versions"]) => {
                let id = of(subject, schemas).unwrap_or_else(|| {
                    schemas.push(((*subject).to_owned(), body.clone()));
                    schemas.len() - 1
                });
                (200, json!({ "id": id }))
            }
            _ => (405, json!({ "error_code": 405, "message": "what?" })),
        };
        let answer = answer.to_string();
        let mut stream = reader.into_inner();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
        stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
    }
}

/// Topics on a broker with a registry beside it.
struct Place {
    bootstrap: String,
    url: String,
    folder: tempfile::TempDir,
    login: &'static str,
}

impl Place {
    fn table(&self, name: &str, columns: &str, topic: &str, format: &str, more: &str) -> String {
        format!(
            "CREATE TABLE {name} ({columns}) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{}', \
             'format' = '{format}', 'schema.registry.url' = '{}'{}{more});",
            self.bootstrap, self.url, self.login
        )
    }

    /// Writes lines of CSV with these columns into the topic.
    fn write(&self, columns: &str, lines: &str, topic: &str, format: &str, more: &str) -> highwater::error::Result<()> {
        let path = self.folder.path().join(unique("in"));
        fs::write(&path, lines).unwrap();
        let text = format!(
            "CREATE TABLE f ({columns}) WITH ('connector' = 'file', 'path' = '{}', 'format' = 'csv'); {}
             INSERT INTO w SELECT * FROM f;",
            path.display(),
            self.table("w", columns, topic, format, more)
        );
        run_with(&text, &Builtin::default(), Shape::Threads(1)).1
    }

    /// The rows of the topic, or what is wrong.
    fn read(&self, columns: &str, topic: &str, format: &str, more: &str) -> highwater::error::Result<Vec<String>> {
        let sink = MemorySink::new();
        let connectors = Builtin::default().with_sink("out", Arc::new(sink.clone()));
        let more = format!(", 'scan.bounded.mode' = 'latest-offset'{more}");
        let text = format!(
            "{} CREATE TABLE out ({columns}) WITH ('connector' = 'memory'); INSERT INTO out SELECT * FROM r;",
            self.table("r", columns, topic, format, &more)
        );
        run_with(&text, &connectors, Shape::Threads(2)).1.map(|()| sorted(&sink))
    }

    /// What any registry must do with us.
    fn suite(&self, create: impl Fn(&str)) {
        for format in ["avro", "protobuf"] {
            let topic = unique(format);
            create(&topic);
            // a schema that is not there is not added unasked
            let error = self.write("id BIGINT, name STRING", "1,a\n", &topic, format, "").unwrap_err();
            assert!(error.to_string().contains(&format!("subject \"{topic}-value\"")), "{error}");
            let register = ", 'schema.registry.auto-register' = 'true'";
            self.write("id BIGINT, name STRING", "1,a\n2,\n", &topic, format, register).unwrap();
            self.write("id BIGINT, name STRING", "3,c\n", &topic, format, "").unwrap();
            // a later schema beside the first one
            self.write("id BIGINT, name STRING, n INT", "4,d,5\n", &topic, format, register).unwrap();
            let rows = self.read("n BIGINT, id BIGINT, name STRING", &topic, format, "").unwrap();
            assert_eq!(rows, ["5 4 \"d\"", "NULL 1 \"a\"", "NULL 2 NULL", "NULL 3 \"c\""]);
        }
    }
}

fn empty() -> Place {
    Place { bootstrap: String::new(), url: String::new(), folder: tempfile::tempdir().unwrap(), login: "" }
}

#[test]
fn topics_have_their_schemas_in_a_registry() {
    let broker = Broker::start(Config { listen: "127.0.0.1:0".into(), ..Config::default() }).unwrap();
    let stub = Stub::start();
    let login = ", 'schema.registry.username' = 'user', 'schema.registry.password' = 'pass'";
    let place =
        Place { bootstrap: broker.address(), url: stub.url.clone(), folder: tempfile::tempdir().unwrap(), login };
    place.suite(|topic| broker.create_topic(topic, 2).unwrap());

    // each schema is asked for once by each table's reader, whatever the number of records
    let topic = "once";
    broker.create_topic(topic, 1).unwrap();
    let lines: String = (0..5000).map(|n| format!("{n}\n")).collect();
    place.write("id BIGINT", &lines, topic, "avro", ", 'schema.registry.auto-register' = 'true', 'schema.registry.name-strategy' = 'TopicRecordName', 'avro.record-name' = 'a.b.C'").unwrap();
    stub.asked.lock().unwrap().clear();
    assert_eq!(place.read("id BIGINT", topic, "avro", "").unwrap().len(), 5000);
    let asked = std::mem::take(&mut *stub.asked.lock().unwrap());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    asked.into_iter().for_each(|what| *counts.entry(what).or_default() += 1);
    assert!(counts.len() == 1 && counts.values().all(|count| *count == 1), "{counts:?}");
    let error = place.write("id BIGINT", "1\n", topic, "avro", "").unwrap_err();
    assert!(error.advice().unwrap_or_default().contains("auto-register"), "{error:?}");

    // a password may stand elsewhere, and is not in a URL
    let file = place.folder.path().join("password");
    fs::write(&file, "pass\n").unwrap();
    let login =
        format!(", 'schema.registry.username' = 'user', 'schema.registry.password' = '${{file:{}}}'", file.display());
    let elsewhere = Place { login: login.leak(), url: stub.url.clone(), bootstrap: broker.address(), ..empty() };
    assert_eq!(elsewhere.read("id BIGINT", topic, "avro", "").unwrap().len(), 5000);
    let text = place.table("r", "id BIGINT", topic, "avro", "").replace("http://", "http://user:pass@");
    let error = highwater::sql::plan(
        highwater::sql::Text { name: "test.sql", sql: &format!("{text} SELECT * FROM r;") },
        &[],
        &Builtin::default(),
    );
    let error = error.err().unwrap().to_string();
    assert!(error.contains("for all to see") && !error.contains("pass@"), "{error}");

    // who is not known gets a reason
    let stranger = Place { login: "", folder: tempfile::tempdir().unwrap(), ..place };
    let error = stranger.read("id BIGINT", topic, "avro", "").unwrap_err();
    assert!(error.to_string().contains("refuses to answer: 401"), "{error}");
    // nobody there
    let nobody = Place { url: "http://127.0.0.1:9".into(), folder: tempfile::tempdir().unwrap(), ..stranger };
    let error = nobody.read("id BIGINT", topic, "avro", "").unwrap_err();
    assert_eq!(error.kind(), highwater::error::ErrorKind::Unavailable, "{error}");
}

/// True if `tool` is on the PATH.
fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// A name that no other test and no earlier run uses.
fn unique(prefix: &str) -> String {
    format!("{prefix}-{:x}", rand::random::<u64>())
}

/// Apicurio, which speaks as Confluent's does.
struct Real(PathBuf);

/// What `registry.sh` says; None if the registry cannot be fetched.
fn registry_sh(directory: &Path, command: &str) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/kafka/registry.sh");
    let output = Command::new(script).args([command, "--dir"]).arg(directory).output().expect("bash runs registry.sh");
    if output.status.code() == Some(3) {
        eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    assert!(output.status.success(), "registry.sh {command}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

impl Drop for Real {
    fn drop(&mut self) {
        registry_sh(&self.0, "stop");
    }
}

#[test]
fn a_real_registry_passes_the_suite() {
    let missing: Vec<&str> = ["java", "mvn"].into_iter().filter(|tool| !installed(tool)).collect();
    if !missing.is_empty() {
        let required = std::env::var("HIGHWATER_REQUIRE_KAFKA").is_ok_and(|value| value == "1");
        assert!(!required, "HIGHWATER_REQUIRE_KAFKA=1, but a real registry needs {}", missing.join(" and "));
        eprintln!("SKIPPED: no real registry without {}", missing.join(" and "));
        return;
    }
    let real = Real(Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("registry")));
    let Some(url) = registry_sh(&real.0, "start") else { return };
    let broker = Broker::start(Config { listen: "127.0.0.1:0".into(), ..Config::default() }).unwrap();
    let place = Place { bootstrap: broker.address(), url, folder: tempfile::tempdir().unwrap(), login: "" };
    place.suite(|topic| broker.create_topic(topic, 2).unwrap());
}
