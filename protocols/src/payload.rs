//! Typed payloads of a secure sum: what the `d` ring words of one contribution mean.
//!
//! Every payload has the same layout, so that counts, histograms and weights share one protocol:
//!
//! | words | content |
//! |---|---|
//! | [`CHECK_SLOTS`] | 0 from every party: an opened sum with another value here was opened with a wrong pad and is thrown away |
//! | 1 | rows: how many rows stand behind this contribution |
//! | the rest | the body, see [`PayloadKind`] |
//!
//! The row count that weights a contribution is thus inside the encrypted vector. A word of the
//! body is a sum over rows, so its magnitude is at most rows x [`PayloadSpec::unit`]; this bound is
//! checked by the party before it encrypts, and on the opened sum.
//!
//! In a job with noise the row count would be a disclosure of its own: the word is 0, and the most
//! rows a party may have stand in the bounds instead, widened by the noise. The check slots carry no
//! noise.
//!
//! Where each contribution and each partial decryption is proved by itself, as in threshold jobs,
//! words that every party sets to 0 would show nothing, and a party that sets another value would end
//! the job unnamed: they are left out.

use quorate_crypto::fixed::{CodecError, FixedPoint, bits_needed, to_ring};
use quorate_crypto::sum::Ring;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::checks::{Check, holds};

/// Words that every party sets to 0.
pub const CHECK_SLOTS: u64 = 4;

/// Fractional bits of a numeric column's value u in [-1, 1] in a moments payload.
///
/// Squares take twice as many, so a 64-bit ring holds 2^25 rows (64 parties of half a million) and
/// a standard deviation of 1/1000 of the range is still resolved to one part in 500.
pub const MOMENT_BITS: u32 = 19;

/// The content of a payload's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PayloadKind {
    /// rows x mean loss, then rows x weight for each parameter, in fixed point.
    Weights {
        /// Parameters of the model.
        params: u64,
    },
    /// For each numeric column the sum of q, then for each the sum of q^2, q in units of
    /// 2^-[`MOMENT_BITS`].
    Moments {
        /// Numeric columns.
        columns: u64,
    },
    /// Rows in each cell of a table.
    Counts {
        /// Cells.
        cells: u64,
    },
    /// For each column and bin, `stats` sums over the rows in that bin, in fixed point.
    Histogram {
        /// Columns.
        columns: u64,
        /// Bins of each column.
        bins: u64,
        /// Sums per bin, for example gradients and Hessians.
        stats: u64,
    },
    /// A vector of integers.
    Vector {
        /// Its length.
        len: u64,
        /// Bound on the magnitude of one party's value.
        max_abs: u64,
    },
    /// A sum of clipped real vectors, padded with zeros to the next power of two D, turned by a
    /// seeded Hadamard rotation and rounded once: D coordinates.
    Rotated {
        /// Values before padding.
        values: u64,
        /// Bound on what one row adds to a coordinate.
        unit: u64,
    },
}

/// The shape and meaning of one contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PayloadSpec {
    /// What the body holds.
    pub kind: PayloadKind,
    /// Bound on the noise in a word of one party, 0 without noise: honest noise exceeds it with
    /// negligible probability and is clamped to it.
    pub noise: u64,
    /// Whether each contribution is proved by itself: no word is then the same for every party.
    pub proven: bool,
}

/// One party's private input to one round, wiped when dropped.
pub struct Contribution {
    /// Rows behind it; 1 for plain sums.
    pub rows: u64,
    /// The payload's body, exact: see [`PayloadKind`].
    pub body: Vec<i64>,
}

impl Drop for Contribution {
    fn drop(&mut self) {
        self.body.zeroize();
    }
}

/// Why a payload could not be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// A vector or byte string of another length than the payload's.
    #[error("payload has {got} values, expected {expected}")]
    Length {
        /// Values expected.
        expected: u64,
        /// Values given.
        got: u64,
    },
    /// A value that no honest contribution has, by its index in the body.
    #[error("value {0} of the payload is out of bounds")]
    OutOfBound(u64),
    /// More rows than the job allows.
    #[error("{rows} rows, at most {max} are allowed")]
    Rows {
        /// Rows given, as a signed ring element.
        rows: i64,
        /// Rows allowed.
        max: u64,
    },
    /// A check slot of an opened sum is not 0: a pad or a ciphertext was wrong.
    #[error("check slot {0} of the opened sum is not zero")]
    CheckSlot(u64),
    /// The code is invalid or the sum does not fit the ring.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What an opened sum says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedSum {
    /// Rows behind the sum; 0 in jobs with noise.
    pub rows: u64,
    /// The summed body.
    pub body: Vec<i64>,
}

impl PayloadSpec {
    /// A payload without noise, whose contributions are not proved.
    #[must_use]
    pub const fn exact(kind: PayloadKind) -> Self {
        Self { kind, noise: 0, proven: false }
    }

    /// Words of the body.
    #[must_use]
    pub const fn body_len(&self) -> u64 {
        match self.kind {
            PayloadKind::Weights { params } => params.saturating_add(1),
            PayloadKind::Moments { columns } => columns.saturating_mul(2),
            PayloadKind::Counts { cells } => cells,
            PayloadKind::Histogram { columns, bins, stats } => {
                columns.saturating_mul(bins).saturating_mul(stats)
            }
            PayloadKind::Vector { len, .. } => len,
            PayloadKind::Rotated { values, .. } => match values.checked_next_power_of_two() {
                Some(padded) => padded,
                None => u64::MAX,
            },
        }
    }

    /// Check slots.
    const fn check_slots(&self) -> u64 {
        if self.proven { 0 } else { CHECK_SLOTS }
    }

    /// Whether a word is kept for the row count.
    const fn has_rows(&self) -> bool {
        !self.proven || self.noise == 0
    }

    /// Words before the body: the check slots and the row count.
    #[must_use]
    pub const fn head_words(&self) -> u64 {
        self.check_slots() + self.has_rows() as u64
    }

    /// d, the words of one contribution.
    #[must_use]
    pub const fn dim(&self) -> u64 {
        self.body_len().saturating_add(self.head_words())
    }

    /// The payload's number in a label.
    #[must_use]
    pub const fn type_id(&self) -> u16 {
        match self.kind {
            PayloadKind::Weights { .. } => 1,
            PayloadKind::Moments { .. } => 2,
            PayloadKind::Counts { .. } => 3,
            PayloadKind::Histogram { .. } => 4,
            PayloadKind::Vector { .. } => 5,
            PayloadKind::Rotated { .. } => 6,
        }
    }

    /// Allowed values, lowest and highest, that one row adds to body word `index`.
    fn row_range(&self, index: u64, unit: i128) -> (i128, i128) {
        match self.kind {
            PayloadKind::Counts { .. } => (0, unit),
            PayloadKind::Moments { columns } if index >= columns => (0, unit),
            PayloadKind::Moments { .. } => (-(1 << MOMENT_BITS), 1 << MOMENT_BITS),
            _ => (-unit, unit),
        }
    }

    /// Largest magnitude that one row adds to a word of the body.
    ///
    /// # Errors
    /// [`CodecError::BadCode`] when `code` is not a valid one.
    pub fn unit(&self, code: &FixedPoint) -> Result<u128, CodecError> {
        match self.kind {
            PayloadKind::Weights { .. } | PayloadKind::Histogram { .. } => scaled_clip(code),
            PayloadKind::Moments { .. } => Ok(1 << (2 * MOMENT_BITS)),
            PayloadKind::Counts { .. } => Ok(1),
            PayloadKind::Vector { max_abs, .. } => Ok(u128::from(max_abs)),
            PayloadKind::Rotated { unit, .. } => Ok(u128::from(unit)),
        }
    }

    /// Largest magnitude of a word that one party of at most `max_rows` rows sends, noise included.
    ///
    /// # Errors
    /// [`CodecError::BadCode`] when `code` is not a valid one.
    pub fn bound(&self, code: &FixedPoint, max_rows: u64) -> Result<u128, CodecError> {
        self.sum_bound(code, 1, max_rows)
    }

    /// Largest magnitude of a word of the sum over `parties` parties, noise included.
    fn sum_bound(
        &self,
        code: &FixedPoint,
        parties: u64,
        max_rows: u64,
    ) -> Result<u128, CodecError> {
        let rows = u128::from(parties).saturating_mul(u128::from(max_rows));
        let exact = self.unit(code)?.max(1).saturating_mul(rows);
        Ok(exact.saturating_add(u128::from(self.noise_of(parties))))
    }

    /// Bound on the noise of a word in the sum over `parties` parties: standard deviations of
    /// independent shares add up in squares.
    fn noise_of(&self, parties: u64) -> u64 {
        let square = u128::from(self.noise) * u128::from(self.noise);
        let root = square.saturating_mul(u128::from(parties)).isqrt();
        u64::try_from(root).unwrap_or(u64::MAX).saturating_add(u64::from(self.noise > 0))
    }

    /// Refuses a ring in which the sum over `parties` parties could wrap.
    ///
    /// # Errors
    /// [`CodecError::Overflow`] with the bits that are missing, or [`CodecError::BadCode`].
    pub fn check_ring(
        &self,
        ring: Ring,
        parties: u64,
        code: &FixedPoint,
        max_rows: u64,
    ) -> Result<(), CodecError> {
        let needed = bits_needed(1, self.sum_bound(code, parties, max_rows)?);
        if needed > ring.bits() {
            return Err(CodecError::Overflow { parties, needed, ring_bits: ring.bits() });
        }
        Ok(())
    }

    /// Refuses a body of the wrong length or with a value that `rows` rows, and noise up to
    /// `noise`, cannot add up to.
    pub(crate) fn check_body(
        &self,
        code: &FixedPoint,
        rows: u64,
        noise: u64,
        body: &[i64],
    ) -> Result<(), PayloadError> {
        if body.len() as u64 != self.body_len() {
            return Err(PayloadError::Length { expected: self.body_len(), got: body.len() as u64 });
        }
        let unit = i128::try_from(self.unit(code)?).map_err(|_| CodecError::BadCode)?;
        let (rows, noise) = (i128::from(rows), i128::from(noise));
        for (index, value) in (0u64..).zip(body) {
            let (low, high) = self.row_range(index, unit);
            let value = i128::from(*value);
            let low = low.saturating_mul(rows).saturating_sub(noise);
            if value < low || value > high.saturating_mul(rows).saturating_add(noise) {
                return Err(PayloadError::OutOfBound(index));
            }
        }
        Ok(())
    }
}

/// floor(clip x 2^f).
fn scaled_clip(code: &FixedPoint) -> Result<u128, CodecError> {
    let valid = code.clip.is_finite() && code.clip > 0.0 && code.frac_bits <= 40;
    let scaled = code.clip * f64::from(1u32 << code.frac_bits.min(20)) * {
        f64::from(1u32 << code.frac_bits.saturating_sub(20).min(20))
    };
    // 2^62 keeps a single value inside i64, whatever the ring.
    if !valid || scaled.floor() < 1.0 || scaled > 4.611_686_018_427_388e18 {
        return Err(CodecError::BadCode);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and below 2^62, and the floor is intended"
    )]
    Ok(scaled.floor() as u128)
}

/// The contribution of one party: check slots, `rows` and `body` as little-endian ring words.
///
/// With noise in `spec`, the body has it already, `rows` is checked and 0 is written.
///
/// # Errors
/// [`PayloadError`] when the length is wrong, the rows exceed `max_rows` (0 rows are allowed), or a
/// value is out of bounds.
///
/// # Security
/// The bytes are a party's private update: the caller keeps them in zeroized memory. A body without
/// the noise that `spec` speaks of passes: `policy::noise::noised` is the way in.
pub fn plaintext_bytes(
    spec: &PayloadSpec,
    ring: Ring,
    code: &FixedPoint,
    max_rows: u64,
    rows: u64,
    body: &[i64],
) -> Result<Vec<u8>, PayloadError> {
    spec.check_ring(ring, 1, code, max_rows)?;
    let signed_rows = i64::try_from(rows).unwrap_or(i64::MAX);
    if rows > max_rows {
        return Err(PayloadError::Rows { rows: signed_rows, max: max_rows });
    }
    let (word, behind) = if spec.noise > 0 { (0, max_rows) } else { (signed_rows, rows) };
    spec.check_body(code, behind, spec.noise, body)?;
    // Sized once: growing would leave copies of the update in freed memory.
    let words = usize::try_from(spec.dim()).unwrap_or(0);
    let mut out = Vec::with_capacity(words.saturating_mul(ring.word_bytes()));
    (0..spec.check_slots()).for_each(|_| to_ring(&[0], ring, &mut out));
    if spec.has_rows() {
        to_ring(&[word], ring, &mut out);
    }
    to_ring(body, ring, &mut out);
    Ok(out)
}

/// Reads the sum of the contributions of `members` parties from little-endian ring words.
///
/// # Errors
/// [`PayloadError::CheckSlot`] when the sum was opened with a wrong pad, and otherwise
/// [`PayloadError`] when no honest contributions add up to it.
pub fn read_sum(
    spec: &PayloadSpec,
    ring: Ring,
    code: &FixedPoint,
    max_rows: u64,
    members: u64,
    bytes: &[u8],
) -> Result<OpenedSum, PayloadError> {
    spec.check_ring(ring, members, code, max_rows)?;
    let got = (bytes.len() / ring.word_bytes()) as u64;
    if got != spec.dim() || !bytes.len().is_multiple_of(ring.word_bytes()) {
        return Err(PayloadError::Length { expected: spec.dim(), got });
    }
    let mut words = bytes.chunks_exact(ring.word_bytes()).map(read_word);
    for slot in 0..spec.check_slots() {
        if !holds(Check::CheckSlot, words.next() == Some(0)) {
            return Err(PayloadError::CheckSlot(slot));
        }
    }
    let signed_rows = if spec.has_rows() { words.next().unwrap_or(-1) } else { 0 };
    let most = members.saturating_mul(max_rows);
    let max = if spec.noise > 0 { 0 } else { most };
    let rows = u64::try_from(signed_rows)
        .ok()
        .filter(|rows| *rows <= max)
        .ok_or(PayloadError::Rows { rows: signed_rows, max })?;
    let body: Vec<i64> = words.collect();
    let behind = if spec.noise > 0 { most } else { rows };
    spec.check_body(code, behind, spec.noise_of(members), &body)?;
    Ok(OpenedSum { rows, body })
}

/// A ring word as the signed integer of least magnitude.
fn read_word(bytes: &[u8]) -> i64 {
    if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
        i64::from_le_bytes(bytes)
    } else if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        i64::from(i32::from_le_bytes(bytes))
    } else {
        // Unreachable: chunks are of one of these two lengths. -1 is refused in every position.
        -1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: FixedPoint = FixedPoint { frac_bits: 24, clip: 64.0 };
    const WEIGHTS: PayloadSpec = PayloadSpec::exact(PayloadKind::Weights { params: 2 });

    #[test]
    fn sums_of_plaintexts_read_back() {
        let one = plaintext_bytes(&WEIGHTS, Ring::Z64, &CODE, 10, 3, &[5, -7, 9]).unwrap();
        let two = plaintext_bytes(&WEIGHTS, Ring::Z64, &CODE, 10, 4, &[1, 1, -20]).unwrap();
        let sum: Vec<u8> = one
            .chunks(8)
            .zip(two.chunks(8))
            .flat_map(|(a, b)| (read_word(a).wrapping_add(read_word(b))).to_le_bytes())
            .collect();
        let opened = read_sum(&WEIGHTS, Ring::Z64, &CODE, 10, 2, &sum).unwrap();
        assert_eq!(opened, OpenedSum { rows: 7, body: vec![6, -6, -11] });
    }

    #[test]
    fn z32_words_keep_their_sign() {
        let spec = PayloadSpec::exact(PayloadKind::Vector { len: 2, max_abs: 1000 });
        let bytes = plaintext_bytes(&spec, Ring::Z32, &CODE, 1, 1, &[-1000, 1000]).unwrap();
        assert_eq!(bytes.len() as u64, 4 * spec.dim());
        let opened = read_sum(&spec, Ring::Z32, &CODE, 1, 1, &bytes).unwrap();
        assert_eq!(opened, OpenedSum { rows: 1, body: vec![-1000, 1000] });
    }

    #[test]
    fn a_wrong_pad_is_seen_in_the_check_slots() {
        let good = plaintext_bytes(&WEIGHTS, Ring::Z64, &CODE, 10, 3, &[5, -7, 9]).unwrap();
        for slot in 0..CHECK_SLOTS {
            let mut bad = good.clone();
            bad[8 * usize::try_from(slot).unwrap() + 7] ^= 0x10;
            assert_eq!(
                read_sum(&WEIGHTS, Ring::Z64, &CODE, 10, 1, &bad),
                Err(PayloadError::CheckSlot(slot))
            );
        }
    }

    #[test]
    fn lengths_rows_and_values_are_bounded() {
        let write = |rows, body: &[i64]| {
            plaintext_bytes(&WEIGHTS, Ring::Z64, &CODE, 10, rows, body).map(|_| ())
        };
        let unit = 64i64 << 24;
        assert_eq!(write(1, &[0, unit, -unit]), Ok(()));
        assert_eq!(write(1, &[0, unit + 1, 0]), Err(PayloadError::OutOfBound(1)));
        assert_eq!(write(2, &[0, unit + 1, 0]), Ok(()));
        assert_eq!(write(0, &[0, 0, 1]), Err(PayloadError::OutOfBound(2)));
        assert_eq!(write(1, &[0, 0]), Err(PayloadError::Length { expected: 3, got: 2 }));
        assert_eq!(write(11, &[0, 0, 0]), Err(PayloadError::Rows { rows: 11, max: 10 }));
        let good = plaintext_bytes(&WEIGHTS, Ring::Z64, &CODE, 10, 3, &[5, -7, 9]).unwrap();
        let read = |bytes: &[u8]| read_sum(&WEIGHTS, Ring::Z64, &CODE, 10, 1, bytes).map(|_| ());
        assert_eq!(read(&good), Ok(()));
        assert!(matches!(read(&good[1..]), Err(PayloadError::Length { .. })));
        assert!(matches!(read(&[]), Err(PayloadError::Length { .. })));
        let mut negative = good;
        negative[8 * 4..8 * 5].fill(0xff);
        assert_eq!(read(&negative), Err(PayloadError::Rows { rows: -1, max: 10 }));
        let moments = PayloadSpec::exact(PayloadKind::Moments { columns: 1 });
        let write =
            |body: &[i64]| plaintext_bytes(&moments, Ring::Z64, &CODE, 10, 1, body).map(|_| ());
        assert_eq!(write(&[-(1 << 19), 1 << 38]), Ok(()));
        assert_eq!(write(&[-(1 << 19) - 1, 1 << 38]), Err(PayloadError::OutOfBound(0)));
        assert_eq!(write(&[0, -1]), Err(PayloadError::OutOfBound(1)));
    }

    #[test]
    fn a_ring_too_small_is_refused() {
        let moments = PayloadSpec::exact(PayloadKind::Moments { columns: 23 });
        assert!(matches!(
            moments.check_ring(Ring::Z32, 5, &CODE, 10_000),
            Err(CodecError::Overflow { needed: 55, ring_bits: 32, .. })
        ));
        assert_eq!(moments.check_ring(Ring::Z64, 64, &CODE, 500_000), Ok(()));
        assert_eq!(WEIGHTS.check_ring(Ring::Z64, 64, &CODE, 100_000), Ok(()));
        assert!(WEIGHTS.check_ring(Ring::Z64, 64, &CODE, 1 << 30).is_err());
        let bad = FixedPoint { frac_bits: 24, clip: f64::NAN };
        assert_eq!(WEIGHTS.check_ring(Ring::Z64, 1, &bad, 1), Err(CodecError::BadCode));
    }

    #[test]
    fn noise_widens_the_bounds_and_hides_the_rows() {
        let exact = PayloadSpec::exact(PayloadKind::Counts { cells: 2 });
        let spec = PayloadSpec { noise: 6, ..exact };
        let write = |rows, body: &[i64]| plaintext_bytes(&spec, Ring::Z32, &CODE, 10, rows, body);
        // Up to 10 rows and noise of 6 either way, whatever the rows.
        let bytes = write(3, &[16, -6]).unwrap();
        assert_eq!(bytes.chunks(4).map(read_word).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 16, -6]);
        assert_eq!(write(3, &[17, 0]), Err(PayloadError::OutOfBound(0)));
        assert_eq!(write(3, &[0, -7]), Err(PayloadError::OutOfBound(1)));
        assert_eq!(write(11, &[0, 0]), Err(PayloadError::Rows { rows: 11, max: 10 }));
        // 4 members: noise of sqrt(4) x 6, and 1 for rounding.
        let read = |words: [i64; 7]| {
            let mut bytes = Vec::new();
            to_ring(&words, Ring::Z32, &mut bytes);
            read_sum(&spec, Ring::Z32, &CODE, 10, 4, &bytes)
        };
        let sum = OpenedSum { rows: 0, body: vec![53, -13] };
        assert_eq!(read([0, 0, 0, 0, 0, 53, -13]), Ok(sum));
        assert_eq!(read([0, 0, 0, 0, 0, 54, 0]), Err(PayloadError::OutOfBound(0)));
        assert_eq!(read([0, 0, 0, 0, 0, 0, -14]), Err(PayloadError::OutOfBound(1)));
        assert_eq!(read([0, 0, 0, 0, 1, 0, 0]), Err(PayloadError::Rows { rows: 1, max: 0 }));
        assert_eq!(read([0, 1, 0, 0, 0, 0, 0]), Err(PayloadError::CheckSlot(1)));
        assert_eq!((exact.bound(&CODE, 10), spec.bound(&CODE, 10)), (Ok(10), Ok(17)));
        let huge = PayloadSpec { noise: u64::MAX, ..exact };
        assert!(huge.check_ring(Ring::Z64, 4, &CODE, 10).is_err());
    }

    #[test]
    fn proved_contributions_have_no_word_that_must_be_zero() {
        let exact =
            PayloadSpec { proven: true, ..PayloadSpec::exact(PayloadKind::Counts { cells: 2 }) };
        let noised = PayloadSpec { noise: 6, ..exact };
        let write = |spec: &PayloadSpec| {
            let bytes = plaintext_bytes(spec, Ring::Z32, &CODE, 10, 3, &[2, 1]).unwrap();
            bytes.chunks(4).map(read_word).collect::<Vec<_>>()
        };
        assert_eq!((write(&exact), exact.dim()), (vec![3, 2, 1], 3));
        assert_eq!((write(&noised), noised.dim()), (vec![2, 1], 2));
        let read = |spec: &PayloadSpec, words: &[i64]| {
            let mut bytes = Vec::new();
            to_ring(words, Ring::Z32, &mut bytes);
            read_sum(spec, Ring::Z32, &CODE, 10, 4, &bytes)
        };
        assert_eq!(read(&exact, &[9, 7, 2]), Ok(OpenedSum { rows: 9, body: vec![7, 2] }));
        assert_eq!(read(&exact, &[41, 7, 2]), Err(PayloadError::Rows { rows: 41, max: 40 }));
        assert_eq!(read(&noised, &[53, -13]), Ok(OpenedSum { rows: 0, body: vec![53, -13] }));
        assert_eq!(read(&noised, &[54, 0]), Err(PayloadError::OutOfBound(0)));
    }

    #[test]
    fn rotated_vectors_are_padded_to_a_power_of_two() {
        let dim = |values| PayloadSpec::exact(PayloadKind::Rotated { values, unit: 9 }).dim();
        assert_eq!([1, 5, 8, 9, u64::MAX].map(dim), [6, 13, 13, 21, u64::MAX]);
    }
}
