//! Bounds on what one client, or all of them, can make a service hold.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use super::Problem;

/// The bounds of one service.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Requests at a time; further ones are answered with `OVERLOADED`.
    pub requests: usize,
    /// Bytes of a body, unless a route says otherwise with [`body_limit`].
    pub body_bytes: usize,
    /// Bytes of the request line and headers.
    pub header_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Time for the headers of a request to arrive, also the longest idle time of a connection.
    pub header_timeout: Duration,
    /// Time for a request, its body included. The handler is dropped then; a commit it has begun
    /// is not.
    pub request_timeout: Duration,
    /// Time for a peer to take bytes of the answer.
    pub write_timeout: Duration,
    /// Time for running requests to end once the service is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            requests: 256,
            body_bytes: 256 << 10,
            header_bytes: 16 << 10,
            headers: 64,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

impl Limits {
    pub(super) fn gate(&self) -> Gate {
        Gate(Arc::new(Semaphore::new(self.requests)))
    }
}

/// Places for requests.
#[derive(Clone)]
pub(super) struct Gate(Arc<Semaphore>);

/// The body limit of one route, for extractors; [`collect`] has its own.
pub fn body_limit(bytes: usize) -> DefaultBodyLimit {
    DefaultBodyLimit::max(bytes)
}

/// Answers at once when all places are taken.
pub(super) async fn shed(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.0.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => {
            let detail = "too many requests at a time";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", detail)
                .retry_after(1)
                .into_response()
        }
    }
}

/// Ends a request that takes too long, whether its body trickles in or its handler waits.
pub(super) async fn time_out(
    State(limit): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => timed_out().into_response(),
    }
}

/// Reads a body of at most `max` bytes into one buffer of that size; each part must arrive within
/// `stall`.
///
/// # Errors
///
/// `BODY_TOO_LARGE`, `TIMED_OUT`, `BODY_CUT`.
pub async fn collect(body: Body, max: usize, stall: Duration) -> Result<Bytes, Problem> {
    let declared = usize::try_from(http_body_len(&body)).unwrap_or(usize::MAX);
    if declared > max {
        return Err(too_large(max));
    }
    let mut buffer = BytesMut::with_capacity(max);
    let mut parts = body.into_data_stream();
    loop {
        let Ok(part) = tokio::time::timeout(stall, parts.next()).await else {
            return Err(timed_out());
        };
        match part {
            None => return Ok(buffer.freeze()),
            Some(Ok(part)) if buffer.len() + part.len() > max => return Err(too_large(max)),
            Some(Ok(part)) => buffer.extend_from_slice(&part),
            Some(Err(_)) => {
                let detail = "the body ended before its length";
                return Err(Problem::new(StatusCode::BAD_REQUEST, "BODY_CUT", detail));
            }
        }
    }
}

/// The least number of bytes a body will have.
fn http_body_len(body: &Body) -> u64 {
    axum::body::HttpBody::size_hint(body).lower()
}

fn too_large(max: usize) -> Problem {
    let detail = format!("the body is longer than {max} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", detail)
}

fn timed_out() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "TIMED_OUT", "the request took too long")
}
