//! The bodies of the HTTP interface, shared by clients and services.
//!
//! | service | route | request -> answer |
//! |---|---|---|
//! | authority | `GET /v1/authority` | [`AuthorityInfo`], JSON |
//! | authority | `POST /v1/enrollments` | postcard `EnrollRequest` -> postcard `Signed<Enrolled>` |
//! | authority | `POST /v1/jobs`, `/v1/jobs/{job}/promises`, `/keys`, `/key-posts`, `/tombstones` | `Message` -> `Message` |
//! | authority | `GET /v1/jobs/{job}/keys/{label}/leaves`, `/chunks/{i}` | raw |
//! | authority | `GET /v1/budget` | [`BudgetQuery`] -> list of [`Spent`], JSON |
//! | aggregator | `GET /v1/aggregator` | [`AggregatorInfo`], JSON |
//! | aggregator | `POST /v1/jobs` | [`JobSpec`] -> 201 [`JobCreated`], JSON |
//! | aggregator | `GET /v1/jobs`, `GET` and `DELETE /v1/jobs/{job}` | [`JobStatus`], JSON |
//! | aggregator | `GET /v1/jobs/{job}/package` | postcard `JobPackage` |
//! | aggregator | `POST /v1/jobs/{job}/parties` | `Message::Join` -> 204 |
//! | aggregator | `GET /v1/jobs/{job}/view` | [`ViewQuery`] -> postcard [`PartyView`] |
//! | aggregator | `POST B` = `/v1/jobs/{job}/submissions/{label}/{party}` | [`bulk::Opening`] -> [`bulk::Missing`] |
//! | aggregator | `PUT B/chunks/{i}`, `GET B/missing`, `POST B/complete` | raw; [`bulk::Missing`]; `Message::Receipt` |
//! | aggregator | `GET B/leaves`, `GET B/chunks/{i}`, once the set is frozen, in threshold jobs | raw |
//! | aggregator | `POST /v1/jobs/{job}/key-posts` | `Message::KeyPost` -> 204 |
//! | both | `POST /v1/jobs/{job}/payments` | `Message::Payments` -> `Message::Payments` or 204 |
//! | aggregator | `POST /v1/jobs/{job}/shares` | `Message::Partial` or `Message::ShareRefused` -> 204 |
//! | aggregator | `GET /v1/jobs/{job}/results/{round}/leaves`, `/chunks/{i}` | raw |
//! | aggregator | `GET /v1/jobs/{job}/frozen`, `/report` | [`FrozenRound`] and [`RoundReport`] lists, JSON |
//!
//! A refusal is a [`ProblemBody`]. Job ids, labels and keys are lower-case hex of 32 bytes.
//!
//! [`Spent`]: quorate_protocols::policy::Spent
//! [`bulk::Opening`]: crate::bulk::Opening
//! [`bulk::Missing`]: crate::bulk::Missing

mod tables;

use core::fmt;
use core::str::FromStr;

use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::keys::{ExchangeKey, VerifyKey};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::schemes;
use quorate_crypto::sum::{Family, Label, PadSuite, Ring};
use quorate_protocols::job::{AuthorityKey, Deadlines, MANIFEST_VERSION, Manifest, Privacy};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::aggregator::{Outcome, Status};
use quorate_protocols::round::messages::{KeyTranscript, ResultRecord, RoundOpen, ShareAsk};
use quorate_protocols::wire::{Name, Signed, encode};
use quorate_protocols::workload::{
    LocalSpec, ModelSpec, Purpose, PvSpec, Schema, StepSpec, TrainSpec, VerticalSpec, Workload,
};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use tables::{BayesTable, BudgetQuery, PrivacyTable, ThresholdTable, TreeTable};

/// Longest JSON body read, in bytes.
pub const MAX_JSON_BYTES: usize = 4 << 20;
/// Most results in one [`PartyView`], so that it stays below the limit of a control message.
pub const MAX_VIEW_RESULTS: usize = 32;
/// Longest wait of a long poll, in milliseconds.
pub const MAX_WAIT_MS: u64 = 20_000;

/// 32 bytes as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex32(pub [u8; 32]);

impl fmt::Display for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hex32 {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let bad = || Refusal::new(Code::Malformed, "expected 64 lower-case hex digits");
        // One spelling per value: ids are compared as text in places.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| bad())?;
        Ok(Self(out))
    }
}

impl Serialize for Hex32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| D::Error::custom(refusal.detail))
    }
}

macro_rules! hex_conversions {
    ($($type:ident),*) => {$(
        impl From<$type> for Hex32 {
            fn from(value: $type) -> Self {
                Self(value.0)
            }
        }

        impl From<Hex32> for $type {
            fn from(value: Hex32) -> Self {
                Self(value.0)
            }
        }
    )*};
}
hex_conversions!(VerifyKey, ExchangeKey, Hash, Label);

/// Reads a JSON body of at most [`MAX_JSON_BYTES`].
///
/// # Errors
/// [`Code::TooLarge`], [`Code::Malformed`] with the place of the mistake.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    if bytes.len() > MAX_JSON_BYTES {
        return Err(Refusal::new(Code::TooLarge, "JSON body over 4 MiB"));
    }
    serde_json::from_slice(bytes).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
}

/// Who an authority is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityInfo {
    /// Its id.
    pub name: Name,
    /// Tenant it serves.
    pub tenant: Name,
    /// Epoch of its keys.
    pub epoch: u32,
    /// Its signature key.
    pub verify: Hex32,
    /// Its key for key agreement.
    pub exchange: Hex32,
    /// Its clock, in milliseconds since 1970; absent where a service does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
}

impl AuthorityInfo {
    /// As a manifest names it.
    #[must_use]
    pub fn key(&self) -> AuthorityKey {
        AuthorityKey {
            name: self.name.clone(),
            epoch: self.epoch,
            verify: self.verify.into(),
            exchange: self.exchange.into(),
        }
    }
}

/// An authority as its aggregator lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedAuthority {
    /// Where the aggregator reaches it.
    pub url: String,
    /// Its id.
    pub name: Name,
    /// Epoch of its keys.
    pub epoch: u32,
    /// Its signature key.
    pub verify: Hex32,
    /// Its key for key agreement.
    pub exchange: Hex32,
}

/// Who an aggregator is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregatorInfo {
    /// Tenant it serves.
    pub tenant: Name,
    /// Its signature key.
    pub verify: Hex32,
    /// The authorities of its jobs.
    pub authorities: Vec<ListedAuthority>,
}

/// The answer to a created job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCreated {
    /// Its id.
    pub job: Hex32,
}

/// What a waiting party knows, as the query of `GET /v1/jobs/{job}/view`: the answer comes when
/// something differs from it, or after `wait_ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewQuery {
    /// Results known; the answer holds those from this index on.
    #[serde(default)]
    pub results: usize,
    /// Label of the open attempt, as far as known; absent when the caller knows of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Hex32>,
    /// Hash of the threshold key's posts as far as known; absent when the caller knows of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Hex32>,
    /// The caller, if it holds a share of the key: it is told when its answer is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Name>,
    /// How long to wait for news, at most [`MAX_WAIT_MS`].
    #[serde(default)]
    pub wait_ms: u64,
}

/// What a party needs to know about a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartyView {
    /// The aggregator's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// The attempt that takes submissions.
    pub open: Option<Signed<RoundOpen>>,
    /// Results from the index asked for on, at most [`MAX_VIEW_RESULTS`].
    pub results: Vec<Signed<ResultRecord>>,
    /// The threshold key so far, if it differs from what the caller knows.
    pub key: Option<KeyTranscript>,
    /// A frozen set whose partial decryption is wanted from the caller.
    pub share: Option<ShareAsk>,
    /// Set at the end of the job.
    pub outcome: Option<Outcome>,
}

/// How a [`ViewQuery`] names the threshold key its caller knows.
#[must_use]
pub fn key_mark(transcript: &KeyTranscript) -> Hex32 {
    hash_parts("quorate/key-mark/1", &[&encode(transcript)]).into()
}

/// A problem document (RFC 9457), as far as clients use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// Stable code.
    #[serde(default)]
    pub code: String,
    /// A sentence for people.
    #[serde(default)]
    pub detail: String,
    /// Parties it is about, without blame.
    #[serde(default)]
    pub concerns: Vec<Name>,
}

/// How a job ended, for JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum JobOutcome {
    /// Every round was opened.
    Done,
    /// The operator ended it.
    Cancelled,
    /// It cannot go on.
    Failed {
        /// Stable code.
        code: String,
        /// Why.
        detail: String,
    },
}

impl From<&Outcome> for JobOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Failed(why) => {
                Self::Failed { code: why.code.as_str().to_owned(), detail: why.detail.clone() }
            }
        }
    }
}

/// What a workload is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// Sums of integer vectors.
    Sum,
    /// Training of a model.
    Train,
    /// A decision tree.
    Tree,
    /// Naive Bayes.
    Bayes,
    /// A linear model over columns of different parties.
    Vertical,
    /// A forest of a payment network and its banks.
    Payments,
}

impl From<&Workload> for WorkloadKind {
    fn from(workload: &Workload) -> Self {
        match workload {
            Workload::Sum { .. } => Self::Sum,
            Workload::Train(_) => Self::Train,
            Workload::Tree(_) => Self::Tree,
            Workload::Bayes(_) => Self::Bayes,
            Workload::Vertical(_) => Self::Vertical,
            Workload::Payments(_) => Self::Payments,
        }
    }
}

/// Key and shares of a threshold job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThresholdStatus {
    /// N, parties that hold a share of the key.
    pub holders: u32,
    /// T, holders needed to open.
    pub needed: u32,
    /// Id of the key, once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Hex32>,
    /// Calls for a key so far.
    pub key_calls: u16,
    /// While a key is made: whose posts are missing.
    pub key_waits_for: Vec<Name>,
    /// Holders asked for a share of the round that is being opened.
    pub asked: Vec<Name>,
    /// Holders whose share is here.
    pub held: Vec<Name>,
    /// Holders passed over: their share was wrong, or they refused.
    pub passed_over: Vec<Name>,
}

/// The state of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its id.
    pub job: Hex32,
    /// Title.
    pub title: String,
    /// What it computes.
    pub workload: WorkloadKind,
    /// Name of the scheme.
    pub scheme: String,
    /// Name of the phase.
    pub phase: String,
    /// Round that is open or next.
    pub round: u32,
    /// Attempt of it.
    pub attempt: u16,
    /// Rounds opened so far.
    pub opened: u32,
    /// Rounds of the whole job, a moments round included.
    pub rounds: u32,
    /// Least members of an opened sum.
    pub floor: u32,
    /// Parties that are invited next.
    pub joined: Vec<Name>,
    /// Parties whose submissions of the current attempt are complete.
    pub submitted: Vec<Name>,
    /// Key and shares of a threshold job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdStatus>,
    /// Set at the end.
    pub outcome: Option<JobOutcome>,
}

impl JobStatus {
    /// From an aggregator's own view of its job.
    #[must_use]
    pub fn new(job: Hash, manifest: &Manifest, status: &Status) -> Self {
        let scheme = schemes::by_id(manifest.scheme).map_or("", |scheme| scheme.info().name);
        Self {
            job: job.into(),
            title: manifest.title.clone(),
            workload: (&manifest.workload).into(),
            scheme: scheme.to_owned(),
            phase: status.phase.clone(),
            round: status.round,
            attempt: status.attempt,
            opened: status.opened,
            rounds: status.rounds,
            floor: manifest.floor(),
            joined: status.joined.clone(),
            submitted: status.submitted.clone(),
            threshold: manifest.threshold.map(|spec| ThresholdStatus {
                holders: spec.holders,
                needed: spec.threshold,
                key: status.holding.key.map(Into::into),
                key_calls: status.holding.key_calls,
                key_waits_for: status.holding.key_waits_for.clone(),
                asked: status.holding.asked.clone(),
                held: status.holding.held.clone(),
                passed_over: status.holding.passed_over.clone(),
            }),
            outcome: status.outcome.as_ref().map(Into::into),
        }
    }
}

impl JobStatus {
    /// From an aggregator's own view of a vertical job: rounds are epochs, opened are batches.
    #[must_use]
    pub fn vertical(
        job: Hash,
        manifest: &Manifest,
        status: &quorate_protocols::fedv::aggregator::Status,
        outcome: Option<&Outcome>,
    ) -> Self {
        let scheme = schemes::by_id(manifest.scheme).map_or("", |scheme| scheme.info().name);
        let epochs = match &manifest.workload {
            Workload::Vertical(spec) => spec.epochs,
            _ => 0,
        };
        let submitted =
            status.parties.iter().filter(|party| !status.missing.contains(party)).cloned();
        Self {
            job: job.into(),
            title: manifest.title.clone(),
            workload: (&manifest.workload).into(),
            scheme: scheme.to_owned(),
            phase: status.phase.to_owned(),
            round: status.epoch,
            attempt: status.attempt,
            opened: u32::try_from(status.opened).unwrap_or(u32::MAX),
            rounds: epochs,
            floor: manifest.floor(),
            joined: status.parties.clone(),
            submitted: submitted.collect(),
            threshold: None,
            outcome: outcome.map(Into::into),
        }
    }
}

/// Query of a party of a vertical job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerticalQuery {
    /// Who asks.
    pub party: Name,
    /// Mark of the last view; what differs from it is news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Hex32>,
    /// How long to wait for news, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

/// What a party of a vertical job sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerticalView {
    /// The aggregator's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// What the party needs to go on.
    pub view: quorate_protocols::fedv::messages::PartyView,
    /// Set at the end.
    pub outcome: Option<Outcome>,
}

/// The frozen set behind an opened round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenRound {
    /// Round.
    pub round: u32,
    /// The attempt that was opened.
    pub attempt: u16,
    /// What the sum was for.
    pub purpose: Purpose,
    /// Members, sorted.
    pub members: Vec<Name>,
}

/// Milliseconds an opened round spent in each phase, by the aggregator's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseMillis {
    /// From the opening to the last submission.
    pub collect: u64,
    /// Waiting for stragglers after it, and freezing the set.
    pub freeze: u64,
    /// Until every authority promised.
    pub promise: u64,
    /// Until every functional key was here.
    pub key: u64,
    /// Opening the sum.
    pub open: u64,
}

/// What an opened round cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Round.
    pub round: u32,
    /// The attempt that was opened.
    pub attempt: u16,
    /// Members, sorted.
    pub members: Vec<Name>,
    /// Bytes of ciphertext and headers that parties sent.
    pub bytes_up: u64,
    /// Bytes of opened sums that parties fetch, one copy per member.
    pub bytes_down: u64,
    /// Time by phase.
    pub ms: PhaseMillis,
}

/// A job as its author writes it, in TOML or JSON: exactly one of the tables of
/// workloads.
///
/// ```toml
/// title = "monthly totals"
/// max_parties = 5
/// quorum = 3
/// [sum]
/// dim = 12
/// rounds = 1
/// max_abs = 1000000
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// For people; at most 200 bytes.
    pub title: String,
    /// Name of a served scheme.
    #[serde(default = "defaults::scheme")]
    pub scheme: String,
    /// Pad generator: `aes-256-ctr` or `chacha20`.
    #[serde(default = "defaults::suite")]
    pub suite: String,
    /// Bits of the ring: 32 or 64.
    #[serde(default = "defaults::ring")]
    pub ring: u32,
    /// Fractional bits of real numbers.
    #[serde(default = "defaults::frac_bits")]
    pub frac_bits: u8,
    /// Clip bound of real numbers.
    #[serde(default = "defaults::clip")]
    pub clip: f64,
    /// Most parties of one round.
    pub max_parties: u32,
    /// Replies wanted.
    pub quorum: u32,
    /// Honest contributors that must stand behind an opened sum.
    #[serde(default = "defaults::k_min")]
    pub k_min: u32,
    /// Colluders tolerated among the parties.
    #[serde(default)]
    pub colluders: u32,
    /// Time to train and submit.
    #[serde(default = "defaults::collect_seconds")]
    pub collect_seconds: f64,
    /// How long stragglers are waited for once the floor is reached.
    #[serde(default = "defaults::grace_seconds")]
    pub grace_seconds: f64,
    /// How long authorities still promise after a round's deadline.
    #[serde(default = "defaults::key_seconds")]
    pub key_seconds: f64,
    /// Attempts of one round before the job fails.
    #[serde(default = "defaults::max_attempts")]
    pub max_attempts: u16,
    /// Differential privacy; without it the opened sums are exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyTable>,
    /// Key holders, with a threshold scheme; its defaults if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdTable>,
    /// Sums of integer vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<SumTable>,
    /// Training of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainTable>,
    /// A decision tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeTable>,
    /// Naive Bayes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bayes: Option<BayesTable>,
    /// A linear model over columns that different parties hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical: Option<VerticalSpec>,
    /// A forest that a payment network trains with its banks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payments: Option<PvSpec>,
}

/// Table `[sum]` of a [`JobSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SumTable {
    /// Values per vector.
    pub dim: u64,
    /// Number of sums.
    #[serde(default = "defaults::sums")]
    pub rounds: u32,
    /// Bound on the magnitude of one party's value.
    pub max_abs: u64,
}

/// Table `[train]` of a [`JobSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainTable {
    /// The columns every party must have.
    pub schema: Schema,
    /// The model.
    pub model: ModelSpec,
    /// Rounds of weights, after the moments round.
    pub rounds: u32,
    /// What a party does with its rows in one round.
    pub local: LocalSpec,
    /// Steps along sums of clipped vectors, instead of averages.
    #[serde(default)]
    pub steps: Option<StepSpec>,
    /// Bound on the rows of one party.
    #[serde(default = "defaults::max_rows")]
    pub max_rows: u64,
    /// Seed of the initial weights and of every shuffle.
    #[serde(default)]
    pub seed: u64,
}

/// What a [`JobSpec`] leaves out.
mod defaults {
    pub(super) fn scheme() -> String {
        "pad".to_owned()
    }

    pub(super) fn suite() -> String {
        "aes-256-ctr".to_owned()
    }

    pub(super) const fn ring() -> u32 {
        64
    }

    pub(super) const fn frac_bits() -> u8 {
        24
    }

    pub(super) const fn clip() -> f64 {
        64.0
    }

    pub(super) const fn k_min() -> u32 {
        2
    }

    pub(super) const fn collect_seconds() -> f64 {
        600.0
    }

    pub(super) const fn grace_seconds() -> f64 {
        5.0
    }

    pub(super) const fn key_seconds() -> f64 {
        600.0
    }

    pub(super) const fn max_attempts() -> u16 {
        8
    }

    pub(super) const fn sums() -> u32 {
        1
    }

    pub(super) const fn max_rows() -> u64 {
        1 << 20
    }
}

impl JobSpec {
    /// A job that sums one vector of `dim` integers of magnitude at most `max_abs`.
    #[must_use]
    pub fn of_sum(title: &str, parties: u32, table: SumTable) -> Self {
        Self { sum: Some(table), ..Self::bare(title, parties) }
    }

    /// A job that trains a model.
    #[must_use]
    pub fn of_training(title: &str, parties: u32, table: TrainTable) -> Self {
        Self { train: Some(table), ..Self::bare(title, parties) }
    }

    /// A job of any workload with defaults and a floor of two.
    #[must_use]
    pub fn of_workload(title: &str, parties: u32, workload: Workload) -> Self {
        let mut spec = Self::bare(title, parties);
        match workload {
            Workload::Sum { dim, rounds, max_abs } => {
                spec.sum = Some(SumTable { dim, rounds, max_abs });
            }
            Workload::Train(train) => {
                spec.train = Some(TrainTable {
                    schema: train.schema,
                    model: train.model,
                    rounds: train.rounds,
                    local: train.local,
                    steps: train.steps,
                    max_rows: train.max_rows,
                    seed: train.seed,
                });
            }
            Workload::Tree(tree) => spec.tree = Some(tree.into()),
            Workload::Bayes(bayes) => spec.bayes = Some(bayes.into()),
            Workload::Vertical(vertical) => spec.vertical = Some(vertical),
            Workload::Payments(payments) => {
                (spec.scheme, spec.ring) = ("elgamal".to_owned(), 32);
                spec.payments = Some(payments);
            }
        }
        spec
    }

    /// Defaults, a floor of two, and no workload.
    fn bare(title: &str, parties: u32) -> Self {
        Self {
            title: title.to_owned(),
            scheme: defaults::scheme(),
            suite: defaults::suite(),
            ring: defaults::ring(),
            frac_bits: defaults::frac_bits(),
            clip: defaults::clip(),
            max_parties: parties,
            quorum: defaults::k_min(),
            k_min: defaults::k_min(),
            colluders: 0,
            collect_seconds: defaults::collect_seconds(),
            grace_seconds: defaults::grace_seconds(),
            key_seconds: defaults::key_seconds(),
            max_attempts: defaults::max_attempts(),
            privacy: None,
            threshold: None,
            sum: None,
            train: None,
            tree: None,
            bayes: None,
            vertical: None,
            payments: None,
        }
    }

    /// The manifest of a new job of these authorities, in any order; `salt` is fresh randomness.
    ///
    /// # Errors
    /// [`Code::BadManifest`] with the setting that is wrong.
    pub fn into_manifest(
        self,
        tenant: Name,
        aggregator: VerifyKey,
        mut authorities: Vec<AuthorityKey>,
        salt: [u8; 16],
    ) -> Result<Manifest, Refusal> {
        let bad = |why: String| Refusal::new(Code::BadManifest, why);
        let sum = self.sum.map(|table| Workload::Sum {
            dim: table.dim,
            rounds: table.rounds,
            max_abs: table.max_abs,
        });
        let train = self.train.map(|table| {
            Workload::Train(TrainSpec {
                schema: table.schema,
                model: table.model,
                rounds: table.rounds,
                local: table.local,
                steps: table.steps,
                max_rows: table.max_rows,
                seed: table.seed,
            })
        });
        let (tree, bayes) = (self.tree.map(Workload::from), self.bayes.map(Workload::from));
        let vertical = self.vertical.map(Workload::Vertical);
        let payments = self.payments.map(Workload::Payments);
        let mut workloads = [sum, train, tree, bayes, vertical, payments].into_iter().flatten();
        let (Some(workload), None) = (workloads.next(), workloads.next()) else {
            let why = "a job has exactly one of [sum], [train], [tree], [bayes], [vertical] and \
                       [payments]";
            return Err(bad(why.to_owned()));
        };
        let served = || schemes::all().iter().filter(|scheme| scheme.info().served);
        let named = schemes::by_name(&self.scheme).filter(|scheme| {
            let info = scheme.info();
            info.served || (cfg!(feature = "testkit") && info.family == Family::Threshold)
        });
        let scheme = named.ok_or_else(|| {
            let known: Vec<&str> = served().map(|scheme| scheme.info().name).collect();
            bad(format!("scheme {:?} is unknown, there are: {}", self.scheme, known.join(", ")))
        })?;
        let suite = match self.suite.as_str() {
            "aes-256-ctr" => PadSuite::Aes256Ctr,
            "chacha20" => PadSuite::ChaCha20,
            other => {
                return Err(bad(format!("suite {other:?} is unknown: aes-256-ctr or chacha20")));
            }
        };
        let ring = match self.ring {
            32 => Ring::Z32,
            64 => Ring::Z64,
            other => return Err(bad(format!("ring is {other}, allowed are 32 and 64"))),
        };
        authorities.sort_by(|a, b| a.name.cmp(&b.name));
        let info = scheme.info();
        let (protocol, threshold) = match (info.family, self.threshold) {
            (Family::Threshold, table) => {
                if let [_, _, ..] = authorities.as_slice() {
                    return Err(bad(format!(
                        "scheme {} opens with one authority, and this aggregator works with {}: \
                         create the job at an aggregator with one",
                        info.name,
                        authorities.len()
                    )));
                }
                let floor = self.quorum.max(self.k_min.saturating_add(self.colluders));
                let mut table = table.unwrap_or_default();
                let protocol = match &workload {
                    Workload::Payments(spec) => {
                        // Every bank holds a share.
                        let banks = u32::try_from(spec.banks.len()).unwrap_or(u32::MAX);
                        table.holders = table.holders.or(Some(banks));
                        quorate_protocols::pv4fad::PROTOCOL_ID
                    }
                    _ => quorate_protocols::threshold::PROTOCOL_ID,
                };
                (protocol, Some(table.into_spec(floor, self.colluders)))
            }
            (_, Some(_)) => {
                let schemes = served().filter(|scheme| scheme.info().family == Family::Threshold);
                let names: Vec<&str> = schemes.map(|scheme| scheme.info().name).collect();
                return Err(bad(format!(
                    "[threshold]: scheme {} has no key holders; remove the table or choose one of: {}",
                    info.name,
                    names.join(", ")
                )));
            }
            (_, None) if matches!(workload, Workload::Vertical(_)) => {
                (quorate_protocols::fedv::PROTOCOL_ID, None)
            }
            (_, None) => (quorate_protocols::hybrid_alpha::PROTOCOL_ID, None),
        };
        let privacy = match self.privacy {
            Some(table) => Privacy::Noise(table.into_noise(&workload)?),
            None => Privacy::None,
        };
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            tenant,
            title: self.title,
            salt,
            aggregator,
            authorities,
            protocol,
            scheme: info.id,
            suite,
            ring,
            code: FixedPoint { frac_bits: self.frac_bits, clip: self.clip },
            max_parties: self.max_parties,
            quorum: self.quorum,
            k_min: self.k_min,
            colluders: self.colluders,
            threshold,
            privacy,
            verified_sum: false,
            deadlines: Deadlines {
                collect_ms: millis("collect_seconds", self.collect_seconds)?,
                grace_ms: millis("grace_seconds", self.grace_seconds)?,
                key_ms: millis("key_seconds", self.key_seconds)?,
                max_attempts: self.max_attempts,
            },
            workload,
        };
        manifest.check()?;
        Ok(manifest)
    }
}

/// Seconds, with fractions, as whole milliseconds; the manifest's own check bounds them.
fn millis(what: &str, seconds: f64) -> Result<u64, Refusal> {
    let ms = (seconds * 1000.0).round();
    if !(0.0..1e12).contains(&ms) {
        return Err(Refusal::new(Code::BadManifest, format!("{what} is out of range")));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, not negative and below 10^12"
    )]
    Ok(ms as u64)
}

#[cfg(test)]
mod tests;
