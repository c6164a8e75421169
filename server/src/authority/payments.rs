//! `POST /v1/jobs/{job}/payments`: a letter of a payment network, and the letters that answer it.
//!
//! The machine's new state, what it keeps, and its charges are one commit, before anything is answered.
//! A letter that comes again is handled again, to the same answers.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::engine::{now_ms, os_rng};
use quorate_client::payments::kept::Kept;
use quorate_client::store::Batch;
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::ChoiceKey;
use quorate_crypto::threshold::{KeySecret, ThresholdScheme};
use quorate_protocols::machine::{Context, Output};
use quorate_protocols::pv4fad::authority::{AuthorityJob, AuthorityOutput, AuthorityWorld};
use quorate_protocols::pv4fad::letters::PaymentsMessage;
use quorate_protocols::pv4fad::messages::Message as Inner;
use quorate_protocols::pv4fad::{Envelope, Job, World};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::AuthorityJob as RoundJob;
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::Signed;

use super::turn::Turn;
use super::{Authority, Shared, key_posts};
use crate::driver::Failure;
use crate::http::Problem;
use crate::http::problem::Answer;
use crate::routes;

pub(crate) async fn letter(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let Message::Payments(PaymentsMessage::Letter(letter)) = routes::message(&body)? else {
        return Err(routes::wrong_message("letter").into());
    };
    // A task of its own: adding up outlives the request that began it, and the next request waits.
    let task = tokio::spawn(async move { handled(&authority, job, letter).await });
    let answers = task.await.map_err(|_| Failure::Interrupted)??;
    routes::reply(&Message::Payments(PaymentsMessage::Answers(answers)))
}

/// What the machine works with.
struct Tools {
    job: Job,
    choice: ChoiceKey,
    values: Arc<dyn quorate_crypto::threshold::ThresholdKey>,
    share: KeySecret,
    kept: Kept,
    identity: Arc<Identity>,
}

async fn handled(
    authority: &Authority,
    id: Hash,
    letter: Signed<Envelope>,
) -> Result<Vec<Signed<Envelope>>, Problem> {
    let turn = Turn::of(authority, id);
    let _only_one = turn.lock.lock().await;
    let look =
        |machine: &RoundJob| (Arc::new(machine.manifest().clone()), machine.job_key().cloned());
    let (manifest, key) = authority.driver.read(&id, look).await?;
    let key = key.filter(|_| manifest.is_payments()).ok_or_else(|| {
        Refusal::new(Code::WrongState, "the job takes no letters, or its key is not made")
    })?;
    let job = Job::of(&manifest, &key)?;
    let identity = authority.driver.shared_identity();
    let message = match read(authority, &job, &letter, &identity) {
        Ok(message) => message,
        Err(refusal) => {
            authority.driver.log_refusal(&id, &refusal).await?;
            return Err(refusal.into());
        }
    };
    let share = key_posts::share(authority, &id, &manifest, &key).await?;
    let bad = |error: &dyn std::fmt::Display| Problem::internal(&error);
    let choice = ChoiceKey::parse(job.public()).map_err(|error| bad(&error))?;
    let values = ElGamal.load(job.public()).map_err(|error| bad(&error))?;
    let kept = Kept::new(authority.payments.store(), &id.to_string());
    let machine = match authority.payments.read(&id, Clone::clone).await {
        Ok(machine) => machine,
        Err(Failure::Refused(_)) => AuthorityJob::new(job.clone()),
        Err(error) => return Err(error.into()),
    };
    let tools = Tools { job, choice, values, share, kept, identity };
    // Heavy, and for as long as nobody else steps this job's machine.
    let work = move || {
        let (machine, outputs) = step(&tools, machine.clone(), &message)?;
        Ok::<_, Failure>((tools, message, machine, outputs))
    };
    let stepped = tokio::task::spawn_blocking(work).await;
    let (tools, message, machine, outputs) = stepped.map_err(|_| Failure::Interrupted)??;
    let answers = commit(authority, id, &tools, &message, (machine, outputs)).await?;
    let network = (&tools.job.network.exchange, &tools.job.network.party);
    let me = (tools.identity.as_ref(), &tools.job.authority.name);
    let seal = |answer: &Inner| {
        Envelope::seal(id, me, network, answer).map(|letter| letter.signed().clone())
    };
    Ok(answers.iter().map(seal).collect::<Result<_, _>>()?)
}

/// The message in a letter of the network to this authority.
fn read(
    authority: &Authority,
    job: &Job,
    letter: &Signed<Envelope>,
    identity: &Identity,
) -> Result<Inner, Refusal> {
    let letter = letter.verify(&job.network.verify)?;
    let ours = letter.job == job.manifest
        && letter.from == job.network.party
        && letter.to == authority.config.name;
    if !ours {
        return Err(Refusal::new(
            Code::UnknownParty,
            "a letter of another job, sender or receiver",
        ));
    }
    letter.open(identity)
}

fn step(
    tools: &Tools,
    machine: AuthorityJob,
    message: &Inner,
) -> Result<(AuthorityJob, Vec<AuthorityOutput>), Failure> {
    let mut rng = os_rng();
    let mut cx = Context { now_ms: now_ms(), identity: &tools.identity, rng: &mut rng };
    let world = World { key: &tools.choice, values: tools.values.as_ref(), blobs: &tools.kept };
    let world = AuthorityWorld { world, share: &tools.share };
    Ok(machine.handle(&mut cx, &world, message)?)
}

/// Stores a step and returns what it says; a refused one changes nothing.
async fn commit(
    authority: &Authority,
    id: Hash,
    tools: &Tools,
    message: &Inner,
    (machine, outputs): (AuthorityJob, Vec<AuthorityOutput>),
) -> Result<Vec<Inner>, Problem> {
    let (mut answers, mut rest, mut batch) = (Vec::new(), Vec::new(), Batch::new());
    let mut refusal = None;
    for output in outputs {
        match output {
            Output::Send { message, .. } => answers.push(message),
            Output::Work(keep) => batch = tools.kept.put(batch, &keep),
            Output::Charge(charge) => rest.push(Output::Charge(charge)),
            Output::Refund(charge) => rest.push(Output::Refund(charge)),
            Output::Log(fact) => rest.push(Output::Log(fact)),
            Output::Reject(why) => refusal = Some(why),
        }
    }
    if let Some(refusal) = refusal {
        authority.driver.log_refusal(&id, &refusal).await?;
        return Ok(answers);
    }
    let before = machine.clone();
    let stored = authority.payments.create::<()>(id, move |_, _| Ok((machine, rest, batch))).await;
    match stored {
        Ok(_) => Ok(answers),
        // A ledger refuses: nothing of the step is stored, and the network hears of it.
        Err(Failure::Refused(refusal)) => {
            let mut rng = os_rng();
            let cx = Context { now_ms: now_ms(), identity: &tools.identity, rng: &mut rng };
            match before.refuse(&cx, message, &refusal) {
                Output::Send { message, .. } => Ok(vec![message]),
                _ => Err(refusal.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}
