//! `POST /v1/jobs/{job}/parties`: a party asks to be invited.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use quorate_client::store::Batch;
use quorate_protocols::fedv;
use quorate_protocols::machine::Peer;
use quorate_protocols::round::aggregator::{Event, OpenSum};
use quorate_protocols::round::messages::Message;

use super::{Shared, vertical};
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn join(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    let job = routes::job_id(&job)?;
    let Message::Join(join) = routes::message(&body)? else {
        return Err(routes::wrong_message("join").into());
    };
    if vertical::knows(&aggregator, &job) {
        let event = fedv::aggregator::Event::Message(Box::new(Message::Join(join)));
        vertical::handle(&aggregator, job, event, Batch::new()).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let from = Peer::Party(join.peek()?.entry.party);
    aggregator
        .driver
        .step::<OpenSum>(job, move |machine, cx| {
            let event = Event::Message { from, message: Box::new(Message::Join(join)) };
            let (next, outputs) = machine.handle(cx, event)?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
