//! How the demo ended: its files, its margins, and whether the real sums were the simulated ones.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use quorate_client::learn::metrics::Fit;
use quorate_client::learn::sweep::{Cell, Regime, Setting};
use quorate_crypto::dp::account::rho_of_sigma;
use quorate_protocols::wire::Name;
use serde_json::{Map, Value, json};

use super::figures::{Figures, curves, name, over_seeds};
use super::{DATA_SET, Options, Plan};
use crate::demo::data::Source;
use crate::demo::verdict::write_json;
use crate::report::{RealRun, RegimeRow, Spread, ThresholdReport, render_threshold_html};

/// What every figure is measured by.
const METRIC: &str = "macro-F1";

/// The outcome of a finished demo.
pub(super) struct Outcome<'a> {
    pub(super) options: &'a Options,
    pub(super) source: &'a Source,
    pub(super) plan: &'a Plan,
    pub(super) setting: &'a Setting<'a>,
    /// At least one.
    pub(super) runs: Vec<RealRun>,
    pub(super) figures: Figures,
}

impl Outcome<'_> {
    /// Writes `report.html` and `demo.json`.
    pub(super) fn write(&self, out: &Path, elapsed: Duration) -> anyhow::Result<()> {
        let multiplier = self.setting.noise(Name::new(DATA_SET)?).multiplier;
        let rho = f64::from(self.plan.workload.rounds()) * rho_of_sigma(multiplier);
        let page = out.join("report.html");
        std::fs::write(&page, render_threshold_html(&self.report(multiplier, rho)))
            .with_context(|| format!("cannot write {}", page.display()))?;
        let summary = self.summary(multiplier, rho, elapsed);
        write_json(&out.join("demo.json"), &summary)?;
        self.options.json.as_ref().map_or(Ok(()), |copy| write_json(copy, &summary))
    }

    fn report(&self, multiplier: f64, rho: f64) -> ThresholdReport {
        let Self { options, source, plan, setting, figures, .. } = self;
        let own = |regime, of| over_seeds(&figures.asked, regime, of);
        let rows = Regime::ALL.into_iter().map(|regime| RegimeRow {
            name: name(regime).to_owned(),
            noise: noise(regime, setting),
            metric: own(regime, |fit| fit.macro_f1),
            accuracy: own(regime, |fit| fit.accuracy),
        });
        let set = |name: &str, value: String| (name.to_owned(), value);
        let settings = vec![
            set("model", plan.model.name().to_owned()),
            set("parameters, or cells of the tree’s last level", plan.size().to_string()),
            set("rounds", plan.workload.rounds().to_string()),
            set("parties n", plan.parties.to_string()),
            set("colluders c", setting.colluders.to_string()),
            set("h, shares that must hide a record", setting.shares().to_string()),
            set("unit", "record".to_owned()),
            set("epsilon of all rounds", plan.epsilon.to_string()),
            set("delta", format!("{:e}", plan.delta)),
            set("noise multiplier, sigma / sensitivity", format!("{multiplier:.6}")),
            set("rho of all rounds", format!("{rho:.6}")),
            set("seeds", options.seeds.to_string()),
        ];
        ThresholdReport {
            title: "Quorate demo: threshold".to_owned(),
            data: format!(
                "{}, target {:?}, fold {} held out; {}, epsilon {} in total, {} parties",
                source.name,
                source.target,
                options.fold,
                plan.model.name(),
                plan.epsilon,
                plan.parties
            ),
            metric_name: METRIC.to_owned(),
            parties: plan.parties,
            seeds: options.seeds,
            settings,
            regimes: rows.collect(),
            by_epsilon: curves(&figures.by_epsilon, |cell| cell.epsilon),
            by_parties: curves(&figures.by_parties, |cell| cell.parties as f64),
            runs: self.runs.clone(),
        }
    }

    fn summary(&self, multiplier: f64, rho: f64, elapsed: Duration) -> Value {
        let Self { options, source, plan, setting, figures, runs } = self;
        let cells = &figures.asked;
        let spread = |regime, of: fn(&Fit) -> f64| over_seeds(cells, regime, of);
        let metrics = |of: fn(Spread) -> f64, fit: fn(&Fit) -> f64| {
            keyed(|regime| Some(of(spread(regime, fit))))
        };
        let seeds: Vec<Value> = (0..options.seeds)
            .map(|seed| {
                let own = |regime| {
                    let of = |cell: &&Cell| cell.seed == seed && cell.regime == regime;
                    cells.iter().find(of).map(|cell| cell.fit.macro_f1)
                };
                let mut row = keyed(own);
                row.insert("seed".to_owned(), seed.into());
                row.into()
            })
            .collect();
        let mut summary = metrics(|spread| spread.mean, |fit| fit.macro_f1);
        let rest = json!({
            "protocol": "threshold",
            "metric_name": METRIC,
            "simulated": true,
            "spread": metrics(|spread| spread.deviation, |fit| fit.macro_f1),
            "accuracy": metrics(|spread| spread.mean, |fit| fit.accuracy),
            "seeds": seeds,
            "model": plan.model.name(),
            "size": plan.size(),
            "rounds": plan.workload.rounds(),
            "data_file": source.path,
            "target": source.target,
            "fold": options.fold,
            "categorical": source.categorical,
            "ignored": source.ignored,
            "epsilon": plan.epsilon,
            "delta": plan.delta,
            "parties": plan.parties,
            "colluders": setting.colluders,
            "h": setting.shares(),
            "noise_multiplier": multiplier,
            "rho": rho,
            "seed": options.seed,
            "scheme": runs.first().map(|run| &run.scheme),
            "real_run": runs.first(),
            "further_real_runs": runs.get(1..),
            "sweep_by_epsilon": figures.by_epsilon,
            "sweep_by_parties": figures.by_parties,
            "seconds": elapsed.as_secs_f64(),
        });
        if let Value::Object(rest) = rest {
            summary.extend(rest);
        }
        summary.into()
    }

    /// Prints how it ended.
    ///
    /// # Errors
    /// When a sum of a real run was not the simulated one.
    pub(super) fn judge(&self, out: &Path) -> anyhow::Result<()> {
        let mean = |regime| over_seeds(&self.figures.asked, regime, |fit| fit.macro_f1).mean;
        let hybrid = mean(Regime::Hybrid);
        println!(
            "\n{METRIC} on held-out rows: hybrid {hybrid:.4}; {:+.4} against central DP, {:+.4} against \
             local DP (simulated, {} seeds)",
            hybrid - mean(Regime::Central),
            hybrid - mean(Regime::Local),
            self.options.seeds
        );
        for run in &self.runs {
            let equal = if run.sums_equal { "yes" } else { "NO" };
            println!(
                "{}: {} rounds in {:.0} s through the real services, key in {:.0} s, {METRIC} {:.4}; \
                 sums equal to the simulated ones: {equal}",
                run.scheme, run.rounds, run.seconds, run.key_seconds, run.metric
            );
            println!("model hash  {}  real, encrypted", run.model_hash);
            println!("model hash  {}  simulated, same seeds", run.simulated_model_hash);
        }
        println!("report: {}", out.join("report.html").display());
        equal(&self.runs)
    }
}

/// Refuses runs that opened another sum than the simulation.
fn equal(runs: &[RealRun]) -> anyhow::Result<()> {
    match runs.iter().find(|run| !run.sums_equal || run.model_hash != run.simulated_model_hash) {
        Some(run) => bail!(
            "the real run with {} is not the simulated one: {}",
            run.scheme,
            run.difference.as_deref().unwrap_or("equal sums made another model")
        ),
        None => Ok(()),
    }
}

/// Who adds how much noise.
fn noise(regime: Regime, setting: &Setting<'_>) -> String {
    let (n, h) = (setting.parties.len(), setting.shares());
    match regime {
        Regime::NoPrivacy => "none".to_owned(),
        Regime::Central => "sigma² once, by a trusted centre".to_owned(),
        Regime::Hybrid => format!("sigma² / {h} by each of {n} parties"),
        Regime::Local => format!("sigma² by each of {n} parties"),
        Regime::Alone => "one party on its own rows, sigma²".to_owned(),
    }
}

/// A value per regime under the key of its metric.
fn keyed(of: impl Fn(Regime) -> Option<f64>) -> Map<String, Value> {
    let key = |regime| match regime {
        Regime::Hybrid => "metric",
        Regime::NoPrivacy => "metric_no_privacy",
        Regime::Central => "metric_central_dp",
        Regime::Local => "metric_local_dp",
        Regime::Alone => "metric_alone",
    };
    Regime::ALL.into_iter().map(|regime| (key(regime).to_owned(), of(regime).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_whose_sums_or_model_differ_is_refused() {
        let run = RealRun {
            scheme: "elgamal".to_owned(),
            job: String::new(),
            epsilon: 0.5,
            parties: 4,
            holders: 3,
            needed: 2,
            key_calls: 1,
            key_seconds: 1.0,
            seconds: 2.0,
            rounds: 1,
            sums_equal: true,
            difference: None,
            metric: 0.5,
            model_hash: "aa".to_owned(),
            simulated_model_hash: "aa".to_owned(),
            bytes_up: 1,
            bytes_down: 1,
            bytes_shares: 1,
            rho_spent: 0.1,
            epsilon_spent: 0.5,
            table: Vec::new(),
        };
        assert!(equal(&[run.clone(), run.clone()]).is_ok());
        let difference = Some("value 0 of round 0".to_owned());
        let sums = RealRun { sums_equal: false, difference, ..run.clone() };
        let error = equal(&[run.clone(), sums]).unwrap_err().to_string();
        assert_eq!(error, "the real run with elgamal is not the simulated one: value 0 of round 0");
        let model = RealRun { simulated_model_hash: "ab".to_owned(), ..run };
        assert!(equal(&[model]).unwrap_err().to_string().contains("another model"));
    }
}
