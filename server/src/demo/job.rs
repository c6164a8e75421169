//! A job seen from outside: created and followed over the aggregator's HTTP interface, its model
//! recomputed from the opened sums.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use quorate_client::api::{
    AggregatorInfo, FrozenRound, Hex32, JobCreated, JobSpec, JobStatus, MAX_JSON_BYTES, PartyView,
    ProblemBody, RoundReport, from_json,
};
use quorate_client::bulk::{Bulk, BulkInfo};
use quorate_client::store::LoggedFact;
use quorate_crypto::keys::VerifyKey;
use quorate_crypto::merkle::leaf_hash;
use quorate_protocols::job::{JobPackage, Manifest};
use quorate_protocols::model::ModelState;
use quorate_protocols::payload::{OpenedSum, read_sum};
use quorate_protocols::policy::Spent;
use quorate_protocols::round::messages::{ResultRecord, RoundOpen};
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Signed, Verified, decode};
use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time until an aggregator has met its authorities.
const READY: Duration = Duration::from_secs(30);

/// Longest time until every authority approved a job.
const APPROVAL: Duration = Duration::from_secs(30);

/// Largest vector that is fetched, in bytes: models, not bulk.
const MAX_SUM_BYTES: u64 = 1 << 30;

/// An aggregator.
#[derive(Clone, Debug)]
pub struct Aggregator {
    http: reqwest::Client,
    base: String,
}

/// One opened round.
#[derive(Clone, Debug)]
pub struct OpenedRound {
    /// The aggregator's record of it.
    pub record: Verified<ResultRecord>,
    /// What was opened.
    pub sum: OpenedSum,
    /// The model after it.
    pub state: ModelState,
}

/// A job that is followed round by round.
#[derive(Clone, Debug)]
pub struct Followed {
    aggregator: Aggregator,
    key: VerifyKey,
    job: Hex32,
    manifest: Manifest,
    state: ModelState,
    opened: usize,
    open: Option<Verified<RoundOpen>>,
}

impl Aggregator {
    /// The aggregator at this base URL.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn at(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { http, base: base.to_owned() })
    }

    /// Creates a job, once the aggregator is ready, and returns its id.
    ///
    /// # Errors
    /// When the aggregator refuses, with its reason, cannot be reached, or is not ready in time.
    pub async fn create(&self, spec: &JobSpec) -> anyhow::Result<Hex32> {
        let give_up = Instant::now() + READY;
        while let Err(error) = body(self.get("/readyz").send().await?, MAX_JSON_BYTES).await {
            if Instant::now() > give_up {
                return Err(error.context("the aggregator is not ready"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let request = self.http.post(format!("{}/v1/jobs", self.base)).json(spec);
        let created: JobCreated = json(request).await.context("the job was not created")?;
        Ok(created.job)
    }

    /// Follows a job, once every authority approved it.
    ///
    /// # Errors
    /// When the job is unknown, not approved in time, or its package does not verify.
    pub async fn follow(&self, job: Hex32) -> anyhow::Result<Followed> {
        let info: AggregatorInfo = json(self.get("/v1/aggregator")).await?;
        let give_up = Instant::now() + APPROVAL;
        let package = loop {
            let response = self.get(&format!("/v1/jobs/{job}/package")).send().await?;
            let waiting = response.status() == StatusCode::CONFLICT;
            match body(response, MAX_MESSAGE_BYTES).await {
                Ok(bytes) => break decode::<JobPackage>(&bytes)?,
                Err(_) if waiting && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error.context("the job was not approved")),
            }
        };
        package.verify()?;
        let manifest = package.manifest;
        ensure!(manifest.hash().0 == job.0, "the aggregator shows another job");
        let state = ModelState::of_job(&manifest);
        let key = info.verify.into();
        let aggregator = self.clone();
        Ok(Followed { aggregator, key, job, manifest, state, opened: 0, open: None })
    }

    /// What was spent on each data set, where the service at this address is an authority.
    ///
    /// # Errors
    /// When it refuses or cannot be reached.
    pub async fn spent(&self, delta: f64) -> anyhow::Result<Vec<Spent>> {
        json(self.get(&format!("/v1/budget?delta={delta:e}"))).await
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }
}

impl Followed {
    /// The job's id.
    #[must_use]
    pub const fn id(&self) -> Hex32 {
        self.job
    }

    /// The job's manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The model after the last round that was followed.
    #[must_use]
    pub const fn state(&self) -> &ModelState {
        &self.state
    }

    /// The attempt that took submissions at the last call of [`Followed::opened`].
    #[must_use]
    pub fn open_round(&self) -> Option<&RoundOpen> {
        self.open.as_deref()
    }

    /// Where the job stands.
    ///
    /// # Errors
    /// When the aggregator refuses or cannot be reached.
    pub async fn status(&self) -> anyhow::Result<JobStatus> {
        json(self.get("")).await
    }

    /// Who stands behind each opened round.
    ///
    /// # Errors
    /// As [`Followed::status`].
    pub async fn frozen(&self) -> anyhow::Result<Vec<FrozenRound>> {
        json(self.get("/frozen")).await
    }

    /// What each opened round cost.
    ///
    /// # Errors
    /// As [`Followed::status`].
    pub async fn report(&self) -> anyhow::Result<Vec<RoundReport>> {
        json(self.get("/report")).await
    }

    /// Up to a page of the aggregator's facts about the job, those after number `after`.
    ///
    /// # Errors
    /// As [`Followed::status`].
    pub async fn facts(&self, after: u64) -> anyhow::Result<Vec<LoggedFact>> {
        let path = format!("/v1/facts?after={after}&job={}", self.job);
        json(self.aggregator.get(&path)).await
    }

    /// The rounds opened since the last call, each checked against its signed record.
    ///
    /// # Errors
    /// As [`Followed::status`], and when a sum is not the one that was signed or no legal one.
    pub async fn opened(&mut self) -> anyhow::Result<Vec<OpenedRound>> {
        let query = format!("/view?results={}&wait_ms=0", self.opened);
        let response = self.get(&query).send().await?;
        let view: PartyView = decode(&body(response, MAX_MESSAGE_BYTES).await?)?;
        self.open = view.open.map(|open| open.verify(&self.key)).transpose()?;
        let mut rounds = Vec::new();
        for signed in &view.results {
            match self.next(signed).await {
                Ok(round) => rounds.push(round),
                // What was read counts already; the rest comes with the next call.
                Err(_) if !rounds.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(rounds)
    }

    async fn next(&mut self, signed: &Signed<ResultRecord>) -> anyhow::Result<OpenedRound> {
        let record = signed.verify(&self.key)?;
        let round = record.round;
        ensure!(usize::try_from(round).is_ok_and(|r| r == self.opened), "a round is missing");
        let bytes = self.sum(&record).await?;
        let manifest = &self.manifest;
        let sum = read_sum(
            &manifest.payload(round)?,
            manifest.ring,
            &manifest.code,
            manifest.workload.max_rows(),
            record.members.len() as u64,
            &bytes,
        )?;
        self.state = self.state.advance(&manifest.workload, round, &sum)?;
        self.opened += 1;
        Ok(OpenedRound { record, sum, state: self.state.clone() })
    }

    /// The bytes of an opened sum.
    async fn sum(&self, record: &ResultRecord) -> anyhow::Result<Vec<u8>> {
        let info = BulkInfo { len: record.sum.len, root: record.sum.root };
        ensure!(info.len <= MAX_SUM_BYTES, "the sum has {} bytes", info.len);
        let path = format!("/results/{}", record.round);
        let leaves =
            body(self.get(&format!("{path}/leaves")).send().await?, MAX_JSON_BYTES).await?;
        let bulk = Bulk::parse(info, info.len, &leaves)?;
        let mut bytes = Vec::new();
        for (index, leaf) in (0..).zip(bulk.leaves()) {
            let response = self.get(&format!("{path}/chunks/{index}")).send().await?;
            let chunk = body(response, bulk.chunk_len(index)?).await?;
            ensure!(leaf_hash(&chunk) == *leaf, "chunk {index} of a sum is not the signed one");
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.aggregator.get(&format!("/v1/jobs/{}{path}", self.job))
    }
}

async fn json<T: DeserializeOwned>(request: RequestBuilder) -> anyhow::Result<T> {
    Ok(from_json(&body(request.send().await?, MAX_JSON_BYTES).await?)?)
}

/// At most `max` bytes of a successful answer.
async fn body(mut response: reqwest::Response, max: usize) -> anyhow::Result<Vec<u8>> {
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await? {
        ensure!(bytes.len() + part.len() <= max, "the answer has over {max} bytes");
        bytes.extend_from_slice(&part);
    }
    if status.is_success() {
        return Ok(bytes);
    }
    let problem: ProblemBody = serde_json::from_slice(&bytes).unwrap_or_default();
    Err(Answered { status, problem }.into())
}

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
#[error("{}: {} {}", status, problem.code, problem.detail)]
struct Answered {
    status: StatusCode,
    problem: ProblemBody,
}

/// Whether the aggregator may answer otherwise later: it was not reached, or is not ready.
#[must_use]
pub fn is_passing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<Answered>() {
        Some(answered) => answered.status.is_server_error(),
        None => cause.is::<reqwest::Error>(),
    })
}
