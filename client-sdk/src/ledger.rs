//! The ledgers of a store: one record for each data set, changed in the commit that a charge belongs
//! to.

use quorate_protocols::machine::Output;
use quorate_protocols::policy::{Charge, Ledger, Spent};
use quorate_protocols::refusal::Refusal;
use quorate_protocols::wire::{Name, decode, encode};
use tokio::sync::{Mutex, MutexGuard};

use crate::store::{Batch, Store, StoreError};

/// Kind of the records that hold ledgers, by data set.
const LEDGER: &str = "ledger";

/// All ledgers of one store.
#[derive(Debug, Default)]
pub struct Ledgers {
    /// Two jobs may charge one data set at the same time.
    turn: Mutex<()>,
    /// The most epsilon that any data set may spend here, whatever its jobs say.
    limit: Option<f64>,
    /// Keeps all accounts under this name, whatever data set a job names.
    data_set: Option<Name>,
}

/// Why a step was not charged.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The budget is spent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The turn of one step: held until its batch is committed.
#[derive(Debug)]
pub struct Turn<'a>(#[expect(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl Ledgers {
    /// Ledgers with an owner's own limit, and the owner's own name for its data.
    #[must_use]
    pub fn new(limit: Option<f64>, data_set: Option<Name>) -> Self {
        Self { turn: Mutex::default(), limit, data_set }
    }

    /// The owner's own limit.
    #[must_use]
    pub const fn limit(&self) -> Option<f64> {
        self.limit
    }

    fn key(&self, charge: &Charge) -> Name {
        self.data_set.clone().unwrap_or_else(|| charge.noise.data_set.clone())
    }

    /// Applies the charges and refunds among `outputs`: the changed ledgers join `batch`, which must
    /// be committed while the turn is held. `None` when there was nothing to do.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] when a budget would be passed: then nothing may be committed.
    pub async fn settle<M: Sync, W: Sync>(
        &self,
        store: &Store,
        outputs: &[Output<M, W>],
        mut batch: Batch,
    ) -> Result<(Batch, Option<Turn<'_>>), LedgerError> {
        let concerned =
            |output: &&Output<M, W>| matches!(output, Output::Charge(_) | Output::Refund(_));
        if !outputs.iter().any(|output| concerned(&output)) {
            return Ok((batch, None));
        }
        let turn = self.turn.lock().await;
        for output in outputs.iter().filter(concerned) {
            let (Output::Charge(charge) | Output::Refund(charge)) = output else {
                continue;
            };
            let name = self.key(charge);
            let mut ledger = load(store, &name).await?;
            match output {
                Output::Charge(_) => ledger.charge(charge, self.limit)?,
                _ => ledger.refund(&charge.job, charge.round),
            }
            batch = batch.put_record(LEDGER, name.as_str(), encode(&ledger));
        }
        Ok((batch, Some(Turn(turn))))
    }

    /// Whether a charge could be taken now, so that work for a refused one is not begun.
    ///
    /// # Errors
    /// As [`Ledgers::settle`].
    pub async fn check(&self, store: &Store, charge: &Charge) -> Result<(), LedgerError> {
        let mut ledger = load(store, &self.key(charge)).await?;
        Ok(ledger.charge(charge, self.limit)?)
    }

    /// What was spent on each data set, at `delta`.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn spent(store: &Store, delta: f64) -> Result<Vec<Spent>, StoreError> {
        let records = store.list_records(LEDGER, "").await?;
        let read = |(name, bytes): (String, Vec<u8>)| {
            let name = Name::new(&name).map_err(|_| StoreError::BadNumber)?;
            Ok(parse(&bytes)?.spent(name, delta))
        };
        records.into_iter().map(read).collect()
    }
}

async fn load(store: &Store, name: &Name) -> Result<Ledger, StoreError> {
    match store.get_record(LEDGER, name.as_str()).await? {
        Some(bytes) => parse(&bytes),
        None => Ok(Ledger::default()),
    }
}

fn parse(bytes: &[u8]) -> Result<Ledger, StoreError> {
    decode(bytes).map_err(|_| StoreError::BadNumber)
}

#[cfg(test)]
mod tests {
    use quorate_crypto::merkle::Hash;
    use quorate_protocols::policy::{Mechanism, NoiseSpec, Unit};
    use quorate_protocols::refusal::Code;

    use super::*;

    type Out = Output<(), ()>;

    /// Epsilon of `rounds` rounds of `charge`, by the job's own arithmetic.
    fn epsilon(rounds: u32) -> f64 {
        charge(0, 0, 1.0).noise.epsilon_of(rounds)
    }

    fn charge(job: u8, round: u32, epsilon: f64) -> Charge {
        let noise = NoiseSpec {
            unit: Unit::Record,
            mechanism: Mechanism::Gaussian,
            multiplier: 20.0,
            clip: 1.0,
            epsilon,
            delta: 1e-6,
            data_set: Name::new(if job.is_multiple_of(2) { "even" } else { "odd" }).unwrap(),
        };
        Charge { job: Hash([job; 32]), round, noise }
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        (dir, store)
    }

    /// Settles and commits, as a driver does.
    async fn settle(ledgers: &Ledgers, store: &Store, outputs: &[Out]) -> Result<(), Refusal> {
        match ledgers.settle(store, outputs, Batch::new()).await {
            Ok((batch, turn)) => {
                store.commit(batch).await.unwrap();
                drop(turn);
                Ok(())
            }
            Err(LedgerError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    async fn rounds(store: &Store) -> Vec<(String, u64)> {
        let spent = Ledgers::spent(store, 1e-6).await.unwrap();
        spent.iter().map(|s| (s.data_set.to_string(), s.rounds)).collect()
    }

    #[tokio::test]
    async fn a_budget_is_spent_once_and_stays_spent() {
        let (dir, store) = store().await;
        // Room for two rounds and not for three.
        let limit = (epsilon(2) + epsilon(3)) / 2.0;
        let ledgers = Ledgers::new(Some(limit), Some(Name::new("mine").unwrap()));
        for round in [0, 1, 1, 0] {
            let step = [Out::Charge(charge(1, round, 1e6))];
            settle(&ledgers, &store, &step).await.unwrap();
        }
        let past = charge(2, 0, 1e6);
        let refused = ledgers.check(&store, &past).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Refused(r) if r.code == Code::BudgetSpent));
        let refused = settle(&ledgers, &store, &[Out::Charge(past.clone())]).await.unwrap_err();
        assert_eq!(refused.code, Code::BudgetSpent);
        assert_eq!(rounds(&store).await, [("mine".to_owned(), 2)]);
        // A restart changes nothing, and a larger limit of the owner's frees only what it adds.
        store.close().await;
        let store = Store::open(dir.path()).await.unwrap();
        let ledgers = Ledgers::new(Some(limit), Some(Name::new("mine").unwrap()));
        assert!(settle(&ledgers, &store, &[Out::Charge(past.clone())]).await.is_err());
        assert!(ledgers.check(&store, &charge(1, 1, 1e6)).await.is_ok(), "charged before");
        let spent = Ledgers::spent(&store, 1e-6).await.unwrap();
        assert!((spent[0].zcdp - epsilon(2)).abs() < 1e-9);
        // The job's own epsilon binds where the owner sets none.
        let open = Ledgers::new(None, Some(Name::new("mine").unwrap()));
        assert!(open.check(&store, &charge(2, 0, limit)).await.is_err());
        assert!(open.check(&store, &charge(2, 0, epsilon(3) * 1.001)).await.is_ok());
    }

    #[tokio::test]
    async fn a_refund_makes_room_again() {
        let (_dir, store) = store().await;
        let ledgers = Ledgers::new(Some((epsilon(1) + epsilon(2)) / 2.0), None);
        settle(&ledgers, &store, &[Out::Charge(charge(1, 0, 1e6))]).await.unwrap();
        assert!(settle(&ledgers, &store, &[Out::Charge(charge(3, 0, 1e6))]).await.is_err());
        // Another data set has an account of its own.
        settle(&ledgers, &store, &[Out::Charge(charge(2, 0, 1e6))]).await.unwrap();
        settle(&ledgers, &store, &[Out::Refund(charge(1, 0, 1e6))]).await.unwrap();
        settle(&ledgers, &store, &[Out::Charge(charge(3, 0, 1e6))]).await.unwrap();
        assert_eq!(rounds(&store).await, [("even".to_owned(), 1), ("odd".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn jobs_at_once_share_one_account() {
        let (_dir, store) = store().await;
        let ledgers = Ledgers::new(Some((epsilon(5) + epsilon(6)) / 2.0), None);
        let steps = (0..10).map(|job: u8| {
            let (ledgers, store) = (&ledgers, &store);
            async move {
                let step = [Out::Charge(charge(2 * job, 0, 1e6))];
                settle(ledgers, store, &step).await.is_ok()
            }
        });
        let taken = futures_util::future::join_all(steps).await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 5);
        assert_eq!(rounds(&store).await, [("even".to_owned(), 5)]);
    }
}
