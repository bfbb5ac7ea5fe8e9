//! Highwater: stream processing with deterministic epochs.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod bench;
pub mod broker;
pub mod cli;
pub mod connector;
pub mod error;
pub mod expr;
pub mod format;
pub mod operator;
pub mod plan;
pub mod runtime;
pub mod sql;
pub mod time;
