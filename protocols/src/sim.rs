//! The in-memory network: seeded runs of the real machines under faults and lies.
//!
//! One aggregator, 1 to 4 authorities, 3 to 8 parties, one job; the clock, the network and the disks
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
pub mod drivers;
pub mod lab;
pub mod liar;
pub mod world;

use audit::Audit;

/// Runs a seed to its end.
#[must_use]
pub fn run(seed: u64) -> Audit {
    let mut world = world::World::new(seed);
    world.run();
    world.audit
}

#[cfg(test)]
mod tests {
    #[test]
    fn first_seeds() {
        let from = std::env::var("QUORATE_SIM_SEED").ok().and_then(|s| s.parse::<u64>().ok());
        let seeds = from.map_or(0..200, |seed| seed..seed + 1);
        for seed in seeds {
            let start = std::time::Instant::now();
            let audit = super::run(seed);
            eprintln!(
                "{seed} {:?} {} ms {} lines {:?}",
                start.elapsed(),
                audit.now_ms,
                audit.log.len(),
                audit.liar
            );
            if !audit.violations.is_empty() {
                for line in &audit.log {
                    eprintln!("{line}");
                }
                panic!("seed {seed}: {:?}", audit.violations);
            }
        }
    }
}
