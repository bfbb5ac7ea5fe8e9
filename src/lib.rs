//! Stream processing in SQL with deterministic epochs, on timely dataflow.
//!
//! A pipeline becomes a [`Plan`](plan::Plan); every worker of every process builds the same dataflow from it; workers exchange
//! Arrow record batches and agree on time through epochs alone. **An epoch is a set of input rows, and everything else is a function of it.**
//!
//! # The path of a row
//!
//! ```text
//! SQL ─ sql, YAML ─ graph ─▶ Plan ─ runtime ─▶ the same dataflow on every worker
//!
//! outside ─ connector: Split::poll ─▶ bytes ─ format ─▶ Batch      an open epoch takes it in
//!         ─ operator: transforms ─▶ partial aggregates             each batch at once
//!         ─ runtime: exchange ─▶ the worker that owns the key      hashed a column at a time
//!         ─ operator: aggregate                                    waits until its epoch is complete, then speaks
//!         ─ format ─▶ bytes ─ connector: Shard::write ─▶ outside   written when the outside has said so
//! ```
//!
//! # The rooms, in order
//!
//! Each imports only from those before it; `tests/tidy.rs` holds that. ARCHITECTURE.md has the reasons.
//!
//! | room | what it knows |
//! |---|---|
//! | [`error`] | what went wrong, where, and what to do next |
//! | [`fail`] | deaths on purpose, for tests |
//! | [`time`] | epochs, watermarks, reports; the only clock |
//! | [`batch`] | Arrow batches, key groups, the wire form |
//! | [`expr`] | compiled expressions and aggregates: DataFusion's, with `sql` the only room that names it; functions of a program's own and in WebAssembly |
//! | [`format`](mod@format) | bytes to batches and back: raw, JSON, CSV, Avro, Protocol Buffers, changes |
//! | [`state`] | what operators remember, as rows: deltas and key groups |
//! | [`operator`] | steps as plain state machines: no I/O, no clock, no number of workers |
//! | [`connector`] | the outside: Kafka, files, generated rows, the terminal, memory |
//! | [`plan`] | the pipeline, ready to be built; its check, its fingerprint, its explanation |
//! | [`sql`] | text to plan |
//! | [`graph`] | an operator graph in YAML to plan |
//! | [`builder`] | the same in Rust |
//! | [`checkpoint`] | what outlives a run: objects, manifests, the pipeline's log, savepoints; the only room that names object_store |
//! | [`runtime`] | workers, epochs on their way, exchange, processes: the only room that names timely |
//! | [`testing`] | tests of pipelines, written in SQL |
//! | [`broker`] | Kafka's protocol on loopback, for development |
//! | [`bench`](mod@bench) | what this machine does, beside the loops that are its limit |
//! | [`cli`] | the `highwater` program |
//!
//! # Hello, world
//!
//! ```
//! use arrow::array::{ArrayRef, AsArray, StringArray};
//! use arrow::datatypes::Int64Type;
//! use highwater::batch::Batch;
//! use highwater::connector::{builtin::Builtin, memory::{MemorySink, MemorySource}};
//! use highwater::runtime::{self, Workers};
//! use highwater::sql::{self, Text};
//! use highwater::time::SystemClock;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sql = "
//!     CREATE TABLE greetings (text STRING) WITH ('connector' = 'memory');
//!     CREATE TABLE words (n BIGINT) WITH ('connector' = 'memory');
//!     INSERT INTO words SELECT count(*) FROM (SELECT unnest(split_words(text)) FROM greetings) EMIT FINAL;
//! ";
//! let text: ArrayRef = Arc::new(StringArray::from(vec!["hello, world", "hello again"]));
//! let rows = Batch::try_from_iter([("text", text)])?;
//! let source = MemorySource::new(rows.schema(), vec![rows], 1);
//! let words = MemorySink::new();
//! let connectors = Builtin::default().with_source("greetings", Arc::new(source)).with_sink("words", Arc::new(words.clone()));
//!
//! let plan = sql::plan(Text { name: "hello", sql }, &[], &connectors)?;
//! let running = runtime::start(plan, Workers::Threads(2), None, Arc::new(SystemClock::default()))?;
//! running.wait().1?;
//!
//! assert_eq!(words.batches()[0].column(0).as_primitive::<Int64Type>().value(0), 4);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod bench;
pub mod broker;
pub mod builder;
pub mod checkpoint;
pub mod cli;
pub mod connector;
pub mod error;
pub mod expr;
pub mod fail;
pub mod format;
#[doc(hidden)]
pub mod fuzzing;
pub mod graph;
pub mod operator;
pub mod plan;
pub mod runtime;
pub mod sql;
pub mod state;
pub mod testing;
pub mod time;
