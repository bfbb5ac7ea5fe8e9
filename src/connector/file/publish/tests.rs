//! Publishers that stop anywhere, or are overtaken anywhere: what can be seen is each row of the published checkpoints, once.

use super::*;
use crate::connector::file::FileSource;
use crate::connector::{Context, OptionText, Options, Polled, Sink, Source, SplitStart, Staging, Table};
use crate::time::SystemClock;
use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;

type Hook = Box<dyn FnMut(&Path) -> Result<()>>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Asks the test, which may do something else meanwhile.
pub fn step(path: &Path) -> Result<()> {
    let Some(mut hook) = HOOK.take() else { return Ok(()) };
    let outcome = hook(path);
    HOOK.set(Some(hook));
    outcome
}

/// Makes the `steps`-th change fail, and all after it.
fn stop_after(mut steps: usize) {
    HOOK.set(Some(Box::new(move |_| {
        if steps == 0 {
            return Err(Error::unavailable("stopped"));
        }
        steps -= 1;
        Ok(())
    })));
}

const COLUMNS: [(&str, DataType); 3] = [("word", DataType::Utf8), ("n", DataType::Int64), ("p", DataType::Int64)];

fn schema() -> SchemaRef {
    Arc::new(Schema::new(COLUMNS.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

fn table(path: &Path, options: &[(&str, &str)]) -> Table {
    let path = path.to_str().expect("a test's path is UTF-8");
    let all = [("connector", "file"), ("path", path)].into_iter().chain(options.iter().copied());
    let options = all.map(|(name, text)| (name.to_owned(), OptionText::from(text)));
    Table {
        name: "t".into(),
        schema: schema(),
        metadata: Default::default(),
        primary_key: Vec::new(),
        key_trusted: false,
        options: Options::new(options),
    }
}

fn context(clock: &Arc<dyn Clock>) -> Context {
    Context { embedded_broker: None, clock: Arc::clone(clock), workers: 2 }
}

fn rows(random: &mut StdRng, next: &mut i64) -> Batch {
    let from = *next;
    *next += random.random_range(0..40);
    let numbers = from..*next;
    let words: ArrayRef = Arc::new(numbers.clone().map(|n| Some(format!("word {n}"))).collect::<StringArray>());
    let directories: ArrayRef = Arc::new(numbers.clone().map(|n| (n % 4 > 0).then_some(n % 4)).collect::<Int64Array>());
    let numbers: ArrayRef = Arc::new(numbers.collect::<Int64Array>());
    Batch::try_new(schema(), vec![words, numbers, directories]).unwrap()
}

/// The column `n` of all that can be seen at `path`, sorted.
fn seen(path: &Path, options: &[(&str, &str)]) -> Vec<i64> {
    let exists = if path.to_str().unwrap().ends_with('/') { !tree(path).is_empty() } else { path.exists() };
    if !exists {
        return Vec::new();
    }
    let table = table(path, options);
    let source = FileSource::new(&table, &[1]).unwrap();
    let context = context(&(Arc::new(SystemClock::default()) as _));
    let starts: Vec<SplitStart> = source.splits(&context).unwrap().into_iter().map(SplitStart::whole).collect();
    let mut found = Vec::new();
    for mut split in source.open(&starts, &context).unwrap() {
        while let Polled::Rows { rows, .. } = split.poll(1000).unwrap() {
            let column = rows.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
            found.extend(column.iter().map(|n| n.expect("no number is NULL")));
        }
    }
    found.sort_unstable();
    found
}

/// The visible files below `folder`, sorted.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            _ if name.starts_with('.') => {}
            true => found.extend(tree(&path).into_iter().map(|below| format!("{name}/{below}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// What is in the hidden directory `folder`, sorted.
fn hidden(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn name(incarnation: &str, shard: usize) -> ShardName {
    ShardName { pipeline: "p".into(), incarnation: incarnation.into(), table: "t".into(), shard }
}

fn for_seeds(runs: usize, check: impl Fn(&mut StdRng)) {
    let given = std::env::var("HIGHWATER_SEED").ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    for _ in 0..if given.is_some() { 1 } else { runs } {
        let seed = given.unwrap_or_else(rand::random);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut StdRng::seed_from_u64(seed))));
        HOOK.set(None);
        if let Err(panic) = caught {
            eprintln!("to see this again: HIGHWATER_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A random sink, its table's options and path, and the records of some checkpoints.
struct Case {
    sink: FileSink,
    options: Vec<(&'static str, &'static str)>,
    path: PathBuf,
    ledger: PathBuf,
    epochs: Vec<(Epoch, Vec<Batch>)>,
    clock: Arc<dyn Clock>,
    _folder: tempfile::TempDir,
}

impl Case {
    fn random(random: &mut StdRng) -> Case {
        // below the directory of the test, which has no such folder where builds go elsewhere
        std::fs::create_dir_all("target").unwrap();
        let folder = tempfile::tempdir_in("target").unwrap();
        let single = random.random_bool(0.25);
        let mut options = vec![("format", *["json", "json", "csv", "parquet", "avro"].choose(random).unwrap())];
        if !single {
            options.push(("sink.rolling.bytes", *["1", "500", "3000", "1 MB"].choose(random).unwrap()));
            if random.random() {
                options.push(("partition.by", "p"));
                options.push(("sink.open-files.max", "2"));
            }
        }
        // Most paths of definitions are not from the root.
        let here = std::env::current_dir().unwrap();
        let root = match random.random() {
            true => folder.path(),
            false => folder.path().strip_prefix(&here).expect("it was made below"),
        };
        let path = root.join(if single { "out" } else { "out/" });
        let ledger = folder.path().join(if single { ".out.highwater" } else { "out/.highwater" });
        let (mut epoch, mut next) = (0, 0);
        let epochs = (0..random.random_range(1..12)).map(|_| {
            epoch += random.random_range(1..5);
            let batches = if random.random_bool(0.2) { 0 } else { random.random_range(1..4) };
            (epoch, (0..batches).map(|_| rows(random, &mut next)).collect())
        });
        Case {
            epochs: epochs.collect(),
            sink: FileSink::new(&table(&path, &options)).unwrap(),
            clock: Arc::new(SystemClock::default()),
            options,
            path,
            ledger,
            _folder: folder,
        }
    }

    fn publisher(&self, shard: &ShardName) -> Result<FilePublisher> {
        FilePublisher::new(&self.sink, shard, Arc::clone(&self.clock), 1)
    }

    fn publish(&self, publisher: &mut FilePublisher) -> Result<()> {
        let from = publisher.published();
        for (epoch, batches) in self.epochs.iter().filter(|(epoch, _)| Some(*epoch) > from) {
            publisher.publish(*epoch, &mut batches.iter().cloned().map(Ok))?;
        }
        publisher.finish(true)
    }

    fn seen(&self) -> Vec<i64> {
        seen(&self.path, &self.options)
    }

    /// The numbers of the records up to `epoch`.
    fn expected(&self, epoch: Option<Epoch>) -> Vec<i64> {
        let batches = self.epochs.iter().filter(|(of, _)| Some(*of) <= epoch).flat_map(|(_, batches)| batches);
        (0..batches.map(Batch::num_rows).sum::<usize>() as i64).collect()
    }

    fn check_end(&self) {
        assert_eq!(self.seen(), self.expected(Some(Epoch::MAX)), "{:?}: {:?}", self.options, tree(&self.path));
        let found = hidden(&self.ledger);
        assert_eq!(found, self.last().map(|last| format!("{INCARNATION}-0-{last}")).into_iter().collect::<Vec<_>>());
    }

    /// The last epoch that is published: the one that the marker names, which is none before the last with rows.
    fn last(&self) -> Option<Epoch> {
        let ledger = hidden(&self.ledger);
        let last = ledger.iter().filter_map(|name| name.rsplit_once('-')?.1.parse::<Epoch>().ok()).max();
        let rows = |batches: &[Batch]| batches.iter().any(|batch| batch.num_rows() > 0);
        let least = self.epochs.iter().rfind(|(_, batches)| self.sink.single() || rows(batches));
        assert!(last >= least.map(|(epoch, _)| *epoch) && last <= self.epochs.last().map(|(epoch, _)| *epoch));
        assert_eq!(last.is_some(), least.is_some());
        last
    }
}

const INCARNATION: &str = "00000000000000ab";

#[test]
fn a_publisher_that_stops_anywhere_is_followed_by_one_that_goes_on() {
    for_seeds(50, |random| {
        let case = Case::random(random);
        loop {
            let crashes = random.random_bool(0.85);
            if crashes {
                stop_after(random.random_range(0..30));
            }
            let mut publisher = match case.publisher(&name(INCARNATION, 0)) {
                Ok(publisher) => publisher,
                Err(error) => {
                    assert!(crashes, "{error}");
                    HOOK.set(None);
                    continue;
                }
            };
            assert_eq!(case.seen(), case.expected(publisher.published()), "{:?}", case.options);
            let outcome = case.publish(&mut publisher);
            HOOK.set(None);
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    assert!(crashes && error.kind() == ErrorKind::Unavailable, "{error}");
                    let seen = case.seen();
                    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "a row is there twice: {seen:?}");
                    // dead, or only dropped
                    if random.random() {
                        std::mem::forget(publisher);
                    }
                }
            }
        }
        case.check_end();
        // and nothing is done a second time
        let mut again = case.publisher(&name(INCARNATION, 0)).unwrap();
        assert_eq!(again.published(), case.last());
        again.finish(true).unwrap();
        drop(again);
        case.check_end();
    });
}

#[test]
fn a_publisher_that_was_overtaken_anywhere_changes_nothing_more() {
    for_seeds(50, |random| {
        let case = std::rc::Rc::new(Case::random(random));
        let mut old = case.publisher(&name(INCARNATION, 0)).unwrap();
        let when = random.random_range(0..25);
        let (mut steps, other) = (0, std::rc::Rc::clone(&case));
        let overtaken = std::rc::Rc::new(std::cell::Cell::new(false));
        let told = std::rc::Rc::clone(&overtaken);
        HOOK.set(Some(Box::new(move |_| {
            steps += 1;
            if steps == when {
                told.set(true);
                let mut new = other.publisher(&name(INCARNATION, 0)).unwrap();
                other.publish(&mut new).unwrap();
            }
            Ok(())
        })));
        let outcome = case.publish(&mut old);
        HOOK.set(None);
        if !overtaken.get() {
            outcome.unwrap();
        } else if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        }
        drop(old);
        case.check_end();
    });
}

fn publish(publisher: &mut FilePublisher, epoch: Epoch, batches: &[Batch]) {
    publisher.publish(epoch, &mut batches.iter().cloned().map(Ok)).unwrap();
}

/// A clock that a test moves.
#[derive(Default)]
struct Hand(std::sync::Mutex<Duration>);

impl Clock for Hand {
    fn wall(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

fn some(random: &mut StdRng, next: &mut i64) -> Batch {
    loop {
        let rows = rows(random, next);
        if rows.num_rows() > 0 {
            return rows;
        }
    }
}

#[test]
fn parts_are_complete_by_size_or_age_and_named_after_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/");
    let options = [("format", "json"), ("sink.rolling.bytes", "5 KB"), ("sink.rolling.interval", "10 s")];
    let sink = FileSink::new(&table(&path, &options)).unwrap();
    let clock = Arc::new(Hand::default());
    let context = context(&(Arc::clone(&clock) as _));
    let staging = sink.staging().unwrap();
    assert_eq!(staging.how(), "files that appear whole");
    let mut publisher = staging.publisher(&name(INCARNATION, 3), &context).unwrap();
    assert_eq!(publisher.published(), None);
    let (mut random, mut next) = (StdRng::seed_from_u64(1), 0);
    let mut publish = |publisher: &mut dyn Publisher, epoch: Epoch, batches: usize| {
        let batches: Vec<Batch> = (0..batches).map(|_| some(&mut random, &mut next)).collect();
        publisher.publish(epoch, &mut batches.into_iter().map(Ok)).unwrap();
        next
    };
    // no rows, no file
    publish(&mut *publisher, 1, 0);
    assert_eq!((publisher.published(), tree(&path)), (None, vec![]));
    publish(&mut *publisher, 2, 1);
    assert_eq!((publisher.published(), tree(&path)), (None, vec![]));
    *clock.0.lock().unwrap() = Duration::from_secs(10);
    publish(&mut *publisher, 5, 0);
    assert_eq!((publisher.published(), tree(&path)), (Some(5), vec!["part-3-5.jsonl".to_owned()]));
    publish(&mut *publisher, 6, 1);
    assert_eq!(publisher.published(), Some(5));
    publish(&mut *publisher, 9, 30);
    assert_eq!((publisher.published(), tree(&path).len()), (Some(9), 2));
    let until = publish(&mut *publisher, 12, 1);
    publisher.finish(false).unwrap();
    assert_eq!(publisher.published(), Some(12));
    assert_eq!(tree(&path), ["part-3-12.jsonl", "part-3-5.jsonl", "part-3-9.jsonl"]);
    assert_eq!(seen(&path, &options), (0..until).collect::<Vec<_>>());
    drop(publisher);
    assert_eq!(hidden(&path.join(".highwater")), [format!("{INCARNATION}-3-12")]);
    // what others read of the directory is not what is hidden
    let mut all = String::new();
    for file in tree(&path) {
        all += &fs::read_to_string(path.join(file)).unwrap();
    }
    assert_eq!(all.lines().count() as i64, until);
}

#[test]
fn directories_of_partitions_get_a_file_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/");
    let options = [("format", "json"), ("partition.by", "p"), ("sink.open-files.max", "2")];
    let sink = FileSink::new(&table(&path, &options)).unwrap();
    let mut publisher = FilePublisher::new(&sink, &name(INCARNATION, 0), Arc::new(SystemClock::default()), 1).unwrap();
    let (mut random, mut next) = (StdRng::seed_from_u64(2), 0);
    let batches: Vec<Batch> = (0..2).map(|_| some(&mut random, &mut next)).collect();
    publish(&mut publisher, 7, &batches);
    assert!(tree(&path).is_empty());
    publisher.finish(false).unwrap();
    // four directories and two open files: some are written in pieces
    let found = tree(&path);
    for directory in ["p=1", "p=2", "p=3", "p=__HIVE_DEFAULT_PARTITION__"] {
        assert!(found.contains(&format!("{directory}/part-0-7.jsonl")), "{found:?}");
    }
    assert!(found.iter().any(|file| file.ends_with("/part-0-7-1.jsonl")), "{found:?}");
    assert_eq!(seen(&path, &options), (0..next).collect::<Vec<_>>());
}

#[test]
fn a_single_file_appears_when_the_input_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let options = [("format", "csv"), ("csv.header", "true")];
    let sink = FileSink::new(&table(&path, &options)).unwrap();
    let publisher = || FilePublisher::new(&sink, &name(INCARNATION, 0), Arc::new(SystemClock::default()), 1).unwrap();
    let (mut random, mut next) = (StdRng::seed_from_u64(3), 0);
    let batches: Vec<Batch> = (0..3).map(|_| some(&mut random, &mut next)).collect();
    let mut first = publisher();
    publish(&mut first, 1, &batches[..1]);
    first.finish(false).unwrap();
    drop(first);
    assert!(!path.exists());
    let mut second = publisher();
    assert_eq!(second.published(), None);
    publish(&mut second, 1, &batches[..1]);
    publish(&mut second, 2, &batches[1..]);
    publish(&mut second, 3, &[]);
    assert!(!path.exists() && second.published().is_none());
    second.finish(true).unwrap();
    assert_eq!((second.published(), seen(&path, &options)), (Some(3), (0..next).collect()));
    // the same pipeline again: it has its file
    let mut third = publisher();
    assert_eq!(third.published(), Some(3));
    third.finish(true).unwrap();
    assert_eq!(seen(&path, &options), (0..next).collect::<Vec<_>>());
    let refused = FilePublisher::new(&sink, &name("1234567890abcdef", 0), Arc::new(SystemClock::default()), 1);
    let error = refused.err().expect("it is another pipeline");
    assert!(error.to_string().ends_with("out.csv\": it exists already"), "{error}");
    drop((second, third));
    assert_eq!(hidden(&folder.path().join(".out.csv.highwater")), [format!("{INCARNATION}-0-3")]);

    // of no rows there is a file, too
    let empty = FileSink::new(&table(&folder.path().join("empty.csv"), &options)).unwrap();
    let mut publisher = FilePublisher::new(&empty, &name(INCARNATION, 0), Arc::new(SystemClock::default()), 1).unwrap();
    publish(&mut publisher, 1, &[]);
    publisher.finish(true).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("empty.csv")).unwrap(), "word,n,p\n");
}

#[test]
fn what_another_run_has_left_is_refused_or_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/");
    let other = "1234567890abcdef";
    let (mut random, mut next) = (StdRng::seed_from_u64(4), 0);
    let batches: Vec<Batch> = (0..4).map(|_| some(&mut random, &mut next)).collect();
    let plain = [("format", "json")];
    let replacing = [("format", "json"), ("sink.overwrite", "true")];
    let publisher = |options: &[(&str, &str)], incarnation: &str, shard: usize| {
        let sink = FileSink::new(&table(&path, options)).unwrap();
        FilePublisher::new(&sink, &name(incarnation, shard), Arc::new(SystemClock::default()), 2)
    };
    for shard in 0..3 {
        let mut first = publisher(&plain, INCARNATION, shard).unwrap();
        publish(&mut first, 4, &batches[shard..=shard]);
        first.finish(false).unwrap();
    }
    let old = ["part-0-4.jsonl", "part-1-4.jsonl", "part-2-4.jsonl"];
    assert_eq!(tree(&path), old);
    // the same pipeline goes on, on as many workers as it likes
    for shard in [0, 7] {
        let again = publisher(&plain, INCARNATION, shard).unwrap();
        assert_eq!(again.published(), (shard == 0).then_some(4));
    }
    let error = publisher(&plain, other, 1).err().expect("they are another's");
    assert!(error.to_string().ends_with("part-0-4.jsonl\": it exists already"), "{error}");
    assert_eq!(error.advice(), Some("choose another 'path', or set 'sink.overwrite' = 'true'"));

    // nothing goes before something comes
    let mut new = publisher(&replacing, other, 0).unwrap();
    publish(&mut new, 1, &[]);
    assert_eq!((new.published(), tree(&path)), (None, old.map(str::to_owned).to_vec()));
    publish(&mut new, 4, &batches[3..]);
    new.finish(false).unwrap();
    drop(new);
    // shard 2 is no more, for there are two workers
    assert_eq!(tree(&path), ["part-0-4.jsonl", "part-1-4.jsonl"]);
    let lines = fs::read_to_string(path.join("part-0-4.jsonl")).unwrap().lines().count();
    assert_eq!(lines, batches[3].num_rows(), "it is the new one");
    // at the end it goes even if nothing came
    let mut new = publisher(&replacing, other, 1).unwrap();
    publish(&mut new, 4, &[]);
    new.finish(true).unwrap();
    drop(new);
    assert_eq!(tree(&path), ["part-0-4.jsonl"]);
    let markers = hidden(&path.join(".highwater"));
    assert_eq!(markers, [format!("{other}-0-4"), format!("{other}-1-4")]);
    // a later run of the same pipeline takes nothing away
    let mut later = publisher(&replacing, other, 0).unwrap();
    publish(&mut later, 9, &batches[..1]);
    later.finish(true).unwrap();
    assert_eq!(tree(&path), ["part-0-4.jsonl", "part-0-9.jsonl"]);
}

#[test]
fn two_tables_of_one_pipeline_do_not_share_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/");
    let sink = FileSink::new(&table(&path, &[("format", "json")])).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut first = FilePublisher::new(&sink, &name(INCARNATION, 0), Arc::clone(&clock), 1).unwrap();
    let (mut random, mut next) = (StdRng::seed_from_u64(5), 0);
    publish(&mut first, 1, &[some(&mut random, &mut next)]);
    first.finish(false).unwrap();
    let second = ShardName { table: "u".into(), ..name(INCARNATION, 0) };
    let error = FilePublisher::new(&sink, &second, clock, 1).err().expect("it is the other's");
    assert!(error.to_string().ends_with("out/\": table \"t\" of pipeline \"p\" is written there, too"), "{error}");
}

#[test]
fn what_cannot_be_written_is_refused_before_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(&(Arc::new(SystemClock::default()) as _));
    let stage = |columns: Vec<(&str, ArrayRef, bool)>, options: &[(&str, &str)]| {
        let batch = Batch::try_from_iter_with_nullable(
            columns.iter().map(|(name, column, _)| (*name, Arc::clone(column), true)),
        )
        .unwrap();
        let fields = columns.iter().map(|(name, column, null)| Field::new(*name, column.data_type().clone(), *null));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let table = Table { schema: Arc::clone(&schema), ..table(&folder.path().join("out/"), options) };
        let sink = FileSink::new(&table).unwrap();
        assert_eq!(sink.records(), schema);
        sink.stager(0, 1, &context).unwrap().stage(batch)
    };
    let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let long: ArrayRef = Arc::new(StringArray::from(vec!["short".to_owned(), "é".repeat(150)]));
    let kept = stage(vec![("n", Arc::clone(&number), true), ("word", Arc::clone(&long), true)], &[("format", "json")]);
    let expected = "+---+-------+";
    assert!(pretty_format_batches(&[kept.unwrap().slice(0, 1)]).unwrap().to_string().starts_with(expected));
    let error = stage(vec![("n", Arc::clone(&number), false)], &[("format", "json")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    let error = stage(vec![("n", number, true), ("word", long, true)], &[("format", "json"), ("partition.by", "word")]);
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("has a name of 305 bytes, more than 255"), "{error}");
    let never: ArrayRef = Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![i64::MAX]));
    for format in ["json", "csv"] {
        let staged = stage(vec![("at", Arc::clone(&never), true)], &[("format", format)]);
        let table = Table {
            schema: Arc::new(Schema::new(vec![Field::new("at", never.data_type().clone(), true)])),
            ..table(&folder.path().join("out/"), &[("format", format)])
        };
        let sink = FileSink::new(&table).unwrap();
        let batch = Batch::try_new(Arc::clone(&table.schema), vec![Arc::clone(&never)]).unwrap();
        let written = sink.format.writer(&sink.schema, sink.packing).unwrap().write(&batch);
        assert_eq!(staged.is_err(), written.is_err(), "{format}: both refuse it, or neither does");
    }
}

#[test]
fn who_is_refused_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (name_of, path) in [("out", "out"), ("parts", "parts/")] {
        let path = folder.path().join(path);
        match name_of {
            "out" => fs::write(&path, "mine").unwrap(),
            _ => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("part-0-0.jsonl"), "mine").unwrap();
            }
        }
        let sink = FileSink::new(&table(&path, &[("format", "json")])).unwrap();
        let refused = FilePublisher::new(&sink, &name(INCARNATION, 0), Arc::new(SystemClock::default()), 1);
        assert!(refused.err().expect("it is there").to_string().ends_with("it exists already"));
    }
    assert_eq!(hidden(folder.path()), ["out", "parts"]);
    assert_eq!(hidden(&folder.path().join("parts")), ["part-0-0.jsonl"]);
}
