//! Threshold Paillier: Damgard and Jurik's scheme (PKC 2001) at s = 1, with the fast encryption of
//! Damgard, Jurik and Nielsen (2010), a dealer, and the dealer as a mandatory signer.
//!
//! The authority deals the key: it chooses the modulus n = p q of two safe primes, splits the secret
//! exponent into its own part and a part shared among N holders, seals every share to its holder and
//! forgets the primes. To open a sum it raises the ciphertexts to its part and T holders raise them
//! to their shares; every one proves that it did.
//!
//! | | |
//! |---|---|
//! | ciphertext | c = (1 + M n) h_s^a mod n^2, M packed from many values, a of half of n's bits |
//! | share | s_i = f(i), f of degree T - 1 modulo n m with f(0) = d - d_KA |
//! | partial decryption | c^(2 Delta s_i), Delta = N!; the authority's c^(2 Delta d_KA) |
//! | opening | product of the partial decryptions' powers by 2 lambda_i, then a division |
//!
//! # Security
//! Hides plaintexts under the decisional composite residuosity assumption and its variant for short
//! exponents in the group of h_s. **The dealer is trusted to make the key as described and to forget
//! it**: one that kept p and q opens every reply of the job alone. What is opened is bound by the
//! protocol, not by the key: the authority answers only for a sum it recomputed from a frozen list.
//! Fewer than T holders together with the authority, or all holders without it, learn nothing.
//! Not secure against quantum computers.
//!
//! Encryptions and powers with a secret exponent are constant time (`pair.rs`, `table.rs`): lengths are
//! public, tables are read whole. The dealer's powers are the library's silent ones. Sums, products
//! and remainders of secrets in proofs, the choice of sign, and the dealer's search for primes and
//! arithmetic are not promised to be constant time. Secret integers and what powers are made in are
//! overwritten when dropped; what the library itself moves or frees meanwhile is not.

mod baseline;
mod dealer;
mod key;
mod number;
mod pack;
mod pair;
mod primes;
mod proof;
mod public;
mod share;
#[cfg(any(test, feature = "testkit"))]
pub mod single;
mod size;
mod table;
pub mod testkit;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

pub use baseline::Bare;

use key::PaillierKey;
use public::PublicKey;
use share::{SEALED_OVERHEAD, Share, seal_info};
use size::{Layout, Size};

use super::{
    AUTHORITY, KeyFault, KeyPost, KeySecret, KeySetup, STEPS, ThresholdKey, ThresholdScheme,
};
use crate::keys::Identity;
use crate::secret::Secret;
use crate::sum::{Family, Role, SchemeError, SchemeInfo, Step, SumShape};

/// The scheme, with a modulus of 3072 bits.
pub const PAILLIER: Paillier = Paillier {
    size: Size(3072),
    info: &SchemeInfo {
        id: 0x0101,
        name: "paillier",
        family: Family::Threshold,
        steps: STEPS,
        served: true,
        source: "Damgard and Jurik, PKC 2001, section 4; Damgard, Jurik and Nielsen, 2010",
        leakage: "nothing beyond the sum; the authority dealt the key and is trusted to have \
                  forgotten the primes",
    },
};

/// The scheme with a modulus of 512 bits, which anybody can factor: for simulators only.
#[cfg(any(test, feature = "testkit"))]
pub const PAILLIER_512_INSECURE: Paillier = Paillier {
    size: Size(512),
    info: &SchemeInfo {
        id: 0x7f02,
        name: "paillier-512-insecure",
        family: Family::Threshold,
        steps: STEPS,
        served: false,
        source: "paillier with a modulus that is too small",
        leakage: "everything: the modulus can be factored",
    },
};

/// Threshold Paillier of one modulus size; the constants of this module are the only ones.
#[derive(Clone, Copy, Debug)]
pub struct Paillier {
    size: Size,
    info: &'static SchemeInfo,
}

static KEY_STEPS: &[Step] = &[Step { name: "key and sealed shares", by: Role::Authority }];

/// The key loaded last, by the hash of its encoding.
static LOADED: Mutex<Option<([u8; 32], Arc<PaillierKey>)>> = Mutex::new(None);

const fn fault<T>(from: u32, why: &'static str) -> Result<T, KeyFault> {
    Err(KeyFault { from, why })
}

/// The dealer's post.
struct Posted<'a> {
    key: PublicKey,
    /// Of the key.
    bytes: &'a [u8],
    /// Every holder's sealed share.
    sealed: &'a [u8],
}

impl Paillier {
    const fn sealed_bytes(self) -> usize {
        Share::bytes(self.size) + SEALED_OVERHEAD
    }

    /// Splits the dealer's post into the encoding of the public key and the sealed shares.
    fn split_post(self, bytes: &[u8], holders: usize) -> Option<(&[u8], &[u8])> {
        let key = PublicKey::bytes(self.size, holders);
        let all = key + holders * self.sealed_bytes();
        if bytes.len() == all { bytes.split_at_checked(key) } else { None }
    }

    /// The only post there may be, if it is there, with its key parsed.
    fn posted<'a>(
        self,
        setup: &KeySetup<'_>,
        posts: &'a [KeyPost],
    ) -> Result<Option<Posted<'a>>, KeyFault> {
        if let Some(stray) = posts.iter().find(|post| post.from != AUTHORITY || post.step != 0) {
            return fault(stray.from, "a post that is not part of the key");
        }
        let post = match posts {
            [] => return Ok(None),
            [post] => post,
            _ => return fault(AUTHORITY, "a second post"),
        };
        let Some((bytes, sealed)) = self.split_post(&post.bytes, setup.holders.len()) else {
            return fault(AUTHORITY, "the post has the wrong length");
        };
        match PublicKey::parse(self.size, bytes) {
            Ok(key)
                if key.threshold == setup.threshold
                    && key.holders() as usize == setup.holders.len() =>
            {
                Ok(Some(Posted { key, bytes, sealed }))
            }
            Ok(_) => fault(AUTHORITY, "the key has another threshold or other holders"),
            Err(SchemeError::Key(why)) => fault(AUTHORITY, why),
            Err(_) => fault(AUTHORITY, "the key does not parse"),
        }
    }
}

impl ThresholdScheme for Paillier {
    fn info(&self) -> &'static SchemeInfo {
        self.info
    }

    fn check(&self, shape: &SumShape) -> Result<(), SchemeError> {
        Layout::new(self.size, shape).map(|_| ())
    }

    fn reply_bytes(&self, shape: &SumShape) -> Option<usize> {
        Layout::new(self.size, shape).ok().map(|layout| layout.reply_bytes(self.size))
    }

    fn partial_bytes(&self, shape: &SumShape) -> Option<usize> {
        Layout::new(self.size, shape).ok().map(|layout| layout.partial_bytes(self.size))
    }

    fn key_steps(&self) -> &'static [Step] {
        KEY_STEPS
    }

    fn key_post(
        &self,
        setup: &KeySetup<'_>,
        step: usize,
        me: (u32, &Identity),
        _: &KeySecret,
        _: &[KeyPost],
        seed: &Secret<[u8; 32]>,
    ) -> Result<(Vec<u8>, KeySecret), SchemeError> {
        if step != 0 || me.0 != AUTHORITY {
            return Err(SchemeError::WrongStep);
        }
        dealer::deal(self.size, setup, &dealer::primes(self.size, seed), seed)
    }

    fn key_check(&self, setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<(), KeyFault> {
        self.posted(setup, posts).map(|_| ())
    }

    fn public_key(&self, setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<Vec<u8>, KeyFault> {
        match self.posted(setup, posts)? {
            Some(posted) => Ok(posted.bytes.to_vec()),
            None => fault(AUTHORITY, "no post"),
        }
    }

    fn key_share(
        &self,
        setup: &KeySetup<'_>,
        me: (u32, &Identity),
        secret: &KeySecret,
        posts: &[KeyPost],
    ) -> Result<KeySecret, SchemeError> {
        let (number, identity) = me;
        let posted = self.posted(setup, posts).map_err(|fault| SchemeError::Key(fault.why))?;
        let Posted { key, sealed, .. } = posted.ok_or(SchemeError::Key("no post"))?;
        let opened = match number.checked_sub(1) {
            None => Secret::new(secret.expose().clone()),
            Some(at) => {
                let mut shares = sealed.chunks_exact(self.sealed_bytes());
                let sealed = shares.nth(at as usize);
                let info = seal_info(&setup.context, &key.hash, number);
                sealed
                    .and_then(|sealed| identity.open_sealed(&info, sealed))
                    .ok_or(SchemeError::Key("the sealed share does not open"))?
            }
        };
        let share = Share::parse(&key, &opened)?;
        if share.number == number {
            Ok(opened)
        } else {
            Err(SchemeError::Key("a share of another participant"))
        }
    }

    fn load(&self, public_key: &[u8]) -> Result<Arc<dyn ThresholdKey>, SchemeError> {
        let parsed = PublicKey::parse(self.size, public_key)?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded.as_ref() {
            Some((hash, key)) if *hash == parsed.hash => Ok(key.clone()),
            _ => {
                let hash = parsed.hash;
                let key = Arc::new(PaillierKey::new(parsed));
                *loaded = Some((hash, key.clone()));
                Ok(key)
            }
        }
    }
}
