//! `/v1/jobs/{job}/submissions/{label}/{party}`: a party's ciphertext, uploaded in chunks, and in
//! threshold jobs read by the participants of the key once its set is frozen.

use std::sync::PoisonError;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use quorate_client::bulk::{Bulk, BulkReader, Spool};
use quorate_client::engine::{EngineError, bulk_info, now_ms, verify_reply};
use quorate_client::store::{Batch, StoreError};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use quorate_protocols::fedv;
use quorate_protocols::machine::Peer;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::STEP_SUBMIT;
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum};
use quorate_protocols::round::messages::{Message, SubmitHeader};
use quorate_protocols::wire::{Name, Signed, Verified};

use super::{Aggregator, Shared, upload_space, vertical};
use crate::driver::Failure;
use crate::http::Problem;
use crate::http::bulk::{
    chunk_response, leaves_response, missing_response, receive_chunk, receive_opening,
};
use crate::http::problem::Answer;
use crate::routes;

/// Kind of the records of uploads under way or complete: header, then leaves.
pub(crate) const UPLOAD: &str = "upload";
/// Bytes of a signed header.
const HEADER_BYTES: usize = 256;

/// What the path names.
type Place = (String, String, String);

fn place((job, label, party): &Place) -> Result<(Hash, Label, Name), Refusal> {
    Ok((routes::job_id(job)?, routes::label_id(label)?, routes::name(party)?))
}

/// Key of an upload's record.
pub(crate) fn upload_key(job: &Hash, label: &Label, party: &Name) -> String {
    format!("{job}/{label:?}/{party}")
}

/// Opens an upload, or says what of it is missing. The header is checked before the leaves are
/// read into anything, and before anything is stored.
pub(crate) async fn open(
    State(aggregator): State<Shared>,
    Path(path): Path<Place>,
    body: Body,
) -> Answer {
    let (job, label, party) = place(&path)?;
    let vertical = vertical::knows(&aggregator, &job);
    let expected = if vertical {
        vertical::most_bytes(&aggregator, &job).await?
    } else {
        expected_bytes(&aggregator, &job).await?
    };
    let opening = receive_opening(body, HEADER_BYTES, expected).await?;
    let header = Signed::<SubmitHeader>::from_wire(&opening.header)?;
    admit(&aggregator, job, (&label, &party), &header).await?;
    let reference = header.peek()?.ciphertext;
    // Of a batch the machine has admitted the header's own length.
    let expected = if vertical { reference.len } else { expected };
    let bulk = Bulk::parse(bulk_info(&reference), expected, &opening.leaves)?;
    let record = [header.to_wire(), bulk.to_record()].concat();
    let (store, key) = (aggregator.driver.store(), upload_key(&job, &label, &party));
    let at = (job, label, party);
    // One header per label and party: an honest party seals to the same bytes each time, and a
    // second header could replace the object that the machine is about to take.
    match store.commit(Batch::new().insert_new_record(UPLOAD, &key, record.clone())).await {
        Ok(_) => {}
        Err(StoreError::Exists { .. }) => {
            if store.get_record(UPLOAD, &key).await?.as_ref() != Some(&record) {
                let why = "this party opened an upload of other bytes under this label before";
                let refusal = Refusal::new(Code::Duplicate, why);
                return Err(logged(&aggregator, &job, refusal).await?.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(missing_response(&spool(&aggregator, &at, bulk).await?))
}

/// The spool of an upload, shared by all requests that work on it.
async fn spool(
    aggregator: &Aggregator,
    at: &(Hash, Label, Name),
    bulk: Bulk,
) -> Result<Spool, Problem> {
    let info = bulk.info();
    let same = |spool: &&Spool| spool.bulk().info() == info;
    let lock = || aggregator.spools.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spool) = lock().get(at).filter(same) {
        return Ok(spool.clone());
    }
    let space = upload_space(&at.0, &at.1, &at.2);
    let fresh = Spool::open(aggregator.driver.store().blobs(), &space, bulk).await?;
    let mut spools = lock();
    // Who came second uses the first one's, which has seen all that arrived since.
    if let Some(spool) = spools.get(at).filter(same) {
        return Ok(spool.clone());
    }
    spools.insert(at.clone(), fresh.clone());
    Ok(fresh)
}

/// Bytes of one ciphertext of the live attempt.
async fn expected_bytes(aggregator: &Aggregator, job: &Hash) -> Result<u64, Problem> {
    let expected = aggregator
        .driver
        .read(job, |machine| match machine.live_attempt() {
            Some((open, _)) => machine.manifest().step_bytes(open.fields.round, STEP_SUBMIT),
            None => Err(Refusal::new(Code::Late, "no round is open")),
        })
        .await?;
    match expected {
        Ok(expected) => Ok(expected),
        Err(refusal) => Err(logged(aggregator, job, refusal).await?.into()),
    }
}

async fn logged(aggregator: &Aggregator, job: &Hash, refusal: Refusal) -> Result<Refusal, Failure> {
    aggregator.driver.log_refusal(job, &refusal).await?;
    Ok(refusal)
}

/// Whether this header would be taken now, and is the one the path names.
async fn admit(
    aggregator: &Aggregator,
    job: Hash,
    (label, party): (&Label, &Name),
    header: &Signed<SubmitHeader>,
) -> Result<(), Problem> {
    let named = |header: Verified<SubmitHeader>| {
        if header.label != *label || header.party != *party {
            return Err(Refusal::new(Code::WrongLabel, "the path names another submission"));
        }
        Ok(())
    };
    let admitted = if vertical::knows(aggregator, &job) {
        let check = |machine: &fedv::aggregator::AggregatorJob| machine.admit(header);
        aggregator.vertical.read(&job, check).await?
    } else {
        let check = |machine: &AggregatorJob| machine.admit(now_ms(), header);
        aggregator.driver.read(&job, check).await?
    };
    match admitted.and_then(named) {
        Ok(()) => Ok(()),
        Err(refusal) => Err(logged(aggregator, &job, refusal).await?.into()),
    }
}

/// The header and spool of an upload that was opened, still to be taken.
async fn resume(
    aggregator: &Aggregator,
    path: &Place,
) -> Result<(Signed<SubmitHeader>, Spool, (Hash, Label, Name)), Problem> {
    let at = place(path)?;
    let (job, label, party) = &at;
    let store = aggregator.driver.store();
    let record = store.get_record(UPLOAD, &upload_key(job, label, party)).await?;
    let record = record.ok_or_else(|| {
        Refusal::new(Code::UnknownRound, "no such upload; open it with its header and leaves")
    })?;
    let (header, bulk) = split_record(&record)?;
    admit(aggregator, *job, (label, party), &header).await?;
    let spool = spool(aggregator, &at, bulk).await?;
    Ok((header, spool, at))
}

/// Header and object of an upload's record.
pub(crate) fn split_record(record: &[u8]) -> Result<(Signed<SubmitHeader>, Bulk), Problem> {
    let (header, bulk) = record
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| Problem::internal(&"a short record"))?;
    let bulk = Bulk::from_record(bulk).map_err(|error| Problem::internal(&error))?;
    Ok((Signed::from_wire(header)?, bulk))
}

pub(crate) async fn missing(
    State(aggregator): State<Shared>,
    Path(path): Path<Place>,
) -> Answer<Response> {
    let (_, spool, _) = resume(&aggregator, &path).await?;
    Ok(missing_response(&spool))
}

pub(crate) async fn chunk(
    State(aggregator): State<Shared>,
    Path((job, label, party, index)): Path<(String, String, String, u64)>,
    body: Body,
) -> Answer<StatusCode> {
    let (_, spool, _) = resume(&aggregator, &(job, label, party)).await?;
    receive_chunk(&spool, index, body).await
}

/// Takes a submission all of whose chunks are on the disk, and answers with the receipt.
pub(crate) async fn complete(State(aggregator): State<Shared>, Path(path): Path<Place>) -> Answer {
    let (header, spool, at) = resume(&aggregator, &path).await?;
    let Some(reply) = spool.complete() else {
        let why = "chunks of this upload are missing; ask which";
        return Err(Problem::new(StatusCode::CONFLICT, "BULK_INCOMPLETE", why));
    };
    // A task of its own: a refused reply is erased even if its sender has gone.
    let task = tokio::spawn(async move { take(&aggregator, header, &reply, at).await });
    routes::reply(&task.await.map_err(|_| Failure::Interrupted)??)
}

async fn take(
    aggregator: &Aggregator,
    header: Signed<SubmitHeader>,
    reply: &BulkReader,
    at: (Hash, Label, Name),
) -> Result<Message, Problem> {
    let (job, _, party) = at.clone();
    if vertical::knows(aggregator, &job) {
        let receipt = vertical::submit(aggregator, job, header).await?;
        aggregator.spools.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
        return Ok(receipt);
    }
    check_reply(aggregator, &header, reply, &at).await?;
    let done = aggregator
        .driver
        .step::<OpenSum>(job, move |machine, cx| {
            let from = Peer::Party(party);
            let event = Event::Message { from, message: Box::new(Message::Submit(header)) };
            let (next, outputs) = machine.handle(cx, event)?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    aggregator.spools.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
    // The receipt comes first; requests to authorities, if the set froze, are the runner's.
    Ok(done.answer()?.clone())
}

/// Checks the proof of a threshold job's reply before it can enter a sum. A wrong one is refused in
/// its sender's name and erased, so that the sender may upload a right one.
async fn check_reply(
    aggregator: &Aggregator,
    header: &Signed<SubmitHeader>,
    reply: &BulkReader,
    at: &(Hash, Label, Name),
) -> Result<(), Problem> {
    let (job, label, party) = at;
    let look = |machine: &AggregatorJob| {
        let taken = machine.status().submitted.contains(party);
        let round = machine.live_attempt().map(|(open, _)| open.fields.round);
        let key = machine.job_key().filter(|_| !taken);
        Some((machine.manifest().clone(), key?.clone(), round?))
    };
    let Some((manifest, key, round)) = aggregator.driver.read(job, look).await? else {
        return Ok(());
    };
    let header = header.peek()?;
    let refusal = match verify_reply(&manifest, &key, round, &header, reply).await {
        Ok(()) => return Ok(()),
        Err(EngineError::Refused(refusal)) => refusal,
        Err(EngineError::Bulk(error)) => return Err(error.into()),
        Err(error) => return Err(Problem::internal(&error)),
    };
    let refusal = logged(aggregator, job, refusal).await?;
    // The record last: until it is gone, no other upload of this party can begin.
    aggregator.spools.lock().unwrap_or_else(PoisonError::into_inner).remove(at);
    let store = aggregator.driver.store();
    store.blobs().delete_namespace(&upload_space(job, label, party)).await?;
    store.commit(Batch::new().del_record(UPLOAD, &upload_key(job, label, party))).await?;
    Err(refusal.into())
}

/// A member's reply in a frozen set of a threshold job: its key's participants add the set up
/// themselves.
async fn frozen(aggregator: &Aggregator, path: &Place) -> Result<BulkReader, Problem> {
    let (job, label, party) = place(path)?;
    if vertical::knows(aggregator, &job) {
        return vertical::frozen(aggregator, &(job, label, party)).await;
    }
    let look = |machine: &AggregatorJob| {
        let live = machine.live_attempt().is_some_and(|(_, live)| live == label);
        machine.manifest().is_threshold()
            && live
            && machine.open_round().is_none()
            && machine.status().submitted.contains(&party)
    };
    let store = aggregator.driver.store();
    let record = if aggregator.driver.read(&job, look).await? {
        store.get_record(UPLOAD, &upload_key(&job, &label, &party)).await?
    } else {
        None
    };
    let record = record.ok_or_else(|| {
        Refusal::new(
            Code::UnknownRound,
            "no frozen set of this label is being opened with this party",
        )
    })?;
    let (_, bulk) = split_record(&record)?;
    Ok(BulkReader::new(store.blobs(), &upload_space(&job, &label, &party), bulk))
}

pub(crate) async fn leaves(State(aggregator): State<Shared>, Path(path): Path<Place>) -> Answer {
    Ok(leaves_response(frozen(&aggregator, &path).await?.bulk()))
}

pub(crate) async fn read_chunk(
    State(aggregator): State<Shared>,
    Path((job, label, party, index)): Path<(String, String, String, u64)>,
) -> Answer {
    chunk_response(&frozen(&aggregator, &(job, label, party)).await?, index).await
}
