//! How the processes find each other, and the listener that they meet at.
//!
//! Each process listens from its start to its end and dials every lower index, first for control, then for data.
//! Attempts are repeated until the connect deadline, but for a refusal that will not change. The listener answers after the start
//! too, so that a second process of an index, or one of another generation, learns why it is not wanted.

use super::handshake::{Hello, Kind, Passport, Rejection, accept, dial};
use super::peers::{Message, Watch};
use crate::error::{Error, Result};
use socket2::{SockRef, TcpKeepalive};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use std::{fmt, io};

/// Handshakes of strangers and peers that may go on at the same time.
const PENDING_MAX: usize = 64;
/// How often the listener looks whether it is still wanted.
const LISTEN_TURN: Duration = Duration::from_millis(200);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How the processes find each other.
#[derive(Debug)]
pub enum Rendezvous {
    /// On several machines: process `i` is reached at `addresses[i]`.
    Hosts {
        /// `host:port` of each process, the same list everywhere.
        addresses: Vec<String>,
        /// Where this process listens if that is not its own address: `0.0.0.0:7000`.
        bind: Option<String>,
    },
    /// On one machine, for process 0: the others are told its listener's address when they are started.
    Coordinate {
        /// Where they come to.
        listener: TcpListener,
        /// Asked while they are awaited: why one of them cannot come any more.
        lost: Lost,
    },
    /// On one machine, for the others: where process 0 listens. The rest is learnt from it.
    Dial(SocketAddr),
}

impl Rendezvous {
    /// For process 0 on one machine: listens on a free port of the loopback, and says where.
    ///
    /// # Errors
    /// `Unavailable` if there is no free port.
    pub fn coordinate() -> Result<(Self, SocketAddr)> {
        let listener = listen("127.0.0.1:0")?;
        let address = listener.local_addr().map_err(|error| cannot_listen("127.0.0.1:0", error))?;
        Ok((Rendezvous::Coordinate { listener, lost: Lost(Box::new(|| None)) }, address))
    }

    /// Ends the wait for the others when `reason` says why one of them cannot come any more, which only process 0 on one
    /// machine can know.
    pub fn unless(mut self, reason: impl Fn() -> Option<Error> + Send + 'static) -> Self {
        if let Rendezvous::Coordinate { lost, .. } = &mut self {
            *lost = Lost(Box::new(reason));
        }
        self
    }
}

/// Says why one of the others cannot come any more.
pub struct Lost(Box<dyn Fn() -> Option<Error> + Send>);

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lost(…)")
    }
}

fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| cannot_listen(address, error))
}

fn cannot_listen(address: &str, error: io::Error) -> Error {
    Error::unavailable(format!("cannot listen on {address}: {error}"))
        .help("give this process an address of this machine and a free port")
        .caused_by(error)
}

/// Connects with every other process; answers the data connections by process, none for this one.
pub(super) fn connect(
    rendezvous: Rendezvous,
    passport: Passport,
    watch: &Arc<Watch>,
) -> Result<Vec<Option<TcpStream>>> {
    let until = watch.clock.monotonic() + watch.deadlines.connect;
    let process = watch.process;
    let processes = watch.lock().peers.len();
    match rendezvous {
        Rendezvous::Coordinate { .. } if process != 0 => return Err(Error::invalid("only process 0 coordinates")),
        Rendezvous::Dial(_) if process == 0 => return Err(Error::invalid("process 0 coordinates, the others dial it")),
        Rendezvous::Hosts { addresses, bind } => {
            if addresses.len() != processes {
                return Err(Error::invalid(format!(
                    "{} addresses are given for {processes} processes",
                    addresses.len()
                ))
                .help("give one address for each process, in order"));
            }
            spawn_listener(listen(bind.as_ref().unwrap_or(&addresses[process]))?, &passport, watch)?;
            name_all(watch, &addresses);
            spawn_dialers(&addresses, 0..process, &passport, until, watch)?;
        }
        Rendezvous::Coordinate { listener, lost } => {
            let own = listener.local_addr().map_err(|error| cannot_listen("127.0.0.1", error))?;
            spawn_listener(listener, &passport, watch)?;
            let table = watch.wait(Some(until), |state| {
                if let Some(error) = (lost.0)() {
                    return Some(Err(error));
                }
                let others = state.peers[1..].iter().map(|peer| peer.listens.clone().filter(|_| peer.controlled()));
                std::iter::once(Some(own.to_string())).chain(others).collect::<Option<Vec<_>>>().map(Ok)
            });
            let table = table.ok_or_else(|| missing(watch))??;
            name_all(watch, &table);
            watch.tell_all(&Message::Table(table));
        }
        Rendezvous::Dial(coordinator) => {
            let listener = listen("127.0.0.1:0")?;
            let own = listener.local_addr().map_err(|error| cannot_listen("127.0.0.1:0", error))?;
            spawn_listener(listener, &passport, watch)?;
            let mut known = vec![String::new(); processes];
            known[0] = coordinator.to_string();
            name_all(watch, &known);
            let passport = passport.listening_at(own.to_string());
            spawn_dialers(&known, 0..1, &passport, until, watch)?;
            let table = watch.wait(Some(until), |state| state.table.clone()).ok_or_else(|| missing(watch))?;
            name_all(watch, &table);
            spawn_dialers(&table, 1..process, &passport, until, watch)?;
        }
    }
    let sockets = watch.wait(Some(until), |state| {
        let complete =
            state.peers.iter().enumerate().all(|(peer, it)| peer == process || it.data.is_some() && it.controlled());
        complete.then(|| state.peers.iter_mut().map(|peer| peer.data.take()).collect())
    });
    sockets.ok_or_else(|| missing(watch))
}

fn name_all(watch: &Watch, addresses: &[String]) {
    watch.update(|state| {
        for (peer, address) in state.peers.iter_mut().zip(addresses) {
            peer.address.clone_from(address);
        }
    });
}

/// The failure that ended the start, or who has not come in time and what is known of it.
fn missing(watch: &Watch) -> Error {
    if let Some(failure) = watch.failure() {
        return failure;
    }
    let processes = watch.lock().peers.len();
    let absent = (0..processes).filter(|peer| *peer != watch.process).filter_map(|peer| {
        let name = watch.name(peer);
        let state = watch.lock();
        let it = &state.peers[peer];
        let trouble = it.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        (!it.controlled() || it.claimed != [true; 2]).then(|| format!("{name}{trouble}"))
    });
    let absent: Vec<_> = absent.collect();
    let waited = humantime::format_duration(watch.deadlines.connect);
    let text = match absent.is_empty() {
        true => format!("the other processes are not connected to each other after {waited}"),
        false => format!("not connected after {waited}: {}", absent.join(", ")),
    };
    Error::unavailable(text).help("start all processes, and see that they reach each other's address")
}

/// Reaches out to each process of `range`, every one on a thread of its own.
fn spawn_dialers(
    addresses: &[String],
    range: std::ops::Range<usize>,
    passport: &Passport,
    until: Duration,
    watch: &Arc<Watch>,
) -> Result<()> {
    for peer in range {
        let (address, passport, watch) = (addresses[peer].clone(), passport.clone(), Arc::clone(watch));
        spawn(format!("mesh:dial-{peer}"), move || {
            for kind in [Kind::Control, Kind::Data] {
                if let Err(error) = reach(peer, &address, kind, &passport, until, &watch) {
                    return watch.fail(error.within(format!("process {peer} ({address})")));
                }
            }
        })?;
    }
    Ok(())
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name).spawn(work);
    spawned.map(drop).map_err(|error| Error::unavailable("no thread is left").caused_by(error))
}

/// Dials `peer` until it is connected, the deadline has passed, or it refuses for good.
fn reach(
    peer: usize,
    address: &str,
    kind: Kind,
    passport: &Passport,
    until: Duration,
    watch: &Arc<Watch>,
) -> Result<()> {
    let mut backoff = BACKOFF_MIN;
    while !watch.has_failed() && watch.clock.monotonic() < until {
        let deadline = watch.deadlines.handshake;
        let attempt = open(address, watch)
            .map_err(|error| Rejection::Stray(error.to_string()))
            .and_then(|stream| dial(&stream, passport, kind, peer, deadline, &*watch.clock).map(|()| stream));
        let trouble = match attempt {
            Ok(stream) => {
                watch.update(|state| state.peers[peer].claimed[kind as usize] = true);
                return watch.attach(peer, kind, stream);
            }
            Err(Rejection::Refused { error, older: false, .. }) => return Err(error),
            Err(Rejection::Refused { error, .. }) => error.to_string(),
            Err(Rejection::Stray(trouble)) => trouble,
        };
        watch.update(|state| state.peers[peer].trouble = Some(trouble));
        thread::sleep(backoff);
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    Ok(())
}

fn open(address: &str, watch: &Watch) -> io::Result<TcpStream> {
    let mut trouble = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, watch.deadlines.handshake) {
            Ok(stream) => {
                tune(&stream, watch)?;
                return Ok(stream);
            }
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

/// Sends at once, and lets the kernel give up on a machine that is gone. The heartbeats are faster; this is for the
/// connection that waits to write.
fn tune(stream: &TcpStream, watch: &Watch) -> io::Result<()> {
    let patience = watch.deadlines.peer_timeout.max(Duration::from_secs(1));
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(patience).with_interval(patience))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(patience * 2))?;
    Ok(())
}

/// Takes connections until the watch is closed.
fn spawn_listener(listener: TcpListener, passport: &Passport, watch: &Arc<Watch>) -> Result<()> {
    SockRef::from(&listener)
        .set_read_timeout(Some(LISTEN_TURN))
        .map_err(|error| Error::unavailable("the listener cannot be set up").caused_by(error))?;
    let (passport, watch) = (passport.clone(), Arc::clone(watch));
    spawn("mesh:listen".into(), move || {
        let pending = Arc::new(AtomicUsize::new(0));
        let strays = Arc::new(AtomicUsize::new(0));
        while !watch.lock().closed {
            let (stream, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    // out of file descriptors, or a client that was gone at once
                    tracing::debug!("a connection could not be accepted: {error}");
                    thread::sleep(BACKOFF_MIN);
                    continue;
                }
            };
            if pending.fetch_add(1, Ordering::AcqRel) >= PENDING_MAX {
                pending.fetch_sub(1, Ordering::AcqRel);
                turn_away(&strays, from, "came while too many others are being heard");
                continue;
            }
            let (passport, watch) = (passport.clone(), Arc::clone(&watch));
            let (done, strays) = (Arc::clone(&pending), Arc::clone(&strays));
            let spawned = spawn("mesh:hear".into(), move || {
                if let Err(stray) = hear(stream, from, &passport, &watch) {
                    turn_away(&strays, from, &stray);
                }
                done.fetch_sub(1, Ordering::AcqRel);
            });
            if spawned.is_err() {
                pending.fetch_sub(1, Ordering::AcqRel);
            }
        }
    })
}

/// Logs a connection that was closed; all of the first few, then fewer and fewer.
fn turn_away(strays: &AtomicUsize, from: SocketAddr, why: &str) {
    let count = strays.fetch_add(1, Ordering::Relaxed) + 1;
    if count <= 20 || count.is_power_of_two() {
        tracing::warn!("turned away a connection from {from}, number {count}: it {why}");
    }
}

/// Answers one connection; an error says what was wrong with it.
fn hear(stream: TcpStream, from: SocketAddr, passport: &Passport, watch: &Arc<Watch>) -> Result<(), String> {
    tune(&stream, watch).map_err(|error| format!("broke the connection: {error}"))?;
    let mut claimed = None;
    let claim = |hello: &Hello| {
        let free = watch.update(|state| {
            let place = &mut state.peers[hello.process].claimed[hello.kind as usize];
            !std::mem::replace(place, true)
        });
        claimed = free.then_some((hello.process, hello.kind));
        free
    };
    match accept(&stream, passport, watch.deadlines.handshake, &*watch.clock, claim) {
        Ok(hello) => {
            watch.update(|state| {
                let peer = &mut state.peers[hello.process];
                if peer.address.is_empty() {
                    peer.address = hello.listens.clone().unwrap_or_else(|| from.to_string());
                }
                peer.listens = hello.listens.or(peer.listens.take());
            });
            watch.attach(hello.process, hello.kind, stream).map_err(|error| format!("could not be kept: {error}"))
        }
        Err(rejection) => {
            if let Some((process, kind)) = claimed {
                watch.update(|state| state.peers[process].claimed[kind as usize] = false);
            }
            Err(match rejection {
                Rejection::Stray(stray) => stray,
                Rejection::Refused { error, process, .. } => {
                    let process = process.filter(|process| *process < watch.lock().peers.len());
                    if let Some(process) = process {
                        let trouble = format!("one from {from} was refused: {error}");
                        watch.update(|state| state.peers[process].trouble = Some(trouble));
                    }
                    format!("was refused: {error}")
                }
            })
        }
    }
}
