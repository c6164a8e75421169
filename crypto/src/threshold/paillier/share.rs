//! A participant's share of the secret exponent.

use super::super::KeySecret;
use super::number::{SecretInteger, write_le};
use super::public::PublicKey;
use super::size::{NUMBER_BYTES, Size};
use super::table::power;
use crate::secret::Secret;
use crate::sum::SchemeError;

/// What sealing adds to a share's bytes.
pub(super) const SEALED_OVERHEAD: usize = crate::keys::SEALED_OVERHEAD;

/// A share and whose it is.
pub(super) struct Share {
    pub(super) number: u32,
    /// The share modulo n m, a multiple of n m added so that its top bit is where all have it.
    pub(super) value: SecretInteger,
}

impl Share {
    /// Bytes of every share of this size.
    pub(super) const fn bytes(size: Size) -> usize {
        NUMBER_BYTES + size.share_bytes()
    }

    /// Number and value, little-endian.
    pub(super) fn to_bytes(&self, size: Size) -> KeySecret {
        let mut out = Secret::new(vec![0; Self::bytes(size)]);
        if let Some((number, value)) = out.expose_mut().split_first_chunk_mut() {
            *number = self.number.to_le_bytes();
            write_le(&self.value.0, value);
        }
        out
    }

    /// Reads a share and checks it against the public key.
    pub(super) fn parse(key: &PublicKey, bytes: &KeySecret) -> Result<Self, SchemeError> {
        let refuse = SchemeError::Key("this is no share of the public key");
        if bytes.expose().len() != Self::bytes(key.size) {
            return Err(refuse);
        }
        let Some((number, value)) = bytes.expose().split_first_chunk::<NUMBER_BYTES>() else {
            return Err(refuse);
        };
        let number = u32::from_le_bytes(*number);
        let value = SecretInteger::from_le(value);
        let verifier = key.verifier(number).ok_or(refuse.clone())?;
        if value.0.significant_bits() != key.size.share_bits() {
            return Err(refuse);
        }
        let raised =
            power(&key.pairs, &key.raise(&key.v, &key.delta), &value.0, key.size.share_bits());
        if raised != *verifier {
            return Err(refuse);
        }
        Ok(Self { number, value })
    }
}

/// What a sealed share is bound to: the call for the key, the public key and the holder.
pub(super) fn seal_info(context: &[u8; 32], key: &[u8; 32], number: u32) -> Vec<u8> {
    [b"quorate/paillier/share/1".as_slice(), context, key, &number.to_le_bytes()].concat()
}
