//! Each service and a party is killed and started again on its store while a job runs.

use anyhow::Result;
use quorate_client::api::{JobOutcome, JobStatus};

use crate::harness::{Gate, World, all_equal, check_exact, spec, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_service_restarts_in_the_middle_and_no_sum_is_lost() -> Result<()> {
    const DIM: u64 = 300_000;
    let mut world = World::start().await?;
    let job = world.create(&spec(4, 4, DIM, 4)).await?;
    let gates: Vec<Gate> = (0..4).map(|_| Gate::default()).collect();
    let mut running = Vec::new();
    for party in ["p0", "p1", "p2", "p3"] {
        let gates = gates.clone();
        // The last party holds every round until the test lets it go on.
        let hold = move |round| {
            if party == "p3" {
                gates[usize::try_from(round)?].pass();
            }
            Ok(())
        };
        running.push(world.sum(party, job, DIM, hold).await?);
    }
    gates[0].open();
    let url = format!("{}/v1/jobs/{job}", world.aggregator.url());
    // Round 1: the aggregator dies while it holds three submissions, and again after the last.
    until(async || submitted(&url, 3, 1).await).await?;
    world.aggregator.restart().await?;
    gates[1].open();
    until(async || submitted(&url, 4, 1).await).await?;
    world.aggregator.restart().await?;
    // Round 2: both authorities die before they are asked, a party dies after its receipt.
    until(async || submitted(&url, 3, 2).await).await?;
    for authority in &mut world.authorities {
        authority.restart().await?;
    }
    let first = running.remove(0);
    first.abort();
    let _ = first.await;
    running.push(world.sum("p0", job, DIM, |_| Ok(())).await?);
    gates[2].open();
    // Round 3: an authority dies as soon as everything is submitted.
    gates[3].open();
    until(async || submitted(&url, 4, 3).await).await?;
    world.authorities[0].restart().await?;
    check_exact(&all_equal(running).await?, 4, DIM, 4)?;
    assert_eq!(world.status(job).await?.outcome, Some(JobOutcome::Done));
    // One key per label and one opened attempt per round, whatever was repeated.
    for authority in &world.authorities {
        let facts = world.facts(authority).await?;
        let released = facts.iter().filter(|fact| fact["predicate"] == "key.released");
        assert_eq!(released.count(), 4);
    }
    assert_eq!(world.count("round.result").await?, 4);
    Ok(())
}

/// Whether `count` parties have submitted to this round, or it is over.
async fn submitted(url: &str, count: usize, round: u32) -> bool {
    let Ok(answer) = reqwest::get(url).await else { return false };
    let Ok(status) = answer.json::<JobStatus>().await else { return false };
    status.round > round || status.round == round && status.submitted.len() >= count
}
