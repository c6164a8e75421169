//! Logs, metrics and health. No payload, header value, query string or secret is ever written.

use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::Instrument;
use tracing_subscriber::EnvFilter;

use super::Problem;

/// Carries the id of a request; a client's own id is kept if it is 1 to 64 letters, digits or `-`.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SECONDS: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0];

/// Says why a service is not ready, or nothing.
#[derive(Clone)]
pub struct Readiness(Arc<dyn Fn() -> BoxedReason + Send + Sync>);

type BoxedReason = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

impl Readiness {
    /// Asks `check`, which returns a reason for people if the service cannot do its work now.
    pub fn new<F>(check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(check())))
    }

    /// Ready as soon as it answers.
    #[must_use]
    pub fn always() -> Self {
        Self::new(|| async { None })
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Sends logs of the whole process to standard error; `filter` as in `info,quorate_server=debug`.
///
/// # Errors
///
/// A malformed filter, or logs set up before.
pub fn init_logs(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("{error}"))
}

/// The process's metrics; installs the recorder on the first call.
fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).ok()?;
        builder.install_recorder().inspect_err(|error| tracing::error!(%error, "no metrics")).ok()
    };
    HANDLE.get_or_init(install).as_ref()
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(ready: Readiness) -> Response {
    match (ready.0)().await {
        None => "ready\n".into_response(),
        Some(reason) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_READY", reason).into_response()
        }
    }
}

pub(super) async fn metrics() -> Response {
    let Some(handle) = recorder() else {
        return Problem::internal(&"no metrics recorder").into_response();
    };
    handle.run_upkeep();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(CONTENT_TYPE, kind)], handle.render()).into_response()
}

/// Gives each request an id, a line in the access log and its share of the metrics.
pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    recorder();
    let id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID.clone(), id.clone());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // The pattern, not the path: the number of time series stays bounded.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let route = route.to_owned();
    let bytes_in = request.body().size_hint().lower();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    let bytes_out = response.body().size_hint().exact().unwrap_or(0);
    let labels = [
        ("route", route),
        ("method", method_label(&method).to_owned()),
        ("status", status.to_string()),
    ];
    metrics::counter!("quorate_http_requests_total", &labels).increment(1);
    metrics::counter!("quorate_http_request_bytes_total", &labels).increment(bytes_in);
    metrics::counter!("quorate_http_response_bytes_total", &labels).increment(bytes_out);
    metrics::histogram!("quorate_http_request_seconds", &labels).record(seconds);
    span.in_scope(|| {
        tracing::info!(%method, path, status, bytes_in, bytes_out, ms = seconds * 1e3, "answered");
    });
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

fn method_label(method: &Method) -> &str {
    let known = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD];
    if known.contains(method) { method.as_str() } else { "other" }
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let good = |id: &&HeaderValue| {
        (1..=64).contains(&id.len())
            && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    if let Some(id) = headers.get(&REQUEST_ID).filter(good) {
        return id.clone();
    }
    let mut random = [0u8; 8];
    // Ids only help to read logs: a system without randomness has larger worries.
    let _ = getrandom::fill(&mut random);
    HeaderValue::from_str(&hex::encode(random)).unwrap_or(HeaderValue::from_static("none"))
}
