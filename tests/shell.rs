//! The shell as it is used: statements from a pipe, from `-c`, and typed at a terminal.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Numbers from 1 to 8, in one split, and a table to write to.
const TABLES: &str = "
CREATE TABLE numbers (n BIGINT, ms AS n * 1000) WITH (
  'connector' = 'datagen', 'splits' = '1',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '8'
);
CREATE VIEW even AS SELECT n FROM numbers WHERE n % 2 = 0;
CREATE TABLE copy (n BIGINT) WITH ('connector' = 'file', 'path' = 'copy.csv', 'format' = 'csv');
";

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.arg("sql").args(arguments).current_dir(folder).env("HIGHWATER_LOG", "error");
    command
}

/// Gives `typed` to the shell's standard input: its exit code and both outputs.
fn pipe(folder: &Path, arguments: &[&str], typed: &str) -> (i32, String, String) {
    let mut command = command(folder, arguments);
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn statements_of_a_pipe_are_done_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let typed = format!(
        "{TABLES}
SHOW TABLES;
DESCRIBE numbers;
SELECT n FROM even; SELECT n, ms FROM numbers WHERE n < 3;
\\format json
SELECT n FROM numbers WHERE n > 7;
INSERT INTO copy SELECT n FROM even;
\\format changelog
SELECT max(n) AS m FROM numbers EMIT FINAL"
    );
    let (code, out, err) = pipe(folder.path(), &[], &typed);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let expected = " name     kind   connector  columns
 numbers  table  datagen    n, ms
 even     view              n
 copy     table  file       n
numbers · table, datagen · read · stdin:2:1
 column  type
 n       BIGINT
 ms      BIGINT  AS n * 1000
n
-
2
4
6
8
n |   ms
--+-----
1 | 1000
2 | 2000
{\"n\":8}
+I[8]
";
    assert_eq!(out, expected);
    assert_eq!(fs::read_to_string(folder.path().join("copy.csv")).unwrap(), "2\n4\n6\n8\n");
}

#[test]
fn a_materialized_view_is_a_view_here_and_what_serves_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let typed = "CREATE MATERIALIZED VIEW v AS SELECT 1 AS a;\nSELECT a FROM v; SHOW VIEWS;";
    let (code, out, err) = pipe(folder.path(), &[], typed);
    assert_eq!(
        (code, out.as_str()),
        (0, "a\n-\n1\n name  kind  connector  columns\n v     view             a\n"),
        "{err}"
    );
    assert!(err.contains("`highwater run FILE --ask` serves it"), "{err}");
    fs::write(folder.path().join("p.sql"), "CREATE MATERIALIZED VIEW v AS SELECT 2 AS a;").unwrap();
    let (code, out, err) = pipe(folder.path(), &["p.sql"], "SELECT a FROM v; SUBSCRIBE v;");
    assert_eq!((code, out.as_str()), (2, "a\n-\n2\n"));
    assert!(err.contains("SUBSCRIBE is for the views of a pipeline that runs"), "{err}");
}

#[test]
fn a_limit_stops_a_query_that_would_go_on_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let endless = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'splits' = '1',
        'rows-per-second' = '1000', 'fields.n.kind' = 'sequence');";
    let check = |query: &str, expected: &str| {
        let (code, out, err) = pipe(folder.path(), &["--format", "json"], &format!("{endless} {query};"));
        assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""), "{query}");
    };
    check("SELECT n FROM numbers LIMIT 3", "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    check("SELECT n FROM numbers LIMIT 0", "");
    // of a query that updates, each change is a row
    let (code, out, err) = pipe(
        folder.path(),
        &["--format", "json", "--workers", "2"],
        &format!("{endless} SELECT count(*) AS c FROM numbers LIMIT 4;"),
    );
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 4, ""), "{out}");
}

#[test]
fn a_mistake_is_shown_with_its_line_and_the_shell_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let typed = format!(
        "{TABLES}SELECT m
  FROM numbers;
SELECT n FROM nmbers;
SHOW TABELS;
DESCRIBE evn;
\\formt
CREATE TABLE numbers (n INT) WITH ('connector' = 'print');
DROP TABLE numbers;
DROP VIEW even;
DROP TABLE numbers;
CREATE TABLE numbers (n INT) WITH ('connector' = 'print');
DESCRIBE numbers;
SELECT 1 +;
"
    );
    let (code, out, err) = pipe(folder.path(), &[], &typed);
    assert_eq!(code, 2);
    for part in [
        "unknown column 'm'\n --> stdin:8:8\n  |\n8 | SELECT m\n  |        ^\n",
        "unknown table 'nmbers'\n  --> stdin:10:15\n",
        "did you mean 'numbers'?",
        "SHOW TABELS is not known",
        "did you mean SHOW TABLES?",
        "unknown table 'evn'",
        "there is no command \\formt",
        "'numbers' is declared twice\n  --> stdin:14:14\n",
        "'numbers' cannot be dropped: ",
        "stdin:20:",
    ] {
        assert!(err.contains(part), "{part:?} is missing in\n{err}");
    }
    assert_eq!(err.matches("error: ").count(), 8, "{err}");
    assert!(!err.contains('\x1b'), "colours are for terminals");
    assert_eq!(out, "numbers · table, print · stdin:18:1\n column  type\n n       INT\n");
}

#[test]
fn a_file_gives_its_tables_and_a_command_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let definition = format!("{TABLES}INSERT INTO copy SELECT n FROM even;\nSELECT n FROM even;\n");
    fs::write(folder.path().join("p.sql"), definition).unwrap();
    let run = |arguments: &[&str]| pipe(folder.path(), arguments, "");
    let (code, out, err) = run(&["p.sql", "-c", "SELECT n FROM even WHERE n > 6", "-c", "SELECT n FROM even LIMIT 1"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "n\n-\n8\nn\n-\n2\n", ""));
    assert!(!folder.path().join("copy.csv").exists(), "what the file writes is not run");
    let (code, out, err) = run(&["-c", "SELECT x FROM y", "-c", "SHOW TABLES"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("unknown table 'y'\n --> command:1:15\n"), "{err}");
    assert_eq!(run(&["missing.sql"]).0, 2);
    let (_, out, _) = run(&["p.sql", "-c", "EXPLAIN SELECT n FROM even"]);
    assert!(out.contains("source numbers"), "{out}");
}

/// A shell at a terminal of its own.
struct Terminal {
    shell: Child,
    keys: fs::File,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(folder: &Path, arguments: &[&str]) -> Terminal {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let mut command = command(folder, arguments);
        command.env("TERM", "xterm").env("XDG_STATE_HOME", folder.join("state")).env("NO_COLOR", "1");
        // `setsid -c` makes the terminal the one that Ctrl-C comes from
        let mut leader = Command::new("setsid");
        leader.args(["-c", "-w"]).arg(command.get_program()).args(command.get_args()).current_dir(folder);
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let shell = leader.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave)).spawn().unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let mut screen = fs::File::from(pty.master.try_clone().unwrap());
        let text = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // the terminal's end is an error
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Terminal { shell, keys: fs::File::from(pty.master), seen }
    }

    fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, after what was waited for before.
    fn see(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            let mut seen = self.seen.lock().unwrap();
            if let Some(at) = seen.find(text) {
                seen.drain(..at + text.len());
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(40), "{text:?} does not come:\n{seen}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn at_a_terminal_it_edits_completes_remembers_and_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::new(folder.path(), &[]);
    terminal.see("highwater> ");
    terminal.type_keys(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '100',\r\
         'fields.n.kind' = 'sequence', 'splits' = '1');\r",
    );
    terminal.see("highwater> ");
    // Tab completes the table's name
    terminal.type_keys("DESCRIBE numb\t;\r");
    terminal.see("numbers · table, datagen");
    terminal.see("highwater> ");
    terminal.type_keys("SELECT n FROM numbers LIMIT 2;\r");
    terminal.see("2 rows in");
    terminal.see("highwater> ");
    // a query without an end ends with Ctrl-C, the shell does not
    terminal.type_keys("SELECT n FROM numbers;\r");
    terminal.see("Ctrl-C stops it");
    terminal.see("\r\n20");
    terminal.type_keys("\x03");
    terminal.see("rows in");
    terminal.see("highwater> ");
    terminal.type_keys("SET 'pipeline.name' = 'my_password';\r");
    terminal.see("highwater> ");
    terminal.type_keys("\\q\r");
    let start = Instant::now();
    while terminal.shell.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not leave: {}", terminal.seen.lock().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(terminal.shell.wait().unwrap().code(), Some(0));
    let history = fs::read_to_string(folder.path().join("state/highwater/sql_history")).unwrap();
    assert!(history.contains("SELECT n FROM numbers LIMIT 2;"), "{history}");
    assert!(!history.contains("password"), "a secret is kept: {history}");
}

#[test]
fn whoever_interrupts_a_script_means_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["--format", "json"]);
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let script = "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '100');
        SELECT n FROM numbers; SHOW TABLES;";
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let mut out = shell.stdout.take().unwrap();
    let mut row = [0; 5];
    out.read_exact(&mut row).unwrap();
    assert_eq!(&row, b"{\"n\":");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shell.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("datagen"), "the statement after it is not run: {rest}");
    assert_eq!(shell.wait().unwrap().code(), Some(0));
}
