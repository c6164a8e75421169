//! `mife-ref`: the multi-input functional encryption of the HybridAlpha paper as published, to be
//! attacked in the laboratory.
//!
//! HybridAlpha (arXiv 1912.05897) on Abdalla, Catalano, Fiore, Gay, Ursu: *Multi-Input Functional
//! Encryption for Inner Products* (CRYPTO 2018), with the Agrawal-Libert-Stehlé inner layer; group
//! Ristretto255, one scalar slot per party:
//!
//! - Setup: a = (1, alpha); for each party W_i in Z_q^{1x2} and u_i in Z_q.
//! - sk_i = ([a], [W_i a], u_i).
//! - Enc(sk_i, x): r random; t = [a r], c = [x + u_i + W_i a r].
//! - KeyGen(y): d_i = y_i W_i, z = sum_i y_i u_i.
//! - Dec: sum_i (y_i c_i - d_i t_i) - [z] = [sum_i y_i x_i], then a discrete logarithm.
//!
//! It does not implement [`crate::sum::SumScheme`], because that trait's contract is a key bound to
//! one label, and nothing here has a label: W_i and u_i are the same for every coordinate and every
//! round, so one key opens any mixture of them.
//!
//! # Security
//! Insecure as used by the paper, which is why this module exists. The first legal key contains
//! every W_i, after which each ciphertext is x + u_i with a constant u_i; and keys over two sets
//! that differ in one party open that party, in every round.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use rand_core::CryptoRng;
use zeroize::Zeroize;

use super::STEPS;
use crate::dlog;
use crate::secret::Secret;
use crate::sum::{Family, SchemeInfo};

/// What this scheme is; it is in no registry.
pub static INFO: SchemeInfo = SchemeInfo {
    id: 0x7f01,
    name: "mife-ref",
    family: Family::FunctionalEncryption,
    steps: STEPS,
    served: false,
    source: "HybridAlpha (AISec 2019) on Abdalla et al. (CRYPTO 2018), as published",
    leakage: "differences of one party's values across coordinates and rounds, and each value \
              once two sets that differ in one party were keyed",
};

/// The authority's master secret for `n` parties.
pub struct Master {
    alpha: Secret<Scalar>,
    slots: Secret<Vec<Slot>>,
    threshold: usize,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    w: [Scalar; 2],
    u: Scalar,
}

impl Zeroize for Slot {
    fn zeroize(&mut self) {
        self.w.zeroize();
        self.u.zeroize();
    }
}

/// A party's encryption key.
pub struct PartyKey {
    a: [RistrettoPoint; 2],
    wa: RistrettoPoint,
    u: Secret<Scalar>,
}

/// One encrypted value.
#[derive(Clone, Copy, Debug)]
pub struct Ciphertext {
    /// \[a r\].
    pub t: [RistrettoPoint; 2],
    /// \[x + u + W a r\].
    pub c: RistrettoPoint,
}

/// A functional key, as the aggregator receives it.
#[derive(Clone, Debug)]
pub struct FunctionKey {
    /// y, the weights times the number of contributors.
    pub y: Vec<u8>,
    /// y_i W_i for each party.
    pub d: Vec<[Scalar; 2]>,
    /// sum_i y_i u_i.
    pub z: Scalar,
}

/// Why the paper's inference-prevention filter refused a weight vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Filtered {
    /// Not one entry per party.
    #[error("one weight per party")]
    Length,
    /// A non-zero entry differs from 1/c.
    #[error("every non-zero weight must be 1/c")]
    Skewed,
    /// Fewer than t contributors.
    #[error("fewer contributors than the threshold")]
    TooFew,
}

impl Master {
    /// Draws the secrets of `n` parties; keys need at least `threshold` contributors.
    pub fn setup<R: CryptoRng + ?Sized>(rng: &mut R, n: usize, threshold: usize) -> Self {
        let alpha = Secret::new(Scalar::random(rng));
        let mut slots = Secret::new(Vec::with_capacity(n));
        for _ in 0..n {
            let [w0, w1, u] = [(); 3].map(|()| Scalar::random(rng));
            slots.expose_mut().push(Slot { w: [w0, w1], u });
        }
        Self { alpha, slots, threshold }
    }

    /// The encryption key of party `i`.
    #[must_use]
    pub fn party_key(&self, i: usize) -> Option<PartyKey> {
        let slot = self.slots.expose().get(i)?;
        let a = [G, self.alpha.expose() * G];
        let [w0, w1] = slot.w;
        Some(PartyKey { a, wa: w0 * G + (w1 * self.alpha.expose()) * G, u: Secret::new(slot.u) })
    }

    /// The functional key for weights `y_i / c`, c being the number of non-zero entries, after the
    /// paper's filter. There is no memory of earlier keys: the paper has none.
    ///
    /// # Errors
    /// [`Filtered`].
    pub fn function_key(&self, y: &[u8]) -> Result<FunctionKey, Filtered> {
        let slots = self.slots.expose();
        if y.len() != slots.len() {
            return Err(Filtered::Length);
        }
        if y.iter().any(|weight| *weight > 1) {
            return Err(Filtered::Skewed);
        }
        if y.iter().filter(|weight| **weight == 1).count() < self.threshold {
            return Err(Filtered::TooFew);
        }
        let weighted = || slots.iter().zip(y).map(|(slot, y)| (slot, Scalar::from(*y)));
        Ok(FunctionKey {
            y: y.to_vec(),
            d: weighted().map(|(slot, y)| slot.w.map(|w| w * y)).collect(),
            z: weighted().map(|(slot, y)| slot.u * y).sum(),
        })
    }
}

impl PartyKey {
    /// Encrypts one value.
    pub fn encrypt<R: CryptoRng + ?Sized>(&self, rng: &mut R, x: i64) -> Ciphertext {
        let r = Secret::new(Scalar::random(rng));
        let message = signed(x) + self.u.expose();
        Ciphertext { t: self.a.map(|a| r.expose() * a), c: message * G + r.expose() * self.wa }
    }
}

/// The scalar of a signed integer.
fn signed(x: i64) -> Scalar {
    // x + 2^63 is non-negative: no branch on the sign.
    Scalar::from(x.cast_unsigned() ^ 1 << 63) - Scalar::from(1u64 << 63)
}

/// Opens sum_i y_i x_i, if its magnitude is at most `bound`; `ciphertexts` holds one per party, of
/// any coordinate and any round.
///
/// # Security
/// Variable time.
#[must_use]
pub fn decrypt_vartime(key: &FunctionKey, ciphertexts: &[Ciphertext], bound: i64) -> Option<i64> {
    let masked: RistrettoPoint = ciphertexts
        .iter()
        .zip(key.y.iter().zip(&key.d))
        .map(|(ciphertext, (y, [d0, d1]))| {
            let [t0, t1] = ciphertext.t;
            Scalar::from(*y) * ciphertext.c - d0 * t0 - d1 * t1
        })
        .sum();
    solve_vartime(masked - key.z * G, bound)
}

/// x with `point` = \[x\] and |x| <= `bound`.
#[must_use]
pub fn solve_vartime(point: RistrettoPoint, bound: i64) -> Option<i64> {
    let found = dlog::table().solve_vartime(&[point], bound).into_iter().flatten().next()?;
    (found.abs() <= bound).then_some(found)
}
