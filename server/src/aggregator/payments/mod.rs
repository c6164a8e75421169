//! Payments jobs once their key is made: one route, by which parties leave and fetch letters, and a task
//! that hands the authority its own.

mod forward;
mod mailbox;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use quorate_client::api::MAX_WAIT_MS;
use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_protocols::machine::Peer;
use quorate_protocols::pv4fad::Envelope;
use quorate_protocols::pv4fad::letters::{Collect, Mail, PaymentsMessage};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::aggregator::{AggregatorJob, Event, OpenSum, Outcome};
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::{Signed, Verified};

use super::{Aggregator, Shared};
use crate::driver::Failure;
use crate::http::Problem;
use crate::http::problem::Answer;
use crate::routes;

pub(super) use forward::forward;
pub(super) use mailbox::Mailboxes;

/// `POST /v1/jobs/{job}/payments`: a letter to be carried, a look into one's box, an assignment to be
/// logged, the end of the job.
pub(super) async fn message(
    State(aggregator): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let Message::Payments(message) = routes::message(&body)? else {
        return Err(routes::wrong_message("payments").into());
    };
    match message {
        PaymentsMessage::Letter(letter) => {
            take(&aggregator, job, &letter).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        PaymentsMessage::Collect(collect) => {
            let mail = collected(&aggregator, job, &collect).await?;
            routes::reply(&Message::Payments(PaymentsMessage::Mail(mail)))
        }
        PaymentsMessage::Assigned(_) | PaymentsMessage::Close(_) => {
            let done = step(&aggregator, job, message).await?;
            match done.sends.first() {
                Some((_, answer)) => routes::reply(answer),
                None => Ok(StatusCode::NO_CONTENT.into_response()),
            }
        }
        _ => Err(routes::wrong_message("letter, collect, assigned or close").into()),
    }
}

async fn step(
    aggregator: &Aggregator,
    job: Hash,
    message: PaymentsMessage,
) -> Result<crate::driver::Done<OpenSum>, Failure> {
    aggregator
        .driver
        .step::<OpenSum>(job, move |machine, cx| {
            let from = Peer::Aggregator;
            let rows = match &message {
                PaymentsMessage::Close(close) => forward::keep(&job, close),
                _ => Batch::new(),
            };
            let event = Event::Message { from, message: Box::new(Message::Payments(message)) };
            let (next, outputs) = machine.handle(cx, event)?;
            Ok((next, outputs, rows))
        })
        .await
}

/// A refusal that is logged and answered.
async fn refused(aggregator: &Aggregator, job: &Hash, refusal: Refusal) -> Problem {
    match aggregator.driver.log_refusal(job, &refusal).await {
        Ok(()) => refusal.into(),
        Err(error) => Failure::from(error).into(),
    }
}

/// Puts a letter into its receiver's box, or into the authority's.
async fn take(
    aggregator: &Aggregator,
    job: Hash,
    letter: &Signed<Envelope>,
) -> Result<(), Problem> {
    let look = |machine: &AggregatorJob| match machine.carrier() {
        Some(carrier) => carrier.route(letter).map(|(_, letter)| letter),
        None => Err(not_carrying(machine)),
    };
    let routed: Result<Verified<Envelope>, Refusal> = aggregator.driver.read(&job, look).await?;
    let letter = match routed {
        Ok(letter) => letter,
        Err(refusal) => return Err(refused(aggregator, &job, refusal).await),
    };
    match aggregator.mail.put(aggregator.driver.store(), &job, &letter).await {
        Err(Failure::Refused(refusal)) => Err(refused(aggregator, &job, refusal).await),
        done => Ok(done?),
    }
}

fn not_carrying(machine: &AggregatorJob) -> Refusal {
    let why = match machine.outcome() {
        Some(_) => "the job is over",
        None => "no letters are carried: the job's key is not made, or it has none",
    };
    Refusal::new(Code::WrongState, why)
}

/// What a party finds in its box, by long poll.
async fn collected(
    aggregator: &Aggregator,
    job: Hash,
    signed: &Signed<Collect>,
) -> Result<Mail, Problem> {
    enum Seen {
        Over(Outcome),
        Whose(Result<Verified<Collect>, Refusal>),
    }
    let look = |machine: &AggregatorJob| match (machine.outcome(), machine.carrier()) {
        (Some(outcome), _) => Seen::Over(outcome.clone()),
        (None, Some(carrier)) => Seen::Whose(carrier.collects(signed)),
        (None, None) => Seen::Whose(Err(not_carrying(machine))),
    };
    let mut changed = aggregator.driver.watch(&job).await?;
    let mut stopping = aggregator.stopping.subscribe();
    let mut until = None;
    loop {
        changed.borrow_and_update();
        let collect = match aggregator.driver.read(&job, look).await? {
            Seen::Over(outcome) => {
                return Ok(Mail { letters: Vec::new(), outcome: Some(outcome) });
            }
            Seen::Whose(Ok(collect)) => collect,
            Seen::Whose(Err(refusal)) => return Err(refused(aggregator, &job, refusal).await),
        };
        let wait = Duration::from_millis(collect.wait_ms.min(MAX_WAIT_MS));
        let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + wait);
        let store = aggregator.driver.store();
        let (letters, mut news) =
            aggregator.mail.collect(store, &job, &collect.party, collect.after).await?;
        let now = tokio::time::Instant::now();
        if !letters.is_empty() || now >= until || *stopping.borrow() {
            return Ok(Mail { letters, outcome: None });
        }
        tokio::select! {
            _ = news.changed() => {}
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(until) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }
}
