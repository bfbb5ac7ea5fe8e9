//! The watch over the peers: heartbeats, counters, failures, the request to stop, the goodbye.
//!
//! One thread for each control connection sends a heartbeat when it is due and reads what comes. A peer counts as lost when no
//! byte has come for the peer timeout; that time is taken *before* a read that then finds nothing, so that a process that
//! was itself stopped for a while first hears what is waiting for it. A lost data connection is explained by
//! the control connection, which is given one heartbeat to say why.

use super::handshake::Kind;
use super::{Deadlines, shut, wire};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Clock;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::ErrorKind::{ConnectionReset, Interrupted, WouldBlock};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Counters that a process may share.
const SHARED_MAX: usize = 2048;
/// Characters of a failure's text and advice that travel.
const TEXT_MAX: usize = 4096;

/// A handle on the watch over the other processes; clones are the same.
#[derive(Clone)]
pub struct Peers(pub(super) Arc<Watch>);

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("process", &self.0.process)
            .field("failure", &self.failure())
            .finish_non_exhaustive()
    }
}

impl Peers {
    /// The first thing that went wrong: with a peer, or what [`Peers::send_failure`] was told.
    pub fn failure(&self) -> Option<Error> {
        self.0.failure()
    }

    /// The peer whose going without a word is the failure, if it is that.
    pub fn lost_peer(&self) -> Option<usize> {
        self.0.lock().lost_peer
    }

    /// Tells all peers why this process stops, and its own workers. Returns when the peers have heard it, or after one
    /// heartbeat. Only the first word is heard.
    pub fn send_failure(&self, error: &Error) {
        self.0.fail(error.clone());
        self.0.part(&Message::failure(error));
    }

    /// Asks all processes to stop the pipeline in good order; process 0 leads it.
    pub fn request_stop(&self) {
        self.0.update(|state| state.stop = true);
        self.0.tell_all(&Message::Stop);
    }

    /// True once any process was asked to stop.
    pub fn stop_requested(&self) -> bool {
        self.0.lock().stop
    }

    /// Unparks `thread` when there is a failure or a request to stop, also when there is one already.
    pub fn unpark_on_news(&self, thread: Thread) {
        self.0.update(|state| state.listeners.push(thread));
    }

    /// Sets this process's counters, which travel with its next heartbeat; 2048 of them at most, the rest is left out.
    pub fn share(&self, mut counters: Vec<u64>) {
        counters.truncate(SHARED_MAX);
        self.0.lock().counters[self.0.process] = counters;
    }

    /// The newest counters of each process; none from one that has not shared any.
    pub fn shared(&self) -> Vec<Vec<u64>> {
        self.0.lock().counters.clone()
    }

    /// Says goodbye with the last counters: this process has ended in good order. From now on a peer that goes is no
    /// failure. Returns when the peers have said goodbye too, so that their last counters are here, or have gone; or after
    /// the time of a handshake.
    pub fn finish(&self) {
        self.0.finish();
    }
}

/// What travels on a control connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Heartbeat {
        counters: Vec<u64>,
    },
    /// Where each process listens.
    Table(Vec<String>),
    Failure {
        kind: String,
        text: String,
        help: Option<String>,
    },
    Stop,
    Goodbye {
        counters: Vec<u64>,
    },
}

const KINDS: [(&str, ErrorKind); 5] = [
    ("invalid", ErrorKind::Invalid),
    ("data", ErrorKind::Data),
    ("unavailable", ErrorKind::Unavailable),
    ("fenced", ErrorKind::Fenced),
    ("internal", ErrorKind::Internal),
];

impl Message {
    pub(super) fn failure(error: &Error) -> Self {
        let cut = |text: &str| text.chars().take(TEXT_MAX).collect();
        let kind = KINDS.iter().find(|(_, kind)| *kind == error.kind()).map_or("internal", |(name, _)| name);
        Message::Failure { kind: kind.into(), text: cut(&error.to_string()), help: error.advice().map(cut) }
    }
}

/// What all threads of one process's mesh share.
pub(crate) struct Watch {
    pub process: usize,
    pub deadlines: Deadlines,
    pub clock: Arc<dyn Clock>,
    /// The first one; asked often, so without the lock.
    failure: OnceLock<Error>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What is known of the others, and what waits for it.
pub(super) struct State {
    /// By process; this one's own place is not used.
    pub peers: Vec<Peer>,
    /// Where all listen, once process 0 has said so.
    pub table: Option<Vec<String>>,
    /// All of timely's threads have ended in good order.
    pub drained: bool,
    /// The connections are over, whatever the outcome.
    pub closed: bool,
    lost_peer: Option<usize>,
    /// The last word has been said.
    parted: bool,
    stop: bool,
    finished: bool,
    counters: Vec<Vec<u64>>,
    listeners: Vec<Thread>,
}

/// What is known of one peer.
#[derive(Default)]
pub(super) struct Peer {
    /// Where it is, for messages.
    pub address: String,
    /// Where it listens, if it told.
    pub listens: Option<String>,
    /// A connection of the kind is being made or is there.
    pub claimed: [bool; 2],
    /// The control connection, for writing.
    control: Option<Arc<Mutex<TcpStream>>>,
    /// The data connection, to be handed to timely.
    pub data: Option<TcpStream>,
    /// The same, to close it.
    pub data_end: Option<TcpStream>,
    /// Why the last attempt to connect gave nothing.
    pub trouble: Option<String>,
    /// When and how its data connection was lost.
    lost: Option<(Duration, String)>,
    /// It ended in good order.
    goodbye: bool,
    /// Its control connection is over.
    gone: bool,
}

impl Peer {
    /// True once its control connection is there.
    pub(super) fn controlled(&self) -> bool {
        self.control.is_some()
    }
}

impl Watch {
    pub(crate) fn new(process: usize, processes: usize, deadlines: Deadlines, clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = State {
            peers: (0..processes).map(|_| Peer::default()).collect(),
            table: None,
            drained: false,
            closed: false,
            lost_peer: None,
            parted: false,
            stop: false,
            finished: false,
            counters: vec![Vec::new(); processes],
            listeners: Vec::new(),
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Watch { process, deadlines, clock, failure: OnceLock::new(), state, changed })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // every change is a single assignment, so a thread that panicked left nothing half done
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whom it concerns.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let answer = change(&mut state);
        if self.has_failed() || state.stop {
            state.listeners.iter().for_each(Thread::unpark);
        }
        drop(state);
        self.changed.notify_all();
        answer
    }

    /// Waits until `look` sees what it wants; none after a failure, or when the clock has passed `until`.
    pub(super) fn wait<T>(&self, until: Option<Duration>, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(seen) = look(&mut state) {
                return Some(seen);
            }
            if self.has_failed() {
                return None;
            }
            let left = until.map_or(Duration::MAX, |until| until.saturating_sub(self.clock.monotonic()));
            if left.is_zero() {
                return None;
            }
            // woken now and then, because the clock that decides may not be the one that sleeps
            let nap = left.min(Duration::from_millis(100));
            state = self.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// Keeps `error` if it is the first and comes before the good end.
    pub(super) fn fail(&self, error: Error) {
        self.update(|state| self.keep(state, error));
    }

    /// True if `error` is the failure from now on.
    fn keep(&self, state: &State, error: Error) -> bool {
        !state.finished && !state.closed && self.failure.set(error).is_ok()
    }

    /// `process 1 (127.0.0.1:4711)`.
    pub(super) fn name(&self, peer: usize) -> String {
        match self.lock().peers[peer].address.as_str() {
            "" => format!("process {peer}"),
            address => format!("process {peer} ({address})"),
        }
    }

    /// Takes a proven connection to `peer`.
    pub(super) fn attach(self: &Arc<Self>, peer: usize, kind: Kind, stream: TcpStream) -> Result<()> {
        // the handshake's timeouts end here: data may be silent for ever, a heartbeat must not wait for a full buffer
        let patience = matches!(kind, Kind::Control).then_some(self.deadlines.heartbeat);
        let spare = stream
            .set_read_timeout(None)
            .and_then(|()| stream.set_write_timeout(patience))
            .and_then(|()| stream.try_clone())
            .map_err(|error| Error::unavailable(format!("the connection cannot be kept: {error}")).caused_by(error))?;
        match kind {
            Kind::Data => self.update(|state| {
                let peer = &mut state.peers[peer];
                (peer.data, peer.data_end) = (Some(stream), Some(spare));
            }),
            Kind::Control => {
                self.update(|state| state.peers[peer].control = Some(Arc::new(Mutex::new(spare))));
                let watch = Arc::clone(self);
                thread::Builder::new()
                    .name(format!("mesh:control-{peer}"))
                    .spawn(move || watch.follow(peer, stream))
                    .map_err(|error| Error::unavailable("no thread is left").caused_by(error))?;
            }
        }
        Ok(())
    }

    /// Says `message` to `peer`. A failure to do so is found by the thread that reads, with its reason.
    fn tell(&self, peer: usize, message: &Message) {
        let control = self.lock().peers[peer].control.clone();
        if let Some(control) = control {
            let mut stream = control.lock().unwrap_or_else(PoisonError::into_inner);
            stream.write_all(&wire::frame(message)).unwrap_or_default();
        }
    }

    pub(super) fn tell_all(&self, message: &Message) {
        let processes = self.lock().peers.len();
        (0..processes).for_each(|peer| self.tell(peer, message));
    }

    /// Says the last word to all peers, once, and waits until they have heard it, or for a heartbeat: bytes that nobody
    /// has read when a process ends can take the last word with them.
    pub(super) fn part(&self, last: &Message) {
        if std::mem::replace(&mut self.lock().parted, true) {
            return;
        }
        self.tell_all(last);
        let controls: Vec<_> = self.lock().peers.iter().filter_map(|peer| peer.control.clone()).collect();
        for control in controls {
            shut(&control.lock().unwrap_or_else(PoisonError::into_inner), Shutdown::Write);
        }
        self.linger(self.deadlines.heartbeat, |peer| peer.gone);
    }

    /// Waits until all peers are `done`, at most for `patience`.
    fn linger(&self, patience: Duration, done: impl Fn(&Peer) -> bool) {
        let until = self.clock.monotonic() + patience;
        let mut state = self.lock();
        while state.peers.iter().any(|peer| peer.controlled() && !done(peer)) && self.clock.monotonic() < until {
            let nap = Duration::from_millis(20);
            state = self.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// See [`Peers::finish`].
    pub(super) fn finish(&self) {
        let first = self.update(|state| !self.has_failed() && !std::mem::replace(&mut state.finished, true));
        if first {
            // no heartbeat follows: one that met a closed connection could take the goodbye with it
            let counters = self.update(|state| {
                state.parted = true;
                state.counters[self.process].clone()
            });
            self.tell_all(&Message::Goodbye { counters });
            self.linger(self.deadlines.handshake, |peer| peer.goodbye || peer.gone);
        }
    }

    /// Closes all connections; whoever reads or writes one is parked, or ends.
    pub(super) fn close(&self) {
        self.update(|state| {
            state.closed = true;
            for peer in &mut state.peers {
                peer.data_end.iter().for_each(|data| shut(data, Shutdown::Both));
            }
        });
        let controls: Vec<_> = self.lock().peers.iter().filter_map(|peer| peer.control.clone()).collect();
        for control in controls {
            shut(&control.lock().unwrap_or_else(PoisonError::into_inner), Shutdown::Both);
        }
    }

    /// Learns from timely's side that a peer's data connection is over.
    pub(super) fn on_data_lost(&self, peer: usize, how: String) {
        let now = self.clock.monotonic();
        self.lock().peers[peer].lost.get_or_insert((now, how));
    }

    /// The control thread of `peer`: sends heartbeats and takes what comes until the connection is over.
    fn follow(&self, peer: usize, stream: TcpStream) {
        let heard = self.clock.monotonic();
        let mut line = Line { watch: self, peer, stream: &stream, heard, next_beat: heard, inbox: Vec::new() };
        let error = loop {
            if let Err(error) = line.turn() {
                break error;
            }
        };
        let error = error.within(self.name(peer));
        self.update(|state| {
            state.peers[peer].gone = true;
            if !state.peers[peer].goodbye && self.keep(state, error) {
                state.lost_peer = Some(peer);
            }
        });
        // tells the other side that its last word was heard
        shut(&stream, Shutdown::Both);
    }

    pub(crate) fn on_message(&self, peer: usize, message: Message) {
        match message {
            Message::Heartbeat { counters } => {
                let mut state = self.lock();
                // one that was overtaken by the goodbye is older than it
                if !state.peers[peer].goodbye {
                    state.counters[peer] = counters;
                }
            }
            Message::Table(table) => self.update(|state| {
                state.table = (peer == 0 && table.len() == state.peers.len()).then_some(table);
            }),
            Message::Failure { kind, text, help } => {
                let kind = KINDS.iter().find(|(name, _)| *name == kind).map_or(ErrorKind::Internal, |(_, kind)| *kind);
                let error = Error::new(kind, text).within(format!("{} stopped", self.name(peer)));
                let error = help.into_iter().fold(error, Error::help);
                // its word counts after this process's own good end, too: that is not the end of the run
                self.update(|state| !state.closed && self.failure.set(error).is_ok());
            }
            Message::Stop => self.update(|state| state.stop = true),
            Message::Goodbye { counters } => self.update(|state| {
                state.counters[peer] = counters;
                state.peers[peer].goodbye = true;
            }),
        }
    }
}

/// The reading side of a control connection.
struct Line<'a> {
    watch: &'a Watch,
    peer: usize,
    stream: &'a TcpStream,
    /// When the last bytes came.
    heard: Duration,
    next_beat: Duration,
    /// Bytes that are no whole frame yet.
    inbox: Vec<u8>,
}

impl Line<'_> {
    /// Sends a heartbeat if it is due and reads once. An error is the end of the connection.
    fn turn(&mut self) -> Result<()> {
        let Watch { clock, deadlines, process, .. } = self.watch;
        let now = clock.monotonic();
        if now >= self.next_beat {
            let state = self.watch.lock();
            let counters = (!state.parted).then(|| state.counters[*process].clone());
            drop(state);
            if let Some(counters) = counters {
                self.watch.tell(self.peer, &Message::Heartbeat { counters });
            }
            self.next_beat = now + deadlines.heartbeat;
        }
        self.check_data(now)?;
        let given_up = self.heard + deadlines.peer_timeout;
        let patience = self.next_beat.min(given_up).saturating_sub(now).max(Duration::from_millis(10));
        let mut buffer = [0; 4096];
        match self.stream.set_read_timeout(Some(patience)).and_then(|()| self.stream.read(&mut buffer)) {
            Ok(0) => Err(closed()),
            Ok(read) => {
                self.heard = clock.monotonic();
                self.inbox.extend_from_slice(&buffer[..read]);
                while let Some(message) = wire::take(&mut self.inbox)
                    .map_err(|error| Error::internal(format!("sent a message that makes no sense: {error}")))?
                {
                    self.watch.on_message(self.peer, message);
                }
                Ok(())
            }
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => match now >= given_up {
                true => self.give_up(),
                false => Ok(()),
            },
            Err(error) if error.kind() == ConnectionReset => Err(closed()),
            Err(error) => Err(Error::unavailable(format!("broke the connection: {error}"))),
        }
    }

    /// A lost data connection is the failure, if a heartbeat later there is no better word for it.
    fn check_data(&self, now: Duration) -> Result<()> {
        let state = self.watch.lock();
        match &state.peers[self.peer] {
            Peer { goodbye: false, lost: Some((since, how)), .. } if now >= *since + self.watch.deadlines.heartbeat => {
                Err(Error::unavailable(how.clone()))
            }
            _ => Ok(()),
        }
    }

    fn give_up(&self) -> Result<()> {
        if self.watch.lock().peers[self.peer].goodbye {
            return Ok(());
        }
        let silence = humantime::format_duration(self.watch.deadlines.peer_timeout);
        Err(Error::unavailable(format!("no heartbeat for {silence}"))
            .help("see whether it is stopped, overloaded or cut off from the network"))
    }
}

fn closed() -> Error {
    Error::unavailable("closed the connection").help("see why it ended: its own messages, its exit status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;
    use std::net::TcpListener;

    /// Two processes with a control connection between them.
    fn pair() -> [Arc<Watch>; 2] {
        let heartbeat = Duration::from_millis(100);
        let deadlines = Deadlines { heartbeat, ..Deadlines::default() };
        let watches = [0, 1].map(|index| Watch::new(index, 2, deadlines.clone(), Arc::new(SystemClock::default())));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialed = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        watches[1].attach(0, Kind::Control, dialed).unwrap();
        watches[0].attach(1, Kind::Control, listener.accept().unwrap().0).unwrap();
        watches
    }

    fn failure(watch: &Watch) -> String {
        let until = watch.clock.monotonic() + Duration::from_secs(10);
        watch.wait(Some(until), |_| watch.failure()).unwrap().to_string()
    }

    #[test]
    fn lost_data_is_the_failure_when_the_control_connection_goes_on() {
        let [zero, one] = pair();
        zero.on_data_lost(1, "broke the data connection".into());
        assert_eq!(failure(&zero), "process 1: broke the data connection");
        assert_eq!(failure(&one), "process 0: closed the connection");
    }

    #[test]
    fn a_word_explains_lost_data_and_is_passed_on_with_its_kind() {
        let [zero, one] = pair();
        zero.on_data_lost(1, "broke the data connection".into());
        Peers(one).send_failure(&Error::internal("x".repeat(10_000)));
        assert_eq!(failure(&zero), format!("process 1 stopped: {}", "x".repeat(TEXT_MAX)));
        assert_eq!(zero.failure().unwrap().kind(), ErrorKind::Internal);
    }

    #[test]
    fn a_peer_that_fails_after_the_own_good_end_is_heard() {
        let [zero, one] = pair();
        let finishing = Arc::clone(&zero);
        let ending = std::thread::spawn(move || finishing.finish());
        one.wait(None, |state| state.peers[0].goodbye.then_some(()));
        Peers(one).send_failure(&Error::data("a bad record"));
        ending.join().unwrap();
        assert_eq!(failure(&zero), "process 1 stopped: a bad record");
    }
}
