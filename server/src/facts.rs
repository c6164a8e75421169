//! `GET /v1/facts`: what happened, for operators and auditors.

use axum::Json;
use axum::extract::{Query, State};
use quorate_client::store::{LoggedFact, Store};
use serde::Deserialize;

use crate::http::problem::Answer;

/// Facts of one answer.
const PAGE: u32 = 1000;

/// Query of the route.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct FactsQuery {
    /// Only facts after this one.
    #[serde(default)]
    after: u64,
    /// Only facts of this job.
    job: Option<String>,
}

/// Up to 1000 facts after `after`, oldest first.
pub(crate) async fn facts(
    State(store): State<Store>,
    Query(query): Query<FactsQuery>,
) -> Answer<Json<Vec<LoggedFact>>> {
    Ok(Json(match &query.job {
        Some(job) => store.job_facts_since(job, query.after, PAGE).await?,
        None => store.facts_since(query.after, PAGE).await?,
    }))
}
