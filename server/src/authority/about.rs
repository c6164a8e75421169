//! `GET /v1/authority`: the name and public keys of this authority.

use axum::Json;
use axum::extract::State;
use quorate_client::api::AuthorityInfo;
use quorate_client::engine::now_ms;

use super::Shared;

pub(crate) async fn about(State(authority): State<Shared>) -> Json<AuthorityInfo> {
    let identity = authority.driver.identity();
    Json(AuthorityInfo {
        name: authority.config.name.clone(),
        tenant: authority.config.tenant.clone(),
        epoch: authority.driver.epoch(),
        verify: identity.verify_key().into(),
        exchange: identity.exchange_key().into(),
        now_ms: Some(now_ms()),
    })
}
