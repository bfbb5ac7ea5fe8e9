//! The command line as people and scripts meet it: help, suggestions, completions, the manual, lists.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Exit code, standard output and standard error of a call in `folder`.
fn call(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn good(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = call(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

/// The commands that `highwater --help` lists.
fn commands(folder: &Path) -> Vec<String> {
    let help = good(folder, &["--help"]);
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let first = |line: &str| Some(line.strip_prefix("  ")?.split_whitespace().next()?.to_owned());
    lines.filter_map(first).filter(|command| command != "help").collect()
}

#[test]
fn every_command_is_helped_completed_and_in_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let commands = commands(folder.path());
    assert!(commands.iter().any(|command| command == "run"), "{commands:?}");
    let scripts = ["bash", "zsh", "fish", "elvish", "powershell"]
        .map(|shell| (shell, good(folder.path(), &["completions", shell])));
    good(folder.path(), &["man", "pages"]);
    for command in commands {
        let help = good(folder.path(), &["help", &command]);
        assert!(help.contains("Usage: highwater"), "{command}: {help}");
        for (shell, script) in &scripts {
            assert!(script.contains(&command), "{shell} completes {command}");
        }
        let page = fs::read_to_string(folder.path().join(format!("pages/highwater-{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
    }
    assert!(good(folder.path(), &["man"]).contains(".TH highwater 1"));
}

#[test]
fn bash_takes_the_completions() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("script"), good(folder.path(), &["completions", "bash"])).unwrap();
    let asked = "source ./script; COMP_WORDS=(highwater run --metr); COMP_CWORD=2; \
                 _highwater highwater --metr run; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", asked]).current_dir(folder.path()).output().unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    assert_eq!(offered.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["--metrics-port", "--metrics-address"]));
}

#[test]
fn a_misspelt_word_is_answered_with_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], expected: &str| {
        let (code, _, err) = call(folder.path(), arguments);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(expected), "{err}");
        assert!(!err.contains('\x1b'), "colours are for terminals: {err}");
    };
    check(&["functons"], "a similar subcommand exists: 'functions'");
    check(&["run", "p.sql", "--worker", "2"], "a similar argument exists: '--workers'");
    check(&["explain", "p.sql", "--format", "jsn"], "a similar value exists: 'json'");
    check(&["functions", "uper"], "did you mean 'upper'?");
}

#[test]
fn tables_and_functions_are_lists_for_people_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    let definition = "
CREATE TABLE readings (
  sensor INT NOT NULL,
  degrees DOUBLE,
  at TIMESTAMP(3),
  fahrenheit AS degrees * 9 / 5 + 32,
  WATERMARK FOR at AS at - INTERVAL '5' SECOND
) WITH ('connector' = 'datagen', 'number-of-rows' = '10');
CREATE VIEW hot AS SELECT sensor, at FROM readings WHERE degrees > 30;
CREATE TABLE unused (a INT) WITH ('connector' = 'print');
INSERT INTO unused SELECT sensor FROM hot;
";
    fs::write(folder.path().join("p.sql"), definition).unwrap();
    let expected = "\
readings · table, datagen · read · WATERMARK FOR at AS at - INTERVAL '5' SECOND · p.sql:2:1
 column      type
 sensor      INT        NOT NULL
 degrees     DOUBLE
 at          TIMESTAMP
 fahrenheit  DOUBLE     AS degrees * 9 / 5 + 32

hot · view · read · p.sql:9:1
 column  type
 sensor  INT        NOT NULL
 at      TIMESTAMP

unused · table, print · written · p.sql:10:1
 column  type
 a       INT
";
    let found = good(folder.path(), &["tables", "p.sql"]);
    assert_eq!(found, expected);
    let json: Value = serde_json::from_str(&good(folder.path(), &["tables", "p.sql", "--format", "json"])).unwrap();
    assert_eq!(json[0]["columns"][3]["computed"], "degrees * 9 / 5 + 32");
    assert_eq!(json[1]["kind"], "view");
    assert_eq!(json[2]["written"], true);

    let found = good(folder.path(), &["functions", "split_w*"]);
    assert!(found.contains("split_words(text)") && found.lines().count() == 2, "{found}");
    let json: Value = serde_json::from_str(&good(folder.path(), &["functions", "--format", "json"])).unwrap();
    let names: BTreeSet<&str> = json.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.len() > 200 && names.contains("upper") && !names.contains("now"), "{names:?}");
    // a word that is in no name
    assert!(good(folder.path(), &["functions", "white space"]).contains("split_words"));
}

#[test]
fn a_first_pipeline_runs_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let written = good(folder.path(), &["init"]);
    assert_eq!(written, "pipeline.sql is written. Run it:\n\n  highwater run pipeline.sql\n");
    let rows = good(folder.path(), &["run", "pipeline.sql"]);
    let (header, rows) = rows.split_once('\n').unwrap();
    assert_eq!(header.split('|').map(str::trim).collect::<Vec<_>>(), ["window_start", "sensor", "readings", "degrees"]);
    // 2000 rows over 100 seconds
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.lines().skip(1).map(cells).collect();
    let counted: u64 = rows.iter().map(|row| row[2].parse::<u64>().unwrap()).sum();
    let degrees = rows.iter().map(|row| row[3].parse::<f64>().unwrap());
    assert_eq!(counted, 2000);
    assert!(degrees.min_by(f64::total_cmp) > Some(15.0), "{rows:?}");

    let before = fs::read_to_string(folder.path().join("pipeline.sql")).unwrap();
    let (code, _, err) = call(folder.path(), &["init"]);
    assert_eq!(code, 2);
    assert!(err.contains("pipeline.sql is there already") && err.contains("nothing is overwritten"), "{err}");
    assert_eq!(fs::read_to_string(folder.path().join("pipeline.sql")).unwrap(), before);
    let (code, _, err) = call(folder.path(), &["init", "pipeline.txt"]);
    assert!(code == 2 && err.contains("pipeline.txt is no name for a pipeline"), "{err}");
}

#[test]
fn a_first_pipeline_is_the_same_as_a_graph() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["--file", "a.txt"], &["--kafka", "127.0.0.1:9092", "--topic", "t"], &["--kafka"]] {
        let plans = ["p.sql", "p.yaml"].map(|file| {
            let _ = fs::remove_file(folder.path().join(file));
            good(folder.path(), &[&["init", file], arguments].concat());
            // in a graph a topic that is read and one that is written have names of their own
            good(folder.path(), &["explain", file]).replace("sink topic\n", "sink messages\n")
        });
        assert_eq!(plans[0], plans[1], "{arguments:?}");
    }
    let listed = good(folder.path(), &["tables", "p.yaml"]);
    assert!(listed.contains(" · table, kafka · read · p.yaml:"), "{listed}");
    let (code, _, err) = call(folder.path(), &["sql", "p.yaml", "-c", "SHOW TABLES"]);
    assert!(code == 2 && err.contains("highwater tables lists its sources"), "{err}");
}

#[test]
fn a_reader_that_goes_is_no_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let listed = format!("set -o pipefail; {} functions | head -1", env!("CARGO_BIN_EXE_highwater"));
    let output = Command::new("bash").args(["-c", &listed]).current_dir(folder.path()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn a_first_pipeline_may_read_a_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("it's.txt"), "to be or\nnot to be\n").unwrap();
    good(folder.path(), &["init", "my words.sql", "--file", "it's.txt"]);
    let rows = good(folder.path(), &["run", "my words.sql"]);
    let rows: BTreeSet<String> = rows.lines().skip(2).map(|row| row.replace(' ', "")).collect();
    assert_eq!(rows, ["be|2", "not|1", "or|1", "to|2"].map(str::to_owned).into());
}

#[test]
fn a_first_pipeline_may_read_a_topic() {
    let folder = tempfile::tempdir().unwrap();
    good(folder.path(), &["init", "counts", "--kafka"]);
    assert_eq!(words_of(folder.path(), "counts.sql", 800), 800, "a hundred messages of eight words");

    // a topic of one's own: what a client writes is counted
    let mut broker = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["broker", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(broker.stdout.take().unwrap()).read_line(&mut address).unwrap();
    good(folder.path(), &["init", "own", "--kafka", address.trim(), "--topic", "own.topic"]);
    let produce = format!(
        "CREATE TABLE t (m STRING) WITH ('connector' = 'kafka', 'topic' = 'own.topic', 'format' = 'raw', \
         'properties.bootstrap.servers' = '{}'); INSERT INTO t VALUES ('to be'), ('or not to be')",
        address.trim()
    );
    good(folder.path(), &["sql", "-c", &produce]);
    let counted = words_of(folder.path(), "own.sql", 6);
    let _ = broker.kill();
    let _ = broker.wait();
    assert_eq!(counted, 6);
}

/// Runs `file`, which prints changes of counts, until the counts sum up to `enough`; then stops it.
fn words_of(folder: &Path, file: &str, enough: i64) -> i64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["run", file])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // a run that says too little does not hold the test up for ever
    let id = Pid::from_raw(child.id().try_into().unwrap());
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(60));
        let _ = kill(id, Signal::SIGKILL);
    });
    let mut counted = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let (change, row) = line.trim_end_matches(']').split_once('[').unwrap();
        let n: i64 = row.rsplit(", ").next().unwrap().parse().unwrap();
        counted += if change.starts_with('+') { n } else { -n };
        if counted == enough {
            kill(id, Signal::SIGINT).unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "a pipeline that is stopped has not failed");
    counted
}
