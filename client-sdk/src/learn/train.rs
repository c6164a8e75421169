//! Local training: one party, one round, the same bits everywhere.

use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::merkle::hash_parts;
use quorate_protocols::model::ModelState;
use quorate_protocols::workload::{Purpose, TrainSpec, Workload};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::LearnError;
use super::counts::{bayes_counts, tree_counts};
use super::data::Dataset;
use super::features::{Design, local_moments};
use super::model::{Net, decode, encode};
use super::steps::step_contribution;

/// Models with more features use a diagonal preconditioner: factoring costs features^3.
const MAX_FACTORED: usize = 1024;

/// Momentum of mini-batch steps.
const MOMENTUM: f64 = 0.9;

/// What a party puts into a sum of weights.
///
/// # Security
/// Private to the party until it is encrypted: there is no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalUpdate {
    /// Rows n of the party.
    pub rows: u64,
    /// n x mean loss of the shared model on the party's rows, before training, in fixed point.
    pub loss_sum: i64,
    /// n x each parameter after training, in fixed point.
    pub params: Vec<i64>,
}

impl LocalUpdate {
    /// The body of a weights payload.
    #[must_use]
    pub fn into_body(mut self) -> Vec<i64> {
        self.params.insert(0, self.loss_sum);
        self.params
    }
}

/// The rows and exact body that `party` contributes to round `round` of a job with a model.
///
/// # Errors
/// [`LearnError::Round`] when the round is not one of training, otherwise as [`train_local`].
pub fn contribution(
    workload: &Workload,
    code: &FixedPoint,
    state: &ModelState,
    data: &Dataset,
    party: &str,
    round: u32,
) -> Result<(u64, Vec<i64>), LearnError> {
    let purpose = workload.purpose(round).ok_or(LearnError::Round(round))?;
    match workload {
        Workload::Sum { .. } | Workload::Vertical(_) | Workload::Payments(_) => {
            Err(LearnError::Round(round))
        }
        Workload::Train(spec) => match (&spec.steps, purpose) {
            (Some(steps), _) => step_contribution((spec, steps), code, state, data, party, round),
            (None, Purpose::Moments) => Ok((data.rows as u64, local_moments(&spec.schema, data))),
            (None, _) => {
                let update = train_local(spec, code, state, data, party, round)?;
                Ok((update.rows, update.into_body()))
            }
        },
        Workload::Tree(spec) => Ok((data.rows as u64, tree_counts(spec, state, data, round)?)),
        Workload::Bayes(spec) => Ok((data.rows as u64, bayes_counts(spec, data)?)),
    }
}

/// Trains the shared model of `state` on the rows of one party.
///
/// Reproducible: the result is a function of the arguments, the party's name and the round enter
/// the seed of its shuffles only. A real number is rounded once, when a trained parameter becomes
/// fixed point; its product with the row count is exact.
///
/// # Errors
/// [`LearnError::State`] when `state` is of another workload, [`LearnError::Diverged`] when training
/// left the real numbers.
pub fn train_local(
    spec: &TrainSpec,
    code: &FixedPoint,
    state: &ModelState,
    data: &Dataset,
    party: &str,
    round: u32,
) -> Result<LocalUpdate, LearnError> {
    let net = Net::new(spec);
    let shared = decode(&net, code, state)?;
    let design = Design::new(spec, state, data)?;
    let rows = i64::try_from(data.rows).unwrap_or(i64::MAX);
    let loss = mean_loss(&net, &design, &shared);
    let trained = trained(spec, &net, &design, &shared, party, round);
    let weighted = |index: usize, value: f64| {
        let fixed = encode(code, value).ok_or(LearnError::Diverged(index))?;
        fixed.checked_mul(rows).ok_or(LearnError::Diverged(index))
    };
    let params = trained
        .iter()
        .enumerate()
        .map(|(index, value)| weighted(index, *value))
        .collect::<Result<_, _>>()?;
    Ok(LocalUpdate { rows: data.rows as u64, loss_sum: weighted(0, loss)?, params })
}

/// The parameters after local training from `shared`.
pub(super) fn trained(
    spec: &TrainSpec,
    net: &Net,
    design: &Design,
    shared: &[f64],
    party: &str,
    round: u32,
) -> Vec<f64> {
    let pull = Proximal { anchor: shared, mu: spec.local.prox_mu };
    if spec.local.batch == 0 || design.rows == 0 {
        let (steps, rate) = (spec.local.epochs, spec.local.learning_rate);
        minimise(net, design, &pull, steps, rate, 0.0)
    } else {
        descend(net, design, &pull, spec, party, round)
    }
}

/// Mean loss, without penalty; 0 for no rows.
#[must_use]
pub fn mean_loss(net: &Net, design: &Design, w: &[f64]) -> f64 {
    let mut scratch = net.scratch();
    let mut sum = 0.0;
    for index in 0..design.rows {
        sum += net.loss(w, &design.row(index), &mut scratch);
    }
    sum / design.rows.max(1) as f64
}

/// FedProx: the term mu / 2 |w - anchor|^2.
#[derive(Clone, Copy, Debug)]
pub struct Proximal<'a> {
    /// The shared model, where training starts.
    pub anchor: &'a [f64],
    /// Weight of the term.
    pub mu: f64,
}

impl Proximal<'_> {
    /// Adds the gradients of penalty and proximal term.
    fn add_to(&self, net: &Net, w: &[f64], gradient: &mut [f64]) {
        net.penalised(|index| gradient[index] += net.l2 * w[index]);
        if self.mu != 0.0 {
            for ((out, w), anchor) in gradient.iter_mut().zip(w).zip(self.anchor) {
                *out += self.mu * (w - anchor);
            }
        }
    }
}

/// `steps` accelerated full-batch steps, each preconditioned by a bound on the Hessian, from the
/// anchor; stops early once no component of the gradient exceeds `tolerance`.
///
/// The bound is Boehning's: for the first layer c X'X / n with c = 1/4 for two classes and 1/2 for
/// more, plus penalty. It makes a step of 1 safe for logistic models whatever the columns'
/// correlations, so no step size needs tuning. Acceleration is Nesterov's, restarted when a step
/// goes uphill.
#[must_use]
pub fn minimise(
    net: &Net,
    design: &Design,
    pull: &Proximal<'_>,
    steps: u32,
    learning_rate: f64,
    tolerance: f64,
) -> Vec<f64> {
    let mut w = pull.anchor.to_vec();
    if design.rows == 0 {
        return w;
    }
    let bound = Bound::new(net, design, pull.mu);
    let mut scratch = net.scratch();
    let (mut ahead, mut age) = (w.clone(), 0.0);
    for _ in 0..steps {
        let mut gradient = vec![0.0; w.len()];
        for index in 0..design.rows {
            net.add_gradient(&ahead, &design.row(index), &mut scratch, &mut gradient);
        }
        gradient.iter_mut().for_each(|value| *value /= design.rows as f64);
        pull.add_to(net, &ahead, &mut gradient);
        if gradient.iter().all(|value| value.abs() <= tolerance) {
            return ahead;
        }
        let mut step = gradient.clone();
        bound.solve(net, &mut step);
        let next: Vec<f64> = ahead.iter().zip(&step).map(|(w, s)| w - learning_rate * s).collect();
        let mut uphill = 0.0;
        for ((g, next), w) in gradient.iter().zip(&next).zip(&w) {
            uphill += g * (next - w);
        }
        age = if uphill > 0.0 { 0.0 } else { age + 1.0 };
        let beta = age / (age + 3.0);
        ahead = next.iter().zip(&w).map(|(next, w)| next + beta * (next - w)).collect();
        w = next;
    }
    w
}

/// An upper bound on the Hessian, ready to be divided by.
enum Bound {
    /// Lower Cholesky factor, row by row, of the (F + 1) x (F + 1) block that all outputs share.
    Factor(Vec<f64>),
    /// A diagonal, one entry per input.
    Diagonal(Vec<f64>),
}

impl Bound {
    fn new(net: &Net, design: &Design, mu: f64) -> Self {
        let width = net.features + 1;
        let curvature = if net.outputs == 1 { 0.25 } else { 0.5 } / design.rows as f64;
        let ridge = |index: usize| if index < net.features { net.l2 + mu } else { mu };
        let entries = |row: &super::features::Row<'_>| {
            let mut list: Vec<(usize, f64)> =
                row.dense_features.iter().copied().zip(row.dense.iter().copied()).collect();
            list.extend(row.ones.iter().map(|feature| (*feature, 1.0)));
            list.push((net.features, 1.0));
            list
        };
        if net.hidden > 0 || net.features > MAX_FACTORED {
            // (sum x_j w_j)^2 <= sum |x_j| x sum |x_j| w_j^2 bounds X'X by a diagonal.
            let mut diagonal = vec![0.0; width];
            for index in 0..design.rows {
                let list = entries(&design.row(index));
                let total: f64 = list.iter().map(|(_, x)| x.abs()).sum();
                for (feature, x) in list {
                    diagonal[feature] += curvature * total * x.abs();
                }
            }
            for (index, value) in diagonal.iter_mut().enumerate() {
                *value += ridge(index) + 1e-9;
            }
            return Self::Diagonal(diagonal);
        }
        let mut matrix = vec![0.0; width * width];
        for index in 0..design.rows {
            let mut list = entries(&design.row(index));
            list.sort_unstable_by_key(|(feature, _)| *feature);
            for (i, (row, x)) in list.iter().enumerate() {
                for (column, y) in &list[..=i] {
                    matrix[row * width + column] += x * y;
                }
            }
        }
        matrix.iter_mut().for_each(|value| *value *= curvature);
        for index in 0..width {
            // The small constant keeps exactly dependent columns apart where there is no penalty.
            matrix[index * width + index] += ridge(index) + 1e-9;
        }
        factor(&mut matrix, width);
        Self::Factor(matrix)
    }

    /// Divides each output's block of `values` by the bound.
    fn solve(&self, net: &Net, values: &mut [f64]) {
        let width = net.features + 1;
        match self {
            Self::Factor(factor) => {
                values.chunks_exact_mut(width).for_each(|block| solve(factor, width, block));
            }
            Self::Diagonal(diagonal) if net.hidden == 0 => {
                for block in values.chunks_exact_mut(width) {
                    block.iter_mut().zip(diagonal).for_each(|(value, d)| *value /= d);
                }
            }
            // No bound is known for a hidden layer: plain gradient steps.
            Self::Diagonal(_) => {}
        }
    }
}

/// Cholesky in place, lower triangle, row by row.
fn factor(matrix: &mut [f64], width: usize) {
    for i in 0..width {
        for j in 0..=i {
            let mut sum = matrix[i * width + j];
            for k in 0..j {
                sum -= matrix[i * width + k] * matrix[j * width + k];
            }
            matrix[i * width + j] =
                if i == j { sum.max(1e-12).sqrt() } else { sum / matrix[j * width + j] };
        }
    }
}

/// Solves L L' x = b in place.
fn solve(factor: &[f64], width: usize, b: &mut [f64]) {
    for i in 0..width {
        let mut sum = b[i];
        for k in 0..i {
            sum -= factor[i * width + k] * b[k];
        }
        b[i] = sum / factor[i * width + i];
    }
    for i in (0..width).rev() {
        let mut sum = b[i];
        for k in i + 1..width {
            sum -= factor[k * width + i] * b[k];
        }
        b[i] = sum / factor[i * width + i];
    }
}

/// Mini-batch gradient descent with momentum; the step size falls with the round.
fn descend(
    net: &Net,
    design: &Design,
    pull: &Proximal<'_>,
    spec: &TrainSpec,
    party: &str,
    round: u32,
) -> Vec<f64> {
    let seed = hash_parts(
        "quorate/train/shuffle/1",
        &[&spec.seed.to_le_bytes(), party.as_bytes(), &round.to_le_bytes()],
    );
    let mut rng = ChaCha20Rng::from_seed(seed.0);
    let mut w = pull.anchor.to_vec();
    let mut velocity = vec![0.0; w.len()];
    let mut gradient = vec![0.0; w.len()];
    let mut scratch = net.scratch();
    let rate = spec.local.learning_rate / (1.0 + 0.1 * f64::from(round.saturating_sub(1)));
    let mut order: Vec<usize> = (0..design.rows).collect();
    for _ in 0..spec.local.epochs {
        shuffle(&mut order, &mut rng);
        for batch in order.chunks(spec.local.batch as usize) {
            gradient.fill(0.0);
            for &index in batch {
                net.add_gradient(&w, &design.row(index), &mut scratch, &mut gradient);
            }
            gradient.iter_mut().for_each(|value| *value /= batch.len() as f64);
            pull.add_to(net, &w, &mut gradient);
            for ((w, v), g) in w.iter_mut().zip(&mut velocity).zip(&gradient) {
                *v = MOMENTUM * *v - rate * g;
                *w += *v;
            }
        }
    }
    w
}

/// Fisher and Yates, with a bias below 2^-30 for any realistic length.
fn shuffle(order: &mut [usize], rng: &mut ChaCha20Rng) {
    for i in (1..order.len()).rev() {
        let pick = (u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64;
        order.swap(i, usize::try_from(pick).unwrap_or(0));
    }
}
