//! Fixed point: reals to integers mod 2^k and back.
//!
//! Reals enter the ring once, at the party. Everything after is integer arithmetic.

use serde::{Deserialize, Serialize};

use crate::sum::Ring;

/// A fixed-point code: a real x becomes round-half-even(x * 2^frac_bits), clipped to +-clip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FixedPoint {
    /// Fractional bits f.
    pub frac_bits: u8,
    /// Clip bound B > 0: larger magnitudes are clipped.
    pub clip: f64,
}

/// Why a code or a value was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// NaN or infinity.
    #[error("value {0} is not a finite number")]
    NotFinite(usize),
    /// The sum of all contributions could leave the ring.
    #[error("sums of {parties} parties need {needed} bits, the ring has {ring_bits}")]
    Overflow {
        /// Contributors.
        parties: u64,
        /// Bits needed, sign included.
        needed: u32,
        /// Bits of the ring.
        ring_bits: u32,
    },
    /// Clip bound or fractional bits out of their domain.
    #[error("clip must be finite and positive, fractional bits at most 40")]
    BadCode,
}

/// Bits, sign included, of a ring in which `terms` values of magnitude at most `max` can be summed.
#[must_use]
pub fn bits_needed(terms: u128, max: u128) -> u32 {
    let total = terms.saturating_mul(max);
    128 - total.leading_zeros() + 1
}

/// Writes signed integers as little-endian ring words.
pub fn to_ring(values: &[i64], ring: Ring, out: &mut Vec<u8>) {
    out.reserve(values.len() * ring.word_bytes());
    for value in values {
        match ring {
            #[expect(clippy::cast_possible_truncation, reason = "reduction mod 2^32 is the point")]
            Ring::Z32 => out.extend_from_slice(&(*value as i32).to_le_bytes()),
            Ring::Z64 => out.extend_from_slice(&value.to_le_bytes()),
        }
    }
}

/// num / den to the nearest integer, ties to even; `den` > 0.
#[must_use]
pub const fn round_half_even_div(num: i128, den: i128) -> i128 {
    let floor = num.div_euclid(den);
    let twice = 2 * num.rem_euclid(den);
    if twice > den || (twice == den && floor % 2 != 0) { floor + 1 } else { floor }
}
