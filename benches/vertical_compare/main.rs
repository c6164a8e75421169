//! One batch of vertical training under three schemes: the served one, the paper's, and a two-party
//! baseline under Paillier. Bytes on all links and CPU time of all roles, in one run, every result
//! compared with plain arithmetic.
//!
//! `cargo bench -p quorate-benches --bench vertical_compare -- [--json] [--out FILE]`; without `--bench`,
//! as tests run it, the batch is small and the break-even width is only computed.

mod cost;
mod hardy;
mod paper;
mod rows;

use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::paillier::single::{self, PrivateKey, PublicKey};
use quorate_crypto::threshold::paillier::testkit::INSECURE_TEST_PRIMES;
use quorate_protocols::fedv::linear::{Features, Weights, own_products, residuals};
use quorate_protocols::workload::{Block, LabelPrivacy, VerticalSpec};
use quorate_server::bench::vertical::local::{Costs, LocalJob, Plan, Rows};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use cost::Summary;
use rows::Joined;

/// Bits of the baseline's modulus.
const BITS: u32 = 3072;
/// Authorities of the served job; the paper has one.
const AUTHORITIES: usize = 1;

/// The report. Names are stable.
#[derive(Serialize)]
struct Report {
    data: &'static str,
    rows_per_batch: u32,
    /// Features of the label holder, and of the passive parties together.
    features: [usize; 2],
    clock: &'static str,
    schemes: Vec<Summary>,
    baseline_bits: u32,
    /// Passive features, at this batch, from which on the served scheme sends more than the baseline.
    #[serde(serialize_with = "cost::whole")]
    break_even_width: f64,
    /// Passive features, with the bytes of the served scheme and of the baseline.
    break_even_measured: Vec<(usize, f64, f64)>,
    fewer_bytes_percent: f64,
    /// Bytes of features that `served-static` sends once a job, each way.
    static_bytes_once: usize,
    fewer_bytes_static_percent: f64,
    less_time_percent: f64,
    less_critical_time_percent: f64,
    /// The same against the paper's scheme.
    fewer_bytes_than_paper_percent: f64,
    less_time_than_paper_percent: f64,
    /// Bounds of the paper's discrete logarithms.
    paper_bounds: [i64; 2],
    /// Largest distance of a gradient from the one of unrounded residuals: of the served scheme and of the
    /// paper's.
    gradient_distance: [f64; 2],
    exact: bool,
}

/// An epoch of the served scheme.
struct Served {
    summary: Summary,
    /// Initial weights of every block's party, and the rows of the first batch.
    weights: Vec<Weights>,
    first: Vec<u32>,
    /// Bytes of features sent once.
    stored: usize,
}

/// Trains one epoch over `joined`, compares the weights with plain training's, and averages over all batches
/// but the first, in which parties take the epoch's order.
fn served(joined: &Joined) -> Result<Served> {
    let plan =
        Plan { spec: joined.spec.clone(), authorities: AUTHORITIES, rows: joined.count, seed: 1 };
    let mut job = LocalJob::open(&plan, joined)?;
    let weights = job.weights();
    let mut plain = job.weights();
    let first = job.batch()?.context("no batch")?;
    job.plain_batch(&mut plain, (0, 0), &first)?;
    job.take_costs();
    let mut batches = 0u32;
    while let Some(numbers) = job.batch()? {
        batches += 1;
        job.plain_batch(&mut plain, (0, batches), &numbers)?;
    }
    ensure!(batches > 0, "an epoch of one batch");
    let costs = job.take_costs();
    job.finish()?;
    let hashes = |weights: &[Weights]| weights.iter().map(Weights::hash).collect::<Vec<_>>();
    ensure!(
        hashes(&plain) == hashes(&job.weights()),
        "the weights are not those of plain training"
    );
    let name = if joined.spec.static_features { "served-static" } else { "served" };
    let summary = summary(name, &costs, f64::from(batches))?;
    Ok(Served { summary, weights, first, stored: job.stored_bytes() })
}

fn summary(name: &'static str, costs: &Costs, batches: f64) -> Result<Summary> {
    let ms = |ns: u64| (ns as f64 / batches / 1e3).round() / 1e3;
    let link = |(link, bytes): (_, &u64)| -> Result<(String, f64)> {
        let name = serde_json::to_value(link)?;
        let name = name.as_str().context("a link has a name")?.to_owned();
        Ok((name, (*bytes as f64 / batches).round()))
    };
    let roles = [
        ("label_holder", costs.holder_ns),
        ("passive", costs.passive_ns),
        ("authority", costs.authority_ns),
        ("aggregator", costs.aggregator_ns),
    ];
    Ok(Summary {
        name,
        bytes_per_batch: (costs.total_bytes() as f64 / batches).round(),
        ms_per_batch: ms(costs.total_ns()),
        critical_ms_per_batch: ms(costs.critical_ns),
        bytes_by_link: costs.bytes.iter().map(link).collect::<Result<_>>()?,
        ms_by_role: roles.map(|(role, ns)| (role.to_owned(), ms(ns))).into(),
    })
}

/// The passive parties' features side by side.
fn side_by_side(parts: &[&Features], rows: u32) -> Features {
    let columns = parts.iter().map(|part| part.columns()).sum();
    let row =
        |row| parts.iter().flat_map(move |part| part.row(row)).map(|x| f64::from(*x) / 65536.0);
    Features::new(columns, (0..rows).flat_map(row))
}

/// One batch at one party.
struct Part {
    features: Features,
    scores: Vec<i64>,
}

fn parts(joined: &Joined, weights: &[Weights], numbers: &[u32]) -> Vec<Part> {
    let all: Vec<u32> = (0u32..).take(numbers.len()).collect();
    let part = |(at, weights): (usize, &Weights)| {
        let features = joined.features(at, numbers);
        let scores = weights.scores(&features, &all).to_vec();
        Part { features, scores }
    };
    weights.iter().enumerate().map(part).collect()
}

/// One batch of the baseline, equal to plain arithmetic.
fn baseline(
    keys: (&PublicKey, &PrivateKey),
    parts: &[Part],
    holder: usize,
    labels: &[i64],
    rng: &mut ChaCha20Rng,
) -> Result<(hardy::Gradients, Summary)> {
    let passive: Vec<&Part> =
        parts.iter().enumerate().filter(|(at, _)| *at != holder).map(|(_, part)| part).collect();
    let features: Vec<&Features> = passive.iter().map(|part| &part.features).collect();
    let rows = u32::try_from(labels.len())?;
    let host_scores: Vec<i64> =
        (0..labels.len()).map(|i| passive.iter().map(|part| part.scores[i]).sum()).collect();
    let batch = hardy::Batch {
        host: &side_by_side(&features, rows),
        guest: &parts[holder].features,
        host_scores: &host_scores,
        guest_scores: &parts[holder].scores,
        labels,
    };
    let (gradients, cost) = hardy::run(keys, &batch, rng)?;
    ensure!(
        gradients == batch.plain(),
        "the baseline's gradients are not those of plain arithmetic"
    );
    let (host, guest) = (batch.host.columns(), batch.guest.columns());
    let bytes = hardy::bytes(keys.0.cipher_bytes(), labels.len(), host, guest);
    ensure!(
        cost.total_bytes() == bytes as u64,
        "the baseline's bytes are not those of its formula"
    );
    Ok((gradients, cost.summary("hardy-paillier")))
}

/// Bytes of a batch of the served scheme at this width.
fn served_bytes(holder: usize, passive: usize, batch: u32) -> Result<f64> {
    Ok(served(&Joined::random(holder, passive, 4 * batch, batch)?)?.summary.bytes_per_batch)
}

/// Where served and baseline bytes, both linear in the passive width, meet.
struct BreakEven {
    width: f64,
    measured: Vec<(usize, f64, f64)>,
}

fn break_even(
    keys: (&PublicKey, &PrivateKey),
    holder: usize,
    batch: u32,
    full: bool,
    rng: &mut ChaCha20Rng,
) -> Result<BreakEven> {
    let (narrow, wide) = (8, 20);
    let at = |width| served_bytes(holder, width, batch);
    let (low, high) = (at(narrow)?, at(wide)?);
    let slope = (high - low) / (wide - narrow) as f64;
    let cipher = keys.0.cipher_bytes();
    let other = |width| hardy::bytes(cipher, batch as usize, width, holder) as f64;
    let other_slope = other(1) - other(0);
    let fixed = low - slope * narrow as f64;
    let width = (other(0) - fixed) / (slope - other_slope);
    let mut measured = Vec::new();
    if full {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small width"
        )]
        let below = width.floor() as usize;
        for width in [below - 1, below, below + 1, below + 2] {
            let joined = Joined::random(holder, width, 4 * batch, batch)?;
            let run = served(&joined)?;
            let (at, labels) = (joined.holder()?, joined.labels(&run.first));
            let parts = parts(&joined, &run.weights, &run.first);
            let (_, baseline) = baseline(keys, &parts, at, &labels, rng)?;
            measured.push((width, run.summary.bytes_per_batch, baseline.bytes_per_batch));
        }
        let less = |(_, served, baseline): &(usize, f64, f64)| served < baseline;
        ensure!(
            measured.first().is_some_and(less) && !measured.last().is_some_and(less),
            "bytes do not break even at {width}: {measured:?}"
        );
    } else {
        let middle = (narrow + wide) / 2;
        let predicted = fixed + slope * middle as f64;
        ensure!((at(middle)? - predicted).abs() < 16.0, "bytes are not linear in the width");
    }
    Ok(BreakEven { width, measured })
}

/// Distances of gradients from those of residuals that are not rounded, per row.
fn distances(
    joined: &Joined,
    parts: &[Part],
    labels: &[i64],
    exact: &hardy::Gradients,
    paper: &[Vec<i64>],
) -> Result<[f64; 2]> {
    let (holder, rows) = (joined.holder()?, u32::try_from(labels.len())?);
    let numbers: Vec<u32> = (0..rows).collect();
    let scores: Vec<i64> =
        (0..labels.len()).map(|i| parts.iter().map(|part| part.scores[i]).sum()).collect();
    let spec = VerticalSpec { labels: LabelPrivacy::Visible, ..joined.spec.clone() };
    let classes = labels.iter().map(|y| u32::try_from(*y)).collect::<Result<_, _>>()?;
    let targets = quorate_protocols::fedv::linear::Targets::Classes(classes);
    let rounded = residuals(&spec, &targets, &numbers, &scores, &Secret::new([0; 32]))?;
    let (mut host, mut out) = (exact.host.iter(), [0f64; 2]);
    let mut guest = exact.guest.iter();
    for (at, (part, paper)) in parts.iter().zip(paper).enumerate() {
        let served = own_products(&part.features, &numbers, &rounded);
        for (served, paper) in served.iter().zip(paper) {
            let exact = if at == holder { guest.next() } else { host.next() };
            let exact = *exact.context("a gradient is missing")? as f64 / 2f64.powi(54);
            let of = [*served as f64 / 2f64.powi(32), *paper as f64 / 2f64.powi(16)];
            for (out, of) in out.iter_mut().zip(of) {
                *out = out.max((of - exact).abs() / f64::from(rows));
            }
        }
    }
    // A residual is off by half of its last place, a feature is 8 at most; the paper's features are off, too.
    ensure!(out[0] <= 8.0 * 2f64.powi(-17), "the served gradients are far off: {}", out[0]);
    ensure!(out[1] <= 10.0 * 2f64.powi(-8), "the paper's gradients are far off: {}", out[1]);
    Ok(out)
}

fn compare(full: bool) -> Result<Report> {
    let batch = if full { 256 } else { 48 };
    let mut joined = Joined::credit_default(batch)?;
    if !full {
        joined.count = 4 * batch;
    }
    let holder = joined.holder()?;
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    joined.spec.static_features = true;
    let stored = served(&joined)?;
    joined.spec.static_features = false;
    let served = served(&joined)?;
    let labels = joined.labels(&served.first);
    let parts = parts(&joined, &served.weights, &served.first);

    let setup = paper::Setup::new(parts.len(), labels.len(), rng)?;
    let own: Vec<paper::Part<'_>> = parts
        .iter()
        .map(|part| paper::Part { features: &part.features, scores: &part.scores })
        .collect();
    let (scores, gradients, cost) = paper::run(&setup, &own, holder, &labels, rng)?;
    let plain = paper::plain(&own, holder, &labels);
    ensure!(
        (&scores, &gradients) == (&plain.0, &plain.1),
        "the paper's scheme opens other numbers than plain arithmetic"
    );
    let published = cost.summary("fedv-published");

    let (public, private) = single::from_primes(BITS, INSECURE_TEST_PRIMES, rng)?;
    let keys = (&public, &private);
    let (exact, baseline) = baseline(keys, &parts, holder, &labels, rng)?;
    let gradient_distance = distances(&joined, &parts, &labels, &exact, &gradients)?;

    let features = |own: bool| -> usize {
        let blocks = joined.spec.blocks.iter().filter(|b| (b.party == joined.spec.holder) == own);
        blocks.map(Block::features).sum::<u64>().try_into().unwrap_or(usize::MAX)
    };
    let widths = [features(true), features(false)];
    let even = break_even(keys, widths[0], batch, full, rng)?;
    let less = |ours: f64, theirs: f64| ((1.0 - ours / theirs) * 1e4).round() / 1e2;
    let ours = &served.summary;
    Ok(Report {
        data: "credit_default",
        rows_per_batch: batch,
        features: widths,
        clock: "thread CPU time",
        baseline_bits: BITS,
        break_even_width: (even.width * 10.0).round() / 10.0,
        break_even_measured: even.measured,
        fewer_bytes_percent: less(ours.bytes_per_batch, baseline.bytes_per_batch),
        less_time_percent: less(ours.ms_per_batch, baseline.ms_per_batch),
        less_critical_time_percent: less(
            ours.critical_ms_per_batch,
            baseline.critical_ms_per_batch,
        ),
        fewer_bytes_than_paper_percent: less(ours.bytes_per_batch, published.bytes_per_batch),
        less_time_than_paper_percent: less(ours.ms_per_batch, published.ms_per_batch),
        paper_bounds: [paper::SCORE_BOUND, paper::PRODUCT_BOUND],
        gradient_distance,
        exact: true,
        static_bytes_once: stored.stored,
        fewer_bytes_static_percent: less(stored.summary.bytes_per_batch, baseline.bytes_per_batch),
        schemes: vec![served.summary, stored.summary, published, baseline],
    })
}

fn main() -> Result<()> {
    let (mut full, mut json, mut out) = (false, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => full = true,
            "--json" => json = true,
            "--out" => out = Some(arguments.next().context("--out needs a file")?),
            // A filter, as the other benches take it.
            name if !name.starts_with("--") => {
                if !"vertical_compare".contains(name) {
                    return Ok(());
                }
            }
            "--test" => full = false,
            other => bail!("unknown option {other}: --json, --out FILE"),
        }
    }
    let report = compare(full)?;
    let text = serde_json::to_string(&report)?;
    if let Some(file) = out {
        std::fs::write(&file, text.clone() + "\n")
            .with_context(|| format!("cannot write {file}"))?;
    }
    let mut to = std::io::stdout().lock();
    if json {
        writeln!(to, "{text}")?;
        return Ok(());
    }
    let [holder, passive] = report.features;
    writeln!(
        to,
        "{} rows of {}, {holder} + {passive} features",
        report.rows_per_batch, report.data
    )?;
    for scheme in &report.schemes {
        writeln!(
            to,
            "  {:<16} {:>10} bytes {:>10.3} ms of all roles {:>10.3} ms one after another",
            scheme.name, scheme.bytes_per_batch, scheme.ms_per_batch, scheme.critical_ms_per_batch
        )?;
    }
    writeln!(
        to,
        "  served against {} bits of Paillier: {} % fewer bytes, {} % less time; bytes break even at {} \
         passive features",
        report.baseline_bits,
        report.fewer_bytes_percent,
        report.less_time_percent,
        report.break_even_width
    )?;
    Ok(())
}
