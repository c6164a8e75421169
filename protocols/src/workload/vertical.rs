//! Training over columns that different parties hold: who holds which, and the linear model over all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Column, MAX_NAME_BYTES, Schema, WorkloadError, distinct, real, within};
use crate::wire::{MAX_MESSAGE_BYTES, Name};

/// Most parties of a vertical job.
pub const MAX_BLOCKS: usize = 64;
/// Most outputs of a vertical model.
pub const MAX_OUTPUTS: usize = 64;
/// Most features of all blocks together: sums of products of fixed-point numbers then stay within
/// 63 bits.
pub const MAX_VERTICAL_FEATURES: u64 = 1 << 14;
/// Most rows of one batch.
pub const MAX_BATCH: u32 = 1 << 14;
/// Rows of a batch per feature of a passive party, at least: a party that knows its own gradient has
/// `f` equations for `s` residuals.
pub const BATCH_PER_FEATURE: u64 = 4;
/// Most rows of a vertical job.
pub const MAX_VERTICAL_ROWS: u64 = 1 << 27;

/// The columns of one party.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Who holds them.
    pub party: Name,
    /// Its feature columns; the label holder may have none.
    pub columns: Vec<Column>,
}

impl Block {
    /// Features of these columns.
    #[must_use]
    pub fn features(&self) -> u64 {
        Schema::features_of(&self.columns)
    }
}

/// What the label holder's target column holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// A number y, which enters as (y - offset) / scale. Both are public: computed from the labels they
    /// would tell of them what no noise hides.
    Real {
        /// About the mean.
        offset: f64,
        /// About the standard deviation.
        scale: f64,
    },
    /// One of these texts; with two, the second is the positive class.
    Classes(Vec<String>),
}

/// How labels are kept from the passive parties, which could work them out of their own gradients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelPrivacy {
    /// The label holder adds discrete Gaussian noise to every residual: a label that changes moves
    /// what the passive parties see, in all epochs together, by epsilon at most.
    Noise {
        /// epsilon of one label over the whole job, by zCDP.
        epsilon: f64,
        /// delta of that epsilon.
        delta: f64,
    },
    /// No noise.
    Visible,
}

/// The model over all blocks together: one weight per feature and output, and a bias per output at
/// the label holder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerticalModel {
    /// Least squares on the scaled target; on classes, 1 for a row's own class and -1 for others.
    Linear,
    /// Logistic regression; one against the rest for more than two classes.
    Logistic {
        /// The published form's second-order approximation of the loss instead of the sigmoid.
        taylor: bool,
    },
    /// Multinomial logistic regression: the softmax over one output per class, for more than two.
    Softmax,
    /// Linear support vector machine by the hinge loss; one against the rest for more than two
    /// classes.
    Svm,
}

/// A vertical training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerticalSpec {
    /// One block per party, sorted by party.
    pub blocks: Vec<Block>,
    /// The party that holds the target: one of the blocks'.
    pub holder: Name,
    /// Name of the target column; rows where it is empty are scored, not trained on.
    pub target: String,
    /// What it holds.
    pub target_kind: TargetKind,
    /// The columns that identify a row, in every party's file.
    pub identifiers: Vec<String>,
    /// The model.
    pub model: VerticalModel,
    /// Weight of |w|^2 / 2 beside the mean loss; biases are free.
    #[serde(default)]
    pub l2: f64,
    /// Weight of the groups' norms beside the mean loss; columns whose weights it brings to zero are
    /// dropped. 0 keeps all.
    #[serde(default)]
    pub selection: f64,
    /// Passes over the rows.
    pub epochs: u32,
    /// s, rows of a batch.
    pub batch: u32,
    /// Step size.
    pub learning_rate: f64,
    /// Share of the last step that the next one keeps, below 1.
    pub momentum: f64,
    /// How labels are kept from the passive parties.
    #[serde(default = "default_labels")]
    pub labels: LabelPrivacy,
    /// Whether a passive party uploads its features once, for all batches, and then only scores and fresh
    /// masks. It saves the columns of wide parties; authorities then see which rows a batch holds.
    #[serde(default)]
    pub static_features: bool,
    /// Whether epochs may differ in fewer than k_min + c passive parties. The summed scores of a row in
    /// two such epochs differ by little more than these parties' own. Without it a job waits for who is
    /// missing.
    #[serde(default)]
    pub lone_changes: bool,
    /// Bound on the rows of one party's file.
    pub max_rows: u64,
}

/// Noise that hides a label within epsilon 4.
const fn default_labels() -> LabelPrivacy {
    LabelPrivacy::Noise { epsilon: 4.0, delta: 1e-5 }
}

impl VerticalSpec {
    /// C: one output for numbers and two classes, otherwise one per class.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match &self.target_kind {
            TargetKind::Classes(classes) if classes.len() > 2 => classes.len(),
            _ => 1,
        }
    }

    /// The block of a party.
    #[must_use]
    pub fn block(&self, party: &Name) -> Option<&Block> {
        self.blocks.iter().find(|block| block.party == *party)
    }

    /// The parties without the target, in order.
    pub fn passive(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.party != self.holder)
    }

    /// Features of all blocks.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.blocks.iter().map(Block::features).sum()
    }

    /// Whether what is sealed for a batch, all parts of which one look may show, and one bit per row fit
    /// a control message, with room for envelopes.
    #[must_use]
    pub fn fits_messages(&self, authorities: usize) -> bool {
        let most = MAX_MESSAGE_BYTES as u64 * 5 / 8;
        let outputs = self.outputs() as u64;
        let passive = self.blocks.len().saturating_sub(1) as u64;
        let authorities = authorities as u64;
        let scores = u64::from(self.batch).saturating_mul(outputs).saturating_mul(8);
        let products = self.features().saturating_mul(outputs).saturating_mul(8);
        let asked = scores.saturating_mul(passive).saturating_add(u64::from(self.batch) * 8);
        let shown = scores.saturating_add(products).saturating_mul(authorities);
        asked.max(shown).max(self.max_rows.div_ceil(8)) <= most
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        within("blocks", self.blocks.len() as u64, 3, MAX_BLOCKS as u64)?;
        if !self.blocks.is_sorted_by(|a, b| a.party < b.party) {
            return Err(WorkloadError::Name("a block out of order"));
        }
        if self.block(&self.holder).is_none() {
            return Err(WorkloadError::Name("the label holder without a block"));
        }
        within("identifiers", self.identifiers.len() as u64, 1, 16)?;
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let own = self.identifiers.iter().chain([&self.target]);
        for name in own {
            if name.is_empty() || name.len() > MAX_NAME_BYTES || !names.insert(name) {
                return Err(WorkloadError::Name("an identifier or target"));
            }
        }
        for block in &self.blocks {
            let least = u64::from(block.party != self.holder);
            within("features of a block", block.features(), least, MAX_VERTICAL_FEATURES)?;
            Schema::check_columns(&block.columns)?;
            if block.columns.iter().any(|column| names.contains(column.name.as_str())) {
                return Err(WorkloadError::Name("a column that is an identifier or the target"));
            }
        }
        within("features", self.features(), 1, MAX_VERTICAL_FEATURES)?;
        if let TargetKind::Classes(classes) = &self.target_kind {
            within("classes", classes.len() as u64, 2, MAX_OUTPUTS as u64)?;
            distinct("class", classes.iter())?;
        }
        if matches!(self.model, VerticalModel::Softmax) && self.outputs() < 3 {
            return Err(WorkloadError::Real("softmax takes more than two classes:"));
        }
        if let TargetKind::Real { offset, scale } = self.target_kind {
            real("target_kind.offset", offset, -1e15, 1e15)?;
            real("target_kind.scale", scale, 1e-15, 1e15)?;
            if !matches!(self.model, VerticalModel::Linear) {
                return Err(WorkloadError::Real(
                    "a real target takes a linear model, the others classes:",
                ));
            }
        }
        real("l2", self.l2, 0.0, 1e6)?;
        real("selection", self.selection, 0.0, 1e6)?;
        if self.static_features && self.selection > 0.0 {
            return Err(WorkloadError::Real(
                "static_features sends all columns, so set selection to 0:",
            ));
        }
        within("epochs", u64::from(self.epochs), 1, 10_000)?;
        within("batch", u64::from(self.batch), 1, u64::from(MAX_BATCH))?;
        let widest = self.passive().map(Block::features).max().unwrap_or(0);
        within(
            "batch (at least 4 rows per feature of a passive party)",
            u64::from(self.batch),
            BATCH_PER_FEATURE * widest,
            u64::from(MAX_BATCH),
        )?;
        real("learning_rate", self.learning_rate, 1e-6, 1e3)?;
        real("momentum", self.momentum, 0.0, 0.999)?;
        if let LabelPrivacy::Noise { epsilon, delta } = self.labels {
            real("labels.epsilon", epsilon, 1e-3, 1e3)?;
            real("labels.delta", delta, 1e-12, 1e-3)?;
        }
        within("max_rows", self.max_rows, 1, MAX_VERTICAL_ROWS)
    }
}
