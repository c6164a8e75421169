//! Threshold jobs through real services: exact sums, holders that vanish, services that die.

use anyhow::{Result, bail, ensure};
use quorate_client::api::{JobOutcome, JobSpec, ThresholdTable};
use quorate_crypto::merkle::Hash;

use crate::harness::{Gate, World, all_equal, check_exact, spec, until};

const PARTIES: [&str; 4] = ["p0", "p1", "p2", "p3"];
const DIM: u64 = 6;

/// A job of sums under `elgamal`, which `needed` of `holders` open.
pub(crate) fn elgamal(quorum: u32, rounds: u32, holders: u32, needed: u32) -> JobSpec {
    JobSpec {
        scheme: "elgamal".to_owned(),
        threshold: Some(ThresholdTable { holders: Some(holders), threshold: Some(needed) }),
        ..spec(4, quorum, DIM, rounds)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_the_authority_open_exact_sums() -> Result<()> {
    let world = World::one(None).await?;
    let job = world.create(&elgamal(4, 2, 4, 3)).await?;
    let mut running = Vec::new();
    for party in PARTIES {
        running.push(world.sum(party, job, DIM, |_| Ok(())).await?);
    }
    check_exact(&all_equal(running).await?, 2, DIM, 4)?;
    let status = world.status(job).await?;
    assert_eq!(status.outcome, Some(JobOutcome::Done));
    let key = status.threshold.expect("a threshold job");
    assert_eq!((key.holders, key.needed, key.key_calls), (4, 3, 1));
    ensure!(key.key.is_some());
    assert_eq!(world.count("share.held").await?, 6, "T shares for each of two rounds");
    // Nothing of the ciphertexts and shares is left, the sums are.
    let blobs = world.aggregator_blobs().join(job.to_string());
    until(async || !blobs.join("up").exists() && !blobs.join("keys").exists()).await?;
    ensure!(blobs.join("results/1").exists());
    // Nor of the replies that the authority fetched, nor of its secret.
    let kept = world.authority_folder(0);
    ensure!(!kept.join(format!("blobs/{job}/replies")).exists());
    ensure!(world.records(0, "key-secret").await?.is_empty(), "the share outlived its job");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_holder_steps_in_for_one_that_vanished() -> Result<()> {
    let world = World::one(None).await?;
    let job = world.create(&elgamal(4, 1, 4, 2)).await?;
    let last = Gate::default();
    let mut running = Vec::new();
    for party in PARTIES {
        let last = last.clone();
        let hold = move |_| {
            if party == "p3" {
                last.pass();
            }
            Ok(())
        };
        running.push(world.sum(party, job, DIM, hold).await?);
    }
    // The holders asked first are p0 and p1: p0 has submitted, and is gone when its share is wanted.
    until(async || submitted(&world, job, 3).await).await?;
    let gone = running.remove(0);
    gone.abort();
    let _ = gone.await;
    last.open();
    let sums = all_equal(running).await?;
    check_exact(&sums, 1, DIM, 4)?;
    ensure!(sums[0].members.iter().any(|member| member.as_str() == "p0"));
    ensure!(world.count("share.stepping-in").await? >= 1, "nobody stepped in");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_die_in_every_phase_and_no_sum_is_lost() -> Result<()> {
    let mut world = World::one(None).await?;
    let job = world.create(&elgamal(4, 3, 3, 2)).await?;
    let gates: Vec<Gate> = (0..3).map(|_| Gate::default()).collect();
    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        let gates = gates.clone();
        running.push(world.sum(party, job, DIM, move |round| pass(&gates, round)).await?);
    }
    // The authority dies while the last party has not joined: the key is made after it is back.
    world.authorities[0].restart().await?;
    let own = gates.clone();
    running.push(world.sum("p3", job, DIM, move |round| pass(&own, round)).await?);
    until(async || key_made(&world, job).await).await?;
    // Its secret is stored: a restart changes nothing.
    world.authorities[0].restart().await?;
    world.aggregator.restart().await?;
    gates[0].open();
    until(async || world.status(job).await.is_ok_and(|s| s.opened >= 1)).await?;
    for gate in &gates[1..] {
        gate.open();
        world.authorities[0].restart().await?;
    }
    world.aggregator.restart().await?;
    check_exact(&all_equal(running).await?, 3, DIM, 4)?;
    // One answer per round, whatever was repeated.
    let facts = world.facts(&world.authorities[0]).await?;
    let count = |what: &str| facts.iter().filter(|fact| fact["predicate"] == what).count();
    assert_eq!((count("key.made"), count("key.released")), (1, 3));
    assert_eq!(world.count("round.result").await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_was_not_told_its_aggregator_signs_off_no_threshold_job() -> Result<()> {
    let world = World::one_alone().await?;
    let job = world.create(&elgamal(3, 1, 3, 2)).await?;
    until(async || world.status(job).await.is_ok_and(|s| s.outcome.is_some())).await?;
    match world.status(job).await?.outcome {
        Some(JobOutcome::Failed { code, detail }) => {
            assert_eq!(code, "BAD_MANIFEST");
            ensure!(detail.contains("--aggregator"), "{detail}");
        }
        other => bail!("{other:?}"),
    }
    Ok(())
}

/// Through the same services; the modulus is one of tests, since primes of the served size are
/// searched for minutes without optimisation.
#[tokio::test(flavor = "multi_thread")]
async fn a_dealt_paillier_key_opens_exact_sums_after_a_restart_of_its_dealer() -> Result<()> {
    let mut world = World::one(None).await?;
    let scheme = "paillier-512-insecure".to_owned();
    let job = world.create(&JobSpec { scheme, ..elgamal(3, 2, 3, 2) }).await?;
    let gate = Gate::default();
    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        let gate = gate.clone();
        let hold = move |_| {
            gate.pass();
            Ok(())
        };
        running.push(world.sum(party, job, DIM, hold).await?);
    }
    until(async || key_made(&world, job).await).await?;
    world.authorities[0].restart().await?;
    gate.open();
    check_exact(&all_equal(running).await?, 2, DIM, 3)?;
    let status = world.status(job).await?;
    assert_eq!(status.outcome, Some(JobOutcome::Done));
    assert_eq!(world.count("share.held").await?, 4, "T shares for each of two rounds");
    let facts = world.facts(&world.authorities[0]).await?;
    assert_eq!(facts.iter().filter(|fact| fact["predicate"] == "key.made").count(), 1);
    ensure!(world.records(0, "key-secret").await?.is_empty(), "the share outlived its job");
    Ok(())
}

fn pass(gates: &[Gate], round: u32) -> Result<()> {
    gates[usize::try_from(round)?].pass();
    Ok(())
}

async fn key_made(world: &World, job: Hash) -> bool {
    let status = world.status(job).await.ok();
    status.and_then(|status| status.threshold).is_some_and(|key| key.key.is_some())
}

async fn submitted(world: &World, job: Hash, count: usize) -> bool {
    world.status(job).await.is_ok_and(|status| status.submitted.len() >= count)
}
