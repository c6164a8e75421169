//! `POST /v1/jobs/{job}/key-posts`: this authority's post to a threshold key, and the share of the
//! key that it leaves here.
//!
//! # Security
//! The secret a post leaves is stored in the commit that makes the post known, and erased in the one
//! that stores the last round's partial decryption. Of a job that ends before, the secret stays in
//! the store: erase the store's folder once none of its jobs is to go on.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::engine::os_rng;
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{AUTHORITY, KeySecret};
use quorate_protocols::job::Manifest;
use quorate_protocols::machine::Output;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::{AuthorityWork, Event};
use quorate_protocols::round::keying::{JobKey, Keying, PostWork};
use quorate_protocols::round::messages::{KeyTranscript, Message};
use rand_core::Rng as _;

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
    let manifest = authority.driver.read(&job, |machine| machine.manifest().clone()).await?;
    let keying = Keying::read(&manifest, &work.transcript)?;
    let (call, number, step) = (keying.call().hash(), keying.call().number, work.step);
    let name = secret_key(&job, number);
    let store = authority.driver.store();
    let before = Secret::new(store.get_record(SECRET, &name).await?.unwrap_or_default());
    let identity = authority.driver.shared_identity();
    let scheme = manifest.threshold_scheme()?;
    tracing::info!(%job, call = number, step, "making this authority's post to the key");
    let posting = tokio::task::spawn_blocking(move || {
        let mut seed = Secret::new([0; 32]);
        os_rng().fill_bytes(seed.expose_mut());
        keying.with_setup(&manifest, |setup, posts| {
            let me = (AUTHORITY, &*identity);
            scheme.key_post(setup, usize::from(step), me, &before, posts, &seed)
        })
    });
    let (bytes, secret) = with_progress(job, posting).await?.map_err(|error| {
        Refusal::new(Code::BadKey, format!("the posts leave no way on: {error}"))
    })?;
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
async fn with_progress<T>(job: Hash, mut task: tokio::task::JoinHandle<T>) -> Result<T, Failure> {
    let begun = tokio::time::Instant::now();
    loop {
        tokio::select! {
            done = &mut task => return done.map_err(|_| Failure::Interrupted),
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
    manifest: &Manifest,
    key: &JobKey,
) -> Result<KeySecret, Problem> {
    let name = secret_key(job, key.keying().call().number);
    let record = authority.driver.store().get_record(SECRET, &name).await?;
    let secret =
        Secret::new(record.ok_or_else(|| Problem::internal(&"the key's secret is not stored"))?);
    let (manifest, keying) = (manifest.clone(), key.keying().clone());
    let identity = authority.driver.shared_identity();
    let scheme = manifest.threshold_scheme()?;
    let share = tokio::task::spawn_blocking(move || {
        keying.with_setup(&manifest, |setup, posts| {
            scheme.key_share(setup, (AUTHORITY, &*identity), &secret, posts)
        })
    });
    let share = share.await.map_err(|_| Failure::Interrupted)?;
    share.map_err(|error| Problem::internal(&error))
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
