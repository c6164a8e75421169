//! `quorate demo --protocol pv4fad`: a payment network and its banks train a fraud forest through real
//! services, under faults, score later payments, and are compared with the same in the clear.

mod course;
mod figures;
mod outcome;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quorate_client::api::{Hex32, JobSpec, ThresholdTable};
use quorate_client::payments::bank_name;
use quorate_client::payments::generate::{self, PaymentsSpec};
use quorate_client::payments::record::read_payments;
use quorate_client::payments::twin::{DEPTH, TREES};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{MAX_QUERIED, PART_ROWS, PvSpec, QueryLimits, Workload};

use super::faults::Faults;
use super::fleet::Fleet;
use super::job::Aggregator;
use super::watch::follow;
use super::{COLLUDERS, K_MIN, prepare_folder, remove_stores, until_stopped};
use course::Course;
use figures::Figures;
use outcome::Outcome;

/// The network's name.
const NETWORK: &str = "network";

/// Share of anomalous payments: at the generator's usual 0.1 % so few rows would have next to none.
const ANOMALY_RATE: f64 = 0.01;

/// Later payments that are scored, at most.
const SCORED: usize = 2000;

/// How long a bank may take before it is left out: far above what an answer takes here.
const BANK_SECONDS: f64 = 10.0;

/// After this long without any progress the demo gives up: the authority checks all proofs at one go.
const STALL: Duration = Duration::from_secs(240);

/// How long parties may take to end after their job.
const LEAVE: Duration = Duration::from_secs(60);

/// What the demo does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Banks; at least 3, and 4 for one to be lost.
    pub banks: u32,
    /// Payments to generate.
    pub rows: u64,
    /// Seed of the payments.
    pub seed: u64,
    /// Whether leaf tables stay closed.
    pub strict: bool,
    /// Whether a bank is lost and services are killed on the way.
    pub faults: bool,
    /// Where to copy `demo.json`.
    pub json: Option<PathBuf>,
    /// Output folder.
    pub out: PathBuf,
    /// Whether the services' stores are kept.
    pub keep: bool,
}

/// A party and its folder in the output folder.
#[derive(Clone, Debug)]
pub(super) struct Member {
    name: Name,
    folder: PathBuf,
}

impl Member {
    fn data(&self) -> PathBuf {
        self.folder.join("data.csv")
    }

    fn replay(&self) -> PathBuf {
        self.folder.join("replay.json")
    }

    fn scores(&self) -> PathBuf {
        self.folder.join("scores.csv")
    }
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
    let floor = K_MIN + COLLUDERS;
    ensure!(
        options.banks >= floor,
        "--banks must be at least {floor}: {K_MIN} honest banks and {COLLUDERS} colluder stand behind \
         an opening"
    );
    prepare_folder(&options.out)?;
    let out = options.out.canonicalize()?;
    let Options { banks, rows, seed, .. } = *options;
    let generated = PaymentsSpec { rows, banks, seed, anomaly_rate: ANOMALY_RATE };
    let members = write(&generated, &out)?;
    let spec = spec(options, &members);
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let figures = tokio::task::spawn_blocking({
        let members = members.clone();
        move || Figures::new(&members, seed)
    });
    println!(
        "{rows} generated payments, {} % of them anomalous; the network trains {} trees of depth {} on \
         the first 21 days with the flags of {banks} banks, and scores at most {SCORED} later payments",
        100.0 * ANOMALY_RATE,
        spec.trees,
        spec.depth
    );

    let mut fleet = Fleet::threshold(&program, &out).await?;
    let aggregator = Aggregator::at(&fleet.aggregator.url()?)?;
    let job = job_spec(options, &spec);
    let file = out.join("job.toml");
    std::fs::write(&file, toml::to_string(&job)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let job = aggregator.create(&job).await?;
    let followed = aggregator.follow(job).await?;
    add_parties(&mut fleet, &members, job).await?;
    println!(
        "1 key authority, 1 aggregator, 1 network and {banks} banks run on loopback; job {job}"
    );

    let mut faults = Faults::default();
    if options.faults {
        // The last bank is the smallest; with three, none can be spared.
        let lost = (banks > floor).then_some(banks as usize);
        faults = Faults::payments(lost);
    }
    let mut course = Course::new(followed);
    follow(&mut fleet, &mut faults, &mut course, STALL).await?;
    fleet.end(LEAVE).await?;
    let state = fleet.states().first().copied().flatten();
    let state = state.context("the network reported no result")?;
    let handled = course.handled(&fleet);
    drop(fleet);

    let figures = figures.await.context("the simulated figures were interrupted")??;
    let mut outcome = Outcome::new(options, &spec, &members, (course, handled), figures, state)?;
    outcome.repeat_in_the_clear(&program, &out).await?;
    outcome.write(&out, begun.elapsed())?;
    if !options.keep {
        remove_stores(&out)?;
    }
    outcome.judge(&out)?;
    println!("done in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Generates the payments and gives each party its own table; the network's first.
fn write(spec: &PaymentsSpec, out: &Path) -> anyhow::Result<Vec<Member>> {
    let folder = out.join("generated");
    let written = generate::write(spec, &folder)?;
    let mut members = vec![Member { name: Name::new(NETWORK)?, folder: out.join(NETWORK) }];
    let source = generate::Payments::new(*spec)?;
    for (bank, _) in source.banks() {
        let name = bank_name(&bank)?;
        members.push(Member { folder: out.join(name.as_str()), name });
    }
    for (member, table) in
        members.iter().zip([&written.network].into_iter().chain(&written.bank_tables))
    {
        std::fs::create_dir_all(&member.folder)?;
        std::fs::rename(table, member.data())?;
    }
    std::fs::remove_file(&written.anomaly_types)?;
    std::fs::remove_dir(&folder)?;
    // A table that cannot be read is better found now.
    read_payments(&members.first().context("no network")?.data())?;
    Ok(members)
}

fn spec(options: &Options, members: &[Member]) -> PvSpec {
    let mut banks: Vec<Name> = members.iter().skip(1).map(|member| member.name.clone()).collect();
    banks.sort();
    PvSpec {
        network: members.first().map_or_else(|| unreachable!("a network"), |m| m.name.clone()),
        banks,
        class_bits: 2,
        trees: u16::try_from(TREES).unwrap_or(u16::MAX),
        depth: u16::try_from(DEPTH).unwrap_or(u16::MAX),
        part_rows: PART_ROWS,
        // Without noise nothing is gained by leaving rows out.
        rows_per_account: u32::MAX,
        max_rows: options.rows,
        versions: 1,
        queries: QueryLimits {
            total: options.rows.min(MAX_QUERIED),
            per_window: u32::MAX,
            window_ms: 3_600_000,
            per_account: u32::MAX,
        },
        strict: options.strict,
    }
}

fn job_spec(options: &Options, spec: &PvSpec) -> JobSpec {
    let title = format!("demo on {} generated payments", options.rows);
    JobSpec {
        quorum: K_MIN + COLLUDERS,
        k_min: K_MIN,
        colluders: COLLUDERS,
        threshold: Some(ThresholdTable { holders: None, threshold: Some(K_MIN + COLLUDERS) }),
        grace_seconds: 1.0,
        collect_seconds: BANK_SECONDS,
        ..JobSpec::of_workload(&title, options.banks + 1, Workload::Payments(spec.clone()))
    }
}

/// Starts every party on its own file.
async fn add_parties(fleet: &mut Fleet, members: &[Member], job: Hex32) -> anyhow::Result<()> {
    for (number, member) in members.iter().enumerate() {
        let text = |path: &Path| -> anyhow::Result<String> {
            let text = path.to_str().context("the output folder's path is no Unicode text")?;
            Ok(text.to_owned())
        };
        let (replay, scores) = (text(&member.replay())?, text(&member.scores())?);
        let most = SCORED.to_string();
        let mut extra = Vec::new();
        if number == 0 {
            extra.extend(["--insecure-replay", replay.as_str(), "--scores", scores.as_str()]);
            extra.extend(["--score-rows", most.as_str()]);
        }
        fleet.add_bank(member.name.as_str(), &member.data(), job, &extra)?;
    }
    for party in &mut fleet.banks {
        party.start().await?;
    }
    Ok(())
}
