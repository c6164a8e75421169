//! `quorate job result`: what a job opened, checked against its manifest and the result chain.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use quorate_client::api::{JobStatus, PartyView};
use quorate_client::bulk::{Transfer, download};
use quorate_client::engine::{bulk_info, read_sum};
use quorate_client::store::Blobs;
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::{JobPackage, Manifest};
use quorate_protocols::model::{ModelState, Progress, TABLE_BITS, mean_loss, model_after};
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::policy::Mechanism;
use quorate_protocols::policy::noise::round_scale;
use quorate_protocols::round::messages::ResultRecord;
use quorate_protocols::wire::Verified;
use quorate_protocols::workload::{Purpose, Workload};
use serde_json::{Value, json};

use crate::commands::client::Client;

/// Values printed for people; `--json` has all.
const SHOWN: usize = 16;

/// A folder for downloads that is removed with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "the download folder stays behind");
        }
    }
}

pub(super) async fn result(
    client: &Client,
    job: &JobStatus,
    round: Option<u32>,
    json: bool,
) -> anyhow::Result<()> {
    let package: JobPackage = client.packed(&format!("/v1/jobs/{}/package", job.job)).await?;
    package.verify()?;
    let manifest = Arc::new(package.manifest);
    if manifest.is_vertical() {
        bail!(
            "a vertical job opens nothing to the aggregator: each party keeps its weights, and the \
             label holder writes the scores (`quorate party --scores FILE.csv`)"
        );
    }
    if manifest.is_payments() {
        bail!(
            "a payments job opens nothing to the aggregator: counts and scores are the network's \
             (`quorate party --scores FILE.csv`)"
        );
    }
    ensure!(manifest.hash() == Hash::from(job.job), "the aggregator sent another job's manifest");
    let chain = chain(client, &manifest).await?;
    let scratch = Scratch(std::env::temp_dir().join(format!("quorate-{}", uuid()?)));
    let blobs = Blobs::open(scratch.0.clone()).await?;
    let last = chain.len().checked_sub(1).and_then(|last| u32::try_from(last).ok());
    let Some(last) = last else {
        bail!("no round was opened yet; `quorate job watch` follows the job");
    };
    let mut printed = match &manifest.workload {
        Workload::Sum { .. } => {
            let round = round.unwrap_or(last);
            let sum = fetch(client, &blobs, &manifest, &chain, round).await?;
            let record = record(&chain, round)?;
            json!({
                "job": job.job, "round": round, "attempt": record.attempt,
                "members": record.members, "rows": sum.rows, "sum": sum.body,
            })
        }
        workload => {
            let round = round.unwrap_or(last);
            let sum = fetch(client, &blobs, &manifest, &chain, round).await?;
            let state = if workload.needs_every_sum() {
                let mut state = ModelState::of_job(&manifest);
                for earlier in 0..round {
                    let sum = fetch(client, &blobs, &manifest, &chain, earlier).await?;
                    state = state.advance(workload, earlier, &sum)?;
                }
                state.advance(workload, round, &sum)?
            } else {
                let moments = fetch(client, &blobs, &manifest, &chain, 0).await?;
                let hash = manifest.hash();
                model_after(workload, &manifest.code, &hash, round, &moments, &sum)?
            };
            model(job, &manifest, round, &record(&chain, round)?.members.len(), &state, &sum)?
        }
    };
    drop(scratch);
    let round = round.unwrap_or(last);
    let members = record(&chain, round)?.members.len();
    let sigma = sigma_total(&manifest, round, members);
    if let (Some(sigma), Some(fields)) = (sigma, printed.as_object_mut()) {
        fields.insert("sigma_total".to_owned(), sigma.into());
    }
    if json {
        say!("{printed}");
    } else {
        print_short(&printed);
    }
    Ok(())
}

/// Standard deviation of the noise in each value of a sum of `members` parties, in units of the
/// values: h parts are what its privacy rests on, and every member added one.
fn sigma_total(manifest: &Manifest, round: u32, members: usize) -> Option<f64> {
    let noise = manifest.privacy.noise()?;
    let parts = manifest.noise_divisor().max(1);
    let scale = match &manifest.workload {
        // Steps are scaled to whole numbers before they are summed.
        Workload::Train(_) => noise.multiplier * noise.clip,
        workload => round_scale(workload, noise, round, parts),
    };
    let sigma = match noise.mechanism {
        Mechanism::Gaussian => scale,
        // Of a Laplace variable of this scale.
        Mechanism::Laplace => scale * std::f64::consts::SQRT_2,
    };
    Some(sigma * (members as f64 / f64::from(parts)).sqrt())
}

fn uuid() -> anyhow::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("no randomness")?;
    Ok(hex::encode(random))
}

/// All result records, each signed by the aggregator and linked to the one before.
async fn chain(
    client: &Client,
    manifest: &Manifest,
) -> anyhow::Result<Vec<Verified<ResultRecord>>> {
    let mut chain: Vec<Verified<ResultRecord>> = Vec::new();
    loop {
        let path = format!("/v1/jobs/{}/view?results={}", manifest.hash(), chain.len());
        let view: PartyView = client.packed(&path).await?;
        if view.results.is_empty() {
            return Ok(chain);
        }
        for signed in view.results {
            let record = signed.verify(&manifest.aggregator)?;
            let before = chain.last().map_or(Hash([0; 32]), Verified::hash);
            ensure!(
                record.previous == before && record.manifest == manifest.hash(),
                "round {} is not the next link of the result chain",
                record.round
            );
            chain.push(record);
        }
    }
}

fn record(chain: &[Verified<ResultRecord>], round: u32) -> anyhow::Result<&Verified<ResultRecord>> {
    usize::try_from(round)
        .ok()
        .and_then(|index| chain.get(index))
        .with_context(|| format!("round {round} is not opened; {} rounds are", chain.len()))
}

async fn fetch(
    client: &Client,
    blobs: &Blobs,
    manifest: &Arc<Manifest>,
    chain: &[Verified<ResultRecord>],
    round: u32,
) -> anyhow::Result<OpenedSum> {
    let record = record(chain, round)?;
    let base = client.url(&format!("/v1/jobs/{}/results/{round}", manifest.hash()));
    let info = bulk_info(&record.sum);
    let space = format!("round{round}");
    let reader = download(client.http(), &base, &info, blobs, &space, &Transfer::default()).await?;
    Ok(read_sum(manifest, round, record.members.len(), &reader).await?)
}

fn model(
    job: &JobStatus,
    manifest: &Manifest,
    round: u32,
    members: &usize,
    state: &ModelState,
    sum: &OpenedSum,
) -> anyhow::Result<Value> {
    if let Progress::Tree(tree) = &state.progress {
        return Ok(json!({
            "job": job.job, "round": round, "members": members,
            "model_hash": state.hash().to_string(), "tree": tree,
        }));
    }
    if matches!(manifest.workload, Workload::Bayes(_)) {
        return Ok(json!({
            "job": job.job, "round": round, "members": members,
            "model_hash": state.hash().to_string(), "counts": state.params,
        }));
    }
    let params: Vec<f64> = state.params.iter().map(|code| manifest.code.decode(*code)).collect();
    let averaged = manifest.workload.purpose(round) == Some(Purpose::Train);
    let loss = if averaged { mean_loss(sum, &manifest.code) } else { None };
    // In units of each column's scale: u = (x - offset) / 2^scale_log2.
    let scale = 2f64.powi(-TABLE_BITS.cast_signed());
    let moments = state.moments.as_ref().map(|table| {
        let columns = table.columns.iter();
        let columns: Vec<Value> = columns
            .map(|m| json!({ "mean": m.mean as f64 * scale, "std": m.std as f64 * scale }))
            .collect();
        json!({ "rows": table.rows, "unit": "scaled column", "columns": columns })
    });
    Ok(json!({
        "job": job.job, "round": round, "members": members, "rows": sum.rows,
        "loss_before_round": loss, "model_hash": state.hash().to_string(),
        "moments": moments, "params": params,
    }))
}

fn print_short(value: &Value) {
    let Some(fields) = value.as_object() else {
        return;
    };
    for (name, field) in fields {
        match field.as_array() {
            Some(list) if list.len() > SHOWN => {
                let head: Vec<String> = list.iter().take(SHOWN).map(Value::to_string).collect();
                say!("{name}: [{}, ...] ({} values; all with --json)", head.join(", "), list.len());
            }
            _ => say!("{name}: {field}"),
        }
    }
}
