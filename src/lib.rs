//! Highwater: stream processing with deterministic epochs.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod error;
