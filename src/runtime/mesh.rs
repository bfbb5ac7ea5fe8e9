//! How the processes of a pipeline find, check and watch each other.
//!
//! Timely is fail-stop and trusts its sockets: a lost peer panics its threads, a frozen one is never noticed, a stray
//! connection ends its listener. So the sockets are ours. Each pair of processes has two connections: *data*, which timely
//! is given as a `stream::Link`, and *control*, which carries heartbeats with counters, the reason of a failure,
//! the request to stop and the goodbye. The process with the higher index dials.
//!
//! ```text
//! join ── listen, dial the lower indexes ── handshake on every connection ──▶ Mesh ── into_parts ──▶ builders for timely
//!                                                                                                    Guard, ends the sockets
//!                                                                                                    Peers, the watch
//! ```
//! - Nobody is listened to before the mutual proof of the secret, and every read has a deadline: a stranger on the
//!   port is closed and logged, and neither ends nor blocks the process.
//! - What passes the handshake is the same pipeline, generation and plan with as many processes and threads.
//! - The first failure wins, wakes the workers, and is told to the others; timely's threads never see it: they are parked.
//! - Nothing here is global to the process, so a test runs several processes as threads of one.

pub(crate) mod handshake;
pub(crate) mod peers;
mod rendezvous;
mod secret;
mod stream;
pub(crate) mod wire;

pub use peers::Peers;
pub use rendezvous::Rendezvous;
pub use secret::{SECRET_ENV, Secret};

use crate::error::{Error, Result};
use crate::time::Clock;
use handshake::Passport;
use peers::{Message, Watch};
use std::fmt;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use stream::Link;
use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};

/// What all processes of one execution have in common; two that differ in it do not connect.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The pipeline's name, at most 128 bytes.
    pub pipeline: String,
    /// Which execution of the pipeline this is.
    pub generation: u64,
    /// The plan's hash: the same definition, planned in the same way.
    pub fingerprint: [u8; 32],
    /// What only these processes know. It never travels.
    pub secret: Secret,
}

/// This process's place among all.
#[derive(Debug)]
pub struct Membership {
    /// Its index, from 0.
    pub process: usize,
    /// How many there are.
    pub processes: usize,
    /// Workers in each process.
    pub threads: usize,
    /// How they find each other. Not looked at when there is one process.
    pub rendezvous: Rendezvous,
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// For all processes to be connected.
    pub connect: Duration,
    /// For one handshake, from its first byte to its last.
    pub handshake: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Without a byte from a peer, after which it counts as lost.
    pub peer_timeout: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            peer_timeout: Duration::from_secs(10),
        }
    }
}

/// All processes, connected and watched. Dropping it closes the connections.
pub struct Mesh {
    threads: usize,
    /// The data connections by process, none for this one; empty when it is alone.
    sockets: Vec<Option<TcpStream>>,
    guard: Guard,
}

/// Connects this process with all others and starts to watch them.
///
/// # Errors
/// `Unavailable` if some process has not come within the connect deadline, with its index and address, or has gone
/// again; `Fenced` if a peer is not who it should be, and says why; `Invalid` if the membership makes no sense.
pub fn join(identity: &Identity, membership: Membership, deadlines: Deadlines, clock: Arc<dyn Clock>) -> Result<Mesh> {
    let Membership { process, processes, threads, rendezvous } = membership;
    if process >= processes || threads == 0 {
        return Err(Error::invalid(format!("process {process} of {processes} with {threads} threads cannot exist"))
            .help("indexes count from 0, and each process has at least one thread"));
    }
    let watch = Watch::new(process, processes, deadlines, clock);
    let guard = Guard { comms: None, watch: Arc::clone(&watch) };
    if processes == 1 {
        return Ok(Mesh { threads, sockets: Vec::new(), guard });
    }
    let passport = Passport::new(identity, process, processes, threads)?;
    match rendezvous::connect(rendezvous, passport, &watch) {
        Ok(sockets) => Ok(Mesh { threads, sockets, guard }),
        Err(error) => {
            watch.fail(error.clone());
            Err(error)
        }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("process", &self.guard.watch.process).finish_non_exhaustive()
    }
}

impl Mesh {
    /// The watch over the others.
    pub fn peers(&self) -> Peers {
        Peers(Arc::clone(&self.guard.watch))
    }

    /// This process's index, the number of processes, and the workers in each.
    pub fn place(&self) -> (usize, usize, usize) {
        (self.guard.watch.process, self.sockets.len().max(1), self.threads)
    }

    /// Gives timely the data connections. The builders must all be used at once, as `initialize_from` does.
    ///
    /// # Errors
    /// `Unavailable` if the operating system gives no thread or socket.
    pub fn into_parts(self) -> Result<(Vec<AllocatorBuilder>, Guard, Peers)> {
        let peers = self.peers();
        let Mesh { threads, sockets, mut guard } = self;
        let workers = ProcessBuilder::new_typed_vector(threads, Hooks::default().refill, None);
        if sockets.is_empty() {
            return Ok((workers.into_iter().map(AllocatorBuilder::Process).collect(), guard, peers));
        }
        let watch = &guard.watch;
        let process = watch.process;
        let links = sockets.into_iter().enumerate().map(|(peer, socket)| {
            socket.map(|socket| Link::new(socket, peer, process * threads..(process + 1) * threads, watch))
        });
        let (builders, comms) =
            initialize_networking_from_sockets(workers, links.collect(), process, threads, Hooks::default())
                .map_err(|error| Error::unavailable("no thread or socket is left").caused_by(error))?;
        guard.comms = Some(ManuallyDrop::new(comms));
        Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), guard, peers))
    }
}

/// Holds timely's communication threads until [`Guard::release`]. Dropping it tells the peers of a failure, closes the
/// connections and leaves those threads behind.
#[must_use = "timely's last messages are lost if the process ends before they are sent"]
pub struct Guard {
    /// Its own drop waits for threads that a failure has parked, so that it happens in `release` only.
    comms: Option<ManuallyDrop<CommsGuard>>,
    watch: Arc<Watch>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("process", &self.watch.process).finish_non_exhaustive()
    }
}

impl Guard {
    /// Waits until every process has sent its last data, and says goodbye, see [`Peers::finish`]. After a failure it tells the peers, closes all
    /// connections and leaves timely's threads behind, parked. Call it when the local workers have returned; if one of
    /// them failed, after [`Peers::send_failure`].
    ///
    /// # Errors
    /// The failure, if there is one, also one that comes while waiting.
    pub fn release(mut self) -> Result<()> {
        if let Some(comms) = self.comms.take() {
            let watch = Arc::clone(&self.watch);
            let join = move || {
                drop(ManuallyDrop::into_inner(comms));
                watch.update(|state| state.drained = true);
            };
            thread::Builder::new()
                .name("mesh:end".into())
                .spawn(join)
                .map_err(|error| Error::unavailable("no thread is left to end the connections").caused_by(error))?;
            self.watch.wait(None, |state| state.drained.then_some(()));
        }
        match self.watch.failure() {
            Some(failure) => Err(failure),
            None => {
                self.watch.finish();
                // who was not through with its own part may have failed meanwhile
                self.watch.failure().map_or(Ok(()), Err)
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(failure) = self.watch.failure() {
            // else the others would take the closed connection for the cause
            self.watch.part(&Message::failure(&failure));
        }
        self.watch.close();
    }
}

/// Half a connection or both halves end here; that the other side has ended it first is no news.
fn shut(stream: &TcpStream, how: Shutdown) {
    stream.shutdown(how).unwrap_or_default();
}
