//! Verified reading of a stored bulk object.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use quorate_crypto::merkle::CHUNK_BYTES;

use super::{Bulk, BulkError};
use crate::store::{Blobs, StoreError};

/// Reads a bulk object; every chunk is checked against its leaf each time.
#[derive(Clone)]
pub struct BulkReader {
    blobs: Blobs,
    namespace: String,
    bulk: Arc<Bulk>,
}

impl BulkReader {
    /// A reader of an object whose chunks are in a namespace.
    #[must_use]
    pub fn new(blobs: &Blobs, namespace: &str, bulk: impl Into<Arc<Bulk>>) -> Self {
        Self { blobs: blobs.clone(), namespace: namespace.to_owned(), bulk: bulk.into() }
    }

    /// Name and leaves of the object.
    #[must_use]
    pub fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Chunk `index`.
    ///
    /// # Errors
    ///
    /// [`BulkError::OutOfRange`]; [`StoreError::NoChunk`] and others of the store.
    pub async fn chunk(&self, index: u64) -> Result<Bytes, BulkError> {
        let leaf = self.bulk.leaf(index)?;
        let chunk = self.blobs.get_chunk(&self.namespace, &leaf).await?;
        if chunk.len() != self.bulk.chunk_len(index)? {
            return Err(StoreError::Damaged(leaf).into());
        }
        Ok(chunk)
    }

    /// Bytes `range` of the object, which the caller holds in memory whole.
    ///
    /// # Errors
    ///
    /// As [`BulkReader::chunk`].
    pub async fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>, BulkError> {
        if range.start > range.end || range.end > self.bulk.info().len {
            return Err(BulkError::OutOfRange);
        }
        let size = CHUNK_BYTES as u64;
        let to_usize = |n: u64| usize::try_from(n).map_err(|_| BulkError::OutOfRange);
        let mut out = Vec::with_capacity(to_usize(range.end - range.start)?);
        let mut at = range.start;
        while at < range.end {
            let chunk = self.chunk(at / size).await?;
            let start = at - at % size;
            let end = range.end.min(start + chunk.len() as u64);
            let part = to_usize(at - start)?..to_usize(end - start)?;
            out.extend_from_slice(chunk.get(part).ok_or(BulkError::OutOfRange)?);
            at = end;
        }
        Ok(out)
    }
}
