//! How well the network finds anomalies alone, with its banks and with everything in one place, and what
//! noise costs: simulated in the clear.

use std::collections::HashMap;

use anyhow::Context as _;
use quorate_client::payments::bank::AccountBook;
use quorate_client::payments::bank_name;
use quorate_client::payments::record::{Payment, read_accounts, read_payments};
use quorate_client::payments::twin::{self, DEPTH, MOST_ROWS, Sample, TREES, Trained, forest_spec};
use quorate_protocols::pv4fad::forest::Severity;
use quorate_protocols::wire::Name;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use sha2::{Digest as _, Sha256};

use super::Member;
use crate::report::{Curve, Spread};

/// Budgets that are simulated, for each account.
pub(super) const EPSILONS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// The delta at which they are stated.
pub(super) const DELTA: f64 = 1e-6;

/// Points of a drawn curve, at most.
const POINTS: usize = 48;

/// Scores of all payments under one regime.
pub(super) struct Regime {
    pub(super) name: String,
    pub(super) scores: Vec<f64>,
}

/// All simulated regimes.
pub(super) struct Figures {
    labels: Vec<bool>,
    /// The network by itself: the same forest without the banks.
    pub(super) alone: Regime,
    /// With the banks, without noise, none of them lost.
    pub(super) private: Regime,
    /// With noise of each budget.
    pub(super) noisy: Vec<Regime>,
    /// A random forest over all columns in one place.
    pub(super) pooled: Regime,
}

/// The books of the banks, by the name that payments call them.
pub(super) fn books(
    members: &[Member],
    payments: &[Payment],
) -> anyhow::Result<HashMap<String, AccountBook>> {
    let mut texts: HashMap<Name, String> = HashMap::new();
    for text in payments.iter().flat_map(|p| [&p.sender_bank, &p.receiver_bank]) {
        texts.entry(bank_name(text)?).or_insert_with(|| text.clone());
    }
    let mut books = HashMap::new();
    for member in members.iter().skip(1) {
        if let Some(text) = texts.remove(&member.name) {
            books.insert(text, AccountBook::new(&read_accounts(&member.data())?));
        }
    }
    Ok(books)
}

impl Figures {
    /// Trains everything. Heavy.
    pub(super) fn new(members: &[Member], seed: u64) -> anyhow::Result<Self> {
        let network = members.first().context("no network")?;
        let payments = read_payments(&network.data())?;
        let sample = Sample::new(&payments, &books(members, &payments)?);
        let own = sample.forest_scores(&sample.columns, seed);
        let columns = sample.stacked(&own);
        let spec = forest_spec(&columns, TREES, DEPTH, stream(seed, "forest"));
        let asked = sample.asked(stream(seed, "asked"));
        let full = |row| sample.class(row);
        let trained = Trained::new(&spec, &sample, &columns, &asked, None)?;
        let limited = Trained::new(&spec, &sample, &columns, &asked, Some(MOST_ROWS))?;
        let mut noisy = Vec::new();
        for epsilon in EPSILONS {
            let sigma = twin::sigma(&limited.forest, MOST_ROWS, epsilon, DELTA);
            let mut rng = ChaCha20Rng::from_seed(stream(seed, &format!("noise {epsilon}")));
            let scores = limited.with_noise(sigma, &mut rng)?.predict(&columns, full);
            noisy.push(Regime { name: format!("epsilon {epsilon}"), scores });
        }
        let alone = trained.without_banks().predict(&columns, |_| Severity::Clean);
        let pooled = sample.forest_scores(&sample.pooled(&sample.columns), seed);
        let regime = |name: &str, scores| Regime { name: name.to_owned(), scores };
        Ok(Self {
            alone: regime("network alone", alone),
            private: regime("no noise", trained.predict(&columns, full)),
            noisy,
            pooled: regime("pooled", pooled),
            labels: sample.labels,
        })
    }

    /// Whether each of these payments is anomalous.
    pub(super) fn labels(&self, rows: &[usize]) -> Vec<bool> {
        rows.iter().map(|row| self.labels.get(*row).copied().unwrap_or(false)).collect()
    }

    /// Scores of a regime for these payments.
    pub(super) fn scores(regime: &Regime, rows: &[usize]) -> Vec<f64> {
        rows.iter().map(|row| regime.scores.get(*row).copied().unwrap_or(0.0)).collect()
    }
}

/// The randomness of one purpose.
fn stream(seed: u64, purpose: &str) -> [u8; 32] {
    let hash = Sha256::new_with_prefix("quorate/demo-payments/1").chain_update(seed.to_be_bytes());
    hash.chain_update(purpose).finalize().into()
}

/// The precision-recall curve of scores, thinned: recall, then precision at it.
pub(super) fn curve(name: &str, scores: &[f64], labels: &[bool]) -> Curve {
    let mut order: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let all = labels.iter().filter(|label| **label).count();
    let (mut found, mut taken, mut points) = (0usize, 0usize, Vec::new());
    for ties in order.chunk_by(|a, b| a.0 == b.0) {
        let new = ties.iter().filter(|(_, is)| *is).count();
        found += new;
        taken += ties.len();
        // Between two recalls precision only falls.
        if new > 0 && all > 0 {
            let precision = found as f64 / taken as f64;
            points.push((found as f64 / all as f64, Spread { mean: precision, deviation: 0.0 }));
        }
    }
    let step = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.into_iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last);
    Curve { name: name.to_owned(), points: kept.map(|(_, point)| point).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_through_its_points() {
        let labels = [true, false, true, false, true];
        let drawn = curve("x", &[0.9, 0.8, 0.7, 0.2, 0.2], &labels);
        let points: Vec<(f64, f64)> = drawn.points.iter().map(|(r, p)| (*r, p.mean)).collect();
        assert_eq!(points, [(1.0 / 3.0, 1.0), (2.0 / 3.0, 2.0 / 3.0), (1.0, 0.6)]);
        assert!(curve("none", &[0.5], &[false]).points.is_empty());
        let many = vec![true; 1000];
        let scores: Vec<f64> = (0..1000).map(f64::from).collect();
        let drawn = curve("x", &scores, &many);
        assert!(drawn.points.len() <= POINTS + 1);
        assert_eq!(drawn.points.last().map(|(recall, _)| *recall), Some(1.0));
    }
}
