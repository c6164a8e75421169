//! `POST /v1/jobs/{job}/key-posts`: this authority's post to a threshold key, and the share of the
//! key that it leaves here.
//!
//! # Security
//! The secret a post leaves is stored in the commit that makes the post known, and erased in the one
//! that stores the last round's partial decryption. Of a job that ends before, the secret stays in
//! the store: erase the store's folder once none of its jobs is to go on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::engine::{self, EngineError};
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::SchemeError;
use quorate_crypto::threshold::{AUTHORITY, KeySecret};
use quorate_protocols::job::Manifest;
use quorate_protocols::machine::Output;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::{AuthorityJob, AuthorityWork, Event};
use quorate_protocols::round::keying::{JobKey, PostWork};
use quorate_protocols::round::messages::{KeyTranscript, Message};

use super::turn::Turn;
use super::{Authority, Shared};
use crate::driver::{Done, Failure};
use crate::http::Problem;
use crate::http::problem::Answer;
use crate::routes;

/// Kind of the records with what posts leave secret, by job and number of the call.
const SECRET: &str = "key-secret";
/// How often a long computation says that it goes on.
const PROGRESS: Duration = Duration::from_secs(10);

pub(crate) async fn post(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let Message::KeyAsk(transcript) = routes::message(&body)? else {
        return Err(routes::wrong_message("key ask").into());
    };
    // A task of its own: a dealer's search for primes outlives the request that began it.
    let task = tokio::spawn(async move { posted(&authority, job, *transcript).await });
    routes::reply(&task.await.map_err(|_| Failure::Interrupted)??)
}

async fn posted(
    authority: &Authority,
    job: Hash,
    transcript: KeyTranscript,
) -> Result<Message, Problem> {
    if let Some(answer) = ask(authority, job, &transcript).await?.sends.pop() {
        return Ok(answer.1);
    }
    let turn = Turn::of(authority, transcript.call.hash());
    let _only_one = turn.lock.lock().await;
    // Who waited for its turn finds the post made.
    let mut asked = ask(authority, job, &transcript).await?;
    match (asked.sends.pop(), asked.work.pop()) {
        (Some((_, answer)), _) => Ok(answer),
        (None, Some(AuthorityWork::Post(work))) => make(authority, job, work).await,
        (None, _) => Err(Problem::internal(&"the machine gave no answer")),
    }
}

async fn ask(
    authority: &Authority,
    job: Hash,
    transcript: &KeyTranscript,
) -> Result<Done<AuthorityWork>, Failure> {
    let (parties, transcript) = (authority.parties(), transcript.clone());
    authority
        .driver
        .step(job, move |machine, cx| {
            let event = Event::Message(Message::KeyAsk(Box::new(transcript)).into());
            let (next, outputs) = machine.handle(cx, &*parties, event)?;
            Ok((next, outputs, Batch::new()))
        })
        .await
}

async fn make(authority: &Authority, job: Hash, work: PostWork) -> Result<Message, Problem> {
    let manifest = |machine: &AuthorityJob| Arc::new(machine.manifest().clone());
    let manifest = authority.driver.read(&job, manifest).await?;
    let call = work.transcript.call.peek()?;
    let (number, call, step) = (call.number, work.transcript.call.hash(), work.step);
    let name = secret_key(&job, number);
    let store = authority.driver.store();
    let before = Secret::new(store.get_record(SECRET, &name).await?.unwrap_or_default());
    let identity = authority.driver.shared_identity();
    tracing::info!(%job, call = number, step, "making this authority's post to the key");
    let making = engine::key_post(&manifest, work, &identity, before);
    let (bytes, secret) = match with_progress(job, making).await {
        Ok(made) => made,
        Err(EngineError::Scheme(error @ SchemeError::Key(_))) => {
            let refusal = Refusal::new(Code::BadKey, error.to_string());
            authority.driver.log_refusal(&job, &refusal).await?;
            return Err(refusal.into());
        }
        Err(error) => return Err(Problem::internal(&error)),
    };
    tracing::info!(%job, call = number, step, "the post is made");
    let earlier = store.list_records(SECRET, &format!("{job}/")).await?;
    let parties = authority.parties();
    let done = authority
        .driver
        .step::<AuthorityWork>(job, move |machine, cx| {
            let event = Event::Posted { call, step, bytes: bytes.clone() };
            let (next, outputs) = machine.handle(cx, &*parties, event)?;
            let ours = outputs.iter().any(|output| match output {
                Output::Send { message: Message::KeyPost(posted), .. } => {
                    posted.peek().is_ok_and(|posted| posted.post.bytes == bytes)
                }
                _ => false,
            });
            let mut batch = Batch::new();
            if ours {
                // A key of an earlier call will never be used.
                for (other, _) in earlier.iter().filter(|(other, _)| *other != name) {
                    batch = batch.del_record(SECRET, other);
                }
                batch = batch.put_record(SECRET, &name, secret.expose().clone());
            }
            Ok((next, outputs, batch))
        })
        .await?;
    match done.answer() {
        Ok(answer) => Ok(answer.clone()),
        Err(_) => Err(Refusal::new(Code::OutOfOrder, "a later key call was answered").into()),
    }
}

/// Waits for a long computation and says now and then that it goes on.
async fn with_progress<T>(job: Hash, work: impl Future<Output = T>) -> T {
    let begun = tokio::time::Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PROGRESS) => {
                let seconds = begun.elapsed().as_secs();
                tracing::info!(%job, seconds, "still making the post to the key");
            }
        }
    }
}

/// This authority's share of a complete key.
pub(super) async fn share(
    authority: &Authority,
    job: &Hash,
    manifest: &Arc<Manifest>,
    key: &JobKey,
) -> Result<KeySecret, Problem> {
    let name = secret_key(job, key.keying().call().number);
    let record = authority.driver.store().get_record(SECRET, &name).await?;
    let secret =
        Secret::new(record.ok_or_else(|| Problem::internal(&"the key's secret is not stored"))?);
    let identity = authority.driver.shared_identity();
    engine::key_share(manifest, key, AUTHORITY, &identity, secret)
        .await
        .map_err(|error| Problem::internal(&error))
}

/// Writes that erase what the keys of a job left secret, once its last answer is stored.
pub(super) async fn erase(
    authority: &Authority,
    job: &Hash,
    mut batch: Batch,
) -> Result<Batch, Failure> {
    for (name, _) in authority.driver.store().list_records(SECRET, &format!("{job}/")).await? {
        batch = batch.del_record(SECRET, &name);
    }
    Ok(batch)
}

fn secret_key(job: &Hash, call: u16) -> String {
    format!("{job}/{call:05}")
}
