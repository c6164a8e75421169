//! Opening a frozen sum: ciphertexts minus functional keys, or decrypted with partial decryptions; the
//! checks on what comes out, and the model that follows from it.

use std::sync::Arc;

use anyhow::Context as _;
use quorate_client::bulk::{Bulk, BulkReader};
use quorate_client::engine::{
    Advanced, EngineError, advance, bulk_info, bulk_ref, open_to_bulk, sum_context,
};
use quorate_client::store::{Batch, Store};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::SchemeError;
use quorate_protocols::job::Manifest;
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum, Opened};
use quorate_protocols::round::keying::JobKey;
use quorate_protocols::round::messages::BulkRef;
use quorate_protocols::wire::Name;

use super::authorities::{FIRST_DELAY, MAX_DELAY};
use super::results::{RESULT, result_key};
use super::runner::{KEY, handle, record_key};
use super::shares::PARTIAL;
use super::submissions::{UPLOAD, split_record, upload_key};
use super::{Aggregator, key_space, result_space, states, upload_space};
use crate::driver::culprit_text;

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
        (Arc::new(machine.manifest().clone()), machine.job_key().cloned())
    };
    let (manifest, key) = aggregator.driver.read(&job, look).await?;
    let label = work.label;
    let (outcome, rows) = match compute(store, &job, &manifest, key.as_ref(), work).await {
        Ok((sum, next)) => {
            let opened = Opened { sum: bulk_ref(&sum), state: next.hash };
            let name = result_key(&job, work.round);
            let rows = Batch::new().put_record(RESULT, &name, sum.to_record());
            let state = states::keep(store, &job, &manifest, work.round, &next.state).await?;
            (Ok(opened), rows.and(state))
        }
        Err(error) => {
            let refusal = match error.downcast::<EngineError>() {
                Ok(error) => refusal(&manifest, work, error)?,
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

/// What an error of opening says of the messages that were opened, if it is theirs.
fn refusal(
    manifest: &Manifest,
    work: &OpenSum,
    error: EngineError,
) -> Result<Refusal, EngineError> {
    if !manifest.is_threshold() {
        let culprit = culprit(work, &error);
        return Ok(culprit.into_iter().fold(error.into_refusal()?, Refusal::blaming));
    }
    match error {
        EngineError::Message { index, error } => {
            let Some(culprit) = contributor(work, index) else {
                return Err(EngineError::Message { index, error });
            };
            let code =
                if index < work.ciphertexts.len() { Code::BadCiphertext } else { Code::BadShare };
            let detail = format!("{}: {error}", culprit_text(&culprit));
            Ok(Refusal::new(code, detail).blaming(culprit))
        }
        EngineError::Scheme(error @ SchemeError::OutOfRange(_)) => {
            Ok(Refusal::new(Code::Overflow, error.to_string()))
        }
        other => other.into_refusal(),
    }
}

/// Who signed the bytes that are no elements of the scheme.
fn culprit(work: &OpenSum, error: &EngineError) -> Option<Culprit> {
    match error {
        EngineError::Message { index, error: SchemeError::Malformed(_) } => {
            contributor(work, *index)
        }
        _ => None,
    }
}

/// Who signed a message, by its position: ciphertexts, keys, partial decryptions.
fn contributor(work: &OpenSum, index: usize) -> Option<Culprit> {
    let parties = |list: &[(Name, BulkRef)]| -> Vec<Culprit> {
        list.iter().map(|(name, _)| Culprit::Party(name.clone())).collect()
    };
    let keys = work.keys.iter().map(|(name, _)| Culprit::Authority(name.clone()));
    parties(&work.ciphertexts).into_iter().chain(keys).chain(parties(&work.partials)).nth(index)
}

/// The sum's object and the model state after it.
async fn compute(
    store: &Store,
    job: &Hash,
    manifest: &Arc<Manifest>,
    key: Option<&JobKey>,
    work: &OpenSum,
) -> anyhow::Result<(Bulk, Advanced)> {
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
    let mut partials = Vec::with_capacity(work.partials.len());
    for (holder, reference) in &work.partials {
        let record = store.get_record(PARTIAL, &record_key(job, &work.label, holder)).await?;
        let record = record.with_context(|| format!("no share of {holder} is stored"))?;
        let space = key_space(job, &work.label);
        partials.push(stored(store, &space, Bulk::from_record(&record)?, reference)?);
    }
    let scheme = manifest.sum_scheme()?;
    let context = sum_context(manifest, key, work.round, work.label)?;
    let space = result_space(job, work.round);
    let output = (store.blobs(), space.as_str());
    let sum = open_to_bulk(scheme, context, &ciphertexts, &keys, &partials, output).await?;
    let state = states::before(store, job, manifest, work.round).await?;
    let reader = BulkReader::new(store.blobs(), &space, sum.clone());
    let next = advance(manifest, &state, work.round, work.ciphertexts.len(), &reader).await?;
    Ok((sum, next))
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
