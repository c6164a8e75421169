//! Threshold encryption for secure sums: anyone encrypts under one public key; the authority and T of
//! N holders open a sum together, and fewer open nothing.
//!
//! A scheme implements [`ThresholdScheme`] and, once its public key is known, [`ThresholdKey`].
//! [`ThresholdSum`] makes every such scheme a [`SumScheme`](crate::sum::SumScheme) with three steps:
//! parties reply, the authority gives its partial decryption, T holders give theirs. Schemes are
//! registered by a line in [`schemes`](crate::schemes).
//!
//! Participants of a key are numbered: 0 is the authority, whose share is always needed, 1 to N are
//! the holders in the order of the key's call.
//!
//! # Security
//! Ciphertexts are malleable, so every reply carries a proof of knowledge of its plaintext and
//! randomness, bound to the label and its party: a copied, negated, scaled, re-randomised or replayed
//! ciphertext is refused. Every partial decryption carries a proof that names a liar. All replies are
//! checked before a share touches their sum.

#[cfg(any(test, feature = "testkit"))]
pub mod conformance;
pub mod elgamal;
pub mod paillier;
mod sum;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keys::{ExchangeKey, Identity};
use crate::secret::Secret;
use crate::sum::{SchemeError, SchemeInfo, Step, SumShape};

pub use sum::{HolderInput, PartyInput, STEPS, ThresholdSum};

/// The authority's number among the participants of a key.
pub const AUTHORITY: u32 = 0;
/// Most holders of one key.
pub const MAX_HOLDERS: u32 = 64;

/// What a reply is bound to: a hash over its label, party and nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyBinding(pub [u8; 32]);

/// What is fixed before a key is made.
#[derive(Clone, Copy, Debug)]
pub struct KeySetup<'a> {
    /// Hash of the signed call for this key: job, attempt and every participant's keys.
    pub context: [u8; 32],
    /// The authority's enrolled exchange key.
    pub authority: ExchangeKey,
    /// The holders' enrolled exchange keys; holder i is at position i - 1.
    pub holders: &'a [ExchangeKey],
    /// T, the holders needed to open, besides the authority.
    pub threshold: u32,
}

/// What one participant posted in one step of making a key. Everyone sees every post.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyPost {
    /// Index into [`ThresholdScheme::key_steps`].
    pub step: u16,
    /// Number of the participant.
    pub from: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Who broke the making of a key, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("participant {from} of the key: {why}")]
pub struct KeyFault {
    /// Number of the participant.
    pub from: u32,
    /// What is wrong with its posts.
    pub why: &'static str,
}

/// A participant's secret bytes while a key is made, and its share afterwards; kept where only their
/// owner reads.
pub type KeySecret = Secret<Vec<u8>>;

/// A threshold encryption scheme.
///
/// # Security
/// A key serves one job: its label binds the key, and its participants answer once per label.
pub trait ThresholdScheme: Send + Sync {
    /// What this scheme is.
    fn info(&self) -> &'static SchemeInfo;

    /// Refuses a shape that cannot be summed and opened exactly: `shape.dim` values of `shape.bits`
    /// bits (two's complement) from at most `shape.parties` parties.
    ///
    /// # Errors
    /// [`SchemeError::Shape`] with the reason.
    fn check(&self, shape: &SumShape) -> Result<(), SchemeError>;

    /// Bytes of one party's reply, its proof included.
    fn reply_bytes(&self, shape: &SumShape) -> Option<usize>;

    /// Bytes of one partial decryption, the participant's number (4 bytes, little-endian) and the
    /// proof included.
    fn partial_bytes(&self, shape: &SumShape) -> Option<usize>;

    /// Steps in which the key is made. In each, every participant of the step's role
    /// ([`Role::Authority`](crate::sum::Role) or [`Role::Decryptor`](crate::sum::Role)) posts once,
    /// having seen all posts of the steps before. The last step is the authority's: with its post the
    /// key is complete, and protocols rely on that.
    fn key_steps(&self) -> &'static [Step];

    /// This participant's post in `step` and the secret it keeps for its next step.
    ///
    /// `secret` is what its step before returned (empty at first), `posts` are all posts of earlier
    /// steps, sorted. May take long: the dealer of a Paillier key searches for primes.
    ///
    /// # Errors
    /// [`SchemeError::WrongStep`]; [`SchemeError::Key`] when the posts leave no way on.
    ///
    /// # Security
    /// `seed` is fresh randomness; the same seed gives the same post, so a step that a crash
    /// interrupted before its post left may run again with another.
    fn key_post(
        &self,
        setup: &KeySetup<'_>,
        step: usize,
        me: (u32, &Identity),
        secret: &KeySecret,
        posts: &[KeyPost],
        seed: &Secret<[u8; 32]>,
    ) -> Result<(Vec<u8>, KeySecret), SchemeError>;

    /// Checks all posts so far; whoever runs it comes to the same answer.
    ///
    /// # Errors
    /// [`KeyFault`] naming the first participant whose posts are wrong.
    fn key_check(&self, setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<(), KeyFault>;

    /// The public key that complete posts agree on.
    ///
    /// # Errors
    /// As [`ThresholdScheme::key_check`]; also when a post is missing.
    fn public_key(&self, setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<Vec<u8>, KeyFault>;

    /// This participant's share of the secret key, from what its last step returned.
    ///
    /// # Errors
    /// [`SchemeError::Key`] when the share does not match the public key.
    fn key_share(
        &self,
        setup: &KeySetup<'_>,
        me: (u32, &Identity),
        secret: &KeySecret,
        posts: &[KeyPost],
    ) -> Result<KeySecret, SchemeError>;

    /// Parses a public key and prepares it for use; implementations keep the tables of the last one.
    ///
    /// # Errors
    /// [`SchemeError::Key`].
    fn load(&self, public_key: &[u8]) -> Result<Arc<dyn ThresholdKey>, SchemeError>;
}

/// A public key at work.
///
/// Values are signed integers of `shape.bits` bits; a sum over `shape.parties` parties is exact.
pub trait ThresholdKey: Send + Sync {
    /// Encrypts `values` and proves knowledge of them, into `out` of
    /// [`ThresholdScheme::reply_bytes`].
    ///
    /// # Errors
    /// [`SchemeError::Length`]; [`SchemeError::OutOfRange`] when a value has more bits.
    ///
    /// # Security
    /// `seed` must be fresh for each (binding, values); the same inputs give the same bytes, so that
    /// a restart repeats a reply and does not make a second one.
    fn encrypt(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        values: &[i64],
        seed: &Secret<[u8; 32]>,
        out: &mut [u8],
    ) -> Result<(), SchemeError>;

    /// Checks form and proof of a reply.
    ///
    /// # Errors
    /// [`SchemeError::Length`], [`SchemeError::Malformed`], [`SchemeError::BadProof`].
    fn verify_reply(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        reply: &[u8],
    ) -> Result<(), SchemeError>;

    /// An empty sum.
    fn sum(&self, shape: &SumShape) -> Box<dyn CipherSum>;

    /// This participant's partial decryption of a sum, with its proof, into `out` of
    /// [`ThresholdScheme::partial_bytes`].
    ///
    /// # Errors
    /// [`SchemeError::Length`]; [`SchemeError::Key`] when `share` is not one of this key.
    ///
    /// # Security
    /// Constant time in `share`. The caller recomputed `sum` from checked replies of a frozen set.
    fn partial(
        &self,
        shape: &SumShape,
        context: &[u8; 32],
        share: &KeySecret,
        sum: &dyn CipherSum,
        seed: &Secret<[u8; 32]>,
        out: &mut [u8],
    ) -> Result<(), SchemeError>;

    /// Checks a partial decryption of `sum` and returns its participant's number.
    ///
    /// # Errors
    /// [`SchemeError::Length`], [`SchemeError::Malformed`], [`SchemeError::BadProof`].
    fn verify_partial(
        &self,
        shape: &SumShape,
        context: &[u8; 32],
        sum: &dyn CipherSum,
        partial: &[u8],
    ) -> Result<u32, SchemeError>;

    /// Opens a sum of `members` replies with checked partial decryptions: the authority's and T of
    /// different holders.
    ///
    /// # Errors
    /// [`SchemeError::Messages`] with the wrong set of participants; [`SchemeError::OutOfRange`] for
    /// a coordinate that no `members` values add up to.
    fn open(
        &self,
        shape: &SumShape,
        members: u32,
        sum: &dyn CipherSum,
        partials: &[&[u8]],
        out: &mut Zeroizing<Vec<i64>>,
    ) -> Result<(), SchemeError>;
}

/// Replies added up.
pub trait CipherSum: Send {
    /// Adds a reply that was checked.
    ///
    /// # Errors
    /// [`SchemeError::Length`], [`SchemeError::Malformed`].
    fn add(&mut self, reply: &[u8]) -> Result<(), SchemeError>;

    /// The sum's ciphertexts in the scheme's canonical encoding.
    fn to_bytes(&self) -> Vec<u8>;

    /// For the scheme's own use.
    fn as_any(&self) -> &dyn core::any::Any;
}
