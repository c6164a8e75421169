//! `quorate job watch`: progress until the job ends.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::api::{JobOutcome, JobStatus};

use super::outcome_text;
use crate::commands::client::Client;

/// Time between looks.
const EVERY: Duration = Duration::from_millis(500);

/// Follows a job; fails if the job fails.
pub(super) async fn watch(client: &Client, mut job: JobStatus, json: bool) -> anyhow::Result<()> {
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(u64::from(job.rounds)) };
    // Without a terminal there is no bar: a line per opened round instead.
    let lines = !json && !std::io::stderr().is_terminal();
    let mut opened = None;
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} rounds  {elapsed}  {msg}")?);
    let path = format!("/v1/jobs/{}", job.job);
    let mut shown = None;
    loop {
        if json && shown.as_ref() != Some(&job) {
            say!("{}", serde_json::to_string(&job)?);
            shown = Some(job.clone());
        }
        if lines && opened != Some(job.opened) {
            say!("{} of {} rounds opened", job.opened, job.rounds);
            opened = Some(job.opened);
        }
        bar.set_position(u64::from(job.opened));
        bar.set_message(format!(
            "{} round {} attempt {}: {} of {} submitted, floor {}",
            job.phase,
            job.round,
            job.attempt,
            job.submitted.len(),
            job.joined.len(),
            job.floor
        ));
        if let Some(outcome) = &job.outcome {
            bar.abandon_with_message(outcome_text(outcome));
            if lines {
                say!("{}", outcome_text(outcome));
            }
            return match outcome {
                JobOutcome::Failed { .. } => bail!("the job {}", outcome_text(outcome)),
                JobOutcome::Done | JobOutcome::Cancelled => Ok(()),
            };
        }
        tokio::time::sleep(EVERY).await;
        match client.json(&path).await {
            Ok(next) => job = next,
            // The aggregator may be restarting; its job goes on when it is back.
            Err(error) => bar.set_message(format!("waiting: {error:#}")),
        }
    }
}
