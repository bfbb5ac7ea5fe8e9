//! Formats: what is written is read back, and what is bad is named.

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use highwater::batch::Batch;
use highwater::connector::{OptionText, Options};
use highwater::format::{BadRecord, Decode, Format};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

fn format(name: &str, options: &[(&str, &str)]) -> Format {
    let all = [("format", name)].into_iter().chain(options.iter().copied());
    Options::new(all.map(|(name, text)| (name.to_owned(), OptionText::from(text)))).format("").unwrap()
}

fn decoder(format: &Format, schema: &SchemaRef) -> Box<dyn Decode> {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    format.decoder(schema, &all).unwrap()
}

/// Two columns: `n BIGINT NOT NULL, t STRING`.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, true)]))
}

fn bad(decoder: &mut dyn Decode, records: &[&[u8]]) -> String {
    match decoder.decode(&BinaryArray::from_vec(records.to_vec())) {
        Ok(batch) => panic!("it was read as {batch:?}"),
        Err(BadRecord { index, reason }) => format!("{index}: {reason}"),
    }
}

fn texts(records: &BinaryArray) -> Vec<&str> {
    records.iter().map(|record| record.map_or("NULL", |record| std::str::from_utf8(record).unwrap())).collect()
}

/// Random rows with the columns that a format can carry.
fn random_rows(random: &mut StdRng, rows: usize, nested: bool, empty_strings: bool) -> Batch {
    fn some<T>(random: &mut StdRng, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        (random.random_range(0..5) > 0).then(|| make(random))
    }
    const LETTERS: [char; 14] = ['a', 'z', '"', ',', '\n', '\r', '\\', ' ', '\t', 'é', '\u{1F600}', '{', '\u{0}', ';'];
    let shortest = usize::from(!empty_strings);
    let word = |random: &mut StdRng| -> String {
        (0..random.random_range(shortest..12)).map(|_| LETTERS[random.random_range(0..LETTERS.len())]).collect()
    };
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new((0..rows).map(|_| some(random, Rng::random::<i64>)).collect::<Int64Array>())),
        ("t", Arc::new((0..rows).map(|_| some(random, word)).collect::<StringArray>())),
        (
            "f",
            Arc::new(
                (0..rows).map(|_| some(random, |random| random.random_range(-1e9..1e9))).collect::<Float64Array>(),
            ),
        ),
        ("b", Arc::new((0..rows).map(|_| some(random, Rng::random::<bool>)).collect::<BooleanArray>())),
        (
            "at",
            Arc::new(
                (0..rows)
                    .map(|_| some(random, |random| random.random_range(-1 << 50..1 << 51)))
                    .collect::<TimestampMicrosecondArray>(),
            ),
        ),
        (
            "price",
            Arc::new(
                (0..rows)
                    .map(|_| some(random, |random| random.random_range(-999_999_999..=999_999_999)))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
    ];
    if nested {
        let list = |random: &mut StdRng| {
            (0..random.random_range(0..4)).map(|_| some(random, Rng::random::<i32>)).collect::<Vec<_>>()
        };
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..rows).map(|_| some(random, list)));
        columns.push(("list", Arc::new(lists)));
        let bytes = |random: &mut StdRng| (0..random.random_range(0..9)).map(|_| random.random()).collect::<Vec<u8>>();
        columns.push(("blob", Arc::new((0..rows).map(|_| some(random, bytes)).collect::<BinaryArray>())));
    }
    Batch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let json: &[&[(&str, &str)]] =
        &[&[], &[("json.encode.nulls", "false"), ("json.timestamp-format.standard", "ISO-8601")]];
    let csv: &[&[(&str, &str)]] =
        &[&[("csv.null", "\\N")], &[("csv.delimiter", ";"), ("csv.null", "NULL")], &[("csv.delimiter", "\\t")]];
    let all = json.iter().map(|options| ("json", *options)).chain(csv.iter().map(|options| ("csv", *options)));
    for (name, options) in all {
        let format = format(name, options);
        for rows in [1, 2, 100, 8192, 10_000] {
            // without a text of its own, NULL is the empty one
            let empty_strings = name == "json" || options.iter().any(|option| option.0 == "csv.null");
            let batch = random_rows(&mut random, rows, name == "json", empty_strings);
            let records = format.encoder(&batch.schema()).unwrap().encode(&batch).unwrap();
            let mut decoder = decoder(&format, &batch.schema());
            assert_eq!(decoder.decode(&records).unwrap(), batch, "seed {seed}, {name} {options:?}, {rows} rows");
            // a part of an array, and of the columns
            let (from, length) = (rows / 3, rows - rows / 3);
            assert_eq!(decoder.decode(&records.slice(from, length)).unwrap(), batch.slice(from, length), "seed {seed}");
            let mut two = format.decoder(&batch.schema(), &[3, 1]).unwrap();
            assert_eq!(two.decode(&records).unwrap(), batch.project(&[3, 1]).unwrap(), "seed {seed}");
            let none = format.decoder(&batch.schema(), &[]).unwrap().decode(&records).unwrap();
            assert_eq!((none.num_rows(), none.num_columns()), (rows, 0));

            // the stream that a file is
            if name == "json" || options.len() == 2 {
                let stream = records.iter().flatten().flat_map(|record| [record, b"\n"].concat()).collect::<Vec<u8>>();
                let (framing, mut at, mut index) = (format.framing(), 0, 0);
                while let Some(piece) = framing.first(&stream[at..], true) {
                    assert_eq!(piece.record, records.value(index), "seed {seed}, {name} {options:?}");
                    (at, index) = (at + piece.length, index + 1);
                }
                assert_eq!(index, rows);
            }
        }
    }
}

#[test]
fn a_bad_record_among_many_is_found_and_the_decoder_goes_on() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for (name, good, bads) in
        [("json", r#"{"n":1}"#, [r#"{"n":"x"}"#, r#"{"n":1"#, "]", "{}"]), ("csv", "1,a", ["x,a", "1", "1,\"a", ",a"])]
    {
        let mut decoder = decoder(&format(name, &[]), &schema());
        for _ in 0..12 {
            let mut records = vec![good.as_bytes(); random.random_range(1..9000)];
            let mut indexes = [random.random_range(0..records.len()), random.random_range(0..records.len())];
            indexes.sort_unstable();
            for index in indexes {
                records[index] = bads[random.random_range(0..4)].as_bytes();
            }
            let found = bad(decoder.as_mut(), &records);
            assert!(found.starts_with(&format!("{}: ", indexes[0])), "seed {seed}, {name} {indexes:?}: {found}");
            assert_eq!(decoder.decode(&BinaryArray::from_vec(vec![good.as_bytes(); 3])).unwrap().num_rows(), 3);
        }
    }
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    const PIECES: [&[u8]; 26] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\"n\"",
        b":",
        b",",
        b"1",
        b"-",
        b"1e999",
        b"\\",
        b"\\u",
        b"\\ud83d",
        b"\\ude00",
        b"dbff",
        b"true",
        b"nul",
        b"null",
        b" ",
        b"\n",
        b"\r",
        b"\xff",
        b"\xc3",
        b"\"t\":\"",
        b"a",
    ];
    let mut decoders = [decoder(&format("json", &[]), &schema()), decoder(&format("csv", &[]), &schema())];
    for _ in 0..3000 {
        let records: Vec<Vec<u8>> = (0..random.random_range(1..4))
            .map(|_| {
                let start: &[u8] = if random.random() { b"{\"n\":1,\"t\":" } else { b"" };
                let pieces = (0..random.random_range(0..8)).flat_map(|_| PIECES[random.random_range(0..PIECES.len())]);
                start.iter().chain(pieces).copied().collect()
            })
            .collect();
        let array = BinaryArray::from_iter_values(&records);
        for decoder in &mut decoders {
            if let Ok(rows) = decoder.decode(&array) {
                assert_eq!(rows.num_rows(), records.len(), "seed {seed}: {records:?}");
            }
        }
    }
}

#[test]
fn bad_json_is_explained() {
    let check = |record: &[u8], expected: &str| {
        let mut decoder = decoder(&format("json", &[]), &schema());
        assert_eq!(bad(decoder.as_mut(), &[br#"{"n":1,"t":"a"}"#, record]), format!("1: {expected}"));
    };
    check(b"", "the record is empty");
    check(b"  ", "the record is empty");
    check(b"17", "not an object");
    check(b"17 ", "expected {, found 17");
    check(b"null ", "expected {, found null");
    check(b"[1] ", "expected {, found [1]");
    check(b"{\"n\":1", "the record ends in the middle of its object");
    check(b"{\"n\":1}{\"n\":2}", "more than one value in the record");
    check(b"{\"n\":1} x", "more than one value in the record");
    check(b"{n:1}", "found unexpected 'n' while parsing object");
    check(b"{}", "column \"n\": NULL, but it is NOT NULL");
    check(b"{\"n\":null}", "column \"n\": NULL, but it is NOT NULL");
    check(b"{\"n\":\"cheap\"}", "column \"n\": failed to parse \"cheap\" as Int64");
    check(b"{\"n\":9223372036854775808}", "column \"n\": failed to parse 9223372036854775808 as Int64");
    check(b"{\"n\":{\"deep\":[1]}}", "column \"n\": expected primitive, found {\"deep\": [1]}");
    check(b"{\"n\":1,\"t\":5}", "column \"t\": expected string, found 5");
    check(b"{\"n\":1,\"t\":\"\xff\"}", "found non-UTF-8 data");
    check(b"{\"n\":1,\"t\":\"\\ud800\"}", "found unexpected '\"' while parsing surrogate pair escape");
    let deep = [b"{\"n\":1,\"x\":".to_vec(), b"[".repeat(10_000), b"]".repeat(10_000), b"}".to_vec()].concat();
    check(&deep, "arrays and objects are nested more than 512 deep");
    let open = [b"{\"n\":".to_vec(), b"[".repeat(1_000_000)].concat();
    check(&open, "arrays and objects are nested more than 512 deep");
    let long = format!("{{\"n\":\"{}\"}}", "x".repeat(20 << 20));
    let cut = format!("column \"n\": failed to parse \"{}…", "x".repeat(200 - "failed to parse \"".len()));
    check(long.as_bytes(), &cut);
}

#[test]
fn json_takes_what_is_usual() {
    let fields = vec![
        Field::new("n", DataType::Int64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("t", DataType::Utf8, true),
    ];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let format = format("json", &[]);
    let read = |record: &[u8]| {
        let rows = decoder(&format, &schema).decode(&BinaryArray::from_vec(vec![record])).unwrap();
        let written = format.encoder(&schema).unwrap().encode(&rows).unwrap();
        texts(&written)[0].to_owned()
    };
    assert_eq!(read(b"{}"), r#"{"n":null,"at":null,"t":null}"#);
    assert_eq!(read(br#" {"t":"\u00e9\n","x":{"y":[1,{}]},"n":"17","n":18} "#), r#"{"n":18,"at":null,"t":"é\n"}"#);
    for moment in [
        r#""2024-05-01T12:00:00.5Z""#,
        r#""2024-05-01 12:00:00.500""#,
        r#""2024-05-01T14:00:00.5+02:00""#,
        "1714564800500000",
    ] {
        assert_eq!(
            read(format!("{{\"at\":{moment}}}").as_bytes()),
            r#"{"n":null,"at":"2024-05-01 12:00:00.500","t":null}"#
        );
    }
    let long = format!("{{\"t\":\"{}\"}}", "x".repeat(20 << 20));
    assert_eq!(read(long.as_bytes()).len(), long.len() + r#""n":null,"at":null,"#.len());
    // brackets in a string are no nesting
    let flat = format!("{{\"t\":\"{}\\\\\"}}", "[".repeat(1000));
    assert!(read(flat.as_bytes()).contains("[[["));

    let tombstone = BinaryArray::from(vec![Some(b"{\"n\":1}".as_slice()), None]);
    let rows = decoder(&format, &schema).decode(&tombstone).unwrap();
    assert_eq!((rows.num_rows(), rows.column(0).null_count()), (2, 1));
    let error = decoder(&format, &self::schema()).decode(&tombstone).unwrap_err();
    assert_eq!((error.index, &*error.reason), (1, "no value, but column \"n\" is NOT NULL"));
}

#[test]
fn json_is_written_as_the_options_say() {
    let zoned = TimestampMicrosecondArray::from(vec![0, 1_500_000]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 4] = [
        ("t", Arc::new(StringArray::from(vec![Some("a\n\"b\""), None]))),
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, 1.0]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000]))),
        ("zoned", Arc::new(zoned)),
    ];
    let batch = Batch::try_from_iter(columns).unwrap();
    let check = |options: &[(&str, &str)], expected: [&str; 2]| {
        let records = format("json", options).encoder(&batch.schema()).unwrap().encode(&batch).unwrap();
        assert_eq!(texts(&records), expected);
    };
    let first = r#"{"t":"a\n\"b\"","f":null,"at":"1970-01-01 00:00:00","zoned":"1970-01-01 00:00:00+00:00"}"#;
    check(&[], [first, r#"{"t":null,"f":1.0,"at":"1970-01-01 00:00:01.500","zoned":"1970-01-01 00:00:01.500+00:00"}"#]);
    let iso = [("json.encode.nulls", "false"), ("json.timestamp-format.standard", "ISO-8601")];
    let first = r#"{"t":"a\n\"b\"","f":null,"at":"1970-01-01T00:00:00","zoned":"1970-01-01T00:00:00Z"}"#;
    check(&iso, [first, r#"{"f":1.0,"at":"1970-01-01T00:00:01.500","zoned":"1970-01-01T00:00:01.500Z"}"#]);
}

#[test]
fn bad_csv_is_explained() {
    let fields = [Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, true)];
    let at = Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true);
    let schema: SchemaRef = Arc::new(Schema::new(fields.into_iter().chain([at]).collect::<Vec<_>>()));
    let check = |record: &[u8], expected: &str| {
        let mut decoder = decoder(&format("csv", &[]), &schema);
        assert_eq!(bad(decoder.as_mut(), &[b"1,a,2024-05-01 12:00:00", record]), format!("1: {expected}"));
    };
    check(b"", "the record is empty");
    check(b"1", "expected 3 fields, found 1");
    check(b"1,a,,", "expected 3 fields, found 4");
    check(b",a,", "column \"n\": NULL, but it is NOT NULL");
    check(b"cheap,a,", "column \"n\": cannot read value 'cheap' as type 'Int64'");
    check(b"9223372036854775808,a,", "column \"n\": cannot read value '9223372036854775808' as type 'Int64'");
    check(
        b"1,a,soon",
        "column \"at\": cannot read timestamp from 'soon': timestamp must contain at least 10 characters",
    );
    check(b"1,\"a,", "a quote is not closed");
    check(b"1,a,\n2,b,", "more than one line in the record");
    check(b"1,\xff,", "column \"t\": not UTF-8");
}

#[test]
fn raw_is_the_record_itself() {
    let check = |data_type: DataType, nullable: bool, records: Vec<Option<&[u8]>>| {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("line", data_type, nullable)]));
        let records = BinaryArray::from(records);
        let rows =
            decoder(&Format::Raw, &schema).decode(&records).map_err(|bad| format!("{}: {}", bad.index, bad.reason))?;
        assert_eq!(Format::Raw.encoder(&schema).unwrap().encode(&rows).unwrap(), records);
        Ok::<_, String>(rows.num_rows())
    };
    let some = |text: &'static [u8]| Some(text);
    assert_eq!(check(DataType::Utf8, true, vec![some(b"to"), None, some(b""), some("é".as_bytes())]), Ok(4));
    assert_eq!(check(DataType::Binary, true, vec![some(b"\xff"), None]), Ok(2));
    assert_eq!(
        check(DataType::Utf8, true, vec![some(b"to"), some(b"b\xff")]),
        Err("1: not UTF-8 at byte 1 of the record".into())
    );
    // two halves of one character
    assert_eq!(
        check(DataType::Utf8, true, vec![some(b"\xc3"), some(b"\xa9")]),
        Err("0: not UTF-8 at byte 0 of the record".into())
    );
    assert_eq!(
        check(DataType::Utf8, false, vec![some(b"to"), None]),
        Err("1: no value, but column \"line\" is NOT NULL".into())
    );

    // what lies around a slice does not matter
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, false)]));
    let slice = BinaryArray::from_vec(vec![b"\xff", b"a", b"b"]).slice(1, 2);
    assert_eq!(decoder(&Format::Raw, &schema).decode(&slice).unwrap().num_rows(), 2);
    let uncounted = Format::Raw.decoder(&schema, &[]).unwrap().decode(&slice).unwrap();
    assert_eq!((uncounted.num_rows(), uncounted.num_columns()), (2, 0));
}

#[test]
fn columns_that_a_format_cannot_carry_are_refused() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let check = |name: &str, data_types: &[&DataType], expected: &str| {
        let fields = data_types.iter().map(|data_type| Field::new("x", (*data_type).clone(), true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let format = Format::named(name).unwrap();
        assert_eq!(format.decoder(&schema, &[]).err().unwrap().to_string(), expected);
        assert_eq!(format.encoder(&schema).err().unwrap().to_string(), expected);
    };
    check("raw", &[&DataType::Int64], "format 'raw' cannot carry column \"x\" of type Int64");
    check("text", &[&DataType::Utf8, &DataType::Utf8], "format 'raw' has one column, the table has 2");
    check("csv", &[&list], "format 'csv' cannot carry column \"x\" of type List(Int64)");
    check("csv", &[&DataType::Binary], "format 'csv' cannot carry column \"x\" of type Binary");
}
