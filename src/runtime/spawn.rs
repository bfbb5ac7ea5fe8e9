//! Several processes on one machine: process 0 starts the others and ends them.
//!
//! A child is this program again, with the same arguments; its index, the address of process 0 and the secret come in its
//! environment. Its standard input is a pipe that only the parent holds open, so that a child that outlives its parent
//! notices. Signals go only to children that have not been reaped, so never to a process that was not started here.

use super::mesh::{Peers, SECRET_ENV, Secret};
use crate::error::{Error, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const MEMBER_ENV: &str = "HIGHWATER_MESH_MEMBER";
/// Between two looks at the children.
const NAP: Duration = Duration::from_millis(20);
/// From the first request to end until force is used.
const GRACE: Duration = Duration::from_secs(3);

/// What a child was started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its index, from 1.
    pub process: usize,
    /// How many processes there are.
    pub processes: usize,
    /// Where process 0 listens.
    pub coordinator: SocketAddr,
}

impl Assignment {
    /// What the environment says that this process was started as; none if it is no child.
    ///
    /// # Errors
    /// `Invalid` if the environment makes no sense.
    pub fn from_env() -> Result<Option<Self>> {
        std::env::var(MEMBER_ENV).ok().map(|text| Self::parse(&text)).transpose()
    }

    fn parse(text: &str) -> Result<Self> {
        let parts = || {
            let (place, coordinator) = text.split_once('@')?;
            let (process, processes) = place.split_once('/')?;
            let (process, processes) = (process.parse().ok()?, processes.parse().ok()?);
            Some(Assignment { process, processes, coordinator: coordinator.parse().ok()? })
        };
        parts().ok_or_else(|| {
            Error::invalid(format!("{text:?} is not process/processes@address"))
                .within(MEMBER_ENV)
                .help("unset it; it is for the children of --processes")
        })
    }

    fn text(&self) -> String {
        format!("{}/{}@{}", self.process, self.processes, self.coordinator)
    }

    /// Ends this process a few seconds after its parent, should it then still be there. Takes the standard input.
    ///
    /// # Errors
    /// `Unavailable` if there is no thread to wait on.
    pub fn end_with_parent(&self) -> Result<()> {
        let wait = || {
            // an error is as good as the end; the parent never writes
            std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).unwrap_or_default();
            thread::sleep(GRACE);
            std::process::exit(1);
        };
        let spawned = thread::Builder::new().name("mesh:parent".into()).spawn(wait);
        spawned.map(drop).map_err(|error| Error::unavailable("no thread is left").caused_by(error))
    }
}

/// The processes that this one has started; clones are the same. The last one dropped ends those that still run.
#[derive(Debug, Clone)]
pub struct Children(Arc<Running>);

/// Child `i` is process `i + 1`.
#[derive(Debug)]
struct Running(Mutex<Vec<Child>>);

/// Starts processes 1 to `processes - 1` as this program with `args`, and `envs` added to their environment.
///
/// # Errors
/// `Unavailable` if one cannot be started; those before it are ended.
pub fn spawn_local(
    processes: usize,
    coordinator: SocketAddr,
    secret: &Secret,
    args: &[OsString],
    envs: &[(OsString, OsString)],
) -> Result<Children> {
    let cannot = |error: std::io::Error| {
        Error::unavailable(format!("cannot start another process: {error}"))
            .help("see the limits on processes and memory, or use threads instead")
            .caused_by(error)
    };
    let program = std::env::current_exe().map_err(cannot)?;
    let children = Children(Arc::new(Running(Mutex::default())));
    for process in 1..processes {
        let child = Command::new(&program)
            .args(args)
            .envs(envs.iter().map(|(name, value)| (name, value)))
            .env(MEMBER_ENV, Assignment { process, processes, coordinator }.text())
            .env(SECRET_ENV, secret.reveal())
            .stdin(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        children.0.lock().push(child);
    }
    Ok(children)
}

impl Children {
    /// The first child that has ended in another way than with status 0.
    pub fn failure(&self) -> Option<Error> {
        let mut children = self.0.lock();
        let ended = children.iter_mut().enumerate().find_map(|(index, child)| Some((index, bad_end(child)?)));
        ended.map(|(index, status)| ended_with(index + 1, status))
    }

    /// `failure`, unless it is about a peer that went without a word and whose end says more.
    pub fn explain(&self, failure: Error, peers: &Peers) -> Error {
        let Some(process) = peers.lost_peer().filter(|process| *process > 0) else { return failure };
        let status = self.0.poll(Duration::from_secs(1), |children| bad_end(&mut children[process - 1]));
        match status {
            Some(status) => ended_with(process, status).caused_by(failure),
            None => failure,
        }
    }

    /// The process ids of those that still run.
    pub fn ids(&self) -> Vec<u32> {
        self.0.lock().iter_mut().filter_map(|child| runs(child).then(|| child.id())).collect()
    }

    /// Waits for all children to end, at most for `patience`.
    ///
    /// # Errors
    /// `Unavailable` with the first child that ended badly, or that did not end.
    pub fn wait(&self, patience: Duration) -> Result<()> {
        let ended = self.0.poll(patience, |children| children.iter_mut().all(|child| !runs(child)).then_some(()));
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        ended.ok_or_else(|| {
            let patience = humantime::format_duration(patience);
            Error::unavailable(format!("a child process has not ended within {patience} after this one"))
        })
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Vec<Child>> {
        // a list of children is as good after a panic as before
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again and again until there is something to see, or for `patience`.
    fn poll<T>(&self, patience: Duration, mut look: impl FnMut(&mut [Child]) -> Option<T>) -> Option<T> {
        let mut waited = Duration::ZERO;
        loop {
            let seen = look(&mut self.lock());
            if seen.is_some() || waited >= patience {
                return seen;
            }
            thread::sleep(NAP);
            waited += NAP;
        }
    }

    fn signal(&self, signal: Signal) {
        for child in self.lock().iter_mut() {
            if let (true, Ok(id)) = (runs(child), i32::try_from(child.id())) {
                // it runs or is a zombie of ours, so the id is still its own
                kill(Pid::from_raw(id), signal).unwrap_or_default();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let all_ended = |children: &mut [Child]| children.iter_mut().all(|child| !runs(child)).then_some(());
        self.signal(Signal::SIGTERM);
        if self.poll(GRACE, all_ended).is_none() {
            self.signal(Signal::SIGKILL);
            self.poll(GRACE, all_ended);
        }
    }
}

/// The processes that `root` has started, and those that they have.
pub fn descendants(root: u32) -> Vec<u32> {
    let parent = |id: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // the name before it is in parentheses and may hold anything
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        (fields.next()? != "Z").then_some(())?;
        fields.next()?.parse().ok()
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: BTreeMap<u32, u32> = ids.filter_map(|id: u32| Some((id, parent(id)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&of) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| **parent == of).map(|(id, _)| *id));
        next += 1;
    }
    found.split_off(1)
}

fn runs(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

fn bad_end(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten().filter(|status| !status.success())
}

fn ended_with(process: usize, status: ExitStatus) -> Error {
    match (status.signal(), status.code()) {
        (Some(number), _) => {
            let name = Signal::try_from(number).map(|signal| format!(" ({signal})")).unwrap_or_default();
            Error::unavailable(format!("process {process} was killed by signal {number}{name}"))
                .help("signal 9 without a sender is most often the kernel, out of memory")
        }
        (None, code) => Error::unavailable(format!("process {process} ended with status {}", code.unwrap_or_default()))
            .help("its own messages say why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_as_it_is_written() {
        let assignment = Assignment { process: 2, processes: 3, coordinator: "127.0.0.1:4711".parse().unwrap() };
        assert_eq!(Assignment::parse(&assignment.text()).unwrap(), assignment);
        for nonsense in ["", "1/2", "1@127.0.0.1:1", "x/2@127.0.0.1:1", "1/2@nowhere"] {
            assert!(Assignment::parse(nonsense).unwrap_err().to_string().contains(MEMBER_ENV), "{nonsense}");
        }
    }
}
