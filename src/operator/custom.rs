//! Operators that a program brings along.
//!
//! SQL calls one as a table function, `FROM TABLE(name(TABLE t PARTITION BY key))`, a graph in a step with `op: operator`. It is
//! staged: an operator sees the rows of an epoch, then its end with the watermark, and then those of the next one.

use super::Operator;
use crate::error::Result;
use arrow::datatypes::SchemaRef;

/// An operator by name: what plans know of it, and how each worker gets its own.
///
/// What it says of an epoch must follow from the rows of the epochs so far alone: not from their order in an epoch, which
/// the network decides, nor from a clock. It is given all rows of a key on one worker, or without a key all rows on one.
pub trait CustomOperator: Send + Sync {
    /// What SQL calls it: small letters, digits and underscores.
    fn name(&self) -> &str;

    /// The columns of what it gives, for those of what it is given.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for columns that it cannot work with; it is told at the call.
    fn schema(&self, input: &SchemaRef) -> Result<SchemaRef>;

    /// True if its operators remember nothing, or give all that they remember in [`Operator::delta`] and take it back in
    /// [`Operator::restore`]. Otherwise a pipeline with checkpoints refuses it: it would forget.
    fn restores(&self) -> bool {
        false
    }

    /// A new one, without any state, for one worker. It pushes batches of [`CustomOperator::schema`].
    fn operator(&self, input: &SchemaRef) -> Result<Box<dyn Operator>>;
}
