//! What a step on one worker keeps in checkpoints: the operator's deltas, or the records of a sink that is written exactly once.
//!
//! An operator deposits at the epochs of checkpoints. Where the deposits of a worker go from there is `checkpoint`'s affair.

use crate::batch::Batch;
use crate::checkpoint::object::{ObjectRef, Section};
use crate::error::Result;
use crate::operator::Confluence;
use crate::plan::StepId;
use crate::time::{Epoch, Watermark};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Bytes of committed records that wait to be published, above which a sink takes in no further epoch.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// What a step has learnt up to a checkpoint.
#[derive(Debug, Clone)]
pub struct Deposit {
    /// The step.
    pub step: StepId,
    /// How far its event time had come.
    pub mark: Watermark,
    /// What is kept.
    pub sections: Vec<Section>,
}

/// How a step's operator is kept.
pub struct Keeping {
    /// The step, and what the plan calls it.
    pub step: StepId,
    /// See [`Step::name`](crate::plan::Step::name).
    pub name: String,
    /// For a sink: where its records wait.
    pub outbox: Option<SharedOutbox>,
}

impl Keeping {
    /// Takes what `operator` has learnt up to checkpoint `epoch`.
    pub fn deposit(&self, epoch: Epoch, mark: Watermark, operator: &mut dyn Confluence) -> Result<Deposit> {
        let delta = operator.delta()?;
        let sections = match &self.outbox {
            None => {
                delta.into_iter().filter(|table| table.rows.num_rows() > 0).map(|table| self.state(table)).collect()
            }
            Some(outbox) => {
                let records: Vec<Batch> = delta.into_iter().map(|table| table.rows).collect();
                let mut outbox = outbox.borrow_mut();
                let shard = outbox.shard;
                match records.is_empty() {
                    true => Vec::new(),
                    false => {
                        outbox.stage(epoch, records.clone());
                        vec![Section::Output { step: self.name.clone(), shard, records }]
                    }
                }
            }
        };
        Ok(Deposit { step: self.step, mark, sections })
    }

    fn state(&self, table: crate::state::Table) -> Section {
        Section::State { step: self.name.clone(), table }
    }

    /// True while too much waits to be published.
    pub fn holds_back(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.borrow().committed_bytes > WAITING_BYTES_MAX)
    }
}

/// The records of one shard on their way out, shared by the sink, the writer of checkpoints and the publisher of one worker.
pub type SharedOutbox = Rc<RefCell<Outbox>>;

/// See [`SharedOutbox`].
pub struct Outbox {
    /// The shard.
    pub shard: u32,
    waiting: VecDeque<Staged>,
    /// In memory, of committed checkpoints.
    committed_bytes: usize,
    /// The last checkpoint that is outside, whole.
    pub published: Option<Epoch>,
}

/// The records of one checkpoint.
pub struct Staged {
    /// The checkpoint.
    pub epoch: Epoch,
    /// The records; none if they are to be read from `object`.
    pub records: Option<Vec<Batch>>,
    /// Where they are kept, once they are.
    pub object: Option<ObjectRef>,
    committed: bool,
    bytes: usize,
}

impl Outbox {
    /// For `shard`, of which earlier checkpoints left `stored` to publish, in order.
    pub fn new(shard: u32, stored: Vec<ObjectRef>) -> Self {
        let left = |object: ObjectRef| Staged {
            epoch: object.epoch,
            records: None,
            object: Some(object),
            committed: true,
            bytes: 0,
        };
        Outbox { shard, waiting: stored.into_iter().map(left).collect(), committed_bytes: 0, published: None }
    }

    fn stage(&mut self, epoch: Epoch, records: Vec<Batch>) {
        let bytes = records.iter().map(Batch::get_array_memory_size).sum();
        self.waiting.push_back(Staged { epoch, records: Some(records), object: None, committed: false, bytes });
    }

    /// Learns that what was staged up to `object`'s epoch is kept in it.
    pub fn stored(&mut self, object: &ObjectRef) {
        for staged in &mut self.waiting {
            if staged.epoch <= object.epoch && staged.object.is_none() {
                staged.object = Some(object.clone());
            }
        }
    }

    /// Learns that the checkpoints up to `epoch` are committed.
    pub fn committed(&mut self, epoch: Epoch) {
        for staged in self.waiting.iter_mut().filter(|staged| staged.epoch <= epoch && !staged.committed) {
            staged.committed = true;
            self.committed_bytes += staged.bytes;
        }
    }

    /// The next records to publish.
    pub fn next(&mut self) -> Option<Staged> {
        self.waiting.pop_front_if(|staged| staged.committed)
    }

    /// Learns that so many bytes of what [`Outbox::next`] gave are not in memory any more.
    pub fn let_go(&mut self, bytes: usize) {
        self.committed_bytes = self.committed_bytes.saturating_sub(bytes);
    }
}

impl Staged {
    /// What it holds in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
