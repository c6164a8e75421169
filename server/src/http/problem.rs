//! Errors as problem documents (RFC 9457), with codes that stay stable.

use std::panic::AssertUnwindSafe;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use quorate_client::bulk::BulkError;
use quorate_client::store::StoreError;
use serde_json::{Map, Value};

/// Media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

const MAX_DETAIL_BYTES: usize = 512;

/// An error answer: `{type, title, status, detail, code, ...}`.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    extensions: Map<String, Value>,
    retry_after_s: Option<u32>,
}

/// What handlers return.
pub type Answer<T = Response> = Result<T, Problem>;

impl Problem {
    /// A problem with a stable `UPPER_SNAKE` code and a sentence for people. Neither holds secrets
    /// or payloads.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, code, detail, extensions: Map::new(), retry_after_s: None }
    }

    /// Adds a member to the document.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// Tells the client when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// A failure of this service, whose cause goes to the log and not to the client.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::of_status(StatusCode::INTERNAL_SERVER_ERROR, String::new())
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    fn of_status(status: StatusCode, detail: String) -> Self {
        let (code, default) = match status {
            StatusCode::UNAUTHORIZED => ("UNAUTHENTICATED", "who are you?"),
            StatusCode::FORBIDDEN => ("FORBIDDEN", "not allowed"),
            StatusCode::NOT_FOUND => ("NOT_FOUND", "there is nothing here"),
            StatusCode::METHOD_NOT_ALLOWED => ("METHOD_NOT_ALLOWED", "wrong method for this path"),
            StatusCode::REQUEST_TIMEOUT => ("TIMED_OUT", "the request took too long"),
            StatusCode::CONFLICT => ("CONFLICT", "the state has changed meanwhile"),
            StatusCode::PAYLOAD_TOO_LARGE => ("BODY_TOO_LARGE", "the body is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("UNSUPPORTED_MEDIA_TYPE", "wrong content type"),
            StatusCode::UNPROCESSABLE_ENTITY => ("UNPROCESSABLE", "the content is not acceptable"),
            StatusCode::TOO_MANY_REQUESTS => ("TOO_MANY_REQUESTS", "slow down"),
            StatusCode::SERVICE_UNAVAILABLE => ("UNAVAILABLE", "try again later"),
            s if s.is_server_error() => ("INTERNAL", "the service failed; see its log"),
            _ => ("BAD_REQUEST", "the request is malformed"),
        };
        let detail = if detail.is_empty() { default.to_owned() } else { detail };
        Self::new(status, code, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = self.extensions;
        document.insert("type".into(), format!("urn:quorate:problem:{}", self.code).into());
        document.insert("title".into(), self.status.canonical_reason().unwrap_or("Error").into());
        document.insert("status".into(), self.status.as_u16().into());
        document.insert("detail".into(), self.detail.into());
        document.insert("code".into(), self.code.into());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(axum::http::header::RETRY_AFTER, seconds.into());
        }
        (self.status, headers, Json(Value::Object(document)).into_response().into_body())
            .into_response()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } | StoreError::Exists { .. } => {
                Self::of_status(StatusCode::CONFLICT, String::new())
            }
            StoreError::NoChunk(_) => {
                Self::new(StatusCode::NOT_FOUND, "BULK_NO_CHUNK", "the chunk is not stored")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<BulkError> for Problem {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Store(error) => error.into(),
            BulkError::OutOfRange => {
                Self::new(StatusCode::NOT_FOUND, error.code(), error.to_string())
            }
            error if error.is_peer_fault() => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.code(), error.to_string())
            }
            other => Self::internal(&other),
        }
    }
}

/// Answer to an unknown path.
pub(super) async fn not_found() -> Problem {
    Problem::of_status(StatusCode::NOT_FOUND, String::new())
}

/// Answer to a known path with the wrong method.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::of_status(StatusCode::METHOD_NOT_ALLOWED, String::new())
}

/// Turns error answers that are not problems, such as rejections of extractors, into problems.
pub(super) async fn normalise(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE);
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || kind.is_some_and(|kind| kind == PROBLEM_JSON) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let detail = if status.is_client_error() { short_text(body).await } else { String::new() };
    let mut answer = Problem::of_status(status, detail).into_response();
    for (name, value) in &parts.headers {
        if *name != CONTENT_TYPE && *name != axum::http::header::CONTENT_LENGTH {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    answer
}

async fn short_text(body: Body) -> String {
    match to_bytes(body, MAX_DETAIL_BYTES).await {
        Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// Turns a panic of a handler into a problem; the process goes on.
pub(super) async fn catch_panic(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        // The panic hook has written the message.
        Err(_) => Problem::internal(&"a handler panicked").into_response(),
    }
}
