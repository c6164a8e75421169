//! `POST /v1/jobs`: a manifest to sign off.

use axum::body::Bytes;
use axum::extract::State;
use quorate_client::store::Batch;
use quorate_protocols::machine::Context;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::{AuthorityJob, Event};
use quorate_protocols::round::messages::Message;

use super::Shared;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn register(State(authority): State<Shared>, body: Bytes) -> Answer {
    let Message::Register(manifest) = routes::message(&body)? else {
        return Err(routes::wrong_message("register").into());
    };
    let job = manifest.hash();
    if manifest.is_vertical() {
        return super::vertical::register(&authority, job, manifest).await;
    }
    let (parties, state) = (authority.parties(), authority.clone());
    let register = move |known: Option<AuthorityJob>, cx: &mut Context<'_>| {
        let config = &state.config;
        if manifest.tenant != config.tenant {
            return Err(Refusal::new(Code::BadManifest, "the manifest names another tenant").into());
        }
        if manifest.is_threshold() && config.aggregator.is_none() {
            let why = "this authority was started without --aggregator, where it would fetch the \
                       ciphertexts of a threshold job";
            return Err(Refusal::new(Code::BadManifest, why).into());
        }
        let (next, outputs) = match known {
            Some(job) => {
                job.handle(cx, &*parties, Event::Message(Message::Register(manifest).into()))?
            }
            None => AuthorityJob::register(
                cx,
                &config.name,
                state.driver.epoch(),
                &config.minima,
                *manifest,
            )?,
        };
        Ok((next, outputs, Batch::new()))
    };
    routes::reply(authority.driver.create(job, register).await?.answer()?)
}
