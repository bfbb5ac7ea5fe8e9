//! Keys, values and metadata as columns, checked with a client that shares none of the connector's code.

use super::*;
use arrow::array::{BinaryArray, MapBuilder, StringBuilder, TimestampMicrosecondArray};
use arrow::array::{BinaryBuilder, MapFieldNames};
use arrow::datatypes::TimeUnit;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater::connector::kafka::METADATA;
use highwater::connector::{MetadataColumn, find_metadata};
use rdkafka::message::{Header, OwnedHeaders};

/// `table`, in which these columns are the metadata of these names; `true` if they are VIRTUAL.
fn with_metadata(mut table: Table, columns: &[(usize, &str, bool)]) -> Table {
    for &(column, name, is_virtual) in columns {
        let spec = find_metadata(METADATA, "kafka", name).unwrap();
        table.metadata.insert(column, MetadataColumn { spec, is_virtual });
    }
    table
}

/// All rows of all partitions, their columns with `|` between them.
fn rows(table: &Table, columns: &[usize]) -> Result<Vec<String>> {
    let source = KafkaSource::new(table, columns)?;
    let mut texts = Vec::new();
    let options = FormatOptions::default().with_null("NULL");
    for mut split in open(&source) {
        loop {
            match split.poll(8192)? {
                Polled::Rows { rows, .. } => {
                    let show = |column| ArrayFormatter::try_new(column, &options).unwrap();
                    let columns: Vec<ArrayFormatter> =
                        rows.columns().iter().map(|column| show(column.as_ref())).collect();
                    let text = |row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|");
                    texts.extend((0..rows.num_rows()).map(text));
                }
                Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
                Polled::Ended => break,
            }
        }
    }
    Ok(texts)
}

fn all_rows(table: &Table) -> Vec<String> {
    rows(table, &(0..table.schema.fields().len()).collect::<Vec<_>>()).unwrap()
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

fn headers_type() -> DataType {
    (METADATA.iter().find(|spec| spec.name == "headers").unwrap().data_type)()
}

/// Line, topic, partition, offset, timestamp, its type, key, headers.
fn with_everything(bootstrap: &str, topic: &str) -> Table {
    let columns = [
        ("line", DataType::Utf8),
        ("topic", DataType::Utf8),
        ("partition", DataType::Int64), // wider than Kafka's own
        ("at", DataType::Int64),
        ("ts", timestamp()),
        ("what", DataType::Utf8),
        ("k", DataType::Binary),
        ("headers", headers_type()),
    ];
    let options = [("topic", topic), ("format", "raw"), (BOOTSTRAP, bootstrap), TO_THE_END];
    let metadata = [
        (1, "topic", true),
        (2, "partition", true),
        (3, "offset", true),
        (4, "timestamp", false),
        (5, "timestamp_type", true),
        (6, "key", false),
        (7, "headers", false),
    ];
    with_metadata(table(&columns, &[], &options), &metadata)
}

pub fn metadata_is_read(bootstrap: &str) {
    let topic = create_topic(bootstrap, "metadata", 2);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "h", value: Some("x") })
        .insert(Header { key: "none", value: None::<&str> });
    let client = producer(bootstrap, &[]);
    let record = rdkafka::producer::BaseRecord::to(&topic).partition(1).payload("a").key("k");
    client.send(record.timestamp(1_704_067_200_123).headers(headers)).map_err(|(error, _)| error).unwrap();
    client.flush(PATIENCE).unwrap();
    produce(&client, &topic, 1, [(None, 1_704_067_201_000)]);
    let table = with_everything(bootstrap, &topic);
    assert_eq!(
        all_rows(&table),
        [
            format!("a|{topic}|1|0|2024-01-01T00:00:00.123Z|CreateTime|6b|{{h: 78, none: NULL}}"),
            format!("NULL|{topic}|1|1|2024-01-01T00:00:01Z|CreateTime|NULL|{{}}"),
        ]
    );
    // any of them alone, in any order, and none
    assert_eq!(rows(&table, &[3]).unwrap(), ["0", "1"]);
    assert_eq!(rows(&table, &[5, 0]).unwrap(), ["CreateTime|a", "CreateTime|NULL"]);
    assert_eq!(rows(&table, &[]).unwrap().len(), 2);
}

pub fn metadata_is_written(bootstrap: &str) {
    let topic = create_topic(bootstrap, "written-metadata", 1);
    let table = with_everything(bootstrap, &topic);
    let written = table.written().unwrap();
    let names: Vec<&str> = written.schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["line", "ts", "k", "headers"]);
    let sink = KafkaSink::new(&written).unwrap();
    let mut shard = sink.open(0, 1, &context()).unwrap();
    let batch = |times: Vec<Option<i64>>| {
        let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
        let mut headers = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new());
        for (key, value) in [("h", Some("x")), ("h", Some("y")), ("none", None)] {
            headers.keys().append_value(key);
            headers.values().append_option(value);
        }
        headers.append(true).unwrap();
        headers.append(false).unwrap();
        batch(vec![
            ("line", strings(["a".to_owned(), "b".to_owned()])),
            ("ts", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("+00:00"))),
            ("k", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"key".as_slice()), None]))),
            ("headers", Arc::new(headers.finish())),
        ])
    };
    let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    shard.write(batch(vec![Some(1_704_067_200_123_999), None])).unwrap();
    flush(&mut shard);
    let read = all_rows(&table);
    assert_eq!(
        read[0],
        format!("a|{topic}|0|0|2024-01-01T00:00:00.123Z|CreateTime|6b6579|{{h: 78, h: 79, none: NULL}}")
    );
    assert!(read[1].starts_with(&format!("b|{topic}|0|1|2")) && read[1].ends_with("Z|CreateTime|NULL|{}"));

    let error = shard.write(batch(vec![Some(0), None])).unwrap_err();
    assert!(said(&error).contains("a record's timestamp is 1970-01-01"), "{error}");
    let error = KafkaSink::new(&Table { primary_key: vec![0], ..written.clone() }).err().unwrap();
    assert!(error.to_string().contains("the key is written twice"), "{error}");

    let Some(seen) = support::kcat(bootstrap, &topic, "%p %o %T %k %h %s\n") else { return };
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(seen[0], "0 0 1704067200123 key h=x,h=y,none=NULL a");
    let parts: Vec<&str> = seen[1].split(' ').collect();
    assert_eq!([parts[0], parts[1], parts[3], parts[4], parts[5]], ["0", "1", "", "", "b"]);
    assert!(parts[2].parse::<i64>().unwrap() >= before);
}

/// Sends these keys and values to partition 0.
fn send(bootstrap: &str, topic: &str, records: &[(Option<&str>, Option<&str>)]) {
    let client = producer(bootstrap, &[]);
    for (key, value) in records {
        let mut record = rdkafka::producer::BaseRecord::<str, str>::to(topic).partition(0);
        (record.key, record.payload) = (*key, *value);
        client.send(record).map_err(|(error, _)| error).unwrap();
    }
    client.flush(PATIENCE).unwrap();
}

pub fn keys_are_read_and_tombstones_keep_them(bootstrap: &str) {
    let topic = create_topic(bootstrap, "tombstones", 1);
    let records = [
        (Some(r#"{"id":1}"#), Some(r#"{"id":7,"v":"a","n":5}"#)),
        (Some(r#"{"id":2}"#), None),
        (None, Some(r#"{"v":"b"}"#)),
        (None, None),
    ];
    send(bootstrap, &topic, &records);
    let ours = [("topic", topic.as_str()), (BOOTSTRAP, bootstrap), TO_THE_END];
    let keyed = |columns: &[(&str, DataType)], more: &[(&str, &str)]| {
        table(columns, &[], &[ours.as_slice(), &[("key.format", "json"), ("value.format", "json")], more].concat())
    };
    let columns = [("id", DataType::Int64), ("v", DataType::Utf8), ("n", DataType::Int64)];
    let apart = keyed(&columns, &[("key.fields", "id"), ("value.fields-include", "EXCEPT_KEY")]);
    assert_eq!(all_rows(&apart), ["1|a|5", "2|NULL|NULL", "NULL|b|NULL", "NULL|NULL|NULL"]);
    assert_eq!(rows(&apart, &[2, 0]).unwrap(), ["5|1", "NULL|2", "NULL|NULL", "NULL|NULL"]);
    assert_eq!(rows(&apart, &[1]).unwrap(), ["a", "NULL", "b", "NULL"]);
    // in both parts: the value's, but for tombstones
    let both = keyed(&columns, &[("key.fields", "id")]);
    assert_eq!(all_rows(&both), ["7|a|5", "2|NULL|NULL", "NULL|b|NULL", "NULL|NULL|NULL"]);
    // both parts have an `id`
    let columns = [("k_id", DataType::Int64), ("id", DataType::Int64)];
    let prefix = [("key.fields", "k_id"), ("key.fields-prefix", "k_"), ("value.fields-include", "EXCEPT_KEY")];
    assert_eq!(all_rows(&keyed(&columns, &prefix)), ["1|7", "2|NULL", "NULL|NULL", "NULL|NULL"]);

    // a PRIMARY KEY is a key, too, raw for one STRING
    let latest = create_topic(bootstrap, "latest", 1);
    send(bootstrap, &latest, &[(Some("x"), Some(r#"{"id":"y","v":"a"}"#)), (Some("z"), None)]);
    let text = [("id", DataType::Utf8), ("v", DataType::Utf8)];
    let primary = table(&text, &[0], &[("topic", &latest), (BOOTSTRAP, bootstrap), ("format", "json"), TO_THE_END]);
    assert_eq!(all_rows(&primary), ["y|a", "z|NULL"]);

    // format raw: a tombstone is NULL
    let lines = lines(bootstrap, &topic, &[TO_THE_END]);
    assert_eq!(all_rows(&lines)[1], "NULL");

    // a key is looked at only if it is needed
    send(bootstrap, &topic, &[(Some("no JSON"), Some("{}"))]);
    assert_eq!(all_rows(&both).len(), 5);
    let error = rows(&apart, &[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    let message = error.to_string();
    assert!(message.starts_with(&format!("topic \"{topic}\", partition 0, offset 4: the key: ")), "{message}");
    let mut strict = apart.clone();
    let mut fields: Vec<Field> = strict.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[1].set_nullable(false);
    strict.schema = Arc::new(Schema::new(fields));
    let error = rows(&strict, &[1]).unwrap_err();
    assert!(error.to_string().ends_with("offset 1: no value, but column \"v\" is NOT NULL"), "{error}");
}

pub fn keys_and_values_are_written_apart(bootstrap: &str) {
    let topic = create_topic(bootstrap, "apart", 1);
    let columns = [("k_id", DataType::Int64), ("v", DataType::Utf8)];
    let options = [
        ("topic", topic.as_str()),
        (BOOTSTRAP, bootstrap),
        ("key.format", "json"),
        ("value.format", "json"),
        ("key.fields", "k_id"),
        ("key.fields-prefix", "k_"),
        ("value.fields-include", "EXCEPT_KEY"),
        TO_THE_END,
    ];
    let table = table(&columns, &[], &options);
    let mut shard = KafkaSink::new(&table).unwrap().open(0, 1, &context()).unwrap();
    let ids = Arc::new(Int64Array::from(vec![Some(1), None]));
    shard.write(batch(vec![("k_id", ids), ("v", strings(["a".to_owned(), "b".to_owned()]))])).unwrap();
    shard.finish().unwrap();
    assert_eq!(all_rows(&table), ["1|a", "NULL|b"]);
    // raw writes NULL as a tombstone
    let raw = lines(bootstrap, &topic, &[]);
    let mut shard = KafkaSink::new(&raw).unwrap().open(0, 1, &context()).unwrap();
    shard.write(batch(vec![("line", Arc::new(StringArray::from(vec![None::<&str>])))])).unwrap();
    shard.finish().unwrap();
    let Some(seen) = support::kcat(bootstrap, &topic, "%k %s %S\n") else { return };
    assert_eq!(seen.lines().collect::<Vec<_>>(), [r#"{"id":1} {"v":"a"} 9"#, r#"{"id":null} {"v":"b"} 9"#, "  -1"]);
}
