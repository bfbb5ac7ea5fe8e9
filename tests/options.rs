//! What documents say of options is what the program declares.
//!
//! A section between `<!-- options: NAME -->` and `<!-- end -->` is generated; `UPDATE_DOCS=1` writes it.

use highwater::connector::builtin::CONNECTORS;
use highwater::connector::{ConnectorSpec, FORMATS, OptionSpec, Preset, Side, TABLE_OPTIONS, Takes, registry};
use highwater::plan::type_name;
use highwater::sql::SETTINGS;
use std::fs;
use std::path::Path;

/// What the section `name` must say.
fn section(name: &str) -> Option<String> {
    match name.split_once(' ') {
        None if name == "connectors" => Some(overview()),
        None if name == "tables" => Some(table(TABLE_OPTIONS, false)),
        None if name == "registry" => Some(table(registry::OPTIONS, true)),
        None if name == "settings" => Some(table(SETTINGS, false)),
        Some(("connector", name)) => {
            let spec = CONNECTORS.iter().find(|spec| spec.name == name)?;
            Some(table(spec.options, spec.reads && spec.writes))
        }
        Some(("metadata", name)) => {
            Some(metadata(CONNECTORS.iter().find(|spec| spec.name == name).filter(|spec| !spec.metadata.is_empty())?))
        }
        Some(("format", name)) => Some(table(FORMATS.iter().find(|spec| spec.name == name)?.options, true)),
        _ => None,
    }
}

fn overview() -> String {
    let mark = |yes| if yes { "✓" } else { "" };
    let row = |spec: &ConnectorSpec| {
        let ConnectorSpec { name, about, reads, writes, answers, .. } = spec;
        format!("| [`{name}`](#{name}) | {} | {} | {} | {about} |\n", mark(*reads), mark(*writes), mark(*answers))
    };
    "| connector | reads | writes | answers | |\n|---|---|---|---|---|\n".to_owned()
        + &CONNECTORS.iter().map(row).collect::<String>()
}

fn metadata(spec: &ConnectorSpec) -> String {
    let mut text = "| metadata | type | | |\n|---|---|---|---|\n".to_owned();
    for spec in spec.metadata {
        let (data_type, written) =
            (type_name(&(spec.data_type)()), if spec.writable { "read, written" } else { "read" });
        text.push_str(&format!("| `{}` | `{data_type}` | {written} | {} |\n", spec.name, spec.about));
    }
    text
}

fn table(specs: &[&OptionSpec], two_sides: bool) -> String {
    let mut text = "| option | takes | default | |\n|---|---|---|---|\n".to_owned();
    for spec in specs {
        let takes = match spec.takes {
            Takes::Text | Takes::Secret => "text".to_owned(),
            Takes::Form(form) => form.to_owned(),
            Takes::Whole(..) | Takes::Real => "number".to_owned(),
            Takes::Bytes => "bytes".to_owned(),
            Takes::Duration => "duration".to_owned(),
            Takes::DurationOrOff => "duration or `off`".to_owned(),
            Takes::Flag => "`true`, `false`".to_owned(),
            Takes::Time => "moment".to_owned(),
            Takes::Choice(words) | Takes::Name(_, words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
        };
        let preset = match spec.preset {
            Preset::Required => "required".to_owned(),
            Preset::Is("") => "empty".to_owned(),
            Preset::Is(text) => format!("`{text}`"),
            Preset::None(words) => words.to_owned(),
        };
        let side = match spec.side {
            Side::Read if two_sides => "to read: ",
            Side::Written if two_sides => "to write: ",
            _ => "",
        };
        text.push_str(&format!("| `{}` | {takes} | {preset} | {side}{} |\n", spec.name, spec.about));
    }
    text
}

#[test]
fn documents_say_what_is_declared() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut found = Vec::new();
    for entry in fs::read_dir(docs).expect("the folder is in the repository") {
        let path = entry.expect("the folder can be read").path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let mut written = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("<!-- options: ") {
            let (name, after) = after.split_once(" -->\n").expect("the mark is closed on its line");
            let (_, after) = after.split_once("<!-- end -->").expect("the section has an end");
            let section = section(name).unwrap_or_else(|| panic!("{}: what is '{name}'?", path.display()));
            written.push_str(&format!("{before}<!-- options: {name} -->\n{section}<!-- end -->"));
            found.push(name.to_owned());
            rest = after;
        }
        written.push_str(rest);
        if std::env::var_os("UPDATE_DOCS").is_some() && written != text {
            fs::write(&path, &written).expect("the document can be written");
        } else {
            assert!(written == text, "{} is not what is declared; UPDATE_DOCS=1 writes it", path.display());
        }
    }
    let connectors = CONNECTORS.iter().filter(|spec| !spec.options.is_empty()).map(|spec| ("connector", spec.name));
    let formats = FORMATS.iter().filter(|spec| !spec.options.is_empty()).map(|spec| ("format", spec.name));
    let metadata = CONNECTORS.iter().filter(|spec| !spec.metadata.is_empty()).map(|spec| ("metadata", spec.name));
    for (kind, name) in connectors.chain(formats).chain(metadata).chain([
        ("connectors", ""),
        ("tables", ""),
        ("settings", ""),
        ("registry", ""),
    ]) {
        let wanted = format!("{kind} {name}");
        assert!(found.iter().any(|found| found == wanted.trim()), "no document has '{}'", wanted.trim());
    }
}

#[test]
fn declarations_hold_together() {
    let specs =
        CONNECTORS.iter().flat_map(|spec| spec.options).chain(TABLE_OPTIONS).chain(SETTINGS).chain(registry::OPTIONS);
    for spec in specs.chain(FORMATS.iter().flat_map(|spec| spec.options)) {
        if let Preset::Is(text) = spec.preset {
            spec.takes.check(text).unwrap_or_else(|error| panic!("{}: its own preset: {error}", spec.name));
        }
        assert!(!spec.about.is_empty() && !spec.about.contains('|'), "{}: what is it for?", spec.name);
    }
    for connector in CONNECTORS {
        let declared = connector.declared();
        let mut names: Vec<&str> = declared.iter().map(|option| &*option.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "connector '{}' declares an option twice", connector.name);
    }
}
