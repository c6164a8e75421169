//! One computation at a time for a functional key or a post of a threshold key: an aggregator that
//! lost patience asks again while the first is still under way.

use std::sync::{Arc, PoisonError};

use quorate_crypto::merkle::Hash;

use super::Authority;

/// A place in the queue for one result, by a hash that names it; the last to leave, however it ends,
/// removes the queue.
pub(super) struct Turn<'a> {
    authority: &'a Authority,
    what: Hash,
    pub(super) lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    pub(super) fn of(authority: &'a Authority, what: Hash) -> Self {
        let mut computing = authority.computing.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(computing.entry(what).or_default());
        Self { authority, what, lock }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut computing = self.authority.computing.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and this one: nobody else waits, and nobody can join while the map is locked.
        if Arc::strong_count(&self.lock) == 2 {
            computing.remove(&self.what);
        }
    }
}
