//! The operator that reads: one worker's splits of one source.
//!
//! It emits batches into the open epoch and, when the epoch ends, reports where each split stands. It never reads further than
//! the worker's budget of bytes in epochs that the sinks have not finished: that is what bounds the whole engine.

mod again;
mod shaper;
mod wary;

pub use wary::{LastRead, Skip, Suspect};

use super::exchange::Packet;
use super::metrics::StepCells;
use super::metronome::{Dealt, Order, Orders};
use super::worker::Local;
use crate::batch::{BATCH_ROWS, Batch};
use crate::connector::bad::{Refused, dead_letters};
use crate::connector::{Polled, Split, SplitStart};
use crate::error::Result;
use crate::format::sift::OnBad;
use crate::plan::{Interval, SourceStep, StepId, Tick, WhenAllIdle};
use crate::time::{Epoch, Micros, Report, SplitReport, Watermark};
use again::Again;
use shaper::{Shaper, Tally};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};

/// Reports with the worker that they are for.
pub type Reports = Vec<(u64, Report)>;

/// Bytes that are read before the rest of the dataflow gets its turn.
const TURN_BYTES: usize = 1 << 20;

/// How long a source without data or budget sleeps.
const NAP: Duration = Duration::from_millis(1);

/// What comes out of a source.
pub struct Streams<'scope> {
    /// Its rows.
    pub rows: Stream<'scope, Epoch, Packet>,
    /// Its reports, addressed to every worker.
    pub reports: Stream<'scope, Epoch, Reports>,
    /// The records that it leaves out.
    pub letters: Stream<'scope, Epoch, Packet>,
}

/// Builds the operator for source step `id`.
pub fn source<'scope>(
    scope: Scope<'scope, Epoch>,
    id: StepId,
    step: &SourceStep,
    orders: Stream<'scope, Epoch, Orders>,
    local: &Local,
) -> Streams<'scope> {
    let name = local.plan.steps[id].name.clone();
    let mut builder = OperatorBuilder::new(name.clone(), scope);
    // what comes out depends on this operator's own capabilities, not on the orders' progress
    let mut orders = builder.new_input_connection(orders, Pipeline, []);
    let (rows, row_stream) = builder.new_output_connection::<Packet, _>([]);
    let (reports, report_stream) = builder.new_output_connection::<Reports, _>([]);
    let (letters, letter_stream) = builder.new_output_connection::<Packet, _>([]);
    let mut rows: OutputBuilder<Epoch, NoopBuilder<Packet>> = OutputBuilder::from(rows);
    let mut reports: OutputBuilder<Epoch, CapacityContainerBuilder<Reports>> = OutputBuilder::from(reports);
    let mut letters: OutputBuilder<Epoch, NoopBuilder<Packet>> = OutputBuilder::from(letters);
    let activator = scope.activator_for(builder.operator_info().address);
    let (index, peers) = (scope.index(), scope.peers());
    let clock = Arc::clone(&local.context.clock);
    let cells = local.cells(id);
    let mut reader = Reader::new(id, step.clone(), local.clone(), index);
    builder.build(move |capabilities| {
        let mut capabilities: Option<Vec<Capability<Epoch>>> = Some(capabilities);
        let mut inbox: VecDeque<Order> = VecDeque::new();
        move |_| {
            orders.for_each(|_, batch| inbox.extend(batch.drain(..).map(|(_, order)| order)));
            let Some(held) = capabilities.as_mut() else { return };
            if *held[0].time() < reader.local.first_epoch() {
                let first = reader.local.first_epoch();
                held.iter_mut().for_each(|capability| capability.downgrade(&first));
            }
            if reader.local.fate.failed() {
                capabilities = None;
                return;
            }
            let _busy = cells.busy(clock.as_ref());
            let mut outbox = Vec::new();
            match reader.turn(&mut inbox, &mut outbox) {
                Ok(nap) => {
                    for event in outbox {
                        match event {
                            Event::Rows(batch) => {
                                cells.gives(batch.num_rows());
                                rows.activate().session_with_builder(&held[0]).give_container(&mut Packet::Rows(batch));
                            }
                            Event::Letters(batch) => {
                                letters
                                    .activate()
                                    .session_with_builder(&held[2])
                                    .give_container(&mut Packet::Rows(batch));
                            }
                            Event::Closed(report, next) => {
                                let copies = (0..peers as u64).map(|worker| (worker, report.clone()));
                                reports.activate().session_with_builder(&held[1]).give_iterator(copies);
                                held.iter_mut().for_each(|capability| capability.downgrade(&next));
                            }
                        }
                    }
                    match nap {
                        Turn::Again => activator.activate(),
                        Turn::Nap => activator.activate_after(NAP),
                        Turn::Done => capabilities = None,
                    }
                }
                Err(error) => {
                    cells.failed();
                    reader.local.fate.fail(error.within(name.clone()));
                    capabilities = None;
                }
            }
        }
    });
    Streams { rows: row_stream, reports: report_stream, letters: letter_stream }
}

/// What a turn gives, in order.
enum Event {
    Rows(Batch),
    Letters(Batch),
    /// With the epoch that is open from then on.
    Closed(Report, Epoch),
}

/// What to do after a turn.
enum Turn {
    Again,
    Nap,
    Done,
}

/// One worker's splits of one source.
struct Reader {
    id: StepId,
    step: SourceStep,
    shaper: Shaper,
    tally: Tally,
    local: Local,
    cells: Arc<StepCells>,
    worker: usize,
    /// None until worker 0 has dealt the splits.
    splits: Option<Vec<Open>>,
    next: usize,
    epoch: Epoch,
    /// What the clock said when the open epoch began.
    wall: Micros,
    /// Bytes emitted in epochs that the sinks have not finished.
    in_flight: VecDeque<(Epoch, usize)>,
    in_flight_bytes: usize,
    /// Set if it reads recorded epochs.
    again: Option<Again>,
}

/// A split that is being read.
struct Open {
    number: u32,
    split: Box<dyn Split>,
    watermark: Watermark,
    ended: bool,
    rows_in_epoch: u64,
    /// Since when it has had nothing to give whenever it was asked. A split that is not asked, because the sinks are slow, is not silent.
    silent_since: Option<Duration>,
}

impl Open {
    /// Nothing more is read of it.
    fn end(&mut self) {
        self.ended = true;
        self.watermark = Watermark::END;
    }
}

/// A split that an earlier run has read to its end.
struct Over(u64);

impl Split for Over {
    fn poll(&mut self, _: usize) -> Result<Polled> {
        Ok(Polled::Ended)
    }

    fn position(&self) -> u64 {
        self.0
    }

    fn place(&self, _: usize) -> String {
        "a split that has ended".into()
    }
}

impl Reader {
    fn new(id: StepId, mut step: SourceStep, local: Local, worker: usize) -> Self {
        if let Some(checkpoints) = &local.checkpoints {
            step.source = Arc::new(wary::Wary {
                table: step.table.clone(),
                source: step.source,
                last: Arc::clone(&local.last_read),
                skips: checkpoints.beginning.skips.clone(),
                careful: checkpoints.careful.clone(),
            });
        }
        Reader {
            id,
            shaper: Shaper::new(&step, &local.plan.steps[id].schema),
            tally: Tally::default(),
            step,
            worker,
            cells: local.cells(id),
            splits: None,
            next: 0,
            epoch: local.first_epoch(),
            wall: local.context.clock.wall(),
            again: local.replay.as_ref().map(Again::new),
            local,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// Follows the orders, then reads a little.
    fn turn(&mut self, inbox: &mut VecDeque<Order>, outbox: &mut Vec<Event>) -> Result<Turn> {
        if let Some(again) = self.again.take() {
            return self.turn_again(again, outbox);
        }
        while let Some(order) = inbox.pop_front() {
            match order {
                Order::Read { source, splits, wall } if source as usize == self.id => {
                    if self.splits.is_none() {
                        self.wall = wall;
                    }
                    self.open(splits)?;
                }
                Order::Read { .. } => {}
                Order::Close { epoch, checkpoint, wall } => {
                    debug_assert_eq!(epoch, self.epoch, "the metronome and a source disagree about the open epoch");
                    let ended = self.ended();
                    let report = self.close(checkpoint, ended, ended, wall);
                    outbox.push(Event::Closed(report, self.epoch));
                    self.wall = wall;
                    if ended {
                        return Ok(Turn::Done);
                    }
                }
                Order::Stop { drain } => {
                    if drain {
                        self.splits.iter_mut().flatten().for_each(Open::end);
                    }
                    let report = self.close(true, drain, true, self.wall);
                    outbox.push(Event::Closed(report, self.epoch));
                    return Ok(Turn::Done);
                }
            }
        }
        self.forget_finished();
        if self.ended() {
            let checkpoint = self.checkpoint_by_rows();
            let report = self.close(checkpoint, true, true, self.wall);
            outbox.push(Event::Closed(report, self.epoch));
            return Ok(Turn::Done);
        }
        let rows_a_split = match self.local.plan.settings.tick {
            Tick::Every(_) => u64::MAX,
            Tick::Rows(rows) => {
                let waiting = self
                    .in_flight
                    .front()
                    .is_some_and(|(oldest, _)| self.epoch - oldest >= self.local.plan.settings.inflight_epochs as u64);
                if waiting {
                    return Ok(Turn::Nap);
                }
                rows
            }
        };
        let read = self.read(rows_a_split, outbox)?;
        let full = |open: &Open| open.ended || open.rows_in_epoch >= rows_a_split;
        if rows_a_split != u64::MAX
            && self.splits.as_ref().is_some_and(|splits| splits.iter().all(full))
            && !self.ended()
        {
            let checkpoint = self.checkpoint_by_rows();
            let report = self.close(checkpoint, false, false, self.wall);
            outbox.push(Event::Closed(report, self.epoch));
            return Ok(Turn::Again);
        }
        Ok(if read || self.ended() { Turn::Again } else { Turn::Nap })
    }

    /// Reads these splits, too, from the open epoch on.
    fn open(&mut self, dealt: Vec<Dealt>) -> Result<()> {
        let (ended, dealt): (Vec<Dealt>, Vec<Dealt>) =
            dealt.into_iter().partition(|split| split.watermark == Watermark::END);
        let starts: Vec<SplitStart> = dealt.iter().map(|split| split.start.clone()).collect();
        let splits =
            if starts.is_empty() { Vec::new() } else { self.step.source.open(&starts, &self.local.context)? };
        let opened = |(dealt, split): (Dealt, Box<dyn Split>)| Open {
            number: dealt.number,
            split,
            watermark: dealt.watermark,
            ended: dealt.watermark == Watermark::END,
            rows_in_epoch: 0,
            silent_since: None,
        };
        let over = ended.into_iter().map(|dealt| {
            let over: Box<dyn Split> = Box::new(Over(dealt.start.position.unwrap_or_default()));
            (dealt, over)
        });
        self.splits.get_or_insert_default().extend(dealt.into_iter().zip(splits).chain(over).map(opened));
        Ok(())
    }

    /// True if the open epoch ends with a checkpoint where epochs end by their rows.
    fn checkpoint_by_rows(&self) -> bool {
        match self.local.checkpoint_interval() {
            Some(Interval::Epochs(epochs)) => (self.epoch + 1).is_multiple_of(epochs),
            _ => false,
        }
    }

    /// True if nothing will ever come. A source that looks for new splits may still find one for a worker that has none.
    fn ended(&self) -> bool {
        let all_ended = |splits: &Vec<Open>| splits.iter().all(|open| open.ended);
        self.splits.as_ref().is_some_and(all_ended) && self.step.source.discovery_interval().is_none()
    }

    fn forget_finished(&mut self) {
        while let Some(&(epoch, bytes)) =
            self.in_flight.front().filter(|(epoch, _)| !self.local.probe.less_equal(epoch))
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
            debug_assert!(epoch < self.epoch);
        }
    }

    /// Reads from the splits in turn until there is no more, or enough for now; true if anything came.
    fn read(&mut self, rows_a_split: u64, outbox: &mut Vec<Event>) -> Result<bool> {
        // an epoch that ends by its rows must be able to reach its end, whatever its size
        let own = self.in_flight.back().filter(|(epoch, _)| rows_a_split != u64::MAX && *epoch == self.epoch);
        let budget = self.local.plan.settings.inflight_bytes.saturating_add(own.map_or(0, |(_, bytes)| *bytes));
        let count = self.splits.as_ref().map_or(0, Vec::len);
        let now = self.local.context.clock.monotonic();
        let (mut turn_bytes, mut without_data) = (0, 0);
        if self.in_flight_bytes >= budget {
            self.local.full.set(true);
            self.splits.iter_mut().flatten().for_each(|open| open.silent_since = None);
        }
        while turn_bytes < TURN_BYTES && without_data < count && self.in_flight_bytes < budget {
            let turn = self.next % count;
            self.next = turn + 1;
            let Some(open) = self.splits.as_mut().and_then(|splits| splits.get_mut(turn)) else { break };
            without_data += 1;
            let room = rows_a_split.saturating_sub(open.rows_in_epoch).min(BATCH_ROWS as u64) as usize;
            if open.ended || room == 0 {
                continue;
            }
            match open.split.poll(room)? {
                Polled::Pending => drop(open.silent_since.get_or_insert(now)),
                Polled::Ended => open.end(),
                Polled::Rows { rows, bytes } => {
                    without_data = 0;
                    turn_bytes += bytes.max(1);
                    let mut refused = open.split.take_refused();
                    let records = self.take(turn, rows, bytes, &mut refused, outbox)?;
                    self.tally.count(&self.step, records, &refused)?;
                }
            }
        }
        Ok(turn_bytes > 0)
    }

    /// Takes what split `turn` has given last into the open epoch, and answers how many records that were. What is wrong with some of
    /// them is added to `refused`.
    fn take(
        &mut self,
        turn: usize,
        rows: Batch,
        bytes: usize,
        refused: &mut Vec<Refused>,
        outbox: &mut Vec<Event>,
    ) -> Result<usize> {
        let Some(open) = self.splits.as_mut().and_then(|splits| splits.get_mut(turn)) else { return Ok(0) };
        self.in_flight_bytes += bytes;
        match self.in_flight.back_mut() {
            Some((epoch, sum)) if *epoch == self.epoch => *sum += bytes,
            _ => self.in_flight.push_back((self.epoch, bytes)),
        }
        let records = rows.num_rows() + if self.step.bad.on_bad == OnBad::LeaveOut { refused.len() } else { 0 };
        open.rows_in_epoch += records as u64;
        open.silent_since = None;
        let rows = self.shaper.rows(rows, open.split.as_ref(), self.wall, refused)?;
        if let Some(mark) = self.shaper.watermark(&rows)? {
            open.watermark = open.watermark.max(mark);
        }
        self.cells.read(bytes, refused.len());
        if self.step.bad.letters && !refused.is_empty() {
            outbox.push(Event::Letters(dead_letters(&self.step.table, refused)?));
        }
        if rows.num_rows() > 0 {
            outbox.push(Event::Rows(rows));
        }
        Ok(records)
    }

    /// Ends the open epoch, at `wall` by the clock, and says where every split stands.
    fn close(&mut self, checkpoint: bool, ended: bool, last: bool, wall: Micros) -> Report {
        let now = self.local.context.clock.monotonic();
        // epochs that end by their rows wait for them: there no split is idle, and the binding stays the same every time
        let by_rows = matches!(self.local.plan.settings.tick, Tick::Rows(_));
        let idle_timeout = self.step.idle_timeout.filter(|_| !by_rows);
        let splits = self.splits.iter_mut().flatten().map(|open| {
            let rows = std::mem::take(&mut open.rows_in_epoch);
            let promised = open.split.watermark();
            if promised > open.watermark {
                // who promises something is not silent
                open.watermark = promised;
                open.silent_since = None;
            }
            let silence = open.silent_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            let silent = idle_timeout.is_some_and(|timeout| silence >= timeout);
            SplitReport {
                split: open.number,
                position: open.split.position(),
                rows,
                watermark: open.watermark,
                idle: silent && !open.ended && open.split.caught_up(),
            }
        });
        let splits: Vec<SplitReport> = splits.collect();
        let lags = self.splits.iter().flatten().filter_map(|open| open.split.lag_rows());
        self.cells.lags(lags.reduce(|sum, rows| sum + rows));
        if let Some(mark) = splits.iter().filter(|split| !split.idle).map(|split| split.watermark).min() {
            self.cells.reached(mark);
        }
        let when_all_idle = match (self.step.when_all_idle, idle_timeout) {
            (WhenAllIdle::FollowWallClock, Some(timeout)) => {
                Watermark::at(wall.saturating_sub(timeout.as_micros() as i64))
            }
            _ => Watermark::NONE,
        };
        self.epoch += 1;
        Report {
            source: self.id as u32,
            worker: self.worker as u32,
            splits,
            when_all_idle,
            wall: self.wall,
            checkpoint,
            ended,
            last,
        }
    }
}
