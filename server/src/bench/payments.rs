//! `quorate bench payments`: what banks' findings are worth, and what noise costs, in the clear.

use std::io::Write as _;
use std::num::NonZeroU32;

use anyhow::ensure;
use quorate_client::payments::features::Columns;
use quorate_client::payments::generate::PaymentsSpec;
use quorate_client::payments::twin::{self, Sample, Trained, forest_spec};
use quorate_protocols::pv4fad::forest::{ForestSpec, Severity};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The delta at which epsilons are stated.
const DELTA: f64 = 1e-6;

/// Measure on generated payments how well the network finds anomalies alone, with its banks, with
/// noise, and with everything in one place.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchPayments {
    /// Payments.
    #[arg(long, default_value_t = 200_000)]
    pub rows: u64,
    /// Banks.
    #[arg(long, default_value_t = 12)]
    pub banks: u32,
    /// Data sets, generated from consecutive seeds.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// The first of the seeds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub first_seed: u64,
    /// Share of anomalous payments.
    #[arg(long, default_value_t = 0.001)]
    pub anomaly_rate: f64,
    /// Trees of the forest.
    #[arg(long, default_value_t = twin::TREES)]
    pub trees: u32,
    /// Levels of each tree.
    #[arg(long, default_value_t = twin::DEPTH)]
    pub depth: u32,
    /// Payments that an account counts in, at most, when there is noise.
    #[arg(long, default_value_t = twin::MOST_ROWS)]
    pub most_rows: NonZeroU32,
    /// Budgets to measure, at delta 1e-6 and for each account.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 2.0, 4.0, 8.0])]
    pub epsilon: Vec<f64>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The area under the precision-recall curve under one budget.
#[derive(Debug, Serialize)]
struct WithNoise {
    epsilon: f64,
    /// Standard deviation of the noise in each opened count.
    sigma: f64,
    auprc: f64,
}

/// Areas under precision-recall curves, over the payments of the test days.
#[derive(Debug, Serialize)]
struct Figures {
    /// `None` for the mean over the seeds.
    seed: Option<u64>,
    test_anomalies: usize,
    /// The same forest without the banks.
    auprc_network: f64,
    /// The network's own model, whose score is one of the forest's columns.
    auprc_network_model: f64,
    /// Network and banks, without noise.
    auprc_private: f64,
    /// The same where an account counts in as few payments as with noise.
    auprc_limited: f64,
    /// A random forest over all columns in one place.
    auprc_pooled: f64,
    /// Boosted trees over all columns in one place.
    auprc_pooled_boosted: f64,
    /// A random forest over what all banks find, without the network's columns.
    auprc_banks: f64,
    with_noise: Vec<WithNoise>,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: u64,
    banks: u32,
    anomaly_rate: f64,
    trees: u32,
    depth: u32,
    cells: u64,
    most_rows: u32,
    delta: f64,
    seeds: Vec<Figures>,
    mean: Figures,
}

/// Runs the bench and prints its report.
///
/// # Errors
/// A setting out of bounds.
pub fn run(args: &BenchPayments) -> anyhow::Result<()> {
    let report = measure(args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(
        out,
        "{} payments of {} banks; {} trees of depth {}, {} cells; with noise {} rows an account",
        report.rows, report.banks, report.trees, report.depth, report.cells, report.most_rows
    )?;
    for figures in report.seeds.iter().chain([&report.mean]) {
        let seed = figures.seed.map_or_else(|| "mean".to_owned(), |seed| format!("seed {seed}"));
        write!(
            out,
            "{seed:8} network {:.3} (its model {:.3})  banks {:.3}  private {:.3} (limited \
             {:.3})  pooled {:.3} (boosted {:.3}) ",
            figures.auprc_network,
            figures.auprc_network_model,
            figures.auprc_banks,
            figures.auprc_private,
            figures.auprc_limited,
            figures.auprc_pooled,
            figures.auprc_pooled_boosted
        )?;
        for noisy in &figures.with_noise {
            write!(out, " epsilon {} {:.3}", noisy.epsilon, noisy.auprc)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn measure(args: &BenchPayments) -> anyhow::Result<Report> {
    for epsilon in &args.epsilon {
        // False for NaN.
        ensure!(*epsilon > 0.0 && *epsilon <= 100.0, "epsilon must be within 0 and 100");
    }
    let mut seeds = Vec::new();
    let mut cells = 0;
    for place in 0..args.seeds {
        let seed = args.first_seed + place;
        let (figures, spec) = figures(args, seed)?;
        cells = spec.cells();
        if args.seeds > 1 {
            eprintln!("bench payments: seed {seed}, {} of {} done", place + 1, args.seeds);
        }
        seeds.push(figures);
    }
    Ok(Report {
        rows: args.rows,
        banks: args.banks,
        anomaly_rate: args.anomaly_rate,
        trees: args.trees,
        depth: args.depth,
        cells,
        most_rows: args.most_rows.get(),
        delta: DELTA,
        mean: mean(&seeds),
        seeds,
    })
}

fn figures(args: &BenchPayments, seed: u64) -> anyhow::Result<(Figures, ForestSpec)> {
    let &BenchPayments { rows, banks, anomaly_rate, .. } = args;
    let sample = Sample::generate(PaymentsSpec { rows, banks, seed, anomaly_rate })?;
    let own = sample.forest_scores(&sample.columns, seed);
    let pooled = sample.pooled(&sample.columns);
    let findings = sample.pooled(&Columns::default());
    let columns = sample.stacked(&own);
    let spec = forest_spec(&columns, args.trees, args.depth, stream(seed, "forest"));
    let asked = sample.asked(stream(seed, "asked"));
    let area = |trained: &Trained, class: &dyn Fn(usize) -> Severity| {
        sample.average_precision(&trained.predict(&columns, class))
    };
    let full = |row| sample.class(row);
    let trained = Trained::new(&spec, &sample, &columns, &asked, None)?;
    let limited = Trained::new(&spec, &sample, &columns, &asked, Some(args.most_rows))?;
    let mut with_noise = Vec::new();
    for &epsilon in &args.epsilon {
        let sigma = twin::sigma(&limited.forest, args.most_rows, epsilon, DELTA);
        let mut rng = ChaCha20Rng::from_seed(stream(seed, &format!("noise {epsilon}")));
        let auprc = area(&limited.with_noise(sigma, &mut rng)?, &full);
        with_noise.push(WithNoise { epsilon, sigma, auprc });
    }
    let figures = Figures {
        seed: Some(seed),
        test_anomalies: sample.test.iter().filter(|row| sample.labels[**row]).count(),
        auprc_network: area(&trained.without_banks(), &|_| Severity::Clean),
        auprc_network_model: sample.average_precision(&own),
        auprc_private: area(&trained, &full),
        auprc_limited: area(&limited, &full),
        auprc_pooled: sample.average_precision(&sample.forest_scores(&pooled, seed)),
        auprc_pooled_boosted: sample.average_precision(&sample.boosted_scores(&pooled)),
        auprc_banks: sample.average_precision(&sample.forest_scores(&findings, seed)),
        with_noise,
    };
    Ok((figures, spec))
}

/// The randomness of one purpose.
fn stream(seed: u64, purpose: &str) -> [u8; 32] {
    let hash = Sha256::new_with_prefix("quorate/bench-payments/1").chain_update(seed.to_be_bytes());
    hash.chain_update(purpose).finalize().into()
}

/// The means over at least one seed.
fn mean(seeds: &[Figures]) -> Figures {
    let count = seeds.len().max(1) as f64;
    let mean = |of: &dyn Fn(&Figures) -> f64| seeds.iter().map(of).sum::<f64>() / count;
    let budgets = seeds.first().map_or(&[][..], |first| &first.with_noise);
    let with_noise = budgets.iter().enumerate().map(|(place, first)| WithNoise {
        epsilon: first.epsilon,
        sigma: first.sigma,
        auprc: mean(&|figures| figures.with_noise.get(place).map_or(f64::NAN, |noisy| noisy.auprc)),
    });
    Figures {
        seed: None,
        test_anomalies: seeds.iter().map(|figures| figures.test_anomalies).sum::<usize>()
            / seeds.len().max(1),
        auprc_network: mean(&|figures| figures.auprc_network),
        auprc_network_model: mean(&|figures| figures.auprc_network_model),
        auprc_private: mean(&|figures| figures.auprc_private),
        auprc_limited: mean(&|figures| figures.auprc_limited),
        auprc_pooled: mean(&|figures| figures.auprc_pooled),
        auprc_pooled_boosted: mean(&|figures| figures.auprc_pooled_boosted),
        auprc_banks: mean(&|figures| figures.auprc_banks),
        with_noise: with_noise.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> BenchPayments {
        BenchPayments {
            rows: 5000,
            banks: 3,
            seeds: 2,
            first_seed: 3,
            anomaly_rate: 0.02,
            trees: 10,
            depth: 4,
            most_rows: NonZeroU32::MIN,
            epsilon: vec![4.0],
            json: true,
        }
    }

    const NAMES: [&str; 7] = [
        "auprc_network",
        "auprc_network_model",
        "auprc_banks",
        "auprc_private",
        "auprc_limited",
        "auprc_pooled",
        "auprc_pooled_boosted",
    ];

    #[test]
    fn reports_have_the_stable_names_for_every_seed() {
        let report = serde_json::to_value(measure(&args()).unwrap()).unwrap();
        assert_eq!(report["cells"], 10 * 16 * 2 * 2);
        let seeds = report["seeds"].as_array().unwrap();
        assert_eq!(
            seeds.iter().map(|own| own["seed"].as_u64()).collect::<Vec<_>>(),
            [3, 4].map(Some)
        );
        for figures in seeds.iter().chain([&report["mean"]]) {
            for name in NAMES {
                let area = figures[name].as_f64().unwrap();
                assert!(area > 0.02 && area <= 1.0, "{name}: {area}");
            }
            assert_eq!(figures["with_noise"][0]["epsilon"], 4.0);
        }
        let private = |figures: &serde_json::Value| figures["auprc_private"].as_f64().unwrap();
        let mean = (private(&seeds[0]) + private(&seeds[1])) / 2.0;
        assert!((private(&report["mean"]) - mean).abs() < 1e-12);
        assert_ne!(private(&seeds[0]), private(&seeds[1]));
    }

    #[test]
    fn impossible_settings_are_refused() {
        for bad in [0.0, -1.0, 101.0, f64::NAN] {
            assert!(measure(&BenchPayments { epsilon: vec![bad], ..args() }).is_err(), "{bad}");
        }
        assert!(measure(&BenchPayments { depth: 13, ..args() }).is_err());
        assert!(measure(&BenchPayments { banks: 2, ..args() }).is_err());
    }
}
