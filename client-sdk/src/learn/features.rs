//! Features: standardised numbers and one-hot categories, from rows and the shared moments.

use quorate_protocols::model::{ModelState, Moment, MomentTable, TABLE_BITS};
use quorate_protocols::payload::MOMENT_BITS;
use quorate_protocols::workload::{ColumnKind, Schema, TrainSpec};

use super::LearnError;
use super::data::Dataset;

/// 2^[`TABLE_BITS`]: the unit of a moment table.
const TABLE_UNIT: f64 = (1u64 << TABLE_BITS) as f64;

/// 2^[`MOMENT_BITS`]: the unit of a moments payload.
const MOMENT_UNIT: f64 = (1u64 << MOMENT_BITS) as f64;

/// n rows of F features in compact form: a few dense values, and the positions of the ones.
#[derive(Clone)]
pub struct Design {
    /// Rows n.
    pub rows: usize,
    /// Features F.
    pub features: usize,
    /// Feature number of each dense value.
    pub dense_features: Vec<usize>,
    /// n x dense values, row by row.
    pub dense: Vec<f64>,
    /// Ones per row.
    pub ones_per_row: usize,
    /// n x ones, row by row: feature numbers.
    pub ones: Vec<usize>,
    /// n class numbers.
    pub labels: Vec<usize>,
}

/// One row of a design.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// Feature numbers of `dense`.
    pub dense_features: &'a [usize],
    /// Dense values.
    pub dense: &'a [f64],
    /// Features that are 1.
    pub ones: &'a [usize],
    /// Class number.
    pub label: usize,
}

impl Design {
    /// The features of `data` under the moments of `state`; a constant column is 0 throughout. With
    /// steps there are no moments: a number's feature is its u.
    ///
    /// # Errors
    /// [`LearnError::State`] when the moments are absent or of another schema.
    pub fn new(spec: &TrainSpec, state: &ModelState, data: &Dataset) -> Result<Self, LearnError> {
        if spec.steps.is_some() {
            let count = usize::try_from(spec.schema.numeric_columns()).unwrap_or(0);
            let columns = vec![Moment { mean: 0, std: 1 << TABLE_BITS }; count];
            return Self::with_moments(&spec.schema, &MomentTable { rows: 0, columns }, data);
        }
        let moments = state.moments.as_ref().ok_or(LearnError::State)?;
        Self::with_moments(&spec.schema, moments, data)
    }

    /// As [`Design::new`], for a moment table of its own.
    ///
    /// # Errors
    /// [`LearnError::State`] when the moments are of another schema.
    pub fn with_moments(
        schema: &Schema,
        moments: &MomentTable,
        data: &Dataset,
    ) -> Result<Self, LearnError> {
        let mut dense_features = Vec::new();
        let mut first_level = Vec::new();
        let mut features = 0;
        for column in &schema.columns {
            match &column.kind {
                ColumnKind::Numeric { .. } => {
                    dense_features.push(features);
                    features += 1;
                }
                ColumnKind::Category { levels } => {
                    first_level.push(features);
                    features += levels.len() + 1;
                }
            }
        }
        let (numeric, categories) = (dense_features.len(), first_level.len());
        let fits = moments.columns.len() == numeric
            && data.numeric.len() == numeric * data.rows
            && data.levels.len() == categories * data.rows
            && data.labels.len() == data.rows;
        if !fits {
            return Err(LearnError::State);
        }
        let mut dense = Vec::with_capacity(data.numeric.len());
        for row in data.numeric.chunks_exact(numeric.max(1)) {
            for (u, moment) in row.iter().zip(&moments.columns) {
                let (mean, std) = (moment.mean as f64 / TABLE_UNIT, moment.std as f64 / TABLE_UNIT);
                dense.push(if moment.std == 0 { 0.0 } else { (u - mean) / std });
            }
        }
        let mut ones = Vec::with_capacity(data.levels.len());
        for row in data.levels.chunks_exact(categories.max(1)) {
            ones.extend(row.iter().zip(&first_level).map(|(level, first)| first + *level as usize));
        }
        let labels = data.labels.iter().map(|label| *label as usize).collect();
        let rows = data.rows;
        Ok(Self { rows, features, dense_features, dense, ones_per_row: categories, ones, labels })
    }

    /// Row `index`, which must be below `rows`.
    #[must_use]
    pub fn row(&self, index: usize) -> Row<'_> {
        let (p, q) = (self.dense_features.len(), self.ones_per_row);
        Row {
            dense_features: &self.dense_features,
            dense: &self.dense[index * p..(index + 1) * p],
            ones: &self.ones[index * q..(index + 1) * q],
            label: self.labels[index],
        }
    }
}

impl Row<'_> {
    /// Weights `w` (F values, then the bias) times this row.
    #[must_use]
    pub fn dot(&self, w: &[f64]) -> f64 {
        let mut sum = w.last().copied().unwrap_or(0.0);
        for (feature, x) in self.dense_features.iter().zip(self.dense) {
            sum += w[*feature] * x;
        }
        for feature in self.ones {
            sum += w[*feature];
        }
        sum
    }

    /// Adds `scale` times this row, and `scale` for the bias, to `out`.
    pub fn add_to(&self, scale: f64, out: &mut [f64]) {
        for (feature, x) in self.dense_features.iter().zip(self.dense) {
            out[*feature] += scale * x;
        }
        for feature in self.ones {
            out[*feature] += scale;
        }
        if let Some(bias) = out.last_mut() {
            *bias += scale;
        }
    }
}

/// The body of a moments payload: for each numeric column the sum of q = round(u x 2^19), then for
/// each the sum of q^2.
#[must_use]
pub fn local_moments(schema: &Schema, data: &Dataset) -> Vec<i64> {
    let columns = usize::try_from(schema.numeric_columns()).unwrap_or(0);
    let mut body = vec![0i64; 2 * columns];
    let (firsts, seconds) = body.split_at_mut(columns);
    for row in data.numeric.chunks_exact(columns.max(1)) {
        for ((u, first), second) in row.iter().zip(firsts.iter_mut()).zip(seconds.iter_mut()) {
            #[expect(clippy::cast_possible_truncation, reason = "at most 2^19 in magnitude")]
            let q = (u * MOMENT_UNIT).round_ties_even() as i64;
            *first += q;
            *second += q * q;
        }
    }
    body
}

/// The names of the features, in order: `column`, or `column=level` with `column=(other)` last.
#[must_use]
pub fn feature_names(schema: &Schema) -> Vec<String> {
    let mut names = Vec::new();
    for column in &schema.columns {
        match &column.kind {
            ColumnKind::Numeric { .. } => names.push(column.name.clone()),
            ColumnKind::Category { levels } => {
                names.extend(levels.iter().map(|level| format!("{}={level}", column.name)));
                names.push(format!("{}=(other)", column.name));
            }
        }
    }
    names
}
