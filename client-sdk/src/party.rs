//! A party: connects, joins jobs, trains when a round opens, and checks every result.
//!
//! ```no_run
//! # async fn example(job: quorate_crypto::merkle::Hash) -> Result<(), quorate_client::party::PartyError> {
//! use quorate_client::party::{Party, PartyConfig};
//!
//! let config = PartyConfig::new("bank-1", "http://127.0.0.1:7100", "./bank-1")?
//!     .authority("http://127.0.0.1:7101");
//! let party = Party::connect(config).await?;
//! let sums = party.sum(job, |round| Ok(vec![i64::from(round), 2, 3])).await?;
//! println!("{:?}", sums[0].values);
//! # Ok(())
//! # }
//! ```
//!
//! # Security
//! The store holds the party's secret keys and, while a round is under way, its plaintext in the
//! clear: a retry must encrypt the same bytes. Both lie in a folder that only its owner reads;
//! encrypt the volume. Plaintexts and ciphertexts are erased when the round's result is accepted.
//! Buffers of this crate are zeroized; those of the HTTP, database and file libraries are not.
//!
//! Two sums over one plaintext, of different members, give the plaintext away by subtraction. So a
//! party contributes each plaintext to one job only, unless
//! [`PartyConfig::allow_repeated_plaintexts`] is set: the store remembers their roots for good.
//! Equal values in another encoding, such as a vector of another length, are not recognised. Where a
//! job adds noise, the stored plaintext holds this party's share of it: a retry draws no other, and
//! sums of other jobs over the same data are protected by theirs.
//!
//! In a threshold job the store also holds this party's share of the key, from the making of the key
//! to the end of the job.
//!
//! A party keeps account of the privacy budget of its data in its store, whatever the jobs say about
//! theirs: see [`PartyConfig::max_epsilon`].

mod contribute;
mod holder;
mod payments;
mod run;
mod vertical;

pub use payments::{NetworkFinished, NetworkTask, PaymentsFinished, PaymentsPart};
pub use vertical::VerticalFinished;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_crypto::keys::VerifyKey;
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::{AuthorityKey, JobPackage, Manifest, Minima, RosterEntry};
use quorate_protocols::machine::Bug;
use quorate_protocols::model::ModelState;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::round::messages::{Join, ResultRecord};
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Name, Signed, decode};
use quorate_protocols::workload::Workload;
use serde::Serialize;

use crate::api::{Hex32, JobOutcome, JobStatus, MAX_JSON_BYTES, from_json};
use crate::bulk::BulkError;
use crate::engine::{EngineError, StoredIdentity, now_ms};
use crate::keys::{self, Certificates, PinnedAuthority};
use crate::ledger::Ledgers;
use crate::store::{Store, StoreError};
use crate::trainer::{LocalTraining, Vectors};
use crate::transport::{Ask, Backoff, CallError, Transport};

/// The account of a party that keeps one for all its data.
pub const DEFAULT_DATA_SET: &str = "default";

/// Clocks further apart than this are reported.
const MAX_SKEW_MS: u64 = 30_000;

/// Why a party stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartyError {
    /// A setting is missing or contradicts what is stored.
    #[error("{0}")]
    Config(String),
    /// A service shows other keys than those pinned in the store.
    #[error(
        "{0}: not what this store has pinned; if the change is known to be legitimate, start from \
         a fresh store"
    )]
    ChangedPin(String),
    /// A request failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A message was refused here, such as a result that does not add up.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Local training failed.
    #[error("local training: {0:#}")]
    Training(anyhow::Error),
    /// This plaintext was given to another job.
    #[error(
        "this party's contribution to round {round} is byte for byte the one it gave to job \
         {before}: sums over it with other members would show it by subtraction. Nothing was sent. \
         Contribute other data, or allow repeated plaintexts (--allow-repeats) if showing them to \
         whoever sees both sums is acceptable"
    )]
    Repeated {
        /// The round that would have repeated it.
        round: u32,
        /// The job it was given to.
        before: String,
    },
    /// The job ended without all its results.
    #[error("the job ended: {0:?}")]
    Ended(JobOutcome),
    /// Work on vectors failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A vector could not be moved.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our own mistake.
    #[error(transparent)]
    Bug(#[from] Bug),
}

/// What a party reports while it works; holds no payload and no secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PartyEvent {
    /// Enrolled at all authorities.
    Connected {
        /// This party.
        party: Name,
        /// Epoch of its keys.
        epoch: u32,
    },
    /// A service's clock is over 30 seconds off; deadlines are decided by the aggregator's.
    ClockSkew {
        /// Whose.
        peer: String,
        /// Its clock less ours.
        skew_ms: i64,
    },
    /// A job was joined or taken up again.
    Joined {
        /// The job.
        job: Hex32,
        /// Its title.
        title: String,
        /// Next round.
        round: u32,
        /// Rounds in all.
        rounds: u32,
    },
    /// An attempt that invites this party was checked and entered.
    RoundEntered {
        /// Round.
        round: u32,
        /// Attempt.
        attempt: u16,
    },
    /// The contribution is computed and stored.
    Trained {
        /// Round.
        round: u32,
        /// Time it took.
        ms: u64,
    },
    /// The contribution is encrypted and stored.
    Sealed {
        /// Round.
        round: u32,
        /// Bytes of ciphertext.
        bytes: u64,
        /// Time it took.
        ms: u64,
    },
    /// The ciphertext is uploaded and the aggregator's receipt checked.
    Receipt {
        /// Round.
        round: u32,
        /// Bytes of ciphertext and header.
        bytes: u64,
        /// Time it took.
        ms: u64,
    },
    /// The job's threshold key is complete and checked.
    KeyAccepted {
        /// Its id.
        key: Hex32,
        /// Whether this party holds a share of it.
        holder: bool,
    },
    /// A post of the threshold key was made and stored.
    KeyPosted {
        /// The step.
        step: u16,
        /// Time it took.
        ms: u64,
    },
    /// A partial decryption of a frozen set's sum is computed and stored.
    Shared {
        /// Round.
        round: u32,
        /// Members of the set.
        members: usize,
        /// Bytes of it.
        bytes: u64,
        /// Time it took, downloads included.
        ms: u64,
    },
    /// The round would pass the budget of this party's data: nothing was sent for it.
    BudgetSpent {
        /// Round.
        round: u32,
        /// What it would have come to.
        detail: String,
    },
    /// A round's result was checked and accepted.
    Result {
        /// Round.
        round: u32,
        /// Attempt that was opened.
        attempt: u16,
        /// Members of the sum.
        members: usize,
        /// Whether this party is one.
        included: bool,
        /// Rows behind the sum; absent in rounds that were caught up without their sums.
        rows: Option<u64>,
        /// Mean loss before the round, in rounds of training.
        loss: Option<f64>,
        /// Hash of the model after the round.
        state: Option<Hex32>,
    },
    /// A letter of a payments job was handled and its answer stored.
    Handled {
        /// Kind of the message.
        message: String,
        /// Time it took.
        ms: u64,
    },
    /// A model version of a payments job got on, at the network.
    Phase {
        /// Name of the phase.
        phase: String,
        /// Banks that are left out so far.
        lost: Vec<Name>,
    },
    /// A query of a payments job is scored, at the network.
    Scored {
        /// Its number.
        query: u64,
        /// Its payments.
        rows: usize,
        /// Time from its first message to its scores.
        ms: u64,
    },
    /// Something was refused, here or by a peer, and the run goes on.
    Refused {
        /// Stable code.
        code: String,
        /// Why.
        detail: String,
    },
    /// A peer is away; the request will be repeated.
    Waiting {
        /// Why.
        why: String,
    },
    /// The job is over.
    Finished {
        /// How.
        outcome: JobOutcome,
        /// Rounds accepted here.
        rounds: u32,
        /// Hash of the final model.
        state: Hex32,
    },
}

/// Receives [`PartyEvent`]s; called from the run itself, so it returns soon.
pub type Events = Arc<dyn Fn(&PartyEvent) + Send + Sync>;

/// How a party connects.
#[derive(Clone)]
pub struct PartyConfig {
    /// Its id.
    pub name: Name,
    /// Tenant it expects; the aggregator's when absent.
    pub tenant: Option<Name>,
    /// Address of the aggregator.
    pub aggregator: String,
    /// Addresses of the authorities it enrols at; a job must use all of them and no other.
    pub authorities: Vec<String>,
    /// Folder of its store.
    pub store: PathBuf,
    /// What it accepts at least. An empty list of accepted authorities stands for those it enrols
    /// at.
    pub minima: Minima,
    /// Whether a plaintext that was given to one job may enter a sum of another.
    ///
    /// # Security
    /// Two such sums, of members that differ in this party, give its plaintext by subtraction.
    pub allow_repeated_plaintexts: bool,
    /// The most epsilon that all jobs together may spend on this party's data, at the delta of each
    /// job; a job's own epsilon binds besides. Such a limit implies [`Minima::require_noise`].
    pub max_epsilon: Option<f64>,
    /// The account that is charged, when the store serves several data sets; one account for all
    /// jobs when absent, whatever data set they name.
    pub data_set: Option<Name>,
    /// Draws this party's noise from a seed instead of the system's randomness, so that another
    /// process can repeat the sums. Demonstrations and tests only.
    ///
    /// # Security
    /// Whoever knows the seed takes this party's share of the noise off every sum.
    pub noise_seed: Option<[u8; 32]>,
    /// Keeps what another process needs to repeat a vertical job in the clear:
    /// [`VerticalFinished::replay`]. Demonstrations and tests only.
    ///
    /// # Security
    /// Whoever has it knows this party's first weights, which rows shared a batch and, of the label
    /// holder, the noise on its labels.
    pub replayable: bool,
    /// How long an unreachable peer is tried again.
    pub patience: Duration,
    /// Where progress is reported.
    pub events: Events,
}

impl PartyConfig {
    /// Default minima, ten minutes of patience, no reports, no authorities yet.
    ///
    /// # Errors
    /// [`PartyError::Refused`] when `name` is no name.
    pub fn new(
        name: &str,
        aggregator: &str,
        store: impl Into<PathBuf>,
    ) -> Result<Self, PartyError> {
        Ok(Self {
            name: Name::new(name)?,
            tenant: None,
            aggregator: aggregator.to_owned(),
            authorities: Vec::new(),
            store: store.into(),
            minima: Minima::default(),
            allow_repeated_plaintexts: false,
            max_epsilon: None,
            data_set: None,
            noise_seed: None,
            replayable: false,
            patience: Duration::from_secs(600),
            events: Arc::new(|_| {}),
        })
    }

    /// Adds an authority.
    #[must_use]
    pub fn authority(mut self, url: &str) -> Self {
        self.authorities.push(url.to_owned());
        self
    }

    /// Reports progress to `events`.
    #[must_use]
    pub fn on_event(mut self, events: impl Fn(&PartyEvent) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(events);
        self
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How the job ended.
    pub outcome: Outcome,
    /// Rounds whose results were accepted.
    pub rounds: u32,
    /// The model after the last of them.
    pub model: Arc<ModelState>,
}

/// An opened sum of plain vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumResult {
    /// Round.
    pub round: u32,
    /// Who is in the sum.
    pub members: Vec<Name>,
    /// The sum.
    pub values: Vec<i64>,
}

/// A connected party; clones share it.
#[derive(Clone)]
pub struct Party {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    http: Transport,
    name: Name,
    keys: StoredIdentity,
    entry: RosterEntry,
    tenant: Name,
    aggregator_url: String,
    aggregator: VerifyKey,
    authorities: Vec<PinnedAuthority>,
    minima: Minima,
    allow_repeated_plaintexts: bool,
    ledgers: Ledgers,
    noise_seed: Option<[u8; 32]>,
    replayable: bool,
    certificates: Certificates,
    events: Events,
}

impl Inner {
    fn report(&self, event: &PartyEvent) {
        (self.events)(event);
    }

    fn job_url(&self, job: &Hex32) -> String {
        format!("{}/v1/jobs/{job}", self.aggregator_url)
    }

    /// Asks to take part, or to be invited from the next attempt on.
    async fn ask_in(&self, job: &Hex32, manifest: &Manifest) -> Result<(), PartyError> {
        let certificates = manifest.authorities.iter().map(|authority| {
            self.certificates.get(&authority.name).cloned().ok_or_else(|| {
                PartyError::Config(format!("not enrolled at authority {}", authority.name))
            })
        });
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let join = Join { manifest: manifest.hash(), entry: self.entry.clone(), certificates };
        let join = join.signed(&self.keys.identity).to_wire();
        let ask = Ask::post(format!("{}/parties", self.job_url(job)), join);
        match self.http.insist(run::AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await {
            // The job is over, as the next view will say.
            Err(error) if error.is(Code::WrongState) => Ok(()),
            done => Ok(done.map(drop)?),
        }
    }

    /// `theirs` was read between our clock's `sent` and now.
    fn check_clock(&self, peer: &str, sent: u64, theirs: u64) {
        let now = now_ms();
        if theirs.saturating_add(MAX_SKEW_MS) < sent || theirs > now.saturating_add(MAX_SKEW_MS) {
            let skew_ms =
                i64::try_from(theirs).unwrap_or(i64::MAX) - i64::try_from(now).unwrap_or(i64::MAX);
            tracing::warn!(peer, skew_ms, "clocks differ by over 30 seconds");
            self.report(&PartyEvent::ClockSkew { peer: peer.to_owned(), skew_ms });
        }
    }
}

impl Party {
    /// Opens the store, loads or makes keys, pins the services, and enrols at every authority.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process uses the store; [`PartyError::ChangedPin`],
    /// [`PartyError::Call`], [`PartyError::Config`].
    pub async fn connect(config: PartyConfig) -> Result<Self, PartyError> {
        if config.authorities.is_empty() {
            return Err(PartyError::Config("name at least one authority".to_owned()));
        }
        if config.max_epsilon.is_some_and(|epsilon| !(epsilon.is_finite() && epsilon >= 0.0)) {
            return Err(PartyError::Config("max_epsilon must be a number from 0 on".to_owned()));
        }
        let data_set = match config.data_set {
            Some(name) => name,
            None => Name::new(DEFAULT_DATA_SET)?,
        };
        if config.noise_seed.is_some() {
            tracing::warn!("the noise comes from a given seed: it hides nothing from who knows it");
        }
        if config.replayable {
            tracing::warn!("what repeats a vertical job is kept: it undoes the label noise");
        }
        let store = Store::open(&config.store).await?;
        let http = Transport::new(config.patience)?;
        keys::pin_party(&store, &config.name).await?;
        let aggregator_url = config.aggregator.trim_end_matches('/').to_owned();
        let aggregator = keys::meet_aggregator(&store, &http, &aggregator_url).await?;
        if config.tenant.as_ref().is_some_and(|tenant| *tenant != aggregator.tenant) {
            let other = format!("the aggregator serves tenant {}", aggregator.tenant);
            return Err(PartyError::Config(other));
        }
        let mut authorities: Vec<PinnedAuthority> = Vec::new();
        let mut clocks = Vec::new();
        for url in &config.authorities {
            let sent = now_ms();
            let (authority, clock) = keys::meet_authority(&store, &http, url).await?;
            if authority.tenant != aggregator.tenant {
                return Err(PartyError::Config(format!(
                    "authority {} serves tenant {}, the aggregator {}",
                    authority.key.name, authority.tenant, aggregator.tenant
                )));
            }
            clocks.extend(clock.map(|theirs| (authority.key.name.to_string(), sent, theirs)));
            authorities.push(authority);
        }
        let (keys, certificates) = keys::enrol(&store, &http, &config.name, &authorities).await?;
        let mut minima = config.minima;
        if minima.accepted.is_empty() {
            minima.accepted = authorities.iter().map(|a| a.key.verify).collect();
        }
        // A job with fewer authorities than this party trusts would leave out some that protect it.
        let trusted = u32::try_from(authorities.len()).unwrap_or(u32::MAX);
        minima.authorities = minima.authorities.max(trusted);
        // No epsilon bounds exact sums.
        minima.require_noise |= config.max_epsilon.is_some();
        let inner = Inner {
            store,
            http,
            entry: keys::entry(&config.name, &keys),
            name: config.name,
            keys,
            tenant: aggregator.tenant,
            aggregator_url,
            aggregator: aggregator.verify.into(),
            authorities,
            minima,
            allow_repeated_plaintexts: config.allow_repeated_plaintexts,
            ledgers: Ledgers::new(config.max_epsilon, Some(data_set)),
            noise_seed: config.noise_seed,
            replayable: config.replayable,
            certificates,
            events: config.events,
        };
        for (peer, sent, theirs) in clocks {
            inner.check_clock(&peer, sent, theirs);
        }
        inner.report(&PartyEvent::Connected { party: inner.name.clone(), epoch: inner.keys.epoch });
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This party's public keys.
    #[must_use]
    pub fn entry(&self) -> &RosterEntry {
        &self.inner.entry
    }

    /// The aggregator's jobs.
    ///
    /// # Errors
    /// [`PartyError::Call`].
    pub async fn jobs(&self) -> Result<Vec<JobStatus>, PartyError> {
        let peer = "the aggregator";
        let ask = Ask::get(format!("{}/v1/jobs", self.inner.aggregator_url));
        let answer = self.inner.http.insist(peer, &ask, MAX_JSON_BYTES).await?;
        Ok(from_json(&answer).map_err(|e| CallError::bad_answer(peer, &e))?)
    }

    /// Joins a job, unless that is done already: fetches its manifest, waits until every authority
    /// signed it off, checks it against this party's minima and pins, and stores it.
    ///
    /// # Errors
    /// [`PartyError::Refused`] with [`Code::BelowMinima`] or [`Code::BadManifest`],
    /// [`PartyError::Call`].
    pub async fn join(&self, job: Hash) -> Result<(), PartyError> {
        run::Run::load_or_join(&self.inner, job.into()).await.map(drop)
    }

    /// Takes part in a job until it ends, joining it first where that is still to do.
    ///
    /// Dropped or killed at any point, a later call goes on where this one stopped. One call per
    /// job at a time: a second one fails with [`StoreError::Conflict`].
    ///
    /// # Errors
    /// [`PartyError`]; a refusal that names the aggregator means that its own signature stands
    /// under what was refused.
    pub async fn run(
        &self,
        job: Hash,
        trainer: impl LocalTraining + 'static,
    ) -> Result<Finished, PartyError> {
        let mut run = run::Run::load_or_join(&self.inner, job.into()).await?;
        run.until_end(Box::new(trainer)).await
    }

    /// Takes part in a job of plain sums with the vector that `vector` returns for each round, and
    /// returns all sums.
    ///
    /// # Errors
    /// As [`Party::run`], [`PartyError::Repeated`] among them; [`PartyError::Ended`] when the job fails or is cancelled. A vector equal
    /// to one of an earlier round is refused with [`Code::LabelReuse`].
    pub async fn sum(
        &self,
        job: Hash,
        vector: impl FnMut(u32) -> anyhow::Result<Vec<i64>> + Send + 'static,
    ) -> Result<Vec<SumResult>, PartyError> {
        let mut run = run::Run::load_or_join(&self.inner, job.into()).await?;
        let finished = run.until_end(Box::new(Vectors(vector))).await?;
        if finished.outcome != Outcome::Done {
            return Err(PartyError::Ended((&finished.outcome).into()));
        }
        run.sums().await
    }

    /// Takes part in a vertical job with the columns of `table`, which must hold the job's identifiers
    /// and this party's block, and at the label holder the target.
    ///
    /// Dropped or killed at any point, a later call with the same table goes on where this one stopped.
    ///
    /// # Errors
    /// As [`Party::run`]; [`PartyError::Training`] when the table does not fit the job.
    pub async fn run_vertical(
        &self,
        job: Hash,
        table: crate::learn::data::Table,
    ) -> Result<VerticalFinished, PartyError> {
        vertical::run(&self.inner, job, table).await
    }

    /// Takes part in a payments job: a bank answers until the job ends; the network trains, scores and
    /// ends it.
    ///
    /// Dropped or killed at any point, a later call with the same data goes on where this one stopped.
    ///
    /// # Errors
    /// As [`Party::run`]; [`PartyError::Config`] when `part` is not this party's in the job, or payments
    /// do not fit it; [`PartyError::Refused`] when the model version failed.
    pub async fn run_payments(
        &self,
        job: Hash,
        part: PaymentsPart,
    ) -> Result<PaymentsFinished, PartyError> {
        payments::run(&self.inner, job, part).await
    }

    /// What a job computes.
    ///
    /// # Errors
    /// [`PartyError::Call`].
    pub async fn workload(&self, job: Hash) -> Result<Workload, PartyError> {
        Ok(fetch_package(&self.inner, &job.into()).await?.manifest.workload)
    }

    /// The accepted result records of a job, oldest first: what an auditor checks.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn results(&self, job: Hash) -> Result<Vec<Signed<ResultRecord>>, PartyError> {
        run::records(&self.inner, &job.into()).await
    }

    /// Closes the store; running jobs fail.
    pub async fn close(self) {
        self.inner.store.clone().close().await;
    }
}

/// Fetches a job's package, waiting until every authority approved.
async fn fetch_package(inner: &Inner, job: &Hex32) -> Result<JobPackage, PartyError> {
    let peer = "the aggregator";
    let ask = Ask::get(format!("{}/package", inner.job_url(job)));
    let mut backoff = Backoff::new();
    let answer: Bytes = loop {
        match inner.http.insist(peer, &ask, MAX_MESSAGE_BYTES).await {
            Err(error) if error.is(Code::WrongState) => {
                inner.report(&PartyEvent::Waiting { why: error.to_string() });
                backoff.wait().await;
            }
            done => break done?,
        }
    };
    let package: JobPackage = decode(&answer).map_err(|e| CallError::bad_answer(peer, &e))?;
    let manifest = &package.manifest;
    let refuse = |why: &str| Err(Refusal::new(Code::BadManifest, why).into());
    if manifest.hash() != Hash::from(*job) {
        return refuse("the manifest is of another job");
    }
    if manifest.tenant != inner.tenant || manifest.aggregator != inner.aggregator {
        return refuse("the manifest names another tenant or aggregator than this party's");
    }
    let known =
        |key: &AuthorityKey| inner.authorities.iter().any(|authority| authority.key == *key);
    if !manifest.authorities.iter().all(known) {
        return Err(Refusal::new(
            Code::BelowMinima,
            "the manifest names an authority at which this party is not enrolled",
        )
        .into());
    }
    Ok(package)
}
