//! A vertical job through real services: rows aligned, a model trained over columns of three parties, rows
//! without a label scored; with services and parties that die on the way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use quorate_client::api::JobSpec;
use quorate_client::learn::data::Table;
use quorate_client::learn::metrics::auc;
use quorate_client::party::{PartyError, VerticalFinished};
use quorate_client::vertical::block::features;
use quorate_crypto::merkle::Hash;
use quorate_protocols::fedv::linear::FEATURE_BITS;
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::workload::{
    Block, Column, ColumnKind, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec, Workload,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use crate::harness::{PATIENCE, World, name, until};

const PARTIES: [&str; 3] = ["bank", "bureau", "network"];
/// Rows that all parties hold, and those of them without a label.
const COMMON: u32 = 300;
const UNLABELLED: u32 = 60;

fn spec(epochs: u32, labels: LabelPrivacy) -> VerticalSpec {
    let number = |name: &str| Column {
        name: name.to_owned(),
        kind: ColumnKind::Numeric { offset: 0.0, scale_log2: 3 },
    };
    let block = |party: &str, columns: &[&str]| Block {
        party: name(party),
        columns: columns.iter().map(|column| number(column)).collect(),
    };
    VerticalSpec {
        blocks: vec![
            block("bank", &["limit"]),
            block("bureau", &["late", "loans"]),
            block("network", &["spent", "paid", "noise"]),
        ],
        holder: name("bank"),
        target: "default".to_owned(),
        target_kind: TargetKind::Classes(vec!["no".to_owned(), "yes".to_owned()]),
        identifiers: vec!["id".to_owned()],
        model: VerticalModel::Logistic { taylor: false },
        l2: 1e-3,
        selection: 0.0,
        epochs,
        batch: 60,
        learning_rate: 0.5,
        momentum: 0.5,
        labels,
        static_features: false,
        lone_changes: false,
        max_rows: 1000,
    }
}

fn value(id: u32, column: u64) -> f64 {
    let mut rng = ChaCha20Rng::seed_from_u64(u64::from(id) * 100 + column);
    f64::from(rng.next_u32()) / f64::from(u32::MAX) * 4.0 - 2.0
}

/// The truth about a row: what the parties' columns explain together.
fn defaults(id: u32) -> bool {
    value(id, 0) + 2.0 * value(id, 1) - value(id, 2) + value(id, 3) > 0.0
}

/// A party's file: the common rows and 20 of its own, in an order of its own, one of them twice.
fn file(party: usize) -> Result<Table> {
    let own = 1000 * (u32::try_from(party)? + 1);
    let mut ids: Vec<u32> = (0..COMMON).chain(own..own + 20).chain([own]).collect();
    let mut rng = ChaCha20Rng::seed_from_u64(party as u64);
    for last in (1..ids.len()).rev() {
        ids.swap(last, rng.next_u32() as usize % (last + 1));
    }
    let mut text =
        ["id,limit,default\n", "id,late,loans\n", "id,spent,paid,noise\n"][party].to_owned();
    for id in ids {
        // Each party spells identifiers its own way.
        let written = if party == 1 { format!(" C{id:05}") } else { format!("c{id:05}") };
        match party {
            0 => {
                let label = match (id < UNLABELLED, defaults(id)) {
                    (true, _) => "",
                    (false, true) => "yes",
                    (false, false) => "no",
                };
                writeln!(text, "{written},{},{label}", value(id, 0))?;
            }
            1 => writeln!(text, "{written},{},{}", value(id, 1), value(id, 2))?,
            _ => writeln!(text, "{written},{},{},{}", value(id, 3), value(id, 4), value(id, 5))?,
        }
    }
    Ok(Table::parse(text.as_bytes())?)
}

type Running = JoinHandle<Result<VerticalFinished, PartyError>>;

async fn start(world: &World, job: Hash, party: usize) -> Result<Running> {
    let connected = world.party(PARTIES[party]).await?;
    let table = file(party)?;
    Ok(tokio::spawn(async move { connected.run_vertical(job, table).await }))
}

async fn create(world: &World, spec: VerticalSpec) -> Result<Hash> {
    let job = JobSpec {
        grace_seconds: 60.0,
        collect_seconds: 60.0,
        ..JobSpec::of_workload("vertical", 3, Workload::Vertical(spec))
    };
    world.create(&job).await
}

/// What the label holder scored is the sum over all parties' final weights, to the bit, and ranks the rows
/// it has no label for.
fn check(spec: &VerticalSpec, ended: &BTreeMap<usize, VerticalFinished>) -> Result<f64> {
    let holder = &ended[&0];
    ensure!(holder.rows.len() == COMMON as usize, "{} common rows", holder.rows.len());
    ensure!(holder.scores.len() == UNLABELLED as usize, "{} scores", holder.scores.len());
    let mut sums: BTreeMap<u32, i128> = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for (party, finished) in ended {
        let table = file(*party)?;
        let rows: Vec<usize> = finished.rows.iter().map(|row| *row as usize).collect();
        let block = spec.block(&name(PARTIES[*party])).context("a block")?;
        let features = features(&table, block, &rows, &vec![true; rows.len()])?;
        for (position, row) in (0u32..).zip(&rows) {
            // Every party has the same row at every position.
            let id = table.text(*row, 0).trim().to_lowercase();
            let known = ids.entry(position).or_insert_with(|| id.clone());
            ensure!(*known == id, "position {position} is {known} and {id}");
            let own = features.row(position).iter().zip(finished.weights.fixed());
            let sum: i128 = own.map(|(x, w)| i128::from(*x) * i128::from(*w)).sum();
            let bias = finished.weights.bias().first().copied().unwrap_or(0);
            *sums.entry(position).or_default() += sum + (i128::from(bias) << FEATURE_BITS);
        }
    }
    let (mut scores, mut truth) = (Vec::new(), Vec::new());
    for (position, score) in &holder.scores {
        ensure!(i128::from(score[0]) == sums[position], "the score of position {position}");
        let id: u32 = ids[position].trim_start_matches('c').parse()?;
        ensure!(id < UNLABELLED, "{id} has a label");
        scores.push(score[0] as f64);
        truth.push(defaults(id));
    }
    Ok(auc(&scores, &truth))
}

async fn end(running: Vec<(usize, Running)>) -> Result<BTreeMap<usize, VerticalFinished>> {
    let mut ended = BTreeMap::new();
    for (party, task) in running {
        let finished = tokio::time::timeout(PATIENCE, task).await???;
        ensure!(finished.outcome == Outcome::Done, "{:?}", finished.outcome);
        ended.insert(party, finished);
    }
    Ok(ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_parties_train_over_their_columns_and_score_rows() -> Result<()> {
    let world = World::start().await?;
    let spec = spec(3, LabelPrivacy::Visible);
    let job = create(&world, spec.clone()).await?;
    let mut running = Vec::new();
    for party in 0..3 {
        running.push((party, start(&world, job, party).await?));
    }
    let ended = end(running).await?;
    let area = check(&spec, &ended)?;
    assert!(area > 0.95, "AUC {area}");
    // 240 rows with a label are four batches of 60 an epoch; 60 rows without are one.
    assert_eq!(world.status(job).await?.opened, 13);
    assert_eq!((ended[&1].batches, ended[&2].batches), (12, 12));
    assert_eq!(world.count("batch.burned").await?, 0);
    // Nothing of the ciphertexts is left.
    let blobs = world.aggregator_blobs().join(job.to_string());
    until(async || !blobs.join("up").exists()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_parties_die_and_the_scores_are_still_exact() -> Result<()> {
    let mut world = World::start().await?;
    let noise = LabelPrivacy::Noise { epsilon: 8.0, delta: 1e-5 };
    let spec = VerticalSpec { static_features: true, ..spec(3, noise) };
    let job = create(&world, spec.clone()).await?;
    let mut running = Vec::new();
    for party in 0..3 {
        running.push((party, start(&world, job, party).await?));
    }
    for (opened, victim) in [(1, 1), (2, 0), (4, 2), (6, 1)] {
        until(async || world.status(job).await.is_ok_and(|status| status.opened >= opened)).await?;
        let (_, task) = running.remove(victim);
        task.abort();
        let _ = task.await;
        if opened == 2 {
            world.aggregator.restart().await?;
        }
        if opened == 4 {
            world.authorities[1].restart().await?;
        }
        let again = start(&world, job, victim).await?;
        running.insert(victim, (victim, again));
    }
    let ended = end(running).await?;
    check(&spec, &ended)?;
    assert_eq!(world.status(job).await?.opened, 13);
    Ok(())
}
