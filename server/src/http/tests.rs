use std::sync::Arc;
use std::time::Duration;

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;

/// A served application and the switch that stops it.
pub(super) struct Running {
    pub(super) url: String,
    addr: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub(super) async fn start(routes: Router, limits: Limits) -> Self {
        Self::with(routes, limits, Readiness::always()).await
    }

    async fn with(routes: Router, limits: Limits, ready: Readiness) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let app = app(routes, &limits, Access::Loopback, ready);
        let server = Server::new(listener, app, limits);
        let task = tokio::spawn(server.run(async { drop(stopped.await) }));
        Self { url: format!("http://{addr}"), addr, stop: Some(stop), task }
    }

    fn tell_to_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(super) async fn stop(mut self) {
        self.tell_to_stop();
        self.task.await.unwrap();
    }
}

async fn problem(response: reqwest::Response) -> (u16, Value) {
    assert_eq!(response.headers()["content-type"], problem::PROBLEM_JSON);
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status);
    for member in ["type", "title", "detail", "code"] {
        assert!(body[member].as_str().is_some_and(|s| !s.is_empty()), "{body}");
    }
    (status, body["code"].clone())
}

fn routes() -> Router {
    Router::new()
        .route("/v1/echo", post(async |Json(v): Json<Value>| Json(v)))
        .route("/v1/number/{n}", get(async |Path(n): Path<u8>| n.to_string()))
        .route("/v1/panic", get(async || -> &'static str { panic!("in a test") }))
        .route("/v1/caller", get(async |caller: Caller| caller.addr.ip().to_string()))
        .route(
            "/v1/problem",
            get(async || {
                Problem::new(StatusCode::CONFLICT, "ALREADY_FROZEN", "too late").with("round", 3)
            }),
        )
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let server = Running::start(routes(), limits).await;
    let (client, url) = (Client::new(), &server.url);
    let get = |path: &str| client.get(format!("{url}{path}")).send();
    let echo = || client.post(format!("{url}/v1/echo")).header("content-type", "application/json");

    let code = async |r: Result<reqwest::Response, _>| problem(r.unwrap()).await;
    assert_eq!(code(get("/nothing").await).await, (404, json!("NOT_FOUND")));
    assert_eq!(code(get("/v1/echo").await).await, (405, json!("METHOD_NOT_ALLOWED")));
    let wrong = client.post(format!("{url}/healthz")).send().await;
    assert_eq!(code(wrong).await, (405, json!("METHOD_NOT_ALLOWED")));
    assert_eq!(code(get("/v1/number/300").await).await, (400, json!("BAD_REQUEST")));
    assert_eq!(code(echo().body("{").send().await).await, (400, json!("BAD_REQUEST")));
    let untyped = client.post(format!("{url}/v1/echo")).body("{}").send().await;
    assert_eq!(code(untyped).await, (415, json!("UNSUPPORTED_MEDIA_TYPE")));
    let long = echo().body(" ".repeat(101)).send().await;
    assert_eq!(code(long).await, (413, json!("BODY_TOO_LARGE")));
    assert_eq!(code(get("/v1/panic").await).await, (500, json!("INTERNAL")));

    let answer = get("/v1/problem").await.unwrap();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        body,
        json!({"type": "urn:quorate:problem:ALREADY_FROZEN", "title": "Conflict", "status": 409,
            "detail": "too late", "code": "ALREADY_FROZEN", "round": 3})
    );
    let echoed = echo().body(" ".repeat(98) + "{}").send().await.unwrap();
    assert_eq!(echoed.text().await.unwrap(), "{}");
    assert_eq!(get("/v1/caller").await.unwrap().text().await.unwrap(), "127.0.0.1");
    server.stop().await;
}

#[tokio::test]
async fn plain_http_from_elsewhere_is_refused() {
    let build = |access| app(routes(), &Limits::default(), access, Readiness::always());
    for (access, addr, status) in [
        (Access::Loopback, Some("10.0.0.1:9"), 403),
        (Access::Loopback, Some("[::1]:9"), 200),
        (Access::Loopback, Some("[::ffff:127.0.0.1]:9"), 200),
        (Access::Anyone, Some("10.0.0.1:9"), 200),
        (Access::Anyone, None, 401),
    ] {
        let mut request = axum::extract::Request::builder().uri("/v1/caller");
        if let Some(addr) = addr {
            request = request.extension(serve::Peer(addr.parse().unwrap()));
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let answer = tower::Service::call(&mut build(access), request).await.unwrap();
        assert_eq!(answer.status(), status, "{access:?} {addr:?}");
    }
}

#[tokio::test]
async fn a_full_service_sheds_load_and_says_so() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (e, l) = (Arc::clone(&entered), Arc::clone(&leave));
    let wait = get(move || async move {
        e.notify_one();
        l.notified().await;
        "done"
    });
    let limits = Limits { requests: 1, ..Limits::default() };
    let server = Running::start(Router::new().route("/v1/wait", wait), limits).await;
    let wait_url = format!("{}/v1/wait", server.url);
    let first = tokio::spawn(Client::new().get(&wait_url).send());
    entered.notified().await;
    let shed = reqwest::get(&wait_url).await.unwrap();
    assert_eq!(shed.headers()["retry-after"], "1");
    assert_eq!(problem(shed).await, (503, json!("OVERLOADED")));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(reqwest::get(format!("{}{path}", server.url)).await.unwrap().status(), 200);
    }
    leave.notify_one();
    assert_eq!(first.await.unwrap().unwrap().text().await.unwrap(), "done");
    server.stop().await;
}

async fn raw(server: &Running, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_trickles_is_cut() {
    let limits = Limits {
        header_timeout: Duration::from_millis(100),
        request_timeout: Duration::from_millis(100),
        headers: 4,
        header_bytes: 1000,
        ..Limits::default()
    };
    let server = Running::start(routes(), limits).await;
    // Each would wait forever without its limit.
    let body = "POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 50\r\n\r\n{";
    let answer = raw(&server, body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("TIMED_OUT"), "{answer}");
    let answer = raw(&server, b"GET / HTTP/1.1\r\nhos").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5));
    assert!(raw(&server, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1000));
    assert!(raw(&server, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let (done, ended) = oneshot::channel::<()>();
    let done = Arc::new(std::sync::Mutex::new(Some(done)));
    let endless = get(move || {
        // Dropped with the answer's body, once the connection is given up.
        let guard = done.lock().unwrap().take();
        let parts = futures_util::stream::repeat_with(move || {
            let _ = &guard;
            Ok::<_, std::io::Error>(bytes::Bytes::from(vec![0u8; 1 << 16]))
        });
        async { axum::body::Body::from_stream(parts) }
    });
    let limits = Limits { write_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = Running::start(Router::new().route("/v1/endless", endless), limits).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET /v1/endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(60), ended).await;
    assert!(cut.expect("the connection is still held").is_err());
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_service_answers_what_it_has_begun() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (e, l) = (Arc::clone(&entered), Arc::clone(&leave));
    let wait = get(move || async move {
        e.notify_one();
        l.notified().await;
        "done"
    });
    let routes = Router::new().route("/v1/wait", wait);
    let mut server = Running::start(routes, Limits::default()).await;
    let url = format!("{}/v1/wait", server.url);
    let first = tokio::spawn(Client::new().get(&url).send());
    entered.notified().await;
    server.tell_to_stop();
    while TcpStream::connect(server.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished());
    leave.notify_one();
    assert_eq!(first.await.unwrap().unwrap().text().await.unwrap(), "done");
    server.task.await.unwrap();
}

#[tokio::test]
async fn readiness_metrics_and_request_ids() {
    let ready = Readiness::new(|| async { Some("no authority answers".to_owned()) });
    let server = Running::with(routes(), Limits::default(), ready).await;
    let get = |path: &str| reqwest::get(format!("{}{path}", server.url));
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
    assert_eq!(problem(get("/readyz").await.unwrap()).await, (503, json!("NOT_READY")));
    assert_eq!(get("/v1/number/77").await.unwrap().text().await.unwrap(), "77");

    let text = get("/metrics").await.unwrap().text().await.unwrap();
    let labels = r#"{route="/v1/number/{n}",method="GET",status="200"}"#;
    assert!(text.contains(&format!("quorate_http_requests_total{labels}")), "{text}");
    assert!(text.contains("quorate_http_request_seconds_bucket"), "{text}");
    assert!(!text.contains("number/77"), "{text}");

    let with_id = |id: &str| {
        Client::new().get(format!("{}/healthz", server.url)).header("x-request-id", id).send()
    };
    assert_eq!(with_id("abc-1").await.unwrap().headers()["x-request-id"], "abc-1");
    let long = "x".repeat(65);
    for bad in ["a b", "a\"b", &long, ""] {
        let answer = with_id(bad).await.unwrap();
        let id = answer.headers()["x-request-id"].to_str().unwrap();
        assert!(id.len() == 16 && id != bad, "{id}");
    }
    server.stop().await;
}
