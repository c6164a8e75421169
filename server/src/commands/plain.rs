//! `quorate plain`: trains in the clear over recorded sets, to check a federated run.

use std::path::PathBuf;

use crate::demo::plain;

/// Arguments of `quorate plain`.
#[derive(Debug, clap::Args)]
pub(super) struct PlainArgs {
    /// JSON file with workload, code, parties' files and the file of recorded sets
    #[arg(long, value_name = "FILE.json")]
    config: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or does not fit.
pub(super) fn run(args: &PlainArgs) -> anyhow::Result<()> {
    say!("{}", plain::line(&plain::retrain(&args.config)?));
    Ok(())
}
