//! What happened in a payments job: phases as the network reports them, letters as the aggregator wrote
//! them down.

use std::collections::BTreeMap;

use anyhow::Context as _;
use quorate_client::api::{JobOutcome, JobStatus};
use quorate_client::engine::now_ms;
use serde::Deserialize;

use crate::demo::fleet::Fleet;
use crate::demo::job::Followed;
use crate::demo::watch::Watched;
use crate::report::{HandledRow, PaymentsPhaseRow, WireRow};

/// Phases of a model version, and what comes before and after, in order.
pub(super) const PHASES: [&str; 8] =
    ["key", "setup", "joined", "flagged", "summed", "frozen", "trained", "serving"];

/// A letter that the aggregator took.
#[derive(Clone, Debug)]
struct Letter {
    at_ms: u64,
    from: String,
    to: String,
    bytes: u64,
}

/// What is read of a party's report.
#[derive(Debug, Deserialize)]
struct Report {
    event: String,
    #[serde(default)]
    phase: String,
    #[serde(default)]
    lost: Vec<String>,
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    ms: u64,
}

/// The course of a job.
pub(super) struct Course {
    pub(super) followed: Followed,
    after: u64,
    letters: Vec<Letter>,
    /// When each phase was first seen.
    begun: Vec<(usize, u64)>,
    /// When the job was seen to be over.
    over: Option<u64>,
    /// Banks that were left out.
    pub(super) lost: Vec<String>,
    /// Payments scored so far.
    scored: u64,
    /// Lines of the network's report that were read.
    read: usize,
    pub(super) happened: Vec<String>,
}

fn reports(log: &str) -> impl Iterator<Item = Report> + '_ {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

impl Course {
    pub(super) fn new(followed: Followed) -> Self {
        Self {
            followed,
            after: 0,
            letters: Vec::new(),
            begun: vec![(0, now_ms())],
            over: None,
            lost: Vec::new(),
            scored: 0,
            read: 0,
            happened: Vec::new(),
        }
    }

    fn phase(&self) -> usize {
        self.begun.last().map_or(0, |(phase, _)| *phase)
    }

    /// Reads the aggregator's facts.
    async fn read_on(&mut self) -> anyhow::Result<()> {
        loop {
            let facts = self.followed.facts(self.after).await?;
            let Some(last) = facts.last() else { return Ok(()) };
            self.after = last.seq;
            for logged in &facts {
                let fact = &logged.fact;
                let text = |key: &str| fact.body.get(key).and_then(|own| own.as_str());
                if fact.predicate != "letter.taken" {
                    continue;
                }
                let bytes = fact.body.get("bytes").and_then(serde_json::Value::as_u64);
                let not_understood = || format!("fact {} is not understood", logged.seq);
                self.letters.push(Letter {
                    at_ms: fact.at_ms,
                    from: text("from").with_context(not_understood)?.to_owned(),
                    to: text("to").with_context(not_understood)?.to_owned(),
                    bytes: bytes.with_context(not_understood)?,
                });
            }
        }
    }

    /// Reads what the network reported since, and gives a line for each new phase.
    fn hear(&mut self, fleet: &Fleet) -> Vec<String> {
        let log = fleet.banks.first().map(|network| network.log()).unwrap_or_default();
        // A line that is being written is read the next time.
        let whole = log.rfind('\n').map_or("", |end| log.get(..end).unwrap_or_default());
        let lines: Vec<&str> = whole.lines().collect();
        let mut said = Vec::new();
        for report in lines.iter().skip(self.read).filter_map(|l| serde_json::from_str(l).ok()) {
            let report: Report = report;
            match report.event.as_str() {
                "phase" => {
                    self.lost = report.lost;
                    let place = PHASES.iter().position(|phase| *phase == report.phase);
                    let Some(place) = place.filter(|place| *place > self.phase()) else { continue };
                    let now = now_ms();
                    let (before, since) = self.begun.last().copied().unwrap_or_default();
                    said.push(line(before, now.saturating_sub(since), self.bytes_since(since)));
                    self.begun.push((place, now));
                }
                "scored" => self.scored += report.rows,
                _ => {}
            }
        }
        self.read = lines.len();
        said
    }

    fn bytes_since(&self, since: u64) -> u64 {
        self.letters.iter().filter(|l| l.at_ms >= since).map(|letter| letter.bytes).sum()
    }

    /// Time and letters of each phase.
    pub(super) fn phases(&self) -> Vec<PaymentsPhaseRow> {
        let end = self.over.unwrap_or_else(now_ms);
        let ends = self.begun.iter().skip(1).map(|(_, at)| *at).chain([end]);
        let row = |((phase, from), until): (&(usize, u64), u64)| {
            let own = || self.letters.iter().filter(|l| (*from..until).contains(&l.at_ms));
            PaymentsPhaseRow {
                name: PHASES.get(*phase).copied().unwrap_or_default().to_owned(),
                ms: until.saturating_sub(*from),
                letters: own().count(),
                bytes: own().map(|letter| letter.bytes).sum(),
            }
        };
        self.begun.iter().zip(ends).map(row).collect()
    }

    /// Letters and bytes of each party, both ways.
    pub(super) fn wire(&self) -> Vec<WireRow> {
        let mut rows: BTreeMap<&str, WireRow> = BTreeMap::new();
        for letter in &self.letters {
            for (party, out) in [(&letter.from, true), (&letter.to, false)] {
                let row = rows.entry(party).or_insert_with(|| WireRow::of(party));
                let (count, bytes) = match out {
                    true => (&mut row.letters_out, &mut row.bytes_out),
                    false => (&mut row.letters_in, &mut row.bytes_in),
                };
                *count += 1;
                *bytes += letter.bytes;
            }
        }
        rows.into_values().collect()
    }

    /// What parties handled, by party and kind of message, as they report.
    pub(super) fn handled(&self, fleet: &Fleet) -> Vec<HandledRow> {
        let mut rows: BTreeMap<(String, String), HandledRow> = BTreeMap::new();
        for party in &fleet.banks {
            for report in reports(&party.log()).filter(|report| report.event == "handled") {
                let key = (party.name().to_owned(), report.message.clone());
                let row = rows.entry(key).or_insert_with(|| HandledRow {
                    party: party.name().to_owned(),
                    message: report.message.clone(),
                    count: 0,
                    ms: 0,
                });
                row.count += 1;
                row.ms += report.ms;
            }
        }
        rows.into_values().collect()
    }

    /// Payments that were scored.
    pub(super) const fn scored(&self) -> u64 {
        self.scored
    }
}

fn line(phase: usize, ms: u64, bytes: u64) -> String {
    let phase = PHASES.get(phase).copied().unwrap_or_default();
    format!("{phase:<10} {:>8.1} s {:>10.1} MB", ms as f64 / 1000.0, bytes as f64 / 1e6)
}

impl Watched for Course {
    const BAR: &'static str = "phase {pos}/{len} [{bar:32}] {msg} {elapsed}";

    fn header(&self) -> String {
        format!("{:<10} {:>10} {:>13}", "phase", "time", "letters")
    }

    fn length(&self) -> u64 {
        PHASES.len() as u64 - 1
    }

    async fn look(&mut self, fleet: &Fleet) -> anyhow::Result<(JobStatus, Vec<String>)> {
        let mut status = self.followed.status().await?;
        self.read_on().await?;
        let mut lines = self.hear(fleet);
        if matches!(status.outcome, Some(JobOutcome::Done)) && self.over.is_none() {
            let now = now_ms();
            self.over = Some(now);
            let (phase, since) = self.begun.last().copied().unwrap_or_default();
            lines.push(line(phase, now.saturating_sub(since), self.bytes_since(since)));
        }
        // The aggregator carries letters throughout; how far the job is, the network says.
        if status.phase == "Carrying" {
            PHASES.get(self.phase()).copied().unwrap_or_default().clone_into(&mut status.phase);
            status.opened = u32::try_from(self.phase()).unwrap_or(u32::MAX);
            status.submitted = status.joined.clone();
            // Letters and scores are progress, too.
            status.round = u32::try_from(self.letters.len()).unwrap_or(u32::MAX);
        }
        Ok((status, lines))
    }

    fn complete(&self, _status: &JobStatus) -> bool {
        self.over.is_some()
    }

    fn happened(&mut self, sentence: String) {
        println!("  {sentence}");
        self.happened.push(sentence);
    }
}
