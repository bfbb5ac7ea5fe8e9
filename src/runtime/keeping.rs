//! What a step on one worker keeps in checkpoints: the operator's deltas, or the records of a sink that is written exactly once.
//!
//! An operator deposits at the epochs of checkpoints. Where the deposits of a worker go from there is `checkpoint`'s affair.
//!
//! Records need not wait for that in memory: when there are many, they are written as a part of their checkpoint before anyone knows
//! which that is. It names its parts when it comes; parts that none names are swept.

use super::lane::Lane;
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

/// Parts that are being written, above which a sink takes in no further epoch.
const PARTS_MAX: usize = 2;

/// What writes a part of a checkpoint, beside the worker, with the last epoch that has records in it.
pub type Parts = Lane<(Epoch, Vec<Batch>), Result<ObjectRef>>;

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
                outbox.stage(epoch, records.clone());
                match records.is_empty() {
                    true => Vec::new(),
                    false => vec![Section::Output { step: self.name.clone(), shard, records }],
                }
            }
        };
        Ok(Deposit { step: self.step, mark, sections })
    }

    fn state(&self, table: crate::state::Table) -> Section {
        Section::State { step: self.name.clone(), table }
    }

    /// Sends on what `operator` has to keep up to now, in `epoch`, if that is too much to wait for the checkpoint.
    pub fn relieve(&self, epoch: Epoch, operator: &mut dyn Confluence) -> Result<()> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let mut outbox = outbox.borrow_mut();
        if operator.waiting_bytes() >= outbox.part_bytes {
            let records: Vec<Batch> = operator.delta()?.into_iter().map(|table| table.rows).collect();
            outbox.parts.give((epoch, records));
            outbox.given += 1;
        }
        Ok(())
    }

    /// True while too much waits to be published, or to be written.
    pub fn holds_back(&self) -> Result<bool> {
        let Some(outbox) = &self.outbox else { return Ok(false) };
        let mut outbox = outbox.borrow_mut();
        outbox.collect()?;
        Ok(outbox.committed_bytes > WAITING_BYTES_MAX || outbox.parts.unanswered() > PARTS_MAX)
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
    parts: Parts,
    /// Bytes of records in memory above which they are written as a part.
    part_bytes: usize,
    /// Parts given since the last checkpoint.
    given: usize,
    /// Parts that are written, and whose checkpoint is not known yet.
    written: VecDeque<ObjectRef>,
}

/// The records of one checkpoint, in order: its parts, then what was left when it came.
#[derive(Clone)]
pub struct Staged {
    /// The checkpoint.
    pub epoch: Epoch,
    /// What was written before.
    pub parts: Vec<ObjectRef>,
    /// What was left; none if it is to be read from `object`.
    pub records: Option<Vec<Batch>>,
    /// Where that is kept, once it is.
    pub object: Option<ObjectRef>,
    /// Parts that are not written yet.
    due: usize,
    committed: bool,
    bytes: usize,
}

impl Outbox {
    /// For `shard`, of which earlier checkpoints left `stored` to publish, in order.
    pub fn new(shard: u32, stored: &[ObjectRef], parts: Parts, part_bytes: usize) -> Self {
        Outbox {
            shard,
            waiting: Staged::of(stored).into(),
            committed_bytes: 0,
            published: None,
            parts,
            part_bytes,
            given: 0,
            written: VecDeque::new(),
        }
    }

    fn stage(&mut self, epoch: Epoch, records: Vec<Batch>) {
        let due = std::mem::take(&mut self.given);
        if records.is_empty() && due == 0 {
            return;
        }
        let bytes = records.iter().map(Batch::get_array_memory_size).sum();
        let (parts, records) = (Vec::new(), Some(records));
        self.waiting.push_back(Staged { epoch, parts, records, object: None, due, committed: false, bytes });
        self.deal();
    }

    /// Takes in the parts that are written.
    pub fn collect(&mut self) -> Result<()> {
        while let Some(part) = self.parts.take()? {
            self.written.push_back(part?);
        }
        self.deal();
        Ok(())
    }

    /// Gives written parts to the checkpoints that wait for them.
    fn deal(&mut self) {
        for staged in &mut self.waiting {
            while staged.due > 0 {
                let Some(part) = self.written.pop_front() else { return };
                staged.parts.push(ObjectRef { epoch: staged.epoch, ..part });
                staged.due -= 1;
            }
        }
    }

    /// The parts of checkpoint `epoch`; none while some are being written.
    pub fn parts_of(&self, epoch: Epoch) -> Option<Vec<ObjectRef>> {
        match self.waiting.iter().find(|staged| staged.epoch == epoch) {
            Some(staged) if staged.due > 0 => None,
            Some(staged) => Some(staged.parts.clone()),
            None => Some(Vec::new()),
        }
    }

    /// Learns that what was left of a checkpoint is kept in `object`.
    pub fn stored(&mut self, object: &ObjectRef) {
        for staged in self.waiting.iter_mut().filter(|staged| staged.epoch == object.epoch) {
            staged.object.get_or_insert_with(|| object.clone());
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
    /// What `stored` keeps of committed checkpoints, in their order.
    pub fn of(stored: &[ObjectRef]) -> Vec<Staged> {
        let of_epoch = |objects: &[ObjectRef]| Staged {
            epoch: objects[0].epoch,
            parts: objects.to_vec(),
            records: None,
            object: None,
            due: 0,
            committed: true,
            bytes: 0,
        };
        stored.chunk_by(|one, other| one.epoch == other.epoch).map(of_epoch).collect()
    }

    /// The same, all of it to be read from where it is kept.
    pub fn kept(&self) -> Staged {
        Staged { epoch: self.epoch, parts: self.parts.clone(), records: None, object: self.object.clone(), ..*self }
    }

    /// The objects to read for it.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.parts.iter().chain(self.object.iter().filter(|_| self.records.is_none()))
    }

    /// What it holds in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
