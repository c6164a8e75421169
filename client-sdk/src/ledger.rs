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
