//! What schemes are measured against: the same work by bare library calls, without keys derived,
//! lengths checked or ranges sought.

use core::hint::black_box;

use aes::Aes256;
use chacha20::ChaCha20;
use cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr64BE;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{MultiscalarMul, VartimeMultiscalarMul};
use sha2::{Digest, Sha512};

use crate::sum::{PadSuite, Ring, SchemeError, SumShape};
use crate::threshold::paillier::{Bare, PAILLIER};

/// Keystream block that stays in the first-level cache.
const BLOCK: usize = 8192;

/// Keystream plus plaintext, `out_j = plain_j + pad_j` mod 2^k, on consecutive pieces of one vector.
pub struct KeystreamAdd(Box<dyn StreamCipher + Send>, Vec<u8>);

impl KeystreamAdd {
    /// A generator with a fixed key.
    #[must_use]
    pub fn new(suite: PadSuite) -> Self {
        let key = [7u8; 32];
        let cipher: Box<dyn StreamCipher + Send> = match suite {
            PadSuite::Aes256Ctr => Box::new(Ctr64BE::<Aes256>::new(&key.into(), &[0u8; 16].into())),
            PadSuite::ChaCha20 => Box::new(ChaCha20::new(&key.into(), &[0u8; 12].into())),
        };
        Self(cipher, vec![0; BLOCK])
    }

    /// One piece: `out` and `plain` have the same whole number of words.
    pub fn run(&mut self, ring: Ring, plain: &[u8], out: &mut [u8]) {
        for (out, plain) in out.chunks_mut(BLOCK).zip(plain.chunks(BLOCK)) {
            let (pad, _) = self.1.split_at_mut(out.len());
            self.0.unchecked_write_keystream(pad);
            match ring {
                Ring::Z32 => {
                    let words = plain.as_chunks().0.iter().zip(pad.as_chunks().0);
                    for (out, (x, r)) in out.as_chunks_mut().0.iter_mut().zip(words) {
                        let sum = u32::from_le_bytes(*x).wrapping_add(u32::from_le_bytes(*r));
                        *out = sum.to_le_bytes();
                    }
                }
                Ring::Z64 => {
                    let words = plain.as_chunks().0.iter().zip(pad.as_chunks().0);
                    for (out, (x, r)) in out.as_chunks_mut().0.iter_mut().zip(words) {
                        let sum = u64::from_le_bytes(*x).wrapping_add(u64::from_le_bytes(*r));
                        *out = sum.to_le_bytes();
                    }
                }
            }
        }
    }
}

/// A group operation of Ristretto255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOp {
    /// SHA-512 of 80 bytes, then the map to the group.
    HashToPoint,
    /// a P + b Q, constant time.
    TwoBase,
    /// a P + b Q, variable time.
    TwoBaseVartime,
    /// a P, constant time.
    VariableBase,
    /// a G by the precomputed table, constant time.
    FixedBase,
    /// Encoding of one point.
    Encode,
    /// Decoding of one point.
    Decode,
    /// P + Q.
    Add,
    /// Encoding of 2P, one point of a batch of 512.
    BatchEncode,
}

impl GroupOp {
    /// Performs the operation `count` times on varying points.
    pub fn run(self, count: usize) {
        let a = Scalar::hash_from_bytes::<Sha512>(b"baseline a");
        let b = Scalar::hash_from_bytes::<Sha512>(b"baseline b");
        let [mut p, q] = [a * G, b * G];
        let encoded = p.compress();
        match self {
            Self::HashToPoint => {
                for index in 0..count {
                    let mut input = [0u8; 80];
                    input.iter_mut().zip(index.to_le_bytes()).for_each(|(to, byte)| *to = byte);
                    let hash = Sha512::digest(black_box(input));
                    black_box(RistrettoPoint::from_uniform_bytes(&hash.into()));
                }
            }
            Self::TwoBase => {
                for _ in 0..count {
                    p = RistrettoPoint::multiscalar_mul([a, b], [p, q]);
                }
            }
            Self::TwoBaseVartime => {
                for _ in 0..count {
                    p = RistrettoPoint::vartime_multiscalar_mul([a, b], [p, q]);
                }
            }
            Self::VariableBase => {
                for _ in 0..count {
                    p *= black_box(a);
                }
            }
            Self::FixedBase => {
                for _ in 0..count {
                    black_box(RistrettoPoint::mul_base(black_box(&a)));
                }
            }
            Self::Encode => {
                for _ in 0..count {
                    black_box(black_box(p).compress());
                }
            }
            Self::Decode => {
                for _ in 0..count {
                    black_box(black_box(encoded).decompress());
                }
            }
            Self::Add => {
                for _ in 0..count {
                    p += q;
                }
            }
            Self::BatchEncode => {
                let batch = vec![p; 512];
                for start in (0..count).step_by(batch.len()) {
                    let (batch, _) = batch.split_at(batch.len().min(count - start));
                    black_box(RistrettoPoint::double_and_compress_batch(black_box(batch)));
                }
            }
        }
        black_box(p);
    }
}

/// The bare operations of a threshold scheme under one public key and for one shape.
pub trait ThresholdBaseline {
    /// Ciphertexts of one reply.
    fn ciphertexts(&self) -> usize;

    /// What `count` ciphertexts cost to make: the scheme's exponentiations with public operands,
    /// nothing packed, drawn or proved.
    fn encrypt(&self, count: usize);

    /// What `count` ciphertexts cost to raise to a share: likewise.
    fn partial(&self, count: usize);
}

/// The baseline of the threshold scheme with this name.
///
/// # Errors
/// [`SchemeError::Key`] when the bytes are no public key of the scheme; [`SchemeError::Shape`].
pub fn threshold(
    scheme: &str,
    public_key: &[u8],
    shape: &SumShape,
) -> Result<Option<Box<dyn ThresholdBaseline>>, SchemeError> {
    Ok(match scheme {
        "paillier" => Some(Box::new(Bare::new(PAILLIER, public_key, shape)?)),
        "elgamal" => Some(Box::new(LiftedElGamal(shape.dim.try_into().unwrap_or(usize::MAX)))),
        _ => None,
    })
}

/// Two points for each of so many values.
struct LiftedElGamal(usize);

impl ThresholdBaseline for LiftedElGamal {
    fn ciphertexts(&self) -> usize {
        self.0
    }

    /// (a G, a Y + m G): two products with fixed bases; m is so small that m G is left out.
    fn encrypt(&self, count: usize) {
        GroupOp::FixedBase.run(2 * count);
        GroupOp::Add.run(count);
        GroupOp::BatchEncode.run(2 * count);
    }

    /// x C1.
    fn partial(&self, count: usize) {
        GroupOp::VariableBase.run(count);
        GroupOp::BatchEncode.run(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A baseline that did other work would make a meaningless ratio: on zeros, pieces and the
    /// whole give the same stream, in both widths.
    #[test]
    fn pieces_continue_one_stream() {
        for suite in [PadSuite::Aes256Ctr, PadSuite::ChaCha20] {
            let zeros = vec![0; 3 * BLOCK];
            let [mut whole, mut pieces, mut wide] = [(); 3].map(|()| zeros.clone());
            KeystreamAdd::new(suite).run(Ring::Z32, &zeros, &mut whole);
            KeystreamAdd::new(suite).run(Ring::Z64, &zeros, &mut wide);
            let mut bare = KeystreamAdd::new(suite);
            for (out, plain) in pieces.chunks_mut(BLOCK / 2).zip(zeros.chunks(BLOCK / 2)) {
                bare.run(Ring::Z32, plain, out);
            }
            assert!(whole == pieces && whole == wide && whole != zeros);
        }
    }
}
