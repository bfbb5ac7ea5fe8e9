//! Holds what no compiler holds: which room imports which, and which room names which library.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in their order: each imports only from those before it.
const ROOMS: [&str; 22] = [
    "error",
    "fail",
    "time",
    "batch",
    "expr",
    "format",
    "state",
    "operator",
    "connector",
    "plan",
    "sql",
    "graph",
    "builder",
    "checkpoint",
    "runtime",
    "testing",
    "broker",
    "bench",
    "cli",
    "fuzzing",
    "lib",
    "main",
];

/// A library and the only places that may name it.
const OWNERS: [(&str, &[&str]); 14] = [
    ("timely::", &["src/runtime.rs", "src/runtime/"]),
    ("differential_dataflow::", &["src/runtime/"]),
    ("rdkafka", &["src/connector/kafka/", "src/bench/kafka"]),
    ("datafusion_", &["src/sql.rs", "src/sql/", "src/expr.rs", "src/expr/"]),
    ("clap::", &["src/cli.rs", "src/cli/"]),
    ("axum::", &["src/cli/metrics.rs"]),
    ("object_store::", &["src/checkpoint/store"]),
    ("tokio::", &["src/cli/metrics.rs", "src/checkpoint/store", "src/connector/registry.rs", "src/connector/http.rs"]),
    ("wasmtime::", &["src/expr/wasm/sandbox.rs"]),
    ("reqwest::", &["src/connector/registry.rs", "src/connector/http.rs"]),
    ("rustyline::", &["src/cli/shell/"]),
    ("prometheus_client::", &["src/runtime/metrics"]),
    ("SystemTime", &["src/time.rs"]),
    ("Instant::now", &["src/time.rs", "src/broker/"]),
];

/// Imports against the order, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("src/operator/", "plan", "operators run what the plan describes; the plan names none but a program's own"),
    ("src/connector/", "plan", "sinks know the weight column by its name in the plan"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is in the repository") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Path from the repository's root and the lines that are code.
fn files() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect();
        (path.strip_prefix(root).expect("it was found below the root").display().to_string(), code)
    };
    paths.into_iter().map(read).collect()
}

fn room_of(path: &str) -> &str {
    let inner = path.strip_prefix("src/").expect("only sources are looked at");
    inner.split(['/', '.']).next().expect("a path has a first part")
}

#[test]
fn rooms_import_only_from_those_before_them() {
    let mut wrong = Vec::new();
    for (path, lines) in files() {
        let room = room_of(&path);
        let place = ROOMS.iter().position(|name| *name == room);
        let place = place.unwrap_or_else(|| panic!("{path}: room \"{room}\" has no place in the order"));
        for (number, line) in lines.iter().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let imported: String =
                    line[at + 7..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let Some(other) = ROOMS.iter().position(|name| *name == imported) else { continue };
                let excepted = EXCEPTIONS.iter().any(|(from, to, _)| path.starts_with(from) && imported == *to);
                if other > place && !excepted {
                    wrong.push(format!("{path}:{}: {room} imports {imported}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the order of rooms:\n{}", wrong.join("\n"));
}

#[test]
fn a_library_is_named_only_where_it_is_at_home() {
    let mut wrong = Vec::new();
    for (path, lines) in files() {
        for (number, line) in lines.iter().enumerate() {
            for (library, homes) in OWNERS {
                let word = line.match_indices(library).any(|(at, _)| {
                    !line[..at]
                        .ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_' || before == ':')
                });
                if word && !homes.iter().any(|home| path.starts_with(home)) {
                    wrong.push(format!("{path}:{}: {library}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "libraries named outside their room:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_opens_with_what_it_is() {
    let silent: Vec<String> =
        files_with_text().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "modules without a first line of documentation: {silent:?}");
}

fn files_with_text() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    files()
        .into_iter()
        .map(|(path, _)| (path.clone(), fs::read_to_string(root.join(&path)).expect("it was read before")))
        .collect()
}
