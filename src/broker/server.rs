//! What all connections share, and the work that time brings: silent members and overdue transactions.

use super::coordinator::Coordinator;
use super::ledger::Ledger;
use super::topics::{PARTITIONS_MAX, Storage, Topics};
use super::wire::{Hangup, Read};
use super::{Config, transactions, unpoisoned};
use crate::error::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often silent members and overdue transactions are looked for.
const TICK: Duration = Duration::from_millis(100);
/// The file whose lock says that a broker uses the directory.
const LOCK_FILE: &str = "lock";
const PARTITIONS_DIR: &str = "partitions";

pub struct Server {
    pub address: SocketAddr,
    pub config: Config,
    pub topics: Topics,
    /// Tells this run from others.
    pub started_ms: i64,
    coordinator: Mutex<Coordinator>,
    coordinator_changed: Condvar,
    stopping: AtomicBool,
    /// Locked while the broker runs; the system unlocks it however the process ends.
    _dir_lock: Option<File>,
}

impl Server {
    /// Reads what is stored, and ends the transactions whose markers a kill has kept from their logs.
    pub fn open(config: Config, address: SocketAddr) -> Result<Server> {
        let Some(dir) = &config.dir else {
            let topics = Topics::new(None, config.memory_limit);
            let mut coordinator = Coordinator::new(Default::default(), None);
            coordinator.number().map_err(|code| Error::internal(format!("memory refuses: {code:?}")))?;
            return Ok(Server::new(config, address, topics, coordinator, None));
        };
        let dir_lock = lock(dir)?;
        let storage = Storage { dir: dir.join(PARTITIONS_DIR), fsync: config.fsync };
        fs::create_dir_all(&storage.dir).map_err(|error| unusable(dir, error))?;
        let (ledger, known) = Ledger::open(dir, config.fsync)?;
        let topics = Topics::new(Some(storage), config.memory_limit);
        let partitions: usize = known.topics.values().map(|(_, partitions)| *partitions as usize).sum();
        if partitions > PARTITIONS_MAX {
            return Err(Error::data(format!("its topics have {partitions} partitions, {PARTITIONS_MAX} are the most"))
                .within(format!("directory {:?}", dir.display())));
        }
        for (name, (id, partitions)) in &known.topics {
            topics.extend(name, *id, *partitions as usize)?;
        }
        topics.remove_strays()?;
        let mut coordinator = Coordinator::new(known, Some(ledger));
        let unusable = |code| Error::unavailable(format!("cannot write the ledger: {code:?}"));
        coordinator.number().map_err(unusable)?;
        transactions::resume(&mut coordinator, &topics)
            .map_err(|code| Error::unavailable(format!("cannot end the transactions of the last run: {code:?}")))?;
        Ok(Server::new(config, address, topics, coordinator, Some(dir_lock)))
    }

    fn new(
        config: Config,
        address: SocketAddr,
        topics: Topics,
        coordinator: Coordinator,
        _dir_lock: Option<File>,
    ) -> Self {
        Server {
            address,
            config,
            topics,
            started_ms: transactions::now_ms(),
            coordinator: Mutex::new(coordinator),
            coordinator_changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            _dir_lock,
        }
    }

    pub fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        unpoisoned(self.coordinator.lock())
    }

    /// Tells those who wait for the coordinator that it changed.
    pub fn announce_coordinator(&self) {
        self.coordinator_changed.notify_all();
    }

    /// Gives the coordinator away until it has changed or the time is up.
    pub fn wait<'a>(
        &self,
        coordinator: MutexGuard<'a, Coordinator>,
        until: Instant,
    ) -> Read<MutexGuard<'a, Coordinator>> {
        if self.is_stopping() {
            return Err(Hangup("the broker stops"));
        }
        let left = until.saturating_duration_since(Instant::now());
        let (coordinator, _) = unpoisoned(self.coordinator_changed.wait_timeout(coordinator, left));
        Ok(coordinator)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Makes every thread that waits for something give up.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Under the lock: who has just seen that nothing stops is then waiting, and hears it.
        let coordinator = self.coordinator();
        self.announce_coordinator();
        drop(coordinator);
        self.topics.arrivals.announce();
    }

    /// Does what time brings until the broker stops; to stop, the thread must be unparked as well.
    pub fn keep_time(&self) {
        while !self.is_stopping() {
            std::thread::park_timeout(TICK);
            let now = Instant::now();
            let mut coordinator = self.coordinator();
            let mut has_changed = false;
            coordinator.groups.values_mut().for_each(|group| has_changed |= group.on_time(now));
            coordinator.groups.retain(|_, group| !group.members.is_empty());
            transactions::abort_overdue(&mut coordinator, &self.topics, now);
            drop(coordinator);
            if has_changed {
                self.announce_coordinator();
            }
        }
    }
}

/// Makes `dir` and claims it: two brokers would overwrite each other's files.
fn lock(dir: &Path) -> Result<File> {
    let file = fs::create_dir_all(dir)
        .and_then(|()| File::create(dir.join(LOCK_FILE)))
        .map_err(|error| unusable(dir, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(unusable(dir, error)),
        Err(TryLockError::WouldBlock) => {
            Err(Error::invalid(format!("another development broker uses the directory {:?}", dir.display()))
                .help("stop it first, or start this one with another directory"))
        }
    }
}

fn unusable(dir: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot use the directory {:?}: {error}", dir.display())).caused_by(error)
}
