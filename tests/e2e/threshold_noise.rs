//! A threshold job with noise: the opened sums are plain arithmetic plus the replayed shares of noise,
//! and every ledger says the same.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use quorate_client::api::{FrozenRound, JobSpec, PrivacyTable};
use quorate_client::engine::noise_rng;
use quorate_client::ledger::Ledgers;
use quorate_client::party::{DEFAULT_DATA_SET, PartyEvent, SumResult};
use quorate_client::store::Store;
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::{JobPackage, Manifest};
use quorate_protocols::policy::noise::{add_share, round_scale};
use quorate_protocols::policy::{Mechanism, Spent, Unit};
use quorate_protocols::wire::decode;

use crate::harness::{Gate, World, all_equal, name, unlocked, until, vector};
use crate::threshold::elgamal;

const PARTIES: [&str; 4] = ["p0", "p1", "p2", "p3"];
const DIM: u64 = 6;
const ROUNDS: u32 = 2;
const MULTIPLIER: f64 = 4.0;
/// rho of one round: 1 / (2 x 4^2), which the ledgers' units of 2^-40 hold exactly.
const RHO: f64 = 1.0 / 32.0;

fn noised(mechanism: Mechanism) -> JobSpec {
    let privacy = PrivacyTable {
        unit: Unit::Record,
        mechanism,
        noise_multiplier: Some(MULTIPLIER),
        epsilon: 20.0,
        delta: 1e-6,
        clip: Some(10.0),
        data_set: name("rows"),
    };
    JobSpec { privacy: Some(privacy), ..elgamal(3, ROUNDS, 3, 3) }
}

/// The seed that a party's noise is drawn from.
fn seed(party: &str) -> [u8; 32] {
    let mut seed = [17; 32];
    seed[..2].copy_from_slice(party.as_bytes());
    seed
}

/// What the members' vectors and their shares of the noise add up to, and the vectors alone.
fn expected(manifest: &Manifest, sum: &SumResult) -> Result<(Vec<i64>, Vec<i64>)> {
    let noise = manifest.privacy.noise().context("a job with noise")?;
    let parts = manifest.noise_divisor();
    let scale = round_scale(&manifest.workload, noise, sum.round, parts);
    let room = manifest.payload(sum.round)?.noise;
    let mut exact = vec![0; usize::try_from(DIM)?];
    let mut opened = exact.clone();
    for member in &sum.members {
        let one = vector(member.as_str(), sum.round, DIM);
        exact.iter_mut().zip(&one).for_each(|(total, value)| *total += value);
        let seed = seed(member.as_str());
        let mut rng = noise_rng(Some(&seed), &manifest.hash(), sum.round, member);
        add_share(noise.mechanism, scale, parts, room, &mut rng, &mut opened)?;
    }
    opened.iter_mut().zip(&exact).for_each(|(noise, value)| *noise += value);
    Ok((opened, exact))
}

async fn package(world: &World, job: Hash) -> Result<Manifest> {
    let url = format!("{}/v1/jobs/{job}/package", world.aggregator.url());
    let answer = reqwest::get(url).await?.error_for_status()?;
    Ok(decode::<JobPackage>(&answer.bytes().await?)?.manifest)
}

/// The accounts in the store of a party that is gone.
async fn account(world: &World, party: &str) -> Result<Vec<Spent>> {
    let folder = world.config(party)?.store;
    unlocked(&folder).await?;
    let store = Store::open(&folder).await?;
    let spent = Ledgers::spent(&store, 1e-6).await?;
    store.close().await;
    Ok(spent)
}

/// All three holders are needed. Round 0 goes without a reply of p0, which pays for it as a holder.
async fn noise_is_that_of_the_members(mechanism: Mechanism) -> Result<()> {
    let world = World::one(None).await?;
    let job = world.create(&noised(mechanism)).await?;
    let late = Gate::default();
    let shared: Arc<Mutex<Vec<(u32, &str)>>> = Arc::default();
    let mut running = Vec::new();
    for party in PARTIES {
        let mut config = world.config(party)?;
        config.noise_seed = Some(seed(party));
        let seen = Arc::clone(&shared);
        config = config.on_event(move |event| {
            if let PartyEvent::Shared { round, .. } = event {
                seen.lock().unwrap().push((*round, party));
            }
        });
        let gate = late.clone();
        let hold = move |round| {
            if (party, round) == ("p0", 0) {
                gate.pass();
            }
            Ok(())
        };
        running.push(World::spawn_sum(world.connect(config).await?, job, DIM, hold));
    }
    until(async || world.status(job).await.is_ok_and(|status| status.opened >= 1)).await?;
    late.open();
    let sums = all_equal(running).await?;
    ensure!(sums[0].members.iter().all(|member| member.as_str() != "p0"));
    let mut shared = shared.lock().unwrap().clone();
    shared.sort_unstable();
    let holders = |round| ["p0", "p1", "p2"].map(|holder| (round, holder));
    assert_eq!(shared, [holders(0), holders(1)].concat());
    let manifest = package(&world, job).await?;
    // r_min = 3 and no colluders: two shares are sure to be left.
    assert_eq!((manifest.floor(), manifest.noise_divisor()), (3, 2));
    assert_eq!(sums.len(), usize::try_from(ROUNDS)?);
    for sum in &sums {
        ensure!(sum.members.len() >= 3, "{:?}", sum.members);
        let (opened, exact) = expected(&manifest, sum)?;
        assert_eq!(sum.values, opened, "round {}", sum.round);
        assert_ne!(sum.values, exact, "no noise in round {}", sum.round);
    }
    let frozen = format!("{}/v1/jobs/{job}/frozen", world.aggregator.url());
    let frozen: Vec<FrozenRound> = reqwest::get(frozen).await?.json().await?;
    assert_eq!(frozen.iter().map(|set| set.round).collect::<Vec<_>>(), [0, 1]);

    let url = format!("{}/v1/budget?delta=1e-6", world.authorities[0].url());
    let at_authority: Vec<Spent> = reqwest::get(url).await?.error_for_status()?.json().await?;
    let spent = |all: &[Spent]| -> Vec<(String, u64, f64)> {
        all.iter().map(|spent| (spent.data_set.to_string(), spent.rounds, spent.rho)).collect()
    };
    let both = f64::from(ROUNDS) * RHO;
    assert_eq!(spent(&at_authority), [("rows".to_owned(), 2, both)]);
    for party in PARTIES {
        let own = account(&world, party).await?;
        assert_eq!(spent(&own), [(DEFAULT_DATA_SET.to_owned(), 2, both)], "{party}");
        assert_eq!(own[0].zcdp, at_authority[0].zcdp, "{party}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gaussian_noise_is_that_of_the_members_and_paid_for_once_by_each() -> Result<()> {
    noise_is_that_of_the_members(Mechanism::Gaussian).await
}

#[tokio::test(flavor = "multi_thread")]
async fn laplace_noise_is_that_of_the_members_and_paid_for_once_by_each() -> Result<()> {
    noise_is_that_of_the_members(Mechanism::Laplace).await
}
