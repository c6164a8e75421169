//! Steps along opened sums of clipped vectors, in integers.

use quorate_crypto::dp::Rotation;
use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::merkle::{Hash, hash_parts};
use serde::{Deserialize, Serialize};

use super::{ModelError, divide, narrow};
use crate::workload::{StepSpec, TrainSpec};

/// Fractional bits of the settings that are real numbers.
const SETTING_BITS: u32 = 30;

/// What a model trained by steps knows beside its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// The job, which seeds the rotations.
    pub job: Hash,
    /// Fractional bits of parameters.
    pub frac_bits: u8,
    /// Largest magnitude of a parameter.
    pub limit: i64,
    /// The last step, before the step size, in units of a parameter.
    pub velocity: Vec<i64>,
}

/// Seed of the rotation of a round of a job, starting from the model of hash `model`. The attempt
/// is left out: a repeated attempt sends the same plaintexts.
#[must_use]
pub fn rotation_seed(job: &Hash, round: u32, model: &Hash) -> [u8; 32] {
    hash_parts("quorate/rotation/1", &[&job.0, &round.to_le_bytes(), &model.0]).0
}

impl Steps {
    pub(super) fn new(job: Hash, code: &FixedPoint, params: usize) -> Self {
        let velocity = vec![0; params];
        Self { job, frac_bits: code.frac_bits, limit: code.max_int(), velocity }
    }

    /// One step: velocity = momentum x velocity + mean + l2 x w, w -= rate x velocity, where the
    /// mean is the sum over the count that the sum carries, at least 1.
    ///
    /// # Errors
    /// [`ModelError::NotASum`] when the sum is none of vectors.
    pub(super) fn step(
        &self,
        (spec, steps): (&TrainSpec, &StepSpec),
        params: &[i64],
        seed: [u8; 32],
        body: &[i64],
    ) -> Result<(Self, Vec<i64>), ModelError> {
        let rotation = Rotation::new(seed, params.len() as u64 + 1);
        if body.len() != rotation.padded() || self.velocity.len() != params.len() {
            return Err(ModelError::NotASum);
        }
        let values = rotation.decode(body);
        let (sums, rest) = values.split_at_checked(params.len()).ok_or(ModelError::NotASum)?;
        // A decoded value is the real one x D x 2^shift; a unit counts as clip / share.
        let clip = setting(steps.clip);
        let share = i128::from(StepSpec::COUNT_SHARE) << SETTING_BITS;
        let unit = u32::try_from(rotation.decode_scale_log2(steps.shift()))
            .ok()
            .and_then(|bits| clip.checked_mul(1i128.checked_shl(bits)?))
            .ok_or(ModelError::NotASum)?;
        let one = divide(unit, share)?.max(1);
        let count = rest.first().copied().unwrap_or(0).max(one);
        let factor = clip << u32::from(self.frac_bits.min(40));
        let divisor = share.checked_mul(count).ok_or(ModelError::NotASum)?;
        let (rate, momentum) = (setting(steps.learning_rate), setting(steps.momentum));
        let l2 = setting(spec.l2());
        let biases = biases(spec);
        let mut velocity = Vec::with_capacity(params.len());
        let mut next = Vec::with_capacity(params.len());
        let with_old = params.iter().zip(&self.velocity);
        for ((sum, (w, old)), bias) in sums.iter().zip(with_old).zip(biases) {
            let mean = sum.checked_mul(factor).ok_or(ModelError::NotASum)?;
            let penalty = if bias { 0 } else { scaled(l2, *w)? };
            let v = scaled(momentum, *old)?
                .checked_add(divide(mean, divisor)?)
                .and_then(|v| v.checked_add(penalty))
                .ok_or(ModelError::NotASum)?;
            let v = narrow(v)?;
            let moved = i128::from(*w) - scaled(rate, v)?;
            let limit = i128::from(self.limit);
            velocity.push(v);
            next.push(narrow(moved.clamp(-limit, limit))?);
        }
        Ok((Self { velocity, ..self.clone() }, next))
    }
}

/// Whether each parameter is a bias.
fn biases(spec: &TrainSpec) -> impl Iterator<Item = bool> {
    spec.layers().into_iter().flat_map(|(inputs, outputs)| {
        (0..outputs).flat_map(move |_| (0..=inputs).map(move |index| index == inputs))
    })
}

/// A setting in bounds as an integer of [`SETTING_BITS`] fractional bits.
fn setting(value: f64) -> i128 {
    #[expect(clippy::cast_possible_truncation, reason = "checked settings are below 2^20")]
    let units = (value * f64::from(1u32 << SETTING_BITS)).round_ties_even() as i64;
    i128::from(units)
}

/// A setting times a value.
fn scaled(setting: i128, value: i64) -> Result<i128, ModelError> {
    setting
        .checked_mul(i128::from(value))
        .ok_or(ModelError::NotASum)
        .and_then(|product| divide(product, 1 << SETTING_BITS))
}
