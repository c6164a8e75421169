//! The messages of a vertical job, in the order they travel.
//!
//! To align rows: `EpochOpen` -> `Commit` (all) -> `SeedShare` (each to each) -> `Evaluate` (to every
//! authority) -> a `SubmitHeader` over tags -> `Ready`. To train: `EpochOpen` -> `Commit` -> `SeedShare` -> `BatchOpen` -> `SubmitHeader`
//! (all passive parties) -> `BatchFreeze` -> `ScoreKey` (all authorities, to the label holder) -> `ProductAsk` ->
//! `ProductKey` -> `Gradient` (to each passive party) -> the next `BatchOpen`. A batch that is only scored ends with `Scored`
//! after the score keys.

use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::sum::Label;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::enrol::Enrolled;
use crate::job::{Manifest, RosterEntry};
use crate::postcard_body;
use crate::round::messages::{BulkRef, SubmitHeader};
use crate::wire::{Name, Signed};

/// A party says which rows it shares with all others: their number, and the salted root of their
/// order, which all parties must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The job.
    pub manifest: Hash,
    /// The party.
    pub party: Name,
    /// N, aligned rows.
    pub rows: u32,
    /// Salted root over their order; the salt is the parties' own.
    pub order: Hash,
    /// Rows with a label, which are trained on, and rows without, which are scored: the label
    /// holder's only.
    pub split: Option<(u32, u32)>,
    /// Salted hash of which rows these are: the label holder's; zero from others.
    pub trained: Hash,
}
postcard_body!(Ready, "quorate/vertical-ready/1");

/// The aggregator opens an epoch, and says who takes part in it; or, before the first one, the
/// alignment of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochOpen {
    /// The job.
    pub manifest: Hash,
    /// Epoch, from 0; the one after the last scores the rows without a label.
    pub epoch: u32,
    /// Which try to mix this epoch's order, from 0.
    pub mix: u16,
    /// Whether rows are aligned: no rows are known yet, and what is mixed is the parties' key.
    pub align: bool,
    /// The parties, sorted by name.
    pub roster: Vec<RosterEntry>,
    /// N, aligned rows.
    pub rows: u32,
    /// Salted root over their order.
    pub order: Hash,
    /// Rows to train on and rows to score.
    pub split: (u32, u32),
    /// The label holder's salted hash of which rows these are: one for the whole job.
    pub trained: Hash,
}
postcard_body!(EpochOpen, "quorate/epoch-open/1");

/// A party's commitment to its contribution to the order of an epoch's batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Hash of the signed [`EpochOpen`].
    pub epoch: Hash,
    /// The party.
    pub party: Name,
    /// Hash of its contribution.
    pub commitment: Hash,
    /// Identifiers that the party will have evaluated, padding included; 0 in epochs.
    pub identifiers: u32,
}
postcard_body!(Commit, "quorate/epoch-commit/1");

/// A contribution, sealed to one other party.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedShare {
    /// Hash of the signed [`EpochOpen`].
    pub epoch: Hash,
    /// Root over all signed commitments, in roster order: what the sender saw before it revealed.
    pub commits: Hash,
    /// Its sender.
    pub from: Name,
    /// Who can open it.
    pub to: Name,
    /// HPKE to the receiver's exchange key: an [`EpochSecret`].
    pub sealed: Vec<u8>,
}
postcard_body!(SeedShare, "quorate/seed-share/1");

/// What a [`SeedShare`] holds.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochSecret {
    /// The sender's contribution to the order.
    pub contribution: [u8; 32],
    /// The label holder's: one bit per aligned row, 1 for rows to train on. Empty from others.
    pub trained: Vec<u8>,
    /// The label holder's salt of the hash of these bits.
    pub salt: [u8; 32],
}

impl Drop for EpochSecret {
    fn drop(&mut self) {
        self.contribution.zeroize();
        self.salt.zeroize();
    }
}

/// What binds the rows to train on: every party of a job sees the same ones in every epoch.
#[must_use]
pub fn trained_hash(salt: &[u8; 32], trained: &[u8]) -> Hash {
    hash_parts("quorate/vertical-trained/1", &[salt, trained])
}

/// A party asks an authority to evaluate blinded identifiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluate {
    /// The authority.
    pub authority: Name,
    /// The job.
    pub manifest: Hash,
    /// The party.
    pub party: Name,
    /// Number of the batch, from 0: it is answered for one content only.
    pub batch: u32,
    /// Blinded identifiers, 32 bytes each.
    pub blinded: Vec<u8>,
}
postcard_body!(Evaluate, "quorate/evaluate/1");

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchPurpose {
    /// One step of training: scores, then products.
    Train,
    /// Scores only, to the label holder.
    Score,
}

/// The fields a batch's label is the hash of, besides those in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFields {
    /// Hash of the manifest.
    pub manifest: Hash,
    /// Epoch.
    pub epoch: u32,
    /// Batch of the epoch, from 0.
    pub counter: u32,
    /// Attempt, from 0.
    pub attempt: u16,
    /// What it is for.
    pub purpose: BatchPurpose,
    /// s, rows of this batch.
    pub rows: u32,
    /// Root of the epoch's roster.
    pub roster_root: Hash,
    /// Salted root over the aligned rows.
    pub order: Hash,
    /// Root over the epoch's commitments: the permutation they fix.
    pub permutation: Hash,
    /// Hash of the signed opening of the batch before, or of the epoch for its first.
    pub previous: Hash,
}

impl BatchFields {
    /// The label: SHA-256 of all fields, with tenant and key epochs.
    #[must_use]
    pub fn label(&self, manifest: &Manifest) -> Label {
        let epochs: Vec<u8> =
            manifest.authorities.iter().flat_map(|a| a.epoch.to_le_bytes()).collect();
        let purpose = match self.purpose {
            BatchPurpose::Train => 1,
            BatchPurpose::Score => 2,
        };
        let parts: [&[u8]; 12] = [
            manifest.tenant.as_str().as_bytes(),
            &self.manifest.0,
            &epochs,
            &self.epoch.to_le_bytes(),
            &self.counter.to_le_bytes(),
            &self.attempt.to_le_bytes(),
            &[purpose],
            &self.rows.to_le_bytes(),
            &self.roster_root.0,
            &self.order.0,
            &self.permutation.0,
            &self.previous.0,
        ];
        Label(hash_parts("quorate/batch-label/1", &parts).0)
    }

    /// Epoch and batch: what is opened once.
    #[must_use]
    pub const fn position(&self) -> (u32, u32) {
        (self.epoch, self.counter)
    }
}

/// The aggregator opens an attempt of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOpen {
    /// What the label is made of.
    pub fields: BatchFields,
    /// When submissions end, by the aggregator's clock (milliseconds since 1970).
    pub deadline_ms: u64,
}
postcard_body!(BatchOpen, "quorate/batch-open/1");

/// Every passive party's submission of a batch is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFreeze {
    /// The epoch, with its roster.
    pub epoch: Signed<EpochOpen>,
    /// The attempt.
    pub open: Signed<BatchOpen>,
    /// The headers of all passive parties of the roster, sorted by party.
    pub members: Vec<Signed<SubmitHeader>>,
    /// The headers of the same parties' stored features; empty where features come with the batch.
    pub features: Vec<Signed<SubmitHeader>>,
}
postcard_body!(BatchFreeze, "quorate/batch-freeze/1");

/// An authority's part of what opens the scores of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreKey {
    /// The authority.
    pub authority: Name,
    /// The label.
    pub label: Label,
    /// Hash of the signed [`BatchFreeze`].
    pub freeze: Hash,
    /// HPKE to the label holder: little-endian words.
    pub sealed: Vec<u8>,
}
postcard_body!(ScoreKey, "quorate/score-key/1");

/// The label holder asks one authority for the product keys of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductAsk {
    /// The authority.
    pub authority: Name,
    /// The label.
    pub label: Label,
    /// HPKE to the authority: with stored features, the batch's rows; then for every passive party, in
    /// order, outputs x rows masked words.
    pub sealed: Vec<u8>,
}
postcard_body!(ProductAsk, "quorate/product-ask/1");

/// An authority's part of what opens the masked products of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductKey {
    /// The authority.
    pub authority: Name,
    /// The label.
    pub label: Label,
    /// Hash of the signed [`ProductAsk`].
    pub ask: Hash,
    /// HPKE to the label holder: for every passive party, in order, columns x outputs words.
    pub sealed: Vec<u8>,
}
postcard_body!(ProductKey, "quorate/product-key/1");

/// A passive party's masked products, from the label holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gradient {
    /// The label.
    pub label: Label,
    /// Who can open it.
    pub to: Name,
    /// HPKE to the party: columns x outputs words, under the party's own masks.
    pub sealed: Vec<u8>,
}
postcard_body!(Gradient, "quorate/gradient/1");

/// The label holder opened the scores of a batch that is only scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// The label.
    pub label: Label,
}
postcard_body!(Scored, "quorate/scored/1");

/// Every control message that only vertical jobs have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerticalMessage {
    /// Party to aggregator.
    Ready(Signed<Ready>),
    /// Party to aggregator.
    Commit(Signed<Commit>),
    /// Party to aggregator.
    SeedShare(Signed<SeedShare>),
    /// Party to authority.
    Evaluate(Signed<Evaluate>),
    /// Authority to party: evaluated identifiers and their proof.
    Evaluated {
        /// Number of the batch.
        batch: u32,
        /// The scheme's bytes.
        answer: Vec<u8>,
    },
    /// Aggregator to authority.
    ScoreAsk(Box<Signed<BatchFreeze>>),
    /// Authority to aggregator.
    ScoreKey(Signed<ScoreKey>),
    /// Label holder to aggregator to authority.
    ProductAsk(Signed<ProductAsk>),
    /// Authority to aggregator.
    ProductKey(Signed<ProductKey>),
    /// Label holder to aggregator.
    Gradient(Signed<Gradient>),
    /// Label holder to aggregator.
    Scored(Signed<Scored>),
}

/// What the aggregator shows one party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyView {
    /// The open epoch, or the alignment until the party is ready.
    pub epoch: Option<Signed<EpochOpen>>,
    /// Every authority's certificate of every party of the epoch, in roster order and for each party in
    /// manifest order; empty after the first batch.
    pub certificates: Vec<Signed<Enrolled>>,
    /// All commitments of the epoch, in roster order; empty before all are there, and after the first
    /// batch, by when every party has them.
    pub commits: Vec<Signed<Commit>>,
    /// What others sealed to the party, in roster order; empty as the commitments are.
    pub shares: Vec<Signed<SeedShare>>,
    /// The common tags of an alignment, once all tags are there.
    pub common: Option<BulkRef>,
    /// The open batch.
    pub batch: Option<Signed<BatchOpen>>,
    /// The frozen batch: for the label holder.
    pub freeze: Option<Signed<BatchFreeze>>,
    /// All score keys of the frozen batch, in manifest order: for the label holder.
    pub score_keys: Vec<Signed<ScoreKey>>,
    /// All product keys of the frozen batch, in manifest order: for the label holder.
    pub product_keys: Vec<Signed<ProductKey>>,
    /// The party's last gradient.
    pub gradient: Option<Signed<Gradient>>,
}

/// Root over signed records, in order.
#[must_use]
pub fn root_of<T: crate::wire::Body>(records: &[Signed<T>]) -> Hash {
    let hashes: Vec<Hash> = records.iter().map(Signed::hash).collect();
    quorate_crypto::merkle::root(&hashes)
}
