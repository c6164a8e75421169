//! Fixed point: reals to integers mod 2^k and back.
//!
//! Reals enter the ring once, at the party. Everything after is integer arithmetic.

use core::cmp::Ordering;

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
    #[error("clip must be finite and positive, clip * 2^frac_bits within 1..2^62, at most 40 bits")]
    BadCode,
    /// Bytes that are no whole number of ring words.
    #[error("{0} bytes are no whole number of ring words")]
    Length(usize),
}

/// Most fractional bits of a code.
pub const MAX_FRAC_BITS: u8 = 40;

/// Exclusive bound on clip * 2^frac_bits, so that every code is an exact `i64`.
const MAX_CODE: f64 = (1u64 << 62) as f64;

impl FixedPoint {
    /// Refuses a code outside its domain; the other methods assume that this one passed.
    ///
    /// # Errors
    /// [`CodecError::BadCode`].
    pub fn check(self) -> Result<(), CodecError> {
        let scaled = self.clip * self.scale();
        // The comparisons are false for NaN.
        let legal = self.clip > 0.0 && (1.0..MAX_CODE).contains(&scaled);
        if legal && self.frac_bits <= MAX_FRAC_BITS { Ok(()) } else { Err(CodecError::BadCode) }
    }

    /// 2^frac_bits.
    fn scale(self) -> f64 {
        2f64.powi(i32::from(self.frac_bits))
    }

    /// The largest magnitude of an encoded value: round-half-even(clip * 2^frac_bits).
    #[must_use]
    pub fn max_int(self) -> i64 {
        self.round(self.clip)
    }

    /// Scaling by a power of two is exact, so there is one rounding.
    fn round(self, value: f64) -> i64 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the cast saturates; `check` bounds it"
        )]
        let code = (value * self.scale()).round_ties_even() as i64;
        code
    }

    /// Encodes one value, clipped to +-clip.
    ///
    /// # Errors
    /// [`CodecError::NotFinite`] for NaN and infinities, with index 0.
    pub fn encode_one(self, value: f64) -> Result<i64, CodecError> {
        if value.is_finite() {
            Ok(self.round(value.max(-self.clip).min(self.clip)))
        } else {
            Err(CodecError::NotFinite(0))
        }
    }

    /// Appends the codes of `values` to `out`, which is unchanged after an error.
    ///
    /// # Errors
    /// [`CodecError::NotFinite`] with the index of the first NaN or infinity;
    /// [`CodecError::BadCode`] as [`FixedPoint::check`].
    pub fn encode(&self, values: &[f64], out: &mut Vec<i64>) -> Result<(), CodecError> {
        self.check()?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(CodecError::NotFinite(index));
        }
        out.extend(values.iter().map(|value| self.round(value.max(-self.clip).min(self.clip))));
        Ok(())
    }

    /// The real a code, or a sum of codes, stands for.
    #[must_use]
    pub fn decode(self, code: i64) -> f64 {
        code as f64 / self.scale()
    }

    /// Refuses a configuration in which a sum of `parties` values, each weighted by at most
    /// `weight_bound`, could leave the ring.
    ///
    /// # Errors
    /// [`CodecError::Overflow`] with the bits needed, [`CodecError::BadCode`] as
    /// [`FixedPoint::check`].
    pub fn check_sum(self, ring: Ring, parties: u64, weight_bound: u64) -> Result<(), CodecError> {
        self.check()?;
        let terms = u128::from(parties) * u128::from(weight_bound);
        let needed = bits_needed(terms, u128::from(self.max_int().unsigned_abs()));
        let ring_bits = ring.bits();
        if needed <= ring_bits {
            Ok(())
        } else {
            Err(CodecError::Overflow { parties, needed, ring_bits })
        }
    }
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

/// Appends the signed integers of little-endian ring words to `out`.
///
/// # Errors
/// [`CodecError::Length`] when the bytes are no whole number of words.
pub fn from_ring(bytes: &[u8], ring: Ring, out: &mut Vec<i64>) -> Result<(), CodecError> {
    if !bytes.len().is_multiple_of(ring.word_bytes()) {
        return Err(CodecError::Length(bytes.len()));
    }
    match ring {
        Ring::Z32 => {
            out.extend(bytes.as_chunks().0.iter().map(|word| i64::from(i32::from_le_bytes(*word))));
        }
        Ring::Z64 => {
            out.extend(bytes.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)));
        }
    }
    Ok(())
}

/// `num / den` rounded to the nearest integer, ties to even; `None` when `den` is 0 or the result
/// leaves `i128`.
#[must_use]
pub fn round_half_even_div(num: i128, den: i128) -> Option<i128> {
    let (num, den) = if den < 0 { (num.checked_neg()?, den.checked_neg()?) } else { (num, den) };
    let floor = num.checked_div_euclid(den)?;
    let rest = num.checked_rem_euclid(den)?;
    // 0 <= rest < den: comparing with den - rest instead of doubling cannot overflow.
    let up = match rest.cmp(&(den - rest)) {
        Ordering::Less => 0,
        Ordering::Equal => floor & 1,
        Ordering::Greater => 1,
    };
    floor.checked_add(up)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODE: FixedPoint = FixedPoint { frac_bits: 16, clip: 8.0 };

    #[test]
    fn ties_go_to_even() {
        let unit = FixedPoint { frac_bits: 0, clip: 100.0 };
        let codes = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, 0.51].map(|x| unit.encode_one(x));
        assert_eq!(codes, [0, 2, 2, 0, -2, -2, 0, 1].map(Ok));
        for (num, den, quotient) in [
            (1, 2, 0),
            (3, 2, 2),
            (5, 2, 2),
            (-1, 2, 0),
            (-3, 2, -2),
            (3, -2, -2),
            (7, 3, 2),
            (8, 3, 3),
        ] {
            assert_eq!(round_half_even_div(num, den), Some(quotient), "{num}/{den}");
        }
        assert_eq!(round_half_even_div(1, 0), None);
        assert_eq!(round_half_even_div(i128::MIN, -1), None);
        assert_eq!(round_half_even_div(i128::MAX, 1), Some(i128::MAX));
    }

    #[test]
    fn not_finite_is_refused_and_leaves_nothing() {
        let mut out = vec![7];
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(CODE.encode(&[1.0, bad], &mut out), Err(CodecError::NotFinite(1)));
            assert_eq!(CODE.encode_one(bad), Err(CodecError::NotFinite(0)));
        }
        assert_eq!(out, [7]);
    }

    #[test]
    fn bad_codes_are_refused() {
        for clip in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300] {
            assert_eq!(
                FixedPoint { frac_bits: 16, clip }.check(),
                Err(CodecError::BadCode),
                "{clip}"
            );
        }
        assert_eq!(FixedPoint { frac_bits: 41, clip: 1.0 }.check(), Err(CodecError::BadCode));
        assert_eq!(FixedPoint { frac_bits: 255, clip: 1.0 }.check(), Err(CodecError::BadCode));
        assert_eq!(FixedPoint { frac_bits: 40, clip: 1.0 }.check(), Ok(()));
    }

    #[test]
    fn overflow_is_refused_at_the_first_bit() {
        // 2^19 * n < 2^31 holds up to n = 4095.
        assert_eq!(CODE.max_int(), 1 << 19);
        assert_eq!(CODE.check_sum(Ring::Z32, 4095, 1), Ok(()));
        assert_eq!(
            CODE.check_sum(Ring::Z32, 4096, 1),
            Err(CodecError::Overflow { parties: 4096, needed: 33, ring_bits: 32 })
        );
        assert_eq!(CODE.check_sum(Ring::Z64, 4096, 1 << 20), Ok(()));
        assert!(CODE.check_sum(Ring::Z64, u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn partial_words_are_refused() {
        let mut out = Vec::new();
        assert_eq!(from_ring(&[0; 7], Ring::Z32, &mut out), Err(CodecError::Length(7)));
        assert_eq!(from_ring(&[0; 12], Ring::Z64, &mut out), Err(CodecError::Length(12)));
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn ring_words_come_back(values: Vec<i64>) {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            to_ring(&values, Ring::Z64, &mut bytes);
            from_ring(&bytes, Ring::Z64, &mut back).unwrap();
            prop_assert_eq!(&back, &values);
            let small: Vec<i64> = values.iter().map(|v| v >> 32).collect();
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            to_ring(&small, Ring::Z32, &mut bytes);
            from_ring(&bytes, Ring::Z32, &mut back).unwrap();
            prop_assert_eq!(&back, &small);
        }

        /// x = code / 2^(f+8) is exact in a double, so integer division is the oracle.
        #[test]
        fn encoding_is_exact_rounding(code in -(1i64 << 40)..(1i64 << 40), f in 0u8..=32) {
            let fixed = FixedPoint { frac_bits: f, clip: 2f64.powi(29) };
            let x = code as f64 / 2f64.powi(i32::from(f) + 8);
            let expected = round_half_even_div(i128::from(code), 256).unwrap();
            let clipped = expected.clamp(-i128::from(fixed.max_int()), i128::from(fixed.max_int()));
            prop_assert_eq!(i128::from(fixed.encode_one(x).unwrap()), clipped);
        }

        #[test]
        fn codes_stay_within_the_bound_and_decode_nearby(x in -1e3f64..1e3, f in 0u8..=40) {
            let fixed = FixedPoint { frac_bits: f, clip: 8.0 };
            let code = fixed.encode_one(x).unwrap();
            prop_assert!(code.unsigned_abs() <= fixed.max_int().unsigned_abs());
            let error = (fixed.decode(code) - x.clamp(-8.0, 8.0)).abs();
            prop_assert!(error <= 0.5 / 2f64.powi(i32::from(f)));
        }

        /// Whatever `check_sum` accepts sums without wrapping, at both extremes.
        #[test]
        fn accepted_sums_fit(f in 0u8..=40, clip in 0.001f64..1e6, n in 1u64..1 << 20, w in 1u64..1 << 20) {
            let fixed = FixedPoint { frac_bits: f, clip };
            prop_assume!(fixed.check().is_ok());
            let extreme = i128::from(fixed.max_int()) * i128::from(n) * i128::from(w);
            for ring in [Ring::Z32, Ring::Z64] {
                let fits = extreme < 1 << (ring.bits() - 1);
                prop_assert_eq!(fixed.check_sum(ring, n, w).is_ok(), fits);
            }
        }

        #[test]
        fn division_is_nearest(num in -(1i128 << 100)..(1i128 << 100), den in 1i128..1 << 60) {
            let q = round_half_even_div(num, den).unwrap();
            let twice = 2 * (num - q * den);
            prop_assert!(twice.abs() <= den);
            prop_assert!(twice.abs() < den || q % 2 == 0);
        }
    }
}
