//! Views that are asked while their pipeline runs: whatever the moment, everybody sees all rows up to one epoch and no others.
//!
//! The balance test: transfers between accounts, each a row, move money and make none. So the total is the same at every epoch, and what
//! an account has at an epoch follows from the rows up to there, which the test adds up itself.

#[path = "support/pipeline.rs"]
mod pipeline;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySource;
use highwater::connector::{Context, Polled, Source, Split, SplitStart};
use highwater::error::{Error, ErrorKind, Result};
use highwater::runtime::fate::Fate;
use highwater::runtime::views::{Answer, Event, Subscription, Views};
use highwater::runtime::{self, Running, Workers};
use highwater::sql::{self, Text};
use highwater::time::{Epoch, SystemClock, Watermark};
use pipeline::{MINUTE, for_seeds, within};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What each account has before the first transfer.
const OPENING: i64 = 100;
const ACCOUNTS: i64 = 12;
/// Rows of each split in an epoch; all accounts are opened in the first one.
const TICK: usize = 40;

const VIEWS: &str = "
    CREATE TABLE opening (id BIGINT NOT NULL, owner STRING NOT NULL) WITH ('connector' = 'memory');
    CREATE TABLE transfers (src BIGINT NOT NULL, dst BIGINT NOT NULL, amount BIGINT NOT NULL) WITH ('connector' = 'memory');
    CREATE VIEW entries AS
      SELECT id AS account, 100 AS amount FROM opening
      UNION ALL SELECT src, -amount FROM transfers
      UNION ALL SELECT dst, amount FROM transfers;
    CREATE MATERIALIZED VIEW balances AS SELECT account, sum(amount) AS balance FROM entries GROUP BY account;
    CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS total, count(*) AS accounts FROM balances;
    CREATE MATERIALIZED VIEW owned AS
      SELECT owner, balance FROM balances JOIN opening ON id = account;
    CREATE MATERIALIZED VIEW log AS SELECT src, dst, amount FROM transfers;
";

/// A source that gives no more rows of a split than it is let.
struct Paced {
    inner: MemorySource,
    let_through: Arc<AtomicU64>,
}

struct PacedSplit {
    inner: Box<dyn Split>,
    let_through: Arc<AtomicU64>,
}

impl Source for Paced {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn splits(&self, context: &Context) -> Result<Vec<String>> {
        self.inner.splits(context)
    }

    fn open(&self, splits: &[SplitStart], context: &Context) -> Result<Vec<Box<dyn Split>>> {
        let paced =
            |inner| -> Box<dyn Split> { Box::new(PacedSplit { inner, let_through: Arc::clone(&self.let_through) }) };
        Ok(self.inner.open(splits, context)?.into_iter().map(paced).collect())
    }
}

impl Split for PacedSplit {
    fn poll(&mut self, rows_max: usize) -> Result<Polled> {
        let left = self.let_through.load(Ordering::SeqCst).saturating_sub(self.inner.position());
        match usize::try_from(left).unwrap_or(usize::MAX) {
            0 => Ok(Polled::Pending),
            left => self.inner.poll(rows_max.min(left)),
        }
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn place(&self, row: usize) -> String {
        self.inner.place(row)
    }
}

/// Accounts and what happens to them.
struct Bank {
    /// By split, in order: from, to, how much.
    splits: Vec<Vec<(i64, i64, i64)>>,
    let_through: Arc<AtomicU64>,
}

impl Bank {
    fn random(rng: &mut StdRng) -> Bank {
        let splits = rng.random_range(1..=4);
        let transfer = |rng: &mut StdRng| {
            (rng.random_range(0..ACCOUNTS), rng.random_range(0..ACCOUNTS), rng.random_range(1..1000))
        };
        let rows = |rng: &mut StdRng| {
            let rows = rng.random_range(600..1200);
            (0..rows).map(|_| transfer(rng)).collect()
        };
        Bank { splits: (0..splits).map(|_| rows(rng)).collect(), let_through: Arc::default() }
    }

    fn let_through(&self, rows: u64) {
        self.let_through.fetch_add(rows, Ordering::SeqCst);
    }

    fn longest(&self) -> usize {
        self.splits.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn connectors(&self) -> Builtin {
        let batches: Vec<RecordBatch> = self
            .splits
            .iter()
            .map(|rows| {
                let column =
                    |of: fn(&(i64, i64, i64)) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>()) as _;
                let columns: [(&str, arrow::array::ArrayRef); 3] =
                    [("src", column(|row| row.0)), ("dst", column(|row| row.1)), ("amount", column(|row| row.2))];
                RecordBatch::try_from_iter(columns).unwrap()
            })
            .collect();
        let inner = MemorySource::new(batches[0].schema(), batches, self.splits.len());
        let transfers = Paced { inner, let_through: Arc::clone(&self.let_through) };
        let ids: Int64Array = (0..ACCOUNTS).collect();
        let owners: StringArray = (0..ACCOUNTS).map(|id| Some(format!("owner {}", id % 5))).collect();
        let opening =
            RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("owner", Arc::new(owners) as _)]).unwrap();
        let opening = MemorySource::new(opening.schema(), vec![opening], 1);
        Builtin::default().with_source("transfers", Arc::new(transfers)).with_source("opening", Arc::new(opening))
    }

    /// The transfers up to the end of `epoch`.
    fn up_to(&self, epoch: Epoch) -> impl Iterator<Item = &(i64, i64, i64)> {
        let rows = usize::try_from(epoch + 1).unwrap().saturating_mul(TICK);
        self.splits.iter().flat_map(move |split| &split[..rows.min(split.len())])
    }

    /// What each account has at the end of `epoch`.
    fn balances(&self, epoch: Epoch) -> BTreeMap<i64, i64> {
        let mut balances: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, OPENING)).collect();
        for (from, to, amount) in self.up_to(epoch) {
            *balances.get_mut(from).unwrap() -= amount;
            *balances.get_mut(to).unwrap() += amount;
        }
        balances
    }

    fn start(&self, workers: usize, settings: &str) -> Running {
        let text = format!("SET 'tick' = '{TICK} rows'; {settings} {VIEWS}");
        let plan = sql::plan(Text { name: "bank.sql", sql: &text }, &[], &self.connectors()).unwrap();
        runtime::start(plan, Workers::Threads(workers), None, Arc::new(SystemClock::default())).unwrap()
    }
}

/// Ends a run when a check has failed, so that the test does, too.
struct Ends(Arc<Fate>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fail(Error::unavailable("the test is over"));
    }
}

/// The rows of an answer whose columns are numbers.
fn numbers(answer: &Answer) -> Vec<Vec<i64>> {
    let row = |batch: &RecordBatch, row: usize| {
        batch.columns().iter().map(|column| column.as_primitive::<Int64Type>().value(row)).collect()
    };
    answer.batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|n| row(batch, n)).collect::<Vec<_>>()).collect()
}

/// Asks everything once; the answers are those of their epochs.
fn ask(bank: &Bank, views: &Views) -> Epoch {
    let both = views
        .query("SELECT 1 AS which, sum(balance) AS sum, count(*) AS rows FROM balances UNION ALL SELECT 2, total, accounts FROM total")
        .unwrap();
    let whole = ACCOUNTS * OPENING;
    assert_eq!(numbers(&both), [[1, whole, ACCOUNTS], [2, whole, ACCOUNTS]], "at epoch {}", both.epoch);

    let balances = views.query("SELECT account, balance FROM balances ORDER BY account DESC").unwrap();
    let expected: Vec<Vec<i64>> =
        bank.balances(balances.epoch).into_iter().map(|(id, sum)| vec![id, sum]).rev().collect();
    assert_eq!(numbers(&balances), expected, "at epoch {}", balances.epoch);

    // what every account has follows from the other view, if both are of one epoch
    let torn = views
        .query(
            "SELECT account FROM (
               SELECT account, sum(amount) AS moved FROM (
                 SELECT src AS account, -amount AS amount FROM log UNION ALL SELECT dst, amount FROM log
               ) AS entries GROUP BY account
             ) AS moves JOIN balances USING (account) WHERE moved <> balance - 100",
        )
        .unwrap();
    assert_eq!(torn.rows(), 0, "at epoch {}", torn.epoch);

    let owned = views.query("SELECT sum(balance) AS sum FROM owned").unwrap();
    assert_eq!(numbers(&owned), [[whole]], "at epoch {}", owned.epoch);
    let log = views.query("SELECT count(*) AS n, sum(amount) AS moved FROM log").unwrap();
    let moved: i64 = bank.up_to(log.epoch).map(|row| row.2).sum();
    assert_eq!(numbers(&log), [[bank.up_to(log.epoch).count() as i64, moved]], "at epoch {}", log.epoch);
    log.epoch
}

/// Follows the balances to their end, and gives how many epochs were told.
fn follow(bank: &Bank, views: &Views, what: &str) -> usize {
    let mut balances: BTreeMap<i64, i64> = BTreeMap::new();
    let mut told = 0;
    let mut before: Option<Epoch> = None;
    for event in views.subscribe(what).unwrap() {
        match event.unwrap() {
            Event::Changes { epoch, rows } => {
                assert!(before.is_none_or(|before| before < epoch), "epoch {epoch} comes after {before:?}");
                let column = |n: usize| rows.column(n).as_primitive::<Int64Type>().values();
                // an account has no two balances once all changes of the epoch are in
                for row in 0..rows.num_rows() {
                    *balances.entry(column(0)[row]).or_default() += column(1)[row] * column(2)[row];
                }
            }
            Event::Progress { epoch, .. } => {
                assert!(before.is_none_or(|before| before < epoch), "epoch {epoch} comes after {before:?}");
                assert_eq!(balances, bank.balances(epoch), "at epoch {epoch}");
                assert_eq!(balances.values().sum::<i64>(), ACCOUNTS * OPENING, "at epoch {epoch}");
                (before, told) = (Some(epoch), told + 1);
            }
        }
    }
    told
}

#[test]
fn whoever_asks_sees_one_epoch_and_the_total_never_changes() {
    for workers in [1, 3] {
        within(2 * MINUTE, "the bank is open", move || {
            for_seeds(2, |rng| {
                let bank = Bank::random(rng);
                let running = bank.start(workers, "");
                let (views, _ends) = (running.views(), Ends(running.fate()));
                bank.let_through(TICK as u64);
                let told = std::thread::scope(|scope| {
                    let follower = scope.spawn(|| follow(&bank, &views, "balances"));
                    let chosen = scope
                        .spawn(|| follow(&bank, &views, "SELECT account, balance FROM balances WHERE account >= 0"));
                    let mut epochs = Vec::new();
                    while !running.finished() {
                        epochs.push(ask(&bank, &views));
                        bank.let_through(rng.random_range(1..100));
                    }
                    epochs.dedup();
                    assert!(epochs.len() >= 5, "only epochs {epochs:?} were asked");
                    [follower.join().unwrap(), chosen.join().unwrap()]
                });
                assert!(told.iter().all(|told| *told >= 5), "{told:?} epochs were told");
                running.wait().1.unwrap();
                // the end can be asked, too
                let last = ask(&bank, &views);
                assert!(last as usize >= (bank.longest() - 1) / TICK, "{last}");
                let end = views.query("SELECT total FROM total").unwrap();
                assert_eq!(end.watermark, Watermark::END);
            });
        });
    }
}

#[test]
fn after_a_restart_a_view_is_what_it_would_be_without_one() {
    within(2 * MINUTE, "the bank is open", || {
        for_seeds(3, |rng| {
            let bank = Bank::random(rng);
            let folder = tempfile::tempdir().unwrap();
            let store = |folder: &Path| {
                format!("SET 'checkpoint_store' = '{}'; SET 'checkpoint_interval' = '2 epochs';", folder.display())
            };
            let mut seen = 0;
            for life in 1.. {
                let running = bank.start(rng.random_range(1..=3), &store(folder.path()));
                let (views, _ends) = (running.views(), Ends(running.fate()));
                // who dies does so before its input has ended
                let dies = (life < 3 || rng.random_bool(0.7)).then(|| rng.random_range(1..6));
                let mut asked = 0;
                while !running.finished() && dies.is_none_or(|dies| asked < dies) {
                    let more = rng.random_range(TICK as u64..200);
                    if dies.is_none() || bank.let_through.load(Ordering::SeqCst) + more < bank.longest() as u64 {
                        bank.let_through(more);
                    }
                    seen = seen.max(ask(&bank, &views));
                    asked += 1;
                }
                if dies.is_none() {
                    running.wait().1.unwrap();
                    let last = ask(&bank, &views);
                    assert!(last as usize >= (bank.longest() - 1) / TICK, "{last}");
                    break;
                }
                running.fate().fail(Error::unavailable("killed"));
                assert_eq!(running.wait().1.unwrap_err().to_string(), "killed");
                let error = views.query("SELECT 1").unwrap_err();
                assert_eq!(error.to_string(), "killed");
            }
            assert!(seen > 0);
            // nothing is left to do, and nothing is made up
            let running = bank.start(2, &store(folder.path()));
            let error = running.views().query("SELECT * FROM total").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            running.wait().1.unwrap();
        });
    });
}

/// Runs `definition` with the `statements` of a script: its exit code and both outputs.
fn script(definition: &str, arguments: &[&str], statements: &str) -> (i32, String, String) {
    script_in(tempfile::tempdir().unwrap().path(), definition, arguments, statements)
}

fn script_in(folder: &Path, definition: &str, arguments: &[&str], statements: &str) -> (i32, String, String) {
    std::fs::write(folder.join("numbers.sql"), definition).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(["--log", "error", "run", "numbers.sql", "--ask"]).args(arguments).current_dir(folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const NUMBERS: &str = "
SET 'tick' = '100 rows';
CREATE TABLE numbers (n BIGINT) WITH (
  'connector' = 'datagen', 'splits' = '1',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '250'
);
CREATE MATERIALIZED VIEW digits AS SELECT n % 10 AS digit, count(*) AS times, sum(n) AS sum FROM numbers GROUP BY n % 10;
CREATE MATERIALIZED VIEW most AS SELECT digit, sum FROM digits ORDER BY sum DESC LIMIT 2;
CREATE MATERIALIZED VIEW minutes AS
  SELECT to_timestamp_micros(n * 60000000) AS minute, n FROM numbers WHERE n % 50 = 0;
";

#[test]
fn a_script_asks_a_pipeline_whose_input_has_ended() {
    let statements = "
SHOW VIEWS; DESCRIBE digits;
\\wait
SELECT digit, times FROM digits WHERE digit > 7 ORDER BY digit;
SELECT sum(times) AS rows FROM digits; -- all of them
SELECT digits.digit, most.sum
  FROM digits JOIN most ON most.digit = digits.digit
  ORDER BY sum;
SELECT digit FROM digits LIMIT 2 OFFSET 1;
SELECT window_start, sum(n) AS sum FROM TUMBLE(TABLE minutes, DESCRIPTOR(minute), INTERVAL '2' HOURS)
  GROUP BY window_start, window_end ORDER BY window_start DESC;
SUBSCRIBE most;
SUBSCRIBE (SELECT digit * 10 AS tens FROM digits WHERE digit > 7);
\\format json
SELECT max(sum) AS sum FROM digits
";
    for arguments in [&[][..], &["--workers", "3"], &["--processes", "2"]] {
        let (code, out, err) = script(NUMBERS, arguments, statements);
        assert_eq!((code, err.as_str()), (0, "1 row, epoch 2, watermark end\n"), "{out}");
        let expected = " view     columns
 digits   digit, times, sum
 most     digit, sum
 minutes  minute, n
digits · materialized view · served
 column  type
 digit   BIGINT
 times   BIGINT  NOT NULL
 sum     BIGINT
digit | times
------+------
    8 |    25
    9 |    25
2 rows, epoch 2, watermark end
rows
----
 250
1 row, epoch 2, watermark end
digit |  sum
------+-----
    9 | 3225
    0 | 3250
2 rows, epoch 2, watermark end
digit
-----
    1
    2
2 rows, epoch 2, watermark end
window_start        | sum
--------------------+----
1970-01-01 04:00:00 | 250
1970-01-01 02:00:00 | 350
1970-01-01 00:00:00 | 150
3 rows, epoch 2, watermark end
+I[0, 3250]
+I[9, 3225]
-- epoch 2, watermark end
+I[80]
+I[90]
-- epoch 2, watermark end
{\"sum\":3250}
";
        assert_eq!(out, expected, "{arguments:?}");
    }
}

#[test]
fn a_script_ends_with_its_first_mistake() {
    let (code, out, err) = script(NUMBERS, &[], "SHOW VIEWS; SELECT digit FROM digit; SHOW VIEWS;");
    assert_eq!(code, 2, "{out}{err}");
    assert_eq!(out.matches("view").count(), 1, "{out}");
    let expected = "error: unknown table 'digit'
 --> question:1:19
  |
1 | SELECT digit FROM digit;
  |                   ^^^^^
  |
help: did you mean 'digits'?
";
    assert_eq!(err, expected);
    let check = |statement: &str, said: &str| {
        let (code, _, err) = script(NUMBERS, &[], statement);
        assert_eq!(code, 2, "{statement}: {err}");
        assert!(err.contains(said), "{statement}: {err}");
    };
    check("SUBSCRIBE digit;", "help: did you mean 'digits'?");
    check("SUBSCRIBE (SELECT count(*) FROM digits);", "a subscription sees the rows of one view");
    check("SUBSCRIBE (SELECT * FROM digits JOIN most USING (digit));", "a subscription sees the rows of one view");
    check("SUBSCRIBE (SELECT * FROM digits ORDER BY digit);", "a subscription has no ORDER BY and no LIMIT");
    check("SELECT digit FROM digits ORDER BY digits;", "unknown column 'digits'");
    check("SELECT digit FROM digits EMIT FINAL;", "EMIT does not belong to a question");
    check("DROP VIEW digits;", "a pipeline that runs can be asked, but not changed");
    check("DESCRIBE digts;", "help: did you mean 'digits'?");
    check("\\wiat", "there is no command \\wiat");
    let without = "CREATE TABLE t (n INT) WITH ('connector' = 'blackhole'); INSERT INTO t SELECT 1;";
    let (code, _, err) = script(without, &[], "SHOW VIEWS;");
    assert!(code == 2 && err.contains("--ask is about materialized views, and the pipeline has none"), "{err}");
}

/// A question may call what its pipeline may.
#[test]
fn functions_of_the_definition_can_be_asked() {
    let module =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/wasm/shout.wat")).unwrap();
    let module = wat::parse_str(module).unwrap();
    let definition = "
        CREATE FUNCTION shout(text STRING) RETURNS STRING LANGUAGE wasm AS 'shout.wasm';
        CREATE MATERIALIZED VIEW words AS SELECT * FROM (VALUES ('to'), ('be')) AS t (word);";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shout.wasm"), module).unwrap();
    let statements =
        "\\wait\nSELECT shout(word) AS loud FROM words; SUBSCRIBE (SELECT shout(word) FROM words WHERE word = 'be')";
    let (code, out, err) = script_in(folder.path(), definition, &[], statements);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("+I[BE"), "{out}");
}

fn is_sent<T: Send>() {}

/// Whoever serves them to others does so from several threads.
#[test]
fn views_are_shared_and_subscriptions_travel_between_threads() {
    fn is_shared<T: Clone + Send + Sync>() {}
    is_shared::<Views>();
    is_sent::<Subscription>();
}

/// Rows that have a time to live leave the view with their time, and come back with a restart only if it is not over.
#[test]
fn a_view_of_rows_that_stand_has_those_whose_time_is_not_over() {
    within(MINUTE, "rows with a time to live", || {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "SET 'tick' = '10 rows'; SET 'state_ttl' = '5 s';
             SET 'checkpoint_store' = '{}'; SET 'checkpoint_interval' = '1 epochs';
             CREATE TABLE ticks (n BIGINT NOT NULL, ts AS to_timestamp(n), WATERMARK FOR ts AS ts) WITH ('connector' = 'memory');
             CREATE MATERIALIZED VIEW recent AS SELECT n, ts FROM ticks;",
            folder.path().display()
        );
        let ticks: Int64Array = (0..100).collect();
        let rows = RecordBatch::try_from_iter([("n", Arc::new(ticks) as _)]).unwrap();
        let let_through = Arc::new(AtomicU64::new(0));
        let start = || {
            let inner = MemorySource::new(rows.schema(), vec![rows.clone()], 1);
            let ticks = Paced { inner, let_through: Arc::clone(&let_through) };
            let connectors = Builtin::default().with_source("ticks", Arc::new(ticks));
            let plan = sql::plan(Text { name: "ticks.sql", sql: &text }, &[], &connectors).unwrap();
            runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default())).unwrap()
        };
        // the watermark is the last row, and five seconds of rows count
        let check = |views: &Views, epoch: Epoch, last: i64| {
            let answer = loop {
                let answer = views.query("SELECT n FROM recent ORDER BY n").unwrap();
                if answer.epoch >= epoch {
                    break answer;
                }
            };
            let living: Vec<Vec<i64>> = (last - 4..=last).map(|n| vec![n]).collect();
            let watermark = Watermark::at(last * 1_000_000);
            assert_eq!((answer.epoch, answer.watermark, numbers(&answer)), (epoch, watermark, living));
        };
        let running = start();
        let _ends = Ends(running.fate());
        for (epoch, last) in [(0, 9), (1, 19), (2, 29)] {
            let_through.fetch_add(10, Ordering::SeqCst);
            check(&running.views(), epoch, last);
        }
        running.fate().stop();
        running.wait().1.unwrap();
        // the stop was the end of an epoch without rows
        let running = start();
        let _ends = Ends(running.fate());
        check(&running.views(), 3, 29);
        let_through.fetch_add(10, Ordering::SeqCst);
        check(&running.views(), 4, 39);
        running.fate().stop();
        running.wait().1.unwrap();
    });
}

/// Nobody waits for a subscriber, and what is kept for one has a bound.
#[test]
fn a_subscriber_who_does_not_listen_is_cut_off_and_may_begin_again() {
    within(2 * MINUTE, "a slow subscriber", || {
        const ROWS: i64 = 1_100;
        let text = "SET 'tick' = '1 rows'; CREATE TABLE ticks (n BIGINT NOT NULL) WITH ('connector' = 'memory');
            CREATE MATERIALIZED VIEW last AS SELECT max(n) AS n FROM ticks;";
        let ticks: Int64Array = (0..ROWS).collect();
        let rows = RecordBatch::try_from_iter([("n", Arc::new(ticks) as _)]).unwrap();
        let let_through = Arc::new(AtomicU64::new(1));
        let inner = MemorySource::new(rows.schema(), vec![rows], 1);
        let ticks = Paced { inner, let_through: Arc::clone(&let_through) };
        let connectors = Builtin::default().with_source("ticks", Arc::new(ticks));
        let plan = sql::plan(Text { name: "last.sql", sql: text }, &[], &connectors).unwrap();
        let running = runtime::start(plan, Workers::Threads(1), None, Arc::new(SystemClock::default())).unwrap();
        let (views, _ends) = (running.views(), Ends(running.fate()));
        let (mut slow, mut gone) = (views.subscribe("last").unwrap(), views.subscribe("last").unwrap());
        let_through.store(u64::MAX, Ordering::SeqCst);
        running.wait().1.unwrap();
        let Some(Ok(Event::Changes { epoch: 0, .. })) = slow.next() else { panic!("it begins with what is there") };
        let Some(Ok(Event::Progress { epoch: 0, .. })) = slow.next() else { panic!("all of that is told") };
        let error = slow.next().unwrap().unwrap_err();
        assert!(
            error.to_string().starts_with("the subscription is too slow: it has heard all up to epoch 0"),
            "{error}"
        );
        assert!(slow.next().is_none() && gone.nth(2).is_some_and(|event| event.is_err()));
        let again: Vec<Event> = views.subscribe("last").unwrap().collect::<Result<_>>().unwrap();
        let [Event::Changes { rows, .. }, Event::Progress { watermark: Watermark::END, .. }] = again.as_slice() else {
            panic!("{again:?}")
        };
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values(), &[ROWS - 1]);
    });
}

/// What a join in an interval has said stands, also when what made it is not kept any more.
#[test]
fn a_view_of_a_join_in_an_interval_has_all_its_rows_after_a_restart() {
    within(MINUTE, "a join in an interval", || {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "SET 'tick' = '10 rows'; SET 'unbounded_state' = 'true';
             SET 'checkpoint_store' = '{}'; SET 'checkpoint_interval' = '1 epochs';
             CREATE TABLE ticks (n BIGINT NOT NULL, ts AS to_timestamp(n), WATERMARK FOR ts AS ts) WITH ('connector' = 'memory');
             CREATE TABLE others (n BIGINT NOT NULL, ts AS to_timestamp(n), WATERMARK FOR ts AS ts) WITH ('connector' = 'memory');
             CREATE MATERIALIZED VIEW pairs AS SELECT a.n AS a, b.n AS b FROM ticks AS a JOIN others AS b
               ON a.n % 2 = b.n % 2 AND b.ts BETWEEN a.ts - INTERVAL '2' SECOND AND a.ts;",
            folder.path().display()
        );
        let let_through = Arc::new(AtomicU64::new(0));
        let start = || {
            let paced = || {
                let ticks: Int64Array = (0..100).collect();
                let rows = RecordBatch::try_from_iter([("n", Arc::new(ticks) as _)]).unwrap();
                let inner = MemorySource::new(rows.schema(), vec![rows], 1);
                Arc::new(Paced { inner, let_through: Arc::clone(&let_through) })
            };
            let connectors = Builtin::default().with_source("ticks", paced()).with_source("others", paced());
            let plan = sql::plan(Text { name: "pairs.sql", sql: &text }, &[], &connectors).unwrap();
            runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default())).unwrap()
        };
        for life in 0..4 {
            let running = start();
            let (views, _ends) = (running.views(), Ends(running.fate()));
            let_through.fetch_add(20, Ordering::SeqCst);
            let rows = 20 * (life + 1);
            let pairs: Vec<Vec<i64>> =
                (0..rows).flat_map(|a| [a - 2, a].map(|b| vec![a, b])).filter(|pair| pair[1] >= 0).collect();
            loop {
                let answer = views.query("SELECT a, b FROM pairs").unwrap();
                let found = numbers(&answer);
                assert_eq!(found, pairs[..found.len()], "in life {life}, at epoch {}", answer.epoch);
                if found.len() == pairs.len() {
                    break;
                }
            }
            running.fate().stop();
            running.wait().1.unwrap();
        }
    });
}
