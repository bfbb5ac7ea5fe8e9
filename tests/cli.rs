//! The command line as people and scripts meet it: help, suggestions, completions, the manual, lists.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
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
    check(&["explian", "p.sql"], "a similar subcommand exists: 'explain'");
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
    let found: String = found.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
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
