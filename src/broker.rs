//! The development broker: enough of Kafka's protocol, in one process, to write and try pipelines without a Kafka.
//!
//! **It is for development only.** It is one node with one copy, has no authentication and so listens on this machine
//! alone, and drops the oldest records when its memory is full. What it does do, it does as Kafka does, so that a
//! pipeline and its clients run the same code against both: topics and partitions, idempotent and transactional
//! producers with fencing and timeouts, `read_committed`, consumer groups, committed offsets, the Admin API for topics
//! and groups. With a directory it keeps all of that over a restart and over `kill -9`; over a power cut only with
//! [`Config::fsync`].
//!
//! ```text
//!   connection ─▶ records ──────▶ topics ─▶ log (one lock each) ─▶ segments      the records
//!        │                          ▲
//!        ├─▶ transactions, offsets ─┼─▶ coordinator (one lock) ─▶ fact ─▶ ledger  everything else that lasts
//!        ├─▶ membership ────────────┼─▶ group                                     what a restart forgets
//!        └─▶ admin ─────────────────┘
//! ```
//!
//! A thread for each connection answers its requests in order; one more looks after the time. A lookup by time gives
//! the batch that holds the record, not the record. There are no static members, ACLs, quotas, compaction, per-topic
//! settings, or requests in Kafka's flexible encoding (clients that need those versions cannot connect).

mod admin;
pub(crate) mod batch;
mod connection;
mod coordinator;
pub(crate) mod fact;
mod group;
pub(crate) mod ledger;
mod log;
mod membership;
mod offsets;
pub(crate) mod protocol;
mod records;
mod segments;
pub(crate) mod server;
mod topics;
mod transactions;
pub(crate) mod wire;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use protocol::ErrorCode;
use server::Server;
use std::fs::File;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LockResult, PoisonError};
use std::thread::{self, JoinHandle};

/// Below these a client's usual requests would not fit.
const MEMORY_LIMIT_MIN: usize = 1 << 20;
const REQUEST_BYTES_MIN: usize = 64 << 10;

/// How a development broker is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Host and port, for example `127.0.0.1:9092`; must be this machine's loopback. Port 0 takes any that is free.
    pub listen: String,
    /// Where to keep topics, offsets and transactions. None: in memory, gone when the broker stops.
    pub dir: Option<PathBuf>,
    /// How many partitions a topic gets when nobody says.
    pub default_partitions: i32,
    /// Bytes of records to keep, over all topics. Beyond it the oldest of the largest partitions are dropped, from
    /// memory and from `dir`.
    pub memory_limit: usize,
    /// Connections beyond these are closed at once.
    pub connections_max: usize,
    /// A connection that announces a larger request is closed.
    pub request_bytes_max: usize,
    /// Wait for the disk before each answer. Off, a power cut may lose what was acknowledged; a killed process does not.
    pub fsync: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: "127.0.0.1:9092".into(),
            dir: None,
            default_partitions: 1,
            memory_limit: 1 << 30,
            connections_max: 256,
            request_bytes_max: 16 << 20,
            fsync: false,
        }
    }
}

impl Config {
    /// The largest batch of records: it must fit a request and leave the memory limit room for others.
    fn batch_bytes_max(&self) -> usize {
        self.request_bytes_max.min(self.memory_limit / 4)
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: &str, allowed: &str| Err(Error::invalid(format!("{what} must be {allowed}")));
        if !(1..=topics::PARTITIONS_MAX as i32).contains(&self.default_partitions) {
            return refuse("the default number of partitions", &format!("from 1 to {}", topics::PARTITIONS_MAX));
        }
        if self.memory_limit < MEMORY_LIMIT_MIN {
            return refuse("the memory limit", "1 MiB or more");
        }
        if self.connections_max == 0 {
            return refuse("the number of connections", "1 or more");
        }
        if !(REQUEST_BYTES_MIN..=i32::MAX as usize).contains(&self.request_bytes_max) {
            return refuse("the size of a request", "from 64 KiB to 2 GiB");
        }
        Ok(())
    }
}

/// A running development broker. Dropping it closes its connections and waits for its threads.
pub struct Broker {
    server: Arc<Server>,
    listening: Option<JoinHandle<()>>,
    keeping_time: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker; it answers when this returns.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if the address is not a loopback address, another broker uses the directory, or
    /// a limit makes no sense; [`Unavailable`](ErrorKind::Unavailable) if the address or the directory cannot be used;
    /// [`Data`](ErrorKind::Data) if stored files are damaged.
    pub fn start(config: Config) -> Result<Broker> {
        let place = || "development broker".to_owned();
        config.check().map_err(|error| error.within(place()))?;
        let listener = listen(&config.listen).map_err(|error| error.within(place()))?;
        let address = listener.local_addr().map_err(|error| unavailable(&config.listen, error))?;
        let server = Arc::new(Server::open(config, address).map_err(|error| error.within(place()))?);
        let kept = match &server.config.dir {
            Some(dir) => format!("keeps its data in {:?}", dir.display()),
            None => "keeps its data in memory".into(),
        };
        tracing::info!("Highwater's development broker, not for production: listens on {address}, {kept}");
        let mut broker = Broker { server, listening: None, keeping_time: None };
        let server = broker.server.clone();
        broker.keeping_time = Some(spawn("broker-time", move || server.keep_time())?);
        let server = broker.server.clone();
        broker.listening = Some(spawn("broker-listen", move || accept(&server, &listener))?);
        Ok(broker)
    }

    /// The address to connect to, as `host:port`; what clients call `bootstrap.servers`.
    pub fn address(&self) -> String {
        self.server.address.to_string()
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if the name is taken or not allowed, or the number of partitions is not possible;
    /// [`Unavailable`](ErrorKind::Unavailable) if the topic cannot be stored.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.server.coordinator().create_topic(&self.server.topics, name, partitions).map_err(|code| {
            let error = match code {
                ErrorCode::TopicAlreadyExists => Error::invalid("the topic exists"),
                ErrorCode::InvalidTopic => Error::invalid("the name is not allowed")
                    .help("use at most 249 letters, digits, dots, hyphens and underscores"),
                ErrorCode::InvalidPartitions => Error::invalid(format!("{partitions} partitions are not possible"))
                    .help(format!("all topics together have 1 to {} partitions", topics::PARTITIONS_MAX)),
                other => Error::unavailable(format!("cannot store the topic: {other:?}")),
            };
            error.within(format!("topic {name:?}"))
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.stop();
        if let Some(thread) = self.keeping_time.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
        if let Some(thread) = self.listening.take() {
            // The listener waits for a connection, and looks whether to stop when it gets one.
            let _ = TcpStream::connect(self.server.address);
            let _ = thread.join();
        }
    }
}

fn listen(address: &str) -> Result<TcpListener> {
    let candidates: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| Error::invalid(format!("{address:?} is not an address to listen on: {error}")))?
        .collect();
    if !candidates.iter().all(|candidate| candidate.ip().is_loopback()) {
        return Err(Error::invalid(format!("will not listen on {address}: whoever reaches it could read and write"))
            .help("it has no authentication, so use 127.0.0.1 or localhost; for other machines, run Apache Kafka"));
    }
    TcpListener::bind(&candidates[..]).map_err(|error| unavailable(address, error))
}

fn unavailable(address: &str, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot listen on {address}: {error}")).caused_by(error)
}

/// A connection, and the thread that answers it.
struct Open {
    stream: Arc<TcpStream>,
    thread: JoinHandle<()>,
}

/// Takes connections until the broker stops, then closes them and waits for their threads.
fn accept(server: &Arc<Server>, listener: &TcpListener) {
    let mut open: Vec<Open> = Vec::new();
    for stream in listener.incoming() {
        if server.is_stopping() {
            break;
        }
        open.retain(|connection| !connection.thread.is_finished());
        let Ok(stream) = stream else {
            // Out of file descriptors, most likely: without a pause this would spin until one is free.
            thread::sleep(std::time::Duration::from_millis(10));
            continue;
        };
        if open.len() >= server.config.connections_max {
            tracing::warn!("a connection too many is closed: {} are open", open.len());
            continue;
        }
        let stream = Arc::new(stream);
        let (serving, served) = (server.clone(), stream.clone());
        let thread = spawn("broker-connection", move || {
            serving.serve(&served);
            // The other handle lives until the next connection comes; the peer should not wait for that.
            let _ = served.shutdown(Shutdown::Both);
        });
        open.extend(thread.map(|thread| Open { stream, thread }));
    }
    open.iter().for_each(|connection| drop(connection.stream.shutdown(Shutdown::Both)));
    open.into_iter().for_each(|connection| drop(connection.thread.join()));
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| Error::unavailable(format!("cannot start a thread: {error}")).within("development broker"))
}

/// The lock's content, also when a thread died holding it: no connection's end may take the broker with it.
fn unpoisoned<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Makes sure that a file which was made or renamed in `dir` is found there after a power cut.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
