//! Highwater: stream processing with deterministic epochs.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod error;
pub mod time;
pub mod batch;
pub mod expr;
pub mod format;
pub mod operator;
pub mod connector;
pub mod plan;
pub mod runtime;
