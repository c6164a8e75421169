//! What commands need of a service over HTTP, with errors that say what to do next.

use std::time::Duration;

use anyhow::{Context as _, bail};
use quorate_client::api::{ProblemBody, from_json};
use quorate_protocols::wire::decode;
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;

/// Longest answer read, in bytes.
const MAX_BYTES: usize = 8 << 20;

/// A client of one service.
pub(super) struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the service at `url`.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build()?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), http })
    }

    /// The HTTP client itself, for transfers.
    pub(super) const fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The address of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// `GET` of JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send_json(self.http.get(self.url(path))).await
    }

    /// Any request with a JSON answer.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        self.send_json(self.http.request(method, self.url(path)).body(body)).await
    }

    /// `GET` of a postcard value.
    pub(super) async fn packed<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(decode(&self.send(self.http.get(self.url(path))).await?)?)
    }

    async fn send_json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        Ok(from_json(&self.send(request).await?)?)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Vec<u8>> {
        let mut answer =
            request.send().await.map_err(reqwest::Error::without_url).with_context(|| {
                format!(
                    "{} does not answer; is the service running there? (--aggregator, --authority, --url)",
                    self.base
                )
            })?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await? {
            if body.len() + part.len() > MAX_BYTES {
                bail!("the answer of {} is too long", self.base);
            }
            body.extend_from_slice(&part);
        }
        if status.is_success() {
            return Ok(body);
        }
        let problem: ProblemBody = serde_json::from_slice(&body).unwrap_or_default();
        bail!("{} ({status}): {}{}", problem.code, problem.detail, advice(&problem.code))
    }
}

/// What to do about a code.
fn advice(code: &str) -> &'static str {
    match code {
        "UNKNOWN_JOB" => "\n  `quorate job list` shows the ids of all jobs",
        "UNAVAILABLE" | "OVERLOADED" | "NOT_READY" => {
            "\n  try again shortly; `/readyz` of the service says what it waits for"
        }
        "MANIFEST_BELOW_MINIMA" => "\n  raise k_min, colluders or the authorities of the job",
        "BAD_MANIFEST" | "MALFORMED" => "\n  correct the job's file and create it again",
        "BUDGET_SPENT" => "\n  `quorate job budget JOB` says what is spent and what is left",
        "WRONG_STATE" => "\n  `quorate job show JOB` says what the job waits for",
        _ => "",
    }
}
