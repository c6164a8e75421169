//! What a party contributes to a round: the hook that local training plugs into.

use quorate_protocols::job::Manifest;
use quorate_protocols::model::ModelState;
use quorate_protocols::workload::Workload;
use zeroize::Zeroize;

/// One party's private input to one round, wiped when dropped.
pub struct Contribution {
    /// Rows behind it; 1 for plain sums.
    pub rows: u64,
    /// The payload's body: see [`PayloadKind`](quorate_protocols::payload::PayloadKind).
    pub body: Vec<i64>,
}

impl Drop for Contribution {
    fn drop(&mut self) {
        self.body.zeroize();
    }
}

/// Computes a party's contributions; runs on a thread of its own and may take its time.
///
/// After a crash a round's contribution may be asked for again; once it is stored, never.
pub trait LocalTraining: Send {
    /// The contribution to round `round`, starting from `state`.
    ///
    /// # Errors
    /// Whatever keeps this party from contributing; the run ends with it.
    fn contribution(
        &mut self,
        job: &Manifest,
        round: u32,
        state: &ModelState,
    ) -> anyhow::Result<Contribution>;
}

/// Vectors for a job of plain sums, from a closure that is given the round.
pub struct Vectors<F>(pub F);

impl<F: FnMut(u32) -> anyhow::Result<Vec<i64>> + Send> LocalTraining for Vectors<F> {
    fn contribution(
        &mut self,
        job: &Manifest,
        round: u32,
        _: &ModelState,
    ) -> anyhow::Result<Contribution> {
        if !matches!(job.workload, Workload::Sum { .. }) {
            anyhow::bail!("this job trains a model; vectors belong to jobs of plain sums");
        }
        Ok(Contribution { rows: 1, body: (self.0)(round)? })
    }
}
