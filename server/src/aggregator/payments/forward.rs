//! Hands the authority its letters, one after the other, and takes what it answers; tells it when the
//! job is over.

use quorate_client::store::Batch;
use quorate_crypto::merkle::Hash;
use quorate_protocols::pv4fad::Envelope;
use quorate_protocols::pv4fad::letters::{Close, PaymentsMessage};
use quorate_protocols::refusal::Refusal;
use quorate_protocols::round::aggregator::AggregatorJob;
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::{Name, Signed, Verified, decode, encode};

use crate::aggregator::Aggregator;
use crate::aggregator::authorities::{Answered, FIRST_DELAY, MAX_DELAY};
use crate::driver::Failure;

/// Kind of the records with the network's last word on a job, until the authority has it.
const CLOSE: &str = "payments-close";

/// Where a job stands, for this task.
enum Standing {
    /// It is none of payments.
    NoLetters,
    /// It carries letters no more; with its authority.
    Over(Option<Name>),
    /// Its key is not made yet.
    Early,
    /// It has letters for this authority.
    Carrying(Name),
}

/// Forwards letters until the job ends; returns at once where there are none.
pub(in crate::aggregator) async fn forward(
    aggregator: &Aggregator,
    job: &Hash,
) -> Result<(), Failure> {
    let store = aggregator.driver.store();
    let mut changed = aggregator.driver.watch(job).await?;
    let mut delay = FIRST_DELAY;
    loop {
        changed.borrow_and_update();
        let authority = match aggregator.driver.read(job, standing).await? {
            Standing::NoLetters => return Ok(()),
            Standing::Over(authority) => {
                aggregator.mail.forget(store, job).await?;
                return match authority {
                    Some(authority) => tell(aggregator, job, &authority).await,
                    None => Ok(()),
                };
            }
            Standing::Early => {
                let _ = changed.changed().await;
                continue;
            }
            Standing::Carrying(authority) => authority,
        };
        let (first, mut news) = aggregator.mail.first(store, job, &authority).await?;
        let Some((number, letter)) = first else {
            tokio::select! {
                _ = news.changed() => {}
                _ = changed.changed() => {}
            }
            continue;
        };
        let request = Message::Payments(PaymentsMessage::Letter(letter));
        let why = match aggregator.authorities.ask(&authority, job, &request).await {
            Answered::Message(Message::Payments(PaymentsMessage::Answers(answers))) => {
                match routed(aggregator, job, &authority, &answers).await? {
                    Ok(answers) => {
                        let place = (&authority, number);
                        match aggregator.mail.answered(store, job, place, &answers).await {
                            Ok(()) => {
                                delay = FIRST_DELAY;
                                continue;
                            }
                            Err(Failure::Refused(refusal)) => refusal.to_string(),
                            Err(error) => return Err(error),
                        }
                    }
                    Err(refusal) => refusal.to_string(),
                }
            }
            Answered::Message(_) => "no answer to a letter".to_owned(),
            Answered::Refused(refusal) => {
                // For good: nothing that is sent again would be taken.
                aggregator.driver.log_refusal(job, &refusal).await?;
                aggregator.mail.answered(store, job, (&authority, number), &[]).await?;
                continue;
            }
            Answered::Later(why) => why,
        };
        tracing::warn!(%job, %authority, why, "a letter is handed over again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

fn standing(machine: &AggregatorJob) -> Standing {
    let manifest = machine.manifest();
    if !manifest.is_payments() {
        return Standing::NoLetters;
    }
    if machine.outcome().is_some() {
        return Standing::Over(manifest.authorities.first().map(|known| known.name.clone()));
    }
    match machine.carrier() {
        Some(carrier) => Standing::Carrying(carrier.job().authority.name.clone()),
        None => Standing::Early,
    }
}

/// The write that keeps the network's last word, for the commit that ends the job.
pub(super) fn keep(job: &Hash, close: &Signed<Close>) -> Batch {
    Batch::new().put_record(CLOSE, &job.to_string(), encode(close))
}

/// Tells the authority that the network ended the job, until it knows.
async fn tell(aggregator: &Aggregator, job: &Hash, authority: &Name) -> Result<(), Failure> {
    let (store, key) = (aggregator.driver.store(), job.to_string());
    let Some(record) = store.get_record(CLOSE, &key).await? else { return Ok(()) };
    let request = Message::Payments(PaymentsMessage::Close(decode(&record)?));
    let mut delay = FIRST_DELAY;
    loop {
        match aggregator.authorities.ask(authority, job, &request).await {
            Answered::Later(why) => {
                tracing::warn!(%job, %authority, why, "the authority is told again that the job is over");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(MAX_DELAY);
            }
            Answered::Refused(refusal) => {
                // It may still hold what the job left there: its operator has to look.
                tracing::error!(%job, %authority, %refusal, "the authority does not take the end of the job");
                break;
            }
            Answered::Message(_) => break,
        }
    }
    Ok(store.commit(Batch::new().del_record(CLOSE, &key)).await?)
}

/// Answers that are signed by the authority and go to the network.
async fn routed(
    aggregator: &Aggregator,
    job: &Hash,
    authority: &Name,
    answers: &[Signed<Envelope>],
) -> Result<Result<Vec<Verified<Envelope>>, Refusal>, Failure> {
    let look = |machine: &AggregatorJob| {
        let Some(carrier) = machine.carrier() else { return Ok(Vec::new()) };
        let own = answers.iter().map(|answer| {
            let (_, letter) = carrier.route(answer)?;
            match letter.from == *authority {
                true => Ok(letter),
                false => Err(Refusal::new(
                    quorate_protocols::refusal::Code::UnknownParty,
                    "a letter of somebody else",
                )),
            }
        });
        own.collect()
    };
    aggregator.driver.read(job, look).await
}
