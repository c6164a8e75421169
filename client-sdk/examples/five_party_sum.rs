//! Five parties sum vectors that nobody else sees. Start two services first:
//!
//! ```text
//! quorate authority --name auth-1 --listen 127.0.0.1:7101 --store ./auth-1
//! quorate aggregator --listen 127.0.0.1:7100 --store ./agg --authority http://127.0.0.1:7101
//! cargo run --example five_party_sum -- http://127.0.0.1:7100 http://127.0.0.1:7101
//! ```

use std::time::Duration;

use anyhow::Context as _;
use quorate_client::api::{JobSpec, SumTable};
use quorate_client::party::{Party, PartyConfig};
use quorate_client::transport::Transport;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut urls = std::env::args().skip(1);
    let aggregator = urls.next().context("usage: five_party_sum AGGREGATOR AUTHORITY...")?;
    let authorities: Vec<String> = urls.collect();

    let table = SumTable { dim: 3, rounds: 2, max_abs: 1000 };
    let spec = JobSpec { quorum: 5, ..JobSpec::of_sum("five vectors", 5, table) };
    let job = Transport::new(Duration::from_secs(10))?.create_job(&aggregator, &spec).await?;

    let folder = std::env::temp_dir().join(format!("five-party-sum-{job}"));
    let mut parties = JoinSet::new();
    for i in 1..=5i64 {
        // A name stays bound to the keys of its store, so every run takes new ones.
        let name = format!("party-{i}-{}", &job.to_string()[..8]);
        let mut config = PartyConfig::new(&name, &aggregator, folder.join(&name))?;
        config.authorities.clone_from(&authorities);
        parties.spawn(async move {
            let party = Party::connect(config).await?;
            let vector = move |round: u32| Ok(vec![i, 100 * i, i64::from(round)]);
            anyhow::Ok((name, party.sum(job, vector).await?))
        });
    }
    while let Some(done) = parties.join_next().await {
        let (name, sums) = done??;
        for sum in sums {
            println!(
                "{name}: round {} of {} parties: {:?}",
                sum.round,
                sum.members.len(),
                sum.values
            );
            anyhow::ensure!(sum.values == [15, 1500, 5 * i64::from(sum.round)]);
        }
    }
    Ok(std::fs::remove_dir_all(folder)?)
}
