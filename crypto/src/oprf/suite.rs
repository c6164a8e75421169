//! The hashes of `ristretto255-SHA512` in mode VOPRF (RFC 9497, section 4.1), and our own derivations of
//! blinds and proof nonces.

use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use sha2::digest::Output;
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, Zeroizing};

use super::OprfError;
use crate::secret::Secret;

/// "OPRFV1-", the mode's number, "-", the suite's name.
macro_rules! tag {
    ($what:literal) => {
        concat!($what, "OPRFV1-\x01-ristretto255-SHA512").as_bytes()
    };
}

pub(super) const SEED_TAG: &[u8] = tag!("Seed-");
/// The length of an element before an element, as the RFC writes lengths: two bytes, big-endian.
pub(super) const ELEMENT_LEN: [u8; 2] = [0, 32];

/// Block bytes of SHA-512.
const BLOCK: [u8; 128] = [0; 128];

/// 64 bytes of `expand_message_xmd` (RFC 9380, section 5.3.1) over the parts put together.
fn expand(parts: &[&[u8]], tag: &[u8]) -> Output<Sha512> {
    // Every tag here is shorter than 256 bytes.
    let tag_len = [u8::try_from(tag.len()).unwrap_or(u8::MAX)];
    let mut first = Sha512::new();
    first.update(BLOCK);
    parts.iter().for_each(|part| first.update(part));
    // 64 bytes are asked for, and this is block 0.
    first.update([0, 64, 0]);
    first.update(tag);
    first.update(tag_len);
    let mut second = Sha512::new();
    second.update(Zeroizing::new(<[u8; 64]>::from(first.finalize())));
    second.update([1]);
    second.update(tag);
    second.update(tag_len);
    second.finalize()
}

/// `HashToGroup`.
pub(super) fn hash_to_group(input: &[u8]) -> RistrettoPoint {
    let uniform = Zeroizing::new(<[u8; 64]>::from(expand(&[input], tag!("HashToGroup-"))));
    RistrettoPoint::from_uniform_bytes(&uniform)
}

fn scalar(mut wide: [u8; 64]) -> Scalar {
    let scalar = Scalar::from_bytes_mod_order_wide(&wide);
    wide.zeroize();
    scalar
}

/// `HashToScalar`.
pub(super) fn hash_to_scalar(parts: &[&[u8]]) -> Scalar {
    scalar(expand(parts, tag!("HashToScalar-")).into())
}

/// `DeriveKeyPair`, its secret half.
pub(super) fn derive_scalar(seed: &[u8; 32], info: &[u8]) -> Result<Secret<Scalar>, OprfError> {
    let len = u16::try_from(info.len()).map_err(|_| OprfError::Input(0))?.to_be_bytes();
    (0..=u8::MAX)
        .map(|n| {
            Secret::new(scalar(expand(&[seed, &len, info, &[n]], tag!("DeriveKeyPair")).into()))
        })
        .find(|key| *key.expose() != Scalar::ZERO)
        .ok_or(OprfError::Seed)
}

/// The blind of `input`: SHA-512 keyed by a secret seed of fixed length, mod the group order.
pub(super) fn blind(seed: &[u8; 32], input: &[u8]) -> Scalar {
    let mut hash = Sha512::new();
    hash.update(b"quorate/oprf/blind/1");
    hash.update(seed);
    hash.update(input);
    scalar(hash.finalize().into())
}

/// The nonce of a proof: a keyed hash of all that its challenge depends on, so that no nonce serves two
/// challenges and no randomness is needed.
pub(super) fn proof_nonce(
    secret: &Scalar,
    m: &RistrettoPoint,
    z: &RistrettoPoint,
) -> Secret<Scalar> {
    let mut hash = Sha512::new();
    hash.update(b"quorate/oprf/proof-nonce/1");
    hash.update(secret.as_bytes());
    hash.update(m.compress().as_bytes());
    hash.update(z.compress().as_bytes());
    Secret::new(scalar(hash.finalize().into()))
}
