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

/// A job as [`follow`] looks at it.
pub(super) trait Watched {
    /// Template of the progress bar.
    const BAR: &'static str;

    /// Heading of the lines of [`Watched::look`].
    fn header(&self) -> String;

    /// How much of [`JobStatus::opened`] there will be, as far as it is known.
    fn length(&self) -> u64;

    /// One look at the job: where it stands, and lines about what is new.
    async fn look(&mut self, fleet: &Fleet) -> anyhow::Result<(JobStatus, Vec<String>)>;

    /// Whether all that was opened has been written down.
    fn complete(&self, status: &JobStatus) -> bool;

    /// Notes a happening.
    fn happened(&mut self, sentence: String);
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
    let mut sums = Sums { followed, course, waiting: VecDeque::new() };
    follow(fleet, faults, &mut sums, stall).await
}

/// As [`watch`], for jobs of any kind.
///
/// # Errors
/// As [`watch`].
pub(super) async fn follow<W: Watched>(
    fleet: &mut Fleet,
    faults: &mut Faults,
    watched: &mut W,
    stall: Duration,
) -> anyhow::Result<()> {
    let bar = progress(watched.length(), W::BAR)?;
    bar.suspend(|| println!("\n{}", watched.header()));
    let mut last: Option<JobStatus> = None;
    let mut moved = Instant::now();
    loop {
        fleet.check()?;
        match watched.look(fleet).await {
            Ok((status, lines)) => {
                for line in lines {
                    bar.suspend(|| println!("{line}"));
                }
                bar.set_length(watched.length());
                bar.set_position(u64::from(status.opened));
                bar.set_message(status.phase.clone());
                match &status.outcome {
                    None => {
                        for sentence in faults.step(&status, fleet).await? {
                            watched.happened(sentence);
                        }
                    }
                    Some(JobOutcome::Done) if watched.complete(&status) => break,
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

/// A job of opened sums.
struct Sums<'a, C> {
    followed: &'a mut Followed,
    course: &'a mut C,
    /// Rounds that have no line yet.
    waiting: VecDeque<OpenedRound>,
}

impl<C: Chronicle> Watched for Sums<'_, C> {
    const BAR: &'static str = "round {pos}/{len} [{bar:32}] {msg} {elapsed}";

    fn header(&self) -> String {
        self.course.header()
    }

    fn length(&self) -> u64 {
        u64::from(self.followed.manifest().workload.rounds())
    }

    async fn look(&mut self, fleet: &Fleet) -> anyhow::Result<(JobStatus, Vec<String>)> {
        let Self { followed, course, waiting } = self;
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

    fn complete(&self, status: &JobStatus) -> bool {
        self.course.rounds() == status.opened
    }

    fn happened(&mut self, sentence: String) {
        self.course.happened(sentence);
    }
}
