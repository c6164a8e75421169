//! Runs stored state machines: load, handle, commit state and facts in one transaction, and only
//! then let the outputs leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use quorate_client::api::Hex32;
use quorate_client::engine::{StoredIdentity, now_ms, os_rng};
use quorate_client::ledger::{LedgerError, Ledgers};
use quorate_client::store::{Batch, Fact as StoredFact, Store, StoreError};
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_protocols::machine::{Bug, Context, Fact, Output, Peer};
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::Name;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;

use crate::http::Problem;
use crate::refusals::{Log, Refusals};

/// Why a step did not happen; the stored state is as before.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The peer's message was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Our own mistake.
    #[error(transparent)]
    Bug(#[from] Bug),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored machine that this build cannot read.
    #[error("the stored state of job {0} is not readable by this version")]
    Unreadable(Hash),
    /// The step was interrupted by shutdown.
    #[error("interrupted")]
    Interrupted,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code.status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Self::new(status, refusal.code.as_str(), refusal.detail);
        if !refusal.concerns.is_empty() {
            problem = problem.with("concerns", serde_json::json!(refusal.concerns));
        }
        if refusal.culprits.is_empty() {
            problem
        } else {
            let culprits: Vec<String> = refusal.culprits.iter().map(culprit_text).collect();
            problem.with("culprits", culprits)
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            // A lost race for the row or a full disk: the same request may succeed later.
            other => {
                tracing::error!(cause = %other, "step failed");
                Refusal::new(Code::Unavailable, "the service could not store its state").into()
            }
        }
    }
}

/// A culprit as it travels: `party:NAME`, `authority:NAME` or `aggregator`.
#[must_use]
pub fn culprit_text(culprit: &Culprit) -> String {
    match culprit {
        Culprit::Party(name) => format!("party:{name}"),
        Culprit::Authority(name) => format!("authority:{name}"),
        Culprit::Aggregator => "aggregator".to_owned(),
    }
}

/// What one step sent out, after its state was stored.
#[derive(Debug)]
pub struct Done<W> {
    /// Messages, in order.
    pub sends: Vec<(Peer, Message)>,
    /// Work for the blocking pool.
    pub work: Vec<W>,
}

impl<W> Done<W> {
    /// The message that answers a request.
    ///
    /// # Errors
    /// [`Failure::Bug`] when the machine gave none.
    pub fn answer(&self) -> Result<&Message, Failure> {
        let message = self.sends.first().map(|(_, message)| message);
        message.ok_or_else(|| Bug("the machine gave no answer".into()).into())
    }
}

/// What a transition of machine `M` gives: the next state, its outputs, and rows to store with them.
pub type Transition<M, W> = Result<(M, Vec<Output<Message, W>>, Batch), Failure>;

struct Loaded<M> {
    version: u64,
    machine: M,
}

/// One job: its machine, loaded on first use, behind a lock, and a signal of changes.
struct Slot<M> {
    loaded: tokio::sync::Mutex<Option<Loaded<M>>>,
    changed: watch::Sender<()>,
}

/// All machines of one kind in one store.
pub struct Driver<M> {
    store: Store,
    keys: StoredIdentity,
    kind: &'static str,
    actor: Name,
    slots: Mutex<HashMap<Hash, Arc<Slot<M>>>>,
    refusals: Mutex<Refusals>,
    ledgers: Arc<Ledgers>,
}

impl<M: Serialize + DeserializeOwned + Send + 'static> Driver<M> {
    /// A driver of machines stored under `kind`; facts name `actor`.
    #[must_use]
    pub fn new(store: Store, keys: StoredIdentity, kind: &'static str, actor: Name) -> Self {
        let (slots, refusals) = (Mutex::default(), Mutex::default());
        Self { store, keys, kind, actor, slots, refusals, ledgers: Arc::default() }
    }

    /// The same with an owner's own limits on what data sets may spend: one value for all drivers of a
    /// store, so that two charges of one data set wait for each other.
    #[must_use]
    pub fn with_ledgers(mut self, ledgers: Arc<Ledgers>) -> Self {
        self.ledgers = ledgers;
        self
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// This role's keys.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.keys.identity
    }

    /// The same, for a task.
    #[must_use]
    pub fn shared_identity(&self) -> Arc<Identity> {
        Arc::clone(&self.keys.identity)
    }

    /// Epoch of those keys.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.keys.epoch
    }

    /// Ids of all stored jobs.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn jobs(&self) -> Result<Vec<Hash>, StoreError> {
        let ids = self.store.list_machines(self.kind).await?;
        Ok(ids.iter().filter_map(|id| parse_hash(id)).collect())
    }

    /// Reads from the stored machine of a job.
    ///
    /// # Errors
    /// [`Code::UnknownJob`], failures of the store.
    pub async fn read<T>(&self, job: &Hash, read: impl FnOnce(&M) -> T) -> Result<T, Failure> {
        let slot = self.known(job).await?;
        let mut loaded = slot.loaded.lock().await;
        self.load(job, &mut loaded).await?;
        loaded.as_ref().map(|l| read(&l.machine)).ok_or_else(|| unknown_job().into())
    }

    /// Signals every change of a job's machine.
    ///
    /// # Errors
    /// [`Code::UnknownJob`], failures of the store.
    pub async fn watch(&self, job: &Hash) -> Result<watch::Receiver<()>, Failure> {
        Ok(self.known(job).await?.changed.subscribe())
    }

    /// Runs one transition of a stored machine and returns once its state is durable. A caller that
    /// goes away does not interrupt it.
    ///
    /// # Errors
    /// [`Failure`]; refusals have been logged as facts.
    pub async fn step<W: Send + Sync + 'static>(
        self: &Arc<Self>,
        job: Hash,
        transition: impl FnOnce(M, &mut Context<'_>) -> Transition<M, W> + Send + 'static,
    ) -> Result<Done<W>, Failure> {
        let slot = match self.known(&job).await {
            Ok(slot) => slot,
            Err(Failure::Refused(refusal)) => {
                self.log_refusal(&job, &refusal).await?;
                return Err(refusal.into());
            }
            Err(other) => return Err(other),
        };
        self.run(job, slot, move |machine, cx| match machine {
            Some(machine) => transition(machine, cx),
            None => Err(unknown_job().into()),
        })
        .await
    }

    /// Makes a machine, or steps the one that is there.
    ///
    /// # Errors
    /// As [`Driver::step`].
    pub async fn create<W: Send + Sync + 'static>(
        self: &Arc<Self>,
        job: Hash,
        transition: impl FnOnce(Option<M>, &mut Context<'_>) -> Transition<M, W> + Send + 'static,
    ) -> Result<Done<W>, Failure> {
        let slot = self.slot(&job);
        let done = self.run(job, slot, transition).await;
        if done.is_err() && self.store.load_machine(self.kind, &job.to_string()).await?.is_none() {
            self.lock_slots().remove(&job);
        }
        done
    }

    async fn run<W: Send + Sync + 'static>(
        self: &Arc<Self>,
        job: Hash,
        slot: Arc<Slot<M>>,
        transition: impl FnOnce(Option<M>, &mut Context<'_>) -> Transition<M, W> + Send + 'static,
    ) -> Result<Done<W>, Failure> {
        let driver = Arc::clone(self);
        // A task of its own: an HTTP handler is dropped when its peer hangs up.
        let task = tokio::spawn(async move {
            let mut loaded = slot.loaded.lock().await;
            driver.load(&job, &mut loaded).await?;
            let done = driver.transact(job, &mut loaded, transition).await;
            drop(loaded);
            if done.is_ok() {
                slot.changed.send_replace(());
            }
            done
        });
        task.await.map_err(|_| Failure::Interrupted)?
    }

    async fn transact<W: Send + Sync>(
        &self,
        job: Hash,
        loaded: &mut Option<Loaded<M>>,
        transition: impl FnOnce(Option<M>, &mut Context<'_>) -> Transition<M, W> + Send,
    ) -> Result<Done<W>, Failure> {
        // Out of the cache until the commit is certain: after any error it is read again.
        let (version, machine) = match loaded.take() {
            Some(Loaded { version, machine }) => (version, Some(machine)),
            None => (0, None),
        };
        let outcome = {
            let mut rng = os_rng();
            let mut cx = Context { now_ms: now_ms(), identity: &self.keys.identity, rng: &mut rng };
            transition(machine, &mut cx)
        };
        let (machine, outputs, mut batch) = match outcome {
            Ok(next) => next,
            Err(Failure::Refused(refusal)) => {
                self.log_refusal(&job, &refusal).await?;
                return Err(refusal.into());
            }
            Err(other) => return Err(other),
        };
        // A charge past the budget refuses the whole step: nothing of it is stored.
        let (with_ledgers, turn) = match self.ledgers.settle(&self.store, &outputs, batch).await {
            Ok(settled) => settled,
            Err(LedgerError::Refused(refusal)) => {
                self.log_refusal(&job, &refusal).await?;
                return Err(refusal.into());
            }
            Err(LedgerError::Store(error)) => return Err(error.into()),
        };
        batch = with_ledgers;
        let (mut done, mut facts) = (Done { sends: Vec::new(), work: Vec::new() }, Vec::new());
        for output in outputs {
            match output {
                Output::Send { to, message } => done.sends.push((to, message)),
                Output::Work(work) => done.work.push(work),
                Output::Log(fact) => facts.push(fact),
                Output::Charge(_) | Output::Refund(_) => {}
                Output::Reject(refusal) => {
                    self.log_refusal(&job, &refusal).await?;
                    *loaded = Some(Loaded { version, machine });
                    return Err(refusal.into());
                }
            }
        }
        let state = postcard::to_allocvec(&machine).map_err(|_| Failure::Unreadable(job))?;
        batch = batch.put_machine(self.kind, &job.to_string(), version, state);
        for fact in &facts {
            batch = batch.fact(self.stored(&job, fact));
        }
        self.store.commit(batch).await?;
        drop(turn);
        *loaded = Some(Loaded { version: version + 1, machine });
        for fact in &facts {
            let Fact { what, round, attempt, note } = fact;
            metrics::counter!("quorate_facts_total", "what" => what.clone()).increment(1);
            tracing::info!(%job, what, round, attempt, note, "fact");
        }
        Ok(done)
    }

    /// Logs a refusal as a fact, before it is answered. Anybody can cause one, so of many alike
    /// the first are stored and the rest are counted.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn log_refusal(&self, job: &Hash, refusal: &Refusal) -> Result<(), StoreError> {
        let code = refusal.code.as_str();
        metrics::counter!("quorate_refusals_total", "code" => code).increment(1);
        tracing::warn!(%job, code, detail = refusal.detail, "refused");
        let at_ms = now_ms();
        let fact = |job: &Hash, predicate: &str, body| StoredFact {
            at_ms,
            job: job.to_string(),
            actor: self.actor.to_string(),
            predicate: predicate.to_owned(),
            body,
        };
        let log = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.log(at_ms, *job, refusal.code)
        };
        let Log { stored, suppressed } = log;
        let mut batch = Batch::new();
        for (job, code, count) in suppressed {
            let body = json!({ "code": code.as_str(), "count": count });
            batch = batch.fact(fact(&job, "refused.suppressed", body));
        }
        if stored {
            let culprits: Vec<String> = refusal.culprits.iter().map(culprit_text).collect();
            let body = json!({ "code": code, "note": refusal.detail, "culprits": culprits });
            batch = batch.fact(fact(job, "refused", body));
        }
        if !batch.is_empty() {
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    fn stored(&self, job: &Hash, fact: &Fact) -> StoredFact {
        StoredFact {
            at_ms: now_ms(),
            job: job.to_string(),
            actor: self.actor.to_string(),
            predicate: fact.what.clone(),
            body: json!({ "round": fact.round, "attempt": fact.attempt, "note": fact.note }),
        }
    }

    async fn load(&self, job: &Hash, loaded: &mut Option<Loaded<M>>) -> Result<(), Failure> {
        if loaded.is_none()
            && let Some((version, state)) =
                self.store.load_machine(self.kind, &job.to_string()).await?
        {
            let machine = postcard::from_bytes(&state).map_err(|_| Failure::Unreadable(*job))?;
            *loaded = Some(Loaded { version, machine });
        }
        Ok(())
    }

    /// The slot of a job that exists: a request for an unknown one must leave nothing behind.
    async fn known(&self, job: &Hash) -> Result<Arc<Slot<M>>, Failure> {
        if let Some(slot) = self.lock_slots().get(job) {
            return Ok(Arc::clone(slot));
        }
        if self.store.load_machine(self.kind, &job.to_string()).await?.is_none() {
            return Err(unknown_job().into());
        }
        Ok(self.slot(job))
    }

    fn slot(&self, job: &Hash) -> Arc<Slot<M>> {
        let fresh = || {
            Arc::new(Slot {
                loaded: tokio::sync::Mutex::default(),
                changed: watch::Sender::new(()),
            })
        };
        Arc::clone(self.lock_slots().entry(*job).or_insert_with(fresh))
    }

    fn lock_slots(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, Arc<Slot<M>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown_job() -> Refusal {
    Refusal::new(Code::UnknownJob, "no job of this id is known here")
}

/// 64 lower-case hexadecimal digits as a hash.
#[must_use]
pub fn parse_hash(text: &str) -> Option<Hash> {
    text.parse::<Hex32>().ok().map(Hash::from)
}
