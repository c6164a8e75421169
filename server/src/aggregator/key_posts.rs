//! `POST /v1/jobs/{job}/key-posts`: a holder's post to the threshold key.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use quorate_client::store::Batch;
use quorate_protocols::machine::Peer;
use quorate_protocols::round::aggregator::{Event, OpenSum};
use quorate_protocols::round::messages::Message;

use super::Shared;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn post(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer<StatusCode> {
    let job = routes::job_id(&job)?;
    let Message::KeyPost(post) = routes::message(&body)? else {
        return Err(routes::wrong_message("key post").into());
    };
    let from = Peer::Party(post.peek()?.from);
    aggregator
        .driver
        .step::<OpenSum>(job, move |machine, cx| {
            let event = Event::Message { from, message: Box::new(Message::KeyPost(post)) };
            let (next, outputs) = machine.handle(cx, event)?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
