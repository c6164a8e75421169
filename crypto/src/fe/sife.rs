//! `sife-ref`: the single-input functional encryption that FedV uses on the sample dimension, as
//! published, to be attacked in the laboratory.
//!
//! Abdalla, Bourse, De Caro, Pointcheval: *Simple Functional Encryption Schemes for Inner Products*
//! (PKC 2015), section 3, from DDH; group Ristretto255, vectors of s entries:
//!
//! - Setup: m_i random for each i; h_i = [m_i] is public.
//! - Enc(x): r random; t = [r], c_i = [x_i] + r h_i.
//! - KeyGen(u): sk = sum_i u_i m_i.
//! - Dec: sum_i u_i c_i - sk t = [sum_i u_i x_i], then a discrete logarithm.
//!
//! In FedV (Xu et al., arXiv 2103.03918) a vector is one feature of the s rows of a batch and u their
//! residuals; one master secret serves all parties and all batches. The feature dimension is
//! [`mife`](super::mife).
//!
//! # Security
//! Insecure as used by FedV, which is why this module exists. A key is a linear function of the
//! master secret, and whoever asks for it knows its coefficients: keys for s independent u, one per
//! batch, give all m_i, and with them every feature of every party and batch.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use rand_core::CryptoRng;

use super::mife::solve_vartime;
use crate::secret::Secret;

/// Bytes of an encoded point.
const POINT_BYTES: usize = 32;

/// Bytes that one party sends per batch for the feature dimension: one `mife-ref` ciphertext, that is
/// three points, per row.
#[must_use]
pub const fn feature_dimension_bytes(rows: usize) -> usize {
    rows.saturating_mul(3 * POINT_BYTES)
}

/// Bytes that one party sends per batch for the sample dimension: one ciphertext of `rows` + 1 points
/// per feature.
#[must_use]
pub const fn sample_dimension_bytes(rows: usize, features: usize) -> usize {
    rows.saturating_add(1).saturating_mul(features).saturating_mul(POINT_BYTES)
}

/// The authority's master secret for vectors of s entries.
pub struct Master(Secret<Vec<Scalar>>);

/// What encrypts: \[m_i\] for each entry.
#[derive(Clone, Debug)]
pub struct PublicKey(Vec<RistrettoPoint>);

/// An encrypted vector.
#[derive(Clone, Debug)]
pub struct Ciphertext {
    /// \[r\].
    pub t: RistrettoPoint,
    /// \[x_i + r m_i\] for each entry.
    pub c: Vec<RistrettoPoint>,
}

/// A functional key, as the aggregator receives it.
#[derive(Clone, Debug)]
pub struct FunctionKey {
    /// u.
    pub u: Vec<i64>,
    /// sum_i u_i m_i.
    pub sk: Scalar,
}

/// A vector of another length than the keys'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{got} entries, the keys are for {expected}")]
pub struct WrongLength {
    /// s.
    pub expected: usize,
    /// Entries that came.
    pub got: usize,
}

const fn check(got: usize, expected: usize) -> Result<(), WrongLength> {
    if got == expected { Ok(()) } else { Err(WrongLength { expected, got }) }
}

impl Master {
    /// Draws the secrets for vectors of `entries` entries.
    pub fn setup<R: CryptoRng + ?Sized>(rng: &mut R, entries: usize) -> Self {
        let mut secrets = Secret::new(Vec::with_capacity(entries));
        for _ in 0..entries {
            secrets.expose_mut().push(Scalar::random(rng));
        }
        Self(secrets)
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.expose().iter().map(|m| m * G).collect())
    }

    /// The functional key for `u`. FedV's filter asks for enough non-zero entries; it counts neither
    /// keys nor their rank, and is left out here: residuals pass it.
    ///
    /// # Errors
    /// [`WrongLength`].
    pub fn function_key(&self, u: &[i64]) -> Result<FunctionKey, WrongLength> {
        let secrets = self.0.expose();
        check(u.len(), secrets.len())?;
        let sk = secrets.iter().zip(u).map(|(m, u)| m * signed(*u)).sum();
        Ok(FunctionKey { u: u.to_vec(), sk })
    }
}

impl PublicKey {
    /// Encrypts one vector.
    ///
    /// # Errors
    /// [`WrongLength`].
    pub fn encrypt<R: CryptoRng + ?Sized>(
        &self,
        rng: &mut R,
        x: &[i64],
    ) -> Result<Ciphertext, WrongLength> {
        check(x.len(), self.0.len())?;
        let r = Secret::new(Scalar::random(rng));
        let c = self.0.iter().zip(x).map(|(h, x)| signed(*x) * G + r.expose() * h).collect();
        Ok(Ciphertext { t: r.expose() * G, c })
    }
}

/// The scalar of a signed integer.
pub(super) fn signed(x: i64) -> Scalar {
    // x + 2^63 is non-negative: no branch on the sign.
    Scalar::from(x.cast_unsigned() ^ 1 << 63) - Scalar::from(1u64 << 63)
}

/// Opens sum_i u_i x_i, if its magnitude is at most `bound`.
///
/// # Security
/// Variable time.
#[must_use]
pub fn decrypt_vartime(key: &FunctionKey, ciphertext: &Ciphertext, bound: i64) -> Option<i64> {
    if key.u.len() != ciphertext.c.len() {
        return None;
    }
    let masked: RistrettoPoint = key.u.iter().zip(&ciphertext.c).map(|(u, c)| signed(*u) * c).sum();
    solve_vartime(masked - key.sk * ciphertext.t, bound)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// A key opens the plain inner product, of positive and negative entries, and nothing that is
        /// out of bounds.
        #[test]
        fn opens_the_plain_inner_product(
            seed: u64, pairs in prop::collection::vec((-300i64..=300, -300i64..=300), 1..9),
        ) {
            let (x, u): (Vec<i64>, Vec<i64>) = pairs.into_iter().unzip();
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let master = Master::setup(&mut rng, x.len());
            let ciphertext = master.public_key().encrypt(&mut rng, &x).unwrap();
            let key = master.function_key(&u).unwrap();
            let plain: i64 = x.iter().zip(&u).map(|(x, u)| x * u).sum();
            prop_assert_eq!(decrypt_vartime(&key, &ciphertext, 1 << 20), Some(plain));
            prop_assert_eq!(decrypt_vartime(&key, &ciphertext, plain.abs() - 1), None);
            // Another master's key of the same u opens nothing, but for u = 0.
            let other = Master::setup(&mut rng, x.len()).function_key(&u).unwrap();
            let zero = u.iter().all(|u| *u == 0);
            prop_assert_eq!(decrypt_vartime(&other, &ciphertext, 1 << 20).is_none(), !zero);
        }
    }

    #[test]
    fn signed_integers_are_scalars() {
        for x in [0, 1, 2, i64::MAX] {
            assert_eq!(signed(x), Scalar::from(x.cast_unsigned()));
            assert_eq!(signed(x) + signed(-x), Scalar::ZERO);
        }
        assert_eq!(signed(i64::MIN), -Scalar::from(1u64 << 63));
    }

    #[test]
    fn other_lengths_are_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let master = Master::setup(&mut rng, 3);
        let wrong = WrongLength { expected: 3, got: 2 };
        assert_eq!(master.function_key(&[1, 2]).err(), Some(wrong));
        assert_eq!(master.public_key().encrypt(&mut rng, &[1, 2]).err(), Some(wrong));
        let ciphertext = master.public_key().encrypt(&mut rng, &[1, 2, 3]).unwrap();
        let short = Master::setup(&mut rng, 2).function_key(&[1, 2]).unwrap();
        assert_eq!(decrypt_vartime(&short, &ciphertext, 100), None);
    }

    /// The sizes are those of what is sent: 96 s and 32 f (s + 1) bytes.
    #[test]
    fn sizes_count_points() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (rows, features) = (5, 3);
        let public = Master::setup(&mut rng, rows).public_key();
        let sample: usize = (0..features)
            .map(|_| 1 + public.encrypt(&mut rng, &vec![1; rows]).unwrap().c.len())
            .sum();
        let encoded = G.compress().as_bytes().len();
        assert_eq!(sample_dimension_bytes(rows, features), sample * encoded);
        let slot = super::super::mife::Master::setup(&mut rng, 1, 1).party_key(0).unwrap();
        let points = slot.encrypt(&mut rng, 1).t.len() + 1;
        assert_eq!(feature_dimension_bytes(rows), rows * points * encoded);
        assert_eq!((feature_dimension_bytes(64), sample_dimension_bytes(64, 30)), (6_144, 62_400));
    }
}
