//! From reports to watermarks: the pure part of event time, the same on every worker.
//!
//! The watermark of an epoch is the least over the sources that a step depends on, and a source's is the least over its
//! active splits on all workers. It never goes back.

use crate::time::{Micros, Report, SplitReport, Watermark};
use std::collections::BTreeMap;

/// Follows the reports of some sources.
#[derive(Debug, Default)]
pub struct Marks {
    /// The last report of each worker's share of each source; None before the first.
    shares: BTreeMap<(u32, u32), Option<Report>>,
    mark: Option<Watermark>,
    lateness: Micros,
    /// The last epoch ended with a checkpoint.
    checkpoint: bool,
}

impl Marks {
    /// Follows `sources`, each of which is read by `workers` workers, and stays `lateness` behind them.
    pub fn new(sources: &[u32], workers: usize, lateness: Micros) -> Self {
        let shares = sources.iter().flat_map(|&source| (0..workers as u32).map(move |worker| ((source, worker), None)));
        Marks { shares: shares.collect(), mark: None, lateness, checkpoint: false }
    }

    /// The same where an earlier run had come to `mark`, by [`Marks::complete`].
    pub fn from(mut self, mark: Watermark) -> Self {
        self.mark = Some(match mark {
            Watermark::NONE | Watermark::END => mark,
            mark => Watermark::at(mark.micros().saturating_add(self.lateness)),
        });
        self
    }

    /// True if the last complete epoch ends with a checkpoint, or is the last one that these sources have a part in.
    pub fn checkpoint(&self) -> bool {
        self.checkpoint
    }

    /// The last reports of all shares, once all of them have spoken.
    pub fn reports(&self) -> impl Iterator<Item = &Report> {
        self.shares.values().flatten()
    }

    /// True if no share will report again.
    pub fn over(&self) -> bool {
        self.shares.values().all(|report| report.as_ref().is_some_and(|report| report.last))
    }

    /// Takes the reports of one complete epoch and answers the watermark at its end.
    pub fn complete(&mut self, reports: impl IntoIterator<Item = Report>) -> Watermark {
        self.checkpoint = false;
        for report in reports {
            self.checkpoint |= report.checkpoint;
            if let Some(share) = self.shares.get_mut(&(report.source, report.worker)) {
                *share = Some(report);
            }
        }
        self.checkpoint |= self.over();
        let mut sources: BTreeMap<u32, Vec<Option<&Report>>> = BTreeMap::new();
        for (&(source, _), report) in &self.shares {
            sources.entry(source).or_default().push(report.as_ref());
        }
        let now = sources.values().map(|shares| source_mark(shares)).min().unwrap_or(Watermark::END);
        let mark = self.mark.map_or(now, |before| before.max(now));
        self.mark = Some(mark);
        match mark {
            Watermark::NONE | Watermark::END => mark,
            mark => Watermark::at(mark.micros().saturating_sub(self.lateness)),
        }
    }
}

fn source_mark(shares: &[Option<&Report>]) -> Watermark {
    let Some(reports) = shares.iter().copied().collect::<Option<Vec<&Report>>>() else { return Watermark::NONE };
    let splits = || reports.iter().flat_map(|report| &report.splits);
    let active =
        splits().filter(|split| !split.idle && split.watermark != Watermark::END).map(|split| split.watermark).min();
    let ended = |split: &SplitReport| split.watermark == Watermark::END;
    match active {
        Some(mark) => mark,
        None if splits().all(ended) && reports.iter().all(|report| report.ended) => Watermark::END,
        None => reports
            .iter()
            .filter(|report| !report.ended)
            .map(|report| report.when_all_idle)
            .max()
            .unwrap_or(Watermark::NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(worker: u32, splits: &[(i64, bool)], ended: bool) -> Report {
        let split = |(split, &(mark, idle)): (usize, &(i64, bool))| SplitReport {
            split: split as u32,
            position: 0,
            rows: 0,
            watermark: if mark == i64::MAX { Watermark::END } else { Watermark::at(mark) },
            idle,
        };
        let splits = splits.iter().enumerate().map(split).collect();
        let when_all_idle = Watermark::NONE;
        Report { source: 7, worker, splits, when_all_idle, wall: 0, checkpoint: false, ended, last: ended }
    }

    #[test]
    fn the_least_active_split_counts_and_the_mark_never_goes_back() {
        let mut marks = Marks::new(&[7], 2, 0);
        assert_eq!(
            marks.complete([report(0, &[(5, false), (9, false)], false)]),
            Watermark::NONE,
            "worker 1 has not spoken"
        );
        assert_eq!(marks.complete([report(1, &[(7, false)], false)]), Watermark::at(5));
        assert_eq!(marks.complete([report(0, &[(5, true), (9, false)], false)]), Watermark::at(7));
        assert_eq!(
            marks.complete([report(0, &[(6, false), (9, false)], false)]),
            Watermark::at(7),
            "a split woke up behind"
        );
    }

    #[test]
    fn all_idle_holds_and_all_ended_is_the_end() {
        let mut marks = Marks::new(&[7], 2, 0);
        marks.complete([report(0, &[(5, false)], false), report(1, &[], true)]);
        assert_eq!(marks.complete([report(0, &[(5, true)], false)]), Watermark::at(5));
        assert_eq!(marks.complete([report(0, &[(i64::MAX, false)], true)]), Watermark::END);
    }

    #[test]
    fn with_lateness_the_mark_stays_behind_but_for_the_end() {
        let mut marks = Marks::new(&[7], 1, 10);
        assert_eq!(marks.complete([report(0, &[(5, false)], false)]), Watermark::at(-5));
        assert_eq!(marks.complete([report(0, &[(30, false)], false)]), Watermark::at(20));
        assert_eq!(marks.complete([report(0, &[(i64::MAX, false)], true)]), Watermark::END);
    }

    #[test]
    fn when_all_are_idle_the_mark_may_follow_the_wall_clock() {
        let mut marks = Marks::new(&[7], 1, 0);
        marks.complete([report(0, &[(5, false)], false)]);
        let idle = Report { when_all_idle: Watermark::at(40), ..report(0, &[(5, true)], false) };
        assert_eq!(marks.complete([idle]), Watermark::at(40));
    }
}
