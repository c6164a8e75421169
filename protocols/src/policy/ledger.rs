//! The ledger of one data set at one releaser or party.

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::dp::account::{epsilon_gaussian, epsilon_zcdp};
use quorate_crypto::merkle::Hash;
use serde::{Deserialize, Serialize};

use super::{Mechanism, NoiseSpec, rho_of};
use crate::checks::{Check, holds};
use crate::refusal::{Code, Refusal};
use crate::wire::Name;

/// The delta at which an owner's own limit is judged, whatever larger one a job names.
pub const OWNER_DELTA: f64 = 1e-6;

/// The cost of one round of one job, as a machine asks for it. The same charge again costs nothing:
/// a round is opened once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    /// The job.
    pub job: Hash,
    /// Its round.
    pub round: u32,
    /// The job's privacy table.
    pub noise: NoiseSpec,
}

/// One job's entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct JobEntries {
    /// Cost of each round, in units of 2^-40.
    rho: u64,
    /// Distribution of the noise.
    mechanism: Mechanism,
    /// Rounds charged.
    rounds: BTreeSet<u32>,
    /// The epsilon that the job promised for the data set as a whole, and its delta: later jobs must
    /// keep it, too.
    epsilon: f64,
    delta: f64,
}

/// All that was ever spent on one data set, as one releaser or party knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    jobs: BTreeMap<Hash, JobEntries>,
}

/// What was spent on a data set, as people read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// The data set.
    pub data_set: Name,
    /// Rounds charged, of all jobs.
    pub rounds: u64,
    /// rho of all of them.
    pub rho: f64,
    /// delta of the figures below.
    pub delta: f64,
    /// epsilon by zCDP: the official figure.
    pub zcdp: f64,
    /// epsilon of the exact Gaussian composition; absent when another mechanism was charged.
    pub exact: Option<f64>,
}

impl Ledger {
    fn rho(&self) -> u64 {
        self.jobs.values().fold(0, |sum: u64, job| {
            sum.saturating_add(job.rho.saturating_mul(job.rounds.len() as u64))
        })
    }

    /// Takes a charge whose cost, with all before it, stays within the epsilon of its job and of every
    /// job charged before, and within `limit`, the owner's own, at [`OWNER_DELTA`] or the job's delta if
    /// that is less.
    ///
    /// # Errors
    /// [`Code::BudgetSpent`]; the ledger is then unchanged.
    pub fn charge(&mut self, charge: &Charge, limit: Option<f64>) -> Result<(), Refusal> {
        let noise = &charge.noise;
        let mut next = self.clone();
        let entries = next.jobs.entry(charge.job).or_insert_with(|| JobEntries {
            rho: noise.rho(),
            mechanism: noise.mechanism,
            rounds: BTreeSet::new(),
            epsilon: noise.epsilon,
            delta: noise.delta,
        });
        if !entries.rounds.insert(charge.round) {
            return Ok(());
        }
        let rho = rho_of(next.rho());
        let promised = next.jobs.values().filter(|job| !job.rounds.is_empty());
        let own = limit.map(|limit| (limit, noise.delta.min(OWNER_DELTA)));
        for (allowed, delta) in promised.map(|job| (job.epsilon, job.delta)).chain(own) {
            let epsilon = epsilon_zcdp(rho, delta);
            if !holds(Check::Budget, epsilon <= allowed) {
                return Err(Refusal::new(
                    Code::BudgetSpent,
                    format!(
                        "round {} would bring data set {} to epsilon {epsilon:.4} at delta {delta:e}; \
                         {allowed} is allowed here",
                        charge.round, noise.data_set
                    ),
                ));
            }
        }
        *self = next;
        Ok(())
    }

    /// Takes a charge back, against the tombstone of an attempt that will never be opened.
    pub fn refund(&mut self, job: &Hash, round: u32) {
        if let Some(entries) = self.jobs.get_mut(job) {
            entries.rounds.remove(&round);
        }
    }

    /// What was spent, at `delta`.
    #[must_use]
    pub fn spent(&self, data_set: Name, delta: f64) -> Spent {
        let rho = rho_of(self.rho());
        let gaussian = self.jobs.values().all(|job| job.mechanism == Mechanism::Gaussian);
        Spent {
            data_set,
            rounds: self.jobs.values().map(|job| job.rounds.len() as u64).sum(),
            rho,
            delta,
            zcdp: epsilon_zcdp(rho, delta),
            exact: gaussian.then(|| epsilon_gaussian(2.0 * rho, delta)),
        }
    }
}
