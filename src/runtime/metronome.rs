//! The metronome: one operator, awake on worker 0 only, that says when an epoch ends and who reads what, new splits included.
//!
//! Its orders travel inside the dataflow, so no worker compares clocks with another. It holds the next tick while too many
//! epochs are open: under load epochs grow, and the cost of a row falls. It ticks early when sources wait for nothing else.

use super::discovery::Discovery;
use super::worker::Local;
use crate::error::Result;
use crate::plan::{StepId, Tick};
use crate::time::Epoch;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
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
        /// Number and name of each split.
        splits: Vec<(u32, String)>,
    },
    /// The open epoch ends.
    Close(Epoch),
    /// The open epoch ends and is the last one.
    Stop,
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
        let mut capability = capabilities.pop().filter(|_| index == 0);
        let mut dealt: Option<(Dealer, Discovery)> = None;
        let mut last = local.context.clock.monotonic();
        let mut open: VecDeque<(Epoch, Duration)> = VecDeque::new();
        move |_| {
            let Some(now) = capability.as_mut() else { return };
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
                send(&mut output, now, (0..peers).map(|worker| (worker, Order::Stop)).collect());
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
                    send(&mut output, now, (0..peers).map(|worker| (worker, Order::Close(epoch))).collect());
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

/// Deals splits to the workers in turn.
struct Dealer {
    peers: u64,
    /// How many splits of each source were dealt.
    dealt: BTreeMap<StepId, u64>,
}

impl Dealer {
    /// Lists every source's splits, deals them, and begins to look for more.
    fn start(local: &Local, peers: u64) -> Result<(Self, Discovery, Orders)> {
        let mut dealer = Dealer { peers, dealt: BTreeMap::new() };
        let (mut known, mut orders) = (Vec::new(), Vec::new());
        for (id, source) in local.plan.sources() {
            let splits = source
                .source
                .splits(&local.context)
                .map_err(|error| error.within(format!("table \"{}\"", source.table)))?;
            known.push((id, splits.clone()));
            orders.extend(dealer.deal(id, splits));
        }
        Ok((dealer, Discovery::start(local, known)?, orders))
    }

    /// The orders for splits that have come since.
    fn more(&mut self, source: StepId, splits: Vec<String>) -> Orders {
        let mut orders = self.deal(source, splits);
        orders.retain(|(_, order)| !matches!(order, Order::Read { splits, .. } if splits.is_empty()));
        orders
    }

    /// One order for each worker.
    fn deal(&mut self, source: StepId, splits: Vec<String>) -> Orders {
        let dealt = self.dealt.entry(source).or_default();
        let mut shares: Vec<Vec<(u32, String)>> = vec![Vec::new(); self.peers as usize];
        for split in splits {
            shares[(*dealt % self.peers) as usize].push((*dealt as u32, split));
            *dealt += 1;
        }
        let order = |(worker, splits): (usize, _)| (worker as u64, Order::Read { source: source as u32, splits });
        shares.into_iter().enumerate().map(order).collect()
    }
}
