//! Files that are read and written: every record once wherever a file is cut, and nothing half-written under its name.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, TimestampMicrosecondType};
use highwater::batch::Batch;
use highwater::connector::builtin::{Builtin, CONNECTORS};
use highwater::connector::memory::{MemorySink, MemorySource};
use highwater::connector::{
    Connectors, Context, OptionText, Options, Polled, SinkInput, Source, Split, SplitStart, Table,
};
use highwater::error::Result;
use highwater::runtime::metrics::Role;
use highwater::runtime::{self, Workers};
use highwater::sql::{self, Text};
use highwater::time::SystemClock;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn context() -> Context {
    Context { embedded_broker: None, clock: Arc::new(SystemClock::default()), workers: 2 }
}

/// These splits from their start.
fn starts(names: Vec<String>) -> Vec<SplitStart> {
    names.into_iter().map(SplitStart::whole).collect()
}

/// A table with the columns `name type`, where a type is s(tring) or i(nteger), and options `name = value`.
fn table(columns: &str, options: &[(&str, &str)]) -> Table {
    let field = |column: &str| {
        let (name, data_type) = column.split_once(' ').expect("a name and a type");
        Field::new(name, if data_type == "s" { DataType::Utf8 } else { DataType::Int64 }, true)
    };
    let schema = Arc::new(Schema::new(columns.split(", ").map(field).collect::<Vec<_>>()));
    let options = Options::new(options.iter().map(|(name, text)| ((*name).to_owned(), OptionText::from(*text))));
    Table {
        name: "t".into(),
        schema,
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options,
    }
}

fn source(table: &Table) -> Result<Arc<dyn Source>> {
    let columns: Vec<usize> = (0..table.schema.fields().len()).collect();
    let source = Builtin::default().source(table, &columns)?;
    check_options(table)?;
    Ok(source)
}

fn check_options(table: &Table) -> Result<()> {
    let file = CONNECTORS.iter().find(|spec| spec.name == "file").expect("it is there");
    table.options.check(&file.declared()).into_iter().next().map_or(Ok(()), Err)
}

fn text_file(path: &Path, more: &[(&str, &str)]) -> Result<Arc<dyn Source>> {
    let mut options =
        vec![("connector", "file"), ("path", path.to_str().expect("a test's path is UTF-8")), ("format", "text")];
    options.extend(more);
    source(&table("line s", &options))
}

/// Polls until the split has ended.
fn drain(split: &mut dyn Split, rows_max: impl Fn() -> usize) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    loop {
        let most = rows_max();
        match split.poll(most)? {
            Polled::Rows { rows, .. } => {
                assert!((1..=most).contains(&rows.num_rows()));
                batches.push(rows);
            }
            Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
            Polled::Ended => return Ok(batches),
        }
    }
}

/// The rows of all splits, in the splits' order, as their columns' text joined by `|`.
fn read(source: &dyn Source, rows_max: impl Fn() -> usize) -> Result<Vec<String>> {
    let names = source.splits(&context())?;
    let mut rows = Vec::new();
    for mut split in source.open(&starts(names), &context())? {
        for batch in drain(split.as_mut(), &rows_max)? {
            rows.extend(texts(&batch));
        }
    }
    Ok(rows)
}

fn texts(batch: &Batch) -> Vec<String> {
    let strings: Vec<ArrayRef> =
        batch.columns().iter().map(|column| arrow::compute::cast(column, &DataType::Utf8).expect("prints")).collect();
    let cell = |column: &ArrayRef, row| {
        if column.is_null(row) { "NULL".into() } else { column.as_string::<i32>().value(row).to_owned() }
    };
    (0..batch.num_rows())
        .map(|row| strings.iter().map(|column| cell(column, row)).collect::<Vec<_>>().join("|"))
        .collect()
}

#[test]
fn a_file_cut_into_splits_gives_every_line_once() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    for round in 0..150 {
        let path = directory.path().join(format!("{round}.txt"));
        let longest = [1, 5, 40, 3000][random.random_range(0..4)];
        let lines: Vec<String> = (0..random.random_range(0..200))
            .map(|_| (0..random.random_range(0..longest)).map(|_| random.random_range('a'..='é')).collect())
            .collect();
        let end = ["\n", "\r\n"][random.random_range(0..2)];
        let mut text = lines.join(end);
        // the last line may lack its end, unless it is empty and would not be one
        if !lines.is_empty() && (lines.last().is_some_and(String::is_empty) || random.random()) {
            text.push_str(end);
        }
        fs::write(&path, &text).unwrap();
        let split_bytes = random.random_range(1..2 + text.len() as u64);
        let source = text_file(&path, &[("split.bytes", &split_bytes.to_string())]).unwrap();
        let rows_max = random.random_range(1..50);
        assert_eq!(
            read(&*source, || rows_max).unwrap(),
            lines,
            "seed {seed}, round {round}, split.bytes {split_bytes}"
        );
    }
}

#[test]
fn the_splits_of_one_worker_can_be_polled_in_turns() {
    let directory = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
    let path = directory.path().join("a.txt");
    fs::write(&path, lines.join("\n")).unwrap();
    let source = text_file(&path, &[("split.bytes", "40 KiB")]).unwrap();
    let mut splits = source.open(&starts(source.splits(&context()).unwrap()), &context()).unwrap();
    assert_eq!(splits.len(), 6);
    let mut found = Vec::new();
    while !splits.is_empty() {
        splits.retain_mut(|split| match split.poll(700).unwrap() {
            Polled::Rows { rows, .. } => {
                found.extend(texts(&rows));
                true
            }
            Polled::Pending => true,
            Polled::Ended => false,
        });
    }
    found.sort_by_key(|line| line[5..].parse::<u32>().unwrap());
    assert_eq!(found, lines);
}

#[test]
fn files_are_found_by_a_glob_and_read_in_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("c.txt")).unwrap();
    for (name, text) in [("b.txt", "2\n3"), ("a.txt", "1\n"), ("d.txt", ""), ("e.csv", "4")] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let found = text_file(&directory.path().join("*.txt"), &[]).unwrap();
    assert_eq!(read(&*found, || 10).unwrap(), ["1", "2", "3"]);
    assert_eq!(found.splits(&context()).unwrap().len(), 3, "an empty file is a split that ends at once");

    let failure = |name: &str| {
        let error = text_file(&directory.path().join(name), &[]).unwrap().splits(&context()).unwrap_err();
        let clean = |text: &str| text.replace(directory.path().to_str().unwrap(), "DIR");
        format!("{} / {}", clean(&error.to_string()), clean(error.advice().unwrap_or_default()))
    };
    assert_eq!(failure("*.json"), "no file matches 'DIR/*.json' / ");
    assert_eq!(failure("no.txt"), "file \"DIR/no.txt\": cannot read it: No such file or directory (os error 2) / ");
    assert_eq!(
        failure("c.txt"),
        "file \"DIR/c.txt\": it is a directory / to read the files in it, set 'path' = 'DIR/c.txt/*'"
    );
}

#[test]
fn a_bad_record_is_named_by_its_line_or_in_a_later_split_by_its_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    fs::write(&path, "\u{feff}{\"n\": 1}\n\n{\"n\": 2}\n{\"n\": \"many\"}\n{\"n\": 4}\n").unwrap();
    let failure = |more: &[(&str, &str)]| {
        let mut options = vec![("connector", "file"), ("path", path.to_str().unwrap()), ("format", "json")];
        options.extend(more);
        let error = read(&*source(&table("n i", &options)).unwrap(), || 100).unwrap_err();
        error.to_string().replace(directory.path().to_str().unwrap(), "DIR")
    };
    assert_eq!(failure(&[]), "file \"DIR/in.jsonl\", line 4: column \"n\": failed to parse \"many\" as Int64");
    assert_eq!(
        failure(&[("split.bytes", "15")]),
        "file \"DIR/in.jsonl\", byte 22: column \"n\": failed to parse \"many\" as Int64"
    );
    // a file that shrinks
    let opened = text_file(&path, &[]).unwrap();
    let names = opened.splits(&context()).unwrap();
    fs::write(&path, "short").unwrap();
    let error = drain(opened.open(&starts(names), &context()).unwrap()[0].as_mut(), || 10).unwrap_err();
    assert!(error.to_string().ends_with("it had 45 bytes when reading began and has fewer now"), "{error}");
}

#[test]
fn csv_is_read_with_and_without_a_header_and_never_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.csv");
    fs::write(&path, "word;n\r\n\"to;\r\nbe\";1\r\n\r\n;2\r\nor;x\r\n").unwrap();
    let options = |more| {
        [("connector", "file"), ("path", path.to_str().unwrap()), ("format", "csv"), ("csv.delimiter", ";"), more]
    };
    let with_header = source(&table("word s, n i", &options(("csv.header", "true")))).unwrap();
    assert_eq!(with_header.splits(&context()).unwrap().len(), 1);
    assert_eq!(
        read(&*with_header, || 1).unwrap_err().to_string().rsplit_once(", ").unwrap().1,
        "line 6: column \"n\": cannot read value 'x' as type 'Int64'"
    );
    fs::write(&path, "word;n\r\n\"to;\r\nbe\";1\r\n\r\n;2\r\n").unwrap();
    assert_eq!(read(&*with_header, || 5).unwrap(), ["to;\r\nbe|1", "NULL|2"]);
    let without = source(&table("word s, n s", &options(("csv.null", "2")))).unwrap();
    assert_eq!(read(&*without, || 5).unwrap(), ["word|n", "to;\r\nbe|1", "|NULL"]);
}

#[test]
fn a_record_of_twenty_megabytes_is_read_and_an_endless_one_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.txt");
    let long = "x".repeat(20 << 20);
    fs::write(&path, format!("a\n{long}\nb\n")).unwrap();
    assert_eq!(read(&*text_file(&path, &[]).unwrap(), || 100).unwrap(), ["a", &long, "b"]);
    let split = [("split.bytes", "3 MiB")];
    assert_eq!(read(&*text_file(&path, &split).unwrap(), || 100).unwrap(), ["a", &long, "b"]);
    fs::write(&path, vec![b'x'; 65 << 20]).unwrap();
    let error = read(&*text_file(&path, &[]).unwrap(), || 100).unwrap_err();
    assert!(error.to_string().ends_with("long.txt\", line 1: a record is longer than 67108864 bytes"), "{error}");
}

#[test]
fn a_pipe_is_read_as_it_comes_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let source = text_file(&path, &[]).unwrap();
    let names = source.splits(&context()).unwrap();
    let mut split = source.open(&starts(names), &context()).unwrap().remove(0);
    assert!(matches!(split.poll(10).unwrap(), Polled::Pending), "there is not even a writer");
    let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut writer, b"to be\nor not").unwrap();
    let mut next = || loop {
        match split.poll(10).unwrap() {
            Polled::Rows { rows, .. } => return texts(&rows),
            Polled::Pending => std::thread::sleep(Duration::from_millis(1)),
            Polled::Ended => return vec!["ended".into()],
        }
    };
    assert_eq!(next(), ["to be"]);
    std::io::Write::write_all(&mut writer, b" to be").unwrap();
    drop(writer);
    assert_eq!(next(), ["or not to be"]);
    assert_eq!(next(), ["ended"]);
}

fn rows(from: i64, to: i64) -> Batch {
    let words: ArrayRef =
        Arc::new((from..to).map(|n| Some(format!("word {n}")).filter(|_| n % 5 > 0)).collect::<StringArray>());
    let numbers: ArrayRef = Arc::new((from..to).collect::<Int64Array>());
    Batch::try_from_iter_with_nullable([("word", words, true), ("n", numbers, true)]).unwrap()
}

fn write(
    path: &str,
    shard: usize,
    shards: usize,
    more: &[(&str, &str)],
    batches: &[Batch],
    watch: impl Fn(),
) -> Result<()> {
    let mut options = vec![("connector", "file"), ("path", path)];
    options.extend(more);
    let table = table("word s, n i", &options);
    let input = SinkInput { schema: Arc::clone(&table.schema), updating: false };
    let sink = Builtin::default().sink(&table, &input)?;
    check_options(&table)?;
    assert_eq!(sink.single(), !path.ends_with('/'));
    let mut shard = sink.open(shard, shards, &context())?;
    for batch in batches {
        shard.write(batch.clone())?;
        watch();
        while !shard.flush()? {}
        watch();
    }
    shard.finish()
}

/// The names in a directory that are not hidden, sorted, and how many are hidden.
fn names(directory: &Path) -> (Vec<String>, usize) {
    let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (hidden, mut seen): (Vec<String>, Vec<String>) = all.partition(|name| name.starts_with('.'));
    seen.sort();
    (seen, hidden.len())
}

#[test]
fn a_file_is_seen_when_it_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.jsonl").to_str().unwrap().to_owned();
    let json = [("format", "json")];
    let hidden = || assert_eq!(names(directory.path()), (vec![], 1));
    write(&path, 0, 1, &json, &[rows(4, 5), rows(5, 6)], hidden).unwrap();
    assert_eq!(names(directory.path()), (vec!["out.jsonl".into()], 0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"word\":\"word 4\",\"n\":4}\n{\"word\":null,\"n\":5}\n");

    let error = write(&path, 0, 1, &json, &[], || {}).unwrap_err();
    assert!(error.to_string().ends_with("out.jsonl\": it exists already"), "{error}");
    assert_eq!(error.advice(), Some("choose another 'path', or set 'sink.overwrite' = 'true'"));

    // the old file stands until the new one is complete
    let replace = [("format", "csv"), ("sink.overwrite", "true"), ("csv.header", "true")];
    let old = || assert!(fs::read_to_string(&path).unwrap().starts_with('{'));
    write(&path, 0, 1, &replace, &[rows(4, 6)], old).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "word,n\nword 4,4\n,5\n");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::write(directory.path().join("plain"), "").unwrap();
    assert_eq!(mode(Path::new(&path)), mode(&directory.path().join("plain")), "it may be read like any other file");
}

#[test]
fn a_sink_that_is_dropped_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out/").to_str().unwrap().to_owned() + "/";
    let table = table("word s, n i", &[("connector", "file"), ("path", &path), ("format", "csv")]);
    let input = SinkInput { schema: Arc::clone(&table.schema), updating: false };
    let mut shard = Builtin::default().sink(&table, &input).unwrap().open(0, 1, &context()).unwrap();
    shard.write(rows(0, 10)).unwrap();
    assert!(shard.flush().unwrap());
    assert_eq!(names(&directory.path().join("out")), (vec![], 1));
    drop(shard);
    assert_eq!(names(&directory.path().join("out")), (vec![], 0));
}

#[test]
fn a_directory_gets_parts_and_loses_those_of_an_earlier_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("{}/", directory.path().join("out").display());
    let batches: Vec<Batch> = (0..30).map(|n| rows(n * 100, n * 100 + 100)).collect();
    let rolling = [("format", "json"), ("sink.rolling.bytes", "20000")];
    write(&path, 0, 2, &rolling, &batches[..20], || {}).unwrap();
    write(&path, 1, 2, &rolling, &batches[20..], || {}).unwrap();
    let parts = ["part-0-0", "part-0-1", "part-0-2", "part-1-0", "part-1-1"].map(|part| format!("{part}.jsonl"));
    assert_eq!(names(Path::new(&path)), (parts.to_vec(), 0));

    let glob = format!("{path}part-*");
    let back = source(&table("word s, n i", &[("connector", "file"), ("path", &glob), ("format", "json")])).unwrap();
    let expected: Vec<String> = batches.iter().flat_map(texts).collect();
    assert_eq!(read(&*back, || 1000).unwrap(), expected);

    let error = write(&path, 0, 1, &rolling, &[], || {}).unwrap_err();
    assert!(error.to_string().ends_with("part-0-0.jsonl\": it exists already"), "{error}");
    let replace = [("format", "json"), ("sink.overwrite", "true")];
    write(&path, 0, 1, &replace, &batches[..1], || assert_eq!(names(Path::new(&path)).0.len(), 5)).unwrap();
    assert_eq!(names(Path::new(&path)), (vec!["part-0-0.jsonl".into()], 0));
}

#[test]
fn memory_hands_over_slices_and_keeps_what_is_written() {
    let batches = vec![rows(0, 10), rows(10, 13), rows(13, 20)];
    let sink = MemorySink::new();
    let builtin = Builtin::default()
        .with_source("numbers", Arc::new(MemorySource::new(batches[0].schema(), batches, 2)))
        .with_sink("copy", Arc::new(sink.clone()));
    let from = builtin.source(&table("word s, n i", &[("connector", "memory"), ("name", "numbers")]), &[0, 1]).unwrap();
    let found = read(&*from, || 4).unwrap();
    assert_eq!(found.len(), 20);
    assert!(found[9] == "word 9|9" && found[10] == "word 13|13" && found[19] == "word 12|12", "{found:?}");

    let to = table("word s, n i", &[("connector", "memory"), ("name", "copy")]);
    let to = builtin.sink(&to, &SinkInput { schema: Arc::clone(&to.schema), updating: true }).unwrap();
    to.open(0, 1, &context()).unwrap().write(rows(0, 3)).unwrap();
    assert_eq!((sink.rows(), sink.batches()), (3, vec![rows(0, 3)]));
}

#[test]
fn an_unknown_connector_or_option_is_refused_with_the_nearest_one() {
    let failure = |options: &[(&str, &str)]| {
        let error = source(&table("line s", options)).err().unwrap();
        format!("{error} / {}", error.advice().unwrap_or_default())
    };
    assert_eq!(failure(&[("connector", "fil")]), "unknown connector 'fil' / did you mean 'file'?");
    assert_eq!(
        failure(&[("connector", "print")]),
        "connector 'print' cannot be read / connectors that can be read are kafka, file, datagen, nexmark, memory"
    );
    let file =
        |more: (&'static str, &'static str)| failure(&[("connector", "file"), ("path", "x"), ("format", "json"), more]);
    assert_eq!(
        file(("json.encode.null", "true")),
        "unknown option 'json.encode.null' / did you mean 'json.encode.nulls'?"
    );
    assert_eq!(
        failure(&[("connector", "file"), ("path", "x"), ("format", "jsn")]),
        "unknown format 'jsn' / did you mean 'json'?"
    );
    assert_eq!(
        file(("split.bytes", "many")),
        "option 'split.bytes': 'many' is not a number of bytes / write one such as '4096' or '64 MiB'"
    );
    assert_eq!(
        failure(&[("connector", "memory"), ("name", "x")]),
        "option 'name': nothing in memory is called 'x' / connector 'memory' is for programs, which hand their rows to Builtin"
    );
}

fn zipped(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

#[test]
fn compressed_files_are_read_as_their_text() {
    let directory = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..60_000).map(|n| format!("line {n} of a text that is long enough")).collect();
    let text = lines.join("\n");
    let (start, rest) = text.split_at(text.len() / 3);
    let two = |pack: &dyn Fn(&[u8]) -> Vec<u8>| [pack(start.as_bytes()), pack(rest.as_bytes())].concat();
    let zstd = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
    for (name, bytes, option) in [
        ("a.gz", zipped(text.as_bytes()), "auto"),
        ("b.GZ", two(&zipped), "auto"),
        ("c.txt", two(&zipped), "gzip"),
        ("d.zst", two(&zstd), "auto"),
        ("e.gz", zstd(text.as_bytes()), "zstd"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let source = text_file(&path, &[("compression", option), ("split.bytes", "1000")]).unwrap();
        assert_eq!(source.splits(&context()).unwrap().len(), 1, "{name}: it cannot be cut");
        assert_eq!(read(&*source, || 5000).unwrap(), lines, "{name}");
    }
    let path = directory.path().join("empty.gz");
    fs::write(&path, b"").unwrap();
    assert_eq!(read(&*text_file(&path, &[]).unwrap(), || 10).unwrap(), Vec::<String>::new());
    fs::write(&path, zipped(b"")).unwrap();
    assert_eq!(read(&*text_file(&path, &[]).unwrap(), || 10).unwrap(), Vec::<String>::new());
}

#[test]
fn a_compressed_file_that_is_broken_is_read_up_to_there() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let words: Vec<String> = (0..200_000).map(|_| format!("{:x}", random.random::<u32>())).collect();
    let text = words.join("\n") + "\n";
    for (name, whole) in [("a.gz", zipped(text.as_bytes())), ("a.zst", zstd::encode_all(text.as_bytes(), 1).unwrap())] {
        let path = directory.path().join(name);
        let failure = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let source = text_file(&path, &[]).unwrap();
            let mut split = source.open(&starts(source.splits(&context()).unwrap()), &context()).unwrap().remove(0);
            let mut found = Vec::new();
            loop {
                match split.poll(100) {
                    Ok(Polled::Rows { rows, .. }) => found.extend(texts(&rows)),
                    Ok(Polled::Pending) => unreachable!("a file never makes wait"),
                    Ok(Polled::Ended) => return (found, None),
                    Err(error) => return (found, Some(error.to_string())),
                }
            }
        };
        let (found, error) = failure(&whole[..whole.len() / 2]);
        assert!(found.len() > 5000 && words.starts_with(&found), "{name}, seed {seed}: {} lines", found.len());
        let error = error.expect("half of it is missing");
        assert!(error.contains(name) && error.contains("cannot read on after"), "{error}");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0xff;
        let (found, error) = failure(&flipped);
        // what a checksum finds at the end only is read before
        assert!(error.is_some() || found != words, "{name}, seed {seed}");
        assert!(failure(b"this is no compressed text").1.is_some());
    }
}

#[test]
fn compressed_files_are_written() {
    let directory = tempfile::tempdir().unwrap();
    for (packing, end) in [("gzip", ".gz"), ("zstd", ".zst")] {
        let path = format!("{}/", directory.path().join(packing).display());
        let batches: Vec<Batch> = (0..30).map(|n| rows(n * 1000, n * 1000 + 1000)).collect();
        let options = [("format", "json"), ("sink.compression", packing), ("sink.rolling.bytes", "5 KB")];
        write(&path, 0, 1, &options, &batches, || {}).unwrap();
        let (parts, hidden) = names(Path::new(&path));
        assert!(parts.len() > 1 && hidden == 0 && parts.iter().all(|part| part.ends_with(end)), "{parts:?}");
        let unpack = |bytes: &[u8]| {
            let mut text = Vec::new();
            match packing {
                "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut text).unwrap(),
                _ => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut text).unwrap(),
            };
            text
        };
        let lines: usize = parts
            .iter()
            .map(|part| {
                let text = unpack(&fs::read(Path::new(&path).join(part)).unwrap());
                text.iter().filter(|byte| **byte == b'\n').count()
            })
            .sum();
        assert_eq!(lines, 30_000);
        let back =
            source(&table("word s, n i", &[("connector", "file"), ("path", &path), ("format", "json")])).unwrap();
        let mut found = read(&*back, || 1000).unwrap();
        let mut expected: Vec<String> = batches.iter().flat_map(texts).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

/// The visible files below `directory`, sorted, without it.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(tree(&path).into_iter().map(|below| format!("{name}/{below}"))),
            false if name.starts_with('.') => found.push("(hidden)".into()),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

#[test]
fn rows_are_parted_by_the_names_of_directories_and_come_back() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let odd = [Some("a/b=c"), Some(""), None, Some("100%"), Some(".."), Some("é:\n{x}"), Some("plain")];
    for format in ["json", "csv", "parquet", "avro"] {
        let path = format!("{}/", directory.path().join(format).display());
        let batches: Vec<Batch> = (0..8)
            .map(|_| {
                let count = random.random_range(1..80);
                let words: ArrayRef =
                    Arc::new((0..count).map(|_| odd[random.random_range(0..odd.len())]).collect::<StringArray>());
                let n: ArrayRef = Arc::new(
                    (0..count)
                        .map(|_| (random.random_range(0..9) > 0).then(|| random.random_range(-2..3)))
                        .collect::<Int64Array>(),
                );
                let x: ArrayRef = Arc::new((0..count).map(|_| random.random_range(0..1000)).collect::<Int64Array>());
                Batch::try_from_iter_with_nullable([("word", words, true), ("x", x, true), ("n", n, true)]).unwrap()
            })
            .collect();
        let options = [
            ("connector", "file"),
            ("path", &path),
            ("format", format),
            ("partition.by", "n; word"),
            ("sink.open-files.max", "5"),
            ("sink.rolling.bytes", "300"),
        ];
        let table = table("word s, x i, n i", &options);
        let input = SinkInput { schema: Arc::clone(&table.schema), updating: false };
        let mut shard = Builtin::default().sink(&table, &input).unwrap().open(1, 2, &context()).unwrap();
        for batch in &batches {
            shard.write(batch.clone()).unwrap();
            let hidden = tree(Path::new(&path)).iter().filter(|name| name.ends_with("(hidden)")).count();
            // those that are open, and those that a thread completes
            assert!(hidden <= 5 + 16, "{hidden} files are being written");
            while !shard.flush().unwrap() {}
        }
        shard.finish().unwrap();
        let found = tree(Path::new(&path));
        for part in ["n=__HIVE_DEFAULT_PARTITION__/word=", "/word=a%2Fb%3Dc/part-1-0.", "%3A%0A%7Bx}/part-1-0."] {
            assert!(found.iter().any(|name| name.contains(part)), "{part}: {found:?}");
        }
        assert!(!found.iter().any(|name| name.contains("hidden")), "{found:?}");

        let back = source(&table).unwrap();
        let mut found = read(&*back, || 7).unwrap();
        let mut expected: Vec<String> = batches.iter().flat_map(texts).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "seed {seed}, {format}");
        // in another order, and fewer of them
        let some = Builtin::default().source(&table, &[2]).unwrap();
        let mut found = read(&*some, || 100).unwrap();
        let mut expected: Vec<String> = expected.iter().map(|row| row.rsplit('|').next().unwrap().to_owned()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "seed {seed}, {format}");
        // a later run replaces them all
        let again = [options.as_slice(), &[("sink.overwrite", "true")]].concat();
        let again = self::table("word s, x i, n i", &again);
        for shard in 0..2 {
            let mut shard = Builtin::default().sink(&again, &input).unwrap().open(shard, 2, &context()).unwrap();
            shard.write(batches[0].slice(0, 1)).unwrap();
            shard.finish().unwrap();
        }
        assert_eq!(tree(Path::new(&path)).len(), 2, "{:?}", tree(Path::new(&path)));
    }
}

#[test]
fn a_partition_that_cannot_be_is_refused() {
    let failure = |path: &str, by: &str| {
        let options = [("connector", "file"), ("path", path), ("format", "json"), ("partition.by", by)];
        let table = table("word s, n i", &options);
        let input = SinkInput { schema: Arc::clone(&table.schema), updating: false };
        let error = Builtin::default().sink(&table, &input).err().unwrap();
        format!("{error} / {}", error.advice().unwrap_or_default())
    };
    assert_eq!(failure("x/", "wrd"), "option 'partition.by': there is no column 'wrd' / did you mean 'word'?");
    assert_eq!(failure("x/", "n;n"), "option 'partition.by': column 'n' is there twice / ");
    assert_eq!(failure("x/", "n;word"), "option 'partition.by': no column would be left for the files / ");
    assert_eq!(failure("x", "n"), "option 'path': partitions are directories, and this is a file / write 'x/'");
    // a file whose path does not say the value
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    let read_it = |name: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\"word\": \"to\"}\n").unwrap();
        let options =
            [("connector", "file"), ("path", path.to_str().unwrap()), ("format", "json"), ("partition.by", "n")];
        read(&*source(&table("word s, n i", &options)).unwrap(), || 1)
            .map_err(|error| error.to_string().replace(directory.path().to_str().unwrap(), "DIR"))
    };
    drop(path);
    assert_eq!(read_it("n=7/in").unwrap(), ["to|7"]);
    assert_eq!(read_it("n=x/in").unwrap_err(), "file \"DIR/n=x/in\": directory \"n=x\" is no Int64");
    assert_eq!(
        read_it("m=7/in").unwrap_err(),
        "file \"DIR/m=7/in\": no directory in its path is called \"n=…\", after column \"n\""
    );
}

/// A clock that a test moves.
#[derive(Default)]
struct Hand(std::sync::Mutex<Duration>);

impl highwater::time::Clock for Hand {
    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn wall(&self) -> i64 {
        0
    }
}

#[test]
fn a_part_is_complete_when_it_is_old_even_if_nothing_more_comes() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("{}/", directory.path().display());
    let options = [("connector", "file"), ("path", &path), ("format", "json"), ("sink.rolling.interval", "10 s")];
    let table = table("word s, n i", &options);
    let input = SinkInput { schema: Arc::clone(&table.schema), updating: false };
    let clock = Arc::new(Hand::default());
    let context = Context { clock: Arc::clone(&clock) as _, ..context() };
    let mut shard = Builtin::default().sink(&table, &input).unwrap().open(0, 1, &context).unwrap();
    shard.write(rows(0, 3)).unwrap();
    *clock.0.lock().unwrap() = Duration::from_secs(9);
    shard.write(rows(3, 5)).unwrap();
    assert!(shard.flush().unwrap());
    assert_eq!(names(directory.path()), (vec![], 1));
    *clock.0.lock().unwrap() = Duration::from_secs(10);
    assert!(shard.flush().unwrap());
    let start = std::time::Instant::now();
    while names(directory.path()) != (vec!["part-0-0.jsonl".to_owned()], 0) {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not completed");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read_to_string(directory.path().join("part-0-0.jsonl")).unwrap().lines().count(), 5);
    shard.finish().unwrap();
    assert_eq!(names(directory.path()).0.len(), 1, "no part without rows");
}

#[test]
fn thousands_of_files_are_read_with_few_of_them_open() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..3000 {
        let text = if n % 10 == 0 { String::new() } else { format!("{n}\n{n}\n") };
        fs::write(directory.path().join(format!("{n:04}.txt")), text).unwrap();
    }
    let source = text_file(&directory.path().join("*.txt"), &[]).unwrap();
    let mut splits = source.open(&starts(source.splits(&context()).unwrap()), &context()).unwrap();
    assert_eq!(splits.len(), 3000);
    let mut sum = 0;
    let mut most = 0;
    while !splits.is_empty() {
        splits.retain_mut(|split| match split.poll(1).unwrap() {
            Polled::Rows { rows, .. } => {
                sum += texts(&rows).iter().map(|text| text.parse::<u64>().unwrap()).sum::<u64>();
                true
            }
            Polled::Pending => true,
            Polled::Ended => false,
        });
        most = most.max(fs::read_dir("/proc/self/fd").unwrap().count());
    }
    assert_eq!(sum, (0..3000).filter(|n| n % 10 > 0).sum::<u64>() * 2);
    assert!(most < 500, "{most} files are open");
    // one that vanishes, and one that is replaced, before they are read
    let opened = |name: &str| {
        let source = text_file(&directory.path().join(name), &[]).unwrap();
        let names = source.splits(&context()).unwrap();
        source.open(&starts(names), &context()).unwrap().remove(0)
    };
    let mut gone = opened("0001.txt");
    fs::remove_file(directory.path().join("0001.txt")).unwrap();
    let error = gone.poll(1).unwrap_err().to_string();
    assert!(error.ends_with("0001.txt\": cannot read at byte 0: No such file or directory (os error 2)"), "{error}");
}

#[test]
fn what_is_killed_while_it_writes_leaves_only_whole_files() {
    for format in ["parquet", "avro", "json"] {
        let directory = tempfile::tempdir().unwrap();
        let out = format!("{}/", directory.path().join("out").display());
        let definition = format!(
            "CREATE TABLE numbers (n BIGINT, word STRING) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence');
             CREATE TABLE copy (n BIGINT, word STRING, part BIGINT) PARTITIONED BY (part) WITH ('connector' = 'file', 'path' = '{out}', 'format' = '{format}', 'sink.rolling.bytes' = '100 KB');
             INSERT INTO copy SELECT n, word, n % 3 FROM numbers;"
        );
        fs::write(directory.path().join("p.sql"), definition).unwrap();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(["run", "p.sql", "--workers", "2"])
            .current_dir(directory.path())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(fs::File::create(directory.path().join("err")).unwrap())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        let whole = || if Path::new(&out).exists() { tree(Path::new(&out)) } else { Vec::new() };
        while whole().iter().filter(|name| !name.contains("hidden")).count() < 12 {
            let said = || fs::read_to_string(directory.path().join("err")).unwrap();
            assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let options = [("connector", "file"), ("path", out.as_str()), ("format", format), ("partition.by", "part")];
        let back = source(&table("n i, word s, part i", &options)).unwrap();
        let found = read(&*back, || 5000).unwrap();
        assert!(found.len() > 1000, "{format}: {} rows", found.len());
        for row in &found {
            let mut cells = row.split('|');
            let (n, part) = (cells.next().unwrap(), cells.nth(1).unwrap());
            assert_eq!(n.parse::<i64>().unwrap() % 3, part.parse::<i64>().unwrap(), "{row}");
        }
    }
}

/// What a split that is followed gives until it has nothing for a while; "ended" and errors are rows, too.
fn next_rows(split: &mut dyn Split, clock: &Hand) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        // it is not looked at all the time
        *clock.0.lock().unwrap() += Duration::from_secs(1);
        match split.poll(3) {
            Ok(Polled::Rows { rows, .. }) => found.extend(texts(&rows)),
            Ok(Polled::Pending) => return found,
            Ok(Polled::Ended) => {
                found.push("ended".into());
                return found;
            }
            Err(error) => {
                found.push(error.to_string().rsplit_once('/').unwrap().1.into());
                return found;
            }
        }
    }
}

#[test]
fn a_file_is_followed_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let append = |text: &str| {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let follow = [("scan.follow", "true")];
    let clock = Arc::new(Hand::default());
    let context = Context { clock: Arc::clone(&clock) as _, ..context() };
    let opened = || {
        let source = text_file(&path, &follow).unwrap();
        assert!(!source.bounded() && source.discovery_interval().is_none());
        source.open(&starts(source.splits(&context).unwrap()), &context).unwrap().remove(0)
    };
    append("one\ntw");
    let mut split = opened();
    assert_eq!(next_rows(&mut *split, &clock), ["one"]);
    assert_eq!(next_rows(&mut *split, &clock), Vec::<String>::new(), "a part of a line waits");
    append("o");
    assert_eq!(next_rows(&mut *split, &clock), Vec::<String>::new());
    append("\n\n3\n4\n5\n6\n7");
    assert_eq!(next_rows(&mut *split, &clock), ["two", "", "3", "4", "5", "6"]);
    append(&format!("{}\n", "x".repeat(3 << 20)));
    assert_eq!(next_rows(&mut *split, &clock), ["7".to_owned() + &"x".repeat(3 << 20)]);
    assert_eq!(split.position(), fs::metadata(&path).unwrap().len());
    append("the end");
    assert_eq!(next_rows(&mut *split, &clock), Vec::<String>::new());
    fs::remove_file(&path).unwrap();
    assert_eq!(next_rows(&mut *split, &clock), ["the end", "ended"]);

    append("a\nb\n");
    let mut split = opened();
    assert_eq!(next_rows(&mut *split, &clock), ["a", "b"]);
    fs::write(&path, "a\n").unwrap();
    assert_eq!(next_rows(&mut *split, &clock), ["log\": it was followed for 4 bytes and has only 2 now"]);

    let mut split = opened();
    assert_eq!(next_rows(&mut *split, &clock), ["a"]);
    fs::write(directory.path().join("other"), "a\nb\nc\n").unwrap();
    fs::rename(directory.path().join("other"), &path).unwrap();
    assert_eq!(next_rows(&mut *split, &clock), ["log\": another file was put in its place while it was followed"]);

    let failure = |path: &str, more: &[(&str, &str)]| {
        let all = [&[("connector", "file"), ("path", path), ("scan.follow", "true")], more].concat();
        source(&table("line s", &all)).err().unwrap().to_string()
    };
    assert_eq!(
        failure("-", &[("format", "text")]),
        "option 'scan.follow': standard input is read to its end in any case"
    );
    let grows_not = "option 'scan.follow': a file of this kind does not grow";
    assert_eq!(failure("x.parquet", &[("format", "parquet")]), grows_not);
    assert_eq!(failure("x.gz", &[("format", "text")]), grows_not);
}

#[test]
fn a_directory_is_followed_on_any_number_of_workers() {
    for shape in [&["--workers", "1"][..], &["--workers", "3"], &["--processes", "2", "--workers", "2"]] {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("in");
        fs::create_dir(&inside).unwrap();
        fs::write(
            directory.path().join("p.sql"),
            "CREATE TABLE lines (line STRING) WITH ('connector' = 'file', 'path' = 'in/*', 'format' = 'text', 'scan.follow' = 'true', 'scan.follow.interval' = '10 ms');
             CREATE TABLE out (line STRING) WITH ('connector' = 'print', 'print.format' = 'json');
             INSERT INTO out SELECT line FROM lines;",
        )
        .unwrap();
        let create = |name: &str| fs::File::create(directory.path().join(name)).unwrap();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(["run", "p.sql"])
            .args(shape)
            .current_dir(directory.path())
            .stdin(std::process::Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .unwrap();
        let mut expected: Vec<String> = Vec::new();
        let mut wait_for = |new: &[&str]| {
            expected.extend(new.iter().map(|line| format!("{{\"line\":\"{line}\"}}")));
            expected.sort();
            let start = std::time::Instant::now();
            loop {
                let text = fs::read_to_string(directory.path().join("stdout")).unwrap();
                let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
                found.sort();
                if found == expected && text.ends_with('\n') {
                    return;
                }
                let said = || fs::read_to_string(directory.path().join("stderr")).unwrap();
                let patient = start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none();
                assert!(patient, "{shape:?}: {found:?} instead of {expected:?}\n{}", said());
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let append = |name: &str, bytes: &[u8]| {
            fs::OpenOptions::new().append(true).create(true).open(inside.join(name)).unwrap().write_all(bytes).unwrap();
        };
        append("a", b"1\n2\n3");
        wait_for(&["1", "2"]);
        append("b", b"b1\n");
        append(".hidden", b"no\n");
        // a compressed file comes complete
        append(".packed", &zipped(b"p1\np2"));
        fs::rename(inside.join(".packed"), inside.join("c.gz")).unwrap();
        wait_for(&["b1", "p1", "p2"]);
        append("a", b"3\n4\n");
        append("b", b"b2\n");
        wait_for(&["33", "4", "b2"]);
        if shape.len() > 2 {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM)
                .unwrap();
            let status = child.wait().unwrap();
            let said = fs::read_to_string(directory.path().join("stderr")).unwrap();
            assert!(status.code().is_some() && !said.contains("panicked"), "{status}: {said}");
            continue;
        }
        // one that is gone has ended; another one of its name was never to be
        fs::remove_file(inside.join("b")).unwrap();
        append("a", b"5\n");
        wait_for(&["5"]);
        std::thread::sleep(Duration::from_millis(100));
        append("b", b"another\n");
        let status = child.wait().unwrap();
        let said = fs::read_to_string(directory.path().join("stderr")).unwrap();
        let replaced = "file \"in/b\": another file was put in its place while it was followed";
        assert!(!status.success() && said.contains(replaced), "{status}: {said}");
    }
}

#[test]
fn the_bytes_of_a_sink_are_those_of_its_files() {
    for (format, options) in [("json", ""), ("csv", ", 'compression' = 'gzip'"), ("parquet", ""), ("avro", "")] {
        let directory = tempfile::tempdir().unwrap();
        let folder = format!("{}/", directory.path().join("out").display());
        let text = format!(
            "CREATE TABLE t (n BIGINT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.end' = '60000');
             CREATE TABLE o (n BIGINT) WITH ('connector' = 'file', 'path' = '{folder}', 'format' = '{format}'{options});
             INSERT INTO o SELECT n FROM t;"
        );
        let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &Builtin::default()).unwrap();
        let running = runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default())).unwrap();
        let (snapshot, result) = running.wait();
        result.unwrap();
        let sizes = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        let written = snapshot.steps.iter().find(|step| step.role == Role::Sink).unwrap().bytes;
        assert_eq!(written, sizes.sum::<u64>(), "{format}");
        assert!(written > 10_000, "{format}");
    }
}

#[test]
fn a_row_may_say_which_file_it_is_from_and_how_old_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("in");
    fs::create_dir_all(folder.join("day=1")).unwrap();
    let mut expected = Vec::new();
    for (name, second) in [("day=1/a.csv", 1_700_000_000_u64), ("day=1/b.csv", 1_700_000_123)] {
        let path = folder.join(name);
        fs::write(&path, format!("{name}\n{name}\n")).unwrap();
        let modified = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let row = format!("{name} 1 {} {}", path.display(), second * 1_000_000);
        expected.extend([row.clone(), row]);
    }
    let text = format!(
        "CREATE TABLE t (path STRING METADATA, name STRING, day INT, changed TIMESTAMP(3) METADATA FROM 'modified' VIRTUAL)
           PARTITIONED BY (day) WITH ('connector' = 'file', 'path' = '{}/', 'format' = 'csv');
         CREATE TABLE o (name STRING, day INT, path STRING, changed TIMESTAMP(3)) WITH ('connector' = 'memory');
         INSERT INTO o SELECT name, day, path, changed FROM t;",
        folder.display()
    );
    let sink = MemorySink::new();
    let connectors = Builtin::default().with_sink("o", Arc::new(sink.clone()));
    let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &connectors).unwrap();
    runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default())).unwrap().wait().1.unwrap();
    let mut found = Vec::new();
    for batch in sink.batches() {
        let times = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            let text = |column: usize| batch.column(column).as_string::<i32>().value(row);
            let day = batch.column(1).as_primitive::<Int32Type>().value(row);
            found.push(format!("{} {day} {} {}", text(0), text(2), times.value(row)));
        }
    }
    found.sort();
    assert_eq!(found, expected);

    // what is known of a file is not written into one
    let text = text.replace("INSERT INTO o SELECT name, day, path, changed FROM t", "INSERT INTO t SELECT 'x', 'y', 2");
    let wrong = sql::plan(Text { name: "p.sql", sql: &text }, &[], &connectors).err().unwrap();
    assert!(wrong.to_string().contains("column 'path' is metadata that cannot be written"), "{wrong}");
}
