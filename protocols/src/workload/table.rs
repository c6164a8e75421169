//! Models of counts: decision trees and naive Bayes.
//!
//! Both see a table's columns as categories: a numeric column is cut into equal bins of its declared
//! range, so nothing about the data is needed to number the cells.

use serde::{Deserialize, Serialize};

use super::{ColumnKind, MAX_DIM, MAX_ROWS, Schema, WorkloadError, within};

/// Most bins of a numeric column.
pub const MAX_BINS: u32 = 256;
/// Most levels of a tree.
pub const MAX_DEPTH: u32 = 32;
/// Most nodes of one level of a tree.
pub const MAX_FRONTIER: u32 = 1 << 20;

/// A table whose columns are all read as categories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSpec {
    /// The columns every party must have.
    pub schema: Schema,
    /// Equal bins of a numeric column's declared range.
    pub bins: u32,
    /// Bound on the rows of one party, at most 2^40.
    pub max_rows: u64,
}

/// An ID3 decision tree.
///
/// Round l opens the counts of level l: for each node that may still be split, in the order of the
/// state's frontier, for each column, each value and each class, the rows. Nodes beyond the
/// frontier's length and columns that the path used are 0 from every party.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeSpec {
    /// Columns and bins.
    pub table: TableSpec,
    /// Levels of splits, one round each; at most the number of columns.
    pub depth: u32,
    /// Most nodes of one level: those with most rows are kept.
    pub max_frontier: u32,
    /// A node with fewer rows, as far as the counts tell, is a leaf, and so is a pure one.
    pub min_rows: u32,
    /// Counts up to this are read as 0 when splits are compared: they are noise for the most part.
    pub ignored: u32,
}

/// Naive Bayes: for each column, each value and each class, the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BayesSpec {
    /// Columns and bins.
    pub table: TableSpec,
    /// Rows added to every cell before its logarithm is taken.
    pub smoothing: u32,
}

impl TableSpec {
    /// Values of each column: bins, or levels and "other".
    pub fn widths(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.schema.columns.iter().map(|column| match &column.kind {
            ColumnKind::Numeric { .. } => u64::from(self.bins),
            ColumnKind::Category { levels } => levels.len() as u64 + 1,
        })
    }

    /// Cells of the counts of one node: values of all columns times classes.
    #[must_use]
    pub fn cells(&self) -> u64 {
        let values: u64 = self.widths().sum();
        values.saturating_mul(self.schema.classes.len() as u64)
    }

    fn check(&self) -> Result<(), WorkloadError> {
        self.schema.check()?;
        within("bins", u64::from(self.bins), 2, u64::from(MAX_BINS))?;
        within("max_rows", self.max_rows, 1, MAX_ROWS)?;
        within("cells", self.cells(), 1, MAX_DIM)
    }
}

impl TreeSpec {
    /// The settings that were found to suit ten thousand rows at an epsilon of 0.5.
    #[must_use]
    pub fn default_for(schema: Schema) -> Self {
        let depth = u32::try_from(schema.columns.len()).unwrap_or(u32::MAX).min(3);
        let table = TableSpec { schema, bins: 8, max_rows: 10_000 };
        Self { table, depth, max_frontier: 64, min_rows: 200, ignored: 0 }
    }

    /// Nodes whose counts round `round` opens.
    #[must_use]
    pub fn nodes(&self, round: u32) -> u64 {
        let mut widths: Vec<u64> = self.table.widths().collect();
        widths.sort_unstable_by(|a, b| b.cmp(a));
        let most = u64::from(self.max_frontier);
        widths
            .iter()
            .take(usize::try_from(round).unwrap_or(usize::MAX))
            .fold(1, |nodes: u64, width| nodes.saturating_mul(*width).min(most))
    }

    /// Cells of round `round`.
    #[must_use]
    pub fn cells(&self, round: u32) -> u64 {
        self.nodes(round).saturating_mul(self.table.cells())
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        self.table.check()?;
        let columns = self.table.schema.columns.len() as u64;
        within("depth", u64::from(self.depth), 1, columns.min(u64::from(MAX_DEPTH)))?;
        within("max_frontier", u64::from(self.max_frontier), 1, u64::from(MAX_FRONTIER))?;
        within("cells", self.cells(self.depth - 1), 1, MAX_DIM)
    }
}

impl BayesSpec {
    /// Eight bins, and one row more in every cell.
    #[must_use]
    pub const fn default_for(schema: Schema) -> Self {
        Self { table: TableSpec { schema, bins: 8, max_rows: 10_000 }, smoothing: 1 }
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        self.table.check()
    }
}
