//! `quorate demo`: a whole deployment on this machine that trains one model on real data.

use std::path::PathBuf;

use crate::demo::{Model, Options};

/// Trains one model at several banks on this machine: key authorities, an aggregator and the banks
/// are processes of their own, and some of them fail on the way
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Data set: a name in the project's data folder, or a CSV file, gzipped or not
    #[arg(long, value_name = "NAME|FILE", default_value = "credit_default")]
    pub data: String,
    /// Column to predict; known for the project's own data sets
    #[arg(long, value_name = "COLUMN")]
    pub target: Option<String>,
    /// Columns that hold codes, not amounts
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub categorical: Vec<String>,
    /// Scheme of the encrypted sums: pad or ddh-mcfe
    #[arg(long, default_value = "pad")]
    pub scheme: String,
    /// Banks
    #[arg(long, default_value_t = 5)]
    pub parties: usize,
    /// Rounds of training, after the round of means and variances
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Seed of the initial weights and of every shuffle
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Model to train
    #[arg(long, value_enum, default_value_t = Model::Logistic)]
    pub model: Model,
    /// Fold to hold out: rows with this number in column `fold`, else every fifth row
    #[arg(long, default_value_t = 0)]
    pub fold: u32,
    /// Kill no process
    #[arg(long)]
    pub no_faults: bool,
    /// Train again in the clear, in a separate process, and compare the models bit for bit
    #[arg(long)]
    pub check: bool,
    /// Copy the summary here
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Output folder
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    pub out: PathBuf,
    /// Keep the services' stores
    #[arg(long)]
    pub keep: bool,
}

/// Runs the command.
///
/// # Errors
/// When anything the demo promises did not hold.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
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
