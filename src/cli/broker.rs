//! `highwater broker`: the development broker as a process of its own.

use crate::broker::{Broker, Config};
use crate::error::{Error, Result};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;

/// Arguments of `broker`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where to listen; loopback only, since it knows no authentication. Port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    listen: String,
    /// Keep topics in this directory; without it they are gone with the process
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Partitions of a topic that is created by being used
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
}

/// Runs it until Ctrl-C or SIGTERM. The address goes to standard output, for scripts.
pub fn run(arguments: &Arguments) -> Result<()> {
    let config = Config {
        listen: arguments.listen.clone(),
        dir: arguments.dir.clone(),
        default_partitions: arguments.partitions,
        ..Config::default()
    };
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Error::unavailable(format!("signals cannot be handled: {error}")))?;
    let broker = Broker::start(config)?;
    println!("{}", broker.address());
    signals.forever().next();
    Ok(())
}
