//! `highwater run`: a pipeline on threads, on processes of this machine, or on several machines.

use super::ask::{Asked, Attention};
use super::explain::Definition;
use super::metrics::MetricsArguments;
use super::progress::{Progress, REFRESH};
use super::stop;
use super::supervise::{careful, supervise, supervised, tell_suspect};
use crate::broker::{self, Broker};
use crate::checkpoint::store::Store;
use crate::connector::Connectors;
use crate::connector::extensions::Extensions;
use crate::error::{Error, Result};
use crate::fail;
use crate::plan::Plan;
use crate::runtime::mesh::{self, Deadlines, Identity, Membership, Rendezvous, Secret};
use crate::runtime::spawn::{Assignment, Children, spawn_local};
use crate::runtime::{self, From, Running, Surroundings, Wishes, Workers};
use crate::time::{Clock, Epoch, SystemClock};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the end of a run is looked for.
pub const LOOK: Duration = Duration::from_millis(20);

/// Signals that come so soon after the first one are the same wish.
pub const ECHO: Duration = Duration::from_millis(500);

/// How long children may take to end after their parent's workers have.
const PATIENCE: Duration = Duration::from_secs(10);

/// The environment variable by which children learn of the parent's embedded broker.
pub const BROKER_ENV: &str = "HIGHWATER_EMBEDDED_BROKER";

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    definition: Definition,
    /// Worker threads in each process
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Processes on this machine
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "hosts", value_parser = clap::value_parser!(u16).range(1..=1024))]
    processes: u16,
    /// Processes on several machines: a file with one HOST:PORT a line, the same on each machine
    #[arg(long, value_name = "FILE", requires = "process")]
    hosts: Option<PathBuf>,
    /// Which line of the hosts file this process is, from 0
    #[arg(long, value_name = "I", requires = "hosts")]
    process: Option<usize>,
    /// Where to listen, if that is not this process's own line in the hosts file
    #[arg(long, value_name = "HOST:PORT", requires = "hosts")]
    bind: Option<String>,
    /// The secret that the processes share: 64 hex digits in a file, or in HIGHWATER_MESH_SECRET
    #[arg(long, value_name = "FILE", requires = "hosts")]
    secret_file: Option<PathBuf>,
    /// How long to wait for the other processes to come
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    connect_timeout: Duration,
    /// How long another process may be silent before it counts as dead
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    peer_timeout: Duration,
    /// Begin at a savepoint: its name, or the directory or URL to which it was moved
    #[arg(long, value_name = "NAME|PLACE", help_heading = "Checkpoints", conflicts_with = "fall_back_to")]
    from_savepoint: Option<String>,
    /// Begin at an earlier checkpoint; what was published after it is published again
    #[arg(long, value_name = "EPOCH", help_heading = "Checkpoints")]
    fall_back_to: Option<Epoch>,
    /// The state of operators that the definition does not have any more may be dropped
    #[arg(long, help_heading = "Checkpoints")]
    allow_dropped_state: bool,
    /// Input that is gone, such as records that a topic has deleted, may be left out
    #[arg(long, help_heading = "Checkpoints")]
    accept_gap: bool,
    /// End when the run dies, instead of going on from the last checkpoint by itself
    #[arg(long, help_heading = "Checkpoints")]
    no_restart: bool,
    /// Read statements while it runs: SELECT and SUBSCRIBE over its materialized views, SHOW VIEWS; it ends with them
    #[arg(long)]
    ask: bool,
    #[command(flatten)]
    metrics: MetricsArguments,
    /// No live line, even on a terminal
    #[arg(long)]
    no_progress: bool,
}

/// What this process is in the run.
enum Part {
    /// All of it.
    Alone,
    /// Process 0 of those on this machine.
    Parent(Children),
    /// One that process 0 has started.
    Child,
    /// One of several machines.
    Host,
}

/// Runs the pipeline. Who asks it may call the functions of `extensions`.
pub fn run(arguments: Arguments, connectors: &dyn Connectors, extensions: &Extensions) -> Result<()> {
    let plan = arguments.definition.plan(connectors)?;
    plan.check()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let assignment = Assignment::from_env()?;
    let stored = plan.settings.checkpoint_store.is_some();
    arguments.refuse_without(stored)?;
    arguments.refuse_questions(&plan)?;
    let supervised = assignment.is_none() && supervised()?;
    let alone = assignment.is_none() && !supervised;
    if alone
        && stored
        && !arguments.no_restart
        && !arguments.ask
        && arguments.hosts.is_none()
        && arguments.definition.file != Path::new("-")
    {
        let broker = if plan.needs_embedded_broker() { Some(embedded_broker(&arguments)?) } else { None };
        return supervise(&plan, broker.as_ref().map(Broker::address).as_deref(), &clock);
    }
    let process = assignment.as_ref().map(|child| child.process).or(arguments.process);
    fail::process_is(process.unwrap_or_default());
    let door = arguments.metrics.open(assignment.as_ref().map_or(0, |child| child.process))?;
    let broker = if alone && plan.needs_embedded_broker() { Some(embedded_broker(&arguments)?) } else { None };
    let address = broker.as_ref().map(Broker::address).or_else(|| std::env::var(BROKER_ENV).ok());
    let (workers, part) = join(&arguments, assignment, &plan, address.as_deref(), &clock)?;
    let live = !arguments.no_progress && std::io::stderr().is_terminal() && !matches!(part, Part::Child);
    let live = live
        && !arguments.ask
        && !(std::io::stdout().is_terminal() && plan.sinks().any(|(_, sink)| sink.connector == "print"));
    let store = match (&plan.settings.checkpoint_store, matches!(part, Part::Child)) {
        (Some(location), false) => Some(Store::open(location, &plan.settings.name)?),
        _ => None,
    };
    let surroundings =
        Surroundings { embedded_broker: address, wishes: arguments.wishes(), ..Surroundings::new(Arc::clone(&clock)) };
    let asks = arguments.ask && !matches!(part, Part::Child);
    let known = asks.then(|| arguments.definition.with_functions(extensions)).transpose()?;
    let running = runtime::start_with(plan, workers, surroundings)?;
    if let Some(door) = door {
        door.serve(&running)?;
    }
    let over = Arc::new(AtomicBool::new(false));
    if let Some(store) = store {
        let (fate, over) = (running.fate(), Arc::clone(&over));
        let listen = move || stop::listen(&store, &fate, &|| over.load(Ordering::Acquire));
        let thread = std::thread::Builder::new().name("requests".into()).spawn(listen);
        thread.map_err(|error| Error::unavailable("no thread is left").caused_by(error))?;
    }
    let fate = running.fate();
    let asked = known.map(|known| Asked::start(running.views(), &fate, known)).transpose()?;
    let result = see_through(running, &part, live, &clock, asked.as_ref());
    if let Some(suspect) = fate.suspected() {
        tell_suspect(&suspect);
    }
    over.store(true, Ordering::Release);
    let questions = asked.map_or(Ok(()), |asked| asked.end(&result));
    match (result.and(questions), part) {
        // its parent has heard of it and speaks for all
        (Err(_), Part::Child) => std::process::exit(0),
        (result, Part::Parent(children)) => result.and_then(|()| children.wait(PATIENCE)),
        (result, _) => result,
    }
}

impl Arguments {
    /// What was said about checkpoints means nothing without any.
    fn refuse_without(&self, stored: bool) -> Result<()> {
        let given = [
            (self.from_savepoint.is_some(), "--from-savepoint"),
            (self.fall_back_to.is_some(), "--fall-back-to"),
            (self.allow_dropped_state, "--allow-dropped-state"),
            (self.accept_gap, "--accept-gap"),
        ];
        match given.into_iter().find(|(given, _)| *given && !stored) {
            Some((_, name)) => Err(Error::invalid(format!("{name} is about checkpoints, and the pipeline has none"))
                .help("SET 'checkpoint_store' to a directory")),
            None => Ok(()),
        }
    }

    /// Who wants to ask must be able to.
    fn refuse_questions(&self, plan: &Plan) -> Result<()> {
        if !self.ask {
            return Ok(());
        }
        if plan.views().next().is_none() {
            return Err(Error::invalid("--ask is about materialized views, and the pipeline has none")
                .help("declare one: CREATE MATERIALIZED VIEW name AS SELECT …"));
        }
        if self.definition.file == Path::new("-") {
            return Err(Error::invalid("standard input cannot be both the definition and the statements of --ask")
                .help("put the definition into a file"));
        }
        if self.process.unwrap_or_default() > 0 {
            return Err(Error::invalid("the rows of views are in process 0").help("give --ask to that one"));
        }
        Ok(())
    }

    fn wishes(&self) -> Wishes {
        let from = match (&self.from_savepoint, self.fall_back_to) {
            (Some(savepoint), _) => From::Savepoint(savepoint.clone()),
            (None, Some(epoch)) => From::Checkpoint(epoch),
            (None, None) => From::Latest,
        };
        Wishes { from, drop_state: self.allow_dropped_state, accept_gap: self.accept_gap, careful: careful() }
    }
}

/// Connects with the other processes, if there are any.
fn join(
    arguments: &Arguments,
    assignment: Option<Assignment>,
    plan: &Plan,
    broker: Option<&str>,
    clock: &Arc<dyn Clock>,
) -> Result<(Workers, Part)> {
    // who reads a row must be who dies of it
    let threads = if careful().is_some() { 1 } else { usize::from(arguments.workers) };
    let deadlines =
        Deadlines { connect: arguments.connect_timeout, peer_timeout: arguments.peer_timeout, ..Deadlines::default() };
    let identity = |secret| Identity {
        pipeline: plan.settings.name.clone(),
        generation: 1,
        fingerprint: plan.fingerprint(),
        secret,
    };
    let connect = |secret, process, processes, rendezvous| {
        let membership = Membership { process, processes, threads, rendezvous };
        mesh::join(&identity(secret), membership, deadlines.clone(), Arc::clone(clock))
    };
    let missing = || {
        Error::invalid("the processes share no secret")
            .help("put 64 hex digits into a file for --secret-file, or into HIGHWATER_MESH_SECRET")
    };
    if let Some(child) = assignment {
        child.end_with_parent()?;
        let secret = Secret::load(None)?.ok_or_else(missing)?;
        let mesh = connect(secret, child.process, child.processes, Rendezvous::Dial(child.coordinator))?;
        return Ok((Workers::Mesh(mesh), Part::Child));
    }
    if let Some(file) = &arguments.hosts {
        let addresses = read_hosts(file)?;
        let secret = Secret::load(arguments.secret_file.as_deref())?.ok_or_else(missing)?;
        let rendezvous = Rendezvous::Hosts { addresses: addresses.clone(), bind: arguments.bind.clone() };
        let process = arguments.process.unwrap_or_default();
        let mesh = connect(secret, process, addresses.len(), rendezvous)?;
        return Ok((Workers::Mesh(mesh), Part::Host));
    }
    let processes = if careful().is_some() { 1 } else { usize::from(arguments.processes) };
    if processes == 1 {
        return Ok((Workers::Threads(threads), Part::Alone));
    }
    if arguments.definition.file == Path::new("-") {
        return Err(Error::invalid("several processes cannot all read the definition from standard input")
            .help("put it into a file"));
    }
    let secret = Secret::generate()?;
    let (rendezvous, coordinator) = Rendezvous::coordinate()?;
    let own_arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let environment: Vec<(OsString, OsString)> =
        broker.map(|address| (BROKER_ENV.into(), address.into())).into_iter().collect();
    let children = spawn_local(processes, coordinator, &secret, &own_arguments, &environment)?;
    let watched = children.clone();
    let mesh = connect(secret, 0, processes, rendezvous.unless(move || watched.failure()))?;
    Ok((Workers::Mesh(mesh), Part::Parent(children)))
}

/// Shows how it goes until it ends, and asks it to stop on Ctrl-C and SIGTERM.
fn see_through(running: Running, part: &Part, live: bool, clock: &Arc<dyn Clock>, asked: Option<&Asked>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Error::unavailable(format!("signals cannot be handled: {error}")))?;
    let fate = running.fate();
    let quiet = matches!(part, Part::Child);
    let stopper = Arc::clone(&fate);
    let handle = signals.handle();
    let listening = Arc::clone(clock);
    let attention = asked.map(Asked::attention);
    let listener = std::thread::spawn(move || {
        // a stop that another process asked for is no first signal
        let mut asked: Option<Duration> = None;
        for signal in signals.forever() {
            // Ctrl-C reaches the whole group; process 0 stops it for all
            if quiet && signal == SIGINT {
                continue;
            }
            if signal == SIGINT && attention.as_ref().is_some_and(Attention::interrupt) {
                continue;
            }
            attention.iter().for_each(Attention::leave);
            // one wish may come twice, from a person's terminal or a service manager and from the supervisor
            match asked {
                Some(since) if listening.monotonic().saturating_sub(since) < ECHO => continue,
                Some(_) => std::process::exit(130),
                None => asked = Some(listening.monotonic()),
            }
            stopper.stop();
            if !quiet {
                tracing::info!("stopping: what was read is written first; a second signal ends at once");
            }
        }
    });
    let start = clock.monotonic();
    let elapsed = || clock.monotonic().saturating_sub(start);
    let mut progress = Progress::new(live);
    let mut shown = Duration::ZERO;
    while !running.finished() {
        std::thread::sleep(LOOK);
        if !quiet && elapsed().saturating_sub(shown) >= REFRESH {
            shown = elapsed();
            progress.show(shown, running.snapshot());
        }
    }
    let peers = running.peers();
    let (last, result) = running.wait();
    handle.close();
    let _ = listener.join();
    if !quiet {
        let how = match (&result, fate.stopping()) {
            (Err(_), _) => "failed",
            (_, true) => "stopped",
            _ => "finished",
        };
        progress.finish(elapsed(), &last, how);
    }
    match (result, part, peers) {
        (Err(error), Part::Parent(children), Some(peers)) => Err(children.explain(error, &peers)),
        (result, ..) => result,
    }
}

fn read_hosts(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(|error| Error::invalid(format!("{}: {error}", file.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let hosts: Vec<String> = lines.map(str::to_owned).collect();
    match hosts.is_empty() {
        true => Err(Error::invalid("no hosts").within(file.display().to_string()).help("write one HOST:PORT a line")),
        false => Ok(hosts),
    }
}

fn embedded_broker(arguments: &Arguments) -> Result<Broker> {
    if arguments.hosts.is_some() {
        return Err(Error::invalid("the broker 'embedded' lives in one process, so several machines cannot use it")
            .help("name a broker that all of them reach in 'properties.bootstrap.servers'"));
    }
    Broker::start(broker::Config { listen: "127.0.0.1:0".into(), ..broker::Config::default() })
}
