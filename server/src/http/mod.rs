//! What every service's HTTP side shares: problems, limits, the accept loop, observation and bulk
//! transfer. Routes live with the services.

pub mod bulk;
pub mod limits;
pub mod observe;
pub mod problem;
pub mod serve;
mod stall;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;

pub use limits::Limits;
pub use observe::Readiness;
pub use problem::Problem;
pub use serve::{Access, Caller, Server};

/// Wraps a service's routes into the application that [`Server::run`] serves: `/healthz`, `/readyz`
/// and `/metrics`, problems for unknown routes, wrong methods, rejected bodies and panics, access
/// control, load shedding, time-outs, request ids, access log and metrics.
pub fn app(routes: Router, limits: &Limits, access: Access, ready: Readiness) -> Router {
    let operations = Router::new()
        .route("/healthz", get(observe::healthz))
        .route("/readyz", get(move || observe::readyz(ready)))
        .route("/metrics", get(observe::metrics));
    // Innermost first. Operators must see a service that sheds load, so shedding and time-outs are
    // on the service's own routes only.
    routes
        .layer(from_fn_with_state(limits.request_timeout, limits::time_out))
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(from_fn_with_state(limits.gate(), limits::shed))
        .merge(operations)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn_with_state(access, serve::admit))
        .layer(from_fn(problem::normalise))
        .layer(from_fn(problem::catch_panic))
        .layer(from_fn(observe::observe))
}

#[cfg(test)]
mod bulk_tests;
#[cfg(test)]
mod tests;
