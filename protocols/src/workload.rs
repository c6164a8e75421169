//! What a job computes: the workload in its manifest, and the payload of every round.
//!
//! Everything here is part of the manifest's bytes, so two parties that agree on the manifest hash
//! agree on the columns, the model, the seed and the number of rounds. Real-valued settings are
//! encoded by their IEEE bits.

use std::collections::BTreeSet;

use quorate_crypto::fixed::{CodecError, FixedPoint};
use quorate_crypto::sum::Ring;
use serde::{Deserialize, Serialize};

use crate::payload::{PayloadKind, PayloadSpec};

/// Most columns of a schema.
pub const MAX_COLUMNS: usize = 16_384;
/// Most levels of one category, or classes of a target.
pub const MAX_LEVELS: usize = 4_096;
/// Most bytes of a column's, level's or class's name.
pub const MAX_NAME_BYTES: usize = 256;
/// Most coordinates of any payload.
pub const MAX_DIM: u64 = 1 << 27;
/// Most rounds of a job.
pub const MAX_ROUNDS: u32 = 100_000;
/// Most rows one party may declare.
pub const MAX_ROWS: u64 = 1 << 40;
/// Most units of a hidden layer.
pub const MAX_HIDDEN: u32 = 16_384;

/// The code of weights that suits every model here: about 7 decimals, and weights up to 64.
pub const DEFAULT_CODE: FixedPoint = FixedPoint { frac_bits: 24, clip: 64.0 };

/// What one secure sum is for; part of its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Row counts, sums and sums of squares of the numeric columns.
    Moments,
    /// Locally trained weights times row counts.
    Train,
    /// Plain vectors of integers.
    Sum,
}

/// What a job computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Sums of integer vectors supplied by the parties, one per round.
    Sum {
        /// Values per vector.
        dim: u64,
        /// Number of sums.
        rounds: u32,
        /// Bound on the magnitude of one party's value.
        max_abs: u64,
    },
    /// Federated averaging of a model on tabular data.
    Train(TrainSpec),
}

/// Federated averaging: round 0 opens the moments, rounds 1 to `rounds` open weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// The columns every party must have.
    pub schema: Schema,
    /// The model.
    pub model: ModelSpec,
    /// Rounds of weights, after the moments round.
    pub rounds: u32,
    /// What a party does with its rows in one round.
    pub local: LocalSpec,
    /// Bound on the rows of one party.
    pub max_rows: u64,
    /// Seed of the initial weights and of every shuffle.
    pub seed: u64,
}

/// The columns of a table, in the order of the features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Feature columns, found by name in a party's file.
    pub columns: Vec<Column>,
    /// Name of the target column.
    pub target: String,
    /// Values of the target; with two, the second is the positive class.
    pub classes: Vec<String>,
}

/// One feature column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name in the header.
    pub name: String,
    /// How its values become features.
    pub kind: ColumnKind,
}

/// How a column's values become features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// A number x, used as u = (x - offset) / 2^scale_log2 clipped to [-1, 1] and standardised by
    /// the shared moments of u: one feature.
    ///
    /// The declared range is what lets money amounts and fractions share one ring; it should reach
    /// a few hundred standard deviations at most.
    Numeric {
        /// Centre of the declared range.
        offset: f64,
        /// Half width of the declared range, as a power of two.
        scale_log2: i16,
    },
    /// One of these texts, or "other": one feature per level and one for "other", 0 or 1.
    Category {
        /// The known levels.
        levels: Vec<String>,
    },
}

/// The model trained.
///
/// With C outputs (1 for two classes, otherwise one per class) and F features, the parameters are,
/// in this order:
/// - logistic: C rows of F weights and a bias;
/// - mlp: H rows of F weights and a bias, then C rows of H weights and a bias.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelSpec {
    /// Logistic regression; softmax for more than two classes.
    Logistic {
        /// Weight of |w|^2 / 2 beside the mean log-loss; biases are free.
        l2: f64,
    },
    /// One hidden layer of rectified units.
    Mlp {
        /// Units of the hidden layer, H.
        hidden: u32,
        /// Weight of |w|^2 / 2 beside the mean log-loss; biases are free.
        l2: f64,
    },
}

impl ModelSpec {
    /// Logistic regression with the penalty of the pooled reference.
    pub const LOGISTIC: Self = Self::Logistic { l2: 1e-3 };
}

/// What a party does with its rows in one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalSpec {
    /// Passes over the rows.
    pub epochs: u32,
    /// Rows per step; 0 for all rows.
    pub batch: u32,
    /// Step size.
    pub learning_rate: f64,
    /// FedProx: weight of |w - w_shared|^2 / 2; 0 for plain federated averaging.
    pub prox_mu: f64,
}

/// Why a workload was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A count or size outside its bounds.
    #[error("{what} is {got}, allowed are {min} to {max}")]
    Bounds {
        /// Which one.
        what: &'static str,
        /// The value given.
        got: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A real setting that is not finite or outside its domain.
    #[error("{0} is not a number in its allowed range")]
    Real(&'static str),
    /// A name that is empty where it must not be, too long, or with control characters.
    #[error("{0} has an empty, too long or unprintable name")]
    Name(&'static str),
    /// The same name twice.
    #[error("{what} {name:?} appears twice")]
    Repeated {
        /// Column, level or class.
        what: &'static str,
        /// The name.
        name: String,
    },
}

impl Workload {
    /// Number of secure sums, the moments round included.
    #[must_use]
    pub const fn rounds(&self) -> u32 {
        match self {
            Self::Sum { rounds, .. } => *rounds,
            Self::Train(spec) => spec.rounds.saturating_add(1),
        }
    }

    /// What round `round` is for, or `None` after the last.
    #[must_use]
    pub const fn purpose(&self, round: u32) -> Option<Purpose> {
        if round >= self.rounds() {
            return None;
        }
        Some(match self {
            Self::Sum { .. } => Purpose::Sum,
            Self::Train(_) if round == 0 => Purpose::Moments,
            Self::Train(_) => Purpose::Train,
        })
    }

    /// The payload of round `round`, or `None` after the last.
    #[must_use]
    pub fn payload(&self, round: u32) -> Option<PayloadSpec> {
        self.purpose(round)?;
        let kind = match self {
            Self::Sum { dim, max_abs, .. } => PayloadKind::Vector { len: *dim, max_abs: *max_abs },
            Self::Train(spec) if round == 0 => {
                PayloadKind::Moments { columns: spec.schema.numeric_columns() }
            }
            Self::Train(spec) => PayloadKind::Weights { params: spec.params() },
        };
        Some(PayloadSpec { kind })
    }

    /// Bound on the rows one party reports: a party of a plain sum counts as one row.
    #[must_use]
    pub const fn max_rows(&self) -> u64 {
        match self {
            Self::Sum { .. } => 1,
            Self::Train(spec) => spec.max_rows,
        }
    }

    /// Refuses a ring in which a sum over `parties` parties could wrap in any round.
    ///
    /// # Errors
    /// [`CodecError::Overflow`] with the bits that are missing, or [`CodecError::BadCode`].
    pub fn check_ring(
        &self,
        ring: Ring,
        parties: u64,
        code: &FixedPoint,
    ) -> Result<(), CodecError> {
        // Rounds differ only in the first.
        [0, 1]
            .into_iter()
            .filter_map(|round| self.payload(round))
            .try_for_each(|payload| payload.check_ring(ring, parties, code, self.max_rows()))
    }

    /// Refuses anything out of bounds, so that later code need not check again.
    ///
    /// # Errors
    /// [`WorkloadError`] naming the first offending setting.
    pub fn check(&self) -> Result<(), WorkloadError> {
        match self {
            Self::Sum { dim, rounds, max_abs } => {
                within("dim", *dim, 1, MAX_DIM)?;
                within("rounds", u64::from(*rounds), 1, u64::from(MAX_ROUNDS))?;
                within("max_abs", *max_abs, 1, i64::MAX.unsigned_abs())
            }
            Self::Train(spec) => spec.check(),
        }
    }
}

impl TrainSpec {
    /// The settings that were found to suit tables of a hundred to a hundred thousand rows.
    ///
    /// Logistic models take three accelerated steps over all rows per round with a weak proximal
    /// term, which keeps parties of a few dozen rows from running off; with very many features,
    /// and for hidden layers, mini-batches instead.
    #[must_use]
    pub fn default_for(schema: Schema, model: ModelSpec) -> Self {
        let full = LocalSpec { epochs: 3, batch: 0, learning_rate: 1.0, prox_mu: 0.03 };
        let wide = LocalSpec { epochs: 2, batch: 32, learning_rate: 0.002, prox_mu: 0.0 };
        let deep = LocalSpec { epochs: 2, batch: 32, learning_rate: 0.02, prox_mu: 0.0 };
        let local = match model {
            ModelSpec::Logistic { .. } if schema.features() <= 400 => full,
            ModelSpec::Mlp { .. } if schema.features() <= 400 => deep,
            ModelSpec::Logistic { .. } | ModelSpec::Mlp { .. } => wide,
        };
        Self { schema, model, rounds: 15, local, max_rows: 100_000, seed: 1 }
    }

    /// Outputs C: one for two classes, otherwise one per class.
    #[must_use]
    pub fn outputs(&self) -> u64 {
        if self.schema.classes.len() <= 2 { 1 } else { self.schema.classes.len() as u64 }
    }

    /// Parameters of the model, laid out as [`ModelSpec`] says.
    #[must_use]
    pub fn params(&self) -> u64 {
        let inputs = self.schema.features().saturating_add(1);
        match self.model {
            ModelSpec::Logistic { .. } => self.outputs().saturating_mul(inputs),
            ModelSpec::Mlp { hidden, .. } => {
                let hidden = u64::from(hidden);
                let second = self.outputs().saturating_mul(hidden.saturating_add(1));
                hidden.saturating_mul(inputs).saturating_add(second)
            }
        }
    }

    /// Weight of the penalty.
    #[must_use]
    pub const fn l2(&self) -> f64 {
        match self.model {
            ModelSpec::Logistic { l2 } | ModelSpec::Mlp { l2, .. } => l2,
        }
    }

    fn check(&self) -> Result<(), WorkloadError> {
        self.schema.check()?;
        if let ModelSpec::Mlp { hidden, .. } = self.model {
            within("hidden", u64::from(hidden), 1, u64::from(MAX_HIDDEN))?;
        }
        within("rounds", u64::from(self.rounds), 1, u64::from(MAX_ROUNDS - 1))?;
        within("max_rows", self.max_rows, 1, MAX_ROWS)?;
        within("local.epochs", u64::from(self.local.epochs), 1, 10_000)?;
        real("l2", self.l2(), 0.0, 1e6)?;
        real("local.learning_rate", self.local.learning_rate, f64::MIN_POSITIVE, 1e3)?;
        real("local.prox_mu", self.local.prox_mu, 0.0, 1e6)?;
        let dim = PayloadSpec { kind: PayloadKind::Weights { params: self.params() } }.dim();
        within("parameters", dim, 1, MAX_DIM)
    }
}

impl Schema {
    /// Features F: one per numeric column, levels + 1 per category.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.columns
            .iter()
            .map(|column| match &column.kind {
                ColumnKind::Numeric { .. } => 1,
                ColumnKind::Category { levels } => levels.len() as u64 + 1,
            })
            .sum()
    }

    /// Number of numeric columns.
    #[must_use]
    pub fn numeric_columns(&self) -> u64 {
        self.columns.iter().filter(|c| matches!(c.kind, ColumnKind::Numeric { .. })).count() as u64
    }

    fn check(&self) -> Result<(), WorkloadError> {
        within("columns", self.columns.len() as u64, 1, MAX_COLUMNS as u64)?;
        within("classes", self.classes.len() as u64, 2, MAX_LEVELS as u64)?;
        let names = self.columns.iter().map(|column| &column.name).chain([&self.target]);
        distinct("column", names)?;
        distinct("class", self.classes.iter())?;
        if self.target.is_empty() || self.columns.iter().any(|column| column.name.is_empty()) {
            return Err(WorkloadError::Name("column"));
        }
        for column in &self.columns {
            match &column.kind {
                ColumnKind::Numeric { offset, scale_log2 } => {
                    real("offset", *offset, f64::MIN, f64::MAX)?;
                    if !(-900..=900).contains(scale_log2) {
                        return Err(WorkloadError::Real("scale_log2"));
                    }
                }
                ColumnKind::Category { levels } => {
                    within("levels", levels.len() as u64, 1, MAX_LEVELS as u64)?;
                    distinct("level", levels.iter())?;
                }
            }
        }
        Ok(())
    }
}

fn within(what: &'static str, got: u64, min: u64, max: u64) -> Result<(), WorkloadError> {
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(WorkloadError::Bounds { what, got, min, max })
    }
}

fn real(what: &'static str, got: f64, min: f64, max: f64) -> Result<(), WorkloadError> {
    // NaN is in no range.
    if (min..=max).contains(&got) { Ok(()) } else { Err(WorkloadError::Real(what)) }
}

fn distinct<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), WorkloadError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
            return Err(WorkloadError::Name(what));
        }
        if !seen.insert(name) {
            return Err(WorkloadError::Repeated { what, name: name.clone() });
        }
    }
    Ok(())
}
