//! A verifiable oblivious pseudorandom function over Ristretto255: RFC 9497, mode VOPRF, suite
//! `ristretto255-SHA512`, in batches, with one key or with the sum of several authorities' keys.
//!
//! A party learns F_k(x) for its inputs x, an authority holds k. For one batch of inputs:
//!
//! 1. [`Blinder::blind`] (party): C = r H(x) for each input, r a secret scalar;
//! 2. [`EvaluationKey::evaluate`] (each authority a): D_a = k_a C for each element, and one proof for
//!    the whole batch that log_C D_a = log_G (k_a G);
//! 3. [`Evaluated::check`] (party): one authority's answer, checked under its public key;
//! 4. [`Blinder::finalise`] (party): F(x) = SHA-512(x, r^-1 sum_a D_a), 64 bytes.
//!
//! With m authorities F is the RFC's function under the key k_1 + ... + k_m, which nobody holds. Batches
//! are independent of each other: they can be streamed, repeated, and computed on several threads.
//!
//! # Security
//! One-more gap Diffie-Hellman in the random oracle model (RFC 9497, section 7.1).
//! - An authority sees uniform group elements: it learns how many inputs there are, and nothing of
//!   them, however much it computes.
//! - F(x) is uniform to whoever lacks one of the k_a. An evaluation gives its asker one value of F: the
//!   authority must count elements, since guesses cost one element each.
//! - The proof is one of knowledge of k_a, and no authority can use different keys for different
//!   parties, provided that the parties got the public keys from one manifest. So an authority cannot
//!   choose its key such that it cancels the others' either: one honest authority hides F.
//! - Evaluations of chosen elements cost security (static Diffie-Hellman, RFC 9497, section 7.2.3): at most
//!   log2(q) / 2 of 126 bits for q of them, so 12 bits for 2^24. A key is for one job.
//! - Everything that touches a blind, an input or a key is constant time; the checks of proofs are not,
//!   and see public values only.

mod proof;
mod suite;
#[cfg(test)]
mod tests;

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::merkle::{Hash, hash_parts};
use crate::secret::Secret;

/// Bytes of one blinded or evaluated element, and of a public key.
pub const ELEMENT_BYTES: usize = 32;
/// Bytes of the proof at the end of an evaluated batch.
pub const PROOF_BYTES: usize = 64;
/// Bytes of one value of the function.
pub const OUTPUT_BYTES: usize = 64;
/// Most elements of one batch: 128 KiB of elements. (The RFC's index has 16 bits.)
pub const MAX_BATCH: usize = 4096;

/// An authority's public key, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; ELEMENT_BYTES]);

impl core::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl PublicKey {
    fn point(&self) -> Result<RistrettoPoint, OprfError> {
        decode(&self.0).ok_or(OprfError::PublicKey)
    }
}

/// What is wrong with an input, a key or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OprfError {
    /// An empty batch, or one above [`MAX_BATCH`].
    #[error("a batch has 1 to {MAX_BATCH} elements, not {0}")]
    Batch(usize),
    /// A message has the wrong length.
    #[error("wrong length: expected {expected} bytes, got {got}")]
    Length {
        /// Bytes expected.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// Bytes that are no canonical element, or the identity.
    #[error("malformed element at position {0}")]
    Element(usize),
    /// A public key that is no canonical element, or the identity.
    #[error("malformed public key")]
    PublicKey,
    /// A proof with a scalar out of range, or one that does not verify.
    #[error("the proof of an evaluation does not verify")]
    Proof,
    /// An input longer than 65,535 bytes, or one without a group element (chance 2^-252).
    #[error("input {0} cannot be used")]
    Input(usize),
    /// The evaluations are not those of the expected authorities over one batch.
    #[error("the evaluations do not belong together")]
    Evaluations,
    /// A seed of which no key comes (chance below 2^-252).
    #[error("no key comes of this seed")]
    Seed,
}

/// A canonical element other than the identity.
fn decode(bytes: &[u8; ELEMENT_BYTES]) -> Option<RistrettoPoint> {
    CompressedRistretto(*bytes).decompress().filter(|point| !point.is_identity())
}

/// The elements of one batch and their encodings.
struct Elements<'a> {
    bytes: &'a [[u8; ELEMENT_BYTES]],
    points: Vec<RistrettoPoint>,
}

impl<'a> Elements<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, OprfError> {
        let (bytes, rest) = bytes.as_chunks::<ELEMENT_BYTES>();
        if !rest.is_empty() {
            let whole = bytes.len() * ELEMENT_BYTES;
            return Err(OprfError::Length { expected: whole, got: whole + rest.len() });
        }
        check_batch(bytes.len())?;
        let points = (0..)
            .zip(bytes)
            .map(|(i, bytes)| decode(bytes).ok_or(OprfError::Element(i)))
            .collect::<Result<_, _>>()?;
        Ok(Self { bytes, points })
    }
}

const fn check_batch(len: usize) -> Result<(), OprfError> {
    if len == 0 || len > MAX_BATCH { Err(OprfError::Batch(len)) } else { Ok(()) }
}

/// Encodes 2P for each point: a batch costs one inversion.
fn encode_doubles(halves: &[RistrettoPoint]) -> impl Iterator<Item = [u8; ELEMENT_BYTES]> {
    RistrettoPoint::double_and_compress_batch(halves).into_iter().map(|point| point.to_bytes())
}

fn half() -> Scalar {
    Scalar::from(2u8).invert()
}

/// An authority's secret key k_a, for one job.
///
/// # Security
/// Zeroized on drop; no `Debug`, `Clone` or `Serialize`.
pub struct EvaluationKey {
    secret: Secret<Scalar>,
    half: Secret<Scalar>,
    public: PublicKey,
}

crate::assert_secret!(EvaluationKey, Blinder, Outputs);

impl EvaluationKey {
    /// The key of `seed` and `info` (RFC 9497, `DeriveKeyPair`): the same one after a restart.
    ///
    /// # Errors
    /// [`OprfError::Input`] when `info` is longer than 65,535 bytes, [`OprfError::Seed`] by chance.
    ///
    /// # Security
    /// One seed, such as [`Identity::derive_seed`](crate::keys::Identity::derive_seed) gives, for one
    /// job: values of one job then say nothing about another's.
    pub fn derive(seed: &Secret<[u8; 32]>, info: &[u8]) -> Result<Self, OprfError> {
        let secret = suite::derive_scalar(seed.expose(), info)?;
        let half = Secret::new(*secret.expose() * half());
        let public = RistrettoPoint::mul_base(secret.expose()).compress();
        Ok(Self { secret, half, public: PublicKey(public.to_bytes()) })
    }

    /// k_a G, which the job's manifest binds.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Evaluates a batch: its elements in their order, then the proof.
    ///
    /// The same batch gets the same bytes.
    ///
    /// # Errors
    /// [`OprfError::Length`], [`OprfError::Batch`] and [`OprfError::Element`] are the asker's fault.
    ///
    /// # Security
    /// Gives away one value of F for each element: the caller counts them against what the party has
    /// declared, before it sends the answer.
    pub fn evaluate(&self, blinded: &[u8]) -> Result<Vec<u8>, OprfError> {
        self.evaluate_with(blinded, |m, z| suite::proof_nonce(self.secret.expose(), m, z))
    }

    fn evaluate_with(
        &self,
        blinded: &[u8],
        nonce: impl FnOnce(&RistrettoPoint, &RistrettoPoint) -> Secret<Scalar>,
    ) -> Result<Vec<u8>, OprfError> {
        let blinded = Elements::decode(blinded)?;
        let halves: Vec<_> = blinded.points.iter().map(|c| c * self.half.expose()).collect();
        let evaluated: Vec<_> = encode_doubles(&halves).collect();
        let weights = proof::weights(&self.public, blinded.bytes, &evaluated);
        let m = proof::combine(&weights, &blinded.points);
        let z = m * self.secret.expose();
        let nonce = nonce(&m, &z);
        let proof = proof::prove(self.secret.expose(), &self.public, &m, &z, nonce.expose());
        let mut out = evaluated.into_flattened();
        out.extend_from_slice(&proof);
        Ok(out)
    }
}

/// One authority's answer to one batch, checked.
///
/// There is no other way to get one, so an unchecked answer cannot be used.
pub struct Evaluated {
    key: PublicKey,
    /// SHA-256 of the blinded batch.
    of: Hash,
    points: Vec<RistrettoPoint>,
}

fn batch_hash(blinded: &[u8]) -> Hash {
    hash_parts("quorate/oprf/batch/1", &[blinded])
}

impl Evaluated {
    /// Checks an authority's answer to the batch `blinded`, the bytes that were sent to it.
    ///
    /// # Errors
    /// Any error is the authority's fault, unless `blinded` or `key` themselves are malformed.
    pub fn check(key: &PublicKey, blinded: &[u8], answer: &[u8]) -> Result<Self, OprfError> {
        let key_point = key.point()?;
        let sent = Elements::decode(blinded)?;
        let expected = blinded.len() + PROOF_BYTES;
        let wrong = OprfError::Length { expected, got: answer.len() };
        if answer.len() != expected {
            return Err(wrong);
        }
        let (elements, proof) = answer.split_last_chunk::<PROOF_BYTES>().ok_or(wrong)?;
        let evaluated = Elements::decode(elements)?;
        let weights = proof::weights(key, sent.bytes, evaluated.bytes);
        let m = proof::combine(&weights, &sent.points);
        let z = proof::combine(&weights, &evaluated.points);
        if !proof::verify(key, &key_point, &m, &z, proof) {
            return Err(OprfError::Proof);
        }
        Ok(Self { key: *key, of: batch_hash(blinded), points: evaluated.points })
    }

    /// The key under which the answer was checked.
    #[must_use]
    pub const fn key(&self) -> PublicKey {
        self.key
    }
}

/// Values of the function, one for each input of a batch.
///
/// # Security
/// With the input they are a keyed fingerprint of it: zeroized on drop.
pub struct Outputs(Secret<Vec<[u8; OUTPUT_BYTES]>>);

impl Outputs {
    /// The values in the order of the inputs.
    #[must_use]
    pub fn expose(&self) -> &[[u8; OUTPUT_BYTES]] {
        self.0.expose()
    }
}

/// A party's blinds: each is drawn from a secret seed and the input it hides.
///
/// Nothing has to be kept between blinding and finalising besides the seed, the inputs and the bytes
/// sent, and after a restart the same inputs give the same bytes.
///
/// # Security
/// A blind never covers two different inputs, even where a caller mixes up its batches.
pub struct Blinder {
    seed: Secret<[u8; 32]>,
}

impl Blinder {
    /// Blinds of a seed: fresh for each job, known to this party only.
    #[must_use]
    pub const fn new(seed: Secret<[u8; 32]>) -> Self {
        Self { seed }
    }

    /// Blinds of a fresh seed.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Secret::new([0; 32]);
        rng.fill_bytes(seed.expose_mut());
        Self { seed }
    }

    fn blinds<I: AsRef<[u8]>>(&self, inputs: &[I]) -> Secret<Vec<Scalar>> {
        Secret::new(inputs.iter().map(|x| suite::blind(self.seed.expose(), x.as_ref())).collect())
    }

    /// Blinds a batch of inputs: 32 bytes for each, in their order.
    ///
    /// # Errors
    /// [`OprfError::Batch`]; [`OprfError::Input`] for one that is too long.
    pub fn blind<I: AsRef<[u8]>>(&self, inputs: &[I]) -> Result<Vec<u8>, OprfError> {
        check_batch(inputs.len())?;
        blind_with(inputs, &self.blinds(inputs))
    }

    /// The values of F for a batch of inputs, from the checked answers of all authorities in the order
    /// of their `keys`; `blinded` is what [`blind`](Self::blind) gave.
    ///
    /// # Errors
    /// [`OprfError::Evaluations`] when an authority's answer is missing, is not of this batch, or was
    /// checked under another key.
    pub fn finalise<I: AsRef<[u8]>>(
        &self,
        inputs: &[I],
        blinded: &[u8],
        keys: &[PublicKey],
        answers: &[Evaluated],
    ) -> Result<Outputs, OprfError> {
        check_batch(inputs.len())?;
        finalise_with(inputs, self.blinds(inputs), blinded, keys, answers)
    }
}

fn blind_with<I: AsRef<[u8]>>(
    inputs: &[I],
    blinds: &Secret<Vec<Scalar>>,
) -> Result<Vec<u8>, OprfError> {
    let half = half();
    let mut halves = Vec::with_capacity(inputs.len());
    for (i, (input, blind)) in inputs.iter().zip(blinds.expose()).enumerate() {
        let input = input.as_ref();
        if u16::try_from(input.len()).is_err() {
            return Err(OprfError::Input(i));
        }
        let blind = Zeroizing::new(blind * half);
        halves.push(suite::hash_to_group(input) * *blind);
    }
    if let Some(i) = halves.iter().position(IsIdentity::is_identity) {
        return Err(OprfError::Input(i));
    }
    Ok(encode_doubles(&halves).collect::<Vec<_>>().into_flattened())
}

fn finalise_with<I: AsRef<[u8]>>(
    inputs: &[I],
    mut blinds: Secret<Vec<Scalar>>,
    blinded: &[u8],
    keys: &[PublicKey],
    answers: &[Evaluated],
) -> Result<Outputs, OprfError> {
    let of = batch_hash(blinded);
    let belongs = |(answer, key): (&Evaluated, &PublicKey)| {
        answer.key == *key && answer.of == of && answer.points.len() == inputs.len()
    };
    if keys.is_empty() || keys.len() != answers.len() || !answers.iter().zip(keys).all(belongs) {
        return Err(OprfError::Evaluations);
    }
    let mut sums = vec![RistrettoPoint::default(); inputs.len()];
    for answer in answers {
        sums.iter_mut().zip(&answer.points).for_each(|(sum, point)| *sum += point);
    }
    // Keys that add up to zero: nobody can make them, given the proofs.
    if sums.iter().any(IsIdentity::is_identity) {
        return Err(OprfError::Evaluations);
    }
    Scalar::invert_batch_alloc(blinds.expose_mut());
    let half = half();
    let halves: Zeroizing<Vec<_>> = Zeroizing::new(
        sums.iter().zip(blinds.expose()).map(|(sum, inverse)| sum * (inverse * half)).collect(),
    );
    let mut outputs = Secret::new(Vec::with_capacity(inputs.len()));
    for (i, (input, element)) in inputs.iter().zip(encode_doubles(&halves)).enumerate() {
        let element = Zeroizing::new(element);
        let input = input.as_ref();
        let len = u16::try_from(input.len()).map_err(|_| OprfError::Input(i))?;
        let mut hash = Sha512::new();
        hash.update(len.to_be_bytes());
        hash.update(input);
        hash.update(suite::ELEMENT_LEN);
        hash.update(element);
        hash.update(b"Finalize");
        outputs.expose_mut().push(hash.finalize().into());
    }
    Ok(Outputs(outputs))
}
