//! Where a split of a file says that it stands, a later run goes on: with exactly the rest, of every format and kind of split, and
//! not at all if the file is no longer what it was.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use highwater::batch::Batch;
use highwater::connector::builtin::Builtin;
use highwater::connector::{Connectors, Context, Options, Polled, SinkInput, Source, Split, SplitStart, Table};
use highwater::error::{Error, Result};
use highwater::time::Clock;
use pipeline::{for_seeds, texts};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock that goes on by a second whenever it is asked, so that nothing waits.
#[derive(Default)]
struct Hasty(AtomicU64);

impl Clock for Hasty {
    fn wall(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn context() -> Context {
    Context { embedded_broker: None, clock: Arc::new(Hasty::default()), workers: 1 }
}

/// A table of a word, a number and the directory that it is in.
fn table(path: &Path, format: &str, more: &[(&str, &str)]) -> Table {
    let path = path.to_str().expect("a test's path is UTF-8");
    let fixed = [("connector", "file"), ("path", path), ("format", format), ("partition.by", "p")];
    let options = fixed.iter().chain(more).map(|(name, text)| ((*name).to_owned(), (*text).into()));
    let mut fields = vec![Field::new("word", DataType::Utf8, true)];
    if format != "text" {
        fields.push(Field::new("n", DataType::Int64, true));
    }
    fields.push(Field::new("p", DataType::Int64, true));
    Table {
        name: "t".into(),
        schema: Arc::new(Schema::new(fields)),
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options: Options::new(options),
    }
}

fn source_of(table: &Table) -> Arc<dyn Source> {
    Builtin::default().source(table, &(0..table.schema.fields().len()).collect::<Vec<_>>()).unwrap()
}

fn open(source: &dyn Source, start: SplitStart) -> Box<dyn Split> {
    source.open(&[start], &context()).unwrap().remove(0)
}

/// Writes a random file in directory `p=7` and says where it is and how it is read.
fn random_file(random: &mut StdRng, directory: &Path) -> (PathBuf, &'static str, Vec<(&'static str, String)>) {
    let format = *["text", "json", "csv", "parquet", "avro"].choose(random).unwrap();
    let folder = directory.join("p=7");
    fs::create_dir(&folder).unwrap();
    let rows = random.random_range(0..400);
    let mut options = vec![("split.bytes", random.random_range(1..4000).to_string())];
    if matches!(format, "parquet" | "avro") {
        let path = folder.join("in");
        let columns = vec![Field::new("word", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
        let schema = Arc::new(Schema::new(columns));
        let fixed = [("connector", "file"), ("path", path.to_str().unwrap()), ("format", format)];
        let more = if format == "parquet" { vec![("parquet.row-group.bytes", "700")] } else { vec![] };
        let all = fixed.into_iter().chain(more).map(|(name, text)| (name.to_owned(), text.into()));
        let out = Table { schema: Arc::clone(&schema), options: Options::new(all), ..table(&path, format, &[]) };
        let input = SinkInput { schema: Arc::clone(&schema), updating: false };
        let mut shard = Builtin::default().sink(&out, &input).unwrap().open(0, 1, &context()).unwrap();
        let mut from = 0_i64;
        while from < rows {
            let to = (from + random.random_range(1..2000)).min(rows);
            let words: ArrayRef =
                Arc::new((from..to).map(|n| (n % 5 > 0).then(|| format!("word {n}"))).collect::<StringArray>());
            let numbers: ArrayRef = Arc::new((from..to).collect::<Int64Array>());
            shard.write(Batch::try_new(Arc::clone(&schema), vec![words, numbers]).unwrap()).unwrap();
            from = to;
        }
        shard.finish().unwrap();
        return (path, format, options);
    }
    let end = *["\n", "\r\n"].choose(random).unwrap();
    let mut text = String::new();
    if random.random_bool(0.3) && format != "text" {
        text.push('\u{feff}');
    }
    if format == "csv" && random.random() {
        options.push(("csv.header", "true".into()));
        text.push_str(&format!("word,n{end}"));
    }
    options.push(("on_error", "skip".into()));
    for n in 0..rows {
        match format {
            "text" => text.push_str(&"é".repeat(random.random_range(0..30))),
            // some are bad, some are nothing
            "json" if random.random_bool(0.1) => text.push_str("{\"n\": \"many\"}"),
            "json" if random.random_bool(0.1) => {}
            "json" => text.push_str(&format!("{{\"word\": \"to be\", \"n\": {n}}}")),
            _ if random.random_bool(0.1) => text.push_str("or,not"),
            _ if random.random_bool(0.1) => {}
            _ => text.push_str(&format!("\"to{end}be\",{n}")),
        }
        text.push_str(end);
    }
    let kind = random.random_range(0..4);
    if kind == 3 {
        options.push(("scan.follow", "true".into()));
    } else if random.random() && text.ends_with(end) {
        text.truncate(text.len() - end.len());
    }
    let (name, bytes) = match kind {
        1 => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(text.as_bytes()).unwrap();
            ("in.gz", packer.finish().unwrap())
        }
        2 => ("in.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
        _ => ("in", text.into_bytes()),
    };
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    (path, format, options)
}

/// What is polled at most `polls` times: rows and bad records, in order, and whether that was all. A followed file ends here with what it has.
fn polled(
    split: &mut dyn Split,
    random: &mut StdRng,
    mut polls: usize,
    size: u64,
    follows: bool,
) -> (Vec<String>, bool) {
    let mut found = Vec::new();
    while polls > 0 {
        polls -= 1;
        match split.poll(random.random_range(1..60)).unwrap() {
            Polled::Rows { rows, .. } => {
                let mut rows = texts(&rows).into_iter();
                let bad = split.take_refused();
                assert!(rows.len() + bad.len() > 0);
                // bad ones are told after the rows of their poll: their own order is enough
                found.extend(&mut rows);
                found.extend(bad.into_iter().map(|bad| format!("{} {:?}", bad.reason, bad.record)));
            }
            Polled::Pending if follows && split.position() == size => return (found, true),
            Polled::Pending => assert!(follows || !split.caught_up()),
            Polled::Ended => return (found, true),
        }
    }
    (found, false)
}

/// Rows, then bad records, each in order.
fn apart(found: Vec<String>) -> (Vec<String>, Vec<String>) {
    found.into_iter().partition(|text| !text.contains("Some(["))
}

#[test]
fn reading_goes_on_where_a_split_said_that_it_stood() {
    for_seeds(60, |random| {
        let directory = tempfile::tempdir().unwrap();
        let (path, format, options) = random_file(random, directory.path());
        let options: Vec<(&str, &str)> = options.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let follows = options.contains(&("scan.follow", "true"));
        let size = fs::metadata(&path).unwrap().len();
        let source = source_of(&table(&path, format, &options));
        for name in source.splits(&context()).unwrap() {
            let (expected, _) =
                polled(&mut *open(&*source, SplitStart::whole(&name)), random, usize::MAX, size, follows);
            let mut start = SplitStart::whole(&name);
            let mut found = Vec::new();
            loop {
                let mut split = open(&*source, start.clone());
                let polls = random.random_range(0..8);
                let (rows, ended) = polled(&mut *split, random, polls, size, follows);
                found.extend(rows);
                start.position = Some(split.position());
                start = source.resume(vec![start], false, &context()).unwrap().remove(0);
                assert_eq!(start.name, name);
                if ended {
                    break;
                }
                assert!(found.len() <= expected.len(), "{name} {options:?}: it says more than there is");
            }
            assert_eq!(apart(found), apart(expected), "{name} {options:?}");
            if !follows {
                // what was read to its end needs no file
                let hidden = directory.path().join("hidden");
                fs::rename(&path, &hidden).unwrap();
                let start = source.resume(vec![start], false, &context()).unwrap().remove(0);
                let mut split = open(&*source, start.clone());
                assert!(matches!(split.poll(10).unwrap(), Polled::Ended));
                assert_eq!(Some(split.position()), start.position);
                fs::rename(&hidden, &path).unwrap();
            }
        }
    });
}

#[test]
fn columns_that_are_not_read_do_not_move_positions() {
    for_seeds(60, |random| {
        let directory = tempfile::tempdir().unwrap();
        let (path, format, options) = random_file(random, directory.path());
        let options: Vec<(&str, &str)> = options.iter().map(|(name, text)| (*name, text.as_str())).collect();
        if options.contains(&("scan.follow", "true")) {
            return;
        }
        let table = table(&path, format, &options);
        // only the directory's column: nothing of the file itself
        let source = Builtin::default().source(&table, &[table.schema.fields().len() - 1]).unwrap();
        let count = |split: &mut dyn Split| {
            let mut rows = 0;
            loop {
                match split.poll(70).unwrap() {
                    Polled::Rows { rows: some, .. } => rows += some.num_rows(),
                    Polled::Pending => {}
                    Polled::Ended => return rows,
                }
            }
        };
        for name in source.splits(&context()).unwrap() {
            let all = count(&mut *open(&*source, SplitStart::whole(&name)));
            let mut split = open(&*source, SplitStart::whole(&name));
            let first = match split.poll(random.random_range(1..100)).unwrap() {
                Polled::Rows { rows, .. } => rows.num_rows(),
                _ => 0,
            };
            let position = Some(split.position());
            let rest = count(&mut *open(&*source, SplitStart { name: name.clone(), position }));
            assert_eq!(first + rest, all, "{name}");
        }
    });
}

/// Rows of one column of text.
fn lines(batch: &Batch) -> Vec<String> {
    texts(batch).into_iter().map(|text| text.trim_matches('"').to_owned()).collect()
}

/// A source of `text` at `path`, its only split read for one poll of two rows, and where that is.
fn begun(path: &Path, bytes: &[u8], more: &[(&str, &str)]) -> (Arc<dyn Source>, SplitStart) {
    fs::write(path, bytes).unwrap();
    let fixed = [("connector", "file"), ("path", path.to_str().unwrap()), ("format", "text")];
    let options = fixed.iter().chain(more).map(|(name, text)| ((*name).to_owned(), (*text).into()));
    let schema = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, true)]));
    let table = Table {
        name: "t".into(),
        schema,
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options: Options::new(options),
    };
    let source = source_of(&table);
    let name = source.splits(&context()).unwrap().remove(0);
    let mut split = open(&*source, SplitStart::whole(&name));
    assert!(matches!(split.poll(2).unwrap(), Polled::Rows { .. }));
    let position = Some(split.position());
    (source, SplitStart { name, position })
}

fn said(directory: &Path, error: &Error) -> String {
    let text = format!("{error} / {}", error.advice().unwrap_or_default());
    text.replace(directory.to_str().unwrap(), "DIR")
}

#[test]
fn a_file_that_is_no_longer_what_it_was_is_refused_or_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let (source, start) = begun(&path, b"1\n2\n3\n4\n", &[]);
    let resume = |accept_gap| -> Result<SplitStart> {
        Ok(source.resume(vec![start.clone()], accept_gap, &context())?.remove(0))
    };
    let refused = || {
        let left = resume(true).unwrap();
        assert!(matches!(open(&*source, left).poll(9).unwrap(), Polled::Ended), "the gap is accepted");
        said(directory.path(), &resume(false).unwrap_err())
    };
    assert_eq!(resume(false).unwrap(), start);
    // what came to it is not the run's
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"5\n").unwrap();
    let again = resume(false).unwrap();
    assert!(matches!(open(&*source, again).poll(9).unwrap(), Polled::Rows { rows, .. } if lines(&rows) == ["3", "4"]));

    let help = "put the file back as it was, or accept the gap to go on without the rest of it";
    fs::write(&path, "1\n2\n3\n").unwrap();
    assert_eq!(
        refused(),
        format!("file \"DIR/a\": it had 8 bytes and has only 6 now; it was read up to byte 4 / {help}")
    );
    fs::write(directory.path().join("b"), "1\n2\n3\n4\n").unwrap();
    fs::rename(directory.path().join("b"), &path).unwrap();
    assert_eq!(refused(), format!("file \"DIR/a\": another file is in its place; it was read up to byte 4 / {help}"));
    fs::remove_file(&path).unwrap();
    assert_eq!(refused(), format!("file \"DIR/a\": it is gone; it was read up to byte 4 / {help}"));
}

#[test]
fn a_followed_file_is_read_on_or_from_what_is_there_now() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (source, start) = begun(&path, b"1\n2\n3\n", &[("scan.follow", "true")]);
    let next = |start: SplitStart| match open(&*source, start).poll(9).unwrap() {
        Polled::Rows { rows, .. } => lines(&rows),
        Polled::Pending => vec!["nothing".into()],
        Polled::Ended => vec!["ended".into()],
    };
    let resume = |accept_gap| source.resume(vec![start.clone()], accept_gap, &context()).map(|mut all| all.remove(0));
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"4\n").unwrap();
    assert_eq!(next(resume(false).unwrap()), ["3", "4"]);
    let end = SplitStart { position: Some(8), ..start.clone() };
    assert_eq!(next(end), ["nothing"]);

    let help = "put the file back, or accept the gap to go on with what is there now";
    // cut off: what comes now is written from its start
    fs::write(&path, "a\n").unwrap();
    let error = said(directory.path(), &resume(false).unwrap_err());
    assert_eq!(
        error,
        format!("file \"DIR/log\": it had 4 bytes and has only 2 now; it was read up to byte 4 / {help}")
    );
    assert_eq!(next(resume(true).unwrap()), ["a"]);
    fs::write(directory.path().join("other"), "other\nlines\n").unwrap();
    fs::rename(directory.path().join("other"), &path).unwrap();
    let error = said(directory.path(), &resume(false).unwrap_err());
    assert_eq!(error, format!("file \"DIR/log\": another file is in its place; it was read up to byte 4 / {help}"));
    let accepted = resume(true).unwrap();
    assert_eq!(source.discover(std::slice::from_ref(&accepted.name), &context()).unwrap(), Vec::<String>::new());
    assert_eq!(next(accepted), ["other", "lines"]);
    fs::remove_file(&path).unwrap();
    assert!(resume(false).unwrap_err().to_string().ends_with("it is gone; it was read up to byte 4"));
    assert_eq!(next(resume(true).unwrap()), ["ended"]);
}

#[test]
fn what_comes_once_cannot_be_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    for (name, place) in
        [("-:pipe".to_owned(), "standard input"), (format!("{}:pipe", path.display()), "file \"DIR/pipe\"")]
    {
        let file = directory.path().join("any");
        let (source, _) = begun(&file, b"1\n2\n", &[]);
        let resume = |position, accept_gap| {
            source
                .resume(vec![SplitStart { name: name.clone(), position }], accept_gap, &context())
                .map(|mut all| all.remove(0))
        };
        let error = said(directory.path(), &resume(Some(5), false).unwrap_err());
        let expected = "what was read of it before the restart cannot be read again, nor what was on its way / start anew, or accept the gap to go on with what comes now; a file or a topic can be read on after a restart";
        assert_eq!(error, format!("{place}: {expected}"));
        assert_eq!(resume(Some(5), true).unwrap(), SplitStart::whole(&name));
        let ended = resume(Some(u64::MAX), false).unwrap();
        assert!(matches!(open(&*source, ended).poll(1).unwrap(), Polled::Ended), "it was read to its end");
    }
}

#[test]
fn a_compressed_file_that_has_less_than_was_read_of_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pack = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let (source, start) = begun(&directory.path().join("a.zst"), &pack("1\n2\n3\n"), &[]);
    let beyond = SplitStart { position: Some(100), ..start };
    let error = open(&*source, beyond).poll(3).unwrap_err();
    assert!(
        error.to_string().ends_with("a.zst\": 100 bytes of its text were read before, and it has only 6 now"),
        "{error}"
    );
    // its lines are known, for they were counted on the way
    let (source, start) = begun(&directory.path().join("b.zst"), &pack("1\n2\n3\n4\n"), &[]);
    let mut split = open(&*source, start);
    assert!(matches!(split.poll(9).unwrap(), Polled::Rows { rows, .. } if lines(&rows) == ["3", "4"]));
    assert!(split.place(1).ends_with("b.zst\", line 4"), "{}", split.place(1));
}

#[test]
fn what_was_read_of_a_large_compressed_file_is_passed_over_a_little_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let all: Vec<String> = (0..200_000).map(|n| format!("line {n} of a long text")).collect();
    let packed = zstd::encode_all(all.join("\n").as_bytes(), 1).unwrap();
    let (source, start) = begun(&directory.path().join("long.zst"), &packed, &[]);
    let mut split = open(&*source, start.clone());
    // two lines were read before
    let mut found = 2;
    while found < 150_000 {
        match split.poll(4000).unwrap() {
            Polled::Rows { rows, .. } => found += rows.num_rows(),
            other => panic!("{other:?}"),
        }
    }
    let position = split.position();
    let mut split = open(&*source, SplitStart { position: Some(position), ..start });
    let (mut waits, mut rest) = (0, Vec::new());
    loop {
        match split.poll(5000).unwrap() {
            Polled::Rows { rows, .. } => rest.extend(lines(&rows)),
            Polled::Pending => {
                waits += 1;
                assert_eq!((split.position(), split.caught_up()), (position, false));
            }
            Polled::Ended => break,
        }
    }
    assert!(waits >= 3, "4 MB are more than a few milliseconds");
    assert_eq!(rest, all[found..]);
}
