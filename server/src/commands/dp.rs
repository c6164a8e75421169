//! `quorate dp`: what noise costs, and how much of it a budget needs.

use anyhow::ensure;
use clap::{Args, Subcommand};
use quorate_crypto::dp::account::{
    epsilon_gaussian, epsilon_zcdp, rho_of_sigma, sigma_for_gaussian, sigma_for_zcdp,
};
use serde_json::json;

/// Arguments of `quorate dp`.
#[derive(Debug, Args)]
pub(super) struct DpArgs {
    #[command(subcommand)]
    what: DpCommand,
}

#[derive(Debug, Subcommand)]
enum DpCommand {
    /// Print the epsilon of Gaussian noise.
    Epsilon {
        /// Standard deviation of the noise, in units of the sensitivity
        #[arg(long, allow_negative_numbers = true)]
        sigma: f64,
        #[command(flatten)]
        releases: Releases,
    },
    /// Print the least sigma, in units of the sensitivity, that keeps within an epsilon.
    Sigma {
        /// The budget's epsilon
        #[arg(long, allow_negative_numbers = true)]
        epsilon: f64,
        #[command(flatten)]
        releases: Releases,
    },
}

/// What the noise is spent on.
#[derive(Debug, Args)]
struct Releases {
    /// Sums opened over the same data, each with its own noise
    #[arg(long)]
    rounds: u64,
    /// The delta at which epsilon is stated, above 0 and below 1
    #[arg(long, allow_negative_numbers = true)]
    delta: f64,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Releases {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        // False for NaN.
        let legal = self.delta > 0.0 && self.delta < 1.0;
        ensure!(legal, "--delta must be above 0 and below 1, not {}", self.delta);
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// For a number outside its domain.
pub(super) fn run(args: &DpArgs) -> anyhow::Result<()> {
    match &args.what {
        DpCommand::Epsilon { sigma, releases } => {
            releases.check()?;
            ensure_positive("--sigma", *sigma)?;
            #[expect(clippy::cast_precision_loss, reason = "a count of rounds, far below 2^53")]
            let rho = rho_of_sigma(*sigma) * releases.rounds as f64;
            let zcdp = epsilon_zcdp(rho, releases.delta);
            print("epsilon", zcdp, epsilon_gaussian(2.0 * rho, releases.delta), releases.json)
        }
        DpCommand::Sigma { epsilon, releases } => {
            releases.check()?;
            ensure_positive("--epsilon", *epsilon)?;
            let zcdp = sigma_for_zcdp(*epsilon, releases.rounds, releases.delta);
            let exact = sigma_for_gaussian(*epsilon, releases.rounds, releases.delta);
            print("sigma", zcdp, exact, releases.json)
        }
    }
}

fn ensure_positive(name: &str, value: f64) -> anyhow::Result<()> {
    let legal = value > 0.0 && value.is_finite();
    ensure!(legal, "{name} must be a finite number above 0, not {value}");
    Ok(())
}

/// Prints both figures.
fn print(what: &str, zcdp: f64, exact: f64, as_json: bool) -> anyhow::Result<()> {
    // JSON has no number for infinity, and nobody can spend one.
    ensure!(zcdp.is_finite() && exact.is_finite(), "the {what} is too large for a number");
    if as_json {
        say!("{}", serde_json::to_string_pretty(&json!({ "zcdp": zcdp, "exact": exact }))?);
    } else {
        say!("{what} by zCDP (official)   {zcdp:.6}");
        say!("{what} of the exact Gaussian {exact:.6}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(rounds: u64, delta: f64) -> Releases {
        Releases { rounds, delta, json: true }
    }

    #[test]
    fn numbers_outside_their_domain_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            let epsilon = DpCommand::Sigma { epsilon: bad, releases: releases(1, 1e-6) };
            assert!(run(&DpArgs { what: epsilon }).is_err(), "epsilon {bad}");
            let sigma = DpCommand::Epsilon { sigma: bad, releases: releases(1, 1e-6) };
            assert!(run(&DpArgs { what: sigma }).is_err(), "sigma {bad}");
        }
        for bad in [f64::NAN, 0.0, 1.0, 2.0, -0.1] {
            let sigma = DpCommand::Epsilon { sigma: 1.0, releases: releases(1, bad) };
            assert!(run(&DpArgs { what: sigma }).is_err(), "delta {bad}");
        }
        let sigma = DpCommand::Epsilon { sigma: 1.0, releases: releases(0, 1e-6) };
        assert!(run(&DpArgs { what: sigma }).is_err());
        let tiny = DpCommand::Epsilon { sigma: 1e-200, releases: releases(1, 1e-6) };
        assert!(run(&DpArgs { what: tiny }).is_err());
    }

    #[test]
    fn numbers_inside_their_domain_are_answered() {
        let sigma = DpCommand::Epsilon { sigma: 4.0, releases: releases(10, 1e-6) };
        run(&DpArgs { what: sigma }).unwrap();
        let epsilon = DpCommand::Sigma { epsilon: 0.5, releases: releases(1, 1e-6) };
        run(&DpArgs { what: epsilon }).unwrap();
    }
}
