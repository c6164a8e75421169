//! Which rows do n >= 2 parties have in common, and in which order do they use them: private set
//! intersection over exact identifiers, and (weaker) record linkage over dirty ones.
//!
//! # Exact identifiers
//! Authorities hold the key of an oblivious pseudorandom function ([`oprf`](crate::oprf)), parties share
//! a secret that no service has, the aggregator compares. One job:
//!
//! 1. Parties agree on a [`GroupKey`]: each one's [`Contribution`] goes sealed to each other party, after
//!    its [commitment](Contribution::commitment) is public.
//! 2. Each party turns its rows into distinct [`Identifier`]s ([`PartyRows`]), padded to the size it
//!    declares.
//! 3. For each batch, the authorities evaluate the blinded identifiers, never more than declared.
//! 4. Each party sends its [`Tag`]s, HMAC(group key, F(identifier)) cut to 16 bytes, sorted, to the
//!    aggregator ([`PartyTags`]).
//! 5. The aggregator intersects ([`common`]) and sends the same common tags to all. Each party finds its
//!    rows, and all have the same [order](Alignment), whose salted [root](Alignment::root) goes into every
//!    label.
//!
//! Two scalar products per identifier at a party and one at each authority, whatever n; no message
//! between parties but the n - 1 sealed contributions.
//!
//! # Security
//! Semi-honest parties and services; lies that a check can see are refused.
//!
//! | who | learns | does not learn |
//! |---|---|---|
//! | authority | each party's declared size | identifiers, tags, the result |
//! | aggregator | declared sizes; for each tag which parties have it, so the size of every intersection of a subset of parties | identifiers; it cannot test a guess |
//! | party | declared sizes; which of its own rows all parties hold; how many rows that are | anything of a row that not all parties hold, intersections of fewer parties |
//!
//! A tag is a function of two secrets: the authorities' key and the group key. A guess can be tested only
//! by one who has the tags and both:
//!
//! | colluding | what they gain |
//! |---|---|
//! | aggregator, all authorities | nothing beyond the aggregator's view: the group key is missing |
//! | aggregator, parties | for each identifier that these parties declared, which other parties hold it. They cannot test other identifiers: F costs one counted evaluation each |
//! | authorities, parties | F of any identifier, but no other party's tags to compare with |
//! | all authorities, aggregator, a party | everything: a dictionary attack on every party's identifiers |
//!
//! With several authorities one honest one is enough for the last line not to apply.
//!
//! - A party can declare guesses instead of identifiers it holds; it learns of each whether *all* others
//!   hold it. The number is bounded by its declared size, which all see before anything is evaluated.
//! - The aggregator cannot add a row: a party refuses a common tag that it does not hold, and different
//!   answers to different parties give different roots, hence labels under which nothing opens. It can
//!   leave rows out, without knowing which they are.
//! - The order is by tag, so it is pseudo-random and says nothing of the identifiers or of any party's
//!   own order. Tags of two jobs are unrelated.
//! - Two identifiers with one tag would misalign a row. Over N distinct identifiers in a job, all parties
//!   together, the chance is below N^2 / 2^129: 2 * 10^-25 for N = 10^7.
//! - Rows whose identifier is missing, or occurs more than once at that party, are left out and counted:
//!   which of two rows is meant is not guessed.
//!
//! Source: Huberman, Franklin, Hogg, *Enhancing privacy and trust in electronic communities* (EC 1999)
//! for intersection by blinded powers; Jarecki, Liu, *Fast secure computation of set intersection* (SCN
//! 2010) for the oblivious function. Commutative blinding round a ring of parties was not taken: it costs
//! n products per identifier and party, n rounds, and shows fully blinded sets, hence intersections of
//! few parties, to a party.

pub mod align;
pub mod bloom;
#[cfg(test)]
mod tests;

use core::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::merkle::{Hash, hash_parts};
use crate::oprf::{MAX_BATCH, OUTPUT_BYTES};
use crate::secret::Secret;

pub use align::{Alignment, PartyTags, TagList, common, encode_tags};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// What the aggregator compares instead of an identifier: equal exactly when the identifiers are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag(pub [u8; TAG_BYTES]);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What is wrong with rows, tags or contributions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PsiError {
    /// More rows than a `u32` counts.
    #[error("more than 2^32 - 1 rows")]
    TooManyRows,
    /// A party has more distinct identifiers than it declared.
    #[error("{distinct} distinct identifiers, but only {declared} were declared")]
    Declared {
        /// Distinct identifiers.
        distinct: usize,
        /// Identifiers declared.
        declared: u32,
    },
    /// A message has the wrong length.
    #[error("wrong length: expected {expected} bytes, got {got}")]
    Length {
        /// Bytes expected.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// Tags that do not ascend strictly: unsorted, or one twice.
    #[error("tag {0} is not above the one before it")]
    Order(usize),
    /// The aggregator called a tag common that this party does not hold.
    #[error("common tag {0} is not one of this party's")]
    NotHeld(usize),
    /// Fewer common rows than the job allows.
    #[error("{got} common rows, at least {least} are needed")]
    TooFew {
        /// Rows needed.
        least: u32,
        /// Common rows.
        got: usize,
    },
    /// A row index outside a party's rows, or one twice.
    #[error("common row {0} does not name a row of this party, or names one twice")]
    Row(usize),
    /// Fewer than two parties, or one named twice.
    #[error("a group has at least two parties, each once")]
    Group,
    /// A contribution that is not the committed one.
    #[error("party {0} did not contribute what it committed to")]
    Contribution(String),
}

/// SHA-256 of an identifier's columns.
///
/// # Security
/// Whoever can guess the identifier can check the guess: it never leaves the party, and is zeroized.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Identifier([u8; 32]);

crate::assert_secret!(Identifier, PartyRows, Contribution, GroupKey);

impl Identifier {
    /// The identifier that consists of these columns, already normalised; injective in their list.
    #[must_use]
    pub fn of(columns: &[&[u8]]) -> Self {
        Self(hash_parts("quorate/psi/identifier/1", columns).0)
    }
}

/// How many rows of a party take part, and why others do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// All rows.
    pub rows: u32,
    /// Rows without an identifier.
    pub missing: u32,
    /// Rows whose identifier another row of this party has too.
    pub duplicated: u32,
    /// Rows that take part, each with an identifier of its own.
    pub distinct: u32,
}

/// A party's distinct identifiers, padded with random ones to the declared size.
pub struct PartyRows {
    /// Distinct identifiers, then padding: the inputs of the function.
    inputs: Secret<Vec<[u8; 32]>>,
    /// The row of each input that is not padding.
    rows: Vec<u32>,
    counts: RowCounts,
}

impl PartyRows {
    /// Of one identifier per row, `None` where it is missing; `declared` is the size the party has told
    /// everybody.
    ///
    /// # Errors
    /// [`PsiError::Declared`] when `declared` is too small, [`PsiError::TooManyRows`].
    ///
    /// # Security
    /// A `declared` above the true number hides the true one from everybody; padding costs as much as
    /// identifiers do. `rng` must be secret; with the same one the same inputs come again.
    pub fn new<R: CryptoRng + ?Sized>(
        identifiers: &[Option<Identifier>],
        declared: u32,
        rng: &mut R,
    ) -> Result<Self, PsiError> {
        let rows = u32::try_from(identifiers.len()).map_err(|_| PsiError::TooManyRows)?;
        let mut present: Vec<(&[u8; 32], u32)> = identifiers
            .iter()
            .zip(0..)
            .filter_map(|(identifier, row)| Some((&identifier.as_ref()?.0, row)))
            .collect();
        present.sort_unstable();
        let mut inputs = Secret::new(Vec::with_capacity(present.len().max(declared as usize)));
        let mut kept = Vec::with_capacity(present.len());
        let mut counts = RowCounts { rows, ..RowCounts::default() };
        let mut present_rows = 0;
        for group in present.chunk_by(|a, b| a.0 == b.0) {
            let size = u32::try_from(group.len()).map_err(|_| PsiError::TooManyRows)?;
            present_rows += size;
            match group {
                [(identifier, row)] => {
                    inputs.expose_mut().push(**identifier);
                    kept.push(*row);
                    counts.distinct += 1;
                }
                _ => counts.duplicated += size,
            }
        }
        counts.missing = rows - present_rows;
        if counts.distinct > declared {
            return Err(PsiError::Declared { distinct: kept.len(), declared });
        }
        for _ in counts.distinct..declared {
            let mut padding = [0; 32];
            rng.fill_bytes(&mut padding);
            inputs.expose_mut().push(padding);
            padding.zeroize();
        }
        Ok(Self { inputs, rows: kept, counts })
    }

    /// The inputs of the function, batch by batch; as many as declared in all.
    ///
    /// Their order is that of the tags to be given to [`PartyTags::new`].
    pub fn batches(&self) -> impl ExactSizeIterator<Item = &[[u8; 32]]> {
        self.inputs.expose().chunks(MAX_BATCH)
    }

    /// Which rows take part.
    #[must_use]
    pub const fn counts(&self) -> RowCounts {
        self.counts
    }
}

/// A party's part of the group key: 32 fresh random bytes, sealed to each other party.
pub struct Contribution(Secret<[u8; 32]>);

impl Contribution {
    /// A fresh one.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = Secret::new([0; 32]);
        rng.fill_bytes(bytes.expose_mut());
        Self(bytes)
    }

    /// One that was received.
    #[must_use]
    pub const fn from_bytes(bytes: Secret<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be sealed to the other parties.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// What is made public before any contribution is sent.
    #[must_use]
    pub fn commitment(&self, session: &[u8; 32], party: &str) -> Hash {
        hash_parts("quorate/psi/commitment/1", &[session, party.as_bytes(), self.expose()])
    }
}

/// The secret of a job's parties, which no service has.
pub struct GroupKey(Secret<[u8; 32]>);

impl GroupKey {
    /// Of all parties' contributions with their names and commitments, in any order; `session` names the
    /// job and the attempt.
    ///
    /// # Errors
    /// [`PsiError::Contribution`] names a party whose contribution is not the committed one;
    /// [`PsiError::Group`].
    ///
    /// # Security
    /// Secret from everybody but the parties while one party's contribution is.
    pub fn combine(
        session: &[u8; 32],
        members: &[(&str, Hash, &Contribution)],
    ) -> Result<Self, PsiError> {
        let mut members: Vec<_> = members.iter().collect();
        members.sort_unstable_by_key(|(party, ..)| *party);
        let twice = members.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0));
        if members.len() < 2 || twice {
            return Err(PsiError::Group);
        }
        let mut parts: Vec<&[u8]> = vec![session];
        for (party, commitment, contribution) in members {
            if contribution.commitment(session, party) != *commitment {
                return Err(PsiError::Contribution((*party).to_owned()));
            }
            parts.extend([party.as_bytes(), contribution.expose()]);
        }
        Ok(Self(Secret::new(hash_parts("quorate/psi/group/1", &parts).0)))
    }

    /// A key for one purpose.
    fn derive(&self, purpose: &[u8]) -> Secret<[u8; 32]> {
        let mut key = Secret::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"quorate/psi/key/1"), self.0.expose())
            .expand(purpose, key.expose_mut())
            .unwrap_or_else(|_| unreachable!("a legal HKDF length"));
        key
    }

    /// The tags of a batch of values of the function.
    #[must_use]
    pub fn tags(&self, outputs: &[[u8; OUTPUT_BYTES]]) -> Vec<Tag> {
        let mac = keyed(&self.derive(b"tag"));
        let tag = |output| {
            let full: [u8; 32] = mac.clone().chain_update(output).finalize().into_bytes().into();
            Tag(full.first_chunk().copied().unwrap_or_default())
        };
        outputs.iter().map(tag).collect()
    }

    /// The secret of [`bloom::Encoder`].
    #[must_use]
    pub fn bloom_key(&self) -> Secret<[u8; 32]> {
        self.derive(b"bloom")
    }
}

/// HMAC-SHA256 under a key.
fn keyed(key: &Secret<[u8; 32]>) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose())
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))
}
