//! What a protocol promises, on one page: phase, guarantee for each role, utility.

use serde::Serialize;

/// What one role learns, and what keeps it from more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Guarantee {
    /// The role.
    pub role: &'static str,
    /// What it learns at most.
    pub learns: &'static str,
}

/// A protocol's card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Name, with the paper.
    pub protocol: &'static str,
    /// The part of a model's life it serves.
    pub phase: &'static str,
    /// What each role learns.
    pub guarantees: &'static [Guarantee],
    /// What it computes and what that costs.
    pub utility: &'static str,
    /// What the published sums themselves tell.
    pub leakage: &'static str,
    /// What all of it rests on.
    pub assumptions: &'static [&'static str],
}
