//! A source that reads recorded epochs again: of each split as many records as were bound to the epoch, no more and no less.
//!
//! The watermarks follow from the rows. That they, and the places where the splits end, are those of the binding is what shows that the
//! input is still what it was; what was bound to the clock — idleness, the wall time — comes from the binding alone.

use super::{BATCH_ROWS, Event, Open, Over, Reader, TURN_BYTES, Turn};
use crate::batch::Batch;
use crate::checkpoint::log::{Binding, SourceBinding};
use crate::connector::bad::Refused;
use crate::connector::{Polled, Split, SplitStart};
use crate::error::{Error, Result};
use crate::runtime::replay::Replay;
use crate::time::{Report, SplitReport, Watermark};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long records that were there are waited for.
const WAIT: Duration = Duration::from_secs(30);

/// How often a split that was opened once more is asked for a row.
const ASKS: usize = 1000;

/// Where a reader is in the recorded epochs.
pub(super) struct Again {
    replay: Arc<Replay>,
    /// The open epoch is this one of the stretch's.
    at: usize,
    /// Its splits are open, and what is wanted of them is known.
    begun: bool,
    /// Beside the reader's splits.
    follows: Vec<Follow>,
    /// Since when nothing has come.
    waiting_since: Option<Duration>,
}

/// What is wanted of a split.
struct Follow {
    name: String,
    idle: bool,
    /// What was bound to the open epoch; none if nothing has changed in it.
    goal: Option<SplitReport>,
    /// Records of a later epoch, which had to be read to see where they are.
    ahead: Option<Ahead>,
}

struct Ahead {
    rows: Batch,
    bytes: usize,
    refused: Vec<Refused>,
}

/// How far a split has come in the open epoch.
enum Step {
    Read(usize),
    Complete,
    Wait,
}

impl Again {
    pub(super) fn new(replay: &Arc<Replay>) -> Self {
        let replay = Arc::clone(replay);
        Again { replay, at: 0, begun: false, follows: Vec::new(), waiting_since: None }
    }

    /// The epoch that is open now, and that `before` epochs earlier.
    fn epoch(&self, before: usize) -> Option<u64> {
        Some(self.replay.stretch.bindings.get(self.at.checked_sub(before)?)?.epoch)
    }

    fn binding(&self) -> &Binding {
        &self.replay.stretch.bindings[self.at]
    }

    /// The binding of `table` in the open epoch; none if the table had ended.
    fn of(&self, table: &str) -> Option<&SourceBinding> {
        self.binding().sources.iter().find(|source| source.source == table)
    }
}

impl Reader {
    /// Reads a little of the recorded epochs.
    pub(super) fn turn_again(&mut self, mut again: Again, outbox: &mut Vec<Event>) -> Result<Turn> {
        let turn = self.follow(&mut again, outbox);
        self.again = Some(again);
        turn
    }

    fn follow(&mut self, again: &mut Again, outbox: &mut Vec<Event>) -> Result<Turn> {
        if self.local.fate.stopping() {
            return Ok(Turn::Done);
        }
        self.forget_finished();
        if !again.begun {
            let settings = &self.local.plan.settings;
            let oldest = again.epoch(settings.inflight_epochs.max(1));
            if oldest.is_some_and(|oldest| self.local.probe.less_equal(&oldest))
                || self.in_flight_bytes >= settings.inflight_bytes
            {
                return Ok(Turn::Nap);
            }
            self.begin_again(again)?;
        }
        let (mut bytes, mut read, mut open) = (0, false, false);
        for turn in 0..again.follows.len() {
            loop {
                if bytes >= TURN_BYTES {
                    return Ok(Turn::Again);
                }
                match self.follow_split(turn, &mut again.follows[turn], outbox).map_err(|error| {
                    let epoch = self.epoch;
                    error.within(format!("epoch {epoch}")).within(format!("split \"{}\"", again.follows[turn].name))
                })? {
                    Step::Read(more) => {
                        bytes += more.max(1);
                        read = true;
                    }
                    Step::Complete => break,
                    Step::Wait => {
                        open = true;
                        break;
                    }
                }
            }
        }
        if !open {
            let report = self.close_again(again);
            let next = again.epoch(0).unwrap_or(self.epoch + 1);
            outbox.push(Event::Closed(report, next));
            self.epoch = next;
            return Ok(if again.at < again.replay.stretch.bindings.len() { Turn::Again } else { Turn::Done });
        }
        let now = self.local.context.clock.monotonic();
        if read {
            again.waiting_since = None;
        }
        match now.saturating_sub(*again.waiting_since.get_or_insert(now)) < WAIT {
            true => Ok(if read { Turn::Again } else { Turn::Nap }),
            false => Err(changed(format!("epoch {} has more records than come now", self.epoch))),
        }
    }

    /// Opens the splits that have a part in the stretch from this epoch on, and notes what is wanted of each.
    fn begin_again(&mut self, again: &mut Again) -> Result<()> {
        let (index, peers) = (self.worker as u32, self.local.context.workers as u32);
        let mut goals: BTreeMap<u32, SplitReport> = BTreeMap::new();
        if let Some(bound) = again.of(&self.step.table) {
            let own = bound.splits.iter().filter(|split| split.split % peers == index);
            goals.extend(own.map(|split| (split.split, split.clone())));
        }
        let mut starts: Vec<(u32, SplitStart, Watermark, bool)> = Vec::new();
        if self.splits.is_none() {
            let before = again.replay.splits.get(&self.step.table).into_iter().flatten();
            let own = before.filter(|split| split.number % peers == index);
            starts.extend(own.map(|split| (split.number, split.start.clone(), split.watermark, split.idle)));
        }
        let names = again.replay.stretch.names.get(&self.step.table);
        let splits = self.splits.get_or_insert_default();
        for number in goals.keys() {
            let known = splits.iter().any(|open| open.number == *number);
            if !known && !starts.iter().any(|(known, ..)| known == number) {
                let name = names.and_then(|names| names.get(number)).ok_or_else(|| {
                    Error::corrupt(format!("epoch {} has rows of a split that no checkpoint names", self.epoch))
                })?;
                starts.push((*number, SplitStart::whole(name.clone()), Watermark::NONE, false));
            }
        }
        let unread: Vec<SplitStart> = starts
            .iter()
            .filter(|(_, _, mark, _)| *mark != Watermark::END)
            .map(|(_, start, ..)| start.clone())
            .collect();
        let opened =
            if unread.is_empty() { Vec::new() } else { self.step.source.open(&unread, &self.local.context)? };
        let mut opened = opened.into_iter();
        for (number, start, watermark, idle) in starts {
            let ended = watermark == Watermark::END;
            let split: Box<dyn Split> = match ended {
                true => Box::new(Over(start.position.unwrap_or_default())),
                false => {
                    opened.next().ok_or_else(|| Error::internal("a source has opened less than it was asked to"))?
                }
            };
            splits.push(Open { number, split, watermark, ended, rows_in_epoch: 0, silent_since: None });
            again.follows.push(Follow { name: start.name, idle, goal: None, ahead: None });
        }
        for (open, follow) in splits.iter().zip(&mut again.follows) {
            follow.goal = goals.remove(&open.number);
        }
        self.wall = again.binding().wall;
        again.begun = true;
        Ok(())
    }

    /// Reads once of split `turn`, or sees that it stands where it stood.
    fn follow_split(&mut self, turn: usize, follow: &mut Follow, outbox: &mut Vec<Event>) -> Result<Step> {
        let Some(open) = self.splits.as_mut().and_then(|splits| splits.get_mut(turn)) else {
            return Ok(Step::Complete);
        };
        let Some(goal) = &follow.goal else { return Ok(Step::Complete) };
        let left = goal.rows.saturating_sub(open.rows_in_epoch);
        if left == 0 {
            return self.settle(turn, follow);
        }
        let (rows, bytes, mut refused) = match follow.ahead.take() {
            Some(Ahead { rows, bytes, refused }) => (rows, bytes, refused),
            None => match open.split.poll(left.min(BATCH_ROWS as u64) as usize)? {
                Polled::Pending => return Ok(Step::Wait),
                Polled::Ended => {
                    return Err(changed(format!("it had {} records, and ends {left} before", goal.rows)));
                }
                Polled::Rows { rows, bytes } => (rows, bytes, open.split.take_refused()),
            },
        };
        let goal_rows = goal.rows;
        self.take(turn, rows, bytes, &mut refused, outbox)?;
        match self.splits.iter().flatten().nth(turn).map_or(0, |open| open.rows_in_epoch) {
            read if read > goal_rows => Err(changed(format!("it had {goal_rows} records, and now {read}"))),
            _ => Ok(Step::Read(bytes)),
        }
    }

    /// Looks whether split `turn`, all records of which are read, stands where it stood. What comes without a record — a last empty
    /// line, an end, the offset of a marker — may have to be passed first.
    fn settle(&mut self, turn: usize, follow: &mut Follow) -> Result<Step> {
        let Some(open) = self.splits.as_mut().and_then(|splits| splits.get_mut(turn)) else {
            return Ok(Step::Complete);
        };
        let Some(goal) = &follow.goal else { return Ok(Step::Complete) };
        let position = open.split.position();
        let there = match &follow.ahead {
            Some(_) => position > goal.position,
            None => position == goal.position || open.ended,
        };
        if there {
            open.watermark = open.watermark.max(open.split.watermark());
            match goal.watermark {
                Watermark::END => open.end(),
                mark if mark != open.watermark => {
                    return Err(changed(format!("its watermark was {mark}, and is {} now", open.watermark)));
                }
                _ => {}
            }
            follow.idle = goal.idle;
            return Ok(Step::Complete);
        }
        let elsewhere = || changed(format!("it stood at {}, and stands at {position} now", goal.position));
        if position > goal.position || follow.ahead.is_some() {
            return Err(elsewhere());
        }
        match open.split.poll(1)? {
            Polled::Pending => Ok(Step::Wait),
            // a later epoch has seen this end
            Polled::Ended => {
                open.ended = true;
                Ok(Step::Read(0))
            }
            Polled::Rows { rows, bytes } => {
                let refused = open.split.take_refused();
                if rows.num_rows() == 0 && refused.is_empty() {
                    return Ok(Step::Read(bytes));
                }
                let now = open.split.position();
                let same = goal.watermark != Watermark::END
                    && now > goal.position
                    && (open.split.skips() || {
                        let start = SplitStart { name: follow.name.clone(), position: Some(goal.position) };
                        self.step
                            .source
                            .open(&[start], &self.local.context)
                            .and_then(|splits| begins(splits, &rows, now))?
                    });
                follow.ahead = Some(Ahead { rows, bytes, refused });
                if same { Ok(Step::Read(bytes)) } else { Err(elsewhere()) }
            }
        }
    }

    /// Ends the open epoch as it was ended.
    fn close_again(&mut self, again: &mut Again) -> Report {
        let stretch = &again.replay.stretch;
        let last = again.at + 1 == stretch.bindings.len();
        let splits = self.splits.iter_mut().flatten().zip(&mut again.follows).map(|(open, follow)| {
            follow.goal = None;
            SplitReport {
                split: open.number,
                position: open.split.position(),
                rows: std::mem::take(&mut open.rows_in_epoch),
                watermark: open.watermark,
                idle: follow.idle,
            }
        });
        let splits: Vec<SplitReport> = splits.collect();
        if let Some(mark) = splits.iter().filter(|split| !split.idle).map(|split| split.watermark).min() {
            self.cells.reached(mark);
        }
        // a source that looks for splits ends only with the run
        let ends = self.step.source.discovery_interval().is_none() || (last && stretch.ended);
        let report = Report {
            source: self.id as u32,
            worker: self.worker as u32,
            when_all_idle: again.of(&self.step.table).map_or(Watermark::NONE, |bound| bound.when_all_idle),
            wall: self.wall,
            checkpoint: false,
            ended: ends && splits.iter().all(|split| split.watermark == Watermark::END),
            last,
            splits,
        };
        again.at += 1;
        again.begun = false;
        again.waiting_since = None;
        report
    }
}

/// True if the one split that was opened gives `rows` first, and stands at `position` then.
fn begins(splits: Vec<Box<dyn Split>>, rows: &Batch, position: u64) -> Result<bool> {
    let Some(mut split) = splits.into_iter().next() else { return Ok(false) };
    for _ in 0..ASKS {
        match split.poll(1)? {
            Polled::Rows { rows: found, .. } => return Ok(found == *rows && split.position() == position),
            Polled::Ended => return Ok(false),
            Polled::Pending => std::thread::sleep(super::NAP),
        }
    }
    Ok(false)
}

fn changed(what: String) -> Error {
    Error::unavailable(format!("the input is not what it was: {what}"))
        .help("recorded epochs can be seen again only while their input is there as it was")
}
