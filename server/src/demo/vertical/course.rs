//! What happened in a vertical job, batch by batch, as the aggregator wrote it down.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use quorate_client::api::{JobOutcome, JobStatus};
use quorate_client::store::LoggedFact;
use serde::Serialize;

use crate::demo::fleet::Fleet;
use crate::demo::job::Followed;
use crate::demo::sockets::Contacts;
use crate::demo::watch::Watched;
use crate::report::EpochRow;

/// One batch that was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct BatchRow {
    /// Epoch, from 0; the one after the last scores rows without a label.
    pub(super) epoch: u32,
    /// Batch of the epoch, from 0.
    pub(super) batch: u32,
    /// The attempt that was opened.
    pub(super) attempt: u32,
    /// By party, how many uploads the aggregator took and their bytes.
    pub(super) uploads: BTreeMap<String, Uploads>,
    /// Bytes of keys, requests and gradients that the aggregator passed on, all sealed.
    pub(super) sealed_bytes: u64,
    /// Milliseconds from the opening of the batch until all uploads were there.
    pub(super) collect_ms: u64,
    /// Milliseconds from then until the last gradient was there.
    pub(super) open_ms: u64,
    #[serde(skip)]
    opened_at: u64,
    #[serde(skip)]
    frozen_at: u64,
}

/// What one party uploaded for a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Uploads {
    /// Messages.
    pub(super) messages: u64,
    /// Those among them that were sent again, byte for byte, by a process that was killed or did not see
    /// an answer.
    pub(super) repeated: u64,
    /// Bytes of ciphertext.
    pub(super) bytes: u64,
}

impl BatchRow {
    /// Milliseconds from its opening to its end.
    pub(super) const fn ms(&self) -> u64 {
        self.collect_ms + self.open_ms
    }

    /// Bytes of all uploads.
    pub(super) fn bytes(&self) -> u64 {
        self.uploads.values().map(|own| own.bytes).sum()
    }
}

/// Reads batches out of facts.
#[derive(Debug, Default)]
pub(super) struct Batches {
    /// In the order of their end.
    pub(super) done: Vec<BatchRow>,
    /// Batches of which an attempt is open.
    open: BTreeMap<(u32, u32), BatchRow>,
    /// Rows that the alignment found.
    pub(super) common: Option<u64>,
    /// Milliseconds from the job's approval until the rows were aligned.
    pub(super) align_ms: u64,
    approved_at: u64,
    /// Attempts that were given up.
    pub(super) burned: u32,
    /// Parties that an epoch began without.
    pub(super) left_out: BTreeSet<String>,
}

impl Batches {
    /// Takes in one fact. What is not about batches or rows is passed over.
    pub(super) fn take(&mut self, logged: &LoggedFact) -> Option<()> {
        let fact = &logged.fact;
        let note = fact.body.get("note").and_then(|note| note.as_str()).unwrap_or_default();
        match fact.predicate.as_str() {
            "job.approved" => self.approved_at = fact.at_ms,
            "rows.aligned" => {
                self.common = note.split(' ').next()?.parse().ok();
                self.align_ms = fact.at_ms.saturating_sub(self.approved_at);
            }
            "batch.burned" => self.burned += 1,
            "party.left-out" => drop(self.left_out.insert(note.to_owned())),
            what @ ("batch.opened" | "batch.frozen" | "batch.done" | "party.submitted"
            | "party.repeated") => {
                let number = |key: &str| fact.body.get(key)?.as_u64()?.try_into().ok();
                let (epoch, attempt) = (number("round")?, number("attempt")?);
                let mut words = note.split(", ");
                let batch = words.next()?.strip_prefix("batch ")?.parse().ok()?;
                self.about(what, (epoch, batch), attempt, fact.at_ms, words)?;
            }
            _ => {}
        }
        Some(())
    }

    fn about<'a>(
        &mut self,
        what: &str,
        place: (u32, u32),
        attempt: u32,
        at_ms: u64,
        mut words: impl Iterator<Item = &'a str>,
    ) -> Option<()> {
        let count = |words: &str| words.split(' ').next()?.parse::<u64>().ok();
        if what == "batch.opened" {
            let (epoch, batch) = place;
            let row = BatchRow { epoch, batch, attempt, opened_at: at_ms, ..BatchRow::default() };
            self.open.insert(place, row);
            return Some(());
        }
        let row = self.open.get_mut(&place)?;
        match what {
            "party.submitted" | "party.repeated" => {
                let own = row.uploads.entry(words.next()?.to_owned()).or_default();
                own.messages += 1;
                own.repeated += u64::from(what == "party.repeated");
                own.bytes += count(words.next()?)?;
            }
            "batch.frozen" => {
                row.frozen_at = at_ms;
                row.collect_ms = at_ms.saturating_sub(row.opened_at);
            }
            _ => {
                row.sealed_bytes = count(words.next()?)?;
                row.open_ms = at_ms.saturating_sub(row.frozen_at);
                self.done.extend(self.open.remove(&place));
            }
        }
        Some(())
    }
}

/// The middle one, or the mean of the two in the middle; 0 of nothing.
pub(super) fn median(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0) as f64;
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    }
}

/// A vertical job as the demo follows it.
pub(super) struct Course {
    pub(super) followed: Followed,
    /// Batches of an epoch.
    pub(super) per_epoch: u32,
    /// Epochs.
    pub(super) epochs: u32,
    /// Batches of rows that are only scored.
    pub(super) scoring: u32,
    pub(super) batches: Batches,
    pub(super) epoch_rows: Vec<EpochRow>,
    /// All happenings.
    pub(super) happened: Vec<String>,
    /// Whom the parties were in touch with.
    pub(super) contacts: Contacts,
    /// Happenings that no line shows yet.
    new: Vec<String>,
    after: u64,
    /// Where the job stood when the log was read last.
    seen: Option<(u32, String)>,
}

impl Course {
    pub(super) fn new(followed: Followed, per_epoch: u32, epochs: u32, scoring: u32) -> Self {
        Self {
            followed,
            per_epoch,
            epochs,
            scoring,
            batches: Batches::default(),
            epoch_rows: Vec::new(),
            happened: Vec::new(),
            contacts: Contacts::default(),
            new: Vec::new(),
            after: 0,
            seen: None,
        }
    }

    /// Reads what the aggregator wrote down since the last look.
    async fn read_on(&mut self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let page = self.followed.facts(self.after).await?;
            let Some(last) = page.last() else {
                return Ok(lines);
            };
            self.after = last.seq;
            for fact in &page {
                let before = self.batches.done.len();
                let aligned = self.batches.common.is_some();
                self.batches
                    .take(fact)
                    .with_context(|| format!("fact {} is not understood", fact.seq))?;
                if let (false, Some(common)) = (aligned, self.batches.common) {
                    let seconds = self.batches.align_ms as f64 / 1000.0;
                    lines.push(format!("rows aligned: {common} are common, in {seconds:.1} s"));
                }
                if self.batches.done.len() > before {
                    lines.extend(self.epoch_line());
                }
            }
        }
    }

    /// The line of an epoch, once its last batch is done.
    fn epoch_line(&mut self) -> Option<String> {
        let last = self.batches.done.last()?.epoch;
        let own: Vec<&BatchRow> =
            self.batches.done.iter().filter(|row| row.epoch == last).collect();
        let wanted = if last < self.epochs { self.per_epoch } else { self.scoring };
        if own.len() < wanted as usize {
            return None;
        }
        let median = |of: fn(&BatchRow) -> u64| median(own.iter().map(|row| of(row)).collect());
        let row = EpochRow {
            name: if last < self.epochs { last.to_string() } else { "scores".to_owned() },
            batches: own.len(),
            uploads: own.iter().flat_map(|row| row.uploads.values()).map(|own| own.messages).sum(),
            bytes_up: own.iter().map(|row| row.bytes()).sum(),
            bytes_sealed: own.iter().map(|row| row.sealed_bytes).sum(),
            ms: median(BatchRow::ms),
            collect_ms: median(|row| row.collect_ms),
            open_ms: median(|row| row.open_ms),
            events: std::mem::take(&mut self.new),
        };
        let line = row.line();
        self.epoch_rows.push(row);
        Some(line)
    }
}

impl Watched for Course {
    const BAR: &'static str = "batch {pos}/{len} [{bar:32}] {msg} {elapsed}";

    fn header(&self) -> String {
        EpochRow::header()
    }

    fn length(&self) -> u64 {
        u64::from(self.per_epoch) * u64::from(self.epochs) + u64::from(self.scoring)
    }

    async fn look(&mut self, fleet: &Fleet) -> anyhow::Result<(JobStatus, Vec<String>)> {
        let status = self.followed.status().await?;
        let mut lines = Vec::new();
        // Before the first batch every phase is news: rows are aligned.
        let phase = if status.opened == 0 { status.phase.clone() } else { String::new() };
        let seen = Some((status.opened, phase));
        if self.seen != seen || matches!(status.outcome, Some(JobOutcome::Done)) {
            lines = self.read_on().await?;
            self.contacts.look(fleet);
            self.seen = seen;
        }
        Ok((status, lines))
    }

    fn complete(&self, status: &JobStatus) -> bool {
        self.batches.done.len() == status.opened as usize
    }

    fn happened(&mut self, sentence: String) {
        self.new.push(sentence.clone());
        self.happened.push(sentence);
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::store::Fact;
    use serde_json::json;

    use super::*;

    fn fact(at_ms: u64, what: &str, attempt: u32, note: &str) -> LoggedFact {
        let body = json!({ "round": 2, "attempt": attempt, "note": note });
        let (job, actor, predicate) = (String::new(), String::new(), what.to_owned());
        LoggedFact { seq: at_ms, fact: Fact { at_ms, job, actor, predicate, body } }
    }

    #[test]
    fn a_batch_is_read_out_of_facts_whatever_attempts_came_before() {
        let mut batches = Batches::default();
        for fact in [
            fact(1, "job.approved", 0, "by every authority"),
            fact(5, "rows.aligned", 0, "123 common rows"),
            fact(10, "batch.opened", 0, "batch 7"),
            fact(12, "party.submitted", 0, "batch 7, bureau, 100 bytes"),
            fact(20, "batch.burned", 0, "batch 7, 1 missing"),
            fact(20, "batch.opened", 1, "batch 7"),
            fact(24, "party.submitted", 1, "batch 7, bureau, 100 bytes"),
            fact(27, "party.submitted", 1, "batch 7, network, 150 bytes"),
            fact(30, "batch.frozen", 1, "batch 7, freeze ab12"),
            fact(31, "party.repeated", 1, "batch 7, bureau, 100 bytes"),
            fact(31, "something.else", 0, ""),
            fact(45, "batch.done", 1, "batch 7, 77 sealed bytes passed on"),
        ] {
            assert_eq!(batches.take(&fact), Some(()), "{fact:?}");
        }
        let [row] = &batches.done[..] else { panic!("{batches:?}") };
        assert_eq!((row.epoch, row.batch, row.attempt, row.sealed_bytes), (2, 7, 1, 77));
        assert_eq!((row.collect_ms, row.open_ms, row.ms(), row.bytes()), (10, 15, 25, 350));
        let bureau = Uploads { messages: 2, repeated: 1, bytes: 200 };
        let network = Uploads { messages: 1, repeated: 0, bytes: 150 };
        let expected = [("bureau".to_owned(), bureau), ("network".to_owned(), network)];
        assert_eq!(row.uploads, BTreeMap::from(expected));
        assert_eq!((batches.common, batches.align_ms, batches.burned), (Some(123), 4, 1));
        assert_eq!(batches.take(&fact(50, "batch.done", 0, "nothing")), None);
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(vec![9, 1, 5]), 5.0);
        assert_eq!(median(vec![9, 1, 5, 6]), 5.5);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
