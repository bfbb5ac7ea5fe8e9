//! The metronome: one operator, awake on worker 0 only, that says when an epoch ends and who reads what, new splits included.
//!
//! Its orders travel inside the dataflow, so no worker compares clocks with another. It holds the next tick while too many
//! epochs are open: under load epochs grow, and the cost of a row falls. It ticks early when sources wait for nothing else.

use super::discovery::Discovery;
use super::worker::Local;
use crate::checkpoint::manifest::SplitState;
use crate::connector::SplitStart;
use crate::error::Result;
use crate::plan::{Interval, StepId, Tick};
use crate::time::{Epoch, Micros, Watermark};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};

/// What the metronome tells one worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Read these splits of a source, too; comes first once for each source, even if it is none.
    Read {
        /// The source's step.
        source: u32,
        /// The splits.
        splits: Vec<Dealt>,
        /// What the clock says at the beginning of the first epoch.
        wall: Micros,
    },
    /// The open epoch ends.
    Close {
        /// Which one that is.
        epoch: Epoch,
        /// It ends with a checkpoint.
        checkpoint: bool,
        /// What the clock says at the beginning of the next one.
        wall: Micros,
    },
    /// The open epoch ends and is the last one.
    Stop {
        /// All sources are taken to have ended: every window closes.
        drain: bool,
    },
}

/// A split for a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dealt {
    /// Its number, by which reports name it.
    pub number: u32,
    /// What it is and where to begin.
    pub start: SplitStart,
    /// How far its event time had come; [`Watermark::END`] if it was read to its end.
    pub watermark: Watermark,
}

/// What splits are called, by source and number: reports name them by number only.
#[derive(Clone, Default)]
pub struct SplitNames(Arc<Mutex<BTreeMap<(u32, u32), String>>>);

impl SplitNames {
    /// What split `number` of `source` is called; nothing if it was never dealt.
    pub fn name(&self, source: u32, number: u32) -> String {
        self.lock().get(&(source, number)).cloned().unwrap_or_default()
    }

    fn note(&self, source: StepId, split: &Dealt) {
        self.lock().insert((source as u32, split.number), split.start.name.clone());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u32, u32), String>> {
        // names are as good after a panic as before
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Orders with the worker that they are for.
pub type Orders = Vec<(u64, Order)>;

/// How often the metronome looks whether it is time.
const GLANCE: Duration = Duration::from_millis(1);

/// An epoch that ends early, because it holds as many bytes as may be in flight, has lasted for this share of a tick.
const EARLY: u32 = 4;

/// Builds the metronome.
pub fn metronome<'scope>(scope: Scope<'scope, Epoch>, local: &Local) -> Stream<'scope, Epoch, Orders> {
    let mut builder = OperatorBuilder::new("metronome".into(), scope);
    let (output, orders) = builder.new_output::<Orders>();
    let mut output: OutputBuilder<Epoch, CapacityContainerBuilder<Orders>> = OutputBuilder::from(output);
    let activator = scope.activator_for(builder.operator_info().address);
    let (index, peers) = (scope.index(), scope.peers() as u64);
    let local = local.clone();
    builder.build(move |mut capabilities| {
        // who sees epochs again has their ends from the log
        let mut capability = capabilities.pop().filter(|_| index == 0 && local.replay.is_none());
        let mut dealt: Option<(Dealer, Discovery)> = None;
        let mut last = local.context.clock.monotonic();
        let mut rhythm = Rhythm::new(&local);
        let mut open: VecDeque<(Epoch, Duration)> = VecDeque::new();
        move |_| {
            let Some(now) = capability.as_mut() else { return };
            if *now.time() < local.first_epoch() {
                now.downgrade(&local.first_epoch());
            }
            if local.fate.failed() {
                capability = None;
                return;
            }
            let send = |output: &mut OutputBuilder<_, _>, now: &_, orders: Orders| {
                output.activate().session_with_builder(now).give_iterator(orders.into_iter());
            };
            let reads = match &mut dealt {
                None => Dealer::start(&local, peers).map(|(dealer, discovery, orders)| {
                    dealt = Some((dealer, discovery));
                    orders
                }),
                Some((dealer, discovery)) => discovery.found().map(|found| match found {
                    Some((source, splits)) => dealer.more(source, splits),
                    None => Orders::new(),
                }),
            };
            match reads {
                Ok(orders) if orders.is_empty() => {}
                Ok(orders) => send(&mut output, now, orders),
                Err(error) => {
                    local.fate.fail(error);
                    capability = None;
                    return;
                }
            }
            while let Some(&(epoch, since)) = open.front().filter(|(epoch, _)| !local.probe.less_equal(epoch)) {
                let took = local.context.clock.monotonic().saturating_sub(since);
                local.metrics.epoch_finished(took);
                local.metrics.epochs_finished.store(epoch + 1, Relaxed);
                open.pop_front();
            }
            if local.fate.stopping() {
                let drain = local.fate.draining();
                send(&mut output, now, (0..peers).map(|worker| (worker, Order::Stop { drain })).collect());
                capability = None;
                return;
            }
            if local.probe.done() {
                local.metrics.epochs_finished.store(now.time() + 1, Relaxed);
                local.metrics.epochs_opened.store(now.time() + 1, Relaxed);
                capability = None;
                return;
            }
            if let Tick::Every(every) = local.plan.settings.tick {
                let elapsed = local.context.clock.monotonic().saturating_sub(last);
                let full = local.full.replace(false) && elapsed >= every / EARLY;
                if (elapsed >= every || full) && open.len() < local.plan.settings.inflight_epochs {
                    let epoch = *now.time();
                    let checkpoint = rhythm.falls(epoch, &local);
                    let wall = local.context.clock.wall();
                    let close = Order::Close { epoch, checkpoint, wall };
                    send(&mut output, now, (0..peers).map(|worker| (worker, close.clone())).collect());
                    now.downgrade(&(epoch + 1));
                    last = local.context.clock.monotonic();
                    open.push_back((epoch, last));
                    local.metrics.epochs_opened.store(epoch + 2, Relaxed);
                }
            }
            activator.activate_after(GLANCE);
        }
    });
    orders
}

/// When checkpoints are due.
struct Rhythm {
    every: Option<Interval>,
    /// When the last one was asked for. None where a generation goes on: as soon as its sources have read something it shows that
    /// it does, and who waits outside need not wait for an interval more.
    last: Option<Duration>,
    /// The last epoch that ended with one.
    asked: Option<Epoch>,
}

impl Rhythm {
    fn new(local: &Local) -> Self {
        let begins = local.first_epoch() == 0;
        let last = begins.then(|| local.context.clock.monotonic());
        Rhythm { every: local.checkpoint_interval(), last, asked: None }
    }

    /// True if `epoch` ends with a checkpoint. One at a time: while one is under way, the next one waits.
    fn falls(&mut self, epoch: Epoch, local: &Local) -> bool {
        let now = local.context.clock.monotonic();
        let under_way = self.asked.is_some_and(|asked| local.committed.get().is_none_or(|committed| committed < asked));
        let due = match self.every {
            None => false,
            Some(Interval::Every(every)) => match self.last {
                Some(last) => now.saturating_sub(last) >= every,
                // sources are opened in the first epoch
                None => epoch > local.first_epoch(),
            },
            Some(Interval::Epochs(epochs)) => (epoch + 1).is_multiple_of(epochs),
        };
        if !due || (under_way && matches!(self.every, Some(Interval::Every(_)))) {
            return false;
        }
        (self.last, self.asked) = (Some(now), Some(epoch));
        true
    }
}

/// Deals splits to the workers in turn.
struct Dealer {
    peers: u64,
    names: SplitNames,
    wall: Micros,
    /// The number of the next split of each source.
    next: BTreeMap<StepId, u32>,
}

impl Dealer {
    /// Lists every source's splits, deals them, and begins to look for more.
    fn start(local: &Local, peers: u64) -> Result<(Self, Discovery, Orders)> {
        let names = local.checkpoints.as_ref().map(|checkpoints| checkpoints.names.clone()).unwrap_or_default();
        let mut dealer = Dealer { peers, names, wall: local.context.clock.wall(), next: BTreeMap::new() };
        let (mut known, mut orders) = (Vec::new(), Vec::new());
        for (id, source) in local.plan.sources() {
            let before = local.checkpoints.as_ref().and_then(|checkpoints| checkpoints.beginning.splits(&source.table));
            let splits: Vec<Dealt> = match before {
                Some(before) => {
                    let dealt = |split: &SplitState| Dealt {
                        number: split.number,
                        start: split.start.clone(),
                        watermark: split.watermark,
                    };
                    before.iter().map(dealt).collect()
                }
                None => {
                    let splits = source.source.splits(&local.context);
                    let splits = splits.map_err(|error| error.within(format!("table \"{}\"", source.table)))?;
                    dealer.number(id, splits)
                }
            };
            known.push((id, splits.iter().map(|split| split.start.name.clone()).collect()));
            orders.extend(dealer.deal(id, splits));
        }
        Ok((dealer, Discovery::start(local, known)?, orders))
    }

    /// New splits, each with the next number.
    fn number(&mut self, source: StepId, splits: Vec<String>) -> Vec<Dealt> {
        let next = self.next.get(&source).copied().unwrap_or_default();
        let dealt = |(number, name)| Dealt { number, start: SplitStart::whole(name), watermark: Watermark::NONE };
        (next..).zip(splits).map(dealt).collect()
    }

    /// The orders for splits that have come since.
    fn more(&mut self, source: StepId, splits: Vec<String>) -> Orders {
        let splits = self.number(source, splits);
        let mut orders = self.deal(source, splits);
        orders.retain(|(_, order)| !matches!(order, Order::Read { splits, .. } if splits.is_empty()));
        orders
    }

    /// One order for each worker.
    fn deal(&mut self, source: StepId, splits: Vec<Dealt>) -> Orders {
        let next = self.next.entry(source).or_default();
        let mut shares: Vec<Vec<Dealt>> = vec![Vec::new(); self.peers as usize];
        for split in splits {
            self.names.note(source, &split);
            *next = (*next).max(split.number + 1);
            shares[(u64::from(split.number) % self.peers) as usize].push(split);
        }
        let (source, wall) = (source as u32, self.wall);
        let order = |(worker, splits): (usize, _)| (worker as u64, Order::Read { source, splits, wall });
        shares.into_iter().enumerate().map(order).collect()
    }
}
