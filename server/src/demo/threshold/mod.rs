//! `quorate demo --protocol threshold`: what noise costs a model, and one run through real services
//! whose every sum must equal that of the simulation.
//!
//! Sweeps are plain arithmetic with one exact draw of noise per sum. The real runs take one cell, the
//! hybrid at the epsilon and the parties asked for, through processes on loopback; the same cell with
//! the parties' own shares of noise, drawn from the same seeds, must open the same sums.

mod figures;
mod outcome;
mod real;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use quorate_client::learn::data::Dataset;
use quorate_client::learn::sweep::Setting;
use quorate_crypto::merkle::Hash;
use quorate_protocols::policy::{Mechanism, NoiseSpec, Unit};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{DEFAULT_CODE, ModelSpec, Schema, TrainSpec, TreeSpec, Workload};

use super::data::{Bank, Source};
use super::{COLLUDERS, K_MIN, prepare_folder, remove_stores, until_stopped};
use figures::Figures;
use outcome::Outcome;

/// Schemes of real runs; each has a folder of its own in a demo's.
pub const RUNS: [&str; 2] = ["elgamal", "paillier"];

/// Name of the data set in ledgers.
const DATA_SET: &str = "demo";

/// Hidden units of the neural network.
const HIDDEN: u32 = 32;

/// The model to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// An ID3 decision tree, from counts.
    Id3,
    /// A linear support vector machine, by steps along clipped gradients.
    Svm,
    /// A neural network with one hidden layer, by the same steps.
    Nn,
}

/// What the demo does. What is absent has a default that suits the model.
#[derive(Clone, Debug)]
pub struct Options {
    /// Model.
    pub model: Model,
    /// Data set: a name in the project's data folder, or a CSV file.
    pub data: Option<String>,
    /// Column to predict; known for the named sets.
    pub target: Option<String>,
    /// Columns that hold codes, not amounts.
    pub categorical: Vec<String>,
    /// The one scheme of the real run.
    pub scheme: Option<String>,
    /// Parties; at least 3.
    pub parties: usize,
    /// Rounds of steps, or levels of the tree.
    pub rounds: Option<u32>,
    /// epsilon of all rounds together.
    pub epsilon: Option<f64>,
    /// delta of that epsilon.
    pub delta: Option<f64>,
    /// Seeds of the noise behind every mean.
    pub seeds: u64,
    /// Seed of the initial weights, and of the noise in the real run.
    pub seed: u64,
    /// Fold that is held out.
    pub fold: u32,
    /// Whether epsilon and the number of parties are swept.
    pub sweep: bool,
    /// Where to copy `demo.json`.
    pub json: Option<PathBuf>,
    /// Output folder.
    pub out: PathBuf,
    /// Whether the services' stores are kept.
    pub keep: bool,
}

impl Model {
    /// As the command line names it.
    const fn name(self) -> &'static str {
        match self {
            Self::Id3 => "id3",
            Self::Svm => "svm",
            Self::Nn => "nn",
        }
    }

    /// Data, epsilon and delta by default.
    const fn defaults(self) -> (&'static str, f64, f64) {
        match self {
            Self::Id3 => ("nursery", 0.5, 1e-6),
            Self::Svm => ("nursery", 0.5, 1e-6),
            Self::Nn => ("mnist7", 2.0, 1e-5),
        }
    }

    /// The schemes whose range and packing suit the sums.
    const fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Id3 => &RUNS,
            Self::Svm | Self::Nn => &["paillier"],
        }
    }
}

/// What is trained, with which privacy.
#[derive(Clone, Debug)]
struct Plan {
    model: Model,
    workload: Workload,
    epsilon: f64,
    delta: f64,
    parties: usize,
}

impl Plan {
    fn new(options: &Options, schema: Schema, largest: usize) -> anyhow::Result<Self> {
        let model = options.model;
        let (_, epsilon, delta) = model.defaults();
        let max_rows = (largest as u64).next_power_of_two();
        let steps = |model| {
            let mut spec = TrainSpec::steps_for(schema.clone(), model);
            spec.rounds = options.rounds.unwrap_or(spec.rounds);
            (spec.seed, spec.max_rows) = (options.seed, max_rows);
            Workload::Train(spec)
        };
        let workload = match model {
            Model::Id3 => {
                let mut spec = TreeSpec::default_for(schema);
                spec.depth = options.rounds.unwrap_or(spec.depth);
                spec.table.max_rows = max_rows;
                Workload::Tree(spec)
            }
            Model::Svm => steps(ModelSpec::Svm { l2: 0.0 }),
            Model::Nn => steps(ModelSpec::Mlp { hidden: HIDDEN, l2: 0.0 }),
        };
        workload.check()?;
        let epsilon = options.epsilon.unwrap_or(epsilon);
        let delta = options.delta.unwrap_or(delta);
        let noise = NoiseSpec {
            unit: Unit::Record,
            mechanism: Mechanism::Gaussian,
            multiplier: 1.0,
            clip: 1.0,
            epsilon,
            delta,
            data_set: Name::new(DATA_SET)?,
        };
        if let Some(fault) = noise.fault() {
            bail!("--epsilon {epsilon} --delta {delta:e}: {fault}");
        }
        Ok(Self { model, workload, epsilon, delta, parties: options.parties })
    }

    /// The simulated setting, with every party needed.
    fn setting<'a>(&'a self, parties: &'a [(Name, Dataset)], test: &'a Dataset) -> Setting<'a> {
        Setting {
            workload: &self.workload,
            code: DEFAULT_CODE,
            job: Hash([0; 32]),
            parties,
            test,
            epsilon: self.epsilon,
            delta: self.delta,
            colluders: COLLUDERS,
            quorum: u32::try_from(self.parties).unwrap_or(u32::MAX),
        }
    }

    /// Parameters of the model; of a tree the cells of its last level.
    fn size(&self) -> u64 {
        match &self.workload {
            Workload::Train(spec) => spec.params(),
            Workload::Tree(spec) => spec.cells(spec.depth.saturating_sub(1)),
            _ => 0,
        }
    }
}

/// Runs the demo.
///
/// # Errors
/// When a sum of a real run differs from the simulated one, or something failed; with what to do
/// next.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    until_stopped(run_to_the_end(options)).await
}

async fn run_to_the_end(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let floor = (K_MIN + COLLUDERS) as usize;
    ensure!(
        options.parties >= floor,
        "--parties must be at least {floor}: the noise of a sum needs one honest share beside those of \
         {COLLUDERS} colluder and one curious party"
    );
    ensure!(options.seeds > 0, "--seeds must be at least 1");
    let schemes = schemes(options)?;
    let data = options.data.as_deref().unwrap_or(options.model.defaults().0);
    let mut source = Source::read(data, options.target.as_deref(), &options.categorical)?;
    source.declare_ranges();
    prepare_folder(&options.out)?;
    let out = options.out.canonicalize()?;
    let prepared = source.prepare_evenly(options.fold, options.parties, &out)?;
    let largest = prepared.banks.iter().map(|bank| bank.rows.rows).max().unwrap_or(1);
    let plan = Plan::new(options, prepared.schema.clone(), largest)?;
    let named = |bank: &Bank| Ok((Name::new(&bank.name)?, bank.rows.clone()));
    let parties = prepared.banks.iter().map(named).collect::<anyhow::Result<Vec<_>>>()?;
    println!(
        "{}: predict {:?} from {} columns; {} training rows at {} parties, {} held out",
        source.path.display(),
        source.target,
        prepared.schema.columns.len(),
        prepared.pooled.rows,
        options.parties,
        prepared.test.rows
    );
    let setting = plan.setting(&parties, &prepared.test);
    println!(
        "{}: {} rounds, epsilon {} in total at delta {:e}; each party adds 1/{} of the noise's variance",
        plan.model.name(),
        plan.workload.rounds(),
        plan.epsilon,
        plan.delta,
        setting.shares()
    );
    let mut runs = Vec::new();
    for scheme in schemes {
        let run = real::run(&plan, &prepared.banks, &setting, scheme, options.seed, &out).await?;
        runs.push(run);
    }
    let figures = Figures::of(&plan, &source, options, &setting).await?;
    let outcome =
        Outcome { options, source: &source, plan: &plan, setting: &setting, runs, figures };
    outcome.write(&out, begun.elapsed())?;
    if !options.keep {
        remove_stores(&out)?;
    }
    outcome.judge(&out)?;
    println!("done in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The schemes of the real runs.
fn schemes(options: &Options) -> anyhow::Result<Vec<&'static str>> {
    let Some(wanted) = options.scheme.as_deref() else {
        return Ok(options.model.schemes().to_vec());
    };
    let known = RUNS.into_iter().find(|known| *known == wanted);
    Ok(vec![known.with_context(|| {
        format!("--scheme {wanted} is none of protocol threshold, which has {}", RUNS.join(" and "))
    })?])
}
