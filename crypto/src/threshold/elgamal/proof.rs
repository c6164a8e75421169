//! Schnorr and Chaum-Pedersen proofs made non-interactive, and what they are made of: transcripts,
//! seeded scalars and hashed weights.
//!
//! A proof is a challenge and its responses, 32 bytes each and canonical. The challenge is a hash over
//! the whole statement and the commitments (the strong form of Fiat-Shamir: Bernhard, Pereira,
//! Warinschi, ASIACRYPT 2012); the verifier recomputes the commitments from it. A statement and a
//! challenge leave one response only, so proofs cannot be altered either (Faust, Kohlweiss, Marson,
//! Venturi, INDOCRYPT 2012).

use chacha20::ChaCha20;
use cipher::{KeyIvInit, StreamCipher};
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use hkdf::Hkdf;
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Bytes of a proof with one response.
pub(super) const PROOF_BYTES: usize = 64;

/// The hash of a statement while it is being said.
#[derive(Clone)]
pub(super) struct Transcript(Sha512);

impl Transcript {
    /// A transcript of its own domain.
    pub(super) fn new(domain: &str) -> Self {
        Self(Sha512::new()).with(b"quorate/elgamal/1").with(domain.as_bytes())
    }

    /// Adds one part, its length in front.
    pub(super) fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// As [`Transcript::add`], by value.
    pub(super) fn with(mut self, part: &[u8]) -> Self {
        self.add(part);
        self
    }

    fn with_point(self, point: &RistrettoPoint) -> Self {
        self.with(point.compress().as_bytes())
    }

    /// 32 bytes of the hash.
    pub(super) fn digest(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.iter_mut().zip(self.0.finalize()).for_each(|(to, byte)| *to = byte);
        out
    }

    /// The first 128 bits of the hash.
    pub(super) fn short_challenge(self) -> u128 {
        let hash: [u8; 64] = self.0.finalize().into();
        hash.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
    }

    /// The hash as a scalar.
    fn challenge(self) -> Scalar {
        Scalar::from_bytes_mod_order_wide(&self.0.finalize().into())
    }
}

/// Secret scalars from a seed.
///
/// # Security
/// Bound to the secret inputs of its use too: a seed used twice by mistake, on other inputs, does
/// not repeat a scalar.
pub(super) struct Draw(ChaCha20);

impl Draw {
    /// Scalars for `domain` and `inputs`.
    pub(super) fn new(seed: &Secret<[u8; 32]>, domain: &str, inputs: &[&[u8]]) -> Self {
        let mut said = Transcript::new(domain);
        inputs.iter().for_each(|input| said.add(input));
        let said = Zeroizing::new(said.digest());
        let mut key = Zeroizing::new([0u8; 32]);
        Hkdf::<Sha256>::new(None, seed.expose())
            .expand(said.as_ref(), key.as_mut())
            .unwrap_or_else(|_| unreachable!("32 bytes is a legal HKDF length"));
        Self(ChaCha20::new((&*key).into(), &[0u8; 12].into()))
    }

    /// The next scalar.
    pub(super) fn scalar(&mut self) -> Scalar {
        let mut wide = Zeroizing::new([0u8; 64]);
        self.0.apply_keystream(wide.as_mut());
        Scalar::from_bytes_mod_order_wide(&wide)
    }

    /// The next 128 bits.
    pub(super) fn word(&mut self) -> u128 {
        let mut bytes = Zeroizing::new([0u8; 16]);
        self.0.apply_keystream(bytes.as_mut());
        u128::from_le_bytes(*bytes)
    }
}

/// 128-bit weights for a batch, hashed from a digest of everything in it.
pub(super) fn weights(seed: &[u8; 32]) -> impl Iterator<Item = Scalar> {
    let transcript = Transcript::new("weights").with(seed);
    (0u64..).flat_map(move |block| {
        let hash: [u8; 64] = transcript.clone().with(&block.to_le_bytes()).0.finalize().into();
        let weight = |half: &[u8; 16]| Scalar::from(u128::from_le_bytes(*half));
        [0, 1, 2, 3].map(|i| hash.as_chunks().0.get(i).map_or(Scalar::ZERO, weight))
    })
}

/// The sum of weighted points.
///
/// # Security
/// Variable time: weights and points are public.
pub(super) fn weighted_sum_vartime<'a>(
    seed: &[u8; 32],
    points: impl ExactSizeIterator<Item = &'a RistrettoPoint>,
) -> RistrettoPoint {
    let scalars: Vec<Scalar> = weights(seed).take(points.len()).collect();
    RistrettoPoint::vartime_multiscalar_mul(scalars, points)
}

/// A scalar in its only encoding.
pub(super) fn scalar(bytes: &[u8; 32]) -> Option<Scalar> {
    Scalar::from_canonical_bytes(*bytes).into()
}

/// A point in its only encoding.
pub(super) fn point(bytes: &[u8; 32]) -> Option<RistrettoPoint> {
    CompressedRistretto(*bytes).decompress()
}

/// A point in its only encoding, not the identity.
pub(super) fn proper_point(bytes: &[u8; 32]) -> Option<RistrettoPoint> {
    point(bytes).filter(|point| !point.is_identity())
}

fn proof_bytes(challenge: &Scalar, response: &Scalar) -> [u8; PROOF_BYTES] {
    let mut out = [0; PROOF_BYTES];
    let (first, second) = out.split_at_mut(32);
    first.copy_from_slice(challenge.as_bytes());
    second.copy_from_slice(response.as_bytes());
    out
}

fn proof_scalars(proof: &[u8; PROOF_BYTES]) -> Option<[Scalar; 2]> {
    let (halves, _) = proof.as_chunks::<32>();
    Some([scalar(halves.first()?)?, scalar(halves.get(1)?)?])
}

/// Proves knowledge of x in X = xG (Schnorr).
pub(super) fn prove_possession(
    statement: Transcript,
    secret: &Scalar,
    draw: &mut Draw,
) -> [u8; PROOF_BYTES] {
    let nonce = Zeroizing::new(draw.scalar());
    let public = RistrettoPoint::mul_base(secret);
    let commitment = RistrettoPoint::mul_base(&nonce);
    let challenge = statement.with_point(&public).with_point(&commitment).challenge();
    proof_bytes(&challenge, &(*nonce + challenge * secret))
}

/// Checks a proof by [`prove_possession`].
pub(super) fn possession_holds(
    statement: Transcript,
    public: &RistrettoPoint,
    proof: &[u8; PROOF_BYTES],
) -> bool {
    let Some([challenge, response]) = proof_scalars(proof) else {
        return false;
    };
    let commitment =
        RistrettoPoint::vartime_double_scalar_mul_basepoint(&-challenge, public, &response);
    statement.with_point(public).with_point(&commitment).challenge() == challenge
}

/// Proves that one x gives X = xG and `image` = x `base` (Chaum, Pedersen, CRYPTO 1992); returns the
/// image as well.
pub(super) fn prove_equal(
    statement: Transcript,
    secret: &Scalar,
    base: &RistrettoPoint,
    draw: &mut Draw,
) -> (RistrettoPoint, [u8; PROOF_BYTES]) {
    let nonce = Zeroizing::new(draw.scalar());
    let public = RistrettoPoint::mul_base(secret);
    let image = secret * base;
    let challenge = statement
        .with_point(&public)
        .with_point(base)
        .with_point(&image)
        .with_point(&RistrettoPoint::mul_base(&nonce))
        .with_point(&(*nonce * base))
        .challenge();
    (image, proof_bytes(&challenge, &(*nonce + challenge * secret)))
}

/// Checks a proof by [`prove_equal`].
pub(super) fn equal_holds(
    statement: Transcript,
    public: &RistrettoPoint,
    base: &RistrettoPoint,
    image: &RistrettoPoint,
    proof: &[u8; PROOF_BYTES],
) -> bool {
    let Some([challenge, response]) = proof_scalars(proof) else {
        return false;
    };
    let first = RistrettoPoint::vartime_double_scalar_mul_basepoint(&-challenge, public, &response);
    let second = RistrettoPoint::vartime_multiscalar_mul([response, -challenge], [base, image]);
    let again = statement
        .with_point(public)
        .with_point(base)
        .with_point(image)
        .with_point(&first)
        .with_point(&second)
        .challenge();
    again == challenge
}

/// Lagrange's factors that carry values at `from` to `to`.
///
/// # Security
/// Variable time: the numbers are public.
pub(super) fn lagrange_vartime(from: &[u32], to: u32) -> Vec<Scalar> {
    let number = |n: u32| Scalar::from(n);
    from.iter()
        .map(|i| {
            let (mut above, mut below) = (Scalar::ONE, Scalar::ONE);
            for j in from.iter().filter(|j| *j != i) {
                above *= number(to) - number(*j);
                below *= number(*i) - number(*j);
            }
            above * below.invert()
        })
        .collect()
}

/// sum_k number^k points_k.
///
/// # Security
/// Variable time: the points are public.
pub(super) fn evaluate_vartime(points: &[RistrettoPoint], number: u32) -> RistrettoPoint {
    let number = Scalar::from(number);
    // Collected, since the product wants to know their count beforehand.
    let powers: Vec<Scalar> =
        core::iter::successors(Some(Scalar::ONE), |power| Some(power * number))
            .take(points.len())
            .collect();
    RistrettoPoint::vartime_multiscalar_mul(powers, points)
}

/// Whether `secret` is the discrete logarithm of `public`.
pub(super) fn matches(secret: &Scalar, public: &RistrettoPoint) -> bool {
    RistrettoPoint::mul_base(secret) == *public
}

/// The generator's half, since batch encoding doubles.
pub(super) fn half_generator() -> RistrettoPoint {
    G * Scalar::ONE.div_by_2()
}
