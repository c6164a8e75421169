//! What a party contributes to a round: the hook that local training plugs into.

use std::path::PathBuf;

use anyhow::Context as _;
use quorate_protocols::job::Manifest;
use quorate_protocols::model::ModelState;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{Schema, Workload};

pub use quorate_protocols::payload::Contribution;

use crate::learn::data::{Dataset, Table};
use crate::learn::train;

/// Computes a party's exact contributions, to which the driver adds the noise of the job; runs on a
/// thread of its own and may take its time.
///
/// After a crash a round's contribution may be asked for again; once it is stored, never. A
/// contribution to a job may not repeat an earlier one to the bit: with that of a trained model the
/// party sits the round out, with that of a plain sum its run ends.
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

/// Contributes a CSV file: rows of a table to a job that trains, vectors to a job of plain sums.
///
/// For training, the file has a header with the schema's columns and the target. For sums, it has
/// no header, and line r holds the integers of round r. The file is read when the first round asks
/// for it.
pub struct CsvTrainer {
    party: Name,
    path: PathBuf,
    // The rows, as the schema they were read for sees them.
    rows: Option<(Schema, Dataset)>,
}

impl CsvTrainer {
    /// A trainer of `party`, whose name enters the seed of its shuffles, on the file at `path`.
    #[must_use]
    pub fn new(party: Name, path: impl Into<PathBuf>) -> Self {
        Self { party, path: path.into(), rows: None }
    }

    fn vector(&self, round: u32) -> anyhow::Result<Vec<i64>> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_path(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let row = usize::try_from(round)?;
        let record = reader
            .records()
            .nth(row)
            .with_context(|| format!("{} has no line for round {round}", self.path.display()))??;
        let value = |text: &str| {
            text.parse().with_context(|| format!("line {}: {text:?} is no integer", row + 1))
        };
        record.iter().map(value).collect()
    }

    fn rows(&mut self, schema: &Schema) -> anyhow::Result<&Dataset> {
        if self.rows.as_ref().is_none_or(|(known, _)| known != schema) {
            let table = Table::read(&self.path)?;
            let all: Vec<usize> = (0..table.rows()).collect();
            self.rows = Some((schema.clone(), Dataset::new(&table, schema, &all)?));
        }
        self.rows.as_ref().map(|(_, rows)| rows).context("no rows")
    }
}

impl LocalTraining for CsvTrainer {
    fn contribution(
        &mut self,
        job: &Manifest,
        round: u32,
        state: &ModelState,
    ) -> anyhow::Result<Contribution> {
        let Some(schema) = job.workload.schema() else {
            return Ok(Contribution { rows: 1, body: self.vector(round)? });
        };
        let party = self.party.clone();
        let rows = self.rows(schema)?;
        let (workload, code) = (&job.workload, &job.code);
        let (rows, body) = train::contribution(workload, code, state, rows, party.as_str(), round)?;
        Ok(Contribution { rows, body })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_of_integers_per_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vectors.csv");
        fs::write(&path, "1, -2,3\n4,5\n6,x\n").unwrap();
        let trainer = CsvTrainer::new(Name::new("p").unwrap(), &path);
        assert_eq!(trainer.vector(0).unwrap(), [1, -2, 3]);
        assert_eq!(trainer.vector(1).unwrap(), [4, 5]);
        assert!(trainer.vector(2).unwrap_err().to_string().contains("line 3"));
        assert!(trainer.vector(3).unwrap_err().to_string().contains("round 3"));
    }
}
