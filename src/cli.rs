//! The command line: a subcommand is its arguments and one call.
//!
//! Answers go to standard output, everything about the run to standard error. Exit codes, the same for every command:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | the input ended, or the pipeline was stopped cleanly (Ctrl-C, SIGTERM) |
//! | 1 | a bug in Highwater; or a test that fails |
//! | 2 | the definition or the call is wrong |
//! | 3 | the input holds something that the definition does not allow |
//! | 4 | a service, a file or another process did not answer |
//! | 5 | this process does not belong to the run: another plan, secret or generation |
//! | 6 | stored checkpoints are damaged or incomplete |

mod ask;
mod bench;
mod broker;
mod explain;
mod init;
mod metrics;
mod progress;
mod replay;
mod run;
mod shape;
mod shell;
mod state;
mod stop;
mod supervise;
mod tables;
mod test;
mod verify;

use crate::connector::extensions::Extensions;
use crate::connector::redirect::Redirected;
use crate::error::{Error, ErrorKind, Result, report};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The log lines that are written if nobody says.
const PRESET_LOG: &str = "info";

/// Stream processing in SQL over Kafka topics and files, with deterministic epochs
#[derive(Debug, Parser)]
#[command(name = "highwater", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Plain, value_name = "FORMAT", help_heading = "Logging")]
    log_format: LogFormat,
    /// Which log lines are written, such as `debug` or `highwater=debug,rdkafka=warn`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        default_value = PRESET_LOG,
        env = "HIGHWATER_LOG",
        help_heading = "Logging"
    )]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first pipeline, with comments that say what to change
    Init(init::Arguments),
    /// Run a pipeline until its input ends or it is stopped
    Run(run::Arguments),
    /// Run tests of pipelines, which are SQL files
    Test(test::Arguments),
    /// Kill a pipeline's processes and compare what it wrote with what it should have
    Verify(verify::Arguments),
    /// Stop a pipeline wherever it runs, with a last checkpoint
    Stop(stop::StopArguments),
    /// Keep a pipeline's newest checkpoint under a name
    Savepoint(stop::SavepointArguments),
    /// Show the plan of a pipeline: its steps, keys, emit modes and state bounds
    Explain(explain::Arguments),
    /// Check a pipeline without running it
    Check(explain::CheckArguments),
    /// A shell: declare tables, see the rows of a SELECT as they come
    Sql(shell::Arguments),
    /// List the tables, views and steps of a pipeline, with their columns
    Tables(tables::Arguments),
    /// List the functions that SQL may call
    Functions(tables::FunctionArguments),
    /// See recorded epochs again, from a checkpoint, without writing anything
    Replay(replay::Arguments),
    /// List what a checkpoint store holds, or show what a checkpoint is made of
    State(state::Arguments),
    /// Run a development broker: Kafka's protocol on loopback, for trying things out
    Broker(broker::Arguments),
    /// Measure this machine: rows a second, beside what a hand-written loop does
    Bench(bench::Arguments),
    /// Print what makes a shell complete `highwater` and its arguments
    #[command(after_help = shape::COMPLETIONS_HELP)]
    Completions(shape::CompletionArguments),
    /// Print or write the manual
    Man(shape::ManArguments),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Plain,
    Json,
}

/// Reads the arguments of the process and does what they say.
pub fn main() -> ExitCode {
    main_with(&Extensions::new())
}

/// The same for a program with connectors, functions and operators of its own, which pipelines in SQL and YAML can name. With
/// `--processes` the others are this program again.
pub fn main_with(extensions: &Extensions) -> ExitCode {
    let cli = Cli::parse();
    // a test starts and kills many pipelines, which is no news
    let preset = if matches!(cli.command, Command::Test(_)) { "warn" } else { PRESET_LOG };
    let wanted = if cli.log == PRESET_LOG { preset } else { &cli.log };
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(preset));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Plain => log.with_target(false).with_ansi(colour()).init(),
        LogFormat::Json => log.json().init(),
    }
    let result = match cli.command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Sql(arguments) => return shell::run(&arguments, extensions),
        Command::Test(arguments) => return test::run(&arguments, extensions),
        Command::Run(arguments) => match verify::trial() {
            Ok(None) => run::run(arguments, extensions, extensions),
            Ok(Some(trial)) => run::run(arguments, &Redirected::new(extensions, trial), extensions),
            Err(error) => Err(error),
        },
        Command::Verify(arguments) => verify::run(&arguments, extensions),
        Command::Stop(arguments) => stop::stop(&arguments, extensions),
        Command::Savepoint(arguments) => stop::save(&arguments, extensions),
        Command::Explain(arguments) => explain::explain(&arguments, extensions),
        Command::Check(arguments) => explain::check(&arguments, extensions),
        Command::Tables(arguments) => tables::tables(&arguments, extensions),
        Command::Functions(arguments) => tables::functions(&arguments, extensions),
        Command::Replay(arguments) => replay::run(&arguments, extensions),
        Command::State(arguments) => state::run(&arguments, extensions),
        Command::Completions(arguments) => shape::completions(Cli::command(), &arguments),
        Command::Man(arguments) => shape::man(Cli::command(), &arguments),
        Command::Broker(arguments) => broker::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            exit_code(&error)
        }
    }
}

/// Colours are for terminals, and for people who have not asked to be spared (<https://no-color.org>).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes `text` and a line's end to standard output. A reader that has gone has read enough.
fn say(text: impl std::fmt::Display) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::unavailable(format!("standard output: {error}")).caused_by(error))
        }
        _ => Ok(()),
    }
}

/// Says what is wrong and what to do.
fn complain(error: &Error) {
    eprint!("{}", report(error, colour()));
}

fn exit_code(error: &Error) -> ExitCode {
    ExitCode::from(match error.kind() {
        ErrorKind::Invalid => 2,
        ErrorKind::Data => 3,
        ErrorKind::Unavailable => 4,
        ErrorKind::Fenced => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::Internal => 1,
    })
}
