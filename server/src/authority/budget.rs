//! `GET /v1/budget?delta=`: what was spent on each data set, as this authority keeps account of it.

use axum::Json;
use axum::extract::{Query, State};
use quorate_client::api::BudgetQuery;
use quorate_client::ledger::Ledgers;
use quorate_protocols::policy::Spent;
use quorate_protocols::refusal::{Code, Refusal};

use super::Shared;
use crate::http::problem::Answer;

pub(crate) async fn budget(
    State(authority): State<Shared>,
    Query(BudgetQuery { delta }): Query<BudgetQuery>,
) -> Answer<Json<Vec<Spent>>> {
    if !(delta > 0.0 && delta <= 0.5) {
        let why = "delta must be positive and at most 0.5";
        return Err(Refusal::new(Code::Malformed, why).into());
    }
    Ok(Json(Ledgers::spent(authority.driver.store(), delta).await?))
}
