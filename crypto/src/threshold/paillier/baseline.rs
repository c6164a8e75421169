//! What the scheme is measured against: the same exponentiations by bare calls of the library,
//! nothing packed, proved, checked or hidden.

use core::hint::black_box;

use rug::integer::Order;
use rug::{Assign, Integer};

use super::Paillier;
use super::number::{from_le, window};
use super::public::PublicKey;
use super::size::Layout;
use crate::baseline::ThresholdBaseline;
use crate::sum::{SchemeError, SumShape};

/// Bits of one digit of an exponent.
const WINDOW: usize = 6;

/// Bare operations under one public key.
pub struct Bare {
    key: PublicKey,
    ciphertexts: usize,
    /// `rows[k][d]` is h_s^(d 64^k).
    rows: Vec<Vec<Integer>>,
}

impl core::fmt::Debug for Bare {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Bare").finish_non_exhaustive()
    }
}

impl Bare {
    /// Builds the table of powers; replies have the shape's number of ciphertexts.
    ///
    /// # Errors
    /// [`SchemeError::Key`] when the bytes are no public key; [`SchemeError::Shape`].
    pub fn new(scheme: Paillier, public_key: &[u8], shape: &SumShape) -> Result<Self, SchemeError> {
        let key = PublicKey::parse(scheme.size, public_key)?;
        let ciphertexts = Layout::new(scheme.size, shape)?.count;
        let mut rows = Vec::new();
        let mut unit = key.h_s.clone();
        for _ in 0..(scheme.size.exponent_bits() as usize).div_ceil(WINDOW) {
            let mut power = Integer::from(1);
            let mut row = Vec::with_capacity(1 << WINDOW);
            for _ in 0..1 << WINDOW {
                row.push(power.clone());
                power = power * &unit % &key.n_squared;
            }
            unit = power;
            rows.push(row);
        }
        Ok(Self { key, ciphertexts, rows })
    }

    /// An exponent without structure.
    fn exponent(&self, bits: u32) -> Vec<u64> {
        let bytes: Vec<u8> =
            self.key.hash.into_iter().cycle().take(bits.div_ceil(8) as usize).collect();
        from_le(&bytes).to_digits(Order::Lsf)
    }
}

impl ThresholdBaseline for Bare {
    fn ciphertexts(&self) -> usize {
        self.ciphertexts
    }

    /// `count` times h_s^a from the table, `a` of half of n's bits.
    ///
    /// # Security
    /// Indexes by `a`, which is public here.
    fn encrypt(&self, count: usize) {
        let exponent = self.exponent(self.key.size.exponent_bits());
        let mut power = Integer::new();
        for _ in 0..count {
            power.assign(1);
            for (k, row) in self.rows.iter().enumerate() {
                if let Some(factor) = row.get(window(&exponent, k * WINDOW, WINDOW)) {
                    power *= factor;
                    power %= &self.key.n_squared;
                }
            }
            black_box(&power);
        }
    }

    /// `count` times the silent exponentiation modulo n^2 by an exponent of a share's size.
    fn partial(&self, count: usize) {
        let bits = self.key.size.share_bits();
        let mut exponent = Integer::from_digits(&self.exponent(bits), Order::Lsf);
        exponent.keep_bits_mut(bits);
        exponent.set_bit(bits - 1, true);
        for _ in 0..count {
            black_box(self.key.v.clone().secure_pow_mod(&exponent, &self.key.n_squared));
        }
    }
}
