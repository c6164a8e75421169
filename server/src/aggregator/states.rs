//! The model state after each opened round, kept as an object: some workloads' states follow from
//! every sum before them.

use std::sync::Arc;

use anyhow::Context as _;
use quorate_client::bulk::{Bulk, BulkReader};
use quorate_client::engine::{state_from_bulk, state_to_bulk};
use quorate_client::store::{Batch, Store, StoreError};
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::Manifest;
use quorate_protocols::model::ModelState;
use quorate_protocols::workload::Workload;

use super::state_space;

/// Kind of the records with the leaves of model states, by job and round.
const STATE: &str = "model-state";

/// The model state before a round.
pub(super) async fn before(
    store: &Store,
    job: &Hash,
    manifest: &Manifest,
    round: u32,
) -> anyhow::Result<Arc<ModelState>> {
    let last = round.checked_sub(1).filter(|_| has_states(manifest));
    let Some(last) = last else {
        return Ok(Arc::new(ModelState::of_job(manifest)));
    };
    let record = store.get_record(STATE, &record_key(job, last)).await?;
    let record = record.with_context(|| format!("no model state after round {last} is stored"))?;
    let bulk = Bulk::from_record(&record)?;
    let reader = BulkReader::new(store.blobs(), &state_space(job, last), bulk);
    Ok(Arc::new(state_from_bulk(&reader).await?))
}

/// Stores the state after a round; the writes that name it belong in the commit of the round's
/// result. States before the one that this followed from are erased.
pub(super) async fn keep(
    store: &Store,
    job: &Hash,
    manifest: &Manifest,
    round: u32,
    state: &ModelState,
) -> anyhow::Result<Batch> {
    if !has_states(manifest) {
        return Ok(Batch::new());
    }
    let bulk = state_to_bulk(state, (store.blobs(), &state_space(job, round))).await?;
    let batch = Batch::new().put_record(STATE, &record_key(job, round), bulk.to_record());
    let Some(old) = round.checked_sub(2) else {
        return Ok(batch);
    };
    store.blobs().delete_namespace(&state_space(job, old)).await?;
    Ok(batch.del_record(STATE, &record_key(job, old)))
}

/// Erases the states of a job that is over: its model follows from its sums.
pub(super) async fn forget(store: &Store, job: &Hash) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    for (key, _) in store.list_records(STATE, &format!("{job}/")).await? {
        batch = batch.del_record(STATE, &key);
    }
    if !batch.is_empty() {
        store.commit(batch).await?;
    }
    store.blobs().delete_namespace(&format!("{job}/states")).await
}

/// Plain sums have no model.
const fn has_states(manifest: &Manifest) -> bool {
    !matches!(manifest.workload, Workload::Sum { .. })
}

fn record_key(job: &Hash, round: u32) -> String {
    format!("{job}/{round:06}")
}
