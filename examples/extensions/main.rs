//! A program with a source, a sink, an operator and functions of its own, and with Highwater's command line.
//!
//! `cargo run --example extensions -- run examples/extensions/totals.sql`

mod aggregate;
mod function;
mod operator;
mod sink;
mod source;

use highwater::connector::extensions::Extensions;
use std::process::ExitCode;

fn main() -> ExitCode {
    let extensions = Extensions::new()
        .connector(source::Countdown)
        .connector(sink::Log)
        .operator(operator::Totals)
        .function(function::initials())
        .aggregate(aggregate::spread());
    highwater::cli::main_with(&extensions)
}
