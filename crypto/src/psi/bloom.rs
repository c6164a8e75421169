//! **The weaker option**: keyed Bloom-filter encodings of dirty identifiers, such as names and
//! addresses, compared by their Dice coefficient at the aggregator.
//!
//! A record's fields are cut into q-grams; each q-gram sets a few bits of a filter, chosen by HMAC-SHA256
//! under a key that the parties share and the aggregator lacks. Similar records have similar filters, so
//! that typing errors do not matter, and that is also what leaks. All fields go into one filter
//! (cryptographic long-term key). Source: Schnell, Bachteler, Reiher, *Privacy-preserving record linkage
//! using Bloom filters* (BMC Medical Informatics and Decision Making 9:41, 2009) and *A novel
//! error-tolerant anonymous linking code* (2011); blocking by sampled bits: Durham, *A framework for
//! accurate, efficient private record linkage* (2012).
//!
//! # Security
//! Use [exact identifiers](super) wherever they exist. Against the aggregator this is **no encryption**:
//! - It sees every record's filter, of common and of other rows: how similar any two records of any
//!   parties are, which bits and which whole filters are frequent, and about how long a record is.
//! - Frequent names and q-grams show as frequent patterns. With public lists of names, published attacks
//!   gave identities back without the key: Kuzu, Kantarcioglu, Durham, Malin (PETS 2011); Niedermeyer,
//!   Steinmetzer, Kroll, Schnell (Journal of Privacy and Confidentiality 6(2), 2014); Christen,
//!   Ranbaduge, Vatsalan, Schnell (IEEE TKDE 31(11), 2019); survey: Vatsalan, Christen, Verykios
//!   (Information Systems 38(6), 2013).
//! - An aggregator with one party's help has the key, and tests any guess at any record.
//!
//! What is done here: positions are drawn independently instead of by double hashing (which Niedermeyer
//! et al. broke); all fields share one filter; a [salt](Encoder::encode) from an attribute that is stable
//! and clean, such as the year of birth, makes filters of different salts incomparable, for attackers
//! too; keys are for one job. This makes the known attacks harder and rules none of them out.
//!
//! The aggregator also decides alone which rows belong together: a party cannot check it.

use core::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

use hmac::{Hmac, Mac};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Tag, keyed};
use crate::secret::Secret;

/// Stands before the first and after the last character of a field; no text has it once it is
/// normalised.
const PAD: char = '\u{1f}';
/// Positions that one HMAC value gives, 16 bits each.
const POSITIONS: usize = 16;

/// The shape of filters, the same at all parties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BloomParams {
    /// Bits of a filter: a power of two from 256 to 8192.
    pub bits: u16,
    /// Characters of a q-gram, 1 to 4.
    pub gram: u8,
    /// For each field, how many bits one of its q-grams sets: its weight. 1 to 64 each, 1 to 64 fields.
    ///
    /// About half of all bits set is best: with 1024 bits and 30 q-grams a record, 20.
    pub hashes: Vec<u8>,
}

/// Why filters cannot be made, read or matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BloomError {
    /// Parameters outside their ranges.
    #[error("unsupported parameters: {0}")]
    Params(&'static str),
    /// The wrong number of fields.
    #[error("expected {expected} fields, got {got}")]
    Fields {
        /// Fields expected.
        expected: usize,
        /// Fields received.
        got: usize,
    },
    /// A record with nothing in any field.
    #[error("a record with empty fields only")]
    Empty,
    /// A message of filters has the wrong length.
    #[error("wrong length: expected {expected} bytes, got {got}")]
    Length {
        /// Bytes expected.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// A filter without any bit.
    #[error("filter {0} has no bit")]
    NoBit(usize),
}

impl BloomParams {
    /// Whether the shape is supported.
    ///
    /// # Errors
    /// [`BloomError::Params`].
    pub fn check(&self) -> Result<(), BloomError> {
        if !self.bits.is_power_of_two() || !(256..=8192).contains(&self.bits) {
            return Err(BloomError::Params("bits are a power of two from 256 to 8192"));
        }
        if !(1..=4).contains(&self.gram) {
            return Err(BloomError::Params("a q-gram has 1 to 4 characters"));
        }
        if !(1..=64).contains(&self.hashes.len()) {
            return Err(BloomError::Params("a record has 1 to 64 fields"));
        }
        if !self.hashes.iter().all(|hashes| (1..=64).contains(hashes)) {
            return Err(BloomError::Params("a q-gram sets 1 to 64 bits"));
        }
        Ok(())
    }

    /// Bytes of one filter on the wire.
    #[must_use]
    pub const fn filter_bytes(&self) -> usize {
        self.bits as usize / 8
    }
}

/// The encoding of one record; compares with those of the same key, parameters and salt.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter {
    words: Box<[u64]>,
    ones: u32,
}

impl Filter {
    fn of(words: Box<[u64]>) -> Self {
        let ones = words.iter().map(|word| word.count_ones()).sum();
        Self { words, ones }
    }

    /// Bits set.
    #[must_use]
    pub const fn ones(&self) -> u32 {
        self.ones
    }

    fn has(&self, bit: u16) -> bool {
        self.words.get(usize::from(bit / 64)).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// How similar two filters are.
    #[must_use]
    pub fn dice(&self, other: &Self) -> Dice {
        let both = self.words.iter().zip(&other.words).map(|(a, b)| (a & b).count_ones()).sum();
        Dice { both, total: self.ones + other.ones }
    }
}

/// A Dice coefficient 2 both / total, exact: `both` bits that both filters have, `total` bits of the two
/// counted apart.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    /// Bits in both.
    pub both: u32,
    /// Bits of one plus bits of the other.
    pub total: u32,
}

impl Dice {
    /// Whether the coefficient is at least `permille` thousandths. Never for two empty filters.
    #[must_use]
    pub fn reaches(&self, permille: u16) -> bool {
        self.total > 0 && 2000 * u64::from(self.both) >= u64::from(permille) * u64::from(self.total)
    }
}

impl Ord for Dice {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: &Self, b: &Self| u64::from(a.both) * u64::from(b.total);
        cross(self, other).cmp(&cross(other, self))
    }
}

impl PartialOrd for Dice {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Dice {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Dice {}

/// Makes a party's filters.
pub struct Encoder {
    key: Secret<[u8; 32]>,
    params: BloomParams,
}

crate::assert_secret!(Encoder);

impl Encoder {
    /// With the key of [`GroupKey::bloom_key`](super::GroupKey::bloom_key).
    ///
    /// # Errors
    /// [`BloomError::Params`].
    pub fn new(key: Secret<[u8; 32]>, params: BloomParams) -> Result<Self, BloomError> {
        params.check()?;
        Ok(Self { key, params })
    }

    /// The filter of one record: its normalised fields, an absent one empty. Records of different `salt`
    /// are not comparable, so it has to be clean: a year of birth, a region, or empty for all.
    ///
    /// # Errors
    /// [`BloomError::Fields`], [`BloomError::Empty`].
    pub fn encode(&self, salt: &str, fields: &[&str]) -> Result<Filter, BloomError> {
        let expected = self.params.hashes.len();
        if fields.len() != expected {
            return Err(BloomError::Fields { expected, got: fields.len() });
        }
        let mut words = vec![0; usize::from(self.params.bits) / 64].into_boxed_slice();
        for ((index, field), hashes) in (0u8..).zip(fields).zip(&self.params.hashes) {
            if field.is_empty() {
                continue;
            }
            let mac = keyed(&self.key).chain_update([index]);
            let mac = keyed(&Secret::new(mac.chain_update(salt).finalize().into_bytes().into()));
            for gram in grams(field, self.params.gram) {
                self.set(&mut words, &mac, &gram, *hashes);
            }
        }
        let filter = Filter::of(words);
        if filter.ones == 0 { Err(BloomError::Empty) } else { Ok(filter) }
    }

    /// Sets the bits of one q-gram.
    fn set(&self, words: &mut [u64], mac: &Hmac<Sha256>, gram: &str, hashes: u8) {
        let mut left = usize::from(hashes);
        for block in 0u8.. {
            let value =
                mac.clone().chain_update([block]).chain_update(gram).finalize().into_bytes();
            for position in value.as_chunks::<2>().0.iter().take(left) {
                let bit = u16::from_le_bytes(*position) & (self.params.bits - 1);
                if let Some(word) = words.get_mut(usize::from(bit / 64)) {
                    *word |= 1 << (bit % 64);
                }
            }
            left = left.saturating_sub(POSITIONS);
            if left == 0 {
                return;
            }
        }
    }
}

/// The different q-grams of a field padded with q - 1 characters on both sides.
fn grams(field: &str, gram: u8) -> BTreeSet<String> {
    let padding = || core::iter::repeat_n(PAD, usize::from(gram).saturating_sub(1));
    let padded: Vec<char> = padding().chain(field.chars()).chain(padding()).collect();
    padded.windows(usize::from(gram)).map(|window| window.iter().collect()).collect()
}

/// Filters as they travel, one after the other.
#[must_use]
pub fn encode_filters(filters: &[Filter]) -> Vec<u8> {
    filters.iter().flat_map(|filter| filter.words.iter().flat_map(|w| w.to_le_bytes())).collect()
}

/// Decodes a party's `declared` filters.
///
/// # Errors
/// [`BloomError::Length`] and [`BloomError::NoBit`] are that party's fault; [`BloomError::Params`].
pub fn decode_filters(
    bytes: &[u8],
    params: &BloomParams,
    declared: u32,
) -> Result<Vec<Filter>, BloomError> {
    params.check()?;
    let each = params.filter_bytes();
    let expected = (declared as usize).saturating_mul(each);
    if bytes.len() != expected {
        return Err(BloomError::Length { expected, got: bytes.len() });
    }
    let filter = |(at, bytes): (usize, &[u8])| {
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let filter = Filter::of(words);
        if filter.ones == 0 { Err(BloomError::NoBit(at)) } else { Ok(filter) }
    };
    bytes.chunks_exact(each).enumerate().map(filter).collect()
}

/// How the aggregator matches.
///
/// Two filters are compared when they agree in all sampled bits of one band at least. Filters that differ
/// in a fraction delta of their bits agree in one band with chance (1 - delta)^band_bits; a pair at Dice
/// coefficient D with half of the bits set differs in about delta = 1 - D. With 16 bits and 40 bands a
/// pair at D = 0.85 is compared with chance 0.95, one at 0.9 with chance 0.9997, and two unrelated
/// records with chance below 0.001.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchRule {
    /// Least Dice coefficient of a match, in thousandths: 1 to 1000.
    pub threshold_permille: u16,
    /// Bands, 1 to 256; 0 compares every pair, for small lists.
    pub bands: u16,
    /// Sampled bits of a band, 4 to 32.
    pub band_bits: u8,
    /// Most pairs within one block of a band. A larger block is left out of that band, and counted.
    pub block_pairs: u64,
    /// Public seed of the sampled positions.
    pub seed: u64,
}

impl MatchRule {
    /// Whether the rule is supported.
    ///
    /// # Errors
    /// [`BloomError::Params`].
    pub const fn check(&self) -> Result<(), BloomError> {
        if self.threshold_permille == 0 || self.threshold_permille > 1000 {
            return Err(BloomError::Params("a threshold is 1 to 1000 thousandths"));
        }
        if self.bands > 256 {
            return Err(BloomError::Params("at most 256 bands"));
        }
        if self.bands > 0 && (self.band_bits < 4 || self.band_bits > 32) {
            return Err(BloomError::Params("a band samples 4 to 32 bits"));
        }
        Ok(())
    }
}

/// What matching found, and what it did not look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Matched positions of the two lists, each position at most once; ascending by the first.
    pub pairs: Vec<(u32, u32)>,
    /// Comparisons made; a pair that agrees in several bands counts as often.
    pub compared: u64,
    /// Pairs in blocks that were too large, over all bands: matches among them may have been missed.
    pub left_out: u64,
}

/// Matches two lists one to one, the most similar pairs first; ties go to the lower position in the
/// first list, then in the second.
///
/// # Errors
/// [`BloomError::Params`].
pub fn match_pair(a: &[Filter], b: &[Filter], rule: &MatchRule) -> Result<Matching, BloomError> {
    rule.check()?;
    let mut matching = Matching::default();
    let mut found = Vec::new();
    for band in 0..rule.bands.max(1) {
        let (left, right) = band_keys(a, b, rule, band);
        for (left, right) in blocks(&left, &right) {
            let pairs = (left.len() as u64).saturating_mul(right.len() as u64);
            if rule.bands > 0 && pairs > rule.block_pairs {
                matching.left_out = matching.left_out.saturating_add(pairs);
                continue;
            }
            matching.compared = matching.compared.saturating_add(pairs);
            for (i, first) in members(left, a) {
                for (j, second) in members(right, b) {
                    let dice = first.dice(second);
                    if dice.reaches(rule.threshold_permille) {
                        found.push((Reverse(dice), i, j));
                    }
                }
            }
        }
        // A pair that is found again takes no more memory.
        found.sort_unstable();
        found.dedup();
    }
    let (mut used_a, mut used_b) = (vec![false; a.len()], vec![false; b.len()]);
    for (_, i, j) in found {
        if let (Some(first), Some(second)) =
            (used_a.get_mut(i as usize), used_b.get_mut(j as usize))
            && !*first
            && !*second
        {
            (*first, *second) = (true, true);
            matching.pairs.push((i, j));
        }
    }
    matching.pairs.sort_unstable();
    Ok(matching)
}

/// The sampled bits of a filter in one band, and its position in its list.
type BandKey = (u32, u32);

/// Both lists by their keys in one band; without bands all keys are equal.
fn band_keys(
    a: &[Filter],
    b: &[Filter],
    rule: &MatchRule,
    band: u16,
) -> (Vec<BandKey>, Vec<BandKey>) {
    let bits = a.first().map_or(0, |filter| filter.words.len() * 64);
    let mask = u16::try_from(bits).unwrap_or(0).saturating_sub(1);
    let mut sampled = BTreeSet::new();
    if rule.bands > 0 && mask > 0 {
        let mut rng = ChaCha20Rng::seed_from_u64(rule.seed);
        rng.set_stream(band.into());
        while sampled.len() < usize::from(rule.band_bits) {
            let [low, high, ..] = rng.next_u32().to_le_bytes();
            sampled.insert(u16::from_le_bytes([low, high]) & mask);
        }
    }
    let keys = |list: &[Filter]| {
        let key = |filter: &Filter| {
            sampled.iter().fold(0u32, |key, bit| key << 1 | u32::from(filter.has(*bit)))
        };
        let mut keys: Vec<BandKey> = list.iter().map(key).zip(0..).collect();
        keys.sort_unstable();
        keys
    };
    (keys(a), keys(b))
}

/// The runs of equal keys that both sorted lists have.
fn blocks<'a>(
    left: &'a [BandKey],
    right: &'a [BandKey],
) -> impl Iterator<Item = (&'a [BandKey], &'a [BandKey])> {
    let key_of = |run: &[BandKey]| run.first().map(|(key, _)| *key);
    let mut others = right.chunk_by(|x, y| x.0 == y.0).peekable();
    left.chunk_by(|x, y| x.0 == y.0).filter_map(move |run| {
        while others.next_if(|other| key_of(other) < key_of(run)).is_some() {}
        others.next_if(|other| key_of(other) == key_of(run)).map(|other| (run, other))
    })
}

/// The filters of a run with their positions.
fn members<'a>(run: &'a [BandKey], list: &'a [Filter]) -> impl Iterator<Item = (u32, &'a Filter)> {
    run.iter().filter_map(|(_, at)| Some((*at, list.get(*at as usize)?)))
}

/// What the aggregator of a linkage found: a shared order and each party's rows in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linkage {
    /// One handle for each common row, ascending: the shared order, in words that tell nothing.
    pub handles: Vec<Tag>,
    /// For each party, its position of each common row in the list it sent.
    pub rows: Vec<Vec<u32>>,
    /// Comparisons made.
    pub compared: u64,
    /// As [`Matching::left_out`].
    pub left_out: u64,
}

/// Links the lists of n >= 2 parties: every other party's is matched with the first one's, and a row is
/// common when all of them have a match for it. `rng` draws the handles.
///
/// Each party must have shuffled its list, since positions show in the shared order.
///
/// # Errors
/// [`BloomError::Params`], also for fewer than two lists or filters of different shapes.
pub fn link<R: CryptoRng>(
    lists: &[Vec<Filter>],
    rule: &MatchRule,
    rng: &mut R,
) -> Result<Linkage, BloomError> {
    let Some((first, others)) = lists.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Err(BloomError::Params("a linkage has at least two parties"));
    };
    let mut shapes = lists.iter().flatten().map(|filter| filter.words.len());
    if let Some(shape) = shapes.next()
        && shapes.any(|other| other != shape)
    {
        return Err(BloomError::Params("filters of different lengths"));
    }
    let mut linkage = Linkage { handles: Vec::new(), rows: Vec::new(), compared: 0, left_out: 0 };
    // For each position of the first list, the matched positions of the parties so far.
    let mut rows: Vec<Option<Vec<u32>>> = (0..).zip(first).map(|(i, _)| Some(vec![i])).collect();
    for other in others {
        let matching = match_pair(first, other, rule)?;
        linkage.compared = linkage.compared.saturating_add(matching.compared);
        linkage.left_out = linkage.left_out.saturating_add(matching.left_out);
        let mut pairs = matching.pairs.into_iter().peekable();
        for (at, row) in (0..).zip(&mut rows) {
            match (pairs.next_if(|(i, _)| *i == at), row.as_mut()) {
                (Some((_, j)), Some(row)) => row.push(j),
                _ => *row = None,
            }
        }
    }
    let mut order: Vec<(Tag, Vec<u32>)> = rows
        .into_iter()
        .flatten()
        .map(|row| {
            let mut handle = Tag(Default::default());
            rng.fill_bytes(&mut handle.0);
            (handle, row)
        })
        .collect();
    order.sort_unstable();
    linkage.rows = (0..lists.len())
        .map(|party| order.iter().filter_map(|(_, row)| row.get(party).copied()).collect())
        .collect();
    linkage.handles = order.into_iter().map(|(handle, _)| handle).collect();
    Ok(linkage)
}
