//! `GET /v1/jobs/{job}/package`: the manifest with every authority's approval.

use axum::extract::{Path, State};
use quorate_protocols::fedv;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::aggregator::AggregatorJob;

use super::{Shared, vertical};
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn package(State(aggregator): State<Shared>, Path(job): Path<String>) -> Answer {
    let job = routes::job_id(&job)?;
    let package = if vertical::knows(&aggregator, &job) {
        aggregator.vertical.read(&job, fedv::aggregator::AggregatorJob::package).await?
    } else {
        aggregator.driver.read(&job, AggregatorJob::package).await?
    };
    let package = package.ok_or_else(|| {
        Refusal::new(Code::WrongState, "an authority has not approved the job yet; ask again")
    })?;
    routes::packed(&package)
}
