//! `GET /v1/aggregator`: this aggregator's key and the authorities of its jobs.

use axum::Json;
use axum::extract::State;
use quorate_client::api::{AggregatorInfo, ListedAuthority};

use super::Shared;
use crate::http::problem::Answer;

pub(crate) async fn about(State(aggregator): State<Shared>) -> Answer<Json<AggregatorInfo>> {
    let authorities = aggregator.authorities.all()?.into_iter().map(|known| ListedAuthority {
        url: known.url,
        name: known.info.name,
        epoch: known.info.epoch,
        verify: known.info.verify,
        exchange: known.info.exchange,
    });
    Ok(Json(AggregatorInfo {
        tenant: aggregator.tenant.clone(),
        verify: aggregator.driver.identity().verify_key().into(),
        authorities: authorities.collect(),
    }))
}
