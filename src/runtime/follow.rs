//! Telling the outside how far committed checkpoints have read: see [`Follower`]. It goes on beside everything else and ends nothing.

use super::begin::Checkpoints;
use super::lane::Lane;
use super::worker::Local;
use crate::checkpoint::manifest::Manifest;
use crate::connector::{Follower, SplitStart};
use crate::error::Result;
use crate::plan::Plan;
use tracing::{debug, warn};

/// By follower: where the splits of its table stand.
pub type Positions = Vec<Vec<SplitStart>>;

/// The followers of all sources that have one, on a thread of theirs. While they are busy only the newest news is kept.
pub struct Followers {
    tables: Vec<String>,
    lane: Option<Lane<Positions, ()>>,
    next: Option<Positions>,
}

impl Followers {
    /// Those of `plan`; none if they are not `wanted`, in a simulation, and where nobody follows.
    pub fn start(plan: &Plan, local: &Local, checkpoints: &Checkpoints, wanted: bool) -> Result<Self> {
        let pipeline = &plan.settings.name;
        let found = plan.sources().filter(|_| wanted);
        let (tables, mut followers): (Vec<String>, Vec<Box<dyn Follower>>) =
            found.filter_map(|(_, step)| Some((step.table.clone(), step.source.follower(pipeline)?))).unzip();
        if followers.is_empty() {
            return Ok(Followers { tables, lane: None, next: None });
        }
        let (context, names) = (local.context.clone(), tables.clone());
        let mut silent = vec![true; followers.len()];
        let lane = Lane::start("follow", &checkpoints.offload, move |positions: Positions| {
            for (((follower, splits), table), silent) in
                followers.iter_mut().zip(positions).zip(&names).zip(&mut silent)
            {
                match follower.committed(&splits, &context) {
                    Ok(()) => *silent = true,
                    // once is enough until it works again
                    Err(error) if std::mem::take(silent) => {
                        let advice = error.advice().unwrap_or_default();
                        warn!(table, %error, advice, "how far it was read cannot be shown outside");
                    }
                    Err(error) => debug!(table, %error, "how far it was read cannot be shown outside"),
                }
            }
        })?;
        Ok(Followers { tables, lane: Some(lane), next: None })
    }

    /// What of `manifest` they are to be told.
    pub fn positions(&self, manifest: &Manifest) -> Positions {
        let of_table = |table: &String| {
            let source = manifest.sources.iter().find(|source| source.table == *table);
            source.iter().flat_map(|source| &source.splits).map(|split| split.start.clone()).collect()
        };
        self.tables.iter().map(of_table).collect()
    }

    /// Tells them as soon as they listen, unless newer news comes first.
    pub fn tell(&mut self, positions: Positions) {
        self.next = Some(positions);
    }

    /// True while there is something that they have not told.
    pub fn go_on(&mut self) -> bool {
        let Some(lane) = &mut self.lane else { return false };
        // what a thread that is gone has not told is not told
        if lane.take().is_err() {
            self.lane = None;
            return false;
        }
        if lane.unanswered() == 0
            && let Some(next) = self.next.take()
        {
            lane.give(next);
        }
        lane.unanswered() > 0
    }
}
