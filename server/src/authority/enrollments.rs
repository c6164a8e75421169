//! `POST /v1/enrollments`: a party's keys, first seen or rotated; answered with a certificate.

use std::sync::{Arc, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use quorate_client::engine::now_ms;
use quorate_client::store::{Batch, Fact};
use quorate_crypto::merkle::Hash;
use quorate_protocols::enrol::{EnrollRequest, Enrolled};
use quorate_protocols::job::RosterEntry;
use quorate_protocols::refusal::Refusal;
use quorate_protocols::wire::{Signed, decode, encode};
use serde_json::json;

use super::{Authority, Shared};
use crate::driver::Failure;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn enroll(State(authority): State<Shared>, body: Bytes) -> Answer {
    let request: EnrollRequest = decode(&body)?;
    // A task of its own, so that the store and the directory change together.
    let task = tokio::spawn(async move { enrolled(&authority, &request).await });
    routes::packed(&task.await.map_err(|_| Failure::Interrupted)??)
}

async fn enrolled(
    authority: &Authority,
    request: &EnrollRequest,
) -> Result<Signed<Enrolled>, Failure> {
    let _one_at_a_time = authority.enrolling.lock().await;
    let entry = match known_after(authority, request) {
        Ok((entry, false)) => entry,
        Ok((entry, true)) => {
            store(authority, &entry).await?;
            entry
        }
        Err(refusal) => {
            authority.driver.log_refusal(&Hash([0; 32]), &refusal).await?;
            return Err(refusal.into());
        }
    };
    let identity = authority.driver.identity();
    let certificate = Enrolled {
        authority: authority.config.name.clone(),
        verify: identity.verify_key(),
        exchange: identity.exchange_key(),
        authority_epoch: authority.driver.epoch(),
        tenant: authority.config.tenant.clone(),
        entry,
    };
    // Signatures are deterministic: the same request gets the same bytes.
    Ok(Signed::sign(certificate, identity).signed().clone())
}

/// The keys this party has after the request, and whether they are new.
fn known_after(
    authority: &Authority,
    request: &EnrollRequest,
) -> Result<(RosterEntry, bool), Refusal> {
    let claimed = request.enroll.peek()?.entry.party;
    let parties = authority.parties();
    let known = parties.get(&claimed);
    let enroll = request.check(&authority.config.tenant, known)?;
    Ok((enroll.entry.clone(), known != Some(&enroll.entry)))
}

async fn store(authority: &Authority, entry: &RosterEntry) -> Result<(), Failure> {
    let fact = Fact {
        at_ms: now_ms(),
        job: String::new(),
        actor: authority.config.name.to_string(),
        predicate: "party.enrolled".to_owned(),
        body: json!({ "party": entry.party, "epoch": entry.epoch }),
    };
    tracing::info!(party = %entry.party, epoch = entry.epoch, "enrolled");
    let batch = Batch::new().put_record("party", entry.party.as_str(), encode(entry)).fact(fact);
    authority.driver.store().commit(batch).await?;
    let mut parties = authority.parties.write().unwrap_or_else(PoisonError::into_inner);
    Arc::make_mut(&mut parties).insert(entry.party.clone(), entry.clone());
    Ok(())
}
