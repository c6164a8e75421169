//! The batched proof that all evaluations are under one key: RFC 9497, section 2.2.

use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::VartimeMultiscalarMul;
use sha2::{Digest, Sha512};

use super::suite::{ELEMENT_LEN, SEED_TAG, hash_to_scalar};
use super::{ELEMENT_BYTES, PROOF_BYTES, PublicKey};

type Encoded = [u8; ELEMENT_BYTES];

/// The weights d_i of `ComputeComposites`: one for each pair of a blinded and an evaluated element.
pub(super) fn weights(key: &PublicKey, blinded: &[Encoded], evaluated: &[Encoded]) -> Vec<Scalar> {
    let tag_len = u16::try_from(SEED_TAG.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut hash = Sha512::new();
    hash.update(ELEMENT_LEN);
    hash.update(key.0);
    hash.update(tag_len);
    hash.update(SEED_TAG);
    let seed = hash.finalize();
    (0u16..)
        .zip(blinded.iter().zip(evaluated))
        .map(|(i, (c, d))| {
            let (len, index) = (ELEMENT_LEN, i.to_be_bytes());
            hash_to_scalar(&[&[0, 64], &seed, &index, &len, c, &len, d, b"Composite"])
        })
        .collect()
}

/// sum_i d_i P_i, over public values.
pub(super) fn combine(weights: &[Scalar], points: &[RistrettoPoint]) -> RistrettoPoint {
    RistrettoPoint::vartime_multiscalar_mul(weights, points)
}

fn challenge(key: &PublicKey, points: [&RistrettoPoint; 4]) -> Scalar {
    let [m, z, t2, t3] = points.map(|point| point.compress().to_bytes());
    let len: &[u8] = &ELEMENT_LEN;
    hash_to_scalar(&[len, &key.0, len, &m, len, &z, len, &t2, len, &t3, b"Challenge"])
}

/// `GenerateProof` with the nonce r: the challenge c, then s = r - c k.
pub(super) fn prove(
    secret: &Scalar,
    key: &PublicKey,
    m: &RistrettoPoint,
    z: &RistrettoPoint,
    nonce: &Scalar,
) -> [u8; PROOF_BYTES] {
    let c = challenge(key, [m, z, &RistrettoPoint::mul_base(nonce), &(m * nonce)]);
    let s = nonce - c * secret;
    let mut out = [0; PROOF_BYTES];
    let (first, second) = out.split_at_mut(32);
    first.copy_from_slice(c.as_bytes());
    second.copy_from_slice(s.as_bytes());
    out
}

/// `VerifyProof`. Not constant time: all of it is public.
pub(super) fn verify(
    key: &PublicKey,
    key_point: &RistrettoPoint,
    m: &RistrettoPoint,
    z: &RistrettoPoint,
    proof: &[u8; PROOF_BYTES],
) -> bool {
    let ([c, s], _) = proof.as_chunks::<32>() else {
        return false;
    };
    let decode = |bytes: &[u8; 32]| Option::<Scalar>::from(Scalar::from_canonical_bytes(*bytes));
    let (Some(c), Some(s)) = (decode(c), decode(s)) else {
        return false;
    };
    let t2 = RistrettoPoint::vartime_double_scalar_mul_basepoint(&c, key_point, &s);
    let t3 = RistrettoPoint::vartime_multiscalar_mul([s, c], [m, z]);
    challenge(key, [m, z, &t2, &t3]) == c
}
