//! `GET /v1/jobs/{job}/frozen` and `/report`: who stood behind each opened sum, and what it cost.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use quorate_client::api::{FrozenRound, PhaseMillis, RoundReport};
use quorate_client::store::Store;
use quorate_crypto::merkle::{Hash, chunk_count};
use quorate_protocols::round::aggregator::AggregatorJob;
use quorate_protocols::round::{STEP_SUBMIT, messages::BulkRef};

use super::Shared;
use crate::http::problem::Answer;
use crate::routes;

/// Facts read at a time.
const PAGE: u32 = 1000;
/// Bytes of a signed header and of the length before it.
const OPENING_BYTES: u64 = 260;

pub(crate) async fn frozen(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
) -> Answer<Json<Vec<FrozenRound>>> {
    let job = routes::job_id(&job)?;
    let read = |machine: &AggregatorJob| {
        let workload = &machine.manifest().workload;
        let results = machine.results().iter().filter_map(|result| {
            Some(FrozenRound {
                round: result.round,
                attempt: result.attempt,
                purpose: workload.purpose(result.round)?,
                members: result.members.clone(),
            })
        });
        results.collect()
    };
    Ok(Json(aggregator.driver.read(&job, read).await?))
}

pub(crate) async fn report(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
) -> Answer<Json<Vec<RoundReport>>> {
    let job = routes::job_id(&job)?;
    let times = times(aggregator.driver.store(), &job).await?;
    let read = |machine: &AggregatorJob| {
        let rows = machine.results().iter().map(|result| {
            let ciphertext = machine.manifest().step_bytes(result.round, STEP_SUBMIT).unwrap_or(0);
            let members = result.members.len() as u64;
            let BulkRef { len, .. } = result.sum;
            let up = OPENING_BYTES + 32 * chunk_count(ciphertext) + ciphertext;
            RoundReport {
                round: result.round,
                attempt: result.attempt,
                members: result.members.clone(),
                bytes_up: members * up,
                bytes_down: members * (32 * chunk_count(len) + len),
                ms: times
                    .get(&(result.round, result.attempt))
                    .map_or_else(PhaseMillis::default, Moments::phases),
            }
        });
        rows.collect()
    };
    Ok(Json(aggregator.driver.read(&job, read).await?))
}

/// When each step of an attempt was logged, in milliseconds since 1970.
#[derive(Default)]
struct Moments {
    opened: u64,
    last_submitted: u64,
    frozen: u64,
    promised: u64,
    keys: u64,
    result: u64,
}

impl Moments {
    const fn phases(&self) -> PhaseMillis {
        PhaseMillis {
            collect: self.last_submitted.saturating_sub(self.opened),
            freeze: self.frozen.saturating_sub(self.last_submitted),
            promise: self.promised.saturating_sub(self.frozen),
            key: self.keys.saturating_sub(self.promised),
            open: self.result.saturating_sub(self.keys),
        }
    }
}

/// Read off the log: a restart loses none of it.
async fn times(store: &Store, job: &Hash) -> Answer<BTreeMap<(u32, u16), Moments>> {
    let mut times: BTreeMap<(u32, u16), Moments> = BTreeMap::new();
    let (job, mut after) = (job.to_string(), 0);
    loop {
        let page = store.job_facts_since(&job, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(times);
        };
        after = last.seq;
        for logged in page {
            let number =
                |name: &str| logged.fact.body.get(name).and_then(serde_json::Value::as_u64);
            let (Some(round), Some(attempt)) = (number("round"), number("attempt")) else {
                continue;
            };
            let (Ok(round), Ok(attempt)) = (round.try_into(), attempt.try_into()) else {
                continue;
            };
            let of = times.entry((round, attempt)).or_default();
            let at = logged.fact.at_ms;
            match logged.fact.predicate.as_str() {
                "round.opened" => of.opened = at,
                "party.submitted" => of.last_submitted = at,
                "round.frozen" => of.frozen = at,
                "round.promised" => of.promised = at,
                "round.keys" => of.keys = at,
                "round.result" => of.result = at,
                _ => {}
            }
        }
    }
}
