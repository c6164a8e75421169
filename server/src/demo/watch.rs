//! Following a job to its end: a line per opened round, and a progress bar.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_client::api::{JobOutcome, JobStatus, RoundReport};
use quorate_protocols::job::Manifest;
use quorate_protocols::round::messages::RoundOpen;

use super::faults::Faults;
use super::fleet::Fleet;
use super::job::{self, Followed, OpenedRound};

/// How often the job is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Who writes down what happens in a job.
pub(super) trait Chronicle {
    /// Heading of the lines of [`Chronicle::add`].
    fn header(&self) -> String;

    /// Rounds written down.
    fn rounds(&self) -> u32;

    /// Notes where the job stands and which attempt takes submissions.
    fn saw(&mut self, status: &JobStatus, open: Option<&RoundOpen>);

    /// Notes a happening.
    fn happened(&mut self, sentence: String);

    /// Notes an opened round, with the cost of all rounds, and gives its line.
    fn add(
        &mut self,
        manifest: &Manifest,
        opened: &OpenedRound,
        report: &[RoundReport],
        fleet: &Fleet,
    ) -> anyhow::Result<String>;
}

/// A progress bar of `template`, hidden where standard output is no terminal.
pub(super) fn progress(length: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(length).with_style(ProgressStyle::with_template(template)?);
    if !std::io::stdout().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    Ok(bar)
}

/// Follows the job to its end, makes faults happen and prints a line per round.
/// Gives up after `stall` without any progress.
///
/// # Errors
/// When the job or a process fails, or nothing moves any more.
pub(super) async fn watch(
    fleet: &mut Fleet,
    faults: &mut Faults,
    followed: &mut Followed,
    course: &mut impl Chronicle,
    stall: Duration,
) -> anyhow::Result<()> {
    let rounds = u64::from(followed.manifest().workload.rounds());
    let bar = progress(rounds, "round {pos}/{len} [{bar:32}] {msg} {elapsed}")?;
    bar.suspend(|| println!("\n{}", course.header()));
    let mut waiting = VecDeque::new();
    let mut last: Option<JobStatus> = None;
    let mut moved = Instant::now();
    loop {
        fleet.check()?;
        match look(fleet, followed, course, &mut waiting).await {
            Ok((status, lines)) => {
                for line in lines {
                    bar.suspend(|| println!("{line}"));
                }
                bar.set_position(u64::from(status.opened));
                bar.set_message(status.phase.clone());
                match &status.outcome {
                    None => {
                        for sentence in faults.step(&status, fleet).await? {
                            course.happened(sentence);
                        }
                    }
                    Some(JobOutcome::Done) if course.rounds() == status.opened => break,
                    Some(JobOutcome::Done) => {}
                    Some(JobOutcome::Cancelled) => bail!("the job was cancelled"),
                    Some(JobOutcome::Failed { code, detail }) => {
                        bail!("the job failed: {code}: {detail}")
                    }
                }
                if last.as_ref() != Some(&status) {
                    moved = Instant::now();
                    last = Some(status);
                }
            }
            // It may be starting again.
            Err(error) if job::is_passing(&error) && moved.elapsed() < stall => {}
            Err(error) => return Err(error.context("cannot follow the job")),
        }
        if moved.elapsed() > stall {
            let phase =
                last.map_or_else(String::new, |s| format!("in {} of round {}", s.phase, s.round));
            bail!("the job stands still {phase}; see the log.txt of each process");
        }
        tokio::time::sleep(LOOK).await;
    }
    bar.finish_and_clear();
    if faults.left() > 0 {
        println!("faults that did not come, the job was over before: {}", faults.left());
    }
    Ok(())
}

/// One look at the job: where it stands, and a line per newly opened round. Rounds that have no line
/// yet are `waiting`.
async fn look(
    fleet: &Fleet,
    followed: &mut Followed,
    course: &mut impl Chronicle,
    waiting: &mut VecDeque<OpenedRound>,
) -> anyhow::Result<(JobStatus, Vec<String>)> {
    waiting.extend(followed.opened().await?);
    let status = followed.status().await?;
    course.saw(&status, followed.open_round());
    let mut lines = Vec::new();
    if !waiting.is_empty() {
        let report = followed.report().await?;
        while let Some(round) = waiting.pop_front() {
            lines.push(course.add(followed.manifest(), &round, &report, fleet)?);
        }
    }
    Ok((status, lines))
}
