//! This authority's partial decryption of a threshold job's sum: the replies of the frozen set are
//! fetched from the operator's aggregator, checked one by one, and only then added up.

use std::sync::Arc;

use quorate_client::bulk::{Bulk, BulkError, BulkReader, Transfer, download};
use quorate_client::engine::{bulk_info, partial_to_bulk, reply_fault, sum_context};
use quorate_client::store::Blobs;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_protocols::job::Manifest;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::{ComputeKey, KeyMember};
use quorate_protocols::round::keying::JobKey;
use quorate_protocols::round::{STEP_KEY, STEP_SUBMIT};

use super::{Authority, key_posts};
use crate::driver::Failure;
use crate::http::Problem;

/// Computes and stores the partial decryption of a released set.
pub(super) async fn compute(
    authority: &Authority,
    job: &Hash,
    (manifest, key): (&Arc<Manifest>, &JobKey),
    work: &ComputeKey,
    output: (&Blobs, &str),
) -> Result<Bulk, Problem> {
    let mut replies = Vec::with_capacity(work.members.len());
    for member in &work.members {
        replies.push(fetch(authority, job, manifest, work, member).await?);
    }
    let share = key_posts::share(authority, job, manifest, key).await?;
    let context = sum_context(manifest, Some(key), work.round, work.label)?;
    let me = (authority.driver.identity(), &share);
    let scheme = manifest.sum_scheme()?;
    let made =
        partial_to_bulk(scheme, context, STEP_KEY, me, &work.members, &replies, output).await;
    match made {
        Ok(partial) => Ok(partial),
        Err(error) => {
            let refusal =
                reply_fault(error, &work.members).map_err(|error| Problem::internal(&error))?;
            authority.driver.log_refusal(job, &refusal).await?;
            Err(refusal.into())
        }
    }
}

/// One member's reply, of the length that the manifest fixes and the tree hash that the member signed.
async fn fetch(
    authority: &Authority,
    job: &Hash,
    manifest: &Manifest,
    work: &ComputeKey,
    member: &KeyMember,
) -> Result<BulkReader, Problem> {
    let expected = manifest.step_bytes(work.round, STEP_SUBMIT)?;
    if member.ciphertext.len != expected {
        let why = format!("the reply of {} has another length than the job fixes", member.party);
        return Err(Refusal::new(Code::WrongLength, why).into());
    }
    let Some(aggregator) = &authority.config.aggregator else {
        let why = "this authority was started without --aggregator and cannot fetch ciphertexts";
        return Err(Refusal::new(Code::Unavailable, why).into());
    };
    let (label, party) = (work.label, &member.party);
    let base = format!("{aggregator}/v1/jobs/{job}/submissions/{label:?}/{party}");
    let party_space = hash_parts("reply-space", &[&label.0, party.as_str().as_bytes()]);
    let space = format!("{}/{party_space}", replies_space(job));
    let (blobs, how) = (authority.driver.store().blobs(), Transfer::default());
    let info = bulk_info(&member.ciphertext);
    download(&authority.http, &base, &info, blobs, &space, &how).await.map_err(
        |error| match error {
            BulkError::Store(error) => error.into(),
            other => {
                let why = format!("the reply of {party} could not be fetched: {other}");
                tracing::warn!(%job, why, "no ciphertext");
                Refusal::new(Code::Unavailable, why).into()
            }
        },
    )
}

/// Erases the replies that were fetched for a partial decryption that is stored.
pub(super) async fn forget(authority: &Authority, job: &Hash) -> Result<(), Failure> {
    Ok(authority.driver.store().blobs().delete_namespace(&replies_space(job)).await?)
}

/// Chunks of fetched replies.
fn replies_space(job: &Hash) -> String {
    format!("{job}/replies")
}
