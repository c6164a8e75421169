//! Built-in models for parties that have only a CSV file: logistic regression and a small neural
//! network, trained reproducibly bit for bit.
//!
//! Every real-number operation is one of +, -, x, / and the square root, in an order fixed by the
//! data, or an exponential or logarithm of one pure-Rust library. So the same rows, model state,
//! seed and round give the same update on every machine and at every optimisation level, which is
//! what lets [`twin::replay`] check a whole training run without reading an update.

pub mod counts;
pub mod data;
pub mod features;
pub mod metrics;
pub mod model;
pub mod pooled;
pub mod split;
pub mod steps;
pub mod sweep;
pub mod train;
pub mod twin;

#[cfg(test)]
mod tests;

use quorate_crypto::fixed::CodecError;
use quorate_protocols::model::ModelError;
use quorate_protocols::payload::PayloadError;
use quorate_protocols::workload::WorkloadError;

/// Why loading, training or scoring failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a table.
    #[error("not a readable CSV table: {0}")]
    Csv(#[from] csv::Error),
    /// The table does not fit the schema, or no schema fits the table.
    #[error("{0}")]
    Data(String),
    /// The workload is not one of training, or has no such round.
    #[error("the workload has no round {0} of this kind")]
    Round(u32),
    /// The model state does not belong to the workload.
    #[error("the model state does not fit the workload")]
    State,
    /// Local training left the real numbers: the learning rate is too high for this data.
    #[error("training diverged: parameter {0} is not a finite number")]
    Diverged(usize),
    /// A party named in a frozen set has no data here.
    #[error("no data for party {0:?}")]
    UnknownParty(String),
    /// The workload is out of bounds.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The sum does not fit.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A contribution does not fit its payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// An opened sum does not lead to a next state.
    #[error(transparent)]
    Model(#[from] ModelError),
}
