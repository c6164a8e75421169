//! Columns in bins, for models that look for the best split.

use super::features::Columns;

/// Bins of a column.
pub(super) const BINS: usize = 256;

/// A column in bins of about equal size over the training rows.
pub(super) struct Binned {
    /// The bin of each row.
    pub(super) bins: Vec<u8>,
}

impl Binned {
    pub(super) fn all(columns: &Columns, training: &[usize]) -> Vec<Self> {
        let column = |column| Self::new(&columns.column(column).collect::<Vec<_>>(), training);
        (0..columns.ranges.len()).map(column).collect()
    }

    fn new(values: &[i32], training: &[usize]) -> Self {
        let mut sorted: Vec<i32> = training.iter().map(|row| values[*row]).collect();
        sorted.sort_unstable();
        let mut edges: Vec<i32> =
            (1..BINS).filter_map(|i| sorted.get(i * sorted.len() / BINS).copied()).collect();
        // The tails are where anomalies are: cut them finer.
        for part in [500, 1000, 2000, 5000, 10_000, 20_000] {
            let step = sorted.len() / part;
            edges.extend(sorted.get(step));
            edges.extend(sorted.len().checked_sub(step + 1).and_then(|at| sorted.get(at)));
        }
        edges.sort_unstable();
        edges.dedup();
        while edges.len() >= BINS {
            let middle = edges.len() / 2;
            edges.remove(middle);
        }
        let bin = |value: &i32| u8::try_from(edges.partition_point(|edge| edge < value));
        Self { bins: values.iter().map(|value| bin(value).unwrap_or(u8::MAX)).collect() }
    }
}
