//! A bulk object that is arriving.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_crypto::merkle::Hash;

use super::writer::hash_chunk;
use super::{Bulk, BulkError, BulkReader};
use crate::store::Blobs;

/// Collects the chunks of an object in any order; clones share the progress.
///
/// The caller stores [`Bulk::to_record`] before the first chunk and opens the spool again from it
/// after a restart: which chunks have arrived is read off the disk.
#[derive(Clone)]
pub struct Spool {
    blobs: Blobs,
    namespace: String,
    bulk: Arc<Bulk>,
    // One flag per chunk, set once the chunk is durable.
    present: Arc<Mutex<Vec<bool>>>,
}

impl Spool {
    /// Opens the spool of an object in a namespace.
    ///
    /// # Errors
    ///
    /// Failures of the store.
    pub async fn open(
        blobs: &Blobs,
        namespace: &str,
        bulk: impl Into<Arc<Bulk>>,
    ) -> Result<Self, BulkError> {
        let bulk = bulk.into();
        let mut seen: HashMap<Hash, bool> = HashMap::new();
        let mut present = Vec::with_capacity(bulk.leaves().len());
        for (index, leaf) in (0u64..).zip(bulk.leaves()) {
            // One leaf hash belongs to one length: the leaf list was checked for a short last chunk
            // that claims to equal a full one, and what an earlier object left is measured.
            let there = match seen.get(leaf) {
                Some(there) => *there,
                None => blobs.has_chunk(namespace, leaf, bulk.chunk_len(index)?).await?,
            };
            seen.insert(*leaf, there);
            present.push(there);
        }
        if present.contains(&true) {
            blobs.sync_namespace(namespace).await?;
        }
        Ok(Self {
            blobs: blobs.clone(),
            namespace: namespace.to_owned(),
            bulk,
            present: Arc::new(Mutex::new(present)),
        })
    }

    /// Name and leaves of the object.
    #[must_use]
    pub fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Stores chunk `index` after checking length and hash; a chunk that is there is accepted
    /// again without a look at it. On the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`BulkError::OutOfRange`], [`BulkError::ChunkLength`], [`BulkError::WrongChunk`], failures
    /// of the store.
    pub async fn put(&self, index: u64, chunk: Bytes) -> Result<(), BulkError> {
        let (expected, leaf) = (self.bulk.chunk_len(index)?, self.bulk.leaf(index)?);
        if chunk.len() != expected {
            let (found, expected) = (chunk.len() as u64, expected as u64);
            return Err(BulkError::ChunkLength { index, found, expected });
        }
        if self.has(index) {
            return Ok(());
        }
        if hash_chunk(chunk.clone()).await? != leaf {
            return Err(BulkError::WrongChunk { index });
        }
        self.blobs.put_chunk(&self.namespace, &leaf, chunk).await?;
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        for (flag, other) in present.iter_mut().zip(self.bulk.leaves()) {
            *flag |= *other == leaf;
        }
        Ok(())
    }

    /// Whether chunk `index` has arrived.
    #[must_use]
    pub fn has(&self, index: u64) -> bool {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(index).ok().and_then(|i| present.get(i)).copied().unwrap_or(false)
    }

    /// The first `limit` half-open ranges of chunks that have not arrived.
    #[must_use]
    pub fn missing(&self, limit: usize) -> Vec<(u64, u64)> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (index, _) in (0u64..).zip(present.iter()).filter(|(_, there)| !**there) {
            if let Some((_, end)) = ranges.last_mut().filter(|(_, end)| *end == index) {
                *end += 1;
            } else if ranges.len() < limit {
                ranges.push((index, index + 1));
            } else {
                break;
            }
        }
        ranges
    }

    /// A reader, once every chunk has arrived and is on the disk.
    #[must_use]
    pub fn complete(&self) -> Option<BulkReader> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = || BulkReader::new(&self.blobs, &self.namespace, Arc::clone(&self.bulk));
        present.iter().all(|there| *there).then(reader)
    }
}
