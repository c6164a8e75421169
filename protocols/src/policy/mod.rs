//! Privacy policy: what noise a job adds, and who keeps account of it.

mod ledger;
pub mod noise;

use quorate_crypto::dp::account::epsilon_zcdp;
use serde::{Deserialize, Serialize};

pub use ledger::{Charge, Ledger, OWNER_DELTA, Spent};

use crate::wire::Name;

/// Fractional bits of rho in a [`Charge`].
pub const RHO_BITS: u32 = 40;
/// Most rounds of a job with noise: each is an entry of every ledger.
pub const MAX_NOISED_ROUNDS: u32 = 10_000;

/// Whose presence the noise hides. Adjacency is adding or removing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One row of one party's data.
    Record,
    /// All data of one party.
    Party,
}

/// The distribution of the noise of a whole sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// Discrete Gaussian, by the L2 sensitivity.
    Gaussian,
    /// Discrete Laplace, by the L1 sensitivity.
    Laplace,
}

/// Differential privacy of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseSpec {
    /// Whose presence is hidden.
    pub unit: Unit,
    /// Distribution.
    pub mechanism: Mechanism,
    /// sigma (Gaussian) or the scale (Laplace), in units of the sensitivity.
    pub multiplier: f64,
    /// Clipping norm of one unit's contribution; for counts unused.
    pub clip: f64,
    /// The epsilon that all jobs on this data set may spend together, this one included.
    pub epsilon: f64,
    /// delta of that epsilon.
    pub delta: f64,
    /// Name of the data set, under which authorities and holders keep account.
    pub data_set: Name,
}

impl NoiseSpec {
    /// rho-zCDP of one round, in units of 2^-[`RHO_BITS`], rounded up: 1 / (2 multiplier^2) for both
    /// mechanisms (an epsilon-DP release is epsilon^2/2-zCDP).
    #[must_use]
    pub fn rho(&self) -> u64 {
        let rho = 0.5 / (self.multiplier * self.multiplier);
        let scaled = (rho * 2f64.powi(40)).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a float cast saturates"
        )]
        (scaled as u64)
    }

    /// Why the table is not acceptable, if it is not.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let within = |value: f64, low: f64, high: f64| (low..=high).contains(&value);
        if !within(self.multiplier, 1e-3, 1e9) {
            return Some("noise multiplier must be within 0.001..=10^9");
        }
        if !within(self.clip, 1e-9, 1e12) {
            return Some("clip must be within 10^-9..=10^12");
        }
        if !within(self.epsilon, 1e-6, 1e6) {
            return Some("epsilon must be within 10^-6..=10^6");
        }
        // Below, the tails that samplers and clamps cut off would weigh; above, it promises nothing.
        if !within(self.delta, 1e-12, 1e-3) {
            return Some("delta must be within 10^-12..=10^-3");
        }
        None
    }

    /// epsilon of `rounds` rounds, by zCDP.
    #[must_use]
    pub fn epsilon_of(&self, rounds: u32) -> f64 {
        epsilon_zcdp(rho_of(self.rho().saturating_mul(u64::from(rounds))), self.delta)
    }
}

/// rho as a real number.
fn rho_of(units: u64) -> f64 {
    units as f64 / 2f64.powi(40)
}
