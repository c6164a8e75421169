//! `GET /v1/authority`: the name and public keys of this authority.

use axum::Json;
use axum::extract::State;
use quorate_client::api::AuthorityInfo;

use super::{EPOCH, Shared};

pub(crate) async fn about(State(authority): State<Shared>) -> Json<AuthorityInfo> {
    let identity = authority.driver.identity();
    Json(AuthorityInfo {
        name: authority.config.name.clone(),
        tenant: authority.config.tenant.clone(),
        epoch: EPOCH,
        verify: identity.verify_key(),
        exchange: identity.exchange_key(),
    })
}
