//! `elgamal`: lifted ElGamal on Ristretto255 with a key that nobody dealt.
//!
//! Desmedt, Frankel, *Threshold cryptosystems* (CRYPTO 1989), with the plaintext in the exponent
//! (Cramer, Gennaro, Schoenmakers, EUROCRYPT 1997):
//!
//! - Y = Y_A + Y_B; the authority holds the logarithm of Y_A, T of N holders that of Y_B, from the
//!   key generation in [`dkg`];
//! - a value m is (aG, aY + mG); ciphertexts add up;
//! - partial decryption: x C1 for each coordinate, x the participant's share, with one
//!   Chaum-Pedersen proof for all of them;
//! - open: C2 - y_A C1 - sum_i lambda_i x_i C1 = mG, then a discrete logarithm, so sums must be
//!   small: the scheme for counts.
//!
//! | bytes | content |
//! |---|---|
//! | public key | version 1, N (4), T (4), Y_A, Y_B, X_1 .. X_N (32 each) |
//! | reply | C1, C2 for each coordinate (32 each), challenge, response for a, response for m |
//! | partial | number (4), x C1 for each coordinate (32), challenge, response |
//!
//! Integers are little-endian; points and scalars in their canonical encoding.
//!
//! # Security
//! Decisional Diffie-Hellman and a random oracle: T - 1 holders with the authority, or all holders
//! without it, learn nothing but the opened sums. Encrypting, partial decryption and the key's making
//! are constant time in their secrets; checking and opening work on public values and are not.
//!
//! A reply proves knowledge of every a_j and m_j at once: commitments (r_a G, r_a Y + r_m G),
//! weights rho_j of 128 bits hashed from key, shape, binding, all ciphertexts and the commitments,
//! responses z_a = r_a + sum rho_j a_j and z_m likewise. L values are extracted from L + 1 accepting
//! transcripts with the same commitments: a prover that succeeds with probability well over 2^-128
//! does so on weights outside of any affine hyperplane, so the differences of the weights span the
//! whole space, and the linear system gives every a_j and m_j. The responses to given weights are
//! unique, so a proof cannot be altered into another, and one made for other ciphertexts or another
//! binding has other weights: copied, negated, scaled, re-randomised and replayed ciphertexts fail.

pub mod choice;
pub mod dkg;
mod key;
mod proof;

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use super::{KeyFault, KeyPost, KeySecret, KeySetup, STEPS, ThresholdKey, ThresholdScheme};
use crate::dlog;
use crate::keys::Identity;
use crate::secret::Secret;
use crate::sum::{Family, SchemeError, SchemeInfo, Step, SumShape};
use key::{ElGamalKey, NUMBER_BYTES, POINT_BYTES, REPLY_PROOF_BYTES};
use proof::PROOF_BYTES;

/// The scheme `elgamal`.
#[derive(Clone, Copy, Debug)]
pub struct ElGamal;

static INFO: SchemeInfo = SchemeInfo {
    id: 0x0102,
    name: "elgamal",
    family: Family::Threshold,
    steps: STEPS,
    served: true,
    source: "Desmedt, Frankel, CRYPTO 1989; Cramer, Gennaro, Schoenmakers, EUROCRYPT 1997; key \
             generation Pedersen, EUROCRYPT 1991, publicly checkable as Schindler, Judmayer, \
             Stifter, Weippl, ePrint 2019/985",
    leakage: "nothing",
};

/// Most coordinates of a sum.
pub const MAX_DIM: u64 = 100_000;
/// Most parties of a sum.
pub const MAX_PARTIES: u32 = 1024;
/// Most bits of a value.
pub const MAX_BITS: u32 = 32;
/// Most giant steps that opening a whole sum may take: minutes, if every coordinate is an extreme.
pub const MAX_STEPS: u64 = 1 << 28;

/// The greatest magnitude of a sum of `members` values.
pub(crate) fn bound(shape: &SumShape, members: u32) -> i64 {
    i64::from(members) << shape.bits.saturating_sub(1)
}

impl ThresholdScheme for ElGamal {
    fn info(&self) -> &'static SchemeInfo {
        &INFO
    }

    fn check(&self, shape: &SumShape) -> Result<(), SchemeError> {
        if !(1..=MAX_DIM).contains(&shape.dim) {
            return Err(SchemeError::Shape("1 to 100,000 coordinates"));
        }
        if !(2..=MAX_PARTIES).contains(&shape.parties) {
            return Err(SchemeError::Shape("2 to 1,024 parties"));
        }
        if !(2..=MAX_BITS).contains(&shape.bits) {
            return Err(SchemeError::Shape("values of 2 to 32 bits"));
        }
        let bound = bound(shape, shape.parties);
        if bound > 1 << 32 {
            return Err(SchemeError::Shape("sums of more than 33 bits take too long to open"));
        }
        if dlog::steps(-bound).saturating_mul(shape.dim) > MAX_STEPS {
            return Err(SchemeError::Shape(
                "so many coordinates of so many bits take too long to open",
            ));
        }
        Ok(())
    }

    fn reply_bytes(&self, shape: &SumShape) -> Option<usize> {
        coordinates(shape)?.checked_mul(2 * POINT_BYTES)?.checked_add(REPLY_PROOF_BYTES)
    }

    fn partial_bytes(&self, shape: &SumShape) -> Option<usize> {
        coordinates(shape)?.checked_mul(POINT_BYTES)?.checked_add(NUMBER_BYTES + PROOF_BYTES)
    }

    fn key_steps(&self) -> &'static [Step] {
        dkg::KEY_STEPS
    }

    fn key_post(
        &self,
        setup: &KeySetup<'_>,
        step: usize,
        me: (u32, &Identity),
        secret: &KeySecret,
        posts: &[KeyPost],
        seed: &Secret<[u8; 32]>,
    ) -> Result<(Vec<u8>, KeySecret), SchemeError> {
        dkg::post(setup, step, me, secret, posts, seed)
    }

    fn key_check(&self, setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<(), KeyFault> {
        dkg::check(setup, posts)
    }

    fn public_key(&self, setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<Vec<u8>, KeyFault> {
        dkg::public_key(setup, posts)
    }

    fn key_share(
        &self,
        setup: &KeySetup<'_>,
        me: (u32, &Identity),
        secret: &KeySecret,
        posts: &[KeyPost],
    ) -> Result<KeySecret, SchemeError> {
        dkg::share(setup, me, secret, posts)
    }

    fn load(&self, public_key: &[u8]) -> Result<Arc<dyn ThresholdKey>, SchemeError> {
        static LAST: Mutex<Option<Arc<ElGamalKey>>> = Mutex::new(None);
        let known = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(key) = known.filter(|key| key.is(public_key)) {
            return Ok(key);
        }
        let key = Arc::new(ElGamalKey::parse(public_key)?);
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(key)
    }
}

/// d, bounded: nothing is allocated for more.
fn coordinates(shape: &SumShape) -> Option<usize> {
    usize::try_from(shape.dim).ok().filter(|_| shape.dim <= MAX_DIM)
}
