//! Every threshold scheme as a [`SumScheme`].

use core::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{AUTHORITY, CipherSum, KeySecret, ReplyBinding, ThresholdKey, ThresholdScheme};
use crate::secret::Secret;
use crate::sum::{
    Contributor, EncodedLen, Opener, Ring, Role, SchemeError, SchemeInfo, Step, StepInput,
    SumContext, SumScheme, SumShape,
};

/// The steps of every threshold scheme.
pub static STEPS: &[Step] = &[
    Step { name: "reply", by: Role::Party },
    Step { name: "authority's partial decryption", by: Role::Authority },
    Step { name: "partial decryption", by: Role::Decryptor },
];

const REPLY: usize = 0;
const AUTHORITY_PARTIAL: usize = 1;
const PARTIAL: usize = 2;

/// A threshold scheme as a sum scheme; the public key travels in
/// [`SumContext::public`](crate::sum::SumContext).
#[derive(Clone, Copy, Debug)]
pub struct ThresholdSum<S>(pub S);

/// What a party brings to its reply, as [`StepInput::state`].
///
/// # Security
/// A secret: no `Debug`, `Clone` or `Serialize`; its bytes go from one call to the next and no further.
pub struct PartyInput {
    /// Fresh randomness.
    pub seed: Secret<[u8; 32]>,
    /// What the reply is bound to.
    pub binding: ReplyBinding,
}

/// What a participant of the key brings to its partial decryption, as [`StepInput::state`].
///
/// # Security
/// As [`PartyInput`].
pub struct HolderInput {
    /// Its share, as [`ThresholdScheme::key_share`] returned it.
    pub share: KeySecret,
    /// Fresh randomness for the proof.
    pub seed: Secret<[u8; 32]>,
    /// One per member of the frozen set, in the order in which their replies will be absorbed.
    pub bindings: Vec<ReplyBinding>,
}

/// A secret state that this module did not write.
const FOREIGN: SchemeError = SchemeError::Key("no such secret state");

impl PartyInput {
    /// The bytes of [`StepInput::state`].
    #[must_use]
    pub fn to_state(&self) -> Secret<Vec<u8>> {
        // Sized once, so that no copy of the secret stays behind in a grown buffer.
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(self.seed.expose());
        out.extend_from_slice(&self.binding.0);
        Secret::new(out)
    }

    fn from_state(state: &[u8]) -> Result<Self, SchemeError> {
        let (seed, rest) = state.split_first_chunk::<32>().ok_or(FOREIGN)?;
        let binding = ReplyBinding(rest.try_into().map_err(|_| FOREIGN)?);
        Ok(Self { seed: Secret::new(*seed), binding })
    }
}

impl HolderInput {
    /// The bytes of [`StepInput::state`]: seed, number of members, their bindings, the share.
    #[must_use]
    pub fn to_state(&self) -> Secret<Vec<u8>> {
        let share = self.share.expose();
        let size = self.bindings.len().saturating_mul(32).saturating_add(40);
        let mut out = Vec::with_capacity(size.saturating_add(share.len()));
        out.extend_from_slice(self.seed.expose());
        out.extend_from_slice(&(self.bindings.len() as u64).to_le_bytes());
        self.bindings.iter().for_each(|binding| out.extend_from_slice(&binding.0));
        out.extend_from_slice(share);
        Secret::new(out)
    }

    fn from_state(state: &[u8]) -> Result<Self, SchemeError> {
        let (seed, rest) = state.split_first_chunk::<32>().ok_or(FOREIGN)?;
        let (count, mut rest) = rest.split_first_chunk::<8>().ok_or(FOREIGN)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| FOREIGN)?;
        let mut bindings = Vec::new();
        for _ in 0..count {
            let (binding, tail) = rest.split_first_chunk::<32>().ok_or(FOREIGN)?;
            bindings.push(ReplyBinding(*binding));
            rest = tail;
        }
        Ok(Self { share: Secret::new(rest.to_vec()), seed: Secret::new(*seed), bindings })
    }
}

impl<S: ThresholdScheme> SumScheme for ThresholdSum<S> {
    fn info(&self) -> &'static SchemeInfo {
        self.0.info()
    }

    fn check(&self, shape: &SumShape) -> Result<(), SchemeError> {
        if shape.authorities != 1 {
            return Err(SchemeError::Shape("a threshold job has one authority"));
        }
        self.0.check(shape)
    }

    fn encoded_len(&self, shape: &SumShape, step: usize) -> Option<EncodedLen> {
        let len = match step {
            REPLY => self.0.reply_bytes(shape),
            AUTHORITY_PARTIAL | PARTIAL => self.0.partial_bytes(shape),
            _ => None,
        };
        len.map(EncodedLen::Fixed)
    }

    fn contributor(
        &self,
        step: usize,
        context: &SumContext,
        input: &StepInput<'_>,
    ) -> Result<Box<dyn Contributor + Send>, SchemeError> {
        self.check(&context.shape)?;
        let key = self.0.load(&context.public)?;
        match step {
            REPLY => {
                let input = PartyInput::from_state(input.state)?;
                Ok(Box::new(Reply { shape: context.shape, key, input }))
            }
            AUTHORITY_PARTIAL | PARTIAL => {
                let input = HolderInput::from_state(input.state)?;
                let sum = key.sum(&context.shape);
                let (shape, label) = (context.shape, context.label.0);
                Ok(Box::new(Partial { shape, label, key, input, absorbed: 0, sum }))
            }
            _ => Err(SchemeError::WrongStep),
        }
    }

    fn opener(
        &self,
        context: &SumContext,
        members: u32,
    ) -> Result<Box<dyn Opener + Send>, SchemeError> {
        self.check(&context.shape)?;
        let key = self.0.load(&context.public)?;
        let sum = key.sum(&context.shape);
        Ok(Box::new(ThresholdOpener {
            shape: context.shape,
            label: context.label.0,
            members,
            key,
            sum,
            absorbed: 0,
            partials: Vec::new(),
        }))
    }
}

/// A party encrypting.
struct Reply {
    shape: SumShape,
    key: Arc<dyn ThresholdKey>,
    input: PartyInput,
}

impl Contributor for Reply {
    fn write(&mut self, _: Range<u64>, plain: &[u8], out: &mut [u8]) -> Result<(), SchemeError> {
        let values = Zeroizing::new(words(self.shape.ring, plain));
        let PartyInput { seed, binding } = &self.input;
        self.key.encrypt(&self.shape, binding, &values, seed, out)
    }
}

/// The authority or a holder: checks and adds every reply, then gives its partial decryption.
struct Partial {
    shape: SumShape,
    label: [u8; 32],
    key: Arc<dyn ThresholdKey>,
    input: HolderInput,
    absorbed: usize,
    sum: Box<dyn CipherSum>,
}

impl Contributor for Partial {
    fn absorb(&mut self, _: Range<u64>, bytes: &[u8]) -> Result<(), SchemeError> {
        let binding = self.input.bindings.get(self.absorbed).ok_or(SchemeError::WrongStep)?;
        self.key.verify_reply(&self.shape, binding, bytes)?;
        self.sum.add(bytes)?;
        self.absorbed = self.absorbed.saturating_add(1);
        Ok(())
    }

    fn write(&mut self, _: Range<u64>, _: &[u8], out: &mut [u8]) -> Result<(), SchemeError> {
        let (expected, got) = (self.input.bindings.len(), self.absorbed);
        if expected != got || expected < 2 {
            let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
            let (expected, got) = (number(expected), number(got));
            return Err(SchemeError::Messages { step: REPLY, expected, got });
        }
        let HolderInput { share, seed, .. } = &self.input;
        self.key.partial(&self.shape, &self.label, share, self.sum.as_ref(), seed, out)
    }
}

/// The aggregator: replies first (checked when they were submitted), then partial decryptions.
struct ThresholdOpener {
    shape: SumShape,
    label: [u8; 32],
    members: u32,
    key: Arc<dyn ThresholdKey>,
    sum: Box<dyn CipherSum>,
    absorbed: u32,
    partials: Vec<(u32, Vec<u8>)>,
}

impl Opener for ThresholdOpener {
    fn begin(&mut self, _: Range<u64>) {
        self.sum = self.key.sum(&self.shape);
        self.absorbed = 0;
        self.partials.clear();
    }

    fn absorb(&mut self, step: usize, bytes: &[u8]) -> Result<(), SchemeError> {
        if step == REPLY {
            self.sum.add(bytes)?;
            self.absorbed = self.absorbed.saturating_add(1);
            return Ok(());
        }
        let sum = self.sum.as_ref();
        let from = self.key.verify_partial(&self.shape, &self.label, sum, bytes)?;
        let authority = match step {
            AUTHORITY_PARTIAL => true,
            PARTIAL => false,
            _ => return Err(SchemeError::WrongStep),
        };
        // A second answer of one participant is no answer of another.
        if authority != (from == AUTHORITY) || self.partials.iter().any(|(known, _)| *known == from)
        {
            return Err(SchemeError::BadProof);
        }
        self.partials.push((from, bytes.to_vec()));
        Ok(())
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<(), SchemeError> {
        if self.absorbed != self.members {
            let (expected, got) = (self.members, self.absorbed);
            return Err(SchemeError::Messages { step: REPLY, expected, got });
        }
        let partials: Vec<&[u8]> =
            self.partials.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let mut values = Zeroizing::new(Vec::new());
        self.key.open(&self.shape, self.members, self.sum.as_ref(), &partials, &mut values)?;
        let width = self.shape.ring.word_bytes();
        let expected = values.len().saturating_mul(width);
        if out.len() != expected {
            return Err(SchemeError::Length { expected, got: out.len() });
        }
        for (value, word) in values.iter().zip(out.chunks_exact_mut(width)) {
            let bytes = value.to_le_bytes();
            let low = bytes.get(..width).unwrap_or(&bytes);
            word.copy_from_slice(low);
        }
        Ok(())
    }
}

/// Little-endian ring words as signed integers of least magnitude.
fn words(ring: Ring, bytes: &[u8]) -> Vec<i64> {
    let mut out = Vec::with_capacity(bytes.len() / ring.word_bytes());
    match ring {
        Ring::Z32 => out.extend(
            bytes.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_le_bytes(*word))),
        ),
        Ring::Z64 => {
            out.extend(bytes.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)))
        }
    }
    out
}
