//! The figures beside a real run: the pooled reference, and the plain twin with other label noise or on
//! one party's columns alone. They are simulated: no service took part.

use anyhow::Context as _;
use quorate_client::learn::data::{Dataset, number};
use quorate_client::learn::pooled::pooled_logistic;
use quorate_client::learn::sweep::spread;
use quorate_client::vertical::block::features;
use quorate_client::vertical::fit::{classified, decisions, explained};
use quorate_client::vertical::twin::Joined;
use quorate_protocols::fedv::linear::{Features, Targets, label_sigma};
use quorate_protocols::workload::{Block, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec};
use serde::Serialize;
use tokio::sync::oneshot;

use super::DELTA;
use super::cut::Shares;
use crate::demo::data::Source;
use crate::report::Spread;

/// The epsilons of one label whose cost is shown.
const EPSILONS: [f64; 3] = [8.0, 4.0, 1.0];

/// What is known about the held-out rows, and how a model is measured on them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Truth {
    /// Class numbers.
    Classes(Vec<usize>),
    /// Numbers, scaled as the job says.
    Real(Vec<f64>),
}

impl Truth {
    /// The held-out rows of `shares`, in that order.
    ///
    /// # Errors
    /// When the table does not fit the schema.
    pub(super) fn of(
        source: &Source,
        shares: &Shares,
        spec: &VerticalSpec,
    ) -> anyhow::Result<(Targets, Self)> {
        let rows = || shares.train.iter().chain(&shares.test);
        let table = source.table();
        if let TargetKind::Real { offset, scale } = spec.target_kind {
            let position = table.position(&source.target)?;
            let value = |row: &usize| number(table.text(*row, position)).unwrap_or(f64::NAN);
            let scaled = |row: &usize| (value(row) - offset) / scale;
            let truth = shares.test.iter().map(scaled).collect();
            return Ok((Targets::real(rows().map(scaled)), Self::Real(truth)));
        }
        let all: Vec<usize> = rows().copied().collect();
        let labels = Dataset::new(table, source.schema(), &all)?.labels;
        let truth = labels.iter().skip(shares.train.len()).map(|label| *label as usize).collect();
        Ok((Targets::Classes(labels), Self::Classes(truth)))
    }

    /// What a figure is called.
    pub(super) fn metric_name(&self, spec: &VerticalSpec) -> &'static str {
        match self {
            Self::Real(_) => "R\u{b2}",
            Self::Classes(_) if spec.outputs() > 1 => "accuracy",
            Self::Classes(_) => "AUC",
        }
    }

    /// The figure of what the label holder wrote down: numbers in the target's unit.
    pub(super) fn metric_of_file(&self, spec: &VerticalSpec, by_output: &[Vec<f64>]) -> f64 {
        let TargetKind::Real { offset, scale } = spec.target_kind else {
            return self.metric(spec.model, by_output);
        };
        let scaled = |own: &Vec<f64>| own.iter().map(|y| (y - offset) / scale).collect();
        self.metric(spec.model, &by_output.iter().map(scaled).collect::<Vec<_>>())
    }

    /// The figure of decisions, one list per output over the held-out rows.
    pub(super) fn metric(&self, model: VerticalModel, by_output: &[Vec<f64>]) -> f64 {
        match self {
            Self::Real(truth) => explained(by_output.first().map_or(&[], Vec::as_slice), truth),
            Self::Classes(labels) => {
                let (area, share) = classified(model, by_output, labels);
                if by_output.len() > 1 { share } else { area }
            }
        }
    }
}

/// The public scale of a target that is a number: mean and standard deviation to two digits, as somebody
/// who knows the subject would state them.
pub(super) fn scaling(source: &Source, shares: &Shares) -> anyhow::Result<TargetKind> {
    let table = source.table();
    let position = table.position(&source.target)?;
    let value = |row: &usize| number(table.text(*row, position)).unwrap_or(f64::NAN);
    let known: Vec<f64> = shares.train.iter().map(value).collect();
    let (mean, deviation) = spread(&known);
    let two_digits = |x: f64| format!("{x:.1e}").parse::<f64>();
    let scale = if deviation > 0.0 { deviation } else { 1.0 };
    Ok(TargetKind::Real { offset: two_digits(mean)?, scale: two_digits(scale)? })
}

/// One party by itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Alone {
    pub(super) party: String,
    pub(super) columns: usize,
    pub(super) features: u64,
    /// As if the party had the labels; `None` for one without columns.
    pub(super) metric: Option<f64>,
}

/// What hiding labels costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    /// epsilon of one label over the job; `None` without noise.
    pub(super) epsilon: Option<f64>,
    /// Standard deviation of the noise on one residual.
    pub(super) sigma: f64,
    pub(super) metric: Spread,
}

/// All simulated figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Logistic regression on pooled rows to convergence; `None` for a target that is a number.
    pub(super) pooled: Option<f64>,
    pub(super) alone: Vec<Alone>,
    /// Without noise first, then by falling epsilon.
    pub(super) costs: Vec<Cost>,
}

/// All that the thread that computes them needs.
struct Work {
    spec: VerticalSpec,
    blocks: Vec<Features>,
    targets: Targets,
    truth: Truth,
    trained: u32,
    pooled: Option<(Dataset, Dataset)>,
    schema: quorate_protocols::workload::Schema,
    seeds: u64,
    sweep: bool,
}

impl Figures {
    /// Computes them on a thread of their own, which an interrupted demo does not wait for.
    ///
    /// # Errors
    /// When training fails.
    pub(super) fn of(
        source: &Source,
        shares: &Shares,
        spec: &VerticalSpec,
        (targets, truth): (Targets, Truth),
        (seeds, sweep): (u64, bool),
    ) -> anyhow::Result<oneshot::Receiver<anyhow::Result<Self>>> {
        let table = source.table();
        let rows: Vec<usize> = shares.train.iter().chain(&shares.test).copied().collect();
        // As a party does, which does not know which rows have a label.
        let all = vec![true; rows.len()];
        let blocks = spec
            .blocks
            .iter()
            .map(|block| features(table, block, &rows, &all))
            .collect::<Result<Vec<_>, _>>()?;
        let schema = source.schema().clone();
        let pooled = match &truth {
            Truth::Real(_) => None,
            Truth::Classes(_) => Some((
                Dataset::new(table, &schema, &shares.train)?,
                Dataset::new(table, &schema, &shares.test)?,
            )),
        };
        let trained = u32::try_from(shares.train.len())?;
        let spec = spec.clone();
        let work = Work { spec, blocks, targets, truth, trained, pooled, schema, seeds, sweep };
        let (done, figures) = oneshot::channel();
        std::thread::spawn(move || done.send(work.figures()));
        Ok(figures)
    }
}

impl Work {
    fn figures(&self) -> anyhow::Result<Figures> {
        let pooled = match &self.pooled {
            None => None,
            Some((train, test)) => {
                let metrics = pooled_logistic(&self.schema, train, test)?;
                let several = self.spec.outputs() > 1;
                Some(if several { metrics.accuracy } else { metrics.auc })
            }
        };
        let mut alone = Vec::new();
        for (block, features) in self.spec.blocks.iter().zip(&self.blocks) {
            alone.push(self.alone(block, features)?);
        }
        let mut epsilons = vec![None];
        if let LabelPrivacy::Noise { epsilon, .. } = self.spec.labels {
            epsilons.push(Some(epsilon));
        }
        if self.sweep {
            epsilons.extend(EPSILONS.map(Some));
        }
        let order = |epsilon: &Option<f64>| epsilon.unwrap_or(f64::INFINITY);
        epsilons.sort_by(|a, b| order(b).total_cmp(&order(a)));
        epsilons.dedup();
        let costs = epsilons.into_iter().map(|epsilon| self.cost(epsilon));
        Ok(Figures { pooled, alone, costs: costs.collect::<anyhow::Result<_>>()? })
    }

    fn alone(&self, block: &Block, features: &Features) -> anyhow::Result<Alone> {
        let spec = VerticalSpec {
            blocks: vec![block.clone()],
            holder: block.party.clone(),
            labels: LabelPrivacy::Visible,
            ..self.spec.clone()
        };
        let metric = if block.columns.is_empty() {
            None
        } else {
            Some(self.metric(&spec, std::slice::from_ref(features), 0)?)
        };
        Ok(Alone {
            party: block.party.to_string(),
            columns: block.columns.len(),
            features: block.features(),
            metric,
        })
    }

    fn cost(&self, epsilon: Option<f64>) -> anyhow::Result<Cost> {
        let labels = match epsilon {
            None => LabelPrivacy::Visible,
            Some(epsilon) => LabelPrivacy::Noise { epsilon, delta: DELTA },
        };
        let spec = VerticalSpec { labels, ..self.spec.clone() };
        let metrics = (0..self.seeds)
            .map(|seed| self.metric(&spec, &self.blocks, seed))
            .collect::<anyhow::Result<Vec<f64>>>()?;
        let (mean, deviation) = spread(&metrics);
        let scale = f64::from(1u32 << quorate_protocols::fedv::linear::RESIDUAL_BITS);
        let sigma = label_sigma(&spec).map_or(0.0, |sigma| sigma / scale);
        Ok(Cost { epsilon, sigma, metric: Spread { mean, deviation } })
    }

    /// Trains on the rows with a label and measures on the others.
    fn metric(&self, spec: &VerticalSpec, blocks: &[Features], seed: u64) -> anyhow::Result<f64> {
        let trained: Vec<u32> = (0..self.trained).collect();
        let joined = Joined { spec, blocks, targets: &self.targets, trained: &trained };
        let models = joined.simulate(seed).context("the twin cannot train")?;
        let rows = blocks.iter().map(Features::rows).max().unwrap_or(0);
        let held_out: Vec<u32> = (self.trained..u32::try_from(rows)?).collect();
        let scores = joined.scores(&models, &held_out);
        Ok(self.truth.metric(spec.model, &decisions(spec, &scores, held_out.len())))
    }
}
