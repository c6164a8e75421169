//! Real vectors as integers for distributed discrete Gaussian noise (Kairouz, Liu, Steinke,
//! "The distributed discrete Gaussian mechanism", arXiv 2102.06387).
//!
//! A vector is rotated, so that no coordinate stands out, then scaled and rounded to nearest; each
//! party adds its share of the noise; the ring adds the vectors. The rotation is H diag(signs) for the
//! Hadamard matrix H of D = 2^k rows *without* the factor 1 / sqrt D, so that the decoder needs
//! integers only. The scale of a code is therefore s = 2^shift sqrt D.
//!
//! The rounding is to nearest, not the randomised, conditional one of the paper: that bounds the norm
//! of one rounded vector, but here a record changes a whole party's sum. Two sums that differ by c
//! round to codes that differ by at most c~ = s c + sqrt D.

use chacha20::ChaCha20;
use cipher::{KeyIvInit, StreamCipher};

use super::DpError;

/// Standard deviations between a coordinate of the sum and the edge of the ring: at 9, fewer than one
/// vector in 2^40 of 2^17 coordinates wraps anywhere.
pub const WRAP_DEVIATIONS: f64 = 9.0;

/// Bits of the scaled clipped sum of one party that the rounding of `f64` leaves exact.
const MAX_CODE_BITS: i32 = 48;

/// Dimension, scale and noise of one sum of encoded vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SumOfCodes {
    /// Values of a vector.
    pub dim: u64,
    /// Bits of the ring.
    pub ring_bits: u32,
    /// Parties of the roster.
    pub parties: u32,
    /// Bound on the L2 norm of one party's whole vector.
    pub party_norm: f64,
    /// Bound on the L2 norm of what one unit of privacy adds to a vector.
    pub clip: f64,
    /// sigma of the noise of all honest shares, in units of the sensitivity.
    pub sigma: f64,
    /// Shares that make up sigma: h of the decisions on privacy, at least 1.
    pub shares: u32,
}

impl SumOfCodes {
    /// The largest shift for which a coordinate of the sum stays [`WRAP_DEVIATIONS`] standard
    /// deviations inside the ring: 2^b >= 2 k sqrt((n C s)^2 / D + n (1/4 + sigma_loc^2)), for n parties,
    /// party norm C and local noise sigma_loc.
    ///
    /// The shift also leaves a party's codes exact in `f64`, and the clip at least as large as the
    /// rounding (s c >= sqrt D).
    ///
    /// # Errors
    /// [`DpError::OutOfRange`] for norms and noise that are not finite and above zero, and for no
    /// parties or shares; [`DpError::RingTooSmall`] where no shift fits.
    pub fn largest_shift(&self) -> Result<i32, DpError> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if ![self.party_norm, self.clip, self.sigma].into_iter().all(positive)
            || self.parties == 0
            || self.shares == 0
            || self.dim == 0
        {
            return Err(DpError::OutOfRange);
        }
        let room = libm::scalbn(1.0, i32::try_from(self.ring_bits).unwrap_or(i32::MAX));
        let fits = |shift: i32| {
            let scale = scale(self.dim, shift);
            let spread = wrap_spread(
                self.parties,
                scale * self.party_norm,
                padded(self.dim),
                self.local_sigma(shift),
            );
            let exact = scale * self.party_norm <= libm::scalbn(1.0, MAX_CODE_BITS);
            exact && room >= 2.0 * WRAP_DEVIATIONS * spread
        };
        // Below the lowest shift the rounding would weigh more than the clip.
        let lowest = -libm::floor(libm::log2(self.clip));
        #[expect(clippy::cast_possible_truncation, reason = "an exponent of an f64")]
        let lowest = lowest as i32;
        if !fits(lowest) {
            return Err(DpError::RingTooSmall(self.ring_bits));
        }
        // The spread grows with the shift, and 2^63 more are far outside any ring.
        let mut shift = lowest;
        while shift < lowest.saturating_add(64) && fits(shift + 1) {
            shift += 1;
        }
        Ok(shift)
    }

    /// The sensitivity of a code: c~ = s c + sqrt D.
    ///
    /// The errors of `f64` in the rotation are below k 2^-52 of the party norm times s, for k the
    /// logarithm of D: many orders below the step of 1.
    #[must_use]
    pub fn scaled_sensitivity(&self, shift: i32) -> f64 {
        scaled_sensitivity(self.dim, shift, self.clip)
    }

    /// The standard deviation of one party's noise: sigma c~ / sqrt(shares), in code units.
    #[must_use]
    pub fn local_sigma(&self, shift: i32) -> f64 {
        self.sigma * self.scaled_sensitivity(shift) / libm::sqrt(f64::from(self.shares))
    }

    /// rho of one release with the local noise `local_sigma` (as drawn, so after any rounding up), by
    /// [`ddg_rho`].
    #[must_use]
    pub fn rho(&self, shift: i32, local_sigma: f64) -> f64 {
        ddg_rho(self.scaled_sensitivity(shift), padded(self.dim), local_sigma, self.shares)
    }
}

/// sqrt((n C s)^2 / D + n (1/4 + sigma_loc^2)): the spread of a coordinate of the sum, `norm` = C s.
fn wrap_spread(parties: u32, norm: f64, padded: f64, local_sigma: f64) -> f64 {
    let parties = f64::from(parties);
    let signal = parties * norm;
    libm::sqrt(signal * signal / padded + parties * (0.25 + local_sigma * local_sigma))
}

/// D as a real: the power of two that holds `dim`.
#[must_use]
fn padded(dim: u64) -> f64 {
    libm::scalbn(1.0, i32::try_from(log2_padded(dim)).unwrap_or(i32::MAX))
}

fn log2_padded(dim: u64) -> u32 {
    u64::BITS - dim.max(1).saturating_sub(1).leading_zeros()
}

/// The scale of a code: s = 2^shift sqrt D.
#[must_use]
pub fn scale(dim: u64, shift: i32) -> f64 {
    libm::scalbn(libm::sqrt(padded(dim)), shift)
}

/// How far the codes of two vectors of `dim` values differ in L2 norm if the vectors differ by at most
/// `clip`: c~ = s c + sqrt D, half of sqrt D for the rounding of each.
#[must_use]
pub fn scaled_sensitivity(dim: u64, shift: i32, clip: f64) -> f64 {
    scale(dim, shift) * clip + libm::sqrt(padded(dim))
}

/// tau: how far the sum of `shares` discrete Gaussians of deviation `local_sigma` is from one discrete
/// Gaussian, 10 sum over 0 < j < shares of e^(-2 pi^2 sigma^2 j / (j + 1)) (theorem 1 of the paper).
#[must_use]
pub fn tau(local_sigma: f64, shares: u32) -> f64 {
    /// Terms added one by one. The later ones are smaller and taken as equal to the last.
    const TERMS: u32 = 4096;
    let exponent = -2.0 * core::f64::consts::PI * core::f64::consts::PI * local_sigma * local_sigma;
    let (mut sum, mut last) = (0.0, 0.0);
    let terms = shares.saturating_sub(1);
    for j in 1..=terms.min(TERMS) {
        last = libm::exp(exponent * f64::from(j) / f64::from(j + 1));
        sum += last;
    }
    10.0 * (sum + last * f64::from(terms.saturating_sub(TERMS)))
}

/// rho of one release of a sum with at least `shares` honest shares of deviation `local_sigma`, for the
/// sensitivity c~ = `sensitivity` and D = `padded` coordinates: the lesser of D2^2 / 2 + tau D and
/// (D2 + tau sqrt D)^2 / 2, with D2 = c~ / (sqrt(shares) local_sigma) (theorem 1 of the paper; as
/// alpha > 1, both Renyi bounds are of zCDP form).
///
/// Without noise or shares, and for undefined numbers, it is infinite.
#[must_use]
pub fn ddg_rho(sensitivity: f64, padded: f64, local_sigma: f64, shares: u32) -> f64 {
    let ratio = sensitivity / (libm::sqrt(f64::from(shares)) * local_sigma);
    let tau = tau(local_sigma, shares);
    let apart = ratio * ratio / 2.0 + tau * padded;
    let together = ratio + tau * libm::sqrt(padded);
    let rho = apart.min(together * together / 2.0);
    if rho >= 0.0 && local_sigma > 0.0 { rho } else { f64::INFINITY }
}

/// The randomised Hadamard rotation of one round: signs from a seed that all parties share, the same
/// for every attempt of the round.
///
/// ```
/// use quorate_crypto::dp::Rotation;
///
/// let rotation = Rotation::new([7; 32], 3);
/// let code = rotation.encode(&[0.5, -1.0, 0.25], 10);
/// let unit = 2f64.powi(rotation.decode_scale_log2(10));
/// let values: Vec<f64> = rotation.decode(&code).iter().map(|v| *v as f64 / unit).collect();
/// assert_eq!(values, [0.5, -1.0, 0.25]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    seed: [u8; 32],
    dim: u64,
}

impl Rotation {
    /// The rotation of vectors of `dim` values; the seed is public.
    #[must_use]
    pub const fn new(seed: [u8; 32], dim: u64) -> Self {
        Self { seed, dim }
    }

    /// D: the values of a code, the power of two that holds the dimension.
    #[must_use]
    pub fn padded(&self) -> usize {
        1usize.checked_shl(log2_padded(self.dim)).unwrap_or(usize::MAX)
    }

    /// The code of `x`: signs, Hadamard transform, times 2^`shift`, rounded half to even.
    ///
    /// A vector that cannot be encoded gives an empty code, which no length check passes: `x` of another
    /// length than the dimension, a value that is not finite, a code of 2^53 or more.
    #[must_use]
    pub fn encode(&self, x: &[f64], shift: i32) -> Vec<i64> {
        /// From here on, a real has no fraction left to round.
        const MAX_CODE: f64 = 9_007_199_254_740_992.0;
        if !self.holds(x.len(), self.dim) {
            return Vec::new();
        }
        let mut rotated = Vec::with_capacity(self.padded());
        rotated.extend_from_slice(x);
        self.flip(&mut rotated, |value| *value = -*value);
        rotated.resize(self.padded(), 0.0);
        hadamard(&mut rotated);
        let mut code = Vec::with_capacity(rotated.len());
        for value in rotated {
            let scaled = libm::rint(libm::scalbn(value, shift));
            // The comparison is false for NaN.
            if !(-MAX_CODE < scaled && scaled < MAX_CODE) {
                return Vec::new();
            }
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
            code.push(scaled as i64);
        }
        code
    }

    /// The sum of vectors behind a sum of codes, in integers: value j is the real sum times
    /// 2^[`decode_scale_log2`](Self::decode_scale_log2), up to rounding and noise.
    ///
    /// Empty if `sum` is no vector of [`padded`](Self::padded) values.
    #[must_use]
    pub fn decode(&self, sum: &[i64]) -> Vec<i128> {
        if sum.len() != self.padded() {
            return Vec::new();
        }
        // At most D values of 64 bits are added: far inside 128 bits.
        let mut values: Vec<i128> = sum.iter().map(|value| i128::from(*value)).collect();
        hadamard(&mut values);
        values.truncate(usize::try_from(self.dim).unwrap_or(usize::MAX));
        self.flip(&mut values, |value| *value = -*value);
        values
    }

    /// k + shift: the binary logarithm of the scale of decoded values, 2^k 2^shift.
    #[must_use]
    pub fn decode_scale_log2(&self, shift: i32) -> i32 {
        shift.saturating_add(i32::try_from(log2_padded(self.dim)).unwrap_or(i32::MAX))
    }

    /// c~ of codes of this dimension, by [`scaled_sensitivity`].
    #[must_use]
    pub fn scaled_sensitivity(&self, clip: f64, shift: i32) -> f64 {
        scaled_sensitivity(self.dim, shift, clip)
    }

    fn holds(&self, len: usize, dim: u64) -> bool {
        u64::try_from(len).is_ok_and(|len| len == dim) && self.padded() < usize::MAX
    }

    /// Calls `negate` on the values whose bit is set in the ChaCha20 keystream of the seed.
    fn flip<T>(&self, values: &mut [T], negate: impl Fn(&mut T)) {
        /// Bytes of keystream at a time.
        const BLOCK: usize = 512;
        let mut cipher = ChaCha20::new((&self.seed).into(), &[0u8; 12].into());
        let mut block = [0u8; BLOCK];
        for chunk in values.chunks_mut(8 * BLOCK) {
            block.fill(0);
            cipher.apply_keystream(&mut block);
            for (values, byte) in chunk.chunks_mut(8).zip(block) {
                for (bit, value) in values.iter_mut().enumerate() {
                    if byte >> bit & 1 == 1 {
                        negate(value);
                    }
                }
            }
        }
    }
}

/// The Walsh-Hadamard transform of a power of two of values, in place: sums and differences in one
/// fixed order, so that `f64` gives the same bits everywhere.
fn hadamard<T>(values: &mut [T])
where
    T: Copy + core::ops::Add<Output = T> + core::ops::Sub<Output = T>,
{
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}
