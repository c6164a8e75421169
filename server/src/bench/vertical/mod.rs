//! `quorate bench vertical`: what one epoch of vertical training costs, by role and link.

pub mod local;
mod rows;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Instant;

use anyhow::ensure;
use quorate_protocols::fedv::linear::Weights;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{
    Block, Column, ColumnKind, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec,
};
use serde::Serialize;

use super::{peak_rss_bytes, round};
use local::{Costs, Link, LocalJob, Plan, Rows};
use rows::{Generated, Resident};

/// Measure one epoch of vertical training on rows made up on the fly.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchVertical {
    /// Rows.
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u32,
    /// Columns of all parties together.
    #[arg(long, default_value_t = 60)]
    pub columns: u32,
    /// Parties, the label holder among them.
    #[arg(long, default_value_t = 3)]
    pub parties: u32,
    /// Rows of a batch: at least four times a passive party's columns.
    #[arg(long, default_value_t = 1024)]
    pub batch: u32,
    /// Classes of the target.
    #[arg(long, default_value_t = 2)]
    pub classes: u32,
    /// Authorities, all needed to open.
    #[arg(long, default_value_t = 1)]
    pub authorities: u32,
    /// epsilon of the label noise over the job; 0 for none.
    #[arg(long, default_value_t = 4.0)]
    pub label_epsilon: f64,
    /// Hold every party's rows in memory, as the SDK does, instead of making one batch's at a time.
    #[arg(long)]
    pub resident: bool,
    /// Seed of rows, keys and randomness.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The result. Names are stable.
#[derive(Debug, Serialize)]
struct Report {
    rows: u32,
    columns: Vec<u64>,
    parties: u32,
    batch: u32,
    outputs: usize,
    authorities: u32,
    label_epsilon: f64,
    resident: bool,
    seed: u64,
    clock: &'static str,
    batches: u32,
    rows_trained: u64,
    /// What the label holder's CPU time comes to.
    holder_rows_per_second: f64,
    /// All roles on this machine, rows being made included.
    wall_rows_per_second: f64,
    wall_seconds: f64,
    holder_ns_per_row: f64,
    /// Of one passive party.
    passive_ns_per_row: f64,
    /// Of one authority.
    authority_ns_per_row: f64,
    aggregator_ns_per_row: f64,
    ms_per_batch: f64,
    critical_ms_per_batch: f64,
    bytes_per_batch: f64,
    bytes_by_link: BTreeMap<Link, f64>,
    /// Joining, the alignment's messages, and those that mix the epoch's order.
    opening_ms: f64,
    opening_bytes: u64,
    peak_rss_bytes: Option<u64>,
    /// Of that, the rows of all parties: nothing unless they are held in memory.
    rows_in_memory_bytes: u64,
    /// And the order of the epoch at every party.
    order_bytes: u64,
    exact: bool,
}

/// Runs the bench and prints its report.
///
/// # Errors
/// A shape that no job may have, or weights that differ from plain training's.
pub fn run(args: &BenchVertical) -> anyhow::Result<()> {
    let report = measure(args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&mut out, &report)?;
    }
    ensure!(report.exact, "the weights differ from those of plain training");
    Ok(())
}

fn spec(args: &BenchVertical, columns: &[usize]) -> anyhow::Result<VerticalSpec> {
    let blocks = (0u32..).zip(columns).map(|(party, count)| {
        let column = |j: usize| Column {
            name: format!("column-{party}-{j}"),
            kind: ColumnKind::Numeric { offset: 0.0, scale_log2: 0 },
        };
        Ok(Block {
            party: Name::new(&format!("party-{party:02}"))?,
            columns: (0..*count).map(column).collect(),
        })
    });
    Ok(VerticalSpec {
        blocks: blocks.collect::<anyhow::Result<_>>()?,
        holder: Name::new("party-00")?,
        target: "target".into(),
        target_kind: TargetKind::Classes((0..args.classes).map(|c| format!("class-{c}")).collect()),
        identifiers: vec!["id".into()],
        model: VerticalModel::Logistic { taylor: false },
        l2: 1e-3,
        selection: 0.0,
        epochs: 1,
        batch: args.batch,
        learning_rate: 0.1,
        momentum: 0.5,
        labels: match args.label_epsilon {
            0.0 => LabelPrivacy::Visible,
            epsilon => LabelPrivacy::Noise { epsilon, delta: 1e-5 },
        },
        static_features: false,
        lone_changes: false,
        max_rows: args.rows.into(),
    })
}

fn measure(args: &BenchVertical) -> anyhow::Result<Report> {
    ensure!((3..=64).contains(&args.parties), "parties must be within 3..=64");
    ensure!(args.columns >= args.parties, "every party needs a column");
    let (parties, all) = (args.parties as usize, args.columns as usize);
    let columns: Vec<usize> =
        (0..parties).map(|party| all / parties + usize::from(party < all % parties)).collect();
    let spec = spec(args, &columns)?;
    let generated =
        Generated { columns: columns.clone(), classes: args.classes as usize, seed: args.seed };
    let resident = args.resident.then(|| Resident::new(&generated, args.rows));
    let rows: &dyn Rows = match &resident {
        Some(rows) => rows,
        None => &generated,
    };
    let plan = Plan {
        spec: spec.clone(),
        authorities: args.authorities as usize,
        rows: args.rows,
        seed: args.seed,
    };
    let mut job = LocalJob::open(&plan, rows)?;
    let opening = job.take_costs();
    let mut plain = job.weights();
    let (started, mut wall, mut batches, mut trained) = (Instant::now(), 0.0, 0u32, 0u64);
    loop {
        let start = Instant::now();
        let Some(numbers) = job.batch()? else { break };
        wall += start.elapsed().as_secs_f64();
        job.plain_batch(&mut plain, (0, batches), &numbers)?;
        batches += 1;
        trained += numbers.len() as u64;
        if batches.is_multiple_of(256) && started.elapsed().as_secs() >= 2 {
            eprintln!("bench vertical: {trained} of {} rows", args.rows);
        }
    }
    let start = Instant::now();
    job.finish()?;
    wall += start.elapsed().as_secs_f64();
    let exact = plain.iter().map(Weights::hash).eq(job.weights().iter().map(Weights::hash));
    let costs = job.take_costs();
    Ok(report(args, &spec, &opening, &costs, (batches, trained, wall), exact))
}

fn report(
    args: &BenchVertical,
    spec: &VerticalSpec,
    opening: &Costs,
    costs: &Costs,
    (batches, trained, wall): (u32, u64, f64),
    exact: bool,
) -> Report {
    let per_row = |ns: u64, roles: u32| round(ns as f64 / trained as f64 / f64::from(roles));
    let per_batch = |value: f64| round(value / f64::from(batches));
    let whole: u64 = spec.blocks.iter().map(Block::features).sum();
    Report {
        rows: args.rows,
        columns: spec.blocks.iter().map(Block::features).collect(),
        parties: args.parties,
        batch: args.batch,
        outputs: spec.outputs(),
        authorities: args.authorities,
        label_epsilon: args.label_epsilon,
        resident: args.resident,
        seed: args.seed,
        clock: "thread CPU time",
        batches,
        rows_trained: trained,
        holder_rows_per_second: (trained as f64 / (costs.holder_ns as f64 / 1e9)).round(),
        wall_rows_per_second: (trained as f64 / wall).round(),
        wall_seconds: round(wall),
        holder_ns_per_row: per_row(costs.holder_ns, 1),
        passive_ns_per_row: per_row(costs.passive_ns, args.parties - 1),
        authority_ns_per_row: per_row(costs.authority_ns, args.authorities),
        aggregator_ns_per_row: per_row(costs.aggregator_ns, 1),
        ms_per_batch: per_batch(costs.total_ns() as f64 / 1e6),
        critical_ms_per_batch: per_batch(costs.critical_ns as f64 / 1e6),
        bytes_per_batch: per_batch(costs.total_bytes() as f64),
        bytes_by_link: costs
            .bytes
            .iter()
            .map(|(link, bytes)| (*link, per_batch(*bytes as f64)))
            .collect(),
        opening_ms: round(opening.total_ns() as f64 / 1e6),
        opening_bytes: opening.total_bytes(),
        peak_rss_bytes: peak_rss_bytes(),
        rows_in_memory_bytes: if args.resident {
            u64::from(args.rows) * (whole * 4 + 4)
        } else {
            0
        },
        order_bytes: u64::from(args.rows) * 4 * u64::from(args.parties),
        exact,
    }
}

fn print(out: &mut impl std::io::Write, report: &Report) -> std::io::Result<()> {
    writeln!(
        out,
        "vertical: {} rows x {:?} columns, batches of {}, {} outputs, {} authorities, {}",
        report.rows, report.columns, report.batch, report.outputs, report.authorities, report.clock
    )?;
    for (what, value, unit) in [
        ("label holder", report.holder_ns_per_row, "ns a row"),
        ("passive party", report.passive_ns_per_row, "ns a row"),
        ("authority", report.authority_ns_per_row, "ns a row"),
        ("aggregator", report.aggregator_ns_per_row, "ns a row"),
        ("label holder", report.holder_rows_per_second, "rows a second"),
        ("all roles here", report.wall_rows_per_second, "rows a second"),
        ("all roles", report.ms_per_batch, "ms a batch"),
        ("one after another", report.critical_ms_per_batch, "ms a batch"),
        ("all links", report.bytes_per_batch, "bytes a batch"),
    ] {
        writeln!(out, "  {what:<24} {value:>14} {unit}")?;
    }
    for (link, bytes) in &report.bytes_by_link {
        writeln!(out, "  {:<24} {bytes:>14} bytes a batch", format!("{link:?}"))?;
    }
    let peak = report.peak_rss_bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
    writeln!(out, "  {:<24} {peak:>14} bytes", "peak memory")?;
    writeln!(out, "  {:<24} {:>14} bytes", "of it rows", report.rows_in_memory_bytes)?;
    writeln!(out, "  {:<24} {:>14} bytes", "of it orders", report.order_bytes)?;
    writeln!(out, "  {:<24} {:>14}", "exact", report.exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rows: u32, columns: u32, parties: u32, batch: u32, classes: u32) -> BenchVertical {
        BenchVertical {
            rows,
            columns,
            parties,
            batch,
            classes,
            authorities: 2,
            label_epsilon: 4.0,
            resident: false,
            seed: 1,
            json: true,
        }
    }

    #[test]
    fn an_epoch_gives_the_weights_of_plain_training() {
        for (args, batches) in [
            (args(300, 10, 3, 64, 2), 4),
            (args(200, 9, 4, 50, 3), 4),
            (BenchVertical { resident: true, label_epsilon: 0.0, ..args(300, 10, 3, 64, 2) }, 4),
        ] {
            let report = measure(&args).unwrap();
            assert!(report.exact);
            assert_eq!(report.batches, batches);
            assert_eq!(report.rows_trained, u64::from(batches * args.batch));
        }
    }

    /// Other rows, other weights: a comparison that cannot fail shows nothing.
    #[test]
    fn plain_training_on_other_rows_differs() {
        let args = args(200, 9, 3, 64, 2);
        let columns = vec![3, 3, 3];
        let spec = spec(&args, &columns).unwrap();
        let rows = Generated { columns, classes: 2, seed: 1 };
        let plan = Plan { spec, authorities: 1, rows: 200, seed: 1 };
        let mut job = LocalJob::open(&plan, &rows).unwrap();
        let mut plain = job.weights();
        let mut numbers = job.batch().unwrap().unwrap();
        numbers[0] = numbers[1];
        job.plain_batch(&mut plain, (0, 0), &numbers).unwrap();
        let holder = job.holder();
        assert_ne!(plain[holder].hash(), job.weights()[holder].hash());
    }

    #[test]
    fn every_link_carries_what_the_protocol_says() {
        let report = measure(&args(300, 12, 3, 64, 2)).unwrap();
        let of = |link| report.bytes_by_link[&link];
        // Two passive parties with four columns each: 8 (s + 4 s + 4) bytes, with a header and a hash.
        let ciphertexts = f64::from(2 * 8 * (64 + 4 * 64 + 4));
        let up = of(Link::PassiveToAggregator) - ciphertexts;
        assert!((2.0 * 256.0..2.0 * 360.0).contains(&up), "{up}");
        assert!(of(Link::AggregatorToHolder) > ciphertexts);
        let asked = f64::from(2 * 2 * 8 * 64);
        assert!(of(Link::HolderToAggregator) > asked && of(Link::AggregatorToAuthority) > asked);
    }

    /// The label holder's contribution has one bit a row: it is shown once in an epoch.
    #[test]
    fn what_parties_look_at_does_not_grow_with_the_rows() {
        let seen = |count: u32| {
            let columns = vec![3, 3, 3];
            let spec = spec(&args(count, 9, 3, 64, 2), &columns).unwrap();
            let rows = Generated { columns, classes: 2, seed: 1 };
            let plan = Plan { spec, authorities: 1, rows: count, seed: 1 };
            let mut job = LocalJob::open(&plan, &rows).unwrap();
            [(); 2].map(|()| {
                job.batch().unwrap().unwrap();
                job.take_costs().bytes[&Link::AggregatorToPassive]
            })
        };
        let (few, many) = (seen(400), seen(4000));
        assert!(many[0] - few[0] > 2 * 3600 / 8, "{few:?}, {many:?}");
        assert!(many[1].abs_diff(few[1]) < 16, "{few:?}, {many:?}");
    }

    #[test]
    fn impossible_jobs_are_refused() {
        assert!(measure(&args(300, 10, 2, 64, 2)).is_err());
        assert!(measure(&args(300, 2, 3, 64, 2)).is_err());
        assert!(measure(&args(300, 60, 3, 64, 2)).is_err(), "fewer than four rows a column");
        assert!(measure(&args(30, 10, 3, 64, 2)).is_err(), "fewer rows than a batch");
        assert!(measure(&args(300, 10, 3, 64, 1)).is_err());
    }
}
