//! Models of counts: what a party counts, and the class they give to a row.

use quorate_protocols::model::{ModelState, Progress, Tree};
use quorate_protocols::workload::{BayesSpec, ColumnKind, TableSpec, TreeSpec};

use super::LearnError;
use super::data::Dataset;

/// n rows x columns: the value of each column in schema order, a number as its bin.
pub struct Values {
    columns: usize,
    values: Vec<u32>,
}

impl Values {
    /// The rows of `data` as `spec` cuts them.
    ///
    /// # Errors
    /// [`LearnError::State`] when the rows are of another schema.
    pub fn new(spec: &TableSpec, data: &Dataset) -> Result<Self, LearnError> {
        let columns = spec.schema.columns.len();
        let numeric = usize::try_from(spec.schema.numeric_columns()).unwrap_or(usize::MAX);
        let expected = (numeric * data.rows, (columns - numeric) * data.rows, data.rows);
        if expected != (data.numeric.len(), data.levels.len(), data.labels.len()) {
            return Err(LearnError::State);
        }
        let (mut numbers, mut levels) = (data.numeric.iter(), data.levels.iter());
        let mut values = Vec::with_capacity(columns * data.rows);
        for _ in 0..data.rows {
            for column in &spec.schema.columns {
                let value = match column.kind {
                    ColumnKind::Numeric { .. } => numbers.next().map(|u| bin(*u, spec.bins)),
                    ColumnKind::Category { .. } => levels.next().copied(),
                };
                values.push(value.ok_or(LearnError::State)?);
            }
        }
        Ok(Self { columns, values })
    }

    /// The rows' values.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.values.chunks_exact(self.columns)
    }
}

/// The bin of u in [-1, 1].
fn bin(u: f64, bins: u32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 and the number of bins, and a float cast saturates"
    )]
    let bin = ((u + 1.0) / 2.0 * f64::from(bins)) as u32;
    bin.min(bins - 1)
}

/// Adds one row to the counts of a node: one cell per column of `columns`.
fn count(
    spec: &TableSpec,
    values: &[u32],
    label: u32,
    used: &[u32],
    cells: &mut [i64],
) -> Result<(), LearnError> {
    let classes = spec.schema.classes.len();
    let mut start = 0;
    for ((column, width), value) in (0u32..).zip(spec.widths()).zip(values) {
        if !used.contains(&column) {
            let cell = (start + *value as usize) * classes + label as usize;
            *cells.get_mut(cell).ok_or(LearnError::State)? += 1;
        }
        start += usize::try_from(width).unwrap_or(usize::MAX);
    }
    Ok(())
}

fn cells(count: u64) -> Vec<i64> {
    vec![0; usize::try_from(count).unwrap_or(usize::MAX)]
}

/// The counts of a tree's frontier.
///
/// # Errors
/// [`LearnError::State`] when `state` or `data` is of another workload.
pub fn tree_counts(
    spec: &TreeSpec,
    state: &ModelState,
    data: &Dataset,
    round: u32,
) -> Result<Vec<i64>, LearnError> {
    let tree = tree(state)?;
    let mut body = cells(spec.cells(round));
    let size = usize::try_from(spec.table.cells()).unwrap_or(usize::MAX);
    let mut place = vec![None; tree.nodes.len()];
    for (position, node) in tree.frontier.iter().enumerate() {
        *place.get_mut(*node as usize).ok_or(LearnError::State)? = Some(position);
    }
    let values = Values::new(&spec.table, data)?;
    for (row, label) in values.rows().zip(&data.labels) {
        let leaf = tree.leaf(row);
        let Some(Some(position)) = place.get(leaf) else { continue };
        let used = tree.nodes.get(leaf).map_or(&[][..], |node| &node.used);
        let own = body.get_mut(position * size..).ok_or(LearnError::State)?;
        count(&spec.table, row, *label, used, own)?;
    }
    Ok(body)
}

/// The counts of naive Bayes.
///
/// # Errors
/// [`LearnError::State`] when `data` is of another schema.
pub fn bayes_counts(spec: &BayesSpec, data: &Dataset) -> Result<Vec<i64>, LearnError> {
    let mut body = cells(spec.table.cells());
    let values = Values::new(&spec.table, data)?;
    for (row, label) in values.rows().zip(&data.labels) {
        count(&spec.table, row, *label, &[], &mut body)?;
    }
    Ok(body)
}

/// The tree of a state.
///
/// # Errors
/// [`LearnError::State`] when it has none.
pub fn tree(state: &ModelState) -> Result<&Tree, LearnError> {
    match &state.progress {
        Progress::Tree(tree) => Ok(tree),
        _ => Err(LearnError::State),
    }
}

/// Naive Bayes, ready to classify: logarithms of smoothed shares.
pub struct Bayes {
    /// Per class.
    prior: Vec<f64>,
    /// Per column, value and class.
    cells: Vec<f64>,
    /// First value of each column.
    starts: Vec<usize>,
}

impl Bayes {
    /// From the opened counts of `state`; negative ones, which noise makes, count as 0.
    ///
    /// # Errors
    /// [`LearnError::State`] when the state has none.
    pub fn new(spec: &BayesSpec, state: &ModelState) -> Result<Self, LearnError> {
        let classes = spec.table.schema.classes.len();
        if state.params.len() as u64 != spec.table.cells() {
            return Err(LearnError::State);
        }
        let smoothing = f64::from(spec.smoothing);
        let smooth = |count: &i64| (*count).max(0) as f64 + smoothing;
        let mut prior = vec![0.0; classes];
        let (mut cells, mut starts, mut start) = (Vec::new(), Vec::new(), 0);
        for width in spec.table.widths() {
            let width = usize::try_from(width).unwrap_or(0);
            starts.push(start);
            let own = state.params.get(start * classes..(start + width) * classes);
            let own = own.ok_or(LearnError::State)?;
            start += width;
            let mut totals = vec![0.0; classes];
            for counts in own.chunks_exact(classes) {
                for ((count, total), prior) in counts.iter().zip(&mut totals).zip(&mut prior) {
                    *total += smooth(count);
                    *prior += (*count).max(0) as f64;
                }
            }
            for counts in own.chunks_exact(classes) {
                let share = |(count, total): (&i64, &f64)| {
                    // 0 of 0 rows says nothing about any class.
                    if *total > 0.0 { libm::log(smooth(count) / total) } else { 0.0 }
                };
                cells.extend(counts.iter().zip(&totals).map(share));
            }
        }
        let prior = prior.iter().map(|rows| libm::log(rows.max(1.0))).collect();
        Ok(Self { prior, cells, starts })
    }

    /// The most probable class; of equal ones the first.
    #[must_use]
    pub fn class(&self, values: &[u32]) -> u32 {
        let classes = self.prior.len();
        let mut scores = self.prior.clone();
        for (start, value) in self.starts.iter().zip(values) {
            let cell = (start + *value as usize) * classes;
            let logs = self.cells.get(cell..cell + classes).unwrap_or(&[]);
            scores.iter_mut().zip(logs).for_each(|(score, log)| *score += log);
        }
        strongest(&scores)
    }
}

/// Position of the largest value; of equal ones the first.
pub(super) fn strongest(scores: &[f64]) -> u32 {
    let mut best = (0, f64::NEG_INFINITY);
    for (class, score) in (0u32..).zip(scores) {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    best.0
}
