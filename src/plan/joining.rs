//! Joining the rows of two inputs: window by window, with a table that ends, with the version at a time, or all that there are.

use super::Route;
use crate::connector::Lookup;
use crate::expr::Expr;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// `a JOIN b ON …`: rows of the first input beside rows of the second.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Which rows leave.
    pub kind: JoinKind,
    /// Which rows meet.
    pub meeting: Meeting,
    /// What the first and the second input give.
    pub sides: [JoinSide; 2],
    /// What pairs must meet beyond equal keys.
    pub condition: Option<JoinCondition>,
    /// True if NULL equals NULL in the keys, as in INTERSECT and EXCEPT.
    pub nulls_equal: bool,
}

/// Which rows of two inputs meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Those of the same window, once it has closed.
    InWindows([WindowBounds; 2]),
    /// Those of one input with all rows of the other, a table that ends; they wait for its end.
    WithTable {
        /// Which input the table is. Its rows that are in no pair do not leave.
        table: usize,
    },
    /// Each row of the first input with the newest row of the second one, of those of its key, at its time.
    AsOf(AsOf),
    /// All that there are at the end of each epoch: both inputs are collections.
    Always,
}

/// Which row of the second input is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// The event-time columns of both inputs.
    pub times: [usize; 2],
    /// True if it must be before the first input's row, not at its time.
    pub before: bool,
    /// True if the rows of the second input are taken back: a key may come to have none.
    pub changes: bool,
}

/// Where an input's windows are: columns of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowBounds {
    /// The column with the start.
    pub start: usize,
    /// The column with the end.
    pub end: usize,
}

/// `a JOIN b FOR SYSTEM_TIME AS OF PROCTIME() ON …`: each row beside the rows that a table outside has for its key when it is asked.
#[derive(Clone)]
pub struct LookupStep {
    /// The table's name.
    pub table: String,
    /// What kind of connector it is, for people.
    pub connector: String,
    /// The checked definition.
    pub lookup: Arc<dyn Lookup>,
    /// Which rows leave: [`JoinKind::Inner`] or [`JoinKind::Left`].
    pub kind: JoinKind,
    /// The columns of the input by which it is asked, in the order of [`Lookup::key`] and of its types. A row with NULL in one has no partner.
    pub keys: Vec<usize>,
    /// The columns that leave: those of the input, then those of the table.
    pub output: [Vec<usize>; 2],
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
    /// The first input's rows, each once, with one column more: whether they are in a pair.
    Mark,
    /// The first input's rows as often as both inputs have them: the keys are all columns.
    Common,
    /// The first input's rows as often as it has them more often than the second: the keys are all columns.
    Excess,
}

/// One input of a join; columns are places in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinSide {
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
            JoinKind::Mark => "mark join",
            JoinKind::Common => "intersect all",
            JoinKind::Excess => "except all",
        }
    }

    /// True if pairs leave, not rows of the first input alone.
    pub fn gives_pairs(self) -> bool {
        matches!(self, JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full)
    }

    /// True if rows are told by how often they are there.
    pub fn counts(self) -> bool {
        matches!(self, JoinKind::Common | JoinKind::Excess)
    }

    /// True if rows of input `side` that are in no pair leave.
    pub fn gives_unmatched(self, side: usize) -> bool {
        match self {
            JoinKind::Inner | JoinKind::Semi | JoinKind::Common => false,
            JoinKind::Left | JoinKind::Anti | JoinKind::Mark | JoinKind::Excess => side == 0,
            JoinKind::Right => side == 1,
            JoinKind::Full => true,
        }
    }
}

impl Joining {
    /// How rows of input `side` find their partners' worker: by the keys, else by the window, else all go to one.
    pub fn route(&self, side: usize) -> Route {
        match (self.sides[side].keys.as_slice(), &self.meeting) {
            ([], Meeting::InWindows(windows)) => Route::Key(vec![windows[side].start, windows[side].end]),
            ([], Meeting::WithTable { .. } | Meeting::AsOf(_) | Meeting::Always) => Route::Single,
            (keys, _) => Route::Key(keys.to_vec()),
        }
    }
}
