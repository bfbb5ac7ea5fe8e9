//! The documents keep their word: every snippet is run or checked, every link leads somewhere.
//!
//! What a fenced block is for stands after its language:
//!
//! | block | what is done |
//! |---|---|
//! | `sql` | it is a pipeline: `highwater check` must accept it |
//! | `sql NAME.sql` | the same, and it is a file of that name for the page's `console` blocks |
//! | `sql part` | all parts of a page are one pipeline |
//! | `sql refused` | it is refused, and the `text` block below is what is said |
//! | `sql test NAME.sql` | tests of a pipeline: what they assert holds; `sql test failing …` does not, `sql test wrong …` cannot be read |
//! | `yaml NAME.yaml`, `yaml refused` | the same for operator graphs |
//! | `json NAME` | a file for the page's `console` blocks |
//! | `console` | what follows `$ ` is run, the rest is what it prints; `…` stands for anything |
//! | `sh` | not run, but each `make` target exists and each `highwater` call has arguments that it knows |
//! | `rust FILE` | its lines stand together in that file, or in examples/embedding.rs |
//! | `text`, `mermaid` | pictures |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

struct Block {
    /// `file:line`.
    place: String,
    /// The language and what follows it.
    info: Vec<String>,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let markdown = |folder: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(root().join(folder)).expect("the folder is in the repository");
        let paths = entries.map(|entry| entry.expect("the folder can be read").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
    };
    let mut pages = [markdown("."), markdown("docs"), markdown("docs/adr")].concat();
    pages.sort();
    pages
}

fn name(page: &Path) -> String {
    page.strip_prefix(root()).expect("pages lie in the repository").display().to_string()
}

fn blocks(page: &Path) -> Vec<Block> {
    let text = fs::read_to_string(page).expect("pages are UTF-8");
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let info: Vec<String> = info.split_whitespace().map(str::to_owned).collect();
                open = Some(Block { place: format!("{}:{}", name(page), number + 1), info, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", name(page));
    blocks
}

/// A folder that looks like the repository and can be written to.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for entry in ["src", "pipelines", "examples", "README.md", "ARCHITECTURE.md", "Makefile"] {
        std::os::unix::fs::symlink(root().join(entry), folder.path().join(entry)).expect("links can be made");
    }
    folder
}

/// Exit code, and what is printed on both streams.
fn run(command: &str, folder: &Path) -> (i32, String) {
    let own = Path::new(HIGHWATER).parent().expect("a program lies in a folder").display().to_string();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(folder)
        .env("PATH", path)
        .env("HIGHWATER_LOG", "error")
        .stdin(Stdio::null())
        .output()
        .expect("bash is there");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check(sql: &str, file: &str, folder: &Path) -> (i32, String) {
    fs::write(folder.join(file), sql).expect("the folder can be written to");
    run(&format!("highwater check {file}"), folder)
}

/// `…` alone on a line stands for any lines, within a line for any text.
fn is_like(found: &[&str], expected: &[&str]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((&"…", rest)) => (0..=found.len()).any(|skipped| is_like(&found[skipped..], rest)),
        Some((line, rest)) => {
            found.split_first().is_some_and(|(first, others)| is_like_line(first, line) && is_like(others, rest))
        }
    }
}

fn is_like_line(found: &str, expected: &str) -> bool {
    let (found, expected) = (found.trim_end(), expected.trim_end());
    match expected.split_once('…') {
        None => found == expected,
        Some((start, rest)) => found.strip_prefix(start).is_some_and(|found| {
            (0..=found.len()).filter(|at| found.is_char_boundary(*at)).any(|at| is_like_line(&found[at..], rest))
        }),
    }
}

fn run_console(block: &Block, folder: &Path, wrong: &mut Vec<String>) {
    let mut lines = block.text.lines().peekable();
    while let Some(line) = lines.next() {
        let command =
            line.strip_prefix("$ ").unwrap_or_else(|| panic!("{}: a console block starts with `$ `", block.place));
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
            expected.push(line);
        }
        let (_, printed) = run(command, folder);
        if !is_like(&printed.lines().collect::<Vec<_>>(), &expected) {
            wrong.push(format!("{}: `{command}` printed\n{printed}instead of\n{}", block.place, expected.join("\n")));
        }
    }
}

/// What can be known of a command without running it.
fn check_command(line: &str, targets: &str) -> Result<(), String> {
    let line = line.split(" #").next().unwrap_or_default().trim_end_matches('&').trim();
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["make", wanted @ ..] => match wanted.iter().find(|target| !targets.contains(&format!("\n{target}:"))) {
            Some(target) => Err(format!("there is no target {target}")),
            None => Ok(()),
        },
        ["highwater", arguments @ ..] => {
            let output =
                Command::new(HIGHWATER).args(arguments).arg("--help").output().expect("the program can be run");
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            }
        }
        _ => Ok(()),
    }
}

#[test]
fn every_snippet_holds() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("it is in the repository");
    let lines = |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    let mut wrong = Vec::new();
    for page in pages() {
        let folder = workplace();
        let blocks = blocks(&page);
        let mut parts = String::new();
        for (number, block) in blocks.iter().enumerate() {
            let Block { place, info, text } = block;
            match info.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["sql", "part"] => parts.push_str(text),
                [language @ ("sql" | "yaml"), "refused"] => {
                    let said = check(text, &format!("refused.{language}"), folder.path()).1;
                    let expected =
                        blocks.get(number + 1).filter(|next| next.info == ["text"]).map_or("", |next| &next.text);
                    if !is_like(&said.lines().collect::<Vec<_>>(), &expected.lines().collect::<Vec<_>>()) {
                        wrong.push(format!("{place}: it says\n{said}instead of\n{expected}"));
                    }
                }
                ["sql", "test", how @ .., file] => {
                    fs::write(folder.path().join(file), text).expect("the folder can be written to");
                    let (code, said) = run(&format!("highwater test {file}"), folder.path());
                    let expected = match how {
                        [] => 0,
                        ["failing"] => 1,
                        _ => 2,
                    };
                    if code != expected {
                        wrong.push(format!("{place}: {said}"));
                    }
                }
                ["sql", file @ ..] => {
                    let (code, said) = check(text, file.first().unwrap_or(&"pipeline.sql"), folder.path());
                    if code != 0 {
                        wrong.push(format!("{place}: {said}"));
                    }
                }
                ["yaml", file] => {
                    let (code, said) = check(text, file, folder.path());
                    if code != 0 {
                        wrong.push(format!("{place}: {said}"));
                    }
                }
                ["json", file] => fs::write(folder.path().join(file), text).expect("the folder can be written to"),
                ["console"] => run_console(block, folder.path(), &mut wrong),
                ["sh"] => wrong.extend(text.lines().filter_map(|line| {
                    check_command(line, &makefile).err().map(|reason| format!("{place}: `{line}`: {reason}"))
                })),
                ["rust", file @ ..] => {
                    let file = file.first().unwrap_or(&"examples/embedding.rs");
                    let example = fs::read_to_string(root().join(file)).unwrap_or_default();
                    if !lines(&example).contains(&lines(text)) {
                        wrong.push(format!("{place}: it does not stand in {file}"));
                    }
                }
                ["text" | "mermaid"] => {}
                other => wrong.push(format!("{place}: nobody checks blocks of {other:?}")),
            }
        }
        if !parts.is_empty() {
            let (code, said) = check(&parts, "parts.sql", folder.path());
            if code != 0 {
                wrong.push(format!("{}: its parts together: {said}", name(&page)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_pipeline_in_the_repository_is_accepted() {
    for folder in ["pipelines", "pipelines/demo", "pipelines/nexmark"] {
        for entry in fs::read_dir(root().join(folder)).expect("the folder is in the repository") {
            let path = entry.expect("the folder can be read").path();
            if path.extension().is_some_and(|extension| extension == "sql" || extension == "yaml") {
                let (code, said) = run(&format!("highwater check '{}'", path.display()), root());
                assert_eq!(code, 0, "{said}");
            }
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("pages are UTF-8");
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default().split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            if !outside && !page.parent().expect("a page lies in a folder").join(target).exists() {
                dead.push(format!("{}: {target}", name(&page)));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}
