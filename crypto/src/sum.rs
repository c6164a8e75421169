//! The one trait behind every secure sum, whatever its number of rounds.
//!
//! A scheme is a fixed list of [`Step`]s. In a step every *contributor* of one role writes a byte
//! string: in functional encryption parties submit ciphertexts, then authorities write functional
//! keys; in threshold encryption parties reply, then decryptors write partial decryptions; in
//! pairwise masking parties advertise, share, mask, agree and unmask. The aggregator then opens the
//! sum from what it received. Big outputs are produced and consumed by coordinate range, so that
//! neither side ever holds a whole vector of ciphertexts.

use core::fmt;
use core::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::keys::SharedKey;
use crate::secret::Secret;

/// The 32-byte name of one opening: every ciphertext and functional key is bound to one label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label(pub [u8; 32]);

/// Fresh randomness of one submission, carried in its signed header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 16]);

macro_rules! hex_debug {
    ($($type:ty),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    )*};
}
hex_debug!(Label, Nonce);

/// The ring Z / 2^k in which sums are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ring {
    /// k = 32, words of 4 little-endian bytes.
    Z32,
    /// k = 64, words of 8 little-endian bytes.
    Z64,
}

impl Ring {
    /// k, the number of bits of a ring element.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Z32 => 32,
            Self::Z64 => 64,
        }
    }

    /// Bytes of one little-endian ring word.
    #[must_use]
    pub const fn word_bytes(self) -> usize {
        match self {
            Self::Z32 => 4,
            Self::Z64 => 8,
        }
    }
}

/// The generator of one-time pads, a number in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PadSuite {
    /// Suite 1: AES-256 in counter mode.
    Aes256Ctr,
    /// Suite 2: ChaCha20.
    ChaCha20,
}

impl PadSuite {
    /// The suite's number, as in manifests and key derivations.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Aes256Ctr => 1,
            Self::ChaCha20 => 2,
        }
    }
}

/// The public shape of one sum: at most `parties` contributors x `dim` ring words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SumShape {
    /// The ring of every coordinate.
    pub ring: Ring,
    /// d, the number of coordinates.
    pub dim: u64,
    /// n, the largest number of contributors.
    pub parties: u32,
    /// m, the number of authorities, all needed to open (0 where a scheme has none).
    pub authorities: u32,
    /// b, the bits of one party's value in two's complement; at most k. Schemes that sum in the ring
    /// itself have no use for it.
    pub bits: u32,
}

/// Who acts in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Holds a plaintext.
    Party,
    /// Holds master secrets and releases functional keys.
    Authority,
    /// Holds a share of a decryption key.
    Decryptor,
}

/// One step of a scheme: every contributor of `by` writes one byte string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The step's name in cards and reports.
    pub name: &'static str,
    /// Who writes.
    pub by: Role,
}

/// The construction a scheme belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Family {
    /// Parties encrypt; authorities release one functional key per sum.
    FunctionalEncryption,
    /// Parties encrypt under one public key; decryptors give shares.
    Threshold,
    /// Parties mask pairwise; masks of the lost are recovered from shares.
    PairwiseMasking,
}

/// What a scheme is, for the registry, the cards and the benches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemeInfo {
    /// Number on the wire; never reused.
    pub id: u16,
    /// Name on the command line.
    pub name: &'static str,
    /// Construction.
    pub family: Family,
    /// Steps in order.
    pub steps: &'static [Step],
    /// False for laboratory schemes, which no service accepts.
    pub served: bool,
    /// Paper and figure.
    pub source: &'static str,
    /// What the one who opens learns beyond the sum, in one sentence.
    pub leakage: &'static str,
}

/// The length of one contributor's bytes in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedLen {
    /// This many bytes for every coordinate, produced and read by range.
    PerCoordinate(usize),
    /// This many bytes whatever `d`.
    Fixed(usize),
}

impl EncodedLen {
    /// Total bytes for `dim` coordinates, or `None` on overflow.
    #[must_use]
    pub fn total(self, dim: u64) -> Option<u64> {
        match self {
            Self::PerCoordinate(each) => dim.checked_mul(each as u64),
            Self::Fixed(all) => Some(all as u64),
        }
    }
}

/// What is fixed for all contributors of one sum.
#[derive(Clone, Debug)]
pub struct SumContext {
    /// The label of this opening.
    pub label: Label,
    /// Its shape.
    pub shape: SumShape,
    /// Pad generator.
    pub suite: PadSuite,
    /// The job's public key, where the scheme has one; else empty.
    pub public: Arc<[u8]>,
}

/// One shared key together with the nonce of the submission it protects.
#[derive(Clone, Copy)]
pub struct KeyedNonce<'a> {
    /// Key between one party and one authority (or between two parties).
    pub key: &'a SharedKey,
    /// Nonce of the party's submission.
    pub nonce: Nonce,
}

/// A message of an earlier step, as a contributor receives it.
#[derive(Clone, Copy, Debug)]
pub struct StepMessage<'a> {
    /// Position of its sender in the roster.
    pub from: u32,
    /// Index of the step it was written in.
    pub step: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// All that one contributor brings to one step.
#[derive(Clone, Copy, Default)]
pub struct StepInput<'a> {
    /// Party: one entry per authority, in manifest order. Authority: one per member of the frozen
    /// set, in roster order.
    pub keys: &'a [KeyedNonce<'a>],
    /// The contributor's own secret state left by its earlier step; empty in the first.
    pub state: &'a [u8],
    /// Fixed-length messages of earlier steps that are addressed to this contributor.
    pub inbox: &'a [StepMessage<'a>],
}

/// One contributor at work in one step.
pub trait Contributor {
    /// Takes in another contributor's big message, where the step needs one (a decryptor reads
    /// ciphertexts). `bytes` are those of coordinates `range`.
    ///
    /// # Errors
    /// The default refuses: most steps take nothing.
    fn absorb(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<(), SchemeError> {
        let _ = (range, bytes);
        Err(SchemeError::WrongStep)
    }

    /// Writes the bytes of coordinates `range` into `out`; for a fixed-length step, all of them,
    /// with `range` ignored.
    ///
    /// `plain` holds little-endian ring words of `range` when the contributor is a party in the
    /// step that carries plaintext, and is empty otherwise.
    ///
    /// # Errors
    /// [`SchemeError::Length`] when a buffer does not fit `range`.
    fn write(&mut self, range: Range<u64>, plain: &[u8], out: &mut [u8])
    -> Result<(), SchemeError>;

    /// The secret state to persist for this contributor's next step.
    fn into_state(self: Box<Self>) -> Secret<Vec<u8>> {
        Secret::new(Vec::new())
    }
}

/// The aggregator opening a sum, range by range.
pub trait Opener {
    /// Starts coordinates `range`, forgetting the range before.
    fn begin(&mut self, range: Range<u64>);

    /// Takes in one contributor's bytes of step `step` for the current range (or all of them, if
    /// the step has a fixed length).
    ///
    /// # Errors
    /// [`SchemeError::Length`], or [`SchemeError::Malformed`] when the bytes are no group element.
    fn absorb(&mut self, step: usize, bytes: &[u8]) -> Result<(), SchemeError>;

    /// Writes the opened little-endian ring words of the current range.
    ///
    /// # Errors
    /// [`SchemeError::Messages`] unless every member's and every key holder's bytes were absorbed;
    /// [`SchemeError::OutOfRange`] when a coordinate is not a possible sum: never a value.
    fn finish(&mut self, out: &mut [u8]) -> Result<(), SchemeError>;
}

/// A scheme for secure sums.
///
/// # Security
/// A (party, label, nonce) triple encrypts one plaintext only; the protocol's persistent state
/// enforces it, schemes cannot.
pub trait SumScheme: Send + Sync {
    /// What this scheme is.
    fn info(&self) -> &'static SchemeInfo;

    /// Refuses a shape this scheme cannot open exactly.
    ///
    /// # Errors
    /// [`SchemeError::Shape`] with the reason.
    fn check(&self, shape: &SumShape) -> Result<(), SchemeError>;

    /// Length of one contributor's bytes in step `step`, or `None` if there is no such step.
    fn encoded_len(&self, shape: &SumShape, step: usize) -> Option<EncodedLen>;

    /// A contributor of step `step`.
    ///
    /// # Errors
    /// [`SchemeError::WrongStep`], or [`SchemeError::Keys`] when the wrong number of keys is given.
    fn contributor(
        &self,
        step: usize,
        context: &SumContext,
        input: &StepInput<'_>,
    ) -> Result<Box<dyn Contributor + Send>, SchemeError>;

    /// An opener for one sum over `members` parties.
    ///
    /// # Errors
    /// [`SchemeError::Shape`] as [`SumScheme::check`].
    fn opener(
        &self,
        context: &SumContext,
        members: u32,
    ) -> Result<Box<dyn Opener + Send>, SchemeError>;
}

/// Why a scheme refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeError {
    /// The shape cannot be opened exactly by this scheme.
    #[error("unsupported shape: {0}")]
    Shape(&'static str),
    /// A buffer has the wrong length.
    #[error("wrong length: expected {expected} bytes, got {got}")]
    Length {
        /// Bytes expected.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// A proof of knowledge or of a correct share that does not verify.
    #[error("a proof does not verify")]
    BadProof,
    /// A public key, a share, or the making of one is wrong.
    #[error("threshold key: {0}")]
    Key(&'static str),
    /// Bytes that are not an element of the scheme's group.
    #[error("malformed element at coordinate {0}")]
    Malformed(u64),
    /// A coordinate that no legal sum could have.
    #[error("coordinate {0} is out of range")]
    OutOfRange(u64),
    /// Coordinates outside the sum's dimension.
    #[error("coordinates {start}..{end} are not within 0..{dim}")]
    Range {
        /// First coordinate asked for.
        start: u64,
        /// One past the last.
        end: u64,
        /// d.
        dim: u64,
    },
    /// A sum was to be opened with a message missing or one too many.
    #[error("step {step} needs {expected} messages, got {got}")]
    Messages {
        /// The step.
        step: usize,
        /// Messages expected.
        expected: u32,
        /// Messages received.
        got: u32,
    },
    /// This role does not act in this step.
    #[error("no such contribution in this step")]
    WrongStep,
    /// The wrong number of keys.
    #[error("expected {expected} keys, got {got}")]
    Keys {
        /// Keys expected.
        expected: usize,
        /// Keys received.
        got: usize,
    },
}
