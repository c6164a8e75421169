//! The messages, in the order they travel.
//!
//! Training: `JoinPart` .. `JoinEnd` -> `Joined` -> `FlagAsk` -> `FlagPart` (ordering, then
//! beneficiary) -> `Assigned` -> `Logged` -> `Evidence` .. `SumAsk` -> `Summed` -> `NoiseAsk` ->
//! `NoiseShare` -> `FreezeAsk` -> `Released` -> `OpenAsk` -> `Partial`. Inference: `QueryAsk` ->
//! `Picked` (ordering, then beneficiary) -> `ReleaseAsk` -> `Released` -> `OpenAsk` -> `Partial`.
//!
//! All but `Assigned` and `Logged` travel in an [`Envelope`](super::Envelope), sealed to their
//! receiver.

use core::fmt;

use quorate_crypto::merkle::Hash;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroize;

use super::strict::{Frozen, PooledAsk};
use super::{RowId, Side};
use crate::postcard_body;
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed};

/// A message of one job and model version.
pub trait OfJob {
    /// The job.
    fn job(&self) -> Hash;
    /// The model version.
    fn version(&self) -> u32;
}

/// A message by a bank.
pub trait ByBank {
    /// The bank.
    fn bank(&self) -> &Name;
}

macro_rules! of_job {
    ($($type:ty),*) => {$(
        impl OfJob for $type {
            fn job(&self) -> Hash {
                self.job
            }

            fn version(&self) -> u32 {
                self.version
            }
        }
    )*};
}
pub(super) use of_job;
macro_rules! by_bank {
    ($($type:ty),*) => {$(
        impl ByBank for $type {
            fn bank(&self) -> &Name {
                &self.bank
            }
        }
    )*};
}

/// Longest number of an account, in bytes. With [`MAX_NAME_BYTES`] it bounds the parts of join lists
/// that a bank keeps.
pub const MAX_ACCOUNT_BYTES: usize = 128;
/// Longest name of an account, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// An account as a payment names it. Its `Debug` shows nothing, and it is wiped when dropped. None with
/// a longer number or name is decoded.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its number.
    #[serde(deserialize_with = "bounded::<MAX_ACCOUNT_BYTES, _>")]
    pub account: String,
    /// The name that the payment gives it, where it gives one.
    #[serde(deserialize_with = "bounded::<MAX_NAME_BYTES, _>")]
    pub name: String,
}

impl Account {
    /// Whether others decode it.
    ///
    /// # Errors
    /// [`Code::TooLarge`].
    pub fn check(&self) -> Result<(), Refusal> {
        if self.account.len() <= MAX_ACCOUNT_BYTES && self.name.len() <= MAX_NAME_BYTES {
            return Ok(());
        }
        let why = format!(
            "an account's number has at most {MAX_ACCOUNT_BYTES} bytes, its name {MAX_NAME_BYTES}"
        );
        Err(Refusal::new(Code::TooLarge, why))
    }
}

/// A text of at most `MOST` bytes.
fn bounded<'de, const MOST: usize, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Text<const MOST: usize>;

    impl<const MOST: usize> Visitor<'_> for Text<MOST> {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a text of at most {MOST} bytes")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            if text.len() <= MOST {
                Ok(text.to_owned())
            } else {
                Err(E::invalid_length(text.len(), &self))
            }
        }
    }

    from.deserialize_str(Text::<MOST>)
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(..)")
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.account.zeroize();
        self.name.zeroize();
    }
}

/// A row of a join list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRow {
    /// Random id.
    pub row: RowId,
    /// The account on the bank's side.
    pub account: Account,
}

/// Network to bank: 1,024 rows of one side, shuffled; rows of padding are like others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinPart {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Whose accounts.
    pub side: Side,
    /// Number of the part within the side, from 0.
    pub part: u16,
    /// As many rows as the job says.
    pub rows: Vec<JoinRow>,
}
postcard_body!(JoinPart, "quorate/pv-join-part/1");

/// Network to bank: the join list is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinEnd {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Hashes of its signed parts: ordering side, then beneficiary side, by number.
    pub parts: [Vec<Hash>; 2],
}
postcard_body!(JoinEnd, "quorate/pv-join-end/1");

/// Bank to network: all parts are here, and their rows' classes are fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Hash of the signed [`JoinEnd`].
    pub end: Hash,
}
postcard_body!(Joined, "quorate/pv-joined/1");

/// Network to bank: the bits of one part, please.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagAsk {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Side.
    pub side: Side,
    /// Part.
    pub part: u16,
    /// The other side's ciphertexts, row by row and bit by bit; none on the ordering side.
    pub inputs: Vec<u8>,
}
postcard_body!(FlagAsk, "quorate/pv-flag-ask/1");

/// Bank to network: the ciphertexts of one part, row by row and bit by bit.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagPart {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Side.
    pub side: Side,
    /// Part.
    pub part: u16,
    /// Hash of the part's row ids.
    pub rows: Hash,
    /// Hash of the inputs.
    pub inputs: Hash,
    /// The ciphertexts.
    pub ciphers: Vec<u8>,
    /// Their proofs.
    pub proofs: Vec<u8>,
}
postcard_body!(FlagPart, "quorate/pv-flag-part/1");

/// Network to aggregator, to be logged: hash of everything the cell sums are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// Salted hash of all [`Evidence`], see [`assignment_hash`].
    pub hash: Hash,
}
postcard_body!(Assigned, "quorate/pv-assigned/1");

/// Aggregator: the assignment is logged, the only one of its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The [`Assigned::hash`].
    pub hash: Hash,
    /// Place in the log.
    pub index: u64,
}
postcard_body!(Logged, "quorate/pv-logged/1");

/// Network to authority: what the cell sums are made of, part by part.
#[derive(Clone, Serialize, Deserialize)]
pub enum Evidence {
    /// An ordering side's part.
    Ordering {
        /// Its row ids.
        rows: Vec<RowId>,
        /// As its bank signed it.
        part: Signed<FlagPart>,
    },
    /// A beneficiary side's part with the cells of its rows.
    Beneficiary {
        /// Its row ids.
        rows: Vec<RowId>,
        /// What its bank was given.
        inputs: Vec<u8>,
        /// As its bank signed it.
        part: Signed<FlagPart>,
        /// Tree by tree, the cell of every row under this version's random numbers;
        /// [`NO_CELL`] for rows that do not count (padding, rows of a bank that was lost).
        cells: Vec<u16>,
    },
}

/// Cell of a row that does not count.
pub const NO_CELL: u16 = u16::MAX;

/// The hash that is logged: over a random salt and the hashes of all evidence, in order.
#[must_use]
pub fn assignment_hash(job: &Hash, version: u32, salt: &[u8; 32], evidence: &[Hash]) -> Hash {
    let flat: Vec<u8> = evidence.iter().flat_map(|hash| hash.0).collect();
    let parts: [&[u8]; 4] = [&job.0, &version.to_le_bytes(), salt, &flat];
    quorate_crypto::merkle::hash_parts("quorate/pv-assignment/1", &parts)
}

/// Network to authority: add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumAsk {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// That the assignment is logged.
    pub logged: Signed<Logged>,
    /// Salt of the logged hash.
    pub salt: [u8; 32],
    /// Hashes of the evidence, in order.
    pub evidence: Vec<Hash>,
}
postcard_body!(SumAsk, "quorate/pv-sum-ask/1");

/// Authority: these are the cell sums of the logged assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summed {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The logged hash.
    pub assigned: Hash,
    /// Hash of the sums' ciphertexts.
    pub sums: Hash,
}
postcard_body!(Summed, "quorate/pv-summed/1");

/// Network to bank: your noise for these sums, please.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseAsk {
    /// By the authority.
    pub summed: Signed<Summed>,
    /// By the aggregator.
    pub logged: Signed<Logged>,
}

/// Bank to network, which passes it on to the authority: encrypted noise for every coordinate, with
/// a proof of knowledge.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseShare {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Hash of the signed [`Summed`].
    pub summed: Hash,
    /// A reply of the scheme `elgamal`.
    pub reply: Vec<u8>,
}
postcard_body!(NoiseShare, "quorate/pv-noise-share/1");

/// Network to authority: freeze these noise shares and open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeAsk {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// Hash of the signed [`Summed`].
    pub summed: Hash,
    /// Hashes of the signed shares' bytes, sorted by bank.
    pub shares: Vec<Hash>,
}
postcard_body!(FreezeAsk, "quorate/pv-freeze-ask/1");

/// What a release opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opens {
    /// The noised cells of a model version, once.
    Model {
        /// Hash of the signed [`Summed`].
        summed: Hash,
        /// The frozen noise shares: bank and hash.
        shares: Vec<(Name, Hash)>,
    },
    /// The scores of a query.
    Query {
        /// Number of the query.
        query: u64,
        /// Hash of the signed [`QueryTable`].
        table: Hash,
    },
    /// The pairs of counts of a query in a strict job.
    Pooled {
        /// Number of the query.
        query: u64,
        /// Hash of the signed [`QueryTable`].
        table: Hash,
        /// Hash of the signed [`Frozen`].
        frozen: Hash,
    },
}

/// Authority: these ciphertexts, and no others, may be opened to the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// What they are.
    pub opens: Opens,
    /// Hash of the ciphertexts.
    pub ciphers: Hash,
}
postcard_body!(Release, "quorate/pv-release/1");

/// Network to bank: your partial decryption of released ciphertexts, please.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAsk {
    /// By the authority.
    pub release: Signed<Release>,
    /// The ciphertexts.
    pub ciphers: Vec<u8>,
}

/// Authority or bank to network, sealed: a partial decryption.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The participant.
    pub bank: Name,
    /// Hash of the signed [`Release`].
    pub release: Hash,
    /// Number, points, proof.
    pub bytes: Vec<u8>,
}
postcard_body!(Partial, "quorate/pv-partial/1");

/// What identifies a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFields {
    /// Model version.
    pub version: u32,
    /// Number of the query, from 0.
    pub query: u64,
    /// The ordering side's bank.
    pub ordering: Name,
    /// The beneficiary side's bank.
    pub beneficiary: Name,
    /// Random ids of the payments.
    pub rows: Vec<RowId>,
}

/// Network: the encrypted tables of a query, with a proof of knowledge. Row by row
/// (L + 1) x (L + 1) entries, the ordering side's class first; in a strict job as
/// [`strict`](super::strict) says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTable {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The rest of what identifies it.
    pub fields: QueryFields,
    /// A reply of the scheme `elgamal`.
    pub reply: Vec<u8>,
}
postcard_body!(QueryTable, "quorate/pv-query-table/1");

/// Network to one of a query's banks: the accounts on its side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryAccounts {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// Hash of the signed [`QueryTable`].
    pub table: Hash,
    /// Side.
    pub side: Side,
    /// One account for each row.
    pub accounts: Vec<Account>,
    /// What the ordering bank picked; empty on the ordering side.
    pub candidates: Vec<u8>,
}
postcard_body!(QueryAccounts, "quorate/pv-query-accounts/1");

/// Bank to network: what it picked for each row, with proofs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picked {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// The bank.
    pub bank: Name,
    /// Hash of the signed [`QueryTable`].
    pub table: Hash,
    /// Side.
    pub side: Side,
    /// Row by row.
    pub ciphers: Vec<u8>,
    /// Row by row.
    pub proofs: Vec<u8>,
}
postcard_body!(Picked, "quorate/pv-picked/1");

/// Network to authority: open what both banks picked.
#[derive(Clone, Serialize, Deserialize)]
pub struct ReleaseAsk {
    /// By the network.
    pub table: Signed<QueryTable>,
    /// By the ordering bank.
    pub ordering: Signed<Picked>,
    /// By the beneficiary bank.
    pub beneficiary: Signed<Picked>,
}

/// Bank or authority to network: a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The job.
    pub job: Hash,
    /// Model version of the message, or 0.
    pub version: u32,
    /// The query that the message belongs to.
    pub query: Option<u64>,
    /// Who refused.
    pub bank: Name,
    /// Why.
    pub refusal: Refusal,
}
postcard_body!(Refused, "quorate/pv-refused/1");

of_job!(
    JoinPart,
    JoinEnd,
    Joined,
    FlagAsk,
    FlagPart,
    Assigned,
    Logged,
    SumAsk,
    Summed,
    NoiseShare,
    FreezeAsk,
    Release,
    Partial,
    QueryTable,
    QueryAccounts,
    Picked,
    Refused
);
by_bank!(Joined, FlagPart, NoiseShare, Partial, Picked, Refused);

macro_rules! sized_debug {
    ($($type:ty => $bytes:ident),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({} bytes)"), self.$bytes.len())
            }
        }
    )*};
}
sized_debug!(
    FlagPart => ciphers, NoiseShare => reply, Partial => bytes, QueryTable => reply, Picked => ciphers
);

/// Any of them.
#[derive(Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each carries the type of its name, documented there")]
pub enum Message {
    JoinPart(Signed<JoinPart>),
    JoinEnd(Signed<JoinEnd>),
    Joined(Signed<Joined>),
    FlagAsk(Signed<FlagAsk>),
    FlagPart(Signed<FlagPart>),
    Assigned(Signed<Assigned>),
    Logged(Signed<Logged>),
    Evidence(Box<Evidence>),
    SumAsk(Signed<SumAsk>),
    Summed(Signed<Summed>),
    NoiseAsk(NoiseAsk),
    NoiseShare(Signed<NoiseShare>),
    FreezeAsk(Signed<FreezeAsk>),
    Released(Signed<Release>, Signed<Partial>),
    OpenAsk(OpenAsk),
    Partial(Signed<Partial>),
    QueryAsk(Signed<QueryTable>, Signed<QueryAccounts>),
    Picked(Signed<Picked>),
    ReleaseAsk(Box<ReleaseAsk>),
    Refused(Signed<Refused>),
    Frozen(Signed<Frozen>),
    PooledAsk(Box<PooledAsk>),
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Message {
    /// The model version that its sender says it belongs to; 0 where it says none.
    #[must_use]
    pub fn version(&self) -> u32 {
        fn of<T: OfJob + crate::wire::Body>(signed: &Signed<T>) -> u32 {
            signed.peek().map_or(0, |body| body.version())
        }
        match self {
            Self::JoinPart(m) => of(m),
            Self::JoinEnd(m) => of(m),
            Self::FlagAsk(m) => of(m),
            Self::SumAsk(m) => of(m),
            Self::NoiseAsk(m) => of(&m.summed),
            Self::FreezeAsk(m) => of(m),
            Self::OpenAsk(m) => of(&m.release),
            Self::QueryAsk(m, _) => of(m),
            Self::ReleaseAsk(m) => of(&m.table),
            Self::Frozen(m) => of(m),
            Self::PooledAsk(m) => of(&m.ask.table),
            _ => 0,
        }
    }

    /// The query that its sender says it belongs to.
    #[must_use]
    pub fn query(&self) -> Option<u64> {
        match self {
            Self::QueryAsk(table, _) => table.peek().ok().map(|table| table.fields.query),
            Self::ReleaseAsk(ask) => ask.table.peek().ok().map(|table| table.fields.query),
            Self::PooledAsk(ask) => ask.ask.table.peek().ok().map(|table| table.fields.query),
            Self::OpenAsk(ask) => match ask.release.peek().ok()?.opens {
                Opens::Query { query, .. } | Opens::Pooled { query, .. } => Some(query),
                Opens::Model { .. } => None,
            },
            _ => None,
        }
    }

    /// Its kind.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::JoinPart(_) => "JoinPart",
            Self::JoinEnd(_) => "JoinEnd",
            Self::Joined(_) => "Joined",
            Self::FlagAsk(_) => "FlagAsk",
            Self::FlagPart(_) => "FlagPart",
            Self::Assigned(_) => "Assigned",
            Self::Logged(_) => "Logged",
            Self::Evidence(_) => "Evidence",
            Self::SumAsk(_) => "SumAsk",
            Self::Summed(_) => "Summed",
            Self::NoiseAsk(_) => "NoiseAsk",
            Self::NoiseShare(_) => "NoiseShare",
            Self::FreezeAsk(_) => "FreezeAsk",
            Self::Released(..) => "Released",
            Self::OpenAsk(_) => "OpenAsk",
            Self::Partial(_) => "Partial",
            Self::QueryAsk(..) => "QueryAsk",
            Self::Picked(_) => "Picked",
            Self::ReleaseAsk(_) => "ReleaseAsk",
            Self::Refused(_) => "Refused",
            Self::Frozen(_) => "Frozen",
            Self::PooledAsk(_) => "PooledAsk",
        }
    }
}
