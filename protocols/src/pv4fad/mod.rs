//! PV4FAD: a payment network and its banks train and use a fraud forest over data split both ways.
//!
//! Source: *Privacy-preserving vertical federated anomaly detection* (arXiv 2310.19304: homomorphic
//! encryption, differential privacy and random decision trees over a network's payments and banks'
//! account flags), whose messages are not published: the protocol here is this project's own
//! (design A of its digest), with lifted ElGamal under a key that nobody dealt.
//!
//! Roles: the **network** (payments and labels; draws the forest without data), at least `r_min`
//! **banks** (accounts and flags; each holds a share of the key), the **authority** (mandatory
//! share; recomputes, approves and opens once) and the **aggregator** (carries sealed messages,
//! logs hashes).
//!
//! **Class of a payment.** Each side, ordering and beneficiary, has a severity 0..=L (with the
//! default L = 2: clean, soft, hard; the beneficiary's also covers a name mismatch). The class is
//! the pair of both. For training a side sends thermometer bits, `severity >= t` for t = 1..=L, and
//! one OR per bit over both sides gives the thermometer of the pair's maximum, so the trained table
//! has L + 1 columns and the scores of a pair depend on it by its maximum. At inference the pair is
//! carried as such: the network sends a table of (L + 1) x (L + 1) ciphertexts, the ordering bank
//! takes a row, the beneficiary bank an entry. What the network writes into the table, the
//! maximum's score or any finer rule, is its own affair.
//!
//! **Training one model version**
//! 1. SETUP: the network shuffles its payments and gives each bank, side by side, the row ids and
//!    accounts it must know, padded to parts of 1,024 rows; the bank confirms: JOINED.
//! 2. Ordering banks encrypt their bits with proofs; the network hands them to the beneficiary
//!    banks, which return the OR of each with their own bit, with proofs: FLAGGED.
//! 3. The network logs a hash of its cells and all ciphertexts, and gives them, under random cell
//!    and tree numbers, to the authority, which checks every proof, recomputes the cell sums and
//!    signs them: SUMMED.
//! 4. Every bank adds a noise share to every cell, with a proof of knowledge. The authority freezes
//!    the shares, at least r_min of them, and signs one release: FROZEN.
//! 5. The authority and T banks send partial decryptions, sealed to the network: TRAINED, then
//!    SERVING.
//!
//! # Security
//! Decisional Diffie-Hellman, a random oracle; parties follow the protocol or are named. See
//! [`CARD`] for what each role learns, `docs/protocol-pv4fad.md` for the numbered checks W1 to W16,
//! and [`choice`](quorate_crypto::threshold::elgamal::choice) for the proofs. Noise covers training
//! accounts through the opened cells. No noise on an output hides the flag of the account that is
//! queried: see the card.

pub mod aggregator;
pub mod authority;
pub mod bank;
pub mod forest;
pub mod letters;
pub mod messages;
pub mod network;
#[cfg(feature = "testkit")]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::missing_panics_doc,
    reason = "test code"
)]
pub mod sim;
pub mod strict;
#[cfg(all(test, feature = "testkit"))]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::fixed::bits_needed;
use quorate_crypto::keys::{Identity, VerifyKey};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Ring, SumShape};
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::{
    BIT_PROOF_BYTES, Binding, CIPHERTEXT_BYTES, ChoiceError, ChoiceKey,
};
use quorate_crypto::threshold::{MAX_HOLDERS, ReplyBinding, ThresholdKey, ThresholdScheme};
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::card::{Card, Guarantee};
use crate::checks::{Check, holds};
use crate::job::{AuthorityKey, Manifest, Minima, RosterEntry};
use crate::policy::noise::{add_share, room_of, scale_of};
use crate::policy::{Charge, Mechanism, NoiseSpec, Unit};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::keying::JobKey;
use crate::wire::{Body, Name, Signed, Verified, encode};
use crate::workload::Workload;
pub use crate::workload::{
    MAX_CLASS_BITS, MAX_PAYMENTS, MAX_QUERIED, PART_ROWS, PvSpec, QueryLimits,
};
pub use letters::{Envelope, MAX_LETTER_BYTES};

/// Number of this protocol in manifests.
pub const PROTOCOL_ID: u16 = 4;
/// Most coordinates that are opened: trees x cells x class bits; their noise fits a message.
pub const MAX_COORDINATES: u64 = 60_000;
/// Most payments of one query.
pub const MAX_QUERY_ROWS: usize = 256;
/// Bytes of a signed message besides what the job's figures say: names, hashes, lengths, signature.
const FRAME_BYTES: u64 = 1024;
/// Longest sentence of a refusal that is stored or shown.
const MAX_DETAIL_BYTES: usize = 2000;
/// Bits of a table's entry at inference: the index of a score among the row's scores.
const ENTRY_BITS: u32 = 8;

/// What PV4FAD promises.
pub const CARD: Card = Card {
    protocol: "PV4FAD (arXiv 2310.19304), messages of this project: threshold ElGamal, chained ORs with \
               proofs, noise shares per cell, openings sealed to the network",
    phase: "training and use of a fraud forest over payments of a network and account flags of banks",
    guarantees: &[
        Guarantee {
            role: "network",
            learns: "the noised count of every class bit in every cell of its own forest, once per model \
                     version; the score, and so wherever its table differs the class, of every payment that it \
                     queries; no other flag. In a strict job no cell: the noised counts of rows, added up over \
                     the trees, of the class of every payment that it queries, from which over many queries it \
                     may work out cells, as noised",
        },
        Guarantee {
            role: "bank",
            learns: "row ids and accounts of its own payments, padded to 1,024; ciphertexts; no label, feature, \
                     cell, count, score, nor another bank's flag or account",
        },
        Guarantee {
            role: "authority",
            learns: "random row ids, which pair of banks a row belongs to, which rows share a cell of an \
                     unnamed tree, and from the cells' sizes perhaps which are the rare label's; in a strict job \
                     also the cells that every queried payment reaches, and their labels; no account, flag, \
                     count or score",
        },
        Guarantee {
            role: "aggregator",
            learns: "who talks to whom, when, and lengths, of lists in steps of 1,024 rows; hashes",
        },
    ],
    utility: "cells are exact counts when noise is off; an account's training rows are bounded by K; every \
              score equals the plain forest's to the bit",
    leakage: "at inference no noise can hide the class of the account that is queried: limits and a log of \
              queries stand against aimed ones; with noise off a cell of one row shows its bits",
    assumptions: &[
        "the authority and T banks do not collude: together they read every flag",
        "the network and the authority do not collude: together they know the rows behind a ciphertext, and \
         have any sum released, a single flag too, that T honest banks then help to open",
        "at most c banks collude with the network; h = r_min - c - 1 others' noise hides an account",
        "a bank that sends false flags is not detected: a proof says that a bit is a bit",
        "every store is durable and is not rolled back behind its process",
    ],
};

/// A side of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// Where the money comes from.
    Ordering,
    /// Where it goes.
    Beneficiary,
}

impl Side {
    /// Both, in the order of the chain.
    pub const BOTH: [Self; 2] = [Self::Ordering, Self::Beneficiary];

    const fn byte(self) -> u8 {
        match self {
            Self::Ordering => 0,
            Self::Beneficiary => 1,
        }
    }
}

/// A payment's id within one model version or query: 128 random bits, which say nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowId(pub [u8; 16]);

impl core::fmt::Debug for RowId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().take(4).try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The numbers of a job: what its manifest says of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// N, banks, each of which holds a share of the key.
    pub holders: u32,
    /// T, banks needed to open, besides the authority; over c.
    pub threshold: u32,
    /// Noise shares wanted.
    pub quorum: u32,
    /// Honest banks that must stand behind an opening; at least 2.
    pub k_min: u32,
    /// c, banks that may collude with the network.
    pub colluders: u32,
    /// L, thermometer bits of a side.
    pub class_bits: u16,
    /// Trees of the forest.
    pub trees: u16,
    /// Cells of a tree: leaves x labels.
    pub cells: u16,
    /// Rows of one part of a join list: [`PART_ROWS`]; tests take fewer.
    pub part_rows: u16,
    /// K, rows of one account that count, both sides together.
    pub rows_per_account: u32,
    /// Most payments of a model version.
    pub max_rows: u64,
    /// Most model versions.
    pub versions: u32,
    /// Noise of a model version; without it counts are exact.
    pub noise: Option<NoiseSpec>,
    /// How often the network may ask.
    pub queries: QueryLimits,
    /// Whether leaf tables stay closed: see [`strict`]. The last field, see [`Terms`]' hash.
    pub strict: bool,
}

/// A manifest's figures with the keys of those who joined: all that is fixed when the key is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Hash of the manifest.
    pub manifest: Hash,
    /// The aggregator's signature key.
    pub aggregator: VerifyKey,
    /// The authority.
    pub authority: AuthorityKey,
    /// The network.
    pub network: RosterEntry,
    /// The banks, sorted by name; holder i of the key is bank i - 1.
    pub banks: Vec<RosterEntry>,
    /// The numbers.
    pub figures: Figures,
}

impl core::ops::Deref for Terms {
    type Target = Figures;

    fn deref(&self) -> &Figures {
        &self.figures
    }
}

impl Figures {
    /// The figures of a manifest.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when it is none of a payments job.
    pub fn of(manifest: &Manifest) -> Result<Self, Refusal> {
        let (Workload::Payments(spec), Some(holding)) = (&manifest.workload, manifest.threshold)
        else {
            return Err(Refusal::new(Code::BadManifest, "not a job on payments"));
        };
        Ok(Self {
            holders: holding.holders,
            threshold: holding.threshold,
            quorum: manifest.quorum,
            k_min: manifest.k_min,
            colluders: manifest.colluders,
            class_bits: spec.class_bits,
            trees: spec.trees,
            cells: spec.cells(),
            part_rows: spec.part_rows,
            rows_per_account: spec.rows_per_account,
            max_rows: spec.max_rows,
            versions: spec.versions,
            noise: manifest.privacy.noise().cloned(),
            queries: spec.queries,
            strict: spec.strict,
        })
    }

    /// r_min = max(quorum, k_min + c): fewer noise shares open nothing.
    #[must_use]
    pub fn floor(&self) -> u32 {
        self.quorum.max(self.k_min.saturating_add(self.colluders))
    }

    /// h = r_min - c - 1, which divides the noise.
    #[must_use]
    pub fn noise_divisor(&self) -> u32 {
        self.floor().saturating_sub(self.colluders).saturating_sub(1)
    }

    /// Coordinates that a model version opens: trees x cells x class bits.
    #[must_use]
    pub fn coordinates(&self) -> usize {
        self.tree_width().saturating_mul(usize::from(self.trees))
    }

    /// Rows of one part.
    #[must_use]
    pub fn part_len(&self) -> usize {
        usize::from(self.part_rows)
    }

    /// Most parts of one side of one bank's list: all rows, and padding.
    fn most_parts(&self) -> u64 {
        self.max_rows.div_ceil(u64::from(self.part_rows.max(1))).saturating_add(1)
    }

    /// Parts of all lists of all banks and sides, at most.
    fn all_parts(&self) -> u64 {
        self.most_parts().saturating_add(self.holders.into()).saturating_mul(2)
    }

    /// How often an authority keeps what one version needs: for every version four times over, for
    /// attempts that were not logged.
    fn kept_times(&self) -> u64 {
        u64::from(self.versions).saturating_mul(4)
    }

    /// Most pieces of evidence and noise shares that an authority keeps.
    fn most_kept(&self) -> u64 {
        self.all_parts().saturating_add(self.holders.into()).saturating_mul(self.kept_times())
    }

    /// Most bytes of them.
    fn most_kept_bytes(&self) -> u64 {
        let parts = self.all_parts().saturating_mul(self.evidence_bytes());
        let shares = u64::from(self.holders).saturating_mul(self.share_bytes());
        parts.saturating_add(shares).saturating_mul(self.kept_times())
    }

    /// Bytes of evidence for a row, at most: its id, the other side's ciphertexts, its own with their
    /// proofs, its cells.
    fn row_bytes(&self) -> u64 {
        let bits = (3 * CIPHERTEXT_BYTES + BIT_PROOF_BYTES) as u64;
        let bits = u64::from(self.class_bits).saturating_mul(bits);
        u64::from(self.trees).saturating_mul(3).saturating_add(bits).saturating_add(64)
    }

    /// Bytes of a part's evidence, at most.
    fn evidence_bytes(&self) -> u64 {
        u64::from(self.part_rows).saturating_mul(self.row_bytes()).saturating_add(FRAME_BYTES)
    }

    /// Bytes of a noise share, at most.
    fn share_bytes(&self) -> u64 {
        let reply = ElGamal.reply_bytes(&self.noise_shape()).unwrap_or(0);
        u64::try_from(reply).unwrap_or(u64::MAX).saturating_add(FRAME_BYTES)
    }

    /// Coordinates of one tree.
    fn tree_width(&self) -> usize {
        usize::from(self.cells).saturating_mul(usize::from(self.class_bits))
    }

    /// Classes of one side: L + 1.
    #[must_use]
    pub fn classes(&self) -> usize {
        usize::from(self.class_bits).saturating_add(1)
    }

    /// Standard deviation of the noise on a cell that privacy rests on, that of h shares together:
    /// the multiplier times K sqrt(trees x L). Another flag of one account moves, in every tree, at
    /// most L coordinates for each of its K rows.
    #[must_use]
    pub fn sigma(&self) -> Option<f64> {
        let noise = self.noise.as_ref()?;
        let moved = f64::from(self.trees) * f64::from(self.class_bits);
        let sensitivity = f64::from(self.rows_per_account) * libm::sqrt(moved);
        Some(scale_of(noise, sensitivity, self.noise_divisor()))
    }

    /// The greatest magnitude of one bank's noise in a cell: larger draws are clamped.
    fn noise_room(&self) -> u64 {
        let parts = self.noise_divisor().max(1);
        self.sigma().map_or(0, |sigma| room_of(Mechanism::Gaussian, sigma, parts))
    }

    /// Adds one bank's share of the noise.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when no noise of this size can be drawn.
    fn add_noise<R: rand_core::CryptoRng>(
        &self,
        rng: &mut R,
        values: &mut [i64],
    ) -> Result<(), Refusal> {
        let Some(sigma) = self.sigma() else { return Ok(()) };
        add_share(Mechanism::Gaussian, sigma, self.noise_divisor(), self.noise_room(), rng, values)
            .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))
    }

    /// Shape of a bank's noise: what its proof of knowledge is made for.
    fn noise_shape(&self) -> SumShape {
        SumShape {
            ring: Ring::Z32,
            dim: self.coordinates() as u64,
            parties: self.holders.max(2),
            authorities: 1,
            bits: bits_needed(1, u128::from(self.noise_room())).max(2),
        }
    }

    /// What opened cells may hold.
    fn range(&self) -> core::ops::RangeInclusive<i64> {
        let banks = i64::from(self.holders);
        let noise = i64::try_from(self.noise_room()).unwrap_or(i64::MAX).saturating_mul(banks);
        let rows = i64::try_from(self.max_rows).unwrap_or(i64::MAX);
        noise.saturating_neg()..=rows.saturating_add(noise)
    }

    /// Whether the figures are consistent and what they ask for can be opened.
    ///
    /// # Errors
    /// [`Code::BadManifest`] with the reason.
    pub fn check(&self) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::new(Code::BadManifest, why));
        let banks = self.holders;
        if self.k_min < 2 || self.floor() > banks || banks > MAX_HOLDERS {
            return bad(
                "k_min must be at least 2, the floor at most the number of banks, itself at most 64",
            );
        }
        if self.noise_divisor() < 1 {
            return bad("h = floor - c - 1 must be at least 1");
        }
        if self.threshold <= self.colluders || self.threshold > banks {
            return bad("T must be over c and at most the number of banks");
        }
        if !(1..=MAX_CLASS_BITS).contains(&self.class_bits) {
            return bad("a side has 1 to 7 class bits");
        }
        if !(1..=MAX_COORDINATES).contains(&(self.coordinates() as u64)) {
            return bad("trees x cells x class bits must be 1 to 60,000");
        }
        if self.row_bytes().saturating_mul(PART_ROWS.into()) > MAX_LETTER_BYTES as u64 {
            return bad("a part's evidence would pass 4 MiB: fewer trees or class bits");
        }
        let few = cfg!(any(test, feature = "testkit")) && (1..PART_ROWS).contains(&self.part_rows);
        if self.part_rows != PART_ROWS && !few {
            return bad("join lists are padded to 1,024 rows");
        }
        if self.noise.is_none() && self.versions > 1 {
            return bad(
                "without noise there is one model version: two show the difference of their rows",
            );
        }
        if !(1..=MAX_PAYMENTS).contains(&self.max_rows)
            || self.rows_per_account == 0
            || self.versions == 0
        {
            return bad("rows, rows per account and versions must be positive, rows at most 2^24");
        }
        if self.queries.window_ms == 0 {
            return bad("a window of queries must have a length");
        }
        if self.queries.total > MAX_QUERIED {
            return bad("a job's queries have at most 2^20 payments together");
        }
        if let Some(noise) = &self.noise {
            if let Some(fault) = noise.fault() {
                return bad(fault);
            }
            if noise.unit != Unit::Record || noise.mechanism != Mechanism::Gaussian {
                return bad("cells take Gaussian noise that hides an account: unit record");
            }
            if noise.epsilon_of(self.versions) > noise.epsilon {
                return bad("the versions cost more than the budget: raise the multiplier");
            }
            self.add_noise(&mut rand_chacha::ChaCha20Rng::from_seed([0; 32]), &mut [])?;
        }
        self.check_strict()?;
        ElGamal
            .check(&self.noise_shape())
            .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))
    }
}

impl Terms {
    /// The terms of a job whose key is made. The call for it names all parties, and the authority,
    /// which posts last, checked that each is enrolled with these keys.
    ///
    /// # Errors
    /// [`Code::BadManifest`], [`Code::BadKey`].
    pub fn of(manifest: &Manifest, key: &JobKey) -> Result<Self, Refusal> {
        let call = key.keying().call();
        let network = call.network.clone();
        let authority = manifest.authorities.first().cloned();
        Ok(Self {
            manifest: manifest.hash(),
            aggregator: manifest.aggregator,
            authority: authority
                .ok_or_else(|| Refusal::new(Code::BadManifest, "a job has an authority"))?,
            network: network
                .ok_or_else(|| Refusal::new(Code::BadKey, "the key call names no network"))?,
            banks: call.holders.clone(),
            figures: Figures::of(manifest)?,
        })
    }

    /// Whether the figures are right and the parties distinct.
    ///
    /// # Errors
    /// [`Code::BadManifest`] with the reason.
    pub fn check(&self) -> Result<(), Refusal> {
        let verify: BTreeSet<_> =
            self.banks.iter().chain([&self.network]).map(|entry| entry.verify).collect();
        if !self.banks.is_sorted_by(|a, b| a.party < b.party)
            || self.banks.len() != self.figures.holders as usize
            || verify.len() != self.banks.len().saturating_add(1)
            || self.banks.iter().any(|bank| bank.party == self.network.party)
        {
            let why = "banks must be distinct, sorted by name, and none of them the network";
            return Err(Refusal::new(Code::BadManifest, why));
        }
        self.figures.check()
    }

    /// Whether the terms are what a bank insists on (W3).
    ///
    /// # Errors
    /// [`Code::BelowMinima`] with the reason.
    pub fn check_minima(&self, minima: &Minima) -> Result<(), Refusal> {
        let accepted =
            minima.accepted.is_empty() || minima.accepted.contains(&self.authority.verify);
        let charged = |set: &Name| minima.data_sets.is_empty() || minima.data_sets.contains(set);
        let why = if self.k_min < minima.k_min || self.colluders < minima.colluders {
            "k_min or c is below what is required here"
        } else if !accepted {
            "the authority is not accepted here"
        } else {
            match &self.noise {
                None if minima.require_noise => "only jobs with noise are taken here",
                Some(noise) if !charged(&noise.data_set) => "the data set has no account here",
                _ => return Ok(()),
            }
        };
        if holds(Check::Minima, false) { Ok(()) } else { Err(Refusal::new(Code::BelowMinima, why)) }
    }
}

/// Terms with the key made for them: what every label binds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    terms: Terms,
    public: Vec<u8>,
    id: Hash,
}

impl core::ops::Deref for Job {
    type Target = Terms;

    fn deref(&self) -> &Terms {
        &self.terms
    }
}

impl Job {
    /// A job, whose key was made by the authority and its banks in the order of their names.
    ///
    /// # Errors
    /// [`Code::BadManifest`], [`Code::BadKey`].
    pub fn new(terms: Terms, public: Vec<u8>) -> Result<Self, Refusal> {
        terms.check()?;
        let key =
            ChoiceKey::parse(&public).map_err(|e| Refusal::new(Code::BadKey, e.to_string()))?;
        if key.holders() as usize != terms.banks.len() || key.threshold() != terms.threshold {
            return Err(Refusal::new(Code::BadKey, "the key has other holders than the job"));
        }
        let id = hash_parts("quorate/pv-job/1", &[&terms.said(), &public]);
        Ok(Self { terms, public, id })
    }

    /// The job of a manifest whose key is made.
    ///
    /// # Errors
    /// As [`Terms::of`] and [`Job::new`].
    pub fn of(manifest: &Manifest, key: &JobKey) -> Result<Self, Refusal> {
        Self::new(Terms::of(manifest, key)?, key.public().to_vec())
    }

    /// What every label binds.
    #[must_use]
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// A bank of the job.
    ///
    /// # Errors
    /// [`Code::UnknownParty`].
    pub fn bank(&self, name: &Name) -> Result<&RosterEntry, Refusal> {
        self.banks
            .iter()
            .find(|bank| bank.party == *name)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not a bank of this job"))
    }

    /// A bank's number among the key's participants.
    #[must_use]
    pub fn holder(&self, name: &Name) -> Option<u32> {
        let position = self.banks.iter().position(|bank| bank.party == *name)?;
        u32::try_from(position).ok()?.checked_add(1)
    }

    fn network_culprit(&self) -> Culprit {
        Culprit::Party(self.network.party.clone())
    }

    fn label(&self, purpose: &str, version: u32) -> Hash {
        hash_parts("quorate/pv-label/1", &[&self.id.0, purpose.as_bytes(), &version.to_le_bytes()])
    }

    /// What each bit of a part is bound to: label, side, bank, row, bit.
    fn bit_bindings(&self, version: u32, side: Side, bank: &Name, rows: &[RowId]) -> Vec<Binding> {
        let label = self.label("flags", version);
        let bits = self.class_bits;
        let bind = |row: &RowId, bit: u16| {
            let parts: [&[u8]; 5] =
                [&label.0, &[side.byte()], bank.as_str().as_bytes(), &row.0, &bit.to_le_bytes()];
            hash_parts("quorate/pv-bit/1", &parts).0
        };
        rows.iter()
            .flat_map(|row| (0..bits).map(move |bit| (row, bit)))
            .map(|(r, b)| bind(r, b))
            .collect()
    }

    /// What a bank's choice in a query is bound to: label, query, side, bank, row.
    fn pick_binding(&self, table: &Hash, side: Side, bank: &Name, row: &RowId) -> Binding {
        let parts: [&[u8]; 5] =
            [&self.id.0, &table.0, &[side.byte()], bank.as_str().as_bytes(), &row.0];
        hash_parts("quorate/pv-pick/1", &parts).0
    }

    /// What a bank's noise is bound to: label, the sums that it is for, bank.
    fn noise_binding(&self, version: u32, summed: &Hash, bank: &Name) -> ReplyBinding {
        let label = self.label("noise", version);
        let parts: [&[u8]; 3] = [&label.0, &summed.0, bank.as_str().as_bytes()];
        ReplyBinding(hash_parts("quorate/pv-noise/1", &parts).0)
    }

    /// What the network's table is bound to: label, query, banks, rows.
    fn table_binding(&self, fields: &messages::QueryFields) -> ReplyBinding {
        ReplyBinding(hash_parts("quorate/pv-table/1", &[&self.id.0, &encode(fields)]).0)
    }

    /// Shape of a query's table.
    fn table_shape(&self, rows: usize) -> SumShape {
        let entries = self.classes().saturating_mul(self.classes());
        let dim = rows.saturating_mul(entries) as u64;
        SumShape { ring: Ring::Z32, dim, parties: 2, authorities: 1, bits: ENTRY_BITS }
    }

    /// The charge of a model version, if it has noise.
    fn charge(&self, version: u32) -> Option<Charge> {
        Some(Charge { job: self.id, round: version, noise: self.noise.clone()? })
    }

    /// A signed refusal of a message.
    fn refused(
        &self,
        cx: &crate::machine::Context<'_>,
        me: &Name,
        message: &messages::Message,
        refusal: &Refusal,
    ) -> messages::Message {
        let refused = messages::Refused {
            job: self.id,
            version: message.version(),
            query: message.query(),
            bank: me.clone(),
            refusal: refusal.clone(),
        };
        messages::Message::Refused(Signed::sign(refused, cx.identity).signed().clone())
    }

    /// Whether a refusal of somebody else is too long to be stored or shown: a role of the job has no
    /// reason to name more than all of them.
    fn is_too_long(&self, refusal: &Refusal) -> bool {
        let roles = self.banks.len().saturating_add(3);
        refusal.detail.len() > MAX_DETAIL_BYTES
            || refusal.culprits.len().max(refusal.concerns.len()) > roles
    }

    /// The network ends the job; says why, if it does so early.
    fn closed(&self, close: &Signed<letters::Close>) -> Result<Option<Refusal>, Refusal> {
        let close = close.verify(&self.network.verify)?;
        if close.job != self.manifest {
            return Err(Refusal::new(Code::UnknownJob, "of another job"));
        }
        if close.failure.as_ref().is_some_and(|refusal| self.is_too_long(refusal)) {
            return Err(Refusal::new(Code::TooLarge, "a reason that is too long"));
        }
        Ok(close.failure.clone())
    }

    /// W1: signed by the network, of this job and one of its versions.
    fn by_network<T: Body + messages::OfJob>(
        &self,
        signed: &Signed<T>,
    ) -> Result<Verified<T>, Refusal> {
        self.of_job(signed.verify(&self.network.verify)?, self.network_culprit())
    }

    /// W1: signed by the authority.
    fn by_authority<T: Body + messages::OfJob>(
        &self,
        signed: &Signed<T>,
    ) -> Result<Verified<T>, Refusal> {
        let culprit = Culprit::Authority(self.authority.name.clone());
        self.of_job(signed.verify(&self.authority.verify)?, culprit)
    }

    /// W1: signed by the aggregator.
    fn by_aggregator<T: Body + messages::OfJob>(
        &self,
        signed: &Signed<T>,
    ) -> Result<Verified<T>, Refusal> {
        self.of_job(signed.verify(&self.aggregator)?, Culprit::Aggregator)
    }

    /// W1: signed by the bank that it names.
    fn by_bank<T: Body + messages::OfJob + messages::ByBank>(
        &self,
        signed: &Signed<T>,
    ) -> Result<Verified<T>, Refusal> {
        let name = signed.peek()?.bank().clone();
        let verified = signed.verify(&self.bank(&name)?.verify)?;
        self.of_job(verified, Culprit::Party(name))
    }

    fn of_job<T: Body + messages::OfJob>(
        &self,
        message: Verified<T>,
        culprit: Culprit,
    ) -> Result<Verified<T>, Refusal> {
        // An honest message of another job may be delivered here: nobody is blamed.
        if message.job() != self.id {
            return Err(Refusal::new(Code::UnknownJob, "the message belongs to another job"));
        }
        if message.version() >= self.versions {
            return Err(Refusal::new(Code::UnknownRound, "the job has no such model version")
                .blaming(culprit));
        }
        Ok(message)
    }
}

/// What a machine works with besides its state: the job's key, prepared, and stored bytes.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The key, for choices and openings.
    pub key: &'a ChoiceKey,
    /// The same key, for values with proofs of knowledge.
    pub values: &'a dyn ThresholdKey,
    /// Bytes that were kept.
    pub blobs: &'a dyn Blobs,
}

/// Bytes kept by their hash.
pub trait Blobs {
    /// The bytes of this hash.
    fn get(&self, hash: &Hash) -> Option<Vec<u8>>;
}

impl Blobs for BTreeMap<Hash, Vec<u8>> {
    fn get(&self, hash: &Hash) -> Option<Vec<u8>> {
        Self::get(self, hash).cloned()
    }
}

impl World<'_> {
    fn blob(&self, hash: &Hash) -> Result<Vec<u8>, Refusal> {
        self.blobs.get(hash).ok_or_else(|| {
            Refusal::new(Code::Unavailable, "bytes that were named did not arrive yet")
        })
    }
}

/// Work for the driver: keep these bytes, in the same transaction as the state. A role's own flags
/// are among them: they are kept where only it reads.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Under this hash.
    pub hash: Hash,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl core::fmt::Debug for Keep {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Keep({:?}, {} bytes)", self.hash, self.bytes.len())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Keep {
    fn of(bytes: Vec<u8>) -> Self {
        Self { hash: blob_hash(&bytes), bytes }
    }
}

/// The hash of kept bytes.
#[must_use]
pub fn blob_hash(bytes: &[u8]) -> Hash {
    hash_parts("quorate/pv-blob/1", &[bytes])
}

/// Hash of a part's row ids.
fn rows_hash(rows: &[RowId]) -> Hash {
    let bytes: Vec<&[u8]> = rows.iter().map(|row| row.0.as_slice()).collect();
    hash_parts("quorate/pv-rows/1", &bytes)
}

/// Hash of ciphertexts that are asked about or opened.
fn ciphers_hash(bytes: &[u8]) -> Hash {
    hash_parts("quorate/pv-ciphers/1", &[bytes])
}

/// A fault of chosen ciphertexts, with its sender.
fn bad_ciphertext(error: &ChoiceError, culprit: Culprit) -> Refusal {
    Refusal::new(Code::BadCiphertext, error.to_string()).blaming(culprit)
}

/// The ciphertexts of a reply with a proof of knowledge: all but its last bytes.
fn reply_ciphers(reply: &[u8], count: usize) -> &[u8] {
    reply.get(..count.saturating_mul(CIPHERTEXT_BYTES)).unwrap_or_default()
}

/// A seed that only this role can compute, for one thing.
fn seed(identity: &Identity, domain: &str, parts: &[&[u8]]) -> Secret<[u8; 32]> {
    identity.derive_seed(domain, &hash_parts(domain, parts).0)
}
