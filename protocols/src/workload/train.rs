//! Models trained by averaging weights, or by steps along sums of clipped vectors.

use serde::{Deserialize, Serialize};

use super::{MAX_DIM, MAX_HIDDEN, MAX_ROUNDS, MAX_ROWS, Schema, WorkloadError, real, within};
use crate::payload::{PayloadKind, PayloadSpec};
use crate::policy::Unit;

/// Training of a model on tabular data.
///
/// Federated averaging: round 0 opens the moments, rounds 1 to `rounds` open weights. With
/// [`TrainSpec::steps`]: `rounds` sums of clipped vectors; there is no moments round, the features
/// are the declared ranges' u as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// The columns every party must have.
    pub schema: Schema,
    /// The model.
    pub model: ModelSpec,
    /// Rounds of weights, after the moments round, or of steps.
    pub rounds: u32,
    /// What a party does with its rows in one round; not used by steps along gradients of records.
    pub local: LocalSpec,
    /// Steps along sums of clipped vectors, instead of averages.
    pub steps: Option<StepSpec>,
    /// Bound on the rows of one party.
    pub max_rows: u64,
    /// Seed of the initial weights and of every shuffle.
    pub seed: u64,
}

/// The model trained.
///
/// With C outputs (1 for two classes, otherwise one per class) and F features, the parameters are,
/// in this order:
/// - logistic and svm: C rows of F weights and a bias;
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
    /// Linear support vector machine, by the hinge loss; one against the rest for more than two
    /// classes.
    Svm {
        /// Weight of |w|^2 / 2 beside the mean loss; biases are free.
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
            ModelSpec::Mlp { .. } | ModelSpec::Svm { .. } if schema.features() <= 400 => deep,
            ModelSpec::Logistic { .. } | ModelSpec::Mlp { .. } | ModelSpec::Svm { .. } => wide,
        };
        Self { schema, model, rounds: 15, local, steps: None, max_rows: 100_000, seed: 1 }
    }

    /// The settings that were found to suit steps along clipped gradients of records, with noise.
    #[must_use]
    pub fn steps_for(schema: Schema, model: ModelSpec) -> Self {
        let (clip, learning_rate, momentum) = match model {
            ModelSpec::Logistic { .. } => (1.0, 4.0, 0.5),
            ModelSpec::Svm { .. } => (1.0, 2.0, 0.8),
            ModelSpec::Mlp { .. } => (0.5, 10.0, 0.8),
        };
        let steps = StepSpec { unit: Unit::Record, clip, learning_rate, momentum };
        let spec = Self::default_for(schema, model);
        Self { rounds: 30, steps: Some(steps), ..spec }
    }

    /// Outputs C: one for two classes, otherwise one per class.
    #[must_use]
    pub fn outputs(&self) -> u64 {
        if self.schema.classes.len() <= 2 { 1 } else { self.schema.classes.len() as u64 }
    }

    /// Inputs and outputs of every layer; each output has a weight per input, then a bias.
    #[must_use]
    pub fn layers(&self) -> Vec<(u64, u64)> {
        let features = self.schema.features();
        match self.model {
            ModelSpec::Logistic { .. } | ModelSpec::Svm { .. } => vec![(features, self.outputs())],
            ModelSpec::Mlp { hidden, .. } => {
                let hidden = u64::from(hidden);
                vec![(features, hidden), (hidden, self.outputs())]
            }
        }
    }

    /// Parameters of the model, laid out as [`ModelSpec`] says.
    #[must_use]
    pub fn params(&self) -> u64 {
        self.layers().iter().fold(0, |sum: u64, (inputs, outputs)| {
            sum.saturating_add(outputs.saturating_mul(inputs.saturating_add(1)))
        })
    }

    /// Weight of the penalty.
    #[must_use]
    pub const fn l2(&self) -> f64 {
        match self.model {
            ModelSpec::Logistic { l2 } | ModelSpec::Mlp { l2, .. } | ModelSpec::Svm { l2 } => l2,
        }
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
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
        let kind = match &self.steps {
            None => PayloadKind::Weights { params: self.params() },
            Some(steps) => {
                steps.check()?;
                within("max_rows", self.max_rows, 1, MAX_STEP_ROWS)?;
                PayloadKind::Rotated {
                    values: self.params().saturating_add(1),
                    unit: steps.unit_bound(),
                }
            }
        };
        within("parameters", PayloadSpec::exact(kind).dim(), 1, MAX_DIM)
    }
}

/// Most rows of one party whose clipped gradients are summed.
pub const MAX_STEP_ROWS: u64 = 1 << 25;
/// Least clip of steps.
pub const MIN_CLIP: f64 = 1e-4;
/// Largest clip of steps.
pub const MAX_CLIP: f64 = 100.0;

/// Steps along sums of clipped vectors.
///
/// Every unit contributes a vector of L2 norm at most `clip`: first a gradient or a change of
/// weights, then clip / 8, which counts the unit. The sum is rotated and rounded: see
/// [`PayloadKind::Rotated`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Record: the vector is the gradient of a record's loss. Party: it is the change of the weights
    /// by a party's local training.
    pub unit: Unit,
    /// Bound on the L2 norm of one unit's vector.
    pub clip: f64,
    /// Step size; 1 for changes of weights.
    pub learning_rate: f64,
    /// Share of the last step that the next one keeps, below 1.
    pub momentum: f64,
}

impl StepSpec {
    /// The clip is this many times what counts a unit.
    pub const COUNT_SHARE: u32 = 8;

    /// Fractional bits s of a rotated coordinate: clip x 2^s is within 128 to 256, so that rounding
    /// raises the sensitivity by less than 1 %.
    #[must_use]
    pub fn shift(&self) -> i32 {
        7i32.saturating_sub(floor_log2(self.clip)).max(0)
    }

    /// Magnitude that one unit adds to a rotated coordinate, up to an event of probability below
    /// 2^-57: 9 x clip x 2^shift. A party clamps what exceeds it.
    #[must_use]
    pub fn unit_bound(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 9 x 256 for a clip in bounds, and a float cast saturates"
        )]
        ((9.0 * self.clip * 2f64.powi(self.shift())).ceil() as u64 + 1)
    }

    fn check(&self) -> Result<(), WorkloadError> {
        real("steps.clip", self.clip, MIN_CLIP, MAX_CLIP)?;
        real("steps.learning_rate", self.learning_rate, 1e-6, 1e3)?;
        real("steps.momentum", self.momentum, 0.0, 0.999)
    }
}

/// floor(log2 x) of a positive normal number.
fn floor_log2(x: f64) -> i32 {
    // The exponent field; the mask keeps it below 2^11.
    i32::try_from((x.to_bits() >> 52) & 0x7ff).unwrap_or(0) - 1023
}
