//! How messages travel: sealed to their receiver, carried by the aggregator, kept until they are
//! fetched.
//!
//! The network and the banks only call; the aggregator keeps one box of letters for each of them and
//! hands those to the authority over itself. A letter is signed by its sender, so that nobody else
//! fills a box, and sealing one message twice gives the same bytes: a letter that is sent again is the
//! same letter.

use core::fmt;

use quorate_crypto::keys::{ExchangeKey, Identity};
use quorate_crypto::merkle::{Hash, hash_parts};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::messages::{Assigned, Logged, Message};
use super::seed;
use crate::postcard_body;
use crate::refusal::{Code, Refusal};
use crate::round::aggregator::Outcome;
use crate::wire::{MAX_MESSAGE_BYTES, Name, Signed, Verified, encode};

/// Sealed messages have a multiple of so many bytes, since account strings differ in length.
const ENVELOPE_STEP: usize = 4096;

/// Longest message in a letter: the letter itself is a control message.
pub const MAX_LETTER_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);

/// A sealed message on its way through the aggregator, which sees names and lengths.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The job: hash of its manifest.
    pub job: Hash,
    /// Its sender.
    pub from: Name,
    /// Who can open it.
    pub to: Name,
    /// HPKE to the receiver's exchange key: a [`Message`].
    pub sealed: Vec<u8>,
}
postcard_body!(Envelope, "quorate/pv-letter/1");

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({} to {}, {} bytes)", self.from, self.to, self.sealed.len())
    }
}

impl Envelope {
    fn info(job: &Hash, from: &Name, to: &Name) -> Hash {
        let parts: [&[u8]; 3] = [&job.0, from.as_str().as_bytes(), to.as_str().as_bytes()];
        hash_parts("quorate/pv-envelope/1", &parts)
    }

    /// Seals and signs a message as `from`, whose keys are `identity`.
    ///
    /// # Errors
    /// [`Code::TooLarge`]; [`Code::BadRoster`] when the receiver's key is of small order.
    ///
    /// # Security
    /// The randomness follows from the sender's keys, the receiver and the message: of two letters
    /// one sees whether they carry the same message, and nothing else.
    pub fn seal(
        job: Hash,
        (identity, from): (&Identity, &Name),
        (key, to): (&ExchangeKey, &Name),
        message: &Message,
    ) -> Result<Verified<Self>, Refusal> {
        let message = zeroize::Zeroizing::new(encode(message));
        if message.len() > MAX_LETTER_BYTES {
            return Err(Refusal::new(Code::TooLarge, "a message longer than a letter carries"));
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes();
        let whole = message.len().saturating_add(length.len()).next_multiple_of(ENVELOPE_STEP);
        let mut plain = zeroize::Zeroizing::new(Vec::with_capacity(whole));
        plain.extend_from_slice(&length);
        plain.extend_from_slice(&message);
        plain.resize(whole, 0);
        let info = Self::info(&job, from, to);
        let drawn = seed(identity, "quorate/pv-seal/1", &[&info.0, &key.0, &plain]);
        let mut rng = ChaCha20Rng::from_seed(*drawn.expose());
        let sealed = key
            .seal(&info.0, &plain, &mut rng)
            .ok_or_else(|| Refusal::new(Code::BadRoster, "an exchange key of small order"))?;
        let letter = Self { job, from: from.clone(), to: to.clone(), sealed };
        Ok(Signed::sign(letter, identity))
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`Code::Malformed`] when it was sealed to somebody else or is no message.
    pub fn open(&self, identity: &Identity) -> Result<Message, Refusal> {
        let info = Self::info(&self.job, &self.from, &self.to);
        let plain = identity
            .open_sealed(&info.0, &self.sealed)
            .ok_or_else(|| Refusal::new(Code::Malformed, "sealed to another receiver"))?;
        let malformed = || Refusal::new(Code::Malformed, "a sealed message of another length");
        let (length, rest) = plain.expose().split_first_chunk().ok_or_else(malformed)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| malformed())?;
        crate::wire::decode(rest.get(..length).ok_or_else(malformed)?)
    }
}

/// A party asks for its letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collect {
    /// The job: hash of its manifest.
    pub job: Hash,
    /// Whose letters.
    pub party: Name,
    /// Letters up to this number are handled and stored there: they are erased here.
    pub after: u64,
    /// How long to wait for one, in milliseconds.
    pub wait_ms: u64,
}
postcard_body!(Collect, "quorate/pv-collect/1");

/// The network ends the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The job: hash of its manifest.
    pub job: Hash,
    /// Why it ends early; none when everything that the network wanted is opened.
    pub failure: Option<Refusal>,
}
postcard_body!(Close, "quorate/pv-close/1");

/// What a party finds in its box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// Letters with their numbers, oldest first; at least one, if there is any.
    pub letters: Vec<(u64, Signed<Envelope>)>,
    /// Set at the end of the job.
    pub outcome: Option<Outcome>,
}

/// What only payments jobs send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentsMessage {
    /// Party to aggregator, and on to the authority if it is addressed to it.
    Letter(Signed<Envelope>),
    /// Authority to aggregator: what it answers to a letter.
    Answers(Vec<Signed<Envelope>>),
    /// Party to aggregator.
    Collect(Signed<Collect>),
    /// Aggregator to party.
    Mail(Mail),
    /// Network to aggregator.
    Assigned(Signed<Assigned>),
    /// Aggregator to network.
    Logged(Signed<Logged>),
    /// Network to aggregator, and on to the authority.
    Close(Signed<Close>),
}
