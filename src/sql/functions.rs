//! Scalar functions of our own.

use datafusion_expr::ScalarUDF;
use std::sync::Arc;

/// All of them; one with a name that DataFusion has takes its place.
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    Vec::new()
}
