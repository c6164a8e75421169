//! How a vertical demo ended: its files, the comparison with training in the clear, what was counted,
//! and whether all held.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use quorate_client::api::Hex32;
use quorate_client::learn::data::Table;
use quorate_client::vertical::replay::model_hash;
use quorate_protocols::fedv::CARD;
use quorate_protocols::workload::{LabelPrivacy, VerticalModel, VerticalSpec};
use serde_json::{Value, json};

use super::course::{Course, median};
use super::cut::{Share, Shares};
use super::figures::{Figures, Truth};
use super::{DELTA, Options};
use crate::demo::data::Source;
use crate::demo::plain::{self, PlainConfig, PlainParty};
use crate::demo::verdict::{allowed, write_json};
use crate::report::{
    AloneRow, Comparison, CostRow, RoleRow, TrafficRow, VerticalReport, number,
    render_vertical_html,
};

/// The outcome of a finished job.
pub(super) struct Outcome<'a> {
    options: &'a Options,
    source: &'a Source,
    spec: &'a VerticalSpec,
    shares: &'a Shares,
    course: Course,
    figures: Figures,
    truth: Truth,
    /// Of the scores that the label holder wrote.
    metric: f64,
    model_hash: String,
    plain_model_hash: String,
    /// Measurements of other schemes.
    pub(super) comparison: Option<Comparison>,
}

impl<'a> Outcome<'a> {
    /// Reads the label holder's scores.
    ///
    /// # Errors
    /// When they are not one per row without a label.
    pub(super) fn new(
        options: &'a Options,
        source: &'a Source,
        spec: &'a VerticalSpec,
        shares: &'a Shares,
        course: Course,
        figures: Figures,
        truth: Truth,
    ) -> anyhow::Result<Self> {
        let holder = shares.parties.first().context("no label holder")?;
        let by_output = read_scores(holder, spec.outputs(), &shares.test)?;
        let metric = truth.metric_of_file(spec, &by_output);
        Ok(Self {
            options,
            source,
            spec,
            shares,
            course,
            figures,
            truth,
            metric,
            model_hash: String::new(),
            plain_model_hash: String::new(),
            comparison: None,
        })
    }

    /// The name of the model whose parts the parties reported, in the order of [`Shares::parties`].
    ///
    /// # Errors
    /// When one reported none.
    pub(super) fn name_model(&mut self, states: &[Option<Hex32>]) -> anyhow::Result<()> {
        let mut by_party = BTreeMap::new();
        for (share, state) in self.shares.parties.iter().zip(states) {
            let state = state.with_context(|| format!("{} reported no weights", share.name))?;
            by_party.insert(share.name.clone(), state.into());
        }
        let weights: Vec<_> =
            self.spec.blocks.iter().filter_map(|b| by_party.get(&b.party).copied()).collect();
        self.model_hash = hex::encode(model_hash(&weights).0);
        Ok(())
    }

    /// Lets a separate process join the files and train in the clear.
    ///
    /// # Errors
    /// When it fails.
    pub(super) async fn repeat_in_the_clear(
        &mut self,
        program: &Path,
        out: &Path,
    ) -> anyhow::Result<()> {
        let manifest = self.course.followed.manifest();
        let own = |share: &Share| {
            let folder = PathBuf::from(share.name.as_str());
            PlainParty {
                name: share.name.to_string(),
                data: folder.join("data.csv"),
                replay: Some(folder.join("replay.json")),
            }
        };
        let config = PlainConfig {
            job: manifest.hash(),
            workload: manifest.workload.clone(),
            code: manifest.code,
            frozen: None,
            parties: self.shares.parties.iter().map(own).collect(),
        };
        let file = out.join("plain.json");
        write_json(&file, &config)?;
        let program = program.to_owned();
        let check = move || plain::in_own_process(&program, &file);
        self.plain_model_hash = tokio::task::spawn_blocking(check).await??;
        Ok(())
    }

    /// Writes `report.html` and `demo.json`.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(super) fn write(&self, out: &Path, elapsed: Duration) -> anyhow::Result<()> {
        let report = self.report();
        let page = out.join("report.html");
        std::fs::write(&page, render_vertical_html(&report))
            .with_context(|| format!("cannot write {}", page.display()))?;
        let summary = self.summary(&report, elapsed)?;
        write_json(&out.join("demo.json"), &summary)?;
        self.options.json.as_ref().map_or(Ok(()), |copy| write_json(copy, &summary))
    }

    fn model_name(&self) -> &'static str {
        match self.spec.model {
            VerticalModel::Linear => "linear",
            VerticalModel::Logistic { taylor: false } => "logistic",
            VerticalModel::Logistic { taylor: true } => "taylor",
            VerticalModel::Softmax => "softmax",
            VerticalModel::Svm => "svm",
        }
    }

    /// The model without label noise, simulated.
    fn without_noise(&self) -> f64 {
        self.figures.costs.first().map_or(f64::NAN, |cost| cost.metric.mean)
    }

    /// Batches, uploads and bytes of every party over the whole job.
    fn traffic(&self) -> Vec<TrafficRow> {
        let batches = &self.course.batches.done;
        let row = |share: &Share| {
            let own = || batches.iter().filter_map(|row| row.uploads.get(share.name.as_str()));
            let uploads = own().map(|own| own.messages).sum();
            TrafficRow {
                party: share.name.to_string(),
                batches: batches.len(),
                uploads,
                repeated: own().map(|own| own.repeated).sum(),
                bytes: own().map(|own| own.bytes).sum(),
            }
        };
        self.shares.parties.iter().skip(1).map(row).collect()
    }

    /// What is wrong with the number of messages, if anything is.
    fn miscounted(&self) -> Option<String> {
        for row in &self.course.batches.done {
            for share in self.shares.parties.iter().skip(1) {
                let own = row.uploads.get(share.name.as_str()).copied().unwrap_or_default();
                // Only who was killed, or talked to who was, has a reason to send its bytes again.
                let again = if self.options.faults { own.repeated } else { 0 };
                if own.messages != 1 + again {
                    return Some(format!(
                        "{} uploaded {} messages for batch {} of epoch {}, not one",
                        share.name, own.messages, row.batch, row.epoch
                    ));
                }
            }
            if row.uploads.len() >= self.shares.parties.len() {
                return Some(format!("the label holder uploaded for batch {}", row.batch));
            }
        }
        let contacts = self.course.contacts;
        (contacts.elsewhere + contacts.listening > 0).then(|| {
            format!(
                "{} connections of parties were to others than services, {} sockets of theirs listened",
                contacts.elsewhere, contacts.listening
            )
        })
    }

    fn report(&self) -> VerticalReport {
        let Self { options, source, spec, shares, course, figures, .. } = self;
        let set = |name: &str, value: String| (name.to_owned(), value);
        let batches = &course.batches;
        let settings = vec![
            set("model", self.model_name().to_owned()),
            set("label holder", spec.holder.to_string()),
            set("rows to train on, common to all parties", shares.train.len().to_string()),
            set("rows without a label, scored at the end", shares.test.len().to_string()),
            set("rows of the largest file", largest(shares).to_string()),
            set("epochs", spec.epochs.to_string()),
            set("rows of a batch s", spec.batch.to_string()),
            set("learning rate, momentum", format!("{}, {}", spec.learning_rate, spec.momentum)),
            set("label noise, epsilon", epsilon_text(options.epsilon)),
            set("delta of that epsilon", format!("{DELTA:e}")),
            set("alignment of rows", format!("{:.1} s", batches.align_ms as f64 / 1000.0)),
            set("attempts given up", batches.burned.to_string()),
            set("seeds of simulated figures", options.seeds.to_string()),
        ];
        let contacts = course.contacts;
        VerticalReport {
            title: "Quorate demo: vertical".to_owned(),
            data: format!(
                "{}, target {:?}, fold {} without labels; {}, {} parties",
                source.name,
                source.target,
                options.fold,
                self.model_name(),
                shares.parties.len()
            ),
            metric_name: self.truth.metric_name(spec).to_owned(),
            metric: self.metric,
            epsilon: options.epsilon,
            without_noise: self.without_noise(),
            pooled_metric: figures.pooled,
            model_hash: self.model_hash.clone(),
            plain_model_hash: self.plain_model_hash.clone(),
            common_rows: batches.common.unwrap_or(0),
            expected_rows: shares.train.len() as u64 + shares.test.len() as u64,
            alone: figures
                .alone
                .iter()
                .map(|alone| AloneRow {
                    party: alone.party.clone(),
                    columns: alone.columns,
                    features: alone.features,
                    metric: alone.metric,
                })
                .collect(),
            costs: figures
                .costs
                .iter()
                .map(|cost| CostRow {
                    epsilon: cost.epsilon,
                    sigma: cost.sigma,
                    metric: cost.metric,
                })
                .collect(),
            seeds: options.seeds,
            epochs: course.epoch_rows.clone(),
            ms_per_batch: median(batches.done.iter().map(|row| row.ms()).collect()),
            traffic: self.traffic(),
            contacts: (contacts.looks > 0).then_some((
                contacts.looks,
                contacts.to_services,
                contacts.elsewhere + contacts.listening,
            )),
            roles: CARD
                .guarantees
                .iter()
                .map(|own| RoleRow { role: own.role.to_owned(), learns: own.learns.to_owned() })
                .collect(),
            faults: course.happened.clone(),
            settings,
            comparison: self.comparison.clone(),
        }
    }

    fn summary(&self, report: &VerticalReport, elapsed: Duration) -> anyhow::Result<Value> {
        let Self { options, source, spec, shares, course, figures, .. } = self;
        let batches = &course.batches;
        Ok(json!({
            "protocol": "fedv",
            "metric": self.metric,
            "metric_name": report.metric_name,
            "metric_without_noise": self.without_noise(),
            "pooled_metric": figures.pooled,
            "tolerance": self.allowed(),
            "model": self.model_name(),
            "model_hash": self.model_hash,
            "plain_model_hash": self.plain_model_hash,
            "rounds": spec.epochs,
            "batches": batches.done.len(),
            "rows_of_a_batch": spec.batch,
            "bytes_up": batches.done.iter().map(|row| row.bytes()).sum::<u64>(),
            "bytes_sealed": batches.done.iter().map(|row| row.sealed_bytes).sum::<u64>(),
            "ms_per_batch": report.ms_per_batch,
            "align_ms": batches.align_ms,
            "common_rows": batches.common,
            "train_rows": shares.train.len(),
            "scored_rows": shares.test.len(),
            "uploads": report.traffic,
            "contacts": course.contacts,
            "label_epsilon": options.epsilon,
            "label_delta": DELTA,
            "alone": figures.alone,
            "cost_of_label_noise": figures.costs,
            "seeds": options.seeds,
            "simulated": ["alone", "cost_of_label_noise", "metric_without_noise"],
            "data_file": source.path,
            "target": source.target,
            "fold": options.fold,
            "categorical": source.categorical,
            "ignored": source.ignored,
            "blocks": spec.blocks,
            "holder": spec.holder,
            "faults": course.happened,
            "seed": options.seed,
            "seconds": elapsed.as_secs_f64(),
            "comparison": self.comparison,
            "epochs": report.epochs,
            "table": batches.done,
        }))
    }

    /// How far below the pooled reference the model may be.
    fn allowed(&self) -> Option<f64> {
        let Truth::Classes(labels) = &self.truth else { return None };
        Some(allowed(labels.iter().copied(), self.figures.pooled?))
    }

    /// Prints how it ended.
    ///
    /// # Errors
    /// When the model is not that of training in the clear, other rows were aligned than a join gives,
    /// messages were too many, or a logistic model without noise is below the pooled one.
    pub(super) fn judge(&self, out: &Path) -> anyhow::Result<()> {
        let name = self.truth.metric_name(self.spec);
        let pooled = self.figures.pooled;
        println!(
            "\n{name} on {} rows without a label: {}, through the services, label noise: {}; without \
             noise {} (simulated); pooled {}",
            self.shares.test.len(),
            number(Some(self.metric)),
            epsilon_text(self.options.epsilon),
            number(Some(self.without_noise())),
            number(pooled)
        );
        for alone in &self.figures.alone {
            let metric = number(alone.metric);
            println!("  {} alone, with {} columns: {metric}", alone.party, alone.columns);
        }
        if self.figures.costs.len() > 1 {
            println!("cost of label noise, simulated, {} seeds:", self.options.seeds);
            for cost in &self.figures.costs {
                println!("  epsilon {:<4} {name} {}", epsilon_text(cost.epsilon), cost.metric);
            }
        }
        for row in self.traffic() {
            println!(
                "{}: {} uploads for {} batches, {} of them sent again, {} bytes",
                row.party, row.uploads, row.batches, row.repeated, row.bytes
            );
        }
        println!(
            "model hash  {}  parts at {} parties, encrypted",
            self.model_hash,
            self.shares.parties.len()
        );
        println!("model hash  {}  separate process, in the clear", self.plain_model_hash);
        println!("report: {}", out.join("report.html").display());
        let batches = &self.course.batches;
        let common = self.shares.train.len() as u64 + self.shares.test.len() as u64;
        ensure!(
            batches.common == Some(common),
            "{:?} rows were aligned, a join of the files gives {common}",
            batches.common
        );
        if self.model_hash != self.plain_model_hash {
            bail!(
                "the models differ: run `quorate plain --config {}` again and compare the parties' \
                 replay.json with the aggregator's log",
                out.join("plain.json").display()
            );
        }
        if let Some(why) = self.miscounted() {
            bail!("{why}: see the facts in the aggregator's log");
        }
        self.judge_fit(name)?;
        println!("equal bit for bit to training on the joined rows in the clear: yes");
        println!("one upload per passive party and batch, none between parties: yes");
        Ok(())
    }

    /// Compares the model without label noise with the pooled one, where it is the same model.
    fn judge_fit(&self, name: &str) -> anyhow::Result<()> {
        let same = matches!(
            self.spec.model,
            VerticalModel::Logistic { taylor: false } | VerticalModel::Softmax
        );
        let (Some(pooled), Some(allowed)) = (self.figures.pooled, self.allowed()) else {
            return Ok(());
        };
        if !same {
            return Ok(());
        }
        let visible = self.spec.labels == LabelPrivacy::Visible;
        let (metric, how) = match visible {
            true => (self.metric, "through the services"),
            false => (self.without_noise(), "simulated without noise"),
        };
        // NaN reaches nothing.
        let reached = metric >= pooled - allowed;
        ensure!(
            reached,
            "{name} {metric:.4}, {how}, is more than {allowed:.4} below the pooled model's: try more \
             --epochs"
        );
        println!("{name} {how} reaches pooled logistic regression less {allowed:.4}: yes");
        Ok(())
    }
}

fn largest(shares: &Shares) -> usize {
    shares.parties.iter().map(|share| share.rows.len()).max().unwrap_or(0)
}

fn epsilon_text(epsilon: Option<f64>) -> String {
    epsilon.map_or_else(|| "off".to_owned(), |epsilon| epsilon.to_string())
}

/// The label holder's scores, one list per output, in the order of `rows` of the whole table.
fn read_scores(holder: &Share, outputs: usize, rows: &[usize]) -> anyhow::Result<Vec<Vec<f64>>> {
    let path = holder.scores();
    let table = Table::read(&path)
        .with_context(|| format!("cannot read the scores in {}", path.display()))?;
    ensure!(table.header().len() == outputs + 1, "{} has other columns", path.display());
    let mut by_row = BTreeMap::new();
    for line in 0..table.rows() {
        let value = |column: usize| -> anyhow::Result<f64> {
            let text = table.text(line, column);
            text.parse().with_context(|| format!("{text:?} is no score"))
        };
        let row: usize = table.text(line, 0).parse().context("a row is no number")?;
        let row = row.checked_sub(1).and_then(|row| holder.rows.get(row));
        let row = *row.context("a score of a row that the label holder does not have")?;
        let values = (1..=outputs).map(value).collect::<anyhow::Result<Vec<f64>>>()?;
        ensure!(by_row.insert(row, values).is_none(), "a row has two scores");
    }
    ensure!(
        by_row.len() == rows.len(),
        "{} rows were scored, {} have no label",
        by_row.len(),
        rows.len()
    );
    (0..outputs)
        .map(|output| {
            let of = |row: &usize| by_row.get(row).and_then(|own| own.get(output)).copied();
            let own: Option<Vec<f64>> = rows.iter().map(of).collect();
            own.context("a row without a label has no score")
        })
        .collect()
}
