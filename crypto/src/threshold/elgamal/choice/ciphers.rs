//! Lists of ciphertexts and of their sums.

use core::fmt;

use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::traits::Identity;

use super::ChoiceError;
use crate::threshold::elgamal::key::{CIPHER_BYTES, Cipher, POINT_BYTES};
use crate::threshold::elgamal::proof::{point, proper_point};

/// A list of ciphertexts, or of sums of them.
#[derive(Clone)]
pub struct Ciphers(pub(super) Vec<Cipher>);

impl fmt::Debug for Ciphers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ciphers({})", self.0.len())
    }
}

impl Ciphers {
    /// `count` empty sums.
    #[must_use]
    pub fn empty(count: usize) -> Self {
        Self(vec![[RistrettoPoint::identity(); 2]; count])
    }

    /// Ciphertexts as a party sent them.
    ///
    /// # Errors
    /// [`ChoiceError::Length`], [`ChoiceError::Malformed`]; a first half of nothing, which would
    /// show its plaintext, is malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChoiceError> {
        Self::decode_by(bytes, proper_point)
    }

    /// Sums as [`Ciphers::to_bytes`] wrote them: a sum of nothing is legal.
    ///
    /// # Errors
    /// As [`Ciphers::decode`].
    pub fn decode_sums(bytes: &[u8]) -> Result<Self, ChoiceError> {
        Self::decode_by(bytes, point)
    }

    fn decode_by(
        bytes: &[u8],
        first: impl Fn(&[u8; 32]) -> Option<RistrettoPoint>,
    ) -> Result<Self, ChoiceError> {
        let (halves, rest) = bytes.as_chunks::<POINT_BYTES>();
        let (pairs, odd) = halves.as_chunks::<2>();
        if !rest.is_empty() || !odd.is_empty() {
            let expected = bytes.len().next_multiple_of(CIPHER_BYTES);
            return Err(ChoiceError::Length { expected, got: bytes.len() });
        }
        let decode = |(index, [c1, c2]): (usize, &[[u8; 32]; 2])| {
            let points = first(c1).zip(point(c2));
            points.map(|(c1, c2)| [c1, c2]).ok_or(ChoiceError::Malformed(index))
        };
        pairs.iter().enumerate().map(decode).collect::<Result<_, _>>().map(Self)
    }

    /// Their canonical encodings.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.as_flattened().iter().flat_map(|point| point.compress().to_bytes()).collect()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends others.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Ciphertexts at `start..start + count`; fewer where the list ends.
    #[must_use]
    pub fn slice(&self, start: usize, count: usize) -> Self {
        Self(self.0.iter().skip(start).take(count).copied().collect())
    }

    /// Adds `others`, one to one.
    ///
    /// # Errors
    /// [`ChoiceError::Length`].
    pub fn add(&mut self, others: &Self) -> Result<(), ChoiceError> {
        if self.len() != others.len() {
            return Err(ChoiceError::Length { expected: self.len(), got: others.len() });
        }
        for (sum, point) in self.0.as_flattened_mut().iter_mut().zip(others.0.as_flattened()) {
            *sum += point;
        }
        Ok(())
    }

    /// Adds rows to the cells of one tree. Row i of `rows` has `width` ciphertexts and goes to cell
    /// `cells[i]`; cell j's sums are at `base + j * width`.. of this list.
    ///
    /// # Errors
    /// [`ChoiceError::Length`] when a cell lies outside this list or the lists do not fit.
    pub fn add_rows(
        &mut self,
        base: usize,
        cells: &[Option<u16>],
        rows: &Self,
        width: usize,
    ) -> Result<(), ChoiceError> {
        let expected = cells.len().saturating_mul(width);
        if width == 0 || rows.len() != expected {
            return Err(ChoiceError::Length { expected, got: rows.len() });
        }
        for (cell, row) in cells.iter().zip(rows.0.chunks_exact(width)) {
            let Some(cell) = cell else { continue };
            let start = usize::from(*cell).saturating_mul(width).saturating_add(base);
            let length = self.len();
            let sums =
                self.0.get_mut(start..start.saturating_add(width)).ok_or(ChoiceError::Length {
                    expected: start.saturating_add(width),
                    got: length,
                })?;
            for (sum, cipher) in sums.iter_mut().zip(row) {
                sum.iter_mut().zip(cipher).for_each(|(sum, point)| *sum += point);
            }
        }
        Ok(())
    }
}
