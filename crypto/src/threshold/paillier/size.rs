//! Lengths that follow from the size of the modulus.

use super::super::MAX_HOLDERS;
use crate::sum::{SchemeError, SumShape};

/// Bits of every challenge and batching exponent.
pub(super) const CHALLENGE_BITS: u32 = 128;
/// Bits by which a mask is longer than what it hides: 2^-127 is the most that an answer can tell.
const SLACK_BITS: u32 = 128;
/// Bits of the most ciphertexts of one reply.
const COUNT_BITS: u32 = 13;
/// Bits of 64!, the largest Delta.
const DELTA_BITS: u32 = 296;
/// Bytes of a hash, as which proofs carry their challenge.
pub(super) const CHALLENGE_BYTES: usize = 32;
/// Bytes of a participant's number.
pub(super) const NUMBER_BYTES: usize = 4;
/// Most coordinates of one sum.
const MAX_DIM: u64 = 100_000;
/// Most bytes of a partial decryption: it travels in one message.
const MAX_PARTIAL_BYTES: usize = 3_500_000;
/// Most parties of one sum.
const MAX_PARTIES: u32 = 1024;

const _: () = assert!(MAX_HOLDERS == 64, "DELTA_BITS belongs to 64 holders");

const fn bytes(bits: u32) -> usize {
    bits.div_ceil(8) as usize
}

/// The size of a modulus n, in bits; everything else follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u32);

impl Size {
    /// Bytes of a number below n.
    pub(super) const fn modulus_bytes(self) -> usize {
        bytes(self.0)
    }

    /// Bytes of a number below n^2.
    pub(super) const fn square_bytes(self) -> usize {
        2 * self.modulus_bytes()
    }

    /// Bits of each prime.
    pub(super) const fn prime_bits(self) -> u32 {
        self.0 / 2
    }

    /// Bits of an encryption exponent: |n| / 2, its top bit set (Damgard, Jurik and Nielsen 2010).
    pub(super) const fn exponent_bits(self) -> u32 {
        self.0 / 2
    }

    /// Bits of the exponent that masks a batch of encryption exponents.
    pub(super) const fn mask_bits(self) -> u32 {
        self.exponent_bits() + CHALLENGE_BITS + COUNT_BITS + SLACK_BITS
    }

    /// Bits of the answer to a challenge in a proof of plaintexts.
    pub(super) const fn answer_bits(self) -> u32 {
        self.mask_bits() + 1
    }

    /// Bytes of that answer.
    pub(super) const fn answer_bytes(self) -> usize {
        bytes(self.answer_bits())
    }

    /// Bits of every share, its top bit set: more than n m, which is below n^2 / 4.
    pub(super) const fn share_bits(self) -> u32 {
        2 * self.0 - 1
    }

    /// Bytes of a share.
    pub(super) const fn share_bytes(self) -> usize {
        bytes(self.share_bits())
    }

    /// Bits of the mask in a proof of a partial decryption, its top bit set.
    pub(super) const fn share_mask_bits(self) -> u32 {
        self.share_bits() + DELTA_BITS + CHALLENGE_BITS + SLACK_BITS
    }

    /// Bytes of the answer in a proof of a partial decryption.
    pub(super) const fn share_answer_bytes(self) -> usize {
        bytes(self.share_mask_bits() + 1)
    }
}

/// How the values of one reply lie in plaintexts: `count` ciphertexts of `slots` values, each in
/// `width` bits.
///
/// A slot holds value + 2^(bits - 1), a digit of `bits` bits, so that a sum over `parties` digits
/// stays within bits + ceil(log2 parties) bits and never carries into its neighbour; one bit is
/// spare. All slots together have fewer bits than n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) bits: u32,
    pub(super) width: u32,
    pub(super) slots: usize,
    pub(super) count: usize,
    pub(super) dim: usize,
    pub(super) parties: u32,
}

impl Layout {
    pub(super) fn new(size: Size, shape: &SumShape) -> Result<Self, SchemeError> {
        if !(2..=64).contains(&shape.bits) || shape.bits > shape.ring.bits() {
            return Err(SchemeError::Shape("values of 2 bits up to the ring's"));
        }
        if !(2..=MAX_PARTIES).contains(&shape.parties) {
            return Err(SchemeError::Shape("between 2 and 1024 parties"));
        }
        let dim = usize::try_from(shape.dim).ok().filter(|_| (1..=MAX_DIM).contains(&shape.dim));
        let dim = dim.ok_or(SchemeError::Shape("between 1 and 100000 coordinates"))?;
        let width = shape.bits + (shape.parties - 1).ilog2() + 2;
        // n has exactly size bits: any number of one bit less is below it.
        let slots = ((size.0 - 1) / width) as usize;
        let count = dim.div_ceil(slots);
        let layout = Self { bits: shape.bits, width, slots, count, dim, parties: shape.parties };
        if layout.partial_bytes(size) > MAX_PARTIAL_BYTES || count >= 1 << COUNT_BITS {
            return Err(SchemeError::Shape("a partial decryption would not fit one message"));
        }
        Ok(layout)
    }

    /// Bytes of the ciphertexts alone.
    pub(super) const fn cipher_bytes(&self, size: Size) -> usize {
        self.count * size.square_bytes()
    }

    /// Ciphertexts, challenge, masked plaintext, masked exponent.
    pub(super) const fn reply_bytes(&self, size: Size) -> usize {
        self.cipher_bytes(size) + CHALLENGE_BYTES + size.modulus_bytes() + size.answer_bytes()
    }

    /// Number, raised ciphertexts, challenge, masked share.
    pub(super) const fn partial_bytes(&self, size: Size) -> usize {
        NUMBER_BYTES + self.cipher_bytes(size) + CHALLENGE_BYTES + size.share_answer_bytes()
    }

    /// The first coordinate in ciphertext `j`.
    pub(super) const fn coordinate(&self, j: usize) -> u64 {
        (j * self.slots) as u64
    }
}
