//! `POST /v1/jobs`, `GET /v1/jobs`, `GET` and `DELETE /v1/jobs/{job}`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use quorate_client::api::{JobCreated, JobSpec, JobStatus, from_json};
use quorate_client::engine::os_rng;
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_protocols::machine::{Bug, Context};
use quorate_protocols::model::ModelState;
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum};
use rand_core::Rng;

use super::{Aggregator, Shared, vertical};
use crate::driver::Failure;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn create(
    State(aggregator): State<Shared>,
    body: Bytes,
) -> Answer<(StatusCode, Json<JobCreated>)> {
    let spec: JobSpec = from_json(&body)?;
    let mut salt = [0; 16];
    os_rng().fill_bytes(&mut salt);
    let authorities = aggregator.authorities.all()?.iter().map(|known| known.info.key()).collect();
    let verify = aggregator.driver.identity().verify_key();
    let manifest = spec.into_manifest(aggregator.tenant.clone(), verify, authorities, salt)?;
    let job = manifest.hash();
    if manifest.is_vertical() {
        vertical::create(&aggregator, manifest).await?;
        let _ = aggregator.starting.send((job, true));
        return Ok((StatusCode::CREATED, Json(JobCreated { job: job.into() })));
    }
    aggregator
        .driver
        .create::<OpenSum>(job, move |known: Option<AggregatorJob>, cx: &mut Context<'_>| {
            if known.is_some() {
                return Err(Bug("two manifests with one salt".into()).into());
            }
            let state = ModelState::of_job(&manifest).hash();
            let (next, outputs) = AggregatorJob::create(cx, manifest, state)?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    let _ = aggregator.starting.send((job, false));
    Ok((StatusCode::CREATED, Json(JobCreated { job: job.into() })))
}

pub(crate) async fn list(State(aggregator): State<Shared>) -> Answer<Json<Vec<JobStatus>>> {
    let mut all = Vec::new();
    for job in aggregator.driver.jobs().await? {
        all.push(status(&aggregator, &job).await?);
    }
    for job in aggregator.vertical.jobs().await? {
        all.push(vertical::status(&aggregator, &job).await?);
    }
    Ok(Json(all))
}

pub(crate) async fn show(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
) -> Answer<Json<JobStatus>> {
    Ok(Json(status(&aggregator, &routes::job_id(&job)?).await?))
}

pub(crate) async fn cancel(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
) -> Answer<Json<JobStatus>> {
    let job = routes::job_id(&job)?;
    if vertical::knows(&aggregator, &job) {
        let cancel = quorate_protocols::fedv::aggregator::Event::Cancel;
        vertical::handle(&aggregator, job, cancel, Batch::new()).await?;
        return Ok(Json(vertical::status(&aggregator, &job).await?));
    }
    aggregator
        .driver
        .step::<OpenSum>(job, |machine, cx| {
            let (next, outputs) = machine.handle(cx, Event::Cancel)?;
            Ok((next, outputs, Batch::new()))
        })
        .await?;
    Ok(Json(status(&aggregator, &job).await?))
}

async fn status(aggregator: &Aggregator, job: &Hash) -> Result<JobStatus, Failure> {
    if vertical::knows(aggregator, job) {
        return vertical::status(aggregator, job).await;
    }
    let read =
        |machine: &AggregatorJob| JobStatus::new(*job, machine.manifest(), &machine.status());
    aggregator.driver.read(job, read).await
}
