//! The demo's faults: a bank that joins late, one that drops out and returns, parties and an aggregator
//! that are killed and started again.

use quorate_client::api::JobStatus;

use super::fleet::Fleet;

/// What happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The bank of this index starts.
    Join(usize),
    /// It is killed.
    Drop(usize),
    /// It starts again.
    Return(usize),
    /// It is killed and started again at once: the job cannot go on without it.
    Restart(usize),
    /// The aggregator is killed and started again.
    Aggregator,
    /// The first authority is killed and started again.
    Authority,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    round: u32,
    what: What,
}

/// What the progress of a job is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unit {
    /// Rounds.
    #[default]
    Round,
    /// Batches of a vertical job, whose rounds are epochs.
    Batch,
    /// Phases of a payments job.
    Phase,
}

impl Unit {
    /// How far a job is.
    const fn of(self, status: &JobStatus) -> u32 {
        match self {
            Self::Round => status.round,
            Self::Batch | Self::Phase => status.opened,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Round => "round",
            Self::Batch => "batch",
            Self::Phase => "phase",
        }
    }
}

/// Faults still to come, in the order of their rounds.
#[derive(Debug, Default)]
pub struct Faults {
    unit: Unit,
    coming: Vec<Fault>,
}

impl Faults {
    /// The faults of a job of `rounds` rounds after the first, that leave at least `floor` of the
    /// banks in every round. The largest bank, the first, always stays.
    #[must_use]
    pub fn plan(banks: usize, floor: usize, rounds: u32) -> Self {
        let mut coming = vec![Fault { round: rounds.div_ceil(2), what: What::Aggregator }];
        let spare = banks.saturating_sub(floor);
        if spare >= 1 && rounds >= 3 {
            let (bank, from) = (banks - 2, rounds / 3);
            coming.push(Fault { round: from, what: What::Drop(bank) });
            coming.push(Fault { round: (2 * rounds / 3).max(from + 1), what: What::Return(bank) });
        }
        if spare >= 2 && rounds >= 2 {
            coming.push(Fault { round: 2, what: What::Join(banks - 1) });
        }
        coming.sort_by_key(|fault| fault.round);
        Self { unit: Unit::Round, coming }
    }

    /// The faults of a vertical job of `batches` batches to train on and parties of which none can be
    /// spared: the party `passive`, the aggregator and the party `holder` are killed and started again.
    #[must_use]
    pub fn vertical(passive: usize, holder: usize, batches: u32) -> Self {
        let at = |quarters: u32| (quarters * batches).div_ceil(4).max(quarters);
        let what = [What::Restart(passive), What::Aggregator, What::Restart(holder)];
        let coming = (1..).zip(what).map(|(quarter, what)| Fault { round: at(quarter), what });
        Self { unit: Unit::Batch, coming: coming.collect() }
    }

    /// The faults of a payments job: the bank `lost` is killed for good when it holds its list of rows,
    /// the aggregator while letters wait, and the authority when it has added up.
    #[must_use]
    pub fn payments(lost: Option<usize>) -> Self {
        let drop = lost.map(|bank| Fault { round: 2, what: What::Drop(bank) });
        let services =
            [Fault { round: 3, what: What::Aggregator }, Fault { round: 4, what: What::Authority }];
        Self { unit: Unit::Phase, coming: drop.into_iter().chain(services).collect() }
    }

    /// Whether this bank is not there at the start.
    #[must_use]
    pub fn is_late(&self, bank: usize) -> bool {
        self.coming.iter().any(|fault| fault.what == What::Join(bank))
    }

    /// How many have not happened.
    #[must_use]
    pub fn left(&self) -> usize {
        self.coming.len()
    }

    /// Makes happen what is due, and says it in sentences.
    ///
    /// # Errors
    /// When a process does not start again.
    pub async fn step(
        &mut self,
        status: &JobStatus,
        fleet: &mut Fleet,
    ) -> anyhow::Result<Vec<String>> {
        let mut said = Vec::new();
        let (unit, at) = (self.unit, self.unit.of(status));
        let due = |fault: &Fault| fault.due(unit, at, status);
        while let Some(fault) = self.coming.first().copied().filter(due) {
            self.coming.remove(0);
            said.push(format!("{} in {} {at}", fault.happen(fleet).await?, unit.name()));
        }
        Ok(said)
    }
}

impl Fault {
    /// Kills come in the middle of a round: the aggregator's once it holds a submission.
    fn due(&self, unit: Unit, at: u32, status: &JobStatus) -> bool {
        let moment = match self.what {
            What::Join(_) | What::Return(_) | What::Restart(_) | What::Authority => true,
            What::Drop(_) => unit == Unit::Phase || status.phase == "Collecting",
            What::Aggregator => !status.submitted.is_empty(),
        };
        at >= self.round && moment
    }

    async fn happen(self, fleet: &mut Fleet) -> anyhow::Result<String> {
        let Fleet { banks, aggregator, authorities, .. } = fleet;
        let (service, did) = match self.what {
            What::Join(bank) => (banks.get_mut(bank), "joins late"),
            What::Drop(bank) => (banks.get_mut(bank), "drops out (SIGKILL)"),
            What::Return(bank) => (banks.get_mut(bank), "returns"),
            What::Restart(bank) => (banks.get_mut(bank), "is killed (SIGKILL) and started again"),
            What::Aggregator => (Some(aggregator), "is killed (SIGKILL) and started again"),
            What::Authority => (authorities.first_mut(), "is killed (SIGKILL) and started again"),
        };
        let Some(service) = service else {
            anyhow::bail!("a fault is planned for a bank that does not exist");
        };
        match self.what {
            What::Join(_) | What::Return(_) => service.start().await?,
            What::Drop(_) => service.kill(),
            What::Restart(_) | What::Aggregator | What::Authority => service.restart().await?,
        }
        Ok(format!("{} {did}", service.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_keep_the_floor_and_fit_the_rounds() {
        for banks in 3..8 {
            for rounds in 1..20 {
                let plan = Faults::plan(banks, 3, rounds);
                let late = (0..banks).filter(|bank| plan.is_late(*bank)).count();
                let mut away = late;
                for fault in &plan.coming {
                    assert!((1..=rounds).contains(&fault.round), "{banks} {rounds} {plan:?}");
                    match fault.what {
                        What::Join(_) | What::Return(_) => away -= 1,
                        What::Drop(_) => away += 1,
                        What::Restart(_) | What::Aggregator | What::Authority => {}
                    }
                    assert!(banks - away >= 3, "{banks} {rounds} {plan:?}");
                }
                assert_eq!(away, 0, "{banks} {rounds} {plan:?}");
            }
        }
        assert_eq!(Faults::plan(5, 3, 15).left(), 4);
        assert_eq!(Faults::plan(3, 3, 15).left(), 1);
    }

    #[test]
    fn faults_of_a_vertical_job_come_one_after_another() {
        let at = |batches| -> Vec<u32> {
            Faults::vertical(2, 0, batches).coming.iter().map(|fault| fault.round).collect()
        };
        assert_eq!(at(90), [23, 45, 68]);
        assert_eq!(at(4), [1, 2, 3]);
        assert_eq!(at(1), [1, 2, 3]);
    }
}
