//! `GET /v1/jobs/{job}/results/{round}/leaves` and `/chunks/{index}`: opened sums.

use axum::extract::{Path, State};
use quorate_client::bulk::{Bulk, BulkReader};
use quorate_client::store::Store;
use quorate_crypto::merkle::Hash;
use quorate_protocols::refusal::{Code, Refusal};

use super::{Shared, result_space};
use crate::http::Problem;
use crate::http::bulk::{chunk_response, leaves_response};
use crate::http::problem::Answer;
use crate::routes;

/// Kind of the records with the leaves of opened sums, by job and round.
pub(crate) const RESULT: &str = "result";

/// Key of a result's record.
pub(crate) fn result_key(job: &Hash, round: u32) -> String {
    format!("{job}/{round:06}")
}

/// An opened sum.
pub(crate) async fn reader(store: &Store, job: &Hash, round: u32) -> Answer<BulkReader> {
    let record = store.get_record(RESULT, &result_key(job, round)).await?;
    let record = record
        .ok_or_else(|| Refusal::new(Code::UnknownRound, "no sum of this round was opened"))?;
    let bulk = Bulk::from_record(&record).map_err(|error| Problem::internal(&error))?;
    Ok(BulkReader::new(store.blobs(), &result_space(job, round), bulk))
}

pub(crate) async fn leaves(
    State(aggregator): State<Shared>,
    Path((job, round)): Path<(String, u32)>,
) -> Answer {
    let reader = reader(aggregator.driver.store(), &routes::job_id(&job)?, round).await?;
    Ok(leaves_response(reader.bulk()))
}

pub(crate) async fn chunk(
    State(aggregator): State<Shared>,
    Path((job, round, index)): Path<(String, u32, u64)>,
) -> Answer {
    let reader = reader(aggregator.driver.store(), &routes::job_id(&job)?, round).await?;
    chunk_response(&reader, index).await
}
