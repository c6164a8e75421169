//! `quorate demo`: a whole deployment on this machine that trains one model on real data.

use std::path::PathBuf;

use anyhow::bail;

use crate::demo::{Model, Options, threshold};

/// The protocol that the demo shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    /// Functional encryption, with faults, equal bit for bit to training in the clear.
    HybridAlpha,
    /// Threshold encryption with noise, and what the noise costs.
    Threshold,
}

/// A model of either protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AnyModel {
    /// Logistic regression; softmax for more than two classes (hybrid-alpha).
    Logistic,
    /// A neural network with one hidden layer, averaged (hybrid-alpha).
    Mlp,
    /// An ID3 decision tree from noised counts (threshold).
    Id3,
    /// A linear support vector machine by noised gradient steps (threshold).
    Svm,
    /// A neural network with one hidden layer by noised gradient steps (threshold).
    Nn,
}

/// Arguments of `quorate demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Protocol to show
    #[arg(long, value_enum, default_value_t = Protocol::HybridAlpha)]
    protocol: Protocol,
    /// Model to train; logistic, or id3 under protocol threshold, by default
    #[arg(long, value_enum)]
    model: Option<AnyModel>,
    /// Data set: a name in the project's data folder, or a CSV file, gzipped or not; by default
    /// credit_default, under protocol threshold nursery or for nn mnist7
    #[arg(long, value_name = "NAME|FILE")]
    data: Option<String>,
    /// Column to predict; known for the project's own data sets
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Columns that hold codes, not amounts
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    categorical: Vec<String>,
    /// Scheme of the encrypted sums: pad or ddh-mcfe; under protocol threshold elgamal or paillier,
    /// by default those that suit the model
    #[arg(long)]
    scheme: Option<String>,
    /// Parties; 5, under protocol threshold 10 by default
    #[arg(long)]
    parties: Option<usize>,
    /// Rounds of training, after the round of means and variances if there is one; levels of a tree
    #[arg(long)]
    rounds: Option<u32>,
    /// Seed of the initial weights and of every shuffle; under protocol threshold also of the noise of
    /// the real run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fold to hold out: rows with this number in column `fold`, else every fifth row
    #[arg(long, default_value_t = 0)]
    fold: u32,
    /// Kill no process (hybrid-alpha)
    #[arg(long)]
    no_faults: bool,
    /// Train again in the clear, in a separate process, and compare the models bit for bit
    /// (hybrid-alpha; protocol threshold always compares)
    #[arg(long)]
    check: bool,
    /// epsilon of all rounds together (threshold)
    #[arg(long)]
    epsilon: Option<f64>,
    /// delta of that epsilon (threshold)
    #[arg(long)]
    delta: Option<f64>,
    /// Seeds of the simulated noise behind every mean, 5 by default (threshold)
    #[arg(long)]
    seeds: Option<u64>,
    /// Simulate only the epsilon and the parties asked for (threshold)
    #[arg(long)]
    no_sweep: bool,
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
/// When anything the demo promises did not hold, or options do not go together.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    match args.protocol {
        Protocol::HybridAlpha => crate::demo::run(&hybrid_alpha(args)?).await,
        Protocol::Threshold => threshold::run(&with_noise(args)?).await,
    }
}

/// Options of the demo of HybridAlpha.
fn hybrid_alpha(args: DemoArgs) -> anyhow::Result<Options> {
    let foreign = [
        ("--epsilon", args.epsilon.is_some()),
        ("--delta", args.delta.is_some()),
        ("--seeds", args.seeds.is_some()),
        ("--no-sweep", args.no_sweep),
    ];
    refuse(&foreign, "add --protocol threshold, whose demo adds noise")?;
    let model = match args.model {
        None | Some(AnyModel::Logistic) => Model::Logistic,
        Some(AnyModel::Mlp) => Model::Mlp,
        Some(AnyModel::Id3 | AnyModel::Svm | AnyModel::Nn) => {
            bail!("models id3, svm and nn need --protocol threshold; here are logistic and mlp")
        }
    };
    Ok(Options {
        data: args.data.unwrap_or_else(|| "credit_default".to_owned()),
        target: args.target,
        categorical: args.categorical,
        scheme: args.scheme.unwrap_or_else(|| "pad".to_owned()),
        parties: args.parties.unwrap_or(5),
        rounds: args.rounds,
        seed: args.seed,
        model,
        fold: args.fold,
        faults: !args.no_faults,
        check: args.check,
        json: args.json,
        out: args.out,
        keep: args.keep,
    })
}

/// Options of the demo of the threshold protocol.
fn with_noise(args: DemoArgs) -> anyhow::Result<threshold::Options> {
    let foreign = [("--no-faults", args.no_faults), ("--check", args.check)];
    refuse(&foreign, "leave it out: this demo kills no process and always compares all sums")?;
    let model = match args.model {
        None | Some(AnyModel::Id3) => threshold::Model::Id3,
        Some(AnyModel::Svm) => threshold::Model::Svm,
        Some(AnyModel::Nn) => threshold::Model::Nn,
        Some(AnyModel::Logistic | AnyModel::Mlp) => {
            bail!("--protocol threshold shows id3, svm and nn; logistic and mlp need hybrid-alpha")
        }
    };
    Ok(threshold::Options {
        model,
        data: args.data,
        target: args.target,
        categorical: args.categorical,
        scheme: args.scheme,
        parties: args.parties.unwrap_or(10),
        rounds: args.rounds,
        epsilon: args.epsilon,
        delta: args.delta,
        seeds: args.seeds.unwrap_or(5),
        seed: args.seed,
        fold: args.fold,
        sweep: !args.no_sweep,
        json: args.json,
        out: args.out,
        keep: args.keep,
    })
}

/// Refuses the first option that was given and belongs to the other protocol.
fn refuse(options: &[(&str, bool)], advice: &str) -> anyhow::Result<()> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("{option} does not belong to this protocol: {advice}"),
        None => Ok(()),
    }
}
