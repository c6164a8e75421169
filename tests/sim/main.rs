//! Whole jobs in the in-memory network: at least 2,000 seeds under faults and lies, and a table of
//! every (state x fault) pair they must have met.
//!
//! `QUORATE_SIM_SEED=n` reruns one seed and prints its log; `QUORATE_SIM_SEEDS=n` runs more of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quorate_protocols::sim::{Failure, coverage, run, sweep};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn report(failure: &Failure) -> String {
    let from = failure.log.len().saturating_sub(400);
    format!(
        "{}\nseed {}: {}\nrun it again with QUORATE_SIM_SEED={}",
        failure.log[from..].join("\n"),
        failure.seed,
        failure.violations.join("; "),
        failure.seed,
    )
}

/// Rows of states, columns of counts, for one role.
fn table(covered: &BTreeMap<coverage::Pair, u64>) -> String {
    let mut out = String::new();
    for (role, state, fault) in coverage::listed() {
        let runs = covered.get(&(role, state, fault)).copied().unwrap_or(0);
        writeln!(out, "{role:<11} {state:<13} {fault:<38} {runs:>6}").expect("text");
    }
    out
}

#[test]
fn every_seed_keeps_the_invariants_and_every_pair_is_met() {
    if let Some(seed) = number("QUORATE_SIM_SEED") {
        let audit = run(seed);
        println!("{}", audit.log.join("\n"));
        assert!(audit.violations.is_empty(), "seed {seed}: {:?}", audit.violations);
        return;
    }
    let seeds = number("QUORATE_SIM_SEEDS").unwrap_or(2_000).max(2_000);
    let total = sweep(0..seeds, 2);
    if let Some(failure) = total.failures.first() {
        panic!("{}", report(failure));
    }
    let table = table(&total.covered);
    let summary = format!(
        "{} seeds, {} simulated seconds, {} of {} pairs\n",
        total.seeds,
        total.simulated_ms / 1000,
        coverage::listed().iter().filter(|pair| total.covered.contains_key(pair)).count(),
        coverage::listed().len(),
    );
    print!("{table}{summary}");
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/sim-coverage.txt");
    // The table is also kept as a file; a read-only checkout must not fail the test.
    let _ = std::fs::write(target, format!("{table}{summary}"));
    assert!(total.seeds >= 2_000);
    let missed: Vec<_> =
        coverage::listed().into_iter().filter(|pair| !total.covered.contains_key(pair)).collect();
    assert!(missed.is_empty(), "pairs that no seed met: {missed:?}");
}
