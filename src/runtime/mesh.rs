//! How the processes of a pipeline find, check and watch each other.
//!
//! Timely is fail-stop and trusts its sockets: a lost peer panics its threads, a frozen one is never noticed, a stray
//! connection ends its listener. So the sockets are ours. Each pair of processes has two connections: *data*, which timely
//! is given as a [`Link`](stream::Link), and *control*, which carries heartbeats with counters, the reason of a failure,
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

mod handshake;
mod peers;
mod rendezvous;
mod secret;
mod stream;
mod wire;

pub use peers::Peers;
pub use rendezvous::Rendezvous;
pub use secret::{SECRET_ENV, Secret};

use crate::error::{Error, Result};
use crate::time::Clock;
use handshake::Passport;
use peers::Watch;
use std::fmt;
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

/// All processes, connected.
pub struct Mesh {
    builders: Vec<AllocatorBuilder>,
    guard: Guard,
    peers: Peers,
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
    let workers = ProcessBuilder::new_typed_vector(threads, Hooks::default().refill, None);
    let watch = Watch::new(process, processes, deadlines, clock);
    let peers = Peers(Arc::clone(&watch));
    if processes == 1 {
        let builders = workers.into_iter().map(AllocatorBuilder::Process).collect();
        return Ok(Mesh { builders, guard: Guard { comms: None, watch }, peers });
    }
    let passport = Passport::new(identity, process, processes, threads)?;
    let connected = rendezvous::connect(rendezvous, passport, &watch).and_then(|sockets| {
        let links = sockets.into_iter().enumerate().map(|(peer, socket)| {
            socket.map(|socket| Link::new(socket, peer, process * threads..(process + 1) * threads, &watch))
        });
        initialize_networking_from_sockets(workers, links.collect(), process, threads, Hooks::default())
            .map_err(|error| Error::unavailable("the operating system gives no thread or socket").caused_by(error))
    });
    match connected {
        Ok((builders, comms)) => {
            let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
            Ok(Mesh { builders, guard: Guard { comms: Some(comms), watch }, peers })
        }
        Err(error) => {
            peers.send_failure(&error);
            watch.close();
            Err(error)
        }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("threads", &self.builders.len())
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Mesh {
    /// Builders for the local workers, what ends the connections, and the watch.
    pub fn into_parts(self) -> (Vec<AllocatorBuilder>, Guard, Peers) {
        (self.builders, self.guard, self.peers)
    }
}

/// Holds timely's communication threads. Give it back with [`Guard::release`] when the workers have ended.
#[must_use = "timely's last messages are lost if the process ends before they are sent"]
pub struct Guard {
    comms: Option<CommsGuard>,
    watch: Arc<Watch>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("connected", &self.comms.is_some()).finish_non_exhaustive()
    }
}

impl Guard {
    /// Waits until every process has sent its last data and says goodbye; after a failure it closes all connections and
    /// leaves timely's threads behind, parked. Call it when the local workers have returned.
    ///
    /// # Errors
    /// The failure, if there is one, also one that comes while waiting.
    pub fn release(self) -> Result<()> {
        let Guard { comms, watch } = self;
        if let Some(comms) = comms {
            let waiting = Arc::clone(&watch);
            let joiner = thread::Builder::new().name("mesh:end".into()).spawn(move || {
                drop(comms); // joins timely's threads; never returns once a link is parked
                waiting.update(|state| state.drained = true);
            });
            if joiner.is_err() {
                watch.fail(Error::unavailable("the operating system gives no thread to end the connections with"));
            }
            watch.wait(None, |state| state.drained.then_some(()));
        }
        let outcome = watch.failure().map_or(Ok(()), Err);
        if outcome.is_ok() {
            watch.finish();
        }
        watch.close();
        outcome
    }
}

/// Half a connection or both halves end here; that the other side has ended it first is no news.
fn shut(stream: &TcpStream, how: Shutdown) {
    stream.shutdown(how).unwrap_or_default();
}
