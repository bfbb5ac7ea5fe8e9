//! Files of rows, Parquet and Avro: what is written comes back, whatever columns, cuts and workers; what other programs write
//! is read as the table declares it or refused with its place; and a broken file is an error, never a panic.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, LargeStringArray, ListBuilder, StringArray, StringBuilder,
    StringDictionaryBuilder, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array, new_null_array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use highwater::batch::Batch;
use highwater::connector::builtin::Builtin;
use highwater::connector::{Connectors, Context, Options, Polled, SinkInput, Source, SplitStart, Table};
use highwater::error::Result;
use highwater::time::SystemClock;
use pipeline::{SHAPES, for_seeds, run_with};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

fn context() -> Context {
    Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 2 }
}

/// These splits from their start.
fn starts(names: Vec<String>) -> Vec<SplitStart> {
    names.into_iter().map(SplitStart::whole).collect()
}

fn table(schema: &SchemaRef, path: &str, format: &str, more: &[(&str, &str)]) -> Table {
    let all = [("connector", "file"), ("path", path), ("format", format)].into_iter().chain(more.iter().copied());
    let options = Options::new(all.map(|(name, text)| (name.to_owned(), text.into())));
    Table {
        name: "t".into(),
        schema: Arc::clone(schema),
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options,
    }
}

fn source(table: &Table, columns: &[usize]) -> Result<Arc<dyn Source>> {
    Builtin::default().source(table, columns)
}

/// All rows, in the splits' order, in polls of `rows_max`.
fn read(source: &dyn Source, rows_max: usize) -> Result<Batch> {
    let mut batches = Vec::new();
    for mut split in source.open(&starts(source.splits(&context())?), &context())? {
        loop {
            match split.poll(rows_max)? {
                Polled::Rows { rows, bytes } => {
                    assert!(bytes > 0 && (1..=rows_max).contains(&rows.num_rows()));
                    batches.push(rows);
                }
                Polled::Pending => unreachable!("a file never makes wait"),
                Polled::Ended => break,
            }
        }
    }
    Ok(concat_batches(&source.schema(), &batches).unwrap())
}

fn read_all(schema: &SchemaRef, path: &str, format: &str, more: &[(&str, &str)]) -> Result<Batch> {
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    read(&*source(&table(schema, path, format, more), &columns)?, 1000)
}

fn write(table: &Table, batches: &[Batch]) -> Result<()> {
    let input = SinkInput { schema: Arc::clone(&table.schema), updating: false };
    let mut shard = Builtin::default().sink(table, &input)?.open(0, 1, &context())?;
    for batch in batches {
        shard.write(batch.clone())?;
        while !shard.flush()? {}
    }
    shard.finish()
}

/// Rows of every type that a table can have and a file can keep.
fn random_rows(random: &mut StdRng, rows: usize, unsigned: bool) -> Batch {
    fn some<T>(random: &mut StdRng, rows: usize, make: impl Fn(&mut StdRng) -> T) -> Vec<Option<T>> {
        (0..rows).map(|_| random.random_bool(0.8).then(|| make(random))).collect()
    }
    let word = |random: &mut StdRng| -> String {
        (0..random.random_range(0..9)).map(|_| *['a', 'é', '\u{1F600}', '\0', '"'].choose(random).unwrap()).collect()
    };
    let mut lists = ListBuilder::new(StringBuilder::new());
    for _ in 0..rows {
        (0..random.random_range(0..3))
            .for_each(|_| lists.values().append_option(random.random_bool(0.8).then(|| word(random))));
        lists.append(random.random_bool(0.8));
    }
    let inner: ArrayRef = Arc::new(some(random, rows, Rng::random::<i64>).into_iter().collect::<Int64Array>());
    let other: ArrayRef = Arc::new(some(random, rows, word).into_iter().collect::<StringArray>());
    let fields = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)];
    let time = |random: &mut StdRng| random.random_range(-1 << 52..1 << 52);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("b", Arc::new(some(random, rows, Rng::random::<bool>).into_iter().collect::<BooleanArray>())),
        ("i1", Arc::new(some(random, rows, Rng::random::<i8>).into_iter().collect::<Int8Array>())),
        ("i2", Arc::new(some(random, rows, Rng::random::<i16>).into_iter().collect::<Int16Array>())),
        ("i4", Arc::new(some(random, rows, Rng::random::<i32>).into_iter().collect::<Int32Array>())),
        ("i8", Arc::new(some(random, rows, Rng::random::<i64>).into_iter().collect::<Int64Array>())),
        ("f4", Arc::new(some(random, rows, Rng::random::<f32>).into_iter().collect::<Float32Array>())),
        ("f8", Arc::new(some(random, rows, Rng::random::<f64>).into_iter().collect::<Float64Array>())),
        ("t", Arc::new(some(random, rows, word).into_iter().collect::<StringArray>())),
        ("bytes", Arc::new(BinaryArray::from_iter(some(random, rows, |random| word(random).into_bytes())))),
        (
            "day",
            Arc::new(
                some(random, rows, |random| random.random_range(-40000..40000)).into_iter().collect::<Date32Array>(),
            ),
        ),
        (
            "clock",
            Arc::new(
                some(random, rows, |random| random.random_range(0..86_400_000_000))
                    .into_iter()
                    .collect::<Time64MicrosecondArray>(),
            ),
        ),
        ("at", Arc::new(some(random, rows, time).into_iter().collect::<TimestampMicrosecondArray>())),
        (
            "moment",
            Arc::new(
                some(random, rows, time).into_iter().collect::<TimestampMicrosecondArray>().with_timezone("+00:00"),
            ),
        ),
        (
            "price",
            Arc::new(
                some(random, rows, |random| random.random_range(-999_999_999..999_999_999))
                    .into_iter()
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
        (
            "large",
            Arc::new(
                some(random, rows, |random| random.random_range(-(10_i128.pow(37))..10_i128.pow(37)))
                    .into_iter()
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        ("words", Arc::new(lists.finish())),
        ("row", Arc::new(StructArray::new(fields.into(), vec![inner, other], None))),
    ];
    if unsigned {
        columns.push(("u8", Arc::new(some(random, rows, Rng::random::<u64>).into_iter().collect::<UInt64Array>())));
    }
    Batch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn sliced(random: &mut StdRng, rows: &Batch) -> Vec<Batch> {
    let mut slices = Vec::new();
    let mut at = 0;
    while at < rows.num_rows() {
        let length = random.random_range(1..=(rows.num_rows() - at).min(400));
        slices.push(rows.slice(at, length));
        at += length;
    }
    slices
}

#[test]
fn rows_come_back_as_they_were_written_whatever_columns_and_cuts() {
    for_seeds(40, |random| {
        let directory = tempfile::tempdir().unwrap();
        let parquet = random.random_bool(0.5);
        let count = *[0, 1, 77, 3000].choose(random).unwrap();
        let rows = random_rows(random, count, parquet);
        let (format, options) = match parquet {
            true => (
                "parquet",
                [
                    ("parquet.compression", *["zstd", "snappy", "gzip", "none"].choose(random).unwrap()),
                    ("parquet.row-group.bytes", *["1", "5000", "1MB"].choose(random).unwrap()),
                ]
                .to_vec(),
            ),
            false => {
                ("avro", [("avro.codec", *["zstandard", "snappy", "deflate", "null"].choose(random).unwrap())].to_vec())
            }
        };
        let path = directory.path().join(format!("t.{format}"));
        let path = path.to_str().unwrap();
        write(&table(&rows.schema(), path, format, &options), &sliced(random, &rows)).unwrap();

        let columns: Vec<usize> = (0..rows.num_columns()).filter(|_| random.random_bool(0.5)).collect();
        let split = random.random_range(1..20_000).to_string();
        let from = source(&table(&rows.schema(), path, format, &[("split.bytes", &split)]), &columns).unwrap();
        let rows_max = random.random_range(1..9000);
        let found = read(&*from, rows_max).unwrap();
        assert_eq!(
            found,
            rows.project(&columns).unwrap(),
            "{format} {options:?}, split.bytes {split}, columns {columns:?}"
        );
    });
}

#[test]
fn what_is_written_is_read_by_the_libraries_own_readers() {
    for_seeds(5, |random| {
        let directory = tempfile::tempdir().unwrap();
        let rows = random_rows(random, 500, false);
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        write(&table(&rows.schema(), &path("a.parquet"), "parquet", &[]), &sliced(random, &rows)).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
            File::open(path("a.parquet")).unwrap(),
        )
        .unwrap();
        let found: Vec<Batch> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
        let text = |batches: &[Batch]| pretty_format_batches(batches).unwrap().to_string();
        assert_eq!(text(&found).replace('Z', ""), text(std::slice::from_ref(&rows)).replace('Z', ""));

        write(&table(&rows.schema(), &path("a.avro"), "avro", &[]), &sliced(random, &rows)).unwrap();
        let reader = arrow_avro::reader::ReaderBuilder::new()
            .build(std::io::BufReader::new(File::open(path("a.avro")).unwrap()))
            .unwrap();
        let found: Vec<Batch> = reader.collect::<Result<_, _>>().unwrap();
        assert_eq!(text(&found).replace('Z', ""), text(std::slice::from_ref(&rows)).replace('Z', ""));
    });
}

/// A file as another program may leave it.
fn foreign(path: &Path, rows: &Batch) {
    let file = File::create(path).unwrap();
    if path.extension().unwrap() == "avro" {
        let mut writer = arrow_avro::writer::AvroWriter::new(file, Schema::clone(&rows.schema())).unwrap();
        writer.write(rows).unwrap();
        writer.finish().unwrap();
    } else {
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).unwrap();
        writer.write(rows).unwrap();
        writer.close().unwrap();
    }
}

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>()))
}

#[test]
fn the_columns_of_other_programs_become_those_of_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut coded = StringDictionaryBuilder::<Int32Type>::new();
    ["x", "y", "x"].iter().for_each(|text| coded.append_value(text));
    let second = 1_700_000_000;
    let fields = vec![Field::new("p", DataType::Int32, true), Field::new("q", DataType::Utf8, true)];
    let parts: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![7, 8, 9])), Arc::new(StringArray::from(vec!["a", "b", "c"]))];
    let written = Batch::try_from_iter_with_nullable([
        ("extra", Arc::new(Int64Array::from(vec![0, 0, 0])) as ArrayRef, true),
        ("Small", Arc::new(Int32Array::from(vec![Some(1), None, Some(-3)])), true),
        ("wide", Arc::new(Int64Array::from(vec![1, 2, 300])), true),
        ("coded", Arc::new(coded.finish()), true),
        ("view", Arc::new(StringViewArray::from(vec!["v", "a string that is long enough", ""])), true),
        ("long", Arc::new(LargeStringArray::from(vec!["l", "m", "n"])), true),
        ("ms", Arc::new(TimestampMillisecondArray::from(vec![second * 1000 + 5; 3])), true),
        (
            "us",
            Arc::new(TimestampMicrosecondArray::from(vec![second * 1_000_000 + 7; 3]).with_timezone("+02:00")),
            true,
        ),
        ("ns", Arc::new(TimestampNanosecondArray::from(vec![second * 1_000_000_000 + 1999; 3])), true),
        ("number", Arc::new(Int32Array::from(vec![1, 2, 3])), true),
        ("nested", Arc::new(StructArray::new(fields.into(), parts, None)), true),
    ])
    .unwrap();
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let nested =
        DataType::Struct(vec![Field::new("q", DataType::Utf8, true), Field::new("p", DataType::Int64, true)].into());
    let declared = schema(&[
        ("wide", DataType::Int16),
        ("small", DataType::Int64),
        ("coded", DataType::Utf8),
        ("view", DataType::Utf8),
        ("long", DataType::Utf8),
        ("ms", timestamp.clone()),
        ("us", timestamp.clone()),
        ("ns", timestamp.clone()),
        ("number", DataType::Decimal128(10, 2)),
        ("nested", nested),
    ]);
    for name in ["f.parquet", "f.avro"] {
        let path = directory.path().join(name);
        let mut written = written.clone();
        if name == "f.avro" {
            // there a dictionary is an enum
            let symbols = [("avro.enum.symbols".to_owned(), "[\"x\",\"y\"]".to_owned())].into();
            let mut fields: Vec<Field> = written.schema().fields().iter().map(|field| Field::clone(field)).collect();
            fields[3].set_metadata(symbols);
            written = Batch::try_new(Arc::new(Schema::new(fields)), written.columns().to_vec()).unwrap();
        }
        foreign(&path, &written);
        let found = read_all(&declared, path.to_str().unwrap(), &name[2..], &[]).unwrap();
        let expected = [
            "+------+-------+-------+------------------------------+------+-------------------------+----------------------------+----------------------------+--------+--------------+",
            "| wide | small | coded | view                         | long | ms                      | us                         | ns                         | number | nested       |",
            "+------+-------+-------+------------------------------+------+-------------------------+----------------------------+----------------------------+--------+--------------+",
            "| 1    | 1     | x     | v                            | l    | 2023-11-14T22:13:20.005 | 2023-11-14T22:13:20.000007 | 2023-11-14T22:13:20.000001 | 1.00   | {q: a, p: 7} |",
            "| 2    |       | y     | a string that is long enough | m    | 2023-11-14T22:13:20.005 | 2023-11-14T22:13:20.000007 | 2023-11-14T22:13:20.000001 | 2.00   | {q: b, p: 8} |",
            "| 300  | -3    | x     |                              | n    | 2023-11-14T22:13:20.005 | 2023-11-14T22:13:20.000007 | 2023-11-14T22:13:20.000001 | 3.00   | {q: c, p: 9} |",
            "+------+-------+-------+------------------------------+------+-------------------------+----------------------------+----------------------------+--------+--------------+",
        ];
        let found = pretty_format_batches(&[found]).unwrap().to_string();
        assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn a_column_that_does_not_fit_is_named_with_both_types_and_a_value_with_its_row() {
    let directory = tempfile::tempdir().unwrap();
    let written = Batch::try_from_iter_with_nullable([
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(300)])) as ArrayRef, true),
        ("word", Arc::new(StringArray::from(vec!["a", "b", "c"])), true),
        ("ratio", Arc::new(Float64Array::from(vec![0.5; 3])), true),
    ])
    .unwrap();
    for name in ["f.parquet", "f.avro"] {
        let path = directory.path().join(name);
        foreign(&path, &written);
        let failure = |column: &str, kind: DataType, nullable: bool, more: &[(&str, &str)]| {
            let schema = Arc::new(Schema::new(vec![Field::new(column, kind, nullable)]));
            match read_all(&schema, path.to_str().unwrap(), &name[2..], more) {
                Ok(rows) => panic!("it was read as {rows:?}"),
                Err(error) => {
                    let text = error.to_string().replace(directory.path().to_str().unwrap(), "DIR");
                    format!("{text} / {}", error.advice().unwrap_or_default())
                }
            }
        };
        let file = format!("file \"DIR/{name}\"");
        let cast = "declare the column as it is in the file, and CAST it in the query";
        assert_eq!(
            failure("word", DataType::Int64, true, &[]),
            format!("{file}: column \"word\" is Utf8 in the file and Int64 in the table / {cast}")
        );
        assert_eq!(
            failure("ratio", DataType::Int32, true, &[]),
            format!("{file}: column \"ratio\" is Float64 in the file and Int32 in the table / {cast}")
        );
        let place = if name == "f.parquet" { "row group 0, row 3" } else { "block at byte BYTE: row 3" };
        let found = failure("n", DataType::Int8, true, &[]);
        let byte = found.split_once("byte ").map(|(_, rest)| rest.split(':').next().unwrap().to_owned());
        let found = byte.map_or(found.clone(), |byte| found.replace(&byte, "BYTE"));
        assert_eq!(found, format!("{file}: {place}: column \"n\": 300 does not fit Int8 / "));
        assert!(failure("n", DataType::Int64, false, &[]).contains("row 2: column \"n\": NULL, but it is NOT NULL"));
        assert_eq!(
            failure("wrd", DataType::Utf8, true, &[]),
            format!("{file}: it has no column \"wrd\" / did you mean \"word\"?")
        );
        let null = [("scan.missing-columns", "null")];
        assert!(failure("wrd", DataType::Utf8, false, &null).contains("it has no column \"wrd\", which is NOT NULL"));
        let wanted = schema(&[("wrd", DataType::Utf8), ("word", DataType::Utf8)]);
        let found = read_all(&wanted, path.to_str().unwrap(), &name[2..], &null).unwrap();
        assert_eq!(found.column(0), &new_null_array(&DataType::Utf8, 3));
        assert_eq!(found.column(1).null_count(), 0);
    }
}

#[test]
fn a_broken_file_is_an_error_and_nothing_worse() {
    for_seeds(150, |random| {
        let directory = tempfile::tempdir().unwrap();
        let rows = random_rows(random, 40, false);
        let format = *["parquet", "avro"].choose(random).unwrap();
        let path = directory.path().join("in");
        let path = path.to_str().unwrap();
        let options: &[(&str, &str)] = match format {
            "parquet" => &[("parquet.compression", "none"), ("parquet.row-group.bytes", "2000")],
            _ => &[("avro.codec", ["null", "deflate", "snappy", "zstandard"].choose(random).unwrap())],
        };
        write(&table(&rows.schema(), path, format, options), &sliced(random, &rows)).unwrap();
        let mut bytes = fs::read(path).unwrap();
        match random.random_range(0..3) {
            0 => bytes.truncate(random.random_range(0..bytes.len())),
            1 => {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            _ => {
                let at = random.random_range(0..bytes.len());
                let end = (at + random.random_range(1..50)).min(bytes.len());
                random.fill(&mut bytes[at..end]);
            }
        }
        fs::write(path, &bytes).unwrap();
        // A changed value that is still a value cannot be noticed.
        if let Err(error) = read_all(&rows.schema(), path, format, &[("split.bytes", "3000")]) {
            assert!(error.to_string().contains("/in\""), "{error}");
        }
    });
}

#[test]
fn what_is_no_such_file_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let schema = schema(&[("n", DataType::Int64)]);
    let failure = |bytes: &[u8], format: &str| {
        let path = directory.path().join("in");
        fs::write(&path, bytes).unwrap();
        let error = read_all(&schema, path.to_str().unwrap(), format, &[]).unwrap_err();
        error.to_string().replace(directory.path().to_str().unwrap(), "DIR")
    };
    let text = b"n\n1\n2\nand so on";
    let found = [failure(b"", "parquet"), failure(text, "parquet"), failure(b"", "avro"), failure(text, "avro")];
    let expected = [
        "file \"DIR/in\": it is corrupt, or no Parquet file: Parquet file too small. Size is 0 but need 8",
        "file \"DIR/in\": it is corrupt, or no Parquet file: Invalid Parquet file. Corrupt footer",
        "file \"DIR/in\": it is corrupt, or no Avro file: Unexpected EOF while reading Avro header",
        "file \"DIR/in\": it is corrupt, or no Avro file: Incorrect avro magic",
    ];
    assert_eq!(found, expected);
}

#[test]
fn formats_of_files_are_refused_where_there_are_records_and_the_other_way_round() {
    let schema = schema(&[("n", DataType::Int64)]);
    let kafka = |format: &str| {
        let all = [
            ("connector", "kafka"),
            ("topic", "t"),
            ("properties.bootstrap.servers", "localhost:1"),
            ("format", format),
        ];
        let options = Options::new(all.map(|(name, text)| (name.to_owned(), text.into())));
        let table = Table {
            name: "t".into(),
            schema: Arc::clone(&schema),
            metadata: Default::default(),
            primary_key: Vec::new(),
            key_trusted: false,
            options,
        };
        let error = source(&table, &[0]).err().unwrap();
        format!("{error} / {}", error.advice().unwrap_or_default())
    };
    let help = "use it with connector 'file'; records can be json, csv, raw, debezium-json, avro or protobuf";
    assert_eq!(kafka("parquet"), format!("format 'parquet' is one of files, and here are records / {help}"));
    let error = source(&table(&schema, "x", "protobuf", &[]), &[0]).err().unwrap();
    assert_eq!(error.to_string(), "format 'protobuf' is one of records in topics, and a file is no such");
    let error = source(&table(&schema, "-", "avro", &[]), &[0]).err().unwrap();
    assert_eq!(error.to_string(), "option 'path': files of rows are not read from standard input");

    let unnamed = crate::schema(&[("a b", DataType::Int64)]);
    let input = SinkInput { schema: Arc::clone(&unnamed), updating: false };
    let error = Builtin::default().sink(&table(&unnamed, "x", "avro", &[]), &input).err().unwrap();
    assert_eq!(error.to_string(), "format 'avro' cannot write a column called \"a b\"");
    let long = crate::schema(&[("u", DataType::new_list(DataType::UInt64, true))]);
    let error = Builtin::default().sink(&table(&long, "x", "avro", &[]), &input).err().unwrap();
    assert_eq!(error.to_string(), "format 'avro' cannot write column \"u\" of type List(UInt64)");
}

#[test]
fn a_pipeline_says_the_same_of_files_cut_anywhere_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["to", "be", "or", "not"];
    let batch = |file: i64| {
        let rows = 0..5000_i64;
        let word: StringArray = rows.clone().map(|row| Some(words[((row * 7 + file) % 4) as usize])).collect();
        let number: Int64Array = rows.map(|row| row * file).collect();
        Batch::try_from_iter_with_nullable([("word", Arc::new(word) as ArrayRef, true), ("n", Arc::new(number), true)])
            .unwrap()
    };
    for format in ["parquet", "avro"] {
        let mut expected: std::collections::BTreeMap<&str, (i64, i64)> = Default::default();
        for file in 0..3_i64 {
            let path = directory.path().join(format!("in-{file}.{format}"));
            write(
                &table(&batch(file).schema(), path.to_str().unwrap(), format, &[("parquet.row-group.bytes", "9000")]),
                &[batch(file)],
            )
            .unwrap();
            for row in 0..5000 {
                let sum = expected.entry(words[((row * 7 + file) % 4) as usize]).or_default();
                *sum = (sum.0 + 1, sum.1 + row * file);
            }
        }
        for (number, shape) in SHAPES.into_iter().enumerate() {
            let out = directory.path().join(format!("out-{number}-{format}"));
            let text = format!(
                "CREATE TABLE t (word STRING, n BIGINT) WITH ('connector' = 'file', 'path' = '{0}/in-*.{format}', 'format' = '{format}', 'split.bytes' = '10000');
                 CREATE TABLE sums (word STRING, number BIGINT, n BIGINT) WITH ('connector' = 'file', 'path' = '{1}/', 'format' = '{format}');
                 INSERT INTO sums SELECT word, count(*), sum(n) FROM t GROUP BY word EMIT FINAL;",
                directory.path().display(),
                out.display()
            );
            run_with(&text, &Builtin::default(), shape).1.unwrap();
            let columns = schema(&[("word", DataType::Utf8), ("number", DataType::Int64), ("n", DataType::Int64)]);
            let found = read_all(&columns, &format!("{}/*", out.display()), format, &[]).unwrap();
            let mut found: Vec<String> = pretty_format_batches(&[found])
                .unwrap()
                .to_string()
                .lines()
                .skip(3)
                .map(|line| line.replace(['|', ' '], ","))
                .filter(|line| !line.starts_with('+'))
                .map(|line| line.split(',').filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" "))
                .collect();
            found.sort();
            let mut expected: Vec<String> =
                expected.iter().map(|(word, (count, sum))| format!("{word} {count} {sum}")).collect();
            expected.sort();
            assert_eq!(found, expected, "{format}, {shape:?}");
        }
    }
}
