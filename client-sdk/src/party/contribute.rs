//! A party's contribution to a round: trained beside the run, stored, encrypted, uploaded.

use std::sync::Arc;
use std::time::Instant;

use quorate_crypto::keys::{KeyBinding, SharedKey};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use quorate_protocols::machine::{Fact, Output};
use quorate_protocols::policy::noise::noised;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::{BulkRef, Message, SubmitHeader, reply_binding};
use quorate_protocols::round::party::{Event, PartyWork};
use quorate_protocols::wire::Signed;
use quorate_protocols::workload::Purpose;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::run::{AGGREGATOR, GARBAGE, Run, elapsed_ms, keep, quick};
use super::{PartyError, PartyEvent};
use crate::api::Hex32;
use crate::bulk::upload;
use crate::engine::{
    bulk_ref, encrypt_to_bulk, log_line, noise_rng, reply_to_bulk, secret_to_bulk, sum_context,
};
use crate::store::{Batch, StoreError};
use crate::trainer::LocalTraining;
use crate::transport::CallError;

/// The job a plaintext was given to, by the plaintext's root; kept for good.
const PLAINTEXT: &str = "plaintext";

/// The trainer: at rest, or at work on a thread of its own.
pub(super) struct Training {
    idle: Option<Box<dyn LocalTraining>>,
    task: Option<Task>,
}

/// The trainer comes back with the plaintext.
type Work = anyhow::Result<(Box<dyn LocalTraining>, Zeroizing<Vec<u8>>)>;

struct Task {
    round: u32,
    start: Instant,
    thread: JoinHandle<Work>,
}

/// A round's plaintext.
pub(super) struct Trained {
    round: u32,
    start: Instant,
    bytes: Zeroizing<Vec<u8>>,
}

impl Training {
    pub(super) const fn new(trainer: Box<dyn LocalTraining>) -> Self {
        Self { idle: Some(trainer), task: None }
    }

    /// The end of the training under way; never, if there is none. Dropped, it goes on.
    pub(super) async fn done(&mut self) -> Result<Trained, PartyError> {
        let Some(task) = &mut self.task else {
            return std::future::pending().await;
        };
        let done = (&mut task.thread).await;
        let (round, start) = (task.round, task.start);
        self.task = None;
        let done = done.map_err(|e| PartyError::Training(e.into()))?;
        let (trainer, bytes) = done.map_err(PartyError::Training)?;
        self.idle = Some(trainer);
        Ok(Trained { round, start, bytes })
    }
}

impl Run<'_> {
    /// Begins to train for a round, if the trainer is at rest and the round can be paid for. The
    /// noise is drawn with it, once: retries encrypt the stored bytes.
    ///
    /// # Errors
    /// [`Code::BudgetSpent`] when it cannot.
    pub(super) async fn train(
        &mut self,
        training: &mut Training,
        round: u32,
    ) -> Result<(), PartyError> {
        if training.idle.is_none() {
            return Ok(());
        }
        if let Some(charge) = self.manifest.charge(round)
            && let Err(error) = self.party.ledgers.check(&self.party.store, &charge).await
        {
            return Err(self.unpaid(round, error).await?);
        }
        let Some(mut trainer) = training.idle.take() else {
            return Ok(());
        };
        let start = Instant::now();
        let (manifest, model) = (Arc::clone(&self.manifest), Arc::clone(&self.model));
        let (seed, job) = (self.party.noise_seed.as_ref(), Hash::from(self.job));
        let mut rng = noise_rng(seed, &job, round, self.machine.name());
        let thread = tokio::task::spawn_blocking(move || {
            let local = trainer.contribution(&manifest, round, &model)?;
            let bytes = noised(&manifest, round, local, &mut rng)?;
            anyhow::Ok((trainer, bytes))
        });
        training.task = Some(Task { round, start, thread });
        Ok(())
    }

    /// Stores a plaintext, if its round still waits for one.
    pub(super) async fn trained(&mut self, trained: Trained) -> Result<(), PartyError> {
        let Trained { round, start, bytes } = trained;
        let waits = |output: &_| matches!(output, Output::Work(PartyWork::Train { round: next, .. }) if *next == round);
        if !self.machine.requests().iter().any(waits) {
            return Ok(());
        }
        let space = self.round_space(round);
        let bulk = secret_to_bulk(&bytes, (self.party.store.blobs(), &space)).await?;
        drop(bytes);
        let event = Event::Trained { round, plaintext: bulk_ref(&bulk) };
        let root = bulk.info().root.to_string();
        let (batch, this) = (keep(&space, &bulk), self.id.clone().into_bytes());
        let batch = if self.party.allow_repeated_plaintexts {
            batch.put_record(PLAINTEXT, &root, this)
        } else {
            batch.insert_new_record(PLAINTEXT, &root, this)
        };
        let applied = match self.apply(event, batch).await {
            Err(PartyError::Store(StoreError::Exists { .. })) => {
                return Err(self.repeated(round, &root).await?);
            }
            // The budget: what was drawn for this round is not kept.
            Err(error @ PartyError::Refused(_)) => {
                self.erase_plaintext(round, Batch::new()).await?;
                return Err(error);
            }
            applied => applied?,
        };
        if let Some(refusal) = applied {
            // Training that has converged here repeats its update to the bit. It stands behind a
            // sum already, so it enters no second one: this party sits the round out.
            let trains = self.manifest.workload.purpose(round) != Some(Purpose::Sum);
            if trains && refusal.code == Code::LabelReuse {
                self.sits_out = Some(round);
                return Ok(());
            }
            return Err(refusal.into());
        }
        let ms = elapsed_ms(start);
        self.party.report(&PartyEvent::Trained { round, ms });
        Ok(())
    }

    /// Erases a round's plaintext, which is its only stored vector, with `also`.
    async fn erase_plaintext(&self, round: u32, also: Batch) -> Result<(), PartyError> {
        let batch = also.put_record(GARBAGE, &self.round_space(round), Vec::new());
        self.party.store.commit(batch).await?;
        self.erase_garbage().await
    }

    /// Why the plaintext `root` is not contributed; erases it.
    async fn repeated(&self, round: u32, root: &str) -> Result<PartyError, PartyError> {
        let before = self.party.store.get_record(PLAINTEXT, root).await?;
        let before = String::from_utf8(before.unwrap_or_default());
        let before = before.map_err(|_| StoreError::BadNumber)?;
        let note = format!("round {round}: the plaintext was given to job {before}");
        let fact = Fact::job("plaintext.repeated", note);
        let fact = log_line(&self.id, self.party.name.as_str(), &fact);
        self.erase_plaintext(round, Batch::new().fact(fact)).await?;
        Ok(PartyError::Repeated { round, before })
    }

    /// Encrypts the stored plaintext under an attempt's label.
    pub(super) async fn seal(
        &mut self,
        round: u32,
        label: Label,
        nonce: Nonce,
        plaintext: &BulkRef,
    ) -> Result<(), PartyError> {
        let start = Instant::now();
        let (scheme, space) = (self.manifest.sum_scheme()?, self.round_space(round));
        let context = sum_context(&self.manifest, self.machine.job_key(), round, label)?;
        let plain = self.reader(&space, plaintext).await?;
        let output = (self.party.store.blobs(), space.as_str());
        let bulk = if self.manifest.is_threshold() {
            let identity = &self.party.keys.identity;
            let binding = reply_binding(&label, self.machine.name(), &nonce);
            reply_to_bulk(scheme, context, identity, binding, &plain, output).await?
        } else {
            let keys = self.shared_keys()?;
            encrypt_to_bulk(scheme, context, keys, nonce, &plain, output).await?
        };
        let event = Event::Sealed { label, ciphertext: bulk_ref(&bulk) };
        self.apply(event, keep(&space, &bulk)).await?;
        let (bytes, ms) = (bulk.info().len, elapsed_ms(start));
        self.party.report(&PartyEvent::Sealed { round, bytes, ms });
        Ok(())
    }

    /// Keys shared with the authorities, in manifest order.
    fn shared_keys(&self) -> Result<Vec<SharedKey>, Refusal> {
        let me = self.machine.me();
        let shared = self.manifest.authorities.iter().map(|authority| {
            let binding = KeyBinding {
                tenant: self.manifest.tenant.as_str(),
                authority: authority.name.as_str(),
                party: me.party.as_str(),
                authority_key: authority.exchange,
                party_key: me.exchange,
                epoch: me.epoch,
            };
            let shared = self.party.keys.identity.shared_key(&authority.exchange, &binding);
            shared.map_err(|e| {
                Refusal::new(Code::BadManifest, format!("authority {}: {e}", authority.name))
            })
        });
        shared.collect()
    }

    /// Uploads the ciphertext and takes the receipt; says whether to try again at once.
    pub(super) async fn submit(
        &mut self,
        header: &Signed<SubmitHeader>,
    ) -> Result<bool, PartyError> {
        let start = Instant::now();
        let fields = header.peek()?;
        let round = self.machine.next_round();
        let reader = self.reader(&self.round_space(round), &fields.ciphertext).await?;
        let (label, party) = (Hex32::from(fields.label), &fields.party);
        let url = format!("{}/submissions/{label}/{party}", self.party.job_url(&self.job));
        let wire = header.to_wire();
        let sent = upload(self.party.http.client(), &url, &wire, &reader, &quick()).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                let error = CallError::of_bulk(AGGREGATOR, error)?;
                if error.is_transient() {
                    self.party.report(&PartyEvent::Waiting { why: error.to_string() });
                    self.backoff.wait().await;
                    return Ok(true);
                }
                // Too late, or not wanted: the next attempt or result will tell.
                self.party.ask_in(&self.job, &self.manifest).await?;
                let detail = error.to_string();
                let code = match error {
                    CallError::Refused { problem, .. } => problem.code,
                    _ => String::new(),
                };
                self.party.report(&PartyEvent::Refused { code, detail });
                return Ok(false);
            }
        };
        self.backoff.reset();
        let Message::Receipt(receipt) = Message::from_wire(&answer)? else {
            let why = "no receipt".to_owned();
            return Err(CallError::BadAnswer { peer: AGGREGATOR.to_owned(), why }.into());
        };
        if let Some(refusal) = self.apply(Event::Receipt(receipt), Batch::new()).await? {
            return Err(refusal.into());
        }
        let bytes = fields.ciphertext.len + wire.len() as u64;
        self.party.report(&PartyEvent::Receipt { round, bytes, ms: elapsed_ms(start) });
        Ok(false)
    }
}
