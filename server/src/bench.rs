//! `quorate bench`: what one secure sum costs, by role, against bare primitives; what one epoch of vertical
//! training costs; how well models find anomalous payments.
//!
//! All times are CPU time of one thread, unless their name says otherwise.

mod functional;
pub mod payments;
mod threshold;
pub mod vertical;

use std::fmt::Arguments;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context, ensure};
use quorate_crypto::schemes;
use quorate_crypto::sum::PadSuite;
use quorate_protocols::job::MAX_PARTIES;
use quorate_protocols::workload::MAX_DIM;
use rustix::time::ClockId;

/// Measure one secure sum of random vectors.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchSum {
    /// Registered scheme.
    #[arg(long, default_value = "pad")]
    pub scheme: String,
    /// Contributors n.
    #[arg(long, default_value_t = 10)]
    pub parties: u32,
    /// Coordinates d.
    #[arg(long, default_value_t = 1_000_000)]
    pub dim: u64,
    /// Bits of a value: of its magnitude, or with a threshold scheme in two's complement; the 32-bit
    /// ring is taken when sums fit it.
    #[arg(long, default_value_t = 24)]
    pub bits: u32,
    /// Authorities, all needed to open.
    #[arg(long, default_value_t = 1)]
    pub authorities: u32,
    /// Pad generator: 1 or aes256-ctr, 2 or chacha20.
    #[arg(long, default_value = "aes256-ctr", value_parser = parse_suite)]
    pub suite: PadSuite,
    /// Holders N of a threshold key, besides the authority.
    #[arg(long, default_value_t = 3)]
    pub holders: u32,
    /// Holders T that open a sum together with the authority.
    #[arg(long, default_value_t = 2)]
    pub threshold: u32,
    /// Seed of a threshold scheme's keys, values and randomness.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Search the primes of a Paillier key (a minute and more) instead of taking known ones.
    #[arg(long)]
    pub fresh_key: bool,
    /// Measured runs after one that warms up [default: 9, 3 with group operations, or 1 with a
    /// threshold scheme].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeats: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn parse_suite(text: &str) -> Result<PadSuite, String> {
    [PadSuite::Aes256Ctr, PadSuite::ChaCha20]
        .into_iter()
        .zip(["aes256-ctr", "chacha20"])
        .find(|(suite, name)| text == *name || text == suite.number().to_string())
        .map(|(suite, _)| suite)
        .ok_or_else(|| "known suites: 1 (aes256-ctr), 2 (chacha20)".to_owned())
}

/// A report of either kind of scheme.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
enum Report {
    Functional(functional::Report),
    Threshold(threshold::Report),
}

/// Runs the bench and prints its report.
///
/// # Errors
/// An unknown scheme, a shape the scheme refuses, a scheme without bench, or a sum that is wrong.
pub fn run(args: &BenchSum) -> anyhow::Result<()> {
    let (report, exact) = measure(args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        match &report {
            Report::Functional(report) => functional::print(&mut out, report)?,
            Report::Threshold(report) => threshold::print(&mut out, report)?,
        }
    }
    ensure!(exact, "the opened sum differs from plain integer arithmetic");
    Ok(())
}

/// The report, and whether all sums were exact.
fn measure(args: &BenchSum) -> anyhow::Result<(Report, bool)> {
    ensure!((2..=MAX_PARTIES).contains(&args.parties), "parties must be within 2..={MAX_PARTIES}");
    ensure!((1..=MAX_DIM).contains(&args.dim), "dim must be within 1..={MAX_DIM}");
    let known = || schemes::all().iter().map(|s| s.info().name).collect::<Vec<_>>().join(", ");
    let scheme = schemes::by_name(&args.scheme)
        .with_context(|| format!("no scheme {:?}; known: {}", args.scheme, known()))?;
    if let Some(scheme) = schemes::threshold_by_id(scheme.info().id) {
        let report = threshold::measure(args, scheme)?;
        let exact = report.exact;
        return Ok((Report::Threshold(report), exact));
    }
    let report = functional::measure(args, scheme)?;
    let exact = report.exact;
    Ok((Report::Functional(report), exact))
}

/// Bits of a sum of `parties` values of `bits` bits in two's complement.
fn sum_bits(bits: u32, parties: u32) -> u32 {
    bits.saturating_add(parties.next_power_of_two().trailing_zeros())
}

/// Nanoseconds of a clock.
fn clock_ns(clock: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    let [seconds, nanos] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}

/// CPU nanoseconds of this thread.
#[must_use]
pub fn cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

fn timed<T>(total: &mut u64, work: impl FnOnce() -> T) -> T {
    let start = cpu_ns();
    let out = work();
    *total += cpu_ns() - start;
    out
}

/// Says how far a bench is that has been running for two seconds.
fn progress(started: Instant, what: Arguments<'_>) {
    if started.elapsed().as_secs() >= 2 {
        eprintln!("bench sum: {what}");
    }
}

/// Four decimals are more than any of these figures is worth.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The finalizer of SplitMix64: cheap, and enough for values nobody attacks.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 1
}

/// The process's peak resident memory, where the system tells it.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn args(scheme: &str, dim: u64, bits: u32) -> BenchSum {
        BenchSum {
            scheme: scheme.to_owned(),
            parties: 3,
            dim,
            bits,
            authorities: 2,
            suite: PadSuite::ChaCha20,
            holders: 3,
            threshold: 2,
            seed: 1,
            fresh_key: false,
            repeats: Some(1),
            json: true,
        }
    }

    /// Names that every report has, whatever the scheme.
    const NAMES: [&str; 18] = [
        "scheme",
        "parties",
        "dim",
        "bits",
        "ring_bits",
        "party_ns_per_coord",
        "aggregator_ns_per_coord",
        "authority_ns_per_coord",
        "decryptor_ns_per_coord",
        "opening_ns_per_coord",
        "commit_ns_per_coord",
        "bytes_up_per_coord",
        "bytes_down_per_coord",
        "key_bytes",
        "peak_rss_bytes",
        "baseline_ns_per_coord",
        "party_ratio",
        "exact",
    ];

    #[test]
    fn reports_have_the_stable_names_and_exact_sums() {
        for (scheme, dim, bits, ring) in
            [("pad", 40_000, 24, 32), ("pad", 9, 40, 64), ("ddh-mcfe", 9, 24, 32)]
        {
            let (report, exact) = measure(&args(scheme, dim, bits)).unwrap();
            let report = serde_json::to_value(report).unwrap();
            for name in NAMES {
                assert!(report.get(name).is_some(), "{name} is missing");
            }
            assert_eq!((report["exact"] == true, exact), (true, true));
            assert_eq!(report["ring_bits"], ring);
            assert!(report["decryptor_ns_per_coord"].is_null());
        }
    }

    /// Names that threshold schemes add.
    const THRESHOLD_NAMES: [&str; 11] = [
        "holders",
        "threshold",
        "key_source",
        "verify_reply_ns_per_coord",
        "add_ns_per_coord",
        "verify_partial_ns_per_coord",
        "combine_ns_per_coord",
        "bytes_partial_per_coord",
        "share_baseline_ns_per_coord",
        "share_ratio",
        "key_setup_ns",
    ];

    #[test]
    fn threshold_schemes_report_every_name_and_exact_sums() {
        for (scheme, bits, ring, known) in
            [("elgamal", 20, 32, false), ("paillier", 32, 64, true), ("paillier", 20, 32, true)]
        {
            let (report, exact) = measure(&args(scheme, 9, bits)).unwrap();
            let report = serde_json::to_value(report).unwrap();
            for name in NAMES.iter().chain(&THRESHOLD_NAMES) {
                assert!(report.get(name).is_some(), "{name} is missing");
            }
            assert_eq!((report["exact"] == true, exact), (true, true));
            assert_eq!(report["ring_bits"], ring);
            assert_eq!(report["key_source"] == "dealt over known primes", known);
            assert!(report["decryptor_ns_per_coord"].is_f64());
        }
    }

    #[test]
    fn impossible_sums_are_refused() {
        assert!(measure(&args("none", 9, 24)).is_err());
        assert!(measure(&args("pad", 0, 24)).is_err());
        assert!(measure(&args("pad", 9, 62)).is_err());
        assert!(measure(&args("pad", 9, 0)).is_err());
        assert!(measure(&BenchSum { parties: 1, ..args("pad", 9, 24) }).is_err());
        assert!(measure(&args("elgamal", 9, 1)).is_err());
        assert!(measure(&args("paillier", 9, 63)).is_err());
        for (holders, threshold) in [(0, 0), (3, 0), (3, 4), (65, 2)] {
            assert!(measure(&BenchSum { holders, threshold, ..args("elgamal", 9, 20) }).is_err());
        }
    }
}
