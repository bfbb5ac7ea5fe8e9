//! Window functions after OVER, evaluated over all rows of one partition at once.

use super::from_datafusion;
use crate::batch::Batch;
use crate::error::Result;
use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;
use datafusion_physical_expr::window::WindowExpr;
use std::fmt;
use std::sync::Arc;

/// One function: `rank() OVER (PARTITION BY a ORDER BY b)`, without what it is partitioned by.
#[derive(Debug, Clone)]
pub struct OverCall {
    function: Arc<dyn WindowExpr>,
    /// As a person reads it, and so that two different ones read differently.
    text: Arc<str>,
}

impl OverCall {
    /// Wraps what the planner compiled; `text` says all of it.
    pub fn new(function: Arc<dyn WindowExpr>, text: &str) -> Self {
        OverCall { function, text: text.into() }
    }

    /// The column of the result.
    pub fn field(&self) -> Result<FieldRef> {
        self.function.field().map_err(from_datafusion)
    }

    /// Its value for each row of `partition`, whose rows are in the order of its ORDER BY.
    pub fn evaluate(&self, partition: &Batch) -> Result<ArrayRef> {
        self.function.evaluate(partition).map_err(|error| from_datafusion(error).within(format!("function {self}")))
    }
}

impl fmt::Display for OverCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
