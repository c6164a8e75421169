//! `GET /v1/jobs/{job}/view`: what a party waits for, by long poll.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use quorate_client::api::{Hex32, MAX_VIEW_RESULTS, MAX_WAIT_MS, PartyView, ViewQuery, key_mark};
use quorate_client::engine::now_ms;
use quorate_protocols::round::aggregator::AggregatorJob;

use super::Shared;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn view(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    Query(query): Query<ViewQuery>,
) -> Answer {
    let job = routes::job_id(&job)?;
    let mut changed = aggregator.driver.watch(&job).await?;
    let mut stopping = aggregator.stopping.subscribe();
    let wait = Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS));
    let until = tokio::time::Instant::now() + wait;
    loop {
        changed.borrow_and_update();
        let (view, news) = aggregator.driver.read(&job, |machine| look(machine, &query)).await?;
        if news {
            return routes::packed(&view);
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(until) => return routes::packed(&view),
            _ = stopping.wait_for(|stopping| *stopping) => return routes::packed(&view),
        }
    }
}

/// What a party sees, and whether any of it is new to the caller.
///
/// An attempt that closed is no news by itself: what follows it is.
fn look(machine: &AggregatorJob, query: &ViewQuery) -> (PartyView, bool) {
    let open = machine.open_round();
    let label = open.and_then(|_| machine.live_attempt()).map(|(_, label)| Hex32::from(label));
    let results: Vec<_> = machine
        .results()
        .iter()
        .skip(query.results)
        .take(MAX_VIEW_RESULTS)
        .map(|result| result.signed().clone())
        .collect();
    let key = machine.key_transcript().filter(|key| query.key != Some(key_mark(key)));
    let share = query.holder.as_ref().filter(|holder| machine.wants_share(holder));
    let share = share.and_then(|_| machine.share_ask());
    let news = !results.is_empty()
        || machine.outcome().is_some()
        || key.is_some()
        || share.is_some()
        || (label.is_some() && label != query.open);
    let view = PartyView {
        now_ms: now_ms(),
        open: open.map(|open| open.signed().clone()),
        results,
        key,
        share,
        outcome: machine.outcome().cloned(),
    };
    (view, news)
}
