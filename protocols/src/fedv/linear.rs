//! The arithmetic of a vertical model, in fixed point: what each role computes on its own.
//!
//! Features and residuals are integers at scale 2^16, weights at scale 2^20. Scores (sums of feature
//! times weight) are exact integers at scale 2^36, products (sums of feature times residual) at 2^32;
//! nothing is rounded before a sum. So training over columns at many parties equals training over
//! the joined rows to the bit.

use core::fmt;

use quorate_crypto::dp::account::sigma_for_zcdp;
use quorate_crypto::dp::{DiscreteGaussian, DpError, Ratio};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::workload::{LabelPrivacy, TargetKind, VerticalModel, VerticalSpec};

/// Fractional bits of features.
pub const FEATURE_BITS: u32 = 16;
/// Fractional bits of weights.
pub const WEIGHT_BITS: u32 = 20;
/// Fractional bits of residuals.
pub const RESIDUAL_BITS: u32 = 16;
/// Bound on the magnitude of a feature.
pub const FEATURE_CLIP: f64 = 8.0;
/// Bound on the magnitude of a weight.
pub const WEIGHT_CLIP: f64 = 64.0;
/// Bound on the magnitude of a residual, before its noise and with it.
pub const RESIDUAL_CLIP: f64 = 256.0;
/// Bound on the magnitude of a standardised target.
pub const TARGET_CLIP: f64 = 4.0;
/// Bound on the magnitude of an initial weight.
const INITIAL: f64 = 0.0625;

const FEATURE_ONE: f64 = (1u64 << FEATURE_BITS) as f64;
const WEIGHT_ONE: f64 = (1u64 << WEIGHT_BITS) as f64;
const RESIDUAL_ONE: f64 = (1u64 << RESIDUAL_BITS) as f64;
const SCORE_ONE: f64 = FEATURE_ONE * WEIGHT_ONE;
const PRODUCT_ONE: f64 = FEATURE_ONE * RESIDUAL_ONE;

/// A real number at scale `one`, clamped to `clip`, rounded half to even.
fn fixed(value: f64, one: f64, clip: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped to far below 2^53")]
    ((value.clamp(-clip, clip) * one).round_ties_even() as i64)
}

/// One party's features of all its aligned rows, row after row.
#[derive(Clone, PartialEq, Eq)]
pub struct Features {
    columns: usize,
    values: Vec<i32>,
}

/// Sizes, not values.
impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({} x {})", self.rows(), self.columns)
    }
}

impl Drop for Features {
    fn drop(&mut self) {
        self.values.zeroize();
    }
}

impl Features {
    /// Rows of real features; each is clamped to ±[`FEATURE_CLIP`] and rounded once.
    #[must_use]
    pub fn new(columns: usize, values: impl Iterator<Item = f64>) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^19")]
        let values = values.map(|x| fixed(x, FEATURE_ONE, FEATURE_CLIP) as i32).collect();
        Self { columns, values }
    }

    /// f, columns.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    /// The features of one row; empty past the last.
    #[must_use]
    pub fn row(&self, row: u32) -> &[i32] {
        let start = (row as usize).saturating_mul(self.columns);
        self.values.get(start..start.saturating_add(self.columns)).unwrap_or(&[])
    }

    /// The same features of some rows, in their order.
    #[must_use]
    pub fn select(&self, rows: &[u32]) -> Self {
        let values = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        Self { columns: self.columns, values }
    }

    /// The chosen `columns` of `rows` as little-endian words, one column after the other, appended to
    /// `out`.
    pub fn write_columns(&self, columns: &[usize], rows: &[u32], out: &mut Vec<u8>) {
        for column in columns {
            for row in rows {
                let value = self.row(*row).get(*column).copied().unwrap_or(0);
                out.extend_from_slice(&i64::from(value).to_le_bytes());
            }
        }
    }
}

/// One party's weights, feature after feature with one per output, and what its steps remember.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    outputs: usize,
    fixed: Vec<i64>,
    velocity: Vec<f64>,
    bias: Vec<i64>,
    bias_velocity: Vec<f64>,
}

impl Zeroize for Weights {
    fn zeroize(&mut self) {
        self.fixed.zeroize();
        self.velocity.zeroize();
        self.bias.zeroize();
        self.bias_velocity.zeroize();
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl Weights {
    /// Random weights from a party's own secret; biases, at the label holder only, start at zero.
    ///
    /// # Security
    /// At weights of zero the first residuals are the labels: a party could solve for them.
    #[must_use]
    pub fn initial(seed: &Secret<[u8; 32]>, columns: usize, outputs: usize, bias: bool) -> Self {
        let mut rng = ChaCha20Rng::from_seed(*seed.expose());
        let count = columns.saturating_mul(outputs);
        let unit = || f64::from(rng.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
        let fixed: Vec<i64> = core::iter::repeat_with(unit)
            .take(count)
            .map(|x| fixed(x * INITIAL, WEIGHT_ONE, WEIGHT_CLIP))
            .collect();
        let biases = if bias { outputs } else { 0 };
        Self {
            outputs,
            fixed,
            velocity: vec![0.0; count],
            bias: vec![0; biases],
            bias_velocity: vec![0.0; biases],
        }
    }

    /// The weights at scale 2^20, feature after feature.
    #[must_use]
    pub fn fixed(&self) -> &[i64] {
        &self.fixed
    }

    /// The biases at scale 2^20; none at passive parties.
    #[must_use]
    pub fn bias(&self) -> &[i64] {
        &self.bias
    }

    /// C, outputs.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// The features that still take part: with feature selection, those that have a weight.
    #[must_use]
    pub fn kept(&self, spec: &VerticalSpec) -> Vec<usize> {
        let features = self.fixed.chunks(self.outputs.max(1)).enumerate();
        features
            .filter(|(_, own)| spec.selection == 0.0 || own.iter().any(|weight| *weight != 0))
            .map(|(feature, _)| feature)
            .collect()
    }

    /// Name of these weights, biases included.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let bytes = |words: &[i64]| -> Zeroizing<Vec<u8>> {
            Zeroizing::new(words.iter().flat_map(|word| word.to_le_bytes()).collect())
        };
        hash_parts("quorate/vertical-weights/1", &[&bytes(&self.fixed), &bytes(&self.bias)])
    }

    /// Scores of `rows` at scale 2^36, one output after the other: exact.
    #[must_use]
    pub fn scores(&self, features: &Features, rows: &[u32]) -> Zeroizing<Vec<i64>> {
        let mut scores =
            Zeroizing::new(Vec::with_capacity(rows.len().saturating_mul(self.outputs)));
        for output in 0..self.outputs {
            let bias = self.bias.get(output).map_or(0, |bias| bias << FEATURE_BITS);
            let own: Vec<i64> =
                self.fixed.iter().skip(output).step_by(self.outputs).copied().collect();
            scores.extend(rows.iter().map(|row| {
                let row = features.row(*row);
                row.iter().zip(&own).fold(bias, |sum, (x, w)| sum + i64::from(*x) * w)
            }));
        }
        scores
    }

    /// One step along the gradient of the mean loss over `rows` rows, whose products at scale 2^32
    /// are `products`, feature after feature with one per output; `residuals`, one output after the
    /// other, move the biases.
    pub fn step(&mut self, spec: &VerticalSpec, rows: usize, products: &[i64], residuals: &[i64]) {
        let outputs = self.outputs.max(1);
        let kept = self.kept(spec);
        let own = |feature: &usize| {
            let start = feature.saturating_mul(outputs);
            products.get(start..start.saturating_add(outputs)).unwrap_or(&[]).iter().copied()
        };
        let of_kept = Zeroizing::new(kept.iter().flat_map(own).collect::<Vec<i64>>());
        self.step_columns(spec, rows, &kept, &of_kept);
        let scale = 1.0 / (rows.max(1) as f64);
        let sums = residuals.chunks(rows.max(1)).map(|own| own.iter().sum::<i64>());
        for ((b, v), sum) in self.bias.iter_mut().zip(&mut self.bias_velocity).zip(sums) {
            *v = spec.momentum * *v + sum as f64 / RESIDUAL_ONE * scale;
            let bias = *b as f64 / WEIGHT_ONE - spec.learning_rate * *v;
            *b = fixed(bias, WEIGHT_ONE, WEIGHT_CLIP);
        }
    }

    /// The same for some features, whose products `products` are; the others stay as they are: they
    /// were dropped.
    pub fn step_columns(
        &mut self,
        spec: &VerticalSpec,
        rows: usize,
        columns: &[usize],
        products: &[i64],
    ) {
        let scale = 1.0 / (rows.max(1) as f64);
        let outputs = self.outputs.max(1);
        for (column, products) in columns.iter().zip(products.chunks(outputs)) {
            let own =
                column.saturating_mul(outputs)..column.saturating_add(1).saturating_mul(outputs);
            let (Some(w), Some(v)) = (self.fixed.get_mut(own.clone()), self.velocity.get_mut(own))
            else {
                continue;
            };
            for ((w, v), product) in w.iter_mut().zip(v.iter_mut()).zip(products) {
                let weight = *w as f64 / WEIGHT_ONE;
                *v = spec.momentum * *v + *product as f64 / PRODUCT_ONE * scale + spec.l2 * weight;
                *w = fixed(weight - spec.learning_rate * *v, WEIGHT_ONE, WEIGHT_CLIP);
            }
            if spec.selection > 0.0 {
                shrink(w, v, spec.learning_rate * spec.selection);
            }
        }
    }
}

/// The proximal step of the group lasso: a feature's weights shrink by `amount` in norm; if they are
/// shorter they become zero, and the feature is dropped.
///
/// Source: Castiglia et al., *LESS-VFL* (ICML 2023), the linear case, in which the groups are the
/// features themselves.
fn shrink(w: &mut [i64], v: &mut [f64], amount: f64) {
    let norm = w.iter().map(|w| *w as f64 * *w as f64).sum::<f64>().sqrt() / WEIGHT_ONE;
    let keep = if norm > amount { 1.0 - amount / norm } else { 0.0 };
    for w in w.iter_mut() {
        *w = fixed(*w as f64 / WEIGHT_ONE * keep, WEIGHT_ONE, WEIGHT_CLIP);
    }
    if keep == 0.0 {
        v.fill(0.0);
    }
}

/// The label holder's targets: per row a class number, or a standardised number at scale 2^16.
#[derive(Clone, PartialEq, Eq)]
pub enum Targets {
    /// Numbers.
    Real(Vec<i64>),
    /// Class numbers.
    Classes(Vec<u32>),
}

/// The number of rows, not their targets.
impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = match self {
            Self::Real(values) => values.len(),
            Self::Classes(classes) => classes.len(),
        };
        write!(f, "Targets({rows})")
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        match self {
            Self::Real(values) => values.zeroize(),
            Self::Classes(classes) => classes.zeroize(),
        }
    }
}

impl Targets {
    /// Numbers that are standardised already; each is clamped to ±[`TARGET_CLIP`].
    #[must_use]
    pub fn real(values: impl Iterator<Item = f64>) -> Self {
        Self::Real(values.map(|y| fixed(y, RESIDUAL_ONE, TARGET_CLIP)).collect())
    }

    /// The same targets of some rows, in their order; past the last row 0.
    #[must_use]
    pub fn select(&self, rows: &[u32]) -> Self {
        fn of<T: Copy + Default>(all: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|row| all.get(*row as usize).copied().unwrap_or_default()).collect()
        }
        match self {
            Self::Real(values) => Self::Real(of(values, rows)),
            Self::Classes(classes) => Self::Classes(of(classes, rows)),
        }
    }

    /// 1 or 0 for the class of an output, or the number, as a real; `None` past the last row.
    fn of(&self, row: u32, output: usize, outputs: usize) -> Option<f64> {
        match self {
            Self::Real(values) => Some(*values.get(row as usize)? as f64 / RESIDUAL_ONE),
            Self::Classes(classes) => {
                let class = *classes.get(row as usize)? as usize;
                let wanted = if outputs == 1 { 1 } else { output };
                Some(f64::from(u8::from(class == wanted)))
            }
        }
    }
}

/// Turns a row's scores, one per output, into the probabilities that the model has.
fn link(model: VerticalModel, scores: &mut [f64]) {
    match model {
        VerticalModel::Linear | VerticalModel::Svm => {}
        VerticalModel::Logistic { .. } => {
            scores.iter_mut().for_each(|score| *score = 1.0 / (1.0 + libm::exp(-*score)));
        }
        VerticalModel::Softmax => {
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            scores.iter_mut().for_each(|score| *score = libm::exp(*score - most));
            let sum: f64 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
        }
    }
}

/// Probabilities, or decision values where the model has none, from a row's scores at scale 2^36.
#[must_use]
pub fn decisions(model: VerticalModel, scores: &[i64]) -> Vec<f64> {
    let mut values: Vec<f64> = scores.iter().map(|score| *score as f64 / SCORE_ONE).collect();
    link(model, &mut values);
    values
}

/// Turns a row's scores into the derivatives of its loss by them, without noise.
///
/// Least squares on classes fits 1 and -1, so that the sign of a score names the class.
fn row_residuals(spec: &VerticalSpec, targets: &Targets, row: u32, scores: &mut [f64]) {
    let outputs = scores.len();
    let signed = matches!(
        (spec.model, &spec.target_kind),
        (VerticalModel::Linear | VerticalModel::Svm, TargetKind::Classes(_))
    );
    let taylor = matches!(spec.model, VerticalModel::Logistic { taylor: true });
    if !taylor {
        link(spec.model, scores);
    }
    for (output, value) in scores.iter_mut().enumerate() {
        let target = targets.of(row, output, outputs).unwrap_or(0.0);
        let target = if signed { 2.0 * target - 1.0 } else { target };
        *value = match spec.model {
            VerticalModel::Svm if target * *value < 1.0 => -target,
            VerticalModel::Svm => 0.0,
            _ if taylor => *value / 4.0 + 0.5 - target,
            _ => *value - target,
        };
    }
}

/// How far the residuals of one batch move, in L2 norm at scale 2^16, when one label changes.
#[must_use]
pub fn label_sensitivity(spec: &VerticalSpec) -> f64 {
    let one = match (&spec.target_kind, spec.model) {
        (TargetKind::Real { .. }, _) => 2.0 * TARGET_CLIP,
        (_, VerticalModel::Svm | VerticalModel::Linear) => 2.0,
        _ => 1.0,
    };
    // Another class moves two outputs; each moves by a unit more for its rounding.
    let moved: f64 = if spec.outputs() == 1 { 1.0 } else { 2.0 };
    (one * RESIDUAL_ONE + 1.0) * moved.sqrt()
}

/// Standard deviation of the label noise at scale 2^16, if the job has any: each label is in one
/// batch per epoch.
#[must_use]
pub fn label_sigma(spec: &VerticalSpec) -> Option<f64> {
    match spec.labels {
        LabelPrivacy::Visible => None,
        LabelPrivacy::Noise { epsilon, delta } => {
            let multiplier = sigma_for_zcdp(epsilon, u64::from(spec.epochs), delta);
            Some(label_sensitivity(spec) * multiplier)
        }
    }
}

/// The residuals of a batch at scale 2^16, one output after the other: computed from the summed
/// `scores`, rounded, and then given their noise from `seed`, which serves this batch alone.
///
/// # Errors
/// [`DpError`] when no sampler has this deviation.
pub fn residuals(
    spec: &VerticalSpec,
    targets: &Targets,
    rows: &[u32],
    scores: &[i64],
    seed: &Secret<[u8; 32]>,
) -> Result<Zeroizing<Vec<i64>>, DpError> {
    let outputs = spec.outputs();
    let mut values = Zeroizing::new(Vec::with_capacity(scores.len()));
    values.resize(scores.len(), 0);
    let mut own = Zeroizing::new(vec![0.0; outputs]);
    for (at, row) in rows.iter().enumerate() {
        let of_row = scores.iter().skip(at).step_by(rows.len().max(1));
        own.iter_mut().zip(of_row).for_each(|(own, score)| *own = *score as f64 / SCORE_ONE);
        row_residuals(spec, targets, *row, &mut own);
        let values = values.iter_mut().skip(at).step_by(rows.len().max(1));
        values.zip(own.iter()).for_each(|(value, own)| {
            *value = fixed(*own, RESIDUAL_ONE, RESIDUAL_CLIP);
        });
    }
    if let Some(sigma) = label_sigma(spec) {
        let sampler = DiscreteGaussian::new(Ratio::above(sigma * sigma, 0)?)?;
        let mut rng = ChaCha20Rng::from_seed(*seed.expose());
        sampler.add_to(&mut rng, &mut values);
        let bound = fixed(RESIDUAL_CLIP, RESIDUAL_ONE, RESIDUAL_CLIP);
        values.iter_mut().for_each(|value| *value = (*value).clamp(-bound, bound));
    }
    Ok(values)
}

/// Products of own features and residuals at scale 2^32, feature after feature with one per output.
#[must_use]
pub fn own_products(features: &Features, rows: &[u32], residuals: &[i64]) -> Zeroizing<Vec<i64>> {
    let outputs = residuals.len().checked_div(rows.len()).unwrap_or(0);
    let mut sums = Zeroizing::new(vec![0i64; features.columns().saturating_mul(outputs)]);
    for (output, own) in residuals.chunks(rows.len().max(1)).enumerate() {
        for (row, residual) in rows.iter().zip(own) {
            let sums = sums.iter_mut().skip(output).step_by(outputs.max(1));
            for (sum, x) in sums.zip(features.row(*row)) {
                *sum += i64::from(*x) * residual;
            }
        }
    }
    sums
}

/// The batches of an epoch: all of `rows` in an order drawn from `seed`, `batch` at a time; what is
/// left over sits this epoch out.
///
/// The order is a Fisher-Yates shuffle with unbiased draws.
#[must_use]
pub fn batches(rows: &[u32], batch: usize, seed: &Secret<[u8; 32]>) -> Vec<Vec<u32>> {
    let mut order = rows.to_vec();
    let mut rng = ChaCha20Rng::from_seed(*seed.expose());
    for last in (1..order.len()).rev() {
        order.swap(last, below(&mut rng, last.saturating_add(1) as u64));
    }
    order.chunks_exact(batch.max(1)).map(<[u32]>::to_vec).collect()
}

/// A number below `bound`, each equally likely: Lemire's multiplication with rejection.
fn below(rng: &mut ChaCha20Rng, bound: u64) -> usize {
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(bound);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a product")]
        let (high, low) = ((product >> 64) as usize, product as u64);
        if low >= bound.wrapping_neg().checked_rem(bound).unwrap_or(0) {
            return high;
        }
    }
}
