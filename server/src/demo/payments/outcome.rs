//! How a payments demo ended: its files, the comparison with the same in the clear, and whether all held.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use quorate_client::api::Hex32;
use quorate_client::learn::data::Table;
use quorate_client::learn::metrics::average_precision;
use quorate_protocols::pv4fad::CARD;
use quorate_protocols::workload::PvSpec;
use serde_json::{Value, json};

use super::course::Course;
use super::figures::{DELTA, Figures, Regime, curve};
use super::{ANOMALY_RATE, Member, Options, SCORED};
use crate::demo::plain::{self, PlainConfig, PlainParty};
use crate::demo::verdict::write_json;
use crate::report::{AreaRow, HandledRow, PaymentsReport, RoleRow, number, render_payments_html};

/// The outcome of a finished job.
pub(super) struct Outcome<'a> {
    options: &'a Options,
    spec: &'a PvSpec,
    members: &'a [Member],
    course: Course,
    handled: Vec<HandledRow>,
    figures: Figures,
    /// Payments that were scored, by their place in the table, and their scores.
    rows: Vec<usize>,
    scores: Vec<f64>,
    result_hash: String,
    plain_result_hash: String,
}

impl<'a> Outcome<'a> {
    /// Reads the network's scores.
    ///
    /// # Errors
    /// When they are no scores of payments, each once.
    pub(super) fn new(
        options: &'a Options,
        spec: &'a PvSpec,
        members: &'a [Member],
        (course, handled): (Course, Vec<HandledRow>),
        figures: Figures,
        state: Hex32,
    ) -> anyhow::Result<Self> {
        let network = members.first().context("no network")?;
        let (rows, scores) = read_scores(&network.scores())?;
        Ok(Self {
            options,
            spec,
            members,
            course,
            handled,
            figures,
            rows,
            scores,
            result_hash: state.to_string(),
            plain_result_hash: String::new(),
        })
    }

    /// Lets a separate process train and score in the clear.
    ///
    /// # Errors
    /// When it fails.
    pub(super) async fn repeat_in_the_clear(
        &mut self,
        program: &Path,
        out: &Path,
    ) -> anyhow::Result<()> {
        let manifest = self.course.followed.manifest();
        let own = |member: &Member| {
            let folder = PathBuf::from(member.name.as_str());
            let network = member.name == self.spec.network;
            PlainParty {
                name: member.name.to_string(),
                data: folder.join("data.csv"),
                replay: network.then(|| folder.join("replay.json")),
            }
        };
        let config = PlainConfig {
            job: manifest.hash(),
            workload: manifest.workload.clone(),
            code: manifest.code,
            frozen: None,
            parties: self.members.iter().map(own).collect(),
        };
        let file = out.join("plain.json");
        write_json(&file, &config)?;
        let program = program.to_owned();
        let check = move || plain::in_own_process(&program, &file);
        self.plain_result_hash = tokio::task::spawn_blocking(check).await??;
        Ok(())
    }

    fn area(&self, scores: &[f64]) -> f64 {
        average_precision(scores, &self.figures.labels(&self.rows))
    }

    fn simulated(&self, regime: &Regime) -> AreaRow {
        let area = self.area(&Figures::scores(regime, &self.rows));
        AreaRow { name: regime.name.clone(), area, simulated: true }
    }

    fn report(&self) -> PaymentsReport {
        let labels = self.figures.labels(&self.rows);
        let drawn =
            |regime: &Regime| curve(&regime.name, &Figures::scores(regime, &self.rows), &labels);
        let figures = &self.figures;
        let with_banks = curve("with banks", &self.scores, &labels);
        let mut areas = vec![self.simulated(&figures.alone)];
        areas.push(AreaRow {
            name: "with its banks, through the services".to_owned(),
            area: self.area(&self.scores),
            simulated: false,
        });
        areas.extend([&figures.private].into_iter().chain(&figures.noisy).map(|regime| {
            let row = self.simulated(regime);
            AreaRow { name: format!("with all banks, {}", row.name), ..row }
        }));
        areas.push(self.simulated(&figures.pooled));
        let setting = |name: &str, value: String| (name.to_owned(), value);
        let roles = CARD
            .guarantees
            .iter()
            .map(|own| RoleRow { role: own.role.to_owned(), learns: own.learns.to_owned() });
        PaymentsReport {
            title: "A payment network and its banks".to_owned(),
            data: format!(
                "{} generated payments of {} banks, seed {}, {} % anomalous; trained on 21 days, {} \
                 later payments scored, {} of them anomalous",
                self.options.rows,
                self.options.banks,
                self.options.seed,
                100.0 * ANOMALY_RATE,
                self.rows.len(),
                labels.iter().filter(|label| **label).count(),
            ),
            areas,
            together: vec![drawn(&figures.alone), with_banks, drawn(&figures.pooled)],
            noise: [&figures.private].into_iter().chain(&figures.noisy).map(drawn).collect(),
            delta: DELTA,
            result_hash: self.result_hash.clone(),
            plain_result_hash: self.plain_result_hash.clone(),
            lost: self.course.lost.clone(),
            phases: self.course.phases(),
            wire: self.course.wire(),
            handled: self.handled.clone(),
            roles: roles.collect(),
            faults: self.course.happened.clone(),
            settings: vec![
                setting(
                    "trees x leaves",
                    format!("{} x {}", self.spec.trees, 1 << self.spec.depth),
                ),
                setting(
                    "opened counts",
                    (2 * u32::from(self.spec.trees) * u32::from(self.spec.cells())).to_string(),
                ),
                setting("rows of a part", self.spec.part_rows.to_string()),
                setting(
                    "noise of the real run",
                    "off: its counts are compared to the last one".to_owned(),
                ),
                setting("most payments scored", SCORED.to_string()),
            ],
        }
    }

    /// Writes `report.html` and `demo.json`.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(super) fn write(&self, out: &Path, elapsed: Duration) -> anyhow::Result<()> {
        let report = self.report();
        let page = out.join("report.html");
        std::fs::write(&page, render_payments_html(&report))
            .with_context(|| format!("cannot write {}", page.display()))?;
        let mut summary: Value = serde_json::to_value(&report)?;
        if let Some(fields) = summary.as_object_mut() {
            fields.insert("protocol".to_owned(), json!("pv4fad"));
            fields.insert("seconds".to_owned(), json!(elapsed.as_secs_f64()));
            fields.insert("equal".to_owned(), json!(self.result_hash == self.plain_result_hash));
        }
        write_json(&out.join("demo.json"), &summary)?;
        self.options.json.as_ref().map_or(Ok(()), |copy| write_json(copy, &summary))
    }

    /// Prints the figures and checks what the demo promises.
    ///
    /// # Errors
    /// When counts or scores are not those in the clear, nothing was scored, or a bank was lost that was
    /// not to be.
    pub(super) fn judge(&self, out: &Path) -> anyhow::Result<()> {
        println!("\naverage precision on {} later payments:", self.rows.len());
        for row in &self.report().areas {
            let simulated = if row.simulated { " (simulated)" } else { "" };
            println!("  {:<44} {}{simulated}", row.name, number(Some(row.area)));
        }
        println!("counts and scores  {}  network, encrypted", self.result_hash);
        println!("counts and scores  {}  separate process, in the clear", self.plain_result_hash);
        println!("report: {}", out.join("report.html").display());
        if self.result_hash != self.plain_result_hash {
            bail!(
                "counts or scores differ: run `quorate plain --config {}` again and look at the log.txt \
                 of each process",
                out.join("plain.json").display()
            );
        }
        ensure!(
            !self.rows.is_empty() && self.rows.len() as u64 == self.course.scored(),
            "{} payments have a score, {} were reported",
            self.rows.len(),
            self.course.scored()
        );
        let wanted = usize::from(self.options.faults && self.options.banks > 3);
        ensure!(
            self.course.lost.len() == wanted,
            "{:?} were lost, {wanted} banks were to be: see the log.txt of each",
            self.course.lost
        );
        println!("every count and every score equal to the bit to those in the clear: yes");
        Ok(())
    }
}

/// Payments, from 0, and their scores.
fn read_scores(path: &Path) -> anyhow::Result<(Vec<usize>, Vec<f64>)> {
    let table = Table::read(path)
        .with_context(|| format!("cannot read the scores in {}", path.display()))?;
    let (mut rows, mut scores) = (Vec::new(), Vec::new());
    for line in 0..table.rows() {
        let row: usize = table.text(line, 0).parse().context("a row is no number")?;
        rows.push(row.checked_sub(1).context("rows count from 1")?);
        scores.push(table.text(line, 1).parse().context("a score is no number")?);
    }
    ensure!(rows.is_sorted_by(|a, b| a < b), "a payment has two scores");
    Ok((rows, scores))
}
