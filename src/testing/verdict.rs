//! What a run came to, held against what is asserted.

use super::play::Played;
use super::rows::Row;
use super::script::{Check, Claim, Kinds, Script, View};
use super::subject::{Subject, Written};
use crate::error::{Error, Excerpt};
use std::collections::BTreeMap;

/// An assertion that does not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Where it stands.
    pub place: Excerpt,
    /// What is wrong.
    pub what: String,
    /// What may help.
    pub help: Option<String>,
    /// The rows that differ, if it is about rows.
    pub difference: Option<Difference>,
    /// In which run, if it holds in the plain one.
    pub variant: Option<String>,
}

/// Rows that should be there and are not, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the columns are called.
    pub columns: Vec<String>,
    /// Rows that are asserted and not there.
    pub missing: Vec<Row>,
    /// Rows that are there and not asserted.
    pub surplus: Vec<Row>,
    /// How many rows are as asserted.
    pub same: usize,
}

/// The assertions of `script` that `played` does not keep.
pub fn judge(subject: &Subject, script: &Script, played: &Played) -> Vec<Failure> {
    let complete = played.epochs.len();
    let mut failures = Vec::new();
    let (reached, others): (Vec<&Check>, Vec<&Check>) = script.checks.iter().partition(|check| check.after <= complete);
    for check in reached {
        failures.extend(hold(subject, played, check));
    }
    let Some(error) = &played.failed else { return failures };
    let failure = |place: &Excerpt, what: String| Failure {
        place: place.clone(),
        what,
        help: error.advice().map(str::to_owned),
        difference: None,
        variant: None,
    };
    match others.first() {
        Some(Check { place, claim: Claim::Failed(like), .. }) => match like {
            Some(pattern) if !is_like(&error.to_string(), pattern) => {
                failures.push(failure(place, format!("the pipeline has failed in another way: {error}")));
            }
            _ => {}
        },
        _ => {
            let ended_by = script.epochs.get(complete).and_then(|stage| stage.place.as_ref());
            let place = ended_by.or(others.first().map(|check| &check.place));
            failures.extend(place.map(|place| failure(place, format!("the pipeline fails here: {error}"))));
        }
    }
    failures
}

fn hold(subject: &Subject, played: &Played, check: &Check) -> Option<Failure> {
    let failure = |what: String, help: Option<&str>, difference| Failure {
        place: check.place.clone(),
        what,
        help: help.map(str::to_owned),
        difference,
        variant: None,
    };
    let (view, expected, found, what) = match &check.claim {
        Claim::Failed(_) => return Some(failure("the pipeline has not failed".into(), None, None)),
        Claim::Changelog { view, since, kinds, expected } => {
            let written = subject.sinks.get(&view.table)?;
            let epochs = &played.epochs[*since..check.after];
            let changes = epochs.iter().filter_map(|epoch| epoch.get(&view.table));
            let found = changes.flat_map(|changes| changes_of(changes, written, view, *kinds)).collect();
            (view, expected, found, "has other changes than asserted")
        }
        Claim::Content { view, expected } => {
            let written = subject.sinks.get(&view.table)?;
            let changes = played.epochs[..check.after].iter().filter_map(|epoch| epoch.get(&view.table));
            match content(changes.flatten(), written) {
                Ok(rows) => {
                    let found = rows.into_iter().map(|row| project(&row, view)).collect();
                    (view, expected, found, "holds other rows than asserted")
                }
                Err(row) => {
                    let what =
                        format!("table '{}' takes a row back that it does not hold: {}", view.table, row.0.join(", "));
                    return Some(failure(what, Some("this is a bug in Highwater"), None));
                }
            }
        }
    };
    let mut columns = view.names.clone();
    if matches!(&check.claim, Claim::Changelog { kinds: Kinds::Weights | Kinds::Letters, .. }) {
        columns.insert(0, "change".into());
    }
    let difference = differences(expected, found, columns)?;
    Some(failure(format!("table '{}' {what}", view.table), None, Some(difference)))
}

fn project(row: &Row, view: &View) -> Row {
    Row(view.columns.iter().map(|column| row.0[*column].clone()).collect())
}

/// The changes of one epoch as they are asserted; what comes and goes within it is none.
fn changes_of(changes: &[(Row, i64)], written: &Written, view: &View, kinds: Kinds) -> Vec<Row> {
    let mut net: BTreeMap<&Row, i64> = BTreeMap::new();
    for (row, weight) in changes {
        *net.entry(row).or_default() += weight;
    }
    let each = |row: &Row, weight: i64, kind: Option<&str>| {
        let mut shown = project(row, view);
        kind.into_iter().for_each(|kind| shown.0.insert(0, kind.to_owned()));
        std::iter::repeat_n(shown, usize::try_from(weight.unsigned_abs()).unwrap_or(usize::MAX))
    };
    match kinds {
        Kinds::None => net.into_iter().flat_map(|(row, weight)| each(row, weight, None)).collect(),
        Kinds::Weights => {
            let sign = |weight: i64| Some(if weight > 0 { "+1" } else { "-1" });
            net.into_iter().flat_map(|(row, weight)| each(row, weight, sign(weight))).collect()
        }
        Kinds::Letters => {
            let mut keys: BTreeMap<Vec<&str>, Vec<(&Row, i64)>> = BTreeMap::new();
            for (row, weight) in net.into_iter().filter(|(_, weight)| *weight != 0) {
                keys.entry(written.key.iter().map(|column| row.0[*column].as_str()).collect())
                    .or_default()
                    .push((row, weight));
            }
            let of_key = |rows: Vec<(&Row, i64)>| {
                let replaced = rows.iter().any(|(_, weight)| *weight < 0) && rows.iter().any(|(_, weight)| *weight > 0);
                let kind = move |weight: i64| match (weight > 0, replaced) {
                    (true, true) => "+U",
                    (true, false) => "+I",
                    (false, true) => "-U",
                    (false, false) => "-D",
                };
                let shown = |(row, weight): (&Row, i64)| each(row, weight, Some(kind(weight))).collect::<Vec<_>>();
                rows.into_iter().flat_map(shown).collect::<Vec<_>>()
            };
            keys.into_values().flat_map(of_key).collect()
        }
    }
}

/// What a table holds after `changes`; or a row that was taken back more often than it was there.
fn content<'a>(changes: impl Iterator<Item = &'a (Row, i64)>, written: &Written) -> Result<Vec<Row>, Row> {
    if !written.updating && !written.key.is_empty() {
        // the newest row of each key counts
        let mut newest: BTreeMap<Vec<&str>, &Row> = BTreeMap::new();
        for (row, _) in changes {
            newest.insert(written.key.iter().map(|column| row.0[*column].as_str()).collect(), row);
        }
        return Ok(newest.into_values().cloned().collect());
    }
    let mut held: BTreeMap<&Row, i64> = BTreeMap::new();
    for (row, weight) in changes {
        *held.entry(row).or_default() += weight;
    }
    if let Some((row, _)) = held.iter().find(|(_, weight)| **weight < 0) {
        return Err((*row).clone());
    }
    let times = |(row, weight): (&Row, i64)| std::iter::repeat_n(row.clone(), usize::try_from(weight).unwrap_or(0));
    Ok(held.into_iter().flat_map(times).collect())
}

/// How the rows differ, in whatever order they are; none if they do not.
fn differences(expected: &[Row], found: Vec<Row>, columns: Vec<String>) -> Option<Difference> {
    let mut counts: BTreeMap<&Row, i64> = BTreeMap::new();
    expected.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    found.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    let side = |of: fn(i64) -> i64| -> Vec<Row> {
        let rows = counts.iter().map(|(row, count)| (*row, usize::try_from(of(*count)).unwrap_or(0)));
        rows.flat_map(|(row, count)| std::iter::repeat_n(row.clone(), count)).collect()
    };
    let (missing, surplus) = (side(|count| count), side(|count| -count));
    let same = expected.len() - missing.len();
    (!missing.is_empty() || !surplus.is_empty()).then_some(Difference { columns, missing, surplus, same })
}

/// SQL's LIKE: `%` stands for any text, `_` for a character.
fn is_like(text: &str, pattern: &str) -> bool {
    let part = |c: char| match c {
        '%' => ".*".to_owned(),
        '_' => ".".to_owned(),
        c => regex::escape(c.encode_utf8(&mut [0; 4])),
    };
    let pattern: String = pattern.chars().map(part).collect();
    regex::Regex::new(&format!("(?s)^{pattern}$")).is_ok_and(|pattern| pattern.is_match(text))
}

impl Failure {
    /// The same as an error of the file.
    pub fn error(&self) -> Error {
        let what = match &self.variant {
            Some(variant) => format!("{}, {variant}", self.what),
            None => self.what.clone(),
        };
        let error = Error::data(what).at(self.place.clone());
        match &self.help {
            Some(help) => error.help(help.clone()),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_like() {
        assert!(is_like("table \"t\": NULL (really)", "%NULL (_eally)"));
        assert!(!is_like("NULL here", "NULL"));
        assert!(is_like("two\nlines", "two%"));
    }

    #[test]
    fn rows_are_compared_as_often_as_they_are_there() {
        let row = |text: &str| Row(vec![text.to_owned()]);
        let found = differences(&[row("a"), row("a"), row("b")], vec![row("b"), row("a"), row("c")], vec!["x".into()]);
        let expected =
            Difference { columns: vec!["x".into()], missing: vec![row("a")], surplus: vec![row("c")], same: 2 };
        assert_eq!(found, Some(expected));
        assert_eq!(differences(&[row("a")], vec![row("a")], Vec::new()), None);
    }
}
