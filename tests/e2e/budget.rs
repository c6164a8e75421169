//! The privacy budget of a data set: an authority refuses a grant past it, and still does after a
//! restart.

use anyhow::{Result, bail, ensure};
use quorate_client::api::{JobOutcome, JobSpec, PrivacyTable};
use quorate_client::party::{PartyConfig, PartyError};
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::Minima;
use quorate_protocols::policy::{Mechanism, NoiseSpec, Spent, Unit};
use quorate_protocols::refusal::Code;

use crate::harness::{World, name, spec, until};

const PARTIES: [&str; 3] = ["p0", "p1", "p2"];

/// Two rounds whose own budget has room for both.
fn noised() -> JobSpec {
    let privacy = PrivacyTable {
        unit: Unit::Record,
        mechanism: Mechanism::Gaussian,
        noise_multiplier: Some(20.0),
        epsilon: 5.0,
        delta: 1e-6,
        clip: Some(10.0),
        data_set: name("rows"),
    };
    JobSpec { privacy: Some(privacy), ..spec(3, 3, 4, 2) }
}

/// An authority's own limit, with room for one of the rounds.
fn limit() -> f64 {
    let table = noised().privacy.unwrap();
    let noise = NoiseSpec {
        unit: table.unit,
        mechanism: table.mechanism,
        multiplier: table.noise_multiplier.unwrap(),
        clip: table.clip.unwrap(),
        epsilon: table.epsilon,
        delta: table.delta,
        data_set: table.data_set,
    };
    f64::midpoint(noise.epsilon_of(1), noise.epsilon_of(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_past_the_budget_is_refused_after_a_restart_too() -> Result<()> {
    one_round_is_granted(noised()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_jobs_grant_past_the_budget_is_refused_after_a_restart_too() -> Result<()> {
    one_round_is_granted(JobSpec { scheme: "elgamal".to_owned(), ..noised() }).await
}

async fn one_round_is_granted(spec: JobSpec) -> Result<()> {
    let mut world = World::one(Some(limit())).await?;
    let first = world.create(&spec).await?;
    let opened = run(&world, first).await?;
    assert_eq!(opened, 1, "one round fits the authority's limit");
    let spent = spent(&world).await?;
    assert_eq!((spent.rounds, spent.data_set), (1, name("rows")));
    ensure!(spent.zcdp > 0.1 && spent.zcdp <= limit(), "{}", spent.zcdp);
    ensure!(spent.exact.is_some_and(|exact| exact <= spent.zcdp));

    world.authorities[0].restart().await?;
    let second = world.create(&spec).await?;
    let opened = run(&world, second).await?;
    assert_eq!(opened, 0, "nothing is left for another job");
    assert_eq!(self::spent(&world).await?.rounds, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_not_escaped_by_exact_sums_or_another_name() -> Result<()> {
    let listed = Minima { data_sets: vec![name("rows")], ..Minima::default() };
    let world = World::of(&[listed], Some(limit()), true).await?;
    let mut renamed = noised();
    renamed.privacy =
        renamed.privacy.map(|table| PrivacyTable { data_set: name("rows-2"), ..table });
    for refused in [spec(3, 3, 4, 2), renamed] {
        let job = world.create(&refused).await?;
        until(async || world.status(job).await.is_ok_and(|s| s.outcome.is_some())).await?;
        match world.status(job).await?.outcome {
            Some(JobOutcome::Failed { code, .. }) => assert_eq!(code, "MANIFEST_BELOW_MINIMA"),
            other => bail!("{other:?}"),
        }
    }
    let job = world.create(&noised()).await?;
    world.party("p0").await?.join(job).await?;

    // A party's own limit, at an authority that has none.
    let world = World::one(None).await?;
    let plain = world.create(&spec(3, 3, 4, 2)).await?;
    world.party("p0").await?.join(plain).await?;
    let config = PartyConfig { max_epsilon: Some(limit()), ..world.config("p1")? };
    let careful = world.connect(config).await?;
    match careful.join(plain).await {
        Err(PartyError::Refused(refusal)) => assert_eq!(refusal.code, Code::BelowMinima),
        other => bail!("{other:?}"),
    }
    careful.join(world.create(&noised()).await?).await?;
    Ok(())
}

/// Runs a job until it fails for its budget; says how many rounds were opened.
async fn run(world: &World, job: Hash) -> Result<u32> {
    let mut running = Vec::new();
    for party in PARTIES {
        let mut config = world.config(party)?;
        config.allow_repeated_plaintexts = true;
        let party = world.connect(config).await?;
        running.push(World::spawn_sum(party, job, 4, |_| Ok(())));
    }
    until(async || world.status(job).await.is_ok_and(|s| s.outcome.is_some())).await?;
    for task in running {
        ensure!(task.await?.is_err(), "a party got sums that were refused");
    }
    let status = world.status(job).await?;
    match status.outcome {
        Some(JobOutcome::Failed { code, .. }) => assert_eq!(code, "BUDGET_SPENT"),
        other => bail!("{other:?}"),
    }
    ensure!(crate::harness::logged(&world.authorities[0].url(), "BUDGET_SPENT").await?);
    Ok(status.opened)
}

/// What the authority's account of the data set says.
async fn spent(world: &World) -> Result<Spent> {
    let url = format!("{}/v1/budget?delta=1e-6", world.authorities[0].url());
    let mut all: Vec<Spent> = reqwest::get(url).await?.error_for_status()?.json().await?;
    ensure!(all.len() == 1, "{all:?}");
    Ok(all.remove(0))
}
