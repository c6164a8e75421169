//! The noise of a job: how much, which share of it a party draws, and the plaintext that carries it.
//!
//! A sum over at least r_min members, without the shares of c colluders and of one curious member,
//! still holds h = r_min - c - 1 shares: each is drawn with 1/h of the variance (Gaussian), or is
//! 1/h of a Laplace variable (Polya). The noise is sized by the sensitivity of its own round, so
//! that every round costs the same rho.

use quorate_crypto::dp::encode::scaled_sensitivity;
use quorate_crypto::dp::{DiscreteGaussian, PolyaShare, Ratio};
use quorate_crypto::merkle::hash_parts;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{Mechanism, NoiseSpec, Unit};
use crate::job::Manifest;
use crate::payload::{Contribution, PayloadError, PayloadSpec, plaintext_bytes};
use crate::wire::Name;
use crate::workload::Workload;

/// Bits of the fractions that variances and scales become; they are rounded up.
const RATIO_BITS: u32 = 20;

/// Least standard deviation of a Gaussian share.
const LEAST_SHARE: f64 = 3.0;

/// Standard deviations of a Gaussian share that a word has room for: exceeded with probability
/// below 2^-60, so wrapping stays below 2^-44 for 2^17 coordinates.
const GAUSSIAN_REACH: f64 = 9.0;

/// Scales of a Laplace share that a word has room for: exceeded with probability below 2^-57.
const LAPLACE_REACH: f64 = 40.0;

/// What adding or removing one unit moves the exact sum of a round by, at most: L2 norm for
/// Gaussian noise, L1 norm for Laplace noise.
///
/// Counts: a record is in one cell per column that its node may still split. Rotated vectors: the
/// clip, scaled, and what rounding adds. Plain sums: the declared clip.
#[must_use]
pub fn sensitivity(workload: &Workload, noise: &NoiseSpec, round: u32) -> f64 {
    let cells = |count: usize| match noise.mechanism {
        Mechanism::Gaussian => (count as f64).sqrt(),
        Mechanism::Laplace => count as f64,
    };
    match workload {
        Workload::Sum { .. } => noise.clip,
        Workload::Train(spec) => spec.steps.map_or(f64::INFINITY, |steps| {
            scaled_sensitivity(spec.params().saturating_add(1), steps.shift(), steps.clip)
        }),
        Workload::Tree(spec) => {
            cells(spec.table.schema.columns.len().saturating_sub(round as usize))
        }
        Workload::Bayes(spec) => cells(spec.table.schema.columns.len()),
    }
}

/// Standard deviation (Gaussian) or scale (Laplace) of the noise that a round's privacy rests on,
/// that of `parts` = h shares together: the multiplier times the sensitivity.
///
/// A Gaussian share has a deviation of at least 3, so that the sum of shares is as good as one
/// discrete Gaussian: tau of the distributed discrete Gaussian is then below 10^-36 per share.
#[must_use]
pub fn round_scale(workload: &Workload, noise: &NoiseSpec, round: u32, parts: u32) -> f64 {
    let scale = noise.multiplier * sensitivity(workload, noise, round);
    match noise.mechanism {
        Mechanism::Gaussian => scale.max(LEAST_SHARE * f64::from(parts).sqrt()),
        Mechanism::Laplace => scale,
    }
}

/// Room for one party's noise in a word of round `round`, at least 1; 0 in jobs without noise.
#[must_use]
pub fn word_room(manifest: &Manifest, round: u32) -> u64 {
    let Some(noise) = manifest.privacy.noise() else { return 0 };
    let parts = manifest.noise_divisor().max(1);
    let scale = round_scale(&manifest.workload, noise, round, parts);
    let h = f64::from(parts);
    let room = match noise.mechanism {
        Mechanism::Gaussian => GAUSSIAN_REACH * scale / h.sqrt(),
        Mechanism::Laplace => LAPLACE_REACH * scale,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and a float cast saturates: no ring then fits"
    )]
    (room.ceil().max(1.0) as u64)
}

/// Why a workload cannot carry this noise, if it cannot.
#[must_use]
pub fn fault(workload: &Workload, noise: &NoiseSpec) -> Option<&'static str> {
    match workload {
        Workload::Sum { .. } => None,
        Workload::Train(spec) => match &spec.steps {
            None => Some("averaged weights carry no noise: let the job take clipped steps"),
            Some(steps) if steps.unit != noise.unit => {
                Some("the steps clip another unit than the one that the noise hides")
            }
            Some(steps) if steps.clip != noise.clip => {
                Some("clip must be the same for the steps and the noise")
            }
            Some(_) if noise.mechanism == Mechanism::Laplace => {
                Some("steps are clipped by their L2 norm: their noise is Gaussian")
            }
            Some(_) => None,
        },
        Workload::Tree(_) | Workload::Bayes(_) => {
            (noise.unit == Unit::Party).then_some("counts hide records, not parties")
        }
    }
}

/// Why a contribution was not given its noise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// The round or its payload is none of the job's.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The job has no such round.
    #[error("the job has no round {0}")]
    Round(u32),
    /// A party's vector is larger than the clip by which its noise is sized.
    #[error("the vector's norm exceeds the clip, by which the job's noise is sized")]
    Clip,
    /// No sampler has this scale.
    #[error("no noise of this scale can be drawn")]
    Scale,
}

/// Adds noise of `scale` to every value: with 1 / `parts` of the variance, or 1 / `parts` of a
/// Laplace variable. Each draw is clamped to `room`.
///
/// # Errors
/// [`NoiseError::Scale`] when no sampler has this scale or a value overflows.
pub fn add_share<R: CryptoRng>(
    mechanism: Mechanism,
    scale: f64,
    parts: u32,
    room: u64,
    rng: &mut R,
    body: &mut [i64],
) -> Result<(), NoiseError> {
    let mut share = Zeroizing::new(vec![0i64; body.len()]);
    let ratio = |x: f64| Ratio::above(x, RATIO_BITS).map_err(|_| NoiseError::Scale);
    match mechanism {
        Mechanism::Gaussian => DiscreteGaussian::new(ratio(scale * scale / f64::from(parts))?)
            .map_err(|_| NoiseError::Scale)?
            .add_to(rng, &mut share),
        Mechanism::Laplace => PolyaShare::new(ratio(scale)?, parts)
            .map_err(|_| NoiseError::Scale)?
            .add_to(rng, &mut share),
    }
    let room = i64::try_from(room).unwrap_or(i64::MAX);
    for (value, share) in body.iter_mut().zip(share.iter()) {
        *value = value.checked_add((*share).clamp(-room, room)).ok_or(NoiseError::Scale)?;
    }
    Ok(())
}

/// The plaintext of a contribution: its bounds are checked, then this party's share of the noise, if
/// the job has any, is drawn once, then all is laid out in ring words.
///
/// # Errors
/// [`NoiseError`] when the contribution is none of this round or exceeds the clip.
///
/// # Security
/// Call it once per round and keep the bytes: of two draws over one contribution the mean has less
/// noise than either.
pub fn noised<R: CryptoRng>(
    manifest: &Manifest,
    round: u32,
    mut contribution: Contribution,
    rng: &mut R,
) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
    let spec = manifest.payload(round).map_err(|_| NoiseError::Round(round))?;
    let (ring, code, max_rows) = (manifest.ring, &manifest.code, manifest.workload.max_rows());
    if let Some(noise) = manifest.privacy.noise() {
        let exact = PayloadSpec::exact(spec.kind);
        exact.check_body(code, contribution.rows, 0, &contribution.body)?;
        let most = sensitivity(&manifest.workload, noise, round);
        if noise.unit == Unit::Party && !within_norm(noise.mechanism, most, &contribution.body) {
            return Err(NoiseError::Clip);
        }
        let parts = manifest.noise_divisor();
        let scale = round_scale(&manifest.workload, noise, round, parts);
        add_share(noise.mechanism, scale, parts, spec.noise, rng, &mut contribution.body)?;
    }
    let (rows, body) = (contribution.rows, &contribution.body);
    Ok(Zeroizing::new(plaintext_bytes(&spec, ring, code, max_rows, rows, body)?))
}

/// Whether a vector's L2 norm (Gaussian) or L1 norm (Laplace) is at most `most`.
fn within_norm(mechanism: Mechanism, most: f64, body: &[i64]) -> bool {
    let size = |value: &i64| u128::from(value.unsigned_abs());
    let (norm, most) = match mechanism {
        Mechanism::Gaussian => {
            (body.iter().fold(0, |sum: u128, v| sum.saturating_add(size(v) * size(v))), most * most)
        }
        Mechanism::Laplace => {
            (body.iter().fold(0, |sum: u128, v| sum.saturating_add(size(v))), most)
        }
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and a float cast saturates"
    )]
    (norm <= most as u128)
}

/// Seed of a party's noise where a run must be repeatable: simulations, and real runs that check
/// them. Everywhere else a party draws from the system's randomness.
///
/// H(seed, round, party); the stream is ChaCha20's, and one round draws its words in order.
#[must_use]
pub fn replayable_seed(seed: &[u8], round: u32, party: &Name) -> [u8; 32] {
    let parts: [&[u8]; 3] = [seed, &round.to_le_bytes(), party.as_str().as_bytes()];
    hash_parts("quorate/simulated-noise/1", &parts).0
}
