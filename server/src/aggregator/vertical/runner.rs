//! One task per unfinished vertical job: it asks authorities for what the stored machine waits for,
//! compares tags, wakes the machine in time, and erases ciphertexts that no batch needs any more.

use std::sync::PoisonError;

use anyhow::Context as _;
use quorate_client::bulk::{BulkReader, BulkWriter};
use quorate_client::engine::{bulk_info, bulk_ref};
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_crypto::psi::{TAG_BYTES, TagList, common, encode_tags};
use quorate_crypto::sum::Label;
use quorate_protocols::fedv::aggregator::{AggregatorJob, Event, Intersect};
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::messages::{BulkRef, Message};
use quorate_protocols::wire::Name;

use super::{COMMON, common_space, handle};
use crate::aggregator::authorities::{Answered, FIRST_DELAY, MAX_DELAY};
use crate::aggregator::errands::{Errand, Errands, wanted};
use crate::aggregator::submissions::{UPLOAD, split_record, upload_key};
use crate::aggregator::{Aggregator, Shared, upload_space, uploads_space};
use crate::driver::Failure;
use crate::routes;

/// Runs a vertical job until it is finished.
pub(in crate::aggregator) async fn run(aggregator: Shared, job: Hash) {
    while let Err(error) = drive(&aggregator, job).await {
        tracing::error!(%job, %error, "job interrupted, going on shortly");
        tokio::time::sleep(MAX_DELAY).await;
    }
}

async fn drive(aggregator: &Shared, job: Hash) -> Result<(), Failure> {
    let driver = &aggregator.vertical;
    let mut changed = driver.watch(&job).await?;
    let mut errands = Errands::default();
    let mut swept: Option<Vec<Label>> = None;
    loop {
        changed.borrow_and_update();
        let look = |machine: &AggregatorJob| {
            let wanted = wanted(machine.requests());
            let (deadline, live) = (machine.deadline_ms(), machine.live_labels());
            (wanted, deadline, live, machine.outcome().is_some())
        };
        let (wanted, deadline, live, finished) = driver.read(&job, look).await?;
        errands.turn_to(wanted, |errand| {
            let aggregator = Shared::clone(aggregator);
            async move {
                match errand {
                    Errand::Ask { to, request } => ask(&aggregator, job, &to, request).await,
                    Errand::Work(work) => intersect(&aggregator, job, work).await,
                }
            }
        });
        if swept.as_ref() != Some(&live) {
            sweep(aggregator, &job, &live).await?;
            swept = Some(live);
        }
        if finished {
            driver.store().blobs().delete_namespace(&format!("{job}/up")).await?;
            return Ok(());
        }
        if errands.wait(&mut changed, deadline).await {
            handle(aggregator, job, Event::Wake, Batch::new()).await?;
        }
    }
}

/// Asks an authority until its answer has been handled.
async fn ask(aggregator: &Aggregator, job: Hash, to: &Name, request: Message) {
    let mut delay = FIRST_DELAY;
    loop {
        let event = match aggregator.authorities.ask(to, &job, &request).await {
            Answered::Message(message) => Ok(Event::Message(Box::new(message))),
            Answered::Refused(refusal) => {
                tracing::warn!(%job, authority = %to, %refusal, "an authority refuses");
                Ok(Event::Refused { by: to.clone(), refusal })
            }
            Answered::Later(why) => Err(why),
        };
        let why = match event {
            Ok(event) => match handle(aggregator, job, event, Batch::new()).await {
                Ok(_) => return,
                Err(failure) => failure.to_string(),
            },
            Err(why) => why,
        };
        tracing::warn!(%job, authority = %to, why, "asking again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

/// Compares the parties' tags; repeats after failures of this side.
async fn intersect(aggregator: &Aggregator, job: Hash, work: Intersect) {
    let mut delay = FIRST_DELAY;
    while let Err(error) = try_intersect(aggregator, job, &work).await {
        tracing::error!(%job, error = format!("{error:#}"), "tags could not be compared");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

async fn try_intersect(aggregator: &Aggregator, job: Hash, work: &Intersect) -> anyhow::Result<()> {
    let store = aggregator.vertical.store();
    let mut lists = Vec::with_capacity(work.lists.len());
    let mut wrong = None;
    for (party, reference) in &work.lists {
        let bytes = read_tags(aggregator, &job, &work.label, party, reference).await?;
        let declared = u32::try_from(bytes.len() / TAG_BYTES)?;
        match TagList::decode(&bytes, declared) {
            Ok(list) => lists.push(list),
            Err(error) => {
                let refusal = Refusal::new(Code::Malformed, format!("tags of {party}: {error}"));
                wrong = Some(refusal.blaming(Culprit::Party(party.clone())));
            }
        }
    }
    if let Some(refusal) = wrong {
        aggregator.vertical.log_refusal(&job, &refusal).await?;
        let event = Event::Intersected { label: work.label, outcome: Err(refusal) };
        handle(aggregator, job, event, Batch::new()).await?;
        return Ok(());
    }
    let bytes = tokio::task::spawn_blocking(move || encode_tags(&common(&lists))).await?;
    let mut writer = BulkWriter::new(store.blobs(), &common_space(&job));
    writer.write(&bytes).await?;
    let bulk = writer.finish().await?;
    let rows = Batch::new().put_record(COMMON, &job.to_string(), bulk.to_record());
    let event = Event::Intersected { label: work.label, outcome: Ok(bulk_ref(&bulk)) };
    handle(aggregator, job, event, rows).await?;
    Ok(())
}

async fn read_tags(
    aggregator: &Aggregator,
    job: &Hash,
    label: &Label,
    party: &Name,
    reference: &BulkRef,
) -> anyhow::Result<Vec<u8>> {
    let store = aggregator.vertical.store();
    let record = store.get_record(UPLOAD, &upload_key(job, label, party)).await?;
    let record = record.with_context(|| format!("no tags of {party} are stored"))?;
    let (_, bulk) =
        split_record(&record).map_err(|problem| anyhow::anyhow!("{}", problem.code()))?;
    anyhow::ensure!(bulk.info() == bulk_info(reference), "another object is stored");
    let reader = BulkReader::new(store.blobs(), &upload_space(job, label, party), bulk);
    Ok(reader.read_range(0..reference.len).await?)
}

/// Erases ciphertexts of batches that are over.
async fn sweep(aggregator: &Aggregator, job: &Hash, live: &[Label]) -> Result<(), Failure> {
    let store = aggregator.vertical.store();
    let mut batch = Batch::new();
    for (key, _) in store.list_records(UPLOAD, &format!("{job}/")).await? {
        let label = key.split('/').nth(1).and_then(|text| routes::label_id(text).ok());
        let Some(label) = label.filter(|label| !live.contains(label)) else {
            continue;
        };
        // Read after the listing: a label listed before and not live now is never live again.
        if aggregator.vertical.read(job, AggregatorJob::live_labels).await?.contains(&label) {
            continue;
        }
        store.blobs().delete_namespace(&uploads_space(job, &label)).await?;
        batch = batch.del_record(UPLOAD, &key);
    }
    if !batch.is_empty() {
        store.commit(batch).await?;
    }
    let mut spools = aggregator.spools.lock().unwrap_or_else(PoisonError::into_inner);
    spools.retain(|(of, label, _), _| of != job || live.contains(label));
    Ok(())
}
