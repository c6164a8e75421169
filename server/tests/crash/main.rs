//! SIGKILL for every service at random moments of demo-sized jobs, with a recording proxy between
//! the aggregator and each authority.
//!
//! Every job must finish with the exact sums, and the bytes on the wire must hold one functional key
//! per label and authority and one opened attempt per round. A quarter of the jobs are threshold
//! jobs with noise, whose services are also killed while the key is made and while shares are
//! wanted: see [`threshold`].
//!
//! `QUORATE_CRASH_JOBS` (default 20) and `QUORATE_CRASH_SEED` choose how many jobs and which moments.

mod proxy;
mod threshold;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use proxy::{Exchange, Proxy};
use quorate_client::api::{Hex32, JobOutcome, JobSpec, TrainTable};
use quorate_client::learn::data::Dataset;
use quorate_client::learn::twin::{FrozenSet, plain_sum};
use quorate_protocols::model::ModelState;
use quorate_protocols::round::messages::Message;
use quorate_protocols::workload::{ModelSpec, TrainSpec};
use quorate_server::demo::data::{Prepared, Source};
use quorate_server::demo::fleet::Fleet;
use quorate_server::demo::job::{Aggregator, OpenedRound};
use quorate_server::demo::supervisor::Service;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use threshold::{Moment, Noise};

const BANKS: usize = 5;
/// Rounds of weights in each job of training; with the moments, one more sum.
const ROUNDS: u32 = 4;
/// A job that takes longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// The jobs of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Training under functional encryption.
    Training,
    /// Noised trees under threshold encryption.
    Threshold,
}

impl Kind {
    const fn authorities(self) -> usize {
        match self {
            Self::Training => 2,
            Self::Threshold => 1,
        }
    }

    const fn rounds(self) -> u32 {
        match self {
            Self::Training => ROUNDS + 1,
            Self::Threshold => threshold::LEVELS,
        }
    }

    const fn data(self) -> &'static str {
        match self {
            Self::Training => "credit_default",
            Self::Threshold => "nursery",
        }
    }

    /// Kills in each job, at most: a job may be over before the last.
    const fn kills(self, moment: Moment) -> usize {
        match (self, moment) {
            (Self::Training, Moment::Other) => 4,
            (Self::Training, _) => 0,
            (Self::Threshold, Moment::Keying | Moment::Sharing) => 2,
            (Self::Threshold, Moment::Other) => 1,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_services_lose_nothing_and_open_every_round_once() -> anyhow::Result<()> {
    run(Kind::Training, |jobs| jobs - jobs / 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_holders_make_one_key_and_open_every_round_once() -> anyhow::Result<()> {
    run(Kind::Threshold, |jobs| jobs / 4).await
}

async fn run(kind: Kind, part: impl Fn(u64) -> u64) -> anyhow::Result<()> {
    let setting = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse::<u64>().with_context(|| format!("{name}={text:?}")),
        Err(_) => Ok(default),
    };
    let (jobs, seed) = (setting("QUORATE_CRASH_JOBS", 20)?, setting("QUORATE_CRASH_SEED", 1)?);
    let jobs = part(jobs).max(1);
    let folder = tempfile::tempdir()?;
    let done = match Crash::start(kind, folder.path(), seed).await {
        Ok(crash) => crash.run(jobs).await,
        Err(error) => Err(error),
    };
    if done.is_err() {
        // The logs are what one needs now.
        let kept = folder.keep();
        return done.with_context(|| format!("seed {seed}, logs in {}", kept.display()));
    }
    done
}

struct Crash {
    kind: Kind,
    folder: PathBuf,
    prepared: Prepared,
    fleet: Fleet,
    aggregator: Aggregator,
    proxies: Vec<Proxy>,
    rng: ChaCha20Rng,
    /// Services to kill next; refilled and shuffled when empty, so that each gets its turn.
    deck: Vec<usize>,
    killed: BTreeMap<(Moment, String), u32>,
}

impl Crash {
    async fn start(kind: Kind, folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_quorate"));
        let prepared = Source::read(kind.data(), None, &[])?.prepare(0, BANKS, folder)?;
        let address = (kind == Kind::Threshold).then(Fleet::reserve).transpose()?;
        let authorities =
            Fleet::authorities_of(program, folder, kind.authorities(), address).await?;
        let mut proxies = Vec::new();
        for authority in &authorities {
            proxies.push(Proxy::start(authority.address()?).await?);
        }
        let urls: Vec<String> = proxies.iter().map(|proxy| proxy.url.clone()).collect();
        let fleet = Fleet::start_at(program, folder, authorities, &urls, address).await?;
        let aggregator = Aggregator::at(&fleet.aggregator.url()?)?;
        let rng = ChaCha20Rng::seed_from_u64(seed);
        let (deck, killed, folder) = (Vec::new(), BTreeMap::new(), folder.to_owned());
        Ok(Self { kind, folder, prepared, fleet, aggregator, proxies, rng, deck, killed })
    }

    async fn run(mut self, jobs: u64) -> anyhow::Result<()> {
        let mut ids = BTreeSet::new();
        for job in 0..jobs {
            ids.insert(self.job(job).await.with_context(|| format!("job {job}"))?);
        }
        let recordings: Vec<Vec<Exchange>> = self.proxies.iter().map(Proxy::exchanges).collect();
        let keys = check_recording(&recordings)?;
        for id in &ids {
            for round in 0..self.kind.rounds() {
                let opened = keys.get(&(*id, round)).copied();
                let all = Some(self.kind.authorities());
                ensure!(opened == all, "job {id}, round {round}: {opened:?} keys");
            }
        }
        let kills: u32 = self.killed.values().sum();
        println!("{jobs} jobs, {} rounds, {kills} kills: {:?}", keys.len(), self.killed);
        ensure!(u64::from(kills) >= jobs, "only {kills} kills: jobs end before they are killed");
        if self.kind == Kind::Threshold {
            let at = |moment| self.killed.keys().filter(|(when, _)| *when == moment).count();
            let (keying, sharing) = (at(Moment::Keying), at(Moment::Sharing));
            ensure!(
                keying > 0 && sharing > 0,
                "{keying} services killed for keys, {sharing} for shares"
            );
            self.fleet.services().for_each(Service::kill);
            threshold::check_stores(&self.folder, &self.prepared, &ids).await?;
        }
        Ok(())
    }

    /// One job under fire, checked against sums in the clear.
    async fn job(&mut self, number: u64) -> anyhow::Result<Hex32> {
        let spec = match self.kind {
            Kind::Training => self.spec(number),
            Kind::Threshold => threshold::spec(&self.prepared.schema, number),
        };
        let job = self.aggregator.create(&spec).await?;
        let mut followed = self.aggregator.follow(job).await?;
        self.fleet.banks.clear();
        let noise = match self.kind {
            Kind::Training => Noise::None,
            Kind::Threshold => Noise::of(number),
        };
        let seed = noise.seed().map(|seed| Hex32(seed).to_string());
        let mut options = Vec::new();
        match &seed {
            // Every job trains on the same rows: its moments repeat those of the job before.
            None if noise == Noise::None => options.push("--allow-repeats"),
            None => {}
            Some(seed) => options.extend(["--insecure-noise-seed", seed]),
        }
        for bank in &self.prepared.banks {
            self.fleet.add_bank(&bank.name, &bank.file, job, &options)?;
        }
        for bank in &mut self.fleet.banks {
            bank.start().await?;
        }
        let begun = Instant::now();
        let mut opened = Vec::new();
        let mut next_kill = begun + self.between(0, 400);
        let mut kills = BTreeMap::new();
        loop {
            // Whatever fails here fails because the aggregator is down or starting.
            if let Ok(new) = followed.opened().await {
                opened.extend(new);
            }
            let status = followed.status().await.ok();
            let moment = Moment::of(status.as_ref());
            match status.and_then(|status| status.outcome) {
                Some(JobOutcome::Done) if opened.len() == self.kind.rounds() as usize => break,
                None | Some(JobOutcome::Done) => {}
                Some(other) => bail!("the job ended with {other:?}"),
            }
            let due = moment != Moment::Other || Instant::now() >= next_kill;
            let count = kills.entry(moment).or_insert(0);
            if due && *count < self.kind.kills(moment) {
                *count += 1;
                if moment != Moment::Other {
                    // Posts and shares are stored and sent within this time.
                    tokio::time::sleep(self.between(0, 100)).await;
                }
                self.kill(moment).await?;
                next_kill = Instant::now() + self.between(50, 500);
            }
            self.fleet.check()?;
            ensure!(begun.elapsed() < HANGS, "the job hangs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sets: Vec<FrozenSet> = followed
            .frozen()
            .await?
            .into_iter()
            .map(|set| FrozenSet {
                round: set.round,
                attempt: u32::from(set.attempt),
                members: set.members.iter().map(ToString::to_string).collect(),
            })
            .collect();
        self.compare(followed.manifest(), noise, &sets, &opened)?;
        Ok(job)
    }

    fn spec(&self, number: u64) -> JobSpec {
        let model = ModelSpec::Logistic { l2: 1e-3 };
        let spec = TrainSpec::default_for(self.prepared.schema.clone(), model);
        let table = TrainTable {
            schema: spec.schema,
            model,
            rounds: ROUNDS,
            local: quorate_protocols::workload::LocalSpec { epochs: 1, ..spec.local },
            steps: None,
            max_rows: 1 << 15,
            seed: number,
        };
        let banks = u32::try_from(BANKS).unwrap_or(u32::MAX);
        JobSpec {
            quorum: 3,
            colluders: 1,
            collect_seconds: 30.0,
            grace_seconds: 1.0,
            key_seconds: 60.0,
            max_attempts: 50,
            ..JobSpec::of_training(&format!("crash {number}"), banks, table)
        }
    }

    /// SIGKILL for the next service of the deck; it is started again a little later.
    async fn kill(&mut self, moment: Moment) -> anyhow::Result<()> {
        if self.deck.is_empty() {
            let services = self.kind.authorities() + 1 + BANKS;
            self.deck = (0..services).collect();
            for i in (1..services).rev() {
                let other = self.below(i as u64 + 1);
                self.deck.swap(i, usize::try_from(other)?);
            }
        }
        let victim = self.deck.pop().context("the deck is empty")?;
        let down = self.between(0, 200);
        let service: &mut Service =
            self.fleet.services().nth(victim).context("there is no such service")?;
        service.kill();
        *self.killed.entry((moment, service.name().to_owned())).or_default() += 1;
        tokio::time::sleep(down).await;
        service.start().await
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.below(most_ms - least_ms + 1))
    }

    /// Every opened sum equals the sum of what its members contribute, trained again in the clear,
    /// with the noise that their seed gives.
    fn compare(
        &self,
        manifest: &quorate_protocols::job::Manifest,
        noise: Noise,
        sets: &[FrozenSet],
        opened: &[OpenedRound],
    ) -> anyhow::Result<()> {
        let datasets: BTreeMap<String, Dataset> =
            self.prepared.banks.iter().map(|bank| (bank.name.clone(), bank.rows.clone())).collect();
        ensure!(sets.len() == opened.len(), "{} sets, {} sums", sets.len(), opened.len());
        let (workload, code) = (&manifest.workload, &manifest.code);
        let mut state = ModelState::of_job(manifest);
        for (set, opened) in sets.iter().zip(opened) {
            ensure!(set.members.len() >= 3, "round {} is below the floor", set.round);
            let sum = plain_sum(workload, code, &state, set, &datasets)?;
            if let Some(sum) = noise.added(manifest, set, sum)? {
                ensure!(sum == opened.sum, "the sum of round {} is not exact", set.round);
            }
            state = state.advance(workload, set.round, &opened.sum)?;
        }
        Ok(())
    }
}

/// What the wire must not hold: two functional keys of one authority for one label, two bodies of
/// one key, keys for two attempts of one round. Takes a recording per authority and returns the
/// number of keys per job and round.
fn check_recording(recordings: &[Vec<Exchange>]) -> anyhow::Result<BTreeMap<(Hex32, u32), usize>> {
    let mut keys = BTreeMap::new();
    let mut attempts: BTreeMap<(Hex32, u32), BTreeSet<[u8; 32]>> = BTreeMap::new();
    for exchanges in recordings {
        let mut places = BTreeMap::new();
        for promise in promises(exchanges)? {
            places.insert(promise.label, (Hex32(promise.manifest.0), promise.round));
        }
        let mut by_label: BTreeMap<_, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let mut chunks: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
        for exchange in exchanges {
            if let Ok(Message::FuncKey(key)) = Message::from_wire(&exchange.answer) {
                let claim = key.peek()?;
                let signed = [key.body(), &key.signature().0].concat();
                by_label.entry(claim.label).or_default().insert(signed);
            }
            if exchange.request.contains("/keys/") && exchange.status.contains(" 200 ") {
                chunks.entry(&exchange.request).or_default().insert(&exchange.answer);
            }
        }
        for (label, signed) in by_label {
            ensure!(signed.len() == 1, "{} functional keys for one label", signed.len());
            let place = *places.get(&label).context("a key for a label that was not promised")?;
            attempts.entry(place).or_default().insert(label.0);
            *keys.entry(place).or_default() += 1;
        }
        ensure!(!chunks.is_empty(), "no key travelled through the proxy");
        for (request, bodies) in chunks {
            ensure!(bodies.len() == 1, "{} different answers to {request}", bodies.len());
        }
    }
    for ((job, round), labels) in attempts {
        ensure!(labels.len() == 1, "job {job}: {} opened attempts of round {round}", labels.len());
    }
    Ok(keys)
}

fn promises(
    exchanges: &[Exchange],
) -> anyhow::Result<Vec<quorate_protocols::round::messages::Promise>> {
    let mut out = Vec::new();
    for exchange in exchanges {
        if let Ok(Message::Promise(promise)) = Message::from_wire(&exchange.answer) {
            out.push(promise.peek()?);
        }
    }
    Ok(out)
}

/// The answers of an authority that promises and releases these (round, attempt, key byte).
fn released(releases: &[(u32, u16, u8)]) -> Vec<Exchange> {
    use quorate_crypto::keys::Identity;
    use quorate_crypto::merkle::Hash;
    use quorate_crypto::sum::Label;
    use quorate_protocols::round::messages::{BulkRef, FuncKey, Promise};
    use quorate_protocols::wire::{Name, Signed};

    let identity = Identity::generate(&mut ChaCha20Rng::seed_from_u64(9));
    let authority = Name::new("authority-a").unwrap();
    let mut exchanges = Vec::new();
    for (round, attempt, byte) in releases.iter().copied() {
        let (mut label, hash) = (Label([1; 32]), Hash([2; 32]));
        label.0[..2].copy_from_slice(&[round.to_le_bytes()[0], attempt.to_le_bytes()[0]]);
        let (manifest, authority) = (hash, authority.clone());
        let key = BulkRef { len: 8, root: Hash([byte; 32]) };
        let (freeze, y, request) = (hash, hash, hash);
        let key = FuncKey { authority: authority.clone(), label, request, key };
        let promise = Promise { authority, manifest, round, attempt, label, freeze, y };
        let promise = Message::Promise(Signed::sign(promise, &identity).signed().clone());
        let key = Message::FuncKey(Signed::sign(key, &identity).signed().clone());
        let answers = [
            ("POST /promises".to_owned(), promise.to_wire()),
            ("POST /keys".to_owned(), key.to_wire()),
            (format!("GET /keys/{round}.{attempt}/chunks/0"), vec![byte; 8]),
        ];
        exchanges.extend(answers.map(|(request, answer)| {
            let status = "HTTP/1.1 200 OK".to_owned();
            Exchange { request, status, answer }
        }));
    }
    exchanges
}

#[test]
fn a_second_key_and_a_second_attempt_are_found_in_a_recording() {
    let check = |releases: &[(u32, u16, u8)]| check_recording(&[released(releases)]);
    let keys = check(&[(0, 0, 5), (0, 0, 5), (1, 1, 6)]).unwrap();
    assert_eq!(keys.values().copied().collect::<Vec<_>>(), [1, 1]);
    assert!(check(&[(0, 0, 5), (0, 0, 6)]).unwrap_err().to_string().contains("functional keys"));
    assert!(check(&[(0, 0, 5), (0, 1, 6)]).unwrap_err().to_string().contains("opened attempts"));
    assert!(check(&[]).is_err());
    let mut other_bytes = released(&[(0, 0, 5)]);
    let mut again = released(&[(0, 0, 5)]);
    again[2].answer = vec![0; 8];
    other_bytes.extend(again);
    assert!(check_recording(&[other_bytes]).unwrap_err().to_string().contains("answers"));
}
