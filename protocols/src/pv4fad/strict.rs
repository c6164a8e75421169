//! Strict mode: leaf tables stay closed. What network and authority both compute, and its messages.
//!
//! Training goes up to the frozen noise shares, but no count is opened: the authority signs
//! [`Frozen`], one record per model version, and the noised cell sums stay ciphertexts. A query names
//! the cells that each payment reaches, both labels in every tree; their sums, class by class, are a
//! table of L + 1 pairs (anomalous, normal), from which both banks pick as ever. Only the picked pair
//! is opened, and the network makes the score of it ([`PooledRule`](super::forest::PooledRule)).
//!
//! `FreezeAsk` -> [`Frozen`] -> to every bank. Inference: `QueryAsk` -> `Picked` (ordering, then
//! beneficiary) -> [`PooledAsk`] -> `Released` -> `OpenAsk` -> `Partial`. A `QueryTable` holds in its
//! `reply` no proof but 2 (L + 1) ciphertexts for each row, class by class the anomalous rows, then
//! the normal ones.
//!
//! # Security
//! The network does not know what its table holds, so no proof of knowledge is made. Instead the
//! authority, which has the sums, the frozen noise and the cells' sizes, makes the table again from
//! the cells that are named and compares every byte. Banks see the table: without fresh randomness
//! equal tables would show them payments with equal leaves. It follows from a seed that the
//! authority is given with the cells, so that no proof is needed for it either.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use quorate_crypto::merkle::Hash;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::elgamal::choice::{CIPHERTEXT_BYTES, ChoiceKey, Ciphers};
use serde::{Deserialize, Serialize};

use super::messages::{NO_CELL, OfJob, Opens, QueryFields, ReleaseAsk, of_job};
use super::{Figures, Job, Keep, Terms, World, reply_ciphers};
use crate::postcard_body;
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified, decode, encode};

/// Most that a pooled count may reach: more would take too long to read from its ciphertext.
const MAX_POOLED: u64 = 1 << 31;

/// Authority to network, and on to every bank: the noised cells of a model version are fixed and stay
/// closed; queries are answered from these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// Hash of the signed [`Summed`](super::messages::Summed).
    pub summed: Hash,
    /// The frozen noise shares: bank and hash.
    pub shares: Vec<(Name, Hash)>,
    /// Hash of the noised sums' ciphertexts.
    pub sums: Hash,
}
postcard_body!(Frozen, "quorate/pv-frozen/1");

/// Network to authority: what the pairs of a table were made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The job.
    pub job: Hash,
    /// Model version.
    pub version: u32,
    /// Hash of the signed [`QueryTable`](super::messages::QueryTable).
    pub table: Hash,
    /// Row by row and tree by tree under the version's random numbers: the cell of the leaf's
    /// anomalous rows, then that of its normal ones.
    pub cells: Vec<u16>,
    /// What the table's fresh randomness follows from.
    pub seed: [u8; 32],
}
postcard_body!(Reached, "quorate/pv-reached/1");

of_job!(Frozen, Reached);

/// Network to authority: open the pairs that both banks picked.
#[derive(Clone, Serialize, Deserialize)]
pub struct PooledAsk {
    /// Table and picks.
    pub ask: ReleaseAsk,
    /// By the network.
    pub reached: Signed<Reached>,
}

impl Figures {
    /// Ciphertexts of one entry of a table: the index of a score, or in strict mode a pair of counts.
    #[must_use]
    pub const fn lanes(&self) -> usize {
        if self.strict { 2 } else { 1 }
    }

    /// Whether the job ever opens what a release says.
    pub(super) const fn opens(&self, what: &Opens) -> bool {
        self.strict == matches!(what, Opens::Pooled { .. })
    }

    /// Standard deviation of the noise in a pooled count that `shares` banks added noise to. A class
    /// between the first and the last is the difference of two noised counts in every tree; the network
    /// does not know the class, and counts on that.
    #[must_use]
    pub fn pooled_sigma(&self, shares: usize) -> Option<f64> {
        let parts = shares as f64 / f64::from(self.noise_divisor().max(1));
        let counts = f64::from(self.trees) * f64::from(self.class_bits.min(2));
        Some(self.sigma()? * libm::sqrt(parts * counts))
    }

    /// The greatest magnitude of all noise in a pooled count.
    pub(super) fn pooled_room(&self) -> u64 {
        let counts = u64::from(self.trees).saturating_mul(2);
        self.noise_room().saturating_mul(self.holders.into()).saturating_mul(counts)
    }

    /// Whether pooled counts can be opened.
    pub(super) fn check_strict(&self) -> Result<(), Refusal> {
        let rows = self.max_rows.saturating_mul(self.trees.into());
        if self.strict && rows.saturating_add(self.pooled_room()) > MAX_POOLED {
            let why = "rows x trees with their noise would pass 2^31, more than a query opens";
            return Err(Refusal::new(Code::BadManifest, why));
        }
        Ok(())
    }

    /// Coordinates of one row's reached cells.
    fn reached_len(&self) -> usize {
        usize::from(self.trees).saturating_mul(2)
    }

    /// Bytes of the pairs of one row.
    fn pairs_bytes(&self) -> usize {
        self.classes().saturating_mul(2 * CIPHERTEXT_BYTES)
    }
}

impl Terms {
    /// What a job's id hashes. The last byte of the encoding says whether the job is strict; where it
    /// is not, the byte is left out, as in jobs from before there was strict mode.
    pub(super) fn said(&self) -> Vec<u8> {
        let mut bytes = encode(self);
        if !self.strict {
            bytes.pop();
        }
        bytes
    }
}

impl Job {
    /// What the ordering bank picks a row from, laid out in full: row by row (L + 1) x (L + 1) entries,
    /// of the ordering side's class first. In strict mode an entry is the pair of the greater class,
    /// and only a table of exactly as many pairs is one.
    pub(super) fn candidates<'a>(&self, reply: &'a [u8], rows: usize) -> Cow<'a, [u8]> {
        let classes = self.classes();
        if !self.strict {
            let entries = rows.saturating_mul(classes).saturating_mul(classes);
            return reply_ciphers(reply, entries).into();
        }
        let row = self.pairs_bytes();
        if reply.len() != rows.saturating_mul(row) {
            return Cow::default();
        }
        let mut whole = Vec::with_capacity(reply.len().saturating_mul(classes));
        for pairs in reply.chunks_exact(row) {
            let pairs = pairs.as_chunks::<{ 2 * CIPHERTEXT_BYTES }>().0;
            for ordering in 0..classes {
                let entries = (0..classes).filter_map(|other| pairs.get(ordering.max(other)));
                whole.extend(entries.flatten());
            }
        }
        whole.into()
    }
}

/// Rows of every cell under a version's random numbers, tree by tree, whatever their class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CellRows(Vec<u64>);

impl CellRows {
    pub(super) fn new(figures: &Figures) -> Self {
        Self(vec![0; usize::from(figures.trees).saturating_mul(figures.cells.into())])
    }

    /// Adds the cells of rows in a tree; those that do not count are none.
    pub(super) fn add(&mut self, figures: &Figures, tree: usize, cells: impl Iterator<Item = u16>) {
        let base = tree.saturating_mul(figures.cells.into());
        for cell in cells.filter(|cell| *cell != NO_CELL) {
            if let Some(rows) = self.0.get_mut(base.saturating_add(cell.into())) {
                *rows = rows.saturating_add(1);
            }
        }
    }

    pub(super) fn keep(&self) -> Keep {
        Keep::of(encode(self))
    }
}

/// A model version whose tables stay closed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Closed {
    /// What the authority signed.
    pub(super) record: Verified<Frozen>,
    /// Where the noised sums are kept.
    pub(super) sums: Hash,
    /// Where the cells' rows are kept.
    pub(super) rows: Hash,
}

/// The pairs of a query, and for each row how many rows its cells have: anomalous, normal.
pub(super) struct Pairs {
    pub(super) ciphers: Ciphers,
    pub(super) rows: Vec<[u64; 2]>,
}

impl Closed {
    /// S4: the pairs of payments that reach `cells`, from the frozen sums.
    ///
    /// # Errors
    /// [`Code::WrongLength`] for a cell that there is not, or a leaf whose two cells are one.
    pub(super) fn pairs(
        &self,
        figures: &Figures,
        world: &World<'_>,
        cells: &[u16],
    ) -> Result<Pairs, Refusal> {
        let wrong = |why: &str| Refusal::new(Code::WrongLength, why);
        let sums = world.blob(&self.sums)?;
        let CellRows(sizes) = decode(&world.blob(&self.rows)?)?;
        let bits = usize::from(figures.class_bits);
        let row = figures.reached_len().max(1);
        if !cells.len().is_multiple_of(row) {
            return Err(wrong("a payment reaches two cells in every tree"));
        }
        // Many payments reach the same cells: each is decoded once.
        let mut known: BTreeMap<usize, Ciphers> = BTreeMap::new();
        let mut pairs = Pairs { ciphers: Ciphers::empty(0), rows: Vec::new() };
        for reached in cells.chunks_exact(row) {
            let mut pools = [0, 1].map(|_| (Ciphers::empty(bits), 0u64));
            for (tree, leaf) in reached.as_chunks::<2>().0.iter().enumerate() {
                let [anomalous, normal] = leaf;
                if anomalous == normal || leaf.iter().any(|cell| *cell >= figures.cells) {
                    return Err(wrong("a leaf has two cells of its tree"));
                }
                for (cell, (pool, rows)) in leaf.iter().zip(&mut pools) {
                    let place = tree.saturating_mul(figures.cells.into());
                    let place = place.saturating_add(usize::from(*cell));
                    let missing = || Refusal::new(Code::Unavailable, "the sums lack a cell");
                    let own = match known.entry(place) {
                        Entry::Occupied(entry) => entry.into_mut(),
                        Entry::Vacant(entry) => {
                            let width = bits.saturating_mul(CIPHERTEXT_BYTES);
                            let start = place.saturating_mul(width);
                            let bytes = sums.get(start..start.saturating_add(width));
                            let decoded = Ciphers::decode_sums(bytes.ok_or_else(missing)?);
                            entry.insert(decoded.map_err(|_| missing())?)
                        }
                    };
                    pool.add(own).map_err(|_| missing())?;
                    *rows = rows.saturating_add(sizes.get(place).copied().unwrap_or(0));
                }
            }
            let [anomalous, normal] = pools;
            let lanes = [&anomalous, &normal].map(|(pool, rows)| pool.classes(*rows));
            for class in 0..figures.classes() {
                lanes.iter().for_each(|lane| pairs.ciphers.append(lane.slice(class, 1)));
            }
            pairs.rows.push([anomalous.1, normal.1]);
        }
        Ok(pairs)
    }
}

/// S4: the table of these pairs, with the randomness that follows from `seed`.
pub(super) fn table_of(
    job: &Job,
    key: &ChoiceKey,
    fields: &QueryFields,
    pairs: &Ciphers,
    seed: &[u8; 32],
) -> Vec<u8> {
    key.refreshed(&job.table_binding(fields).0, pairs, &Secret::new(*seed)).to_bytes()
}
