//! `POST /v1/jobs/{job}/tombstones`: an attempt that is given up.

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::store::Batch;
use quorate_protocols::round::authority::Event;
use quorate_protocols::round::messages::Message;

use super::Shared;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn bury(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let request = routes::message(&body)?;
    if !matches!(request, Message::TombstoneRequest(_)) {
        return Err(routes::wrong_message("tombstone request").into());
    }
    let parties = authority.parties();
    let done = authority
        .driver
        .step(job, move |machine, cx| {
            let (next, outputs) = machine.handle(cx, &*parties, Event::Message(request.into()))?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    routes::reply(done.answer()?)
}
