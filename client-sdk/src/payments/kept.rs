//! Bytes that a machine of a payments job keeps under their hash: evidence, ciphertexts, lists.

use quorate_crypto::merkle::Hash;
use quorate_protocols::pv4fad::{Blobs, Keep};
use tokio::runtime::Handle;

use crate::store::{Batch, Store};

/// Kind of the records, by job and hash.
const KEPT: &str = "payments-kept";

/// What one role keeps of one job. Read on the blocking pool only: reading waits for the store.
#[derive(Clone)]
pub struct Kept {
    store: Store,
    runtime: Handle,
    job: String,
}

impl Kept {
    /// What `store` keeps for `job`. Called within a runtime.
    #[must_use]
    pub fn new(store: &Store, job: &str) -> Self {
        Self { store: store.clone(), runtime: Handle::current(), job: job.to_owned() }
    }

    /// The write that keeps these bytes.
    pub fn put(&self, batch: Batch, keep: &Keep) -> Batch {
        batch.put_record(KEPT, &self.key(&keep.hash), keep.bytes.clone())
    }

    /// The write that erases all of it.
    pub fn erase(&self, batch: Batch) -> Batch {
        batch.del_records(KEPT, &format!("{}/", self.job))
    }

    fn key(&self, hash: &Hash) -> String {
        format!("{}/{hash}", self.job)
    }
}

impl Blobs for Kept {
    fn get(&self, hash: &Hash) -> Option<Vec<u8>> {
        let key = self.key(hash);
        let read = self.store.get_record(KEPT, &key);
        // A store that fails is one that does not have the bytes now: the machine says so.
        self.runtime.block_on(read).inspect_err(|error| tracing::error!(%error, "not read")).ok()?
    }
}
