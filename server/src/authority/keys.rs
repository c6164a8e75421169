//! `POST /v1/jobs/{job}/keys`: the functional key of a promised set, against all promises; and the
//! key's bytes under `/keys/{label}`. In a threshold job the functional key is this authority's
//! partial decryption of the sum.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::bulk::{Bulk, BulkReader};
use quorate_client::engine::{bulk_ref, key_to_bulk, sum_context};
use quorate_client::store::Batch;
use quorate_crypto::keys::{KeyBinding, SharedKey};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use quorate_protocols::job::Manifest;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::{AuthorityJob, AuthorityWork, ComputeKey, Event};
use quorate_protocols::round::messages::{KeyRequest, Message};

use super::turn::Turn;
use super::{Authority, Shared, key_posts, partial};
use crate::driver::{Done, Failure};
use crate::http::Problem;
use crate::http::bulk::{chunk_response, leaves_response};
use crate::http::problem::Answer;
use crate::routes;

/// Kind of the records with the leaves of functional keys, by job and label.
const KEY: &str = "key";

pub(crate) async fn release(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let Message::KeyRequest(request) = routes::message(&body)? else {
        return Err(routes::wrong_message("key request").into());
    };
    // A task of its own: a long computation outlives the request that began it, and the next
    // request for the same key waits for it.
    let task = tokio::spawn(async move { released(&authority, job, request).await });
    routes::reply(&task.await.map_err(|_| Failure::Interrupted)??)
}

async fn released(
    authority: &Authority,
    job: Hash,
    request: KeyRequest,
) -> Result<Message, Problem> {
    let label = request.label;
    if let Some(answer) = ask(authority, job, &request).await?.sends.pop() {
        return Ok(answer.1);
    }
    let turn = Turn::of(authority, Hash(label.0));
    let _only_one = turn.lock.lock().await;
    // Who waited for its turn finds the key computed.
    let mut asked = ask(authority, job, &request).await?;
    match (asked.sends.pop(), asked.work.pop()) {
        (Some((_, answer)), _) => Ok(answer),
        (None, Some(AuthorityWork::Key(work))) => compute(authority, job, work).await,
        (None, _) => Err(Problem::internal(&"the machine gave no answer")),
    }
}

async fn ask(
    authority: &Authority,
    job: Hash,
    request: &KeyRequest,
) -> Result<Done<AuthorityWork>, Failure> {
    let (parties, request) = (authority.parties(), request.clone());
    authority
        .driver
        .step(job, move |machine, cx| {
            let event = Event::Message(Message::KeyRequest(request).into());
            let (next, outputs) = machine.handle(cx, &*parties, event)?;
            Ok((next, outputs, Batch::new()))
        })
        .await
}

async fn compute(authority: &Authority, job: Hash, work: ComputeKey) -> Result<Message, Problem> {
    let look =
        |machine: &AuthorityJob| (Arc::new(machine.manifest().clone()), machine.job_key().cloned());
    let (manifest, threshold_key) = authority.driver.read(&job, look).await?;
    let store = authority.driver.store();
    let space = namespace(&job, &work.label);
    let output = (store.blobs(), space.as_str());
    let bulk = match &threshold_key {
        Some(key) => partial::compute(authority, &job, (&manifest, key), &work, output).await?,
        None => {
            let members = shared_keys(authority, &manifest, &work)?;
            let context = sum_context(&manifest, None, work.round, work.label)?;
            key_to_bulk(manifest.sum_scheme()?, context, members, output)
                .await
                .map_err(|error| Problem::internal(&error))?
        }
    };
    let (label, key) = (work.label, bulk_ref(&bulk));
    let record = record_key(&job, &label);
    let old = old_keys(authority, &job, &label).await?;
    let mut batch = Batch::new().put_record(KEY, &record, bulk.to_record());
    for old in &old {
        batch = batch.del_record(KEY, &record_key(&job, old));
    }
    // The bytes stored now answer every later request: a share of the key is not needed any more.
    if work.round.saturating_add(1) >= manifest.workload.rounds() {
        batch = key_posts::erase(authority, &job, batch).await?;
    }
    let parties = authority.parties();
    let done = authority
        .driver
        .step::<AuthorityWork>(job, move |machine, cx| {
            let (next, outputs) = machine.handle(cx, &*parties, Event::KeyReady { label, key })?;
            Ok((next, outputs, batch))
        })
        .await?;
    for old in old {
        store.blobs().delete_namespace(&namespace(&job, &old)).await?;
    }
    if threshold_key.is_some() {
        partial::forget(authority, &job).await?;
    }
    Ok(done.answer()?.clone())
}

/// The keys this authority shares with the members, each with its submission's nonce.
fn shared_keys(
    authority: &Authority,
    manifest: &Manifest,
    work: &ComputeKey,
) -> Result<Vec<(SharedKey, Nonce)>, Refusal> {
    let identity = authority.driver.identity();
    let derive = |member: &quorate_protocols::round::authority::KeyMember| {
        let binding = KeyBinding {
            tenant: manifest.tenant.as_str(),
            authority: authority.config.name.as_str(),
            party: member.party.as_str(),
            authority_key: identity.exchange_key(),
            party_key: member.exchange,
            epoch: member.epoch,
        };
        identity
            .shared_key(&member.exchange, &binding)
            .map(|key| (key, member.nonce))
            .map_err(|error| Refusal::new(Code::BadRoster, format!("{}: {error}", member.party)))
    };
    work.members.iter().map(derive).collect()
}

/// Labels of earlier rounds whose keys are still stored: a later round is only promised once they
/// were fetched and opened.
async fn old_keys(
    authority: &Authority,
    job: &Hash,
    current: &Label,
) -> Result<Vec<Label>, Problem> {
    let records = authority.driver.store().list_records(KEY, &format!("{job}/")).await?;
    let labels = records.iter().filter_map(|(key, _)| key.split_once('/'));
    Ok(labels
        .filter_map(|(_, label)| routes::label_id(label).ok())
        .filter(|label| label != current)
        .collect())
}

fn record_key(job: &Hash, label: &Label) -> String {
    format!("{job}/{label:?}")
}

/// Chunks of the key of one label.
fn namespace(job: &Hash, label: &Label) -> String {
    let label = format!("{label:?}");
    format!("{job}/{}", label.get(..32).unwrap_or(&label))
}

async fn reader(authority: &Authority, job: &str, label: &str) -> Answer<BulkReader> {
    let (job, label) = (routes::job_id(job)?, routes::label_id(label)?);
    let store = authority.driver.store();
    let record = store.get_record(KEY, &record_key(&job, &label)).await?.ok_or_else(|| {
        Refusal::new(Code::UnknownRound, "no functional key of this label is stored here")
    })?;
    let bulk = Bulk::from_record(&record).map_err(|error| Problem::internal(&error))?;
    Ok(BulkReader::new(store.blobs(), &namespace(&job, &label), bulk))
}

pub(crate) async fn leaves(
    State(authority): State<Shared>,
    Path((job, label)): Path<(String, String)>,
) -> Answer {
    Ok(leaves_response(reader(&authority, &job, &label).await?.bulk()))
}

pub(crate) async fn chunk(
    State(authority): State<Shared>,
    Path((job, label, index)): Path<(String, String, u64)>,
) -> Answer {
    chunk_response(&reader(&authority, &job, &label).await?, index).await
}
