//! Building a bulk object from a stream of bytes.

use bytes::{Bytes, BytesMut};
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, leaf_hash, root};

use super::{Bulk, BulkError, BulkInfo};
use crate::store::{Blobs, StoreError};

/// Cuts a stream of bytes into chunks and stores each; holds at most one chunk in memory.
pub struct BulkWriter {
    blobs: Blobs,
    namespace: String,
    buffer: BytesMut,
    leaves: Vec<Hash>,
    len: u64,
}

impl BulkWriter {
    /// A writer of a new object into a namespace.
    #[must_use]
    pub fn new(blobs: &Blobs, namespace: &str) -> Self {
        Self {
            blobs: blobs.clone(),
            namespace: namespace.to_owned(),
            buffer: BytesMut::new(),
            leaves: Vec::new(),
            len: 0,
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// Failures of the store.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BulkError> {
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(CHUNK_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == CHUNK_BYTES {
                self.flush().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Stores the last chunk and names the object; every chunk is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// Failures of the store.
    pub async fn finish(mut self) -> Result<Bulk, BulkError> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        let info = BulkInfo { len: self.len, root: root(&self.leaves) };
        Ok(Bulk { info, leaves: self.leaves })
    }

    async fn flush(&mut self) -> Result<(), BulkError> {
        let chunk = self.buffer.split().freeze();
        self.len += chunk.len() as u64;
        let leaf = hash_chunk(chunk.clone()).await?;
        self.blobs.put_chunk(&self.namespace, &leaf, chunk).await?;
        self.leaves.push(leaf);
        Ok(())
    }
}

/// Hashes on the blocking pool: a chunk takes half a millisecond or more.
pub(super) async fn hash_chunk(chunk: Bytes) -> Result<Hash, StoreError> {
    tokio::task::spawn_blocking(move || leaf_hash(&chunk))
        .await
        .map_err(|_| StoreError::Interrupted)
}
