//! `quorate demo`: a whole deployment on this machine that trains one model on real data, under
//! faults, and is checked against training in the clear.

pub mod data;
pub mod faults;
pub mod fleet;
pub mod job;
pub mod payments;
pub mod plain;
mod record;
pub mod sockets;
pub mod supervisor;
pub mod threshold;
mod verdict;
pub mod vertical;
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use quorate_client::api::{JobSpec, TrainTable};
use quorate_client::learn::metrics::Metrics;
use quorate_client::learn::pooled::pooled_logistic;
use quorate_protocols::workload::{ModelSpec, TrainSpec};

use data::{Prepared, Source};
use faults::Faults;
use fleet::Fleet;
use job::Aggregator;
use record::Course;
use supervisor::Service;
use verdict::Verdict;
use watch::watch;

/// How far the federated metric of a logistic model may be from the pooled one.
pub const TOLERANCE: f64 = 0.01;

/// k_min + c of the demo's job: 2 honest contributors and 1 colluder.
const K_MIN: u32 = 2;
const COLLUDERS: u32 = 1;

/// With fewer training rows, banks take one step per round.
const FEW_ROWS: usize = 2000;

/// Key authorities.
const AUTHORITIES: usize = 2;

/// After this long without any progress the demo gives up.
const STALL: Duration = Duration::from_secs(90);

/// File that marks a folder as written by a demo.
const MARK: &str = ".quorate-demo";

/// The built-in model to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Logistic regression; softmax for more than two classes.
    Logistic,
    /// A neural network with one hidden layer.
    Mlp,
}

/// What the demo does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data set: a name in the project's data folder, or a CSV file.
    pub data: String,
    /// Column to predict; known for the named sets.
    pub target: Option<String>,
    /// Columns that hold codes, not amounts.
    pub categorical: Vec<String>,
    /// Name of a served scheme.
    pub scheme: String,
    /// Banks; at least 3.
    pub parties: usize,
    /// Rounds of weights.
    pub rounds: Option<u32>,
    /// Seed of the initial weights and of every shuffle.
    pub seed: u64,
    /// Model.
    pub model: Model,
    /// Fold that is held out.
    pub fold: u32,
    /// Whether processes are killed on the way.
    pub faults: bool,
    /// Whether a separate process trains in the clear and the models are compared.
    pub check: bool,
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

/// Runs `work` until it ends or the process is asked to.
async fn until_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        done = work => done,
        stopped = stop_signal() => {
            stopped?;
            bail!("interrupted; all processes of the demo are stopped")
        }
    }
}

/// Returns when the process is asked to end.
async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        _ = terminate.recv() => Ok(()),
    }
}

async fn run_to_the_end(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let floor = (K_MIN + COLLUDERS) as usize;
    ensure!(
        options.parties >= floor,
        "--parties must be at least {floor}: an opened sum needs {K_MIN} honest contributors beside \
         {COLLUDERS} colluder"
    );
    let source = Source::read(&options.data, options.target.as_deref(), &options.categorical)?;
    prepare_folder(&options.out)?;
    let out = options.out.canonicalize()?;
    let prepared = source.prepare(options.fold, options.parties, &out)?;
    let spec = training(options, &prepared);
    let program = std::env::current_exe().context("cannot find this program's own file")?;

    let pooled = {
        let (schema, train) = (prepared.schema.clone(), prepared.pooled.clone());
        let test = prepared.test.clone();
        tokio::task::spawn_blocking(move || pooled_logistic(&schema, &train, &test))
    };
    let mut faults = Faults::default();
    if options.faults {
        faults = Faults::plan(options.parties, floor, spec.rounds);
    }
    println!(
        "{}: predict {:?} from {} columns; {} training rows at {} banks, {} held out",
        source.path.display(),
        source.target,
        prepared.schema.columns.len(),
        prepared.pooled.rows,
        options.parties,
        prepared.test.rows
    );
    let authorities = Fleet::authorities(&program, &out, AUTHORITIES).await?;
    let urls = authorities.iter().map(Service::url).collect::<anyhow::Result<Vec<_>>>()?;
    let mut fleet = Fleet::start(&program, &out, authorities, &urls).await?;
    let aggregator = Aggregator::at(&fleet.aggregator.url()?)?;
    let job = aggregator.create(&job_spec(options, &source, &prepared, spec)).await?;
    let mut followed = aggregator.follow(job).await?;
    for (index, bank) in prepared.banks.iter().enumerate() {
        fleet.add_bank(&bank.name, &bank.file, job, &[])?;
        if !faults.is_late(index)
            && let Some(service) = fleet.banks.get_mut(index)
        {
            service.start().await?;
        }
    }
    println!(
        "{AUTHORITIES} key authorities, 1 aggregator and {} banks run on loopback; job {job}",
        options.parties
    );

    let mut course = Course::new(&prepared);
    watch(&mut fleet, &mut faults, &mut followed, &mut course, STALL).await?;
    let frozen = followed.frozen().await?;
    drop(fleet);

    let pooled: Metrics = pooled.await.context("the pooled reference was interrupted")??;
    let mut verdict = Verdict::new(&prepared, &followed, course, pooled)?;
    verdict.write_model(&out, &frozen)?;
    if options.check {
        verdict.compare(&program, &out).await?;
    }
    verdict.write_report(options, &source, &out, begun.elapsed())?;
    if !options.keep {
        remove_stores(&out)?;
    }
    verdict.judge(options, &out)?;
    println!("done in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The workload: defaults that suit the size of the data.
fn training(options: &Options, prepared: &Prepared) -> TrainSpec {
    let model = match options.model {
        Model::Logistic => ModelSpec::Logistic { l2: 1e-3 },
        Model::Mlp => ModelSpec::Mlp { hidden: 16, l2: 1e-4 },
    };
    let mut spec = TrainSpec::default_for(prepared.schema.clone(), model);
    if options.model == Model::Logistic && prepared.pooled.rows < FEW_ROWS {
        // Where a bank has hardly more rows than columns, several steps on its own rows lead away
        // from the common model: one step, and more rounds.
        spec.local.epochs = 1;
        spec.rounds = 40;
    }
    spec.rounds = options.rounds.unwrap_or(spec.rounds);
    spec.seed = options.seed;
    let largest = prepared.banks.iter().map(|bank| bank.rows.rows).max().unwrap_or(1);
    spec.max_rows = (largest as u64).next_power_of_two();
    spec
}

fn job_spec(options: &Options, source: &Source, prepared: &Prepared, spec: TrainSpec) -> JobSpec {
    // A generous bound on a bank's training: a bank that is only slow must not be left behind.
    let work = spec.max_rows as f64 * spec.params() as f64 * f64::from(spec.local.epochs);
    let grace_seconds = 3.0 + work * 4e-8;
    let parties = u32::try_from(prepared.banks.len()).unwrap_or(u32::MAX);
    let table = TrainTable {
        schema: spec.schema,
        model: spec.model,
        rounds: spec.rounds,
        local: spec.local,
        steps: spec.steps,
        max_rows: spec.max_rows,
        seed: spec.seed,
    };
    let title: String = format!("demo on {}", source.name).chars().take(60).collect();
    JobSpec {
        scheme: options.scheme.clone(),
        quorum: K_MIN + COLLUDERS,
        k_min: K_MIN,
        colluders: COLLUDERS,
        grace_seconds,
        collect_seconds: 60.0 + 2.0 * grace_seconds,
        key_seconds: 120.0,
        max_attempts: 8,
        ..JobSpec::of_training(&title, parties, table)
    }
}

/// An empty output folder; only a demo's own is emptied.
fn prepare_folder(out: &Path) -> anyhow::Result<()> {
    let mark = out.join(MARK);
    if out.exists() {
        let empty = out.is_dir() && out.read_dir()?.next().is_none();
        if !empty && !mark.is_file() {
            bail!(
                "{} exists and was not written by a demo: remove it, or choose --out",
                out.display()
            );
        }
        clear(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    std::fs::write(&mark, "").with_context(|| format!("cannot write in {}", out.display()))
}

/// Removes what a demo wrote and nothing else.
fn clear(out: &Path) -> std::io::Result<()> {
    let gone = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let files = ["report.html", "demo.json", "model.json", "frozen.json", "plain.json", "job.toml"];
    for file in files {
        gone(std::fs::remove_file(out.join(file)))?;
    }
    for dir in own_folders(out)? {
        let store = dir.join("store");
        if store.join(quorate_client::store::DATABASE).is_file() {
            std::fs::remove_dir_all(store)?;
        }
        for file in ["log.txt", "data.csv", "replay.json", "scores.csv"] {
            gone(std::fs::remove_file(dir.join(file)))?;
        }
        // Somebody else's files keep their folder.
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}

/// Removes the services' stores and leaves logs, data and results.
fn remove_stores(out: &Path) -> anyhow::Result<()> {
    for store in own_folders(out)?.into_iter().map(|dir| dir.join("store")) {
        if store.is_dir() {
            std::fs::remove_dir_all(&store)
                .with_context(|| format!("cannot remove {}", store.display()))?;
        }
    }
    Ok(())
}

/// The folders of a demo's processes and parties: those in `out`, and before them those in the
/// folders of [`threshold::RUNS`].
fn own_folders(out: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let folder = |path: &PathBuf| path.symlink_metadata().is_ok_and(|data| data.is_dir());
    let runs = threshold::RUNS.iter().map(|name| out.join(name)).filter(folder);
    for folder in runs.chain([out.to_owned()]) {
        for entry in folder.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_demos_folder_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        prepare_folder(&out).unwrap();
        for dir in ["bank-1", "bank-2", "elgamal/party-0"] {
            std::fs::create_dir_all(out.join(dir)).unwrap();
            std::fs::write(out.join(dir).join("data.csv"), "").unwrap();
        }
        for file in ["demo.json", "mine.txt", "bank-2/mine.txt"] {
            std::fs::write(out.join(file), "").unwrap();
        }
        prepare_folder(&out).unwrap();
        for gone in ["demo.json", "bank-1", "bank-2/data.csv", "elgamal"] {
            assert!(!out.join(gone).exists(), "{gone}");
        }
        assert!(out.join("mine.txt").exists() && out.join("bank-2/mine.txt").exists());
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        prepare_folder(&other).unwrap();
        std::fs::remove_file(other.join(MARK)).unwrap();
        std::fs::write(other.join("thesis"), "").unwrap();
        let error = prepare_folder(&other).unwrap_err().to_string();
        assert!(error.contains("--out") && other.join("thesis").exists(), "{error}");
    }
}
