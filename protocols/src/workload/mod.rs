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
use crate::policy::Unit;

mod payments;
mod schema;
mod table;
mod train;
mod vertical;

pub use payments::{MAX_CLASS_BITS, MAX_PAYMENTS, MAX_QUERIED, PART_ROWS, PvSpec, QueryLimits};
pub use schema::{Column, ColumnKind, Schema};
pub use table::{BayesSpec, MAX_BINS, MAX_DEPTH, MAX_FRONTIER, TableSpec, TreeSpec};
pub use train::{LocalSpec, MAX_CLIP, MAX_STEP_ROWS, MIN_CLIP, ModelSpec, StepSpec, TrainSpec};
pub use vertical::{
    BATCH_PER_FEATURE, Block, LabelPrivacy, MAX_BATCH, MAX_BLOCKS, MAX_OUTPUTS,
    MAX_VERTICAL_FEATURES, MAX_VERTICAL_ROWS, TargetKind, VerticalModel, VerticalSpec,
};

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
    /// Clipped gradients, or clipped changes of weights.
    Steps,
    /// Rows in the cells of a table.
    Counts,
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
    /// Federated averaging or gradient steps of a model on tabular data.
    Train(TrainSpec),
    /// An ID3 decision tree, grown by one round of counts per level.
    Tree(TreeSpec),
    /// Naive Bayes: one round of counts.
    Bayes(BayesSpec),
    /// A linear model over columns that different parties hold; it has batches instead of rounds.
    Vertical(VerticalSpec),
    /// A forest of a payment network and its banks; it has model versions and queries.
    Payments(PvSpec),
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
    /// Parties that are not as the workload needs them.
    #[error("{0}")]
    Parties(&'static str),
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
            Self::Train(spec) if spec.steps.is_some() => spec.rounds,
            Self::Train(spec) => spec.rounds.saturating_add(1),
            Self::Tree(spec) => spec.depth,
            Self::Bayes(_) => 1,
            Self::Vertical(_) | Self::Payments(_) => 0,
        }
    }

    /// Openings that noise is charged for: rounds, or model versions.
    #[must_use]
    pub const fn charges(&self) -> u32 {
        match self {
            Self::Payments(spec) => spec.versions,
            _ => self.rounds(),
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
            Self::Train(spec) if spec.steps.is_some() => Purpose::Steps,
            Self::Train(_) if round == 0 => Purpose::Moments,
            Self::Train(_) => Purpose::Train,
            Self::Tree(_) | Self::Bayes(_) => Purpose::Counts,
            Self::Vertical(_) | Self::Payments(_) => return None,
        })
    }

    /// The payload of round `round` of a job without noise, or `None` after the last.
    #[must_use]
    pub fn payload(&self, round: u32) -> Option<PayloadSpec> {
        self.purpose(round)?;
        let kind = match self {
            Self::Sum { dim, max_abs, .. } => PayloadKind::Vector { len: *dim, max_abs: *max_abs },
            Self::Train(spec) => match &spec.steps {
                Some(steps) => {
                    PayloadKind::Rotated { values: spec.params() + 1, unit: steps.unit_bound() }
                }
                None if round == 0 => {
                    PayloadKind::Moments { columns: spec.schema.numeric_columns() }
                }
                None => PayloadKind::Weights { params: spec.params() },
            },
            Self::Tree(spec) => PayloadKind::Counts { cells: spec.cells(round) },
            Self::Bayes(spec) => PayloadKind::Counts { cells: spec.table.cells() },
            Self::Vertical(_) | Self::Payments(_) => return None,
        };
        Some(PayloadSpec::exact(kind))
    }

    /// The first of each run of rounds with payloads alike.
    #[must_use]
    pub fn distinct_rounds(&self) -> Vec<u32> {
        match self {
            Self::Sum { .. } | Self::Bayes(_) | Self::Vertical(_) | Self::Payments(_) => vec![0],
            Self::Train(_) => vec![0, 1],
            Self::Tree(spec) => (0..spec.depth).collect(),
        }
        .into_iter()
        .filter(|round| *round < self.rounds())
        .collect()
    }

    /// Whether a model state follows from all sums before it, not from the first and last alone.
    #[must_use]
    pub const fn needs_every_sum(&self) -> bool {
        match self {
            Self::Sum { .. } | Self::Bayes(_) | Self::Vertical(_) | Self::Payments(_) => false,
            Self::Train(spec) => spec.steps.is_some(),
            Self::Tree(_) => true,
        }
    }

    /// The columns of the tables, where all parties have the same.
    #[must_use]
    pub const fn schema(&self) -> Option<&Schema> {
        match self {
            Self::Sum { .. } | Self::Vertical(_) | Self::Payments(_) => None,
            Self::Train(spec) => Some(&spec.schema),
            Self::Tree(spec) => Some(&spec.table.schema),
            Self::Bayes(spec) => Some(&spec.table.schema),
        }
    }

    /// Bound on the rows behind one party's contribution: a party of a plain sum, or one that sends
    /// a clipped change of weights, counts as one row.
    #[must_use]
    pub const fn max_rows(&self) -> u64 {
        match self {
            Self::Sum { .. } => 1,
            Self::Train(spec) => match &spec.steps {
                Some(StepSpec { unit: Unit::Party, .. }) => 1,
                _ => spec.max_rows,
            },
            Self::Tree(spec) => spec.table.max_rows,
            Self::Bayes(spec) => spec.table.max_rows,
            Self::Vertical(spec) => spec.max_rows,
            Self::Payments(spec) => spec.max_rows,
        }
    }

    /// Refuses a ring in which an exact sum over `parties` parties could wrap in any round.
    ///
    /// # Errors
    /// [`CodecError::Overflow`] with the bits that are missing, or [`CodecError::BadCode`].
    pub fn check_ring(
        &self,
        ring: Ring,
        parties: u64,
        code: &FixedPoint,
    ) -> Result<(), CodecError> {
        self.distinct_rounds()
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
            Self::Tree(spec) => spec.check(),
            Self::Bayes(spec) => spec.check(),
            Self::Vertical(spec) => spec.check(),
            Self::Payments(spec) => spec.check(),
        }
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
