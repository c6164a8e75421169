//! The in-memory network: seeded runs of the real machines under faults and lies.
//!
//! One aggregator, 1 to 4 authorities, 3 to 8 parties, one job, a quarter of them with a threshold key
//! and its holders, some with noise and a ledger at every role; the clock, the network and the disks
//! are simulated, everything else is real: machines, encodings, signatures, encryption, the opening.
//! All of a run follows from one 64-bit seed.
//!
//! Failures: messages lost, repeated, held back; processes that die before a commit, between commit
//! and send, or after, and start again from the committed bytes; parties that come late, leave,
//! return, change keys; authorities that are down or whose clocks are wrong; a cancelled job; and at
//! most one liar. Not simulated: a disk that loses what was committed, and a liar beside crashes of
//! its own process.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failed simulation panics, as tests do"
)]

pub mod audit;
pub mod coverage;
pub mod drivers;
pub mod fuzz;
pub mod lab;
pub mod liar;
mod party_driver;
pub mod scenario;
pub mod stage;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;

use audit::{Audit, Pair};

use crate::refusal::Code;

/// Runs a seed to its end.
#[must_use]
pub fn run(seed: u64) -> Audit {
    let mut world = world::World::new(seed);
    world.run();
    world.audit
}

/// A run that broke an invariant, with its log.
#[derive(Debug)]
pub struct Failure {
    /// Run it again with this.
    pub seed: u64,
    /// The broken invariants.
    pub violations: Vec<String>,
    /// Every event.
    pub log: Vec<String>,
}

/// What many runs met.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Runs.
    pub seeds: u64,
    /// How many runs met each pair.
    pub covered: BTreeMap<Pair, u64>,
    /// Refusal codes met.
    pub codes: BTreeSet<Code>,
    /// Simulated time of all runs.
    pub simulated_ms: u64,
    /// Broken runs.
    pub failures: Vec<Failure>,
}

/// Runs `seeds` on `threads` threads; stops early at a broken run.
#[must_use]
pub fn sweep(seeds: Range<u64>, threads: u64) -> Sweep {
    let total = Mutex::new(Sweep::default());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (total, seeds) = (&total, seeds.clone());
            scope.spawn(move || {
                let step = usize::try_from(threads).unwrap();
                for seed in seeds.skip(usize::try_from(thread).unwrap()).step_by(step) {
                    let audit = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| {
                        let mut audit = Audit::default();
                        audit.broken("a panic, printed above");
                        audit
                    });
                    let mut total = total.lock().unwrap();
                    total.seeds += 1;
                    total.simulated_ms += audit.now_ms;
                    for pair in audit.covered {
                        *total.covered.entry(pair).or_default() += 1;
                    }
                    total.codes.extend(audit.codes);
                    if !audit.violations.is_empty() {
                        let Audit { violations, log, .. } = audit;
                        total.failures.push(Failure { seed, violations, log });
                    }
                    if !total.failures.is_empty() {
                        return;
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_scenario_holds() {
        for (check, scenario) in super::scenario::SCENARIOS {
            assert_eq!(scenario(), Ok(()), "{check:?}");
        }
        assert_eq!(super::scenario::receipt_not_honoured(), Ok(()));
        assert_eq!(super::scenario::honest_sum(1), Ok(()));
    }

    #[test]
    fn first_seeds_hold() {
        let total = super::sweep(0..24, 2);
        let broken = total.failures.first().map(|failure| (failure.seed, &failure.violations));
        assert_eq!(broken, None);
    }
}
