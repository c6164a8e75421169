//! One payments job at one party: its part of the key by the machines of all jobs, then the bank's or
//! the network's own.
//!
//! A letter is handled once: the machine's new state, what it keeps, what it says, and the letter's
//! number are one commit, and only then is anything sent or the letter erased at the aggregator.

mod bank;
mod network;
mod office;

use std::sync::Arc;

use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::ChoiceKey;
use quorate_crypto::threshold::{ThresholdKey, ThresholdScheme};
use quorate_protocols::machine::Output;
use quorate_protocols::pv4fad::Job;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::round::keying::JobKey;
use quorate_protocols::round::messages::Message;
use quorate_protocols::round::party::PartyWork;
use quorate_protocols::workload::Workload;

use super::run::Run;
use super::{Inner, PartyError};
use crate::api::MAX_WAIT_MS;
use crate::engine::EngineError;
use crate::payments::bank::AccountBook;
use crate::payments::record::Payment;
use crate::payments::replay::Replay;

/// What a party brings to a payments job.
pub enum PaymentsPart {
    /// A bank's accounts.
    Bank(AccountBook),
    /// The network's payments.
    Network(NetworkTask),
}

/// What the network does in one run: it trains a model version, scores payments and ends the job.
pub struct NetworkTask {
    /// Its payments, in order of time.
    pub payments: Vec<Payment>,
    /// Payments of the days after training that are scored, at most: a sample, if there are more.
    pub score: usize,
}

/// What a payments job left at a party.
#[derive(Clone, Debug)]
pub struct PaymentsFinished {
    /// How the job ended.
    pub outcome: Outcome,
    /// At the network: what it trained and scored.
    pub network: Option<NetworkFinished>,
}

/// What a payments job left at the network.
#[derive(Clone, Debug)]
pub struct NetworkFinished {
    /// The opened counts, by tree, leaf, label and class bit.
    pub counts: Vec<i64>,
    /// Scores by payment, from 0, in the order of the table.
    pub scores: Vec<(usize, f64)>,
    /// Payments that were to be scored and were not, because a bank was lost or refused.
    pub unscored: Vec<usize>,
    /// What repeats counts and scores in the clear, where
    /// [`PartyConfig::replayable`](super::PartyConfig::replayable) asked for it.
    pub replay: Option<Replay>,
}

/// The job's key, prepared.
struct Keys {
    choice: ChoiceKey,
    values: Arc<dyn ThresholdKey>,
}

impl Keys {
    fn of(job: &Job) -> Result<Self, Refusal> {
        let bad = |e: &dyn std::fmt::Display| Refusal::new(Code::BadKey, e.to_string());
        let choice = ChoiceKey::parse(job.public()).map_err(|e| bad(&e))?;
        let values = ElGamal.load(job.public()).map_err(|e| bad(&e))?;
        Ok(Self { choice, values })
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PartyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| EngineError::Interrupted.into())
}

/// Takes part in a payments job until it ends.
pub(super) async fn run(
    party: &Inner,
    job: Hash,
    part: PaymentsPart,
) -> Result<PaymentsFinished, PartyError> {
    let mut run = Run::load_or_join(party, job.into()).await?;
    let Workload::Payments(spec) = &run.manifest.workload else {
        return Err(Refusal::new(Code::BadManifest, "not a job on payments").into());
    };
    let is_network = spec.network == party.name;
    if !spec.names(&party.name) {
        let why = format!("the job names no party {}: check --name", party.name);
        return Err(Refusal::new(Code::UnknownParty, why).into());
    }
    let (key, over) = run.until_key().await?;
    let job = Job::of(&run.manifest, &key)?;
    let keys = Arc::new(Keys::of(&job)?);
    match (part, is_network) {
        (PaymentsPart::Network(task), true) => network::run(&run, job, keys, task).await,
        (PaymentsPart::Bank(book), false) => match over {
            Some(outcome) => Ok(PaymentsFinished { outcome, network: None }),
            None => bank::run(&run, job, keys, book).await,
        },
        (_, true) => Err(PartyError::Config("the job's network brings payments".to_owned())),
        (_, false) => Err(PartyError::Config("a bank of the job brings its accounts".to_owned())),
    }
}

impl Run<'_> {
    /// Takes part in the making of the job's key until it is made; with the job's end, if it is over.
    async fn until_key(&mut self) -> Result<(JobKey, Option<Outcome>), PartyError> {
        let mut busy = true;
        self.party.ask_in(&self.job, &self.manifest).await?;
        loop {
            let wait_ms = if busy { 0 } else { MAX_WAIT_MS };
            let view = self.view(0, None, wait_ms).await?;
            if let Some(transcript) = view.key {
                self.take_key(transcript).await?;
            }
            match (self.machine.job_key(), view.outcome) {
                (Some(key), outcome) => return Ok((key.clone(), outcome)),
                (None, Some(outcome)) => return Err(PartyError::Ended((&outcome).into())),
                (None, None) => {}
            }
            // Whoever was late is not called again until it asks.
            self.party.ask_in(&self.job, &self.manifest).await?;
            busy = self.work_on_key().await?;
        }
    }

    /// One piece of this party's part of the key; says whether there may be more.
    async fn work_on_key(&mut self) -> Result<bool, PartyError> {
        for output in self.machine.requests() {
            let more = match output {
                Output::Work(PartyWork::Post(work)) => self.post(work).await?,
                Output::Send { message: message @ Message::KeyPost(_), .. } => {
                    self.send_key_post(&message).await?
                }
                _ => false,
            };
            if more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
