//! Threshold jobs under fire: trees grown from noised counts under `elgamal`.
//!
//! Every other job draws its noise from a seed, so that its sums can be computed again; the rest draw
//! it from the system, so that a second draw would be another plaintext. The stores say afterwards how
//! many keys, answers and draws there were.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use quorate_client::api::{Hex32, JobSpec, JobStatus, PrivacyTable, ThresholdTable};
use quorate_client::engine::noise_rng;
use quorate_client::learn::twin::FrozenSet;
use quorate_client::ledger::Ledgers;
use quorate_client::store::{Fact, Store};
use quorate_protocols::job::Manifest;
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::policy::noise::{add_share, round_scale};
use quorate_protocols::policy::{Mechanism, Unit};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{Schema, TreeSpec, Workload};
use quorate_server::demo::data::Prepared;

/// Rounds of each job.
pub(crate) const LEVELS: u32 = 3;

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// Posts to its threshold key.
    Keying,
    /// Partial decryptions.
    Sharing,
    /// Anything else.
    Other,
}

impl Moment {
    pub(crate) fn of(status: Option<&JobStatus>) -> Self {
        match status.and_then(|status| status.threshold.as_ref()) {
            Some(key) if key.key.is_none() && key.key_calls > 0 => Self::Keying,
            Some(key) if !key.asked.is_empty() => Self::Sharing,
            _ => Self::Other,
        }
    }
}

/// Where the noise of a job comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noise {
    /// There is none.
    None,
    /// This seed.
    Seeded([u8; 32]),
    /// The system's randomness.
    Drawn,
}

impl Noise {
    /// That of the threshold job with this number.
    pub(crate) fn of(number: u64) -> Self {
        match number % 2 {
            0 => Self::Seeded([u8::try_from(number % 256).unwrap_or(0); 32]),
            _ => Self::Drawn,
        }
    }

    pub(crate) const fn seed(self) -> Option<[u8; 32]> {
        match self {
            Self::Seeded(seed) => Some(seed),
            Self::None | Self::Drawn => None,
        }
    }

    /// The exact sum of a set with its members' noise, if that can be known.
    pub(crate) fn added(
        self,
        manifest: &Manifest,
        set: &FrozenSet,
        mut sum: OpenedSum,
    ) -> anyhow::Result<Option<OpenedSum>> {
        let seed = match self {
            Self::None => return Ok(Some(sum)),
            Self::Drawn => return Ok(None),
            Self::Seeded(seed) => seed,
        };
        let noise = manifest.privacy.noise().context("a job with noise")?;
        let parts = manifest.noise_divisor();
        let scale = round_scale(&manifest.workload, noise, set.round, parts);
        let room = manifest.payload(set.round)?.noise;
        for member in &set.members {
            let member = Name::new(member)?;
            let mut rng = noise_rng(Some(&seed), &manifest.hash(), set.round, &member);
            add_share(noise.mechanism, scale, parts, room, &mut rng, &mut sum.body)?;
        }
        // How many rows stand behind a noised sum is not said.
        sum.rows = 0;
        Ok(Some(sum))
    }
}

pub(crate) fn spec(schema: &Schema, number: u64) -> JobSpec {
    let defaults = TreeSpec::default_for(schema.clone());
    let title = format!("crash {number}");
    let tree = TreeSpec { depth: LEVELS, max_frontier: 3, ..defaults };
    let privacy = PrivacyTable {
        unit: Unit::Record,
        mechanism: Mechanism::Gaussian,
        noise_multiplier: Some(4.0),
        epsilon: 1000.0,
        delta: 1e-6,
        clip: None,
        data_set: Name::new("nursery").expect("a name"),
    };
    JobSpec {
        scheme: "elgamal".to_owned(),
        threshold: Some(ThresholdTable { holders: Some(4), threshold: Some(2) }),
        privacy: Some(privacy),
        quorum: 3,
        colluders: 1,
        collect_seconds: 30.0,
        grace_seconds: 1.0,
        key_seconds: 60.0,
        max_attempts: 50,
        ..JobSpec::of_workload(&title, 5, Workload::Tree(tree))
    }
}

/// A store and what its log says of each job.
struct Logged {
    name: String,
    store: Store,
    facts: BTreeMap<Hex32, Vec<Fact>>,
}

impl Logged {
    async fn open(folder: &Path, name: &str, jobs: &BTreeSet<Hex32>) -> anyhow::Result<Self> {
        let store = Store::open(&folder.join(name).join("store")).await?;
        let mut facts = BTreeMap::new();
        for job in jobs {
            let (mut all, mut seq) = (Vec::new(), 0);
            loop {
                let page = store.job_facts_since(&job.to_string(), seq, 500).await?;
                let Some(last) = page.last() else { break };
                seq = last.seq;
                all.extend(page.into_iter().map(|logged| logged.fact));
            }
            facts.insert(*job, all);
        }
        Ok(Self { name: name.to_owned(), store, facts })
    }

    /// The bodies of a job's facts of one kind.
    fn bodies(&self, job: &Hex32, what: &str) -> Vec<&serde_json::Value> {
        let facts = self.facts.get(job).map_or(&[][..], Vec::as_slice);
        facts.iter().filter(|fact| fact.predicate == what).map(|fact| &fact.body).collect()
    }

    /// The rounds that a job's facts of one kind are of, in order.
    fn rounds(&self, job: &Hex32, what: &str) -> Vec<u64> {
        let bodies = self.bodies(job, what);
        let mut rounds: Vec<u64> =
            bodies.iter().filter_map(|body| body["round"].as_u64()).collect();
        rounds.sort_unstable();
        rounds
    }

    /// The id of the only key that a job's facts of one kind name.
    fn only_key(&self, job: &Hex32, what: &str) -> anyhow::Result<String> {
        let keys = self.bodies(job, what);
        ensure!(keys.len() == 1, "{}: {} x {what} in job {job}", self.name, keys.len());
        keys[0]["note"].as_str().map(str::to_owned).context("a key without a name")
    }

    /// Rounds charged to its only data set.
    async fn charged(&self) -> anyhow::Result<u64> {
        let spent = Ledgers::spent(&self.store, 1e-6).await?;
        ensure!(spent.len() == 1, "{}: {spent:?}", self.name);
        Ok(spent[0].rounds)
    }
}

/// Of each job: one key, the same everywhere; of each round: one answer of the authority and one sum;
/// of each round and holder: one set that was answered for; of each round and party: one draw of noise,
/// and one charge.
pub(crate) async fn check_stores(
    folder: &Path,
    prepared: &Prepared,
    jobs: &BTreeSet<Hex32>,
) -> anyhow::Result<()> {
    let authority = Logged::open(folder, "authority-a", jobs).await?;
    let aggregator = Logged::open(folder, "aggregator", jobs).await?;
    let all: Vec<u64> = (0..u64::from(LEVELS)).collect();
    let rounds = jobs.len() as u64 * u64::from(LEVELS);
    for job in jobs {
        let key = authority.only_key(job, "key.made")?;
        ensure!(aggregator.only_key(job, "key.made")? == key, "job {job} has two keys");
        for (log, what) in [(&authority, "key.released"), (&aggregator, "round.result")] {
            let opened = log.rounds(job, what);
            ensure!(opened == all, "{}: {what} in rounds {opened:?} of job {job}", log.name);
        }
    }
    let charged = authority.charged().await?;
    ensure!(charged == rounds, "the authority charged {charged} of {rounds} rounds");
    let mut shares = 0;
    for bank in &prepared.banks {
        let log = Logged::open(folder, &bank.name, jobs).await?;
        let plaintexts = log.store.list_records("plaintext", "").await?;
        for job in jobs {
            let key = authority.only_key(job, "key.made")?;
            ensure!(log.only_key(job, "key.accepted")? == key, "{}: another key", log.name);
            let bound = log.rounds(job, "share.bound");
            let once: BTreeSet<u64> = bound.iter().copied().collect();
            ensure!(bound.len() == once.len(), "{}: two sets of one round, {bound:?}", log.name);
            shares += bound.len();
            let entered: BTreeSet<u64> = log.rounds(job, "round.entered").into_iter().collect();
            let text = job.to_string();
            let of_job = |(_, value): &&(String, Vec<u8>)| value.as_slice() == text.as_bytes();
            let drawn = plaintexts.iter().filter(of_job).count();
            ensure!(
                (1..=entered.len()).contains(&drawn),
                "{}: {drawn} draws of noise in {} rounds of job {job}",
                log.name,
                entered.len()
            );
        }
        let charged = log.charged().await?;
        ensure!((1..=rounds).contains(&charged), "{}: {charged} of {rounds}", log.name);
        log.store.close().await;
    }
    // T = 2 of the four holders answer for each round at least.
    ensure!(shares as u64 >= 2 * rounds, "{shares} shares in {rounds} rounds");
    println!("{} threshold jobs: {shares} answers of holders in {rounds} rounds", jobs.len());
    authority.store.close().await;
    aggregator.store.close().await;
    Ok(())
}
