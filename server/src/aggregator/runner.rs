//! One task per unfinished job: it sends what the stored machine waits for, wakes it in time, and
//! erases what no attempt needs any more. A restart begins it again from the stored machine.

use std::sync::PoisonError;

use quorate_client::bulk::{Transfer, download};
use quorate_client::engine::bulk_info;
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use quorate_protocols::machine::Peer;
use quorate_protocols::round::STEP_KEY;
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum};
use quorate_protocols::round::messages::{FuncKey, Message};
use quorate_protocols::wire::{Name, Signed};

use super::authorities::{Answered, FIRST_DELAY, MAX_DELAY};
use super::errands::{Errand, Errands, wanted};
use super::shares::PARTIAL;
use super::submissions::UPLOAD;
use super::{Aggregator, Shared, key_space, opening, payments, states, uploads_space};
use crate::driver::Failure;
use crate::routes;

/// Kind of the records with the leaves of fetched functional keys, by job, label and authority.
pub(crate) const KEY: &str = "func-key";
/// Runs a job until it is finished.
pub(super) async fn run(aggregator: Shared, job: Hash) {
    while let Err(error) =
        tokio::try_join!(drive(&aggregator, job), payments::forward(&aggregator, &job))
    {
        tracing::error!(%job, %error, "job interrupted, going on shortly");
        tokio::time::sleep(MAX_DELAY).await;
    }
}

async fn drive(aggregator: &Shared, job: Hash) -> Result<(), Failure> {
    let driver = &aggregator.driver;
    let mut changed = driver.watch(&job).await?;
    let mut errands = Errands::default();
    let mut swept: Option<Option<Label>> = None;
    loop {
        changed.borrow_and_update();
        let look = |machine: &AggregatorJob| {
            let wanted = wanted(machine.requests());
            let live = machine.live_attempt().map(|(_, label)| label);
            (wanted, machine.deadline_ms(), live, machine.outcome().is_some())
        };
        let (wanted, deadline, live, finished) = driver.read(&job, look).await?;
        errands.turn_to(wanted, |errand| {
            let aggregator = Shared::clone(aggregator);
            async move {
                match errand {
                    Errand::Ask { to, request } => ask(&aggregator, job, &to, request).await,
                    Errand::Work(work) => opening::open(&aggregator, job, work).await,
                }
            }
        });
        if swept != Some(live) {
            sweep(aggregator, &job).await?;
            swept = Some(live);
        }
        if finished {
            return erase(aggregator, &job).await;
        }
        if errands.wait(&mut changed, deadline).await {
            handle(aggregator, job, Event::Wake, Batch::new()).await?;
        }
    }
}

/// One event of a job, with rows to store beside it. A rejected one has been logged.
pub(super) async fn handle(
    aggregator: &Aggregator,
    job: Hash,
    event: Event,
    rows: Batch,
) -> Result<(), Failure> {
    let done = aggregator.driver.step::<OpenSum>(job, move |machine, cx| {
        let (next, outputs) = machine.handle(cx, event)?;
        Ok((next, outputs, rows))
    });
    done.await.map(drop)
}

/// Asks an authority until its answer has been handled.
async fn ask(aggregator: &Aggregator, job: Hash, to: &Name, request: Message) {
    let mut delay = FIRST_DELAY;
    loop {
        let why = match aggregator.authorities.ask(to, &job, &request).await {
            Answered::Message(message) => match deliver(aggregator, job, to, message).await {
                Ok(()) => return,
                Err(why) => why.to_string(),
            },
            Answered::Refused(refusal) => {
                tracing::warn!(%job, authority = %to, %refusal, "an authority refuses");
                let request = Box::new(request.clone());
                let event = Event::Refused { by: to.clone(), request, refusal };
                match handle(aggregator, job, event, Batch::new()).await {
                    Ok(()) => return,
                    Err(failure) => failure.to_string(),
                }
            }
            Answered::Later(why) => why,
        };
        tracing::warn!(%job, authority = %to, why, "asking again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

/// Hands an answer to the machine; a functional key's bytes are fetched first.
async fn deliver(
    aggregator: &Aggregator,
    job: Hash,
    from: &Name,
    message: Message,
) -> anyhow::Result<()> {
    let rows = match &message {
        Message::FuncKey(key) => fetch_key(aggregator, job, from, key).await?,
        _ => Batch::new(),
    };
    let from = Peer::Authority(from.clone());
    let event = Event::Message { from, message: Box::new(message) };
    Ok(handle(aggregator, job, event, rows).await?)
}

/// Downloads a functional key whose signature and length are right; of any other the machine says
/// what is wrong.
async fn fetch_key(
    aggregator: &Aggregator,
    job: Hash,
    from: &Name,
    signed: &Signed<FuncKey>,
) -> anyhow::Result<Batch> {
    let look = |machine: &AggregatorJob| {
        let (open, live) = machine.live_attempt()?;
        let manifest = machine.manifest();
        let expected = manifest.step_bytes(open.fields.round, STEP_KEY).ok()?;
        let key = signed.verify(&manifest.authority(from)?.verify).ok()?;
        (key.label == live && key.key.len == expected).then_some((live, key.key))
    };
    let Some((label, reference)) = aggregator.driver.read(&job, look).await? else {
        return Ok(Batch::new());
    };
    let url = aggregator.authorities.url(from).unwrap_or_default();
    let base = format!("{url}/v1/jobs/{job}/keys/{label:?}");
    let blobs = aggregator.driver.store().blobs();
    let http = aggregator.authorities.http();
    let info = bulk_info(&reference);
    let space = key_space(&job, &label);
    let reader = download(http, &base, &info, blobs, &space, &Transfer::default()).await?;
    let record = reader.bulk().to_record();
    Ok(Batch::new().put_record(KEY, &record_key(&job, &label, from), record))
}

/// Key of the record of a functional key or a partial decryption.
pub(super) fn record_key(job: &Hash, label: &Label, from: &Name) -> String {
    format!("{job}/{label:?}/{from}")
}

/// Erases ciphertexts, keys and shares of attempts that are over.
async fn sweep(aggregator: &Aggregator, job: &Hash) -> Result<(), Failure> {
    let store = aggregator.driver.store();
    let mut listed = Vec::new();
    for kind in [UPLOAD, KEY, PARTIAL] {
        for (key, _) in store.list_records(kind, &format!("{job}/")).await? {
            let label = key.split('/').nth(1).and_then(|text| routes::label_id(text).ok());
            listed.extend(label.map(|label| (kind, key, label)));
        }
    }
    // Read after the listing: a label listed before and not live now is never live again.
    let live = |machine: &AggregatorJob| machine.live_attempt().map(|(_, label)| label);
    let live = aggregator.driver.read(job, live).await?;
    let mut batch = Batch::new();
    for (kind, key, label) in listed {
        if Some(label) == live {
            continue;
        }
        for space in [uploads_space(job, &label), key_space(job, &label)] {
            store.blobs().delete_namespace(&space).await?;
        }
        batch = batch.del_record(kind, &key);
    }
    if !batch.is_empty() {
        store.commit(batch).await?;
    }
    let mut spools = aggregator.spools.lock().unwrap_or_else(PoisonError::into_inner);
    spools.retain(|(of, label, _), _| of != job || Some(*label) == live);
    Ok(())
}

/// Erases all ciphertexts, keys, shares and states of a job that is over; its sums stay.
async fn erase(aggregator: &Aggregator, job: &Hash) -> Result<(), Failure> {
    let blobs = aggregator.driver.store().blobs();
    blobs.delete_namespace(&format!("{job}/up")).await?;
    blobs.delete_namespace(&format!("{job}/keys")).await?;
    Ok(states::forget(aggregator.driver.store(), job).await?)
}
