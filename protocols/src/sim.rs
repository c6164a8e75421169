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
    use super::lab::{Kind, Lab, Size};
    use super::liar::HolderLie;
    use super::stage::Stage;
    use super::world::{Item, World, threshold_scheme};
    use crate::job::ThresholdSpec;
    use crate::refusal::{Code, Culprit};
    use crate::round::aggregator::{AggregatorJob, Outcome};
    use crate::round::messages::KeyTranscript;
    use crate::wire::Signed;

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

    /// A job of five, four of whom hold the key, with two calls for it and a liar who sorts first.
    /// It must end well; `also` happens as well. The aggregator's last state, and its log.
    fn with_a_bad_holder(lie: HolderLie, also: &[(u64, Item)]) -> (AggregatorJob, Vec<String>) {
        let threshold = Some(ThresholdSpec { holders: 4, threshold: 3 });
        let scheme = threshold_scheme().unwrap();
        let mut lab = Lab::new(3, &Size { threshold, ..super::scenario::size(Kind::Sum, scheme) });
        lab.manifest.deadlines.max_attempts = 2;
        let mut world = World::calm(lab, lie);
        for (ms, item) in also {
            world.at(*ms, item.clone());
        }
        world.run();
        assert_eq!(world.audit.violations, [""; 0]);
        let job = world.aggregator_job().unwrap();
        assert_eq!(job.outcome(), Some(&Outcome::Done));
        assert_eq!(job.status().holding.key_calls, 2);
        let holders = job.job_key().unwrap().keying().holders();
        let names: Vec<&str> = holders.iter().map(|holder| holder.party.as_str()).collect();
        assert_eq!(names, ["bank-1", "bank-2", "bank-3", "bank-4"]);
        (job, world.audit.log)
    }

    #[test]
    fn a_holder_that_never_posts_is_called_last_however_often_it_joins() {
        let (job, log) = with_a_bad_holder(HolderLie::NoPost, &[]);
        let said = |words: &str| log.iter().filter(|line| line.contains(words)).count();
        assert_eq!(said("key.late no post of bank-0"), 1);
        assert!(said("party.joined bank-0") >= 2, "it was in time for the second call");
        // It only does not hold the key: its values count.
        assert!(job.results().iter().all(|result| result.members.len() == 5));
    }

    /// A party checks the posts of a step once, when all are there. Checked whenever one is added, the
    /// posts of N holders would be checked N times over, and a wrong one would keep those who see it
    /// from posting, so that they are the ones who are late.
    #[test]
    fn a_party_checks_a_step_when_it_is_complete() {
        let scheme = threshold_scheme().unwrap();
        let mut stage = Stage::new(11, &super::scenario::size(Kind::Sum, scheme));
        let call = stage.call(0, &[0, 1, 2, 3, 4]);
        let mut shown = KeyTranscript { call, posts: Vec::new() };
        let mut posts: Vec<_> =
            (0..4).map(|p| stage.show_key(p, &shown).unwrap().unwrap()).collect();
        let liar = &stage.lab.parties[0];
        let mut broken = posts[0].peek().unwrap();
        broken.post.bytes.truncate(5);
        posts[0] = Signed::sign(broken, &liar.identity).signed().clone();
        let liar = Culprit::Party(liar.entry.party.clone());
        for count in 1..=4 {
            shown.posts = posts[..count].to_vec();
            // The last party sees the call with the wrong post in it, and posts all the same.
            let post = stage.show_key(4, &shown).unwrap().unwrap();
            if count == 4 {
                shown.posts.push(post);
            }
        }
        let refusal = stage.show_key(4, &shown).unwrap_err();
        assert_eq!((refusal.code, refusal.culprits), (Code::BadKey, vec![liar]));
    }

    #[test]
    fn a_party_whose_post_broke_the_key_stays_out_with_new_keys_too() {
        let rotate = [(400, Item::Rotate { party: 0, done: 0 })];
        let (job, log) = with_a_bad_holder(HolderLie::BrokenPost, &rotate);
        let said = |words: &str| log.iter().filter(|line| line.contains(words)).count();
        assert_eq!(said("party.joined bank-0"), 1);
        assert!(said("this party broke the job's threshold key") > 0);
        assert!(job.results().iter().all(|result| result.members.len() == 4));
    }
}
