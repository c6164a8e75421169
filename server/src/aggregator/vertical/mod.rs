//! Vertical jobs at the aggregator: their view, the messages of their parties, their own runner. Creating,
//! joining, showing and uploading go through the routes of all jobs.

mod runner;

use std::sync::PoisonError;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use quorate_client::api::{JobStatus, MAX_WAIT_MS, VerticalQuery, VerticalView};
use quorate_client::bulk::{Bulk, BulkReader};
use quorate_client::engine::now_ms;
use quorate_client::store::Batch;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::sum::Label;
use quorate_protocols::fedv::aggregator::{AggregatorJob, Event, Intersect};
use quorate_protocols::machine::{Bug, Context};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::{Message, SubmitHeader};
use quorate_protocols::wire::{Name, Signed, encode};

use super::submissions::{UPLOAD, split_record, upload_key};
use super::{Aggregator, Shared, upload_space};
use crate::driver::{Done, Failure};
use crate::http::Problem;
use crate::http::bulk::{chunk_response, leaves_response};
use crate::http::problem::Answer;
use crate::routes;

pub(super) use runner::run;

/// Kind of the records with the leaves of a job's common tags.
const COMMON: &str = "common-tags";

/// Chunks of a job's common tags.
fn common_space(job: &Hash) -> String {
    format!("{job}/common")
}

/// Whether the job is a vertical one of this aggregator: asked for every request of every job, so it
/// reads no store.
pub(super) fn knows(aggregator: &Aggregator, job: &Hash) -> bool {
    aggregator.vertical_jobs.read().unwrap_or_else(PoisonError::into_inner).contains(job)
}

/// Creates a vertical job.
pub(super) async fn create(
    aggregator: &Aggregator,
    manifest: quorate_protocols::job::Manifest,
) -> Result<(), Failure> {
    let job = manifest.hash();
    let create = move |known: Option<AggregatorJob>, cx: &mut Context<'_>| {
        if known.is_some() {
            return Err(Bug("two manifests with one salt".into()).into());
        }
        let (next, outputs) = AggregatorJob::create(cx, manifest)?;
        Ok((next, outputs, Batch::new()))
    };
    aggregator.vertical.create::<Intersect>(job, create).await?;
    aggregator.vertical_jobs.write().unwrap_or_else(PoisonError::into_inner).insert(job);
    Ok(())
}

/// Where a vertical job stands.
pub(super) async fn status(aggregator: &Aggregator, job: &Hash) -> Result<JobStatus, Failure> {
    let read = |machine: &AggregatorJob| {
        JobStatus::vertical(*job, machine.manifest(), &machine.status(), machine.outcome())
    };
    aggregator.vertical.read(job, read).await
}

/// One event of a vertical job, with rows to store beside it.
pub(super) async fn handle(
    aggregator: &Aggregator,
    job: Hash,
    event: Event,
    rows: Batch,
) -> Result<Done<Intersect>, Failure> {
    aggregator
        .vertical
        .step::<Intersect>(job, move |machine, cx| {
            let (next, outputs) = machine.handle(cx, event)?;
            Ok((next, outputs, rows))
        })
        .await
}

/// Takes a complete submission and answers with the receipt.
pub(super) async fn submit(
    aggregator: &Aggregator,
    job: Hash,
    header: Signed<SubmitHeader>,
) -> Result<Message, Problem> {
    let event = Event::Message(Box::new(Message::Submit(header)));
    Ok(handle(aggregator, job, event, Batch::new()).await?.answer()?.clone())
}

/// Most bytes of one submission of the job: of a batch, of stored features, or of tags.
pub(super) async fn most_bytes(aggregator: &Aggregator, job: &Hash) -> Result<u64, Failure> {
    let most = aggregator.vertical.read(job, AggregatorJob::most_bytes).await?;
    Ok(most)
}

/// `POST /v1/jobs/{job}/vertical/messages`: a message of a party.
pub(super) async fn message(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    let job = routes::job_id(&job)?;
    let message = routes::message(&body)?;
    if !matches!(message, Message::Vertical(_)) {
        return Err(routes::wrong_message("vertical").into());
    }
    let event = Event::Message(Box::new(message));
    handle(&aggregator, job, event, Batch::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/jobs/{job}/vertical/view`: what a party waits for, by long poll.
pub(super) async fn view(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    Query(query): Query<VerticalQuery>,
) -> Answer {
    let job = routes::job_id(&job)?;
    let mut changed = aggregator.vertical.watch(&job).await?;
    let mut stopping = aggregator.stopping.subscribe();
    let wait = Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS));
    let until = tokio::time::Instant::now() + wait;
    loop {
        changed.borrow_and_update();
        let look = |machine: &AggregatorJob| VerticalView {
            now_ms: now_ms(),
            view: machine.view(&query.party),
            outcome: machine.outcome().cloned(),
        };
        let view = aggregator.vertical.read(&job, look).await?;
        let mark = hash_parts("view", &[&encode(&view.view)]).into();
        if view.outcome.is_some() || query.seen != Some(mark) {
            return routes::packed(&view);
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(until) => return routes::packed(&view),
            _ = stopping.wait_for(|stopping| *stopping) => return routes::packed(&view),
        }
    }
}

/// A member's ciphertext of the frozen batch, for the label holder: uniform words to everybody else.
pub(super) async fn frozen(
    aggregator: &Aggregator,
    (job, label, party): &(Hash, Label, Name),
) -> Result<BulkReader, Problem> {
    let look = |machine: &AggregatorJob| machine.is_frozen(label, party);
    let store = aggregator.vertical.store();
    let record = if aggregator.vertical.read(job, look).await? {
        store.get_record(UPLOAD, &upload_key(job, label, party)).await?
    } else {
        None
    };
    let record = record.ok_or_else(|| {
        Refusal::new(Code::UnknownRound, "no batch of this label is frozen with this party")
    })?;
    let (_, bulk) = split_record(&record)?;
    Ok(BulkReader::new(store.blobs(), &upload_space(job, label, party), bulk))
}

async fn common(aggregator: &Aggregator, job: &str) -> Result<BulkReader, Problem> {
    let job = routes::job_id(job)?;
    let store = aggregator.vertical.store();
    let record = store.get_record(COMMON, &job.to_string()).await?;
    let record = record
        .ok_or_else(|| Refusal::new(Code::UnknownRound, "the rows of this job are not aligned"))?;
    let bulk = Bulk::from_record(&record).map_err(|error| Problem::internal(&error))?;
    Ok(BulkReader::new(store.blobs(), &common_space(&job), bulk))
}

/// `GET /v1/jobs/{job}/vertical/common/leaves`.
pub(super) async fn common_leaves(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
) -> Answer {
    Ok(leaves_response(common(&aggregator, &job).await?.bulk()))
}

/// `GET /v1/jobs/{job}/vertical/common/chunks/{index}`.
pub(super) async fn common_chunk(
    State(aggregator): State<Shared>,
    Path((job, index)): Path<(String, u64)>,
) -> Answer {
    chunk_response(&common(&aggregator, &job).await?, index).await
}
