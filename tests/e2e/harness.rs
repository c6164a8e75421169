//! A world of services on free ports, each of which can be killed and started again on its store.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::api::{JobSpec, JobStatus, SumTable};
use quorate_client::party::{Party, PartyConfig, PartyError, SumResult};
use quorate_client::store::{Store, StoreError};
use quorate_client::transport::Transport;
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::Minima;
use quorate_protocols::wire::Name;
use quorate_server::http::{Access, Limits};
use quorate_server::{aggregator, authority};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Far above what any step takes; only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What a service is started from.
#[derive(Clone)]
enum Role {
    Authority(Authority),
    Aggregator(Vec<String>),
}

/// Settings of an authority that tests choose.
#[derive(Clone)]
struct Authority {
    name: Name,
    minima: Minima,
    max_epsilon: Option<f64>,
    aggregator: Option<String>,
}

/// A running service.
pub(crate) struct Service {
    role: Role,
    store: PathBuf,
    addr: SocketAddr,
    task: JoinHandle<Result<()>>,
}

impl Service {
    async fn start(role: Role, store: PathBuf, listener: TcpListener) -> Result<Self> {
        let addr = listener.local_addr()?;
        let (limits, tenant) = (aggregator::limits(), name("t"));
        let task = match role.clone() {
            Role::Authority(settings) => {
                let config = authority::Config {
                    name: settings.name,
                    tenant,
                    store: store.clone(),
                    minima: settings.minima,
                    aggregator: settings.aggregator,
                    max_epsilon: settings.max_epsilon,
                    access: Access::Loopback,
                    limits: Limits::default(),
                };
                tokio::spawn(authority::run(config, listener, std::future::pending()))
            }
            Role::Aggregator(authorities) => {
                let config = aggregator::Config {
                    tenant,
                    store: store.clone(),
                    authorities,
                    access: Access::Loopback,
                    limits,
                };
                tokio::spawn(aggregator::run(config, listener, std::future::pending()))
            }
        };
        Ok(Self { role, store, addr, task })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops it without a word and starts it again on the same store and port.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.task.abort();
        let _ = (&mut self.task).await;
        unlocked(&self.store).await?;
        let listener = TcpListener::bind(self.addr).await?;
        *self = Self::start(self.role.clone(), self.store.clone(), listener).await?;
        wait_ready(&self.url()).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until no task of a killed service or party holds the store any more.
pub(crate) async fn unlocked(store: &Path) -> Result<()> {
    let free = async {
        loop {
            match Store::open(store).await {
                Ok(store) => break store.close().await,
                Err(StoreError::Locked(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, free).await?
}

async fn wait_ready(url: &str) -> Result<()> {
    let ready = format!("{url}/readyz");
    until(async || reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()))
        .await
        .context("never ready")
}

/// Waits until `done` says so.
pub(crate) async fn until(mut done: impl AsyncFnMut() -> bool) -> Result<()> {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, wait).await?)
}

/// Two authorities and an aggregator.
pub(crate) struct World {
    pub(crate) authorities: Vec<Service>,
    pub(crate) aggregator: Service,
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        Self::with(&[Minima::default(), Minima::default()]).await
    }

    pub(crate) async fn with(minima: &[Minima]) -> Result<Self> {
        Self::of(minima, None, true).await
    }

    /// One authority, as threshold jobs have it, with its own limit on what a data set may spend.
    pub(crate) async fn one(max_epsilon: Option<f64>) -> Result<Self> {
        Self::of(&[Minima::default()], max_epsilon, true).await
    }

    /// One authority that was not told where its aggregator is.
    pub(crate) async fn one_alone() -> Result<Self> {
        Self::of(&[Minima::default()], None, false).await
    }

    pub(crate) async fn of(
        minima: &[Minima],
        max_epsilon: Option<f64>,
        told: bool,
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        // Each has to know the other's address before it starts.
        let listener = TcpListener::bind(any).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut authorities = Vec::new();
        for (index, minima) in minima.iter().enumerate() {
            let id = format!("a{index}");
            let role = Role::Authority(Authority {
                name: name(&id),
                minima: minima.clone(),
                max_epsilon,
                aggregator: told.then(|| url.clone()),
            });
            let listener = TcpListener::bind(any).await?;
            authorities.push(Service::start(role, dir.path().join(&id), listener).await?);
        }
        let role = Role::Aggregator(authorities.iter().map(Service::url).collect());
        let aggregator = Service::start(role, dir.path().join("aggregator"), listener).await?;
        wait_ready(&aggregator.url()).await?;
        Ok(Self { authorities, aggregator, dir })
    }

    /// The folder of an authority's store.
    pub(crate) fn authority_folder(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("a{index}"))
    }

    /// Names of the records of a kind in an authority's store. The authority is stopped for good.
    pub(crate) async fn records(mut self, index: usize, kind: &str) -> Result<Vec<String>> {
        let service = &mut self.authorities[index];
        service.task.abort();
        let _ = (&mut service.task).await;
        unlocked(&service.store).await?;
        let store = Store::open(&service.store).await?;
        let records = store.list_records(kind, "").await?;
        store.close().await;
        Ok(records.into_iter().map(|(name, _)| name).collect())
    }

    /// The folder of the aggregator's store.
    pub(crate) fn aggregator_folder(&self) -> PathBuf {
        self.dir.path().join("aggregator")
    }

    /// The folder of the aggregator's chunks.
    pub(crate) fn aggregator_blobs(&self) -> PathBuf {
        self.dir.path().join("aggregator/blobs")
    }

    pub(crate) async fn create(&self, spec: &JobSpec) -> Result<Hash> {
        let job = Transport::new(PATIENCE)?.create_job(&self.aggregator.url(), spec).await?;
        Ok(job)
    }

    pub(crate) fn config(&self, party: &str) -> Result<PartyConfig> {
        let store = self.dir.path().join(party);
        let mut config = PartyConfig::new(party, &self.aggregator.url(), store)?;
        config.authorities = self.authorities.iter().map(Service::url).collect();
        config.patience = PATIENCE;
        Ok(config)
    }

    pub(crate) async fn party(&self, party: &str) -> Result<Party> {
        self.connect(self.config(party)?).await
    }

    /// Connects; waits for what an aborted run may still hold.
    pub(crate) async fn connect(&self, config: PartyConfig) -> Result<Party> {
        loop {
            match Party::connect(config.clone()).await {
                Err(PartyError::Store(StoreError::Locked(_))) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Runs a party of a job of sums, whose vectors come from [`vector`].
    pub(crate) async fn sum(
        &self,
        party: &str,
        job: Hash,
        dim: u64,
        before: impl Fn(u32) -> Result<()> + Send + 'static,
    ) -> Result<JoinHandle<Result<Vec<SumResult>, PartyError>>> {
        Ok(Self::spawn_sum(self.party(party).await?, job, dim, before))
    }

    /// As [`World::sum`], with a party that is connected.
    pub(crate) fn spawn_sum(
        connected: Party,
        job: Hash,
        dim: u64,
        before: impl Fn(u32) -> Result<()> + Send + 'static,
    ) -> JoinHandle<Result<Vec<SumResult>, PartyError>> {
        let id = connected.entry().party.to_string();
        tokio::spawn(async move {
            let vector = move |round| {
                before(round)?;
                Ok(vector(&id, round, dim))
            };
            connected.sum(job, vector).await
        })
    }

    pub(crate) async fn status(&self, job: Hash) -> Result<JobStatus> {
        let url = format!("{}/v1/jobs/{job}", self.aggregator.url());
        Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
    }

    pub(crate) async fn facts(&self, service: &Service) -> Result<Vec<Value>> {
        facts(&service.url()).await
    }

    /// How many facts of the aggregator say `what`.
    pub(crate) async fn count(&self, what: &str) -> Result<usize> {
        let facts = self.facts(&self.aggregator).await?;
        Ok(facts.iter().filter(|fact| fact["predicate"] == what).count())
    }
}

pub(crate) async fn facts(url: &str) -> Result<Vec<Value>> {
    Ok(reqwest::get(format!("{url}/v1/facts?after=0")).await?.json().await?)
}

/// Whether a refusal with this code is in a service's log.
pub(crate) async fn logged(url: &str, code: &str) -> Result<bool> {
    let facts = facts(url).await?;
    Ok(facts.iter().any(|f| f["predicate"] == "refused" && f["body"]["code"] == code))
}

/// A party's vector of a round: distinct for each, with both signs.
pub(crate) fn vector(party: &str, round: u32, dim: u64) -> Vec<i64> {
    let seed: i64 = party.bytes().map(i64::from).sum::<i64>() + 31 * i64::from(round);
    (0..dim).map(|i| (seed * 7919 + i64::try_from(i).unwrap() * 104_729) % 1999 - 999).collect()
}

/// A job of sums of values up to 1000, with short deadlines.
pub(crate) fn spec(parties: u32, quorum: u32, dim: u64, rounds: u32) -> JobSpec {
    JobSpec {
        quorum,
        grace_seconds: 0.5,
        max_attempts: 1000,
        ..JobSpec::of_sum("sums", parties, SumTable { dim, rounds, max_abs: 1000 })
    }
}

/// Checks that every sum is that of its members, exactly.
pub(crate) fn check_exact(sums: &[SumResult], rounds: u32, dim: u64, floor: usize) -> Result<()> {
    ensure!(sums.len() == usize::try_from(rounds)?, "{} sums", sums.len());
    for sum in sums {
        ensure!(sum.members.len() >= floor, "{:?} below the floor", sum.members);
        let mut expected = vec![0; usize::try_from(dim)?];
        for member in &sum.members {
            let one = vector(member.as_str(), sum.round, dim);
            expected.iter_mut().zip(one).for_each(|(total, value)| *total += value);
        }
        ensure!(sum.values == expected, "round {} is not exact", sum.round);
    }
    Ok(())
}

/// Every party's sums, checked to be the same.
pub(crate) async fn all_equal(
    running: Vec<JoinHandle<Result<Vec<SumResult>, PartyError>>>,
) -> Result<Vec<SumResult>> {
    let mut first: Option<Vec<SumResult>> = None;
    for task in running {
        let sums = tokio::time::timeout(PATIENCE, task).await???;
        match &first {
            Some(known) => ensure!(*known == sums, "parties saw different sums"),
            None => first = Some(sums),
        }
    }
    first.context("no party")
}

/// A gate that blocks a party's training until a test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn pass(&self) {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An answer of a service: status, media type, and its JSON if it is JSON.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Result<Self> {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|k| k.to_str().unwrap().to_owned());
        let body = answer.bytes().await?.to_vec();
        Ok(Self { status, kind: kind.unwrap_or_default(), body })
    }

    pub(crate) async fn post(url: String, body: Vec<u8>) -> Result<Self> {
        Self::of(reqwest::Client::new().post(url).body(body)).await
    }

    /// The problem's code, if this is one.
    pub(crate) fn code(&self) -> String {
        if self.kind != "application/problem+json" {
            return format!("no problem but {} {:?}", self.status, self.kind);
        }
        let problem: BTreeMap<String, Value> = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status, "{problem:?}");
        problem["code"].as_str().unwrap().to_owned()
    }
}
