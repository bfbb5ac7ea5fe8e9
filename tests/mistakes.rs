//! Wrong pipelines and what is said of them.
//!
//! Each file in tests/mistakes/ is a definition that somebody might write, beside it with `.err` what `highwater check` answers.
//! `UPDATE_MISTAKES=1` writes the answers; read what it wrote: what is wrong, where, and what to do must be there.

use highwater::connector::builtin::Builtin;
use highwater::error::{Error, ErrorKind, Result, report};
use highwater::graph;
use highwater::sql::{self, Text};
use std::fs;
use std::path::{Path, PathBuf};

/// As `highwater check` does it.
fn check(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8");
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("sql") => sql::plan(Text { name, sql: text }, &[], &Builtin::default()).and_then(|plan| plan.check()),
        Some("yaml") => graph::plan(Text { name, sql: text }, &[], &Builtin::default())
            .map(drop)
            .map_err(|wrong| Error::join(wrong).expect("a refusal has a reason")),
        _ => panic!("{name} is no definition"),
    }
}

fn definitions() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let entries = fs::read_dir(folder).expect("the folder is in the repository");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension != "err")).collect();
    paths.sort();
    paths
}

#[test]
fn each_is_answered() {
    let update = std::env::var_os("UPDATE_MISTAKES").is_some();
    let (definitions, mut wrong) = (definitions(), Vec::new());
    for path in &definitions {
        let text = fs::read_to_string(path).expect("definitions are UTF-8");
        let name = path.file_name().expect("a file has a name").display();
        let Err(error) = check(path, &text) else {
            wrong.push(format!("{name} is accepted"));
            continue;
        };
        for mistake in error.each() {
            if mistake.kind() != ErrorKind::Invalid || !mistake.to_string().starts_with(&name.to_string()) {
                wrong.push(format!("{name}: not a mistake with a place: {mistake:?}"));
            }
        }
        let (found, golden) = (report(&error, false), path.with_extension("err"));
        if update {
            fs::write(&golden, &found).expect("the answer can be written");
        }
        if fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("of {name} this is said now (UPDATE_MISTAKES=1 writes it):\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(definitions.len() >= 60, "only {} mistakes", definitions.len());
}

#[test]
fn the_index_of_errors_has_what_is_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = fs::read_to_string(root.join("docs/errors.md")).expect("it is in the repository");
    let (_, index) = index.split_once("## What is said").expect("the index has its heading");
    let (index, _) = index.split_once("\n## ").expect("another section follows");
    let answers: Vec<String> =
        definitions().iter().map(|path| fs::read_to_string(path.with_extension("err")).unwrap_or_default()).collect();
    let entries: Vec<&str> = index.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(entries.len() > 10, "{entries:?}");
    for entry in entries {
        let said = |answer: &String| {
            answer.lines().any(|line| {
                let mut rest = Some(line);
                entry.split('…').for_each(|part| rest = rest.and_then(|rest| Some(rest.split_once(part)?.1)));
                rest.is_some()
            })
        };
        assert!(answers.iter().any(said), "nothing says `{entry}`");
    }
}
