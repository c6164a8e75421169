//! The accept loop, and the one place that decides who may call.
//!
//! Transport security, enrolment tokens and roles belong here: [`Server::run`] will wrap each
//! accepted stream in TLS and note the peer's certificate beside `Peer`; `admit` will turn that
//! or a token into the identity and role of [`Caller`]. Handlers already take what they know about
//! the client from [`Caller`] alone.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::stall::Stall;
use super::{Limits, Problem};

/// Address of the connected peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Who may call a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Only this machine; others are refused with `PLAIN_HTTP_REFUSED`.
    #[default]
    Loopback,
    /// Anyone who can connect: for private networks that authenticate by other means.
    Anyone,
}

/// What a handler knows about its client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Address of the connection.
    pub addr: SocketAddr,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(unknown_caller)
    }
}

/// Decides whether a request may go on, and attaches its [`Caller`].
pub(super) async fn admit(
    State(access): State<Access>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(Peer(addr)) = request.extensions().get().copied() else {
        return unknown_caller().into_response();
    };
    if access == Access::Loopback && !addr.ip().to_canonical().is_loopback() {
        let detail = "this service takes plain HTTP from its own machine only";
        return Problem::new(StatusCode::FORBIDDEN, "PLAIN_HTTP_REFUSED", detail).into_response();
    }
    request.extensions_mut().insert(Caller { addr });
    next.run(request).await
}

fn unknown_caller() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "the caller is not known")
}

/// An HTTP/1.1 server for one application.
pub struct Server {
    listener: TcpListener,
    app: Router,
    limits: Limits,
}

impl Server {
    /// A server of an application made by [`app`](super::app), with the same limits.
    #[must_use]
    pub fn new(listener: TcpListener, app: Router, limits: Limits) -> Self {
        Self { listener, app, limits }
    }

    /// Serves until `stop` resolves, then lets running requests end within the drain time.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let (closing, _) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                (place, accepted) = accept => match accepted {
                    Ok((stream, addr)) => {
                        let (app, closing) = (self.app.clone(), closing.subscribe());
                        let limits = self.limits.clone();
                        connections.spawn(async move {
                            connection(stream, addr, app, limits, closing).await;
                            drop(place);
                        });
                    }
                    Err(error) => accept_failed(&error).await,
                }
            }
        }
        drop(self.listener);
        closing.send_replace(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.limits.drain, drained).await.is_err() {
            tracing::warn!("requests still running at the end of the drain time are cut");
        }
    }
}

async fn connection(
    stream: TcpStream,
    addr: SocketAddr,
    app: Router,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
    // Small answers must not wait for the peer's acknowledgement of earlier ones.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(addr));
        let mut app = app.clone();
        async move { Ok::<_, Infallible>(call(&mut app, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .serve_connection(TokioIo::new(Stall::new(stream, limits.write_timeout)), service);
    let mut connection = pin!(connection);
    let closed = async { drop(closing.wait_for(|closing| *closing).await) };
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = closed => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%addr, %error, "connection ended");
    }
}

async fn call(app: &mut Router, request: hyper::Request<Incoming>) -> Response {
    // A router is always ready.
    match tower::Service::call(app, request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        // Out of descriptors, most likely: give connections time to end.
        tracing::error!(%error, "cannot accept");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Resolves on SIGTERM or SIGINT.
///
/// # Errors
///
/// If the handlers cannot be installed.
pub fn signals() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping");
    })
}
