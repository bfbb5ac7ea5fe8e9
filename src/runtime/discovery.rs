//! Looks for new splits while a pipeline runs.
//!
//! Asking a network takes its time, so each source that may get more splits is asked on a thread of its own, on worker 0
//! alone; the metronome picks up what was found and deals it out. A service that does not answer is asked again at the next
//! turn: its splits are waited for by those who read them.

use super::worker::Local;
use crate::connector::{Context, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::StepId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// New splits of a source.
type Found = (StepId, Vec<String>);

/// The threads that look; they end when this is dropped.
pub struct Discovery {
    found: Receiver<Result<Found>>,
    _running: Sender<()>,
}

impl Discovery {
    /// Starts to look for splits of the plan's sources other than those that are `known`.
    pub fn start(local: &Local, known: Vec<Found>) -> Result<Self> {
        let (answer, found) = bounded(1);
        let (_running, stopped) = bounded(0);
        for (id, source) in local.plan.sources() {
            let Some(interval) = source.source.discovery_interval() else { continue };
            let known = known.iter().filter(|(of, _)| *of == id).flat_map(|(_, names)| names).cloned().collect();
            let look = Look {
                id,
                table: source.table.clone(),
                source: Arc::clone(&source.source),
                context: local.context.clone(),
                interval,
                known,
            };
            let (answer, stopped) = (answer.clone(), stopped.clone());
            let thread = std::thread::Builder::new().name("discovery".into());
            thread
                .spawn(move || look.run(&answer, &stopped))
                .map_err(|error| Error::unavailable("no thread is left to look for new splits").caused_by(error))?;
        }
        Ok(Discovery { found, _running })
    }

    /// What was found since it was asked last. Never waits.
    pub fn found(&self) -> Result<Option<Found>> {
        self.found.try_recv().ok().transpose()
    }
}

/// What one thread does.
struct Look {
    id: StepId,
    table: String,
    source: Arc<dyn Source>,
    context: Context,
    interval: Duration,
    known: Vec<String>,
}

impl Look {
    fn run(mut self, answer: &Sender<Result<Found>>, stopped: &Receiver<()>) {
        while stopped.recv_timeout(self.interval) == Err(RecvTimeoutError::Timeout) {
            let found = match self.source.discover(&self.known, &self.context) {
                Ok(new) if new.is_empty() => continue,
                Ok(new) => {
                    info!(table = self.table, splits = new.len(), "new splits are read from now on");
                    self.known.extend(new.iter().cloned());
                    Ok((self.id, new))
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    warn!(table = self.table, %error, "cannot look for new splits now");
                    continue;
                }
                Err(error) => Err(error.within(format!("table \"{}\"", self.table))),
            };
            let failed = found.is_err();
            if answer.send(found).is_err() || failed {
                return;
            }
        }
    }
}
