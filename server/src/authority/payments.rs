//! `POST /v1/jobs/{job}/payments`: a letter of a payment network, and the letters that answer it.
//!
//! The machine's new state, what it keeps, and its charges are one commit, before anything is answered.
//! A letter that comes again is handled again, to the same answers. At the end of the job, as the network
//! signs it, what is kept of it and the share of its key are erased.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Path, State};
use quorate_client::engine::{now_ms, os_rng};
use quorate_client::payments::kept::Kept;
use quorate_client::store::Batch;
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::ChoiceKey;
use quorate_crypto::threshold::{KeySecret, ThresholdKey, ThresholdScheme};
use quorate_protocols::job::{Manifest, RosterEntry};
use quorate_protocols::machine::{Context, Fact, Output};
use quorate_protocols::pv4fad::authority::{AuthorityJob, AuthorityOutput, AuthorityWorld};
use quorate_protocols::pv4fad::letters::{Close, PaymentsMessage};
use quorate_protocols::pv4fad::messages::Message as Inner;
use quorate_protocols::pv4fad::{Envelope, Job, World};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::authority::AuthorityJob as RoundJob;
use quorate_protocols::round::keying::JobKey;
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::Signed;

use super::turn::Turn;
use super::{Authority, Shared, key_posts};
use crate::driver::Failure;
use crate::http::Problem;
use crate::http::problem::Answer;
use crate::routes;

/// Jobs whose key is kept prepared.
const PREPARED: usize = 8;

pub(crate) async fn letter(
    State(authority): State<Shared>,
    Path(job): Path<String>,
    body: Bytes,
) -> Answer {
    let job = routes::job_id(&job)?;
    let Message::Payments(message) = routes::message(&body)? else {
        return Err(routes::wrong_message("letter or close").into());
    };
    // A task of its own: adding up outlives the request that began it, and the next request waits.
    let task = tokio::spawn(async move {
        match message {
            PaymentsMessage::Letter(letter) => handled(&authority, job, letter).await,
            PaymentsMessage::Close(close) => ended(&authority, job, close).await,
            _ => Err(routes::wrong_message("letter or close").into()),
        }
    });
    let answers = task.await.map_err(|_| Failure::Interrupted)??;
    routes::reply(&Message::Payments(PaymentsMessage::Answers(answers)))
}

/// The last few of something that is costly to make, by job.
#[derive(Debug)]
pub(super) struct Recent<T>(Mutex<VecDeque<(Hash, Arc<T>)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Recent<T> {
    fn change<R>(&self, change: impl FnOnce(&mut VecDeque<(Hash, Arc<T>)>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self, job: &Hash) -> Option<Arc<T>> {
        self.change(|known| {
            let found = known.iter().position(|(of, _)| of == job)?;
            let found = known.remove(found)?;
            let own = Arc::clone(&found.1);
            known.push_back(found);
            Some(own)
        })
    }

    fn put(&self, job: Hash, made: T) -> Arc<T> {
        let made = Arc::new(made);
        self.change(|known| {
            known.retain(|(of, _)| *of != job);
            known.push_back((job, Arc::clone(&made)));
            while known.len() > PREPARED {
                known.pop_front();
            }
        });
        made
    }

    fn forget(&self, job: &Hash) {
        self.change(|known| known.retain(|(of, _)| of != job));
    }
}

/// A job with its key, parsed.
pub(super) struct Prepared {
    manifest: Arc<Manifest>,
    key: JobKey,
    job: Job,
    choice: ChoiceKey,
    values: Arc<dyn ThresholdKey>,
}

impl Prepared {
    fn of(manifest: Arc<Manifest>, key: JobKey) -> Result<Self, Refusal> {
        let job = Job::of(&manifest, &key)?;
        let bad = |error: &dyn std::fmt::Display| Refusal::new(Code::BadKey, error.to_string());
        let choice = ChoiceKey::parse(job.public()).map_err(|error| bad(&error))?;
        let values = ElGamal.load(job.public()).map_err(|error| bad(&error))?;
        Ok(Self { manifest, key, job, choice, values })
    }
}

/// What the machine works with.
struct Tools {
    prepared: Arc<Prepared>,
    share: KeySecret,
    kept: Kept,
    identity: Arc<Identity>,
}

fn no_letters() -> Refusal {
    Refusal::new(Code::WrongState, "the job takes no letters, or its key is not made")
}

/// A job's network: what it takes to tell its letters from those of strangers, and no more.
async fn network_of(authority: &Authority, id: &Hash) -> Result<RosterEntry, Failure> {
    let look = |machine: &RoundJob| {
        let key = machine.job_key().filter(|_| machine.manifest().is_payments())?;
        key.keying().call().network.clone()
    };
    Ok(authority.driver.read(id, look).await?.ok_or_else(no_letters)?)
}

/// The job with its key, parsed once while it is worked on. Called in the job's turn.
async fn prepared(authority: &Authority, id: &Hash) -> Result<Arc<Prepared>, Problem> {
    if let Some(known) = authority.prepared.get(id) {
        return Ok(known);
    }
    let look =
        |machine: &RoundJob| (Arc::new(machine.manifest().clone()), machine.job_key().cloned());
    let (manifest, key) = authority.driver.read(id, look).await?;
    let key = key.ok_or_else(no_letters)?;
    let made = tokio::task::spawn_blocking(move || Prepared::of(manifest, key)).await;
    Ok(authority.prepared.put(*id, made.map_err(|_| Failure::Interrupted)??))
}

/// The job's machine, as it is stored.
async fn stored(authority: &Authority, id: &Hash, job: &Job) -> Result<AuthorityJob, Failure> {
    match authority.payments.read(id, Clone::clone).await {
        Err(Failure::Refused(_)) => Ok(AuthorityJob::new(job.clone())),
        known => known,
    }
}

/// A refusal that is logged and answered.
async fn refused<T>(authority: &Authority, id: &Hash, refusal: Refusal) -> Result<T, Problem> {
    authority.driver.log_refusal(id, &refusal).await?;
    Err(refusal.into())
}

async fn handled(
    authority: &Authority,
    id: Hash,
    letter: Signed<Envelope>,
) -> Result<Vec<Signed<Envelope>>, Problem> {
    // Before anything that costs: a stranger's letter neither waits for a turn nor has a key parsed.
    let network = network_of(authority, &id).await?;
    let identity = authority.driver.shared_identity();
    let message = match read(authority, (&id, &network), &letter, &identity) {
        Ok(message) => message,
        Err(refusal) => return refused(authority, &id, refusal).await,
    };
    let turn = Turn::of(authority, id);
    let _only_one = turn.lock.lock().await;
    let prepared = prepared(authority, &id).await?;
    let machine = stored(authority, &id, &prepared.job).await?;
    if machine.is_over() {
        return refused(authority, &id, Refusal::new(Code::WrongState, "the job is over")).await;
    }
    let share = key_posts::share(authority, &id, &prepared.manifest, &prepared.key).await?;
    let kept = Kept::new(authority.payments.store(), &id.to_string());
    let tools = Tools { prepared, share, kept, identity };
    // Heavy, and for as long as nobody else steps this job's machine.
    let work = move || {
        let (machine, outputs) = step(&tools, machine, &message)?;
        Ok::<_, Failure>((tools, message, machine, outputs))
    };
    let stepped = tokio::task::spawn_blocking(work).await;
    let (tools, message, machine, outputs) = stepped.map_err(|_| Failure::Interrupted)??;
    let answers = commit(authority, id, &tools, &message, (machine, outputs)).await?;
    let job = &tools.prepared.job;
    let network = (&network.exchange, &network.party);
    let me = (tools.identity.as_ref(), &job.authority.name);
    let seal = |answer: &Inner| {
        Envelope::seal(id, me, network, answer).map(|letter| letter.signed().clone())
    };
    Ok(answers.iter().map(seal).collect::<Result<_, _>>()?)
}

/// The network ended the job: what is kept of it goes, the share of its key too, and its machine says no
/// more than that it is over.
async fn ended(
    authority: &Authority,
    id: Hash,
    close: Signed<Close>,
) -> Result<Vec<Signed<Envelope>>, Problem> {
    let network = network_of(authority, &id).await?;
    if let Err(refusal) = close.verify(&network.verify) {
        return refused(authority, &id, refusal).await;
    }
    let turn = Turn::of(authority, id);
    let _only_one = turn.lock.lock().await;
    let prepared = prepared(authority, &id).await?;
    let machine = stored(authority, &id, &prepared.job).await?;
    let known = machine.is_over();
    let machine = match machine.end(&close) {
        Ok(machine) => machine,
        Err(refusal) => return refused(authority, &id, refusal).await,
    };
    if known {
        // Said again: there is nothing to write, but what was erased may still lie in the log.
        authority.payments.store().scrub().await?;
        return Ok(Vec::new());
    }
    let kept = Kept::new(authority.payments.store(), &id.to_string());
    let batch = kept.erase(key_posts::erase(authority, &id, Batch::new()).await?);
    let over = vec![Output::Log(Fact::job("job.over", "the network ended it"))];
    authority.payments.create::<()>(id, move |_, _| Ok((machine, over, batch))).await?;
    authority.payments.store().scrub().await?;
    authority.prepared.forget(&id);
    Ok(Vec::new())
}

/// The message in a letter of the network to this authority.
fn read(
    authority: &Authority,
    (id, network): (&Hash, &RosterEntry),
    letter: &Signed<Envelope>,
    identity: &Identity,
) -> Result<Inner, Refusal> {
    let letter = letter.verify(&network.verify)?;
    let ours =
        letter.job == *id && letter.from == network.party && letter.to == authority.config.name;
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
    let (key, values) = (&tools.prepared.choice, tools.prepared.values.as_ref());
    let world = World { key, values, blobs: &tools.kept };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_prepared_for_the_jobs_worked_on_last() {
        let recent = Recent::default();
        let job = |number: usize| Hash([u8::try_from(number).unwrap(); 32]);
        for number in 0..PREPARED {
            assert!(recent.get(&job(number)).is_none());
            recent.put(job(number), number);
        }
        assert_eq!(recent.get(&job(0)).as_deref(), Some(&0));
        recent.put(job(PREPARED), PREPARED);
        // The one that was not worked on for longest is gone.
        assert!(recent.get(&job(1)).is_none());
        for number in [0, 2, PREPARED] {
            assert_eq!(recent.get(&job(number)).as_deref(), Some(&number));
        }
        recent.forget(&job(0));
        assert!(recent.get(&job(0)).is_none());
        assert_eq!(recent.change(|known| known.len()), PREPARED - 1);
    }
}
