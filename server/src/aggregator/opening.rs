//! Opening a frozen sum: ciphertexts minus functional keys, the checks on what comes out, and the
//! model that follows from it.

use std::sync::Arc;

use anyhow::Context as _;
use quorate_client::bulk::{Bulk, BulkReader};
use quorate_client::engine::{
    EngineError, advance, bulk_info, bulk_ref, open_to_bulk, read_sum, sum_context,
};
use quorate_client::store::{Batch, Store};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::SchemeError;
use quorate_protocols::job::Manifest;
use quorate_protocols::model::{ModelState, model_after};
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum, Opened};
use quorate_protocols::round::messages::BulkRef;
use quorate_protocols::workload::Workload;

use super::authorities::{FIRST_DELAY, MAX_DELAY};
use super::results::{RESULT, reader as result_reader, result_key};
use super::runner::{KEY, handle, record_key};
use super::submissions::{UPLOAD, split_record, upload_key};
use super::{Aggregator, key_space, result_space, upload_space};

/// Opens a sum and hands it to the machine; repeats after failures of this side.
pub(super) async fn open(aggregator: &Aggregator, job: Hash, work: OpenSum) {
    let mut delay = FIRST_DELAY;
    while let Err(error) = try_open(aggregator, job, &work).await {
        tracing::error!(%job, round = work.round, error = format!("{error:#}"), "opening failed");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

async fn try_open(aggregator: &Aggregator, job: Hash, work: &OpenSum) -> anyhow::Result<()> {
    let store = aggregator.driver.store();
    let look = |machine: &AggregatorJob| {
        let members: Vec<usize> = machine.results().iter().map(|r| r.members.len()).collect();
        (Arc::new(machine.manifest().clone()), members)
    };
    let (manifest, before) = aggregator.driver.read(&job, look).await?;
    let label = work.label;
    let (outcome, rows) = match compute(store, &job, &manifest, &before, work).await {
        Ok((sum, state)) => {
            let opened = Opened { sum: bulk_ref(&sum), state };
            let key = result_key(&job, work.round);
            (Ok(opened), Batch::new().put_record(RESULT, &key, sum.to_record()))
        }
        Err(error) => {
            let refusal = match error.downcast::<EngineError>() {
                Ok(error) => {
                    let culprit = culprit(work, &error);
                    culprit.into_iter().fold(error.into_refusal()?, Refusal::blaming)
                }
                Err(other) => return Err(other),
            };
            aggregator.driver.log_refusal(&job, &refusal).await?;
            store.blobs().delete_namespace(&result_space(&job, work.round)).await?;
            (Err(refusal), Batch::new())
        }
    };
    handle(aggregator, job, Event::Opened { label, outcome }, rows).await?;
    Ok(())
}

/// Who signed the bytes that are no elements of the scheme.
fn culprit(work: &OpenSum, error: &EngineError) -> Option<Culprit> {
    let EngineError::Message { index, error: SchemeError::Malformed(_) } = error else {
        return None;
    };
    let party = work.ciphertexts.get(*index).map(|(party, _)| Culprit::Party(party.clone()));
    party.or_else(|| {
        let (authority, _) = work.keys.get(index.checked_sub(work.ciphertexts.len())?)?;
        Some(Culprit::Authority(authority.clone()))
    })
}

/// The sum's object and the hash of the model state after it.
async fn compute(
    store: &Store,
    job: &Hash,
    manifest: &Arc<Manifest>,
    before: &[usize],
    work: &OpenSum,
) -> anyhow::Result<(Bulk, Hash)> {
    let mut ciphertexts = Vec::with_capacity(work.ciphertexts.len());
    for (party, reference) in &work.ciphertexts {
        let record = store.get_record(UPLOAD, &upload_key(job, &work.label, party)).await?;
        let record = record.with_context(|| format!("no upload of {party} is stored"))?;
        let (_, bulk) =
            split_record(&record).map_err(|problem| anyhow::anyhow!("{}", problem.code()))?;
        let space = upload_space(job, &work.label, party);
        ciphertexts.push(stored(store, &space, bulk, reference)?);
    }
    let mut keys = Vec::with_capacity(work.keys.len());
    for (authority, reference) in &work.keys {
        let record = store.get_record(KEY, &record_key(job, &work.label, authority)).await?;
        let record = record.with_context(|| format!("no key of {authority} is stored"))?;
        let space = key_space(job, &work.label);
        keys.push(stored(store, &space, Bulk::from_record(&record)?, reference)?);
    }
    let scheme = manifest.sum_scheme()?;
    let context = sum_context(manifest, None, work.round, work.label)?;
    let space = result_space(job, work.round);
    let output = (store.blobs(), space.as_str());
    let sum = open_to_bulk(scheme, context, &ciphertexts, &keys, &[], output).await?;
    let state = state_before(store, job, manifest, before, work.round).await?;
    let reader = BulkReader::new(store.blobs(), &space, sum.clone());
    let next = advance(manifest, &state, work.round, work.ciphertexts.len(), &reader).await?;
    Ok((sum, next.hash))
}

fn stored(
    store: &Store,
    space: &str,
    bulk: Bulk,
    reference: &BulkRef,
) -> anyhow::Result<BulkReader> {
    anyhow::ensure!(bulk.info() == bulk_info(reference), "another object is stored");
    Ok(BulkReader::new(store.blobs(), space, bulk))
}

/// The model state before a round: it follows from the opened moments and the last opened sum, or
/// from all opened sums, so nothing else is kept of it.
async fn state_before(
    store: &Store,
    job: &Hash,
    manifest: &Arc<Manifest>,
    members: &[usize],
    round: u32,
) -> anyhow::Result<Arc<ModelState>> {
    let Some(last) =
        round.checked_sub(1).filter(|_| !matches!(manifest.workload, Workload::Sum { .. }))
    else {
        return Ok(Arc::new(ModelState::of_job(manifest)));
    };
    if manifest.workload.needs_every_sum() {
        let mut state = ModelState::of_job(manifest);
        for earlier in 0..round {
            let sum = opened(store, job, manifest, members, earlier).await?;
            let manifest = Arc::clone(manifest);
            let step = move || state.advance(&manifest.workload, earlier, &sum);
            state = tokio::task::spawn_blocking(step)
                .await?
                .map_err(|e| EngineError::from(Refusal::new(Code::CheckSlot, e.to_string())))?;
        }
        return Ok(Arc::new(state));
    }
    let moments = opened(store, job, manifest, members, 0).await?;
    let last_sum = opened(store, job, manifest, members, last).await?;
    let (manifest, job) = (Arc::clone(manifest), *job);
    let state = tokio::task::spawn_blocking(move || {
        model_after(&manifest.workload, &manifest.code, &job, last, &moments, &last_sum)
    })
    .await?
    .map_err(|error| EngineError::from(Refusal::new(Code::CheckSlot, error.to_string())))?;
    Ok(Arc::new(state))
}

/// The opened sum of a round before.
async fn opened(
    store: &Store,
    job: &Hash,
    manifest: &Arc<Manifest>,
    members: &[usize],
    round: u32,
) -> anyhow::Result<OpenedSum> {
    let reader = result_reader(store, job, round)
        .await
        .map_err(|problem| anyhow::anyhow!("round {round}: {}", problem.code()))?;
    let members = *members.get(usize::try_from(round)?).context("a result is missing")?;
    Ok(read_sum(manifest, round, members, &reader).await?)
}
