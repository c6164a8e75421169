//! `quorate job`: create, list, show, watch, result, budget, cancel.

mod budget;
mod result;
mod watch;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quorate_client::api::{JobCreated, JobOutcome, JobSpec, JobStatus};
use reqwest::Method;

use super::client::Client;

/// Arguments of `quorate job`.
#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// Address of the aggregator.
    #[arg(
        long,
        global = true,
        env = "QUORATE_AGGREGATOR",
        default_value = "http://127.0.0.1:7100"
    )]
    aggregator: String,
    /// As JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a job from a TOML file and print its id.
    Create {
        /// The job: title, max_parties, quorum, a table [sum] or [train], perhaps [privacy] and
        /// [threshold].
        file: PathBuf,
    },
    /// List all jobs.
    List,
    /// Show one job.
    Show {
        /// Id of the job, or its beginning.
        job: String,
    },
    /// Follow a job until it ends.
    Watch {
        /// Id of the job, or its beginning.
        job: String,
    },
    /// Fetch, check and print what a job opened: its last sum or its model.
    Result {
        /// Id of the job, or its beginning.
        job: String,
        /// Round of a sum; the last opened one if it is not given.
        #[arg(long)]
        round: Option<u32>,
    },
    /// Show what a job's noise costs, and what was spent on its data set at an authority.
    Budget {
        /// Id of the job, or its beginning.
        job: String,
        /// Address of an authority of the job.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7101")]
        authority: String,
    },
    /// End a job for good.
    Cancel {
        /// Id of the job, or its beginning.
        job: String,
    },
}

pub(super) async fn run(args: JobArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.aggregator)?;
    match args.action {
        Action::Create { file } => create(&client, args.json, &file).await,
        Action::List => list(&client, args.json).await,
        Action::Show { job } => print(&find(&client, &job).await?, args.json),
        Action::Watch { job } => {
            let found = find(&client, &job).await?;
            watch::watch(&client, found, args.json).await
        }
        Action::Result { job, round } => {
            let found = find(&client, &job).await?;
            result::result(&client, &found, round, args.json).await
        }
        Action::Budget { job, authority } => {
            let found = find(&client, &job).await?;
            budget::budget(&client, &found, &Client::new(&authority)?, args.json).await
        }
        Action::Cancel { job } => {
            let found = find(&client, &job).await?;
            let path = format!("/v1/jobs/{}", found.job);
            let status: JobStatus = client.request(Method::DELETE, &path, Vec::new()).await?;
            print(&status, args.json)
        }
    }
}

async fn create(client: &Client, json: bool, file: &PathBuf) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the job file {}", file.display()))?;
    let spec: JobSpec =
        toml::from_str(&text).with_context(|| format!("{} is no job", file.display()))?;
    let body = serde_json::to_vec(&spec)?;
    let created: JobCreated = client.request(Method::POST, "/v1/jobs", body).await?;
    if json {
        say!("{}", serde_json::to_string(&created)?);
    } else {
        say!("{}", created.job);
    }
    Ok(())
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let jobs: Vec<JobStatus> = client.json("/v1/jobs").await?;
    if json {
        say!("{}", serde_json::to_string(&jobs)?);
        return Ok(());
    }
    say!("{:14} {:8} {:10} {:12} {:>9}  title", "job", "kind", "scheme", "phase", "rounds");
    for job in jobs {
        let id: String = job.job.to_string().chars().take(12).collect();
        let kind = serde_json::to_value(job.workload)?;
        say!(
            "{id:14} {:8} {:10} {:12} {:>4}/{:<4}  {}",
            kind.as_str().unwrap_or_default(),
            job.scheme,
            job.phase,
            job.opened,
            job.rounds,
            job.title
        );
    }
    Ok(())
}

/// The one job whose id begins with `text`.
async fn find(client: &Client, text: &str) -> anyhow::Result<JobStatus> {
    if text.len() == 64 {
        return client.json(&format!("/v1/jobs/{text}")).await;
    }
    let jobs: Vec<JobStatus> = client.json("/v1/jobs").await?;
    let mut matching = jobs.into_iter().filter(|job| job.job.to_string().starts_with(text));
    match (matching.next(), matching.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => bail!("no job id begins with {text:?}; `quorate job list` shows all"),
        (Some(_), Some(_)) => bail!("several job ids begin with {text:?}; give more of it"),
    }
}

fn print(job: &JobStatus, json: bool) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string(job)?);
        return Ok(());
    }
    let names = |list: &[quorate_protocols::wire::Name]| {
        list.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
    };
    say!("job        {}", job.job);
    say!("title      {}", job.title);
    say!("scheme     {}", job.scheme);
    say!("phase      {}, round {} attempt {}", job.phase, job.round, job.attempt);
    say!("opened     {} of {} rounds", job.opened, job.rounds);
    say!("floor      {} parties", job.floor);
    say!("joined     {}", names(&job.joined));
    say!("submitted  {}", names(&job.submitted));
    if let Some(key) = &job.threshold {
        let state = match key.key {
            Some(_) => "made".to_owned(),
            None if key.key_waits_for.is_empty() => "not called for yet".to_owned(),
            None => format!("call {}, waits for {}", key.key_calls, names(&key.key_waits_for)),
        };
        say!("key        {} of {} holders; {state}", key.needed, key.holders);
        if !key.asked.is_empty() {
            say!("shares     asked {}; held {}", names(&key.asked), names(&key.held));
        }
        if !key.passed_over.is_empty() {
            say!("passed by  {}", names(&key.passed_over));
        }
    }
    if let Some(outcome) = &job.outcome {
        say!("outcome    {}", outcome_text(outcome));
    }
    Ok(())
}

fn outcome_text(outcome: &JobOutcome) -> String {
    match outcome {
        JobOutcome::Done => "done".to_owned(),
        JobOutcome::Cancelled => "cancelled".to_owned(),
        JobOutcome::Failed { code, detail } => format!("failed with {code}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use quorate_crypto::keys::{ExchangeKey, VerifyKey};
    use quorate_protocols::job::{AuthorityKey, Manifest};
    use quorate_protocols::pv4fad::Figures;
    use quorate_protocols::wire::Name;

    use super::*;

    fn manifest(text: &str) -> Manifest {
        let spec: JobSpec = toml::from_str(text).unwrap();
        let authority = AuthorityKey {
            name: Name::new("a").unwrap(),
            epoch: 0,
            verify: VerifyKey([1; 32]),
            exchange: ExchangeKey([1; 32]),
        };
        let tenant = Name::new("t").unwrap();
        spec.into_manifest(tenant, VerifyKey([9; 32]), vec![authority], [7; 16]).unwrap()
    }

    #[test]
    fn the_examples_are_jobs() {
        manifest(include_str!("../../../docs/examples/sum.toml"));
        manifest(include_str!("../../../docs/examples/train.toml"));
        let threshold = manifest(include_str!("../../../docs/examples/threshold.toml"));
        let spec = threshold.threshold.unwrap();
        assert_eq!((spec.holders, spec.threshold, threshold.noise_divisor()), (4, 3, 2));
        let noise = threshold.privacy.noise().unwrap();
        assert!(noise.epsilon_of(1) <= 2.0 && noise.epsilon_of(1) > 1.999_999);
        let private = manifest(include_str!("../../../docs/examples/private.toml"));
        assert_eq!(private.privacy.noise().unwrap().multiplier, 8.0);
        let vertical = manifest(include_str!("../../../docs/examples/vertical.toml"));
        assert!(vertical.is_vertical() && vertical.check().is_ok());
        let payments = manifest(include_str!("../../../docs/examples/payments.toml"));
        let figures = Figures::of(&payments).unwrap();
        assert_eq!((figures.holders, figures.threshold, figures.floor()), (5, 3, 3));
        // 50 trees, 64 leaves, 2 labels, 2 bits; K sqrt(50 x 2).
        assert_eq!((figures.coordinates(), figures.noise_divisor()), (12_800, 1));
        let multiplier = payments.privacy.noise().unwrap().multiplier;
        assert_eq!(figures.sigma(), Some(20.0 * multiplier));
        assert!(payments.privacy.noise().unwrap().epsilon_of(1) <= 4.0);
    }
}
