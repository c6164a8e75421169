//! `quorate demo`: a whole deployment on this machine that trains one model on real data.

use std::path::PathBuf;

use anyhow::bail;
use quorate_protocols::workload::VerticalModel;

use crate::demo::{Model, Options, payments, threshold, vertical};

/// The protocol that the demo shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    /// Functional encryption, with faults, equal bit for bit to training in the clear.
    HybridAlpha,
    /// Threshold encryption with noise, and what the noise costs.
    Threshold,
    /// Columns of one table at several parties, with faults, equal bit for bit to training in the clear.
    Fedv,
    /// A payment network and its banks, with faults, equal bit for bit to the same in the clear.
    Pv4fad,
}

/// A model of any protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AnyModel {
    /// Logistic regression; for more than two classes softmax.
    Logistic,
    /// A neural network with one hidden layer, averaged (hybrid-alpha).
    Mlp,
    /// An ID3 decision tree from noised counts (threshold).
    Id3,
    /// A linear support vector machine, by noised gradient steps (threshold) or by batches (fedv).
    Svm,
    /// A neural network with one hidden layer by noised gradient steps (threshold).
    Nn,
    /// Least squares on a number or on classes (fedv).
    Linear,
    /// Logistic regression by the second-order approximation of its loss (fedv).
    Taylor,
}

/// Arguments of `quorate demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Protocol to show
    #[arg(long, value_enum, default_value_t = Protocol::HybridAlpha)]
    protocol: Protocol,
    /// The same as --protocol fedv: parties hold different columns of the same rows
    #[arg(long, conflicts_with = "protocol")]
    vertical: bool,
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
    /// Parties; 5, under protocol threshold 10 by default; under fedv columns are cut evenly among so
    /// many, by default as the data set's parties hold them, else among 3
    #[arg(long)]
    parties: Option<usize>,
    /// Columns of each party, the first of which holds the target; `*` stands for any text (fedv)
    #[arg(long, value_name = "A,B;C,D;E,F", conflicts_with = "parties")]
    blocks: Option<String>,
    /// Passes over the rows; 3, with few rows 10, with over two classes 20 by default (fedv)
    #[arg(long)]
    epochs: Option<u32>,
    /// epsilon of one label over the whole job, 4 by default (fedv)
    #[arg(long, value_name = "EPSILON")]
    label_epsilon: Option<f64>,
    /// Add no noise to labels: parties may then work them out (fedv)
    #[arg(long, conflicts_with = "label_epsilon")]
    labels_visible: bool,
    /// Have parties upload their columns once for all batches (fedv)
    #[arg(long)]
    static_features: bool,
    /// Show what other schemes take for the same batch, as `quorate-benches` measured it (fedv)
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,
    /// Banks, 5 by default (pv4fad)
    #[arg(long)]
    banks: Option<u32>,
    /// Payments to generate, 30000 by default (pv4fad)
    #[arg(long)]
    rows: Option<u64>,
    /// Rounds of training, after the round of means and variances if there is one; levels of a tree
    #[arg(long)]
    rounds: Option<u32>,
    /// Seed of the initial weights and of every shuffle; under protocol threshold also of the noise of
    /// the real run; under fedv of the parties' files
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fold to hold out: rows with this number in column `fold`, else every fifth row
    #[arg(long, default_value_t = 0)]
    fold: u32,
    /// Kill no process (hybrid-alpha, fedv, pv4fad)
    #[arg(long)]
    no_faults: bool,
    /// Train again in the clear, in a separate process, and compare the models bit for bit
    /// (hybrid-alpha; threshold and fedv always compare)
    #[arg(long)]
    check: bool,
    /// epsilon of all rounds together (threshold)
    #[arg(long)]
    epsilon: Option<f64>,
    /// delta of that epsilon (threshold)
    #[arg(long)]
    delta: Option<f64>,
    /// Seeds of the simulated noise behind every mean, 5 by default (threshold, fedv)
    #[arg(long)]
    seeds: Option<u64>,
    /// Simulate only the epsilon and the parties asked for (threshold, fedv)
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
    let protocol = if args.vertical { Protocol::Fedv } else { args.protocol };
    match protocol {
        Protocol::Fedv => vertical::run(&over_columns(args)?).await,
        Protocol::HybridAlpha => crate::demo::run(&hybrid_alpha(args)?).await,
        Protocol::Pv4fad => payments::run(&on_payments(args)?).await,
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
    refuse(&columns_only(&args), "add --vertical")?;
    refuse(&payments_only(&args), "add --protocol pv4fad")?;
    let model = match args.model {
        None | Some(AnyModel::Logistic) => Model::Logistic,
        Some(AnyModel::Mlp) => Model::Mlp,
        Some(AnyModel::Id3 | AnyModel::Svm | AnyModel::Nn) => {
            bail!("models id3, svm and nn need --protocol threshold; here are logistic and mlp")
        }
        Some(AnyModel::Linear | AnyModel::Taylor) => {
            bail!("models linear and taylor need --vertical; here are logistic and mlp")
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
    refuse(&columns_only(&args), "say --vertical in place of --protocol threshold")?;
    refuse(&payments_only(&args), "say --protocol pv4fad in place of threshold")?;
    let model = match args.model {
        None | Some(AnyModel::Id3) => threshold::Model::Id3,
        Some(AnyModel::Svm) => threshold::Model::Svm,
        Some(AnyModel::Nn) => threshold::Model::Nn,
        Some(AnyModel::Linear | AnyModel::Taylor) => {
            bail!("--protocol threshold shows id3, svm and nn; linear and taylor need --vertical")
        }
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

/// Options of the demo of vertical training.
fn over_columns(args: DemoArgs) -> anyhow::Result<vertical::Options> {
    let foreign = [("--epsilon", args.epsilon.is_some()), ("--delta", args.delta.is_some())];
    refuse(&foreign, "the noise of a vertical job is on its labels, say --label-epsilon")?;
    refuse(&payments_only(&args), "say --protocol pv4fad in place of --vertical")?;
    refuse(&[("--rounds", args.rounds.is_some())], "say --epochs")?;
    refuse(&[("--scheme", args.scheme.is_some())], "leave it out: vertical jobs have one scheme")?;
    let model = match args.model {
        None | Some(AnyModel::Logistic) => VerticalModel::Logistic { taylor: false },
        Some(AnyModel::Taylor) => VerticalModel::Logistic { taylor: true },
        Some(AnyModel::Svm) => VerticalModel::Svm,
        Some(AnyModel::Linear) => VerticalModel::Linear,
        Some(AnyModel::Mlp | AnyModel::Id3 | AnyModel::Nn) => {
            bail!(
                "--vertical trains linear, logistic, taylor and svm; mlp, id3 and nn need rows \
                   with all columns at one party: leave --vertical out"
            )
        }
    };
    let cut = match (&args.blocks, args.parties) {
        (Some(blocks), _) => vertical::Cut::parse(blocks),
        (None, Some(parties)) => vertical::Cut::Even(parties),
        (None, None) => vertical::Cut::Known,
    };
    let epsilon = (!args.labels_visible).then(|| args.label_epsilon.unwrap_or(4.0));
    Ok(vertical::Options {
        data: args.data.unwrap_or_else(|| "credit_default".to_owned()),
        target: args.target,
        categorical: args.categorical,
        cut,
        model,
        epochs: args.epochs,
        epsilon,
        static_features: args.static_features,
        seeds: args.seeds.unwrap_or(5),
        seed: args.seed,
        fold: args.fold,
        faults: !args.no_faults,
        sweep: !args.no_sweep,
        compare: args.compare,
        json: args.json,
        out: args.out,
        keep: args.keep,
    })
}

/// Options of the demo of a payment network and its banks.
fn on_payments(args: DemoArgs) -> anyhow::Result<payments::Options> {
    refuse(&columns_only(&args), "say --vertical in place of --protocol pv4fad")?;
    let foreign = [
        ("--data", args.data.is_some()),
        ("--target", args.target.is_some()),
        ("--categorical", !args.categorical.is_empty()),
        ("--model", args.model.is_some()),
        ("--scheme", args.scheme.is_some()),
        ("--rounds", args.rounds.is_some()),
        ("--epsilon", args.epsilon.is_some()),
        ("--delta", args.delta.is_some()),
        ("--seeds", args.seeds.is_some()),
        ("--no-sweep", args.no_sweep),
    ];
    refuse(&foreign, "leave it out: this demo generates its payments and has one forest")?;
    refuse(&[("--parties", args.parties.is_some())], "say --banks")?;
    Ok(payments::Options {
        banks: args.banks.unwrap_or(5),
        rows: args.rows.unwrap_or(30_000),
        seed: args.seed,
        faults: !args.no_faults,
        json: args.json,
        out: args.out,
        keep: args.keep,
    })
}

/// Options that only vertical training has, and whether they were given.
fn columns_only(args: &DemoArgs) -> [(&'static str, bool); 6] {
    [
        ("--blocks", args.blocks.is_some()),
        ("--epochs", args.epochs.is_some()),
        ("--label-epsilon", args.label_epsilon.is_some()),
        ("--labels-visible", args.labels_visible),
        ("--static-features", args.static_features),
        ("--compare", args.compare.is_some()),
    ]
}

/// Options that only payments have, and whether they were given.
const fn payments_only(args: &DemoArgs) -> [(&'static str, bool); 2] {
    [("--banks", args.banks.is_some()), ("--rows", args.rows.is_some())]
}

/// Refuses the first option that was given and belongs to another protocol.
fn refuse(options: &[(&str, bool)], advice: &str) -> anyhow::Result<()> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("{option} does not belong to this protocol: {advice}"),
        None => Ok(()),
    }
}
