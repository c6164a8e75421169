//! Jobs of sums with the SDK's parties: exact, with drop-outs, late joiners and retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail, ensure};
use quorate_client::api::{FrozenRound, JobOutcome, JobSpec, RoundReport};
use quorate_client::party::{PartyConfig, PartyError};
use quorate_client::store::Store;
use quorate_protocols::job::Minima;
use quorate_protocols::refusal::Code;

use crate::harness::{Gate, World, all_equal, check_exact, spec, until};

const PARTIES: [&str; 4] = ["p0", "p1", "p2", "p3"];

async fn four_party_sums(scheme: &str) -> Result<()> {
    let world = World::start().await?;
    let spec = JobSpec { scheme: scheme.to_owned(), ..spec(4, 4, 12, 2) };
    let job = world.create(&spec).await?;
    let mut running = Vec::new();
    for party in PARTIES {
        running.push(world.sum(party, job, 12, |_| Ok(())).await?);
    }
    check_exact(&all_equal(running).await?, 2, 12, 4)?;
    let status = world.status(job).await?;
    assert_eq!(status.outcome, Some(JobOutcome::Done));
    assert_eq!(status.scheme, scheme);

    let base = format!("{}/v1/jobs/{job}", world.aggregator.url());
    let frozen: Vec<FrozenRound> = reqwest::get(format!("{base}/frozen")).await?.json().await?;
    assert_eq!(frozen.iter().map(|f| (f.round, f.attempt)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    assert!(frozen.iter().all(|f| f.members.len() == 4));
    let report: Vec<RoundReport> = reqwest::get(format!("{base}/report")).await?.json().await?;
    assert_eq!(report.len(), 2);
    assert!(report.iter().all(|r| r.bytes_up > r.bytes_down && r.bytes_down > 0));
    // Nothing of the ciphertexts and keys is left, the sums are.
    let blobs = world.aggregator_blobs().join(job.to_string());
    until(async || !blobs.join("up").exists() && !blobs.join("keys").exists()).await?;
    assert!(blobs.join("results/1").exists());
    let metrics = reqwest::get(format!("{}/metrics", world.aggregator.url())).await?.text().await?;
    assert!(metrics.contains("quorate_facts_total{what=\"round.opened\"}"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_parties_sum_with_pad() -> Result<()> {
    four_party_sums("pad").await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_parties_sum_with_ddh_mcfe() -> Result<()> {
    four_party_sums("ddh-mcfe").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_out_costs_no_attempt_and_a_late_joiner_is_taken_in() -> Result<()> {
    let world = World::start().await?;
    let job = world.create(&spec(4, 3, 8, 4)).await?;
    let joined = Gate::default();
    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        let joined = joined.clone();
        // The last round waits until the party that dropped out has asked to be invited again.
        let hold = move |round| {
            if round == 2 {
                joined.pass();
            }
            Ok(())
        };
        running.push(world.sum(party, job, 8, hold).await?);
    }
    let dropped = world.sum("p3", job, 8, |_| bail!("the disk is on fire")).await?;
    assert!(matches!(dropped.await?, Err(PartyError::Training(_))));
    until(async || world.status(job).await.is_ok_and(|status| status.opened == 2)).await?;
    let late = world.sum("p3", job, 8, |_| Ok(())).await?;
    until(async || world.status(job).await.is_ok_and(|status| status.joined.len() == 4)).await?;
    joined.open();
    running.push(late);
    let sums = all_equal(running).await?;
    check_exact(&sums, 4, 8, 3)?;
    let members: Vec<usize> = sums.iter().map(|sum| sum.members.len()).collect();
    assert_eq!(members, [3, 3, 3, 4]);
    assert_eq!(world.count("attempt.given-up").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_quorum_is_tombstoned_and_retried_over_the_same_plaintexts() -> Result<()> {
    let world = World::start().await?;
    let spec = JobSpec { collect_seconds: 2.0, ..spec(4, 3, 8, 2) };
    let job = world.create(&spec).await?;
    let slow = Gate::default();
    let trained = Arc::new(AtomicUsize::new(0));
    let mut running = Vec::new();
    for (index, party) in PARTIES.iter().enumerate() {
        let (slow, trained) = (slow.clone(), Arc::clone(&trained));
        let hold = move |round| {
            if index == 0 && round == 0 {
                trained.fetch_add(1, Ordering::SeqCst);
            } else if index >= 2 {
                slow.pass();
            }
            Ok(())
        };
        running.push(world.sum(party, job, 8, hold).await?);
    }
    until(async || world.count("attempt.given-up").await.is_ok_and(|count| count >= 2)).await?;
    slow.open();
    let sums = all_equal(running).await?;
    check_exact(&sums, 2, 8, 3)?;
    let base = format!("{}/v1/jobs/{job}/frozen", world.aggregator.url());
    let frozen: Vec<FrozenRound> = reqwest::get(base).await?.json().await?;
    assert!(frozen[0].attempt >= 2, "{frozen:?}");
    assert_eq!(trained.load(Ordering::SeqCst), 1, "a retry must not train again");
    let facts = world.facts(&world.authorities[0]).await?;
    assert!(facts.iter().any(|fact| fact["predicate"] == "key.tombstoned"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_below_a_minimum_is_refused_by_party_and_authority() -> Result<()> {
    let strict = Minima { k_min: 3, ..Minima::default() };
    let world = World::with(&[Minima::default(), strict.clone()]).await?;
    let job = world.create(&spec(4, 3, 8, 1)).await?;
    until(async || world.status(job).await.is_ok_and(|s| s.outcome.is_some())).await?;
    match world.status(job).await?.outcome {
        Some(JobOutcome::Failed { code, .. }) => assert_eq!(code, "MANIFEST_BELOW_MINIMA"),
        other => bail!("{other:?}"),
    }
    let url = world.authorities[1].url();
    ensure!(crate::harness::logged(&url, "MANIFEST_BELOW_MINIMA").await?);

    let world = World::start().await?;
    let job = world.create(&spec(4, 3, 8, 1)).await?;
    let mut config = world.config("p0")?;
    config.minima = strict;
    let party = quorate_client::party::Party::connect(config).await?;
    match party.join(job).await {
        Err(PartyError::Refused(refusal)) => assert_eq!(refusal.code, Code::BelowMinima),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_trusts_two_authorities_joins_no_job_of_one() -> Result<()> {
    let (one, two) = (World::with(&[Minima::default()]).await?, World::start().await?);
    let job = one.create(&spec(4, 3, 8, 1)).await?;
    let mut config = one.config("p0")?;
    config.authorities.push(two.authorities[1].url());
    match one.connect(config).await?.join(job).await {
        Err(PartyError::Refused(refusal)) => assert_eq!(refusal.code, Code::BelowMinima),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plaintext_given_to_one_job_enters_another_only_where_that_is_allowed() -> Result<()> {
    let world = World::start().await?;
    let spec = spec(3, 3, 8, 2);
    let first = world.create(&spec).await?;
    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        running.push(world.sum(party, first, 8, |_| Ok(())).await?);
    }
    check_exact(&all_equal(running).await?, 2, 8, 3)?;

    let second = world.create(&spec).await?;
    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        running.push(world.sum(party, second, 8, |_| Ok(())).await?);
    }
    for refused in running {
        match refused.await? {
            Err(PartyError::Repeated { round: 0, before }) => assert_eq!(before, first.to_string()),
            other => bail!("{other:?}"),
        }
    }
    assert!(world.status(second).await?.submitted.is_empty());
    // Nothing of the round is left at a party, and its log says why.
    let config = world.config("p0")?;
    let store = Store::open(&config.store).await?;
    assert!(!config.store.join(format!("blobs/{second}/round-0")).exists());
    let facts = store.job_facts_since(&second.to_string(), 0, 100).await?;
    assert!(facts.iter().any(|logged| logged.fact.predicate == "plaintext.repeated"));
    store.close().await;

    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        let config = PartyConfig { allow_repeated_plaintexts: true, ..world.config(party)? };
        let party = world.connect(config).await?;
        running.push(World::spawn_sum(party, second, 8, |_| Ok(())));
    }
    check_exact(&all_equal(running).await?, 2, 8, 3)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_coordinates_are_summed_exactly_in_bounded_memory() -> Result<()> {
    const DIM: u64 = 1_000_000;
    let world = World::start().await?;
    let job = world.create(&spec(3, 3, DIM, 1)).await?;
    let mut running = Vec::new();
    for party in &PARTIES[..3] {
        running.push(world.sum(party, job, DIM, |_| Ok(())).await?);
    }
    check_exact(&all_equal(running).await?, 1, DIM, 3)?;
    // All services, three parties with their vectors, and the other tests of this process.
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    ensure!(peak_kb < 1_000_000, "{peak_kb} kB at the peak");
    Ok(())
}
