//! DataFusion's sentences in our words: the types by their SQL names, and what to do.

use crate::error::nearest;
use crate::plan::type_name;
use arrow::datatypes::DataType;
use datafusion_common::{DataFusionError, SchemaError};
use regex::{Captures, Regex};
use std::sync::LazyLock;

/// What is wrong, and advice if there is some.
pub(super) type Said = (String, Option<String>);

/// A sentence of DataFusion's as a regular expression, and ours for it.
type Rule = (&'static str, fn(&Captures) -> (String, &'static str));

const RULES: &[Rule] = &[
    (r"Cannot coerce arithmetic expression (.+) ([-+*/%]) (.+) to valid types", |c| {
        let time = [&c[1], &c[3]].iter().any(|side| side.starts_with("Timestamp") || side.starts_with("Date"));
        let help = match time {
            true => "to a time an interval can be added: … + INTERVAL '5' SECOND",
            false => "both sides must be numbers; CAST(… AS BIGINT) makes one of a text",
        };
        (format!("{} {} {} cannot be computed", sql(&c[1]), &c[2], sql(&c[3])), help)
    }),
    (r"Cannot infer common argument type for comparison operation (.+) (?:=|!=|<=|>=|<|>|IS .*) (.+)$", |c| {
        let time = [&c[1], &c[2]].iter().any(|side| side.starts_with("Timestamp"));
        let help = match time {
            true => "a time is compared with a time: TIMESTAMP '2026-01-01 00:00:00', or to_timestamp_millis(number)",
            false => "CAST(… AS type) makes one side of the other's type",
        };
        (format!("{} cannot be compared with {}", sql(&c[1]), sql(&c[2])), help)
    }),
    (r#"column "(?:[^".]*\.)?([^".]+)" must appear in the GROUP BY"#, |c| {
        let help = "add it to GROUP BY, or aggregate it: max(…), first_value(…)";
        (format!("column '{}' must appear in GROUP BY or in an aggregate", &c[1]), help)
    }),
    (r"Failed to coerce (?:then|case) \((.+)\) and (?:else|when) \((.+)\) to common types", |c| {
        let help = "CAST(… AS type) in one of them makes both the same";
        (format!("a CASE gives {} in one branch and {} in another", sql(&c[1]), sql(&c[2])), help)
    }),
    (r"Cannot cast string '(.*)' to value of (.+) type", |c| {
        (format!("'{}' is not a value of type {}", &c[1], sql(&c[2])), "")
    }),
    (r"Error parsing timestamp from '(.*)':", |c| {
        (format!("'{}' is not a time", &c[1]), "write one such as '2026-01-01 00:00:00'")
    }),
    (r#"Invalid input syntax for type interval: "(.*)""#, |c| {
        (format!("'{}' is not an interval", &c[1]), "write one such as INTERVAL '5' MINUTE")
    }),
    (r"Unary operator '(.+)' requires a boolean expression, got (.+)$", |c| {
        (format!("{} takes a BOOLEAN, but this is {}", &c[1], sql(&c[2])), "compare it with something")
    }),
    (r"Cannot create filter with non-boolean predicate '.*' returning (.+)$", |c| {
        (format!("a condition is a BOOLEAN, but this is {}", sql(&c[1])), "compare it with something")
    }),
    (r"Aggregate functions are not allowed in the WHERE clause", |_| {
        ("an aggregate cannot stand in WHERE".into(), "HAVING, after GROUP BY, chooses among the results of aggregates")
    }),
    (r"Aggregate function calls cannot be nested: '(\w+)\(.* is nested inside '(\w+)\(", |c| {
        let help = "aggregate first in a query in FROM, with a window in its GROUP BY";
        (format!("an aggregate of an aggregate: {} in {}", &c[1], &c[2]), help)
    }),
    (r"unnest\(\) can only be applied to array", |_| {
        ("unnest takes a list".into(), "split_words(text) and string_to_array(text, ',') make one of a text")
    }),
    (r"Field (\S+) not found in struct", |c| (format!("unknown field '{}'", &c[1]), "")),
    (r"'(\w+)' does not support zero arguments", |c| (format!("function '{}' needs arguments", &c[1]), "")),
    (r"Function '(\w+)' expects (\d+) arguments? but received (\d+)", |c| {
        let plural = if &c[2] == "1" { "" } else { "s" };
        (format!("function '{}' takes {} argument{plural}, but {} are given", &c[1], &c[2], &c[3]), "")
    }),
    // what a program's own function says of its arguments
    (r"(\w+\(\) takes \d+ arguments?, not \d+)", |c| (c[1].to_owned(), "")),
    (r"(argument \d+ of \w+\(\)) is (.+?), not (.+?)\.? No function matches", |c| {
        (format!("{} is {}, not {}", &c[1], sql(&c[2]), sql(&c[3])), "")
    }),
    (r"argument types '(\w+)\((.*?)\)'\. You might", |c| {
        let types: Vec<String> = apart(&c[2]).into_iter().map(sql).collect();
        (format!("function '{}' does not take {}", &c[1], types.join(", ")), "")
    }),
];

static COMPILED: LazyLock<Vec<Regex>> =
    LazyLock::new(|| RULES.iter().map(|(rule, _)| Regex::new(rule).expect("the rules are tested")).collect());

/// DataFusion's sentence in our manner, with advice if there is some.
pub(super) fn say(error: &DataFusionError) -> Said {
    match error.find_root() {
        DataFusionError::SchemaError(schema_error, _) => match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let names: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
                let help = match nearest(field.name(), names.iter().copied()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None if super::windows::WINDOW_COLUMNS.contains(&field.name()) => {
                        "windows have it: FROM tumble(table, time, INTERVAL '1' MINUTE)".into()
                    }
                    None if names.is_empty() => "no columns are in reach here".into(),
                    None => format!("the columns here are {}", names.join(", ")),
                };
                (format!("unknown column '{}'", field.flat_name()), Some(help))
            }
            SchemaError::AmbiguousReference { field } => (
                format!("column '{}' is ambiguous", field.name()),
                Some("put the table's name or alias before it".into()),
            ),
            other => (lower_first(&other.to_string()), None),
        },
        root => in_our_words(&root.strip_backtrace()),
    }
}

fn in_our_words(text: &str) -> Said {
    // Some messages list every candidate below the first line.
    let candidates = text.split_once("Candidate functions:").map(|(_, list)| {
        let mut list: Vec<String> =
            list.lines().map(str::trim).filter(|line| !line.is_empty()).map(candidate).collect();
        list.dedup();
        format!("possible: {}", list.join(", "))
    });
    let candidates = candidates.filter(|list| !list.contains("UserDefined"));
    for ((_, ours), rule) in RULES.iter().zip(COMPILED.iter()) {
        if let Some(found) = rule.captures(text) {
            let (message, help) = ours(&found);
            return (message, candidates.or_else(|| (!help.is_empty()).then(|| help.to_owned())));
        }
    }
    let text = text.split_once(": ").filter(|(kind, _)| kind.contains("rror")).map_or(text, |(_, rest)| rest);
    let text = text.trim().trim_end_matches('.');
    let (first, rest) = text.split_once('\n').map_or((text, ""), |(first, rest)| (first.trim(), rest.trim()));
    let rest = candidates.unwrap_or_else(|| rest.to_owned());
    (lower_first(first.trim_end_matches('.')), (!rest.is_empty()).then_some(rest))
}

/// An Arrow type by its SQL name.
fn sql(arrow: &str) -> String {
    match arrow.trim() {
        "Timestamp(µs)" => "TIMESTAMP".into(),
        text => match text.parse::<DataType>() {
            Ok(data_type) => type_name(&data_type),
            Err(_) => text.replace("Utf8", "STRING").replace("Int64", "BIGINT").replace("Int32", "INT"),
        },
    }
}

/// What stands between the commas that are in no parentheses.
fn apart(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

/// `avg(Float64)` in SQL's words.
fn candidate(signature: &str) -> String {
    let Some((name, arguments)) = signature.split_once('(') else { return signature.to_owned() };
    let word = |argument: &str| -> String {
        let (kind, times) = match argument.trim().split_once('(') {
            Some((kind, times)) => (kind, times.trim_end_matches(')').parse().unwrap_or(0)),
            None => (argument.trim(), 1),
        };
        let name = match kind {
            "Decimal" => "DECIMAL",
            "Duration" | "Interval" => "INTERVAL",
            "String" => "STRING",
            "Numeric" => "a number",
            "Any" => "anything",
            _ if times == 0 => return sql(argument),
            _ => return sql(kind),
        };
        vec![name; times.max(1)].join(", ")
    };
    let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
    format!("{name}({})", apart(arguments).into_iter().map(word).collect::<Vec<_>>().join(", "))
}

/// `text` with a small first letter, unless its first word is an acronym or a name.
pub(super) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_their_names_in_sql() {
        assert_eq!(sql("Timestamp(µs)"), "TIMESTAMP");
        assert_eq!(sql("Int32"), "INT");
        assert_eq!(candidate("substr(String, Int64)"), "substr(STRING, BIGINT)");
        assert_eq!(candidate("abs(Numeric(1))"), "abs(a number)");
        assert_eq!(apart("Decimal128(10, 2), Utf8"), ["Decimal128(10, 2)", " Utf8"]);
    }
}
