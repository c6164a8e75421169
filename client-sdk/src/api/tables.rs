//! The tables `[privacy]`, `[threshold]`, `[tree]` and `[bayes]` of a job.

use quorate_crypto::threshold::MAX_HOLDERS;
use quorate_protocols::job::ThresholdSpec;
use quorate_protocols::policy::{Mechanism, NoiseSpec, Unit};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{BayesSpec, Schema, TableSpec, TreeSpec, Workload};
use serde::{Deserialize, Serialize};

/// Table `[privacy]` of a [`JobSpec`](super::JobSpec): differential privacy of all sums of the job.
///
/// ```toml
/// [privacy]
/// data_set = "hospital-2026" # the ledgers keep account under this name
/// epsilon = 2.0              # what all jobs on this data set may spend together
/// delta = 1e-6
/// clip = 1.0                 # norm to which the contribution of one unit is clipped
/// # noise_multiplier = 4.0   # without it: the least with which all rounds fit epsilon
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyTable {
    /// Whose presence is hidden: `record` or `party`.
    #[serde(default = "record")]
    pub unit: Unit,
    /// Distribution of the noise: `gaussian` or `laplace`.
    #[serde(default = "gaussian")]
    pub mechanism: Mechanism,
    /// sigma or scale of the noise in units of the sensitivity; the least that fits `epsilon` over
    /// all rounds of the job if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<f64>,
    /// The budget: epsilon that all jobs on this data set may spend together, this one included.
    pub epsilon: f64,
    /// delta of that epsilon.
    #[serde(default = "delta")]
    pub delta: f64,
    /// Norm to which the contribution of one unit is clipped, in units of the values. Required for
    /// sums; clipped steps have their own, and counts, whose sensitivity is fixed, use none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Name under which authorities and holders keep account.
    pub data_set: Name,
}

/// Table `[threshold]` of a [`JobSpec`](super::JobSpec) with a threshold scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdTable {
    /// N, the parties that hold a share of the key: the first to join. The floor, if it is absent:
    /// so many must join before a round opens in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<u32>,
    /// T, the holders needed to open, besides the authority; over c. More than half of them, and
    /// more than c, if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
}

const fn record() -> Unit {
    Unit::Record
}

const fn gaussian() -> Mechanism {
    Mechanism::Gaussian
}

const fn delta() -> f64 {
    1e-6
}

impl PrivacyTable {
    /// The manifest's table, of a job with this workload.
    ///
    /// # Errors
    /// [`Code::BadManifest`] with the setting that is wrong.
    pub(super) fn into_noise(self, workload: &Workload) -> Result<NoiseSpec, Refusal> {
        let bad = |why: String| Refusal::new(Code::BadManifest, format!("[privacy]: {why}"));
        let rounds = workload.charges();
        let fixed = match workload {
            Workload::Sum { .. } | Workload::Vertical(_) => None,
            Workload::Train(spec) => spec.steps.map(|steps| steps.clip),
            Workload::Tree(_) | Workload::Bayes(_) | Workload::Payments(_) => Some(1.0),
        };
        let clip = self.clip.or(fixed).ok_or_else(|| {
            bad("clip is missing: the norm to which one unit's contribution is clipped".to_owned())
        })?;
        let mut noise = NoiseSpec {
            unit: self.unit,
            mechanism: self.mechanism,
            multiplier: self.noise_multiplier.unwrap_or(1.0),
            clip,
            epsilon: self.epsilon,
            delta: self.delta,
            data_set: self.data_set,
        };
        if let Some(fault) = noise.fault() {
            return Err(bad(fault.to_owned()));
        }
        if self.noise_multiplier.is_none() {
            noise.multiplier = least_multiplier(&noise, rounds).ok_or_else(|| {
                bad(format!(
                    "no noise fits epsilon {} over {rounds} rounds at delta {:e}: raise epsilon or \
                     take fewer rounds",
                    noise.epsilon, noise.delta
                ))
            })?;
        }
        Ok(noise)
    }
}

/// The least noise multiplier, to a relative 10^-12, with which `rounds` rounds stay within epsilon.
fn least_multiplier(noise: &NoiseSpec, rounds: u32) -> Option<f64> {
    let fits = |multiplier: f64| {
        let noise = NoiseSpec { multiplier, ..noise.clone() };
        noise.epsilon_of(rounds) <= noise.epsilon
    };
    // The range that a manifest allows.
    let (mut low, mut high) = (1e-3f64, 1e9f64);
    if !fits(high) {
        return None;
    }
    if fits(low) {
        return Some(low);
    }
    while high / low > 1.0 + 1e-12 {
        let middle = libm::sqrt(low * high);
        if middle <= low || middle >= high {
            break;
        }
        if fits(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

impl ThresholdTable {
    /// N and T, of a job with this floor and number of colluders.
    pub(super) fn into_spec(self, floor: u32, colluders: u32) -> ThresholdSpec {
        let holders = self.holders.unwrap_or_else(|| floor.min(MAX_HOLDERS));
        let majority = (holders / 2).max(colluders).saturating_add(1);
        ThresholdSpec { holders, threshold: self.threshold.unwrap_or(majority) }
    }
}

/// The query of an authority's `GET /v1/budget`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetQuery {
    /// delta of the figures asked for.
    #[serde(default = "delta")]
    pub delta: f64,
}

/// Table `[tree]` of a [`JobSpec`](super::JobSpec): an ID3 decision tree grown from counts, one round
/// for each level of splits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeTable {
    /// The columns every party must have.
    pub schema: Schema,
    /// Levels of splits; at most the number of columns.
    pub depth: u32,
    /// Equal bins of a numeric column's declared range.
    #[serde(default = "bins")]
    pub bins: u32,
    /// Bound on the rows of one party.
    #[serde(default = "super::defaults::max_rows")]
    pub max_rows: u64,
    /// Most nodes of one level: those with most rows are kept.
    #[serde(default = "max_frontier")]
    pub max_frontier: u32,
    /// A node with fewer rows, as far as the counts tell, is a leaf.
    #[serde(default = "min_rows")]
    pub min_rows: u32,
    /// Counts up to this are read as 0 when splits are compared.
    #[serde(default)]
    pub ignored: u32,
}

/// Table `[bayes]` of a [`JobSpec`](super::JobSpec): naive Bayes, which is one sum of counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BayesTable {
    /// The columns every party must have.
    pub schema: Schema,
    /// Equal bins of a numeric column's declared range.
    #[serde(default = "bins")]
    pub bins: u32,
    /// Bound on the rows of one party.
    #[serde(default = "super::defaults::max_rows")]
    pub max_rows: u64,
    /// Rows added to every cell before its logarithm is taken.
    #[serde(default = "smoothing")]
    pub smoothing: u32,
}

const fn bins() -> u32 {
    8
}

const fn max_frontier() -> u32 {
    256
}

const fn min_rows() -> u32 {
    2
}

const fn smoothing() -> u32 {
    1
}

impl From<TreeTable> for Workload {
    fn from(table: TreeTable) -> Self {
        Self::Tree(TreeSpec {
            table: TableSpec { schema: table.schema, bins: table.bins, max_rows: table.max_rows },
            depth: table.depth,
            max_frontier: table.max_frontier,
            min_rows: table.min_rows,
            ignored: table.ignored,
        })
    }
}

impl From<BayesTable> for Workload {
    fn from(table: BayesTable) -> Self {
        Self::Bayes(BayesSpec {
            table: TableSpec { schema: table.schema, bins: table.bins, max_rows: table.max_rows },
            smoothing: table.smoothing,
        })
    }
}

impl From<TreeSpec> for TreeTable {
    fn from(spec: TreeSpec) -> Self {
        let TreeSpec { table, depth, max_frontier, min_rows, ignored } = spec;
        let TableSpec { schema, bins, max_rows } = table;
        Self { schema, depth, bins, max_rows, max_frontier, min_rows, ignored }
    }
}

impl From<BayesSpec> for BayesTable {
    fn from(spec: BayesSpec) -> Self {
        let TableSpec { schema, bins, max_rows } = spec.table;
        Self { schema, bins, max_rows, smoothing: spec.smoothing }
    }
}
