//! What a job of a payment network and its banks fixes about its forest and its queries.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{WorkloadError, within};
use crate::wire::Name;

/// Most class bits of a side.
pub const MAX_CLASS_BITS: u16 = 7;
/// Most splits between a root and a leaf, so that a tree's cells have numbers of 16 bits.
const MAX_LEVELS: u16 = 12;
/// Most payments of one model version.
pub const MAX_PAYMENTS: u64 = 1 << 24;
/// Most payments that all queries of a job have together: the authority keeps the id of each.
pub const MAX_QUERIED: u64 = 1 << 20;
/// Rows of one part of a join list: lists are padded to whole parts.
pub const PART_ROWS: u16 = 1024;

/// How often the network may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryLimits {
    /// Payments scored in the whole job.
    pub total: u64,
    /// Payments scored in one window.
    pub per_window: u32,
    /// Length of a window, in milliseconds.
    pub window_ms: u64,
    /// Times that one account is asked about, at its bank.
    pub per_account: u32,
}

/// Table `[payments]` of a job: a forest that a payment network trains with its banks.
///
/// Floor, colluders, noise and holders are the job's own settings: every bank holds a share of the key,
/// and `max_parties` is the number of banks and the network.
///
/// ```toml
/// [payments]
/// network = "network"
/// banks = ["bank01", "bank02", "bank03"]
/// trees = 50
/// depth = 6
/// rows_per_account = 2
/// max_rows = 1000000
/// queries = { total = 100000, per_window = 5000, window_ms = 3600000, per_account = 1000 }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PvSpec {
    /// The network.
    pub network: Name,
    /// The banks, sorted by name; holder i of the key is bank i - 1.
    pub banks: Vec<Name>,
    /// L, thermometer bits of a side.
    #[serde(default = "class_bits")]
    pub class_bits: u16,
    /// Trees of the forest.
    pub trees: u16,
    /// Splits between a root and a leaf.
    pub depth: u16,
    /// Rows of one part of a join list: [`PART_ROWS`]; tests take fewer.
    #[serde(default = "part_rows")]
    pub part_rows: u16,
    /// K, rows of one account that count, both sides together.
    pub rows_per_account: u32,
    /// Most payments of a model version.
    pub max_rows: u64,
    /// Most model versions.
    #[serde(default = "versions")]
    pub versions: u32,
    /// How often the network may ask.
    pub queries: QueryLimits,
    /// Whether leaf tables stay closed, and a query opens pooled counts of one class instead: see
    /// [`strict`](crate::pv4fad::strict).
    #[serde(default)]
    pub strict: bool,
}

const fn class_bits() -> u16 {
    2
}

const fn part_rows() -> u16 {
    PART_ROWS
}

const fn versions() -> u32 {
    1
}

impl PvSpec {
    /// Cells of a tree: a leaf with a label each.
    #[must_use]
    pub const fn cells(&self) -> u16 {
        2u16.saturating_mul(1u16.unbounded_shl(self.depth as u32))
    }

    /// Whether the job names this party.
    #[must_use]
    pub fn names(&self, party: &Name) -> bool {
        *party == self.network || self.banks.contains(party)
    }

    /// Refuses anything out of bounds, so that later code need not check again.
    ///
    /// # Errors
    /// [`WorkloadError`] naming the first offending setting.
    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        let distinct: BTreeSet<&Name> = self.banks.iter().chain([&self.network]).collect();
        if distinct.len() != self.banks.len().saturating_add(1)
            || !self.banks.is_sorted_by(|a, b| a < b)
        {
            return Err(WorkloadError::Parties(
                "banks must be distinct, sorted by name, and none of them the network",
            ));
        }
        within("class_bits", self.class_bits.into(), 1, MAX_CLASS_BITS.into())?;
        within("trees", self.trees.into(), 1, u16::MAX.into())?;
        within("depth", self.depth.into(), 1, MAX_LEVELS.into())?;
        within("part_rows", self.part_rows.into(), 1, PART_ROWS.into())?;
        within("rows_per_account", self.rows_per_account.into(), 1, u32::MAX.into())?;
        within("max_rows", self.max_rows, 1, MAX_PAYMENTS)?;
        within("versions", self.versions.into(), 1, u32::MAX.into())?;
        within("queries.total", self.queries.total, 0, MAX_QUERIED)?;
        within("queries.window_ms", self.queries.window_ms, 1, u64::MAX)
    }
}
