//! What routes of both services share: ids in paths, messages in bodies, octets in answers.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::{Name, encode};
use serde::Serialize;

use crate::driver::parse_hash;
use crate::http::Problem;
use crate::http::problem::Answer;

/// Largest control message, in bytes, with its version and protocol.
pub(crate) const MESSAGE_BYTES: usize = quorate_protocols::wire::MAX_MESSAGE_BYTES + 3;

/// Refuses a body declared longer than any that a service takes, before a byte of it is read.
pub(crate) async fn refuse_long(request: Request, next: Next) -> Response {
    let declared = request.headers().get(CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > MESSAGE_BYTES as u64) {
        let detail = format!("no body here is longer than {MESSAGE_BYTES} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", detail)
            .into_response();
    }
    next.run(request).await
}

/// The job named in a path.
pub(crate) fn job_id(text: &str) -> Result<Hash, Refusal> {
    parse_hash(text)
        .ok_or_else(|| Refusal::new(Code::UnknownJob, "a job id is 64 hexadecimal digits"))
}

/// The label named in a path.
pub(crate) fn label_id(text: &str) -> Result<Label, Refusal> {
    parse_hash(text)
        .map(|hash| Label(hash.0))
        .ok_or_else(|| Refusal::new(Code::UnknownRound, "a label is 64 hexadecimal digits"))
}

/// The name in a path.
pub(crate) fn name(text: &str) -> Result<Name, Refusal> {
    Name::new(text)
}

/// The message in a body.
pub(crate) fn message(body: &Bytes) -> Result<Message, Refusal> {
    Message::from_wire(body)
}

/// The refusal of a message that does not belong to this route.
pub(crate) fn wrong_message(expected: &str) -> Refusal {
    Refusal::new(Code::Malformed, format!("this route takes a {expected} message"))
}

/// Octets as an answer.
pub(crate) fn octets(bytes: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(CONTENT_TYPE, kind)], bytes).into_response()
}

/// A message as an answer.
pub(crate) fn reply(message: &Message) -> Answer {
    Ok(octets(message.to_wire()))
}

/// A postcard value as an answer.
pub(crate) fn packed<T: Serialize>(value: &T) -> Answer {
    Ok(octets(encode(value)))
}
