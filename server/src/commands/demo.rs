//! `quorate demo`: a whole deployment on this machine that trains one model on real data.

use std::path::PathBuf;

use crate::demo::{Model, Options};

/// Arguments of `quorate demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Data set: a name in the project's data folder, or a CSV file, gzipped or not
    #[arg(long, value_name = "NAME|FILE", default_value = "credit_default")]
    data: String,
    /// Column to predict; known for the project's own data sets
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Columns that hold codes, not amounts
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    categorical: Vec<String>,
    /// Scheme of the encrypted sums: pad or ddh-mcfe
    #[arg(long, default_value = "pad")]
    scheme: String,
    /// Banks
    #[arg(long, default_value_t = 5)]
    parties: usize,
    /// Rounds of training, after the round of means and variances
    #[arg(long)]
    rounds: Option<u32>,
    /// Seed of the initial weights and of every shuffle
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Model to train
    #[arg(long, value_enum, default_value_t = Model::Logistic)]
    model: Model,
    /// Fold to hold out: rows with this number in column `fold`, else every fifth row
    #[arg(long, default_value_t = 0)]
    fold: u32,
    /// Kill no process
    #[arg(long)]
    no_faults: bool,
    /// Train again in the clear, in a separate process, and compare the models bit for bit
    #[arg(long)]
    check: bool,
    /// Copy the summary here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Output folder
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    out: PathBuf,
    /// Keep the services' stores
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
///
/// # Errors
/// When anything the demo promises did not hold.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let options = Options {
        data: args.data,
        target: args.target,
        categorical: args.categorical,
        scheme: args.scheme,
        parties: args.parties,
        rounds: args.rounds,
        seed: args.seed,
        model: args.model,
        fold: args.fold,
        faults: !args.no_faults,
        check: args.check,
        json: args.json,
        out: args.out,
        keep: args.keep,
    };
    crate::demo::run(&options).await
}
