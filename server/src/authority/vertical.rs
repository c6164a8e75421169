//! `POST /v1/jobs/{job}/vertical`: identifiers to evaluate for a party, scores and products to open for
//! the label holder of a vertical job.

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_protocols::fedv::authority::{AuthorityJob, EvaluateBatch};
use quorate_protocols::job::Manifest;
use quorate_protocols::machine::Context;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::Message;

use super::Shared;
use crate::driver::Failure;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn ask(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let message = routes::message(&body)?;
    let parties = authority.parties();
    let mut done = authority
        .vertical
        .step::<EvaluateBatch>(job, move |machine, cx| {
            let (next, outputs) = machine.handle(cx, &*parties, message)?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    // Counted and stored before it is computed; asked again, it is computed again.
    if let Some(work) = done.work.pop() {
        let identity = authority.vertical.shared_identity();
        let answer = tokio::task::spawn_blocking(move || work.answer(&identity, &job)).await;
        return routes::reply(&answer.map_err(|_| Failure::Interrupted)??);
    }
    routes::reply(done.answer()?)
}

/// Signs off a vertical job.
pub(super) async fn register(authority: &Shared, job: Hash, manifest: Box<Manifest>) -> Answer {
    let (parties, state) = (authority.parties(), authority.clone());
    let register = move |known: Option<AuthorityJob>, cx: &mut Context<'_>| {
        let config = &state.config;
        if manifest.tenant != config.tenant {
            return Err(Refusal::new(Code::BadManifest, "the manifest names another tenant").into());
        }
        let (next, outputs) = match known {
            Some(job) => job.handle(cx, &*parties, Message::Register(manifest))?,
            None => {
                let epoch = state.vertical.epoch();
                AuthorityJob::register(cx, &config.name, epoch, &config.minima, *manifest)?
            }
        };
        Ok((next, outputs, Batch::new()))
    };
    routes::reply(authority.vertical.create::<EvaluateBatch>(job, register).await?.answer()?)
}
