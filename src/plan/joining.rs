//! Joining the rows of two inputs window by window.

use crate::expr::Expr;
use arrow::datatypes::SchemaRef;

/// `a JOIN b ON a.window_start = b.window_start AND a.window_end = b.window_end AND …`: each window's rows of the first input with those
/// of the second, once the window has closed.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Which rows leave.
    pub kind: JoinKind,
    /// What the first and the second input give.
    pub sides: [JoinSide; 2],
    /// What pairs must meet beyond equal keys.
    pub condition: Option<JoinCondition>,
}

/// Which rows leave a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// Pairs.
    Inner,
    /// Pairs, and the first input's rows that are in none.
    Left,
    /// Pairs, and the second input's rows that are in none.
    Right,
    /// Pairs, and the rows that are in none.
    Full,
    /// The first input's rows that are in a pair, each once.
    Semi,
    /// The first input's rows that are in no pair.
    Anti,
}

/// One input of a join; columns are places in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinSide {
    /// The column with the window's start.
    pub start: usize,
    /// The column with the window's end.
    pub end: usize,
    /// The columns that equal the other side's, in order. A row with NULL in one is in no pair.
    pub keys: Vec<usize>,
    /// The columns that leave: those of the first input, then those of the second.
    pub output: Vec<usize>,
}

/// A condition on pairs.
#[derive(Debug, Clone)]
pub struct JoinCondition {
    /// The columns that it reads: which input, which column.
    pub reads: Vec<(usize, usize)>,
    /// What they are, in order.
    pub schema: SchemaRef,
    /// The condition over them.
    pub holds: Expr,
}

impl JoinKind {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            JoinKind::Inner => "join",
            JoinKind::Left => "left join",
            JoinKind::Right => "right join",
            JoinKind::Full => "full join",
            JoinKind::Semi => "semi join",
            JoinKind::Anti => "anti join",
        }
    }

    /// True if pairs leave, not rows of the first input alone.
    pub fn gives_pairs(self) -> bool {
        !matches!(self, JoinKind::Semi | JoinKind::Anti)
    }

    /// True if rows of input `side` that are in no pair leave.
    pub fn gives_unmatched(self, side: usize) -> bool {
        match self {
            JoinKind::Inner | JoinKind::Semi => false,
            JoinKind::Left | JoinKind::Anti => side == 0,
            JoinKind::Right => side == 1,
            JoinKind::Full => true,
        }
    }
}

impl JoinSide {
    /// The columns that the exchange goes by: the keys, or the window if there are none.
    pub fn route(&self) -> Vec<usize> {
        if self.keys.is_empty() { vec![self.start, self.end] } else { self.keys.clone() }
    }
}
