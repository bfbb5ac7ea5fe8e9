//! What a person sees while a pipeline runs: one live line on a terminal, a log line now and then elsewhere.

use crate::runtime::metrics::{Role, Snapshot, StepSnapshot};
use crate::time::Watermark;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// How often the live line changes.
pub const REFRESH: Duration = Duration::from_millis(250);

/// How often a log line says how things stand.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Shows snapshots.
pub struct Progress {
    bar: Option<ProgressBar>,
    before: Option<(Duration, Snapshot)>,
    logged: Duration,
}

impl Progress {
    /// A live line if `live`, log lines otherwise.
    pub fn new(live: bool) -> Self {
        let bar = live.then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is a constant that parses");
            ProgressBar::new_spinner().with_style(style)
        });
        Progress { bar, before: None, logged: Duration::ZERO }
    }

    /// Shows `now`, which was taken `elapsed` after the start.
    pub fn show(&mut self, elapsed: Duration, now: Snapshot) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.line(elapsed, &now));
                bar.tick();
                self.before = Some((elapsed, now));
            }
            None if elapsed.saturating_sub(self.logged) >= LOG_EVERY => {
                tracing::info!("{}", self.line(elapsed, &now));
                self.logged = elapsed;
                self.before = Some((elapsed, now));
            }
            None => {}
        }
    }

    /// Takes the live line away and says in one what was done.
    pub fn finish(self, elapsed: Duration, last: &Snapshot, how: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let read = last.rows(Role::Source);
        let rate = read as f64 / elapsed.as_secs_f64().max(1e-9);
        let late = match last.late_rows() {
            0 => String::new(),
            late => format!(", {} late", count(late)),
        };
        let bad = match last.bad_records() {
            0 => String::new(),
            bad => format!(", {} bad", count(bad)),
        };
        tracing::info!(
            "{how} after {}: {} rows read ({}/s), {} written{late}{bad}",
            duration(elapsed),
            count(read),
            short(rate),
            count(last.rows(Role::Sink)),
        );
    }

    fn line(&self, elapsed: Duration, now: &Snapshot) -> String {
        let mut parts = vec![duration(elapsed)];
        for (number, step) in
            now.steps.iter().enumerate().filter(|(_, step)| matches!(step.role, Role::Source | Role::Sink))
        {
            let (since, rows) =
                self.before.as_ref().map_or((Duration::ZERO, 0), |(then, before)| (*then, before.steps[number].rows));
            let rate = step.rows.saturating_sub(rows) as f64 / elapsed.saturating_sub(since).as_secs_f64().max(1e-3);
            let arrow = if step.role == Role::Source { "←" } else { "→" };
            parts.push(format!("{arrow} {} {} rows/s{}", table(step), short(rate), lag(step)));
        }
        let marks = now.steps.iter().filter(|step| step.role == Role::Source).map(|step| step.watermark);
        if let Some(mark) = marks.min().filter(|mark| *mark != Watermark::NONE && *mark != Watermark::END) {
            parts.push(format!("watermark {mark}"));
        }
        parts.push(format!("{} epochs in flight", now.epochs_in_flight));
        if now.late_rows() > 0 {
            parts.push(format!("{} late", count(now.late_rows())));
        }
        if now.bad_records() > 0 {
            parts.push(format!("{} bad", count(now.bad_records())));
        }
        parts.join(" · ")
    }
}

/// `source lines` is about the table `lines`.
fn table(step: &StepSnapshot) -> &str {
    step.name.split_once(' ').map_or(step.name.as_str(), |(_, table)| table)
}

fn lag(step: &StepSnapshot) -> String {
    if step.lag_rows > 0 { format!(" (lag {})", short(step.lag_rows as f64)) } else { String::new() }
}

/// `1.2s`, `3m07s`.
pub fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1}s")
    } else {
        format!("{}m{:02}s", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
    }
}

/// `1234567` as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

/// `1234567` as `1.23M`.
pub fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.2}G", n / 1e9),
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([short(12.0), short(1234.0), short(12_345.0), short(1.5e6)], ["12", "1.2k", "12k", "1.50M"]);
    }
}
