//! `POST /v1/jobs/{job}/shares`: a holder's partial decryption, or its refusal to give one.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use quorate_client::bulk::BulkWriter;
use quorate_client::engine::bulk_ref;
use quorate_client::store::Batch;
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, leaf_hash, root};
use quorate_protocols::machine::Peer;
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum};
use quorate_protocols::round::messages::{BulkRef, Message, Partial};
use quorate_protocols::wire::{Name, Signed};

use super::runner::record_key;
use super::{Aggregator, Shared, key_space};
use crate::http::Problem;
use crate::http::problem::Answer;
use crate::routes;

/// Kind of the records with the leaves of partial decryptions, by job, label and holder.
pub(crate) const PARTIAL: &str = "partial";

pub(crate) async fn share(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    let job = routes::job_id(&job)?;
    let (holder, message, rows) = match routes::message(&body)? {
        Message::Partial(partial, bytes) => {
            let (said, rows) = stored(&aggregator, &job, &partial, bytes).await?;
            (said, Message::Partial(partial, Vec::new()), rows)
        }
        Message::ShareRefused(refused) => {
            (refused.peek()?.holder, Message::ShareRefused(refused), Batch::new())
        }
        _ => return Err(routes::wrong_message("share").into()),
    };
    aggregator
        .driver
        .step::<OpenSum>(job, move |machine, cx| {
            let event = Event::Message { from: Peer::Party(holder), message: Box::new(message) };
            let (next, outputs) = machine.handle(cx, event)?;
            Ok((next, outputs, rows))
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stores the bytes of a share that would be taken now, once they are those that its holder signed.
/// The record that names them is written with the machine that takes the share.
async fn stored(
    aggregator: &Aggregator,
    job: &Hash,
    partial: &Signed<Partial>,
    bytes: Vec<u8>,
) -> Result<(Name, Batch), Problem> {
    let admit = |machine: &AggregatorJob| {
        let said = machine.admit_partial(partial)?;
        let number = machine.job_key().and_then(|key| key.holder(&said.holder));
        Ok((said, number))
    };
    let admitted: Result<_, Refusal> = aggregator.driver.read(job, admit).await?;
    let checked = admitted.and_then(|(said, number)| {
        if describe(&bytes) != said.partial {
            return Err(Refusal::new(Code::Malformed, "the share's bytes are not those signed"));
        }
        // Another holder's share, signed as one's own, would make its true owner look like the copier.
        let carried = bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if number.is_none() || carried != number {
            let why = "the share carries another holder's number";
            return Err(Refusal::new(Code::BadShare, why).blaming(Culprit::Party(said.holder)));
        }
        Ok(said)
    });
    let said = match checked {
        Ok(said) => said,
        Err(refusal) => {
            aggregator.driver.log_refusal(job, &refusal).await?;
            return Err(refusal.into());
        }
    };
    let blobs = aggregator.driver.store().blobs();
    let mut writer = BulkWriter::new(blobs, &key_space(job, &said.label));
    writer.write(&bytes).await?;
    let bulk = writer.finish().await?;
    if bulk_ref(&bulk) != said.partial {
        return Err(Problem::internal(&"a share was stored under another name"));
    }
    let key = record_key(job, &said.label, &said.holder);
    Ok((said.holder, Batch::new().put_record(PARTIAL, &key, bulk.to_record())))
}

/// Length and tree hash of bytes.
fn describe(bytes: &[u8]) -> BulkRef {
    let leaves: Vec<Hash> = bytes.chunks(CHUNK_BYTES).map(leaf_hash).collect();
    BulkRef { len: bytes.len() as u64, root: root(&leaves) }
}
