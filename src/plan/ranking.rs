//! The first rows of each key, in each window or of all.

use arrow::compute::SortOptions;

/// `ROW_NUMBER() OVER (PARTITION BY window_start, window_end, key, … ORDER BY …)`: the rows of each key in each window, numbered from 1.
///
/// The columns are places in the input, which the rows keep; their number is one column more. Rows that are alike in `order` are told
/// apart by all their columns, so that the answer is a function of the set of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// The column with the window's start.
    pub start: usize,
    /// The column with the window's end.
    pub end: usize,
    /// The other columns of PARTITION BY.
    pub keys: Vec<usize>,
    /// What comes first.
    pub order: Vec<SortColumn>,
    /// How many rows of a key are kept. None: all.
    pub limit: Option<usize>,
}

/// The first rows of each key, of rows that are not taken back: what is not among them once never is.
///
/// The columns are places in the input, which the rows keep. Rows that are alike in `order` are told apart by all their columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topping {
    /// The columns of the key. Without any all rows are of one key.
    pub keys: Vec<usize>,
    /// What comes first.
    pub order: Vec<SortColumn>,
    /// How many rows of a key are left out.
    pub skip: usize,
    /// How many leave.
    pub limit: usize,
    /// True if the rows get their number, from 1, as one column more.
    pub numbered: bool,
}

impl Topping {
    /// How many rows of a key are kept.
    pub fn kept(&self) -> usize {
        self.skip.saturating_add(self.limit)
    }
}

/// A column of ORDER BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SortColumn {
    /// Its place.
    pub column: usize,
    /// The greatest first.
    pub descending: bool,
    /// NULL before everything else.
    pub nulls_first: bool,
}

/// By what rows of `width` columns compare that come in `order`: its columns, and then all others but those of `key`.
pub fn compared(order: &[SortColumn], width: usize, key: &[usize]) -> Vec<(usize, SortOptions)> {
    let asked = order
        .iter()
        .map(|sort| (sort.column, SortOptions { descending: sort.descending, nulls_first: sort.nulls_first }));
    let mut compared: Vec<(usize, SortOptions)> = Vec::new();
    for (column, options) in asked.chain((0..width).map(|column| (column, SortOptions::default()))) {
        if !key.contains(&column) && compared.iter().all(|(there, _)| *there != column) {
            compared.push((column, options));
        }
    }
    compared
}

impl Ranking {
    /// The columns that the exchange goes by: the keys, or the window if there are none.
    pub fn route(&self) -> Vec<usize> {
        if self.keys.is_empty() { vec![self.start, self.end] } else { self.keys.clone() }
    }
}
