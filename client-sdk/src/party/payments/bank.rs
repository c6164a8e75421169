//! The bank's side: it answers what the network asks, from its accounts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_crypto::threshold::KeySecret;
use quorate_protocols::machine::{Context, Fact, Output};
use quorate_protocols::pv4fad::bank::{BankJob, BankWorld};
use quorate_protocols::pv4fad::messages::Message;
use quorate_protocols::pv4fad::{Job, World};
use quorate_protocols::round::aggregator::Outcome;

use super::super::run::{Run, elapsed_ms};
use super::super::{PartyError, PartyEvent};
use super::office::{Committed, Office, Said};
use super::{Keys, PaymentsFinished, off_thread};
use crate::api::MAX_WAIT_MS;
use crate::engine::{now_ms, os_rng};
use crate::payments::bank::AccountBook;
use crate::payments::kept::Kept;
use crate::store::Batch;

/// Kind of the stored machine, by job.
const BANK: &str = "payments-bank";

/// What the machine works with besides its state.
struct Tools {
    keys: Arc<Keys>,
    share: KeySecret,
    book: AccountBook,
    kept: Kept,
}

/// Answers until the job ends.
pub(super) async fn run(
    run: &Run<'_>,
    job: Job,
    keys: Arc<Keys>,
    book: AccountBook,
) -> Result<PaymentsFinished, PartyError> {
    let party = run.party;
    let share = run.key_share().await??;
    let fresh = || {
        let mut rng = os_rng();
        let cx = Context { now_ms: now_ms(), identity: &party.keys.identity, rng: &mut rng };
        let bank = BankJob::new(&cx, party.name.clone(), job.clone(), &party.minima)?;
        Ok((bank, Vec::new()))
    };
    let mut office = Office::open(party, (BANK, &run.id), job.clone(), fresh).await?;
    let tools = Arc::new(Tools { keys, share, book, kept: office.kept.clone() });
    let outcome = loop {
        let sent = office.send().await?;
        let mail = office.collect(Duration::from_millis(MAX_WAIT_MS), &sent).await?;
        for (number, letter) in &mail.letters {
            if let Some(message) = office.read(*number, letter).await? {
                answer(&mut office, &tools, *number, message).await?;
            }
        }
        if let Some(outcome) = mail.outcome {
            break outcome;
        }
    };
    end(run, &office, &outcome).await?;
    Ok(PaymentsFinished { outcome, network: None })
}

/// Handles one letter.
async fn answer(
    office: &mut Office<'_, BankJob>,
    tools: &Arc<Tools>,
    number: u64,
    message: Message,
) -> Result<(), PartyError> {
    let start = Instant::now();
    let name = message.name().to_owned();
    let (machine, identity) = (office.machine().clone(), Arc::clone(&office.party.keys.identity));
    let shared = Arc::clone(tools);
    let (message, stepped) = off_thread(move || {
        let mut rng = os_rng();
        let mut cx = Context { now_ms: now_ms(), identity: &identity, rng: &mut rng };
        let (key, values) = (&shared.keys.choice, shared.keys.values.as_ref());
        let world = World { key, values, blobs: &shared.kept };
        let world = BankWorld { world, share: &shared.share, accounts: &shared.book };
        let stepped = machine.handle(&mut cx, &world, &message);
        (message, stepped)
    })
    .await?;
    let (next, said) = stepped?;
    let before = office.machine().clone();
    if let Committed::Spent(refusal) = office.commit(next, said, Some(number), Batch::new()).await?
    {
        let detail = refusal.detail.clone();
        office.party.report(&PartyEvent::BudgetSpent { round: message.version(), detail });
        let fact = Fact::job("refused", refusal.to_string());
        let answer = {
            let mut rng = os_rng();
            let identity = &office.party.keys.identity;
            let cx = Context { now_ms: now_ms(), identity, rng: &mut rng };
            before.refuse(&cx, &message, &refusal)
        };
        let said: Vec<Said> = vec![Output::Log(fact), answer];
        office.commit(before, said, Some(number), Batch::new()).await?;
    }
    office.party.report(&PartyEvent::Handled { message: name, ms: elapsed_ms(start) });
    Ok(())
}

/// Erases lists, answers and the share of the key.
async fn end(
    run: &Run<'_>,
    office: &Office<'_, BankJob>,
    outcome: &Outcome,
) -> Result<(), PartyError> {
    let batch = office.erase(run.forget_key(Batch::new()).await?);
    run.party.store.commit(batch).await?;
    run.party.store.scrub().await?;
    run.party.report(&PartyEvent::Finished {
        outcome: outcome.into(),
        rounds: 0,
        state: office.manifest().into(),
    });
    Ok(())
}
