//! The plaintext twin: the same training with plain sums, to check a federated run bit for bit.
//!
//! It gets what an auditor gets, the manifest's workload, the data and the recorded frozen sets,
//! trains again, and never reads an update or an opened sum.

use std::collections::BTreeMap;

use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::merkle::Hash;
use quorate_protocols::model::{ModelError, ModelState};
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::workload::Workload;

use super::LearnError;
use super::data::Dataset;
use super::train::contribution;

/// The frozen set of one opened attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenSet {
    /// Round.
    pub round: u32,
    /// The attempt that was opened; recorded for the reader, the model does not depend on it.
    pub attempt: u32,
    /// Names of the members.
    pub members: Vec<String>,
}

/// Retrains over the recorded sets and returns the final state.
///
/// # Errors
/// [`LearnError`] when a set is of an unknown party or out of order, or training fails.
pub fn replay(
    workload: &Workload,
    code: &FixedPoint,
    job: &Hash,
    frozen_sets: &[FrozenSet],
    datasets: &BTreeMap<String, Dataset>,
) -> Result<ModelState, LearnError> {
    let mut state = ModelState::initial(workload, code, job);
    for (expected, set) in (0..).zip(frozen_sets) {
        if set.round != expected {
            return Err(LearnError::Round(set.round));
        }
        let sum = plain_sum(workload, code, &state, set, datasets)?;
        state = state.advance(workload, set.round, &sum)?;
    }
    Ok(state)
}

/// The sum of the members' contributions, in plain 128-bit integers.
///
/// # Errors
/// [`LearnError`] when a member is unknown or training fails.
pub fn plain_sum(
    workload: &Workload,
    code: &FixedPoint,
    state: &ModelState,
    set: &FrozenSet,
    datasets: &BTreeMap<String, Dataset>,
) -> Result<OpenedSum, LearnError> {
    let mut rows = 0u64;
    let mut body: Vec<i128> = Vec::new();
    for member in &set.members {
        let data = datasets.get(member).ok_or_else(|| LearnError::UnknownParty(member.clone()))?;
        let (count, values) = contribution(workload, code, state, data, member, set.round)?;
        rows += count;
        body.resize(values.len(), 0);
        body.iter_mut().zip(&values).for_each(|(sum, value)| *sum += i128::from(*value));
    }
    let body = body
        .into_iter()
        .map(|sum| i64::try_from(sum).map_err(|_| ModelError::NotASum))
        .collect::<Result<_, _>>()?;
    Ok(OpenedSum { rows, body })
}
