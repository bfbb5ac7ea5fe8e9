//! The program as people run it: on threads, on processes, on a list of hosts; ended by its input, by signals, by force.

use highwater::runtime::mesh::{SECRET_ENV, Secret};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What no run here takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// A folder with a definition and its files, in which the program runs.
struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| {
            let path = place.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        });
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        // of its own group, so that a signal to the group spares the test
        command.env("RUST_BACKTRACE", "0").process_group(0);
        command
    }

    /// Starts `highwater` with its outputs in files called `name`.
    fn start(&self, name: &str, arguments: &[&str]) -> Started<'_> {
        self.start_with(name, arguments, &[])
    }

    fn start_with(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Started<'_> {
        let output = |kind| File::create(self.path(&format!("{name}.{kind}"))).unwrap();
        let mut command = self.command(arguments);
        command.stdout(output("out")).stderr(output("err")).envs(environment.iter().copied());
        Started { place: self, name: name.into(), child: command.spawn().unwrap() }
    }

    /// Runs `highwater` to its end: its exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.start("run", arguments).end()
    }
}

/// A process that runs; ended by force if the test gives up on it.
struct Started<'a> {
    place: &'a Place,
    name: String,
    child: Child,
}

impl Started<'_> {
    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn out(&self) -> String {
        self.place.read(&format!("{}.out", self.name))
    }

    fn err(&self) -> String {
        self.place.read(&format!("{}.err", self.name))
    }

    fn wait_for(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "no {what}:\n{}{}", self.out(), self.err());
            sleep(Duration::from_millis(20));
        }
    }

    /// The processes that it has started.
    fn children(&self) -> Vec<Pid> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().map(|id| Pid::from_raw(id.parse().unwrap())).collect()
    }

    fn end(mut self) -> (i32, String, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}{}", self.out(), self.err());
            sleep(Duration::from_millis(10));
        };
        let (out, err) = (self.out(), self.err());
        assert!(!err.contains("panicked") && !err.contains("stack backtrace"), "a trace instead of an error:\n{err}");
        (status.code().unwrap_or_else(|| panic!("{status}:\n{err}")), out, err)
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(self.id(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn lives(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// The errors among the lines of standard error.
fn errors(err: &str) -> Vec<&str> {
    err.lines().filter(|line| line.starts_with("error")).collect()
}

const SHAPES: [&[&str]; 4] = [&[], &["--workers", "3"], &["--processes", "2", "--workers", "2"], &["--processes", "3"]];

const WORD_COUNT: &str = "
CREATE TABLE lines (line STRING) WITH ('connector' = 'file', 'path' = '*.txt', 'format' = 'raw', 'split.bytes' = '200');
CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'print', 'print.format' = 'json');
INSERT INTO counts SELECT word, count(*) AS n FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines)
GROUP BY word EMIT FINAL;";

/// Three files of words, and how often each is there.
fn words() -> (Place, Vec<String>) {
    let place = Place::new(&[("words.sql", WORD_COUNT)]);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for file in 0..3_u64 {
        let mut text = String::new();
        for number in 0..200_u64 {
            let word = format!("w{}", (number * number + file * 7) % 31);
            text.push_str(&word);
            text.push_str(if number % 9 == 0 { "\n" } else { " " });
            *counts.entry(word).or_default() += 1;
        }
        fs::write(place.path(&format!("{file}.txt")), text).unwrap();
    }
    let mut lines: Vec<String> = counts.iter().map(|(word, n)| format!("{{\"word\":\"{word}\",\"n\":{n}}}")).collect();
    lines.sort_unstable();
    (place, lines)
}

#[test]
fn every_shape_gives_the_same_counts() {
    let (place, expected) = words();
    for shape in SHAPES {
        let arguments = [&["run", "words.sql"], shape].concat();
        let (code, out, err) = place.run(&arguments);
        assert_eq!((code, errors(&err)), (0, Vec::new()), "{shape:?}: {err}");
        assert_eq!(sorted(&out), expected, "{shape:?}");
        assert!(
            err.contains(&format!("{} written", expected.len())),
            "the last line counts all processes, on {shape:?}: {err}"
        );
    }
}

#[test]
fn every_shape_gives_the_same_windows_and_the_same_late_rows() {
    let pipeline = "SET 'tick' = '20 rows';
        CREATE TABLE t (s BIGINT, word STRING, ts AS to_timestamp_millis(s), WATERMARK FOR ts AS ts - INTERVAL '1' SECOND)
          WITH ('connector' = 'file', 'path' = '*.json', 'format' = 'json');
        CREATE TABLE out (a TIMESTAMP(3), word STRING, n BIGINT) WITH ('connector' = 'file', 'path' = 'out/', 'format' = 'csv', 'sink.overwrite' = 'true');
        INSERT INTO out SELECT window_start, word, count(*) FROM TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '5' SECOND))
        GROUP BY window_start, window_end, word;";
    let place = Place::new(&[("windows.sql", pipeline)]);
    for file in 0..4_u64 {
        let row = |number: u64| {
            format!("{{\"s\": {}, \"word\": \"w{}\"}}\n", number * 37 - (number * 7919 % 13) * 37, number % 3)
        };
        fs::write(place.path(&format!("{file}.json")), (200..900 + file * 50).map(row).collect::<String>()).unwrap();
    }
    let mut first = None;
    for shape in SHAPES {
        let (code, _, err) = place.run(&[&["run", "windows.sql"], shape].concat());
        assert_eq!(code, 0, "{shape:?}: {err}");
        let parts =
            fs::read_dir(place.path("out")).unwrap().map(|part| fs::read_to_string(part.unwrap().path()).unwrap());
        let all: String = parts.collect();
        let late = err.lines().last().unwrap().split(", ").find(|part| part.contains("late")).map(str::to_owned);
        let found = (sorted(&all).into_iter().map(str::to_owned).collect::<Vec<_>>(), late);
        assert!(found.0.len() > 20, "{shape:?}: {found:?}");
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{shape:?}: {err}");
    }
}

#[test]
fn the_pipelines_that_need_no_broker_say_what_they_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = "To be, or not to be:\nthat is the question.\n\nWhether 'tis nobler -- Ünïcode words, 1 2 1\n";
    let readings = include_str!("../examples/readings.jsonl");
    let place = Place::new(&[("text.md", text), ("examples/readings.jsonl", readings)]);
    for name in ["word_count", "windowed_word_count", "top_words", "enrich", "sessions", "late_rows", "dead_letters"] {
        let pipeline = root.join(format!("pipelines/{name}.sql"));
        let golden = root.join(format!("tests/outputs/{name}.txt"));
        for shape in SHAPES {
            let arguments = [&["run", pipeline.to_str().unwrap()], shape].concat();
            let (code, out, err) = place.run(&arguments);
            assert_eq!(code, 0, "{err}");
            // two tables may print in either order, each with its names above a rule
            let lines: Vec<&str> = out.lines().collect();
            let rule = |line: &str| line.contains('-') && line.chars().all(|c| matches!(c, '-' | '+'));
            let header = |at: usize| rule(lines[at]) || lines.get(at + 1).is_some_and(|next| rule(next));
            let mut rows: Vec<String> = (0..lines.len())
                .filter(|at| !header(*at))
                .map(|at| lines[at])
                .map(|row| row.split(" | ").map(str::trim).collect::<Vec<_>>().join(" | "))
                .collect();
            rows.sort_unstable();
            let rows = rows.join("\n") + "\n";
            if std::env::var_os("UPDATE_OUTPUTS").is_some() {
                fs::write(&golden, &rows).unwrap();
            }
            let expected = fs::read_to_string(&golden).unwrap_or_default();
            assert!(
                rows == expected,
                "{name} on {shape:?} is not as in {golden:?} (UPDATE_OUTPUTS=1 writes it); it is\n{rows}"
            );
        }
    }
}

/// Free ports on the loopback, as a hosts file has them.
fn free_hosts(count: usize) -> String {
    let listeners: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| format!("{}\n", listener.local_addr().unwrap())).collect()
}

#[test]
fn hosts_find_each_other() {
    let (place, expected) = words();
    fs::write(place.path("hosts"), free_hosts(2)).unwrap();
    let secret = Secret::generate().unwrap();
    let host = |process: &'static str, secret: &str| {
        let arguments = ["run", "words.sql", "--hosts", "hosts", "--process", process, "--workers", "2"];
        place.start_with(process, &arguments, &[(SECRET_ENV, secret)])
    };
    let (first, second) = (host("0", secret.reveal()), host("1", secret.reveal()));
    let ((code, out, err), (code_of_second, out_of_second, err_of_second)) = (first.end(), second.end());
    assert_eq!((code, code_of_second), (0, 0), "{err}{err_of_second}");
    assert_eq!((sorted(&out), out_of_second.as_str()), (expected.iter().map(String::as_str).collect(), ""));
}

#[test]
fn a_stranger_among_the_hosts_is_told_so() {
    let (place, _) = words();
    fs::write(place.path("hosts"), free_hosts(2)).unwrap();
    fs::write(place.path("other.sql"), WORD_COUNT.replace("lower", "upper")).unwrap();
    let secret = Secret::generate().unwrap();
    let host = |process: &'static str, pipeline: &'static str| {
        let arguments = ["run", pipeline, "--hosts", "hosts", "--process", process, "--connect-timeout", "4s"];
        place.start_with(process, &arguments, &[(SECRET_ENV, secret.reveal())])
    };
    let (first, second) = (host("0", "words.sql"), host("1", "other.sql"));
    let ((code, _, err), (code_of_second, _, err_of_second)) = (first.end(), second.end());
    // process 0 waits for a better one, and says what came instead
    assert_eq!((code, code_of_second), (4, 5), "{err}{err_of_second}");
    assert!(err.contains("another plan") && err_of_second.contains("another plan"), "{err}{err_of_second}");
}

#[test]
fn exit_codes_say_what_to_do() {
    let (place, _) = words();
    let with = |name: &'static str, from: &str, to: &str| {
        fs::write(place.path(name), WORD_COUNT.replace(from, to)).unwrap();
        place.run(&["run", name])
    };
    assert_eq!(with("fine.sql", "", "").0, 0);
    let (code, _, err) = with("wrong.sql", "lower", "lowr");
    assert!(code == 2 && err.starts_with("error: unknown function 'lowr'\n --> wrong.sql:4:79\n"), "{code}: {err}");
    let (code, _, err) = with("missing.sql", "*.txt", "*.none");
    assert!(code == 4 && err.contains("no file matches '*.none'"), "{code}: {err}");
    let (code, _, err) = with("data.sql", "unnest(split_words(lower(line)))", "CAST(line AS BIGINT)");
    assert!(code == 3 && err.contains("w0"), "{code}: {err}");
    assert_eq!(place.run(&["run", "words.sql", "--workers", "0"]).0, 2);
    assert_eq!(place.run(&["run", "absent.sql"]).0, 2);
}

#[test]
fn a_bad_record_is_named_whichever_process_reads_it() {
    let pipeline = "
        CREATE TABLE t (n BIGINT, text STRING, m AS CAST(text AS BIGINT)) WITH ('connector' = 'file', 'path' = '*.json', 'format' = 'json');
        CREATE TABLE out (n BIGINT, m BIGINT) WITH ('connector' = 'print');
        INSERT INTO out SELECT n, m FROM t;";
    let good = "{\"n\": 1, \"text\": \"1\"}\n".repeat(5);
    let place = Place::new(&[("bad.sql", pipeline), ("a.json", good.as_str())]);
    for (bad, reason) in [("{\"n\": \"one\"}\n", "one"), ("{\"n\": 1, \"text\": \"some\"}\n", "some")] {
        fs::write(place.path("b.json"), format!("{good}{bad}{good}")).unwrap();
        for shape in SHAPES {
            let (code, _, err) = place.run(&[&["run", "bad.sql"], shape].concat());
            assert_eq!((code, errors(&err).len()), (3, 1), "{shape:?}: {err}");
            assert!(err.contains("file \"b.json\", line 6") && err.contains(reason), "{shape:?}: {err}");
        }
    }
}

/// Numbers without an end, some of them shown; the windows are far longer than the run.
const ENDLESS: &str = "
SET 'tick' = '20 ms';
CREATE TABLE numbers (n BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen', 'rows-per-second' = '20000', 'splits' = '4',
  'fields.n.kind' = 'sequence', 'fields.ts.kind' = 'time');
CREATE TABLE shown (n BIGINT) WITH ('connector' = 'print', 'print.format' = 'json');
CREATE TABLE written (n BIGINT) WITH ('connector' = 'file', 'path' = 'written.csv', 'format' = 'csv');
CREATE TABLE windows (at TIMESTAMP(3), n BIGINT) WITH ('connector' = 'file', 'path' = 'windows.csv', 'format' = 'csv');
INSERT INTO shown SELECT n FROM numbers WHERE n % 1000 = 0;
INSERT INTO written SELECT n FROM numbers;
INSERT INTO windows SELECT window_start, count(*) FROM tumble(numbers, ts, INTERVAL '1000' DAY) GROUP BY window_start;";

const LOCAL: [&[&str]; 2] = [&["--workers", "2"], &["--processes", "2"]];

#[test]
fn a_signal_ends_it_cleanly() {
    for shape in LOCAL {
        for (signal, group) in
            [(Signal::SIGINT, false), (Signal::SIGINT, true), (Signal::SIGTERM, false), (Signal::SIGTERM, true)]
        {
            let place = Place::new(&[("endless.sql", ENDLESS)]);
            let what = format!("{signal} on {shape:?}, group {group}");
            let running = place.start("run", &[&["run", "endless.sql"], shape].concat());
            running.wait_for("row", |running| running.out().lines().count() > 3);
            assert!(!place.path("written.csv").exists(), "a file is not seen before it is complete");
            let children = running.children();
            if group { killpg(running.id(), signal) } else { kill(running.id(), signal) }.unwrap();
            let (code, _, err) = running.end();
            assert_eq!((code, errors(&err)), (0, Vec::new()), "{what}: {err}");
            assert!(err.contains("stopped after"), "{what}: {err}");
            assert_eq!(place.read("windows.csv"), "", "{what}: a stop closes no window");
            // what was read is written: each split's numbers without a gap
            let written = place.read("written.csv");
            let mut numbers: Vec<u64> = written.lines().map(|line| line.parse().unwrap()).collect();
            numbers.sort_unstable();
            for split in 0..4 {
                let own: Vec<u64> = numbers.iter().copied().filter(|n| n % 4 == split).collect();
                assert!(
                    own.iter().enumerate().all(|(row, n)| *n == row as u64 * 4 + split),
                    "{what}: split {split} has a gap"
                );
            }
            // how many depends on the machine; the rows on the screen are among them
            assert!(numbers.len() > 100, "{what}: {}", numbers.len());
            assert!(!children.into_iter().any(lives), "{what}: a child is left");
        }
    }
}

#[test]
fn a_child_that_is_killed_is_named() {
    let place = Place::new(&[("endless.sql", ENDLESS)]);
    let running = place.start("run", &["run", "endless.sql", "--processes", "3", "--peer-timeout", "170s"]);
    running.wait_for("row", |running| !running.out().is_empty());
    let children = running.children();
    assert_eq!(children.len(), 2);
    kill(children[0], Signal::SIGKILL).unwrap();
    let start = Instant::now();
    let (code, _, err) = running.end();
    assert!(start.elapsed() < Duration::from_secs(120), "a closed connection needs no timeout");
    assert!(
        code == 4 && errors(&err).len() == 1 && err.contains("process 1 was killed by signal 9 (SIGKILL)"),
        "{code}: {err}"
    );
    assert!(!children.into_iter().any(lives), "a child is left");
    assert!(!place.path("written.csv").exists(), "a run that failed completes no file");
}

#[test]
fn a_child_that_is_frozen_is_named() {
    let place = Place::new(&[("endless.sql", ENDLESS)]);
    let running = place.start("run", &["run", "endless.sql", "--processes", "2", "--peer-timeout", "4s"]);
    running.wait_for("row", |running| !running.out().is_empty());
    let children = running.children();
    kill(children[0], Signal::SIGSTOP).unwrap();
    let (code, _, err) = running.end();
    assert!(
        code == 4 && errors(&err).len() == 1 && err.contains("process 1") && err.contains("no heartbeat for 4s"),
        "{code}: {err}"
    );
    assert!(!children.into_iter().any(lives), "a frozen child is ended, too");
}

#[test]
fn children_end_with_their_parent() {
    let place = Place::new(&[("endless.sql", ENDLESS)]);
    let running = place.start("run", &["run", "endless.sql", "--processes", "2"]);
    running.wait_for("row", |running| !running.out().is_empty());
    let children = running.children();
    kill(running.id(), Signal::SIGKILL).unwrap();
    running.wait_for("end of the children", |_| !children.iter().any(|child| lives(*child)));
    assert!(!place.path("written.csv").exists());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for shape in LOCAL {
        let place = Place::new(&[("endless.sql", ENDLESS)]);
        let mut command = place.command(&[&["run", "endless.sql"], shape].concat());
        let mut child =
            command.stdout(Stdio::piped()).stderr(File::create(place.path("head.err")).unwrap()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (code, _, err) = {
            File::create(place.path("head.out")).unwrap();
            Started { place: &place, name: "head".into(), child }.end()
        };
        assert_eq!((line.as_str(), code, errors(&err)), ("{\"n\":0}\n", 0, Vec::new()), "{shape:?}: {err}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let place = Place::new(&[("endless.sql", ENDLESS), ("full.err", "")]);
    File::create(place.path("full.out")).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = place.command(&["run", "endless.sql", "--processes", "2"]);
    let child = command.stdout(full).stderr(File::create(place.path("full.err")).unwrap()).spawn().unwrap();
    let (code, _, err) = Started { place: &place, name: "full".into(), child }.end();
    assert!(code == 4 && errors(&err).len() == 1 && err.contains("No space left on device"), "{code}: {err}");
}

#[test]
fn a_reader_that_sleeps_bounds_what_is_read() {
    let pipeline = "SET 'inflight_bytes' = '2_000_000';
        CREATE TABLE t (text STRING) WITH ('connector' = 'datagen', 'fields.text.kind' = 'random');
        CREATE TABLE out (text STRING) WITH ('connector' = 'print');
        INSERT INTO out SELECT text FROM t;";
    for shape in LOCAL {
        let place = Place::new(&[("fast.sql", pipeline), ("slow.out", "")]);
        let mut command = place.command(&[&["run", "fast.sql"], shape].concat());
        let mut child =
            command.stdout(Stdio::piped()).stderr(File::create(place.path("slow.err")).unwrap()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        let running = Started { place: &place, name: "slow".into(), child };
        let resident = || {
            let all = running.children().into_iter().chain([running.id()]);
            all.map(|id| {
                fs::read_to_string(format!("/proc/{id}/statm"))
                    .unwrap()
                    .split(' ')
                    .nth(1)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
                    * 4096
            })
            .sum::<u64>()
        };
        sleep(Duration::from_secs(1));
        let before = resident();
        sleep(Duration::from_secs(2));
        let after = resident();
        assert!(after < before + (16 << 20), "{shape:?}: from {before} to {after} bytes while nobody reads");
        drop(reader);
        assert_eq!(running.end().0, 0);
    }
}
