//! What happened in a demo, round by round.

use std::collections::BTreeMap;

use anyhow::bail;
use quorate_client::api::{JobStatus, RoundReport};
use quorate_client::learn::metrics::{Metrics, evaluate};
use quorate_protocols::job::Manifest;
use quorate_protocols::round::messages::RoundOpen;
use quorate_protocols::workload::{Purpose, TrainSpec, Workload};

use super::data::Prepared;
use super::fleet::Fleet;
use super::job::OpenedRound;
use super::watch::Chronicle;
use crate::report::{PhaseMillis, RoundRow, render_table, table_header};

/// The rounds so far.
#[derive(Debug)]
pub(super) struct Course<'a> {
    prepared: &'a Prepared,
    /// Names of the invited by round and attempt.
    invited: BTreeMap<(u32, u16), Vec<String>>,
    pub(super) rows: Vec<RoundRow>,
    /// The newest model on held-out rows.
    pub(super) last: Option<Metrics>,
    /// All happenings.
    pub(super) happened: Vec<String>,
    /// Happenings that no row shows yet.
    new: Vec<String>,
}

impl<'a> Course<'a> {
    pub(super) const fn new(prepared: &'a Prepared) -> Self {
        Self {
            prepared,
            invited: BTreeMap::new(),
            rows: Vec::new(),
            last: None,
            happened: Vec::new(),
            new: Vec::new(),
        }
    }
}

impl Chronicle for Course<'_> {
    fn header(&self) -> String {
        table_header("AUC")
    }

    fn rounds(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Notes who is invited to the open attempt.
    fn saw(&mut self, _: &JobStatus, open: Option<&RoundOpen>) {
        if let Some(open) = open {
            let names = open.roster.iter().map(|entry| entry.party.to_string()).collect();
            self.invited.insert((open.fields.round, open.fields.attempt), names);
        }
    }

    /// The next row shows it.
    fn happened(&mut self, sentence: String) {
        self.new.push(sentence.clone());
        self.happened.push(sentence);
    }

    /// Scores an opened round on held-out rows.
    fn add(
        &mut self,
        manifest: &Manifest,
        opened: &OpenedRound,
        report: &[RoundReport],
        fleet: &Fleet,
    ) -> anyhow::Result<String> {
        let (spec, record) = (train_spec(manifest)?, &opened.record);
        let (round, attempt) = (record.round, record.attempt);
        let (train, send) = fleet.spent(round);
        let scored = manifest.workload.purpose(round) == Some(Purpose::Train);
        let metrics = scored
            .then(|| evaluate(spec, &manifest.code, &opened.state, &self.prepared.test))
            .transpose()?;
        self.last = metrics.or(self.last);
        let banks: Vec<String> = record.members.iter().map(ToString::to_string).collect();
        let invited = self.invited.get(&(round, attempt)).cloned().unwrap_or_default();
        let missing = invited.into_iter().filter(|name| !banks.contains(name)).collect();
        let mut events = std::mem::take(&mut self.new);
        if attempt > 0 {
            events.push(format!("{attempt} attempts of this round were given up before"));
        }
        let cost = report.iter().find(|cost| cost.round == round);
        let row = RoundRow {
            round,
            purpose: if scored { "weights" } else { "moments" }.to_owned(),
            attempt: u32::from(attempt),
            banks,
            missing,
            loss: metrics.map(|m| m.log_loss),
            metric: metrics.map(|m| m.auc),
            bytes_up: cost.map_or(0, |cost| cost.bytes_up),
            bytes_down: cost.map_or(0, |cost| cost.bytes_down),
            ms: cost.map(|cost| phases(cost, train, send)).unwrap_or_default(),
            events,
        };
        let line = render_table(&row);
        self.rows.push(row);
        Ok(line)
    }
}

fn phases(cost: &RoundReport, train: f64, encrypt_upload: f64) -> PhaseMillis {
    let ms = |value: u64| value as f64;
    let phases = &cost.ms;
    PhaseMillis {
        train,
        encrypt_upload,
        freeze: ms(phases.freeze),
        promise: ms(phases.promise),
        key: ms(phases.key),
        open: ms(phases.open),
        total: ms(phases.collect + phases.freeze + phases.promise + phases.key + phases.open),
    }
}

pub(super) fn train_spec(manifest: &Manifest) -> anyhow::Result<&TrainSpec> {
    match &manifest.workload {
        Workload::Train(spec) => Ok(spec),
        _ => bail!("the job trains no model"),
    }
}
