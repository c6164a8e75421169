//! `pad`: labelled one-time pads, the default scheme.
//!
//! Party i adds to its words x_ij one pad R_ia,j per authority a; authority a's functional key is
//! the sum of its pads over the frozen set S; the opener subtracts all keys from the sum of the
//! ciphertexts. Every word is mod 2^k:
//!
//! c_ij = x_ij + sum_a R_ia,j;  K_aj = sum_{i in S} R_ia,j;
//! sum_{i in S} c_ij - sum_a K_aj = sum_{i in S} x_ij.
//!
//! R_ia is the keystream of the suite under HKDF-Expand(k_ia; domain, suite, k, label, nonce), where
//! k_ia is the key shared by party and authority.
//!
//! # Security
//! With the generator replaced by a random function, ciphertexts are uniform and the functional keys
//! are a function of ciphertexts and the sum, so the view holds exactly the sum over S mod 2^k. All
//! authorities together can open anything; any one of them missing, nothing. A (party, label,
//! nonce) must encrypt one plaintext only: a second one shows the difference. Ciphertexts are
//! malleable and carry no proof of their content: signed headers and tree hashes say who sent what.

use core::ops::Range;

use super::keystream::{Keystream, Scratch, add, sub};
use super::{KEY, STEPS, SUBMIT, check_keys, check_len, check_members, check_shape, count, derive};
use crate::sum::{
    Contributor, EncodedLen, Family, Opener, SchemeError, SchemeInfo, StepInput, SumContext,
    SumScheme, SumShape,
};

/// The scheme `pad`.
#[derive(Clone, Copy, Debug)]
pub struct Pad;

static INFO: SchemeInfo = SchemeInfo {
    id: 1,
    name: "pad",
    family: Family::FunctionalEncryption,
    steps: STEPS,
    served: true,
    source: "one-time form of the inner-product MCFE of Chotard et al. (ASIACRYPT 2018) with a \
             pseudo-random function in place of the group, unit weights",
    leakage: "nothing beyond the sum mod 2^k over the frozen set",
};

/// ChaCha20's 32-bit block counter ends after 2^38 bytes.
const MAX_STREAM_BYTES: u64 = 1 << 38;

impl SumScheme for Pad {
    fn info(&self) -> &'static SchemeInfo {
        &INFO
    }

    fn check(&self, shape: &SumShape) -> Result<(), SchemeError> {
        check_shape(shape)?;
        match shape.dim.checked_mul(shape.ring.word_bytes() as u64) {
            Some(bytes) if bytes < MAX_STREAM_BYTES => Ok(()),
            _ => Err(SchemeError::Shape("more coordinates than one keystream covers")),
        }
    }

    fn encoded_len(&self, shape: &SumShape, step: usize) -> Option<EncodedLen> {
        matches!(step, SUBMIT | KEY).then_some(EncodedLen::PerCoordinate(shape.ring.word_bytes()))
    }

    fn contributor(
        &self,
        step: usize,
        context: &SumContext,
        input: &StepInput<'_>,
    ) -> Result<Box<dyn Contributor + Send>, SchemeError> {
        self.check(&context.shape)?;
        check_keys(step, &context.shape, input.keys)?;
        let streams = input
            .keys
            .iter()
            .map(|keyed| {
                let key = derive::<32>(b"quorate/pad/1", context, keyed);
                Keystream::new(context.suite, key.expose())
            })
            .collect();
        Ok(Box::new(PadWriter {
            shape: context.shape,
            plaintext: step == SUBMIT,
            streams,
            scratch: Scratch::default(),
        }))
    }

    fn opener(
        &self,
        context: &SumContext,
        members: u32,
    ) -> Result<Box<dyn Opener + Send>, SchemeError> {
        self.check(&context.shape)?;
        check_members(&context.shape, members)?;
        Ok(Box::new(PadOpener {
            shape: context.shape,
            members,
            range: 0..0,
            sum: Vec::new(),
            absorbed: [0; 2],
        }))
    }
}

/// A party adding its pads to its words, or an authority adding its members' pads to nothing.
struct PadWriter {
    shape: SumShape,
    plaintext: bool,
    streams: Vec<Keystream>,
    scratch: Scratch,
}

impl Contributor for PadWriter {
    fn write(
        &mut self,
        range: Range<u64>,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        let count = count(&range, &self.shape)?;
        let width = self.shape.ring.word_bytes();
        check_len(out, count, width)?;
        if self.plaintext {
            check_len(plain, count, width)?;
            out.copy_from_slice(plain);
        } else {
            check_len(plain, 0, width)?;
            out.fill(0);
        }
        let position = range.start.saturating_mul(width as u64);
        self.scratch.add_pads(&mut self.streams, self.shape.ring, position, out).map_err(|_| {
            // Half-padded words must not leave.
            out.fill(0);
            SchemeError::Range { start: range.start, end: range.end, dim: self.shape.dim }
        })
    }
}

struct PadOpener {
    shape: SumShape,
    members: u32,
    range: Range<u64>,
    sum: Vec<u8>,
    absorbed: [u32; 2],
}

impl Opener for PadOpener {
    fn begin(&mut self, range: Range<u64>) {
        self.sum.clear();
        self.absorbed = [0; 2];
        // An illegal range is refused by the first `absorb`.
        let words = count(&range, &self.shape).unwrap_or(0);
        self.sum.resize(words.saturating_mul(self.shape.ring.word_bytes()), 0);
        self.range = range;
    }

    fn absorb(&mut self, step: usize, bytes: &[u8]) -> Result<(), SchemeError> {
        let count = count(&self.range, &self.shape)?;
        check_len(bytes, count, self.shape.ring.word_bytes())?;
        let [submitted, keyed] = &mut self.absorbed;
        match step {
            SUBMIT => {
                add(self.shape.ring, &mut self.sum, bytes);
                *submitted = submitted.saturating_add(1);
            }
            KEY => {
                sub(self.shape.ring, &mut self.sum, bytes);
                *keyed = keyed.saturating_add(1);
            }
            _ => return Err(SchemeError::WrongStep),
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<(), SchemeError> {
        let count = count(&self.range, &self.shape)?;
        check_len(out, count, self.shape.ring.word_bytes())?;
        super::check_absorbed(self.absorbed, self.members, self.shape.authorities)?;
        out.copy_from_slice(&self.sum);
        Ok(())
    }
}
