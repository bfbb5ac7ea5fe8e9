//! What has come of epochs that are not complete: reports and things of another kind, each epoch with the right to speak of it.

use crate::time::{Epoch, Report};
use std::collections::BTreeMap;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

/// By epoch.
pub struct Gather<T>(BTreeMap<Epoch, Gathered<T>>);

/// Of one epoch.
pub struct Gathered<T> {
    /// For the operator's first output.
    pub capability: Capability<Epoch>,
    /// What sources said of it.
    pub reports: Vec<Report>,
    /// The rest.
    pub things: Vec<T>,
}

impl<T> Gather<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        Gather(BTreeMap::new())
    }

    /// What has come of the epoch of a message.
    pub fn of(&mut self, message: &InputCapability<Epoch>) -> &mut Gathered<T> {
        let epoch = *message.least().expect("a message that holds something has a time");
        self.0.entry(epoch).or_insert_with(|| Gathered {
            capability: message.delayed(&epoch, 0),
            reports: Vec::new(),
            things: Vec::new(),
        })
    }

    /// The earliest epoch, if nothing more of it can come.
    pub fn complete(&mut self, frontiers: &[MutableAntichain<Epoch>]) -> Option<(Epoch, Gathered<T>)> {
        let least = frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min();
        let entry = self.0.first_entry().filter(|entry| least.is_none_or(|least| *entry.key() < least))?;
        Some(entry.remove_entry())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
