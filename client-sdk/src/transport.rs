//! Requests to services: refusals as values, patience with peers that are away.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_crypto::merkle::Hash;
use quorate_protocols::refusal::{Code, Refusal};
use rand_core::Rng;
use reqwest::{Client, Method, Response, StatusCode};
use tokio::time::Instant;

use crate::api::{
    JobCreated, JobSpec, MAX_JSON_BYTES, ProblemBody, VerticalQuery, ViewQuery, from_json,
};
use crate::bulk::BulkError;
use crate::engine::os_rng;

/// Most bytes kept of an error answer.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The peer refused for good.
    #[error("{peer} refuses: {} {}", .problem.code, .problem.detail)]
    Refused {
        /// Who.
        peer: String,
        /// HTTP status.
        status: u16,
        /// Its reason.
        problem: ProblemBody,
    },
    /// The peer could not be reached, or kept failing, for as long as patience lasted.
    #[error("{peer} cannot be reached: {why}")]
    Unreachable {
        /// Who.
        peer: String,
        /// The last failure.
        why: String,
    },
    /// The peer answered with something that is not an answer.
    #[error("{peer} gives a malformed answer: {why}")]
    BadAnswer {
        /// Who.
        peer: String,
        /// What is wrong.
        why: String,
    },
}

impl CallError {
    /// An answer that does not read as what was asked for.
    #[must_use]
    pub fn bad_answer(peer: &str, why: &Refusal) -> Self {
        Self::BadAnswer { peer: peer.to_owned(), why: why.detail.clone() }
    }

    /// Whether the peer refused with this code.
    #[must_use]
    pub fn is(&self, code: Code) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.code == code.as_str())
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// A refused or failed transfer of a vector.
    pub(crate) fn of_bulk(peer: &str, error: BulkError) -> Result<Self, BulkError> {
        let peer = peer.to_owned();
        match error {
            BulkError::Refused { status, body } => {
                Ok(Self::Refused { peer, status, problem: problem(status, &body) })
            }
            BulkError::Transport(why) => Ok(Self::Unreachable { peer, why }),
            other => Err(other),
        }
    }
}

fn problem(status: u16, body: &[u8]) -> ProblemBody {
    serde_json::from_slice(body)
        .ok()
        .filter(|problem: &ProblemBody| !problem.code.is_empty())
        .unwrap_or_else(|| ProblemBody {
            code: format!("HTTP_{status}"),
            detail: "the answer has no reason".to_owned(),
            concerns: Vec::new(),
        })
}

/// Waits between attempts: doubling, with jitter, so that parties that lost one peer do not return
/// all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    delay: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    pub(crate) const fn new() -> Self {
        Self { delay: Self::FIRST }
    }

    pub(crate) const fn reset(&mut self) {
        self.delay = Self::FIRST;
    }

    pub(crate) async fn wait(&mut self) {
        let share = 0.5 + f64::from(os_rng().next_u32()) / f64::from(u32::MAX) / 2.0;
        tokio::time::sleep(self.delay.mul_f64(share)).await;
        self.delay = (self.delay * 2).min(Self::LONGEST);
    }
}

/// A request that may be sent more than once.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    url: String,
    query: Option<Query>,
    body: Bytes,
}

#[derive(Clone, Debug)]
enum Query {
    View(ViewQuery),
    Vertical(VerticalQuery),
}

impl Ask {
    /// `GET`.
    #[must_use]
    pub const fn get(url: String) -> Self {
        Self { method: Method::GET, url, query: None, body: Bytes::new() }
    }

    /// `GET` of a view.
    #[must_use]
    pub const fn view(url: String, query: ViewQuery) -> Self {
        Self { method: Method::GET, url, query: Some(Query::View(query)), body: Bytes::new() }
    }

    /// `GET` of a view of a vertical job.
    #[must_use]
    pub const fn vertical_view(url: String, query: VerticalQuery) -> Self {
        let query = Some(Query::Vertical(query));
        Self { method: Method::GET, url, query, body: Bytes::new() }
    }

    /// `POST` of raw bytes.
    #[must_use]
    pub fn post(url: String, body: Vec<u8>) -> Self {
        Self { method: Method::POST, url, query: None, body: body.into() }
    }
}

/// An HTTP client that waits for peers to come back.
#[derive(Clone)]
pub struct Transport {
    client: Client,
    patience: Duration,
}

impl Transport {
    /// A client that keeps trying an unreachable peer for `patience`.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] when the system gives no client.
    pub fn new(patience: Duration) -> Result<Self, CallError> {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| CallError::Unreachable {
                peer: "this system".to_owned(),
                why: e.to_string(),
            })?;
        Ok(Self { client, patience })
    }

    /// The client, for transfers of vectors.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// How long an unreachable peer is tried again.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// One attempt of a request; the answer has at most `max` bytes.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn once(&self, peer: &str, ask: &Ask, max: usize) -> Result<Bytes, CallError> {
        let unreachable = |error: reqwest::Error| CallError::Unreachable {
            peer: peer.to_owned(),
            why: sources(&error.without_url()),
        };
        let mut request = self.client.request(ask.method.clone(), &ask.url);
        match &ask.query {
            Some(Query::View(query)) => request = request.query(query),
            Some(Query::Vertical(query)) => request = request.query(query),
            None => {}
        }
        if !ask.body.is_empty() {
            request = request.body(ask.body.clone());
        }
        let response =
            request.timeout(Duration::from_secs(60)).send().await.map_err(unreachable)?;
        let status = response.status();
        let limit = if status.is_success() { max } else { MAX_PROBLEM_BYTES };
        let body = read(response, limit).await.map_err(unreachable)?;
        if status.is_success() {
            return body.ok_or_else(|| CallError::BadAnswer {
                peer: peer.to_owned(),
                why: format!("over {max} bytes"),
            });
        }
        let problem = problem(status.as_u16(), &body.unwrap_or_default());
        let later = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        Err(if later {
            let why = format!("{} {}", problem.code, problem.detail);
            CallError::Unreachable { peer: peer.to_owned(), why }
        } else {
            CallError::Refused { peer: peer.to_owned(), status: status.as_u16(), problem }
        })
    }

    /// Creates a job at an aggregator and returns its id. Not repeated: each request makes a job.
    ///
    /// # Errors
    /// [`CallError`], with the setting that is wrong.
    pub async fn create_job(&self, aggregator: &str, spec: &JobSpec) -> Result<Hash, CallError> {
        let peer = "the aggregator";
        let url = format!("{}/v1/jobs", aggregator.trim_end_matches('/'));
        let body = serde_json::to_vec(spec).map_err(|e| CallError::BadAnswer {
            peer: "this job".to_owned(),
            why: e.to_string(),
        })?;
        let answer = self.once(peer, &Ask::post(url, body), MAX_JSON_BYTES).await?;
        let created: JobCreated =
            from_json(&answer).map_err(|e| CallError::bad_answer(peer, &e))?;
        Ok(created.job.into())
    }

    /// A request, repeated until it is answered or patience ends; the peer must treat repetitions
    /// as one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn insist(&self, peer: &str, ask: &Ask, max: usize) -> Result<Bytes, CallError> {
        let (start, mut backoff) = (Instant::now(), Backoff::new());
        loop {
            match self.once(peer, ask, max).await {
                Err(error) if error.is_transient() && start.elapsed() < self.patience => {
                    tracing::debug!(%error, "trying again");
                    backoff.wait().await;
                }
                done => return done,
            }
        }
    }
}

/// The body, or `None` when it is longer than `max`.
async fn read(mut response: Response, max: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await? {
        if body.len() + part.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&part);
    }
    Ok(Some(body.freeze()))
}

/// An error and its causes in one line.
fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_reason_gets_one() {
        let full = br#"{"type":"about:blank","code":"LATE","detail":"frozen","culprits":[]}"#;
        assert_eq!(problem(409, full).code, "LATE");
        for body in [&b"<html>"[..], b"{}", b""] {
            assert_eq!(problem(404, body).code, "HTTP_404");
        }
    }

    #[test]
    fn refusals_are_final_and_outages_are_not() {
        let refused = BulkError::Refused { status: 409, body: br#"{"code":"LATE"}"#.to_vec() };
        let refused = CallError::of_bulk("aggregator", refused).unwrap();
        assert!(refused.is(Code::Late) && !refused.is_transient());
        let away = CallError::of_bulk("aggregator", BulkError::Transport("cut".into())).unwrap();
        assert!(away.is_transient());
        assert!(CallError::of_bulk("aggregator", BulkError::WrongRoot).is_err());
    }
}
