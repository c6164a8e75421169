//! What a party puts into a sum of clipped vectors: gradients of its records, or the change of the
//! weights by its own training.

use quorate_crypto::dp::Rotation;
use quorate_crypto::fixed::FixedPoint;
use quorate_protocols::model::ModelState;
use quorate_protocols::policy::Unit;
use quorate_protocols::workload::{StepSpec, TrainSpec};

use super::LearnError;
use super::data::Dataset;
use super::features::Design;
use super::model::{Net, decode};
use super::train::trained;

/// Fractional bits of a clipped value. Each is rounded towards 0, so that no norm grows, and sums are
/// exact in any order.
const CLIPPED_BITS: i32 = 30;

/// The rows and rotated body that `party` contributes to round `round`.
///
/// A function of the arguments; `party` enters the seed of local shuffles only.
///
/// # Errors
/// [`LearnError::State`] when `state` is of another workload, [`LearnError::Diverged`] when a
/// gradient is not finite.
pub fn step_contribution(
    (spec, steps): (&TrainSpec, &StepSpec),
    code: &FixedPoint,
    state: &ModelState,
    data: &Dataset,
    party: &str,
    round: u32,
) -> Result<(u64, Vec<i64>), LearnError> {
    let seed = state.rotation_seed(round).ok_or(LearnError::State)?;
    let net = Net::new(spec);
    let shared = decode(&net, code, state)?;
    let design = Design::new(spec, state, data)?;
    let mut sum = ClippedSum::new(steps.clip, net.params());
    match steps.unit {
        Unit::Record => {
            let (mut scratch, mut gradient) = (net.scratch(), vec![0.0; net.params()]);
            for index in 0..design.rows {
                gradient.fill(0.0);
                net.add_gradient(&shared, &design.row(index), &mut scratch, &mut gradient);
                sum.add(&gradient)?;
            }
        }
        Unit::Party => {
            let own = trained(spec, &net, &design, &shared, party, round);
            let change: Vec<f64> = shared.iter().zip(&own).map(|(old, new)| old - new).collect();
            sum.add(&change)?;
        }
    }
    let (units, values) = sum.finish();
    let rotation = Rotation::new(seed, values.len() as u64);
    let mut body = rotation.encode(&values, steps.shift());
    if body.len() != rotation.padded() {
        return Err(LearnError::Diverged(0));
    }
    // Beyond this bound with negligible probability over the seed. It does not depend on the rows that
    // are there: a bound that moves with one row would move the clamped values further than the norm.
    let bound = match steps.unit {
        Unit::Record => spec.max_rows,
        Unit::Party => 1,
    };
    let most = i64::try_from(steps.unit_bound().saturating_mul(bound)).unwrap_or(i64::MAX);
    body.iter_mut().for_each(|value| *value = (*value).clamp(-most, most));
    Ok((units, body))
}

/// The exact sum of clipped vectors.
struct ClippedSum {
    /// Bound on a vector's norm, without what counts it.
    limit: f64,
    /// What counts a vector.
    one: i64,
    units: u64,
    values: Vec<i64>,
}

impl ClippedSum {
    fn new(clip: f64, params: usize) -> Self {
        let share = f64::from(StepSpec::COUNT_SHARE);
        // The last factor makes room for what rounding does to the norm.
        let limit = clip * (1.0 - 1.0 / (share * share)).sqrt() * (1.0 - 2f64.powi(-40));
        Self { limit, one: fixed(clip / share), units: 0, values: vec![0; params] }
    }

    fn add(&mut self, vector: &[f64]) -> Result<(), LearnError> {
        let mut square = 0.0;
        for value in vector {
            square += value * value;
        }
        if !f64::is_finite(square) {
            return Err(LearnError::Diverged(0));
        }
        let norm = square.sqrt();
        let factor = if norm > self.limit { self.limit / norm } else { 1.0 };
        for (sum, value) in self.values.iter_mut().zip(vector) {
            *sum += fixed(value * factor);
        }
        self.units += 1;
        Ok(())
    }

    /// Number of vectors; their sum with the count behind it.
    fn finish(self) -> (u64, Vec<f64>) {
        let count = self.one * self.units.cast_signed();
        let unit = 2f64.powi(-CLIPPED_BITS);
        let values = self.values.into_iter().chain([count]).map(|sum| sum as f64 * unit).collect();
        (self.units, values)
    }
}

/// A clipped value in units of 2^-[`CLIPPED_BITS`], rounded towards 0.
fn fixed(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "clips are at most 100")]
    let units = (value * 2f64.powi(CLIPPED_BITS)) as i64;
    units
}
