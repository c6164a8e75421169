//! How a demo ended: its files, the comparison with training in the clear, and whether all held.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use quorate_client::api::FrozenRound;
use quorate_client::learn::metrics::Metrics;
use quorate_client::learn::pooled::export_model_json;
use serde::Serialize;
use serde_json::json;

use super::data::{Prepared, Source};
use super::job::Followed;
use super::plain::{self, Frozen, PlainConfig, PlainParty};
use super::record::{Course, train_spec};
use super::{Model, Options, TOLERANCE};
use crate::report::{DemoReport, PartyRow, render_html};

/// The outcome of a finished job.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    prepared: &'a Prepared,
    followed: &'a Followed,
    course: Course<'a>,
    metric_name: &'static str,
    metric: f64,
    pooled_metric: f64,
    model_hash: String,
    plain_model_hash: Option<String>,
}

impl<'a> Verdict<'a> {
    pub(super) fn new(
        prepared: &'a Prepared,
        followed: &'a Followed,
        course: Course<'a>,
        pooled: Metrics,
    ) -> anyhow::Result<Self> {
        let last = course.last.context("the job opened no model")?;
        // Without both classes among the held-out rows there is no AUC.
        let (metric_name, metric, pooled_metric) = if pooled.auc.is_nan() {
            ("accuracy", last.accuracy, pooled.accuracy)
        } else {
            ("AUC", last.auc, pooled.auc)
        };
        let model_hash = hex::encode(followed.state().hash().0);
        let plain_model_hash = None;
        Ok(Self {
            prepared,
            followed,
            course,
            metric_name,
            metric,
            pooled_metric,
            model_hash,
            plain_model_hash,
        })
    }

    /// Writes `model.json`, `frozen.json`, and `plain.json` for `quorate plain`.
    pub(super) fn write_model(&self, out: &Path, frozen: &[FrozenRound]) -> anyhow::Result<()> {
        let manifest = self.followed.manifest();
        let spec = train_spec(manifest)?;
        let model = export_model_json(self.followed.state(), spec, &manifest.code)?;
        write_json(&out.join("model.json"), &model)?;
        let sets: Vec<Frozen> = frozen
            .iter()
            .map(|set| Frozen {
                round: set.round,
                attempt: u32::from(set.attempt),
                members: set.members.iter().map(ToString::to_string).collect(),
            })
            .collect();
        write_json(&out.join("frozen.json"), &sets)?;
        let parties = self.prepared.banks.iter().map(|bank| PlainParty {
            name: bank.name.clone(),
            data: Path::new(&bank.name).join("data.csv"),
            replay: None,
        });
        let config = PlainConfig {
            job: manifest.hash(),
            workload: manifest.workload.clone(),
            code: manifest.code,
            frozen: Some(PathBuf::from("frozen.json")),
            parties: parties.collect(),
        };
        write_json(&out.join("plain.json"), &config)
    }

    /// Lets a separate process train in the clear.
    pub(super) async fn compare(&mut self, program: &Path, out: &Path) -> anyhow::Result<()> {
        let (program, config) = (program.to_owned(), out.join("plain.json"));
        let check = move || plain::in_own_process(&program, &config);
        self.plain_model_hash = Some(tokio::task::spawn_blocking(check).await??);
        Ok(())
    }

    /// Writes `report.html` and `demo.json`.
    pub(super) fn write_report(
        &self,
        options: &Options,
        source: &Source,
        out: &Path,
        elapsed: Duration,
    ) -> anyhow::Result<()> {
        let two_classes = self.prepared.schema.classes.len() == 2;
        let parties = self.prepared.banks.iter().map(|bank| {
            let positive = || bank.rows.labels.iter().filter(|label| **label == 1).count() as u64;
            let positives = two_classes.then(positive);
            PartyRow { name: bank.name.clone(), rows: bank.rows.rows as u64, positives }
        });
        let report = DemoReport {
            title: "Quorate demo".to_owned(),
            scheme: options.scheme.clone(),
            data: format!("{}, target {:?}, fold {}", source.name, source.target, options.fold),
            parties: parties.collect(),
            rounds: self.course.rows.clone(),
            metric_name: self.metric_name.to_owned(),
            metric: self.metric,
            pooled_metric: self.pooled_metric,
            model_hash: self.model_hash.clone(),
            plain_model_hash: self.plain_model_hash.clone(),
            faults: self.course.happened.clone(),
        };
        let page = out.join("report.html");
        std::fs::write(&page, render_html(&report))
            .with_context(|| format!("cannot write {}", page.display()))?;
        let rows = &self.course.rows;
        let summary = json!({
            "metric": self.metric,
            "metric_name": self.metric_name,
            "pooled_metric": self.pooled_metric,
            "tolerance": self.allowed(),
            "model_hash": self.model_hash,
            "plain_model_hash": self.plain_model_hash,
            "rounds": rows.len(),
            "bytes_up": rows.iter().map(|row| row.bytes_up).sum::<u64>(),
            "bytes_down": rows.iter().map(|row| row.bytes_down).sum::<u64>(),
            "data_file": source.path,
            "target": source.target,
            "fold": options.fold,
            "categorical": source.categorical,
            "ignored": source.ignored,
            "scheme": options.scheme,
            "model": match options.model { Model::Logistic => "logistic", Model::Mlp => "mlp" },
            "parties": report.parties,
            "faults": self.course.happened,
            "seed": options.seed,
            "seconds": elapsed.as_secs_f64(),
            "table": rows,
        });
        write_json(&out.join("demo.json"), &summary)?;
        options.json.as_ref().map_or(Ok(()), |copy| write_json(copy, &summary))
    }

    /// Prints how it ended.
    ///
    /// # Errors
    /// When the models differ, or a logistic model scores too far from the pooled one.
    pub(super) fn judge(&self, options: &Options, out: &Path) -> anyhow::Result<()> {
        let (name, difference) = (self.metric_name, self.metric - self.pooled_metric);
        println!(
            "\n{name} on {} held-out rows: federated {:.4}, pooled {:.4}, difference {difference:+.4}",
            self.prepared.test.rows, self.metric, self.pooled_metric
        );
        println!("model hash  {}  federated, encrypted", self.model_hash);
        if let Some(plain) = &self.plain_model_hash {
            println!("model hash  {plain}  separate process, in the clear");
        }
        println!("report: {}", out.join("report.html").display());
        if self.plain_model_hash.as_ref().is_some_and(|plain| *plain != self.model_hash) {
            bail!(
                "the models differ: run `quorate plain --config {}` again and compare the sets in \
                 frozen.json with the aggregator's log",
                out.join("plain.json").display()
            );
        }
        if options.model == Model::Logistic {
            let allowed = self.allowed();
            // NaN is not close.
            let close = difference.abs() <= allowed;
            if !close {
                bail!(
                    "{name} differs from the pooled model's by more than {allowed:.4}: try more \
                     --rounds, or fewer --parties if some hold too few rows"
                );
            }
            let why =
                if allowed > TOLERANCE { ", half a standard error on so few rows" } else { "" };
            println!("within {allowed:.4} of pooled logistic regression{why}: yes");
        }
        if self.plain_model_hash.is_some() {
            println!("equal bit for bit to training in the clear: yes");
        }
        Ok(())
    }
}

impl Verdict<'_> {
    fn allowed(&self) -> f64 {
        let labels = self.prepared.test.labels.iter().map(|label| *label as usize);
        allowed(labels, self.pooled_metric)
    }
}

/// [`TOLERANCE`], or half a standard error of the metric where few rows are held out and a handful of
/// them decides about more. `labels` are the classes of the held-out rows.
pub(super) fn allowed(labels: impl Iterator<Item = usize>, metric: f64) -> f64 {
    let mut counts = BTreeMap::new();
    labels.for_each(|label| *counts.entry(label).or_insert(0usize) += 1);
    let rarest = counts.into_values().min().unwrap_or(1);
    let metric = metric.clamp(0.5, 1.0);
    TOLERANCE.max((metric * (1.0 - metric) / rarest as f64).sqrt() / 2.0)
}

/// Writes a file of JSON for people, too.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
