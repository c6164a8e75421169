//! `POST /v1/jobs/{job}/promises`: a frozen set to be bound to.

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::store::Batch;
use quorate_protocols::machine::Output;
use quorate_protocols::round::authority::Event;
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::encode;

use super::Shared;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn promise(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let Message::PromiseRequest(request) = routes::message(&body)? else {
        return Err(routes::wrong_message("promise request").into());
    };
    let (parties, state) = (authority.parties(), authority.clone());
    let done = authority
        .driver
        .step(job, move |machine, cx| {
            // The operator may have raised them since the job was signed off.
            state.config.minima.check(machine.manifest())?;
            let freeze = request.freeze.clone();
            let event = Event::Message(Message::PromiseRequest(request).into());
            let (next, outputs) = machine.handle(cx, &*parties, event)?;
            // The frozen set becomes durable together with the promise that names it.
            let promised = outputs.iter().any(|output| matches!(output, Output::Send { .. }));
            let batch = if promised {
                Batch::new().put_record("freeze", &freeze.hash().to_string(), encode(&freeze))
            } else {
                Batch::new()
            };
            Ok((next, outputs, batch))
        })
        .await?;
    routes::reply(done.answer()?)
}
