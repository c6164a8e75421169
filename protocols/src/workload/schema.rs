//! The columns of a table.

use serde::{Deserialize, Serialize};

use super::{MAX_COLUMNS, MAX_LEVELS, WorkloadError, distinct, real, within};

/// The columns of a table, in the order of the features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Feature columns, found by name in a party's file.
    pub columns: Vec<Column>,
    /// Name of the target column.
    pub target: String,
    /// Values of the target; with two, the second is the positive class.
    pub classes: Vec<String>,
}

/// One feature column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in the header.
    pub name: String,
    /// How its values become features.
    pub kind: ColumnKind,
}

/// How a column's values become features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// A number x, used as u = (x - offset) / 2^scale_log2 clipped to [-1, 1] and standardised by
    /// the shared moments of u: one feature.
    ///
    /// The declared range is what lets money amounts and fractions share one ring; it should reach
    /// a few hundred standard deviations at most.
    Numeric {
        /// Centre of the declared range.
        offset: f64,
        /// Half width of the declared range, as a power of two.
        scale_log2: i16,
    },
    /// One of these texts, or "other": one feature per level and one for "other", 0 or 1.
    Category {
        /// The known levels.
        levels: Vec<String>,
    },
}

impl Schema {
    /// Features F: one per numeric column, levels + 1 per category.
    #[must_use]
    pub fn features(&self) -> u64 {
        Self::features_of(&self.columns)
    }

    /// Features of some columns.
    #[must_use]
    pub fn features_of(columns: &[Column]) -> u64 {
        columns
            .iter()
            .map(|column| match &column.kind {
                ColumnKind::Numeric { .. } => 1,
                ColumnKind::Category { levels } => levels.len() as u64 + 1,
            })
            .sum()
    }

    /// Number of numeric columns.
    #[must_use]
    pub fn numeric_columns(&self) -> u64 {
        self.columns.iter().filter(|c| matches!(c.kind, ColumnKind::Numeric { .. })).count() as u64
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        within("columns", self.columns.len() as u64, 1, MAX_COLUMNS as u64)?;
        within("classes", self.classes.len() as u64, 2, MAX_LEVELS as u64)?;
        let names = self.columns.iter().map(|column| &column.name).chain([&self.target]);
        distinct("column", names)?;
        distinct("class", self.classes.iter())?;
        if self.target.is_empty() || self.columns.iter().any(|column| column.name.is_empty()) {
            return Err(WorkloadError::Name("column"));
        }
        Self::check_columns(&self.columns)
    }

    /// Refuses columns without a name, with one name twice, or with a range or levels out of bounds.
    pub(super) fn check_columns(columns: &[Column]) -> Result<(), WorkloadError> {
        distinct("column", columns.iter().map(|column| &column.name))?;
        if columns.iter().any(|column| column.name.is_empty()) {
            return Err(WorkloadError::Name("column"));
        }
        for column in columns {
            match &column.kind {
                ColumnKind::Numeric { offset, scale_log2 } => {
                    real("offset", *offset, f64::MIN, f64::MAX)?;
                    if !(-900..=900).contains(scale_log2) {
                        return Err(WorkloadError::Real("scale_log2"));
                    }
                }
                ColumnKind::Category { levels } => {
                    within("levels", levels.len() as u64, 1, MAX_LEVELS as u64)?;
                    distinct("level", levels.iter())?;
                }
            }
        }
        Ok(())
    }
}
