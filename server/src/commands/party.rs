//! `quorate party`: one party on one CSV file, and what was spent of its privacy budget.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quorate_client::api::{Hex32, JobOutcome, JobStatus};
use quorate_client::learn::data::Table;
use quorate_client::ledger::Ledgers;
use quorate_client::party::{
    NetworkFinished, NetworkTask, Party, PartyConfig, PartyEvent, PaymentsPart, VerticalFinished,
};
use quorate_client::payments::bank::AccountBook;
use quorate_client::payments::record::{read_accounts, read_payments};
use quorate_client::trainer::CsvTrainer;
use quorate_protocols::fedv::linear::decisions;
use quorate_protocols::job::Minima;
use quorate_protocols::policy::Spent;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{TargetKind, VerticalSpec, Workload};

use super::key::open;
use crate::http::serve::signals;

/// How often the list of jobs is read while there is none to join.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `quorate party`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct PartyArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print what jobs have spent of the privacy budget of this party's data.
    Budget {
        /// Folder of the party's store.
        #[arg(long, value_name = "DIR")]
        store: PathBuf,
        /// delta at which epsilon is stated.
        #[arg(long, default_value_t = 1e-6)]
        delta: f64,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How to take part in a job.
#[derive(Debug, Args)]
struct Part {
    /// Its id, as rosters name it.
    #[arg(long)]
    name: String,
    /// Tenant it expects; the aggregator's if not given.
    #[arg(long)]
    tenant: Option<String>,
    /// Address of the aggregator.
    #[arg(long, env = "QUORATE_AGGREGATOR", default_value = "http://127.0.0.1:7100")]
    aggregator: String,
    /// Address of an authority to enrol at, 1 to 4 times; a job must use all of them and no other.
    #[arg(long = "authority", value_name = "URL", required = true)]
    authorities: Vec<String>,
    /// Folder of the store, which holds its keys; made if it is not there.
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Its data: a table with a header to train on, or for plain sums a line of integers per round; in a
    /// payments job the network's payments or a bank's accounts.
    #[arg(long, value_name = "FILE.csv")]
    data: PathBuf,
    /// The job to take part in.
    #[arg(long, required_unless_present = "any", conflicts_with = "any")]
    job: Option<Hex32>,
    /// Take part in the first job that has not ended, waiting for one.
    #[arg(long)]
    any: bool,
    /// Least k_min it accepts.
    #[arg(long, default_value_t = 2)]
    min_k: u32,
    /// Least c it accepts.
    #[arg(long, default_value_t = 0)]
    min_colluders: u32,
    /// Contribute what was given to another job already: whoever sees two sums over it, of members
    /// that differ in this party, can compute it.
    #[arg(long)]
    allow_repeats: bool,
    /// Refuse jobs that add no noise.
    #[arg(long)]
    require_privacy: bool,
    /// Most epsilon that all jobs together may spend on this party's data, at the delta of each job;
    /// jobs without noise are then refused.
    #[arg(long, value_name = "EPSILON")]
    max_epsilon: Option<f64>,
    /// Account of this data, if the store serves several data sets; one account for all by default.
    #[arg(long, value_name = "NAME")]
    data_set: Option<String>,
    /// Draw the noise from this seed, so that another process can repeat the sums. INSECURE: whoever
    /// knows the seed takes this party's noise away; for demonstrations only.
    #[arg(long, value_name = "HEX")]
    insecure_noise_seed: Option<Hex32>,
    /// Write down what repeats a vertical or a payments job in the clear. INSECURE: whoever has the
    /// file takes the label noise away, or knows which random id belongs to which payment; for
    /// demonstrations only.
    #[arg(long, value_name = "FILE.json")]
    insecure_replay: Option<PathBuf>,
    /// How long an unreachable service is tried again, in seconds.
    #[arg(long, default_value_t = 600)]
    patience: u64,
    /// Where the label holder of a vertical job writes the scores of its rows without a label, and the
    /// network of a payments job those of the payments that it asked about.
    #[arg(long, value_name = "FILE.csv")]
    scores: Option<PathBuf>,
    /// Payments of the days after training that the network of a payments job scores, at most; all by
    /// default.
    #[arg(long, value_name = "N")]
    score_rows: Option<usize>,
    /// Progress as one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Takes part in one job until it ends, or prints the budget. A party stops cleanly on SIGTERM and
/// SIGINT, to be started again.
///
/// # Errors
/// What kept the party from finishing.
pub(super) async fn run(args: PartyArgs) -> anyhow::Result<()> {
    if let Some(Action::Budget { store, delta, json }) = args.action {
        return budget(store, delta, json).await;
    }
    let part = args.part.context("say which party takes part: --name, --store, --data")?;
    tokio::select! {
        done = take_part(part) => done,
        // Training may hold a thread for long; all that counts is stored already.
        () = signals()? => std::process::exit(0),
    }
}

/// Prints what was spent, one line per data set.
async fn budget(dir: PathBuf, delta: f64, json: bool) -> anyhow::Result<()> {
    if !(delta > 0.0 && delta <= 0.5) {
        bail!("delta is {delta}; it must be positive and at most 0.5");
    }
    let (store, name) = open(dir).await?;
    let spent = Ledgers::spent(&store, delta).await?;
    if json {
        say!("{}", serde_json::json!({ "party": name, "spent": spent }));
        return Ok(());
    }
    if spent.is_empty() {
        say!("{name}: nothing was spent");
    }
    for Spent { data_set, rounds, rho, delta, zcdp, exact } in spent {
        let exact = exact.map_or(String::new(), |exact| format!(", exact {exact:.4}"));
        say!(
            "{data_set}: {rounds} rounds, rho {rho:.6}, epsilon {zcdp:.4}{exact} at delta {delta:e}"
        );
    }
    Ok(())
}

async fn take_part(args: Part) -> anyhow::Result<()> {
    if !args.data.is_file() {
        bail!("there is no file {}", args.data.display());
    }
    let mut config = PartyConfig::new(&args.name, &args.aggregator, &args.store)?
        .on_event(if args.json { print_json } else { print_line });
    config.tenant = args.tenant.as_deref().map(Name::new).transpose()?;
    config.authorities = args.authorities;
    config.allow_repeated_plaintexts = args.allow_repeats;
    config.max_epsilon = args.max_epsilon;
    config.data_set = args.data_set.as_deref().map(Name::new).transpose()?;
    config.noise_seed = args.insecure_noise_seed.map(|seed| seed.0);
    config.replayable = args.insecure_replay.is_some();
    config.patience = Duration::from_secs(args.patience);
    config.minima = Minima {
        k_min: args.min_k,
        colluders: args.min_colluders,
        require_noise: args.require_privacy,
        ..Minima::default()
    };
    let name = config.name.clone();
    let party = Party::connect(config).await.context("cannot connect")?;
    let job = match args.job {
        Some(job) => job,
        None => first_open(&party).await?,
    };
    let outcome = match party.workload(job.into()).await? {
        Workload::Payments(spec) => {
            let network = spec.network == name;
            let part = match network {
                true => PaymentsPart::Network(NetworkTask {
                    payments: read_payments(&args.data)?,
                    score: args.score_rows.unwrap_or(usize::MAX),
                }),
                false => PaymentsPart::Bank(AccountBook::new(&read_accounts(&args.data)?)),
            };
            let finished = party.run_payments(job.into(), part).await?;
            if let Some(network) = &finished.network {
                if let Some(file) = args.scores {
                    write(&file, &payment_scores(network))?;
                }
                if let (Some(file), Some(replay)) = (args.insecure_replay, &network.replay) {
                    write(&file, &serde_json::to_string(replay)?)?;
                }
            }
            finished.outcome
        }
        Workload::Vertical(spec) => {
            let finished = party.run_vertical(job.into(), Table::read(&args.data)?).await?;
            if let Some(file) = args.scores {
                write(&file, &scores(&spec, &finished))?;
            }
            if let (Some(file), Some(replay)) = (args.insecure_replay, &finished.replay) {
                write(&file, &serde_json::to_string(replay)?)?;
            }
            finished.outcome
        }
        _ => party.run(job.into(), CsvTrainer::new(name, args.data)).await?.outcome,
    };
    match JobOutcome::from(&outcome) {
        JobOutcome::Done => Ok(()),
        JobOutcome::Cancelled => bail!("the job was cancelled"),
        JobOutcome::Failed { code, detail } => bail!("the job failed: {code}: {detail}"),
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The scores of a vertical job as CSV: the row of the label holder's file, from 1, and a value per
/// output: a probability, a decision value where the model has none, or a number in the target's unit.
fn scores(spec: &VerticalSpec, finished: &VerticalFinished) -> String {
    let names: Vec<String> = match &spec.target_kind {
        TargetKind::Classes(classes) if spec.outputs() > 1 => classes.clone(),
        TargetKind::Classes(classes) => classes.last().cloned().into_iter().collect(),
        TargetKind::Real { .. } => vec![spec.target.clone()],
    };
    let value = |value: f64| match spec.target_kind {
        TargetKind::Real { offset, scale } => offset + scale * value,
        TargetKind::Classes(_) => value,
    };
    let mut text = format!("row,{}\n", names.join(","));
    for (position, own) in &finished.scores {
        let row = finished.rows.get(*position as usize).map_or(0, |row| row + 1);
        let values: Vec<String> =
            decisions(spec.model, own).into_iter().map(|v| value(v).to_string()).collect();
        text.push_str(&format!("{row},{}\n", values.join(",")));
    }
    text
}

/// The scores of payments as CSV: the row of the network's file, from 1, and the probability that it is
/// anomalous.
fn payment_scores(finished: &NetworkFinished) -> String {
    let line = |(row, score): &(usize, f64)| format!("{},{score}\n", row + 1);
    "row,score\n".to_owned() + &finished.scores.iter().map(line).collect::<String>()
}

/// The first job that has not ended.
async fn first_open(party: &Party) -> anyhow::Result<Hex32> {
    loop {
        let jobs: Vec<JobStatus> = party.jobs().await?;
        if let Some(job) = jobs.iter().find(|job| job.outcome.is_none()) {
            return Ok(job.job);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A closed pipe ends the printing, not the party.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn print_json(event: &PartyEvent) {
    if let Ok(line) = serde_json::to_string(event) {
        print(&line);
    }
}

fn print_line(event: &PartyEvent) {
    print(&line(event));
}

/// An event in words.
fn line(event: &PartyEvent) -> String {
    match event {
        PartyEvent::Connected { party, epoch } => {
            format!("{party}: enrolled, key epoch {epoch}")
        }
        PartyEvent::ClockSkew { peer, skew_ms } => {
            let seconds = skew_ms / 1000;
            format!("warning: the clock of {peer} is {seconds} s off ours; check both")
        }
        PartyEvent::Joined { job, title, round, rounds } => {
            format!("job {job} ({title:?}): round {round} of {rounds} is next")
        }
        PartyEvent::RoundEntered { round, attempt: 0 } => format!("round {round}: opened"),
        PartyEvent::RoundEntered { round, attempt } => {
            format!("round {round}: opened again, attempt {attempt}")
        }
        PartyEvent::Trained { round, ms } => format!("round {round}: trained in {ms} ms"),
        PartyEvent::Sealed { round, bytes, ms } => {
            format!("round {round}: encrypted to {bytes} bytes in {ms} ms")
        }
        PartyEvent::Receipt { round, bytes, ms } => {
            format!("round {round}: {bytes} bytes submitted in {ms} ms, receipt checked")
        }
        PartyEvent::KeyAccepted { key, holder } => {
            let share = if *holder { ", we hold a share of it" } else { "" };
            format!("threshold key {key}: complete{share}")
        }
        PartyEvent::KeyPosted { step, ms } => {
            format!("threshold key: step {step} made in {ms} ms")
        }
        PartyEvent::Shared { round, members, bytes, ms } => format!(
            "round {round}: partial decryption of {members} replies, {bytes} bytes, in {ms} ms"
        ),
        PartyEvent::BudgetSpent { round, detail } => {
            format!("round {round}: the privacy budget is spent, nothing was sent: {detail}")
        }
        PartyEvent::Result { round, members, included, rows, loss, .. } => {
            let rows = rows.map_or(String::new(), |rows| format!(", {rows} rows"));
            let loss = loss.map_or(String::new(), |loss| format!(", loss {loss:.5}"));
            let missed = if *included { "" } else { ", without us" };
            format!("round {round}: sum of {members} parties{rows}{loss}{missed}")
        }
        PartyEvent::Handled { message, ms } => format!("{message} handled in {ms} ms"),
        PartyEvent::Phase { phase, lost } if lost.is_empty() => format!("model version {phase}"),
        PartyEvent::Phase { phase, lost } => {
            let lost: Vec<&str> = lost.iter().map(Name::as_str).collect();
            format!("model version {phase}, without {}", lost.join(", "))
        }
        PartyEvent::Scored { query, rows, ms } => {
            format!("query {query}: {rows} payments scored in {ms} ms")
        }
        PartyEvent::Refused { code, detail } => format!("refused: {code}: {detail}"),
        PartyEvent::Waiting { why } => format!("waiting: {why}"),
        PartyEvent::Finished { outcome: JobOutcome::Done, rounds, state } => {
            format!("done after {rounds} rounds, model {state}")
        }
        PartyEvent::Finished { outcome, rounds, .. } => {
            format!("ended after {rounds} rounds: {outcome:?}")
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PartyArgs,
    }

    #[test]
    fn a_party_takes_part_or_shows_its_budget() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
        let whole = "party --name p --authority http://a --store s --data d.csv --any";
        let seed = "ab".repeat(32);
        let args = parse(&format!(
            "{whole} --max-epsilon 1.5 --data-set books --insecure-noise-seed {seed}"
        ));
        let PartyArgs { action: None, part: Some(part) } = args.unwrap() else {
            panic!("not a party that takes part")
        };
        assert_eq!(part.aggregator, "http://127.0.0.1:7100");
        assert_eq!((part.max_epsilon, part.data_set.as_deref()), (Some(1.5), Some("books")));
        assert_eq!(part.insecure_noise_seed, Some(Hex32([0xab; 32])));
        assert!(!part.require_privacy);
        let args = parse(&format!("{whole} --require-privacy")).unwrap();
        assert!(args.part.is_some_and(|part| part.require_privacy));
        let args = parse("party budget --store s --delta 1e-5 --json").unwrap();
        assert!(matches!(args.action, Some(Action::Budget { delta: 1e-5, json: true, .. })));
        for line in [
            "party",
            "party --name p",
            &whole.replace(" --store s", ""),
            &format!("{whole} budget --store s"),
            "party budget",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn events_read_as_sentences() {
        let event = PartyEvent::Result {
            round: 3,
            attempt: 0,
            members: 4,
            included: false,
            rows: Some(100),
            loss: Some(0.25),
            state: None,
        };
        assert_eq!(line(&event), "round 3: sum of 4 parties, 100 rows, loss 0.25000, without us");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((json["event"].as_str(), json["members"].as_u64()), (Some("result"), Some(4)));
    }
}
