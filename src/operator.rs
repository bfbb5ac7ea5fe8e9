//! One step of a pipeline: the rows of an epoch in, the rows of that epoch out.
//!
//! Operators are plain state machines. They do no I/O, read no clock, and do not know how many workers there are, so a
//! test drives them from a `Vec` and a crash can be replayed. What an operator says of an epoch does not depend on the
//! order of the rows in it.

pub mod aggregate;
pub mod as_of;
pub mod block;
pub mod closing;
pub mod consolidate;
mod custom;
pub mod distinct;
pub mod expire;
pub mod group;
pub mod join;
pub mod keep;
pub mod late;
pub mod layers;
pub mod lookup;
pub mod panes;
pub mod pile;
pub mod rank;
pub mod segments;
pub mod session;
pub mod settle;
pub mod standing;
pub mod top;
pub mod transform;
pub mod updating;
pub mod upsert;

pub use custom::CustomOperator;

use crate::batch::Batch;
use crate::error::Result;
use crate::state::Delta;
use crate::time::{Epoch, Watermark};

/// A step that runs on one worker, over that worker's share of the keys.
pub trait Operator: Send {
    /// Takes one batch of the open epoch.
    fn on_batch(&mut self, batch: Batch, out: &mut Output) -> Result<()>;

    /// Learns that `epoch` is complete and how far event time has come. Epochs come in order, each once.
    fn on_epoch(&mut self, _epoch: Epoch, _mark: Watermark, _out: &mut Output) -> Result<()> {
        Ok(())
    }

    /// Rows that came after their window had closed, since the last call.
    fn take_late_rows(&mut self) -> u64 {
        0
    }

    /// Begins to keep in mind what [`Operator::delta`] will have to give. Called before the first batch, if there are checkpoints.
    fn track(&mut self) {}

    /// What it has learnt since the last call, or since it began: together all deltas are its state, but for the watermark. Called
    /// between two epochs. An operator that remembers nothing from one epoch for the next gives nothing.
    fn delta(&mut self) -> Result<Delta> {
        Ok(Delta::default())
    }

    /// Takes a delta back, or of each of its tables the rows of the keys that this worker owns. Called before the first batch, with
    /// the deltas in their order.
    fn restore(&mut self, _saved: Delta) -> Result<()> {
        Ok(())
    }

    /// Learns that all deltas are taken back, and the watermark at the end of the last epoch in them: what it has closed is gone.
    fn restored(&mut self, _mark: Watermark) -> Result<()> {
        Ok(())
    }

    /// Says once more what it has passed on, of all that it has taken back: it belongs to the time before the first epoch. Called once, after
    /// [`Operator::restored`], by who runs it. For what makes its state again from what it is given.
    fn again(&mut self, _out: &mut Output) -> Result<()> {
        Ok(())
    }

    /// All of its state as one delta, after [`Operator::restored`]. Called once, at its end.
    fn whole(&mut self) -> Result<Delta> {
        Ok(Delta::default())
    }
}

/// A step with several inputs, which may have more to say of an epoch than should be said at once.
///
/// What holds for an [`Operator`] holds here; every operator is one through [`OneInput`].
pub trait Confluence: Send {
    /// Takes one batch of the open epoch from input `port`.
    fn on_batch(&mut self, port: usize, batch: Batch, out: &mut Output) -> Result<()>;

    /// Learns that `epoch` is complete and how far event time has come. Epochs come in order, each once.
    fn on_epoch(&mut self, epoch: Epoch, mark: Watermark, out: &mut Output) -> Result<()>;

    /// Goes on with what it has to say of the complete epoch: true until all is said. Called after `on_epoch` and before the next batch.
    fn say_more(&mut self, _out: &mut Output) -> Result<bool> {
        Ok(false)
    }

    /// Rows that came after their window had closed, since the last call.
    fn take_late_rows(&mut self) -> u64;

    /// As [`Operator::track`].
    fn track(&mut self);

    /// As [`Operator::delta`]; called when all is said of an epoch.
    fn delta(&mut self) -> Result<Delta>;

    /// Bytes that the next delta gives and that need not wait for a checkpoint: it may be asked for at any time, and its pieces are
    /// put together. 0 for operators whose deltas are taken at checkpoints only.
    fn waiting_bytes(&self) -> usize {
        0
    }

    /// As [`Operator::restore`].
    fn restore(&mut self, saved: Delta) -> Result<()>;

    /// As [`Operator::restored`].
    fn restored(&mut self, mark: Watermark) -> Result<()>;

    /// As [`Operator::again`].
    fn again(&mut self, _out: &mut Output) -> Result<()> {
        Ok(())
    }

    /// As [`Operator::whole`].
    fn whole(&mut self) -> Result<Delta>;
}

/// An operator as what it is, too: a confluence of one input.
pub struct OneInput(pub Box<dyn Operator>);

impl Confluence for OneInput {
    fn on_batch(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        self.0.on_batch(batch, out)
    }

    fn on_epoch(&mut self, epoch: Epoch, mark: Watermark, out: &mut Output) -> Result<()> {
        self.0.on_epoch(epoch, mark, out)
    }

    fn take_late_rows(&mut self) -> u64 {
        self.0.take_late_rows()
    }

    fn track(&mut self) {
        self.0.track();
    }

    fn delta(&mut self) -> Result<Delta> {
        self.0.delta()
    }

    fn restore(&mut self, saved: Delta) -> Result<()> {
        self.0.restore(saved)
    }

    fn restored(&mut self, mark: Watermark) -> Result<()> {
        self.0.restored(mark)
    }

    fn again(&mut self, out: &mut Output) -> Result<()> {
        self.0.again(out)
    }

    fn whole(&mut self) -> Result<Delta> {
        self.0.whole()
    }
}

/// Where an operator puts its rows: they belong to the epoch that is open or being completed.
#[derive(Debug, Default)]
pub struct Output(Vec<Batch>);

impl Output {
    /// Gives a batch; an empty one is dropped.
    pub fn push(&mut self, batch: Batch) {
        if batch.num_rows() > 0 {
            self.0.push(batch);
        }
    }

    /// Takes what was given, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Batch> {
        self.0.drain(..)
    }
}
