//! Models in floating point: scores, loss and gradient of one row.

use quorate_crypto::fixed::FixedPoint;
use quorate_protocols::model::ModelState;
use quorate_protocols::workload::{ModelSpec, TrainSpec};

use super::LearnError;
use super::features::Row;

/// The shape of a model; parameters are laid out as [`ModelSpec`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Net {
    /// Features F.
    pub features: usize,
    /// Outputs C: 1 for two classes, otherwise one per class.
    pub outputs: usize,
    /// Units of the hidden layer; 0 for none.
    pub hidden: usize,
    /// Weight of |w|^2 / 2 beside the mean loss; biases are free.
    pub l2: f64,
    /// What a row's scores are judged by.
    pub loss: Loss,
}

/// What a row's scores are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Log-loss of the class probabilities.
    Log,
    /// Hinge loss of the margins, one class against the rest.
    Hinge,
}

/// Working memory for one row.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// Hidden activations.
    hidden: Vec<f64>,
    /// Derivative of the loss by the hidden activations.
    back: Vec<f64>,
    /// Scores, then probabilities minus targets.
    outputs: Vec<f64>,
}

impl Net {
    /// The shape that `spec` asks for.
    #[must_use]
    pub fn new(spec: &TrainSpec) -> Self {
        let hidden = match spec.model {
            ModelSpec::Logistic { .. } | ModelSpec::Svm { .. } => 0,
            ModelSpec::Mlp { hidden, .. } => hidden as usize,
        };
        let loss = match spec.model {
            ModelSpec::Svm { .. } => Loss::Hinge,
            ModelSpec::Logistic { .. } | ModelSpec::Mlp { .. } => Loss::Log,
        };
        let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let (features, outputs) = (size(spec.schema.features()), size(spec.outputs()));
        Self { features, outputs, hidden, l2: spec.l2(), loss }
    }

    /// Number of parameters.
    #[must_use]
    pub const fn params(&self) -> usize {
        match self.hidden {
            0 => self.outputs * (self.features + 1),
            hidden => hidden * (self.features + 1) + self.outputs * (hidden + 1),
        }
    }

    /// Working memory for [`Net::scores`] and [`Net::add_gradient`].
    #[must_use]
    pub fn scratch(&self) -> Scratch {
        Scratch {
            hidden: vec![0.0; self.hidden],
            back: vec![0.0; self.hidden],
            outputs: vec![0.0; self.outputs],
        }
    }

    /// Parameters of the first layer, and those of the second (empty without a hidden layer).
    fn layers<'a>(&self, w: &'a [f64]) -> (&'a [f64], &'a [f64]) {
        let first = if self.hidden == 0 { self.outputs } else { self.hidden };
        w.split_at(first * (self.features + 1))
    }

    /// The C scores of `row` under parameters `w`.
    pub fn scores<'s>(&self, w: &[f64], row: &Row<'_>, scratch: &'s mut Scratch) -> &'s [f64] {
        let (first, second) = self.layers(w);
        if self.hidden == 0 {
            for (out, w) in scratch.outputs.iter_mut().zip(first.chunks_exact(self.features + 1)) {
                *out = row.dot(w);
            }
            return &scratch.outputs;
        }
        for (unit, w) in scratch.hidden.iter_mut().zip(first.chunks_exact(self.features + 1)) {
            *unit = row.dot(w).max(0.0);
        }
        for (out, w) in scratch.outputs.iter_mut().zip(second.chunks_exact(self.hidden + 1)) {
            let mut sum = w[self.hidden];
            for (unit, w) in scratch.hidden.iter().zip(w) {
                sum += unit * w;
            }
            *out = sum;
        }
        &scratch.outputs
    }

    /// Loss of `row` under `w`, without penalty.
    pub fn loss(&self, w: &[f64], row: &Row<'_>, scratch: &mut Scratch) -> f64 {
        self.scores(w, row, scratch);
        match self.loss {
            Loss::Log => loss_and_delta(&mut scratch.outputs, row.label),
            Loss::Hinge => hinge_and_delta(&mut scratch.outputs, row.label),
        }
    }

    /// How much the scores speak for each class: probabilities, or margins.
    #[must_use]
    pub fn leanings(&self, scores: &[f64]) -> Vec<f64> {
        match (self.loss, scores) {
            (Loss::Log, _) => probabilities(scores),
            (Loss::Hinge, [score]) => vec![-score, *score],
            (Loss::Hinge, _) => scores.to_vec(),
        }
    }

    /// Adds the gradient of the row's loss to `gradient` and returns the loss.
    pub fn add_gradient(
        &self,
        w: &[f64],
        row: &Row<'_>,
        scratch: &mut Scratch,
        gradient: &mut [f64],
    ) -> f64 {
        let loss = self.loss(w, row, scratch);
        let (_, second) = self.layers(w);
        let first = w.len() - second.len();
        let (into_first, into_second) = gradient.split_at_mut(first);
        let width = self.features + 1;
        if self.hidden == 0 {
            for (delta, out) in scratch.outputs.iter().zip(into_first.chunks_exact_mut(width)) {
                row.add_to(*delta, out);
            }
            return loss;
        }
        scratch.back.fill(0.0);
        let rows = second.chunks_exact(self.hidden + 1);
        let outs = into_second.chunks_exact_mut(self.hidden + 1);
        for ((delta, w), out) in scratch.outputs.iter().zip(rows).zip(outs) {
            for j in 0..self.hidden {
                out[j] += delta * scratch.hidden[j];
                scratch.back[j] += delta * w[j];
            }
            out[self.hidden] += delta;
        }
        for (j, out) in into_first.chunks_exact_mut(width).enumerate() {
            if scratch.hidden[j] > 0.0 {
                row.add_to(scratch.back[j], out);
            }
        }
        loss
    }

    /// Calls `each` with the index of every weight that is not a bias.
    pub fn penalised(&self, mut each: impl FnMut(usize)) {
        let first = if self.hidden == 0 { self.outputs } else { self.hidden };
        let second = if self.hidden == 0 { 0 } else { self.outputs };
        let mut start = 0;
        for (rows, inputs) in [(first, self.features), (second, self.hidden)] {
            for _ in 0..rows {
                (start..start + inputs).for_each(&mut each);
                start += inputs + 1;
            }
        }
    }
}

/// Log-loss of scores for class `label`; the scores become probabilities minus targets.
fn loss_and_delta(scores: &mut [f64], label: usize) -> f64 {
    if let [score] = scores {
        let decay = libm::exp(-score.abs());
        let (probability, one) = (1.0 / (1.0 + decay), label == 1);
        let positive = if *score >= 0.0 { probability } else { decay * probability };
        // log(1 + exp(-margin)).
        let margin = if one { *score } else { -*score };
        let loss = libm::log1p(decay) + (-margin).max(0.0);
        *score = positive - f64::from(u8::from(one));
        return loss;
    }
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let chosen = scores[label];
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = libm::exp(*score - top);
        total += *score;
    }
    for score in scores.iter_mut() {
        *score /= total;
    }
    scores[label] -= 1.0;
    libm::log(total) + top - chosen
}

/// Sum of the hinge losses max(0, 1 - y s), y = 1 for class `label` and -1 for the rest; the scores
/// become its slopes.
fn hinge_and_delta(scores: &mut [f64], label: usize) -> f64 {
    let two = scores.len() == 1;
    let mut loss = 0.0;
    for (class, score) in scores.iter_mut().enumerate() {
        let positive = class + usize::from(two) == label;
        let sign = if positive { 1.0 } else { -1.0 };
        let missing = 1.0 - sign * *score;
        loss += missing.max(0.0);
        *score = if missing > 0.0 { -sign } else { 0.0 };
    }
    loss
}

/// Class probabilities from scores, one per class.
#[must_use]
pub fn probabilities(scores: &[f64]) -> Vec<f64> {
    if let [score] = scores {
        let mut delta = [*score];
        loss_and_delta(&mut delta, 0);
        return vec![1.0 - delta[0], delta[0]];
    }
    let mut out = scores.to_vec();
    loss_and_delta(&mut out, 0);
    out[0] += 1.0;
    out
}

/// 2^f.
fn unit(code: &FixedPoint) -> f64 {
    2f64.powi(i32::from(code.frac_bits))
}

/// The parameters of `state` as real numbers.
///
/// # Errors
/// [`LearnError::State`] when there are not as many as the model has.
pub fn decode(net: &Net, code: &FixedPoint, state: &ModelState) -> Result<Vec<f64>, LearnError> {
    if state.params.len() != net.params() {
        return Err(LearnError::State);
    }
    Ok(state.params.iter().map(|value| *value as f64 / unit(code)).collect())
}

/// A real number in fixed point, clipped to +-clip; `None` for NaN and infinities.
#[must_use]
pub fn encode(code: &FixedPoint, value: f64) -> Option<i64> {
    let limit = (code.clip * unit(code)).floor();
    #[expect(clippy::cast_possible_truncation, reason = "clipped, and a valid code is below 2^62")]
    value.is_finite().then(|| (value * unit(code)).clamp(-limit, limit).round_ties_even() as i64)
}
