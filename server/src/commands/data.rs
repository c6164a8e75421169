//! `quorate data`: synthetic data to try protocols on.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_client::payments::generate::{self, PaymentsSpec};

/// Arguments of `quorate data`.
#[derive(Debug, Args)]
pub(super) struct DataArgs {
    #[command(subcommand)]
    what: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Generate payments: a table of the network, one of each bank's accounts, and, for evaluation
    /// only, one of the types of the anomalies.
    Payments(PaymentsArgs),
}

#[derive(Debug, Args)]
struct PaymentsArgs {
    /// Payments
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// Banks
    #[arg(long, default_value_t = 12)]
    banks: u32,
    /// The same seed and settings give the same files
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of anomalous payments
    #[arg(long, default_value_t = 0.001, allow_negative_numbers = true)]
    anomaly_rate: f64,
    /// New or empty folder for the tables
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object about what was written.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When a setting is out of bounds, or the folder cannot be written to or is not empty.
pub(super) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let DataCommand::Payments(args) = &args.what;
    let &PaymentsArgs { rows, banks, seed, anomaly_rate, ref out, json } = args;
    let written = generate::write(&PaymentsSpec { rows, banks, seed, anomaly_rate }, out)?;
    if json {
        say!("{}", serde_json::to_string_pretty(&written)?);
    } else {
        say!(
            "{rows} payments, {} of them anomalous, and {} accounts of {banks} banks in {}",
            written.anomalies,
            written.accounts,
            out.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_are_written_once_and_bad_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let payments = |banks| DataArgs {
            what: DataCommand::Payments(PaymentsArgs {
                rows: 1000,
                banks,
                seed: 1,
                anomaly_rate: 0.01,
                out: folder.path().join("payments"),
                json: true,
            }),
        };
        let refusal = run(&payments(2)).unwrap_err().to_string();
        assert!(refusal.contains("banks must be within 3 to 64"), "{refusal}");
        run(&payments(3)).unwrap();
        let table = std::fs::read_to_string(folder.path().join("payments/network.csv")).unwrap();
        assert_eq!(table.lines().count(), 1001);
        let refusal = run(&payments(3)).unwrap_err().to_string();
        assert!(refusal.contains("is not empty"), "{refusal}");
    }
}
