//! `quorate job budget`: what a job's noise costs, and what its data set has left at an authority.

use anyhow::{bail, ensure};
use quorate_client::api::{AuthorityInfo, JobStatus};
use quorate_crypto::dp::account::{epsilon_gaussian, epsilon_zcdp};
use quorate_crypto::merkle::Hash;
use quorate_protocols::job::{JobPackage, Manifest};
use quorate_protocols::policy::{Mechanism, NoiseSpec, RHO_BITS, Spent, Unit};
use serde::Serialize;

use crate::commands::client::Client;

/// The account of one job at one authority; epsilon at the job's delta.
#[derive(Debug, Serialize)]
struct Budget<'a> {
    data_set: &'a str,
    unit: Unit,
    mechanism: Mechanism,
    noise_multiplier: f64,
    clip: f64,
    /// Parts of the noise that hide a unit from c colluders and one curious party.
    h: u32,
    delta: f64,
    /// What all jobs on the data set may spend.
    epsilon: f64,
    rounds: u32,
    round: Cost,
    job: Cost,
    spent: Cost,
    spent_rounds: u64,
    /// epsilon less what is spent; rounds together cost less than the sum of their epsilons.
    epsilon_left: f64,
    /// Further rounds of this job's noise that the budget has room for.
    rounds_left: u64,
}

/// What releases cost together.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    rho: f64,
    /// epsilon by zCDP: the official figure.
    zcdp: f64,
    /// epsilon of the exact Gaussian composition; absent for another mechanism.
    exact: Option<f64>,
}

pub(super) async fn budget(
    client: &Client,
    job: &JobStatus,
    authority: &Client,
    json: bool,
) -> anyhow::Result<()> {
    let package: JobPackage = client.packed(&format!("/v1/jobs/{}/package", job.job)).await?;
    package.verify()?;
    let manifest = package.manifest;
    ensure!(manifest.hash() == Hash::from(job.job), "the aggregator sent another job's manifest");
    let Some(noise) = manifest.privacy.noise() else {
        bail!("this job adds no noise: its sums are exact and have no budget");
    };
    let info: AuthorityInfo = authority.json("/v1/authority").await?;
    ensure!(
        manifest.authorities.contains(&info.key()),
        "{} keeps no account of this job: its authorities are others (--authority)",
        info.name
    );
    let all: Vec<Spent> = authority.json(&format!("/v1/budget?delta={:e}", noise.delta)).await?;
    let spent = all.into_iter().find(|spent| spent.data_set == noise.data_set);
    let budget = account(&manifest, noise, spent);
    if json {
        say!("{}", serde_json::to_string(&budget)?);
    } else {
        print(&budget);
    }
    Ok(())
}

fn account<'a>(manifest: &Manifest, noise: &'a NoiseSpec, spent: Option<Spent>) -> Budget<'a> {
    let rounds = manifest.workload.rounds();
    let rho = noise.rho() as f64 / 2f64.powi(RHO_BITS.cast_signed());
    let cost = |rounds: u32| {
        let total = rho * f64::from(rounds);
        let exact = matches!(noise.mechanism, Mechanism::Gaussian)
            .then(|| epsilon_gaussian(2.0 * total, noise.delta));
        Cost { rho: total, zcdp: noise.epsilon_of(rounds), exact }
    };
    let none = Cost { rho: 0.0, zcdp: 0.0, exact: Some(0.0) };
    let spent_rounds = spent.as_ref().map_or(0, |spent| spent.rounds);
    let spent = spent.map_or(none, |s| Cost { rho: s.rho, zcdp: s.zcdp, exact: s.exact });
    let fits =
        |more: u64| epsilon_zcdp(spent.rho + rho * more as f64, noise.delta) <= noise.epsilon;
    Budget {
        data_set: noise.data_set.as_str(),
        unit: noise.unit,
        mechanism: noise.mechanism,
        noise_multiplier: noise.multiplier,
        clip: noise.clip,
        h: manifest.noise_divisor(),
        delta: noise.delta,
        epsilon: noise.epsilon,
        rounds,
        round: cost(1),
        job: cost(rounds),
        spent,
        spent_rounds,
        epsilon_left: (noise.epsilon - spent.zcdp).max(0.0),
        rounds_left: most(fits),
    }
}

/// The largest number that fits, of those up to 2^40, where all below one that fits do as well.
fn most(fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0u64, 1u64 << 40);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

fn print(budget: &Budget<'_>) {
    let unit = match budget.unit {
        Unit::Record => "record",
        Unit::Party => "party",
    };
    let mechanism = match budget.mechanism {
        Mechanism::Gaussian => "discrete Gaussian",
        Mechanism::Laplace => "discrete Laplace",
    };
    let line = |cost: &Cost| {
        let exact = cost.exact.map_or("-".to_owned(), |exact| format!("{exact:.4}"));
        format!("epsilon {:.4} (exact {exact}), rho {:.6}", cost.zcdp, cost.rho)
    };
    say!("data set   {}", budget.data_set);
    say!("hides      one {unit}, clipped to {}", budget.clip);
    say!("noise      {mechanism}, multiplier {}, h {}", budget.noise_multiplier, budget.h);
    say!("a round    {}", line(&budget.round));
    say!("the job    {}, {} rounds", line(&budget.job), budget.rounds);
    say!("spent      {}, {} rounds", line(&budget.spent), budget.spent_rounds);
    say!("budget     epsilon {} at delta {:e}", budget.epsilon, budget.delta);
    say!(
        "left       epsilon {:.4}, {} rounds of this job",
        budget.epsilon_left,
        budget.rounds_left
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_is_the_last_that_fits() {
        for last in [0, 1, 2, 3, 1000, (1 << 40) - 1, 1 << 40] {
            assert_eq!(most(|n| n <= last), last);
        }
        assert_eq!(most(|_| false), 0);
    }
}
