//! A store that goes wrong on purpose.

use super::{Backend, Entry, Trouble};
use crate::error::Error;
use bytes::Bytes;
use std::sync::Arc;

/// What goes wrong, and when. Asked by every thread that uses the store.
pub trait Faults: Send + Sync {
    /// Asked before an operation: with a fault it is not done.
    fn before(&self, operation: Operation, path: &str) -> Option<Fault>;
    /// Asked after an operation was done, or was refused by the store: with a fault its answer is lost.
    fn after(&self, _operation: Operation, _path: &str) -> Option<Fault> {
        None
    }
}

/// What a store is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// To create an object.
    Create,
    /// To read one.
    Get,
    /// To list a folder.
    List,
    /// To delete an object.
    Delete,
}

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No answer, or one such as 503. It is tried again.
    Unavailable,
    /// 409: the store could not decide between two who wrote at once. Only creating has this; elsewhere it is as `Unavailable`.
    Conflict,
    /// The process that asks ends here: nothing is tried again.
    Crash,
}

impl Fault {
    fn trouble(self, operation: Operation) -> Trouble {
        match self {
            Fault::Conflict if operation == Operation::Create => Trouble::Exists,
            Fault::Unavailable | Fault::Conflict => Trouble::Passing(Error::unavailable("injected: 503")),
            Fault::Crash => Trouble::Lasting(Error::unavailable("injected: crash")),
        }
    }
}

/// A backend and what goes wrong with it.
pub(super) struct Faulty {
    pub(super) inner: Arc<dyn Backend>,
    pub(super) faults: Arc<dyn Faults>,
    /// The hook is asked about paths below this.
    pub(super) root: String,
}

impl Faulty {
    fn call<T>(
        &self,
        operation: Operation,
        path: &str,
        inner: impl FnOnce() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        if let Some(fault) = self.faults.before(operation, path) {
            return Err(fault.trouble(operation));
        }
        let answer = inner();
        match self.faults.after(operation, path) {
            Some(fault) => Err(fault.trouble(operation)),
            None => answer,
        }
    }
}

impl Backend for Faulty {
    fn create(&self, path: &str, bytes: Bytes) -> Result<(), Trouble> {
        self.call(Operation::Create, path, || self.inner.create(path, bytes))
    }

    fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, Trouble> {
        self.call(Operation::Get, path, || self.inner.get(path, bytes_max))
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, Trouble> {
        self.call(Operation::List, path, || self.inner.list(path))
    }

    fn delete(&self, path: &str) -> Result<(), Trouble> {
        self.call(Operation::Delete, path, || self.inner.delete(path))
    }

    fn folders(&self, path: &str) -> Result<Vec<String>, Trouble> {
        self.call(Operation::List, path, || self.inner.folders(path))
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
