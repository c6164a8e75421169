//! `quorate demo --vertical`: parties that hold different columns of the same rows train one model
//! through real services, under faults, and the model is compared with training in the clear.

mod course;
mod cut;
mod figures;
mod outcome;

pub use cut::Cut;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quorate_client::api::JobSpec;
use quorate_protocols::workload::{
    BATCH_PER_FEATURE, Block, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec, Workload,
};

use super::data::Source;
use super::faults::Faults;
use super::fleet::Fleet;
use super::job::Aggregator;
use super::supervisor::Service;
use super::watch::follow;
use super::{AUTHORITIES, FEW_ROWS, K_MIN, prepare_folder, remove_stores, until_stopped};
use crate::report::Comparison;
use course::Course;
use cut::{IDENTIFIER, Shares};
use figures::{Figures, Truth};
use outcome::Outcome;

/// Colluders among the passive parties of the demo's job: with three parties there are two of these,
/// and a score over two shows neither's part to the other roles.
const COLLUDERS: u32 = 0;

/// delta of the label noise.
const DELTA: f64 = 1e-5;

/// Batches of an epoch, roughly.
const BATCHES: usize = 16;

/// A target with more values than this is a number for a linear model.
const FEW_CLASSES: usize = 10;

/// Largest batch that the demo chooses by itself.
const LARGE_BATCH: u64 = 1024;

/// After this long without any progress the demo gives up: rows are aligned at one go.
const STALL: Duration = Duration::from_secs(240);

/// How long parties may take to end after their job.
const LEAVE: Duration = Duration::from_secs(60);

/// What the demo does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data set: a name in the project's data folder, or a CSV file.
    pub data: String,
    /// Column to predict; known for the named sets.
    pub target: Option<String>,
    /// Columns that hold codes, not amounts.
    pub categorical: Vec<String>,
    /// Who holds which columns.
    pub cut: Cut,
    /// Model.
    pub model: VerticalModel,
    /// Passes over the rows.
    pub epochs: Option<u32>,
    /// epsilon of one label over the whole job; `None` adds no noise.
    pub epsilon: Option<f64>,
    /// Whether features are sent once for all batches.
    pub static_features: bool,
    /// Seeds of the noise behind every mean.
    pub seeds: u64,
    /// Seed of the parties' files: which rows they miss, and their order.
    pub seed: u64,
    /// Fold whose rows have no label.
    pub fold: u32,
    /// Whether processes are killed on the way.
    pub faults: bool,
    /// Whether the cost of label noise is shown for several epsilons.
    pub sweep: bool,
    /// Measurements of other schemes to show beside.
    pub compare: Option<PathBuf>,
    /// Where to copy `demo.json`.
    pub json: Option<PathBuf>,
    /// Output folder.
    pub out: PathBuf,
    /// Whether the services' stores are kept.
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// When anything that the demo promises did not hold, with what to do next.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    until_stopped(run_to_the_end(options)).await
}

async fn run_to_the_end(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    ensure!(options.seeds > 0, "--seeds must be at least 1");
    let comparison = options.compare.as_deref().map(Comparison::read).transpose()?;
    let source = read(options)?;
    let blocks = options.cut.blocks(&source, (K_MIN + COLLUDERS) as usize)?;
    prepare_folder(&options.out)?;
    let out = options.out.canonicalize()?;
    let shares = Shares::write(&source, &blocks, options.fold, options.seed, &out)?;
    let spec = spec(options, &source, &blocks, &shares)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let (targets, truth) = Truth::of(&source, &shares, &spec)?;
    let settings = (options.seeds, options.sweep);
    let figures = Figures::of(&source, &shares, &spec, (targets, truth.clone()), settings)?;
    println!(
        "{}: predict {:?} from {} columns at {} parties, {} has the labels; {} rows to train on, {} \
         without a label",
        source.path.display(),
        source.target,
        blocks.iter().map(|block| block.columns.len()).sum::<usize>(),
        blocks.len(),
        spec.holder,
        shares.train.len(),
        shares.test.len()
    );

    let authorities = Fleet::authorities(&program, &out, AUTHORITIES).await?;
    let urls = authorities.iter().map(Service::url).collect::<anyhow::Result<Vec<_>>>()?;
    let mut fleet = Fleet::start(&program, &out, authorities, &urls).await?;
    let aggregator = Aggregator::at(&fleet.aggregator.url()?)?;
    let job = job_spec(&source, &spec)?;
    let file = out.join("job.toml");
    std::fs::write(&file, toml::to_string(&job)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let job = aggregator.create(&job).await?;
    let followed = aggregator.follow(job).await?;
    add_parties(&mut fleet, &shares, job).await?;
    println!(
        "{AUTHORITIES} key authorities, 1 aggregator and {} parties run on loopback; job {job}",
        blocks.len()
    );

    let per_epoch = u32::try_from(shares.train.len())?.checked_div(spec.batch).unwrap_or(0);
    let scoring = u32::try_from(shares.test.len())?.div_ceil(spec.batch);
    let mut faults = Faults::default();
    if options.faults {
        faults = Faults::vertical(blocks.len() - 1, 0, per_epoch * spec.epochs);
    }
    let mut course = Course::new(followed, per_epoch, spec.epochs, scoring);
    follow(&mut fleet, &mut faults, &mut course, STALL).await?;
    fleet.end(LEAVE).await?;
    let states = fleet.states();
    drop(fleet);

    let figures = figures.await.context("the simulated figures were interrupted")??;
    let mut outcome = Outcome::new(options, &source, &spec, &shares, course, figures, truth)?;
    outcome.comparison = comparison;
    outcome.name_model(&states)?;
    outcome.repeat_in_the_clear(&program, &out).await?;
    outcome.write(&out, begun.elapsed())?;
    if !options.keep {
        remove_stores(&out)?;
    }
    outcome.judge(&out)?;
    println!("done in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The table with its target: classes, or for a linear model a number that has more than a few values.
fn read(options: &Options) -> anyhow::Result<Source> {
    let classes = Source::read(&options.data, options.target.as_deref(), &options.categorical);
    match (&options.target, &classes) {
        (Some(target), read)
            if options.model == VerticalModel::Linear
                && !read.as_ref().is_ok_and(|own| own.schema().classes.len() <= FEW_CLASSES) =>
        {
            Source::read_real(&options.data, target, &options.categorical)
        }
        _ => classes,
    }
}

/// The model for this target: logistic regression over more than two classes is the softmax.
const fn model(wanted: VerticalModel, classes: usize) -> VerticalModel {
    match wanted {
        VerticalModel::Logistic { taylor: false } if classes > 2 => VerticalModel::Softmax,
        other => other,
    }
}

/// The workload, with defaults that suit the size of the data.
fn spec(
    options: &Options,
    source: &Source,
    blocks: &[Block],
    shares: &Shares,
) -> anyhow::Result<VerticalSpec> {
    let rows = shares.train.len();
    let widest = blocks.iter().skip(1).map(Block::features).max().unwrap_or(0);
    let least = BATCH_PER_FEATURE * widest;
    ensure!(
        rows as u64 >= least,
        "{rows} rows have a label and are common to all parties, and a batch needs {least}, \
         {BATCH_PER_FEATURE} for each of the {widest} features of one party: take a larger file, or \
         share the columns out among more parties"
    );
    let wanted = (rows / BATCHES + 1).next_power_of_two() / 2;
    let batch = (wanted as u64).min(LARGE_BATCH).max(least).max(1);
    let classes = source.schema().classes.clone();
    let epochs = match rows < FEW_ROWS {
        _ if classes.len() > 2 => 20,
        true => 10,
        false => 3,
    };
    let mut blocks = blocks.to_vec();
    let holder = blocks.first().context("no block")?.party.clone();
    blocks.sort_by(|a, b| a.party.cmp(&b.party));
    let largest = shares.parties.iter().map(|share| share.rows.len()).max().unwrap_or(1);
    let spec = VerticalSpec {
        blocks,
        holder,
        target: source.target.clone(),
        target_kind: match classes.is_empty() {
            true => figures::scaling(source, shares)?,
            false => TargetKind::Classes(classes),
        },
        identifiers: vec![IDENTIFIER.to_owned()],
        model: model(options.model, source.schema().classes.len()),
        l2: 1e-3,
        selection: 0.0,
        epochs: options.epochs.unwrap_or(epochs),
        batch: u32::try_from(batch)?,
        // The gradients of squared errors are steeper.
        learning_rate: if options.model == VerticalModel::Linear { 0.05 } else { 0.5 },
        momentum: 0.5,
        labels: match options.epsilon {
            Some(epsilon) => LabelPrivacy::Noise { epsilon, delta: DELTA },
            None => LabelPrivacy::Visible,
        },
        static_features: options.static_features,
        lone_changes: false,
        max_rows: (largest as u64).next_power_of_two(),
    };
    Workload::Vertical(spec.clone()).check()?;
    Ok(spec)
}

fn job_spec(source: &Source, spec: &VerticalSpec) -> anyhow::Result<JobSpec> {
    let parties = u32::try_from(spec.blocks.len())?;
    let title: String = format!("demo on {}", source.name).chars().take(60).collect();
    Ok(JobSpec {
        quorum: K_MIN + COLLUDERS,
        k_min: K_MIN,
        colluders: COLLUDERS,
        // Nobody stays away for good: every batch waits for every party.
        grace_seconds: 120.0,
        collect_seconds: 300.0,
        ..JobSpec::of_workload(&title, parties, Workload::Vertical(spec.clone()))
    })
}

/// Starts every party on its own file.
async fn add_parties(
    fleet: &mut Fleet,
    shares: &Shares,
    job: quorate_client::api::Hex32,
) -> anyhow::Result<()> {
    for (number, share) in shares.parties.iter().enumerate() {
        let (replay, scores) = (share.replay(), share.scores());
        let text = |path: &'_ Path| -> anyhow::Result<String> {
            let text = path.to_str().context("the output folder's path is no Unicode text")?;
            Ok(text.to_owned())
        };
        let (replay, scores) = (text(&replay)?, text(&scores)?);
        let mut extra = vec!["--insecure-replay", replay.as_str()];
        if number == 0 {
            extra.extend(["--scores", scores.as_str()]);
        }
        fleet.add_bank(share.name.as_str(), &share.data(), job, &extra)?;
    }
    for party in &mut fleet.banks {
        party.start().await?;
    }
    Ok(())
}
