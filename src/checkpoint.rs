//! What outlives a run: objects in a store, and one log that says which of them count.
//!
//! ```text
//! <store>/<pipeline>/log/00000000000000000042.json        the pipeline's log: numbered records, each created once
//! <store>/<pipeline>/gc/00000000000000000030.json         up to where records may be gone; the last of these holds
//! <store>/<pipeline>/g7/e1042/manifest-<hash>.json        a checkpoint: what it is made of
//! <store>/<pipeline>/g7/e1042/…                           what workers wrote for it; later checkpoints share it
//! <store>/<pipeline>/savepoints/<name>/…                  a checkpoint with all that it needs, to keep or to carry away
//! ```
//! The store is only ever asked to create what is not there, to read, to list and to delete. So the log is the only thing that two
//! processes can contend for, and its order settles everything: a checkpoint has happened when its record is there, and who has
//! written a `Start` of a newer generation has shut out the older ones.
//!
//! Stored bytes are not trusted: their size is limited, their checksum is compared before they are parsed, and paths in them lead nowhere
//! but below the pipeline. What is wrong or missing is [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt), with the object's name.

pub mod decide;
pub mod history;
pub mod log;
pub mod manifest;
pub mod object;
mod pack;
pub mod savepoint;
pub mod seal;
pub mod store;
pub mod sweep;
