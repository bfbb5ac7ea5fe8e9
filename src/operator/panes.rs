//! Cutting batches by window.
//!
//! A pane is the largest stretch of event time that no window boundary cuts: rows are aggregated by pane first, and each
//! pane's partial result then belongs whole to every window that covers it. Tumbling windows are their own panes.

use crate::batch::{Batch, take_rows};
use crate::error::{Error, Result};
use crate::plan::{WindowShape, Windows};
use crate::time::Micros;
use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::TimestampMicrosecondType;

/// `[start, end)` in event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First, because windows close in the order of their ends.
    pub end: Micros,
    /// The first microsecond in it.
    pub start: Micros,
}

impl Span {
    /// All of event time: the one window of a bounded run's last answer.
    pub const ALL: Span = Span { end: Micros::MAX, start: Micros::MIN };
}

impl Windows {
    /// The pane that `time` lies in.
    pub fn pane_of(&self, time: Micros) -> Span {
        let length = self.pane();
        let start = self.grid(time, length);
        Span { start, end: start.saturating_add(length) }
    }

    /// The windows that cover `pane`, in the order of their ends.
    pub fn covering(&self, pane: Span) -> impl Iterator<Item = Span> + use<> {
        let Windows { shape, size, slide, .. } = *self;
        // the last moment at or before the pane at which windows start
        let (last, count) = match shape {
            WindowShape::Hop => {
                let last = self.grid(pane.start, slide);
                // a window [s, s + size) covers the pane if s <= pane.start < s + size
                (last, (size - (pane.start - last) + slide - 1).div_euclid(slide).max(0))
            }
            WindowShape::Cumulate => {
                let last = self.grid(pane.start, size);
                (last, (size - (pane.start - last)).div_euclid(slide))
            }
        };
        (0..count).rev().map(move |back| match shape {
            WindowShape::Hop => {
                let start = last.saturating_sub(back * slide);
                Span { start, end: start.saturating_add(size) }
            }
            WindowShape::Cumulate => Span { start: last, end: last.saturating_add(size - back * slide) },
        })
    }

    /// Of the windows that `time` lies in, the one that ends last.
    pub fn last_of(&self, time: Micros) -> Span {
        let start = match self.shape {
            WindowShape::Hop => self.grid(time, self.slide),
            WindowShape::Cumulate => self.grid(time, self.size),
        };
        Span { start, end: start.saturating_add(self.size) }
    }

    /// The last of the moments `offset`, `offset + every` and so on that is not after `time`.
    fn grid(&self, time: Micros, every: Micros) -> Micros {
        let turns = time.saturating_sub(self.offset).div_euclid(every);
        turns.saturating_mul(every).saturating_add(self.offset)
    }

    /// The length of a pane, in microseconds.
    pub fn pane(&self) -> Micros {
        let (mut a, mut b) = (self.size, self.slide);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }
}

/// The event times of a column, which has no NULL: a source refuses rows without event time.
pub fn event_times(column: &ArrayRef) -> Result<arrow::buffer::ScalarBuffer<Micros>> {
    if column.null_count() > 0 {
        return Err(Error::data("a row has no event time (NULL), so it lies in no window"));
    }
    Ok(moments(column)?.values().clone())
}

/// The moments of a column, which may be NULL.
pub fn moments(column: &ArrayRef) -> Result<TimestampMicrosecondArray> {
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => Ok(times.clone()),
        None => {
            let times = cast(column, &crate::plan::event_time_type()).map_err(crate::batch::from_arrow)?;
            Ok(times.as_primitive::<TimestampMicrosecondType>().clone())
        }
    }
}

/// Cuts `rows` by the pane of their `times`.
pub fn cut_by_pane(rows: &Batch, times: &[Micros], windows: Windows) -> Result<Vec<(Span, Batch)>> {
    let (Some(&least), Some(&most)) = (times.iter().min(), times.iter().max()) else { return Ok(Vec::new()) };
    let first = windows.pane_of(least);
    if most < first.end {
        return Ok(vec![(first, rows.clone())]);
    }
    let mut runs = Vec::new();
    let mut pane = windows.pane_of(times[0]);
    let mut begin = 0;
    for (row, &time) in times.iter().enumerate() {
        if time < pane.start || time >= pane.end {
            runs.push((pane, begin..row));
            begin = row;
            pane = windows.pane_of(time);
        }
    }
    runs.push((pane, begin..times.len()));
    gather(rows, runs)
}

/// Cuts `rows` by the windows that they carry.
pub fn cut_by_span(rows: &Batch, starts: &[Micros], ends: &[Micros]) -> Result<Vec<(Span, Batch)>> {
    let mut runs = Vec::new();
    let mut begin = 0;
    for row in 1..=rows.num_rows() {
        if row == rows.num_rows() || starts[row] != starts[begin] || ends[row] != ends[begin] {
            runs.push((Span { start: starts[begin], end: ends[begin] }, begin..row));
            begin = row;
        }
    }
    gather(rows, runs)
}

/// One batch for each span: slices where its rows lie together, copies where they are scattered.
fn gather(rows: &Batch, mut runs: Vec<(Span, std::ops::Range<usize>)>) -> Result<Vec<(Span, Batch)>> {
    const ROWS_WORTH_A_SLICE: usize = 256;
    if runs.len() == 1 {
        return Ok(vec![(runs[0].0, rows.clone())]);
    }
    runs.sort_by_key(|(span, range)| (*span, range.start));
    let mut cut = Vec::new();
    for group in runs.chunk_by(|a, b| a.0 == b.0) {
        let total: usize = group.iter().map(|(_, range)| range.len()).sum();
        if total / group.len() >= ROWS_WORTH_A_SLICE || group.len() == 1 {
            cut.extend(group.iter().map(|(span, range)| (*span, rows.slice(range.start, range.len()))));
        } else {
            let indices = group.iter().flat_map(|(_, range)| range.clone()).map(|row| row as u32).collect();
            cut.push((group[0].0, take_rows(rows, indices)?));
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pane_is_covered_by_the_windows_that_hold_it() {
        for offset in [0, 1, 3, -5] {
            let hop = Windows::hop(4, 10, offset);
            assert_eq!(hop.pane(), 2);
            let cumulate = Windows::cumulate(3, 12, offset);
            assert_eq!(cumulate.pane(), 3);
            for time in -50..50 {
                let covering = |windows: Windows| {
                    let spans = windows.covering(windows.pane_of(time)).map(|span| (span.start, span.end));
                    spans.collect::<Vec<_>>()
                };
                let holds = |(start, end): &(i64, i64)| (*start..*end).contains(&time);
                let all = (-100..100).map(|n| (n * 4 + offset, n * 4 + offset + 10));
                assert_eq!(covering(hop), all.filter(holds).collect::<Vec<_>>(), "offset {offset}, time {time}");
                let all = (-100..100).flat_map(|n| (1..=4).map(move |k| (n * 12 + offset, n * 12 + offset + 3 * k)));
                let last = |windows: Windows| Some(windows.last_of(time)).map(|span| (span.start, span.end));
                assert_eq!([last(hop), last(cumulate)], [hop, cumulate].map(|w| covering(w).last().copied()));
                assert_eq!(covering(cumulate), all.filter(holds).collect::<Vec<_>>(), "offset {offset}, time {time}");
            }
        }
    }
}
